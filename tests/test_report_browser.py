"""The page in a real browser: it draws, its controls work, and left is left.

Skipped where the chromium command is absent.
"""

import base64
import io
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from chromium import Page, chromium_command
from fake_run import SMALL, FakeCheck, flat_background, grid_mm, small_run
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.report.display import shown_mean
from g3dvit.report.downloads import Folder
from g3dvit.report.page import render_page
from g3dvit.report.pictures import Picture
from g3dvit.report.scene import scene_of
from g3dvit.shown import Background, Parcellation, ResultTable

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_command() is None, reason="the chromium command is not installed"),
]

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def result():
    """A run with two backgrounds and an atlas of three regions."""
    run = small_run()
    labels = np.zeros(SMALL.volume.shape, np.int16)
    for index, mm in ((1, (-40, -22, 56)), (2, (40, -22, 56)), (3, (0, 20, 0))):
        i, j, k = np.rint(SMALL.volume.world2vox(mm)).astype(int)
        labels[i - 3 : i + 4, j - 3 : j + 4, k - 3 : k + 4] = index
    names = {1: "Left hand", 2: "Right hand", 3: "Cingulate <b>"}
    even = np.full((30, 30, 30), 2, np.float32)
    even[:, :12] = 5
    grid = grid_mm(even.shape, 5.0, (-75, -85, -60))
    return replace(
        run,
        parcellation=Parcellation("toy atlas", labels, SMALL.volume, names),
        further_backgrounds=(Background(even, grid, "another"),),
    )


@pytest.fixture(scope="module")
def path(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(scene_of(result)), encoding="utf-8")
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
    # Another test may have opened a page of its own.
    if loaded.run("location.href") != path.as_uri():
        loaded.open(path)
    first = loaded.run("window.first ??= g3dvit.state.layer")
    loaded.run(RESET.replace("DEFAULTS", json.dumps(DEFAULTS)).replace("FIRST", str(first)))
    yield loaded
    assert loaded.errors == []


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
    assert page.run(  # why stands below the picture: it hides neither slices nor their places
        "document.getElementById('stamp-reason').getBoundingClientRect().top >= "
        "document.getElementById('gl').getBoundingClientRect().bottom"
    )
    box = page.run(
        "(() => {const s = document.querySelector('#stamp b').getBoundingClientRect(),"
        "c = document.getElementById('gl').getBoundingClientRect();"
        "return [s.left > c.left, s.right < c.right, s.top > c.top, s.bottom < c.bottom,"
        "s.width > 0.3 * c.width]})()"
    )
    assert box == [True] * 5


def test_halves_are_shown_beside_the_map(page):
    show(page, layer_of(page, kind="class mean", method=1))
    assert page.run("document.getElementById('halves').hidden") is True
    show(page, layer_of(page, kind="volumes", method=0), 2)
    assert "content + position" in text(page, "#halves-sentence")
    total, content, position = part_values(page, ["Relevance", "Content", "Position"])
    assert total == pytest.approx(content + position, abs=0.01)
    show(page, layer_of(page, kind="volumes", method=1), 2)
    value, weight, total = part_values(page, ["Map", "Patch weight", "Token sum"])
    assert value == pytest.approx(weight * total, rel=0.2, abs=1e-9)


def part_values(page, titles):
    captions = page.run(
        "[...document.querySelectorAll('#halves figcaption')].map(c => c.textContent)"
    )
    assert [caption.split(":")[0].split(" (")[0] for caption in captions] == titles
    return [float(c.rsplit(" ", 1)[1].replace("−", "-")) for c in captions]


def test_row_of_the_table_shows_its_volume(page):
    page.run("document.querySelector('#predictions button[data-row=\"5\"]').click()")
    page.wait("g3dvit.state.frame === 5")
    assert page.run("g3dvit.scene.layers[g3dvit.state.layer].kind") == "volumes"
    assert page.run("document.querySelectorAll('tr.shown').length") == 1


@pytest.mark.parametrize(
    "mm", [(-40, -22, 56), (40, -22, 56), (0, 20, 0), (-60, 30, -30), (30, -80, 20)]
)
def test_value_and_region_under_the_crosshair_are_right(page, result, mm):
    """At five places: millimetres, value of the map and region equal what Python finds."""
    mean = result.maps[0].class_means
    shown = next(m for m in mean if str(m.key) == "correct/right")
    values = shown_mean(result.maps[0], shown, result.display)
    page.run(f"g3dvit.goTo({list(mm)})")
    i, j, k = np.rint(shown.voxel.grid.world2vox(mm)).astype(int)
    words = " ".join(text(page, "#readout").replace("−", "-").split())
    x, y, z = mm
    assert f"x {x} y {y} z {z} mm" in words
    read = float(words.split("mm · ")[1].split()[0])
    assert read == pytest.approx(float(values[i, j, k]), abs=float(np.abs(values).max()) / 127)
    atlas = result.parcellation
    a, b, c = np.rint(atlas.grid.world2vox(mm)).astype(int)
    name = atlas.names.get(int(atlas.labels[a, b, c]), "no region here")
    page.wait(f"document.getElementById('region').textContent.startsWith({json.dumps(name)})")


