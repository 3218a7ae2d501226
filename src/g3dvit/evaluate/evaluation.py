"""Measure how far a model's maps can be believed, on one's own data: `evaluate_run`.

Opens and checks everything, chooses volumes, runs the steps of `g3dvit.evaluate.job` and
summarises them. Nothing is written but the parts, so that a stopped job can go on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from g3dvit import __version__
from g3dvit.errors import G3DWarning, InputError, LayerError, MethodError
from g3dvit.evaluate.baselines import read_baseline
from g3dvit.evaluate.explained import PARTS, explain_volumes, method_behind
from g3dvit.evaluate.job import Job
from g3dvit.evaluate.measure_context import PICTURES
from g3dvit.evaluate.measure_curves import BASELINES, ORACLE
from g3dvit.evaluate.parts import Parts, arrays_hash, parameters_hash
from g3dvit.evaluate.plan import Plan, plan_volumes
from g3dvit.evaluate.prepared import (
    Candidate,
    Prepared,
    Progress,
    check_alike,
    load_candidate,
    notes_on_nulls,
    prepare_volumes,
)
from g3dvit.evaluate.settings import DEFAULT_METHODS, EvaluationSettings
from g3dvit.evaluate.summary import Evaluation, summarise_job
from g3dvit.methods import METHODS, find_method
from g3dvit.run.inputs import OpenRun, RunSource, open_runs
from g3dvit.run.record import weights_hash
from g3dvit.run.setup import (
    check_labels,
    check_runs,
    class_names_of,
    one_grid,
    preparation_of,
    trained_among,
)
from g3dvit.run.targets import parse_target, target_words

#: Raised whenever the same settings give other numbers than before.
VERSION = 2

Say = Callable[[str], None]


def evaluate_run(
    source: RunSource,
    model: str | Path | nn.Module,
    *,
    more_models: Sequence[str | Path | nn.Module] = (),
    null_models: Sequence[str | Path | nn.Module] = (),
    methods: Sequence[str] | None = None,
    given: Mapping[str, str | Path] | None = None,
    baseline: str | Path | None = None,
    target: Any = "predicted",
    settings: EvaluationSettings | None = None,
    device: str = "auto",
    parts: str | Path | None = None,
    say: Say | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the maps of a model on one or more runs.

    Parameters
    ----------
    source
        Images and how their volumes are chosen.
    model
        A model description file, or what `g3dvit.load_model` returned for one.
    more_models
        The same model from other seeds or folds: how well their maps agree.
    null_models
        Models trained on permuted labels: maps that resemble theirs owe nothing to the labels.
    methods
        Names; None for `DEFAULT_METHODS`, without those that this model does not allow.
    given
        Maps from elsewhere that are measured too, name to image: a GLM's z map, a linear decoder's
        pattern, a searchlight. Only their size counts, not their sign.
    baseline
        Folder of ``g3dvit baseline``: all its maps are taken too, and its accuracies are told.
    target
        ``"predicted"``, ``"label"``, a class (name or number), or a contrast.
    settings
        How thoroughly.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` ...; ignored where `model` is a module.
    parts
        Folder for finished parts, so that a stopped job can go on; None keeps none.
    say
        Takes sentences for the user.
    progress
        Called with (work done, in all, what is going on).

    Returns
    -------
    Evaluation
        Table, choices, numbers and the sentence; give it to `write_evaluation`.

    Raises
    ------
    G3DError
        Its subclasses say what about image, model, target or method cannot be used.
    """
    said = say or (lambda _: None)
    settings = settings or EvaluationSettings()
    files = {name: Path(path) for name, path in (given or {}).items()}
    simpler = None if baseline is None else read_baseline(baseline)
    if simpler is not None:
        twice = sorted(set(files) & set(simpler.maps))
        if twice:
            raise InputError(f"a map of the baseline is called {twice[0]!r} too; give another name")
        files |= simpler.maps
    _check_names(files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", G3DWarning)
        # 1. open everything, so that what is wrong is said before anything is computed
        main = load_candidate(model, device)
        preparation = preparation_of(main.description)
        runs = open_runs(source, n_dropped=preparation.n_dropped)
        notes = check_runs(preparation, main.description, runs)
        grid = one_grid(preparation, runs)
        names = class_names_of(main.explainer)
        check_labels(runs, names)
        goal = parse_target(target, names)
        others = [load_candidate(one, device) for one in more_models]
        nulls = [load_candidate(one, device) for one in null_models]
        for other in (*others, *nulls):
            check_alike(main, other)
        notes += notes_on_nulls(main, nulls)
        plan = plan_volumes(runs, settings.n_volumes)
        said(plan.sentence)
        # 2. read volumes and runs
        prepared = prepare_volumes(main, preparation, runs, grid, plan, progress, files)
        usable, refused = _usable(prepared, methods, goal)
    notes = [*notes, *(str(w.message) for w in caught if issubclass(w.category, G3DWarning))]
    notes += [f"{name} is left out: {why}" for name, why in refused.items()]
    if simpler is not None and simpler.of_another_model(weights_hash(main.description)):
        notes.append("The baseline was made on the volumes of a model with other weights.")
    # 3. measure, in parts
    kept = Parts(
        None if parts is None else Path(parts),
        _identity(main, others, nulls, runs, plan, usable, goal, settings)
        | {
            "given": [[name, values.tolist()] for name, values in prepared.given.items()],
            "read": arrays_hash(prepared.arrays()),
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", G3DWarning)  # said once above
        job = Job(
            prepared,
            usable,
            goal,
            settings,
            kept,
            others=others,
            nulls=nulls,
            say=said,
            progress=progress,
        )
        measured = job.run()
    # 4. what it means
    return summarise_job(
        prepared,
        measured,
        settings,
        target=target_words(goal, names),
        class_names=names,
        others=[other.name for other in others],
        few=job.few,
        trained_on=trained_among(main.description, runs),
        notes=notes,
        baseline=simpler,
    )


def _check_names(given: Mapping[str, Path]) -> None:
    taken = [name for name in given if name in (*METHODS, *PARTS, *BASELINES, ORACLE, *PICTURES)]
    if taken:
        raise InputError(f"a map cannot be called {taken[0]!r}, which the table has already")


def _usable(
    prepared: Prepared, methods: Sequence[str] | None, goal: Any
) -> tuple[list[str], dict[str, str]]:
    """Return the methods that work on this model, and why others do not.

    Raises
    ------
    MethodError
        If one that was asked for does not work, or none does.
    """
    if methods is not None:
        names = list(dict.fromkeys(n if n in PARTS else find_method(n).name for n in methods))
        for name in names:
            if "references" in method_behind(name).arguments:
                raise MethodError(
                    f"{name} compares with reference volumes, which cannot be given here; choose "
                    "another method"
                )
        _try(prepared, names, goal)
        return names, {}
    usable, refused = [], {}
    for name in DEFAULT_METHODS:
        try:
            _try(prepared, [name], goal)
            usable.append(name)
        except (MethodError, LayerError) as error:
            refused[name] = str(error)
    if not usable:
        raise MethodError(f"no method works on this model: {refused}")
    return usable, refused


def _try(prepared: Prepared, names: Sequence[str], goal: Any) -> None:
    label = prepared.plan.picks[0].label
    labels = [label] if goal == "label" else None
    explain_volumes(prepared.model.explainer, prepared.x[:1], names, target=goal, labels=labels)


def _identity(
    main: Candidate,
    others: Sequence[Candidate],
    nulls: Sequence[Candidate],
    runs: Sequence[OpenRun],
    plan: Plan,
    methods: Sequence[str],
    goal: Any,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Return everything that decides about the numbers."""
    return {
        "version": (VERSION, __version__),
        "models": [
            [one.description.to_dict(), parameters_hash(one.module)]
            for one in (main, *others, *nulls)
        ],
        "null_models": len(nulls),
        "runs": [
            (
                str(run.series.path),
                run.series.path.stat().st_size,
                str(run.mask),
                str(run.confounds),
            )
            for run in runs
        ],
        "volumes": [asdict(pick) for pick in plan.picks],
        "methods": methods,
        "target": goal,
        "settings": asdict(settings),
    }
