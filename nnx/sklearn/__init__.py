"""Networks as scikit-learn estimators, for its pipelines, searches and scores, under MLPClassifier's names too.

Inputs are taken as they are: put a scaler in front, as in `make_pipeline(StandardScaler(), NNClassifier())`.
"""

from __future__ import annotations

from nnx.errors import MissingExtra

try:
    import sklearn  # noqa: F401
except Exception as error:
    raise MissingExtra("sklearn", "sklearn", "nnx.sklearn", error) from error

from nnx.sklearn.classifier import NNClassifier
from nnx.sklearn.regressor import NNRegressor

__all__ = ["NNClassifier", "NNRegressor"]
