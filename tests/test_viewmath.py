"""The page's arithmetic, run by node and compared with numpy, g3dvit and nibabel."""

import json
import math
import shutil
import subprocess
from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

from g3dvit.grids import ImageGrid
from g3dvit.resampling import resample_array

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

SCRIPT = files("g3dvit.report") / "assets" / "viewmath.js"
AFFINE = np.array([[4.0, 0.3, 0, -20], [-0.2, 5, 0.1, -31], [0, 0.4, 6, -14], [0, 0, 0, 1]])


def node(expression, **values):
    """Evaluate an expression with viewmath as `v` and the given values."""
    names = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
    code = (
        f"const v = require({json.dumps(str(SCRIPT))}); {names}"
        f"process.stdout.write(JSON.stringify({expression}));"
    )
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def random_steps(shape, seed=0):
    return np.random.default_rng(seed).integers(-127, 128, size=shape).astype(np.int8)


@pytest.mark.parametrize("percentile", [1, 25, 50, 90, 99, 100])
def test_threshold_is_the_percentile_of_what_is_not_zero(percentile):
    steps = random_steps(4001)
    steps[::3] = 0
    got = node("v.thresholdAt(Int8Array.from(s), p, 0.5)", s=steps.tolist(), p=percentile)
    size = np.abs(steps[steps != 0].astype(int))
    assert got == pytest.approx(0.5 * np.percentile(size, percentile, method="inverted_cdf"))


def test_percentile_counts_what_lies_below():
    steps = random_steps(2000, 1)
    got = node("v.percentileAt(Int8Array.from(s), 20, 0.5)", s=steps.tolist())
    size = np.abs(steps[steps != 0].astype(int)) * 0.5
    assert got == pytest.approx(100 * (size < 20).mean())


def test_a_map_of_a_few_patches_starts_at_half_of_its_largest_value_at_most():
    few = np.zeros(400, np.int8)
    few[:12] = [127, 90, -64, 40, 9, 8, -7, 6, 5, 4, 3, 2]  # 90 % of these lie below 90
    expected = math.floor(100 * (np.abs(few[:12]) < 63.5).mean())
    assert node("v.startPercentile(Int8Array.from(s), 90)", s=few.tolist()) == expected == 75
    many = random_steps(4001) // 3
    many[0] = 127
    assert node("v.startPercentile(Int8Array.from(s), 90)", s=many.tolist()) == 90
    alike = [5, 5, 0, -5]
    assert node("v.startPercentile(Int8Array.from(s), 90)", s=alike) == 0  # all are shown
    assert node("v.startPercentile(new Int8Array(9), 90)") == 90


def test_nothing_to_threshold():
    assert node(
        "[v.thresholdAt(new Int8Array(9), 90, 1), v.percentileAt(new Int8Array(9), 1, 1)]"
    ) == [0, 0]


def test_smallest_step_is_counted():
    steps = [-128, 127, 0, 1]
    assert node("v.thresholdAt(Int8Array.from(s), 100, 1)", s=steps) == 128


def test_world_and_voxel_are_inverse_of_each_other():
    grid = ImageGrid((7, 9, 5), AFFINE)
    for voxel in [(0, 0, 0), (6, 8, 4), (3, 1, 2)]:
        mm = node("v.worldAt(a, x)", a=AFFINE.tolist(), x=voxel)
        np.testing.assert_allclose(mm, grid.vox2world(voxel))
        assert node("v.voxelAt(a, [7, 9, 5], x)", a=AFFINE.tolist(), x=mm) == list(voxel)
    outside = grid.vox2world([6.6, 2, 2]).tolist()
    assert node("v.voxelAt(a, [7, 9, 5], x)", a=AFFINE.tolist(), x=outside) is None


def test_index_and_frame_follow_the_file_order():
    steps = random_steps((4, 3, 5, 6))
    flat = steps.reshape(-1, order="F").tolist()
    got = node(
        "v.frameOf(Int8Array.from(s), [4, 3, 5], 4)[v.indexOf([4, 3, 5], [2, 1, 3])]", s=flat
    )
    assert got == steps[2, 1, 3, 4]


