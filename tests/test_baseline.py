"""Linear decoder, GLM and searchlight: numbers of scikit-learn and nilearn, places in mm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from g3dvit.baseline import Baseline, BaselineSettings, glm, run_baseline, write_baseline
from g3dvit.baseline.decoder import PatternSum, choose_strength, classes_of, fit_decoder
from g3dvit.baseline.folds import divide, inner_folds, units_of, usable_rows
from g3dvit.baseline.scores import over_units
from g3dvit.baseline.searchlight import choose_edge, cube_grid, make_spheres, sphere_accuracies
from g3dvit.cli import main
from g3dvit.descriptions import ModelDescription
from g3dvit.errors import InputError, LeakageError, SelectionError
from g3dvit.grids import ImageGrid
from g3dvit.prepare import Preparation
from g3dvit.run import RunSource
from g3dvit.run.inputs import open_runs
from g3dvit.train import Fold, Samples, load_samples
from g3dvit.train.report import balanced_accuracy

SHAPE, T_R = (9, 7, 8), 2.0
PLACE = (2, 4, 5)  # voxel of the planted signal in the RAS run
# Around it, neither cubic nor in the middle: a third of the spheres, for tests of the whole.
CORE = (slice(0, 5), slice(1, 7), slice(2, 8))
MODEL = ModelDescription(
    factory="none:None",
    class_names=("rest", "task"),
    preparation=Preparation.from_dict({"standardise": "time"}),
)


def save_run(
    folder: Path,
    *,
    name: str = "sub-01",
    axcodes: str = "RAS",
    seed: int = 1,
    strength: float = 1.5,
    core: bool = False,
) -> tuple[Path, Path]:
    """Write a run of 12 task blocks with an HRF response in a small ball, and its events.

    With `core` all voxels outside `CORE` are 0, and so no brain.
    """
    rng = np.random.default_rng(seed)
    n = 12 * 16
    events = pd.DataFrame({"onset": np.arange(12) * 32.0 + 12, "duration": 16.0})
    events["trial_type"] = "task"
    design = glm.design_of(np.arange(n) * T_R + T_R / 2, events)
    response = design["task"].to_numpy() / design["task"].max()
    data = rng.normal(0, 1, (*SHAPE, n)).astype(np.float32) + 100
    away = np.stack(np.indices(SHAPE), -1) - PLACE
    ball = (away**2).sum(-1) <= 1
    data[ball] += (strength * response).astype(np.float32)
    affine = nib.affines.from_matvec(np.diag([3.0, 4.0, 3.0]), [-20, -11, 7])
    if core:
        whole, data = data, np.zeros_like(data)
        data[CORE] = whole[CORE]
    image = nib.Nifti1Image(data, affine)
    if axcodes != "RAS":
        image = nib.Nifti1Image.from_image(image).as_reoriented(
            nib.orientations.axcodes2ornt(axcodes)
        )
    image.header.set_zooms((*image.header.get_zooms()[:3], T_R))
    image.header.set_xyzt_units("mm", "sec")
    path = folder / f"{name}_bold.nii.gz"
    nib.save(image, path)
    table = folder / f"{name}_events.tsv"
    events.to_csv(table, sep="\t", index=False)
    return path, table


def source_of(*runs: tuple[Path, Path]) -> RunSource:
    return RunSource(
        images=tuple(run[0] for run in runs),
        events=tuple(run[1] for run in runs),
        classes={"rest": ("BASELINE",), "task": ("task",)},
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RunSource:
    return source_of(save_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def samples(source: RunSource) -> Samples:
    return load_samples(open_runs(source), MODEL.preparation, MODEL.class_names)


def planted_mm() -> NDArray[np.float64]:
    return np.array([-20 + 3 * PLACE[0], -11 + 4 * PLACE[1], 7 + 3 * PLACE[2]], float)


def peak_mm(data: NDArray[np.floating], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    ijk = np.unravel_index(int(np.argmax(data)), data.shape)
    return nib.affines.apply_affine(affine, ijk)


# -- decoder -----------------------------------------------------------------------------------
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_decoder_is_that_of_scikit_learn(n_classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(n_classes)
    labels = rng.permutation(np.repeat(np.arange(n_classes), [25, 12, 9][:n_classes]))
    x = rng.normal(3, 2, (len(labels), 70)) + 0.8 * labels[:, None] * (np.arange(70) < 5)
    model = fit_decoder(x, labels, strength=7.0)
    other = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=7.0 / 70, class_weight="balanced", tol=1e-10, max_iter=10_000),
    ).fit(x, labels)
    new = rng.normal(3, 2, (20, 70))
    expected = other.decision_function(new).reshape(20, -1)
    assert np.abs(model.decide(new) - expected).max() < 2e-3 * np.abs(expected).max()
    assert np.abs(model.weights.T - other[-1].coef_).max() < 2e-3 * np.abs(other[-1].coef_).max()
    assert (classes_of(model.decide(new)) == other.predict(new)).all()


def test_the_pattern_is_cov_x_w_and_tells_a_suppressor_from_signal() -> None:
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], 200)
    noise = rng.normal(0, 1, 400)
    x = rng.normal(0, 0.05, (400, 6)) + 10
    x[:, 1] += (2 * labels - 1) * 0.5 + noise  # signal and noise
    x[:, 4] += noise  # the noise alone: a suppressor
    model = fit_decoder(x, labels, strength=100.0)
    decisions = model.decide(x)
    total = PatternSum(decisions)
    for start in range(0, 400, 150):
        total.add(x[start : start + 150])
    pattern = total.pattern()[0]
    raw = (model.weights / model.scale[:, None])[:, 0]
    expected = np.cov(x.T) @ raw / np.std(x @ raw, ddof=1)
    assert np.allclose(pattern, expected, rtol=1e-6, atol=1e-9)
    weights = np.abs(model.weights[:, 0])
    assert weights[4] > 0.7 * weights[1] and weights[4] > 3 * weights[[0, 2, 3, 5]].max()
    assert np.argmax(np.abs(pattern)) == 1 and abs(pattern[4]) < 0.25 * abs(pattern[1])


def test_c_is_chosen_within_the_training_volumes(samples: Samples) -> None:
    fold = divide(samples, None, split="block", n_folds=3).folds[0]
    inner = inner_folds(samples, fold.train, "block", 6)
    assert len(inner) >= 2
    for one in inner:
        assert one.train.max() < len(fold.train) and one.test.max() < len(fold.train)
        train, test = fold.train[one.train], fold.train[one.test]
        apart = np.abs(samples.time_point[train][:, None] - samples.time_point[test][None, :])
        assert apart.min() > 6
    x = np.random.default_rng(0).normal(size=(len(fold.train), 5))
    assert choose_strength(x, samples.label[fold.train], ()) == 1.0


def test_inner_folds_hold_out_whole_subjects_of_those_that_are_left(tmp_path: Path) -> None:
    source = source_of(*(save_run(tmp_path, name=f"sub-{n:02d}", seed=n) for n in range(5)))
    several = load_samples(open_runs(source), MODEL.preparation, MODEL.class_names)
    fold = divide(several, None, split="subject", n_folds=5).folds[2]
    inner = inner_folds(several, fold.train, "subject", 6)
    assert len(inner) == 4
    held = []
    for one in inner:
        train, test = (set(several.subjects[fold.train[side]]) for side in (one.train, one.test))
        assert not train & test and len(test) == 1 and len(train) == 3
        held += sorted(test)
    assert sorted(held) == sorted(set(several.subjects) - set(fold.held_out))


# -- GLM ----------------------------------------------------------------------------------------
def test_the_glm_is_that_of_nilearn(source: RunSource, samples: Samples) -> None:
    from nilearn.glm.first_level import FirstLevelModel

    run = open_runs(source)[0]
    events = glm.class_events(source.events[0], source.classes)
    wanted = range(run.series.n_time_points)
    data = glm.read_run(run, MODEL.preparation, samples, wanted, events)
    effects = glm.FixedEffects()
    for _ in range(2):
        effects.add(
            glm.run_contrasts(data, np.ones(len(wanted), bool), [1], samples.class_names), "sub-01"
        )
    volume = np.zeros((*SHAPE, len(wanted)), np.float32)
    volume[samples.brain] = data.values.T
    image = nib.Nifti1Image(volume, samples.grid.affine)
    mask = nib.Nifti1Image(samples.brain.astype(np.uint8), samples.grid.affine)
    model = FirstLevelModel(
        t_r=T_R, hrf_model="glover", drift_model="cosine", high_pass=1 / 128, slice_time_ref=0.5,
        mask_img=mask, signal_scaling=False, minimize_memory=True,
    )  # fmt: skip
    table = pd.read_csv(source.events[0], sep="\t")
    model.fit([image, image], [table, table])
    z = model.compute_contrast("task", output_type="z_score").get_fdata()[samples.brain]
    assert np.abs(effects.z()[0] - z).max() < 1e-3 and np.abs(z).max() > 8


def test_subjects_from_six_on_are_a_t_test_over_subjects() -> None:
    class Contrast:
        def __init__(self, effect: NDArray[np.float64]) -> None:
            self.effect = effect

        def effect_size(self) -> NDArray[np.float64]:
            return self.effect

        def z_score(self) -> NDArray[np.float64]:
            return np.full_like(self.effect, 99.0)

        def __add__(self, other: Contrast) -> Contrast:
            return self

    values = np.random.default_rng(2).normal(0.5, 1, (6, 4))
    effects = glm.FixedEffects()
    for number, one in enumerate(values[:5]):
        effects.add([Contrast(one)], f"sub-{number}")
    assert (effects.z() == 99).all()  # below six: about these subjects alone
    effects.add([Contrast(values[5])], "sub-5")
    t, p = stats.ttest_1samp(values, 0)
    assert np.allclose(effects.z()[0], np.sign(t) * stats.norm.isf(p / 2), atol=1e-6)


def test_labels_of_runs_are_compared_over_units() -> None:
    rng = np.random.default_rng(3)
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    x = rng.normal(0, 1, (7, 5))
    z = glm.two_sample_z(x, labels, [1])
    t, p = stats.ttest_ind(x[labels == 1], x[labels == 0])
    assert np.allclose(z[0], np.sign(t) * stats.norm.isf(p / 2))
    assert glm.two_sample_z(x[:4], labels[:4], [1]) is None
    assert np.isfinite(glm.t_to_z(np.array([1e5, -1e5]), 200)).all()


def test_the_contrast_is_a_class_against_the_mean_of_the_others() -> None:
    design = pd.DataFrame(np.zeros((1, 4)), columns=["class a", "class b", "other x", "constant"])
    assert glm.contrast_of(design, 0, ["a", "b"]).tolist() == [1, -1, 0, 0]
    assert glm.contrast_of(design, 1, ["a", "b", "rest"]).tolist() == [-0.5, 1, 0, 0]


def test_no_time_point_near_a_test_volume_is_used(samples: Samples) -> None:
    fold = divide(samples, None, split="block", n_folds=3).folds[1]
    times = np.arange(192)
    rows = usable_rows(samples, fold, "block", 6, 0, times)
    tested = samples.time_point[fold.test]
    expected = [all(abs(t - other) > 6 for other in tested) for t in times]
    assert rows.tolist() == expected and 0 < rows.sum() < 192
    assert not usable_rows(samples, fold, "run", 6, 0, times).any()


# -- searchlight ----------------------------------------------------------------------------------
def test_spheres_are_those_computed_one_by_one(samples: Samples) -> None:
    fold = divide(samples, None, split="block", n_folds=3).folds[0]
    spheres = make_spheres(samples, 1, 6.5)
    centres = spheres.centres[[5, 40, 200]]
    found = sphere_accuracies(spheres, fold, centres)
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    ijk = np.stack(np.nonzero(spheres.inside), 1)
    xyz = nib.affines.apply_affine(samples.grid.affine, ijk)
    flat = spheres.values[:, spheres.inside].astype(float)
    for centre, accuracy in zip(centres, found, strict=True):
        own = nib.affines.apply_affine(
            samples.grid.affine, np.unravel_index(centre, samples.grid.shape)
        )
        near = ((xyz - own) ** 2).sum(1) <= 6.5**2
        assert 10 < near.sum() < 60
        x = flat[:, near]
        x = (x - x[fold.train].mean(0)) / x[fold.train].std(0)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
        model.fit(x[fold.train], samples.label[fold.train])
        expected = balanced_accuracy(samples.label[fold.test], model.predict(x[fold.test]))
        assert accuracy == pytest.approx(expected)


def test_cubes_lie_where_their_voxels_lie() -> None:
    grid = ImageGrid((5, 6, 7), nib.affines.from_matvec(np.diag([-3.0, 4, 2]), [9, -8, 7]))
    coarse = cube_grid(grid, 2)
    assert coarse.shape == (3, 3, 4)
    centre = nib.affines.apply_affine(grid.affine, [2.5, 0.5, 4.5])
    assert np.allclose(nib.affines.apply_affine(coarse.affine, [1, 0, 2]), centre)


def test_cubes_grow_until_the_time_is_payable(samples: Samples) -> None:
    folds = divide(samples, None, split="block", n_folds=3).folds
    now = [0.0]

    def measure(spheres: object, fold: Fold, centres: NDArray[np.intp]) -> NDArray[np.float64]:
        now[0] += 1.0 + 3.0 * (len(centres) - 1) / spheres.edge**3  # type: ignore[attr-defined]
        return np.zeros(len(centres))

    chosen = [
        choose_edge(samples, folds, 24.0, minutes, measure, lambda: now[0])
        for minutes in (1e4, 9.0, 1e-6)
    ]
    assert [edge for edge, _ in chosen] == [1, 2, 4]
    assert chosen[0][1] == pytest.approx(3 * (2 * 1 + 504 * 3) / 60, rel=0.01)


# -- scores ---------------------------------------------------------------------------------------
def test_accuracy_is_over_units_and_classes_count_alike() -> None:
    units = np.repeat([f"u{n}" for n in range(8)], 4)
    labels = np.tile([0, 0, 0, 1], 8)
    right = np.random.default_rng(0).random(32) < 0.8
    own = right.reshape(8, 4)
    each = (own[:, :3].mean(1) + own[:, 3]) / 2
    found = over_units(right.astype(float), labels, units, reference=0.5)
    low, high = stats.t.interval(0.95, 7, each.mean(), stats.sem(each))
    assert (found.mean, found.n_units) == (pytest.approx(each.mean()), 8)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(min(1, high)))
    few = over_units(right[:20].astype(float), labels[:20], units[:20], reference=0.5)
    assert np.isnan(few.p) and few.n_units == 5 and np.isfinite(found.p)


def test_always_saying_the_commoner_class_is_chance() -> None:
    labels = np.repeat([0] * 12 + [1] * 3, 2)
    units = np.repeat([f"sub-{n}" for n in range(15)], 2)
    found = over_units((labels == 0).astype(float), labels, units, reference=0.5)
    assert found.mean == 0.5 and found.p == 1.0


# -- the whole ------------------------------------------------------------------------------------
@pytest.mark.parametrize("axcodes", ["RAS", "LAS"])
def test_all_three_find_the_planted_place_in_mm(tmp_path: Path, axcodes: str) -> None:
    source = source_of(save_run(tmp_path, axcodes=axcodes, core=True))
    found = run_baseline(
        source, MODEL, settings=BaselineSettings(n_folds=3, radius_mm=5, searchlight_minutes=5)
    )
    for name in ("linear_pattern", "glm", "searchlight"):
        one = found.maps[name]
        away = np.linalg.norm(peak_mm(one.data, one.grid.affine) - planted_mm())
        assert away <= 4.1, name  # the planted ball has voxels of 3 x 4 x 3 mm around its centre
        assert one.data.max() > 0
    whole = found.table[found.table["fold"] == "all"].set_index("approach")
    assert whole.loc["linear", "balanced_accuracy"] > 0.7
    assert whole.loc["glm", "balanced_accuracy"] > 0.7
    table = found.predictions
    assert whole.loc["linear", "balanced_accuracy"] == pytest.approx(
        balanced_accuracy(table["label"], table["linear"])
    )
    assert whole.loc["linear", "n_units"] == 12 and whole.loc["linear", "p"] < 0.05
    assert "1 subject: nothing here is about people" in " ".join(found.notes)


def test_without_signal_all_are_at_chance(tmp_path: Path) -> None:
    source = source_of(save_run(tmp_path, strength=0.0, seed=8, core=True))
    found = run_baseline(source, MODEL, settings=BaselineSettings(n_folds=3, radius_mm=5))
    whole = found.table[found.table["fold"] == "all"].set_index("approach")
    for name in ("linear", "glm"):
        assert abs(whole.loc[name, "balanced_accuracy"] - 0.5) < 0.12
        assert whole.loc[name, "p"] > 0.01
    assert abs(whole.loc["searchlight", "balanced_accuracy"] - 0.5) < 0.05


def test_leakage_is_refused(source: RunSource, samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(LeakageError, match="gap of 2"):
        run_baseline(source, MODEL, settings=BaselineSettings(n_folds=3, gap_volumes=2))
    path, table = source.images[0], source.events[0]
    copy = tmp_path / "sub-02_bold.nii.gz"
    copy.write_bytes(path.read_bytes())
    doubled = source_of((path, table), (copy, table))
    with pytest.raises(LeakageError, match="hold the same data"):
        run_baseline(doubled, MODEL)
    # labels of whole runs, two runs of one person on both sides
    whole = replace(samples, whole_run_labels=True)
    with pytest.raises((LeakageError, SelectionError)):
        divide(whole, None, split="block", n_folds=3)


def test_folds_are_those_of_the_model(source: RunSource, samples: Samples, tmp_path: Path) -> None:
    folds = divide(samples, None, split="block", n_folds=3, gap_volumes=7).folds
    names = np.array(samples.class_names)
    tables = []
    for number, fold in enumerate(folds, 1):
        label = names[samples.label[fold.test]]
        predicted = np.where(np.arange(len(label)) % 4 == 0, names[0], label)
        tables.append(
            pd.DataFrame({
                "fold": number, "run": samples.runs[0].name,
                "time_point": samples.time_point[fold.test], "label": label,
                "predicted": predicted,
            })
        )  # fmt: skip
    table = pd.concat(tables)
    table.to_csv(tmp_path / "heldout_predictions.tsv", sep="\t", index=False)
    recipe = {"split": "block", "gap_volumes": 7}
    recipe["runs"] = [{"sha256": run.fingerprint} for run in samples.runs]  # type: ignore[assignment]
    (tmp_path / "training.json").write_text(json.dumps(recipe))
    same = divide(samples, tmp_path / "model.yaml")
    assert same.unit == "block" and same.gap_volumes == 7
    for mine, theirs in zip(same.folds, folds, strict=True):
        assert (mine.train == theirs.train).all() and (mine.test == theirs.test).all()
        assert mine.n_gap == theirs.n_gap
    found = run_baseline(
        source,
        replace(MODEL, path=tmp_path / "model.yaml"),
        settings=BaselineSettings(skip=("glm", "searchlight")),
    )
    model = found.table[(found.table["approach"] == "model") & (found.table["fold"] == "all")]
    expected = balanced_accuracy(table["label"], table["predicted"])
    assert model["balanced_accuracy"].item() == pytest.approx(expected)
    assert found.values["linear_minus_model"].n_units == 12
    assert "the model" in found.sentence and "difference" in found.sentence
    # other data: nothing of the model is taken
    recipe["runs"] = [{"sha256": "0"}]  # type: ignore[assignment]
    (tmp_path / "training.json").write_text(json.dumps(recipe))
    assert (divide(samples, tmp_path / "model.yaml").model_answer == -1).all()


def test_labels_only_and_resuming(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = ["participant_id\tgroup"]
    paths = []
    for number in range(8):
        data = np.zeros((*SHAPE, 6), np.float32)
        data[CORE] = rng.normal(0, 1, (*data[CORE].shape,)).astype(np.float32) + 50
        data[PLACE] += 2.0 * (number % 2)
        path = tmp_path / f"sub-{number:02d}_bold.nii.gz"
        nib.save(nib.Nifti1Image(data, np.diag([3.0, 4, 3, 1])), path)
        paths.append(path)
        rows.append(f"sub-{number:02d}\t{'task' if number % 2 else 'rest'}")
    (tmp_path / "participants.tsv").write_text("\n".join(rows) + "\n")
    source = RunSource(images=tuple(paths), labels=tmp_path / "participants.tsv")
    model = replace(MODEL, preparation=Preparation.from_dict({"standardise": "volume"}))
    settings = BaselineSettings(n_folds=4, radius_mm=5)
    parts = tmp_path / "parts"

    class StopError(Exception):
        pass

    def stop(done: int, total: int, doing: str) -> None:
        if doing == "searchlight" and done:
            raise StopError

    with pytest.raises(StopError):
        run_baseline(source, model, settings=settings, parts=parts, progress=stop)
    files = {path: path.stat().st_mtime_ns for path in parts.rglob("*.json")}
    assert any("linear-3" in str(path) for path in files)
    found = run_baseline(source, model, settings=settings, parts=parts)
    assert all(path.stat().st_mtime_ns == then for path, then in files.items())
    fresh = run_baseline(source, model, settings=settings)
    pd.testing.assert_frame_equal(found.table, fresh.table)
    assert np.array_equal(found.maps["glm"].data, fresh.maps["glm"].data)
    assert found.table["unit"].eq("subject").all()
    assert "over subjects" in found.values["glm"]
    peak = np.unravel_index(found.maps["glm"].data.argmax(), SHAPE)
    assert peak == PLACE
    check_folder(found, tmp_path / "out")


def check_folder(found: Baseline, folder: Path) -> None:
    folder.mkdir()
    write_baseline(found, folder)
    table = pd.read_csv(folder / "accuracy.tsv", sep="\t", na_values=["n/a"])
    words = json.loads((folder / "accuracy.json").read_text())
    assert list(table.columns) == list(words)
    assert len(table) == len(found.table)
    listed = json.loads((folder / "baseline.json").read_text())["maps"]
    assert set(listed) == {"glm", "linear_pattern", "searchlight"}
    plain, above = (found.maps[f"searchlight{end}"].data for end in ("", "_above_chance"))
    assert np.allclose(above[plain > 0], np.maximum(plain[plain > 0] - 0.5, 0))
    assert (above[plain == 0] == 0).all()
    for name, file in listed.items():
        image = nib.load(folder / file)
        assert np.array_equal(
            np.asanyarray(image.dataobj), found.maps[found.for_evaluation[name]].data
        )


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="not all"):
        BaselineSettings(skip=("linear", "glm", "searchlight"))
    with pytest.raises(InputError, match="positive"):
        BaselineSettings(radius_mm=0)


def test_units_have_names(samples: Samples) -> None:
    assert len(set(units_of(samples, "block"))) == 12
    assert set(units_of(samples, "subject")) == {"sub-01"}


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    words = ["baseline", "no.nii.gz", "--model", "no.yaml", "-o", str(out)]
    assert main(words) == 1
    assert "was not written by g3dvit" in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "mine"
