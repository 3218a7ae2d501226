"""Frozen-gate maps averaged over shifts of the input: finer than a patch, for display.

The volume as it is has to be explained only where no shift keeps its decision, and that map is
taken from `frozen_gate` or `frozen_gate_gamma` where they were asked for too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import first_output
from g3dvit.explain_context import Context, host
from g3dvit.explain_gates import explain_gamma
from g3dvit.methods import METHODS, shift_averaged
from g3dvit.methods.shift_averaged import ShiftInputs, choose_shifts
from g3dvit.targets import Score, predicted, score_batch


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
    for name in batch.request.methods:
        if METHODS[name].source == "shifts":
            _explain(batch, name)


def _explain(batch: Context, name: str) -> None:
    gamma = batch.option(name, "gamma") if "gamma" in METHODS[name].arguments else 0.0
    local = METHODS[name].against_surroundings
    shifts = choose_shifts(batch.option(name, "shifts"), batch.geometry.patch_size)
    errors = torch.zeros(batch.found.scores.shape)
    moved: list[Tensor] = []

    def explain(x: Tensor) -> ShiftInputs:
        known = _known(batch, gamma) if x is batch.x and not local else None
        if known is not None:
            return known
        found = explain_gamma(batch, x, gamma, local=local)
        errors.copy_(torch.maximum(errors, host(torch.stack(found.errors, dim=1))))
        if x is not batch.x:
            moved.append(_evidence(batch, host(found.logits)))
        grids = [host(batch.grid(one.relevance)) for one in found.shares]
        voxels = [
            host(v) for v in found.local or [batch.volume(one.voxels) for one in found.shares]
        ]
        return ShiftInputs(
            _decision(batch, found.logits), torch.stack(grids, dim=1), torch.stack(voxels, dim=1)
        )

    averaged = shift_averaged(
        batch.x,
        explain,
        shifts,
        [axis + 1 for axis in batch.geometry.spatial_axes],
        signed=METHODS[name].signed,
        decision=_decision(batch, batch.found.logits),
    )
    batch.found.maps[name] = {"relevance": averaged.relevance, "voxel_relevance": averaged.voxels}
    left = [diagnose.not_applicable("evidence at shifts", "no shift moves the volume")] * len(
        batch.x
    )
    if moved:
        still = _evidence(batch, batch.found.logits)
        shares = diagnose.evidence_left(still, torch.stack(moved))
        left = [diagnose.check_evidence_left(share) for share in shares.tolist()]
    rows = zip(averaged.kept.tolist(), left, errors.amax(1).tolist(), strict=True)
    batch.found.checks[name] = [
        (
            diagnose.check_kept(kept, len(shifts)),
            evidence,
            diagnose.check_completeness(error, of="the score at every shift"),
        )
        for kept, evidence, error in rows
    ]


def _known(batch: Context, gamma: float) -> ShiftInputs | None:
    """Return what frozen gates said of the volumes as they are, if they were asked."""
    name = "frozen_gate_gamma" if gamma else "frozen_gate"
    maps = batch.found.maps.get(name)
    if maps is None or (gamma and batch.option(name, "gamma") != gamma):
        return None
    decision = _decision(batch, batch.found.logits)
    return ShiftInputs(decision, maps["relevance"], maps["voxel_relevance"])


def _evidence(batch: Context, logits: Tensor) -> Tensor:
    """Return how much outputs speak for what the model chose for the volumes as they are, (batch,).

    The log-odds of the class, or the score itself where it is a function.
    """
    score: Score = "log_odds" if isinstance(batch.request.score, str) else batch.request.score
    own = predicted(batch.found.logits)
    return score_batch([(c,) for c in own], logits, score).values[:, 0]


def _decision(batch: Context, logits: Tensor) -> Tensor:
    """Return the class that the model chooses; a score of one's own has no classes."""
    if not isinstance(batch.request.score, str):
        return torch.zeros(len(logits), dtype=torch.int64)
    return torch.tensor(predicted(logits))
