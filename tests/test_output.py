"""A standard output that is closed, gone, None, or somebody's object: nothing fails for it, and no answer is lost."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.kernels import compiling
from nnx.kernels import uninterrupted as waiting
from nnx.kernels.uninterrupted import uninterrupted
from nnx.output import Output, say
from nnx.training import progress

X, Y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2


class Writes:
    """An object with `write` alone, as of a logger or an IDE."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Broken(Writes):
    """One that fails at the first line."""

    error: Exception = BrokenPipeError(32, "Broken pipe")

    def write(self, text: str) -> None:
        raise self.error


class Flushless(Writes):
    flush = None


class Proxy(Writes):
    """One that looks everything up elsewhere, as one of an interpreter that ends, where nothing is any more."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} here")


class Terminal(io.StringIO):
    """A terminal that goes away."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def narrow() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "ascii")


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts something in the place of stdout, until the test ends."""
    if find_spec("rich"):  # what rich could not write to one stdout it would write to the next
        monkeypatch.setattr("rich._console", None)
    yield lambda stream: monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.undo()


def model() -> nnx.Sequential:
    net = nnx.Sequential(nnx.Dense(2, 2), nnx.Softmax(), backend="numpy")
    return net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())


@pytest.mark.parametrize("make", [lambda: None, closed, Writes, Broken, Flushless, Proxy, Terminal, narrow, object])
def test_a_training_goes_on_whatever_stdout_is(make: Callable[[], Any], stdout: Callable[[Any], None]) -> None:
    net = model()
    stdout(make())
    assert net.fit(X, Y, epochs=3).epochs == 3
    assert net.fit(X, Y, epochs=3, verbose=True).epochs == 3
    assert "Dense" in net.summary()


def test_what_can_be_written_is(stdout: Callable[[Any], None]) -> None:
    out = Writes()
    stdout(out)
    model().fit(X, Y, epochs=2)
    say("größe")
    assert out.text.startswith("epoch 1/2  loss")
    assert out.text.endswith("größe\n")


def test_what_a_stream_cannot_show_is_escaped(stdout: Callable[[Any], None]) -> None:
    out = narrow()
    stdout(out)
    say("größe 漢")
    out.seek(0)
    assert out.read() == "gr\\xf6\\xdfe \\u6f22\n"


def test_a_stream_that_failed_is_left_alone() -> None:
    calls: list[str] = []
    stream = Writes()
    stream.write = calls.append  # type: ignore[method-assign]
    out = Output(stream)
    out.write("a")
    stream.write = Broken().write  # type: ignore[method-assign]
    out.write("b")
    stream.write = calls.append  # type: ignore[method-assign]
    out.write("c")
    assert (out.gone, calls) == (True, ["a"])
    assert not out.isatty()


def test_lines_of_the_book_end_no_training(stdout: Callable[[Any], None]) -> None:
    from nnx import nnfs

    net = nnfs.Model()
    net.add(nnfs.Layer_Dense(2, 2))
    net.add(nnfs.Activation_Softmax())
    net.set(
        loss=nnfs.Loss_CategoricalCrossentropy(),
        optimizer=nnfs.Optimizer_Adam(),
        accuracy=nnfs.Accuracy_Categorical(),
    )
    net.finalize()
    stdout(closed())
    net.train(X.astype(np.float32), Y, epochs=2, validation_data=(X.astype(np.float32), Y))


def test_a_bar_that_rich_refuses_becomes_lines(monkeypatch: pytest.MonkeyPatch, stdout: Callable[[Any], None]) -> None:
    """As older ones do while another bar is shown."""
    rich = pytest.importorskip("rich.progress")

    def refuse(self: Any) -> None:
        raise rich.LiveError("Only one live display may be active at once")

    out = Writes()
    out.isatty = lambda: True  # type: ignore[attr-defined]
    stdout(out)
    monkeypatch.setattr(rich, "LiveError", RuntimeError, raising=False)
    monkeypatch.setattr(rich.Progress, "start", refuse)
    with progress.make("auto", 1, 0) as shown:
        shown.log(0, {"loss": 0.5})
    assert out.text == "epoch 1/1  loss 0.5000\n"


CLASSES = {"loss": 0.1234, "accuracy": 0.2345, "val_loss": 0.3456, "val_accuracy": 0.4567}
OWN = {"loss": 1.5e9, "val_share_of_the_customers_that_came_back_within_a_year": 2.5e-5}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Callable[[], list[str]]]:
    """Makes a terminal of so many columns; what that returns gives the lines that were drawn last."""
    console = pytest.importorskip("rich.console")

    def make(width: int) -> Callable[[], list[str]]:
        out = io.StringIO()
        monkeypatch.setattr("rich._console", console.Console(file=out, force_terminal=True, width=width))
        return lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).rstrip("\n").split("\r")[-1].split("\n")

    return make


@pytest.mark.parametrize("width", [100, 80, 60, 45, 34])
@pytest.mark.parametrize("logs", [{"loss": 0.1234}, {"loss": 0.1, "val_loss": 0.2}, CLASSES, OWN])
def test_the_bar_fits_the_terminal_and_shows_all_of_what_it_has_to_show(
    width: int, logs: dict[str, float], terminal: Any
) -> None:
    lines = terminal(width)
    with progress.Bar(20_000, 0) as shown:
        shown.advance(1.0)
        shown.log(0, logs)
    drawn = lines()
    assert max(map(len, drawn)) <= width
    assert re.match(r"epoch +1/20000 \S.* -?-?:?[-\d:]+", drawn[0])
    whole = [f"{name} {progress._number(value)}" for name, value in logs.items()]
    for word in whole:  # in one piece, where a line has room for it
        assert word in ("\n" if len(word) <= width else "").join(
            line.rstrip() if len(word) <= width else line for line in drawn
        )
    assert ("loss" in drawn[0]) == (46 + sum(2 + len(word) for word in whole) <= width)


def test_values_are_written_as_large_or_small_as_they_are() -> None:
    logs = {"a": 0.0, "b": 0.25, "c": 1.25e-6, "d": 1.5e9, "data_loss": 1.0, "e\x1b[2J": float("nan")}
    assert progress.described(logs) == ["a 0.0000", "b 0.2500", "c 1.25e-06", "d 1.5e+09", "e\\x1b[2J nan"]


def test_the_last_line_is_that_of_the_last_epoch_also_where_a_fit_ends_early(stdout: Any) -> None:
    for done in (1, 2, 5, 9):
        out = Writes()
        stdout(out)
        with progress.Lines(9, 0) as lines:
            for epoch in range(done):
                lines.log(epoch, {"loss": float(epoch)})
        told = [line.split()[1] for line in out.text.splitlines()]
        assert told == (["1/9"] if done == 1 else ["1/9", f"{done}/9"])


def test_a_terminal_that_moves_no_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch, stdout: Any) -> None:
    out = Writes()
    out.isatty = lambda: True  # type: ignore[attr-defined]
    stdout(out)
    for kind, shown in (("dumb", progress.Lines), ("xterm", progress.Bar if find_spec("rich") else progress.Lines)):
        monkeypatch.setenv("TERM", kind)
        if find_spec("rich"):
            monkeypatch.setattr("rich._console", None)
        assert type(progress.make("auto", 1, 0)) is shown


# ---- while kernels are compiled --------------------------------------------------------------------------------------


def compile_for(seconds: float) -> None:
    """Have something compiled, as nnx/kernels/cpu/jit/cache.py does."""

    def work() -> None:
        compiling.begun()
        time.sleep(seconds)
        compiling.ended()

    uninterrupted(work)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a second pass at once."""
    monkeypatch.setattr(compiling, "AFTER", 0.0)
    monkeypatch.setattr(waiting, "LOST", 0.001)


