"""A run's values as one plain dict: everything that the page says and shows.

The dict has a `schema_version`, holds plain JSON types only, and knows no HTML. Keys are added
in later versions, never renamed within one.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from g3dvit import __version__
from g3dvit.plain import to_json, to_plain
from g3dvit.report.display import caption_of
from g3dvit.report.downloads import FURTHER, Folder, downloads_of, pages_of, size_words
from g3dvit.report.encode import encode_background, encode_labels
from g3dvit.report.figures import cut_coords_of
from g3dvit.report.guidance import (
    HONEST,
    LIMITS,
    advice,
    citations,
    reporting_list,
    shares_of,
)
from g3dvit.report.layers import layers_of, patch_grid_of
from g3dvit.report.parts import parts_of
from g3dvit.report.pictures import Picture
from g3dvit.report.surface import surface_of
from g3dvit.report.time_course import time_courses
from g3dvit.report.words import (
    display_sentence,
    has_template_space,
    method_sentence,
    methods_text,
    millimetres,
    stamp_of,
)
from g3dvit.run_result import CheckLike, MapSet, RunResult, worst
from g3dvit.shown import ResultTable

SCHEMA_VERSION = 2
_VOXEL_MAP_BUDGET = 6_000_000  # characters; past it, class means are shown on the patch grid
_CUTS = 12  # of a mosaic

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


def scene_of(
    result: RunResult, pictures: Sequence[Picture] = (), *, folder: Folder | None = None
) -> dict[str, Any]:
    """Return everything that the page needs as plain JSON types.

    Parameters
    ----------
    result
        What was explained.
    pictures
        To show in the page.
    folder
        Files beside the page that it can link to.
    """
    resolution = result.maps[0].resolution_mm if result.maps else (0.0, 0.0, 0.0)
    methods = [_method(maps) for maps in result.maps]
    viewer = _viewer(result, methods, resolution, folder)
    predictions, confusion = _predictions(result.predictions), _confusion(result)
    tables = [_table(table) for table in sorted(result.tables, key=lambda one: one.order)]
    reporting = reporting_list(result)
    saved = {
        "predictions": (predictions["columns"], predictions["rows"]),
        "reporting": (["Item", "Here"], [list(entry.values()) for entry in reporting]),
        **{f"{FURTHER}{t['name']}": ([c["name"] for c in t["columns"]], t["rows"]) for t in tables},
    }
    scene = {
        "schema_version": SCHEMA_VERSION,
        "generator": f"G3D-ViT {__version__}",
        "title": result.title,
        "part": result.part,
        "whole": f"./{folder.whole}" if folder is not None and folder.whole else None,
        "folder": folder.name if folder is not None else "",
        "part_pages": pages_of(folder),
        "question": f"What speaks for “{result.target}”?",
        "facts": _facts(result, resolution),
        "honest": HONEST,
        "recommendation": advice(result),
        "display": caption_of(result.display, result.maps),
        "notes": list(result.notes),
        "warnings": list(result.warnings),
        "run_checks": [_check(check) for check in result.checks],
        "methods": methods,
        "predictions": predictions,
        "confusion": confusion,
        "pictures": {
            kind: [
                {
                    "title": p.title,
                    "png": base64.b64encode(p.png).decode("ascii"),
                    "size": size_words(len(p.png)),
                }
                for p in pictures
                if p.kind == kind
            ]
            for kind in ("means", "methods", "evidence")
        },
        "tables": tables,
        "methods_text": methods_text(result),
        "reporting": reporting,
        "citations": citations(result),
        "limits": LIMITS,
        "geometry": result.model.geometry,
        "provenance": to_json(result.provenance),
        "downloads": downloads_of(viewer["layers"], methods, saved, folder),
        "viewer": viewer,
    }
    plain: dict[str, Any] = to_plain(scene)
    return plain


def _viewer(
    result: RunResult,
    methods: Sequence[dict[str, Any]],
    resolution: Sequence[float],
    folder: Folder | None,
) -> dict[str, Any]:
    """Return what the scripts of the page need."""
    stamps: list[str] = []
    pages = {entry["name"]: entry["href"] for kind in pages_of(folder) for entry in kind["files"]}
    parts = parts_of(result.inputs)
    pictures = (result.background, *result.further_backgrounds)
    return {
        "title": result.title,
        "file": "".join(c if c.isalnum() or c in "-_" else "-" for c in result.title)[:60],
        "target": result.target,
        "volume_target": result.volume_target,
        "coordinates": "MNI" if has_template_space(result.space) else "scanner",
        "resolution": millimetres(resolution),
        "patches": patch_grid_of(result),
        "percentile_asked": result.display.percentile is not None,
        "percentile": 90 if result.display.percentile is None else result.display.percentile,
        "rectify": result.display.rectify,
        "backgrounds": [
            {"title": picture.title, **encode_background(picture.data, picture.grid)}
            for picture in pictures
        ],
        "cuts": cut_coords_of(result.background, count=_CUTS),
        "methods": methods,
        "class_names": list(result.model.class_names),
        "layers": layers_of(result, stamps, _VOXEL_MAP_BUDGET, parts),
        "parts": [
            {
                "name": part.name,
                "kind": part.kind,
                "runs": part.runs,
                "rows": part.rows,
                "page": pages.get(part.name, ""),
            }
            for part in parts
        ],
        "stamps": stamps,
        "run_stamp": stamp_of(result.checks),
        "rows": _rows_for_viewer(result.predictions),
        "time_courses": time_courses(result),
        "atlas": _atlas(result),
        "surface": surface_of(result, resolution),
    }


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
        "Volumes chosen": _first_of(
            list(dict.fromkeys(r.selection for r in result.inputs if r.selection)), 1
        ),
        "Space": result.space or "not declared",
        "Model": model.name,
        "Classes": ", ".join(model.class_names),
        "Explained": f"{result.score} of “{result.target}” in all class means unless said "
        f"otherwise; per volume: “{result.volume_target}”",
        "Correct here": here,
        "Accuracy": model.accuracy,
        "Effective resolution": f"{millimetres(resolution)} (one patch)",
        "Preparation": " ".join(model.preparation),
        "Trained on": _first_of(model.trained_on),
        "Weights (SHA-256)": model.sha256,
    }
    return [{"name": name, "value": value} for name, value in facts.items() if value]


def _first_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names and how many follow: lists of forty hide what matters."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


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
        "sentence": f"{method_sentence(maps.method)} {display_sentence(maps)}".rstrip(),
        "units": maps.units,
        "units_each": f"{maps.units}, per voxel in maps that tell voxels apart, else per patch"
        if maps.fine
        else maps.units,
        "layer": maps.layer,
        "recommended": maps.recommended,
        "verdict": worst(maps.summary),
        "checks": [_check(check) for check in maps.summary],
        "shares": shares_of(maps),
        "signed": maps.signed,
        "class_means": means,
    }


def _check(check: CheckLike) -> dict[str, Any]:
    return {
        "name": check.name.replace("_", " "),
        "verdict": check.verdict,
        "sentence": check.sentence,
        "value": check.value,
    }


def _atlas(result: RunResult) -> dict[str, Any] | None:
    """Return region names for the crosshair; None where no atlas was given."""
    regions = result.parcellation
    if regions is None:
        return None
    names = {str(index): name for index, name in regions.names.items()}
    return {"title": regions.name, "names": names, **encode_labels(regions.labels, regions.grid)}


def _table(table: ResultTable) -> dict[str, Any]:
    """Return a table as text, cell by cell."""
    rows = [[_cell(value) for value in row] for row in table.frame.itertuples(index=False)]
    means = table.columns or {}
    return {
        "name": table.name,
        "title": table.title,
        "section": table.section,
        "note": table.note,
        "columns": [{"name": str(c), "means": means.get(str(c), "")} for c in table.frame.columns],
        "rows": rows,
    }


def _confusion(result: RunResult) -> dict[str, Any] | None:
    """Return counts of labels against predictions; None where volumes have no labels."""
    table = result.predictions
    if not {"label", "predicted"} <= set(table.columns) or not table["label"].notna().any():
        return None
    labelled = table[table["label"].notna()]
    names = list(result.model.class_names)
    counts = pd.crosstab(labelled["label"], labelled["predicted"])
    filled = counts.reindex(index=names, columns=names, fill_value=0)
    return {"classes": names, "counts": filled.to_numpy().tolist()}


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
