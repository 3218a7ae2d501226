"""Shift-averaged maps of a whole job: means of each class's own, sidecars, options, page."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from g3dvit import explain_image, load_model
from g3dvit.cli import main
from g3dvit.errors import GridError, MethodError
from g3dvit.explain import Explainer
from g3dvit.maps import RelevanceMap
from g3dvit.report.contrasts import contrasts_of
from g3dvit.report.scene import scene_of
from g3dvit.report.words import display_sentence
from g3dvit.run import RunSource, explain_run, shift_plan
from g3dvit.run.shift_plan import plan_shifts, split_methods
from g3dvit.saved_runs import load_run
from planted_model import PATCH, SPOT, affine_for, save_planted_model, save_planted_run
from test_run import write_labels


def job(folder, **changes):
    source = RunSource(
        images=(save_planted_run(folder),), events=(write_labels(folder),), delay_s=0
    )
    return explain_run(source, save_planted_model(folder), device="cpu", **changes)


def maps_of(result, method):
    return next(maps for maps in result.maps if maps.method == method)


def prepared(folder):
    """The volumes of the planted run as the model takes them."""
    data = np.asarray(nib.load(save_planted_run(folder)).dataobj, dtype=np.float32)
    return torch.from_numpy(np.moveaxis(data, 3, 0)[:, None].copy())


def test_class_means_explain_each_groups_own_class(tmp_path) -> None:
    result = job(tmp_path)
    maps = maps_of(result, "shift_averaged")
    assert maps.volumes == () and maps.display_only and maps.fine and not maps.signed
    assert [(str(m.key), m.target, m.n) for m in maps.class_means] == [
        ("correct/bright", "bright", 4),
        ("correct/dark", "dark", 4),
    ]
    x = prepared(tmp_path)
    explainer = Explainer(load_model(save_planted_model(tmp_path), device="cpu"))
    names = ("dark", "bright")
    for mean in maps_of(result, "shift_weighted_signed").class_means:
        of_class = x[np.flatnonzero(result.predictions["label"] == mean.key.group)]
        own = names.index(mean.key.group)
        expected = explainer.explain(of_class, "shift_weighted_signed", target=own).voxel_relevance
        np.testing.assert_allclose(mean.voxel.data, expected.mean(0), rtol=1e-4, atol=1e-6)
        assert "moved share" in {check.name for check in mean.checks}
    for mean in maps.class_means:
        members = result.predictions["label"] == mean.key.group
        found = explainer.explain(
            x[np.flatnonzero(members)], "shift_averaged", target=names.index(mean.key.group)
        )
        expected = found.voxel_relevance.mean(0).numpy()
        np.testing.assert_allclose(mean.voxel.data, expected, rtol=1e-4, atol=1e-6)
        box = tuple(slice(s * p, (s + 1) * p) for s, p in zip(SPOT, PATCH, strict=True))
        near = tuple(
            slice(max(0, b.start - p // 2), b.stop + p // 2)
            for b, p in zip(box, PATCH, strict=True)
        )
        assert mean.voxel.data[near].sum() > 0.9 * mean.voxel.data.sum()
        assert mean.patch.metadata["use"] == "for display, not for statistics"
        assert mean.patch.metadata["target"] == mean.key.group
        assert mean.patch.metadata["options"] == {"shifts": 8}
        assert "kept shifts" in {check.name for check in mean.checks}
    told = display_sentence(*result.maps)
    assert told.startswith("Signed shift-averaged relevance and shift-averaged relevance are for")
    assert contrasts_of(result, maps) == ()  # own-class means are not subtracted
    assert len(contrasts_of(result, maps_of(result, "frozen_gate"))) == 1


def test_means_are_of_some_volumes_evenly(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shift_plan, "MOST", 2)
    result = job(tmp_path)
    means = maps_of(result, "shift_averaged").class_means
    assert [mean.n for mean in means] == [2, 2]
    for mean in means:
        sample = mean.patch.metadata["sample"]
        assert sample == {
            "rule": "at most 2 volumes of each class, evenly over the runs",
            "of": 4,
        }
    assert [m.n for m in maps_of(result, "frozen_gate").class_means] == [4, 4]


class Selected:
    """As much of a run as is chosen from."""

    def __init__(self, labels):
        self.selection = self
        self.time_points = tuple(range(10, 10 + len(labels)))
        self.labels = tuple(labels)


def test_the_sample_is_even_and_per_class(monkeypatch) -> None:
    monkeypatch.setattr(shift_plan, "MOST", 3)
    runs = [Selected("aabba"), Selected("aaaab")]
    plan = plan_shifts(["shift_averaged"], runs, 2)
    # of class a (10, 11, 14; 10 to 13) the first, the middle one and the last; all three of b
    assert plan.time_points == ({10, 12, 13}, {10, 13, 14})
    assert plan.count == 6
    unlabelled = plan_shifts(["shift_averaged"], [Selected([None] * 9)], 2)
    assert unlabelled.count == 6
    assert plan_shifts(["shift_averaged"], runs, 2, per_volume=True).count == 10
    assert plan_shifts([], runs, 2).count == 0


def test_methods_are_split() -> None:
    assert split_methods(["frozen_gate", "shift_averaged"], 8) == (
        ("frozen_gate",),
        ("shift_averaged",),
    )
    assert split_methods(["shift_averaged_gamma"], 8) == (
        ("frozen_gate",),
        ("shift_averaged_gamma",),
    )
    assert split_methods(["hirescam", "shift_averaged"], 0) == (("hirescam",), ())


def test_every_volume_on_request(tmp_path) -> None:
    result = job(
        tmp_path, methods=["shift_averaged_gamma"], shifts=4, shift_averaged_per_volume=True
    )
    assert {maps.method for maps in result.maps} == {"frozen_gate", "shift_averaged_gamma"}
    maps = maps_of(result, "shift_averaged_gamma")
    (volumes,) = maps.volumes
    x = prepared(tmp_path)
    explainer = Explainer(load_model(save_planted_model(tmp_path), device="cpu"))
    found = explainer.explain(x, "shift_averaged_gamma", shifts=4)
    np.testing.assert_allclose(
        volumes.data, np.moveaxis(found.relevance.numpy(), 0, -1), rtol=1e-3, atol=1e-6
    )
    assert volumes.metadata["options"] == {"shifts": 4, "gamma": 0.5}
    assert len(maps.checks) == 8


def test_shifts_of_zero_leave_the_maps_out(tmp_path) -> None:
    methods = {maps.method for maps in job(tmp_path, shifts=0).maps}
    assert methods == {"token_gradcam", "frozen_gate"}


def test_options_of_methods_are_recorded_and_refused(tmp_path) -> None:
    with pytest.raises(MethodError, match="`gamma` means nothing to"):
        job(tmp_path, methods=["frozen_gate"], gamma=0.3)
    with pytest.raises(MethodError, match="between 1 and"):
        job(tmp_path, shifts=10_000)
    result = job(
        tmp_path, methods=["frozen_gate_noise", "frozen_gate_gamma"], samples=2, gamma=0.3, seed=3
    )
    noise, gamma = (
        maps_of(result, f"frozen_gate_{name}").volumes[0].metadata["options"]
        for name in ("noise", "gamma")
    )
    assert noise == {"samples": 2, "noise": 0.1, "seed": 3}
    assert gamma == {"gamma": 0.3}


def test_references_from_files(tmp_path) -> None:
    reference = save_planted_run(tmp_path, name="sub-09")
    result = job(tmp_path, methods=["occlusion"], references=[reference])
    maps = result.maps[0].volumes[0]
    assert maps.metadata["options"]["references"] == [
        f"{reference.name}, time point {t}" for t in range(8)
    ]
    (one, *_) = explain_image(
        save_planted_run(tmp_path),
        save_planted_model(tmp_path),
        method="occlusion",
        references=[reference],
        target="bright",
        volumes=[0],
    )
    explainer = Explainer(load_model(save_planted_model(tmp_path), device="cpu"))
    x = prepared(tmp_path)
    found = explainer.explain(x[:1], "occlusion", references=x, target=1)
    np.testing.assert_allclose(one.data, found.relevance[0], rtol=1e-4, atol=1e-5)
    moved = affine_for("RAS")
    moved[0, 3] += 6
    elsewhere = tmp_path / "sub-07_space-MNI152NLin6Asym_bold.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(reference).dataobj), moved), elsewhere)
    with pytest.raises(GridError, match=r"the reference .*sub-07.* another grid"):
        job(tmp_path, methods=["occlusion"], references=[elsewhere])


def test_the_command_takes_them_all_and_the_page_is_made_again(tmp_path, capsys) -> None:
    run, model = save_planted_run(tmp_path), save_planted_model(tmp_path)
    reference = save_planted_run(tmp_path, name="sub-09")
    out = tmp_path / "out"
    words = ["explain", str(run), "-m", str(model), "-o", str(out), "--volumes", "0:3"]
    words += ["--method", "occlusion", "shift_averaged_gamma", "frozen_gate_noise"]
    words += ["--shifts", "2", "--gamma", "0.4", "--samples", "2", "--noise", "0.2", "--seed", "5"]
    assert main([*words, "--references", str(reference)]) == 0
    said = capsys.readouterr()
    assert "for the shifts of 3 of them" in said.err
    assert "for statistics take the content of frozen-gate relevance" in said.out
    sidecars = [json.loads(path.read_text()) for path in out.glob("class_means/*res-voxel*.json")]
    # Values of voxels have other units than those of patches, and say so.
    units = {sidecar["method"]: sidecar["units"] for sidecar in sidecars}
    assert (
        units["shift_averaged_gamma"] == "log-odds per voxel" and units["occlusion"] == "log-odds"
    )
    patches = [json.loads(path.read_text()) for path in out.glob("class_means/*res-patch*.json")]
    assert {sidecar["units"] for sidecar in patches} == {"log-odds"}
    options = {sidecar["method"]: sidecar["options"] for sidecar in sidecars}
    assert options["shift_averaged_gamma"] == {"shifts": 2, "gamma": 0.4}
    assert options["frozen_gate_noise"] == {"samples": 2, "noise": 0.2, "seed": 5}
    assert len(options["occlusion"]["references"]) == 8
    shown = [s for s in sidecars if s["method"] == "shift_averaged_gamma"]
    assert {s["target"] for s in shown} == {"bright", "dark"}
    assert {s["use"] for s in shown} == {"for display, not for statistics"}
    again = load_run(out)
    maps = maps_of(again, "shift_averaged_gamma")
    assert maps.display_only and len(maps.checks) == 3 and not maps.volumes
    assert {mean.target for mean in maps.class_means} == {"bright", "dark"}
    layers = scene_of(again)["viewer"]["layers"]
    assert {layer["target"] for layer in layers} >= {"bright", "dark"}
    page = (out / "report.html").read_text()
    assert "is for display, not for statistics; each class mean explains its own class" in page


def test_an_image_gives_one_map_a_volume(tmp_path) -> None:
    maps = list(
        explain_image(
            save_planted_run(tmp_path),
            save_planted_model(tmp_path),
            method="shift_averaged",
            shifts=3,
            volumes=[0, 1],
        )
    )
    assert len(maps) == 2 and all(isinstance(one, RelevanceMap) for one in maps)
    assert all(one.metadata["options"] == {"shifts": 3} for one in maps)
