"""Spaces: what is inferred, what draws a warning, what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from g3dvit.errors import G3DWarning, SpaceError
from g3dvit.grids import ImageGrid
from g3dvit.prepare import Preparation, check_space, infer_space
from g3dvit.volumes import Series, open_series
from made_images import localizer_folder

PREPARATION = Preparation.preset("MNI152NLin6Asym_2mm_90")


def box(shape, size, origin, *, flip=False) -> ImageGrid:
    sizes = np.diag(np.broadcast_to(size, 3).astype(float))
    grid = ImageGrid(shape, nib.affines.from_matvec(sizes, origin))
    if not flip:
        return grid
    affine = grid.affine.copy()
    affine[0, 3] += affine[0, 0] * (shape[0] - 1)
    affine[0, 0] *= -1
    return ImageGrid(shape, affine)


FSL_2MM = box((91, 109, 91), 2, (-90, -126, -72))
TILT = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1))
NATIVE = box((80, 80, 35), (3, 3, 3.3), (-116, -88, -54))


def run(grid, space=None, origin=None) -> Series:
    return Series(Path("run.nii.gz"), grid, 9, 2.0, 1.0, space, 1, 1, None, space_origin=origin)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (FSL_2MM, "MNI152NLin6Asym"),
        (box((91, 109, 91), 2, (-90, -126, -72), flip=True), "MNI152NLin6Asym"),
        (box((182, 218, 182), 1, (-91, -126, -72)), "MNI152NLin6Asym"),
        (box((61, 73, 61), 3, (-90, -126, -72)), "MNI152NLin6Asym"),
        (box((46, 55, 46), 4, (-90, -126, -72)), "MNI152NLin6Asym"),
        (box((193, 229, 193), 1, (-96, -132, -78)), "MNI152NLin2009cAsym"),
        (box((97, 115, 97), 2, (-96.5, -132.5, -78.5)), "MNI152NLin2009cAsym"),
        (box((65, 77, 65), 3, (-96, -132, -78)), "MNI152NLin2009cAsym"),
        (box((49, 58, 49), 4, (-96, -132, -78)), "MNI152NLin2009cAsym"),
        (box((99, 117, 95), 2, (-98, -134, -72)), "MNI152NLin2009aAsym"),
        (box((79, 95, 78), 2, (-78, -112, -70)), "IXI549Space"),
        (box((53, 63, 52), 3, (-78, -112, -70)), "IXI549Space"),
        (NATIVE, None),
        (box((91, 109, 91), 2, (-80, -126, -72)), None),
        (box((64, 64, 40), 3, (-96, -96, -60)), None),
        (box((90, 90, 90), 2, (-90, -106, -72)), None),
        (ImageGrid(FSL_2MM.shape, TILT @ FSL_2MM.affine), None),
    ],
)
def test_boxes_of_templates(grid, expected) -> None:
    assert infer_space(grid) == expected


def test_axes_in_another_order_fill_the_same_box() -> None:
    turn = np.eye(4)[[1, 0, 2, 3]]
    assert infer_space(ImageGrid((109, 91, 91), FSL_2MM.affine @ turn)) == "MNI152NLin6Asym"


def test_the_same_space_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_space(PREPARATION, run(NATIVE, "MNI152NLin6Asym", "argument")) == (
            "run.nii.gz: 3.1 mm data at 2 mm gain no detail; maps are no finer than the data",
        )
        assert check_space(PREPARATION, run(FSL_2MM, "mni152nlin6asym", "file name")) == ()


@pytest.mark.parametrize("space", ["MNI152NLin2009cAsym", "MNI152", "MyTemplate"])
def test_another_standard_space_draws_a_warning(space) -> None:
    with pytest.warns(G3DWarning, match=f"is in {space}, .* MNI152NLin6Asym.* does not warp"):
        check_space(PREPARATION, run(FSL_2MM, space, "file name"))


@pytest.mark.parametrize("space", ["T1w", "native", "scanner", "individual", "orig"])
def test_native_space_is_refused(space) -> None:
    message = rf"native space \({space}, by the file name\).*--space MNI152NLin6Asym"
    with pytest.raises(SpaceError, match=message):
        check_space(PREPARATION, run(FSL_2MM, space, "file name"))


def test_a_space_that_nothing_names_is_refused_unless_its_box_is_known() -> None:
    with pytest.raises(SpaceError, match=r"nothing says .*no space- in its name.*--space"):
        check_space(PREPARATION, run(NATIVE))
    (note,) = check_space(PREPARATION, run(FSL_2MM))
    assert note == "run.nii.gz: MNI152NLin6Asym is inferred from its box, nothing names it"
    other = run(box((97, 115, 97), 2, (-96.5, -132.5, -78.5)))
    with pytest.warns(G3DWarning, match=r"MNI152NLin2009cAsym \(inferred from its box\)"):
        check_space(PREPARATION, other)


def test_a_preparation_without_a_space_asks_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_space(Preparation(), run(NATIVE, "T1w", "file name")) == ()


def test_preparing_checks_the_space() -> None:
    with pytest.raises(SpaceError, match="native space"):
        PREPARATION.stream(run(FSL_2MM, "T1w", "file name"))


@pytest.mark.real_data
def test_the_localizer() -> None:
    folder = localizer_folder()
    (native,) = folder.glob("*run-1_bold.nii.gz")
    with pytest.raises(SpaceError, match="nothing says"):
        check_space(PREPARATION, open_series(native))
    (coarse,) = folder.glob("*res-4mm*bold.nii.gz")
    with pytest.warns(G3DWarning, match="is in MNI152, "):
        (note,) = check_space(PREPARATION, open_series(coarse))
    assert "4 mm data at 2 mm gain no detail" in note
    assert len(check_space(PREPARATION, open_series(coarse, space="MNI152NLin6Asym"))) == 1
