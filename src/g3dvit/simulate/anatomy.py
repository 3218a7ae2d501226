"""Where simulated activation lies: real anatomy and real motor clusters from nilearn's wheel.

Terms: a *condition* is one of ``"left"`` and ``"right"`` (the hand that moves) or ``"visual"``
(what both classes share); its *weights* say how strongly every voxel takes part, 1 on average
over the cluster; its *truth* is where the weights are not zero. Nothing here is downloaded.

The motor map is the t map of left hand against right hand that comes with nilearn (NeuroVault
image 10426). Its positive part lies in the RIGHT motor cortex, opposite to the left hand. Its
negative part lies at about the mirror image, so the signed map mirrored would nearly coincide
with itself: only the positive part is planted for the left hand, and the mirror image of that
same part (x to -x in mm) for the right hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import GridError, InputError
from g3dvit.grids import ImageGrid

HANDS = ("left", "right")
CONDITIONS = ("left", "right", "visual")
VISUAL_CENTRES_MM = ((-12.0, -90.0, 0.0), (12.0, -90.0, 0.0))
VISUAL_RADIUS_MM = 11.0
MOTOR_PEAK_MM = (39.0, -22.0, 58.0)  # nilearn's cluster table of that map: right motor cortex


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """A brain to plant activation in.

    Parameters
    ----------
    grid
        Where its voxels are.
    intensity : (i, j, k)
        Mean BOLD signal in arbitrary units, 0 outside the brain.
    brain : (i, j, k)
        Brain mask.
    weights
        Condition to (i, j, k) float32 weights, 0 outside the cluster and 1 on average inside.
    """

    grid: ImageGrid
    intensity: NDArray[np.float32]
    brain: NDArray[np.bool_]
    weights: Mapping[str, NDArray[np.float32]]

    def truth(self, condition: str) -> NDArray[np.bool_]:
        """Return the voxels that take part in a condition, (i, j, k)."""
        if condition not in self.weights:
            raise InputError(f"no condition {condition!r}; there are {', '.join(self.weights)}")
        return np.asarray(self.weights[condition] > 0)


def demo_grid() -> ImageGrid:
    """Return the 2 mm, 90 x 90 x 90 box that the shipped model sees.

    RAS, origin (-90, -106, -72) mm: an exact slice of the 91 x 109 x 91 grid of FSL and HCP.
    """
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-90, -106, -72)
    return ImageGrid((90, 90, 90), affine)


def load_anatomy(grid: ImageGrid | None = None, *, cluster_ml: float = 6.0) -> Anatomy:
    """Load brain, motor clusters and visual area on a grid.

    Parameters
    ----------
    grid
        Where to sample them; `demo_grid()` if left out.
    cluster_ml
        Size of the motor cluster of each hand, in mL.

    Raises
    ------
    GridError
        If the grid holds too little of the brain to plant the clusters.

    Notes
    -----
    The template is the ICBM 2009a symmetric one of nilearn's wheel. It is not the template that
    MNI152NLin6Asym names; both are MNI space and differ by a few mm at places.
    """
    from nilearn import datasets

    grid = demo_grid() if grid is None else grid
    template = _sample(datasets.load_mni152_template(resolution=2), grid)
    brain = _sample(datasets.load_mni152_brain_mask(resolution=2), grid) > 0.5
    grey = _sample(datasets.load_mni152_gm_mask(resolution=2), grid)
    if not brain.any():
        raise GridError(f"{grid} holds no voxel of the MNI brain")
    # T2*-weighted images are bright in fluid and dim in white matter, T1-weighted ones the reverse.
    contrast = 1.0 - 0.5 * template / float(template[brain].max())
    intensity = np.where(brain, 1000.0 * contrast, 0.0).astype(np.float32)
    motor = _motor_map()
    weights = {
        "left": _trim(_sample(motor, grid), brain, grid, MOTOR_PEAK_MM, cluster_ml),
        "right": _trim(
            _sample(motor, grid, mirror=True),
            brain,
            grid,
            (-MOTOR_PEAK_MM[0], *MOTOR_PEAK_MM[1:]),
            cluster_ml,
        ),
        "visual": _visual(brain, grey, grid),
    }
    for condition, values in weights.items():
        if not (values > 0).any():
            raise GridError(f"{grid} does not hold the {condition!r} cluster")
    return Anatomy(grid, intensity, np.asarray(brain), weights)


def world_coordinates(grid: ImageGrid) -> NDArray[np.float64]:
    """Return the centre of every voxel, (i, j, k, 3), in mm."""
    return grid.vox2world(np.moveaxis(np.indices(grid.shape), 0, -1))


def _motor_map() -> object:
    """Return the positive part of the motor t map, smoothed so that its plateau has a peak."""
    from nilearn import datasets, image

    signed = image.load_img(datasets.load_sample_motor_activation_image())
    return image.smooth_img(image.math_img("np.maximum(x, 0)", x=signed), 6.0)


def _sample(image: object, grid: ImageGrid, *, mirror: bool = False) -> NDArray[np.float32]:
    """Sample an image at a grid's voxels, or at their mirror images across x = 0."""
    from scipy.ndimage import map_coordinates

    data = np.asarray(image.get_fdata(dtype=np.float32))  # type: ignore[attr-defined]
    xyz = world_coordinates(grid)
    if mirror:
        xyz = xyz * np.array([-1.0, 1.0, 1.0])
    source = ImageGrid(data.shape, image.affine)  # type: ignore[attr-defined]
    voxels = np.moveaxis(source.world2vox(xyz), -1, 0)
    return np.asarray(map_coordinates(data, voxels, order=1, cval=0.0), dtype=np.float32)


