"""Many networks trained at once: each as by its own fit, bit for bit, whatever becomes of the others."""

import copy
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.callbacks import Callback, EarlyStopping
from nnx.errors import InputError, InputTypeError, InUseError, NonFiniteError
from nnx.training import beside

X, Y = nnx.datasets.spiral(20, 3)


def net(seed: int = 0, width: int = 8, **more: Any) -> nnx.Sequential:
    layers = nnx.Dense(2, width), nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(width, 3), nnx.Softmax()
    model = nnx.Sequential(*layers, seed=seed, **{"backend": "numpy", **more})
    return model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.02))


def state(model: nnx.Sequential) -> list[bytes]:
    kept = [a.tobytes() for a in model._host_parameters().values()]
    return [*kept, model.flat.state.tobytes(), str((model.epochs_done, model.optimizer.iterations)).encode()]


def same(models: list[nnx.Sequential], **arguments: Any) -> None:
    """Train models at once and, copies of them, one by one: all that is left of both must be the same bits."""
    lone = copy.deepcopy(models)
    data = arguments.pop("data", (X, Y))
    histories = nnx.fit_many(models, *data, verbose=0, **arguments)
    expected = [model.fit(*data, verbose=0, **arguments) for model in lone]
    assert [dict(history) for history in histories] == [dict(history) for history in expected]
    assert list(map(state, models)) == list(map(state, lone))
    assert all(history.complete for history in histories)


def no_thread_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("nnx-fit"):
            thread.join(60)  # it has nothing more to do than to end
            assert not thread.is_alive()


class Meanwhile(Callback):
    """Does something after an epoch, and counts them."""

    def __init__(self, at: int, do: Callable[[Any], None]) -> None:
        self.at, self.do, self.epochs = at, do, 0

    def on_epoch_end(self, model: Any, epoch: int, logs: Mapping[str, float]) -> None:
        self.epochs += 1
        if epoch + 1 == self.at:
            self.do(model)


# ---- the same as one by one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_models_trained_at_once_are_those_trained_one_by_one_bit_for_bit(backend: str) -> None:
    same([net(seed, backend=backend) for seed in range(5)], epochs=300)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_so_they_are_in_shuffled_batches_with_validation_and_weights(backend: str) -> None:
    more = {"validation_data": (X, Y), "sample_weight": np.arange(60) % 3, "class_weight": "balanced"}
    same([net(seed, backend=backend) for seed in range(3)], epochs=3, batch_size=16, **more)
    same([net(seed, backend=backend) for seed in range(2)], epochs=2, batch_size=16, validation_split=0.2, accumulate=2)


def test_steps_that_let_the_others_on_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "WORTH", 0.0)
    same([net(seed, backend="numba") for seed in range(6)], epochs=20, batch_size=16)


def test_models_may_differ_in_shape_type_backend_loss_and_optimizer() -> None:
    other = nnx.Sequential(nnx.Dense(2, 5), nnx.Tanh(), nnx.Dense(5, 3), dtype="float64", backend="numba", seed=7)
    other.compile(nnx.SoftmaxCrossEntropy(), nnx.SGD(0.1, momentum=0.9))
    numbers = nnx.Sequential(nnx.Dense(2, 3), backend="numpy").compile(nnx.MeanSquaredError(), nnx.RMSprop())
    onehot = np.eye(3)[Y]
    same([net(0), net(1, width=33, backend="numba"), other, numbers], epochs=40, data=(X, onehot))


def test_training_goes_on_where_it_ended_and_one_model_alone_will_do() -> None:
    models = [net(0), net(1)]
    same(models, epochs=4)
    same(models, epochs=3, batch_size=20)
    same([models[0]], epochs=2)


def test_losses_and_optimizers_given_to_several_are_each_models_own() -> None:
    loss, optimizer = nnx.CategoricalCrossEntropy(), nnx.Adam(0.02)
    same([net(seed).compile(loss, optimizer) for seed in range(3)], epochs=5)
    assert optimizer.iterations == 0


def test_a_function_that_makes_batches_is_called_for_each_model() -> None:
    called: list[int] = []

    def batches() -> Any:
        called.append(1)
        return ((X[i : i + 20], Y[i : i + 20]) for i in range(0, 60, 20))

    same([net(0), net(1)], epochs=2, data=(batches,))
    assert len(called) >= 8


def test_more_threads_than_cores_and_many_small_models_do_each_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnx.training.many.get_threads", lambda: 8)
    monkeypatch.setattr(beside, "WORTH", 0.0)
    same([net(seed, width=4 + seed % 5, backend="numba") for seed in range(24)], epochs=30)


def test_large_steps_that_take_several_threads_by_themselves_give_the_same_bits_too(two_threads: None) -> None:
    x = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    y = np.arange(256) % 10

    def wide(seed: int) -> nnx.Sequential:
        layers = nnx.Dense(64, 128), nnx.ReLU(), nnx.Dense(128, 10), nnx.Softmax()
        model = nnx.Sequential(*layers, backend="numba", seed=seed)
        return model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))

    same([wide(seed) for seed in range(3)], epochs=30, batch_size=128, data=(x, y))


