"""Frozen-gate relevance against hand-written frozen models, and every rule by itself."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.nets import ViT as MonaiViT
from torch import nn
from vit_pytorch.simple_vit_3d import SimpleViT
from vit_pytorch.vit_3d import ViT

from g3dvit.capture import FrozenGates, frozen_gates, guest
from g3dvit.capture.frozen_functions import per_volume
from g3dvit.capture.gate_gamma import GammaGates
from g3dvit.explain import Explainer
from gallery import GALLERY, GRID, PATCH, SHAPE, Patches, TinyViT, seeded
from test_methods import drifted, vit


def by_patch(volumes, grid=GRID, patch=PATCH):
    lead = volumes.shape[:-3]
    split = volumes.reshape(*lead, *(n for pair in zip(grid, patch, strict=True) for n in pair))
    return split.sum((-5, -3, -1))


def check_shares(result, tolerance=1e-4):
    """All shares together are the score; content and position are the relevance."""
    total = result.relevance.flatten(-3).sum(-1) + result.prefix + result.bias
    size = result.relevance.abs().flatten(-3).sum(-1)
    size = torch.maximum(result.scores.abs(), size + result.prefix.abs() + result.bias.abs())
    assert ((total - result.scores).abs() / size).max() <= tolerance
    assert result.completeness_error.max() <= tolerance
    torch.testing.assert_close(result.content + result.position, result.relevance)


def seeded_input(shape, batch=3, seed=4):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


# -- (a), (c): shares on every model -------------------------------------------------------
@pytest.mark.parametrize("name", GALLERY)
def test_shares_add_up_on_the_gallery(name):
    piece = GALLERY[name]
    model = drifted(piece.build())
    explainer = Explainer(model, piece.input_shape)
    result = explainer.explain(
        seeded_input(piece.input_shape), "frozen_gate", target="all", check="float64"
    )
    check_shares(result)
    for row in result.checks:
        verdicts = {check.name: check.verdict for check in row}
        told = {verdicts[name] for name in ("empty map", "completeness", "float64 agreement")}
        assert told == {"pass"}, row
    if not name.startswith("standardises"):  # there every voxel also moves the volume's mean
        voxels = by_patch(result.voxel_relevance, piece.grid, piece.patch)
        torch.testing.assert_close(
            voxels + result.embedding_bias, result.content, rtol=1e-4, atol=1e-5
        )


def monai(**changes):
    torch.manual_seed(0)
    return drifted(MonaiViT(1, SHAPE, PATCH, 12, 20, 2, 2, classification=True, **changes))


def simple():
    torch.manual_seed(0)
    return drifted(
        SimpleViT(
            image_size=(6, 15), image_patch_size=(2, 3), frames=8, frame_patch_size=4, channels=1,
            num_classes=3, dim=16, depth=2, heads=2, dim_head=6, mlp_dim=20,
        )
    )  # fmt: skip


PUBLIC = {
    "vit_3d, class token": vit,
    "vit_3d, mean": lambda: vit(pool="mean"),
    "vit_3d, one output": lambda: vit(num_classes=1),
    "simple_vit_3d": simple,
    "MONAI, convolution and tanh": monai,
    "MONAI, perceptron": lambda: monai(proj_type="perceptron", qkv_bias=True),
    "MONAI, no tanh": lambda: monai(post_activation="none"),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_shares_add_up_on_public_models(name):
    model = PUBLIC[name]()
    x = seeded_input((1, *SHAPE))
    explainer = Explainer(model, (1, *SHAPE))
    result = explainer.explain(x, "frozen_gate", target="all")
    check_shares(result)
    voxels = by_patch(result.voxel_relevance)
    torch.testing.assert_close(voxels + result.embedding_bias, result.content, rtol=1e-4, atol=1e-5)
    output = model(x)
    logits = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(result.logits, logits.detach())  # (b) the forward pass is the same
    assert result.position.abs().max() > 0


def test_two_channels_are_summed():
    model = vit(channels=2)
    result = Explainer(model, (2, *SHAPE)).explain(seeded_input((2, *SHAPE)), "frozen_gate")
    check_shares(result)
    assert result.voxel_relevance.shape == (3, *SHAPE)
    torch.testing.assert_close(
        by_patch(result.voxel_relevance) + result.embedding_bias, result.content,
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["class token first", "plain encoder, tokens first", "vit_3d"])
def test_bf16_models_add_up_within_a_percent(name):
    model = (vit() if name == "vit_3d" else drifted(GALLERY[name].build())).bfloat16()
    explainer = Explainer(model, (1, *SHAPE))
    result = explainer.explain(seeded_input((1, *SHAPE), 12), "frozen_gate", target="all")
    check_shares(result, tolerance=1e-2)
    assert result.relevance.dtype == torch.float32


# -- an independent frozen model -----------------------------------------------------------
def frozen_vit(model, x, weights):
    """`vit_3d` written again with constants where gates are; float64.

    Returns the tokens that enter the first block, the normalised voxels, positions, class token
    and all later biases, with the gradients of the score with respect to each.
    """
    bias_terms = []

    def norm(layer, value, *, count_bias=True):
        centred = value - value.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt().detach()
        shift = layer.bias.detach().clone().requires_grad_()
        if count_bias:
            bias_terms.append(shift)
        return centred / spread * layer.weight.detach() + shift

    def linear(layer, value, *, count_bias=True):
        out = value @ layer.weight.detach().T
        if layer.bias is None:
            return out
        shift = layer.bias.detach().clone().requires_grad_()
        if count_bias:
            bias_terms.append(shift)
        return out + shift

    patches = x.reshape(1, 1, 2, 4, 3, 2, 5, 3).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(1, 30, 24)
    first, to_dim, last = list(model.to_patch_embedding)[1:]
    centred = patches - patches.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + first.eps).sqrt()
    voxels = (scaled * first.weight.detach()).requires_grad_()
    embedded = norm(
        last, linear(to_dim, voxels + first.bias.detach(), count_bias=False), count_bias=False
    )
    position = model.pos_embedding.detach().clone().requires_grad_()
    tokens = torch.cat([model.cls_token.detach(), embedded], 1) + position
    tokens.retain_grad()
    value = tokens
    for attention, feed in model.transformer.layers:
        inner = norm(attention.norm, value)
        q, k, v = (
            t.reshape(1, 31, 2, -1).transpose(1, 2)
            for t in linear(attention.to_qkv, inner).chunk(3, -1)
        )
        weights_a = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1).detach()
        mixed = (weights_a @ v).transpose(1, 2).reshape(1, 31, -1)
        value = value + linear(attention.to_out[0], mixed)
        hidden = linear(feed.net[1], norm(feed.net[0], value))
        ratio = torch.where(hidden.abs() > 1e-12, F.gelu(hidden) / hidden, 0.5).detach()
        value = value + linear(feed.net[4], hidden * ratio)
    pooled = value.mean(1) if model.pool == "mean" else value[:, 0]
    logits = linear(model.mlp_head[1], norm(model.mlp_head[0], pooled))
    score = (logits * weights).sum()
    score.backward()
    return {
        "logits": logits.detach(),
        "tokens": (tokens.grad * tokens.detach()).sum(-1)[0],
        "position": (position.grad * position.detach()).sum(-1)[0],
        "voxels": (voxels.grad * voxels.detach())[0],
        "bias": sum((t.grad * t.detach()).sum() for t in bias_terms),
    }


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_equals_the_frozen_model_written_by_hand(pool):
    model = vit(pool=pool).double()
    x = seeded_input((1, *SHAPE), batch=1).double()
    result = Explainer(model, (1, *SHAPE)).explain(x, "frozen_gate", target=1, score="logit")
    expected = frozen_vit(model, x, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(expected["logits"], model(x).detach())
    close = {"rtol": 1e-5, "atol": 1e-7, "check_dtype": False}
    torch.testing.assert_close(result.relevance.flatten(), expected["tokens"][1:], **close)
    torch.testing.assert_close(result.position.flatten(), expected["position"][1:], **close)
    torch.testing.assert_close(result.prefix[0], expected["tokens"][0], **close)
    torch.testing.assert_close(result.bias[0], expected["bias"], **close)
    patches = expected["voxels"].reshape(2, 3, 5, 4, 2, 3).permute(0, 3, 1, 4, 2, 5)
    torch.testing.assert_close(result.voxel_relevance[0], patches.reshape(SHAPE), **close)


# -- (d), (e): what voxels mean ------------------------------------------------------------
def test_patches_scaled_and_shifted_have_the_same_map_where_the_model_cannot_tell():
    model, x = vit(), seeded_input((1, *SHAPE))
    changed = x.clone()
    changed[:, :, :4] = 2 * changed[:, :, :4] + 1  # half of all patches
    explainer = Explainer(model, (1, *SHAPE))
    a = explainer.explain(x, "frozen_gate", target=1)
    b = explainer.explain(changed, "frozen_gate", target=1)
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
    for name in ("relevance", "voxel_relevance", "position"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-2, atol=1e-4)


class LinearModel(nn.Module):
    """A linear model with patches, attention that only passes on, and no activation."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv3d(1, 5, PATCH, PATCH)
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, 2)
        self.where = nn.Parameter(torch.randn(30, 1))

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.mix(tokens)
        return self.head((tokens * self.where).sum(1))


