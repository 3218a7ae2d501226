"""How alike maps are: rank correlation, intraclass correlation, smoothness. Numpy only.

*ICC(2,1)* is the intraclass correlation of single measurements, for absolute agreement, when both
patches and models are random: the share of the variance that is due to the patches.

References
----------
Shrout and Fleiss 1979, Intraclass correlations, https://doi.org/10.1037/0033-2909.86.2.420
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.diagnose import spearman as rank_correlation
from g3dvit.errors import InputError


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation; NaN where one of both is constant.

    Parameters
    ----------
    a, b : (n,)
        Values; pairs with one that is not finite are left out.
    """
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if x.shape != y.shape:
        raise InputError(f"a correlation needs pairs, was given {x.size} and {y.size} values")
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return rank_correlation(x, y)


def icc_2_1(ratings: ArrayLike) -> float:
    """Return ICC(2,1); NaN where nothing varies.

    Parameters
    ----------
    ratings : (targets, raters)
        For maps: patches and models.

    Raises
    ------
    InputError
        If there are not two targets and two raters, or a value is not finite.

    Examples
    --------
    >>> round(icc_2_1([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8],
    ...                [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]), 2)
    0.29
    """
    x = np.asarray(ratings, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise InputError(
            f"an intraclass correlation needs finite values (targets, raters), two of each at "
            f"least; was given {x.shape}"
        )
    n, k = x.shape
    rows, columns, mean = x.mean(axis=1), x.mean(axis=0), x.mean()
    between_rows = k * ((rows - mean) ** 2).sum() / (n - 1)
    between_columns = n * ((columns - mean) ** 2).sum() / (k - 1)
    rest = ((x - rows[:, None] - columns + mean) ** 2).sum() / ((n - 1) * (k - 1))
    below = between_rows + (k - 1) * rest + k * (between_columns - rest) / n
    return float((between_rows - rest) / below) if below > 0 else float("nan")


def neighbour_correlation(values: ArrayLike, mask: ArrayLike) -> float:
    """Return the correlation of face neighbours inside a mask; 0 where it cannot be told.

    Parameters
    ----------
    values, mask : (gi, gj, gk)
        A map on the patch grid, and the patches that count.
    """
    x, inside = np.asarray(values, np.float64), np.asarray(mask, bool)
    left: list[NDArray[np.float64]] = []
    right: list[NDArray[np.float64]] = []
    for axis in range(3):
        a, b = np.moveaxis(x, axis, 0)[:-1], np.moveaxis(x, axis, 0)[1:]
        m = np.moveaxis(inside, axis, 0)
        both = m[:-1] & m[1:]
        left.append(a[both])
        right.append(b[both])
    # Every pair in both orders, so that both sides have the same mean and spread.
    first, second = np.concatenate([*left, *right]), np.concatenate([*right, *left])
    if len(first) < 4 or np.ptp(first) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
