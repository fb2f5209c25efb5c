"""Validation of a model's architecture: whether its layers fit together, and the loss fits the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

from nnx import checks
from nnx.errors import InputError, InputTypeError
from nnx.layers import ELEMENTWISE, Dense, Embedding, Layer, Linear, Residual, Sigmoid, Softmax
from nnx.layers.blocks import Block
from nnx.layers.chain import every
from nnx.layers.embedding import fronts
from nnx.losses import BinaryCrossEntropy, CategoricalCrossEntropy, ElementwiseLoss, FusedLoss, Loss
from nnx.optimizers import Optimizer
from nnx.settings import Assignable, is_own, written

HALVES = ("forward", "losses", "backward", "gradients", "both")
BY_HAND = ("pre_update_params", "post_update_params", "update_params", "current_learning_rate")  # of an optimizer


def fitting_layers(layers: Sequence[Any], kept: Sequence[Layer] = ()) -> tuple[Layer, ...]:
    """Return the layers given to a model as a tuple, after checking them.

    Args:
        layers: as given. kept: those that the model has already.

    Raises:
        InputError: one is no layer, is given twice, belongs to another model, or is an `Embedding` that is not first.
    """
    if len(layers) == 1 and isinstance(layers[0], list | tuple):
        raise InputTypeError("Sequential takes layers one by one: Sequential(*layers), not a list")
    if not layers:
        raise InputError("Sequential(): expected at least one layer, such as Dense(2, 64)")
    held: dict[int, Layer] = {}
    own = {id(layer) for layer in every(kept)}
    for number, layer in enumerate(layers):
        checks.instance(layer, Layer, f"layer {number}", "ReLU()")
        if isinstance(layer, Loss):
            raise InputTypeError(f"layer {number} is {layer}, a loss; give it to compile(loss=...)")
        check_layer(layer)
        for each in every([layer]):
            if id(each) in held:
                raise InputError(
                    f"layer {number}, {each}, is the same object as an earlier one; make one for each place"
                )
            if each.in_model and id(each) not in own:
                raise InputError(
                    f"layer {number}, {each}, belongs to another model; make a new one, or copy.deepcopy(layer)"
                )
            held[id(each)] = each
    seeing = {id(layer) for layer in fronts(layers)}
    for layer in held.values():
        if isinstance(layer, Embedding) and id(layer) not in seeing:
            raise InputError(f"{layer} reads codes, which only data holds: it must come first, or after a Flatten")
    return tuple(layers)


def check_layer(layer: Layer) -> None:
    """Refuse user-defined methods that a model cannot call, and layers within a layer that no step trains."""
    for each in every([layer]):
        if written(each, "forward"):
            try:
                signature(each.forward).bind("inputs", training=False)
            except TypeError as error:
                raise InputTypeError(
                    f"{each}: a model calls forward(inputs, training=False): {error}; write "
                    "def forward(self, inputs, training=False)"
                ) from None
        check_methods(each)
        for name, held in _layers_within(each):
            raise InputError(
                f"{each}: its {name} is {held}, whose parameters the model does not know: no step would move them, and "
                "no file keep them. Give it to the model as a layer beside this one, or within nnx.Residual or "
                f"nnx.Concat; or name parameters in shapes. With {name}.trainable = False it is taken as it is"
            )


def check_methods(part: Assignable) -> None:
    """Refuse a part of the user's own where a model calls a method: an attribute, or a method of other arguments."""
    kind = next(each for each in type(part).__mro__ if is_own(each))
    if kind is type(part):
        return  # which takes no such attributes
    for name in dir(kind):
        ours = getattr(kind, name)
        if name[:2] == "__" or not callable(ours) or not written(part, name):
            continue
        mine, who = getattr(part, name), type(part).__name__
        if not callable(mine):
            raise InputTypeError(
                f"{who}: its {name} is {mine!r:.60}, but {name}() is a method of {kind.__name__}, which a model calls: "
                "give the attribute another name"
            )
        _, *wanted = [one.name for one in signature(ours).parameters.values() if one.default is one.empty]
        fault = checks.call_fault(mine, *wanted)
        if fault is not None:
            arguments = ", ".join(wanted)
            raise InputTypeError(
                f"{who}: a model calls {name}({arguments}): {fault}; write def {name}({', '.join(['self', *wanted])})"
            )


