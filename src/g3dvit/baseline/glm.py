"""A general linear model through nilearn: on training volumes of a fold, or on all.

Runs with events: the response to every class (Glover's, nilearn's default), cosine drifts up to
1/128 Hz, AR(1) noise, on the volumes as the model gets them; runs are summed as fixed effects. The
contrast is a class against the mean of the others; ``BASELINE`` is what the model leaves
unexplained and has no regressor. From 6 subjects on, z is that of a t-test over the subjects'
effects; below it is about these subjects alone. With labels of whole runs: a t-test between the
classes over subjects (or runs) that are averaged first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.evaluate.units import FEWEST_UNITS
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import OpenRun
from g3dvit.selection import BASELINE, load_events
from g3dvit.train.samples import Samples

Array = NDArray[np.float64]
HIGH_PASS_HZ = 1 / 128


@dataclass(frozen=True, slots=True, eq=False)
class RunData:
    """One whole run, prepared, inside the brain.

    Parameters
    ----------
    values : (time points, voxels)
        Prepared values.
    time_points : (time points,)
        Indices in the file.
    design
        One row per time point.
    """

    values: NDArray[np.float32] = field(repr=False)
    time_points: NDArray[np.intp]
    design: pd.DataFrame = field(repr=False)


def read_run(
    run: OpenRun,
    preparation: Preparation,
    samples: Samples,
    wanted: Sequence[int],
    events: pd.DataFrame,
    progress: Callable[[int, int], None] | None = None,
) -> RunData:
    """Prepare a run for its GLM.

    Parameters
    ----------
    run, preparation, samples
        As they were opened; the brain is that of the samples.
    wanted
        Time points that may be used.
    events
        As `class_events` returns them.
    progress
        Called with (volumes read, in all).
    """
    flat = np.flatnonzero(samples.brain)
    values = np.empty((len(wanted), len(flat)), np.float32)
    stream = preparation.stream(
        run.series, wanted, mask=run.mask, confounds=run.confounds, progress=progress
    )
    for row, volume in enumerate(stream):
        values[row] = volume.data.reshape(-1)[flat]
    times = np.array([run.series.onset_s(t) for t in wanted], dtype=np.float64)
    return RunData(values, np.asarray(wanted, dtype=np.intp), design_of(times, events))


def class_events(path: Any, classes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return events named by their class; those in no class keep their trial type.

    Parameters
    ----------
    path
        BIDS events.
    classes
        Class to trial types; empty where every trial type is a class.
    """
    table = load_events(path)
    class_of = {kind: name for name, kinds in classes.items() for kind in kinds}
    named = [
        f"class {class_of.get(kind, kind)}" if kind in class_of or not classes else f"other {kind}"
        for kind in table["trial_type"]
    ]
    found = table[["onset", "duration"]].assign(trial_type=named)
    return found[table["trial_type"] != BASELINE]


