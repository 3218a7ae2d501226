"""The picture under the maps: the template of the maps' space, or the image itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from g3dvit.grids import ImageGrid
from g3dvit.run_result import Background
from g3dvit.volumes import Series


def background_of(series: Series, space: str | None) -> Background:
    """Return the MNI template for MNI-like spaces, otherwise the first volume of the run.

    Parameters
    ----------
    series
        A run that was explained.
    space
        BIDS name of the maps' space.
    """
    if (space or series.space or "").upper().startswith("MNI"):
        from nilearn.datasets import load_mni152_template

        image = load_mni152_template(resolution=2)
        return Background(
            np.asarray(image.dataobj, dtype=np.float32),
            ImageGrid(_three(image.shape), image.affine),
            "MNI152 template (ICBM 2009a symmetric), not this person's brain",
        )
    volume = next(series.stream([0]))
    data = np.nan_to_num(volume.data, posinf=0, neginf=0)
    return Background(data, volume.grid, f"volume 0 of {series.path.name}")


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    return (int(shape[0]), int(shape[1]), int(shape[2]))
