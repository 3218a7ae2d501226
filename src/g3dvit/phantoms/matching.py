"""Whether a map is high at the distractor, or only as high as anywhere that far away.

Every map blurs, so that voxels near the target are high whatever lies there. The distractor is
therefore compared with *control* voxels of the same brain that hold nothing and are as far from
the target as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from g3dvit.errors import InputError
from g3dvit.evaluate import roc_auc


def matched_pairs(
    target: NDArray[np.bool_],
    distractor: NDArray[np.bool_],
    free: NDArray[np.bool_],
    *,
    width: float = 1.0,
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Split distractor and free voxels into shells of equal distance from the target.

    Parameters
    ----------
    target, distractor, free : (i, j, k)
        Voxels of each kind; `free` holds nothing.
    width
        Of a shell, in voxels.

    Returns
    -------
    list of (distractor, free) pairs, each (i, j, k), for the shells that have both
    """
    if not target.any():
        raise InputError("there is no target voxel to measure distances from")
    shell = np.floor(distance_transform_edt(~target) / width)
    pairs = []
    for number in np.unique(shell[distractor]):
        here = shell == number
        if (free & here).any():
            pairs.append((distractor & here, free & here))
    return pairs


def matched_auc(
    relevance: NDArray[np.floating],
    target: NDArray[np.bool_],
    distractor: NDArray[np.bool_],
    free: NDArray[np.bool_],
) -> float:
    """Return the probability that a distractor voxel is above a control voxel as far away.

    Shells count by their number of distractor voxels. 0.5 is what a map should have: the
    distractor shows no more than any other place at that distance. NaN where no shell has both.

    Parameters
    ----------
    relevance, target, distractor, free : (i, j, k)
        The map, and voxels of each kind.
    """
    total, weight = 0.0, 0
    for mine, control in matched_pairs(target, distractor, free):
        both = mine | control
        count = int(mine.sum())
        total += count * roc_auc(relevance[both], mine[both])
        weight += count
    return total / weight if weight else float("nan")
