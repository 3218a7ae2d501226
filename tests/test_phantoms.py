from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from g3dvit.errors import GridError, InputError
from g3dvit.phantoms import (
    Cubes,
    PhantomVolumes,
    RealNoise,
    ResidualNoise,
    correct_truth,
    matched_auc,
    place_sites,
    recipe_hash,
    visible_patches,
)
from g3dvit.phantoms.residuals import randomise_phases
from g3dvit.phantoms.sites import blob


@pytest.fixture(scope="module")
def real() -> PhantomVolumes:
    return RealNoise().draw(24, "test", 3)


# -- recipes ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "other",
    [
        Cubes(size=7),
        Cubes(task="content"),
        Cubes(family="sealed"),
        RealNoise(),
        RealNoise(amplitude=2.0),
        replace(RealNoise(), noise=replace(RealNoise().noise, thermal=0.4)),
    ],
)
def test_every_factor_changes_the_hash(other: object) -> None:
    assert recipe_hash(other) != recipe_hash(Cubes())
    assert recipe_hash(other) == recipe_hash(replace(other))  # type: ignore[type-var]


@pytest.mark.parametrize("recipe", [Cubes(shape=(18, 20, 24)), RealNoise()])
def test_the_same_seed_gives_the_same_volumes_and_another_split_others(recipe: Cubes) -> None:
    one, again = recipe.draw(3, "test", 5), recipe.draw(3, "test", 5)
    np.testing.assert_array_equal(one.volumes, again.volumes)
    np.testing.assert_array_equal(one.used, again.used)
    for other in (
        recipe.draw(3, "train", 5),
        recipe.draw(3, "test", 6),
        replace(recipe, family="sealed").draw(3, "test", 5),
    ):
        correlation = np.corrcoef(one.volumes.ravel(), other.volumes.ravel())[0, 1]
        assert abs(correlation) < 0.3
    assert one.volumes.dtype == np.float32


def test_recipes_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(InputError, match="fits into an octant"):
        Cubes(size=16)
    with pytest.raises(InputError, match="`n` is the number of volumes"):
        Cubes().draw(0)
    with pytest.raises(InputError, match="there is no split"):
        Cubes().draw(1, "validation")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without a suppressor"):
        RealNoise(activation="motor", suppressor=True)
    with pytest.raises(InputError, match="`effect` is amplitude or pattern"):
        RealNoise(effect="size")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="do not fit into a brain"):
        place_sites(
            np.ones((9, 9, 9), bool),
            n_classes=2,
            per_class=2,
            n_distractors=1,
            n_suppressors=0,
            radius=3.0,
            jitter=1.0,
            gap=10,
            rng=np.random.default_rng(0),
            tries=50,
        )


# -- cubes -----------------------------------------------------------------------------------
def test_a_cube_adds_one_in_its_octant() -> None:
    drawn = Cubes(size=5, shape=(12, 18, 30)).draw(40, "train", 1)
    np.testing.assert_allclose(drawn.volumes - drawn.without, drawn.used, atol=1e-6)
    for label, box in zip(drawn.labels, drawn.used, strict=True):
        assert box.sum() == 125
        centre = np.argwhere(box).mean(axis=0)
        octant = "".join(
            "H" if c > (n - 1) / 2 else "L" for c, n in zip(centre, box.shape, strict=True)
        )
        assert drawn.class_names[label] == octant
    assert set(drawn.labels) == set(range(8))


def test_the_content_cube_has_the_sign_of_its_class_and_lies_anywhere() -> None:
    drawn = Cubes(task="content", size=5, shape=(12, 18, 30)).draw(60, "train", 2)
    steps = np.array(
        [
            (v - w)[b].mean()
            for v, w, b in zip(drawn.volumes, drawn.without, drawn.used, strict=True)
        ]
    )
    np.testing.assert_allclose(steps, 2 * drawn.labels - 1, atol=1e-5)
    starts = np.array([np.argwhere(box).min(axis=0) for box in drawn.used])
    assert all(len(set(starts[:, axis] % 5)) == 5 for axis in range(3))  # not aligned


def test_the_phantom_as_it_was_cannot_be_seen_by_a_model_that_normalises_patches() -> None:
    drawn = Cubes.as_it_was("position").draw(6, "test")
    assert not visible_patches(drawn.volumes, drawn.without, (5, 5, 5)).any()
    assert visible_patches(drawn.volumes, drawn.without, (5, 5, 5), patch_norm=False).any()
    corrected = correct_truth(drawn, (5, 5, 5))
    assert not corrected.used.any()
    np.testing.assert_array_equal(corrected.ignored, drawn.used)


