"""From what was found to the table, the maps and the sentence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.baseline.folds import Division, units_of
from g3dvit.baseline.found import MODEL, Found
from g3dvit.baseline.images import images_of, searchlight_words
from g3dvit.baseline.scores import OverUnits, over_units
from g3dvit.baseline.words import COLUMNS, limits_of, sentence_of
from g3dvit.descriptions import ModelDescription
from g3dvit.evaluate.agreement import spearman
from g3dvit.maps import RelevanceMap
from g3dvit.run.accuracy import is_null_model
from g3dvit.run.record import weights_hash
from g3dvit.train.report import balanced_accuracy
from g3dvit.train.samples import Samples

Array = NDArray[np.float64]
_NO = float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What a baseline found.

    Parameters
    ----------
    table
        Accuracy per approach and fold; columns in `COLUMNS`.
    predictions
        One row per held-out volume.
    maps
        File name (without ending) to map.
    for_evaluation
        Name in the table of ``g3dvit evaluate`` to one of these file names.
    values
        Everything else, plain.
    sentence
        For a paper.
    notes
        What a reader should know.
    """

    table: pd.DataFrame = field(repr=False)
    predictions: pd.DataFrame = field(repr=False)
    maps: Mapping[str, RelevanceMap] = field(repr=False)
    for_evaluation: Mapping[str, str]
    values: Mapping[str, Any] = field(repr=False)
    sentence: str
    notes: tuple[str, ...]


def summarise_baseline(
    samples: Samples,
    division: Division,
    found: Found,
    description: ModelDescription,
    settings: Mapping[str, Any],
) -> Baseline:
    """Return table, maps and sentence.

    Parameters
    ----------
    samples, division, found
        Of the job.
    description
        Of the model.
    settings
        To be recorded.
    """
    units = units_of(samples, division.unit)
    answers = dict(found.answers)
    known = [division.model_answer[fold.test] for fold in division.folds]
    if all((one >= 0).all() for one in known):
        answers[MODEL] = known
    rows: list[dict[str, Any]] = []
    overall: dict[str, OverUnits] = {}
    for name in ("linear", "glm", "searchlight", MODEL):
        if name in answers:
            own, overall[name] = _rows(name, answers[name], samples, division, units, found)
            rows += own
        elif name == "searchlight" and "searchlight" in found.maps:
            rows += _searchlight_rows(found, samples, division, units)
        elif name == MODEL and description.accuracy and not is_null_model(description):
            rows.append(_described(description, len(samples.class_names)))
    notes = [*found.notes, *limits_of(samples, division, found, list(answers))]
    difference = _difference(answers, samples, division, units)
    maps, listed = images_of(samples, found, len(division.folds))
    sentence = sentence_of(samples, division, overall, difference, rows, description)
    values = {
        "schema_version": 1,
        "model": description.path.stem if description.path else "",
        "model_sha256": weights_hash(description),
        "classes": samples.class_names,
        "unit": division.unit,
        "folds": division.origin,
        "gap_volumes": division.gap_volumes,
        "held_out": [fold.held_out for fold in division.folds],
        "n_train": [len(fold.train) for fold in division.folds],
        "n_subjects": len(set(samples.subjects.tolist())),
        "linear_minus_model": difference,
        "glm": found.glm_words,
        "inner_folds": found.inner,
        "searchlight": searchlight_words(found),
        "settings": dict(settings),
        "runs": [{"source": run.source, "sha256": run.fingerprint} for run in samples.runs],
        "sentence": sentence,
        "notes": notes,
    }
    return Baseline(
        pd.DataFrame(rows, columns=list(COLUMNS)),
        _predictions(samples, division, units, answers),
        maps,
        listed,
        values,
        sentence,
        tuple(notes),
    )


