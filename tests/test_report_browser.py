"""The page in a real browser: it draws, its controls work, and left is left.

Skipped where the chromium command is absent.
"""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from chromium import Page, chromium_command
from fake_run import FakeCheck, small_run
from g3dvit.report.page import render_page
from g3dvit.report.scene import scene_of

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_command() is None, reason="the chromium command is not installed"),
]

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(scene_of(small_run())), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with Page(900, 700) as page:
        yield page


@pytest.fixture(scope="module")
def loaded(browser, path):
    """The page, loaded once: its first 3D rendering takes seconds without a GPU."""
    browser.open(path)
    assert browser.run("document.documentElement.dataset.ready") == "yes"
    return browser


DEFAULTS = {
    "view": "slices",
    "below": "fade",
    "opacity": "85",
    "sign": "both",
    "colours": "Red and blue",
    "percentile": "90",
}


RESET = """(async () => {
  if (g3dvit.state.radiological) document.getElementById("side").click();
  document.getElementById("patches").value = "smooth";
  g3dvit.state.blocks = false;
  for (const [id, value] of Object.entries(DEFAULTS)) {
    const control = document.getElementById(id);
    control.value = value;
    control.dispatchEvent(new Event(control.tagName === "INPUT" ? "input" : "change"));
  }
  await g3dvit.showLayer(FIRST, 0);
  document.getElementById("peak").click();
})()"""


@pytest.fixture
def page(loaded, path):
    """The loaded page with every control as at first, but slices only."""
    loaded.resize(900, 700)
    if not loaded.run("document.title.startsWith('sub-01') && !!window.g3dvit"):
        loaded.open(path)
    first = loaded.run("window.first ??= g3dvit.state.layer")
    loaded.run(RESET.replace("DEFAULTS", json.dumps(DEFAULTS)).replace("FIRST", str(first)))
    return loaded


def choose(page, control, value):
    page.run(
        f"(() => {{const c = document.getElementById('{control}'); c.value = '{value}';"
        "c.dispatchEvent(new Event('input')); c.dispatchEvent(new Event('change'))})()"
    )
    page.settle()


def show(page, layer, frame=0):
    page.run(f"g3dvit.showLayer({layer}, {frame})")
    page.settle()


def canvas(page):
    """The viewer's picture as numbers, (height, width, rgb)."""
    from PIL import Image

    picture = Image.open(io.BytesIO(page.picture(selector="#gl"))).convert("RGB")
    return np.asarray(picture, dtype=int)


def text(page, selector):
    return page.run(f"document.querySelector('{selector}').textContent")


def red(picture):
    return (picture[..., 0] - np.maximum(picture[..., 1], picture[..., 2])) > 60


def layer_of(page, **wanted):
    condition = " && ".join(f"l.{key} === {value!r}" for key, value in wanted.items())
    return page.run(f"g3dvit.scene.layers.findIndex((l) => {condition})")


def test_loads_without_errors_and_without_network(page, path):
    assert page.errors == []
    outside = [u for u in page.requests if not u.startswith(("data:", "blob:", path.as_uri()))]
    assert outside == []
    assert page.run("document.getElementById('trouble').hidden") is True


def test_canvas_shows_a_brain_and_a_map(page):
    picture = canvas(page)
    grey = (picture.max(axis=2) - picture.min(axis=2) < 12) & (picture.max(axis=2) > 60)
    assert grey.mean() > 0.05
    assert red(picture).sum() > 200
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_3d_rendering_is_drawn(page):
    choose(page, "view", "render")
    picture = canvas(page)
    assert (picture.max(axis=2) > 60).mean() > 0.02


def test_read_out_at_the_planted_place(page):
    page.run("document.getElementById('peak').click()")
    words = " ".join(text(page, "#readout").split())
    assert words.startswith("MNI x −40 y −22 z 56 mm · +0.00")
    assert "log-odds" in words
    page.run("g3dvit.goTo([40, -22, 56])")
    assert "x 40 y −22 z 56 mm · −0.00" in " ".join(text(page, "#readout").split())
    page.run("g3dvit.goTo([300, 0, 0])")
    assert "outside the map" in text(page, "#readout")


