"""Steps that change the grid: exact where they can be, in the right place always."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.image import resample_img

from g3dvit.errors import PreparationError
from g3dvit.grids import ImageGrid
from g3dvit.prepare import Crop, Pad, Preparation, Reorient, Resample, UserFunction
from g3dvit.prepare.resample import exact_move, to_grid
from g3dvit.volumes import Volume, open_series
from made_images import AFFINES, SHAPE, random_run, save_run

DATA = random_run(SHAPE)


def volume(affine, data=DATA):
    return Volume(data, ImageGrid(data.shape, affine), "run.nii", 3, 7.0)


def values_by_place(v):
    """Every voxel's world coordinate (to a micrometre) and its value."""
    ijk = np.indices(v.grid.shape).reshape(3, -1).T
    places = np.round(v.grid.vox2world(ijk), 3) + 0.0
    return dict(zip(map(tuple, places.tolist()), v.data.ravel().tolist(), strict=True))


CODES = ["RAS", "LAS", "LPI", "PIR", "SAL"]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("name", AFFINES)
def test_reorient_moves_no_value(name, codes) -> None:
    before = volume(AFFINES[name])
    after = Reorient(codes)(before)
    assert after.grid.axcodes == codes
    assert values_by_place(after) == values_by_place(before)
    assert after.grid.matches(Reorient(codes).grid_of(before.grid))
    assert (after.time_point, after.onset_s) == (3, 7.0)


starts = st.one_of(st.none(), st.integers(-3, 3))
stops = st.one_of(st.none(), st.integers(-2, -1), st.integers(4, 12))


@given(st.tuples(starts, starts, starts), st.tuples(stops, stops, stops))
def test_crop_is_a_python_slice(start, stop) -> None:
    parts = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    before = volume(AFFINES["oblique"])
    if 0 in DATA[parts].shape:
        with pytest.raises(PreparationError, match="leaves nothing"):
            Crop(start, stop)(before)
        return
    after = Crop(start, stop)(before)
    np.testing.assert_array_equal(after.data, DATA[parts])
    places = values_by_place(before)
    assert all(places[p] == value for p, value in values_by_place(after).items())


def test_pad_keeps_places() -> None:
    before = volume(AFFINES["oblique"])
    after = Pad((1, 0, 2), (0, 3, 1), fill=-4.5)(before)
    assert after.grid.shape == (8, 12, 8)
    np.testing.assert_array_equal(after.data[1:, :9, 2:7], DATA)
    assert (after.data == -4.5).sum() == after.data.size - DATA.size
    places = values_by_place(after)
    assert all(places[p] == value for p, value in values_by_place(before).items())


# ------------------------------------------------------------------------------- resampling


def slow_linear(data, source, target, fill=0.0):
    """Trilinear interpolation, one voxel at a time."""
    out = np.full(target.shape, fill)
    for index in np.ndindex(*target.shape):
        at = source.world2vox(target.vox2world(index))
        if (at < -1e-6).any() or (at > np.array(source.shape) - 1 + 1e-6).any():
            continue
        at = np.clip(at, 0, np.array(source.shape) - 1)
        low = np.minimum(np.floor(at).astype(int), np.array(source.shape) - 2)
        share = at - low
        out[index] = sum(
            np.prod([share[a] if corner[a] else 1 - share[a] for a in range(3)])
            * float(data[tuple(low + corner)])
            for corner in np.ndindex(2, 2, 2)
        )
    return out