def test_click_on_the_time_course_shows_that_volume(page, result):
    show(page, layer_of(page, kind="class mean", method=0))
    page.run("document.getElementById('chart').scrollIntoView({behavior: 'instant'})")
    times = result.predictions["onset_s"]
    x, y = page.run(
        "(() => {const r = document.querySelector('#chart svg').getBoundingClientRect();"
        f"const share = ({times[8]} - {times[0]} + 1) / ({times[11]} - {times[0]} + 2);"
        "return [r.left + 64 + share * (r.width - 64 - 14), r.top + 90]})()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    page.wait("g3dvit.state.frame === 8")
    assert page.run("g3dvit.scene.layers[g3dvit.state.layer].kind") == "volumes"
    assert page.run("document.querySelector('#chart svg').getAttribute('aria-valuenow')") == "9"
    key = "new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true})"
    page.run(f"document.querySelector('#chart svg').dispatchEvent({key})")
    page.wait("g3dvit.state.frame === 7")


def test_time_course_has_design_errors_and_relevance(page, result):
    show(page, layer_of(page, kind="volumes", method=0), 3)
    page.run("g3dvit.goTo([-40, -22, 56])")
    table = result.predictions
    wrong = int((table["label"] != table["predicted"]).sum())
    assert page.run("document.querySelectorAll('#chart .wrong').length") == wrong
    assert page.run("document.querySelectorAll('#chart path').length") == 3  # two classes, a map
    assert "patch at the crosshair (log-odds" in text(page, "#chart")
    at = page.run("document.querySelector('#chart .cursor').getAttribute('x1')")
    show(page, layer_of(page, kind="volumes", method=0), 9)
    later = page.run("document.querySelector('#chart .cursor').getAttribute('x1')")
    assert float(later) > float(at)


def test_tables_sort_either_way(page, result):
    column = (
        "[...document.querySelectorAll('#predictions tbody tr')].map(r => r.cells[7].textContent)"
    )
    head = "document.querySelectorAll('#predictions th')[7]"
    assert page.run(f"{head}.textContent") == "Score"
    page.run(f"{head}.querySelector('button').click()")
    up = [float(v) for v in page.run(column)]
    assert up == sorted(up)
    assert page.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    page.run(f"{head}.querySelector('button').click()")
    assert [float(v) for v in page.run(column)] == sorted(up, reverse=True)
    page.run("document.querySelectorAll('#predictions th')[2].querySelector('button').click()")


def saved(page, click):
    """The file that a click downloads: its name and its bytes."""
    answer = page.run(
        "new Promise((done) => {"
        "const made = URL.createObjectURL; let blob = null;"
        "URL.createObjectURL = (b) => { blob = b; return made.call(URL, b); };"
        "HTMLAnchorElement.prototype.click = function () {"
        "  delete HTMLAnchorElement.prototype.click; URL.createObjectURL = made;"
        "  const reader = new FileReader();"
        "  reader.onload = () => done([this.download, reader.result]);"
        "  blob ? reader.readAsDataURL(blob) : done([this.download, this.href]);"
        f"}}; {click}; }})"
    )
    return answer[0], base64.b64decode(answer[1].split(",")[1])


def test_downloads_are_what_is_shown(page, result, tmp_path):
    name, table = saved(page, "document.querySelector('[data-tsv=predictions]').click()")
    assert name == "predictions_rounded.tsv"
    lines = table.decode().splitlines()
    assert lines[0].split("\t")[:3] == ["Run", "Time point", "Time (s)"]
    assert len(lines) == 1 + len(result.predictions)
    layer = layer_of(page, kind="volumes", method=0)
    show(page, layer, 4)
    name, bytes_ = saved(page, "document.getElementById('save-map').click()")
    assert name.endswith("_volume-4.nii")
    (tmp_path / "a.nii").write_bytes(bytes_)
    image = nib.load(tmp_path / "a.nii")
    shown = result.maps[0].volumes[0]
    content = shown.companions["content"]
    np.testing.assert_allclose(image.affine, shown.grid.affine)
    step = np.abs(content).max() / 127
    np.testing.assert_allclose(image.get_fdata(), content[..., 4], atol=0.51 * step)
    assert b"CHECK FAILED" not in image.header["descrip"].item()


def test_picture_of_a_failed_map_carries_its_stamp(page):
    from PIL import Image

    name, png = saved(page, "document.getElementById('save-picture').click()")
    plain = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)
    assert name.endswith(".png")
    assert red(plain).sum() > 200
    show(page, layer_of(page, kind="class mean", method=1))
    _, png = saved(page, "document.getElementById('save-picture').click()")
    stamped = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)
    of_stamp = np.abs(stamped - [255, 106, 94]).max(axis=2) < 12
    assert of_stamp.sum() > 500 > (np.abs(plain - [255, 106, 94]).max(axis=2) < 12).sum()
    name, map_ = saved(page, "document.getElementById('save-map').click()")
    assert b"CHECK FAILED" in map_[:400]


