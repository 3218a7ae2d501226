"""Which number is explained: probabilities and functions of the outputs."""

from __future__ import annotations

import pytest
import torch

from g3dvit.errors import TargetError
from g3dvit.explain import Explainer
from g3dvit.patterns import pattern
from g3dvit.targets import score_batch
from gallery import SHAPE, TinyViT, seeded
from test_methods import drifted

X = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def explainer():
    return Explainer(drifted(seeded(TinyViT)()), (1, *SHAPE))


def test_classes_of_one_value_behind_a_sigmoid_are_refused():
    """Its sign says nothing: without this every volume would be called the second class."""
    bounded = Explainer(seeded(lambda: TinyViT(outputs=1, wrap=torch.sigmoid))(), (1, *SHAPE))
    x = torch.randn(2, 1, *SHAPE)
    assert bounded.geometry.one_sigmoid
    for asked in ({}, {"target": 1}, {"method": "frozen_gate"}, {"score": "probability"}):
        with pytest.raises(TargetError, match="return the value before the sigmoid"):
            bounded.explain(x, **asked)
    with pytest.raises(TargetError, match="before the sigmoid"):
        pattern(bounded, torch.randn(8, 1, *SHAPE), target=1)
    found = bounded.explain(x, "frozen_gate", score=lambda y: y[:, 0])
    assert found.relevance.abs().max() > 0
    for fine in (
        TinyViT(outputs=1),
        TinyViT(wrap=torch.sigmoid),
        TinyViT(outputs=1, wrap=torch.tanh),
    ):
        assert not Explainer(fine.eval(), (1, *SHAPE)).geometry.one_sigmoid


@pytest.mark.parametrize("target", [0, 2, (2, 1)])
def test_the_tangent_of_a_probability_is_its_derivative(target):
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    p = z.softmax(1)
    y = p[:, target[0]] - p[:, target[1]] if isinstance(target, tuple) else p[:, target]
    (slope,) = torch.autograd.grad(y.sum(), z)
    found = score_batch([(target,)] * 4, z, "probability")
    torch.testing.assert_close(found.values[:, 0], y.detach())
    torch.testing.assert_close(found.weights[:, 0], slope)


@pytest.mark.parametrize(("target", "sign"), [(1, 1), (0, -1), ((1, 0), 2), ((0, 1), -2)])
def test_one_output_is_a_sigmoid(target, sign):
    z = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    p = torch.sigmoid(z)
    found = score_batch([(target,)] * 2, z, "probability")
    expected = {1: p, 0: 1 - p, (1, 0): 2 * p - 1, (0, 1): 1 - 2 * p}[target]
    torch.testing.assert_close(found.values, expected)
    torch.testing.assert_close(found.weights[:, 0], sign * p * (1 - p))


def test_probability_is_recorded_and_complete(explainer):
    result = explainer.explain(X, "frozen_gate", target=1, score="probability")
    assert (result.score, result.units) == ("probability", "probability")
    torch.testing.assert_close(result.scores, result.logits.softmax(1)[:, 1])
    total = result.relevance.flatten(1).sum(1) + result.prefix + result.bias
    torch.testing.assert_close(total, result.scores, rtol=1e-4, atol=1e-5)
    assert result.checks[0][-1].name == "saturated head"
    assert result.checks[0][-1].verdict == "pass"


@pytest.mark.parametrize(("scale", "verdict"), [(1, "pass"), (40, "warn"), (300, "fail")])
def test_a_saturated_head_is_told(scale, verdict):
    model = drifted(seeded(TinyViT)())
    with torch.no_grad():
        model.head.weight *= 0
        model.head.bias.copy_(scale * torch.tensor([0.2, 0.0, 0.0]))
        model.head.weight[:, 0] = torch.tensor([0.01, 0.0, -0.01])
    found = Explainer(model, (1, *SHAPE)).explain(
        X, ["hirescam", "gradient_x_input"], score="probability"
    )
    for result in found.values():
        checks = [c for row in result.checks for c in row if c.name == "saturated head"]
        assert len(checks) == 3 and {c.verdict for c in checks} == {verdict}
    odds = Explainer(model, (1, *SHAPE)).explain(X, "hirescam", score="log_odds")
    assert all(c.name != "saturated head" for row in odds.checks for c in row)


def first_squared(z):
    return z[:, 0] ** 2


def test_a_function_of_the_outputs_is_explained(explainer):
    result = explainer.explain(X, "hirescam", score=first_squared)
    assert (result.score, result.units) == ("first_squared", "first-squared")
    assert result.score_function is first_squared
    assert result.target == ("score",) * 3
    torch.testing.assert_close(result.scores, result.logits[:, 0] ** 2)
    logit = explainer.explain(X, "hirescam", score="logit", target=0)
    slope = 2 * result.logits[:, 0].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(result.relevance, slope * logit.relevance, rtol=1e-4, atol=1e-6)
    assert [c.value > 0.99 for c in explainer.check_float64(X, result)] == [True] * 3


def test_regression_models_have_no_classes():
    model = drifted(seeded(lambda: TinyViT(outputs=1))())
    explainer = Explainer(model, (1, *SHAPE))
    result = explainer.explain(X, "frozen_gate", score=lambda z: z[:, 0])
    classes = explainer.explain(X, "frozen_gate", target=1, score="logit")
    torch.testing.assert_close(result.relevance, classes.relevance)
    total = result.relevance.flatten(1).sum(1) + result.prefix + result.bias
    torch.testing.assert_close(total, result.logits[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("score", "match"),
    [
        (lambda z: z, r"one number per volume, \(3,\), for outputs \(3, 3\); it gave \(3, 3\)"),
        (lambda z: z[:, 0].detach(), "does not depend on the outputs"),
        (lambda z: (z[:, 0] - 1e9).log(), "not finite"),
        (lambda z: 1.0, "it gave float"),
        ("odds", "no score 'odds'; choose from logit, log_odds, probability, or give a function"),
    ],
)
def test_scores_that_cannot_be_explained_are_refused(explainer, score, match):
    with pytest.raises(TargetError, match=match):
        explainer.explain(X, "hirescam", score=score)


def test_a_function_has_no_target(explainer):
    with pytest.raises(TargetError, match=r"'first_squared' is a function .* target=1"):
        explainer.explain(X, "hirescam", score=first_squared, target=1)
