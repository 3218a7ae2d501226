"""Figures: the side that is red, the words on them, the stamp; the user's backend left alone."""

import io
from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from fake_run import FakeCheck, flat_background, small_run
from g3dvit.grids import ImageGrid
from g3dvit.report.display import shown_mean
from g3dvit.report.drawing import Shown, draw_slices, framed, new_figure
from g3dvit.report.figures import (
    class_mean_figure,
    colour_range,
    comparison_figure,
    cut_coords_of,
    means_figure,
)
from g3dvit.run_result import Background, Display


@pytest.fixture(scope="module")
def result():
    return small_run()


def mean_of(result, group, method=0, which="correct"):
    means = result.maps[method].class_means
    return next(m for m in means if (m.key.group, m.key.which) == (group, which))


def words_of(figure):
    """Every text of a figure, also inside axes and stamps."""
    from matplotlib.text import Text

    return " ".join(t.get_text() for t in figure.findobj(Text) if t.get_text())


def picture_of(figure):
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, dpi=60)
    return np.asarray(Image.open(file).convert("RGB"), dtype=int)


def test_figure_says_what_it_shows(result):
    figure = class_mean_figure(result, result.maps[0], mean_of(result, "right"))
    words = " ".join(words_of(figure).split())
    n = mean_of(result, "right").n
    for part in (
        "frozen gate: evidence for “right”",
        f"“right” volumes, classified correctly, n = {n}",
        "effective resolution 20 × 24 × 16 mm",
        "log-odds",
        "Red is evidence for the class",
        "not where brains differ",
        "Background: mean of the run.",
        "x=",
        "y=",
        "z=",
    ):
        assert part in words
    assert {"L", "R"} <= {t.strip() for t in words.split()}
    assert "CHECK FAILED" not in words


def test_failed_map_is_stamped_with_its_reason(result):
    words = words_of(class_mean_figure(result, result.maps[1], mean_of(result, "right", 1)))
    assert "CHECK FAILED" in words
    assert "sum to zero but for rounding" in " ".join(words.split())


def test_red_is_left_for_the_planted_left_hemisphere(result):
    """The planted place is left; the axial row, L on the left, is the lowest of the figure."""
    result = replace(result, space=None)  # slices only
    mean = mean_of(result, "right")
    figure = class_mean_figure(result, result.maps[0], mean)
    drawn = {}
    for axes in figure.axes:
        texts = [t.get_text() for t in axes.texts]
        cut = next((t for t in texts if t.startswith("z=")), None)
        if cut is not None:
            drawn[int(cut[2:])] = axes
    nearest = min(drawn, key=lambda z: abs(z - 56))
    picture = picture_of(figure)
    height, width, _ = picture.shape
    box = drawn[nearest].get_position()
    part = picture[
        round((1 - box.y1) * height) : round((1 - box.y0) * height),
        round(box.x0 * width) : round(box.x1 * width),
    ]
    red = (part[..., 0] - part[..., 2]) > 80
    blue = (part[..., 2] - part[..., 0]) > 20
    assert red.sum() > 20
    assert np.nonzero(red)[1].mean() < 0.45 * part.shape[1]
    assert np.nonzero(blue)[1].mean() > 0.55 * part.shape[1]


def test_glass_brain_only_in_template_space(result):
    mean = mean_of(result, "right")
    in_mni = class_mean_figure(result, result.maps[0], mean)
    elsewhere = class_mean_figure(replace(result, space="T1w"), result.maps[0], mean)
    assert in_mni.get_figheight() > elsewhere.get_figheight()
    assert len(in_mni.axes) > len(elsewhere.axes)


def test_display_options_are_applied_and_said(result):
    shown = replace(result, display=Display(rectify=True, percentile=95, min_max=True))
    figure = class_mean_figure(shown, shown.maps[0], mean_of(shown, "right"))
    words = " ".join(words_of(figure).split())
    assert "negative values hidden; values below the 95th percentile hidden" in words
    assert "share of the largest value" in words
    picture = picture_of(figure)
    bar = picture[:, round(0.9 * picture.shape[1]) :]
    assert ((bar[..., 2] - bar[..., 0]) > 60).sum() == 0  # no blue on a positive scale


def test_comparison_has_one_row_a_method_and_the_same_cuts(result):
    number = [m.key.group for m in result.maps[0].class_means].index("right")
    figure = comparison_figure(result, group=number)
    words = words_of(figure)
    assert "frozen gate" in words
    assert "token Grad-CAM (mean)" in words
    assert words.count("CHECK FAILED") == 1
    cuts = [t for t in words.split() if t.startswith(("x=", "y=", "z="))]
    assert len(cuts) == 8
    assert sorted(cuts[:4]) == sorted(cuts[4:])
    assert "x=-40" in cuts
    assert "y=-22" in cuts


def test_error_means_do_not_set_the_colour_scale(result):
    maps = result.maps[0]
    sound = [m for m in maps.class_means if m.key.which != "error"]
    expected = max(np.abs(shown_mean(maps, m, result.display)).max() for m in sound)
    assert colour_range(result, maps) == pytest.approx(expected)
    loud = mean_of(result, "right")
    loud = replace(loud, voxel=replace(loud.voxel, data=loud.voxel.data * 100))
    loud = replace(loud, key=replace(loud.key, which="error"))
    noisy = replace(maps, class_means=(*sound, loud))
    assert colour_range(result, noisy) == pytest.approx(expected)
    assert colour_range(result, replace(maps, class_means=(loud,))) > expected


