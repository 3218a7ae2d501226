"""Rollouts against dense matrices, for fused, explicit and built-in attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from g3dvit.capture import guest
from g3dvit.capture.attention import AttentionPass
from g3dvit.errors import MethodError
from g3dvit.explain import Explainer
from g3dvit.methods import attention as rollouts
from gallery import SHAPE, Attention, Block, PlainEncoder, TinyViT, seeded
from test_methods import drifted, vit

X = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(14))


class Explicit(Attention):
    """Makes its matrix itself and keeps it, in one of several ways of writing."""

    way = "matmul"
    bias = 0.0

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.to_qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        if self.way == "einsum":
            scores = torch.einsum("b h i d, b h j d -> b h i j", q, k) * scale
        elif self.way == "bmm":
            q, k, v = (a.reshape(b * self.heads, t, -1) for a in (q, k, v))
            scores = torch.bmm(q * scale, k.transpose(1, 2))
        else:
            scores = (q @ k.transpose(-1, -2)) * scale + self.bias
        self.scores = scores.detach().reshape(b, self.heads, t, t)
        a = scores.softmax(-1)
        a = nn.functional.dropout(a, 0.3, training=self.training)
        self.kept = a if a.ndim == 4 else a.reshape(b, self.heads, t, t)
        if self.kept.requires_grad:
            self.kept.retain_grad()
            if a.ndim == 3:
                a = self.kept.reshape(a.shape)
        if self.way == "einsum":
            out = torch.einsum("b h i j, b h j d -> b h i d", a, v)
        else:
            out = a @ v if self.way == "matmul" else torch.bmm(a, v)
        out = out.reshape(b, self.heads, t, -1)
        return self.to_out(out.transpose(1, 2).reshape(b, t, d))


def explicit(way="matmul", bias=0.0, **changes):
    model = drifted(seeded(lambda: TinyViT(depth=3, **changes))())
    for block in model.blocks:
        attention = block.attention
        block.attention = Explicit(12).eval()
        block.attention.load_state_dict(attention.state_dict())
        block.attention.way, block.attention.bias = way, bias
    return model


def dense(model, x, target, start):
    """Both rollouts with whole matrices from loops, for a model of `Explicit` attention."""
    logits = model(x)
    logits[:, target].sum().backward()
    size = start.shape[1]
    plain = torch.eye(size).expand(len(x), -1, -1)
    graded = plain.clone()
    for block in model.blocks:
        a = block.attention.kept.detach()
        slope = block.attention.kept.grad
        mixed = a.mean(1) + torch.eye(size)
        plain = mixed / mixed.sum(-1, keepdim=True) @ plain
        graded = graded + (a * slope).clamp_min(0).mean(1) @ graded
    return (
        torch.einsum("bq,bqt->bt", start, plain),
        torch.einsum("bq,bqt->bt", start, graded) - start,
    )


POOLINGS = {
    "first": ({}, lambda s: s.index_fill_(1, torch.tensor([0]), 1.0)),
    "last": ({"before": 0, "after": 1}, lambda s: s.index_fill_(1, torch.tensor([30]), 1.0)),
    "patches": ({}, lambda s: s.index_fill_(1, torch.arange(1, 31), 1 / 30)),
    "all": ({"final_norm": False}, lambda s: s.fill_(1 / 31)),
}


@pytest.mark.parametrize("pool", POOLINGS)
@pytest.mark.parametrize("rows", [1, 7, 500_000])
def test_rollouts_equal_dense_matrices(pool, rows, monkeypatch):
    monkeypatch.setattr(rollouts, "_AT_ONCE", rows if rows > 99 else rows * 2 * 2 * 31)
    changes, fill = POOLINGS[pool]
    start = fill(torch.zeros(2, 31))
    first = changes.get("before", 1)
    plain, graded = dense(explicit(pool=pool, **changes), X, 2, start)
    fused = drifted(seeded(lambda: TinyViT(depth=3, pool=pool, **changes))())
    found = Explainer(fused, (1, *SHAPE)).explain(
        X, ["attention_rollout", "gradient_rollout"], target=2, score="logit"
    )
    for name, expected in (("attention_rollout", plain), ("gradient_rollout", graded)):
        torch.testing.assert_close(
            found[name].relevance.flatten(1), expected[:, first : first + 30], rtol=1e-3, atol=1e-7
        )


@pytest.mark.parametrize("pool", POOLINGS)
def test_agcam_equals_loops_over_dense_matrices(pool):
    changes, fill = POOLINGS[pool]
    start = fill(torch.zeros(2, 31))
    first = changes.get("before", 1)
    model = explicit(pool=pool, **changes)
    model(X)[:, 2].sum().backward()
    expected = torch.zeros(2, 31)
    for block in model.blocks:
        gate, slope = block.attention.scores.sigmoid(), block.attention.kept.grad
        for q in range(31):
            for h in range(2):
                expected += start[:, q, None] * slope[:, h, q].clamp_min(0) * gate[:, h, q]
    fused = drifted(seeded(lambda: TinyViT(depth=3, pool=pool, **changes))())
    model.zero_grad()
    for one in (fused, model):
        found = Explainer(one, (1, *SHAPE)).explain(X, "agcam", target=2, score="logit")
        torch.testing.assert_close(
            found.relevance.flatten(1), expected[:, first : first + 30], rtol=1e-3, atol=1e-7
        )


@pytest.mark.parametrize("pool", POOLINGS)
@pytest.mark.parametrize("score", ["logit", "log_odds"])
def test_legrad_equals_dense_matrices_of_models_that_end_early(pool, score):
    changes, _ = POOLINGS[pool]
    first = changes.get("before", 1)
    expected = torch.zeros(2, 31)
    for depth in (1, 2, 3):
        model = explicit(pool=pool, **changes)
        model.blocks = model.blocks[:depth]
        z = model(X)
        y = z[:, 2] if score == "logit" else z[:, 2] - z[:, :2].logsumexp(1)
        y.sum().backward()
        slope = model.blocks[-1].attention.kept.grad
        for q in range(31):
            for h in range(2):
                expected += slope[:, h, q].clamp_min(0) / 62
    fused = drifted(seeded(lambda: TinyViT(depth=3, pool=pool, **changes))())
    for one in (fused, explicit(pool=pool, **changes)):
        found = Explainer(one, (1, *SHAPE)).explain(X, "legrad", target=2, score=score)
        torch.testing.assert_close(
            found.relevance.flatten(1), expected[:, first : first + 30], rtol=1e-3, atol=1e-7
        )


def test_legrad_refuses_where_it_cannot_see_what_later_blocks_add():
    class Stacked(Block):
        def forward(self, x):
            return self.mlp(self.norm2(torch.stack([x, self.attention(self.norm1(x))]).sum(0)))

    model = drifted(seeded(lambda: TinyViT(block=Stacked))())
    with pytest.raises(MethodError, match="what the later blocks of this model add"):
        Explainer(model, (1, *SHAPE)).explain(X, "legrad")


def test_agcam_needs_what_the_softmax_is_taken_of():
    model = explicit("matmul", torch.randn(31, 31))
    with pytest.raises(MethodError, match="only its attention weights are known"):
        Explainer(model, (1, *SHAPE)).explain(X, "agcam")


@pytest.mark.parametrize("bias", [0.0, "relative"])
@pytest.mark.parametrize("way", ["matmul", "einsum", "bmm"])
def test_explicit_attention_is_seen(way, bias):
    if bias and way != "matmul":
        pytest.skip("one way of adding a bias is enough")
    value = torch.randn(31, 31) if bias else 0.0
    model = explicit(way, value)
    start = torch.zeros(2, 31)
    start[:, 0] = 1
    plain, graded = dense(model, X, 1, start)
    explainer = Explainer(model, (1, *SHAPE))
    found = explainer.explain(X, ["attention_rollout", "gradient_rollout"], target=1, score="logit")
    for name, expected in (("attention_rollout", plain), ("gradient_rollout", graded)):
        torch.testing.assert_close(
            found[name].relevance.flatten(1), expected[:, 1:], rtol=1e-3, atol=1e-7
        )
    with guest(model) as network:
        seen = AttentionPass(network, X, 31, gradients=False)
    assert [call.matrix is not None for call in seen.calls] == [bool(bias)] * 3


@pytest.mark.parametrize("batch_first", [True, False])
def test_built_in_attention_is_seen(batch_first):
    model = drifted(seeded(lambda: PlainEncoder(batch_first=batch_first, norm_first=True))())
    matrices = []

    def remember(module, args, output):
        x = args[0]
        w, b = module.in_proj_weight, module.in_proj_bias
        x = x if batch_first else x.transpose(0, 1)
        q, k, _ = nn.functional.linear(x, w, b).chunk(3, -1)
        q, k = (t.reshape(2, 31, 2, 6).transpose(1, 2) for t in (q, k))
        matrices.append((q @ k.transpose(-1, -2) / 6**0.5).softmax(-1).detach())

    handles = [layer.self_attn.register_forward_hook(remember) for layer in model.encoder.layers]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model(X)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    for handle in handles:
        handle.remove()
    r = torch.zeros(2, 31)
    r[:, 0] = 1
    for a in reversed(matrices):
        r = (r + torch.einsum("bq,bqt->bt", r, a.mean(1))) / 2
    found = Explainer(model, (1, *SHAPE)).explain(
        X, ["attention_rollout", "gradient_rollout"], target=0
    )
    torch.testing.assert_close(
        found["attention_rollout"].relevance.flatten(1), r[:, 1:], rtol=1e-3, atol=1e-6
    )
    assert (found["gradient_rollout"].relevance > 0).any()


def test_vit_3d_makes_its_matrices_itself_and_is_seen():
    model = vit()
    kept = []
    for layer in model.transformer.layers:
        layer[0].attend.register_forward_hook(lambda *a: kept.append(a[2].detach()))
    explainer = Explainer(model, (1, *SHAPE))
    kept.clear()
    found = explainer.explain(X, "attention_rollout").relevance
    a, b = (m.mean(1) for m in kept[:2])
    one = torch.eye(31)
    expected = ((b + one) / 2 @ (a + one) / 2)[:, 0, 1:]
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-3, atol=1e-6)


def test_what_a_rollout_cannot_follow_is_refused():
    head = Explainer(drifted(seeded(lambda: TinyViT(pool="flatten"))()), (1, *SHAPE))
    with pytest.raises(MethodError, match="starts at what the head reads"):
        head.explain(X, "attention_rollout")

    class Mixer(Block):
        def __init__(self, dim):
            super().__init__(dim)
            self.attention = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())

        def forward(self, x):
            x = x + self.attention(self.norm1(x)) + self.norm1(x).mean(1, keepdim=True)
            return x + self.mlp(self.norm2(x))

    mixer = Explainer(drifted(seeded(lambda: TinyViT(block=Mixer))()), (1, *SHAPE))
    for method in ("attention_rollout", "gradient_rollout"):
        with pytest.raises(MethodError, match=r"every attention .* computes none that is seen"):
            mixer.explain(X, method)
