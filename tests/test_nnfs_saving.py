"""Files of nnx.nnfs: what is saved comes back, training goes on as if nothing had happened, and no code is run."""

import pickle
import zipfile

import numpy as np
import pytest

import nnx
from nnx import errors, nnfs
from nnx.nnfs import precision
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

pytest.importorskip("safetensors")
CLOSE = rounding(160, "float32")  # short sums, one on the other


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    state = np.random.get_state()  # noqa: NPY002
    for name in ("_backend", "_book", "_dtype"):
        monkeypatch.setattr(precision, name, getattr(precision, name))
    nnfs.init()
    yield
    np.random.set_state(state)  # noqa: NPY002


def classifier(optimizer, dropout=True):
    model = nnfs.Model()
    model.add(nnfs.Layer_Dense(2, 16, weight_regularizer_l2=5e-4, bias_regularizer_l1=1e-5))
    model.add(nnfs.Activation_ReLU())
    if dropout:
        model.add(nnfs.Layer_Dropout(0.1))
    model.add(nnfs.Layer_Dense(16, 3))
    model.add(nnfs.Activation_Softmax())
    model.set(loss=nnfs.Loss_CategoricalCrossentropy(), optimizer=optimizer, accuracy=nnfs.Accuracy_Categorical())
    model.finalize()
    return model


def regressor():
    model = nnfs.Model()
    for layer in (nnfs.Layer_Dense(1, 8), nnfs.Activation_Sigmoid(), nnfs.Layer_Dense(8, 1), nnfs.Activation_Linear()):
        model.add(layer)
    model.set(
        loss=nnfs.Loss_MeanAbsoluteError(), optimizer=nnfs.Optimizer_SGD(0.1), accuracy=nnfs.Accuracy_Regression()
    )
    model.finalize()
    return model


OPTIMIZERS = {
    "SGD": lambda: nnfs.Optimizer_SGD(0.5),
    "momentum": lambda: nnfs.Optimizer_SGD(0.5, decay=1e-3, momentum=0.9),
    "Adagrad": lambda: nnfs.Optimizer_Adagrad(decay=1e-4),
    "RMSprop": lambda: nnfs.Optimizer_RMSprop(learning_rate=0.02, rho=0.95),
    "Adam": lambda: nnfs.Optimizer_Adam(learning_rate=0.05, decay=5e-7, beta_1=0.85),
}


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_happened(optimizer, dropout, tmp_path, capsys):
    X, y = nnfs.spiral_data(50, 3)
    model = classifier(OPTIMIZERS[optimizer](), dropout)
    model.train(X, y, epochs=5, batch_size=64)
    model.save(tmp_path / "spiral.model")
    drawn = np.random.get_state()  # noqa: NPY002
    loaded = nnfs.Model.load(tmp_path / "spiral.model")
    assert np.random.get_state()[2] == drawn[2]  # noqa: NPY002 - loading draws nothing
    capsys.readouterr()
    printed = []
    for one in (model, loaded):
        np.random.set_state(drawn)  # noqa: NPY002
        one.train(X, y, epochs=3, batch_size=64, validation_data=(X, y))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    for own, theirs in zip(loaded.get_parameters(), model.get_parameters(), strict=True):
        for mine, expected in zip(own, theirs, strict=True):  # a dropout's mask is float64, and with it the state
            np.testing.assert_allclose(mine, expected, rtol=CLOSE if dropout else 0, atol=CLOSE if dropout else 0)


def test_a_regression_keeps_its_precision(tmp_path, capsys):
    X, y = nnfs.sine_data(100)
    model = regressor()
    model.train(X, y, epochs=3)
    model.save(str(tmp_path / "sine.model"))
    loaded = nnfs.Model.load(str(tmp_path / "sine.model"))
    assert loaded.accuracy.precision == model.accuracy.precision == np.std(y) / 250
    assert isinstance(loaded.loss, nnfs.Loss_MeanAbsoluteError)
    capsys.readouterr()
    model.evaluate(X, y)
    loaded.evaluate(X, y)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_nnx_opens_the_file(tmp_path):
    X, y = nnfs.spiral_data(50, 3)
    model = classifier(nnfs.Optimizer_Adam(learning_rate=0.05))
    model.train(X, y, epochs=5)
    model.save(tmp_path / "spiral.model")
    opened = nnx.load(tmp_path / "spiral.model", backend="numpy")
    np.testing.assert_allclose(opened.predict(X), model.predict(X), rtol=CLOSE)
    assert opened.optimizer.iterations == 5
    opened.fit(X, y, epochs=1, verbose=0)


