"""Checks of one map: what it shows, how much of the score that is, and where it lies.

The measuring functions take the maps of a batch and give one number per volume.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from g3dvit.checks import Check, judge, number


def not_finite(relevance: Float[Tensor, "batch patches"]) -> Float[Tensor, " batch"]:
    """Return the share of patches whose relevance is no finite number, per volume."""
    return (~relevance.isfinite()).double().mean(1)


def positive_share(relevance: Float[Tensor, "batch patches"]) -> Float[Tensor, " batch"]:
    """Return the positive part of a map over all of it, per volume; 0 where it is all zero."""
    r = relevance.double()
    return share(r.clamp_min(0).sum(1), r.abs().sum(1))


def spread(relevance: Float[Tensor, "batch patches"]) -> Float[Tensor, " batch"]:
    """Return how much patches differ: a map around its mean over the map, per volume.

    0 for a map that is the same everywhere, 1 for one whose mean is 0. A map of one sign with a
    normalised entropy of 0.999 has about 0.1.
    """
    r = relevance.double()
    return share((r - r.mean(1, keepdim=True)).norm(dim=1), r.norm(dim=1))


def size_in_score(
    relevance: Float[Tensor, "batch targets more"], scores: Float[Tensor, "batch targets"]
) -> Float[Tensor, "batch targets"]:
    """Return the largest patch of a map over the larger of it and the score."""
    largest = relevance.double().abs().amax(2)
    return share(largest, torch.maximum(largest, scores.double().abs()))


def outside_share(
    relevance: Float[Tensor, "batch patches"], inside: Bool[Tensor, " patches"]
) -> Float[Tensor, " batch"]:
    """Return the share of a map's magnitude in patches without a voxel of the brain, per volume."""
    r = relevance.double().abs()
    return share(r[:, ~inside].sum(1), r.sum(1))


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Return a part over the whole; 0 where there is nothing."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0)


def check_finite(value: float) -> Check:
    """Judge `not_finite`."""
    return judge(
        "finite values",
        value,
        0.0,
        0.0,
        (
            "Every patch has a finite value",
            "Some patches have no finite value",
            "Some patches have no finite value: the model divides by zero or overflows on this "
            "volume, so this map cannot be read",
        ),
        low_is_bad=False,
    )


def check_positive(value: float, *, against: bool = False) -> Check:
    """Judge `positive_share`.

    Parameters
    ----------
    value
        What was measured.
    against
        The score is negative: the volume speaks against the class, and so may every patch.
    """
    check = judge(
        "positive share",
        value,
        1e-3,
        1e-6,
        (
            "There is evidence for the class in this map",
            "Hardly any of this map is evidence for the class: shown with positive values only, it "
            "would be nearly empty",
            "No patch is evidence for the class: with positive values only, this map is empty",
        ),
    )
    if against and check.verdict == "fail":
        sentence = (
            f"No patch is evidence for the class ({number(value)} of the map), as the whole score "
            "speaks against it; shown with positive values only, this map is empty."
        )
        return Check(check.name, value, check.threshold_warn, None, "warn", sentence)
    return check


def check_flat(value: float) -> Check:
    """Judge `spread`."""
    return judge(
        "flat map",
        value,
        0.2,
        0.05,
        (
            "Places differ in this map",
            "Places hardly differ in this map, less than its colours suggest",
            "Every place has the same value in this map, so that it says nothing about places",
        ),
    )


def check_outside(value: float) -> Check:
    """Judge `outside_share`."""
    return judge(
        "outside the brain",
        value,
        0.25,
        0.5,
        (
            "This map lies in the brain",
            "A good part of this map lies in patches without any brain",
            "Most of this map lies in patches without any brain: the model uses the background",
        ),
        low_is_bad=False,
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


def check_removal(value: float) -> Check:
    """Judge the largest change of the score when patches are taken away, relative to it."""
    return judge(
        "removal",
        value,
        1e-3,
        # 100 units of float32 rounding, as for centring: a score of many additions is known to some
        # 20 of them, and which depends on the machine.
        6e-6,
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


def evidence_left(
    still: Float[Tensor, " batch"], moved: Float[Tensor, "shifts batch"]
) -> Float[Tensor, " batch"]:
    """Return what is left of the evidence for a decision when volumes are moved, per volume.

    ``mean_s clip(m_s / m, -1, 1)`` with m the lead, over the next, of the class chosen for the
    volume as it is, and m_s that of the same class at shift s: 1 where moving changes nothing, 0
    where moved volumes speak as often against the class as for it.

    Parameters
    ----------
    still : (batch,)
        Evidence of the volumes as they are.
    moved : (shifts, batch)
        Evidence of the volumes moved.
    """
    still, moved = still.double(), moved.double()
    ratio = torch.where(
        still != 0, moved / torch.where(still != 0, still, 1.0), moved.eq(0).double()
    )
    return ratio.nan_to_num(nan=0.0).clamp(-1, 1).mean(0)


def check_evidence_left(value: float) -> Check:
    """Judge `evidence_left`."""
    return judge(
        "evidence at shifts",
        value,
        0.3,
        0.0,
        (
            "Moved by parts of a patch, this volume still speaks for what the model decided",
            "Moved by parts of a patch, this volume loses most of what spoke for the model's "
            "decision, so that this map shows other evidence as well",
            "Moved by parts of a patch, this volume speaks against what the model decided: "
            "the model reads a pattern that has to lie exactly where it lies, and the average over "
            "shifts shows other places. Believe frozen-gate relevance",
        ),
    )


def check_kept(kept: int, count: int) -> Check:
    """Judge how many of the shifts of a volume do not change the model's decision."""
    return judge(
        "kept shifts",
        kept / count,
        0.5,
        1 / count,
        (
            "Most shifts of this volume leave the model's decision as it is",
            "Most shifts of this volume change the model's decision, and few are left for this map",
            "Every shift of this volume changes the model's decision, so that nothing could be "
            "averaged: this is the map of the volume as it is",
        ),
    )


def check_against_unmoved(value: float) -> Check:
    """Judge the correlation over patches of a fine map with that of the volume as it is."""
    return judge(
        "moved and unmoved",
        value,
        0.3,
        0.0,
        (
            "This map agrees, patch by patch, with that of the volume as it is",
            "This map agrees little, patch by patch, with that of the volume as it is",
            "This map contradicts that of the volume as it is: what the volume shows when moved by "
            "parts of a patch outweighs what it shows where it lies. Believe frozen-gate relevance",
        ),
    )


def check_moved_share(value: float) -> Check:
    """Tell how much of a map that weighs shifts by evidence comes from moved volumes."""
    sentence = (
        f"Volumes moved by parts of a patch make {value:.0%} of this map, by the evidence that "
        "they keep; the volume as it is makes the rest"
    )
    return Check("moved share", value, None, None, "pass", f"{sentence}.")
