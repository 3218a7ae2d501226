"""A run's values back from its output folder, so that the page can be made again without the model.

Maps, predictions and checks are read from the files that a reader sees; ``provenance.json`` says
which file is what (`REPORT`). Fields that a later version adds to the values travel along where
they are plain (numbers, words, lists of them).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from g3dvit.aggregate import GroupKey
from g3dvit.checks import Check
from g3dvit.errors import OutputError
from g3dvit.folders import GENERATOR, MARKER, write_text, write_whole
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.nifti import nifti_grid, nifti_image, nifti_values, read_nifti, write_nifti
from g3dvit.plain import to_json, to_plain
from g3dvit.run_result import (
    CheckLike,
    CheckSummary,
    ClassMean,
    MapSet,
    ModelSummary,
    Recommendation,
    RunInput,
    RunResult,
)
from g3dvit.shown import Background, Display, Parcellation, ResultTable

#: Key of ``provenance.json`` under which the folder describes itself.
REPORT = "report"
SCHEMA_VERSION = 1
#: Where `save_shown` writes, inside the folder.
SHOWN, TABLES = "shown", "tables"

_TEXT_COLUMNS = ("run", "label", "predicted", "target")
#: Fields of the values that have a file, or a form, of their own.
_OWN_RESULT = (
    *("model", "inputs", "predictions", "maps", "background", "further_backgrounds", "display"),
    *("prepared_grid", "checks", "provenance", "truth", "tables", "parcellation"),
    "recommendation",
)
_OWN_MAPS = ("volumes", "class_means", "checks")
_OWN_MEAN = ("key", "n", "patch", "voxel", "checks")

_Value = TypeVar("_Value")


def save_shown(result: RunResult, folder: Path) -> dict[str, Any]:
    """Write pictures, truth, tables and region names; return what the folder says of them.

    Parameters
    ----------
    result
        What was explained.
    folder
        Of the output; gets the folders ``shown`` and, where there are tables, ``tables``.
    """
    (folder / SHOWN).mkdir(exist_ok=True)
    backgrounds = []
    for number, picture in enumerate((result.background, *result.further_backgrounds), 1):
        path = f"{SHOWN}/background-{number}.nii.gz"
        _write_scaled(picture.data, picture.grid, folder / path)
        backgrounds.append({"file": path, "title": picture.title})
    truth = {}
    for number, (name, values) in enumerate((result.truth or {}).items(), 1):
        truth[name] = f"{SHOWN}/truth-{number}.nii.gz"
        image = nifti_image(np.asarray(values, np.float32), result.prepared_grid.affine)
        write_nifti(image, folder / truth[name], compress=True)
    regions: dict[str, Any] | None = None
    if result.parcellation is not None:
        _, regions = _write_parcellation(result.parcellation, folder)
    for table in result.tables:
        save_table(table, folder)
    return {"backgrounds": backgrounds, "truth": truth or None, "parcellation": regions}


def save_table(table: ResultTable, folder: Path, where: str = TABLES) -> Path:
    """Write a table as TSV with a JSON beside it; ``g3dvit report`` shows all in ``tables``.

    Parameters
    ----------
    table
        What to write.
    folder
        Of the run.
    where
        Folder inside it.
    """
    path = folder / where / f"{table.name}.tsv"
    about: dict[str, Any] = {"title": table.title, "section": table.section, "note": table.note}
    about |= {"order": table.order} if table.order else {}
    text = json.dumps({**about, "columns": dict(table.columns or {})}, indent=2, ensure_ascii=False)
    write_whole(path, lambda part: _write_frame(table.frame, part))
    write_text(path.with_suffix(".json"), text + "\n")
    return path


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")


def save_parcellation(parcellation: Parcellation, folder: Path) -> Path:
    """Write region names into the folder of a run, for the crosshair of its page.

    Raises
    ------
    OutputError
        If the folder is not one of a run.
    """
    saved = _read_marker(folder)
    if not isinstance(saved.get(REPORT), dict):
        raise OutputError(f"{folder} holds no run whose page could be made again")
    path, about = _write_parcellation(parcellation, folder)
    saved[REPORT]["parcellation"] = about
    write_text(folder / MARKER, to_json(saved) + "\n")
    return path


def _write_parcellation(parcellation: Parcellation, folder: Path) -> tuple[Path, dict[str, Any]]:
    about = {
        "file": f"{SHOWN}/regions.nii.gz",
        "name": parcellation.name,
        "names": {str(index): name for index, name in parcellation.names.items()},
    }
    labels = np.asarray(parcellation.labels, np.int32)
    image = nifti_image(labels, parcellation.grid.affine)
    path = folder / SHOWN / "regions.nii.gz"
    write_whole(path, lambda part: write_nifti(image, part, compress=True))
    return path, about


def description_of(
    result: RunResult,
    volumes: Sequence[str],
    means: Sequence[str],
    shown: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what `load_run` needs besides the files.

    Parameters
    ----------
    result
        What was explained.
    volumes
        Paths of the per-volume maps: method by method, and run by run.
    means
        Paths of the class means: method by method, mean by mean, patch grid then prepared grid.
    shown
        What `save_shown` returned.
    """
    volume_paths, mean_paths = iter(volumes), iter(means)
    methods = []
    for maps in result.maps:
        described = _plain_fields(maps, _OWN_MAPS)
        described["volumes"] = [next(volume_paths) for _ in maps.volumes]
        if not maps.volumes:  # else they are in the sidecars of the volumes
            described["checks"] = to_plain(maps.checks)
        described["class_means"] = [
            {
                **_plain_fields(mean, _OWN_MEAN),
                "group": mean.key.group,
                "which": mean.key.which,
                "n": mean.n,
                "patch": next(mean_paths),
                "voxel": next(mean_paths),
            }
            for mean in maps.class_means
        ]
        methods.append(described)
    return {
        "schema_version": SCHEMA_VERSION,
        "result": _plain_fields(result, _OWN_RESULT),
        "recorded": to_plain(result.provenance),
        "prepared_grid": result.prepared_grid.to_dict(),
        "methods": methods,
        **shown,
    }


