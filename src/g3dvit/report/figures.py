"""Static figures: slices with coordinates and sides, glass brain, methods side by side.

Every function returns a matplotlib figure that belongs to no window: the user's backend and
open figures are left alone. Colours are diverging and symmetric around zero (colour-blind safe
red and blue); small values are faded, not hidden, so that the anatomy can be seen. A map that
failed a check is stamped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from g3dvit.report.contrasts import contrasts_of, difference
from g3dvit.report.display import apply_display, caption_of, display_units, shown_mean
from g3dvit.report.drawing import (
    FAILED,
    Shown,
    draw_colour_bar,
    draw_glass,
    draw_slices,
    draw_stamp,
    framed,
    new_figure,
)
from g3dvit.report.figure_numbers import short_name
from g3dvit.report.words import (
    NOT_BOLD,
    USES_NOT_DIFFERS,
    display_sentence,
    has_template_space,
    millimetres,
    plain_text,
    position_beside,
    shares_beside,
    shows,
    stamp_of,
    units_on,
    wrapped,
)
from g3dvit.run_result import Background, ClassMean, MapSet, RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CutCoords = Mapping[str, Sequence[float]]
_WARNED = "#8a5a00"
_FADED_BELOW = 0.35  # of the colour range: weaker values let the anatomy through


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
    foot = _foot_of(result, [maps])
    height = (7.8 if glass else 5.7) + foot.height
    figure = new_figure(11.0, height)
    top = height - 0.85
    if glass:
        draw_glass(figure, shown, (0.02, (top - 1.95) / height, 0.86, 1.9 / height))
        top -= 2.1
    for row, axis in enumerate("xyz"):
        bottom = (top - 1.62 * (row + 1)) / height
        box = (0.02, bottom, 0.86, 1.56 / height)
        draw_slices(figure, result.background, shown, axis, cuts[axis], box)
    units = display_units(units_on(maps, "voxels"), result.display)
    draw_colour_bar(figure, shown, units, (0.915, 0.3, 0.016, 0.4))
    _heading(figure, shows(result, maps, mean), _subtitle(maps, mean), result.part)
    _draw_foot(figure, foot)
    stamp = stamp_of(mean.checks)
    if stamp:
        draw_stamp(figure, stamp, (0.45, 0.48))
    return figure


def comparison_figure(result: RunResult, *, group: int = 0) -> Figure:
    """Draw the same class mean by every method, with the same cuts, one row a method.

    Parameters
    ----------
    result
        The run.
    group
        Which of `RunResult.groups`.
    """
    key = result.groups[group]
    found = [(maps, mean) for maps in result.maps for mean in maps.class_means if mean.key == key]
    most = max((mean for _, mean in found), key=lambda mean: mean.n)
    targets = {mean.target or result.target for _, mean in found}
    common = targets.pop() if len(targets) == 1 else result.target
    rows = []
    for maps, mean in found:
        own = mean.target or result.target
        target = f": evidence for “{own}”" if own != common else ""
        n = f", n = {mean.n}" if mean.n != most.n else ""
        rows.append(_Row(f"{maps.content.label}{target}{n}", maps, mean, None))
    return _rows_figure(
        result,
        rows,
        f"Methods side by side: evidence for “{common}”",
        f"{most.title} · same cuts · every row has its own colour scale",
    )


def means_figure(result: RunResult, maps: MapSet) -> Figure:
    """Draw all class means of a method and their differences, on one colour scale.

    Means over misclassified volumes are left out where there are others.

    Parameters
    ----------
    result
        The run.
    maps
        Which method.
    """
    means = [m for m in maps.class_means if m.key.which != "error"] or list(maps.class_means)
    rows = [(mean.title, mean) for mean in means]
    for contrast in contrasts_of(result, maps):
        voxel = difference(contrast.first.voxel, contrast.second.voxel)
        both = replace(contrast.first, voxel=voxel, checks=contrast.checks)
        rows.append((contrast.title, both))
    top = max(float(np.abs(_values(result, maps, mean)).max(initial=0)) for _, mean in rows)
    different = " · differences are descriptive, not tested" if len(rows) > len(means) else ""
    return _rows_figure(
        result,
        [_Row(title, maps, mean, top) for title, mean in rows],
        f"Class means side by side: {shows(result, maps)}",
        "same cuts, one colour scale for all rows" + different,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """One map of a figure with several."""

    label: str
    maps: MapSet
    mean: ClassMean
    vmax: float | None


def _rows_figure(result: RunResult, rows: Sequence[_Row], title: str, subtitle: str) -> Figure:
    """Draw maps below each other, with the same cuts."""
    foot = _foot_of(result, list(dict.fromkeys(row.maps for row in rows)))
    height = 0.95 + 2.05 * len(rows) + foot.height
    figure = new_figure(11.0, height)
    around = _peak_mm(result, [(row.maps, row.mean) for row in rows])
    for n, row in enumerate(rows):
        shown = _shown(result, row.maps, row.mean, row.vmax)
        bottom = (height - 0.95 - 2.05 * (n + 1)) / height
        for column, (axis, x, width) in enumerate(
            (("x", 0.19, 0.21), ("y", 0.405, 0.18), ("z", 0.59, 0.29))
        ):
            cuts = [around[column]] if axis != "z" else [around[2] - 20, around[2]]
            box = (x, bottom + 0.06 / height, width, 1.72 / height)
            draw_slices(figure, result.background, shown, axis, cuts, box)
        stamp = stamp_of(row.mean.checks)
        _row_head(figure, row, bottom + 1.05 / height)
        units = display_units(units_on(row.maps, "voxels"), result.display)
        draw_colour_bar(figure, shown, units, (0.915, bottom + 0.2 / height, 0.012, 1.4 / height))
        if stamp:
            draw_stamp(figure, stamp.partition(":")[0], (0.54, bottom + 0.95 / height), size=17)
    sizes = dict.fromkeys(millimetres(row.mean.voxel.resolution_mm) for row in rows)
    words = f"{subtitle} · effective resolution {' and '.join(sizes)}"
    _heading(figure, title, words, result.part)
    _draw_foot(figure, foot)
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


def _shown(result: RunResult, maps: MapSet, mean: ClassMean, vmax: float | None) -> Shown:
    values = _values(result, maps, mean)
    top = float(np.abs(values).max()) if vmax is None else vmax
    affine = mean.voxel.grid.affine
    opacity = np.clip(np.abs(values) / (_FADED_BELOW * (top or 1.0)), 0, 1)
    opacity[0, 0, 0], opacity[-1, -1, -1] = 0, 1  # else nilearn stretches it to its own range
    return Shown(
        image=framed(values, affine, result.background.grid),
        opacity=framed(opacity, affine, result.background.grid),
        vmax=top or 1.0,
        signed=maps.signed and not result.display.rectify,
        truth=_truth_image(result, mean),
    )


def _truth_image(result: RunResult, mean: ClassMean) -> nib.Nifti1Image | None:
    planted = (result.truth or {}).get(mean.key.group)
    if planted is None or not (planted > 0).any():
        return None
    return framed(planted / planted.max(), result.prepared_grid.affine, result.background.grid)


def _peak_mm(result: RunResult, rows: Sequence[tuple[MapSet, ClassMean]]) -> list[int]:
    """Return the peak of the first map without a failed check, in whole mm."""
    good = [row for row in rows if stamp_of(row[1].checks) is None]
    maps, mean = (good or rows)[0]
    shown = np.abs(shown_mean(maps, mean, result.display))
    at = np.unravel_index(int(np.argmax(shown)), shown.shape)
    return [round(v) for v in mean.voxel.grid.vox2world(at)]


def _subtitle(maps: MapSet, mean: ClassMean) -> str:
    layer = f" · layer {maps.layer}" if maps.layer else ""
    resolution = millimetres(mean.voxel.resolution_mm)
    beside = position_beside(maps)
    return f"{mean.title} · effective resolution {resolution}{layer}{f' · {beside}' * bool(beside)}"


def _heading(figure: Figure, title: str, subtitle: str, part: str = "") -> None:
    height = figure.get_figheight()
    part = short_name(part, 120)
    figure.text(0.02, 1 - 0.74 / height, part, size=10, weight="bold", color="#444", va="top")
    head = figure.text(0.02, 1 - 0.2 / height, plain_text(title), size=15, weight="bold", va="top")
    room = 0.96 * figure.bbox.width  # longer titles are smaller, the longest are cut
    wide = head.get_window_extent().width
    if wide > room:
        head.set_fontsize(max(9.0, 15 * room / wide))
        wide = head.get_window_extent().width
    if wide > room:
        head.set_text(short_name(title, int(len(title) * room / wide)))
    figure.text(0.02, 1 - 0.55 / height, plain_text(subtitle), size=10, color="#444", va="top")


@dataclass(frozen=True, slots=True)
class _Foot:
    """Lines below the pictures, and above them a failed check of the whole run; inches."""

    text: str
    failed: str

    @property
    def failed_at(self) -> float:
        return 0.2 + 0.14 * (self.text.count("\n") + 1)

    @property
    def height(self) -> float:
        lines = self.failed.count("\n") + 1 if self.failed else 0
        return max(0.9, self.failed_at + 0.17 * lines + 0.15)


def _foot_of(result: RunResult, maps: Sequence[MapSet]) -> _Foot:
    sentences = [NOT_BOLD, USES_NOT_DIFFERS, f"Background: {result.background.title}."]
    sentences += [caption_of(result.display, maps), display_sentence(*maps), *result.notes]
    if result.truth:
        sentences.append("Green outline: where the answer was planted.")
    failed = stamp_of(result.checks)  # of the whole run, such as a model at chance
    return _Foot(wrapped(" ".join(s for s in sentences if s), 170), wrapped(failed or "", 130))


def _draw_foot(figure: Figure, foot: _Foot) -> None:
    height = figure.get_figheight()
    figure.text(0.02, 0.12 / height, foot.text, size=8, color="#444", va="bottom")
    y = foot.failed_at / height
    figure.text(0.02, y, foot.failed, size=9.5, weight="bold", color=FAILED, va="bottom")


def _row_head(figure: Figure, row: _Row, y: float) -> None:
    figure.text(0.02, y, wrapped(row.label, 22), weight="bold", va="bottom")
    checks = row.mean.checks
    stamp = stamp_of(checks)
    warned = [f"{c.name}: {c.sentence}" for c in checks if c.verdict == "warn"]
    said, colour = "all checks passed", "#2e6b34"
    if stamp:
        said, colour = stamp.partition(": ")[2], FAILED
    elif warned:
        said, colour = f"warning: {' | '.join(warned)}", _WARNED
    lines = textwrap.wrap(plain_text(said), 34, max_lines=6, placeholder=" …")
    text = "\n".join([*lines, *textwrap.wrap(shares_beside(row.maps.summary), 34)])
    below = y - 0.06 / figure.get_figheight()
    figure.text(0.02, below, text, color=colour, size=8, va="top")
