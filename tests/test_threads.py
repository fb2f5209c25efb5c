"""Several threads and one model: one trains, any number predicts, and what they get is of whole steps."""

import copy
import inspect
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.errors import InputError, InUseError
from nnx.owner import Owner
from nnx.training.trainer import Trainer

BACKENDS = ["numpy", "numba"]
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(autouse=True, scope="module")
def blas_threads() -> None:
    """BLAS takes as many threads as it does for users."""


def data(rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((rows, 4))
    return x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)


def model(*layers: nnx.Layer, backend: Any = "numpy") -> nnx.Sequential:
    net = nnx.Sequential(*(layers or (nnx.Dense(4, 8), nnx.ReLU(), nnx.Dense(8, 3), nnx.Softmax())), backend=backend)
    return net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))


class Own(nnx.Layer):
    """A layer of the user's own: it runs as written, in one workspace."""

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.output = inputs * 2
        time.sleep(0)  # another thread's turn
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.dinputs = dvalues * 2
        return self.dinputs


class Trains(Own):
    """Has something done while it is copied."""

    @staticmethod
    def meanwhile() -> None:
        """Replaced by what is to be done."""

    def __getstate__(self) -> dict[str, Any]:
        self.meanwhile()
        return super().__getstate__()


class Waits(nnx.callbacks.Callback):
    """Holds a fit in an epoch's end until it is told to go on."""

    def __init__(self) -> None:
        self.there, self.go = threading.Event(), threading.Event()

    def on_epoch_end(self, model: nnx.Sequential, epoch: int, logs: Any) -> None:
        self.there.set()
        assert self.go.wait(600)


