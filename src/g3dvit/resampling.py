"""Values from one grid to another by affine alone: linear or nearest, constant at the edges.

scipy's own edge modes either shrink the volume to its voxel centres or continue it without an
end; a map of 18 mm patches would lose 9 mm on every side, or paint the air. Here a voxel fills
its whole edge length: values continue to the border of the volume, and are 0 beyond it. Nothing
is warped, smoothed or averaged.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid

Interpolation = Literal["linear", "nearest"]

_BORDER = 0.5 + 1e-6  # a voxel reaches half its edge; the rest keeps ties from being ragged
_SLAB = 1 << 21  # target voxels computed at once, to keep memory flat

#: Into how many parts voxels are divided along each axis, to be looked up in a coarser grid.
_FEWEST_PARTS, _MOST_PARTS = 2, 8
_PARTS_PER_TARGET = 12


def resample_array(
    values: NDArray[np.float32],
    source: ImageGrid,
    target: ImageGrid,
    *,
    interpolation: Interpolation = "linear",
) -> NDArray[np.float32]:
    """Return values of one grid at the voxels of another.

    Parameters
    ----------
    values : (i, j, k) or (i, j, k, t)
        Values on `source`.
    source, target
        The two grids; both in the same world.
    interpolation
        ``"linear"`` or ``"nearest"``.

    Returns
    -------
    (i, j, k) or (i, j, k, t)
        float32 on `target`; 0 outside the volume of `source`.

    Raises
    ------
    InputError
        If the interpolation is unknown.
    """
    if interpolation not in ("linear", "nearest"):
        raise InputError(f"interpolation is 'linear' or 'nearest', was given {interpolation!r}")
    stack = values if values.ndim == 4 else values[..., np.newaxis]
    out = np.zeros((*target.shape, stack.shape[3]), dtype=np.float32)
    rows = max(1, _SLAB // (target.shape[1] * target.shape[2]))
    limit = np.asarray(source.shape, dtype=np.float64).reshape(3, 1) - 1
    for start in range(0, target.shape[0], rows):
        stop = min(start + rows, target.shape[0])
        slab = target.box((start, 0, 0), (stop - start, *target.shape[1:]))
        at = source.world2vox(slab.vox2world(np.indices(slab.shape).reshape(3, -1).T)).T
        inside = ((at >= -_BORDER) & (at <= limit + _BORDER)).all(axis=0)
        at = np.clip(at[:, inside], 0, limit)
        if interpolation == "nearest":
            index = tuple(np.floor(at + _BORDER).astype(np.intp))
        for t in range(stack.shape[3]):
            found = np.zeros(inside.shape, dtype=np.float32)
            if interpolation == "nearest":
                found[inside] = stack[..., t][index]
            else:
                found[inside] = map_coordinates(stack[..., t], at, order=1, mode="nearest")
            out[start:stop, ..., t] = found.reshape(stop - start, *target.shape[1:])
    return out if values.ndim == 4 else out[..., 0]


def average_array(
    values: NDArray[np.floating],
    source: ImageGrid,
    target: ImageGrid,
) -> NDArray[np.float64]:
    """Return means over the voxels of a coarser grid.

    Parameters
    ----------
    values : (i, j, k)
        Values on `source`, finite.
    source, target
        The two grids; where the target is the finer one, values are those of the source's voxels.

    Returns
    -------
    (i, j, k)
        On `target`; NaN where less than half of a voxel lies in the volume of `source`.
    """
    fine = source.voxel_volume_mm3 <= target.voxel_volume_mm3
    if not fine:
        at = np.argwhere(np.ones(target.shape, dtype=bool))
        found = voxel_of(source, target.vox2world(at))
        near = np.asarray(values, dtype=np.float64).ravel()[np.maximum(found, 0)]
        return np.where(found >= 0, near, np.nan).reshape(target.shape)
    flat = np.asarray(values, dtype=np.float64).ravel()
    at = np.argwhere(np.ones(source.shape, dtype=bool))
    size = int(np.prod(target.shape))
    sums, counts = np.zeros(size), np.zeros(size)
    parts = parts_of_voxels(source, target)
    for part in parts:
        found = voxel_of(target, source.vox2world(at + part))
        held = found >= 0
        sums += np.bincount(found[held], flat[held], minlength=size)
        counts += np.bincount(found[held], minlength=size)
    covered = counts / len(parts) * source.voxel_volume_mm3 / target.voxel_volume_mm3
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(covered >= 0.5, sums / counts, np.nan)
    return np.asarray(means.reshape(target.shape))


def parts_of_voxels(
    fine: ImageGrid, coarse: ImageGrid, *, most: int = _MOST_PARTS
) -> NDArray[np.float64]:
    """Return middles of parts of a voxel, so that a coarse voxel holds about 12 along each axis.

    The number along each axis is even, so that no part has its middle where the voxel has its
    own: a voxel whose middle lies on the border of two patches is shared between them, whichever
    way the file is stored.

    Parameters
    ----------
    fine, coarse
        Whose voxels are divided, and where they are looked up.
    most
        Parts along an axis, where time matters more.

    Returns
    -------
    (parts, 3)
        Offsets in voxels of `fine`, -0.5 to 0.5.
    """
    wanted = _PARTS_PER_TARGET * fine.voxel_sizes.max() / coarse.voxel_sizes.min()
    number = int(np.clip(2 * np.ceil(wanted / 2), _FEWEST_PARTS, most))
    middles = (np.arange(number) + 0.5) / number - 0.5
    return np.array(list(product(middles, repeat=3)))


def voxel_of(grid: ImageGrid, points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the raveled index of the voxel that holds each point; -1 outside the grid.

    Parameters
    ----------
    grid
        A box of voxels.
    points : (n, 3)
        World coordinates in mm.
    """
    at = np.floor(grid.world2vox(points) + _BORDER).astype(np.intp)
    inside = ((at >= 0) & (at < np.array(grid.shape))).all(axis=1)
    found = np.full(len(points), -1, dtype=np.intp)
    i, j, k = at[inside].T
    found[inside] = np.ravel_multi_index((i, j, k), grid.shape)
    return found
