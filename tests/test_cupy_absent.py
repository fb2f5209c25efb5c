"""Where the GPU does not work: every cause becomes a reason and a remedy, and the script runs on."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import pytest

from nnx.backends.cupy import diagnosis
from nnx.backends.cupy import driver as cuda_driver
from nnx.backends.cupy.driver import Driver

ROOT = Path(__file__).resolve().parent.parent
STUB = Path(__file__).with_name("stub_libcuda.c")
INSTALLED = importlib.util.find_spec("cupy") is not None
DRIVER = cuda_driver.ask()

needs_cupy = pytest.mark.skipif(not INSTALLED, reason="CuPy is not installed")
needs_no_driver = pytest.mark.skipif(DRIVER.version is not None, reason="there is an NVIDIA driver here")

SCRIPT = """
import sys, warnings
import nnx

assert not sys.modules.get("cupy")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x, y = nnx.datasets.spiral(20, 3)
    model = nnx.Sequential(nnx.Dense(2, 8), nnx.ReLU(), nnx.Dense(8, 3), nnx.Softmax(), backend="cupy,numpy")
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05))
    model.fit(x, y, epochs=3, verbose=0)
assert model.backend.name == "numpy"
print(len(caught), caught[0].message)
print(bool(sys.modules.get("cupy")))
"""
WITHOUT_CUPY = "import sys; sys.modules['cupy'] = None\n"


def python(script: str, **environment: str) -> tuple[str, bool]:
    """Run a script, which must succeed in silence; return the fallback's reason and whether CuPy was imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NNX_", "CUDA_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told, imported = done.stdout.splitlines()[-2:]
    assert told.startswith("1 using backend 'numpy'; cupy is unavailable: ")
    return told.partition("unavailable: ")[2], imported == "True"


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a driver that says whatever it is told to."""
    if sys.platform != "linux":
        pytest.skip("the stub stands in for Linux's driver")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc)")
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-o", folder / "libcuda.so.1", STUB], check=True)
    return str(folder)


# ---- in a process of its own -----------------------------------------------------------------------------------------


@needs_no_driver
def test_no_driver_is_told_without_importing_cupy():
    told, imported = python(SCRIPT)
    assert told.startswith("there is no NVIDIA driver (libcuda.so.1). With an NVIDIA GPU: install its driver.")
    assert not imported


def test_auto_without_a_driver_takes_no_half_second(monkeypatch: pytest.MonkeyPatch):
    """Nothing of CuPy is touched, not even looked for."""
    from nnx.backends.cupy import backend as cupy
    from nnx.errors import BackendUnavailable

    monkeypatch.setattr(cuda_driver, "ask", lambda: Driver("libcuda.so.1"))
    monkeypatch.setattr(cupy, "load", lambda: pytest.fail("CuPy was loaded"))
    with pytest.raises(BackendUnavailable, match="there is no NVIDIA driver"):
        cupy.create()


@pytest.mark.parametrize(
    ("status", "reason", "remedy"),
    [
        (100, "the NVIDIA driver finds no GPU (status 100)", "--gpus all"),
        (3, "the NVIDIA driver does not start (status 3)", "spawn"),
        (304, "keeps the NVIDIA driver from the GPU (status 304)", "--gpus all"),
        (803, "are of different versions (status 803)", "Reboot"),
        (999, "the NVIDIA driver is broken (status 999)", "nvidia-smi"),
        (777, "the NVIDIA driver does not work (status 777)", "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_work_says_why(stub: str, status: int, reason: str, remedy: str):
    told, imported = python(SCRIPT, LD_LIBRARY_PATH=stub, STUB_STATUS=str(status))
    assert reason in told
    assert remedy in told
    assert not imported


def test_hidden_gpus_are_told_as_such(stub: str):
    told, _ = python(SCRIPT, LD_LIBRARY_PATH=stub, STUB_STATUS="100", CUDA_VISIBLE_DEVICES="")
    assert told.startswith("CUDA_VISIBLE_DEVICES='' hides every GPU. Unset it")


@pytest.mark.parametrize(("version", "extra"), [("13000", "cuda13"), ("12040", "cuda12")])
def test_no_cupy_under_a_driver_names_the_extra_that_fits(stub: str, version: str, extra: str):
    told, _ = python(WITHOUT_CUPY + SCRIPT, **working(stub, version))
    assert told.startswith(f'CuPy is not installed. Run `pip install "nnx-backends[{extra}]"`.')


@needs_cupy
def test_a_driver_too_old_for_the_wheel_names_the_one_that_fits(stub: str):
    told, imported = python(SCRIPT, **working(stub, "11040"))
    assert "the NVIDIA driver is too old for this CuPy (status 35). Update the driver" in told
    assert imported
    if [name for name in diagnosis.wheels() if name.startswith("cupy-cuda")] == ["cupy-cuda13x"]:
        told, _ = python(SCRIPT, **working(stub, "12040"))
        assert "runs CUDA up to 12.4, and this CuPy needs a newer one" in told
        assert "pip install cupy-cuda12x" in told


@needs_cupy
def test_a_driver_that_breaks_after_it_answered_is_told(stub: str):
    """It counts a GPU; CuPy's runtime then finds that nothing works."""
    told, _ = python(SCRIPT, **working(stub, "13000"))
    assert "the NVIDIA driver is broken (status 999)" in told


def working(stub: str, version: str) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": stub, "STUB_STATUS": "0", "STUB_VERSION": version}


@needs_no_driver
@pytest.mark.parametrize("wish", ["auto", "cupy,numba,numpy"])
def test_a_script_for_the_gpu_runs_without_one(wish: str):
    import nnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nnx.BackendFallbackWarning)
        assert nnx.get_backend(wish).name in ("numba", "numpy")


