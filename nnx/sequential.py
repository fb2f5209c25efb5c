"""Sequential model: a network, what trains it, and what can be done with both (chapter 18).

What not every program does, fitting and files, is imported where it is done, so that `import nnx` is quick.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx import checks
from nnx.arguments import explained
from nnx.backends.base import on_its_device
from nnx.backends.memory import physical
from nnx.backends.resolve import Wish
from nnx.callbacks import Callback
from nnx.data.arrays import Arrays
from nnx.distributed import Communicator, current
from nnx.errors import InputError
from nnx.history import History
from nnx.kernels.step_state import LOSS, PENALTY
from nnx.layers import Layer
from nnx.model.network import ROWS
from nnx.output import say
from nnx.owner import alone, reading
from nnx.training import together
from nnx.training.eager import Eager
from nnx.training.evaluation import scores_of, tolerance_of
from nnx.training.given import taken
from nnx.training.summary import summary_of
from nnx.training.trainable import Trainable
from nnx.training.trainer import explain


class Sequential(Trainable):
    """Layers in a row, trained, used and saved.

    Args:
        layers: in order. Each may belong to one model only.
        backend: a backend or its name; a list, as "cupy,numba"; "auto", the best that works. None: the active one.
            Resolved once, here.
        dtype: "float32" or "float64".
        precision: "full"; or "tf32" (GPUs), "bf16" (GPUs, CPUs with AMX or AVX512_BF16) or "bf16x3" (those CPUs),
            where large products of float32 may round what they multiply (docs/precision.md). None: what the backend
            does by itself. Parameters and all else stay as dtype says.
        seed: of the weights, the order of rows and the dropout masks.

    Attributes:
        layers: a tuple; assign another one to exchange layers, or change it as a list: `layers[-2] = Dense(64, 9)`,
            `append`, `insert`, `pop`. Those that stay keep their parameters.
        trainable: whether any layer is trained; assigning it says it of all. `layer.trainable = False` keeps one as
            it is.
        backend: resolved; `resolution.reason` says why it is this one.
        precision: what was asked for, or None; `backend.precision` is what it has.
        loss, optimizer, metrics: what `compile` was given; copies of its own. Assigning a loss or an optimizer copies
            it too.
        epochs_done: epochs trained so far, over all fits.
        eager_reason: why the last `fit` did not replay its steps, or None.
        replay_reason: why it replayed them one operation at a time on a backend that can do better, or None.
        metadata: anything that JSON can hold, saved along with the model.

    Raises:
        InputError: layers do not fit together, or an argument cannot be used.
        BackendUnavailable: the backend does not work here.
    """

    def __init__(
        self, *layers: Layer, backend: Wish = None, dtype: str = "float32", precision: str | None = None, seed: int = 0
    ) -> None:
        super().__init__(*layers, backend=backend, dtype=dtype, precision=precision, seed=seed)

    def __repr__(self) -> str:
        return f"<Sequential {' -> '.join(map(str, self.layers))}, {self.dtype} on {self.backend.name}>"

    # ---- training ----------------------------------------------------------------------------------------------------

    @explained
    @alone
    @on_its_device
    def fit(
        self,
        x: Any,
        y: Any = None,
        epochs: int = 1,
        batch_size: int | None = None,
        validation_data: Any = None,
        shuffle: bool = True,
        callbacks: Sequence[Callback] = (),
        verbose: Any = "auto",
        validation_split: float = 0.0,
        sample_weight: Any = None,
        class_weight: Any = None,
        accumulate: int = 1,
        label: str | None = None,
        deterministic: bool | int = False,
    ) -> History:
        """Train, and return how it went. Calling it again goes on where it ended.

        Args:
            x: [N, I]. y: what the loss takes for N samples. Labels are copied, and changing them meanwhile is an error.
                Or what is read while it is trained on (docs/data.md): x and y as paths of .npy files or as
                memory-mapped arrays; as x alone, a folder, an npz or a Parquet file, `nnx.data.shards(...)`; or a
                function that is called for each epoch, or anything else that gives batches (x, y).
            epochs: how many more. batch_size: rows a step, or None: all at once.
            validation_data: (x, y), or (x, y, weights of its samples), evaluated after each epoch; or what is read, as
                for x alone, or a list of batches (x, y).
            shuffle: draw a new order of rows for every epoch (where there is more than one batch). Batches that come
                one after another are taken as they come.
            callbacks: see nnx.callbacks.
            verbose: "auto" shows progress, a bar on a terminal and lines elsewhere; 0 is silent.
            validation_split: instead of validation_data, the share of the samples to hold out: the last ones, before
                anything is shuffled, so sorted samples must be shuffled first.
            sample_weight: how often each sample counts [N], 0 or more: the loss is sum(w * loss) / sum(w), so a whole
                number is that many rows alike, and the accuracy is weighed alike. A step divides by its own batch's
                sum; where that is 0 its loss and gradient are 0. An epoch's means are those over all its samples.
            class_weight: a weight for each class, {0: 1.0, 1: 5.0}; or "balanced": N / (classes * samples of the
                class). It does not touch validation_data. Where sample_weight is given too, they multiply.
            accumulate: how many mini-batches make one update, with the gradient of all their rows: as one batch of so
                many times batch_size would, which takes more memory. An epoch's last update may have fewer.
            label: the column of a Parquet file that is learned.
            deterministic: have a result that is the same, bit for bit, whatever the number of processes that train
                together (nnx.distributed): each batch is divided into 12 parts, or as many as given, whose gradients
                are summed in their order. It must be a multiple of the number of processes.

        After `nnx.distributed.init()` all processes call it with the same samples and arguments, and each takes its
        share of each batch; the history is the same on all of them.

        Ctrl-C ends the fit after the steps at hand, some 0.2 s; the history then says `interrupted`. A second one
        raises KeyboardInterrupt, and the model is as it was before those steps. Where SIGINT is ignored, or the program
        has a handler of its own, fit leaves it alone.

        While it runs, a callback may change parameters, the learning rate and the layers' own numbers, and predict,
        evaluate, save and copy the model. Other threads may predict, evaluate, save and copy it too: they wait for the
        steps at hand. What would change the model otherwise, or train it, is refused.

        Raises:
            InputError: data or an argument cannot be used; nothing was changed.
            InUseError: the model is being trained by another thread, for more than half a second from now on, or by the
                fit whose callback called this.
            NonFiniteError: the loss became nan or infinite; the model is as it was before that step.
        """
        from nnx.training import fitting

        how = fitting.options(
            self, epochs, batch_size, shuffle, callbacks, verbose, class_weight, accumulate, deterministic
        )
        return fitting.fit(self, x, y, sample_weight, label, validation_data, validation_split, how)

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """Do one training step on a batch; return its loss, penalties included: nan where it went wrong (see `fit`)."""
        return float(self.steps(x, y, 1, sample_weight)[0])

    @alone
    @on_its_device
    def steps(self, x: Any, y: Any, n: int, sample_weight: Any = None) -> np.ndarray:
        """Do n training steps on the same batch in one call; return their losses, penalties included: float64 [n].

        sample_weight [N] is what each sample counts, as in `fit`.

        Ctrl-C raises KeyboardInterrupt after the steps at hand, some 0.2 s; the model has then done whole steps.
        """
        trainer = self._trainable("steps")
        n = checks.integer(n, "steps: n")
        if 8 * n > (physical() or np.inf):
            raise InputError(f"steps: n={n:,}: more losses than this machine's memory holds; do fewer at once")
        shares = together.shares_for(self, "steps")
        host = self._inputs(x, "steps: x")
        target = self._targets(y, host, "steps")
        weights = self._weights(y, target, "steps", sample_weight)
        if self.loss.metric == "regression" and not trainer.tolerance:
            trainer.set_tolerance(tolerance_of(self.backend.to_numpy(target), weights))
        trainer.shares = shares
        together.begin(trainer, "steps", x=host, y=self.backend.to_numpy(target), weights=weights, n=n)
        feed, runner = trainer.staged(host, target, self._factors(weights))
        if self.eager_reason is not None and not isinstance(runner, Eager):
            self.eager_reason = None
        rows = trainer.run_all(feed, runner, n)
        explain(self, runner)
        losses: np.ndarray = rows[:, LOSS] + rows[:, PENALTY]
        return losses

    # ---- use ---------------------------------------------------------------------------------------------------------

    @reading
    @on_its_device
    def _predict(self, x: Any, batch_size: int | None) -> np.ndarray:
        came = taken(self, "predict", x)
        if isinstance(came, Arrays):
            return super()._predict(came.x, batch_size)
        from nnx.training.reading import predicted

        return predicted(self, came, ROWS if batch_size is None else checks.integer(batch_size, "predict: batch_size"))

    @explained
    def evaluate(
        self, x: Any, y: Any = None, batch_size: int | None = None, sample_weight: Any = None
    ) -> dict[str, float]:
        """Return the mean loss over x [N, I] and y, without penalties, and the metrics, by name.

        What `fit` takes besides arrays does here too, and is read block by block.

        Where sample_weight [N] is given, means are sum(w * ...) / sum(w), as in `fit`.

        Any number of threads may call it at once, also while one trains: see `fit`. It asks no other process.
        """
        return self.scores(x, y, batch_size, sample_weight, comm=Communicator())

    @reading
    @on_its_device
    def scores(
        self, x: Any, y: Any, batch_size: int | None = None, sample_weight: Any = None, *, comm: Communicator
    ) -> dict[str, float]:
        """Return what `evaluate` does, worked out by all processes of `comm`, each of which must call it."""
        self.scoring()  # refuses a model that has no loss, or the wrong one
        rows = ROWS if batch_size is None else checks.integer(batch_size, "evaluate: batch_size")
        came = taken(self, "evaluate", x, y, sample_weight)
        if isinstance(came, Arrays):
            return scores_of(self, came, rows, comm)
        from nnx.training.reading import evaluated

        return evaluated(self, came, rows, comm)

    def summary(self) -> str:
        """Return, and print, the layers with their shapes and parameters, and how they run."""
        text = summary_of(self)
        if current().leads:
            say(text)
        return text

    # ---- files -------------------------------------------------------------------------------------------------------

    @reading
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, architecture and the optimizer's state to a safetensors file, whole or not at all.

        Of processes that train together rank 0 alone does; the others go on at once.
        """
        from nnx.model import checkpoint
        from nnx.training.saving import checkpoint_of

        model = checkpoint_of(self)
        if current().leads:
            checkpoint.write(path, model)

    @reading
    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the forward pass to an ONNX file, whole or not at all: opset 20, input "x" [N, I], output "y" [N, O].

        The file computes in the model's type. docs/interchange.md says what it consists of.

        Raises:
            InputError: a layer is of your own, or a number is not finite, or the parameters exceed 2 GiB.
            MissingExtra: onnx is not installed. OSError: the file cannot be written.
        """
        from nnx.interchange import onnx_writer

        parameters = self._host_parameters()
        if current().leads:
            onnx_writer.write(path, self.layers, self.dtype, self.n_inputs, parameters)

    @reading
    def to_torch_state_dict(self) -> dict[str, Any]:
        """Return the parameters as torch's tensors, for `load_state_dict` of a torch.nn.Sequential built alike.

        Layer 0's are "0.weight" [n_neurons, n_inputs], torch's order, and "0.bias" [n_neurons].

        Raises:
            InputError: a layer of your own has parameters. ImportError: torch is not installed.
        """
        from nnx.interchange import pytorch

        return pytorch.to_state_dict(self.layers, self._host_parameters())
