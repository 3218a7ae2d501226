"""How the shipped model was made, as a value: what ``g3dvit demo --retrain`` does again.

The recipe lies beside the weights (``demo_recipe.yaml``). It names every seed and size, so that
the same training can be repeated; on another machine or with another number of threads the sums
are added in another order, so the weights agree in what they do and not in their last bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from g3dvit.errors import WeightsError
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import RunSource
from g3dvit.simulate import (
    HANDS,
    Anatomy,
    RunDesign,
    RunFiles,
    load_anatomy,
    subject_name,
    write_run,
)
from g3dvit.train import Fitting, TrainingReport, train_model

Progress = Callable[[int, int, str], None]

SMOOTHING_MM = 6.0
MODEL = "demo_model.yaml"
LINEAR = "demo_linear_decoder.safetensors"
RECIPE = "demo_recipe.yaml"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Seeds and sizes of the shipped model.

    Parameters
    ----------
    seed
        Of the simulated data and of the training.
    n_subjects, runs_per_subject
        Simulated; the last `n_test` subjects are held out whole.
    n_test
        Held-out subjects.
    arguments
        Of ``vit_pytorch.vit_3d:ViT``.
    fitting
        Of the training.
    sha256
        Of the shipped files.
    """

    seed: int
    n_subjects: int
    runs_per_subject: int
    n_test: int
    arguments: dict[str, Any] = field(default_factory=dict)
    fitting: Fitting = field(default_factory=Fitting)
    sha256: dict[str, str] = field(default_factory=dict)


def shipped(name: str) -> Path:
    """Return the path of a file that is shipped with the package."""
    return Path(str(files("g3dvit") / "data" / name))


def load_recipe() -> Recipe:
    """Read how the shipped model was made."""
    values = yaml.safe_load(shipped(RECIPE).read_text(encoding="utf-8"))["recipe"]
    return Recipe(**{**values, "fitting": Fitting(**values["fitting"])})


def check_shipped(recipe: Recipe) -> None:
    """Refuse shipped files that are not those of the recipe.

    Raises
    ------
    WeightsError
        If a file is missing or its hash is another.
    """
    for name, expected in recipe.sha256.items():
        path = shipped(name)
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
        if found != expected:
            raise WeightsError(
                f"{path} is not the file of the recipe (sha256 {found}, expected {expected}); "
                "install g3dvit again, or make a new model with `g3dvit demo --retrain`"
            )


def hands_preparation() -> Preparation:
    """Return the preparation of the demonstration: smoothed, 2 mm box, z-scores over time."""
    return Preparation.preset(
        "MNI152NLin6Asym_2mm_90",
        smoothing_mm=SMOOTHING_MM,
        mask="file",
        standardise="time",
        trend_degree=2,
    )


def hands_source(runs: list[RunFiles]) -> RunSource:
    """Return simulated runs with their events as what goes into training or explaining."""
    return RunSource(
        images=tuple(run.bold for run in runs),
        events=tuple(run.events for run in runs),
        classes={hand: (hand,) for hand in HANDS},
    )


def simulate_runs(
    folder: Path,
    *,
    seed: int,
    subjects: list[int],
    runs_per_subject: int = 1,
    anatomy: Anatomy | None = None,
    design: RunDesign | None = None,
    progress: Progress | None = None,
) -> list[RunFiles]:
    """Write simulated runs of several subjects."""
    anatomy = load_anatomy() if anatomy is None else anatomy
    wanted = [(s, run + 1) for s in subjects for run in range(runs_per_subject)]
    written = []
    for done, (subject, run) in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), f"simulating {subject_name(subject)} run {run}")
        written.append(
            write_run(folder, anatomy, seed=seed, subject=subject, run=run, design=design)
        )
    if progress is not None:
        progress(len(wanted), len(wanted), "simulated")
    return written


def train_recipe(
    recipe: Recipe, data: Path, output: Path, progress: Progress | None = None
) -> TrainingReport:
    """Simulate the training data and train the model of a recipe.

    Parameters
    ----------
    recipe
        What to do.
    data
        Folder for the simulated runs; about 45 MB each.
    output
        Folder for the model.
    progress
        As in `train_model`.
    """
    subjects = list(range(1, recipe.n_subjects + 1))
    runs = simulate_runs(
        data,
        seed=recipe.seed,
        subjects=subjects,
        runs_per_subject=recipe.runs_per_subject,
        progress=progress,
    )
    return train_model(
        hands_source(runs),
        output,
        preparation=hands_preparation(),
        arguments=recipe.arguments,
        class_names=HANDS,
        split="subject",
        test=[subject_name(s) for s in subjects[-recipe.n_test :]],
        fitting=recipe.fitting,
        seed=recipe.seed,
        progress=progress,
    )
