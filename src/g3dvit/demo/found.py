"""What each map of the demonstration says, measured against what was planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from g3dvit.evaluate import Localisation, localise
from g3dvit.report.display import shown_mean
from g3dvit.run_result import RunResult, worst
from g3dvit.simulate import HANDS, Anatomy


@dataclass(frozen=True, slots=True)
class Found:
    """One class mean against the truth of its class.

    Parameters
    ----------
    map
        Method and grid, in words.
    hand
        Class; its evidence is measured.
    n
        Volumes in the mean: those of the class that were classified correctly.
    where
        AUC, peak, mass and hemisphere.
    verdict
        The worst of the checks over these volumes.
    """

    map: str
    hand: str
    n: int
    where: Localisation
    verdict: str


def find_hands(result: RunResult, anatomy: Anatomy) -> list[Found]:
    """Compare every class mean of a run with what was planted.

    Maps per voxel are smoothed as they are shown (`Display.smooth_mm`).

    Class means explain ONE target, here the log-odds of one hand against the other; for the other
    hand the same values with the opposite sign are its evidence. Shift-averaged means explain their
    own hand.

    Parameters
    ----------
    result
        With class means of correctly classified volumes.
    anatomy
        With the planted clusters.
    """
    found = []
    for maps in result.maps:
        for mean in maps.class_means:
            if mean.key.which != "correct" or mean.key.group not in HANDS:
                continue
            target = mean.target or result.target
            sign = 1.0 if target.split(" ")[0] == mean.key.group else -1.0
            verdict = worst(maps.summary)
            on_patches = mean.patch.to_grid(anatomy.grid, interpolation="linear").data
            levels: list[tuple[str, NDArray[np.float32]]] = [("patches", on_patches)]
            if maps.fine:
                shown = replace(mean.voxel, data=shown_mean(maps, mean, result.display))
                smooth = f"voxels, {result.display.smooth_mm:g} mm"
                levels.append((smooth, shown.to_grid(anatomy.grid).data))
            for level, data in levels:
                where = localise(
                    sign * data, anatomy.truth(mean.key.group), anatomy.brain, anatomy.grid
                )
                label = f"{maps.label}, {level}"
                found.append(Found(label, mean.key.group, mean.n, where, verdict))
    return found


def table_of(found: Sequence[Found]) -> str:
    """Return the comparison as a text table."""
    head = ["map", "hand", "n", "AUC", "peak off", "mass/volume", "hemisphere", "checks"]
    rows = [
        [
            one.map,
            one.hand,
            str(one.n),
            f"{one.where.auc:.2f}",
            f"{one.where.peak_distance_mm:.0f} mm",
            f"{one.where.mass_over_volume:.1f}",
            f"{one.where.side}{'' if one.where.right_side else ' (WRONG)'}"
            if one.where.side != "none"
            else "none",
            one.verdict.upper(),
        ]
        for one in found
    ]
    return text_table([head, *rows])


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns of equal width; the first row is the head."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)
