"""What a model can see of a planted signal.

A model that normalises each patch by itself (Dual PatchNorm) does not see a constant that is
added to a whole patch. A voxel counts as truth only where the patch that it lies in differs,
after that normalisation, from the same patch without the signal.

References
----------
Kumar et al. 2023, Dual PatchNorm, https://arxiv.org/abs/2302.01327
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import GridError
from g3dvit.grids import Shape3
from g3dvit.phantoms.values import PhantomVolumes

_EPSILON = 1e-5  # of torch's layer normalisation


def visible_patches(
    volumes: NDArray[np.float32],
    without: NDArray[np.float32],
    patch_size: Shape3,
    *,
    patch_norm: bool = True,
    tolerance: float = 1e-3,
) -> NDArray[np.bool_]:
    """Tell which patches look different with and without the signal.

    Parameters
    ----------
    volumes, without : (n, i, j, k)
        Pairs of volumes.
    patch_size : (3,)
        In voxels; divides the shape.
    patch_norm
        True where the model normalises each patch by itself before it looks at it.
    tolerance
        Largest difference that still counts as none: in standard deviations of the patch with
        `patch_norm`, else in units of the volume.

    Returns
    -------
    (n, gi, gj, gk) bool

    Raises
    ------
    GridError
        If the patch size does not divide the shape.
    """
    a, b = _patches(volumes, patch_size), _patches(without, patch_size)
    if patch_norm:
        a, b = _normalised(a), _normalised(b)
    return np.asarray(np.abs(a - b).max(axis=-1) > tolerance)


def correct_truth(
    phantom: PhantomVolumes, patch_size: Shape3, *, patch_norm: bool = True
) -> PhantomVolumes:
    """Take from both truths what a model cannot see; it is ignored, not called empty."""
    seen = visible_patches(phantom.volumes, phantom.without, patch_size, patch_norm=patch_norm)
    for axis, edge in enumerate(patch_size, start=1):
        seen = np.repeat(seen, edge, axis=axis)
    hidden = (phantom.used | phantom.associated) & ~seen
    # What shows a suppressor does not differ between the pair: it is in both volumes.
    suppressor = phantom.used & ~phantom.associated
    hidden &= ~suppressor
    return replace(
        phantom,
        used=phantom.used & ~hidden,
        associated=phantom.associated & ~hidden,
        ignored=phantom.ignored | hidden,
    )


def _patches(volumes: NDArray[np.float32], size: Shape3) -> NDArray[np.float64]:
    n, *shape = volumes.shape
    if any(s % p for s, p in zip(shape, size, strict=True)):
        raise GridError(f"patches of {size} voxels do not divide volumes of {tuple(shape)}")
    (i, j, k), (p, q, r) = (s // p for s, p in zip(shape, size, strict=True)), size
    split = volumes.astype(np.float64).reshape(n, i, p, j, q, k, r)
    return split.transpose(0, 1, 3, 5, 2, 4, 6).reshape(n, i, j, k, p * q * r)


def _normalised(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = patches - patches.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _EPSILON))
