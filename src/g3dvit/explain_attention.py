"""Methods that read every attention: rollouts, AGCAM, LeGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import AttentionPass
from g3dvit.errors import MethodError
from g3dvit.explain_context import Context, host
from g3dvit.methods import agcam, attention_rollout, gradient_rollout, legrad
from g3dvit.targets import score_batch


def explain_attention(batch: Context) -> None:
    """Explain a batch with every method asked for that reads attention.

    Raises
    ------
    MethodError
        If not every attention is seen, or the head reads neither one token nor a mean.
    """
    methods = batch.request.methods
    if {"gradient_rollout", "agcam"} & set(methods):
        _explain_gradients(batch)
    if "attention_rollout" in methods:
        seen = AttentionPass(batch.run, batch.x, batch.geometry.num_tokens, gradients=False)
        scores = batch.choose_scores(seen.logits)
        relevance = attention_rollout(seen.calls, _start(batch, scores.values))
        _store(batch, "attention_rollout", [relevance] * scores.values.shape[1])
    if "legrad" in methods:
        _explain_blocks(batch)


def _explain_gradients(batch: Context) -> None:
    seen = AttentionPass(batch.run, batch.x, batch.geometry.num_tokens)
    scores = batch.choose_scores(seen.logits)
    start = _start(batch, scores.values)
    found: dict[str, list[Tensor]] = {"gradient_rollout": [], "agcam": []}
    asked = [name for name in found if name in batch.request.methods]
    for number in range(scores.values.shape[1]):
        gradients = seen.gradients(scores.weights[:, number])
        if "gradient_rollout" in asked:
            # Less the start: what the head reads of a patch token itself is in every one alike.
            rolled = gradient_rollout(seen.calls, gradients, start) - start
            found["gradient_rollout"].append(rolled)
        if "agcam" in asked:
            found["agcam"].append(agcam(seen.calls, gradients, start))
    for name in asked:
        _store(batch, name, found[name])


def _explain_blocks(batch: Context) -> None:
    """Explain with LeGrad: one pass for each block, the blocks behind it adding nothing."""
    num_tokens = batch.geometry.num_tokens
    whole = AttentionPass(batch.run, batch.x, num_tokens, gradients=False)
    batch.choose_scores(whole.logits)
    assert batch.chosen is not None  # by the line before
    totals: list[Tensor] = []
    for blocks in range(1, len(whole.calls) + 1):
        seen = AttentionPass(batch.run, batch.x, num_tokens, blocks=blocks)
        scores = score_batch(batch.chosen, seen.logits, batch.request.score)
        own = slice(blocks - 1, blocks)
        found = [
            legrad(seen.calls[own], [g.to(scores.values) for g in seen.gradients(weights)[own]])
            for weights in scores.weights.unbind(1)
        ]
        totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
    _store(batch, "legrad", totals)


def _start(batch: Context, like: Tensor) -> Tensor:
    """Return how much the head reads of each token, (batch, tokens)."""
    geometry = batch.geometry
    start = like.new_zeros((len(batch.x), geometry.num_tokens))
    first = geometry.num_prefix_tokens
    if geometry.pooling == "mean of patches":
        start[:, first : first + geometry.num_patches] = 1 / geometry.num_patches
    elif geometry.pooling == "mean of all tokens":
        start[:] = 1 / geometry.num_tokens
    elif geometry.pooling == "class token":
        start[:, _class_token(batch)] = 1
    else:
        raise MethodError(
            "a rollout starts at what the head reads, one token or a mean of tokens; how this "
            "model's head reads its tokens is neither. Use method='frozen_gate'"
        )
    return start


def _class_token(batch: Context) -> int:
    """Return which token the head reads: the one whose last attention output has a gradient."""
    seen = AttentionPass(batch.run, batch.x[:1], batch.geometry.num_tokens)
    total = torch.zeros(batch.geometry.num_tokens)
    for output in range(seen.logits.shape[1]):
        weights = torch.zeros_like(seen.logits)
        weights[:, output] = 1
        total += seen.gradients(weights)[-1].norm(dim=3).sum((0, 1)).float().cpu()
    return int(total.argmax())


def _store(batch: Context, name: str, found: list[Tensor]) -> None:
    first = batch.geometry.num_prefix_tokens
    patches = [r[:, first : first + batch.geometry.num_patches] for r in found]
    batch.store(name, [{"relevance": host(batch.grid(p))} for p in patches])
    shares = [
        p.abs().amax(1) / r.abs().amax(1).clamp_min(torch.finfo(r.dtype).tiny)
        for p, r in zip(patches, found, strict=True)
    ]
    values = torch.stack(shares).amin(0).tolist()
    batch.found.checks[name] = [(diagnose.check_empty(value),) for value in values]