def test_a_linear_model_gives_weight_times_voxel():
    torch.manual_seed(2)
    model = LinearModel()
    x = seeded_input((1, *SHAPE))
    weights = model(torch.eye(720).reshape(720, 1, *SHAPE)) - model(torch.zeros(1, 1, *SHAPE))
    geometry = Explainer(seeded(TinyViT)(), (1, *SHAPE)).geometry
    object.__setattr__(geometry, "num_prefix_tokens", 0)
    object.__setattr__(geometry, "num_outputs", 2)
    result = Explainer(model, geometry=geometry).explain(x, "frozen_gate", target=1, score="logit")
    expected = weights[:, 1].reshape(SHAPE) * x[:, 0]
    torch.testing.assert_close(result.voxel_relevance, expected.detach(), rtol=1e-4, atol=1e-5)


def test_three_class_log_odds_add_up_with_the_entropy_as_a_constant():
    result = Explainer(vit(), (1, *SHAPE)).explain(
        seeded_input((1, *SHAPE)), "frozen_gate", target="all", score="log_odds"
    )
    z = result.logits
    for c in range(3):
        others = z[:, [k for k in range(3) if k != c]]
        torch.testing.assert_close(result.scores[:, c], z[:, c] - others.logsumexp(1))
    check_shares(result)


