"""The table of regions: what a map holds in each, and whether a random map as smooth would too.

`region_table` describes one map; several maps of one group (subjects) are averaged, and their
surrogates are combined. All values keep the sign and the unit of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import GridError, InputError
from g3dvit.maps import RelevanceMap
from g3dvit.regions.chance import p_values, with_surrogates
from g3dvit.regions.weights import RegionWeights

#: What the columns of `region_table` mean.
COLUMNS = {
    "index": "Number of the region in the atlas",
    "name": "Name of the region",
    "rank": "Place by |mean| among regions of at least one patch; n/a for smaller ones",
    "rank_low": "Lower end of the 95 % bootstrap interval of the rank over units",
    "rank_high": "Upper end of the 95 % bootstrap interval of the rank over units",
    "mean": "Mean relevance over the region's volume, in units of the map",
    "mean_low": "Lower end of the 95 % bootstrap interval of the mean over units",
    "mean_high": "Upper end of the 95 % bootstrap interval of the mean over units",
    "peak": "Value of largest magnitude in the region",
    "signed_mass": "Sum of the map's values in the region, each patch's shared out by volume",
    "share": "Share of the map's total |relevance| inside the mask, 0 to 1",
    "density": "Share over the region's share of the mask's volume; 1 is what size alone gives",
    "covered": "Fraction of the region that lies inside map and mask, 0 to 1",
    "volume_mm3": "Volume of the region in the atlas",
    "smaller_than_patch": "yes where the region's volume is below that of one patch",
    "z": "Mean against that of random maps as smooth, in their standard deviations: above 0 more "
    "evidence for the target than chance puts there, below 0 less; of several subjects combined",
    "p": "Two-sided, against random maps as smooth as this one; n/a where there are none",
    "p_corrected": "p corrected over all ranked regions (largest |z| over regions)",
    "resolution_mm": "Edges of a patch: the map tells nothing finer",
}
#: What the columns of the second table of `tables_by_map` mean.
BY_MAP_COLUMNS = {
    "map": "Subject, or the file of its map",
    "index": "Number of the region in the atlas",
    "name": "Name of the region",
    "mean": "Mean of this map over the region's volume, in units of the map",
    "z": "That against random maps as smooth as this one, in their standard deviations",
    "p": "Two-sided, of this map alone, not corrected",
}

#: Regions of which less than this lies in the map are described, not ranked.
LEAST_COVERED = 0.5
_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class RegionOptions:
    """How regions are judged.

    Parameters
    ----------
    n_surrogates
        Random maps for p-values; 0 for none, else at least 2.
    seed
        Of all randomness.
    merge_small
        Of `regions_of_maps` and `regions_of_run`: merge regions smaller than a patch with those of
        their family, where that makes one of a patch (`g3dvit.regions.merge_small`).
    mask_name
        Of the mask, where one is given; told with the table.
    """

    n_surrogates: int = 1000
    seed: int = 0
    merge_small: bool = False
    mask_name: str = ""

    def __post_init__(self) -> None:
        if self.n_surrogates < 0 or self.n_surrogates == 1:
            raise InputError(
                f"`n_surrogates` is 0 (no p) or at least 2, was given {self.n_surrogates}"
            )


def region_table(
    maps: Sequence[RelevanceMap],
    weights: RegionWeights,
    *,
    mask: NDArray[np.bool_] | None = None,
    units: Sequence[RelevanceMap] = (),
    counts: Sequence[int] = (),
    options: RegionOptions = RegionOptions(),
) -> pd.DataFrame:
    """Return one row per region, ranked regions first.

    Parameters
    ----------
    maps
        One 3D map, or one per subject; all on the grid of `weights`. Of several, values are of
        their mean, and p-values combine the subjects' (Stouffer's sum of z).
    weights
        From `region_weights`.
    mask : (i, j, k)
        Voxels that count; by default those of which at least a tenth lies in some region.
    units
        Maps of blocks, runs or subjects, whose bootstrap gives the intervals; fewer than 3 give
        none.
    counts
        Volumes of each unit, where a map is the mean over volumes and not over units.
    options
        How regions are judged.

    Returns
    -------
    DataFrame
        `COLUMNS`. Regions smaller than a patch (`RelevanceMap.resolution_mm`), or mostly outside
        the map, are described but not ranked: the map cannot tell them from their neighbours.
        Of a map that has one value everywhere none is.

    Raises
    ------
    GridError
        If a map has another grid.
    InputError
        If there is no map, or nothing lies inside the mask.
    """
    return tables_by_map(maps, weights, mask=mask, units=units, counts=counts, options=options)[0]


def tables_by_map(
    maps: Sequence[RelevanceMap],
    weights: RegionWeights,
    *,
    mask: NDArray[np.bool_] | None = None,
    units: Sequence[RelevanceMap] = (),
    counts: Sequence[int] = (),
    names: Sequence[str] = (),
    options: RegionOptions = RegionOptions(),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `region_table`, and each map's own numbers: `BY_MAP_COLUMNS`, a row a map and region.

    Parameters
    ----------
    maps, weights, mask, units, counts, options
        As in `region_table`, which raises the same.
    names
        Of the maps; their places, from 1, unless given.
    """
    if not maps:
        raise InputError("a table of regions takes at least one map")
    for one in (*maps, *units):
        if one.data.ndim != 3 or not one.grid.matches(weights.grid):
            raise GridError("tables of regions take 3D maps, all on the grid of the weights")
    inside = default_mask(weights) if mask is None else np.asarray(mask, dtype=bool)
    if inside.shape != weights.grid.shape or not inside.any():
        raise InputError("the mask holds no voxel of the map, or has another shape")
    # A copy in the mask's voxels: what lies outside takes no part.
    within = weights.within(inside)
    values = np.stack([np.asarray(m.data, dtype=np.float64).ravel() for m in maps])
    mean_map = values.mean(axis=0)
    held = np.asarray(within.inside_mm3.sum(axis=1)).ravel()
    covered = np.divide(held, weights.volumes_mm3, out=np.zeros(len(held)), where=held > 0)
    patch_mm3 = float(np.prod(maps[0].resolution_mm))
    small = weights.volumes_mm3 < patch_mm3 * (1 - 1e-9)
    ranked = ~small & (covered >= LEAST_COVERED)
    if np.ptp(mean_map[inside.ravel()]) == 0:
        ranked[:] = False  # there is no order among regions that are all the same
    frame = _described(within, mean_map, inside, held)
    frame["covered"] = np.minimum(covered, 1)
    frame["volume_mm3"] = weights.volumes_mm3
    frame["smaller_than_patch"] = np.where(small, "yes", "no")
    means = frame["mean"].to_numpy()
    frame["rank"] = _ranks(means, ranked)
    for name, numbers in _intervals(within, units, counts, ranked, options.seed).items():
        frame[name] = numbers
    every = with_surrogates(
        values,
        within,
        inside,
        ranked,
        n_surrogates=options.n_surrogates,
        seed=options.seed,
    )
    frame["z"], frame["p"], frame["p_corrected"] = p_values(every, ranked)
    frame["resolution_mm"] = " x ".join(f"{v:.4g}" for v in maps[0].resolution_mm)
    order = np.lexsort((-np.abs(np.nan_to_num(means)), np.nan_to_num(frame["rank"], nan=np.inf)))
    table = frame[list(COLUMNS)].iloc[order].reset_index(drop=True)
    own = region_means(within, values)
    parts = []
    for number, of_map in enumerate(own):
        part = frame[["index", "name"]].assign(mean=of_map)
        part["z"], part["p"], _ = p_values(every[number : number + 1], ranked)
        part.insert(0, "map", names[number] if names else str(number + 1))
        parts.append(part.iloc[order])
    return table, pd.concat(parts, ignore_index=True)[list(BY_MAP_COLUMNS)]


