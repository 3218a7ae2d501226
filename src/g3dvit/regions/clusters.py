"""Clusters of a thresholded map: where their peaks are, how large they are, in which regions.

Clusters are found by nilearn. A place is never told more finely than the map resolves: peaks are
given as the centre of the patch that they lie in.
"""

from __future__ import annotations

import warnings
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import GridError, InputError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.regions.weights import RegionWeights

#: What the columns of `cluster_table` mean.
CLUSTER_COLUMNS = {
    "cluster": "Number of the cluster, by its peak's magnitude; positive and negative apart",
    "sign": "positive: evidence for the target; negative: against it",
    "x_mm": "World coordinate (RAS+) of the centre of the patch that holds the peak",
    "y_mm": "World coordinate (RAS+) of the centre of the patch that holds the peak",
    "z_mm": "World coordinate (RAS+) of the centre of the patch that holds the peak",
    "resolution_mm": "Edges of a patch: the place is known to half of this in each direction",
    "peak": "Value at the peak, in units of the map",
    "volume_mm3": "Volume of the cluster",
    "n_patches": "Volume of the cluster in patches",
    "peak_region": "Region that holds most of the patch of the peak",
    "regions": "Regions of the cluster with their share of its volume, largest first",
}
_MOST_NAMED = 5
_LEAST_NAMED = 0.05


def threshold_of(
    relevance: RelevanceMap,
    mask: NDArray[np.bool_] | None = None,
    *,
    percentile: float = 95.0,
) -> float:
    """Return the percentile (0 to 100) of |values| inside a mask, in units of the map.

    Raises
    ------
    InputError
        If the percentile is not within 0 and 100.
    """
    if not 0 <= percentile <= 100:
        raise InputError(f"a percentile is 0 to 100, was given {percentile}")
    values = np.abs(relevance.data if mask is None else relevance.data[mask])
    return float(np.percentile(values, percentile)) if values.size else 0.0


def patches_of(relevance: RelevanceMap) -> ImageGrid | None:
    """Return where the patches of a map lie, one voxel a patch; None where nothing tells.

    A map on the patch grid tells it by itself; a finer one by ``patch_grid`` in its sidecar.
    """
    try:
        told = ImageGrid.from_dict(relevance.metadata["patch_grid"])
    except (KeyError, TypeError, ValueError, GridError):
        told = None
    # A sidecar of another map would tell patches of another size.
    if told is not None and np.allclose(told.voxel_sizes, relevance.resolution_mm, rtol=0.01):
        return told
    fine = np.asarray(relevance.resolution_mm) > 1.01 * relevance.grid.voxel_sizes
    return None if fine.any() else relevance.grid