# -- every rule by itself ------------------------------------------------------------------
def gated(function, *shapes, mode=FrozenGates):
    """Return the score of a function of inputs and the sum of all shares."""
    torch.manual_seed(1)
    x = torch.randn(2, *shapes)
    with mode(x, (99,)) as gates:
        y = function(gates.input)
    score = y.flatten(1).sum(1)
    leaves = [gates.leaf, gates.share, *(c.leaf for c in gates.constants)]
    grads = torch.autograd.grad(score.sum(), leaves, allow_unused=True)
    total = torch.zeros(2) if grads[1] is None else grads[1]
    for leaf, grad in zip([leaves[0], *leaves[2:]], [grads[0], *grads[2:]], strict=True):
        if grad is not None:
            total = total + per_volume(leaf.detach() * grad, 2)
    for norm in gates.patch_norms:
        (grad,) = torch.autograd.grad(score.sum(), norm.leaf, retain_graph=True)
        total = total + per_volume(norm.leaf.detach() * grad, 2)
    plain = function(x.clone()).flatten(1).sum(1)
    torch.testing.assert_close(score.detach(), plain, rtol=1e-5, atol=1e-5)
    return plain, total


C = torch.linspace(-1, 1, 6)
W = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


def set_item(x):
    out = C.expand(2, 4, 6).clone()
    out[:, 1:] += x[:, 1:] @ W
    out[:, 0] = x[:, 0]
    return out


def copy_in_place(x):
    x = x @ W
    x += C
    x.sub_(0.5)
    x[:, 0] = 3.0
    return x


def hand_layer_norm(x):
    x = x @ W
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt() * C + 1


def hand_rms(x):
    x = x @ W
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6) ** -0.5


def hand_softmax(x):
    a = (x @ W @ x.transpose(1, 2)).exp()
    return (a / a.sum(-1, keepdim=True)) @ x


