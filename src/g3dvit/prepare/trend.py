"""Voxel-wise polynomial trends and z-scores over a run, from running sums.

For every voxel y(t) is fitted by least squares with an orthonormal polynomial basis Q (T, d + 1):
the coefficients are Q' y and the residual sum of squares is y' y - |Q' y|^2. Both are sums over
time points, so that one pass over the run suffices and memory does not grow with T. Sums are
float64 and taken relative to the first volume, which keeps the difference accurate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import PreparationError
from g3dvit.prepare.base import FLAT, Brain
from g3dvit.volumes import Volume


def polynomial_basis(n_time_points: int, degree: int) -> NDArray[np.float64]:
    """Return orthonormal polynomials up to a degree, (time, degree + 1).

    Raises
    ------
    PreparationError
        If there are too few time points to leave a residual.
    """
    if n_time_points < degree + 2:
        raise PreparationError(
            f"a trend of degree {degree} needs a run of at least {degree + 2} volumes, this one "
            f"has {n_time_points}; standardise by volume instead"
        )
    time = np.linspace(-1, 1, n_time_points)
    return np.asarray(np.linalg.qr(np.polynomial.legendre.legvander(time, degree))[0])


@dataclass(frozen=True, slots=True, eq=False)
class FittedTrend:
    """The trend and the spread of every voxel of one run.

    Parameters
    ----------
    rows
        Row of the basis for each time point of the run.
    basis : (time, degree + 1)
        Orthonormal polynomials.
    offset : (i, j, k)
        The first volume.
    coefficients : (degree + 1, i, j, k)
        Of the polynomials, relative to `offset`.
    scale : (i, j, k)
        1 / standard deviation of the residual; 0 for voxels without one.
    """

    rows: dict[int, int]
    basis: NDArray[np.float64]
    offset: NDArray[np.float32]
    coefficients: NDArray[np.float64] = field(repr=False)
    scale: NDArray[np.float64] = field(repr=False)

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the z-scores of one volume of the run."""
        residual = np.subtract(volume.data, self.offset, dtype=np.float64)
        for weight, coefficient in zip(
            self.basis[self.rows[volume.time_point]], self.coefficients, strict=True
        ):
            residual -= weight * coefficient
        residual *= self.scale
        return volume.with_data(residual.astype(np.float32))


def fit_trend(
    volumes: Iterable[tuple[Volume, Brain]], time_points: Sequence[int], degree: int, ddof: int
) -> FittedTrend:
    """Fit the trend of every voxel in one pass over a run.

    Parameters
    ----------
    volumes
        All volumes of the run, in ascending time.
    time_points
        Their time points.
    degree
        Of the polynomial; 0 removes the mean alone.
    ddof
        The variance is the residual sum of squares over (T - ddof).
    """
    n_time_points = len(time_points)
    basis = polynomial_basis(n_time_points, degree)
    rows = {t: row for row, t in enumerate(time_points)}
    offset: NDArray[np.float32] | None = None
    for volume, _ in volumes:
        weights = basis[rows[volume.time_point]]
        if offset is None:
            offset = np.array(volume.data)
            coefficients = np.zeros((degree + 1, *offset.shape))
            squares = np.zeros(offset.shape)
        change = np.subtract(volume.data, offset, dtype=np.float64)
        for weight, coefficient in zip(weights, coefficients, strict=True):
            coefficient += weight * change
        squares += np.square(change)
    if offset is None:
        raise PreparationError("the run has no volumes")
    residual = np.maximum(squares - np.square(coefficients).sum(axis=0), 0)
    level = np.abs(offset) + np.sqrt(squares / n_time_points)
    deviation = np.sqrt(residual / (n_time_points - ddof))
    alive = deviation > FLAT * level
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=alive)
    return FittedTrend(rows, basis, offset, coefficients, scale)
