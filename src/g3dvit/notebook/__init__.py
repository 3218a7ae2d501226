"""Values in Jupyter: a small table and figure at the end of a cell, a viewer, the page.

A map, a run, an explanation or a geometry as the last line of a cell shows itself: what it is, what
its checks said (failed ones loud), and a picture with its stamp. All words are escaped, styles are
in the elements, and nothing is loaded from anywhere, so that a saved or converted notebook keeps
what it showed.

`viewer` is interactive and needs the extra ``notebook``; `show_page` puts the page of a run's
folder into the notebook and needs nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g3dvit.errors import InputError
from g3dvit.explanation import Explanation
from g3dvit.figures import glass_brain, mosaic
from g3dvit.geometry import Geometry
from g3dvit.maps import RelevanceMap
from g3dvit.notebook.figures import patch_figure, stamp_run, stamped
from g3dvit.notebook.tables import Row, rows_of, verdict_rows
from g3dvit.report.words import has_template_space
from g3dvit.run_result import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_BYTES", "html_of", "show_page", "text_of", "viewer"]

#: A value shows itself in no more than this, so that a notebook with many stays small.
MOST_BYTES = 150_000
_MOST_PASSED = 3  # more are folded
_DOTS = (90, 64, 44)  # per inch; the first whose picture is small enough
_LOUD = "background:#b3261e;color:#fff;font-weight:bold"
_MARKS = {"pass": "", "warn": "background:#ffe2a8;color:#3a2600", "fail": _LOUD}
_CELL = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;white-space:normal"


def html_of(value: Any) -> str:
    """Return a value as HTML: a table, and a figure where it holds maps.

    Parameters
    ----------
    value
        A `RelevanceMap`, `RunResult`, `Explanation` or `Geometry`.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(value, Geometry):
        return f"<pre style='line-height:1.2'>{escape(str(value))}</pre>"
    table = _table(rows_of(value), verdict_rows(value))
    return f"<div style='max-width:900px'>{table}{_picture(value)}</div>"


def text_of(value: Any) -> str:
    """Return the table of a value as lines of text, for a terminal; checks with their verdicts.

    Raises
    ------
    InputError
        If the value has no table.
    """
    if isinstance(value, Geometry):
        return str(value)
    lines = [f"{row.name}: {row.text}" for row in rows_of(value)]
    checks = [f"{row.verdict.upper()} {row.name}: {row.text}" for row in verdict_rows(value)]
    return "\n".join([*lines, *checks])


def show_page(source: str | Path | RunResult, *, height: int = 800) -> Any:
    """Return the page of a run in a frame; it works offline, and in a saved notebook.

    Parameters
    ----------
    source
        A run; or its folder, which `g3dvit explain -o` or `g3dvit.outputs.write_run` wrote, with
        ``report.html``.
    height
        Of the frame, in pixels.

    Raises
    ------
    InputError
        If there is no page, or the height is not above 0.

    Notes
    -----
    The whole page, with its viewer, lies in the notebook: some MB.
    """
    if height < 1:
        raise InputError(f"the height of the page is at least 1 pixel, was given {height}")
    if isinstance(source, RunResult):
        from g3dvit.report.page import render_page
        from g3dvit.report.scene import scene_of

        return _Frame(render_page(scene_of(source)), height)
    page = Path(source) / "report.html"
    if not page.is_file():
        raise InputError(
            f"there is no {page}; name the folder that `g3dvit explain -o` wrote, or make its page "
            f"again with `g3dvit report {source}`"
        )
    return _Frame(page.read_text(encoding="utf-8"), height)