def test_peak_of_either_sign_or_of_the_positive_ones():
    steps = np.zeros((4, 3, 5), np.int8)
    steps[1, 2, 3], steps[3, 0, 1] = -100, 60
    flat = steps.reshape(-1, order="F").tolist()
    assert node("v.peakOf(Int8Array.from(s), [4, 3, 5], false)", s=flat) == [1, 2, 3]
    assert node("v.peakOf(Int8Array.from(s), [4, 3, 5], true)", s=flat) == [3, 0, 1]


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_refined_patches_equal_the_package_s_own_resampling(factor):
    steps = random_steps((4, 3, 5))
    flat = steps.reshape(-1, order="F").tolist()
    grid = node("v.refinedGrid([4, 3, 5], a, f)", a=AFFINE.tolist(), f=factor)
    fine = ImageGrid(tuple(grid["shape"]), np.asarray(grid["affine"]))
    got = node("Array.from(v.refine(Int8Array.from(s), [4, 3, 5], f))", s=flat, f=factor)
    expected = resample_array(steps.astype(np.float32), ImageGrid((4, 3, 5), AFFINE), fine)
    np.testing.assert_allclose(np.reshape(got, fine.shape, order="F"), expected, atol=0.51)


def test_nifti_of_the_page_is_read_by_nibabel(tmp_path):
    bytes_ = node("Array.from(v.nifti([4, 3, 5], a))", a=AFFINE.tolist())
    (tmp_path / "a.nii").write_bytes(bytes(bytes_))
    image = nib.load(tmp_path / "a.nii")
    assert image.shape == (4, 3, 5)
    assert image.get_data_dtype() == np.int8
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    np.testing.assert_allclose(
        image.header.get_zooms(), np.linalg.norm(AFFINE[:3, :3], axis=0), rtol=1e-6
    )


def test_numbers_are_short_and_signed():
    values = [0.0123456, -4.5e-9, 0, 1234.5, None]
    got = node("x.map((n) => v.signed(n === null ? NaN : n, 3))", x=values)
    assert got == ["+0.0123", "−4.50e-9", "0", "+1230", "0"]
    assert node("[v.unsigned(0), v.unsigned(2.5e7, 2)]") == ["0", "2.5e7"]


def test_colours_run_along_their_stops_and_stop_at_the_ends():
    stops = [[0, [0, 0, 0]], [0.5, [100, 0, 0]], [1, [100, 200, 0]]]
    got = node("[-1, 0.25, 0.5, 0.75, 2].map((x) => v.colourAt(s, x))", s=stops)
    assert got == [[0, 0, 0], [50, 0, 0], [100, 0, 0], [100, 100, 0], [100, 200, 0]]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_slice_equals_the_package_s_own_resampling(plane, mirrored, blocks):
    """Of an oblique grid, in the world; right is drawn on the right unless mirrored."""
    steps = random_steps((4, 3, 5))
    flat = steps.reshape(-1, order="F").tolist()
    place = [-8.0, -20.0, 2.0]
    frame, values = node(
        "(() => {const f = v.frameOn(v.boxOf(a, [4, 3, 5]), plane, 1.5, mirrored);"
        "return [f, [...v.sliceOf(Int8Array.from(s), [4, 3, 5], a, f, place, blocks)]"
        ".map((x) => (x === x ? x : null))]})()",
        s=flat, a=AFFINE.tolist(), plane=plane, mirrored=mirrored, place=place, blocks=blocks,
    )  # fmt: skip
    u, v, across = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[plane]
    width, height = frame["width"], frame["height"]
    steps_mm = [
        (frame["u"][1] - frame["u"][0]) / width,
        (frame["v"][1] - frame["v"][0]) / height,
    ]
    turned = mirrored and u == 0
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[u, 0] = -steps_mm[0] if turned else steps_mm[0]
    affine[v, 1] = -steps_mm[1]  # from the top
    affine[across, 2] = 1
    affine[u, 3] = (frame["u"][1] - steps_mm[0] / 2) if turned else frame["u"][0] + steps_mm[0] / 2
    affine[v, 3] = frame["v"][1] - steps_mm[1] / 2
    affine[across, 3] = place[across]
    fine = ImageGrid((width, height, 1), affine)
    grid = ImageGrid((4, 3, 5), AFFINE)
    how = "nearest" if blocks else "linear"
    expected = resample_array(steps.astype(np.float32), grid, fine, interpolation=how)[..., 0]
    got = np.array([np.nan if x is None else x for x in values]).reshape(height, width).T
    inside = ~np.isnan(got)
    assert 0.1 < inside.mean() < 1
    np.testing.assert_allclose(got[inside], expected[inside], atol=1e-3)
    assert np.abs(expected[~inside]).max(initial=0) == 0


