"""Models that fold, merge or turn their tokens on the way: what is listed, and what is told."""

from __future__ import annotations

import pytest
import torch

from folded_models import (
    MERGING_SHAPE,
    FirstPatch,
    KernelWithoutBackward,
    Merging,
    Nested,
    divided,
    query_key_norms,
    turning,
)
from g3dvit.errors import GeometryError, MethodError
from g3dvit.explain import Explainer
from g3dvit.probe import probe_geometry
from gallery import GALLERY, SHAPE, TinyViT, seeded
from test_methods import drifted


def probed(build, shape=SHAPE):
    return probe_geometry(seeded(build)(), (1, *shape))


@pytest.mark.parametrize(
    ("build", "shape", "default", "behind"),
    [(divided, SHAPE, "blocks.0.norm", 8), (Merging, MERGING_SHAPE, "early.1.norm2", 5)],
)
def test_readers_are_told_of_normalisations_behind_the_last_one(build, shape, default, behind):
    geometry = probed(build, shape)
    assert geometry.default_layer == default
    (told,) = geometry.cautions
    assert f"{default!r} is not the last normalisation" in told and f"{behind} behind it" in told
    assert told in geometry.notes


def test_readers_are_told_of_pieces_smaller_than_the_tokens():
    geometry = probed(Nested)
    assert (geometry.grid_shape, geometry.patch_size) == ((1, 1, 5), (8, 6, 3))
    assert any("smaller pieces before it makes these 5 tokens" in c for c in geometry.cautions)


@pytest.mark.parametrize("name", GALLERY)
def test_nothing_of_this_is_told_of_plain_models(name):
    piece = GALLERY[name]
    told = " ".join(probe_geometry(piece.build(), piece.input_shape).cautions)
    assert "last normalisation" not in told and "smaller pieces" not in told
    assert "single patch" not in told


def test_a_patch_that_is_read_as_a_class_token():
    geometry = probed(FirstPatch)
    states = [layer.status for layer in geometry.layers]
    assert states == ["alive", "alive", "alive", "dead", "dead"]
    assert geometry.default_layer == "blocks.1.norm1"
    assert any("token of one single patch" in c for c in geometry.cautions)
    explainer = Explainer(drifted(seeded(FirstPatch)()), geometry=geometry)
    found = explainer.explain(torch.randn(2, 1, *SHAPE), "hirescam")
    assert (found.relevance != 0).all()


@pytest.mark.parametrize("turned", [(False, True), (True, False), (False, True, False)])
def test_layers_that_see_the_tokens_turned_are_not_listed(turned):
    model = seeded(lambda: turning(*turned))()
    geometry = probe_geometry(model, (1, *SHAPE))
    order = torch.tensor(geometry.token_order)
    reverse = not torch.equal(order, torch.arange(30))
    assert torch.equal(order, torch.arange(30).flip(0) if reverse else torch.arange(30))
    assert reverse == turned[0]  # the last place where tokens are unmixed
    for n, one in enumerate(turned):
        listed = geometry.layer(f"blocks.{n}.norm2") is not None
        assert listed == (one == turned[0]), (n, geometry)
    assert (geometry.layer("norm") is None) == turned[0]
    assert any("number or order of tokens" in note for note in geometry.notes)


@pytest.mark.parametrize("turned", [(False, True), (True, False)])
def test_maps_of_a_model_that_turns_its_tokens_are_in_the_right_place(turned):
    model = drifted(seeded(lambda: turning(*turned))())
    explainer = Explainer(model, (1, *SHAPE))
    x = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert explainer.geometry.alive_layers
    for name in explainer.geometry.alive_layers:
        kept = []
        layer = model.get_submodule(name)
        handle = layer.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out))
        score = model.eval()(x.requires_grad_())[:, 0].sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept)
        tokens = (gradient * kept[0]).sum(2).detach()
        by_hand = tokens.flip(1) if name.startswith("blocks.") and turned[0] else tokens
        found = explainer.explain(
            x.detach(), "hirescam", target=0, score="logit", target_layer=name
        )
        torch.testing.assert_close(found.relevance.flatten(1), by_hand, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["hirescam_blocks", "cam", "attention_rollout", "gradient_rollout", "agcam", "legrad"]
)
def test_methods_that_need_one_order_are_refused_where_tokens_are_turned(method):
    x = torch.randn(2, 1, *SHAPE)
    for turned in ((False, True), (True, False)):
        explainer = Explainer(seeded(lambda turned=turned: turning(*turned))(), (1, *SHAPE))
        with pytest.raises(MethodError, match="this model turns or sorts them on the way"):
            explainer.explain(x, method)


def test_orders_are_found_beside_class_token_and_registers():
    geometry = probed(lambda: TinyViT(before=3, after=2, depth=4, pool="both"))
    assert len(geometry.layers) == 9


def test_a_kernel_without_backward_is_named_and_not_the_shape():
    with pytest.raises(GeometryError, match="runs on cpu, but not with gradients") as caught:
        probed(KernelWithoutBackward)
    assert "no backward on this device" in str(caught.value)
    assert "input_shape" not in str(caught.value)


@pytest.mark.parametrize("fused", [True, False])
def test_normalisations_of_queries_and_keys_are_not_listed(fused):
    geometry = probed(lambda: query_key_norms(fused=fused))
    names = [layer.name for layer in geometry.layers]
    assert names == [
        "blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm",
    ]  # fmt: skip
    assert geometry.default_layer == "blocks.1.norm1"
    assert any("4 normalisations of queries or keys" in note for note in geometry.notes)
    assert not geometry.cautions


@pytest.mark.parametrize("fused", [True, False])
def test_hirescam_blocks_reads_what_the_values_are_made_of(fused):
    model = drifted(seeded(lambda: query_key_norms(fused=fused))())
    explainer = Explainer(model, (1, *SHAPE))
    x = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    total = sum(
        explainer.explain(x, "hirescam", target=0, score="logit", target_layer=name).relevance
        for name in ("blocks.0.norm1", "blocks.1.norm1")
    )
    found = explainer.explain(x, "hirescam_blocks", target=0, score="logit")
    torch.testing.assert_close(found.relevance, total, rtol=1e-3, atol=1e-6)


def test_what_a_model_returns_beside_its_class_values_is_noted():
    geometry = probed(lambda: TinyViT(wrap=lambda z: (z, z @ torch.ones(3, 8))))
    assert any("returns 3 values and, beside them, 8" in note for note in geometry.notes)
