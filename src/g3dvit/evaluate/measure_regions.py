"""Is the top region needed, and is it enough? Accuracy without it, and with it alone.

The region is one for all volumes: the top share of the patches in the brain by the mean map of
the SELECTION half, and it is tried on the REPORT half. Where the model is as good without the
region, other places carry the same information (redundancy): then the map shows one sufficient
place and not the only one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from g3dvit.evaluate.curves import Respond, removal_order, respond_once
from g3dvit.evaluate.interventions import decisions

RANDOM_REGIONS = 20


def mean_size(maps: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean over volumes of |relevance| as a share of its sum, (patches,)."""
    sizes = [np.abs(one) for one in maps]
    shares = [one / one.sum() if one.sum() > 0 else one for one in sizes]
    return np.asarray(np.mean(shares, axis=0))


def top_region(
    relevance: NDArray[np.float64], inside: NDArray[np.intp], share: float
) -> NDArray[np.intp]:
    """Return the patches of the top share in the brain, at least one."""
    count = max(1, round(share * len(inside)))
    return inside[removal_order(relevance[inside])[:count]]


def decide_by_region(
    respond: Respond,
    regions: Mapping[str, NDArray[np.float64]],
    inside: NDArray[np.intp],
    n_patches: int,
    shares: Sequence[float],
    *,
    seed: int = 0,
) -> dict[str, dict[str, list[list[int]]]]:
    """Return the model's decision on one volume without each region and with it alone.

    Parameters
    ----------
    respond
        The model's outputs for kept patches of the volume.
    regions
        Method to mean map (patches,).
    inside
        Patches in the brain.
    n_patches
        Of the model.
    shares
        Of the patches in the brain.
    seed
        Of the random regions of equal size.

    Returns
    -------
    dict
        Method (and ``"random"``) to ``without`` and ``alone``: for each share the decisions,
        one for a method, several for random regions.
    """
    rng = np.random.default_rng(seed)
    sets: dict[str, list[list[NDArray[np.intp]]]] = {
        name: [[top_region(values, inside, share)] for share in shares]
        for name, values in regions.items()
    }
    sets["random"] = [
        [
            rng.choice(inside, max(1, round(share * len(inside))), replace=False)
            for _ in range(RANDOM_REGIONS)
        ]
        for share in shares
    ]
    rows: list[NDArray[np.bool_]] = []
    for per_share in sets.values():
        for draws in per_share:
            for region in draws:
                alone = np.zeros(n_patches, dtype=bool)
                alone[region] = True
                rows += [~alone, alone]
    decided = iter(decisions(respond_once(respond, np.array(rows))).tolist())
    result: dict[str, dict[str, list[list[int]]]] = {}
    for name, per_share in sets.items():
        result[name] = {"without": [], "alone": []}
        for draws in per_share:
            pairs = [(next(decided), next(decided)) for _ in draws]
            result[name]["without"].append([a for a, _ in pairs])
            result[name]["alone"].append([b for _, b in pairs])
    return result
