"""Threads: many that begin at once, how many nnx takes and why, and where the system gives it none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.backends import quota, threads
from nnx.backends.base import real_numbers
from nnx.backends.numba import warmup
from nnx.backends.once import Once
from nnx.errors import BackendUnavailable, InputError
from nnx.kernels import user_warnings
from nnx.training import progress

CPUS = "as many as the CPUs that this process may run on"


@pytest.fixture(autouse=True, scope="module")
def blas_threads() -> None:
    """BLAS takes as many threads as it does for users: how many is what is asked here."""


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of eight CPUs without a quota, where nothing was asked for and nobody warned."""
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable", lambda: 8)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.setattr(threads, "blas_limit", lambda: None)
    monkeypatch.setattr(user_warnings, "_given", {})
    yield
    monkeypatch.undo()
    threads.set_threads(None)


# ---- many at once ----------------------------------------------------------------------------------------------------

COLD = """
import sys, threading
import numpy as np, nnx
start, faults = threading.Barrier(4), []
def work(wish):
    start.wait()
    try:
        nnx.Sequential(nnx.Dense(2, 3), nnx.ReLU(), backend=wish).predict([[1, 2]])
        assert nnx.backends.available()["numpy"]
    except BaseException as error:
        faults.append(repr(error))
workers = [threading.Thread(target=work, args=(wish,)) for wish in ("numba", "auto", "numpy", "numba,numpy")]
for worker in workers: worker.start()
for worker in workers: worker.join()
sys.exit("; ".join(faults) or 0)
"""


def test_four_threads_make_backends_at_once_in_a_cold_process_twenty_times() -> None:
    pytest.importorskip("numba")
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(lambda _: child(COLD), range(20)))
    assert found == [(0, "")] * 20


def child(code: str) -> tuple[int, str]:
    """Run code in a process of its own; return its exit code, and what it wrote to stderr."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=600)
    return done.returncode, done.stderr


def test_a_module_that_another_thread_is_importing_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy.ma", types.ModuleType("numpy.ma"))
    assert real_numbers([1, 2]).tolist() == [1, 2]


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Make all calls, each in a thread of its own; return what they return, or raise. None may hang."""
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        try:
            found[number] = calls[number]()
        except Exception as error:
            found[number] = error

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
    assert len(found) == len(calls)
    return [found[number] for number in range(len(calls))]


def test_a_thing_is_made_once_however_many_ask() -> None:
    made: list[str] = []

    @Once
    def make(name: str) -> object:
        made.append(name)
        time.sleep(0.05)  # long enough for the others to come
        return object()

    found = in_threads(*[lambda: make("a")] * 8, *[lambda: make("b")] * 8)
    assert sorted(made) == ["a", "b"]
    assert len(set(found[:8])) == len(set(found[8:])) == 1
    make.cache_clear()
    assert make("a") is not found[0]


def test_what_is_raised_is_not_kept_and_the_next_one_tries() -> None:
    tries: list[int] = []

    @Once
    def make(name: str) -> int:
        tries.append(1)
        time.sleep(0.02)
        if len(tries) < 3:
            raise ValueError(name)
        return len(tries)

    found = in_threads(*[lambda: make("a")] * 5)
    assert sum(isinstance(one, ValueError) for one in found) == 2
    assert [one for one in found if not isinstance(one, ValueError)] == [3] * 3


def test_one_that_hangs_delays_nobody_else() -> None:
    free = threading.Event()
    make = Once(lambda name: free.wait(600) if name == "slow" else name)
    slow = threading.Thread(target=make, args=("slow",))
    slow.start()
    assert make("other") == "other"
    free.set()
    slow.join()


def test_asking_for_itself_is_an_error_and_no_hang() -> None:
    @Once
    def make(name: str) -> Any:
        return make({"a": "b", "b": "a", "c": "c"}[name])

    for name in "abc":
        with pytest.raises(RecursionError, match="is being made by what asks for it"):
            make(name)


def test_two_threads_that_would_wait_for_each_other_do_not() -> None:
    both = threading.Barrier(2)

    @Once
    def make(name: str) -> str:
        both.wait(600)
        try:
            return make({"a": "b", "b": "a"}[name])
        except RecursionError:
            both.reset()
            return "the last to ask"

    first, second = in_threads(lambda: make("a"), lambda: make("b"))
    assert "the last to ask" in (first, second)


