"""Validation data: samples that are not trained on, and are evaluated after each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnx import checks
from nnx.callbacks import Model
from nnx.data.arrays import Arrays
from nnx.errors import InputError, InputTypeError
from nnx.measures import check_weighable, own_functions
from nnx.model.network import ROWS
from nnx.training.given import taken

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

WHO = "fit: validation_data"
HeldOut = tuple[Any, ...]  # the arguments of `evaluate`: (x, y) or (x, y, weights); (x, None) for rows to be read


def held_out(model: Trainable, validation_data: Any, epochs: int) -> HeldOut:
    """Return validation data, checked, as arguments of `evaluate`; rows to be read are checked when they are read.

    Args:
        model: the model. validation_data: as given to `Sequential.fit`. epochs: how often it will be evaluated.

    Raises:
        InputError: the data cannot be used.
    """
    if _are_batches(validation_data) or not (
        isinstance(validation_data, tuple | list) or hasattr(validation_data, "shape")
    ):
        came = taken(model, WHO, validation_data)
        if not isinstance(came, Arrays):
            return came.for_validation(WHO, epochs), None
        if came.y is not None:
            validation_data = [a for a in came if a is not None]
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        raise InputTypeError(f"{WHO} is {_kind(validation_data)}: expected a pair (x, y), or (x, y, sample_weight)")
    came = taken(model, WHO, *validation_data)
    if not isinstance(came, Arrays):
        return came.for_validation(WHO, epochs), None
    validation_data = came[: 2 + (came.weights is not None)]
    x = model._inputs(validation_data[0], "fit: validation x")
    try:
        target = model._host_targets(validation_data[1], x, "fit: validation")
    except InputError as error:
        if not str(error).startswith("fit: validation"):  # the loss does not know whose targets it looks at
            error.args = (f"fit: validation y: {error}",)
        raise
    weights = model._weights(validation_data[1], target, WHO, *validation_data[2:])
    check_weighable(model.metrics, weights)
    ready = model.scoring().native is not None and target.ndim == model.loss.kept_dimensions()
    return x, target if ready else validation_data[1], *validation_data[2:]  # targets are prepared once, if possible


def _kind(data: Any) -> str:
    """Return in a few words what was given, for an error."""
    if isinstance(data, tuple | list):
        return f"a {type(data).__name__} of {len(data)}"
    return f"a {type(data).__name__}" if hasattr(data, "shape") else f"{data!r:.60}"


def _are_batches(data: Any) -> bool:
    """Return whether a list holds batches (x, y); of a pair [x, y] given as tuples of rows, each row has one axis."""
    return isinstance(data, list) and all(
        isinstance(batch, tuple) and len(batch) in (2, 3) and len(getattr(batch[0], "shape", ())) > 1 for batch in data
    )


def first_held_out(share: Any, validation_data: Any, rows: int) -> int:
    """Return the number of the first row that is held out."""
    share = checks.real(share, "fit: validation_split", high=1.0)
    if validation_data is not None:
        raise InputError(f"fit: validation_split={share:g} and validation_data were both given; give one of them")
    first = int(round(rows * (1 - share), 6))  # 10 * (1 - 0.9) is 0.9999999999999998
    if not 0 < first < rows:
        raise InputError(
            f"fit: validation_split={share:g} of {rows} samples leaves {first} to train on and {rows - first} to hold "
            "out; expected one of each at least"
        )
    return first


def tried(trained: Trainable, model: Model, validation: HeldOut | None) -> None:
    """Evaluate once before training if a user-defined function takes part, which may fail."""
    if validation is None or not (own_functions(trained.metrics) or trained.loss.metric is None):
        return
    x, y, *counts = validation
    some = x if y is not None else x.head(ROWS)
    if some is not None:
        model.evaluate(some, y, None, *counts)


def facts_of(validation: HeldOut | None) -> Any:
    """Return the facts about the validation data that must be the same on all processes; for files, which they are."""
    return validation if validation is None or validation[1] is not None else validation[0].facts()
