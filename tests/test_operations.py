"""What the conformance suite does not say of operations: their declarations, their properties, known random words."""

from __future__ import annotations

import inspect
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strict_backend import StrictBackend

import nnx
from nnx.backends import BackendUnavailable
from nnx.backends.numpy import BLOCK, NumpyBackend
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.operations import Operations
from nnx.kernels.elementwise import FUNCTIONS
from nnx.kernels.philox import LOW, dropout_words, keep_threshold, philox4x32
from nnx.testing.optimizers import OPTIMIZERS
from nnx.testing.reference import noise

pytestmark = pytest.mark.rounding

numpy, strict = NumpyBackend(), StrictBackend()


class Plain(NumpyBackend):
    """NumPy arrays under the default bodies."""


for name in OPERATIONS:
    setattr(Plain, name, getattr(Operations, name))
plain = Plain()

# ---- declarations ----------------------------------------------------------------------------------------------------


def test_every_public_method_of_operations_is_declared():
    public = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction) if name[0] != "_"}
    assert public == OPERATIONS.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_declaration_names_operands(name: str):
    spec = OPERATIONS[name]
    parameters = spec.signature.parameters
    assert set(spec.reads) | set(spec.writes) <= parameters.keys()
    assert ("out" in parameters) == ("out" in spec.writes)
    assert "out" not in spec.reads
    assert inspect.getdoc(getattr(Operations, name))


