"""Maps against outside evidence: numbers against scipy, places by the affine, chance."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.reporting import get_clusters_table
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr, percentileofscore, spearmanr

from fake_run import SMALL, fake_run, flat_background
from g3dvit.cli import main
from g3dvit.compare import (
    CompareOptions,
    Comparison,
    add_to_run,
    agreement,
    clusters_both_ways,
    compare_maps,
    compare_reference,
    disagreements,
    load_reference,
    open_reference,
    tables_of,
)
from g3dvit.compare.agreement import highest, with_signs
from g3dvit.compare.faithful import evaluation_beside
from g3dvit.errors import GridError, ImageError, InputError, OutputError
from g3dvit.folders import output_folder
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.outputs import write_run
from g3dvit.resampling import average_array

SHAPE = (8, 9, 7)
GRID = ImageGrid(
    SHAPE, np.array([[15.0, 0, 0, -52], [0, 14, 0, -60], [0, 0, 16, -40], [0, 0, 0, 1]])
)
NO_P = CompareOptions(n_surrogates=0)


def smooth(seed: int, sigma: float = 1.2) -> np.ndarray:
    wide = np.random.default_rng(seed).standard_normal([n + 12 for n in SHAPE])
    return gaussian_filter(wide, sigma)[6:-6, 6:-6, 6:-6]


def relevance(seed: int = 0) -> RelevanceMap:
    return RelevanceMap(smooth(seed).astype(np.float32), GRID, {"units": "log-odds"})


def reference_on(kind: str) -> tuple[np.ndarray, ImageGrid]:
    """A function of the place alone, on 5 mm voxels stored in several ways."""
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [-60, -69, -49]
    shape = (28, 30, 26)
    if kind == "LAS":
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = shape[0] - 1
        affine = affine @ flip
    if kind == "permuted":
        affine, shape = affine[:, [2, 0, 1, 3]], (26, 28, 30)
    grid = ImageGrid(shape, affine)
    x, y, z = np.moveaxis(grid.vox2world(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    return np.sin(x / 14 + 0.4) + np.cos(y / 17) + 0.02 * z, grid


def test_numbers_equal_scipys() -> None:
    one, other = smooth(0).ravel(), smooth(1).ravel() + 0.5 * smooth(0).ravel()
    points = GRID.vox2world(np.argwhere(np.ones(SHAPE, bool)))
    found = agreement(one, other, points, n_surrogates=0)
    assert found.pearson == pytest.approx(pearsonr(one, other).statistic)
    assert found.spearman == pytest.approx(spearmanr(one, other).statistic)
    assert np.isnan(found.p_pearson) and found.n_places == one.size
    for overlap in found.overlaps:
        k = round(overlap.share * one.size)
        a, b = set(np.argsort(one)[-k:]), set(np.argsort(other)[-k:])
        assert overlap.dice == pytest.approx(2 * len(a & b) / (len(a) + len(b)))


def test_means_over_patches_equal_a_loop() -> None:
    values, grid = reference_on("RAS")
    found = average_array(values, grid, GRID)
    sums, counts = np.zeros(SHAPE), np.zeros(SHAPE)
    for shift in np.ndindex(4, 4, 4):
        part = (np.array(shift) + 0.5) / 4 - 0.5
        at = np.rint(GRID.world2vox(grid.vox2world(np.argwhere(values == values) + part)))
        held = ((at >= 0) & (at < SHAPE)).all(axis=1)
        where = tuple(at[held].astype(int).T)
        np.add.at(sums, where, values.ravel()[held])
        np.add.at(counts, where, 1)
    inside = counts / 64 * 125 > 0.6 * 15 * 14 * 16
    # The loop divides voxels into quarters, the function as finely as it finds right.
    np.testing.assert_allclose(
        found[inside], (sums / np.maximum(counts, 1))[inside], atol=0.12
    )  # of values that range over 4
    assert inside.sum() > 200


@pytest.mark.parametrize("kind", ["LAS", "permuted"])
def test_how_a_reference_is_stored_does_not_matter(kind: str) -> None:
    one = relevance()
    a = compare_maps(one, *reference_on("RAS"), options=NO_P)
    b = compare_maps(one, *reference_on(kind), options=NO_P)
    assert a.found == b.found or a.found.spearman == pytest.approx(b.found.spearman, abs=1e-6)
    np.testing.assert_allclose(a.reference, b.reference, atol=1e-6)
    flipped = RelevanceMap(
        one.data[::-1],
        ImageGrid(SHAPE, GRID.affine @ np.array(
            [[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        )),
    )  # fmt: skip
    c = compare_maps(flipped, *reference_on("RAS"), options=NO_P)
    assert c.found.spearman == pytest.approx(a.found.spearman, abs=1e-6)


def test_a_swap_of_left_and_right_is_told() -> None:
    values, grid = reference_on("RAS")
    own = np.nan_to_num(average_array(values, grid, GRID))
    one = RelevanceMap((own + 1e-3).astype(np.float32), GRID)
    assert compare_maps(one, values, grid, options=NO_P).warnings == ()
    swapped = ImageGrid(grid.shape, np.diag([-1.0, 1, 1, 1]) @ grid.affine)
    found = compare_maps(one, values, swapped, options=NO_P)
    assert "left and right may be swapped" in found.warnings[0]
    assert found.mirrored > 0.9


def test_a_swap_is_told_of_a_map_whose_evidence_lies_in_few_patches() -> None:
    """As frozen gates are: one hand area holds nearly all, and ranks are those of noise."""
    place = np.argwhere(np.ones(SHAPE, bool))
    x = GRID.vox2world(place)[:, 0].reshape(SHAPE)
    left = smooth(1) * 1e-3
    left[1, 4, 3] = 2.0  # at x = -37
    right = smooth(2) * 1e-3
    right[np.abs(x[:, 4, 3] - 38).argmin(), 4, 3] = 2.0
    one = RelevanceMap(left.astype(np.float32), GRID)
    found = compare_maps(one, right[::-1].copy(), GRID, options=NO_P)
    assert found.warnings == () and found.found.pearson > 0.9
    found = compare_maps(one, right, GRID, options=NO_P)
    assert found.found.pearson < 0.1 and found.mirrored < 0.3
    assert "agrees better when mirrored (Pearson" in found.warnings[0]
    assert len(found.warnings) == 1


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_clusters_both_ways_equal_nilearns_with_what_the_other_has(share: float) -> None:
    one = relevance(3)
    values, grid = reference_on("LAS")
    found = compare_maps(one, values, grid, options=NO_P)
    frame = clusters_both_ways(found, share=share)
    k = round(share * found.places.sum())
    images = {"map": np.asarray(one.data, float), "reference": found.reference}
    for word, other in (("map", "reference"), ("reference", "map")):
        own = np.where(found.places, images[word], -9)
        last = np.sort(own[found.places])[-k]
        shifted = own - last + 1  # above 0 as nilearn needs it
        table, (labels,) = get_clusters_table(
            nib.Nifti1Image(shifted, GRID.affine), stat_threshold=1 - 1e-9, return_label_maps=True
        )
        main = table[table["Cluster Size (mm3)"].astype(str) != ""].head(10)
        rows = frame[frame["clusters_of"] == word].reset_index(drop=True)
        assert len(rows) == len(main) and list(rows["cluster"]) == list(range(1, len(main) + 1))
        places = main[["X", "Y", "Z"]].to_numpy(float)
        np.testing.assert_allclose(rows[["x_mm", "y_mm", "z_mm"]], places, atol=0.06)
        numbers = np.asarray(labels.dataobj)
        top = set(np.argsort(images[other][found.places])[-k:])
        order = np.flatnonzero(found.places.ravel())
        for n, row in rows.iterrows():
            at = tuple(np.rint(GRID.world2vox(places[n])).astype(int))
            inside = numbers == numbers[at]
            assert row["n_patches"] == inside.sum()
            assert row["volume_mm3"] == pytest.approx(inside.sum() * 15 * 14 * 16)
            for name in images:
                assert row[f"{name}_mean"] == pytest.approx(images[name][inside].mean(), abs=1e-5)
                assert row[f"{name}_at_peak"] == pytest.approx(images[name][at], abs=1e-5)
            there = images[other][inside].mean()
            percent = percentileofscore(images[other][found.places], there, kind="mean")
            assert row["other_percentile"] == pytest.approx(percent, abs=0.06)
            members = np.flatnonzero(inside.ravel()[order])
            assert row["shared"] == pytest.approx(np.mean([m in top for m in members]), abs=0.0006)
    with pytest.raises(InputError, match="above 0 and below 1"):
        clusters_both_ways(found, share=1.0)


def test_a_cluster_of_one_map_alone_is_told_from_one_of_both() -> None:
    values = 0.01 * smooth(0)
    values[1:3, 1:3, 1:3] += 5  # both
    own, other = values.copy(), values.copy()
    own[5:7, 6:8, 4:6] += 3
    other[1:3, 6:8, 4:6] += 3
    one = RelevanceMap(own.astype(np.float32), GRID)
    everywhere = (np.ones(SHAPE, bool), GRID)
    named = replace(NO_P, mask_name="all_mask.nii.gz")
    found = compare_maps(one, other, GRID, mask=everywhere, options=named)
    assert "in the mask all_mask.nii.gz" in found.rule
    frame = clusters_both_ways(found, share=16 / own.size)
    assert list(frame["clusters_of"]) == ["map", "map", "reference", "reference"]
    assert list(frame["shared"]) == [1, 0, 1, 0]
    assert frame["other_percentile"][0] > 95 and list(frame["n_patches"]) == [8, 8, 8, 8]
    np.testing.assert_allclose(frame["map_mean"], [5, 3, 5, 0], atol=0.1)
    np.testing.assert_allclose(frame["reference_mean"], [5, 0, 5, 3], atol=0.1)
    alone = frame.loc[1, ["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    at = np.rint(GRID.world2vox(alone)).astype(int)
    assert ((at >= [5, 6, 4]) & (at < [7, 8, 6])).all()


def test_what_has_nothing_in_common_is_rarely_called_alike() -> None:
    points = GRID.vox2world(np.argwhere(np.ones(SHAPE, bool)))
    low = 0
    for study in range(30):
        one, other = smooth(100 + study).ravel(), smooth(500 + study).ravel()
        low += agreement(one, other, points, n_surrogates=99, seed=study).p_spearman < 0.05
    assert low <= 6  # of 30 at .05; more than 6 with probability 5e-4
    alike = agreement(one, one + 0.1 * other, points, n_surrogates=99)
    assert alike.p_spearman == alike.p_pearson == pytest.approx(0.01)
    assert alike.overlaps[1].dice > 0.8 > 2 * alike.overlaps[1].expected
    assert alike.overlaps[1].p <= 0.02


def test_signs() -> None:
    values = np.array([-2.0, 0.5, 1.0])
    assert list(with_signs(values, "positive")) == [0, 0.5, 1]
    assert list(with_signs(values, "absolute")) == [2, 0.5, 1]
    assert list(highest(values, 0.34)) == [False, False, True]
    with pytest.raises(InputError, match="signed, positive, absolute"):
        with_signs(values, "all")  # type: ignore[arg-type]
    one = relevance()
    negative = -np.asarray(one.data, dtype=np.float64)
    signed = compare_maps(one, negative, GRID, options=NO_P).found
    absolute = compare_maps(one, negative, GRID, options=CompareOptions("absolute", n_surrogates=0))
    assert signed.spearman == pytest.approx(-1) and absolute.found.spearman == pytest.approx(1)


def test_places_that_differ_are_listed_both_ways() -> None:
    one = relevance(2)
    reference = smooth(3)
    found = compare_maps(one, reference, GRID, options=NO_P)
    frame = disagreements(found, share=0.05)
    k = round(0.05 * one.data.size)
    top = set(np.argsort(one.data.ravel())[-k:]) - set(np.argsort(reference.ravel())[-k:])
    mine = frame[frame["where"] == "map only"]
    assert len(mine) == min(10, len(top))
    first = mine.iloc[0]
    at = np.rint(GRID.world2vox(first[["x_mm", "y_mm", "z_mm"]].to_numpy(float))).astype(int)
    assert one.data[tuple(at)] == pytest.approx(first["map"])
    assert np.ravel_multi_index(tuple(at), SHAPE) in top
    assert reference[tuple(at)] == pytest.approx(first["reference_value"])


def test_a_fine_map_is_compared_at_its_own_resolution() -> None:
    coarse = relevance()
    fine = coarse.to_grid(
        ImageGrid((40, 42, 37), np.array(
            [[3.0, 0, 0, -58], [0, 3, 0, -65.5], [0, 0, 3, -46.5], [0, 0, 0, 1]]
        ))
    )  # fmt: skip
    found = compare_maps(fine, *reference_on("RAS"), options=NO_P)
    assert found.relevance.grid.voxel_sizes.min() >= 14
    assert found.found.n_places <= 8 * 9 * 8


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    values, grid = reference_on("RAS")
    far = ImageGrid(grid.shape, grid.affine + np.array([[0, 0, 0, 900]] * 3 + [[0] * 4]))
    with pytest.raises(GridError, match="same space"):
        compare_maps(relevance(), values, far, options=NO_P)
    path = tmp_path / "same.nii.gz"
    nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4)).to_filename(path)
    with pytest.raises(ImageError, match="is no reference"):
        load_reference(path)
    points = np.random.default_rng(0).random((30, 3))
    with pytest.raises(InputError, match="the map has the same value at all 30"):
        agreement(np.ones(30), np.arange(30.0), points)
    with pytest.raises(InputError, match="above 0 and below 1"):
        agreement(np.arange(30.0), np.arange(30.0), points, shares=(1.5,), n_surrogates=0)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "maps"
    run = fake_run(patches=SMALL, n_volumes=20, background=flat_background(SMALL.volume))
    with output_folder(folder) as part:
        write_run(run, part)
    return folder


def test_the_command_compares_a_run_and_the_page_shows_it(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = next((run_folder / "class_means").glob("*class-right*res-voxel_desc-frozengate*.nii.gz"))
    image = nib.load(mean)
    zmap = tmp_path / "space-T1w_zmap.nii.gz"
    nib.Nifti1Image(10 * np.asarray(image.dataobj), image.affine).to_filename(zmap)
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "evaluation.json").write_text('{"generator": {"name": "g3dvit"}}')
    (evaluation / "evaluation.tsv").write_text(
        "map\tsrg\trelative_srg\nfrozen_gate\t3.5\t0.9\ntoken_gradcam\t1\tn/a\n"
    )
    call = ["compare", str(run_folder), str(zmap), "--surrogates", "39"]
    assert main([*call, "--evaluation", str(evaluation)]) == 0
    said = capsys.readouterr()
    assert "nothing is warped" in said.err
    table = pd.read_csv(run_folder / "tables" / "compare.tsv", sep="\t").set_index("map")
    best = table["pearson"].idxmax()  # of two noisy maps with one peak
    assert "right" in best and "frozen" in best and table["dice_5"][best] > 0.2
    frozen = table[[("frozen" in name) for name in table.index]]
    assert frozen.index.tolist() == [f"content of frozen gate, {c}" for c in ("left", "right")]
    assert (frozen["srg"] == 3.5).all() and (frozen["relative_srg"] == 0.9).all()
    assert all(("CHECK FAILED" in table["warnings"][n]) == ("frozen" not in n) for n in table.index)
    about = json.loads((run_folder / "tables" / "compare.json").read_text())
    assert set(about["columns"]) == {*table.columns, "map"} and about["section"] == "comparison"
    assert "the content is compared" in about["note"]
    svg = (run_folder / "figures" / "compare-1.svg").read_text()
    assert "Spearman" in svg and str(tmp_path) not in svg
    of = {name: n for n, name in enumerate(table.index, 1)}
    for name, number in of.items():
        svg = (run_folder / "figures" / f"compare-{number}.svg").read_text()
        assert ("(CHECK FAILED)" in svg) == ("frozen" not in name)
    assert main(call) == 1 and "--overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["report", str(run_folder)]) == 0
    assert "Agreement with outside evidence" in (run_folder / "report.html").read_text()
    out = tmp_path / "one"
    single = ["compare", str(mean), str(zmap), "-o", str(out), "--surrogates", "0"]
    assert main(single) == 0 and (out / "tables" / "compare-places.tsv").exists()
    assert main(["compare", str(mean), str(zmap)]) == 1
    assert "-o DIR" in capsys.readouterr().err


@pytest.mark.real_data
def test_a_real_z_map_agrees_with_itself_and_less_with_its_mirror_image() -> None:
    folder = os.environ.get("G3DVIT_TEST_DATA")
    if not folder:
        pytest.skip("G3DVIT_TEST_DATA names no folder")
    path = next(Path(folder).rglob("zmap_stim-gt-rest.nii.gz"))
    values, grid = load_reference(path)
    i, j, k = (np.array(grid.shape) // 4).tolist()
    affine = grid.affine @ np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = grid.vox2world([1.5, 1.5, 1.5])
    patches = ImageGrid((i, j, k), affine)
    one = RelevanceMap(
        np.nan_to_num(average_array(values, grid, patches)).astype(np.float32), patches
    )
    found = compare_maps(one, values, grid, options=CompareOptions(n_surrogates=99))
    assert found.found.spearman > 0.99 and found.found.p_spearman == pytest.approx(0.01)
    assert found.mirrored < found.found.spearman


def test_a_thresholded_reference_is_compared_in_the_whole_brain() -> None:
    reference = smooth(2)
    cut = np.where(reference > np.percentile(reference, 85), reference, 0)
    own = relevance(1)
    unknown = compare_maps(own, cut, GRID, options=NO_P)
    assert "--mask" in unknown.warnings[0] and unknown.found.n_places < 0.2 * own.data.size
    template = RelevanceMap(own.data, GRID, {"space": "MNI152NLin6Asym"})
    known = compare_maps(template, cut, GRID, options=NO_P)
    whole = compare_maps(template, reference, GRID, options=NO_P)
    assert known.found.n_places == whole.found.n_places and "template's brain" in known.rule
    inside = known.places
    assert known.found.spearman == pytest.approx(spearmanr(own.data[inside], cut[inside]).statistic)
    given = compare_maps(own, cut, GRID, mask=(np.ones(SHAPE, bool), GRID), options=NO_P)
    assert given.found.n_places == own.data.size and "mask given" in given.rule
    outside = reference.copy()
    outside[:3] = 0  # not thresholded: its field of view ends there
    partly = compare_maps(own, outside, GRID, mask=(np.ones(SHAPE, bool), GRID), options=NO_P)
    assert partly.found.n_places == own.data[3:].size


def test_a_coarser_reference_is_not_interpolated_up() -> None:
    own = relevance(1)
    affine = GRID.affine @ np.diag([2.0, 1, 2, 1])
    affine[:3, 3] = GRID.vox2world(np.array([0.5, 0, 0.5]))
    coarse = ImageGrid((4, 9, 3), affine)
    values = np.random.default_rng(0).standard_normal(coarse.shape)
    found = compare_maps(own, values, coarse, options=NO_P)
    assert found.found.n_places == values.size and "is coarser than the map" in found.warnings[0]
    means = own.data[:8, :, :6].reshape(4, 2, 9, 3, 2).mean(axis=(1, 4))
    np.testing.assert_allclose(found.relevance.data, means, atol=1e-6)
    assert found.found.pearson == pytest.approx(pearsonr(means.ravel(), values.ravel()).statistic)
    assert found.relevance.resolution_mm == pytest.approx((30, 14, 32))


def test_another_models_voxel_map_counts_with_its_patches(tmp_path: Path) -> None:
    values, grid = reference_on("RAS")
    other = RelevanceMap(values.astype(np.float32), grid, {"space": "T1w"}, (30.0, 30.0, 30.0))
    path = other.save(tmp_path / "other_relevance.nii.gz")
    opened = open_reference(path)
    assert opened.resolution_mm == (30, 30, 30) and opened.space == "T1w"
    one = RelevanceMap(smooth(0).astype(np.float32), GRID, {"space": "MNI152"})
    found = compare_reference(one, opened, name="map", options=NO_P)
    np.testing.assert_allclose(found.relevance.grid.voxel_sizes, 30)
    assert any("nothing is warped" in word for word in found.warnings)
    path.with_name("other_relevance.json").write_text("[1, 2]")
    assert open_reference(path).resolution_mm == (0, 0, 0)


def test_values_that_are_no_numbers_are_left_out() -> None:
    data = smooth(4).astype(np.float32)
    data[0, 0, 0] = np.nan
    reference = smooth(5)
    found = compare_maps(RelevanceMap(data, GRID), reference, GRID, options=NO_P)
    kept = np.isfinite(data)
    assert found.found.spearman == pytest.approx(spearmanr(data[kept], reference[kept]).statistic)
    assert "no numbers" in found.warnings[0]


def test_numbers_that_a_reference_lacks_are_told() -> None:
    holes = np.random.default_rng(0).random(SHAPE) < 0.2
    reference = np.where(holes, np.nan, smooth(5))
    found = compare_maps(relevance(), reference, GRID, options=NO_P)
    assert not found.places[holes].any() and not found.warnings  # 0 is no value without a brain
    # In the template's brain 0 is a value, and so are they.
    space = RelevanceMap(relevance().data, GRID, {"space": "MNI152NLin6Asym"})
    found = compare_maps(space, reference, GRID, options=NO_P)
    assert any("holds no numbers, and counts as 0" in one for one in found.warnings)
    whole = compare_maps(space, smooth(5), GRID, options=NO_P)
    assert not any("no numbers" in one for one in whole.warnings)


def test_the_command_says_what_is_wrong_with_which_file(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, grid = reference_on("RAS")
    image = nib.Nifti1Image(values.astype(np.float32), grid.affine)
    image.to_filename(tmp_path / "z.nii.gz")
    other = nib.Nifti1Image(-np.abs(values).astype(np.float32), grid.affine)
    other.to_filename(tmp_path / "never_positive.nii.gz")
    text = tmp_path / "text.nii.gz"
    text.write_text("no image")
    one = relevance().save(tmp_path / "one_relevance.nii.gz")
    flat = RelevanceMap(np.full(SHAPE, 2, np.float32), GRID, {}).save(tmp_path / "flat.nii.gz")
    good = str(tmp_path / "z.nii.gz")
    for words, status, message in (
        ([str(text), good], 1, f"compare: {text} cannot be read as an image"),
        ([str(one), str(text)], 1, f"compare: {text} cannot be read as an image"),
        ([str(flat), good], 1, "the values of flat are the same"),
        ([str(one), good, "--top", "100"], 1, "--top"),
        ([str(one), good, "--surrogates", "-1"], 1, "at least 0"),
        ([str(one), good, "--method", "frozen_gate"], 1, "--method chooses from the folder"),
        ([str(one), good, "--seed", "-1"], 2, "whole number"),
        (
            [str(one), str(tmp_path / "never_positive.nii.gz"), "--signs", "positive"],
            1,
            "the positive values of never_positive are the same",
        ),
    ):
        call = ["compare", *words, "-o", str(tmp_path / "out")]
        try:
            found = main(call)
        except SystemExit as stop:  # argparse
            found = stop.code
        told = capsys.readouterr().err
        assert found == status and message in told, told
        assert "move it away" not in told and not (tmp_path / "out").exists()


def test_opposite_maps_are_not_called_swapped() -> None:
    x = GRID.vox2world(np.moveaxis(np.indices(SHAPE), 0, -1))[..., 0]
    one = RelevanceMap((-np.sin(x / 20 + 1) + 0.05 * smooth(3)).astype(np.float32), GRID)
    found = compare_maps(one, np.sin(x / 20 + 1), GRID, options=NO_P)
    assert found.found.spearman < -0.9 < found.mirrored < 0.3
    assert found.warnings == ()


def test_ties_are_not_broken_by_the_order_in_the_file() -> None:
    points = GRID.vox2world(np.argwhere(np.ones(SHAPE, bool)))
    one, other = np.zeros(504), np.zeros(504)
    one[-20:-10] = np.arange(1, 11)
    other[-10:] = np.arange(1, 11)
    found = agreement(one, other, points, n_surrogates=0, shares=(0.1,)).overlaps[0]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):  # ties broken at random
        a, b = (set(np.lexsort((rng.random(504), v))[-50:]) for v in (one, other))
        drawn.append(len(a & b) / 50)
    assert found.dice == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    assert highest(one, 0.1).sum() == 10  # the 40 others could be any


def test_an_evaluation_is_read_beside_agreement(tmp_path: Path) -> None:
    def compared(method: str, seed: int) -> Comparison:
        about = {"method": method, "model": {"weights_sha256": "a" * 64}}
        one = RelevanceMap((smooth(seed) + smooth(7)).astype(np.float32), GRID, about)
        found = compare_maps(
            one, smooth(seed), GRID, names=(method, "glm"), options=CompareOptions(n_surrogates=39)
        )
        return found if seed == 1 else replace(found, found=replace(found.found, spearman=0.1))

    pair = [compared("token_gradcam", 1), compared("frozen_gate", 2)]
    folder = tmp_path / "evaluation"
    folder.mkdir()
    about = {"generator": {"name": "g3dvit"}, "model_sha256": "a" * 64}
    (folder / "evaluation.json").write_text(json.dumps(about))
    (folder / "evaluation.tsv").write_text(
        "map\tsrg\trelative_srg\trelative_srg_low\nfrozen_gate\t3\t.8\t.5\ntoken_gradcam\t.1\t0\t-.2\n"
    )
    numbers = tables_of(pair, evaluation=folder)[0]
    assert "shown to be faithful" in numbers.frame["reading"][0]
    assert "token_gradcam agrees most with glm" in numbers.note
    assert "read frozen_gate" in numbers.note and "no p is below 0.025" in numbers.note
    assert evaluation_beside(tmp_path / "maps", pair) == folder
    assert list(numbers.frame["evaluated"]) == 2 * ["the compared map"]
    # Of frozen gates the content is compared, and content with position was measured: two maps.
    gates = pair[1].relevance
    content = replace(gates, metadata={**gates.metadata, "companion": "content"})
    apart = tables_of([pair[0], replace(pair[1], relevance=content)], evaluation=folder)[0].frame
    assert list(apart["evaluated"]) == ["the compared map", "content and position together"]
    assert apart["reading"][0] == numbers.frame["reading"][0]
    assert "content and position together are faithful" in apart["reading"][1]
    # Where an evaluation has the content, its numbers are those of the compared map.
    with (folder / "evaluation.tsv").open("a") as table:
        table.write("frozen_gate_content\t2\t.6\t-.1\n")
    own = tables_of([pair[0], replace(pair[1], relevance=content)], evaluation=folder)[0].frame
    assert list(own["evaluated"]) == 2 * ["the compared map"] and own["relative_srg"][1] == 0.6
    about["model_sha256"] = "b" * 64
    (folder / "evaluation.json").write_text(json.dumps(about))
    assert evaluation_beside(tmp_path / "maps", pair) is None
    with pytest.raises(OutputError, match="another model"):
        tables_of(pair, evaluation=folder)
    (folder / "evaluation.json").write_text("{}")
    with pytest.raises(OutputError, match="evaluate -o"):
        tables_of(pair, evaluation=folder)


def test_nothing_is_left_of_a_comparison_that_fails(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    values, grid = reference_on("RAS")
    found = compare_maps(relevance(), values, grid, options=NO_P)
    monkeypatch.setattr("g3dvit.compare.write.comparison_with_reference", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        add_to_run([found], run_folder, flat_background(SMALL.volume), overwrite=True)
    assert {p: p.read_bytes() for p in run_folder.rglob("*") if p.is_file()} == before
