"""Arrays to NIfTI files and back, several files at once or none of them.

Same values give the same bytes: the gzip header carries no name and no time. This module knows
arrays and affines, not what they mean.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from g3dvit.errors import ImageError, OrientationError, OutputError
from g3dvit.grids import ImageGrid
from g3dvit.sources import BROKEN_FILE, check_real, open_inflated

ENDINGS = (".nii.gz", ".nii")


def nifti_stem(path: Path) -> str:
    """Return the name of a NIfTI file without its ending.

    Raises
    ------
    OutputError
        If it does not end in ``.nii.gz`` or ``.nii``.
    """
    for ending in ENDINGS:
        if path.name.endswith(ending) and path.name != ending:
            return path.name[: -len(ending)]
    raise OutputError(f"a map is saved as .nii.gz or .nii, was given {path.name!r}")


def nifti_image(
    values: NDArray[np.generic],
    affine: NDArray[np.float64],
    *,
    t_r: float | None = None,
    sform_code: int = 2,
    qform_code: int = 0,
    description: str = "",
) -> nib.Nifti1Image:
    """Return an array as a NIfTI image.

    Parameters
    ----------
    values : (i, j, k) or (i, j, k, t)
        What to store, in its own type.
    affine : (4, 4)
        Voxel to world, in mm.
    t_r
        Seconds between volumes; stored with its unit for 4D values.
    sform_code, qform_code
        Orientation codes. Where neither form could hold the affine (both codes 0, or a shear in
        a quaternion), the sform is written with code 2.
    description
        At most 79 ASCII characters for the header.
    """
    image = nib.Nifti1Image(np.asarray(values), affine)
    image.set_qform(affine, int(qform_code))
    held = image.header.get_qform() if qform_code else np.zeros((4, 4))
    needs_sform = not np.allclose(held, affine, atol=1e-3)
    image.set_sform(affine, int(sform_code) or (2 if needs_sform else 0))
    timed = t_r is not None and values.ndim == 4
    image.header.set_xyzt_units("mm", "sec" if timed else None)
    if timed:
        image.header["pixdim"][4] = t_r
    image.header["descrip"] = description[:79].encode("ascii", "replace")
    return image


def write_nifti(image: nib.Nifti1Image, path: Path, *, compress: bool) -> None:
    """Write an image to a path of any name; same values, same bytes."""
    with path.open("wb") as raw:
        if not compress:
            image.to_stream(raw)
            return
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            image.to_stream(cast("IO[bytes]", packed))


def read_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI image of three or four axes; a compressed one is gone through to its end.

    Raises
    ------
    ImageError
        If the file is absent, damaged or something else.
    """
    if path.is_dir():
        raise ImageError(f"{path} is a folder; name a NIfTI image")
    try:
        image = nib.load(path)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise ImageError(f"{path} cannot be read as an image: {error}") from error
    if not isinstance(image, nib.Nifti1Image) or image.ndim not in (3, 4):
        raise ImageError(f"{path} is not a NIfTI image of three or four axes")
    check_real(image.get_data_dtype(), path)
    _check_whole(path)
    return image


def nifti_values(
    image: nib.Nifti1Image, path: Path, dtype: type[np.generic] | None = None
) -> NDArray[Any]:
    """Return the voxels of an opened image, in a type of numbers where one is named.

    Raises
    ------
    ImageError
        If the file ends too early.
    """
    try:
        return np.asarray(image.dataobj, dtype=dtype)
    except BROKEN_FILE as error:
        raise _damaged(path, error) from error


def nifti_grid(image: nib.Nifti1Image, path: Path) -> ImageGrid:
    """Return where the voxels of an opened image lie.

    Raises
    ------
    OrientationError
        If the file does not say it, so that left and right would be a guess of the reader.
    ImageError
        If its affine has no inverse.
    """
    if not (int(image.header["sform_code"]) or int(image.header["qform_code"])):
        raise OrientationError(
            f"{path} does not say where its voxels lie: its sform and qform codes are both 0, and "
            "a guess could swap left and right. Save it again with the affine of the image that "
            "it was made of"
        )
    i, j, k = image.shape[:3]
    try:
        return ImageGrid((i, j, k), image.affine)
    except ValueError as error:
        raise ImageError(f"{path} has no usable affine: {error}") from error


def _check_whole(path: Path) -> None:
    """Read a compressed file to its end, where its checksum stands; nibabel stops before it."""
    try:
        with open_inflated(path) as (stream, compressed):
            while compressed and stream.read(1 << 20):
                pass
    except BROKEN_FILE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> ImageError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ImageError(f"{path} is damaged or incomplete ({reason}); copy or download it again")


def write_together(writers: Mapping[Path, Callable[[Path], object]], *, overwrite: bool) -> None:
    """Write several files in one folder: all appear, or none.

    Parameters
    ----------
    writers
        Target path to a function that writes to the path it is given.
    overwrite
        Replace files that exist.

    Raises
    ------
    OutputError
        If a file exists and `overwrite` is False, or cannot be written.
    """
    existing = [target for target in writers if target.exists()]
    if existing and not overwrite:
        raise OutputError(
            f"{existing[0]} already exists; ask for it to be replaced with overwrite=True "
            f"(--overwrite), or choose another name"
        )
    parts = {target: target.with_name(f".{target.name}.{os.getpid()}.part") for target in writers}
    try:
        for target, write in writers.items():
            write(parts[target])
        for target, part in parts.items():
            os.replace(part, target)
    except OSError as error:
        raise OutputError(f"{next(iter(writers))} could not be written: {error}") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
