"""The pictures that stand in the page, and beside it as files: made once, used in both."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from g3dvit.report.figures import comparison_figure, means_figure
from g3dvit.run_result import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_IN_PAGE = 6
_DPI = 110


@dataclass(frozen=True, slots=True)
class Picture:
    """One PNG.

    Parameters
    ----------
    kind
        ``"means"`` or ``"methods"``: what is side by side; or ``"evidence"``.
    number
        Of the method or of the class mean, for the file's name.
    title
        What it shows; the page's alternative text.
    png
        The file's bytes.
    figure
        What it is a picture of, to be written as SVG too; None where it came from a file.
    """

    kind: str
    number: int
    title: str
    png: bytes
    figure: Figure | None = field(default=None, repr=False, compare=False)


def page_pictures(result: RunResult) -> Iterator[Picture]:
    """Yield the class means of each method side by side, then the methods for each class mean."""
    for number, maps in enumerate(result.maps):
        if maps.class_means:
            title = f"Class means of {maps.content.label} on one colour scale"
            figure = means_figure(result, maps)
            yield Picture("means", number, title, _png(figure), figure)
    for number, key in enumerate(result.groups):
        if key.which != "error":
            of_group = [m for maps in result.maps for m in maps.class_means if m.key == key]
            title = f"All methods, mean of {max(of_group, key=lambda mean: mean.n).title}"
            figure = comparison_figure(result, group=number)
            yield Picture("methods", number, title, _png(figure), figure)


def in_page(pictures: list[Picture]) -> list[Picture]:
    """Return those that the page has room for, some of each kind."""
    kinds = [[p for p in pictures if p.kind == kind] for kind in ("means", "methods")]
    return [p for of_kind in kinds for p in of_kind[: _MOST_IN_PAGE // 2]]


def _png(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI)  # type: ignore[attr-defined]
    return buffer.getvalue()
