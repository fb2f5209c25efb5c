"""GPU diagnostics: its ceilings, what each node of a step takes, who multiplies fastest; guesses settled in one run.

`make gpu-check` runs it. Everything is timed by the GPU's own events, the median of some rounds, but what a host waits.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

import nnx
from nnx.backends.cupy.matmul.cublaslt import (
    ALIGNED,
    BIAS_GRADIENT,
    NONE,
    RELU_BIAS,
    WORD,
    Lt,
    Plan,
    Product,
    alignment,
)
from nnx.backends.cupy.matmul.cublaslt_products import NotCaptured
from nnx.backends.cupy.programs.capture import CapturedGraph
from nnx.backends.cupy.programs.replay import bound
from nnx.errors import InputError

Array = Any
Found = dict[str, Any]
ROUNDS, SECONDS = 5, 0.03
NETWORKS = ((128, (784, 512, 512, 10)), (8192, (784, 512, 512, 10)))  # those that the races are about
SIDES = (32, 48, 64, 96, 128, 192, 256, 384, 512)  # of square products across SMALL
NODES, CANDIDATES = 1000, 8
REPEATED = 50  # times that work stands in a graph to be timed: launching it then takes less than it does


def checks(backend: Any, found: Found) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield all there is to measure, each with its name; each puts what it finds into `found`."""

    def check(name: str, measure: Callable[[], Any]) -> tuple[str, Callable[[], None]]:
        return name, lambda: found.update({name: measure()})

    yield check("ceilings", lambda: ceilings(backend))
    yield check("launches in us", lambda: launches(backend))
    yield check("products across SMALL in us", lambda: crossing(backend))
    for rows, widths in NETWORKS:
        name = f"{rows} x {'-'.join(map(str, widths))}"
        yield check(f"nodes of a step of {name} in us", lambda r=rows, w=widths: nodes(backend, r, w))
        yield check(f"candidates for {name} in us", lambda r=rows, w=widths: candidates(backend, r, w))
        yield check(f"choices for {name}", lambda r=rows, w=widths: chosen(backend, r, w))


