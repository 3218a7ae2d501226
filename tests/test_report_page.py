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
import pandas as pd
import pytest

from fake_run import HAND_KNOB_MM, FakeCheck, small_run
from g3dvit.errors import InputError, OutputError
from g3dvit.grids import ImageGrid
from g3dvit.report.contrasts import contrasts_of
from g3dvit.report.display import (
    apply_display,
    caption_of,
    display_units,
    shown_mean,
    threshold_of,
)
from g3dvit.report.downloads import Folder
from g3dvit.report.encode import encode_background, encode_relevance
from g3dvit.report.figure_maps import Titled
from g3dvit.report.guidance import HONEST, LIMITS, reporting_list
from g3dvit.report.layers import layers_of
from g3dvit.report.page import SCRIPTS, json_for_script, niivue_source, render_page
from g3dvit.report.parts import means_of_part, parts_of
from g3dvit.report.scene import scene_of
from g3dvit.report.words import method_sentence, methods_text, stamp_of
from g3dvit.run_result import Display, Recommendation
from g3dvit.shown import Parcellation, ResultTable

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
    assert scene["schema_version"] == 2
    assert json.loads(json.dumps(scene, allow_nan=False)) == scene
    with pytest.raises(InputError, match="schema version 2, was given 7"):
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
    assert len(outline.scripts) == len(harmless.scripts) == len(SCRIPTS) + 2  # data, NiiVue
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
    shown = result.maps[0].volumes[0].companions["content"]
    np.testing.assert_allclose(got, shown, atol=volumes["slope"] * 0.501)


def volumes_layer(scene, method):
    layers = scene["viewer"]["layers"]
    return next(x for x in layers if x["method"] == method and x["kind"] == "volumes")


def test_halves_of_token_gradcam_are_beside_the_map(scene, result):
    layer = volumes_layer(scene, 1)
    assert [c["title"] for c in layer["parts"]["items"]] == ["Map", "Patch weight", "Token sum"]
    assert layer["parts"]["signs"] == ["=", "×"]
    assert layer["parts"]["items"][0]["nifti"] is None  # the layer itself
    half = layer["parts"]["items"][1]
    got = np.asarray(unpacked(half).dataobj) * half["slope"]
    original = result.maps[1].volumes[0].companions["patch_weights"]
    np.testing.assert_allclose(got, original, atol=half["slope"] * 0.501)


def test_frozen_gate_shows_content_with_position_beside_it(scene, result):
    layer, series = volumes_layer(scene, 0), result.maps[0].volumes[0]
    content = series.companions["content"]
    got = np.asarray(unpacked(layer).dataobj) * layer["slope"]
    np.testing.assert_allclose(got, content, atol=layer["slope"] * 0.501)
    assert layer["what"] == "content"
    parts = {part["title"]: part for part in layer["parts"]["items"]}
    assert list(parts) == ["Relevance", "Content", "Position"]
    assert layer["parts"]["signs"] == ["=", "+"]
    for title, values in (("Relevance", series.data), ("Position", series.companions["position"])):
        got = np.asarray(unpacked(parts[title]).dataobj) * parts[title]["slope"]
        np.testing.assert_allclose(got, values, atol=parts[title]["slope"] * 0.501)
    position = np.abs(series.companions["position"]).sum((0, 1, 2))
    share = np.median(position / (position + np.abs(content).sum((0, 1, 2))))
    told = scene["methods"][0]["shares"][0]
    assert told["name"] == "position share"
    assert told["value"] == pytest.approx(share, abs=1e-4)
    assert f"{share:.0%} of the relevance of patches" in told["sentence"]
    assert scene["methods"][1]["shares"] == []


def test_steering_share_is_repeated_beside_the_map_where_a_check_measured_it(result):
    check = FakeCheck("attention_steering", 0.31, 0.5, None, "pass", "Attention steers 31 %.")
    maps = replace(result.maps[0], checks=tuple((*c, check) for c in result.maps[0].checks))
    shares = scene_of(replace(result, maps=(maps,)))["methods"][0]["shares"]
    measured = FakeCheck("position share", 0.25, None, 0.9, "pass", "Measured.")
    both = replace(maps, checks=tuple((*c, measured) for c in maps.checks))
    told = scene_of(replace(result, maps=(both,)))["methods"][0]["shares"]
    assert told[0]["sentence"].startswith("25% of the relevance")
    assert [(s["name"], s["sentence"]) for s in shares[1:]] == [
        ("attention steering", "Attention steers 31 %.")
    ]


