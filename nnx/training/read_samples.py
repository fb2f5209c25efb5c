"""Samples of a fit that are read while it runs, from disk or from a function that makes batches; see samples.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnx import casting, weights
from nnx.callbacks import Callback
from nnx.data.iterated import Iterated
from nnx.data.source import Source
from nnx.errors import InputError, InputTypeError
from nnx.training.converting import Converter
from nnx.training.evaluation import tolerance_of
from nnx.training.from_disk import FromDisk
from nnx.training.held_out import first_held_out
from nnx.training.read_batches import NOTHING_COUNTS, ReadBatches
from nnx.training.reading import Read, targets_of, tolerance_from
from nnx.training.samples import Options, Samples
from nnx.training.supply import AsTheyCome, Supply

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable


class ReadSamples:
    """The base of both kinds; see `Samples`. If several processes share batches, each reads its own rows.

    Attributes:
        supply: where the rows come from, after `begin`.
    """

    supply: Supply

    def __init__(self, model: Trainable, how: Options) -> None:
        self._model, self._how = model, how
        self._counts_right = model.loss.metric == "regression" and how.trainer.metric is not None

    def check(self) -> None:
        """See `Samples`."""
        if self._how.class_weight is not None:
            weights.check_classes(self._how.class_weight, "fit")

    @property
    def batch(self) -> int:
        """See `Samples`."""
        return self.supply.batch

    @property
    def facts(self) -> dict[str, Any]:
        """See `Samples`."""
        return {**self.supply.facts, "class_weight": self._how.class_weight}

    def callbacks(self) -> list[Callback]:
        """See `Samples`."""
        return list(self._how.callbacks)

    def batches(self, each_epoch: bool) -> ReadBatches:
        """See `Samples`."""
        return ReadBatches(self._how.trainer, self.supply, self._how.every)

    def close(self) -> None:
        """See `Samples`."""
        self.supply.close()


class Stored(ReadSamples):
    """Rows on disk; see `Samples`."""

    def __init__(self, model: Trainable, source: Source, how: Options) -> None:
        super().__init__(model, how)
        self._source = source

    def hold_out(self, share: Any, validation_data: Any) -> Source:
        """See `Samples`."""
        source = self._source
        first = first_held_out(share, validation_data, source.rows)
        self._source = source.part(0, first)
        return source.part(first, source.rows)

    def check(self) -> None:
        """See `Samples`."""
        super().check()
        if self._source.targets is None:
            raise InputTypeError(f"fit: {self._source} have no targets; expected y too, as fit('x.npy', 'y.npy')")
        self._how.check_accumulate(self._source.rows)

    def begin(self) -> None:
        """See `Samples`. It reads some rows, and all targets if class_weight or the accuracy needs them."""
        model, source, how, classes = self._model, self._source, self._how, self._how.class_weight
        assert how.batch is not None  # see `taken`
        convert = Converter(model, "fit", None, source.weighted)
        some = _checked(source, convert)
        if isinstance(classes, str):
            counts = (convert.class_counts(*piece.arrays[:2], piece.where) for piece in source.blocks(inputs=False))
            classes = dict(enumerate(weights.balanced(np.sum(list(counts), axis=0)).tolist()))
        convert.weigh(classes, how.every > 1)
        if convert.weighted and not any(counts.any() for _, counts in targets_of(source, convert)):
            raise InputError(NOTHING_COUNTS)
        if self._counts_right:
            how.trainer.set_tolerance(tolerance_from(source, convert))
        batch = min(how.batch, source.rows)
        self.supply = FromDisk(source, convert, batch, how.every, model.seed, how.shuffle, how.shares)
        self.supply.facts["some of the rows"] = some


class Made(ReadSamples):
    """Batches that the user's code makes; see `Samples`."""

    def __init__(self, model: Trainable, batches: Iterated, how: Options, epoch: int) -> None:
        super().__init__(model, how)
        self._batches, self._epoch = batches, epoch

    def hold_out(self, share: Any, validation_data: Any) -> Any:
        """See `Samples`."""
        raise InputError(
            f"fit: validation_split={share!r}: batches come one after another, and nobody knows which are the last; "
            "give validation_data"
        )

    def check(self) -> None:
        """See `Samples`."""
        super().check()
        self._batches.check_epochs(self._how.epochs)
        if self._how.every > 1:
            raise InputError(
                f"fit: accumulate={self._how.every}: batches come one after another, and nobody knows which is an "
                "epoch's last; give a larger batch_size"
            )
        if isinstance(self._how.class_weight, str):
            raise InputError(
                "fit: class_weight='balanced' goes by how often each class is there, and batches come one after "
                "another; give a weight for each class, {0: 1.0, 1: 5.0}"
            )

    def begin(self) -> None:
        """See `Samples`."""
        how = self._how
        convert = Converter(self._model, "fit", how.class_weight)
        convert.unseen = True
        self.supply = made = AsTheyCome(self._batches, convert, how.batch, self._epoch, "fit", how.shares)
        if self._counts_right:
            how.trainer.set_tolerance(tolerance_of(made.first[1], *made.first[2:]))


def samples_of(model: Trainable, came: Read, how: Options, epoch: int) -> Samples:
    """Return the samples of a fit for rows that are to be read; `epoch` is the number of the first epoch."""
    return Stored(model, came, how) if isinstance(came, Source) else Made(model, came, how, epoch)


def _checked(came: Source, convert: Converter) -> np.ndarray:
    """Return inputs sampled from all files, after checking that casting to the model's type loses no column."""
    raw, ready, targets, wanted = [], [], [], []
    for piece in came.read(came.sample()):
        x, target, *_ = convert.all(*piece.arrays, piece.where)
        raw.append(piece.arrays.x)
        ready.append(x)
        targets.append(piece.arrays.y)
        wanted.append(target)
    some = np.concatenate(ready)
    casting.check_lost(some, np.concatenate(raw), None, "fit: x")
    y, target = np.concatenate(targets), np.concatenate(wanted)
    if target.dtype.kind == "f" and y.size == target.size:
        casting.check_lost(target, y.reshape(target.shape), None, "fit: y")
    return some