def test_mosaics_and_clip_plane_are_drawn(page):
    pictures = []
    for view in ("axial", "coronal", "sagittal", "render"):
        choose(page, "view", view)
        picture = canvas(page)
        assert (picture.max(axis=2) > 60).mean() > 0.02
        pictures.append(picture)
    whole = pictures[-1]
    choose(page, "clip", "left")
    choose(page, "depth", "60")
    assert np.abs(canvas(page) - whole).max() > 60
    choose(page, "clip", "none")


def test_another_background_keeps_the_place(page):
    page.run("g3dvit.goTo([-40, -22, 56])")
    before = canvas(page)
    choose(page, "background", "1")
    page.wait("g3dvit.nv.volumes.length === 2")
    page.settle()
    assert "x −40 y −22 z 56" in " ".join(text(page, "#readout").split())
    assert np.abs(canvas(page) - before).max() > 30
    choose(page, "background", "0")
    page.wait("g3dvit.nv.volumes.length === 2")


def test_patch_at_the_crosshair_is_outlined_at_its_size(page):
    """The dashed box on the axial slice has the patch's edges, around the crosshair."""
    page.run("g3dvit.goTo([-40, -22, 56])")
    got = page.run(
        "(() => {const m = document.getElementById('marks'), p = m.getContext('2d');"
        "const t = g3dvit.nv.screenSlices.find((s) => s.axCorSag === 0);"
        "const [x, y, w, h] = t.leftTopWidthHeight.map(Math.round);"
        "const d = p.getImageData(x, y, w, h).data, c = [], r = [];"
        "for (let n = 3; n < d.length; n += 4) if (d[n] > 128) {"
        "  c.push(((n - 3) / 4) % w); r.push(Math.floor((n - 3) / 4 / w)); }"
        "const mm = (n, size, fov) => (n / size) * fov;"
        "return [mm(Math.max(...c) - Math.min(...c), w, t.fovMM[0]),"
        "  mm(Math.max(...r) - Math.min(...r), h, t.fovMM[1]),"
        "  t.leftTopMM[0] + mm((Math.max(...c) + Math.min(...c)) / 2, w, t.fovMM[0])]})()"
    )
    grid = SMALL.to_image_grid()
    centre = grid.vox2world(np.rint(grid.world2vox([-40, -22, 56])))
    np.testing.assert_allclose(got[:2], SMALL.patch_sizes_mm[:2], atol=2.5)
    assert got[2] == pytest.approx(centre[0], abs=2)
    choose(page, "outline", "none")
    drawn = page.run(
        "(() => {const m = document.getElementById('marks');"
        "return m.getContext('2d').getImageData(0, 0, m.width, m.height).data.some((v) => v)})()"
    )
    assert drawn is False
    choose(page, "outline", "patch")


def test_a_screen_reader_gets_a_name_for_everything(side):
    """By the browser's own accessibility tree."""
    redrawn(side)
    nodes = side.send("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and "role" in node
    ]
    named = ("button", "combobox", "slider", "spinbutton", "image", "table", "link", "heading")
    kinds = {role for role, _ in found}
    assert set(named) <= kinds
    assert [role for role, name in found if role in named and not name.strip()] == []
    assert ("slider", "Threshold") in found
    assert ("button", "Score") in found  # without the arrow that shows the order
    saves = [n for role, n in found if role == "button" and n.startswith(("NIfTI", "Show in"))]
    assert len(saves) == len(set(saves)) > 10


def test_phones_do_not_scroll_sideways(side):
    side.resize(360, 800)
    redrawn(side)
    assert side.run("document.documentElement.scrollWidth") <= 360
    assert side.run("g3dvit.panes().sets()[0].panes[0].canvas.clientWidth") > 120


def test_paper_has_column_heads_and_the_whole_time_course(page):
    page.send("Emulation.setEmulatedMedia", media="print")
    page.run("document.body.style.width = '600px'")
    try:
        head = "document.querySelectorAll('#predictions th')[7]"
        assert page.run(f"getComputedStyle({head}, '::before').content") == '"Score"'
        assert page.run(f"{head}.querySelector('button').getClientRects().length") == 0
        assert page.run(
            "document.querySelector('#chart svg').getBoundingClientRect().right <= "
            "document.getElementById('chart').getBoundingClientRect().right + 1"
        )
        assert page.run("document.getElementById('legend').getClientRects().length") == 1
        assert page.run("document.getElementById('play').getClientRects().length") == 0
    finally:
        page.run("document.body.style.width = ''")
        page.send("Emulation.setEmulatedMedia", media="")


