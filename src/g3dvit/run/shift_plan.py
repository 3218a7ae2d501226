"""Which volumes get shift-averaged maps, and what those explain.

They cost many passes, and a mean of some volumes shows what a mean of all does. So class means of
them come from some volumes of each class, evenly over the runs, unless every volume is asked for.
They are for display: each group's mean explains the group's OWN class, since they are made to show
what speaks for a class. They are not compared between classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g3dvit.methods import METHODS
from g3dvit.run.inputs import OpenRun

#: Volumes of each class in the means. On the demonstration's data the means of 5, 10 and 20 volumes
#: have the same AUC within .01.
MOST = 20


@dataclass(frozen=True, slots=True)
class ShiftPlan:
    """Which volumes get shift-averaged maps.

    Parameters
    ----------
    methods
        Shift-averaged methods; none where none was asked for.
    time_points
        Of each run.
    per_volume
        Every volume is among them, and its own map is kept.
    """

    methods: tuple[str, ...] = ()
    time_points: tuple[frozenset[int], ...] = ()
    per_volume: bool = False

    @property
    def count(self) -> int:
        """How many volumes get them."""
        return sum(map(len, self.time_points)) if self.methods else 0

    @property
    def rule(self) -> str:
        """How volumes were chosen, in words."""
        if self.per_volume:
            return "every volume"
        return f"at most {MOST} volumes of each class, evenly over the runs"


def split_methods(methods: Sequence[str], shifts: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the methods for every volume, and the shift-averaged ones.

    Parameters
    ----------
    methods
        All that were asked for.
    shifts
        0 leaves the shift-averaged ones out.
    """
    shifted = tuple(name for name in methods if METHODS[name].source == "shifts")
    every = tuple(name for name in methods if name not in shifted)
    # What their statistics are made of comes with them.
    return every or ("frozen_gate",), shifted if shifts else ()


def plan_shifts(
    methods: Sequence[str], runs: Sequence[OpenRun], num_classes: int, *, per_volume: bool = False
) -> ShiftPlan:
    """Choose the volumes that get shift-averaged maps.

    Parameters
    ----------
    methods
        The shift-averaged ones.
    runs
        With the labels of their volumes. Of volumes without one as many are taken as for all
        classes together, since nobody knows yet what the model will call them.
    num_classes
        How many classes the model has.
    per_volume
        Take every volume.
    """
    there: dict[str | None, list[tuple[int, int]]] = {}
    for number, run in enumerate(runs):
        for time_point, label in zip(run.selection.time_points, run.selection.labels, strict=True):
            there.setdefault(label, []).append((number, time_point))
    chosen: list[set[int]] = [set() for _ in runs]
    for label, volumes in there.items():
        most = MOST * (num_classes if label is None else 1)
        count = len(volumes) if per_volume else min(most, len(volumes))
        for place in np.linspace(0, len(volumes) - 1, count).round().astype(int):
            number, time_point = volumes[place]
            chosen[number].add(time_point)
    return ShiftPlan(tuple(methods), tuple(map(frozenset, chosen)), per_volume)