def test_without_another_thread_the_caller_trains_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    same([net(0), net(1)], epochs=3)


def test_fits_go_on_in_native_code_while_another_has_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model's callback waits until the other has done all its epochs, which it could not, were both in line."""
    monkeypatch.setattr("nnx.training.many.get_threads", lambda: 2)
    models = [net(0, backend="numba"), net(1, backend="numba")]
    fits = [beside.Beside(threading.Lock(), beside.Interrupt()) for _ in models]
    turn = fits[0]._turn
    turn.acquire()
    with fits[0].letting_go(1.0):
        assert turn.acquire(blocking=False)
        turn.release()
    assert turn.locked()
    with fits[0].letting_go(0.0):
        assert turn.locked()


# ---- callbacks -------------------------------------------------------------------------------------------------------


def test_each_model_has_its_own_callbacks() -> None:
    models = [net(seed) for seed in range(3)]
    lists: list[list[Callback]] = [[EarlyStopping("loss", patience=1, min_delta=10.0)], [], [Meanwhile(9, print)]]
    histories = nnx.fit_many(models, X, Y, epochs=6, callbacks=lists, verbose=0)
    assert [history.epochs for history in histories] == [2, 6, 6]
    assert lists[2][0].epochs == 6


def test_a_callback_that_would_serve_two_models_is_refused() -> None:
    models, one = [net(0), net(1)], EarlyStopping("loss")
    with pytest.raises(
        InputTypeError, match=r"EarlyStopping is no list.*\[\[EarlyStopping\(\)\] for model in models\]"
    ):
        nnx.fit_many(models, X, Y, callbacks=[one], verbose=0)
    with pytest.raises(InputError, match=r"the same EarlyStopping is given for models\[0\] and models\[1\]"):
        nnx.fit_many(models, X, Y, callbacks=[[one], [one]], verbose=0)
    with pytest.raises(InputError, match="callbacks has 1 lists for 2 models"):
        nnx.fit_many(models, X, Y, callbacks=[[one]], verbose=0)
    with pytest.raises(InputTypeError, match="callbacks=<nnx"):
        nnx.fit_many(models, X, Y, callbacks=one, verbose=0)
    with pytest.raises(InputTypeError, match=r"models\[1\]: "):
        nnx.fit_many(models, X, Y, callbacks=[[], ["no callback"]], verbose=0)
    assert [model.epochs_done for model in models] == [0, 0]


def test_a_callback_may_ask_another_model_that_is_trained_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "WORTH", 0.0)
    models, answers = [net(seed, backend="numba") for seed in range(2)], list[np.ndarray]()
    ask = Meanwhile(5, lambda model: answers.append(models[1].predict(X)))
    nnx.fit_many(models, X, Y, epochs=200, callbacks=[[ask], []], verbose=0)
    assert answers[0].shape == (60, 3)


# ---- refused before anything is changed ------------------------------------------------------------------------------


