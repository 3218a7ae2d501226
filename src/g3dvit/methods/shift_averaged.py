"""Shift-averaged relevance: the finest map to show, from frozen-gate maps of shifted inputs.

For each shift of the input, what a token contributes in total says how much, and the voxel map
says where inside the patch; maps are shifted back and averaged, so that the borders between
patches lie somewhere else each time. Terms: a shift is *kept* for a volume where it does not
change the model's decision, and *sees* a voxel that it does not push out of the volume. Kept shifts
count alike (`shift_averaged`), or by the evidence that the moved volume keeps (`shift_weighted`).

The map is not negative and made for display. For statistics use frozen-gate content with one
fixed target: contrasts of maps that are positive for their own class find differences where
there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from g3dvit.errors import MethodError
from g3dvit.methods.spreading import SPREADS, Spreading, per_patch

Shift = tuple[int, int, int]

#: One of the fractions with which a sequence fills a cube evenly (Roberts 2018): the plastic
#: number's analogue in three dimensions.
_EVEN = 1.2207440846057596


@dataclass(frozen=True, slots=True, eq=False)
class ShiftInputs:
    """What frozen gates say about one batch of inputs.

    Parameters
    ----------
    decision : (batch,)
        The class that the model chose.
    relevance : (batch, ..., gi, gj, gk)
        Content and position of each patch.
    voxels : (batch, ..., i, j, k)
        Relevance of each voxel.
    evidence : (batch,)
        How much speaks for what the model chose for the volume as it is: how far that class leads
        over the next. Only `shift_weighted` needs it.
    local : (batch, ..., i, j, k)
        Relevance of each voxel against its surroundings, for ways that are `local`.
    """

    decision: Int[Tensor, " batch"]
    relevance: Float[Tensor, "batch ... gi gj gk"] = field(repr=False)
    voxels: Float[Tensor, "batch ... i j k"] = field(repr=False)
    evidence: Float[Tensor, " batch"] | None = field(default=None, repr=False)
    local: Float[Tensor, "batch ... i j k"] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to average the maps of shifted inputs.

    Parameters
    ----------
    weighted
        Shifts count by the evidence that they keep (`shift_weighted`); kept ones alike otherwise.
    spreading
        Of a patch over its voxels, a key of `g3dvit.methods.spreading.SPREADS`.
    local
        Voxels against their surroundings say where in a patch.
    """

    weighted: bool = False
    spreading: Spreading = "positive"
    local: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ShiftAveraged:
    """Shift-averaged maps.

    Parameters
    ----------
    voxels : (batch, ..., i, j, k)
        Positive evidence per voxel, in units of the score; not negative.
    relevance : (batch, ..., gi, gj, gk)
        Its sum per patch.
    kept : (batch,)
        How many shifts did not change the decision.
    unshifted : (batch,)
        True where all shifts changed it, so that the map is the unshifted one.
    moved_share : (batch,)
        Share of the map's weight that moved volumes have.
    agreement : (batch,)
        Correlation over patches with the map of the volume as it is, spread alike; the lowest of
        the targets. Only of weighted ways.
    """

    voxels: Float[Tensor, "batch ... i j k"] = field(repr=False)
    relevance: Float[Tensor, "batch ... gi gj gk"] = field(repr=False)
    kept: Int[Tensor, " batch"]
    unshifted: Bool[Tensor, " batch"]
    moved_share: Float[Tensor, " batch"]
    agreement: Float[Tensor, " batch"] | None = None


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