def load_run(folder: str | Path) -> RunResult:
    """Return what an output folder of ``g3dvit explain`` holds.

    Parameters
    ----------
    folder
        The folder with ``provenance.json``.

    Raises
    ------
    OutputError
        If the folder was not written by g3dvit, by a version that did not describe it yet, or
        lacks a file.
    """
    folder = Path(folder)
    saved = _read_marker(folder)
    about = saved.get(REPORT)
    if not isinstance(about, dict) or about.get("schema_version") != SCHEMA_VERSION:
        raise OutputError(
            f"{folder} was not written by a g3dvit that can make its page again (no {REPORT!r} of "
            f"version {SCHEMA_VERSION} in {MARKER}); run `g3dvit explain` once more"
        )
    try:
        return _result_of(folder, saved, about)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise OutputError(
            f"{folder} is not as g3dvit wrote it ({type(error).__name__}: {error}); put the file "
            f"back, or run `g3dvit explain` once more"
        ) from error


def described_methods(folder: str | Path) -> list[dict[str, Any]]:
    """Return which file of an output folder holds which map; see `description_of`.

    Raises
    ------
    OutputError
        If the folder was not written by g3dvit.
    """
    about = _read_marker(Path(folder)).get(REPORT)
    return list(about["methods"]) if isinstance(about, dict) else []


def _result_of(folder: Path, saved: Mapping[str, Any], about: Mapping[str, Any]) -> RunResult:
    pictures = [_background(folder, entry) for entry in about["backgrounds"]]
    truth = about["truth"] or {}
    return RunResult(
        **_arguments(RunResult, about["result"]),
        model=ModelSummary(**_arguments(ModelSummary, saved["model"])),
        inputs=tuple(_input(entry) for entry in saved["inputs"]),
        predictions=_predictions(folder / "predictions.tsv"),
        maps=tuple(_map_set(folder, entry) for entry in about["methods"]),
        background=pictures[0],
        further_backgrounds=tuple(pictures[1:]),
        prepared_grid=ImageGrid.from_dict(about["prepared_grid"]),
        checks=tuple(_check(entry) for entry in saved["run_checks"]),
        provenance=about["recorded"],
        truth={name: _values(folder / path) for name, path in truth.items()} or None,
        display=Display(**_arguments(Display, saved["display"])),
        recommendation=_recommendation(saved.get("recommendation")),
        tables=_tables(folder / TABLES),
        parcellation=_parcellation(folder, about["parcellation"]),
    )


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        saved = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if saved["generator"]["name"] != GENERATOR:
            raise KeyError("generator")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{folder} is no output folder of g3dvit (it has no {MARKER} of ours); name the folder "
            f"that `g3dvit explain -o` wrote"
        ) from error
    return dict(saved)


