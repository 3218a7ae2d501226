"""Whether a random map as smooth would put as much into a region: surrogates, z and p.

A map finer than surrogates can be is averaged over cubes of voxels, far below a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from g3dvit.grids import ImageGrid
from g3dvit.regions.weights import RegionWeights
from g3dvit.surrogates import two_sided_p, variogram_surrogates

#: Places of surrogates.
_MOST_BLOCKS = 2000


def with_surrogates(
    values: NDArray[np.float64],
    weights: RegionWeights,
    inside: NDArray[np.bool_],
    ranked: NDArray[np.bool_],
    *,
    n_surrogates: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return means of ranked regions: (maps, 1 + surrogates, regions), the map itself first."""
    nothing = np.empty((len(values), 0, int(ranked.sum())))
    if not n_surrogates or not ranked.any():
        return nothing
    blocks = coarse_blocks(weights.grid, inside)
    if len(blocks.coordinates_mm) < 20 or not np.ptp(values[:, inside.ravel()], axis=1).all():
        return nothing  # too few places, or a map without any difference
    # Regions are read from blocks: a thousand maps of all voxels would not fit into memory.
    held = (weights.inside_mm3 @ blocks.members)[ranked]
    held = sparse.diags(1 / np.asarray(held.sum(axis=1)).ravel()) @ held
    found = []
    for number, one in enumerate(values):
        # The map as its surrogates see it, so that both are equally coarse.
        own = blocks.mean_of(one)
        surrogates = variogram_surrogates(
            own,
            blocks.coordinates_mm,
            n_surrogates=n_surrogates,
            seed=seed + 1000 * number,
        )
        found.append((held @ np.concatenate([own[None], surrogates]).T).T)
    return np.stack(found)


def p_values(
    every: NDArray[np.float64], ranked: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return z and p of each ranked region against surrogates, p also corrected over regions."""
    z, p, corrected = np.full((3, len(ranked)), np.nan)
    if every.shape[1] < 2:
        return z, p, corrected
    root = np.sqrt(len(every))
    centre, spread = every[:, 1:].mean(axis=1), np.maximum(every[:, 1:].std(axis=1, ddof=1), 1e-30)
    z[ranked] = ((every[:, 0] - centre) / spread).sum(axis=0) / root
    # For p the map is one of the random ones, first among them: all are treated alike.
    alike = np.sum([_standardised(one) for one in every], axis=0) / root
    p[ranked] = [two_sided_p(float(a), alike[1:, n]) for n, a in enumerate(alike[0])]
    largest = np.abs(alike[1:]).max(axis=1)
    count = (largest >= np.abs(alike[0])[:, None] * (1 - 1e-12)).sum(axis=1)
    # The middle of p is a median, that of z a mean: a corrected p is never below its own.
    corrected[ranked] = np.maximum(p[ranked], (1 + count) / (1 + len(largest)))
    return z, p, corrected


def _standardised(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values (maps, regions) in standard deviations over maps, around their mean."""
    spread = np.maximum(maps.std(axis=0, ddof=1), 1e-30)
    return np.asarray((maps - maps.mean(axis=0)) / spread)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Groups of neighbouring voxels, few enough for surrogates.

    Parameters
    ----------
    of_voxel : (voxels,)
        Block of each voxel of the map, raveled; -1 outside the mask.
    coordinates_mm : (blocks, 3)
        Mean place of each block's voxels.
    edge
        Of a block, in voxels.
    """

    of_voxel: NDArray[np.intp]
    coordinates_mm: NDArray[np.float64]
    edge: int

    def mean_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over each block, (voxels,) to (blocks,)."""
        inside = self.of_voxel >= 0
        blocks = self.of_voxel[inside]
        return np.bincount(blocks, values[inside]) / np.bincount(blocks)

    @property
    def members(self) -> Any:
        """Return 1 where a voxel lies in a block, (voxels, blocks) sparse."""
        at = np.flatnonzero(self.of_voxel >= 0)
        shape = (len(self.of_voxel), len(self.coordinates_mm))
        return sparse.csr_matrix((np.ones(len(at)), (at, self.of_voxel[at])), shape=shape)


def coarse_blocks(grid: ImageGrid, mask: NDArray[np.bool_], limit: int = _MOST_BLOCKS) -> Blocks:
    """Return the smallest cubes of voxels of which at most `limit` lie in a mask."""
    at = np.argwhere(mask)
    edge = max(1, int((len(at) / limit) ** (1 / 3)))
    while True:
        cell = np.ravel_multi_index(tuple((at // edge).T), grid.shape)
        cells, number = np.unique(cell, return_inverse=True)
        if len(cells) <= limit:
            break
        edge += 1
    of_voxel = np.full(mask.size, -1, dtype=np.intp)
    of_voxel[np.flatnonzero(mask.ravel())] = number.ravel()
    places = grid.vox2world(at)
    count = np.bincount(number.ravel())
    centres = np.stack([np.bincount(number.ravel(), places[:, n]) / count for n in range(3)], 1)
    return Blocks(of_voxel, centres, edge)
