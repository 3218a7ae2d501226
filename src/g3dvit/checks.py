"""One check: what was measured, where it warns and fails, and what it means in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail"]
_ORDER: tuple[Verdict, ...] = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one map, or of a model.

    Parameters
    ----------
    name
        What is checked.
    value
        What was measured.
    threshold_warn, threshold_fail
        Where it warns and fails; None where it does not.
    verdict
        ``"pass"``, ``"warn"`` or ``"fail"``.
    sentence
        What it means, with the number.
    """

    name: str
    value: float
    threshold_warn: float | None
    threshold_fail: float | None
    verdict: Verdict
    sentence: str


def worst(checks: Iterable[Check]) -> Verdict:
    """Return the worst verdict; ``"pass"`` where there is no check."""
    return max((check.verdict for check in checks), key=_ORDER.index, default="pass")


def _verdict(value: float, warn: float | None, fail: float | None, *, low_is_bad: bool) -> Verdict:
    if math.isnan(value):
        return "fail"
    sign = 1 if low_is_bad else -1
    if fail is not None and sign * value < sign * fail:
        return "fail"
    if warn is not None and sign * value < sign * warn:
        return "warn"
    return "pass"


def judge(
    name: str,
    value: float,
    warn: float,
    fail: float,
    sentences: tuple[str, str, str],
    *,
    low_is_bad: bool = True,
) -> Check:
    """Judge a value; the sentences are for pass, warn and fail."""
    verdict = _verdict(value, warn, fail, low_is_bad=low_is_bad)
    limit = fail if verdict == "fail" else warn
    side = "at least" if low_is_bad else "at most"
    asked = f"{number(value)}; {side} {limit:.3g} is asked for"
    sentence = f"{sentences[_ORDER.index(verdict)]} ({asked})."
    return Check(name, value, warn, fail, verdict, sentence)


def number(value: float) -> str:
    """Return a measured value as text, short.

    Examples
    --------
    >>> number(0.9912), number(2.04e-7), number(0.0)
    ('0.991', '2.0e-07', '0')
    """
    return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.3g}"


def not_applicable(name: str, reason: str) -> Check:
    """Return a check that could not be made and does not count; its value is not a number."""
    return Check(name, math.nan, None, None, "pass", f"Does not apply: {reason}.")


def joined(own: Sequence[Check], further: Sequence[Check]) -> tuple[Check, ...]:
    """Return checks with further ones, which take the place of those of the same name."""
    again = {check.name for check in further}
    return (*(check for check in own if check.name not in again), *further)
