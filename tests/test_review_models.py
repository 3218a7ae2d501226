"""Models as they are met in the field: numbers against independent float64 calculations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from g3dvit import Explainer
from g3dvit.compare_logits import compare_logits
from g3dvit.errors import GeometryError, TargetError

GRID, PATCH = (2, 4, 3), (3, 2, 5)
SHAPE = (1, 6, 8, 15)


class Attention(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attention = None

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5).softmax(-1)
        self.attention = a
        return self.out((a @ v).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.2)
        self.attn = Attention(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    def __init__(self, dim=12, reentrant=None):
        super().__init__()
        self.reentrant = reentrant
        self.embed = nn.Conv3d(1, dim, PATCH, PATCH)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.5 * torch.randn(1, 25, dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(2))
        self.head = nn.Linear(dim, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x[:, 0])


def vit(**arguments):
    torch.manual_seed(0)
    return Vit(**arguments).eval()


def volumes(n=2):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def frozen_shares(model, x, target):
    """Relevance, content, position, prefix, bias and voxels of one volume, gates frozen by hand."""
    model, x = copy.deepcopy(model).double(), x.double().clone().requires_grad_()
    constants = []

    def constant(value):
        constants.append(value.detach().clone().requires_grad_())
        return constants[-1]

    def norm(x, layer):
        sigma = (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / sigma * layer.weight + constant(layer.bias)

    def attention(layer, x):
        t, d = x.shape[1:]
        split = (1, t, 3, layer.heads, -1)
        q, k, _ = layer.qkv(x).reshape(split).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-1, -2) * (d // layer.heads) ** -0.5).softmax(-1).detach()
        v = x @ layer.qkv.weight[2 * d :].T + constant(layer.qkv.bias[2 * d :])
        v = v.reshape(1, t, layer.heads, -1).transpose(1, 2)
        return (a @ v).transpose(1, 2).reshape(1, t, d) @ layer.out.weight.T + constant(
            layer.out.bias
        )

    patches = F.conv3d(x, model.embed.weight, stride=PATCH).flatten(2).transpose(1, 2)
    patches = patches + model.embed.bias
    position = model.position.detach().clone().requires_grad_()
    tokens = torch.cat([model.cls, patches], 1) + position
    h = tokens
    for block in model.blocks:
        h = h + attention(block.attn, norm(h, block.norm1))
        z = norm(h, block.norm2) @ block.mlp[0].weight.T + constant(block.mlp[0].bias)
        h = h + z * (F.gelu(z) / z).detach() @ block.mlp[2].weight.T + constant(block.mlp[2].bias)
    score = (h[:, 0] @ model.head.weight.T + constant(model.head.bias))[0, target]
    g_tokens, g_position, g_x, *g = torch.autograd.grad(score, [tokens, position, x, *constants])
    at_tokens = (g_tokens * tokens).sum(-1)[0].detach()
    at_position = (g_position * position).sum(-1)[0, 1:].detach()
    bias = sum(float((a * b).detach().sum()) for a, b in zip(g, constants, strict=True))
    return {
        "relevance": at_tokens[1:].reshape(GRID),
        "content": (at_tokens[1:] - at_position).reshape(GRID),
        "position": at_position.reshape(GRID),
        "prefix": at_tokens[0],
        "bias": torch.tensor(bias, dtype=torch.float64),
        "voxel_relevance": (g_x * x)[0, 0].detach(),
    }


def test_every_share_of_a_frozen_gate_map_is_that_of_gates_frozen_by_hand():
    model, x = vit(), volumes()
    result = Explainer(model, SHAPE).explain(x, "frozen_gate", target="all", score="logit")
    for volume in range(2):
        for target in range(3):
            for name, expected in frozen_shares(model, x[volume : volume + 1], target).items():
                found = getattr(result, name)[volume, target]
                torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradient_checkpointing_makes_no_difference(reentrant):
    methods = ["token_gradcam", "hirescam", "frozen_gate"]
    plain = Explainer(vit(), SHAPE).explain(volumes(), methods, target=1)
    model = vit(reentrant=reentrant)
    saving = Explainer(model, SHAPE).explain(volumes(), methods, target=1)
    for name in methods:
        torch.testing.assert_close(saving[name].relevance, plain[name].relevance)
    assert float(saving["frozen_gate"].completeness_error.max()) < 1e-4
    model.train().requires_grad_(True)
    model(volumes()).sum().backward()  # checkpointing works again
    assert float(model.blocks[0].mlp[0].weight.grad.abs().max()) > 0


def test_tensors_that_a_model_keeps_are_its_own_again_afterwards():
    model, x = vit(), volumes(3)
    with torch.no_grad():
        model(x)
    kept = [block.attn.attention for block in model.blocks]
    before = [a.clone() for a in kept]
    Explainer(model, SHAPE).explain(x[:2])
    for block, a, values in zip(model.blocks, kept, before, strict=True):
        assert block.attn.attention is a
        assert torch.equal(a, values)


def test_a_cache_made_inside_inference_mode_can_be_explained():
    class Cached(Vit):
        def forward(self, x):
            if not hasattr(self, "cache"):
                self.cache = torch.linspace(0.5, 2, 15)
            return super().forward(x * self.cache)

    torch.manual_seed(0)
    model = Cached().eval()
    expected = Explainer(copy.deepcopy(model), SHAPE).explain(volumes(), target=2).relevance
    with torch.inference_mode():
        model(volumes())
    cache = model.cache
    found = Explainer(model, SHAPE).explain(volumes(), target=2).relevance
    torch.testing.assert_close(found, expected)
    assert model.cache is cache


def test_a_big_endian_array_is_explained_as_what_it_says():
    explainer = Explainer(vit(), SHAPE)
    expected = explainer.explain(volumes(), target=0).relevance
    found = explainer.explain(volumes().numpy().astype(">f4"), target=0).relevance
    torch.testing.assert_close(found, expected)


def test_several_targets_are_any_sequence_but_a_tuple():
    explainer, x = Explainer(vit(), SHAPE), volumes()
    expected = explainer.explain(x, target=[0, 2]).relevance
    for targets in (range(0, 3, 2), np.array([0, 2]), torch.tensor([0, 2])):
        assert torch.equal(explainer.explain(x, target=targets).relevance, expected)
    with pytest.raises(TargetError, match="several targets are a list"):
        explainer.explain(x, target=(0, 1, 2))


def test_parts_under_no_grad_are_named_as_the_reason():
    class Probed(nn.Module):
        def __init__(self, *, all_blocks):
            super().__init__()
            self.vit, self.all_blocks = vit(), all_blocks

        def forward(self, x):
            with torch.no_grad():
                if self.all_blocks:
                    return self.vit(x) * 2
                x = self.vit.embed(x).flatten(2).transpose(1, 2)
                x = torch.cat([self.vit.cls.expand(len(x), -1, -1), x], 1) + self.vit.position
                x = self.vit.blocks[0](x)
            return self.vit.head(self.vit.blocks[1](x)[:, 0])

    with pytest.raises(GeometryError, match="requires_grad_\\(False\\)` in place of"):
        Explainer(Probed(all_blocks=True), SHAPE)
    explainer = Explainer(Probed(all_blocks=False), SHAPE)
    assert explainer.geometry.default_layer == "vit.blocks.1.norm1"
    assert any("requires_grad_(False)` in place of" in n for n in explainer.geometry.notes)
    maps = explainer.explain(volumes(1), ["token_gradcam", "frozen_gate"], target=1, score="logit")
    plain = Explainer(vit(), SHAPE).explain(volumes(1), target=1)
    torch.testing.assert_close(maps["token_gradcam"].relevance, plain.relevance)
    verdicts = {check.name: check.verdict for check in maps["frozen_gate"].checks[0]}
    assert verdicts["completeness"] == "fail"
    assert not any("no_grad" in note for note in Explainer(vit(), SHAPE).geometry.notes)


def test_a_saved_softmax_is_no_reason_to_doubt_the_preparation():
    own = np.random.default_rng(0).normal(size=(9, 3))
    softmax = np.exp(own) / np.exp(own).sum(1, keepdims=True)
    sentences = " ".join(compare_logits(own, softmax).sentences)
    assert "save logits, not softmax" in sentences
    assert "every map is void" not in sentences
    assert "every map is void" in " ".join(compare_logits(own, own[::-1]).sentences)
