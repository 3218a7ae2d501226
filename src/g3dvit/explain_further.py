"""Checks of maps that need passes of their own: other precision, class, volume, noise.

`further_checks` runs them for one batch. None changes the model: float64 copies are made of its
parameters, and it is run on other volumes, never altered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from g3dvit import diagnose
from g3dvit.capture import first_output, wider
from g3dvit.capture.attention_gates import steering_gradients
from g3dvit.checks import Check, joined, not_applicable
from g3dvit.errors import InputError
from g3dvit.explain_batch import explain_batch
from g3dvit.explain_checks import AT_TOKENS
from g3dvit.explain_context import BatchResult
from g3dvit.explain_float64 import compare_float64
from g3dvit.explain_inputs import Volumes, choose_batch_size, to_input
from g3dvit.explain_request import Request
from g3dvit.explanation import Explanation
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS, Weighting
from g3dvit.seen import amplitude_check, batch_check, invisible_checks, jittered
from g3dvit.targets import Chosen, num_classes, resolve_score, score_batch

#: Names for ``check=``; all of them are made on the first batch of a run.
CHECKS = (
    "float64", "jitter", "class_blind", "input_blind", "amplitude", "invisible", "steering",
    "batch", "beside",
)  # fmt: skip
BESIDE = "beside the tokens"
_JITTER = 1e-3
_SEES_CONSTANTS = "the model does not normalise each patch, so that it sees constant ones too"
_GATES = ("frozen gates", "gate variants", "shifts")

Rows = list[tuple[Check, ...]]


def known_checks(check: str | Iterable[str]) -> tuple[str, ...]:
    """Return the further checks that are asked for; ``"all"`` is every one.

    Raises
    ------
    InputError
        If one is not known.
    """
    listed = isinstance(check, Iterable) and not isinstance(check, str)
    asked = tuple(check) if listed else (cast("str", check),)
    for name in asked:
        if name not in (*CHECKS, "all"):
            raise InputError(f"there is no check {name!r}; choose from {', '.join(CHECKS)}, all")
    return CHECKS if "all" in asked else asked


def further_checks(
    checks: Sequence[str],
    network: nn.Module,
    x: Tensor,
    request: Request,
    geometry: Geometry,
    chosen: tuple[tuple[Chosen, ...], ...],
    relevance: Mapping[str, Tensor],
    *,
    inside: Bool[Tensor, " patches"] | None = None,
    told: Collection[str] = (),
) -> dict[str, Rows]:
    """Make further checks of one batch, but for whether its volumes matter.

    Parameters
    ----------
    checks
        Of `CHECKS`.
    network
        The module inside `g3dvit.capture.guest`.
    x : (batch, ...)
        Its input.
    request, geometry
        As for `g3dvit.explain_batch.explain_batch`.
    chosen
        The class or contrast of each volume and target.
    relevance
        Per method, (batch, ..., gi, gj, gk), as it was computed.
    inside : (patches,)
        Patches with brain in them, C order of the grid; None where unknown.
    told
        Methods whose maps say already what reaches the score beside the tokens.

    Returns
    -------
    dict
        Per method and volume; of several targets and weightings the worst.
    """
    methods = tuple(relevance)
    request = replace(request, methods=methods)
    shape = (len(x), len(chosen[0]), -1, geometry.num_patches)
    maps = {name: values.reshape(shape) for name, values in relevance.items()}
    found: dict[str, Rows] = {name: [()] * len(x) for name in methods}

    def add(name: str, row: Sequence[Check]) -> None:
        found[name] = [(*own, one) for own, one in zip(found[name], row, strict=True)]

    if "float64" in checks:
        same = compare_float64(network, x, request, geometry, chosen, relevance)
        for name in methods:
            add(name, same[name])
    if "jitter" in checks:
        noisy = jittered(x, geometry, amount=_JITTER)
        moved = explain_batch(network, noisy, request, geometry, chosen=chosen).maps
        for name in methods:
            other = moved[name]["relevance"].reshape(shape)
            add(name, _lowest(maps[name], other))
    if "class_blind" in checks:
        for name, row in _class_blind(network, x, request, geometry, chosen, maps).items():
            add(name, row)
    # Half precision has too few digits to tell whether outputs are the same.
    half = x.dtype in (torch.bfloat16, torch.float16)
    if half and {"amplitude", "invisible", "batch"} & set(checks):
        run, volumes = wider(network, torch.float32), x.float()
    else:
        run, volumes = network, x
    if "amplitude" in checks or "invisible" in checks:
        strength, normalised = amplitude_check(run, volumes[:1], geometry)
        hidden = [not_applicable("invisible patches", _SEES_CONSTANTS)] * len(x)
        if normalised and "invisible" in checks:
            hidden = invisible_checks(run, volumes, geometry, inside)
        for name in methods:
            if "amplitude" in checks:
                add(name, [strength] * len(x))
            if "invisible" in checks:
                add(name, hidden)
    if "batch" in checks:
        dependence = batch_check(run, volumes[:1], geometry)
        for name in methods:
            add(name, [dependence] * len(x))
    if "steering" in checks:
        gates = [name for name in methods if METHODS[name].source in _GATES]
        if gates:
            row = _steering(network, x, request, chosen)
            for name in gates:
                add(name, row)
    if "beside" in checks:
        blind = [n for n in methods if METHODS[n].source in AT_TOKENS and n not in told]
        if blind:
            row = _beside(network, x, request, geometry, chosen)
            for name in blind:
                add(name, row)
    return found


def add_further(
    checks: Sequence[str],
    network: nn.Module,
    x: Tensor,
    request: Request,
    geometry: Geometry,
    result: BatchResult,
) -> None:
    """Add further checks to what was found of a batch."""
    maps = {name: result.maps[name]["relevance"] for name in request.methods}
    told = [n for n in maps if any(c.name == BESIDE for c in result.checks[n][0])]
    rows = further_checks(checks, network, x, request, geometry, result.chosen, maps, told=told)
    for name, row in rows.items():
        own = result.checks[name]
        result.checks[name] = [joined(a, b) for a, b in zip(own, row, strict=True)]


def _lowest(maps: Float[Tensor, "batch targets more patches"], other: Tensor) -> list[Check]:
    values = [
        min(
            diagnose.spearman(a, b)
            for a, b in zip(one.flatten(0, 1).numpy(), two.flatten(0, 1).numpy(), strict=True)
        )
        for one, two in zip(maps, other, strict=True)
    ]
    return [diagnose.check_jitter(value) for value in values]


def _class_blind(
    network: nn.Module,
    x: Tensor,
    request: Request,
    geometry: Geometry,
    chosen: tuple[tuple[Chosen, ...], ...],
    maps: Mapping[str, Tensor],
) -> dict[str, list[Check]]:
    """Compare the maps of each volume's first target with those of its runner-up."""
    name = "class-blind"
    with torch.no_grad():
        logits = first_output(network(x)).float()
    classes = num_classes(logits.shape[1])
    first = [row[0] for row in chosen]
    if not all(isinstance(target, int) for target in first):
        why = not_applicable(name, "no class was explained, but a contrast or another score")
        return {method: [why] * len(x) for method in maps}
    opposite = classes == 2 and (logits.shape[1] == 1 or request.score != "logit")
    plain = set(request.weightings) <= {"mean"}
    wanted = [
        method
        for method in maps
        if not (opposite and METHODS[method].linear and (plain or method != "token_gradcam"))
    ]
    why = not_applicable(
        name, "with two classes the map of one is that of the other with its sign turned"
    )
    found = {method: [why] * len(x) for method in maps}
    if not wanted:
        return found
    others = tuple((_runner_up(z, cast("int", c)),) for z, c in zip(logits, first, strict=True))
    again = replace(request, methods=tuple(wanted), targets=("predicted",))
    result = explain_batch(network, x, again, geometry, chosen=others)
    for method in wanted:
        theirs = result.maps[method]["relevance"].reshape(len(x), -1, geometry.num_patches)
        pairs = [zip(a, b, strict=True) for a, b in zip(maps[method][:, 0], theirs, strict=True)]
        rows = [[diagnose.class_blind(a.numpy(), b.numpy()) for a, b in pair] for pair in pairs]
        found[method] = [max(row, key=lambda check: check.value) for row in rows]
    return found