def _input(entry: Mapping[str, Any]) -> RunInput:
    given = _arguments(RunInput, entry)
    return RunInput(**{**given, "grid": ImageGrid.from_dict(entry["grid"])})


def _map_set(folder: Path, entry: Mapping[str, Any]) -> MapSet:
    volumes = tuple(RelevanceMap.load(folder / path) for path in entry["volumes"])
    checks = [of_volume for series in volumes for of_volume in series.metadata.get("checks", [])]
    checks = checks or entry.get("checks", [])
    means = []
    for mean in entry["class_means"]:
        patch = RelevanceMap.load(folder / mean["patch"])
        means.append(
            ClassMean(
                **_arguments(ClassMean, mean, without=_OWN_MEAN),
                key=GroupKey(mean["group"], mean["which"]),
                n=mean["n"],
                patch=patch,
                voxel=RelevanceMap.load(folder / mean["voxel"]),
                checks=tuple(_check(c) for c in patch.metadata.get("checks", [])),
            )
        )
    return MapSet(
        **_arguments(MapSet, entry, without=_OWN_MAPS),
        volumes=volumes,
        class_means=tuple(means),
        checks=tuple(tuple(_check(c) for c in of_volume) for of_volume in checks),
    )


def _check(entry: Mapping[str, Any]) -> CheckLike:
    value = {"value": float("nan") if entry["value"] is None else entry["value"]}
    if "n_pass" in entry:
        return CheckSummary(**{**_arguments(CheckSummary, entry), **value})
    empty = {"threshold_warn": None, "threshold_fail": None}
    return Check(**{**empty, **_arguments(Check, entry), **value})


def _recommendation(entry: Mapping[str, Any] | None) -> Recommendation | None:
    if entry is None:
        return None
    named = {
        kind: {label: tuple(names) for label, names in entry[kind].items()}
        for kind in ("warned", "failed")
    }
    return Recommendation(**{**_arguments(Recommendation, entry), **named})


def _predictions(path: Path) -> pd.DataFrame:
    """Return the table with words as words, also where a class is called ``1``."""
    header = pd.read_csv(path, sep="\t", nrows=0).columns
    words = {name: str for name in _TEXT_COLUMNS if name in header}
    table = pd.read_csv(path, sep="\t", dtype=words, keep_default_na=False, na_values=["n/a"])
    return table.astype({"block": "Int64"}) if "block" in header else table


def _background(folder: Path, entry: Mapping[str, Any]) -> Background:
    path = folder / entry["file"]
    image = read_nifti(path)
    data = nifti_values(image, path, np.float32)
    return Background(data, nifti_grid(image, path), entry["title"])


def _parcellation(folder: Path, entry: Mapping[str, Any] | None) -> Parcellation | None:
    if entry is None:
        return None
    path = folder / entry["file"]
    image = read_nifti(path)
    names = {int(index): name for index, name in entry["names"].items()}
    return Parcellation(entry["name"], nifti_values(image, path), nifti_grid(image, path), names)


def _tables(folder: Path) -> tuple[ResultTable, ...]:
    found = []
    for path in sorted(folder.glob("*.tsv")):
        about = path.with_suffix(".json")
        if not about.exists():
            continue
        entry = json.loads(about.read_text(encoding="utf-8"))
        frame = pd.read_csv(path, sep="\t", keep_default_na=False, na_values=["n/a"])
        found.append(
            ResultTable(
                path.stem,
                str(entry["title"]),
                entry["section"],
                frame,
                str(entry.get("note", "")),
                entry.get("columns"),
                int(entry.get("order", 0)),
            )
        )
    return tuple(sorted(found, key=lambda table: table.order))


def _values(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    return nifti_values(read_nifti(path), path, np.float32)


def _write_scaled(values: np.ndarray[Any, Any], grid: ImageGrid, path: Path) -> None:
    """Write a picture in 16-bit steps: it is looked at, not measured."""
    finite = np.nan_to_num(np.asarray(values, np.float32), posinf=0, neginf=0)
    image = nifti_image(finite, grid.affine)
    image.set_data_dtype(np.int16)
    write_nifti(image, path, compress=True)


def _plain_fields(value: Any, own: Sequence[str]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value) if field.name not in own]
    return {name: to_plain(getattr(value, name)) for name in names}


def _arguments(
    kind: type[_Value], entry: Mapping[str, Any], *, without: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the fields of a value that an entry holds; lists become tuples again."""
    names = {field.name for field in dataclasses.fields(kind)} - set(without)  # type: ignore[arg-type]
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in entry.items()
        if name in names
    }
