"""Steps of small networks by the persistent kernel: on the CPU (cuda_on_cpu.py), through the backend's own code."""

from __future__ import annotations

import gc
import itertools
import re
from collections.abc import Iterator
from typing import Any

import cuda_on_cpu
import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if cuda_on_cpu.missing():
    pytest.skip(str(cuda_on_cpu.missing()), allow_module_level=True)

import fake_cupy
from fake_cupy import machine
from networks import ALIKE, NEAR, NETS, OF_FORMULAS, Net, mlp, numbers, samples

import nnx
from nnx.backends.cupy.backend import CupyBackend
from nnx.backends.cupy.programs import persistent as cuda_persistent
from nnx.backends.cupy.programs.persistent import MOST_WORK, PersistentProgram, compile_program
from nnx.backends.cupy.programs.shared_memory import ALWAYS, Buffer, end, place_buffers
from nnx.errors import InputError, NonFiniteError
from nnx.kernels.cuda import options, source
from nnx.kernels.cuda import program_table as t
from nnx.kernels.cuda.sources import FOLDER
from nnx.kernels.elementwise import KINDS

NOTE = "a recorded step is no persistent kernel, because "


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a backend on the stand-in, which begins anew; the order of threads is that of `seed`."""

    def make(persistent: str = "1", shared: int = 227 << 10, seed: int = 0, graph: str = "1") -> CupyBackend:
        machine.reset()
        machine.shared = shared
        for dtype in ("float32", "float64"):
            fake_cupy.compiled(source("program.cu"), options(dtype)).seed = seed
        monkeypatch.setenv("NNX_PERSISTENT", persistent)
        monkeypatch.setenv("NNX_GRAPH", graph)
        return CupyBackend(fake_cupy)

    yield make
    make()


def trained(net: Net, backend: Any, dtype: str = "float64", **more: Any) -> tuple[np.ndarray, nnx.History]:
    """The numbers of a model after training, and its history."""
    model, history = networks.trained(net, backend, dtype, **more)
    assert (model.eager_reason, model.replay_reason) == (None, None)
    return numbers(model), history


def failures(backend: CupyBackend) -> list[str]:
    return [note for note in backend.info().notes if note.startswith(NOTE)]


def compare(net: Net, backend: CupyBackend, dtype: str = "float64", **more: Any) -> None:
    """Train by the persistent kernel and by NumPy, layer by layer: the same numbers."""
    got, history = trained(net, backend, dtype, **more)
    expected, wanted = trained(net, "numpy", dtype, **more)
    assert not failures(backend)
    assert machine.launched.keys() >= {"program"}
    close = ALIKE if dtype == "float64" else NEAR
    np.testing.assert_allclose(got, expected, **close)
    for column in wanted:
        np.testing.assert_allclose(history[column], wanted[column], **close)


def recorded(net: Net, backend: CupyBackend, dtype: str = "float64") -> tuple[nnx.Sequential, PersistentProgram]:
    """A model, and its step on all samples as a program."""
    model, (x, y) = net.model(dtype, backend), net.samples()
    inputs = model._inputs(x, "x")
    _, program = model._trainer.staged(inputs, model._targets(y, inputs, "y"))  # type: ignore[union-attr]
    assert isinstance(program, PersistentProgram)
    return model, program


@pytest.mark.parametrize("persistent", ["1", "0"])
def test_settings_are_those_of_the_next_step(persistent: str, make: Any):
    """By the kernel, and by a graph."""
    net, losses = Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.3), weight_l2=1e-2)), []
    for backend in (make(persistent), "numpy"):
        model, (x, y) = net.model(backend=backend), net.samples()
        found = list(model.steps(x, y, 2))
        model.layers[2].rate, model.layers[0].weight_l2, model.layers[3].bias_l1 = 0.6, 0.0, 0.1
        found += list(model.steps(x, y, 2))
        model.layers = (*model.layers[:2], nnx.Dense(6, 3, weight_l1=0.1), nnx.Softmax())
        losses.append([*found, *model.fit(x, y, epochs=2, batch_size=16, verbose=0)["loss"]])
        assert (model.eager_reason, model.replay_reason) == (None, None)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-7)


# ---- the table -------------------------------------------------------------------------------------------------------


def names(kind: str) -> list[str]:
    found = re.search(rf"enum class {kind} \{{(.*?)\}}", source("program.cu"), re.DOTALL)
    assert found
    return [name.strip().lower() for name in found[1].split(",")]


def test_names_and_numbers_are_those_of_the_kernel():
    assert names("Op") == list(t.OPERATIONS)
    assert names("Kind") == ["none = -1", *KINDS]
    assert names("Optimizer") == list(t.OPTIMIZERS)
    text = (FOLDER / "program.cuh").read_text()
    struct = re.sub(r"//.*", "", text[text.index("struct Row {") : text.index("};", text.index("struct Row {"))])
    fields = re.findall(r"\w+(?=[,;])", struct)
    assert fields == list(t.FIELDS)
    numbers = dict(re.findall(r"#define (\w+) +(.*?)(?: +//.*)?$", text, re.MULTILINE))
    assert (int(numbers["WORDS"]), int(numbers["FIRST_PLACE"])) == (len(t.FIELDS), t.FIELDS.index("x"))
    assert (int(numbers["PROGRAM_THREADS"]), int(numbers["AHEAD"])) == (t.THREADS, t.AHEAD)
    assert numbers["SHARED_PLACES"] == "(1 << 20)"
    assert t.SHARED_PLACES == 1 << 20
    rates = (FOLDER / "optimizers.cuh").read_text()
    rates = re.sub(r"//.*", "", rates[rates.index("struct Rates {") : rates.index("};")])
    assert len(re.findall(r"\w+(?=[,;])", rates)) == t.RATES


# ---- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "unfused softmax"])
@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_the_loss_of_a_label_that_is_no_class_is_nan_and_the_rest_is_numpys(name: str, label: int, make: Any):
    after = []
    for backend in (make(), nnx.backends.resolve("numpy").backend):
        model, (x, y) = NETS[name].model("float64", backend), NETS[name].samples()
        inputs = model._inputs(x, "x")
        feed, runner = model._trainer.staged(inputs, model._targets(y, inputs, "y"))  # type: ignore[union-attr]
        wrong = y.copy()
        wrong[7] = label
        feed.y[...] = model.backend.asarray(wrong, "int64")
        loss, hits, _ = model._trainer.run(runner, 1)[0]  # type: ignore[union-attr]
        assert np.isnan(loss)
        after.append((hits, np.array(model.backend.to_numpy(model.flat.values))))
    assert after[0][0] == after[1][0]
    np.testing.assert_allclose(after[0][1], after[1][1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NETS if name not in OF_FORMULAS])
def test_200_steps_are_200_steps_layer_by_layer(name: str, make: Any):
    compare(NETS[name], make(seed=len(name)))


def test_a_formula_of_ones_own_is_for_graphs(make: Any):
    backend = make()
    trained(NETS["formula"], backend, epochs=2)
    (why,) = failures(backend)
    assert "no persistent kernel, because Swish is a formula of your own" in why


@pytest.mark.parametrize(
    "name", ["relu", "two dropouts", "binary logits", "squares", "l1 and l2", "rmsprop", "tail of one"]
)
def test_in_float32_too(name: str, make: Any):
    compare(NETS[name], make(), "float32", epochs=5)


def net_of(*widths: int, rows: int, batch: int | None = None, **more: Any) -> Net:
    """ReLUs and dropout between dense layers of any widths."""

    def layers() -> list[nnx.Layer]:
        inside = [
            layer for a, b in itertools.pairwise(widths[:-1])
            for layer in (nnx.Dense(a, b, weight_l2=1e-3), nnx.ReLU(), nnx.Dropout(0.2))
        ]  # fmt: skip
        return [*inside, nnx.Dense(widths[-2], widths[-1]), nnx.Softmax()]

    return Net(layers, rows=rows, batch=batch, **more)


SHAPES = [
    ((2, 64, 3), 300, None), ((5, 7, 9, 3), 70, 33), ((4, 8, 4), 64, 32), ((1, 1, 3), 31, 31), ((3, 16, 12, 5), 40, 17),
    ((64, 48, 10), 33, 32), ((2, 6, 3), 5, 1),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("widths", "rows", "batch"), SHAPES)
def test_all_sizes(widths: tuple[int, ...], rows: int, batch: int | None, dtype: str, make: Any):
    """Whole tiles and parts of them; batches below and above a warp, and one that is left over."""
    compare(net_of(*widths, rows=rows, batch=batch), make(seed=3), dtype, epochs=2)


@settings(max_examples=12, deadline=None)
@given(
    widths=st.lists(st.integers(1, 21), min_size=1, max_size=3), rows=st.integers(1, 75), batch=st.integers(1, 80),
    seed=st.integers(1, 99),
)  # fmt: skip
def test_whatever_the_sizes(widths: list[int], rows: int, batch: int, seed: int) -> None:
    machine.reset()
    backend = CupyBackend(fake_cupy)
    backend.persistent = True
    fake_cupy.compiled(source("program.cu"), options("float64")).seed = seed
    compare(net_of(2, *widths, 3, rows=rows, batch=batch), backend, epochs=2)


def test_labels_that_are_no_class_and_a_loss_that_explodes(make: Any):
    model, (x, y) = NETS["relu"].model("float64", make()), samples("labels", 50)
    assert np.isfinite(model.step(x, y))
    net = Net(lambda: [nnx.Dense(2, 3)], nnx.MeanSquaredError, lambda: nnx.SGD(1e30), data="numbers")
    with pytest.raises(NonFiniteError, match="first numbers that are not finite are in"):
        net.model("float32", make()).fit(*net.samples(), epochs=20, verbose=0)


# ---- barriers, bounds, bits ------------------------------------------------------------------------------------------

BUSY = ("l1 and l2", "binary logits", "softmax inside", "dropout first", "deep")


@pytest.mark.parametrize("name", BUSY)
def test_the_order_of_threads_changes_no_bit(name: str, make: Any):
    first, second = (trained(NETS[name], make(seed=seed), "float32", epochs=3)[0] for seed in (0, 11))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("name", BUSY)
def test_no_barrier_can_be_left_out(name: str, make: Any):
    """In some order of threads each of them counts, or else it would be one too many."""
    model, program = recorded(NETS[name], make())
    kernel = program._kernel
    assert kernel is not None
    table = np.array(kernel._table.get())
    before, each = kernel._numbers[:2]
    column = t.FIELDS.index("barrier")
    state = model._trainer.state()  # type: ignore[union-attr]

    def outcome(table: np.ndarray, seed: int) -> bytes:
        fake_cupy.compiled(source("program.cu"), options("float64")).seed = seed
        model._trainer.restore(state)  # type: ignore[union-attr]
        kernel._table[...] = fake_cupy.asarray(table)
        program.run(3)
        arrays = model.flat.state, model._trainer.history[:3]  # type: ignore[union-attr]
        return b"".join(model.backend.to_numpy(array).tobytes() for array in arrays)

    wanted = outcome(table, 0)
    needless = []
    for row in range(before, before + each):
        if table[row, column]:
            without = table.copy()
            without[row, column] = 0
            if all(outcome(without, seed) == wanted for seed in range(1, 7)):
                needless.append(t.OPERATIONS[table[row, 0]])
    assert not needless


@pytest.mark.skipif(cuda_on_cpu.sanitizer() is None, reason="g++ has no address sanitizer (libasan)")
def test_it_stays_within_its_arrays(make: Any):
    """Under the address sanitizer, all that is elsewhere than in shared memory at its exact size."""
    done = cuda_on_cpu.run_sanitized("""
