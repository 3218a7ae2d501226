"""One run or one subject of a result alone: which volumes are its, and the means over them.

Descriptive, from the maps per volume on the patch grid; methods without these have no such means.
No test across runs or subjects is made here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from g3dvit.aggregate import GroupKey, group_of
from g3dvit.check_summary import summarise_checks
from g3dvit.maps import RelevanceMap
from g3dvit.plain import unique_names
from g3dvit.run_result import ClassMean, MapSet, RunInput, RunResult

_SUBJECT = re.compile(r"(?:^|_)(sub-[A-Za-z0-9]+)")
_ADDITIVE = ("content", "position")  # companions whose means add up to the mean of the map


@dataclass(frozen=True, slots=True)
class Part:
    """Runs that belong together.

    Parameters
    ----------
    name
        What tells it from the other parts, such as ``sub-01`` or ``sub-01_run-2``.
    kind
        Whether it is one run, or all runs of one subject.
    runs
        Their places in the result's inputs, ascending.
    rows
        Their rows of the predictions.
    """

    name: str
    kind: Literal["subject", "run"]
    runs: tuple[int, ...]
    rows: tuple[int, ...]


def parts_of(inputs: Sequence[RunInput]) -> tuple[Part, ...]:
    """Return subjects with several runs, then the runs; none where there is only one run.

    Parameters
    ----------
    inputs
        Of the result; subjects are told by ``sub-`` in their names.
    """
    if len(inputs) < 2:
        return ()
    several = (part for part in subjects_of(inputs) if 1 < len(part.runs) < len(inputs))
    return (*several, *runs_of(inputs))


def runs_of(inputs: Sequence[RunInput]) -> tuple[Part, ...]:
    """Return every run, by what tells its name from the others'."""
    rows = _rows_of(inputs)
    names = _telling_names([run.name for run in inputs])
    return tuple(Part(name, "run", (n,), rows[n]) for n, name in enumerate(names))


def subjects_of(inputs: Sequence[RunInput]) -> tuple[Part, ...]:
    """Return every subject that is named, those of one run too; runs without ``sub-`` have none."""
    rows = _rows_of(inputs)
    by_subject: dict[str, list[int]] = {}
    for n, run in enumerate(inputs):
        found = _SUBJECT.search(run.name)
        if found:
            by_subject.setdefault(found.group(1), []).append(n)
    return tuple(
        Part(name, "subject", tuple(own), tuple(row for n in own for row in rows[n]))
        for name, own in by_subject.items()
    )


def page_files(inputs: Sequence[RunInput]) -> tuple[tuple[str, Part], ...]:
    """Return the name of the file of every subject's page, and of every run's.

    A run that is all there is of a subject, and is called like it, has the page of the subject.

    Parameters
    ----------
    inputs
        Of the result.
    """
    subjects = subjects_of(inputs)
    told = {(part.name, part.runs) for part in subjects}
    parts = [*subjects, *(part for part in runs_of(inputs) if (part.name, part.runs) not in told)]
    names = unique_names([part.name for part in parts], kept="_-")
    return tuple((f"report_{name}.html", part) for name, part in zip(names, parts, strict=True))


def means_of_part(result: RunResult, maps: MapSet, part: Part) -> tuple[ClassMean, ...]:
    """Return the means over a part's volumes, by class; errors are left out.

    Parameters
    ----------
    result
        The run, for labels and predictions.
    maps
        Which method; one without maps per volume has no means here.
    part
        Which volumes.

    Returns
    -------
    tuple of ClassMean
        On the patch grid, as `ClassMean.voxel` too: nothing finer is kept per volume. Of
        frozen-gate relevance content and position are companions. `ClassMean.target` says what they
        explain where that is not the target of the result; groups whose volumes explain
        different targets are left out.
    """
    table = result.predictions
    if not maps.volumes or "predicted" not in table:
        return ()
    groups: dict[GroupKey, list[int]] = {}
    for row in part.rows:
        label = table["label"].iloc[row] if "label" in table else None
        label = None if label is None or pd.isna(label) else str(label)
        key = group_of(label, str(table["predicted"].iloc[row]))
        if key.which != "error":
            groups.setdefault(key, []).append(row)
    place = _places(result.inputs)
    means = []
    for key, rows in sorted(groups.items()):
        targets = {str(table["target"].iloc[row]) for row in rows} if "target" in table else set()
        if len(targets) > 1:
            continue
        target = next(iter(targets), result.target)
        patch = _mean_of(maps.volumes, [place[row] for row in rows])
        checks = summarise_checks([maps.checks[row] for row in rows] if maps.checks else [])
        own = "" if target == result.target else target
        means.append(ClassMean(key, len(rows), patch, patch, checks, own))
    return tuple(means)


def _mean_of(volumes: Sequence[RelevanceMap], places: Sequence[tuple[int, int]]) -> RelevanceMap:
    first = volumes[places[0][0]]
    summed = [
        name for name in _ADDITIVE if all(name in volumes[run].companions for run, _ in places)
    ]
    sums = {name: np.zeros(first.data.shape[:3]) for name in ("", *summed)}
    for run, volume in places:
        sums[""] += volumes[run].data[..., volume]
        for name in summed:
            sums[name] += volumes[run].companions[name][..., volume]
    means = {name: np.asarray(total / len(places), np.float32) for name, total in sums.items()}
    return replace(first, data=means.pop(""), companions=means, t_r=None)


def _rows_of(inputs: Sequence[RunInput]) -> list[tuple[int, ...]]:
    """Return the rows of the predictions of every run."""
    ends = np.cumsum([len(run.time_points) for run in inputs], dtype=int)
    return [
        tuple(range(int(end) - len(run.time_points), int(end)))
        for run, end in zip(inputs, ends, strict=True)
    ]


def _places(inputs: Sequence[RunInput]) -> list[tuple[int, int]]:
    """Return run and volume of every row of the predictions."""
    return [(n, t) for n, run in enumerate(inputs) for t in range(len(run.time_points))]


def _telling_names(names: Sequence[str]) -> list[str]:
    """Return names without the parts that all of them share; whole where that says nothing.

    Examples
    --------
    >>> _telling_names(["sub-01_task-a_run-1", "sub-02_task-a_run-1"])
    ['sub-01', 'sub-02']
    """
    split = [name.split("_") for name in names]
    shared = set(split[0]).intersection(*split[1:])
    short = ["_".join(part for part in parts if part not in shared) for parts in split]
    if all(short) and len(set(short)) == len(short):
        return short
    return [f"{name} ({n + 1})" if names.count(name) > 1 else name for n, name in enumerate(names)]
