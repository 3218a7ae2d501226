"""The folds that the model was tested on, or new ones; either are checked for leakage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import SelectionError
from g3dvit.train.samples import Samples
from g3dvit.train.split import MINIMUM_GAP, Fold, Unit, check_fold, choose_unit, make_folds

PREDICTIONS = "heldout_predictions.tsv"
RECIPE = "training.json"
_MOST_FOLDS = 5
_INNER_FOLDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """How volumes are divided.

    Parameters
    ----------
    folds
        Checked.
    unit
        What they hold out as a whole.
    gap_volumes
        Between training and test volumes of a run.
    origin
        Where the folds are from, in words.
    model_answer : (volumes,)
        Class that the model predicted while the volume was held out, -1 where unknown.
    """

    folds: tuple[Fold, ...]
    unit: Unit
    gap_volumes: int
    origin: str
    model_answer: NDArray[np.intp]


def divide(
    samples: Samples,
    model: Path | None,
    *,
    split: Unit | None = None,
    n_folds: int | None = None,
    gap_volumes: int | None = None,
    seed: int = 0,
) -> Division:
    """Return the folds of the model's own test where it was trained on these data, or new ones.

    Parameters
    ----------
    samples
        What is divided.
    model
        Model description; ``g3dvit train`` leaves its held-out predictions beside it.
    split, n_folds, gap_volumes
        New folds by that unit, so many, with that gap. Naming any asks for new folds.
    seed
        Of new folds.

    Raises
    ------
    LeakageError
        If a fold leaks.
    SelectionError
        If the volumes cannot be divided so.
    """
    known = None if model is None else _held_out(samples, model)
    answer = np.full(len(samples), -1, dtype=np.intp) if known is None else known[1]
    asked = split is not None or n_folds is not None or gap_volumes is not None
    if known is not None and not asked:
        folds, _, unit, gap = known
        for fold in folds:
            check_fold(samples, fold, unit, gap_volumes=gap)
        return Division(folds, unit, gap, "those of the model's own test", answer)
    unit = split or choose_unit(samples)
    gap = MINIMUM_GAP if gap_volumes is None else gap_volumes
    number = n_folds or min(_MOST_FOLDS, len(np.unique(units_of(samples, unit))))
    folds = make_folds(samples, unit, n_folds=number, gap_volumes=gap, seed=seed)
    return Division(folds, unit, gap, f"new ones by {unit} (seed {seed})", answer)


def units_of(samples: Samples, unit: Unit) -> NDArray[np.str_]:
    """Return the name of the unit to which each volume belongs."""
    names = np.array([run.name for run in samples.runs])
    if unit == "subject":
        return samples.subjects
    if unit == "run":
        return np.asarray(names[samples.run])
    pairs = zip(samples.run, samples.unit, strict=True)
    return np.array([f"{names[run]} block {number + 1}" for run, number in pairs])


def subset(samples: Samples, which: NDArray[np.intp]) -> Samples:
    """Return some of the volumes as samples of their own."""
    from dataclasses import replace

    names = ("row", "time_point", "onset_s", "label", "block", "unit")
    # Runs without a volume must go, or they would be groups with nothing to hold out.
    left, run = np.unique(samples.run[which], return_inverse=True)
    return replace(
        samples,
        runs=tuple(samples.runs[number] for number in left),
        run=np.asarray(run, dtype=np.intp),
        **{name: getattr(samples, name)[which] for name in names},
    )


def inner_folds(
    samples: Samples, train: NDArray[np.intp], unit: Unit, gap_volumes: int
) -> tuple[Fold, ...]:
    """Divide training volumes once more by the same unit, for choosing a setting.

    Returns
    -------
    tuple
        Indices count within `train`; empty where there are too few units for it.
    """
    inside = subset(samples, train)
    tried: list[Unit] = [unit]
    if unit != "block" and not samples.whole_run_labels:
        tried.append("block")  # one run is left to train on: its blocks have to do
    for by in tried:
        count = len(np.unique(units_of(inside, by)))
        for number in range(min(_INNER_FOLDS, count), 1, -1):
            try:
                return make_folds(
                    inside, by, n_folds=number, gap_volumes=max(gap_volumes, MINIMUM_GAP)
                )
            except SelectionError:
                continue
    return ()


def _held_out(
    samples: Samples, model: Path
) -> tuple[tuple[Fold, ...], NDArray[np.intp], Unit, int] | None:
    """Return folds and predictions that `g3dvit train` left, if they are of just these volumes."""
    for folder in (model.parent, model.parent.parent):
        if (folder / PREDICTIONS).is_file() and (folder / RECIPE).is_file():
            break
    else:
        return None
    try:
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / PREDICTIONS, sep="\t", dtype={"label": str, "predicted": str})
        prints = [run["sha256"] for run in recipe["runs"]]
        unit, gap = recipe["split"], int(recipe["gap_volumes"])
        keys = list(zip(table["run"].astype(str), table["time_point"], strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if recipe.get("permuted_labels"):
        return None  # a null model: what it answers is about other labels
    if sorted(prints) != sorted(run.fingerprint for run in samples.runs):
        return None
    names = [run.name for run in samples.runs]
    here = {(names[r], int(t)): n for n, (r, t) in enumerate(_pairs(samples))}
    if any(key not in here for key in keys):
        return None
    index = np.array([here[key] for key in keys], dtype=np.intp)
    classes = np.array(samples.class_names)
    if not set(table["predicted"]) <= set(classes.tolist()) or not np.array_equal(
        classes[samples.label[index]], table["label"].to_numpy()
    ):
        return None
    answer = np.full(len(samples), -1, dtype=np.intp)
    answer[index] = [samples.class_names.index(name) for name in table["predicted"]]
    folds = tuple(
        _fold(samples, np.sort(index[table["fold"].to_numpy() == number]), unit, gap)
        for number in sorted(table["fold"].unique())
    )
    return folds, answer, unit, gap


def _pairs(samples: Samples) -> list[tuple[int, int]]:
    return list(zip(samples.run.tolist(), samples.time_point.tolist(), strict=True))


def _fold(samples: Samples, test: NDArray[np.intp], unit: Unit, gap: int) -> Fold:
    """Return the fold that tests these volumes."""
    units = units_of(samples, unit)
    train = ~np.isin(units, units[test])
    for run in np.unique(samples.run[test]) if unit == "block" else ():
        here = samples.run == run
        tested = samples.time_point[test][samples.run[test] == run]
        apart = np.abs(samples.time_point[here][:, None] - tested[None, :]).min(axis=1)
        train[np.flatnonzero(here)[apart <= gap]] = False
    held_out = tuple(dict.fromkeys(units[test].tolist()))
    return Fold(np.flatnonzero(train), test, held_out, int(len(samples) - train.sum() - len(test)))


def usable_rows(
    samples: Samples, fold: Fold, unit: Unit, gap: int, run: int, time_points: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return which time points of a run, labelled or not, may be used for training.

    Parameters
    ----------
    samples, fold, unit, gap
        The division.
    run
        Index of the run.
    time_points : (n,)
        Of that run.
    """
    tested = samples.time_point[fold.test][samples.run[fold.test] == run]
    if not tested.size:
        return np.ones(len(time_points), dtype=bool)
    if unit != "block":
        return np.zeros(len(time_points), dtype=bool)
    apart = np.abs(time_points[:, None] - tested[None, :]).min(axis=1)
    return np.asarray(apart > gap)
