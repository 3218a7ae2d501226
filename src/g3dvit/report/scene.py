"""A run's values as one plain dict: everything that the page says and shows.

The dict has a `schema_version`, holds plain JSON types only, and knows no HTML. Keys are added
in later versions, never renamed within one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from g3dvit import __version__
from g3dvit.maps import RelevanceMap
from g3dvit.plain import to_json, to_plain
from g3dvit.report.display import caption_of, shown_mean
from g3dvit.report.encode import encode_background, encode_relevance
from g3dvit.report.figures import colour_range
from g3dvit.report.words import (
    NOT_BOLD,
    USES_NOT_DIFFERS,
    has_template_space,
    method_sentence,
    methods_text,
    millimetres,
    stamp_of,
)
from g3dvit.run_result import CheckLike, ClassMean, MapSet, RunResult, worst

SCHEMA_VERSION = 1
_VOXEL_MAP_BUDGET = 7_000_000  # characters; past it, class means are shown on the patch grid

_COMPANIONS = {
    "patch_weights": ("Patch weight", "how much each patch matters"),
    "token_sum": ("Token sum", "what was seen there: the sum over features"),
}
_COLUMNS = {
    "run": "Run",
    "time_point": "Time point",
    "onset_s": "Time (s)",
    "label": "Label",
    "predicted": "Predicted",
    "target": "Target",
    "score": "Score",
    "block": "Block",
}


def scene_of(result: RunResult, figures: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """Return everything that the page needs as plain JSON types.

    Parameters
    ----------
    result
        What was explained.
    figures
        Pictures to show in the page: ``title`` and ``png`` (base64).
    """
    stamps: list[str] = []
    layers = _layers(result, stamps)
    resolution = result.maps[0].volumes[0].resolution_mm if result.maps else (0.0, 0.0, 0.0)
    scene = {
        "schema_version": SCHEMA_VERSION,
        "generator": f"G3D-ViT {__version__}",
        "title": result.title,
        "question": f"What speaks for “{result.target}”?",
        "facts": _facts(result, resolution),
        "sentences": [USES_NOT_DIFFERS, NOT_BOLD],
        "display": caption_of(result.display, result.maps),
        "notes": list(result.notes),
        "warnings": list(result.warnings),
        "run_checks": [_check(check) for check in result.checks],
        "recommendation": list(result.recommendation.sentences) if result.recommendation else [],
        "methods": [_method(maps) for maps in result.maps],
        "class_names": list(result.model.class_names),
        "predictions": _predictions(result.predictions),
        "figures": list(figures),
        "methods_text": methods_text(result),
        "geometry": result.model.geometry,
        "provenance": to_json(result.provenance),
        "viewer": {
            "target": result.target,
            "coordinates": "MNI" if has_template_space(result.space) else "scanner",
            "resolution": millimetres(resolution),
            "percentile": 90 if result.display.percentile is None else result.display.percentile,
            "rectify": result.display.rectify,
            "background": {
                "title": result.background.title,
                **encode_background(result.background.data, result.background.grid),
            },
            "methods": [_method(maps) for maps in result.maps],
            "stamps": stamps,
            "layers": layers,
            "rows": _rows_for_viewer(result.predictions),
        },
    }
    plain: dict[str, Any] = to_plain(scene)
    return plain


def _facts(result: RunResult, resolution: Sequence[float]) -> list[dict[str, str]]:
    model = result.model
    right = result.predictions
    labelled = right[right["label"].notna()] if "label" in right else right.iloc[:0]
    correct = int((labelled["label"] == labelled["predicted"]).sum()) if len(labelled) else 0
    here = f"{correct} of {len(labelled)} labelled volumes" if len(labelled) else "no labels"
    facts = {
        "Data": "; ".join(
            f"{run.name} ({len(run.time_points)} of {run.n_time_points} volumes)"
            for run in result.inputs
        ),
        "Volumes chosen": "; ".join(
            dict.fromkeys(r.selection for r in result.inputs if r.selection)
        ),
        "Space": result.space or "not declared",
        "Model": model.name,
        "Classes": ", ".join(model.class_names),
        "Explained": f"{result.score} of “{result.target}” in all class means; per volume: "
        f"“{result.volume_target}”",
        "Correct here": here,
        "Accuracy": model.accuracy,
        "Effective resolution": f"{millimetres(resolution)} (one patch)",
        "Preparation": " ".join(model.preparation),
        "Trained on": ", ".join(model.trained_on),
        "Weights (SHA-256)": model.sha256,
    }
    return [{"name": name, "value": value} for name, value in facts.items() if value]


def _method(maps: MapSet) -> dict[str, Any]:
    means = [
        {
            "title": mean.title,
            "verdict": worst(mean.checks),
            "checks": [_check(check) for check in mean.checks],
        }
        for mean in maps.class_means
    ]
    return {
        "title": maps.label,
        "sentence": method_sentence(maps.method),
        "units": maps.units,
        "layer": maps.layer,
        "recommended": maps.recommended,
        "verdict": worst(maps.summary),
        "checks": [_check(check) for check in maps.summary],
        "class_means": means,
    }


def _check(check: CheckLike) -> dict[str, Any]:
    return {
        "name": check.name.replace("_", " "),
        "verdict": check.verdict,
        "sentence": check.sentence,
        "value": check.value,
    }


def _layers(result: RunResult, stamps: list[str]) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    budget = _VOXEL_MAP_BUDGET
    for number, maps in enumerate(result.maps):
        shared = colour_range(result, maps)
        for mean in maps.class_means:
            shown, on = _class_mean_map(result, maps, mean, budget)
            layer = _layer(shown, number, maps, stamps)
            budget -= len(layer["nifti"]) if on == "voxels" else 0
            layer |= {
                "kind": "class mean",
                "group": mean.key.group if mean.key.which != "error" else None,
                "on": on,
                "title": f"Mean: {mean.title}",
                "range": shared,
                "frame_stamps": [_stamp_index(mean.checks, stamps)],
            }
            layers.append(layer)
        first = 0
        for run, volumes in zip(result.inputs, maps.volumes, strict=True):
            layer = _layer(volumes, number, maps, stamps)
            count = volumes.n_volumes
            own = maps.checks[first : first + count] or [()] * count
            layer |= {
                "kind": "volumes",
                "group": None,
                "on": "patches",
                "title": f"Every volume: {run.name} ({count})",
                "range": float(np.abs(volumes.data).max(initial=0.0)),
                "first_row": first,
                "frame_stamps": [_stamp_index(checks, stamps) for checks in own],
            }
            layers.append(layer)
            first += count
    return layers


def _class_mean_map(
    result: RunResult, maps: MapSet, mean: ClassMean, budget: int
) -> tuple[RelevanceMap, str]:
    """Return the voxel map where it says more than the patch map, and there is room for it."""
    if maps.fine and budget > 0:
        return replace(mean.voxel, data=shown_mean(maps, mean, result.display)), "voxels"
    resampled = mean.patch.to_grid(mean.voxel.grid).data
    tolerance = 1e-3 * float(np.abs(resampled).max(initial=0.0))
    if budget <= 0 or np.allclose(resampled, mean.voxel.data, atol=tolerance):
        return mean.patch, "patches"
    return mean.voxel, "voxels"


def _layer(shown: RelevanceMap, number: int, maps: MapSet, stamps: list[str]) -> dict[str, Any]:
    companions = [
        {
            "title": _COMPANIONS.get(name, (name, ""))[0],
            "sentence": _COMPANIONS.get(name, ("", name))[1],
            **encode_relevance(values, shown.grid),
        }
        for name, values in shown.companions.items()
    ]
    return {
        "method": number,
        "signed": maps.signed,
        **encode_relevance(shown.data, shown.grid),
        "companions": companions,
    }


def _stamp_index(checks: Sequence[CheckLike], stamps: list[str]) -> int:
    """Return the place of a stamp in the list, -1 for none; most volumes share their words."""
    stamp = stamp_of(checks)
    if stamp is None:
        return -1
    if stamp not in stamps:
        stamps.append(stamp)
    return stamps.index(stamp)


def _predictions(table: pd.DataFrame) -> dict[str, Any]:
    columns = [c for c in table.columns if not str(c).startswith("logit_")]
    rows = [[_cell(value) for value in row] for row in table[columns].itertuples(index=False)]
    titles = [_COLUMNS.get(str(c), str(c).replace("p_", "p ", 1)) for c in columns]
    wrong = [False] * len(rows)
    if {"label", "predicted"} <= set(table.columns):
        wrong = [bool(w) for w in table["label"].notna() & (table["label"] != table["predicted"])]
    return {"columns": titles, "rows": rows, "wrong": wrong}


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return f"{number:.3f}".rstrip("0").rstrip(".") if abs(number) >= 0.001 else f"{number:.2g}"
    return str(value)


def _rows_for_viewer(table: pd.DataFrame) -> list[str]:
    """Return one line per volume for the time slider."""
    lines = []
    for row in table.to_dict("records"):
        parts = [f"time point {row.get('time_point', '?')}"]
        if _cell(row.get("onset_s")) != "–":
            parts.append(f"{_cell(row['onset_s'])} s")
        label, predicted = _cell(row.get("label")), str(row.get("predicted"))
        p = row.get(f"p_{predicted}")
        sure = f" (p = {_cell(p)})" if p is not None else ""
        parts.append(f"label {label}" if label != "–" else "no label")
        parts.append(f"predicted {predicted}{sure}")
        if label not in ("–", predicted):
            parts.append("error")
        lines.append(" · ".join(parts))
    return lines
