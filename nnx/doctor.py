"""Diagnosis of the installation: what works, what doesn't and why, and how to repair it. It needs only NumPy.

`report()` collects the facts as data that JSON can hold. `sections()` turns them into titled rows of text, which
`render` and `nnx doctor` show.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import textwrap
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import nnx
from nnx.backends import Resolution, available, processor, resolve, threads
from nnx.backends.cupy import driver as cuda_driver
from nnx.backends.cupy.diagnosis import wheels
from nnx.backends.printable import printable
from nnx.datasets.download import cache_folder
from nnx.distributed import diagnosis
from nnx.errors import BackendUnavailable, InputError, MissingExtra
from nnx.files import as_path

PACKAGES = {  # distributions, of which one is enough: (purpose, extra)
    ("numba",): ("the numba backend", "cpu"),
    ("scipy",): ("BLAS inside Numba", "cpu"),
    ("threadpoolctl",): ("setting and showing threads", "cpu"),
    ("cupy-cuda12x", "cupy-cuda13x", "cupy"): ("the cupy backend", "cuda12"),
    ("typer",): ("nnx train, nnx predict", "train"),
    ("rich",): ("progress bars and tables", "train"),
    ("safetensors",): ("saving", "train"),
    ("scikit-learn",): ("digits, nnx.sklearn", "train"),
    ("pooch",): ("downloading data sets", "train"),
    ("matplotlib",): ("pictures", "plots"),
    ("mpi4py",): ("training in several processes", "mpi"),
}
VARIABLES = (
    "NNX_BACKEND", "NNX_STRICT", "NNX_THREADS", "NNX_DATA", "NNX_GEMM", "NNX_PROGRAM", "NNX_TUNE", "NNX_GRAPH",
    "NNX_PERSISTENT", "NNX_STREAM", "NNX_PRECISION", "NNX_AMX", "NNX_GPU_MEMORY_LIMIT", "NNX_STALL", "NNX_ALONE",
    *threads.VARIABLES, "CUDA_VISIBLE_DEVICES",
)  # fmt: skip

LABEL = 20  # columns
PREFIXES = ("NNX_", "NUMBA_", "CUPY_")  # other variables with these prefixes are shown if they are set

Row = tuple[str, str, bool]  # label, text, whether it is in order


# ---- collecting ------------------------------------------------------------------------------------------------------


def report() -> dict[str, Any]:
    """Return everything, as data that JSON can hold."""
    gpu = _gpu()
    return {
        "nnx": {"version": nnx.__version__, "folder": str(Path(nnx.__file__).parent)},
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
        },
        "platform": platform.platform(),
        "cpu": {"model": processor.model(), "usable": threads.usable(), "cores": os.cpu_count(), "simd": simd()},
        "threads": _threads(),
        "gpu": gpu,
        "numpy": {"version": np.__version__, "blas": _blas(), "threads": _thread_pools()},
        "backends": {name: _told(found) for name, found in available().items()},
        "auto": _choice("auto"),
        "active": _choice(None),
        "packages": [_package(names, gpu) for names in PACKAGES],
        "distributed": diagnosis.report(),
        "environment": _variables(),
        "data": _data(),
    }


def _threads() -> dict[str, Any]:
    """Return how many threads nnx uses, why, and all limits that apply when no number was asked for."""
    try:
        taken, why = threads.get_threads(), threads.explain()
    except InputError as error:
        taken, why = None, str(error)
    return {"taken": taken, "why": why, "limits": threads.limits()}


def simd() -> list[str]:
    """Return the vector instructions that NumPy has detected."""
    found = _numpy_facts("SIMD Extensions")
    return [name for kind in ("baseline", "found") for name in found.get(kind, ())]


def _blas() -> dict[str, str]:
    blas = _numpy_facts("Build Dependencies").get("blas", {})
    return {name: str(blas.get(name, "unknown")) for name in ("name", "version")}


def _numpy_facts(section: str) -> dict[str, Any]:
    facts: Any = {}
    with contextlib.suppress(Exception):  # a build of one's own may lack it; the rest of the report matters more
        facts = np.show_config(mode="dicts")
    return dict(facts.get(section, {}))


def _thread_pools() -> list[dict[str, Any]] | None:
    """Return the libraries that have threads of their own, or None if they can't be listed."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    return [
        {"library": pool["internal_api"], "version": pool.get("version"), "threads": pool["num_threads"]}
        for pool in threadpool_info()
    ]


