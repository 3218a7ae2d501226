"""What is shown beside maps: pictures under them, display options, tables and region names.

Values only, and the template that nilearn ships. Nothing of it changes a map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import GridError, InputError
from g3dvit.grids import ImageGrid

#: The questions of the page under which a table can stand.
Section = Literal["regions", "evidence", "comparison"]


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """The picture under the maps.

    Parameters
    ----------
    data : (i, j, k)
        Any anatomy or mean image.
    grid
        Where it lies, in the same world as the maps.
    title
        What it is, so that nobody takes a template for the subject.
    """

    data: NDArray[np.float32]
    grid: ImageGrid
    title: str


def mni_template() -> Background:
    """Return the MNI152 template that nilearn brings along, at 2 mm."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    i, j, k = image.shape
    return Background(
        np.asarray(image.dataobj, dtype=np.float32),
        ImageGrid((i, j, k), image.affine),
        "MNI152 template (ICBM 2009a symmetric), not this person's brain",
    )


@dataclass(frozen=True, slots=True)
class Display:
    """What is done to values before they are shown; applied after resampling, never saved.

    Parameters
    ----------
    rectify
        Show positive values only.
    min_max
        Divide the shown values by the largest absolute one: 0..1 where rectified, else -1..1;
        zero stays zero.
    percentile
        Hide absolute values below this percentile (0 to 100) of the non-zero ones.
    smooth_mm
        Full width at half maximum in mm of a Gaussian for class means that were computed voxel
        by voxel (`MapSet.fine`): such values are speckle, each voxel with a sign of its own.
        0 shows them as they are.

    Raises
    ------
    InputError
        If `smooth_mm` is negative or not finite.
    """

    rectify: bool = False
    min_max: bool = False
    percentile: float | None = None
    smooth_mm: float = 6.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.smooth_mm) and self.smooth_mm >= 0):
            raise InputError(
                f"a display smoothing is 0 or a positive number of mm, was given {self.smooth_mm}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ResultTable:
    """A table for the page and the output folder.

    Parameters
    ----------
    name
        Of its files: letters, digits, hyphens and underscores.
    title
        Above the table.
    section
        Under which question it stands.
    frame
        The rows. Columns that end in ``_mm``, ``_mm3`` or ``_s`` carry their unit.
    note
        What a reader must know, in sentences.
    columns
        What the columns mean, by name; becomes the data dictionary.
    order
        Place on the page among those of its section; tables of one place are sorted by name.
    """

    name: str
    title: str
    section: Section
    frame: pd.DataFrame
    note: str = ""
    columns: Mapping[str, str] | None = None
    order: int = 0

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise InputError(
                f"a table's name is made of letters, digits, - and _, was given {self.name!r}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Parcellation:
    """Regions with names, to read off at the crosshair.

    Parameters
    ----------
    name
        What atlas it is.
    labels : (i, j, k)
        Integer index of the region at each voxel; 0 for none.
    grid
        Where the voxels lie, in the maps' space.
    names
        Region index to name.
    parents
        Region index to the larger region that it is part of, where the atlas tells.

    Raises
    ------
    GridError
        If the labels do not fit the grid.
    """

    name: str
    labels: NDArray[np.integer]
    grid: ImageGrid
    names: Mapping[int, str]
    parents: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.shape != self.grid.shape:
            raise GridError(
                f"labels of shape {self.labels.shape} do not fit a grid of {self.grid.shape}"
            )
