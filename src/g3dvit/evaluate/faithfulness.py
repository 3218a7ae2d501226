"""Do larger values of a map go with larger effects? SaCo and the correlation with single removal.

Both compare what a map says of patches with how much a score falls without them. *SaCo* does so
for groups of patches and asks whether a group that is called more important matters more, weighted
by how much more important it is called: 1 where this always holds, -1 where never, about 0 for a
random map. Numpy only.

References
----------
Wu et al. 2024, On the Faithfulness of Vision Transformer Explanations (SaCo),
https://arxiv.org/abs/2404.01415
Hesse et al. 2024, Benchmarking the Attribution Quality of Vision Models (IDSDS),
https://arxiv.org/abs/2407.11910
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import InputError
from g3dvit.evaluate.agreement import spearman
from g3dvit.evaluate.curves import removal_order

GROUPS = 10


def saliency_groups(
    relevance: ArrayLike, groups: int = GROUPS, *, seed: int = 0
) -> list[NDArray[np.intp]]:
    """Divide patches into groups of equal size, from the most to the least relevant.

    Parameters
    ----------
    relevance : (patches,)
        Signed.
    groups
        How many; fewer where there are fewer patches.
    seed
        Of the order among equal values.
    """
    order = removal_order(relevance, seed=seed)
    return list(np.array_split(order, min(groups, len(order))))


def saco(salience: ArrayLike, drops: ArrayLike) -> float:
    """Return SaCo, between -1 and 1; NaN where all groups are equally salient.

    Parameters
    ----------
    salience : (groups,)
        Summed relevance of each group.
    drops : (groups,)
        How much the score falls when the group is removed.

    Examples
    --------
    >>> saco([3.0, 2.0, 1.0], [0.9, 0.5, 0.1]), saco([3.0, 2.0, 1.0], [0.1, 0.5, 0.9])
    (1.0, -1.0)
    """
    said, found = np.asarray(salience, np.float64), np.asarray(drops, np.float64)
    if said.shape != found.shape or said.ndim != 1:
        raise InputError("SaCo takes one salience and one drop per group")
    order = np.argsort(-said, kind="stable")
    said, found = said[order], found[order]
    first, second = np.triu_indices(len(said), k=1)
    weight = said[first] - said[second]
    signed = np.where(found[first] >= found[second], weight, -weight)
    total = float(weight.sum())
    return float(signed.sum() / total) if total > 0 else float("nan")


def single_removal_correlation(relevance: ArrayLike, drops: ArrayLike) -> float:
    """Return the rank correlation of a map with the drops that single patches cause.

    Parameters
    ----------
    relevance, drops : (patches,)
        What the map says, and how much the score falls when that patch alone is removed.
    """
    return spearman(relevance, drops)