# -- what can be seen ------------------------------------------------------------------------
def test_visible_patches_agree_with_a_slow_loop() -> None:
    drawn = Cubes(size=6, shape=(12, 16, 20)).draw(5, "test", 4)
    edges = (4, 4, 5)
    found = visible_patches(drawn.volumes, drawn.without, edges)
    assert found.any() and not found.all()
    for n in range(5):
        for i, j, k in np.ndindex(3, 4, 4):
            box = (slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4), slice(5 * k, 5 * k + 5))
            a, b = (
                (v[n][box] - v[n][box].mean()) / np.sqrt(v[n][box].var() + 1e-5)
                for v in (drawn.volumes.astype(float), drawn.without.astype(float))
            )
            assert found[n, i, j, k] == (np.abs(a - b).max() > 1e-3)


def test_a_patch_within_the_cube_is_ignored_and_not_called_empty() -> None:
    drawn = Cubes(size=12, shape=(24, 24, 24)).draw(8, "test", 0)
    corrected = correct_truth(drawn, (4, 4, 4))
    hidden = drawn.used & ~corrected.used
    assert hidden.any()
    np.testing.assert_array_equal(corrected.ignored, hidden)
    assert (drawn.used == (corrected.used | hidden)).all()


def test_patches_that_do_not_divide_the_volume_are_refused() -> None:
    drawn = Cubes(size=4, shape=(12, 12, 12)).draw(1)
    with pytest.raises(GridError, match="do not divide"):
        visible_patches(drawn.volumes, drawn.without, (5, 4, 4))


# -- realistic noise -------------------------------------------------------------------------
def test_target_and_distractor_are_equally_strong_and_two_patches_apart(
    real: PhantomVolumes,
) -> None:
    from scipy.ndimage import distance_transform_edt

    height = (real.volumes - real.without).reshape(len(real), -1).max(axis=1)
    np.testing.assert_allclose(height, 2.5, rtol=0.1)
    for target, distractor in zip(real.associated, real.distractor, strict=True):
        gap = distance_transform_edt(~target)[distractor].min()
        assert gap >= 2 * 5
        assert 0.7 < target.sum() / distractor.sum() < 1.4
    np.testing.assert_array_equal(real.used, real.associated)
    assert not (real.ignored & real.used).any()


def test_the_distractor_says_nothing_about_the_class() -> None:
    drawn = RealNoise().draw(300, "train", 0)
    middle = np.array([np.argwhere(d).mean(axis=0) for d in drawn.distractor])
    first = np.linalg.norm(middle - middle[0], axis=1) < 4  # at the first volume's place
    table = np.array(
        [
            [np.sum(first & (drawn.labels == c)) for c in (0, 1)],
            [np.sum(~first & (drawn.labels == c)) for c in (0, 1)],
        ]
    )
    assert table.sum() == 300 and table.min() > 40
    share = table[0] / table.sum(axis=0)
    assert abs(share[0] - share[1]) < 0.17  # three standard errors


def test_the_noise_has_unit_spread_in_the_brain_and_none_outside(real: PhantomVolumes) -> None:
    outside = real.volumes[:, ~real.mask]
    assert (outside == 0).all()
    quiet = ~(real.used | real.distractor).any(axis=0) & real.mask
    assert 0.8 < real.volumes[:, quiet].std() < 1.2


def test_empty_places_of_both_classes_belong_to_neither_side(real: PhantomVolumes) -> None:
    recipe = RealNoise()
    targets = recipe.sites().targets
    places = [blob(recipe.shape, place, recipe.radius) > 0 for own in targets for place in own]
    for label, ignored, used in zip(real.labels, real.ignored, real.used, strict=True):
        assert all((ignored | used)[place & real.mask].all() for place in places)
        centre = np.argwhere(used).mean(axis=0)
        own, other = (
            np.linalg.norm(np.array(targets[c]) - centre, axis=1).min() for c in (label, 1 - label)
        )
        assert own < other


def test_layouts_differ_between_families_and_not_between_seeds() -> None:
    assert RealNoise().sites() == RealNoise().sites()
    assert RealNoise().sites() != RealNoise(family="sealed").sites()