def shift_averaged(
    x: Float[Tensor, "batch ..."],
    explain: Callable[[Tensor], ShiftInputs],
    shifts: Sequence[Shift],
    axes: Sequence[int],
    *,
    spreading: Spreading = "positive",
    decision: Int[Tensor, " batch"] | None = None,
) -> ShiftAveraged:
    """Average frozen-gate maps over shifts of the input.

    For shift s, ``F_s(v) = max(R_p, 0) |R_v| / sum_{u in p} |R_u|`` for voxel v of patch p of the
    shifted input (`spread`), or that of another `spreading`. The map is the mean of
    ``F_s(v + s)`` over the kept shifts that see v. A token whose voxels all have no relevance
    spreads evenly.

    Parameters
    ----------
    x : (batch, ...)
        The input of the model.
    explain
        Runs the model with frozen gates on another input of the same shape. The score is the same
        for all inputs of a volume: that of the volume's own target.
    shifts
        Voxels by which the content moves along (i, j, k). The space that it leaves is filled with
        the nearest voxel; nothing comes in from the other side.
    axes : (3,)
        Where i, j, k are on the axes of `x`, the batch being axis 0.
    spreading
        ``"positive"`` keeps what speaks for the class, ``"signed"`` and ``"both"`` the rest as well
        (`g3dvit.methods.spreading`).
    decision : (batch,)
        What the model chooses for the input itself, where it is known already: the input is then
        explained only where its own map is needed.

    Returns
    -------
    ShiftAveraged

    Raises
    ------
    MethodError
        If there is no shift, or one is larger than the volume.
    """
    (found,) = shift_maps(x, explain, shifts, axes, (Way(spreading=spreading),), decision=decision)
    return found


def shift_weighted(
    x: Float[Tensor, "batch ..."],
    explain: Callable[[Tensor], ShiftInputs],
    shifts: Sequence[Shift],
    axes: Sequence[int],
    *,
    spreading: Spreading = "positive",
    decision: Int[Tensor, " batch"] | None = None,
) -> ShiftAveraged:
    """Average frozen-gate maps over shifts of the input, each by the evidence that it keeps.

    As `shift_averaged`, with weights in place of "kept or not": ``w_s = clip(m_s / m, 0, 1)^2``, m
    the evidence of the volume as it is and m_s that of the volume at shift s. What moved volumes
    lack goes to the volume as it is: its map counts ``sum_s (1 - w_s)``. Where moving changes
    nothing this is `shift_averaged`; where moved volumes say nothing of the decision it is the
    map of the volume as it is.

    Parameters
    ----------
    x, explain, shifts, axes, spreading, decision
        As for `shift_averaged`; what `explain` returns has the evidence.

    Raises
    ------
    MethodError
        As for `shift_averaged`.
    """
    way = Way(weighted=True, spreading=spreading)
    (found,) = shift_maps(x, explain, shifts, axes, (way,), decision=decision)
    return found


def shift_maps(
    x: Float[Tensor, "batch ..."],
    explain: Callable[[Tensor], ShiftInputs],
    shifts: Sequence[Shift],
    axes: Sequence[int],
    ways: Sequence[Way],
    *,
    decision: Int[Tensor, " batch"] | None = None,
) -> tuple[ShiftAveraged, ...]:
    """Average the same maps in several ways; every input is explained once.

    Parameters
    ----------
    x, explain, shifts, axes, decision
        As for `shift_averaged`.
    ways
        One per result.
    """
    lengths = [x.shape[axis] for axis in axes]
    if not shifts or any(abs(s) >= n for one in shifts for s, n in zip(one, lengths, strict=True)):
        raise MethodError(
            f"`shifts` are one or more (i, j, k) in voxels, each smaller than the volume of "
            f"{tuple(lengths)}; was given {tuple(shifts)!r}"
        )
    still = explain(x) if decision is None or any(way.weighted for way in ways) else None
    if decision is None:
        assert still is not None
        decision = still.decision
    sums = [_Sum() for _ in ways]
    kept = torch.zeros_like(decision, dtype=torch.int64)
    for one in shifts:
        if not any(one):
            moved = still = still or explain(x)
        else:
            moved = explain(shift_volume(x, one, axes))
        same = moved.decision == decision
        kept += same
        fine = _spread_in(moved, ways)
        for way, running in zip(ways, sums, strict=True):
            weight = same.to(fine[way].dtype)
            if way.weighted:
                weight = weight * evidence_kept(still, moved).to(weight.dtype)
            running.add(fine[way], weight, one)
        grid = moved.relevance.shape[-3:]
    found = []
    for way, running in zip(ways, sums, strict=True):
        share = running.weight / len(shifts)
        rest = 1 - share if way.weighted else (kept == 0).to(share.dtype)
        if bool(rest.any()):
            still = still or explain(x)
            running.add(_spread_in(still, (way,))[way], rest * len(shifts), (0, 0, 0))
        voxels = running.mean()
        patches, like = per_patch(voxels, grid), None
        if way.weighted and still is not None:
            like = _agreement(patches, per_patch(_spread_in(still, (way,))[way], grid))
        found.append(ShiftAveraged(voxels, patches, kept, kept == 0, share.float(), like))
    return tuple(found)