def test_cuts_lie_inside_the_background_and_ascend():
    grid = ImageGrid(
        (20, 30, 25), np.array([[-4.0, 0, 0, 40], [0, 4, 0, -70], [0, 0, 4, -30], [0, 0, 0, 1]])
    )
    cuts = cut_coords_of(flat_background(grid), count=5)
    for n, axis in enumerate("xyz"):
        assert cuts[axis] == sorted(cuts[axis])
        assert len(set(cuts[axis])) == 5
        ends = sorted([grid.vox2world([0, 0, 0])[n], grid.vox2world(np.array(grid.shape) - 1)[n]])
        assert ends[0] < cuts[axis][0] < cuts[axis][-1] < ends[1]


def test_empty_background_and_empty_map_are_drawn(result):
    grid = result.prepared_grid
    mean = mean_of(result, "right")
    empty = replace(mean, voxel=replace(mean.voxel, data=np.zeros(grid.shape, np.float32)))
    bare = replace(result, background=Background(np.zeros(grid.shape, np.float32), grid, "nothing"))
    figure = class_mean_figure(replace(bare, space=None), bare.maps[0], empty)
    assert picture_of(figure).shape[0] > 100


def test_names_with_dollars_are_no_mathematics(result):
    figure = class_mean_figure(
        replace(result, target="$x^2$ & $"), result.maps[0], mean_of(result, "right")
    )
    assert picture_of(figure).shape[2] == 3


def test_backend_and_open_figures_are_left_alone(result):
    import matplotlib.pyplot as plt

    before, figures = matplotlib.get_backend(), plt.get_fignums()
    plt.switch_backend("svg")
    try:
        picture_of(comparison_figure(result))
        assert matplotlib.get_backend() == "svg"
        assert plt.get_fignums() == figures
    finally:
        plt.switch_backend(before)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_is_shown_beyond_a_volume_that_covers_a_part_of_the_background(axis, sign):
    grid = ImageGrid((30, 30, 30), np.diag([4.0, 4.0, 4.0, 1.0]))
    ramp = np.linspace(1, 2, 27000, dtype=np.float32).reshape(grid.shape)
    background = Background(ramp, grid, "made")
    part = np.diag([sign * 3.0, 4.0, 4.0, 1.0])  # 30 to 58 mm along every axis
    part[:3, 3] = (30 if sign > 0 else 51, 30, 30)

    def drawn(values, cut):
        shown = Shown(
            image=framed(values, part, grid),
            opacity=framed(np.ones_like(values), part, grid),
            vmax=1.0,
            signed=True,
            truth=None,
        )
        figure = new_figure(3, 3)
        draw_slices(figure, background, shown, axis, [cut], (0, 0, 1, 1))
        return picture_of(figure)

    values = np.ones((8, 8, 8), np.float32)
    for cut, inside in ((12.0, False), (44.0, True), (100.0, False)):
        same = np.array_equal(drawn(values, cut), drawn(np.zeros_like(values), cut))
        assert same != inside


def test_shares_of_frozen_gates_stand_beside_their_map():
    run = small_run()
    shares = (
        FakeCheck("position share", 0.43, 0.9, 0.99, "pass", ""),
        FakeCheck("attention steering", 0.6, None, None, "pass", ""),
    )
    gates = replace(run.maps[0], checks=tuple((*row, *shares) for row in run.maps[0].checks))
    words = "position share 43%, attention steering 0.60"
    alone = class_mean_figure(run, gates, gates.class_means[0])
    assert any(f"position left out ({words})" in text.get_text() for text in alone.texts)
    beside = comparison_figure(replace(run, maps=(gates, *run.maps[1:])))
    said = [" ".join(text.get_text().split()) for text in beside.texts]
    assert sum(words in text for text in said) == 1


def texts_of(figure):
    return [" ".join(text.get_text().split()) for text in figure.texts]


def test_figures_of_frozen_gates_say_that_they_show_the_content():
    run = small_run()
    gates, cam = run.maps
    for figure in (
        class_mean_figure(run, gates, gates.class_means[0]),
        means_figure(run, gates),
        comparison_figure(run),
    ):
        assert any(text.startswith(("content of frozen", "Class means side by side: content of"))
                   for text in texts_of(figure))  # fmt: skip
    assert not any(
        "content of" in text for text in texts_of(class_mean_figure(run, cam, cam.class_means[0]))
    )


@pytest.mark.parametrize("title", ["weighted shift-averaged relevance", "W" * 80, "w" * 400])
def test_titles_end_inside_the_figure(result, title):
    figure = means_figure(result, replace(result.maps[0], title=title))
    figure.canvas.draw()
    head = next(t for t in figure.texts if t.get_text().startswith("Class means"))
    assert head.get_window_extent().x1 <= figure.bbox.x1


def test_a_failed_check_of_the_run_stands_below_the_pictures():
    words = "This model cannot be told from chance, so its maps show nothing. " * 3
    failed = (FakeCheck("better than chance", 0.5, None, None, "fail", words),)
    run = replace(small_run(), checks=failed)
    for figure in (comparison_figure(run), means_figure(run, run.maps[0])):
        renderer = figure.canvas.get_renderer()
        height = figure.bbox.height
        told = next(t for t in figure.texts if t.get_text().startswith("CHECK FAILED: better"))
        top = told.get_window_extent(renderer).y1 / height
        pictures = [axes.get_position().y0 for axes in figure.axes]
        assert top < min(pictures)
