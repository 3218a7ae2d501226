"""The small trainer: splits that leak are refused, and what is learnt is what was planted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from g3dvit.baseline.folds import divide
from g3dvit.cli import main
from g3dvit.errors import (
    DescriptionError,
    InputError,
    LeakageError,
    ModelError,
    OutputError,
    SelectionError,
)
from g3dvit.evaluate.prepared import load_candidate, notes_on_nulls
from g3dvit.grids import ImageGrid
from g3dvit.models import load_model
from g3dvit.prepare import Preparation
from g3dvit.run import RunSource
from g3dvit.run.accuracy import accuracy_check
from g3dvit.run.inputs import open_runs
from g3dvit.train import (
    Fitting,
    Fold,
    LinearDecoder,
    Samples,
    check_fold,
    load_samples,
    make_folds,
    train_model,
)
from g3dvit.train.fit import _hide, _shift, fit_model, predict
from g3dvit.train.linear import fit_linear
from g3dvit.train.permute import permute_labels
from g3dvit.train.report import balanced_accuracy
from g3dvit.train.samples import RunVolumes
from g3dvit.train.small import small_vit

SHAPE = (6, 8, 10)
ARGUMENTS = {
    "frames": 6,
    "image_size": [8, 10],
    "frame_patch_size": 3,
    "image_patch_size": 2,
    "channels": 1,
    "num_classes": 2,
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "dim_head": 8,
    "mlp_dim": 16,
}
PREPARATION = Preparation.from_dict({"standardise": "time"})
QUICK = Fitting(epochs=12, batch_size=16, learning_rate=3e-3)
VIT = Fitting(epochs=25, batch_size=16, learning_rate=1e-2)


def write_runs(folder: Path, subjects: int = 2, runs: int = 2, *, seed: int = 0) -> RunSource:
    """Write runs of 40 volumes with six blocks; class "b" is bright in one corner."""
    rng = np.random.default_rng(seed)
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    images, events = [], []
    for subject in range(1, subjects + 1):
        for run in range(1, runs + 1):
            data = rng.normal(100, 1, (*SHAPE, 44)).astype(np.float32)
            rows = []
            for block, kind in enumerate("abbaba"):
                start = 2 + 7 * block
                corner = (slice(0, 3), slice(0, 3)) if kind == "b" else (slice(3, 6), slice(4, 8))
                data[corner[0], corner[1], :6:2, start : start + 5] += 3.0
                rows.append(f"{2.0 * start - 4}\t10\t{kind}")
            stem = folder / f"sub-{subject:02d}_run-{run}"
            image = nib.Nifti1Image(data, affine)
            image.header.set_zooms((3, 3, 4, 2.0))
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, f"{stem}_bold.nii.gz")
            text = "\n".join(["onset\tduration\ttrial_type", *rows]) + "\n"
            Path(f"{stem}_events.tsv").write_text(text)
            images.append(Path(f"{stem}_bold.nii.gz"))
            events.append(Path(f"{stem}_events.tsv"))
    return RunSource(
        images=tuple(images),
        events=tuple(events),
        classes={"a": ("a",), "b": ("b",)},
        delay_s=5.0,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RunSource:
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def samples(source: RunSource) -> Samples:
    return load_samples(open_runs(source), PREPARATION)


def toy_samples(
    units: list[tuple[str, str, int, int, str]], *, whole_run_labels: bool = False
) -> Samples:
    """Return samples of (subject, run, time point, block, label) without real values."""
    names = list(dict.fromkeys(run for _, run, *_ in units))
    subject_of = {run: subject for subject, run, *_ in units}
    runs = tuple(
        RunVolumes(n, f"{n}.nii", subject_of[n], np.zeros((1, 0)), np.zeros(0, int), (2, 3, 4), n)
        for n in names
    )
    label = [u[4] for u in units]
    classes = tuple(sorted(set(label)))
    block = np.array([u[3] for u in units])
    return Samples(
        runs=runs,
        class_names=classes,
        run=np.array([names.index(u[1]) for u in units]),
        row=np.zeros(len(units), int),
        time_point=np.array([u[2] for u in units]),
        onset_s=np.array([2.0 * u[2] for u in units]),
        label=np.array([classes.index(name) for name in label]),
        block=block,
        unit=np.maximum(block, 0),
        whole_run_labels=whole_run_labels,
        grid=ImageGrid((2, 3, 4), np.eye(4)),
        brain=np.ones((2, 3, 4), bool),
    )


def one_run(n_blocks: int = 6, length: int = 12) -> Samples:
    """Return one run of blocks, each with 8 task volumes and 4 of rest."""
    units = []
    for block in range(n_blocks):
        for t in range(length):
            kind = ("stim", block) if t < 8 else ("rest", -1)
            units.append(("sub-01", "run-1", block * length + t, kind[1], kind[0]))
    samples = toy_samples(units)
    return replace(samples, unit=np.repeat(np.arange(n_blocks), length))


# -- samples ----------------------------------------------------------------------------------


def test_samples_hold_the_prepared_volumes(source: RunSource, samples: Samples) -> None:
    assert len(samples) == 4 * 30 and samples.class_names == ("a", "b")
    assert np.bincount(samples.label).tolist() == [60, 60]
    buffer = np.full((3, *SHAPE), 7.0, np.float32)
    got = samples.fill(np.array([0, 100]), buffer)
    runs = open_runs(source)
    first = next(PREPARATION.stream(runs[0].series, runs[0].selection.time_points[:1]))
    assert got.shape == (2, *SHAPE)
    assert np.abs(got[0] - first.data).max() < 2e-3  # half precision
    assert samples.runs[0].values.dtype == np.float16
    assert samples.subjects[[0, 119]].tolist() == ["sub-01", "sub-02"]


def test_raw_values_keep_single_precision(source: RunSource) -> None:
    raw = load_samples(open_runs(source)[:1], Preparation())
    assert raw.runs[0].values.dtype == np.float32


def test_rest_belongs_to_the_block_before_it(source: RunSource) -> None:
    classes = {"task": ("a", "b"), "rest": ("BASELINE",)}
    runs = open_runs(replace(source, classes=classes))
    samples = load_samples(runs[:1], PREPARATION)
    assert samples.unit.max() == 5
    rest = samples.block == -1
    assert rest.any() and not samples.whole_run_labels
    for place in np.flatnonzero(rest):
        before = [
            u for u, b in zip(samples.unit[:place], samples.block[:place], strict=True) if b >= 0
        ]
        assert samples.unit[place] == (before[-1] if before else 0)


def test_volumes_without_labels_cannot_train(source: RunSource) -> None:
    runs = open_runs(RunSource(images=source.images))
    with pytest.raises(SelectionError, match="needs a label for every volume"):
        load_samples(runs, PREPARATION)


def test_classes_must_be_there(source: RunSource) -> None:
    runs = open_runs(source)
    with pytest.raises(SelectionError, match="'b' is none of the classes a, c"):
        load_samples(runs, PREPARATION, ("a", "c"))
    with pytest.raises(SelectionError, match="nothing of c"):
        load_samples(runs, PREPARATION, ("a", "b", "c"))


# -- splits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "n"), [("subject", 2), ("run", 4)])
def test_every_group_is_tested_once_and_whole(samples: Samples, unit: str, n: int) -> None:
    folds = make_folds(samples, unit, n_folds=n, seed=3)
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested.tolist()) == list(range(len(samples)))
    for fold in folds:
        of = samples.subjects if unit == "subject" else samples.run
        assert not set(of[fold.train]) & set(of[fold.test])
        assert len(fold.train) + len(fold.test) == len(samples) and fold.n_gap == 0


def test_blocks_are_left_out_with_a_gap_on_both_sides() -> None:
    samples = one_run()
    folds = make_folds(samples, "block", n_folds=3, gap_volumes=6)
    middle = folds[1]
    assert samples.time_point[middle.test].tolist() == list(range(24, 48))
    assert samples.time_point[middle.train].tolist() == [*range(18), *range(54, 72)]
    assert middle.n_gap == 12
    assert middle.held_out == ("run-1 block 3", "run-1 block 4")


def test_a_single_division_tests_about_a_share(samples: Samples) -> None:
    (fold,) = make_folds(samples, "run", test_share=0.25, seed=1)
    assert len(fold.test) == 30
    (named,) = make_folds(samples, "subject", test=["sub-02"])
    assert set(samples.subjects[named.test]) == {"sub-02"}


def test_whole_run_labels_are_spread_over_folds() -> None:
    units = [
        (f"sub-{s:02d}", f"run-{s}", t, -1, "child" if s > 4 else "adult")
        for s in range(1, 13)
        for t in range(3)
    ]
    samples = toy_samples(units, whole_run_labels=True)
    for seed in range(5):
        for fold in make_folds(samples, "subject", n_folds=4, seed=seed):
            labels = samples.label[fold.test]
            assert (np.bincount(labels, minlength=2) == [3, 6]).all()


def test_labels_of_people_are_not_split_within_people() -> None:
    units = [
        (f"sub-{s}", f"sub-{s}_run-{r}", t, -1, "ab"[s % 2])
        for s in range(4)
        for r in range(2)
        for t in range(2)
    ]
    with pytest.raises(LeakageError, match="recognise the person"):
        make_folds(toy_samples(units, whole_run_labels=True), "run", n_folds=2)


def fold_of(train: list[int], test: list[int]) -> Fold:
    return Fold(np.array(train), np.array(test), ("x",), 0)


def test_leaks_are_refused() -> None:
    samples = one_run(4)
    with pytest.raises(LeakageError, match="training and test at once"):
        check_fold(samples, fold_of([0, 1], [1]), "block")
    with pytest.raises(LeakageError, match="sub-01 is in training and test"):
        check_fold(samples, fold_of([0], [40]), "subject")
    with pytest.raises(LeakageError, match="run-1 is in training and test"):
        check_fold(samples, fold_of([0], [40]), "run")
    with pytest.raises(LeakageError, match="block 0 of run-1 is in training and test"):
        check_fold(samples, fold_of([0], [7]), "block")
    with pytest.raises(LeakageError, match="only 5 volumes apart; the gap is 6"):
        check_fold(samples, fold_of([6], [12]), "block")
    with pytest.raises(LeakageError, match="at least 6 are needed"):
        check_fold(samples, fold_of([0], [40]), "block", gap_volumes=5)
    check_fold(samples, fold_of([5], [12]), "block")


def test_the_same_data_under_two_names_are_a_leak(tmp_path: Path) -> None:
    source = write_runs(tmp_path, subjects=1, runs=2)
    copy = tmp_path / "sub-09_run-1_bold.nii.gz"
    copy.write_bytes(source.images[0].read_bytes())
    twice = replace(
        source, images=(*source.images, copy), events=(*source.events, source.events[0])
    )
    samples = load_samples(open_runs(twice), PREPARATION)
    with pytest.raises(LeakageError, match="hold the same data"):
        make_folds(samples, "subject", test=["sub-09"])


def test_too_few_groups_and_missing_classes_are_told(samples: Samples) -> None:
    with pytest.raises(SelectionError, match="needs as many of them; there are 2"):
        make_folds(samples, "subject", n_folds=5)
    with pytest.raises(SelectionError, match="no subject 'sub-7'"):
        make_folds(samples, "subject", test=["sub-7"])
    units = [("s", f"r{r}", t, t // 2, "ab"[r % 2]) for r in range(2) for t in range(4)]
    with pytest.raises(SelectionError, match="has no volume of class"):
        make_folds(toy_samples(units), "run", n_folds=2)
    with pytest.raises(InputError, match="folds are at least 1"):
        make_folds(samples, "run", n_folds=0)


# -- fitting ----------------------------------------------------------------------------------


class Corner(torch.nn.Module):
    """Takes (batch, 1, i, j, k) and returns a linear function of it, in a tuple as MONAI does."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(int(np.prod(SHAPE)), classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.head(self.dropout(x.flatten(1))), []


