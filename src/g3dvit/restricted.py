"""A run's result restricted to one of its subjects, or to one of its runs.

The restricted result is a `RunResult` as any other: page, figures and tables of regions take it as
it is. It is descriptive: nothing is tested, and nothing is known of other people from it. What
exists for the whole run only is left out, and the result says so: class means voxel by voxel,
methods without a map of every volume, means over misclassified volumes, and tables.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from g3dvit.accuracy import Measured, independent_units, measured_accuracy
from g3dvit.checks import Check
from g3dvit.errors import InputError
from g3dvit.maps import content_of
from g3dvit.recommend import mark, recommend
from g3dvit.report.parts import Part, means_of_part, runs_of, subjects_of
from g3dvit.run_result import CheckLike, ClassMean, MapSet, RunInput, RunResult

__all__ = ["Part", "find_part", "restrict", "runs_of", "subjects_of"]

_OF_SERIES = ("checks", "stamps", "run_checks", "volumes", "selection", "source")


def restrict(result: RunResult, part: Part | str) -> RunResult:
    """Return what a result says of one subject, or of one run.

    Parameters
    ----------
    result
        Of a whole run, such as from `g3dvit.saved_runs.load_run`.
    part
        From `subjects_of` or `runs_of`, or its name, such as ``"sub-01"``.

    Returns
    -------
    RunResult
        With the part's inputs, predictions, maps of volumes and checks. Class means are means over
        its volumes per patch, brought to the model's grid as they are. Checks of the whole run
        stay, and say that they are of it; whether the model is better than chance is told of the
        part too, where labels tell. `RunResult.part` says which part it is.

    Raises
    ------
    InputError
        If there is no such part, or no method has a map of every volume.

    Examples
    --------
    >>> import g3dvit
    >>> from g3dvit.saved_runs import load_run
    >>> one = g3dvit.restrict(load_run("maps"), "sub-01")  # doctest: +SKIP
    >>> g3dvit.figures.mosaic(one, group="right")  # doctest: +SKIP
    """
    own = find_part(result.inputs, part) if isinstance(part, str) else part
    kept = [maps for maps in result.maps if maps.volumes]
    if not kept:
        named = ", ".join(maps.label for maps in result.maps) or "none"
        raise InputError(
            f"{own.name} cannot be shown alone: no method of this run has a map of every volume "
            f"(methods: {named}); explain it with token_gradcam or frozen_gate too"
        )
    words = _words(result, own)
    table = result.predictions.iloc[list(own.rows)].reset_index(drop=True)
    maps = tuple(_maps_of(result, one, own, words) for one in kept)
    here = _accuracy_of(result, own, table)
    checks = _checks_of(result, own, here)
    advice = recommend(maps, checks)
    inputs = tuple(result.inputs[n] for n in own.runs)
    return replace(
        result,
        title=f"{own.name}, of “{result.title}”",
        model=replace(result.model, accuracy=_accuracy_words(result, own, here)),
        inputs=inputs,
        predictions=table,
        maps=mark(maps, advice),
        checks=checks,
        recommendation=advice,
        warnings=(*_warnings_of(result, own), *_left_out(result)),
        notes=(_note(result, words, maps), *result.notes),
        provenance={
            **result.provenance,
            "part": {
                "name": own.name,
                "kind": own.kind,
                "of": result.title,
                "runs": [run.name for run in inputs],
                "volumes": len(own.rows),
            },
        },
        tables=(),
        part=words,
    )


def find_part(inputs: Sequence[RunInput], name: str) -> Part:
    """Return the subject or the run of a name; a run's whole name counts too.

    Parameters
    ----------
    inputs
        Of the result.
    name
        Such as ``"sub-01"``.

    Raises
    ------
    InputError
        If there is none, or more than one run is called so.
    """
    subjects, runs = subjects_of(inputs), runs_of(inputs)
    found = [part for part in subjects if part.name == name]
    found = found or [part for part in runs if name in (part.name, inputs[part.runs[0]].name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(dict.fromkeys(part.name for part in (*subjects, *runs)))
    raise InputError(
        f"this result has {'several runs' if found else 'no subject and no run'} called {name!r}; "
        f"it has {known}"
    )


def _words(result: RunResult, own: Part) -> str:
    of_kind = subjects_of(result.inputs) if own.kind == "subject" else result.inputs
    words = f"{own.name}, one {own.kind} of {len(of_kind)}"
    return f"{words}, of {result.part}" if result.part else words


def _maps_of(result: RunResult, maps: MapSet, own: Part, words: str) -> MapSet:
    means = means_of_part(result, maps, own)
    return replace(
        maps,
        volumes=tuple(maps.volumes[n] for n in own.runs),
        class_means=tuple(_on_model_grid(result, mean, words) for mean in means),
        checks=tuple(maps.checks[row] for row in own.rows) if maps.checks else (),
        fine=False,
    )


def _on_model_grid(result: RunResult, mean: ClassMean, words: str) -> ClassMean:
    """Return a mean per patch with its content on the model's grid, as other means have it."""
    told = {name: v for name, v in mean.patch.metadata.items() if name not in _OF_SERIES}
    told |= {"target": mean.target or result.target, "part": words}
    told["group"] = {"class": mean.key.group, "volumes": mean.key.which, "n": mean.n}
    patch = replace(mean.patch, metadata=told)
    voxel = replace(content_of(patch), companions={}).to_grid(result.prepared_grid)
    return replace(mean, patch=patch, voxel=voxel)


