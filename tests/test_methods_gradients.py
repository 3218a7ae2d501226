"""Gradients at the input: against captum, loops, linear models, and where they must refuse."""

from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients
from torch import nn

from g3dvit.errors import InputError, MethodError
from g3dvit.explain import Explainer
from g3dvit.methods import expected_gradients, integrated_gradients, smoothgrad
from gallery import GALLERY, PATCH, SHAPE, Patches, TinyViT, seeded
from test_methods import drifted, vit

GENERATOR = torch.Generator().manual_seed(6)
X = torch.randn(2, 1, *SHAPE, generator=GENERATOR)
REFERENCES = torch.randn(3, 1, *SHAPE, generator=GENERATOR)


@pytest.fixture(scope="module")
def plain():
    return Explainer(drifted(seeded(TinyViT)()), (1, *SHAPE))


@pytest.fixture(scope="module")
def normed():
    """Its patch embedding begins with a layer normalisation of the voxels."""
    return Explainer(vit(), (1, *SHAPE))


def by_patch(voxels):
    return voxels.reshape(len(voxels), 2, 4, 3, 2, 5, 3).sum((2, 4, 6))


def test_gradient_x_input_equals_captum(plain):
    result = plain.explain(X, "gradient_x_input", target=2, score="logit")
    expected = InputXGradient(plain.model).attribute(X.clone().requires_grad_(), target=2)
    torch.testing.assert_close(result.voxel_relevance, expected[:, 0].detach())
    torch.testing.assert_close(result.relevance, by_patch(expected[:, 0].detach()))


def test_gradient_x_input_begins_behind_a_normalisation_of_the_voxels(normed):
    model = normed.model
    kept = {}
    norm = model.to_patch_embedding[1]

    def begin(_module, _args, output):
        kept["u"] = (output - norm.bias).detach().requires_grad_()
        return kept["u"] + norm.bias

    handle = norm.register_forward_hook(begin)
    model(X)[:, 1].sum().backward()
    handle.remove()
    expected = (kept["u"] * kept["u"].grad).sum(2).reshape(2, 2, 3, 5).detach()
    result = normed.explain(X, "gradient_x_input", target=1, score="logit")
    torch.testing.assert_close(result.relevance, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        result.relevance, by_patch(result.voxel_relevance), rtol=1e-4, atol=1e-6
    )
    again = normed.explain(2 * X + 1, "gradient_x_input", target=1, score="logit")
    torch.testing.assert_close(result.voxel_relevance, again.voxel_relevance, rtol=1e-2, atol=1e-5)
    # At the voxels themselves it adds up to nothing: why it begins where it does.
    voxels = InputXGradient(model).attribute(X.clone().requires_grad_(), target=1).detach()[:, 0]
    assert by_patch(voxels).abs().max() < 1e-3 * voxels.abs().max()


@pytest.mark.parametrize("name", ["no channel axis, permuted inside", "three channels"])
def test_voxels_are_in_input_order_and_channels_are_summed(name):
    piece = GALLERY[name]
    model = drifted(piece.build())
    x = torch.randn(2, *piece.input_shape)
    result = Explainer(model, piece.input_shape).explain(
        x, "gradient_x_input", target=0, score="logit"
    )
    leaf = x.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    product = (leaf * leaf.grad).detach()
    product = product.sum(1) if product.ndim == 5 else product
    torch.testing.assert_close(result.voxel_relevance, product, rtol=1e-4, atol=1e-6)