def within(function: Callable[[], Any]) -> Any:
    """Call something in a thread; return what it returned or raised."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(600)
    assert results, "it hangs"
    return results[0]


@contextmanager
def a_fit_elsewhere(net: nnx.Sequential) -> Iterator[None]:
    """Within the block another thread, named fitter, is in a callback of a fit of the model."""
    waits = Waits()
    fitter = threading.Thread(target=lambda: net.fit(*data(), epochs=1, callbacks=[waits], verbose=0), name="fitter")
    fitter.start()
    try:
        assert waits.there.wait(600)
        yield
    finally:
        waits.go.set()
        fitter.join(600)


CHANGES: dict[str, Callable[[nnx.Sequential], Any]] = {
    "fit": lambda m: m.fit(*data(), verbose=0),
    "step": lambda m: m.step(*data()),
    "steps": lambda m: m.steps(*data(), 2),
    "compile": lambda m: m.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1)),
    "to": lambda m: m.to("numpy", "float64"),
    "resume": lambda m: m.resume(5, 0.0),
    "layers": lambda m: setattr(m, "layers", m.layers[:2]),
    "loss": lambda m: setattr(m, "loss", nnx.CategoricalCrossEntropy()),
    "optimizer": lambda m: setattr(m, "optimizer", nnx.SGD(0.1)),
}
PARAMETERS: dict[str, Callable[[nnx.Sequential], Any]] = {
    "set_parameters": lambda m: m.set_parameters({k: a * 0.5 for k, a in m.parameters().items()}),
    "weights": lambda m: setattr(m.layers[0], "weights", np.ones((4, 8))),
}


@pytest.mark.parametrize("name", [*CHANGES, *PARAMETERS])
def test_while_a_model_is_fitted_another_thread_may_not_change_it(name: str) -> None:
    net, change = model(), {**CHANGES, **PARAMETERS}[name]
    with a_fit_elsewhere(net):
        before = net.flat.state.copy()
        with pytest.raises(InUseError, match=r"another thread 'fitter' is in fit\(\).*copy.deepcopy"):
            change(net)
        np.testing.assert_array_equal(net.flat.state, before)
        assert net.backend.name == "numpy"
    change(net)


@pytest.mark.parametrize("name", CHANGES)
def test_within_a_fit_a_callback_may_not_change_the_model_otherwise(name: str) -> None:
    refused: list[InputError] = []

    class Meddles(nnx.callbacks.Callback):
        def on_epoch_end(self, model: nnx.Sequential, epoch: int, logs: Any) -> None:
            with pytest.raises(InputError, match=rf"{name}.*fit\(\) of this model is running") as caught:
                CHANGES[name](model)
            refused.append(caught.value)

    net, twin = model(), model()
    history = net.fit(*data(), epochs=5, batch_size=16, callbacks=[Meddles()], verbose=0)
    assert len(refused) == 5
    assert history["loss"] == twin.fit(*data(), epochs=5, batch_size=16, verbose=0)["loss"]
    np.testing.assert_array_equal(net.flat.state, twin.flat.state)
    CHANGES[name](net)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [None, 16])
def test_within_a_fit_a_callback_may_change_parameters_and_the_rate_and_use_the_model(
    batch: int | None, backend: str
) -> None:
    pytest.importorskip(backend)
    copies: list[nnx.Sequential] = []

    class Uses(nnx.callbacks.Callback):
        def on_epoch_end(self, model: nnx.Sequential, epoch: int, logs: Any) -> None:
            model.predict(data()[0])
            assert model.evaluate(*data())["loss"] == within(lambda: model.evaluate(*data()))["loss"]
            copies.append(pickle.loads(pickle.dumps(copy.deepcopy(model))))
            copies[-1].steps(*data(), 2)
            model.optimizer.learning_rate = 0.02
            for change in PARAMETERS.values():
                change(model)
            model.metadata["epoch"] = epoch

    net = model(backend=backend)
    history = net.fit(*data(), epochs=3, batch_size=batch, callbacks=[Uses()], verbose=0)
    assert (history.epochs, net.metadata, net.optimizer.learning_rate) == (3, {"epoch": 2}, 0.02)
    np.testing.assert_array_equal(net.layers[0].weights, 1)
    assert len({a.parameters()["2.weights"].tobytes() for a in copies}) == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_model_is_free_again_whatever_ended_its_fit(error: type[BaseException]) -> None:
    class Fails(nnx.callbacks.Callback):
        def on_epoch_end(self, model: nnx.Sequential, epoch: int, logs: Any) -> None:
            raise error

    net = model()
    with pytest.raises(error):
        net.fit(*data(), callbacks=[Fails()], verbose=0)
    with pytest.raises(InputError, match="epochs"):
        net.fit(*data(), epochs=0)
    assert within(lambda: net.step(*data())) > 0


def test_a_fit_of_another_model_within_a_callback_is_no_concern_of_the_first() -> None:
    losses: list[float] = []

    class Inner(nnx.callbacks.Callback):
        def on_epoch_end(self, model_: nnx.Sequential, epoch: int, logs: Any) -> None:
            losses.extend(model().fit(*data(), epochs=2, verbose=0)["loss"])

    alone = model().fit(*data(), epochs=2, verbose=0)["loss"]
    assert model().fit(*data(), epochs=2, callbacks=[Inner()], verbose=0)["loss"] == alone
    assert losses == alone * 2


@pytest.mark.parametrize(
    "work", [lambda m: m.step(*data()), lambda m: m.fit(*data(), batch_size=16, verbose=0)], ids=["step", "fit"]
)
def test_of_many_threads_that_train_at_once_each_does_whole_work_or_is_refused(
    work: Callable[[nnx.Sequential], Any],
) -> None:
    net, done, wrong = model(), [0] * 4, []
    per_call = 3 if isinstance(work(net), nnx.History) else 1

    def train(number: int) -> None:
        for _ in range(25):
            try:
                work(net)
                done[number] += 1
            except InUseError:
                time.sleep(0.001)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not wrong
    assert net.optimizer.iterations == (sum(done) + 1) * per_call
    twin = model()
    for _ in range(sum(done) + 1):
        work(twin)
    np.testing.assert_array_equal(net.flat.state, twin.flat.state)


def test_threads_that_do_steps_of_one_model_take_turns() -> None:
    net, wrong = model(), []

    def train() -> None:
        try:
            for _ in range(100):
                net.step(*data())
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=train) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not wrong
    assert net.optimizer.iterations == 300
    assert net._owner.queue == {}


# ---- those who read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [False, True], ids=["nnx's layers", "a layer of one's own"])
def test_many_threads_evaluate_at_once(own: bool, backend: str) -> None:
    pytest.importorskip(backend)
    net = model(nnx.Dense(4, 8), Own() if own else nnx.Tanh(), nnx.Dense(8, 3), nnx.Softmax(), backend=backend)
    sets = [data(rows) for rows in (80, 130, 400)]
    wanted, wrong = [net.evaluate(*some, batch_size=64) for some in sets], []

    def work(number: int) -> None:
        for _ in range(60):
            got = net.evaluate(*sets[number], batch_size=64)
            if got != wanted[number]:
                wrong.append((got, wanted[number]))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
    finally:
        sys.setswitchinterval(before)
    assert not wrong


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [False, True], ids=["nnx's layers", "a layer of one's own"])
@pytest.mark.parametrize("rows", [1, 70])
def test_what_others_read_while_a_model_is_trained_is_of_a_whole_step(rows: int, own: bool, backend: str) -> None:
    """With every step all outputs move, so a prediction from within a step is that of no state."""
    pytest.importorskip(backend)

    def build() -> nnx.Sequential:
        layers = [nnx.Dense(4, 16), *([Own()] if own else []), nnx.Tanh(), nnx.Dense(16, 3), nnx.Softmax()]
        return model(*layers, backend=backend)

    x, y = data(64)
    some, net, twin = data(rows)[0].astype(np.float32), build(), build()
    states = {twin.predict(some).tobytes()}
    for _ in range(80):
        twin.step(x, y)
        states.add(twin.predict(some).tobytes())
    seen, over = [], threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(net.predict(some).tobytes())

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for n in (1, 6, 24):
            for _ in range(24 // n):
                net.steps(x, y, n)
    finally:
        over.set()
        for reader in readers:
            reader.join(600)
    assert net.optimizer.iterations <= 80
    assert seen
    assert set(seen) <= states


def test_what_is_read_from_within_reading_does_not_wait_for_steps_that_wait_for_it() -> None:
    net, (x, y), within = model(), data(64), threading.Event()
    rows = data(4)[0]

    def metric(y_true: Any, y_pred: Any) -> float:
        within.set()
        while net._owner.mark is not None:
            time.sleep(0.001)
        return float(net.predict(rows).sum())

    net.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1), metrics=[metric])
    reader = threading.Thread(target=net.evaluate, args=(x, y), daemon=True)
    reader.start()
    assert within.wait(600)
    steps = threading.Thread(target=net.step, args=(x, y), daemon=True)
    steps.start()
    for thread in (reader, steps):
        thread.join(600)
        assert not thread.is_alive()


def test_a_fit_lets_those_predict_who_wait() -> None:
    """Its steps follow one another at once: without courtesy a waiting thread would hardly ever have its turn."""
    net, over, predicted = model(), threading.Event(), []

    class Ends(nnx.callbacks.Callback):
        def on_epoch_end(self, model: nnx.Sequential, epoch: int, logs: Any) -> None:
            model.stop_training = len(predicted) >= 5

    def look() -> None:
        while not over.is_set():
            predicted.append(net.predict(data()[0]))

    reader = threading.Thread(target=look)
    fitter = threading.Thread(target=lambda: net.fit(*data(), epochs=10**6, callbacks=[Ends()], verbose=0), daemon=True)
    fitter.start()
    reader.start()
    fitter.join(600)
    over.set()
    reader.join(600)
    assert not fitter.is_alive()


def test_a_change_waits_for_those_who_read_and_they_for_it() -> None:
    net, there, go, order = model(), threading.Event(), threading.Event(), []

    class Slow(Own):
        def forward(self, inputs: Any, training: bool = False) -> Any:
            if not training:
                there.set()
                assert go.wait(600)
            return super().forward(inputs, training)

    net = model(nnx.Dense(4, 3), Slow(), nnx.Softmax())
    reader = threading.Thread(target=lambda: order.append(("read", net.predict(data()[0]))))
    writer = threading.Thread(target=lambda: order.append(("changed", net.set_parameters(zeros))))
    zeros = {name: np.zeros(a.shape) for name, a in net.parameters().items()}
    reader.start()
    assert there.wait(600)
    writer.start()
    while net._owner.mark is not None:  # until it is the change's turn
        time.sleep(0.001)
    go.set()
    reader.join(600)
    writer.join(600)
    assert [what for what, _ in order] == ["read", "changed"]
    assert np.ptp(order[0][1][:, 0]) > 0
    np.testing.assert_allclose(net.predict(data()[0]), 1 / 3, rtol=1e-6)


@FORKS
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_is_held_up_by_none_of_its_parents_threads() -> None:
    net = model()
    owner = net._owner
    with a_fit_elsewhere(net):
        owner.mark, owner.readers[object()] = None, -1  # as if it were in a step, and another thread read
        owner.layers.acquire()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if within(lambda: net.step(*data()) + net.evaluate(*data())["loss"]) > 0 else 1)
        owner.layers.release()
        owner.mark = object()
        owner.readers.clear()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@FORKS
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_nor_by_one_that_predicts_with_a_layer_of_ones_own() -> None:
    there, go = threading.Event(), threading.Event()

    class Slow(Own):
        def forward(self, inputs: Any, training: bool = False) -> Any:
            there.set()
            assert go.wait(600)
            return super().forward(inputs, training)

    net = model(nnx.Dense(4, 3), Slow(), nnx.Softmax())
    reader = threading.Thread(target=lambda: net.predict(data()[0]))
    reader.start()
    assert there.wait(600)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        go.set()
        os._exit(0 if net.predict(data()[0]).shape == (40, 3) else 1)
    go.set()
    reader.join(600)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("way", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_of_a_whole_step_where_another_thread_trains_meanwhile(way: Callable[[Any], Any]) -> None:
    """The last layer's parameters are asked for after all others', when a step has been done since."""
    net, steps = model(nnx.Dense(4, 3), Trains(), nnx.Dense(3, 3), nnx.Softmax()), []
    net.step(*data())
    before = net.flat.state.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trains, "meanwhile", staticmethod(lambda: steps.append(within(lambda: net.step(*data())))))
        other = way(net)
    assert len(steps) == 1
    assert not np.array_equal(net.flat.state, before)
    np.testing.assert_array_equal(other.flat.state, before)
    assert other.optimizer.iterations == 1
    other.step(*data())
    np.testing.assert_array_equal(other.flat.state, net.flat.state)


def test_copies_and_pickles_have_an_owner_of_their_own() -> None:
    owner = Owner()
    owner.holder = ("fit", 1)
    for other in (copy.copy(owner), copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
        assert other is not owner
        assert other.holder is None


def test_the_models_of_the_book_are_trained_by_one_thread_too() -> None:
    from nnx import nnfs

    net = nnfs.Model()
    for layer in (nnfs.Layer_Dense(4, 3), nnfs.Activation_Softmax()):
        net.add(layer)
    accuracy = nnfs.Accuracy_Categorical()
    net.set(loss=nnfs.Loss_CategoricalCrossentropy(), optimizer=nnfs.Optimizer_SGD(), accuracy=accuracy)
    net.finalize()
    there, go, before = threading.Event(), threading.Event(), accuracy.init

    def waits(*arguments: Any) -> None:
        there.set()
        assert go.wait(600)
        before(*arguments)

    accuracy.init = waits  # type: ignore[method-assign]
    trainer = threading.Thread(target=net.train, args=data(), name="book")
    trainer.start()
    assert there.wait(600)
    for use in (lambda: net.train(*data()), lambda: net.evaluate(*data()), lambda: net.predict(data()[0])):
        with pytest.raises(InUseError, match=r"another thread 'book' is in train\(\)"):
            use()
    go.set()
    trainer.join(600)
    wanted, wrong = [net.predict(data(rows)[0]) for rows in (40, 90)], []

    def predict(number: int) -> None:
        x = data((40, 90)[number])[0]
        wrong.extend(number for _ in range(200) if not np.array_equal(net.predict(x), wanted[number]))

    threads = [threading.Thread(target=predict, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not wrong


def test_a_callback_that_watches_watches_one_fit_at_a_time() -> None:
    stopping = nnx.callbacks.EarlyStopping("loss")
    net, other, waits = model(), model(), Waits()
    fitter = threading.Thread(target=lambda: net.fit(*data(), epochs=2, callbacks=[stopping, waits], verbose=0))
    fitter.start()
    assert waits.there.wait(600)
    before = other.flat.state.copy()
    with pytest.raises(InputError, match="EarlyStopping: it watches another fit"):
        other.fit(*data(), callbacks=[stopping], verbose=0)
    np.testing.assert_array_equal(other.flat.state, before)
    waits.go.set()
    fitter.join(600)
    other.fit(*data(), callbacks=[stopping], verbose=0)


# ---- interrupted at any bytecode -------------------------------------------------------------------------------------


class Cut(BaseException):
    """Comes from anywhere, as a signal's handler raises."""