TARGETS = {
    "finer": ImageGrid((9, 8, 7), nib.affines.from_matvec(np.diag([2.0, 2, 2]), [-9, -12, -6])),
    "coarser": ImageGrid((4, 5, 3), nib.affines.from_matvec(np.diag([-5.0, 4, 6]), [9, -13, -5])),
    "tilted": ImageGrid((5, 6, 4), AFFINES["oblique"] @ np.diag([1.2, 0.8, 1, 1])),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", AFFINES)
def test_linear_resampling_against_a_loop(name, target) -> None:
    source, grid = ImageGrid(SHAPE, AFFINES[name]), TARGETS[target]
    expected = slow_linear(DATA, source, grid, fill=-1.0)
    found = to_grid(DATA, source, grid, fill=-1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert (expected != -1).sum() > 10


@pytest.mark.parametrize("interpolation", ["linear", "nearest", "continuous"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.filterwarnings("ignore")
def test_resampling_as_nilearn_does_it(name, target, interpolation) -> None:
    # shifted by an odd amount: on ties and exactly on the rim nilearn obeys rounding errors
    affine = AFFINES[name].copy()
    affine[:3, 3] += (0.0123, -0.0234, 0.0345)
    grid = TARGETS[target]
    expected = resample_img(
        nib.Nifti1Image(DATA, affine), grid.affine, grid.shape, interpolation=interpolation
    ).get_fdata()
    found = to_grid(DATA, ImageGrid(SHAPE, affine), grid, interpolation=interpolation)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2)
    assert (found != 0).mean() > 0.05


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(AFFINES)),
    st.permutations(range(3)),
    st.tuples(*[st.booleans()] * 3),
    st.tuples(*[st.integers(-4, 6)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
)
def test_coinciding_voxels_are_copied_bit_by_bit(name, order, flips, start, shape) -> None:
    source = ImageGrid(SHAPE, AFFINES[name])
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for axis, (a, flip) in enumerate(zip(order, flips, strict=True)):
        turn[a, axis] = -1 if flip else 1
        turn[a, 3] = start[a]
    target = ImageGrid(shape, source.affine @ turn)
    assert exact_move(source, target) is not None
    found = to_grid(DATA, source, target, fill=-7.0)
    for index in np.ndindex(*shape):
        at = (turn[:3, :3] @ index + turn[:3, 3]).astype(int)
        inside = (at >= 0).all() and (at < SHAPE).all()
        assert found[index] == (DATA[tuple(at)] if inside else -7.0)


def test_the_rim_is_not_lost_to_rounding() -> None:
    # the last target voxel lies on the last source voxel, but 0.7 / 3 is no binary fraction
    source = ImageGrid((8, 9, 10), np.diag([0.7, 0.7, 0.7, 1.0]))
    step = 0.7 / 3
    target = ImageGrid((22, 25, 28), np.diag([step, step, step, 1.0]))
    ones = np.ones(source.shape, np.float32)
    np.testing.assert_allclose(to_grid(ones, source, target), 1, rtol=1e-6)


@pytest.mark.parametrize("shift", [0.01, 0.5])
def test_voxels_that_do_not_coincide_are_interpolated(shift) -> None:
    source = ImageGrid(SHAPE, AFFINES["RAS"])
    moved = source.affine.copy()
    moved[0, 3] += shift * 3
    target = ImageGrid((5, 9, 5), moved)
    assert exact_move(source, target) is None
    expected = (1 - shift) * DATA[:5] + shift * DATA[1:6]
    np.testing.assert_allclose(to_grid(DATA, source, target), expected, rtol=1e-5)


# ------------------------------------------------------------------------------ the presets


def fsl_grid(stored: str) -> ImageGrid:
    signs = {"LAS": (-2.0, 90.0), "RAS": (2.0, -90.0)}[stored]
    affine = nib.affines.from_matvec(np.diag([signs[0], 2, 2]), [signs[1], -126, -72])
    return ImageGrid((91, 109, 91), affine)


@pytest.mark.parametrize("stored", ["LAS", "RAS"])
def test_the_2mm_grid_slices_fsl_volumes_exactly(stored) -> None:
    grid = fsl_grid(stored)
    data = random_run(grid.shape, seed=4)
    preparation = Preparation.preset("MNI152NLin6Asym_2mm_90", standardise="none")
    prepared = preparation.apply(Volume(data, grid, "run.nii", 0, None))
    ras = data[::-1] if stored == "LAS" else data
    np.testing.assert_array_equal(prepared.data, ras[0:90, 10:100, 0:90])
    expected = nib.affines.from_matvec(np.diag([2.0, 2, 2]), [-90, -106, -72])
    np.testing.assert_array_equal(prepared.grid.affine, expected)
    assert preparation.grid_of(grid).matches(prepared.grid)


@pytest.mark.parametrize("stored", ["LAS", "RAS"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_the_reference_crop_bit_for_bit(tmp_path, stored, dtype) -> None:

    grid = fsl_grid(stored)
    path = save_run(
        tmp_path / "run.nii.gz", random_run((*grid.shape, 2), seed=5).astype(dtype), grid.affine
    )
    series = open_series(path)
    preparation = Preparation.preset("reference-crop")
    for prepared in preparation.stream(series):
        data = nib.load(path).get_fdata()[..., prepared.time_point]
        v = np.asarray(data[1:, 10:-9, 1:], np.float32)
        expected = (v - v.mean()) / v.std()
        assert prepared.data.dtype == np.float32
        np.testing.assert_array_equal(prepared.data, expected)
        assert prepared.grid.shape == (90, 90, 90)
        np.testing.assert_array_equal(
            prepared.grid.vox2world([0, 0, 0]), grid.vox2world([1, 10, 1])
        )
        assert prepared.grid.axcodes == stored


def scaled(sizes, origin):
    return nib.affines.from_matvec(np.diag(sizes), origin)


PLACES = {
    "RAS": (scaled([3.0, 3, 3], [-85, -120, -70]), (57, 70, 60)),
    "LAS": (scaled([-3.0, 3, 3], [85, -120, -70]), (57, 70, 60)),
    "anisotropic": (
        nib.affines.from_matvec(np.diag([2.5, 3, 4.0]), [-85, -120, -70]),
        (68, 70, 45),
    ),
    "oblique": (
        nib.affines.from_matvec(
            nib.eulerangles.euler2mat(0.25, -0.1, 0.2) @ np.diag([-3.0, 3, 3.3]), [95, -100, -60]
        ),
        (62, 66, 50),
    ),
    "PSR": (
        nib.affines.from_matvec([[0, 0, 3.0], [-3, 0, 0], [0, 3.0, 0]], [-85, 90, -70]),
        (70, 60, 57),
    ),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("centre", [(-42, -22, 54), (30, 40, -12)])
def test_a_planted_block_stays_at_its_millimetre(name, centre) -> None:
    affine, shape = PLACES[name]
    grid = ImageGrid(shape, affine)
    places = grid.vox2world(np.indices(shape).reshape(3, -1).T)
    near = np.linalg.norm(places - centre, axis=1) < 9
    assert near.sum() > 50
    data = near.reshape(shape).astype(np.float32)
    preparation = Preparation.preset("MNI152NLin6Asym_2mm_90", standardise="none")
    prepared = preparation.apply(Volume(data, grid, "run.nii", 0, None))
    weights = prepared.data.ravel() / prepared.data.sum()
    found = weights @ prepared.grid.vox2world(np.indices(prepared.grid.shape).reshape(3, -1).T)
    expected = places[near].mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=0.15)
    assert np.sign(found[0]) == np.sign(centre[0])  # left stays left
    # in RAS the left hemisphere is the first half of i
    half = prepared.data[:45].sum() > prepared.data[45:].sum()
    assert half == (centre[0] < 0)


# --------------------------------------------------------------------- the user's own function


def halve(data, affine):
    """Every second voxel."""
    return data[::2, 1:, :], affine @ nib.affines.from_matvec(np.diag([2.0, 1, 1]), [0, 1, 0])


def returns_four_axes(data, affine):
    return data[..., None], affine


def returns_data_alone(data, affine):
    return data


def returns_a_broken_affine(data, affine):
    return data, affine * np.nan


def returns_nan(data, affine):
    return np.where(data > data.mean(), np.nan, data), affine


def writes_into_its_input(data, affine):
    data[:] = 0
    affine[:] = np.eye(4)
    return data, affine


def test_the_users_function_and_its_grid() -> None:
    before = volume(AFFINES["oblique"])
    step = UserFunction(f"{__name__}:halve")
    after = step(before)
    np.testing.assert_array_equal(after.data, DATA[::2, 1:, :])
    assert after.grid.matches(step.grid_of(before.grid))
    places = values_by_place(before)
    assert all(places[p] == value for p, value in values_by_place(after).items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{__name__}:returns_four_axes", r"must return \(data, affine\).*shape \(7, 9, 5, 1\)"),
        (f"{__name__}:returns_data_alone", "it returned ndarray"),
        (f"{__name__}:returns_a_broken_affine", "must return .* finite"),
        (f"{__name__}:returns_nan", "returned .* NaN or infinite voxels for volume 3"),
        (f"{__name__}:absent", "cannot be imported"),
        ("no_such_package:f", r"cannot be imported.*PYTHONPATH"),
        (f"{__name__}:DATA", "is no function"),
    ],
)
def test_a_users_function_that_breaks_the_contract(name, message) -> None:
    with pytest.raises(PreparationError, match=message):
        UserFunction(name)(volume(AFFINES["RAS"]))


def test_a_users_function_cannot_change_the_volume_it_was_given() -> None:
    before = volume(AFFINES["LAS"], DATA.copy())
    UserFunction(f"{__name__}:writes_into_its_input")(before)
    np.testing.assert_array_equal(before.data, DATA)
    np.testing.assert_array_equal(before.grid.affine, AFFINES["LAS"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reorient("RAR"), "one direction per axis"),
        (lambda: Crop((1, 2), (None, None, None)), "three integers or None"),
        (lambda: Pad((1, 2, -1), (0, 0, 0)), "at least 0"),
        (lambda: Resample((9, 9), np.eye(4)), "no usable grid"),
        (lambda: Resample((9, 9, 9), np.zeros((4, 4))), "no usable grid"),
        (lambda: Resample((9, 9, 9), np.eye(4), "cubic"), "`interpolation` is one of"),
        (lambda: UserFunction("package.function"), "'package.module:function'"),
    ],
)
def test_steps_that_make_no_sense(make, message) -> None:
    with pytest.raises(PreparationError, match=message):
        make()
