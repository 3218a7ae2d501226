"""A whole job on a model that is known to look at one place: files, millimetres, sides, groups."""

from __future__ import annotations

import contextlib
import io
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from g3dvit import explain_image, load_model, open_series
from g3dvit.accuracy import independent_units
from g3dvit.cli import main
from g3dvit.errors import DescriptionError, GridError, LayerError, SelectionError, TargetError
from g3dvit.run import RunSource, explain_run
from g3dvit.run.targets import parse_target, plan_targets
from planted_model import (
    GRID,
    PATCH,
    SPOT,
    VOXEL_MM,
    affine_for,
    save_planted_model,
    save_planted_run,
    spot_mm,
)


def peak_mm(path):
    image = nib.load(path)
    data = np.abs(np.asarray(image.dataobj))
    ijk = np.unravel_index(int(data.argmax()), data.shape)[:3]
    return nib.affines.apply_affine(image.affine, ijk)


def write_labels(folder):
    table = folder / "events.tsv"
    rows = [f"{t * 1.5}\t1.5\t{'bright' if t % 2 == 0 else 'dark'}" for t in range(8)]
    table.write_text("onset\tduration\ttrial_type\n" + "\n".join(rows) + "\n")
    return table


HALF_PATCH_MM = VOXEL_MM * np.array(PATCH) / 2


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS"])
@pytest.mark.parametrize("axes", ["b 1 i j k", "b 1 k i j"])
def test_the_planted_place_is_found_at_its_millimetre(tmp_path, orientation, axes) -> None:
    source = RunSource(
        images=(save_planted_run(tmp_path, orientation),),
        events=(write_labels(tmp_path),),
        delay_s=0,
    )
    result = explain_run(source, save_planted_model(tmp_path, axes=axes), device="cpu")
    for maps in result.maps:
        found = [*maps.volumes, *(m.patch for m in maps.class_means)]
        found += [m.voxel for m in maps.class_means]
        for number, one in enumerate(found):
            path = one.save(tmp_path / f"{maps.method}-{number}_relevance.nii.gz")
            assert np.all(np.abs(peak_mm(path) - spot_mm()) <= HALF_PATCH_MM), path.name


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One run through the command line: folder of the inputs, words, and what it said."""
    folder = tmp_path_factory.mktemp("written")
    bold, model = save_planted_run(folder, "LAS"), save_planted_model(folder)
    words = ["explain", str(bold), "--model", str(model), "-o", str(folder / "out")]
    words += ["--events", str(write_labels(folder)), "--delay", "0"]
    words += ["--classes", "bright=bright", "dark=dark"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(words) == 0
    return folder, words, out.getvalue(), err.getvalue()


def test_the_command_writes_every_map_at_its_millimetre(written) -> None:
    folder, _, said, talk = written
    files = sorted((folder / "out").glob("**/*_relevance.nii.gz"))
    assert len(files) == 2 + 4 * 2 * 2  # per volume: methods; means: methods x classes x grids
    assert not list((folder / "out" / "maps").glob("*shift*"))
    for path in files:
        assert np.all(np.abs(peak_mm(path) - spot_mm()) <= HALF_PATCH_MM), path.name
    for line in said.splitlines():
        name, _, path = line.partition("  ")
        if name in ("page", "figure", "predictions"):
            assert (folder / path.strip()).is_file()
    assert "balanced accuracy 1.00" in said
    assert "8 volumes, about" in talk


def test_sidecars_say_what_the_map_is(written) -> None:
    folder, words, _, _ = written
    (path,) = (folder / "out").glob("maps/*frozengate_relevance.json")
    sidecar = json.loads(path.read_text())
    assert sidecar["method"] == "frozen_gate"
    assert sidecar["score"] == "log_odds"
    assert sidecar["source"] == words[1]
    assert len(sidecar["model"]["weights_sha256"]) == 64
    assert sidecar["volumes"]["predicted"] == ["bright", "dark"] * 4
    assert sidecar["preparation"]["steps"] == [{"step": "reorient", "axcodes": "RAS"}]
    assert sidecar["versions"]["g3dvit"]
    image = nib.load(path.with_suffix(".nii.gz"))
    assert image.shape == (*GRID, 8)
    assert image.header["pixdim"][4] == pytest.approx(1.5)


def test_an_output_is_not_replaced_unasked(written, capsys) -> None:
    folder, words, _, _ = written
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    assert main(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")} == before


def test_the_map_on_the_source_grid_lies_where_the_signal_is(tmp_path) -> None:
    bold = save_planted_run(tmp_path, "LAS")
    model = load_model(save_planted_model(tmp_path), device="cpu")
    (found,) = explain_image(bold, model, method="frozen_gate", volumes=[2])
    on_source = found.to_grid(open_series(bold).grid, interpolation="nearest")
    # stored LAS: the patch of the prepared i lies at the other end of the stored i
    stored = np.zeros(on_source.data.shape, bool)
    i = slice(12 - (SPOT[0] + 1) * PATCH[0], 12 - SPOT[0] * PATCH[0])
    j, k = (slice(s * p, (s + 1) * p) for s, p in zip(SPOT[1:], PATCH[1:], strict=True))
    stored[i, j, k] = True
    assert np.abs(on_source.data[stored]).min() > 10 * np.abs(on_source.data[~stored]).max()


def test_class_means_explain_one_target_and_keep_groups_apart(tmp_path) -> None:
    bold = save_planted_run(tmp_path)
    events = write_labels(tmp_path)
    table = pd.read_csv(events, sep="\t")
    table.loc[5, "trial_type"] = "bright"  # a dark volume that is called bright: an error
    table.to_csv(events, sep="\t", index=False)
    source = RunSource(images=(bold,), events=(events,), delay_s=0)
    result = explain_run(source, save_planted_model(tmp_path), device="cpu")
    assert result.target == "bright"
    assert result.volume_target == "predicted class"
    frozen = next(maps for maps in result.maps if maps.method == "frozen_gate")
    groups = {str(mean.key): mean for mean in frozen.class_means}
    assert {name: mean.n for name, mean in groups.items()} == {
        "correct/bright": 4,
        "error/bright": 1,
        "correct/dark": 3,
    }
    # one target: bright volumes speak for it at the spot, dark ones (and the error) against it
    assert groups["correct/bright"].patch.data[SPOT] > 0.5
    assert groups["correct/dark"].patch.data[SPOT] < -0.5
    assert groups["error/bright"].patch.data[SPOT] < -0.5
    # per volume the predicted class is explained, so that every volume speaks for its own
    assert (frozen.volumes[0].data[SPOT] > 0.5).all()
    members = np.flatnonzero((result.predictions["label"] == "dark").to_numpy())
    wanted = -frozen.volumes[0].data[..., members].mean(-1)  # two classes: log-odds are opposite
    np.testing.assert_allclose(groups["correct/dark"].patch.data, wanted, rtol=1e-4, atol=1e-5)


def test_volumes_without_labels_are_grouped_by_prediction(tmp_path) -> None:
    source = RunSource(images=(save_planted_run(tmp_path),), volumes="0:4")
    result = explain_run(source, save_planted_model(tmp_path), device="cpu", target="dark")
    assert [str(m.key) for m in result.maps[0].class_means] == ["all/bright", "all/dark"]
    assert result.target == "dark"
    assert "Accuracy unknown" in result.checks[0].sentence


def test_every_volume_keeps_its_numbers(tmp_path) -> None:
    bold = save_planted_run(tmp_path)
    model = load_model(save_planted_model(tmp_path), device="cpu")
    result = explain_run(RunSource(images=(bold,), volumes="1:8:3"), model)
    rows = result.predictions
    assert rows["time_point"].tolist() == [1, 4, 7]
    assert rows["predicted"].tolist() == ["dark", "bright", "dark"]
    assert rows["onset_s"].tolist() == [2.25, 6.75, 11.25]
    maps = next(m for m in result.maps if m.method == "frozen_gate").volumes[0]
    assert maps.t_r == pytest.approx(4.5)
    assert (maps.sform_code, maps.qform_code) == (4, 4)
    np.testing.assert_allclose(rows["p_dark"] + rows["p_bright"], 1)
    data = np.asarray(nib.load(bold).dataobj)[..., 4]
    import torch

    logits = model(torch.from_numpy(data.astype(np.float32))[None, None]).detach()[0]
    np.testing.assert_allclose(rows["logit_bright"][1], logits[1].item(), rtol=1e-5)
    np.testing.assert_allclose(rows["score"][1], (logits[1] - logits[0]).item(), rtol=1e-5)


def test_frozen_gate_shares_in_the_files_add_up(tmp_path) -> None:
    source = RunSource(images=(save_planted_run(tmp_path),))
    result = explain_run(
        source, save_planted_model(tmp_path), device="cpu", methods=["frozen_gate"]
    )
    volumes = result.maps[0].volumes[0]
    both = volumes.companions["content"] + volumes.companions["position"]
    np.testing.assert_allclose(volumes.data, both, rtol=1e-5, atol=1e-6)


def test_token_gradcam_saves_its_two_halves(tmp_path) -> None:
    source = RunSource(images=(save_planted_run(tmp_path),))
    model = save_planted_model(tmp_path)
    result = explain_run(
        source, model, device="cpu", methods=["token_gradcam"], weighting="all", target="bright"
    )
    assert [maps.weighting for maps in result.maps] == ["mean", "max", "abs", "relu"]
    assert result.score == "logit"
    for maps in result.maps:
        halves = maps.volumes[0].companions
        product = halves["patch_weights"] * halves["token_sum"]
        np.testing.assert_allclose(maps.volumes[0].data, product, rtol=1e-4, atol=1e-7)


def test_other_methods_of_the_table_can_be_asked_for(tmp_path, capsys) -> None:
    names = ["gradcam", "layercam", "hirescam", "gradient_x_input", "smoothgrad"]
    run, model = save_planted_run(tmp_path), save_planted_model(tmp_path)
    source = RunSource(images=(run,), volumes="0:2")
    result = explain_run(source, model, device="cpu", methods=names, score="probability")
    assert {maps.method for maps in result.maps} == set(names)
    for maps in result.maps:
        assert np.abs(maps.volumes[0].data).max() > 0
        assert "saturated head" in {check.name for check in maps.summary}
        # Without frozen gates it is told of the first volumes, for methods at tokens.
        told = [check.name for check in maps.checks[0]].count("beside the tokens")
        assert told == (maps.method in ("gradcam", "layercam", "hirescam"))
    units = {maps.method: maps.units for maps in result.maps}
    assert units["gradcam"] == "probability"
    assert units["smoothgrad"] == "score per unit of signal"
    arguments = ["explain", str(run), "-m", str(model), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--method", "integrated_gradients", "--volumes", "0:1"]) == 1
    assert "give `references`" in capsys.readouterr().err


def test_several_runs_keep_their_own_maps(tmp_path) -> None:
    first = save_planted_run(tmp_path, name="sub-01")
    second = save_planted_run(tmp_path, "LAS", name="sub-02")
    result = explain_run(
        RunSource(images=(first, second), volumes="0:3"), save_planted_model(tmp_path), device="cpu"
    )
    assert result.predictions["run"].nunique() == 2
    a, b = next(maps for maps in result.maps if maps.method == "frozen_gate").volumes
    np.testing.assert_allclose(a.data, b.data, rtol=1e-4, atol=1e-5)  # the same brain, stored twice
    assert [mean.n for mean in result.maps[0].class_means] == [4, 2]


def test_runs_on_other_grids_are_not_averaged(tmp_path) -> None:
    first = save_planted_run(tmp_path, name="sub-01")
    moved = nib.load(save_planted_run(tmp_path, name="sub-02"))
    affine = affine_for("RAS")
    affine[0, 3] += 6
    path = tmp_path / "sub-03_space-MNI152NLin6Asym_bold.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), affine), path)
    with pytest.raises(GridError, match="explain them one at a time"):
        explain_run(RunSource(images=(first, path)), save_planted_model(tmp_path), device="cpu")


def test_training_data_draw_a_warning_and_no_accuracy(tmp_path) -> None:
    model = save_planted_model(tmp_path, trained_on=["sub-01"])
    source = RunSource(
        images=(save_planted_run(tmp_path),), events=(write_labels(tmp_path),), delay_s=0
    )
    result = explain_run(source, model, device="cpu")
    assert any("the model was trained on" in sentence for sentence in result.warnings)
    assert result.checks[0].verdict == "warn"
    assert "training" in result.checks[0].sentence


def test_labels_that_are_no_classes_are_refused(tmp_path) -> None:
    source = RunSource(
        images=(save_planted_run(tmp_path),),
        events=(write_labels(tmp_path),),
        classes={"light": ["bright"], "dark": ["dark"]},
        delay_s=0,
    )
    with pytest.raises(SelectionError, match=r"called light, but the classes.* are dark, bright"):
        explain_run(source, save_planted_model(tmp_path), device="cpu")


def test_a_description_without_preparation_is_refused(tmp_path) -> None:
    model = save_planted_model(tmp_path, preparation=None)
    with pytest.raises(DescriptionError, match="has no `preparation:`"):
        explain_run(RunSource(images=(save_planted_run(tmp_path),)), model, device="cpu")


def test_the_same_image_twice_is_refused(tmp_path) -> None:
    bold = save_planted_run(tmp_path)
    with pytest.raises(SelectionError, match="is given twice"):
        explain_run(RunSource(images=(bold, bold)), save_planted_model(tmp_path), device="cpu")


def test_targets_in_words() -> None:
    names = ["left", "right-hand", "rest"]
    assert parse_target("right-hand", names) == 1
    assert parse_target("right-hand-left", names) == (1, 0)
    assert parse_target("2", names) == 2
    assert parse_target(("rest", 0), names) == (2, 0)
    assert plan_targets("label", "left", names).targets == ["label", 0]
    assert plan_targets("rest", None, names).targets == [2]
    with pytest.raises(TargetError, match="there is no class 'up'"):
        parse_target("up", names)
    with pytest.raises(TargetError, match="explain one class for all groups"):
        plan_targets("predicted", "predicted", names)


def test_independent_units_are_stretches_or_runs() -> None:
    table = pd.DataFrame(
        {
            "run": ["a"] * 6 + ["b"] * 2,
            "label": ["x", "x", "y", "x", "x", "x", "y", "y"],
            "block": [0, 0, 1, 2, 2, 3, None, None],
        }
    )
    units = independent_units(table)
    assert [units.index(unit) for unit in units] == [0, 0, 2, 3, 3, 5, 6, 6]


def test_the_command_recommends_a_map_and_says_which_checks_it_made(written) -> None:
    folder, _, said, _ = written
    provenance = json.loads((folder / "out" / "provenance.json").read_text())
    advice = provenance["recommendation"]
    assert advice["label"] == "signed shift-averaged relevance"
    assert "for statistics take the content of frozen-gate relevance" in advice["sentences"][1]
    for sentence in advice["sentences"]:
        assert sentence in said
    names = {check["name"] for check in provenance["checks"]["frozen-gate relevance"]}
    assert names >= {
        "completeness", "finite values", "flat map", "patch share", "position share",
        "float64 agreement", "jitter", "class-blind", "input-blind", "invisible patches",
        "attention steering",
    }  # fmt: skip
    told = [check["name"] for check in provenance["run_checks"]]
    assert told[1:] == ["amplitude blindness", "batch dependence"]
    (sidecar,) = (folder / "out").glob("maps/*frozengate_relevance.json")
    volumes = json.loads(sidecar.read_text())["checks"]
    assert all("input-blind" in {check["name"] for check in row} for row in volumes)
    limits = {c["name"]: (c["threshold_warn"], c["threshold_fail"]) for c in volumes[0]}
    assert limits["completeness"] == (1e-4, 0.01) and limits["patch share"] == (0.2, 0.02)
    assert all(len({c["name"] for c in row}) == len(row) for row in volumes)


def test_class_means_of_content_and_position_add_up_to_those_of_relevance(tmp_path) -> None:
    source = RunSource(
        images=(save_planted_run(tmp_path, "RAS"),), events=(write_labels(tmp_path),), delay_s=0
    )
    result = explain_run(source, save_planted_model(tmp_path), methods=["frozen_gate"])
    (maps,) = result.maps
    for mean in maps.class_means:
        parts = mean.patch.companions
        np.testing.assert_allclose(
            parts["content"] + parts["position"], mean.patch.data, rtol=1e-4, atol=1e-6
        )


def test_defaults_leave_out_what_a_model_does_not_allow(tmp_path, capsys) -> None:
    source = RunSource(images=(save_planted_run(tmp_path),), volumes="0:2")
    model = save_planted_model(tmp_path, factory="planted_model:WithoutNorm")
    result = explain_run(source, model, device="cpu")
    assert {maps.method for maps in result.maps} == {
        "frozen_gate",
        "shift_averaged",
        "shift_weighted_signed",
    }
    assert any(w.startswith("token_gradcam is left out: no norm") for w in result.warnings)
    with pytest.raises(LayerError, match="no normalisation layer"):  # asked for by name
        explain_run(source, model, device="cpu", methods=["token_gradcam"])
    words = ["explain", str(source.images[0]), "-m", str(model), "--volumes", "0:2"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    assert "token_gradcam is left out" in capsys.readouterr().err


def test_a_model_that_gives_probabilities_is_told_of_whatever_the_method(tmp_path) -> None:
    source = RunSource(images=(save_planted_run(tmp_path),), volumes="0:2")
    model = save_planted_model(tmp_path, factory="planted_model:WithSoftmax")
    result = explain_run(source, model, device="cpu", methods=["token_gradcam"])
    assert any("a softmax: its scores are probabilities" in w for w in result.warnings)
