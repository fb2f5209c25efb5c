"""What is chosen by the machine: sizes of its caches, and what `nnx warmup` measured, or what is derived without it."""

import json
from dataclasses import asdict, fields, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

import nnx
from nnx.backends import processor
from nnx.backends.numba import inference, measuring, measuring_predictions, timing, tuning
from nnx.backends.numba.backend import NumbaBackend
from nnx.backends.numba.program import compile_program
from nnx.errors import InputError
from nnx.kernels.cpu import caches
from nnx.kernels.cpu.caches import KIB, SMALL, Caches, from_sys, sensible
from nnx.kernels.cpu.matmul import gemm, tile_units
from nnx.kernels.cpu.threads import pool
from nnx.kernels.user_warnings import _given


def a_processor(folder, siblings, *levels):
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
    found = from_sys(a_processor(tmp_path, siblings, *levels, (3, "Unified", "36M", all_of_them)))
    assert sensible(found) == Caches(48 * KIB, 2048 * KIB, 9 * KIB**2)


def test_a_processor_that_says_nothing_or_nonsense_counts_as_a_small_one(tmp_path):
    assert sensible(from_sys(tmp_path)) == SMALL  # no folders
    assert sensible(from_sys(a_processor(tmp_path, "?", (1, "Data", "48K", "0")))) == SMALL
    assert sensible({1: 0, 2: -1}).l1 == SMALL.l1
    assert sensible({1: 128 * KIB, 2: 64 * KIB}).l2 > 128 * KIB


def test_without_a_third_level_the_second_stands_for_it(tmp_path):
    found = from_sys(a_processor(tmp_path, "0", (1, "Data", "128K", "0"), (2, "Unified", "12M", "0-3")))
    assert sensible(found) == Caches(128 * KIB, 3 * KIB**2, 3 * KIB**2)


def test_caches_of_this_machine_are_ordered_and_found_once():
    here = caches.caches()
    assert 8 * KIB <= here.l1 < here.l2 <= here.l3
    assert caches.caches() is here


def test_a_processors_name_becomes_the_name_of_a_file():
    for name, short in {
        "AMD EPYC 7763 64-Core Processor (cpu family 25, model 1)": "epyc-7763",
        "Intel(R) Xeon(R) Platinum 8488C": "xeon-platinum-8488c", "Apple M2 Pro": "m2-pro", "../../etc": "etc",
        "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz": "core-i7-9750h",
    }.items():  # fmt: skip
        assert processor.slug(name) == short
    assert processor.slug("(R)")
    assert processor.short(["X86_V2", "X86_V3"]) == f"{processor.slug()}-avx2"
    assert processor.short(["X86_V3", "X86_V4", "AVX512_SPR"]) == f"{processor.slug()}-amx"
    assert processor.short([]) == processor.slug()


# ---- the file --------------------------------------------------------------------------------------------------------

