"""Random maps that are as smooth as a given map: what a map's place in the brain is compared with.

A map of the brain is smooth, so that its values at two neighbouring places are no two
observations. Shuffling them would make every smooth map look special. A *surrogate* is random, but
its *variogram* (half the mean squared difference of two values, as a function of the distance
between them) is that of the map. This module knows points and values, not images.

References
----------
Burt, Helmer, Shinn, Anticevic and Murray 2020, https://doi.org/10.1016/j.neuroimage.2020.117038
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import norm, rankdata

from g3dvit.errors import InputError

#: More points than this would need too much memory: all distances are held at once.
MAX_POINTS = 4000
_MAX_PAIRS = 100_000
_BINS = 25
_NEAR = 0.25  # share of the pairs that count, the nearest
#: Of the points, that smoothing reaches; finer at the small end than in the paper, since a map
#: of patches may be smooth over a handful of neighbours only.
_SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_BATCH = 64
_FEWEST = 20


@dataclass(frozen=True, slots=True, eq=False)
class Variogram:
    """Which pairs of points are compared, and how they count at each distance.

    Parameters
    ----------
    first, second : (pairs,)
        Indices of the points.
    distances_mm : (bins,)
        Where the variogram is taken.
    weights : (bins, pairs)
        Every bin's weights sum to 1.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    distances_mm: NDArray[np.float64]
    weights: NDArray[np.float32]

    def of(self, values: Float[np.ndarray, "points maps"]) -> NDArray[np.float64]:
        """Return half the mean squared difference at each distance, (bins, maps)."""
        half = 0.5 * (values[self.first] - values[self.second]) ** 2
        return np.asarray(self.weights @ half, dtype=np.float64)


def variogram_of_points(
    coordinates_mm: Float[np.ndarray, "points 3"], *, seed: int = 0
) -> Variogram:
    """Return the variogram of a set of points: near pairs, in Gaussian bins of distance.

    Parameters
    ----------
    coordinates_mm : (points, 3)
        Where the points are.
    seed
        Which pairs are taken where there are very many.

    Raises
    ------
    InputError
        If there are too few or too many points, or they coincide.
    """
    points = _check_points(coordinates_mm)
    return _variogram(cdist(points, points), np.random.default_rng([seed, 0]))


def variogram_surrogates(
    values: Float[np.ndarray, " points"],
    coordinates_mm: Float[np.ndarray, "points 3"],
    *,
    n_surrogates: int = 1000,
    seed: int = 0,
    match_values: bool = True,
) -> NDArray[np.float64]:
    """Return random maps with the variogram of a map.

    The values are shuffled, smoothed over shares of the points from a hundredth to nine tenths, and
    the share is taken whose variogram, scaled and with white noise added, comes closest to that of
    the map.

    Parameters
    ----------
    values : (points,)
        The map, in any unit; finite.
    coordinates_mm : (points, 3)
        Where its values are.
    n_surrogates
        How many.
    seed
        Of all randomness.
    match_values
        True gives every surrogate exactly the values of the map, in an order whose normal scores
        have the variogram of the map's normal scores; False matches the variogram of the values.

    Returns
    -------
    (n_surrogates, points)
        In units of `values`.

    Raises
    ------
    InputError
        If the values are constant or not finite, or there are fewer than 20 points or more than
        `MAX_POINTS`.

    References
    ----------
    Burt et al. 2020, equations 1 to 4, https://doi.org/10.1016/j.neuroimage.2020.117038

    Examples
    --------
    >>> points = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
    >>> variogram_surrogates(points.sum(axis=1), points, n_surrogates=2).shape
    (2, 64)
    """
    points = _check_points(coordinates_mm)
    given = np.asarray(values, dtype=np.float64)
    if given.shape != (len(points),):
        raise InputError(f"{given.shape} values do not fit {len(points)} points; give one a point")
    if not np.isfinite(given).all() or np.ptp(given) == 0:
        raise InputError("surrogates need finite values that are not all the same")
    if n_surrogates < 1:
        raise InputError(f"`n_surrogates` is at least 1, was given {n_surrogates}")
    if seed < 0:
        raise InputError(f"a seed is a whole number from 0 on, was given {seed}")
    # In units of its own spread, so that no map is too small or too large for float32.
    standard = (given - given.mean()) / given.std()
    if match_values:
        # The order of the map is matched, as normal scores: maps of relevance have few large
        # values, whose variogram smoothing of shuffled values cannot reach.
        standard = norm.ppf((rankdata(given) - 0.5) / len(given))
        standard /= standard.std()
    distances = cdist(points, points)
    variogram = _variogram(distances, np.random.default_rng([seed, 0]))
    aim = variogram.of(standard[:, None])[:, 0]
    smoothers = [_smoother(distances, share) for share in _SHARES]
    rng = np.random.default_rng([seed, 1])
    made = [
        _batch(standard, min(_BATCH, n_surrogates - start), smoothers, variogram, aim, rng)
        for start in range(0, n_surrogates, _BATCH)
    ]
    maps = np.concatenate(made, axis=1).T
    if not match_values:
        return np.asarray(given.mean() + given.std() * maps)
    ranked = np.empty_like(maps)
    np.put_along_axis(ranked, maps.argsort(axis=1), np.sort(given)[None], axis=1)
    return ranked


