"""The stand-in for CuPy is one: no name, no keyword and no leniency that the real one does not have."""

from __future__ import annotations

import inspect
import operator
import threading
import warnings
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
from cupy_api import OWN, Api, claimed, oldest, read
from fake_copies import UP
from fake_cupy import machine
from test_cuda_compile import MOST_REGISTERS

from nnx.backends.cupy.diagnosis import OLDEST
from nnx.kernels.cuda import options, source

# Functions that tell no signature, and what their documentation says that they take.
COMPILED = {"matmul": {"a", "b", "out"}, "RawModule": {"code", "options", "backend"}}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    machine.reset()


@pytest.fixture(scope="module")
def real() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("cupy")


@pytest.fixture(params=["installed", "oldest"])
def api(request: pytest.FixtureRequest) -> Api:
    """What of CuPy's there is: in the one that is here, and in the oldest that nnx takes."""
    if request.param == "oldest":
        return oldest()[1]
    return read(request.getfixturevalue("real"), claimed())


def test_it_has_no_name_that_the_real_one_has_not(api: Api):
    assert [name for name in claimed() if name not in api] == []
    for name, number in api.items():
        if isinstance(number, int) and not name.startswith("ndarray."):
            assert operator.attrgetter(name)(fake_cupy) == number, name


def test_functions_take_what_the_real_ones_take(api: Api):
    taken = {name: set(inspect.signature(getattr(fake_cupy, name)).parameters) for name in OWN}
    for line in fake_cupy.KEYWORDS.strip().splitlines():
        keywords, _, names = line.partition(":")
        taken |= {name: set(keywords.split()) | taken.get(name, set()) for name in names.split()}
    for name, ours in taken.items():
        theirs = api[name]
        if theirs is None:
            allowed = COMPILED.get(name, set())
        else:
            allowed = {"out", "dtype"} if theirs == ("ufunc",) else set(theirs)
        assert ours <= allowed, name


def test_what_is_recorded_of_the_oldest_is_so(real: Any):
    """Where it is installed; and it is the one that nnx asks for."""
    version, recorded = oldest()
    assert version.split(".")[:2] == [str(number) for number in OLDEST]
    if real.__version__ != version:
        pytest.skip(f"CuPy {real.__version__} is installed, not {version}")
    assert read(real, claimed()) == recorded


def test_the_two_kinds_of_arrays_never_mix():
    ours, theirs = fake_cupy.asarray([1.0, 2.0]), np.array([1.0, 2.0])
    for mix in (
        lambda: ours + theirs,
        lambda: theirs + ours,
        lambda: np.exp(ours),
        lambda: np.asarray(ours),
        lambda: fake_cupy.maximum(ours, theirs),
        lambda: ours.__setitem__(..., theirs),
        lambda: np.add(theirs, 1, out=ours),
        lambda: fake_cupy.asarray([ours, ours]),
    ):
        with pytest.raises(TypeError):
            mix()
    assert not isinstance(ours, np.ndarray)
    assert type(ours).__module__ == "cupy"


def test_numbers_out_of_it_are_arrays_and_views():
    a = fake_cupy.asarray(np.arange(6.0).reshape(2, 3))
    assert isinstance(fake_cupy.sum(a), fake_cupy.ndarray)
    one = a[1, 2]
    one += 1
    assert a.get()[1, 2] == 6
    with pytest.raises(TypeError, match="unexpected keyword argument 'device'"):
        fake_cupy.arange(3, device=0)
    with pytest.raises(AttributeError, match="no attribute 'fromfile'"):
        fake_cupy.fromfile("x")


def test_what_is_forbidden_is():
    a = fake_cupy.asarray([1.0, 2.0])
    with machine.without("host"):
        a *= 2
        for look in (bool, float, int, lambda a: a.tolist(), lambda a: a.item()):
            with pytest.raises(AssertionError, match="host"):
                look(a[0])
    with machine.without("allocation"):
        a += a
        with pytest.raises(AssertionError, match="allocation"):
            a + a
    with machine.without("copies"), pytest.raises(AssertionError, match="copies"):
        a.get()


