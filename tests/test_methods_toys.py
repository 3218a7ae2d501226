"""Every method on models whose answer is known: linear, and blind to half of the patches.

Each row of the table has its place in each test, or a reason why not; a new row must be given one.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from g3dvit.errors import LayerError, MethodError
from g3dvit.explain import Explainer
from g3dvit.methods import METHODS
from gallery import SHAPE, Attention, Block, Patches, TinyViT, seeded
from test_methods import ARGUMENTS, REFERENCES, X, drifted


class LinearToy(nn.Module):
    """Each patch adds ``w . x`` of its own to each class value."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm, self.head = Patches(), nn.Identity(), nn.Linear(24, 3)
        self.place = nn.Parameter(torch.randn(1, 30, 1))

    def forward(self, x):
        return self.head(self.norm(self.patches(x) * self.place).sum(1))

    def terms(self, x, c):
        """(batch, patches): what each patch adds to a class value."""
        return (self.patches(x) * self.place) @ self.head.weight[c]


#: What each patch adds: R_p = w_p . x_p.
OWN_TERM: dict[str, dict] = {
    "cam": {},
    "frozen_gate": {},
    "frozen_gate_noise": {"noise": 0.0, "samples": 1},
    "frozen_gate_gamma": {"gamma": 0.0},
    "gradient_x_input": {},
    "token_removal": {},
}
#: The same, by the function: such a layer, of uniform gradients, is refused when it is named.
OF_A_LAYER = ("hirescam", "gradcam", "xgradcam")
#: The same less that of the references.
FROM_REFERENCES = {
    "integrated_gradients": {},
    "expected_gradients": {"samples": 6},
    "occlusion": {},
}
NO_TERM = {
    "token_gradcam": "one weight per token, not per feature",
    "layercam": "leaves out negative gradients",
    "gradcam_plus_plus": "leaves out negative gradients",
    "eigencam": "knows no score",
    "hirescam_blocks": "there is no block",
    "smoothgrad": "gives the slope: tested in test_methods_gradients",
    "attention_rollout": "there is no attention",
    "gradient_rollout": "there is no attention",
    "agcam": "there is no attention",
    "legrad": "there is no attention",
    "rise": "has random draws: tested in test_methods_removal",
    "shift_averaged": "is of shifted inputs, and only what speaks for the class",
    "shift_averaged_gamma": "as shift_averaged",
    "shift_averaged_local": "as shift_averaged",
    "shift_weighted": "as shift_averaged",
    "shift_weighted_signed": "as shift_averaged",
    "shift_weighted_local": "as shift_averaged",
}


def linear_toy():
    model = seeded(LinearToy)()
    return model, Explainer(model, (1, *SHAPE))


def test_every_method_has_its_place_in_the_linear_toy():
    assert sorted([*OWN_TERM, *OF_A_LAYER, *FROM_REFERENCES, *NO_TERM]) == sorted(METHODS)


@pytest.mark.parametrize("name", OWN_TERM)
@torch.no_grad()
def test_on_a_linear_model_each_patch_has_its_own_term(name):
    model, explainer = linear_toy()
    found = explainer.explain(X, name, target=2, score="logit", **OWN_TERM[name])
    torch.testing.assert_close(found.relevance.flatten(1), model.terms(X, 2), rtol=1e-4, atol=1e-5)
    both = explainer.explain(X, name, target=(2, 0), score="logit", **OWN_TERM[name])
    expected = model.terms(X, 2) - model.terms(X, 0)
    torch.testing.assert_close(both.relevance.flatten(1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_A_LAYER)
@torch.no_grad()
def test_at_tokens_that_add_up_linearly_each_patch_has_its_own_term(name):
    model, explainer = linear_toy()
    tokens = model.patches(X) * model.place
    slope = model.head.weight[2].expand(tokens.shape)
    found = METHODS[name].function(tokens, slope)
    torch.testing.assert_close(found, model.terms(X, 2), rtol=1e-4, atol=1e-5)
    with pytest.raises(LayerError, match="is the same for all its patch tokens"):
        explainer.explain(X, name, target_layer="norm")


@pytest.mark.parametrize("name", FROM_REFERENCES)
@torch.no_grad()
def test_on_a_linear_model_each_patch_has_the_change_of_its_term(name):
    model, explainer = linear_toy()
    found = explainer.explain(
        X, name, target=1, score="logit", references=REFERENCES, **FROM_REFERENCES[name]
    )
    expected = model.terms(X, 1) - model.terms(REFERENCES, 1).mean(0)
    torch.testing.assert_close(found.relevance.flatten(1), expected, rtol=1e-4, atol=1e-5)


# -- blind to half of the patches ------------------------------------------------------------
GROUP = torch.arange(31) > 15  # the class token and the first 15 patches, and the others


class WithinGroups(Attention):
    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.to_qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        group = GROUP if t == 31 else self.groups
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group[:, None] == group[None, :])
        return self.to_out(out.transpose(1, 2).reshape(b, t, d))


def blind():
    """The head reads the class token, and that sees 15 of the patches in every block."""

    def block(dim):
        made = Block(dim)
        made.attention = WithinGroups(dim)
        return made

    model = drifted(seeded(lambda: TinyViT(block=block))())
    return Explainer(model, (1, *SHAPE))


REFUSED = {
    "cam": "the head reads the class token",
}
NOT_BLIND = {
    "rise": "has random draws",
    "shift_averaged": "is of shifted inputs, in which others lie there",
    "shift_averaged_gamma": "as shift_averaged",
    "shift_averaged_local": "as shift_averaged",
    "shift_weighted": "as shift_averaged",
    "shift_weighted_signed": "as shift_averaged",
    "shift_weighted_local": "as shift_averaged",
    "legrad": "counts the gradient of attention that is not paid",
    "gradcam": "has one direction in feature space for all places",
    "xgradcam": "has one direction in feature space for all places",
    "gradcam_plus_plus": "has one direction in feature space for all places",
    "eigencam": "knows no score",
}


@pytest.mark.parametrize("name", [n for n in METHODS if n not in REFUSED | NOT_BLIND])
def test_patches_that_the_model_does_not_look_at_get_nothing(name):
    result = blind().explain(X, name, target=1, **ARGUMENTS.get(name, {}))
    # The position of a patch that is not looked at has no share either.
    seen, unseen = result.relevance.flatten(1).abs().split([15, 15], dim=1)
    assert float(unseen.max()) <= 1e-5 * float(seen.max())
    assert float(seen.min()) > 1e-4 * float(seen.max())


@pytest.mark.parametrize(
    "name", [n for n in NOT_BLIND if METHODS[n].source in ("layer", "attention")]
)
def test_some_methods_show_what_the_model_cannot_look_at(name):
    result = blind().explain(X, name, target=1)
    seen, unseen = result.relevance.flatten(1).abs().split([15, 15], dim=1)
    assert float(unseen.mean()) > 0.1 * float(seen.mean())


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_apply_to_it_is_refused(name):
    with pytest.raises(MethodError):
        blind().explain(X, name)
