"""A whole job: from BOLD runs and a model description to maps, means, predictions and checks.

`explain_run` is what ``g3dvit explain`` and ``g3dvit demo`` do; `explain_image` iterates over the
maps of one image. Both read, prepare, explain and collect, in this order, one batch at a time;
neither writes a file. No arithmetic on relevance happens here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from g3dvit.errors import G3DWarning
from g3dvit.explain import Explainer
from g3dvit.explain_request import resolve_methods
from g3dvit.maps import RelevanceMap
from g3dvit.recommend import mark, recommend
from g3dvit.run.accuracy import accuracy_check
from g3dvit.run.background import backgrounds_of
from g3dvit.run.checks import brain_of
from g3dvit.run.collect import Collector
from g3dvit.run.inputs import RunSource, open_runs
from g3dvit.run.job import Job, Progress, Say, batches
from g3dvit.run.options import default_methods, explain_options
from g3dvit.run.record import common_metadata, input_of, model_summary, provenance_of, title_of
from g3dvit.run.references import read_references
from g3dvit.run.setup import (
    check_labels,
    check_runs,
    class_names_of,
    load_described,
    one_grid,
    patches_of,
    preparation_of,
    trained_among,
)
from g3dvit.run.shift_plan import plan_shifts, split_methods
from g3dvit.run.targets import TargetPlan, plan_targets
from g3dvit.run_result import Display, MapSet, RunResult

#: Shift-averaged ones, which share their passes, for class means only.
DEFAULT_METHODS = ("token_gradcam", "frozen_gate", "shift_averaged", "shift_weighted_signed")


def explain_run(
    source: RunSource,
    model: str | Path | nn.Module,
    *,
    methods: Sequence[str] | None = None,
    target: Any = "predicted",
    mean_target: Any = None,
    score: str | None = None,
    weighting: str | Sequence[str] = "mean",
    target_layer: str | None = None,
    batch_size: int | None = None,
    shifts: int = 8,
    shift_averaged_per_volume: bool = False,
    references: Sequence[str | Path] = (),
    samples: int | None = None,
    noise: float = 0.1,
    gamma: float | None = None,
    seed: int = 0,
    device: str = "auto",
    title: str | None = None,
    notes: Sequence[str] = (),
    truth: Mapping[str, Any] | None = None,
    display: Display | None = None,
    say: Say | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Explain every chosen volume of one or more runs.

    Parameters
    ----------
    source
        Images and how their volumes are chosen.
    model
        A model description file, or what `load_model` returned for one.
    methods
        Names; None for `DEFAULT_METHODS`, without token Grad-CAM where no normalisation layer of
        the model can serve it.
    score, weighting, target_layer, batch_size, samples, noise, gamma, seed
        As in `Explainer.explain`.
    shifts
        Of shift-averaged maps; 0 leaves these maps out.
    shift_averaged_per_volume
        Make shift-averaged maps of every volume, and not only of the class means: those explain
        each group's own class, from at most `g3dvit.run.shift_plan.MOST` volumes of each.
    references
        Images to compare with, prepared as the runs (`g3dvit.run.references`).
    target
        Of the per-volume maps: ``"predicted"``, ``"label"``, a class, or a contrast.
    mean_target
        The one target of all class means; None is `target` where that is a class or contrast,
        otherwise the last class.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` ...; ignored where `model` is a module.
    title, notes, truth, display
        For the report: heading, what kind of data this is, planted truth, display options.
    say
        Takes sentences for the user, such as how long it will take.
    progress
        Called with (volumes done, volumes in all, what is going on).

    Returns
    -------
    RunResult
        Give it to `g3dvit.outputs.write_run`, or read the maps from it.

    Raises
    ------
    G3DError
        Its subclasses say what about image, model, target or method cannot be used.
    """
    said = say or (lambda _: None)
    started = time.time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", G3DWarning)
        # 1. open everything, so that what is wrong is said before anything is computed
        network, description = load_described(model, device)
        preparation = preparation_of(description)
        runs = open_runs(source, n_dropped=preparation.n_dropped)
        sentences = check_runs(preparation, description, runs)
        grid = one_grid(preparation, runs)
        # 2. find out how the model divides its input
        explainer = Explainer(network)
        class_names = class_names_of(explainer)
        check_labels(runs, class_names)
        plan = plan_targets(target, mean_target, class_names)
        patches = patches_of(description, explainer, grid)
        sentences += explainer.geometry.cautions
        if methods is None:
            methods, left_out = default_methods(DEFAULT_METHODS, explainer.geometry, target_layer)
            sentences += left_out
        every, shifted = split_methods(resolve_methods(methods), shifts)
        compared, names = read_references(
            references, preparation, description, grid, mask=source.mask
        )
        options = explain_options(
            (*every, *shifted),
            {
                "score": score,
                "weighting": weighting,
                "target_layer": target_layer,
                "batch_size": batch_size,
                "references": compared,
                "samples": samples,
                "noise": noise,
                "gamma": gamma,
                "seed": seed,
                "shifts": shifts,
            },
            explainer.geometry,
        )
        # 3. explain, batch after batch
        brain = brain_of(preparation, runs[0], patches)
        chosen = plan_shifts(shifted, runs, len(class_names), per_volume=shift_averaged_per_volume)
        collector = Collector(
            description, patches, class_names, plan, brain, shifts=chosen, references=names
        )
        job = Job(
            explainer, description, preparation, collector, plan, said, progress, brain, chosen
        )
        job.run(runs, {**options, "method": every})
    sentences += _own_warnings(caught)
    # 4. put it together
    predictions = collector.predictions()
    accuracy = accuracy_check(
        predictions, class_names, description, trained=trained_among(description, runs)
    )
    maps = collector.map_sets(common_metadata(description, preparation, job.score))
    advice = recommend(maps, (accuracy,))
    background, *others = backgrounds_of(runs[0].series, preparation.space)
    return RunResult(
        title=title or title_of(runs),
        model=model_summary(description, preparation, explainer, accuracy, class_names),
        inputs=tuple(input_of(run) for run in runs),
        target=plan.mean_words,
        volume_target=plan.volume_words,
        score=job.score.replace("_", "-"),
        predictions=predictions,
        maps=mark(maps, advice),
        background=background,
        further_backgrounds=tuple(others),
        prepared_grid=grid,
        space=preparation.space or runs[0].series.space,
        checks=(accuracy, *job.model_checks),
        warnings=tuple(dict.fromkeys(sentences)),
        notes=tuple(notes),
        provenance=provenance_of(description, runs, started),
        truth=truth,
        display=display or Display(),
        recommendation=advice,
    )