def _layers_within(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Yield the layers that one of the user's own keeps as attributes, or in lists there, if they are to be trained."""
    if is_own(type(layer)):
        return
    known = {id(each) for each in layer.inner.values()} if isinstance(layer, Block) else set()
    for name, value in vars(layer).items():
        held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for each in held:
            if isinstance(each, Layer) and id(each) not in known and any(each.trained().values()):
                yield name, each


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimizer of the user's own of which a model's steps would not call what it says."""
    kind = type(optimizer).__name__
    if is_own(type(optimizer)) and vars(optimizer).keys().isdisjoint(BY_HAND):
        return
    if "hyper" not in vars(optimizer):
        raise InputError(f"compile: {kind}.__init__() does not call super().__init__(learning_rate), which it must")
    updates = written(optimizer, "update")
    unheard = [name for name in BY_HAND[: 2 if updates else None] if written(optimizer, name)]
    if unheard:
        raise InputError(
            f"compile: {kind} has a {unheard[0]} of its own, which a model's steps do not ask: write "
            "update(self, flat, hyper, counters, backend), or let a callback set learning_rate, such as "
            "nnx.callbacks.LearningRateSchedule(function, by='step')"
        )
    if not updates and not hasattr(optimizer, "operation"):
        raise InputError(
            f"compile: {kind} says nowhere how it moves parameters: write "
            "update(self, flat, hyper, counters, backend), which changes flat.values by flat.gradients"
        )
    fault = checks.call_fault(optimizer.update, "flat", "hyper", "counters", "backend")
    if fault is not None:
        raise InputTypeError(
            f"compile: {kind}: a model calls update(flat, hyper, counters, backend): {fault}; write "
            "def update(self, flat, hyper, counters, backend=None)"
        )
    check_methods(optimizer)
    moments: Any = optimizer.moments  # a user-defined optimizer may have anything
    if not (isinstance(moments, tuple) and all(isinstance(name, str) for name in moments)):
        raise InputTypeError(f"compile: {kind}: moments={moments!r:.60}: expected a tuple of names, such as ('first',)")


def check_loss(loss: Loss) -> None:
    """Refuse a loss of which only one half is user-defined, so that loss and gradient do not belong together."""
    known = loss.metric in (None, "categorical", "binary", "regression", "logits")
    if known and is_own(type(loss)) and hasattr(loss, "operation") and vars(loss).keys().isdisjoint(HALVES):
        return  # early, since each `evaluate` calls this
    check_methods(loss)
    ways = (("forward", "losses"), ("backward", "gradients"))
    mine = [any(written(loss, name) for name in (*pair, "both")) for pair in ways]
    if not any(mine) and not hasattr(loss, "operation") and not isinstance(loss, ElementwiseLoss):
        raise InputError(
            f"compile: {loss} says nowhere what it computes: write forward(y_pred, y_true), which returns the loss of "
            "each sample [N], and backward(y_pred, y_true), the gradient of their mean"
        )
    if not known:
        raise InputError(
            f"compile: {loss}: metric={loss.metric!r}, expected 'categorical', 'binary', 'regression' or None: how "
            "right outputs are told from wrong"
        )
    by_hand = [name for name, _ in ways if written(loss, name)]
    if by_hand and not all(mine):
        missing = ways[mine.index(False)][0]
        raise InputError(
            f"compile: {loss} has a {by_hand[0]}() of its own, and no {missing}(): write {missing}(y_pred, y_true) "
            "too; forward returns the loss of each sample [N], backward the gradient of their mean"
        )


def check_ending(last: Layer, loss: Loss) -> None:
    """Refuse the two combinations of last layer and loss that would train without an error, but badly."""
    if isinstance(loss, FusedLoss) and type(last).__name__ in ("Softmax", "Sigmoid"):
        raise InputError(f"compile: {loss} takes logits, but the last layer is {last}; drop that layer")
    shares = type(last) not in (Dense, Linear, Residual, *ELEMENTWISE.values()) or type(last) is Sigmoid
    if isinstance(loss, CategoricalCrossEntropy | BinaryCrossEntropy) and not shares:
        ending = "Softmax()" if isinstance(loss, CategoricalCrossEntropy) else "Sigmoid()"
        raise InputError(f"compile: {loss} takes probabilities, but the last layer is {last}; add {ending}")
    if isinstance(loss, BinaryCrossEntropy) and type(last) is Softmax:
        raise InputError(
            "compile: BinaryCrossEntropy takes independent outputs; after Softmax() use CategoricalCrossEntropy()"
        )
