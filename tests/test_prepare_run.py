"""Steps that see a whole run, the order of steps, and the record of them."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.signal import clean

from g3dvit.errors import PreparationError, SelectionError
from g3dvit.grids import ImageGrid
from g3dvit.prepare import (
    PRESETS,
    STEPS,
    Crop,
    Denoise,
    DropVolumes,
    Mask,
    Pad,
    Preparation,
    Reorient,
    Resample,
    Scale,
    Smooth,
    Standardise,
    UserFunction,
)
from g3dvit.prepare.presets import CHANGES
from g3dvit.volumes import open_series
from made_images import AFFINES, SHAPE, localizer_folder, random_run, save_run

N = 36
RUN = random_run((*SHAPE, N), seed=11)
RUN += np.linspace(0, 300, N, dtype=np.float32) ** 2 / 300  # a drift
RUN[2, 3, 1] = 777.0  # a voxel that does not vary


@pytest.fixture
def series(tmp_path):
    return open_series(save_run(tmp_path / "sub-01_task-x_bold.nii.gz", RUN))


def stacked(volumes):
    return np.stack([v.data for v in volumes], axis=-1)


def oracle_z(y, degree, ddof=1):
    """Least squares on powers of time, voxel by voxel, in float64."""
    y = np.asarray(y, np.float64)
    design = np.vander(np.linspace(-1, 1, y.shape[-1]), degree + 1)
    out = np.zeros_like(y)
    for index in np.ndindex(*y.shape[:3]):
        fitted = design @ np.linalg.lstsq(design, y[index], rcond=None)[0]
        residual = y[index] - fitted
        if np.ptp(y[index]) > 0:
            out[index] = residual / np.sqrt((residual**2).sum() / (len(residual) - ddof))
    return out


# -------------------------------------------------------------------------- z-scores over time


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("ddof", [0, 1])
def test_time_z_scores_against_least_squares(series, degree, ddof) -> None:
    step = Standardise("time", trend_degree=degree, ddof=ddof)
    found = stacked(Preparation((step,)).stream(series))
    np.testing.assert_allclose(found, oracle_z(RUN, degree, ddof), atol=1e-5)
    assert (found[2, 3, 1] == 0).all()


def test_time_z_scores_are_nilearns(series) -> None:
    found = stacked(Preparation((Standardise("time", trend_degree=1),)).stream(series))
    signals = RUN.reshape(-1, N).T.astype(np.float64)
    expected = clean(signals, detrend=True, standardize="zscore_sample").T.reshape(RUN.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_chosen_volumes_are_scored_by_the_whole_run(series) -> None:
    preparation = Preparation((Standardise("time"),))
    found = list(preparation.stream(series, [20, 3, 4]))
    assert [v.time_point for v in found] == [3, 4, 20]
    np.testing.assert_allclose(stacked(found), oracle_z(RUN, 1)[..., [3, 4, 20]], atol=1e-5)


def test_a_high_level_costs_no_accuracy(tmp_path) -> None:
    high = (RUN.astype(np.float64) * 0.01 + 30000).astype(np.float32)
    series = open_series(save_run(tmp_path / "run.nii", high))
    found = stacked(Preparation((Standardise("time", trend_degree=2),)).stream(series))
    np.testing.assert_allclose(found, oracle_z(high, 2), atol=2e-5)


def test_a_pure_trend_leaves_nothing(tmp_path) -> None:
    slope = np.arange(N, dtype=np.float32) * 3
    ramp = np.full((*SHAPE, N), 1000, np.float32) + slope
    series = open_series(save_run(tmp_path / "run.nii", ramp))
    assert (stacked(Preparation((Standardise("time", 1),)).stream(series)) == 0).all()
    assert stacked(Preparation((Standardise("time", 0),)).stream(series)).std() > 0.9


def test_too_short_a_run(tmp_path) -> None:
    series = open_series(save_run(tmp_path / "run.nii", RUN[..., :3]))
    with pytest.raises(PreparationError, match="degree 2 needs a run of at least 4 volumes"):
        list(Preparation((Standardise("time", trend_degree=2),)).stream(series))


def test_memory_of_time_z_scores_does_not_grow_with_the_run(tmp_path) -> None:
    def peak(n):
        path = save_run(tmp_path / f"run{n}.nii.gz", random_run((23, 29, 31, n)))
        preparation = Preparation((Standardise("time"),))
        list(preparation.stream(open_series(path), [0]))  # imports and caches
        tracemalloc.start()
        for _ in preparation.stream(open_series(path)):
            pass
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    few, many = peak(5), peak(40)
    assert many < few + 23 * 29 * 31 * 4


# ------------------------------------------------------------------------------ global scaling


def test_global_scaling_with_a_mask(series, tmp_path) -> None:
    brain = np.random.default_rng(0).random(SHAPE) > 0.5
    mask = save_run(tmp_path / "m.nii", brain.astype(np.uint8))
    preparation = Preparation((Mask(), Scale("global", target=50)))
    found = stacked(preparation.stream(series, mask=mask))
    expected = np.where(brain[..., None], RUN, 0) * 50 / RUN[brain].mean(dtype=np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[brain].mean() == pytest.approx(50, rel=1e-5)


def test_global_scaling_without_a_mask_is_spms(tmp_path) -> None:
    run = RUN * (np.random.default_rng(0).random(SHAPE) > 0.4)[..., None]
    series = open_series(save_run(tmp_path / "run.nii", run))
    means = []
    for t in range(N):
        y = run[..., t].astype(np.float64)
        means.append(y[y > y.mean() / 8].mean())
    found = stacked(Preparation((Scale("global"),)).stream(series))
    np.testing.assert_allclose(found, run * 100 / np.mean(means), rtol=1e-5)


def test_global_scaling_needs_a_positive_mean(tmp_path) -> None:
    series = open_series(save_run(tmp_path / "run.nii", -RUN))
    with pytest.raises(PreparationError, match="needs a positive one"):
        list(Preparation((Scale("global"),)).stream(series))


# ---------------------------------------------------------------------- dummies and confounds


def test_dropped_volumes_enter_nothing(tmp_path) -> None:
    run = RUN.copy()
    run[..., :4] += 5000
    series = open_series(save_run(tmp_path / "run.nii", run))
    preparation = Preparation((DropVolumes(4), Standardise("time")))
    volumes = list(preparation.stream(series))
    assert [v.time_point for v in volumes] == list(range(4, N))
    assert volumes[0].onset_s == 9.0
    np.testing.assert_allclose(stacked(volumes), oracle_z(RUN[..., 4:], 1), atol=1e-5)
    assert preparation.time_points(series) == tuple(range(4, N))
    with pytest.raises(SelectionError, match=r"volume 3 .* first 4"):
        preparation.stream(series, [3, 8])
    with pytest.raises(PreparationError, match="leaves out the first 36"):
        Preparation((DropVolumes(N),)).stream(series)


CONFOUNDS = pd.DataFrame(
    np.random.default_rng(5).normal(size=(N, 4)), columns=["trans_x", "trans_y", "rot_x", "fd"]
)


def confounds_file(tmp_path, table=CONFOUNDS, name="c.tsv"):
    table.to_csv(tmp_path / name, sep="\t", index=False, na_rep="n/a")
    return tmp_path / name


def by_nilearn(run, **arguments):
    signals = run.reshape(-1, run.shape[-1]).T.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleaned = clean(signals, detrend=False, standardize=None, **arguments)
    return cleaned.T.reshape(run.shape)


@pytest.mark.parametrize("n_dropped", [0, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {"columns": ("trans_*", "fd")},
        {"high_pass_hz": 0.02},
        {"columns": "rot_x", "high_pass_hz": 0.02, "filter": "cosine"},
        {"columns": ("fd",), "high_pass_hz": 0.02, "low_pass_hz": 0.1},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_denoising_is_nilearns(series, tmp_path, settings, n_dropped) -> None:
    steps = ((DropVolumes(n_dropped),) if n_dropped else ()) + (Denoise(**settings),)
    found = stacked(Preparation(steps).stream(series, confounds=confounds_file(tmp_path)))
    columns = {"trans_*": ["trans_x", "trans_y"]}
    names = settings.get("columns", ())
    names = [names] if isinstance(names, str) else names
    chosen = [column for name in names for column in columns.get(name, [name])]
    filtered = "high_pass_hz" in settings
    expected = by_nilearn(
        RUN[..., n_dropped:],
        confounds=CONFOUNDS[chosen].to_numpy()[n_dropped:] if chosen else None,
        filter=settings.get("filter", "butterworth") if filtered else False,
        high_pass=settings.get("high_pass_hz"),
        low_pass=settings.get("low_pass_hz"),
        t_r=2.0 if filtered else None,
    )
    np.testing.assert_allclose(found, expected, atol=1e-2, rtol=1e-4)
    assert np.abs(found - RUN[..., n_dropped:]).max() > 10


@pytest.mark.filterwarnings("ignore")
def test_voxel_means_are_put_back_where_asked(series) -> None:
    kept = stacked(Preparation((Denoise(high_pass_hz=0.02, keep_mean=True),)).stream(series))
    lost = stacked(Preparation((Denoise(high_pass_hz=0.02),)).stream(series))
    np.testing.assert_allclose(kept.mean(-1), RUN.mean(-1), rtol=1e-5)
    kept, lost = (y - y.mean(-1, keepdims=True) for y in (kept, lost))
    np.testing.assert_allclose(kept, lost, atol=1e-2)


def test_the_table_beside_an_fmriprep_run(tmp_path) -> None:
    name = "sub-01_task-x_run-2_space-MNI152NLin6Asym_res-2_desc-preproc_bold.nii.gz"
    series = open_series(save_run(tmp_path / name, RUN))
    table = CONFOUNDS.copy()
    table.loc[0, "fd"] = np.nan  # as fMRIPrep writes framewise displacement
    preparation = Preparation((Denoise(("fd",)),))
    with pytest.raises(
        PreparationError, match=r"no .*run-2_desc-confounds_timeseries.*--confounds"
    ):
        list(preparation.stream(series))
    confounds_file(tmp_path, table, "sub-01_task-x_run-2_desc-confounds_timeseries.tsv")
    filled = table["fd"].bfill().to_numpy()[:, None]
    expected = by_nilearn(RUN, confounds=filled, filter=False)
    np.testing.assert_allclose(stacked(preparation.stream(series)), expected, atol=1e-2)


def test_a_strategy_of_fmriprep(tmp_path) -> None:
    stem = "sub-01_task-x_space-MNI152NLin6Asym_desc"
    series = open_series(save_run(tmp_path / f"{stem}-preproc_bold.nii.gz", RUN))
    axes = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    table = pd.DataFrame(np.random.default_rng(5).normal(size=(N, 6)), columns=axes)
    beside = "sub-01_task-x_desc-confounds_timeseries"
    confounds_file(tmp_path, table, f"{beside}.tsv")
    (tmp_path / f"{beside}.json").write_text("{}")
    preparation = Preparation((Denoise(strategy=("motion",)),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        preparation_motion = Preparation.from_dict(
            {"steps": [{"step": "denoise", "strategy": ["motion"]}]}
        )
    assert preparation == preparation_motion
    with pytest.raises(PreparationError, match="finds fMRIPrep's table itself"):
        list(preparation.stream(series, confounds=tmp_path / "x.tsv"))
    with pytest.raises(PreparationError, match=r"confounds of .*derivative"):
        list(preparation.stream(series))  # the strategy wants derivatives too
    for axis in axes:
        for suffix in ("_derivative1", "_power2", "_derivative1_power2"):
            table[axis + suffix] = np.random.default_rng(len(suffix)).normal(size=N)
    confounds_file(tmp_path, table, f"{beside}.tsv")
    found = stacked(preparation.stream(series))
    values = table.to_numpy()
    expected = by_nilearn(RUN, confounds=values - values.mean(axis=0), filter=False)
    np.testing.assert_allclose(found, expected, atol=2e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="fd"), r"no column 'fd'; it has trans_x"),
        (lambda t: t.iloc[:-1], "35 rows, .* 36 volumes"),
        (lambda t: t.where(t != t.loc[5, "fd"]), "missing values in fd"),
    ],
)
def test_unusable_tables(series, tmp_path, change, message) -> None:
    file = confounds_file(tmp_path, change(CONFOUNDS))
    with pytest.raises(PreparationError, match=message):
        list(Preparation((Denoise(("fd",)),)).stream(series, confounds=file))


def test_a_filter_needs_the_repetition_time(tmp_path) -> None:
    series = open_series(save_run(tmp_path / "run.nii", RUN, t_r=0))
    with pytest.raises(PreparationError, match="needs the repetition time"):
        list(Preparation((Denoise(high_pass_hz=0.01),)).stream(series))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "does nothing"),
        ({"columns": ("a",), "strategy": ("motion",)}, "not both"),
        ({"strategy": ("motion", "scrub")}, "removes volumes"),
        ({"filter": "cosine", "low_pass_hz": 0.1}, "has no low-pass"),
        ({"high_pass_hz": -1}, "more than 0"),
        ({"columns": (1,)}, "holds names"),
    ],
)
def test_denoising_that_makes_no_sense(arguments, message) -> None:
    with pytest.raises(PreparationError, match=message):
        Denoise(**arguments)


# ------------------------------------------------------------------------------------- order


def test_all_stages_in_their_order(series, tmp_path) -> None:
    """The whole chain against one written out by hand with numpy."""
    brain = np.zeros(SHAPE, np.uint8)
    brain[1:6, 2:8, 1:4] = 1
    mask = save_run(tmp_path / "m.nii", brain)
    preparation = Preparation(
        (
            DropVolumes(2),
            Reorient("LAS"),
            Crop((0, 1, 0), (6, None, None)),
            Pad((0, 0, 1), (0, 0, 0), fill=1.0),
            Mask(fill=0.0),
            Scale("minmax"),
            Standardise("time", trend_degree=2),
        )
    )
    run = RUN[::-1][:6, 1:, :, 2:]
    run = np.pad(run, [(0, 0), (0, 0), (1, 0), (0, 0)], constant_values=1.0)
    inside = np.pad(brain[::-1][:6, 1:], [(0, 0), (0, 0), (1, 0)]) > 0
    run = np.where(inside[..., None], run, 0).astype(np.float64)
    low, high = run.min(axis=(0, 1, 2)), run.max(axis=(0, 1, 2))
    expected = oracle_z((run - low) / (high - low), 2)
    seen = []
    volumes = list(
        preparation.stream(series, mask=mask, progress=lambda *counts: seen.append(counts))
    )
    np.testing.assert_allclose(stacked(volumes), expected, atol=1e-4)
    assert seen == [(n, 68) for n in range(1, 69)]  # two passes over 34 volumes
    assert all(v.grid.matches(preparation.grid_of(series.grid)) for v in volumes)
    assert volumes[0].data.flags.c_contiguous
    np.testing.assert_array_equal(preparation.brain_mask(series, mask), inside)


def test_smoothing_comes_before_the_grid() -> None:
    Preparation((Smooth(6), Reorient()))
    with pytest.raises(PreparationError, match="'smooth' must come before 'reorient'"):
        Preparation((Reorient(), Smooth(6)))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Standardise("volume"), Standardise("time")), "'standardise' is there twice"),
        ((Standardise("masked"),), "needs the step 'mask' on the prepared grid"),
        ((Mask(grid="source"), Standardise("masked")), "needs the step 'mask' on the prepared"),
        ((Standardise("volume"), Scale("minmax")), "'scale' must come before"),
        (("reorient",), "made of steps"),
    ],
)
def test_orders_that_make_no_sense(steps, message) -> None:
    with pytest.raises(PreparationError, match=message):
        Preparation(steps)


CALLS = {"n": 0}


def grows(data, affine):
    CALLS["n"] += 1
    return data[: 3 + CALLS["n"]], affine


def test_a_grid_that_changes_within_a_run_is_refused(series) -> None:
    with pytest.raises(PreparationError, match="onto another grid"):
        list(Preparation((UserFunction(f"{__name__}:grows"),)).stream(series))


# -------------------------------------------------------------------------------- the record

ALL_STEPS = (
    DropVolumes(3),
    Denoise(("trans_*",), high_pass_hz=0.01, filter="cosine"),
    Smooth(5),
    Mask(grid="source", fill=None),
    Reorient("LPS"),
    Crop((1, None, -4), (None, -2, None)),
    Pad((1, 0, 0), (0, 0, 2), fill=-1.0),
    Resample((5, 6, 7), AFFINES["oblique"], "continuous", 2.0),
    UserFunction("numpy:copy"),
    Mask("nonzero"),
    Scale("global", 1000),
    Standardise("masked"),
)


def test_every_step_survives_yaml_and_json() -> None:
    assert {type(step) for step in ALL_STEPS} == set(STEPS.values())
    preparation = Preparation(ALL_STEPS, "MNI152Lin")
    plain = preparation.to_dict()
    for text in (yaml.safe_dump(plain), json.dumps(plain)):
        again = Preparation.from_dict(yaml.safe_load(text))
        assert again == preparation
        assert again.describe() == preparation.describe()
    assert len(preparation.describe()) == len(ALL_STEPS)
    assert hash(preparation) == hash(Preparation.from_dict(plain))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive(name) -> None:
    preparation = Preparation.preset(name, standardise="time", trend_degree=2, drop_volumes=4)
    text = yaml.safe_dump(preparation.to_dict())
    assert Preparation.from_dict(yaml.safe_load(text)) == preparation
    assert preparation.needs_run
    assert preparation.n_dropped == 4


def test_the_short_form() -> None:
    short = yaml.safe_load(
        """
        preset: MNI152NLin6Asym_2mm_90
        standardise: masked
        fill: -1
        smoothing_mm: 6
        confounds: [trans_x, rot_x]
        high_pass_hz: 0.008
        scale: minmax
        space: MNI152Lin
        interpolation: continuous
        """
    )
    preparation = Preparation.from_dict(short)
    assert preparation.space == "MNI152Lin"
    names = ["denoise", "smooth", "reorient", "resample", "mask", "scale", "standardise"]
    assert [step.name for step in preparation.steps] == names
    assert preparation.steps[3].interpolation == "continuous"
    assert preparation.steps[4] == Mask("file", fill=-1.0)
    assert Preparation.from_dict({"prepare": "numpy:copy"}).steps[0] == UserFunction("numpy:copy")
    assert Preparation.preset("reference-crop").steps == (
        Crop((1, 10, 1), (None, -9, None)),
        Standardise("volume"),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "mni"}, "`preset` is one of 'MNI152NLin6Asym_2mm_90', 'reference-crop'"),
        ({"preset": "reference-crop", "smooth": 5}, "no 'smooth'; allowed are .*smoothing_mm"),
        ({"presett": "reference-crop"}, "no 'presett'; allowed are preset"),
        ({"steps": [{"step": "crop", "begin": 1}]}, "step 'crop' has no 'begin'; .*start, stop"),
        ({"steps": [{"step": "crop"}]}, "it takes start, stop"),
        ({"steps": [{"step": "warp"}]}, "`step` is one of 'drop_volumes'"),
        ({"steps": ["crop"]}, "a mapping with its name under 'step'"),
        ({"steps": "crop"}, "`steps` is a list"),
        ({"steps": [], "smoothing_mm": 5}, "no 'smoothing_mm'; allowed are space, steps"),
        ({"space": 3, "steps": []}, "`space` is the name of a space"),
        ("reference-crop", "is a mapping"),
        ({"drop_volumes": "two"}, "integer of at least 0"),
        ({"smoothing_mm": [4, 4, 4]}, "finite number"),
    ],
)
def test_descriptions_that_are_wrong(values, message) -> None:
    with pytest.raises(PreparationError, match=message):
        Preparation.from_dict(values)


@settings(max_examples=40)
@given(
    st.sampled_from(["RAS", "LPI", "PIR"]),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from(sorted(AFFINES)),
)
def test_the_prepared_grid_is_known_without_a_volume(codes, first, more, name) -> None:
    preparation = Preparation(
        (Reorient(codes), Crop((first, 0, 0), (None, -1, None)), Pad((more, 1, 0), (0, 0, more)))
    )
    source = ImageGrid(SHAPE, AFFINES[name])
    from g3dvit.volumes import Volume

    prepared = preparation.apply(Volume(RUN[..., 0], source, "run.nii", 0, None))
    assert prepared.grid.matches(preparation.grid_of(source))
    assert prepared.data.shape == prepared.grid.shape


# -------------------------------------------------------------------------------- real data


@pytest.mark.real_data
def test_the_localizer_goes_through() -> None:
    import nibabel as nib

    (path,) = localizer_folder().glob("*res-4mm*bold.nii.gz")
    series = open_series(path)
    steps = (Crop((0, 0, 0), (45, 54, 45)), Standardise("time", trend_degree=1))
    preparation = Preparation(steps, "MNI152")
    found = stacked(preparation.stream(series, range(0, 156, 31)))
    assert found.shape == (45, 54, 45, 6)
    run = nib.load(path).get_fdata(dtype=np.float32)[:45, :54, :45]
    alive = np.argwhere(run.std(axis=-1) > 0)[::500]
    expected = oracle_z(run[tuple(alive.T)][:, None, None], 1)[:, 0, 0, ::31]
    np.testing.assert_allclose(found[tuple(alive.T)], expected, atol=1e-5)
    grid = preparation.grid_of(series.grid)
    np.testing.assert_allclose(grid.affine, series.grid.affine)


def test_the_manual_names_every_setting() -> None:
    text = (Path(__file__).parents[1] / "docs" / "preparation.md").read_text()
    assert [key for key in CHANGES if f"`{key}" not in text] == []
    block = text.split("```yaml\n")[1].split("```")[0]
    preparation = Preparation.from_dict(yaml.safe_load(block)["preparation"])
    assert preparation.steps[-1] == Standardise("time", trend_degree=1)