def to_input(volumes: np.ndarray) -> np.ndarray:
    return volumes[:, None]


def test_training_learns_repeats_and_leaves_the_generators_alone(samples: Samples) -> None:
    (fold,) = make_folds(samples, "run", seed=0)
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        model = Corner()
        before = torch.get_rng_state()
        fit = fit_model(model, samples, fold.train, to_input, QUICK, seed=2)
        assert torch.equal(before, torch.get_rng_state())
        weights.append(model.head.weight.detach().clone())
    assert torch.equal(*weights)
    assert fit.loss[-1] < fit.loss[0] and len(fit.loss) == QUICK.epochs
    logits = predict(model, samples, fold.test, to_input)
    assert (logits.argmax(axis=1) == samples.label[fold.test]).mean() > 0.9
    assert not model.training and model.head.weight.grad is None


def test_outputs_that_do_not_fit_the_classes_are_told(samples: Samples) -> None:
    with pytest.raises(ModelError, match=r"needs \(16, 2\)"):
        fit_model(Corner(3), samples, np.arange(16), to_input, QUICK)


def test_a_loss_that_is_not_finite_is_told(samples: Samples) -> None:
    model = Corner()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="loss is not finite"):
        fit_model(model, samples, np.arange(16), to_input, QUICK)


def test_shifts_repeat_the_border_and_hidden_cubes_are_whole() -> None:
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(3, 7, 9, 11)).astype(np.float32)
    moved = _shift(volumes, 2, np.random.default_rng(3))
    steps = np.random.default_rng(3).integers(-2, 3, 3)
    for i, j, k in [(0, 0, 0), (6, 8, 10), (3, 4, 5)]:
        at = np.clip(np.array([i, j, k]) - steps, 0, np.array([6, 8, 10]))
        assert np.array_equal(moved[:, i, j, k], volumes[(slice(None), *at)])
    hidden = _hide(np.ones((200, 7, 9, 11), np.float32), 0.25, 4, np.random.default_rng(1))
    cubes = [
        hidden[:, i : i + 4, j : j + 4, k : k + 4].reshape(200, -1)
        for i in (0, 4) for j in (0, 4, 8) for k in (0, 4, 8)
    ]  # fmt: skip
    assert all(np.array_equal(cube.min(axis=1), cube.max(axis=1)) for cube in cubes)
    assert np.mean([1 - cube[:, 0].mean() for cube in cubes]) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"learning_rate": 0.0}, {"warm_up": 1.0}])