def test_the_suppressor_shares_the_noise_of_the_target_and_holds_no_signal() -> None:
    recipe = RealNoise(suppressor=True, jitter=0.0)
    drawn = recipe.draw(250, "train", 0)
    sites = recipe.sites()
    for number in (0, 1):
        target, source = (
            (blob(recipe.shape, place, 2.0) > 0)
            for place in (sites.targets[number][0], sites.suppressors[number])
        )
        a, b = (drawn.without[:, where].mean(axis=1) for where in (target, source))
        assert np.corrcoef(a, b)[0, 1] > 0.6
        means = [drawn.volumes[drawn.labels == c][:, source].mean() for c in (0, 1)]
        assert abs(means[0] - means[1]) < 0.6
        means = [drawn.volumes[drawn.labels == c][:, target].mean() for c in (0, 1)]
        assert means[number] - means[1 - number] > 1.0
    assert (drawn.used & ~drawn.associated).any()


def test_a_pattern_effect_has_opposite_textures_at_the_same_place() -> None:
    drawn = RealNoise(effect="pattern", jitter=0.0, per_class=1).draw(30, "train", 0)
    signal = drawn.volumes - drawn.without
    mean = [signal[drawn.labels == c].mean(axis=0) for c in (0, 1)]
    np.testing.assert_allclose(mean[0], -mean[1], atol=1e-4)
    assert mean[1].max() > 1 and mean[1].min() < -1


def test_motor_clusters_lie_opposite_to_their_hand() -> None:
    drawn = RealNoise(activation="motor").draw(12, "test", 0)
    for label, used in zip(drawn.labels, drawn.used, strict=True):
        x = drawn.grid.vox2world(np.argwhere(used).mean(axis=0))[0]
        assert drawn.class_names[label] == ("left" if x > 0 else "right")


# -- one person's noise ----------------------------------------------------------------------
@pytest.mark.parametrize("n", [20, 21])
def test_random_phases_keep_spectra_and_correlations(n: int) -> None:
    rng = np.random.default_rng(0)
    series = rng.standard_normal((n, 3)).cumsum(axis=0).astype(np.float32)
    series -= series.mean(axis=0)
    found = randomise_phases(series, rng)
    assert np.abs(found - series).max() > 0.1
    np.testing.assert_allclose(
        np.abs(np.fft.rfft(found, axis=0)), np.abs(np.fft.rfft(series, axis=0)), atol=1e-4
    )
    np.testing.assert_allclose(found.T @ found, series.T @ series, rtol=1e-3, atol=1e-3)


@pytest.mark.real_data
def test_one_persons_noise() -> None:
    where = os.environ.get("G3DVIT_TEST_DATA")
    if not where:
        pytest.skip("G3DVIT_TEST_DATA names no folder with the real run")
    folder = Path(where) / "studyforrest_localizer"
    if not folder.is_dir():
        pytest.skip("the real run is not in G3DVIT_TEST_DATA")
    image = "sub-02_task-oneback_run-1_space-MNI152_res-4mm_desc-mcbrain_bold.nii.gz"
    noise = ResidualNoise(str(folder / image), str(folder / "blocks.tsv"), 2.0)
    drawn = RealNoise(residuals=noise).draw(90, "train", 0)
    quiet = drawn.mask & ~(drawn.used | drawn.distractor).any(axis=0)
    spread = drawn.volumes[:, quiet].std(axis=0)
    assert 0.8 < np.median(spread) < 1.2
    neighbours = np.corrcoef(drawn.without[:, 15, 15, 14], drawn.without[:, 15, 15, 15])[0, 1]
    far = np.corrcoef(drawn.without[:, 15, 15, 14], drawn.without[:, 6, 8, 20])[0, 1]
    assert neighbours > far


# -- distance-matched controls ---------------------------------------------------------------
def test_a_map_that_only_fades_with_distance_has_a_distractor_auc_of_one_half() -> None:
    from scipy.ndimage import distance_transform_edt

    shape = (20, 24, 28)
    target, distractor = np.zeros(shape, bool), np.zeros(shape, bool)
    target[4:7, 10:13, 12:15] = True
    distractor[14:17, 10:13, 12:15] = True
    free = ~(target | distractor)
    fading = -np.floor(distance_transform_edt(~target))
    assert matched_auc(fading, target, distractor, free) == 0.5
    assert matched_auc(fading + 3.0 * distractor, target, distractor, free) == 1.0
    assert matched_auc(fading - 3.0 * distractor, target, distractor, free) == 0.0


def test_matching_needs_a_target() -> None:
    nothing = np.zeros((4, 5, 6), bool)
    with pytest.raises(InputError, match="no target voxel"):
        matched_auc(np.zeros((4, 5, 6)), nothing, ~nothing, nothing)