def test_left_is_left_in_an_oblique_mirrored_space(browser, tmp_path):
    """LAS, turned about two axes: place, side and outline follow the world."""
    turn, tip = 0.35, 0.3
    about_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(tip), -np.sin(tip)], [0, np.sin(tip), np.cos(tip)]]
    affine = np.diag([-4.0, 4, 4, 1])
    affine[:3, 3] = [80, -110, -64]
    world = np.eye(4)
    world[:3, :3] = np.array(about_z) @ about_x
    grid = ImageGrid((40, 48, 36), world @ affine)
    run = small_run(
        patches=PatchGrid(grid, (5, 6, 4)), background=flat_background(grid), space=None
    )
    path = tmp_path / "oblique.html"
    path.write_text(render_page(scene_of(run)), encoding="utf-8")
    browser.open(path)
    choose(browser, "view", "slices")
    choose(browser, "sign", "positive")
    words = " ".join(text(browser, "#readout").replace("−", "-").split())
    assert words.startswith("scanner x ")
    x, y, z = (int(words.split()[n]) for n in (2, 4, 6))
    np.testing.assert_allclose([x, y, z], [-40, -22, 56], atol=4)
    left, top, width, height = browser.run(
        "[...g3dvit.nv.screenSlices.find((s) => s.axCorSag === 0).leftTopWidthHeight]"
    )
    box = red(canvas(browser))[round(top) : round(top + height), round(left) : round(left + width)]
    columns = np.nonzero(box)[1]
    assert len(columns) > 30
    assert columns.mean() / box.shape[1] < 0.45


@pytest.mark.parametrize("case", ["no maps", "one volume", "no labels", "no means", "no times"])
def test_pages_that_lack_something_work_too(browser, tmp_path, case):
    run = small_run(n_volumes=1 if case == "one volume" else 12, labelled=case != "no labels")
    if case == "no maps":
        run = replace(run, maps=())
    if case == "no means":
        run = replace(run, maps=tuple(replace(maps, class_means=()) for maps in run.maps))
    if case == "no times":
        run = replace(run, predictions=run.predictions.assign(onset_s=np.nan))
    path = tmp_path / "page.html"
    path.write_text(render_page(scene_of(run)), encoding="utf-8")
    browser.errors.clear()
    browser.open(path)
    browser.settle()
    assert browser.errors == []
    assert browser.run("document.documentElement.dataset.ready") == "yes"
    expected = "This run has no maps." if case == "no maps" else "log-odds"
    assert expected in text(browser, "#readout")
    unit = "time point" if case == "no times" else "time in the run (s)"
    assert text(browser, "#chart").endswith(unit)


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


def test_without_webgl_the_page_shows_pictures_and_times(browser, result, tmp_path):
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
        "gg=="
    )
    path = tmp_path / "still.html"
    scene = scene_of(result, [Picture("means", 0, "Class means", pixel)])
    path.write_text(render_page(scene), encoding="utf-8")
    source = (
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
        "return kind.startsWith('webgl') ? null : get.call(this, kind, ...more)}"
    )
    script = browser.send("Page.addScriptToEvaluateOnNewDocument", source=source)
    browser.open(path)
    browser.send("Page.removeScriptToEvaluateOnNewDocument", **script)
    assert browser.run("document.documentElement.dataset.ready") == "failed"
    assert "needs WebGL 2" in text(browser, "#trouble")
    assert browser.run("document.querySelector('#trouble img').alt") == "Class means"
    assert browser.run("document.querySelectorAll('#predictions tbody tr').length") == 12
    browser.run("g3dvit.showLayer(0, 0)")
    key = "new KeyboardEvent('keydown', {key: 'Home', bubbles: true})"
    browser.run(f"document.querySelector('#chart svg').dispatchEvent({key})")
    browser.wait("document.getElementById('frame-text').textContent.startsWith('Volume 1 of 12')")
    assert "log-odds" in text(browser, "#readout")


@pytest.fixture
def side(page):
    """The page at its maps side by side, drawn."""
    page.run("document.getElementById('compared').scrollIntoView({behavior: 'instant'})")
    page.wait("g3dvit.panes().sets().length > 0")
    choose(page, "plane", "axial")
    redrawn(page)
    return page


def redrawn(page):
    page.settle()
    page.run("new Promise(d => setTimeout(d, 60))")
    page.run("g3dvit.panes().drawAll()")


