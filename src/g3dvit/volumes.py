"""Images in: a 3D or 4D file as a stream of volumes that know where and when they are.

Terms. A `Volume` is one time point: (i, j, k) float32, its grid in mm, its place in the run.
A `Series` is one run, opened but not read; a 3D file is a run of one volume. `Series.stream`
is one pass front to back with one volume in memory.

Left and right. The affine decides, never the shape. A NIfTI whose sform and qform codes are
both zero has no affine (nibabel then guesses that i runs from right to left), and Analyze
never has one: both are refused unless the caller says what the files hold.

Time. ``onset_s`` is the time to which a volume belongs, in seconds from the start of the run:
the middle of its acquisition, ``(t + 0.5) * t_r``. A BIDS sidecar's ``StartTime`` is the time
to which slice timing correction moved the first volume, so with it ``StartTime + t * t_r`` is
used and nothing is added (nilearn's ``slice_time_ref = StartTime / t_r``).

This module prepares nothing: see `g3dvit.prepare`.
"""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import G3DWarning, ImageError, OrientationError, SelectionError
from g3dvit.grids import ImageGrid
from g3dvit.headers import (
    Orientation,
    assumed_grid,
    header_t_r,
    load_image,
    orientation_codes,
    own_grid,
)
from g3dvit.sidecars import Sidecar, load_sidecar, space_entity
from g3dvit.sources import ArrayAxes, Source, image_source, load_array

ARRAY_SUFFIXES = (".npy", ".npz", ".pt", ".pth")


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One time point of a run.

    Parameters
    ----------
    data : (i, j, k) float32
        The values; NaN and infinite ones as stored until a `Preparation` sets them to 0.
    grid
        Where the voxels lie, RAS+ mm.
    source
        The path as the user gave it.
    time_point
        Index in the run, from 0, counted before dummy volumes are dropped.
    onset_s
        Time to which the volume belongs, in s from the start of the run (see the module's
        docstring); None where the repetition time is unknown.
    n_not_finite
        How many NaN or infinite voxels a `Preparation` has set to 0.
    """

    data: NDArray[np.float32] = field(repr=False)
    grid: ImageGrid
    source: str
    time_point: int
    onset_s: float | None
    n_not_finite: int = 0

    def with_data(self, data: NDArray[np.float32], grid: ImageGrid | None = None) -> Volume:
        """Return this time point with other values, and another grid if one is given."""
        return replace(self, data=data, grid=self.grid if grid is None else grid)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One run, opened but not read; made by `open_series`.

    Parameters
    ----------
    path
        The file.
    grid
        The grid of every volume.
    n_time_points
        How many volumes the run holds.
    t_r
        Repetition time in s, or None where unknown.
    start_time
        Time of volume 0 in s: the sidecar's ``StartTime``, otherwise half of `t_r`.
    space
        BIDS name of the space, or None where nothing names it.
    sform_code, qform_code
        NIfTI codes for images made from this one; 2 and 0 where the orientation was assumed,
        1 and 0 for formats without such codes.
    source
        The reader of the file.
    start_time_known
        Whether `start_time` comes from the sidecar.
    space_origin
        What named the space: ``"argument"``, ``"sidecar"``, ``"file name"`` or None.
    orientation_assumed
        The orientation that the caller vouched for, or None.
    """

    path: Path
    grid: ImageGrid
    n_time_points: int
    t_r: float | None
    start_time: float
    space: str | None
    sform_code: int
    qform_code: int
    source: Source = field(repr=False)
    start_time_known: bool = False
    space_origin: str | None = None
    orientation_assumed: Orientation | None = None

    def onset_s(self, time_point: int) -> float | None:
        """Return the time of a volume in s from the start of the run, if it is known."""
        return None if self.t_r is None else self.start_time + time_point * self.t_r

    def stream(self, time_points: Sequence[int] | None = None) -> Iterator[Volume]:
        """Yield volumes in ascending time, in one pass over the file.

        Parameters
        ----------
        time_points
            Which volumes, in any order; all of them by default.

        Raises
        ------
        SelectionError
            If a time point is asked for twice or does not exist.
        ImageError
            If the file turns out to be damaged.
        """
        chosen = check_time_points(time_points, self.n_time_points, str(self.path))
        return self._volumes(chosen)

    def _volumes(self, chosen: Sequence[int]) -> Iterator[Volume]:
        for t, data in zip(chosen, self.source.read(chosen), strict=True):
            yield Volume(data, self.grid, str(self.path), t, self.onset_s(t))


def check_time_points(
    time_points: Sequence[int] | None, n_time_points: int, name: str
) -> tuple[int, ...]:
    """Return time points in ascending order.

    Raises
    ------
    SelectionError
        If one is asked for twice, is no integer or does not exist.
    """
    if time_points is None:
        return tuple(range(n_time_points))
    try:
        chosen = sorted(operator.index(t) for t in time_points)
    except TypeError as error:
        raise SelectionError(f"time points are integers, was given {time_points!r}") from error
    outside = [t for t in chosen if not 0 <= t < n_time_points]
    if outside:
        raise SelectionError(
            f"{name} has no volume {outside[0]}; its {n_time_points} volumes are numbered "
            f"0 to {n_time_points - 1}"
        )
    twice = [a for a, b in itertools.pairwise(chosen) if a == b]
    if twice:
        raise SelectionError(f"volume {twice[0]} of {name} is asked for twice; name it once")
    return tuple(chosen)


