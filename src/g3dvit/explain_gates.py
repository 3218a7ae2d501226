"""Frozen gates in other forms: averaged over noisy copies, or with the gamma rule.

What `frozen_gate` and its variants share is here too: from a pass to shares, from shares to maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import FrozenPass, FrozenProducts, first_output, wider
from g3dvit.capture.conservation import unconserved_module
from g3dvit.capture.frozen_functions import HALF
from g3dvit.checks import Check
from g3dvit.explain_context import Context, host
from g3dvit.explanation import Maps
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS, completeness_error, frozen_gate_noise, held_share
from g3dvit.methods import frozen_gate as frozen_gate_shares
from g3dvit.methods.frozen_gates import FrozenGateMap
from g3dvit.methods.local_voxels import local_voxels
from g3dvit.targets import Chosen, Scores, score_batch

#: Above this completeness error the volumes of a batch are run one at a time.
_RETRY = 1e-4
#: Above this share of the score, what is held constant is searched for: where its check warns.
_HELD = 0.02


@dataclass(frozen=True, slots=True)
class Followed:
    """How far a model could be followed.

    Parameters
    ----------
    half
        Whether it computes in half precision, somewhere.
    numbers_out
        Functions by which it took numbers out of torch.
    """

    half: bool = False
    numbers_out: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *passes: FrozenPass) -> Followed:
        """Return what some passes with frozen gates noted together."""
        return cls(
            any(one.gates.half for one in passes),
            frozenset().union(*(one.gates.numbers_out for one in passes)),
        )

    def __or__(self, other: Followed) -> Followed:
        return Followed(self.half or other.half, self.numbers_out | other.numbers_out)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Shares, completeness errors and held shares (batch,) per target; outputs (batch, outputs).

    And how far the model could be followed, and per target, where they were asked for, voxels
    against their surroundings (batch, i, j, k).
    """

    shares: list[FrozenGateMap]
    errors: list[Tensor]
    held: list[Tensor]
    logits: Tensor
    followed: Followed
    local: list[Tensor] = field(default_factory=list)


#: Explains a batch, given what to run, its input, and what is explained of each volume.
_One = Callable[[Callable[[Tensor], Any], Tensor, Sequence[Sequence[Chosen]]], Found]


def explain_gates(batch: Context) -> None:
    """Explain a batch with every variant of frozen gates asked for."""
    if batch.result is None:
        with torch.no_grad():
            batch.choose_scores(first_output(batch.run(batch.x)))
    for name in batch.request.methods:
        if METHODS[name].source != "gate variants":
            continue
        if name == "frozen_gate_gamma":
            found = explain_gamma(batch, batch.x, batch.option(name, "gamma"))
        else:
            found = _apart(batch, batch.x, partial(_noise, batch))
        shares, errors = found.shares, found.errors
        batch.store(name, [share_maps(batch, s, e) for s, e in zip(shares, errors, strict=True)])
        of = "the mean score of the noisy copies" if name == "frozen_gate_noise" else "the score"
        size = torch.stack([patch_share(s) for s in shares], dim=1).amin(1).tolist()
        missed, held = (torch.stack(values, dim=1) for values in (errors, found.held))
        complete = share_checks(batch, missed, held, found.followed, of=of)
        batch.found.checks[name] = [
            (diagnose.check_empty(share), *checks)
            for share, checks in zip(size, complete, strict=True)
        ]


def share_checks(
    batch: Context, errors: Tensor, held: Tensor, followed: Followed, *, of: str = "the score"
) -> list[tuple[Check, Check]]:
    """Judge whether shares add up and what is held constant, and name the module if not.

    Parameters
    ----------
    batch
        What was explained.
    errors, held : (batch, targets)
        Completeness errors and held shares.
    followed
        How far the model could be followed.
    of
        What the shares should add up to.
    """
    half = followed.half or batch.x.dtype in HALF
    incomplete = diagnose.completeness_limits(half=half)[0]
    module, holder = (
        _culprit(batch, found) if float(found.max()) > limit else ""
        for found, limit in ((errors, incomplete), (held, _HELD))
    )
    return [
        (
            diagnose.check_completeness(error, module, of=of, half=half),
            diagnose.check_held(part, holder, numbers_out=followed.numbers_out),
        )
        for error, part in zip(errors.amax(1).tolist(), held.amax(1).tolist(), strict=True)
    ]


def _culprit(batch: Context, errors: Tensor) -> str:
    """Name the module in which the worst map loses or gains relevance, or holds values."""
    volume, number = divmod(int(errors.argmax()), errors.shape[1])
    one = slice(volume, volume + 1)
    x = batch.x[one]
    with torch.no_grad():
        logits = first_output(batch.run(x))
    assert batch.chosen is not None  # with the first pass
    weights = score_batch(batch.chosen[one], logits, batch.request.score).weights[:, number]
    return unconserved_module(batch.network, x, weights, batch.counts, run=batch.run)