# -- the table -----------------------------------------------------------------------------------
def _rows(
    name: str,
    answers: Sequence[NDArray[np.intp]],
    samples: Samples,
    division: Division,
    units: NDArray[np.str_],
    found: Found,
) -> tuple[list[dict[str, Any]], OverUnits]:
    chance = 1 / len(samples.class_names)
    rows = []
    for number, (fold, answer) in enumerate(zip(division.folds, answers, strict=True)):
        rows.append(
            {
                "approach": name,
                "fold": str(number + 1),
                "held_out": len(fold.held_out),
                "balanced_accuracy": balanced_accuracy(samples.label[fold.test], answer),
                "chance": chance,
                "n_units": len(np.unique(units[fold.test])),
                "unit": division.unit,
                "n_volumes": len(fold.test),
                "C": found.strengths[number] if name == "linear" else _NO,
            }
        )
    test = np.concatenate([fold.test for fold in division.folds])
    answer = np.concatenate(list(answers))
    truth = samples.label[test]
    whole = over_units((answer == truth).astype(float), truth, units[test], reference=chance)
    maps = {"linear": "linear_pattern", "glm": "glm"}
    rows.append(
        {
            "approach": name,
            "fold": "all",
            "held_out": len(np.unique(units[test])),
            "balanced_accuracy": balanced_accuracy(truth, answer),
            "mean_over_units": whole.mean,
            "low": whole.low,
            "high": whole.high,
            "p": whole.p,
            "chance": chance,
            "n_units": whole.n_units,
            "unit": division.unit,
            "n_volumes": len(test),
            "folds_agree": folds_agree(found.maps.get(maps.get(name, ""), [])),
        }
    )
    return rows, whole


def _searchlight_rows(
    found: Found, samples: Samples, division: Division, units: NDArray[np.str_]
) -> list[dict[str, Any]]:
    per_fold = found.maps["searchlight"]
    rows = [
        {
            "approach": "searchlight",
            "fold": str(number + 1),
            "held_out": len(fold.held_out),
            "balanced_accuracy": float(values.mean()),
            "chance": 1 / len(samples.class_names),
            "n_units": len(np.unique(units[fold.test])),
            "unit": division.unit,
            "n_volumes": len(fold.test),
        }
        for number, (fold, values) in enumerate(zip(division.folds, per_fold, strict=True))
    ]
    test = np.concatenate([fold.test for fold in division.folds])
    last = {
        **rows[0],
        "fold": "all",
        "held_out": len(np.unique(units[test])),
        "balanced_accuracy": float(np.mean([values.mean() for values in per_fold])),
        "n_units": len(np.unique(units[test])),
        "n_volumes": len(test),
        "folds_agree": folds_agree(per_fold),
    }
    return [*rows, last]


def _described(description: ModelDescription, n_classes: int) -> dict[str, Any]:
    """Return what the description says, where the model's own predictions are not known."""
    accuracy = description.accuracy or {}
    totals = accuracy.get("n_total") or []
    return {
        "approach": "model (its description, other volumes)",
        "fold": "all",
        "balanced_accuracy": float(accuracy.get("balanced_accuracy", _NO)),
        "chance": 1 / n_classes,
        "n_units": int(sum(totals)) if totals else None,
        "unit": accuracy.get("unit"),
    }


def folds_agree(maps: Sequence[Array]) -> float:
    """Return the mean rank correlation of pairs of folds' maps; NaN with one fold."""
    pairs = list(itertools.combinations(range(len(maps)), 2))
    found = [
        float(np.nanmean([spearman(a, b) for a, b in zip(maps[m], maps[n], strict=True)]))
        for m, n in pairs
    ]
    return float(np.mean(found)) if found else _NO


def _difference(
    answers: Mapping[str, Sequence[NDArray[np.intp]]],
    samples: Samples,
    division: Division,
    units: NDArray[np.str_],
) -> OverUnits | None:
    """Return linear decoder less model, paired over units."""
    if not {"linear", MODEL} <= set(answers):
        return None
    test = np.concatenate([fold.test for fold in division.folds])
    truth = samples.label[test]
    right = [
        (np.concatenate(list(answers[name])) == truth).astype(float) for name in ("linear", MODEL)
    ]
    return over_units(right[0] - right[1], truth, units[test], bounds=(-1.0, 1.0))


def _predictions(
    samples: Samples,
    division: Division,
    units: NDArray[np.str_],
    answers: Mapping[str, Sequence[NDArray[np.intp]]],
) -> pd.DataFrame:
    names = np.array(samples.class_names, dtype=object)
    tables = []
    for number, fold in enumerate(division.folds):
        test = fold.test
        table = pd.DataFrame(
            {
                "fold": number + 1,
                "run": [samples.runs[r].name for r in samples.run[test]],
                "subject": samples.subjects[test],
                "unit": units[test],
                "time_point": samples.time_point[test],
                "onset_s": samples.onset_s[test],
                "label": names[samples.label[test]],
            }
        )
        for name, of_folds in answers.items():
            table[name] = names[of_folds[number]]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