def test_the_book_opens_a_file_of_nnx(tmp_path, capsys):
    X, y = nnfs.spiral_data(50, 2)
    y = y.reshape(-1, 1)
    sequential = nnx.Sequential(nnx.Dense(2, 8), nnx.ReLU(), nnx.Dense(8, 1), nnx.Sigmoid(), backend="numpy")
    sequential.compile(nnx.BinaryCrossEntropy(), nnx.Adam(0.01))
    sequential.fit(X, y, epochs=2, verbose=0)
    sequential.save(tmp_path / "two.safetensors")
    model = nnfs.Model.load(tmp_path / "two.safetensors")
    np.testing.assert_allclose(model.predict(X), sequential.predict(X), rtol=CLOSE)
    assert model.accuracy.binary
    model.train(X, y, epochs=1)
    assert model.optimizer.iterations == 3


def test_a_model_that_is_only_evaluated(tmp_path, capsys):
    X, y = nnfs.spiral_data(10, 3)
    model = classifier(None)
    model.save(tmp_path / "m")
    loaded = nnfs.Model.load(tmp_path / "m")
    assert loaded.optimizer is None
    loaded.evaluate(X, y)
    assert capsys.readouterr().out.startswith("validation, acc: ")


def test_parameters_come_back(tmp_path):
    X, _ = nnfs.spiral_data(10, 3)
    model, other = classifier(nnfs.Optimizer_Adam()), classifier(nnfs.Optimizer_Adam())
    model.save_parameters(tmp_path / "spiral.parms")
    other.load_parameters(tmp_path / "spiral.parms")
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    assert [path.name for path in tmp_path.iterdir()] == ["spiral.parms"]
    with np.load(tmp_path / "spiral.parms", allow_pickle=False) as archive:
        assert archive.files == ["0.weights", "0.biases", "1.weights", "1.biases"]


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_no_pickle_is_ever_loaded(tmp_path):
    model = classifier(nnfs.Optimizer_Adam())
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "old").write_bytes(pickle.dumps(Explosive(), protocol))
        for load in (nnfs.Model.load, model.load_parameters):
            with pytest.raises(errors.FileFormatError, match="pickle" if protocol > 1 else "no "):
                load(tmp_path / "old")
    hidden = np.empty(1, object)
    hidden[0] = Explosive()
    np.savez(tmp_path / "hidden.npz", **{"0.weights": hidden, "0.biases": hidden})
    with pytest.raises(errors.FileFormatError):
        model.load_parameters(tmp_path / "hidden.npz")


def test_damaged_and_foreign_files(tmp_path):
    model = classifier(nnfs.Optimizer_Adam())
    model.save(tmp_path / "model")
    model.save_parameters(tmp_path / "parameters")
    for load, whole in ((nnfs.Model.load, "model"), (model.load_parameters, "parameters")):
        data = (tmp_path / whole).read_bytes()
        for damaged in (b"", data[:1], data[: len(data) // 2], data[:-1], b"text", data[8:]):
            (tmp_path / "damaged").write_bytes(damaged)
            with pytest.raises(errors.FileFormatError, match="damaged"):
                load(tmp_path / "damaged")
        with pytest.raises(errors.FileFormatError, match="is a folder"):
            load(tmp_path)
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "nowhere")
    with zipfile.ZipFile(tmp_path / "foreign", "w") as archive:
        archive.writestr("0.weights", "text")
    np.savez(tmp_path / "others.npz", a=np.ones(3))
    np.save(tmp_path / "single.npy", np.ones(3))
    for name in ("foreign", "others.npz", "single.npy", "model"):
        with pytest.raises(errors.FileFormatError):
            model.load_parameters(tmp_path / name)


def test_a_file_of_other_shapes_changes_nothing(tmp_path):
    regressor().save_parameters(tmp_path / "sine")
    model = classifier(nnfs.Optimizer_Adam())
    before = model.get_parameters()
    with pytest.raises(errors.InputError, match="expected"):
        model.load_parameters(tmp_path / "sine")
    np.testing.assert_array_equal(model.get_parameters()[0][0], before[0][0])


def test_what_a_file_cannot_hold(tmp_path):
    class Own(nnfs.Activation_ReLU):
        pass

    model = classifier(nnfs.Optimizer_Adam())
    model.layers[1] = Own()
    with pytest.raises(errors.InputError, match="Own is a class of your own"):
        model.save(tmp_path / "m")
    model = classifier(nnfs.Optimizer_Adam())
    model.set(accuracy=type("Mine", (nnfs.Accuracy_Categorical,), {})())
    with pytest.raises(errors.InputError, match="Mine, a class of your own"):
        model.save(tmp_path / "m")
    tanh = nnx.Sequential(nnx.Dense(2, 3), nnx.Tanh(), backend="numpy")
    tanh.save(tmp_path / "tanh")
    with pytest.raises(errors.FileFormatError, match="the book has no Tanh"):
        nnfs.Model.load(tmp_path / "tanh")
    assert not (tmp_path / "m").exists()
    with pytest.raises(errors.InputError, match="not finalized"):
        nnfs.Model().save(tmp_path / "m")
