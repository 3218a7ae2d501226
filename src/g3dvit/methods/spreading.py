"""From a number per patch to its voxels: how much is the patch's, where is the voxels' to say.

Each function takes the relevance of patches and of voxels and gives values per voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Spreading = Literal["positive", "signed", "both"]

#: What evidence against a class counts where it is spread like evidence for it.
AGAINST = 0.5


def spread(
    relevance: Float[Tensor, "batch ... gi gj gk"], voxels: Float[Tensor, "batch ... i j k"]
) -> Float[Tensor, "batch ... i j k"]:
    """Spread each patch's positive relevance over its voxels, in proportion to their magnitude."""
    nothing = torch.zeros_like(relevance, dtype=torch.bool)
    return _spread_over(relevance.clamp_min(0), voxels.abs(), nothing)


def spread_signed(
    relevance: Float[Tensor, "batch ... gi gj gk"], voxels: Float[Tensor, "batch ... i j k"]
) -> Float[Tensor, "batch ... i j k"]:
    """Spread each patch's relevance over its voxels; what speaks for the class, finely.

    ``F(v) = R_p max(R_v, 0) / sum_{u in p} max(R_u, 0)`` where R_p > 0, and ``R_p`` over the
    number of voxels elsewhere: no detail is claimed where a patch as a whole speaks against the
    class. The voxels of a patch add up to ``R_p``, content and position.
    """
    return _spread_over(relevance, voxels.clamp_min(0), relevance <= 0)


def spread_both(
    relevance: Float[Tensor, "batch ... gi gj gk"], voxels: Float[Tensor, "batch ... i j k"]
) -> Float[Tensor, "batch ... i j k"]:
    """Spread what speaks for the class and what speaks against it alike, the latter by half.

    ``F(v) = R_p max(R_v, 0) / sum_{u in p} max(R_u, 0)`` where R_p > 0, and
    ``F(v) = R_p max(-R_v, 0) / (2 sum_{u in p} max(-R_u, 0))`` where R_p < 0. Over shifts the two
    cancel where a place is active and says nothing of the class. Counted in full, evidence against
    hides the inside of large places; not counted at all, it lets what is merely active stand out
    (``docs/methods.md`` has the numbers).
    """
    sign = _to_voxels(torch.where(relevance > 0, 1.0, -1.0), _edges(relevance, voxels))
    nowhere = torch.zeros_like(relevance, dtype=torch.bool)
    counted = torch.where(relevance > 0, relevance, AGAINST * relevance)
    return _spread_over(counted, (sign * voxels).clamp_min(0), nowhere)


def _spread_over(relevance: Tensor, weights: Tensor, evenly: Tensor) -> Tensor:
    """Spread patches over voxels by weights; evenly where told, or where there is no weight."""
    grid = relevance.shape[-3:]
    edges = _edges(relevance, weights)
    sums = per_patch(weights, grid)
    flat = evenly | (sums == 0)
    share = weights / _to_voxels(torch.where(flat, 1.0, sums), edges)
    even = 1 / (edges[0] * edges[1] * edges[2])
    return torch.where(_to_voxels(flat, edges), even, share) * _to_voxels(relevance, edges)


def per_patch(voxels: Tensor, grid: Sequence[int]) -> Tensor:
    """Return the sum over each patch, (..., i, j, k) to (..., gi, gj, gk)."""
    edges = [n // g for n, g in zip(voxels.shape[-3:], grid, strict=True)]
    sizes = [n for pair in zip(grid, edges, strict=True) for n in pair]
    return voxels.reshape(*voxels.shape[:-3], *sizes).sum((-5, -3, -1))


def _to_voxels(patches: Tensor, edges: Sequence[int]) -> Tensor:
    for axis, edge in zip((-3, -2, -1), edges, strict=True):
        patches = patches.repeat_interleave(edge, dim=axis)
    return patches


def _edges(patches: Tensor, voxels: Tensor) -> list[int]:
    """Return the edges of a patch in voxels."""
    return [n // g for n, g in zip(voxels.shape[-3:], patches.shape[-3:], strict=True)]


#: By name.
SPREADS: Mapping[Spreading, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"positive": spread, "signed": spread_signed, "both": spread_both}
)
