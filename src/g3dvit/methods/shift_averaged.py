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

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad

from g3dvit.errors import MethodError
from g3dvit.methods.shifting import Shift, moved_back, overlap, shift_volume
from g3dvit.methods.spreading import SPREADS, Spreading, per_patch

#: Correlation of two maps of patches, each averaged with its neighbours, above which they show the
#: same places. Chosen on development phantoms: .4 did little better on textures, and average
#: precision of boxes was .743 without this, .739 with .3 and .734 with .4 (``docs/methods.md``).
ALIKE = 0.3


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
    agreeing
        Of weighted ways: a shift counts only where its map shows the same places as that of the
        volume as it is (`same_places`). A moved volume can keep its decision for another reason
        than it had, and its map tells of that reason.
    """

    weighted: bool = False
    spreading: Spreading = "positive"
    local: bool = False
    agreeing: bool = False


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
        Share of the map's weight that moved volumes have; the lowest of the targets.
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
    # Weighted ways compare with the volume as it is, which is explained for them before the loop.
    own = _spread_in(still, [way for way in ways if way.weighted]) if still is not None else {}
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
        grid = moved.relevance.shape[-3:]
        for way, running in zip(ways, sums, strict=True):
            weight = same.to(fine[way].dtype)
            if way.weighted:
                weight = weight * evidence_kept(still, moved).to(weight.dtype)
            if way.weighted and way.agreeing:
                back = per_patch(moved_back(fine[way], one), grid)
                counts = same_places(back, per_patch(own[way], grid))
                weight = _with_axes_of(counts, weight) * counts
            running.add(fine[way], weight, one)
    found = []
    for way, running in zip(ways, sums, strict=True):
        share = running.weight / len(shifts)
        rest = 1 - share if way.weighted else (kept == 0).to(share.dtype)
        if bool(rest.any()):
            still = still or explain(x)
            unmoved = own[way] if way.weighted else _spread_in(still, (way,))[way]
            running.add(unmoved, rest * len(shifts), (0, 0, 0))
        voxels = running.mean()
        patches, like = per_patch(voxels, grid), None
        if way.weighted:
            like = _lowest(_correlation(patches, per_patch(own[way], grid)))
        found.append(ShiftAveraged(voxels, patches, kept, kept == 0, _lowest(share).float(), like))
    return tuple(found)


def same_places(
    one: Float[Tensor, "batch ... gi gj gk"], other: Float[Tensor, "batch ... gi gj gk"]
) -> Bool[Tensor, "batch ..."]:
    """Tell which maps of patches show about the same places as another.

    Each patch is averaged with its neighbours first, so that it does not matter which of them got
    what: a border between patches that lies elsewhere makes large differences from patch to patch
    where the place is the same. Maps are alike if the correlation is above `ALIKE`.
    """
    near = []
    for patches in (one, other):
        values = patches.reshape(-1, 1, *patches.shape[-3:]).double()
        inside = avg_pool3d(pad(torch.ones_like(values), (1,) * 6), 3, 1)
        near.append((avg_pool3d(pad(values, (1,) * 6), 3, 1) / inside).reshape(patches.shape))
    return _correlation(*near) > ALIKE


def _correlation(one: Tensor, other: Tensor) -> Float[Tensor, "batch ..."]:
    """Return the correlation over patches, (batch, ..., gi, gj, gk); 1 where a map is flat."""
    sizes, centred = [], []
    for values in (one, other):
        flat = values.flatten(-3).double()
        left = flat - flat.mean(-1, keepdim=True)
        size = left.norm(dim=-1)
        # What is left of a flat map is rounding.
        sizes.append(torch.where(size > 1e-9 * flat.norm(dim=-1), size, 0.0))
        centred.append(left)
    size = sizes[0] * sizes[1]
    together = (centred[0] * centred[1]).sum(-1)
    return torch.where(size > 0, together / torch.where(size > 0, size, 1.0), 1.0)


def _with_axes_of(like: Tensor, values: Tensor) -> Tensor:
    """Return values (batch,) with an axis of length 1 for each further one of another tensor."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _lowest(values: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Return the lowest value of each volume."""
    return values.reshape(len(values), -1).amin(1)


def _spread_in(inputs: ShiftInputs, ways: Sequence[Way]) -> dict[Way, Tensor]:
    """Return patches spread over their voxels, for each way; the same is computed once."""
    found: dict[Way, Tensor] = {}
    for way in ways:
        key = replace(way, weighted=False, agreeing=False)
        if key not in found:
            voxels = inputs.local if way.local else inputs.voxels
            assert voxels is not None  # local ways are asked for with them
            found[key] = SPREADS[way.spreading](inputs.relevance, voxels)
    return {way: found[replace(way, weighted=False, agreeing=False)] for way in ways}


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
        """Add maps (batch, ..., i, j, k) of shifted volumes, weights (batch,) or (batch, ...)."""
        by = weight.reshape(*weight.shape, *(1,) * (fine.ndim - weight.ndim))
        if not self._total.ndim:
            self._total = torch.zeros_like(fine)
            self._seen = fine.new_zeros(*by.shape[:-3], *fine.shape[-3:])
            self.weight = torch.zeros_like(weight)
        here, there = overlap(shift, fine.shape[-3:])
        self._total[here] += torch.where(by > 0, fine[there], 0.0) * by
        self._seen[here] += by
        self.weight = self.weight + weight

    def mean(self) -> Tensor:
        """Return the mean of what sees each voxel; 0 where nothing does."""
        return self._total / torch.where(self._seen > 0, self._seen, 1.0)
