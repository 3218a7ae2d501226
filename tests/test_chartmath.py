"""Arithmetic of the page's charts, tables and outlines, run by node."""

import json
import shutil
import subprocess
from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

from g3dvit.grids import ImageGrid

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

ASSETS = files("g3dvit.report") / "assets"
OBLIQUE = np.array([[4.0, 0.9, 0, -20], [-0.8, 5, 0.4, -31], [0, -0.4, 6, -14], [0, 0, 0, 1]])


def node(expression, **values):
    """Evaluate an expression with chartmath as `c`, viewmath as `v` and the given values."""
    names = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
    code = (
        f"const c = require({json.dumps(str(ASSETS / 'chartmath.js'))});"
        f"const v = require({json.dumps(str(ASSETS / 'viewmath.js'))}); {names}"
        f"process.stdout.write(JSON.stringify({expression}));"
    )
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (3, 47, [10, 20, 30, 40]),
        (-0.3, 0.31, [-0.2, 0, 0.2]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_and_inside(low, high, expected):
    assert node("c.ticks(a, b, 6)", a=low, b=high) == pytest.approx(expected)


def test_nearest_time_and_spacing():
    times = [1, 3, 5, 20, 22]
    assert node("[-9, 3.9, 4.1, 11, 13, 99].map(t => c.nearest(x, t))", x=times) == [
        0,
        1,
        2,
        2,
        3,
        4,
    ]
    assert node("[c.nearest([], 1), c.spacing(x), c.spacing([4])]", x=times) == [-1, 2, 1]


def test_lines_break_at_gaps_and_missing_values():
    got = node("c.path([0, 2, 4, 10, 12], [1, 2, null, 3, 4], t => t, y => y)")
    assert got == "M0.0 1.0L2.0 2.0M10.0 3.0L12.0 4.0"


def test_stretches_of_a_design():
    got = node("c.stretches([0, 2, 4, 6, 20, 22], [0, 0, 1, 1, 1, 0])")
    assert [(s["from"], s["to"], s["value"]) for s in got] == [
        (-1, 3, 0), (3, 7, 1), (19, 21, 1), (21, 23, 0),
    ]  # fmt: skip


def test_rows_are_ordered_by_number_where_they_are_numbers():
    rows = [["10"], ["−9.5"], ["–"], ["2e-3"], ["9"]]
    assert node("c.order(r, 0, false)", r=rows) == [1, 3, 4, 0, 2]
    assert node("c.order(r, 0, true)", r=rows) == [0, 4, 3, 1, 2]
    words = [["run-10"], ["run-9"], ["b"], ["b"]]
    assert node("c.order(r, 0, false)", r=words) == [2, 3, 1, 0]


def test_tables_are_one_row_a_line():
    got = node("c.tsv(['a', 'b'], [['x\\ty', '–'], ['1\\n2', '']])")
    assert got == "a\tb\nx y\tn/a\n1 2\t\n"


@pytest.mark.parametrize("affine", [np.diag([-4.0, 5, 6, 1]), OBLIQUE])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cut_through_a_patch_lies_on_its_faces(affine, axis):
    centre = (affine @ [2, 3, 1, 1])[:3]
    corners = np.array(
        node("c.cutOfBox(a, [2, 3, 1], x, m)", a=affine.tolist(), x=axis, m=centre[axis] + 0.7)
    )
    assert len(corners) >= 4
    np.testing.assert_allclose(corners[:, axis], centre[axis] + 0.7)
    inside = ImageGrid((9, 9, 9), affine).world2vox(corners) - [2, 3, 1]
    np.testing.assert_allclose(np.abs(inside).max(axis=1), 0.5, atol=1e-9)
    assert node("c.cutOfBox(a, [2, 3, 1], x, 400)", a=affine.tolist(), x=axis) == []


def test_cut_corners_go_round_once():
    square = np.array(node("c.cutOfBox(a, [0, 0, 0], 2, 0)", a=np.diag([4.0, 6, 8, 1]).tolist()))
    steps = np.abs(np.diff(np.vstack([square, square[:1]]), axis=0))
    assert sorted(steps.max(axis=1).tolist()) == [4, 4, 6, 6]
    assert (steps.min(axis=1) == 0).all()


def test_patch_edges_along_an_axis():
    affine = np.diag([18.0, 18, 18, 1])
    affine[:3, 3] = -82
    assert node("c.edgesAlong(a, [2, 3, 4], 0)", a=affine.tolist()) == [-91, -73, -55]
    assert node("c.edgesAlong(a, [2, 3, 4], 0)", a=OBLIQUE.tolist()) is None


def test_downloaded_map_is_read_by_nibabel(tmp_path):
    steps = np.random.default_rng(0).integers(-127, 128, size=(4, 3, 5)).astype(np.int8)
    flat = steps.reshape(-1, order="F").tolist()
    bytes_ = node(
        "Array.from(v.niftiOfValues([4, 3, 5], a, Int8Array.from(s), 2.5e-9, 'CHECK FAILED; “x”'))",
        a=OBLIQUE.tolist(),
        s=flat,
    )
    (tmp_path / "a.nii").write_bytes(bytes(bytes_))
    image = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(image.get_fdata(), steps * 2.5e-9, rtol=1e-6)
    np.testing.assert_allclose(image.affine, OBLIQUE, rtol=1e-6)
    assert image.header["descrip"].item() == b"CHECK FAILED; ?x?"


def test_confusion_counts_labels_against_predictions_of_all_courses():
    courses = [
        {"label": [0, 0, 1, -1], "predicted": [0, 1, 1, 1]},
        {"label": [1, 1], "predicted": [0, -1]},
    ]
    assert node("c.confusion(x, 2)", x=courses) == [[1, 1], [1, 1]]
    assert node("c.confusion([], 2)") == [[0, 0], [0, 0]]


def test_words_are_broken_into_lines_and_none_is_lost():
    text = "frozen-gate relevance, content, patch at the crosshair"
    found = node("c.lines(text, 20)", text=text)
    assert " ".join(found) == text and len(found) > 2
    assert all(len(line) <= 20 for line in found)
    broken = node("c.lines(text, 3.5)", text="a " + 8 * "x" + " b")
    assert "".join(broken).replace(" ", "") == "a" + 8 * "x" + "b"
    assert max(map(len, broken)) <= 3
    assert node("c.lines(text, 500)", text=text) == [text]
