"""Steps that come first: dropped volumes, confounds and temporal filters (by nilearn)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import G3DWarning, PreparationError
from g3dvit.prepare import base
from g3dvit.prepare.base import Brain, Step
from g3dvit.prepare.masks import sibling
from g3dvit.volumes import Series, Volume

_VOXELS_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class DropVolumes(Step):
    """Leave out the first volumes of a run: they can neither be chosen nor enter a z-score.

    Time points keep their numbers.

    Parameters
    ----------
    n
        How many.
    """

    n: int
    name: ClassVar[str] = "drop_volumes"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", base.check_whole("n", self.n))

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        return base.DROP

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume, unless it was to be left out."""
        if volume.time_point < self.n:
            raise PreparationError(
                f"volume {volume.time_point} of {volume.source} is one of the first {self.n}, "
                "which the preparation leaves out"
            )
        return volume

    def describe(self) -> str:
        """Return one sentence for people."""
        return f"The first {self.n} volumes of a run are left out."


@dataclass(frozen=True, slots=True)
class Denoise(Step):
    """Confound regression and temporal filtering by `nilearn.signal.clean`, on the source grid.

    The whole run is held in memory (float32). As in nilearn, filters and confounds are
    orthogonal to each other, and a high-pass takes the mean of every voxel away.

    Parameters
    ----------
    columns
        Confound columns of the run's table; shell patterns such as ``"trans_*"`` are allowed.
    strategy
        Instead: noise components for `nilearn.interfaces.fmriprep.load_confounds`.
    high_pass_hz, low_pass_hz
        Cut-off frequencies, or None.
    filter
        ``"butterworth"`` or ``"cosine"`` (high-pass only).
    keep_mean
        Put the mean of every voxel back afterwards.
    """

    columns: tuple[str, ...] = ()
    strategy: tuple[str, ...] = ()
    high_pass_hz: float | None = None
    low_pass_hz: float | None = None
    filter: Literal["butterworth", "cosine"] = "butterworth"
    keep_mean: bool = False
    name: ClassVar[str] = "denoise"

    def __post_init__(self) -> None:
        for name in ("columns", "strategy"):
            value = getattr(self, name)
            names = (value,) if isinstance(value, str) else tuple(value or ())
            if not all(isinstance(entry, str) for entry in names):
                raise PreparationError(f"`{name}` holds names, was given {value!r}")
            object.__setattr__(self, name, names)
        for name in ("high_pass_hz", "low_pass_hz"):
            if getattr(self, name) is not None:
                value = base.check_number(name, getattr(self, name), above=0)
                object.__setattr__(self, name, value)
        base.check_choice("filter", self.filter, ("butterworth", "cosine"))
        base.check_choice("keep_mean", self.keep_mean, (False, True))
        if self.columns and self.strategy:
            raise PreparationError("confounds are chosen by `columns` or by `strategy`, not both")
        if "scrub" in self.strategy:
            raise PreparationError(
                "the strategy 'scrub' removes volumes, which would leave gaps in the run; leave "
                "it out and choose volumes instead"
            )
        if self.filter == "cosine" and self.low_pass_hz is not None:
            raise PreparationError("the filter 'cosine' has no low-pass; use 'butterworth'")
        if not (self.columns or self.strategy or self.high_pass_hz or self.low_pass_hz):
            raise PreparationError(
                "the step 'denoise' does nothing; give columns, strategy, high_pass_hz or "
                "low_pass_hz"
            )

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        return base.DENOISE

    @property
    def needs_run(self) -> bool:
        """Whether the step must see the whole run before it can treat one volume."""
        return True

    @property
    def filters(self) -> bool:
        """Whether a temporal filter is applied, which needs the repetition time."""
        return self.high_pass_hz is not None or self.low_pass_hz is not None

    def describe(self) -> str:
        """Return one sentence for people."""
        parts = []
        if self.columns or self.strategy:
            parts.append(f"the confounds {', '.join(self.columns or self.strategy)} are regressed")
        if self.high_pass_hz is not None:
            parts.append(f"a {self.filter} high-pass of {self.high_pass_hz:g} Hz is applied")
        if self.low_pass_hz is not None:
            parts.append(f"a {self.filter} low-pass of {self.low_pass_hz:g} Hz is applied")
        kept = "; voxel means are put back" if self.keep_mean else ""
        return f"Over the whole run, {' and '.join(parts)} (nilearn){kept}."


