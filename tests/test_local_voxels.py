"""Voxels told against the surroundings of their patch: how content is shared inside a patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from g3dvit.capture import FrozenPass
from g3dvit.explain import Explainer
from g3dvit.methods.local_voxels import local_voxels, surrounding_level
from gallery import GALLERY, GRID, PATCH, SHAPE
from test_frozen_gate import by_patch, frozen_vit, seeded_input
from test_methods import drifted, vit


def boxes():
    for patch in np.ndindex(*GRID):
        yield patch, tuple(slice(p * e, (p + 1) * e) for p, e in zip(patch, PATCH, strict=True))


def level_by_loops(volume):
    """Median over a patch and its neighbours of their medians, (gi, gj, gk)."""
    found, medians = np.empty(GRID), {}
    for patch, box in boxes():
        ordered = np.sort(volume[box].ravel())
        medians[patch] = ordered[(ordered.size - 1) // 2]
    for patch in medians:
        near = [m for q, m in medians.items() if max(abs(np.subtract(patch, q))) <= 1]
        found[patch] = sorted(near)[(len(near) - 1) // 2]
    return found


def test_the_level_is_the_median_of_the_medians_around():
    x = seeded_input(SHAPE, batch=2)
    x[1, 2:6, 2:4] += 30  # a part of the volume that is active fills no majority of patches
    found = surrounding_level(x, GRID)
    for n in range(2):
        np.testing.assert_allclose(found[n], level_by_loops(x[n].numpy()))
    assert found.abs().max() < 2


@pytest.mark.parametrize("channels", [1, 2])
def test_slopes_and_any_reference_give_the_content_of_every_patch(channels):
    model = vit(channels=channels).double()
    x = seeded_input((channels, *SHAPE)).double()
    frozen = FrozenPass(model, x, (31, 30))
    weights = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).expand(3, 3)
    products = frozen.products(weights, slopes=True)
    expected = by_patch(products.voxels.sum(1))
    for reference in (0.0, -3.0, torch.randn(3, 1, *GRID, dtype=torch.float64)):
        if isinstance(reference, torch.Tensor):
            for axis, edge in enumerate(PATCH, start=2):
                reference = reference.repeat_interleave(edge, axis)
        shares = (products.slopes * (x - reference)).sum(1)
        # The normalisation's guard against division by zero scales the voxels a little.
        torch.testing.assert_close(by_patch(shares), expected, rtol=1e-3, atol=1e-6)
    assert frozen.products(weights).slopes is None


def slow_local(model, x):
    """Local voxel relevance of the logit of class 1, from the hand-written model."""
    products = frozen_vit(model, x, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))["voxels"]
    level, volume = level_by_loops(x[0, 0].numpy()), x[0, 0].numpy()
    products = products.reshape(2, 3, 5, 4, 2, 3).permute(0, 3, 1, 4, 2, 5).reshape(SHAPE).numpy()
    found = np.empty(SHAPE)
    for patch, box in boxes():
        centred = volume[box] - volume[box].mean()
        sd = np.sqrt((centred**2).mean() + 1e-5)
        slope = products[box] / (centred / sd)
        found[box] = (slope - slope.mean()) / sd * (volume[box] - level[patch])
    return found


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_map_without_shifts_spreads_patches_by_it(pool):
    model = vit(pool=pool).double()
    x = seeded_input((1, *SHAPE), batch=1).double()
    explainer = Explainer(model, (1, *SHAPE))
    asked = {"target": 1, "score": "logit"}
    found = explainer.explain(x, "shift_averaged_local", shifts=1, gamma=0.0, **asked)
    patches = explainer.explain(x, "frozen_gate", **asked).relevance[0].numpy()
    local, expected = slow_local(model, x), np.empty(SHAPE)
    for patch, box in boxes():
        positive = np.maximum(local[box], 0)
        even = np.full(PATCH, 1 / np.prod(PATCH))
        share = positive / positive.sum() if patches[patch] > 0 else even
        expected[box] = patches[patch] * share
    np.testing.assert_allclose(found.voxel_relevance[0], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.relevance[0], patches, rtol=1e-4, atol=1e-6)


def test_it_is_the_same_for_a_louder_volume():
    model, x = vit(), seeded_input((1, *SHAPE))
    explainer = Explainer(model, (1, *SHAPE))
    a, b = (
        explainer.explain(v, "shift_averaged_local", target=1, shifts=4).voxel_relevance
        for v in (x, 2 * x + 1)
    )
    assert (a - b).abs().max() < 1e-2 * a.abs().max()


@pytest.mark.parametrize("name", ["three channels", "channels last"])
def test_without_normalised_patches_it_is_the_gamma_map(name):
    piece = GALLERY[name]
    explainer = Explainer(drifted(piece.build()), piece.input_shape)
    x = seeded_input(piece.input_shape)
    asked = {"target": 1, "shifts": 3}
    a, b = (
        explainer.explain(x, method, **asked).voxel_relevance
        for method in ("shift_averaged_local", "shift_averaged_gamma")
    )
    torch.testing.assert_close(a, b)


def test_slopes_that_do_not_cancel_keep_the_plain_map():
    plain, slopes, x = (seeded_input(SHAPE, batch=1, seed=s) for s in (1, 2, 3))
    assert torch.equal(local_voxels(plain, slopes * x, slopes, x, GRID), plain)


def test_both_sides_of_a_border():
    """A box that fills a third of a patch: its own side of the border has the share."""
    x = torch.zeros(1, 15, 15, 15)
    x[:, 5:8, 5:10, 5:10] = 4.0  # 3 of 5 planes of the middle patch
    slopes = torch.zeros_like(x)
    slopes[:, 5:8, 5:10, 5:10], slopes[:, 8:10, 5:10, 5:10] = 2.0, -3.0
    mean = slopes * (x - 2.4)
    local = local_voxels(mean, slopes * x, slopes, x, (3, 3, 3))
    assert mean[:, 8:10].sum() > 0.5 * mean.sum() and local[:, 8:10].abs().max() == 0
    torch.testing.assert_close(local.sum(), mean.sum())
