"""Does a map lie where the answer was planted? Four numbers for maps with a known truth.

Terms: the *truth* is the set of voxels where something was planted; only voxels of the *mask*
(the brain) count. Maps are signed: positive values are evidence for the explained class, and
negative ones never count as found. Numpy only; nothing is thresholded or smoothed here, and no
number here says whether a map is significant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import GridError, InputError
from g3dvit.grids import ImageGrid

Side = Literal["left", "right", "none"]


@dataclass(frozen=True, slots=True)
class Localisation:
    """Where a map lies relative to the truth.

    Parameters
    ----------
    auc
        Area under the ROC curve of truth against the rest of the mask; 0.5 is chance.
    peak_mm : (3,)
        World coordinate of the largest value in the mask, in mm.
    peak_distance_mm
        From that peak to the nearest voxel of the truth, in mm; 0 inside it.
    mass_over_volume
        Share of the positive mass in the truth over the truth's share of the mask; 1 is chance.
    side
        Hemisphere with more positive mass per voxel; ``"none"`` where neither has more.
    truth_side
        Hemisphere of the truth.
    """

    auc: float
    peak_mm: tuple[float, float, float]
    peak_distance_mm: float
    mass_over_volume: float
    side: Side
    truth_side: Side

    @property
    def right_side(self) -> bool:
        """Whether the map lies in the hemisphere of the truth."""
        return self.side == self.truth_side and self.side != "none"


def localise(
    relevance: ArrayLike, truth: ArrayLike, mask: ArrayLike, grid: ImageGrid
) -> Localisation:
    """Compare a map with what was planted.

    Parameters
    ----------
    relevance, truth, mask : (i, j, k)
        The signed map, the planted voxels and the voxels that count.
    grid
        Where the voxels are.

    Raises
    ------
    GridError
        If the shapes differ.
    InputError
        If the truth or the rest of the mask is empty, or the map is not finite.
    """
    values, planted, inside = _checked(relevance, truth, mask)
    if values.shape != grid.shape:
        raise GridError(f"the map has {values.shape} voxels, its grid {grid.shape}")
    planted = planted & inside
    peak, distance = peak_distance_mm(values, planted, inside, grid)
    return Localisation(
        auc=roc_auc(values[inside], planted[inside]),
        peak_mm=peak,
        peak_distance_mm=distance,
        mass_over_volume=mass_over_volume(values, planted, inside),
        side=_side(side_shares(values, inside, grid)),
        truth_side=_side(side_shares(planted.astype(np.float64), inside, grid)),
    )


def roc_auc(values: ArrayLike, truth: ArrayLike) -> float:
    """Return the probability that a planted voxel has a larger value than another one.

    Ties count half, so a constant map has 0.5.

    Parameters
    ----------
    values, truth : (n,)
        Value and whether planted, per voxel.

    Raises
    ------
    InputError
        If all voxels are planted, or none.

    Examples
    --------
    >>> roc_auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    0.75
    """
    scores = np.asarray(values, dtype=np.float64).ravel()
    planted = np.asarray(truth, dtype=bool).ravel()
    n_planted = int(planted.sum())
    n_others = planted.size - n_planted
    if not n_planted or not n_others:
        raise InputError(
            f"an area under the curve needs planted and other voxels; {n_planted} of "
            f"{planted.size} are planted"
        )
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of equal values, from 1
    above = ranks[place][planted].sum() - n_planted * (n_planted + 1) / 2
    return float(above / (n_planted * n_others))


def peak_distance_mm(
    relevance: NDArray[np.float64],
    truth: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    grid: ImageGrid,
) -> tuple[tuple[float, float, float], float]:
    """Return the peak's coordinate and its distance to the truth, both in mm.

    Where several voxels share the largest value (a patch is flat inside), the peak is the one
    of them nearest to their common centre.
    """
    values = np.where(mask, relevance, -np.inf)
    highest = grid.vox2world(np.argwhere(values == values.max()))
    middle = highest.mean(axis=0)
    peak = highest[np.argmin(np.linalg.norm(highest - middle, axis=1))]
    apart = np.linalg.norm(grid.vox2world(np.argwhere(truth)) - peak, axis=1)
    return (float(peak[0]), float(peak[1]), float(peak[2])), float(apart.min())


def mass_over_volume(
    relevance: NDArray[np.float64], truth: NDArray[np.bool_], mask: NDArray[np.bool_]
) -> float:
    """Return the truth's share of the positive mass over its share of the mask's volume.

    A map without positive values has 0.
    """
    positive = np.where(mask, np.maximum(relevance, 0), 0)
    total = float(positive.sum())
    if total == 0:
        return 0.0
    volume_share = float((truth & mask).sum()) / float(mask.sum())
    return float(positive[truth & mask].sum()) / total / volume_share


def side_shares(
    relevance: NDArray[np.float64], mask: NDArray[np.bool_], grid: ImageGrid
) -> tuple[float, float]:
    """Return the mean positive value per voxel left (x < 0) and right (x > 0) of the midline."""
    x = grid.vox2world(np.argwhere(mask))[:, 0]
    positive = np.maximum(np.asarray(relevance, dtype=np.float64)[mask], 0)
    means = [float(positive[half].mean()) if half.any() else 0.0 for half in (x < 0, x > 0)]
    return means[0], means[1]


def _side(shares: tuple[float, float]) -> Side:
    left, right = shares
    if np.isclose(left, right, rtol=1e-9, atol=0):
        return "none"
    return "left" if left > right else "right"


def _checked(
    relevance: ArrayLike, truth: ArrayLike, mask: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    values = np.asarray(relevance, dtype=np.float64)
    planted = np.asarray(truth, dtype=bool)
    inside = np.asarray(mask, dtype=bool)
    if not values.shape == planted.shape == inside.shape:
        raise GridError(
            f"map {values.shape}, truth {planted.shape} and mask {inside.shape} must have the "
            "same shape; resample the map to the grid of the truth first"
        )
    if not (planted & inside).any():
        raise InputError("no voxel of the truth lies in the mask")
    if not np.isfinite(values[inside]).all():
        raise InputError("the map has values that are not finite inside the mask")
    return values, planted, inside
