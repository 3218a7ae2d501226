"""Checks that tell whether a map is evidence or rounding.

Each check is a pure, scale-free measurement with a threshold, a verdict and a sentence for a
neuroscientist. A failed check marks a map, it never withholds it. Terms: for patch p and
feature d, ``a_pd`` are activations and ``g_pd`` gradients at the target layer; ``u`` is the
rounding unit of the type the model computes in (6e-8 in float32, 4e-3 in bf16).

=================  =========================================================  ========  =======
check              measured                                                   fails at  warns at
=================  =========================================================  ========  =======
dead gradient      max_p |g_p| / max_t |g_t| over all tokens t                < 1e-6    < 1e-3
uniform gradient   |G - mean_p g_p| / |G|                                     < 1e-4    < 1e-2
centring           sqrt(D) * median_p |sum_d a_pd| / sum_d |a_pd|             < 100 u   < 0.1
discarded share    median_p (sum_d gamma_d g_pd)^2 / (D |gamma g_p|^2)        -         -
float64 agreement  Spearman correlation of float32 and float64 patch scores   < 0.95    < 0.99
completeness       |sum of shares - score| / max(|score|, sum |R|)            > 0.05    > 0.01
model at chance    lower end of the interval of the balanced accuracy         <= chance -
=================  =========================================================  ========  =======

A centring of 0.8 is that of random features; a layer normalisation with unit weights and no bias
gives 2 to 5 u. The discarded share is the part of the gradient that a layer normalisation's own
backward pass throws away, and all that mean weights keep; 1/D is chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from g3dvit.errors import InputError

Verdict = Literal["pass", "warn", "fail"]
_ORDER: tuple[Verdict, ...] = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one map, or of a model.

    Parameters
    ----------
    name
        What is checked.
    value
        What was measured.
    threshold_warn, threshold_fail
        Where it warns and fails; None where it does not.
    verdict
        ``"pass"``, ``"warn"`` or ``"fail"``.
    sentence
        What it means, with the number.
    """

    name: str
    value: float
    threshold_warn: float | None
    threshold_fail: float | None
    verdict: Verdict
    sentence: str


def worst(checks: Iterable[Check]) -> Verdict:
    """Return the worst verdict; ``"pass"`` where there is no check."""
    return max((check.verdict for check in checks), key=_ORDER.index, default="pass")


def _verdict(value: float, warn: float | None, fail: float | None, *, low_is_bad: bool) -> Verdict:
    if math.isnan(value):
        return "fail"
    sign = 1 if low_is_bad else -1
    if fail is not None and sign * value < sign * fail:
        return "fail"
    if warn is not None and sign * value < sign * warn:
        return "warn"
    return "pass"


def _check(
    name: str,
    value: float,
    warn: float,
    fail: float,
    sentences: tuple[str, str, str],
    *,
    low_is_bad: bool = True,
) -> Check:
    """Judge a value; the sentences are for pass, warn and fail."""
    verdict = _verdict(value, warn, fail, low_is_bad=low_is_bad)
    limit = fail if verdict == "fail" else warn
    side = "at least" if low_is_bad else "at most"
    sentence = f"{sentences[_ORDER.index(verdict)]} ({value:.1e}; {side} {limit:.0e} is asked for)."
    return Check(name, value, warn, fail, verdict, sentence)


def rounding_unit(dtype: torch.dtype) -> float:
    """Return the unit roundoff u of a floating-point type."""
    return float(torch.finfo(dtype).eps) / 2


def dead_gradient(
    gradients: Float[Tensor, "batch tokens channels"], patches: slice
) -> Float[Tensor, " batch"]:
    """Return the largest patch gradient over the largest gradient of any token, per volume."""
    size = _unit_scaled(gradients).norm(dim=2)
    return _ratio(size[:, patches].amax(1), size.amax(1))


def uniform_gradient(
    gradients: Float[Tensor, "batch patches channels"],
) -> Float[Tensor, " batch"]:
    """Return the norm of the patch gradients around their mean over their norm, per volume."""
    g = _unit_scaled(gradients)
    return _ratio((g - g.mean(1, keepdim=True)).flatten(1).norm(dim=1), g.flatten(1).norm(dim=1))


def centring(activations: Float[Tensor, "batch patches channels"]) -> Float[Tensor, " batch"]:
    """Return how far the features of the median patch are from adding up to zero, per volume."""
    a = activations.double()
    share = _ratio(a.sum(2).abs(), a.abs().sum(2))
    return math.sqrt(a.shape[2]) * share.median(dim=1).values