def viewer(source: RelevanceMap | RunResult, *, method: str | None = None) -> Any:
    """Return an interactive view of a map, over the background of its run where it has one.

    Turn, cut and cross-hair with the mouse; a 4D map has a slider for its volumes. A failed check
    stands above it. Needs the extra ``notebook`` (ipyniivue).

    Parameters
    ----------
    source
        A map; or a run, whose per-volume maps (class mean where it has none) are shown.
    method
        Of a run; by default the recommended one, else the first.

    Returns
    -------
    ipywidgets.VBox
        Title, slider and ``ipyniivue.NiiVue``; the last line of a cell shows it.

    Raises
    ------
    InputError
        If the extra is not installed, the run has no maps of the method, or the source is neither.
    """
    if not isinstance(source, RelevanceMap | RunResult):
        raise InputError(
            "the viewer takes a map (g3dvit.RelevanceMap.load(file)) or a run "
            f"(g3dvit.saved_runs.load_run(folder)), was given a {type(source).__name__}"
        )
    from g3dvit.notebook.niivue import niivue_widget

    return niivue_widget(source, method)


class _Frame:
    """HTML in a frame of its own: its scripts and styles cannot touch the notebook's."""

    def __init__(self, page: str, height: int) -> None:
        self._page, self._height = page, height

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" srcdoc="{escape(self._page)}" '
            f'title="G3D-ViT: where the model looked" '
            f'style="width:100%;height:{self._height}px;border:1px solid #999"></iframe>'
        )


def _table(rows: Sequence[Row], checks: Sequence[Row]) -> str:
    """Return a table; where many checks passed, these are folded below it."""
    passed = [row for row in checks if row.verdict == "pass"]
    loud = [row for row in checks if row.verdict != "pass"]
    if len(passed) <= _MOST_PASSED:
        return _rows([*rows, *loud, *passed])
    folded = f"<details><summary>{len(passed)} checks passed</summary>{_rows(passed)}</details>"
    return _rows([*rows, *loud]) + folded


def _rows(rows: Sequence[Row]) -> str:
    body = "".join(_row(row) for row in rows)
    return f"<table style='border-collapse:collapse;font-size:90%'><tbody>{body}</tbody></table>"


def _row(row: Row) -> str:
    mark = (
        f"<b style='padding:0 4px;{_MARKS[row.verdict]}'>{row.verdict.upper()}</b> "
        if (row.verdict)
        else ""
    )
    return (
        f"<tr><th scope='row' style='{_CELL}'>{escape(row.name)}</th>"
        f"<td style='{_CELL}'>{mark}{escape(row.text)}</td></tr>"
    )


def _picture(value: Any) -> str:
    try:
        figure, words = _figure(value)
    except Exception as error:  # a picture that fails must not take the table with it
        return f"<p>No figure: {escape(type(error).__name__)}: {escape(str(error))}</p>"
    if figure is None:
        return ""
    return (
        f"<img alt='{escape(words)}' style='max-width:100%;background:#fff' "
        f"src='data:image/png;base64,{_png(figure)}'>"
    )


def _figure(value: Any) -> tuple[Figure | None, str]:
    if isinstance(value, Explanation):
        return patch_figure(value), "Slices of the patch grid of volume 0; no sides are known"
    if isinstance(value, RunResult):
        if not any(maps.class_means for maps in value.maps):
            return None, ""
        draw = glass_brain if has_template_space(value.space) else mosaic
        figure = draw(value)
        stamp_run(figure, value)
        return figure, "A class mean of the run"
    draw = glass_brain if has_template_space(value.metadata.get("space")) else mosaic
    return draw(stamped(value)), "The map" if value.n_volumes == 1 else "Volume 0 of the map"


def _png(figure: Figure) -> str:
    """Return a picture as base64, with as many dots as fit, in 256 colours."""
    from PIL import Image

    for dots in _DOTS:
        drawn, file = BytesIO(), BytesIO()
        figure.savefig(drawn, format="png", dpi=dots)
        colours = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        colours.save(file, format="png", optimize=True)
        text = base64.b64encode(file.getvalue()).decode("ascii")
        if len(text) < 0.9 * MOST_BYTES:
            break
    return text
