"""Every method against an independent computation, and the contract of the table."""

from __future__ import annotations

import inspect

import pytest
import torch
from beartype import beartype
from captum.attr import LayerGradientXActivation
from jaxtyping import TypeCheckError, jaxtyped
from torch import nn
from vit_pytorch.vit_3d import ViT

from g3dvit.errors import MethodError
from g3dvit.explain import Explainer, Explanation
from g3dvit.methods import METHODS, WEIGHTINGS, find_method, hirescam, token_gradcam
from gallery import SHAPE, TinyViT, seeded


def loops(activations, gradients, weighting):
    """Token Grad-CAM, one number at a time."""
    batch, patches, channels = activations.shape
    out = torch.zeros(batch, patches, dtype=torch.float64)
    for b in range(batch):
        for p in range(patches):
            g = [float(gradients[b, p, d]) for d in range(channels)]
            weight = {
                "mean": sum(g) / channels,
                "max": max(g),
                "abs": sum(abs(v) for v in g) / channels,
                "relu": sum(max(v, 0.0) for v in g) / channels,
            }[weighting]
            for d in range(channels):
                out[b, p] += weight * float(activations[b, p, d])
    return out


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_token_gradcam_equals_loops(weighting):
    a, g = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    found = token_gradcam(a, g, weighting)
    torch.testing.assert_close(found.relevance, loops(a, g, weighting), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.patch_weights * found.token_sum, found.relevance)
    torch.testing.assert_close(found.token_sum, a.sum(2))


def test_weightings_are_related_as_their_definitions_say():
    a, g = torch.randn(2, 3, 5, 7)
    weights = {w: token_gradcam(a, g, w).patch_weights for w in WEIGHTINGS}
    torch.testing.assert_close(weights["relu"], (weights["abs"] + weights["mean"]) / 2)
    assert (weights["max"] >= weights["mean"]).all()
    with pytest.raises(MethodError, match="no weighting 'median'"):
        token_gradcam(a, g, "median")


def test_half_precision_is_summed_in_float32():
    a, g = torch.randn(2, 2, 5, 64).bfloat16()
    assert token_gradcam(a, g).relevance.dtype == torch.float32
    torch.testing.assert_close(hirescam(a, g), (a.float() * g.float()).sum(2))


def drifted(model):
    """Move norms away from identity, as training does."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model.eval()


def vit(**changes):
    torch.manual_seed(0)
    values = dict(  # noqa: C408
        image_size=(6, 15), image_patch_size=(2, 3), frames=8, frame_patch_size=4, channels=1,
        num_classes=3, dim=16, depth=2, heads=2, dim_head=6, mlp_dim=20,
    )  # fmt: skip
    return drifted(ViT(**(values | changes)))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_reference_formula_on_its_own_layer(weighting):
    """One volume, hooks on the last pre-attention norm, backward through everything."""
    model, x = vit().double(), torch.randn(2, 1, *SHAPE, dtype=torch.float64)
    result = Explainer(model, (1, *SHAPE)).explain(
        x, weighting=weighting, target=1, target_layer="transformer.layers.1.0.norm"
    )
    for number in range(2):
        kept = {}
        layer = model.transformer.layers[-1][0].norm
        handle = layer.register_forward_hook(lambda *a, k=kept: k.update(a=a[2]))
        logits = model(x[number : number + 1])
        handle.remove()
        kept["a"].retain_grad()
        logits[0, 1].backward()
        gradient, activation = kept["a"].grad, kept["a"].detach()
        pooled = {
            "mean": gradient.mean(2, keepdim=True),
            "max": gradient.max(2, keepdim=True).values,
            "abs": gradient.abs().mean(2, keepdim=True),
            "relu": gradient.clamp_min(0).mean(2, keepdim=True),
        }[weighting]
        cam = (pooled * activation).sum(2)[0, 1:].reshape(2, 3, 5)
        torch.testing.assert_close(result.relevance[number].double(), cam, rtol=1e-5, atol=1e-10)

        def shown(m):
            m = m.relu()
            return (m - m.min()) / (m.max() - m.min() + 1e-8)

        torch.testing.assert_close(
            shown(result.relevance[number].double()), shown(cam), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("layer", ["blocks.0.norm1", "blocks.1.norm1", "blocks.0.norm2"])
def test_hirescam_equals_captum(layer):
    model = drifted(seeded(TinyViT)())
    x = torch.randn(3, 1, *SHAPE)
    result = Explainer(model, (1, *SHAPE)).explain(
        x, "hirescam", target=2, target_layer=layer, score="logit"
    )
    reference = LayerGradientXActivation(model, model.get_submodule(layer)).attribute(x, target=2)
    expected = reference.sum(-1)[:, 1:].reshape(3, 2, 3, 5).detach()
    torch.testing.assert_close(result.relevance, expected, rtol=1e-4, atol=1e-7)


class MeanHead(nn.Module):
    """Linear behind the tokens: HiResCAM is what each patch adds."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv3d(1, 6, (4, 2, 3), (4, 2, 3))
        self.norm = nn.LayerNorm(6)
        self.gate = nn.Linear(6, 6)
        self.last = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
        x = self.last(x + self.gate(x).relu())
        position = torch.linspace(0.5, 1.5, x.shape[1])[:, None]
        return self.head((x * position).mean(1))


