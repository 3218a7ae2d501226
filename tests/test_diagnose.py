"""Checks on constructed healthy and broken maps, at their thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from g3dvit import diagnose
from g3dvit.diagnose import Check, balanced_accuracy, model_at_chance, worst
from g3dvit.errors import InputError
from g3dvit.explain import Explainer
from gallery import SHAPE, TinyViT, seeded
from test_methods import drifted, vit


def verdict(check):
    return check.verdict


def test_dead_gradients_are_relative_to_every_token():
    g = torch.zeros(3, 6, 4)
    g[:, 0] = 2.0  # the class token
    g[1, 3] = 2e-5
    g[2, 3] = -1.0
    found = diagnose.dead_gradient(g, slice(1, 6))
    torch.testing.assert_close(found, torch.tensor([0, 1e-5, 0.5]))
    assert [verdict(diagnose.check_dead(v)) for v in found.tolist()] == ["fail", "warn", "pass"]
    assert verdict(diagnose.check_dead(9e-7)) == "fail"
    torch.testing.assert_close(diagnose.dead_gradient(g * 1e-30, slice(1, 6)), found)


def test_uniform_gradients_are_equal_for_all_patches():
    g = torch.randn(1, 1, 4).expand(4, 5, 4).clone()
    noise = torch.randn(4, 5, 4)
    g += noise * torch.tensor([0, 1e-5, 1e-3, 1])[:, None, None]
    checks = [diagnose.check_uniform(v) for v in diagnose.uniform_gradient(g).tolist()]
    assert [c.verdict for c in checks] == ["fail", "fail", "warn", "pass"]
    assert "says nothing about places" in checks[0].sentence


def test_centring_of_layer_norms_and_of_random_features():
    torch.manual_seed(0)
    x = torch.randn(1, 400, 256)
    plain = F.layer_norm(x, (256,))
    gain = 1 + 0.02 * torch.randn(256)
    values = {
        "random": diagnose.centring(x).item(),
        "plain": diagnose.centring(plain).item(),
        "drifted": diagnose.centring(plain * gain).item(),
        "rms": diagnose.centring(F.rms_norm(x, (256,))).item(),
    }
    assert 0.7 < values["random"] < 0.95 and 0.7 < values["rms"] < 0.95
    assert 0 < values["plain"] < 1e-6
    assert 0.005 < values["drifted"] < 0.05
    verdicts = {k: diagnose.check_centring(v, torch.float32).verdict for k, v in values.items()}
    assert verdicts == {"random": "pass", "plain": "fail", "drifted": "warn", "rms": "pass"}
    assert diagnose.check_centring(0.3, torch.bfloat16).verdict == "fail"  # 100 u = 0.39
    assert diagnose.check_centring(0.3, torch.float32).verdict == "pass"


def test_discarded_share_is_one_along_ones_and_a_chance_share_at_random():
    assert diagnose.discarded_share(torch.ones(1, 3, 8)).item() == pytest.approx(1)
    g = torch.randn(1, 2000, 16)
    assert diagnose.discarded_share(g).item() < 2 / 16
    gain = torch.rand(16) + 0.5
    assert diagnose.discarded_share(1 / gain.expand(1, 3, 16), gain).item() == pytest.approx(1)
    check = diagnose.check_discarded(0.5, 16)
    assert check.verdict == "pass" and check.threshold_fail is None and "6.2e-02" in check.sentence


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=30))
def test_spearman_equals_scipys(pairs):
    a, b = np.array(pairs, float).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert diagnose.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    else:
        assert diagnose.spearman(a, b) == 0


def test_float64_agreement_thresholds():
    a = np.arange(100.0)
    b = a.copy()
    b[[10, 60]] = b[[60, 10]]
    assert diagnose.agreement_float64(a, a).verdict == "pass"
    assert diagnose.agreement_float64(a, b).verdict == "warn"
    noise = np.random.default_rng(0).permutation(100)
    assert diagnose.agreement_float64(a, noise).verdict == "fail"
    assert diagnose.agreement_float64(a, 0 * a).verdict == "fail"
    assert diagnose.no_float64("why").verdict == "warn"


@pytest.mark.parametrize(
    ("error", "expected", "in_half"),
    [
        (9e-5, "pass", "pass"),
        (1.1e-4, "warn", "pass"),
        (9e-3, "warn", "pass"),
        (0.011, "fail", "warn"),
        (0.06, "fail", "fail"),
        (math.nan, "fail", "fail"),
    ],
)
def test_completeness_thresholds(error, expected, in_half):
    assert diagnose.check_completeness(error).verdict == expected
    assert diagnose.check_completeness(error, half=True).verdict == in_half


def test_completeness_names_the_module():
    sentence = diagnose.check_completeness(0.2, "the module 'gate'").sentence
    assert "lost or gained in the module 'gate' (0.2; at most 0.01" in sentence


def test_worst_orders_verdicts():
    def check(v):
        return Check("a", 0.0, None, None, v, "")

    assert worst([]) == "pass"
    assert worst([check("warn"), check("pass")]) == "warn"
    assert worst([check("warn"), check("fail"), check("pass")]) == "fail"


# -- accuracy ------------------------------------------------------------------------------
def test_balanced_accuracy_interval_covers_as_it_says():
    generator = np.random.default_rng(1)
    truth, sizes = np.array([0.9, 0.6]), np.array([40, 15])
    hits = generator.binomial(sizes, truth, size=(2000, 2))
    inside = [
        low <= truth.mean() <= high for _, low, high in (balanced_accuracy(k, sizes) for k in hits)
    ]
    assert 0.93 < np.mean(inside) < 0.98


def test_balanced_accuracy_of_one_class_is_wilsons():
    accuracy, low, high = balanced_accuracy([10], [10])
    assert (accuracy, high) == (1.0, 1.0)
    assert low == pytest.approx(10 / (10 + 1.959964**2))
    with pytest.raises(InputError, match="counts of the same classes"):
        balanced_accuracy([3], [2])


def test_an_interval_that_ends_just_above_chance_does_not_look_like_it():
    found = diagnose.model_at_chance(
        [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1], units=[0, 1, 2, 2, 3, 4, 5]
    )
    assert found.verdict == "pass" and 0.5 < found.value < 0.505
    assert "interval 0.5011 to 0.98" in found.sentence and "chance 0.5000" in found.sentence


def test_models_at_and_above_chance():
    labels = [0, 1] * 30
    good = model_at_chance(labels, labels)
    assert good.verdict == "pass" and good.value > 0.9
    random = np.random.default_rng(0).integers(0, 2, 60).tolist()
    assert model_at_chance(random, labels).verdict == "fail"
    always = model_at_chance([0] * 60, labels)
    assert always.verdict == "fail" and "balanced accuracy 0.50" in always.sentence
    three = model_at_chance([0, 1, 2] * 9, [0, 1, 2] * 9, num_classes=3)
    assert three.threshold_fail == pytest.approx(1 / 3) and three.verdict == "pass"


def test_blocks_and_not_volumes_are_counted():
    labels = [0] * 40 + [1] * 40
    predictions = [0] * 30 + [1] * 10 + [1] * 30 + [0] * 10
    assert model_at_chance(predictions, labels).verdict == "pass"
    blocks = [n // 10 for n in range(80)]
    check = model_at_chance(predictions, labels, units=blocks)
    assert "too few independent volumes to tell" in check.sentence  # it was right more often
    assert "show nothing" in model_at_chance([0] * len(labels), labels).sentence
    assert check.verdict == "fail" and "8 independent units" in check.sentence


@pytest.mark.parametrize(
    ("labels", "match"),
    [(None, "no volume has a label"), ([None, None], "no volume"), ([1, 1], "of one class")],
)
def test_accuracy_is_unknown_without_labels(labels, match):
    check = model_at_chance([1, 0] if labels else None, labels)
    assert check.verdict == "warn" and math.isnan(check.value)
    assert check.sentence.startswith("Accuracy unknown") and match in check.sentence


# -- on models -----------------------------------------------------------------------------
X = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def verdicts(result):
    return {check.name: check.verdict for check in result.checks[0]}


def fresh():
    """A `vit_3d` with norms at identity."""
    model = vit()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.reset_parameters()
    return model


def test_token_gradcam_of_fresh_norms_is_told_to_be_rounding_and_the_others_are_not():
    result = Explainer(fresh(), (1, *SHAPE)).explain(
        X, ["token_gradcam", "hirescam", "frozen_gate"], weighting="all", check="float64"
    )
    assert verdicts(result["token_gradcam"])["centring"] == "fail"
    assert verdicts(result["token_gradcam"])["float64 agreement"] == "fail"
    for name in ("hirescam", "frozen_gate"):
        assert set(verdicts(result[name]).values()) == {"pass"}


def test_drifted_norms_are_healthy():
    result = Explainer(vit(), (1, *SHAPE)).explain(X, check="float64")
    found = verdicts(result)
    assert found["float64 agreement"] == found["dead gradient"] == "pass"
    assert found["centring"] in ("pass", "warn")


def test_bf16_centring_fails_where_float32_does_not():
    model = fresh()
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight += 0.1 * torch.randn_like(module.weight)
    a = Explainer(model, (1, *SHAPE)).explain(X)
    b = Explainer(model.bfloat16(), (1, *SHAPE)).explain(X)
    assert verdicts(a)["centring"] != "fail"
    assert verdicts(b)["centring"] == "fail"


def test_float64_is_checked_on_request_without_converting_the_model():
    model = drifted(seeded(TinyViT)())
    explainer = Explainer(model, (1, *SHAPE))
    results = explainer.explain(X, ["token_gradcam", "frozen_gate"], target=[0, "predicted"])
    found = explainer.check_float64(X[:2], results)
    assert {name: [c.verdict for c in row] for name, row in found.items()} == {
        "token_gradcam": ["pass"] * 2,
        "frozen_gate": ["pass"] * 2,
    }
    assert next(model.parameters()).dtype == torch.float32
    with pytest.raises(InputError, match="3 volumes were given, 2 were explained"):
        explainer.check_float64(X, explainer.explain(X[:2]))


class Only32(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = drifted(seeded(TinyViT)())

    def forward(self, x):
        if x.dtype != torch.float32:
            raise RuntimeError("float32 only\nplease")
        return self.inner(x)


def test_models_that_cannot_run_in_float64_are_said_to():
    result = Explainer(Only32(), (1, *SHAPE)).explain(X, check=("float64",))
    check = result.checks[0][-1]
    assert check.verdict == "warn" and "(float32 only)" in check.sentence