def _gpu() -> dict[str, Any]:
    """Ask NVIDIA's driver, without any package, for the newest CUDA that it runs, and for its GPUs."""
    driver = cuda_driver.ask()
    why = cuda_driver.explain(driver)
    reason, remedy = why or (None, None)
    return {
        "cuda": driver.cuda,
        "devices": list(driver.devices),
        "reason": reason,
        "remedy": remedy,
        "wheels": wheels(),
    }


def _told(found: bool | BackendUnavailable) -> dict[str, Any]:
    if isinstance(found, BackendUnavailable):
        return {"works": False, "reason": found.reason, "remedy": found.remedy}
    return {"works": True, "reason": None, "remedy": None}


def _choice(wish: str | None) -> dict[str, Any]:
    """Return the backend that is chosen for a request (None: the environment's), why, and what runs in it."""
    try:
        found: Resolution = resolve(wish)
        info = found.backend.info()
    except (BackendUnavailable, InputError) as error:
        return {"backend": None, "reason": str(error)}
    except Exception as error:  # somebody's plugin: told, like everything else that does not work
        return {"backend": None, "reason": f"{type(error).__name__}: {error}"}
    return {
        "backend": info.name,
        "reason": found.reason,
        "device": info.device,
        "versions": dict(info.versions),
        "threads": info.threads,
        "ops": dict(info.ops),
        "notes": list(info.notes),
    }


def _package(names: Sequence[str], gpu: dict[str, Any]) -> dict[str, Any]:
    purpose, extra = PACKAGES[tuple(names)]
    if extra == "cuda12" and int((gpu["cuda"] or "0").partition(".")[0]) >= 13:
        extra = "cuda13"
    found = {"name": names[0], "version": None, "extra": extra, "for": purpose}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return {**found, "name": name, "version": metadata.version(name)}
    return found


def _variables() -> dict[str, str | None]:
    others = sorted(name for name in os.environ if name.startswith(PREFIXES) and name not in VARIABLES)
    return {name: os.environ.get(name) for name in (*VARIABLES, *others)}


def _data() -> dict[str, Any]:
    """Return the folder where data sets are looked for: NNX_DATA if it is set, otherwise the cache of downloads."""
    root = os.environ.get("NNX_DATA", "").strip()
    folder, reason = None, ""
    try:
        folder = as_path("NNX_DATA", root) if root else cache_folder()
    except (InputError, MissingExtra) as error:  # there is no home, or no pooch
        reason = str(error)
    sets = {name: str(folder / name) for name in ("mnist", "fashion-mnist") if folder and (folder / name).is_dir()}
    return {"folder": str(folder) if folder else None, "given": bool(root), "reason": reason, "there": sets}


# ---- showing ---------------------------------------------------------------------------------------------------------


def sections(facts: dict[str, Any]) -> list[tuple[str, list[Row]]]:
    """Return the report as titled rows of text."""
    active = facts["active"] if facts["active"]["backend"] else facts["auto"]
    titled = [
        ("machine", _machine(facts)),
        ("backends", _backends(facts)),
        (f"operations of {active['backend']}", _operations(active.get("ops", {}))),
        ("packages", [_package_row(package) for package in facts["packages"]]),
        ("distributed", diagnosis.rows(facts["distributed"])),
        ("environment", _environment(facts["environment"])),
        ("data", _data_rows(facts["data"])),
    ]
    return [(printable(title), [_printable(row) for row in rows]) for title, rows in titled]


def _printable(row: Row) -> Row:
    label, text, good = row
    return printable(label), printable(text), good