import functools, cuda_on_cpu, fake_cupy
fake_cupy.compiled = functools.cache(
    lambda code, options: cuda_on_cpu.CpuModule.of_text(code, options, ("-fsanitize=address", "-g1")))
import test_cupy_persistent as tests
from networks import NETS
for shared in (227 << 10, 18 << 10):
    backend = tests.CupyBackend(fake_cupy)
    backend.persistent, backend.shared_memory = True, shared
    for net in (NETS["two dropouts"], NETS["soft labels"], NETS["binary"], tests.net_of(5, 7, 9, 3, rows=70, batch=33)):
        tests.trained(net, backend, "float32", epochs=1)
    print(tests.failures(backend))
""")
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.split() == ["[]", "[]"]


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_lies_elsewhere(make: Any):
    """Values of samples; not what a step keeps for the next one."""
    net = net_of(5, 20, 20, 3, rows=60)
    for shared, elsewhere in ((227 << 10, False), (38 << 10, True)):
        backend = make(shared=shared)
        _, program = recorded(net, backend)
        kernel = program._kernel
        assert kernel is not None
        assert bool(kernel._global_memory) == elsewhere
        assert kernel._launch.shared <= backend.shared_memory
        assert (kernel._table.get()[:, t.FIELDS.index("x") :] >= t.SHARED_PLACES).any()
    compare(net, backend, epochs=4)


@pytest.mark.parametrize("shared", range(32 << 10, 64 << 10, 2 << 10))
def test_however_much_memory_there_is(shared: int, make: Any):
    """Buffers that are used for one thing after another, and some that are elsewhere: in ever other combinations."""
    net = net_of(5, 20, 20, 3, rows=40)
    got, _ = trained(net, make(shared=shared), epochs=4)
    expected, _ = trained(net, "numpy", epochs=4)
    assert machine.launched["program"]
    np.testing.assert_allclose(got, expected, **ALIKE)


def test_all_that_it_uses_lives_as_long_as_it_does(make: Any):
    backend = make(shared=38 << 10)
    model, program = recorded(net_of(5, 20, 20, 3, rows=60), backend)
    table = program._kernel._table.get()  # type: ignore[union-attr]
    del model
    backend.release()
    gc.collect()
    elsewhere = {int(place) for place in table[:, t.FIELDS.index("x") :].flat if place >= t.SHARED_PLACES}
    assert len(elsewhere) > 10
    for place in elsewhere:
        assert machine.holder(place, 4)() is not None
    program.run(3)


def test_a_network_that_does_not_fit_is_a_graph(make: Any, monkeypatch: pytest.MonkeyPatch):
    backend = make(shared=8 << 10)
    trained(NETS["relu"], backend, epochs=1)
    assert "program" not in machine.launched
    (reason,) = failures(backend)
    assert re.search(
        r"its parameters, gradients and moments take [\d,]+ bytes, and a block's shared memory is 8,192", reason
    )
    assert machine.graphs["launch"] > 0
    backend = make(persistent="", shared=8 << 10)
    trained(NETS["relu"], backend, epochs=1)
    assert not failures(backend)  # the rule itself says so
    monkeypatch.setattr("nnx.backends.cupy.programs.lowering.MOST_NUMBERS", 60)
    backend = make()
    trained(NETS["relu"], backend, epochs=1)
    assert f"{NOTE}16 samples of 6 numbers are more than its indices reach" in failures(backend)


@settings(max_examples=60)
@given(
    buffers=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 9), st.integers(0, 9)), max_size=14),
    capacity=st.integers(0, 4096),
)
def test_buffers_needed_at_the_same_time_share_nothing(buffers: list[tuple[int, int, int]], capacity: int) -> None:
    made = [Buffer(size, first=min(a, b), last=max(a, b)) for size, a, b in buffers]
    sizes: list[int] = []

    def allocate(size: int) -> int:
        sizes.append(size)
        return (1 << 30) + sum(sizes)

    place_buffers(made, 128, capacity, allocate)
    inside = [buffer for buffer in made if buffer.begin < 1 << 30]
    assert len(inside) + len(sizes) == len(made)
    for number, buffer in enumerate(inside):
        assert 128 <= buffer.begin <= end(buffer) <= capacity
        assert buffer.begin % 128 == 0
        for other in inside[:number]:
            assert not buffer.interferes(other) or end(buffer) <= other.begin or end(other) <= buffer.begin


def test_a_buffer_is_used_again_only_where_there_is_no_fresh_one():
    buffers = [Buffer(100, first=k, last=k) for k in range(3)]
    place_buffers(buffers, 0, 256, lambda size: 1 << 30)
    assert [buffer.begin for buffer in buffers] == [0, 128, 0]
    late = Buffer(100, first=0, last=ALWAYS)
    place_buffers([late, Buffer(300, first=2, last=2)], 0, 128, lambda size: 1 << 30)
    assert late.begin == 0


# ---- when, and what is said ------------------------------------------------------------------------------------------


def test_a_launch_is_many_steps_and_asks_for_nothing(make: Any):
    _, program = recorded(NETS["l1 and l2"], make())
    assert (program.native, program.description) == (True, "persistent kernel")
    kernel = program._kernel
    assert kernel is not None
    before, kernel.most = machine.launched["program"], 20
    with machine.without("allocation", "host", "copies"):
        program.run(50)
        program.run(0)
    assert machine.launched["program"] - before == 3


def test_it_is_chosen_by_size(make: Any, monkeypatch: pytest.MonkeyPatch):
    backend = make(persistent="")
    compare(NETS["relu"], backend, epochs=1)
    assert f"and take up to {MOST_WORK:,} multiply-adds: many in one launch" in backend.info().notes[4]
    tall = Net(lambda: [nnx.Dense(1, 1)], nnx.MeanSquaredError, rows=40_000, batch=None, data="number")
    trained(tall, backend := make(persistent=""), epochs=1)
    assert "program" not in machine.launched
    assert not failures(backend)
    monkeypatch.setenv("NNX_GEMM", "own")
    trained(NETS["relu"], make(persistent=""), epochs=1)
    assert "program" in machine.launched
    monkeypatch.setenv("NNX_GEMM", "blas")
    NETS["relu"].model("float64", make(persistent="")).step(*NETS["relu"].samples())
    assert "program" not in machine.launched
    monkeypatch.delenv("NNX_GEMM")
    monkeypatch.setattr(cuda_persistent, "MOST_WORK", 100)
    for persistent, launched in (("", False), ("1", True)):
        backend = make(persistent=persistent)
        trained(NETS["relu"], backend, epochs=1)
        assert ("program" in machine.launched) == launched
        assert not failures(backend)


def test_it_can_be_had_off(make: Any, monkeypatch: pytest.MonkeyPatch):
    for persistent, graph in (("0", "1"), ("1", "0")):
        backend = make(persistent=persistent, graph=graph)
        trained(NETS["relu"], backend, epochs=1)
        assert "program" not in machine.launched
        assert bool(machine.graphs) == (graph == "1")
        assert not any("persistent" in note for note in backend.info().notes)
    with pytest.raises(InputError, match="NNX_PERSISTENT='often': expected 1 or 0"):
        make(persistent="often")


def test_what_it_cannot_do_is_a_reason_and_a_graph(make: Any):
    backend = make(persistent="")
    recorder = backend.record([x := backend.zeros((4, 3))])
    recorder.relu(x, out=backend.zeros((4, 3)))
    program = compile_program(backend, recorder.calls, None)
    assert not isinstance(program, PersistentProgram)
    assert failures(backend) == [f"{NOTE}a step has one optimizer and one end; recorded were 0 and 0"]


def test_a_kind_that_there_is_not_is_refused_and_stops_the_kernel(make: Any, monkeypatch: pytest.MonkeyPatch):
    _, program = recorded(NETS["tanh"], make())
    table, kinds = program._kernel._table, t.FIELDS.index("kind")  # type: ignore[union-attr]
    before = table.get()
    for op, number in (("elementwise", -1), ("elementwise", len(KINDS)), ("update", len(t.OPTIMIZERS))):
        changed = before.copy()
        changed[before[:, 0] == t.OPERATIONS.index(op), kinds] = number
        table[...] = fake_cupy.asarray(changed)
        with pytest.raises(RuntimeError, match="__trap"):
            program._kernel.launch(1)  # type: ignore[union-attr]
    changed = before.copy()
    changed[-1, 0] = len(t.OPERATIONS)
    table[...] = fake_cupy.asarray(changed)
    with pytest.raises(RuntimeError, match="__trap"):
        program._kernel.launch(1)  # type: ignore[union-attr]
    monkeypatch.setattr("nnx.kernels.elementwise.KINDS", KINDS[:2])
    backend = make()
    trained(NETS["tanh"], backend, epochs=1)
    assert "'tanh' is no elementwise operation" in failures(backend)[0]
    assert machine.graphs["launch"]


@pytest.mark.parametrize("failing", ["compiling", "launching"])
def test_a_kernel_that_fails_is_a_graph_with_the_same_numbers(failing: str, make: Any, monkeypatch: pytest.MonkeyPatch):
    backend = make()
    call = fake_cupy.RawKernel.__call__

    def fails(self: Any, *arguments: Any, **options: Any) -> None:
        if self.name == "program" and machine.launched["program"] == 4:
            raise RuntimeError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many\nthreads")
        call(self, *arguments, **options)

    if failing == "launching":
        monkeypatch.setattr(fake_cupy.RawKernel, "__call__", fails)
        why = "launching the persistent kernel failed (RuntimeError: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many)"
    else:
        monkeypatch.setattr(
            "nnx.backends.cupy.launch.source", lambda file: "nonsense" if file == "program.cu" else source(file)
        )
        why = "preparing it failed (RuntimeError: g++ does not compile it:)"
    got, _ = trained(NETS["two dropouts"], backend, epochs=5)
    expected, _ = trained(NETS["two dropouts"], "numpy", epochs=5)
    assert failures(backend) == [NOTE + why]
    assert machine.graphs["launch"] > 0
    np.testing.assert_allclose(got, expected, **ALIKE)


def test_two_layers_that_share_parameters_are_no_persistent_kernel(make: Any):
    model, program = recorded(NETS["relu"], make())
    call = next(call for call in program.calls if call.name == "dense_gradients")
    place = program.calls.index(call)
    calls = [*program.calls[:place], call, *program.calls[place:]]
    other = compile_program(model.backend, calls, True)  # type: ignore[arg-type]
    assert not isinstance(other, PersistentProgram)
    assert "a gradient is written twice in one step" in failures(model.backend)[0]  # type: ignore[arg-type]


def test_work_and_memory_of_the_spiral(make: Any):
    """The network that this is made for: in shared memory whole, with a barrier for each of few stages."""
    net = Net(lambda: [nnx.Dense(2, 64), nnx.ReLU(), nnx.Dense(64, 3), nnx.Softmax()], rows=300, batch=None)
    _, program = recorded(net, make(), "float32")
    kernel = program._kernel
    assert kernel is not None
    assert not kernel._global_memory
    before, each = kernel._numbers[:2]
    table = kernel._table.get()[before : before + each]
    assert table[:, t.FIELDS.index("barrier")].sum() == 6
    assert kernel.most > 500


def test_an_operation_that_there_is_not_is_refused_by_its_name() -> None:
    with pytest.raises(
        ValueError, match="'cosine' is no operation of the persistent kernel: expected one of copy, load"
    ):
        t.row("cosine")