def _runner_up(z: Float[Tensor, " outputs"], target: int) -> int:
    """Return the class with the largest value beside the explained one."""
    if len(z) == 1:
        return 1 - target
    rest = z.clone()
    rest[target] = -torch.inf
    return int(rest.argmax())


def input_blind(relevance: Tensor, chosen: Sequence[Sequence[Chosen]], num_patches: int) -> Check:
    """Compare the maps of different volumes for the same target, the commonest there is.

    Parameters
    ----------
    relevance : (volumes, ..., gi, gj, gk)
        With targets and weightings between, where there are several.
    chosen
        The class or contrast of each volume and target.
    num_patches
        Of one map.
    """
    maps = relevance.reshape(len(relevance), len(chosen[0]), -1, num_patches)
    groups: dict[tuple[int, Chosen], list[int]] = {}
    for volume, row in enumerate(chosen):
        for place, target in enumerate(row):
            groups.setdefault((place, target), []).append(volume)
    (place, _), volumes = max(groups.items(), key=lambda item: len(item[1]))
    per_weighting = maps[volumes, place].unbind(1)
    checks = [diagnose.input_blind(list(some.numpy())) for some in per_weighting]
    return max(checks, key=lambda check: check.value)


def add_input_blind(
    batches: Sequence[BatchResult], methods: Sequence[str], num_patches: int
) -> None:
    """Add to every map whether volumes matter, judged over all that were explained."""
    chosen = [row for batch in batches for row in batch.chosen]
    for name in methods:
        relevance = torch.cat([batch.maps[name]["relevance"] for batch in batches])
        check = input_blind(relevance, chosen, num_patches)
        for batch in batches:
            batch.checks[name] = [(*row, check) for row in batch.checks[name]]


