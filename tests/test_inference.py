"""`predict` without layers: compiled, by operations where a network is too wide, by the layers where one is foreign."""

import copy
import pickle
import threading
from itertools import pairwise

import numpy as np
import pytest
from cpus import fuses_multiply_adds
from networks import Doubled

import nnx
from nnx.errors import InputError
from nnx.model.inference import stages_of
from nnx.model.network import Network
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

pytest.importorskip("numba")

from nnx.backends.numba import inference  # noqa: E402
from nnx.backends.threads import get_threads  # noqa: E402
from nnx.kernels.cpu.threads.team import TICKET  # noqa: E402

BACKENDS = ("numpy", "numba")
TOLERANCE = {dtype: rounding(340, dtype) for dtype in ("float32", "float64")}  # sums of up to 300, one on the other
CLOSE, HALF = rounding(160, "float32"), rounding(4, "float16")  # short ones


def model(*widths, activation=nnx.ReLU, end=nnx.Softmax, **options):
    layers = []
    for a, b in pairwise(widths):
        layers += [nnx.Dense(a, b), activation()]
    found = nnx.Sequential(*layers[:-1], end(), **{"backend": "numba", **options})
    random = np.random.default_rng(7)
    for layer in found.layers:
        if isinstance(layer, nnx.Dense):
            layer.biases = random.normal(size=(1, layer.n_neurons))
    return found


def numbers(rows, columns, dtype="float32"):
    return np.random.default_rng(rows).standard_normal((rows, columns)).astype(dtype)


def by_layers(net, x):
    """What the layers say, each by itself."""
    for layer in net.layers:
        x = layer.forward(x, training=False)
    return net.backend.to_numpy(x).copy()


def is_native(net, x):
    return net.inference().native(x) is not None


