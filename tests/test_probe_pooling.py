"""A mean of tokens is told from what only ends in a sum of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import g3dvit
from g3dvit.errors import MethodError
from g3dvit.probe import probe_geometry
from gallery import Block, TinyViT, seeded

DIM, PATCHES = 12, 30


class Pools(TinyViT):
    """A ViT whose head takes its tokens by a function of (model, tokens)."""

    def __init__(self, take, **changes):
        super().__init__(**{"before": 0} | changes)
        self.take = take
        self.ask = nn.Linear(DIM, 1)
        self.ask_each = nn.Linear(DIM, DIM)
        self.value = nn.Linear(DIM, DIM, bias=False)
        self.fixed = nn.Parameter(torch.rand(1, self.position.shape[1], 1) ** 2)
        self.average = nn.AdaptiveAvgPool1d(1)
        self.dropout = nn.Dropout(0.3)
        self.weigh = Weigh(self.position.shape[1])
        self.gelu = nn.GELU()

    def weights(self, h):
        return (3 * self.ask(h)).softmax(1)

    def pooled(self, x):
        return self.take(self, x)


class Weigh(nn.Module):
    """Multiplies every token by a number of its own."""

    def __init__(self, tokens):
        super().__init__()
        self.numbers = nn.Parameter(torch.rand(1, tokens, 1))

    def forward(self, h):
        return h * self.numbers


class SmallUpdates(Block):
    """Adds next to nothing, like a model whose layer scales have just been set."""

    def forward(self, x):
        return x + 1e-6 * self.attention(self.norm1(x))


WEIGHTED = {
    "attention, as a sum of products": lambda m, h: (m.weights(h) * h).sum(1),
    "attention, as a matrix product": lambda m, h: (m.weights(h).transpose(1, 2) @ h)[:, 0],
    "attention, then dropout": lambda m, h: m.dropout(m.weights(h) * h).sum(1),
    "attention, then a projection": lambda m, h: m.value(m.weights(h) * h).sum(1),
    "attention to a projection": lambda m, h: (m.weights(h) * m.value(h)).sum(1),
    "attention of each feature": lambda m, h: (m.ask_each(h).softmax(1) * h).sum(1),
    "gated": lambda m, h: (torch.sigmoid(m.ask(h)) * h).mean(1),
    "in place": lambda m, h: (h * 1.0).mul_(m.weights(h)).sum(1),
    "fixed weights": lambda m, h: (h * m.fixed).sum(1) / m.fixed.sum(),
    "fixed weights of a module": lambda m, h: m.weigh(h).mean(1),
    "generalised mean": lambda m, h: h.clamp_min(1e-3).pow(3).mean(1).pow(1 / 3),
    "maximum": lambda m, h: h.amax(1),
}


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("final_norm", [True, False], ids=["norm", "no norm"])
def test_weighted_pooling_is_no_mean(name, final_norm):
    model = seeded(lambda: Pools(WEIGHTED[name], final_norm=final_norm))()
    assert probe_geometry(model, (1, 8, 6, 15)).pooling == "other"


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout", "agcam"])
def test_attention_pooling_is_refused_where_a_mean_is_not(method):
    x = torch.randn(2, 1, 8, 6, 15, generator=torch.Generator().manual_seed(1))
    mean = seeded(lambda: Pools(lambda m, h: h.mean(1)))()
    assert g3dvit.Explainer(mean, input_shape=(1, 8, 6, 15)).explain(x, method) is not None
    weighted = seeded(lambda: Pools(WEIGHTED["attention, as a sum of products"]))()
    with pytest.raises(MethodError, match="one token or a mean"):
        g3dvit.Explainer(weighted, input_shape=(1, 8, 6, 15)).explain(x, method)


MEANS = {
    "mean": lambda m, h: h.mean(1),
    "sum over number": lambda m, h: h.sum(1) / h.shape[1],
    "einsum": lambda m, h: torch.einsum("bnd->bd", h) / h.shape[1],
    "adaptive average": lambda m, h: m.average(h.transpose(1, 2)).squeeze(-1),
    "on the grid": lambda m, h: h.transpose(1, 2).unflatten(2, (2, 3, 5)).mean((2, 3, 4)),
    "tokens first": lambda m, h: h.transpose(0, 1).mean(0),
    "tokens first, copied": lambda m, h: h.transpose(0, 1).contiguous().mean(0),
    "half of it": lambda m, h: (0.5 * h).mean(1),
    "dropout before": lambda m, h: m.dropout(h).mean(1),
    "activation before": lambda m, h: m.gelu(h).mean(1),
    "projection before": lambda m, h: m.value(h).mean(1),
    "unit tokens": lambda m, h: F.normalize(h, dim=-1).mean(1),
    "norm by hand": lambda m, h: (
        (h - h.mean(2, keepdim=True)) / (h.var(2, keepdim=True) + 1e-6).sqrt() * m.ask.weight + 0.1
    ).mean(1),
    "norm behind": lambda m, h: F.layer_norm(h.mean(1), (DIM,)),
    "all ones": lambda m, h: (h * torch.ones_like(h[..., :1])).mean(1),
    "list": lambda m, h: torch.stack([h[:, n] for n in range(h.shape[1])]).mean(0),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"final_norm": False}, {"final_norm": False, "block": SmallUpdates}],
    ids=["norm", "no norm", "small updates"],
)
def test_every_way_to_write_a_mean_is_a_mean(name, changes):
    model = seeded(lambda: Pools(MEANS[name], **changes))()
    assert probe_geometry(model, (1, 8, 6, 15)).pooling == "mean of patches"


@pytest.mark.parametrize(
    ("take", "found"),
    [
        (lambda m, h: h.mean(1), "mean of all tokens"),
        (lambda m, h: h[:, 2:32].mean(1), "mean of patches"),
        (lambda m, h: h[:, 2:].sum(1) / PATCHES, "mean of patches"),
        (lambda m, h: h[:, 0], "class token"),
        (lambda m, h: m.dropout(m.value(h))[:, 0], "class token"),
        (lambda m, h: (m.weights(h) * h).sum(1), "other"),
        (lambda m, h: (m.weights(h[:, 2:]) * h[:, 2:]).sum(1), "other"),
    ],
)
@pytest.mark.parametrize("final_norm", [True, False])
def test_with_further_tokens(take, found, final_norm):
    model = seeded(lambda: Pools(take, before=2, final_norm=final_norm))()
    assert probe_geometry(model, (1, 8, 6, 15)).pooling == found


def test_a_mean_is_one_in_a_model_wrapped_twice_and_in_half_precision():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    mean, weighted = (
        seeded(lambda take=take: Wrapper(Wrapper(Pools(take))))()
        for take in (MEANS["dropout before"], WEIGHTED["attention, then dropout"])
    )
    assert probe_geometry(mean, (1, 8, 6, 15)).pooling == "mean of patches"
    assert probe_geometry(weighted, (1, 8, 6, 15)).pooling == "other"
    half = seeded(lambda: Pools(MEANS["mean"]).bfloat16())()
    assert probe_geometry(half, (1, 8, 6, 15)).pooling == "mean of patches"