def test_hirescam_is_the_contribution_where_the_rest_is_linear():
    model = drifted(MeanHead())
    x = torch.randn(2, 1, *SHAPE)
    result = Explainer(model, (1, *SHAPE)).explain(
        x, "hirescam", target=0, score="logit", target_layer="last"
    )
    total = result.relevance.flatten(1).sum(1) + model.head.bias[0].detach()
    torch.testing.assert_close(total, result.logits[:, 0])


# -- the table -----------------------------------------------------------------------------
X = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(3))
#: What a method needs beside its defaults: a model that it applies to, and arguments.
NEEDS: dict[str, dict] = {"cam": {"before": 0, "pool": "patches"}}
REFERENCES = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(8))
ARGUMENTS: dict[str, dict] = {
    "smoothgrad": {"samples": 3},
    "frozen_gate_noise": {"samples": 3},
    "integrated_gradients": {"samples": 4, "references": REFERENCES},
    "expected_gradients": {"samples": 6, "references": REFERENCES},
    "occlusion": {"references": REFERENCES},
    "rise": {"samples": 60},
}
_EXPLAINERS: dict[str, Explainer] = {}


def made(name, **changes):
    return drifted(seeded(lambda: TinyViT(**(NEEDS.get(name, {}) | changes)))())


def explainer_of(name):
    if name not in _EXPLAINERS:
        _EXPLAINERS[name] = Explainer(made(name), (1, *SHAPE))
    return _EXPLAINERS[name]


