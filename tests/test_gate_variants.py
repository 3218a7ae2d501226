"""Frozen gates averaged over noise and with the gamma rule: loops, limits and completeness."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import ViT as MonaiViT
from torch import nn
from torch.nn import functional
from vit_pytorch.simple_vit_3d import SimpleViT

from g3dvit.capture.gate_gamma import GammaLinear
from g3dvit.errors import MethodError
from g3dvit.explain import Explainer
from gallery import GALLERY, PATCH, SHAPE, ConvPatches, Patches, TinyViT, seeded
from test_methods import X, drifted, vit


def shares_by_hand(x, weight, bias, g, gamma):
    """The gamma rule of one linear map, one contribution at a time: shares of x and of bias."""
    of_x, of_bias = torch.zeros_like(x), torch.zeros_like(bias)
    for j in range(len(bias)):
        parts = [float(weight[j, i] * x[i]) for i in range(len(x))] + [float(bias[j])]
        z = sum(parts)
        counted = [m * (1 + gamma) if m * z > 0 else m for m in parts]
        shares = [m / sum(counted) * z * float(g[j]) for m in counted]
        of_x += torch.tensor(shares[:-1], dtype=x.dtype)
        of_bias[j] = shares[-1]
    return of_x, of_bias


class OneNorm(nn.Module):
    """Small enough to be done by hand: embedding, position, normalisation, mean, head."""

    def __init__(self):
        super().__init__()
        self.patches, self.embed = Patches(), nn.Linear(24, 5)
        self.position = nn.Parameter(0.5 * torch.randn(1, 30, 5))
        self.norm, self.head = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(self.embed(self.patches(x)) + self.position).mean(1))


@torch.no_grad()
@pytest.mark.parametrize("gamma", [0.25, 3.0])
def test_the_gamma_rule_equals_loops_over_contributions(gamma):
    model = drifted(seeded(OneNorm)()).double()
    x = X[:1].double()
    found = Explainer(model, (1, *SHAPE)).explain(
        x, "frozen_gate_gamma", target=2, score="logit", gamma=gamma
    )
    voxels = model.patches(x)[0]
    embedded = model.embed(voxels)
    h = embedded + model.position[0]
    out = model.norm(h)
    pooled = out.mean(0)
    one = torch.zeros(3, dtype=torch.float64)
    one[2] = 1
    of_pooled, bias = shares_by_hand(pooled, model.head.weight, model.head.bias, one, gamma)
    g_out = of_pooled / pooled / 30
    # Without a residual sum, what is added at every token counts as embedding bias.
    of_norm = (g_out * model.norm.bias).sum()
    scale = (h.var(1, unbiased=False, keepdim=True) + model.norm.eps).rsqrt()
    inner = g_out * model.norm.weight
    g_h = scale * (inner - inner.mean())
    position = (g_h * model.position[0]).sum(1)
    content, of_bias, of_voxels = [], [], []
    for p in range(30):
        of_x, of_b = shares_by_hand(voxels[p], model.embed.weight, model.embed.bias, g_h[p], gamma)
        of_voxels.append(of_x)
        of_bias.append(of_b.sum() + of_norm)
        content.append(of_x.sum() + of_b.sum() + of_norm)

    def same(actual, expected):
        torch.testing.assert_close(actual, expected.float(), rtol=1e-4, atol=1e-6)

    same(found.position.flatten(), position)
    same(found.content.flatten(), torch.stack(content))
    same(found.embedding_bias.flatten(), torch.stack(of_bias))
    same(found.bias[0] + found.prefix[0], bias.sum())
    same(model.patches(found.voxel_relevance[:, None])[0], torch.stack(of_voxels))
    assert float(found.completeness_error.max()) < 1e-12


MODELS = {
    "vit_3d": lambda: vit(),
    "vit_3d mean": lambda: vit(pool="mean"),
    "simple_vit_3d": lambda: drifted(
        SimpleViT(
            image_size=(6, 15), image_patch_size=(2, 3), frames=8, frame_patch_size=4, channels=1,
            num_classes=3, dim=24, depth=2, heads=2, dim_head=6, mlp_dim=20,
        )
    ),
    "MONAI": lambda: drifted(
        MonaiViT(
            1, SHAPE, PATCH, hidden_size=24, mlp_dim=20, num_layers=2, num_heads=2,
            classification=True, num_classes=3, post_activation="",
        ).eval()
    ),
    **{name: GALLERY[name].build for name in GALLERY if GALLERY[name].input_shape == (1, *SHAPE)},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_all_shares_add_up_and_the_limits_are_plain_frozen_gates(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = MODELS[name]()
    explainer = Explainer(model, (1, *SHAPE))
    plain = explainer.explain(X, "frozen_gate")
    for method, limit, changed in (
        ("frozen_gate_gamma", {"gamma": 0.0}, {"gamma": 2.0}),
        ("frozen_gate_noise", {"noise": 0.0, "samples": 2}, {"noise": 0.5, "samples": 2}),
    ):
        same = explainer.explain(X, method, **limit)
        for field in ("relevance", "content", "position", "voxel_relevance", "prefix", "bias"):
            a, b = getattr(same, field), getattr(plain, field)
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=field)
        other = explainer.explain(X, method, **changed)
        assert not torch.allclose(other.relevance, plain.relevance, rtol=1e-2)
        assert float(other.completeness_error.max()) <= 1e-4
        torch.testing.assert_close(other.content + other.position, other.relevance)
        parts = other.voxel_relevance.reshape(3, 2, 4, 3, 2, 5, 3).sum((2, 4, 6))
        # Where a model takes the mean of the volume, a voxel's share goes to all patches.
        if "standardises" not in name and explainer.geometry.patch_size == PATCH:
            torch.testing.assert_close(
                parts + other.embedding_bias, other.content, rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize("gamma", [0.05, 1.0, 100.0])
def test_in_float64_nothing_is_lost(gamma):
    explainer = Explainer(vit(pool="mean").double(), (1, *SHAPE))
    result = explainer.explain(X.double(), "frozen_gate_gamma", gamma=gamma, target="all")
    assert float(result.completeness_error.max()) < 1e-11
    total = result.relevance.flatten(2).sum(2) + result.prefix + result.bias
    torch.testing.assert_close(total, result.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_units_that_get_nothing_hand_finite_shares_on(dtype):
    x = torch.tensor([[0.0, 0, 0], [1, -2, 3]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[0.5, 1, -1], [0, 0, 0]], dtype=dtype)
    out = functional.linear(x.detach(), weight)
    y = GammaLinear.apply(x, None, weight, out, functional.linear, torch.matmul, 0.5)
    (found,) = torch.autograd.grad(y, x, torch.full_like(y, 1e4))
    assert found.isfinite().all()
    given = float((found[1] * x[1]).sum())
    assert given == pytest.approx(1e4 * float(out[1].sum()), rel=1e-2)


def test_a_convolution_follows_the_same_rule_as_the_linear_map_it_is():
    flat = drifted(seeded(TinyViT)())
    conv = drifted(seeded(lambda: TinyViT(embed=ConvPatches(12)))())
    linear = flat.embed[1]
    state = {k: v for k, v in flat.state_dict().items() if not k.startswith("embed")}
    weight = linear.weight.reshape(12, 1, *PATCH)
    conv.load_state_dict(state | {"embed.conv.weight": weight, "embed.conv.bias": linear.bias})
    a, b = (
        Explainer(m, (1, *SHAPE)).explain(X, "frozen_gate_gamma", gamma=0.5) for m in (flat, conv)
    )
    torch.testing.assert_close(a.voxel_relevance, b.voxel_relevance, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(a.embedding_bias, b.embedding_bias, rtol=1e-3, atol=1e-5)


class ByMatrix(nn.Module):
    """A linear map written as a product with a parameter."""

    def __init__(self, features, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, width) / features**0.5)

    def forward(self, x):
        return x @ self.weight


def test_a_product_with_a_parameter_follows_it_too():
    make = seeded(lambda: TinyViT(embed=nn.Sequential(Patches(), ByMatrix(24, 12))))
    product = drifted(make())
    plain = nn.Linear(24, 12, bias=False)
    plain.weight = nn.Parameter(product.embed[1].weight.T.clone())
    linear = drifted(make())
    linear.embed[1] = plain
    a, b = (
        Explainer(m, (1, *SHAPE)).explain(X, "frozen_gate_gamma", gamma=0.5)
        for m in (product, linear)
    )
    torch.testing.assert_close(a.voxel_relevance, b.voxel_relevance, rtol=1e-3, atol=1e-5)


def test_more_gamma_cancels_less():
    explainer = Explainer(vit(), (1, *SHAPE))
    sizes = [
        explainer.explain(X, "frozen_gate_gamma", gamma=g).voxel_relevance.abs().sum()
        for g in (0.0, 0.25, 1.0, 10.0)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.7 * sizes[0]


def test_noise_is_a_loop_over_noisy_copies():
    explainer = Explainer(vit(pool="mean"), (1, *SHAPE))
    options = {"target": 1, "score": "log_odds"}
    found = explainer.explain(X, "frozen_gate_noise", samples=4, noise=0.3, seed=5, **options)
    generator = torch.Generator().manual_seed(5)
    spread = torch.stack([v.std(correction=0) for v in X]).reshape(-1, 1, 1, 1, 1)
    noise = [torch.randn(X.shape[1:], generator=generator, dtype=torch.float64) for _ in range(4)]
    copies = [
        explainer.explain(X + 0.3 * spread * n.float(), "frozen_gate", **options) for n in noise
    ]
    for field in ("relevance", "content", "position", "voxel_relevance", "bias", "prefix"):
        mean = torch.stack([getattr(one, field) for one in copies]).mean(0)
        torch.testing.assert_close(getattr(found, field), mean, rtol=1e-3, atol=1e-5)
    scores = torch.stack([one.scores for one in copies]).mean(0)
    total = found.relevance.flatten(1).sum(1) + found.prefix + found.bias
    torch.testing.assert_close(total, scores, rtol=1e-3, atol=1e-4)
    # The score that is reported is that of the volume itself.
    torch.testing.assert_close(found.scores, explainer.explain(X, "frozen_gate", **options).scores)
    assert "mean score of the noisy copies" in found.checks[0][1].sentence


def test_in_half_precision_float32_copies_are_run():
    model = vit(pool="mean")
    exact = Explainer(model, (1, *SHAPE)).explain(X, "frozen_gate_gamma")
    half = Explainer(vit(pool="mean").bfloat16(), (1, *SHAPE)).explain(
        X.bfloat16(), "frozen_gate_gamma"
    )
    assert float(half.completeness_error.max()) < 1e-4
    pair = torch.stack([exact.relevance.flatten(), half.relevance.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.95


def test_gamma_is_an_argument_of_its_method_alone():
    explainer = Explainer(GALLERY["class token first"].build(), (1, *SHAPE))
    with pytest.raises(MethodError, match="`gamma` takes a finite number from 0, was given -1"):
        explainer.explain(X, "frozen_gate_gamma", gamma=-1)
    with pytest.raises(
        MethodError, match=r"`gamma` means nothing to frozen_gate; .*: frozen_gate_g"
    ):
        explainer.explain(X, "frozen_gate", gamma=1.0)
