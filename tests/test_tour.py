"""The tour in a terminal: it shows the pages of docs/tour, computes what they print, and waits for the reader."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nnx
from nnx.errors import InputError
from nnx.tour import page as page_module
from nnx.tour.__main__ import main
from nnx.tour.formula import plain
from nnx.tour.page import pages, parts
from nnx.tour.show import lines_of, page, without_marks
from nnx.tour.terminal import PROMPT, WIDTH

STEPS = pages()


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


class Stream(io.StringIO):
    """One that leads to a terminal."""

    def isatty(self) -> bool:
        return True


Shown = tuple[int, str]


@pytest.fixture
def in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shown]:
    """Walk in a terminal of 80 x 24; return the exit code, and all that was shown.

    What is given is answered at the prompts, one after the other; an exception is raised there.
    """

    def walked(step: str, *answers: str | type[BaseException]) -> Shown:
        screen, left = Stream(), iter(answers)

        def ask(prompt: str) -> str:
            screen.write(prompt)
            answer = next(left)
            if isinstance(answer, str):
                return answer
            raise answer

        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen)
            patch.setattr(sys, "stdin", Stream())
            patch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))
            patch.setattr(builtins, "input", ask)
            return main([step]), screen.getvalue()

    return walked


# ---- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"\frac{a}{b + c}", "a/(b + c)"),
        (r"\frac{\frac{a}{b}}{c}", "a/b/c"),
        (r"w_{ji} e^{z_j - m} x^{10}", "w_ji e^(z_j - m) x^10"),
        (r"\frac{\partial L}{\partial \hat y_{i,j}}", "∂L/∂ŷ_i,j"),
        (r"\text{ReLU}(x) = \max(0, x)", "ReLU(x) = max(0, x)"),
        (r"\left[ a, b \right]", "[ a, b ]"),
    ],
)
def test_formulas_are_text(latex: str, shown: str) -> None:
    assert plain(latex) == shown


def test_a_fraction_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="two parts in braces"):
        plain(r"\frac a b")


def test_text_is_shown_without_marks_but_code_as_it_is() -> None:
    text = "The **bold**, *the slanted*, [a link](x.md), `zip(*weights)`,\n`a * b` and $w_{ji}$ ![a picture](p.svg)"
    shown = "The bold, the slanted, a link, `zip(*weights)`, `a * b` and w_ji [picture: a picture]"
    assert without_marks(text) == shown


@pytest.mark.parametrize("name", STEPS)
def test_pages_fit_a_screen_of_80_columns_and_leave_no_mark(name: str) -> None:
    found = list(parts(STEPS[name].read_text(encoding="utf-8")))
    assert {"heading", "text", "python"} <= {part.kind for part in found}
    for part in found:
        lines = lines_of(part, 78)
        assert max(map(len, lines)) <= 80
        assert len(lines) <= 24 or part.kind == "python"  # with the pause before it a screen holds it
        if part.kind in ("text", "item", "formula"):
            assert not [mark for mark in ("\\", "$", "**", "](") if mark in " ".join(lines)]


def test_the_computed_results_are_those_on_the_page() -> None:
    path = STEPS["12"]
    said = [line for block in path.read_text(encoding="utf-8").split("```text\n")[1:] for line in block.splitlines()]
    printed = [line for kind, _, lines in page(path, 78) if kind == "printed" for line in lines if line]
    assert len(printed) == 5
    assert all(line.removeprefix("  > ") in said for line in printed)


def test_missing_pages_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page_module, "FOLDERS", (tmp_path / "none",))
    with pytest.raises(InputError, match="the tour's pages are missing"):
        pages()


# ---- walking ---------------------------------------------------------------------------------------------------------


def test_without_a_terminal_all_is_printed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["17"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Results are computed on the backend numpy.\n\n17. What the Jacobian loop costs")
    assert "\n  >    10 classes:" in shown
    assert "18. All of it together" in shown
    assert "notes' slips\n===" not in shown  # no step
    assert PROMPT not in shown
    assert "Next:" not in shown


def test_in_a_terminal_it_waits_after_each_result_and_q_leaves(in_a_terminal: Callable[..., Shown]) -> None:
    code, shown = in_a_terminal("1", "", "", "q")
    *screens, rest = shown.split(PROMPT)
    assert code == 0
    assert len(screens) == 3
    assert "1. A single neuron" in screens[0]
    assert screens[1].endswith("> 2.3\n\n")  # computed, and then the pause
    assert all(screen.count("\n") < 24 for screen in screens)  # nothing has scrolled off
    assert not rest


@pytest.mark.parametrize(("end", "code"), [(EOFError, 0), (KeyboardInterrupt, 130)])
def test_the_end_of_the_input_and_ctrl_c_leave(
    end: type[BaseException], code: int, in_a_terminal: Callable[..., Shown]
) -> None:
    left, shown = in_a_terminal("3", end)
    assert left == code
    assert shown.endswith(f"{PROMPT}\n")


def test_without_rich_code_is_shown_in_one_colour(
    in_a_terminal: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rich.console", "rich.syntax"):
        monkeypatch.setitem(sys.modules, name, None)
    _, shown = in_a_terminal("1", "", "q")
    assert "\n    weights = [0.2, 0.8, -0.5]\n" in shown


def test_slips_is_a_page_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slips"]) == 0
    shown = capsys.readouterr().out
    assert "  > NameError         inputs[0] * weight[0]\n" in shown
    assert "A single neuron\n=" not in shown


def test_what_is_said_of_the_backend_fits_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr("nnx.tour.__main__.walk", lambda terminal, names: None)
    with nnx.use_backend("numba"):
        assert main(["1"]) == 0
    shown = capsys.readouterr().out
    assert "it compiles its kernels" in shown
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_a_step_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["19"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no step '19'; expected one of 1, 2, 3")


def test_a_block_that_fails_ends_the_tour_with_its_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(nnx.Dense, "forward", fails)
    assert main(["1"]) == 1
    assert capsys.readouterr().err == "error: this step failed: MemoryError: no room\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here")
def test_a_full_disk_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115 - closing it raises the error again
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["18"]) == 1
    assert capsys.readouterr().err == "error: stdout could not be written: No space left on device\n"
    with contextlib.suppress(OSError):
        full.close()