def open_series(
    path: str | Path,
    *,
    reference: str | Path | None = None,
    assume_orientation: Orientation | None = None,
    t_r: float | None = None,
    space: str | None = None,
    array_axes: ArrayAxes | None = None,
) -> Series:
    """Open a 3D or 4D image, or an array, without reading its voxels.

    Parameters
    ----------
    path
        An image that nibabel reads (``.nii``, ``.nii.gz``, ``.img``/``.hdr``, ``.mgz`` ...) or
        an array (``.npy``, ``.npz``, ``.pt``).
    reference
        An image on the same grid whose affine holds for `path`; needed for arrays, allowed
        for images without an orientation.
    assume_orientation
        For images without an orientation: how their axes run. Their millimetres then start
        at the centre of the image.
    t_r
        Repetition time in s; overrides sidecar and header.
    space
        BIDS name of the space; overrides the sidecar and the file name.
    array_axes
        Order of an array's axes where it is not (i, j, k) or (i, j, k, t).

    Raises
    ------
    ImageError
        If the file is absent, damaged, not a 3D or 4D image, or an array without reference.
    OrientationError
        If left and right cannot be told from the file.
    """
    path = Path(path)
    if t_r is not None and not (math.isfinite(t_r) and t_r > 0):
        raise ImageError(f"a repetition time is a positive number of seconds, was given {t_r}")
    if assume_orientation not in (None, "RAS", "LAS"):
        raise OrientationError(
            f"`assume_orientation` is 'RAS' or 'LAS', was given {assume_orientation!r}"
        )
    if not path.is_file():
        raise ImageError(f"there is no file {path}")
    sidecar = load_sidecar(path)
    if path.name.lower().endswith(ARRAY_SUFFIXES):
        opened = _open_array(path, reference, array_axes)
    else:
        opened = _open_image(path, reference, assume_orientation)
    t_r = t_r if t_r is not None else _choose_t_r(path, sidecar, opened.t_r)
    named, origin = _choose_space(path, sidecar, space, opened.space)
    known = sidecar.start_time is not None
    start = sidecar.start_time if sidecar.start_time is not None else (t_r or 0.0) / 2
    return replace(
        opened, t_r=t_r, start_time=start, start_time_known=known, space=named, space_origin=origin
    )


def _open_array(path: Path, reference: str | Path | None, axes: ArrayAxes | None) -> Series:
    source = load_array(path, axes)
    if reference is None:
        raise ImageError(
            f"{path} is an array without an affine; give an image on the same grid as the "
            "reference (`reference=`, --reference REF.nii.gz)"
        )
    like = open_series(reference)
    if source.shape != like.grid.shape:
        hint = (
            "; cut it from the image that the array was made of, for example with nibabel's "
            "image.slicer[1:, 10:-9, 1:]"
        )
        if axes is None and source.array.shape[1:] == like.grid.shape:
            hint = "; if time comes first, say so (array_axes='tijk')"
        raise ImageError(
            f"{path} holds volumes of {source.shape} voxels, but the reference {like.path} has "
            f"{like.grid.shape}; the reference must be on the grid of the array{hint}"
        )
    return _borrow(path, source, like)


def _borrow(path: Path, source: Source, like: Series) -> Series:
    """Return a run that lies where the reference lies."""
    codes = (like.sform_code, like.qform_code)
    return Series(path, like.grid, source.n_time_points, None, 0.0, like.space, *codes, source)


def _open_image(
    path: Path, reference: str | Path | None, assume_orientation: Orientation | None
) -> Series:
    image = load_image(path)
    source = image_source(path, image)
    codes = orientation_codes(image)
    t_r = header_t_r(image)
    like = open_series(reference) if reference is not None else None
    if codes == (0, 0):
        if like is None:
            grid = assumed_grid(path, image, source.shape, assume_orientation)
            return Series(
                path, grid, source.n_time_points, t_r, 0.0, None, 2, 0, source,
                orientation_assumed=assume_orientation,
            )  # fmt: skip
        if like.grid.shape != source.shape:
            raise ImageError(
                f"the reference {like.path} has {like.grid.shape} voxels, {path} has "
                f"{source.shape}; the reference must be on the grid of the image"
            )
        return replace(_borrow(path, source, like), t_r=t_r)
    grid = own_grid(path, image, source.shape)
    if like is not None and not like.grid.matches(grid):
        raise ImageError(
            f"{path} has an affine of its own that differs from the reference's, "
            f"{like.path}; leave the reference out"
        )
    return Series(path, grid, source.n_time_points, t_r, 0.0, None, *codes, source)


def _choose_t_r(path: Path, sidecar: Sidecar, header_t_r: float | None) -> float | None:
    if sidecar.t_r is None:
        return header_t_r
    if header_t_r is not None and abs(header_t_r - sidecar.t_r) > 0.01 * sidecar.t_r:
        warnings.warn(
            f"{path}: the header says a repetition time of {header_t_r:g} s, the sidecar "
            f"{sidecar.t_r:g} s; the sidecar is believed (set t_r to override both)",
            G3DWarning,
            stacklevel=3,
        )
    return sidecar.t_r


def _choose_space(
    path: Path, sidecar: Sidecar, argument: str | None, borrowed: str | None
) -> tuple[str | None, str | None]:
    for name, origin in (
        (argument, "argument"),
        (sidecar.space, "sidecar"),
        (space_entity(path), "file name"),
        (borrowed, "reference"),
    ):
        if name is not None:
            return name, origin
    return None, None
