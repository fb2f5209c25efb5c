"""One training step of nnx against the notes' own NumPy: the same network, data, precision and threads, in one run.

    python bench/step.py [--backend numpy] [--rounds 40]

Rounds of both alternate; printed are the medians and the best of them, and the ratio of each.
"""

import argparse
import statistics
import time
from itertools import pairwise

import numpy as np
from notes import Network

import nnx

NETWORKS = {  # name: batch, widths
    "300x2-64-3": (300, (2, 64, 3)),
    "128x64-128-64-10": (128, (64, 128, 64, 10)),
    "128x784-512-512-10": (128, (784, 512, 512, 10)),
}


def build(widths: tuple[int, ...], backend: str) -> nnx.Sequential:
    layers: list[nnx.Layer] = []
    for n_inputs, n_neurons in pairwise(widths):
        layers += [nnx.Dense(n_inputs, n_neurons), nnx.ReLU()]
    model = nnx.Sequential(*layers[:-1], nnx.Softmax(), backend=backend)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.001))
    return model


def seconds(run, steps: int) -> float:
    begin = time.perf_counter()
    run(steps)
    return (time.perf_counter() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    print(f"{'':20}  {'notes':>15}  {'nnx ' + options.backend:>15}  ratio of medians, of bests")
    for name, (batch, widths) in NETWORKS.items():
        random = np.random.default_rng(0)
        x, y = random.standard_normal((batch, widths[0]), np.float32), random.integers(0, widths[-1], batch)
        model, notes = build(widths, options.backend), Network(widths, 0.001, 0.0)
        for number, dense in enumerate(notes.dense):
            dense.weights[...] = model.backend.to_numpy(model.parameters()[f"{2 * number}.weights"])

        def run_notes(steps: int, notes=notes, x=x, y=y) -> None:
            for _ in range(steps):
                notes.step(x, y)

        def run_nnx(steps: int, model=model, x=x, y=y) -> None:
            model.steps(x, y, steps)

        agree = np.allclose(model.steps(x, y, 3), [notes.step(x, y)[0] for _ in range(3)], rtol=1e-4)
        if not agree:
            raise SystemExit(f"{name}: the losses differ; no figures")
        steps = max(3, int(0.02 / seconds(run_notes, 3)))
        run_nnx(steps)
        rounds = [(seconds(run_notes, steps), seconds(run_nnx, steps)) for _ in range(options.rounds)]
        a, b = zip(*rounds, strict=True)
        columns = [f"{statistics.median(t) * 1e6:7.1f} ({min(t) * 1e6:.1f})" for t in (a, b)]
        ratios = statistics.median(a) / statistics.median(b), min(a) / min(b)
        print(f"{name:20}  {columns[0]:>15}  {columns[1]:>15}  {ratios[0]:.2f}x, {ratios[1]:.2f}x")
    print("us a step: median (best)")


if __name__ == "__main__":
    main()