def _trim(
    values: NDArray[np.float32],
    brain: NDArray[np.bool_],
    grid: ImageGrid,
    peak_mm: tuple[float, ...],
    cluster_ml: float,
) -> NDArray[np.float32]:
    """Keep the `cluster_ml` strongest voxels around a peak; the top twice as strong as the edge.

    The threshold is lowered until the cluster at the peak is large enough; the cluster's own
    strongest voxels are then kept, so that the size is exact to one voxel.
    """
    from scipy.ndimage import label

    wanted = max(1, round(cluster_ml * 1000 / grid.voxel_volume_mm3))
    values = np.where(brain, values, 0).astype(np.float32)
    near = np.linalg.norm(world_coordinates(grid) - np.asarray(peak_mm), axis=-1) < 15
    if not (values[near] > 0).any():
        return np.zeros(grid.shape, np.float32)
    start = np.unravel_index(int(np.argmax(np.where(near, values, -1))), grid.shape)
    for level in np.linspace(0.95, 0.05, 46) * values[start]:
        clusters, _ = label(values >= level)
        inside = clusters == clusters[start]
        if inside.sum() >= wanted:
            break
    kept = np.sort(values[inside])[-wanted:]
    inside &= values >= kept[0]
    scaled = 0.5 + 0.5 * (values - kept[0]) / max(float(kept[-1] - kept[0]), 1e-6)
    return _mean_one(np.where(inside, scaled, 0))


def _visual(
    brain: NDArray[np.bool_], grey: NDArray[np.float32], grid: ImageGrid
) -> NDArray[np.float32]:
    """Return grey matter around both occipital poles, strongest at the centres."""
    xyz = world_coordinates(grid)
    weights = np.zeros(grid.shape)
    for centre in VISUAL_CENTRES_MM:
        distance = np.linalg.norm(xyz - np.asarray(centre), axis=-1)
        weights = np.maximum(weights, 1.0 - 0.5 * distance / VISUAL_RADIUS_MM)
    return _mean_one(np.where(brain & (grey > 0.3) & (weights > 0.5), weights, 0))


def _mean_one(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale weights so that they are 1 on average where they are not zero."""
    inside = weights > 0
    scale = float(weights[inside].mean()) if inside.any() else 1.0
    return np.asarray(weights / scale, dtype=np.float32)