def _agreement(one: Tensor, other: Tensor) -> Float[Tensor, " batch"]:
    """Return the correlation over patches, (batch, ..., gi, gj, gk); 1 where a map is flat."""
    a, b = (m.flatten(-3).double() for m in (one, other))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    size = a.norm(dim=-1) * b.norm(dim=-1)
    found = torch.where(size > 0, (a * b).sum(-1) / torch.where(size > 0, size, 1.0), 1.0)
    return found.reshape(len(found), -1).amin(1)


def _spread_in(inputs: ShiftInputs, ways: Sequence[Way]) -> dict[Way, Tensor]:
    """Return patches spread over their voxels, for each way; the same is computed once."""
    found: dict[Way, Tensor] = {}
    for way in ways:
        key = replace(way, weighted=False)
        if key not in found:
            voxels = inputs.local if way.local else inputs.voxels
            assert voxels is not None  # local ways are asked for with them
            found[key] = SPREADS[way.spreading](inputs.relevance, voxels)
    return {way: found[replace(way, weighted=False)] for way in ways}


def evidence_kept(still: ShiftInputs | None, moved: ShiftInputs) -> Float[Tensor, " batch"]:
    """Return the weight of moved volumes: the square of the share of the evidence that is left.

    Linear weights did as well on blobs and boxes of the development phantoms, and less well on
    textures, where most of a moved volume's evidence is gone (``docs/methods.md``).
    """
    assert still is not None
    assert still.evidence is not None  # weighted maps are asked for with it
    assert moved.evidence is not None
    own, left = still.evidence.double(), moved.evidence.double()
    share = torch.where(own != 0, left / torch.where(own != 0, own, 1.0), 0.0)
    return share.nan_to_num(nan=0.0).clamp(0, 1) ** 2


class _Sum:
    """A weighted mean of maps that are shifted back, each voxel over those that see it."""

    def __init__(self) -> None:
        self._total = self._seen = torch.zeros(())
        self.weight = torch.zeros(())

    def add(self, fine: Tensor, weight: Tensor, shift: Shift) -> None:
        """Add maps (batch, ..., i, j, k) of shifted volumes with their weights (batch,)."""
        if not self._total.ndim:
            self._total = torch.zeros_like(fine)
            self._seen = fine.new_zeros(len(fine), *(1,) * (fine.ndim - 4), *fine.shape[-3:])
            self.weight = torch.zeros_like(weight)
        here, there = _overlap(shift, fine.shape[-3:])
        by = weight.reshape(-1, *(1,) * (fine.ndim - 1))
        self._total[here] += torch.where(by > 0, fine[there], 0.0) * by
        self._seen[here] += by
        self.weight = self.weight + weight

    def mean(self) -> Tensor:
        """Return the mean of what sees each voxel; 0 where nothing does."""
        return self._total / torch.where(self._seen > 0, self._seen, 1.0)


def shift_volume(x: Tensor, shift: Shift, axes: Sequence[int]) -> Tensor:
    """Move what is in a volume; the space that it leaves takes the nearest voxel's value."""
    for axis, by in zip(axes, shift, strict=True):
        if by:
            n = x.shape[axis]
            source = (torch.arange(n, device=x.device) - by).clamp(0, n - 1)
            x = x.index_select(axis, source)
    return x


def _overlap(shift: Shift, shape: Sequence[int]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return which voxels a shift sees, and where they are in the shifted volume."""
    here = [slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, shape, strict=True)]
    there = [slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, shape, strict=True)]
    return (..., *here), (..., *there)
