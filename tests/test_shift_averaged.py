from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from g3dvit.errors import MethodError
from g3dvit.methods.shift_averaged import (
    ShiftInputs,
    Way,
    same_places,
    shift_averaged,
    shift_maps,
    shift_weighted,
)
from g3dvit.methods.shifting import choose_shifts, shift_volume
from g3dvit.methods.spreading import spread, spread_both, spread_signed

SHAPE, GRID = (4, 6, 10), (2, 2, 2)
EDGES = (2, 3, 5)


class Toy:
    """A model whose relevance is a fixed function of the input, with a decision of its own."""

    def __init__(self, *, decide: str = "never") -> None:
        rng = np.random.default_rng(0)
        self.weights = torch.from_numpy(rng.standard_normal(SHAPE))
        self.bias = torch.from_numpy(rng.standard_normal(GRID))
        self.decide = decide
        self.calls = 0

    def __call__(self, x: Tensor) -> ShiftInputs:
        self.calls += 1
        voxels = x[:, 0] * self.weights
        relevance = torch.stack([slow_patch_sums(v.numpy()) for v in voxels]) + self.bias
        decision = torch.zeros(len(x), dtype=torch.int64)
        if self.decide == "first corner":
            decision = (x[:, 0, 0, 0, 0] > 0).long()
        elif self.decide == "always":
            decision += self.calls
        # From -.6 to 2.7 of that of the volume as it is, over the shifts of the tests.
        evidence = 0.05 + x[:, 0, :2, 1:, 3:].mean((1, 2, 3))
        return ShiftInputs(decision, relevance, voxels, evidence)


