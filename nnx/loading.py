"""Loading what `save` wrote: a model, or an ensemble of them."""

from __future__ import annotations

import os
from typing import Any

from nnx.arguments import explained
from nnx.backends import resolve
from nnx.backends.resolve import Wish
from nnx.ensemble import Ensemble
from nnx.files import existing_file
from nnx.sequential import Sequential


@explained
def load(path: str | os.PathLike[str], backend: Wish = None, custom: Any = ()) -> Any:
    """Read the `Sequential` or `Ensemble` that `save` wrote, on any backend; training goes on where it stopped.

    Args:
        custom: the classes of your own that it is made of, and functions that are its metrics, as a list, [MyLayer,
            my_loss]; or a dict by the names that they had when it was saved. A file holds their names, and no code.

    Raises:
        InputError: a class of your own is missing.
        FileNotFoundError: there is no such file.
        FileFormatError: it is truncated, damaged, or no nnx model. InputError: no backend has that name.
        BackendUnavailable: the backend does not work here. MissingExtra: safetensors is not installed.
    """
    from nnx.model import checkpoint
    from nnx.model.custom import Custom
    from nnx.training.saving import restore

    given = Custom(custom)
    path = existing_file("load", path, checkpoint.KIND)
    resolve(backend)  # its errors are not the file's
    together, saved = checkpoint.read(path, given)
    with checkpoint.making_sense(path):
        models = []
        for one in saved:
            models.append(Sequential(*one.layers, backend=backend, dtype=one.dtype, seed=one.seed))
            restore(models[-1], one)
        return Ensemble(models) if together else models[0]
