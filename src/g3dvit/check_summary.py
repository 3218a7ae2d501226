"""What the checks of many volumes say together.

A check as others see it (`CheckLike`), one over many volumes (`CheckSummary`), and how the first
become the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, Protocol

from g3dvit.checks import number

#: How the sentence of a check ends that was made on some volumes and counts for all; how many
#: volumes it warned or failed of is then no count of volumes that were looked at.
FOR_ALL = "and counts for the whole run."

Verdict = Literal["pass", "warn", "fail"]
_ORDER: tuple[Verdict, ...] = ("pass", "warn", "fail")
_COUNTED: tuple[tuple[Verdict, str], ...] = (("fail", "failed"), ("warn", "warned"))


class CheckLike(Protocol):
    """What a check must say: `g3dvit.diagnose.Check` and `CheckSummary` do."""

    @property
    def name(self) -> str:
        """What is checked."""

    @property
    def value(self) -> float:
        """What was measured."""

    @property
    def verdict(self) -> Verdict:
        """Pass, warn or fail."""

    @property
    def sentence(self) -> str:
        """What it means, for a reader."""


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """One check over many volumes.

    Parameters
    ----------
    name
        As in the check itself.
    sentence
        That of the volume with this verdict (or the worst there is) which lies nearest the median;
        it counts the volumes, and gives the median where that is another number.
    value
        Median over the volumes, those left out whose value is not a number.
    verdict
        ``"fail"`` if at least half of the volumes failed; ``"warn"`` if any failed or at least
        half were not passed; else ``"pass"``.
    n_pass, n_warn, n_fail
        Number of volumes with each verdict.
    threshold_warn, threshold_fail
        Of the check itself, where it has them.
    """

    name: str
    value: float
    verdict: Verdict
    sentence: str
    n_pass: int
    n_warn: int
    n_fail: int
    threshold_warn: float | None = None
    threshold_fail: float | None = None


def worst(checks: Sequence[CheckLike]) -> Verdict:
    """Return the worst verdict; ``"pass"`` where there is no check."""
    return _ORDER[max((_ORDER.index(check.verdict) for check in checks), default=0)]


def summarise_checks(volumes: Sequence[Sequence[CheckLike]]) -> tuple[CheckSummary, ...]:
    """Return one summary per check name over the checks of many volumes.

    Parameters
    ----------
    volumes
        The checks of every volume.
    """
    by_name: dict[str, list[CheckLike]] = {}
    for checks in volumes:
        for check in checks:
            by_name.setdefault(check.name, []).append(check)
    return tuple(_summary(name, found) for name, found in by_name.items())


def _summary(name: str, found: Sequence[CheckLike]) -> CheckSummary:
    count = {verdict: sum(c.verdict == verdict for c in found) for verdict in _ORDER}
    verdict: Verdict = "pass"
    if 2 * count["fail"] >= len(found):
        verdict = "fail"
    elif count["fail"] or 2 * count["warn"] >= len(found):
        verdict = "warn"
    values = [check.value for check in found if not math.isnan(check.value)]
    middle = float(median(values)) if values else math.nan

    def fit(check: CheckLike) -> tuple[bool, int, float]:
        """Rank the volumes: this verdict, else the worst one there is; then nearest the median."""
        far = math.inf if math.isnan(check.value) else abs(check.value - middle)
        return check.verdict == verdict, _ORDER.index(check.verdict), -far

    told = max(found, key=fit)
    sentence = told.sentence
    if len(found) > 1 and not sentence.endswith(FOR_ALL):
        words = [f"{count[v]} {word}" for v, word in _COUNTED if count[v] and verdict != "pass"]
        if values and number(told.value) != number(middle):
            words.append(f"median {number(middle)}")
        if words:
            sentence += f" (of {len(found)} volumes {', '.join(words)})"
    return CheckSummary(
        name=name,
        value=middle,
        verdict=verdict,
        sentence=sentence,
        n_pass=count["pass"],
        n_warn=count["warn"],
        n_fail=count["fail"],
        threshold_warn=getattr(told, "threshold_warn", None),
        threshold_fail=getattr(told, "threshold_fail", None),
    )
