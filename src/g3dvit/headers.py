"""What the header of a nibabel image says about place and time, and what it does not say.

nibabel always answers when asked for an affine: where a file has none, it guesses. The
functions here tell a statement from a guess. They read no voxels.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from g3dvit.errors import G3DWarning, ImageError, OrientationError
from g3dvit.grids import ImageGrid, Shape3

Orientation = Literal["RAS", "LAS"]
_SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}
_LONGEST_T_R_S = 30.0
"""No fMRI run repeats more slowly; a larger number is in milliseconds."""
_SHORTEST_T_R_S = 0.02
"""No fMRI run repeats faster; a smaller number has the wrong unit."""


def load_image(path: Path) -> Any:
    """Open an image of volumes; its voxels stay on the disk.

    Raises
    ------
    ImageError
        If nibabel cannot read the file, or it holds surfaces or tables.
    """
    try:
        image: Any = nib.load(path)
    except Exception as error:  # every format of nibabel has errors of its own
        raise ImageError(
            f"{path} cannot be read as an image ({error or type(error).__name__}); a NIfTI, "
            "MGZ or another format of nibabel is needed, or an array (.npy, .npz, .pt)"
        ) from error
    if not isinstance(image, SpatialImage) or len(image.shape) < 3:
        raise ImageError(
            f"{path} holds no volumes but {type(image).__name__} data of shape "
            f"{getattr(image, 'shape', None)}; a 3D or 4D image is needed"
        )
    return image


def orientation_codes(image: Any) -> tuple[int, int]:
    """Return sform and qform code; both 0 where left and right are unknown."""
    if isinstance(image, nib.nifti1.Nifti1Pair):
        return int(image.header["sform_code"]), int(image.header["qform_code"])
    if isinstance(image, nib.analyze.AnalyzeImage):
        return 0, 0
    return 1, 0  # MGZ, MINC, AFNI ... state their axes: scanner coordinates


def own_grid(path: Path, image: Any, shape: Shape3) -> ImageGrid:
    """Return the grid that an image with orientation codes states.

    Raises
    ------
    ImageError
        If its affine cannot be inverted.
    """
    try:
        grid = ImageGrid(shape, np.asarray(image.affine))
    except ValueError as error:
        raise ImageError(f"{path} has no usable affine: {error}") from error
    if isinstance(image, nib.nifti1.Nifti1Pair) and 0 not in orientation_codes(image):
        forms = (image.header.get_sform(), image.header.get_qform())
        if np.prod([np.linalg.det(affine[:3, :3]) for affine in forms]) < 0:
            warnings.warn(
                f"the sform and the qform of {path} disagree about left and right; "
                "the sform is used, as most tools do",
                G3DWarning,
                stacklevel=4,
            )
    return grid


def assumed_grid(
    path: Path, image: Any, shape: Shape3, orientation: Orientation | None
) -> ImageGrid:
    """Return the grid of an image without affine whose orientation the caller vouches for.

    The world's origin is put at the centre of the image, since the file has none.

    Raises
    ------
    OrientationError
        If nobody vouches for the orientation.
    ImageError
        If the voxel sizes are not positive.
    """
    if orientation is None:
        kind = (
            "its sform and qform codes are both 0"
            if isinstance(image, nib.nifti1.Nifti1Pair)
            else "the Analyze format does not store it"
        )
        raise OrientationError(
            f"left and right of {path} are unknown: {kind}. A guess could swap them. If you know "
            "how its first axis runs, say --assume-orientation RAS (towards the right) or LAS "
            "(towards the left; assume_orientation='LAS' in Python), or give an image on the "
            "same grid as the reference"
        )
    sizes = np.abs(np.asarray(image.header.get_zooms()[:3], dtype=np.float64))
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ImageError(f"{path} has no usable voxel sizes: {sizes.tolist()} mm")
    steps = sizes * (1 if orientation == "RAS" else -1, 1, 1)
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.asarray(shape) - 1) / 2
    warnings.warn(
        f"{path} is taken to be {orientation}; it stores no origin, so its millimetres count "
        "from the centre of the image",
        G3DWarning,
        stacklevel=4,
    )
    return ImageGrid(shape, affine)


def header_t_r(image: Any) -> float | None:
    """Return the repetition time in s that the header states credibly, or None.

    A time of 0, a time of 1 without unit, less than 20 ms (seconds that are called
    milliseconds) and a unit that is none of time count as unknown; more than 30 s are taken for
    milliseconds.
    """
    zooms = image.header.get_zooms()
    if len(zooms) < 4:
        return None
    unit = "msec" if isinstance(image, nib.freesurfer.MGHImage) else "unknown"
    if isinstance(image, nib.nifti1.Nifti1Pair):
        try:
            unit = image.header.get_xyzt_units()[1]
        except KeyError:  # a code that NIfTI does not define
            unit = "unknown"
    value = float(zooms[3])
    if not (math.isfinite(value) and value > 0) or unit not in _SECONDS_PER_UNIT:
        return None
    if unit == "unknown" and value == 1.0:
        return None  # what writers leave there when they know nothing
    # The header holds float32: 0.72 s is 0.7200000286, and means 0.72.
    seconds = float(str(np.float32(value))) * _SECONDS_PER_UNIT[unit]
    if seconds > _LONGEST_T_R_S:
        seconds /= 1000
    return seconds if seconds >= _SHORTEST_T_R_S else None
