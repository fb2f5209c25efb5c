"""The distribution: what is in it, what it needs, what it imports, and that it runs with NumPy alone."""

import ast
import graphlib
import os
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nnx"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

OPTIONAL = [
    "cupy",
    "matplotlib",
    "narwhals",
    "numba",
    "onnx",
    "openpyxl",
    "pandas",
    "pooch",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "typer",
]

TRAIN_A_SPIRAL = """
import nnx

x, y = nnx.datasets.spiral(samples=50, classes=3, seed=0)
model = nnx.Sequential(nnx.Dense(2, 32), nnx.ReLU(), nnx.Dense(32, 3), nnx.Softmax(), seed=0)
model.compile(loss=nnx.CategoricalCrossEntropy(), optimizer=nnx.Adam(0.05), metrics=["accuracy"])
before = model.evaluate(x, y)
model.fit(x, y, epochs=200)
after = model.evaluate(x, y)
assert after["loss"] < before["loss"] / 2, (before, after)
assert after["accuracy"] > 0.75, (before, after)
assert model.backend.name == "numpy", model.backend.info()
"""


def python(*arguments: str | Path, executable: str | Path = sys.executable) -> str:
    """Run Python in the project's folder, which must succeed, and return all that it printed, complaints too."""
    done = subprocess.run(
        [executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout.strip()


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    python("-m", "hatchling", "build", "-t", "sdist", "-d", folder)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, so that a file which either of the two forgets is missed here."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, sdist)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def numpy_alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the installed wheel, NumPy, and nothing else."""
    folder = tmp_path_factory.mktemp("numpy-alone") / "venv"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    executable = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python("-m", "pip", "--python", executable, "install", "-q", "--no-index", "--no-deps", wheel)

    # NumPy is lent from where the tests run: `numpy` itself, and the libraries that its wheel keeps beside it.
    site = Path(python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", executable=executable))
    ours = Path(np.__file__).parent
    for part in [ours, ours.with_name("numpy.libs")]:
        if part.exists():
            (site / part.name).symlink_to(part, target_is_directory=True)
    return executable


@pytest.fixture
def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


# The archives -------------------------------------------------------------------------------------


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(ROOT).as_posix()
        for pattern in ["*.py", "*.cu", "*.cuh", "*.json", "*.css", "*.js", "py.typed"]
        for path in PACKAGE.rglob(pattern)
        if "__pycache__" not in path.parts  # compiled kernels, and what was measured with them
    }
    pages = {f"nnx/tour/pages/{path.name}" for path in (ROOT / "docs/tour").glob("*.md")} - {"nnx/tour/pages/README.md"}
    assert "nnx/py.typed" in names
    assert names == sources | pages


FROM_A_ZIP = """
import nnx, nnx.benchmark.page as page, nnx.benchmark.report as report
from nnx.kernels.cuda.sources import source
from nnx.tour.page import pages

x, y = nnx.datasets.spiral(20, 3)
model = nnx.Sequential(nnx.Dense(2, 3), nnx.Softmax(), backend="numpy")
model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam()).fit(x, y, epochs=2, verbose=0)
texts = page._file("page.css"), report.SCHEMA.read_text(), source("formula.cu"), pages()["7"].read_text()
assert all(texts)
print(nnx.__file__, *pages())
"""


def test_a_wheel_is_a_zip_that_runs(wheel: Path):
    where, *pages = python("-I", "-c", f"import sys; sys.path.insert(0, {str(wheel)!r}){FROM_A_ZIP}").split()
    assert Path(where) == wheel / "nnx" / "__init__.py"
    assert pages == [*map(str, range(1, 19)), "slips"]


def test_sdist_holds_the_package_once_and_what_it_takes_to_test_it(sdist: Path):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "nnx/__init__.py",
        "tests/test_package.py",
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        "LICENSE",
    } <= names
    assert {name.partition("/")[0] for name in names}.isdisjoint({"backends", "kernels", "out", ".venv"})


def test_wheel_needs_numpy_and_offers_the_extras(wheel_metadata: Message):
    requirements = [Requirement(line) for line in wheel_metadata.get_all("Requires-Dist", [])]
    assert wheel_metadata["Name"] == "nnx-backends"
    assert wheel_metadata["Requires-Python"] == ">=3.11"
    assert wheel_metadata["License-Expression"] == "MIT"
    assert [r.name for r in requirements if r.marker is None] == ["numpy"]
    assert {r.name for r in requirements}.isdisjoint({"torch", "jax"})
    assert set(wheel_metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])


