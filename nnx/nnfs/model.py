"""The book's model: a sequence of layers, trained in batches (chapters 18 to 22)."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from nnx import checks, targets
from nnx.arguments import explained
from nnx.backends.base import real_numbers
from nnx.errors import InputError, InputTypeError
from nnx.nnfs import recorded, saving
from nnx.nnfs.activations import Activation_Softmax
from nnx.nnfs.layers import Layer_Input
from nnx.nnfs.losses import Activation_Softmax_Loss_CategoricalCrossentropy, Loss_CategoricalCrossentropy
from nnx.output import say
from nnx.owner import Owner, alone

Array = Any
Steps = Generator[tuple[tuple[Any, Any], Any]]  # (data loss, penalties) and the accuracy of each step


class Model:
    """A sequence of layers: `add` them, `set` loss, optimizer and accuracy, `finalize`, `train`.

    Several threads may evaluate and predict. They wait for one another, since layers keep what they compute. While one
    thread trains, the others get an error.

    Attributes:
        layers: in the order in which they were added. After `finalize` each has `prev` and `next`; the last one's
            `next` is the loss.
        trainable_layers: the layers with weights.
        loss, optimizer, accuracy: as given to `set`; None before.
    """

    def __init__(self) -> None:
        self.layers: list[Any] = []
        self.trainable_layers: list[Any] = []
        self.loss: Any = None
        self.optimizer: Any = None
        self.accuracy: Any = None
        self.softmax_classifier_output: Activation_Softmax_Loss_CategoricalCrossentropy | None = None
        self.input_layer: Layer_Input | None = None  # until finalize()
        self._owner = Owner()

    def add(self, layer: Any) -> None:
        """Add a layer at the end."""
        self.layers.append(layer)

    def set(self, *, loss: Any = None, optimizer: Any = None, accuracy: Any = None) -> None:
        """Set the loss, the optimizer and the accuracy, or those of them that are given."""
        self.loss = loss if loss is not None else self.loss
        self.optimizer = optimizer if optimizer is not None else self.optimizer
        self.accuracy = accuracy if accuracy is not None else self.accuracy
        if self.input_layer is not None:
            self.finalize()

    def finalize(self) -> None:
        """Link the layers. Call it when all layers have been added.

        Raises:
            InputError: there are fewer than two layers, or the last one has no predictions().
        """
        if len(self.layers) < 2:
            raise InputError(
                f"Model.finalize: {len(self.layers)} layers; expected at least two, such as Layer_Dense and "
                "Activation_Softmax: add() them first"
            )
        last = self.layers[-1]
        if not hasattr(last, "predictions"):
            raise InputError(
                f"Model.finalize: the last layer is {type(last).__name__}, which has no predictions(); "
                "end with an activation, such as Activation_Softmax or Activation_Linear"
            )
        self.input_layer = Layer_Input()
        chain = [self.input_layer, *self.layers, self.loss]
        for before, layer, after in zip(chain, chain[1:], chain[2:], strict=False):
            layer.prev, layer.next = before, after
        self.output_layer_activation = last
        self.trainable_layers = [layer for layer in self.layers if hasattr(layer, "weights")]
        if self.loss is not None:
            self.loss.remember_trainable_layers(self.trainable_layers)
        fused = isinstance(last, Activation_Softmax) and isinstance(self.loss, Loss_CategoricalCrossentropy)
        self.softmax_classifier_output = Activation_Softmax_Loss_CategoricalCrossentropy() if fused else None

    # ---- training and use --------------------------------------------------------------------------------------------

    @explained
    @alone
    def train(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int = 1,
        batch_size: int | None = None,
        print_every: int = 1,
        validation_data: Any = None,
    ) -> None:
        """Train, and print the progress. In every epoch the rows are used in the given order.

        Args:
            X: [N, I]. y: N targets in a form that the loss takes.
            epochs: their number. batch_size: rows in a step; None: all rows.
            print_every: steps between lines; without a batch size, epochs between lines, as in chapter 18.
            validation_data: (X, y), evaluated after each epoch; without a batch size, once at the end, as in
                chapter 18.

        Raises:
            InputError: data do not fit, or `set` or `finalize` was not called.
            InUseError: another thread trains the model.
        """
        self._expect("train", "loss", "optimizer", "accuracy")
        epochs = checks.integer(epochs, "Model.train: epochs")
        print_every = checks.integer(print_every, "Model.train: print_every")
        X, y = _data(X, y, "Model.train")
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                kind = type(validation_data).__name__
                raise InputTypeError(f"Model.train: validation_data is a {kind}; expected a pair (X, y)")
            validation_data = _data(validation_data[0], validation_data[1], "Model.train: validation_data")
        self.accuracy.init(y)
        batches = list(_batches(X, batch_size))
        with self._owner.layers, closing(self._steps(X, y, batches, epochs)) as steps:
            if batch_size is None:
                self._train_whole(steps, epochs, print_every)
                if validation_data is not None:
                    self.evaluate(*validation_data)
                return
            for epoch in range(1, epochs + 1):
                say(f"epoch: {epoch}")
                self._train_epoch(steps, len(batches), print_every)
                if validation_data is not None:
                    self.evaluate(*validation_data, batch_size=batch_size)

    def _train_whole(self, steps: Steps, epochs: int, print_every: int) -> None:
        """Train on all data at once, and print as chapter 18 does."""
        for epoch in range(1, epochs + 1):
            self.loss.new_pass()
            self.accuracy.new_pass()
            losses, accuracy = next(steps)
            if not epoch % print_every:
                self._print_training(f"epoch: {epoch}", losses, accuracy)

    def _train_epoch(self, steps: Steps, n: int, print_every: int) -> None:
        """Go through the batches once, and print as chapters 19 to 22 do."""
        self.loss.new_pass()
        self.accuracy.new_pass()
        for step in range(n):
            losses, accuracy = next(steps)
            if not step % print_every or step == n - 1:
                self._print_training(f"step: {step}", losses, accuracy)
        losses = self.loss.calculate_accumulated(include_regularization=True)
        self._print_training("training", losses, self.accuracy.calculate_accumulated())

    def _steps(self, X: Array, y: Array, batches: list[slice], epochs: int) -> Steps:
        """Do the steps of a training one at a time; yield (data loss, penalties) and the accuracy of each.

        The last step is never a replay, so that the layers' attributes are afterwards the same as in the book.
        """
        left, recording = epochs * len(batches), None
        if left > recorded.FEWEST:
            recording = recorded.Recording.of(self._parts(), X, y, batches[0].stop)
        if recording is not None:
            try:
                for number, step in enumerate(recording.steps(left - 1, by_epoch=len(batches) > 1), 1):
                    if len(batches) > 1 and not number % len(batches):
                        recording.bring_back()  # the penalties of the next line are those of the parameters now
                    yield self._count(step)
            finally:
                recording.bring_back()
            left = 1
        for number in range(-left, 0):
            rows = batches[number % len(batches)]
            yield self._train_step(X[rows], y[rows])

    def _count(self, step: recorded.Step) -> tuple[tuple[Any, Any], Any]:
        """Count a replayed step, as `_train_step` counts its own steps."""
        self.loss.accumulated_sum += step.data_loss * step.rows
        self.loss.accumulated_count += step.rows
        self.accuracy.accumulated_sum += step.right
        self.accuracy.accumulated_count += step.outputs
        self.optimizer.iterations = step.iteration
        self.optimizer.pre_update_params()
        self.optimizer.post_update_params()
        return (step.data_loss, step.penalty), step.right / step.outputs

    def _train_step(self, X: Array, y: Array) -> tuple[tuple[Any, Any], Any]:
        """Do one step on a batch; return (data loss, penalties) and the accuracy before it."""
        output = self.forward(X, training=True)
        losses = self.loss.calculate(output, y, include_regularization=True)
        accuracy = self.accuracy.calculate(self.output_layer_activation.predictions(output), y)
        self.backward(output, y)
        self.optimizer.pre_update_params()
        for layer in self.trainable_layers:
            self.optimizer.update_params(layer)
        self.optimizer.post_update_params()
        return losses, accuracy

    def _print_training(self, what: str, losses: tuple[Any, Any], accuracy: Any) -> None:
        data_loss, regularization_loss = losses
        say(
            f"{what}, acc: {accuracy:.3f}, loss: {data_loss + regularization_loss:.3f} (data_loss: {data_loss:.3f}, "
            f"reg_loss: {regularization_loss:.3f}), lr: {self.optimizer.current_learning_rate}"
        )

    def evaluate(self, X_val: Any, y_val: Any, *, batch_size: int | None = None) -> None:
        """Print accuracy and loss, without penalties, on data that was not used in training."""
        self._expect("evaluate", "loss", "accuracy")
        X, y = _data(X_val, y_val, "Model.evaluate")
        self._owner.allow("Model.evaluate")
        with self._owner.layers:
            self.loss.new_pass()
            self.accuracy.new_pass()
            for rows in _batches(X, batch_size):
                output = self.forward(X[rows], training=False)
                self.loss.calculate(output, y[rows])
                self.accuracy.calculate(self.output_layer_activation.predictions(output), y[rows])
            accuracy, loss = self.accuracy.calculate_accumulated(), self.loss.calculate_accumulated()
        say(f"validation, acc: {accuracy:.3f}, loss: {loss:.3f}")

    def predict(self, X: Any, *, batch_size: int | None = None) -> Array:
        """Return the last layer's outputs [N, O] for X [N, I]."""
        self._expect("predict")
        X, _ = _data(X, X, "Model.predict")
        self._owner.allow("Model.predict")
        with self._owner.layers:
            return np.vstack([self.forward(X[rows], training=False) for rows in _batches(X, batch_size)])

    def forward(self, X: Any, training: bool) -> Array:
        """Pass data [N, I] through all layers; return the last one's output [N, O]."""
        assert self.input_layer is not None
        self.input_layer.forward(X, training)
        for layer in self.layers:
            layer.forward(layer.prev.output, training)
        return self.layers[-1].output

    def backward(self, output: Array, y: Any) -> None:
        """Pass the loss's gradient back through all layers; softmax and cross-entropy are combined if possible."""
        layers = self.layers
        if self.softmax_classifier_output is not None:
            self.softmax_classifier_output.backward(output, y)
            layers[-1].dinputs = self.softmax_classifier_output.dinputs
            layers = layers[:-1]
        else:
            self.loss.backward(output, y)
        for layer in reversed(layers):
            layer.backward(layer.next.dinputs)

    # ---- parameters and files ----------------------------------------------------------------------------------------

    def get_parameters(self) -> list[tuple[Array, Array]]:
        """Return copies of every trainable layer's weights and biases."""
        return [layer.get_parameters() for layer in self.trainable_layers]

    def set_parameters(self, parameters: Sequence[Any]) -> None:
        """Copy (weights, biases) into every trainable layer; raise InputError if they do not fit."""
        given = [tuple(map(np.shape, pair)) for pair in parameters]
        own = [(layer.weights.shape, layer.biases.shape) for layer in self.trainable_layers]
        if given != own:
            raise InputError(f"Model.set_parameters: parameters have shapes {given}, expected {own}")
        for layer, (weights, biases) in zip(self.trainable_layers, parameters, strict=True):
            layer.set_parameters(weights, biases)

    def save_parameters(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to a file in .npz format, whatever its name: see nnx/nnfs/saving.py."""
        self._expect("save_parameters")
        saving.save_parameters(self.get_parameters(), path)

    def load_parameters(self, path: str | os.PathLike[str]) -> None:
        """Read parameters that `save_parameters` wrote, into a model with the same layers."""
        self._expect("load_parameters")
        self.set_parameters(saving.load_parameters(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole model, including the optimizer's state, to a file that `nnx.load` can also read."""
        self._expect("save")
        saving.save(self._parts(), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Model:
        """Read a model that `save` or `nnx.Sequential.save` wrote; it is ready to train, evaluate and predict."""
        return saving.load(path, Model._made_of)

    def _parts(self) -> saving.Parts:
        return saving.Parts(self.layers, self.loss, self.accuracy, self.optimizer)

    @staticmethod
    def _made_of(parts: saving.Parts) -> Model:
        model = Model()
        model.layers = parts.layers
        model.set(loss=parts.loss, optimizer=parts.optimizer, accuracy=parts.accuracy)
        model.finalize()
        return model

    def _expect(self, what: str, *parts: str) -> None:
        """Raise an error if finalize() was not called, or a part is missing that set() gives."""
        if self.input_layer is None:
            raise InputError(f"Model.{what}: the model is not finalized; call finalize() after add() and set()")
        missing = [part for part in parts if getattr(self, part) is None]
        if missing:
            raise InputError(f"Model.{what}: no {' and no '.join(missing)}; give it by set({missing[0]}=...)")
        if what == "train" and not self.trainable_layers:
            raise InputError("Model.train: no layer has weights, so there is nothing to train; add a Layer_Dense")


def _data(X: Any, y: Any, who: str) -> tuple[Array, Array]:
    X, y = real_numbers(X, f"{who}: X"), targets.given(y, f"{who}: y")
    checks.matrix(X.shape, who, "X")
    checks.finite(X, who, "X")
    if y.ndim == 0 or len(y) != len(X):
        raise InputError(f"{who}: X has {len(X)} rows, y has shape {y.shape}; expected one target for each row")
    return X, y


def _batches(X: Array, batch_size: int | None) -> Iterator[slice]:
    size = len(X) if batch_size is None else checks.integer(batch_size, "batch_size")
    return (slice(first, first + size) for first in range(0, len(X), size))