def test_impossible_fittings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"above 0|lie in 0 to 1"):
        Fitting(**change)


def test_the_linear_decoder_is_ridge_regression(samples: Samples, tmp_path: Path) -> None:
    train, test = np.arange(60), np.arange(60, 120)
    decoder = fit_linear(samples, train)
    assert (decoder.predict(samples, test) == samples.label[test]).mean() > 0.9
    # An independent solution in the dual, with the intercept by weighted centring.
    x = samples.fill(train, np.empty((60, *SHAPE), np.float32)).reshape(60, -1)
    x = x[:, samples.brain.ravel()].astype(np.float64)
    y = np.where(samples.label[train] == 1, 1.0, -1.0)
    x0, y0 = x - x.mean(0), y - y.mean()
    penalty = float(x.astype(np.float32).var()) * x.shape[1]
    expected = x0.T @ np.linalg.solve(x0 @ x0.T + penalty * np.eye(60), y0)
    assert decoder.weights[:, 1] == pytest.approx(expected, abs=1e-5)
    decoder.save(tmp_path / "d.safetensors")
    again = LinearDecoder.load(tmp_path / "d.safetensors")
    assert np.array_equal(again.predict(samples, test), decoder.predict(samples, test))


def test_balanced_accuracy_weighs_classes_the_same() -> None:
    assert balanced_accuracy([0] * 9 + [1], [0] * 10) == 0.5