def _accuracy_of(result: RunResult, own: Part, table: pd.DataFrame) -> Measured | None:
    """Return the accuracy in a part; None where that of the result is not of its own volumes."""
    names = list(result.model.class_names)
    if not {"run", "label", "predicted", "block"} <= set(table.columns):
        return None
    if not set(result.predictions["predicted"]) <= set(names):
        return None
    whole = _measured(result.predictions, names)
    if whole.value is None or not any(whole.facts in check.sentence for check in result.checks):
        return None  # it is told of other data, or these were in the training
    return _measured(table, names)


def _measured(table: pd.DataFrame, names: Sequence[str]) -> Measured:
    return measured_accuracy(
        [names.index(name) for name in table["predicted"]],
        [names.index(name) if name in names else None for name in table["label"]],
        num_classes=len(names),
        units=independent_units(table),
    )


def _checks_of(result: RunResult, own: Part, here: Measured | None) -> tuple[CheckLike, ...]:
    whole = result.checks if result.part else tuple(map(_of_whole, result.checks))
    if here is None:
        return whole
    chance = 1 / len(result.model.class_names)
    name = f"better than chance in {own.name}"
    if here.value is None or here.low is None:
        sentence = f"Accuracy in {own.name} alone is unknown: {here.facts}."
        return (Check(name, float("nan"), None, chance, "warn", sentence), *whole)
    if here.value <= chance:
        sentence = (
            f"In {own.name} alone the model is no better than chance, so these maps show nothing "
            f"of the classes ({here.facts})."
        )
        return (Check(name, here.low, None, chance, "fail", sentence), *whole)
    if here.low <= chance:
        sentence = (
            f"In {own.name} alone the model cannot be told from chance: it guesses here, or there "
            f"are too few volumes to tell ({here.facts})."
        )
        return (Check(name, here.low, None, chance, "warn", sentence), *whole)
    sentence = f"In {own.name} alone the model is better than chance ({here.facts})."
    return (Check(name, here.low, None, chance, "pass", sentence), *whole)


def _of_whole(check: CheckLike) -> Check:
    sentence = f"Of all runs together: {check.sentence}"
    return Check(f"{check.name} (all runs)", check.value, None, None, check.verdict, sentence)


def _accuracy_words(result: RunResult, own: Part, here: Measured | None) -> str:
    whole = result.model.accuracy if result.part else f"of all runs: {result.model.accuracy}"
    if here is None:
        return whole
    return f"of {own.name} alone: {here.facts}; {whole}"


def _note(result: RunResult, words: str, maps: Sequence[MapSet]) -> str:
    means = [mean for one in maps for mean in one.class_means]
    parts = [f"Descriptive: {words}, of “{result.title}”."]
    if means:
        wrong = ", misclassified ones left out" * any(m.key.which == "correct" for m in means)
        parts.append(
            f"Class means here are means per patch over its own volumes{wrong}; nothing finer is "
            "kept of single volumes."
        )
    else:
        parts.append(
            "There are no class means: none of its volumes was classified correctly, or their maps "
            "explain different classes."
        )
    if any(mean.target for mean in means):
        parts.append("Each explains the class of its own volumes, as their maps do.")
    return " ".join(parts)


def _left_out(result: RunResult) -> tuple[str, ...]:
    """Return what of the whole run is not here, and why."""
    told = []
    without = [maps.label for maps in result.maps if not maps.volumes]
    if without:
        told.append(
            f"Left out: {', '.join(without)}. No map of every volume was made, so that there is no "
            f"mean of these volumes alone."
        )
    counts = Counter(table.section for table in result.tables)
    if counts:
        listed = ", ".join(f"{section} {n}" for section, n in counts.items())
        told.append(
            f"Left out: the tables of the whole run ({listed}). Their numbers are of all volumes."
        )
    return tuple(told)


def _warnings_of(result: RunResult, own: Part) -> tuple[str, ...]:
    """Return the warnings of a result but those about other runs alone."""
    names = {n: run.name for n, run in enumerate(result.inputs)}

    def about(sentence: str) -> set[int]:
        return {
            n
            for n, name in names.items()
            if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sentence)
        }

    return tuple(
        sentence
        for sentence in result.warnings
        if not about(sentence) or about(sentence) & set(own.runs)
    )
