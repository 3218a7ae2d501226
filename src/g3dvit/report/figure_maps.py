"""Figures of one map: mosaic of slices, glass brain, cortical surface.

They take a `RelevanceMap` and draw what it holds: colours are diverging and symmetric around zero
where it has two signs, sequential where it has one. Neurological: left is left, unless asked
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError, SpaceError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.report.display import apply_display, caption_of, display_units, shown_mean
from g3dvit.report.drawing import (
    Shown,
    colours_of,
    draw_colour_bar,
    draw_glass,
    draw_slices,
    draw_stamp,
    framed,
    new_figure,
)
from g3dvit.report.figure_numbers import short_name
from g3dvit.report.surface import DEPTHS
from g3dvit.report.words import (
    NOT_BOLD,
    USES_NOT_DIFFERS,
    has_template_space,
    millimetres,
    position_beside,
    shows,
    stamp_of,
    units_on,
    wrapped,
)
from g3dvit.run_result import ClassMean, MapSet, RunResult
from g3dvit.shown import Background

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FADED_BELOW = 0.35  # of the colour range: weaker values let the anatomy through
_VIEWS = (("left", "lateral"), ("left", "medial"), ("right", "medial"), ("right", "lateral"))


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How one map is drawn.

    Parameters
    ----------
    threshold
        Hide |values| below this, in units of the map.
    percentile
        Hide |values| below this percentile (0 to 100) of the non-zero ones; not with `threshold`.
    vmax
        End of the colour scale, in units of the map; its largest |value| unless given.
    radiological
        Show the right side of the brain on the left of the picture.
    """

    threshold: float | None = None
    percentile: float | None = None
    vmax: float | None = None
    radiological: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and self.percentile is not None:
            raise InputError("give a threshold or a percentile, not both")
        if self.percentile is not None and not 0 <= self.percentile <= 100:
            raise InputError(f"a percentile is 0 to 100, was given {self.percentile}")
        if self.threshold is not None and not self.threshold >= 0:
            raise InputError(f"a threshold is at least 0, was given {self.threshold}")
        if self.vmax is not None and not self.vmax > 0:
            raise InputError(f"the end of a colour scale is above 0, was given {self.vmax}")


@dataclass(frozen=True, slots=True, eq=False)
class Titled:
    """A map with what stands around it.

    Parameters
    ----------
    relevance
        3D.
    background
        Under it.
    title, subtitle
        Above it.
    space
        Name of its space; None where unknown.
    stamp
        What is stamped across it; None where no check failed.
    """

    relevance: RelevanceMap
    background: Background
    title: str
    subtitle: str
    space: str | None = None
    stamp: str | None = None

    @classmethod
    def of_mean(
        cls,
        result: RunResult,
        maps: MapSet,
        mean: ClassMean,
        background: Background | None = None,
    ) -> Titled:
        """Return a class mean of a run, smoothed for display as the run says, with its words."""
        shown = apply_display(shown_mean(maps, mean, result.display), result.display)
        units = display_units(units_on(maps, "voxels"), result.display)
        told = {**mean.voxel.metadata, "units": units}
        return cls(
            relevance=replace(mean.voxel, data=shown, companions={}, metadata=told),
            background=background or result.background,
            title=shows(result, maps, mean),
            subtitle=" · ".join(
                w
                for w in (
                    *(result.part, mean.title, position_beside(maps)),
                    caption_of(result.display, [maps]),
                )
                if w
            ),
            space=result.space,
            stamp=stamp_of([*mean.checks, *result.checks]),
        )


def mosaic_figure(one: Titled, options: MapOptions, *, cuts: int = 7) -> Figure:
    """Draw three rows of slices with coordinates and sides."""
    from g3dvit.report.figures import cut_coords_of

    shown, kept = _shown(one, options)
    figure = new_figure(11.0, 6.6)
    places = cut_coords_of(one.background, count=cuts)
    for row, axis in enumerate("xyz"):
        box = (0.02, 0.63 - 0.24 * row, 0.86, 0.235)
        draw_slices(
            figure,
            one.background,
            shown,
            axis,
            places[axis],
            box,
            radiological=options.radiological,
        )
    draw_colour_bar(figure, shown, one.relevance.units, (0.915, 0.3, 0.016, 0.4))
    _around(figure, one, options, kept)
    return figure


