"""Training in several processes: the result of one, whatever the number; and that no failure leaves a job hanging."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranks
from networks import ALIKE, NETS, Doubled, Net, numbers, trained
from test_datasets import real_fashion_mnist

import nnx
from nnx.backends import threads
from nnx.distributed import launcher, mismatch
from nnx.distributed.communicator import Communicator
from nnx.distributed.nccl import Nccl
from nnx.distributed.shares import Shares
from nnx.kernels.step_state import CURSOR
from nnx.layers import BatchNorm
from nnx.layers.chain import every
from nnx.training import shared, together, trainer
from nnx.training.batches import most_taken, own_places
from nnx.training.streamed_batches import StreamedBatches

MPIEXEC = Path(sys.executable).parent / "mpiexec"  # another MPI's, on the path, would not fit
SECONDS = 600  # for a job that takes five, more on a busy machine; one that hangs is ended
with_mpi = pytest.mark.skipif(
    util.find_spec("mpi4py") is None or not MPIEXEC.exists(),
    reason='needs mpi4py and its mpiexec: pip install "nnx-backends[mpi]"',
)


def job(
    size: int, *arguments: object, program: object = ranks.__file__, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program, one of ranks.py, in so many processes."""
    command = [MPIEXEC, "-n", size, sys.executable, "-W", "error", program, *arguments]
    environment = {**os.environ, "NNX_THREADS": "1", **variables}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
    )


# ---- the result of one process ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples as shards."""
    folder = tmp_path_factory.mktemp("samples")
    ranks.write(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, np.ndarray]:
    return ranks.trainings(str(folder))


@with_mpi
@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_processes_trains_as_one_does(
    size: int, alone: dict[str, np.ndarray], folder: Path, tmp_path: Path
):
    out = tmp_path / "out.npz"
    done = job(size, "agree", out, folder)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        found = dict(file)
    told, wrong = eval(str(found.pop("told")))
    assert found.keys() == alone.keys()
    for name, wanted in alone.items():
        if name.startswith("exact"):
            assert np.array_equal(found[name], wanted), name
        else:
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-12, err_msg=name)

    # All have the same errors, which name the rank; one that stops stops all; rank 0 alone writes and prints.
    assert [rank for rank, *_ in told] == list(range(size))
    assert len({repr(rest) for _, *rest in told}) == 1
    _, epochs, errors, here = told[0]
    assert (epochs, here) == (ranks.STEP, size)
    for error, what in zip(errors, ("x", "epochs", "batch size"), strict=True):
        assert error.startswith(f"fit: {what} of rank {size - 1} differs from rank 0's"), error
    assert [len(errors) for errors in wrong] == size * [9]
    for rank, errors in enumerate(wrong):
        named = f"InputError 0 rank {size - 1}: "
        whose = "ValueError 0 " if rank == size - 1 else f"{named}ValueError: "
        missing = "InputError 0 " if rank == size - 1 else named
        assert errors[0].startswith(f"InputError 0 fit: file 4 of rank {size - 1} differs from rank 0's: 'x_3.npy, 59 ")
        assert errors[1].startswith(f"InputError 0 fit: some of the rows of rank {size - 1} differs from rank 0's")
        assert errors[2].startswith(missing)
        assert errors[2].endswith("plain: there is x_2.npy, but no y_2.npy; expected both")
        assert errors[3].endswith("x_3.npy, row 910, column 0 is nan: expected finite numbers; drop or fill it first")
        assert errors[4].startswith("InputError 1 ")  # of the validation after the first epoch
        assert "x_3.npy, row 910, column 0 is nan" in errors[4]
        assert errors[5].startswith(
            f"InputError 0 fit: the next step's rows of rank {size - 1} differs from rank 0's: 6 "
        )
        assert errors[6] == f"{whose}no more"
        assert errors[7].startswith(f"{missing}fit: x hold 300 numbers that are not finite")
        assert errors[8].startswith(f"InputError 0 fit: class weight of rank {size - 1} differs from rank 0's")
    assert sorted("rank" not in errors[3] for errors in wrong) == [*(size - 1) * [False], True]
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"out.npz", "out.npz.0.csv", "out.npz.0.safetensors"}
    assert done.stdout.count("epoch 1/30") == 1
    assert nnx.load(tmp_path / "out.npz.0.safetensors").epochs_done == ranks.STEP


