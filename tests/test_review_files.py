"""What a second reader of files, outputs and pictures found: damaged files, odd times, display."""

from __future__ import annotations

import gzip
import shlex
import struct
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from fake_run import small_run
from g3dvit.errors import ImageError, InputError, OutputError, SelectionError
from g3dvit.folders import check_output
from g3dvit.outputs import write_run
from g3dvit.plain import unique_names
from g3dvit.report.display import caption_of, shown_mean
from g3dvit.report.scene import scene_of
from g3dvit.run.inputs import RunSource, open_runs
from g3dvit.run_result import Display
from g3dvit.selection import select_volumes
from g3dvit.volumes import open_series

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def save_run(path, *, unit="sec", t_r=2.0, shape=(9, 8, 7, 4)):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = t_r
    nib.save(image, path)
    return path


def set_dims(path, dims):
    """Overwrite the dimensions in a NIfTI header."""
    packed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    content[40:56] = struct.pack("<8h", 4, *dims, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    return path


def test_a_header_that_announces_more_than_the_file_holds(tmp_path) -> None:
    path = set_dims(save_run(tmp_path / "a.nii"), (32767, 32767, 32767, 100))
    with pytest.raises(ImageError, match="ends before the last volume"):
        next(open_series(path).stream([0]))


def test_volumes_that_fit_into_no_memory(tmp_path) -> None:
    path = set_dims(save_run(tmp_path / "a.nii.gz"), (32767, 32767, 32767, 2))
    with pytest.raises(ImageError, match="do not fit into memory"):
        next(open_series(path).stream([0]))


def test_a_wrong_checksum_is_found_when_the_damage_made_the_file_longer(tmp_path) -> None:
    path = save_run(tmp_path / "a.nii.gz")
    content = gzip.decompress(path.read_bytes())
    packed = bytearray(gzip.compress(content + b"more than announced"))
    packed[-8] ^= 0xFF  # of the CRC
    path.write_bytes(packed)
    with pytest.raises(ImageError, match="CRC check failed"):
        list(open_series(path).stream())


def test_seconds_that_are_called_milliseconds_are_unknown(tmp_path) -> None:
    assert open_series(save_run(tmp_path / "a.nii", unit="msec", t_r=2.0)).t_r is None
    assert open_series(save_run(tmp_path / "b.nii", unit="msec", t_r=720.0)).t_r == 0.72


def test_a_sidecar_in_milliseconds_is_refused(tmp_path) -> None:
    path = save_run(tmp_path / "a.nii")
    (tmp_path / "a.json").write_text('{"RepetitionTime": 2000}')
    with pytest.raises(ImageError, match="not of milliseconds"):
        open_series(path)


def test_file_names_of_classes_never_meet() -> None:
    names = unique_names(["an3", "a", "a!", "A", "左", ""])
    assert len({name.lower() for name in names}) == 6


def test_a_mount_point_is_refused_before_the_work(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(type(tmp_path), "is_mount", lambda _self: True)
    with pytest.raises(OutputError, match="a folder inside it"):
        check_output(tmp_path)


# ---- smoothing, for the eye only


def speckled_run():
    """A run whose first method has single bright voxels in its class means."""
    run = small_run(n_volumes=6, space=None)
    maps = run.maps[0]
    mean = maps.class_means[0]
    spike = np.zeros(mean.voxel.grid.shape, np.float32)
    spike[20, 21, 17] = 1.0
    fine = replace(mean, voxel=replace(mean.voxel, data=spike))
    maps = replace(maps, class_means=(fine, *maps.class_means[1:]), fine=True)
    return replace(run, maps=(maps, *run.maps[1:]))


def test_voxel_maps_are_smoothed_by_the_width_in_mm() -> None:
    run = speckled_run()
    maps = run.maps[0]
    mean = maps.class_means[0]
    size = float(mean.voxel.grid.voxel_sizes[0])
    shown = shown_mean(maps, mean, Display(smooth_mm=2 * size))
    # half of the maximum at half of the width: one voxel away
    assert shown[21, 21, 17] / shown[20, 21, 17] == pytest.approx(0.5, abs=0.01)
    assert shown.sum() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_array_equal(shown_mean(maps, mean, Display(smooth_mm=0)), mean.voxel.data)
    coarse = run.maps[1]
    np.testing.assert_array_equal(
        shown_mean(coarse, coarse.class_means[0], Display()), coarse.class_means[0].voxel.data
    )


def test_smoothing_is_said_where_it_is_done() -> None:
    run = speckled_run()
    assert "smoothed by 6 mm FWHM" in caption_of(run.display, run.maps)
    assert caption_of(run.display, run.maps[1:]) == ""
    assert caption_of(Display(smooth_mm=0), run.maps) == ""
    assert "smoothed by 6 mm FWHM" in scene_of(run)["display"]
    with pytest.raises(InputError, match="0 or a positive number of mm"):
        Display(smooth_mm=-1)


def test_saved_maps_are_not_smoothed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("g3dvit.outputs._write_figures", lambda *_: [])
    run = speckled_run()
    write_run(run, tmp_path)
    found = [
        path
        for path in (tmp_path / "class_means").glob("*res-voxel_desc-frozengate_relevance.nii.gz")
        if np.count_nonzero(nib.load(path).dataobj) == 1
    ]
    assert len(found) == 1


def test_a_failed_run_is_told_in_readme_and_sidecars(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("g3dvit.outputs._write_figures", lambda *_: [])
    run = small_run(n_volumes=6, space=None)
    failed = replace(run.checks[0], verdict="fail", name="model at chance", sentence="It guesses.")
    write_run(replace(run, checks=(failed,)), tmp_path)
    assert "all maps: CHECK FAILED: model at chance: It guesses." in (
        tmp_path / "README.txt"
    ).read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<p class="note fail"><b>CHECK FAILED: model at chance.</b> It guesses.</p>' in page
    for sidecar in tmp_path.glob("*/*_relevance.json"):
        assert '"It guesses."' in sidecar.read_text(encoding="utf-8")


def test_commands_in_the_readme_survive_spaces_and_quotes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("g3dvit.outputs._write_figures", lambda *_: [])
    run = speckled_run()
    source = "/data/my runs/it's; rm -rf x_bold.nii.gz"
    write_run(replace(run, inputs=(replace(run.inputs[0], source=source),)), tmp_path)
    readme = (tmp_path / "README.txt").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if line.startswith("freeview"))
    assert shlex.split(command)[3] == source
    assert "res-patch alone" in readme  # the two frozen-gate maps do not hold the same shares


# ---- choosing volumes


def events(path, *rows):
    path.write_text("\n".join(["onset\tduration\ttrial_type", *rows]) + "\n")
    return path


def test_a_table_without_a_named_event_chooses_nothing_and_says_so(tmp_path) -> None:
    series = open_series(save_run(tmp_path / "a.nii"))
    for rows in ((), ("0\t9\tn/a",)):
        with pytest.raises(SelectionError, match="names no event"):
            select_volumes(series, events=events(tmp_path / "e.tsv", *rows), delay_s=0)


def test_numbers_as_trial_types_keep_their_form_beside_a_gap(tmp_path) -> None:
    series = open_series(save_run(tmp_path / "a.nii"))
    table = events(tmp_path / "e.tsv", "0\t2\t1", "2\t2\tn/a", "4\t4\t2")
    chosen = select_volumes(series, events=table, delay_s=0)
    assert list(zip(chosen.time_points, chosen.labels, strict=True)) == [
        (0, "1"),
        (2, "2"),
        (3, "2"),
    ]


def test_one_column_of_a_participants_table_is_named(tmp_path) -> None:
    path = save_run(tmp_path / "sub-01_bold.nii")
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\tsex\nsub-01\tadult\tf\n")
    (run,) = open_runs(RunSource((path,), labels=table, label_column="sex"))
    assert run.selection.labels == ("f",) * 4
    with pytest.raises(SelectionError, match="--label-column NAME"):
        open_runs(RunSource((path,), labels=table))
    with pytest.raises(SelectionError, match="give --labels too"):
        open_runs(RunSource((path,), label_column="sex"))
