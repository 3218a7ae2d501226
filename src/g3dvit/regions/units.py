"""What is independent in a run's maps, and what a reader of a table of regions must know."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from g3dvit.accuracy import independent_units
from g3dvit.maps import RelevanceMap
from g3dvit.regions.tables import LEAST_COVERED, RegionOptions
from g3dvit.run_result import ClassMean, MapSet, RunResult
from g3dvit.shown import Parcellation

#: Percentile bootstraps of fewer units are visibly too narrow.
FEW_UNITS = 10
CONTENT_ALONE = (
    "Counted is the content, what the volumes contributed, as the page shows it; what a place adds "
    "whatever is shown there (position) is left out."
)
WITH_POSITION = (
    "These values are content and position together; the file that ends in _content holds what the "
    "volumes contributed alone, which the page shows."
)
SUBJECTS_ONCE = (
    "Each subject counts once here; in the class mean that the page shows, and in the clusters, "
    "each volume does, so that values differ a little."
)
_DESCRIPTIVE = (
    "Of a single map: it describes this map, and says nothing about other volumes, runs or people."
)


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What is independent in a class mean.

    Parameters
    ----------
    kind
        ``"subjects"``, ``"runs"``, ``"blocks"``, or ``"units"`` where there are none.
    maps
        Mean map of each.
    names, counts
        Of each: what it is called, and how many volumes it has.
    without
        Why there are none, where it is not that there are few.
    """

    kind: str = "units"
    maps: tuple[RelevanceMap, ...] = ()
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    without: str = ""


def units_of(result: RunResult, maps: MapSet, mean: ClassMean) -> Units:
    """Return the units of a class mean: subjects, else runs, else blocks.

    Only volumes whose own map explains what the class mean explains are taken; none otherwise.
    """
    table = result.predictions.reset_index(drop=True)
    target = mean.target or result.target
    if not maps.volumes or "target" not in table or "run" not in table:
        return Units()
    label = table["label"] if "label" in table else pd.Series([None] * len(table))
    predicted = table["predicted"]
    if mean.key.which == "all":
        mine = (predicted == mean.key.group) & label.isna()
    else:
        mine = (label == mean.key.group) & (predicted == mean.key.group)
    explains = table["target"].astype(str) == target
    if mine.any() and not (mine & explains).any():
        return Units(without=f"maps of its single volumes do not explain “{target}”, as it does")
    mine &= explains
    subject = table["run"].map(_subject)
    if subject.nunique() > 1:
        unit, kind = subject, "subjects"
    elif table["run"].nunique() > 1:
        unit, kind = table["run"], "runs"
    elif "block" in table and table["block"].notna().any():
        unit, kind = pd.Series(independent_units(table)), "blocks"  # rest is in no event
    else:
        return Units()
    values = np.concatenate([v.data.reshape(*v.grid.shape, -1) for v in maps.volumes], axis=3)
    if values.shape[3] != len(table):
        return Units(kind)
    chosen = {str(name): (mine & (unit == name)).to_numpy() for name in unit[mine].unique()}
    return Units(
        kind,
        tuple(replace(mean.patch, data=values[..., own].mean(axis=3)) for own in chosen.values()),
        tuple(f"sub-{name}" if kind == "subjects" else name for name in chosen),
        tuple(int(own.sum()) for own in chosen.values()),
    )


def note_of(
    frame: pd.DataFrame,
    atlas: Parcellation,
    relevance: RelevanceMap,
    options: RegionOptions,
    n_maps: int,
    units: Units,
) -> str:
    """Return what a reader of a table of regions must know."""
    ranked = int(frame["rank"].notna().sum())
    large = (frame["smaller_than_patch"] == "no") & (frame["covered"] >= LEAST_COVERED)
    edges = " x ".join(f"{v:g}" for v in relevance.resolution_mm)
    sentences = [
        f"Atlas {atlas.name}. Values in {relevance.units or 'units of the map'}.",
        f"{ranked} of {len(frame)} regions are ranked; the others are smaller than a patch of "
        f"{edges} mm, or mostly outside the map, which cannot tell them from their neighbours."
        if ranked or not large.any()
        else "The map has the same value in all regions: none is ranked, and it shows no places.",
    ]
    where = f"the mask {options.mask_name}" if options.mask_name else "the regions of the atlas"
    sentences.append(f"Counted are voxels (patches) of which at least a tenth lies in {where}.")
    n_units = len(units.maps)
    if n_units >= 3:
        few = "; of so few they are too narrow" if n_units < FEW_UNITS else ""
        sentences.append(f"Intervals are over {n_units} {units.kind} (bootstrap{few}).")
    else:
        sentences.append(f"No intervals: {units.without or f'fewer than 3 {units.kind}'}.")
    if options.n_surrogates and frame["p"].notna().any():
        which = "each subject's map, combined" if n_maps > 1 else "the map"
        sentences.append(
            f"p compares {which} with {options.n_surrogates} random maps as smooth (Burt et al. "
            "2020): is so much relevance in this region more than smoothness alone would put "
            "there, or less? The sign of z tells which. Corrected over the ranked regions of this "
            "table by the largest |z|, not over classes or methods."
        )
    if n_maps == 1:
        sentences.append(_DESCRIPTIVE)
    else:
        sentences.append(f"About these {n_maps} subjects; not a test about people in general.")
    return " ".join(sentences)


def _subject(run: str) -> str:
    found = re.search(r"(?:^|[_/])sub-([A-Za-z0-9]+)", str(run))
    return found.group(1) if found else ""