@with_mpi
def test_a_compiled_step_is_shared_too(tmp_path: Path):
    pytest.importorskip("numba")
    ranks.compiled(str(tmp_path / "one.npz"))
    done = job(3, "compiled", tmp_path / "three.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "three.npz") as three:
        for name in one.files:
            np.testing.assert_allclose(three[name], one[name], rtol=0, atol=1e-12, err_msg=name)


@with_mpi
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="it is Linux that says what a process has used")
def test_no_process_holds_or_reads_the_whole_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    window = 4096  # 16 MB of rows
    most = (256 + window) * 4096 + 200e6
    rows = int(8 * most) // 4096 // 256 * 256
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, 1024), "f4")) | {"shape": (rows, 1024)}
    with open("x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * 4096)  # a sparse file: it takes no room on the disk
    np.save("y.npy", np.zeros(rows, np.int64))
    done = job(2, "memory", window)
    assert done.returncode == 0, done.stderr
    for peak, read, words in json.loads(done.stdout):
        assert peak < most
        assert rows // 2 < read < rows // 2 + 300  # some were looked at before
        assert words.endswith("2,048 rows (8.0 MiB) at a time, of which each of 2 processes reads its own")


@with_mpi
@pytest.mark.skipif(
    real_fashion_mnist() is None, reason="needs Fashion-MNIST: NNX_DATA, or ../shared/data/fashion-mnist"
)
def test_real_pictures_are_learned_from_shards_as_well_by_two_as_by_one(tmp_path: Path):
    program = Path(__file__).parents[1] / "bench" / "shards.py"
    job(1, "write", tmp_path / "pictures", real_fashion_mnist(), program=program)
    done = [job(size, "train", tmp_path / "pictures", 1, program=program, NNX_BACKEND="numpy") for size in (1, 2)]
    assert [each.returncode for each in done] == [0, 0], done[1].stderr
    one, two = (json.loads(each.stdout) for each in done)
    assert one["test accuracy"] > 0.8
    assert abs(two["test accuracy"] - one["test accuracy"]) < 0.01
    assert two["rows read by each"] == 2 * [30_257]  # of which 257 were looked at before


# ---- failures --------------------------------------------------------------------------------------------------------

FAILURES = {
    "raise": "the reason\nnnx.distributed: rank 1 of 2 ",
    "exit": "rank 1 of 2 (process ",
    "_exit": "rank 1 of 2 (process ",
    "kill": "is gone: it was killed from outside",
    "stop": "is stopped",
    "sleep": "is still at something else",
}


@with_mpi
@pytest.mark.parametrize("how", FAILURES)
def test_a_rank_that_fails_ends_the_job_and_names_itself(how: str, tmp_path: Path):
    path = tmp_path / "m.safetensors"
    done = job(2, "fail", how, path, NNX_STALL="2" if how in ("stop", "sleep") else str(SECONDS))
    assert done.returncode != 0
    assert FAILURES[how] in done.stderr
    assert "rank 1 of 2 (process " in done.stderr
    assert not path.with_suffix(".done").exists()

    # What was saved is whole, and goes on, in one process, to where an uninterrupted training ends.
    model = nnx.load(path, backend="numpy")
    assert model.epochs_done in (ranks.STEP - 1, ranks.STEP)
    options = {"batch_size": 37, "verbose": 0, "deterministic": True}
    model.fit(ranks.X, ranks.Y, epochs=12 - model.epochs_done, **options)
    whole = ranks.network(nnx.Dropout(0.2))
    whole.fit(ranks.X, ranks.Y, epochs=12, **options)
    assert np.array_equal(model.flat.state, whole.flat.state)


@with_mpi
def test_processes_that_nobody_joined_are_warned_of():
    done = job(2, "copies")
    assert done.returncode != 0  # by -W error
    assert "2 processes, and each of them trains the whole model by itself; call nnx.distributed.init()" in done.stderr
    assert job(2, "copies", NNX_ALONE="1").returncode == 0


ON_DISK = "from nnx.data import pieces, source; source.WINDOW, pieces.BLOCK = 512, 99; from nnx.cli import main; main()"


@with_mpi
@pytest.mark.parametrize("data", ["spiral", "shards"])
def test_the_command_line_trains_together_and_goes_on_in_another_number(data: str, folder: Path, tmp_path: Path):
    pytest.importorskip("typer")
    program, given = (["-m", "nnx"], data) if data == "spiral" else (["-c", ON_DISK], folder / "plain")

    def nnx_train(size: int, name: str, epochs: int, *more: str) -> subprocess.CompletedProcess[str]:
        options = ["--backend", "numpy", "--patience", 0, "--layers", 16, "--batch-size", 20, "--deterministic"]
        line = [MPIEXEC, "-n", size, sys.executable, *program, "train", given, *options, "--save", tmp_path / name]
        line += ["--epochs", epochs, *more]
        return subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=SECONDS, check=False)

    first, second = nnx_train(2, "a", 3), nnx_train(3, "a", 6, "--resume")
    once = nnx_train(1, "b", 6)
    assert (first.returncode, second.returncode, once.returncode) == (0, 0, 0), first.stderr + second.stderr
    assert first.stdout.count("together   2 processes, by ") == 1
    assert first.stdout.count("test       accuracy") == 1
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    if data == "spiral":
        wrong = nnx_train(2, "a", 6, "--resume", "--layers", "8")
        assert wrong.returncode == 2
        assert wrong.stderr.count("was trained otherwise") == 1


