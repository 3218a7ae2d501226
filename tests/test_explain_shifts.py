"""Shift-averaged maps as methods: against loops over frozen-gate maps, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from g3dvit.diagnose import check_against_unmoved, evidence_left
from g3dvit.errors import MethodError
from g3dvit.explain import Explainer
from g3dvit.methods import METHODS
from g3dvit.methods.shifting import choose_shifts
from gallery import GALLERY, SHAPE, TinyViT, seeded
from small_models import Recipe, draw, train
from test_methods import X, drifted

METHOD_OF = {"shift_averaged": "frozen_gate", "shift_averaged_gamma": "frozen_gate_gamma"}


@pytest.fixture(scope="module")
def explainer():
    return Explainer(drifted(seeded(TinyViT)()), (1, *SHAPE))


def moved(x, shift, axes):
    """Shift the content of an input, the nearest voxel coming in."""
    x = x.numpy()
    for axis, by in zip(axes, shift, strict=True):
        n = x.shape[axis]
        x = np.take(x, [min(max(p - by, 0), n - 1) for p in range(n)], axis=axis)
    return torch.from_numpy(x.copy())


def slow_map(explainer, x, name, shifts, target):
    """Average one volume (1, *input_shape) voxel by voxel, over maps that frozen gates give."""
    geometry = explainer.geometry
    axes, edges = [a + 1 for a in geometry.spatial_axes], geometry.patch_size
    shape = tuple(g * e for g, e in zip(geometry.grid_shape, edges, strict=True))
    gamma = {} if name == "shift_averaged" else {"gamma": 0.5}
    decided = explainer.explain(x, "frozen_gate", target=target).logits.argmax()
    total, seen, kept = np.zeros(shape), np.zeros(shape), 0
    for shift in shifts:
        found = explainer.explain(moved(x, shift, axes), METHOD_OF[name], target=target, **gamma)
        if found.logits.argmax() != decided:
            continue
        kept += 1
        patches, voxels = found.relevance[0].numpy(), found.voxel_relevance[0].numpy()
        for place in np.ndindex(*shape):
            there = tuple(p + s for p, s in zip(place, shift, strict=True))
            if not all(0 <= t < n for t, n in zip(there, shape, strict=True)):
                continue
            patch = tuple(t // e for t, e in zip(there, edges, strict=True))
            box = tuple(slice(p * e, (p + 1) * e) for p, e in zip(patch, edges, strict=True))
            seen[place] += 1
            if name == "shift_averaged":
                part = abs(voxels[there]) / np.abs(voxels[box]).sum()
                total[place] += max(patches[patch], 0) * part
            elif patches[patch] > 0:
                part = max(voxels[there], 0) / np.maximum(voxels[box], 0).sum()
                total[place] += patches[patch] * part
            else:
                total[place] += patches[patch] / np.prod(edges)
    return total / np.maximum(seen, 1), kept


@pytest.mark.parametrize("name", METHOD_OF)
@pytest.mark.parametrize(
    "piece",
    ["three channels", "channels last", "mirrored inside", "no channel axis, permuted inside"],
)
def test_it_equals_a_loop_over_frozen_gate_maps(name, piece):
    made = GALLERY[piece]
    explainer = Explainer(drifted(seeded(made.build)()), made.input_shape)
    x = torch.randn(2, *made.input_shape, generator=torch.Generator().manual_seed(4))
    found = explainer.explain(x, name, target=1, shifts=5)
    shifts = choose_shifts(5, explainer.geometry.patch_size)
    for n in range(2):
        expected, kept = slow_map(explainer, x[n : n + 1], name, shifts, 1)
        size = np.abs(expected).max()
        np.testing.assert_allclose(
            found.voxel_relevance[n].numpy() / size, expected / size, atol=2e-4
        )
        (check,) = (c for c in found.checks[n] if c.name == "kept shifts")
        assert check.value == kept / 5
    sums = torch.stack([explained_sums(explainer, v) for v in found.voxel_relevance])
    torch.testing.assert_close(found.relevance, sums, rtol=1e-5, atol=1e-6)
    assert found.relevance.dtype == found.voxel_relevance.dtype == torch.float32


def explained_sums(explainer, voxels):
    grid, edges = explainer.geometry.grid_shape, explainer.geometry.patch_size
    sums = torch.zeros(grid)
    for patch in np.ndindex(*grid):
        box = tuple(slice(p * e, (p + 1) * e) for p, e in zip(patch, edges, strict=True))
        sums[patch] = voxels[box].sum()
    return sums


@pytest.mark.parametrize("name", METHOD_OF)
def test_among_other_methods_and_for_several_targets_it_is_the_same(explainer, name):
    several = explainer.explain(X, [METHOD_OF[name], name], target=[0, 2], score="probability")
    assert several[name].voxel_relevance.shape == (3, 2, *SHAPE)
    for number, target in enumerate((0, 2)):
        alone = explainer.explain(X, name, target=target, score="probability")
        torch.testing.assert_close(
            several[name].voxel_relevance[:, number], alone.voxel_relevance, rtol=1e-3, atol=1e-7
        )


def test_the_unshifted_pass_is_shared(explainer):
    model, count = explainer.model, []
    handle = model.register_forward_pre_hook(lambda *a: count.append(len(a[1][0])))
    try:
        # nine shifts begin with none, eight do not have it
        for shifts, methods, passes in [
            (8, ["shift_averaged"], 1 + 8),
            (9, ["frozen_gate", "shift_averaged"], 1 + 8),
            (9, ["shift_averaged"], 1 + 9),
        ]:
            count.clear()
            explainer.explain(X, methods, shifts=shifts)
            assert len(count) == passes
    finally:
        handle.remove()


def test_only_the_rectified_map_is_never_negative(explainer):
    found = explainer.explain(X, list(METHOD_OF), target=0)
    assert (found["shift_averaged"].voxel_relevance >= 0).all()
    assert (found["shift_averaged_gamma"].voxel_relevance < 0).any()
    assert not METHODS["shift_averaged"].signed and METHODS["shift_averaged_gamma"].signed


def test_without_a_shift_the_sums_are_those_of_the_tokens(explainer):
    found = explainer.explain(X, ["frozen_gate", *METHOD_OF], target=0, shifts=1, gamma=0.5)
    gamma = explainer.explain(X, "frozen_gate_gamma", target=0, gamma=0.5)
    positive = found["frozen_gate"].relevance.clamp_min(0)
    torch.testing.assert_close(found["shift_averaged"].relevance, positive, rtol=1e-4, atol=1e-6)
    signed = found["shift_averaged_gamma"].relevance
    torch.testing.assert_close(signed, gamma.relevance, rtol=1e-4, atol=1e-6)


def test_gamma_is_the_methods_own_unless_told(explainer):
    own = explainer.explain(X, ["frozen_gate_gamma", "shift_averaged_gamma"], shifts=2)
    told = explainer.explain(X, "shift_averaged_gamma", shifts=2, gamma=0.5)
    other = explainer.explain(X, "shift_averaged_gamma", shifts=2, gamma=0.25)
    torch.testing.assert_close(own["shift_averaged_gamma"].relevance, told.relevance)
    assert not torch.allclose(told.relevance, other.relevance, rtol=1e-3)
    quarter = explainer.explain(X, "frozen_gate_gamma", gamma=0.25)
    torch.testing.assert_close(own["frozen_gate_gamma"].relevance, quarter.relevance)
    used = own["shift_averaged_gamma"].options.used(METHODS["shift_averaged_gamma"])
    assert used == {"shifts": 2, "gamma": 0.5}


class Fickle(torch.nn.Module):
    """Decides by whether the volume is the one that it knows."""

    def __init__(self, model, known):
        super().__init__()
        self.inner, self.known = model, known

    def forward(self, x):
        z = self.inner(x)
        same = ((x - self.known[: len(x)]).flatten(1).abs().amax(1) == 0).to(z)
        return (
            z
            + 50 * same[:, None] * torch.tensor([0.0, 1.0, 0.0]).to(z)
            + torch.tensor([20.0, 0.0, 0.0]).to(z)
        )


def test_where_every_shift_changes_the_decision_it_says_so(explainer):
    fickle = Explainer(Fickle(explainer.model, X), (1, *SHAPE), geometry=explainer.geometry)
    found = fickle.explain(X, ["frozen_gate", "shift_averaged"], target=1)
    still = fickle.explain(X, "shift_averaged", target=1, shifts=1)
    torch.testing.assert_close(
        found["shift_averaged"].voxel_relevance, still.voxel_relevance, rtol=1e-4, atol=1e-6
    )
    for row in found["shift_averaged"].checks:
        (check,) = (c for c in row if c.name == "kept shifts")
        assert (check.value, check.verdict) == (0, "fail")
        assert "the map of the volume as it is" in check.sentence
    (check,) = (c for c in still.checks[0] if c.name == "kept shifts")
    assert (check.value, check.verdict) == (1, "pass")
    # nine shifts have the volume as it is among them
    some = fickle.explain(X, "shift_averaged", target=1, shifts=9).checks[0]
    (check,) = (c for c in some if c.name == "kept shifts")
    assert (round(9 * check.value), check.verdict) == (1, "warn")
    # a score of one's own knows no decision
    own = fickle.explain(X, "shift_averaged", score=lambda z: z[:, 1])
    assert [c.value for c in own.checks[0] if c.name == "kept shifts"] == [1]


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_a_texture_that_must_lie_where_it_lies_is_caught(pool):
    for task, wanted in (("texture", "fail"), ("place", "pass")):
        recipe = Recipe(51, task=task, pool=pool)
        model, accuracy = train(recipe)
        assert accuracy > 0.95
        some = draw(recipe, 40, 3)
        explainer = Explainer(model, (1, *recipe.shape))
        found = explainer.explain(some.x, ["shift_averaged", "shift_averaged_local"])
        for name in ("shift_averaged", "shift_averaged_local"):
            told = [c for row in found[name].checks for c in row if c.name == "evidence at shifts"]
            # Where a model takes one class as the rule, only half of the volumes tell.
            share = np.mean([c.verdict == "fail" for c in told])
            assert share > 0.3 if wanted == "fail" else share < 0.1


def test_weighted_by_evidence_the_map_of_a_texture_stays_where_it_lies():
    recipe = Recipe(51, task="texture", pool="mean")
    model, _ = train(recipe)
    explainer = Explainer(model, (1, *recipe.shape))
    some = draw(recipe, 40, 3)
    methods = [
        f"shift_{kind}{more}" for more in ("", "_local") for kind in ("averaged", "weighted")
    ]
    found = explainer.explain(some.x, [*methods, "shift_weighted_signed"])
    alike, weighted, local, weighted_local = (_near_the_centre(found[m], recipe) for m in methods)
    assert max(alike, local) < 0.5 and min(weighted, weighted_local) > 0.9
    assert _near_the_centre(found["shift_weighted_signed"], recipe) > 0.9
    told = [c.value for row in found["shift_weighted"].checks for c in row if "moved" in c.name]
    assert 0 < np.median(told) < 0.5


def _near_the_centre(found, recipe):
    """Return the share of volumes with the peak in the patch that the texture lies in."""
    peaks = found.voxel_relevance.flatten(1).argmax(1).numpy()
    places = np.stack(np.unravel_index(peaks, found.voxel_relevance.shape[1:]), 1)
    return np.mean((places // recipe.edge == np.array(recipe.grid) // 2).all(1))


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("shift_weighted", "shift_averaged"),
        ("shift_weighted_signed", "shift_averaged"),
        ("shift_weighted_local", "shift_averaged_local"),
        ("shift_weighted_local", "shift_averaged_gamma"),
        ("shift_averaged_local", "shift_averaged_gamma"),
    ],
)
def test_maps_alone_and_beside_those_of_the_same_passes_are_alike(explainer, name, beside):
    alone = explainer.explain(X, name, target="all")
    both = explainer.explain(X, [beside, name], target="all")
    torch.testing.assert_close(both[name].voxel_relevance, alone.voxel_relevance)
    if "weighted" in name:  # this model normalises no patch: local maps are those of gamma
        assert not torch.allclose(both[beside].voxel_relevance, alone.voxel_relevance)
    same = explainer.explain(X, beside, target="all").voxel_relevance
    torch.testing.assert_close(both[beside].voxel_relevance, same)


def test_agreement_with_the_volume_as_it_is_is_that_of_patches(explainer):
    methods = ["shift_weighted", "shift_weighted_signed", "shift_weighted_local", "frozen_gate"]
    found = explainer.explain(X, methods, target=0, score="log_odds")
    one = explainer.explain(X, "shift_weighted_signed", target=0, shifts=1)
    for name in methods[1:3]:
        told = [c for row in found[name].checks for c in row if c.name == "moved and unmoved"]
        assert len(told) == len(X) and all(-1 <= c.value <= 1 for c in told)
    told = [c.value for row in one.checks for c in row if c.name == "moved and unmoved"]
    np.testing.assert_allclose(told, 1, atol=1e-6)  # nothing was moved
    still = one.relevance.flatten(1).double().numpy()
    full = found["shift_weighted_signed"]
    expected = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(full.relevance.flatten(1).double().numpy(), still, strict=True)
    ]
    told = [c.value for row in full.checks for c in row if c.name == "moved and unmoved"]
    np.testing.assert_allclose(told, expected, rtol=1e-4)
    assert not any(c.name == "moved and unmoved" for row in found[methods[0]].checks for c in row)
    verdicts = [check_against_unmoved(v).verdict for v in (-0.01, 0.1, 0.31)]
    assert verdicts == ["fail", "warn", "pass"]


def test_the_signed_map_has_no_gamma_unless_told(explainer):
    plain, told = (
        explainer.explain(X, "shift_weighted_signed", target=0, **gamma).voxel_relevance
        for gamma in ({}, {"gamma": 0.1})
    )
    assert not torch.allclose(plain, told, rtol=0.05)
    beside = explainer.explain(X, ["shift_weighted_local", "shift_weighted_signed"], target=0)
    torch.testing.assert_close(beside["shift_weighted_signed"].voxel_relevance, plain)


def test_the_evidence_that_is_left_is_that_of_shifted_inputs():
    explainer = Explainer(drifted(seeded(TinyViT)()), (1, *SHAPE))
    found = explainer.explain(X, "shift_averaged", target=1, shifts=5)
    shifts = choose_shifts(5, explainer.geometry.patch_size)
    assert shifts[0] == (0, 0, 0)
    decided = found.logits.argmax(1)

    def odds(x):
        with torch.no_grad():
            z = explainer.model(x).double()
        others = [[z[n, c] for c in range(z.shape[1]) if c != d] for n, d in enumerate(decided)]
        return z[torch.arange(len(x)), decided] - torch.tensor([max(o) for o in others])

    still = odds(X)
    expected = np.mean(
        [(odds(moved(X, s, (2, 3, 4))) / still).clamp(-1, 1).numpy() for s in shifts[1:]], axis=0
    )
    got = [c.value for row in found.checks for c in row if c.name == "evidence at shifts"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    weighted = explainer.explain(X, "shift_weighted", target=1, shifts=5)
    squares = [(odds(moved(X, s, (2, 3, 4))) / still).clamp(0, 1).numpy() ** 2 for s in shifts]
    got = [c.value for row in weighted.checks for c in row if c.name == "moved share"]
    np.testing.assert_allclose(got, np.mean(squares, axis=0), rtol=1e-4)


def test_evidence_left_of_nothing_and_without_shifts(explainer):
    still, moved_ = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([[-8.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    assert evidence_left(still, moved_).tolist() == [-0.25, 1.0, 0.0]
    unmoved = explainer.explain(X, "shift_averaged", shifts=1)
    for row in unmoved.checks:
        (check,) = (c for c in row if c.name == "evidence at shifts")
        assert np.isnan(check.value) and "no shift moves" in check.sentence


def test_one_output_is_a_decision_or_a_regression():
    explainer = Explainer(drifted(seeded(lambda: TinyViT(outputs=1))()), (1, *SHAPE))
    found = explainer.explain(X, "shift_averaged", score=lambda z: z[:, 0].sinh())
    assert found.voxel_relevance.shape == (3, *SHAPE)
    assert [c.value for row in found.checks for c in row if c.name == "kept shifts"] == [1] * 3
    classes = explainer.explain(X, "shift_averaged", target="predicted")
    assert classes.target == tuple(int(z > 0) for z in classes.logits[:, 0])


def test_completeness_is_that_of_every_shift(explainer):
    for row in explainer.explain(X, "shift_averaged_gamma", shifts=4).checks:
        (check,) = (c for c in row if c.name == "completeness")
        assert 0 < check.value < 1e-4 and "every shift" in check.sentence


def test_shifts_are_refused_where_they_mean_nothing(explainer):
    with pytest.raises(MethodError, match="`shifts` means nothing to frozen_gate"):
        explainer.explain(X, "frozen_gate", shifts=9)
    with pytest.raises(MethodError, match="`shifts` takes a positive integer"):
        explainer.explain(X, "shift_averaged", shifts=0)
    with pytest.raises(MethodError, match="between 1 and the 24 voxels of a patch"):
        explainer.explain(X, "shift_averaged", shifts=25)


@pytest.mark.parametrize("name", ["shift_averaged", "shift_weighted_signed"])
@pytest.mark.parametrize("beside", [(), ("frozen_gate",)])
def test_maps_over_shifts_tell_where_the_score_comes_from(explainer, name, beside):
    """A volume without voxels: all of its score is position and biases, whatever the map shows."""
    x = torch.cat([X[:1], torch.zeros_like(X[:1])])
    found = explainer.explain(x, [*beside, name], shifts=2)[name]
    shares = ("patch share", "position share", "voxel share", "voxels and patches")
    of = [{check.name: check for check in row} for row in found.checks]
    assert all(each.keys() >= {*shares, "held constants", "completeness"} for each in of)
    assert of[0]["voxel share"].verdict == "pass"
    assert of[1]["voxel share"].verdict == "fail"
    if beside:
        own = explainer.explain(x, "frozen_gate").checks
        values = [{c.name: c.value for c in row} for row in own]
        for mine, theirs in zip(of, values, strict=True):
            assert [mine[s].value for s in shares] == pytest.approx([theirs[s] for s in shares])