NETWORKS = {
    "spiral": lambda **o: model(2, 64, 3, **o),
    "one column": lambda **o: model(1, 1, 1, end=nnx.Sigmoid, **o),
    "odd widths": lambda **o: model(7, 33, 17, 16, 15, 5, activation=nnx.Tanh, **o),
    "ten classes": lambda **o: model(64, 128, 64, 10, **o),
    "regression": lambda **o: model(3, 20, 2, activation=nnx.Sigmoid, end=nnx.Linear, **o),
    "many outputs": lambda **o: model(5, 8, 300, **o),
    "wide": lambda **o: model(100, 2048, 4, **o),
    "too wide": lambda **o: model(100, 2049, 4, **o),
    "dropout": lambda **o: nnx.Sequential(
        nnx.Dense(4, 9), nnx.Dropout(0.5), nnx.ReLU(), nnx.Linear(), nnx.Dense(9, 3), **{"backend": "numba", **o}
    ),
    "norms": lambda **o: nnx.Sequential(
        nnx.LayerNorm(4), nnx.Dense(4, 9), nnx.BatchNorm(9), nnx.ReLU(), nnx.GaussianNoise(0.1), nnx.Dense(9, 40),
        nnx.LayerNorm(40, 1e-3), **{"backend": "numba", **o},
    ),
    "activations alone": lambda **o: nnx.Sequential(
        nnx.Tanh(), nnx.Sigmoid(), nnx.Dense(4, 6), nnx.Softmax(), nnx.ReLU(), nnx.Dense(6, 3),
        **{"backend": "numba", **o},
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_are_those_of_the_layers(name, dtype, backend):
    net, judge = NETWORKS[name](dtype=dtype, backend=backend), NETWORKS[name](dtype=dtype, backend="numpy")
    for rows in (1, 2, 3, 5, 64, 300):
        x = numbers(rows, net.n_inputs, dtype)
        wanted, tolerance = by_layers(judge, x), TOLERANCE[dtype]
        for _ in range(2):  # the first call is not the second: it finds nothing ready
            outputs = net.predict(x)
            assert outputs.dtype.name == dtype
            assert outputs.flags.carray
            np.testing.assert_allclose(outputs, wanted, rtol=tolerance, atol=tolerance)
    assert is_native(net, numbers(1, net.n_inputs, dtype)) == (backend == "numba" and name != "too wide")
    assert is_native(net, numbers(300, net.n_inputs, dtype)) == (backend == "numba")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("end", [nnx.Softmax, nnx.Sigmoid, nnx.Tanh, nnx.ReLU, nnx.Linear])
@pytest.mark.parametrize("factor", [1e4, 1e-30, np.inf, -np.inf, np.nan])
def test_extreme_numbers_end_as_they_do_in_numpy(end, dtype, factor):
    net, judge = (model(3, 5, end=end, dtype=dtype, backend=backend) for backend in ("numba", "numpy"))
    x = numbers(3, 3, dtype)
    for some in (net, judge):
        weights = np.array(some.layers[0].weights)
        weights[:, 1] *= factor  # not by assignment, which refuses what is not finite
        some.layers[0].weights[...] = weights
    wanted = judge.predict(x)
    assert is_native(net, x)
    np.testing.assert_allclose(net.predict(x), wanted, rtol=rounding(160, dtype), atol=rounding(16, dtype))


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_are_not_finite_are_refused_at_every_place(backend, wrong, rows):
    net = model(21, 8, 3, backend=backend)
    net.predict(numbers(rows, 21))
    for column in range(21):
        x = numbers(rows, 21)
        x[-1, column] = wrong
        with pytest.raises(InputError, match="not finite"):
            net.predict(x)


def test_inputs_of_every_kind_give_the_same():
    net, x = model(4, 8, 3), numbers(2, 4)
    wanted = net.predict(x)
    read_only = x.copy()
    read_only.setflags(write=False)
    wide = np.zeros((4, 8), np.float32)
    wide[::2, ::2] = x
    kinds = {
        "list": x.tolist(),
        "float64": x.astype("float64"),
        "big endian": x.astype(">f4"),
        "columns": np.asfortranarray(x),
        "read-only": read_only,
        "every other": wide[::2, ::2],
        "reversed": x[::-1, ::-1][::-1, ::-1],
        "unaligned": np.frombuffer(b"x" + x.tobytes(), np.float32, offset=1).reshape(2, 4),
        "half": x.astype(np.float16),
    }
    for name, kind in kinds.items():
        for _ in range(2):
            np.testing.assert_allclose(net.predict(kind), wanted, rtol=HALF if name == "half" else CLOSE, err_msg=name)
    for refused in (np.ma.masked_array(x, x > 0), x[0], x[None], x[:, :3], x[:0], np.float32(1), x * 1j):
        with pytest.raises((InputError, TypeError)):
            net.predict(refused)
    with pytest.raises(InputError, match="batch_size"):
        net.predict(x, batch_size=0)
    np.testing.assert_array_equal(
        net.predict(x, batch_size=1), np.concatenate([net.predict(x[:1]), net.predict(x[1:])])
    )


def test_each_answer_is_a_new_array():
    net, x = model(4, 8, 3), numbers(1, 4)
    first = net.predict(x)
    kept = first.copy()
    second = net.predict(-x)
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    assert first.flags.owndata
    assert first.flags.writeable
    for backend in BACKENDS:
        same = nnx.Sequential(nnx.Linear(), backend=backend).predict(x)
        np.testing.assert_array_equal(same, x)
        assert not np.shares_memory(same, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_whatever_changes_the_parameters_is_seen_at_once(backend):
    net, x = model(4, 8, 3, backend=backend), numbers(1, 4)
    net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))
    changes = [
        lambda: setattr(net.layers[0], "weights", np.ones((4, 8))),
        lambda: setattr(net.layers[2], "biases", [1.0, -2.0, 3.0]),
        lambda: net.fit(numbers(30, 4), np.arange(30) % 3, epochs=2, verbose=0),
        lambda: net.step(x, [1]),
        lambda: net.set_parameters({name: np.array(a) * 2 for name, a in net.parameters().items()}),
        lambda: net.flat.values.__imul__(0.5),
    ]
    for change in changes:
        before = net.predict(x)
        change()
        after = net.predict(x)
        assert not np.allclose(before, after)
        np.testing.assert_allclose(after, by_layers(net, x), rtol=CLOSE)


def test_whatever_changes_the_model_is_seen_at_once():
    net, x = model(4, 8, 3), numbers(1, 4)
    wanted = net.predict(x)
    net.to("numpy")
    np.testing.assert_allclose(net.predict(x), wanted, rtol=CLOSE)
    net.to("numba", dtype="float64")
    assert net.predict(x).dtype == np.float64
    assert is_native(net, x.astype("float64"))
    net.to("numba", dtype="float32")
    np.testing.assert_allclose(net.predict(x), wanted, rtol=CLOSE)
    net.layers = net.layers[:-1]
    assert not np.allclose(net.predict(x).sum(), 1)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        other.layers[0].weights = np.zeros((4, 8))
        assert not np.allclose(other.predict(x), net.predict(x))
        np.testing.assert_allclose(net.predict(x), by_layers(net, x), rtol=CLOSE)


class Louder(nnx.ReLU):
    def forward(self, inputs, training=False):
        return super().forward(inputs, training) * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layer", [Doubled, Louder])
def test_layers_of_ones_own_run_as_written(layer, backend):
    net, x = nnx.Sequential(nnx.Dense(4, 8), layer(), nnx.Dense(8, 2), backend=backend), numbers(2, 4)
    assert stages_of(net.layers) is None
    assert not is_native(net, x)
    np.testing.assert_array_equal(net.predict(x), by_layers(net, x))
    changed = model(4, 8, 3, backend=backend)
    changed.layers[1].forward = lambda inputs, training=False: inputs + 1
    np.testing.assert_array_equal(changed.predict(x), by_layers(changed, x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [False, True])
def test_many_threads_predict_at_once(backend, own):
    net = model(20, 64, 32, 5, backend=backend)
    if own:
        net = nnx.Sequential(nnx.Dense(20, 64), Louder(), nnx.Dense(64, 5), backend=backend)
    batches = [numbers(rows, 20) for rows in (1, 2, 3, 100, 333)]
    wanted = [by_layers(net, x) for x in batches]
    wrong = []

    def work(first):
        for i in range(first, first + 150):
            outputs = net.predict(batches[i % 5])
            if not np.allclose(outputs, wanted[i % 5], rtol=TOLERANCE["float32"], atol=CLOSE):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluate_says_the_same(backend):
    net, x, y = model(4, 8, 3, backend=backend), numbers(50, 4), np.arange(50) % 3
    net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    outputs = by_layers(net, x)
    scores = net.evaluate(x, y, batch_size=20)
    assert scores["loss"] == pytest.approx(-np.log(outputs[np.arange(50), y]).mean(), rel=CLOSE)
    assert scores["accuracy"] == pytest.approx((outputs.argmax(axis=1) == y).mean())


def test_predicting_leaves_what_the_layers_keep():
    net, x = model(4, 8, 3), numbers(3, 4)
    wanted = net.layers[0].forward(x).copy()
    net.predict(numbers(3, 4) + 1)
    np.testing.assert_array_equal(net.layers[0].output, wanted)


def test_a_network_predicts_moves_and_is_copied_without_anything_that_trains_it():
    x, kinds = numbers(5, 3), (nnx.Sequential, Network)
    whole, net = (kind(nnx.Dense(3, 4), nnx.Tanh(), nnx.Dense(4, 2), backend="numpy", seed=3) for kind in kinds)
    expected = whole.predict(x)
    assert np.array_equal(net.predict(x), expected)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.to("numba")):
        assert type(other) is Network
        np.testing.assert_allclose(other.predict(x), expected, rtol=TOLERANCE["float32"], atol=CLOSE)
    net.layers = [*net.layers, nnx.ReLU()]
    np.testing.assert_allclose(net.predict(x), np.maximum(expected, 0), rtol=TOLERANCE["float32"], atol=CLOSE)


@pytest.mark.skipif(not fuses_multiply_adds(), reason="a multiply-add is rounded twice here")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"too wide", "activations alone"}))
def test_a_row_has_the_same_bits_whatever_is_predicted_with_it(name, dtype):
    net = NETWORKS[name](dtype=dtype)
    x = numbers(1000, net.n_inputs, dtype)
    outputs, threads = net.predict(x), get_threads()
    for rows in (1, 3, 33, 100, 999):
        np.testing.assert_array_equal(net.predict(x, batch_size=rows), outputs, err_msg=f"batch_size={rows}")
    try:
        for count in range(1, threads + 1):
            nnx.set_threads(count)
            np.testing.assert_array_equal(net.predict(x), outputs, err_msg=f"{count} threads")
    finally:
        nnx.set_threads(threads)


