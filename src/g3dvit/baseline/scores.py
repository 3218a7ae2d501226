"""Accuracy over units: balanced, with interval and p-value only where there are enough.

A unit's accuracy is the mean over its classes of the share of its volumes decided rightly. Where
every unit has all classes, units are averaged. Where units have one class each (participants with
a diagnosis, blocks of two tasks), they are averaged within classes and then over classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from g3dvit.evaluate.units import FEWEST_FOR_INTERVAL, sign_flip_p


@dataclass(frozen=True, slots=True)
class OverUnits:
    """A mean over units.

    Parameters
    ----------
    mean, low, high
        Mean and 95 % interval from Student's t; NaN with fewer than 3 units (2 of each class).
    p
        Two-sided sign-flip p that the mean is the reference; NaN below 6 units.
    n_units
        How many.
    """

    mean: float
    low: float
    high: float
    p: float
    n_units: int


def over_units(
    values: NDArray[np.floating],
    labels: NDArray[np.intp],
    units: NDArray[np.str_],
    *,
    reference: float = 0.0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> OverUnits:
    """Average values over units, classes counting alike.

    Parameters
    ----------
    values : (n,)
        One per volume: 1 where decided rightly, or a difference of such.
    labels, units : (n,)
        Class and unit of each volume.
    reference
        Mean under the null of the p-value.
    bounds
        Where the interval is cut.
    """
    names = list(dict.fromkeys(units.tolist()))
    classes = np.unique(labels)
    table = np.full((len(names), len(classes)), np.nan)
    for row, name in enumerate(names):
        for column, label in enumerate(classes):
            mine = values[(units == name) & (labels == label)]
            if mine.size:
                table[row, column] = mine.mean()
    known = np.isfinite(table)
    # What each unit adds to the mean: classes count alike, or a decoder that always says the
    # commoner class would look better than chance.
    weight = len(names) / (len(classes) * known.sum(axis=0))
    flipped = np.where(known, (np.nan_to_num(table) - reference) * weight, 0).sum(axis=1)
    if known.all():
        own = table.mean(axis=1)
        mean, error, df = float(own.mean()), _error(own), len(own) - 1
        enough = len(own) >= FEWEST_FOR_INTERVAL
    else:
        columns = [column[np.isfinite(column)] for column in table.T]
        mean = float(np.mean([column.mean() for column in columns]))
        error = float(np.sqrt(np.sum([_error(c) ** 2 for c in columns])) / len(columns))
        df = min(len(column) for column in columns) - 1  # on the safe side of Welch
        enough = df >= 1 and len(names) >= FEWEST_FOR_INTERVAL
    p = sign_flip_p(flipped)
    if not enough:
        return OverUnits(mean, float("nan"), float("nan"), p, len(names))
    from scipy.stats import t

    half = float(t.ppf(0.975, df)) * error
    return OverUnits(mean, max(bounds[0], mean - half), min(bounds[1], mean + half), p, len(names))


def _error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