def _machine(facts: dict[str, Any]) -> list[Row]:
    python, cpu, gpu, numpy = (facts[name] for name in ("python", "cpu", "gpu", "numpy"))
    pools = ", ".join(f"{pool['library']} {pool['version']}: {pool['threads']}" for pool in numpy["threads"] or [])
    return [
        ("nnx", f"{facts['nnx']['version']}, {facts['nnx']['folder']}", True),
        ("python", f"{python['version']} ({python['implementation']}), {python['executable']}", True),
        ("system", facts["platform"], True),
        ("cpu", f"{cpu['model']}, {cpu['usable']} of {cpu['cores']} cores usable", True),
        ("simd", " ".join(cpu["simd"]) or "unknown", True),
        ("gpu", ", ".join(gpu["devices"]) or gpu["reason"], True),
        *([("cuda", f"{gpu['cuda']} is the newest that the driver runs", True)] if gpu["cuda"] else []),
        *([("cupy", f"{', '.join(gpu['wheels'])} overwrite one another", False)] if len(gpu["wheels"]) > 1 else []),
        ("numpy", f"{numpy['version']}, BLAS {numpy['blas']['name']} {numpy['blas']['version']}", True),
        ("threads", facts["threads"]["why"], facts["threads"]["taken"] is not None),
        ("thread pools", pools or "unknown without threadpoolctl", True),
    ]


def _backends(facts: dict[str, Any]) -> list[Row]:
    rows = [
        (name, "works" if told["works"] else f"{told['reason']}. {told['remedy']}", told["works"])
        for name, told in facts["backends"].items()
    ]
    rows += _choice_rows("auto takes", facts["auto"])
    if facts["environment"]["NNX_BACKEND"]:
        rows += _choice_rows("NNX_BACKEND takes", facts["active"])
    return rows


def _choice_rows(label: str, choice: dict[str, Any]) -> list[Row]:
    if choice["backend"] is None:
        return [(label, choice["reason"], False)]
    number = f", {choice['threads']} thread{'s' * (choice['threads'] != 1)}" if choice["threads"] else ""
    taken = f"{choice['backend']} on {choice['device']}{number}: {choice['reason']}"
    return [(label, taken, True), *(("", note, True) for note in choice["notes"])]


def _operations(ops: dict[str, str]) -> list[Row]:
    """Return the operations, grouped by who runs them. An implementation with another name is shown with it."""
    groups: dict[str, list[str]] = {}
    for op, how in ops.items():
        owner, _, name = how.partition(":")
        groups.setdefault(owner, []).append(op if name in ("", op) else f"{op} ({name})")
    return [("default bodies" if owner == "xp" else owner, ", ".join(names), True) for owner, names in groups.items()]


def _environment(variables: dict[str, str | None]) -> list[Row]:
    rows = [(name, value, True) for name, value in variables.items() if value is not None]
    unset = [name for name, value in variables.items() if value is None]
    return rows + ([("not set", ", ".join(unset), True)] if unset else [])


def _package_row(package: dict[str, Any]) -> Row:
    if package["version"] is not None:
        return package["name"], f"{package['version']}, for {package['for']}", True
    return package["name"], f'missing, for {package["for"]}: pip install "nnx-backends[{package["extra"]}]"', False


def _data_rows(data: dict[str, Any]) -> list[Row]:
    why = "NNX_DATA" if data["given"] else "downloads go there"
    rows = [("folder", f"{data['folder']} ({why})" if data["folder"] else f"none: {data['reason']}", True)]
    return rows + [(name, path, True) for name, path in data["there"].items()]


def render(facts: dict[str, Any]) -> str:
    """Return the report as plain text."""
    lines = []
    for title, rows in sections(facts):
        lines += ["", title]
        for label, text, good in rows:
            start = f"{' ' if good else '!'} {label:<{LABEL}}  "
            lines += textwrap.wrap(
                text,
                110,
                initial_indent=start,
                subsequent_indent=" " * (LABEL + 4),
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines[1:])


def exit_code(facts: dict[str, Any]) -> int:
    """Return 0 if at least one backend works, else 1."""
    return 0 if any(told["works"] for told in facts["backends"].values()) else 1


def as_json(facts: dict[str, Any]) -> str:
    """Return the report as JSON."""
    return json.dumps(facts, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 0 if at least one backend works."""
    parser = argparse.ArgumentParser("nnx doctor", description="Show what works here, what doesn't, and the remedy.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args([printable(given) for given in (sys.argv[1:] if arguments is None else arguments)])
    facts = report()
    print(as_json(facts) if options.json else render(facts))
    return exit_code(facts)


if __name__ == "__main__":
    sys.exit(main())
