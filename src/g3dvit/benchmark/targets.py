"""What the recommended map should reach on sealed phantoms, and what it does reach.

Targets were set before any sealed phantom was explained. They are reported as measured, met or
not; nothing is chosen by them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from g3dvit.benchmark.cases import Case
from g3dvit.benchmark.maps import RECOMMENDED_ROW
from g3dvit.benchmark.metrics import METRICS
from g3dvit.benchmark.run import Part
from g3dvit.benchmark.table import Cell, nested_interval


@dataclass(frozen=True, slots=True)
class Target:
    """One number that is asked for.

    Parameters
    ----------
    case, metric
        Of which phantom, and which column of the table.
    low, high
        The number lies between these, both included; infinite where one end is free.
    statistic
        Over volumes; the mean over training seeds is taken of it.
    """

    case: str
    metric: str
    low: float = float("-inf")
    high: float = float("inf")
    statistic: Literal["mean", "median"] = "mean"

    @property
    def asked(self) -> str:
        """What is asked for, such as "at least 0.98"."""
        if self.low == float("-inf"):
            return f"at most {self.high:g}"
        if self.high == float("inf"):
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Reached:
    """What was measured of a target.

    Parameters
    ----------
    target
        What was asked for.
    cell
        Measured, with its 95 % interval nested in training seeds.
    seeds
        Trainings that it is from.
    """

    target: Target
    cell: Cell
    seeds: int

    @property
    def met(self) -> bool:
        """True where the measured number is what was asked for; the interval does not count."""
        return bool(self.target.low <= self.cell.mean <= self.target.high)


def targets_of(case: Case) -> list[Target]:
    """Return the targets of a base case; none of others.

    They are for compact blobs. Extended shapes are redundant for a model, which need not use all
    of them.
    """
    name = case.name
    blobs = {"realnoise-cls": (0.98, 0.65, 0.95), "realnoise-mean": (0.93, 0.45, 0.85)}
    cubes = ("cubes-position", "cubes-content")
    if name not in (*blobs, *cubes):
        return []
    auc, ap, pointing = blobs.get(name, (0.98, 0.90, 0.98))
    found = [
        Target(name, "auc", low=auc),
        Target(name, "ap", low=ap),
        Target(name, "pointing", low=pointing),
    ]
    if name in blobs:
        found.append(Target(name, "distractor_auc", low=0.45, high=0.55))
    phantom = case.recipe.phantom
    voxel_mm = float(getattr(phantom, "voxel_mm", 2.0))
    quarter = case.recipe.patch_size * voxel_mm / 4
    found += [
        Target(name, "relative_srg", low=0.6),
        Target(name, "peak_mm", high=quarter, statistic="median"),
        Target(name, "beats_seed", low=0.95),
    ]
    if len(phantom.class_names) > 2:
        found.append(Target(name, "other_class", high=0.5))
    return found


def reached(
    parts: Sequence[Part], cases: Sequence[Case], row: str = RECOMMENDED_ROW
) -> list[Reached]:
    """Return what a row of the table reaches of every target of the cases that were run.

    Parameters
    ----------
    parts
        All seeds of all cases.
    cases
        Which were run.
    row
        Which map; the recommended one.
    """
    found = []
    for case in cases:
        mine = [p for p in parts if p.case == case.name and row in p.values]
        for target in targets_of(case):
            numbers = [p.values[row][target.metric] for p in mine if target.metric in p.values[row]]
            if not numbers:
                continue
            statistic = np.median if target.statistic == "median" else np.mean
            found.append(Reached(target, nested_interval(numbers, statistic), len(numbers)))
    return found


def targets_to_markdown(
    found: Sequence[Reached], beside: Mapping[str, Sequence[Reached]] | None = None
) -> str:
    """Return the targets as a table, with what other maps reached of them, by their titles."""
    others = {
        title: {(one.target.case, one.target.metric): one for one in reached_by}
        for title, reached_by in (beside or {}).items()
    }
    heads = ["phantom", "what", "asked", "measured", "trainings", "met", *others]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in found:
        title = METRICS[one.target.metric].title
        unit = " mm" if one.target.metric.endswith("_mm") else ""
        what = f"{title}, median over volumes" if one.target.statistic == "median" else title
        cell = one.cell
        row = [one.target.case, what, f"{one.target.asked}{unit}"]
        row += [f"{cell.mean:.3f}{unit} [{cell.low:.3f}, {cell.high:.3f}]", str(one.seeds)]
        row.append("yes" if one.met else "**no**")
        for reached_by in others.values():
            other = reached_by.get((one.target.case, one.target.metric))
            missed = "" if other is None or other.met else " (**no**)"
            row.append("" if other is None else f"{other.cell.mean:.3f}{unit}{missed}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"
