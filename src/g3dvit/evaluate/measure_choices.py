"""The specification curve: how much a map depends on choices that could have been made otherwise.

Every combination of method, layer (where the method has one), score and target is a
*specification*. For each: the rank correlation of its map with that of the recommended method
with default choices, and its own SRG in log-odds of its own target.

References
----------
Simonsohn et al. 2020, Specification curve analysis, https://doi.org/10.1038/s41562-020-0912-z
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.errors import LayerError, MethodError
from g3dvit.evaluate.agreement import spearman
from g3dvit.evaluate.explained import explain_volumes, method_behind
from g3dvit.evaluate.measure_curves import Question, gains_of
from g3dvit.evaluate.prepared import Prepared
from g3dvit.evaluate.settings import EvaluationSettings
from g3dvit.evaluate.work import MANY_PASSES, passes_of
from g3dvit.geometry import Geometry
from g3dvit.targets import SCORES, Chosen

MOST_LAYERS = 6


@dataclass(frozen=True, slots=True)
class Specification:
    """One combination of choices.

    Parameters
    ----------
    method, score, target
        Names; the target in words.
    layer
        Empty where the method has none; the model's default layer otherwise named in full.
    """

    method: str
    layer: str
    score: str
    target: str


def layers_of(geometry: Geometry) -> tuple[str, ...]:
    """Return at most `MOST_LAYERS` layers that work, evenly over depth, the default among them."""
    alive = geometry.alive_layers
    if len(alive) <= MOST_LAYERS:
        return alive
    places = np.unique(np.round(np.linspace(0, len(alive) - 1, MOST_LAYERS)).astype(int))
    chosen = {alive[place] for place in places} | {geometry.default_layer, geometry.attention_layer}
    return tuple(layer for layer in alive if layer in chosen)


def specifications(
    geometry: Geometry, methods: Sequence[str], targets: Sequence[str]
) -> list[Specification]:
    """Return every combination, the slower methods with default choices only."""
    found = []
    for method in methods:
        layered = "target_layer" in method_behind(method).arguments
        layers = layers_of(geometry) if layered else ("",)
        slow = passes_of(method_behind(method), geometry.num_patches) >= MANY_PASSES
        scores = ("log_odds",) if slow else SCORES
        for layer in layers:
            for score in scores:
                for target in targets[:1] if slow else targets:
                    found.append(Specification(method, layer, score, target))
    return found


def measure_choices(
    prepared: Prepared,
    question: Question,
    n: int,
    specs: Sequence[Specification],
    targets: dict[str, Chosen],
    reference: str,
    settings: EvaluationSettings,
) -> list[dict[str, Any]]:
    """Return agreement and SRG of every specification on one volume.

    Parameters
    ----------
    prepared, question
        The volume and what removal does to it.
    n
        Its place.
    specs
        The specifications.
    targets
        Target word to the class or contrast that it means for this volume; the first is the one
        that is reported.
    reference
        The recommended method.
    settings
        Of the curves.
    """
    x = prepared.x[n : n + 1]
    explainer = prepared.model.explainer
    first = next(iter(targets.values()))
    usual = explain_volumes(explainer, x, [reference], chosen=[first])
    like = usual.patches[reference][0][question.inside]
    groups: dict[tuple[str, str, str], list[Specification]] = {}
    for spec in specs:
        groups.setdefault((spec.layer, spec.score, spec.target), []).append(spec)
    result = []
    for (layer, score, word), group in groups.items():
        chosen = targets[word]
        maps: dict[str, NDArray[np.float64]] = {}
        # A choice that this model does not allow is a row without numbers, not the end of a job.
        with suppress(LayerError, MethodError):
            explained = explain_volumes(
                explainer,
                x,
                [spec.method for spec in group],
                chosen=[chosen],
                score=score,
                target_layer=layer or None,
            )
            maps = {name: values[0] for name, values in explained.patches.items()}
        finite = {name: one for name, one in maps.items() if np.isfinite(one).all()}
        gains = gains_of(replace(question, chosen=chosen), finite, settings) if finite else {}
        for spec in group:
            own = maps.get(spec.method)
            agreement = float("nan") if own is None else spearman(own[question.inside], like)
            result.append(
                {
                    "method": spec.method,
                    "layer": spec.layer,
                    "score": spec.score,
                    "target": spec.target,
                    "agreement": agreement,
                    "srg": gains.get(spec.method, float("nan")),
                }
            )
    return result


def choices_table(choices: Sequence[Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """Return the mean over volumes of each specification, that of largest SRG first.

    Parameters
    ----------
    choices
        Per volume, what `measure_choices` gave.
    """
    columns = ["method", "layer", "score", "target", "agreement", "srg", "n_volumes"]
    if not choices:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame([row for rows in choices for row in rows])
    table[["agreement", "srg"]] = table[["agreement", "srg"]].astype(float)
    keys = ["method", "layer", "score", "target"]
    mean = table.groupby(keys, sort=False)[["agreement", "srg"]].mean().reset_index()
    mean["n_volumes"] = len(choices)
    return mean.sort_values("srg", ascending=False, kind="stable").reset_index(drop=True)[columns]