def test_what_is_no_list_of_models_is_refused() -> None:
    one = net(0)
    for given, words in (
        ([], "the list of models is empty"), (one, "models is a Sequential; expected a list"),
        ([one, "x"], r"models\[1\] is 'x', expected a model"),
        ([one, net(1), one], r"models\[2\] is the same model as models\[0\].*copy.deepcopy"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            nnx.fit_many(given, X, Y, verbose=0)  # type: ignore[arg-type]
    assert one.epochs_done == 0


def test_a_model_or_data_that_do_not_fit_are_named_before_any_is_trained() -> None:
    first, bare = net(0), nnx.Sequential(nnx.Dense(2, 3), nnx.Softmax(), backend="numpy")
    with pytest.raises(InputError, match=r"^models\[1\]: fit: the model has no loss"):
        nnx.fit_many([first, bare], X, Y, verbose=0)
    wide = nnx.Sequential(nnx.Dense(3, 3), nnx.Softmax(), backend="numpy")
    wide.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    with pytest.raises(InputError, match=r"^models\[1\]: .*2 features"):
        nnx.fit_many([first, wide], X, Y, verbose=0)
    with pytest.raises(InputError, match=r"^models\[0\]: fit: epochs"):
        nnx.fit_many([first, net(1)], X, Y, epochs=-1, verbose=0)
    with pytest.raises(InputError, match=r"x is a generator, which gives its batches once, and 2 models want them"):
        nnx.fit_many([first, net(1)], ((X, Y) for _ in range(1)), verbose=0)
    assert first.epochs_done == 0
    assert first.optimizer.iterations == 0


def test_a_model_that_another_thread_trains_is_refused_by_its_number() -> None:
    busy, begun, go_on = net(1), threading.Event(), threading.Event()
    hold = Meanwhile(1, lambda model: (begun.set(), go_on.wait(60))[0])
    thread = threading.Thread(target=busy.fit, args=(X, Y), kwargs={"callbacks": [hold], "verbose": 0})
    thread.start()
    try:
        assert begun.wait(60)
        with pytest.raises(InUseError, match=r"^models\[1\]: fit: another thread"):
            nnx.fit_many([net(0), busy], X, Y, verbose=0)
    finally:
        go_on.set()
        thread.join()


# ---- what goes wrong meanwhile ---------------------------------------------------------------------------------------


def test_where_one_fails_the_others_are_trained_to_the_end_and_the_error_says_which() -> None:
    models = [net(seed) for seed in range(4)]
    models[2].compile(nnx.CategoricalCrossEntropy(), nnx.SGD(1e30))
    alone = copy.deepcopy(models[2])
    with pytest.raises(NonFiniteError, match=r"^models\[2\]: the loss became") as caught:
        nnx.fit_many(models, X, Y, epochs=5, verbose=0)
    with pytest.raises(NonFiniteError):
        alone.fit(X, Y, epochs=5, verbose=0)
    assert [model.epochs_done for model in models] == [5, 5, alone.epochs_done, 5]
    assert state(models[2]) == state(alone)
    found: Any = caught.value
    assert [history if history is None else history.epochs for history in found.histories] == [5, 5, None, 5]
    nnx.fit_many([models[0], models[3]], X, Y, verbose=0)


def test_of_several_errors_the_first_models_is_raised_and_the_others_are_noted() -> None:
    def fail(model: Any) -> None:
        raise KeyError("of the user's own")

    models = [net(seed) for seed in range(3)]
    models[2].compile(nnx.CategoricalCrossEntropy(), nnx.SGD(1e30))
    with pytest.raises(KeyError) as caught:
        nnx.fit_many(models, X, Y, epochs=5, callbacks=[[], [Meanwhile(2, fail)], []], verbose=0)
    notes = "\n".join(caught.value.__notes__)
    assert "models[1] of those given to fit_many" in notes
    assert "models[2]: the loss became" in notes


def test_ctrl_c_ends_all_of_them_between_two_steps() -> None:
    models = [net(seed) for seed in range(4)]
    stop = Meanwhile(3, lambda model: signal.raise_signal(signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)
    histories = nnx.fit_many(models, X, Y, epochs=10**6, callbacks=[[stop], [], [], []], verbose=0)
    assert signal.getsignal(signal.SIGINT) is handler
    assert all(history.interrupted and not history.complete for history in histories)
    for model in models:
        assert model.epochs_done == model.optimizer.iterations
        model.fit(X, Y, verbose=0)


def test_a_second_ctrl_c_raises_once_all_have_ended() -> None:
    models = [net(seed) for seed in range(3)]

    def twice(model: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.3)  # the main thread hears of the first
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.3)

    with pytest.raises(KeyboardInterrupt):
        nnx.fit_many(models, X, Y, epochs=10**6, callbacks=[[Meanwhile(3, twice)], [], []], verbose=0)
    no_thread_is_left()
    for model in models:
        model.fit(X, Y, verbose=0)


def test_what_is_no_ordinary_error_ends_the_others_too() -> None:
    def leave(model: Any) -> None:
        raise SystemExit(3)

    models = [net(seed) for seed in range(3)]
    with pytest.raises(SystemExit):
        nnx.fit_many(models, X, Y, epochs=10**6, callbacks=[[Meanwhile(2, leave)], [], []], verbose=0)
    nnx.fit_many(models, X, Y, verbose=0)


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_one_display_counts_all_models_epochs_and_shows_their_means(capsys: pytest.CaptureFixture[str]) -> None:
    models = [net(seed) for seed in range(3)]
    histories = nnx.fit_many(models, X, Y, epochs=4)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("epoch 12/12  loss ")
    assert f"{np.mean([history['loss'][-1] for history in histories]):.4f}" in last
    nnx.fit_many(models, X, Y, epochs=2, verbose=0)
    assert not capsys.readouterr().out


def test_nothing_is_left_of_the_threads_nor_of_the_active_backend() -> None:
    with nnx.use_backend("numpy"):
        nnx.fit_many([net(0, backend="numba"), net(1)], X, Y, epochs=2, verbose=0)
        assert nnx.get_backend().name == "numpy"
    no_thread_is_left()


def test_what_is_active_where_it_is_called_is_active_for_what_is_the_users_own() -> None:
    seen: list[str] = []
    note = Meanwhile(1, lambda model: seen.append(nnx.get_backend().name))
    for backend in ("numpy", "numba"):
        with nnx.use_backend(backend):
            nnx.fit_many([net(0), net(1)], X, Y, callbacks=[[note], []], verbose=0)
    assert seen == ["numpy", "numba"]


def test_many_threads_may_train_many_models_each_at_once() -> None:
    backends = ["numpy", "numba"]
    groups = [[net(10 * group + seed, backend=backends[group % 2]) for seed in range(3)] for group in range(6)]
    lone = copy.deepcopy(groups)
    work = [threading.Thread(target=nnx.fit_many, args=(some, X, Y, 20, 16), kwargs={"verbose": 0}) for some in groups]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    for some, others in zip(groups, lone, strict=True):
        for model, other in zip(some, others, strict=True):
            other.fit(X, Y, 20, 16, verbose=0)
            assert state(model) == state(other)
