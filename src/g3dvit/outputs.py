"""The output folder of a run: maps, tables, figures, page, and a README that says what is what.

Layout::

    README.txt            which file to open in which viewer
    report.html           the page, needs no network
    predictions.tsv/.json one row per volume, and what the columns mean
    provenance.json       versions, command, hashes, list of files
    maps/                 every volume: one 4D map per run and method, on the patch grid
    class_means/          one map per method and group, on the patch grid and on the model's grid
    figures/              class means as pictures (errors only in the page), methods side by side
    shown/                what the page shows besides: background, planted truth, regions
    tables/               further tables, where there are any
    parts/                class means of single subjects or runs, once they have pages of their own
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from g3dvit import __version__
from g3dvit.folders import MARKER, check_output, output_folder
from g3dvit.plain import to_json, to_plain, unique_names
from g3dvit.report.downloads import Folder
from g3dvit.report.drawing import save_figure
from g3dvit.report.figure_maps import MapOptions, Titled, glass_figure, surface_figure
from g3dvit.report.figure_numbers import (
    confusion_figure,
    course_maps,
    peak_course,
    time_course_figure,
)
from g3dvit.report.figures import class_mean_figure, colour_range
from g3dvit.report.page import render_page
from g3dvit.report.pictures import Picture, in_page, page_pictures
from g3dvit.report.scene import scene_of
from g3dvit.report.words import (
    NOT_BOLD,
    USES_NOT_DIFFERS,
    display_sentence,
    has_template_space,
    method_sentence,
    methods_text,
    millimetres,
    stamp_of,
)
from g3dvit.run_result import ClassMean, MapSet, RunResult
from g3dvit.saved_runs import REPORT, description_of, save_shown

__all__ = ["check_output", "output_folder", "write_run"]

_FINER = """\
  Frozen-gate maps with res-voxel hold what each voxel contributed. Shares of position and of the
  embedding's bias belong to whole patches and are in res-patch alone, so that sums differ."""

_COLUMNS = {
    "run": ("Run that the volume is from.", ""),
    "time_point": ("Index of the volume in its file, counted from 0.", ""),
    "onset_s": ("Middle of the volume's acquisition, from the start of the run.", "s"),
    "label": ("True class, where one was given.", ""),
    "predicted": ("Class with the largest output.", ""),
    "target": ("Class or contrast that this volume's map explains.", ""),
    "score": ("Value that the map explains.", ""),
    "block": ("Which event the volume belongs to, where labels come from events.", ""),
}


