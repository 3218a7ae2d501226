"""Compare maps with the same maps computed in float64, without converting the user's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from g3dvit.capture import wider
from g3dvit.diagnose import Check, agreement_float64, no_float64
from g3dvit.explain_batch import explain_batch
from g3dvit.explain_request import Request
from g3dvit.geometry import Geometry
from g3dvit.targets import Chosen


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


def _worst(relevance: Tensor, exact: Tensor, num_patches: int) -> Check:
    rows = zip(
        torch.unbind(relevance.reshape(-1, num_patches)),
        torch.unbind(exact.reshape(-1, num_patches)),
        strict=True,
    )
    found = [agreement_float64(a.numpy(), b.numpy()) for a, b in rows]
    return min(found, key=lambda check: check.value)
