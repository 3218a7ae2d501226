"""The demonstration on semi-synthetic runs, in which the right answer is known.

Fresh runs of subjects that the shipped model has not seen are simulated, classified and
explained as ``g3dvit explain`` does it; a short real training runs beside it. Everything goes to
one folder, which is removed again if something fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from g3dvit.demo.found import Found, find_hands
from g3dvit.demo.recipe import (
    LINEAR,
    MODEL,
    Progress,
    check_shipped,
    hands_preparation,
    hands_source,
    load_recipe,
    shipped,
    simulate_runs,
    train_recipe,
)
from g3dvit.outputs import output_folder, write_run
from g3dvit.run import explain_run
from g3dvit.run.inputs import open_runs
from g3dvit.run_result import RunResult
from g3dvit.simulate import HANDS, SEMI_SYNTHETIC, Anatomy, RunDesign, load_anatomy, write_truth
from g3dvit.train import Fitting, LinearDecoder, TrainingReport, load_samples, train_model
from g3dvit.train.job import LINEAR as TRAINED_LINEAR
from g3dvit.train.report import balanced_accuracy

FRESH_SUBJECTS = [101, 102, 103]
FRESH_DESIGN = RunDesign(contrast_to_noise=1.5)  # the model was trained at 1
SHORT_SUBJECTS = [201, 202]


@dataclass(frozen=True, slots=True, eq=False)
class HandsReport:
    """What the demonstration found.

    Parameters
    ----------
    folder
        Where everything lies.
    result
        Of explaining the fresh runs.
    found
        Every class mean against the truth.
    accuracy, linear_accuracy
        Balanced accuracy on the fresh runs, of the model and of a linear decoder that was trained
        on the same volumes.
    short
        Of the short training.
    retrained
        Of training the shipped model again, where asked for.
    """

    folder: Path
    result: RunResult
    found: list[Found]
    accuracy: float
    linear_accuracy: float
    short: TrainingReport
    retrained: TrainingReport | None


def demonstrate_hands(
    folder: Path,
    *,
    seed: int = 0,
    retrain: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> HandsReport:
    """Simulate, train, classify, explain and compare with what was planted.

    Parameters
    ----------
    folder
        Where to write; must not exist, or be empty.
    seed
        Of the fresh runs and of the short training.
    retrain
        Make the shipped model anew and explain that one.
    say
        Takes sentences for the user.
    progress
        Called with (done, in all, what is going on).

    Raises
    ------
    WeightsError
        If the shipped files are not those of the recipe.
    """
    said = say or (lambda _: None)
    recipe = load_recipe()
    retrained = None
    model, linear = shipped(MODEL), shipped(LINEAR)
    if retrain:
        n_runs = recipe.n_subjects * recipe.runs_per_subject
        said(f"Simulating {n_runs} runs and training the model of the recipe; this takes a while.")
        with TemporaryDirectory(dir=folder, prefix=".training-data-") as data:
            retrained = train_recipe(recipe, Path(data), folder / "model", progress)
        said(f"The model was trained again: {retrained.sentence()}.")
        model, linear = folder / "model" / "model.yaml", folder / "model" / TRAINED_LINEAR
    else:
        check_shipped(recipe)
    said(
        f"Simulating {len(FRESH_SUBJECTS)} fresh runs of subjects that the model has not seen "
        f"(semi-synthetic, contrast-to-noise {FRESH_DESIGN.contrast_to_noise:g})."
    )
    anatomy = load_anatomy()
    runs = simulate_runs(
        folder / "data",
        seed=seed,
        subjects=FRESH_SUBJECTS,
        anatomy=anatomy,
        design=FRESH_DESIGN,
        progress=progress,
    )
    write_truth(folder / "truth", anatomy)
    source = hands_source(runs)
    said("Explaining every task volume with token Grad-CAM and frozen gates, some over shifts.")
    result = explain_run(
        source,
        model,
        mean_target=HANDS[-1],
        title="Demonstration: left hand against right hand (semi-synthetic)",
        notes=(SEMI_SYNTHETIC,),
        truth={hand: anatomy.truth(hand).astype(np.float32) for hand in HANDS},
        say=said,
        progress=progress,
    )
    with output_folder(folder / "explained") as place:
        write_run(result, place)
    samples = load_samples(open_runs(source), hands_preparation(), HANDS)
    every = np.arange(len(samples))
    decided = LinearDecoder.load(linear).predict(samples, every)
    said("Training a model on a few volumes only, to show that training works.")
    short = _train_shortly(folder, anatomy, seed, progress)
    return HandsReport(
        folder=folder,
        result=result,
        found=find_hands(result, anatomy),
        accuracy=balanced_accuracy(result.predictions["label"], result.predictions["predicted"]),
        linear_accuracy=balanced_accuracy(samples.label, decided),
        short=short,
        retrained=retrained,
    )


def _train_shortly(
    folder: Path, anatomy: Anatomy, seed: int, progress: Progress | None
) -> TrainingReport:
    """Train for a few epochs on one subject and test on another."""
    recipe = load_recipe()
    with TemporaryDirectory(dir=folder, prefix=".training-data-") as data:
        runs = simulate_runs(
            Path(data),
            seed=seed,
            subjects=SHORT_SUBJECTS,
            anatomy=anatomy,
            design=RunDesign(blocks_per_hand=2),
            progress=progress,
        )
        fitting: Fitting = replace(recipe.fitting, epochs=4, batch_size=8)
        return train_model(
            hands_source(runs),
            folder / "short_training",
            preparation=hands_preparation(),
            arguments=recipe.arguments,
            class_names=HANDS,
            split="subject",
            test_share=0.5,
            fitting=fitting,
            seed=seed,
            progress=progress,
        )
