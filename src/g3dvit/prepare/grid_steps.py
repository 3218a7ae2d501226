"""Steps that change the grid: reorient, crop, pad, resample, and the user's own function.

Each gives the exact grid of its result from the grid of its input (`grid_of`), so that maps find
their way back by affine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import GridError, PreparationError
from g3dvit.grids import ImageGrid, Shape3, ensure_shape3
from g3dvit.prepare import base
from g3dvit.prepare.base import Brain, Step
from g3dvit.prepare.resample import SPLINE_ORDER, Interpolation, exact_move, place, to_grid
from g3dvit.volumes import Volume


class GridStep(Step):
    """Base of the steps that change the grid."""

    __slots__ = ()

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        return base.GRID


@dataclass(frozen=True, slots=True)
class Reorient(GridStep):
    """Flip and exchange axes so that they run in the directions named; no value changes.

    Parameters
    ----------
    axcodes
        Directions of (i, j, k), such as ``"RAS"``.
    """

    axcodes: str = "RAS"
    name: ClassVar[str] = "reorient"

    def __post_init__(self) -> None:
        letters = sorted(str(self.axcodes).upper().translate(str.maketrans("LPI", "RAS")))
        if letters != ["A", "R", "S"]:
            raise PreparationError(
                f"`axcodes` names one direction per axis, such as 'RAS', was given {self.axcodes!r}"
            )
        object.__setattr__(self, "axcodes", str(self.axcodes).upper())

    def _turn(self, grid: ImageGrid) -> NDArray[np.float64]:
        now = nib.orientations.io_orientation(grid.affine)
        wanted = nib.orientations.axcodes2ornt(tuple(self.axcodes))
        return np.asarray(nib.orientations.ornt_transform(now, wanted))

    def grid_of(self, grid: ImageGrid) -> ImageGrid:
        """Return the grid after the step."""
        turn = self._turn(grid)
        shape = np.empty(3, dtype=int)
        shape[turn[:, 0].astype(int)] = grid.shape
        affine = grid.affine @ nib.orientations.inv_ornt_aff(turn, grid.shape)
        return ImageGrid(ensure_shape3(shape.tolist()), affine)

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        turned = nib.orientations.apply_orientation(volume.data, self._turn(volume.grid))
        return volume.with_data(turned, self.grid_of(volume.grid))

    def describe(self) -> str:
        """Return one sentence for people."""
        return f"Axes are flipped and exchanged to run {self.axcodes}; no value changes."


@dataclass(frozen=True, slots=True)
class Crop(GridStep):
    """Cut a box by voxel numbers, with the meaning of Python slices.

    Parameters
    ----------
    start, stop : (3,)
        ``data[start[0]:stop[0], ...]``; negative values count from the end, None is open.
    """

    start: tuple[int | None, int | None, int | None]
    stop: tuple[int | None, int | None, int | None]
    name: ClassVar[str] = "crop"

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            values = getattr(self, name)
            entries = [None, None, None] if values is None else list(values)
            if len(entries) != 3 or any(v is not None and int(v) != v for v in entries):
                raise PreparationError(f"`{name}` holds three integers or None, was given {values}")
            object.__setattr__(self, name, tuple(None if v is None else int(v) for v in entries))

    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def grid_of(self, grid: ImageGrid) -> ImageGrid:
        """Return the grid after the step."""
        ranges = [range(n)[part] for n, part in zip(grid.shape, self._slices(), strict=True)]
        if any(len(r) == 0 for r in ranges):
            raise PreparationError(
                f"the crop {self._text()} leaves nothing of a volume of {grid.shape} voxels"
            )
        return grid.box([r.start for r in ranges], [len(r) for r in ranges])

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        grid = self.grid_of(volume.grid)
        # A copy, as np.float32(image.get_fdata()[...]) makes one: sums over it have its bits.
        return volume.with_data(np.array(volume.data[self._slices()], order="K"), grid)

    def _text(self) -> str:
        def end(value: int | None) -> str:
            return "" if value is None else str(value)

        ends = zip(self.start, self.stop, strict=True)
        return "[" + ", ".join(f"{end(a)}:{end(b)}" for a, b in ends) + "]"

    def describe(self) -> str:
        """Return one sentence for people."""
        return f"The box {self._text()} is cut out, in voxels; no value changes."


@dataclass(frozen=True, slots=True)
class Pad(GridStep):
    """Add voxels around the volume.

    Parameters
    ----------
    before, after : (3,)
        How many voxels along (i, j, k).
    fill
        Their value.
    """

    before: Shape3
    after: Shape3
    fill: float = 0.0
    name: ClassVar[str] = "pad"

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", base.check_number("fill", self.fill))
        for name in ("before", "after"):
            values = [base.check_whole(name, v) for v in getattr(self, name)]
            if len(values) != 3:
                raise PreparationError(f"`{name}` holds three integers, was given {values}")
            object.__setattr__(self, name, tuple(values))

    def grid_of(self, grid: ImageGrid) -> ImageGrid:
        """Return the grid after the step."""
        shape = np.add(grid.shape, np.add(self.before, self.after))
        return grid.box([-n for n in self.before], shape.tolist())

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        grid = self.grid_of(volume.grid)
        start = tuple(-n for n in self.before)
        return volume.with_data(place(volume.data, start, grid.shape, self.fill), grid)

    def describe(self) -> str:
        """Return one sentence for people."""
        return f"{self.before} voxels before and {self.after} after are added, value {self.fill:g}."


@dataclass(frozen=True, slots=True)
class Resample(GridStep):
    """Bring volumes to a fixed grid by affine; see `g3dvit.prepare.resample`.

    Parameters
    ----------
    shape : (3,)
        Voxels of the grid.
    affine : (4, 4)
        Voxel to RAS+ world, in mm.
    interpolation
        ``"linear"``, ``"nearest"`` or ``"continuous"``; unused where voxels coincide.
    fill
        Value beyond the source.
    """

    shape: Shape3
    affine: tuple[tuple[float, ...], ...]
    interpolation: Interpolation = "linear"
    fill: float = 0.0
    name: ClassVar[str] = "resample"

    def __post_init__(self) -> None:
        base.check_choice("interpolation", self.interpolation, SPLINE_ORDER)
        object.__setattr__(self, "fill", base.check_number("fill", self.fill))
        try:
            grid = ImageGrid(ensure_shape3(self.shape), np.asarray(self.affine, dtype=np.float64))
        except (GridError, TypeError, ValueError) as error:
            raise PreparationError(f"the step 'resample' has no usable grid: {error}") from error
        object.__setattr__(self, "shape", grid.shape)
        object.__setattr__(self, "affine", tuple(tuple(row) for row in grid.affine.tolist()))

    @property
    def grid(self) -> ImageGrid:
        """The grid to which volumes are brought."""
        return ImageGrid(self.shape, np.asarray(self.affine))

    def grid_of(self, grid: ImageGrid) -> ImageGrid:
        """Return the grid after the step."""
        return self.grid

    def is_exact_for(self, grid: ImageGrid) -> bool:
        """Tell whether volumes on `grid` are sliced, so that no value changes."""
        return exact_move(grid, self.grid) is not None

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        target = self.grid
        moved = to_grid(
            volume.data, volume.grid, target, interpolation=self.interpolation, fill=self.fill
        )
        return volume.with_data(moved, target)

    def describe(self) -> str:
        """Return one sentence for people."""
        grid = self.grid
        sizes = " x ".join(f"{size:g}" for size in grid.voxel_sizes)
        return (
            f"Volumes are brought to {' x '.join(map(str, self.shape))} voxels of {sizes} mm, the "
            f"first at {tuple(grid.affine[:3, 3].tolist())} mm: exactly where voxels coincide, "
            f"otherwise with {self.interpolation} interpolation and without anti-aliasing."
        )


@dataclass(frozen=True, slots=True)
class UserFunction(GridStep):
    """The user's own preparation: ``function(data, affine) -> (data, affine)``.

    The function gets one volume, (i, j, k) float32, and its (4, 4) affine in mm. It returns a
    volume and the affine that is right for it; the grid may not change within a run.

    Parameters
    ----------
    function
        Where to import it from, ``"package.module:function"``.
    """

    function: str
    name: ClassVar[str] = "user_function"

    def __post_init__(self) -> None:
        parts = str(self.function).split(":")
        if len(parts) != 2 or not all(parts):
            raise PreparationError(
                f"`prepare` names a function as 'package.module:function', was given "
                f"{self.function!r}"
            )

    def load(self) -> Callable[..., Any]:
        """Import the function.

        Raises
        ------
        PreparationError
            If it cannot be imported.
        """
        module, _, name = self.function.partition(":")
        try:
            function: Any = import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
        except (ImportError, AttributeError) as error:
            raise PreparationError(
                f"the preparation {self.function} cannot be imported: {error}; install its "
                "package, or run where Python finds it (PYTHONPATH)"
            ) from error
        if not callable(function):
            raise PreparationError(f"the preparation {self.function} is no function")
        return function  # type: ignore[no-any-return]

    def _run(self, data: NDArray[np.float32], grid: ImageGrid) -> tuple[NDArray[Any], ImageGrid]:
        contract = (
            f"{self.function} must return (data, affine): an (i, j, k) array of finite "
            "numbers and a finite (4, 4) matrix in mm"
        )
        result = self.load()(np.array(data, order="C"), np.array(grid.affine))
        if not isinstance(result, Sequence) or len(result) != 2:
            raise PreparationError(f"{contract}; it returned {type(result).__name__}")
        try:
            values = np.asarray(result[0], dtype=np.float32)
            affine = np.asarray(result[1], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PreparationError(f"{contract}; {error}") from error
        if values.ndim != 3:
            raise PreparationError(f"{contract}; its data have the shape {values.shape}")
        try:
            return values, ImageGrid(ensure_shape3(values.shape), affine)
        except GridError as error:
            raise PreparationError(f"{contract}; {error}") from error

    def grid_of(self, grid: ImageGrid) -> ImageGrid:
        """Return the grid after the step, found by running the function on random values."""
        values = np.random.default_rng(0).uniform(1, 2, grid.shape).astype(np.float32)
        return self._run(values, grid)[1]

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        values, grid = self._run(volume.data, volume.grid)
        n_bad = int(values.size - np.isfinite(values).sum())
        if n_bad:
            raise PreparationError(
                f"{self.function} returned {n_bad} NaN or infinite voxels for volume "
                f"{volume.time_point} of {volume.source}; it must return finite numbers"
            )
        return volume.with_data(values, grid)

    def describe(self) -> str:
        """Return one sentence for people."""
        return f"The user's own function {self.function} is applied to every volume."
