"""Structure of a recorded step: all that lowering reads of it, so that steps of the same structure are lowered once.

Another model of the same layers, on as many samples, has the same table: that does not say where arrays lie. The
structure is one of recorded calls, and not of layers, so nothing can be forgotten in it: calls are all that lowering
knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnx.backends.addresses import Array, address
from nnx.backends.numba.program import compile_program, wanted_family
from nnx.backends.numba.runtime import NumbaProgram, Template
from nnx.backends.numba.tuning import current
from nnx.backends.recorder import Call, Recorder

KEPT = 64  # structures, the latest
PLAIN = int, float, bool, str, type(None)

_templates: dict[Any, Template] = {}


def compile_known(backend: Any, recorder: Recorder) -> NumbaProgram:
    """Return a recorded step as something with `run(steps)`, as `compile_program` does, by a template if there is one.

    Raises:
        NotReplayable: see `compile_program`.
    """
    calls = recorder.calls
    structure, arrays = structure_of(calls, recorder.places)
    if structure is None:
        return compile_program(backend, calls)
    parts = backend.parts
    how = parts, backend.unit, backend.split_from if parts else 0.0, wanted_family()
    key = (*how, int(backend.threads() or 1), current().choices, structure)
    template = _templates.get(key)
    if template is not None:
        return template.on(arrays, backend.threads)
    program = compile_program(backend, calls)
    template = program.whole_template(arrays)
    if template is not None:
        _templates[key] = template
        for old in list(_templates)[:-KEPT]:
            _templates.pop(old, None)
    return program


def structure_of(calls: Sequence[Call], places: Mapping[int, int]) -> tuple[tuple[Any, ...] | None, list[Array]]:
    """Return the structure of recorded calls, and their arrays; None where an operand is of another kind.

    An array is known by its shape, type and layout; by which memory it is in, and how far from the first one there;
    and by which array is the first one that begins where it does.

    Args:
        places: addresses of arrays by their ids, as far as they are known.
    """
    structure, arrays = list[Any](), list[Array]()
    numbers, memories, first = dict[int, int](), dict[int, tuple[int, int]](), dict[int, int]()
    for call in calls:
        structure.append(call.name)
        for value in call.operands.values():
            kind = type(value)
            if kind in PLAIN:
                structure += kind, value.hex() if kind is float else value  # 0.0 == -0.0
                continue
            if kind is not np.ndarray:
                return None, []
            number = numbers.get(id(value))
            if number is not None:
                structure.append(number)
                continue
            number = numbers[id(value)] = len(arrays)
            arrays.append(value)
            memory, begin = value if value.base is None else value.base, places.get(id(value)) or address(value)
            known = memories.get(id(memory))
            if known is None:
                if type(memory) is not np.ndarray:
                    return None, []
                known = memories[id(memory)] = len(memories), begin
                structure.append(memory.flags.c_contiguous)
            at = begin - known[1], first.setdefault(begin, number)
            structure += value.shape, value.strides, value.dtype, known[0], at
    return tuple(structure), arrays