def cluster_table(
    relevance: RelevanceMap,
    *,
    threshold: float,
    weights: RegionWeights | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """Return one row per cluster of voxels at or beyond a threshold, by |peak|.

    Voxels that share a face belong together. Positive and negative clusters are apart. The place of
    a peak is the centre of its patch (`patches_of`); where nothing tells the patches of a map
    finer than they are, they are taken to begin at its first voxel.

    Parameters
    ----------
    relevance
        A 3D map.
    threshold
        Absolute, in units of the map; above 0.
    weights
        Names regions where given; on the map's grid.
    mask : (i, j, k)
        Voxels outside are left out.

    Raises
    ------
    InputError
        If the threshold is not positive, or the map is not 3D.
    """
    if not np.isfinite(threshold) or threshold <= 0:
        raise InputError(f"a threshold of clusters is above 0, was given {threshold:g}")
    if relevance.data.ndim != 3:
        raise InputError("a table of clusters takes a 3D map; name one of its volumes")
    values = np.asarray(relevance.data, dtype=np.float64)
    if mask is not None:
        values = np.where(mask, values, 0)
    rows: list[dict[str, Any]] = []
    for sign, word in ((1, "positive"), (-1, "negative")):
        for cluster in _clusters(sign * values, relevance, threshold):
            rows.append(_row(cluster, values, relevance, word, weights))
    rows.sort(key=lambda row: -abs(row["peak"]))
    for number, row in enumerate(rows, 1):
        row["cluster"] = number
    return pd.DataFrame(rows, columns=list(CLUSTER_COLUMNS))


def _clusters(
    values: NDArray[np.float64], relevance: RelevanceMap, threshold: float
) -> list[NDArray[np.bool_]]:
    """Return the voxels of each cluster of positive values, (i, j, k)."""
    from nilearn.reporting import get_clusters_table

    if not (values >= threshold).any():
        return []
    # In multiples of the threshold, which is kept: nilearn takes what is strictly above. Inside a
    # border of nothing, without which nilearn finds no cluster in a map that is above everywhere.
    framed = np.pad((values / threshold).astype(np.float64), 1)
    image = nib.Nifti1Image(framed, relevance.grid.affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sub-peaks, which are not used
        _, (labels, *_) = get_clusters_table(
            image, stat_threshold=1 - 1e-9, two_sided=False, return_label_maps=True
        )
    numbers = np.asarray(labels.dataobj).astype(np.intp)[1:-1, 1:-1, 1:-1]
    return [numbers == n for n in range(1, int(numbers.max()) + 1)]


def _row(
    cluster: NDArray[np.bool_],
    values: NDArray[np.float64],
    relevance: RelevanceMap,
    sign: str,
    weights: RegionWeights | None,
) -> dict[str, Any]:
    inside = np.where(cluster, np.abs(values), -1)
    at = np.unravel_index(int(inside.argmax()), values.shape)
    block, place = _patch_of(relevance, at)
    volume = float(cluster.sum() * relevance.grid.voxel_volume_mm3)
    row: dict[str, Any] = {
        "cluster": 0,
        "sign": sign,
        **dict(zip(("x_mm", "y_mm", "z_mm"), (round(float(v), 1) for v in place), strict=True)),
        "resolution_mm": " x ".join(f"{v:g}" for v in relevance.resolution_mm),
        "peak": float(values[at]),
        "volume_mm3": round(volume, 1),
        "n_patches": round(volume / float(np.prod(relevance.resolution_mm)), 2),
        "peak_region": "n/a",
        "regions": "n/a",
    }
    if weights is not None:
        # In a map of patches a patch may hold many regions; the largest part names it.
        row["peak_region"] = composition(weights, block, most=1) or "outside the atlas"
        row["regions"] = composition(weights, cluster, most=_MOST_NAMED) or "outside the atlas"
    return row


def _patch_of(
    relevance: RelevanceMap, at: tuple[np.intp, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return the voxels of the patch that holds a voxel, and the patch's centre in mm."""
    grid, patches = relevance.grid, patches_of(relevance)
    found = np.zeros(grid.shape, dtype=bool)
    if patches is None:
        edges = np.maximum(1, np.rint(relevance.resolution_mm / grid.voxel_sizes)).astype(np.intp)
        spans = [slice(v // e * e, v // e * e + e) for v, e in zip(at, edges, strict=True)]
        found[tuple(spans)] = True
        return found, grid.vox2world(np.argwhere(found)).mean(axis=0)
    last = np.array(patches.shape) - 1
    voxels = np.argwhere(np.ones(grid.shape, dtype=bool))
    # What lies beyond the outer patches has the value of the nearest.
    of_voxel = np.floor(patches.world2vox(grid.vox2world(voxels)) + 0.5 + 1e-6).clip(0, last)
    own = of_voxel[np.ravel_multi_index(at, grid.shape)]
    found[tuple(voxels[(of_voxel == own).all(axis=1)].T)] = True
    return found, patches.vox2world(own)


def composition(weights: RegionWeights, voxels: NDArray[np.bool_], *, most: int) -> str:
    """Return names of regions with shares of the volume of voxels: ``"Precentral_L 62 %"``."""
    held = np.asarray(weights.inside_mm3 @ voxels.ravel().astype(np.float64))
    share = np.minimum(held / (voxels.sum() * weights.grid.voxel_volume_mm3), 1)
    order = [n for n in np.argsort(-share, kind="stable")[:most] if share[n] > 0]
    # Of many small parts the largest is told: what lies in the atlas is not outside it.
    kept = [n for n in order if share[n] >= _LEAST_NAMED] or order[:1]
    named = [(weights.names[n], share[n]) for n in kept]
    return "; ".join(f"{name} {100 * part:.0f} %" for name, part in named)
