"""Early stopping of `nnx train`: the best epoch's parameters are kept as the network, the last ones for resuming.

Its state is in the model's metadata, so that a resumed training continues as if it had not been interrupted.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nnx import checks
from nnx.callbacks import EarlyStopping, Model
from nnx.callbacks.callback import copied_parameters
from nnx.errors import InputError

# {"epoch": the best epoch, counted from 1; "of": the number of epochs done; "loss": on the validation part in the best
# epoch; "last": parameters of the last epoch, unless that is the best}
KEY = "best"


class Best(EarlyStopping):
    """Keeps the best epoch's parameters, and ends the fit after `patience` epochs without better ones."""

    def __init__(self, patience: int) -> None:
        super().__init__("val_loss", patience)

    def on_fit_begin(self, model: Model) -> None:
        """Restore the state of an earlier fit, and its last parameters."""
        super().on_fit_begin(model)
        if (known := best(model)) is None:
            return
        self.best, self.best_epoch = known["loss"], known["epoch"] - 1
        self._parameters = copied_parameters(model)
        if "last" in known:
            model.set_parameters(_unpacked(known.pop("last"), self._parameters))

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Remember the best epoch, or stop."""
        super().on_epoch_end(model, epoch, logs)
        if self._parameters is not None:
            model.metadata[KEY] = {"epoch": self.best_epoch + 1, "of": epoch + 1, "loss": float(self.best)}

    @contextlib.contextmanager
    def in_place(self, model: Model) -> Iterator[None]:
        """Return a context, for saving the model, in which its parameters are the best ones."""
        if self._parameters is None or model.epochs_done == self.best_epoch + 1:
            yield
            return
        last = copied_parameters(model)
        try:
            model.metadata[KEY]["last"] = _packed(last)
            model.set_parameters(self._parameters)
            yield
        finally:
            model.set_parameters(last)
            model.metadata[KEY].pop("last", None)


def best(model: Model) -> dict[str, Any] | None:
    """Return the state of early stopping in a model's metadata, or None.

    Raises:
        InputError: it is not what `Best` writes, or the model has been trained in another way since.
    """
    if (known := model.metadata.get(KEY)) is None:
        return None
    try:
        if checks.integer(known["of"], "of") != model.epochs_done:
            raise ValueError(f"it is that of {known['of']} epochs, and the network has {model.epochs_done}")
        checks.integer(known["epoch"], "epoch")
        checks.real(known["loss"], "loss")
        base64.b64decode(known.get("last", ""), validate=True)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"its best epoch cannot be read: {error}") from error
    return dict(known)


def _packed(parameters: Mapping[str, np.ndarray]) -> str:
    """Return parameters as text, little-endian on every machine."""
    return base64.b64encode(
        b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in parameters.values())
    ).decode()


def _unpacked(text: str, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters in a text, with the names and shapes of `like`.

    Raises:
        InputError: the text has more or fewer numbers.
    """
    data, place, found = base64.b64decode(text), 0, {}
    if len(data) != sum(a.nbytes for a in like.values()):
        raise InputError("the last parameters in the file are not those of this network")
    for name, a in like.items():
        found[name] = np.frombuffer(data, a.dtype.newbyteorder("<"), a.size, place).reshape(a.shape).astype(a.dtype)
        place += a.nbytes
    return found
