"""Normalization: reads its calls in a recorded step."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array, address, same
from nnx.backends.dataflow.buffers import Buffers
from nnx.backends.dataflow.nodes import Moments, Node, Step, Sum, Value
from nnx.backends.errors import NotReplayable


class NormCalls(Buffers):
    """Reads the calls of normalizing layers."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.moments: dict[int, Moments] = {}  # by the address of 1 / the standard deviations
        self.pooled: dict[int, Moments] = {}  # by the address of the means or spreads that are pooled

    def on_layer_norm(
        self, x: Array, gamma: Array, beta: Array, epsilon: float, normalized: Array, scales: Array, out: Array
    ) -> None:
        self.floats(gamma)
        self.floats(beta)
        inputs = self.read(x)
        results = self.write(out), self.write(normalized), self.write(scales)
        self.add("layer_norm", inputs, None, *results, weights=gamma, biases=beta, constants=(epsilon, 0.0))

    def on_layer_norm_backward(self, normalized: Array, scales: Array, gamma: Array, dy: Array, out: Array) -> None:
        self.floats(gamma)
        values, known = (self.read(normalized), self.read(dy)), self.read(scales)
        self.add("layer_norm_backward", *values, self.write(out), weights=gamma, z=known)

    def on_norm_gradients(self, normalized: Array, dy: Array, dgamma: Array, dbeta: Array) -> None:
        self.floats(dgamma)
        self.floats(dbeta)
        d, products = self.read(dy), Value(dy.shape[1])
        self.add("elementwise", self.read(normalized), d, products, kind="times")
        self.step.sums += [Sum(products, dgamma), Sum(d, dbeta)]
        self.touch_gradients()

    def on_batch_norm(
        self, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float, momentum: float,
        normalized: Array, scales: Array, out: Array,
    ) -> None:  # fmt: skip
        self.moments_of(x, (gamma, beta, mean, variance, scales), (epsilon, momentum), False)
        self.by_moments(x, gamma, beta, normalized, scales, out)

    def on_fixed_norm(
        self, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float, normalized: Array,
        scales: Array, out: Array,
    ) -> None:  # fmt: skip
        self.moments_of(x, (gamma, beta, mean, variance, scales), (epsilon, 0.0), True)
        self.by_moments(x, gamma, beta, normalized, scales, out)

    def moments_of(self, x: Array, arrays: tuple[Array, ...], constants: tuple[float, float], fixed: bool) -> None:
        """Note that the moments of each feature are computed, or taken from the running ones."""
        for a in arrays:
            self.floats(a)
        _, _, mean, variance, scales = arrays
        moments = self.moments[address(scales)] = Moments(x.shape[1])
        of = {"weights": mean, "biases": variance, "moments": moments}
        self.add("moments", self.read(x), constants=constants, details=(int(fixed),), whole=True, **of)

    def by_moments(self, x: Array, gamma: Array, beta: Array, normalized: Array, scales: Array, out: Array) -> None:
        inputs, of = self.read(x), {"weights": gamma, "biases": beta, "moments": self.moments[address(scales)]}
        self.add("batch_norm", inputs, None, self.write(out), self.write(normalized), **of)

    def on_batch_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, dgamma: Array, dbeta: Array, out: Array
    ) -> None:
        for a in (dgamma, dbeta):
            self.sum_now(a)
        self.backward_by_moments(normalized, scales, gamma, dy, (dgamma, dbeta), out, False)
        self.touch_gradients()

    def sum_now(self, a: Array) -> None:
        """Sum a gradient at once, and not at the end of the step."""
        sums = [one for one in self.step.sums if same(one.out, a)]
        if not sums and not any(node.op == "sum" and same(node.arrays[0], a) for node in self.step.nodes):
            raise NotReplayable(f"{self.call.name} reads gradients that no norm_gradients wrote before it")
        for one in sums:
            self.step.sums.remove(one)
            self.add("sum", one.d, arrays=(one.out,), whole=True)
            self.touch_gradients()

    def on_column_means(self, x: Array, means: Array) -> None:
        moments = self.pooled[address(means)] = Moments(x.shape[1], [means])
        self.add("means", self.read(x), moments=moments, whole=True)

    def on_column_spreads(self, x: Array, means: Array, spreads: Array) -> None:
        moments = self.pooled[address(spreads)] = self.pooled_at(means)
        moments.pooled.append(spreads)
        self.add("spreads", self.read(x), moments=moments, whole=True)

    def on_pooled_norm(
        self, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, means: Array, spreads: Array,
        rows: int, epsilon: float, momentum: float, normalized: Array, scales: Array, out: Array,
    ) -> None:  # fmt: skip
        for a in (gamma, beta, mean, variance, scales):
            self.floats(a)
        moments = self.moments[address(scales)] = self.pooled_at(spreads)
        of = {"weights": mean, "biases": variance, "moments": moments, "constants": (epsilon, momentum, float(rows))}
        self.add("pooled", self.read(x), whole=True, **of)
        self.by_moments(x, gamma, beta, normalized, scales, out)

    def pooled_at(self, a: Array) -> Moments:
        """The moments whose means or spreads, in this array, are pooled."""
        moments = self.pooled.get(address(a))
        if moments is None:
            raise NotReplayable(f"{self.call.name} reads moments that no column_means wrote before it")
        return moments

    def on_stop(self, pooled: list[Array], gradients: bool) -> None:
        """The host has something to do: it pools arrays with other processes, or reads the gradients so far."""
        for a in pooled:
            if address(a) not in self.pooled:
                self.sum_now(a)
        step = self.step
        there = (len(step.gradients), len(step.scatters), len(step.sums)) if gradients else ()
        moments = tuple(a for a in pooled if address(a) in self.pooled)
        stop = Node("stop", Value(0), details=there, pooled=moments)
        # Operations after the last gradient can wait, such as the gradient of a layer's inputs.
        at = len(step.nodes) if pooled else self.behind
        step.nodes.insert(at, stop)
        self.behind = at + 1

    def on_fixed_norm_backward(self, scales: Array, gamma: Array, dy: Array, out: Array) -> None:
        self.backward_by_moments(dy, scales, gamma, dy, (gamma, gamma), out, True)

    def backward_by_moments(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, sums: tuple[Array, Array], out: Array,
        fixed: bool,
    ) -> None:  # fmt: skip
        self.floats(gamma)
        moments = self.moments.get(address(scales))
        if moments is None:
            raise NotReplayable(f"{self.call.name} reads scales that no normalization wrote before it")
        values = self.read(normalized), self.read(dy)
        of = {"weights": gamma, "arrays": sums, "moments": moments, "details": (int(fixed),)}
        self.add("batch_norm_backward", *values, self.write(out), **of)
