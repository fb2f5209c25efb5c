"""Data sets streamed to the GPU, on the stand-in for CuPy: the same numbers, beside the steps, and in whose order."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from typing import Any

import cuda_on_cpu
import networks
import numpy as np
import pytest

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
from fake_copies import UP
from fake_cupy import machine
from networks import ALIKE, NETS, Net, numbers
from test_programs import always_eager

import nnx
from nnx.backends.cupy import streaming as cuda_streaming
from nnx.backends.cupy.backend import CupyBackend, MultiGpuCupyBackend
from nnx.backends.cupy.streaming import DoubleBuffer
from nnx.errors import DeviceMemoryError, InputError, NonFiniteError

SMALL = ("relu", "two dropouts", "squares", "binary", "soft labels", "no tail", "tail of one", "in order", "weights")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a backend on the stand-in, which begins anew."""

    def make(wish: str = "1", half: int = 1, memory: int = 1 << 30) -> CupyBackend:
        machine.reset(memory=memory)
        monkeypatch.setenv("NNX_STREAM", wish)
        monkeypatch.setattr(cuda_streaming, "HALF", half)  # bytes of a chunk: 1 is a single batch
        return CupyBackend(fake_cupy)

    yield make
    gc.collect()
    assert machine.copies.astray == []


def trained(net: Net, backend: Any, **options: Any) -> tuple[nnx.Sequential, nnx.History]:
    return networks.trained(net, backend, **{"epochs": 3, **options})


def same(one: tuple[nnx.Sequential, nnx.History], other: tuple[nnx.Sequential, nnx.History]) -> None:
    """To the last bit: streaming changes where samples stand, and nothing that is computed."""
    np.testing.assert_array_equal(numbers(one[0]), numbers(other[0]))
    assert dict(one[1]) == dict(other[1])
    assert one[0].optimizer.iterations == other[0].optimizer.iterations


# ---- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [1, 800, 1 << 20])
@pytest.mark.parametrize("name", SMALL)
def test_streamed_training_is_resident_training(name: str, half: int, make: Any):
    """In chunks of a batch, of some, and in one for all."""
    resident = trained(NETS[name], make("0"))
    assert resident[1].streamed is None
    streamed = trained(NETS[name], make("1", half))
    assert "NNX_STREAM=1" in str(streamed[1].streamed)
    assert (streamed[0].eager_reason, streamed[0].replay_reason) == (None, None)
    same(streamed, resident)


def test_with_validation_and_on_from_where_it_ended(make: Any):
    net = NETS["dropout"]
    fits = []
    for wish in "01":
        model, history = trained(net, make(wish, 800), validation_data=net.samples())
        model.fit(*net.samples(), epochs=2, batch_size=8, verbose=0)
        fits.append((model, history))
    same(*fits)


