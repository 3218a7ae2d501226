"""Methods of one or several layers, and exact CAM, against captum and loops."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import nn
from torch.nn import functional as F  # noqa: N812
from vit_pytorch.simple_vit_3d import SimpleViT

from folded_models import divided
from g3dvit.errors import LayerError, MethodError
from g3dvit.explain import Explainer
from g3dvit.methods import cam, eigencam, gradcam, gradcam_plus_plus, layercam, xgradcam
from gallery import GALLERY, PATCH, SHAPE, Attention, Block, Patches, TinyViT, seeded
from test_methods import drifted, vit

X = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(4))


def test_gradcam_and_layercam_equal_loops():
    a, g = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    for b in range(2):
        for p in range(5):
            grad = sum(
                float(a[b, p, d]) * sum(float(g[b, q, d]) for q in range(5)) / 5 for d in range(7)
            )
            layer = sum(float(a[b, p, d]) * max(float(g[b, p, d]), 0.0) for d in range(7))
            assert float(gradcam(a, g)[b, p]) == pytest.approx(grad, rel=1e-12)
            assert float(layercam(a, g)[b, p]) == pytest.approx(layer, rel=1e-12)


def test_xgradcam_and_gradcam_plus_plus_equal_loops():
    a, g = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    for b in range(2):
        axiom, plus = torch.zeros(7), torch.zeros(7)
        for d in range(7):
            total = sum(float(a[b, q, d]) for q in range(5))
            axiom[d] = sum(float(g[b, q, d] * a[b, q, d]) for q in range(5)) / total
            for q in range(5):
                gq = float(g[b, q, d])
                plus[d] += max(gq, 0.0) * gq**2 / (2 * gq**2 + total * gq**3)
        for found, weights in ((xgradcam, axiom), (gradcam_plus_plus, plus)):
            expected = (a[b] * weights).sum(1)
            torch.testing.assert_close(found(a, g)[b], expected, rtol=1e-5, atol=1e-6)


def test_xgradcam_adds_up_to_gradient_times_activation_and_leaves_out_what_cancels():
    a, g = torch.randn(2, 1, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(xgradcam(a, g).sum(), (a * g).sum())
    a[0, :, 2] -= a[0, :, 2].mean()  # adds up to rounding
    without = xgradcam(a[..., [0, 1, 3]], g[..., [0, 1, 3]])
    torch.testing.assert_close(xgradcam(a, g), without)


def test_eigencam_is_the_first_principal_component_its_longer_tail_positive():
    generator = torch.Generator().manual_seed(1)
    place = torch.randn(20, generator=generator).exp()
    direction = torch.randn(6, generator=generator)
    a = torch.outer(place, direction) + 3.0
    a = a + 0.01 * torch.randn(20, 6, generator=generator)
    found = eigencam(torch.stack([a, -a]))
    expected = (place - place.mean()) * direction.norm()
    for row in found:
        torch.testing.assert_close(row, expected, rtol=0.02, atol=0.1)


class FeaturesFirst(TinyViT):
    """Shows its tokens as (batch, features, patches), as captum takes feature maps."""

    def __init__(self):
        super().__init__(before=0, pool="max")
        self.seen = nn.Identity()

    def forward(self, x):
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.seen(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head(self.pooled(x))


def test_gradcam_equals_captum():
    model = drifted(seeded(FeaturesFirst)())
    result = Explainer(model, (1, *SHAPE)).explain(
        X, "gradcam", target=1, score="logit", target_layer="seen"
    )
    expected = LayerGradCam(model, model.seen).attribute(X, target=1)
    torch.testing.assert_close(result.relevance.flatten(1), expected[:, 0].detach())


@pytest.mark.parametrize("pool", ["first", "patches"])
def test_hirescam_blocks_is_the_sum_of_captum_over_the_norms_before_attentions(pool):
    model = drifted(seeded(lambda: TinyViT(depth=3, pool=pool))())
    result = Explainer(model, (1, *SHAPE)).explain(X, "hirescam_blocks", target=2, score="logit")
    total = 0
    for block in model.blocks:
        each = LayerGradientXActivation(model, block.norm1).attribute(X, target=2)
        total = total + each.detach().sum(-1)[:, 1:]
    torch.testing.assert_close(result.relevance.flatten(1), total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("functional norms", None),
        ("one norm shared by all blocks", None),
        ("plain encoder, pre-norm, mean", ["encoder.layers.0.norm1", "encoder.layers.1.norm1"]),
    ],
)
def test_hirescam_blocks_is_the_sum_of_its_layers(name, layers):
    piece = GALLERY[name]
    explainer = Explainer(drifted(piece.build()), piece.input_shape)
    if layers is None:
        layers = [layer.name for layer in explainer.geometry.layers[0:4:2]]
    x = torch.randn(2, *piece.input_shape)
    total = sum(
        explainer.explain(x, "hirescam", target=0, score="logit", target_layer=one).relevance
        for one in layers
    )
    found = explainer.explain(x, "hirescam_blocks", target=0, score="logit")
    torch.testing.assert_close(found.relevance, total, rtol=1e-3, atol=1e-6)


def test_vit_3d_with_its_own_softmax_reads_the_norms_before_its_attentions():
    model = vit()
    explainer = Explainer(model, (1, *SHAPE))
    layers = [f"transformer.layers.{n}.0.norm" for n in range(2)]
    total = sum(
        explainer.explain(X, "hirescam", target=0, score="logit", target_layer=one).relevance
        for one in layers
    )
    found = explainer.explain(X, "hirescam_blocks", target=0, score="logit")
    torch.testing.assert_close(found.relevance, total, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("pool", ["patches", "all"])
def test_cam_is_what_each_token_adds_to_the_logit(pool):
    model = drifted(seeded(lambda: TinyViT(pool=pool))())
    kept = {}
    model.norm.register_forward_hook(lambda *a: kept.update(tokens=a[2].detach()))
    logits = model(X).detach()
    tokens, weight = kept["tokens"], model.head.weight.detach()[1]
    number = 30 if pool == "patches" else 31
    expected = torch.zeros(2, 30)
    for b in range(2):
        for p in range(30):
            expected[b, p] = sum(weight[d] * tokens[b, 1 + p, d] for d in range(12)) / number
    explainer = Explainer(model, (1, *SHAPE))
    result = explainer.explain(X, "cam", target=1, score="logit")
    torch.testing.assert_close(result.relevance.flatten(1), expected, rtol=1e-4, atol=1e-6)
    total = result.relevance.flatten(1).sum(1) + result.prefix + result.bias
    torch.testing.assert_close(total, logits[:, 1])
    torch.testing.assert_close(
        result.bias, model.head.bias.detach()[1].expand(2), rtol=1e-3, atol=1e-5
    )
    odds = explainer.explain(X, "cam", target=1)
    total = odds.relevance.flatten(1).sum(1) + odds.prefix + odds.bias
    torch.testing.assert_close(total, odds.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cam(tokens[:, 1:], (weight / number).expand(2, -1)), expected)


class GatedHead(TinyViT):
    """A mean of patches through a head that is not linear."""

    def forward(self, x):
        return F.gelu(super().forward(x))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (TinyViT, "does not take the mean"),
        (lambda: TinyViT(pool="flatten"), "does not take the mean"),
        (lambda: GatedHead(before=0, pool="patches"), "not linear in the tokens of 'norm#1'"),
        (lambda: TinyViT(pool="max"), "not linear in the tokens of 'norm#1'"),
    ],
)
def test_cam_is_refused_where_the_head_is_not_linear_on_a_mean(build, why):
    explainer = Explainer(drifted(seeded(build)()), (1, *SHAPE))
    with pytest.raises(MethodError, match=rf"linear on the mean of the tokens.*{why}"):
        explainer.explain(X, "cam")


def test_cam_takes_the_block_where_there_is_no_final_norm():
    model = drifted(seeded(lambda: TinyViT(before=0, pool="patches", final_norm=False))())
    result = Explainer(model, (1, *SHAPE)).explain(X, "cam", target=0, score="logit")
    total = result.relevance.flatten(1).sum(1) + model.head.bias.detach()[0]
    torch.testing.assert_close(total, result.logits[:, 0], rtol=1e-4, atol=1e-5)


def test_hirescam_blocks_is_refused_where_an_attention_reads_no_norm():
    """Post-norm blocks: what the first attention reads is no normalisation's output."""
    for before in (0, 1):
        model = drifted(
            seeded(lambda n=before: TinyViT(block=lambda d: Block(d, post=True), before=n))()
        )
        explainer = Explainer(model, (1, *SHAPE))
        with pytest.raises(LayerError, match="reads tokens that no normalisation layer gives"):
            explainer.explain(X, "hirescam_blocks")


