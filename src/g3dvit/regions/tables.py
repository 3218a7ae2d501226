"""The table of regions: what a map holds in each, and whether a random map as smooth would too.

`region_table` describes one map; several maps of one group (subjects) are averaged, and their
surrogates are combined. All values keep the sign and the unit of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from g3dvit.errors import GridError, InputError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.regions.weights import RegionWeights
from g3dvit.surrogates import two_sided_p, variogram_surrogates

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
}

#: Regions of which less than this lies in the map are described, not ranked.
LEAST_COVERED = 0.5
_DRAWS = 2000
#: Places of surrogates; finer maps are averaged over cubes of voxels, far below a patch.
_MOST_BLOCKS = 2000


@dataclass(frozen=True, slots=True)
class RegionOptions:
    """How regions are judged.

    Parameters
    ----------
    n_surrogates
        Random maps for p-values; 0 for none.
    seed
        Of all randomness.
    merge_small
        Of `regions_of_maps` and `regions_of_run`: merge regions smaller than a patch with those of
        their family, where that makes one of a patch (`g3dvit.regions.merge_small`).
    """

    n_surrogates: int = 1000
    seed: int = 0
    merge_small: bool = False

    def __post_init__(self) -> None:
        if self.n_surrogates < 0:
            raise InputError(f"`n_surrogates` is at least 0, was given {self.n_surrogates}")


def region_table(
    maps: Sequence[RelevanceMap],
    weights: RegionWeights,
    *,
    mask: NDArray[np.bool_] | None = None,
    units: Sequence[RelevanceMap] = (),
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
    options
        How regions are judged.

    Returns
    -------
    DataFrame
        `COLUMNS`. Regions smaller than a patch (`RelevanceMap.resolution_mm`), or mostly outside
        the map, are described but not ranked: the map cannot tell them from their neighbours.

    Raises
    ------
    GridError
        If a map has another grid.
    InputError
        If there is no map, or nothing lies inside the mask.
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
    frame = _described(within, mean_map, inside, held)
    frame["covered"] = np.minimum(covered, 1)
    frame["volume_mm3"] = weights.volumes_mm3
    frame["smaller_than_patch"] = np.where(small, "yes", "no")
    means = frame["mean"].to_numpy()
    frame["rank"] = _ranks(means, ranked)
    for name, numbers in _intervals(within, units, ranked, options.seed).items():
        frame[name] = numbers
    frame["z"], frame["p"], frame["p_corrected"] = _p_values(
        values, within, inside, ranked, options
    )
    order = np.lexsort((-np.abs(np.nan_to_num(means)), np.nan_to_num(frame["rank"], nan=np.inf)))
    return frame[list(COLUMNS)].iloc[order].reset_index(drop=True)


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
    drawn = by_unit[rng.integers(len(units), size=(_DRAWS, len(units)))].mean(axis=1)
    ranks = np.stack([_ranks(one, ranked) for one in drawn])
    ends = [np.nanquantile(drawn, q, axis=0, method="linear") for q in (0.025, 0.975)]
    # Ranks are whole places: the interval's ends are places that occurred.
    places = [
        np.quantile(ranks, 0.025, axis=0, method="lower"),
        np.quantile(ranks, 0.975, axis=0, method="higher"),
    ]
    return dict(zip(names, (*ends, *places), strict=True))


def _p_values(
    values: NDArray[np.float64],
    weights: RegionWeights,
    inside: NDArray[np.bool_],
    ranked: NDArray[np.bool_],
    options: RegionOptions,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return z and p of each ranked region against surrogates, p also corrected over regions."""
    z, p, corrected = np.full((3, len(ranked)), np.nan)
    if not options.n_surrogates or not ranked.any():
        return z, p, corrected
    blocks = coarse_blocks(weights.grid, inside)
    if len(blocks.coordinates_mm) < 20 or not np.ptp(values[:, inside.ravel()], axis=1).all():
        return z, p, corrected  # too few places, or a map without any difference
    # Regions are read from blocks: a thousand maps of all voxels would not fit into memory.
    held = (weights.inside_mm3 @ blocks.members)[ranked]
    held = sparse.diags(1 / np.asarray(held.sum(axis=1)).ravel()) @ held
    observed, null = [], []
    for number, one in enumerate(values):
        surrogates = variogram_surrogates(
            blocks.mean_of(one),
            blocks.coordinates_mm,
            n_surrogates=options.n_surrogates,
            seed=options.seed + 1000 * number,
        )
        made = (held @ surrogates.T).T
        centre, spread = made.mean(axis=0), np.maximum(made.std(axis=0, ddof=1), 1e-30)
        # Of the map as the surrogates see it, so that both are equally coarse.
        own = held @ blocks.mean_of(one)
        observed.append((own - centre) / spread)
        null.append((made - centre) / spread)
    root = np.sqrt(len(values))
    found, nulls = np.sum(observed, axis=0) / root, np.sum(null, axis=0) / root
    largest = np.abs(nulls).max(axis=1)
    z[ranked] = found
    p[ranked] = [two_sided_p(float(a), nulls[:, n]) for n, a in enumerate(found)]
    alike = (largest >= np.abs(found)[:, None] * (1 - 1e-12)).sum(axis=1)
    # The middle of p is a median, that of z a mean: a corrected p is never below its own.
    corrected[ranked] = np.maximum(p[ranked], (1 + alike) / (1 + len(largest)))
    return z, p, corrected


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Groups of neighbouring voxels, few enough for surrogates.

    Parameters
    ----------
    of_voxel : (voxels,)
        Block of each voxel of the map, raveled; -1 outside the mask.
    coordinates_mm : (blocks, 3)
        Mean place of each block's voxels.
    edge
        Of a block, in voxels.
    """

    of_voxel: NDArray[np.intp]
    coordinates_mm: NDArray[np.float64]
    edge: int

    def mean_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over each block, (voxels,) to (blocks,)."""
        inside = self.of_voxel >= 0
        blocks = self.of_voxel[inside]
        return np.bincount(blocks, values[inside]) / np.bincount(blocks)

    @property
    def members(self) -> Any:
        """Return 1 where a voxel lies in a block, (voxels, blocks) sparse."""
        at = np.flatnonzero(self.of_voxel >= 0)
        shape = (len(self.of_voxel), len(self.coordinates_mm))
        return sparse.csr_matrix((np.ones(len(at)), (at, self.of_voxel[at])), shape=shape)


def coarse_blocks(grid: ImageGrid, mask: NDArray[np.bool_], limit: int = _MOST_BLOCKS) -> Blocks:
    """Return the smallest cubes of voxels of which at most `limit` lie in a mask."""
    at = np.argwhere(mask)
    edge = max(1, int((len(at) / limit) ** (1 / 3)))
    while True:
        cell = np.ravel_multi_index(tuple((at // edge).T), grid.shape)
        cells, number = np.unique(cell, return_inverse=True)
        if len(cells) <= limit:
            break
        edge += 1
    of_voxel = np.full(mask.size, -1, dtype=np.intp)
    of_voxel[np.flatnonzero(mask.ravel())] = number.ravel()
    places = grid.vox2world(at)
    count = np.bincount(number.ravel())
    centres = np.stack([np.bincount(number.ravel(), places[:, n]) / count for n in range(3)], 1)
    return Blocks(of_voxel, centres, edge)