def test_places_in_a_frame_and_back():
    box = [[-90, 90], [-126, 90], [-72, 108]]
    for plane in ("axial", "coronal", "sagittal"):
        for mirrored in (False, True):
            back = node(
                "(() => {const f = v.frameOn(b, plane, 2, mirrored);"
                "return v.placeIn(f, v.shareIn(f, p), p)})()",
                b=box, plane=plane, mirrored=mirrored, p=[-40, -22, 56],
            )  # fmt: skip
            np.testing.assert_allclose(back, [-40, -22, 56])
    left, right, side = node(
        "[false, true].map((m) => v.shareIn(v.frameOn(b, 'axial', 2, m), p)[0])"
        ".concat(v.shareIn(v.frameOn(b, 'sagittal', 2, true), p)[0])",
        b=box, p=[-40, -22, 56],
    )  # fmt: skip
    assert left < 0.5 < right
    assert side == pytest.approx((-22 + 126) / 216)  # front is on the right either way


def test_box_of_an_oblique_grid_holds_all_corners():
    got = node("v.boxOf(a, [4, 3, 5])", a=AFFINE.tolist())
    corners = np.array(np.meshgrid([-0.5, 3.5], [-0.5, 2.5], [-0.5, 4.5])).reshape(3, -1).T
    world = ImageGrid((4, 3, 5), AFFINE).vox2world(corners)
    np.testing.assert_allclose(got, np.stack([world.min(0), world.max(0)], axis=1))


def test_4d_maps_keep_their_volumes_and_their_spacing(tmp_path):
    steps = random_steps((4, 3, 5, 6))
    bytes_ = node(
        "Array.from(v.niftiOfValues([4, 3, 5], a, Int8Array.from(s), 0.5, 'x', 2.5))",
        a=AFFINE.tolist(), s=steps.reshape(-1, order="F").tolist(),
    )  # fmt: skip
    (tmp_path / "a.nii").write_bytes(bytes(bytes_))
    image = nib.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.get_fdata(), steps * 0.5)
    assert image.header.get_zooms()[3] == 2.5
    assert image.header.get_xyzt_units() == ("mm", "sec")


def test_colour_bars_have_zero_where_the_signs_meet():
    pair = {
        "positive": [[0, [9, 0, 0]], [1, [99, 0, 0]]],
        "negative": [[0, [0, 0, 9]], [1, [0, 0, 99]]],
    }
    got = node("['both', 'positive', 'negative'].map((s) => v.gradient(p, true, s))", p=pair)
    assert [bar["zero"] for bar in got] == [50, 0, 100]
    assert got[0]["css"] == [
        *("rgb(0,0,99) 0%", "rgb(0,0,9) 50%", "rgb(9,0,0) 50%", "rgb(99,0,0) 100%"),
    ]
    assert got[1]["css"] == ["rgb(9,0,0) 0%", "rgb(99,0,0) 100%"]
    assert node("v.gradient(p, false, 'both').zero", p=pair) == 0
