"""Compiling in the main thread while signals come: their handlers' exceptions cut the waiting, never the work."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from nnx.backends import once
from nnx.backends.once import Once
from nnx.kernels import uninterrupted as module
from nnx.kernels import user_warnings
from nnx.kernels.uninterrupted import LOCK, settle, uninterrupted

SIGNALS = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system cannot send a thread a signal")


def interrupt_main() -> None:
    """Have Ctrl-C come in the main thread."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def test_work_of_the_main_thread_is_done_by_another_with_the_same_result_and_warnings_at_the_same_line() -> None:
    assert uninterrupted(threading.get_ident) != threading.get_ident()
    with pytest.warns(RuntimeWarning, match="from there") as caught:
        uninterrupted(partial(user_warnings.warn, "from there", RuntimeWarning))
    assert caught[0].filename == __file__


def test_work_of_another_thread_or_within_work_is_done_where_it_is() -> None:
    assert uninterrupted(lambda: uninterrupted(threading.get_ident) == threading.get_ident())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_the_work_of_any_thread() -> None:
    """Such as the import of Numba, of which a child would have the first half for ever."""
    begun, done = threading.Event(), []

    def work() -> None:
        begun.set()
        time.sleep(0.1)
        done.append(True)

    thread = threading.Thread(target=uninterrupted, args=(work,))
    thread.start()
    begun.wait()
    if (child := os.fork()) == 0:
        os._exit(0 if done else 1)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_an_error_of_the_work_comes_as_it_is_and_keeps_nothing_alive() -> None:
    class Operand:
        """What an error's frames refer to."""

    error = KeyError("x")

    def work(operand: Operand) -> None:
        raise error

    gc.disable()
    try:
        operand = Operand()
        alive = weakref.ref(operand)
        with pytest.raises(KeyError) as caught:
            uninterrupted(partial(work, operand))
        assert caught.value is error
        assert traceback.extract_tb(error.__traceback__)[-1].name == "work"
        del operand, caught
        error.__traceback__ = None
        end = time.monotonic() + 600
        while alive() is not None and time.monotonic() < end:  # until the other thread is gone
            time.sleep(0.001)
        assert alive() is None
    finally:
        gc.enable()


@SIGNALS
def test_an_interrupt_ends_the_wait_and_the_work_goes_on_to_its_end() -> None:
    go, done = threading.Event(), []

    def work() -> None:
        interrupt_main()
        go.wait(600)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work)
    assert not done
    go.set()
    assert uninterrupted(lambda: list(done)) == [True]  # the next work waits for it


@SIGNALS
def test_a_handler_may_have_work_done_itself() -> None:
    found = []
    before = signal.signal(signal.SIGINT, lambda *_: found.append(uninterrupted(lambda: "inner")))
    try:
        assert uninterrupted(lambda: interrupt_main() or "outer") == "outer"  # type: ignore[func-returns-value]
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == ["inner"]


def interrupted_everywhere(source: str | None, call: Callable[[], Any]) -> Iterator[Any]:
    """Yield None for each instruction of a file at which KeyboardInterrupt ends a call, then what it returns."""
    outside, found, moment = sys.gettrace(), None, 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != source:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    while found is None:
        left = moment
        sys.settrace(trace)
        try:
            found = call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(outside)
        moment += 1
        yield found
    assert moment > 50


def test_an_exception_between_any_two_instructions_leaves_no_work_half_done_and_nothing_held() -> None:
    """As a handler may raise it. Whoever only waits may go; what has begun ends, and the next work is done."""
    begun, ended = [], []

    def work() -> int:
        begun.append(True)
        ended.append(True)
        return 7

    for found in interrupted_everywhere(module.__file__, lambda: uninterrupted(work)):
        assert found in (7, None)
        settle()
    assert found == 7
    assert uninterrupted(lambda: "next") == "next"
    assert LOCK.acquire(timeout=600)  # held by whoever works
    try:
        assert len(begun) == len(ended)
    finally:
        LOCK.release()


def test_whenever_making_a_thing_is_interrupted_the_next_who_asks_makes_it() -> None:
    makes: list[Once[str]] = []

    def ask() -> str:
        makes.append(Once(lambda name: name.upper()))
        return makes[-1]("name")

    for _ in interrupted_everywhere(once.__file__, ask):
        if makes:
            assert makes[-1]("name") == "NAME"


def test_where_no_thread_can_be_had_the_work_is_done_by_the_one_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: object, arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    def at_once(work: Any, arguments: Any) -> None:
        work(*arguments)

    for start in (refuse, at_once):  # the second as under gevent
        monkeypatch.setattr(module, "start_new_thread", start)
        assert uninterrupted(threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError) as caught:
            uninterrupted(lambda: 1 // 0)
        assert caught.value.__context__ is None


def test_a_small_stack_for_threads_is_none_for_a_compiler() -> None:
    before = threading.stack_size(1 << 16)
    try:

        def deep(level: int) -> int:
            return level and max(map(deep, [level - 1]), default=0) + 1  # by way of C, whose stack it is about

        assert uninterrupted(partial(deep, 300)) == 300
        assert threading.stack_size() == 1 << 16
    finally:
        threading.stack_size(before)


PROGRAM = """
import atexit, os, signal, sys, threading, time, warnings
from nnx.kernels.uninterrupted import pause, uninterrupted

warnings.simplefilter("ignore")  # Python 3.12: a fork beside other threads
told = threading.Event()
def say(text):
    told.wait(600)
    time.sleep(0.1)  # until the other is about to fork
    os.write(1, text)

def never_end():
    while True:
        time.sleep(0.01)
        pause()

def interrupted(work, *arguments):
    def interrupt_main_and_work():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        work(*arguments)
    try:
        uninterrupted(interrupt_main_and_work)
    except KeyboardInterrupt:
        os.write(1, b"cut ")
    told.set()

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupted(say, b"whole ")
if (child := os.fork()) == 0:
    os.write(1, b"child " if uninterrupted(lambda: 7) == 7 else b"wrong ")
    os._exit(0)
os.waitpid(child, 0)
atexit.register(lambda: os.write(1, uninterrupted(lambda: b"end")))
interrupted(never_end)
"""


@SIGNALS
def test_a_fork_waits_for_work_that_goes_on_and_the_end_of_the_program_for_its_next_pause() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=600)
    assert (run.returncode, run.stdout, run.stderr) == (0, "cut whole child cut end", "")


COLD = """
import random, signal, sys
import numpy as np
import nnx

armed = False

def ring(number, frame):
    if armed:
        raise TimeoutError

def until_done(work):
    global armed
    while True:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, random.choice([2e-4, 2e-3, 2e-2, 0.2]) * random.random() + 1e-6)
            found = work()
            armed = False
            return found
        except TimeoutError:  # it rings once
            armed = False
            interrupts.append(True)

interrupts = []
random.seed(0)
signal.signal(signal.SIGALRM, ring)
backend = until_done(lambda: nnx.get_backend("numba"))  # imports Numba, and compiles a dense layer as a probe
assert backend.name == "numba", nnx.explain()
x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
for name in ("relu", "tanh"):
    found = until_done(lambda: getattr(backend, name)(x))
    np.testing.assert_allclose(found, getattr(nnx.get_backend("numpy"), name)(x), rtol=1e-5)
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(interrupts))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that sends signals")
def test_numba_is_imported_and_compiles_whatever_handlers_raise_meanwhile(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COLD], env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 20