@pytest.mark.parametrize("radiological", [False, True])
def test_left_is_left_and_the_switch_turns_it(page, radiological):
    choose(page, "sign", "positive")
    if radiological:
        page.run("document.getElementById('side').click()")
        assert "Radiological" in text(page, "#side")
    page.run("g3dvit.goTo([0, -22, 56])")
    picture, scale = red(canvas(page)), page.run("devicePixelRatio")
    # NiiVue's own list of what it drew where: 0 axial, 1 coronal, 2 sagittal
    tiles = page.run("g3dvit.nv.screenSlices.map(s => [s.axCorSag, [...s.leftTopWidthHeight]])")
    halves = 0
    for kind, (left, top, width, height) in tiles:
        if kind not in (0, 1):
            continue
        box = picture[
            round(top / scale) : round((top + height) / scale),
            round(left / scale) : round((left + width) / scale),
        ]
        columns = np.nonzero(box)[1]
        assert len(columns) > 30
        middle = columns.mean() / box.shape[1]
        assert (middle > 0.55) if radiological else (middle < 0.45)
        halves += 1
    assert halves == 2


def test_keys_move_the_crosshair_to_the_side_that_is_drawn(page):
    page.run("g3dvit.goTo([0, 0, 0])")
    press = "document.getElementById('gl').dispatchEvent(new KeyboardEvent('keydown', {key: '%s'}))"
    page.run(press % "ArrowLeft")
    assert " x −2 " in " ".join(text(page, "#readout").split())
    page.run("document.getElementById('side').click()")
    page.run(press % "ArrowLeft")
    assert " x 0 " in " ".join(text(page, "#readout").split())
    page.run(press % "PageUp")
    assert " z 2 " in " ".join(text(page, "#readout").split())


def test_numbers_in_the_fields_move_the_crosshair(page):
    choose(page, "x", "16")
    assert " x 16 " in " ".join(text(page, "#readout").split())


def test_threshold_and_percentile_change_the_picture_and_each_other(page):
    choose(page, "below", "hide")
    choose(page, "percentile", "50")
    many = red(canvas(page)).sum()
    low = page.run("g3dvit.state.threshold")
    choose(page, "percentile", "99")
    few = red(canvas(page)).sum()
    assert page.run("g3dvit.state.threshold") > low
    assert 0 < few < many
    choose(page, "threshold", "0")
    assert int(page.run("document.getElementById('percentile').value")) == 0
    assert red(canvas(page)).sum() >= many


def test_fading_shows_more_than_hiding(page):
    choose(page, "sign", "positive")
    choose(page, "percentile", "97")
    choose(page, "below", "fade")
    faded = canvas(page)
    choose(page, "below", "hide")
    hidden = canvas(page)
    warmer = (faded[..., 0] - faded[..., 2]) - (hidden[..., 0] - hidden[..., 2])
    assert (warmer > 8).sum() > 50


def test_opacity_colours_and_sign_change_the_picture(page):
    choose(page, "opacity", "0")
    assert red(canvas(page)).sum() == 0
    choose(page, "opacity", "100")
    assert red(canvas(page)).sum() > 100
    choose(page, "sign", "negative")
    assert red(canvas(page)).sum() == 0
    choose(page, "sign", "both")
    before = canvas(page)
    choose(page, "colours", "Hot and cold")
    assert np.abs(canvas(page) - before).max() > 40


def test_slider_and_play_go_through_the_volumes(page):
    show(page, layer_of(page, kind="volumes", method=0))
    assert page.run("document.getElementById('frame').max") == "11"
    first = canvas(page)
    choose(page, "frame", "7")  # of the other class
    words = text(page, "#frame-text")
    assert words.startswith("Volume 8 of 12 · time point 7 · 15 s · label right")
    assert np.abs(canvas(page) - first).max() > 60
    page.run("document.getElementById('play').click()")
    page.wait("g3dvit.state.frame !== 7")
    page.run("document.getElementById('play').click()")
    assert text(page, "#play") == "Play"