@pytest.mark.usefixtures("impatient")
def test_where_something_is_compiled_one_line_says_so(stdout: Any) -> None:
    out = Writes()
    stdout(out)
    with progress.Lines(1, 0):
        compile_for(0.05)
        compile_for(0.05)
    compile_for(0.05)  # nobody listens any more
    assert re.fullmatch(r"first use here: compiling .*about 5 s.*\n", out.text)
    with compiling.heard_by(lambda seconds: None), progress.Lines(1, 0):  # somebody says it already
        compile_for(0.05)
    with progress.make(0, 1, 0):
        compile_for(0.05)
    assert out.text.count("\n") == 1


@pytest.mark.usefixtures("impatient")
def test_the_bar_counts_seconds_of_compiling_until_there_are_values(
    terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "DRAWN_SECONDS", 0.0)
    lines = terminal(60)
    with progress.Bar(3, 0) as shown:
        compile_for(0.05)
        assert lines()[1:] == ["first use here: compiling, 0 s (of about 5 s, once)"]
        shown.advance(1.0)
        shown.log(0, {"loss": 0.5})
        assert "compiling" not in "".join(lines())


def test_seconds_of_compiling_add_up_and_less_than_one_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard = [0.0], []
    monkeypatch.setattr(compiling.time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds
        waiting.pause()

    with compiling.heard_by(heard.append):
        for _ in range(3):
            compiling.begun()
            pass_by(0.6)
            compiling.ended()
            pass_by(100.0)  # nothing is compiled
        assert heard == pytest.approx([1.2, 1.8])
    compiling.begun()
    pass_by(5.0)
    compiling.ended()
    assert len(heard) == 2


def test_a_listener_that_fails_fails_nothing(impatient: None) -> None:
    with compiling.heard_by(lambda seconds: 1 // 0):  # type: ignore[arg-type, return-value]
        compile_for(0.02)


# ---- the command line ------------------------------------------------------------------------------------------------

pytest.importorskip("typer")
NNX = f"{sys.executable} -m nnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained network `m` and a table `many.npz`."""
    where = tmp_path_factory.mktemp("output")
    np.savez(where / "many.npz", x=np.zeros((100_000, 2)))
    for first in ("train spiral --epochs 1 --save m --backend numpy", "predict m many.npz"):  # which may compile
        done = shell(f"{NNX} {first}", where)
        assert done.returncode == 0, done.stderr
    return where


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = f"set -o pipefail; {line}"
    environment = {**os.environ, "PYTHONPATH": str(Path(nnx.__file__).parents[1])}
    return subprocess.run(
        ["/bin/bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


TRAIN = f"{NNX} train spiral --epochs 3 --backend numpy --save new"


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash here")
@pytest.mark.parametrize("line", [f"{TRAIN} | true", f"{TRAIN} | head -1", f"{TRAIN} >&-", f"{TRAIN} <&- >&- 2>&-"])
def test_a_command_whose_files_are_written_is_done(line: str, folder: Path) -> None:
    (folder / "new").unlink(missing_ok=True)
    done = shell(line, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert nnx.load(folder / "new", backend="numpy").epochs_done == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here")
def test_a_full_disk_is_told_and_the_files_are_written(folder: Path) -> None:
    (folder / "new").unlink(missing_ok=True)
    done = shell(f"{TRAIN} >/dev/full", folder)
    assert (done.returncode, done.stderr) == (1, "error: stdout could not be written: No space left on device\n")
    assert nnx.load(folder / "new", backend="numpy").epochs_done == 3
    for words in ("env -u PYTHONUNBUFFERED", "env PYTHONUNBUFFERED=1"):
        done = shell(f"{words} {NNX} predict m many.npz >/dev/full", folder)
        assert (done.returncode, done.stderr) == (1, "error: stdout could not be written: No space left on device\n")


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash here")
def test_answers_go_to_who_reads_them_and_an_answer_without_a_place_is_an_error(folder: Path) -> None:
    done = shell(f"{NNX} predict m many.npz | head -n 2", folder)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 2)
    done = shell(f"{NNX} predict m many.npz >&-", folder)
    assert done.returncode == 1
    assert done.stderr == "error: there is no stdout to write to; name a file: --output FILE\n"
    done = shell(f"{NNX} predict m many.npz --output answers >&- 2>&-", folder)
    assert done.returncode == 0
    assert (folder / "answers").read_text().startswith("class,probability\n")


def test_an_error_without_stderr_does_not_go_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnx.cli import main

    out = Writes()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["train", "nothing.csv"]) == 2
    assert out.text == ""


@pytest.mark.parametrize("make", [lambda: None, closed, Writes])
def test_commands_within_a_program_whose_stdout_is_odd(
    make: Callable[[], Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnx.cli import main

    monkeypatch.chdir(folder)
    out = make()
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["train", "spiral", "--epochs", "1", "--save", "new", "--overwrite", "--backend", "numpy"]) == 0
    if isinstance(out, Writes):
        assert "test" in out.text
        out.text = ""
        assert main(["predict", "m", "many.npz", "--backend", "numpy"]) == 0
        assert out.text.count("\n") == 100_001