def test_nothing_but_launches_while_a_stream_is_captured():
    from nnx.backends.cupy.launch import Launcher
    from nnx.kernels.cuda import elementwise

    launch, x, y = Launcher(fake_cupy), fake_cupy.asarray([-1.0, 2.0]), fake_cupy.zeros(2)
    launch(elementwise("relu_forward", 2), "float64", x, y, 2)
    y.fill(7)
    with pytest.raises(RuntimeError, match="null stream"):
        fake_cupy.cuda.Stream(null=True).begin_capture()
    stream = fake_cupy.cuda.Stream(non_blocking=True)
    started = fake_cupy.cuda.Event()
    started.record()
    stream.wait_event(started)
    stream.begin_capture()
    with pytest.raises(RuntimeError, match="another stream than this is captured"):
        launch(elementwise("relu_forward", 2), "float64", x, y, 2)
    with stream:
        launch(elementwise("relu_forward", 2), "float64", x, y, 2)
    refused = (
        lambda: fake_cupy.empty(3), lambda: x.get(), lambda: bool(x[0]), lambda: x + 1, lambda: x.fill(1),
        stream.synchronize,
    )  # fmt: skip
    for call in refused:
        with pytest.raises(RuntimeError, match="while a stream is captured"):
            call()
    with pytest.raises(NotImplementedError, match="captured"):
        fake_cupy.matmul(x, x)
    graph = stream.end_capture()
    assert y.get().tolist() == [7, 7]
    graph.launch()
    assert y.get().tolist() == [0, 2]
    del y
    with pytest.raises(AssertionError, match="a graph uses an array that is gone"):
        graph.launch()


def test_streams_that_nothing_orders_are_found():
    stream, event, x = fake_cupy.cuda.Stream(), fake_cupy.cuda.Event(), fake_cupy.zeros(3)
    x += 1
    with stream:
        with pytest.raises(AssertionError, match="a race"):
            x += 1
        event.record(fake_cupy.cuda.Stream(null=True))
        stream.wait_event(event)
        x += 1
    with pytest.raises(AssertionError, match="a race"):
        x.get()
    stream.synchronize()
    assert x.get().tolist() == [2, 2, 2]


@pytest.mark.parametrize("until", ["wait", "other work"])
def test_a_graph_reads_pinned_memory_as_late_as_it_may(until: str):
    x, other, stream = fake_cupy.zeros(1), fake_cupy.zeros(1), fake_cupy.cuda.Stream()
    room = fake_cupy.cuda.alloc_pinned_memory(8)
    fake_cupy.cuda.Device().synchronize()
    host = np.asarray(room).view(np.float64)
    stream.begin_capture()
    fake_cupy.cuda.runtime.memcpyAsync(x.data.ptr, room.ptr, 8, UP, stream.ptr)
    graph = stream.end_capture()
    host[0] = 1
    graph.launch(stream)
    host[0] = 2  # too early: the copy is on its way
    if until == "wait":
        stream.synchronize()
    else:
        with stream:
            other += 1
    host[0] = 3
    stream.synchronize()
    assert x.get().tolist() == [2]


def test_kernels_take_contiguous_arrays_of_their_gpu():
    from nnx.backends.cupy.launch import Launcher
    from nnx.kernels.cuda import elementwise

    machine.reset(devices=2)
    launch, x, y = Launcher(fake_cupy), fake_cupy.asarray(np.ones((2, 4))), fake_cupy.zeros((2, 2))
    with pytest.raises(ValueError, match="C-contiguous"):
        launch(elementwise("relu_forward", 4), "float64", x[:, ::2], y, 4)
    with pytest.raises(TypeError, match="float64 given, expected float32"):
        launch(elementwise("relu_forward", 4), "float32", x, y, 4)
    with fake_cupy.cuda.Device(1), pytest.raises(ValueError, match="array device = 0 while current = 1"):
        launch(elementwise("relu_forward", 4), "float64", x, y, 4)


