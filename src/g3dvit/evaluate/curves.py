"""Removal curves: what is left of a score when patches go in the order that a map gives.

Terms: *MoRF* removes the most relevant patch first, *LeRF* the least relevant; *SRG* (symmetric
relevance gain) is the mean score under LeRF less that under MoRF. A good map loses the score
early under MoRF and late under LeRF, so its SRG is high; random orders have 0 on average. Because
both orders are used, what "removed" means matters less (Bluecher et al. 2024). *Relative SRG* is 0
for random orders and 1 for the removal oracle, the order of the drops that each patch alone
causes. Numpy only; the model is a function from kept patches to values.

References
----------
Bluecher et al. 2024, https://arxiv.org/abs/2401.06654
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import InputError

#: From kept patches (n, patches) to one row of values each, (n, values).
Respond = Callable[[NDArray[np.bool_]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """What was left when patches were removed in both orders.

    Parameters
    ----------
    counts : (points,)
        How many patches were removed.
    morf, lerf : (maps, points, values)
        Values with the most, and with the least relevant ones removed.
    """

    counts: NDArray[np.intp]
    morf: NDArray[np.float64] = field(repr=False)
    lerf: NDArray[np.float64] = field(repr=False)


def removal_counts(n_inside: int, steps: int = 10, *, all_may_go: bool = True) -> NDArray[np.intp]:
    """Return how many patches are removed at each point of a curve, from none on.

    Parameters
    ----------
    n_inside
        Patches that may be removed.
    steps
        Points after the first.
    all_may_go
        False where nothing would be left without them: the last point then keeps one.

    Examples
    --------
    >>> removal_counts(20, 4).tolist(), removal_counts(20, 4, all_may_go=False).tolist()
    ([0, 5, 10, 15, 20], [0, 5, 10, 15, 19])
    """
    if n_inside < 2 or steps < 1:
        raise InputError(f"a curve needs 2 patches and a step; was given {n_inside} and {steps}")
    counts = np.round(np.linspace(0, n_inside, steps + 1)).astype(np.intp)
    return np.unique(counts if all_may_go else np.minimum(counts, n_inside - 1))


def removal_order(relevance: ArrayLike, *, seed: int = 0) -> NDArray[np.intp]:
    """Return patches from the most to the least relevant, equal ones in random order.

    Parameters
    ----------
    relevance : (patches,)
        Signed.
    seed
        Of the order among equals; a map that says nothing must not profit from their numbers.
    """
    values = np.asarray(relevance, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError("an order needs one finite value per patch")
    by_chance = np.random.default_rng(seed).permutation(len(values))
    return np.lexsort((by_chance, -values))


def removal_curves(
    respond: Respond,
    relevance: ArrayLike,
    inside: ArrayLike,
    n_patches: int,
    counts: ArrayLike,
    *,
    seed: int = 0,
) -> Curves:
    """Remove patches in the order of several maps and in its reverse.

    Parameters
    ----------
    respond
        From kept patches to values; called once, with every set of patches once.
    relevance : (maps, inside)
        Of the patches that may be removed.
    inside : (inside,)
        Which patches these are; the others always stay.
    n_patches
        Of the model.
    counts : (points,)
        How many are removed.
    seed
        Of the order among equal values.
    """
    places = np.asarray(inside, dtype=np.intp)
    maps = np.atleast_2d(np.asarray(relevance, dtype=np.float64))
    number = np.asarray(counts, dtype=np.intp)
    keep = np.ones((2, len(maps), len(number), n_patches), dtype=bool)
    for m, one in enumerate(maps):
        order = places[removal_order(one, seed=seed)]
        for side, sequence in enumerate((order, order[::-1])):
            for point, count in enumerate(number):
                keep[side, m, point, sequence[:count]] = False
    found = respond_once(respond, keep.reshape(-1, n_patches))
    morf, lerf = found.reshape(2, len(maps), len(number), -1)
    return Curves(number, morf, lerf)


def respond_once(respond: Respond, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Ask for every set of patches once, however often it comes up."""
    packed = np.packbits(keep, axis=1)
    _, first, again = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return np.asarray(respond(keep[first]), dtype=np.float64)[again.ravel()]


def relevance_gain(morf: ArrayLike, lerf: ArrayLike) -> NDArray[np.float64]:
    """Return SRG: the mean over the points of the score under LeRF less that under MoRF.

    Parameters
    ----------
    morf, lerf : (..., points)
        Scores.

    Examples
    --------
    >>> float(relevance_gain([3.0, 1.0, 0.0], [3.0, 3.0, 0.0])).__round__(3)
    0.667
    """
    apart = np.asarray(lerf, dtype=np.float64) - np.asarray(morf, dtype=np.float64)
    return np.asarray(apart.mean(axis=-1))


def area(curve: ArrayLike) -> NDArray[np.float64]:
    """Return the area under curves (..., points) over the share removed, by trapezia."""
    values = np.asarray(curve, dtype=np.float64)
    return np.asarray(((values[..., 1:] + values[..., :-1]) / 2).mean(axis=-1))


def relative_gain(gain: float, chance: float, oracle: float) -> float:
    """Return SRG on a scale from random orders (0) to the removal oracle (1).

    NaN where the oracle is no better than random orders: then there is nothing to measure with.
    """
    span = oracle - chance
    return (gain - chance) / span if span > 0 else float("nan")
