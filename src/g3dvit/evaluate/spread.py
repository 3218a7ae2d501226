"""How far a map spreads a change that happened in one place: its point spread, in mm.

A small piece of a volume is replaced, and the map's change |after - before| is averaged over
voxels by their distance from that place, and over places. The *width* is twice the distance at
which this profile has fallen to half of its largest value. It is measured and not taken to be the
patch's edge: attention carries a change elsewhere, and a voxel map can be finer than a patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid

_FEWEST_PLACES = 6
_BOOTSTRAP = 500


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Mean change by distance.

    Parameters
    ----------
    distance_mm : (bins,)
        Middle of each bin.
    change : (bins,)
        Mean |change|, where each place counts the same; NaN where a bin holds no voxel.
    """

    distance_mm: NDArray[np.float64]
    change: NDArray[np.float64] = field(repr=False)

    @property
    def width_mm(self) -> float:
        """Full width at half maximum, in mm; infinite where half is never reached."""
        return half_width_mm(self.distance_mm, self.change)

    @property
    def far_share(self) -> float:
        """Mean change in the outer half of the distances over the largest change."""
        outer = self.change[len(self.change) // 2 :]
        top = float(np.nanmax(self.change))
        return float(np.nanmean(outer) / top) if top > 0 else float("nan")


def distance_bins(reach_mm: float, step_mm: float) -> NDArray[np.float64]:
    """Return the edges of bins of equal width from 0 to at least `reach_mm`."""
    if not 0 < step_mm < reach_mm:
        raise InputError(f"bins of {step_mm} mm do not divide {reach_mm} mm")
    return np.arange(0.0, reach_mm + step_mm, step_mm)


def change_by_distance(
    change: ArrayLike, centre_mm: ArrayLike, grid: ImageGrid, edges: ArrayLike
) -> NDArray[np.float64]:
    """Return the mean |change| of each distance bin, as a share of all |change|.

    Parameters
    ----------
    change : (i, j, k)
        A map after less the same map before.
    centre_mm : (3,)
        Where the volume was changed.
    grid
        Of the map.
    edges : (bins + 1,)
        Distances in mm.

    Returns
    -------
    (bins,)
        NaN where no voxel lies at that distance, and everywhere where nothing changed.
    """
    size = np.abs(np.asarray(change, dtype=np.float64))
    if size.shape != grid.shape:
        raise InputError(f"a change of {size.shape} voxels does not fit a grid of {grid.shape}")
    ijk = np.indices(grid.shape).reshape(3, -1).T
    apart = np.linalg.norm(grid.vox2world(ijk) - np.asarray(centre_mm, np.float64), axis=1)
    bins = np.asarray(edges, dtype=np.float64)
    place = np.digitize(apart, bins) - 1
    inside = (place >= 0) & (place < len(bins) - 1)
    count = np.bincount(place[inside], minlength=len(bins) - 1)
    total = np.bincount(place[inside], size.ravel()[inside], minlength=len(bins) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count / size.sum())


def half_width_mm(distance_mm: ArrayLike, change: ArrayLike) -> float:
    """Return twice the distance at which a profile has fallen to half of its maximum.

    Between bins it is interpolated; beyond the last bin it is infinite.

    Examples
    --------
    >>> half_width_mm([1, 3, 5, 7], [4.0, 4.0, 2.0, 0.0])
    10.0
    """
    r, y = np.asarray(distance_mm, np.float64), np.asarray(change, np.float64)
    known = np.isfinite(y)
    r, y = r[known], y[known]
    if not len(y) or y.max() <= 0:
        return float("nan")
    top = int(y.argmax())
    half = y[top] / 2
    for n in range(top + 1, len(y)):
        if y[n] <= half:
            part = (y[n - 1] - half) / (y[n - 1] - y[n])
            return float(2 * (r[n - 1] + part * (r[n] - r[n - 1])))
    return float("inf")


def mean_profile(changes: ArrayLike, edges: ArrayLike) -> Profile:
    """Return the profile over places, (places, bins) from `change_by_distance`."""
    rows = np.atleast_2d(np.asarray(changes, dtype=np.float64))
    bins = np.asarray(edges, dtype=np.float64)
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0).sum(axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Profile((bins[1:] + bins[:-1]) / 2, mean)


def width_interval(changes: ArrayLike, edges: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the width over places; NaN with fewer than 6.

    Parameters
    ----------
    changes : (places, bins)
        From `change_by_distance`.
    edges : (bins + 1,)
        Distances in mm.
    seed
        Of the bootstrap.
    """
    rows = np.atleast_2d(np.asarray(changes, dtype=np.float64))
    n = len(rows)
    if n < _FEWEST_PLACES:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, n, (_BOOTSTRAP, n))
    widths = [mean_profile(rows[one], edges).width_mm for one in drawn]
    low, high = np.percentile(widths, [2.5, 97.5], method="nearest")  # some may be infinite
    return float(low), float(high)
