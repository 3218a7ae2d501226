"""Relevance as an image: a patch map has its own affine in mm and opens in every viewer.

A *relevance map* holds signed float32 values in units of the explained score. On the *patch
grid* every patch is one voxel, centred where the patch is centred, so the file is lossless and
small. Bringing a map to another grid is ordinary resampling by affine. Rectifying, min-max and
percentiles belong to the report, not here: what is saved is what was computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import GridError, ImageError, InputError
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.nifti import (
    nifti_grid,
    nifti_image,
    nifti_stem,
    nifti_values,
    read_nifti,
    write_nifti,
    write_together,
)
from g3dvit.plain import to_json
from g3dvit.resampling import Interpolation, resample_array
from g3dvit.shows_itself import ShowsItself

Resolution = tuple[float, float, float]
_IMAGE = "image"  # the sidecar's key for what describes the file rather than the relevance
_SHARES = ("content", "position")  # companions that add up to the map, in its units


@dataclass(frozen=True, slots=True, eq=False)
class RelevanceMap(ShowsItself):
    """Relevance on a grid in the world.

    Parameters
    ----------
    data : (i, j, k) or (i, j, k, t)
        Signed relevance in units of the score, float32, read-only.
    grid
        Where the voxels (or patches) lie.
    metadata
        What the map was made from: method, layer, weighting, target, scores, model hash,
        units, checks, source. Becomes the JSON sidecar.
    resolution_mm : (3,)
        Effective resolution in mm: the patch edges, also after resampling to a finer grid.
        Left out, the grid's voxel sizes.
    t_r
        Seconds between the volumes of a 4D map; None where unknown or not equal.
    sform_code, qform_code
        NIfTI orientation codes of the source image.
    companions
        Arrays of the same shape that belong beside the map, such as ``patch_weights``.

    Raises
    ------
    GridError
        If an array does not fit the grid.
    """

    data: NDArray[np.float32]
    grid: ImageGrid
    metadata: Mapping[str, Any] = field(default_factory=dict)
    resolution_mm: Resolution = (0.0, 0.0, 0.0)
    t_r: float | None = None
    sform_code: int = 2
    qform_code: int = 0
    companions: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _read_only(self.data))
        if self.data.ndim not in (3, 4) or self.data.shape[:3] != self.grid.shape:
            raise GridError(
                f"relevance of shape {self.data.shape} does not fit a grid of {self.grid.shape}; "
                f"give (i, j, k) or (i, j, k, t)"
            )
        companions = {name: _read_only(values) for name, values in self.companions.items()}
        for name, values in companions.items():
            if values.shape != self.data.shape:
                raise GridError(
                    f"companion {name!r} of shape {values.shape} must have the shape of the "
                    f"relevance, {self.data.shape}"
                )
        object.__setattr__(self, "companions", companions)
        i, j, k = self.resolution_mm if any(self.resolution_mm) else self.grid.voxel_sizes
        object.__setattr__(self, "resolution_mm", (float(i), float(j), float(k)))

    @property
    def units(self) -> str:
        """Units of the relevance, such as ``"logit"``; empty where not recorded."""
        return str(self.metadata.get("units", ""))

    @property
    def n_volumes(self) -> int:
        """Number of time points; 1 for a 3D map."""
        return 1 if self.data.ndim == 3 else self.data.shape[3]

    def volume(self, index: int) -> RelevanceMap:
        """Return one time point as a 3D map; a 3D map has only time point 0."""
        count = self.n_volumes
        if not -count <= index < count:
            raise InputError(f"volume {index} of a map with {count}; allowed are 0 to {count - 1}")
        if self.data.ndim == 3:
            return self
        companions = {name: values[..., index] for name, values in self.companions.items()}
        return replace(self, data=self.data[..., index], companions=companions, t_r=None)

    def to_grid(self, grid: ImageGrid, *, interpolation: Interpolation = "linear") -> RelevanceMap:
        """Return the map on another grid, by affine alone; nothing is warped.

        Values stand at the centres of the voxels (patches). Up to half a voxel beyond the
        outer centres the edge value continues; outside the volume the result is 0. Where a
        grid is coarser than this one nothing is averaged.

        Parameters
        ----------
        grid
            The prepared grid, the source image's grid, or any other in the same space.
        interpolation
            ``"linear"`` or ``"nearest"``; the latter shows the patches as they are.
        """
        companions = {
            name: resample_array(values, self.grid, grid, interpolation=interpolation)
            for name, values in self.companions.items()
        }
        return replace(
            self,
            data=resample_array(self.data, self.grid, grid, interpolation=interpolation),
            grid=grid,
            companions=companions,
        )

    def to_image(self) -> nib.Nifti1Image:
        """Return the relevance as a NIfTI image with the source's orientation codes."""
        return self._image_of(self.data)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write NIfTI, JSON sidecar and companions, all or none of them.

        Parameters
        ----------
        path
            Ends in ``.nii.gz`` or ``.nii``. Companions take the last part of the name:
            ``a_relevance.nii.gz`` has ``a_patchweights.nii.gz`` beside it.
        overwrite
            Replace files that exist.

        Returns
        -------
        Path
            The file of the relevance.

        Raises
        ------
        OutputError
            If a file exists and `overwrite` is False, or cannot be written.
        """
        path = Path(path)
        stem = nifti_stem(path)
        ending = path.name[len(stem) :]
        base = stem.removesuffix("_relevance")
        names = {name: f"{base}_{name.replace('_', '')}{ending}" for name in self.companions}
        sidecar = to_json({**self.metadata, _IMAGE: self._description(names)}) + "\n"
        writers: dict[Path, Callable[[Path], object]] = {
            path.with_name(names[name]): self._writer(values, ending)
            for name, values in self.companions.items()
        }
        writers[path.with_name(f"{stem}.json")] = lambda part: part.write_text(sidecar, "utf-8")
        writers[path] = self._writer(self.data, ending)
        write_together(writers, overwrite=overwrite)
        return path

    @classmethod
    def load(cls, path: str | Path) -> RelevanceMap:
        """Read a map that `save` wrote; a NIfTI without sidecar has no metadata.

        Of a companion (``a_content.nii.gz`` beside ``a_relevance.nii.gz``) the sidecar of the map
        that it belongs to is read, and ``metadata["companion"]`` says which one it is.

        Raises
        ------
        ImageError
            If the file is absent or no NIfTI image of three or four axes, or its sidecar is not
            one of a map.
        """
        path = Path(path)
        image = read_nifti(path)
        sidecar = sidecar_of(path)
        metadata = {} if sidecar is None else _read_sidecar(sidecar)
        description = metadata.pop(_IMAGE, {})
        data = nifti_values(image, path, np.float32)
        files = description.get("companions", {})
        own = _companion_name(files, path)
        if own is not None:
            files, metadata = {}, metadata | {"companion": own}
            if own not in _SHARES:
                metadata.pop("units", None)
        return cls(
            data=data,
            grid=nifti_grid(image, path),
            metadata=metadata,
            resolution_mm=tuple(description.get("effective_resolution_mm", (0.0, 0.0, 0.0))),
            t_r=description.get("t_r"),
            sform_code=int(image.header["sform_code"]),
            qform_code=int(image.header["qform_code"]),
            companions={
                name: nifti_values(read_nifti(beside), beside, np.float32)
                for name, file in files.items()
                if (beside := path.with_name(file))
            },
        )

    def _description(self, companions: Mapping[str, str]) -> dict[str, Any]:
        return {
            "effective_resolution_mm": self.resolution_mm,
            "grid": self.grid.to_dict(),
            "t_r": self.t_r,
            "n_volumes": self.n_volumes,
            "companions": companions,
        }

    def _image_of(self, values: NDArray[np.float32]) -> nib.Nifti1Image:
        return nifti_image(
            values,
            self.grid.affine,
            t_r=self.t_r,
            sform_code=self.sform_code,
            qform_code=self.qform_code,
            description=f"G3D-ViT {self.metadata.get('method', 'relevance')}",
        )

    def _writer(self, values: NDArray[np.float32], ending: str) -> Callable[[Path], None]:
        return lambda part: write_nifti(
            self._image_of(values), part, compress=ending.endswith(".gz")
        )


def patch_map(
    relevance: ArrayLike,
    patches: PatchGrid,
    *,
    metadata: Mapping[str, Any] | None = None,
    companions: Mapping[str, ArrayLike] | None = None,
    t_r: float | None = None,
    sform_code: int = 2,
    qform_code: int = 0,
) -> RelevanceMap:
    """Return relevance per patch as an image of its own.

    Parameters
    ----------
    relevance : (gi, gj, gk) or (gi, gj, gk, t)
        One value per patch, in the volume's (i, j, k) order.
    patches
        The patches of the prepared volume.
    metadata, companions, t_r, sform_code, qform_code
        As in `RelevanceMap`.

    Raises
    ------
    GridError
        If the relevance does not have one value per patch.

    Examples
    --------
    >>> volume = ImageGrid((4, 6, 8), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> patch_map(np.zeros((2, 3, 4)), PatchGrid(volume, (2, 2, 2))).grid.vox2world([0, 0, 0])
    array([1., 1., 1.])
    """
    i, j, k = patches.patch_sizes_mm
    given = {} if companions is None else companions
    return RelevanceMap(
        data=np.asarray(relevance, dtype=np.float32),
        grid=patches.to_image_grid(),
        metadata={} if metadata is None else metadata,
        resolution_mm=(float(i), float(j), float(k)),
        t_r=t_r,
        sform_code=sform_code,
        qform_code=qform_code,
        companions={name: np.asarray(v, dtype=np.float32) for name, v in given.items()},
    )


def content_of(relevance: RelevanceMap) -> RelevanceMap:
    """Return what the volume itself contributed, of a map that has it apart; else the map.

    Frozen-gate relevance is content plus position; the position's share of a patch is the same
    whatever the volume shows, so that pictures, regions and comparisons take the content.
    """
    content = relevance.companions.get("content")
    if content is None:
        return relevance
    told = {**relevance.metadata, "companion": "content"}
    return replace(relevance, data=content, companions={}, metadata=told)


def sidecar_of(path: str | Path) -> Path | None:
    """Return the JSON that tells what a map is: its own, or that of the map it belongs to.

    Parameters
    ----------
    path
        A NIfTI file; it need not be one of g3dvit.

    Returns
    -------
    Path or None
        None where nothing beside the file tells.
    """
    path = Path(path)
    stem = nifti_stem(path)
    own = path.with_name(f"{stem}.json")
    if own.exists():
        return own
    base = stem.rpartition("_")[0]
    for beside in (path.with_name(f"{base}_relevance.json"), path.with_name(f"{base}.json")):
        try:
            files = _read_sidecar(beside).get(_IMAGE, {}).get("companions", {})
        except ImageError:
            continue
        if _companion_name(files, path) is not None:
            return beside
    return None


def stack_volumes(maps: Sequence[RelevanceMap], *, t_r: float | None = None) -> RelevanceMap:
    """Return 3D maps on one grid as one 4D map with the first one's metadata.

    Raises
    ------
    GridError
        If there are no maps, or their grids differ.
    """
    if not maps or any(not m.grid.matches(maps[0].grid) or m.data.ndim != 3 for m in maps):
        raise GridError("stacking takes at least one 3D map, all of them on the same grid")
    names = set(maps[0].companions).intersection(*(m.companions for m in maps))
    return replace(
        maps[0],
        data=np.stack([m.data for m in maps], axis=-1),
        companions={n: np.stack([m.companions[n] for m in maps], axis=-1) for n in sorted(names)},
        t_r=t_r,
    )


def _companion_name(files: Any, path: Path) -> str | None:
    if not isinstance(files, dict):
        return None
    return next((str(name) for name, file in files.items() if file == path.name), None)


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Return what stands beside a map; other tools put a JSON there too."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImageError(f"the sidecar {path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get(_IMAGE, {}), dict):
        raise ImageError(f"the sidecar {path} is not one of a map; it holds no JSON object")
    return found


def _read_only(values: ArrayLike) -> NDArray[np.float32]:
    view = np.asarray(values, dtype=np.float32).view()
    view.setflags(write=False)
    return view