def test_two_threads_that_draw_first_draw_from_one_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    base = sys.modules["nnx.layers.base"]
    plain = base._generator

    def slowly(value: int) -> np.random.Generator:
        time.sleep(0.02)
        return plain(value)

    monkeypatch.setattr(base, "_random", {})
    monkeypatch.setattr(base, "_generator", slowly)
    assert len(set(map(id, in_threads(*[base.default_random] * 4)))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_while_a_thread_compiles_finds_no_lock_held() -> None:
    pytest.importorskip("numba")
    from numba.core.compiler_lock import global_compiler_lock

    from nnx.kernels.cpu.jit import cache

    compiling = threading.Event()

    def compile_something() -> None:
        with cache.LOCK, global_compiler_lock, threads._lock:
            compiling.set()
            time.sleep(0.2)

    worker = threading.Thread(target=compile_something)
    worker.start()
    compiling.wait()
    child = os.fork()
    if child == 0:
        free = cache.LOCK.acquire(timeout=60) and global_compiler_lock._lock.acquire(timeout=60)
        os._exit(0 if free and threads._lock.acquire(timeout=60) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    worker.join()

    def take() -> bool:
        with cache.LOCK, threads._lock:
            return True

    assert in_threads(take) == [True]  # the parent has them back


# ---- how many, and why -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "number", "why"),
    [
        ({}, 8, CPUS),
        ({"OMP_NUM_THREADS": "1"}, 1, "OMP_NUM_THREADS=1"),
        ({"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3, "NUMBA_NUM_THREADS=3"),
        ({"OPENBLAS_NUM_THREADS": "2"}, 2, "OPENBLAS_NUM_THREADS=2"),
        ({"MKL_NUM_THREADS": " 2 "}, 2, "MKL_NUM_THREADS=2"),
        ({"OMP_THREAD_LIMIT": "4"}, 4, "OMP_THREAD_LIMIT=4"),
        ({"OMP_NUM_THREADS": "4,2"}, 4, "OMP_NUM_THREADS=4"),
        ({"OMP_NUM_THREADS": ""}, 8, CPUS),
        ({"MKL_NUM_THREADS": "0"}, 8, CPUS),
        ({"NUMBA_NUM_THREADS": "64"}, 8, CPUS),
        ({"OMP_NUM_THREADS": "1", "NNX_THREADS": "6"}, 6, "NNX_THREADS=6"),
    ],
)
def test_the_least_limit_counts_and_nnx_threads_above_all(
    environment: dict[str, str], number: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert threads.get_threads() == number
    assert threads.explain() == f"{number} thread{'s' * (number > 1)}: {why}"


def test_quota_and_threadpoolctl_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "quota", lambda: 3)
    assert threads.explain() == "3 threads: the container's CPU quota"
    monkeypatch.setattr(threads, "blas_limit", lambda: 2)
    assert threads.explain() == "2 threads: BLAS is limited, as by threadpoolctl"
    assert threads.set_threads(5) == 5
    assert threads.explain() == "5 threads: set_threads(5)"


def test_a_limit_of_threadpoolctl_counts_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    control = pytest.importorskip("threadpoolctl")
    pytest.importorskip("numba")
    monkeypatch.undo()
    if threads.usable() < 2 or not threads._blas():
        pytest.skip("one CPU only, or a BLAS that threadpoolctl does not know")
    backend = nnx.get_backend("numba")
    before = threads.set_threads(None)
    with control.threadpool_limits(1):
        assert backend.threads() == threads.get_threads() == 1
        assert backend.kernels.pool.split(1000, 100.0) == [slice(0, 1000)]
        assert nnx.set_threads(2) == backend.threads() == 2  # above all
        nnx.set_threads(None)
    assert backend.threads() == threads.get_threads() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPUs cannot be chosen here")
def test_cpus_taken_away_count_for_the_next_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.undo()
    backend, allowed = nnx.get_backend("numba"), os.sched_getaffinity(0)
    threads.set_threads(None)
    before = backend.threads()
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert backend.threads() == threads.get_threads() == 1
        assert len(backend.kernels.pool.split(1000, 100.0)) == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert backend.threads() == before


@pytest.mark.parametrize("value", ["-1", "two", "1.5", "2;3"])
def test_a_variable_of_others_that_is_no_number_is_said_once(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.warns(RuntimeWarning, match=f"OMP_NUM_THREADS='{value}' limits no threads: expected"):
        assert threads.get_threads() == 8
    assert threads.get_threads() == 8  # a second warning would be an error


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "2,3", "9" * 5000])
def test_an_nnx_threads_that_is_no_number_is_an_error_whatever_the_backend(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nnx.get_backend("auto")
    monkeypatch.setenv("NNX_THREADS", value)
    for wish in ("auto", "numpy", "numba,numpy", None):
        with pytest.raises(InputError, match=f"NNX_THREADS='{value}': expected a whole number of at least 1"):
            nnx.get_backend(wish)


def test_a_mistake_in_the_environment_is_no_reason_for_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    load = sys.modules["nnx.backends.resolve"]._load
    monkeypatch.setenv("NNX_GEMM", "fast")
    try:
        load.cache_clear()
        with pytest.raises(InputError, match="NNX_GEMM='fast': expected one of"):
            nnx.get_backend("auto")
        told = nnx.backends.available()["numba"]
        assert "NNX_GEMM='fast'" in told.reason
        monkeypatch.delenv("NNX_GEMM")
        assert nnx.get_backend("numba").name == "numba"  # it was not kept
    finally:
        load.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("NUMBA_DISABLE_JIT", "1", "NUMBA_DISABLE_JIT is set"),
        ("NUMBA_NUM_THREADS", "0", "NUMBA_NUM_THREADS=0, with which Numba does not load"),
        ("NUMBA_NUM_THREADS", "-2", "NUMBA_NUM_THREADS=-2, with which"),
    ],
)
def test_a_variable_with_which_numba_does_not_work_is_named(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv(name, value)
    with pytest.raises(BackendUnavailable, match=reason):
        sys.modules["nnx.backends.numba"].create()


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_numba_is_switched_off_by_a_number_alone(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
    assert sys.modules["nnx.backends.numba"].create().name == "numba"


def test_more_threads_than_cpus_are_capped_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNX_THREADS", "64")
    with pytest.warns(RuntimeWarning, match="NNX_THREADS=64: nnx takes 8, as many as the CPUs"):
        nnx.get_backend("auto")
    nnx.get_backend("auto")  # a second warning would be an error
    assert threads.get_threads() == 8
    assert threads.explain() == "8 threads: NNX_THREADS=64, capped at the CPUs that this process may run on"
    monkeypatch.setattr(user_warnings, "_given", {})
    with pytest.warns(RuntimeWarning, match=r"set_threads\(9\): nnx takes 8"):
        assert nnx.set_threads(9) == 8
    assert nnx.set_threads(np.int64(3)) == 3
    nnx.set_threads(10**30)  # no number of C's holds it


def test_a_number_of_threads_beyond_all_numbers_of_c_is_capped_in_a_cold_process_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba")
    load = sys.modules["nnx.backends.resolve"]._load
    monkeypatch.setenv("NNX_THREADS", "9" * 30)
    try:
        load.cache_clear()
        with pytest.warns(RuntimeWarning, match="nnx takes 8"):
            assert nnx.get_backend("auto").name != "numpy"  # as it would be if Numba's could not be made
    finally:
        load.cache_clear()


def test_nnx_threads_set_later_takes_effect_with_the_next_backend_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    backend = nnx.get_backend("numba")
    monkeypatch.setenv("NNX_THREADS", "5")
    assert nnx.get_backend("numba").threads() == backend.threads() == 5
    assert backend.info().notes[0] == nnx.get_backend("numpy").info().notes[0] == "5 threads: NNX_THREADS=5"


# ---- a container's quota ---------------------------------------------------------------------------------------------

MOUNT = "31 23 0:28 {root} {top} rw,relatime shared:9 - {kind} {kind} rw{options}\n"


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder in /proc of a process in these groups, and the files of groups, by their paths."""

    def make(cgroup: str, mounts: str, **files: str) -> Path:
        own = tmp_path / "proc"
        own.mkdir()
        (own / "cgroup").write_text(cgroup)
        (own / "mountinfo").write_text(mounts.replace("{tmp}", str(tmp_path).replace(" ", "\\040")))
        for name, text in files.items():
            file = tmp_path / name.replace("__", "/").replace("max", "cpu.max").replace("cfs", "cpu.cfs")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return own

    return make


V2 = MOUNT.format(root="/", top="{tmp}/v2", kind="cgroup2", options="")
V1 = MOUNT.format(root="/docker/1", top="{tmp}/v1", kind="cgroup", options=",cpu,cpuacct")


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "cpus"),
    [
        ("0::/\n", V2, {"v2__max": "150000 100000\n"}, 2),  # rounded up
        ("0::/\n", V2, {"v2__max": "20000 100000\n"}, 1),
        ("0::/\n", V2, {"v2__max": "max 100000\n"}, None),
        ("0::/a/b\n", V2, {"v2__a__max": "300000 100000\n", "v2__a__b__max": "max 100000\n"}, 3),
        ("0::/a/b\n", V2, {"v2__a__max": "200000 100000\n", "v2__a__b__max": "400000 100000\n"}, 2),
        ("0::/../b\n", V2, {"v2__max": "200000 100000\n", "b__max": "100000 100000\n"}, 2),  # of another's namespace
        ("0::/gone\n", V2, {"v2__max": "200000 100000\n"}, 2),
        ("4:cpu,cpuacct:/docker/1\n0::/\n", V1, {"v1__cfs_quota_us": "250000", "v1__cfs_period_us": "100000"}, 3),
        ("4:cpu,cpuacct:/docker/1/x\n", V1, {"v1__x__cfs_quota_us": "50000", "v1__x__cfs_period_us": "50000"}, 1),
        ("4:cpu,cpuacct:/docker/1\n", V1, {"v1__cfs_quota_us": "-1", "v1__cfs_period_us": "100000"}, None),
        ("4:cpuset:/docker/1\n", V1, {"v1__cfs_quota_us": "100000", "v1__cfs_period_us": "100000"}, None),
        ("0::/\n", V2, {"v2__max": "what is this"}, None),
        ("0::/\n", V2, {"v2__max": "100000"}, None),
        ("\nwhat is this\n0::/\n", "what is this\n" + V2, {"v2__max": "100000 100000"}, 1),
        ("0::/\n", "", {"v2__max": "100000 100000"}, None),
        ("", "", {}, None),
    ],
)
def test_a_quota_is_found_in_the_group_and_above_it(
    cgroup: str, mounts: str, files: dict[str, str], cpus: int | None, process: Callable[..., Path]
) -> None:
    assert quota.find(process(cgroup, mounts, **files)) == cpus


def test_a_system_without_groups_has_no_quota(tmp_path: Path) -> None:
    assert quota.find(tmp_path / "nothing") is None


def test_kernels_and_recorded_steps_have_the_same_helping_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    backend, helpers = nnx.get_backend("numba"), pool().Helpers()
    monkeypatch.setattr(pool(), "helpers", helpers)
    threads.set_threads(2)
    backend.relu(np.ones((1000, 1000), np.float32))
    assert len(helpers.threads) == 1
    layers = nnx.Dense(256, 512), nnx.ReLU(), nnx.Dense(512, 2), nnx.Softmax()
    model = nnx.Sequential(*layers, backend="numba").compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.001))
    given: list[Any] = []
    monkeypatch.setattr(helpers, "assist", lambda *arguments: given.append(arguments[1]))
    model.steps(np.ones((256, 256), np.float32), np.zeros(256, int), 3)
    assert given[-1] == 1


def test_a_program_that_is_run_again_keeps_its_helper_and_one_at_rest_lets_it_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba")
    nnx.get_backend("numba")
    monkeypatch.setattr(pool(), "helpers", helpers := pool().Helpers())

    class Program:
        def __init__(self) -> None:
            self.running, self.helped = True, list[int]()
            self.came, self.go = threading.Semaphore(0), threading.Semaphore(0)

        def help(self, number: int) -> None:
            self.helped.append(number)
            self.came.release()
            assert self.go.acquire(timeout=600)

    program = Program()
    for _ in range(3):
        helpers.assist(program, 1)  # asked for again while it is there
    assert program.came.acquire(timeout=600)
    program.go.release()
    assert program.came.acquire(timeout=600)  # it runs on, and nobody else waits
    assert len(helpers.assisted) == len(helpers.threads) == 1
    program.running = False
    program.go.release()
    done: list[int] = []
    pool().set_limit(2)
    pool().run([lambda: done.append(1)] * 2)
    while helpers.assisted:
        time.sleep(0.001)
    assert len(done) == 2
    assert program.helped == [1, 1]
    program.running = True
    helpers.assist(program, 1)
    assert program.came.acquire(timeout=600)
    program.running = False
    program.go.release()
    assert program.helped == [1, 1, 1]


# ---- where no thread can be started ----------------------------------------------------------------------------------


@pytest.fixture
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """A system that starts no thread, with two wanted, whose helpers have gone; returns those that were tried for."""
    pytest.importorskip("numba")
    tried: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        tried.append(thread)
        raise RuntimeError("can't start new thread")

    for name in ("numba", "numpy"):  # a backend that is made lets threads be tried for again
        nnx.get_backend(name)
    monkeypatch.setattr(pool(), "helpers", pool().Helpers())
    threads.set_threads(2)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    return tried


def pool() -> Any:
    from nnx.kernels.cpu.threads import pool

    return pool


def test_without_another_thread_one_does_all_the_work(no_more_threads: list[threading.Thread]) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(512, 256)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)

    def losses(backend: str) -> list[float]:
        layers = nnx.Dense(256, 512), nnx.ReLU(), nnx.Dense(512, 2), nnx.Softmax()
        model = nnx.Sequential(*layers, backend=backend).compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.001))
        assert model.predict(np.ones((2000, 256), np.float32)).shape == (2000, 2)
        return [*model.fit(x, y, epochs=1, batch_size=256, verbose=0)["loss"], *model.steps(x, y, 2)]

    with pytest.warns(RuntimeWarning, match="no helping thread could be started .can't start new thread."):
        found = losses("numba")  # a second warning would be an error
    backend, wide = nnx.get_backend("numba"), random.normal(size=(1000, 1000)).astype(np.float32)
    np.testing.assert_allclose(backend.softmax(wide), nnx.get_backend("numpy").softmax(wide), rtol=1e-4)
    np.testing.assert_array_equal(backend.relu(wide), np.maximum(wide, 0))
    assert len(no_more_threads) == 1  # it is not tried again and again
    assert pool().helpers.queue.empty()  # nothing is left there for nobody
    np.testing.assert_allclose(found, losses("numpy"), rtol=1e-4)
    user_warnings._given.clear()
    nnx.set_threads(2)
    with pytest.warns(RuntimeWarning, match="no helping thread"):
        backend.relu(wide)
    assert len(no_more_threads) == 2


def test_what_is_no_thread_of_the_system_helps_nobody(
    no_more_threads: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under gevent, where a thread is a function that takes turns with its maker."""
    from nnx.kernels.cpu.threads import affinity

    worked: list[str] = []

    def start(thread: threading.Thread) -> None:
        thread._native_id = threading.get_native_id()  # type: ignore[attr-defined]
        thread.run()

    monkeypatch.setattr(threading.Thread, "start", start)
    assert affinity.start(worked.append, "x", name="one") == 0
    assert worked == []
    wide = np.ones((1000, 1000), np.float32)
    assert np.array_equal(nnx.get_backend("numba").relu(wide), wide)


def test_a_bar_is_drawn_without_another_thread(
    no_more_threads: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = pytest.importorskip("rich.console")
    monkeypatch.setenv("TERM", "xterm")  # a dumb one gets lines
    monkeypatch.setattr("rich._console", console.Console(force_terminal=True))
    monkeypatch.setattr("nnx.output.Output.isatty", lambda self: True)
    with progress.make("auto", 3, 0) as bar:
        assert isinstance(bar, progress.Bar)
        bar.advance(1.0)
        bar.log(0, {"loss": 1.0})
    assert no_more_threads == []


def test_warmup_goes_alone_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    class Process:
        killed = False

        def __init__(self, command: list[str], **options: Any) -> None:
            if started:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            started.append(self)

        def kill(self) -> None:
            self.killed = True

        def wait(self) -> None:
            assert self.killed

    monkeypatch.setattr(warmup, "Popen", Process)
    with warmup.helpers(4, ("float32",)):
        assert len(started) == 1
    assert started[0].killed


# ---- warnings --------------------------------------------------------------------------------------------------------


def test_a_warning_is_given_once_by_whichever_thread() -> None:
    with pytest.warns(RuntimeWarning, match="the first") as caught:
        in_threads(*[lambda: user_warnings.warn_once("the first", "this")] * 8)
    user_warnings.warn_once("another", "this")
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_warning_that_cannot_be_shown_is_no_error() -> None:
    code = """
import os, sys, warnings
from nnx.kernels import user_warnings
warnings.simplefilter("always")
plain, closed = sys.stderr, open(os.devnull, "w")
closed.close()
for sys.stderr in (None, object(), closed):
    user_warnings.warn("x", UserWarning)
sys.stderr = plain
"""
    assert child(code) == (0, "")


def test_a_warning_that_is_an_error_is_raised() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="x"):
            user_warnings.warn_once("x")


def test_blas_takes_one_thread_while_anybody_wants_that_from_any_thread_and_as_many_as_before_then() -> None:
    pytest.importorskip("threadpoolctl")
    from nnx.backends import threads

    def taken() -> list[int]:
        return [library.num_threads for library in threads._blas()]

    before, limit, within = taken(), threads.blas_limit(), list[list[int]]()

    def work() -> None:
        with threads.blas_alone():
            with threads.blas_alone():
                within.append(taken())
            within.append(taken())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert within == 4 * [[1] * len(before)]
    assert taken() == before
    with threads.blas_alone():
        assert threads.blas_limit() == limit  # that is not somebody else's limit for nnx's own threads
