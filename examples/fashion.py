# # Clothes, and what is misread of them
#
# Fashion-MNIST has 70,000 pictures of ten kinds of clothes, each of 28 x 28 numbers. `nnx.datasets` downloads it
# once; where the files lie already, `NNX_DATA` names the folder that holds `fashion-mnist/`. A network of two hidden
# layers learns it, and a picture shows its mistakes.

# +
import os

import numpy as np

import nnx
from nnx import callbacks, plots, schedules

EPOCHS = int(os.environ.get("EPOCHS", "20"))
NAMES = ["T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]

x, y, x_test, y_test = nnx.datasets.fashion_mnist()
print(x.shape, x_test.shape, x.min(), x.max())
# -

# Every twelfth picture of the training set is held out, to see how it goes. The last 5,000 would do only where the
# rows are mixed; copies of the set that are sorted by class are about. The test set is for the end.

# +
held = np.arange(len(x)) % 12 == 0
model = nnx.Sequential(
    nnx.Dense(784, 256), nnx.ReLU(), nnx.Dropout(0.2),
    nnx.Dense(256, 128), nnx.ReLU(), nnx.Dropout(0.2),
    nnx.Dense(128, 10), nnx.Softmax(),
)  # fmt: skip
model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.001))
history = model.fit(
    x[~held], y[~held], EPOCHS, batch_size=128, validation_data=(x[held], y[held]),
    callbacks=[callbacks.LearningRateSchedule(schedules.cosine(0.001, EPOCHS))],
)  # fmt: skip
# -

accuracy = model.evaluate(x_test, y_test)["accuracy"]
print(f"test accuracy {accuracy:.4f}")

# The surest mistakes come first: a shirt read as a T-shirt is one that people make as well.

# +
panel = plots.images(x_test, y_test, model.predict(x_test), shape=(28, 28), names=NAMES)
figure = plots.compose("Fashion-MNIST", f"test accuracy {accuracy:.1%}", history, panel, held_out="held out")
plots.save(figure, "fashion.png")
