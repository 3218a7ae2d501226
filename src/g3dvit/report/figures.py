"""Static figures: slices with coordinates and sides, glass brain, methods side by side.

Every function returns a matplotlib figure that belongs to no window: the user's backend and
open figures are left alone. Colours are diverging and symmetric around zero (colour-blind safe
red and blue); small values are faded, not hidden, so that the anatomy can be seen. A map that
failed a check is stamped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from g3dvit.grids import ImageGrid
from g3dvit.report.display import apply_display, caption_of, display_units, shown_mean
from g3dvit.report.words import (
    NOT_BOLD,
    USES_NOT_DIFFERS,
    has_template_space,
    millimetres,
    shows,
    stamp_of,
)
from g3dvit.run_result import Background, ClassMean, MapSet, RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CutCoords = Mapping[str, Sequence[float]]
_FAILED = "#b3261e"
_WARNED = "#8a5a00"
_TRUTH = "#1b7f3b"
_FADED_BELOW = 0.35  # of the colour range: weaker values let the anatomy through
_SIGNED = ("#053061", "#2166ac", "#67a9cf", "#ffffff", "#ef8a62", "#b2182b", "#67001f")


@dataclass(frozen=True, slots=True)
class _Shown:
    """Values ready to be drawn."""

    image: nib.Nifti1Image
    opacity: nib.Nifti1Image
    vmax: float
    signed: bool
    truth: nib.Nifti1Image | None = None  # where the answer is planted


def class_mean_figure(
    result: RunResult, maps: MapSet, mean: ClassMean, *, vmax: float | None = None
) -> Figure:
    """Draw one class mean: glass brain (template spaces only) above three rows of slices.

    Parameters
    ----------
    result
        The run, for background, target and display options.
    maps, mean
        Which method, which group of volumes.
    vmax
        End of the colour scale in units of the map; of this map alone unless given.
    """
    shown = _shown(result, maps, mean, vmax)
    cuts = cut_coords_of(result.background, count=7)
    glass = has_template_space(result.space)
    figure = _new_figure(11.0, 8.7 if glass else 6.6)
    height = figure.get_figheight()
    top = height - 0.85
    if glass:
        _glass(figure, shown, (0.02, (top - 1.95) / height, 0.86, 1.9 / height))
        top -= 2.1
    for row, axis in enumerate("xyz"):
        bottom = (top - 1.62 * (row + 1)) / height
        box = (0.02, bottom, 0.86, 1.56 / height)
        _slices(figure, result.background, shown, axis, cuts[axis], box)
    units = display_units(maps.units, result.display)
    _colour_bar(figure, shown, units, (0.915, 0.3, 0.016, 0.4))
    _heading(figure, shows(result, maps), _subtitle(maps, mean))
    _foot(figure, result, [maps])
    stamp = stamp_of(mean.checks)
    if stamp:
        _stamp(figure, stamp, (0.45, 0.48))
    return figure


def comparison_figure(result: RunResult, *, group: int = 0) -> Figure:
    """Draw the same class mean by every method, with the same cuts, one row a method.

    Parameters
    ----------
    result
        The run.
    group
        Which of the class means, counted as in the first method.
    """
    key = result.maps[0].class_means[group].key
    rows = [(maps, mean) for maps in result.maps for mean in maps.class_means if mean.key == key]
    height = 1.85 + 2.05 * len(rows)
    figure = _new_figure(11.0, height)
    around = _peak_mm(result, rows)
    for n, (maps, mean) in enumerate(rows):
        shown = _shown(result, maps, mean, None)
        bottom = (height - 0.95 - 2.05 * (n + 1)) / height
        for column, (axis, x, width) in enumerate(
            (("x", 0.19, 0.21), ("y", 0.405, 0.18), ("z", 0.59, 0.29))
        ):
            cuts = [around[column]] if axis != "z" else [around[2] - 20, around[2]]
            box = (x, bottom + 0.06 / height, width, 1.72 / height)
            _slices(figure, result.background, shown, axis, cuts, box)
        stamp = stamp_of(mean.checks)
        _row_head(figure, maps.label, mean, bottom + 1.05 / height)
        units = display_units(maps.units, result.display)
        _colour_bar(figure, shown, units, (0.915, bottom + 0.2 / height, 0.012, 1.4 / height))
        if stamp:
            _stamp(figure, stamp.partition(":")[0], (0.54, bottom + 0.95 / height), size=17)
    _heading(
        figure,
        f"Methods side by side: evidence for “{result.target}”",
        f"{rows[0][1].title} · same cuts · every row has its own colour scale",
    )
    _foot(figure, result, [maps for maps, _ in rows])
    return figure


def cut_coords_of(background: Background, *, count: int) -> dict[str, list[int]]:
    """Return cuts in mm, evenly through the background's content; the same for every map."""
    inside = background.data > 0.1 * np.percentile(background.data, 99)
    points = background.grid.vox2world(np.argwhere(inside if inside.any() else inside | True))
    low, high = np.percentile(points, [1, 99], axis=0)
    margin = 0.09 * (high - low)
    ends = np.stack([low + margin, high - margin])
    return {
        axis: [round(v) for v in np.linspace(ends[0, n], ends[1, n], count)]
        for n, axis in enumerate("xyz")
    }


