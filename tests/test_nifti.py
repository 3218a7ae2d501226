"""NIfTI files of others: what is damaged or says no place is refused in one sentence."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from g3dvit.compare import open_reference
from g3dvit.errors import ImageError, InputError, OrientationError
from g3dvit.maps import RelevanceMap
from g3dvit.regions import load_atlas, load_mask

AFFINE = np.array([[-6.0, 0, 0, 30], [0, 6, 0, -40], [0, 0, 6, -20], [0, 0, 0, 1]])
READERS = {
    "atlas": load_atlas,
    "mask": load_mask,
    "reference": open_reference,
    "map": RelevanceMap.load,
}


def labels() -> np.ndarray:
    # Random, so that half of a compressed file is not the whole of its header and zeros.
    return np.random.default_rng(0).integers(0, 200, (20, 24, 16)).astype(np.int16)


def write(path: Path, values: np.ndarray | None = None, affine: np.ndarray | None = AFFINE) -> Path:
    nib.Nifti1Image(labels() if values is None else values, affine).to_filename(path)
    (path.parent / "image.tsv").write_text("index\tname\n1\tone\n")
    return path


def truncated(path: Path) -> Path:
    raw = write(path).read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    return path


def flipped(path: Path) -> Path:
    """Bytes inside a stored block are others: all can be read, and only the checksum tells."""
    plain = write(path.with_name("plain.nii")).read_bytes()
    raw = bytearray(gzip.compress(plain, compresslevel=0))
    raw[len(raw) // 2] ^= 0x0F
    path.write_bytes(bytes(raw))
    return path


def colours(path: Path) -> Path:
    return write(path, np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def complex_numbers(path: Path) -> Path:
    return write(path, labels().astype(np.complex64))


def folder(path: Path) -> Path:
    path.mkdir()
    (path.parent / "image.tsv").write_text("index\tname\n1\tone\n")
    return path


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, "damaged or incomplete .* copy or download it again"),
        (flipped, "damaged or incomplete"),
        (colours, "one real number per voxel"),
        (complex_numbers, "one real number per voxel"),
        (folder, "is a folder"),
    ],
)
def test_what_is_no_whole_image_of_numbers_is_refused(
    tmp_path: Path, reader: Callable[[Path], object], make: Callable[[Path], Path], words: str
) -> None:
    path = make(tmp_path / "image.nii.gz")
    with pytest.raises(InputError, match=words) as caught:
        reader(path)
    assert "\n" not in str(caught.value) and "image.nii.gz" in str(caught.value)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_half_an_uncompressed_file_is_refused_in_one_line(
    tmp_path: Path, reader: Callable[[Path], object]
) -> None:
    with pytest.raises(ImageError, match="damaged or incomplete") as caught:
        reader(truncated(tmp_path / "image.nii"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_left_and_right_are_never_a_guess(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    path = write(tmp_path / "image.nii.gz", affine=None)
    with pytest.raises(OrientationError, match="could swap left and right"):
        reader(path)
    image = nib.Nifti1Image(labels(), AFFINE)
    image.set_sform(None, 0)
    image.set_qform(AFFINE, 1)  # one of the two is enough
    image.to_filename(path)
    reader(path)


def test_an_affine_without_inverse_is_told_with_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii")
    raw = bytearray(path.read_bytes())
    raw[280:328] = bytes(48)  # the rows of the sform
    path.write_bytes(bytes(raw))
    with pytest.raises(ImageError, match=r"image\.nii has no usable affine"):
        open_reference(path)
