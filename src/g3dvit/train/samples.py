"""Prepared volumes of all runs, with what each is called and where it comes from.

Prepared volumes are kept in memory, because training passes over them many times: only voxels
that are not zero somewhere in a run, and in half precision where they are z-scores (values
within 100 of zero; the rounding is at most 1/2000 of a value).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import GridError, SelectionError
from g3dvit.grids import ImageGrid
from g3dvit.labels import subject_of
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import OpenRun

NO_BLOCK = -1


@dataclass(frozen=True, slots=True, eq=False)
class RunVolumes:
    """The chosen volumes of one run, prepared.

    Parameters
    ----------
    name, source, subject
        Name of the run, its file, and its BIDS subject (the run's name where the file has none).
    values : (n, kept)
        Values of the kept voxels; all others are 0.
    kept : (kept,)
        Flat C-order indices of the kept voxels.
    shape : (i, j, k)
        Of the prepared grid.
    fingerprint
        Hash of the values: equal data have equal fingerprints, whatever their file is called.
    """

    name: str
    source: str
    subject: str
    values: NDArray[np.floating] = field(repr=False)
    kept: NDArray[np.intp] = field(repr=False)
    shape: tuple[int, int, int]
    fingerprint: str


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Every labelled volume of all runs; the arrays have one entry per volume.

    Parameters
    ----------
    runs
        Where the values are.
    class_names
        In the order of the model's outputs.
    run, row
        Which run a volume belongs to, and its row among the run's values.
    time_point, onset_s
        Its index in the run, and its time in s (NaN where unknown).
    label
        Index of its class.
    block
        The event it came from, or -1.
    unit
        Counts the blocks of its run; volumes outside events belong to the block before them.
    whole_run_labels
        Whether labels belong to subjects or runs and not to events.
    grid
        The prepared grid.
    brain : (i, j, k)
        Voxels that a linear decoder may use.
    """

    runs: tuple[RunVolumes, ...]
    class_names: tuple[str, ...]
    run: NDArray[np.intp]
    row: NDArray[np.intp]
    time_point: NDArray[np.intp]
    onset_s: NDArray[np.float64]
    label: NDArray[np.intp]
    block: NDArray[np.intp]
    unit: NDArray[np.intp]
    whole_run_labels: bool
    grid: ImageGrid
    brain: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return int(self.label.size)

    @property
    def subjects(self) -> NDArray[np.str_]:
        """The subject of every volume."""
        return np.array([run.subject for run in self.runs])[self.run]

    def fill(self, which: NDArray[np.intp], out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write volumes into the first entries of an array and return that part of it.

        Parameters
        ----------
        which : (n,)
            Which volumes.
        out : (at least n, i, j, k)
            Contiguous; is overwritten.
        """
        part = out[: len(which)]
        part[...] = 0
        flat = part.reshape(len(which), -1)
        for place, sample in enumerate(which):
            run = self.runs[self.run[sample]]
            flat[place, run.kept] = run.values[self.row[sample]]
        return part


def load_samples(
    runs: Sequence[OpenRun],
    preparation: Preparation,
    class_names: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Samples:
    """Prepare the chosen volumes of all runs.

    Parameters
    ----------
    runs
        Opened runs; every chosen volume needs a label.
    preparation
        The way to the model's grid.
    class_names
        Order of the classes; by default the order in which labels first appear, sorted.
    progress
        Called with the run's name, the volumes read so far and all that will be read.

    Raises
    ------
    SelectionError
        If a volume has no label, there are fewer than two classes, or a label is not one of
        `class_names`.
    GridError
        If the prepared grids of the runs differ.
    """
    labels = [label for run in runs for label in run.selection.labels]
    if any(label is None for label in labels):
        raise SelectionError(
            "training needs a label for every volume: give --events with --classes, or --labels"
        )
    found = sorted({str(label) for label in labels})
    names = tuple(class_names) if class_names else tuple(found)
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise SelectionError(f"label {unknown[0]!r} is none of the classes {', '.join(names)}")
    missing = [name for name in names if name not in found]
    if len(names) < 2 or missing:
        raise SelectionError(
            f"training needs at least two classes with volumes; found {', '.join(found)}"
            + (f", nothing of {', '.join(missing)}" if missing else "")
        )
    grids = [preparation.grid_of(run.series.grid) for run in runs]
    for run, grid in zip(runs, grids, strict=True):
        if not grid.matches(grids[0]):
            raise GridError(
                f"{run.series.path} is prepared to {grid}, the first run to {grids[0]}; use a "
                "preparation that resamples to one grid"
            )
    prepared = tuple(_prepare(run, preparation, progress) for run in runs)
    onset = [run.series.onset_s(t) for run in runs for t in run.selection.time_points]
    return Samples(
        runs=prepared,
        class_names=names,
        run=np.repeat(np.arange(len(runs)), [len(run.selection) for run in runs]),
        row=np.concatenate([np.arange(len(run.selection)) for run in runs]),
        time_point=np.concatenate([np.asarray(run.selection.time_points) for run in runs]),
        onset_s=np.array([np.nan if s is None else s for s in onset], dtype=np.float64),
        label=np.array([names.index(str(label)) for label in labels], dtype=np.intp),
        block=np.concatenate([_blocks(run) for run in runs]),
        unit=np.concatenate([_units(_blocks(run)) for run in runs]),
        whole_run_labels=all(b is None for run in runs for b in run.selection.blocks),
        grid=grids[0],
        brain=_brain(prepared, runs, preparation, grids[0]),
    )


def _prepare(
    run: OpenRun, preparation: Preparation, progress: Callable[[str, int, int], None] | None
) -> RunVolumes:
    shape = preparation.grid_of(run.series.grid).shape
    values = np.empty((len(run.selection), int(np.prod(shape))), np.float32)
    stream = preparation.stream(
        run.series,
        run.selection.time_points,
        mask=run.mask,
        confounds=run.confounds,
        progress=(lambda done, total: progress(run.name, done, total)) if progress else None,
    )
    for row, volume in enumerate(stream):
        values[row] = volume.data.reshape(-1)
    kept = np.flatnonzero(np.any(values != 0, axis=0))
    values = values[:, kept]
    if values.size and np.abs(values).max() <= 100:
        values = values.astype(np.float16)
    fingerprint = hashlib.sha256(values.tobytes()).hexdigest()
    subject = subject_of(run.series.path) or run.name
    return RunVolumes(run.name, str(run.series.path), subject, values, kept, shape, fingerprint)


def _brain(
    prepared: Sequence[RunVolumes],
    runs: Sequence[OpenRun],
    preparation: Preparation,
    grid: ImageGrid,
) -> NDArray[np.bool_]:
    """Return the preparation's mask where it has one, otherwise voxels that are not always 0."""
    brain = np.zeros(grid.shape, bool)
    for volumes, run in zip(prepared, runs, strict=True):
        mask = preparation.brain_mask(run.series, run.mask)
        if mask is None:
            brain.reshape(-1)[volumes.kept] = True
        else:
            brain |= mask
    return brain


def _blocks(run: OpenRun) -> NDArray[np.intp]:
    return np.array([NO_BLOCK if b is None else b for b in run.selection.blocks], dtype=np.intp)


def _units(blocks: NDArray[np.intp]) -> NDArray[np.intp]:
    """Count the blocks of a run; what lies between two of them belongs to the first.

    Examples
    --------
    >>> _units(np.array([-1, 4, 4, -1, 7, 7, -1]))
    array([0, 0, 0, 0, 1, 1, 1])
    """
    current, unit = None, -1
    units = []
    for block in blocks:
        if block != NO_BLOCK and block != current:
            current, unit = block, unit + 1
        units.append(max(unit, 0))
    return np.array(units, dtype=np.intp)
