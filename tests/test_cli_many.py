"""Several networks on the command line: `nnx train --seeds`, `--search`, and what becomes of their files."""

import csv
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.cli import main, search, several
from nnx.cli.recipe import Recipe

pytest.importorskip("typer")
pytest.importorskip("safetensors")
Run = Callable[..., str]
FAST = ("data.csv", "--layers", "6", "--lr", "0.03", "--epochs", "4")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in this process, in a folder with tables of noisy classes and numbers; returns what it says."""
    monkeypatch.setenv("NNX_BACKEND", "numpy")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    x = random.standard_normal((120, 3)).round(4)
    noisy = x[:, 0] + random.standard_normal(120)
    for name, y in (("data.csv", np.where(noisy > 0.3, "yes", "no")), ("numbers.csv", noisy.round(4))):
        with Path(name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(
                [["a", "b", "c", "y"], *([*row, value] for row, value in zip(x, y, strict=True))]
            )

    def command(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main([*map(str, arguments)]) == code
        return "".join(capsys.readouterr())

    return command


def bits(model: nnx.Sequential) -> list[bytes]:
    return [a.tobytes() for a in model._host_parameters().values()]


def tried(said: str) -> list[tuple[str, ...]]:
    """Return the rows of the table that a search shows, the best first."""
    table = said[said.index("tried ") :].partition("\ndata ")[0]
    return [tuple(line.split()) for line in table.splitlines()[1:]]


# ---- several seeds ---------------------------------------------------------------------------------------------------


def test_networks_with_several_seeds_are_an_ensemble_whose_scores_are_told_with_their_spread(run: Run) -> None:
    said = run("train", *FAST, "--seed", 5, "--seeds", 3, "--save", "e", "--plot", "e.png")
    ensemble = nnx.load("e", backend="numpy")
    assert [model.seed for model in ensemble] == [5, 6, 7]
    assert "3, seeds 5 to 7" in said
    found = re.search(
        r"alone +accuracy (\S+) on average, standard deviation (\S+)\n +each of the 3: (\S+) to (\S+)", said
    )
    assert found
    mean, spread, low, high = map(float, found.groups())
    assert low <= mean <= high
    assert (spread > 0) == (low < high)
    assert re.search(r"test +accuracy [\d.]+, log loss", said)
    assert Path("e.png").stat().st_size > 1000


def test_each_of_them_is_what_it_would_be_alone(run: Run) -> None:
    run("train", *FAST, "--seed", 5, "--seeds", 2, "--save", "e")
    run("train", *FAST, "--seed", 5, "--save", "one")
    alone: Any = nnx.load("one", backend="numpy")
    first = nnx.load("e", backend="numpy")[0]
    assert bits(first) == bits(alone)
    assert first.metadata == alone.metadata


def test_predictions_are_the_mean_of_all_of_them(run: Run) -> None:
    run("train", *FAST, "--seeds", 3, "--save", "e")
    rows = list(csv.DictReader(run("predict", "e", "data.csv", "--probabilities").splitlines()))
    ensemble = nnx.load("e", backend="numpy")
    lines = Path("data.csv").read_text(encoding="utf-8").splitlines()
    table = np.array([list(row.values())[:3] for row in csv.DictReader(lines)], float)
    card = ensemble.metadata["card"]
    expected = ensemble.predict((table - card["mean"]) / card["std"])
    np.testing.assert_allclose([float(row["p(yes)"]) for row in rows], expected[:, 1], atol=2e-6)
    run("train", "numbers.csv", "--epochs", 3, "--seeds", 2, "--save", "n")
    answers = run("predict", "n", "numbers.csv").splitlines()
    assert answers[0] == "prediction"
    assert len(answers) == 121


def test_of_numbers_the_spread_is_that_of_the_error(run: Run) -> None:
    said = run("train", "numbers.csv", "--epochs", 3, "--seeds", 2, "-q")
    assert re.match(r"alone +root mean squared error [\d.]+ on average, standard deviation [\d.e-]+\n", said)
    assert "test " in said


def test_an_ensemble_is_not_gone_on_with(run: Run) -> None:
    run("train", *FAST, "--seeds", 2, "--save", "e")
    assert "e holds an ensemble of 2 networks" in run("train", *FAST, "--save", "e", "--resume", code=2)
    assert "there is such a file" in run("train", *FAST, "--seeds", 2, "--save", "e", code=2)
    run("train", *FAST, "--save", "e", "--overwrite")
    assert isinstance(nnx.load("e"), nnx.Sequential)


def test_ctrl_c_keeps_nothing_of_an_ensemble(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    record = several.Checkpointer.on_epoch_end

    def interrupted(self: Any, model: Any, epoch: int, logs: Any) -> None:
        record(self, model, epoch, logs)
        if epoch == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(several.Checkpointer, "on_epoch_end", interrupted)
    said = run("train", *FAST[:-1], 10**6, "--seeds", 2, "--save", "e", code=1)
    assert "interrupted while 2 networks were trained; nothing was kept" in said
    assert not Path("e").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", 0), "--seeds"),
        (("--seeds", 3, "--seed", 2**32 - 2), "--seeds=3 from --seed=4294967294 on"),
        (("--seeds", 2, "--resume", "--save", "m"), "--seeds begins anew"),
        (("--search", "--resume", "--save", "m"), "--search begins anew"),
        (("--search", "--l2", 0), "nothing is left to try"),
    ],
)
def test_what_makes_no_sense_together_is_refused_before_any_work(run: Run, options: Any, words: str) -> None:
    said = run("train", *FAST, *options, code=2)
    assert words in said
    assert "data " not in said


# ---- searching -------------------------------------------------------------------------------------------------------


def test_a_search_shows_what_it_tried_and_the_best_is_trained_as_if_its_options_had_been_given(run: Run) -> None:
    options = "data.csv", "--epochs", 4, "--lr", "0.03", "--batch-size", 16
    said = run("train", *options, "--search", "--save", "best")
    rows = tried(said)
    assert len(rows) == 6
    assert {row[1] for row in rows} == {"0.03"}
    assert {row[0] for row in rows} == {"64", "128", "64,64"}
    losses = [float(row[3]) for row in rows]
    assert losses == sorted(losses)
    assert tried(run("train", *options, "--search", "--save", "again")) == rows
    layers, _, l2, _ = rows[0]
    run("train", *options, "--layers", layers, "--l2", l2, "--save", "given")
    best, again, given = (nnx.load(name, backend="numpy") for name in ("best", "again", "given"))
    assert bits(best) == bits(again) == bits(given)
    run("train", *options, "--epochs", 6, "--save", "best", "--resume")


def test_a_search_chooses_by_rows_set_apart_where_a_training_has_none(run: Run) -> None:
    said = run("train", "spiral", "--epochs", 3, "--lr", "0.02", "--search")
    assert "6 networks, on 240 rows to learn from, 60 to choose by" in said
    assert "300 to learn from" in said


def test_the_usual_recipe_comes_first_and_what_is_given_is_not_varied() -> None:
    usual = Recipe((64, 32), l2=0.003, lr=0.003)
    found = list(search.candidates(usual, {}))
    assert found[0] == usual
    assert len(set(found)) == 18
    assert {each.layers for each in found} == {(64, 32), (128, 64), (64, 32, 32)}
    assert {each.lr for each in found} == {0.001, 0.003, 0.009}
    assert {each.l2 for each in found} == {0.003, 0.03}
    assert {each.lr for each in search.candidates(usual, {"lr": 0.003})} == {0.003}
    assert {each.l2 for each in search.candidates(Recipe(()), {"layers": ()})} == {0.0, 1e-4}


def test_a_candidate_whose_loss_is_no_number_loses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Recipe((4,), lr=0.01, epochs=3)
    wild = Recipe((4,), lr=1e30, optimizer="sgd", epochs=3)
    monkeypatch.setattr(search, "candidates", lambda recipe, given: [wild, usual])
    rows = tried(run("train", "data.csv", "--search"))
    assert rows[0][1] == "0.01"
    assert rows[1][1:] == ("1e+30", "0", "-")
    monkeypatch.setattr(search, "candidates", lambda recipe, given: [wild])
    assert "the loss became" in run("train", "data.csv", "--search", code=1)


def test_a_search_and_several_seeds_go_together(run: Run) -> None:
    run("train", "data.csv", "--epochs", 2, "--lr", "0.01", "--layers", "4", "--search", "--seeds", 2, "--save", "e")
    ensemble = nnx.load("e", backend="numpy")
    assert len({model.layers[0].weight_l2 for model in ensemble}) == 1
    assert [model.metadata["training"]["recipe"]["seed"] for model in ensemble] == [0, 1]
