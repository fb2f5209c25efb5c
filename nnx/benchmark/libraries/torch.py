"""PyTorch: eager, with its optimizers fused, and under torch.compile; on a GPU too."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from nnx.benchmark.libraries import Absent, Ready, repeated, taking_turns
from nnx.benchmark.libraries import torch_operations as operations
from nnx.benchmark.networks import BETA_1, BETA_2, CHECKED, EPSILON, MOMENTUM, RATE, Many, Network
from nnx.benchmark.operations import HYPER, OPERATIONS
from nnx.benchmark.workloads import FROM_HOST, MANY

Finish = Callable[[Any], Any]


def prepare(workload: Any, how: str, device: str) -> Ready:
    """Get a workload ready.

    Args:
        workload: what is measured.
        how: "eager"; "fused", the same steps with a fused optimizer; "compile", "reduce-overhead"; or "kernel", for
            softmax's gradient alone.
        device: "cpu" or "cuda".
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise Absent("this PyTorch sees no GPU")
    if device == "cuda" and os.environ.get("NNX_PRECISION") == "bf16":
        raise Absent("is not measured in bf16")
    torch.set_num_threads(int(os.environ["NNX_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = os.environ.get("NNX_PRECISION") == "tf32"
    if workload.kind == "step":
        ready = _step(workload.what, how, device)
    elif workload.kind == MANY and how.startswith("vmap"):
        ready = _many(workload.what, _finish(how.removeprefix("vmap").strip() or "eager"), device)
    elif workload.kind == "predict":
        ready = _predict(workload.what, _finish(how), device)
    elif workload.kind == "evaluate":
        ready = _evaluate(workload.what, _finish(how), device)
    elif workload.kind in operations.KINDS:
        ready = _operation(workload.kind, workload.what, how, device)
    else:
        raise Absent("is not measured here")
    return _on_gpu(ready) if device == "cuda" and workload.kind not in FROM_HOST else ready


def held() -> int:
    """Return how many bytes PyTorch has taken at most."""
    import torch

    return int(torch.cuda.max_memory_reserved())


def _finish(how: str) -> Finish:
    import torch

    if how in ("eager", "fused", "kernel"):
        return lambda function: function
    return lambda function: torch.compile(function, mode=None if how == "compile" else how)


def _on_gpu(ready: Ready) -> Ready:
    """Let the GPU's own clock count, and wait until it is done."""
    import torch

    enqueue = ready.run

    def run(times: int) -> None:
        enqueue(times)
        torch.cuda.synchronize()

    def timed(times: int) -> float:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        enqueue(times)
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    return Ready(run, ready.results, ready.how, ready.turns, timed)


# ---- networks --------------------------------------------------------------------------------------------------------


def _build(network: Network, device: str) -> Any:
    """Return the network up to its logits."""
    import torch

    layers: list[Any] = []
    for a, b in pairwise(network.widths):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for number, weights in enumerate(network.weights()):
            model[2 * number].weight.copy_(torch.from_numpy(weights.T.copy()))
            model[2 * number].bias.zero_()
    return model.to(device)


def _batches(network: Network, device: str) -> list[tuple[Any, Any]]:
    import torch

    x, y = (torch.from_numpy(a).to(device).chunk(network.turns) for a in network.batches())
    return [(each.clone(), labels.clone()) for each, labels in zip(x, y, strict=True)]


def _step(network: Network, how: str, device: str) -> Ready:
    """Get whole steps ready: forward, loss, backward and optimizer.

    Under torch.compile on a GPU all of it is compiled. On a CPU the optimizer isn't: its own fused kernel is quicker.
    """
    import torch

    model, batches, finish = _build(network, device), _batches(network, device), _finish(how)
    whole = device == "cuda" and how not in ("eager", "fused")
    fused = not whole and (device == "cuda" or how != "eager")
    if network.optimizer == "adam":
        faster = {"capturable": True} if whole else {"fused": fused or None}
        optimizer: Any = torch.optim.Adam(model.parameters(), RATE, (BETA_1, BETA_2), EPSILON, **faster)
    else:
        optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, fused=fused or None)
    loss_of = torch.nn.CrossEntropyLoss()
    lower = torch.autocast("cpu", torch.bfloat16, device == "cpu" and os.environ.get("NNX_PRECISION") == "bf16")

    def forward(x: Any, y: Any) -> Any:
        with lower:
            return loss_of(model(x), y)

    finished = forward if whole else finish(forward)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = finished(x, y)
        loss.backward()
        optimizer.step()
        return loss

    step = finish(step) if whole else step
    losses = [float(step(*batches[number % network.turns]).detach()) for number in range(CHECKED)]
    parameters = np.concatenate([p.detach().cpu().numpy().T.ravel() for p in model.parameters()])
    run, turns = taking_turns(step, batches)
    return Ready(run, {"losses": np.array(losses), "parameters": parameters}, "", turns)


def _many(many: Many, finish: Finish, device: str) -> Ready:
    """Get steps of many networks ready: an ensemble of stacked parameters, by torch.func.vmap."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    models = [_build(network, device) for network in many.networks()]
    parameters, buffers = stack_module_state(models)
    like, [(x, y)] = _build(many.network, device).to("meta"), _batches(many.network, device)
    loss_of = torch.nn.CrossEntropyLoss()

    def loss(parameters: Any, buffers: Any, x: Any, y: Any) -> Any:
        return loss_of(functional_call(like, (parameters, buffers), (x,)), y)

    each = finish(vmap(grad_and_value(loss), in_dims=(0, 0, None, None)))
    optimizer = torch.optim.Adam(parameters.values(), RATE, (BETA_1, BETA_2), EPSILON, fused=True)

    def step() -> Any:
        gradients, losses = each(parameters, buffers, x, y)
        for name, value in parameters.items():
            value.grad = gradients[name]
        optimizer.step()
        return losses

    losses = np.stack([step().detach().cpu().numpy() for _ in range(CHECKED)])
    ends = [value[i].detach().cpu().numpy().T.ravel() for i in range(many.count) for value in parameters.values()]
    return Ready(repeated(step), {"losses": losses.T.ravel(), "parameters": np.concatenate(ends)})


def _predict(network: Network, finish: Finish, device: str) -> Ready:
    """Get prediction ready: tensors in and out; with a GPU they come from the host and go back there, as nnx's do."""
    import torch

    model = finish(torch.nn.Sequential(_build(network, device), torch.nn.Softmax(dim=1)).eval())
    call: Any = model if device == "cpu" else lambda x: model(x.to(device)).cpu()
    inputs = [(x,) for x, _ in _batches(network, "cpu")]
    with torch.inference_mode():
        outputs = np.concatenate([call(x).numpy() for (x,) in inputs])
    run, turns = taking_turns(call, inputs)
    return Ready(_without_gradients(run), {"out": outputs}, "", turns)


def _evaluate(network: Network, finish: Finish, device: str) -> Ready:
    """Get evaluation ready: tensors in, of the host, and Python's numbers out."""
    import torch

    model = _build(network, device).eval()

    def scores(x: Any, y: Any) -> Any:
        logits = model(x)
        return torch.nn.functional.cross_entropy(logits, y), (logits.argmax(1) == y).float().mean()

    finished = finish(scores)

    def evaluate(x: Any, y: Any) -> tuple[float, float]:
        loss, accuracy = finished(x, y) if device == "cpu" else finished(x.to(device), y.to(device))
        return loss.item(), accuracy.item()

    batches = _batches(network, "cpu")
    with torch.inference_mode():
        results = np.array([evaluate(*batch) for batch in batches])
    run, turns = taking_turns(evaluate, batches)
    return Ready(_without_gradients(run), {"scores": results}, "", turns)


def _without_gradients(run: Callable[[int], Any]) -> Callable[[int], Any]:
    import torch

    def within(times: int) -> None:
        with torch.inference_mode():
            run(times)

    return within


# ---- operations ------------------------------------------------------------------------------------------------------


def _operation(kind: str, shape: tuple[int, ...], how: str, device: str) -> Ready:
    import torch

    operands = {
        name: torch.from_numpy(value.copy()).to(device)
        for name, value in OPERATIONS[kind].operands(*shape).items()
        if isinstance(value, np.ndarray) and name not in ("hyper", "counters")
    }
    differentiates = kind == "softmax_cross_entropy"
    if how == "kernel":
        call: Any = lambda: torch._softmax_backward_data(operands["dy"], operands["y"], 1, torch.float32)  # noqa: E731
    elif kind in HYPER:
        call = operations.optimizer(kind, **operands)
    elif differentiates:
        call = operations.softmax_cross_entropy(**operands)
    else:
        formula, given = _finish(how)(operations.formulas(device)[kind]), operations.given(kind, operands)
        call = lambda: formula(*given)  # noqa: E731
    with torch.set_grad_enabled(differentiates):
        outputs = call()
        results = {
            name: value.detach().cpu().numpy().copy()
            for name, value in zip(
                operations.RESULTS.get(kind, ("out",)),
                outputs if isinstance(outputs, tuple) else (outputs,),
                strict=True,
            )
        }
    if kind == "sgd":
        results["m"] *= -HYPER["sgd"][0]
    run = repeated(call)
    return Ready(run if differentiates or kind in HYPER else _without_gradients(run), results)