def glass_figure(one: Titled, options: MapOptions) -> Figure:
    """Draw the glass brain from the left, behind, the right and above.

    Raises
    ------
    SpaceError
        If the map is in no template space, whose outline the glass brain is.
    """
    _need_template(one, "the glass brain is the outline of the MNI template")
    shown, kept = _shown(one, options)
    figure = new_figure(11.0, 3.9)
    draw_glass(figure, shown, (0.02, 0.22, 0.86, 0.55), radiological=options.radiological)
    draw_colour_bar(figure, shown, one.relevance.units, (0.915, 0.3, 0.016, 0.4))
    subtitle = f"{one.subtitle} · beyond a twentieth of the scale"
    _around(figure, replace(one, subtitle=subtitle), options, kept)
    return figure


def surface_figure(one: Titled, options: MapOptions) -> Figure:
    """Draw the map on the cortex of fsaverage5, inflated, from both sides of both hemispheres.

    Every vertex shows the value at its place between white matter and pia, by nearest voxel: a map
    of patches shows the patches that the cortex passes through.

    Raises
    ------
    SpaceError
        If the map is in no template space: fsaverage has no other coordinates.
    """
    from nilearn.plotting import plot_surf_stat_map

    _need_template(one, "fsaverage lies in the space of the MNI template")
    shown, kept = _shown(one, options)
    figure = new_figure(11.0, 4.2)
    textures = surface_values(one.relevance)
    top = shown.vmax
    for place, (hemi, view) in enumerate(_VIEWS):
        mesh, sulci = _fsaverage(hemi)
        axes: Any = figure.add_axes((0.01 + 0.22 * place, 0.2, 0.22, 0.58), projection="3d")
        values = textures[hemi]
        plot_surf_stat_map(
            mesh,
            np.where(np.abs(values) >= max(kept, 0.1 * top), values, 0),
            bg_map=sulci,
            hemi=hemi,
            view=view,
            axes=axes,
            figure=figure,
            colorbar=False,
            cmap=colours_of(signed=shown.signed),
            vmin=-top if shown.signed else 0,
            vmax=top,
            symmetric_cbar=shown.signed,
            threshold=1e-12 * top,
            bg_on_data=True,
            alpha=1.0,
        )
        for drawn in axes.collections:
            drawn.set_rasterized(True)  # else an SVG holds 80,000 triangles
        axes.set_title(f"{hemi}, {view}", fontsize=9, y=0.93)
    draw_colour_bar(figure, shown, one.relevance.units, (0.915, 0.3, 0.016, 0.4))
    known = is_resolution_known(one.relevance)
    what = "patches" if known else "voxels (size of the patches unknown)"
    edges = millimetres(one.relevance.resolution_mm)
    subtitle = f"{what} of {edges} projected onto the cortex, beyond a tenth of the scale · " + (
        one.subtitle
    )
    # A surface has its own sides: nothing to swap.
    _around(figure, replace(one, subtitle=subtitle), replace(options, radiological=False), kept)
    return figure


def surface_values(relevance: RelevanceMap) -> dict[str, NDArray[np.float64]]:
    """Return the value at every vertex of fsaverage5's cortex, by hemisphere; 0 outside the map.

    The mean over places between white matter and pia, each of the voxel that holds it.
    """
    from g3dvit.resampling import voxel_of

    flat = np.append(np.asarray(relevance.data, dtype=np.float64).ravel(), 0.0)
    found = {}
    for hemi in ("left", "right"):
        inner, outer = (_coordinates(hemi, kind) for kind in ("white_matter", "pial"))
        depths = [inner + share * (outer - inner) for share in DEPTHS]
        found[hemi] = np.mean([flat[voxel_of(relevance.grid, xyz)] for xyz in depths], axis=0)
    return found


def _coordinates(hemi: str, kind: str) -> NDArray[np.float64]:
    from nilearn.datasets import load_fsaverage

    mesh = load_fsaverage("fsaverage5")[kind].parts[hemi]
    return np.asarray(mesh.coordinates, dtype=np.float64)


