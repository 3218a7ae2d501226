"""Checks of maps against direct computations, at their thresholds, at every scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, spearmanr

from broken_models import BASE, drifted, volumes
from g3dvit import diagnose
from g3dvit.capture.attention_gates import steering_gradients
from g3dvit.check_summary import summarise_checks
from g3dvit.checks import not_applicable, worst
from g3dvit.errors import InputError
from g3dvit.explain import CHECKS, Explainer
from g3dvit.run.checks import carry_over, input_blind_check
from g3dvit.seen import batch_check
from small_models import ExplicitAttention
from test_methods import vit

maps = st.lists(st.floats(-8, 8, allow_nan=False), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(maps, maps, st.floats(1e-12, 1e12))
def test_shares_equal_loops_and_know_no_scale(a, b, scale):
    r, c = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    size = sum(abs(v) for v in a)
    positive = sum(v for v in a if v > 0) / size if size else 0.0
    assert diagnose.positive_share(r).item() == pytest.approx(positive)
    both = size + sum(abs(v) for v in b)
    assert diagnose.position_share(c, r).item() == pytest.approx(size / both if both else 0.0)
    share = diagnose.patch_share(r, torch.tensor([-2.0]), torch.tensor([3.0])).item()
    assert share == pytest.approx(size / (size + 5))
    mean = sum(a) / 6
    norm = math.sqrt(sum(v * v for v in a))
    flat = math.sqrt(sum((v - mean) ** 2 for v in a)) / norm if norm > 0 else 0.0
    assert diagnose.spread(r).item() == pytest.approx(flat, abs=1e-7)
    for measure in (diagnose.positive_share, diagnose.spread):
        assert measure(r * scale).item() == pytest.approx(measure(r).item(), abs=1e-6)
    inside = torch.tensor([True, False] * 3)
    outside = sum(abs(v) for v in a[1::2]) / size if size else 0.0
    assert diagnose.outside_share(r, inside).item() == pytest.approx(outside)


def test_a_normalised_entropy_of_0_999_is_a_flat_map():
    noise = np.random.default_rng(0).normal(size=216)
    found = {}
    for amount in (0.0, 0.03, 0.1, 0.3, 1.0):
        one = np.abs(1 + amount * noise)
        flat = diagnose.spread(torch.from_numpy(one[None])).item()
        normalised = entropy(one / one.sum()) / math.log(216)
        found[amount] = (normalised > 0.999, diagnose.check_flat(flat).verdict)
    assert found[0.0] == found[0.03] == (True, "fail")
    assert found[0.1][1] == "warn"
    assert found[0.3] == found[1.0] == (False, "pass")


def test_thresholds_of_the_checks_of_maps():
    def verdicts(check, values):
        return [check(value).verdict for value in values]

    assert verdicts(diagnose.check_finite, [0.0, 0.001, math.nan]) == ["pass", "fail", "fail"]
    assert verdicts(diagnose.check_positive, [0.5, 5e-4, 0.0]) == ["pass", "warn", "fail"]
    assert diagnose.check_positive(0.0, against=True).verdict == "warn"
    assert verdicts(diagnose.check_flat, [0.5, 0.1, 0.01]) == ["pass", "warn", "fail"]
    assert verdicts(diagnose.check_patches, [0.5, 0.1, 0.01]) == ["pass", "warn", "fail"]
    assert verdicts(diagnose.check_position, [0.5, 0.95, 1.0]) == ["pass", "warn", "fail"]
    assert verdicts(diagnose.check_outside, [0.1, 0.3, 0.6]) == ["pass", "warn", "fail"]
    assert verdicts(diagnose.check_invisible, [0.05, 0.3, 0.6]) == ["pass", "warn", "fail"]
    assert verdicts(diagnose.check_jitter, [0.99, 0.9, 0.5]) == ["pass", "warn", "fail"]
    assert verdicts(diagnose.check_steering, [0.1, 3.0]) == ["pass", "pass"]
    assert diagnose.check_amplitude(0.5, by_patch=False).verdict == "pass"
    assert diagnose.check_amplitude(1e-5, by_patch=False).verdict == "warn"
    assert diagnose.check_amplitude(0.5, by_patch=True).verdict == "warn"


def test_numbers_in_sentences_are_short_and_true():
    check = diagnose.check_flat(0.1234567)
    assert "(0.123; at least 0.2 is asked for)" in check.sentence
    assert "(1.2e-05; at least 0.001 is asked for)" in diagnose.check_removal(1.2e-5).sentence


def test_what_does_not_apply_passes_and_has_no_number():
    check = not_applicable("class-blind", "there is one class")
    assert math.isnan(check.value) and check.sentence == "Does not apply: there is one class."
    assert worst([check]) == "pass"


def test_mean_spearman_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    some = rng.integers(0, 9, size=(5, 30)).astype(float)
    some[3] = 2.0  # constant: agrees with nothing
    pairs = [
        0.0 if 3 in (a, b) else spearmanr(some[a], some[b]).statistic
        for a in range(5)
        for b in range(a)
    ]
    assert diagnose.mean_spearman(list(some)) == pytest.approx(np.mean(pairs))
    assert math.isnan(diagnose.input_blind([some[0]]).value)
    assert diagnose.input_blind([some[0], some[0]]).verdict == "fail"
    assert diagnose.input_blind([some[0], some[1]]).verdict == "pass"


def test_volumes_of_a_run_are_compared_for_their_commonest_target():
    rng = np.random.default_rng(1)
    same = rng.normal(size=(2, 3, 4)).astype(np.float32)
    other = [rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(60)]
    targets = ["left"] * 60 + ["right"] * 70
    check = input_blind_check([*other, *[same] * 70], targets)
    assert check.verdict == "fail" and check.value == pytest.approx(1)
    assert input_blind_check([*[same] * 60, *other[:50], *other[:20]], targets).verdict == "pass"
    assert math.isnan(input_blind_check([], []).value)


def test_what_the_first_volumes_fail_counts_for_all():
    always = diagnose.check_flat(0.9)
    blind, seeing = diagnose.class_blind([1, 2, 3], [1, 2, 3]), diagnose.check_jitter(1.0)
    rows = carry_over([(always, blind, seeing)] * 2 + [(always,)] * 3)
    assert [[c.name for c in row] for row in rows[2:]] == [["flat map", "class-blind"]] * 3
    assert rows[4][1].verdict == "fail"
    told = "Measured on the first 2 volumes, and counts for the whole run."
    assert rows[0][1].sentence.endswith(told) and rows[4][1].sentence.endswith(told)
    summary = {one.name: one for one in summarise_checks(rows)}
    assert summary["class-blind"].sentence == blind.sentence + " " + told  # no count of five
    assert carry_over([(always,)] * 3) == [(always,)] * 3


# -- steering ------------------------------------------------------------------------------
def held_by_hand(model, x, weights):
    """The gradient with each attention matrix stored, and used again as a constant."""
    kept = []

    class Keep(ExplicitAttention):
        def forward(self, x):
            b, t, d = x.shape
            q, k, v = self.to_qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            a = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            a = a.detach()
            kept.append(a)
            return self.to_out((a @ v).transpose(1, 2).reshape(b, t, d))

    for block in model.blocks:
        block.attention.__class__ = Keep
    leaf = x.clone().requires_grad_()
    ((model(leaf) * weights).sum()).backward()
    assert len(kept) == len(model.blocks)
    return leaf.grad


def test_held_attention_equals_stored_matrices():
    x = volumes()
    weights = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(1))
    model = drifted(BASE).requires_grad_(requires_grad=False)
    full, held = steering_gradients(model, x, weights)
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad((model(leaf) * weights).sum(), leaf)
    torch.testing.assert_close(full, plain)
    torch.testing.assert_close(held, held_by_hand(model, x, weights), rtol=1e-4, atol=1e-6)
    assert (full - held).norm() > 0.05 * full.norm()


def test_models_that_cannot_steer_have_no_steering_share():
    model = drifted(BASE)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.to_qkv.weight[: 2 * BASE.dim] = 0
    row = Explainer(model, (1, *BASE.shape)).explain(
        volumes(), "frozen_gate", check="steering"
    ).checks[0]  # fmt: skip
    assert row[-1].name == "attention steering"
    assert row[-1].value == pytest.approx(0, abs=1e-6)


# -- on request ----------------------------------------------------------------------------
def test_further_checks_are_made_on_request_only_and_by_their_names():
    explainer = Explainer(vit(), (1, 8, 6, 15))
    x = torch.randn(3, 1, 8, 6, 15, generator=torch.Generator().manual_seed(0))
    plain = [c.name for c in explainer.explain(x, "frozen_gate").checks[0]]
    every = [c.name for c in explainer.explain(x, "frozen_gate", check="all").checks[0]]
    # What a further check measures again takes the place of what was told without a pass.
    assert plain[-1] == "invisible patches" and every[: len(plain) - 1] == plain[:-1]
    assert sorted(every[len(plain) - 1 :]) == sorted(
        ["float64 agreement", "jitter", "class-blind", "amplitude blindness", "invisible patches",
         "attention steering", "batch dependence", "input-blind"]
    )  # fmt: skip
    assert len(CHECKS) == 9  # "beside the tokens" is there already, told by frozen gates
    with pytest.raises(InputError, match="there is no check 'beauty'"):
        explainer.explain(x, check="beauty")


def test_checks_of_a_result_are_those_of_explaining():
    explainer = Explainer(vit(), (1, 8, 6, 15))
    x = torch.randn(3, 1, 8, 6, 15, generator=torch.Generator().manual_seed(0))
    options = {"target": ["predicted", 0], "weighting": ["mean", "abs"]}
    result = explainer.explain(x, ["token_gradcam", "frozen_gate"], check="all", **options)
    for one in result.values():
        rows = explainer.check(x, one)
        for mine, row in zip(rows, one.checks, strict=True):
            theirs = {c.name: c.value for c in row}  # among them what is told by frozen gates
            assert len(theirs) == len(row) and len(mine) == len(CHECKS) - (
                one.method == "token_gradcam"
            )
            assert [c.value for c in mine] == pytest.approx(
                [theirs[c.name] for c in mine], rel=1e-4, abs=1e-6, nan_ok=True
            )


def test_the_user_s_mask_says_what_is_brain():
    recipe = BASE
    model = drifted(type(recipe)(0, classes=3, patch_norm=True))
    explainer = Explainer(model, (1, *recipe.shape))
    x = volumes()
    x[:, :, :4, :4, :] = 7.0  # three constant patches, not of the commonest value's volume share
    result = explainer.explain(x, "frozen_gate")
    everywhere = explainer.check(x, result, "invisible", brain=torch.ones(1, *recipe.shape))
    assert everywhere[0][0].value == pytest.approx(3 / 27)
    part = torch.zeros(1, *recipe.shape)
    part[:, :4, :4, :] = 1
    assert explainer.check(x, result, "invisible", brain=part)[0][0].verdict == "fail"
    part[:, 4:8, :4, :] = 1
    assert explainer.check(x, result, "invisible", brain=part)[0][0].value == pytest.approx(0.5)
    guessed = explainer.check(x, result, "invisible")[0][0]
    assert guessed.value == pytest.approx(0)  # background
    assert "3 of 27 patches are constant, all of one value" in guessed.sentence
    assert "The model sees the patches of this volume that are not background" in guessed.sentence
    assert "background" not in explainer.check(volumes(), result, "invisible")[0][0].sentence


@pytest.mark.parametrize("methods", [["token_gradcam"], ["frozen_gate", "shift_weighted_signed"]])
def test_constant_patches_are_told_of_in_every_map_where_patches_are_normalised(methods):
    recipe = BASE
    x = volumes()
    x[0, :, :4, :4, :4], x[0, :, 4:8, :4, :4], x[0, :, 8:, :4, :4] = 7.0, 7.0, 3.0
    x[1, :, :4, :4, :4] = 7.0 + 1e-3 * torch.randn(1, 4, 4, 4)  # below the normalisation's eps
    for patch_norm, expected in ((True, [1 / 25, 1 / 27, 0]), (False, None)):
        model = drifted(type(recipe)(0, classes=3, patch_norm=patch_norm))
        explainer = Explainer(model, (1, *recipe.shape))
        assert (explainer.geometry.patch_guard is None) == (expected is None)
        for result in explainer.explain(x, methods).values():
            told = [[c for c in row if c.name == "invisible patches"] for row in result.checks]
            if expected is None:
                assert not any(told)
            else:
                assert [one.value for (one,) in told[:3]] == pytest.approx(expected)
                assert "2 of 27 patches are constant" in told[0][0].sentence
    assert explainer.geometry.patch_size == (4, 4, 4)


def test_what_a_normalisation_of_patches_hides_is_told_in_units_of_the_input():
    class Scaled(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor, self.inner = factor, vit()

        def forward(self, x):
            return self.inner(self.factor * x + 3)

    for factor in (1.0, 1e-3):
        guard = Explainer(Scaled(factor), (1, 8, 6, 15)).geometry.patch_guard
        assert guard == pytest.approx(1e-5**0.5 / factor, rel=1e-3)


def test_batch_dependence_is_the_change_by_the_volume_beside_it():
    model = vit()
    geometry = Explainer(model, (1, 8, 6, 15)).geometry
    x = torch.randn(1, 1, 8, 6, 15, generator=torch.Generator().manual_seed(0))
    good = batch_check(model, x, geometry)
    assert good.verdict == "pass" and good.value < 1e-5

    def leaning(volumes, share=0.01):
        z = model(volumes)
        return z + share * (z.flip(0) - z)  # a hundredth of the way to its neighbour's

    both = torch.cat([x, x.flip((2, 3, 4)), 2 * x.flip((2, 3, 4)) + x.std()])
    with torch.no_grad():
        alone, mirrored, companion = (model(one) for one in both.split(1))
    expected = 0.01 * (companion - alone).norm() / (mirrored - alone).norm()
    assert batch_check(leaning, x, geometry).value == pytest.approx(float(expected), rel=1e-3)
    assert batch_check(leaning, x, geometry).verdict == "warn"

    def single(volumes):
        if len(volumes) > 1:
            raise RuntimeError("one at a time")
        return model(volumes)

    assert "one volume at a time" in batch_check(single, x, geometry).sentence
