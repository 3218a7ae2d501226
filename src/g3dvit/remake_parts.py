"""A page for each subject or each run of an output folder (``g3dvit report OUT --each``).

Each is a complete page of its volumes alone, made from `g3dvit.restricted.restrict`. Tables of
regions are computed again for it where the folder holds an atlas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from g3dvit.errors import InputError, OutputError
from g3dvit.folders import MARKER, added_files
from g3dvit.outputs import write_means
from g3dvit.plain import unique_names
from g3dvit.regions import RegionOptions, regions_of_run
from g3dvit.remake import evidence_of, page_of_run, shown_run
from g3dvit.report.downloads import PAGE, Folder
from g3dvit.report.parts import Part, page_files, runs_of, subjects_of
from g3dvit.restricted import restrict
from g3dvit.run_result import RunInput, RunResult
from g3dvit.saved_runs import described_methods
from g3dvit.shown import Display, Parcellation

Progress = Callable[[int, int, str], None]
#: Folder of the class means of parts, inside that of the run.
PARTS = "parts"


def remake_part_pages(
    folder: str | Path,
    each: str,
    *,
    overwrite: bool = False,
    background: str | Path | None = None,
    evaluation: str | Path | None = None,
    atlas: Parcellation | None = None,
    display: Display | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write a page for each subject, or for each run, beside the page of the whole run.

    All appear, or none. The page of the whole run is made again, too, and links to them.

    Parameters
    ----------
    folder
        What ``g3dvit explain -o`` wrote.
    each
        ``"subject"`` or ``"run"``. Subjects are told by ``sub-`` in the names of runs.
    overwrite
        Replace pages of single subjects or runs that are there.
    background, atlas, display
        As in `g3dvit.remake.remake_page`.
    evaluation
        As there; it is of the whole run, and shown on its page alone.
    progress
        Called with what is done, of how much, and what is going on.

    Returns
    -------
    list of Path
        The page of the whole run, then one per subject or run: ``report_NAME.html``.

    Raises
    ------
    InputError
        If there is one subject or run only, subjects are not named, or no method has a map of
        every volume.
    OutputError
        If the folder is none of g3dvit's, or a page is there and `overwrite` is False.
    """
    folder = Path(folder)
    result = shown_run(folder, background=background, atlas=atlas, display=display)
    parts = _parts(result.inputs, each)
    there = [name for name, _ in parts if (folder / name).exists()]
    if there and not overwrite:
        raise OutputError(
            f"{folder / there[0]} exists; replace the pages of single {each}s with --overwrite "
            f"(overwrite=True)"
        )
    if evaluation is not None:
        evidence_of(Path(evaluation), result.model)  # told before the work, not after it
    methods = described_methods(folder)
    whole = Folder.of(folder, methods)
    written = [PAGE, *(name for name, _ in parts)]
    with added_files(folder) as place:
        for number, (name, part) in enumerate(parts):
            if progress is not None:
                progress(number, len(written), part.name)
            own = _part_alone(result, part)
            means = _write_means_of(own, name, place)
            page = page_of_run(own, _files_of(part, result, own, whole, means))
            (place / name).write_text(page, encoding="utf-8")
        if progress is not None:
            progress(len(parts), len(written), "the whole run")
        sizes = {**whole.sizes, **Folder.of(place).sizes}
        pages = [(n, p.kind, p.name) for n, p in page_files(result.inputs) if n in sizes]
        beside = replace(whole, sizes=dict(sorted(sizes.items())), pages=pages)
        page = page_of_run(result, beside, evaluation=evaluation)
        (place / PAGE).write_text(page, encoding="utf-8")
    if progress is not None:
        progress(len(written), len(written), "done")
    return [folder / name for name in written]


def _parts(inputs: Sequence[RunInput], each: str) -> list[tuple[str, Part]]:
    """Return the files of the pages to write, and what is on them."""
    if each not in ("subject", "run"):
        raise InputError(f"pages are for each 'subject' or each 'run', was given {each!r}")
    subjects = subjects_of(inputs)
    parts = subjects if each == "subject" else runs_of(inputs)
    if each == "subject":
        named = {n for part in subjects for n in part.runs}
        nameless = [run.name for n, run in enumerate(inputs) if n not in named]
        if nameless:
            raise InputError(
                f"the run {nameless[0]!r} does not say whose it is (sub-...; {len(nameless)} of "
                f"{len(inputs)} do not), so there are no pages of subjects; use --each run"
            )
    if len(parts) < 2:
        further = "; for its runs use --each run" if each == "subject" and len(inputs) > 1 else ""
        names = ", ".join(part.name for part in parts) or "none"
        raise InputError(
            f"this folder holds one {each} only ({names}), and {PAGE} is its page{further}"
        )
    files = {(part.name, part.runs): name for name, part in page_files(inputs)}
    return [(files[part.name, part.runs], part) for part in parts]


def _part_alone(result: RunResult, part: Part) -> RunResult:
    """Return a part with its own tables of regions, where there is an atlas."""
    atlas = result.parcellation
    if atlas is not None:  # then it gets regions of its own
        others = tuple(table for table in result.tables if table.section != "regions")
        result = replace(result, tables=others)
    own = restrict(result, part)
    if atlas is None or not any(maps.class_means for maps in own.maps):
        return own
    report = regions_of_run(own, atlas, options=RegionOptions(n_surrogates=0))
    told = f"Computed again for {own.part}, without random maps: there is no p."
    tables = tuple(
        replace(table, title=f"{part.name}: {table.title}", note=f"{told} {table.note}")
        for table in report.tables
    )
    return replace(own, tables=tables)


def _write_means_of(own: RunResult, page: str, place: Path) -> dict[str, int]:
    """Write the class means of a part, exact; return all files with bytes, the maps first."""
    (place / PARTS).mkdir(exist_ok=True)
    before = page.removeprefix("report_").removesuffix(".html") + "_"
    maps = [
        path for path, _ in write_means(own, place, where=PARTS, before=before, grids=("patch",))
    ]
    sizes = Folder.of(place).sizes
    mine = [path for path in sizes if path.startswith(f"{PARTS}/{before}class-")]
    return {path: sizes[path] for path in dict.fromkeys((*maps, *mine))}


def _files_of(
    part: Part, result: RunResult, own: RunResult, whole: Folder, means: Mapping[str, int]
) -> Folder:
    """Return the files that are of a part alone, and the provenance."""
    kept = [method for method in whole.methods if method["volumes"]]
    maps_of_means = iter([path for path in means if path.endswith("_relevance.nii.gz")])
    methods = [
        {
            "volumes": [method["volumes"][n] for n in part.runs],
            "class_means": [
                {"patch": next(maps_of_means), "voxel": None} for _ in maps.class_means
            ],
        }
        for method, maps in zip(kept, own.maps, strict=True)
    ]
    names = unique_names([run.name for run in result.inputs], kept="_.-")
    begin = [f"figures/{names[n]}_timecourse." for n in part.runs]
    begin += [str(v).removesuffix("relevance.nii.gz") for m in methods for v in m["volumes"]]
    sizes = {
        path: size
        for path, size in whole.sizes.items()
        if path == MARKER or path.startswith(tuple(begin))
    }
    return Folder({**means, **sizes}, methods, whole.name, whole=PAGE)
