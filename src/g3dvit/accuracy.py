"""Whether a model is better than chance: without that its maps show nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from g3dvit.checks import Check
from g3dvit.errors import InputError


def balanced_accuracy(
    n_correct: Sequence[float], n_total: Sequence[float], *, z: float = 1.959964
) -> tuple[float, float, float]:
    """Return the balanced accuracy and its interval.

    Parameters
    ----------
    n_correct, n_total : (classes,)
        Correct and all held-out units of each class.
    z
        Normal quantile; 1.96 for 95 %.

    Returns
    -------
    accuracy, low, high
        Mean recall over classes, and Wilson's intervals of the recalls combined by their
        distances from the estimates.

    References
    ----------
    Zou and Donner 2008, https://doi.org/10.1002/sim.3095

    Examples
    --------
    >>> accuracy, low, high = balanced_accuracy([18, 15], [20, 20])
    >>> round(accuracy, 3), round(low, 3), round(high, 3)
    (0.825, 0.676, 0.903)
    """
    k, n = np.asarray(n_correct, np.float64), np.asarray(n_total, np.float64)
    if k.shape != n.shape or k.ndim != 1 or not len(k) or (n <= 0).any() or (k > n).any():
        raise InputError(
            f"`n_correct` {n_correct} and `n_total` {n_total} must be counts of the same classes, "
            "each with at least one unit"
        )
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = centre - half, centre + half
    accuracy, count = float(p.mean()), len(p)
    below = math.sqrt(float(((p - low) ** 2).sum())) / count
    above = math.sqrt(float(((high - p) ** 2).sum())) / count
    return accuracy, max(0.0, accuracy - below), min(1.0, accuracy + above)


def model_at_chance(
    predictions: Sequence[int] | None,
    labels: Sequence[int | None] | None,
    *,
    num_classes: int = 2,
    units: Sequence[Any] | None = None,
) -> Check:
    """Judge whether a model is better than chance on held-out volumes.

    Parameters
    ----------
    predictions, labels : (volumes,)
        Class indices; volumes whose label is None are left out.
    num_classes
        How many classes the model has; chance is one over it.
    units : (volumes,)
        Block, run or subject of each volume: what is independent. The interval then counts units
        and not volumes. Volumes one after another are not independent.

    Returns
    -------
    Check
        Its value is the lower end of the 95 % interval of the balanced accuracy. It warns where
        nothing can be said: no labels, or labels of one class only.
    """
    name, chance = "better than chance", 1 / num_classes
    here = measured_accuracy(predictions, labels, num_classes=num_classes, units=units)
    if here.low is None:
        words = f"Accuracy unknown: {here.facts}. A map of a model that guesses shows nothing."
        return Check(name, math.nan, None, chance, "warn", words)
    if here.low <= chance:
        assert here.value is not None  # where its interval is known
        sentence = at_chance_words(here.value, chance, here.facts)
        return Check(name, here.low, None, chance, "fail", sentence)
    sentence = f"This model is better than chance ({here.facts})."
    return Check(name, here.low, None, chance, "pass", sentence)


def at_chance_words(value: float, chance: float, facts: str) -> str:
    """Return the sentence about a model whose interval reaches chance.

    A model that was right more often than chance, with too few units to tell, may well know the
    classes; one that was not has shown nothing.
    """
    if value <= chance:
        return f"This model cannot be told from chance, so its maps show nothing ({facts})."
    return (
        "This model cannot be told from chance: it guesses, or there are too few independent "
        f"volumes to tell. Nothing can be concluded from its maps until there are more ({facts})."
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """Accuracy as it was counted.

    Parameters
    ----------
    value, low
        Balanced accuracy, and the lower end of its 95 % interval; None where labels do not tell.
    facts
        Both with the upper end, what was counted and chance; or why nothing can be said.
    """

    value: float | None
    low: float | None
    facts: str


def measured_accuracy(
    predictions: Sequence[int] | None,
    labels: Sequence[int | None] | None,
    *,
    num_classes: int = 2,
    units: Sequence[Any] | None = None,
) -> Measured:
    """Count how often a model is right; parameters as in `model_at_chance`."""
    pairs = [
        (int(p), int(label), None if units is None else units[n])
        for n, (p, label) in enumerate(zip(predictions or (), labels or (), strict=True))
        if label is not None
    ]
    classes = sorted({label for _, label, _ in pairs})
    if len(classes) < 2:
        reason = "no volume has a label" if not classes else "all labelled volumes are of one class"
        return Measured(None, None, reason)
    correct, total = [], []
    for c in classes:
        mine = [(p == c, unit) for p, label, unit in pairs if label == c]
        recall = sum(hit for hit, _ in mine) / len(mine)
        count = len(mine) if units is None else len({unit for _, unit in mine})
        correct.append(recall * count)
        total.append(float(count))
    accuracy, low, high = balanced_accuracy(correct, total)
    counted = "volumes" if units is None else "independent units"
    chance = 1 / num_classes
    digits = 2 if f"{low:.2f}" != f"{chance:.2f}" else 4  # or what is above chance looks like it
    facts = (
        f"balanced accuracy {accuracy:.2f}, 95 % interval {low:.{digits}f} to {high:.2f} over "
        f"{int(sum(total))} {counted}; chance {chance:.{digits}f}"
    )
    return Measured(accuracy, low, facts)


def independent_units(predictions: pd.DataFrame) -> list[str]:
    """Return for each volume the unit it belongs to: a stretch of one label, or a whole run.

    Volumes one after another are not independent. Where a run has more than one label, volumes of
    one label in unbroken order of time are one unit; where it has one, the run is.
    """
    units: list[str] = []
    several = predictions.groupby("run")["label"].nunique(dropna=False)
    number, last = 0, None
    for run, label, block in zip(
        predictions["run"], predictions["label"], predictions["block"], strict=True
    ):
        if several[run] <= 1:
            units.append(str(run))
            continue
        now = (run, label, block if pd.notna(block) else None)
        number += now != last
        last = now
        units.append(f"{run}/{number}")
    return units