def explain_gamma(batch: Context, x: Tensor, gamma: float, *, local: bool = False) -> Found:
    """Explain an input with the gamma rule; a gamma of 0 is plain frozen gates.

    Parameters
    ----------
    batch
        Its targets are explained.
    x : (batch, ...)
        The input of the batch, or another of its shape.
    gamma
        Of the gamma rule.
    local
        Compare voxels with their surroundings too (`g3dvit.methods.local_voxels`).
    """
    return _apart(batch, x, partial(_gamma, batch, gamma, local))


def _apart(batch: Context, x: Tensor, one: _One) -> Found:
    """Explain a batch, or its volumes one at a time where it takes that."""
    run = batch.run
    if x.dtype in HALF:
        run, x = wider(batch.network, torch.float32), x.float()
    assert batch.chosen is not None  # with the first pass
    if not (batch.request.alone or batch.found.alone) or len(x) == 1:
        found = one(run, x, batch.chosen)
        if len(x) == 1 or max(float(e.max()) for e in found.errors) <= _RETRY:
            return found
    # A model may hold its volumes on an axis where they cannot be told apart.
    alone = [one(run, x[n : n + 1], batch.chosen[n : n + 1]) for n in range(len(x))]
    numbers = range(len(alone[0].shares))
    return Found(
        [FrozenGateMap.joined([each.shares[n] for each in alone]) for n in numbers],
        [torch.cat([each.errors[n] for each in alone]) for n in numbers],
        [torch.cat([each.held[n] for each in alone]) for n in numbers],
        torch.cat([each.logits for each in alone]),
        reduce(or_, (each.followed for each in alone)),
        [torch.cat([each.local[n] for each in alone]) for n in numbers if alone[0].local],
    )


def _gamma(
    batch: Context,
    gamma: float,
    local: bool,  # noqa: FBT001 - bound by `explain_gamma`
    run: Callable[[Tensor], Any],
    x: Tensor,
    chosen: Sequence[Sequence[Chosen]],
) -> Found:
    frozen = FrozenPass(run, x, batch.counts, trace=shuffles(batch.geometry), gamma=gamma)
    scores = score_batch(chosen, frozen.logits, batch.request.score)
    seen: list[Tensor] = []

    def note(products: FrozenProducts) -> None:
        seen.append(_against_surroundings(batch, products, x))

    shares = shares_of(batch, frozen, scores, note if local else None)
    found = _found(shares, scores.values, frozen.logits, Followed.of(frozen))
    return replace(found, local=seen)


def _against_surroundings(batch: Context, products: FrozenProducts, x: Tensor) -> Tensor:
    """Return each voxel's relevance against its surroundings, (batch, i, j, k)."""
    plain = batch.volume(products.voxels)
    slopes, past = products.slopes, products.past_norms
    if slopes is None or past is None:
        return plain
    values = x.double()
    channels = values[0].numel() // plain[0].numel()
    return local_voxels(
        plain,
        batch.volume(past.double() + slopes * values),
        batch.volume(slopes),
        batch.volume(values) / channels,
        batch.geometry.grid_shape,
    )


def _noise(
    batch: Context,
    run: Callable[[Tensor], Any],
    x: Tensor,
    chosen: Sequence[Sequence[Chosen]],
) -> Found:
    seen: list[Tensor] = []
    logits: list[Tensor] = []
    followed: list[Followed] = []

    def shares_at(copy: Tensor) -> list[FrozenGateMap]:
        frozen = FrozenPass(run, copy, batch.counts, trace=shuffles(batch.geometry))
        scores = score_batch(chosen, frozen.logits, batch.request.score)
        seen.append(scores.values)
        logits.append(frozen.logits)
        followed.append(Followed.of(frozen))
        return shares_of(batch, frozen, scores)

    options = batch.request.options.used(METHODS["frozen_gate_noise"])
    shares = frozen_gate_noise(shares_at, x, **options)
    score, outputs = (torch.stack(values).mean(0) for values in (seen, logits))
    return _found(shares, score, outputs, reduce(or_, followed))


def _found(
    shares: list[FrozenGateMap], values: Tensor, logits: Tensor, followed: Followed
) -> Found:
    pairs = list(zip(shares, values.unbind(1), strict=True))
    errors, held = ([f(s, y) for s, y in pairs] for f in (completeness_error, held_share))
    return Found(shares, errors, held, logits.detach(), followed)


def shuffles(geometry: Geometry) -> bool:
    """Tell whether the model's tokens are in another order than the patches of the input."""
    return geometry.token_order != tuple(range(geometry.num_patches))


def shares_of(
    batch: Context,
    frozen: FrozenPass,
    scores: Scores,
    note: Callable[[FrozenProducts], None] | None = None,
) -> list[FrozenGateMap]:
    """Return the shares of every score of a pass; `note` gets its products, slopes among them."""
    found = []
    for number in range(scores.values.shape[1]):
        products = frozen.products(scores.weights[:, number], slopes=note is not None)
        if note is not None:
            note(products)
        found.append(
            frozen_gate_shares(
                products,
                batch.geometry.num_patches,
                batch.geometry.num_prefix_tokens,
                lambda values: batch.by_patch(batch.volume(values)),
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