# -- the whole job ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(source: RunSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "out"
    seen: list[tuple[int, int, str]] = []
    report = train_model(
        source,
        folder,
        preparation=PREPARATION,
        arguments=ARGUMENTS,
        n_folds=2,
        fitting=VIT,
        progress=lambda *step: seen.append(step),
    )
    assert report.balanced_accuracy > 0.8 and report.linear_balanced_accuracy > 0.9
    assert report.unit == "subject" and report.refitted and len(report.folds) == 2
    assert seen[-1][0] == seen[-1][1] and all(0 < done <= total for done, total, _ in seen)
    return folder


def test_the_written_model_gives_the_written_predictions(source: RunSource, trained: Path) -> None:
    table = pd.read_csv(trained / "heldout_predictions.tsv", sep="\t", na_values="n/a")
    assert len(table) == 120 and set(table["fold"]) == {1, 2}
    samples = load_samples(open_runs(source), PREPARATION)
    for fold in (1, 2):
        model = load_model(trained / f"fold-{fold}" / "model.yaml")
        mine = table[table["fold"] == fold]
        which = np.flatnonzero(np.isin(samples.subjects, mine["subject"].unique()))
        logits = predict(model, samples, which, model.description.to_input).astype(np.float64)
        p_b = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
        assert p_b == pytest.approx(mine["p_b"].to_numpy(), abs=2e-5)
        seen = model.description.trained_on
        assert not any(subject in name for name in seen for subject in mine["subject"])


