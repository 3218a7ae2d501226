"""Targets and scores against their definitions."""

from __future__ import annotations

import pytest
import torch

from g3dvit.errors import TargetError
from g3dvit.targets import choose, predicted, resolve_score, score_batch, split_targets

Z = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -0.5]])
ONE = torch.tensor([[0.7], [-0.2]])
NAMES = ("rest", "left", "right")


def values(target, logits=Z, score="logit", **more):
    targets, _ = split_targets(target, logits.shape[1])
    chosen = choose(targets, logits, **more)
    scores = score_batch(chosen, logits, score)
    total = (scores.weights * logits[:, None]).sum(-1) + scores.offsets
    torch.testing.assert_close(total, scores.values)
    return chosen, scores.values


def test_predicted_is_the_largest_of_each_volume():
    chosen, found = values("predicted")
    assert chosen == ((2,), (0,))
    assert found.tolist() == [[2.0], [3.0]]
    assert predicted(ONE) == (1, 0)


def test_classes_by_index_name_and_label():
    assert values(1)[1][:, 0].tolist() == [-1.0, 0.0]
    assert values("left", class_names=NAMES)[0] == ((1,), (1,))
    assert values(torch.tensor(2))[0] == ((2,), (2,))
    chosen, _ = values("label", labels=["right", 1], class_names=NAMES)
    assert chosen == ((2,), (1,))


def test_all_and_lists_are_several_and_tuples_are_contrasts():
    assert split_targets("all", 3) == ((0, 1, 2), True)
    assert split_targets("all", 1) == ((0, 1), True)
    assert split_targets([1], 3) == ((1,), True)
    chosen, found = values([(2, 0), "predicted", 1])
    assert chosen[1] == ((2, 0), 0, 1)
    torch.testing.assert_close(found[:, 0], Z[:, 2] - Z[:, 0])


@pytest.mark.parametrize("c", [0, 1, 2])
def test_log_odds_of_three_classes(c):
    z = Z.double().requires_grad_()
    others = [k for k in range(3) if k != c]
    y = z[:, c] - z[:, others].logsumexp(1)
    _, found = values(c, z.detach(), "log_odds")
    torch.testing.assert_close(found[:, 0], y)
    p = z.softmax(1)[:, c]
    torch.testing.assert_close(y, (p / (1 - p)).log())
    (gradient,) = torch.autograd.grad(y.sum(), z)
    scores = score_batch(((c,), (c,)), z.detach(), "log_odds")
    torch.testing.assert_close(scores.weights[:, 0], gradient)


def test_log_odds_of_two_classes_are_opposite_differences():
    _, found = values("all", Z[:, :2], "log_odds")
    torch.testing.assert_close(found[:, 0], Z[:, 0] - Z[:, 1])
    torch.testing.assert_close(found[:, 1], -found[:, 0])


@pytest.mark.parametrize("score", ["logit", "log_odds"])
def test_one_output_has_two_classes(score):
    _, found = values("all", ONE, score)
    torch.testing.assert_close(found, torch.cat([-ONE, ONE], 1))
    _, contrast = values((1, 0), ONE, score)
    torch.testing.assert_close(contrast, ONE * (2 if score == "logit" else 1))


def test_the_default_score():
    assert resolve_score(None, ["token_gradcam"]) == "logit"
    assert resolve_score(None, ["frozen_gate"]) == "log_odds"
    assert resolve_score(None, ["token_gradcam", "hirescam"]) == "log_odds"
    assert resolve_score("logit", ["frozen_gate"]) == "logit"


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (3, r"no class 3; this model has classes 0 to 2 \(rest, left, right\)"),
        (-1, "no class -1"),
        (True, "no class True"),
        (1.5, "no class 1.5"),
        ("up", "no class 'up'"),
        ((1, 1), "two different classes"),
        ((0, 1, 2), "a contrast is two classes"),
        ([], "empty list"),
        ("label", "needs `labels`"),
    ],
)
def test_impossible_targets_say_what_is_allowed(target, match):
    with pytest.raises(TargetError, match=match):
        values(target, class_names=NAMES)


def test_missing_labels_and_scores_are_named():
    with pytest.raises(TargetError, match="1 have none, the first is volume 1"):
        values("label", labels=[1, None])
    with pytest.raises(TargetError, match="3 `labels` were given for 2 volumes"):
        values("label", labels=[1, 0, 1])
    with pytest.raises(TargetError, match="no score 'likelihood'"):
        resolve_score("likelihood", [])
