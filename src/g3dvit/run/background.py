"""The picture under the maps: the template of the maps' space, or the image itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from g3dvit.grids import ImageGrid
from g3dvit.run_result import Background
from g3dvit.volumes import Series

#: Volumes of the subject's own picture: past the first ones, whose contrast is not steady yet.
_OWN = slice(5, 15)


def backgrounds_of(series: Series, space: str | None) -> tuple[Background, ...]:
    """Return the pictures to choose from: the MNI template for MNI-like spaces, the run's own mean.

    Parameters
    ----------
    series
        A run that was explained.
    space
        BIDS name of the maps' space.
    """
    own = _own_mean(series)
    if not (space or series.space or "").upper().startswith("MNI"):
        return (own,)
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    template = Background(
        np.asarray(image.dataobj, dtype=np.float32),
        ImageGrid(_three(image.shape), image.affine),
        "MNI152 template (ICBM 2009a symmetric), not this person's brain",
    )
    return (template, own)


def _own_mean(series: Series) -> Background:
    wanted = range(series.n_time_points)[_OWN] or range(series.n_time_points)[:1]
    total, grid = np.zeros(series.grid.shape, np.float64), series.grid
    for volume in series.stream(wanted):
        total += np.nan_to_num(volume.data, posinf=0, neginf=0)
        grid = volume.grid
    of = f"volumes {wanted[0]} to {wanted[-1]}" if len(wanted) > 1 else f"volume {wanted[0]}"
    name = series.path.name
    mean = np.asarray(total / len(wanted), np.float32)
    return Background(mean, grid, f"{'mean of ' if len(wanted) > 1 else ''}{of} of {name}")


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    return (int(shape[0]), int(shape[1]), int(shape[2]))
