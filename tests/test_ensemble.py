"""Ensembles: what models say together, what they disagree about, and the one file that keeps them all."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Doubled

import nnx
from nnx.errors import FileFormatError, InputError, InputTypeError

X, Y = nnx.datasets.spiral(20, 3)


def net(seed: int = 0, loss: Any = None, last: Any = None, width: int = 6, **more: Any) -> nnx.Sequential:
    layers = nnx.Dense(2, width), nnx.ReLU(), nnx.Dense(width, 3), *([nnx.Softmax()] if last is None else last)
    model = nnx.Sequential(*layers, seed=seed, **{"backend": "numpy", **more})
    return model.compile(loss or nnx.CategoricalCrossEntropy(), nnx.Adam(0.02))


def logits(seed: int, **more: Any) -> nnx.Sequential:
    return net(seed, nnx.SoftmaxCrossEntropy(), [], **more)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# ---- together --------------------------------------------------------------------------------------------------------


def test_it_is_fitted_as_each_of_its_models_would_be() -> None:
    together, lone = nnx.Ensemble([net(seed) for seed in range(3)]), [net(seed) for seed in range(3)]
    histories = together.fit(X, Y, epochs=5, batch_size=16, verbose=0)
    for model, other, history in zip(together, lone, histories, strict=True):
        assert history == other.fit(X, Y, epochs=5, batch_size=16, verbose=0)
        assert model.flat.state.tobytes() == other.flat.state.tobytes()


def test_it_answers_by_the_mean_of_probabilities_and_tells_how_far_its_models_disagree() -> None:
    models = [net(seed) for seed in range(4)]
    together = nnx.Ensemble(models)
    each = np.array([model.predict(X) for model in models], np.float64)
    assert together.predict(X).dtype == np.float32
    np.testing.assert_allclose(together.predict(X), each.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(together.predict_std(X), each.std(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(together.predict(X, batch_size=7), together.predict(X))
    np.testing.assert_array_equal(nnx.Ensemble(models[:1]).predict_std(X), 0)


def test_of_logits_the_probabilities_are_averaged() -> None:
    models = [logits(seed) for seed in range(3)]
    expected = np.mean([softmax(model.predict(X)) for model in models], axis=0)
    np.testing.assert_allclose(nnx.Ensemble(models).predict(X), expected, rtol=1e-6)
    binary = [net(seed, nnx.SigmoidCrossEntropy(), []) for seed in range(3)]
    expected = np.mean([1 / (1 + np.exp(-model.predict(X).astype(np.float64))) for model in binary], axis=0)
    np.testing.assert_allclose(nnx.Ensemble(binary).predict(X), expected, rtol=1e-6)


@pytest.mark.parametrize("make", [net, logits])
def test_it_is_evaluated_by_the_loss_of_its_mean(make: Any) -> None:
    together = nnx.Ensemble([make(seed) for seed in range(3)])
    together.fit(X, Y, epochs=30, verbose=0)
    mean = together.predict(X).astype(np.float64)
    scores = together.evaluate(X, Y, batch_size=16)
    assert scores["loss"] == pytest.approx(-np.log(mean[np.arange(60), Y]).mean(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(np.mean(mean.argmax(axis=1) == Y))
    weights = np.arange(60) % 2
    assert together.evaluate(X, Y, sample_weight=weights)["loss"] == pytest.approx(
        -np.log(mean[np.arange(60), Y])[weights > 0].mean(), rel=1e-5
    )


@pytest.mark.parametrize("loss", [nnx.SoftmaxCrossEntropy(), nnx.SigmoidCrossEntropy(), nnx.MeanSquaredError()])
def test_one_model_alone_scores_as_it_does_without_an_ensemble(loss: nnx.Loss) -> None:
    y = np.eye(3)[Y]
    model = net(0, loss, [], dtype="float64")
    model.fit(X, y, epochs=20, verbose=0)
    alone, together = model.evaluate(X, y), nnx.Ensemble([model]).evaluate(X, y)
    assert together == pytest.approx(alone, rel=1e-9)


def test_probabilities_that_vanish_leave_a_finite_loss() -> None:
    model = logits(0, dtype="float64")
    model.layers[2].biases = np.array([[2000.0, 0.0, 0.0]])
    assert 500 < nnx.Ensemble([model]).evaluate(X[:2], [1, 1])["loss"] < 2000


def test_numbers_are_averaged_and_measured_by_the_metrics_it_was_compiled_with() -> None:
    y = X[:, 0] * 2

    def numbers(seed: int, backend: str) -> nnx.Sequential:
        model = nnx.Sequential(nnx.Dense(2, 4), nnx.Tanh(), nnx.Dense(4, 1), seed=seed, backend=backend)
        return model.compile(nnx.MeanSquaredError(), nnx.Adam(0.01), metrics=["mae", "r2"])

    together = nnx.Ensemble([numbers(0, "numpy"), numbers(1, "numba")])
    together.fit(X, y, epochs=3, verbose=0)
    mean = together.predict(X)[:, 0]
    scores = together.evaluate(X, y)
    assert scores["loss"] == pytest.approx(np.mean((mean - y) ** 2), rel=1e-5)
    assert scores["mae"] == pytest.approx(np.mean(abs(mean - y)), rel=1e-5)
    assert "r2" in scores


def test_models_of_several_types_answer_in_the_widest() -> None:
    models = [net(0), net(1, dtype="float64", width=9)]
    together = nnx.Ensemble(models)
    assert together.predict(X).dtype == together.predict_std(X).dtype == np.float64
    mean = np.mean([model.predict(X) for model in models], axis=0)
    assert together.evaluate(X, Y)["loss"] == pytest.approx(-np.log(mean[np.arange(60), Y]).mean(), rel=1e-6)


def test_rows_on_disk_and_those_that_come_in_batches_are_predicted_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    together = nnx.Ensemble([net(0), net(1)])
    np.testing.assert_array_equal(together.predict(tmp_path / "x.npy"), together.predict(X))
    with pytest.raises(InputError, match="predict: x is a generator, which gives its batches once"):
        together.predict(x for x in [X])
    with pytest.raises(InputError, match="evaluate: an ensemble takes arrays"):
        together.evaluate(tmp_path / "x.npy", tmp_path / "x.npy")


# ---- as a list -------------------------------------------------------------------------------------------------------


def test_it_is_a_list_of_the_very_models_and_is_copied_and_pickled_with_them() -> None:
    models = [net(0), net(1)]
    together = nnx.Ensemble(model for model in models)
    assert (len(together), together[1], list(together), together[-1]) == (2, models[1], models, models[1])
    assert repr(together).startswith("<Ensemble of 2: <Sequential Dense(2, 6)")
    expected = together.predict(X)
    for other in (copy.deepcopy(together), pickle.loads(pickle.dumps(together))):
        assert other[0] is not models[0]
        other.fit(X, Y, epochs=2, verbose=0)
        assert not np.array_equal(other.predict(X), expected)
    assert copy.copy(together)[0] is models[0]
    np.testing.assert_array_equal(together.predict(X), expected)


# ---- what does not go together ---------------------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused() -> None:
    one = net(0)
    wider = nnx.Sequential(nnx.Dense(4, 3), nnx.Softmax(), backend="numpy")
    wider.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    more = nnx.Sequential(nnx.Dense(2, 4), nnx.Softmax(), backend="numpy")
    more.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    for given, kind, words in (
        ([], InputError, "Ensemble: the list of models is empty"),
        (one, InputTypeError, "Ensemble: models is a Sequential; expected a list"),
        ({"a": one}, InputTypeError, "models is a dict"), (7, InputTypeError, "models is a int"),
        ([one, None], InputTypeError, r"models\[1\] is None, expected a model"),
        ([one, one], InputError, r"models\[1\] is the same model as models\[0\]"),
        ([one, wider], InputError, r"models\[1\] has inputs 4, models\[0\] has 2"),
        ([one, more], InputError, r"models\[1\] has outputs 4, models\[0\] has 3"),
        ([one, logits(1)], InputError, r"models\[1\] has loss SoftmaxCrossEntropy\(\).*has CategoricalCrossEntropy"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            nnx.Ensemble(given)  # type: ignore[arg-type]


def test_models_that_are_not_compiled_yet_wait_and_what_was_changed_since_is_found() -> None:
    models = [nnx.Sequential(nnx.Dense(2, 3), seed=seed, backend="numpy") for seed in range(2)]
    together = nnx.Ensemble(models)
    for ask in (
        together.predict,
        together.predict_std,
        lambda x: together.fit(x, Y),
        lambda x: together.evaluate(x, Y),
    ):
        with pytest.raises(InputError, match=r"models\[0\] of the ensemble has no loss yet.*compile"):
            ask(X)
    for model in models:
        model.compile(nnx.SoftmaxCrossEntropy(), nnx.Adam())
    together.predict(X)
    models[1].compile(nnx.MeanSquaredError(), nnx.Adam())
    with pytest.raises(InputError, match=r"models\[1\] has loss MeanSquaredError"):
        together.predict(X)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_one_file_keeps_all_of_it_and_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    together = nnx.Ensemble([net(0), net(1, dtype="float64", width=9)])
    together.fit(X, Y, epochs=3, batch_size=16, verbose=0)
    together[1].metadata["note"] = "kept"
    together.save(tmp_path / "e.safetensors")
    again = nnx.load(tmp_path / "e.safetensors", backend="numpy")
    assert isinstance(again, nnx.Ensemble)
    assert again[1].metadata == {"note": "kept"}
    again.save(tmp_path / "f.safetensors")
    assert (tmp_path / "e.safetensors").read_bytes() == (tmp_path / "f.safetensors").read_bytes()
    for one in (together, again):
        one.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    np.testing.assert_array_equal(again.predict(X), together.predict(X))
    nnx.Ensemble([net(0)]).save(tmp_path / "one.safetensors")
    assert len(nnx.load(tmp_path / "one.safetensors")) == 1


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    together, path = nnx.Ensemble([net(0), net(1)]), tmp_path / "e.safetensors"
    together.save(path)
    before = path.read_bytes()
    together[1].layers[0].weights[0, 0] = np.nan
    with pytest.raises(InputError, match=r"1\.parameters\.0\.weights"):
        together.save(path)
    together[1].metadata["beyond"] = object()
    with pytest.raises(InputError):
        together.save(path)
    with pytest.raises(InputError, match=r"safetensors, not as \.pt"):
        together.save(tmp_path / "e.pt")
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["e.safetensors"]


def test_any_changed_byte_or_missing_end_of_its_file_is_found(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "e.safetensors"
    nnx.Ensemble([net(0), net(1)]).save(path)
    data = path.read_bytes()
    for place in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
        try:
            nnx.load(path)
        except FileFormatError:
            continue
        header = 8 + int.from_bytes(data[:8], "little")
        assert place < header  # such as the capital letter of a name that safetensors itself does not mind
    for length in range(0, len(data), 101):
        path.write_bytes(data[:length])
        with pytest.raises(FileFormatError):
            nnx.load(path)


def test_a_file_that_describes_something_else_is_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    from nnx.model.checkpoint import FORMAT, _read, checksum

    path = tmp_path / "e.safetensors"
    nnx.Ensemble([net(0), net(1)]).save(path)
    header, tensors = _read(path)

    def rewritten(header: Any, tensors: Any) -> None:
        text = json.dumps(header)
        metadata = {"format": FORMAT, "model": text, "crc32": checksum(text, tensors)}
        path.write_bytes(safetensors.save(tensors, metadata=metadata))

    two = header["ensemble"]
    stray = np.zeros(3, np.float32)
    for changed, arrays in (
        ({"ensemble": []}, {}), ({"ensemble": {"0": two[0]}}, tensors), ({"ensemble": [two[0], 7]}, tensors),
        ({"ensemble": two[:1]}, tensors), ({"ensemble": [*two, two[0]]}, tensors), ({**header, "layers": []}, tensors),
        (header, {**tensors, "stray": stray}), (header, {**tensors, "-1.parameters.0.weights": stray}),
        (header, {**tensors, "0.more": stray}), ({"ensemble": None}, tensors),
        ({"ensemble": [two[0], {**two[1], "loss": {"class": "MeanSquaredError"}}]}, tensors),
    ):  # fmt: skip
        rewritten(changed, arrays)
        with pytest.raises(FileFormatError):
            nnx.load(path)
    rewritten(header, tensors)
    assert len(nnx.load(path)) == 2


def test_classes_of_the_users_own_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    together = nnx.Ensemble([net(0), net(1, last=[Doubled(), nnx.Softmax()])])
    together.save(tmp_path / "e.safetensors")
    with pytest.raises(InputError, match="Doubled"):
        nnx.load(tmp_path / "e.safetensors")
    again = nnx.load(tmp_path / "e.safetensors", custom=[Doubled], backend="numpy")
    np.testing.assert_array_equal(again.predict(X), together.predict(X))
    again[1].layers = [nnx.Dense(2, 4), Doubled(), nnx.Softmax()]
    with pytest.raises(InputError, match=r"models\[1\] puts out \(60, 4\), those before it \(60, 3\)"):
        again.predict(X)
