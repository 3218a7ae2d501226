"""Checks that only a whole run can make: where the brain is, and whether volumes matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from g3dvit import diagnose
from g3dvit.check_summary import FOR_ALL, summarise_checks
from g3dvit.checks import Check, not_applicable
from g3dvit.grids import PatchGrid
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import OpenRun

#: Maps that are compared with each other, evenly over the run.
_COMPARED = 24


def brain_of(
    preparation: Preparation, run: OpenRun, patches: PatchGrid
) -> NDArray[np.bool_] | None:
    """Return where the brain is on the prepared grid; None where the preparation has no mask."""
    brain = preparation.brain_mask(run.series, run.mask)
    return None if brain is None or brain.shape != patches.volume.shape else brain


def outside_checks(
    relevance: Sequence[NDArray[np.float32]], brain: NDArray[np.bool_], patches: PatchGrid
) -> list[Check]:
    """Judge how much of each map, (gi, gj, gk), lies in patches without any brain."""
    sizes = zip(patches.shape, patches.patch_size, strict=True)
    inside = brain.reshape([n for pair in sizes for n in pair]).any((1, 3, 5))
    maps = torch.from_numpy(np.stack(relevance).reshape(len(relevance), -1))
    shares = diagnose.outside_share(maps, torch.from_numpy(inside.ravel()))
    return [diagnose.check_outside(share) for share in shares.tolist()]


def input_blind_check(relevance: Sequence[NDArray[np.float32]], targets: Sequence[Any]) -> Check:
    """Judge whether maps differ between the volumes of a run, for the commonest target.

    Parameters
    ----------
    relevance : each (gi, gj, gk)
        Of every volume.
    targets
        What each explains.
    """
    if not targets:
        return not_applicable("input-blind", "nothing was explained")
    ((common, _),) = Counter(targets).most_common(1)
    same = [one for one, target in zip(relevance, targets, strict=True) if target == common]
    chosen = np.unique(np.linspace(0, len(same) - 1, min(_COMPARED, len(same))).round().astype(int))
    return diagnose.input_blind([same[n] for n in chosen])


def carry_over(rows: Sequence[tuple[Check, ...]]) -> list[tuple[Check, ...]]:
    """Let what the first volumes of a run failed count for the others too.

    Some checks need passes of their own and are made on the first volumes only. What they warn or
    fail of is the method on this model, so that every map of it is marked.

    Parameters
    ----------
    rows
        The checks of each volume.
    """
    found = list(rows)
    for name in dict.fromkeys(check.name for row in rows for check in row):
        made = [check for row in rows for check in row if check.name == name]
        if len(made) == len(rows):
            continue
        (summary,) = summarise_checks([[check] for check in made])
        if summary.verdict == "pass":
            continue
        one = next(check for check in made if check.verdict == summary.verdict)
        some = "volume" if len(made) == 1 else f"{len(made)} volumes"

        def told(check: Check, some: str = some) -> Check:
            words = f"{check.sentence} Measured on the first {some}, {FOR_ALL}"
            return replace(check, sentence=words)

        found = [
            tuple(told(c) if c.name == name and c.verdict != "pass" else c for c in row)
            if any(check.name == name for check in row)
            else (*row, told(one))
            for row in found
        ]
    return found
