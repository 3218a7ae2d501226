"""Pure metrics of `g3dvit.evaluate` against slow definitions and textbook numbers."""

from __future__ import annotations

import numpy as np
import pytest

from g3dvit.errors import InputError
from g3dvit.evaluate import curves, fields, spread, units
from g3dvit.evaluate.agreement import icc_2_1, neighbour_correlation, spearman
from g3dvit.evaluate.faithfulness import saco, saliency_groups
from g3dvit.grids import ImageGrid
from oracles_evaluate import (
    curve_by_definition,
    icc_by_anova,
    profile_by_loops,
    saco_by_definition,
)

SHROUT_FLEISS = np.array(  # table 2 of the paper; ICC(2,1) = .29
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


# -- curves --------------------------------------------------------------------------------
def _responder(weights):
    """A model whose value is not additive: kept weights and one product of two patches."""

    def respond(keep):
        total = keep @ weights + 0.7 * keep[:, 2] * keep[:, 5]
        return np.stack([total, total**2], axis=1)

    return respond


def test_curves_equal_the_definition() -> None:
    rng = np.random.default_rng(0)
    weights, inside = rng.normal(size=12), np.array([1, 2, 3, 5, 7, 8, 11])
    maps = rng.normal(size=(3, len(inside)))
    counts = curves.removal_counts(len(inside), 4)
    found = curves.removal_curves(_responder(weights), maps, inside, 12, counts)

    def value(kept):
        return sum(weights[p] for p in kept) + (0.7 if {2, 5} <= set(kept) else 0)

    for m, one in enumerate(maps):
        for got, least_first in ((found.morf, False), (found.lerf, True)):
            slow = curve_by_definition(one, inside, 12, counts, value, least_first=least_first)
            np.testing.assert_allclose(got[m, :, 0], slow)
            np.testing.assert_allclose(got[m, :, 1], slow**2)


def test_gain_of_the_true_order_is_the_largest_and_random_orders_have_none() -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=30)
    orders = np.vstack([weights, -weights, rng.normal(size=(400, 30))])
    counts = curves.removal_counts(30, 10)
    found = curves.removal_curves(
        lambda keep: (keep @ weights)[:, None], orders, np.arange(30), 30, counts
    )
    gain = curves.relevance_gain(found.morf[..., 0], found.lerf[..., 0])
    assert gain[0] == gain.max() and gain[1] == pytest.approx(-gain[0])
    assert abs(gain[2:].mean()) < 3 * gain[2:].std() / np.sqrt(400)


def test_every_set_is_asked_for_once() -> None:
    asked = []

    def respond(keep):
        asked.append(keep)
        return keep.sum(axis=1, keepdims=True).astype(float)

    counts = curves.removal_counts(6, 3)
    curves.removal_curves(respond, np.eye(6)[:4], np.arange(6), 6, counts)
    (only,) = asked
    assert len(np.unique(only, axis=0)) == len(only)


def test_a_constant_map_is_ordered_by_chance_and_not_by_number() -> None:
    orders = [curves.removal_order(np.zeros(50), seed=s) for s in range(2)]
    assert sorted(orders[0]) == list(range(50))
    assert abs(spearman(orders[0], np.arange(50))) < 0.5
    assert (orders[0] != orders[1]).any()


def test_area_and_relative_gain() -> None:
    assert curves.area([0.0, 1.0, 2.0]) == 1.0
    assert curves.relative_gain(1.5, 0.5, 2.5) == 0.5
    assert np.isnan(curves.relative_gain(1.0, 0.5, 0.5))


def test_a_map_that_is_not_finite_gives_no_order() -> None:
    with pytest.raises(InputError, match="finite"):
        curves.removal_order([1.0, np.nan])


# -- SaCo ----------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(5))
def test_saco_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevance, effect = rng.normal(size=23), rng.normal(size=23)

    def drop(group):
        return sum(effect[p] for p in group) ** 3

    groups = saliency_groups(relevance, 7)
    got = saco([relevance[g].sum() for g in groups], [drop(g) for g in groups])
    assert got == pytest.approx(saco_by_definition(relevance, 7, drop))


def test_saco_has_its_ends_and_says_nothing_of_a_constant_map() -> None:
    effect = np.arange(20.0)
    groups = saliency_groups(effect, 10)
    right = saco([effect[g].sum() for g in groups], [effect[g].sum() for g in groups])
    wrong = saco([effect[g].sum() for g in groups], [-effect[g].sum() for g in groups])
    assert (right, wrong) == (1.0, -1.0)
    assert np.isnan(saco(np.ones(4), np.arange(4)))


# -- agreement -----------------------------------------------------------------------------
def test_icc_of_the_textbook() -> None:
    assert icc_2_1(SHROUT_FLEISS) == pytest.approx(0.2898, abs=5e-5)
    assert icc_2_1(SHROUT_FLEISS) == pytest.approx(icc_by_anova(SHROUT_FLEISS))


def test_icc_falls_with_a_rater_who_says_more() -> None:
    x = np.random.default_rng(2).normal(size=50)
    assert icc_2_1(np.stack([x, x], 1)) == pytest.approx(1)
    assert icc_2_1(np.stack([x, x + 1], 1)) < 0.9