# ---- launchers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "8"}, (0, 8)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "16"}, (3, 16)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, None),  # a batch script, of which there is one
        ({"PMI_RANK": "", "PMI_SIZE": "4"}, None),
        ({}, None),
    ],
)
def test_a_launcher_is_known_by_what_it_leaves(variables: dict[str, str], wanted: tuple[int, int] | None):
    found = launcher.found(variables)
    assert (found and (found.rank, found.size)) == wanted


@with_mpi
def test_an_mpiexec_of_another_mpi_is_explained():
    foreign = {**os.environ, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    script = "import nnx, json; from nnx.distributed import diagnosis\n"
    script += "print(json.dumps(diagnosis.report()))\nnnx.distributed.init()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=foreign, check=False)
    wanted = "Open MPI's mpiexec started 2 processes, but each finds itself alone: mpi4py uses MPICH"
    assert json.loads(done.stdout)["mismatch"].startswith(wanted)
    assert done.returncode == 1
    assert f"InputError: {wanted}" in done.stderr
    assert str(MPIEXEC) in done.stderr


def test_an_mpi_that_is_missing_is_told_by_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(nnx.distributed, "found", lambda: launcher.Launcher("mpiexec", 0, 2))
    with pytest.raises(nnx.MissingExtra, match=r"training in 2 processes needs mpi4py.*nnx-backends\[mpi\]"):
        nnx.distributed.init()
    with pytest.raises(nnx.InputError, match="stall=0: expected seconds"):
        nnx.distributed.init(stall=0)
    monkeypatch.setenv("NNX_STALL", "soon")
    with pytest.raises(nnx.InputError, match="NNX_STALL=soon: expected seconds"):
        nnx.distributed.init()


def test_a_process_alone_needs_nothing_and_says_so():
    comm = nnx.distributed.init()
    a, every = np.arange(3.0), np.zeros((1, 3))
    assert (comm.rank, comm.size, comm.leads, comm.gather(7)) == (0, 1, True, [7])
    assert comm.allreduce(a) is comm.broadcast(a) is a
    assert np.array_equal(comm.allgather(a[None], every), [[0, 1, 2]])
    assert "mpi4py" not in sys.modules
    assert str(Path(sys.executable).parent) in mismatch(launcher.Launcher("x", 0, 2), "y") or not MPIEXEC.exists()


# ---- parts, in one process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("rows", [1, 5, 12, 37, 100])
def test_parts_are_all_rows_once_and_the_same_for_every_number_of_processes(size: int, rows: int):
    parts = []
    for rank in range(size):
        comm = Communicator()
        comm.rank, comm.size = rank, size
        shares = Shares(comm, 12)
        parts += shares.bounds(rows)
        assert np.array_equal(shares.rows(rows), [row for a, b in shares.bounds(rows) for row in range(a, b)])
    assert parts == Shares(Communicator(), 12).bounds(rows)
    lengths = [end - first for first, end in parts]
    assert sum(lengths) == rows
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("size", "sizes"), [(5, (3, 3, 3, 2)), (2, (7, 7, 7, 4)), (4, (5, 5, 5, 5)), (4, (2, 2, 2, 1))]
)
def test_rows_that_are_streamed_come_to_the_process_that_takes_them(size: int, sizes: tuple[int, ...]):
    """Of a small last batch a process may take more than of those before: rank 2 of 5 takes 0 of 3 rows, and 1 of 2."""

    class Recorded:
        reason = "it is tested"

        def __init__(self, rows: int) -> None:
            self.rows, self.arrays = rows, [np.zeros((2 * rows, 1)), np.zeros((2 * rows, 1))]

        def fill(self, half: int, rows: np.ndarray) -> None:
            assert len(rows) <= self.rows
            self.arrays[0][half * self.rows : half * self.rows + len(rows), 0] = rows

        def enter(self, half: int) -> None: ...
        def leave(self, half: int) -> None: ...

    all_rows = np.arange(sum(sizes))
    for rank in range(size):
        comm = Communicator()
        comm.rank, comm.size = rank, size
        shares, counters = Shares(comm, size), np.zeros(3, np.int64)
        backend = nnx.get_backend("numpy")
        step: Any = SimpleNamespace(backend=backend, counters=counters, network=SimpleNamespace(seed=0), shares=shares)
        each = most_taken(shares, np.array(sizes))
        if not each:
            continue
        stream: Any = Recorded(2 * each)
        batches = StreamedBatches(step, stream, np.array(sizes, float), False, None)
        for epoch in range(2):
            found, rows = [], iter(sizes)
            for _, steps in batches.block(epoch, 1):
                for _ in range(steps):
                    own = len(shares.rows(next(rows)))
                    found += stream.arrays[0][batches._order[counters[CURSOR] :][:own], 0].tolist()
                    counters[CURSOR] += own
            assert found == all_rows[own_places(shares, np.array(sizes))].tolist()