def colour_range(result: RunResult, maps: MapSet) -> float:
    """Return the largest absolute shown value over a method's class means.

    Means over misclassified volumes are left out where there are others: they are few, and
    their noise would set the scale of everything.
    """
    means = [m for m in maps.class_means if m.key.which != "error"] or maps.class_means
    tops = [np.abs(_values(result, maps, mean)).max() for mean in means]
    return float(max(tops, default=0.0))


def _values(result: RunResult, maps: MapSet, mean: ClassMean) -> NDArray[np.float32]:
    return apply_display(shown_mean(maps, mean, result.display), result.display)


def _shown(result: RunResult, maps: MapSet, mean: ClassMean, vmax: float | None) -> _Shown:
    values = _values(result, maps, mean)
    top = float(np.abs(values).max()) if vmax is None else vmax
    affine = mean.voxel.grid.affine
    opacity = np.clip(np.abs(values) / (_FADED_BELOW * (top or 1.0)), 0, 1)
    opacity[0, 0, 0], opacity[-1, -1, -1] = 0, 1  # else nilearn stretches it to its own range
    return _Shown(
        image=_framed(values, affine, result.background.grid),
        opacity=_framed(opacity, affine, result.background.grid),
        vmax=top or 1.0,
        signed=maps.signed and not result.display.rectify,
        truth=_truth_image(result, mean),
    )


def _truth_image(result: RunResult, mean: ClassMean) -> nib.Nifti1Image | None:
    planted = (result.truth or {}).get(mean.key.group)
    if planted is None or not (planted > 0).any():
        return None
    return _framed(planted / planted.max(), result.prepared_grid.affine, result.background.grid)


def _framed(
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
    return _image(np.pad(values, list(zip(before, after, strict=True))), moved)


def _image(values: NDArray[np.floating[Any]], affine: NDArray[np.float64]) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine)


def _peak_mm(result: RunResult, rows: Sequence[tuple[MapSet, ClassMean]]) -> list[int]:
    """Return the peak of the first map without a failed check, in whole mm."""
    good = [row for row in rows if stamp_of(row[1].checks) is None]
    maps, mean = (good or rows)[0]
    shown = np.abs(shown_mean(maps, mean, result.display))
    at = np.unravel_index(int(np.argmax(shown)), shown.shape)
    return [round(v) for v in mean.voxel.grid.vox2world(at)]


def _colours(signed: bool) -> Any:  # noqa: FBT001
    from matplotlib.colors import LinearSegmentedColormap

    if signed:
        return LinearSegmentedColormap.from_list("g3dvit_signed", _SIGNED)
    return LinearSegmentedColormap.from_list("g3dvit_positive", _SIGNED[3:])


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _slices(
    figure: Figure,
    background: Background,
    shown: _Shown,
    axis: str,
    cuts: Sequence[float],
    box: tuple[float, float, float, float],
) -> None:
    from nilearn.plotting import plot_stat_map

    drawn = plot_stat_map(
        shown.image,
        bg_img=_image(background.data, background.grid.affine),
        display_mode=axis,
        cut_coords=list(cuts),
        figure=figure,
        axes=box,
        colorbar=False,
        cmap=_colours(shown.signed),
        vmin=-shown.vmax if shown.signed else 0,
        vmax=shown.vmax,
        symmetric_cbar=shown.signed,
        threshold=None,
        transparency=shown.opacity,
        transparency_range=[0, 1],
        black_bg=False,
        dim=-0.3,
        annotate=False,
    )
    drawn.annotate(size=8)
    if shown.truth is not None:
        drawn.add_contours(shown.truth, levels=[0.5], colors=[_TRUTH], linewidths=1.2)