def test_means_without_room_are_content_per_patch(result):
    maps = result.maps[0]
    layers = layers_of(replace(result, maps=(maps,)), [], 0)
    layer = next(x for x in layers if x["kind"] == "class mean")
    assert (layer["on"], layer["what"]) == ("patches", "content")
    expected = maps.class_means[0].patch.companions["content"]
    got = np.asarray(unpacked(layer).dataobj) * layer["slope"]
    np.testing.assert_allclose(got, expected, atol=layer["slope"] * 0.51)


def test_parts_of_means_and_contrasts_add_up(scene):
    for kind in ("class mean", "contrast"):
        layer = next(x for x in scene["viewer"]["layers"] if x["kind"] == kind)
        total, content, position = (
            np.asarray(unpacked(part).dataobj) * part["slope"] for part in layer["parts"]["items"]
        )
        step = max(part["slope"] for part in layer["parts"]["items"])
        np.testing.assert_allclose(total, content + position, atol=1.6 * step)


def test_contrast_is_the_target_s_mean_minus_the_other(scene, result):
    layer = next(x for x in scene["viewer"]["layers"] if x["kind"] == "contrast")
    assert layer["title"].startswith("Difference: “right” minus “left” volumes")
    means = {str(m.key): m for m in result.maps[0].class_means}
    shown = [
        shown_mean(result.maps[0], means[key], result.display)
        for key in ("correct/right", "correct/left")
    ]
    got = np.asarray(unpacked(layer).dataobj) * layer["slope"]
    np.testing.assert_allclose(got, shown[0] - shown[1], atol=layer["slope"] * 0.51)


def test_contrasts_take_no_errors_and_need_two_means(result):
    maps = result.maps[0]
    (found,) = contrasts_of(result, maps)
    assert (str(found.first.key), str(found.second.key)) == ("correct/right", "correct/left")
    one = replace(
        maps, class_means=(found.first, *[m for m in maps.class_means if m.key.which == "error"])
    )
    assert contrasts_of(result, one) == ()
    (other,) = contrasts_of(replace(result, target="right - left"), maps)
    assert (other.first.n, other.second.n) != (0, 0)


def test_time_courses_follow_the_runs():
    run = small_run(n_runs=2, n_volumes=10)
    courses = scene_of(run)["viewer"]["time_courses"]
    assert [(c["first_row"], c["n"], c["unit"]) for c in courses] == [(0, 10, "s"), (10, 10, "s")]
    table = run.predictions.iloc[10:]
    assert courses[1]["time"] == table["onset_s"].tolist()
    assert courses[1]["label"] == [["left", "right"].index(v) for v in table["label"]]
    np.testing.assert_allclose(courses[1]["probability"][1], table["p_right"], atol=6e-5)
    unlabelled = scene_of(small_run(labelled=False))["viewer"]["time_courses"][0]
    assert set(unlabelled["label"]) == {-1}


def test_confusion_counts_labels_against_predictions(scene, result):
    table = result.predictions
    counts = scene["confusion"]["counts"]
    for row, label in enumerate(("left", "right")):
        for column, predicted in enumerate(("left", "right")):
            found = ((table["label"] == label) & (table["predicted"] == predicted)).sum()
            assert counts[row][column] == found
    assert scene_of(small_run(labelled=False))["confusion"] is None


def test_tables_and_regions_reach_the_page(result):
    frame = pd.DataFrame({"region": ["Precentral_L", HOSTILE], "share": [0.25, np.nan]})
    table = ResultTable("aal", "By region", "regions", frame, "Descriptive.", {"share": "of all"})
    labels = np.zeros((4, 4, 4), np.int16)
    labels[1, 2, 3] = 7
    atlas = Parcellation("AAL", labels, ImageGrid((4, 4, 4), np.diag([9.0, 9, 9, 1])), {7: HOSTILE})
    scene = scene_of(replace(result, tables=(table,), parcellation=atlas))
    assert scene["tables"][0]["rows"] == [["Precentral_L", "0.25"], [HOSTILE, "–"]]
    assert scene["viewer"]["atlas"]["names"] == {"7": HOSTILE}
    assert np.asarray(unpacked(scene["viewer"]["atlas"]).dataobj)[1, 2, 3] == 7
    text = " ".join(Outline(render_page(scene)).text)
    assert "By region" in text
    assert HOSTILE in text
    assert "No region table was made" not in text
    assert "No region table was made" in render_page(scene_of(result))


