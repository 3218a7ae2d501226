"""Where the numbers of a run come from: files that are read front to back.

A *source* gives the time points of one file in ascending order, one (i, j, k) float32 array at
a time, in a single pass. A compressed file is inflated once per pass, whatever is asked for
(`nibabel`'s ``dataobj[..., t]`` would inflate it from the start for every `t`). Scaling is
done in float64 and rounded once to float32, as ``np.float32(image.get_fdata())`` does; NaN
and infinite voxels are passed on as they are.

This module knows nothing of affines, time or spaces: see `g3dvit.volumes`.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import numpy as np
from nibabel.arrayproxy import ArrayProxy, is_proxy
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from g3dvit.errors import ImageError
from g3dvit.grids import Shape3

ArrayAxes = Literal["ijk", "ijkt", "tijk"]
BROKEN_FILE = (OSError, EOFError, zlib.error, ValueError, zipfile.BadZipFile)
_GZIP_MAGIC = b"\x1f\x8b"


class Source(Protocol):
    """One file whose time points can be read in ascending order."""

    @property
    def shape(self) -> Shape3:
        """Voxels along (i, j, k)."""

    @property
    def n_time_points(self) -> int:
        """How many volumes the file holds."""

    def read(self, time_points: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Yield the (i, j, k) arrays of ascending `time_points` in one pass."""


def open_raw(path: Path) -> IO[bytes]:
    """Open a file as it lies on the disk (the one place where image bytes are read)."""
    return open(path, "rb")


@contextmanager
def open_inflated(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """Open a file for reading from its start; tells whether it is compressed."""
    with open_raw(path) as raw:
        magic = raw.read(2)
        raw.seek(0)
        if magic == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=raw, mode="rb") as inflated:
                yield cast("IO[bytes]", inflated), True
            return
    compressed = path.suffix.lower() in {".bz2", ".zst"}
    with ImageOpener(str(path), "rb") if compressed else open_raw(path) as plain:
        yield cast("IO[bytes]", plain), compressed


def split_shape(shape: Sequence[int], path: Path) -> tuple[Shape3, int]:
    """Return voxels along (i, j, k) and number of time points of an image's shape.

    Raises
    ------
    ImageError
        If the shape is not that of a 3D or 4D image with at least one voxel.
    """
    if len(shape) not in (3, 4):
        raise ImageError(
            f"{path} holds {len(shape)} dimensions, {tuple(shape)}; a 3D volume (i, j, k) or a "
            "4D run (i, j, k, t) is needed; save one of those"
        )
    if 0 in shape:
        raise ImageError(f"{path} is empty: its shape is {tuple(shape)}")
    i, j, k = (int(n) for n in shape[:3])
    return (i, j, k), int(shape[3]) if len(shape) == 4 else 1


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return real numbers as float32, each rounded once; the result owns its memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(values, dtype=np.float32, order="K")


