"""What is chosen by the machine: sizes of its caches."""

import pytest

from nnx.kernels.cpu import caches
from nnx.kernels.cpu.caches import KIB, SMALL, Caches, from_sys, sensible


def processor(folder, siblings, *levels):
    """Write a processor's folder as Linux has it; each level is (level, type, size, shared_cpu_list)."""
    (folder / "topology").mkdir()
    (folder / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
    for number, level in enumerate(levels):
        index = folder / "cache" / f"index{number}"
        index.mkdir(parents=True)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), level, strict=True):
            (index / name).write_text(f"{value}\n")
    return folder


@pytest.mark.parametrize(
    ("siblings", "pair", "all_of_them"),
    [("0", "0", "0-3"), ("0,4", "0,4", "0-7"), ("0-1", "0-1", "0-7")],
)
def test_caches_are_a_cores_share_however_many_threads_a_core_has(tmp_path, siblings, pair, all_of_them):
    levels = (1, "Data", "48K", pair), (1, "Instruction", "64K", pair), (2, "Unified", "2048K", pair)
    found = from_sys(processor(tmp_path, siblings, *levels, (3, "Unified", "36M", all_of_them)))
    assert sensible(found) == Caches(48 * KIB, 2048 * KIB, 9 * KIB**2)


def test_a_processor_that_says_nothing_or_nonsense_counts_as_a_small_one(tmp_path):
    assert sensible(from_sys(tmp_path)) == SMALL  # no folders
    assert sensible(from_sys(processor(tmp_path, "?", (1, "Data", "48K", "0")))) == SMALL
    assert sensible({1: 0, 2: -1}).l1 == SMALL.l1
    assert sensible({1: 128 * KIB, 2: 64 * KIB}).l2 > 128 * KIB


def test_without_a_third_level_the_second_stands_for_it(tmp_path):
    found = from_sys(processor(tmp_path, "0", (1, "Data", "128K", "0"), (2, "Unified", "12M", "0-3")))
    assert sensible(found) == Caches(128 * KIB, 3 * KIB**2, 3 * KIB**2)


def test_caches_of_this_machine_are_ordered_and_found_once():
    here = caches.caches()
    assert 8 * KIB <= here.l1 < here.l2 <= here.l3
    assert caches.caches() is here
