"""Is a decoder better than chance in one run? An exact test that swaps labels within pairs.

In a blocked run volumes are no independent units, and shifting labels in a circle is no null
where blocks repeat in a fixed rhythm. Under the null that a block and the rest after it are
exchangeable, swapping their two labels gives an equally likely labelling; with n such pairs there
are 2^n labellings, and all of them are counted. What is tested are predictions made once by
held-out models: nothing is trained again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import InputError

MOST_PAIRS = 20


@dataclass(frozen=True, slots=True, eq=False)
class PairSwaps:
    """Result of the test.

    Parameters
    ----------
    balanced_accuracy
        With the true labels.
    p
        Share of all labellings, the true one among them, that do at least as well.
    null : (2^pairs,)
        Balanced accuracy with every labelling; the first is the true one.
    """

    balanced_accuracy: float
    p: float
    null: NDArray[np.float64]


def pair_swaps(labels: ArrayLike, predicted: ArrayLike, pairs: ArrayLike) -> PairSwaps:
    """Compare predictions with the labels, and with the labels swapped within pairs.

    Parameters
    ----------
    labels, predicted : (n,)
        Names or numbers of two classes.
    pairs : (n,)
        Which pair each volume belongs to.

    Raises
    ------
    InputError
        If there are not two classes, or too many pairs to count all labellings.

    Examples
    --------
    >>> found = pair_swaps([0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2])
    >>> found.balanced_accuracy, found.p
    (1.0, 0.125)
    """
    classes, truth = np.unique(np.asarray(labels), return_inverse=True)
    answer = np.asarray(predicted)
    names, pair = np.unique(np.asarray(pairs), return_inverse=True)
    if len(classes) != 2:
        raise InputError(f"labels are swapped between two classes, was given {len(classes)}")
    if len(names) > MOST_PAIRS:
        raise InputError(f"{len(names)} pairs have too many labellings; at most {MOST_PAIRS}")
    # For every pair, unswapped and swapped: volumes of each class, and correct ones of them.
    total = np.zeros((len(names), 2, 2))
    correct = np.zeros((len(names), 2, 2))
    for swapped in (0, 1):
        label = truth ^ swapped
        for kind in (0, 1):
            mine = label == kind
            hits = mine & (answer == classes[kind])
            total[:, swapped, kind] = np.bincount(pair[mine], minlength=len(names))
            correct[:, swapped, kind] = np.bincount(pair[hits], minlength=len(names))
    choices = (np.arange(2 ** len(names))[:, None] >> np.arange(len(names))) & 1
    every = np.arange(len(names))
    counted = total[every, choices].sum(axis=1)
    right = correct[every, choices].sum(axis=1)
    with np.errstate(invalid="ignore"):
        null = np.nanmean(right / counted, axis=1)
    return PairSwaps(float(null[0]), float(np.mean(null >= null[0] - 1e-12)), null)
