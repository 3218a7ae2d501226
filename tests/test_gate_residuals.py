"""Frozen gates where tokens enter the blocks, in the many ways that models are written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from g3dvit.diagnose import check_held
from g3dvit.explain import Explainer
from gallery import SHAPE, Attention, Block, TinyViT, seeded
from test_frozen_gate import FUNCTIONS, C, W, by_patch, check_shares, gated, seeded_input
from test_methods import drifted

X = seeded_input((1, *SHAPE))


def joined(name, x, branch):
    """The same residual sum, or one with weights, as models write it."""
    return {
        "plain": lambda: x + branch,
        "branch first": lambda: branch + x,
        "sum of a list": lambda: sum([x, branch]),
        "stacked": lambda: torch.stack([x, branch]).sum(0),
        "copied": lambda: x.clone() + branch,
        "addcmul": lambda: torch.addcmul(x, torch.ones(12), branch),
        "lerp": lambda: 2 * torch.lerp(x, branch, 0.5),
        "scaled": lambda: 1.3 * x + branch,
        "scaled, branch first": lambda: branch + x * 1.3,
        "highway": lambda: (lambda g: (1 - g) * x + g * branch)(torch.sigmoid(branch)),
    }[name]()


class JoinedBlock(Block):
    def __init__(self, dim, how):
        super().__init__(dim)
        self.how = how

    def forward(self, x):
        x = joined(self.how, x, self.attention(self.norm1(x)))
        return joined(self.how, x, self.mlp(self.norm2(x)))


def explained(model, x=X, **options):
    return Explainer(model, (1, *SHAPE)).explain(x, "frozen_gate", target=1, **options)


def check_content(found):
    """The voxels of a patch and its embedding bias make up its content, at every patch."""
    check_shares(found)
    voxels = by_patch(found.voxel_relevance)
    torch.testing.assert_close(voxels + found.embedding_bias, found.content, rtol=1e-3, atol=1e-5)


SAME = ("branch first", "sum of a list", "stacked", "copied", "addcmul", "lerp")


@pytest.mark.parametrize("how", [*SAME, "scaled", "scaled, branch first", "highway"])
def test_tokens_are_those_that_enter_the_first_block(how):
    def make(name):
        return drifted(seeded(lambda: TinyViT(block=lambda d: JoinedBlock(d, name)))())

    found = explained(make(how))
    check_content(found)
    assert found.position.abs().max() > 0
    if how in SAME:
        plain = explained(make("plain"))
        for name in ("relevance", "position", "voxel_relevance", "prefix", "bias"):
            a, b = getattr(found, name), getattr(plain, name)
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


class LateRegisters(nn.Module):
    """Positions for class token and patches; register tokens come between them later."""

    def __init__(self, registers=3):
        super().__init__()
        self.inner = TinyViT(before=1)
        self.registers = nn.Parameter(torch.randn(1, registers, 12))

    def forward(self, x):
        m = self.inner
        x = torch.cat([m.before.expand(len(x), -1, -1), m.embed(x)], 1) + m.position
        x = torch.cat([x[:, :1], self.registers.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in m.blocks:
            x = block(x)
        return m.head(m.norm(x)[:, 0])


class EarlyRegisters(LateRegisters):
    """The same model with register tokens that have a position of zero."""

    def forward(self, x):
        m = self.inner
        first = torch.cat([m.before, self.registers], 1).expand(len(x), -1, -1)
        none = torch.zeros_like(self.registers)
        x = torch.cat([first, m.embed(x)], 1)
        x = x + torch.cat([m.position[:, :1], none, m.position[:, 1:]], 1)
        for block in m.blocks:
            x = block(x)
        return m.head(m.norm(x)[:, 0])


def test_positions_that_were_added_before_register_tokens_joined_are_positions():
    late, early = (explained(drifted(seeded(kind)())) for kind in (LateRegisters, EarlyRegisters))
    check_content(late)
    assert late.position.abs().max() > 0
    for name in ("relevance", "content", "position", "voxel_relevance", "prefix"):
        torch.testing.assert_close(
            getattr(late, name), getattr(early, name), rtol=1e-3, atol=1e-5, msg=name
        )


class Normalising(nn.Module):
    """Takes a mean image from the volume and divides by a scale, as a part of the model."""

    def __init__(self):
        super().__init__()
        self.inner = TinyViT()
        self.register_buffer("mean", torch.randn(1, 1, *SHAPE))

    def forward(self, x):
        return self.inner((x - self.mean) / 0.7 + 0.2)


def test_what_is_added_to_the_voxels_belongs_to_their_patch():
    check_content(explained(drifted(seeded(Normalising)())))


# -- functions that write in place or choose -----------------------------------------------
def written(function):
    def run(x):
        z = x @ W
        out = function(z)
        return z if out is None else out

    return run


def softmax_in_place(x):
    a = x @ W @ x.mT
    a = (a - a.amax(-1, keepdim=True)).exp_()
    return (a / a.sum(-1, keepdim=True)) @ x


def added_into(function):
    """Add to a part of a result in place, as relative positions are added to products."""

    def run(x):
        out = function(x)
        out[:, 1:] += x[:, :1].mean()
        out[:, :, 2] *= 3
        return out * C.mean()

    return run


MORE = {
    "tanh_": written(lambda z: z.tanh_()),
    "sigmoid_": written(lambda z: (z.sigmoid_(), None)[1]),
    "clamp_": written(lambda z: z.clamp_(-0.3, 0.4)),
    "clamp_min": written(lambda z: z.clamp_min(0.3)),
    "clip": written(lambda z: z.clip(max=0.2)),
    "clamp with bounds of their own": written(lambda z: z.clamp(min=-9 - C.abs())),
    "threshold": written(lambda z: F.threshold(z, 0.1, 2.0)),
    "masked_fill_": written(lambda z: z.masked_fill_(z > 0.5, 1.5)),
    "maximum": written(lambda z: torch.maximum(z, C)),
    "smaller of two": written(lambda z: torch.min(C, z)),
    "padded with a value": written(lambda z: F.pad(z, (1, 2), value=3.0)),
    "lerp": written(lambda z: torch.lerp(z, C, 0.3)),
    "addcmul": written(lambda z: torch.addcmul(C, z, z.sigmoid(), value=0.5)),
    "addcdiv": written(lambda z: torch.addcdiv(C, z, 1 + z.abs())),
    "cosine similarity": lambda x: F.cosine_similarity(x @ W, C[None, None], dim=-1),
    "generalised mean": lambda x: (x @ W).clamp(min=1e-6).pow(3).mean(1).pow(1 / 3),
    "exp_": softmax_in_place,
    "added into a product": added_into(lambda x: x @ x.mT),
    "added into a product by einsum": added_into(lambda x: torch.einsum("bij,bkj->bki", x @ W, x)),
    "added into two factors": added_into(lambda x: (x @ W) * (x @ W.T)),
    "added into an activation": added_into(lambda x: F.gelu(x @ W)),
    "added into an activation with an offset": added_into(lambda x: torch.sigmoid(x @ W)),
    "added into a normalisation": added_into(lambda x: F.layer_norm(x @ W, (6,))),
    "added into what has a bias": added_into(lambda x: F.linear(x, W, C[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_each_of_these_rules_adds_up(name):
    assert name not in FUNCTIONS
    score, shares = gated(MORE[name], 4, 6)
    torch.testing.assert_close(shares, score, rtol=1e-4, atol=1e-4)


# -- what is computed from the input, held constant and added ------------------------------
class Statistics(nn.Module):
    """Pools by mean and standard deviation; frozen gates hold the second constant."""

    def __init__(self, of_spread=1.0):
        super().__init__()
        self.inner, self.of_spread = TinyViT(), of_spread

    def forward(self, x):
        m = self.inner
        x = torch.cat([m.before.expand(len(x), -1, -1), m.embed(x)], 1) + m.position
        for block in m.blocks:
            x = block(x)
        return m.head(x.mean(1) + self.of_spread * x.std(1))


class Detaching(nn.Module):
    """What it adds to the tokens has no gradient."""

    def forward(self, x):
        return x + 3 * x.detach().sin()


def check_of(found, name="held constants"):
    return [next(c for c in row if c.name == name) for row in found.checks]


@pytest.mark.parametrize("method", ["frozen_gate", "frozen_gate_gamma"])
def test_what_no_place_is_credited_with_is_told(method):
    model = drifted(seeded(Statistics)())
    found = Explainer(model, (1, *SHAPE)).explain(X, method, target=1)
    assert all(c.verdict == "fail" for c in check_of(found))
    assert float(found.completeness_error.max()) < 1e-4  # it adds up all the same
    if method == "frozen_gate":
        assert "the model itself (Statistics.forward)" in check_of(found)[0].sentence


def test_the_module_that_detaches_is_named():
    model = drifted(seeded(TinyViT)())
    model.blocks[1].mlp = nn.Sequential(model.blocks[1].mlp, Detaching())
    told = check_of(explained(model))
    assert {c.verdict for c in told} <= {"warn", "fail"}
    assert all("'blocks.1.mlp.1' (Detaching)" in c.sentence for c in told)


class SoftAttention(Attention):
    """By hand, with the scale as a norm and a temperature computed from the tokens."""

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.to_qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = (F.normalize(q, dim=-1) @ k.transpose(-1, -2) / k.std()).exp()
        out = a @ v / (1e-6 + a.sum(-1, keepdim=True))
        return self.to_out(out.transpose(1, 2).reshape(b, t, d))


def test_gates_that_weigh_and_divide_are_not_told_of():
    model = drifted(seeded(lambda: TinyViT(standardise=True))())
    for block in model.blocks:
        block.attention = SoftAttention(12)
    told = check_of(explained(model))
    assert {c.verdict for c in told} == {"pass"} and max(c.value for c in told) == 0


def test_where_held_values_are_much_and_little():
    assert [check_held(v).verdict for v in (0.0, 0.019, 0.021, 0.19, 0.21)] == [
        "pass", "pass", "warn", "warn", "fail",
    ]  # fmt: skip


class AutocastInside(nn.Module):
    """Turns autocast on in its own forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @torch.autocast("cpu", torch.bfloat16)
    def forward(self, x):
        with torch.autocast("cpu", torch.float16):
            return self.model(x).float()


