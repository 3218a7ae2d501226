"""Reference volumes from files, prepared as the runs that are explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g3dvit.descriptions import ModelDescription
from g3dvit.errors import GridError
from g3dvit.grids import ImageGrid
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import RunSource, open_runs

#: Volumes that are taken of a file with more, evenly.
MOST = 8


def read_references(
    paths: Sequence[str | Path],
    preparation: Preparation,
    description: ModelDescription,
    grid: ImageGrid,
    *,
    mask: Path | None = None,
) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """Return reference volumes as the model takes them, and what they are called; None for none.

    Parameters
    ----------
    paths
        3D or 4D images, none or several; of each at most `MOST` volumes are taken, evenly.
    preparation, description
        Of the model.
    grid
        On which the explained runs come to lie.
    mask
        Brain mask, where the preparation uses one.

    Returns
    -------
    (references, *input_shape), names
        Each name is the file's with the time point.

    Raises
    ------
    GridError
        If a file comes to lie elsewhere.
    G3DError
        If one cannot be read or prepared.
    """
    if not paths:
        return None, ()
    source = RunSource(images=tuple(map(Path, paths)), mask=mask)
    volumes, names = [], []
    for run in open_runs(source, n_dropped=preparation.n_dropped):
        if not preparation.grid_of(run.series.grid).matches(grid, tolerance_mm=0.1):
            raise GridError(
                f"the reference {run.series.path} comes to lie on another grid than the explained "
                "images after preparation; give one that has their grid, or use a preparation that "
                "resamples"
            )
        there = run.selection.time_points
        places = np.linspace(0, len(there) - 1, min(MOST, len(there))).round().astype(int)
        chosen = [there[place] for place in places]
        for volume in preparation.stream(run.series, chosen, mask=mask):
            volumes.append(volume.data)
            names.append(f"{run.series.path.name}, time point {volume.time_point}")
    return description.to_input(np.stack(volumes)), tuple(names)
