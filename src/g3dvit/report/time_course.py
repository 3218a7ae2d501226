"""Predictions over time with the design underneath, as plain values for the page."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from g3dvit.run_result import RunResult


def time_courses(result: RunResult) -> list[dict[str, Any]]:
    """Return one time course a run.

    Parameters
    ----------
    result
        What was explained; the rows of its predictions follow its runs.

    Returns
    -------
    list of dict
        ``name``; ``first_row`` and ``n`` (rows of the predictions); ``time`` (s where known, else
        time points) with its ``unit``; ``label`` and ``predicted`` (class index, -1 for none);
        ``probability`` per class, or the ``score`` alone where a model has no classes.
    """
    names = list(result.model.class_names)
    table, courses, first = result.predictions, [], 0
    for run in result.inputs:
        rows = table.iloc[first : first + len(run.time_points)]
        onset = [_number(v) for v in rows.get("onset_s", pd.Series(dtype=float))]
        timed = bool(onset) and all(v is not None for v in onset)
        courses.append(
            {
                "name": run.name,
                "first_row": first,
                "n": len(rows),
                "time": onset if timed else [int(v) for v in run.time_points],
                "unit": "s" if timed else "time point",
                "label": [_index(v, names) for v in rows.get("label", [None] * len(rows))],
                "predicted": [_index(v, names) for v in rows.get("predicted", [None] * len(rows))],
                "probability": [
                    [round(float(v), 4) for v in rows[f"p_{name}"]]
                    for name in names
                    if f"p_{name}" in rows
                ],
                "score": [_number(v) for v in rows.get("score", pd.Series(dtype=float))],
            }
        )
        first += len(rows)
    return courses


def _index(value: Any, names: list[str]) -> int:
    return names.index(value) if isinstance(value, str) and value in names else -1


def _number(value: Any) -> float | None:
    number = float(value) if value is not None and not pd.isna(value) else math.nan
    return round(number, 5) if math.isfinite(number) else None
