"""Attention without softmax: its weights are gates as well."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from torch import Tensor, nn

import g3dvit

DIM, EDGE = 12, 3


class Attention(nn.Module):
    """Attention whose weights come from an activation function; `held` detaches them by hand."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.kind = kind
        self.held = False

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.kind == "linear":
            q, k = F.elu(q) + 1, F.elu(k) + 1
            if self.held:
                q, k = q.detach(), k.detach()
            return self.out(q @ (k.mT @ v) / (q @ k.sum(1)[..., None]))
        scores = q @ k.mT / DIM**0.5
        weights = F.relu(scores) / 27 if self.kind == "relu" else torch.sigmoid(scores - 3)
        if self.held:
            weights = weights.detach()
        if self.kind == "einsum":
            return self.out(torch.einsum("bij,bjd->bid", weights, v))
        return self.out(weights @ v)


class Model(nn.Module):
    """No normalisation and no MLP: with its weights held it is affine in its tokens."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, DIM, EDGE, EDGE)
        self.position = nn.Parameter(0.3 * torch.randn(1, 27, DIM))
        self.blocks = nn.ModuleList([Attention(kind) for _ in range(2)])
        self.norm, self.head = nn.Identity(), nn.Linear(DIM, 2)
        self.tokens: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT + self.position
        self.tokens = tokens
        for block in self.blocks:
            tokens = tokens + block(tokens)
        out: Tensor = self.head(self.norm(tokens).mean(1))
        return out


@pytest.mark.parametrize("kind", ["sigmoid", "einsum", "relu", "linear"])
def test_weights_of_attention_without_softmax_are_held(kind: str) -> None:
    torch.manual_seed(0)
    model = Model(kind).eval()
    x = torch.randn(2, 1, 9, 9, 9)
    explainer = g3dvit.Explainer(model, (1, 9, 9, 9))
    found = explainer.explain(x, "frozen_gate", target=0, score="logit")
    assert float(found.completeness_error.max()) < 1e-6
    for block in model.blocks:
        block.held = True
    score = model(x)[:, 0].sum()
    (gradient,) = torch.autograd.grad(score, model.tokens)
    expected = (model.tokens * gradient).sum(-1).detach()
    torch.testing.assert_close(found.relevance.flatten(1), expected, rtol=1e-4, atol=1e-6)
