"""What the command line says of a table: which columns mattered, and amounts in words."""

from pathlib import Path

import numpy as np
import pytest

from nnx.cli.importance import Importance, importance
from nnx.cli.recipe import Recipe
from nnx.cli.result import amount
from nnx.cli.sets import Source


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
