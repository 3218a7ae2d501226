"""Checks that compare maps, or what a model says about changed volumes: further passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.checks import Check, judge, not_applicable, number


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


def class_blind(relevance: ArrayLike, other: ArrayLike) -> Check:
    """Judge whether another class gets another map.

    Parameters
    ----------
    relevance, other : (patches,)
        Patch scores of one volume for the explained class and for the runner-up.
    """
    return judge(
        "class-blind",
        spearman(relevance, other),
        0.9,
        0.98,
        (
            "Another class has another map",
            "Another class has nearly the same map",
            "Another class has the same map, so that this one does not say what speaks for the "
            "class",
        ),
        low_is_bad=False,
    )


def input_blind(maps: Sequence[ArrayLike]) -> Check:
    """Judge whether different volumes get different maps.

    Parameters
    ----------
    maps : each (patches,)
        Patch scores of different volumes for the same target.

    Returns
    -------
    Check
        Its value is the mean rank correlation of all pairs; not applicable below two maps.
    """
    name = "input-blind"
    if len(maps) < 2:
        return not_applicable(name, "only one volume was explained for this target")
    return judge(
        name,
        mean_spearman(maps),
        0.9,
        0.98,
        (
            "Different volumes have different maps",
            "Different volumes have nearly the same map: it shows a habit of the model more than "
            "what is in a volume",
            "Different volumes have the same map, so that it does not show what is in them",
        ),
        low_is_bad=False,
    )


def mean_spearman(maps: Sequence[ArrayLike]) -> float:
    """Return the mean of `spearman` over all pairs of maps."""
    ranks = np.stack([_ranks(np.asarray(one, np.float64).ravel()) for one in maps])
    centred = ranks - ranks.mean(1, keepdims=True)
    size = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)
    products = unit @ unit.T
    pairs = len(maps) * (len(maps) - 1)
    return float((products.sum() - np.trace(products)) / pairs)


def check_amplitude(value: float, *, by_patch: bool) -> Check:
    """Judge how much the outputs change when a volume x becomes 2 x + 1.

    Parameters
    ----------
    value
        That change over the change when the volume is mirrored.
    by_patch
        The same holds for every patch on its own.
    """
    what = "each patch" if by_patch else "the volume"
    blind = (
        "a region that is merely stronger or weaker than another looks the same to it"
        if by_patch
        else "a volume that is merely stronger or weaker looks the same to it"
    )
    name, limit = "amplitude blindness", 1e-3
    seen = value >= limit and not by_patch
    asked = f"({number(value)}; at least {limit:.3g} is asked for)"
    sentence = (
        f"The model sees how strong the signal is {asked}."
        if seen
        else f"This model ignores level and amplitude of {what}: {blind}, and maps show where "
        f"patterns matter, not strength {asked}."
    )
    return Check(name, value, limit, None, "pass" if seen else "warn", sentence)


def check_batch(value: float) -> Check:
    """Judge how much the outputs for a volume change with another volume beside it.

    Parameters
    ----------
    value
        That change over the change when the volume is mirrored.
    """
    return judge(
        "batch dependence",
        value,
        1e-3,
        0.05,
        (
            "What the model says of a volume does not depend on the volumes beside it",
            "What the model says of a volume depends a little on the volumes that are run with it",
            "What the model says of a volume depends on the volumes that are run with it, and so "
            "do its maps: a layer uses statistics of the batch (such as BatchNorm without running "
            "statistics). Give that layer fixed statistics",
        ),
        low_is_bad=False,
    )


def check_invisible(value: float, background: int = 0, patches: int = 0) -> Check:
    """Judge the share of patches in the brain that a model with normalised patches cannot see.

    Parameters
    ----------
    value
        That share.
    background, patches
        Where the brain is not known: how many patches of how many are constant at the volume's
        commonest value, and were taken for background.
    """
    check = judge(
        "invisible patches",
        value,
        0.1,
        0.5,
        (
            "The model sees the patches of this volume",
            "The model normalises each patch, and cannot see patches that are constant: a part of "
            "this volume is invisible to it, whatever the map shows there",
            "The model normalises each patch, and cannot see patches that are constant: most of "
            "this volume is invisible to it, whatever the map shows there",
        ),
        low_is_bad=False,
    )
    if not background:
        return check
    taken = (
        f" {background} of {patches} patches are constant, all of one value, and were taken for "
        "background: whatever is there is invisible to the model too. Tell where the brain is to "
        "have them judged."
    )
    sentence = check.sentence
    if check.verdict == "pass":
        asked = f"({number(value)}; at most {check.threshold_warn:.3g} is asked for)"
        sentence = f"The model sees the patches of this volume that are not background {asked}."
    return replace(check, sentence=sentence + taken)


def check_steering(value: float) -> Check:
    """Report how much of the gradient passes through the attention weights; it has no threshold.

    Parameters
    ----------
    value
        ``|g_full - g_frozen| / |g_full|`` at the voxels: with attention weights that follow the
        input, and held constant.
    """
    sentence = (
        f"Relative to all of the score's sensitivity, {value:.2f} acts by steering attention to "
        "other places; frozen gates credit that to the places attended to"
    )
    return Check("attention steering", value, None, None, "pass", f"{sentence}.")


def check_jitter(value: float) -> Check:
    """Judge the rank correlation of a map with that of the same volume with a little noise."""
    return judge(
        "jitter",
        value,
        0.95,
        0.8,
        (
            "A little noise in the volume leaves the map as it is",
            "A little noise in the volume changes the map",
            "A little noise in the volume gives another map, so that this one is an accident",
        ),
    )