def test_the_description_says_what_was_held_out(trained: Path) -> None:
    values = yaml.safe_load((trained / "model.yaml").read_text())
    assert values["class_names"] == ["a", "b"] and values["weights"] == "model.safetensors"
    assert values["accuracy"]["n_total"] == [12, 12] and values["accuracy"]["unit"] == "block"
    assert len(values["trained_on"]) == 4  # the written model was trained once more, on all runs
    recipe = json.loads((trained / "training.json").read_text())
    assert recipe["seed"] == 0 and recipe["fitting"]["epochs"] == VIT.epochs
    assert len(recipe["runs"]) == 4 and len(recipe["folds"]) == 2


def test_nothing_is_overwritten_and_nothing_left_behind(source: RunSource, trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    with pytest.raises(OutputError, match="--overwrite"):
        train_model(source, trained, preparation=PREPARATION, arguments=ARGUMENTS)
    failing = trained.parent / "failing"
    with pytest.raises(ModelError, match="number of classes"):
        train_model(
            source,
            failing,
            preparation=PREPARATION,
            arguments={**ARGUMENTS, "num_classes": 3},
            fitting=replace(QUICK, epochs=1),
        )
    assert sorted(trained.rglob("*")) == before
    assert [p.name for p in trained.parent.iterdir()] == [trained.name]


def test_the_small_default_fits_the_grid() -> None:
    arguments = small_vit("vit_pytorch.vit_3d:ViT", (90, 60, 45), 3, None)
    assert (arguments["frames"], arguments["image_size"]) == (90, [60, 45])
    assert arguments["image_patch_size"] == 15 and arguments["num_classes"] == 3
    with pytest.raises(InputError, match=r"choose one of \[15, 5, 3\]"):
        small_vit("vit_pytorch.vit_3d:ViT", (90, 60, 45), 3, 7)
    with pytest.raises(InputError, match="needs its arguments"):
        small_vit("monai.networks.nets:ViT", (90, 60, 45), 3, None)


def test_the_command_line_trains(source: RunSource, tmp_path: Path, capsys) -> None:
    from g3dvit.cli import main

    out = tmp_path / "model"
    words = ["train", *map(str, source.images), "--events", *map(str, source.events)]
    words += ["--classes", "a=a", "b=b", "-o", str(out), "--preset", "none"]
    words += ["--prepare", "standardise=time", "--split", "run", "--epochs", "1"]
    for name in ("frame_patch_size", "image_patch_size", "dim", "depth"):
        words += ["--argument", f"{name}={ARGUMENTS[name]}"]
    assert main(words) == 0
    told = capsys.readouterr()
    built = yaml.safe_load((out / "model.yaml").read_text())["arguments"]
    small = small_vit("vit_pytorch.vit_3d:ViT", (6, 8, 10), 2, 1)
    changed = {name: value for name, value in built.items() if value != small[name]}
    assert changed == {"frame_patch_size": 3, "image_patch_size": 2, "dim": 16, "depth": 1}
    assert str(out / "model.yaml") in told.out.split()
    assert "held-out balanced accuracy" in told.err and "linear" in told.err
    assert main(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--prepare", "standardise"]) == 1
    assert "NAME=VALUE" in capsys.readouterr().err


# -- null models --------------------------------------------------------------------------------
def test_permuted_labels_are_exchanged_between_whole_blocks(samples: Samples) -> None:
    mixed = permute_labels(samples, seed=1)
    assert (mixed.label != samples.label).any()
    for run in range(len(samples.runs)):
        mine = samples.run == run
        assert sorted(mixed.label[mine]) == sorted(samples.label[mine])
        for block in set(samples.block[mine]):
            assert len(set(mixed.label[mine & (samples.block == block)])) == 1
    again = permute_labels(samples, seed=1)
    assert (again.label == mixed.label).all()


def test_permuted_labels_of_subjects_stay_with_subjects() -> None:
    units = [(f"sub-{n}", f"run-{n}", t, -1, "ab"[n % 2]) for n in range(6) for t in range(3)]
    plain = toy_samples(units, whole_run_labels=True)
    mixed = permute_labels(plain, seed=0)
    assert (mixed.label != plain.label).any()
    assert all(len(set(mixed.label[plain.run == n])) == 1 for n in range(6))
    assert np.bincount(mixed.label).tolist() == [9, 9]
    alike = replace(plain, label=np.zeros_like(plain.label))
    with pytest.raises(SelectionError, match="cannot be exchanged"):
        permute_labels(alike)


def test_a_null_model_says_so_wherever_it_is_used(
    source: RunSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, events = ([str(p) for p in some] for some in (source.images, source.events))
    runs = [*images, "--events", *events, "--classes", "a=a", "b=b"]
    how = ["--preset", "none", "--prepare", "standardise=time", "--epochs", "25", "--no-linear"]
    how += ["--batch-size", "16", "--learning-rate", "1e-2"]  # few volumes of few voxels
    how += [w for k, v in ARGUMENTS.items() for w in ("--argument", f"{k}={v}")]
    null, true = tmp_path / "null", tmp_path / "true"
    assert main(["train", *runs, *how, "--split", "run", "--permute-labels", "-o", str(null)]) == 0
    told = capsys.readouterr().err
    assert "labels were exchanged" in told and "--null-model" in told
    assert main(["train", *runs, *how, "--split", "run", "-o", str(true)]) == 0
    assert "exchanged" not in capsys.readouterr().err
    recipe = json.loads((null / "training.json").read_text())
    assert recipe["permuted_labels"] is True and recipe["balanced_accuracy"] < 0.75
    true_recipe = json.loads((true / "training.json").read_text())
    assert true_recipe["balanced_accuracy"] > 0.75

    # Whatever its luck, and on whatever volumes, its maps show nothing.
    lucky = load_model(null / "model.yaml").description
    table = pd.DataFrame({"run": "r", "block": range(40), "label": ["a", "b"] * 20})
    check = accuracy_check(table.assign(predicted=table["label"]), ("a", "b"), lucky)
    assert check.verdict == "fail" and "null model" in check.sentence
    honest = load_model(true / "model.yaml").description
    assert (
        accuracy_check(table.assign(predicted=table["label"]), ("a", "b"), honest).verdict == "pass"
    )

    # A baseline takes neither its folds nor its answers: they are about other labels.
    samples = load_samples(open_runs(source), PREPARATION)
    assert divide(samples, true / "model.yaml").origin == "those of the model's own test"
    assert divide(samples, null / "model.yaml").origin.startswith("new ones")

    # An evaluation refuses the model as its own null, and says where nothing tells that it is one.
    null_candidate, candidate = (load_candidate(m / "model.yaml", "cpu") for m in (null, true))
    assert notes_on_nulls(candidate, [null_candidate]) == []
    assert "exchanged labels" in notes_on_nulls(null_candidate, [])[0]
    with pytest.raises(DescriptionError, match="has the weights of the model itself"):
        notes_on_nulls(candidate, [candidate])
    assert "does not say" in notes_on_nulls(null_candidate, [candidate])[0]
