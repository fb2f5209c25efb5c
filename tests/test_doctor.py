"""The doctor: what it says is so, and it says something wherever it is asked."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

import nnx
from nnx import doctor
from nnx.backends.cupy import driver as cuda_driver
from nnx.backends.operation_table import OPERATIONS
from nnx.cli import main
from nnx.errors import BackendUnavailable, InputError

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return doctor.report()


def test_report_is_plain_data_and_true(facts: dict[str, Any]):
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["nnx"] == {"version": nnx.__version__, "folder": str(Path(nnx.__file__).parent)}
    assert facts["numpy"]["version"] == np.__version__
    assert 1 <= facts["cpu"]["usable"] <= facts["cpu"]["cores"]
    assert facts["backends"]["numpy"] == {"works": True, "reason": None, "remedy": None}
    assert set(facts["backends"]) >= {"numpy", "numba", "cupy"}
    for told in facts["backends"].values():
        assert told["works"] or (told["reason"] and told["remedy"])
    assert facts["auto"]["backend"] == nnx.get_backend("auto").name
    assert set(facts["auto"]["ops"]) == set(OPERATIONS)
    assert set(facts["environment"]) >= {"NNX_BACKEND", "NNX_STRICT", "NNX_THREADS", "NNX_DATA", "OMP_NUM_THREADS"}


def test_text_says_all_that_matters(facts: dict[str, Any]):
    text = doctor.render(facts)
    assert max(map(len, text.splitlines())) <= 110
    for told in (nnx.__version__, np.__version__, facts["cpu"]["model"], "auto takes", "softmax_jacobian", "not set"):
        assert told in text
    for package in facts["packages"]:
        assert package["name"] in text


def test_text_holds_nothing_that_steers_a_terminal(facts: dict[str, Any]):
    odd = {**facts, "environment": {**facts["environment"], "NNX_ODD": "a\x1b[2J\u202eb"}, "platform": "c\x9bd"}
    text = doctor.render(odd)
    assert "a\\x1b[2J\\u202eb" in text
    assert "c\\x9bd" in text
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("names", doctor.PACKAGES, ids=lambda names: names[0])
def test_extra_named_for_a_package_brings_it(names: tuple[str, ...]):
    _, extra = doctor.PACKAGES[names]
    brought = {Requirement(text).name for text in EXTRAS[extra]}
    assert brought & set(names)


def test_extra_for_cupy_is_that_of_the_driver():
    names = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
    for cuda, extra in ((None, "cuda12"), ("12.4", "cuda12"), ("13.0", "cuda13"), ("14.1", "cuda13")):
        assert doctor._package(names, {"cuda": cuda})["extra"] == extra


def test_missing_package_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    found = doctor._package(("matplotlib",), {"cuda": None})
    assert found["version"] is None
    label, text, good = doctor._package_row(found)
    assert (label, good) == ("matplotlib", False)
    assert 'pip install "nnx-backends[plots]"' in text


class Driver:
    """NVIDIA's driver as far as the doctor asks: two GPUs, or a status that says why there are none."""

    def __init__(self, status: int) -> None:
        self.status = status

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13_010
        return 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def cuDeviceGetName(self, text: Any, length: int, number: int) -> int:
        text.value = f"H{number}".encode()[:length]
        return 0


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (Driver(0), {"cuda": "13.1", "devices": ["H0", "H1"], "reason": None, "remedy": None}),
        (Driver(100), {"cuda": "13.1", "devices": [], "reason": "the NVIDIA driver finds no GPU (status 100)"}),
        (object(), {"cuda": None, "devices": [], "reason": "there is no NVIDIA driver (libcuda.so.1)"}),
        (None, {"cuda": None, "devices": [], "reason": "there is no NVIDIA driver (libcuda.so.1)"}),
    ],
    ids=["two GPUs", "none", "a stand-in", "no driver"],
)
def test_gpu_is_asked_for_without_a_package(monkeypatch: pytest.MonkeyPatch, driver: object, expected: dict[str, Any]):
    def load(name: str) -> object:
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cuda_driver.sys, "platform", "linux")
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", load)
    found = doctor._gpu()
    assert found.items() >= expected.items()
    assert (found["remedy"] is None) == (found["reason"] is None)


def test_environment_is_shown_and_a_wrong_wish_does_not_stop_the_report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_BACKEND", "banana")
    monkeypatch.setenv("NNX_SOMETHING", "else")
    found = doctor.report()
    assert found["environment"]["NNX_SOMETHING"] == "else"
    assert found["active"]["backend"] is None
    assert "'banana' is no backend" in found["active"]["reason"]
    assert "'banana' is no backend" in " ".join(doctor.render(found).split())
    assert doctor.exit_code(found) == 0


def test_data_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("NNX_DATA", str(tmp_path))
    there = {"mnist": str(tmp_path / "mnist")}
    assert doctor._data() == {"folder": str(tmp_path), "given": True, "reason": "", "there": there}


def test_a_user_without_a_home_has_no_data_folder_and_is_told_so(monkeypatch: pytest.MonkeyPatch):
    pooch = pytest.importorskip("pooch")

    def homeless(project: str) -> str:
        raise RuntimeError("there is no home")

    monkeypatch.setattr(pooch, "os_cache", homeless)
    monkeypatch.delenv("NNX_DATA", raising=False)
    for reason in ("there is no home", r"NNX_DATA\('~nobody-at-all/x'\): .*; write the folder out"):
        found = doctor._data()
        assert found["folder"] is None
        assert re.search(reason, doctor._data_rows(found)[0][1])
        with pytest.raises(InputError, match=reason):
            nnx.datasets.mnist()
        monkeypatch.setenv("NNX_DATA", "~nobody-at-all/x")


def test_backend_that_breaks_is_told_not_raised(monkeypatch: pytest.MonkeyPatch):
    def broken(wish: object) -> None:
        raise RuntimeError("the plugin is ill")

    monkeypatch.setattr(doctor, "resolve", broken)
    assert doctor._choice("auto") == {"backend": None, "reason": "RuntimeError: the plugin is ill"}


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_exit_code_says_whether_anything_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
):
    for run in (lambda: doctor.main(arguments), lambda: main(["doctor", *arguments])):
        monkeypatch.setattr(doctor, "available", lambda: {"numpy": True})
        assert run() == 0
        monkeypatch.setattr(doctor, "available", lambda: {"numpy": BackendUnavailable("numpy", "it is", "so sad")})
        assert run() == 1
        assert "so sad" in capsys.readouterr().out


def test_json_of_the_command_is_the_report(capsys: pytest.CaptureFixture[str], facts: dict[str, Any]):
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["backends"] == facts["backends"]


def test_as_a_module_with_numpy_alone():
    """A bare machine: none of the packages that the report is about."""
    blocked = ["numba", "scipy", "threadpoolctl", "cupy", "typer", "rich", "safetensors", "sklearn", "pooch"]
    script = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({blocked})); sys.argv = ['doctor', '--json']\n"
        "runpy.run_module('nnx.doctor', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("NNX_")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["auto"]["backend"] == "numpy"
    assert found["numpy"]["threads"] is None
    assert found["backends"]["numba"]["works"] is False
