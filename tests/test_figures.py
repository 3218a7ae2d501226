"""Figures for papers: sides, numbers, words, and that nothing of the user's is touched."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.image import imread

from fake_run import SMALL, fake_run, flat_background, grid_mm, template_background
from g3dvit import RelevanceMap, figures
from g3dvit.checks import Check
from g3dvit.errors import InputError, SpaceError
from g3dvit.folders import output_folder
from g3dvit.grids import ImageGrid
from g3dvit.maps import content_of
from g3dvit.outputs import write_run
from g3dvit.report.display import shown_mean
from g3dvit.report.drawing import save_figure
from g3dvit.report.figure_maps import surface_values
from g3dvit.report.figure_numbers import confusion_counts
from g3dvit.shown import Parcellation

RUN = fake_run(patches=SMALL, n_volumes=20, background=flat_background(SMALL.volume))
GRID = grid_mm((20, 24, 19), 9.0, (-85.0, -120.0, -66.0))


def spot(place: tuple[float, float, float], grid: ImageGrid = GRID) -> RelevanceMap:
    xyz = grid.vox2world(np.moveaxis(np.indices(grid.shape), 0, -1))
    values = np.exp(-((xyz - place) ** 2).sum(-1) / (2 * 9.0**2)).astype(np.float32)
    about = {"units": "log-odds", "space": "MNI152NLin6Asym", "method": "frozen_gate"}
    return RelevanceMap(values, grid, about, (18, 18, 18))


def picture(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    buffer.seek(0)
    return imread(buffer)[..., :3]


def red_column(figure) -> float:
    """Return the mean column of red pixels in the last quarter of the glass brain (from above)."""
    image = picture(figure)
    width = image.shape[1]
    part = image[:, round(0.67 * width) : round(0.87 * width)]
    red = (part[..., 0] > 0.5) & (part[..., 1] < 0.35) & (part[..., 2] < 0.35)
    assert red.any()
    return float(np.nonzero(red)[1].mean())


def words_of(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text)).replace("\n", " ")


def test_right_is_right_unless_asked_otherwise_however_the_file_is_stored() -> None:
    right, left = (red_column(figures.glass_brain(spot((x, -20, 50)))) for x in (45, -45))
    assert right > left + 10
    turned = red_column(figures.glass_brain(spot((45, -20, 50)), radiological=True))
    assert turned == pytest.approx(left, abs=3)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = GRID.shape[0] - 1
    las = ImageGrid(GRID.shape, GRID.affine @ flip)
    assert las.axcodes == "LAS"
    stored = red_column(figures.glass_brain(spot((45, -20, 50), las)))
    assert stored == pytest.approx(right, abs=1)


def test_the_surface_shows_a_place_on_its_own_hemisphere() -> None:
    values = surface_values(spot((-45, -20, 50)))
    assert values["left"].max() > 0.5 and values["right"].max() < 0.05
    constant = RelevanceMap(np.full(GRID.shape, 3, np.float32), GRID)
    both = np.concatenate(list(surface_values(constant).values()))
    assert np.median(both) == pytest.approx(3)  # the cortex lies in the map
    text = words_of(figures.surface(spot((-45, -20, 50))))
    assert "18 × 18 × 18 mm projected onto the cortex" in text and "left, lateral" in text


def test_maps_without_a_template_have_no_glass_brain_and_no_surface() -> None:
    one = replace(spot((0, 0, 0)), metadata={"space": "T1w"})
    for draw in (figures.glass_brain, figures.surface):
        with pytest.raises(SpaceError, match="T1w; nothing is warped"):
            draw(one)
    assert "effective resolution" in words_of(figures.mosaic(one))


def test_thresholds_and_units_are_told() -> None:
    one = spot((0, -20, 30))
    text = words_of(figures.mosaic(one, percentile=90))
    value = np.percentile(one.data[one.data > 0], 90)
    assert f"|{value:.3g}| log-odds (90th percentile)" in text
    assert "not higher" in text and "frozen_gate" in text
    assert "Hidden below |0.25| log-odds (given)" in words_of(figures.mosaic(one, threshold=0.25))
    assert "Hidden" not in words_of(figures.mosaic(one))
    for wrong in ({"threshold": 1, "percentile": 5}, {"percentile": 101}, {"vmax": 0.0}):
        with pytest.raises(InputError):
            figures.mosaic(one, **wrong)


def test_a_failed_check_is_stamped_on_every_map() -> None:
    bad = replace(
        spot((0, -20, 30)), metadata={**spot((0, 0, 0)).metadata, "stamp": "CHECK FAILED: x"}
    )
    for draw in (figures.mosaic, figures.glass_brain, figures.surface):
        assert "CHECK FAILED" in words_of(draw(bad))
    cam = next(m for m in RUN.maps if m.method == "token_gradcam")
    assert "CHECK FAILED" in words_of(figures.mosaic(RUN, method=cam.method, group="right"))
    assert "CHECK FAILED" not in words_of(figures.mosaic(RUN, method="frozen_gate"))


def test_confusion_counts_are_pandas_counts() -> None:
    table = RUN.predictions
    expected = pd.crosstab(table["label"], table["predicted"])
    found = confusion_counts(RUN)
    for label in found.index:
        for predicted in found.columns:
            assert found.loc[label, predicted] == expected.loc[label, predicted]
    text = words_of(figures.confusion_matrix(RUN))
    recall = [(table["predicted"] == c)[table["label"] == c].mean() for c in RUN.model.class_names]
    assert f"Balanced accuracy {np.mean(recall):.2f}" in text
    with pytest.raises(InputError, match="no volume has a label"):
        figures.confusion_matrix(replace(RUN, predictions=table.drop(columns="label")))


def test_no_volume_is_dropped_and_a_failed_run_is_stamped() -> None:
    table = RUN.predictions.copy()
    table.loc[0, "label"] = "neither"
    counts = confusion_counts(replace(RUN, predictions=table))
    assert counts.to_numpy().sum() == len(table) and "neither" in counts.index
    chance = Check("better than chance", 0.4, None, 0.5, "fail", "This model guesses.")
    assert "guesses" in words_of(figures.mosaic(replace(RUN, checks=(chance,))))
    assert "guesses" not in words_of(figures.mosaic(RUN, method="frozen_gate"))


def test_values_that_are_no_numbers_are_told() -> None:
    one = spot((0, -20, 30))
    values = one.data.copy()
    values[3, 4, 5] = np.nan
    text = words_of(figures.mosaic(replace(one, data=values)))
    assert "1 values are no numbers" in text
    assert "nan" not in text.lower()  # the colour scale still ends in a number
    with pytest.raises(InputError, match="no table of regions"):
        figures.region_bars("nowhere.tsv")


def test_what_a_figure_cannot_take_is_told() -> None:
    one = spot((0, -20, 30))
    with pytest.raises(InputError, match="at least 0, was given nan"):
        figures.mosaic(one, threshold=float("nan"))
    for draw in (figures.time_course, figures.confusion_matrix, figures.method_comparison):
        with pytest.raises(InputError, match="name the run"):
            draw(one)


def test_the_time_course_draws_the_probabilities() -> None:
    figure = figures.time_course(RUN)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name in RUN.model.class_names:
        np.testing.assert_allclose(lines[name].get_ydata(), RUN.predictions[f"p_{name}"], atol=1e-4)
    wrong = RUN.predictions["label"] != RUN.predictions["predicted"]
    assert len(lines["error"].get_ydata()) == wrong.sum()
    with pytest.raises(InputError, match="counted from 0"):
        figures.time_course(RUN, run=1)


def test_the_time_course_draws_the_relevance_of_the_peaks_patch() -> None:
    figure = figures.time_course(RUN)
    (line,) = [x for x in figure.axes[-1].lines if x.get_label() == "relevance"]
    gates = next(m for m in RUN.maps if m.method == "frozen_gate")
    # "right" is planted at (-40, -22, 56) mm: the patch whose box of 20 x 24 x 16 mm holds it.
    middle = SMALL.to_image_grid()
    at = tuple(np.floor(middle.world2vox([-40.0, -22.0, 56.0]) + 0.5).astype(int))
    content = gates.volumes[0].companions["content"]  # as in every picture
    np.testing.assert_allclose(line.get_ydata(), content[at], rtol=1e-6)
    x, y, z = (round(v) for v in middle.vox2world(at))
    text = words_of(figure)
    assert f"({x}, {y}, {z}) mm" in text and "20 × 24 × 16 mm" in text and "log-odds" in text
    assert "CHECK FAILED" not in text and "evidence for “right”" in text
    predicted = replace(RUN, volume_target="predicted class")
    assert "evidence for the predicted class" in words_of(figures.time_course(predicted))
    assert "CHECK FAILED" in words_of(figures.time_course(RUN, method="token_gradcam"))


def test_the_time_course_of_a_region_is_its_mean() -> None:
    with pytest.raises(InputError, match="no atlas"):
        figures.time_course(RUN, region="left")
    grid = SMALL.volume
    x = grid.vox2world(np.moveaxis(np.indices(grid.shape), 0, -1))[..., 0]
    atlas = Parcellation("halves", np.where(x < 0, 1, 2).astype(np.int32), grid, {1: "l", 2: "r"})
    run = replace(RUN, parcellation=atlas)
    figure = figures.time_course(run, region="l")
    (line,) = [x for x in figure.axes[-1].lines if x.get_label() == "relevance"]
    gates = next(m for m in RUN.maps if m.method == "frozen_gate")
    fine = content_of(gates.volumes[0]).to_grid(grid, interpolation="nearest").data[x < 0]
    np.testing.assert_allclose(line.get_ydata(), fine.mean(axis=0), atol=1e-5)
    with pytest.raises(InputError, match="no region 'x'; it has l, r"):
        figures.time_course(run, region="x")


def test_volumes_that_do_not_follow_each_other_are_not_joined() -> None:
    kept = [0, 1, 2, 7, 12, 13]
    table = RUN.predictions.iloc[kept].reset_index(drop=True)
    inputs = (replace(RUN.inputs[0], time_points=tuple(kept)),)
    gates = next(m for m in RUN.maps if m.method == "frozen_gate")
    fewer = replace(gates.volumes[0], data=gates.volumes[0].data[..., kept], companions={})
    maps = (replace(gates, volumes=(fewer,)),)
    figure = figures.time_course(replace(RUN, predictions=table, inputs=inputs, maps=maps))
    for axes in (figure.axes[0], figure.axes[-1]):
        line = axes.lines[0]
        y = line.get_ydata()
        assert list(np.flatnonzero(np.isnan(y))) == [3, 5]
        alone = [x for x in axes.lines if x.get_marker() == "."]
        assert alone and list(alone[0].get_xdata()) == [2.0 * 7 + 1.0]
    assert "Lines are broken" in words_of(figure)
    assert "Lines are broken" not in words_of(figures.time_course(RUN))


def test_bars_show_share_density_resolution_and_flag_what_is_below_a_patch() -> None:
    table = pd.DataFrame(
        {
            "name": ["a", "b", "tiny", "tinier", "outside"],
            "rank": [1, 2, np.nan, np.nan, np.nan],
            "mean": [0.5, -0.4, 0.3, -0.9, np.nan],
            "share": [0.123, 0.05, 0.01, 0.02, np.nan],
            "density": [3.14, 0.8, 1.0, 2.0, np.nan],
            "smaller_than_patch": ["no", "no", "yes", "yes", "no"],
            "resolution_mm": ["18 x 18 x 13.5"] * 5,
        }
    )
    figure = figures.region_bars(table, units="logit", small=1, title="$x$ & <b>")
    text = words_of(figure)
    bars = figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.5, -0.4, -0.9]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, False, True]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["a", "b", "tinier †"]
    assert "12.3 %" in text and "3.1" in text and "18 × 18 × 13.5 mm" in text
    assert "1 of 2, those of the largest" in text and "3 of 5 regions are not ranked" in text
    assert "not told" in words_of(figures.region_bars(table.drop(columns="resolution_mm")))


def test_a_map_without_a_sidecar_has_an_unknown_resolution(tmp_path: Path) -> None:
    one = spot((0, -20, 30))
    path = one.save(tmp_path / "a_relevance.nii.gz")
    assert "effective resolution 18 × 18 × 18 mm" in words_of(figures.mosaic(path))
    path.with_name("a_relevance.json").unlink()
    text = words_of(figures.mosaic(path))
    assert "effective resolution unknown, voxel size 9 × 9 × 9 mm" in text


def test_bars_are_the_ranked_regions_in_order(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "name": ["a", "tiny", "<b>", "$c_1$"],
            "rank": [2, np.nan, 1, 3],
            "mean": [-0.4, 9.0, 0.5, 0.1],
            "mean_low": [-0.5, np.nan, 0.4, 0.0],
            "mean_high": [-0.3, np.nan, 0.6, 0.2],
            "p_corrected": [0.2, np.nan, 0.01, 0.9],
        }
    )
    figure = figures.region_bars(table, units="logit")
    axes = figure.axes[0]
    assert [p.get_width() for p in axes.patches] == [0.5, -0.4, 0.1]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names[0] == "<b> *" and names[1] == "a" and "c_1" in names[2]
    assert "1 of 4 regions are not ranked" in words_of(figure)
    path = tmp_path / "regions.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    assert [p.get_width() for p in figures.region_bars(path).axes[0].patches] == [0.5, -0.4, 0.1]
    with pytest.raises(InputError, match="no region is ranked"):
        figures.region_bars(table.assign(rank=np.nan))
    table.to_csv(path, sep="\t", index=False, na_rep="")  # as other programs write
    assert len(figures.region_bars(path).axes[0].patches) == 3
    with pytest.raises(InputError, match="is absent"):
        figures.region_bars(table.drop(columns="mean"))


def test_methods_side_by_side_and_unknown_names() -> None:
    text = words_of(figures.method_comparison(RUN, group="left"))
    assert "left" in text and "Methods side by side" in text
    assert "effective resolution 20 × 24 × 16 mm" in text
    for call in (
        lambda: figures.method_comparison(RUN, group="up"),
        lambda: figures.mosaic(RUN, method="lime"),
        lambda: figures.mosaic(RUN, group="up"),
        lambda: figures.mosaic(spot((0, 0, 0)), group="left"),
        lambda: figures.time_course("nowhere"),
    ):
        with pytest.raises(InputError):
            call()


def test_hostile_and_long_names_stay_words(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "$\\frac{a}{b}$ & a very long name of a class " * 2)
    run = fake_run(
        patches=SMALL, n_volumes=20, background=flat_background(SMALL.volume), class_names=names
    )
    for figure in (figures.confusion_matrix(run), figures.time_course(run), figures.mosaic(run)):
        png, svg = save_figure(figure, tmp_path / "figure")
        assert png.stat().st_size > 5000 and "<script>alert" not in svg.read_text()


def test_nothing_of_the_user_is_touched_and_a_figure_is_the_same_file_again(tmp_path: Path) -> None:
    backend, before, open_figures = mpl.get_backend(), dict(mpl.rcParams), plt.get_fignums()
    one = spot((0, -20, 30))
    for draw in (figures.mosaic, figures.glass_brain, figures.surface):
        draw(one)
    first = [path.read_bytes() for path in save_figure(figures.mosaic(one), tmp_path / "a")]
    second = [path.read_bytes() for path in save_figure(figures.mosaic(one), tmp_path / "b")]
    assert first == second
    assert mpl.get_backend() == backend and plt.get_fignums() == open_figures
    assert dict(mpl.rcParams) == before


def test_a_run_writes_its_figures_as_png_and_svg(tmp_path: Path) -> None:
    run = fake_run(n_volumes=10, background=template_background())
    one = replace(run.maps[0], recommended=True)
    with output_folder(tmp_path / "maps") as part:
        write_run(replace(run, maps=(one,)), part)
    names = {path.name for path in (tmp_path / "maps" / "figures").iterdir()}
    for kind in ("png", "svg"):
        assert f"confusion.{kind}" in names
        assert sum(name.endswith(f"_timecourse.{kind}") for name in names) == 1
        assert sum(name.endswith(f"_mosaic.{kind}") for name in names) == 2
        assert sum(name.endswith(f"_surface.{kind}") for name in names) == 2
        assert sum(name.endswith(f"_glass.{kind}") for name in names) == 2
        assert sum(name.endswith(f"_comparison.{kind}") for name in names) == 2
        assert sum(name.endswith(f"_means.{kind}") for name in names) == 1
    sizes = [path.stat().st_size for path in (tmp_path / "maps" / "figures").iterdir()]
    assert max(sizes) < 2_500_000
    assert "mosaic" in figures.__all__
    assert words_of(figures.mosaic(tmp_path / "maps", group="left"))


def test_figures_of_a_run_are_of_the_target_and_say_that_content_is_shown() -> None:
    run = fake_run(patches=SMALL, n_volumes=12, background=flat_background(SMALL.volume))
    assert run.groups[0].group != run.target
    assert f"“{run.target}” volumes, classified correctly" in words_of(
        figures.method_comparison(run)
    )
    assert "content of frozen" in words_of(figures.mosaic(run, method="frozen_gate"))
    # Where a method is not finer than a patch, content is what is drawn, too.
    gates = next(maps for maps in run.maps if maps.method == "frozen_gate")
    mean = next(mean for mean in gates.class_means if "content" in mean.patch.companions)
    coarse = replace(gates, fine=False)
    voxel = mean.patch.to_grid(run.prepared_grid)
    shown = shown_mean(coarse, replace(mean, voxel=voxel), run.display)
    np.testing.assert_allclose(shown, content_of(mean.patch).to_grid(run.prepared_grid).data)
