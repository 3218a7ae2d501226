"""About how many passes of the model each step of an evaluation takes, for progress and a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from g3dvit.evaluate.faithfulness import GROUPS
from g3dvit.evaluate.measure_regions import RANDOM_REGIONS
from g3dvit.evaluate.settings import EvaluationSettings
from g3dvit.methods.table import Method

#: Volumes that are explained under other choices.
CHOICE_VOLUMES = 4
#: Passes for one specification with its removal curve.
PER_CHOICE = 14
#: Models for the shuffling from the head down: stages times seeds.
CASCADE = 18
#: From this many passes on, a method is left out of randomisation and explained by default choices.
MANY_PASSES = 32


def passes_of(method: Method, n_patches: int) -> int:
    """Return about how many forward passes one map costs; a backward pass counts as two.

    Examples
    --------
    >>> from g3dvit.methods import METHODS
    >>> [passes_of(METHODS[name], 216) for name in ("frozen_gate", "smoothgrad", "token_removal")]
    [4, 96, 216]
    """
    found = re.search(r"(\d+|N) (\()?F", method.cost)
    if found is None:
        return 4
    count = n_patches if found[1] == "N" else int(found[1])
    return count * (3 if found[2] else 1)


@dataclass(frozen=True, slots=True)
class Work:
    """Passes per step and in all.

    Parameters
    ----------
    settings
        How thoroughly.
    costs
        Method to passes for one map.
    n_inside
        Patches in the brain.
    n_selection, n_report, n_few
        Volumes of each half, and those for sanity and choices.
    n_specs, n_others, n_nulls
        Specifications, further models, models of permuted labels.
    """

    settings: EvaluationSettings
    costs: Mapping[str, int]
    n_inside: int
    n_selection: int
    n_report: int
    n_few: int
    n_specs: int
    n_others: int
    n_nulls: int

    @property
    def explain(self) -> int:
        """To explain one volume with every method."""
        return sum(self.costs.values())

    @property
    def curve(self) -> int:
        """For everything about the faithfulness of one volume's maps."""
        settings = self.settings
        maps = len(self.costs) + settings.random_fields + 3
        removal = (maps + settings.random_orders) * settings.steps  # half the tokens on average
        return self.n_inside + removal + (2 * settings.steps + GROUPS) * (maps + 5)

    @property
    def gain(self) -> int:
        """For SRG of one volume's maps."""
        return self.settings.steps * len(self.costs)

    @property
    def region(self) -> int:
        """For all regions on one volume."""
        return (RANDOM_REGIONS + len(self.costs)) * len(self.settings.shares)

    def passes(self) -> int:
        """Return the passes of the whole job."""
        settings = self.settings
        explained = self.n_selection + self.n_report
        work = self.n_selection * self.gain + self.n_report * self.curve
        if settings.does("regions"):
            work += self.n_report * self.region
        if settings.does("spread"):
            explained += self.n_few * (1 + settings.places)
        if settings.does("randomisation"):
            explained += self.n_few * (settings.random_models + CASCADE + self.n_nulls)
        if settings.does("stability"):
            explained += 4 * self.n_few + self.n_others * self.n_report
        if settings.does("choices"):
            work += min(self.n_few, CHOICE_VOLUMES) * self.n_specs * PER_CHOICE
        return work + explained * self.explain

    def in_words(self, seconds: float) -> str:
        """Return how long that takes at so many seconds for a pass."""
        minutes = self.passes() * seconds / 60
        long = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
        return (
            f"about {self.passes():,} passes of the model, {seconds:.2g} s each here: about {long} "
            "if nothing was done before; stop at any time, the same call goes on"
        )
