"""Means over volumes without keeping the volumes: running mean and variance, and class groups.

A *group* is the volumes of one class: by their label, and by the model's prediction only where
a volume has no label. Volumes that the model got right and wrong are kept apart, since a map
of an error explains an error. This module knows arrays, not images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g3dvit.errors import GridError

Which = Literal["all", "correct", "error"]


@dataclass(frozen=True, slots=True, order=True)
class GroupKey:
    """Which volumes a class mean is made of.

    Parameters
    ----------
    group
        Class name: the label, or the predicted class where there are no labels.
    which
        ``"correct"`` or ``"error"`` for labelled volumes, ``"all"`` where there is no label.

    Examples
    --------
    >>> print(GroupKey("left", "correct"))
    correct/left
    """

    group: str
    which: Which

    def __str__(self) -> str:
        return f"{self.which}/{self.group}"


def group_of(label: str | None, predicted: str) -> GroupKey:
    """Return the group of one volume.

    Parameters
    ----------
    label
        Class of the volume, or None where unknown.
    predicted
        Class with the largest output.

    Examples
    --------
    >>> print(group_of("left", "left"), group_of("left", "right"), group_of(None, "right"))
    correct/left error/left all/right
    """
    if label is None:
        return GroupKey(predicted, "all")
    return GroupKey(label, "correct" if label == predicted else "error")


class RunningMean:
    """Mean and variance of arrays that come one at a time (Welford), in float64.

    Parameters
    ----------
    shape
        Shape of every array.

    Attributes
    ----------
    n : int
        Number of arrays seen.

    References
    ----------
    Welford 1962, doi:10.1080/00401706.1962.10490022; merging after Chan, Golub & LeVeque 1983,
    doi:10.1080/00031305.1983.10483115.

    Examples
    --------
    >>> running = RunningMean((2,))
    >>> for values in ([1.0, 5.0], [3.0, 5.0]):
    ...     running.add(values)
    >>> running.mean, running.variance(), running.n
    (array([2., 5.]), array([1., 0.]), 2)
    """

    __slots__ = ("_mean", "_squares", "n")

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n = 0
        self._mean: NDArray[np.float64] = np.zeros(shape)
        self._squares: NDArray[np.float64] = np.zeros(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every array."""
        return self._mean.shape

    def add(self, values: ArrayLike) -> None:
        """Take one more array.

        Raises
        ------
        GridError
            If its shape is another one.
        """
        array = np.asarray(values, dtype=np.float64)
        self._check_shape(array.shape)
        self.n += 1
        delta = array - self._mean
        self._mean += delta / self.n
        self._squares += delta * (array - self._mean)

    def merge(self, other: RunningMean) -> None:
        """Take everything that `other` has seen, as if it had been added here."""
        self._check_shape(other.shape)
        n = self.n + other.n
        if n == 0:
            return
        delta = other._mean - self._mean
        self._squares += other._squares + delta**2 * (self.n * other.n / n)
        self._mean += delta * (other.n / n)
        self.n = n

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of the arrays; NaN before the first."""
        return self._mean.copy() if self.n else np.full(self.shape, np.nan)

    def variance(self, *, ddof: int = 0) -> NDArray[np.float64]:
        """Return the variance of the arrays; NaN where there are `ddof` arrays or fewer."""
        if self.n <= ddof:
            return np.full(self.shape, np.nan)
        return self._squares / (self.n - ddof)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape != self.shape:
            raise GridError(f"an array of shape {shape} cannot join a mean of shape {self.shape}")


class GroupedMeans:
    """One `RunningMean` for each group that turns up.

    Examples
    --------
    >>> means = GroupedMeans((1,))
    >>> means.add(GroupKey("left", "correct"), [2.0])
    >>> [(str(key), running.n) for key, running in means]
    [('correct/left', 1)]
    """

    __slots__ = ("_means", "shape")

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._means: dict[GroupKey, RunningMean] = {}

    def add(self, key: GroupKey, values: ArrayLike) -> None:
        """Take one more array into a group."""
        self._means.setdefault(key, RunningMean(self.shape)).add(values)

    def merge(self, other: GroupedMeans) -> None:
        """Take everything that `other` has seen, group by group."""
        for key, running in other:
            self._means.setdefault(key, RunningMean(self.shape)).merge(running)

    def __iter__(self) -> Iterator[tuple[GroupKey, RunningMean]]:
        """Go through the groups by class name; correct before error."""
        yield from sorted(self._means.items())

    def __getitem__(self, key: GroupKey) -> RunningMean:
        return self._means[key]

    def __len__(self) -> int:
        return len(self._means)
