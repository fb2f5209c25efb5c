"""Labels of any kind, converted to types with which scikit-learn keeps them distinct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from nnx.backends.inputs import MISSING
from nnx.errors import InputError, InputTypeError

Array = Any


def native(y: Any) -> Any:
    """Return labels in NumPy's own types if scikit-learn would misread them.

    scikit-learn converts whole numbers and booleans of nullable types in pandas and Arrow to float64, where long codes
    are no longer distinct. It turns a missing label in a list of strings into the string "nan". And it doesn't accept
    NumPy's strings of variable length, nor numbers stored as Python objects, as in a table's row that also has words.

    Raises:
        InputError: a label is missing. InputTypeError: labels are of several types, or of one that has no order, or
            each is a list of them.
    """
    types = list(y.dtypes) if hasattr(y, "columns") and hasattr(y, "dtypes") else [getattr(y, "dtype", None)]
    plain = [getattr(kind, "numpy_dtype", None) for kind in types]  # which pandas' nullable types have, and Arrow's
    if types and all(kind is not None and kind.kind in "biu" for kind in plain) and not np.any(y.isna()):
        return y.to_numpy(np.result_type(*plain))
    if isinstance(y, np.ndarray) and y.dtype.kind == "T":
        y = y.astype(object)
    if isinstance(y, list | tuple):
        _refuse_lists(y)
        objects = np.array(y, dtype=object)
    else:
        objects = np.asarray(() if issparse(y) else y)
    if objects.dtype.kind != "O" or not objects.ndim or not objects.size == len(objects) > 0:
        return y
    _refuse_others(objects.reshape(-1))
    typed = np.array(objects.tolist())
    if typed.dtype.kind == "O":
        raise InputTypeError(
            f"y holds labels of type {type(objects.flat[0]).__name__}, such as {objects.flat[0]!r:.60}; expected text "
            "or whole numbers: write them as text, [str(label) for label in y]"
        )
    return y if isinstance(y, list | tuple) or typed.dtype.kind == "U" else typed


def _refuse_lists(y: Sequence[Any]) -> None:
    """Refuse lists of labels of different lengths."""
    several = [label for label in y if isinstance(label, list | tuple | set | frozenset)]
    if any(isinstance(label, set | frozenset) or len(label) != len(several[0]) for label in several):
        raise InputTypeError(
            "y holds a list of labels for each sample, expected one label, or a table of 0 and 1: make it by "
            "sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)"
        )


def _refuse_others(labels: np.ndarray) -> None:
    """Refuse missing labels, and a mixture of strings and other labels."""
    for row, label in enumerate(labels):
        if type(label).__name__ in MISSING or (isinstance(label, float) and label != label):
            raise InputError(f"Input y contains NaN: the label of row {row} is missing ({label!r}); drop or fill it")
    texts, others = ([each for each in labels if isinstance(each, str) == text] for text in (True, False))
    if texts and others:
        raise InputTypeError(
            f"y holds labels of several types, such as {texts[0]!r} and {others[0]!r}; write all of them as text: "
            "[str(label) for label in y]"
        )


def checked(y: Array) -> Array:
    """Return labels [N], or indicators of labels [N, L]; refuse other shapes."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if y.ndim == 2 and type_of_target(y) != "multilabel-indicator":
        raise InputError(
            f"y should be a 1d array of labels, or a table of 0 and 1, got an array of shape {y.shape} instead; "
            "sklearn.multioutput.MultiOutputClassifier learns several classes for each sample"
        )
    check_classification_targets(y)
    return y