def test_tiny_values_are_drawn_too(page):
    """Token Grad-CAM here is 1e-8: NiiVue's shader takes such a range for empty."""
    show(page, layer_of(page, kind="volumes", method=1))
    choose(page, "percentile", "60")
    page.run("document.getElementById('stamp').hidden = true")
    assert red(canvas(page)).sum() > 200
    assert "e-" in text(page, "#readout")


def test_patches_as_blocks_have_sharp_edges(page):
    show(page, layer_of(page, kind="volumes", method=0))
    choose(page, "percentile", "0")
    smooth = canvas(page)
    choose(page, "patches", "blocks")
    page.wait("g3dvit.state.blocks")
    page.run("new Promise(d => setTimeout(d, 300))")
    assert np.abs(canvas(page) - smooth).max() > 30


def test_stamp_lies_across_a_failed_map_only(page):
    assert page.run("document.getElementById('stamp').hidden") is True
    show(page, layer_of(page, kind="class mean", method=1))
    assert page.run("document.getElementById('stamp').hidden") is False
    assert "CHECK FAILED" in text(page, "#stamp")
    assert "sum to zero but for rounding" in text(page, "#stamp-reason")
    box = page.run(
        "(() => {const s = document.querySelector('#stamp b').getBoundingClientRect(),"
        "c = document.getElementById('gl').getBoundingClientRect();"
        "return [s.left > c.left, s.right < c.right, s.top > c.top, s.bottom < c.bottom,"
        "s.width > 0.3 * c.width]})()"
    )
    assert box == [True] * 5


def test_halves_are_shown_beside_the_map(page):
    show(page, layer_of(page, kind="volumes", method=0))
    assert page.run("document.getElementById('halves').hidden") is True
    show(page, layer_of(page, kind="volumes", method=1), 2)
    captions = page.run(
        "[...document.querySelectorAll('#halves figcaption')].map(c => c.textContent)"
    )
    names = [caption.split(":")[0].split(" (")[0] for caption in captions]
    assert names == ["Map", "Patch weight", "Token sum"]
    value, weight, total = (float(c.rsplit(" ", 1)[1].replace("−", "-")) for c in captions)
    assert value == pytest.approx(weight * total, rel=0.2, abs=1e-9)


def test_row_of_the_table_shows_its_volume(page):
    page.run("document.querySelector('#predictions button[data-row=\"5\"]').click()")
    page.wait("g3dvit.state.frame === 5")
    assert page.run("g3dvit.scene.layers[g3dvit.state.layer].kind") == "volumes"
    assert page.run("document.querySelectorAll('tr.shown').length") == 1


def test_every_control_has_a_name_and_phones_do_not_scroll_sideways(page):
    nameless = page.run(
        "[...document.querySelectorAll('input, select, button')].filter(e => !e.closest('label') "
        "&& !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.id)"
    )
    assert nameless == []
    page.resize(400, 800)
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= 400


def test_hostile_names_do_nothing(browser, tmp_path):
    run = small_run(class_names=(f"left{HOSTILE}", "right"), run_name=HOSTILE)
    check = FakeCheck(HOSTILE, 0.0, None, None, "fail", HOSTILE)
    checks = ((check,),) * len(run.predictions)
    maps = (replace(run.maps[0], title=HOSTILE, checks=checks),)
    run = replace(run, title=HOSTILE, checks=(check,), warnings=(HOSTILE,), maps=maps)
    path = tmp_path / "hostile.html"
    path.write_text(render_page(scene_of(run)), encoding="utf-8")
    browser.open(path)
    show(browser, layer_of(browser, kind="volumes"))
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert HOSTILE in text(browser, "#stamp-reason")


def test_without_webgl_the_page_says_so(browser, path):
    source = "HTMLCanvasElement.prototype.getContext = () => null"
    script = browser.send("Page.addScriptToEvaluateOnNewDocument", source=source)
    browser.open(path)
    browser.send("Page.removeScriptToEvaluateOnNewDocument", **script)
    assert browser.run("document.documentElement.dataset.ready") == "failed"
    assert "needs WebGL 2" in text(browser, "#trouble")
    assert browser.run("document.querySelectorAll('#predictions tbody tr').length") == 12
