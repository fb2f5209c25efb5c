"""Stage process of `make gpu`: whatever becomes of it, the caller goes on, and what it saved is kept.

A process that waits for a driver that does not answer cannot even be killed. So nothing here waits without end: not for
a process, not after killing it, and not for what it prints, which goes to the log file by itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds that a killed process gets to end
left_behind: list[subprocess.Popen[Any]] = []  # those that outlived being killed
TAIL = 4000  # characters of what a stage printed that its result holds; all of it is in the log


def answer(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Return a command's exit status, None if it was stopped or is not there, and what it printed."""
    with tempfile.TemporaryFile() as file:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return None, str(error)
        code, stuck = ended(process, seconds)
        file.seek(0)
        text = file.read().decode(errors="replace")
    return code, text if code is not None else f"{text}\nstopped after {seconds:.0f} s{', stuck' if stuck else ''}"


def ended(process: subprocess.Popen[Any], seconds: float) -> tuple[int | None, bool]:
    """Wait for a process that leads a session; kill all of that if it takes longer.

    Returns:
        Its exit status, or None if it was killed; and whether not even that ended it.
    """
    try:
        return process.wait(max(1.0, seconds)), False
    except subprocess.TimeoutExpired:
        return None, not killed(process)
    except BaseException:  # Ctrl-C
        killed(process)
        raise


def killed(process: subprocess.Popen[Any]) -> bool:
    """End a process and what it started; tell whether it has ended."""
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        left_behind.append(process)
        return False
    return True


def run(script: Path, name: str, seconds: float, log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a stage: `script --stage name --out FILE`, which prints to the end of `log`.

    Returns:
        Its state ("passed", "skipped", "failed" or what was done about it), the data that it saved last, how many
        seconds it took, and the end of what it printed.
    """
    begin, first = time.monotonic(), log.stat().st_size if log.exists() else 0
    with tempfile.TemporaryDirectory(prefix="nnx-gpu-", ignore_cleanup_errors=True) as folder, log.open("ab") as file:
        out = Path(folder) / "out.json"
        process = subprocess.Popen(
            [sys.executable, str(script), "--stage", name, "--out", str(out)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=script.parent.parent, env=environment,
            start_new_session=True,  # so that what it started ends with it
        )  # fmt: skip
        code, stuck = ended(process, seconds)
        result = saved(out)
    if code is None:
        result["state"] = f"stopped after {seconds:.0f} s" + (", and stuck: it outlived being killed" if stuck else "")
    elif code != 0 or result["state"] == "unfinished":
        result["state"] = "failed"
        result["exit"] = code if code >= 0 else signal.Signals(-code).name
    result["seconds"] = round(time.monotonic() - begin, 1)
    with log.open("rb") as file:
        file.seek(first)
        result["output"] = file.read().decode(errors="replace")[-TAIL:]
    return result


def saved(out: Path) -> dict[str, Any]:
    """Return what a stage saved, whole or not at all."""
    try:
        return dict(json.loads(out.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {"state": "unfinished", "data": None}


def save(out: Path | None, state: str, data: Any) -> None:
    """Write what a stage has so far, in place of what it had: a process that dies meanwhile leaves the old one."""
    if out is None:
        return
    new = out.with_suffix(".new")
    new.write_text(as_json({"state": state, "data": data}), encoding="utf-8")
    new.replace(out)


def as_json(data: Any) -> str:
    """Return data as JSON; what JSON does not know as text, rather than not at all."""
    try:
        return json.dumps(data, indent=1, default=str) + "\n"
    except (TypeError, ValueError):  # keys that are no text, or something that holds itself
        plain = {str(key): repr(value) for key, value in data.items()} if isinstance(data, dict) else repr(data)
        return json.dumps(plain, indent=1) + "\n"
