"""What happens around epochs: callbacks, schedules, history, Ctrl-C, and losses that are not finite."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx import callbacks, schedules
from nnx.callbacks import Callback, CSVLogger, EarlyStopping, LearningRateSchedule, ModelCheckpoint
from nnx.testing.rounding import rounding
from nnx.training.batches import Batches

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def data(rows: int = 30) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, 2)).astype(np.float32)
    return x, (x[:, :1] - 2 * x[:, 1:]).astype(np.float32)


def model(rate: float = 0.01, **dense: Any) -> nnx.Sequential:
    net = nnx.Sequential(nnx.Dense(2, 4, **dense), nnx.Tanh(), nnx.Dense(4, 1), seed=1, backend="numpy")
    return net.compile(nnx.MeanSquaredError(), nnx.SGD(rate))


def values(net: nnx.Sequential) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in net.parameters().items()}


def same(net: nnx.Sequential, other: dict[str, np.ndarray] | nnx.Sequential, rtol: float = 0) -> None:
    other = values(other) if isinstance(other, nnx.Sequential) else other
    for name, a in net.parameters().items():
        np.testing.assert_allclose(a, other[name], rtol=rtol, err_msg=name)


class Notes(Callback):
    """Writes down what it is told; does something at the end of chosen epochs."""

    def __init__(self, at: Mapping[int, Callable[[nnx.Sequential], None]] | None = None) -> None:
        self.at = at or {}
        self.calls: list[str] = []
        self.epochs: list[int] = []
        self.logs: list[dict[str, float]] = []
        self.history: nnx.History | None = None
        self.rates: list[float] = []

    def on_fit_begin(self, model: nnx.Sequential) -> None:
        self.calls.append("begin")

    def on_epoch_end(self, model: nnx.Sequential, epoch: int, logs: Mapping[str, float]) -> None:
        self.calls.append("epoch")
        self.epochs.append(epoch)
        self.logs.append(dict(logs))
        self.rates.append(model.optimizer.learning_rate)
        if epoch in self.at:
            self.at[epoch](model)

    def on_fit_end(self, model: nnx.Sequential, history: nnx.History) -> None:
        self.calls.append("end")
        self.history = history


def series(monkeypatch: pytest.MonkeyPatch, *losses: float, name: str = "loss") -> None:
    """Make validation give these values, one after each epoch."""
    given = iter(losses)
    monkeypatch.setattr(nnx.Sequential, "evaluate", lambda *args, **kwargs: {name: next(given)})


# ---- the order of things -------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_order_and_told_the_epochs() -> None:
    x, y = data()
    net, first, second = model(), Notes(), Notes()
    history = net.fit(x, y, epochs=3, callbacks=[first, second], verbose=0)
    assert first.calls == second.calls == ["begin", "epoch", "epoch", "epoch", "end"]
    assert first.epochs == [0, 1, 2]
    assert first.history is second.history is history
    assert [log["loss"] for log in first.logs] == history["loss"]
    history = net.fit(x, y, epochs=2, callbacks=(first,), verbose=0)
    assert first.epochs == [0, 1, 2, 3, 4]
    assert (history.first_epoch, history.epochs, net.epochs_done) == (3, 2, 5)


def test_callbacks_do_not_change_the_numbers() -> None:
    x, y = data()
    for batch in (None, 7):
        plain, watched = model(), model()
        history = plain.fit(x, y, 5, batch, verbose=0)
        assert watched.fit(x, y, 5, batch, callbacks=[Notes()], verbose=0)["loss"] == history["loss"]
        same(watched, plain)


def test_stop_training_ends_after_the_epoch_and_not_the_next_fit() -> None:
    x, y = data()
    net = model()
    history = net.fit(x, y, epochs=9, callbacks=[Notes({2: lambda m: setattr(m, "stop_training", True)})], verbose=0)
    assert (history.epochs, history.interrupted, net.epochs_done) == (3, False, 3)
    assert net.fit(x, y, epochs=2, verbose=0).epochs == 2


@pytest.mark.parametrize("when", ["on_fit_begin", "on_epoch_end", "on_fit_end"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_a_callback_raises_goes_up_after_on_fit_end(when: str, error: type[BaseException]) -> None:
    class Fails(Callback):
        pass

    def fail(*_: Any) -> None:
        raise error("mine")

    setattr(Fails, when, fail)
    x, y = data()
    net, before, after = model(), Notes(), Notes()
    with pytest.raises(error, match="mine"):
        net.fit(x, y, epochs=5, callbacks=[before, Fails(), after], verbose=0)
    assert before.calls[-1] == "end"
    if when == "on_epoch_end":
        assert after.calls == ["begin", "end"]
        assert net.epochs_done == before.history.epochs == 1  # type: ignore[union-attr]
    assert net.fit(x, y, verbose=0).epochs == 1  # and the model is fine


def test_a_callback_may_change_the_learning_rate_and_the_parameters() -> None:
    x, y = data()
    net, twin = model(0.1), model(0.1)
    zero = {name: np.zeros_like(a) for name, a in values(net).items()}

    def change(m: nnx.Sequential) -> None:
        m.optimizer.learning_rate = 0.003
        m.set_parameters(zero)

    net.fit(x, y, epochs=4, callbacks=[Notes({1: change})], verbose=0)
    twin.optimizer.learning_rate = 0.003
    twin.set_parameters(zero)
    twin.fit(x, y, epochs=2, verbose=0)
    same(net, twin)


# ---- history -------------------------------------------------------------------------------------------------------


def test_history_is_a_dict_of_lists_of_floats() -> None:
    x, y = data()
    history = model(weight_l2=0.1).fit(x, y, 3, 7, validation_data=(x[:5], y[:5]), verbose=0)
    names = ["loss", "data_loss", "regularization_loss", "accuracy", "val_loss", "val_accuracy"]
    assert list(history) == names
    assert len(history) == 6
    assert "val_loss" in history
    assert "nothing" not in history
    assert isinstance(history, dict)
    for name in names:
        assert len(history[name]) == 3
        assert all(type(value) is float for value in history[name])
    np.testing.assert_allclose(
        history["loss"], np.add(history["data_loss"], history["regularization_loss"]), rtol=rounding(2)
    )
    assert dict(history)["loss"] == history["loss"]
    with pytest.raises(KeyError):
        history["nothing"]
    assert (history.epochs, history.samples, history.interrupted) == (3, 90, False)
    assert history.seconds > 0
    assert history.samples_per_second == history.samples / history.seconds
    assert repr(history).startswith("<History of 3 epochs: loss ")
    assert repr(nnx.History()) == "<History of 0 epochs>"
    assert nnx.History().samples_per_second == 0
    for same in (pickle.loads(pickle.dumps(history)), copy.copy(history), copy.deepcopy(history)):
        assert (type(same), same, vars(same)) == (nnx.History, history, vars(history))


def test_history_goes_into_json_tables_and_what_is_written_for_keras() -> None:
    x, y = data()
    history = model().fit(x, y, 3, validation_data=(x[:5], y[:5]), verbose=0)
    plain = {name: list(values) for name, values in history.items()}
    for same in (json.loads(json.dumps(history)), json.loads(json.dumps(dict(history))), history.history, {**history}):
        assert (same, type(same)) == (plain, dict)
    assert history == plain
    pandas = pytest.importorskip("pandas")
    pandas.testing.assert_frame_equal(pandas.DataFrame(history), pandas.DataFrame(plain))


@pytest.mark.parametrize("batch", [None, 7, 10, 1])
def test_an_epochs_loss_is_the_mean_over_its_samples(batch: int | None) -> None:
    x, y = data()
    net, twin = model(), model()
    history = net.fit(x, y, 2, batch, shuffle=False, verbose=0)
    size = batch or len(x)
    for epoch in range(2):
        weighted = [twin.step(x[i : i + size], y[i : i + size]) * len(x[i : i + size]) for i in range(0, len(x), size)]
        assert history["loss"][epoch] == pytest.approx(sum(weighted) / len(x), rel=rounding(160, "float32"))
    same(net, twin, rtol=1e-4)  # 1e-6 was measured: some 30 steps in float32


# ---- early stopping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("losses", "arguments", "epochs", "best"), [
    ([3, 2, 2.5, 2.4, 2.3, 1], {"patience": 3}, 5, 1),
    ([3, 2, 2.5, 1, 2, 2, 2], {"patience": 3}, 7, 3),
    ([3, 2, 1], {"patience": 1}, 3, 2),
    ([1, 1, 1], {"patience": 2}, 3, 0),
    ([3, 2.95, 2.9, 2.85], {"patience": 2, "min_delta": 0.2}, 3, 0),
    ([3, 2.9, 2.7, 2.6, 2.6], {"patience": 2, "min_delta": 0.2}, 5, 2),
    ([math.nan, 1, 2], {"patience": 1}, 1, None),
    ([math.nan, math.nan, 5, 6, 7], {"patience": 2}, 2, None),
])  # fmt: skip
def test_early_stopping(
    losses: list[float], arguments: dict[str, Any], epochs: int, best: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data()
    net, kept = model(), []
    series(monkeypatch, *losses, *[0.0] * 9)
    stopping = EarlyStopping(**arguments)
    keep = Notes(dict.fromkeys(range(20), lambda m: kept.append(values(m))))
    history = net.fit(x, y, len(losses), validation_data=(x, y), callbacks=[keep, stopping], verbose=0)
    assert history.epochs == epochs
    same(net, kept[-1 if best is None else best])


@pytest.mark.parametrize(("name", "measured", "epochs"), [
    ("val_accuracy", [0.1, 0.5, 0.4, 0.45, 0.9], 4), ("val_loss", [0.1, 0.5, 0.4, 0.45, 0.9], 3),
])  # fmt: skip
def test_accuracies_are_better_when_larger(
    name: str, measured: list[float], epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data()
    series(monkeypatch, *measured, name=name.removeprefix("val_"))
    history = model().fit(x, y, 5, validation_data=(x, y), callbacks=[EarlyStopping(name, patience=2)], verbose=0)
    assert history.epochs == epochs


def test_early_stopping_may_keep_the_last_and_begins_anew_with_each_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    stopping, net, kept = EarlyStopping("val_loss", 1, restore_best=False), model(), []
    keep = Notes(dict.fromkeys(range(20), lambda m: kept.append(values(m))))
    for losses in ([1, 2], [9, 8, 8]):
        series(monkeypatch, *losses)
        assert net.fit(x, y, 9, None, (x, y), callbacks=[keep, stopping], verbose=0).epochs == len(losses)
        same(net, kept[-1])


def test_patience_is_counted_from_the_fits_own_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    net = model()
    net.fit(x, y, 20, verbose=0)
    series(monkeypatch, math.nan, math.nan, math.nan, 1, 2, 3, 4)
    stopping = EarlyStopping("val_loss", patience=3)
    assert net.fit(x, y, 9, None, (x, y), callbacks=[stopping], verbose=0).epochs == 3


def test_early_stopping_watches_training_too() -> None:
    x, y = data()
    assert model(1e-9).fit(x, y, 50, callbacks=[EarlyStopping("loss", 2, 1e-3)], verbose=0).epochs == 3


@pytest.mark.parametrize("make", [EarlyStopping, lambda name: ModelCheckpoint("unused", name)])
@pytest.mark.parametrize(("name", "words"), [("val_loss", "validation_data"), ("perplexity", "one of loss, accuracy")])
def test_watching_what_is_not_measured(make: Callable[[str], Callback], name: str, words: str) -> None:
    x, y = data()
    with pytest.raises(nnx.InputError, match=rf"'{name}' is not measured.*{words}"):
        model().fit(x, y, 3, callbacks=[make(name)], verbose=0)


WRONG_METHODS: dict[str, tuple[str, Callable[..., None], str]] = {
    "keras' name": ("on_train_batch_end", lambda self, batch, logs: None, "did you mean on_batch_end"),
    "keras' fit": ("on_train_begin", lambda self, logs: None, "did you mean on_fit_begin"),
    "a slip": ("on_epoch_ends", lambda self, model, epoch, logs: None, "did you mean on_epoch_end"),
    "another": ("on_full_moon", lambda self: None, "called at no time. These are: on_fit_begin, "),
    "keras' arguments": ("on_epoch_end", lambda self, epoch, logs=None: None, r"on_epoch_end\(model, epoch, logs\)"),
    "none": ("on_fit_begin", lambda: None, r"write def on_fit_begin\(self, model\)"),
}


@pytest.mark.parametrize("what", WRONG_METHODS)
def test_methods_that_no_fit_calls_or_can_call_are_refused_before_it_begins(what: str) -> None:
    name, method, words = WRONG_METHODS[what]
    net, (x, y) = model(), data()
    before = net._state()["values"]
    with pytest.raises(nnx.InputError, match=words):
        net.fit(x, y, 3, callbacks=[type("Mine", (Callback,), {name: method})()], verbose=0)
    np.testing.assert_array_equal(net._state()["values"], before)
    assert net.epochs_done == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping(restore_best="no"),  # type: ignore[arg-type]
        lambda: CSVLogger("unused", append="no"),  # type: ignore[arg-type]
        lambda: ModelCheckpoint("unused", monitor=0),  # type: ignore[arg-type]
        lambda: model().fit(*data(), verbose="no"),
    ],
    ids=["restore_best", "append", "monitor", "verbose"],
)
def test_what_would_count_as_true_or_as_nothing_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(nnx.errors.InputTypeError, match=r"expected ('auto', )?(True or False|a name)"):
        make()


# ---- checkpoints and logs ------------------------------------------------------------------------------------------


def test_checkpoints_after_every_epoch_and_at_the_end(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    x, y = data()
    net, path, seen = model(), tmp_path / "m.safetensors", []
    look = Notes(dict.fromkeys(range(9), lambda m: seen.append(nnx.load(path).epochs_done if path.exists() else 0)))
    net.fit(x, y, 7, callbacks=[ModelCheckpoint(path, every=3), look], verbose=0)
    assert seen == [0, 0, 3, 3, 3, 6, 6]
    again = nnx.load(path)
    assert again.epochs_done == 7
    same(again, net)


def test_checkpoint_of_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    x, y = data()
    path, kept = tmp_path / "m.safetensors", []
    series(monkeypatch, 3, 1, 2, 0.5, 4)
    keep = Notes(dict.fromkeys(range(9), lambda m: kept.append(values(m))))
    model().fit(x, y, 5, None, (x, y), callbacks=[keep, ModelCheckpoint(path, "val_loss")], verbose=0)
    assert nnx.load(path).epochs_done == 4
    same(nnx.load(path), kept[3])


def test_no_checkpoint_of_half_an_epoch(tmp_path: Path) -> None:
    """Neither when interrupted, nor when the loss stopped being finite, nor when another callback failed."""
    pytest.importorskip("safetensors")
    x, y = data()
    path = tmp_path / "m.safetensors"

    def run(net: nnx.Sequential, *others: Callback) -> None:
        path.unlink(missing_ok=True)
        net.fit(x, y, 9, 10, callbacks=[ModelCheckpoint(path, every=100), *others], verbose=0, shuffle=False)

    run(model(), Notes({1: lambda m: signal.raise_signal(signal.SIGINT)}))
    assert not path.exists()
    wild = model(1e6)
    wild.layers[0].weights = wild.layers[0].weights * 1e-30  # so that it takes more than one epoch
    with pytest.raises(nnx.NonFiniteError):
        run(wild)
    if path.exists():
        assert nnx.load(path).optimizer.iterations % 3 == 0
    with pytest.raises(ZeroDivisionError):
        run(model(), Notes({1: lambda m: 1 / 0}))  # type: ignore[dict-item, return-value]


def test_a_log_that_cannot_be_written_fails_before_training(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    x, y = data()
    net, path = model(), tmp_path / "m.safetensors"
    before = values(net)
    nowhere = tmp_path / "nowhere"
    for some in (
        [ModelCheckpoint(path), CSVLogger(nowhere / "log.csv")], [ModelCheckpoint(nowhere / "m.safetensors", every=3)]
    ):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere; make it first"):
            net.fit(x, y, 3, callbacks=some, verbose=0)
    (tmp_path / "log.csv").write_text("epoch,loss\r\n0,1.0\r\n")
    log = CSVLogger(tmp_path / "log.csv", append=True)
    with pytest.raises(nnx.InputError, match=r"columns epoch, loss, this fit writes epoch, loss, accuracy, val_"):
        net.fit(x, y, 3, callbacks=[ModelCheckpoint(path), log], validation_data=(x, y), verbose=0)
    same(net, before)
    assert net.epochs_done == 0
    assert not path.exists()


@pytest.mark.parametrize("name", ["m-{epoch:02d}.safetensors", "{epoch}-{val_loss:.2f}.safetensors"])
def test_a_checkpoints_name_is_not_filled_in(name: str, tmp_path: Path) -> None:
    with pytest.raises(nnx.InputError, match=r"\{epoch.*\} is not filled in, the one file is written again and again"):
        ModelCheckpoint(tmp_path / name)
    assert ModelCheckpoint(tmp_path / "{3F25-04E0}" / "m.safetensors").path.name == "m.safetensors"


def test_csv_logger_writes_a_line_at_once(tmp_path: Path) -> None:
    x, y = data()
    net, path, lines = model(), tmp_path / "log.csv", []
    count = Notes(dict.fromkeys(range(9), lambda m: lines.append(len(path.read_text().splitlines()))))
    history = net.fit(x, y, 3, callbacks=[CSVLogger(path), count], validation_data=(x, y), verbose=0)
    assert lines == [2, 3, 4]
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in table] == [0, 1, 2]
    for name in history:
        assert [float(row[name]) for row in table] == history[name]  # to the last bit
    more = net.fit(x, y, 2, callbacks=[CSVLogger(path, append=True)], validation_data=(x, y), verbose=0)
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in table] == [0, 1, 2, 3, 4]
    assert [float(row["loss"]) for row in table] == history["loss"] + more["loss"]
    net.fit(x, y, 1, callbacks=[CSVLogger(path)], verbose=0)
    assert len(path.read_text().splitlines()) == 2
    net.fit(x, y, 1, callbacks=[CSVLogger(tmp_path / "new.csv", append=True)], verbose=0)
    assert len((tmp_path / "new.csv").read_text().splitlines()) == 2


# ---- schedules -----------------------------------------------------------------------------------------------------

SCHEDULES: dict[str, tuple[Callable[[int], float], list[float]]] = {
    "constant": (schedules.constant(0.1), [0.1] * 5),
    "step": (schedules.step(1.0, 0.1, 2), [1, 1, 0.1, 0.1, 0.01]),
    "step, default": (schedules.step(0.8), [0.8] * 5),
    "exponential": (schedules.exponential(2.0, 0.5), [2, 1, 0.5, 0.25, 0.125]),
    "cosine": (schedules.cosine(1.0, 4, 0.2), [0.2 + 0.4 * (1 + math.cos(math.pi * t / 4)) for t in range(4)] + [0.2]),
    "cosine to 0": (schedules.cosine(2.0, 2), [2, 1, 2e-6, 2e-6, 2e-6]),
    "one cycle": (schedules.one_cycle(1.0, 5, 0.6, 10.0, 100.0), [0.1, 0.55, 1.0, 0.5005, 1e-3]),
    "one cycle, down alone": (schedules.one_cycle(1.0, 3, 0.0, 10.0, 10.0), [1.0, 0.505, 0.01, 0.01, 0.01]),
    "warmup": (schedules.warmup(schedules.constant(0.4), 4), [0.1, 0.2, 0.3, 0.4, 0.4]),
    "warmup, then down": (schedules.warmup(schedules.exponential(1.0, 0.5), 2), [0.5, 0.5, 0.25, 0.125, 0.0625]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str) -> None:
    schedule, rates = SCHEDULES[name]
    assert [schedule(epoch) for epoch in range(5)] == pytest.approx(rates, rel=1e-12)
    assert all(schedule(epoch) > 0 for epoch in range(200))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_set_each_epochs_rate(name: str) -> None:
    x, y = data()
    schedule, rates = SCHEDULES[name]
    net, twin, watch = model(), model(), Notes()
    rates = [rate / 20 for rate in rates]
    callback = LearningRateSchedule(lambda epoch: schedule(epoch) / 20)
    net.fit(x, y, 3, callbacks=[watch, callback], verbose=0)
    net.fit(x, y, 2, callbacks=[watch, callback], verbose=0)  # goes on with the fourth epoch
    assert watch.rates == pytest.approx(rates)
    for rate in rates:
        twin.optimizer.learning_rate = rate
        twin.step(x, y)
    same(net, twin)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, "0.1", None])
def test_a_schedule_that_gives_no_rate_fails_before_training(wrong: object) -> None:
    x, y = data()
    net, before = model(), values(model())
    with pytest.raises(nnx.InputError, match="learning_rate"):
        net.fit(x, y, 2, callbacks=[LearningRateSchedule(lambda epoch: wrong)], verbose=0)  # type: ignore[arg-type, return-value]
    same(net, before)
    assert net.optimizer.learning_rate == 0.01


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


def interrupt(_: Any = None) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("batch", [None, 7])
def test_ctrl_c_in_a_callback_ends_after_the_epoch(batch: int | None) -> None:
    x, y = data()
    net, watch, handler = model(), Notes({2: interrupt}), signal.getsignal(signal.SIGINT)
    history = net.fit(x, y, 9, batch, callbacks=[watch], verbose=0)
    assert (history.epochs, history.interrupted, net.epochs_done) == (3, True, 3)
    assert watch.calls[-1] == "end"
    assert signal.getsignal(signal.SIGINT) is handler
    twin = model()
    assert twin.fit(x, y, 3, batch, verbose=0)["loss"] == history["loss"]
    same(net, twin)
    assert net.fit(x, y, 1, batch, verbose=0).interrupted is False


@pytest.mark.parametrize("batch", [None, 1000])
def test_ctrl_c_at_any_moment(batch: int | None) -> None:
    x, y = data(4000)
    net = model()

    def press() -> None:
        while net.optimizer.iterations < 8:  # the first epochs are done, however slow the machine
            time.sleep(0.001)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Thread(target=press, daemon=True)
    timer.start()
    begin = time.process_time()
    history = net.fit(x, y, 10**7, batch, verbose=0)
    assert history.interrupted
    assert 0 < history.epochs == net.epochs_done < 10**7
    assert time.process_time() - begin < 10
    assert all(math.isfinite(loss) for loss in history["loss"])
    timer.join()


@pytest.mark.parametrize("batch", [None, 7])
def test_ctrl_c_before_the_first_step_of_a_block(batch: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    runs, calls = Batches._runs, itertools.count()

    def ask(self: Batches, epochs: int) -> Any:
        if next(calls) == 1:
            interrupt()
        return runs(self, epochs)

    monkeypatch.setattr(Batches, "_runs", ask)
    history = model().fit(x, y, 9, batch, callbacks=[Notes()], verbose=0)
    assert (history.epochs, history.interrupted) == (1, True)


def test_ctrl_c_before_the_first_epoch() -> None:
    class Asks(Callback):
        def on_fit_begin(self, model: nnx.Sequential) -> None:
            interrupt()

    x, y = data()
    net, before = model(), values(model())
    history = net.fit(x, y, 9, callbacks=[Asks()], verbose=0)
    assert (history.epochs, history.interrupted) == (0, True)
    same(net, before)


def test_a_second_ctrl_c_raises() -> None:
    x, y = data()
    watch, handler = Notes({1: lambda m: (interrupt(), interrupt())[0]}), signal.getsignal(signal.SIGINT)
    net = model()
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, 9, callbacks=[watch], verbose=0)
    assert watch.calls[-1] == "end"
    assert signal.getsignal(signal.SIGINT) is handler
    assert net.fit(x, y, verbose=0).epochs == 1


def test_ctrl_c_ends_a_fit_within_a_callback_and_the_fit_around_it() -> None:
    x, y = data()
    inner: list[nnx.History] = []

    def fits(_: nnx.Sequential) -> None:
        inner.append(model().fit(x, y, 9, callbacks=[Notes({1: interrupt})], verbose=0))

    handler = signal.getsignal(signal.SIGINT)
    outer = model().fit(x, y, 9, callbacks=[Notes({2: fits})], verbose=0)
    assert (inner[0].epochs, inner[0].interrupted, outer.epochs, outer.interrupted) == (2, True, 3, True)
    assert signal.getsignal(signal.SIGINT) is handler


@contextmanager
def handled_by(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    x, y = data()
    with handled_by(signal.SIG_IGN):
        history = model().fit(x, y, 5, callbacks=[Notes({1: interrupt})], verbose=0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert (history.epochs, history.interrupted) == (5, False)


def test_a_handler_of_ones_own_is_called_and_kept() -> None:
    called: list[int] = []

    def own(number: int, frame: Any) -> None:
        called.append(number)

    x, y = data()
    with handled_by(own):
        history = model().fit(x, y, 5, callbacks=[Notes({1: interrupt})], verbose=0)
        assert signal.getsignal(signal.SIGINT) is own
    assert (history.epochs, history.interrupted, called) == (5, False, [signal.SIGINT])


def test_what_a_handler_of_ones_own_raises_goes_up() -> None:
    class Enough(Exception):
        pass

    def own(number: int, frame: Any) -> None:
        raise Enough

    x, y = data()
    net, twin = model(), model()
    watch = Notes({1: interrupt})
    with handled_by(own), pytest.raises(Enough):
        net.fit(x, y, 5, callbacks=[watch], verbose=0)
    assert watch.calls[-1] == "end"
    twin.fit(x, y, 2, verbose=0)
    same(net, twin)


def test_a_handler_that_a_callback_sets_is_kept() -> None:
    x, y = data()

    def own(number: int, frame: Any) -> None:
        pass

    def sets(_: nnx.Sequential) -> None:
        signal.signal(signal.SIGINT, own)

    with handled_by(signal.default_int_handler):
        model().fit(x, y, 3, callbacks=[Notes({1: sets})], verbose=0)
        assert signal.getsignal(signal.SIGINT) is own


def test_a_handler_set_from_c_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python calls it None, and could not give it back."""
    taken: list[Any] = []
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *arguments: taken.append(arguments))
    x, y = data()
    assert model().fit(x, y, 2, verbose=0).epochs == 2
    assert not taken


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    x, y = data()
    done: list[nnx.History] = []
    thread = threading.Thread(target=lambda: done.append(model().fit(x, y, 3, verbose=0)))
    thread.start()
    thread.join()
    assert done[0].epochs == 3


