"""Batches in parts, and the mean of weights: both in replayed steps, and the same eagerly and elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import ALIKE, Net, mlp, trained, weights

import nnx
from nnx.callbacks import Callback, EarlyStopping, LearningRateSchedule, ModelCheckpoint, WeightAverage
from nnx.errors import InputError, InputTypeError

REGULAR = {"weight_l2": 1e-2, "bias_l1": 1e-3}
OPTIMIZERS: dict[str, Callable[..., nnx.Optimizer]] = {
    "Adam": lambda: nnx.Adam(0.02, decay=1e-2), "SGD, clipped": lambda: nnx.SGD(0.3, momentum=0.9, clip_norm=0.1),
    "AMSGrad": lambda: nnx.AMSGrad(0.02), "Nadam": lambda: nnx.Nadam(0.02),
}  # fmt: skip
FITS: dict[str, dict[str, Any]] = {
    "plain": {}, "weights": {"sample_weight": weights(90)}, "classes": {"class_weight": {0: 1, 1: 3, 2: 0}},
    "in order": {"shuffle": False},
}  # fmt: skip


class Eager(nnx.Adam):
    """An optimizer whose steps are not replayed, since its update is its own."""

    def update(self, *arguments: Any) -> None:
        super().update(*arguments)


@pytest.fixture(params=["numpy", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "numba":
        pytest.importorskip("numba")
    return str(request.param)


def alike(a: nnx.Sequential, b: nnx.Sequential, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(a.flat.values, b.flat.values, rtol=tolerance, atol=tolerance)
    assert a.optimizer.iterations == b.optimizer.iterations


# ---- batches in parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_parts_of_a_batch_are_the_batch(make: Callable[[], nnx.Optimizer], options: dict[str, Any], backend: str):
    """90 samples in parts of 7, five of them a batch: the last batch of an epoch has three, the last part 6 samples."""
    net = Net(mlp(nnx.Tanh, **REGULAR), optimizer=make, rows=90)
    parts, history = trained(net, backend, epochs=6, batch_size=7, accumulate=5, **options)
    whole, wanted = trained(net, "numpy", epochs=6, batch_size=35, **options)
    assert parts.eager_reason is None
    assert parts.optimizer.iterations == 6 * 3
    alike(parts, whole)
    for name in wanted:
        np.testing.assert_allclose(history[name], wanted[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("accumulate", [2, 3, 13, 100])
def test_any_number_of_parts(accumulate: int) -> None:
    net = Net(mlp(nnx.Tanh, **REGULAR), rows=90)
    parts, _ = trained(net, "numpy", epochs=3, batch_size=7, accumulate=accumulate)
    whole, _ = trained(net, "numpy", epochs=3, batch_size=7 * accumulate)
    alike(parts, whole)


def test_parts_are_the_same_eagerly(backend: str) -> None:
    """With masks of dropout, which differ from part to part."""
    layers = mlp(nnx.Tanh, lambda: nnx.Dropout(0.2), **REGULAR)
    net, slow = (Net(layers, optimizer=lambda kind=kind: kind(0.02), rows=90) for kind in (nnx.Adam, Eager))
    replayed, history = trained(net, backend, epochs=6, batch_size=7, accumulate=5)
    eager, wanted = trained(slow, "numpy", epochs=6, batch_size=7, accumulate=5)
    assert (replayed.eager_reason, eager.eager_reason is None) == (None, False)
    np.testing.assert_allclose(history["loss"], wanted["loss"], **ALIKE)
    alike(replayed, eager, 1e-9)


def test_parts_have_masks_of_their_own() -> None:
    seen: list[np.ndarray] = []

    class Watched(nnx.Dropout):
        def forward(self, inputs: Any, training: bool = False) -> Any:
            out = super().forward(inputs, training)
            if training:
                seen.append(np.array(out) == 0)
            return out

    net = Net(lambda: [Watched(0.5), nnx.Dense(2, 3), nnx.Softmax()], optimizer=lambda: Eager(0.02), rows=64)
    trained(net, "numpy", epochs=2, batch_size=8, accumulate=4)
    assert len(seen) == 16
    assert all((a != b).any() for n, a in enumerate(seen) for b in seen[:n])


def test_a_fit_in_parts_ends_where_its_loss_is_not_finite() -> None:
    """The model is then as it was before that part: as after the updates so far, of which the second went too far."""
    net = Net(mlp(nnx.Tanh, last=None), nnx.MeanSquaredError, data="numbers", rows=90, optimizer=lambda: nnx.SGD(1e120))
    (x, y), parts, whole = net.samples(), net.model(), net.model()
    for model, options in ((parts, {"batch_size": 7, "accumulate": 5}), (whole, {"batch_size": 35})):
        with pytest.raises(nnx.NonFiniteError):
            model.fit(x, y, epochs=9, shuffle=False, verbose=0, **options)
        model.optimizer.learning_rate = 0.01
    assert 0 < parts.optimizer.iterations == whole.optimizer.iterations
    np.testing.assert_allclose(parts.flat.values, whole.flat.values, rtol=1e-9)


def test_steps_by_hand_know_nothing_of_parts() -> None:
    net = Net(mlp(nnx.Tanh), rows=90)
    (x, y), a, b = net.samples(), net.model(), net.model()
    a.fit(x, y, epochs=2, batch_size=15, accumulate=3, verbose=0)
    b.fit(x, y, epochs=2, batch_size=45, verbose=0)
    np.testing.assert_allclose(a.steps(x, y, 3), b.steps(x, y, 3), rtol=1e-12)
    np.testing.assert_allclose(a.fit(x, y, verbose=0)["loss"], b.fit(x, y, verbose=0)["loss"], rtol=1e-12)


def test_bad_numbers_of_parts_are_refused() -> None:
    net = Net(mlp(nnx.Tanh))
    model, (x, y) = net.model(), net.samples()
    for bad, error in ((0, InputError), (-1, InputError), (1.5, InputTypeError), (None, InputTypeError)):
        with pytest.raises(error, match="fit: accumulate"):
            model.fit(x, y, batch_size=8, accumulate=bad, verbose=0)  # type: ignore[arg-type]
    for batch in (None, 50, 99):
        with pytest.raises(InputError, match="all 50 samples are one batch; give a smaller batch_size"):
            model.fit(x, y, batch_size=batch, accumulate=2, verbose=0)
    assert model.optimizer.iterations == 0


# ---- the mean of weights ---------------------------------------------------------------------------------------------


class Each(Callback):
    """Keeps the parameters after each epoch, as they are trained on: seen when the next one begins."""

    def __init__(self) -> None:
        self.values: list[np.ndarray] = []

    def on_epoch_begin(self, model: Any, epoch: int) -> None:
        self.values.append(np.array(model.flat.values))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("start", [0, 4])
def test_the_mean_is_that_of_the_steps(decay: float, start: int, backend: str) -> None:
    net, epochs = Net(mlp(nnx.Tanh), batch=None), 12
    model, _ = trained(net, backend, epochs=epochs, callbacks=[WeightAverage(decay, start)])
    other, each = net.model(), Each()
    other.fit(*net.samples(), epochs=epochs, callbacks=[each], verbose=0)
    values = [*each.values[start + 1 :], other.flat.values]
    by_age = decay ** np.arange(epochs - start)[::-1]
    wanted = np.tensordot(by_age / by_age.sum(), np.array(values), 1)
    assert model.eager_reason is None
    np.testing.assert_allclose(model.flat.values, wanted, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(model.flat.first, other.flat.first, rtol=1e-11, atol=1e-13)  # it trained as ever


def test_a_mean_in_mini_batches_and_parts(backend: str) -> None:
    options = {"epochs": 4, "batch_size": 7, "accumulate": 5, "callbacks": [WeightAverage(0.8)]}
    replayed, _ = trained(Net(mlp(nnx.Tanh), rows=90), backend, **options)
    eager, _ = trained(Net(mlp(nnx.Tanh), optimizer=lambda: Eager(0.02, decay=1e-3), rows=90), "numpy", **options)
    alike(replayed, eager, 1e-9)


def test_validation_and_callbacks_see_the_mean_and_training_does_not(tmp_path: Path) -> None:
    net = Net(mlp(nnx.Tanh), batch=None)
    x, y = net.samples()

    class Watch(Callback):
        def on_epoch_end(self, model: Any, epoch: int, logs: Any) -> None:
            seen.append((np.array(model.flat.values), model.evaluate(x, y)["loss"], logs["val_loss"]))

    seen: list[tuple[np.ndarray, float, float]] = []
    path = tmp_path / "m.safetensors"
    save, plain = ModelCheckpoint(path), net.model()
    model, history = trained(
        net, "numpy", epochs=5, callbacks=[WeightAverage(0.5), Watch(), save], validation_data=(x, y)
    )
    losses = plain.fit(x, y, epochs=5, verbose=0)["loss"]
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)  # the training's own
    for values, loss, val_loss in seen:
        assert loss == val_loss
        assert not np.array_equal(values, plain.flat.values)
    np.testing.assert_array_equal(seen[-1][0], model.flat.values)
    np.testing.assert_array_equal(nnx.load(path, backend="numpy").flat.values, model.flat.values)
    assert model.evaluate(x, y)["loss"] == history["val_loss"][-1]


def test_the_best_epoch_that_is_put_back_is_a_mean() -> None:
    net = Net(mlp(nnx.Tanh), batch=None, optimizer=lambda: nnx.SGD(0.5))
    (x, y), stopping = net.samples(), EarlyStopping(patience=3)
    far = (x[:5] + 1, (y[:5] + 1) % 3)  # gets worse with each epoch
    model, history = trained(net, "numpy", epochs=9, callbacks=[WeightAverage(0.9), stopping], validation_data=far)
    assert model.evaluate(*far)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-12)


def test_a_callback_that_fails_leaves_the_parameters_that_were_trained() -> None:
    net = Net(mlp(nnx.Tanh), batch=None)
    model, plain, (x, y) = net.model(), net.model(), net.samples()

    class Fails(Callback):
        def on_epoch_end(self, model: Any, epoch: int, logs: Any) -> None:
            if epoch == 2:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.fit(x, y, epochs=9, callbacks=[WeightAverage(0.9), Fails()], verbose=0)
    plain.fit(x, y, epochs=3, verbose=0)
    alike(model, plain)
    np.testing.assert_allclose(model.steps(x, y, 3), plain.steps(x, y, 3), rtol=1e-12)


def test_bad_means_are_refused() -> None:
    for bad, error in ((-0.1, InputError), (1.1, InputError), (np.nan, InputError), ("1", InputTypeError)):
        with pytest.raises(error, match="WeightAverage: decay"):
            WeightAverage(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="WeightAverage: start"):
        WeightAverage(0.9, -1)
    net = Net(mlp(nnx.Tanh))
    with pytest.raises(InputError, match="give one WeightAverage"):
        trained(net, "numpy", callbacks=[WeightAverage(), WeightAverage()])


# ---- a rate for each step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate": 3}], ids=["plain", "in parts"])
def test_a_schedule_by_step_sets_the_rate_of_each_update(options: dict[str, Any], backend: str) -> None:
    net, asked = Net(mlp(nnx.Tanh), rows=90, optimizer=lambda: nnx.SGD(0.1, momentum=0.9)), list[int]()

    def rate(step: int) -> float:
        asked.append(step)
        return 0.5 / (1 + 0.1 * step)

    by_step = LearningRateSchedule(rate, by="step")
    model, _ = trained(net, backend, epochs=3, batch_size=10, callbacks=[by_step], **options)
    updates = 3 * 9 // options.get("accumulate", 1)
    assert asked == list(range(updates))
    assert model.eager_reason is None
    judge = Net(net.layers, rows=90, optimizer=lambda: nnx.SGD(0.5, momentum=0.9, decay=0.1))
    alike(model, trained(judge, "numpy", epochs=3, batch_size=10, **options)[0])


def test_torchs_one_cycle_and_plateau() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=40, pct_start=0.25, div_factor=10)
    schedule, rates = nnx.schedules.one_cycle(0.3, 40, 0.25, 10), []
    for step in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < 39:
            cycle.step()
    np.testing.assert_allclose([schedule(step) for step in range(40)], rates, rtol=1e-12)


@pytest.mark.parametrize(("patience", "cooldown"), [(1, 0), (2, 0), (2, 3)])
def test_reduce_on_plateau_is_torchs(patience: int, cooldown: int) -> None:
    torch = pytest.importorskip("torch")
    losses = [5, 4, 4.2, 4.1, 4.3, 3.9, 3.95, 3.92, 3.91, 3.99, 3.98, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=0.0, cooldown=cooldown, min_lr=0.1
    )
    ours, model, theirs, got = reduce(patience, cooldown), Net(mlp(nnx.Tanh)).model(), [], []
    model.optimizer.learning_rate = 1.0
    ours.on_fit_begin(model)
    for epoch, loss in enumerate(losses):
        plateau.step(loss)
        ours.on_epoch_end(model, epoch, {"loss": loss})
        theirs.append(optimizer.param_groups[0]["lr"])
        got.append(model.optimizer.learning_rate)
    assert len(set(got)) > 2
    np.testing.assert_allclose(got, theirs)


def reduce(patience: int, cooldown: int) -> nnx.callbacks.ReduceOnPlateau:
    return nnx.callbacks.ReduceOnPlateau("loss", 0.5, patience, cooldown=cooldown, minimum=0.1)


def test_reduce_on_plateau_by_the_definition() -> None:
    model, callback, rates = Net(mlp(nnx.Tanh)).model(), reduce(2, 0), []
    model.optimizer.learning_rate = 0.5
    callback.on_fit_begin(model)
    for epoch, loss in enumerate([3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1]):
        callback.on_epoch_end(model, epoch, {"loss": loss})
        rates.append(model.optimizer.learning_rate)
    assert rates == [0.5] * 3 + [0.25] * 3 + [0.125] * 2 + [0.1] * 3
    for name, bad in (("factor", 1.0), ("factor", 0.0), ("patience", 0), ("cooldown", -1), ("minimum", -1)):
        with pytest.raises(InputError, match=f"ReduceOnPlateau: {name}"):
            nnx.callbacks.ReduceOnPlateau(**{name: bad})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="by='batch': expected one of 'epoch', 'step'"):
        LearningRateSchedule(nnx.schedules.constant(0.1), by="batch")


@pytest.mark.parametrize("options", [{}, {"sample_weight": weights(90) + 0.1}], ids=["plain", "weights"])
def test_a_part_tells_callbacks_its_own_mean(options: dict[str, Any]) -> None:
    seen: list[dict[str, float]] = []

    class Watch(Callback):
        def on_batch_end(self, model: Any, batch: int, logs: Any) -> None:
            seen.append(dict(logs))

    net = Net(mlp(nnx.Tanh), rows=90, optimizer=lambda: nnx.SGD(1e-12))  # which moves nothing
    (x, y), (model, _) = net.samples(), trained(
        net, "numpy", epochs=1, batch_size=7, accumulate=5, shuffle=False, callbacks=[Watch()], **options
    )  # fmt: skip
    counts = options.get("sample_weight", np.ones(90))
    for number, logs in enumerate(seen):
        rows = slice(7 * number, 7 * number + 7)
        wanted = model.evaluate(x[rows], y[rows], sample_weight=counts[rows])
        assert logs["loss"] == pytest.approx(wanted["loss"], rel=1e-9)
        assert logs["accuracy"] == pytest.approx(wanted["accuracy"], rel=1e-9)
    assert len(seen) == 13


def test_running_statistics_and_a_mean_go_together(backend: str) -> None:
    layers = lambda: [nnx.Dense(2, 6), nnx.BatchNorm(6), nnx.ReLU(), nnx.Dense(6, 3), nnx.Softmax()]  # noqa: E731
    options = {"epochs": 4, "batch_size": 15, "accumulate": 3, "callbacks": [WeightAverage(0.8)]}
    replayed, _ = trained(Net(layers, optimizer=lambda: nnx.AMSGrad(0.02, clip_norm=0.5), rows=90), backend, **options)
    judge, _ = trained(Net(layers, optimizer=lambda: Slow(0.02, clip_norm=0.5), rows=90), "numpy", **options)
    assert (replayed.eager_reason, judge.eager_reason is None) == (None, False)
    alike(replayed, judge, 1e-8)
    np.testing.assert_allclose(replayed.flat.statistics, judge.flat.statistics, rtol=1e-8)


class Slow(nnx.AMSGrad):
    """An optimizer whose steps are not replayed, since its update is its own."""

    def update(self, *arguments: Any) -> None:
        super().update(*arguments)
