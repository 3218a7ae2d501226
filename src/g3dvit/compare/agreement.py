"""How much two maps agree, and how much two maps as smooth would agree by chance.

Numbers in, numbers out: values at the same places. Relevance and a reference (a GLM, a
meta-analysis, another model) answer different questions; agreement does not prove either right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from g3dvit.errors import InputError
from g3dvit.surrogates import two_sided_p, variogram_surrogates

#: What is compared: values with their sign, their positive part, or their size.
Signs = Literal["signed", "positive", "absolute"]
SHARES = (0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Dice of the highest shares of two maps.

    Parameters
    ----------
    share
        Of the places that are taken from each map, 0 to 1.
    dice
        2 |both| / (|one| + |other|), 0 to 1; the mean over ways to break ties.
    expected
        Mean over surrogates of the map.
    p
        Share of surrogates with at least this overlap (one-sided), counting the map itself.
    """

    share: float
    dice: float
    expected: float
    p: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much a map agrees with a reference.

    Parameters
    ----------
    n_places
        Where both have values.
    pearson, spearman
        Correlations over places, -1 to 1.
    p_pearson, p_spearman
        Two-sided, against surrogates of the map; NaN without surrogates.
    n_surrogates
        Random maps as smooth as the map; no p is below 1 / (1 + this).
    overlaps
        Dice at each share.
    """

    n_places: int
    pearson: float
    spearman: float
    p_pearson: float
    p_spearman: float
    n_surrogates: int
    overlaps: tuple[Overlap, ...]


def agreement(
    values: NDArray[np.float64],
    reference: NDArray[np.float64],
    coordinates_mm: NDArray[np.float64],
    *,
    shares: Sequence[float] = SHARES,
    n_surrogates: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Return correlations and overlaps of two maps with spatial p-values.

    Parameters
    ----------
    values, reference : (places,)
        Finite, at the same places.
    coordinates_mm : (places, 3)
        Where.
    shares
        Of places that count as high, each above 0 and below 1.
    n_surrogates
        0 for none.
    seed
        Of the surrogates.

    Raises
    ------
    InputError
        If there are fewer than 20 places, or one of the maps is the same everywhere.

    References
    ----------
    Burt et al. 2020, https://doi.org/10.1016/j.neuroimage.2020.117038
    """
    if values.shape != reference.shape or len(values) < 20:
        raise InputError(
            f"maps are compared at the same places, at least 20; there are {len(values)} and "
            f"{len(reference)}"
        )
    if not (np.isfinite(values).all() and np.isfinite(reference).all()):
        raise InputError("values that are no numbers cannot be compared; leave out their places")
    same = [w for w, v in (("map", values), ("reference", reference)) if np.ptp(v) == 0]
    if same:
        raise InputError(
            f"the {' and the '.join(same)} has the same value at all {len(values)} places, so "
            "that there is nothing to compare"
        )
    if any(not 0 < share < 1 for share in shares):
        raise InputError(f"shares are above 0 and below 1, were given {tuple(shares)}")
    null = np.empty((0, len(values)))
    if n_surrogates:
        null = variogram_surrogates(values, coordinates_mm, n_surrogates=n_surrogates, seed=seed)
    every = np.concatenate([values[None], null])
    pearson = _correlations(every, reference)
    ranked = _correlations(rankdata(every, axis=1), rankdata(reference))
    return Agreement(
        n_places=len(values),
        pearson=float(pearson[0]),
        spearman=float(ranked[0]),
        p_pearson=_p(pearson),
        p_spearman=_p(ranked),
        n_surrogates=len(null),
        overlaps=tuple(_overlap(every, reference, share) for share in shares),
    )


def with_signs(values: NDArray[np.float64], signs: Signs) -> NDArray[np.float64]:
    """Return what is compared of values."""
    if signs not in get_args(Signs):
        raise InputError(f"`signs` is {', '.join(get_args(Signs))}, was given {signs!r}")
    if signs == "positive":
        return np.maximum(values, 0)
    return np.abs(values) if signs == "absolute" else values


def spearman(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the rank correlation of two maps that are not the same everywhere."""
    return float(_correlations(rankdata(values)[None], rankdata(reference))[0])


def pearson(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the correlation of two maps that are not the same everywhere."""
    return float(_correlations(values[None], reference)[0])


def highest(values: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Return which places surely belong to the highest share, (..., places).

    Where places are tied across the border (as the 0 of a thresholded map), none of them does.

    Raises
    ------
    InputError
        If the share is not above 0 and below 1.
    """
    if not 0 < share < 1:
        raise InputError(f"a share is above 0 and below 1, was given {share}")
    return np.asarray(_membership(values, share) > 1 - 1e-9)


def _membership(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return how far each place belongs to the highest share: tied places share what is left.

    Were ties broken by the order in the file, two thresholded maps would agree in their zeros.
    """
    count = max(1, round(share * values.shape[-1]))
    last = -np.partition(-values, count - 1, axis=-1)[..., count - 1 : count]
    above, tied = values > last, values == last
    left = count - above.sum(axis=-1, keepdims=True)
    return np.asarray(above + tied * (left / tied.sum(axis=-1, keepdims=True)))


def _overlap(every: NDArray[np.float64], reference: NDArray[np.float64], share: float) -> Overlap:
    top, other = _membership(every, share), _membership(reference, share)
    dice = (top * other).sum(axis=1) / other.sum()  # both are of one size
    null = dice[1:]
    expected = float(null.mean()) if len(null) else float("nan")
    p = float((1 + (null >= dice[0] - 1e-12).sum()) / (1 + len(null))) if len(null) else np.nan
    return Overlap(share, float(dice[0]), expected, p)


def _correlations(maps: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    a = maps - maps.mean(axis=1, keepdims=True)
    b = reference - reference.mean()
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b)
    return np.asarray(a @ b / np.maximum(norms, 1e-300))


def _p(found: NDArray[np.float64]) -> float:
    return two_sided_p(float(found[0]), found[1:]) if len(found) > 1 else float("nan")
