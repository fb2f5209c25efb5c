"""Training steps and inference on every backend that works here: `make bench`.

The group of each figure is the network, so that pytest-benchmark lists the backends, and the notes' NumPy, together.
"""

import numpy as np
import pytest
from notes import Network
from step import NETWORKS, build

from nnx import backends

BACKENDS = backends.available()
STEPS = 20  # steps a call: what one call costs is not what a step costs


def batch(name):
    rows, widths = NETWORKS[name]
    random = np.random.default_rng(0)
    return random.standard_normal((rows, widths[0]), np.float32), random.integers(0, widths[-1], rows), widths


@pytest.fixture(params=BACKENDS)
def backend(request):
    if not BACKENDS[request.param]:
        pytest.skip(str(BACKENDS[request.param]))
    return request.param


@pytest.mark.parametrize("name", NETWORKS)
def test_step(benchmark, name, backend):
    x, y, widths = batch(name)
    benchmark.group = f"{STEPS} training steps, {name}, Adam"
    model = build(widths, backend)
    losses = benchmark(model.steps, x, y, STEPS)
    assert losses[-1] < losses[0] or losses[0] < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_step_of_the_notes(benchmark, name):
    x, y, widths = batch(name)
    benchmark.group = f"{STEPS} training steps, {name}, Adam"
    network = Network(widths, 0.001, 0.0)
    benchmark(lambda: [network.step(x, y) for _ in range(STEPS)])


@pytest.mark.parametrize("rows", [1, 1024])
@pytest.mark.parametrize("name", NETWORKS)
def test_predict(benchmark, name, rows, backend):
    widths = NETWORKS[name][1]
    benchmark.group = f"predict {rows} x {name}"
    model = build(widths, backend)
    outputs = benchmark(model.predict, np.random.default_rng(0).standard_normal((rows, widths[0]), np.float32))
    assert np.allclose(outputs.sum(axis=1), 1, atol=1e-5)
