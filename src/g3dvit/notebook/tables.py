"""What the table of a value says in a notebook: words and numbers that the value holds already."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from g3dvit.check_summary import summarise_checks
from g3dvit.checks import Check
from g3dvit.errors import InputError
from g3dvit.explanation import Explanation
from g3dvit.maps import RelevanceMap
from g3dvit.report.words import millimetres
from g3dvit.run_result import MapSet, RunResult

_MOST_VOLUMES = 6  # whose scores are listed one by one


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: its name, what it says, and the verdict of a check, else empty."""

    name: str
    text: str
    verdict: str = ""


def rows_of(value: Any) -> list[Row]:
    """Return what a value is, row by row.

    Raises
    ------
    InputError
        If it is not a value that shows itself.
    """
    if isinstance(value, RelevanceMap):
        return _of_map(value)
    if isinstance(value, Explanation):
        return _of_explanation(value)
    if isinstance(value, RunResult):
        return _of_run(value)
    raise InputError(
        f"a {type(value).__name__} has no table; a map, a run, an explanation and a geometry have"
    )


def verdict_rows(value: Any) -> list[Row]:
    """Return the checks of a value, failed ones first; of several volumes how many of them."""
    if isinstance(value, RelevanceMap):
        return _of_checks(checks_of_map(value))
    if isinstance(value, Explanation):
        return _of_checks(value.checks)
    rows = [_check_row(check.name, check) for check in value.checks]
    for maps in value.maps:
        rows += [_check_row(f"{maps.label}: {check.name}", check) for check in maps.summary]
    return _worst_first(rows)


def _of_map(value: RelevanceMap) -> list[Row]:
    told = value.metadata
    kind = "3D" if value.data.ndim == 3 else f"4D, {value.n_volumes} volumes"
    low, high = float(value.data.min()), float(value.data.max())
    rows = [
        Row("relevance map", kind),
        *_told(told, "method", "weighting", "target", "score", "label", "predicted"),
        *_outputs(told, "logit_", "logits"),
        *_outputs(told, "p_", "probabilities"),
        *_told(told, "layer", "target_layer"),
        Row("shape", _times(value.data.shape)),
        Row("resolution", f"{millimetres(value.resolution_mm)} (edges of a patch)"),
        Row("space", str(told.get("space") or "unknown")),
        Row("values", f"{low:.3g} to {high:.3g} {value.units}".rstrip()),
        *_told(told, "source", "time_point"),
    ]
    if value.n_volumes > 1:
        rows.append(Row("figure", "volume 0; .volume(n) is another"))
    return rows


def _told(metadata: Mapping[str, Any], *names: str) -> list[Row]:
    return [Row(n.replace("_", " "), _short(metadata[n])) for n in names if _is_told(metadata, n)]


def _outputs(metadata: Mapping[str, Any], prefix: str, title: str) -> list[Row]:
    """Return what the model gave for each class, where the map has it."""
    found = {n.removeprefix(prefix): v for n, v in metadata.items() if n.startswith(prefix)}
    return [Row(title, _short(found))] if found else []


def _is_told(metadata: Mapping[str, Any], name: str) -> bool:
    return metadata.get(name) is not None and metadata[name] != ""


def _of_explanation(value: Explanation) -> list[Row]:
    count = len(value)
    rows = [
        Row("explanation", f"{count} {'volume' if count == 1 else 'volumes'}"),
        Row("method", value.method),
        Row("target", "; ".join(_short(t) for t in value.target[:_MOST_VOLUMES]) + _more(count)),
        Row(f"score ({value.score})", _numbers(value.scores.reshape(count, -1).tolist())),
        Row("logits", _numbers(value.logits.tolist())),
        Row("probabilities", _numbers(value.logits.softmax(-1).tolist()))
        if value.logits.shape[1] > 1
        else Row("probabilities", "one output only"),
        Row("layer", value.target_layer or "none: the method has no layer"),
        Row("shape", _times(value.relevance.shape) + " (volumes, ..., patches)"),
        Row("units", value.units),
    ]
    if value.weightings:
        rows.insert(2, Row("weightings", ", ".join(value.weightings)))
    rows.append(Row("place", "none yet: in patches, an affine makes it a map in mm"))
    return rows


