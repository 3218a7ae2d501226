"""Faithfulness of every map of one volume, by really removing and by replacing patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude
from torch import nn

from g3dvit.capture import KeptTokens
from g3dvit.evaluate import curves
from g3dvit.evaluate.agreement import neighbour_correlation
from g3dvit.evaluate.faithfulness import saco, saliency_groups, single_removal_correlation
from g3dvit.evaluate.fields import matched_fields
from g3dvit.evaluate.interventions import by_removal, by_replacement, decisions, scores_of
from g3dvit.evaluate.prepared import Prepared, patch_means
from g3dvit.evaluate.settings import EvaluationSettings
from g3dvit.targets import Chosen, NamedScore

#: Maps that know no model, and the order that knows it best.
RANDOM, FIELD, INTENSITY, EDGES, ORACLE = (
    "random order",
    "random field",
    "input intensity",
    "input edges",
    "removal oracle",
)
BASELINES = (RANDOM, FIELD, INTENSITY, EDGES)
#: Random maps that also get the slower numbers.
_MEASURED_RANDOM = 5

Maps = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One volume, and what happens to its score when patches go.

    Parameters
    ----------
    remove, replace
        The model's outputs for kept patches: the others gone, or another volume's.
    inside : (inside,)
        Which patches may go.
    n_patches
        Of the model.
    chosen
        Whose log-odds are followed.
    all_may_go
        Whether the model says anything without any of them.
    """

    remove: curves.Respond
    replace: curves.Respond
    inside: NDArray[np.intp] = field(repr=False)
    n_patches: int
    chosen: Chosen
    all_may_go: bool

    def log_odds(self, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the score for each set of kept patches."""
        return scores_of(curves.respond_once(self.remove, keep), self.chosen)

    def without(self, groups: list[NDArray[np.intp]]) -> NDArray[np.bool_]:
        """Return what is kept when groups of inside patches go, one at a time."""
        keep = np.ones((len(groups), self.n_patches), dtype=bool)
        for row, group in zip(keep, groups, strict=True):
            row[self.inside[group]] = False
        return keep


def ask(
    prepared: Prepared,
    network: nn.Module,
    kept: KeptTokens | None,
    n: int,
    partner: int,
    chosen: Chosen,
) -> Question:
    """Return the question of one volume.

    Parameters
    ----------
    prepared
        Volumes and brain.
    network, kept
        The model inside its `guest`, and what takes its tokens out; None where that cannot be
        done: then patches are replaced everywhere.
    n, partner
        The volume, and the one whose patches replace others.
    chosen
        Whose log-odds are followed.
    """
    geometry, inside = prepared.model.explainer.geometry, prepared.inside
    x, other = prepared.volume(n, network), prepared.volume(partner, network)
    replace = by_replacement(network, geometry, x, other)
    remove = replace if kept is None else by_removal(kept, x)
    all_may_go = kept is None or geometry.num_tokens > len(inside)
    return Question(remove, replace, inside, geometry.num_patches, chosen, all_may_go)


def opponents(
    prepared: Prepared, n: int, maps: Maps, settings: EvaluationSettings
) -> dict[str, NDArray[np.float64]]:
    """Return maps of one volume that know no model, (draws, inside) each."""
    inside, shape = prepared.inside, prepared.model.explainer.geometry.grid_shape
    rng = np.random.default_rng([settings.seed, n])
    mask = prepared.brain.reshape(shape)
    smoothest = max(neighbour_correlation(one.reshape(shape), mask) for one in maps.values())
    drawn = matched_fields(
        min(smoothest, 0.99), shape, settings.random_fields, seed=int(rng.integers(2**31))
    )
    frame = prepared.frame(n)
    edges = gaussian_gradient_magnitude(frame, 1.0)
    given = {name: values[inside][None] for name, values in prepared.given.items()}
    return given | {
        RANDOM: rng.standard_normal((settings.random_orders, len(inside))),
        FIELD: drawn.reshape(len(drawn), -1)[:, inside],
        INTENSITY: patch_means(np.abs(frame), prepared.model)[inside][None],
        EDGES: patch_means(edges, prepared.model)[inside][None],
    }


def gains_of(question: Question, maps: Maps, settings: EvaluationSettings) -> dict[str, float]:
    """Return SRG of each map (patches,): all that the selection half needs."""
    measured = removal(question, {k: v[question.inside][None] for k, v in maps.items()}, settings)
    return {name: float(values["srg"][0]) for name, values in measured.items()}


def removal(
    question: Question, orders: Maps, settings: EvaluationSettings
) -> dict[str, dict[str, Any]]:
    """Return SRG of every draw of every map (draws, inside), and the mean curves."""
    counts = curves.removal_counts(
        len(question.inside), settings.steps, all_may_go=question.all_may_go
    )
    found = _curves(question.remove, question, orders, counts, settings.seed)
    morf, lerf = (_along(one, question.chosen, "log_odds") for one in (found.morf, found.lerf))
    gain = curves.relevance_gain(morf, lerf)
    return {
        name: {"srg": gain[rows], "morf": morf[rows].mean(axis=0), "lerf": lerf[rows].mean(axis=0)}
        for name, rows in _rows(orders).items()
    }


def measure_volume(
    question: Question, orders: Maps, settings: EvaluationSettings
) -> dict[str, dict[str, Any]]:
    """Return every number of every map of a volume.

    Parameters
    ----------
    question
        The volume.
    orders
        Map to (draws, inside); random maps have several draws.
    settings
        How thoroughly.

    Returns
    -------
    dict
        Map to ``srg`` (draws,), ``morf`` and ``lerf`` (points,), and means over draws of
        ``single``, ``saco``, ``deletion`` and ``insertion``; the oracle also has the whole
        volume's score and ``decision``, the ``drops`` (inside,), and how many patches were
        ``removed`` (points,).
    """
    every = np.ones((1, question.n_patches), dtype=bool)
    full = float(question.log_odds(every)[0])
    one_each = [np.array([k]) for k in range(len(question.inside))]
    drops = full - question.log_odds(question.without(one_each))
    orders = {**orders, ORACLE: drops[None]}
    found = removal(question, orders, settings)
    few = {name: values[:_MEASURED_RANDOM] for name, values in orders.items()}
    counts = curves.removal_counts(len(question.inside), settings.steps)
    replaced = _curves(question.replace, question, few, counts, settings.seed)
    deletion, insertion = (
        curves.area(_along(one, question.chosen, "probability"))
        for one in (replaced.morf, replaced.lerf)
    )
    for name, rows in _rows(few).items():
        saco_values = [_saco(question, one, full, settings.seed) for one in few[name]]
        single = [single_removal_correlation(one, drops) for one in few[name]]
        found[name] |= {
            "single": float(np.mean(single)),
            "saco": float(np.mean(saco_values)),
            "deletion": float(deletion[rows].mean()),
            "insertion": float(insertion[rows].mean()),
        }
    decision = int(decisions(question.remove(every))[0])
    removed = curves.removal_counts(
        len(question.inside), settings.steps, all_may_go=question.all_may_go
    )
    found[ORACLE] |= {"full": full, "decision": decision, "drops": drops, "removed": removed}
    return found


def _saco(question: Question, values: NDArray[np.float64], full: float, seed: int) -> float:
    groups = saliency_groups(values, seed=seed)
    drops = full - question.log_odds(question.without(groups))
    return saco([float(values[group].sum()) for group in groups], drops)


def _curves(
    respond: curves.Respond,
    question: Question,
    orders: Maps,
    counts: NDArray[np.intp],
    seed: int,
) -> curves.Curves:
    stacked = np.concatenate(list(orders.values()))
    return curves.removal_curves(
        respond, stacked, question.inside, question.n_patches, counts, seed=seed
    )


def _along(logits: NDArray[np.float64], chosen: Chosen, score: NamedScore) -> NDArray[np.float64]:
    """Return the score at every point, (maps, points), from outputs (maps, points, outputs)."""
    flat = scores_of(logits.reshape(-1, logits.shape[-1]), chosen, score)
    return flat.reshape(logits.shape[:-1])


def _rows(orders: Maps) -> dict[str, slice]:
    """Return where each map's draws lie when all are put together."""
    ends = np.cumsum([len(values) for values in orders.values()]).tolist()
    starts = [0, *ends[:-1]]
    return {name: slice(a, b) for name, a, b in zip(orders, starts, ends, strict=True)}
