"""Regions of a whole run, or of maps from files: from paths to tables.

For the folder of a run every class mean is described, with intervals over its units: subjects, with
one subject runs, with one run blocks. For maps from files each is a subject. A single map is
described; nothing is concluded about others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.nifti import nifti_stem
from g3dvit.plain import unique_names
from g3dvit.regions.described import (
    ClusterOptions,
    stamped,
    table_by_subject,
    table_of_clusters,
    table_of_course,
    table_of_regions,
)
from g3dvit.regions.families import Merged, merge_small
from g3dvit.regions.sources import check_alike, load_map, mean_over_time, stamp_of_maps
from g3dvit.regions.spaces import check_space, space_of
from g3dvit.regions.tables import (
    RegionOptions,
    default_mask,
    tables_by_map,
)
from g3dvit.regions.units import (
    CONTENT_ALONE,
    SUBJECTS_ONCE,
    WITH_POSITION,
    Units,
    note_of,
    units_of,
)
from g3dvit.regions.weights import RegionWeights, region_weights
from g3dvit.report.words import map_words, stamp_of
from g3dvit.run_result import ClassMean, MapSet, RunResult
from g3dvit.shown import Parcellation, ResultTable

Progress = Callable[[int, int, str], None]


_JUDGED, _CUT = RegionOptions(), ClusterOptions()


@dataclass(frozen=True, slots=True, eq=False)
class RegionReport:
    """Tables of regions.

    Parameters
    ----------
    tables
        Regions and clusters.
    courses
        Mean of every region in every volume; long, and so not for a page.
    atlas
        The regions.
    units
        Of the values; empty where maps differ.
    """

    tables: tuple[ResultTable, ...]
    courses: tuple[ResultTable, ...]
    atlas: Parcellation = field(repr=False)
    units: str = ""


def regions_of_maps(
    maps: Sequence[str | Path],
    atlas: Parcellation,
    *,
    mask: tuple[NDArray[np.bool_], ImageGrid] | None = None,
    options: RegionOptions = _JUDGED,
    clusters: ClusterOptions = _CUT,
    progress: Progress | None = None,
) -> RegionReport:
    """Return tables of one map, or of one map per subject.

    Parameters
    ----------
    maps
        Files that g3dvit wrote, with the JSON beside them. A 4D map counts as its mean, and gets a
        time course; all its volumes explain one target.
    atlas
        In the space of the maps.
    mask : (i, j, k) and its grid
        Voxels that count; looked up by place.
    options, clusters
        How regions are judged, and clusters cut out.
    progress
        Called with what is done, of how much, and what is going on.

    Raises
    ------
    InputError
        If the maps are of different methods or targets, one is given twice, or its JSON is absent.
    SpaceError
        If a space does not fit.
    """
    if mask is not None and not options.mask_name:
        options = replace(options, mask_name="given")
    if not maps:
        raise InputError("a table of regions takes at least one map")
    if len({Path(path).resolve() for path in maps}) < len(maps):
        raise InputError("a map is given twice; every map counts as one subject")
    loaded = [load_map(Path(path)) for path in maps]
    check_alike(loaded, [Path(path).name for path in maps])
    spaces = dict.fromkeys(check_space(space_of(one.metadata), atlas) for one in loaded)
    flat = [mean_over_time(one) for one in loaded]
    merged = _merged(atlas, flat[0], options)
    weights = region_weights(atlas if merged is None else merged.atlas, flat[0].grid)
    inside = _mask_on(mask, weights)
    if progress is not None:
        progress(0, 1, "surrogates")
    about = ", ".join(map_words(flat[0].metadata))
    title = Path(maps[0]).name if len(maps) == 1 else f"{len(maps)} subjects"
    units = flat if len(flat) > 1 else []
    names = unique_names([nifti_stem(Path(path)) for path in maps], kept="_.-")
    frame, each = tables_by_map(
        flat, weights, mask=inside, units=units, names=names, options=options
    )
    note = note_of(frame, atlas, flat[0], options, len(flat), Units("subjects", tuple(units)))
    whole = WITH_POSITION if "content" in loaded[0].companions else ""
    note = " ".join(filter(None, (whole, note, *spaces)))
    mean = replace(flat[0], data=np.mean([m.data for m in flat], axis=0), companions={})
    tables = [table_of_regions("regions", f"{title}: {about}", frame, note, merged)]
    tables.append(table_of_clusters("clusters", title, mean, weights, inside, clusters))
    if len(flat) > 1:
        tables.append(table_by_subject("regions-subjects", f"{title}: {about}", each))
    courses = [
        table_of_course(f"timecourse-{n + 1}", one, weights, inside, None)
        for n, one in enumerate(loaded)
        if one.n_volumes > 1
    ]
    if progress is not None:
        progress(1, 1, "done")
    stamp = stamp_of_maps(flat)
    told = tuple(stamped(table, stamp) for table in (*tables, *courses))
    return RegionReport(told[: len(tables)], told[len(tables) :], atlas, flat[0].units)


def regions_of_run(
    result: RunResult,
    atlas: Parcellation,
    *,
    methods: Sequence[str] = (),
    mask: tuple[NDArray[np.bool_], ImageGrid] | None = None,
    options: RegionOptions = _JUDGED,
    clusters: ClusterOptions = _CUT,
    progress: Progress | None = None,
) -> RegionReport:
    """Return tables of the class means of a run; of frozen gates the content, as its page shows.

    Parameters
    ----------
    result
        From `g3dvit.saved_runs.load_run`.
    atlas
        In the space of the run.
    methods
        Names; by default frozen gates and what the run recommends.
    mask, options, clusters, progress
        As in `regions_of_maps`.

    Raises
    ------
    InputError
        If the run has no maps of a method.
    SpaceError
        If its space does not fit.
    """
    if mask is not None and not options.mask_name:
        options = replace(options, mask_name="given")
    space = check_space(result.space, atlas)
    chosen = _chosen(result, methods)
    means = _means(chosen)
    weights: RegionWeights | None = None
    merged = _merged(atlas, means[0][1].patch, options) if means else None
    places = atlas if merged is None else merged.atlas
    tables: list[ResultTable] = []
    courses: list[ResultTable] = []
    names = _names(means)
    for number, (maps, mean) in enumerate(means):
        if progress is not None:
            progress(number, len(means), f"{maps.label}, {mean.key.group}")
        if weights is None or not weights.grid.matches(mean.patch.grid):
            weights = region_weights(places, mean.patch.grid)
        inside = _mask_on(mask, weights)
        units = units_of(result, maps, mean)
        # Of several subjects each counts once, whatever their numbers of volumes.
        several = units.kind == "subjects" and len(units.maps) > 1
        subjects = units.maps if several else (mean.patch,)
        frame, each = tables_by_map(
            subjects,
            weights,
            mask=inside,
            units=units.maps,
            counts=() if several else units.counts,
            names=units.names if several else (),
            options=options,
        )
        target = mean.target or result.target
        title = f"{maps.label}, {mean.title}: evidence for “{target}”"
        note = note_of(frame, atlas, mean.patch, options, len(subjects), units)
        alone = CONTENT_ALONE if mean.patch.metadata.get("companion") == "content" else ""
        pooled = SUBJECTS_ONCE if several else ""
        note = " ".join(filter(None, (alone, note, pooled, space)))
        if maps.display_only:
            note = f"This map is made to be looked at; take statistics from frozen gates. {note}"
            title = f"{title} (for display)"
        name = names[number]
        of_mean = [
            table_of_regions(f"regions-{name}", title, frame, note, merged),
            table_of_clusters(f"clusters-{name}", title, mean.patch, weights, inside, clusters),
        ]
        if several:
            of_mean.append(table_by_subject(f"regions-subjects-{name}", title, each))
        stamp = stamp_of([*mean.checks, *result.checks])
        first = mean.key.group == result.target
        tables.extend(
            replace(stamped(table, stamp), order=place)
            for place, table in enumerate(of_mean, 1 if first else 10 * (number + 1))
        )
    run_names = unique_names([run.name for run in result.inputs], kept="_-")
    for maps in chosen:
        stamp = stamp_of([*maps.summary, *result.checks])
        for run, label, series in zip(
            result.inputs, run_names, maps.volumes, strict=bool(maps.volumes)
        ):
            if weights is None or not weights.grid.matches(series.grid):
                weights = region_weights(places, series.grid)
            rows = result.predictions
            rows = rows[rows["run"] == run.name] if "run" in rows else rows
            name = f"timecourse-{maps.file_label}-{label}"
            course = table_of_course(name, series, weights, _mask_on(mask, weights), rows)
            courses.append(stamped(course, stamp))
    if progress is not None:
        progress(len(means), len(means), "done")
    units_told = {maps.units for maps, _ in means}
    units_of_all = units_told.pop() if len(units_told) == 1 else ""
    return RegionReport(tuple(tables), tuple(courses), atlas, units_of_all)


def _merged(atlas: Parcellation, one: RelevanceMap, options: RegionOptions) -> Merged | None:
    return merge_small(atlas, float(np.prod(one.resolution_mm))) if options.merge_small else None


def table_names(result: RunResult, *, methods: Sequence[str] = ()) -> list[str]:
    """Return what the tables of `regions_of_run` will be called, before any work."""
    return [f"regions-{name}" for name in _names(_means(_chosen(result, methods)))]


def _means(chosen: Sequence[MapSet]) -> list[tuple[MapSet, ClassMean]]:
    return [(s, m) for s in chosen for m in s.class_means if m.key.which != "error"]


def _names(means: Sequence[tuple[MapSet, ClassMean]]) -> list[str]:
    keys = list(dict.fromkeys(mean.key for _, mean in means))
    label_of = dict(zip(keys, unique_names([key.group for key in keys]), strict=True))
    return [f"{maps.file_label}-{label_of[mean.key]}" for maps, mean in means]


def _chosen(result: RunResult, methods: Sequence[str]) -> list[MapSet]:
    known = [maps.method for maps in result.maps]
    for name in methods:
        if name not in known:
            raise InputError(
                f"the run has no maps of {name!r}; it has {', '.join(dict.fromkeys(known))}"
            )
    if methods:
        found = [maps for maps in result.maps if maps.method in methods]
    else:
        found = [m for m in result.maps if m.recommended or m.method == "frozen_gate"]
    return [maps.content for maps in found or result.maps[:1]]


def _mask_on(
    mask: tuple[NDArray[np.bool_], ImageGrid] | None, weights: RegionWeights
) -> NDArray[np.bool_]:
    """Return which voxels of the map count."""
    if mask is None:
        return default_mask(weights)
    values, grid = mask
    i, j, k = grid.shape
    region = Parcellation(
        "mask", values.astype(np.int32), ImageGrid((i, j, k), grid.affine), {1: "in"}
    )
    share = region_weights(region, weights.grid).labelled_share
    return np.asarray(share.reshape(weights.grid.shape) >= 0.1)