def _steering(
    network: nn.Module, x: Tensor, request: Request, chosen: tuple[tuple[Chosen, ...], ...]
) -> list[Check]:
    """Return what acts by steering attention, of each volume's first target."""
    with torch.no_grad():
        logits = first_output(network(x))
    weights = score_batch(chosen, logits, request.score).weights[:, 0]
    full, held = steering_gradients(network, x, weights)
    size = full.flatten(1).norm(dim=1)
    missed = (full - held).flatten(1).norm(dim=1)
    values = torch.where(size > 0, missed / torch.where(size > 0, size, 1.0), 0.0)
    return [diagnose.check_steering(value) for value in values.tolist()]


def _beside(
    network: nn.Module,
    x: Tensor,
    request: Request,
    geometry: Geometry,
    chosen: tuple[tuple[Chosen, ...], ...],
) -> list[Check]:
    """Judge by frozen gates what reaches the score beside the tokens."""
    gates = replace(request, methods=("frozen_gate",))
    found = explain_batch(network, x, gates, geometry, chosen=chosen).beside
    if found is None or not bool(found.isfinite().all()):
        why = "the tokens that enter the first block of this model are not found"
        return [not_applicable(BESIDE, why)] * len(x)
    return [diagnose.check_beside(value) for value in found.tolist()]


def check_explanation(
    checks: Sequence[str],
    network: nn.Module,
    volumes: Volumes,
    result: Explanation,
    geometry: Geometry,
    *,
    alone: bool,
    inside: Bool[Tensor, " patches"] | None = None,
) -> tuple[tuple[Check, ...], ...]:
    """Make further checks of an explanation, one row per volume.

    Parameters
    ----------
    checks
        Of `CHECKS`.
    network
        The module inside `g3dvit.capture.guest`.
    volumes : (volumes, *input_shape)
        The first volumes that were explained, or all.
    result
        What was found for them.
    geometry
        How the model divides its input.
    alone
        Run the volumes one at a time under frozen gates.
    inside
        As for `further_checks`.
    """
    several = result.scores.ndim == 2
    chosen = tuple(t if several else (t,) for t in result.target[: len(volumes)])
    request = Request(
        methods=(result.method,),
        weightings=cast("tuple[Weighting, ...]", result.weightings),
        targets=result.targets,
        score=resolve_score(result.score_function or result.score, [result.method]),
        target_layer=result.target_layer or "",
        attention_layer=result.target_layer or "",
        alone=alone,
        options=result.options,
    )
    size = choose_batch_size(None, geometry)
    rows: Rows = []
    for start in range(0, len(volumes), size):
        inputs = to_input(volumes[start : start + size], network)
        maps = {result.method: result.relevance[start : start + len(inputs)]}
        rows += further_checks(
            checks,
            network,
            inputs,
            request,
            geometry,
            chosen[start : start + size],
            maps,
            inside=inside,
        )[result.method]
    if "input_blind" in checks:
        relevance = result.relevance[: len(volumes)]
        rows = [(*row, input_blind(relevance, chosen, geometry.num_patches)) for row in rows]
    return tuple(rows)