def test_spearman_is_scipys_also_with_ties() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, 40), rng.normal(size=40)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(spearman(np.ones(5), np.arange(5)))


# -- smooth random fields --------------------------------------------------------------------
@pytest.mark.parametrize("wanted", [-0.1, 0.0, 0.4, 0.8])
def test_fields_are_as_smooth_as_asked(wanted: float) -> None:
    shape = (9, 11, 8)
    made = fields.matched_fields(wanted, shape, 60, seed=4)
    mask = np.ones(shape, bool)
    pooled = [neighbour_correlation(one - 0.0, mask) for one in made]
    # A field's own mean is taken out in its correlation, which lowers it a little.
    assert np.mean(pooled) == pytest.approx(max(wanted, 0), abs=0.06)


def test_neighbour_correlation_is_one_along_a_ramp_only() -> None:
    ramp = np.broadcast_to(np.arange(20.0)[:, None, None], (20, 2, 2))
    assert neighbour_correlation(ramp, np.ones(ramp.shape)) > 0.98
    board = np.indices((6, 6, 6)).sum(0) % 2
    assert neighbour_correlation(board, np.ones(board.shape)) == pytest.approx(-1)


# -- units ---------------------------------------------------------------------------------
def test_volumes_of_a_unit_count_once() -> None:
    found = units.summarise([1.0, 1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "a", "b"])
    assert (found.mean, found.n_units, found.n_volumes) == (3.0, 2, 5)


def test_interval_is_students() -> None:
    from scipy.stats import ttest_1samp

    x = np.random.default_rng(5).normal(1, 1, 9)
    found = units.summarise(x, [str(n) for n in range(9)])
    expected = ttest_1samp(x, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_no_p_below_six_units() -> None:
    assert np.isnan(units.sign_flip_p([1.0] * 5))
    assert units.sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 2 / 64


def test_sign_flip_counts_every_flip() -> None:
    from itertools import product

    d = np.random.default_rng(6).normal(0.4, 1, 7)
    null = [abs(np.dot(s, d)) for s in product([1, -1], repeat=7)]
    expected = np.mean([value >= abs(d.sum()) - 1e-12 for value in null])
    assert units.sign_flip_p(d) == pytest.approx(expected)


def test_twenty_random_orders_cannot_carry_a_small_p() -> None:
    assert units.rank_p(100.0, np.arange(20)) == pytest.approx(1 / 21)


def test_ratio_of_means_over_units() -> None:
    ratio, low, high = units.ratio_interval([1.0, 2.0, 3.0, 2.0], [2.0, 4.0, 6.0, 4.0])
    assert (ratio, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(units.ratio_interval([1.0, 2.0], [-1.0, 0.5])[0])


# -- point spread --------------------------------------------------------------------------
def test_profile_equals_loops_on_an_oblique_grid() -> None:
    rng = np.random.default_rng(7)
    affine = np.diag([2.0, 3.0, 2.5, 1.0])
    affine[0, 1], affine[:3, 3] = 0.4, (-5, 3, 9)
    grid = ImageGrid((5, 4, 6), affine)
    change, centre = rng.normal(size=grid.shape), grid.vox2world([2, 1, 3]) + 0.3
    edges = spread.distance_bins(12, 2.5)
    np.testing.assert_allclose(
        spread.change_by_distance(change, centre, grid, edges),
        profile_by_loops(change, centre, grid, edges),
    )


def test_width_of_a_gaussian_is_its_fwhm() -> None:
    grid = ImageGrid((41, 37, 39), np.diag([1.5, 1.5, 1.5, 1.0]))
    centre = grid.vox2world([20.2, 18.4, 19.1])
    ijk = np.moveaxis(np.indices(grid.shape), 0, -1)
    apart = np.linalg.norm(grid.vox2world(ijk) - centre, axis=-1)
    blob = np.exp(-((apart / 6.0) ** 2) / 2)
    edges = spread.distance_bins(25, 1.5)
    profile = spread.mean_profile(spread.change_by_distance(blob, centre, grid, edges), edges)
    assert profile.width_mm == pytest.approx(2.3548 * 6.0, rel=0.05)
    assert profile.far_share < 0.1


def test_interval_of_the_width_covers_it_and_needs_places() -> None:
    edges = spread.distance_bins(30, 2)
    middle = (edges[1:] + edges[:-1]) / 2
    widths = np.random.default_rng(8).uniform(4, 8, 20)
    rows = np.exp(-((middle / widths[:, None]) ** 2))
    low, high = spread.width_interval(rows, edges)
    width = spread.mean_profile(rows, edges).width_mm
    assert low < width < high and high - low < 4
    assert np.isnan(spread.width_interval(rows[:5], edges)).all()


def test_a_change_everywhere_has_no_width() -> None:
    grid = ImageGrid((9, 9, 9), np.eye(4))
    edges = spread.distance_bins(5, 1)
    flat = spread.change_by_distance(np.ones(grid.shape), (4, 4, 4), grid, edges)
    profile = spread.mean_profile(flat, edges)
    assert np.isinf(profile.width_mm) and profile.far_share == pytest.approx(1)