def test_version_is_the_same_inside_and_outside(numpy_alone: Path):
    script = "import nnx, importlib.metadata as m; print(nnx.__version__ == m.version('nnx-backends'))"
    assert python("-I", "-c", script, executable=numpy_alone) == "True"


def test_the_version_stands_alike_wherever_it_is_written():
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "nnx/__init__.py").read_text(encoding="utf-8"), re.M)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert set(re.findall(r"nnx_backends-([\d.]+)-py3", (ROOT / "README.md").read_text(encoding="utf-8"))) == {version}


def test_every_extra_is_asked_for_somewhere_and_no_other():
    files = [*(ROOT / "nnx").rglob("*.py"), ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "README.md"]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    named = {name for names in re.findall(r"(?:nnx-backends|\.)\[([\w,]+)\]", text) for name in names.split(",")}
    needed = set(re.findall(r"(?:optional|MissingExtra)\((?:[^()]|\([^()]*\))*?, \"(\w+)\", f?\"", text))
    assert named | needed | {"cuda12", "cuda13"} == set(PROJECT["optional-dependencies"])


# With NumPy alone ---------------------------------------------------------------------------------


def test_it_trains_with_numpy_alone(numpy_alone: Path):
    script = f"import importlib.util as u; print([name for name in {OPTIONAL} if u.find_spec(name)])"
    assert python("-I", "-c", script, executable=numpy_alone) == "[]"
    python("-I", "-c", TRAIN_A_SPIRAL, executable=numpy_alone)


def test_the_tour_runs_with_numpy_alone_from_the_pages_in_the_wheel(numpy_alone: Path):
    shown = python("-I", "-m", "nnx.tour", "18", executable=numpy_alone)
    assert "computed on the backend numpy" in shown
    assert shown.count("  > True") == 3


def test_import_is_silent_and_imports_nothing_optional():
    """Here, where all of it is installed: absence would prove nothing."""
    script = f"import sys, nnx; print([name for name in {OPTIONAL} if name in sys.modules])"
    assert python("-W", "error", "-c", script) == "[]"


def test_dir_shows_what_is_public_and_nothing_else():
    """Modules and names that nnx itself imports are no names to use: an editor offers what `dir` shows."""
    import nnx

    assert set(dir(nnx)) == {*nnx.__all__, "data", "nnfs", "testing", "xp", "__version__"}
    assert [name for name in dir(nnx) if not hasattr(nnx, name)] == []
    assert {"Any", "annotations", "casting", "import_module", "owner"}.isdisjoint(dir(nnx))


def test_a_users_program_that_the_types_are_checked_with_runs():
    names = runpy.run_path(str(ROOT / "tests/user_code.py"))
    assert names["error"] < 1e-6


# The layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["backends", "kernels"])
def test_link_at_the_top_leads_into_the_package(name: str):
    link = ROOT / name
    if not link.is_symlink():
        pytest.skip("this copy of the project has no symbolic links")
    assert os.readlink(link) == f"nnx/{name}"
    assert link.samefile(PACKAGE / name)


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """The absolute names of all that a module imports, wherever in it the import stands: in a function, for types."""
    package = path.relative_to(root).parent.parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            # What is imported may be a module or a thing in one; the name is as deep either way.
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("floor", "allowed"),
    [("nnx.kernels", ("nnx.kernels",)), ("nnx.backends", ("nnx.backends", "nnx.kernels"))],
    ids=["kernels", "backends"],
)
def test_imports_point_down(floor: str, allowed: tuple[str, ...]):
    modules = sorted(ROOT.joinpath(*floor.split(".")).rglob("*.py"))
    upward = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules
        for name in imported(path)
        if name.partition(".")[0] == "nnx" and not any(f"{name}.".startswith(f"{floor}.") for floor in allowed)
    }
    assert modules
    assert not upward