def timed(backend: Any, call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes the GPU."""
    call()
    with backend.timer() as timer:
        call()
    count = min(1000, max(1, int(SECONDS / max(timer.seconds, 1e-6))))
    rounds = []
    for _ in range(ROUNDS):
        with backend.timer() as timer:
            for _ in range(count):
                call()
        rounds.append(timer.seconds / count)
    return statistics.median(rounds)


def in_us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


# ---- what the GPU can do at most -------------------------------------------------------------------------------------


def ceilings(backend: Any, count: int = 1 << 26, side: int = 4096) -> Found:
    """Return the bandwidth of a copy, and of large products the rate in each precision."""
    a, b = backend.zeros(count), backend.empty(count)

    def copied() -> None:
        b[...] = a

    found: Found = {"copy, GB/s": round(2 * a.nbytes / timed(backend, copied) / 1e9, 1)}
    random = np.random.default_rng(0)
    x, w, y = (backend.asarray(random.standard_normal((side, side), np.float32)) for _ in range(3))
    bias = backend.zeros((1, side))
    for precision in ("full", "tf32", "bf16"):
        try:
            other = copy.copy(backend.with_precision(precision))
        except InputError as error:
            found[f"{precision}, TFLOP/s"] = str(error)
            continue
        other.gemm_rule = "blas"
        seconds = timed(backend, lambda o=other: o.dense(x, w, bias, None, y))
        found[f"{precision}, TFLOP/s"] = round(2 * side**3 / seconds / 1e12, 2)
    return found


def launches(backend: Any, count: int = NODES) -> Found:
    """Return what it costs to launch: nodes that do next to nothing, graphs of one, waiting for one, an event."""
    x, y = backend.zeros(1), backend.zeros(1)
    graphs = [captured(backend, lambda inner, n=n: [(inner.relu, (x, y))] * n) for n in (count, 1)]
    one = graphs[1]
    waits, event = [], backend.cupy.cuda.Event()
    for _ in range(50):
        begin = time.perf_counter()
        launch(one)
        backend.synchronize()
        waits.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    for _ in range(count):
        event.record()
    recorded = (time.perf_counter() - begin) / count
    return {
        "a node": in_us(timed(backend, lambda: launch(graphs[0])) / count),
        "a graph of one node": in_us(timed(backend, lambda: launch(one, count)) / count),
        "launch and wait, by the host's clock": in_us(statistics.median(waits)),
        "recording an event, by the host's clock": in_us(recorded),
    }


def captured(backend: Any, work: Callable[[Any], Any]) -> CapturedGraph:
    with backend.on_device():
        return CapturedGraph(backend, work, [])


def launch(graph: CapturedGraph, times: int = 1) -> None:
    """Launch a graph, as a recorded step does."""
    with graph._on_own_stream():
        for _ in range(times):
            graph._graph.launch(graph._stream)


def in_a_graph(backend: Any, call: Callable[[Any], Any]) -> float | str:
    """Return the us that a call takes the GPU as a node of a graph, or why it is none.

    Called from Python one by one, what takes the GPU less than some 10 us takes as long as Python does.

    Args:
        call: is given the graph's backend.
    """
    call(backend)
    with backend.timer() as timer:
        call(backend)
    times = min(REPEATED, max(1, int(SECONDS / 5 / max(timer.seconds, 1e-6))))
    try:
        graph = captured(backend, lambda inner: [(call, (inner,))] * times)
    except NotCaptured as reason:
        return str(reason)
    return in_us(timed(backend, lambda: launch(graph)) / times)


# ---- steps -----------------------------------------------------------------------------------------------------------


def nodes(backend: Any, rows: int, widths: tuple[int, ...]) -> Found:
    """Return a step's time as a graph and what each operation takes by itself, and the graph as CUDA describes it."""
    other = copy.copy(backend)
    other.persistent = False
    program = step_of(other, rows, widths)
    found: Found = {"way": program.description, "the step": in_us(timed(other, lambda: program.run(1)))}
    graph = getattr(getattr(program, "_graph", None), "_graph", None)
    if hasattr(graph, "debug_dot_str"):
        found["graph"] = graph.debug_dot_str()[:20_000]
    for place, (method, operands) in enumerate(bound(other, program.calls, program.calls)):
        shapes = " ".join("x".join(map(str, a.shape)) for a in operands if hasattr(a, "shape"))

        def call(inner: Any, place: int = place) -> None:
            again, same = bound(inner, program.calls, program.calls)[place]
            again(*same)

        found[f"{place}: {method.__name__} {shapes}"] = in_a_graph(other, call)
    return found


def step_of(backend: Any, rows: int, widths: tuple[int, ...]) -> Any:
    """Return a step of a network with ReLUs as a program that has run."""
    layers = [layer for a, b in pairwise(widths) for layer in (nnx.Dense(a, b), nnx.ReLU())]
    model = nnx.Sequential(*layers[:-1], nnx.Softmax(), backend=backend, seed=0)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(1e-3))
    random = np.random.default_rng(0)
    model.steps(random.standard_normal((rows, widths[0]), np.float32), random.integers(0, widths[-1], rows), 3)
    ((_, program),) = model._trainer._staged.values()  # type: ignore[union-attr]
    return program


def chosen(backend: Any, rows: int, widths: tuple[int, ...]) -> Found:
    """Return a step's time with the algorithms that cuBLASLt names first and with those that were timed, and these."""
    times: dict[bool, list[float]] = {}
    others, programs = {}, {}
    for tuned in (False, True):
        others[tuned] = copy.copy(backend)
        others[tuned].persistent, others[tuned].tuned = False, tuned
        begin = time.perf_counter()
        programs[tuned] = step_of(others[tuned], rows, widths)
        times[tuned] = [time.perf_counter() - begin]
    prepared = times[True].pop() - times[False].pop()
    for _ in range(2):  # by turns
        for tuned, program in programs.items():
            times[tuned].append(timed(backend, lambda p=program: p.run(1)))
    first, fastest = (min(times[tuned]) for tuned in (False, True))
    found: Found = {
        "the step, with cuBLASLt's first, in us": in_us(first),
        "the step, with the fastest, in us": in_us(fastest),
        "gain": round(first / fastest, 3),
        "timing them, or finding them in the file, in s": round(prepared, 3),
    }
    kept = others[True].choices()
    notes = kept.notes(1000) if kept is not None else [str(others[True].lt())]
    return found | {f"choice {place}" if place else "choices": note for place, note in enumerate(notes)}


