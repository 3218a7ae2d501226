"""Is a map only a picture of the image? Correlation with tSNR, mean, edges, coverage and motion.

A map that follows temporal SNR or the image's edges may show where signal is good and not what
the model uses; one whose size follows motion may show artefacts. The correlation alone proves
neither: motor cortex has good signal too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude

from g3dvit.evaluate.agreement import spearman
from g3dvit.evaluate.prepared import Prepared, patch_means, to_frame

Array = NDArray[np.float64]
PICTURES = ("brain coverage", "temporal SNR", "mean image", "edges of the mean image")


def image_patches(prepared: Prepared, run: int) -> dict[str, Array]:
    """Return what a run looks like per patch, whatever the model: name to (patches,)."""
    images = prepared.images[run]
    if images is None:
        return {}
    known = np.nan_to_num(images.mean)
    pictures = {
        "temporal SNR": images.tsnr,
        "mean image": images.mean,
        "edges of the mean image": gaussian_gradient_magnitude(known, 1.0),
    }
    brain = to_frame(prepared.brain_voxels.astype(np.float32), prepared.model)
    coverage = {PICTURES[0]: patch_means(brain, prepared.model)}
    return coverage | {
        name: patch_means(
            to_frame(
                np.where(prepared.brain_voxels, one, np.nan).astype(np.float32), prepared.model
            ),
            prepared.model,
        )
        for name, one in pictures.items()
    }


def image_agreement(
    prepared: Prepared, volumes: Sequence[int], maps: Array
) -> dict[str, list[float]]:
    """Return for each picture, and each map from elsewhere, |map|'s rank correlation with it.

    Parameters
    ----------
    prepared
        Volumes, runs and brain.
    volumes
        Which.
    maps : (volumes, patches)
        Of one method.
    """
    by_run = {
        run: image_patches(prepared, run) for run in {prepared.plan.picks[n].run for n in volumes}
    }
    inside = prepared.inside
    result: dict[str, list[float]] = {}
    for n, one in zip(volumes, maps, strict=True):
        pictures = by_run[prepared.plan.picks[n].run] | dict(prepared.given)
        for name, picture in pictures.items():
            value = spearman(np.abs(one[inside]), picture[inside])
            result.setdefault(name, []).append(value)
    return result


def motion_agreement(
    prepared: Prepared, volumes: Sequence[int], maps: Array
) -> Mapping[str, float]:
    """Return the rank correlation over volumes of framewise displacement with two facts of a map.

    ``"motion and size"``: the sum of |relevance|; ``"motion and shape"``: the map's correlation
    with the mean of all. NaN where motion is unknown.
    """
    inside, moved = prepared.inside, prepared.motion[list(volumes)]
    mean = maps.mean(axis=0)[inside]
    size = np.abs(maps[:, inside]).sum(axis=1)
    shape = [spearman(one[inside], mean) for one in maps]
    return {"motion and size": spearman(moved, size), "motion and shape": spearman(moved, shape)}