def test_a_norm_of_the_patch_embedding_is_not_what_an_attention_reads():
    model = TinyViT(
        block=lambda d: Block(d, post=True), before=0, pool="all", embed=NormedPatches()
    )
    explainer = Explainer(drifted(model), (1, *SHAPE))
    with pytest.raises(LayerError, match=r"'embed\.2', which is not its own"):
        explainer.explain(X, "hirescam_blocks")


class OwnSoftmax(Attention):
    """Writes its softmax with `exp`, which nothing tells from other arithmetic."""

    def forward(self, x):
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).exp()
        return self.to_out(weights / weights.sum(-1, keepdim=True) @ v)


def test_hirescam_blocks_is_refused_where_no_attention_is_recognised():
    model = seeded(TinyViT)()
    for block in model.blocks:
        block.attention = OwnSoftmax(12)
    with pytest.raises(LayerError, match="no attention is recognised"):
        Explainer(drifted(model), (1, *SHAPE)).explain(X, "hirescam_blocks")


@pytest.mark.parametrize("depth", [1, 3])
def test_hirescam_blocks_adds_up_all_blocks_of_models_without_further_tokens(depth):
    model = SimpleViT(
        image_size=SHAPE[1:], image_patch_size=PATCH[1:], frames=SHAPE[0],
        frame_patch_size=PATCH[0],
        num_classes=3, dim=36, depth=depth, heads=2, mlp_dim=32, channels=1, dim_head=8,
    )  # fmt: skip
    drifted(model)
    kept = []
    handles = [
        layers[0].norm.register_forward_hook(
            lambda _m, _a, out: kept.append(out.requires_grad_()) or kept[-1]
        )
        for layers in model.transformer.layers
    ]
    gradients = torch.autograd.grad(model(X)[:, 2].sum(), kept)
    for handle in handles:
        handle.remove()
    total = sum((a * g).sum(2) for a, g in zip(kept, gradients, strict=True)).detach()
    found = Explainer(model, (1, *SHAPE)).explain(X, "hirescam_blocks", target=2, score="logit")
    assert len(kept) == depth
    torch.testing.assert_close(found.relevance.flatten(1), total, rtol=1e-4, atol=1e-6)


