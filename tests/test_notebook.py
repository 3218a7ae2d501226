"""Values in Jupyter: tables, figures, frames and the viewer, as text and as what they hold."""

from __future__ import annotations

import base64
import gzip
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
import torch

from fake_run import small_run
from g3dvit import notebook
from g3dvit.checks import Check
from g3dvit.errors import InputError
from g3dvit.explanation import Explanation
from g3dvit.geometry import Geometry
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.notebook.figures import patch_figure, stamped
from g3dvit.run_result import RunResult
from g3dvit.shown import mni_template

HOSTILE = ("<script>alert(1)</script>", "b\" onerror='x' & <img src=x>")
FAILED = Check("<b>sum</b>", 2e-7, None, None, "fail", "Rounding noise <i>only</i>.")
PASSED = Check("finite values", 0.0, None, None, "pass", "Every value is finite.")


class Seen(HTMLParser):
    """What a browser would make of it: tags with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data + "\n"


def one_map(**metadata):
    affine = np.array([[-3, 0.4, 0, 40], [0.4, 4, 0, -60], [0, 0, 5, -20], [0, 0, 0, 1]])
    data = np.random.default_rng(0).normal(size=(5, 7, 4)).astype(np.float32)
    return RelevanceMap(data, ImageGrid((5, 7, 4), affine), {"units": "logit", **metadata})


def explained(checks=((PASSED,), (PASSED,)), **changes):
    relevance = torch.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4).float() - 30
    given = {
        "method": "frozen_gate",
        "relevance": relevance,
        "logits": torch.tensor([[1.0, 3.0], [0.5, -2.0]]),
        "scores": torch.tensor([2.0, 2.5]),
        "target": (1, 0),
        "targets": ("predicted",),
        "weightings": (),
        "score": "log_odds",
        "target_layer": None,
        "units": "log-odds",
        "checks": checks,
    }
    return Explanation(**{**given, **changes})


def test_every_value_has_the_hook() -> None:
    for kind in (RelevanceMap, RunResult, Explanation, Geometry):
        assert "_repr_html_" in dir(kind)
        assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)


def test_a_script_that_shows_nothing_loads_nothing() -> None:
    code = (
        "import sys, numpy as np\nfrom g3dvit import RelevanceMap, ImageGrid\n"
        "m = RelevanceMap(np.zeros((2, 3, 4)), ImageGrid((2, 3, 4), np.eye(4)))\nrepr(m)\n"
        "heavy = {'g3dvit.notebook', 'matplotlib', 'IPython', 'ipyniivue', 'torch'}\n"
        "bad = heavy & {*sys.modules}\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_map_says_what_it_is() -> None:
    told = {"method": "frozen_gate", "target": "right", "score": 1.23456, "p_right": 0.81234}
    told |= {"p_left": 0.18766, "logit_left": -0.5, "logit_right": 0.75, "target_layer": "norm"}
    value = replace(one_map(**told, checks=[PASSED]), resolution_mm=(18.0, 20.0, 24.0))
    seen = Seen(value._repr_html_())
    for words in ("frozen_gate", "right", "1.23", "right 0.812", "left -0.5", "norm", "5 x 7 x 4"):
        assert words in seen.text, words
    assert "18 × 20 × 24 mm" in seen.text
    assert "Every value is finite." in seen.text
    low, high = value.data.min(), value.data.max()
    assert f"{low:.3g} to {high:.3g} logit" in seen.text


def test_the_picture_is_a_png_and_small() -> None:
    html = one_map()._repr_html_()
    picture = next(attrs for tag, attrs in Seen(html).tags if tag == "img")
    head, data = picture["src"].split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert picture["alt"]


def test_no_value_is_larger_than_promised() -> None:
    run = small_run(space="T1w")
    noise = np.random.default_rng(1).normal(size=(40, 48, 36)).astype(np.float32)
    fine = RelevanceMap(noise, ImageGrid((40, 48, 36), np.diag([4.0, 4, 4, 1])), {"units": "logit"})
    for value in (run, fine, explained()):
        assert len(value._repr_html_().encode()) < notebook.MOST_BYTES


@pytest.mark.parametrize("as_read", [False, True])
def test_a_failed_check_is_loud_in_table_and_figure(as_read) -> None:
    entry = {"name": FAILED.name, "value": None, "verdict": "fail", "sentence": FAILED.sentence}
    value = one_map(checks=[PASSED, entry if as_read else FAILED])
    html = value._repr_html_()
    assert html.index("FAIL</b>") < html.index("PASS</b>")
    assert "background:#b3261e" in html
    assert "Rounding noise <i>only</i>." in Seen(html).text
    assert stamped(value).metadata["stamp"].startswith("CHECK FAILED: <b>sum</b>: Rounding")
    assert stamped(one_map(checks=[PASSED])).metadata["stamp"] is None
    words = " ".join(t.get_text() for t in patch_figure(explained(((FAILED,), ()))).texts)
    assert "CHECK FAILED" in words
    sound = " ".join(t.get_text() for t in patch_figure(explained()).texts)
    assert "CHECK FAILED" not in sound


def test_a_check_that_cannot_be_read_is_no_pass() -> None:
    html = one_map(checks=[{"name": "odd", "value": 1, "verdict": "<u>splendid</u>"}])._repr_html_()
    assert "FAIL</b>" in html
    assert "<u>" not in html


def test_checks_of_several_volumes_are_counted() -> None:
    four = replace(one_map(), data=np.stack([one_map().data] * 3, axis=-1))
    four = replace(four, metadata={"checks": [[FAILED], [FAILED], [PASSED]]})
    seen = Seen(four._repr_html_())
    assert "4D, 3 volumes" in seen.text
    assert "volume 0; .volume(n) is another" in seen.text
    assert "2 failed" in Seen(explained(((FAILED,), (FAILED,)))._repr_html_()).text


def test_an_explanation_says_scores_and_logits_of_each_volume() -> None:
    seen = Seen(explained()._repr_html_())
    probabilities = torch.tensor([[1.0, 3.0], [0.5, -2.0]]).softmax(-1)
    assert f"{probabilities[0, 1]:.3g}" in seen.text
    for words in ("2 volumes", "1; 0", "2; 2.5", "1, 3; 0.5, -2", "2 x 3 x 5 x 4", "log-odds"):
        assert words in seen.text, words


def test_the_patch_figure_shows_the_values_where_they_are() -> None:
    value = explained()
    figure = patch_figure(value)
    slices = [axes for axes in figure.axes if axes.images]
    patches = value.relevance[0].numpy()
    assert [axes.get_title() for axes in slices] == [f"k = {k}" for k in range(4)]
    for k, axes in enumerate(slices):
        np.testing.assert_array_equal(axes.images[0].get_array(), patches[:, :, k].T)
        assert axes.images[0].origin == "lower"
        assert axes.images[0].get_clim() == (-30, 30)
    assert (slices[0].get_xlabel(), slices[0].get_ylabel()) == ("i", "j")
    assert "no affine, so no sides" in figure.texts[0].get_text()


def test_axes_of_targets_and_weightings_are_told() -> None:
    several = explained(relevance=torch.randn(2, 3, 4, 3, 5, 4), scores=torch.randn(2, 3))
    assert "the first target and weighting" in patch_figure(several).texts[0].get_text()
    assert Seen(several._repr_html_()).tags


def test_hostile_names_stay_text() -> None:
    run = small_run(class_names=HOSTILE, run_name="</td><script>x()</script>")
    run = replace(run, notes=(HOSTILE[0],), warnings=(HOSTILE[1],), title=HOSTILE[1])
    hostile = one_map(method=HOSTILE[0], target=HOSTILE[1], source=HOSTILE[0], checks=[FAILED])
    shown = [run, hostile, explained(target=(HOSTILE[0], HOSTILE[1]), method=HOSTILE[0])]
    for value in shown:
        seen = Seen(value._repr_html_())
        assert {tag for tag, _ in seen.tags} <= {
            "div",
            "table",
            "tbody",
            "tr",
            "th",
            "td",
            "b",
            "img",
            "details",
            "summary",
        }
        for _, attrs in seen.tags:
            assert not [name for name in attrs if name.startswith("on")]
        assert HOSTILE[0] in seen.text


def test_a_run_says_what_it_recommends_and_what_failed() -> None:
    run = small_run(space="T1w")
    seen = Seen(run._repr_html_())
    right = int((run.predictions["label"] == run.predictions["predicted"]).sum())
    for words in (f"{right} of 12", "8 x 8 x 9 patches", "rounding noise", "T1w", "simulated"):
        assert words in seen.text, words
    assert sum(tag == "img" for tag, _ in seen.tags) == 1


def test_a_check_of_the_whole_run_stamps_its_figure() -> None:
    from g3dvit.notebook.figures import stamp_run
    from g3dvit.report.drawing import new_figure

    failed = Check("better than chance", 0.5, None, None, "fail", "It cannot be told from chance.")
    for checks, stamps in (((failed,), 1), ((PASSED,), 0)):
        figure = new_figure(6, 3)
        stamp_run(figure, replace(small_run(), checks=checks))
        assert len(figure.artists) == stamps


def test_many_passed_checks_are_folded_and_failed_ones_are_not() -> None:
    many = [replace(PASSED, name=f"check {n}") for n in range(9)]
    html = one_map(checks=[*many, FAILED])._repr_html_()
    assert "<summary>9 checks passed</summary>" in html
    assert html.index("FAIL</b>") < html.index("<details>") < html.index("check 0")
    assert "<details>" not in one_map(checks=[PASSED, FAILED])._repr_html_()


def test_a_picture_that_fails_leaves_the_table(monkeypatch) -> None:
    def broken(*_, **__):
        raise ValueError("no <b>ink</b>")

    monkeypatch.setattr(notebook, "mosaic", broken)
    html = one_map(method="frozen_gate")._repr_html_()
    assert "frozen_gate" in html
    assert "No figure: ValueError: no &lt;b&gt;ink&lt;/b&gt;" in html


def test_a_geometry_is_its_table() -> None:
    geometry = Geometry(
        input_shape=(1, 6, 8, 10),
        spatial_axes=(1, 2, 3),
        channels=1,
        grid_shape=(3, 4, 5),
        patch_size=(2, 2, 2),
        num_prefix_tokens=1,
        num_suffix_tokens=0,
        token_order=tuple(range(60)),
        pooling="class token",
        num_outputs=2,
        layers=(),
        default_layer="<script>",
    )
    html = geometry._repr_html_()
    assert str(geometry) in unescape(html)
    assert "<script>" not in html


def test_a_terminal_shows_the_table_as_lines() -> None:
    pretty = pytest.importorskip("IPython.lib.pretty").pretty
    lines = pretty(one_map(method="frozen_gate", checks=[PASSED, FAILED])).splitlines()
    assert "method: frozen_gate" in lines
    assert lines[-2:] == [
        "FAIL <b>sum</b>: Rounding noise <i>only</i>.",
        "PASS finite values: Every value is finite.",
    ]
    assert len(pretty(small_run(space="T1w"))) < 4000


def test_only_values_of_ours_are_shown() -> None:
    with pytest.raises(InputError, match="a dict has no table"):
        notebook.html_of({})


def test_the_page_is_in_a_frame_of_its_own(tmp_path) -> None:
    page = '<!doctype html><script>let a = "1 < 2 && 3";</script>\n'
    (tmp_path / "report.html").write_text(page)
    ((tag, attrs),) = Seen(notebook.show_page(tmp_path, height=321)._repr_html_()).tags
    assert (tag, attrs["srcdoc"]) == ("iframe", page)
    assert attrs["sandbox"] == "allow-scripts allow-downloads"  # not the notebook's own origin
    assert "height:321px" in attrs["style"]


def test_a_page_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(InputError, match="g3dvit explain -o"):
        notebook.show_page(tmp_path)
    (tmp_path / "report.html").write_text("")
    with pytest.raises(InputError, match="at least 1 pixel"):
        notebook.show_page(tmp_path, height=0)


def unpacked(volume):
    return nib.Nifti1Image.from_bytes(gzip.decompress(volume.data))


def test_the_viewer_holds_the_map_and_its_background_in_mm() -> None:
    run = small_run()
    head, slider, view = notebook.viewer(run).children
    under, over = view.volumes
    maps = run.maps[0]
    content = maps.volumes[0].companions["content"]  # as the page shows it
    assert not np.allclose(content, maps.volumes[0].data)
    assert "content of" in head.value
    np.testing.assert_array_equal(unpacked(over).get_fdata(), content)
    np.testing.assert_allclose(unpacked(over).affine, maps.volumes[0].grid.affine)
    np.testing.assert_allclose(unpacked(under).affine, run.background.grid.affine)
    assert (slider.min, slider.max) == (0, 11)
    top = np.abs(content).max()
    assert over.cal_max == pytest.approx(top)
    assert (over.cal_max_neg, over.cal_min_neg) == pytest.approx((-top, -0.1 * top))
    assert {over.url, over.path, under.url, under.path} == {None}
    assert "CHECK FAILED" not in head.value


def test_the_viewer_is_stamped_and_escaped() -> None:
    head = notebook.viewer(small_run(), method="token_gradcam").children[0]
    assert "CHECK FAILED" in head.value
    head, _ = notebook.viewer(one_map(method=HOSTILE[0], checks=[FAILED])).children
    assert {tag for tag, _ in Seen(head.value).tags} == {"b", "div"}
    assert HOSTILE[0] in Seen(head.value).text


def test_the_viewer_of_one_map_has_a_thin_cross_at_its_strongest_value() -> None:
    one = one_map()
    head, view = notebook.viewer(one).children
    under, _ = view.volumes
    assert "Background: none" in head.value and "green: against" in head.value
    image = unpacked(under)
    sizes = nib.affines.voxel_sizes(image.affine)
    assert sizes.max() < 5
    assert view.opts.crosshair_width * sizes.min() == pytest.approx(1)
    # the outer borders are those of the map
    for corner in np.ndindex(2, 2, 2):
        there = np.array(corner) * one.data.shape - 0.5
        here = np.array(corner) * image.shape - 0.5
        np.testing.assert_allclose(
            nib.affines.apply_affine(image.affine, here),
            nib.affines.apply_affine(one.grid.affine, there),
            atol=1e-4,
        )
    # the map runs to the left along i: the cross is told from the left
    i, j, k = np.unravel_index(np.abs(one.data).argmax(), one.data.shape)
    parts = [1 - (i + 0.5) / 5, (j + 0.5) / 7, (k + 0.5) / 4]
    np.testing.assert_allclose(view.scene.crosshair_pos, parts, atol=1e-6)
    template = notebook.viewer(one_map(space="MNI152NLin6Asym")).children[-1].volumes[0]
    assert unpacked(template).shape == mni_template().grid.shape


def test_what_the_viewer_cannot_show_is_told(monkeypatch) -> None:
    with pytest.raises(InputError, match="it has frozen_gate, token_gradcam"):
        notebook.viewer(small_run(), method="rise")
    with pytest.raises(InputError, match="single map"):
        notebook.viewer(one_map(), method="rise")
    with pytest.raises(InputError, match=r"load_run\(folder\)\), was given a str"):
        notebook.viewer("maps")
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(InputError, match=r"g3dvit\[notebook\]"):
        notebook.viewer(one_map())
