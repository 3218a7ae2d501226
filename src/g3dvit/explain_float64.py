"""Compare maps with the same maps computed in float64, without converting the user's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from g3dvit.capture import wider
from g3dvit.diagnose import Check, agreement_float64, no_float64
from g3dvit.explain_batch import explain_batch
from g3dvit.explain_inputs import Volumes, choose_batch_size, to_input
from g3dvit.explain_request import Request
from g3dvit.explanation import Explanation
from g3dvit.geometry import Geometry
from g3dvit.methods import Weighting
from g3dvit.targets import Chosen, resolve_score


def compare_float64(
    network: nn.Module,
    x: Tensor,
    request: Request,
    geometry: Geometry,
    chosen: tuple[tuple[Chosen, ...], ...],
    relevance: Mapping[str, Tensor],
) -> dict[str, list[Check]]:
    """Explain a batch with float64 copies of all parameters and compare the patch scores.

    Parameters
    ----------
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

    Returns
    -------
    dict
        Per method, one check per volume; of several targets and weightings the worst.
    """
    methods = tuple(relevance)
    try:
        exact = explain_batch(
            network,
            x.double(),
            replace(request, methods=methods),
            geometry,
            chosen=chosen,
            run=wider(network, torch.float64),
        )
    except (RuntimeError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return {name: [no_float64(lines[0])] * len(x) for name in methods}
    return {
        name: [
            _worst(values[n], exact.maps[name]["relevance"][n], geometry.num_patches)
            for n in range(len(x))
        ]
        for name, values in relevance.items()
    }


def check_explanation(
    network: nn.Module,
    volumes: Volumes,
    result: Explanation,
    geometry: Geometry,
    *,
    alone: bool,
) -> tuple[Check, ...]:
    """Compare an explanation with the same maps computed in float64, one check per volume.

    Parameters
    ----------
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
    """
    several = result.scores.ndim == 2
    chosen = tuple(t if several else (t,) for t in result.target[: len(volumes)])
    request = Request(
        methods=(result.method,),
        weightings=cast("tuple[Weighting, ...]", result.weightings),
        targets=result.targets,
        score=resolve_score(result.score_function or result.score, [result.method]),
        target_layer=result.target_layer or "",
        alone=alone,
        options=result.options,
    )
    size = choose_batch_size(None, geometry)
    rows: list[Check] = []
    for start in range(0, len(volumes), size):
        inputs = to_input(volumes[start : start + size], network)
        some = chosen[start : start + size]
        maps = {result.method: result.relevance[start : start + len(inputs)]}
        rows += compare_float64(network, inputs, request, geometry, some, maps)[result.method]
    return tuple(rows)


def _worst(relevance: Tensor, exact: Tensor, num_patches: int) -> Check:
    rows = zip(
        torch.unbind(relevance.reshape(-1, num_patches)),
        torch.unbind(exact.reshape(-1, num_patches)),
        strict=True,
    )
    found = [agreement_float64(a.numpy(), b.numpy()) for a, b in rows]
    return min(found, key=lambda check: check.value)