def pane(page, kind, number):
    """Pixels (height, width, rgb), caption and label of one of the maps side by side."""
    width, height, label, caption, data = page.run(
        f"(() => {{const p = g3dvit.panes().sets().find((s) => s.kind === '{kind}')"
        f".panes[{number}], c = p.canvas;"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [c.width, c.height, c.getAttribute('aria-label'), p.figure.innerText,"
        " btoa(Array.from(d, (v) => String.fromCharCode(v)).join(''))]})()"
    )
    pixels = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
    return pixels[..., :3].astype(int), " ".join(caption.split()), label


def cold(picture):
    return (picture[..., 2] - np.maximum(picture[..., 0], picture[..., 1] - 30)) > 40


def test_class_means_stand_side_by_side_on_one_scale(side, result):
    """Of "right" volumes the left hand knob is red, of "left" ones its mirror image is blue."""
    choose(side, "percentile", "97")
    choose(side, "below", "hide")
    redrawn(side)
    titles = side.run("g3dvit.panes().sets()[0].panes.map((p) => p.title)")
    means = result.maps[0].class_means
    assert set(titles[:2]) == {m.title for m in means if m.key.which == "correct"}
    assert titles[2].startswith("Difference: “right” minus “left”")
    assert set(titles[3:]) == {m.title for m in means if m.key.which == "error"}
    for number, title in enumerate(titles[:2]):
        picture, caption, label = pane(side, "means", number)
        middle = picture.shape[1] // 2
        assert ((picture.max(2) - picture.min(2) < 12) & (picture.max(2) > 60)).mean() > 0.05
        if title.startswith("“right”"):
            assert red(picture)[:, :middle].sum() > 20 > red(picture)[:, middle:].sum()
        else:
            assert cold(picture)[:, middle:].sum() > 20 > cold(picture)[:, :middle].sum()
        assert "log-odds" in caption
        assert label.startswith(f"{title}: axial slice at z 56 mm, left is left; at the crosshair")
    words = text(side, ".set[data-kind=means] p")
    assert "All explain “right”." in words
    assert text(side, "#threshold-text").split()[0] in words
    top = side.run("g3dvit.scene.layers[g3dvit.state.layer].range")
    assert side.run("[...new Set(g3dvit.panes().sets()[0].layers.map((l) => l.range))]") == [top]


def test_values_side_by_side_are_those_of_the_viewer(side):
    redrawn(side)
    for number in range(3):
        side.run("document.querySelectorAll('.set[data-kind=means] .pane button')"
                 f"[{number}].click()")  # fmt: skip
        side.wait(f"g3dvit.scene.layers[g3dvit.state.layer] === "
                  f"g3dvit.panes().sets()[0].layers[{number}]")  # fmt: skip
        redrawn(side)
        _, caption, _ = pane(side, "means", number)
        value = " ".join(text(side, "#readout").split()).split("mm · ")[1].split(" · ")[0]
        assert value in caption


def test_click_and_keys_side_by_side_move_the_crosshair(side):
    choose(side, "plane", "coronal")
    redrawn(side)
    side.run("document.querySelector('.pane canvas').scrollIntoView({behavior: 'instant'})")
    x, y, mm = side.run(
        "(() => {const p = g3dvit.panes().sets()[0].panes[0], c = p.canvas;"
        "const r = c.getBoundingClientRect(), s = viewmath.shareIn(p.frame, [40, -22, 20]);"
        "return [r.left + s[0] * r.width, r.top + s[1] * r.height, (p.frame.u[1] - p.frame.u[0])"
        " / r.width]})()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        side.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    place = [side.run(f"Number(document.getElementById('{axis}').value)") for axis in "xyz"]
    np.testing.assert_allclose(place, [40, -22, 20], atol=mm + 1)
    side.run("document.querySelector('.panes').focus()")
    for key, change in (("ArrowRight", (2, 0, 0)), ("ArrowUp", (0, 0, 2)), ("PageUp", (0, 2, 0))):
        before = place
        for kind in ("keyDown", "keyUp"):
            side.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)
        place = [side.run(f"Number(document.getElementById('{axis}').value)") for axis in "xyz"]
        np.testing.assert_allclose(np.subtract(place, before), change, atol=1)
    redrawn(side)
    assert f"coronal slice at y {place[1]} mm".replace("-", "−") in pane(side, "means", 0)[2]


def test_methods_stand_side_by_side_with_their_checks_and_stamps(side):
    redrawn(side)
    _, gate, label = pane(side, "methods", 0)
    _, cam, failed = pane(side, "methods", 1)
    assert gate.startswith("frozen gate, n = ")
    assert "2 passed" in gate
    assert "FAILED" not in gate + label
    assert cam.startswith("CHECK FAILED token Grad-CAM (mean), n = ")
    assert "failed D3 centring" in cam
    assert "sum to zero but for rounding" in cam
    assert failed.startswith("CHECK FAILED. token Grad-CAM (mean)")
    assert "logit" in cam
    box = side.run(
        "(() => {const s = document.querySelector('.pane-stamp').getBoundingClientRect(),"
        "c = document.querySelector('.pane-stamp').parentElement.getBoundingClientRect();"
        "return [s.left > c.left, s.right < c.right, s.top > c.top, s.bottom < c.bottom]})()"
    )
    assert box == [True] * 4
    choose(side, "pane-method", "1")
    side.wait("g3dvit.panes().sets()[0].layers[0].method === 1")
    redrawn(side)
    assert text(side, "#method option:checked") == "token Grad-CAM (mean)"
    assert side.run("document.querySelectorAll('.set[data-kind=means] .pane-stamp').length") == (
        side.run("document.querySelectorAll('.set[data-kind=means] .pane').length")
    )


def test_side_by_side_follows_side_sign_and_plane(side):
    choose(side, "percentile", "97")
    choose(side, "below", "hide")
    redrawn(side)
    number = side.run("g3dvit.panes().sets()[0].layers.findIndex((l) => l.group === 'right')")
    plain = pane(side, "means", number)[0]
    side.run("document.getElementById('side').click()")
    redrawn(side)
    turned, _, label = pane(side, "means", number)
    assert "left is on the right" in label
    columns = [np.nonzero(red(p))[1].mean() / p.shape[1] for p in (plain, turned)]
    assert columns[0] < 0.45
    assert columns[1] == pytest.approx(1 - columns[0], abs=0.03)
    choose(side, "sign", "negative")
    redrawn(side)
    assert red(pane(side, "means", number)[0]).sum() == 0
    choose(side, "sign", "both")
    choose(side, "plane", "sagittal")
    redrawn(side)
    picture = pane(side, "means", number)[0]
    assert picture.shape[1] > plain.shape[1] * 0.9
    assert red(picture).sum() > 20


def test_paper_has_the_maps_side_by_side(side):
    """Printed without having scrolled there: canvases are drawn, figures are unfolded."""
    side.run("g3dvit.panes().sets().forEach((s) => s.panes.forEach((p) => p.canvas.width = 9))")
    side.run("window.dispatchEvent(new Event('beforeprint'))")
    assert side.run("g3dvit.panes().sets().every((s) => s.panes.every((p) => p.canvas.width > 99))")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    run = small_run(n_runs=2, run_name="sub-0", class_names=("1", "2"))
    path = tmp_path_factory.mktemp("runs") / "report.html"
    path.write_text(render_page(scene_of(run)), encoding="utf-8")
    return run, path


def test_one_run_alone(browser, two_runs):
    run, path = two_runs
    browser.errors.clear()
    browser.open(path)
    assert browser.run("[...document.getElementById('focus').options].map((o) => o.text)") == [
        "all runs", "sub-01", "sub-02",
    ]  # fmt: skip
    choose(browser, "view", "slices")
    choose(browser, "focus", "1")
    browser.wait("g3dvit.scene.layers[g3dvit.state.layer].kind === 'part mean'")
    browser.settle()
    table = run.predictions.iloc[12:]
    shown = "[...document.querySelectorAll('#predictions tbody tr')].filter((r) => !r.hidden)"
    assert browser.run(f"{shown}.map((r) => r.cells[1].textContent)") == ["sub-02"] * 12
    assert "sub-02, 12 of 24 volumes" in text(browser, "#focus-note")
    counts = browser.run(
        "[...document.querySelectorAll('#confusion tbody tr')].map((r) => "
        "[...r.cells].slice(1).map((c) => Number(c.textContent)))"
    )
    expected = [
        [int(((table["label"] == a) & (table["predicted"] == b)).sum()) for b in "12"] for a in "12"
    ]
    assert counts == expected
    options = browser.run("[...document.getElementById('layer').options].map((o) => o.text)")
    assert all("sub-02" in option for option in options)
    assert len(options) == 3
    assert browser.run("document.getElementById('course').value") == "1"
    assert "sub-02" in browser.run(
        "document.querySelector('#chart svg').getAttribute('aria-label')"
    )
    _, lines = saved(browser, "document.querySelector('[data-tsv=predictions]').click()")
    assert len(lines.decode().splitlines()) == 13
    choose(browser, "focus", "-1")
    browser.wait("g3dvit.scene.layers[g3dvit.state.layer].kind === 'class mean'")
    assert browser.run(f"{shown}.length") == 24
    assert browser.run("document.getElementById('focus-note').hidden") is True
    assert browser.errors == []


def test_region_tables_say_whose_they_are_beside_one_run(browser, tmp_path):
    run = small_run(n_runs=2, run_name="sub-0", class_names=("1", "2"))
    frame = pd.DataFrame({"name": [HOSTILE], "mean": [0.5]})
    run = replace(run, tables=(ResultTable("regions-a", "Regions", "regions", frame),))
    folder = Folder({}, pages=[("report_sub-01.html", "subject", "sub-01")])
    path = tmp_path / "report.html"
    path.write_text(render_page(scene_of(run, folder=folder)), encoding="utf-8")
    browser.errors.clear()
    browser.open(path)
    note = "document.getElementById('regions-note')"
    assert browser.run(f"{note}.hidden") is True
    choose(browser, "focus", "0")
    told = text(browser, "#regions-note")
    assert "of all runs together, not of sub-01 alone" in told
    assert browser.run(f"{note}.querySelector('a').getAttribute('href')") == "./report_sub-01.html"
    choose(browser, "focus", "1")
    assert "g3dvit report FOLDER --each" in text(browser, "#regions-note")
    choose(browser, "focus", "-1")
    assert browser.run(f"{note}.hidden") is True
    assert browser.errors == []


def test_the_recommended_map_opens_and_a_method_without_volumes_has_a_time_course(
    browser, tmp_path
):
    run = small_run()
    gates = replace(run.maps[0], recommended=True)
    finer = replace(run.maps[0], method="shift_averaged", title="shift-averaged", volumes=())
    finer = replace(finer, checks=(), recommended=False)
    path = tmp_path / "report.html"
    run = replace(run, maps=(finer, gates))
    path.write_text(render_page(scene_of(run)), encoding="utf-8")
    browser.errors.clear()
    browser.open(path)
    assert browser.run("document.getElementById('method').value") == "1"
    choose(browser, "method", "0")
    browser.wait("g3dvit.scene.layers[g3dvit.state.layer].method === 0")
    browser.settle()
    title = browser.run("[...document.querySelectorAll('#chart .axis')].map((t) => t.textContent)")
    assert any("shift-averaged has no map of every volume" in t for t in title)
    assert browser.run("document.querySelectorAll('#chart path').length") > 2  # the relevance too
    assert browser.errors == []


def test_forced_colours_keep_the_colour_bar(browser, path):
    browser.send(
        "Emulation.setEmulatedMedia", features=[{"name": "forced-colors", "value": "active"}]
    )
    try:
        browser.open(path)
        bar = "getComputedStyle(document.getElementById('bar-colours')).backgroundImage"
        assert "gradient" in browser.run(bar)
    finally:
        browser.send("Emulation.setEmulatedMedia", features=[])


def test_runs_stand_side_by_side(browser, two_runs):
    _, path = two_runs
    if browser.run("location.href") != path.as_uri():
        browser.open(path)
    browser.run("document.getElementById('compared').scrollIntoView({behavior: 'instant'})")
    browser.wait("g3dvit.panes().sets().length > 2")
    redrawn(browser)
    words = text(browser, ".set[data-kind=parts]")
    assert "descriptive: no test was made" in words
    titles = browser.run("g3dvit.panes().sets()[2].panes.map((p) => p.title.split(':')[0])")
    assert titles == ["sub-01", "sub-02"]


def test_all_of_a_run_is_saved_from_the_downloads(page, result, tmp_path):
    layer = layer_of(page, kind="volumes", method=0)
    name, bytes_ = saved(page, f"document.querySelector('[data-map=\"{layer}\"]').click()")
    assert name.endswith(".nii")
    (tmp_path / "a.nii").write_bytes(bytes_)
    image = nib.load(tmp_path / "a.nii")
    content = result.maps[0].volumes[0].companions["content"]
    assert image.header.get_zooms()[3] == 2.0
    np.testing.assert_allclose(
        image.get_fdata(), content, atol=0.51 * float(np.abs(content).max()) / 127
    )
    name, words = saved(page, "document.querySelector('[data-text=methods-text]').click()")
    assert name == "methods.txt"
    assert words.decode().strip() == text(page, "#methods-text").strip()
    name, lines = saved(page, "document.querySelector('[data-tsv=confusion]').click()")
    assert name == "labels_predictions.tsv"
    table = result.predictions
    assert sum(
        int(n) for line in lines.decode().splitlines()[1:] for n in line.split("\t")[1:]
    ) == (len(table))
    name, words = saved(page, "document.querySelector('[data-text=provenance]').click()")
    assert json.loads(words)["command"] == "g3dvit demo"


def cortex(page):
    """The surface's picture as numbers, (height, width, rgb)."""
    from PIL import Image

    picture = Image.open(io.BytesIO(page.picture(selector="#cortex"))).convert("RGB")
    return np.asarray(picture, dtype=int)


@pytest.fixture
def surface(page):
    choose(page, "view", "surface")
    page.wait("g3dvit.cortex() !== null")
    page.run("document.getElementById('viewer').scrollIntoView({behavior: 'instant'})")
    choose(page, "surface-view", "four")
    page.settle()
    yield page
    choose(page, "view", "slices")


def test_surface_has_evidence_on_the_sides_where_it_was_planted(surface):
    """Evidence for is planted on the left, against on the right: 4 panels, 2 rows."""
    picture = cortex(surface)
    height, width = picture.shape[:2]
    warm = red(picture)
    cold = picture[..., 2] - np.maximum(picture[..., 0], picture[..., 1]) > 40
    top_left = np.s_[: height // 2, : width // 2]
    top_right = np.s_[: height // 2, width // 2 :]
    assert warm[top_left].sum() > 100
    assert warm[top_left].sum() > 0.8 * warm.sum()
    assert cold[top_right].sum() > 100
    assert cold[top_left].sum() < 0.1 * cold.sum()
    edges = " × ".join(f"{edge:.4g}" for edge in SMALL.patch_sizes_mm)
    assert text(surface, "#surface-label").startswith(f"{edges} mm patches projected")


def test_surface_from_above_has_left_on_the_left(surface):
    choose(surface, "surface-view", "top")
    surface.settle()
    picture = cortex(surface)
    assert np.nonzero(red(picture))[1].mean() < 0.5 * picture.shape[1]
    choose(surface, "surface-view", "bottom")  # nothing of the motor cortex is seen from there
    surface.settle()
    assert red(cortex(surface)).sum() < 0.2 * red(picture).sum()


def test_surface_follows_threshold_sign_and_shape(surface):
    before = cortex(surface)
    choose(surface, "below", "hide")
    choose(surface, "percentile", "99")
    surface.settle()
    assert 0 < red(cortex(surface)).sum() < red(before).sum()
    choose(surface, "sign", "negative")
    surface.settle()
    assert red(cortex(surface)).sum() == 0
    choose(surface, "surface-shape", "pial")
    surface.settle()
    assert np.abs(cortex(surface) - before).max() > 60
    choose(surface, "surface-shape", "inflated")


def test_click_on_the_surface_moves_the_crosshair_to_that_place(surface):
    surface.run("g3dvit.goTo([-40, -22, 56])")
    surface.settle()
    found = surface.run("g3dvit.cortex().nearest()")
    assert found["side"] == "left"
    assert found["mm"] < 8
    # the ring is drawn there; a click on it comes back to within a few mm
    picture = cortex(surface)
    ring = np.abs(picture - [242, 217, 77]).max(axis=2) < 40
    rows, columns = np.nonzero(ring[: len(ring) // 2])
    box = surface.run(
        "(() => {const r = document.getElementById('cortex').getBoundingClientRect();"
        "return [r.left, r.top]})()"
    )
    surface.run("g3dvit.goTo([0, 0, 0])")
    x, y = box[0] + columns.mean(), box[1] + rows.mean()
    for kind in ("mousePressed", "mouseReleased"):
        surface.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    surface.wait("Number(document.getElementById('x').value) < -20")
    place = [surface.run(f"Number(document.getElementById('{axis}').value)") for axis in "xyz"]
    np.testing.assert_allclose(place, [-40, -22, 56], atol=8)
    surface.run("document.getElementById('cortex').dispatchEvent("
                "new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")  # fmt: skip
    assert surface.run("Number(document.getElementById('x').value)") == place[0] - 2


def test_dragging_turns_the_surface(surface):
    before = cortex(surface)
    box = surface.run(
        "(() => {const r = document.getElementById('cortex').getBoundingClientRect();"
        "return [r.left + r.width / 4, r.top + r.height / 4]})()"
    )
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
        surface.send("Input.dispatchMouseEvent", type=kind, x=box[0] + dx, y=box[1],
                     button="left", buttons=1, clickCount=1)  # fmt: skip
    surface.settle()
    assert surface.run("g3dvit.cortex().state.turn") == pytest.approx(0.4)
    assert np.abs(cortex(surface) - before).max() > 60


def test_picture_of_the_surface_is_saved_with_its_label(surface):
    name, png = saved(surface, "document.getElementById('save-picture').click()")
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)
    assert name.endswith(".png")
    assert red(picture).sum() > 100


CONTRASTS = """(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = (top, under) => [0, 1, 2].map(
    (c) => (top[3] ?? 1) * top[c] + (1 - (top[3] ?? 1)) * under[c]);
  const light = (colour) => colour.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, c) => sum + v * [0.2126, 0.7152, 0.0722][c], 0);
  const ground = (e) => {
    const own = rgb(getComputedStyle(e).backgroundColor);
    return (own[3] ?? 1) === 1 ? own
      : over(own, e.parentElement ? ground(e.parentElement) : [255, 255, 255]);
  };
  const found = {};
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.disabled || !e.getClientRects().length || e.closest("svg, script, noscript")) {
      continue;
    }
    const back = ground(e), ink = over(rgb(getComputedStyle(e).color), back);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found[e.tagName + "." + e.className + "#" + e.id] = [ratio, ink, back];
  }
  return found;
})()"""


def test_every_text_has_the_contrast_that_wcag_asks_for(page):
    show(page, layer_of(page, kind="class mean", method=1))  # with the stamp
    assert page.run(CONTRASTS) == {}


def test_focus_goes_through_the_page_in_the_order_of_the_page(page, path):
    """Tab order is that of the document, nothing jumps, and every stop is visible."""
    jumpers = page.run("[...document.querySelectorAll('[tabindex]')].filter(e => e.tabIndex > 0)"
                       ".length")  # fmt: skip
    assert jumpers == 0
    # Tab begins where one last clicked, so at the top of a page that was just opened.
    page.open(path)
    visited = []
    for _ in range(24):
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                      windowsVirtualKeyCode=9)  # fmt: skip
        visited.append(page.run("document.activeElement.id || document.activeElement.className "
                                "|| document.activeElement.getAttribute('href')"))  # fmt: skip
    assert "skip" in visited
    order = [name for name in visited if name in ("method", "layer", "view", "gl", "threshold")]
    assert order == ["method", "layer", "view", "gl", "threshold"]
    outlined = page.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outlined != "none"


def test_long_names_do_not_widen_the_page_and_the_chart_says_all_of_its_title(browser, tmp_path):
    path = tmp_path / "report.html"
    run = small_run(class_names=("left", "x" * 400))
    path.write_text(render_page(scene_of(run)), encoding="utf-8")
    browser.resize(390, 800)
    try:
        browser.open(path)
        browser.settle()
        wide, window = browser.run("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window
        ends = browser.run(
            "[...document.querySelectorAll('#chart text.axis')].map((t) => "
            "t.getBoundingClientRect().right)"
        )
        assert max(ends) <= window
    finally:
        browser.resize(900, 700)
