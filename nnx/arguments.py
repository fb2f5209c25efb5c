"""Names of arguments: an unknown keyword argument is refused by an error that suggests the one that was meant.

Python's own error says only that the argument is unexpected; people bring names from the book and from other libraries.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

from nnx.errors import InputTypeError

F = TypeVar("F", bound=Callable[..., Any])

# A name in other libraries, and nnx's names for it; the error suggests those that the called function takes.
NAMES: dict[str, str] = {
    "lr": "learning_rate rate",
    "learning_rate": "rate",
    "learning_rate_init": "learning_rate",
    "alpha": "slope rho",
    "negative_slope": "slope",
    "min_lr": "minimum low",
    "max_lr": "rate high",
    "betas": "beta_1 beta_2",
    "eps": "epsilon",
    "units": "n_neurons",
    "neurons": "n_neurons",
    "out_features": "n_neurons",
    "output_dim": "n_neurons width",
    "n_outputs": "n_neurons",
    "in_features": "n_inputs",
    "input_dim": "n_inputs columns",
    "input_size": "n_inputs",
    "num_features": "n_features",
    "normalized_shape": "n_features",
    "num_embeddings": "columns",
    "embedding_dim": "width",
    "kernel_initializer": "init",
    "kernel_regularizer": "weight_l1 weight_l2",
    "weight_regularizer_l1": "weight_l1",
    "weight_regularizer_l2": "weight_l2",
    "bias_regularizer": "bias_l1 bias_l2",
    "bias_regularizer_l1": "bias_l1",
    "bias_regularizer_l2": "bias_l2",
    "p": "rate",
    "std": "stddev",
    "sigma": "stddev",
    "max_norm": "clip_norm",
    "max_grad_norm": "clip_norm",
    "smoothing": "label_smoothing",
    "beta": "delta",
    "X": "x",
    "data": "x",
    "inputs": "x",
    "Y": "y",
    "labels": "y",
    "target": "y label",
    "targets": "y",
    "validation": "validation_data",
    "val_data": "validation_data",
    "x_val": "validation_data",
    "X_val": "validation_data",
    "y_val": "validation_data",
    "eval_set": "validation_data",
    "val_split": "validation_split",
    "validation_fraction": "validation_split",
    "nb_epoch": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "max_iter": "epochs",
    "iterations": "epochs",
    "T_max": "epochs",
    "step_size": "every",
    "gamma": "factor drop",
    "print_every": "verbose",
    "accumulation_steps": "accumulate",
    "criterion": "loss",
    "metric": "monitor",
    "tol": "min_delta",
    "filename": "path",
    "filepath": "path",
    "save_freq": "every",
    "period": "every",
    "map_location": "backend",
    "device": "backend",
    "custom_objects": "custom",
    "random_state": "seed",
    "n_samples": "samples",
    "num_samples": "samples",
    "n_classes": "classes",
    "num_classes": "classes",
    "layers": "hidden_layers",
    "hidden_units": "hidden_layers",
}
# Arguments of other libraries that nnx has in another place or in another form, with the advice to give.
ELSEWHERE: dict[str, str] = {
    "activation": "an activation function is a layer of its own, such as nnx.ReLU()",
    "keep_prob": "rate is the share that is dropped, 1 - keep_prob",
    "weight_decay": "AdamW takes it, and penalties belong to layers, as Dense(..., weight_l2=5e-4)",
    "from_logits": "logits go into nnx.SoftmaxCrossEntropy() or nnx.SigmoidCrossEntropy()",
    "reduction": "the mean over the samples is taken",
    "pos_weight": "give fit class_weight={0: 1.0, 1: 5.0}",
    "class_weight": "give it to fit",
    "weight": "give fit class_weight or sample_weight",
    "optimizer": "give it to model.compile",
    "loss": "give it to model.compile",
    "metrics": "give it to model.compile",
    "lr": "it is the optimizer's, as nnx.Adam(0.01)",
    "learning_rate": "it is the optimizer's, as nnx.Adam(0.01)",
    "layers": "layers stand first, one by one, as Sequential(nnx.Dense(2, 64), nnx.ReLU())",
    "params": "model.compile gives an optimizer its parameters",
    "parameters": "model.compile gives an optimizer its parameters",
    "save_best_only": "with monitor='val_loss' the best epoch alone is kept",
}


def explained(function: F) -> F:
    """Decorate a function: a call with an unknown keyword argument raises an error that suggests the right one."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            if kwargs:
                _refuse_unknown(function, args, kwargs)
            raise

    return call  # type: ignore[return-value]


def explain_init(kind: type) -> None:
    """Apply `explained` to the `__init__` that a class itself defines, if it does."""
    if "__init__" in vars(kind):
        kind.__init__ = explained(kind.__init__)  # type: ignore[misc]


def meant(name: str, names: Iterable[str]) -> str:
    """Return which of `names` is probably meant by `name`: one with these initials, or the closest; "" if none is."""
    names = list(names)
    initials = [known for known in names if "".join(word[0] for word in known.split("_")) == name]
    return next(iter(initials or difflib.get_close_matches(name, names, 1)), "")


def _refuse_unknown(function: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
    """Raise InputTypeError for the first of the `given` arguments that a function does not take, if there is one."""
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    takes = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL and each.name != "self"]
    for name in given:
        if name not in takes:
            raise InputTypeError(
                f"{_named(function, args)}: there is no argument {name!r}{_advice(name, takes)} It takes: "
                f"{', '.join(takes)}"
            ) from None


def _named(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return the name to show for what was called; for a user's subclass, the nnx class whose `__init__` it called."""
    kind, _, name = function.__qualname__.rpartition(".")
    if name != "__init__":
        return name
    ours = type(args[0]).__module__.startswith("nnx.")
    return type(args[0]).__name__ if ours else kind


def _advice(name: str, takes: list[str]) -> str:
    """Return the end of the error: which argument was probably meant, or how nnx does it instead."""
    others = [ours for ours in NAMES.get(name, "").split() if ours in takes]
    near = " and ".join(others) or (name not in ELSEWHERE and meant(name, takes))
    return f"; did you mean {near}?" if near else f": {ELSEWHERE[name]}." if name in ELSEWHERE else "."
