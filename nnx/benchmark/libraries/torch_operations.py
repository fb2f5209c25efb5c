"""PyTorch's operations: of each the one call that does all of it, where there is one.

Gradients are the kernels that its own backward pass runs, and optimizers are fused where it has that for CPUs too: so
writes them whoever wants to know how fast it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.benchmark.operations import HYPER
from nnx.kernels.elementwise import NAMES

Call = Callable[..., Any]
KINDS = (
    "dense", "dense_backward", *NAMES, *(f"{name}_backward" for name in NAMES), "softmax", "softmax_backward",
    "cross_entropy", "softmax_cross_entropy", "mean_squared_error", "mean_squared_error_backward", "gather_rows",
    *HYPER,
)  # fmt: skip
RESULTS = {
    "dense_backward": ("dw", "db", "out"), "softmax_cross_entropy": ("losses", "out"), "sgd": ("p", "m"),
    "adagrad": ("p", "v"), "rmsprop": ("p", "v"), "adam": ("p", "m", "v"),
}  # fmt: skip
STATES = {
    "sgd": ("momentum_buffer",),
    "adagrad": ("sum",),
    "rmsprop": ("square_avg",),
    "adam": ("exp_avg", "exp_avg_sq"),
}
MEAN = 1  # what a loss's gradient is of


def formulas(device: str) -> dict[str, Call]:
    """Return what computes an operation, by its name, of its operands."""
    import torch

    F, aten = torch.nn.functional, torch.ops.aten
    leaky, elu, gelu = aten.leaky_relu_backward.default, aten.elu_backward.default, aten.gelu_backward.default
    threshold, sigmoid, tanh = (
        aten.threshold_backward.default,
        aten.sigmoid_backward.default,
        aten.tanh_backward.default,
    )
    silu, softplus, mish = aten.silu_backward.default, aten.softplus_backward.default, aten.mish_backward.default
    error, one = aten.mse_loss_backward.default, torch.ones((), device=device)
    return {
        "dense": lambda x, w, b: torch.addmm(b, x, w),
        "dense_backward": lambda x, w, dy: (x.T @ dy, dy.sum(0, keepdim=True), dy @ w.T),
        "relu": lambda x: x.relu(),
        "sigmoid": lambda x: x.sigmoid(),
        "tanh": lambda x: x.tanh(),
        "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
        "elu": lambda x: F.elu(x),
        "gelu": lambda x: F.gelu(x),
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": lambda x: F.silu(x),
        "softplus": lambda x: F.softplus(x),
        "mish": lambda x: F.mish(x),
        "relu_backward": lambda y, dy: threshold(dy, y, 0),
        "sigmoid_backward": lambda y, dy: sigmoid(dy, y),
        "tanh_backward": lambda y, dy: tanh(dy, y),
        "leaky_relu_backward": lambda y, dy: leaky(dy, y, 0.01, True),
        "elu_backward": lambda y, dy: elu(dy, 1.0, 1.0, 1.0, True, y),
        "gelu_backward": lambda x, dy: gelu(dy, x),
        "gelu_tanh_backward": lambda x, dy: gelu(dy, x, approximate="tanh"),
        "silu_backward": lambda x, dy: silu(dy, x),
        "softplus_backward": lambda x, dy: softplus(dy, x, 1.0, 20.0),
        "mish_backward": lambda x, dy: mish(dy, x),
        "softmax": lambda x: x.softmax(1),
        "softmax_backward": lambda y, dy: y * (dy - (y * dy).sum(1, keepdim=True)),
        "cross_entropy": lambda p, target: p.gather(1, target[:, None]).clamp(1e-7, 1 - 1e-7).log().neg().squeeze(1),
        "mean_squared_error": lambda prediction, target: F.mse_loss(prediction, target, reduction="none").mean(1),
        "mean_squared_error_backward": lambda prediction, target: error(one, prediction, target, MEAN),
        "gather_rows": lambda source, order: source.index_select(0, order[: len(source) // 8]),
    }


def given(kind: str, operands: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a formula takes of an operation's operands."""
    if kind == "softplus_backward":  # it goes by the input, which its backward pass has
        return operands["y"].double().expm1().log().float(), operands["dy"]
    return tuple(operands.values())


def softmax_cross_entropy(logits: Any, target: Any) -> Call:
    """Return the loss of each row with the gradient of their mean."""
    import torch

    logits.requires_grad_(True)

    def call() -> Any:
        losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        (gradient,) = torch.autograd.grad(losses.mean(), logits)
        return losses, gradient

    return call


def optimizer(kind: str, p: Any, g: Any, **states: Any) -> Call:
    """Return a step of an optimizer, which has the states as its own arrays."""
    import torch

    rate, _decay, beta_1, beta_2, epsilon, _weight_decay = HYPER[kind]
    parameter = torch.nn.Parameter(p)
    parameter.grad = g
    on_cpu = p.device.type == "cpu"
    made: Any = {
        "sgd": lambda: torch.optim.SGD([parameter], rate, beta_1, fused=True),
        "adagrad": lambda: torch.optim.Adagrad([parameter], rate, eps=epsilon, fused=on_cpu),
        "rmsprop": lambda: torch.optim.RMSprop([parameter], rate, beta_1, epsilon),
        "adam": lambda: torch.optim.Adam([parameter], rate, (beta_1, beta_2), epsilon, fused=True),
    }[kind]()
    own = [states[name] for name in RESULTS[kind][1:]]
    if kind == "sgd":  # its momentum is of gradients, nnx's of steps
        own[0].div_(-rate)
    made.state[parameter] = {
        "step": torch.zeros((), device=p.device if kind == "adam" else None),
        **dict(zip(STATES[kind], own, strict=True)),
    }

    def call() -> Any:
        made.step()
        return parameter, *own

    return call
