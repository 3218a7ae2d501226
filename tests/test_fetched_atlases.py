"""Atlases of nilearn's fetchers, from a data folder that is filled already, without any network.

The folders are laid out and written as the archives that nilearn unpacks; the images are blocks.
"""

from __future__ import annotations

import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fake_run import SMALL
from g3dvit.errors import InputError
from g3dvit.maps import patch_map
from g3dvit.regions import RegionOptions, load_atlas, region_table, region_weights
from g3dvit.regions.atlases import FETCHED

# The Harvard-Oxford images are stored with x from right to left, as FSL has them.
LAS = np.array([[-4.0, 0, 0, 80], [0, 4, 0, -110], [0, 0, 4, -64], [0, 0, 0, 1]])
RAS = np.array([[4.0, 0, 0, -76], [0, 4, 0, -110], [0, 0, 4, -64], [0, 0, 0, 1]])
NAMES = ("Frontal <b> Operculum Cortex", "Right Precentral Gyrus", "Left & Cuneus")


def blocks(path: Path, affine: np.ndarray) -> None:
    """Write three regions: the left half in front, the right half in front, and behind both."""
    grid = np.moveaxis(np.indices((40, 48, 36)), 0, -1)
    xyz = grid @ affine[:3, :3].T + affine[:3, 3]
    labels = np.where(xyz[..., 1] < -30, 3, np.where(xyz[..., 0] < 0, 1, 2)).astype(np.uint8)
    labels[xyz[..., 2] < -60] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(labels, affine).to_filename(path)


def harvard_oxford(folder: Path) -> None:
    top = folder / "fsl" / "data" / "atlases"
    blocks(top / "HarvardOxford" / "HarvardOxford-cortl-maxprob-thr25-2mm.nii.gz", LAS)
    escaped = [name.replace("&", "&amp;").replace("<", "&lt;") for name in NAMES]
    labels = "".join(
        f'<label index="{n}" x="1" y="1" z="1">{name}</label>' for n, name in enumerate(escaped)
    )
    (top / "HarvardOxford-Cortical-Lateralized.xml").write_text(
        f'<?xml version="1.0"?><atlas><data>{labels}</data></atlas>', encoding="utf-8"
    )


def schaefer(folder: Path) -> None:
    stem = folder / "schaefer_2018" / "Schaefer2018_100Parcels_7Networks_order"
    blocks(stem.with_name(f"{stem.name}_FSLMNI152_1mm.nii.gz"), RAS)
    lines = "".join(f"{n}\t{name}\t1\t2\t3\t0\n" for n, name in enumerate(NAMES, 1))
    stem.with_name(f"{stem.name}.txt").write_text(lines)


def yeo(folder: Path) -> None:
    for name in FETCHED["yeo7"].files:
        if name.endswith(".nii.gz"):
            blocks(folder / name, LAS)
        else:  # the first line is that of the background
            lines = "".join(f"{n} {n}_Networks_{n} 1 2 3 0\n" for n in range(4))
            (folder / name).write_text(lines)


def destrieux(folder: Path) -> None:
    image = folder / "destrieux_2009" / "destrieux2009_rois_lateralized.nii.gz"
    blocks(image, RAS)
    lines = "".join(f"{n},{name}\n" for n, name in enumerate(("Background", *NAMES)))
    image.with_name("destrieux2009_rois_labels_lateralized.csv").write_text(f"index,name\n{lines}")
    image.with_name("destrieux2009.rst").write_text("Destrieux 2009")


FILLED = {
    "harvard-oxford": harvard_oxford,
    "schaefer100": schaefer,
    "yeo7": yeo,
    "destrieux": destrieux,
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of nilearn, and no network: whatever asks for one fails the test."""

    def unreachable(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("NILEARN_SHARED_DATA", str(tmp_path / "shared"))
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.mark.parametrize("name", FILLED)
def test_a_filled_folder_needs_no_network(name: str, data: Path) -> None:
    (data.parent / "shared" / Path(FETCHED[name].files[0]).parts[0]).mkdir(parents=True)  # empty
    FILLED[name](data)
    atlas = load_atlas(name)
    expected = {n: f"{n}_Networks_{n}" for n in (1, 2, 3)}
    if name != "yeo7":
        expected = dict(enumerate(NAMES, 1))
    if name == "harvard-oxford":  # nilearn mends a typing error of that atlas
        expected[1] = "Frontal <b> Opercular Cortex"
    assert atlas.names == expected
    for place, label in (((-40, 20, 10), 1), ((40, 20, 10), 2), ((-40, -60, 10), 3)):
        at = tuple(np.rint(atlas.grid.world2vox(place)).astype(int))
        assert atlas.labels[at] == label
    # A map that is high on the left in front is high in that region, and in no other.
    weights = region_weights(atlas, SMALL.to_image_grid())
    xyz = weights.grid.vox2world(np.moveaxis(np.indices(weights.grid.shape), 0, -1))
    left_in_front = (xyz[..., 0] < 0) & (xyz[..., 1] > -30)
    one = patch_map(left_in_front.astype(np.float32), SMALL)
    frame = region_table([one], weights, options=RegionOptions(n_surrogates=0))
    means = frame.set_index("index")["mean"]
    assert means[1] > 0.8 and means[2] < 0.2 and means[3] < 0.2


@pytest.mark.parametrize("name", FILLED)
def test_a_folder_where_a_file_is_absent_is_told_and_nothing_is_downloaded(
    name: str, data: Path
) -> None:
    FILLED[name](data)
    (data / FETCHED[name].files[-1]).unlink()
    with pytest.raises(InputError, match=r"not all of its \d files"):
        load_atlas(name)