def test_threads_that_share_a_rows_layers_give_the_same_bits():
    net = model(700, 512, 333, 250, 10)
    table = inference.table_of(net.inference().stages, net.flat.values)
    x, place = numbers(4, 700), inference.address(table)
    table[inference.f.ROWS] = len(x)  # whatever is quicker here
    alone, helped = inference.f.ready(np.dtype("float32")), np.full((200, 4, 10), np.nan, np.float32)
    wanted, threads = np.empty((4, 10), np.float32), get_threads()
    assert alone(x, wanted, place, 0)
    try:
        nnx.set_threads(2)
        assert all(inference.helpers_pay(weights, 4) for weights in (int(table[inference.f.SIZE]), inference.WEIGHTS))
        assert not inference.helpers_pay(30, 4)
        together = inference.helped(alone, inference.handed())
        drawn = inference.pool.board[TICKET]
        assert all(together(x, out, place, 0) for out in helped)
        assert inference.pool.board[TICKET] != drawn
    finally:
        nnx.set_threads(threads)
    np.testing.assert_array_equal(helped, np.broadcast_to(wanted, helped.shape))


def test_blocks_of_one_and_of_many_panels_give_the_same_bits(monkeypatch):
    """Each thread packs all weights, or some, or each once for all; buffers are those of the largest call."""
    net = model(300, 520, 33, 20)
    many = inference.Many(inference.table_of(net.inference().stages, net.flat.values), net.flat.values)
    x = numbers(700, 300)
    outputs = np.empty((3, 700, 20), np.float32)
    for panels, out in zip((1, 3, 100), outputs, strict=True):
        many.panels = panels
        assert many(x, out)
    for rows in (1, 7, 16, 17):  # up to half a panel is computed in half the vectors
        assert many(x[:rows], outputs[2, :rows])
    many.worth, drawn = 0.0, inference.pool.board[TICKET]
    monkeypatch.setattr(many, "by_columns", lambda panels, threads: True)
    for rows in (17, 40, 700):
        assert many(x[:rows], outputs[2, :rows])
    assert get_threads() == 1 or inference.pool.board[TICKET] != drawn
    np.testing.assert_array_equal(outputs[1], outputs[0])
    np.testing.assert_array_equal(outputs[2], outputs[0])