def divisible(net: Net) -> bool:
    """Whether it can be trained part after part."""
    return not any(isinstance(layer, BatchNorm) for layer in every(net.layers()))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", [name for name, net in NETS.items() if divisible(net)])
def test_a_batch_in_parts_is_the_batch(name: str, backend: str):
    pytest.importorskip(backend)
    whole, history = trained(NETS[name], backend, epochs=5)
    parts, in_parts = trained(NETS[name], backend, epochs=5, deterministic=3)
    assert parts.eager_reason == whole.eager_reason
    assert parts.replay_reason == whole.replay_reason
    np.testing.assert_allclose(numbers(parts), numbers(whole), **ALIKE)
    np.testing.assert_allclose(in_parts["loss"], history["loss"], **ALIKE)


@pytest.mark.parametrize(
    ("backend", "name"),
    [("numba", name) for name in NETS]
    + [(backend, name) for backend in ("numba, lanes", "numpy") for name in ("norms", "parts of batches", "deep")],
)
def test_ranks_that_stop_wherever_gradients_are_complete_train_as_one(
    backend: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Two ranks, as threads; what is being summed holds no number until it is waited for."""
    backend, *lanes = backend.split(", ")
    pytest.importorskip(backend)
    monkeypatch.setenv("NNX_PROGRAM", *lanes or [""])
    whole, history = trained(NETS[name], backend, epochs=4)
    ranks_of, found = by_two(monkeypatch, NETS[name], backend)
    for model, in_parts in found:
        assert model.eager_reason == whole.eager_reason
        assert model.replay_reason == whole.replay_reason
        np.testing.assert_allclose(numbers(model), numbers(whole), **ALIKE)
        np.testing.assert_allclose(in_parts["loss"], history["loss"], **ALIKE)
    begun = {comm.begun for comm in ranks_of}
    assert len(begun) == 1
    assert begun != {0} or name in ONE_SUM or "accumulate" in NETS[name].fit


# With a single layer that is trained, or whose last gradients are those of the first.
ONE_SUM = "no activation", "frozen ends"


def by_two(monkeypatch: pytest.MonkeyPatch, net: Net, backend: str) -> tuple[list[Threads], list[Any]]:
    """A network trained by two ranks, which stop wherever they can: they, and each one's model and history."""
    comms, found = Threads.of(2), dict[int, Any]()
    monkeypatch.setattr(shared, "worth_sending", lambda: 1)
    monkeypatch.setattr(together, "current", lambda: comms[threading.current_thread().name])

    def rank(comm: Threads) -> None:
        found[comm.rank] = trained(net, backend, epochs=4)

    run_all([partial(rank, comm) for comm in comms.values()], list(comms))
    return list(comms.values()), [found[0], found[1]]


def test_where_one_rank_cannot_replay_a_step_none_does(monkeypatch: pytest.MonkeyPatch):
    """Else one would sum all at once what the other sums in parts."""
    whole, _ = trained(NETS["norms"], "numpy", epochs=4)

    def refuse(*_: Any) -> None:
        if threading.current_thread().name == "rank 1":
            raise nnx.errors.NotReplayable("by rounding, say")

    monkeypatch.setattr(trainer, "check_agreement", refuse)
    for model, _ in by_two(monkeypatch, NETS["norms"], "numpy")[1]:
        assert model.eager_reason == "by rounding, say"
        np.testing.assert_allclose(numbers(model), numbers(whole), **ALIKE)


def test_a_step_that_stops_has_the_same_bits_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("numba")
    comm = Threads.of(1)["rank 0"]
    monkeypatch.setattr(shared, "worth_sending", lambda: 1)
    monkeypatch.setattr(together, "shares_for", lambda *_: Shares(comm, 1))
    before, states = threads.get_threads(), []
    try:
        for count in {1, threads.get_threads()}:
            threads.set_threads(count)
            model = ranks.network(nnx.BatchNorm(300), nnx.Dense(300, 300), backend="numba", width=300)
            model.fit(ranks.X, ranks.Y, epochs=10, batch_size=128, verbose=0)
            states.append(np.array(model.flat.state))
            assert f"{count} thread" in model._trainer.ran.description  # type: ignore[union-attr]
    finally:
        threads.set_threads(before)
    assert comm.begun > 0
    assert np.array_equal(states[0], states[-1])


def test_steps_that_cannot_be_replayed_are_shared_as_written():
    models = [ranks.network(Doubled()) for _ in range(2)]
    for model, more in zip(models, ({}, {"deterministic": True}), strict=True):
        model.fit(ranks.X, ranks.Y, epochs=20, batch_size=37, verbose=0, **more)
        assert model.eager_reason is not None
    np.testing.assert_allclose(models[1].flat.state, models[0].flat.state, rtol=0, atol=1e-12)


def test_what_cannot_be_divided_is_refused():
    x, y = ranks.X, ranks.Y
    with pytest.raises(nnx.InputError, match=r"layer 2, BatchNorm\(16.*takes means over whole batches"):
        ranks.network(nnx.BatchNorm(16)).fit(x, y, deterministic=True)
    with pytest.raises(nnx.InputError, match="fit: deterministic=0: expected"):
        ranks.network().fit(x, y, deterministic=0)
    with pytest.raises(nnx.InputError, match="fit: deterministic=1000000000000: expected at most"):
        ranks.network().fit(x, y, deterministic=10**12)
    with pytest.raises(nnx.InputError, match=r"layer 3, BatchNorm\(16"):
        ranks.network(nnx.Residual(nnx.BatchNorm(16))).fit(x, y, deterministic=True)
    comm = Communicator()
    comm.size = 5
    with pytest.raises(nnx.InputError, match="5 processes cannot have equally many of 12 parts"):
        Shares(comm, 12, fixed=True)


# ---- GPUs, on a stand-in ---------------------------------------------------------------------------------------------


class Threads(Communicator):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._board, self._barrier, self.begun = rank, size, board, barrier, 0

    @classmethod
    def of(cls, size: int) -> dict[str, Threads]:
        """So many, by the names of their threads."""
        board, barrier = [None] * size, threading.Barrier(size)
        return {f"rank {rank}": cls(rank, size, board, barrier) for rank in range(size)}

    def gather(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait(SECONDS)
        values = list(self._board)
        self._barrier.wait(SECONDS)
        return values

    def allreduce(self, a: Any, backend: Any = None) -> Any:
        a[...] = sum(self.gather(a.copy()))
        return a

    def broadcast(self, a: Any, backend: Any = None) -> Any:
        a[...] = self.gather(a.copy())[0]
        return a

    def overlaps(self, backend: Any) -> bool:
        return True

    def begin_allreduce(self, a: Any, backend: Any = None) -> Callable[[], object]:
        total = self.allreduce(a.copy())
        a[...] = np.nan
        self.begun += 1
        return partial(a.__setitem__, ..., total)


class DeviceArray:
    """What NCCL is told of an array: where it is, and how large."""

    def __init__(self, a: np.ndarray) -> None:
        self.a, self.size, self.dtype = a, a.size, a.dtype
        self.data = SimpleNamespace(ptr=a.ctypes.data)


def test_nccl_is_asked_for_sums_in_the_order_of_the_current_stream():
    comms: list[Threads] = []
    kinds: dict[int, Any] = {7: ctypes.c_float, 8: ctypes.c_double}

    class NcclCommunicator:
        """NCCL's, among threads: it reads and writes memory by its addresses."""

        def __init__(self, size: int, identity: object, rank: int) -> None:
            assert (size, identity) == (2, "from rank 0")
            self.comm = comms[rank]

        def _at(self, pointer: int, count: int, kind: int) -> np.ndarray:
            return np.ctypeslib.as_array((kinds[kind] * count).from_address(pointer))

        def allReduce(self, source: int, target: int, count: int, kind: int, op: int, stream: int) -> None:
            assert (op, stream) == (0, 1234)
            parts = self.comm.gather(self._at(source, count, kind).copy())
            self._at(target, count, kind)[:] = np.sum(parts, axis=0)

        def allGather(self, source: int, target: int, count: int, kind: int, stream: int) -> None:
            assert stream == 1234
            parts = self.comm.gather(self._at(source, count, kind).copy())
            self._at(target, 2 * count, kind)[:] = np.concatenate(parts)

    library = SimpleNamespace(
        NcclCommunicator=NcclCommunicator, get_unique_id=lambda: "from rank 0", NCCL_SUM=0, NCCL_FLOAT32=7,
        NCCL_FLOAT64=8,
    )  # fmt: skip
    cupy = SimpleNamespace(
        cuda=SimpleNamespace(nccl=library, get_current_stream=lambda: SimpleNamespace(ptr=1234))
    )  # fmt: skip
    found = dict[int, list[np.ndarray]]()
    comms += Threads.of(2).values()

    def rank(number: int) -> None:
        nccl = Nccl(cupy, nnx.get_backend("numpy"), comms[number])
        a, mine, every = np.full(5, number + 1.0, np.float32), np.full((2, 3), float(number)), np.zeros((4, 3))
        nccl.allreduce(DeviceArray(a))
        nccl.allgather(DeviceArray(mine), DeviceArray(every))
        found[number] = [a, every]

    run_all([partial(rank, number) for number in range(2)])
    for a, everything in found.values():
        assert np.array_equal(a, np.full(5, 3, np.float32))
        assert np.array_equal(everything[:, 0], [0, 0, 1, 1])


def run_all(works: Sequence[Callable[[], None]], names: Sequence[str | None] = (None, None)) -> None:
    """Run each in a thread of its own."""
    threads = [threading.Thread(target=work, name=name) for work, name in zip(works, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
