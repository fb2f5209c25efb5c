"""Ensemble: networks that are trained separately and predict together; how far they disagree shows how sure they are.

Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles"
(2017): networks that differ only in their seeds disagree on inputs unlike those that they were trained on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from nnx import checks
from nnx.arguments import explained
from nnx.backends.inference import Scored, Scores
from nnx.data.arrays import Arrays, are_arrays
from nnx.distributed import current
from nnx.distributed.communicator import Communicator
from nnx.errors import InputError
from nnx.history import History
from nnx.model.network import ROWS
from nnx.sequential import Sequential
from nnx.training.evaluation import logits, probabilities, scores_of
from nnx.training.many import distinct, fit_many, refuse_once


class Ensemble:
    """Several models whose predictions are averaged.

    `Ensemble(Sequential(..., seed=seed).compile(...) for seed in range(5))`: each model learns from the same data; the
    seeds give each its own initial weights and its own order of rows. Models may also differ in their layers, types
    and backends.

    Args:
        models: at least one, none twice; all compiled with the same kind of loss, and with the same numbers of inputs
            and outputs.

    It supports `len`, iteration, indexing, copying and pickling. It holds the given models themselves, not copies.

    Raises:
        InputError: the models do not fit together.
    """

    @explained
    def __init__(self, models: Iterable[Sequential]) -> None:
        given = list(models) if isinstance(models, Iterator) else models
        self._models: tuple[Sequential, ...] = tuple(distinct(given, "Ensemble"))
        self._check()

    def __repr__(self) -> str:
        return f"<Ensemble of {len(self)}: {self[0]!r}{', ...' if len(self) > 1 else ''}>"

    def __len__(self) -> int:
        return len(self._models)

    def __iter__(self) -> Iterator[Sequential]:
        return iter(self._models)

    def __getitem__(self, number: int) -> Sequential:
        return self._models[number]

    def fit(self, x: Any, y: Any = None, **arguments: Any) -> list[History]:
        """Train each model on all the data, as many at once as there are cores; return their histories.

        Args:
            x: [N, I]. y: targets of N samples. arguments: those of `fit_many`: epochs, batch_size, validation_data, ...

        Raises:
            InputError: data or an argument cannot be used. Exception: what a model's fit raised; see `fit_many`.
        """
        self._compiled("fit")
        return fit_many(self._models, x, y, **arguments)

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the mean of the models' predictions for x [N, I]: [N, O].

        For classes it is the mean of the probabilities, even if the models were trained with `SoftmaxCrossEntropy` or
        `SigmoidCrossEntropy`, and so predict logits by themselves.
        """
        return self._moments("predict", x, batch_size)[0].astype(self._dtype)

    def predict_std(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the standard deviation over the models of what `predict` averages: [N, O]; 0 for a single model.

        It shows the uncertainty of the models (epistemic), not the noise in the targets (aleatoric).
        """
        squares = self._moments("predict_std", x, batch_size)[1]
        return np.sqrt(squares / len(self)).astype(self._dtype)

    @property
    def metadata(self) -> dict[str, Any]:
        """The first model's."""
        return self[0].metadata

    def evaluate(self, x: Any, y: Any, batch_size: int | None = None, sample_weight: Any = None) -> dict[str, float]:
        """Return the loss and the metrics of the averaged predictions for x [N, I] and y, by name.

        Loss and metrics are those that the first model was compiled with. batch_size and sample_weight [N]: as for
        `Sequential.evaluate`.
        """
        self._compiled("evaluate")
        model = next(model for model in self if model.dtype == self._dtype)
        rows = ROWS if batch_size is None else checks.integer(batch_size, "evaluate: batch_size")
        if not are_arrays(x, y, None):
            raise InputError(f"evaluate: an ensemble takes arrays x and y, and x is {x!r:.60}; read it first")
        with model.backend.active():
            return scores_of(model, Arrays(x, y, sample_weight), rows, Communicator(), _Mean(self, model))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all models to one safetensors file, whole or not at all; `nnx.load` gives the ensemble back.

        Among processes that train together only rank 0 writes; the others continue at once.
        """
        from nnx.model import checkpoint
        from nnx.training.saving import checkpoint_of

        saved = [checkpoint_of(model) for model in self]
        if current().leads:
            checkpoint.write(path, saved)

    # ---- the models' means -------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> str:
        """The widest of the models' types."""
        return max(model.dtype for model in self)  # float32, float64

    def _moments(self, who: str, x: Any, batch_size: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over the models, and the sum of squares around it, added up one by one (Welford, 1962)."""
        self._compiled(who)
        refuse_once(who, len(self), x=x)
        mean = squares = np.zeros(())
        for number, model in enumerate(self, 1):
            outputs = probabilities(model.loss, model.predict(x, batch_size)).astype(np.float64)
            if number > 1 and outputs.shape != mean.shape:  # a layer of one's own need not say how wide it is
                raise InputError(
                    f"{who}: models[{number - 1}] puts out {outputs.shape}, those before it {mean.shape}; expected all "
                    "alike"
                )
            with np.errstate(all="ignore"):  # what is not finite shows in the result
                apart = outputs - mean
                mean = mean + apart / number
                squares = squares + apart * (outputs - mean)
        return mean, squares

    def _compiled(self, who: str) -> Sequential:
        """Check that all models fit together and have losses that define what their outputs mean; return the first."""
        for number, model in enumerate(self):
            if model.loss is None:
                raise InputError(
                    f"{who}: models[{number}] of the ensemble has no loss yet, which says what its outputs are; call "
                    "model.compile(loss=..., optimizer=...) of each first"
                )
        self._check()
        return self[0]

    def _check(self) -> None:
        """Refuse models that do not fit together."""
        for name, facts in (
            ("inputs", [model.n_inputs for model in self]),
            ("outputs", [model.n_outputs for model in self]),
            ("loss", [model.loss and str(model.loss) for model in self]),
        ):
            known = {number: fact for number, fact in enumerate(facts) if fact is not None}
            first = min(known, default=0)
            for number, fact in known.items():
                if fact != known[first]:
                    raise InputError(
                        f"Ensemble: models[{number}] has {name} {fact}, models[{first}] has {known[first]}; expected "
                        "models with as many inputs and outputs, and with losses alike"
                    )


class _Mean:
    """The mean prediction of all models, in the form that the first model's loss takes: a `Predictor`."""

    def __init__(self, ensemble: Ensemble, model: Sequential) -> None:
        self.backend, self._ensemble, self._model = model.backend, ensemble, model

    def layers_alone(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing: each model guards its own layers."""
        return nullcontext()

    def outputs(self, x: np.ndarray) -> Any:
        """Return the mean, as an array of the model's backend."""
        mean = self._ensemble._moments("evaluate", x, None)[0]
        return self.backend.asarray(logits(self._model.loss, mean), self._model.dtype)

    def scores(self, loss: Scored) -> Scores | None:
        """Return None: there is no native function of several models."""
        return None