@pytest.mark.parametrize("own", [False, True], ids=["replayed", "eager"])
def test_steps_hear_ctrl_c_and_have_then_done_whole_steps(own: bool) -> None:
    class Plain(nnx.Linear):
        def forward(self, inputs: Any, training: bool = False) -> Any:
            return super().forward(inputs * 1, training)

    def make() -> nnx.Sequential:
        layers = [nnx.Dense(2, 300), *([Plain()] if own else []), nnx.Tanh(), nnx.Dense(300, 1)]
        return nnx.Sequential(*layers, backend="numpy").compile(nnx.MeanSquaredError(), nnx.Adam(1e-4))

    x, y = data(300)
    net, twin = make(), make()
    losses = net.steps(x, y, 2)  # recorded by then
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.process_time()
    with pytest.raises(KeyboardInterrupt):
        net.steps(x, y, 10**8)
    assert time.process_time() - begin < 10
    timer.join()
    done = net.optimizer.iterations
    assert 2 <= done < 10**6
    np.testing.assert_array_equal(twin.steps(x, y, done)[:2], losses)
    same(net, twin)
    assert net.step(x, y) == twin.step(x, y)


def test_ctrl_c_to_a_script(tmp_path: Path) -> None:
    code = (
        "import numpy as np, nnx\n"
        "x = np.ones((64, 2), np.float32)\n"
        "net = nnx.Sequential(nnx.Dense(2, 1), backend='numpy').compile(nnx.MeanSquaredError(), nnx.SGD(1e-3))\n"
        "class Ready(nnx.callbacks.Callback):\n"
        "    def on_epoch_end(self, model, epoch, logs):\n"
        "        if epoch == 3: print('ready', flush=True)\n"
        "history = net.fit(x, x[:, :1], 10**9, 16, callbacks=[Ready()], verbose=0)\n"
        "print(history.interrupted, history.epochs == net.epochs_done > 3)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "True True\n", "")


# ---- losses that are not finite ------------------------------------------------------------------------------------


def diverging(dtype: str) -> nnx.Sequential:
    net = nnx.Sequential(nnx.Dense(2, 4), nnx.ReLU(), nnx.Dense(4, 1), seed=1, backend="numpy", dtype=dtype)
    return net.compile(nnx.MeanSquaredError(), nnx.SGD(2.0, momentum=0.5))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [None, 7, 15])
