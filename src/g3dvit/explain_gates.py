"""Frozen gates in other forms: averaged over noisy copies, or with the gamma rule.

What `frozen_gate` and its variants share is here too: from a pass to shares, from shares to maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import FrozenPass, first_output, wider
from g3dvit.explain_context import Context, host
from g3dvit.explanation import Maps
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS, completeness_error, frozen_gate_noise
from g3dvit.methods import frozen_gate as frozen_gate_shares
from g3dvit.methods.frozen_gates import FrozenGateMap
from g3dvit.targets import Chosen, Scores, score_batch

#: Noisy copies, unless told.
SAMPLES = 16
#: Above this completeness error the volumes of a batch are run one at a time.
_RETRY = 2e-3

_Found = tuple[list[FrozenGateMap], list[Tensor]]


def explain_gates(batch: Context) -> None:
    """Explain a batch with every variant of frozen gates asked for."""
    if batch.result is None:
        with torch.no_grad():
            batch.choose_scores(first_output(batch.run(batch.x)))
    for name in batch.request.methods:
        if METHODS[name].source != "gate variants":
            continue
        shares, errors = _explain(batch, name)
        batch.store(name, [share_maps(batch, s, e) for s, e in zip(shares, errors, strict=True)])
        of = "the mean score of the noisy copies" if name == "frozen_gate_noise" else "the score"
        size = torch.stack([patch_share(s) for s in shares], dim=1).amin(1).tolist()
        worst = torch.stack(errors, dim=1).amax(1).tolist()
        batch.found.checks[name] = [
            (diagnose.check_empty(share), diagnose.check_completeness(error, of=of))
            for share, error in zip(size, worst, strict=True)
        ]


def _explain(batch: Context, name: str) -> _Found:
    """Return shares and completeness errors (batch,) of every target."""
    run, x = batch.run, batch.x
    if x.dtype in (torch.bfloat16, torch.float16):
        run, x = wider(batch.network, torch.float32), x.float()
    assert batch.chosen is not None  # with the first pass
    one = _gamma if name == "frozen_gate_gamma" else _noise
    if not batch.request.alone or len(x) == 1:
        shares, errors = one(batch, run, x, batch.chosen)
        if len(x) == 1 or max(float(e.max()) for e in errors) <= _RETRY:
            return shares, errors
    # A model may hold its volumes on an axis where they cannot be told apart.
    alone = [one(batch, run, x[n : n + 1], batch.chosen[n : n + 1]) for n in range(len(x))]
    numbers = range(len(alone[0][0]))
    return (
        [FrozenGateMap.joined([shares[n] for shares, _ in alone]) for n in numbers],
        [torch.cat([errors[n] for _, errors in alone]) for n in numbers],
    )


def _gamma(
    batch: Context,
    run: Callable[[Tensor], Any],
    x: Tensor,
    chosen: Sequence[Sequence[Chosen]],
) -> _Found:
    gamma, trace = batch.request.options.gamma, shuffles(batch.geometry)
    frozen = FrozenPass(run, x, batch.counts, trace=trace, gamma=gamma)
    scores = score_batch(chosen, frozen.logits, batch.request.score)
    shares = shares_of(batch, frozen, scores)
    values = scores.values.unbind(1)
    return shares, [completeness_error(s, y) for s, y in zip(shares, values, strict=True)]


def _noise(
    batch: Context,
    run: Callable[[Tensor], Any],
    x: Tensor,
    chosen: Sequence[Sequence[Chosen]],
) -> _Found:
    options, trace = batch.request.options, shuffles(batch.geometry)
    seen: list[Tensor] = []

    def shares_at(copy: Tensor) -> list[FrozenGateMap]:
        frozen = FrozenPass(run, copy, batch.counts, trace=trace)
        scores = score_batch(chosen, frozen.logits, batch.request.score)
        seen.append(scores.values)
        return shares_of(batch, frozen, scores)

    shares = frozen_gate_noise(
        shares_at,
        x,
        samples=options.samples or SAMPLES,
        noise=options.noise,
        seed=options.seed,
    )
    values = torch.stack(seen).mean(0).unbind(1)
    return shares, [completeness_error(s, y) for s, y in zip(shares, values, strict=True)]


def shuffles(geometry: Geometry) -> bool:
    """Tell whether the model's tokens are in another order than the patches of the input."""
    return geometry.token_order != tuple(range(geometry.num_patches))


def shares_of(batch: Context, frozen: FrozenPass, scores: Scores) -> list[FrozenGateMap]:
    """Return the shares of every score of a pass."""
    found = []
    for number in range(scores.values.shape[1]):
        products = frozen.products(scores.weights[:, number])
        found.append(
            frozen_gate_shares(
                products,
                batch.geometry.num_patches,
                batch.geometry.num_prefix_tokens,
                batch.by_patch(batch.volume(products.voxels)),
                scores.offsets[:, number],
            )
        )
    return found


def share_maps(batch: Context, shares: FrozenGateMap, error: Tensor) -> Maps:
    """Return shares as maps on the grid of the input."""
    maps = {
        "relevance": shares.relevance,
        "content": shares.content,
        "position": shares.position,
        "embedding_bias": shares.embedding_bias,
    }
    return {name: host(batch.grid(values)) for name, values in maps.items()} | {
        "voxel_relevance": host(batch.volume(shares.voxels)),
        "prefix": host(shares.prefix),
        "bias": host(shares.bias),
        "completeness_error": host(error),
    }


def patch_share(shares: FrozenGateMap) -> Tensor:
    """Return the largest share of a patch over the largest of any share, per volume."""
    largest = shares.relevance.abs().amax(1)
    others = torch.maximum(shares.prefix.abs(), shares.bias.abs())
    top = torch.maximum(largest, others)
    return torch.where(top > 0, largest / torch.where(top > 0, top, 1.0), 0.0)
