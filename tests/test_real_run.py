"""A real run through the whole job: train with blocks left out, explain, check what is written.

It shows that the parts work together on a real run, not that maps are right: on this run frontal
voxels alone tell pictures from rest at about .8. Accuracy is compared with all labellings that
swap a block with the rest after it; shifting labels in a circle is no null here, because blocks
repeat every twelve volumes.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from g3dvit.evaluate import pair_swaps
from g3dvit.outputs import output_folder, write_run
from g3dvit.prepare import Crop, Preparation, Reorient, Standardise
from g3dvit.run import RunSource, explain_run
from g3dvit.train import Fitting, TrainingReport, train_model

DATA = os.environ.get("G3DVIT_TEST_DATA")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,  # about a minute on two cores: three small models are trained
    pytest.mark.skipif(not DATA, reason="G3DVIT_TEST_DATA names no folder with real data"),
]

NAME = "sub-02_task-oneback_run-1_space-MNI152_res-4mm_desc-mcbrain_bold.nii.gz"
STIMULI = ("face", "scene", "body", "house", "object", "scramble")
PREPARATION = Preparation(
    (Reorient("RAS"), Crop((0, 0, 0), (45, 54, 45)), Standardise("time", trend_degree=2))
)
MODEL = {
    "in_channels": 1,
    "img_size": [45, 54, 45],
    "patch_size": [9, 9, 9],
    "hidden_size": 64,
    "mlp_dim": 128,
    "num_layers": 2,
    "num_heads": 4,
    "classification": True,
    "num_classes": 2,
    "spatial_dims": 3,
    "post_activation": "none",
}


def source() -> RunSource:
    folder = Path(str(DATA)) / "studyforrest_localizer"
    return RunSource(
        images=(folder / NAME,),
        events=(folder / "blocks.tsv",),
        classes={"rest": ("BASELINE",), "stimulus": STIMULI},
    )


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainingReport:
    return train_model(
        source(),
        tmp_path_factory.mktemp("real") / "model",
        preparation=PREPARATION,
        factory="monai.networks.nets:ViT",
        arguments=MODEL,
        split="block",
        n_folds=3,
        gap_volumes=6,
        refit=False,
        fitting=Fitting(epochs=16, batch_size=16),
    )


def test_blocks_are_left_out_with_a_gap(training: TrainingReport) -> None:
    assert training.unit == "block" and len(training.folds) == 3
    assert training.n_total == 156  # every volume is tested once
    for fold in training.folds:
        assert len(fold.held_out) == 4 and fold.n_gap in (6, 12)
        assert fold.n_train + fold.n_test + fold.n_gap == 156


def test_accuracy_beats_labels_swapped_within_block_and_rest(training: TrainingReport) -> None:
    table = training.predictions.sort_values("time_point")
    pairs = table["block"].ffill().bfill().astype(int)
    assert pairs.nunique() == 12
    swaps = pair_swaps(table["label"], table["predicted"], pairs)
    assert len(swaps.null) == 2**12
    assert swaps.balanced_accuracy > np.quantile(swaps.null, 0.99)
    assert swaps.p < 0.01
    linear = pair_swaps(table["label"], table["linear_predicted"], pairs)
    assert linear.balanced_accuracy > 0.75 and linear.p < 0.01


@pytest.fixture(scope="module")
def explained(training: TrainingReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    held_out = training.predictions[training.predictions["fold"] == 2]["time_point"]
    chosen = replace(source(), volumes=tuple(int(t) for t in held_out[:24]))
    result = explain_run(chosen, training.folder / "fold-2" / "model.yaml", mean_target="stimulus")
    # The model has seen other blocks of this run, and that is said.
    assert any("trained on" in sentence for sentence in result.warnings)
    folder = tmp_path_factory.mktemp("real-maps") / "explained"
    with output_folder(folder) as place:
        write_run(result, place)
    return folder


def test_maps_lie_where_the_run_lies(explained: Path) -> None:
    run = nib.load(source().images[0])
    maps = sorted((explained / "maps").glob("*.nii.gz"))
    patches = [path for path in maps if nib.load(path).ndim == 4]
    assert patches
    # The prepared grid begins at the first voxel of the run in RAS order; patches are 36 mm.
    ras = nib.as_closest_canonical(run)
    corner = ras.affine @ [-0.5, -0.5, -0.5, 1]
    for path in patches:
        image = nib.load(path)
        assert image.shape == (5, 6, 5, 24)
        assert image.affine @ [-0.5, -0.5, -0.5, 1] == pytest.approx(corner, abs=1e-3)
        assert nib.affines.voxel_sizes(image.affine) == pytest.approx([36, 36, 36])
        assert image.header.get_zooms()[3] == pytest.approx(2.0)
        assert np.isfinite(np.asarray(image.dataobj)).all()
        assert np.ptp(np.asarray(image.dataobj)) > 0
    told = [json.loads(path.read_text()) for path in (explained / "maps").glob("*.json")]
    assert len(told) == 2  # one per method; companions are described in their map's sidecar
    assert all(NAME in json.dumps(sidecar) for sidecar in told)
    means = sorted((explained / "class_means").glob("*.nii.gz"))
    shapes = {nib.load(path).shape for path in means}
    assert {(5, 6, 5), (45, 54, 45)} <= shapes
    for path in means:
        image = nib.load(path)
        if image.shape == (45, 54, 45):
            assert image.affine == pytest.approx(ras.affine, abs=1e-4)


def test_the_folder_is_whole(explained: Path) -> None:
    for name in ("report.html", "predictions.tsv", "provenance.json", "README.txt"):
        assert (explained / name).stat().st_size > 0
    assert list((explained / "figures").glob("*.png"))
    table = pd.read_csv(explained / "predictions.tsv", sep="\t")
    assert len(table) == 24 and set(table["label"]) == {"rest", "stimulus"}


def test_predictions_are_those_of_the_training(explained: Path, training: TrainingReport) -> None:
    now = pd.read_csv(explained / "predictions.tsv", sep="\t").set_index("time_point")
    then = training.predictions
    then = then[then["fold"] == 2].set_index("time_point").loc[now.index]
    assert now["p_stimulus"].to_numpy() == pytest.approx(then["p_stimulus"].to_numpy(), abs=5e-3)
    assert (now["label"] == then["label"]).all()
