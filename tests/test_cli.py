"""The command line: what it does, what it says, and how it ends."""

import csv
import errno
import io
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.backends.resolve import Resolution
from nnx.benchmark.workloads import SUITES
from nnx.cli import main
from nnx.cli.checkpointer import LONGEST, curves, record
from nnx.cli.console import explain as words_for
from nnx.cli.console import seconds
from nnx.cli.errors import explain
from nnx.cli.sets import held_out
from nnx.errors import (
    BackendUnavailable,
    FileFormatError,
    InputError,
    InputTypeError,
    MissingExtra,
    NonFiniteError,
)

ROOT = Path(__file__).resolve().parent.parent
# One thread, so that several tests at once do not fight over the cores; and no time spent on compiling.
ENVIRONMENT = {**os.environ, "NNX_BACKEND": "numpy", "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.setenv("NNX_BACKEND", "numpy")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


def write_csv(path: Path, x: np.ndarray, y: np.ndarray, names: str = "") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([names.split(",")] if names else [])
        writer.writerows([*(f"{v:.9g}" for v in row), label] for row, label in zip(x, y, strict=True))
    return path


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Three classes by name, in columns of very different sizes, sorted by class."""
    randn = np.random.RandomState(0).standard_normal((90, 3))
    kinds = np.repeat([0, 1, 2], 30)
    x = (randn + 3 * np.eye(3)[kinds]) * [1, 1000, 0.001] + [0, 5000, 1]
    return write_csv(tmp_path / "flowers.csv", x, np.array(["iris", "lily, white", "rose"])[kinds], "a,b,c,kind")


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    """A number to predict, in the hundred thousands."""
    x = np.random.RandomState(1).standard_normal((200, 3))
    y = 300_000 + 50_000 * x[:, 0] - 20_000 * x[:, 1] ** 2
    return write_csv(tmp_path / "houses.csv", x, np.round(y, 2), "rooms,age,noise,target")


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def accuracy_in(text: str, line: str = "test") -> float:
    found = re.search(rf"^{line} .*accuracy ([\d.]+)", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def content(path: Path) -> tuple[dict[str, bytes], dict[str, object]]:
    """All that a saved model is."""
    model = nnx.load(path, backend="numpy")
    tensors = {name: a.tobytes() for name, a in model.parameters().items()}
    tensors |= {"first": model.flat.first.tobytes(), "second": model.flat.second.tobytes()}
    return tensors, {"epochs": model.epochs_done, "steps": model.optimizer.iterations, **model.metadata}


# The main job -------------------------------------------------------------------------------------


def test_digits_are_learned_drawn_and_predicted(cli: Cli, tmp_path: Path):
    done = cli("train", "digits", "--save", "d.safetensors", "--plot", "d.png")
    assert done.code == 0, done.err
    assert accuracy_in(done.out) >= 0.96
    for told in ("1,437 to learn from, 360 for the test", "numpy on cpu", "17,226 parameters", "samples a second"):
        assert told in done.out
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")

    _, _, x, y = nnx.datasets.digits()
    np.savez("test.npz", x=x, y=y)
    answers = rows_of(cli("predict", "d.safetensors", "test.npz").out)
    assert answers[0] == ["class", "probability"]
    assert np.mean([int(row[0]) for row in answers[1:]] == y) == pytest.approx(accuracy_in(done.out), abs=1e-4)


def test_spiral_is_learned(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_BACKEND", "numba,numpy")  # of many small steps; NumPy takes ten times as long
    done = cli("train", "spiral", "--plot", "s.svg")
    assert done.code == 0, done.err
    assert accuracy_in(done.out, line=r"\s+on the samples it learned from:") >= 0.95
    assert "--save spiral.safetensors keeps the network" in done.out


def write_idx(path: Path, a: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">BBBB{a.ndim}I", 0, 0, 8, a.ndim, *a.shape) + a.tobytes())


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_pictures_from_a_folder(cli: Cli, tmp_path: Path, name: str):
    for part, count in (("train", 120), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), labels * 2, :] = 255
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels)
    done = cli("train", name, "--data", tmp_path, "--epochs", 30, "--plot", "p.png", "-q")
    assert (done.code, done.err) == (0, "")
    assert accuracy_in(done.out) > 0.9
    assert done.out.count("\n") == 3  # quiet: the result alone


# Tables -------------------------------------------------------------------------------------------


def test_classes_of_a_table(cli: Cli, flowers: Path, tmp_path: Path):
    done = cli("train", flowers, "--save", "f.safetensors", "--plot", "f.png")
    assert done.code == 0, done.err
    assert "58 to learn from, 14 apart to choose the epoch by, 18 for the test" in done.out
    assert accuracy_in(done.out) > 0.9

    # By name and in any order; labels, and columns that training did not know, are left alone.
    lines = rows_of(flowers.read_text(encoding="utf-8"))
    kinds = [line[3] for line in lines[1:]]
    with (tmp_path / "other.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([c, "x" if i else "note", a, b] for i, (a, b, c, _) in enumerate(lines))
    answers = rows_of(cli("predict", "f.safetensors", "other.csv").out)
    assert answers[0] == ["class", "probability"]
    assert np.mean([row[0] == kind for row, kind in zip(answers[1:], kinds, strict=True)]) > 0.9

    every = rows_of(cli("predict", "f.safetensors", flowers, "--probabilities").out)
    assert every[0] == ["class", "p(iris)", "p(lily, white)", "p(rose)"]
    shares = np.array([row[1:] for row in every[1:]], float)
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert [row[0] for row in every] == [row[0] for row in answers]


def test_numbers_of_a_table(cli: Cli, houses: Path, tmp_path: Path):
    done = cli("train", houses, "--save", "h.safetensors", "--plot", "h.pdf", "--dropout", 0, "--epochs", 80)
    assert done.code == 0, done.err
    explained = re.search(r"^test .*R2 ([\d.]+), root mean squared error (\S+)", done.out, re.MULTILINE)
    assert explained, done.out
    assert float(explained[1]) > 0.8
    assert cli("predict", "h.safetensors", houses, "--output", "out.csv").out == ""
    answers = rows_of((tmp_path / "out.csv").read_text(encoding="utf-8"))
    assert answers[0] == ["prediction"]
    wanted = [float(line[3]) for line in rows_of(houses.read_text(encoding="utf-8"))[1:]]
    assert np.corrcoef([float(row[0]) for row in answers[1:]], wanted)[0, 1] > 0.9


@pytest.mark.parametrize(("inputs", "targets"), [(1e-200, 1.0), (1e200, 1.0), (1.0, 1e250), (1.0, 1e-250)])
def test_numbers_whose_squares_float64_cannot_hold_are_learned_alike(
    cli: Cli, tmp_path: Path, inputs: float, targets: float
):
    def trained(name: str, *units: float) -> tuple[list[float], str]:
        rows = [(np.sin(i), 2 * np.sin(i) + 0.1 * np.cos(i)) for i in range(60)]
        lines = [",".join(f"{number * unit:.17g}" for number, unit in zip(row, units, strict=True)) for row in rows]
        (tmp_path / f"{name}.csv").write_text("a,y\n" + "\n".join(lines))
        done = cli("train", f"{name}.csv", "--save", f"{name}.safetensors", "--epochs", 60)
        assert done.code == 0, done.err
        found = re.search(r"^test .*R2 (\S+), root mean", done.out, re.MULTILINE)
        answers = cli("predict", f"{name}.safetensors", f"{name}.csv").out.split()[1:]
        return [float(answer) / units[1] for answer in answers], found[1] if found else done.out

    plain, explained = trained("plain", 1.0, 1.0)
    odd, as_well = trained("odd", inputs, targets)
    np.testing.assert_allclose(odd, plain, rtol=0, atol=1e-3)
    assert abs(float(as_well) - float(explained)) < 1e-3
    assert float(explained) > 0.8


def test_scale_is_that_of_the_training_part(cli: Cli, houses: Path):
    assert cli("train", houses, "--save", "h.safetensors", "--epochs", 1, "--seed", 3).code == 0
    table = nnx.datasets.load_table(houses)
    kept = ~held_out(table.y, 3)
    about = nnx.load("h.safetensors", backend="numpy").metadata["card"]
    assert about["columns"] == ["rooms", "age", "noise"]
    assert about["mean"] == pytest.approx(table.x[kept].mean(axis=0, dtype=np.float64))
    assert about["target"] == pytest.approx([table.y[kept].mean(), table.y[kept].std()], rel=1e-5)


def test_a_fifth_of_every_class_is_held_out():
    y = np.repeat(np.arange(4), [50, 5, 100, 45])
    chosen = held_out(y, 0)
    assert np.bincount(y[chosen]).tolist() == [10, 1, 20, 9]
    assert (held_out(y, 0) == chosen).all()
    assert (held_out(y, 1) != chosen).any()
    numbers = np.random.RandomState(0).standard_normal((103, 1))
    first, second = held_out(numbers, 0), held_out(numbers, 1)
    assert (first != second).any()
    assert 20 <= first.sum() <= 21


def test_table_without_names_and_constant_column(cli: Cli, tmp_path: Path):
    x = np.random.RandomState(0).standard_normal((60, 2))
    write_csv(tmp_path / "plain.csv", np.column_stack([x, np.full(60, 1e6)]), (x[:, 0] > 0).astype(int))
    done = cli("train", "plain.csv", "--save", "p.safetensors", "--layers", "none", "--optimizer", "sgd")
    assert done.code == 0, done.err
    assert accuracy_in(done.out) > 0.8
    assert cli("predict", "p.safetensors", "plain.csv").out.count("\n") == 61


def test_inputs_on_another_scale_are_noticed(cli: Cli):
    cli("train", "digits", "--epochs", 1, "--save", "d.safetensors")
    x = nnx.datasets.digits(split=False)[0]
    np.savez("raw.npz", x=x[:5] * 16)
    done = cli("predict", "d.safetensors", "raw.npz")
    assert done.code == 0
    assert "go from 0 to 16, those in training from 0 to 1" in done.err
    assert done.out.count("\n") == 6


def test_columns_in_another_unit_are_noticed(cli: Cli, tmp_path: Path):
    def table(name: str, unit: float) -> None:
        lines = [f"{(1.5 + i % 40 / 80) * unit},{'uv'[i % 2]},{'pq'[i // 2 % 2]}" for i in range(80)]
        (tmp_path / name).write_text("height,where,kind\n" + "\n".join(lines))

    table("metres.csv", 1)
    table("centimetres.csv", 100)
    assert cli("train", "metres.csv", "--epochs", 1, "--save", "m.safetensors").code == 0
    assert "note" not in cli("predict", "m.safetensors", "metres.csv").err
    done = cli("predict", "m.safetensors", "centimetres.csv")
    assert done.code == 0
    assert re.search(r"column 'height': its numbers, such as 150, are .* mean in training, 1\.7.*same unit", done.err)
    assert "where" not in done.err.partition("height")[2]


def test_predict_takes_models_made_in_python(cli: Cli):
    x, y = nnx.datasets.spiral(20)
    for last, loss in ((nnx.Softmax(), nnx.CategoricalCrossEntropy()), (nnx.Linear(), nnx.SoftmaxCrossEntropy())):
        model = nnx.Sequential(nnx.Dense(2, 8), nnx.ReLU(), nnx.Dense(8, 3), last, backend="numpy")
        model.compile(loss, nnx.Adam(0.02)).fit(x, y, epochs=5, verbose=0)
        model.save("m.safetensors")
        np.savez("x.npz", x=x)
        answers = rows_of(cli("predict", "m.safetensors", "x.npz").out)
        assert [int(row[0]) for row in answers[1:]] == model.predict(x).argmax(axis=1).tolist()
        assert all(1 / 3 <= float(row[1]) <= 1 for row in answers[1:])
    outputs = nnx.Sequential(nnx.Dense(2, 3), backend="numpy")
    outputs.save("m.safetensors")
    answers = rows_of(cli("predict", "m.safetensors", "x.npz").out)
    assert answers[0] == ["prediction 1", "prediction 2", "prediction 3"]
    assert np.array(answers[1:], np.float32).tolist() == outputs.predict(x).tolist()


@pytest.mark.parametrize(
    "damage",
    [
        {"mean": [0.0]},
        {"std": [0.0, 1.0, 1.0]},
        {"task": "magic"},
        {"classes": ["a", "b"]},
        {"target": 3},
        {"limits": "x"},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_predict_refuses_metadata_that_do_not_fit(cli: Cli, houses: Path, damage: dict[str, object]):
    cli("train", houses, "--epochs", 1, "--save", "m")
    model = nnx.load("m", backend="numpy")
    model.metadata["card"].update(damage)
    model.save("m")
    done = cli("predict", "m", houses)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: m: ")


# Going on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["digits"],  # dropout, and a batch of what is left over
        ["spiral", "--optimizer", "rmsprop", "--l2", "1e-3"],  # one batch
        ["houses.csv", "--batch-size", "7", "--activation", "tanh", "--clip-norm", "0.5", "--optimizer", "nadam"],
    ],
    ids=lambda options: options[0],
)
def test_resumed_equals_uninterrupted(cli: Cli, houses: Path, options: list[str]):
    assert cli("train", *options, "--epochs", 6, "--save", "whole").code == 0
    assert cli("train", *options, "--epochs", 3, "--save", "parts").code == 0
    assert content(Path("parts"))[0] != content(Path("whole"))[0]
    done = cli("train", *options, "--epochs", 6, "--save", "parts", "--resume", "--plot", "p.png")
    assert done.code == 0, done.err
    assert "going on after epoch 3" in done.out
    assert content(Path("parts")) == content(Path("whole"))
    assert curves(content(Path("parts"))[1])["epoch"] == [1, 2, 3, 4, 5, 6]


def test_gradients_are_clipped(cli: Cli):
    for limit, name in ((0.05, "clipped"), (0, "free")):
        assert cli("train", "spiral", "--epochs", 2, "--clip-norm", limit, "--save", name).code == 0
    clipped, free = (nnx.load(name, backend="numpy") for name in ("clipped", "free"))
    assert (clipped.optimizer.clip_norm, free.optimizer.clip_norm) == (0.05, None)
    assert not np.array_equal(clipped.flat.values, free.flat.values)
    done = cli("train", "spiral", "--clip-norm", "1", "--save", "clipped", "--resume")
    assert "--clip-norm is 0.05 there, 1.0 here" in done.err


def test_resume_needs_no_repeating_of_options(cli: Cli):
    cli("train", "digits", "--layers", "16", "--lr", "0.01", "--seed", 4, "--epochs", 2, "--save", "m")
    done = cli("train", "digits", "--save", "m", "--resume", "--epochs", 3)
    assert "64 -> 16 relu" in done.out
    assert "learning rate 0.01, seed 4" in done.out
    assert nnx.load("m", backend="numpy").epochs_done == 3


def test_a_network_is_not_overwritten_unasked(cli: Cli):
    assert cli("train", "spiral", "--epochs", 2, "--save", "m").code == 0
    before = Path("m").read_bytes()
    done = cli("train", "spiral", "--epochs", 1, "--save", "m")
    assert (done.code, done.out) == (2, "")
    assert "there is such a file; go on with it by --resume, or replace it by --overwrite" in done.err
    assert cli("train", "spiral", "--save", "m", "--resume", "--overwrite").code == 2
    assert Path("m").read_bytes() == before
    assert cli("train", "spiral", "--epochs", 1, "--save", "m", "--overwrite").code == 0
    assert nnx.load("m", backend="numpy").epochs_done == 1


def test_scores_stand_beside_what_one_would_guess(cli: Cli, flowers: Path, houses: Path):
    out = cli("train", flowers, "--epochs", 1, "-q").out
    assert "; always iris: 0.3333)" in out
    out = cli("train", houses, "--epochs", 60, "-q").out
    numbers = re.search(
        r"error ([\d,]+) \(always the mean: ([\d,]+)\)\n +mean absolute error ([\d,]+)$", out, re.MULTILINE
    )
    assert numbers, out
    error, mean, absolute = (float(text.replace(",", "")) for text in numbers.groups())
    assert absolute < error < mean
    assert 40_000 < mean < 80_000


def test_resume_without_a_file_starts_anew(cli: Cli):
    done = cli("train", "spiral", "--epochs", 2, "--save", "m", "--resume")
    assert done.code == 0
    assert "there is no m yet: starting anew" in done.out


def test_resume_of_what_is_done_says_so_and_draws(cli: Cli, tmp_path: Path):
    cli("train", "spiral", "--epochs", 2, "--save", "m")
    before = (tmp_path / "m").stat().st_mtime_ns
    done = cli("train", "spiral", "--epochs", 2, "--save", "m", "--resume", "--plot", "s.png")
    assert done.code == 0
    assert "m has 2 epochs already: nothing to do" in done.out
    assert (tmp_path / "m").stat().st_mtime_ns == before
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["spiral", "--layers", "9"], "--layers is 64,64 there, 9 here"),
        (["spiral", "--lr", "1", "--seed", "2"], "--lr is 0.02 there, 1.0 here; --seed is 0 there, 2 here"),
        (["digits"], "trained on spiral (300 + 300 samples), not on digits (1,437 + 360 samples)"),
        (["houses.csv"], "trained on spiral (300 + 300 samples), not on houses.csv (160 + 40 samples)"),
    ],
)
def test_resume_refuses_another_training(cli: Cli, houses: Path, options: list[str], message: str):
    cli("train", "spiral", "--epochs", 2, "--save", "m")
    before = Path("m").read_bytes()
    done = cli("train", *options, "--epochs", 4, "--save", "m", "--resume")
    assert done.code == 2
    assert message in done.err
    assert Path("m").read_bytes() == before


def test_resume_refuses_changed_data(cli: Cli, houses: Path):
    cli("train", houses, "--epochs", 1, "--save", "m")
    lines = houses.read_text(encoding="utf-8").splitlines()
    houses.write_text("\n".join([*lines[:-1], f"7,{lines[-1].partition(',')[2]}"]), encoding="utf-8")
    done = cli("train", houses, "--epochs", 2, "--save", "m", "--resume")
    assert done.code == 2
    assert "its numbers differ" in done.err


@pytest.mark.parametrize(
    "damage",
    [
        lambda metadata: metadata.pop("training"),
        lambda metadata: metadata["training"].pop("recipe"),
        lambda metadata: metadata["training"]["recipe"].update(layers="64"),
        lambda metadata: metadata["training"]["recipe"].update(optimizer="magic"),
        lambda metadata: metadata.update(training=7),
        lambda metadata: metadata.update(history={"epoch": [1], "loss": []}),
    ],
    ids=["no training", "no recipe", "layers", "optimizer", "training", "history"],
)
def test_resume_refuses_a_file_of_another_kind(cli: Cli, damage: Callable[[dict[str, object]], object]):
    cli("train", "spiral", "--epochs", 2, "--save", "m")
    model = nnx.load("m", backend="numpy")
    damage(model.metadata)
    model.save("m")
    done = cli("train", "spiral", "--epochs", 4, "--save", "m", "--resume")
    assert done.code == 2, done.err
    assert done.err.startswith("error: --resume: m")


def test_long_history_is_thinned_out_alike_in_one_go_or_in_parts():
    whole: dict[str, object] = {}
    for epoch in range(1, 5 * LONGEST):
        record(whole, epoch, {"loss": 1 / epoch})
    record(whole, 5 * LONGEST, {"loss": float("inf")})
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    kept = curves(whole)
    assert kept["loss"].pop() > 1e38
    assert kept["epoch"].pop() == 5 * LONGEST
    assert LONGEST / 2 <= len(kept["epoch"]) <= LONGEST
    assert kept["epoch"][:2] == [8, 16]
    assert kept["loss"] == [1 / epoch for epoch in kept["epoch"]]


# Ends that come early -----------------------------------------------------------------------------

# Saves at every epoch, and as often as it can.
EAGER = "import sys, nnx.cli.checkpointer as k; k.SECONDS = 0; from nnx.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in a process of its own, and ends it at last."""
    running: list[subprocess.Popen[str]] = []

    def launch(*arguments: object, code: str = EAGER) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield launch
    for process in running:
        process.kill()
        process.communicate()


def wait_for_a_save(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the file is written (anew)."""

    def state() -> int:
        return path.stat().st_mtime_ns if path.exists() else 0

    before, deadline = state(), time.monotonic() + 600
    while state() == before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_at_any_moment_and_resumed_equals_uninterrupted(start: Callable[..., subprocess.Popen[str]], cli: Cli):
    options = ["train", "houses.csv", "--save", "m", "--batch-size", "20", "--layers", "32"]
    x = np.random.RandomState(0).standard_normal((100, 3))
    write_csv(Path("houses.csv"), x, x.sum(axis=1))
    moment = random.Random(0)
    for _ in range(3):
        process = start(*options, "--epochs", 1_000_000, "--resume")
        wait_for_a_save(Path("m"), process)
        time.sleep(moment.uniform(0, 0.15))
        process.kill()
        process.wait()
        done = nnx.load("m", backend="numpy").epochs_done
        assert done > 0
    total = str(done + 5)
    assert cli(*options, "--epochs", total, "--resume").code == 0
    options[3] = "whole"
    assert cli(*options, "--epochs", total).code == 0
    assert content(Path("m")) == content(Path("whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_cleanly(start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals):
    options = ["train", "spiral", "--epochs", "1000000", "--save", "my file"]
    process = start(*options)
    wait_for_a_save(tmp_path / "my file", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    told = re.fullmatch(
        r"error: interrupted in epoch (\d+) of 1000000; my file holds the network as of epoch (\d+)\. "
        r"Go on with: nnx train spiral --epochs 1000000 --save 'my file' --resume\n",
        err,
    )
    assert told, err
    assert int(told[1]) == int(told[2]) + 1
    assert nnx.load(tmp_path / "my file", backend="numpy").epochs_done == int(told[2])


@pytest.mark.parametrize(
    ("sigint", "sigterm", "ends"),
    [
        (signal.default_int_handler, signal.SIG_DFL, True),
        (signal.SIG_IGN, signal.SIG_DFL, True),  # a background job of a shell, ended by kill
        (signal.SIG_IGN, signal.SIG_IGN, False),
        (signal.default_int_handler, lambda number, frame: None, False),  # a program's own, which calls main()
    ],
)
def test_sigterm_is_ctrl_c_unless_it_is_ignored_or_taken(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, sigint: Any, sigterm: Any, ends: bool
):
    begin = nnx.callbacks.Callback.on_epoch_begin

    signals = iter([signal.SIGTERM])  # one, however many callbacks there are

    def asked(self: Any, model: nnx.Sequential, epoch: int) -> None:
        begin(self, model, epoch)
        if epoch == 1:
            for number in signals:
                signal.raise_signal(number)

    monkeypatch.setattr(nnx.callbacks.Callback, "on_epoch_begin", asked)
    before = signal.signal(signal.SIGINT, sigint), signal.signal(signal.SIGTERM, sigterm)
    try:
        done = cli("train", "spiral", "--epochs", 3, "--backend", "numpy")
        assert signal.getsignal(signal.SIGINT) is sigint
        assert signal.getsignal(signal.SIGTERM) is sigterm
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert done.code == (1 if ends else 0), done.err
    assert ("interrupted in epoch 2 of 3" in done.err) == ends


ENDING = """
import atexit, sys, time
atexit.register(lambda: (print("ending", flush=True), time.sleep(600)))
from nnx.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("command", ["doctor --json", "train nothing.csv"])
def test_ctrl_c_while_the_process_ends_is_no_traceback(command: str, tmp_path: Path):
    line = [sys.executable, "-c", ENDING, *command.split()]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    while process.stdout.readline() != "ending\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in err


def test_ctrl_c_elsewhere(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnx.cli.sets.Source.load", interrupted)
    done = cli("train", "spiral")
    assert (done.code, done.out, done.err) == (1, "", "error: interrupted\n")


def test_reader_that_goes_away_is_no_error(cli: Cli, tmp_path: Path):
    cli("train", "spiral", "--epochs", 1, "--save", "m")
    np.savez("many.npz", x=np.zeros((100_000, 2)))
    done = subprocess.run(
        f"{sys.executable} -m nnx predict m many.npz | head -n 2",
        shell=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("class,probability\n")
    assert done.stdout.count("\n") == 2


# Errors -------------------------------------------------------------------------------------------

WRONG = [
    ("train spral", "Did you mean spiral?"),
    ("train digits.csv", "no such file"),
    ("train .", "a folder"),
    ("train", "Missing argument"),
    ("trian", "No such command"),
    ("train digits --epochs many", "--epochs"),
    ("train digits --epochs 0", "--epochs=0: expected a whole number, 1 or more"),
    ("train digits --batch-size -1", "--batch-size=-1"),
    ("train digits --layers 64,x", "--layers=64,x"),
    ("train digits --layers 0", "--layers=0"),
    ("train digits --activation relux", "expected one of 'relu', 'sigmoid', 'tanh'"),
    ("train digits --optimizer adem", "--optimizer='adem'"),
    ("train digits --dropout 1", "--dropout=1.0"),
    ("train digits --lr 0", "--lr=0.0"),
    ("train digits --lr nan", "--lr=nan"),
    ("train digits --l2 -1", "--l2=-1.0"),
    ("train digits --seed 4294967296", "--seed=4294967296"),
    ("train digits --backend banana", "'banana' is no backend"),
    ("train digits --label y", "--label: only for files, not for digits"),
    ("train digits --drop a --no-header", "--header, --drop: only for files"),
    ("train spiral --data .", "--data: only for mnist"),
    ("train good.csv --data .", "--data: only for mnist"),
    ("train mnist --data nowhere", "there is no such folder"),
    ("train mnist --data .", "train-images-idx3-ubyte.gz"),
    ("train good.csv --label nothing", "--label nothing: there is no such column"),
    ("train good.csv --task guess", "expected one of"),
    ("train good.csv --label clas", "Did you mean 'class'?"),
    ("train good.csv --label 4", "--label 4: good.csv has 3 columns, counted from 1"),
    ("train good.csv --drop c", "--drop c: there is no such column"),
    ("train good.csv --drop class", "--drop: 'class' is the label"),
    ("train good.csv --drop a,b", "no column is left to learn from"),
    ("train good.csv --drop a --keep a", "--drop: 'a' is to be used, too"),
    ("train spiral --drop a", "only for files"),
    ("warmup --export good.csv", "--export good.csv: this is no folder"),
    ("data spiral", "there is no such file"),
    ("data data.npz", "an npz file holds arrays without names"),
    ("data ragged.csv", "line 3: the row has 2 cells, expected 3"),
    ("train good.csv --task regression", "expected a number for regression"),
    ("train data.npz --label y", "--label, --header, --drop, --keep and --categorical are for tables"),
    ("train spiral --resume", "--save FILE"),
    ("train spiral --save nowhere/m", "there is no folder nowhere"),
    ("train spiral --save folder", "this is a folder"),
    ("train spiral --save /dev/null", "not a file"),
    ("train good.csv --save good.csv", "this file is read by the same command"),
    ("train spiral --plot nowhere/p.png", "there is no folder nowhere"),
    ("train spiral --save m.h5", "a network is kept as safetensors, not as .h5; say m.safetensors"),
    ("train spiral --save m.onnx", "to_onnx() in Python writes ONNX"),
    ("train spiral --plot p.bmp2", "expected a name ending in .png"),
    ("train spiral --plot p", "expected a name ending in .png"),
    ("train spiral --save a.png --plot ./a.png", "give them different names"),
    ("train spiral --save broken.safetensors --resume", "is truncated"),
    ("train empty.csv", "the file is empty"),
    ("train ragged.csv", "line 3: the row has 2 cells, expected 3"),
    ("train text.csv", "no column is left to learn from ('a': no two cells are alike)"),
    (
        "train blank.csv",
        "is missing, expected a name or a finite number; remove or fill in this row. 'class' was taken for",
    ),
    ("train infinite.csv", "expected a finite number"),
    ("train single.csv", "there is a single column"),
    ("train alike.csv", "expected at least two classes"),
    ("train few.csv", "4 rows, expected 5 or more"),
    ("train binary.csv", "binary"),
    ("train foreign.npz", "npz"),
    ("predict m", "Missing argument"),
    ("predict nowhere good.csv", "there is no such file"),
    ("predict folder good.csv", "a folder"),
    ("predict good.csv good.csv", "no safetensors file"),
    ("predict broken.safetensors good.csv", "is truncated"),
    ("predict foreign.safetensors good.csv", "no nnx model"),
    ("predict m nowhere.csv", "there is no such file"),
    ("predict m wide.csv", "there are 5 columns, expected 2 features"),
    ("predict m three.npz", "x has 3 features, expected 2"),
    ("predict m data.npz --output nowhere/o.csv", "there is no folder nowhere"),
    ("predict m data.npz --output m", "this file is read by the same command"),
    ("predict m data.npz --backend banana", "'banana' is no backend"),
    ("doctor --yaml", "No such option"),
]


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are wrong in their own ways, and of some that are right."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "folder").mkdir()
    for name, text in {
        "good.csv": "a,b,class\n" + "1,2,x\n2,1,y\n" * 5,
        "empty.csv": "",
        "ragged.csv": "1,2,x\n2,1,y\n1,2\n",
        "text.csv": "a,class\nred,x\nblue,y\ngreen,x\npink,y\ncyan,y\n",
        "blank.csv": "a,b,class\n1,,x\n2,3,\n",
        "infinite.csv": "a,b,class\n1,inf,x\n2,3,y\n" * 5,
        "single.csv": "1\n2\n",
        "alike.csv": "a,b,class\n" + "1,2,x\n" * 9,
        "few.csv": "a,b,class\n" + "1,2,x\n2,1,y\n" * 2,
        "wide.csv": "1,2,3,4,5\n" * 3,
        "foreign.npz": "not a zip file",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    np.savez(folder / "data.npz", x=np.eye(2), y=[0, 1])
    np.savez(folder / "three.npz", x=np.eye(3))
    model = nnx.Sequential(nnx.Dense(2, 3), nnx.Softmax(), backend="numpy")
    model.save(folder / "m")
    (folder / "broken.safetensors").write_bytes((folder / "m").read_bytes()[:-9])
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, folder / "foreign.safetensors")
    return folder


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_mistakes_of_the_command_line_and_the_data(
    cli: Cli, mistakes: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
):
    """Code 2, the reason on stderr, nothing on stdout, no traceback, and no file changed or left behind."""
    monkeypatch.chdir(mistakes)
    before = {path: path.stat().st_mtime_ns for path in mistakes.iterdir()}
    done = cli(*line.split())
    assert (done.code, done.out) == (2, ""), done
    assert message in re.sub(r"[\s│]+", " ", done.err), done.err
    assert "Traceback" not in done.err
    assert {path: path.stat().st_mtime_ns for path in mistakes.iterdir()} == before


@pytest.mark.parametrize(
    "line", [["train", ""], ["predict", "m.safetensors", ""], ["train", "spiral", "--save", ""], ["bench", "--html="]]
)
def test_a_name_that_the_shell_left_empty_is_not_the_current_folder(cli: Cli, line: list[str]):
    done = cli(*line)
    assert (done.code, "an empty argument was given after" in done.err) == (2, True)


def test_ctrl_c_while_the_command_line_is_read_is_told_as_later(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    from typer.core import TyperGroup

    def interrupted(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TyperGroup, "make_context", interrupted)
    done = cli("doctor")
    assert (done.code, done.out, done.err) == (1, "", "error: interrupted\n")


def test_an_empty_name_of_a_column_is_told_with_the_columns(cli: Cli, tmp_path: Path):
    (tmp_path / "t.csv").write_text(",a,kind\n" + "".join(f"{i % 7},{i % 5},{'xy'[i % 2]}\n" for i in range(40)))
    done = cli("data", "t.csv", "--drop", "")
    assert done.code == 2
    assert "the columns are 'column 1', 'a', 'kind'" in done.err


def test_wish_of_the_environment_counts(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNX_BACKEND", "banana")
    assert cli("train", "spiral").code == 2
    assert "you asked for numpy" in cli("train", "spiral", "--epochs", 1, "--backend", "numpy").out


def test_backend_that_does_not_work(cli: Cli):
    done = cli("train", "spiral", "--backend", "numpy:7")
    assert done.code == 1
    assert done.err == "error: backend 'numpy:7' is unavailable: NumPy has one device. Ask for plain \"numpy\".\n"


def test_list_of_backends_says_why_the_first_was_not_taken(cli: Cli):
    done = cli("train", "spiral", "--epochs", 1, "--backend", "numpy:7,numpy")
    assert done.code == 0, done.err  # and no warning, which would be an error here
    assert 'not numpy:7: NumPy has one device. Ask for plain "numpy".' in done.out


def test_a_warning_is_a_note_without_a_line_of_code(cli: Cli):
    nnx.Sequential(nnx.Dense(2, 3), backend="numpy").save("m")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = cli("predict", "m", "x.csv", "--backend", "numpy:7,numpy")
    assert done.err.startswith("note: using backend 'numpy'; numpy:7 is unavailable: NumPy has one device. ")
    assert done.err.count("\n") == 2  # and the error: there is no such file


def test_what_each_process_would_do_once_more_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    done = cli("predict", "m", "x.csv")
    assert (done.code, done.out) == (2, "")
    assert "nnx predict: MPICH's mpiexec started 2 processes, and each would do all of it" in done.err
    monkeypatch.setenv("NNX_ALONE", "1")
    assert "there is no such file" in cli("predict", "m", "x.csv").err


def test_a_short_time_is_more_than_nothing():
    times = 0.00043, 0.055, 0.1, 59.94, 61
    assert [seconds(time) for time in times] == ["0.43 ms", "55 ms", "0.1 s", "59.9 s", "1 min 1 s"]


def test_paragraphs_of_help_fill_their_lines(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "number of threads. NNX_TUNE=off measures nothing." in cli("warmup", "--help").out


def test_help_names_every_suite_of_the_benchmark(cli: Cli):
    assert f"{','.join(SUITES)}: some of them" in cli("bench", "--help").out


def test_a_numba_that_does_not_load_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch):
    class Numba:
        @property
        def make(self) -> None:
            raise ValueError("Number of threads specified must be > 0.")

    pytest.importorskip("nnx.kernels.cpu.jit.cache")
    monkeypatch.setitem(sys.modules, "nnx.kernels.cpu.jit.cache", Numba())
    missing = BackendUnavailable("cupy", "there is no driver", "Install it.")
    assert any(
        "there is no driver" in line
        for line in words_for(Resolution(nnx.get_backend("numpy"), "auto", (missing,)), False)
    )


def test_why_there_is_no_gpu_is_said_once_a_day_and_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cache = pytest.importorskip("nnx.kernels.cpu.jit.cache")
    clock, folders = [time.time() + 60], [tmp_path / "file" / "no folder", tmp_path / "cache"]
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "places", lambda: iter(folders))
    monkeypatch.setattr("nnx.cli.daily.time", SimpleNamespace(time=lambda: clock[0]))
    missing = BackendUnavailable("cupy", "there is no driver", "Install it.")
    found = Resolution(nnx.get_backend("numpy"), "auto", (missing,))

    def said(found: Resolution, verbose: bool = False) -> bool:
        return "not cupy: there is no driver. Install it." in words_for(found, verbose)

    assert [said(found), said(found), said(found, verbose=True)] == [True, False, True]
    assert said(replace(found, wish="cupy,numpy"))  # who asks for it hears why not
    other = replace(found, skipped=(BackendUnavailable("cupy", "there is no device", ""),))
    assert "not cupy: there is no device. " in words_for(other, False)  # another reason
    assert said(found)
    clock[0] += 86_401
    assert [said(found), said(found)] == [True, True]  # the new stamp is of the other clock: of yesterday
    clock[0] -= 2 * 86_401
    assert said(found)  # and one of the future is none
    del folders[1]
    clock[0] = time.time() + 60
    assert [said(found), said(found)] == [True, True]  # nowhere to write


def test_loss_that_is_not_finite(cli: Cli, houses: Path):
    done = cli("train", houses, "--lr", "1e30", "--optimizer", "sgd", "--save", "m")
    assert done.code == 1
    assert "Lower the learning rate" in done.err
    assert not Path("m").exists()


def test_download_that_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def fail(source: object) -> Path:
        raise ConnectionError("mnist could not be downloaded")

    monkeypatch.delenv("NNX_DATA", raising=False)
    monkeypatch.setattr("nnx.datasets.idx.fetch", fail)
    assert cli("train", "mnist").code == 1
    monkeypatch.setenv("NNX_DATA", "/nowhere/at/all")
    assert cli("train", "mnist").code == 2


@pytest.mark.parametrize(
    ("package", "extra", "line"),
    [
        ("matplotlib", "plots", "train spiral --plot p.png"),
        ("safetensors", "train", "train spiral --save m"),
        ("sklearn.datasets", "train", "train digits"),
    ],
)
def test_missing_extra_is_noticed_before_any_work(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, line: str
):
    monkeypatch.setitem(sys.modules, package, None)
    done = cli(*line.split())
    assert (done.code, done.out) == (1, "")
    assert f'pip install "nnx-backends[{extra}]"' in done.err


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_the_doctor_still_works(start: Callable[..., subprocess.Popen[str]], package: str):
    block = (
        f"import sys; sys.modules[{package!r}] = None; sys.modules['numba'] = None\n"  # no time for compiling
        "from nnx.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    train, doctor = start("train", "spiral", code=block), start("doctor", "--json", code=block)
    out, err = train.communicate(timeout=600)
    assert (train.returncode, out) == (1, "")
    assert err == (
        f"error: the command line (but for nnx doctor) needs {package}, which is not installed: "
        'pip install "nnx-backends[train]"\n'
    )
    out, err = doctor.communicate(timeout=600)
    assert (doctor.returncode, err) == (0, "")
    assert json.loads(out)["backends"]["numpy"]["works"] is True


def test_disk_that_is_full(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    cli("train", "spiral", "--epochs", 1, "--save", "m")
    before = Path("m").read_bytes()

    def full(path: Path, *data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("nnx.model.checkpoint.write_atomically", full)
    done = cli("train", "spiral", "--epochs", 3, "--save", "m", "--resume")
    assert (done.code, done.err) == (1, "error: m could not be written: No space left on device\n")
    assert Path("m").read_bytes() == before


def test_folder_that_cannot_be_written(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    for option, name in (("--save", "m"), ("--plot", "p.png")):
        done = cli("train", "spiral", option, name)
        assert (done.code, done.out) == (2, "")
        assert f"{option} {name}: cannot write to .: Permission denied" in done.err


def test_bug_is_called_one(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("nnx.cli.sets.Source.load", broken)
    done = cli("train", "spiral")
    assert done.code == 1
    assert done.err.startswith("error: KeyError: 'surprise'. This is a bug in nnx; run the command again with --debug")
    assert "Traceback" not in done.err
    for line in (["--debug", "train", "spiral"], ["train", "spiral", "--debug"]):
        done = cli(*line)
        assert done.code == 1
        assert "Traceback" in done.err
        assert "in broken" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (InputTypeError("x"), 2),
        (FileFormatError("x"), 2),
        (FileNotFoundError(2, "No such file", "a"), 2),
        (IsADirectoryError(21, "Is a directory", "a"), 2),
        (PermissionError(13, "Permission denied", "a"), 2),
        (OSError(5, "Input/output error", "a"), 1),
        (ConnectionError("x"), 1),
        (NonFiniteError("x"), 1),
        (MissingExtra("a", "b", "c"), 1),
        (BackendUnavailable("a", "b", "c"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 1),
        (RuntimeError("x"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_code_of_each_error(error: BaseException, code: int):
    found, message = explain(error)
    assert found == code
    assert message
    assert "\n" not in message


# The rest -----------------------------------------------------------------------------------------


def test_version_and_help(cli: Cli):
    assert cli("--version").out == f"nnx {nnx.__version__}\n"
    for line in ("--help", "train --help", "predict --help", "doctor --help"):
        done = cli(*line.split())
        assert (done.code, done.err) == (0, "")
        assert "Usage: nnx" in done.out


def test_as_a_module(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "nnx", "--version"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nnx {nnx.__version__}\n", "")
