"""Shifts of a volume by parts of a patch: which ones, and there and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from g3dvit.errors import MethodError

Shift = tuple[int, int, int]

#: One of the fractions with which a sequence fills a cube evenly (Roberts 2018): the plastic
#: number's analogue in three dimensions.
_EVEN = 1.2207440846057596


def choose_shifts(count: int, patch_size: Sequence[int]) -> tuple[Shift, ...]:
    """Return shifts that put the borders between patches evenly over a patch.

    Parameters
    ----------
    count
        How many. A cube number (1, 8, 27, 64) gives a regular grid, any other number an even
        sequence that begins with no shift at all.
    patch_size : (3,)
        In voxels.

    Raises
    ------
    MethodError
        If `count` is not positive, or larger than the number of different shifts.

    Examples
    --------
    >>> sorted({i for i, _, _ in choose_shifts(27, (5, 5, 5))})
    [-2, 0, 2]
    >>> choose_shifts(1, (5, 5, 5))
    ((0, 0, 0),)
    """
    edges = [int(edge) for edge in patch_size]
    most = edges[0] * edges[1] * edges[2]
    if not 1 <= count <= most:
        raise MethodError(
            f"the number of shifts lies between 1 and the {most} voxels of a patch; was given "
            f"{count}"
        )
    per_axis = round(count ** (1 / 3))
    if per_axis**3 == count and per_axis <= min(edges):
        axes = [[_offset((n + 0.5) / per_axis, edge) for n in range(per_axis)] for edge in edges]
        return tuple((i, j, k) for i in axes[0] for j in axes[1] for k in axes[2])
    chosen: dict[Shift, None] = {}
    number = 0
    while len(chosen) < count:
        i, j, k = (
            _offset((0.5 + number * _EVEN**-power) % 1, edge)
            for power, edge in enumerate(edges, start=1)
        )
        chosen[(i, j, k)] = None
        number += 1
    return tuple(chosen)


def _offset(place: float, edge: int) -> int:
    """Return the shift that stands for a place between 0 and 1 in a patch; 0.5 is no shift."""
    offset = (place - 0.5) * edge
    return int(abs(offset) + 0.5) * (1 if offset > 0 else -1)


def shift_volume(x: Tensor, shift: Shift, axes: Sequence[int]) -> Tensor:
    """Move what is in a volume; the space that it leaves takes the nearest voxel's value."""
    for axis, by in zip(axes, shift, strict=True):
        if by:
            n = x.shape[axis]
            source = (torch.arange(n, device=x.device) - by).clamp(0, n - 1)
            x = x.index_select(axis, source)
    return x


def moved_back(fine: Tensor, shift: Shift) -> Tensor:
    """Return the maps of shifted volumes where they belong; 0 where the shift sees nothing."""
    here, there = overlap(shift, fine.shape[-3:])
    back = torch.zeros_like(fine)
    back[here] = fine[there]
    return back


def overlap(shift: Shift, shape: Sequence[int]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return which voxels a shift sees, and where they are in the shifted volume."""
    here = [slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, shape, strict=True)]
    there = [slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, shape, strict=True)]
    return (..., *here), (..., *there)