def test_page_answers_its_questions(page):
    heads = [a.get("id") for tag, a in Outline(page).tags if tag == "section"]
    assert heads == [
        *("viewer", "when", "sure", "compared", "regions", "done", "report", "downloads"),
        "limits",
    ]
    text = " ".join(" ".join(Outline(page).text).split())
    for sentence in (*HONEST, *LIMITS):
        assert sentence in text
    assert "Frozen gate is recommended for this model: it passed every check" in text
    assert "Token Grad-CAM (mean) failed D3 centring." in text
    assert "COBIDAS" in text
    assert "not in the files: say it yourself" in text


def test_a_failed_run_is_told_first_and_stamped_on_every_map(result):
    chance = FakeCheck("better than chance", 0.5, None, None, "fail", "The model is at chance.")
    scene = scene_of(replace(result, checks=(chance,)))
    assert scene["recommendation"][0].startswith("No map is recommended, whatever its checks say")
    stamp = "CHECK FAILED: better than chance: The model is at chance."
    assert scene["viewer"]["run_stamp"] == stamp
    assert scene_of(result)["viewer"]["run_stamp"] is None
    told = Recommendation("frozen gate", ("Look here.", "And there."))
    assert scene_of(replace(result, recommendation=told))["recommendation"] == list(told.sentences)


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
    encoded = encode_relevance(values, ImageGrid(values.shape, affine))
    image = unpacked(encoded)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    at = np.array([1, 2, 3])
    where = affine[:3, :3] @ at + affine[:3, 3]
    voxel = np.rint(np.linalg.inv(image.affine) @ [*where, 1])[:3].astype(int)
    got = np.asarray(image.dataobj)[tuple(voxel)] * encoded["slope"]
    assert got == pytest.approx(values[1, 2, 3], abs=encoded["slope"])


def test_not_finite_and_empty_maps_are_encoded():
    grid = ImageGrid((2, 3, 4), np.diag([2.0, 2, 2, 1]))
    values = np.zeros(grid.shape, np.float32)
    assert encode_relevance(values, grid)["slope"] == 1.0
    values[0, 0, 0], values[1, 1, 1], values[0, 1, 0] = np.nan, np.inf, 3e-12
    encoded = encode_relevance(values, grid)
    assert encoded["slope"] == pytest.approx(3e-12 / 127, rel=1e-5)
    assert np.asarray(unpacked(encoded).dataobj).max() == 127


def test_large_backgrounds_are_thinned_in_place():
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
    assert "These maps failed the check D3 centring." in text
    assert "add up to the score" in method_sentence("frozen_gate")
    assert method_sentence("new_one") == "Relevance by the method new_one."
    assert stamp_of([]) is None


def test_planted_place_is_the_peak_of_the_layer(scene):
    layer = next(x for x in scene["viewer"]["layers"] if x["group"] == "right")
    steps = np.asarray(unpacked(layer).dataobj)
    peak = np.unravel_index(np.argmax(steps), steps.shape)
    np.testing.assert_allclose((np.asarray(layer["affine"]) @ [*peak, 1])[:3], HAND_KNOB_MM)


def test_every_method_has_a_sentence_and_a_source():
    from g3dvit.methods import METHODS
    from g3dvit.report.words import _METHODS

    for name in METHODS:
        assert name in _METHODS, name
        assert all(_METHODS[name]), name


def test_means_and_differences_of_a_method_share_one_colour_range(scene, result):
    for number in (0, 1):
        layers = [
            x
            for x in scene["viewer"]["layers"]
            if x["method"] == number and x["kind"] in ("class mean", "contrast")
        ]
        right = [x for x in layers if x["kind"] == "contrast" or x["group"] is not None]
        tops = [np.abs(np.asarray(unpacked(x).dataobj)).max() * x["slope"] for x in right]
        assert [x["range"] for x in layers] == pytest.approx([max(tops)] * len(layers), rel=1e-5)


