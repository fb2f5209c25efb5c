"""Validation of a player's results before it is measured: every number must agree with NumPy in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnx.benchmark.libraries.notes import Training
from nnx.benchmark.operations import OPERATIONS, expected, normal, tolerance_class
from nnx.benchmark.workloads import TRAINING, Workload
from nnx.testing.compare import CLASS, compare
from nnx.testing.reference.results import Wanted

LOSS = 2e-3  # relative difference of a loss, in float32
PATH = 3e-2  # error of parameters, relative to how far they moved
CLOSE = 1e-4  # absolute difference of a probability
TIES = 1e-3  # share of samples whose two largest outputs differ by no more than rounding
OTHERS = 3.0  # factor of tolerance for other libraries: two of them add Adam's epsilon elsewhere
# How many times all of that, by the precision of products.
SLACK = {"full": 1.0, "tf32": 10.0, "bf16": 40.0, "bf16x3": 2.0}


def reference(workload: Workload) -> dict[str, Wanted]:
    """Return the correct first results of a workload by name, computed by NumPy in float64."""
    if workload.kind in TRAINING:
        all_of = [Training(network, "float64") for network in workload.what.networks()]
        layers = [layer for training in all_of for layer in training.dense]
        start = np.concatenate([a.ravel() for layer in layers for a in (layer.weights, layer.biases)])
        found = [training.first_steps() for training in all_of]
        results = {name: Wanted(np.concatenate([each[name] for each in found])) for name in found[0]}
        results["start"] = Wanted(start)
        return results
    if workload.kind == "predict":
        return {name: Wanted(value) for name, value in Training(workload.what, "float64").predictions().items()}
    if workload.kind == "evaluate":
        return {name: Wanted(value) for name, value in Training(workload.what, "float64").evaluations().items()}
    if workload.kind in OPERATIONS:
        return expected(workload.kind, workload.what)
    return {"out": Wanted(normal(*workload.what), exact=True)}


def fault(
    workload: Workload, got: Mapping[str, np.ndarray], wanted: dict[str, Wanted], slack: float = 1.0
) -> str | None:
    """Return what is wrong with a player's results; None if they are correct.

    Args:
        slack: a factor for the usual tolerances.
    """
    try:
        if workload.kind in TRAINING:
            _check_steps(got, wanted, slack)
        elif workload.kind == "predict":
            _check_outputs(got["out"], wanted["out"].value, slack)
        elif workload.kind == "evaluate":
            _check_scores(got["scores"], wanted["scores"].value, workload.rows, slack)
        else:
            _check_operation(workload, got, wanted, slack)
    except AssertionError as error:
        return str(error)
    return None


def _check_operation(
    workload: Workload, got: Mapping[str, np.ndarray], wanted: dict[str, Wanted], slack: float
) -> None:
    kind = tolerance_class(workload.kind)
    if slack >= OTHERS and CLASS.get(workload.kind) == "function":  # near 0 their GELU has relative errors up to 1e-3
        wanted = {name: Wanted(w.value, np.maximum(np.abs(w.value), 1.0)) for name, w in wanted.items()}
    missing = wanted.keys() - got.keys()
    assert not missing, f"nothing was written to {', '.join(sorted(missing))}"
    for name, result in wanted.items():
        compare(got[name], result, kind, "float32", f"{workload.title}: {name}")


def _check_steps(got: Mapping[str, np.ndarray], wanted: dict[str, Wanted], slack: float) -> None:
    losses = wanted["losses"].value
    off = np.abs(got["losses"] - losses) / losses
    assert np.all(off <= LOSS * slack), f"losses {_shown(got['losses'])} instead of {_shown(losses)}"
    start, end = wanted["start"].value, wanted["parameters"].value
    assert got["parameters"].shape == end.shape, f"{got['parameters'].size} parameters instead of {end.size}"
    strayed = float(np.linalg.norm(got["parameters"] - end) / np.linalg.norm(end - start))
    assert strayed <= PATH * slack, f"the parameters strayed by {strayed:.3g} of the way that they should have gone"


def _check_scores(got: np.ndarray, wanted: np.ndarray, rows: int, slack: float) -> None:
    """Compare the loss and the accuracy of each batch; one sample in a thousand may be as near to another class."""
    assert got.shape == wanted.shape, f"scores {got.shape} instead of {wanted.shape}"
    off = np.abs(got - wanted)
    assert np.all(off[:, 0] <= LOSS * slack * wanted[:, 0]), (
        f"losses {_shown(got[:, 0])} instead of {_shown(wanted[:, 0])}"
    )
    least = (1 + TIES * slack * rows) / rows
    assert np.all(off[:, 1] <= least), f"accuracies {_shown(got[:, 1])} instead of {_shown(wanted[:, 1])}"


def _check_outputs(got: np.ndarray, wanted: np.ndarray, slack: float) -> None:
    assert got.shape == wanted.shape, f"outputs {got.shape} instead of {wanted.shape}"
    worst = float(np.abs(got - wanted).max())
    assert worst <= CLOSE * slack, f"a probability is off by {worst:.3g}"


def _shown(losses: np.ndarray) -> str:
    return ", ".join(f"{loss:.5g}" for loss in losses)
