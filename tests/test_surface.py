"""The cortical surface: what travels, and how the page projects maps onto it, against nilearn."""

import base64
import gzip
import json
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

from fake_run import HAND_KNOB_MM, small_run
from g3dvit.report.surface import DEPTHS, surface_of

ASSETS = files("g3dvit.report") / "assets"
AFFINE = np.array([[17.0, 1.2, 0, -76], [-1.1, 19, 0.9, -112], [0, -0.8, 16, -58], [0, 0, 0, 1]])
SHAPE = (10, 11, 9)

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture(scope="module")
def surface():
    return surface_of(small_run(), (18.0, 18.0, 13.5))


@pytest.fixture(scope="module")
def fsaverage():
    from nilearn import datasets
    from nilearn import surface as nilearn_surface

    paths = datasets.fetch_surf_fsaverage("fsaverage5")
    return {
        (side, shape): nilearn_surface.load_surf_mesh(paths[f"{name}_{side}"])
        for side in ("left", "right")
        for shape, name in (("pial", "pial"), ("white", "white"), ("inflated", "infl"))
    }


def node(body, tmp_path, **values):
    """Run a script that has surfacemath as `s` and viewmath as `v`, and returns a value."""
    given = tmp_path / "values.json"
    given.write_text(json.dumps(values), encoding="utf-8")
    script = tmp_path / "script.js"
    script.write_text(
        f"const v = require({json.dumps(str(ASSETS / 'viewmath.js'))});"
        f"const s = require({json.dumps(str(ASSETS / 'surfacemath.js'))});"
        f"const g = JSON.parse(require('fs').readFileSync({json.dumps(str(given))}));"
        f"process.stdout.write(JSON.stringify((() => {{{body}}})()));",
        encoding="utf-8",
    )
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


UNPACK = """
const packed = require('zlib').gunzipSync(Buffer.from(g.surface.data, 'base64'));
const bytes = packed.buffer.slice(packed.byteOffset, packed.byteOffset + packed.length);
const brain = s.unpack(bytes, g.surface);
"""


def test_only_a_template_space_has_a_cortex():
    run = small_run()
    assert surface_of(replace(run, space="T1w"), (18.0, 18.0, 18.0)) is None
    assert surface_of(replace(run, space=None), (18.0, 18.0, 18.0)) is None
    assert surface_of(replace(run, maps=()), (18.0, 18.0, 18.0)) is None


def test_label_tells_the_real_size_of_patches(surface):
    assert surface["label"].startswith("18 × 18 × 13.5 mm patches projected")


def test_what_travels_is_small():
    assert len(surface_of(small_run(), (1.0, 1.0, 1.0))["data"]) < 800_000


def test_what_travels_is_the_template_to_a_hundredth_of_a_mm(surface, fsaverage):
    raw = gzip.decompress(base64.b64decode(surface["data"]))
    faces = np.frombuffer(raw, "<u2", 3 * surface["n_faces"]).reshape(-1, 3)
    for side in ("left", "right"):
        np.testing.assert_array_equal(faces, fsaverage[side, "inflated"].faces)
    at, n = faces.nbytes, surface["n_vertices"]
    for side in ("left", "right"):
        for shape in ("pial", "white", "inflated"):
            steps = np.frombuffer(raw, "<i2", 3 * n, at).reshape(-1, 3)
            expected = fsaverage[side, shape].coordinates
            np.testing.assert_allclose(steps * surface["step_mm"], expected, atol=0.0051)
            at += steps.nbytes
        at += n
    assert at == len(raw)


