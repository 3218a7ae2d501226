"""How much of every region lies in every voxel (or patch) of a map, in mm3.

A map of patches is coarser than an atlas: a patch holds parts of many regions. The finer of the two
grids is gone through by parts of voxels, and each is looked up in the coarser one by its place in
mm. A region's value is then the mean over its volume of the patches that it lies in, as
they are, without interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from g3dvit.errors import GridError
from g3dvit.grids import ImageGrid
from g3dvit.resampling import parts_of_voxels, voxel_of
from g3dvit.shown import Parcellation

_MOST_PARTS = 8
_MOST_LOOKUPS = 6e6


@dataclass(frozen=True, slots=True, eq=False)
class RegionWeights:
    """Volumes of regions in the voxels of a map.

    Parameters
    ----------
    index : (regions,)
        Number of each region in the atlas.
    names
        One per region.
    volumes_mm3 : (regions,)
        Of each region in the atlas, whether the map covers it or not.
    inside_mm3 : (regions, voxels) sparse
        Of each region in each voxel of the map, raveled in C order.
    grid
        Of the map.
    """

    index: NDArray[np.intp]
    names: tuple[str, ...]
    volumes_mm3: NDArray[np.float64]
    inside_mm3: Any
    grid: ImageGrid

    @property
    def labelled_share(self) -> NDArray[np.float64]:
        """Share of every voxel of the map that lies in any region, (voxels,), 0 to 1."""
        total = np.asarray(self.inside_mm3.sum(axis=0)).ravel()
        return np.clip(total / self.grid.voxel_volume_mm3, 0, 1)

    def within(self, mask: NDArray[np.bool_]) -> RegionWeights:
        """Return the same with voxels outside a mask left out, (i, j, k) or raveled."""
        kept = self.inside_mm3 @ sparse.diags(mask.ravel().astype(np.float64))
        return RegionWeights(self.index, self.names, self.volumes_mm3, kept.tocsr(), self.grid)


def region_weights(atlas: Parcellation, grid: ImageGrid) -> RegionWeights:
    """Return how much of each region lies in each voxel of a grid.

    Parameters
    ----------
    atlas
        The regions, in the same space as the grid.
    grid
        Of a map.

    Raises
    ------
    GridError
        If no region lies on the grid.
    """
    numbers = np.array(sorted(n for n in atlas.names if n > 0), dtype=np.intp)
    # Rows of the table instead of numbers, which may be any; -1 where there is no region.
    rows_of = np.searchsorted(numbers, atlas.labels).clip(max=len(numbers) - 1)
    rows_of = np.where(numbers[rows_of] == atlas.labels, rows_of, -1)
    labelled = rows_of >= 0
    counts = np.bincount(rows_of[labelled], minlength=len(numbers))
    fine_atlas = atlas.grid.voxel_volume_mm3 <= grid.voxel_volume_mm3
    at = np.argwhere(labelled) if fine_atlas else np.argwhere(np.ones(grid.shape, dtype=bool))
    inside = sparse.csr_matrix((len(numbers), int(np.prod(grid.shape))))
    if fine_atlas:
        # Of many voxels, fewer parts each: all that counts is how finely regions are divided.
        most = int(max(1, (_MOST_LOOKUPS / len(at)) ** (1 / 3) // 2)) * 2
        parts = parts_of_voxels(atlas.grid, grid, most=min(most, _MOST_PARTS))
    else:
        parts = parts_of_voxels(grid, atlas.grid, most=2)
    for corner in parts:
        if fine_atlas:
            found = voxel_of(grid, atlas.grid.vox2world(at + corner))
            held, unit = found >= 0, atlas.grid.voxel_volume_mm3
            rows, columns = rows_of[labelled][held], found[held]
        else:
            found = voxel_of(atlas.grid, grid.vox2world(at + corner))
            row = np.where(found >= 0, rows_of.ravel()[np.maximum(found, 0)], -1)
            held, unit = row >= 0, grid.voxel_volume_mm3
            rows, columns = row[held], np.flatnonzero(held)
        part = (np.full(len(rows), unit / len(parts)), (rows, columns))
        inside = inside + sparse.coo_matrix(part, shape=inside.shape).tocsr()
    if not inside.nnz:
        raise GridError(
            f"no region of the atlas {atlas.name} lies where the map is; the map and the atlas "
            f"must be in the same space (map {_box(grid)}, atlas {_box(atlas.grid)})"
        )
    names = tuple(atlas.names[int(n)] for n in numbers)
    volumes = counts * atlas.grid.voxel_volume_mm3
    return RegionWeights(numbers, names, volumes.astype(np.float64), inside, grid)


def _box(grid: ImageGrid) -> str:
    corners = grid.vox2world(np.array([[0, 0, 0], grid.shape]) - [[0], [1]])
    low, high = corners.min(axis=0).round(), corners.max(axis=0).round()
    return " x ".join(f"{a:g}..{b:g}" for a, b in zip(low, high, strict=True)) + " mm"
