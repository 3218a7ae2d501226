"""How a map is drawn: slices, glass brain, colour bar, stamp; the parts of all figures.

Colours are diverging and symmetric around zero (colour-blind safe red and blue); small values are
faded, not hidden, so that the anatomy can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from g3dvit.folders import write_whole
from g3dvit.grids import ImageGrid
from g3dvit.report.words import wrapped
from g3dvit.run_result import Background

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAILED = "#b3261e"
_TRUTH = "#1b7f3b"
_SIGNED = ("#053061", "#2166ac", "#67a9cf", "#ffffff", "#ef8a62", "#b2182b", "#67001f")


@dataclass(frozen=True, slots=True)
class Shown:
    """Values ready to be drawn."""

    image: nib.Nifti1Image
    opacity: nib.Nifti1Image
    vmax: float
    signed: bool
    truth: nib.Nifti1Image | None = None  # where the answer is planted


def framed(
    values: NDArray[np.floating[Any]], affine: NDArray[np.float64], background: ImageGrid
) -> nib.Nifti1Image:
    """Return an image with nothing around it, as far as the background goes.

    A cut beyond an image would show its outermost slice, which looks like a map out there.
    """
    last = np.array(background.shape) - 1
    ends = np.array(list(product(*zip((0, 0, 0), last, strict=True))))
    to_map = np.linalg.inv(affine) @ background.affine
    ijk = ends @ to_map[:3, :3].T + to_map[:3, 3]
    before = np.maximum(np.ceil(-ijk.min(0)), 1).astype(int)
    after = np.maximum(np.ceil(ijk.max(0) - np.array(values.shape) + 1), 1).astype(int)
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ before
    return image_of(np.pad(values, list(zip(before, after, strict=True))), moved)


def image_of(values: NDArray[np.floating[Any]], affine: NDArray[np.float64]) -> nib.Nifti1Image:
    """Return an array as an image in memory."""
    return nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine)


def anatomy_of(background: Background) -> nib.Nifti1Image | None:
    """Return the picture under a map; None where it is the same everywhere and shows nothing."""
    values = np.array(background.data, np.float32)
    if values.min() == values.max():
        return None
    return image_of(values, background.grid.affine)


def colours_of(*, signed: bool) -> Any:
    """Return the colour map: red and blue around white where there are two signs, else reds."""
    from matplotlib.colors import LinearSegmentedColormap

    if signed:
        return LinearSegmentedColormap.from_list("g3dvit_signed", _SIGNED)
    return LinearSegmentedColormap.from_list("g3dvit_positive", _SIGNED[3:])


def new_figure(width: float, height: float) -> Figure:
    """Return a figure that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(
    figure: Figure, stem: Path, *, dpi: int = 150, kinds: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write a figure as PNG and as SVG, whose words stay words.

    Parameters
    ----------
    figure
        What to write.
    stem
        Path without its ending.
    dpi
        Of the PNG, and of pictures inside the SVG.
    kinds
        Which of the two.

    Returns
    -------
    list of Path
        What was written.
    """
    from matplotlib import rc_context

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    # The same figure is the same file: no date, no random names inside.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "g3dvit"}):
        for path in paths:
            about = {"Date": None} if path.suffix == ".svg" else None
            kind = path.suffix[1:]
            write_whole(
                path,
                lambda part, kind=kind, about=about: figure.savefig(  # type: ignore[misc]
                    part, format=kind, dpi=dpi, metadata=about
                ),
            )
    return paths


def draw_slices(
    figure: Figure,
    background: Background,
    shown: Shown,
    axis: str,
    cuts: Sequence[float],
    box: tuple[float, float, float, float],
    *,
    radiological: bool = False,
) -> None:
    """Draw cuts across one axis; sides and coordinates are marked."""
    from nilearn.plotting import plot_stat_map

    drawn = plot_stat_map(
        shown.image,
        bg_img=anatomy_of(background),
        display_mode=axis,
        cut_coords=list(cuts),
        figure=figure,
        axes=box,
        colorbar=False,
        cmap=colours_of(signed=shown.signed),
        vmin=-shown.vmax if shown.signed else 0,
        vmax=shown.vmax,
        symmetric_cbar=shown.signed,
        threshold=None,
        transparency=shown.opacity,
        transparency_range=[0, 1],
        black_bg=False,
        dim=-0.3,
        annotate=False,
        radiological=radiological,
    )
    drawn.annotate(size=8)
    if shown.truth is not None:
        drawn.add_contours(shown.truth, levels=[0.5], colors=[_TRUTH], linewidths=1.2)


def draw_glass(
    figure: Figure,
    shown: Shown,
    box: tuple[float, float, float, float],
    *,
    radiological: bool = False,
) -> None:
    """Draw the glass brain from the left, behind, the right and above."""
    from nilearn.plotting import plot_glass_brain

    drawn = plot_glass_brain(
        shown.image,
        display_mode="lyrz",
        plot_abs=False,
        figure=figure,
        axes=box,
        colorbar=False,
        cmap=colours_of(signed=shown.signed),
        vmin=-shown.vmax if shown.signed else 0,
        vmax=shown.vmax,
        symmetric_cbar=shown.signed,
        threshold=0.05 * shown.vmax,
        annotate=False,
        radiological=radiological,
    )
    drawn.annotate(size=9)


def draw_colour_bar(
    figure: Figure, shown: Shown, units: str, box: tuple[float, float, float, float]
) -> None:
    """Draw the colour bar with its two ends and zero."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low = -shown.vmax if shown.signed else 0.0
    scale = ScalarMappable(Normalize(low, shown.vmax), colours_of(signed=shown.signed))
    bar = figure.colorbar(scale, cax=figure.add_axes(box), ticks=[low, 0, shown.vmax])
    bar.ax.set_yticklabels([_number(low), "0", _number(shown.vmax)], size=9)
    bar.outline.set_linewidth(0.5)
    bar.ax.set_title(units, size=9, pad=8)


def _number(value: float) -> str:
    text = f"{value:+.2g}" if value else "0"
    return text.replace("-", "−")


def draw_stamp(figure: Figure, text: str, at: tuple[float, float], *, size: float = 26) -> None:
    """Stamp words across a map, the reason below them."""
    from matplotlib.offsetbox import AnnotationBbox, TextArea, VPacker

    head, _, reason = text.partition(": ")
    parts = [TextArea(head, textprops={"size": size, "weight": "bold", "color": FAILED})]
    if reason:
        style = {"size": 10, "color": FAILED, "ha": "left"}
        parts.append(TextArea(wrapped(reason, 88), textprops=style))
    box = AnnotationBbox(
        VPacker(children=[*parts], align="center", pad=2, sep=4),
        at,
        xycoords="figure fraction",
        box_alignment=(0.5, 0.5),
        bboxprops={"facecolor": "#ffffffdd", "edgecolor": FAILED, "linewidth": 2.5},
        zorder=100,
    )
    figure.add_artist(box)