def hand_gelu(x):
    x = x @ W
    return 0.5 * x * (1.0 + torch.erf(x / 2**0.5))


def attention(x, mask=None, **options):
    q, k, v = (x @ W, x @ W.T, x @ W.abs())
    return F.scaled_dot_product_attention(q, k, v, mask, **options)


def norms(x):
    var, mean = torch.var_mean(x @ W, -1, keepdim=True)
    return (x @ W - mean) * torch.rsqrt(var + 1e-5)


FUNCTIONS = {
    **{
        f.__name__: lambda x, f=f: f(x @ W)
        for f in (
            F.gelu,
            F.silu,
            torch.sigmoid,
            torch.tanh,
            F.softplus,
            F.elu,
            F.mish,
            F.hardswish,
            F.hardsigmoid,
            F.relu6,
            F.hardtanh,
            F.selu,
            F.logsigmoid,
            F.leaky_relu,
            F.relu,
            F.softsign,
            torch.sin,
            torch.cos,
            torch.square,
            torch.abs,
            F.log_softmax,
        )
        if f is not F.log_softmax
    },
    "log_softmax": lambda x: (x @ W).log_softmax(-1) * C,
    "logsumexp": lambda x: torch.logsumexp(x @ W, dim=-1) * 2,
    "gelu, tanh form": lambda x: F.gelu(x @ W, approximate="tanh"),
    "method": lambda x: (x @ W).sigmoid().add(2),
    "power": lambda x: (x @ W) ** 3 + x.pow(2),
    "clamp": lambda x: (x @ W).clamp(-0.5, 0.7),
    "layer norm": lambda x: F.layer_norm(x @ W, (6,), C, C + 1),
    "rms norm": lambda x: F.rms_norm(x @ W, (6,), C),
    "group norm": lambda x: F.group_norm((x @ W).transpose(1, 2), 3, C, C),
    "instance norm": lambda x: F.instance_norm((x @ W).transpose(1, 2), weight=C, bias=C + 2),
    "batch norm": lambda x: F.batch_norm((x @ W).transpose(1, 2), C, C + 2, C, C),
    "normalize": lambda x: F.normalize(x @ W, dim=-1) + C,
    "handwritten layer norm": hand_layer_norm,
    "handwritten rms norm": hand_rms,
    "var_mean": norms,
    "handwritten softmax": hand_softmax,
    "handwritten gelu": hand_gelu,
    "softmax, all spellings": lambda x: (
        F.softmax(x @ W, -1) @ W @ x.mT
        + torch.softmax(x @ W, -1) @ x.mT
        + (x @ W).softmax(-1) @ x.mT
    ),
    "swiglu": lambda x: F.silu(x @ W) * (x @ W.T),
    "geglu, chunked": lambda x: (lambda a, b: a * F.gelu(b))(*(x @ W).chunk(2, -1)),
    "sigmoid gate": lambda x: torch.sigmoid(x @ W) * (x @ W.T + 1),
    "glu": lambda x: F.glu(x @ W, -1),
    "bilinear": lambda x: (x @ W) * (x @ W.T) + x * x,
    "quotient": lambda x: (x @ W) / (1 + (x @ W.T).abs()),
    "linear attention": lambda x: (x @ W) @ ((x @ W.T).mT @ x),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x) @ x,
    "addmm": lambda x: torch.stack([torch.addmm(C, one, W) for one in x.unbind()]),
    "baddbmm": lambda x: torch.baddbmm(C.expand(2, 4, 6), x, W.expand(2, 6, 6), alpha=2, beta=3),
    "linear": lambda x: F.linear(x, W, C),
    "convolution": lambda x: F.conv1d(x.mT, W[..., None], C),
    "scalars": lambda x: 2 - (1 + x) * 3 - C + (5 - x @ W),
    "join": lambda x: torch.cat([C.expand(2, 1, 6), x @ W, C.expand(2, 2, 6)], 1) * C,
    "stack": lambda x: torch.stack([x, C.expand(2, 4, 6)], 1) * 2,
    "where": lambda x: torch.where(x > 0, x @ W, 2.0),
    "masked fill": lambda x: (x @ W).masked_fill(x > 0, 3.0),
    "written into a constant": set_item,
    "in place": copy_in_place,
    "attention": attention,
    "attention, masked": lambda x: attention(x, torch.tensor([[True, True, False, True]] * 4)),
    "attention, causal": lambda x: attention(x, is_causal=True),
    "float mask": lambda x: attention(x, torch.zeros(4, 4).index_fill(1, torch.tensor(2), -1e30)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_rule_adds_up(name):
    score, shares = gated(FUNCTIONS[name], 4, 6)
    torch.testing.assert_close(shares, score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_rule_adds_up_with_the_gamma_rule(name):
    score, shares = gated(FUNCTIONS[name], 4, 6, mode=partial(GammaGates, gamma=0.7))
    torch.testing.assert_close(shares, score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"kdim": 6, "vdim": 6},
        {"batch_first": True},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention_adds_up(options, masked):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(6, 2, **options).eval()
    for p in layer.parameters():
        p.requires_grad_(False).add_(0.3 * torch.randn_like(p))
    padding = torch.tensor([[False, True, False, False]] * 2) if masked else None
    mask = torch.zeros(4, 4, dtype=torch.bool).fill_diagonal_(masked)

    def run(x):
        y = x if layer.batch_first else x.transpose(0, 1)
        out, weights = layer(y, y, y, key_padding_mask=padding, attn_mask=mask)
        assert weights is not None
        return out if layer.batch_first else out.transpose(0, 1)

    score, shares = gated(run, 4, 6)
    torch.testing.assert_close(shares, score, rtol=1e-4, atol=1e-4)


def test_queries_and_keys_get_nothing_and_values_do():
    x = torch.randn(1, 4, 6)
    with frozen_gates(x, (99,)) as gates:
        y = attention(gates.input).sum()
    (grad,) = torch.autograd.grad(y, gates.leaf)
    a = ((x @ W) @ (x @ W.T).mT / 6**0.5).softmax(-1)
    expected = a.mT @ torch.ones(1, 4, 6) @ W.abs().T
    torch.testing.assert_close(grad, expected)


def test_fused_attention_makes_no_matrix_of_all_pairs():
    model = seeded(lambda: TinyViT(patch=(1, 2, 1), shape=(8, 8, 15), before=0, pool="patches"))()
    tokens = 480
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    geometry = Explainer(model, (1, 8, 8, 15)).geometry
    assert geometry.num_tokens == tokens
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        Explainer(model, geometry=geometry).explain(torch.randn(1, 1, 8, 8, 15), "frozen_gate")
    assert sizes and max(sizes) < tokens * tokens / 4


# -- what is not known ---------------------------------------------------------------------
class Strange(nn.Module):
    def forward(self, x):
        return torch.asinh(30 * x)


@pytest.mark.parametrize("where", ["blocks.1.mlp", "embed", "head"])
def test_an_unknown_operation_fails_completeness_and_is_named(where):
    model = drifted(seeded(TinyViT)())
    parent, _, last = where.rpartition(".")
    module = model.get_submodule(where)
    setattr(model.get_submodule(parent), last, nn.Sequential(module, Strange()))
    result = Explainer(model, (1, *SHAPE)).explain(
        seeded_input((1, *SHAPE)), "frozen_gate", target=0, score="logit"
    )
    checks = [row[1] for row in result.checks]
    assert {c.name for c in checks} == {"completeness"}
    assert "fail" in {c.verdict for c in checks}
    assert any(f"{where}.1' (Strange)" in c.sentence for c in checks)
    assert result.relevance.isfinite().all()


class Opaque(torch.autograd.Function):
    """A kernel of an extension, which torch sees as one call: x + k x^2."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.save_for_backward(x)
        ctx.k = k
        return x + k * x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 + 2 * ctx.k * x), None


class Kernel(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return Opaque.apply(x, self.k)


VARIANTS = ("frozen_gate", "frozen_gate_gamma", "frozen_gate_noise", "shift_averaged")


@pytest.mark.parametrize("k", [0.02, 0.1])
def test_a_small_loss_of_relevance_is_told_and_named(k):
    model = drifted(seeded(TinyViT)())
    model.blocks[1].mlp.add_module("kernel", Kernel(k))
    options = {"target": 0, "score": "logit", "shifts": 2, "samples": 2}
    found = Explainer(model, (1, *SHAPE)).explain(
        seeded_input((1, *SHAPE)), list(VARIANTS), **options
    )
    for name in VARIANTS:
        checks = [c for row in found[name].checks for c in row if c.name == "completeness"]
        assert len(checks) == 3 and all(1e-4 < c.value < 0.05 for c in checks), name
        assert all((c.verdict == "fail") == (c.value > 0.01) for c in checks), name
        assert {c.verdict for c in checks} <= {"warn", "fail"}, name
        assert all("'blocks.1.mlp.kernel' (Kernel)" in c.sentence for c in checks), name


class InHalf(nn.Module):
    """Half precision in one part of a float32 model, as some kernels want it."""

    def forward(self, x):
        return x.bfloat16().to(x.dtype)


def test_half_precision_inside_of_a_model_is_no_unknown_operation():
    model = drifted(seeded(TinyViT)())
    model.blocks[0].mlp.add_module("in_half", InHalf())
    result = Explainer(model, (1, *SHAPE)).explain(
        seeded_input((1, *SHAPE)), "frozen_gate", target=0, score="logit"
    )
    checks = [c for row in result.checks for c in row if c.name == "completeness"]
    assert max(c.value for c in checks) > 1e-4
    assert {(c.verdict, c.threshold_warn) for c in checks} == {("pass", 0.01)}


def test_probabilities_are_told_apart_from_logits():
    model = seeded(lambda: TinyViT(wrap=lambda z: z.softmax(-1)))()
    result = Explainer(model, (1, *SHAPE)).explain(seeded_input((1, *SHAPE)), "frozen_gate")
    assert all(row[1].verdict == "fail" for row in result.checks)
    assert "explain its logits instead" in result.checks[0][1].sentence


class TwoEmbeddings(nn.Module):
    """Adds an embedding of each patch's mean to that of its pattern, before the positions."""

    def __init__(self):
        super().__init__()
        self.pattern = nn.Sequential(Patches(), nn.LayerNorm(24), nn.Linear(24, 12))
        self.mean = nn.Linear(1, 12)

    def forward(self, x):
        return self.pattern(x) + self.mean(Patches()(x).mean(-1, keepdim=True))


def test_a_sum_of_two_embeddings_is_not_taken_for_a_block():
    model = drifted(seeded(lambda: TinyViT(embed=TwoEmbeddings()))())
    result = Explainer(model, (1, *SHAPE)).explain(
        seeded_input((1, *SHAPE)), "frozen_gate", target="all"
    )
    check_shares(result)
    assert result.position.abs().max() > 0
    voxels = by_patch(result.voxel_relevance)
    torch.testing.assert_close(voxels + result.embedding_bias, result.content, rtol=1e-4, atol=1e-5)


class Scrambled(nn.Module):
    """Folds the volumes into the last axis of its linear layers, where none can tell them."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.extra = nn.Linear(12, 12)

    def forward(self, x):
        model = self.inner
        tokens = model.embed(x)
        tokens = tokens + self.extra(tokens) * 0.1
        folded = tokens.permute(1, 0, 2).reshape(-1, 12)  # (tokens and volumes) mixed
        folded = folded + model.blocks[0].mlp(folded)
        return model.head(folded.reshape(30, len(x), 12).mean(0))


def test_volumes_that_cannot_be_told_apart_are_run_one_at_a_time():
    model = drifted(Scrambled(seeded(lambda: TinyViT(before=0, pool="patches"))()))
    x = seeded_input((1, *SHAPE))
    explainer = Explainer(model, (1, *SHAPE))
    result = explainer.explain(x, "frozen_gate", target=1)
    check_shares(result)
    for n in range(3):
        alone = explainer.explain(x[n : n + 1], "frozen_gate", target=1)
        torch.testing.assert_close(result.relevance[n], alone.relevance[0], rtol=1e-4, atol=1e-6)


def test_the_model_is_as_before():
    model = vit().train()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    with guest(model):
        pass
    Explainer(model, (1, *SHAPE)).explain(seeded_input((1, *SHAPE)), "frozen_gate")
    assert model.training and all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in before.items())


def test_reference_vit_is_vit_pytorchs():
    assert isinstance(vit(), ViT)