def test_units_say_whether_a_value_is_of_a_voxel_or_of_a_patch(scene, result):
    gate, cam = result.maps
    assert gate.fine and not cam.fine
    layers = [x for x in scene["viewer"]["layers"] if x["method"] == 0]
    for layer in layers:
        each = {"voxels": "per voxel", "patches": "per patch"}[layer["on"]]
        assert layer["units"] == f"log-odds {each}"
    assert {layer["on"] for layer in layers} == {"voxels", "patches"}
    # Why it matters: the same evidence is a small number in each of many voxels.
    voxel = next(x for x in layers if x["kind"] == "class mean" and x["on"] == "voxels")
    single = next(x for x in layers if x["kind"] == "volumes")
    assert single["range"] > 10 * voxel["range"]
    others = [x for x in scene["viewer"]["layers"] if x["method"] == 1]
    assert {x["units"] for x in others} == {cam.units}
    words = [m["units_each"] for m in scene["methods"]]
    assert "per voxel" in words[0] and words[1] == cam.units
    drawn = Titled.of_mean(result, gate, gate.class_means[0]).relevance
    assert drawn.units == "log-odds per voxel"


def test_the_range_of_means_does_not_depend_on_how_figures_are_scaled(result):
    scaled = scene_of(replace(result, display=Display(min_max=True)))["viewer"]["layers"]
    assert [x["range"] for x in scaled] == [
        x["range"] for x in scene_of(result)["viewer"]["layers"]
    ]


def test_runs_and_subjects_are_told_by_what_differs_in_their_names():
    def inputs(*names):
        one = small_run().inputs[0]
        return [replace(one, name=name, time_points=tuple(range(5))) for name in names]

    assert parts_of(inputs("sub-1_task-a")) == ()
    two = parts_of(inputs("sub-1_task-a_run-1", "sub-2_task-a_run-1"))
    assert [(p.name, p.kind, p.runs) for p in two] == [
        ("sub-1", "run", (0,)),
        ("sub-2", "run", (1,)),
    ]
    assert two[1].rows == (5, 6, 7, 8, 9)
    runs = ("sub-1_run-1", "sub-1_run-2", "sub-2_run-1")
    assert [(p.name, p.kind, p.runs) for p in parts_of(inputs(*runs))] == [
        ("sub-1", "subject", (0, 1)),
        *((name, "run", (n,)) for n, name in enumerate(runs)),
    ]
    same = [p.name for p in parts_of(inputs("a", "a"))]
    assert same == ["a (1)", "a (2)"]


def test_means_of_one_run_are_those_of_its_volumes_without_errors():
    run = small_run(n_runs=2, n_volumes=10)
    viewer = scene_of(run)["viewer"]
    assert [p["name"] for p in viewer["parts"]] == ["run-11", "run-12"]
    layers = [x for x in viewer["layers"] if x["kind"] == "part mean" and x["method"] == 0]
    assert len(layers) == 4
    layer = next(x for x in layers if x["part"] == 1 and x["key"] == "correct/right")
    table = run.predictions.iloc[10:].reset_index(drop=True)
    chosen = table.index[(table["label"] == "right") & (table["predicted"] == "right")]
    assert layer["title"].endswith(f"n = {len(chosen)}")
    assert layer["target"] == "right"
    expected = run.maps[0].volumes[1].companions["content"][..., chosen].mean(-1)
    got = np.asarray(unpacked(layer).dataobj) * layer["slope"]
    np.testing.assert_allclose(got, expected, atol=layer["slope"] * 0.51)
    tops = [np.abs(np.asarray(unpacked(x).dataobj)).max() * x["slope"] for x in layers]
    assert [x["range"] for x in layers] == pytest.approx([max(tops)] * len(layers), rel=1e-5)


def test_means_of_a_run_explain_what_its_volumes_explain():
    """Where every volume explains the class that was predicted, so does the mean of a class."""
    run = small_run(n_runs=2, n_volumes=10)
    own = replace(run, predictions=run.predictions.assign(target=run.predictions["predicted"]))
    part = parts_of(own.inputs)[0]
    found = means_of_part(own, own.maps[0], part)
    assert {(m.key.group, m.target) for m in found} == {("left", "left"), ("right", "")}
    mixed = own.predictions.assign(target=["left", "right"] * 10)
    assert means_of_part(replace(own, predictions=mixed), own.maps[0], part) == ()
    assert means_of_part(own, replace(own.maps[0], volumes=()), part) == ()