class Decaying(nnx.callbacks.Callback):
    """Changes a number that the recorded step holds fast, in the midst of a chunk too."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def on_batch_begin(self, model: Any, batch: int) -> None:
        self.batches.append(batch)
        if batch % 2:
            model.layers[0].weight_l2 = 1e-2 * batch


@pytest.mark.parametrize("name", ["tail of one", "weights"])
@pytest.mark.parametrize("half", [1, 800, 1 << 20])
def test_a_callback_of_batches_may_have_steps_recorded_anew(half: int, name: str, make: Any):
    resident, streamed = (trained(NETS[name], make(wish, half), callbacks=[Decaying()]) for wish in "01")
    same(streamed, resident)
    alone = NETS[name].model("float64", "numpy")
    own = Decaying()
    alone.fit(*NETS[name].samples(), 3, NETS[name].batch, callbacks=[own], verbose=0, **NETS[name].fit)
    np.testing.assert_allclose(numbers(alone), numbers(streamed[0]), **ALIKE)
    assert own.batches == 3 * list(range(max(own.batches) + 1))


def test_eager_steps_are_streamed_too(make: Any):
    resident = trained(NETS["tail of one"], make("0"))
    backend = make("1", 800)
    with always_eager():
        streamed = trained(NETS["tail of one"], backend)
    np.testing.assert_allclose(numbers(streamed[0]), numbers(resident[0]), **ALIKE)


def test_on_the_second_gpu_while_the_first_is_current(make: Any):
    resident = trained(NETS["relu"], make("0"))
    make("1")
    machine.reset(devices=2)
    streamed = trained(NETS["relu"], MultiGpuCupyBackend(fake_cupy, 1))
    assert (machine.used[0], machine.current) == (0, 0)
    same(streamed, resident)


def test_a_loss_that_explodes_leaves_the_model_as_it_was(make: Any):
    net = Net(lambda: [nnx.Dense(2, 3)], nnx.MeanSquaredError, lambda: nnx.SGD(1e30), data="numbers")
    texts = []
    for wish in "01":
        model = net.model("float64", make(wish))
        with pytest.raises(NonFiniteError) as raised:
            model.fit(*net.samples(), epochs=20, batch_size=8, verbose=0)
        texts.append(str(raised.value))
        assert np.isfinite(numbers(model)).all()
    assert texts[0] == texts[1]


def test_ctrl_c_ends_a_fit_that_can_go_on(make: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_PERSISTENT", "0")
    model = NETS["relu"].model("float64", make("1"))
    launch = fake_cupy.Graph.launch

    def pressed(graph: Any, stream: Any = None) -> None:
        launch(graph, stream)
        if machine.graphs["launch"] == 10:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(fake_cupy.Graph, "launch", pressed)
    assert model.fit(*NETS["relu"].samples(), epochs=100, batch_size=16, verbose=0).interrupted
    assert machine.copies.pending == []
    assert model.fit(*NETS["relu"].samples(), epochs=2, batch_size=16, verbose=0).complete


# ---- when, and how it is said ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_streamed_and_says_so(make: Any):
    net = Net(lambda: [nnx.Dense(20, 3), nnx.Softmax()], rows=3000, batch=50)
    backend = make("", 20_000, memory=400_000)
    model, history = trained(net, backend)
    words = (
        f"a data set of {(3000 * 21 * 8) / 1024:.1f} KiB is streamed, 100 rows (16.4 KiB) at a time: more than 75% of"
    )
    assert words in str(history.streamed)
    assert "that are free on cuda:0 (Stand-in)" in str(history.streamed)
    assert history.streamed in backend.info().notes
    assert machine.held[0] < 400_000
    same((model, history), trained(net, make("0")))
    assert trained(net, make(""))[1].streamed is None
    with pytest.raises(DeviceMemoryError, match="smaller batch_size"):
        trained(net, make("0", memory=400_000))
    with pytest.raises(DeviceMemoryError, match="smaller batch_size"):  # a single batch must be there as a whole
        trained(net, make("", memory=400_000), batch_size=None)


def test_a_limit_counts_as_much_as_the_gpus_memory(make: Any):
    backend = make("")
    assert cuda_streaming.free_bytes(backend) == 1 << 30
    backend.gpu_memory_limit = 1000
    assert cuda_streaming.free_bytes(backend) == 1000
    kept = backend.zeros(50)
    assert cuda_streaming.free_bytes(backend) == 800
    backend.gpu_memory_limit = None
    del kept
    assert cuda_streaming.free_bytes(backend) == 1 << 30


def test_the_wish_is_read(make: Any):
    assert make("").streaming is None
    assert make("0").streaming is False
    with pytest.raises(InputError, match="NNX_STREAM='perhaps': expected 1 or 0"):
        make("perhaps")


def test_on_the_cpu_nothing_is_streamed():
    assert nnx.get_backend("numpy").stream([np.zeros((10, 2))], 2) is None


# ---- beside the steps ------------------------------------------------------------------------------------------------


def test_the_next_chunk_is_sent_while_steps_run(make: Any, monkeypatch: pytest.MonkeyPatch):
    """After its steps are launched and before the host waits for them; and only once."""
    monkeypatch.setenv("NNX_PERSISTENT", "0")
    backend = make("1", 800)
    events: list[str] = []
    launch, fill, get = fake_cupy.Graph.launch, DoubleBuffer.fill, fake_cupy.ndarray.get
    monkeypatch.setattr(fake_cupy.Graph, "launch", lambda *a: (events.append("launch"), launch(*a))[1])
    monkeypatch.setattr(fake_cupy.ndarray, "get", lambda *a, **k: (events.append("wait"), get(*a, **k))[1])

    def noted(self: Any, half: int, rows: np.ndarray) -> None:
        events.append(f"fill {half}")
        fill(self, half, rows)
        assert machine.copies.pending, "it is on its way while the host goes on"

    monkeypatch.setattr(DoubleBuffer, "fill", noted)
    trained(NETS["no tail"], backend, epochs=4)
    fills = [i for i, event in enumerate(events) if event.startswith("fill")]
    assert [events[i][-1] for i in fills] == ["01"[i % 2] for i in range(len(fills))]
    assert len(fills) == 1 + 4 * 2  # 48 rows in chunks of 32, and the first of an epoch that does not come
    for i in fills[2:]:
        assert events[i - 1] == "launch"
        assert events[i + 1] == "wait"


@pytest.mark.parametrize("event", ["_filled", "_left"])
def test_without_either_event_that_would_be_a_race(event: str, make: Any, monkeypatch: pytest.MonkeyPatch):
    """The host waits for nothing else, as the second one shows only where it has not seen the steps done."""
    backend = make("1")
    stream = backend.stream([np.arange(40.0).reshape(20, 2)], 5)
    monkeypatch.setattr(stream, event, [fake_cupy.Event() for _ in range(2)])
    first = np.arange(5)

    def use() -> None:
        for half in (0, 1, 0):
            stream.fill(half, first)
            stream.enter(half)
            stream.arrays[0] += 1
            if event == "_left":
                stream.leave = lambda half: None
            stream.leave(half)

    with pytest.raises(AssertionError, match="a race"):
        use()
    machine.copies.finish(dict.fromkeys(range(10_000), 1 << 30))


def test_a_page_that_is_written_too_early_would_be_seen(make: Any, monkeypatch: pytest.MonkeyPatch):
    backend = make("1")
    monkeypatch.setattr(fake_cupy.Event, "synchronize", lambda self: None)
    stream = backend.stream([np.arange(40.0).reshape(20, 2)], 5)
    for rows in (np.arange(5), np.arange(5, 10)):
        stream.fill(0, rows)
    stream.enter(0)
    assert backend.to_numpy(stream.arrays[0])[:5, 0].tolist() == [10, 12, 14, 16, 18]
    stream.close()


def test_copies_need_pinned_memory_and_live_arrays():
    machine.reset()
    a, pageable = fake_cupy.zeros(4), np.zeros(4)
    copy = fake_cupy.cuda.runtime.memcpyAsync
    with pytest.raises(AssertionError, match="are not pinned"):
        copy(a.data.ptr, pageable.ctypes.data, 32, UP, 0)
    pinned = fake_cupy.cuda.alloc_pinned_memory(32)
    copy(a.data.ptr, pinned.ptr, 32, UP, 0)
    del pinned
    gc.collect()
    assert len(machine.copies.astray) == 1
    machine.reset()
