"""Clusters of the highest places of each map, with what the other has there: both ways.

A cluster is patches among the highest of one map that share faces. What the other map holds there
is told beside it, so that a place of one of the two can be told from a place of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from g3dvit.compare.agreement import highest
from g3dvit.compare.job import Comparison
from g3dvit.regions import RegionWeights, region_weights
from g3dvit.regions.clusters import composition
from g3dvit.shown import Parcellation

_MOST_CLUSTERS = 10
_MOST_REGIONS = 3
#: What the columns of `clusters_both_ways` mean.
CLUSTER_COLUMNS = {
    "reference": "With what the map is compared",
    "clusters_of": "map or reference: whose highest patches the cluster is made of",
    "cluster": "Number of the cluster, by its highest value",
    "x_mm": "World coordinate (RAS+) of the centre of the patch with the highest value",
    "y_mm": "World coordinate (RAS+) of the centre of the patch with the highest value",
    "z_mm": "World coordinate (RAS+) of the centre of the patch with the highest value",
    "n_patches": "Patches of the cluster",
    "volume_mm3": "Their volume",
    "map_mean": "Mean of the map over the cluster, in its units",
    "reference_mean": "Mean of the reference over the cluster, in its units",
    "map_at_peak": "Value of the map at the place given",
    "reference_at_peak": "Value of the reference at the place given",
    "other_percentile": "Share of all compared patches in which the other map has less than its "
    "mean over the cluster, 0 to 100; 50 is what chance gives",
    "shared": "Share of the cluster that is among the highest patches of the other too, 0 to 1",
    "regions": "Regions of the cluster with their share of its volume, largest first",
}


def clusters_both_ways(
    comparison: Comparison, *, atlas: Parcellation | None = None, share: float = 0.1
) -> pd.DataFrame:
    """Return clusters of the highest patches of the map, and of the reference.

    Parameters
    ----------
    comparison
        What was compared; its signs decide what is highest.
    atlas
        Names regions where given.
    share
        Of places that count as high.

    Returns
    -------
    DataFrame
        `CLUSTER_COLUMNS`; at most 10 clusters of each, highest first.

    Raises
    ------
    InputError
        If the share is not above 0 and below 1.
    """
    weights = None if atlas is None else region_weights(atlas, comparison.relevance.grid)
    both = [_on_grid(values, comparison.places) for values in comparison.values]
    tops = [_on_grid(highest(v, share), comparison.places) > 0 for v in comparison.values]
    rows: list[dict[str, Any]] = []
    for own, word in enumerate(("map", "reference")):
        pieces, count = ndimage.label(tops[own])
        found = [pieces == n for n in range(1, count + 1)]
        found.sort(key=lambda piece: -float(both[own][piece].max()))
        for number, piece in enumerate(found[:_MOST_CLUSTERS], 1):
            row = {"reference": comparison.reference_name, "clusters_of": word, "cluster": number}
            rows.append(row | _row(comparison, piece, both, tops, own, weights))
    return pd.DataFrame(rows, columns=list(CLUSTER_COLUMNS))


def _row(
    comparison: Comparison,
    piece: NDArray[np.bool_],
    both: list[NDArray[np.float64]],
    tops: list[NDArray[np.bool_]],
    own: int,
    weights: RegionWeights | None,
) -> dict[str, Any]:
    grid = comparison.relevance.grid
    raw = np.asarray(comparison.relevance.data, dtype=np.float64), comparison.reference
    at = np.unravel_index(int(np.where(piece, both[own], -np.inf).argmax()), piece.shape)
    place = np.round(grid.vox2world(at), 1)
    other = 1 - own
    everywhere = both[other][comparison.places]
    there = float(both[other][piece].mean())
    ties = float((everywhere == there).mean()) / 2
    named = "n/a"
    if weights is not None:
        named = composition(weights, piece, most=_MOST_REGIONS) or "outside the atlas"
    return {
        **dict(zip(("x_mm", "y_mm", "z_mm"), place.tolist(), strict=True)),
        "n_patches": int(piece.sum()),
        "volume_mm3": round(float(piece.sum() * grid.voxel_volume_mm3), 1),
        "map_mean": float(raw[0][piece].mean()),
        "reference_mean": float(raw[1][piece].mean()),
        "map_at_peak": float(raw[0][at]),
        "reference_at_peak": float(raw[1][at]),
        "other_percentile": round(100 * (float((everywhere < there).mean()) + ties), 1),
        "shared": round(float(tops[other][piece].mean()), 3),
        "regions": named,
    }


def _on_grid(values: NDArray[Any], places: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return values at the compared places, and -inf elsewhere."""
    found = np.full(places.shape, -np.inf)
    found[places] = values
    return found
