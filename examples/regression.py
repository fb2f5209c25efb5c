# # A regression, and what is left of it
#
# How far has diabetes gone after a year? scikit-learn brings ten measurements each of 442 patients. The network
# predicts the number; what it leaves, true minus predicted, shows whether there is more to learn.

# +
import os

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import nnx
from nnx import callbacks, plots

EPOCHS = int(os.environ.get("EPOCHS", "300"))

x, y = load_diabetes(return_X_y=True)
x, x_test, y, y_test = train_test_split(x, y[:, None], test_size=0.25, random_state=0)
# -

# A network learns best where all numbers are about as large as 1. Mean and spread are those of the training data: the
# test set must not take part in anything.

# +
centre, spread = x.mean(axis=0), x.std(axis=0)
x, x_test = (x - centre) / spread, (x_test - centre) / spread
low, height = y.mean(), y.std()

layers = nnx.Dense(10, 32, weight_l2=1e-3), nnx.Tanh(), nnx.Dense(32, 1, weight_l2=1e-3)
model = nnx.Sequential(*layers)
model.compile(nnx.MeanSquaredError(), nnx.Adam(0.003))
stop = callbacks.EarlyStopping(patience=30)
history = model.fit(x, (y - low) / height, EPOCHS, batch_size=32, validation_split=0.2, callbacks=[stop], verbose=0)
# -

# Both errors are in the units of the data. The first is that of always saying the mean.

# +
predicted = model.predict(x_test) * height + low
always = np.sqrt(np.mean((y_test - low) ** 2))
error = np.sqrt(np.mean((y_test - predicted) ** 2))
print(f"{len(history['loss'])} epochs; root mean squared error {error:.1f}, of the mean {always:.1f}")

panel = plots.regression(predicted, y_test, "progression")
figure = plots.compose("Diabetes", f"error {error:.1f}", history, panel, held_out="held out")
plots.save(figure, "regression.png")
