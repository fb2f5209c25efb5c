"""What NVRTC's machine code does in its loops: nvdisasm, from the wheel nvidia-cuda-nvdisasm, makes words of it.

for loop in streaming_loops(disassembled(cubin)["column_sums"]): print(loop.in_flight(), loop.widths)
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

LABEL, BRANCH = re.compile(r"^(\.L_\w+):"), re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")
INSTRUCTION = re.compile(r"/\*[0-9a-f]+\*/\s+(.*?)\s*;")
REGISTER = re.compile(r"\bR(\d+)(\.64)?\b")
LOAD = re.compile(r"\bLDG\.E(?:\.\w+)*?(?:\.(64|128))?\b[^,]* R(\d+),(.*)")


def nvdisasm() -> Path | None:
    """Return the program from its wheel (nvidia/cu13/bin)."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec is not None else None
    found = [path for folder in folders or () for path in Path(folder).glob("*/bin/nvdisasm")]
    return found[0] if found else None


def disassembled(cubin: bytes) -> dict[str, list[str]]:
    """Return each kernel's labels and instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([str(nvdisasm()), "-c", file.name], capture_output=True, text=True, check=True)
    kernels: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith(".text."):
            lines = kernels[line.removeprefix(".text.").rstrip(":")] = []
        elif kernels and (LABEL.match(line) or INSTRUCTION.search(line)):
            lines.append(line.strip())
    return kernels


@dataclass(frozen=True)
class Loop:
    """The lines of a loop that has none inside."""

    lines: list[str]

    @property
    def widths(self) -> list[int]:
        """The bits of each load from global memory."""
        return [int(load[1] or 32) for load in map(LOAD.search, self.lines) if load]

    def in_flight(self) -> int:
        """Return how many loads are under way before the first instruction that needs what one of them brings."""
        count, coming = 0, set[int]()
        for line in self.lines:
            found = INSTRUCTION.search(line)
            if found is None:
                continue
            load = LOAD.search(found[1])
            read = registers(load[3] if load else found[1])
            if read & coming:
                break
            if load:
                count += 1
                coming |= set(range(int(load[2]), int(load[2]) + int(load[1] or 32) // 32))
        return count


def registers(text: str) -> set[int]:
    """Return the registers that are named."""
    return {int(found[1]) + more for found in REGISTER.finditer(text) for more in range(2 if found[2] else 1)}


def streaming_loops(lines: list[str]) -> list[Loop]:
    """Return the innermost loops of a kernel that load from global memory."""
    places = {found[1]: number for number, line in enumerate(lines) if (found := LABEL.match(line))}
    spans = []
    for number, line in enumerate(lines):
        branch = BRANCH.search(line)
        if branch and branch[1] in places and places[branch[1]] < number:
            spans.append((places[branch[1]], number))
    inner = [s for s in spans if not any(s != other and s[0] <= other[0] and other[1] <= s[1] for other in spans)]
    loops = [Loop(lines[first : last + 1]) for first, last in inner]
    return [loop for loop in loops if loop.widths]