def explained(name, x, explainer=None, **changes):
    explainer = explainer or explainer_of(name)
    return explainer.explain(x, name, **(ARGUMENTS.get(name, {}) | changes))


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    def test_a_row_is_complete(self, name):
        row = METHODS[name]
        assert row.name == name
        assert row.url.startswith(("https://doi.org/", "https://arxiv.org/abs/"))
        assert row.title and row.paper and row.equation.startswith("R_p = ")
        assert inspect.getdoc(row.function).splitlines()[0].endswith(".")

    def test_it_gives_float32_maps_in_input_order(self, name):
        result = explained(name, X, target=1)
        assert isinstance(result, Explanation)
        assert result.relevance.shape == (3, 2, 3, 5)
        assert result.relevance.dtype == torch.float32
        assert result.relevance.max() > 0
        assert (result.relevance.min() < 0) == METHODS[name].signed
        assert result.target == (1, 1, 1)
        assert len(result.checks) == 3 and all(row for row in result.checks)

    def test_a_batch_is_its_volumes(self, name):
        whole = explained(name, X, target=0)
        for n in range(3):
            alone = explained(name, X[n : n + 1], target=0)
            torch.testing.assert_close(whole.relevance[n], alone.relevance[0], rtol=1e-3, atol=1e-6)
        small = explained(name, X, target=0, batch_size=2)
        torch.testing.assert_close(whole.relevance, small.relevance, rtol=1e-3, atol=1e-6)

    def test_patches_and_positions_permuted_permute_the_map(self, name):
        if name == "rise":
            pytest.skip("its random sets of patches are not permuted along")
        model = made(name)
        slots = model.slots
        order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            model.position[:, slots:] = model.position[:, slots:][:, order]
        arguments = dict(ARGUMENTS.get(name, {}))
        if "noise" in METHODS[name].arguments:
            arguments["noise"] = 0.0  # noise would not be permuted along
        if "references" in arguments:
            arguments["references"] = permuted(arguments["references"], order)
        if "shifts" in METHODS[name].arguments:
            arguments["shifts"] = 1  # what is shifted into another patch is not permuted along
        still = {k: v for k, v in arguments.items() if k in ("noise", "shifts")}
        a = explained(name, X, target=1, **still).relevance.flatten(1)[:, order]
        b = Explainer(model, (1, *SHAPE), geometry=explainer_of(name).geometry).explain(
            permuted(X, order), name, target=1, **arguments
        )
        torch.testing.assert_close(a, b.relevance.flatten(1), rtol=1e-3, atol=1e-6)

    def test_two_class_log_odds_are_opposite_where_it_is_linear(self, name):
        model = made(name, outputs=2)
        result = explained(name, X, Explainer(model, (1, *SHAPE)), target="all", score="log_odds")
        opposite = torch.allclose(
            result.relevance[:, 0], -result.relevance[:, 1], rtol=1e-3, atol=1e-6
        )
        assert opposite == METHODS[name].linear
        torch.testing.assert_close(result.scores[:, 0], -result.scores[:, 1])

    def test_classes_differ_where_it_is_class_specific(self, name):
        result = explained(name, X, target=[0, 1])
        same = torch.allclose(result.relevance[:, 0], result.relevance[:, 1], rtol=1e-3)
        assert same != METHODS[name].class_specific

    def test_doubling_the_head_doubles_the_map(self, name):
        if METHODS[name].units:
            pytest.skip("it is not in units of the score")
        model = made(name)
        with torch.no_grad():
            model.head.weight *= 2
            model.head.bias *= 2
        double = Explainer(model, (1, *SHAPE), geometry=explainer_of(name).geometry)
        a = explained(name, X, target=2, score="logit").relevance
        b = explained(name, X, double, target=2, score="logit").relevance
        torch.testing.assert_close(2 * a, b, rtol=1e-3, atol=1e-6)

    def test_float64_gives_the_same(self, name):
        exact = Explainer(made(name).double(), (1, *SHAPE), geometry=explainer_of(name).geometry)
        a = explained(name, X, target=1).relevance
        b = explained(name, X.double(), exact, target=1).relevance
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)

    def test_float64_agreement_can_be_asked_for(self, name):
        result = explained(name, X, target=1)
        checks = explainer_of(name).check_float64(X[:1], result)
        assert [check.name for check in checks] == ["float64 agreement"]
        assert checks[0].value > 0.95


def permuted(x, order):
    """Move the patches of volumes."""
    n = len(x)
    parts = x.reshape(n, 1, 2, 4, 3, 2, 5, 3).permute(0, 1, 2, 4, 6, 3, 5, 7)
    moved = parts.reshape(n, 1, 30, 4, 2, 3)[:, :, order].reshape(n, 1, 2, 3, 5, 4, 2, 3)
    return moved.permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(n, 1, *SHAPE)


def test_unknown_methods_are_named():
    with pytest.raises(MethodError, match=r"no method 'hirescan' \(did you mean 'hirescam'\?\)"):
        find_method("hirescan")


def test_shapes_are_checked_by_the_annotations():
    checked = jaxtyped(typechecker=beartype)(hirescam)
    a = torch.randn(2, 5, 7)
    torch.testing.assert_close(checked(a, a), a.square().sum(2))
    with pytest.raises(TypeCheckError):
        checked(a, a[:, :4])