def two_sided_p(observed: float, null: NDArray[np.float64]) -> float:
    """Return how often a surrogate is as extreme, (1 + count) / (1 + surrogates).

    The observed value is one of the possible ones, so that no p is 0 (Phipson and Smyth 2010,
    https://doi.org/10.2202/1544-6115.1585). Both tails are compared with the middle of the null.
    """
    middle = float(np.median(null))
    extreme = np.abs(null - middle) >= abs(observed - middle) * (1 - 1e-12)
    return float((1 + extreme.sum()) / (1 + len(null)))


def _batch(
    standard: NDArray[np.float64],
    count: int,
    smoothers: list[NDArray[np.float32]],
    variogram: Variogram,
    aim: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return some surrogates, (points, count)."""
    shuffled = np.stack([rng.permutation(standard) for _ in range(count)], axis=1)
    noise = rng.standard_normal(shuffled.shape)
    best = np.full(count, np.inf)
    found = np.empty_like(shuffled)
    for smoother in smoothers:
        smooth = smoother @ shuffled.astype(np.float32)
        own = variogram.of(smooth)
        slope, intercept, error = _fit(own, aim)
        better = error < best
        best[better] = error[better]
        mixed = np.sqrt(slope) * smooth + np.sqrt(intercept) * noise
        found[:, better] = mixed[:, better]
    return found


def _fit(
    own: NDArray[np.float64], aim: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit ``aim = slope * own + intercept`` for each column; return both and the squared error.

    Both are variances and so not negative. (The paper takes the magnitude of negative ones, which
    makes very smooth maps too rough.)
    """
    x, y = own - own.mean(axis=0), aim - aim.mean()
    slope = (x * y[:, None]).sum(axis=0) / np.maximum((x**2).sum(axis=0), 1e-30)
    through_zero = (own * aim[:, None]).sum(axis=0) / np.maximum((own**2).sum(axis=0), 1e-30)
    slope = np.where(aim.mean() < slope * own.mean(axis=0), through_zero, np.maximum(slope, 0))
    intercept = np.maximum(aim.mean() - slope * own.mean(axis=0), 0)
    intercept = np.where(slope == through_zero, 0, intercept)
    error = ((slope * own + intercept - aim[:, None]) ** 2).sum(axis=0)
    return slope, intercept, error


def _smoother(distances: NDArray[np.float64], share: float) -> NDArray[np.float32]:
    """Return a matrix that averages over a share of the points, near ones more, (points, points).

    Weights fall off exponentially, to 1/e at the farthest point that is reached.
    """
    reach = max(2, round(share * len(distances)))
    farthest = np.partition(distances, reach - 1, axis=1)[:, reach - 1 : reach]
    weights = np.where(distances <= farthest, np.exp(-distances / farthest), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _variogram(distances: NDArray[np.float64], rng: np.random.Generator) -> Variogram:
    first, second = np.triu_indices(len(distances), 1)
    apart = distances[first, second]
    near = np.flatnonzero(apart <= np.quantile(apart, _NEAR))
    if len(near) > _MAX_PAIRS:
        near = rng.choice(near, _MAX_PAIRS, replace=False)
    first, second, apart = first[near], second[near], apart[near]
    centres = np.linspace(apart.min(), apart.max(), _BINS)
    width = max(centres[1] - centres[0], 1e-9)
    weights = np.exp(-((centres[:, None] - apart[None]) ** 2) / (2 * width**2))
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
    return Variogram(first, second, centres, weights.astype(np.float32))


def _check_points(coordinates_mm: Float[np.ndarray, "points 3"]) -> NDArray[np.float64]:
    points = np.asarray(coordinates_mm, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"coordinates are finite and (points, 3), were given {points.shape}")
    if not _FEWEST <= len(points) <= MAX_POINTS:
        raise InputError(
            f"surrogates need {_FEWEST} to {MAX_POINTS} points, were given {len(points)}; "
            "average a finer map over blocks first"
        )
    if len(np.unique(points, axis=0)) < len(points):
        raise InputError("two points lie at the same place")
    return points
