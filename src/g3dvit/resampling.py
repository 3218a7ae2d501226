"""Values from one grid to another by affine alone: linear or nearest, constant at the edges.

scipy's own edge modes either shrink the volume to its voxel centres or continue it without an
end; a map of 18 mm patches would lose 9 mm on every side, or paint the air. Here a voxel fills
its whole edge length: values continue to the border of the volume, and are 0 beyond it. Nothing
is warped, smoothed or averaged.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid

Interpolation = Literal["linear", "nearest"]

_BORDER = 0.5 + 1e-6  # a voxel reaches half its edge; the rest keeps ties from being ragged
_SLAB = 1 << 21  # target voxels computed at once, to keep memory flat


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
