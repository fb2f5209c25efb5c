"""No two threads of a block race in any kernel, and a barrier that is taken out is missed: `make test-races`.

By g++'s ThreadSanitizer (cuda_races.py). It is no part of `make test`, because it takes a minute or two.
"""

from __future__ import annotations

import pytest
from cuda_on_cpu import missing, run_sanitized, sanitizer
from cuda_proofs import PROOFS

if missing() is not None or sanitizer("thread") is None:
    pytest.skip(missing() or "g++ has no thread sanitizer (libtsan), or it does not start", allow_module_level=True)

REPORT = "WARNING: ThreadSanitizer: data race"


def reports(code: str) -> dict[str, int]:
    """Run code, which has `cuda_races` as `r`; return how many races were reported after each line that names one."""
    done = run_sanitized(f"import cuda_races as r\n{code}\nr.shown('the end')", "thread")
    _, *parts = done.stderr.split("@@ ")
    found = {part.partition("\n")[0]: part.count(REPORT) for part in parts}
    assert found.pop("the end", None) == 0, done.stderr[-4000:]
    assert done.returncode == (66 if any(found.values()) else 0), done.stderr[-4000:]
    return found


def test_kernels_have_no_races():
    found = reports(f"""
launched = set()
for operation in {list(PROOFS)}:
    r.shown(operation)
    launched |= r.kernels(operation)
r.shown("column sums of many rows")
r.column_sums()
assert launched >= {set().union(*(proof.kernels for proof in PROOFS.values()))}
""")
    assert found == dict.fromkeys([*PROOFS, "column sums of many rows"], 0)


NETWORKS = ("relu", "two dropouts", "l1 and l2", "binary logits", "tail of one", "norms")


def test_the_persistent_kernel_has_no_races():
    found = reports(f"""
for name in {NETWORKS}:
    r.shown(name)
    r.training(name)
""")
    assert found == dict.fromkeys(NETWORKS, 0)


# By file: its barriers, counted with those of its headers, and what meets each. common.cuh has two.
BARRIERS = {
    "softmax.cu": {0: "kernels('softmax')", 1: "kernels('softmax')"},
    "norm.cu": {
        0: "kernels('layer_norm')",
        1: "kernels('layer_norm')",
        2: "kernels('batch_norm')",
        3: "kernels('batch_norm')",
    },
    "dense.cu": {
        2: "column_sums()",
        3: "column_sums()",
        4: "kernels('dense_backward')",
        5: "kernels('dense_backward')",
    },
}


@pytest.mark.parametrize("file", BARRIERS)
def test_a_barrier_that_is_taken_out_of_a_kernel_is_missed(file: str):
    found = reports(
        "".join(
            f"r.without_barrier({file!r}, {number})\nr.shown('barrier {number}')\nr.{call}\n"
            for number, call in BARRIERS[file].items()
        )
    )
    assert set(found) == {f"barrier {number}" for number in BARRIERS[file]}
    assert all(found.values()), found


def test_a_barrier_that_is_taken_out_of_a_program_is_missed():
    found = reports("""
for number in (1, 2, 3, 4):
    r.shown(f"barrier {number}")
    r.training("relu", number)
""")
    assert len(found) == 4
    assert all(found.values()), found
