"""Which volumes are measured, what is independent among them, and which half chooses a method.

Terms: a *unit* is a subject; with one subject a run, with one run a block (a stretch of one
label), and with neither labels nor runs a stretch of time. Units are divided into a *selection*
half, on which the method is chosen, and a *report* half, on which numbers are reported, before
anything is computed. Nothing is read or computed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import pandas as pd

from g3dvit.accuracy import independent_units
from g3dvit.errors import InputError
from g3dvit.run.inputs import OpenRun

Half = Literal["selection", "report"]
UnitKind = Literal["subject", "run", "block", "stretch of time"]
_Thing = TypeVar("_Thing")
STRETCHES = 8  # of a run without labels


@dataclass(frozen=True, slots=True)
class Pick:
    """One chosen volume.

    Parameters
    ----------
    run
        Place among the runs.
    time_point
        In the run.
    label
        Its class, or None.
    unit
        Name of the unit it belongs to.
    half
        What it is for.
    neighbour
        The next time point, where it is of the same label and block; None where there is none.
    """

    run: int
    time_point: int
    label: str | None
    unit: str
    half: Half
    neighbour: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen volumes.

    Parameters
    ----------
    picks
        In the order of runs and time.
    unit
        What is independent.
    n_subjects
        How many; None where the names of several runs do not tell (they have no ``sub-``).
    sentence
        How they were chosen, for a reader.
    """

    picks: tuple[Pick, ...]
    unit: UnitKind
    n_subjects: int | None
    sentence: str

    def of(self, half: Half) -> list[int]:
        """Return the places of the picks of one half."""
        return [n for n, pick in enumerate(self.picks) if pick.half == half]

    def some(self, half: Half, count: int) -> list[int]:
        """Return places of at most `count` picks of a half, evenly over labels and time."""
        by_label: dict[str | None, list[int]] = {}
        for n in self.of(half):
            by_label.setdefault(self.picks[n].label, []).append(n)
        queues = [_spread(mine) for mine in by_label.values()]
        turns = max((len(queue) for queue in queues), default=0)
        order = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
        return order[:count]


@dataclass(frozen=True, slots=True)
class _Volume:
    run: int
    time_point: int
    label: str | None
    block: int | None
    unit: str


def plan_volumes(runs: Sequence[OpenRun], n_volumes: int = 24) -> Plan:
    """Choose volumes evenly over classes and units, and divide the units into halves.

    Parameters
    ----------
    runs
        Opened, with their selected volumes.
    n_volumes
        At most this many, half of them for each half.

    Raises
    ------
    InputError
        If fewer than 2 volumes are asked for, or selected.
    """
    if n_volumes < 2:
        raise InputError(f"at least 2 volumes are needed, was given {n_volumes}")
    subjects = [_subject(run) for run in runs]
    n_subjects = len(set(subjects)) if all(subjects) else 1 if len(runs) == 1 else None
    kind, volumes = _units(runs, subjects, n_subjects)
    if len(volumes) < 2:
        raise InputError(
            "maps are measured over several volumes, of several subjects, runs or blocks; 1 volume "
            "was selected"
        )
    halves = _halves(volumes)
    counts = {half: list(halves.values()).count(half) for half in ("selection", "report")}
    chosen: list[Pick] = []
    for half in ("selection", "report"):
        mine = [v for v in volumes if halves[v.unit] == half]
        quota = n_volumes // 2 if counts["selection"] else n_volumes
        for v in _even(mine, quota):
            after = _neighbour(v, volumes)
            chosen.append(Pick(v.run, v.time_point, v.label, v.unit, half, after))
    picks = tuple(sorted(chosen, key=lambda p: (p.run, p.time_point)))
    return Plan(picks, kind, n_subjects, _sentence(picks, kind, len(volumes)))


def _subject(run: OpenRun) -> str | None:
    found = re.findall(r"sub-[A-Za-z0-9]+", str(run.series.path))
    return found[-1] if found else None