def imports(root: Path) -> dict[str, set[str]]:
    """Which modules of nnx and of bench each of them imports by name.

    A package is a module like any other, its `__init__.py`: whoever imports from it depends on all that it hands on.
    That Python runs it before any module in it does not count.
    """
    files: dict[str, Path] = {}
    for top, folder in ((root, "nnx"), (root / "bench", "")):  # a benchmark names its neighbours alone
        for path in (top / folder).rglob("*.py"):
            parts = path.relative_to(top).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for name, path in files.items():
        named = {whole if whole in files else whole.rpartition(".")[0] for whole in imported(path, root)}
        found[name] = named & files.keys() - {name}
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a loop, the first once more at the end; none: an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle():
    graph = imports(ROOT)
    assert {"nnx", "nnx.model.network", "nnx.backends.numba.backend", "gpu_report"} <= graph.keys()
    assert graph["nnx.sklearn.network"] >= {"nnx.sequential", "nnx.layers"}
    assert not circle(graph)


def test_no_folders_import_each_other_in_a_circle():
    """A folder of nnx counts as one, whatever stands in it, and so does a file that is in none."""
    folders: dict[str, set[str]] = {}
    for name, names in imports(ROOT).items():
        folder, *others = (".".join(each.split(".")[:2]) for each in (name, *names))
        folders.setdefault(folder, set()).update(set(others) - {folder})
    assert folders["nnx.training"] >= {"nnx.model", "nnx.layers"}
    assert not circle(folders)


@pytest.mark.parametrize(
    "back",
    [
        "import nnx.a.one",
        "from nnx.a import one",
        "from nnx.a.one import One",
        "from ..a.one import One",
        "def later():\n    from nnx.a.one import One",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nnx.a.one import One",
        "from nnx.a import One",
    ],
    ids=["module", "from package", "from module", "relative", "in a function", "for types", "by its package"],
)
def test_a_circle_is_found_however_it_is_closed(back: str, tmp_path: Path):
    for path, text in {
        "nnx/__init__.py": "from nnx.b.two import Two\n",
        "nnx/a/__init__.py": "from nnx.a.one import One\n",
        "nnx/a/one.py": "from nnx.b.two import Two\nOne = Two\n",
        "nnx/b/__init__.py": "",
        "nnx/b/two.py": "Two = 2\n",
        "bench/run.py": "import tools\n",
        "bench/tools.py": "import nnx\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert not circle(imports(tmp_path))
    (tmp_path / "nnx/b/two.py").write_text(back)
    assert {"nnx.a.one", "nnx.b.two"} <= set(circle(imports(tmp_path)))


def test_a_circle_is_found_among_the_benchmarks(tmp_path: Path):
    for name, text in {"run": "import tools\n", "tools": "def later():\n    import run\n"}.items():
        (tmp_path / "bench").mkdir(exist_ok=True)
        (tmp_path / "bench" / f"{name}.py").write_text(text)
    assert set(circle(imports(tmp_path))) == {"run", "tools"}


# The constraints ----------------------------------------------------------------------------------


def test_constraints_name_versions_and_no_addresses():
    strange = [line for line in CONSTRAINTS if not re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+( ; [^#/]+)?", line)]
    assert CONSTRAINTS
    assert not strange


def test_constraints_pin_every_requirement():
    pinned = {line.partition("==")[0] for line in CONSTRAINTS}
    extras = PROJECT["optional-dependencies"].values()
    wanted = {
        Requirement(text).name for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    }
    assert wanted - pinned == {"nnx-backends"}, "regenerate constraints.txt, see CONTRIBUTING.md"
