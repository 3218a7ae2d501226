from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from g3dvit.errors import InputError
from g3dvit.surrogates import two_sided_p, variogram_of_points, variogram_surrogates

SHAPE = (9, 10, 8)
_I, _J, _K = np.indices(SHAPE)
BRAIN = ((_I - 4) / 4.6) ** 2 + ((_J - 4.5) / 5.1) ** 2 + ((_K - 3.5) / 4.2) ** 2 <= 1
POINTS = np.argwhere(BRAIN) * [18.0, 16.0, 20.0]


def smooth_field(rng: np.random.Generator, sigma: float = 1.5) -> np.ndarray:
    wide = rng.standard_normal([n + 12 for n in SHAPE])
    return gaussian_filter(wide, sigma)[6:-6, 6:-6, 6:-6][BRAIN]


def test_variogram_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    points, values = rng.uniform(0, 50, (30, 3)), rng.standard_normal(30)
    variogram = variogram_of_points(points)
    pairs = [(i, j) for i in range(30) for j in range(i + 1, 30)]
    apart = np.array([np.linalg.norm(points[i] - points[j]) for i, j in pairs])
    near = apart <= np.quantile(apart, 0.25)
    half = np.array([(values[i] - values[j]) ** 2 / 2 for i, j in pairs])[near]
    apart = apart[near]
    width = (apart.max() - apart.min()) / 24
    expected = []
    for h in np.linspace(apart.min(), apart.max(), 25):
        weights = np.exp(-((h - apart) ** 2) / (2 * width**2))
        expected.append((weights * half).sum() / weights.sum())
    np.testing.assert_allclose(variogram.of(values[:, None])[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0])
def test_surrogates_have_the_variogram_of_the_map(sigma: float) -> None:
    values = smooth_field(np.random.default_rng(3), sigma) * 1e-6  # the unit does not matter
    made = variogram_surrogates(values, POINTS, n_surrogates=200, seed=1, match_values=False)
    variogram = variogram_of_points(POINTS)
    aim = variogram.of(values[:, None] / values.std())[:, 0]
    found = variogram.of(made.T / values.std()).mean(axis=1)
    np.testing.assert_allclose(found, aim, atol=0.12 * aim.max())
    # As a map without any order would have it, the first bin were as high as the last.
    if sigma:
        assert aim[0] < 0.6 * aim[-1] and found[0] < 0.7 * found[-1]


def test_surrogates_have_the_values_of_the_map_and_another_order() -> None:
    values = smooth_field(np.random.default_rng(5))
    made = variogram_surrogates(values, POINTS, n_surrogates=100, seed=2)
    np.testing.assert_allclose(np.sort(made, axis=1), np.tile(np.sort(values), (100, 1)))
    rho = [spearmanr(one, values).statistic for one in made]
    assert abs(np.mean(rho)) < 0.1 and np.max(np.abs(rho)) < 0.9
    again = variogram_surrogates(values, POINTS, n_surrogates=100, seed=2)
    np.testing.assert_array_equal(made, again)
    other = variogram_surrogates(values, POINTS, n_surrogates=100, seed=3)
    assert not np.allclose(made, other)


def test_two_smooth_maps_that_have_nothing_in_common_are_rarely_called_alike() -> None:
    naive = spatial = 0
    for study in range(40):
        rng = np.random.default_rng([7, study])
        one, two = smooth_field(rng), smooth_field(rng)
        null = variogram_surrogates(one, POINTS, n_surrogates=99, seed=study)
        rank = np.argsort(np.argsort(two))
        rho = [np.corrcoef(np.argsort(np.argsort(m)), rank)[0, 1] for m in (one, *null)]
        naive += spearmanr(one, two).pvalue < 0.05
        spatial += two_sided_p(rho[0], np.array(rho[1:])) < 0.05
    assert naive > 12  # 30 % and more: what this is for
    assert spatial <= 7  # .05 of 40 are 2; the binomial probability of more than 7 is 7e-4


def test_a_p_is_never_zero_and_counts_both_tails() -> None:
    null = np.arange(-4.0, 5.0)
    assert two_sided_p(100.0, null) == pytest.approx(1 / 10)
    assert two_sided_p(-4.0, null) == two_sided_p(4.0, null) == pytest.approx(3 / 10)
    assert two_sided_p(0.0, null) == 1


@pytest.mark.parametrize(
    ("values", "points", "message"),
    [
        (np.ones(30), np.random.default_rng(0).random((30, 3)), "not all the same"),
        (np.full(30, np.nan), np.random.default_rng(0).random((30, 3)), "finite values"),
        (np.arange(5.0), np.random.default_rng(0).random((5, 3)), "20 to 4000 points"),
        (np.arange(30.0), np.zeros((30, 3)), "same place"),
        (np.arange(30.0), np.random.default_rng(0).random((30, 2)), r"\(points, 3\)"),
        (np.arange(29.0), np.random.default_rng(0).random((30, 3)), "one a point"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    values: np.ndarray, points: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        variogram_surrogates(values, points, n_surrogates=3)
