"""Batch, group and instance normalisations of tokens, whose features come first."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import g3dvit
from g3dvit.probe import probe_geometry
from gallery import GRID, SHAPE, Block, TinyViT, seeded


def _batch_norm(features):
    norm = nn.BatchNorm1d(features)
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight, 1, 0.3)
    return norm


def _batch_norm_3d(features):
    norm = nn.BatchNorm3d(features)
    norm.load_state_dict(_batch_norm(features).state_dict())
    return norm


KINDS = {
    "batch": _batch_norm,
    "group": lambda features: nn.GroupNorm(2, features),
    "instance": lambda features: nn.InstanceNorm1d(features, affine=True),
    "instance, no gain": nn.InstanceNorm1d,
}


class TokenNorm(nn.Module):
    """Brings (batch, tokens, features) to what the norm takes, and back."""

    def __init__(self, kind, features):
        super().__init__()
        self.inner = kind(features)

    def forward(self, x):
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class TokensFirst(TokenNorm):
    """The same inside a model that has its tokens on the first axis."""

    def forward(self, x):
        x = x.transpose(0, 1)
        return self.inner(x.permute(1, 2, 0)).permute(2, 0, 1).transpose(0, 1)


class OnGrid(TokenNorm):
    """The tokens are back on their grid."""

    def forward(self, x):
        grid = x.transpose(1, 2).unflatten(2, GRID)
        return self.inner(grid).flatten(2).transpose(1, 2)


class InLine(nn.Module):
    """Calls the function, and is no norm itself."""

    def __init__(self, _kind, features):
        super().__init__()
        self.gain = nn.Parameter(1 + 0.3 * torch.randn(features))

    def forward(self, x):
        return F.group_norm(x.transpose(1, 2), 2, self.gain).transpose(1, 2)


CASES = {
    **{name: (TokenNorm, kind, {}) for name, kind in KINDS.items()},
    "batch, mean": (TokenNorm, KINDS["batch"], {"before": 0, "pool": "patches"}),
    "group, registers": (TokenNorm, KINDS["group"], {"before": 3, "after": 2}),
    "batch, tokens first": (TokensFirst, KINDS["batch"], {}),
    "batch, grid": (OnGrid, _batch_norm_3d, {"before": 0, "pool": "patches"}),
    "group, grid": (OnGrid, KINDS["group"], {"before": 0, "pool": "patches"}),
    "function": (InLine, None, {}),
    # As many features as tokens, or as patches: the layout cannot be told by the shape.
    "batch, 30 of 30": (TokenNorm, KINDS["batch"], {"before": 0, "pool": "patches", "dim": 30}),
    "group, 32 of 32": (TokenNorm, KINDS["group"], {"before": 2, "dim": 32}),
    "group, 32 of 30": (TokenNorm, KINDS["group"], {"before": 0, "pool": "patches", "dim": 32}),
    "batch, 30 of 32": (TokenNorm, KINDS["batch"], {"before": 2, "dim": 30}),
}


def _model(case):
    wrapper, kind, changes = CASES[case]
    return seeded(lambda: TinyViT(norm=lambda features: wrapper(kind, features), **changes))()


def _oracle(model, wrapper, x, target):
    """Mean gradient over features times activations summed over them, patch by patch, slowly."""
    maps = []
    for one in x:
        seen = []
        handle = model.get_submodule(wrapper).register_forward_hook(
            lambda _m, _a, out, seen=seen: seen.append(out)
        )
        scores = model(one[None])[0]
        handle.remove()
        rest = torch.cat([scores[:target], scores[target + 1 :]])
        (gradient,) = torch.autograd.grad(scores[target] - rest.logsumexp(0), seen[0])
        tokens = range(model.slots, model.slots + model.patches)
        values = [
            sum(gradient[0, t].tolist()) / gradient.shape[2]
            * sum(seen[0][0, t].tolist())
            for t in tokens
        ]  # fmt: skip
        maps.append(torch.tensor(values).reshape(GRID))
    return torch.stack(maps)


@pytest.mark.parametrize("case", CASES)
def test_token_gradcam_and_frozen_gates_together_agree_with_hooks(case):
    model = _model(case)
    x = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(2))
    explainer = g3dvit.Explainer(model, input_shape=(1, *SHAPE))
    found = explainer.explain(x, ["token_gradcam", "frozen_gate"], target=1)
    layer = explainer.geometry.default_layer
    wrapper = layer.partition(":")[0].removesuffix(".inner")
    assert wrapper.startswith("blocks.1.norm")
    expected = _oracle(model, wrapper, x, 1)
    size = float(expected.abs().max())
    torch.testing.assert_close(
        found["token_gradcam"].relevance, expected, atol=1e-4 * size, rtol=1e-4
    )
    alone = explainer.explain(x, "frozen_gate", target=1)
    assert torch.equal(found["frozen_gate"].relevance, alone.relevance)
    # Through the name of the module around it, which gives (batch, tokens, features).
    around = explainer.explain(x, ["token_gradcam", "frozen_gate"], target=1, target_layer=wrapper)
    assert torch.equal(around["token_gradcam"].relevance, found["token_gradcam"].relevance)


@pytest.mark.parametrize("case", CASES)
def test_every_norm_of_the_blocks_is_listed(case):
    g = probe_geometry(_model(case), (1, *SHAPE))
    suffix = ":group_norm#{}" if case == "function" else ".inner"
    names = [f"blocks.{b}.norm{n}{suffix.format(1)}" for b in (0, 1) for n in (1, 2)]
    assert [layer.name for layer in g.layers] == [*names, f"norm{suffix.format(1)}"]
    assert all(layer.features_first for layer in g.layers)
    assert g.turned_layers == ()
    wanted = "mean of patches" if CASES[case][2].get("pool") else "class token"
    assert g.pooling == wanted


def test_hirescam_of_blocks_reads_as_many_features_as_tokens_rightly():
    model = _model("batch, 30 of 30")
    x = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(2))
    found = g3dvit.Explainer(model, input_shape=(1, *SHAPE)).explain(x, "hirescam_blocks", target=0)
    seen = []
    handles = [
        block.norm1.register_forward_hook(lambda _m, _a, out: seen.append(out))
        for block in model.blocks
    ]
    scores = model(x)
    [handle.remove() for handle in handles]
    score = scores[:, 0] - scores[:, 1:].logsumexp(1)
    gradients = torch.autograd.grad(score.sum(), seen)
    expected = sum((a * g).sum(2) for a, g in zip(seen, gradients, strict=True))
    torch.testing.assert_close(
        found.relevance, expected.reshape(2, *GRID).detach(), atol=1e-5, rtol=1e-3
    )


def test_batch_norm_in_a_convolutional_patch_embedding_changes_nothing_behind_it():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 12, (4, 2, 3), stride=(4, 2, 3))
            self.inner = _batch_norm_3d(12)

        def forward(self, x):
            return self.inner(self.conv(x)).flatten(2).transpose(1, 2)

    g = probe_geometry(seeded(lambda: TinyViT(embed=Stem(), block=Block))(), (1, *SHAPE))
    assert g.default_layer == "blocks.1.norm1"
    assert [layer.name for layer in g.layers][:2] == ["embed.inner", "blocks.0.norm1"]
    assert (g.layers[0].num_prefix_tokens, g.layers[0].token_axis) == (0, 2)
    assert not g.notes