def test_other_methods_of_one_layer_take_what_an_attention_reads():
    """With a mean of tokens the last one alive is that of a feed-forward branch."""
    names = ["token_gradcam", "hirescam", "layercam"]
    bare = drifted(seeded(lambda: TinyViT(pool="patches", final_norm=False))())
    explainer = Explainer(bare, (1, *SHAPE))
    found = explainer.explain(X, names)
    assert [found[n].target_layer for n in names] == [
        "blocks.1.norm2", "blocks.1.norm1", "blocks.1.norm1",
    ]  # fmt: skip
    assert "layer of other methods" in str(explainer.geometry)
    for name in names:
        alone = explainer.explain(X, name, target_layer=found[name].target_layer, score="log_odds")
        torch.testing.assert_close(alone.relevance, found[name].relevance)
    named = explainer.explain(X, names, target_layer="blocks.0.norm2")
    assert {one.target_layer for one in named.values()} == {"blocks.0.norm2"}
    # All goes through the last one alive of a block that normalises behind its branches.
    post = TinyViT(pool="patches", final_norm=False, block=lambda d: Block(d, post=True))
    geometry = Explainer(drifted(post), (1, *SHAPE)).geometry
    assert geometry.attention_layer == geometry.default_layer == "blocks.1.norm1"


def test_hirescam_blocks_is_refused_where_the_blocks_have_no_norm():
    model = drifted(seeded(lambda: TinyViT(norm=lambda _: nn.Identity(), embed=NormedPatches()))())
    explainer = Explainer(model, (1, *SHAPE))
    with pytest.raises(LayerError, match="some attentions of this model are over 31"):
        explainer.explain(X, "hirescam_blocks")


def test_hirescam_blocks_is_refused_where_attention_goes_along_one_axis_at_a_time():
    explainer = Explainer(drifted(seeded(divided)()), (1, *SHAPE))
    with pytest.raises(LayerError, match=r"attentions of this model are over 5, 6 \(windows"):
        explainer.explain(X, "hirescam_blocks")


class NormedPatches(nn.Sequential):
    def __init__(self):
        super().__init__(Patches(), nn.Linear(24, 12), nn.LayerNorm(12))
