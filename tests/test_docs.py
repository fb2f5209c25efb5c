"""Documentation: examples run and print what is said, links lead somewhere, tables are whole."""

import ast
import contextlib
import io
import itertools
import re
import runpy
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx.backends import threads

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "bench"), str(ROOT / "docs/_site")]
import links  # noqa: E402
import side_by_side  # noqa: E402

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)  # and what it prints
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
TOUR = sorted((ROOT / "docs/tour").glob("*.md"))
RUNS = [(page, None) for page in PAGES if page not in TOUR]
RUNS += [(page, backend) for page in TOUR for backend in ("numpy", "numba")]
SOURCES = sorted([*(ROOT / "nnx").rglob("*.py"), *(ROOT / "bench").glob("*.py")])


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("page", "backend"), RUNS, ids=lambda value: named(value) if isinstance(value, Path) else value
)
def test_examples_run_and_print_what_is_said(
    page: Path, backend: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if page.name == "compilation.md" or backend == "numba":
        pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)  # what an example saves goes there
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        above = text[: block.start(1)].count("\n")  # so that a traceback names the page's own line
        active = nnx.use_backend(backend) if backend else contextlib.nullcontext()
        with active, contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * above + block[1], str(page), "exec"), names)
        if block[2] is not None:
            assert [line.rstrip() for line in printed.getvalue().splitlines()] == block[2].splitlines()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings; MyST gives them the same."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_to_headings_lead_to_headings(page: Path):
    links = re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    targets = [((page.parent / path) if path else page, anchor) for path, anchor in links]
    assert not [(str(path), anchor) for path, anchor in targets if path.suffix == ".md" and anchor not in anchors(path)]


@pytest.mark.parametrize("page", [ROOT / "docs/numerics.md", ROOT / "docs/features.md"], ids=named)
def test_each_test_that_a_page_names_exists(page: Path):
    proofs = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    assert len(proofs) > 5
    for file, test in proofs:
        assert (
            f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8") if test else (ROOT / "tests" / file)
        )


# ---- the site --------------------------------------------------------------------------------------------------------


def test_the_reference_has_all_public_names_and_the_index_all_pages():
    reference = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs/reference").glob("*.rst"))
    described = set(re.findall(r"auto(?:class|function|module):: (?:nnx\.)?([\w.]+)", reference))
    assert {name for name in nnx.__all__ if name not in described} <= {"backends", "datasets", "errors"}
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "index.md" or re.search(rf"^{path.stem}$", index, re.MULTILINE), (
            f"{path.name}: in no toctree"
        )


def test_links_of_a_built_site_are_checked(tmp_path: Path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">.</a><a href="#x">.</a><h1 id="x">.</h1>', encoding="utf-8"
    )
    (tmp_path / "b.html").write_text('<p id="there">.</p><img src="p.png">', encoding="utf-8")
    (tmp_path / "p.png").touch()
    assert links.broken(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<a href="c.html">.</a><script src="https://other.example/x.js">', encoding="utf-8"
    )
    assert links.broken(tmp_path) == [
        "a.html: b.html#there",
        "b.html: c.html",
        "b.html: loads https://other.example/x.js",
    ]


# ---- examples --------------------------------------------------------------------------------------------------------

QUICKLY = {"EPOCHS": "2", "FRAMES": "2", "MPLBACKEND": "agg"}


def write_pictures(folder: Path) -> None:
    """Write a small set in Fashion-MNIST's files: a dark row of each picture tells its class."""
    folder.mkdir()
    for part, count in (("train", 240), ("t10k", 60)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), labels * 2] = 255
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


@pytest.mark.parametrize("script", EXAMPLES, ids=named)
def test_examples_run_as_scripts(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib")
    if script.name == "fashion.py":
        write_pictures(tmp_path / "fashion-mnist")
        monkeypatch.setenv("NNX_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, value in QUICKLY.items():
        monkeypatch.setenv(name, value)
    with nnx.use_backend("numpy"):
        runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("script", EXAMPLES, ids=named)
def test_each_example_is_a_page_and_its_notebook_is_made_from_it(script: Path):
    pytest.importorskip("jupytext")
    import notebooks

    assert len(script.read_text(encoding="utf-8").splitlines()) <= 90
    stale = notebooks.notebook(script) != script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert not stale, f"{script.stem}.ipynb is not what its script makes: make notebooks"


def test_the_page_of_benchmarks_shows_the_results_that_there_are():
    assert side_by_side.PAGE.read_text(encoding="utf-8") == side_by_side.page()
    assert side_by_side.README.read_text(encoding="utf-8") == side_by_side.readme()
    assert all(side_by_side.reports(name) for name in side_by_side.TABLES)


def test_the_picture_of_the_readme_is_drawn_from_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(side_by_side, "PICTURE", tmp_path / "bench.png")
    side_by_side.draw()
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_processor_on_which_something_was_not_measured_has_an_empty_place_for_it():
    players = {name: {"ours": name == "nnx numba"} for name in ("nnx numba", "torch eager", "jax jit")}
    times = {"nnx numba": {"median_us": 20.0}, "torch eager": {"median_us": 50.0}, "jax jit": {"refused": "no"}}
    report = {"players": players, "workloads": [{"title": "a step", "results": times}]}
    assert side_by_side.cells(report, "a step") == ["20.0 us", "2.50 (torch eager)", "2.50"]
    assert side_by_side.cells(report, "another") == ["", "", ""]


# ---- the tour --------------------------------------------------------------------------------------------------------


def test_the_tours_index_has_all_its_pages_and_each_leads_to_the_next():
    steps = [page for page in TOUR if page.name[0].isdigit()]
    assert [int(page.name[:2]) for page in steps] == list(range(1, len(steps) + 1))
    index = LINK.findall((ROOT / "docs/tour/README.md").read_text(encoding="utf-8"))
    assert index == [page.name for page in steps] + ["slips.md"]
    for page, after in itertools.pairwise(steps):
        title = after.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        assert f"\nNext: [{title}]({after.name})" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in TOUR if page.name[0].isdigit()], ids=named)
def test_what_the_tour_quotes_stands_in_the_source(page: Path):
    source = page.read_text(encoding="utf-8").partition("**In nnx's source:**")[2].partition("\n\n")[0]
    before, *files_and_texts = re.split(r"\[[^]]+\]\(([^)]+)\)", source)
    assert files_and_texts
    for file, after in zip(
        files_and_texts[::2], files_and_texts[1::2], strict=True
    ):  # what is quoted stands before its file
        for line in re.findall(r"`([^`]+)`", before):
            stands = " ".join(line.split()) in (page.parent / file).read_text(encoding="utf-8")
            assert stands, f"{file} has no line {line!r} any more: quote the one that took its place"
        before = after


def test_every_picture_is_shown_and_drawn():
    folder = ROOT / "docs/tour/pictures"
    shown = {link for page in TOUR for link in LINK.findall(page.read_text(encoding="utf-8")) if "pictures/" in link}
    drawn = {f"pictures/{path.name}" for path in folder.iterdir() if path.suffix in (".svg", ".png")}
    functions = {
        node.name for node in ast.parse((folder / "draw.py").read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert shown == drawn
    assert {Path(name).stem for name in drawn} <= functions


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