def design_of(times: Array, events: pd.DataFrame) -> pd.DataFrame:
    """Return the design matrix at these times in s."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names and of types, which are ours
        found: pd.DataFrame = make_first_level_design_matrix(
            times, events, hrf_model="glover", drift_model="cosine", high_pass=HIGH_PASS_HZ
        )
    return found


def contrast_of(design: pd.DataFrame, label: int, names: Sequence[str]) -> Array:
    """Return the contrast of one class against the mean of the others, per column."""
    vector = np.zeros(design.shape[1])
    for number, name in enumerate(names):
        column = f"class {name}"
        if column in design.columns:
            weight = 1.0 if number == label else -1.0 / (len(names) - 1)
            vector[design.columns.get_loc(column)] = weight
    return vector


def run_contrasts(
    run: RunData, rows: NDArray[np.bool_], labels: Sequence[int], names: Sequence[str]
) -> list[Any] | None:
    """Fit a run on some of its time points and return nilearn's contrasts, one per label.

    Parameters
    ----------
    run
        The whole run.
    rows : (time points,)
        Which of them may be used. AR(1) takes those beside a gap for neighbours.
    labels, names
        Which classes are contrasted with the others, and all of them.

    Returns
    -------
    list or None
        None where these rows cannot tell a contrast.
    """
    from nilearn.glm.contrasts import compute_contrast
    from nilearn.glm.first_level import run_glm

    x = run.design.to_numpy(dtype=np.float64)[rows]
    seen = np.abs(x).max(axis=0, initial=0) > 1e-6
    if rows.sum() <= seen.sum() + 1:
        return None
    vectors = [contrast_of(run.design, label, names) for label in labels]
    if any((np.abs(vector[~seen]) > 0).any() or not vector.any() for vector in vectors):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of voxels that do not vary
        fitted, results = run_glm(
            run.values[rows].astype(np.float64), x[:, seen], noise_model="ar1", n_jobs=1
        )
        return [compute_contrast(fitted, results, v[seen], stat_type="t") for v in vectors]


class FixedEffects:
    """Contrasts of runs, added as they come; z at the end."""

    def __init__(self) -> None:
        self._sums: list[Any] = []
        self._effects: dict[str, list[Array]] = {}

    def add(self, contrasts: Sequence[Any] | None, subject: str) -> None:
        """Take a run's contrasts into account; None adds nothing."""
        if contrasts is None:
            return
        if self._sums:
            contrasts_sum = [a + b for a, b in zip(self._sums, contrasts, strict=True)]
        else:
            contrasts_sum = list(contrasts)
        self._sums = contrasts_sum
        own = np.stack([np.nan_to_num(one.effect_size().ravel()) for one in contrasts])
        self._effects.setdefault(subject, []).append(own)

    @property
    def n_subjects(self) -> int:
        """Subjects with a run that could be used."""
        return len(self._effects)

    def z(self) -> Array | None:
        """Return z values (labels, voxels), 0 where undefined; None where no run could be used."""
        if not self._sums:
            return None
        if self.n_subjects >= FEWEST_UNITS:
            own = np.stack([np.mean(runs, axis=0) for runs in self._effects.values()])
            return t_to_z(_t_of_mean(own), len(own) - 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = [one.z_score().ravel() for one in self._sums]
        return np.asarray(np.nan_to_num(np.stack(found), posinf=0, neginf=0))


def _t_of_mean(values: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = values.mean(axis=0) / (values.std(axis=0, ddof=1) / np.sqrt(len(values)))
    return np.asarray(np.nan_to_num(t, posinf=0, neginf=0))


def two_sample_z(x: Array, labels: NDArray[np.intp], chosen: Sequence[int]) -> Array | None:
    """Return z of a t-test between units of each class and all others.

    Parameters
    ----------
    x : (units, voxels)
        One row per unit, averaged over its volumes.
    labels : (units,)
        Class of each.
    chosen
        Classes.

    Returns
    -------
    (chosen, voxels) or None
        None with fewer than two units on a side.
    """
    from scipy.stats import ttest_ind

    found = []
    for label in chosen:
        mine, rest = x[labels == label], x[labels != label]
        if min(len(mine), len(rest)) < 2:
            return None
        with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            t = np.asarray(ttest_ind(mine, rest, axis=0).statistic, dtype=np.float64)
        found.append(t_to_z(np.nan_to_num(t, posinf=0, neginf=0), len(x) - 2))
    return np.stack(found)


def t_to_z(t: Array, df: int) -> Array:
    """Return z values with the tail of Student's t, exact far out in both tails."""
    from scipy.stats import norm
    from scipy.stats import t as student

    z = -norm.ppf(np.exp(student.logsf(np.abs(t), df)))
    return np.asarray(np.sign(t) * np.clip(z, 0, 38), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """Decides by how much a volume resembles z maps: the GLM's held-out accuracy.

    Parameters
    ----------
    mean, scale : (voxels,)
        Of the training volumes.
    maps : (maps, voxels)
        z maps of the training volumes.
    centres : (classes, maps)
        Mean resemblance of each class, in standard deviations within classes.
    spread : (maps,)
        These standard deviations.
    """

    mean: Array = field(repr=False)
    scale: Array = field(repr=False)
    maps: Array = field(repr=False)
    centres: Array = field(repr=False)
    spread: Array = field(repr=False)

    def decide(self, x: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the class index of volumes (n, voxels): that of the nearest centre."""
        alike = ((x - self.mean) / self.scale) @ self.maps.T / self.spread
        apart = ((alike[:, None, :] - self.centres[None]) ** 2).sum(axis=2)
        return np.asarray(apart.argmin(axis=1), dtype=np.intp)


def fit_template(
    x: NDArray[np.floating], labels: NDArray[np.intp], maps: Array, n_classes: int
) -> Template:
    """Learn where the classes lie on z maps, from training volumes only."""
    mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-7 * max(1e-30, float(scale.max(initial=0))), scale, 1.0)
    alike = ((x - mean) / scale) @ maps.T
    centres = np.stack([alike[labels == label].mean(axis=0) for label in range(n_classes)])
    spread = (alike - centres[labels]).std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return Template(mean, scale, maps, centres / spread, spread)