def check_real(dtype: np.dtype[Any], path: Path) -> None:
    """Raise `ImageError` unless voxels of this type are real numbers."""
    if dtype.kind not in "biuf":
        raise ImageError(
            f"{path} holds voxels of type {dtype}; one real number per voxel is needed "
            "(no colours, no complex numbers)"
        )


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """The data of a nibabel image that has not been loaded.

    Parameters
    ----------
    path
        The path as the user gave it, for messages.
    file
        The file that holds the voxels; differs from `path` for ``.hdr``/``.img`` pairs.
    dataobj
        nibabel's array proxy.
    """

    path: Path
    file: Path
    dataobj: Any

    @property
    def shape(self) -> Shape3:
        """Voxels along (i, j, k)."""
        return split_shape(self.dataobj.shape, self.path)[0]

    @property
    def n_time_points(self) -> int:
        """How many volumes the file holds."""
        return split_shape(self.dataobj.shape, self.path)[1]

    def read(self, time_points: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Yield the arrays of ascending `time_points`, each in Fortran order."""
        # Formats with a proxy of their own (MINC, PAR/REC, AFNI) are sliced by nibabel.
        plain = type(self.dataobj) is ArrayProxy and self.dataobj.order == "F"
        arrays = self._read_bytes(time_points) if plain else self._read_slices(time_points)
        try:
            yield from arrays
        except BROKEN_FILE as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(
                f"{self.path} is damaged or incomplete ({error or type(error).__name__}); "
                "copy or download it again"
            ) from error

    def _read_slices(self, time_points: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        four_dimensional = len(self.dataobj.shape) == 4
        for t in time_points:
            values = self.dataobj[..., t] if four_dimensional else np.asanyarray(self.dataobj)
            yield to_float32(values)

    def _read_bytes(self, time_points: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        dtype: np.dtype[Any] = self.dataobj.dtype
        size = math.prod(self.shape) * dtype.itemsize
        with open_inflated(self.file) as (file, compressed):
            end = self.dataobj.offset + size * self.n_time_points
            if not compressed and end > self.file.stat().st_size:
                raise _incomplete(self.path)
            buffer = self._buffer(size)
            _skip(file, self.dataobj.offset, compressed=compressed, buffer=bytearray(2**16))
            following = 0
            for t in time_points:
                _skip(file, (t - following) * size, compressed=compressed, buffer=buffer)
                _fill(file, memoryview(buffer), self.path)
                following = t + 1
                stored = np.frombuffer(buffer, dtype).reshape(self.shape, order="F")
                yield self._scale(stored)
            if compressed and following == self.n_time_points:
                while file.read(2**16):  # reaching the end makes gzip compare its checksum
                    pass

    def _buffer(self, size: int) -> bytearray:
        try:
            return bytearray(size)
        except (MemoryError, OverflowError) as error:
            raise ImageError(
                f"{self.path} announces volumes of {self.shape} voxels, {size / 1e9:.3g} GB each, "
                "which do not fit into memory; its header may be damaged"
            ) from error

    def _scale(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        slope, intercept = float(self.dataobj.slope), float(self.dataobj.inter)
        if (slope, intercept) == (1.0, 0.0):
            return to_float32(stored)
        return to_float32(stored * np.float64(slope) + np.float64(intercept))


def _fill(file: IO[bytes], target: memoryview, path: Path) -> None:
    """Fill `target` with the next bytes of the file."""
    done = 0
    while done < len(target):
        n = cast("Any", file).readinto(target[done:])
        if not n:
            raise _incomplete(path)
        done += n


def _incomplete(path: Path) -> ImageError:
    return ImageError(
        f"{path} is incomplete: it ends before the last volume that its header announces; copy "
        "or download it again"
    )


def _skip(file: IO[bytes], n_bytes: int, *, compressed: bool, buffer: bytearray) -> None:
    """Move forward; a compressed file is read, since seeking would do no less."""
    if not compressed:
        file.seek(n_bytes, 1)
        return
    view = memoryview(buffer)
    while n_bytes > 0:
        n = cast("Any", file).readinto(view[: min(n_bytes, len(view))])
        if not n:
            raise EOFError("it ends before its last volume")
        n_bytes -= n


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """An array from ``.npy``, ``.npz`` or ``.pt``.

    ``.npy`` stays on the disk and is mapped; the others are in memory as a whole.
    """

    path: Path
    array: NDArray[Any]
    axes: ArrayAxes

    @property
    def shape(self) -> Shape3:
        """Voxels along (i, j, k)."""
        i, j, k = self.array.shape[1:] if self.axes == "tijk" else self.array.shape[:3]
        return (i, j, k)

    @property
    def n_time_points(self) -> int:
        """How many volumes the file holds."""
        if self.axes == "ijk":
            return 1
        return int(self.array.shape[self.axes.index("t")])

    def read(self, time_points: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Yield the arrays of ascending `time_points`."""
        for t in time_points:
            if self.axes == "ijk":
                yield to_float32(self.array)
            else:
                yield to_float32(self.array[t] if self.axes == "tijk" else self.array[..., t])


def load_array(path: Path, axes: ArrayAxes | None = None) -> ArraySource:
    """Open ``.npy``, ``.npz`` (one array) or ``.pt`` (one tensor).

    Parameters
    ----------
    path
        The file. Nothing in it is executed: no pickles, ``weights_only`` for ``.pt``.
    axes
        What the axes are; by default (i, j, k), or (i, j, k, t) for four of them.

    Raises
    ------
    ImageError
        If the file is damaged or does not hold exactly one real array of such axes.
    """
    try:
        array = _load_torch(path) if path.suffix.lower() in {".pt", ".pth"} else _load_numpy(path)
    except ImageError:
        raise
    except Exception as error:  # unpicklers raise anything
        raise ImageError(f"{path} cannot be read as an array: {error}") from error
    check_real(array.dtype, path)
    if axes is None:
        axes = "ijk" if array.ndim == 3 else "ijkt"
    if array.ndim not in (3, 4) or array.ndim != len(axes):
        raise ImageError(
            f"{path} holds an array of shape {array.shape}, which cannot have the axes "
            f"({', '.join(axes)}); a volume (i, j, k), or a run (i, j, k, t) or (t, i, j, k) "
            "(`array_axes`) is needed"
        )
    if 0 in array.shape:
        raise ImageError(f"{path} is empty: its shape is {array.shape}")
    return ArraySource(path, array, axes)


def _load_numpy(path: Path) -> NDArray[Any]:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return np.asarray(_only(path, {name: loaded[name] for name in loaded.files}))


def _load_torch(path: Path) -> NDArray[Any]:
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    tensor = _only(path, loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(tensor, torch.Tensor):
        raise ImageError(f"{path} holds a {type(tensor).__name__}; one tensor is needed")
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def _only(path: Path, arrays: Mapping[str, Any]) -> Any:
    if len(arrays) != 1:
        raise ImageError(
            f"{path} holds {len(arrays)} arrays ({', '.join(map(str, arrays)) or 'none'}); "
            "exactly one is needed: save the volumes alone"
        )
    return next(iter(arrays.values()))


def image_source(path: Path, image: Any) -> ImageSource:
    """Return the source of a nibabel image that was opened from `path`."""
    dataobj = image.dataobj
    if is_proxy(dataobj):
        check_real(np.dtype(getattr(dataobj, "dtype", image.get_data_dtype())), path)
    split_shape(dataobj.shape, path)
    holder = image.file_map.get("image")
    file = Path(holder.filename) if holder is not None and holder.filename else path
    return ImageSource(path, file, dataobj)