@pytest.mark.parametrize("watched", [True, False], ids=["epoch by epoch", "epochs in blocks"])
def test_the_model_stays_as_before_the_step(batch: int | None, watched: bool, dtype: str) -> None:
    x, y = data()
    net, twin, size, watch = diverging(dtype), diverging(dtype), batch or len(x), Notes()
    losses: list[float] = []
    with np.errstate(all="ignore"):
        for i in itertools.cycle(range(0, len(x), size)):
            before, moments = values(twin), np.array(twin.flat.state)
            losses.append(twin.step(x[i : i + size], y[i : i + size]))
            if not math.isfinite(losses[-1]):
                break
    steps, per_epoch = len(losses) - 1, -(-len(x) // size)
    assert steps > 2
    with pytest.raises(nnx.NonFiniteError) as caught:
        net.fit(x, y, 1000, batch, shuffle=False, callbacks=[watch] if watched else [], verbose=0)
    same(net, before, rtol=1e-3)
    np.testing.assert_allclose(net.flat.state, moments, rtol=1e-3)
    assert np.isfinite(net.flat.values).all()
    assert net.optimizer.iterations == steps
    assert net.epochs_done == steps // per_epoch
    text = str(caught.value)
    assert f"in step {steps + 1} (epoch {steps // per_epoch + 1})" in text
    assert "learning rate (now 2)" in text
    if watched:
        assert watch.calls[-1] == "end"
        assert watch.history is not None
        assert watch.history.epochs == steps // per_epoch
        sizes = [len(x[i : i + size]) for i in range(0, len(x), size)]
        want = [
            np.average(losses[i : i + per_epoch], weights=sizes) for i in range(0, steps + 1 - per_epoch, per_epoch)
        ]
        assert watch.history["loss"] == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize(("number", "place"), [(0, "layer 0, Dense(2, 4)"), (2, "layer 2, Dense(4, 4)"),
                                               (4, "layer 4, Dense(4, 1)")])  # fmt: skip
def test_the_layer_where_it_began_is_named(number: int, place: str) -> None:
    x, y = data()
    net = nnx.Sequential(nnx.Dense(2, 4), nnx.ReLU(), nnx.Dense(4, 4), nnx.ReLU(), nnx.Dense(4, 1), backend="numpy")
    net.compile(nnx.MeanSquaredError(), nnx.SGD(0.1))
    net.set_parameters({name: np.ones_like(a) for name, a in net.parameters().items()})
    dense: Any = net.layers[number]
    dense.weights = np.full(dense.weights.shape, 3e38)
    x = np.abs(x) + 2
    with pytest.raises(nnx.NonFiniteError, match=r"in step 1 \(epoch 1\)") as caught:
        net.fit(x, y, verbose=0)
    assert f"the output of {place}" in str(caught.value)
    dense.weights[0, 0] = np.inf  # in place, so that nothing checks it
    with pytest.raises(nnx.NonFiniteError) as caught:
        net.fit(x, y, 2, 7, verbose=0)
    assert f"the weights of {place}" in str(caught.value)


def test_a_loss_that_overflows_by_itself_is_named() -> None:
    x, y = data()
    with pytest.raises(nnx.NonFiniteError, match=r"the loss itself.*scale the inputs and the targets"):
        model().fit(x, np.full_like(y, 1e30), verbose=0)


def test_an_overflowing_penalty_is_found() -> None:
    x, y = data()
    net = nnx.Sequential(nnx.Dense(2, 1, weight_l2=1e300), backend="numpy", dtype="float64")
    net.compile(nnx.MeanSquaredError(), nnx.SGD(1e-300))
    net.layers[0].weights = np.full((2, 1), 1e10)  # type: ignore[attr-defined]
    before = copy.deepcopy(net)
    with pytest.raises(nnx.NonFiniteError):
        net.fit(x, y, verbose=0)
    same(net, before)


def test_the_base_class_does_nothing() -> None:
    x, y = data()
    assert model().fit(x, y, 2, callbacks=[callbacks.Callback()], verbose=0).epochs == 2


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_history_has_the_same_bits_whether_epochs_come_one_by_one_or_many_at_once(batch: int | None, weighted: bool):
    x, _ = data()
    y = (x > 0).sum(axis=1)
    weights = np.linspace(0.5, 2, len(x)) if weighted else None
    found = []
    for each in ([], [Callback()]):
        model = nnx.Sequential(nnx.Dense(2, 8, weight_l2=1e-2), nnx.ReLU(), nnx.Dense(8, 3), nnx.Softmax())
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05))
        how: dict[str, Any] = {"batch_size": batch, "sample_weight": weights, "callbacks": each, "verbose": 0}
        found.append(model.fit(x, y, epochs=9, **how))
    assert found[0].keys() == {"loss", "data_loss", "regularization_loss", "accuracy"}
    assert dict(found[0]) == dict(found[1])
    assert found[0].samples == found[1].samples == 9 * len(x)
