"""Networks as scikit-learn estimators, for its pipelines, searches and scores.

Inputs are taken as they are: put a scaler in front, as in `make_pipeline(StandardScaler(), NNClassifier())`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self
from warnings import warn

import numpy as np

from nnx import checks
from nnx import weights as weighting
from nnx.callbacks import EarlyStopping
from nnx.errors import InputError, MissingExtra
from nnx.kernels.elementwise import BY_NAME
from nnx.layers import ELEMENTWISE, Dense, Dropout, Layer, Linear, Softmax
from nnx.losses import CategoricalCrossEntropy, Loss, MeanSquaredError
from nnx.optimizers import Adam
from nnx.sequential import Sequential

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtra("sklearn", "sklearn", "nnx.sklearn") from error

__all__ = ["NNClassifier", "NNRegressor"]

Array = Any
# Taken as they are, so that the model sees what a cast to its own type loses.
NUMBERS = [np.float64, np.float32, np.int64, np.uint64]
ACTIVATIONS: dict[str, type[Layer]] = {**ELEMENTWISE, "linear": Linear}


class _Network(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Dense layers trained by Adam: what the classifier and the regressor share."""

    model_: Sequential
    loss_curve_: list[float]
    _made_with: dict[str, Any]  # the settings that `model_` has
    _ending: ClassVar[tuple[type[Layer], ...]] = ()
    _loss: ClassVar[type[Loss]] = MeanSquaredError

    def __init__(
        self,
        hidden_layers: int | Sequence[int] = (64,),
        activation: str = "relu",
        learning_rate: float = 0.001,
        epochs: int = 200,
        batch_size: int = 32,
        l2: float = 0.0,
        dropout: float = 0.0,
        validation_fraction: float = 0.0,
        patience: int = 10,
        backend: Any = None,
        dtype: Any = "float64",
        random_state: Any = None,
        verbose: Any = False,
    ) -> None:
        self.hidden_layers = hidden_layers
        self.activation = activation
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.l2 = l2
        self.dropout = dropout
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.backend = backend
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network on X [N, F] and y; return the estimator. Where it fails, nothing of an old fit is left.

        sample_weight [N]: how often each sample counts, also of those held out; see `Sequential.fit`.

        Ctrl-C ends it after the step at hand. What was learned is kept, and KeyboardInterrupt raised, so that a search
        over many fits stops as well.
        """
        self.__dict__.pop("model_", None)
        held_out = checks.real(self.validation_fraction, "validation_fraction", high=1.0)
        epochs, patience = checks.integer(self.epochs, "epochs"), checks.integer(self.patience, "patience")
        X, y = self._validated(X, y, reset=True)
        targets, outputs = self._encoded(y)
        weights = self._weights(sample_weight, targets, "fit")
        random = check_random_state(self.random_state)
        model = self._network(X.shape[1], outputs, random)
        data = (X, targets) if weights is None else (X, targets, weights)
        if not held_out:
            return self._train(model, [], *data, epochs=epochs)
        split = self._split(data, y, held_out, random)
        stopping = [EarlyStopping(patience=patience)]
        return self._train(model, [], *split[::2], epochs=epochs, validation_data=split[1::2], callbacks=stopping)

    def _weights(self, sample_weight: Any, targets: Array, who: str) -> Array:
        """Return what each sample counts, float64 [N], or None."""
        return None if sample_weight is None else weighting.checked(sample_weight, len(targets), who)

    def _split(self, data: tuple[Array, ...], y: Array, share: float, random: np.random.RandomState) -> list[Array]:
        """Return each array without what is held out, and that: of each class the same share, where it can be."""
        if not isinstance(self, ClassifierMixin):
            return list(train_test_split(*data, test_size=share, random_state=random))
        try:
            return list(train_test_split(*data, test_size=share, random_state=random, stratify=y))
        except ValueError as reason:  # a class with one sample, or fewer samples held out than there are classes
            split = list(train_test_split(*data, test_size=share, random_state=random))
            warn(f"validation_fraction={share}: held out regardless of classes: {reason}", UserWarning, stacklevel=3)
            return split

    def _continue(self, X: Array, y: Array, outputs: int, weights: Array) -> Self:
        """Train for one more epoch on what was validated and encoded, from the weights there are, if there are any."""
        if not hasattr(self, "model_"):
            model = self._network(X.shape[1], outputs, check_random_state(self.random_state))
            return self._train(model, [], X, y, weights, epochs=1)
        self._adapt(self._settings())
        return self._train(self.model_, self.loss_curve_, X, y, weights, epochs=1)

    def _adapt(self, settings: dict[str, Any]) -> None:
        """Let the network there is follow what `set_params` changed since the last call, or refuse."""
        changed = {name: value for name, value in settings.items() if value != self._made_with[name]}
        dropouts = [layer for layer in self.model_.layers if isinstance(layer, Dropout)]
        fixed = [name for name in changed if name not in ("learning_rate", "l2", *(["dropout"] if dropouts else []))]
        if fixed:
            raise InputError(
                f"partial_fit: {fixed[0]}={changed[fixed[0]]!r}, but the network was made with "
                f"{self._made_with[fixed[0]]!r}; set it back, or call fit, which makes a new network"
            )
        if "learning_rate" in changed:
            self.model_.optimizer.learning_rate = changed["learning_rate"]
        for dropout in dropouts if "dropout" in changed else []:
            dropout.rate = changed["dropout"]
        if "l2" in changed:
            for dense in (layer for layer in self.model_.layers if isinstance(layer, Dense)):
                dense.weight_l2 = changed["l2"]
        self._made_with = settings  # whatever becomes of the training: these are what the network has now

    def _train(
        self, model: Sequential, before: list[float], X: Array, y: Array, weights: Array = None, **more: Any
    ) -> Self:
        batch = checks.integer(self.batch_size, "batch_size")
        history = model.fit(X, y, batch_size=batch, verbose=self.verbose, sample_weight=weights, **more)
        self.model_, self.loss_curve_ = model, before + history.get("loss", [])
        if history.interrupted:
            raise KeyboardInterrupt
        return self

    def _settings(self) -> dict[str, Any]:
        """Return, checked and in their plain types, the parameters that a network has for as long as it lives."""
        sizes = self.hidden_layers if np.iterable(self.hidden_layers) else [self.hidden_layers]
        return {
            "hidden_layers": tuple(checks.integer(width, "hidden_layers") for width in sizes),
            "activation": checks.choice(self.activation, "activation", ACTIVATIONS),
            "learning_rate": checks.real(self.learning_rate, "learning_rate", open_low=True),
            "l2": checks.real(self.l2, "l2"),
            "dropout": checks.real(self.dropout, "dropout", high=1.0),
            "backend": self.backend,
            "dtype": checks.dtype(self.dtype),
            "random_state": self.random_state,
        }

    def _network(self, features: int, outputs: int, random: np.random.RandomState) -> Sequential:
        settings = self._made_with = self._settings()
        widths = [features, *settings["hidden_layers"]]
        activation, dropout, l2 = ACTIVATIONS[settings["activation"]], settings["dropout"], settings["l2"]
        init = "glorot" if activation is Linear else BY_NAME[settings["activation"]].init
        layers: list[Layer] = []
        for n_inputs, width in pairwise(widths):
            layers += [Dense(n_inputs, width, weight_l2=l2, init=init), activation()]
            layers += [Dropout(dropout)] if dropout else []
        layers += [Dense(widths[-1], outputs, weight_l2=l2, init="glorot"), *(end() for end in self._ending)]
        seed = int(random.randint(2**31 - 1))
        model = Sequential(*layers, backend=settings["backend"], dtype=settings["dtype"], seed=seed)
        return model.compile(self._loss(), Adam(settings["learning_rate"]), metrics=[])

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Array, Array]:
        numbers = isinstance(self, RegressorMixin)
        shape: tuple[int, ...] = getattr(y, "shape", ())
        if not numbers and len(shape) == 2 and shape[1] > 1:
            raise InputError(
                f"y should be a 1d array of labels, got an array of shape {shape} instead: one-hot rows are labels by "
                "y.argmax(axis=1), and sklearn.multioutput.MultiOutputClassifier learns several labels for each sample"
            )
        X, y = validate_data(self, X, y, reset=reset, dtype=NUMBERS, multi_output=numbers, y_numeric=numbers)
        return X, y

    def _encoded(self, y: Array) -> tuple[Array, int]:
        """Return targets as the loss takes them, and how many outputs they need."""
        raise NotImplementedError

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=False, dtype=NUMBERS)
        return self.model_.predict(X)


class NNClassifier(ClassifierMixin, _Network):  # type: ignore[misc]
    """A classifier: dense layers, softmax and cross-entropy, trained by Adam.

    Args:
        hidden_layers: neurons of each hidden layer; () for none.
        activation: of the hidden layers: "linear" or an activation function, such as "relu", "tanh" or "gelu".
        learning_rate: of Adam. epochs: how often all samples are seen. batch_size: samples a step.
        l2: strength of the penalty on weights, `l2 * sum(w**2)`. dropout: share of hidden outputs dropped in training.
        validation_fraction: share of the samples held out, the same of each class, to stop when the loss on them has
            not improved for `patience` epochs, and to keep the best weights; 0 holds out none, and all epochs are done.
        backend: as for `nnx.Sequential`.
        dtype: "float64", as scikit-learn's own estimators compute, or "float32": faster, above all on a GPU, but what
            is predicted for a row then depends in its seventh digit on the rows predicted along with it.
        random_state: seed of weights, order, dropout and of what is held out: a number, a RandomState or None.
        verbose: as for `Sequential.fit`.
        class_weight: a weight for each label, as {"rare": 5.0, "common": 1.0}, or "balanced", by which all classes
            count alike; `fit`'s sample_weight is multiplied by it. None: each sample counts once.

    Attributes:
        classes_: the labels, in the order of `predict_proba`'s columns. n_features_in_: how many features `fit` saw.
        loss_curve_: the loss of each epoch, penalty included.
        model_: the `nnx.Sequential`, whose targets are indices into `classes_`.
    """

    classes_: np.ndarray
    _ending, _loss = (Softmax,), CategoricalCrossEntropy

    def __init__(
        self,
        hidden_layers: int | Sequence[int] = (64,),
        activation: str = "relu",
        learning_rate: float = 0.001,
        epochs: int = 200,
        batch_size: int = 32,
        l2: float = 0.0,
        dropout: float = 0.0,
        validation_fraction: float = 0.0,
        patience: int = 10,
        backend: Any = None,
        dtype: Any = "float64",
        random_state: Any = None,
        verbose: Any = False,
        class_weight: Any = None,
    ) -> None:
        super().__init__(
            hidden_layers, activation, learning_rate, epochs, batch_size, l2, dropout, validation_fraction, patience,
            backend, dtype, random_state, verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch more, from the weights there are; return the estimator.

        Between two calls `set_params` may change learning_rate, batch_size, l2, class_weight, and a dropout that is not
        0. No samples are held out.

        Args:
            X: [N, F]. y: labels [N].
            classes: all labels there will ever be; needed by the first call unless `fit` came before.
            sample_weight: how often each sample counts [N].
        """
        if isinstance(self.class_weight, str):
            raise InputError(
                f"partial_fit: class_weight={self.class_weight!r} counts all samples there are; give a dictionary of "
                "label: weight"
            )
        known: Array = self.classes_ if hasattr(self, "model_") else None
        if classes is None and known is None:
            raise InputError("partial_fit: classes=None; the first call must be given all labels there will ever be")
        given = known if classes is None else unique_labels(classes)
        if known is not None and not np.array_equal(known, given):
            raise InputError(f"partial_fit: classes={given}, expected those of the first call, {known}")
        X, y = self._validated(X, y, reset=known is None)
        unknown = np.setdiff1d(y, given)
        if unknown.size:
            raise InputError(f"partial_fit: y holds {unknown.tolist()[0]!r}, expected one of the classes {given}")
        self.classes_ = given
        indices = np.searchsorted(given, y)
        weights = self._weights(sample_weight, indices, "partial_fit")
        return self._continue(X, indices, len(given), weights)

    def _weights(self, sample_weight: Any, targets: Array, who: str) -> Array:
        samples, classes = super()._weights(sample_weight, targets, who), None
        if self.class_weight is not None:
            classes = weighting.of_classes(self.class_weight, targets, self.classes_, who)
        return weighting.product(who, samples, classes)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class for X [N, F]: [N, C], of the network's type."""
        return self._outputs(X)

    def predict(self, X: Any) -> Array:
        """Return the most probable label for each row of X [N, F]: [N]."""
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]

    def _encoded(self, y: Array) -> tuple[Array, int]:
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        return indices, len(self.classes_)


class NNRegressor(RegressorMixin, _Network):  # type: ignore[misc]
    """A regressor: dense layers and the mean squared error, trained by Adam.

    Its arguments and attributes are those of `NNClassifier`, but for `class_weight` and `classes_`. y is [N], or [N, O]
    for O numbers each; bring it near -1 .. 1 by `TransformedTargetRegressor` where it is far from there.
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch more on X [N, F] and y: see `NNClassifier.partial_fit`."""
        X, y = self._validated(X, y, reset=not hasattr(self, "model_"))
        return self._continue(X, *self._encoded(y), self._weights(sample_weight, y, "partial_fit"))

    def predict(self, X: Any) -> Array:
        """Return the numbers for X [N, F], float64: [N] where there is one for each row, else [N, O]."""
        y = self._outputs(X).astype(np.float64)
        return y[:, 0] if y.shape[1] == 1 else y

    def _encoded(self, y: Array) -> tuple[Array, int]:
        return y, 1 if y.ndim == 1 else y.shape[1]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
