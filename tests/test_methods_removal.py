"""Taking patches away: against doing it by hand, additive models, and where it must refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from g3dvit.benchmark.removal import single_removal
from g3dvit.benchmark.vit3d import embed
from g3dvit.errors import MethodError
from g3dvit.explain import Explainer
from g3dvit.methods import rise
from gallery import GALLERY, SHAPE, Patches, TinyViT, seeded
from test_methods import REFERENCES, X, drifted, vit


@pytest.fixture(scope="module")
def plain():
    return Explainer(drifted(seeded(TinyViT)()), (1, *SHAPE))


@pytest.fixture(scope="module")
def normed():
    """Its patch embedding begins with a layer normalisation of the voxels."""
    return Explainer(vit(pool="mean"), (1, *SHAPE))


def patch_slices(number):
    i, j, k = number // 15, number // 5 % 3, number % 5
    return slice(4 * i, 4 * i + 4), slice(2 * j, 2 * j + 2), slice(3 * k, 3 * k + 3)


def log_odds(z, c):
    others = torch.cat([z[:, :c], z[:, c + 1 :]], 1)
    return z[:, c] - others.logsumexp(1)


@torch.no_grad()
def test_token_removal_equals_rows_left_out_by_hand(normed):
    model = normed.model
    found = normed.explain(X, "token_removal", target=[0, (2, 1)], score="log_odds").relevance
    for n in range(3):
        patches = model.to_patch_embedding(X[n : n + 1])
        tokens = torch.cat([model.cls_token, patches], 1)
        tokens = tokens + model.pos_embedding

        def y(t):
            z = model.mlp_head(model.transformer(t).mean(1))
            return torch.stack([log_odds(z, 0), z[:, 2] - z[:, 1]], 1)[0]

        for p in range(30):
            expected = y(tokens) - y(torch.cat([tokens[:, : 1 + p], tokens[:, 2 + p :]], 1))
            torch.testing.assert_close(
                found[n].flatten(1)[:, p], expected, rtol=1e-3, atol=1e-6, msg=f"patch {p}"
            )


def test_token_removal_equals_the_benchmark_s_own(normed):
    found = normed.explain(X, "token_removal", target=1).relevance
    with torch.no_grad():
        tokens = embed(normed.model, X)
    for n in range(3):
        expected = single_removal(normed.model, tokens[n], 1, torch.arange(30).numpy())
        torch.testing.assert_close(
            found[n].flatten().double(), torch.as_tensor(expected), rtol=1e-3, atol=1e-6
        )


class Additive(nn.Module):
    """Each patch adds a term of its own to the class values."""

    def __init__(self):
        super().__init__()
        self.patches, self.place = Patches(), nn.Parameter(torch.randn(1, 30, 24))
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 3)

    def terms(self, x):
        return self.head(self.norm(self.patches(x) + self.place).tanh()) - self.head.bias

    def forward(self, x):
        tokens = self.norm(self.patches(x) + self.place).tanh()
        return self.head(tokens.sum(1))


@torch.no_grad()
def test_on_an_additive_model_each_patch_has_its_own_term():
    model = seeded(Additive)()
    explainer = Explainer(model, (1, *SHAPE))
    terms = model.terms(X)[:, :, 2]
    found = explainer.explain(X, "token_removal", target=2, score="logit")
    torch.testing.assert_close(found.relevance.flatten(1), terms, rtol=1e-4, atol=1e-5)
    there = model.terms(REFERENCES)[:, :, 2].mean(0)
    swapped = explainer.explain(X, "occlusion", target=2, score="logit", references=REFERENCES)
    torch.testing.assert_close(swapped.relevance.flatten(1), terms - there, rtol=1e-4, atol=1e-5)
    # RISE: with p kept its term is there always, not half of the time; the others a little less.
    drawn = explainer.explain(X, "rise", target=2, score="logit", samples=4000).relevance
    expected = (terms - terms.mean(1, keepdim=True)) / 2 * 30 / 29
    assert (drawn.flatten(1) - expected).std() < 0.15 * expected.std()


@torch.no_grad()
@pytest.mark.parametrize("name", ["class token first", "no channel axis, permuted inside"])
def test_occlusion_equals_patches_swapped_by_hand(name):
    piece = GALLERY[name]
    model = drifted(piece.build())
    x, references = (t.reshape(-1, *piece.input_shape) for t in (X[:2], REFERENCES))
    found = Explainer(model, piece.input_shape).explain(
        x, "occlusion", target=1, references=references
    )
    for n in range(2):
        for p in (0, 7, 29):
            total = 0.0
            for r in range(2):
                swapped = x[n : n + 1].clone()
                place = (..., *patch_slices(p))
                swapped[place] = references[r][place]
                total += float(log_odds(model(swapped), 1)[0]) / 2
            expected = float(log_odds(model(x[n : n + 1]), 1)[0]) - total
            assert float(found.relevance[n].flatten()[p]) == pytest.approx(expected, abs=1e-5)


def test_constant_fills_are_refused_where_they_are_all_the_same(plain, normed):
    constant = torch.zeros(1, 1, *SHAPE)
    with pytest.raises(MethodError, match=r"every constant is one and the same"):
        normed.explain(X, "occlusion", references=constant)
    with pytest.raises(MethodError, match="`occlusion` compares with real volumes"):
        normed.explain(X, "occlusion")
    seen = plain.explain(X, "occlusion", references=constant)
    other = plain.explain(X, "occlusion", references=constant + 1)
    assert not torch.allclose(seen.relevance, other.relevance, rtol=1e-2)


def test_a_model_whose_tokens_cannot_be_taken_out_is_refused_but_can_be_occluded():
    explainer = Explainer(GALLERY["flattening head"].build(), (1, *SHAPE))
    for method in ("token_removal", "rise"):
        with pytest.raises(MethodError, match=r"cannot be taken out.*'occlusion'"):
            explainer.explain(X, method)
    found = explainer.explain(X, "occlusion", references=REFERENCES)
    assert found.relevance.abs().max() > 0


def test_rise_keeps_every_patch_equally_often_and_tells_its_error():
    asked = []

    def score(keep):
        asked.append(keep)
        return keep[:, :3].float().sum(1)[None]

    relevance, error = rise(score, 9, samples=41, seed=2)
    (keep,) = asked
    assert keep.shape == (42, 9) and (keep.sum(0) == 21).all()
    by_hand = torch.stack([score(keep)[0][keep[:, p]].mean() for p in range(9)]) - 1.5
    torch.testing.assert_close(relevance[0], by_hand)
    runs = torch.stack([rise(score, 9, samples=40, seed=s)[0][0] for s in range(300)])
    torch.testing.assert_close(runs.std(0).mean(), error[0].mean(), rtol=0.2, atol=0)


def test_rise_says_when_its_map_is_noise(plain):
    few = plain.explain(X, "rise", samples=4)
    many = plain.explain(X, "rise", samples=2000)
    assert [c.name for c in few.checks[0]][:2] == ["removal", "draws"]
    assert few.checks[0][1].verdict == "fail"
    assert many.checks[0][1].verdict == "pass"
    other = plain.explain(X, "rise", samples=4, seed=1)
    assert not torch.allclose(few.relevance, other.relevance)


def test_progress_is_told_after_every_volume(plain):
    done = []
    plain.explain(X, "token_removal", progress=lambda n, total: done.append((n, total)))
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_scores_may_be_functions(plain):
    own = plain.explain(X, ["token_removal", "rise"], score=lambda z: z[:, 1] - z[:, 0])
    named = plain.explain(X, ["token_removal", "rise"], score="logit", target=(1, 0))
    for name in own:
        torch.testing.assert_close(own[name].relevance, named[name].relevance)


def test_a_map_without_any_change_fails():
    model = TinyViT()
    with torch.no_grad():
        model.head.weight.zero_()
    result = Explainer(model.eval(), (1, *SHAPE)).explain(X, "token_removal", score="logit")
    assert result.checks[0][0].verdict == "fail"
