"""Tables of regions as they are shown: titles, notes and what the columns mean.

Frames in, `ResultTable` out; a failed check of the map stands in the title and the note.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import InputError
from g3dvit.maps import RelevanceMap
from g3dvit.regions.clusters import CLUSTER_COLUMNS, cluster_table, patches_of, threshold_of
from g3dvit.regions.families import MERGED_COLUMNS, Merged
from g3dvit.regions.tables import BY_MAP_COLUMNS, COLUMNS, region_means
from g3dvit.regions.weights import RegionWeights
from g3dvit.shown import ResultTable

_COURSE_COLUMNS = {
    "run": "Run",
    "time_point": "Volume of the run, from 0",
    "onset_s": "When it began, in s from the first volume of the run",
    "target": "What the map of this volume explains; evidence for it is positive",
}


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How clusters are cut out.

    Parameters
    ----------
    threshold
        Absolute, in units of the map; None takes the percentile.
    percentile
        Of |values| inside the mask, 0 to 100.

    Raises
    ------
    InputError
        If one of the two is outside its range.
    """

    threshold: float | None = None
    percentile: float = 95.0

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < np.inf:
            raise InputError(f"a threshold of clusters is above 0, was given {self.threshold:g}")
        if not 0 <= self.percentile <= 100:
            raise InputError(f"a percentile is 0 to 100, was given {self.percentile:g}")


def table_of_regions(
    name: str, title: str, frame: pd.DataFrame, note: str, merged: Merged | None
) -> ResultTable:
    """Return a table of regions, with the parts of those that were merged."""
    columns = COLUMNS
    if merged is not None:
        note = f"{merged.words()} {note}"
        frame = merged.with_parts(frame)
        columns = {**COLUMNS, **MERGED_COLUMNS}
    return ResultTable(name, title, "regions", frame, note, {c: columns[c] for c in frame.columns})


def table_by_subject(name: str, title: str, frame: pd.DataFrame) -> ResultTable:
    """Return a table of every subject's own regions."""
    note = (
        "Each subject's own map; the table of regions has their mean and, as z, the sum of these z "
        "over the root of the number of subjects (Stouffer)."
    )
    return ResultTable(name, f"By subject, {title}", "regions", frame, note, BY_MAP_COLUMNS)


def stamped(table: ResultTable, stamp: str | None) -> ResultTable:
    """Return the table with a failed check in its title, which figures repeat, and its note."""
    if stamp is None:
        return table
    end = "" if stamp.endswith((".", "!")) else "."
    return replace(
        table, title=f"CHECK FAILED, {table.title}", note=f"{stamp}{end} {table.note}".rstrip()
    )


def table_of_clusters(
    name: str,
    title: str,
    mean: RelevanceMap,
    weights: RegionWeights,
    inside: NDArray[np.bool_],
    options: ClusterOptions,
) -> ResultTable:
    """Return a table of the clusters of a map, with the rule that cut them out."""
    threshold = options.threshold
    if threshold is None:
        threshold = threshold_of(mean, inside, percentile=options.percentile)
        rule = f"the {options.percentile:g}th percentile of |values| inside the mask"
    else:
        rule = "as given"
    if threshold > 0:
        frame = cluster_table(mean, threshold=threshold, weights=weights, mask=inside)
    else:
        frame = pd.DataFrame(columns=list(CLUSTER_COLUMNS))
    edges = " x ".join(f"{v:g}" for v in mean.resolution_mm)
    note = (
        f"Clusters with |value| of at least {threshold:.3g} {mean.units} ({rule}), which is for "
        f"display and no test. Places are centres of patches: they are known to half of {edges} mm."
    )
    if patches_of(mean) is None:
        note += (
            " Nothing tells where the patches of this map lie: they are taken to begin at its first"
            " voxel, and places may be off by half a patch more; the map on the patch grid"
            " (res-patch) tells."
        )
    return ResultTable(name, f"Clusters of {title}", "regions", frame, note, CLUSTER_COLUMNS)


def table_of_course(
    name: str,
    series: RelevanceMap,
    weights: RegionWeights,
    inside: NDArray[np.bool_],
    rows: pd.DataFrame | None,
) -> ResultTable:
    """Return the mean of every region in every volume."""
    values = np.asarray(series.data, dtype=np.float64).reshape(-1, series.n_volumes).T
    means = region_means(weights.within(inside), values)
    frame = pd.DataFrame(
        means, columns=[f"{n}: {w}" for n, w in zip(weights.index, weights.names, strict=True)]
    )
    if rows is not None and len(rows) == len(frame):
        kept = [c for c in _COURSE_COLUMNS if c in rows]
        frame = pd.concat([rows[kept].reset_index(drop=True), frame], axis=1)
    else:
        frame.insert(0, "time_point", np.arange(len(frame)))
    columns = {c: _COURSE_COLUMNS.get(c, f"Mean relevance in region {c}") for c in frame.columns}
    note = "A time point follows its stimulus by seconds; neighbours in time are not independent."
    return ResultTable(name, "Time course of regions", "regions", frame, note, columns)
