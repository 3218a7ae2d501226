"""Volumes on another grid of the same world: exact slicing where possible, else interpolation.

Nothing is warped. Where every target voxel falls on a source voxel (to a thousandth of a voxel),
with axes flipped or exchanged as need be, values are copied and none changes. Otherwise
they are interpolated as `nilearn.image.resample_img` does: target voxels beyond the outermost
source voxel centres get the fill value, and there is no anti-aliasing filter (smooth before
going to larger voxels). Here a target voxel that lies exactly on the rim is never lost to the
rounding of a product of matrices.

Relevance maps go the other way through `g3dvit.resampling`, which keeps the half voxel at the
rim; volumes are prepared as the field's tools prepared the training data.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from g3dvit.grids import ImageGrid, Shape3

Interpolation = Literal["linear", "nearest", "continuous"]
SPLINE_ORDER: dict[str, int] = {"nearest": 0, "linear": 1, "continuous": 3}
_EXACT_VOX = 1e-3
_RIM_VOX = 1e-6
_Box = tuple[tuple[int, int], ...]


def place(
    data: NDArray[np.float32], start: tuple[int, ...], shape: Shape3, fill: float = 0.0
) -> NDArray[np.float32]:
    """Return the box of `shape` that begins at voxel `start`; it may reach beyond the data."""
    stop = [first + n for first, n in zip(start, shape, strict=True)]
    inner = [
        slice(max(first, 0), max(min(last, n), max(first, 0)))
        for first, last, n in zip(start, stop, data.shape, strict=True)
    ]
    found = data[tuple(inner)]
    if found.shape == shape:
        return np.array(found, order="K")
    box = np.full(shape, fill, dtype=np.float32)
    box[
        tuple(
            slice(part.start - first, part.start - first + n)
            for part, first, n in zip(inner, start, found.shape, strict=True)
        )
    ] = found
    return box


def exact_move(
    source: ImageGrid, target: ImageGrid
) -> tuple[tuple[int, ...], tuple[bool, ...], tuple[int, ...]] | None:
    """Return how a target grid slices a source grid, or None where voxels do not coincide.

    Returns
    -------
    order : (3,)
        Source axis of every target axis.
    flips : (3,)
        Which target axes run against their source axis.
    start : (3,)
        First voxel of the target after the exchange and the flips.
    """
    matrix, offset = vox2vox(source, target)
    whole = np.round(matrix)
    if (np.abs(whole).sum(axis=0) != 1).any() or (np.abs(whole).sum(axis=1) != 1).any():
        return None
    first = np.round(offset)
    corner = np.asarray(target.shape, dtype=np.float64)
    error = np.abs(matrix - whole) @ corner + np.abs(offset - first)
    if error.max() > _EXACT_VOX:
        return None
    order = tuple(int(np.abs(whole[:, axis]).argmax()) for axis in range(3))
    flips = tuple(bool(whole[a, axis] < 0) for axis, a in enumerate(order))
    start = tuple(
        int(source.shape[a] - 1 - first[a]) if flip else int(first[a])
        for a, flip in zip(order, flips, strict=True)
    )
    return order, flips, start


def vox2vox(
    source: ImageGrid, target: ImageGrid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix and offset from target voxel to source voxel."""
    both = np.linalg.inv(source.affine) @ target.affine
    return both[:3, :3], both[:3, 3]


def to_grid(
    data: NDArray[np.float32],
    source: ImageGrid,
    target: ImageGrid,
    *,
    interpolation: Interpolation = "linear",
    fill: float = 0.0,
) -> NDArray[np.float32]:
    """Return a volume on another grid.

    Parameters
    ----------
    data : (i, j, k) float32
        Finite values on `source`.
    source, target
        Both grids, in the same world.
    interpolation
        ``"linear"``, ``"nearest"`` or ``"continuous"`` (cubic spline, clipped to the range of
        the data and 0, as nilearn does).
    fill
        Value beyond the source.

    Returns
    -------
    (i, j, k) float32
        Values on `target`.
    """
    move = exact_move(source, target)
    if move is not None:
        order, flips, start = move
        turned = data.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
        return place(turned, start, target.shape, fill)
    matrix, offset = vox2vox(source, target)
    spline = SPLINE_ORDER[interpolation]
    values = ndimage.spline_filter(data, 3, mode="mirror") if spline == 3 else data
    diagonal = np.abs(matrix - np.diag(np.diag(matrix))).max() < 1e-12
    moved = np.empty(target.shape, dtype=np.float32)
    ndimage.affine_transform(
        values,
        np.diag(matrix) if diagonal else matrix,
        offset=offset,
        output_shape=target.shape,
        output=moved,
        order=spline,
        mode="mirror",
        prefilter=False,
    )
    if spline == 3:
        np.clip(moved, min(float(data.min()), 0.0), max(float(data.max()), 0.0), out=moved)
    moved[_beyond(source.shape, target.shape, matrix.tobytes(), offset.tobytes())] = fill
    return moved


@lru_cache(maxsize=8)
def _beyond(
    source: Shape3, target: Shape3, matrix_bytes: bytes, offset_bytes: bytes
) -> NDArray[np.bool_]:
    """Return which target voxels lie beyond the voxel centres of the source."""
    matrix = np.frombuffer(matrix_bytes).reshape(3, 3)
    offset = np.frombuffer(offset_bytes)
    i, j, k = np.ogrid[tuple(slice(n) for n in target)]
    beyond = np.zeros(target, dtype=np.bool_)
    for row, first, n in zip(matrix, offset, source, strict=True):
        at = row[0] * i + row[1] * j + row[2] * k + first
        beyond |= (at < -_RIM_VOX) | (at > n - 1 + _RIM_VOX)
    return beyond
