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
    """Return the `Sequential` or `Ensemble` that `save` wrote; a later `fit` continues where training stopped.

    Args:
        path: the file. backend: the backend to load it on, see `Sequential`; it need not be the one it was saved on.
        custom: the user-defined classes that the model contains, and the functions among its metrics: a list
            [MyLayer, my_loss], or a dict from the names that they had when it was saved. A file holds only their
            names, never code.

    Raises:
        InputError: a user-defined class is missing, or no backend has that name.
        FileNotFoundError: there is no such file.
        FileFormatError: it is truncated, damaged, or no nnx model.
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
