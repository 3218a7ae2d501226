"""Where two maps are compared: at the resolution of the coarser one, inside the brain.

Nothing is interpolated up. What is 0 is a value where a map was thresholded, and no value outside
the brain or the field of view; which of the two it is decides what a comparison is worth, so the
rule that was used is part of the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import ImageError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap, Resolution, sidecar_of
from g3dvit.nifti import nifti_grid, nifti_values, read_nifti
from g3dvit.regions import coarse_blocks
from g3dvit.resampling import average_array
from g3dvit.sidecars import space_entity, stem
from g3dvit.surrogates import MAX_POINTS

Mask = tuple[NDArray[np.bool_], ImageGrid]
#: A patch belongs to a mask from this share on: cortex at the rim fills patches in part.
_IN_MASK = 0.25
#: A brain fills its convex hull; the blobs of a thresholded map do not.
_FILLED = 0.6
_SMALL = 0.05
_TOLD_MISSING = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A map to compare with, and where it lies.

    Parameters
    ----------
    name
        For tables.
    values : (i, j, k)
        Finite.
    grid
        Of the values.
    resolution_mm
        Effective resolution, where a sidecar tells it; else the voxels.
    space
        Where it is known.
    missing : (i, j, k)
        Voxels that held no number, and count as 0; None where all did.
    """

    name: str
    values: NDArray[np.float64] = field(repr=False)
    grid: ImageGrid
    resolution_mm: Resolution = (0.0, 0.0, 0.0)
    space: str | None = None
    missing: NDArray[np.bool_] | None = field(default=None, repr=False)
    _means: dict[tuple[object, ...], NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def on(self, grid: ImageGrid, mirror_x_mm: float | None = None) -> NDArray[np.float64]:
        """Return means over the voxels of a grid, mirrored at a sagittal plane where one is given.

        Means are kept: all class means of a run ask for the same.
        """
        key = (grid.shape, np.round(grid.affine, 4).tobytes(), mirror_x_mm)
        if key not in self._means:
            source = self.grid
            if mirror_x_mm is not None:
                mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
                mirror[0, 3] = 2 * mirror_x_mm
                source = ImageGrid(source.shape, mirror @ source.affine)
            self._means[key] = average_array(self.values, source, grid)
        return self._means[key]

    def missing_share(self, grid: ImageGrid, places: NDArray[np.bool_]) -> float:
        """Return the share of some voxels of a grid that holds no numbers, 0 to 1."""
        if self.missing is None or not places.any():
            return 0.0
        there = average_array(self.missing.astype(np.float64), self.grid, grid)
        return float(np.nan_to_num(there[places]).mean())


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Two maps on one grid.

    Parameters
    ----------
    relevance
        The map on that grid, 3D.
    reference : (i, j, k)
        NaN where it has none.
    places : (i, j, k)
        What is compared.
    rule
        How places were chosen, in words.
    warnings
        What a reader must see.
    """

    relevance: RelevanceMap = field(repr=False)
    reference: NDArray[np.float64] = field(repr=False)
    places: NDArray[np.bool_] = field(repr=False)
    rule: str
    warnings: tuple[str, ...]


def open_reference(path: str | Path) -> Reference:
    """Read a reference; a sidecar of g3dvit beside it tells its resolution.

    Raises
    ------
    ImageError
        If it is no 3D image, or has the same value everywhere.
    """
    path = Path(path)
    image = read_nifti(path)
    given = nifti_values(image, path, np.float64)
    if given.ndim == 4 and given.shape[3] == 1:
        given = given[..., 0]
    if given.ndim != 3:
        raise ImageError(
            f"{path} is no reference: it is one 3D image (a z map, a meta-analysis, another map); "
            f"this has shape {given.shape}"
        )
    finite = np.isfinite(given)
    values = np.where(finite, given, 0)
    if np.ptp(values) == 0:
        raise ImageError(
            f"{path} is no reference: all its values are {values.flat[0]:g}"
            + ("" if finite.all() else ", or no numbers")
        )
    sizes, space = _from_sidecar(path)
    grid = nifti_grid(image, path)
    missing = None if finite.all() else ~finite
    return Reference(stem(path), values, grid, sizes, space_entity(path) or space, missing=missing)


def load_reference(path: str | Path) -> tuple[NDArray[np.float64], ImageGrid]:
    """Return a 3D image and where it lies; values that are no numbers become 0.

    Raises
    ------
    ImageError
        If it is no 3D image, or has the same value everywhere.
    """
    found = open_reference(path)
    return found.values, found.grid


def common_ground(
    relevance: RelevanceMap, reference: Reference, mask: Mask | None, space: str | None
) -> Ground:
    """Bring both maps to the resolution of the coarser one, and choose what is compared.

    Parameters
    ----------
    relevance
        3D.
    reference
        In the same space.
    mask
        Where to compare. Without one the template's brain is taken where the space is a template's,
        else where both are not 0.
    space
        Of the map.
    """
    data = np.asarray(relevance.data, dtype=np.float64)
    finite = np.isfinite(data)
    one = replace(relevance, data=np.where(finite, data, 0).astype(np.float32), companions={})
    theirs = _blocks(reference.grid, reference.resolution_mm)
    edge = coarse_blocks(one.grid, one.data != 0).edge if one.data.any() else 1
    while True:
        own = _blocks(one.grid, one.resolution_mm, edge)
        coarser = theirs.voxel_volume_mm3 > 1.001 * own.voxel_volume_mm3
        ground = _on(theirs if coarser else own, one, finite, reference, mask, space)
        if coarser or ground.places.sum() <= MAX_POINTS:
            break
        edge = max(edge + 1, round(float((own.voxel_sizes / one.grid.voxel_sizes).min())) + 1)
    warnings = list(ground.warnings)
    if not finite.all():
        warnings.append(f"{int((~finite).sum())} values of the map are no numbers; left out")
    missing = reference.missing_share(ground.relevance.grid, ground.places)
    if missing > _TOLD_MISSING:
        warnings.append(
            f"{missing:.0%} of what is compared of {reference.name} holds no numbers, and counts "
            "as 0"
        )
    if coarser:
        warnings.append(
            f"{reference.name} is coarser than the map; the map was averaged over its voxels of "
            + " x ".join(f"{v:.3g}" for v in theirs.voxel_sizes)
            + " mm"
        )
    return replace(ground, warnings=tuple(warnings))


def _on(
    grid: ImageGrid,
    one: RelevanceMap,
    finite: NDArray[np.bool_],
    reference: Reference,
    mask: Mask | None,
    space: str | None,
) -> Ground:
    if grid.matches(one.grid):
        data, covered, moved = np.asarray(one.data, dtype=np.float64), finite, one
    else:
        held = np.nan_to_num(average_array(finite.astype(np.float64), one.grid, grid))
        data = np.nan_to_num(average_array(one.data, one.grid, grid)) / np.maximum(held, 1e-9)
        covered = held >= 0.5
        data = np.where(covered, data, 0)
        i, j, k = np.maximum(grid.voxel_sizes, one.resolution_mm)
        moved = replace(one, data=data.astype(np.float32), grid=grid, resolution_mm=(i, j, k))
    brought = reference.on(grid)
    places = covered & np.isfinite(brought)
    brought = np.where(np.isfinite(brought), brought, np.nan)
    known, rule = _known_brain(mask, space, grid)
    zero_in = [w for w, v in (("the map", data), (reference.name, brought)) if not _filled(v)]
    warnings = []
    if known is None:
        places &= (data != 0) & (np.nan_to_num(brought) != 0)
        warnings += [
            f"{name} is 0 in most places: if it was thresholded, only what is left of it is "
            "compared; give the brain with --mask"
            for name in zero_in
        ]
    else:
        places &= known
        for values in (data, brought):
            places &= _extent(values)
        if zero_in:
            rule += f"; where {' and '.join(zero_in)} is 0, that counts as a value"
    return Ground(moved, brought, places, rule, tuple(warnings))


def _known_brain(
    mask: Mask | None, space: str | None, grid: ImageGrid
) -> tuple[NDArray[np.bool_] | None, str]:
    """Return which voxels lie in the brain, where that is known, and how."""
    if mask is None and not (space or "").upper().startswith("MNI"):
        return None, "where both maps are not 0"
    values, own = _template_brain() if mask is None else mask
    share = np.nan_to_num(average_array(values.astype(np.float64), own, grid))
    name = "the MNI152 template's brain" if mask is None else "the mask given"
    return share >= _IN_MASK, f"patches with at least {_IN_MASK:.0%} in {name}"


@lru_cache(maxsize=1)
def _template_brain() -> Mask:
    from nilearn.datasets import load_mni152_brain_mask

    image = load_mni152_brain_mask(resolution=2)
    values = np.asarray(image.dataobj) != 0
    i, j, k = values.shape
    return values, ImageGrid((i, j, k), image.affine)


def _filled(values: NDArray[np.float64]) -> bool:
    """Return whether values that are not 0 fill a volume, as those of a whole brain do."""
    there = np.nan_to_num(values) != 0
    hull = _hull(there)
    return bool(hull.sum() >= _SMALL * values.size and there.sum() >= _FILLED * hull.sum())


def _extent(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where a map has values: the hull of what is not 0; everywhere if thresholded."""
    if not _filled(values):
        return np.ones(values.shape, dtype=bool)
    return _hull(np.nan_to_num(values) != 0)


def _hull(there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the convex hull of voxels on their grid; nothing where they lie in a plane."""
    from scipy.spatial import ConvexHull, QhullError

    at = np.argwhere(there)
    if len(at) < 5:
        return np.zeros(there.shape, dtype=bool)
    try:
        sides = ConvexHull(at).equations
    except QhullError:
        return np.zeros(there.shape, dtype=bool)
    every = np.argwhere(np.ones(there.shape, dtype=bool))
    inside = np.ones(len(every), dtype=bool)
    for side in sides:
        inside &= every @ side[:3] + side[3] <= 1e-6
    return inside.reshape(there.shape)


def _blocks(grid: ImageGrid, resolution_mm: Resolution, fewest: int = 1) -> ImageGrid:
    """Return the grid of a map's patches: of its own resolution, at least `fewest` voxels wide."""
    sizes = np.asarray(resolution_mm) / grid.voxel_sizes
    edges = np.maximum(fewest, np.rint(sizes)).astype(int)
    if (edges == 1).all():
        return grid
    shape = tuple(int(np.ceil(n / e)) for n, e in zip(grid.shape, edges, strict=True))
    affine = grid.affine @ np.diag([*edges.astype(float), 1.0])
    affine[:3, 3] = grid.vox2world((edges - 1) / 2)
    return ImageGrid((shape[0], shape[1], shape[2]), affine)


def _from_sidecar(path: Path) -> tuple[Resolution, str | None]:
    """Return resolution and space that a sidecar of g3dvit tells; other JSON tells nothing."""
    none = (0.0, 0.0, 0.0)
    beside = sidecar_of(path) if path.name.endswith((".nii", ".nii.gz")) else None
    if beside is None:
        return none, None
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
        i, j, k = (float(v) for v in about["image"]["effective_resolution_mm"])
    except (OSError, ValueError, KeyError, TypeError):
        return none, None
    space = about.get("space")
    good = all(np.isfinite(v) and v > 0 for v in (i, j, k))
    return (i, j, k) if good else none, space if isinstance(space, str) else None