@contextmanager
def cut_at(place: int) -> Iterator[list[int]]:
    """Raise Cut at the nth place in the block where a signal could come; give the number of places met.

    They are the beginning of a Python function and the end of one in C: there CPython looks for signals, and at the end
    of a loop's body.
    """
    count = [0]

    def profile(frame: Any, event: str, argument: Any) -> None:
        closing = frame.f_code.co_flags & inspect.CO_GENERATOR  # tells of a call, but no signal is looked for
        if event == "c_return" or (event == "call" and not closing):
            count[0] += 1
            if count[0] == place:
                sys.setprofile(None)
                raise Cut

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(before)


def check_whole(net: nnx.Sequential, twin: nnx.Sequential) -> None:
    """Check that a model is as after a number of whole steps, which its twin then does too, and that it is free."""
    trainer = net._trainer
    assert trainer is not None
    assert int(trainer.counters[0]) == net.optimizer.iterations
    while twin.optimizer.iterations < net.optimizer.iterations:
        twin.step(*data(8))
    np.testing.assert_array_equal(net.flat.state, twin.flat.state)
    assert all(part.backend is net.backend for part in [*net.layers, net.loss, trainer.loss])
    assert (net._owner.holder, net._owner.readers, net._owner.queue) == (None, {}, {})
    assert net._owner.mark is not None


