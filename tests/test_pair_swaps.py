"""The exact test by swapping labels within pairs, against a slow loop."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from g3dvit.errors import InputError
from g3dvit.evaluate import pair_swaps
from g3dvit.train.report import balanced_accuracy


def slow(labels: np.ndarray, predicted: np.ndarray, pairs: np.ndarray) -> list[float]:
    found = []
    for choice in product((False, True), repeat=pairs.max() + 1):
        swap = np.array(choice)[pairs]
        found.append(balanced_accuracy(np.where(swap, 1 - labels, labels), predicted))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_labelling_is_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.tile([1, 1, 1, 0, 0], 5)  # more task than rest, as in a run
    pairs = np.repeat(np.arange(5), 5)
    predicted = np.where(rng.random(25) < 0.7, labels, 1 - labels)
    found = pair_swaps(labels, predicted, pairs)
    expected = slow(labels, predicted, pairs)
    assert sorted(found.null) == pytest.approx(sorted(expected))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy(labels, predicted))
    assert found.p == pytest.approx(np.mean(np.array(expected) >= expected[0] - 1e-9))


def test_perfect_and_useless_predictions() -> None:
    labels = np.array(["rest", "stim"] * 8)
    pairs = np.repeat(np.arange(8), 2)
    assert pair_swaps(labels, labels, pairs).p == 1 / 2**8
    constant = pair_swaps(labels, np.full(16, "stim"), pairs)
    assert (constant.balanced_accuracy, constant.p) == (0.5, 1.0)


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(InputError, match="two classes, was given 3"):
        pair_swaps([0, 1, 2], [0, 1, 2], [0, 0, 0])
    with pytest.raises(InputError, match="too many labellings"):
        pair_swaps([0, 1] * 25, [0, 1] * 25, np.repeat(np.arange(25), 2))