def default_mask(weights: RegionWeights) -> NDArray[np.bool_]:
    """Return the voxels of which at least a tenth lies in some region, (i, j, k)."""
    return np.asarray(weights.labelled_share.reshape(weights.grid.shape) >= 0.1)


def region_means(weights: RegionWeights, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over regions by volume; NaN for regions that the map does not cover.

    Parameters
    ----------
    weights
        Volumes of regions in voxels.
    values : (voxels,) or (maps, voxels)
        Maps, raveled.
    """
    held = np.asarray(weights.inside_mm3.sum(axis=1)).ravel()
    sums = (weights.inside_mm3 @ np.atleast_2d(values).T).T
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(held > 0, sums / held, np.nan)
    return means[0] if values.ndim == 1 else means


def _described(
    weights: RegionWeights,
    values: NDArray[np.float64],
    inside: NDArray[np.bool_],
    held: NDArray[np.float64],
) -> pd.DataFrame:
    """Return what needs no randomness."""
    voxel = weights.grid.voxel_volume_mm3
    total = float(np.abs(values[inside.ravel()]).sum())
    mass = np.asarray(weights.inside_mm3 @ np.abs(values)) / voxel
    share = mass / total if total > 0 else np.full(len(held), np.nan)
    size = held / (voxel * inside.sum())
    peaks = np.full(len(held), np.nan)
    for row in range(len(held)):
        voxels = weights.inside_mm3.indices[
            weights.inside_mm3.indptr[row] : weights.inside_mm3.indptr[row + 1]
        ]
        own = values[voxels][np.asarray(weights.inside_mm3[row, voxels].todense()).ravel() > 0]
        if len(own):
            peaks[row] = own[np.abs(own).argmax()]
    with np.errstate(invalid="ignore", divide="ignore"):
        density = np.where(size > 0, share / size, np.nan)
    return pd.DataFrame(
        {
            "index": weights.index,
            "name": weights.names,
            "mean": region_means(weights, values),
            "peak": peaks,
            "signed_mass": np.asarray(weights.inside_mm3 @ values) / voxel,
            "share": share,
            "density": density,
        }
    )


def _ranks(means: NDArray[np.float64], ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 for the largest magnitude; NaN where a region is not ranked."""
    found = np.full(means.shape, np.nan)
    order = np.argsort(-np.abs(means[ranked]), kind="stable")
    places = np.empty(len(order))
    places[order] = np.arange(1, len(order) + 1)
    found[ranked] = places
    return found


def _intervals(
    weights: RegionWeights,
    units: Sequence[RelevanceMap],
    counts: Sequence[int],
    ranked: NDArray[np.bool_],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Return bootstrap intervals of mean and rank over units."""
    names = ("mean_low", "mean_high", "rank_low", "rank_high")
    if len(units) < 3:
        return {name: np.full(len(ranked), np.nan) for name in names}
    values = np.stack([np.asarray(u.data, dtype=np.float64).ravel() for u in units])
    by_unit = region_means(weights, values)
    rng = np.random.default_rng([seed, 3])
    which = rng.integers(len(units), size=(_DRAWS, len(units)))
    weight = np.asarray(counts if len(counts) else np.ones(len(units)), dtype=np.float64)[which]
    # As the mean itself: over volumes where a unit's number of them is given.
    drawn = (by_unit[which] * weight[..., None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    ranks = np.stack([_ranks(one, ranked) for one in drawn])
    ends = [np.nanquantile(drawn, q, axis=0, method="linear") for q in (0.025, 0.975)]
    # Ranks are whole places: the interval's ends are places that occurred.
    places = [
        np.quantile(ranks, 0.025, axis=0, method="lower"),
        np.quantile(ranks, 0.975, axis=0, method="higher"),
    ]
    return dict(zip(names, (*ends, *places), strict=True))