# ---- what an exception means -----------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    """Called as CuPy's."""

    def __init__(self, status: int) -> None:
        super().__init__("cudaErrorSomething: in words")
        self.status = status


class DynamicLibNotFoundError(RuntimeError):
    """Called as cuda-pathfinder's."""


class CompileException(Exception):
    """Called as CuPy's."""


WORKS = Driver("libcuda.so.1", (13, 1), 0, ("H200",))
MEANINGS = [
    (ModuleNotFoundError("No module named 'cupy'", name="cupy"), "CuPy is not installed", "nnx-backends[cuda13]"),
    (CUDARuntimeError(35), "runs CUDA up to 13.1, and this CuPy needs a newer one", "Update the driver"),
    (CUDARuntimeError(999), "the NVIDIA driver is broken (status 999)", "nvidia-smi"),
    (
        DynamicLibNotFoundError('Failure finding "libnvrtc.so": no'),
        "NVRTC, which compiles kernels, is missing",
        "[ctk]",
    ),
    (
        ImportError("libcublas.so.13: cannot open shared object file: No such file or directory"),
        "cuBLAS, which multiplies matrices, is missing",
        "[ctk]",
    ),
    (ImportError("libcurand.so.10: cannot open shared object file"), "cuRAND", "[ctk]"),
    (CompileException('x.cu(1): error: cannot open source file "cuda_fp16.h"'), "CUDA's headers are missing", "[ctk]"),
    (RuntimeError("Failed to find CUDA headers. Install them"), "CUDA's headers are missing (Failed to find", "[ctk]"),
    (CompileException("x.cu(7): error: expected a ';'"), "a kernel does not compile (x.cu(7): error", "NVRTC"),
    (OSError("libcupy.so: invalid ELF header"), "CuPy does not load (OSError: libcupy.so", "Install it again"),
    (
        ImportError("\n=====\nFailed to import CuPy.\n\nOriginal error"),
        "CuPy does not load (ImportError: Failed to import CuPy.)",
        "again",
    ),
    (KeyError("odd"), "the GPU cannot be used (KeyError: 'odd')", "docs/gpu.md"),
    (RuntimeError(), "the GPU cannot be used (RuntimeError: no message)", "nnx doctor"),
]


@pytest.mark.parametrize("named", ["/home/me", "/home/me/.cupy", "/home/me/.cupy/kernel_cache/tmp7", "/other/x.so"])
def test_a_folder_for_kernels_that_cannot_be_written_is_told(named: str, monkeypatch: pytest.MonkeyPatch):
    """CuPy makes it when it is imported, and writes there when it has compiled the first kernel."""
    monkeypatch.setattr(diagnosis, "wheels", lambda: ["cupy-cuda13x"])
    monkeypatch.setenv("CUPY_CACHE_DIR", "/home/me/.cupy/kernel_cache")
    reason, remedy = diagnosis.explain_error(PermissionError(13, "Permission denied", named), WORKS)
    is_that = named.startswith("/home")
    assert reason.startswith("CuPy cannot keep compiled kernels" if is_that else "CuPy does not load")
    assert ("Set CUPY_CACHE_DIR" in remedy) == is_that


@pytest.mark.parametrize(("error", "reason", "remedy"), MEANINGS, ids=lambda value: str(value)[:30].strip())
def test_what_an_exception_means(error: Exception, reason: str, remedy: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diagnosis, "wheels", lambda: ["cupy-cuda13x"])
    told = diagnosis.explain_error(error, WORKS)
    assert reason in told[0]
    assert remedy in told[1]
    assert "\n" not in "".join(told)
    assert len(told[0]) < 300


def test_two_wheels_are_the_first_suspect(monkeypatch: pytest.MonkeyPatch):
    installed = {"cupy-cuda12x", "cupy-cuda13x"}

    def distribution(name: str) -> None:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis.metadata, "distribution", distribution)
    assert diagnosis.wheels() == ["cupy-cuda12x", "cupy-cuda13x"]
    reason, remedy = diagnosis.explain_error(CUDARuntimeError(35), Driver("", (12, 4), 0, ("A100",)))
    assert reason.startswith("cupy-cuda12x and cupy-cuda13x are installed, which overwrite one another's files (")
    assert "12.4" in reason
    assert remedy.endswith("pip uninstall -y cupy-cuda12x cupy-cuda13x; pip install cupy-cuda12x.")


@needs_cupy
def test_warnings_of_cupys_import_stop_nothing(tmp_path: Path):
    """Where two wheels are installed CuPy warns, which `-W error` turns into an exception."""
    for name in ("cupy-cuda12x", "cupy-cuda13x"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    script = "from nnx.backends.cupy import backend, diagnosis; backend.load(); print(diagnosis.wheels())"
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    for code, right in ((script, True), ("import cupy", False)):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode == 0) == right, done.stderr
        assert not right or done.stdout.strip() == "['cupy-cuda12x', 'cupy-cuda13x']"


@needs_cupy
@needs_no_driver
def test_the_real_one_raises_what_is_explained():
    """Status 35, and libraries that are missing, as this CuPy tells them."""
    from nnx.backends.cupy.backend import load

    cupy = load()
    with pytest.raises(RuntimeError) as raised:
        cupy.zeros(3)
    reason, _ = diagnosis.explain_error(raised.value, Driver("libcuda.so.1"))
    assert "too old for this CuPy (status 35)" in reason
    with pytest.raises((ImportError, RuntimeError)) as raised:
        importlib.import_module("cupy_backends.cuda.libs.cublas").create()
    if not isinstance(raised.value, ImportError):
        pytest.skip("cuBLAS is installed here")
    assert "cuBLAS, which multiplies matrices, is missing" in diagnosis.explain_error(raised.value, WORKS)[0]
