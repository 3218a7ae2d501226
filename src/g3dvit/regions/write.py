"""Tables of regions to files: a folder of their own, or into the folder of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from g3dvit.errors import OutputError
from g3dvit.folders import added_files, note_files, output_folder
from g3dvit.regions.job import RegionReport
from g3dvit.report.drawing import save_figure
from g3dvit.report.figure_numbers import region_bars_figure
from g3dvit.saved_runs import TABLES, save_parcellation, save_table
from g3dvit.shown import ResultTable

COURSES = "timecourses"
FIGURES = "figures"


def write_regions(report: RegionReport, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write tables to a folder of their own, with a JSON beside each that explains its columns.

    The ranked regions go to ``figures`` as bars, PNG and SVG.

    Raises
    ------
    OutputError
        If the folder exists and `overwrite` is False, or cannot be written.
    """
    with output_folder(folder, overwrite=overwrite) as part:
        _save(report.tables, part, TABLES)
        _save(report.courses, part, COURSES)
        _draw(report, part)
    return Path(folder)


def add_to_run(report: RegionReport, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write tables into the folder of a run, so that `g3dvit report` shows them.

    The atlas goes there too: the page then names the region at its crosshair. Time courses lie
    in ``timecourses``; they are too long for a page. The ranked regions go to ``figures`` as bars.

    Raises
    ------
    OutputError
        If a table of the same name is there and `overwrite` is False.
    """
    folder = Path(folder)
    check_tables(folder, (table.name for table in report.tables), overwrite=overwrite)
    with added_files(folder) as part:
        written = _save(report.tables, part, TABLES) + _save(report.courses, part, COURSES)
        written += _draw(report, part)
    note_files(folder, [save_parcellation(report.atlas, folder)])
    return [folder / path.relative_to(part) for path in written]


def check_tables(folder: str | Path, names: Iterable[str], *, overwrite: bool = False) -> None:
    """Refuse a run that holds tables of these names already, before any work is done.

    Raises
    ------
    OutputError
        If one is there and `overwrite` is False.
    """
    there = (Path(folder) / TABLES / f"{name}.tsv" for name in names)
    found = next((path for path in there if path.exists()), None)
    if found is not None and not overwrite:
        raise OutputError(f"{found} exists; replace the tables of regions with --overwrite")


def _draw(report: RegionReport, folder: Path) -> list[Path]:
    """Draw every table that ranks regions."""
    written: list[Path] = []
    for table in report.tables:
        if "rank" in table.frame and table.frame["rank"].notna().any():
            figure = region_bars_figure(table.frame, units=report.units, title=table.title)
            (folder / FIGURES).mkdir(exist_ok=True)
            written += save_figure(figure, folder / FIGURES / table.name)
    return written


def _save(tables: Sequence[ResultTable], folder: Path, where: str) -> list[Path]:
    return [save_table(table, folder, where) for table in tables]
