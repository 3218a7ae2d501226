"""Where the blobs of a phantom lie: places in a brain, far enough from one another.

A *site* is the middle of a blob before jitter, in voxels. Targets belong to a class, distractors
and suppressors to none. Blobs are larger than a patch and lie at fractions of voxels, so that no
blob ever coincides with a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from g3dvit.errors import InputError

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Sites:
    """Middles of the blobs, in voxels.

    Parameters
    ----------
    targets
        Per class, where its blob may lie.
    distractors
        Where the blob may lie that says nothing about the class.
    suppressors
        Per class, where the noise of its target can be read off; empty without a suppressor.
    """

    targets: tuple[tuple[Point, ...], ...]
    distractors: tuple[Point, ...]
    suppressors: tuple[Point, ...] = ()


def place_sites(
    brain: NDArray[np.bool_],
    *,
    n_classes: int,
    per_class: int,
    n_distractors: int,
    n_suppressors: int,
    radius: float,
    jitter: float,
    gap: float,
    rng: np.random.Generator,
    tries: int = 20000,
) -> Sites:
    """Draw places until all fit into the brain at the required distances.

    Parameters
    ----------
    brain : (i, j, k)
        Where blobs may lie.
    n_classes, per_class, n_distractors, n_suppressors
        How many of each.
    radius, jitter
        Of a blob, and how far it may move, in voxels.
    gap
        Between the surface of every distractor and that of every target, in voxels, jitter
        included.
    rng
        Source of randomness.
    tries
        How often to start afresh.

    Raises
    ------
    InputError
        If they do not fit.
    """
    inside = np.argwhere(distance_transform_edt(brain) >= radius - 0.5).astype(np.float64)
    apart = 2 * radius + 1  # targets of one another; jitter may make them touch
    far = gap + 2 * radius + 2 * jitter
    n_targets = n_classes * per_class
    for _ in range(tries):
        distractors = _draw(inside, n_distractors, apart, rng)
        if distractors is None:
            continue
        rest = inside[_distances(inside, distractors) >= far]
        targets = _draw(rest, n_targets + n_suppressors, apart, rng)
        if targets is None:
            continue
        # Sites between the voxels: a blob in the middle of a voxel is too regular.
        places = [_point(p + rng.uniform(-0.5, 0.5, 3)) for p in (*targets, *distractors)]
        return Sites(
            targets=tuple(
                tuple(places[c * per_class : (c + 1) * per_class]) for c in range(n_classes)
            ),
            suppressors=tuple(places[n_targets : n_targets + n_suppressors]),
            distractors=tuple(places[n_targets + n_suppressors :]),
        )
    raise InputError(
        f"{n_targets + n_suppressors} targets and {n_distractors} distractors of radius {radius} "
        f"with {gap} voxels between them do not fit into a brain of {int(brain.sum())} voxels; "
        "use smaller blobs, fewer sites or smaller patches"
    )


def _draw(
    points: NDArray[np.float64], count: int, apart: float, rng: np.random.Generator
) -> list[NDArray[np.float64]] | None:
    """Draw points that keep their distance, or None where there is no room left."""
    chosen: list[NDArray[np.float64]] = []
    while len(chosen) < count:
        if not len(points):
            return None
        chosen.append(points[rng.integers(len(points))])
        points = points[np.linalg.norm(points - chosen[-1], axis=1) >= apart]
    return chosen


def _distances(
    points: NDArray[np.float64], others: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the distance of each point to the nearest of the others."""
    distance = np.full(len(points), np.inf)
    for other in others:
        distance = np.minimum(distance, np.linalg.norm(points - other, axis=1))
    return distance


def _point(values: NDArray[np.float64]) -> Point:
    return (float(values[0]), float(values[1]), float(values[2]))


def blob(shape: tuple[int, int, int], centre: Point, radius: float) -> NDArray[np.float32]:
    """Return a blob of height 1 that falls to 0.28 at its radius and is 0 beyond, (i, j, k)."""
    axes = [np.arange(n) - c for n, c in zip(shape, centre, strict=True)]
    squared = (
        axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    )
    width = radius / 1.6
    return np.where(squared <= radius**2, np.exp(-squared / (2 * width**2)), 0).astype(np.float32)
