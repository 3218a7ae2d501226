"""A whole baseline: open, prepare, divide, compute in parts that are kept, summarise.

Composes the modules of this package and computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from g3dvit import __version__
from g3dvit.baseline.approaches import Approaches
from g3dvit.baseline.folds import Division, divide
from g3dvit.baseline.found import Found
from g3dvit.baseline.settings import BaselineSettings
from g3dvit.baseline.summary import Baseline, summarise_baseline
from g3dvit.descriptions import ModelDescription, load_description
from g3dvit.evaluate.parts import Parts
from g3dvit.run.inputs import RunSource, open_runs
from g3dvit.run.setup import preparation_of
from g3dvit.train.samples import Samples, load_samples

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]
#: Raised whenever the same settings give other numbers than before.
VERSION = 1


def run_baseline(
    source: RunSource,
    model: str | Path | ModelDescription,
    *,
    settings: BaselineSettings | None = None,
    parts: str | Path | None = None,
    say: Say | None = None,
    progress: Progress | None = None,
) -> Baseline:
    """Measure on a model's volumes what a linear decoder, a GLM and a searchlight find.

    Parameters
    ----------
    source
        Images with events and classes, or with labels, as for training.
    model
        Model description: preparation and class names are taken from it, and, where
        ``g3dvit train`` left held-out predictions of these volumes beside it, folds and accuracy.
    settings
        What is computed and how.
    parts
        Folder for finished parts, so that a stopped job can go on; None keeps none.
    say, progress
        Take sentences for the user, and (work done, in all, what is going on).

    Returns
    -------
    Baseline
        Give it to `write_baseline`.

    Raises
    ------
    LeakageError
        If training data would be test data too.
    G3DError
        Its subclasses say what else cannot be used.
    """
    settings = settings or BaselineSettings()
    said = say or (lambda _: None)
    described = model if isinstance(model, ModelDescription) else load_description(model)
    preparation = preparation_of(described)
    runs = open_runs(source, n_dropped=preparation.n_dropped)
    samples = load_samples(
        runs, preparation, described.class_names or None, _reading(progress, "preparing")
    )
    division = divide(
        samples,
        described.path,
        split=settings.split,
        n_folds=settings.n_folds,
        gap_volumes=settings.gap_volumes,
        seed=settings.seed,
    )
    said(
        f"{len(samples)} volumes, {len(division.folds)} fold"
        f"{'s' if len(division.folds) > 1 else ''} by {division.unit}: {division.origin}"
    )
    kept = Parts(
        None if parts is None else Path(parts), _identity(source, samples, division, settings)
    )
    job = Approaches(samples, division, settings, kept, said, progress)
    found = Found()
    if "linear" not in settings.skip:
        job.linear(found)
    if "glm" not in settings.skip:
        job.glm(found, source, runs, preparation)
    if "searchlight" not in settings.skip:
        job.searchlight(found)
    return summarise_baseline(samples, division, found, described, asdict(settings))


def _reading(progress: Progress | None, doing: str) -> Callable[[str, int, int], None] | None:
    if progress is None:
        return None
    return lambda name, done, total: progress(done, total, f"{doing} {name}")


def _identity(
    source: RunSource, samples: Samples, division: Division, settings: BaselineSettings
) -> dict[str, Any]:
    """Return everything that decides about the numbers."""
    return {
        "version": (VERSION, __version__),
        "runs": [(run.source, run.fingerprint) for run in samples.runs],
        "events": [path.read_text(encoding="utf-8") for path in source.events],
        "source": {
            "volumes": str(source.volumes),
            "classes": {name: list(kinds) for name, kinds in source.classes.items()},
            "delay_s": source.delay_s,
            "t_r": source.t_r,
        },
        "labels": samples.label.tolist(),
        "affine": samples.grid.affine.tolist(),
        "folds": [(fold.train.tolist(), fold.test.tolist()) for fold in division.folds],
        "gap": division.gap_volumes,
        "settings": asdict(settings),
    }
