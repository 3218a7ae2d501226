"""Where voxels and patches lie in the world, in millimetres.

An `ImageGrid` is a shape and an affine: voxel indices (i, j, k) to RAS+ world
coordinates in mm. A `PatchGrid` divides an `ImageGrid` into equal patches and is itself an
image grid: patch `g` of size `p` is centred at voxel ``p * g + (p - 1) / 2``. Numpy only;
this module reads no file and resamples nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import GridError

Shape3 = tuple[int, int, int]


def ensure_shape3(values: Sequence[int] | int, *, name: str = "shape") -> Shape3:
    """Return three positive integers; one integer stands for all three."""
    sequence = [values] * 3 if isinstance(values, int) else list(values)
    if len(sequence) != 3 or any(int(v) != v or v < 1 for v in sequence):
        raise GridError(f"`{name}` takes three positive integers, was given {values!r}")
    return (int(sequence[0]), int(sequence[1]), int(sequence[2]))


@dataclass(frozen=True, slots=True, eq=False)
class ImageGrid:
    """A box of voxels in the world.

    Parameters
    ----------
    shape : (3,)
        Number of voxels along (i, j, k).
    affine : (4, 4)
        Voxel index to RAS+ world coordinate, in mm.

    Raises
    ------
    GridError
        If the shape is not three positive integers or the affine cannot be inverted.

    Examples
    --------
    >>> grid = ImageGrid((4, 5, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> grid.vox2world([1, 1, 1])
    array([2., 2., 2.])
    >>> grid.axcodes
    'RAS'
    """

    shape: Shape3
    affine: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        object.__setattr__(self, "shape", ensure_shape3(self.shape))
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GridError(f"`affine` takes a finite (4, 4) matrix, was given {affine!r}")
        if not np.allclose(affine[3], [0, 0, 0, 1]):
            raise GridError(f"the last row of an affine is (0, 0, 0, 1), was given {affine[3]}")
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        if (sizes == 0).any() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
            raise GridError(f"`affine` cannot be inverted: {affine[:3, :3].tolist()}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageGrid) and self.matches(other)

    def __hash__(self) -> int:
        return hash(self.shape)

    def matches(self, other: ImageGrid, *, tolerance_mm: float = 1e-3) -> bool:
        """Tell whether both grids put every voxel in the same place.

        Parameters
        ----------
        other
            The grid to compare with.
        tolerance_mm
            Largest distance between corresponding corners, in mm.
        """
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        apart = np.linalg.norm(self.vox2world(corners) - other.vox2world(corners), axis=1)
        return bool(apart.max() <= tolerance_mm)

    @property
    def voxel_sizes(self) -> NDArray[np.float64]:
        """Edges of one voxel, (3,), in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), dtype=np.float64)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def axcodes(self) -> str:
        """The world directions nearest to (i, j, k), such as ``"RAS"`` or ``"LAS"``."""
        rotation = self.affine[:3, :3] / self.voxel_sizes
        codes = ["?"] * 3
        scores = np.abs(rotation)
        for _ in range(3):  # the clearest axis first, so that no direction is taken twice
            world, axis = np.unravel_index(int(np.argmax(scores)), scores.shape)
            codes[axis] = ("LR", "PA", "IS")[world][int(rotation[world, axis] > 0)]
            scores[world, :] = -1
            scores[:, axis] = -1
        return "".join(codes)

    def vox2world(self, ijk: ArrayLike) -> NDArray[np.float64]:
        """Turn voxel indices (..., 3) into world coordinates (..., 3) in mm."""
        points = np.asarray(ijk, dtype=np.float64)
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def world2vox(self, xyz: ArrayLike) -> NDArray[np.float64]:
        """Turn world coordinates (..., 3) in mm into fractional voxel indices (..., 3)."""
        inverse = np.linalg.inv(self.affine)
        points = np.asarray(xyz, dtype=np.float64)
        return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3])

    def box(self, start: Sequence[int], shape: Sequence[int]) -> ImageGrid:
        """Return the grid of a box of voxels; it may reach beyond this grid.

        Parameters
        ----------
        start : (3,)
            First voxel of the box; negative where the box begins before this grid.
        shape : (3,)
            Number of voxels of the box.
        """
        affine = self.affine.copy()
        affine[:3, 3] = self.vox2world(np.asarray(start))
        return ImageGrid(ensure_shape3(shape), affine)

    def to_dict(self) -> dict[str, Any]:
        """Return shape and affine as plain lists."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageGrid:
        """Return the grid that `to_dict` described."""
        return cls(tuple(values["shape"]), np.asarray(values["affine"]))


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """An image grid divided into equal patches.

    Parameters
    ----------
    volume
        The grid of the volume that the model sees.
    patch_size : (3,)
        Voxels per patch along (i, j, k); must divide the volume's shape.

    Raises
    ------
    GridError
        If the patch size does not divide the shape of the volume.

    Examples
    --------
    >>> volume = ImageGrid((90, 90, 90), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> patches = PatchGrid(volume, (9, 9, 9))
    >>> patches.shape, patches.to_image_grid().vox2world([0, 0, 0])
    ((10, 10, 10), array([8., 8., 8.]))
    """

    volume: ImageGrid
    patch_size: Shape3

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", ensure_shape3(self.patch_size, name="patch_size"))
        if any(n % p for n, p in zip(self.volume.shape, self.patch_size, strict=True)):
            raise GridError(
                f"patches of {self.patch_size} voxels do not divide a volume of "
                f"{self.volume.shape} voxels; crop or pad the volume to a multiple"
            )

    @property
    def shape(self) -> Shape3:
        """Number of patches along (i, j, k)."""
        i, j, k = (n // p for n, p in zip(self.volume.shape, self.patch_size, strict=True))
        return (i, j, k)

    @property
    def patch_sizes_mm(self) -> NDArray[np.float64]:
        """Edges of one patch, (3,), in mm."""
        return np.asarray(self.volume.voxel_sizes * np.asarray(self.patch_size), dtype=np.float64)

    def to_image_grid(self) -> ImageGrid:
        """Return the grid on which every patch is one voxel, at the patch's centre."""
        patch = np.asarray(self.patch_size, dtype=np.float64)
        patch2vox = np.diag([*patch, 1.0])
        patch2vox[:3, 3] = (patch - 1) / 2
        return ImageGrid(self.shape, self.volume.affine @ patch2vox)
