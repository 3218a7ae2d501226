"""Frozen-gate maps averaged over shifts of the input: finer than a patch, for display.

The volume as it is has to be explained only where no shift keeps its decision, and that map is
taken from `frozen_gate` or `frozen_gate_gamma` where they were asked for too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import first_output
from g3dvit.checks import Check
from g3dvit.explain_context import Context, host, over_targets
from g3dvit.explain_gates import Followed, explain_gamma, share_checks, share_maps
from g3dvit.explanation import Maps
from g3dvit.methods import METHODS
from g3dvit.methods.shift_averaged import ShiftAveraged, ShiftInputs, Way, shift_maps
from g3dvit.methods.shifting import choose_shifts
from g3dvit.targets import predicted, score_batch


def explain_shifts(batch: Context) -> None:
    """Explain a batch with every shift-averaged method asked for.

    Raises
    ------
    MethodError
        If there are more shifts than voxels in a patch.
    """
    if batch.result is None:
        with torch.no_grad():
            batch.choose_scores(first_output(batch.run(batch.x)))
    # Maps that differ in how they are averaged or spread share their passes.
    alike: dict[float, list[str]] = {}
    for name in batch.request.methods:
        row = METHODS[name]
        if row.source == "shifts":
            gamma = batch.option(name, "gamma") if "gamma" in row.arguments else 0.0
            alike.setdefault(gamma, []).append(name)
    for gamma, names in alike.items():
        _explain(batch, names, gamma)


def _explain(batch: Context, names: Sequence[str], gamma: float) -> None:
    shifts = choose_shifts(batch.option(names[0], "shifts"), batch.geometry.patch_size)
    ways = [
        Way(row.by_evidence, row.spreading, row.against_surroundings, row.spreading == "both")
        for row in (METHODS[name] for name in names)
    ]
    local = any(way.local for way in ways)
    errors, held = torch.zeros(batch.found.scores.shape), torch.zeros(batch.found.scores.shape)
    moved: list[Tensor] = []
    followed: list[Followed] = []
    behind: Maps = {}
    still = _evidence(batch, batch.found.logits)

    def explain(x: Tensor) -> ShiftInputs:
        known = _known(batch, gamma) if x is batch.x and not local else None
        if known is not None:
            behind.update(batch.found.maps[_unmoved(gamma)])
            return replace(known, evidence=still)
        found = explain_gamma(batch, x, gamma, local=local)
        followed.append(found.followed)
        errors.copy_(torch.maximum(errors, host(torch.stack(found.errors, dim=1))))
        held.copy_(torch.maximum(held, host(torch.stack(found.held, dim=1))))
        if x is batch.x or not behind:
            both = zip(found.shares, found.errors, strict=True)
            behind.update(over_targets([share_maps(batch, s, e) for s, e in both]))
        evidence = still if x is batch.x else _evidence(batch, host(found.logits))
        if x is not batch.x:
            moved.append(evidence)
        grids = [host(batch.grid(one.relevance)) for one in found.shares]
        voxels = [host(batch.volume(one.voxels)) for one in found.shares]
        return ShiftInputs(
            _decision(batch, found.logits),
            torch.stack(grids, dim=1),
            torch.stack(voxels, dim=1),
            evidence,
            torch.stack([host(v) for v in found.local], dim=1) if local else None,
        )

    averages = shift_maps(
        batch.x,
        explain,
        shifts,
        [axis + 1 for axis in batch.geometry.spatial_axes],
        ways,
        decision=_decision(batch, batch.found.logits),
    )
    left = torch.tensor([])
    if moved:
        left = diagnose.evidence_left(still, torch.stack(moved))
    of = "the score at every shift"
    complete = share_checks(batch, errors, held, reduce(or_, followed, Followed()), of=of)
    for name, averaged in zip(names, averages, strict=True):
        batch.found.behind[name] = behind
        batch.found.maps[name] = {
            "relevance": averaged.relevance,
            "voxel_relevance": averaged.voxels,
        }
        own: list[tuple[Check, ...]]
        if METHODS[name].by_evidence:
            own = [(diagnose.check_moved_share(v),) for v in averaged.moved_share.tolist()]
            if METHODS[name].signed:
                assert averaged.agreement is not None  # of weighted ways
                own = [
                    (*checks, diagnose.check_against_unmoved(value))
                    for checks, value in zip(own, averaged.agreement.tolist(), strict=True)
                ]
        else:
            own = _checks_of_kept(averaged, left, len(shifts))
        batch.found.checks[name] = [(*o, *c) for o, c in zip(own, complete, strict=True)]


def _checks_of_kept(averaged: ShiftAveraged, left: Tensor, count: int) -> list[tuple[Check, ...]]:
    """Return what is asked of maps in which kept shifts count alike, per volume."""
    kept = [diagnose.check_kept(n, count) for n in averaged.kept.tolist()]
    if len(left):
        evidence = [diagnose.check_evidence_left(share) for share in left.tolist()]
    else:
        none = diagnose.not_applicable("evidence at shifts", "no shift moves the volume")
        evidence = [none] * len(kept)
    return list(zip(kept, evidence, strict=True))


def _known(batch: Context, gamma: float) -> ShiftInputs | None:
    """Return what frozen gates said of the volumes as they are, if they were asked."""
    name = _unmoved(gamma)
    maps = batch.found.maps.get(name)
    if maps is None or (gamma and batch.option(name, "gamma") != gamma):
        return None
    decision = _decision(batch, batch.found.logits)
    return ShiftInputs(decision, maps["relevance"], maps["voxel_relevance"])


def _unmoved(gamma: float) -> str:
    """Return the method that explains the volumes as they are."""
    return "frozen_gate_gamma" if gamma else "frozen_gate"


def _evidence(batch: Context, logits: Tensor) -> Tensor:
    """Return how much outputs speak for what the model chose for the volumes as they are, (batch,).

    How far the class leads over the best of the others, which is its log-odds where there are two:
    positive as long as the decision stands. The score itself where it is a function.
    """
    own = predicted(batch.found.logits)
    if not isinstance(batch.request.score, str):
        return score_batch([(c,) for c in own], logits, batch.request.score).values[:, 0]
    if logits.shape[1] == 1:
        return score_batch([(c,) for c in own], logits, "log_odds").values[:, 0]
    mine = torch.nn.functional.one_hot(torch.tensor(own), logits.shape[1]).bool()
    return logits[mine] - logits.masked_fill(mine, -torch.inf).amax(1)


def _decision(batch: Context, logits: Tensor) -> Tensor:
    """Return the class that the model chooses; a score of one's own has no classes."""
    if not isinstance(batch.request.score, str):
        return torch.zeros(len(logits), dtype=torch.int64)
    return torch.tensor(predicted(logits))