def confound_table(
    step: Denoise, series: Series, n_dropped: int, override: Path | None
) -> NDArray[np.float64] | None:
    """Return the confounds of the volumes that are kept, (time, columns), or None.

    Raises
    ------
    PreparationError
        If the table or one of its columns is missing, or does not fit the run.
    """
    if step.strategy:
        return _by_strategy(step, series, n_dropped, override)
    if not step.columns:
        return None
    file = override or sibling(
        series.path, "desc-confounds_timeseries.tsv", drop=("space", "res", "den")
    )
    if file is None or not file.is_file():
        raise PreparationError(
            f"the preparation regresses confounds, and no table was found for {series.path}"
            + (f"; there is no {file}" if file else "")
            + ". Name one with --confounds TABLE.tsv (`confounds=` in Python)"
        )
    table = pd.read_csv(file, sep="\t", na_values=["n/a"])
    chosen: list[str] = []
    for pattern in step.columns:
        found = [c for c in table.columns if fnmatchcase(str(c), pattern)]
        if not found:
            raise PreparationError(
                f"{file} has no column {pattern!r}; it has {', '.join(map(str, table.columns))}"
            )
        chosen += [c for c in found if c not in chosen]
    if len(table) != series.n_time_points:
        raise PreparationError(
            f"{file} has {len(table)} rows, {series.path} has {series.n_time_points} volumes; "
            "one row per volume is needed"
        )
    # Derivatives have no value at the first volume: they take the next one.
    values = table[chosen].copy()
    values.iloc[:1] = values.iloc[:2].bfill().iloc[:1]
    values = values.iloc[n_dropped:]
    if not np.isfinite(values.to_numpy(dtype=np.float64)).all():
        bad = [c for c in chosen if not np.isfinite(values[c]).all()]
        raise PreparationError(f"{file} has missing values in {', '.join(bad)}")
    return np.asarray(values.to_numpy(dtype=np.float64))


def _by_strategy(
    step: Denoise, series: Series, n_dropped: int, override: Path | None
) -> NDArray[np.float64]:
    from nilearn.interfaces.fmriprep import load_confounds

    if override is not None:
        raise PreparationError(
            "a confounds strategy finds fMRIPrep's table itself; to use another table, name its "
            "`columns` in the preparation"
        )
    try:
        table, kept = load_confounds(str(series.path), strategy=step.strategy)
    except (ValueError, OSError, KeyError) as error:
        raise PreparationError(f"confounds of {series.path}: {error}") from error
    if kept is not None and min(kept) > n_dropped:
        warnings.warn(
            f"{series.path}: {min(kept)} volumes are not in steady state, the preparation drops "
            f"{n_dropped}",
            G3DWarning,
            stacklevel=2,
        )
    if len(table) != series.n_time_points:
        raise PreparationError(
            f"the confounds of {series.path} have {len(table)} rows, the run has "
            f"{series.n_time_points} volumes"
        )
    return np.asarray(table.to_numpy(dtype=np.float64))[n_dropped:]


def clean_run(
    step: Denoise,
    volumes: Sequence[Volume] | Iterator[Volume],
    n_volumes: int,
    t_r: float | None,
    confounds: NDArray[np.float64] | None,
) -> list[Volume]:
    """Return a run after confound regression and filtering, all of it in memory.

    Raises
    ------
    PreparationError
        If a filter is asked for and the repetition time is unknown, or nilearn refuses.
    """
    from nilearn.signal import clean

    if step.filters and t_r is None:
        raise PreparationError(
            "a temporal filter needs the repetition time, which the file does not state; give "
            "it (--t-r SECONDS, `t_r=` in Python)"
        )
    run: NDArray[np.float32] | None = None
    kept: list[Volume] = []
    for row, volume in enumerate(volumes):
        if run is None:
            run = np.empty((n_volumes, volume.data.size), dtype=np.float32)
        run[row] = volume.data.reshape(-1)
        kept.append(volume.with_data(run[row].reshape(volume.data.shape)))
    if run is None:
        return kept
    for first in range(0, run.shape[1], _VOXELS_AT_ONCE):
        part = run[:, first : first + _VOXELS_AT_ONCE]
        means = part.mean(axis=0, dtype=np.float64)
        try:
            cleaned = clean(
                part.astype(np.float64),
                detrend=False,
                standardize=None,
                confounds=confounds,
                filter=step.filter if step.filters else False,
                high_pass=step.high_pass_hz,
                low_pass=step.low_pass_hz,
                t_r=t_r if step.filters else None,
            )
        except ValueError as error:
            raise PreparationError(f"nilearn cannot clean the run: {error}") from error
        if step.keep_mean:
            cleaned = cleaned - cleaned.mean(axis=0) + means
        part[:] = cleaned
    return kept