def _units(
    runs: Sequence[OpenRun], subjects: Sequence[str | None], n_subjects: int | None
) -> tuple[UnitKind, list[_Volume]]:
    rows = [
        (number, run.name, t, label, block)
        for number, run in enumerate(runs)
        for t, label, block in zip(
            run.selection.time_points, run.selection.labels, run.selection.blocks, strict=True
        )
    ]
    table = pd.DataFrame(rows, columns=["number", "run", "time_point", "label", "block"])
    kind: UnitKind
    if n_subjects is not None and n_subjects > 1:
        kind, names = "subject", [str(subjects[row[0]]) for row in rows]
    elif len(runs) > 1:
        kind, names = "run", [row[1] for row in rows]
    elif table["label"].nunique(dropna=False) > 1:
        kind, names = "block", independent_units(table)
    else:
        kind = "stretch of time"
        names = [f"stretch {STRETCHES * n // len(rows) + 1}" for n in range(len(rows))]
    volumes = [
        _Volume(row[0], row[2], row[3], row[4], name) for row, name in zip(rows, names, strict=True)
    ]
    return kind, volumes


def _halves(volumes: Sequence[_Volume]) -> dict[str, Half]:
    """Divide units in turn, those of each label (or with several) apart; the report half first."""
    labels: dict[str, set[str | None]] = {}
    for v in volumes:
        labels.setdefault(v.unit, set()).add(v.label)
    halves: dict[str, Half] = {}
    turns: dict[str | None, int] = {}
    for unit, mine in labels.items():
        group = next(iter(mine)) if len(mine) == 1 else None
        turn = turns[group] = turns.get(group, -1) + 1
        halves[unit] = "selection" if turn % 2 else "report"
    return halves


def _even(volumes: Sequence[_Volume], quota: int) -> list[_Volume]:
    """Take from labels in turn, from their units in turn, from each unit evenly over its time."""
    queues: dict[str | None, dict[str, Iterator[_Volume]]] = {}
    for label in dict.fromkeys(v.label for v in volumes):
        for unit in dict.fromkeys(v.unit for v in volumes if v.label == label):
            mine = [v for v in volumes if (v.label, v.unit) == (label, unit)]
            queues.setdefault(label, {})[unit] = iter(_spread(mine))
    taken: list[_Volume] = []
    while queues and len(taken) < quota:
        for label in list(queues):
            if len(taken) == quota:
                break
            units = queues[label]
            unit = next(iter(units))
            queue = units.pop(unit)
            found = next(queue, None)
            if found is not None:
                taken.append(found)
                units[unit] = queue  # to the end of the line
            if not units:
                del queues[label]
    return taken


def _spread(things: Sequence[_Thing]) -> list[_Thing]:
    """Order things so that every beginning of the order lies evenly over them."""
    n = len(things)
    order: dict[int, None] = {}
    step = 1
    while len(order) < n:
        for part in range(1, 2 * step, 2):
            order[min(n - 1, part * n // (2 * step))] = None
        step *= 2
        if step > 2 * n:
            order.update(dict.fromkeys(range(n)))
    return [things[place] for place in order]


def _neighbour(v: _Volume, volumes: Sequence[_Volume]) -> int | None:
    wanted = (v.run, v.time_point + 1, v.label, v.block)
    there = any((o.run, o.time_point, o.label, o.block) == wanted for o in volumes)
    return v.time_point + 1 if there else None


def _sentence(picks: Sequence[Pick], kind: UnitKind, available: int) -> str:
    parts = []
    for half, what in (("selection", "choosing the method"), ("report", "the reported numbers")):
        mine = [p for p in picks if p.half == half]
        units = count_units(len({p.unit for p in mine}), kind)
        parts.append(f"{len(mine)} volumes of {units} for {what}")
    whole = f"{len(picks)} of {available} selected volumes, evenly over classes and units"
    return f"{whole}: {parts[0]}, {parts[1]}; no {kind} is in both."


def count_units(n: int, kind: str) -> str:
    """Return a number of units in words.

    Examples
    --------
    >>> count_units(1, "block"), count_units(3, "stretch of time")
    ('1 block', '3 stretches of time')
    """
    if kind == "stretch of time":
        return f"{n} stretch{'es' if n != 1 else ''} of time"
    return f"{n} {kind}{'s' if n != 1 else ''}"
