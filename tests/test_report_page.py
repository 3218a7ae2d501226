"""What the page says, that nothing of it is taken for HTML, and that it needs no network."""

import base64
import gzip
import hashlib
import html.parser
import json
import re
from dataclasses import replace
from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

from fake_run import HAND_KNOB_MM, FakeCheck, small_run
from g3dvit.errors import InputError, OutputError
from g3dvit.report.display import apply_display, caption_of, display_units, threshold_of
from g3dvit.report.encode import encode_background, encode_relevance
from g3dvit.report.page import json_for_script, niivue_source, render_page
from g3dvit.report.scene import scene_of
from g3dvit.report.words import method_sentence, methods_text, stamp_of
from g3dvit.run_result import Display

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="hacked=1">'


class Outline(html.parser.HTMLParser):
    """Tags and text of a page; script contents apart."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.scripts, self.urls = [], [], [], []
        self._in = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in = tag
        if tag == "script":
            self.scripts.append([dict(attributes), ""])
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.urls.append(value)

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1][1] += data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def result():
    return small_run()


@pytest.fixture(scope="module")
def scene(result):
    return scene_of(result)


@pytest.fixture(scope="module")
def page(scene):
    return render_page(scene)


def unpacked(encoded):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(encoded["nifti"])))


def test_viewer_library_is_the_recorded_one():
    """A changed file needs a changed record: version, source and hash."""
    folder = files("g3dvit.report") / "assets" / "niivue"
    record = json.loads((folder / "niivue.json").read_text())
    library = (folder / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(library).hexdigest() == record["sha256"]
    assert record["version"] in record["source"]
    assert record["version"].encode() in library
    assert ".niivue={}" in niivue_source()


def test_viewer_library_can_be_replaced(monkeypatch, tmp_path, scene):
    (tmp_path / "own.js").write_text("/* my own */")
    monkeypatch.setenv("G3DVIT_NIIVUE_JS", str(tmp_path / "own.js"))
    assert "/* my own */" in render_page(scene)
    monkeypatch.setenv("G3DVIT_NIIVUE_JS", str(tmp_path / "absent.js"))
    with pytest.raises(OutputError, match=r"absent\.js; install g3dvit.*G3DVIT_NIIVUE_JS"):
        render_page(scene)


def test_scene_is_plain_json_with_a_version(scene):
    assert scene["schema_version"] == 1
    assert json.loads(json.dumps(scene, allow_nan=False)) == scene
    with pytest.raises(InputError, match="schema version 1, was given 7"):
        render_page({**scene, "schema_version": 7})


def test_page_asks_for_nothing_from_anywhere(page):
    outline = Outline(page)
    assert outline.urls
    assert all(url.startswith(("data:", "#")) for url in outline.urls)
    policy = next(a["content"] for t, a in outline.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    css = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    assert "url(" not in css
    assert "@import" not in css


def test_page_says_what_the_map_is_and_is_not(page):
    text = " ".join(" ".join(Outline(page).text).split())
    for sentence in (
        "what this model uses to classify these volumes, not where brains differ",
        "Red is evidence for the class and blue is evidence against it, not higher or lower BOLD.",
        "20 × 24 × 16 mm (one patch)",
        "What speaks for “right”?",
        "The BOLD data are simulated; the answer is planted.",
        "held-out balanced accuracy 0.88",
        "The features of each patch sum to zero but for rounding",
        "ab" * 32,
        "Redistribution and use in source and binary forms",  # NiiVue's licence
        "Grad-CAM (Selvaraju et al. 2017",
    ):
        assert sentence in text
    assert text.count("FAILED") >= 3


def test_hostile_names_stay_text():
    run = small_run(class_names=(f"left{HOSTILE}", "right"), run_name=HOSTILE)
    check = FakeCheck(HOSTILE, 0.0, None, None, "fail", HOSTILE)
    run = replace(run, warnings=(HOSTILE,), title=HOSTILE, checks=(check,), space=HOSTILE)
    harmless = Outline(render_page(scene_of(small_run())))
    outline = Outline(render_page(scene_of(run)))
    assert len(outline.scripts) == len(harmless.scripts) == 4
    assert [t for t, _ in outline.tags if t == "img"] == []
    assert "onerror" not in {name for _, attributes in outline.tags for name in attributes}
    viewer = json.loads(outline.scripts[0][1])
    assert HOSTILE in viewer["rows"][0]
    assert any(HOSTILE in text for text in outline.text)


def test_json_for_script_keeps_its_value():
    value = {"a": HOSTILE, "b": "<!--", "c": "\u2028&"}
    assert json.loads(json_for_script(value)) == value
    assert "<" not in json_for_script(value)


def test_layers_hold_means_and_volumes_in_place(scene, result):
    layers = scene["viewer"]["layers"]
    kinds = [(layer["method"], layer["kind"], layer["on"], layer["frames"]) for layer in layers]
    assert (0, "class mean", "voxels", 1) in kinds
    assert (0, "volumes", "patches", 12) in kinds
    assert (1, "class mean", "patches", 1) in kinds  # nothing finer is known: no copy of it
    volumes = next(layer for layer in layers if layer["kind"] == "volumes")
    image = unpacked(volumes)
    assert image.get_data_dtype() == np.int8
    np.testing.assert_allclose(image.affine, result.maps[0].volumes[0].grid.affine)
    got = np.asarray(image.dataobj) * volumes["slope"]
    np.testing.assert_allclose(got, result.maps[0].volumes[0].data, atol=volumes["slope"] * 0.501)


def test_halves_of_token_gradcam_are_beside_the_map(scene, result):
    layer = next(
        x for x in scene["viewer"]["layers"] if x["method"] == 1 and x["kind"] == "volumes"
    )
    assert [c["title"] for c in layer["companions"]] == ["Patch weight", "Token sum"]
    half = layer["companions"][0]
    got = np.asarray(unpacked(half).dataobj) * half["slope"]
    original = result.maps[1].volumes[0].companions["patch_weights"]
    np.testing.assert_allclose(got, original, atol=half["slope"] * 0.501)


def test_every_failed_map_is_stamped_and_no_other(scene):
    for layer in scene["viewer"]["layers"]:
        failed = layer["method"] == 1
        assert len(layer["frame_stamps"]) == layer["frames"]
        assert all((stamp >= 0) == failed for stamp in layer["frame_stamps"])
    assert all(s.startswith("CHECK FAILED: D3 centring: ") for s in scene["viewer"]["stamps"])


def test_stamp_of_one_volume_only():
    run = small_run()
    checks = list(run.maps[0].checks)
    checks[3] = (FakeCheck("D5", 0.1, 0.99, 0.95, "fail", "float32 disagrees"),)
    run = replace(run, maps=(replace(run.maps[0], checks=tuple(checks)),))
    viewer = scene_of(run)["viewer"]
    volumes = next(x for x in viewer["layers"] if x["kind"] == "volumes")
    assert [n for n, s in enumerate(volumes["frame_stamps"]) if s >= 0] == [3]
    assert viewer["stamps"] == ["CHECK FAILED: D5: float32 disagrees"]


def test_several_runs_find_their_rows():
    viewer = scene_of(small_run(n_runs=2, n_volumes=10))["viewer"]
    volumes = [x for x in viewer["layers"] if x["kind"] == "volumes" and x["method"] == 0]
    assert [x["first_row"] for x in volumes] == [0, 10]
    assert len(viewer["rows"]) == 20


def test_oblique_flipped_images_are_brought_to_ras_order():
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    affine = np.array([[-3.0, 0.2, 0, 40], [0, 0, 4, -60], [0.1, -5, 0, 70], [0, 0, 0, 1]])
    from g3dvit.grids import ImageGrid

    encoded = encode_relevance(values, ImageGrid(values.shape, affine))
    image = unpacked(encoded)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    at = np.array([1, 2, 3])
    where = affine[:3, :3] @ at + affine[:3, 3]
    voxel = np.rint(np.linalg.inv(image.affine) @ [*where, 1])[:3].astype(int)
    got = np.asarray(image.dataobj)[tuple(voxel)] * encoded["slope"]
    assert got == pytest.approx(values[1, 2, 3], abs=encoded["slope"])


def test_not_finite_and_empty_maps_are_encoded():
    from g3dvit.grids import ImageGrid

    grid = ImageGrid((2, 3, 4), np.diag([2.0, 2, 2, 1]))
    values = np.zeros(grid.shape, np.float32)
    assert encode_relevance(values, grid)["slope"] == 1.0
    values[0, 0, 0], values[1, 1, 1], values[0, 1, 0] = np.nan, np.inf, 3e-12
    encoded = encode_relevance(values, grid)
    assert encoded["slope"] == pytest.approx(3e-12 / 127, rel=1e-5)
    assert np.asarray(unpacked(encoded).dataobj).max() == 127


def test_large_backgrounds_are_thinned_in_place():
    from g3dvit.grids import ImageGrid

    grid = ImageGrid((160, 170, 180), np.diag([1.0, 1, 1, 1]))
    values = np.zeros(grid.shape, np.float32)
    values[80:, 84:100, 90:120] = 5
    image = unpacked(encode_background(values, grid))
    assert np.prod(image.shape) <= 2_500_000
    inside = np.rint(np.linalg.inv(image.affine) @ [100, 92, 100, 1])[:3].astype(int)
    assert np.asarray(image.dataobj)[tuple(inside)] > 200
    assert np.asarray(image.dataobj)[0, 0, 0] == 0


def test_300_volumes_stay_small():
    run = small_run()
    maps = run.maps[1]
    many = {
        name: np.repeat(values, 25, axis=3)
        for name, values in {"data": maps.volumes[0].data, **maps.volumes[0].companions}.items()
    }
    volumes = replace(maps.volumes[0], data=many.pop("data"), companions=many)
    big = replace(maps, volumes=(volumes,), checks=maps.checks * 25, class_means=())
    table = run.predictions.loc[np.repeat(run.predictions.index, 25)]
    page = render_page(scene_of(replace(run, maps=(big,), predictions=table)))
    assert len(page) < 8_000_000


def test_checks_of_the_run_and_unlabelled_data():
    scene = scene_of(small_run(labelled=False))
    facts = {fact["name"]: fact["value"] for fact in scene["facts"]}
    assert facts["Correct here"] == "no labels"
    assert scene["viewer"]["rows"][0].count("no label") == 1
    assert not any(scene["predictions"]["wrong"])
    titles = [layer["title"] for layer in scene["viewer"]["layers"]]
    assert any("(no labels)" in title for title in titles)


def test_display_is_applied_in_order_and_said():
    values = np.array([-4.0, -1.0, 0.0, 1.0, 2.0, 8.0], np.float32)
    display = Display(rectify=True, percentile=50, min_max=True)
    np.testing.assert_allclose(apply_display(values, display), [0, 0, 0, 0, 0.25, 1])
    assert values[0] == -4  # the map itself is as it was
    assert caption_of(display) == (
        "Display only: negative values hidden; values below the 50th percentile hidden; "
        "scaled by the largest value, zero stays zero."
    )
    assert display_units("logit", display) == "share of the largest value"
    assert display_units("logit", Display()) == "logit"
    np.testing.assert_array_equal(apply_display(values, Display()), values)
    assert caption_of(Display()) == ""
    assert "91st" in caption_of(Display(percentile=91))
    assert "11th" in caption_of(Display(percentile=11))
    assert threshold_of(np.zeros(3, np.float32), 90) == 0
    with pytest.raises(InputError, match="between 0 and 100, was given 101"):
        apply_display(values, Display(percentile=101))


def test_display_options_reach_the_viewer(result):
    viewer = scene_of(replace(result, display=Display(rectify=True, percentile=95)))["viewer"]
    assert viewer["percentile"] == 95
    assert viewer["rectify"] is True
    assert scene_of(result)["viewer"]["percentile"] == 90


def test_words_of_methods(result):
    text = methods_text(result)
    assert "12 volumes of 1 run." in text
    assert "transformer.layers.5.0.norm" in text
    assert "These maps failed the checks D3 centring." in text
    assert "add up to the score" in method_sentence("frozen_gate")
    assert method_sentence("new_one") == "Relevance by the method new_one."
    assert stamp_of([]) is None


def test_planted_place_is_the_peak_of_the_layer(scene):
    layer = next(x for x in scene["viewer"]["layers"] if x["group"] == "right")
    steps = np.asarray(unpacked(layer).dataobj)
    peak = np.unravel_index(np.argmax(steps), steps.shape)
    np.testing.assert_allclose((np.asarray(layer["affine"]) @ [*peak, 1])[:3], HAND_KNOB_MM)
