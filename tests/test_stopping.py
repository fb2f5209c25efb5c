"""Early stopping of `nnx train`: on a part of the training rows, to the best epoch, and on from there."""

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import nnx
from nnx.cli import checkpointer, main, recipe
from nnx.cli.checkpointer import curves
from nnx.cli.sets import Source, held_out
from nnx.cli.stopping import best
from nnx.training import interrupt

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., str]
FAST = ("--layers", "8", "--batch-size", "32", "--lr", "0.03")
SPLIT = ("data.csv", *FAST, "--save")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in this process, in a folder with a table of noisy classes; returns what it says."""
    monkeypatch.setenv("NNX_BACKEND", "numpy")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    x = random.standard_normal((150, 4)).round(4)
    y = np.where(x[:, 0] + random.standard_normal(150) > 0.3, "yes", "no")
    lines = (",".join([*map(str, row), name]) for row, name in zip(x, y, strict=True))
    Path("data.csv").write_text("\n".join(["a,b,c,d,kind", *lines]), encoding="utf-8")

    def command(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main([*map(str, arguments)]) == code
        return "".join(capsys.readouterr())

    return command


def parameters(model: nnx.Sequential) -> dict[str, bytes]:
    return {name: np.asarray(a).tobytes() for name, a in model.parameters().items()}


def content(path: str) -> tuple[object, ...]:
    model = nnx.load(path, backend="numpy")
    moments = (model.flat.first.tobytes(), model.flat.second.tobytes(), model.optimizer.iterations)
    return parameters(model), moments, model.epochs_done, model.metadata


def replayed(path: str, epochs: int) -> nnx.Sequential:
    """The network of a file, trained anew for some epochs and no more, by what its recipe says."""
    made = recipe.read(nnx.load(path, backend="numpy").metadata["training"])
    problem = Source("data.csv", made.seed).load().with_validation(made.seed)
    model = made.build(problem, "numpy")
    model.fit(problem.x, problem.y, epochs=epochs, batch_size=made.batch_size, verbose=0)
    return model


# Stopping -----------------------------------------------------------------------------------------


def test_training_stops_and_the_best_epoch_is_the_network(run: Run):
    said = run("train", *SPLIT, "m", "--patience", 4)
    model = nnx.load("m", backend="numpy")
    losses, known = curves(model.metadata)["val_loss"], best(model)
    assert known is not None
    assert model.epochs_done == known["epoch"] + 4 == len(losses)
    assert known["loss"] == min(losses) == losses[known["epoch"] - 1]
    assert f"epoch {known['epoch']}, the best of {model.epochs_done}" in said
    assert parameters(model) == parameters(replayed("m", known["epoch"]))
    problem = Source("data.csv").load().with_validation(0)
    assert problem.validation is not None
    assert model.evaluate(*problem.validation)["loss"] == pytest.approx(known["loss"])


def test_the_three_parts_share_no_row_and_each_has_all_classes():
    y = np.repeat([0, 1, 2], [80, 15, 5])
    whole = Source("spiral").load()
    rows = np.arange(100, dtype=np.float32)[:, None]
    problem = dataclasses.replace(whole, x=rows, y=y).with_validation(3)
    assert problem.validation is not None
    x, y_apart = problem.validation
    assert sorted([*problem.x[:, 0], *x[:, 0]]) == list(range(100))
    assert np.bincount(y_apart).tolist() == [16, 3, 1]
    assert sorted(problem.targets.tolist()) == y.tolist()
    again = dataclasses.replace(whole, x=rows, y=y).with_validation(3).validation
    assert again is not None
    assert (again[0] == x).all()


def test_the_test_part_is_not_looked_at_until_the_end(run: Run):
    run("train", *SPLIT, "m", "--epochs", 5, "--patience", 2)
    lines = Path("data.csv").read_text(encoding="utf-8").splitlines()
    test = held_out(np.array([line.endswith("yes") for line in lines[1:]]), 0)
    worse = [f"9,9,9,9,{line.rpartition(',')[2]}" if out else line for line, out in zip(lines[1:], test, strict=True)]
    Path("data.csv").write_text("\n".join([lines[0], *worse]), encoding="utf-8")
    run("train", *SPLIT, "n", "--epochs", 5, "--patience", 2)
    first, second = content("m"), content("n")
    assert first[:3] == second[:3]
    assert curves(first[3]) == curves(second[3])  # type: ignore[arg-type]


def test_epochs_that_are_asked_for_are_all_done_and_the_best_is_kept(run: Run):
    said = run("train", *SPLIT, "m", "--epochs", 30)
    model = nnx.load("m", backend="numpy")
    known = best(model)
    assert known is not None
    assert (model.epochs_done, known["epoch"] < 30) == (30, True)
    assert "30 epochs of" in said
    assert "up to" not in said


def test_a_training_that_ends_while_it_gets_better_says_so(run: Run, monkeypatch: pytest.MonkeyPatch):
    note = "still getting better: --epochs"
    monkeypatch.setattr(recipe, "_for_table", lambda rows: dataclasses.replace(recipe.TABLE, epochs=6, patience=5))
    assert f"{note} 12 --resume goes on" in run("train", *SPLIT, "m", "--lr", 1e-4)
    assert note not in run("train", *SPLIT, "n", "--lr", 1e-4, "--epochs", 6)
    assert note not in run("train", *SPLIT, "o", "--lr", 0.5)


def test_without_patience_all_of_the_training_part_is_learned_from(run: Run):
    said = run("train", *SPLIT, "m", "--epochs", 3, "--patience", 0)
    assert "120 to learn from, 30 for the test" in said
    model = nnx.load("m", backend="numpy")
    assert (model.epochs_done, best(model)) == (3, None)


def test_patience_of_a_built_in_set(run: Run):
    said = run("train", "spiral", "--epochs", 40, "--patience", 1, "--lr", 0.5, "--plot", "s.png")
    assert "240 to learn from, 60 apart to choose the epoch by, 300 for the test" in said
    assert re.search(r"kept +epoch \d+, the best of \d+$", said, re.MULTILINE)


@pytest.mark.parametrize("patience", ["-1", "2.5", "many"])
def test_patience_is_a_whole_number(run: Run, patience: str):
    assert "--patience" in run("train", "data.csv", "--patience", patience, code=2)


# Going on -----------------------------------------------------------------------------------------


def test_after_stopping_early_more_is_done_only_if_it_is_asked_for(run: Run):
    run("train", *SPLIT, "m", "--patience", 3)
    done = nnx.load("m", backend="numpy").epochs_done
    before = Path("m").read_bytes()
    said = run("train", *SPLIT, "m", "--resume")
    assert f"has {done} epochs already, and none after epoch {done - 3} was better: nothing to do" in said
    assert Path("m").read_bytes() == before
    said = run("train", *SPLIT, "m", "--resume", "--epochs", done + 4)
    assert f"going on after epoch {done}; the best so far is {done - 3}" in said
    run("train", *SPLIT, "whole", "--epochs", done + 4)
    assert content("m") == content("whole")


def test_a_larger_patience_goes_on_where_it_stopped(run: Run):
    run("train", *SPLIT, "m", "--patience", 2)
    run("train", *SPLIT, "m", "--resume", "--patience", 6)
    run("train", *SPLIT, "whole", "--patience", 6)
    assert content("m") == content("whole")


@pytest.mark.parametrize(("first", "then"), [(0, 5), (5, 0)])
def test_a_validation_part_cannot_come_or_go(run: Run, first: int, then: int):
    run("train", *SPLIT, "m", "--epochs", 2, "--patience", first)
    before = Path("m").read_bytes()
    said = run("train", *SPLIT, "m", "--resume", "--patience", then, code=2)
    assert f"--patience is {first} there, {then} here" in said
    assert Path("m").read_bytes() == before


@pytest.fixture
def stop_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Asks a training to end after some epoch, as Ctrl-C does; and saves after each."""
    monkeypatch.setattr(checkpointer, "SECONDS", 0)
    plain = checkpointer.Checkpointer.on_epoch_end

    def at(number: int) -> None:
        def asked(self: checkpointer.Checkpointer, model: nnx.Sequential, epoch: int, logs: dict[str, float]) -> None:
            plain(self, model, epoch, logs)
            if epoch + 1 == number:
                interrupt.ask(2, None)

        monkeypatch.setattr(checkpointer.Checkpointer, "on_epoch_end", asked)

    return at