@pytest.mark.parametrize("width", [40, 200])  # of one piece of weights, to which both come at once, or of several
def test_threads_that_pack_weights_for_each_other_give_the_same_bits(width):
    net = model(inference.m.DEPTH + 5, width, 30, 10)
    many = inference.Many(inference.table_of(net.inference().stages, net.flat.values), net.flat.values)
    x, threads = numbers(500, net.n_inputs), get_threads()
    wanted, outputs = np.empty((500, 10), np.float32), np.full((50, 500, 10), np.nan, np.float32)
    many.panels = 1000
    assert many.run(x, wanted, 1)  # one block, whose weights are its own
    many.panels = 1
    assert many.run(x, outputs[0], 1)
    try:
        nnx.set_threads(2)
        for out in outputs[1:]:
            inference.pool.summon(2)
            assert many.run(x, out, 2)
    finally:
        nnx.set_threads(threads)
    np.testing.assert_array_equal(outputs, np.broadcast_to(wanted, outputs.shape))


def test_threads_get_as_many_blocks_each_and_room_for_the_largest(monkeypatch):
    net = model(300, 520, 33, 20)
    many = inference.Many(inference.table_of(net.inference().stages, net.flat.values), net.flat.values)
    monkeypatch.setattr(many, "by_columns", lambda panels, threads: False)
    asked, many.panels = [], 5
    many.kernel = lambda *operands: asked.append(operands[6:10]) or True
    for panels in range(1, 50):
        x = np.empty((panels * many.columns - 1, 300), np.float32)
        assert many.run(x, x, 3)
        blocks, room, strips, threads = asked.pop()
        assert threads == min(3, panels)
        assert blocks % threads == 0 or blocks == panels
        assert room == -(-panels // blocks) * many.columns * 520 <= many.panels * many.columns * 520
        assert (strips > 0) == (blocks > threads)


def test_a_long_prediction_is_made_of_calls_that_can_be_interrupted():
    net = model(4, 8, 3)
    many = inference.Many(inference.table_of(net.inference().stages, net.flat.values), net.flat.values)
    x, out = numbers(500, 4), np.empty((500, 3), np.float32)
    assert many.at_once * many.cost < 1.1 * inference.AT_ONCE
    calls, predict = [], many._predict
    many.at_once, many._predict = 128, lambda x, out: calls.append(len(x)) or predict(x, out)
    assert many(x, out)
    assert calls == [128, 128, 128, 116]
    np.testing.assert_array_equal(out, net.predict(x))


@pytest.mark.parametrize("rows", [20, 5000])
def test_a_wrong_number_in_any_block_is_refused(rows):
    net = model(6, 8, 3)
    for place in (0, rows // 2, rows - 1):
        x = numbers(rows, 6)
        x[place, 3] = np.nan
        assert net.inference().native(x) is None
        with pytest.raises(InputError, match="not finite"):
            net.predict(x)


def test_evaluate_takes_the_compiled_pass(monkeypatch):
    net, x = model(4, 8, 3), numbers(100, 4)
    net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    monkeypatch.setattr(net.inference(), "_by_stages", None)
    x.setflags(write=False)
    scores = net.evaluate(x, np.arange(100) % 3)
    outputs = by_layers(net, x.copy())
    assert scores["loss"] == pytest.approx(-np.log(outputs[np.arange(100), np.arange(100) % 3]).mean(), rel=CLOSE)