def write_run(result: RunResult, folder: str | Path) -> None:
    """Write everything of a run into a folder that exists.

    Use it inside `output_folder`, so that the folder appears whole or not at all.

    Parameters
    ----------
    result
        What was explained.
    folder
        Where to write.

    Raises
    ------
    OutputError
        If a file exists or cannot be written.
    """
    folder = Path(folder)
    for name in ("maps", "class_means", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    volumes, means = _write_volumes(result, folder), write_means(result, folder)
    description = description_of(
        result,
        [path for path, _ in volumes],
        [path for path, _ in means],
        save_shown(result, folder),
    )
    _write_tables(result, folder, description)
    pictures = _write_figures(result, folder)
    readme = _readme(result, [*volumes, *means])
    (folder / "README.txt").write_text(readme, encoding="utf-8")
    beside = Folder.of(folder, description["methods"])
    page = render_page(scene_of(result, in_page(pictures), folder=beside))
    (folder / "report.html").write_text(page, encoding="utf-8")


def _write_volumes(result: RunResult, folder: Path) -> list[tuple[str, str]]:
    written = []
    names = unique_names([run.name for run in result.inputs], kept="_.-")
    for maps, label in zip(result.maps, _map_labels(result), strict=True):
        first = 0
        for run, name, volumes in zip(
            result.inputs, names, maps.volumes, strict=bool(maps.volumes)
        ):
            checks = maps.checks[first : first + volumes.n_volumes]
            stamps = [stamp_of(of_volume) for of_volume in checks]
            about = {**volumes.metadata, "checks": checks, "stamps": stamps}
            about["run_checks"] = result.checks
            path = f"maps/{name}_desc-{label}_relevance.nii.gz"
            replace(volumes, metadata=about).save(folder / path)
            written.append((path, f"{maps.label}, every volume of {run.name}"))
            first += volumes.n_volumes
    return written


def write_means(
    result: RunResult,
    folder: Path,
    *,
    where: str = "class_means",
    before: str = "",
    grids: Sequence[str] = ("patch", "voxel"),
) -> list[tuple[str, str]]:
    """Write every class mean of a result; return the path and what it is, in words, of each.

    Parameters
    ----------
    result
        A run, or one subject or run of it.
    folder
        Of the output.
    where
        Folder inside it, which exists.
    before
        What the names of files begin with.
    grids
        ``"patch"``: one voxel per patch; ``"voxel"``: the grid that the model sees.
    """
    written = []
    groups = list(dict.fromkeys(m.key.group for maps in result.maps for m in maps.class_means))
    label_of = dict(zip(groups, unique_names(groups), strict=True))
    for maps, label in zip(result.maps, _map_labels(result), strict=True):
        for mean in maps.class_means:
            stem = f"{before}class-{label_of[mean.key.group]}_volumes-{mean.key.which}"
            about = {
                "group": mean.key.group,
                "volumes": mean.key.which,
                "n": mean.n,
                "target": mean.target or result.target,
                "space": result.space,
                "checks": mean.checks,
                "stamp": stamp_of(mean.checks),
                "run_checks": result.checks,
            }
            for grid in grids:
                relevance = mean.patch if grid == "patch" else mean.voxel
                path = f"{where}/{stem}_res-{grid}_desc-{label}_relevance.nii.gz"
                metadata = {**relevance.metadata, **about}
                replace(relevance, metadata=metadata).save(folder / path)
                written.append((path, _mean_words(maps, mean, grid)))
    return written


def _mean_words(maps: MapSet, mean: ClassMean, grid: str) -> str:
    failed = "; A CHECK FAILED" if stamp_of(mean.checks) else ""
    on = "one voxel per patch" if grid == "patch" else "on the model's grid"
    of = f", evidence for “{mean.target}”, for display" if mean.target else ""
    return f"{maps.label}, mean of {mean.title}{of}, {on}{failed}"


def _write_tables(result: RunResult, folder: Path, description: Mapping[str, Any]) -> None:
    table = result.predictions
    table.to_csv(folder / "predictions.tsv", sep="\t", index=False, na_rep="n/a")
    columns = {str(name): _column(str(name), result) for name in table.columns}
    _write_json(folder / "predictions.json", columns)
    provenance = {
        **to_plain(result.provenance),
        "title": result.title,
        "g3dvit": __version__,
        "model": result.model,
        "inputs": result.inputs,
        "space": result.space,
        "target": result.target,
        "volume_target": result.volume_target,
        "score": result.score,
        "display": result.display,
        "run_checks": result.checks,
        "checks": {maps.label: maps.summary for maps in result.maps},
        "recommendation": result.recommendation,
        "warnings": result.warnings,
        "notes": result.notes,
        "methods_text": methods_text(result),
        REPORT: description,
    }
    _write_json(folder / MARKER, provenance)


def _column(name: str, result: RunResult) -> dict[str, str]:
    if name.startswith("p_"):
        return {"Description": f"Probability of the class {name[2:]!r} by the model."}
    if name.startswith("logit_"):
        return {"Description": f"Output of the model for the class {name[6:]!r}.", "Units": "logit"}
    description, units = _COLUMNS.get(name, (name.replace("_", " "), ""))
    if name == "score":
        units = result.score
    return {"Description": description} | ({"Units": units} if units else {})


def _write_figures(result: RunResult, folder: Path) -> list[Picture]:
    """Write the pictures; return those that the page can show."""
    groups = list(dict.fromkeys(m.key.group for maps in result.maps for m in maps.class_means))
    label_of = dict(zip(groups, unique_names(groups), strict=True))
    for maps, label in zip(result.maps, _map_labels(result), strict=True):
        vmax = colour_range(result, maps)
        right = [mean for mean in maps.class_means if mean.key.which != "error"]
        for mean in right or maps.class_means:  # errors are in the page; figures cost seconds
            stem = f"class-{label_of[mean.key.group]}_volumes-{mean.key.which}_desc-{label}"
            figure = class_mean_figure(result, maps, mean, vmax=vmax)
            save_figure(figure, folder / "figures" / f"{stem}_mosaic")
            if maps.recommended and has_template_space(result.space):
                one = Titled.of_mean(result, maps, mean)
                cortex = surface_figure(one, MapOptions(vmax=vmax or None))
                save_figure(cortex, folder / "figures" / f"{stem}_surface")
                glass = glass_figure(one, MapOptions(vmax=vmax or None))
                save_figure(glass, folder / "figures" / f"{stem}_glass")
    _write_number_figures(result, folder)
    pictures = []
    methods = _map_labels(result)
    for picture in page_pictures(result):
        name = f"desc-{methods[picture.number]}_means" if picture.kind == "means" else ""
        if picture.kind == "methods":
            key = result.groups[picture.number]
            name = f"class-{label_of[key.group]}_volumes-{key.which}_comparison"
        (folder / "figures" / f"{name}.png").write_bytes(picture.png)
        if picture.figure is not None:
            save_figure(picture.figure, folder / "figures" / name, dpi=110, kinds=("svg",))
        pictures.append(replace(picture, figure=None))
    return pictures


def _write_number_figures(result: RunResult, folder: Path) -> None:
    """Write predictions over time and against labels, where there are any."""
    names = unique_names([run.name for run in result.inputs], kept="_.-")
    for number, name in enumerate(names):
        if all(f"p_{c}" in result.predictions for c in result.model.class_names):
            first = course_maps(result)
            course = None if first is None else peak_course(result, first, run=number)
            figure = time_course_figure(result, run=number, relevance=course)
            save_figure(figure, folder / "figures" / f"{name}_timecourse")
    if "label" in result.predictions and result.predictions["label"].notna().any():
        save_figure(confusion_figure(result), folder / "figures" / "confusion")


def _readme(result: RunResult, files: Sequence[tuple[str, str]]) -> str:
    sound = [path for path, words in files if "res-voxel" in path and "FAILED" not in words]
    labels = zip(result.maps, _map_labels(result), strict=True)
    first = [f"_desc-{label}_" for maps, label in labels if maps.recommended]
    sound.sort(key=lambda path: not any(label in path for label in first))
    volumes = next((path for path, _ in files if path.startswith("maps/")), "maps/...")
    example = (sound or [path for path, _ in files] or ["class_means/..."])[0]
    shape = result.maps[0].resolution_mm if result.maps else (0.0, 0.0, 0.0)
    underlay = shlex.quote(result.inputs[0].source) if result.inputs else "YOUR_IMAGE"
    template = has_template_space(result.space)
    cortex = ", cortical surface" if template else ""
    under = "-std" if template else underlay
    methods = "\n".join(
        f"  {m.label}: {method_sentence(m.method)} {display_sentence(m)}".rstrip()
        for m in result.maps
    )
    failed = [f"  {m.label}: {stamp_of(m.summary)}" for m in result.maps if stamp_of(m.summary)]
    failed += [f"  all maps: {stamp_of(result.checks)}"] if stamp_of(result.checks) else []
    finer = f"\n{_FINER}" if any(maps.fine for maps in result.maps) else ""
    listed = "\n".join(f"  {path}\n      {words}" for path, words in files)
    return f"""\
{result.title}
{"=" * len(result.title)}
Written by G3D-ViT {__version__}. Explained: {result.score} of "{result.target}".

{USES_NOT_DIFFERS}
{NOT_BOLD}
Effective resolution: {millimetres(shape)}, one patch. Values are float32, unscaled;
signed, but where a method has one sign.

What to open
------------
report.html    in any browser (needs no network): slices, 3D{cortex}, every volume
figures/       pictures for slides and papers: {_pictures(result)}
FSLeyes        fsleyes {under} {example} -cm red-yellow -nc blue-lightblue -un
MRIcroGL       File > Open for the background, then File > Add overlay: {example}
freeview       freeview -v {underlay} {example}:colormap=heat
nilearn        from nilearn import plotting; plotting.view_img("{example}").open_in_browser()
NiiVue         drop the file onto https://niivue.com/demos or the VS Code extension
Python         import g3dvit; g3dvit.RelevanceMap.load("{volumes}")

Maps on the patch grid have one voxel per patch and open at the right place in every viewer.

Methods
-------
{methods or "  none"}

Failed checks (maps that should not be interpreted)
---------------------------------------------------
{chr(10).join(failed) or "  none"}

Names of files
--------------
  class-<class>     the volumes' label; the predicted class where volumes have no label
  volumes-correct   classified correctly;  volumes-error  misclassified;  volumes-all  no labels
  res-patch         one voxel per patch, lossless;  res-voxel  on the grid that the model sees
  desc-<method>     method and weighting{finer}
  patchweights, tokensum   the two halves of token Grad-CAM: their product is the map
  Beside every map a .json file says what it was made from and what the checks said.

Files
-----
{listed}
  predictions.tsv
      one row per volume; predictions.json says what the columns mean
  provenance.json
      versions, command, hashes and the list of all files
"""


def _pictures(result: RunResult) -> str:
    """Return what the names of pictures end in, and what they show."""
    kinds = ["_mosaic (slices)", "_means (classes side by side)", "_comparison (methods)"]
    if has_template_space(result.space) and any(maps.recommended for maps in result.maps):
        kinds.append("_surface (cortex of a template, recommended method)")
    return f"\n{' ' * 15}".join(["names end in", *kinds, "_timecourse, confusion (predictions)"])


def _map_labels(result: RunResult) -> list[str]:
    return unique_names([maps.file_label for maps in result.maps])


def _write_json(path: Path, content: Any) -> None:
    path.write_text(to_json(content) + "\n", encoding="utf-8")
