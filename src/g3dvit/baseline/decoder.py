"""A linear decoder: standardised voxels and logistic regression, the penalty chosen inside.

There are far more voxels than volumes, so it is fitted in the space of the volumes: with an L2
penalty the weights are a combination of the training volumes, and the result is the same as with
all voxels, to rounding.

The *pattern* of Haufe et al. is ``Cov(X) w``, here as the covariance of each voxel with the
decoder's decision over the training volumes (which is the same), divided by the standard deviation
of the decision, so that folds count alike: signal per standard deviation of the decision. The
weights themselves must not be read as places: a voxel without any signal gets weight where it
takes noise away from others.

References
----------
Haufe et al. 2014, https://doi.org/10.1016/j.neuroimage.2013.10.067
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from g3dvit.train.report import balanced_accuracy
from g3dvit.train.split import Fold

Array = NDArray[np.floating]
#: Values of C times the number of features among which is chosen.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
DEFAULT_STRENGTH = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A fitted decoder.

    Parameters
    ----------
    mean, scale : (features,)
        Of the training volumes; features that do not vary have scale 1.
    weights : (features, decisions)
        Of standardised features; one decision with two classes (positive is the second).
    bias : (decisions,)
        Added.
    strength
        C times the number of features.
    """

    mean: Array = field(repr=False)
    scale: Array = field(repr=False)
    weights: Array = field(repr=False)
    bias: Array = field(repr=False)
    strength: float

    def decide(self, x: Array) -> NDArray[np.float64]:
        """Return decisions (n, decisions) for features (n, features)."""
        return np.asarray(((x - self.mean) / self.scale) @ self.weights + self.bias, np.float64)


def classes_of(decisions: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the class index of every row of decisions."""
    if decisions.shape[1] == 1:
        return np.asarray(decisions[:, 0] > 0, dtype=np.intp)
    return np.asarray(decisions.argmax(axis=1), dtype=np.intp)


def fit_decoder(x: Array, labels: NDArray[np.intp], strength: float = DEFAULT_STRENGTH) -> Linear:
    """Fit standardisation and balanced logistic regression.

    Parameters
    ----------
    x : (n, features)
        Training volumes only.
    labels : (n,)
        Class indices from 0.
    strength
        C times the number of features.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean = x.mean(axis=0, dtype=np.float64)
    scale = x.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-7 * max(1e-30, float(scale.max(initial=0))), scale, 1.0)
    z = (x - mean) / scale
    values, vectors = np.linalg.eigh(z @ z.T)
    kept = values > 1e-10 * values[-1]
    root = np.sqrt(values[kept])
    model = LogisticRegression(
        C=strength / x.shape[1], class_weight="balanced", max_iter=2000, tol=1e-6
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(vectors[:, kept] * root, labels)
    weights = z.T @ (vectors[:, kept] / root @ model.coef_.T)
    return Linear(mean, scale, weights, np.asarray(model.intercept_), strength)


def choose_strength(
    x: Array,
    labels: NDArray[np.intp],
    inner: Sequence[Fold],
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """Return the strength with the best balanced accuracy on folds within the training volumes.

    Parameters
    ----------
    x, labels
        As in `fit_decoder`.
    inner
        Folds whose indices count within `x`; without any, the default is returned.
    strengths
        Among which is chosen; of equally good ones the smallest.
    """
    if not inner:
        return DEFAULT_STRENGTH
    found = []
    for strength in strengths:
        scores = []
        for fold in inner:
            model = fit_decoder(x[fold.train], labels[fold.train], strength)
            answer = classes_of(model.decide(x[fold.test]))
            scores.append(balanced_accuracy(labels[fold.test], answer))
        found.append(float(np.mean(scores)))
    return float(strengths[int(np.argmax(np.round(found, 6)))])


class PatternSum:
    """Covariances of voxels with decisions, part after part.

    Parameters
    ----------
    decisions : (n, decisions)
        Of all volumes that will be added.
    """

    def __init__(self, decisions: NDArray[np.float64]) -> None:
        self._away = decisions - decisions.mean(axis=0)
        self._sd = decisions.std(axis=0, ddof=1)
        self._done = 0
        self._sum: NDArray[np.float64] | float = 0.0

    def add(self, x: Array) -> None:
        """Take the next volumes (n, voxels) into account."""
        part = self._away[self._done : self._done + len(x)]
        self._sum = self._sum + part.T @ x.astype(np.float64)
        self._done += len(x)

    def pattern(self) -> NDArray[np.float64]:
        """Return (decisions, voxels): covariance over the decision's standard deviation."""
        below = (len(self._away) - 1) * np.where(self._sd > 0, self._sd, 1.0)
        return np.asarray(self._sum / below[:, None], dtype=np.float64)
