"""Maps against outside evidence: from files to numbers, and tables of where they differ.

The coarser of the two decides the resolution, and nothing is interpolated up; `places` says where
maps are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.compare.agreement import (
    SHARES,
    Agreement,
    Signs,
    agreement,
    highest,
    pearson,
    spearman,
    with_signs,
)
from g3dvit.compare.places import Ground, Mask, Reference, common_ground, open_reference
from g3dvit.errors import GridError, InputError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.regions import RegionWeights, region_weights
from g3dvit.regions.spaces import space_of
from g3dvit.report.words import stamp_in
from g3dvit.shown import Parcellation

#: A mirrored reference that agrees this well, and by this much better than as it is, says that
#: left and right may be swapped.
_ALIKE, _SUSPICIOUS = 0.3, 0.2
_FEWEST = 20
_MOST_PLACES = 10
#: What the columns of `disagreements` mean.
PLACE_COLUMNS = {
    "reference": "With what the map is compared",
    "where": "map only: among the highest of the map, not of the reference; and the other way",
    "x_mm": "World coordinate (RAS+) of the patch's centre",
    "y_mm": "World coordinate (RAS+) of the patch's centre",
    "z_mm": "World coordinate (RAS+) of the patch's centre",
    "map": "Value of the map, in its units",
    "reference_value": "Mean of the reference over the patch, in its units",
    "map_rank": "Place of the map's value among all compared patches; 1 is the highest",
    "reference_rank": "Place of the reference's value",
    "region": "Region that holds most of the patch",
}


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How maps are compared.

    Parameters
    ----------
    signs
        ``"signed"``, ``"positive"`` or ``"absolute"``, of both maps.
    shares
        Of places that count as high.
    n_surrogates, seed
        Random maps for p-values.
    mask_name
        Of the mask, where one is given; told with the numbers.
    """

    signs: Signs = "signed"
    shares: tuple[float, ...] = SHARES
    n_surrogates: int = 1000
    seed: int = 0
    mask_name: str = ""

    def __post_init__(self) -> None:
        if not self.shares or any(not 0 < share < 1 for share in self.shares):
            raise InputError(
                f"shares of highest patches are above 0 and below 1 (--top: 0 to 100 percent), "
                f"were given {tuple(self.shares)}"
            )
        if self.n_surrogates < 0:
            raise InputError(f"`n_surrogates` is at least 0, was given {self.n_surrogates}")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A map and a reference at the same places.

    Parameters
    ----------
    name, reference_name
        For tables.
    relevance
        The map, 3D, on the grid that was compared.
    reference : (i, j, k)
        Mean of the reference over each voxel of that grid; NaN where it has none.
    places : (i, j, k)
        Which voxels were compared.
    found
        The numbers.
    mirrored
        Spearman's correlation with the reference mirrored left to right.
    warnings
        Sentences that a reader must see.
    options
        How it was compared.
    rule
        Where it was compared, in words.
    """

    name: str
    reference_name: str
    relevance: RelevanceMap = field(repr=False)
    reference: NDArray[np.float64] = field(repr=False)
    places: NDArray[np.bool_] = field(repr=False)
    found: Agreement
    mirrored: float
    warnings: tuple[str, ...]
    options: CompareOptions
    rule: str = "where both maps are not 0"

    @property
    def values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map and reference at the compared places, with the signs that were compared."""
        one = np.asarray(self.relevance.data, dtype=np.float64)[self.places]
        return (
            with_signs(one, self.options.signs),
            with_signs(self.reference[self.places], self.options.signs),
        )