def _of_run(value: RunResult) -> list[Row]:
    table = value.predictions
    rows = [
        Row("run", value.title),
        Row("model", value.model.name),
        Row("accuracy", value.model.accuracy),
        Row("volumes", f"{len(table)} explained, of {len(value.inputs)} run(s)"),
    ]
    if "label" in table and table["label"].notna().any():
        known = table[table["label"].notna()]
        right = int((known["label"] == known["predicted"]).sum())
        rows.append(Row("predicted as labelled", f"{right} of {len(known)}"))
    rows += [
        Row("target of class means", f"{value.target} ({value.score})"),
        Row("space", value.space or "unknown"),
        *(_of_maps(maps) for maps in value.maps),
    ]
    if value.recommendation is not None:
        rows.append(Row("look first at", " ".join(value.recommendation.sentences)))
    rows += [Row("note", note) for note in value.notes]
    return rows + [Row("warning", text, "warn") for text in value.warnings]


def _of_maps(maps: MapSet) -> Row:
    layer = f", layer {maps.layer}" if maps.layer else ""
    shapes = [m.patch.data.shape for m in maps.class_means] or [m.data.shape for m in maps.volumes]
    shape = (
        f"{_times(shapes[0][:3])} patches of {millimetres(maps.resolution_mm)}"
        if shapes
        else ("no map")
    )
    return Row(maps.label, f"{shape}, {len(maps.class_means)} class means, {maps.units}{layer}")


def _of_checks(volumes: Sequence[Sequence[Any]]) -> list[Row]:
    """Return each check: of one volume as it is, of several how many failed."""
    if len(volumes) == 1:
        return _worst_first([_check_row(c.name, c) for c in volumes[0]])
    return _worst_first([_check_row(c.name, c) for c in summarise_checks(volumes)])


def checks_of_map(value: RelevanceMap) -> list[list[Any]]:
    """Return the checks of a map's sidecar by volume; summaries of a 4D map are one list."""
    found = list(value.metadata.get("checks") or [])
    nested = bool(found) and isinstance(found[0], list | tuple)
    volumes = [list(part) for part in found] if nested else [found]
    return [[_value_of(check) for check in part] for part in volumes]


def _value_of(check: Any) -> Any:
    """Return a check of a JSON sidecar as a value."""
    if not isinstance(check, Mapping):
        return check
    known = check.get("verdict") in ("pass", "warn", "fail")
    value = check.get("value")
    return Check(
        name=str(check.get("name", "")),
        value=math.nan if value is None else float(value),
        threshold_warn=check.get("threshold_warn"),
        threshold_fail=check.get("threshold_fail"),
        verdict=check["verdict"] if known else "fail",  # what cannot be read is not sound
        sentence=str(check.get("sentence", "no sentence")),
    )


def _check_row(name: str, check: Any) -> Row:
    return Row(str(name), str(check.sentence), str(check.verdict))


def _worst_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: ("fail", "warn", "pass").index(row.verdict))


def _numbers(rows: Sequence[Any]) -> str:
    lines = [_short(row[0] if len(row) == 1 else row) for row in rows[:_MOST_VOLUMES]]
    return "; ".join(lines) + _more(len(rows))


def _more(count: int) -> str:
    return f"; and {count - _MOST_VOLUMES} more" if count > _MOST_VOLUMES else ""


def _short(value: Any) -> str:
    """Return numbers with three digits and lists with commas; words as they are."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(_short(one) for one in value[:_MOST_VOLUMES])
        return shown + (f", and {len(value) - _MOST_VOLUMES} more" if len(value) > 6 else "")
    return str(value)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