@pytest.mark.parametrize("after", [0, 1, 3])  # epochs since the best one
def test_interrupted_and_resumed_equals_uninterrupted(run: Run, stop_in: Callable[[int], None], after: int):
    run("train", *SPLIT, "whole", "--patience", 4)
    known = best(nnx.load("whole", backend="numpy"))
    assert known is not None
    stop_in(known["epoch"] + after)
    said = run("train", *SPLIT, "m", "--patience", 4, code=1)
    assert f"m holds the network as of epoch {known['epoch'] + after}" in said
    cut = nnx.load("m", backend="numpy")
    assert parameters(cut) == parameters(nnx.load("whole", backend="numpy"))  # the best so far is what predicts
    assert ("last" in cut.metadata["best"]) == (after > 0)
    stop_in(0)
    assert "going on after epoch" in run("train", "data.csv", "--save", "m", "--resume")
    assert content("m") == content("whole")


@pytest.mark.parametrize(
    "damage",
    [{"epoch": 0}, {"loss": "low"}, {"last": "!"}, {"last": "AAAA"}, {"of": 2}],
    ids=["epoch", "loss", "last", "another network", "trained further elsewhere"],
)
def test_resume_refuses_a_damaged_best_epoch(run: Run, damage: dict[str, object]):
    run("train", *SPLIT, "m", "--epochs", 3)
    model = nnx.load("m", backend="numpy")
    model.metadata["best"].update(damage)
    model.save("m")
    before = Path("m").read_bytes()
    said = run("train", *SPLIT, "m", "--resume", "--epochs", 5, code=2)
    assert said.startswith(("error: --resume: m", "data")), said
    assert "error: " in said
    assert Path("m").read_bytes() == before