def compare_maps(
    relevance: RelevanceMap,
    reference: NDArray[np.float64],
    grid: ImageGrid,
    *,
    names: tuple[str, str] = ("map", "reference"),
    mask: Mask | None = None,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare a map with a reference, patch by patch.

    Parameters
    ----------
    relevance
        A 3D map; of a 4D map the mean over volumes.
    reference : (i, j, k)
        Any map in the same space.
    grid
        Where the reference lies.
    names
        Of map and reference, for tables.
    mask : (i, j, k) and its grid
        Where to compare; by default the template's brain where the map's space is a template's,
        else where both are not 0.
    options
        How.

    Returns
    -------
    Comparison

    Raises
    ------
    GridError
        If the two have no 20 places in common.
    InputError
        If one of them is the same everywhere.
    """
    finite = np.isfinite(reference)
    missing = None if finite.all() else ~finite
    given = Reference(names[1], np.where(finite, reference, 0), grid, missing=missing)
    return compare_reference(relevance, given, name=names[0], mask=mask, options=options)


def compare_reference(
    relevance: RelevanceMap,
    reference: Reference,
    *,
    name: str,
    mask: Mask | None = None,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare a map with an opened reference; as `compare_maps`.

    Spaces that both name and that differ draw a warning.
    """
    options = options or CompareOptions()
    one = relevance
    if one.data.ndim == 4:
        one = replace(one, data=one.data.mean(axis=3), companions={}, t_r=None)
    space = space_of(one.metadata)
    ground = common_ground(one, reference, mask, space)
    places = ground.places
    if places.sum() < _FEWEST:
        raise GridError(
            f"{name} and {reference.name} have {int(places.sum())} places in common, at least "
            f"{_FEWEST} are needed ({ground.rule}); are they in the same space, and fine enough?"
        )
    values = np.asarray(ground.relevance.data, dtype=np.float64)
    mine = with_signs(values[places], options.signs)
    theirs = with_signs(ground.reference[places], options.signs)
    same = [n for n, v in ((name, mine), (reference.name, theirs)) if np.ptp(v) == 0]
    if same:
        part = "" if options.signs == "signed" else f"{options.signs} "
        raise InputError(
            f"the {part}values of {' and '.join(same)} are the same at all {int(places.sum())} "
            f"places that are compared ({ground.rule}): there is nothing to compare. Leave out "
            "what is empty (--method, --signs)"
        )
    found = agreement(
        mine,
        theirs,
        ground.relevance.grid.vox2world(np.argwhere(places)),
        shares=options.shares,
        n_surrogates=options.n_surrogates,
        seed=options.seed,
    )
    mirrored, mirrored_pearson = _mirrored(ground, reference, space, options)
    stamp = stamp_in(relevance.metadata)
    warnings = [*([stamp.removesuffix(".")] if stamp else []), *ground.warnings]
    # Ranks hardly tell a map whose evidence lies in few patches; its values do.
    for what, swapped, as_it_is in (
        ("", mirrored, found.spearman),
        ("Pearson ", mirrored_pearson, found.pearson),
    ):
        if swapped > max(_ALIKE, abs(as_it_is) + _SUSPICIOUS):
            warnings.append(
                f"{reference.name} agrees better when mirrored ({what}{swapped:.2f}, as it is "
                f"{as_it_is:.2f}): left and right may be swapped in one of the two"
            )
            break
    if space and reference.space and space != reference.space:
        warnings.append(
            f"the map is in the space {space!r}, {reference.name} in {reference.space!r}; nothing "
            "is warped from one to the other"
        )
    return Comparison(
        name,
        reference.name,
        ground.relevance,
        ground.reference,
        places,
        found,
        mirrored,
        tuple(warnings),
        options,
        ground.rule.replace("the mask given", f"the mask {options.mask_name or 'given'}"),
    )


def _mirrored(
    ground: Ground, reference: Reference, space: str | None, options: CompareOptions
) -> tuple[float, float]:
    """Return the best correlations with the reference mirrored left to right, of ranks and values.

    A template's midline is x = 0; in another space the middle of what was compared is tried too.
    """
    grid = ground.relevance.grid
    x = grid.vox2world(np.argwhere(ground.places))[:, 0]
    template = (space or "").upper().startswith("MNI")
    planes = {0.0} if template else {0.0, round(float(x.min() + x.max()) / 2, 3)}
    values = np.asarray(ground.relevance.data, dtype=np.float64)
    found: list[tuple[float, float]] = []
    for plane in sorted(planes):
        swapped = reference.on(grid, plane)
        both = ground.places & np.isfinite(swapped)
        one = with_signs(values[both], options.signs)
        other = with_signs(swapped[both], options.signs)
        if both.sum() >= _FEWEST and np.ptp(one) and np.ptp(other):
            found.append((spearman(one, other), pearson(one, other)))
    of_ranks, of_values = zip(*found, strict=True) if found else ((np.nan,), (np.nan,))
    return float(max(of_ranks)), float(max(of_values))


def compare_files(
    relevance: RelevanceMap,
    reference: str | Path,
    *,
    name: str,
    mask: Mask | None = None,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare a map with a file; as `compare_maps`."""
    opened = open_reference(reference)
    return compare_reference(relevance, opened, name=name, mask=mask, options=options)


def disagreements(
    comparison: Comparison, *, atlas: Parcellation | None = None, share: float = 0.1
) -> pd.DataFrame:
    """Return the patches that are high in one of the two only, both ways.

    Parameters
    ----------
    comparison
        What was compared.
    atlas
        Names regions where given.
    share
        Of places that count as high.

    Returns
    -------
    DataFrame
        `PLACE_COLUMNS`; at most 10 patches each way, highest first.

    Raises
    ------
    InputError
        If the share is not above 0 and below 1.
    """
    values, others = comparison.values
    top, other = highest(values, share), highest(others, share)
    ranks = [np.argsort(np.argsort(-v, kind="stable")) + 1 for v in (values, others)]
    at = np.argwhere(comparison.places)
    points = comparison.relevance.grid.vox2world(at)
    weights = None if atlas is None else region_weights(atlas, comparison.relevance.grid)
    raw = np.asarray(comparison.relevance.data, dtype=np.float64)[comparison.places]
    rows = []
    for where, chosen, by in (
        ("map only", top & ~other, values),
        ("reference only", other & ~top, others),
    ):
        order = np.flatnonzero(chosen)
        for n in order[np.argsort(-by[order], kind="stable")][:_MOST_PLACES]:
            place = dict(zip(("x_mm", "y_mm", "z_mm"), np.round(points[n], 1), strict=True))
            rows.append(
                {
                    "reference": comparison.reference_name,
                    "where": where,
                    **place,
                    "map": raw[n],
                    "reference_value": comparison.reference[tuple(at[n])],
                    "map_rank": int(ranks[0][n]),
                    "reference_rank": int(ranks[1][n]),
                    "region": _region(weights, comparison.relevance.grid, at[n]),
                }
            )
    return pd.DataFrame(rows, columns=list(PLACE_COLUMNS))


def _region(weights: RegionWeights | None, grid: ImageGrid, at: NDArray[np.intp]) -> str:
    if weights is None:
        return "n/a"
    voxel = int(np.ravel_multi_index((at[0], at[1], at[2]), grid.shape))
    held = np.asarray(weights.inside_mm3[:, voxel].todense()).ravel()
    return weights.names[int(held.argmax())] if held.any() else "outside the atlas"
