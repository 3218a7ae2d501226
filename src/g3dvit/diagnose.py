"""Checks that tell whether a map is evidence or rounding.

Each check is a pure, scale-free measurement with a threshold, a verdict and a sentence for a
neuroscientist. A failed check marks a map, it never withholds it. Terms: for patch p and
feature d, ``a_pd`` are activations and ``g_pd`` gradients at the target layer; ``u`` is the
rounding unit of the type the model computes in (6e-8 in float32, 4e-3 in bf16).

==================  =========================================================  ========  =======
check               measured                                                   fails at  warns at
==================  =========================================================  ========  =======
dead gradient       max_p |g_p| / max_t |g_t| over all tokens t                < 1e-6    < 1e-3
uniform gradient    |G - mean_p g_p| / |G|                                     < 1e-4    < 1e-2
empty map           max_p |R_p| / max(max_p |R_p|, |prefix|, |bias|)           < 1e-6    < 1e-3
centring            sqrt(D) * median_p |sum_d a_pd| / sum_d |a_pd|             < 100 u   < 0.1
discarded share     median_p (sum_d gamma_d g_pd)^2 / (D |gamma g_p|^2)        -         -
float64 agreement   Spearman correlation of float32 and float64 patch scores   < 0.95    < 0.99
saturated head      distance of an explained probability from 0 and 1          < 1e-6    < 1e-3
cancelling voxels   sum_p |R_p| / sum_v |R_v|                                  < 100 u   < 1e-3
completeness        |sum of shares - score| / max(|score|, sum |R|)            > 0.05    > 0.01
removal             max_p |R_p| / max(max_p |R_p|, |score|)                    < 1e-6    < 1e-3
draws               rms standard error of R_p over their standard deviation    > 0.7     > 0.4
better than chance  lower end of the interval of the balanced accuracy         <= chance -
==================  =========================================================  ========  =======

A centring of 0.8 is that of random features; a layer normalisation with unit weights and no bias
gives 2 to 5 u. The discarded share is the part of the gradient that a layer normalisation's own
backward pass throws away, and all that mean weights keep; 1/D is chance.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from g3dvit.accuracy import balanced_accuracy, model_at_chance
from g3dvit.checks import Check, Verdict, judge, worst

__all__ = [
    "Check",
    "Verdict",
    "agreement_float64",
    "balanced_accuracy",
    "cancelling",
    "centring",
    "check_cancelling",
    "check_centring",
    "check_completeness",
    "check_dead",
    "check_discarded",
    "check_draws",
    "check_empty",
    "check_path",
    "check_removal",
    "check_saturated",
    "check_uniform",
    "dead_gradient",
    "discarded_share",
    "model_at_chance",
    "no_float64",
    "rounding_unit",
    "spearman",
    "uniform_gradient",
    "worst",
]


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


def cancelling(
    patches: Float[Tensor, "batch gi gj gk"], voxels: Float[Tensor, "batch i j k"]
) -> Float[Tensor, " batch"]:
    """Return how much of the voxels' relevance is left when summed over patches, per volume."""
    return _ratio(patches.abs().flatten(1).sum(1), voxels.abs().flatten(1).sum(1))


def _unit_scaled(x: Tensor) -> Tensor:
    """Return values divided by the largest of each volume, so that squares stay finite."""
    wide = x if x.dtype == torch.float64 else x.float()
    largest = wide.abs().flatten(1).amax(1).reshape(-1, *(1,) * (x.ndim - 1))
    return wide / torch.where(largest > 0, largest, 1.0)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)


def check_dead(value: float) -> Check:
    """Judge `dead_gradient`."""
    return judge(
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


def check_empty(value: float) -> Check:
    """Judge the largest share of a patch over the largest of any share."""
    return judge(
        "empty map",
        value,
        1e-3,
        1e-6,
        (
            "The patches have a share in the score",
            "The patches have hardly any share in the score",
            "The patches have no share in the score, so this map is empty",
        ),
    )


def check_uniform(value: float) -> Check:
    """Judge `uniform_gradient`."""
    return judge(
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
    return judge(
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


def check_completeness(error: float, module: str = "", *, of: str = "the score") -> Check:
    """Judge the completeness error of a frozen-gate map.

    Parameters
    ----------
    error
        As `g3dvit.methods.completeness_error` gives it.
    module
        Where it arises, if known.
    of
        What the shares should add up to.
    """
    where = f"; relevance is lost or gained in {module}" if module else ""
    return judge(
        "completeness",
        error,
        0.01,
        0.05,
        (
            f"All shares of this map add up to {of}",
            f"The shares of this map do not quite add up to {of}{where}",
            f"The shares of this map do not add up to {of}{where}",
        ),
        low_is_bad=False,
    )


def check_cancelling(value: float, dtype: torch.dtype) -> Check:
    """Judge `cancelling` for a model that computes in the given type."""
    return judge(
        "cancelling voxels",
        value,
        1e-3,
        100 * rounding_unit(dtype),
        (
            "The voxels of a patch add up to a number that can be trusted",
            "The voxels of a patch almost cancel when added up, so that this patch map is a small "
            "difference of large numbers",
            "The voxels of a patch cancel when added up, or there are none that matter, so this "
            "patch map is rounding error",
        ),
    )


def check_saturated(distance: float) -> Check:
    """Judge how far a probability is from where it cannot change: 0 and 1."""
    return judge(
        "saturated head",
        distance,
        1e-3,
        1e-6,
        (
            "The explained probability can still change",
            "The explained probability is almost certain and hardly changes whatever the volume "
            "shows; explain the log-odds",
            "The explained probability is certain, so that nothing changes it and this map is "
            "rounding error; explain the log-odds",
        ),
    )


def check_path(error: float) -> Check:
    """Judge the completeness error of a path method."""
    return judge(
        "completeness",
        error,
        0.01,
        0.05,
        (
            "All shares of this map add up to the score less that of the references",
            "The shares of this map do not quite add up to the score less that of the references; "
            "more samples would help",
            "The shares of this map do not add up to the score less that of the references: too "
            "few samples, or references that the model cannot compare with",
        ),
        low_is_bad=False,
    )


def check_removal(value: float) -> Check:
    """Judge the largest change of the score when patches are taken away, relative to it."""
    return judge(
        "removal",
        value,
        1e-3,
        1e-6,
        (
            "Taking patches away changes the score",
            "Taking patches away hardly changes the score: the model finds the same evidence "
            "elsewhere, or does not look",
            "Taking patches away does not change the score beyond rounding, so this map is empty",
        ),
    )


def check_draws(value: float) -> Check:
    """Judge the error of random draws, relative to the differences between patches."""
    return judge(
        "draws",
        value,
        0.4,
        0.7,
        (
            "Patches differ by more than the random draws do",
            "The random draws make a good part of the differences between patches; more samples "
            "would help",
            "The random draws make most of the differences between patches, so this map is noise; "
            "take more samples",
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
    return judge(
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
