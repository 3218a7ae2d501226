"""The passes over a run that a preparation takes; one volume in memory unless a step says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from g3dvit.errors import G3DWarning, PreparationError, SelectionError
from g3dvit.prepare.base import Apply, Brain, Step
from g3dvit.prepare.denoise import Denoise, DropVolumes, clean_run, confound_table
from g3dvit.prepare.masks import BrainMasks
from g3dvit.prepare.value_steps import Mask, Standardise
from g3dvit.volumes import Series, Volume, check_time_points

Progress = Callable[[int, int], None]


def choose(
    series: Series, time_points: Sequence[int] | None, available: Sequence[int]
) -> tuple[int, ...]:
    """Return the time points to prepare, ascending.

    Raises
    ------
    SelectionError
        If one does not exist, is left out or named twice.
    """
    if time_points is None:
        return tuple(available)
    chosen = check_time_points(time_points, series.n_time_points, str(series.path))
    if chosen and chosen[0] < available[0]:
        raise SelectionError(
            f"volume {chosen[0]} of {series.path} is one of the first {available[0]}, which the "
            "preparation leaves out; choose later ones"
        )
    return chosen


def without_gaps(volume: Volume) -> Volume:
    """Return a volume whose NaN and infinite voxels are 0, and counted."""
    finite = np.isfinite(volume.data)
    n_bad = int(finite.size - np.count_nonzero(finite))
    if not n_bad:
        return volume
    data = np.where(finite, volume.data, np.float32(0))
    return replace(volume, data=data, n_not_finite=volume.n_not_finite + n_bad)


def contiguous(volume: Volume) -> Volume:
    """Return a volume whose values are float32 in C order."""
    return volume.with_data(np.ascontiguousarray(volume.data, dtype=np.float32))


def run_steps(
    steps: Sequence[tuple[Step, Apply]] | Sequence[Step], volume: Volume, masks: BrainMasks
) -> tuple[Volume, Brain]:
    """Return a volume after some steps, and the brain mask of the last mask step."""
    brain: Brain = None
    mask: Mask | None = None
    for entry in steps:
        step, apply = entry if isinstance(entry, tuple) else (entry, entry)
        if isinstance(step, Mask):
            mask, brain = step, masks.of(volume, step.source)
        before = volume.grid
        volume = apply(volume, brain)
        if mask is not None and isinstance(step, Standardise) and step.kind == "masked":
            volume = mask(volume, brain)  # the fill value is meant for what the model sees
        if volume.grid is not before:
            brain = None  # it was the mask of the grid that was left
    return volume, brain


def stream_run(
    steps: Sequence[Step],
    series: Series,
    chosen: Sequence[int],
    masks: BrainMasks,
    confounds: Path | None,
    progress: Progress | None,
) -> Iterator[Volume]:
    """Yield the prepared volumes of one run; arguments as in `Preparation.stream`."""
    n_dropped = sum(step.n for step in steps if isinstance(step, DropVolumes))
    available = range(n_dropped, series.n_time_points)
    denoise = next((step for step in steps if isinstance(step, Denoise)), None)
    n_fits = sum(step.needs_run and step is not denoise for step in steps)
    n_reads = n_fits * len(available) + len(chosen) + (len(available) if denoise else 0)
    counter = _Counter(n_reads, progress)
    read: Callable[[Sequence[int]], Iterator[Volume]] = _Reader(series)
    if denoise is not None:
        table = confound_table(denoise, series, n_dropped, confounds)
        volumes = counter.count(read(available))
        cleaned = clean_run(denoise, volumes, len(available), series.t_r, table)
        read = _Memory({volume.time_point: volume for volume in cleaned})
    ready: list[tuple[Step, Apply]] = []
    for step in steps:
        if step is denoise:
            continue
        if step.needs_run:
            before = tuple(ready)
            seen = (run_steps(before, v, masks) for v in counter.count(read(available)))
            ready.append((step, step.fit(seen, available)))
        else:
            ready.append((step, step))
    first: Volume | None = None
    for volume in counter.count(read(chosen)):
        prepared, _ = run_steps(ready, volume, masks)
        first = first or prepared
        if not prepared.grid.matches(first.grid):
            raise PreparationError(
                f"volume {volume.time_point} of {series.path} was prepared onto another grid than "
                f"volume {first.time_point}: {prepared.grid} and {first.grid}; a preparation may "
                "not decide by what a volume shows"
            )
        yield contiguous(prepared)


class _Reader:
    """Reads a run from its file; the first volume with gaps draws a warning."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self.warned = False

    def __call__(self, time_points: Sequence[int]) -> Iterator[Volume]:
        for stored in self.series.stream(time_points):
            volume = without_gaps(stored)
            if volume.n_not_finite and not self.warned:
                self.warned = True
                warnings.warn(
                    f"{volume.source} has NaN or infinite voxels ({volume.n_not_finite} in volume "
                    f"{volume.time_point}); they are taken as 0",
                    G3DWarning,
                    stacklevel=2,
                )
            yield volume


class _Memory:
    """Gives a run again that is held in memory."""

    def __init__(self, volumes: dict[int, Volume]) -> None:
        self.volumes = volumes

    def __call__(self, time_points: Sequence[int]) -> Iterator[Volume]:
        return (self.volumes[t] for t in time_points)


class _Counter:
    """Tells how many volumes were read, over all passes."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def count(self, volumes: Iterator[Volume]) -> Iterator[Volume]:
        for volume in volumes:
            yield volume
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)
