"""The point spread of every method on one volume: swap a small real piece, watch the map.

A cube of about a third of a patch's edge, at a random place in the brain that has no regard to
the patches' borders, gets the voxels that another volume of the run has there. Before and after,
the same target is explained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.evaluate.explained import Explained, explain_volumes
from g3dvit.evaluate.interventions import patches_to_voxels
from g3dvit.evaluate.prepared import Prepared
from g3dvit.evaluate.spread import change_by_distance, distance_bins
from g3dvit.targets import Chosen

#: Of a patch's edge, how large the swapped cube is.
_CUBE = 1 / 3
#: In patch edges, how far the change is followed.
_REACH = 3.0
#: Below this share of a map's size, a change is rounding.
_LEAST = 1e-5


def spread_bins(prepared: Prepared) -> NDArray[np.float64]:
    """Return edges of the distance bins in mm, about one voxel wide."""
    patches = prepared.patches
    reach = _REACH * float(np.max(patches.patch_sizes_mm))
    return distance_bins(reach, float(np.mean(patches.volume.voxel_sizes)))


def swap_places(
    prepared: Prepared, count: int, *, seed: int
) -> list[tuple[tuple[slice, ...], NDArray[np.float64]]]:
    """Return cubes on the prepared grid, in volume order, and their centres in mm."""
    rng = np.random.default_rng(seed)
    edges = [max(1, round(_CUBE * p)) for p in prepared.patches.patch_size]
    voxels = np.argwhere(prepared.brain_voxels)
    shape = prepared.patches.volume.shape
    found = []
    for centre in voxels[rng.integers(0, len(voxels), count)]:
        starts = [
            int(np.clip(c - e // 2, 0, n - e)) for c, e, n in zip(centre, edges, shape, strict=True)
        ]
        box = tuple(slice(s, s + e) for s, e in zip(starts, edges, strict=True))
        middle = [s + (e - 1) / 2 for s, e in zip(starts, edges, strict=True)]
        found.append((box, prepared.patches.volume.vox2world(middle)))
    return found


def measure_spread(
    prepared: Prepared,
    n: int,
    partner: int,
    methods: Sequence[str],
    chosen: Chosen,
    count: int,
    *,
    seed: int = 0,
) -> dict[str, list[list[float]]]:
    """Return for each method the change by distance of every place, (places, bins).

    Parameters
    ----------
    prepared
        Volumes, brain and grid.
    n, partner
        The volume, and the one whose voxels are swapped in.
    methods
        Names.
    chosen
        What is explained, before and after.
    count
        Places.
    seed
        Of the places.
    """
    bins = spread_bins(prepared)
    places = swap_places(prepared, count, seed=seed)
    x, other = prepared.x[n], prepared.x[partner]
    changed = torch.stack([torch.where(_cube(prepared, box), other, x) for box, _ in places])
    batch = torch.cat([x[None], changed])
    explained = explain_volumes(
        prepared.model.explainer, batch, methods, chosen=[chosen] * len(batch)
    )
    result: dict[str, list[list[float]]] = {}
    for name in methods:
        maps = _on_voxels(prepared, explained, name)
        rows = []
        for after, (_, centre) in zip(maps[1:], places, strict=True):
            change = after - maps[0]
            if np.abs(change).sum() > _LEAST * np.abs(maps[0]).sum():
                grid = prepared.patches.volume
                rows.append(change_by_distance(change, centre, grid, bins).tolist())
        result[name] = rows
    return result


def _cube(prepared: Prepared, box: tuple[slice, ...]) -> Tensor:
    """Return a cube as a mask in the layout of the model's input."""
    mask = np.zeros((1, *prepared.patches.volume.shape), dtype=np.float32)
    mask[0][box] = 1
    return torch.from_numpy(np.array(prepared.model.description.to_input(mask)[0])) > 0


def _on_voxels(prepared: Prepared, explained: Explained, name: str) -> NDArray[np.float64]:
    """Return maps on the prepared grid in volume order; a patch's value for each of its voxels."""
    if name in explained.voxels:
        frames = explained.voxels[name]
    else:
        geometry = prepared.model.explainer.geometry
        values = patches_to_voxels(torch.from_numpy(explained.patches[name]), geometry)
        moved = np.moveaxis(values.numpy(), [axis + 1 for axis in geometry.spatial_axes], [1, 2, 3])
        frames = moved.reshape(*moved.shape[:4])
    return np.asarray(prepared.model.description.from_input(frames), dtype=np.float64)
