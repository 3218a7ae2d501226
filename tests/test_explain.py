"""The public surface: what may be asked for, what comes back, and what is refused."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

import g3dvit
from g3dvit.errors import InputError, LayerError, MethodError, TargetError
from g3dvit.explain import Explainer, Explanation
from gallery import GALLERY, GRID, SHAPE, TinyViT, seeded
from test_capture import fingerprint
from test_methods import drifted, vit

X = torch.randn(5, 1, *SHAPE, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def explainer():
    return Explainer(drifted(seeded(TinyViT)()), (1, *SHAPE), class_names=("a", "b", "c"))


def test_the_call_of_the_readme():
    explainer = g3dvit.Explainer(vit(), input_shape=(1, *SHAPE))
    result = explainer.explain(
        X, method="token_gradcam", weighting="mean", target=1, target_layer=None, batch_size=None
    )
    assert isinstance(result, g3dvit.Explanation)
    assert result.relevance.shape == (5, *GRID) and result.relevance.dtype == torch.float32
    assert result.patch_weights.shape == result.token_sum.shape == (5, *GRID)
    assert result.logits.shape == (5, 3) and result.scores.shape == (5,)
    assert result.target_layer == "transformer.layers.1.0.norm"
    torch.testing.assert_close(result.scores, result.logits[:, 1])
    torch.testing.assert_close(result.patch_weights * result.token_sum, result.relevance)
    assert not result.relevance.requires_grad and result.relevance.device.type == "cpu"


def test_defaults_are_token_gradcam_of_the_predicted_class(explainer):
    result = explainer.explain(X)
    assert (result.method, result.score, result.weightings) == ("token_gradcam", "logit", ("mean",))
    assert list(result.target) == result.logits.argmax(1).tolist()
    assert result.units == "logit"
    assert len(result) == 5 and "relevance" not in repr(result)


def test_axes_appear_only_where_several_are_asked_for(explainer):
    single = explainer.explain(X)
    some = explainer.explain(X, target=["predicted", (0, 1)], weighting=["max", "mean"])
    assert some.relevance.shape == (5, 2, 2, *GRID)
    assert some.scores.shape == (5, 2)
    assert some.target[0] == (single.target[0], (0, 1))
    assert some.targets == ("predicted", (0, 1)) and some.weightings == ("max", "mean")
    torch.testing.assert_close(some.relevance[:, 0, 1], single.relevance)
    only = explainer.explain(X, target=[1], weighting=["abs"])
    assert only.relevance.shape == (5, 1, 1, *GRID)
    assert explainer.explain(X, weighting="all").relevance.shape == (5, 4, *GRID)
    assert explainer.explain(X, target="all").relevance.shape == (5, 3, *GRID)


def test_contrasts_are_differences_of_classes_for_signed_linear_methods(explainer):
    every = explainer.explain(X, "frozen_gate", target=[0, 2, (0, 2)], score="logit")
    for name in ("relevance", "voxel_relevance", "content", "position", "prefix", "bias"):
        values = getattr(every, name)
        torch.testing.assert_close(
            values[:, 2], values[:, 0] - values[:, 1], rtol=1e-3, atol=1e-5, msg=name
        )


def test_a_string_gives_one_result_and_a_sequence_a_mapping(explainer):
    found = explainer.explain(X, ["frozen_gate"])
    assert set(found) == {"frozen_gate"} and isinstance(found["frozen_gate"], Explanation)
    both = explainer.explain(X, method=["token_gradcam", "frozen_gate"])
    assert list(both) == ["token_gradcam", "frozen_gate"]
    assert both["token_gradcam"].score == both["frozen_gate"].score == "log_odds"
    assert both["frozen_gate"].voxel_relevance.shape == (5, *SHAPE)
    assert both["frozen_gate"].target_layer is None
    assert both["token_gradcam"].voxel_relevance is None
    torch.testing.assert_close(
        both["token_gradcam"].relevance, explainer.explain(X, score="log_odds").relevance
    )


def test_one_forward_pass_serves_all_targets_and_weightings():
    model = drifted(seeded(TinyViT)())
    explainer = Explainer(model, (1, *SHAPE))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    explainer.explain(X, ["token_gradcam", "hirescam"], target="all", weighting="all")
    assert len(calls) == 1
    explainer.explain(X, "frozen_gate", target="all")
    assert len(calls) == 2
    explainer.explain(X, batch_size=2)
    assert len(calls) == 5


def test_volumes_come_as_tensors_arrays_and_lists_in_any_batches(explainer):
    expected = explainer.explain(X, target=0).relevance
    array = X.numpy()
    array.setflags(write=False)
    for given in (array, array.astype(np.float64), list(array)):
        for size in (1, 3, 100):
            found = explainer.explain(given, target=0, batch_size=size).relevance
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_progress_counts_volumes(explainer):
    seen = []
    explainer.explain(X, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_labels_choose_the_class_of_each_volume(explainer):
    labels = ["a", "c", 1, 0, "b"]
    result = explainer.explain(X, target="label", labels=labels, batch_size=2)
    assert result.target == (0, 2, 1, 0, 1)
    every = explainer.explain(X, target="all")
    for n, c in enumerate(result.target):
        torch.testing.assert_close(result.relevance[n], every.relevance[n, c])
    assert explainer.explain(X, target="b").target == (1,) * 5


def test_names_and_shape_come_from_the_description():
    model = drifted(seeded(TinyViT)())
    model.description = types.SimpleNamespace(input_shape=(1, *SHAPE), class_names=("x", "y", "z"))
    assert Explainer(model).explain(X, target="z").target == (2,) * 5


def test_one_output_explains_two_opposite_classes():
    model = drifted(seeded(lambda: TinyViT(outputs=1))())
    result = Explainer(model, (1, *SHAPE)).explain(X, target="all", weighting="mean")
    torch.testing.assert_close(result.relevance[:, 0], -result.relevance[:, 1])
    torch.testing.assert_close(result.scores[:, 1], result.logits[:, 0])


@pytest.mark.parametrize("name", ["no channel axis, permuted inside", "shuffled tokens"])
def test_relevance_is_in_the_order_of_the_input(name):
    """A block of strong texture changes the map where it stands.

    Frozen-gate maps are held against their own voxels in ``test_frozen_gate``.
    """
    piece = GALLERY[name]
    model = drifted(piece.build())
    explainer = Explainer(model, piece.input_shape)
    x = 0.01 * torch.randn(1, *piece.input_shape, generator=torch.Generator().manual_seed(2))
    block = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(3))
    calm = explainer.explain(x, "hirescam", target=(0, 1)).relevance
    for g in [(0, 0, 0), (1, 2, 0), (0, 1, 4)]:
        loud = x.clone()
        corner = tuple(slice(p * n, p * n + p) for n, p in zip(g, (4, 2, 3), strict=True))
        loud[(..., *corner)] = 3 * block
        change = (explainer.explain(loud, "hirescam", target=(0, 1)).relevance - calm).abs()[0]
        assert np.unravel_index(int(change.argmax()), GRID) == g


# -- what is refused -----------------------------------------------------------------------
BAD = {
    "no axis of volumes": (X[0], r"add the axis of volumes: x\[None\]"),
    "another shape": (X[..., :-1], r"must have the shape \(volumes, 1, 8, 6, 15\)"),
    "no volume": (X[:0], "holds no volume"),
    "not finite": (
        torch.where(torch.arange(15) == 3, torch.nan, X),
        "volume 0 of `x` has 48 values that are not finite",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_volumes_that_cannot_be_used(explainer, name):
    x, match = BAD[name]
    with pytest.raises(InputError, match=match):
        explainer.explain(x)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "tokengradcam"}, MethodError, "did you mean 'token_gradcam'"),
        ({"method": []}, MethodError, "`method` is empty"),
        ({"weighting": "men"}, MethodError, "did you mean 'mean'"),
        ({"weighting": []}, MethodError, "no weighting"),
        ({"method": "hirescam", "weighting": "max"}, MethodError, "means nothing to hirescam"),
        (
            {"method": "frozen_gate", "target_layer": "norm"},
            MethodError,
            "`target_layer` means nothing to frozen_gate; methods that take it: token_gradcam",
        ),
        ({"target": 7}, TargetError, "no class 7"),
        ({"target": "label"}, TargetError, "needs `labels`"),
        ({"labels": [0]}, InputError, "1 `labels` were given for 5 volumes"),
        ({"score": "likelihood"}, TargetError, "no score 'likelihood'"),
        ({"batch_size": 0}, InputError, "positive integer, was given 0"),
        ({"batch_size": "a"}, InputError, "positive integer, was given 'a'"),
        ({"batch_size": float("inf")}, InputError, "positive integer, was given inf"),
        ({"check": "colour"}, InputError, "no check 'colour'"),
        ({"check": None}, InputError, "no check None"),
        ({"method": None}, MethodError, "no method None"),
        ({"method": 3}, MethodError, "no method 3"),
        *(
            ({"method": "frozen_gate_gamma", "gamma": gamma}, MethodError, "`gamma` takes a finite")
            for gamma in ("a", float("inf"), float("nan"), -1)
        ),
        *(
            ({"method": "smoothgrad", "noise": noise}, MethodError, "`noise` takes a finite")
            for noise in ("a", float("inf"), float("nan"), -1, None)
        ),
        *(
            ({"method": "smoothgrad", "seed": seed}, MethodError, "`seed` takes an integer from 0")
            for seed in (-1, 1.5, "a", None)
        ),
        ({"method": "shift_averaged", "shifts": None}, MethodError, "`shifts` takes a positive"),
    ],
)
def test_requests_that_cannot_be_met(explainer, options, error, match):
    with pytest.raises(error, match=match):
        explainer.explain(X, **options)


def test_grad_cam_plus_plus_goes_by_the_name_of_its_paper_too(explainer):
    own = explainer.explain(X, "gradcam_plus_plus")
    other = explainer.explain(X, "gradcam++")
    assert other.method == "gradcam_plus_plus"
    torch.testing.assert_close(own.relevance, other.relevance, rtol=0, atol=0)
    found = explainer.explain(X, ["gradcam++", "hirescam", "gradcam_plus_plus"])
    assert list(found) == ["gradcam_plus_plus", "hirescam"]
    assert found["gradcam++"] is found["gradcam_plus_plus"]
    with pytest.raises(KeyError, match="gradcam"):
        found["gradcam"]


def test_an_argument_of_one_of_several_methods_is_fine(explainer):
    found = explainer.explain(X, ["token_gradcam", "frozen_gate"], weighting="max")
    assert found["token_gradcam"].weightings == ("max",)
    assert found["frozen_gate"].weightings == ()


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("blocks.1.norm2", "gradient does not reach its patch tokens.* work: blocks.0.norm1"),
        ("blocks.1.nrm1", r"no layer 'blocks.1.nrm1' \(did you mean 'blocks.1.norm1'\?\)"),
        ("blocks.1.mlp.0", "gradient does not reach its patch tokens"),
        ("blocks.1.mlp", "gradient does not reach its patch tokens"),
        ("never_runs", "did not run"),
        ("head", "no axis of 31 or 30 tokens"),
    ],
)
def test_named_layers_that_say_nothing_are_refused(explainer, layer, match):
    with pytest.raises(LayerError, match=match):
        explainer.explain(X, target_layer=layer)


def test_uniform_layers_are_refused_when_named_and_only_then():
    explainer = Explainer(drifted(GALLERY["no prefix"].build()), (1, *SHAPE))
    with pytest.raises(LayerError, match="the same for all its patch tokens"):
        explainer.explain(X, target_layer="norm")
    assert explainer.explain(X).target_layer == "blocks.1.norm2"


def test_other_layers_of_the_model_may_be_named(explainer):
    result = explainer.explain(X, "hirescam", target_layer="blocks.0")
    assert result.target_layer == "blocks.0"
    assert result.relevance.abs().max() > 0


def test_a_map_that_is_empty_is_marked_and_not_refused():
    model = drifted(seeded(TinyViT)())
    with torch.no_grad():
        model.head.weight.zero_()
    explainer = Explainer(
        model, (1, *SHAPE), geometry=Explainer(seeded(TinyViT)(), (1, *SHAPE)).geometry
    )
    found = explainer.explain(X, ["token_gradcam", "hirescam", "frozen_gate"], check="float64")
    for result in found.values():
        assert g3dvit.diagnose.worst(result.checks[0]) == "fail"
        assert result.relevance.isfinite().all()


def test_the_wrong_device_is_refused():
    with pytest.raises(InputError, match="the model is on cpu and not on meta"):
        Explainer(seeded(TinyViT)(), (1, *SHAPE), device="meta")


# -- the model is a guest ------------------------------------------------------------------
class Interrupted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = drifted(seeded(TinyViT)())
        self.failure = None

    def forward(self, x):
        if self.failure is not None:
            raise self.failure
        return self.inner(x)


@pytest.mark.parametrize("failure", [None, ValueError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["token_gradcam", "frozen_gate"])
def test_the_model_is_untouched(failure, method):
    model = Interrupted().train()
    model.inner.blocks[0].eval()
    explainer = Explainer(model, (1, *SHAPE))
    model(X).sum().backward()
    before = fingerprint(model)
    model.failure = failure
    try:
        explainer.explain(X, method, check="float64")
    except BaseException as error:
        assert error is failure
    assert fingerprint(model) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", ["token_gradcam", "frozen_gate"])
def test_callers_inside_no_grad_and_inference_mode(mode, method):
    model = drifted(seeded(TinyViT)())
    expected = Explainer(model, (1, *SHAPE)).explain(X, method).relevance
    with mode():
        x = X.clone()
        found = Explainer(model, (1, *SHAPE)).explain(x, method).relevance
    torch.testing.assert_close(found.clone(), expected)


@pytest.mark.parametrize("wrap", [
    nn.DataParallel, lambda m: torch.compile(m, backend="eager"), lambda m: m.requires_grad_(False),
])  # fmt: skip
@pytest.mark.parametrize("method", ["token_gradcam", "frozen_gate"])
def test_wrapped_and_frozen_models(wrap, method):
    expected = Explainer(drifted(seeded(TinyViT)()), (1, *SHAPE)).explain(X, method)
    model = wrap(drifted(seeded(TinyViT)()))
    result = Explainer(model, (1, *SHAPE)).explain(X, method)
    torch.testing.assert_close(result.relevance, expected.relevance)
    assert result.target_layer == expected.target_layer
    if method == "token_gradcam":
        prefixed = Explainer(model, (1, *SHAPE)).explain(X, target_layer="_orig_mod.blocks.1.norm1")
        torch.testing.assert_close(prefixed.relevance, expected.relevance)
