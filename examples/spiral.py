# # The boundary of a spiral, as it is learned
#
# Three arms of 100 points each. The network colours the plane by what it would answer at each point. `fit` records
# its training step and replays it, so there is time to look at the boundary in between: one frame of a film each.

# +
import os

import matplotlib.animation
import matplotlib.pyplot as plt
import numpy as np

import nnx
from nnx.plots import class_colours

FRAMES = int(os.environ.get("FRAMES", "40"))
EPOCHS = 25  # between two frames

x, y = nnx.datasets.spiral(samples=100, classes=3)
model = nnx.Sequential(nnx.Dense(2, 64), nnx.ReLU(), nnx.Dense(64, 3), nnx.Softmax())
model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.02))
# -

# The plane is a batch of 150 x 150 points. A point's colour is the mean of the classes' colours, each with its
# probability.

# +
side = np.linspace(-1.1, 1.1, 150, dtype="float32")
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
colours = np.array([plt.matplotlib.colors.to_rgb(colour) for colour in class_colours(3)])

figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
axes.set(xticks=[], yticks=[])
picture = axes.imshow(np.ones((150, 150, 3)), extent=(-1.1, 1.1, -1.1, 1.1), origin="lower")
axes.scatter(*x.T, s=8, c=colours[y], edgecolors="black", linewidths=0.4)


def frame(number):
    """Train a little, except before the first frame, and paint what the network answers by then."""
    if number > 0:
        model.fit(x, y, epochs=EPOCHS, verbose=0)
    picture.set_data((0.4 + 0.6 * model.predict(plane) @ colours).clip(0, 1).reshape(150, 150, 3))
    axes.set_title(f"{number * EPOCHS} epochs: accuracy {model.evaluate(x, y)['accuracy']:.2f}")


# -

film = matplotlib.animation.FuncAnimation(figure, frame, frames=FRAMES, init_func=lambda: None)
film.save("spiral.gif", writer=matplotlib.animation.PillowWriter(fps=10))
plt.close(figure)
print(f"spiral.gif: {FRAMES} frames, accuracy at the end {model.evaluate(x, y)['accuracy']:.3f}")
