"""Which space an image is in, and whether a model trained in another one may see it.

Names are those of BIDS. Resampling by affine never warps: two images in different standard
spaces disagree by millimetres, an image in native space by centimetres. The first draws a
warning, the second is an error. Where nothing names the space, an image whose box is that of a
known template is taken to be in its space, and a note says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import G3DWarning, SpaceError
from g3dvit.grids import ImageGrid
from g3dvit.volumes import Series

NATIVE = frozenset(
    {"native", "scanner", "individual", "orig", "t1w", "t2w", "func", "bold", "boldref", "anat"}
)
"""Names of spaces that belong to one person; BIDS and fMRIPrep use several."""

# Outer faces (x-, x+, y-, y+, z-, z+) in mm of the boxes in which templates are distributed, at
# any voxel size: TemplateFlow's template_description.json, nilearn 0.14, SPM12's defaults.
BOXES: Mapping[str, tuple[float, float, float, float, float, float]] = {
    "MNI152NLin6Asym": (-91, 91, -127, 91, -73, 109),
    "MNI152NLin2009cAsym": (-97, 97, -133, 97, -79, 115),
    "MNI152NLin2009aAsym": (-99, 99, -135, 99, -73, 117),
    "IXI549Space": (-79, 79, -113, 77, -71, 86),
}
COARSER = 1.25
"""Voxels this many times larger than the model's are worth a note."""


def _faces(grid: ImageGrid) -> NDArray[np.float64] | None:
    """Return the outer faces of a box along the world's axes, or None where it is tilted."""
    rotation = grid.affine[:3, :3] / grid.voxel_sizes
    if np.abs(np.abs(rotation).max(axis=0) - 1).max() > 1e-3:
        return None
    ends = grid.vox2world(np.stack([np.zeros(3), np.asarray(grid.shape)]) - 0.5)
    return np.stack([ends.min(axis=0), ends.max(axis=0)], axis=1)


def infer_space(grid: ImageGrid) -> str | None:
    """Return the template whose box a grid fills, to a voxel, or None.

    The lower faces must agree to half a voxel (and 1 mm), the upper ones to one voxel more,
    because a box is rarely a multiple of the voxel size.
    """
    faces = _faces(grid)
    if faces is None:
        return None
    sizes = np.abs(grid.affine[:3, :3]).sum(axis=1)
    best: tuple[float, str] | None = None
    for name, box in BOXES.items():
        apart = np.abs(faces - np.asarray(box, dtype=np.float64).reshape(3, 2))
        limit = np.stack([sizes / 2 + 1, sizes * 1.5 + 1], axis=1)
        if (apart <= limit).all() and (best is None or apart.sum() < best[0]):
            best = (float(apart.sum()), name)
    return best[1] if best else None


def judge_space(
    wanted: str | None, prepared: ImageGrid, series: Series
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return warnings and notes about the space of a run.

    Parameters
    ----------
    wanted
        The space in which the model was trained; None asks nothing.
    prepared
        The model's grid.
    series
        The run.

    Raises
    ------
    SpaceError
        If the run is in native space, or nothing tells which space it is in.
    """
    warned: list[str] = []
    notes: list[str] = []
    if wanted is not None and not _same(wanted, series.space):
        _compare(wanted, series, warned, notes)
    edges = [float(np.cbrt(grid.voxel_volume_mm3)) for grid in (series.grid, prepared)]
    if edges[0] > COARSER * edges[1]:
        notes.append(
            f"{series.path}: {edges[0]:.3g} mm data at {edges[1]:.3g} mm gain no detail; maps are "
            "no finer than the data"
        )
    return tuple(warned), tuple(notes)


def _same(wanted: str, given: str | None) -> bool:
    return given is not None and given.lower() == wanted.lower()


def _compare(wanted: str, series: Series, warned: list[str], notes: list[str]) -> None:
    remedy = (
        f"If it is in {wanted} all the same, declare it (--space {wanted}, space={wanted!r}); "
        "otherwise normalise it first, for example with fMRIPrep"
    )
    given = series.space
    if given is not None and given.lower() in NATIVE:
        raise SpaceError(
            f"{series.path} is in native space ({given}, by the {series.space_origin}), the model "
            f"was trained in {wanted}; resampling does not warp one brain onto another. {remedy}"
        )
    if given is None:
        inferred = infer_space(series.grid)
        if inferred is None:
            raise SpaceError(
                f"nothing says that {series.path} is in a standard space: no space- in its name, "
                f"no SpatialReference, and its box is that of no template known here "
                f"({', '.join(BOXES)}). The model was trained in {wanted}, and resampling does "
                f"not warp. {remedy}"
            )
        if _same(wanted, inferred):
            notes.append(f"{series.path}: {inferred} is inferred from its box, nothing names it")
            return
        given = f"{inferred} (inferred from its box)"
    warned.append(
        f"{series.path} is in {given}, the model was trained in {wanted}; volumes are resampled, "
        "and resampling does not warp: places may be off by some millimetres"
    )


def warn_all(messages: tuple[str, ...]) -> None:
    """Emit each message as a `G3DWarning`."""
    for message in messages:
        warnings.warn(message, G3DWarning, stacklevel=4)