@needs_node
@pytest.mark.parametrize("blocks", [False, True])
def test_projection_is_that_of_nilearn(surface, fsaverage, tmp_path, blocks):
    """An oblique grid that does not hold the whole brain; steps as they travel."""
    from nilearn.surface import vol_to_surf

    steps = np.random.default_rng(4).integers(-127, 128, SHAPE).astype(np.int8)
    got = node(
        UNPACK + "return ['left', 'right'].map((side) => [...s.project("
        "g.steps, g.shape, g.affine, brain[side], g.surface.depths, g.blocks)]);",
        tmp_path,
        surface=surface,
        steps=steps.ravel(order="F").tolist(),
        shape=SHAPE,
        affine=AFFINE.tolist(),
        blocks=blocks,
    )
    image = nib.Nifti1Image(steps.astype(np.float32), AFFINE)
    for values, side in zip(got, ("left", "right"), strict=True):
        found = np.array([np.nan if value is None else value for value in values])
        pial, white = fsaverage[side, "pial"], fsaverage[side, "white"]
        places = [p * white.coordinates + (1 - p) * pial.coordinates for p in DEPTHS]
        ijk = np.stack([nib.affines.apply_affine(np.linalg.inv(AFFINE), p) for p in places])
        if blocks:  # an independent look-up
            near = np.floor(ijk + 0.5).astype(int)
            inside = ((near >= 0) & (near < SHAPE)).all(-1)
            i, j, k = np.moveaxis(near.clip(0, np.array(SHAPE) - 1), -1, 0)
            held = np.where(inside, steps[i, j, k], np.nan)
            expected = np.nanmean(np.where(inside.any(0), held, 0), axis=0)
            expected[~inside.any(0)] = np.nan
            edge = np.abs(ijk - np.floor(ijk) - 0.5).min((0, 2)) < 0.002  # of a patch: rounding
        else:
            expected = vol_to_surf(
                image, pial, inner_mesh=white, depth=list(DEPTHS), interpolation="linear"
            )
            # nilearn stops at the outer centres, we at the outer edges
            edge = ((ijk < 0) | (ijk > np.array(SHAPE) - 1)).any((0, 2))
        assert edge.mean() < 0.35
        assert np.isnan(found).any() or side == "left"
        np.testing.assert_allclose(found[~edge], expected[~edge], atol=0.2)


@needs_node
def test_colours_are_those_of_the_slices(tmp_path):
    stops = [[0, [0, 0, 0]], [1, [200, 100, 50]]]
    look = {"low": 2, "top": 10, "positive": stops, "negative": None, "fade": True, "opacity": 0.5}
    got = node(
        "return [5, 1, 0, -5, 20].map((value) => v.colourOf(value, g.look));", tmp_path, look=look
    )
    assert got[0] == {"rgb": [100, 50, 25], "alpha": 0.5}
    assert got[1] == {"rgb": [20, 10, 5], "alpha": 0.125}
    assert got[2] is None
    assert got[3] is None
    assert got[4]["rgb"] == [200, 100, 50]
    hidden = node("return v.colourOf(1, {...g.look, fade: false});", tmp_path, look=look)
    assert hidden is None


@needs_node
@pytest.mark.parametrize(
    ("side", "right", "up", "near"),
    [
        ("left", "posterior", "superior", "left"),
        ("right", "anterior", "superior", "right"),
        ("top", "right", "anterior", "superior"),
        ("bottom", "left", "anterior", "inferior"),
        ("front", "left", "superior", "anterior"),
        ("back", "right", "superior", "posterior"),
    ],
)
def test_sides_are_seen_from_where_they_say(tmp_path, side, right, up, near):
    directions = {
        "right": [1, 0, 0], "left": [-1, 0, 0], "anterior": [0, 1, 0],
        "posterior": [0, -1, 0], "superior": [0, 0, 1], "inferior": [0, 0, -1],
    }  # fmt: skip
    got = node("return [...s.seenFrom([...g.r, ...g.u, ...g.e], g.side, 0, 0)];", tmp_path,
               side=side, r=directions[right], u=directions[up], e=directions[near])  # fmt: skip
    np.testing.assert_allclose(np.reshape(got, (3, 3)), np.eye(3))


@needs_node
def test_triangles_nearer_to_the_eye_hide_others(tmp_path):
    got = node(
        """const n = 64, p = {width: 8, height: 8, rgba: new Uint8ClampedArray(4 * n),
        depth: new Float32Array(n).fill(-Infinity), owner: new Int32Array(n).fill(-1)};
        const xy = (z) => [0, 0, z, 7, 0, z, 0, 7, z];
        const grey = (v) => new Array(9).fill(v);
        s.drawTriangles(p, xy(5), [0, 1, 2], grey(200), 10);
        s.drawTriangles(p, xy(1), [0, 1, 2], grey(90), 20);
        return [[...p.owner], [...p.rgba]];""",
        tmp_path,
    )
    owner, rgba = np.reshape(got[0], (8, 8)), np.reshape(got[1], (8, 8, 4))
    inside = np.add.outer(np.arange(8), np.arange(8)) <= 7
    np.testing.assert_array_equal(owner >= 0, inside)
    assert (owner[inside] // 10 == 1).all()
    assert (owner[0, 0], owner[0, 7], owner[7, 0]) == (10, 11, 12)
    assert (rgba[inside] == [200, 200, 200, 255]).all()


@needs_node
def test_nearest_vertex_is_on_its_own_side(surface, tmp_path):
    left, right = node(
        UNPACK + "return ['left', 'right'].map((side) => s.nearestVertex(brain[side], g.mm));",
        tmp_path,
        surface=surface,
        mm=HAND_KNOB_MM.tolist(),
    )
    assert left["mm"] < 6
    assert right["mm"] > 30
