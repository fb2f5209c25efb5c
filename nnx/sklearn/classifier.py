"""Classifier: predicts one class for each sample, or several labels."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import unique_labels

from nnx import weights as weighting
from nnx.arguments import explained
from nnx.errors import InputError, InputTypeError
from nnx.layers import Sigmoid, Softmax
from nnx.losses import BinaryCrossEntropy, CategoricalCrossEntropy
from nnx.sklearn import labels
from nnx.sklearn.arguments import read
from nnx.sklearn.fitted import named
from nnx.sklearn.network import Network, stepwise
from nnx.sklearn.tasks import Task

Array = Any


class NNClassifier(ClassifierMixin, Network):  # type: ignore[misc]
    """A classifier: dense layers, softmax and cross-entropy, trained by Adam, SGD or L-BFGS.

    y is a label for each sample [N], of any type; or several labels for each, 0 or 1 [N, L], learned with a sigmoid and
    binary cross-entropy. X may be sparse; it is made dense. The other parameters are those of MLPClassifier, and None
    if they are not given. docs/sklearn.md compares the two estimators.

    Args:
        hidden_layers: neurons of each hidden layer; () for none.
        activation: of the hidden layers: an activation function, such as "relu", "tanh", "gelu" or "logistic", or
            "identity".
        learning_rate: a number; or the MLP's "constant", "invscaling" (`learning_rate_init / (t + 1)**power_t` after t
            samples) or "adaptive" (divided by 5 whenever the MLP's rule would end the fit, down to 1e-6). As in the
            MLP, the latter two have an effect only with solver="sgd". epochs: how often all samples are seen.
        batch_size: samples in a step; "auto" is 200.
        l2: strength of the penalty on weights, `l2 * sum(w**2)`. dropout: share of hidden outputs dropped in training.
        validation_fraction: share of the samples to hold out, the same of each class. Training stops when the loss on
            them has not improved for `patience` epochs, and the best weights are kept. With 0 none are held out, and
            all epochs are done.
        backend: as for `nnx.Sequential`.
        dtype: "float64", in which scikit-learn's own estimators compute, or "float32", which is faster, especially on a
            GPU. But then the seventh digit of a prediction depends on the other rows that are predicted with it.
        random_state: seed of weights, order, dropout and the choice of held-out samples: a number, a RandomState or
            None.
        verbose: as for `Sequential.fit`.
        class_weight: a weight for each label, such as {"rare": 5.0, "common": 1.0}, or "balanced", with which all
            classes count the same; `fit`'s sample_weight is multiplied by it. None: each sample counts once.
        shuffle: draw a new order of samples for every epoch. warm_start: `fit` continues with the present network.

    Other Parameters:
        hidden_layer_sizes, learning_rate_init, n_iter_no_change: other names of hidden_layers, learning_rate and
            patience; giving both with different values is an error. max_iter: the largest number of epochs, unless
            epochs is smaller.
        alpha: the penalty `alpha / 2 * sum(w**2) / (samples of a step)`, which is added to that of l2; 0 if None.
        solver: "adam", "sgd", or "lbfgs": all samples at once, for small sets. beta_1, beta_2, epsilon: of Adam.
            momentum (0.9 if None), nesterovs_momentum (True if None), power_t (0.5 if None): of SGD. max_fun: calls of
            the loss by L-BFGS (15000 if None), whose iterations count as epochs.
        early_stopping: True: hold out validation_fraction (0.1 if it is 0), and stop when the accuracy on it has not
            improved by `tol` for more than `patience` epochs. False: hold out none, and apply the same rule to the
            training loss. This rule also applies if max_iter, tol or n_iter_no_change is given without
            `validation_fraction`.
        tol: a smaller change is no improvement for this rule (1e-4 if None).

    Attributes:
        classes_: the labels, in the order of `predict_proba`'s columns. n_features_in_: the number of features.
        loss_curve_: the loss of each epoch, penalty included. loss_, best_loss_: the last and the lowest of them.
        model_: the `nnx.Sequential`, whose targets are indices into `classes_`.
        coefs_, intercepts_: weights and biases of each layer.
        n_iter_: epochs of the last fit. t_: samples seen. n_layers_: number of layers, counting the inputs as one.
            n_outputs_: number of outputs. out_activation_: "softmax", or "logistic" for several labels.
        validation_scores_: accuracy after each epoch. best_validation_score_: the highest of them. Both are None unless
            early_stopping=True.
    """

    classes_: np.ndarray
    _numeric = False

    @explained
    def __init__(
        self,
        hidden_layers: int | Sequence[int] = (64,),
        activation: str = "relu",
        learning_rate: float | str = 0.001,
        epochs: int = 200,
        batch_size: int | str = 32,
        l2: float = 0.0,
        dropout: float = 0.0,
        validation_fraction: float = 0.0,
        patience: int = 10,
        backend: Any = None,
        dtype: Any = "float64",
        random_state: Any = None,
        verbose: Any = False,
        class_weight: Any = None,
        *,
        shuffle: bool = True,
        warm_start: bool = False,
        hidden_layer_sizes: int | Sequence[int] | None = None,
        solver: str | None = None,
        alpha: float | None = None,
        learning_rate_init: float | None = None,
        power_t: float | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        momentum: float | None = None,
        nesterovs_momentum: bool | None = None,
        early_stopping: bool | None = None,
        beta_1: float | None = None,
        beta_2: float | None = None,
        epsilon: float | None = None,
        n_iter_no_change: float | None = None,
        max_fun: int | None = None,
    ) -> None:
        self._take(locals())

    @available_if(stepwise)  # type: ignore[untyped-decorator]
    @named
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one more epoch, starting from the present weights; return the estimator.

        Between two calls `set_params` may change the learning rate, the optimizer's numbers, batch_size, l2 or alpha,
        class_weight, and a dropout that is not 0. No samples are held out.

        Args:
            X: [N, F]. y: labels [N], or [N, L].
            classes: all labels that will ever occur; needed by the first call unless `fit` came before.
            sample_weight: how often each sample counts [N].
        """
        arguments = read(self)
        if isinstance(self.class_weight, str):
            raise InputError(
                f"partial_fit: class_weight={self.class_weight!r} counts all samples there are; give a dictionary of "
                "label: weight"
            )
        known: Array = self.classes_ if hasattr(self, "model_") else None
        if classes is None and known is None:
            raise InputError("partial_fit: classes=None; the first call must be given all labels there will ever be")
        if isinstance(classes, str) or not (classes is None or np.iterable(classes)):
            raise InputTypeError(f"partial_fit: classes={classes!r:.60}: expected a list of all labels")
        classes = list(classes) if isinstance(classes, Set) else classes
        given = known if classes is None else unique_labels(labels.native(classes))
        if known is not None and not np.array_equal(known, given):
            raise InputError(f"partial_fit: classes={given}, expected those of the first call, {known}")
        X, y = self._validated(X, y, reset=known is None)
        targets, task = self._told(labels.checked(y), given, "partial_fit")
        self.classes_ = given
        return self._continue(arguments, X, targets, task, self._weights(sample_weight, targets, task, "partial_fit"))

    @named
    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, or label, for X [N, F]: [N, C], in the network's type."""
        return self._outputs(X)

    @named
    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`; -inf for a probability of 0."""
        with np.errstate(divide="ignore"):
            return np.log(self._outputs(X))

    @named
    def predict(self, X: Any) -> Array:
        """Return the most probable label of each row of X [N, F]: [N]; or, for several labels, 0 or 1 each [N, L]."""
        decided = _decided(self._outputs(X), self._task)
        return decided if self._task.loss is BinaryCrossEntropy else self.classes_[decided]

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Array, Array]:
        return super()._validated(X, labels.native(y), reset=reset)

    def _encoded(self, y: Array, who: str) -> tuple[Array, Task]:
        y = labels.checked(y)
        classes = np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)
        if not hasattr(self, "model_"):
            self.classes_ = classes
        elif not np.array_equal(classes, self.classes_):
            raise InputError(f"{who}: y holds the classes {classes}, expected those of the network, {self.classes_}")
        return self._told(y, classes, who)

    def _told(self, y: Array, classes: np.ndarray, who: str) -> tuple[Array, Task]:
        """Return targets for known classes, and the task; refuse labels that are not among them."""
        if y.ndim == 2:
            task = Task(y.shape[1], BinaryCrossEntropy, (Sigmoid,), "logistic", shown=y.shape[1], steep=y.shape[1])
            if len(classes) != y.shape[1]:
                raise InputError(f"{who}: y has {y.shape[1]} columns, expected one for each of {classes}")
        else:
            task = Task(len(classes), CategoricalCrossEntropy, (Softmax,), "softmax")
            unknown = np.setdiff1d(y, classes)
            if unknown.size:
                raise InputError(f"{who}: y holds {unknown.tolist()[0]!r}, expected one of the classes {classes}")
            y = np.searchsorted(classes, y)
        if hasattr(self, "model_") and task != self._task:
            kinds = {True: "several labels for each sample", False: "one label for each sample"}
            several = task.loss is BinaryCrossEntropy
            raise InputError(f"{who}: y holds {kinds[several]}, but the network learned {kinds[not several]}")
        return y, task

    def _strata(self, y: Array) -> Array:
        return None if y.ndim == 2 and y.shape[1] > 1 else y

    def _score(self, task: Task, outputs: Array, targets: Array, weights: Array = None) -> float:
        return float(accuracy_score(targets, _decided(outputs, task), sample_weight=weights))

    def _weights(self, sample_weight: Any, targets: Array, task: Task, who: str) -> Array:
        samples, classes = super()._weights(sample_weight, targets, task, who), None
        if self.class_weight is not None:
            if task.loss is BinaryCrossEntropy:
                raise InputError(f"{who}: class_weight is for one label a sample, and y has several; use sample_weight")
            classes = weighting.of_classes(self.class_weight, targets, self.classes_, who)
        return weighting.product(who, samples, classes)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _decided(outputs: Array, task: Task) -> Array:
    """Return the class of each sample or, for several labels, 0 or 1 for each label."""
    return (outputs > 0.5).astype(int) if task.loss is BinaryCrossEntropy else outputs.argmax(axis=1)
