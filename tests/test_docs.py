"""Documentation: examples run and print what is said, links lead somewhere, tables are whole."""

import ast
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnx.backends import threads

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))
import side_by_side  # noqa: E402

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)  # and what it prints
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
SOURCES = sorted([*(ROOT / "nnx").rglob("*.py"), *(ROOT / "bench").glob("*.py")])


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_examples_run_and_print_what_is_said(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if page.name == "compilation.md":
        pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)  # what an example saves goes there
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        above = text[: block.start(1)].count("\n")  # so that a traceback names the page's own line
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * above + block[1], str(page), "exec"), names)
        if block[2] is not None:
            assert [line.rstrip() for line in printed.getvalue().splitlines()] == block[2].splitlines()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_page_of_benchmarks_shows_the_results_that_there_are():
    assert side_by_side.PAGE.read_text(encoding="utf-8") == side_by_side.page()
    assert all(side_by_side.reports(name) for name in side_by_side.TABLES)


def test_a_processor_on_which_something_was_not_measured_has_an_empty_place_for_it():
    players = {name: {"ours": name == "nnx numba"} for name in ("nnx numba", "torch eager", "jax jit")}
    times = {"nnx numba": {"median_us": 20.0}, "torch eager": {"median_us": 50.0}, "jax jit": {"refused": "no"}}
    report = {"players": players, "workloads": [{"title": "a step", "results": times}]}
    assert side_by_side.cells(report, "a step") == ["20.0 us", "2.50 (torch eager)", "2.50"]
    assert side_by_side.cells(report, "another") == ["", "", ""]


# ---- environment variables -------------------------------------------------------------------------------------------


def read_from_the_environment(source: Path) -> Iterator[str]:
    """Yield the variables that a module names: all of nnx's own, and others where they are read by their name."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"NNX_[A-Z_]+", node.value):
            yield node.value
        values = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            values = node.args[:1]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            values = [node.slice]
        yield from (value.value for value in values if isinstance(value, ast.Constant))


def test_the_page_of_environment_variables_has_all_that_are_read_and_no_others():
    text = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([A-Z][A-Z0-9_]{5,})`", text))
    read = {name for source in SOURCES for name in read_from_the_environment(source)}
    assert len(read) > 10
    assert read | set(threads.VARIABLES) <= listed
    assert {name for name in listed if name.startswith("NNX_")} <= read


def test_the_doctor_shows_all_of_nnxs_own_variables():
    from nnx.doctor import VARIABLES

    read = {name for source in SOURCES for name in read_from_the_environment(source)}
    assert {name for name in read if name.startswith("NNX_")} == {name for name in VARIABLES if name[:4] == "NNX_"}


# ---- docstrings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["nnx", "bench"])
def test_modules_begin_with_what_they_are(folder: str):
    """Not with a question word: a newcomer reads the first line, and looks for a term that is known."""
    opens = re.compile(r"(What|How|Who|Whose|Where|When|Why|Which|Whether|Does|Do|Is|Are|From|Everything)\b")
    odd = {}
    for source in (source for source in SOURCES if source.relative_to(ROOT).parts[0] == folder):
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        if not text or opens.match(text):
            odd[named(source)] = text.partition("\n")[0]
    assert not odd
