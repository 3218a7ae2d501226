"""Small images for tests: never cubic, never symmetric."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (7, 9, 5)
ROTATION = nib.eulerangles.euler2mat(z=0.3, y=-0.2, x=0.15)
AFFINES = {
    "RAS": nib.affines.from_matvec(np.diag([3.0, 3.0, 3.0]), [-10, -14, -5]),
    "LAS": nib.affines.from_matvec(np.diag([-3.0, 3.0, 3.0]), [9, -14, -5]),
    "anisotropic": nib.affines.from_matvec(np.diag([2.0, 3.5, 5.0]), [-6, -17, -11]),
    "oblique": nib.affines.from_matvec(ROTATION @ np.diag([-3.0, 3.0, 3.3]), [8, -12, -4]),
    "PSR": nib.affines.from_matvec([[0, 0, 3.0], [-3.0, 0, 0], [0, 3.0, 0]], [-7, 9, -12]),
}


def random_run(shape=(*SHAPE, 6), seed=0, loc=1000.0, scale=50.0):
    return np.random.default_rng(seed).normal(loc, scale, shape).astype(np.float32)


def save_run(path, data, affine=None, *, t_r=2.0, sform=1, qform=1, units="sec", dtype=None):
    affine = AFFINES["RAS"] if affine is None else affine
    image = nib.Nifti1Image(np.asarray(data), affine, dtype=dtype)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    image.header.set_xyzt_units("mm", units)
    if image.ndim > 3 and t_r is not None:
        image.header["pixdim"][4] = t_r
    nib.save(image, path)
    return Path(path)


def localizer_folder():
    """The folder of the real run; skips the test where it is absent."""
    root = os.environ.get("G3DVIT_TEST_DATA")
    if not root:
        pytest.skip("G3DVIT_TEST_DATA does not name the folder of the real data")
    folder = Path(root) / "studyforrest_localizer"
    if not folder.is_dir():
        pytest.skip(f"there is no studyforrest_localizer in {root}")
    return folder
