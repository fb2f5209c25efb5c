# # A layer of your own, with `xp`
#
# `self.backend.xp` is the namespace of the backend's arrays: NumPy, or CuPy on a GPU. A layer that computes with it
# runs on either. This one looks at waves of its inputs: it learns frequencies w, and gives sin(x @ w) and cos(x @ w).

# +
import os

import numpy as np

import nnx

EPOCHS = int(os.environ.get("EPOCHS", "200"))


class Waves(nnx.Layer):
    """Sines and cosines of sums of the inputs, with frequencies that are learned."""

    def __init__(self, n_inputs, n_waves, scale=8.0):
        self.n_inputs, self.n_waves, self.scale = n_inputs, n_waves, scale
        self.shapes = {"frequencies": (n_inputs, n_waves)}

    def draw(self, random):
        """Return where training begins."""
        return {"frequencies": random.normal(0, self.scale, (self.n_inputs, self.n_waves))}

    def output_width(self, width):
        """Return how many numbers go out."""
        return 2 * self.n_waves

    def forward(self, inputs, training=False):
        """Return sines, then cosines: [N, 2 * n_waves]."""
        xp = self.backend.xp
        self.inputs = inputs
        angles = xp.matmul(inputs, self.parameter("frequencies"))
        self.output = xp.concat([xp.sin(angles), xp.cos(angles)], axis=1)
        return self.output

    def backward(self, dvalues):
        """Return the gradient of the inputs; the derivative of sin is cos, that of cos is -sin."""
        xp = self.backend.xp
        sines, cosines = self.output[:, : self.n_waves], self.output[:, self.n_waves :]
        dangles = dvalues[:, : self.n_waves] * cosines - dvalues[:, self.n_waves :] * sines
        self.gradient("frequencies")[...] = xp.matmul(self.inputs.T, dangles)
        self.dinputs = xp.matmul(dangles, self.parameter("frequencies").T)
        return self.dinputs


# -

# `gradcheck` compares `backward` with differences of `forward`, in float64.

# +
x = np.random.default_rng(0).uniform(-1, 1, (400, 1))
y = np.sin(12 * x) * x
error = nnx.gradcheck(Waves(2, 4), np.column_stack([x, y])[:10])
print(f"worst relative error of the gradients below 1e-6: {error < 1e-6}")

for first in ([Waves(1, 32)], [nnx.Dense(1, 64), nnx.Tanh()]):
    model = nnx.Sequential(*first, nnx.Dense(64, 1), seed=0)
    model.compile(nnx.MeanSquaredError(), nnx.Adam(0.01))
    model.fit(x, y, EPOCHS, batch_size=50, verbose=0)
    loss, as_written = model.evaluate(x, y)["loss"], model.eager_reason is not None
    print(f"{first[-1]}: mean squared error {loss:.5f}; steps run as written: {as_written}")
# -

# Steps with this layer run as they are written, which `model.eager_reason` says. docs/extending.md has the kinds of
# parts that are compiled.