def explain_image(
    image: str | Path,
    model: str | Path | nn.Module,
    *,
    method: str = "token_gradcam",
    volumes: str | slice | Sequence[int] | None = None,
    target: Any = "predicted",
    score: str | None = None,
    weighting: str = "mean",
    target_layer: str | None = None,
    batch_size: int | None = None,
    shifts: int = 8,
    references: Sequence[str | Path] = (),
    samples: int | None = None,
    noise: float = 0.1,
    gamma: float | None = None,
    seed: int = 0,
    device: str = "auto",
    **reading: Any,
) -> Iterator[RelevanceMap]:
    """Iterate over the relevance maps of one image.

    Parameters
    ----------
    image
        A 3D or 4D image.
    model
        A model description file, or what `load_model` returned for one.
    method, score, weighting, target_layer, batch_size, shifts, samples, noise, gamma, seed
        As in `Explainer.explain`.
    references
        Images to compare with, prepared as the image (`g3dvit.run.references`).
    volumes
        Which time points, such as ``slice(0, 10)`` or ``"0:100:2"``; None for all.
    target
        ``"predicted"``, a class (name or number), or a contrast.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` ...; ignored where `model` is a module.
    reading
        Further fields of `g3dvit.run.inputs.RunSource`: events, classes, mask, reference, ...

    Yields
    ------
    RelevanceMap
        One 3D map on the patch grid per volume, in ascending time; ``metadata["volumes"]`` says
        which volume it is.

    Raises
    ------
    G3DError
        Before the first map, if anything cannot be used.
    """
    chosen = volumes if volumes is None or isinstance(volumes, (str, slice)) else tuple(volumes)
    network, description = load_described(model, device)
    preparation = preparation_of(description)
    source = RunSource(images=(Path(image),), volumes=chosen, **reading)
    runs = open_runs(source, n_dropped=preparation.n_dropped)
    for sentence in check_runs(preparation, description, runs):
        warnings.warn(sentence, G3DWarning, stacklevel=2)
    explainer = Explainer(network)
    names = class_names_of(explainer)
    check_labels(runs, names)
    plan = plan_targets(target, None if target in ("predicted", "label") else target, names)
    plan = TargetPlan(plan.volume, plan.volume, plan.volume_words, plan.volume_words)
    grid = one_grid(preparation, runs)
    patches = patches_of(description, explainer, grid)
    compared, called = read_references(references, preparation, description, grid, mask=source.mask)
    methods = resolve_methods(method)
    options = {
        "method": methods,
        **explain_options(
            methods,
            {
                "score": score,
                "weighting": weighting,
                "target_layer": target_layer,
                "batch_size": batch_size,
                "references": compared,
                "samples": samples,
                "noise": noise,
                "gamma": gamma,
                "seed": seed,
                "shifts": shifts,
            },
            explainer.geometry,
        ),
    }

    def maps() -> Iterator[RelevanceMap]:
        for batch, labels, blocks in batches(preparation, runs[0], None):
            collector = Collector(description, patches, names, plan, references=called)
            job = Job(explainer, description, preparation, collector, plan, None, None)
            collector.start_run(runs[0])
            job.volumes(batch, labels, blocks, options)
            common = common_metadata(description, preparation, job.score)
            (found,) = collector.map_sets(common, whole=False)
            yield from _single_maps(found)

    return maps()


def _single_maps(found: MapSet) -> Iterator[RelevanceMap]:
    """Yield the volumes of a 4D map as 3D maps, each with its own metadata."""
    series = found.volumes[0]
    for n, checks in enumerate(found.checks):
        metadata = {name: value for name, value in series.metadata.items() if name != "volumes"}
        own = {name: values[n] for name, values in series.metadata["volumes"].items()}
        yield replace(series.volume(n), metadata={**metadata, **own, "checks": checks})


def _own_warnings(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return our warnings as sentences, and pass on those of others."""
    own = [str(w.message) for w in caught if issubclass(w.category, G3DWarning)]
    for warning in caught:
        if not issubclass(warning.category, G3DWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return own