@pytest.mark.parametrize("backend", nnx.backends.names())
def test_a_replacement_has_the_signature_of_the_default(backend: str):
    """A program calls it with all operands in this order."""
    try:
        kind = type(nnx.get_backend(backend))
    except BackendUnavailable as unavailable:
        pytest.skip(str(unavailable))
    for name, spec in OPERATIONS.items():
        wanted, got = spec.signature.parameters.values(), inspect.signature(getattr(kind, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in got] == [(p.name, p.kind, p.default) for p in wanted]


# ---- random words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("xp", [np, array_api_strict])
@pytest.mark.parametrize(("counter", "key", "words"), noise.KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(
    xp: Any, counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
):
    c = [xp.asarray([word], dtype=xp.uint64) for word in counter]
    assert [int(word[0]) for word in philox4x32(xp, *c, key[0] | key[1] << 32)] == list(words)


def test_the_first_words_of_a_mask_are_the_known_answer():
    """Element (0, c) of step 0, layer 0, seed 0 takes the words of the zero counter under the zero key."""
    words = dropout_words(np, 1, 4, np.array(0, np.uint64), 0, 0)
    assert [f"{word:08x}" for word in words[0]] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@given(
    rows=st.integers(1, 5), columns=st.integers(1, 9), step=st.integers(0, LOW), layer=st.integers(0, LOW),
    seed=st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_words_are_integer_for_integer_those_of_the_reference(
    rows: int, columns: int, step: int, layer: int, seed: int
):
    words = dropout_words(np, rows, columns, np.array(step, np.uint64), layer, seed)
    expected = [[noise.dropout_word(r, c, step, layer, seed) for c in range(columns)] for r in range(rows)]
    assert words.tolist() == expected


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_the_share_dropped_is_the_rate(rate: float):
    words = dropout_words(np, 300, 300, np.array(7, np.uint64), 1, 5)
    dropped = np.mean(words < keep_threshold(rate))
    assert abs(dropped - rate) <= 4 * np.sqrt(rate * (1 - rate) / words.size)


def test_masks_of_other_steps_layers_and_seeds_have_nothing_in_common():
    masks = [
        dropout_words(np, 64, 64, np.array(step, np.uint64), layer, seed) < LOW // 2
        for step, layer, seed in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2**32)]
    ]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert 0.45 < np.mean(first == second) < 0.55


# ---- numpy's bodies are the default ones, only faster ----------------------------------------------------------------

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def matrices(shape: tuple[int, int], dtype: Any = np.float64, limit: float = 50.0) -> st.SearchStrategy[np.ndarray]:
    width = np.dtype(dtype).itemsize * 8
    numbers = st.floats(-limit, limit, width=width, allow_subnormal=False)
    return arrays(dtype, shape, elements=numbers, fill=numbers)


UNARY = [*(row.name for row in FUNCTIONS if not row.parameter), "softmax"]
WITH_GRADIENT = [f"{name}_backward" for name in UNARY]
ERRORS = ["mean_squared_error", "mean_squared_error_backward", "mean_absolute_error", "mean_absolute_error_backward"]


def agree(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)  # short sums of numbers of up to 50: rounding(100) * 50


@given(data=st.data(), shape=shapes, name=st.sampled_from(UNARY))
def test_activations(data: st.DataObject, shape: tuple[int, int], name: str):
    x = data.draw(matrices(shape))
    agree(getattr(numpy, name)(x), getattr(plain, name)(x))


@given(data=st.data(), shape=shapes, name=st.sampled_from(WITH_GRADIENT + ERRORS))
def test_gradients_and_errors(data: st.DataObject, shape: tuple[int, int], name: str):
    y, dy = data.draw(matrices(shape, limit=1.0)), data.draw(matrices(shape))
    agree(getattr(numpy, name)(y, dy), getattr(plain, name)(y, dy))


@given(data=st.data(), shape=shapes, clip=st.sampled_from([0.0, 1e-7]), soft=st.booleans())
def test_softmax_cross_entropy(data: st.DataObject, shape: tuple[int, int], clip: float, soft: bool):
    logits = data.draw(matrices(shape))
    target = data.draw(arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    if soft:
        target = np.eye(shape[1])[target]
    results = []
    for backend in (numpy, plain):
        losses, probabilities = np.empty(shape[0]), np.empty(shape)
        results.append(
            (losses, probabilities, backend.softmax_cross_entropy(logits, target, losses, probabilities, clip))
        )
    for a, b in zip(*results, strict=True):
        agree(a, b)


@given(n=st.integers(1, 3 * BLOCK), seed=st.integers(0, 99), name=st.sampled_from(sorted(OPTIMIZERS)))
def test_optimizers_in_blocks(n: int, seed: int, name: str):
    """NumPy walks over the flat buffer in pieces: nothing may be left out between them, or done twice."""
    random = np.random.default_rng(seed)
    hyper, counters = np.array([0.1, 0.01, 0.9, 0.99, 1e-7, 0.01, 4e-3]), np.array([3, 0, 0])
    p, g, m, v = random.normal(size=n), random.normal(size=n), random.normal(size=n), random.random(n)
    moments = [{"m": m, "v": v, "u": v[::-1]}[place] for place in OPERATIONS[name].writes if place != "p"]
    results = []
    for backend in (numpy, plain):
        changed = [p.copy(), *(moment.copy() for moment in moments)]
        getattr(backend, name)(changed[0], g, *changed[1:], hyper, counters)
        results.append(changed)
    for a, b in zip(*results, strict=True):
        agree(a, b)


# ---- properties ------------------------------------------------------------------------------------------------------


@given(data=st.data(), shape=shapes, shift=st.floats(-1e3, 1e3))
def test_softmax_adds_up_to_one_whatever_is_added(data: st.DataObject, shape: tuple[int, int], shift: float):
    x = data.draw(matrices(shape))
    p = numpy.softmax(x)
    agree(p.sum(axis=1), 1)
    # x + shift is off by rounding(1) * 1e3.
    np.testing.assert_allclose(numpy.softmax(x + shift), p, rtol=1e-9, atol=1e-12)


@given(data=st.data(), shape=st.tuples(st.integers(1, 6), st.integers(1, 9)))
def test_softmax_backward_is_the_product_with_the_jacobian(data: st.DataObject, shape: tuple[int, int]):
    y, dy = numpy.softmax(data.draw(matrices(shape))), data.draw(matrices(shape))
    jacobians = numpy.softmax_jacobian(y)
    agree(numpy.softmax_backward(y, dy), np.einsum("nij,nj->ni", jacobians, dy))
    agree(jacobians.sum(axis=2), 0)


@given(data=st.data(), shape=st.tuples(st.integers(1, 9), st.integers(2, 9)), kind=st.sampled_from(["hard", "soft"]))
def test_a_fused_loss_is_the_two_operations(data: st.DataObject, shape: tuple[int, int], kind: str):
    """The loss within the clip, soft labels included; the gradient wherever no probability is clipped."""
    logits = data.draw(matrices(shape, limit=30.0))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    hard = np.eye(shape[1])[random.integers(0, shape[1], shape[0])]
    target = hard if kind == "hard" else (hard + 3 * random.dirichlet(np.ones(shape[1]), shape[0])) / 4
    losses = np.empty(shape[0])
    inside = np.abs(logits - logits[:, :1]).max(axis=1) < 7

    gradient = numpy.softmax_cross_entropy(logits, target, losses, None, 1e-7)
    p = numpy.softmax(logits)
    # The log of a p at the clip is off by rounding(1) / 1e-7, the gradient by exp(14) * rounding(10).
    np.testing.assert_allclose(losses, numpy.cross_entropy(p, target), rtol=1e-9, atol=1e-9)
    two = numpy.softmax_backward(p, numpy.cross_entropy_backward(p, target))
    np.testing.assert_allclose(gradient[inside], two[inside], rtol=1e-9, atol=1e-9)

    shares = hard if kind == "hard" else random.random(shape)
    gradient = numpy.sigmoid_cross_entropy(logits, shares, losses, None, 1e-7)
    p = numpy.sigmoid(logits)
    # 1 - p has fewer digits the nearer p is to 1: at the clip, and where exp(-15) is left, some nine.
    np.testing.assert_allclose(losses, numpy.binary_cross_entropy(p, shares), rtol=1e-7, atol=1e-7)
    two = numpy.sigmoid_backward(p, numpy.binary_cross_entropy_backward(p, shares))
    unclipped = np.abs(logits) < 15
    np.testing.assert_allclose(gradient[unclipped], two[unclipped], rtol=1e-6, atol=1e-6)


# ---- in and out ------------------------------------------------------------------------------------------------------


def test_an_array_of_its_own_never_leaves_the_device():
    """Not even to change its type: there `to_numpy` is the only way out."""
    backend = StrictBackend("device1")
    a = backend.asarray([[1, 2], [3, 4]], "int64")
    assert backend.dtype_name(backend.asarray(a).dtype) == "float32"
    assert backend.dtype_name(backend.asarray(a, "float64").dtype) == "float64"
    assert backend.asarray(a, "float64").device == a.device


def test_arrays_in_the_other_byte_order_come_in_as_the_machine_has_them():
    a = numpy.asarray(np.array([1.0, 2.0], ">f8"))
    assert a.dtype.isnative
    assert a.tolist() == [1, 2]


def test_a_type_that_nnx_does_not_compute_in_is_refused_by_name():
    with pytest.raises(TypeError, match=r"array of array_api_strict\.complex128 was given; expected real numbers"):
        strict.asarray(array_api_strict.asarray([1j]))
