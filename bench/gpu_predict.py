"""Prediction on a GPU by nnx, PyTorch and JAX: a NumPy array in and a new one out, so both ways count.

gpu_peers.py races them. The networks, weights and inputs are those of inference.py.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from inference import KEPT, PREDICT, inputs, nnx_peer, turns, weights
from race import Run


def nnx_predict(case: str) -> Run:
    return nnx_peer(case, "cupy", 0)


def torch_predict(case: str, device: str, compiled: bool, **options: Any) -> Run:
    """options: of torch.compile."""
    import torch

    KEPT.append(torch.inference_mode())
    KEPT[-1].__enter__()  # for as long as this process lives
    layers: list[Any] = []
    for a, b in pairwise(PREDICT[case][1]):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1))
    for number, w in enumerate(weights(case)):
        model[2 * number].weight.copy_(torch.from_numpy(w.T.copy()))
        model[2 * number].bias.zero_()
    model = model.eval().to(device)
    forward = torch.compile(model, **options) if compiled else model
    return turns(lambda x: forward(torch.from_numpy(x).to(device)).cpu().numpy(), [(x,) for x in inputs(case)])


def jax_predict(case: str, device: str) -> Run:
    import jax
    import jax.numpy as jnp

    with jax.default_device(jax.devices(device)[0]):
        parameters = [(jnp.asarray(w), jnp.zeros(w.shape[1], jnp.float32)) for w in weights(case)]

    def predict(x: Any) -> Any:
        for w, b in parameters[:-1]:
            x = jnp.maximum(x @ w + b, 0)
        return jax.nn.softmax(x @ parameters[-1][0] + parameters[-1][1])

    compiled = jax.jit(predict)
    return turns(lambda x: np.asarray(compiled(x)), [(x,) for x in inputs(case)])