def _fsaverage(hemi: str) -> tuple[Any, NDArray[np.float64]]:
    """Return the inflated mesh of a hemisphere and how deep its sulci are."""
    from nilearn.datasets import load_fsaverage, load_fsaverage_data

    mesh = load_fsaverage("fsaverage5")["inflated"].parts[hemi]
    sulci = load_fsaverage_data("fsaverage5", data_type="sulcal").data.parts[hemi]
    return mesh, np.asarray(sulci, dtype=np.float64)


def _shown(one: Titled, options: MapOptions) -> tuple[Shown, float]:
    """Return what is drawn, and below which |value| it is hidden."""
    values = np.asarray(one.relevance.data, dtype=np.float32)
    if values.ndim != 3:
        raise InputError("a figure of a map takes one volume; choose it by its number")
    # What is no number is not drawn; it is told below the picture.
    values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    size = np.abs(values)
    kept = options.threshold or 0.0
    if options.percentile is not None and size.any():
        kept = float(np.percentile(size[size > 0], options.percentile))
    values = np.where(size >= kept, values, 0)
    top = options.vmax or float(size.max()) or 1.0
    opacity = np.clip(np.abs(values) / (_FADED_BELOW * top), 0, 1)
    opacity[0, 0, 0], opacity[-1, -1, -1] = 0, 1  # else nilearn stretches it to its own range
    grid, under = one.relevance.grid, one.background.grid
    signed = bool((one.relevance.data < 0).any())
    return (
        Shown(framed(values, grid.affine, under), framed(opacity, grid.affine, under), top, signed),
        kept,
    )


def _need_template(one: Titled, reason: str) -> None:
    if not has_template_space(one.space):
        raise SpaceError(
            f"{reason}, and this map is in {one.space or 'an unknown space'}; nothing is warped. "
            "Draw a mosaic, or bring the data to MNI space before the model sees them"
        )


def _around(figure: Figure, one: Titled, options: MapOptions, kept: float) -> None:
    """Write title, what was done for display, and stamp."""
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.2 / height, short_name(one.title, 96), size=14, weight="bold", va="top")
    subtitle = f"{one.subtitle} · effective resolution {resolution_words(one.relevance)}"
    text = wrapped(subtitle, 150)
    figure.text(0.02, 1 - 0.52 / height, text, size=9.5, color="#444", va="top")
    sentences = [NOT_BOLD, USES_NOT_DIFFERS, f"Background: {one.background.title}."]
    if kept > 0:
        rule = f"{options.percentile:g}th percentile" if options.percentile is not None else "given"
        sentences.append(f"Hidden below |{kept:.3g}| {one.relevance.units} ({rule}).")
    missing = int((~np.isfinite(one.relevance.data)).sum())
    if missing:
        sentences.append(f"{missing} values are no numbers and are not drawn.")
    if options.vmax is not None and np.abs(one.relevance.data).max() > options.vmax:
        sentences.append("Values beyond the scale have its last colour.")
    if options.radiological:
        sentences.append("Radiological: the right side of the brain is on the left.")
    figure.text(
        0.02, 0.1 / height, wrapped(" ".join(sentences), 170), size=8, color="#444", va="bottom"
    )
    if one.stamp:
        draw_stamp(figure, one.stamp, (0.45, 0.48))


def is_resolution_known(relevance: RelevanceMap) -> bool:
    """Return whether anything tells how large a map's patches are, as the sidecar of one does."""
    sizes = relevance.grid.voxel_sizes
    return bool(relevance.metadata.get("method")) or not np.allclose(
        relevance.resolution_mm, sizes, rtol=1e-3
    )


def resolution_words(relevance: RelevanceMap) -> str:
    """Return the effective resolution in mm; of a map without a sidecar, that it is unknown."""
    if is_resolution_known(relevance):
        return millimetres(relevance.resolution_mm)
    return f"unknown, voxel size {millimetres(relevance.grid.voxel_sizes.tolist())}"


def plain_background(grid: ImageGrid) -> Background:
    """Return an empty picture of a grid, for maps without any."""
    return Background(np.zeros(grid.shape, np.float32), grid, "none")
