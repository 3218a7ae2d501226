"""What a voxel adds where a model normalises each patch: told against the patch's surroundings.

A normalisation straight on the voxels of a patch subtracts their mean, so that the score, with
gates frozen, depends on differences within the patch only: its slopes ``s_v = dy/dx_v`` add up to
zero over the patch, and

    sum_{v in p} s_v (x_v - r)

is the same content of patch p for EVERY reference r. How the content is shared among the voxels
of a patch is therefore a matter of what they are compared with; how much the patch holds is not.
Compared with the patch's own mean, the quiet side of a border that cuts the patch has a share as
well. Here r is the level of the surroundings, so that what differs from them has the share.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from jaxtyping import Float
from torch import Tensor

#: Slopes that add up to less than this part of their size count as adding up to zero.
_ZERO = 1e-3


def local_voxels(
    plain: Float[Tensor, "batch i j k"],
    at_zero: Float[Tensor, "batch i j k"],
    slopes: Float[Tensor, "batch i j k"],
    values: Float[Tensor, "batch i j k"],
    grid: tuple[int, int, int],
) -> Float[Tensor, "batch i j k"]:
    """Return the relevance of voxels against the level of their patch's surroundings.

    ``R_v = s_v (x_v - r_p)`` with r_p from `surrounding_level`. Every patch adds up to what it
    holds of the score, whatever r_p, and the map is the same for ``x -> 2 x + 1``. Patches whose
    slopes do not add up to zero (a normalisation over more than one patch) keep `plain`.

    Parameters
    ----------
    plain : (batch, i, j, k)
        Relevance of voxels as frozen gates give it, from the output of the normalisation on.
    at_zero : (batch, i, j, k)
        Slope times value, summed over channels.
    slopes : (batch, i, j, k)
        Gradient of the score at the voxels, gates frozen, summed over channels.
    values : (batch, i, j, k)
        The voxels, mean over channels.
    grid : (3,)
        Number of patches along i, j, k.

    Examples
    --------
    One voxel of a patch of four is active: against the patch's mean all have a share, against the
    surroundings only that one.

    >>> x = torch.tensor([0.0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0]).reshape(1, 12, 1, 1)
    >>> s = torch.tensor([0.0, 0, 0, 0, -1, -1, 3, -1, 0, 0, 0, 0]).reshape(1, 12, 1, 1)
    >>> mean = s * (x - 2)
    >>> mean.flatten()[4:8].tolist()
    [2.0, 2.0, 18.0, 2.0]
    >>> local_voxels(mean, s * x, s, x, (3, 1, 1)).flatten()[4:8].tolist()
    [0.0, 0.0, 24.0, 0.0]
    """
    edges = [n // g for n, g in zip(plain.shape[-3:], grid, strict=True)]
    level = _to_voxels(surrounding_level(values, grid), edges)
    total, size = (_to_voxels(_patch_sums(s, grid), edges) for s in (slopes, slopes.abs()))
    found = at_zero - slopes * level
    return torch.where(total.abs() <= _ZERO * size, found, plain).to(plain.dtype)


def surrounding_level(
    values: Float[Tensor, "batch i j k"], grid: tuple[int, int, int]
) -> Float[Tensor, "batch gi gj gk"]:
    """Return the level around each patch: the median of its own and its neighbours' medians.

    Of up to 27 patches; there are fewer at the border of the volume. An activation that does not
    fill half of them does not move it.

    Parameters
    ----------
    values : (batch, i, j, k)
        A volume.
    grid : (3,)
        Number of patches along i, j, k.
    """
    medians = _blocks(values, grid).flatten(4).median(dim=4).values
    padded = F.pad(medians, (1, 1, 1, 1, 1, 1), value=float("nan"))
    gi, gj, gk = grid
    around = [
        padded[:, i : i + gi, j : j + gj, k : k + gk]
        for i in range(3) for j in range(3) for k in range(3)
    ]  # fmt: skip
    return torch.stack(around, dim=4).nanmedian(dim=4).values


def _blocks(values: Tensor, grid: tuple[int, int, int]) -> Float[Tensor, "batch gi gj gk p q r"]:
    (gi, gj, gk), (i, j, k) = grid, values.shape[-3:]
    split = values.reshape(-1, gi, i // gi, gj, j // gj, gk, k // gk)
    return split.permute(0, 1, 3, 5, 2, 4, 6)


def _patch_sums(values: Tensor, grid: tuple[int, int, int]) -> Tensor:
    return _blocks(values, grid).sum((4, 5, 6))


def _to_voxels(values: Tensor, edges: list[int]) -> Tensor:
    for axis, edge in enumerate(edges, start=1):
        values = values.repeat_interleave(edge, dim=axis)
    return values