# ---- products --------------------------------------------------------------------------------------------------------


def crossing(backend: Any) -> Found:
    """Return for square products the times of nnx's kernel and of cuBLAS: where they cross is what SMALL should be."""
    found: Found = {}
    for side in SIDES:
        product = Product(side, side, side, 0, 0, "float32", "full", NONE, (ALIGNED, ALIGNED, ALIGNED))
        found[f"{side}: {side**3:,}"] = proposals(backend, product, 1)
    return found


def candidates(backend: Any, rows: int, widths: tuple[int, ...]) -> Found:
    """Return for each product of a step the times of what cuBLASLt proposes, in its order, and of others."""
    found: Found = {}
    for inputs, outputs in dict.fromkeys(pairwise(widths)):
        for name, (m, n, k), ways, epilogue in (
            ("forward", (rows, outputs, inputs), (0, 0), RELU_BIAS),
            ("to inputs", (rows, inputs, outputs), (0, 1), NONE),
            ("to weights", (inputs, outputs, rows), (1, 0), BIAS_GRADIENT),
        ):
            for ending in dict.fromkeys((epilogue, NONE)):
                product = Product(m, n, k, *ways, "float32", "full", ending, (ALIGNED, ALIGNED, ALIGNED))
                found[f"{name}, {m} x {n} x {k}, epilogue {ending}"] = proposals(backend, product, CANDIDATES)
    return found


def proposals(backend: Any, product: Product, most: int) -> Found:
    """Return the times of cuBLASLt's first candidates for a product, of nnx's kernel, and of both called by Python.

    A candidate's is with the product's epilogue; the others have none. Two processes should name the same algorithms:
    the choices that are kept count on it.
    """
    m, n, k = product.m, product.n, product.k
    a = backend.zeros((k, m) if product.a_transposed else (m, k))
    b = backend.zeros((n, k) if product.b_transposed else (k, n))
    c, bias = backend.zeros((m, n)), backend.zeros((1, -(-n // WORD) * WORD))
    left, right = a.T if product.a_transposed else a, b.T if product.b_transposed else b
    operands = ("float32", left, right, c, None, 0)
    found: Found = {
        "nnx": in_a_graph(backend, lambda inner: inner.own_product(*operands)),
        "nnx, called": in_us(timed(backend, lambda: backend.own_product(*operands))),
        "cuBLAS, called": in_us(timed(backend, lambda: backend.blas_product(*operands))),
    }
    lt = backend.lt()
    if not isinstance(lt, Lt):
        return found | {"cuBLASLt": lt}
    try:
        plan = Plan(lt, replace(product, alignments=tuple(alignment(array.data.ptr) for array in (a, b, c))), most)
    except Exception as error:
        return found | {"cuBLASLt": str(error)}
    stream = backend.cupy.cuda.get_current_stream
    found["algorithms"] = " ".join(f"{number:08x}" for number in plan.fingerprints())
    for place in range(len(plan.proposals)):
        plan.take(place)
        room = backend.empty(max(1, plan.workspace), "uint8")
        addresses = [array.data.ptr for array in (a, b, c, bias, room)]
        try:
            found[f"candidate {place}"] = in_a_graph(backend, lambda _: plan.run(*addresses, stream().ptr))  # noqa: B023
        except Exception as error:
            found[f"candidate {place}"] = str(error)
    plan.close()
    return found