def test_settings_that_were_taken_over_in_part_are_taken_over_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net, twin, fuse = model(), model(), Trainer._fuse

    def cut(self: Trainer) -> None:
        monkeypatch.setattr(Trainer, "_fuse", fuse)
        raise Cut

    for one in (net, twin):
        one.step(*data())
        one.layers[0].weight_l2 = 0.5
    monkeypatch.setattr(Trainer, "_fuse", cut)
    with pytest.raises(Cut):
        net.step(*data())
    assert net.step(*data()) == twin.step(*data())
    np.testing.assert_array_equal(net.flat.state, twin.flat.state)
    assert net.eager_reason is None


@pytest.mark.parametrize("kind", ["replayed", "eager"])
@pytest.mark.parametrize("work", ["steps recorded", "steps", "fit"])
def test_work_cut_short_anywhere_leaves_whole_steps_behind(work: str, kind: str) -> None:
    net, twin = (
        model(nnx.Dense(4, 5), Own() if kind == "eager" else nnx.Tanh(), nnx.Dense(5, 3), nnx.Softmax())
        for _ in range(2)
    )
    errors, handler, place, done = np.geterr(), signal.getsignal(signal.SIGINT), 0, set()
    net.fit(*data(8), epochs=2, verbose=0)
    net.steps(*data(8), 2)
    while True:
        place += 3  # of some thousand where a step is recorded
        before = net.optimizer.iterations
        if work == "steps recorded":
            net._trainer._forget()  # type: ignore[union-attr]
        try:
            with cut_at(place):
                _ = net.fit(*data(8), epochs=3, verbose=0) if work == "fit" else net.steps(*data(8), 3)
        except Cut:
            assert signal.getsignal(signal.SIGINT) is handler
        else:
            break
        np.seterr(**errors)  # which older versions of NumPy do not put back themselves
        check_whole(net, twin)
        done.add(net.optimizer.iterations - before)
    assert {0, 3} <= done
    assert net.optimizer.iterations == before + 3
    net.step(*data(8))
    check_whole(net, twin)
    assert place > 100