def discarded_share(
    gradients: Float[Tensor, "batch patches channels"],
    gain: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return the share of the gradient that a layer normalisation throws away, per volume."""
    g = _unit_scaled(gradients)
    g = g if gain is None else g * gain.to(g)
    share = _ratio(g.sum(2).square(), g.shape[2] * g.square().sum(2))
    return share.median(dim=1).values


def _unit_scaled(x: Tensor) -> Tensor:
    """Return float64 values divided by the largest of each volume, so that squares stay finite."""
    wide = x.double()
    largest = wide.abs().flatten(1).amax(1).reshape(-1, *(1,) * (x.ndim - 1))
    return wide / torch.where(largest > 0, largest, 1.0)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)


def check_dead(value: float) -> Check:
    """Judge `dead_gradient`."""
    return _check(
        "dead gradient",
        value,
        1e-3,
        1e-6,
        (
            "The score depends on the patches at this layer",
            "The score hardly depends on the patches at this layer",
            "The score does not depend on the patches at this layer, so this map is empty",
        ),
    )


def check_uniform(value: float) -> Check:
    """Judge `uniform_gradient`."""
    return _check(
        "uniform gradient",
        value,
        1e-2,
        1e-4,
        (
            "The patches matter differently at this layer",
            "All patches matter almost equally at this layer",
            "All patches matter equally at this layer, so this map says nothing about places",
        ),
    )


def check_centring(value: float, dtype: torch.dtype) -> Check:
    """Judge `centring` for activations of the given type."""
    return _check(
        "centring",
        value,
        0.1,
        100 * rounding_unit(dtype),
        (
            "The features of a patch add up to a number that can be trusted",
            "The features of a patch almost cancel when added up, as after a normalisation, so "
            "that small offsets of the model decide the sign of this map",
            "The features of a patch cancel when added up, as they must after a normalisation, so "
            "this map is rounding error",
        ),
    )


def check_discarded(value: float, channels: int) -> Check:
    """Report `discarded_share` beside its chance level; it has no threshold."""
    sentence = (
        f"A share of {value:.1e} of the gradient lies in the direction that a layer normalisation "
        f"cannot take and mean weights alone keep ({1 / channels:.1e} by chance)."
    )
    return Check("discarded share", value, None, None, "pass", sentence)


def check_completeness(error: float, module: str = "") -> Check:
    """Judge the completeness error of a frozen-gate map.

    Parameters
    ----------
    error
        As `g3dvit.methods.completeness_error` gives it.
    module
        Where it arises, if known.
    """
    where = f"; it arises in {module}, which computes what is not known here" if module else ""
    return _check(
        "completeness",
        error,
        0.01,
        0.05,
        (
            "All shares of this map add up to the score",
            f"The shares of this map do not quite add up to the score{where}",
            f"The shares of this map do not add up to the score{where}",
        ),
        low_is_bad=False,
    )


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation of all values; 0 where one of them is constant."""
    ranks = [_ranks(np.asarray(values, np.float64).ravel()) for values in (a, b)]
    centred = [r - r.mean() for r in ranks]
    size = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / size if size > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def agreement_float64(relevance: ArrayLike, relevance64: ArrayLike) -> Check:
    """Judge whether a map is the same when computed in float64.

    Parameters
    ----------
    relevance, relevance64 : (patches,)
        Raw patch scores of one volume, as they are and computed in float64.
    """
    return _check(
        "float64 agreement",
        spearman(relevance, relevance64),
        0.99,
        0.95,
        (
            "Computed with more digits, the map is the same",
            "Computed with more digits, the map changes a little",
            "Computed with more digits, another map comes out, so this one is rounding error",
        ),
    )


def no_float64(reason: str) -> Check:
    """Return the check of a model that cannot be run in float64."""
    return Check(
        "float64 agreement",
        math.nan,
        0.99,
        0.95,
        "warn",
        f"Whether the map is rounding error is unknown: the model cannot be run in float64 "
        f"({reason}).",
    )


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
    name, chance = "model at chance", 1 / num_classes
    pairs = [
        (int(p), int(label), None if units is None else units[n])
        for n, (p, label) in enumerate(zip(predictions or (), labels or (), strict=True))
        if label is not None
    ]
    classes = sorted({label for _, label, _ in pairs})
    if len(classes) < 2:
        reason = "no volume has a label" if not classes else "all labelled volumes are of one class"
        return Check(
            name,
            math.nan,
            None,
            chance,
            "warn",
            f"Accuracy unknown: {reason}. A map of a model that guesses shows nothing.",
        )
    correct, total = [], []
    for c in classes:
        mine = [(p == c, unit) for p, label, unit in pairs if label == c]
        recall = sum(hit for hit, _ in mine) / len(mine)
        count = len(mine) if units is None else len({unit for _, unit in mine})
        correct.append(recall * count)
        total.append(float(count))
    accuracy, low, high = balanced_accuracy(correct, total)
    counted = "volumes" if units is None else "independent units"
    facts = (
        f"balanced accuracy {accuracy:.2f}, 95 % interval {low:.2f} to {high:.2f} over "
        f"{int(sum(total))} {counted}; chance {chance:.2f}"
    )
    if low <= chance:
        sentence = f"This model cannot be told from chance, so its maps show nothing ({facts})."
        return Check(name, low, None, chance, "fail", sentence)
    return Check(name, low, None, chance, "pass", f"This model is better than chance ({facts}).")