COSTS = tuning.Prediction(80.0, 0.04, 0.2, 1500.0, 0.3, 0.5, 12.0, 0.02)
PRODUCTS = "float32, a column by a row", "float32, full, large"
MEASURED = tuning.Choices(PRODUCTS, 1234, 5e6, 70.0, handed_us=7.0, woken_us=40.0, split_from=3e6, prediction=COSTS)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Let what was measured lie in an empty folder, and be looked for there."""
    nnx.get_backend("numba")  # which says how many threads there are
    monkeypatch.delenv("NNX_TUNE")
    monkeypatch.setattr(tuning, "readable", lambda: [tmp_path])
    monkeypatch.setattr(tuning, "writable", lambda: tmp_path)
    tuning.forget()
    yield tmp_path
    tuning.forget()
    _given.pop("choices left alone", None)


def test_what_was_measured_is_chosen_until_NNX_TUNE_is_off(folder, monkeypatch):
    nothing = tuning.current()
    assert nothing.choices == tuning.derived()
    assert "nnx warmup measures" in nothing.why
    file = tuning.keep(MEASURED)
    assert folder in file.parents
    assert json.loads(file.read_text())["choices"]["lanes_weights"] == 1234
    found = tuning.current()
    assert found.choices == MEASURED
    assert file.name in found.why
    notes = nnx.get_backend("numba").info().notes
    assert any(file.name in note for note in notes)
    assert any("1234 weights" in note for note in notes)
    pool_limit = pool.limit
    try:
        pool.set_limit(pool_limit + 1)
        assert tuning.current().choices == tuning.derived()  # nothing was measured for so many
    finally:
        pool.set_limit(pool_limit)
    monkeypatch.setenv("NNX_TUNE", "off")
    tuning.forget()
    assert tuning.current().choices == tuning.derived()
    assert "NNX_TUNE=off" in tuning.current().why


DAMAGED = {
    "cut short": lambda text: text[:100], "empty": lambda text: "", "a list": lambda text: "[]",
    "deep": lambda text: "[" * 50_000, "of another processor": lambda text: text.replace(processor.model(), "Z80"),
    "of another version": lambda text: text.replace(np.__version__, "0.1"), "huge": lambda text: text + " " * 70_000,
    "a word for a number": lambda text: text.replace("1234", '"many"'), "nan": lambda text: text.replace("1234", "NaN"),
    "true": lambda text: text.replace("1234", "true"), "negative": lambda text: text.replace("1234", "-1"),
    "no work to share": lambda text: text.replace('"share_us": 70.0', '"share_us": 0'),
    "a choice more": lambda text: text.replace('"share_us"', '"more": 1, "share_us"'),
    "nothing handed out": lambda text: text.replace('"handed_us": 7.0', '"handed_us": 0'),
    "a word for ns": lambda text: text.replace('"packed": 0.3', '"packed": "little"'),
    "rows that cost nothing": lambda text: text.replace('"row": 80.0', '"row": 0'),
    "costs left out": lambda text: text.replace('"packed": 0.3,', ""),
    "one number for costs": lambda text: text[: text.index('"prediction"')] + '"prediction": 3}}',
    "numbers for products": lambda text: text.replace('"float32, a column by a row"', "1"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_does_not_fit_is_left_alone_and_why_is_told(folder, name):
    file = tuning.keep(MEASURED)
    text = DAMAGED[name](file.read_text())
    assert text != file.read_text()
    file.write_text(text)
    tuning.forget()
    with pytest.warns(RuntimeWarning, match=r"is left alone: (it|lanes_weights|own_products|\w+_us|packed|row|pred)"):
        found = tuning.current()
    assert found.choices == tuning.derived()
    assert file.name in found.why


def test_where_nothing_can_be_written_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setattr(tuning, "writable", lambda: None)
    with pytest.raises(OSError, match="no folder"):
        tuning.keep(MEASURED)
    assert not list(Path(folder).rglob("tuning-*"))


def test_a_word_that_NNX_TUNE_does_not_know_is_refused(monkeypatch):
    monkeypatch.setenv("NNX_TUNE", "fast")
    with pytest.raises(InputError, match="NNX_TUNE='fast': expected auto or off"):
        nnx.backends.numba.NumbaBackend()


# ---- what is chosen --------------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch):
    """Return what sets some of the choices."""

    def choose(**some):
        found = tuning.Tuning(replace(tuning.derived(), **some), "chosen here")
        monkeypatch.setattr(tuning, "_found", lambda threads: found)

    return choose


def test_derived_choices_follow_from_caches_and_vectors(monkeypatch):
    here = tuning.derived()
    assert 0 < here.lanes_weights <= caches.caches().l1 // 4
    monkeypatch.setattr(tuning, "caches", lambda: Caches(8 * KIB, 64 * KIB, 64 * KIB))
    assert tuning.derived().lanes_weights <= 2 * KIB < here.lanes_weights
    monkeypatch.setattr(tuning, "WIDTH", 2 * tuning.WIDTH)
    assert tuning.derived().threads_from == 2 * here.threads_from


def test_steps_are_compiled_as_chosen(chosen, two_threads):
    backend = nnx.get_backend("numba")
    calls = measuring.recorded(backend, 64, (8, 16, 4), "float32")  # 36864 multiply-adds, 128 weights at most
    for weights, threads, wanted in [(128, 0.0, ("lanes", 2)), (127, 4e4, ("rows", 1)), (128, 3e4, ("lanes", 2))]:
        chosen(lanes_weights=weights, threads_from=threads)
        program = compile_program(backend, calls)
        assert (program.family, min(program.threads, 2)) == (wanted[0], min(wanted[1], backend.threads()))
        program.run(2)
    history = next(call for call in calls if call.name == "end_step").operands["history"]
    assert history[6, 0] < 0.99 * history[0, 0]  # what was noted is a training step: its loss falls


def test_products_are_whose_they_were_measured_to_be(chosen, monkeypatch):
    monkeypatch.setenv("NNX_AMX", "0")  # which takes large ones from both
    backend = NumbaBackend()
    for itemsize in (4, 8):
        for kind, (m, n, k, fused) in tuning.examples(itemsize):
            assert kind == tuning.kind_of(m, n, k, itemsize, fused)
            chosen(own_products=(kind,))
            assert backend._own(m, n, k, itemsize, fused)
            chosen(own_products=())
            assert not backend._own(m, n, k, itemsize, fused)
            chosen(own_products=None)
            assert backend._own(m, n, k, itemsize, fused) == gemm.prefer_own(m, n, k, itemsize, fused)
    assert tuning.kind_of(5, 7, 1, 4, True) == "float32, a column by a row"


def test_operations_are_shared_as_chosen(chosen, two_threads):
    backend = nnx.get_backend("numba")
    chosen(share_us=50.0)
    assert len(backend._split(100, 60e3)) == min(2, backend.threads())
    chosen(share_us=100.0)
    assert len(backend._split(100, 60e3)) == 1


def test_rows_are_predicted_each_by_itself_for_as_long_as_that_is_measured_to_be_quicker(chosen):
    costs, found = tuning.derived().prediction, []
    for row in (50.0, 100.0, 1000.0):  # the dearer, the sooner many are predicted at once
        chosen(prediction=replace(costs, row=row))
        found.append(inference.few_rows(320, 4))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] >= 1
    chosen(prediction=replace(costs, weight=5 * costs.weight))
    assert inference.alone(10_000, 4) == pytest.approx(costs.row + 5e4 * costs.weight)
    assert inference.alone(10_000, 8) == pytest.approx(costs.row + 1e5 * costs.weight)
    chosen(handed_us=1e3)
    assert inference.handed() == 1e6


def test_AMX_begins_in_full_precision_where_it_was_measured_to_be_quicker(chosen, monkeypatch):
    monkeypatch.setattr(tile_units, "why_not", lambda unit: "")
    backend = NumbaBackend()
    low = backend.with_precision("bf16")
    for work in (127 * 128 * 128, 128**3, 129 * 128 * 128):
        chosen(split_from=work)
        assert backend._on_tiles(128, 128, 128, 4) == (work <= 128**3)
        assert not backend._on_tiles(128, 128, 128, 8)
        assert low._on_tiles(128, 128, 128, 4)  # which layers round is no matter of speed
        assert f"from {work:.3g} multiply-adds" in " ".join(backend.info().notes)


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_measuring_gives_choices_that_the_file_takes(folder, monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "CHUNK", 1e-6)
    monkeypatch.setattr(measuring, "NETWORKS", ((8, 16, 4), (32, 64, 10)))
    monkeypatch.setattr(measuring, "examples", lambda itemsize: islice(tuning.examples(itemsize), 2))
    steps = []
    choices = measuring.measure(("float32",), steps.append)
    assert len(steps) == 5
    tuning.keep(choices)
    assert tuning.current().choices == choices
    known = {kind for itemsize in (4, 8) for kind, _ in tuning.examples(itemsize)}
    assert set(choices.own_products) <= known
    assert all(getattr(choices, field.name) is not None for field in fields(choices))
    assert json.loads(json.dumps(asdict(choices)))["lanes_weights"] == choices.lanes_weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_predictions_cost_is_read_off_a_few_of_them(monkeypatch, dtype):
    """Times are made up by the formula that is sought, so that it must come out."""
    costs, made, build = replace(COSTS, far_weight=0.3), [], measuring_predictions.Network.__init__

    def note(network, widths, dtype):
        build(network, widths, dtype)
        made.append((network, sum(a * b for a, b in pairwise(widths)) * np.dtype(dtype).itemsize / 4))

    def took(runs):
        found = []
        near, far = (costs.weight, costs.packed), (costs.far_weight, costs.far_packed)
        for (network, size), (weight, packed) in zip(made, (near, near, far), strict=True):
            row, panel = costs.row + size * weight, network.columns * (costs.among + size * costs.weight_among)
            once = costs.call + size * packed
            found += [300 + row, 300 + measuring_predictions.ROWS * row, once + panel, once + 2 * panel]
        assert len(runs) == len(found)
        for run in runs:
            run(1)
        return found

    monkeypatch.setattr(measuring_predictions.Network, "__init__", note)
    monkeypatch.setattr(measuring_predictions, "nanoseconds", took)
    found = measuring_predictions.prediction(dtype)
    assert asdict(found) == pytest.approx(asdict(costs), rel=0.15)  # of a call its weights are a part
    made.clear()
    monkeypatch.setattr(measuring_predictions, "nanoseconds", lambda runs: [50 * ns for ns in took(runs)])
    found = measuring_predictions.prediction(dtype)  # of a slow processor, or a very slow one
    assert asdict(found) == pytest.approx({name: 50 * ns for name, ns in asdict(costs).items()}, rel=0.3)
    for nonsense in (20.0, -1.0):  # the last two were disturbed, or are none
        made.clear()

        def disturbed(runs, by=nonsense):
            times = took(runs)
            return [*times[:-2], *(by * ns for ns in times[-2:])]

        monkeypatch.setattr(measuring_predictions, "nanoseconds", disturbed)
        assert measuring_predictions.prediction(dtype) == tuning.derived().prediction


def test_products_in_vectors_are_measured_also_where_large_ones_are_on_AMX(monkeypatch):
    monkeypatch.setattr(tile_units, "why_not", lambda unit: "")
    monkeypatch.setenv("NNX_PRECISION", "bf16")
    monkeypatch.setattr(measuring, "examples", lambda itemsize: [("large", (128, 128, 64, fused)) for fused in (0, 1)])
    asked = []
    monkeypatch.setattr(
        NumbaBackend, "_product", lambda self, *operands: not asked.append((self.gemm_rule, self.parts))
    )

    def once(one, other):
        one(1)
        other(1)
        return 0.5

    monkeypatch.setattr(measuring, "quotient", once)
    assert measuring.own_products("float32", here=True) == ["large"]
    assert asked == [("own", 0)] * 2


def test_a_program_that_has_its_processors_to_itself_is_told_from_one_that_has_not(monkeypatch):
    monkeypatch.setattr(measuring, "SPUN", 1e-6)
    assert 0 < measuring.had_to_itself() <= 1.5  # the two clocks tick apart
    clock = iter(range(100))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: 4.0 * next(clock))
    monkeypatch.setattr(measuring.time, "thread_time", lambda: 1.0 * next(clock))
    assert measuring.had_to_itself() < 1


def test_a_limit_is_where_all_sizes_together_lose_least():
    half = {1.0: 2.0, 4.0: 1.5, 16.0: 0.6, 64.0: 0.5}  # twice as slow, half as slow again, faster
    assert measuring.limit(half, 1.0, upwards=True) == 8
    assert measuring.limit(half, 8.5, upwards=True) == 8.5  # as expected, where that costs no more
    assert measuring.limit({a: 1 / q for a, q in half.items()}, 100.0, upwards=False) == 8
    assert measuring.limit(dict.fromkeys(half, 0.5), 1000.0, upwards=True) == 1
    assert measuring.limit(dict.fromkeys(half, 2.0), 1.0, upwards=True) > 64


def test_ways_that_tie_leave_the_choice_as_it_was_derived():
    for expected in (True, False):
        assert measuring.faster(1.02, expected) is expected
        assert measuring.faster(0.98, expected) is expected
    assert measuring.faster(0.5, False)
    assert not measuring.faster(1.5, True)


# ---- nnx warmup ------------------------------------------------------------------------------------------------------


@pytest.fixture
def warmed(folder, monkeypatch):
    """Return what runs `nnx warmup` where all is compiled, and what it measures is known; share: of a CPU."""
    pytest.importorskip("typer")
    from nnx.backends.numba import warmup
    from nnx.cli.warmup import warmup as command

    def run(capsys, share=(1.0, 1.0), files=3, **options):
        monkeypatch.setattr(warmup, "warmup", lambda progress, dtypes: len(dtypes))
        monkeypatch.setattr(warmup, "export", lambda path: files)
        shares = iter(share)
        monkeypatch.setattr(measuring, "measure", lambda dtypes, progress: MEASURED)
        monkeypatch.setattr(measuring, "had_to_itself", lambda: next(shares))
        command(**options)
        return " ".join(capsys.readouterr().out.split())

    return run


def test_warmup_keeps_what_it_measured(warmed, folder, capsys):
    said = warmed(capsys, dtype=None, export=None)
    assert "measured what is faster here:" in said
    assert tuning.current().choices == MEASURED


@pytest.mark.parametrize("share", [(0.5,), (1.0, 0.5)])  # with the first, it does not even measure
def test_warmup_keeps_nothing_that_it_measured_beside_other_programs(share, warmed, folder, capsys):
    said = warmed(capsys, share=share, dtype="float32", export=None)
    assert "not kept: other programs left this one 50% of a processor" in said
    assert not list(folder.iterdir())


def test_warmup_says_why_nothing_is_kept_and_measures_nothing_when_it_is_off(warmed, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "writable", lambda: None)
    assert "it is not kept: there is no folder" in warmed(capsys, dtype=None, export=None)
    monkeypatch.setenv("NNX_TUNE", "off")
    assert "measured: nothing, because NNX_TUNE=off" in warmed(capsys, dtype=None, export=None)


def test_warmup_exports_to_a_folder(warmed, tmp_path, capsys):
    from nnx.cli.errors import Failed

    said = warmed(capsys, dtype=None, export=tmp_path / "image")
    assert "exported 3 files: set NUMBA_CACHE_DIR to" in said
    with pytest.raises(Failed, match="cannot be kept on disk"):
        warmed(capsys, files=0, dtype=None, export=tmp_path / "image")
