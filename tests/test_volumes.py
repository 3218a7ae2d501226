"""Reading: the right numbers in the right place at the right time, and no guesses."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g3dvit import sources
from g3dvit.errors import (
    G3DWarning,
    ImageError,
    OrientationError,
    SelectionError,
)
from g3dvit.volumes import open_series
from made_images import AFFINES, SHAPE, random_run, save_run

RUN = random_run()


def stack(series, time_points=None):
    return np.stack([v.data for v in series.stream(time_points)], axis=-1)


# ------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".img", ".mgz", ".mgh", ".nii.bz2"])
@pytest.mark.parametrize("name", AFFINES)
def test_every_format_gives_nibabels_numbers_and_affine(tmp_path, extension, name) -> None:
    affine = AFFINES[name]
    path = tmp_path / f"run{extension}"
    if extension.startswith(".mg"):
        nib.save(nib.MGHImage(RUN, affine), path)
    elif extension == ".img":
        image = nib.Nifti1Pair(RUN, affine)
        image.set_sform(affine, 1)
        nib.save(image, path)
    else:
        save_run(path, RUN, affine)
    series = open_series(path)
    np.testing.assert_array_equal(stack(series), RUN)
    np.testing.assert_allclose(series.grid.affine, affine, atol=1e-5)
    assert (series.grid.shape, series.n_time_points) == (SHAPE, 6)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u1", ">i4", "<f8", ">f8", ">f4"])
@pytest.mark.parametrize("scaling", [None, (0.37, -12.5)])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_stored_types_and_scaling(tmp_path, dtype, scaling, extension) -> None:
    stored = np.random.default_rng(1).integers(0, 200, (*SHAPE, 4)).astype(dtype)
    header = nib.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(np.dtype(dtype))
    image = nib.Nifti1Image(stored, AFFINES["LAS"], header)
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    path = tmp_path / f"run{extension}"
    nib.save(image, path)
    loaded = nib.load(path)
    assert loaded.dataobj.dtype == np.dtype(dtype)
    expected = loaded.get_fdata().astype(np.float32)
    np.testing.assert_array_equal(stack(open_series(path)), expected)


def test_not_finite_voxels_are_passed_on(tmp_path) -> None:
    data = RUN.copy()
    data[1, 2, 3, 0], data[4, 5, 1, 2], data[0, 0, 0, 3] = np.nan, np.inf, -np.inf
    path = save_run(tmp_path / "run.nii.gz", data)
    np.testing.assert_array_equal(stack(open_series(path)), data)


def test_a_3d_image_is_a_run_of_one_volume(tmp_path) -> None:
    series = open_series(save_run(tmp_path / "one.nii.gz", RUN[..., 0]))
    (volume,) = series.stream()
    assert (series.n_time_points, series.t_r, volume.onset_s) == (1, None, None)
    np.testing.assert_array_equal(volume.data, RUN[..., 0])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, 5), unique=True))
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_any_choice_comes_in_ascending_time(tmp_path, extension, chosen) -> None:
    path = tmp_path / f"run{extension}"
    if not path.exists():
        save_run(path, RUN)
    volumes = list(open_series(path).stream(chosen))
    assert [v.time_point for v in volumes] == sorted(chosen)
    for volume in volumes:
        np.testing.assert_array_equal(volume.data, RUN[..., volume.time_point])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [([1, 1], "volume 1 .* asked for twice"), ([6], "no volume 6; its 6"), ([0.5], "integers")],
)
def test_impossible_choices_are_refused(tmp_path, chosen, message) -> None:
    with pytest.raises(SelectionError, match=message):
        open_series(save_run(tmp_path / "run.nii", RUN)).stream(chosen)


# ----------------------------------------------------------------------------- one flat pass


class CountedFile:
    """Counts the bytes that leave a file."""

    n_bytes = 0
    n_opened = 0

    def __init__(self, path) -> None:
        self.file = Path(path).open("rb")  # noqa: SIM115 - closed by __exit__
        type(self).n_opened += 1

    def read(self, *args):
        found = self.file.read(*args)
        type(self).n_bytes += len(found)
        return found

    def readinto(self, target):
        n = self.file.readinto(target)
        type(self).n_bytes += n
        return n

    def seek(self, *args):
        return self.file.seek(*args)

    def tell(self):
        return self.file.tell()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()


@pytest.mark.parametrize("chosen", [None, [0, 39], [39], list(range(0, 40, 3))])
def test_a_compressed_run_is_inflated_once(tmp_path, monkeypatch, chosen) -> None:
    data = random_run((21, 23, 17, 40), seed=2)
    path = save_run(tmp_path / "run.nii.gz", data)
    size = path.stat().st_size
    assert size > 500_000  # random numbers: read-ahead cannot hide a second pass
    series = open_series(path)
    CountedFile.n_bytes = CountedFile.n_opened = 0
    monkeypatch.setattr(sources, "open_raw", CountedFile)
    time_points = range(40) if chosen is None else chosen
    np.testing.assert_array_equal(stack(series, chosen), data[..., list(time_points)])
    assert CountedFile.n_opened == 1
    assert CountedFile.n_bytes <= size + 4
    if chosen is None or 39 in chosen:
        assert CountedFile.n_bytes > 0.95 * size  # the counter sees the whole file


def test_a_pass_that_ends_early_reads_no_further(tmp_path, monkeypatch) -> None:
    path = save_run(tmp_path / "run.nii.gz", random_run((21, 23, 17, 40), seed=2))
    series = open_series(path)
    CountedFile.n_bytes = 0
    monkeypatch.setattr(sources, "open_raw", CountedFile)
    list(series.stream([0, 3]))
    assert CountedFile.n_bytes < 0.25 * path.stat().st_size


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_memory_does_not_grow_with_the_run(tmp_path, extension) -> None:
    def peak(n_time_points):
        path = tmp_path / f"run{n_time_points}{extension}"
        save_run(path, random_run((31, 29, 27, n_time_points)).astype(np.float64))
        tracemalloc.start()
        for _ in open_series(path).stream():
            pass
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    few, many = peak(3), peak(30)
    volume = 31 * 29 * 27 * 8
    assert few > volume  # the measure sees the buffers
    assert many < few + volume / 2


# ------------------------------------------------------------------------------ orientation


def test_no_orientation_codes_no_image(tmp_path) -> None:
    path = save_run(tmp_path / "run.nii.gz", RUN, sform=0, qform=0)
    with pytest.raises(OrientationError, match=r"sform and qform codes are both 0.*RAS.*LAS"):
        open_series(path)


def test_analyze_is_refused(tmp_path) -> None:
    nib.save(nib.AnalyzeImage(RUN.astype(np.int16), AFFINES["LAS"]), tmp_path / "run.img")
    with pytest.raises(OrientationError, match="Analyze format does not store it"):
        open_series(tmp_path / "run.img")


@pytest.mark.parametrize("kind", ["nifti", "analyze"])
@pytest.mark.parametrize(("orientation", "sign"), [("RAS", 1), ("LAS", -1)])
def test_a_vouched_orientation_is_centred(tmp_path, kind, orientation, sign) -> None:
    path = tmp_path / "run.img"
    if kind == "nifti":
        path = save_run(tmp_path / "run.nii", RUN, AFFINES["anisotropic"], sform=0, qform=0)
    else:
        nib.save(nib.AnalyzeImage(RUN.astype(np.int16), AFFINES["anisotropic"]), path)
    with pytest.warns(G3DWarning, match=f"taken to be {orientation}.*no origin"):
        series = open_series(path, assume_orientation=orientation)
    np.testing.assert_allclose(series.grid.affine[:3, :3], np.diag([sign * 2, 3.5, 5]))
    np.testing.assert_allclose(series.grid.vox2world((np.array(SHAPE) - 1) / 2), 0, atol=1e-9)
    assert (series.sform_code, series.qform_code) == (2, 0)
    assert series.orientation_assumed == orientation


def test_a_reference_gives_the_orientation(tmp_path) -> None:
    path = save_run(tmp_path / "run.nii", RUN, sform=0, qform=0)
    reference = save_run(tmp_path / "ref.nii", RUN[..., 0], AFFINES["oblique"], sform=4)
    series = open_series(path, reference=reference)
    np.testing.assert_allclose(series.grid.affine, AFFINES["oblique"], atol=1e-5)
    assert (series.sform_code, series.t_r, series.n_time_points) == (4, 2.0, 6)


def test_a_reference_may_not_contradict_the_image(tmp_path) -> None:
    path = save_run(tmp_path / "run.nii", RUN, AFFINES["RAS"])
    reference = save_run(tmp_path / "ref.nii", RUN[..., 0], AFFINES["LAS"])
    with pytest.raises(ImageError, match="affine of its own that differs"):
        open_series(path, reference=reference)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (4, 2)])
def test_one_code_is_enough(tmp_path, sform, qform) -> None:
    series = open_series(
        save_run(tmp_path / "r.nii", RUN, AFFINES["LAS"], sform=sform, qform=qform)
    )
    assert (series.sform_code, series.qform_code) == (sform, qform)
    assert series.grid.axcodes == "LAS"


def test_forms_that_disagree_about_left_and_right_draw_a_warning(tmp_path) -> None:
    image = nib.Nifti1Image(RUN, AFFINES["RAS"])
    image.set_sform(AFFINES["RAS"], 2)
    image.set_qform(AFFINES["LAS"], 1)
    nib.save(image, tmp_path / "run.nii")
    with pytest.warns(G3DWarning, match="disagree about left and right"):
        series = open_series(tmp_path / "run.nii")
    assert series.grid.axcodes == "RAS"


# -------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("value", "units", "expected"),
    [
        (2.0, "sec", 2.0),
        (720.0, "msec", 0.72),
        (720000.0, "usec", 0.72),
        (0.72, "unknown", 0.72),
        (1.0, "sec", 1.0),
        (1.0, "unknown", None),
        (0.0, "sec", None),
        (0.0, "unknown", None),
        (2000.0, "sec", 2.0),
        (2000.0, "unknown", 2.0),
        (2.0, "hz", None),
    ],
)
def test_the_headers_repetition_time(tmp_path, value, units, expected) -> None:
    series = open_series(save_run(tmp_path / "run.nii", RUN, t_r=value, units=units))
    assert series.t_r == (None if expected is None else pytest.approx(expected, rel=1e-12))


def test_mgz_counts_in_milliseconds(tmp_path) -> None:
    image = nib.MGHImage(RUN, AFFINES["LAS"])
    image.header.set_zooms((3, 3, 3, 1500))
    nib.save(image, tmp_path / "run.mgz")
    assert open_series(tmp_path / "run.mgz").t_r == 1.5


def test_without_start_time_a_volume_is_in_the_middle_of_its_acquisition(tmp_path) -> None:
    series = open_series(save_run(tmp_path / "run.nii", RUN, t_r=2.0))
    assert [v.onset_s for v in series.stream([0, 3])] == [1.0, 7.0]
    assert not series.start_time_known


@pytest.mark.parametrize("start", [0.0, 0.36, 1.0])
def test_start_time_is_the_time_of_volume_0(tmp_path, start) -> None:
    path = save_run(tmp_path / "sub-1_desc-preproc_bold.nii.gz", RUN, t_r=2.0)
    sidecar = {"RepetitionTime": 2.0, "StartTime": start}
    (tmp_path / "sub-1_desc-preproc_bold.json").write_text(json.dumps(sidecar))
    series = open_series(path)
    assert [v.onset_s for v in series.stream([0, 3])] == [start, start + 6.0]
    assert series.start_time_known


def test_the_sidecar_beats_the_header_and_the_caller_beats_both(tmp_path) -> None:
    path = save_run(tmp_path / "run.nii", RUN, t_r=1.79)
    (tmp_path / "run.json").write_text('{"RepetitionTime": 2.0}')
    with pytest.warns(G3DWarning, match="header says .* 1.79 s, the sidecar 2 s"):
        assert open_series(path).t_r == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_series(path, t_r=2.2).t_r == 2.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON"),
        ("[]", "not an object"),
        ('{"RepetitionTime": "two"}', "RepetitionTime .* 'two'"),
        ('{"RepetitionTime": -1}', "positive number"),
        ('{"StartTime": true}', "StartTime .* True"),
    ],
)
def test_a_broken_sidecar_is_named(tmp_path, text, message) -> None:
    path = save_run(tmp_path / "run.nii", RUN)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ImageError, match=message):
        open_series(path)


# ------------------------------------------------------------------------------------- space


@pytest.mark.parametrize(
    ("name", "sidecar", "argument", "expected"),
    [
        ("sub-1_space-MNI152NLin6Asym_res-2_bold", None, None, ("MNI152NLin6Asym", "file name")),
        ("sub-1_bold", None, None, (None, None)),
        ("sub-1_bold", "MNI152Lin", None, ("MNI152Lin", "sidecar")),
        ("sub-1_space-T1w_bold", "MNI152Lin", None, ("MNI152Lin", "sidecar")),
        ("sub-1_space-T1w_bold", "MNI152Lin", "MNI305", ("MNI305", "argument")),
        (
            "sub-1_bold",
            "https://templateflow.s3.amazonaws.com/tpl-MNI152NLin2009cAsym_res-02_T1w.nii.gz",
            None,
            ("MNI152NLin2009cAsym", "sidecar"),
        ),
        (
            "sub-1_space-T1w_bold",
            "bids:raw:sub-1/anat/sub-1_T1w.nii.gz",
            None,
            ("T1w", "file name"),
        ),
        ("myspace-best_bold", None, None, (None, None)),
    ],
)
def test_what_names_the_space(tmp_path, name, sidecar, argument, expected) -> None:
    path = save_run(tmp_path / f"{name}.nii.gz", RUN)
    if sidecar:
        (tmp_path / f"{name}.json").write_text(json.dumps({"SpatialReference": sidecar}))
    series = open_series(path, space=argument)
    assert (series.space, series.space_origin) == expected


# ------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize("extension", [".npy", ".npz", ".pt"])
@pytest.mark.parametrize("axes", ["ijk", "ijkt", "tijk"])
def test_arrays_with_a_reference(tmp_path, extension, axes) -> None:
    array = {"ijk": RUN[..., 0], "ijkt": RUN, "tijk": np.moveaxis(RUN, -1, 0)}[axes]
    array = array.astype(np.float64)
    path = tmp_path / f"volumes{extension}"
    if extension == ".npy":
        np.save(path, array)
    elif extension == ".npz":
        np.savez_compressed(path, volumes=array)
    else:
        torch.save({"x": torch.from_numpy(array.copy())}, path)
    reference = save_run(tmp_path / "ref_space-MNI152Lin_T1w.nii", RUN[..., 1], AFFINES["PSR"])
    told = {"array_axes": axes} if axes == "tijk" else {}
    series = open_series(path, reference=reference, **told)
    np.testing.assert_array_equal(stack(series), RUN if axes != "ijk" else RUN[..., :1])
    np.testing.assert_allclose(series.grid.affine, AFFINES["PSR"])
    assert series.space == "MNI152Lin"


def test_bfloat16_tensors(tmp_path) -> None:
    tensor = torch.from_numpy(RUN[..., 0].copy()).bfloat16()
    torch.save(tensor, tmp_path / "v.pt")
    reference = save_run(tmp_path / "ref.nii", RUN[..., 1])
    np.testing.assert_array_equal(
        stack(open_series(tmp_path / "v.pt", reference=reference))[..., 0], tensor.float().numpy()
    )


def _save_array(path: Path, array) -> Path:
    np.save(path, array)
    return path


def test_an_array_needs_a_reference_on_its_grid(tmp_path) -> None:
    path = _save_array(tmp_path / "v.npy", np.moveaxis(RUN, -1, 0))
    with pytest.raises(ImageError, match=r"array without an affine.*--reference"):
        open_series(path)
    reference = save_run(tmp_path / "ref.nii", RUN[..., 0])
    with pytest.raises(ImageError, match="if time comes first, say so"):
        open_series(path, reference=reference)


class Nasty:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_nothing_in_an_array_file_is_executed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    reference = save_run(tmp_path / "ref.nii", RUN[..., 0])
    np.save(tmp_path / "v.npy", np.array([Nasty()], dtype=object), allow_pickle=True)
    torch.save(Nasty(), tmp_path / "v.pt")
    for name in ("v.npy", "v.pt"):
        with pytest.raises(ImageError, match="cannot be read as an array"):
            open_series(tmp_path / name, reference=reference)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), "cannot have the axes"),
        (np.zeros((2, 3, 4, 5, 6)), "cannot have the axes"),
        (np.zeros((3, 4, 5), complex), "one real number per voxel"),
        (np.zeros((3, 0, 5)), "is empty"),
    ],
)
def test_arrays_that_are_no_volumes(tmp_path, array, message) -> None:
    reference = save_run(tmp_path / "ref.nii", RUN[..., 0])
    with pytest.raises(ImageError, match=message):
        open_series(_save_array(tmp_path / "v.npy", array), reference=reference)


def test_several_arrays_in_one_file(tmp_path) -> None:
    np.savez(tmp_path / "v.npz", a=RUN, b=RUN)
    with pytest.raises(ImageError, match=r"holds 2 arrays \(a, b\)"):
        open_series(tmp_path / "v.npz", reference=save_run(tmp_path / "r.nii", RUN))


# ------------------------------------------------------------------------------ broken files


def test_absent_file(tmp_path) -> None:
    with pytest.raises(ImageError, match="there is no file"):
        open_series(tmp_path / "run.nii.gz")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.nii.gz", b""),
        ("run.nii", b""),
        ("run.nii.gz", b"this is not gzip" * 40),
        ("run.nii.gz", gzip.compress(b"no header" * 100, mtime=0)),
        ("run.txt", b"hello"),
        ("run.nii", b"\0" * 400),
        ("run.mgz", b"\x1f\x8b broken"),
    ],
    ids=["empty-gz", "empty", "no-gzip", "no-header", "text", "zeros", "broken-mgz"],
)
def test_files_of_another_kind(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match="cannot be read as an image"):
        open_series(tmp_path / name)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, extension, share) -> None:
    path = save_run(tmp_path / f"run{extension}", random_run((15, 17, 13, 9)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match=r"incomplete|damaged"):
        list(open_series(path).stream())


def test_a_flipped_bit_is_noticed_at_the_end_of_a_pass(tmp_path) -> None:
    path = save_run(tmp_path / "run.nii.gz", random_run((15, 17, 13, 9)))
    stored = bytearray(path.read_bytes())
    stored[-6] ^= 1  # in the checksum
    path.write_bytes(stored)
    with pytest.raises(ImageError, match=r"damaged or incomplete"):
        list(open_series(path).stream())


def test_five_dimensions(tmp_path) -> None:
    path = save_run(tmp_path / "run.nii", np.zeros((3, 4, 5, 2, 3), np.float32))
    with pytest.raises(ImageError, match="holds 5 dimensions"):
        open_series(path)


def test_two_dimensions(tmp_path) -> None:
    path = save_run(tmp_path / "run.nii", np.zeros((3, 4), np.float32))
    with pytest.raises(ImageError, match="3D or 4D image is needed"):
        open_series(path)


def test_colours_are_no_volumes(tmp_path) -> None:
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, AFFINES["RAS"]), tmp_path / "rgb.nii")
    with pytest.raises(ImageError, match="one real number per voxel"):
        open_series(tmp_path / "rgb.nii")


def test_surfaces_are_no_volumes(tmp_path) -> None:
    array = nib.gifti.GiftiDataArray(np.zeros(5, np.float32))
    nib.save(nib.gifti.GiftiImage(darrays=[array]), tmp_path / "s.func.gii")
    with pytest.raises(ImageError, match="holds no volumes but GiftiImage"):
        open_series(tmp_path / "s.func.gii")


@pytest.mark.parametrize("t_r", [0.0, -2.0, float("nan")])
def test_impossible_repetition_times(tmp_path, t_r) -> None:
    with pytest.raises(ImageError, match="positive number of seconds"):
        open_series(save_run(tmp_path / "run.nii", RUN), t_r=t_r)


def test_unknown_orientation_argument(tmp_path) -> None:
    with pytest.raises(OrientationError, match="'RAS' or 'LAS', was given 'LPI'"):
        open_series(save_run(tmp_path / "run.nii", RUN), assume_orientation="LPI")


def test_a_reference_on_another_grid(tmp_path) -> None:
    path = _save_array(tmp_path / "v.npy", RUN[1:, ..., 0])
    reference = save_run(tmp_path / "ref.nii", RUN[..., 0])
    with pytest.raises(ImageError, match=r"\(6, 9, 5\) voxels, .* has \(7, 9, 5\);.*slicer"):
        open_series(path, reference=reference)
