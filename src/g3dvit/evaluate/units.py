"""What is independent, and what may be concluded from how many: means, intervals and p-values.

The *unit* is the subject; with one subject the run, with one run the block. Volumes of a unit are
averaged first, because volumes one after another are no independent evidence. With fewer than 6
units no p-value is given: an exact sign-flip test of 5 units cannot go below .06. With one subject,
p-values are about further runs or blocks of that subject and never about people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import InputError

FEWEST_UNITS = 6
#: Fewest units for an interval: that of 2 is wider than anything it could be about.
FEWEST_FOR_INTERVAL = 3
_MOST_EXACT = 16  # units with all sign flips counted; more are drawn
_DRAWS = 9999
_BOOTSTRAP = 2000


@dataclass(frozen=True, slots=True)
class UnitMean:
    """A mean over units.

    Parameters
    ----------
    mean
        Mean of the units' means.
    low, high
        95 % interval from Student's t over units; NaN with fewer than 3.
    n_units, n_volumes
        How many.
    """

    mean: float
    low: float
    high: float
    n_units: int
    n_volumes: int


def unit_means(values: ArrayLike, units: Sequence[str]) -> NDArray[np.float64]:
    """Return the mean of each unit, in the order in which units first come up.

    Parameters
    ----------
    values : (volumes,)
        What is not finite is left out; a unit without finite values is left out too.
    units : (volumes,)
        Which unit each volume belongs to.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) != len(units):
        raise InputError(f"{x.shape} values do not fit {len(units)} units")
    name = np.asarray(units)
    means = []
    for unit in dict.fromkeys(units):
        mine = x[(name == unit) & np.isfinite(x)]
        if mine.size:
            means.append(mine.mean())
    return np.asarray(means, dtype=np.float64)


def summarise(
    values: ArrayLike,
    units: Sequence[str],
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> UnitMean:
    """Return mean and interval over units.

    Parameters
    ----------
    values, units : (volumes,)
        As in `unit_means`.
    bounds
        Between which values can lie; the interval is cut there.
    """
    from scipy.stats import t

    means = unit_means(values, units)
    n = len(means)
    counted = int(np.isfinite(np.asarray(values, dtype=np.float64)).sum())
    if n == 0:
        return UnitMean(np.nan, np.nan, np.nan, 0, 0)
    mean = float(means.mean())
    if n < FEWEST_FOR_INTERVAL:
        return UnitMean(mean, np.nan, np.nan, n, counted)
    half = float(t.ppf(0.975, n - 1) * means.std(ddof=1) / np.sqrt(n))
    low, high = max(bounds[0], mean - half), min(bounds[1], mean + half)
    return UnitMean(mean, low, high, n, counted)


def sign_flip_p(differences: ArrayLike, *, seed: int = 0) -> float:
    """Return the two-sided p-value that the mean of the differences is 0; NaN below 6 units.

    Under the null every difference is as likely as its opposite. All flips are counted up to 16
    units, and 9,999 drawn beyond.

    Parameters
    ----------
    differences : (units,)
        One per unit.
    seed
        Of the flips, where they are drawn.

    Examples
    --------
    >>> sign_flip_p([1, 2, 3, 4, 5, 6]), sign_flip_p([1, 2, 3])
    (0.03125, nan)
    """
    d = np.asarray(differences, dtype=np.float64)
    n = len(d)
    if n < FEWEST_UNITS:
        return float("nan")
    observed = abs(d.mean())
    if n <= _MOST_EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        null = np.abs(signs @ d) / n
        return float(np.mean(null >= observed - 1e-12))
    signs = np.random.default_rng(seed).choice([-1, 1], size=(_DRAWS, n))
    null = np.abs(signs @ d) / n
    return float((1 + np.sum(null >= observed - 1e-12)) / (_DRAWS + 1))


def ratio_interval(
    above: ArrayLike, below: ArrayLike, *, seed: int = 0
) -> tuple[float, float, float]:
    """Return the ratio of two means and its 95 % bootstrap interval over units.

    Parameters
    ----------
    above, below : (units,)
        Paired.
    seed
        Of the bootstrap.

    Returns
    -------
    ratio, low, high
        NaN where the mean below is not positive; no interval with fewer than 3 units.
    """
    a, b = np.asarray(above, np.float64), np.asarray(below, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError("a ratio of means needs paired units")
    if not len(a) or b.mean() <= 0:
        return (float("nan"),) * 3
    ratio = float(a.mean() / b.mean())
    if len(a) < FEWEST_FOR_INTERVAL:
        return ratio, float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(a), (_BOOTSTRAP, len(a)))
    tops, bottoms = a[drawn].mean(axis=1), b[drawn].mean(axis=1)
    ratios = tops[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return ratio, float(low), float(high)


def rank_p(value: float, null: ArrayLike) -> float:
    """Return the one-sided share of chance that does as well, counting the value itself.

    With 20 random orders it cannot be below 1 / 21 = .048.
    """
    chance = np.asarray(null, dtype=np.float64)
    return float((1 + np.sum(chance >= value)) / (1 + len(chance)))
