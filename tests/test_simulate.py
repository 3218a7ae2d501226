"""Semi-synthetic runs: what is planted, how strong, and that the files say what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import center_of_mass, label

from g3dvit.errors import GridError, InputError, OutputError
from g3dvit.grids import ImageGrid
from g3dvit.simulate import (
    Anatomy,
    NoiseModel,
    RunDesign,
    bold_noise,
    demo_grid,
    draw_events,
    load_anatomy,
    responses,
    simulate_run,
    subject_weights,
    write_run,
    write_truth,
)
from g3dvit.simulate.noise import SmoothField


def coarse_grid() -> ImageGrid:
    affine = np.diag([6.0, 5.0, 6.0, 1.0])
    affine[:3, 3] = (-84, -110, -66)
    return ImageGrid((29, 38, 26), affine)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return load_anatomy(coarse_grid())


def test_the_left_hand_is_planted_in_the_right_motor_cortex(anatomy: Anatomy) -> None:
    for hand, side in (("left", 1), ("right", -1)):
        truth = anatomy.truth(hand)
        x, y, z = anatomy.grid.vox2world(center_of_mass(truth))
        assert np.sign(x) == side and 30 < abs(x) < 50
        assert -40 < y < -10 and 45 < z < 70
        assert truth.sum() * anatomy.grid.voxel_volume_mm3 / 1000 == pytest.approx(6.0, abs=0.2)
        assert not (truth & ~anatomy.brain).any()


def test_the_right_hand_is_the_mirror_image_and_not_the_same(anatomy: Anatomy) -> None:
    assert not (anatomy.truth("left") & anatomy.truth("right")).any()
    centre = {
        h: anatomy.grid.vox2world(center_of_mass(anatomy.weights[h])) for h in ("left", "right")
    }
    assert centre["left"] * [-1, 1, 1] == pytest.approx(centre["right"], abs=3.0)


def test_every_cluster_has_one_strength_and_one_piece_per_hand(anatomy: Anatomy) -> None:
    for condition, weights in anatomy.weights.items():
        inside = weights > 0
        assert weights[inside].mean() == pytest.approx(1.0, abs=1e-5)
        if condition != "visual":
            assert label(inside, np.ones((3, 3, 3)))[1] == 1


def test_the_demo_grid_is_a_slice_of_the_two_millimetre_template() -> None:
    fsl = np.diag([2.0, 2.0, 2.0, 1.0])
    fsl[:3, 3] = (-90, -126, -72)
    assert demo_grid() == ImageGrid((91, 109, 91), fsl).box((0, 10, 0), (90, 90, 90))


def test_a_grid_without_brain_is_refused() -> None:
    affine = np.eye(4)
    affine[:3, 3] = 500
    with pytest.raises(GridError, match="no voxel of the MNI brain"):
        load_anatomy(ImageGrid((5, 6, 7), affine))


def test_an_unknown_condition_is_refused(anatomy: Anatomy) -> None:
    with pytest.raises(InputError, match="no condition 'foot'"):
        anatomy.truth("foot")


def test_noise_has_unit_variance_and_the_autocorrelation_asked_for(anatomy: Anatomy) -> None:
    rng = np.random.default_rng(4)
    noise = np.stack(list(bold_noise(anatomy, 150, 2.0, rng)))
    assert noise.std(axis=0).mean() == pytest.approx(1.0, abs=0.06)
    pure = NoiseModel(thermal=0, neural=1, drift=0, physiological=0, motion=0, autocorrelation=0.6)
    neural = np.stack(list(bold_noise(anatomy, 300, 2.0, np.random.default_rng(5), pure)))
    lag1 = (neural[1:] * neural[:-1]).mean() / (neural**2).mean()
    assert lag1 == pytest.approx(0.6, abs=0.03)


def test_smooth_fields_have_unit_variance_and_the_width_asked_for() -> None:
    grid = ImageGrid((19, 22, 17), np.diag([2.0, 2.0, 2.0, 1.0]))
    field = SmoothField(grid, 9.0)
    rng = np.random.default_rng(0)
    draws = np.stack([field.to_voxels(field.innovation(rng)) for _ in range(400)])
    assert draws.std(axis=0).min() > 0.85 and draws.std(axis=0).max() < 1.15
    sigma = 9.0 / np.sqrt(8 * np.log(2))
    for apart in (1, 3):
        along = (draws[:, apart:] * draws[:, :-apart]).mean()
        assert along == pytest.approx(np.exp(-((2.0 * apart) ** 2) / (4 * sigma**2 / 2)), abs=0.05)


def test_a_long_block_reaches_a_plateau_of_one_after_some_seconds() -> None:
    design = RunDesign(blocks_per_hand=1, block_s=40, amplitude_sd=0, t_r=1.0, start_time=0.5)
    events = draw_events(design, np.random.default_rng(1))
    course = responses(events, design)
    first = events[0]
    onset = int(first.onset_s)
    assert course[first.hand][onset + 30] == pytest.approx(1.0, abs=0.03)
    assert course[first.hand][onset + 1] < 0.1
    other = events[1].hand
    assert abs(course[other][: int(events[1].onset_s)]).max() == 0
    both = course["left"] + course["right"]
    assert course["visual"] == pytest.approx(both, abs=1e-9)


def test_the_response_has_the_contrast_to_noise_asked_for(anatomy: Anatomy) -> None:
    design = RunDesign(contrast_to_noise=2.0, shift_sd_mm=0, amplitude_sd=0, blocks_per_hand=8)
    events, volumes = simulate_run(anatomy, seed=1, subject=1, run=1, design=design)
    data = np.stack([v[anatomy.truth("left")].mean() for v in volumes])
    noise_percent = 1.0
    mean = anatomy.intensity[anatomy.truth("left")].mean()
    course = responses(events, design)["left"]
    slope = np.polyfit(course, 100 * (data / mean - 1) / noise_percent, 1)[0]
    assert slope == pytest.approx(2.0, rel=0.15)


def test_the_same_seed_gives_the_same_run_and_another_one_another(anatomy: Anatomy) -> None:
    def first(seed: int, subject: int) -> np.ndarray:
        return next(simulate_run(anatomy, seed=seed, subject=subject, run=1)[1])

    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert np.array_equal(first(1, 2), first(1, 2))
    assert not np.array_equal(first(1, 2), first(2, 2))
    assert not np.array_equal(first(1, 2), first(1, 3))
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_subjects_have_their_own_shapes_near_the_common_one(anatomy: Anatomy) -> None:
    one = subject_weights(anatomy, seed=0, subject=1, shift_sd_mm=3.0)
    two = subject_weights(anatomy, seed=0, subject=2, shift_sd_mm=3.0)
    assert not np.array_equal(one["left"], two["left"])
    still = subject_weights(anatomy, seed=0, subject=1, shift_sd_mm=0.0)
    assert np.array_equal(still["left"] > 0, anatomy.truth("left"))
    for own in (one, two):
        apart = np.subtract(center_of_mass(own["left"]), center_of_mass(anatomy.weights["left"]))
        assert np.abs(apart * anatomy.grid.voxel_sizes).max() < 12
        assert not (own["left"][~anatomy.brain]).any()


def test_files_are_those_of_fmriprep_and_say_what_they_are(
    anatomy: Anatomy, tmp_path: Path
) -> None:
    design = RunDesign(blocks_per_hand=1)
    files = write_run(tmp_path, anatomy, seed=1, subject=3, run=2, design=design)
    stem = "sub-03_task-hands_run-2_space-MNI152NLin6Asym_desc-preproc_bold"
    assert files.bold.name == f"{stem}.nii.gz"
    image = nib.load(files.bold)
    assert image.get_data_dtype() == np.int16
    assert image.shape == (29, 38, 26, design.n_time_points)
    assert image.affine == pytest.approx(anatomy.grid.affine)
    assert image.header["sform_code"] == image.header["qform_code"] == 4
    assert image.header.get_zooms()[3] == 2.0
    assert b"semi-synthetic" in bytes(image.header["descrip"])
    _, volumes = simulate_run(anatomy, seed=1, subject=3, run=2, design=design)
    for t, volume in enumerate(volumes):
        assert np.abs(np.asarray(image.dataobj[..., t]) - volume).max() < 0.03
    sidecar = json.loads((files.bold.parent / f"{stem}.json").read_text())
    assert sidecar["Description"].startswith("Semi-synthetic")
    assert (sidecar["RepetitionTime"], sidecar["StartTime"]) == (2.0, 1.0)
    events = pd.read_csv(files.events, sep="\t")
    assert sorted(events["trial_type"]) == ["left", "right"]
    assert np.array_equal(np.asarray(nib.load(files.brain_mask).dataobj) > 0, anatomy.brain)
    assert not [p for p in tmp_path.rglob("*") if "part" in p.name]
    with pytest.raises(OutputError, match="is there already"):
        write_run(tmp_path, anatomy, seed=1, subject=3, run=2, design=design)


def test_truth_masks_are_written_with_their_volume(anatomy: Anatomy, tmp_path: Path) -> None:
    paths = write_truth(tmp_path, anatomy)
    for condition, path in paths.items():
        mask = np.asarray(nib.load(path).dataobj) > 0
        assert np.array_equal(mask, anatomy.truth(condition))
        told = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert told["VolumeML"] == pytest.approx(mask.sum() * 0.18)


def test_blocks_come_in_random_order_and_equal_number() -> None:
    design = RunDesign(blocks_per_hand=5)
    orders = {
        tuple(e.hand for e in draw_events(design, np.random.default_rng(seed)))
        for seed in range(12)
    }
    assert len(orders) > 8
    assert all(order.count("left") == order.count("right") == 5 for order in orders)


@pytest.mark.parametrize("change", [{"blocks_per_hand": 0}, {"t_r": 0.0}, {"amplitude_sd": -1.0}])
def test_impossible_designs_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"above 0|at least 0"):
        replace(RunDesign(), **change)
