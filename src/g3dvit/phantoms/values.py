"""What a phantom gives: volumes with labels, and for each volume what was planted where."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from g3dvit.grids import ImageGrid


@dataclass(frozen=True, slots=True, eq=False)
class PhantomVolumes:
    """Volumes with a known answer.

    Parameters
    ----------
    volumes : (n, i, j, k)
        What the model sees, float32, in standard deviations of the noise.
    labels : (n,)
        Class of each volume.
    without : (n, i, j, k)
        The same volumes without what tells the classes apart; the distractor is still there.
    used : (n, i, j, k)
        Voxels that a good model may rightly use: the target and, in the suppressor variant, where
        the noise of the target can be read off.
    associated : (n, i, j, k)
        Voxels that differ between the classes: the target.
    distractor : (n, i, j, k)
        Voxels of the activation that says nothing about the class; all False where there is none.
    ignored : (n, i, j, k)
        Voxels that belong to neither side: places where another class would have shown its
        signal (that it is absent there is evidence too).
    mask : (i, j, k)
        Voxels that count, such as the brain.
    grid
        Where the voxels are.
    class_names
        In the order of the labels.
    """

    volumes: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.intp]
    without: NDArray[np.float32] = field(repr=False)
    used: NDArray[np.bool_] = field(repr=False)
    associated: NDArray[np.bool_] = field(repr=False)
    distractor: NDArray[np.bool_] = field(repr=False)
    ignored: NDArray[np.bool_] = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    grid: ImageGrid
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of volumes."""
        return len(self.labels)