def _glass(figure: Figure, shown: _Shown, box: tuple[float, float, float, float]) -> None:
    from nilearn.plotting import plot_glass_brain

    drawn = plot_glass_brain(
        shown.image,
        display_mode="lyrz",
        plot_abs=False,
        figure=figure,
        axes=box,
        colorbar=False,
        cmap=_colours(shown.signed),
        vmin=-shown.vmax if shown.signed else 0,
        vmax=shown.vmax,
        symmetric_cbar=shown.signed,
        threshold=0.05 * shown.vmax,
        annotate=False,
    )
    drawn.annotate(size=9)


def _colour_bar(
    figure: Figure, shown: _Shown, units: str, box: tuple[float, float, float, float]
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low = -shown.vmax if shown.signed else 0.0
    scale = ScalarMappable(Normalize(low, shown.vmax), _colours(shown.signed))
    bar = figure.colorbar(scale, cax=figure.add_axes(box), ticks=[low, 0, shown.vmax])
    bar.ax.set_yticklabels([_number(low), "0", _number(shown.vmax)], size=9)
    bar.outline.set_linewidth(0.5)
    bar.ax.set_title(units, size=9, pad=8)


def _number(value: float) -> str:
    text = f"{value:+.2g}" if value else "0"
    return text.replace("-", "−")


def _subtitle(maps: MapSet, mean: ClassMean) -> str:
    layer = f" · layer {maps.layer}" if maps.layer else ""
    resolution = millimetres(mean.voxel.resolution_mm)
    return f"{mean.title} · effective resolution {resolution}{layer}"


def _heading(figure: Figure, title: str, subtitle: str) -> None:
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.2 / height, _plain(title), size=15, weight="bold", va="top")
    figure.text(0.02, 1 - 0.55 / height, _plain(subtitle), size=10, color="#444", va="top")


def _foot(figure: Figure, result: RunResult, maps: Sequence[MapSet]) -> None:
    sentences = [NOT_BOLD, USES_NOT_DIFFERS, f"Background: {result.background.title}."]
    sentences += [caption_of(result.display, maps), *result.notes]
    if result.truth:
        sentences.append("Green outline: where the answer was planted.")
    text = _wrap(" ".join(s for s in sentences if s), 170)
    height = figure.get_figheight()
    figure.text(0.02, 0.12 / height, text, size=8, color="#444", va="bottom")
    failed = stamp_of(result.checks)  # of the whole run, such as a model at chance
    if failed:
        y = (0.2 + 0.14 * (text.count("\n") + 1)) / height
        words = _wrap(failed, 130)
        figure.text(0.02, y, words, size=9.5, weight="bold", color=_FAILED, va="bottom")


def _row_head(figure: Figure, label: str, mean: ClassMean, y: float) -> None:
    figure.text(0.02, y, _wrap(label, 22), weight="bold", va="bottom")
    stamp = stamp_of(mean.checks)
    warned = [f"{c.name}: {c.sentence}" for c in mean.checks if c.verdict == "warn"]
    said, colour = "all checks passed", "#2e6b34"
    if stamp:
        said, colour = stamp.partition(": ")[2], _FAILED
    elif warned:
        said, colour = f"warning: {' | '.join(warned)}", _WARNED
    lines = textwrap.wrap(_plain(said), 34)
    text = "\n".join(lines[:6]) + (" …" if len(lines) > 6 else "")
    below = y - 0.06 / figure.get_figheight()
    figure.text(0.02, below, text, color=colour, size=8, va="top")


def _stamp(figure: Figure, text: str, at: tuple[float, float], *, size: float = 26) -> None:
    from matplotlib.offsetbox import AnnotationBbox, TextArea, VPacker

    head, _, reason = text.partition(": ")
    parts = [TextArea(head, textprops={"size": size, "weight": "bold", "color": _FAILED})]
    if reason:
        style = {"size": 10, "color": _FAILED, "ha": "left"}
        parts.append(TextArea(_wrap(reason, 88), textprops=style))
    box = AnnotationBbox(
        VPacker(children=[*parts], align="center", pad=2, sep=4),
        at,
        xycoords="figure fraction",
        box_alignment=(0.5, 0.5),
        bboxprops={"facecolor": "#ffffffdd", "edgecolor": _FAILED, "linewidth": 2.5},
        zorder=100,
    )
    figure.add_artist(box)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(_plain(text), width, break_long_words=True))


def _plain(text: str) -> str:
    """Keep a name from being read as mathematics."""
    return text.replace("$", r"\$")
