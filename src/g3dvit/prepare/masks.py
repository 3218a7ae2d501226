"""The brain mask of a run, on whatever grid its volumes are.

fMRIPrep does not strip the skull; it writes a mask beside each run: ``..._desc-preproc_bold`` has
``..._desc-brain_mask``. That sibling is used unless another file is named. A mask is brought to
the grid by its affine, nearest voxel; outside its own box it is False.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import PreparationError
from g3dvit.grids import ImageGrid
from g3dvit.prepare.resample import to_grid
from g3dvit.sidecars import stem
from g3dvit.volumes import Volume, open_series

MaskSource = Literal["file", "nonzero"]


def sibling(path: Path, ending: str, *, drop: tuple[str, ...] = ()) -> Path | None:
    """Return the file beside a BOLD run that shares its entities, if the name allows one.

    Parameters
    ----------
    path
        The run; its name must end in ``_bold``.
    ending
        What replaces ``_desc-..._bold``, with extension; ``{ext}`` stands for the run's own.
    drop
        Entities that the sibling does not have, such as ``space``.
    """
    name = stem(path)
    if not name.endswith("_bold"):
        return None
    name = re.sub(r"(_desc-[A-Za-z0-9+]+)?_bold$", "", name)
    for key in drop:
        name = re.sub(rf"_{key}-[A-Za-z0-9+]+", "", name)
    extension = path.name[len(stem(path)) :]
    return path.with_name(f"{name}_{ending.format(ext=extension)}")


def find_mask(path: Path, override: Path | None = None) -> Path:
    """Return the file that holds the brain mask of a run.

    Raises
    ------
    PreparationError
        If there is none.
    """
    if override is not None:
        if not override.is_file():
            raise PreparationError(f"there is no mask file {override}")
        return override
    beside = sibling(path, "desc-brain_mask{ext}")
    looked = "" if beside is None else f"; {beside.name} is not beside it"
    if beside is not None:
        if beside.is_file():
            return beside
        if (other := beside.with_name(stem(beside) + ".nii.gz")).is_file():
            return other
    raise PreparationError(
        f"the preparation needs a brain mask, and none was found for {path}{looked}. Name one "
        "with --mask MASK.nii.gz (`mask=` in Python), or describe the preparation with "
        "mask: nonzero if the background of your images is 0"
    )


@dataclass(slots=True)
class BrainMasks:
    """The masks of one run; each file is read once, each grid computed once.

    Parameters
    ----------
    path
        The run.
    override
        The mask file that the caller names, or None for the sibling.
    """

    path: Path
    override: Path | None = None
    _stored: tuple[NDArray[np.float32], ImageGrid, Path] | None = field(default=None, init=False)
    _on_grid: dict[bytes, NDArray[np.bool_]] = field(default_factory=dict, init=False)

    def on_grid(self, grid: ImageGrid) -> NDArray[np.bool_]:
        """Return the mask file's mask on a grid.

        Raises
        ------
        PreparationError
            If there is no mask, or it has no voxel on the grid.
        """
        key = repr(grid.shape).encode() + grid.affine.tobytes()
        if key not in self._on_grid:
            values, own, file = self._read()
            mask = to_grid(values, own, grid, interpolation="nearest") > 0.5
            if not mask.any():
                raise PreparationError(
                    f"the mask {file} has no voxel inside the volumes of {self.path}; it must "
                    "lie in the same space"
                )
            mask.setflags(write=False)
            self._on_grid[key] = mask
        return self._on_grid[key]

    def of(self, volume: Volume, source: MaskSource) -> NDArray[np.bool_]:
        """Return the mask of one volume, from the file or from its own voxels."""
        if source == "file":
            return self.on_grid(volume.grid)
        mask: NDArray[np.bool_] = np.not_equal(volume.data, 0)
        if not mask.any():
            raise PreparationError(
                f"volume {volume.time_point} of {volume.source} is 0 everywhere, so that "
                "mask: nonzero finds no brain"
            )
        return mask

    def _read(self) -> tuple[NDArray[np.float32], ImageGrid, Path]:
        if self._stored is None:
            file = find_mask(self.path, self.override)
            series = open_series(file)
            if series.n_time_points != 1:
                raise PreparationError(
                    f"the mask {file} has {series.n_time_points} volumes; one is needed"
                )
            volume = next(series.stream())
            values = np.nan_to_num(volume.data, nan=0.0, posinf=0.0, neginf=0.0)
            self._stored = (values, volume.grid, file)
        return self._stored
