"""Numbers that compare a map with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from g3dvit.errors import GridError, InputError
from g3dvit.evaluate import localise, mass_over_volume, peak_distance_mm, roc_auc, side_shares
from g3dvit.grids import ImageGrid

SHAPE = (8, 7, 5)


def grid(*, flip: bool = False) -> ImageGrid:
    affine = np.diag([-3.0 if flip else 3.0, 2.0, 4.0, 1.0])
    affine[:3, 3] = (10.5 if flip else -10.5, -6.0, -8.0)
    return ImageGrid(SHAPE, affine)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_auc_is_that_of_scikit_learn(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=60)
    if ties:
        values = np.round(values)
    truth = rng.random(60) < 0.3
    truth[:2] = (True, False)
    assert roc_auc(values, truth) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)


def test_a_constant_map_is_at_chance_and_a_perfect_one_is_one() -> None:
    truth = np.arange(20) < 4
    assert roc_auc(np.ones(20), truth) == 0.5
    assert roc_auc(truth * 0.1, truth) == 1.0
    assert roc_auc(-1.0 * truth, truth) == 0.0


@pytest.mark.parametrize("truth", [np.zeros(5, bool), np.ones(5, bool)])
def test_auc_needs_both_kinds_of_voxels(truth: np.ndarray) -> None:
    with pytest.raises(InputError, match="planted and other voxels"):
        roc_auc(np.arange(5.0), truth)


@pytest.mark.parametrize("flip", [False, True])
def test_a_map_on_the_planted_voxels_is_found_in_millimetres(flip: bool) -> None:
    g = grid(flip=flip)
    truth = np.zeros(SHAPE, bool)
    truth[6, 2, 3] = truth[6, 3, 3] = True
    where = localise(truth * 2.0, truth, np.ones(SHAPE, bool), g)
    assert where.auc == 1.0 and where.peak_distance_mm == 0
    assert where.mass_over_volume == pytest.approx(np.prod(SHAPE) / 2)
    # i = 6 lies at 7.5 mm right of the midline, or left of it where i runs the other way.
    assert where.peak_mm[0] == pytest.approx(-7.5 if flip else 7.5)
    assert where.side == where.truth_side == ("left" if flip else "right")
    assert where.right_side


def test_the_other_hemisphere_is_told() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[6, 2, 3] = True
    relevance = np.zeros(SHAPE)
    relevance[1, 2, 3] = 1.0
    where = localise(relevance, truth, np.ones(SHAPE, bool), grid())
    assert (where.side, where.truth_side, where.right_side) == ("left", "right", False)
    assert where.peak_distance_mm == pytest.approx(15.0)
    assert where.mass_over_volume == 0


def test_negative_values_are_never_found() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[6, 2, 3] = True
    where = localise(-1.0 * truth, truth, np.ones(SHAPE, bool), grid())
    assert where.auc == 0 and where.mass_over_volume == 0 and where.side == "none"
    assert not where.right_side


def test_voxels_outside_the_mask_do_not_count() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[6, 2, 3] = True
    mask = np.ones(SHAPE, bool)
    mask[0] = False
    relevance = truth * 1.0
    relevance[0] = 50.0
    where = localise(relevance, truth, mask, grid())
    assert where.auc == 1.0 and where.peak_distance_mm == 0
    assert where.mass_over_volume == pytest.approx(mask.sum())


def test_mass_is_relative_to_volume() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[:2] = True
    mask = np.ones(SHAPE, bool)
    assert mass_over_volume(np.ones(SHAPE), truth, mask) == pytest.approx(1.0)
    assert mass_over_volume(np.where(truth, 3.0, 1.0), truth, mask) == pytest.approx(2.0)


def test_the_peak_of_a_flat_patch_is_its_middle() -> None:
    relevance = np.zeros(SHAPE)
    relevance[2:5, 1:4, 2] = 1.0
    truth = np.zeros(SHAPE, bool)
    truth[3, 2, 2] = True
    peak, distance = peak_distance_mm(relevance, truth, np.ones(SHAPE, bool), grid())
    assert distance == 0
    assert peak == pytest.approx(tuple(grid().vox2world([3, 2, 2])))


def test_sides_are_means_per_voxel_not_sums() -> None:
    mask = np.ones(SHAPE, bool)
    mask[:3] = False  # fewer voxels on the left than on the right
    left, right = side_shares(np.ones(SHAPE), mask, grid())
    assert left == right == 1.0


def test_shapes_and_values_are_checked() -> None:
    mask = np.ones(SHAPE, bool)
    truth = np.zeros(SHAPE, bool)
    truth[1, 1, 1] = True
    with pytest.raises(GridError, match="same shape"):
        localise(np.zeros((8, 7, 6)), truth, mask, grid())
    with pytest.raises(GridError, match="its grid"):
        localise(np.zeros(SHAPE), truth, mask, ImageGrid((5, 7, 8), np.eye(4)))
    with pytest.raises(InputError, match="not finite"):
        localise(np.full(SHAPE, np.nan), truth, mask, grid())
    with pytest.raises(InputError, match="no voxel of the truth"):
        localise(np.zeros(SHAPE), ~mask, mask, grid())
