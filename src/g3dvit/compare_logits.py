"""Compare class values with those of another pipeline, and say why they may differ.

Arithmetic on two tables and on arrays only; running the model is the business of
`g3dvit.check_model`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError

#: Largest difference of class values, relative to their spread, that rounding may make.
_SAME = 1e-3
#: Below this they are close.
CLOSE = 0.05

Verdict = Literal["same", "close", "different"]
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Class values here against those of the user's own pipeline.

    Parameters
    ----------
    largest_difference
        Over all volumes and classes, in units of the class values.
    correlation
        Over all volumes and classes; NaN where one side is constant.
    verdict
        ``"same"``: they differ by rounding only; ``"close"``: by less than 5 % of their spread;
        ``"different"``.
    sentences
        What was found and what to look for.
    """

    largest_difference: float
    correlation: float
    verdict: Verdict
    sentences: tuple[str, ...]


def compare_logits(own: NDArray[Any], expected: NDArray[Any]) -> Comparison:
    """Compare class values with expected ones.

    Parameters
    ----------
    own, expected : (volumes, outputs)
        Class values of the same volumes.

    Raises
    ------
    InputError
        If they have not the same number of outputs.
    """
    own, expected = np.asarray(own, np.float64), np.asarray(expected, np.float64)
    if own.shape != expected.shape:
        raise InputError(
            f"the model gives {own.shape[1]} values per volume, the expected ones are "
            f"{expected.shape[1]}; save the logits of all classes, (volumes, outputs)"
        )
    difference = np.abs(own - expected)
    largest = float(difference.max())
    spread = max(float(expected.std()), 1e-12)
    correlation = _correlation(own, expected)
    sentences: tuple[str, ...]
    if largest <= _SAME * max(spread, 1e-3 * float(np.abs(expected).max())):
        verdict: Verdict = "same"
        sentences = ("the class values are the same but for rounding: the preparation matches",)
    elif largest <= CLOSE * spread:
        verdict = "close"
        sentences = (
            "the class values are close but not the same: look at interpolation, the exact crop, "
            "the data type (half precision?), and Bessel's correction of the z-score",
        )
    else:
        verdict = "different"
        sentences = tuple(_obvious_causes(own, expected))
    return Comparison(largest, correlation, verdict, sentences)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _obvious_causes(own: NDArray[np.float64], expected: NDArray[np.float64]) -> list[str]:
    """Return what the two tables alone tell about why they differ."""
    found: list[str] = []
    if own.shape[1] > 1:
        powers = np.exp(own - own.max(axis=1, keepdims=True))
        if np.allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-3):
            found.append("the expected values are the softmax of these: save logits, not softmax")
        classes = range(own.shape[1])
        for order in itertools.permutations(classes) if len(classes) <= 5 else ():
            close = np.allclose(own[:, order], expected, atol=_SAME * expected.std())
            if order != tuple(classes) and close:
                found.append(f"the classes are in another order: {list(order)}")
    elif np.allclose(1 / (1 + np.exp(-own)), expected, atol=1e-3):
        found.append("the expected values are the sigmoid of these: save logits, not probabilities")
    if len(own) > 1:
        shifts = [
            n
            for n in range(-3, 4)
            if n and len(own) > abs(n) + 1 and _same_rows(np.roll(own, n, axis=0), expected, abs(n))
        ]
        if shifts:
            found.append(
                f"the volumes are shifted by {shifts[0]}: dummy volumes were left out on one side"
            )
    if found:
        return ["the class values differ, and these tables alone tell why", *found]
    return [
        "the class values differ: the model is not shown what your pipeline shows it, and every "
        "map is void until they agree"
    ]


def _same_rows(a: NDArray[np.float64], b: NDArray[np.float64], skip: int) -> bool:
    inside = slice(skip, len(a) - skip) if len(a) > 2 * skip else slice(0, 0)
    close = np.allclose(a[inside], b[inside], atol=_SAME * max(float(b.std()), 1e-12))
    return bool(close) and len(a[inside]) > 1


def other_ways() -> Iterator[tuple[str, Change]]:
    """Yield ways in which another pipeline may have shown the volume, in words and as a change."""
    for number in range(1, 8):
        axes = tuple(axis for axis in range(3) if number >> axis & 1)
        letters = ", ".join("ijk"[axis] for axis in axes)
        sentence = f"the prepared volume is mirrored along {letters}: check the orientation"
        if axes == (0,):
            sentence += " (a stored LAS array is mirrored along i against RAS)"
        yield sentence, _mirror(axes)
    for order in list(itertools.permutations(range(3)))[1:]:
        letters = " ".join("ijk"[axis] for axis in order)
        yield f"the prepared axes are taken as ({letters}): mend `input_axes`", _permute(order)
    yield "each prepared volume is z-scored: `standardise: volume`", _z_score
    yield "each prepared volume is scaled to 0..1: `scale`", _to_unit


def _mirror(axes: tuple[int, ...]) -> Change:
    return lambda volume: np.flip(volume, axes)


def _permute(order: tuple[int, ...]) -> Change:
    return lambda volume: volume.transpose(order)


def _z_score(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((volume - volume.mean()) / max(float(volume.std()), 1e-12))


def _to_unit(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((volume - volume.min()) / max(float(np.ptp(volume)), 1e-12))
