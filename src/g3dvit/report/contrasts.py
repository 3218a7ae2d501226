"""Differences between class means that explain the same target: what changes with the class.

Descriptive: no test is made. Only means with ONE target can be subtracted; contrasts of maps that
each explain their own class differ even where the model knows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from g3dvit.maps import RelevanceMap
from g3dvit.run_result import CheckLike, ClassMean, MapSet, RunResult

_MOST = 3  # more pairs than a reader compares
#: Parts that add up to the map, so that their differences add up too.
_ADDITIVE = ("content", "position")


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """One class mean minus another, of the same method and target.

    Parameters
    ----------
    first, second
        The means; volumes that were misclassified are never among them.
    """

    first: ClassMean
    second: ClassMean

    @property
    def title(self) -> str:
        """Which volumes, in words."""
        return (
            f"difference: “{self.first.key.group}” minus “{self.second.key.group}” volumes "
            f"(n = {self.first.n} and {self.second.n})"
        )

    @property
    def checks(self) -> tuple[CheckLike, ...]:
        """The checks of both."""
        return (*self.first.checks, *self.second.checks)


def contrasts_of(result: RunResult, maps: MapSet) -> tuple[Contrast, ...]:
    """Return the contrasts to show: the target's class against each other, else the last two.

    Parameters
    ----------
    result
        The run, for its target.
    maps
        Which method.
    """
    means = [m for m in maps.class_means if m.key.which != "error" and not m.target]
    if len(means) < 2:
        return ()
    own = next((mean for mean in means if mean.key.group == result.target), None)
    if own is None:
        return (Contrast(means[-1], means[0]),) if len(means) == 2 else ()
    others = [mean for mean in means if mean is not own]
    return tuple(Contrast(own, other) for other in others[:_MOST])


def difference(first: RelevanceMap, second: RelevanceMap) -> RelevanceMap:
    """Return the difference of two maps on one grid, with that of the companions that both have."""
    return replace(
        first,
        data=np.asarray(first.data - second.data, np.float32),
        companions={
            name: np.asarray(values - second.companions[name], np.float32)
            for name, values in first.companions.items()
            if name in second.companions and name in _ADDITIVE
        },
    )
