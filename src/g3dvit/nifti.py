"""Arrays to NIfTI files and back, several files at once or none of them.

Same values give the same bytes: the gzip header carries no name and no time. This module knows
arrays and affines, not what they mean.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from g3dvit.errors import ImageError, OutputError

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
    """Open a NIfTI image of three or four axes.

    Raises
    ------
    ImageError
        If the file is absent, damaged or something else.
    """
    try:
        image = nib.load(path)
    except (OSError, ImageFileError) as error:
        raise ImageError(f"{path} cannot be read as an image: {error}") from error
    if not isinstance(image, nib.Nifti1Image) or image.ndim not in (3, 4):
        raise ImageError(f"{path} is not a NIfTI image of three or four axes")
    return image


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