def test_data_prepared_by_another_version_are_refused_with_its_name(run: Run):
    run("train", *SPLIT, "m", "--epochs", 1)
    model = nnx.load("m", backend="numpy")
    model.metadata["training"].update(fingerprint="0", version="0.0.7")
    model.save("m")
    said = run("train", *SPLIT, "m", "--resume", "--epochs", 2, code=2)
    assert f"made by nnx 0.0.7, which may have prepared the table otherwise than {nnx.__version__} does" in said


def test_a_file_from_before_there_was_early_stopping_goes_on_without(run: Run):
    run("train", *SPLIT, "m", "--epochs", 2, "--patience", 0)
    model = nnx.load("m", backend="numpy")
    del model.metadata["training"]["recipe"]["patience"], model.metadata["training"]["version"]
    model.save("m")
    assert "going on after epoch 2" in run("train", "data.csv", "--save", "m", "--resume", "--epochs", 4)
    run("train", *SPLIT, "whole", "--epochs", 4, "--patience", 0)
    assert content("m")[:3] == content("whole")[:3]


# What is said -------------------------------------------------------------------------------------


def test_scores_and_mistakes_of_classes_are_told(run: Run):
    said = run("train", "data.csv", *FAST, "--epochs", 8, "--plot", "p.png")
    for told in (
        r"^test +accuracy 0\.\d{4}, log loss 0\.\d{4} \(\d+ of 30 right; always no: 0\.\d{4}\)$",
        r"^ +balanced accuracy 0\.\d{4}, AUC 0\.\d{4}$",
        r"^mistakes +no +yes$",
        r"^mattered +a 0\.\d{3}",
    ):
        assert re.search(told, said, re.MULTILINE), said
    table = re.findall(r"^ +(?:no|yes) taken for +(\d+) +(\d+)$", said, re.MULTILINE)
    assert sum(int(n) for row in table for n in row) == 30
    assert Path("p.png").stat().st_size > 10_000


def test_the_comparison_with_scikit_learn_judges_the_rows_that_train_holds_out(run: Run, tmp_path: Path):
    specification = importlib.util.spec_from_file_location("tables", ROOT / "bench/tables.py")
    assert specification is not None
    assert specification.loader is not None
    bench = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(bench)
    frame = bench.TABLES["wine"](0)
    frame.to_csv("wine.csv", index=False)
    test = held_out(frame["target"].to_numpy(), 2)
    answers, shares = bench.of_nnx(tmp_path / "wine.csv", frame, "target", test, "classification", 2)
    found = bench.judge("classification", "wine", frame.loc[test, "target"].to_numpy(), answers, shares)
    said = run("train", "wine.csv", "--save", "wine.safetensors", "--resume", "-q")
    assert f"accuracy {found['accuracy']:.4f}, log loss {found['log loss']:.4f} " in said
    for name in ("MLP", "HistGradientBoosting"):
        columns = [*frame.columns[:-1]]
        guess, _ = bench.of_sklearn(name, frame, "target", columns, test, "classification", 2)
        assert np.mean(guess == frame.loc[test, "target"].astype(str)) > 0.8
