"""Static figures for papers; every function returns a matplotlib figure that belongs to no window.

``figure.savefig("map.svg")`` or ``"map.png"`` writes it. Figures of maps take a map (or its file),
or a run (or the folder of `g3dvit explain`) with a method and a group of volumes. Units, effective
resolution and failed checks are on every one.

Examples
--------
>>> import numpy as np
>>> from g3dvit import ImageGrid, RelevanceMap, figures
>>> grid = ImageGrid((5, 6, 4), np.diag([18.0, 18.0, 18.0, 1.0]))
>>> one = RelevanceMap(np.random.default_rng(0).normal(size=grid.shape), grid, {"units": "logit"})
>>> print(figures.mosaic(one, percentile=80).get_figwidth())
11.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from g3dvit.errors import InputError
from g3dvit.maps import RelevanceMap
from g3dvit.regions import default_mask, region_means, region_weights
from g3dvit.report.figure_maps import (
    MapOptions,
    Titled,
    glass_figure,
    mosaic_figure,
    plain_background,
    surface_figure,
)
from g3dvit.report.figure_numbers import (
    Course,
    confusion_figure,
    course_maps,
    peak_course,
    region_bars_figure,
    time_course_figure,
)
from g3dvit.report.figures import comparison_figure
from g3dvit.report.words import has_template_space, map_words, millimetres, stamp_in, stamp_of
from g3dvit.run_result import ClassMean, MapSet, RunResult
from g3dvit.saved_runs import load_run
from g3dvit.shown import Background, mni_template
from g3dvit.sidecars import stem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A map, a run, or where either was saved.
Source = RelevanceMap | RunResult | str | Path

__all__ = [
    "Source",
    "confusion_matrix",
    "glass_brain",
    "method_comparison",
    "mosaic",
    "region_bars",
    "surface",
    "time_course",
]


def mosaic(
    source: Source,
    *,
    method: str | None = None,
    group: str | None = None,
    threshold: float | None = None,
    percentile: float | None = None,
    vmax: float | None = None,
    radiological: bool = False,
    background: Background | None = None,
) -> Figure:
    """Return three rows of slices through a map.

    Parameters
    ----------
    source
        A 3D map or its file; or a run or its folder, of which a class mean is drawn.
    method, group
        Of a run: by default the recommended method (else the first), and the target's class.
    threshold
        Hide |values| below this, in units of the map.
    percentile
        Hide |values| below this percentile (0 to 100) of the non-zero ones.
    vmax
        End of the colour scale, in units of the map.
    radiological
        Show the right side of the brain on the left of the picture.
    background
        Under the map; by default that of the run, or the MNI template in its space.

    Raises
    ------
    InputError
        If the run has no such method or group, or options contradict each other.
    """
    options = MapOptions(threshold, percentile, vmax, radiological)
    return mosaic_figure(_titled(source, method, group, background), options)


def glass_brain(
    source: Source,
    *,
    method: str | None = None,
    group: str | None = None,
    threshold: float | None = None,
    percentile: float | None = None,
    vmax: float | None = None,
    radiological: bool = False,
) -> Figure:
    """Return a map in the glass brain; template spaces only. Parameters as in `mosaic`."""
    options = MapOptions(threshold, percentile, vmax, radiological)
    return glass_figure(_titled(source, method, group, None), options)


def surface(
    source: Source,
    *,
    method: str | None = None,
    group: str | None = None,
    threshold: float | None = None,
    percentile: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """Return a map on the inflated cortex of fsaverage5; template spaces only.

    Patches are projected as they are: the cortex makes nothing finer. Parameters as in `mosaic`.
    """
    options = MapOptions(threshold, percentile, vmax)
    return surface_figure(_titled(source, method, group, None), options)


def time_course(
    source: RunResult | str | Path,
    *,
    run: int = 0,
    method: str | None = None,
    region: str | None = None,
) -> Figure:
    """Return probabilities and relevance over a run, with the design underneath.

    Parameters
    ----------
    source
        A run or its folder.
    run
        Which of its runs, from 0.
    method
        Whose relevance; the recommended method, else the first without a failed check, unless
        given.
    region
        Name of a region of the atlas that ``g3dvit regions`` added to the run: its mean relevance.
        By default the patch where the target's class mean is highest.

    Raises
    ------
    InputError
        If there is no such run, method or region.
    """
    result = _run(source)
    with_volumes = [maps for maps in result.maps if maps.volumes]
    course = None
    if with_volumes and 0 <= run < len(result.inputs):
        first = course_maps(result) if method is None else None
        maps = first or _method(replace(result, maps=tuple(with_volumes)), method)
        course = peak_course(result, maps, run=run)
        if region is not None:
            course = _region_course(result, maps, run, region)
    elif region is not None or method is not None:
        raise InputError("the run has no maps of every volume, so there is no relevance over time")
    return time_course_figure(result, run=run, relevance=course)


def _region_course(result: RunResult, maps: MapSet, run: int, region: str) -> Course:
    atlas = result.parcellation
    if atlas is None:
        raise InputError("the run has no atlas; add one with `g3dvit regions FOLDER --atlas NAME`")
    maps = maps.content
    series = maps.volumes[run]
    weights = region_weights(atlas, series.grid)
    if region not in weights.names:
        near = [name for name in weights.names if region.lower() in name.lower()][:8]
        known = ", ".join(near or weights.names[:8])
        raise InputError(f"the atlas {atlas.name} has no region {region!r}; it has {known} ...")
    row = weights.names.index(region)
    inside = weights.within(default_mask(weights))
    values = np.asarray(series.data, dtype=np.float64).reshape(-1, series.n_volumes).T
    small = weights.volumes_mm3[row] < np.prod(series.resolution_mm) * (1 - 1e-9)
    words = f"{maps.label}, mean over {region} ({atlas.name}), " + (
        "which is smaller than a patch of " if small else "from patches of "
    )
    title = words + millimetres(series.resolution_mm)
    return Course(region_means(inside, values)[:, row], title, maps.units, stamp_of(maps.summary))


def confusion_matrix(source: RunResult | str | Path) -> Figure:
    """Return labels against predictions: counts, shares, balanced accuracy."""
    return confusion_figure(_run(source))


def region_bars(
    table: pd.DataFrame | str | Path,
    *,
    units: str = "",
    most: int = 20,
    small: int = 5,
    title: str = "",
) -> Figure:
    """Return ranked regions as bars, with share and density; those below a patch are flagged.

    Parameters
    ----------
    table
        From `g3dvit.regions.region_table`, or the TSV that ``g3dvit regions`` wrote.
    units
        Of the mean, for the axis.
    most
        Ranked regions to draw.
    small
        Regions smaller than a patch to draw below them, hatched.
    title
        Above it.
    """
    if not isinstance(table, pd.DataFrame):
        path = table
        try:
            table = pd.read_csv(path, sep="\t", na_values=["n/a", ""], keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no table of regions that can be read: {error}") from error
    return region_bars_figure(table, units=units, most=most, small=small, title=title)


def method_comparison(source: RunResult | str | Path, *, group: str | None = None) -> Figure:
    """Return the same class mean by every method, with the same cuts: of the target's class.

    Another with `group`.
    """
    result = _run(source)
    keys = [key for key in result.groups if key.which != "error"]
    named = [key for key in keys if group is None or key.group == group]
    if group is None:
        named.sort(key=lambda key: key.group != result.target)
    if not named:
        raise InputError(
            f"the run has no mean of {group!r}; it has {', '.join(k.group for k in keys) or 'none'}"
        )
    return comparison_figure(result, group=result.groups.index(named[0]))


def _run(source: RunResult | str | Path) -> RunResult:
    if isinstance(source, RunResult):
        return source
    if isinstance(source, RelevanceMap):
        raise InputError("a map has no predictions; name the run, or the folder it was written to")
    if not Path(source).is_dir():
        raise InputError(f"{source} is no folder of a run; name what `g3dvit explain -o` wrote")
    return load_run(source)


def _titled(
    source: Source, method: str | None, group: str | None, background: Background | None
) -> Titled:
    """Return the map that is asked for, with its words."""
    if isinstance(source, RelevanceMap) or (
        isinstance(source, str | Path) and not Path(source).is_dir()
    ):
        if method is not None or group is not None:
            raise InputError("a method and a group choose from a run; this is a single map")
        name = "" if isinstance(source, RelevanceMap) else stem(Path(source))
        one = source if isinstance(source, RelevanceMap) else RelevanceMap.load(Path(source))
        return _of_map(one, name, background)
    result = _run(source)
    maps = _method(result, method)
    mean = _group(result, maps, group)
    return Titled.of_mean(result, maps, mean, background)


def _of_map(one: RelevanceMap, name: str, background: Background | None) -> Titled:
    told = one.metadata
    space = str(told["space"]) if told.get("space") else None
    words = map_words(told)
    template = mni_template() if has_template_space(space) else plain_background(one.grid)
    under = background or template
    title = ", ".join(words) or name or "relevance"
    return Titled(one, under, title, name or f"{one.units or 'no unit'}", space, stamp_in(told))


def _method(result: RunResult, method: str | None) -> MapSet:
    found: Sequence[MapSet] = [m for m in result.maps if m.class_means]
    if method is not None:
        found = [m for m in found if method in (m.method, m.label, m.file_label)]
    if not found:
        known = ", ".join(dict.fromkeys(m.method for m in result.maps))
        raise InputError(f"the run has no class means of {method!r}; it has {known}")
    return next((m for m in found if m.recommended), found[0])


def _group(result: RunResult, maps: MapSet, group: str | None) -> ClassMean:
    means = [m for m in maps.class_means if m.key.which != "error"] or list(maps.class_means)
    if group is None:
        return next((m for m in means if m.key.group == result.target), means[0])
    for mean in means:
        if mean.key.group == group:
            return mean
    names = ", ".join(dict.fromkeys(m.key.group for m in means))
    raise InputError(f"{maps.label} has no mean of {group!r}; it has {names}")
