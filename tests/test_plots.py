"""Pictures: every panel draws, nothing overlaps, nothing global changes."""

import io
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from nnx import plots
from nnx.errors import MissingExtra

RANDOM = np.random.RandomState(0)
CURVES = {
    "loss": list(np.geomspace(2, 0.01, 40)),
    "val_loss": list(np.geomspace(1, 0.05, 40)),
    "accuracy": list(np.linspace(0.3, 0.99, 40)),
    "val_accuracy": list(np.linspace(0.4, 0.985, 40)),
}
CLOTHES = ["T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]


def shares(samples: int, classes: int) -> np.ndarray:
    p = np.exp(3 * RANDOM.standard_normal((samples, classes)))
    return p / p.sum(axis=1, keepdims=True)


def ring(points: np.ndarray) -> np.ndarray:
    """Probabilities of two classes, inside and outside a circle."""
    inside = 1 / (1 + np.exp(8 * (np.linalg.norm(points, axis=1) - 0.7)))
    return np.stack([inside, 1 - inside], axis=1)


def pictures(names: list[str], shape: tuple[int, int] = (8, 8), **options: int) -> plots.Panel:
    x, p = RANDOM.uniform(size=(80, shape[0] * shape[1])), shares(80, 10)
    wanted = np.where(np.arange(80) % 4 == 0, (p.argmax(axis=1) + 1) % 10, p.argmax(axis=1))
    return plots.images(x, wanted, p, shape, names, **options)


def plane(classes: int = 2, **options: Any) -> plots.Panel:
    x, x_test = RANDOM.uniform(-1, 1, (60, 2)), RANDOM.uniform(-1, 1, (20, 2))
    predict = ring if classes == 2 else lambda points: np.tile(shares(1, classes), (len(points), 1))
    labels = (np.arange(60) % classes, np.arange(20) % classes)
    return plots.boundary(predict, x, labels[0], x_test, labels[1], resolution=40, **options)


PANELS = {
    "nothing": None,
    "digits": pictures([]),
    "clothes": pictures(CLOTHES, (28, 28), rows=4, columns=5),
    "plane": plane(names=["in", "out"], columns=["width in $m", "height_{"]),
    "plane of 12 classes": plane(12),
    "regression": plots.regression(RANDOM.standard_normal(50), RANDOM.standard_normal((50, 1)), "price in $"),
    "one and the same number": plots.regression(np.zeros(4), np.zeros(4)),
    "large numbers": plots.regression(RANDOM.uniform(3e5, 4e7, 50), RANDOM.uniform(3e5, 4e7, 50), "price"),
    "3 classes": plots.confusion(np.arange(90) % 3, np.arange(90) // 30, ["setosa", "virginica $", "a" * 40]),
    "300 classes": plots.confusion(np.arange(900) % 300, np.arange(900) // 3, [f"class {i}" for i in range(300)]),
    "20 classes": plots.confusion(np.arange(90) % 20, np.arange(90) % 19, [f"class {i}" for i in range(20)]),
}


def png(figure: plots.Figure, path: Path) -> Image.Image:
    plots.save(figure, path)
    return Image.open(io.BytesIO(path.read_bytes()))


def texts(part: Any) -> list[Any]:
    return [text for text in part.findobj(mpl.text.Text) if text.get_visible() and text.get_text().strip()]


def columns(count: int, scale: float) -> plots.Panel:
    names = [f"column {i} of a $long_name" for i in range(count)]
    values = [scale * (count - i - 2) for i in range(count)]
    return plots.bars(names, values, [scale] * count, "What mattered", "rise of the log loss\nwhere it is shuffled")


SIDES = {"": None, "2 columns": columns(2, 0.01), "30 columns": columns(30, 12_345.0)}


@pytest.mark.parametrize(("name", "side"), [(n, "") for n in PANELS] + [("3 classes", s) for s in SIDES if s])
def test_panel_is_drawn_without_overlaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, side: str):
    kept = 3 if side else None
    figure = plots.compose("A title", "and what is under it", CURVES, PANELS[name], side=SIDES[side], kept=kept)
    drawn: dict[Any, Any] = {}
    draw = mpl.text.Text.draw

    def note(text: Any, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn[text] = text.get_window_extent(renderer)
        draw(text, renderer)

    monkeypatch.setattr(mpl.text.Text, "draw", note)
    picture = png(figure, tmp_path / "p.png")
    assert picture.size == (2460 if side else 1800, 930)
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
    assert (tmp_path / "p.png").stat().st_size < 700_000

    for text, box in drawn.items():
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= picture.width, text
        assert box.y1 <= picture.height, text
    level = [
        (text, box) for text, box in drawn.items() if text.get_rotation() % 90 == 0
    ]  # boxes of the others say less
    for (one, a), (other, b) in combinations(level, 2):
        assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (one, other)


@pytest.mark.parametrize(
    "history",
    [
        {"loss": [0.5]},
        {"loss": [0.5], "accuracy": [0.0]},
        {"loss": [3.0, 2.0], "val_loss": [3.0, 2.0]},
        {"loss": [1.0, 0.0], "data_loss": [0.5, 0.0], "accuracy": [1.0, 1.0], "val_accuracy": [1.0, 1.0]},
        {"epoch": [8, 16, 24], "loss": [1e30, 1e-30, 1.0], "val_loss": [1.0, 1.0, 1.0]},
    ],
    ids=["one epoch", "accuracy 0", "equal ends", "loss 0", "large steps"],
)
def test_any_history_is_drawn(tmp_path: Path, history: dict[str, list[float]]):
    assert png(plots.compose("t", "s", history), tmp_path / "p.png").size == (1800, 930)


def test_mistakes_come_first_and_are_marked(tmp_path: Path):
    p = np.full((50, 10), 0.01)
    p[np.arange(50), np.arange(50) % 10] = 0.91
    wanted = np.arange(50) % 10
    wanted[[3, 47]] = 0
    figure = plots.compose("t", "s", CURVES, plots.images(np.zeros((50, 64)), wanted, p, (8, 8)))
    labels = [text.get_text() for text in texts(figure) if "sure" in text.get_text()]
    assert labels[:2] == ["0 read as 3\n91% sure", "0 read as 7\n91% sure"]
    assert len(labels) == 24
    assert not any("read as" in label for label in labels[2:])
    assert any("all 2 mistakes" in text.get_text() for text in texts(figure))


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("jpg", b"\xff\xd8"), ("webp", b"RIFF")]
)
def test_kind_of_picture_is_that_of_the_name(tmp_path: Path, suffix: str, start: bytes):
    plots.save(plots.compose("t", "s", CURVES), tmp_path / f"p.{suffix}")
    assert (tmp_path / f"p.{suffix}").read_bytes().startswith(start)


def test_what_curves_were_measured_on_and_the_epoch_kept_are_named(tmp_path: Path):
    history = {"loss": [2000.0, 1500.0, 1234.5], "val_loss": [2.0, 0.5, 1.0]}
    figure = plots.compose("t", "s", history, held_out="validation", kept=2)
    found = {text.get_text() for text in texts(figure)}
    assert found >= {"training 1,234", "validation 1.000", "epoch 2 is kept"}
    plots.save(figure, tmp_path / "p.png")


def test_names_in_any_script(tmp_path: Path):
    names = ["数字", "žlutý", "$\\frac{1}"]
    panel = plots.confusion(np.arange(9) % 3, np.arange(9) // 3, names)
    plots.save(plots.compose("数字 $\\x", "$", CURVES, panel), tmp_path / "p.png")


def test_settings_of_the_user_are_not_touched_and_do_not_matter(tmp_path: Path):
    plain = png(plots.compose("t", "s", CURVES), tmp_path / "a.png")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10, "text.usetex": True}):
        before = dict(mpl.rcParams)
        other = png(plots.compose("t", "s", CURVES), tmp_path / "b.png")
        assert dict(mpl.rcParams) == before
    assert plain.tobytes() == other.tobytes()


def test_no_window_and_no_pyplot(tmp_path: Path):
    script = (
        "import sys; from nnx import plots; assert 'matplotlib' not in sys.modules\n"
        "plots.save(plots.compose('t', 's', {'loss': [1, 2]}), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "p.png")], check=True, timeout=600)


def test_failed_save_leaves_the_old_picture(tmp_path: Path):
    (tmp_path / "p.xyz").write_text("old")
    with pytest.raises(ValueError, match="xyz"):
        plots.save(plots.compose("t", "s", CURVES), tmp_path / "p.xyz")
    assert (tmp_path / "p.xyz").read_text() == "old"
    with pytest.raises(FileNotFoundError):
        plots.save(plots.compose("t", "s", CURVES), tmp_path / "nowhere" / "p.png")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"nnx-backends\[plots\]"):
        plots.compose("t", "s", CURVES)