def test_a_failed_check_of_one_run_stamps_its_mean_alone():
    run = small_run(n_runs=2, n_volumes=10)
    bad = (FakeCheck("D5", 0.1, 0.99, 0.95, "fail", "float32 disagrees"),)
    maps = replace(run.maps[0], checks=(*run.maps[0].checks[:10], *((bad,) * 10)))
    layers = scene_of(replace(run, maps=(maps,)))["viewer"]["layers"]
    parts = [x for x in layers if x["kind"] == "part mean"]
    assert {(x["part"], x["frame_stamps"][0] >= 0) for x in parts} == {(0, False), (1, True)}


def test_a_table_of_the_run_hides_none_of_the_page_s_own(result):
    table = ResultTable("predictions", "By region", "regions", pd.DataFrame({"a": ["b"]}))
    folder = Folder({"predictions.tsv": 9000, "tables/predictions.tsv": 5})
    found = scene_of(replace(result, maps=(), tables=(table,)), folder=folder)["downloads"][
        "tables"
    ]
    assert found["predictions"]["file"]["name"] == "predictions.tsv"
    assert found["table-predictions"]["file"]["name"] == "tables/predictions.tsv"
    assert "file" in found["reporting"]


def test_links_cannot_leave_the_folder_nor_run_anything():
    folder = Folder({"javascript:alert(1)": 10, 'a"><b>.tsv': 2_000_000, "figures/x y.png": 1})
    links = [folder.entry(path) for path in folder.sizes]
    assert [e["href"] for e in links] == [
        "./javascript%3Aalert%281%29", "./a%22%3E%3Cb%3E.tsv", "./figures/x%20y.png",
    ]  # fmt: skip
    assert links[1]["size"] == "2.0 MB"
    assert folder.entry("absent") is None
    page = render_page(scene_of(small_run(), folder=folder))
    assert "<b>.tsv" not in page


def test_every_button_that_saves_says_what(page):
    """Names of buttons differ, for those who hear them one after the other."""
    buttons = re.findall(
        r"<button[^>]*data-(?:tsv|map|text|png|copy)[^>]*>(.*?)</button>", page, re.S
    )
    words = [re.sub(r"<[^>]*>", "", text) for text in buttons]
    assert len(words) > 12
    assert not set(words) & {"Download as TSV", "NIfTI", "PNG", "Text", "JSON", "Copy"}


def test_words_for_a_paper_tell_signs_counts_and_every_check_that_did_not_pass(result):
    gate, cam = result.maps
    told = {"options": {"shifts": 8}, "sample": {"rule": "at most 20 volumes of each class"}}
    own = tuple(
        replace(
            m,
            n=m.n + 7,
            target=str(m.key.group),
            patch=replace(m.patch, metadata={**m.patch.metadata, **told}),
        )
        for m in gate.class_means
    )
    shown = replace(
        gate,
        method="shift_averaged",
        title="shift-averaged",
        signed=False,
        display_only=True,
        volumes=(),
        class_means=own,
        checks=((FakeCheck("evidence at shifts", 0.2, 0.5, None, "warn", "Little is kept."),),),
    )
    blind = FakeCheck("amplitude blindness", 0.0, 0.1, None, "warn", "It is blind.")
    one = replace(result, maps=(shown, gate, cam), checks=(blind,), volume_target="predicted class")
    text = methods_text(one)
    assert "signed, but those of shift-averaged, which have one sign" in text
    assert "These maps drew warnings of the check evidence at shifts." in text
    assert "The whole run drew warnings of the check amplitude blindness." in text
    assert (
        "These maps failed the check D3 centring." in text and "explain the predicted class" in text
    )
    assert "take the content" in text
    assert "Settings: shifts 8. Its class means are of at most 20 volumes of each class." in text
    wrong = next(m for m in own if m.key.which == "error")
    assert f"misclassified, n = {wrong.n}" in text
    items = {row["item"]: row["value"] for row in reporting_list(one)}
    assert "of the whole run: amplitude blindness warn" in items["Checks"]
    assert "shift-averaged: evidence at shifts warn" in items["Checks"]
    for mean in (*own, *gate.class_means):
        assert mean.title in items["Averaging"]
    assert items["Averaging"].index("shift-averaged: ") < items["Averaging"].index(gate.label)
    alone = {row["item"]: row["value"] for row in reporting_list(replace(one, maps=(gate,)))}
    assert alone["Averaging"] == "; ".join(mean.title for mean in gate.class_means)
    plain = methods_text(replace(one, maps=(gate,), checks=(), volume_target=one.target))
    assert "unscaled, and signed. " in plain and "the check" not in plain
