"""What two small models and a linear decoder reach on one real run, fold by fold.

One person's visual localizer (studyforrest, Sengupta et al. 2016, doi 10.1038/sdata.2016.93): is
the volume from a picture block or from rest, and, exploratory, scene and house against face and
body. Blocks are left out with a gap of six volumes; the null swaps the labels of a block and the
rest after it, or of the n-th blocks of the two classes. It measures plumbing and accuracy, not
localisation: frontal voxels alone tell picture from rest at about .8.

    G3DVIT_TEST_DATA=... python benchmarks/real_run.py            # resumes where it stopped
    python benchmarks/real_run.py --results results --epochs 40   # own folder, own epochs

Writes one JSON per model and question to ``--results`` and the table to ``docs/real_run.md``
(numbers only). A finished entry is not computed again; delete its JSON to redo it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from g3dvit.evaluate import pair_swaps
from g3dvit.prepare import Crop, Preparation, Reorient, Standardise
from g3dvit.run import RunSource
from g3dvit.train import Fitting, TrainingReport, train_model

ROOT = Path(__file__).parents[1]
GAP = 6
STIMULI = ("face", "scene", "body", "house", "object", "scramble")
QUESTIONS = {
    "stimulus or rest": {"rest": ("BASELINE",), "stimulus": STIMULI},
    "scene+house or face+body (exploratory)": {
        "place": ("scene", "house"),
        "person": ("face", "body"),
    },
}
# Stretches of neighbouring blocks that all hold both classes: three of twelve, two of eight.
FOLDS = {"stimulus or rest": 3, "scene+house or face+body (exploratory)": 2}
MONAI = {
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
MODELS = {
    "MONAI ViT": {"factory": "monai.networks.nets:ViT", "arguments": MONAI},
    "vit_3d": {"patch_size": 9},
}


def preparation() -> Preparation:
    """Return the steps from the 4 mm run to 45 x 54 x 45 voxels."""
    steps = (Reorient("RAS"), Crop((0, 0, 0), (45, 54, 45)), Standardise("time", trend_degree=2))
    return Preparation(steps)


def source(data: Path, question: str) -> RunSource:
    """Return the run with the classes of a question."""
    folder = data / "studyforrest_localizer"
    name = "sub-02_task-oneback_run-1_space-MNI152_res-4mm_desc-mcbrain_bold.nii.gz"
    return RunSource(
        images=(folder / name,), events=(folder / "blocks.tsv",), classes=QUESTIONS[question]
    )


def pairs_of(report: TrainingReport) -> list[int]:
    """Return which pair each held-out volume belongs to.

    A pair is a block and the rest after it, or the n-th blocks of the two classes.
    """
    order = report.predictions.sort_values("time_point")
    if "rest" in report.class_names:
        pair = order["block"].ffill().bfill()
    else:
        pair = order.groupby("label")["block"].rank(method="dense")
    return [int(p) for p in pair.reindex(report.predictions.index)]


def measure(data: Path, model: str, question: str, epochs: int, seed: int) -> dict[str, object]:
    """Train every fold of one model on one question."""
    started = time.time()
    with TemporaryDirectory() as folder, tqdm(desc=f"{model}, {question}", file=sys.stderr) as bar:

        def progress(done: int, total: int, doing: str) -> None:
            bar.total = total
            bar.set_postfix_str(doing, refresh=False)
            bar.update(done - bar.n)

        report = train_model(
            source(data, question),
            Path(folder) / "model",
            preparation=preparation(),
            split="block",
            n_folds=FOLDS[question],
            gap_volumes=GAP,
            refit=False,
            fitting=Fitting(epochs=epochs, batch_size=16),
            seed=seed,
            progress=progress,
            **MODELS[model],
        )
    table = report.predictions
    swaps = pair_swaps(table["label"], table["predicted"], pairs_of(report))
    linear = pair_swaps(table["label"], table["linear_predicted"], pairs_of(report))
    return {
        "question": question,
        "model": model,
        "epochs": epochs,
        "seed": seed,
        "folds": [round(fold.balanced_accuracy, 3) for fold in report.folds],
        "balanced_accuracy": round(swaps.balanced_accuracy, 3),
        "p": round(swaps.p, 4),
        "linear": round(linear.balanced_accuracy, 3),
        "linear_p": round(linear.p, 4),
        "n": report.n_total,
        "labellings": len(swaps.null),
        "seconds": round(time.time() - started),
        "torch": torch.__version__,
    }


def table_of(results: list[dict[str, object]]) -> str:
    """Return the results as a page."""
    lines = [
        "# One real run: accuracy of small models",
        "",
        "Written by `benchmarks/real_run.py`; numbers only. One person, one run (studyforrest",
        "visual localizer, 4 mm, TR 2 s), 45 x 54 x 45 voxels, voxel-wise z-scores over time after",
        "a quadratic trend, patch 9, width 64, depth 2. Balanced accuracy on left-out blocks",
        f"(three or two folds of neighbouring blocks, {GAP} volumes of gap); p from all labellings",
        "that swap labels within pairs (a block and its rest, or the n-th blocks of two classes).",
        "",
        "This shows that the parts work together on a real run. It says nothing about where:",
        "frontal voxels alone tell picture blocks from rest at about .8. And nothing about people.",
        "",
        "| question | model | per fold | all | p | linear | p | volumes | labellings | seed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        folds = " / ".join(f"{value:.2f}" for value in r["folds"])  # type: ignore[attr-defined]
        lines.append(
            f"| {r['question']} | {r['model']} | {folds} | {r['balanced_accuracy']:.2f} | {r['p']} "
            f"| {r['linear']:.2f} | {r['linear_p']} | {r['n']} | {r['labellings']} | {r['seed']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "real_run_results")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "real_run.md")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    data = os.environ.get("G3DVIT_TEST_DATA")
    if not data:
        parser.error("set G3DVIT_TEST_DATA to the folder that holds studyforrest_localizer")
    arguments.results.mkdir(parents=True, exist_ok=True)
    results = []
    for question in QUESTIONS:
        for model in MODELS:
            for seed in arguments.seeds:
                name = "".join(c if c.isalnum() else "-" for c in f"{question} {model} {seed}")
                path = arguments.results / f"{name}.json"
                if not path.exists():
                    found = measure(Path(data), model, question, arguments.epochs, seed)
                    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                results.append(json.loads(path.read_text(encoding="utf-8")))
                arguments.table.write_text(table_of(results), encoding="utf-8")
    print(arguments.table)


if __name__ == "__main__":
    main()
