# # A backend in 40 lines
#
# A backend says where arrays live and which implementation each operation takes. What it does not say has a default
# body, over its namespace `xp`. This one keeps NumPy's arrays, makes a dense layer's product by einsum, and counts
# them.

# +
import collections

import numpy as np

import nnx
from nnx.backends import Backend
from nnx.testing import check_backend


class Counting(Backend):
    """NumPy's arrays, a product of its own, and a count of its calls."""

    name, xp = "counting", np

    def __init__(self):
        super().__init__()
        self.calls = collections.Counter()

    def from_numpy(self, a):
        return a

    def to_numpy(self, a):
        return np.asarray(a)

    def owns(self, a):
        return isinstance(a, np.ndarray)

    def address(self, a):
        return a.__array_interface__["data"][0]

    def dense(self, x, w, b, activation=None, out=None):
        self.calls["dense"] += 1
        y = np.add(np.einsum("ni,io->no", x, w), b, out=out)
        return y if activation is None else getattr(self, activation)(y, out=y)


# -

# `check_backend` holds it to the protocol: every operation, in float32 and float64, on ugly numbers, against formulas
# in float64; the optimizers; recorded steps that are replayed. It raises `AssertionError` at the first thing that is
# wrong.

print(check_backend(Counting()))

# It is a backend like any other. Under the entry point `nnx.backends` of a distribution it is found by its name.

# +
backend = Counting()
x, y = nnx.datasets.spiral(samples=100, classes=3)
model = nnx.Sequential(nnx.Dense(2, 16), nnx.ReLU(), nnx.Dense(16, 3), nnx.Softmax(), backend=backend)
model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05)).fit(x, y, epochs=10, verbose=0)
print(backend.info().ops["dense"], backend.info().ops["softmax"], backend.calls["dense"])
