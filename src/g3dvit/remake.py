"""Make a run's page again from its output folder, without the model (``g3dvit report``)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from g3dvit.errors import OutputError
from g3dvit.folders import GENERATOR
from g3dvit.nifti import nifti_grid, nifti_values, read_nifti, write_together
from g3dvit.regions.spaces import check_space
from g3dvit.report.downloads import PAGE, Folder
from g3dvit.report.page import render_page
from g3dvit.report.parts import page_files
from g3dvit.report.pictures import Picture, in_page, page_pictures
from g3dvit.report.scene import scene_of
from g3dvit.run_result import ModelSummary, RunResult
from g3dvit.saved_runs import described_methods, load_run
from g3dvit.shown import Background, Display, Parcellation, ResultTable


def remake_page(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    background: str | Path | None = None,
    evaluation: str | Path | None = None,
    atlas: Parcellation | None = None,
    display: Display | None = None,
) -> Path:
    """Make the page of an output folder again, with what was added to its ``tables`` since.

    Parameters
    ----------
    folder
        What ``g3dvit explain -o`` wrote.
    output
        Where to write; the folder's own ``report.html`` if None, which is replaced as a whole.
    overwrite
        Replace `output` where it is another file that exists.
    background
        A 3D image in the space of the maps to put under them first.
    evaluation
        What ``g3dvit evaluate -o`` wrote about this model: its table, sentence and figure are
        shown as evidence.
    atlas
        Regions to name at the crosshair, in the space of the maps; those that were added to the
        folder if None.
    display
        Display options; those of the run if None.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OutputError
        If the folder is none of g3dvit's, or the page cannot be written.
    ImageError
        If the background cannot be read.
    SpaceError
        If the atlas is in another space than the maps.
    """
    folder = Path(folder)
    result = shown_run(folder, background=background, atlas=atlas, display=display)
    target = folder / PAGE if output is None else Path(output)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name the page, such as {target / PAGE}")
    beside = Folder.of(folder, described_methods(folder))
    there = [(f, part) for f, part in page_files(result.inputs) if f in beside.sizes]
    beside = replace(beside, pages=[(f, part.kind, part.name) for f, part in there])
    page = page_of_run(result, beside, evaluation=evaluation)
    write_together(
        {target: lambda part: part.write_text(page, encoding="utf-8")},
        overwrite=overwrite or output is None,
    )
    return target


def shown_run(
    folder: Path,
    *,
    background: str | Path | None = None,
    atlas: Parcellation | None = None,
    display: Display | None = None,
) -> RunResult:
    """Return the run of a folder, shown as asked for; parameters as in `remake_page`."""
    result = load_run(folder)
    if background is not None:
        result = _with_background(result, Path(background))
    if atlas is not None:
        told = tuple(filter(None, [check_space(result.space, atlas)]))
        result = replace(result, parcellation=atlas, warnings=(*result.warnings, *told))
    return result if display is None else replace(result, display=display)


def page_of_run(result: RunResult, beside: Folder, *, evaluation: str | Path | None = None) -> str:
    """Return the page of a run as HTML.

    Parameters
    ----------
    result
        What it shows.
    beside
        The files that it can link to.
    evaluation
        As in `remake_page`.
    """
    pictures = in_page(list(page_pictures(result)))
    if evaluation is not None:
        tables = evidence_of(Path(evaluation), result.model)
        result = replace(result, tables=(*result.tables, *tables))
        pictures += _evidence_pictures(Path(evaluation))
    return render_page(scene_of(result, pictures, folder=beside))


def evidence_of(folder: Path, model: ModelSummary) -> tuple[ResultTable, ...]:
    """Return the tables of an evaluation of this model; the first carries the sentence.

    Raises
    ------
    OutputError
        If the folder is none of an evaluation, or of one of another model.
    """
    about = folder / "evaluation.json"
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        if found["generator"]["name"] != GENERATOR:
            raise KeyError("generator")
        sentence = (folder / "sentence.txt").read_text(encoding="utf-8").strip()
        files = [("evaluation", "How faithful the maps are", sentence)]
        files += [("regions", "Accuracy without the top region, and with it alone", "")]
        frames = [
            pd.read_csv(folder / f"{name}.tsv", sep="\t", keep_default_na=False, na_values=["n/a"])
            for name, _, _ in files
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{folder} is not what `g3dvit evaluate -o` wrote ({about.name} and its tables); name "
            f"that folder"
        ) from error
    if found.get("model_sha256") != model.sha256:
        raise OutputError(
            f"{folder} evaluates the model {found.get('model')!r} "
            f"({found.get('model_sha256') or 'no hash'}), but this page is about {model.name!r} "
            f"({model.sha256 or 'no hash'}); run `g3dvit evaluate` with the model of this page"
        )
    columns = {str(name): str(words) for name, words in found.get("columns", {}).items()}
    return tuple(
        ResultTable(f"evaluate-{name}", title, "evidence", frame, note, columns)
        for (name, title, note), frame in zip(files, frames, strict=True)
        if len(frame)
    )


def _evidence_pictures(folder: Path) -> list[Picture]:
    path = folder / "figures" / "evaluation.png"
    if not path.exists():
        return []
    return [Picture("evidence", 0, "How faithful the maps are, in curves", path.read_bytes())]


def _with_background(result: RunResult, path: Path) -> RunResult:
    image = read_nifti(path)
    if image.ndim != 3:
        raise OutputError(f"{path} has {image.ndim} axes; a background is one 3D image")
    data = nifti_values(image, path, np.float32)
    own = Background(data, nifti_grid(image, path), path.name)
    others = (result.background, *result.further_backgrounds)
    return replace(result, background=own, further_backgrounds=others)