def test_smoothgrad_equals_a_loop_over_noisy_copies(plain):
    result = plain.explain(X, "smoothgrad", target=1, score="logit", samples=5, noise=0.3, seed=11)
    generator = torch.Generator().manual_seed(11)
    total = torch.zeros(2, *SHAPE)
    for _ in range(5):
        one = torch.randn((1, *SHAPE), generator=generator, dtype=torch.float64).float()
        for n in range(2):
            leaf = X[n : n + 1] + 0.3 * X[n].std(correction=0) * one
            leaf.requires_grad_()
            (gradient,) = torch.autograd.grad(plain.model(leaf)[0, 1], leaf)
            total[n] += gradient[0, 0] / 5
    torch.testing.assert_close(result.voxel_relevance, total, rtol=1e-4, atol=1e-6)
    assert result.units == "score per unit of signal"
    other = plain.explain(X, "smoothgrad", target=1, score="logit", samples=5, noise=0.3)
    assert not torch.allclose(other.relevance, result.relevance, rtol=1e-3)
    still = plain.explain(X, "smoothgrad", target=1, score="logit", samples=1, noise=0.0)
    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain.model(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(still.voxel_relevance, gradient[:, 0])


def test_noise_is_measured_where_the_volume_is_not_empty():
    x = torch.zeros(1, 1, 4, 5, 6)
    x[:, :, 1:3] = torch.randn(1, 1, 2, 5, 6)
    seen = []

    def gradient(points):
        seen.append(points - x)
        return points[None]

    smoothgrad(gradient, x, samples=200, noise=0.5)
    noise = torch.cat(seen)
    assert noise.std() == pytest.approx(0.5 * float(x[:, :, 1:3].std()), rel=0.05)


def test_integrated_gradients_equal_captum_and_are_complete(plain):
    result = plain.explain(
        X, "integrated_gradients", target=2, score="logit", references=REFERENCES, samples=20
    )
    captum = IntegratedGradients(plain.model)
    expected = torch.zeros(2, *SHAPE)
    for reference in REFERENCES:
        one = captum.attribute(
            X, baselines=reference[None], target=2, n_steps=20, method="gausslegendre"
        )
        expected += one[:, 0].float() / 3
    torch.testing.assert_close(result.voxel_relevance, expected, rtol=1e-3, atol=1e-5)
    z = plain.model(REFERENCES).detach()[:, 2].mean()
    total = result.relevance.flatten(1).sum(1)
    torch.testing.assert_close(total, result.scores - z, rtol=1e-2, atol=1e-3)
    assert result.completeness_error.max() < 0.01
    assert [c.name for c in result.checks[0]][:2] == ["cancelling voxels", "completeness"]
    assert result.options.references is not None and result.options.samples == 20


def test_integrated_log_odds_follow_the_score_itself_along_the_path(plain):
    for score in ("log_odds", "probability"):
        result = plain.explain(
            X, "integrated_gradients", target=0, score=score, references=REFERENCES[0], samples=40
        )
        z = plain.model(REFERENCES[:1]).detach()[0]
        p = z.softmax(0)[0]
        own = torch.log(p / (1 - p)) if score == "log_odds" else p
        total = result.relevance.flatten(1).sum(1)
        torch.testing.assert_close(total, result.scores - own, rtol=1e-2, atol=2e-3)


def test_too_few_points_are_told(plain):
    result = plain.explain(
        5 * X, "integrated_gradients", target=2, references=-5 * REFERENCES[:1], samples=1
    )
    check = result.checks[0][1]
    assert check.name == "completeness" and check.verdict != "pass"
    assert check.value == pytest.approx(float(result.completeness_error[0]))


def test_a_reference_of_constant_patches_is_refused_where_the_model_cannot_see_it(plain, normed):
    levels = torch.randn(1, 1, *(n // p for n, p in zip(SHAPE, PATCH, strict=True)))
    for axis, edge in zip((2, 3, 4), PATCH, strict=True):
        levels = levels.repeat_interleave(edge, axis)
    one_voxel = torch.zeros(1, 1, *SHAPE)
    one_voxel[..., 0, 0, 0] = 1
    rounding = 1e-6 * torch.randn(1, 1, *SHAPE)
    for reference in (levels, one_voxel, rounding):
        for method in ("integrated_gradients", "occlusion"):
            with pytest.raises(MethodError, match="or in nearly every patch"):
                normed.explain(X, method, references=reference)
            plain.explain(X, method, references=reference)


def test_a_constant_reference_is_refused_where_the_model_cannot_see_it(plain, normed):
    for method in ("integrated_gradients", "expected_gradients"):
        for value in (0.0, 3.0):
            constant = torch.full((1, 1, *SHAPE), value)
            with pytest.raises(MethodError, match=r"reference 0 .* this model cannot see"):
                normed.explain(X, method, references=constant)
        both = torch.cat([REFERENCES[:1], torch.zeros(1, 1, *SHAPE)])
        with pytest.raises(MethodError, match=r"reference 1 .* this model cannot see"):
            normed.explain(X, method, references=both)
        seen = plain.explain(X, method, references=torch.zeros(1, 1, *SHAPE))
        assert seen.completeness_error.max() < 0.05
    result = normed.explain(X, "integrated_gradients", references=REFERENCES[:1], samples=64)
    assert result.completeness_error.max() < 0.02


class Linear(nn.Module):
    """Linear in every voxel."""

    def __init__(self):
        super().__init__()
        self.patches, self.head = Patches(), nn.Linear(24, 3)
        self.place = nn.Parameter(torch.randn(1, 30, 1))
        self.norm = nn.Identity()

    def forward(self, x):
        return self.head(self.norm(self.patches(x) * self.place).sum(1))


def test_on_a_linear_model_all_are_exact():
    torch.manual_seed(0)
    model = Linear().double()
    x, references = X.double(), REFERENCES.double()
    weight = model.head.weight[1].detach()

    def gradient(points):
        leaf = points.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0][None]

    slope = gradient(x)[0]
    assert torch.allclose(slope[0], slope[1])
    torch.testing.assert_close(slope[0].flatten()[0], weight[0] * model.place[0, 0, 0].detach())
    expected = slope * (x - references.mean(0))
    for found in (
        integrated_gradients(gradient, x, references, samples=1),
        expected_gradients(gradient, x, references, samples=6, seed=3),
    ):
        torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(smoothgrad(gradient, x, samples=3, noise=2.0)[0], slope)


def test_expected_gradients_approach_integrated_gradients(plain):
    options = {"target": 1, "score": "logit", "references": REFERENCES}
    path = plain.explain(X, "integrated_gradients", samples=12, **options).relevance
    drawn = plain.explain(X, "expected_gradients", samples=300, **options)
    pair = torch.stack([drawn.relevance.flatten(), path.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99
    assert (pair[0] - pair[1]).std() < 0.1 * pair[1].std()
    assert drawn.completeness_error.max() < 0.05


def test_arguments_that_cannot_serve_are_refused(plain):
    with pytest.raises(MethodError, match="give `references`"):
        plain.explain(X, "integrated_gradients")
    with pytest.raises(MethodError, match="`references` means nothing to hirescam"):
        plain.explain(X, "hirescam", references=REFERENCES)
    with pytest.raises(
        MethodError, match=r"`samples` means nothing to token_gradcam; .*, smoothgrad"
    ):
        plain.explain(X, samples=3)
    with pytest.raises(MethodError, match="`samples` takes a positive integer, was given 0"):
        plain.explain(X, "smoothgrad", samples=0)
    with pytest.raises(MethodError, match="`noise` takes a finite number from 0"):
        plain.explain(X, "smoothgrad", noise=-1)
    with pytest.raises(InputError, match=r"shape \(references, 1, 8, 6, 15\), was given"):
        plain.explain(X, "integrated_gradients", references=REFERENCES[:, :, :4])
    with pytest.raises(InputError, match="not finite"):
        plain.explain(X, "integrated_gradients", references=torch.full((1, 1, *SHAPE), torch.inf))


def test_several_methods_and_targets_in_one_call(plain):
    found = plain.explain(
        X, ["gradient_x_input", "smoothgrad", "frozen_gate"], target=[0, (1, 2)], samples=2
    )
    assert found["smoothgrad"].voxel_relevance.shape == (2, 2, *SHAPE)
    alone = plain.explain(X, "smoothgrad", target=(1, 2), samples=2)
    torch.testing.assert_close(
        found["smoothgrad"].relevance[:, 1], alone.relevance, rtol=1e-4, atol=1e-6
    )


def test_paths_take_a_score_that_is_a_function(plain):
    options = {"references": REFERENCES, "samples": 8}
    own = plain.explain(X, "integrated_gradients", score=lambda z: z[:, 2] - z[:, 0], **options)
    named = plain.explain(X, "integrated_gradients", score="logit", target=(2, 0), **options)
    torch.testing.assert_close(own.relevance, named.relevance)
    torch.testing.assert_close(own.completeness_error, named.completeness_error, atol=1e-5, rtol=0)