@pytest.mark.parametrize("method", ["frozen_gate", "frozen_gate_gamma", "token_gradcam"])
def test_autocast_of_the_model_itself_stays_off(method):
    plain = drifted(seeded(TinyViT)())
    found, wrapped = (
        Explainer(model, (1, *SHAPE)).explain(X, method, target=1)
        for model in (plain, AutocastInside(plain))
    )
    torch.testing.assert_close(wrapped.relevance, found.relevance, rtol=1e-5, atol=1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


class CausalEncoder(nn.Module):
    """Makes a mask in its forward, in torch's default type."""

    def __init__(self, built_in):
        super().__init__()
        self.inner, self.built_in = TinyViT(pool="patches"), built_in
        self.layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)

    def forward(self, x):
        x = self.inner.embed(x) + self.inner.position[:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        if self.built_in:
            x = self.layer(x, src_mask=mask)
        else:
            heads = x.unsqueeze(1)
            x = x + F.scaled_dot_product_attention(heads, heads, heads, mask).squeeze(1)
        return self.inner.head(self.inner.norm(x).mean(1))


@pytest.mark.parametrize("built_in", [True, False])
@pytest.mark.parametrize("method", ["frozen_gate", "gradient_x_input"])
def test_masks_that_a_model_makes_hold_in_float64_too(built_in, method):
    model = drifted(seeded(lambda: CausalEncoder(built_in))())
    found = Explainer(model, (1, *SHAPE)).explain(X, method, target=1, check="float64")
    assert all(c.value > 0.999 for c in check_of(found, "float64 agreement"))


# -- what is and is not the tokens ---------------------------------------------------------
class Orthogonal(Block):
    """Adds only what is new: its branch less that part of it that is along the tokens."""

    def forward(self, x):
        out = self.attention(self.norm1(x))
        unit = F.normalize(x, dim=-1)
        return x + (out - (out * unit).sum(-1, keepdim=True) * unit)


def test_a_difference_that_other_ways_pass_by_is_not_taken_for_the_tokens():
    check_content(explained(drifted(seeded(lambda: TinyViT(block=Orthogonal))())))


class FramesAndPlaces(nn.Module):
    """Adds its positions while the tokens still lie on a grid of two axes."""

    def __init__(self, grid):
        super().__init__()
        self.grid, self.inner = grid, TinyViT(before=0, pool="patches")

    def forward(self, x):
        m = self.inner
        x = m.embed[1](m.embed[0](x).unflatten(1, self.grid))
        x = x + m.position.unflatten(1, self.grid)
        x = x.flatten(1, 2)
        for block in m.blocks:
            x = block(x)
        return m.head(m.norm(x).mean(1))


@pytest.mark.parametrize("grid", [(5, 6), (2, 15)])
def test_positions_of_tokens_on_two_axes_are_positions(grid):
    found = explained(drifted(seeded(lambda: FramesAndPlaces(grid))()))
    check_content(found)
    assert found.position.abs().max() > 0


def test_a_volume_that_the_model_standardises_is_told_from_one_that_it_does_not():
    for standardise, verdict in ((False, "pass"), (True, "warn")):
        model = drifted(seeded(lambda s=standardise: TinyViT(standardise=s))())
        told = check_of(explained(model, X + 3), "voxels and patches")
        assert {c.verdict for c in told} == {verdict}, [c.value for c in told]


class History(nn.Module):
    """Looks back at all earlier tokens, volumes and tokens on one axis, as many as volumes."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = TinyViT(), nn.LayerNorm(12)

    def forward(self, x):
        m = self.inner
        x = torch.cat([m.before.expand(len(x), -1, -1), m.embed(x)], 1) + m.position
        every = [x]
        for block in m.blocks:
            every.append(block(every[-1]))
        behind = self.norm(torch.stack(every, 2).flatten(0, 1))  # (volumes * tokens, 3, 12)
        return m.head(behind.mean(1).unflatten(0, x.shape[:2])[:, 0] + m.norm(x)[:, 0])


def test_shares_of_volumes_that_look_told_apart_and_are_not_add_up():
    check_shares(explained(drifted(seeded(History)())))