def slow_patch_sums(voxels: np.ndarray) -> Tensor:
    sums = torch.zeros(GRID, dtype=torch.float64)
    for i, j, k in np.ndindex(*voxels.shape):
        sums[i // EDGES[0], j // EDGES[1], k // EDGES[2]] += voxels[i, j, k]
    return sums


def slow_average(
    x: np.ndarray, toy: Toy, shifts: list[tuple[int, int, int]], *, by_evidence: bool = False
) -> np.ndarray:
    """Average one volume, (i, j, k), voxel by voxel."""
    total, seen = np.zeros(SHAPE), np.zeros(SHAPE)
    still = toy(torch.from_numpy(x)[None, None])
    rest = float(len(shifts)) if by_evidence else 0.0
    counted = [(shift, None) for shift in shifts]
    while counted:
        shift, weight = counted.pop(0)
        moved = np.zeros(SHAPE)
        for place in np.ndindex(*SHAPE):
            source = tuple(
                min(max(p - s, 0), n - 1) for p, s, n in zip(place, shift, SHAPE, strict=True)
            )
            moved[place] = x[source]
        found = toy(torch.from_numpy(moved)[None, None])
        if weight is None:
            weight = float(found.decision == still.decision)
            if by_evidence:
                weight *= min(max(float(found.evidence) / float(still.evidence), 0.0), 1.0) ** 2
                rest -= weight
        if by_evidence and not counted and rest > 0:  # what is left is the volume's own
            counted.append(((0, 0, 0), rest))
            rest = 0.0
        voxels, relevance = found.voxels[0].numpy(), found.relevance[0].numpy()
        for place in np.ndindex(*SHAPE):
            there = tuple(p + s for p, s in zip(place, shift, strict=True))
            if not all(0 <= t < n for t, n in zip(there, SHAPE, strict=True)):
                continue
            patch = tuple(t // e for t, e in zip(there, EDGES, strict=True))
            box = tuple(slice(p * e, (p + 1) * e) for p, e in zip(patch, EDGES, strict=True))
            share = abs(voxels[there]) / np.abs(voxels[box]).sum()
            total[place] += weight * max(relevance[patch], 0) * share
            seen[place] += weight
    return total / np.where(seen > 0, seen, 1)


def volumes(n: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((n, 1, *SHAPE)))


@pytest.mark.parametrize("decide", ["never", "first corner"])
def test_it_equals_a_slow_loop(decide: str) -> None:
    shifts = [(0, 0, 0), (1, 0, -2), (-1, 2, 3), (0, -1, 0), (1, 1, 1)]
    x = volumes()
    found = shift_averaged(x, Toy(decide=decide), shifts, (2, 3, 4))
    for n in range(3):
        expected = slow_average(x[n, 0].numpy(), Toy(decide=decide), shifts)
        np.testing.assert_allclose(found.voxels[n].numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(found.relevance[n], slow_patch_sums(expected), rtol=1e-12)
    if decide == "never":
        assert found.kept.tolist() == [5, 5, 5]
    else:
        assert found.kept.tolist() == [5, 3, 3]  # the first corner changes its sign twice
    assert not found.unshifted.any()


@pytest.mark.parametrize("decide", ["never", "first corner"])
def test_weighted_by_evidence_it_equals_a_slow_loop(decide: str) -> None:
    shifts = [(1, 0, -2), (-1, 2, 3), (0, -1, 0), (1, 1, 1)]
    x = volumes()
    found = shift_weighted(x, Toy(decide=decide), shifts, (2, 3, 4))
    for n in range(3):
        toy = Toy(decide=decide)
        expected = slow_average(x[n, 0].numpy(), toy, shifts, by_evidence=True)
        np.testing.assert_allclose(found.voxels[n].numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(found.relevance[n], slow_patch_sums(expected), rtol=1e-12)
    assert 0 < found.moved_share.min() < found.moved_share.max() < 1


def slow_same_places(one: np.ndarray, other: np.ndarray) -> bool:
    """Average every patch with its neighbours, one by one, and correlate."""
    near = []
    for patches in (one, other):
        means = np.zeros(patches.shape)
        for place in np.ndindex(*patches.shape):
            i, j, k = (slice(max(0, p - 1), p + 2) for p in place)
            means[place] = patches[i, j, k].mean()
        near.append(means.flatten())
    return bool(np.corrcoef(*near)[0, 1] > 0.3)


def test_maps_that_show_other_places_than_the_volume_as_it_is_do_not_count() -> None:
    # One shift, so that the map of every target is that of the shift or of the volume as it is.
    rng, shift = np.random.default_rng(3), (1, 0, -2)
    grid, x = (4, 4, 4), torch.from_numpy(rng.standard_normal((20, 1, 8, 8, 8)))
    place = torch.nn.functional.interpolate(
        torch.from_numpy(rng.standard_normal((20, 2, 2, 2, 2))), grid, mode="trilinear"
    )
    answers = {
        moved: ShiftInputs(
            torch.zeros(20, dtype=torch.int64),
            place + float(moved) * torch.from_numpy(0.9 * rng.standard_normal((20, 2, *grid))),
            torch.from_numpy(rng.standard_normal((20, 2, 8, 8, 8))),
            torch.full((20,), 1.0 - 0.25 * moved),
        )
        for moved in (False, True)
    }
    every, agreeing = shift_maps(
        x,
        lambda given: answers[given is not x],
        [shift],
        (2, 3, 4),
        [Way(weighted=True, spreading="both", agreeing=agreeing) for agreeing in (False, True)],
    )
    own = spread_both(answers[False].relevance, answers[False].voxels).numpy()
    fine = spread_both(answers[True].relevance, answers[True].voxels).numpy()
    left_out = np.zeros((20, 2), dtype=bool)
    for n, target in np.ndindex(20, 2):
        back = np.zeros((8, 8, 8))
        back[:-1, :, 2:] = fine[n, target][1:, :, :-2]
        blocks = (
            values.reshape(4, 2, 4, 2, 4, 2).sum((1, 3, 5)) for values in (back, own[n, target])
        )
        left_out[n, target] = not slow_same_places(*blocks)
        expected = own[n, target] if left_out[n, target] else every.voxels[n, target]
        np.testing.assert_allclose(agreeing.voxels[n, target], expected, rtol=1e-12)
    assert 0.1 < left_out.mean() < 0.9
    assert (left_out[:, 0] != left_out[:, 1]).any()  # each target decides for itself
    share = np.where(left_out.any(1), 0, every.moved_share)
    np.testing.assert_allclose(agreeing.moved_share, share, rtol=1e-6)
    assert every.moved_share.numpy() == pytest.approx(0.75**2)


def test_flat_maps_show_the_same_places() -> None:
    flat = torch.full((2, 4, 5, 6), 0.1, dtype=torch.float64)
    flat[1] += 1e-12 * torch.rand(4, 5, 6)  # rounding, which says nothing
    other = torch.rand(2, 4, 5, 6)
    assert same_places(flat, -flat).all()
    small = torch.rand(3, 2, 2, 2)  # every patch is the neighbour of all
    assert same_places(small, -small).all()
    assert not same_places(other, -other).any()


def test_where_moving_changes_nothing_weights_change_nothing() -> None:
    x, shifts = volumes(), [(1, 0, -2), (-1, 2, 3)]
    toy = Toy()

    def steady(moved: Tensor) -> ShiftInputs:
        return replace(toy(moved), evidence=torch.full((3,), 2.0))

    alike, weighted = shift_maps(x, steady, shifts, (2, 3, 4), (Way(), Way(weighted=True)))
    torch.testing.assert_close(weighted.voxels, alike.voxels)
    assert weighted.moved_share.tolist() == [1, 1, 1]


@pytest.mark.parametrize("left", [-1.0, 0.0, float("nan")])
def test_where_moved_volumes_say_nothing_the_map_is_that_of_the_volume(left: float) -> None:
    x = volumes()
    toy = Toy()

    def lost(moved: Tensor) -> ShiftInputs:
        return replace(toy(moved), evidence=torch.full((3,), 2.0 if moved is x else left))

    found = shift_weighted(x, lost, [(1, 0, -2), (-1, 2, 3)], (2, 3, 4))
    still = toy(x)
    torch.testing.assert_close(found.voxels, spread(still.relevance, still.voxels))
    assert found.moved_share.tolist() == [0, 0, 0]


def test_several_averages_explain_every_input_once() -> None:
    x, shifts = volumes(), [(1, 0, -2), (0, 0, 0), (-1, 1, 0)]
    toy = Toy()
    alike, weighted = shift_maps(x, toy, shifts, (2, 3, 4), (Way(), Way(weighted=True)))
    assert toy.calls == 3
    torch.testing.assert_close(alike.voxels, shift_averaged(x, toy, shifts, (2, 3, 4)).voxels)
    torch.testing.assert_close(weighted.voxels, shift_weighted(x, toy, shifts, (2, 3, 4)).voxels)


def test_without_a_shift_the_sum_is_the_positive_relevance() -> None:
    x = volumes()
    toy = Toy()
    found = shift_averaged(x, toy, [(0, 0, 0)], (2, 3, 4))
    torch.testing.assert_close(found.relevance, toy(x).relevance.clamp_min(0))
    assert (found.voxels >= 0).all()


def test_where_every_shift_changes_the_decision_the_unshifted_map_is_used() -> None:
    x = volumes()
    found = shift_averaged(x, Toy(decide="always"), [(1, 0, 0), (0, -1, 2)], (2, 3, 4))
    assert found.unshifted.all() and found.kept.tolist() == [0, 0, 0]
    still = Toy()(x)
    torch.testing.assert_close(found.voxels, spread(still.relevance, still.voxels))


def test_axes_may_be_permuted_and_targets_several() -> None:
    x = volumes(2)
    toy, shifts = Toy(), [(1, 0, -2), (0, 0, 0), (-1, 1, 0)]
    plain = shift_averaged(x, toy, shifts, (2, 3, 4))

    def several(moved: Tensor) -> ShiftInputs:
        found = toy(moved.permute(0, 1, 4, 2, 3))
        both = torch.stack([found.relevance, -found.relevance], 1)
        return ShiftInputs(found.decision, both, torch.stack([found.voxels] * 2, 1))

    turned = shift_averaged(x.permute(0, 1, 3, 4, 2), several, shifts, (4, 2, 3))
    torch.testing.assert_close(turned.voxels[:, 0], plain.voxels)
    assert turned.relevance.shape == (2, 2, *GRID)
    assert not torch.allclose(turned.voxels[:, 1], plain.voxels)


def test_a_patch_whose_voxels_are_silent_spreads_evenly() -> None:
    relevance = torch.full((1, *GRID), 3.0)
    voxels = torch.zeros((1, *SHAPE))
    torch.testing.assert_close(spread(relevance, voxels), torch.full((1, *SHAPE), 3.0 / 30))


def test_nothing_comes_in_from_the_other_side() -> None:
    x = torch.arange(10.0).reshape(1, 1, 1, 1, 10)
    assert shift_volume(x, (0, 0, 3), (2, 3, 4)).flatten().tolist() == [
        *(0, 0, 0, 0, 1, 2, 3, 4, 5, 6)
    ]
    assert shift_volume(x, (0, 0, -2), (2, 3, 4)).flatten().tolist() == [
        *(2, 3, 4, 5, 6, 7, 8, 9, 9, 9)
    ]


@pytest.mark.parametrize("count", [1, 8, 9, 20, 27, 64])
def test_shifts_are_different_and_balanced(count: int) -> None:
    shifts = choose_shifts(count, (5, 6, 9))
    assert len(set(shifts)) == count
    assert all(abs(s) <= e / 2 for one in shifts for s, e in zip(one, (5, 6, 9), strict=True))
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.75
    if count in (1, 9, 20):
        assert shifts[0] == (0, 0, 0)


def test_27_shifts_of_patches_of_five_are_the_product_of_minus_two_zero_and_two() -> None:
    assert set(choose_shifts(27, (5, 5, 5))) == set(product((-2, 0, 2), repeat=3))


def test_impossible_shifts_are_refused() -> None:
    with pytest.raises(MethodError, match="between 1 and the 8 voxels"):
        choose_shifts(9, (2, 2, 2))
    with pytest.raises(MethodError, match="each smaller than the volume"):
        shift_averaged(volumes(), Toy(), [(0, 6, 0)], (2, 3, 4))
    with pytest.raises(MethodError, match="one or more"):
        shift_averaged(volumes(), Toy(), [], (2, 3, 4))


def test_signed_spreading_equals_a_slow_loop_and_conserves() -> None:
    found = Toy()(volumes(2))
    fine = spread_signed(found.relevance, found.voxels)
    for n in range(2):
        for patch in np.ndindex(*GRID):
            box = tuple(slice(p * e, (p + 1) * e) for p, e in zip(patch, EDGES, strict=True))
            relevance = float(found.relevance[n][patch])
            weights = np.maximum(found.voxels[n].numpy()[box], 0)
            even = np.full(EDGES, relevance / 30)
            expected = even if relevance <= 0 else relevance * weights / weights.sum()
            np.testing.assert_allclose(fine[n].numpy()[box], expected, rtol=1e-12)
        torch.testing.assert_close(slow_patch_sums(fine[n].numpy()), found.relevance[n])


def test_spreading_both_ways_equals_a_slow_loop_and_halves_what_speaks_against() -> None:
    found = Toy()(volumes(2))
    fine = spread_both(found.relevance, found.voxels)
    assert (found.relevance < 0).any() and (found.relevance > 0).any()
    for n in range(2):
        for patch in np.ndindex(*GRID):
            box = tuple(slice(p * e, (p + 1) * e) for p, e in zip(patch, EDGES, strict=True))
            relevance, voxels = float(found.relevance[n][patch]), found.voxels[n].numpy()[box]
            weights = np.maximum(voxels, 0) if relevance > 0 else np.maximum(-voxels, 0)
            counts = 1 if relevance > 0 else 0.5
            expected = counts * relevance * weights / weights.sum()
            np.testing.assert_allclose(fine[n].numpy()[box], expected, rtol=1e-12)
    # Where no voxel speaks as the patch does, nothing says where.
    silent = spread_both(found.relevance, torch.zeros_like(found.voxels))
    assert len(np.unique(silent[0].numpy()[:2, :3, :5])) == 1  # the first patch


def test_signed_averages_keep_what_speaks_against() -> None:
    x, shifts = volumes(), [(0, 0, 0), (1, 0, -2), (-1, 2, 3)]
    signed = shift_averaged(x, Toy(), shifts, (2, 3, 4), spreading="signed").voxels
    assert (signed < 0).any()
    only = shift_averaged(x, Toy(), [(0, 0, 0)], (2, 3, 4), spreading="signed")
    torch.testing.assert_close(only.relevance, Toy()(x).relevance)
