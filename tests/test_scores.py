"""Scores of predictions: NumPy's are scikit-learn's, and what they say of a table's columns."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from nnx import metrics as scores
from nnx.cli.importance import Importance, importance
from nnx.cli.recipe import Recipe
from nnx.cli.result import amount
from nnx.cli.sets import Source


def predictions(classes: int, rows: int, there: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of so many classes, of which the first `there` are true somewhere."""
    random = np.random.RandomState(classes + rows)
    wanted = np.concatenate([np.arange(there), random.randint(there, size=rows - there)])
    shares = np.exp(random.standard_normal((rows, classes)) + np.eye(classes)[wanted])
    shares = np.round(shares) + 1 if ties else shares
    return shares / shares.sum(axis=1, keepdims=True), wanted


@pytest.mark.parametrize("ties", [False, True], ids=["all differ", "ties"])
@pytest.mark.parametrize(("classes", "rows"), [(2, 50), (2, 7), (3, 200), (10, 120)])
def test_scores_of_classes_are_those_of_scikit_learn(classes: int, rows: int, ties: bool):
    shares, wanted = predictions(classes, rows, classes, ties)
    guess = shares.argmax(axis=1)
    assert scores.confusion(wanted, shares).tolist() == metrics.confusion_matrix(wanted, guess).tolist()
    assert scores.balanced_accuracy(wanted, guess) == pytest.approx(metrics.balanced_accuracy_score(wanted, guess))
    assert scores.log_loss(wanted, shares) == pytest.approx(metrics.log_loss(wanted, shares))
    given = {"y_score": shares[:, 1]} if classes == 2 else {"y_score": shares, "multi_class": "ovr"}
    assert scores.auc(wanted, shares) == pytest.approx(metrics.roc_auc_score(wanted, **given))


def test_classes_that_no_sample_has_do_not_count():
    shares, wanted = predictions(4, 60, 3, ties=False)
    guess = np.minimum(shares.argmax(axis=1), 2)
    assert scores.balanced_accuracy(wanted, guess) == pytest.approx(metrics.balanced_accuracy_score(wanted, guess))
    each = [metrics.roc_auc_score(wanted == c, shares[:, c]) for c in range(3)]
    assert scores.auc(wanted, shares) == pytest.approx(np.mean(each))
    assert np.isnan(scores.auc(wanted[wanted == 0], shares[wanted == 0]))


def test_log_loss_of_a_sure_mistake_is_finite():
    shares = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert scores.log_loss(np.array([1, 1]), shares) == pytest.approx(
        metrics.log_loss([1, 1], shares, labels=[0, 1]), rel=1e-5
    )


def test_scores_of_numbers_are_those_of_scikit_learn():
    random = np.random.RandomState(0)
    wanted = 4e7 + 1000 * random.standard_normal((60, 1))
    outputs = wanted + 300 * random.standard_normal((60, 1))
    assert scores.r2(wanted, outputs) == pytest.approx(metrics.r2_score(wanted, outputs))
    assert scores.rmse(wanted, outputs) == pytest.approx(metrics.root_mean_squared_error(wanted, outputs))
    assert scores.mae(wanted, outputs) == pytest.approx(metrics.mean_absolute_error(wanted, outputs))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (19_360.4, "19,360"),
        (0.0123456, "0.01235"),
        (1.9e9, "1,900,000,000"),
        (1.051e13, "10,510,000,000,000"),
        (0.0, "0"),
    ],
)
def test_amounts_have_no_exponent(value: float, text: str):
    assert amount(value) == text


# Columns that mattered ----------------------------------------------------------------------------


def test_importance_is_that_of_columns_and_the_same_for_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    random = np.random.RandomState(0)
    town, size, noise = random.randint(3, size=300), random.standard_normal(300), random.standard_normal(300)
    price = 1e6 + 2e5 * (town == 1) + 3e5 * size
    lines = [f"{'ABC'[t]}town,{s:.4f},{n:.4f},{p:.0f}" for t, s, n, p in zip(town, size, noise, price, strict=True)]
    file = tmp_path / "h.csv"
    file.write_text("\n".join(["town,size,noise,price", *lines]), encoding="utf-8")
    problem = Source(str(file)).load()
    recipe = Recipe((16,), lr=0.01, epochs=30)
    model = recipe.build(problem, "numpy")
    model.fit(problem.x, problem.y, epochs=30, batch_size=32, verbose=0)
    found = importance(model, problem, 0)
    assert found is not None
    assert found.names == ("size", "town", "noise")
    assert found == importance(model, problem, 0)
    # Rows of independent draws differ by sqrt(2) standard deviations, in the units of the price.
    assert found.rises[0] == pytest.approx(3e5 * 2**0.5, rel=0.3)
    assert abs(found.rises[2]) < 0.05 * found.rises[0]
    assert found.words()[0].startswith(f"size {found.rises[0]:,.0f}, town ")

    tiny = Importance(("a", "b", "c"), (0.25, 4e-4, -0.1), (0.0, 0.0, 0.0), "log loss")
    assert tiny.words()[0] == "a 0.250"  # b would be told with 0.000

    monkeypatch.setattr("nnx.cli.importance.WORK", 1000)
    unmeasured = importance(model, problem, 0)
    assert unmeasured is not None
    assert (unmeasured.names, unmeasured.words()[0][:12]) == ((), "not measured")
