"""Numbers per volume and row: how well a map lies where the answer is.

All numbers are within the phantom's mask, without voxels that belong to neither side; values are
signed. `METRICS` says what each is, what chance gives, and which way is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.evaluate import mass_over_volume, peak_distance_mm, roc_auc
from g3dvit.grids import Shape3
from g3dvit.phantoms import PhantomVolumes, matched_auc


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the table.

    Parameters
    ----------
    name, title
        In files, and as a heading.
    meaning
        One sentence.
    """

    name: str
    title: str
    meaning: str


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("auc", "AUC", "a voxel of the truth is above another voxel; chance .5"),
        Metric("ap", "AP", "average precision; chance is the truth's share of the mask"),
        Metric("pointing", "pointing", "share of volumes whose highest voxel is in the truth"),
        Metric("mass", "mass", "share of the positive mass in the truth over its volume share"),
        Metric(
            "patch_auc",
            "patch AUC",
            "a patch with truth is above one without, not smoothed; chance .5",
        ),
        Metric("patch_ap", "patch AP", "average precision of patches with truth"),
        Metric(
            "patch_pointing", "patch pointing", "share of volumes whose highest patch has truth"
        ),
        Metric("associated_auc", "AUC assoc.", "AUC for the voxels that differ between classes"),
        Metric("distractor_auc", "distr. AUC", "distractor against places as far off; aim .5"),
        Metric("distractor_mass", "distr. mass", "the distractor's mass over its volume share"),
        Metric("peak_mm", "peak error", "from the highest voxel to the truth, in mm"),
        Metric("beats_seed", "beats seed", "share of volumes with a higher AUC than the seed map"),
        Metric("beats_seed_ap", "beats seed, AP", "share with a higher AP than the seed map"),
        Metric("srg", "SRG", "score kept when removing the lowest first, less the highest first"),
        Metric("relative_srg", "rel. SRG", "SRG from random (0) to single token removal (1)"),
        Metric("other_input", "other input", "Spearman's rho with the map of another such volume"),
        Metric("other_class", "other class", "rho with the same volume's map for the next class"),
    )
}

#: Those that `volume_metrics` gives.
PER_MAP = (
    *("auc", "ap", "pointing", "mass", "patch_auc", "patch_ap", "patch_pointing"),
    *("associated_auc", "distractor_auc", "distractor_mass", "peak_mm"),
)


def volume_metrics(
    relevance: NDArray[np.float32],
    patches: NDArray[np.float32],
    drawn: PhantomVolumes,
    n: int,
) -> dict[str, float]:
    """Return the numbers of one map.

    Parameters
    ----------
    relevance : (i, j, k)
        The map.
    patches : (gi, gj, gk)
        One number per patch.
    drawn, n
        The phantom, its truth corrected for what can be seen, and which of its volumes.

    Returns
    -------
    dict of str to float
        NaN where a volume has no truth, or no distractor.
    """
    inside = drawn.mask & ~drawn.ignored[n]
    truth, associated = drawn.used[n] & inside, drawn.associated[n] & inside
    values = relevance.astype(np.float64)
    missing = float("nan")
    if not truth.any():
        return dict.fromkeys(PER_MAP, missing)
    _, distance = peak_distance_mm(values, truth, inside, drawn.grid)
    numbers = {
        "auc": roc_auc(values[inside], truth[inside]),
        "ap": average_precision(values[inside], truth[inside]),
        "pointing": float(distance < 1e-6),
        "mass": mass_over_volume(values, truth, inside),
        "peak_mm": distance,
        **patch_metrics(patches.astype(np.float64), truth, inside),
        "associated_auc": missing,
        "distractor_auc": missing,
        "distractor_mass": missing,
    }
    if associated.any():
        others = inside & ~(truth & ~associated)
        numbers["associated_auc"] = roc_auc(values[others], associated[others])
    distractor = drawn.distractor[n] & inside & ~truth
    if distractor.any():
        free = inside & ~truth & ~drawn.distractor.any(axis=0)
        numbers["distractor_auc"] = matched_auc(values, truth, distractor, free)
        numbers["distractor_mass"] = mass_over_volume(values, distractor, inside)
    return numbers


def patch_metrics(
    patches: NDArray[np.float64], truth: NDArray[np.bool_], inside: NDArray[np.bool_]
) -> dict[str, float]:
    """Return how well patches with truth stand above those without.

    Patches that touch the inside count. A model that normalises patches uses whole patches that
    the signal's border cuts, on both sides of the border.

    Parameters
    ----------
    patches : (gi, gj, gk)
        One number per patch.
    truth, inside : (i, j, k)
        Voxels.
    """
    i, j, k = (n // g for n, g in zip(truth.shape, patches.shape, strict=True))
    planted, found = (patch_sums(a.astype(np.float64), (i, j, k)) > 0 for a in (truth, inside))
    values, present = patches[found], planted[found]
    if present.all() or not present.any():
        return dict.fromkeys(("patch_auc", "patch_ap", "patch_pointing"), float("nan"))
    return {
        "patch_auc": roc_auc(values, present),
        "patch_ap": average_precision(values, present),
        "patch_pointing": float(present[values.argmax()]),
    }


def patch_sums(values: NDArray[Any], patch_size: Shape3) -> NDArray[Any]:
    """Return the sum over each patch, (..., i, j, k) to (..., gi, gj, gk)."""
    *more, i, j, k = values.shape
    p, q, r = patch_size
    split = values.reshape(*more, i // p, p, j // q, q, k // r, r)
    return np.asarray(split.sum(axis=(-5, -3, -1)))


def average_precision(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the mean precision at every voxel of the truth; equal values count together.

    Examples
    --------
    >>> average_precision(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False]))
    0.8333333333333333
    """
    order = np.argsort(-values, kind="stable")
    ranked, found = values[order], np.cumsum(truth[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.diff(found[last], prepend=0)
    return float((hits * found[last] / (last + 1)).sum() / found[-1])
