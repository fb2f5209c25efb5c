"""The classes of *Neural Networks from Scratch* under their own names, running on nnx.

A script of the book runs unchanged once its class definitions and its imports of `nnfs` are replaced by

    from nnx import nnfs
    from nnx.nnfs import *
    from nnx.nnfs.datasets import spiral_data

`nnfs.init()` seeds NumPy's global generator as the book's does, and from then on the classes compute with the book's
rounding, so that weights, data, masks and printed figures are the book's. It replaces nothing in NumPy. The figures of
chapters 3 to 9 agree to the last digits printed. Training is chaotic: one bit in one weight shows in the third decimal
some hundred epochs later, so the later figures are similar to the book's, but their digits differ.
`nnfs.init(precision="fast")`, or no `init`, computes with nnx's fastest backend for the CPU instead, for speed. On a
GPU, use `nnx.Sequential`; `nnx.load` turns what `Model.save` wrote into one.

What differs from the book, on purpose:

- `Loss_MeanAbsoluteError` decreases in training: in the book its gradient has the wrong sign.
- One-hot labels may be of any type. The book negates them, so that unsigned ones wrap around.
- Nothing is broadcast: (N, 1) and (N,) count as the same, and other shapes that differ are an error. In the book they
  are broadcast to N x N, in losses and in accuracies.
- An accumulated accuracy counts every output, so it never exceeds 1.
- `Loss_CategoricalCrossentropy.backward` is finite at probability 0.
- A `Model` with fewer than two layers, without a loss, an optimizer or an accuracy that is needed, or that is not
  finalized, raises an error that says so.
- Labels out of range and targets that are not finite are errors; a negative label counts from the end in the book.
- `Model.save` and `save_parameters` write no pickles (nnx/nnfs/saving.py): loading runs no code. `save` needs
  safetensors: `pip install "nnx-backends[train]"`.
- `get_parameters` and `set_parameters` copy, so two models never share weights by accident.
- `Model.train` prints the same as in chapter 18 without a batch size, and the same as in chapters 19 to 22 with one.
- In fast precision `Model.train` replays its steps (nnx/nnfs/recorded.py). Dropout masks are then nnx's own, with a
  seed from NumPy's global generator: as random as the book's, but different.
- `init` warns if the script itself defines classes with the book's names, since then those are used.
- Your own calls of `np.random.randn` and `np.zeros` return float64, which layers round on assignment, so in chapter 6
  the last digit of a loss may differ.
"""

from nnx.nnfs.accuracy import Accuracy, Accuracy_Categorical, Accuracy_Regression
from nnx.nnfs.activations import (
    Activation_Linear,
    Activation_ReLU,
    Activation_Sigmoid,
    Activation_Softmax,
)
from nnx.nnfs.datasets import sine_data, spiral_data, vertical_data
from nnx.nnfs.layers import Layer_Dense, Layer_Dropout, Layer_Input
from nnx.nnfs.losses import (
    Activation_Softmax_Loss_CategoricalCrossentropy,
    Loss,
    Loss_BinaryCrossentropy,
    Loss_CategoricalCrossentropy,
    Loss_MeanAbsoluteError,
    Loss_MeanSquaredError,
)
from nnx.nnfs.model import Model
from nnx.nnfs.optimizers import Optimizer_Adagrad, Optimizer_Adam, Optimizer_RMSprop, Optimizer_SGD
from nnx.nnfs.precision import BookBackend, init

# As the notes spell them.
Loss_CategoricalCrossEntropy = Loss_CategoricalCrossentropy
Activation_Softmax_Loss_CategoricalCrossEntropy = Activation_Softmax_Loss_CategoricalCrossentropy

__all__ = [
    "Accuracy",
    "Accuracy_Categorical",
    "Accuracy_Regression",
    "Activation_Linear",
    "Activation_ReLU",
    "Activation_Sigmoid",
    "Activation_Softmax",
    "Activation_Softmax_Loss_CategoricalCrossEntropy",
    "Activation_Softmax_Loss_CategoricalCrossentropy",
    "BookBackend",
    "Layer_Dense",
    "Layer_Dropout",
    "Layer_Input",
    "Loss",
    "Loss_BinaryCrossentropy",
    "Loss_CategoricalCrossEntropy",
    "Loss_CategoricalCrossentropy",
    "Loss_MeanAbsoluteError",
    "Loss_MeanSquaredError",
    "Model",
    "Optimizer_Adagrad",
    "Optimizer_Adam",
    "Optimizer_RMSprop",
    "Optimizer_SGD",
    "init",
    "sine_data",
    "spiral_data",
    "vertical_data",
]
