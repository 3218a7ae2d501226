"""Attention and its gradient: rollouts, AGCAM and LeGrad.

A rollout is attention followed from the tokens that the head reads back to the patches. It
multiplies one matrix per block. Only the row vector that starts at the head is needed, so
it is carried from the last block to the first, and each block's attention weights are looked at a
few rows at a time: no matrix over all pairs of tokens is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

#: About how many attention weights are looked at in one go.
_AT_ONCE = 500_000


class Attention(Protocol):
    """One attention, as `g3dvit.capture.AttentionPass` gives it."""

    @property
    def values(self) -> Tensor:
        """(batch, heads, tokens, d), what is attended to."""

    def weights(self, first: int, last: int) -> Tensor:
        """(batch, heads, last - first, tokens), rows of the attention matrix."""

    def scores(self, first: int, last: int) -> Tensor:
        """(batch, heads, last - first, tokens), the same before the softmax."""


def attention_rollout(
    attentions: Sequence[Attention], start: Float[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """Return attention rollout: how much of each token the head's tokens have mixed in.

    ``r <- r (mean_h A_l + I) / 2`` from the last block to the first. It does not know what is
    explained: every class has the same map.

    Parameters
    ----------
    attentions
        Of the blocks, in the order of execution.
    start : (batch, tokens)
        How much the head reads of each token: 1 for a class token, equal shares for a mean.

    References
    ----------
    Abnar and Zuidema 2020, https://doi.org/10.18653/v1/2020.acl-main.385
    """
    r = start
    for attention in reversed(attentions):
        mixed = torch.zeros_like(r)
        for first, last in _chunks(attention.values, r):
            weights = attention.weights(first, last).mean(dim=1)
            mixed += torch.einsum("bq,bqt->bt", r[:, first:last], weights.to(r))
        r = (r + mixed) / 2
    return r


def gradient_rollout(
    attentions: Sequence[Attention],
    gradients: Sequence[Float[Tensor, "batch heads tokens d"]],
    start: Float[Tensor, "batch tokens"],
) -> Float[Tensor, "batch tokens"]:
    """Return gradient rollout: attention weighted by the positive part of its own gradient.

    ``r <- r + r mean_h max(A_l * dy/dA_l, 0)`` from the last block to the first, where
    ``dy/dA_qt = <dy/do_q, v_t>`` needs the output o and the values v of an attention only.

    Parameters
    ----------
    attentions
        Of the blocks, in the order of execution.
    gradients : sequence of (batch, heads, tokens, d)
        Of the score with respect to the output of each attention.
    start : (batch, tokens)
        How much the head reads of each token.

    References
    ----------
    Chefer et al. 2021, https://doi.org/10.1109/ICCV48922.2021.00045
    """
    r = start
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        added = torch.zeros_like(r)
        values = attention.values.to(r)
        for first, last in _chunks(attention.values, r):
            slopes = gradient[:, :, first:last].to(r) @ values.transpose(-1, -2)
            found = (slopes * attention.weights(first, last).to(r)).relu().mean(dim=1)
            added += torch.einsum("bq,bqt->bt", r[:, first:last], found)
        r = r + added
    return r


def agcam(
    attentions: Sequence[Attention],
    gradients: Sequence[Float[Tensor, "batch heads tokens d"]],
    start: Float[Tensor, "batch tokens"],
) -> Float[Tensor, "batch tokens"]:
    """Return AGCAM: the positive gradient of attention times a sigmoid of its raw score, summed.

    ``R_t = sum_lhq r_q max(dy/dA_lhqt, 0) sigmoid(s_lhqt)`` over blocks l and heads h, with s what
    the softmax is taken of. For a class token, r picks its row, as in the paper; for a mean of
    tokens all rows count alike.

    Parameters
    ----------
    attentions
        Of the blocks, in the order of execution.
    gradients : sequence of (batch, heads, tokens, d)
        Of the score with respect to the output of each attention.
    start : (batch, tokens)
        How much the head reads of each token.

    References
    ----------
    Leem and Seo 2024, https://arxiv.org/abs/2402.04563
    """
    total = torch.zeros_like(start)
    for attention, gradient in zip(attentions, gradients, strict=True):
        values = attention.values.to(start)
        for first, last in _chunks(attention.values, start):
            slopes = gradient[:, :, first:last].to(start) @ values.transpose(-1, -2)
            found = slopes.relu() * attention.scores(first, last).to(start).sigmoid()
            total += torch.einsum("bq,bhqt->bt", start[:, first:last], found)
    return total


def legrad(
    attentions: Sequence[Attention], gradients: Sequence[Float[Tensor, "batch heads tokens d"]]
) -> Float[Tensor, "batch tokens"]:
    """Return LeGrad: the positive gradient of every block's attention, each for its own score.

    ``R_t = sum_l mean_hq max(ds_l/dA_lhqt, 0)`` with s_l the score of the head on the tokens of
    block l. Attention weights themselves do not count.

    Parameters
    ----------
    attentions
        Of the blocks.
    gradients : sequence of (batch, heads, tokens, d)
        Of the score of each block with respect to the output of its own attention.

    References
    ----------
    Bousselham et al. 2024, https://arxiv.org/abs/2404.03214
    """
    parts = []
    for attention, gradient in zip(attentions, gradients, strict=True):
        read = gradient.abs().amax((1, 3))
        values, found = attention.values.to(gradient), torch.zeros_like(read)
        for first, last in _chunks(values, read):
            slopes = gradient[:, :, first:last] @ values.transpose(-1, -2)
            found += slopes.relu().mean(dim=1).sum(dim=1)
        parts.append(found / read.shape[1])
    return torch.stack(parts).sum(dim=0)


def _chunks(values: Tensor, r: Tensor) -> list[tuple[int, int]]:
    """Return ranges of rows, those left out in which no volume has a share."""
    batch, heads, tokens = values.shape[:3]
    step = max(1, _AT_ONCE // (batch * heads * tokens))
    used = (r != 0).any(dim=0)
    if int(used.sum()) == 1:
        only = int(used.nonzero()[0, 0])
        return [(only, only + 1)]
    ranges = [(first, min(first + step, tokens)) for first in range(0, tokens, step)]
    return [(first, last) for first, last in ranges if bool(used[first:last].any())]