def test_each_thread_has_a_gpu_and_a_stream_of_its_own():
    machine.reset(devices=2)
    seen = []
    with fake_cupy.cuda.Device(1), fake_cupy.cuda.Stream() as stream:
        assert fake_cupy.cuda.get_current_stream() is stream
        thread = threading.Thread(
            target=lambda: seen.extend([machine.current, fake_cupy.cuda.get_current_stream().ptr])
        )
        thread.start()
        thread.join()
        with fake_cupy.cuda.Device(0):
            assert fake_cupy.cuda.get_current_stream().ptr == 0
    assert seen == [0, 0]


def test_a_kernel_that_goes_astray_is_told_late_and_for_good():
    from nnx.backends.cupy.launch import Launcher
    from nnx.kernels.cuda import elementwise

    launch, x = Launcher(fake_cupy), fake_cupy.asarray([-1.0, 2.0])
    machine.breaks = 2
    for _ in range(4):
        launch(elementwise("relu_forward", 2), "float64", x, x, 2)
    for call in (fake_cupy.cuda.Device().synchronize, x.get, lambda: x + 1, lambda: fake_cupy.empty(3)):
        with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
            call()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (["-DREAL=float"], "a list given, expected a tuple of str"),
        ((b"-DREAL=float",), "a tuple given, expected a tuple of str"),
        (("-DREAL=float", "--use_fast_math"), "--use_fast_math.* expected -D"),
        (("-DREAL=float", "-std=c++20"), r"-std=c\+\+20.* expected -D"),
    ],
)
def test_options_are_those_that_it_honours(given: Any, wrong: str):
    with pytest.raises((TypeError, ValueError), match=wrong):
        fake_cupy.RawModule(code=source("activations.cu"), options=given)


def test_options_count():
    """Without them REAL is float, and with them what they say."""
    x, y = fake_cupy.zeros(1, "float64"), fake_cupy.zeros(1, "float64")
    arguments = (x, y, np.int64(1))
    fake_cupy.RawModule(code=source("activations.cu"), options=options("float64")).get_function("relu_forward")(
        (1,), (32,), arguments
    )
    with pytest.raises(TypeError, match="float64 given, expected float32"):
        fake_cupy.RawModule(code=source("activations.cu")).get_function("relu_forward")((1,), (32,), arguments)


def test_a_kernel_gets_no_more_shared_memory_than_a_block_has():
    machine.shared = 99 << 10
    kernel = fake_cupy.RawModule(code=source("program.cu"), options=options("float32")).get_function("program")
    kernel.max_dynamic_shared_size_bytes = 99 << 10
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE: a block has 101376 bytes"):
        kernel.max_dynamic_shared_size_bytes = 100 << 10


def test_a_block_has_no_more_registers_than_there_are():
    """Each thread counts as one with the most that kernels are compiled to."""
    assert MOST_REGISTERS == fake_cupy.MOST_REGISTERS
    kernel = fake_cupy.RawModule(code=source("activations.cu")).get_function("relu_forward")
    x = fake_cupy.zeros(1, "float32")
    kernel((1,), (512,), (x, x, np.int64(1)))
    with pytest.raises(RuntimeError, match="CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"):
        kernel((1,), (1024,), (x, x, np.int64(1)))


def test_memory_is_counted():
    pool = fake_cupy.get_default_memory_pool()
    a = fake_cupy.zeros(1000)
    assert pool.used_bytes() == pool.total_bytes() == 8000
    view = a[:10]
    del a
    assert pool.used_bytes() == 8000
    del view
    assert (pool.used_bytes(), pool.total_bytes(), pool.free_bytes()) == (0, 8000, 8000)
    pool.free_all_blocks()
    assert pool.total_bytes() == 0
    pool.set_limit(size=100)
    with pytest.raises(fake_cupy.OutOfMemoryError, match=r"allocating 800 bytes .*limit set to: 100 bytes"):
        fake_cupy.empty(100)
