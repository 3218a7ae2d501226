"""The picture under the maps: the template of the maps' space, or the image itself."""

from __future__ import annotations

import numpy as np

from g3dvit.shown import Background, mni_template
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
    return (mni_template(), own)


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
