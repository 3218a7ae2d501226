"""Steps that change values, one volume at a time."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.image import smooth_img

from g3dvit.errors import G3DWarning, PreparationError
from g3dvit.grids import ImageGrid
from g3dvit.prepare import Mask, Preparation, Scale, Smooth, Standardise
from g3dvit.volumes import Volume, open_series
from made_images import AFFINES, SHAPE, random_run, save_run

GRID = ImageGrid(SHAPE, AFFINES["oblique"])
DATA = random_run(SHAPE, seed=3)
BRAIN = np.random.default_rng(1).random(SHAPE) > 0.6


def volume(data=DATA):
    return Volume(np.asarray(data, np.float32), GRID, "run.nii", 0, None)


# -------------------------------------------------------------------------------- standardise


def test_volume_is_the_references_expression() -> None:
    found = Standardise("volume")(volume()).data
    np.testing.assert_array_equal(found, (DATA - DATA.mean()) / DATA.std())
    assert found.mean() == pytest.approx(0, abs=1e-5)
    assert found.std() == pytest.approx(1, abs=1e-5)


def test_masked_looks_at_the_brain_alone() -> None:
    wild = np.where(BRAIN, DATA, 1e6).astype(np.float32)
    found = Standardise("masked")(volume(wild), BRAIN).data
    inside = wild[BRAIN].astype(np.float64)
    expected = (wild - inside.mean()) / inside.std()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found[BRAIN].std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678])
@pytest.mark.parametrize("kind", ["volume", "masked"])
def test_what_does_not_vary_becomes_0(kind, value) -> None:
    flat = volume(np.full(SHAPE, value))
    np.testing.assert_array_equal(Standardise(kind)(flat, BRAIN).data, 0)


def test_none_changes_nothing() -> None:
    np.testing.assert_array_equal(Standardise("none")(volume()).data, DATA)


# -------------------------------------------------------------------------------------- scale


@given(st.floats(-1e4, 1e4), st.floats(0.01, 1e3))
def test_minmax(shift, factor) -> None:
    found = Scale("minmax")(volume(DATA * np.float32(factor) + np.float32(shift))).data
    assert found.min() == 0
    assert found.max() == 1
    expected = (DATA - DATA.min()) / np.ptp(DATA)
    np.testing.assert_allclose(found, expected, atol=2e-2 if factor < 1 else 1e-3)


def test_minmax_of_a_flat_volume() -> None:
    np.testing.assert_array_equal(Scale("minmax")(volume(np.full(SHAPE, 3.0))).data, 0)


# --------------------------------------------------------------------------- smoothing, mask


def test_smoothing_is_nilearns() -> None:
    found = Smooth(6.0)(volume()).data
    expected = smooth_img(nib.Nifti1Image(DATA, GRID.affine), 6.0).get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(found, expected)
    assert found.std() < 0.5 * DATA.std()


def test_mask_fills_the_background() -> None:
    found = Mask(fill=-3.5)(volume(), BRAIN).data
    np.testing.assert_array_equal(found[BRAIN], DATA[BRAIN])
    assert (found[~BRAIN] == -3.5).all()
    np.testing.assert_array_equal(Mask(fill=None)(volume(), BRAIN).data, DATA)


def saved(tmp_path, name="sub-01_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz", n=4):
    run = random_run((*SHAPE, n), seed=8)
    return save_run(tmp_path / name, run, AFFINES["oblique"]), run


def save_mask(path, brain=BRAIN, affine=AFFINES["oblique"]):
    return save_run(path, brain.astype(np.uint8), affine)


MASKED = Preparation((Mask(fill=-9.0),))


def test_the_mask_beside_an_fmriprep_run(tmp_path) -> None:
    path, run = saved(tmp_path)
    save_mask(tmp_path / "sub-01_space-MNI152NLin6Asym_desc-brain_mask.nii.gz")
    series = open_series(path)
    for volume in MASKED.stream(series):
        expected = np.where(BRAIN, run[..., volume.time_point], -9)
        np.testing.assert_array_equal(volume.data, expected)
    np.testing.assert_array_equal(MASKED.brain_mask(series), BRAIN)


def test_a_named_mask_comes_before_the_sibling(tmp_path) -> None:
    path, _ = saved(tmp_path)
    save_mask(tmp_path / "sub-01_space-MNI152NLin6Asym_desc-brain_mask.nii.gz")
    other = save_mask(tmp_path / "other.nii.gz", ~BRAIN)
    series = open_series(path)
    np.testing.assert_array_equal(MASKED.brain_mask(series, other), ~BRAIN)
    found = next(MASKED.stream(series, mask=other)).data
    assert (found[BRAIN] == -9).all()


def test_no_mask_is_said_clearly(tmp_path) -> None:
    series = open_series(saved(tmp_path)[0])
    with pytest.raises(PreparationError, match=r"needs a brain mask.*desc-brain_mask.*--mask"):
        list(MASKED.stream(series))
    with pytest.raises(PreparationError, match="there is no mask file"):
        list(MASKED.stream(series, mask=tmp_path / "none.nii"))


def test_a_run_that_is_not_skull_stripped_stays_so_without_a_mask_step(tmp_path) -> None:
    path, run = saved(tmp_path)
    save_mask(tmp_path / "sub-01_space-MNI152NLin6Asym_desc-brain_mask.nii.gz")
    preparation = Preparation((Standardise("none"),))
    np.testing.assert_array_equal(next(preparation.stream(open_series(path))).data, run[..., 0])
    assert preparation.brain_mask(open_series(path)) is None


def test_a_mask_on_another_grid_takes_the_nearest_voxel(tmp_path) -> None:
    path, _ = saved(tmp_path)
    fine = ImageGrid((16, 20, 12), AFFINES["oblique"] @ np.diag([0.5, 0.5, 0.5, 1]))
    brain = np.random.default_rng(2).random(fine.shape) > 0.5
    mask = save_mask(tmp_path / "fine.nii.gz", brain, fine.affine)
    found = MASKED.brain_mask(open_series(path), mask)
    np.testing.assert_array_equal(found, brain[:13:2, :17:2, :9:2])


def test_masks_that_cannot_be_used(tmp_path) -> None:
    series = open_series(saved(tmp_path)[0])
    empty = save_mask(tmp_path / "empty.nii.gz", np.zeros(SHAPE, bool))
    with pytest.raises(PreparationError, match="no voxel inside the volumes"):
        list(MASKED.stream(series, mask=empty))
    run = save_run(tmp_path / "run.nii.gz", random_run((*SHAPE, 2)))
    with pytest.raises(PreparationError, match="has 2 volumes; one is needed"):
        list(MASKED.stream(series, mask=run))


def test_masked_z_score_fills_the_background_again(tmp_path) -> None:
    path, run = saved(tmp_path)
    mask = save_mask(tmp_path / "m.nii.gz")
    preparation = Preparation((Mask(fill=-2.0), Standardise("masked")))
    for volume in preparation.stream(open_series(path), mask=mask):
        inside = run[..., volume.time_point][BRAIN]
        assert (volume.data[~BRAIN] == -2).all()
        np.testing.assert_allclose(
            volume.data[BRAIN], (inside - inside.mean()) / inside.std(), atol=2e-5
        )


def test_the_voxels_that_are_not_0_as_a_mask(tmp_path) -> None:
    run = random_run((*SHAPE, 3), seed=8) * BRAIN[..., None]
    path = save_run(tmp_path / "run.nii.gz", run)
    preparation = Preparation((Mask("nonzero", fill=0.0), Standardise("masked")))
    for volume in preparation.stream(open_series(path)):
        inside = run[..., volume.time_point][BRAIN]
        np.testing.assert_allclose(
            volume.data[BRAIN], (inside - inside.mean()) / inside.std(), atol=2e-5
        )
        assert (volume.data[~BRAIN] == 0).all()
    np.testing.assert_array_equal(preparation.brain_mask(open_series(path)), BRAIN)


def test_a_mask_on_the_source_grid_mixes_into_the_edge(tmp_path) -> None:
    run = np.full((*SHAPE, 1), 10, np.float32)
    path = save_run(tmp_path / "run_space-MNI152NLin6Asym_bold.nii.gz", run)
    brain = np.zeros(SHAPE, bool)
    brain[:4] = True
    mask = save_mask(tmp_path / "m.nii.gz", brain, AFFINES["RAS"])
    half = AFFINES["RAS"].copy()
    half[0, 3] += 1.5
    steps = {"step": "resample", "shape": [6, 9, 5], "affine": half.tolist()}
    found = {}
    for grid in ("source", "prepared"):
        step = {"step": "mask", "grid": grid}
        order = [step, steps] if grid == "source" else [steps, step]
        preparation = Preparation.from_dict({"steps": order})
        found[grid] = next(preparation.stream(open_series(path), mask=mask)).data[:, 2, 2]
    np.testing.assert_allclose(found["source"], [10, 10, 10, 5, 0, 0])
    assert sorted(set(found["prepared"].tolist())) == [0, 10]


# ----------------------------------------------------------------------------- not finite


def test_not_finite_voxels_become_0_and_are_counted(tmp_path) -> None:
    run = random_run((*SHAPE, 3), seed=8)
    run[0, 0, 0, 1], run[1, 2, 3, 1], run[4, 4, 4, 2] = np.nan, np.inf, -np.inf
    path = save_run(tmp_path / "run.nii.gz", run)
    with pytest.warns(G3DWarning, match="2 in volume 1.*taken as 0") as caught:
        volumes = list(Preparation((Standardise("none"),)).stream(open_series(path)))
    assert len(caught) == 1
    assert [v.n_not_finite for v in volumes] == [0, 2, 1]
    expected = np.where(np.isfinite(run), run, 0)
    np.testing.assert_array_equal(np.stack([v.data for v in volumes], -1), expected)


def test_apply_refuses_steps_that_need_the_run() -> None:
    preparation = Preparation((Standardise("time"),))
    with pytest.raises(PreparationError, match="'standardise' needs the whole run"):
        preparation.apply(volume())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Standardise("z"), "`kind` is one of 'volume', 'masked', 'time', 'none'"),
        (lambda: Standardise("time", trend_degree=-1), "at least 0"),
        (lambda: Standardise("time", trend_degree=11), "at most 10"),
        (lambda: Standardise("time", ddof=2), "`ddof` is one of 0, 1"),
        (lambda: Scale("max"), "`kind` is one of 'minmax', 'global'"),
        (lambda: Scale("global", target=0), "more than 0"),
        (lambda: Smooth(0), "more than 0"),
        (lambda: Smooth("6"), "finite number, was given '6'"),
        (lambda: Smooth(True), "finite number, was given True"),
        (lambda: Mask("brain"), "`source` is one of"),
        (lambda: Mask(fill=float("nan")), "finite number"),
    ],
)
def test_steps_that_make_no_sense(make, message) -> None:
    with pytest.raises(PreparationError, match=message):
        make()
