"""Under `np.seterr(all="raise")` no harmless underflow or overflow of nnx's becomes an error; the state stays."""

import numpy as np
import pytest

import nnx
from nnx import nnfs
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.recorder import Program
from nnx.errors import InputError
from nnx.testing.cases import CASES, Maker
from nnx.testing.optimizers import OPTIMIZERS

TINY, HUGE = 1e-42, 1e30  # of float32: the one is subnormal, the square of the other too large
BACKENDS = ["numpy", "numba"]


@pytest.fixture(autouse=True)
def raising():
    """Ask for errors, as one does who looks for where nan comes from; warnings are errors here anyway."""
    with np.errstate(all="raise"):
        before = np.geterr()
        yield
        assert np.geterr() == before


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return nnx.backends.resolve(request.param).backend


def scaled(a, factor):
    with np.errstate(all="ignore"):
        return a * a.dtype.type(factor) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operation", CASES)
def test_an_operation_raises_nothing(operation, dtype, backend):
    for case in CASES[operation](Maker(dtype)):
        for factor in (1, TINY, HUGE):
            operands = {name: scaled(a, factor) for name, a in case.operands.items()}
            if operation == "gather_rows":
                operands["out"] = np.zeros(case.out, operands["source"].dtype)
            getattr(backend, operation)(**operands)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_raises_nothing(name, backend):
    hyper, counters = np.array([0.01, 1e-3, 0.9, 0.999, 1e-7, 0.01, 4e-3]), np.array([10**6, 0, 0])
    for factor in (TINY, 1e-30, 1, HUGE, np.inf):
        arrays = [scaled(np.ones(5, np.float32), factor) for operand in OPERATIONS[name].reads if operand in "pgmvu"]
        getattr(backend, name)(*arrays, hyper, counters)


def test_what_is_cast_raises_nothing(backend):
    assert backend.asarray([1e-300, 1e300], "float32").tolist() == [0, np.inf]
    assert backend.asarray(np.array([1e-50]), "float32").tolist() == [0]


def model_of(backend, loss=nnx.CategoricalCrossEntropy, last=nnx.Softmax):
    layers = nnx.Dense(4, 8, weight_l2=1e-4), nnx.Sigmoid(), nnx.Dropout(0.2), nnx.Dense(8, 2), last()
    return nnx.Sequential(*layers, backend=backend).compile(loss(), nnx.Adam())


@pytest.mark.parametrize("factor", [TINY, 1, 1e6])
def test_a_model_raises_nothing(factor, backend):
    x, labels = np.random.default_rng(0).standard_normal((64, 4)) * factor, np.arange(64) % 2
    model = model_of(backend)
    model.fit(x, labels, epochs=2, batch_size=24, verbose=0, validation_data=(x, labels))
    model.fit(x, np.eye(2)[labels] * (1 - 1e-4) + 1e-50, verbose=0)
    assert np.isfinite([*model.steps(x, labels, 2), *model.evaluate(x, labels).values()]).all()
    assert np.isfinite(model.predict(x)).all()
    assert np.isfinite(model.predict(x[:1])).all()
    numbers = model_of(backend, nnx.MeanSquaredError, nnx.Linear)
    numbers.fit(x, x[:, :2] * min(1 / factor, 1) * 1e-30, verbose=0)
    assert numbers.eager_reason is None


def test_layers_by_hand_raise_nothing(backend):
    x, y = np.random.default_rng(0).standard_normal((64, 4)), np.arange(64) % 2
    with nnx.use_backend(backend):
        for factor in (TINY, 1, 1e6):
            dense, activation, loss, optimizer = nnx.Dense(4, 2), nnx.Tanh(), nnx.SoftmaxCrossEntropy(), nnx.Adam(0.05)
            for _ in range(3):
                loss.calculate(activation.forward(dense.forward(x * factor)), y)
                dense.backward(activation.backward(loss.backward(activation.output, y)))
                optimizer.update_params(dense)
                optimizer.post_update_params()


@pytest.mark.parametrize("precision", ["book", "fast"])
def test_the_books_classes_raise_nothing(precision):
    x, y = np.random.default_rng(0).standard_normal((64, 4)), np.arange(64) % 2
    nnfs.init(precision=precision)
    first, relu, dropout, last = (
        nnfs.Layer_Dense(4, 8, weight_regularizer_l2=1e-4), nnfs.Activation_ReLU(), nnfs.Layer_Dropout(0.1),
        nnfs.Layer_Dense(8, 2),
    )  # fmt: skip
    loss, optimizer = nnfs.Activation_Softmax_Loss_CategoricalCrossentropy(), nnfs.Optimizer_Adam(0.05)
    first.weights = first.weights * 1e-30
    for _ in range(5):
        first.forward(x * 1000)
        relu.forward(first.output)
        dropout.forward(relu.output)
        last.forward(dropout.output)
        loss.forward(last.output * 1e4, y)
        loss.loss.regularization_loss(first)
        loss.backward(loss.output, y)
        last.backward(loss.dinputs)
        dropout.backward(last.dinputs)
        relu.backward(dropout.dinputs)
        first.backward(relu.dinputs)
        optimizer.pre_update_params()
        optimizer.update_params(first)
        optimizer.update_params(last)
        optimizer.post_update_params()


def test_what_is_wrong_with_the_data_is_still_said(backend):
    x = np.ones((3, 4))
    for wrong in (np.nan, np.inf, 1e300):
        with pytest.raises(InputError):
            model_of(backend).fit(np.where(x == 1, wrong, x), [0, 1, 0], verbose=0)
    with pytest.raises(InputError, match="no distribution"):
        model_of(backend).fit(x.astype("f4"), np.full((3, 2), 3e38, np.float32), verbose=0)


def test_a_callback_sees_the_callers_own_state(backend):
    class Look(nnx.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            seen.append(np.geterr())

    seen = []
    model_of(backend).fit(np.ones((3, 4)), [0, 1, 0], epochs=2, verbose=0, callbacks=[Look()])
    assert seen == [np.geterr()] * 2


def test_a_program_asks_once_for_all_its_operations():
    backend = nnx.backends.resolve("numpy").backend
    recorder = backend.record([x := np.full((2, 3), -1e6, np.float32)])
    recorder.sigmoid(x)
    program = backend.compile(recorder)
    assert type(program) is Program
    [(operation, operands)] = program._bound
    with pytest.raises(FloatingPointError):
        operation(*operands)
    program.run(2)
