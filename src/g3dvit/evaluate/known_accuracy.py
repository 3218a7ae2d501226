"""Whether the evaluated model is better than chance: maps of one that guesses explain guesses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from g3dvit.accuracy import model_at_chance
from g3dvit.checks import Check
from g3dvit.evaluate.interventions import decisions
from g3dvit.evaluate.measured import Measured
from g3dvit.evaluate.prepared import Prepared
from g3dvit.run.accuracy import described_accuracy, unknown_accuracy


def chance_checks(
    prepared: Prepared, measured: Measured, class_names: Sequence[str], trained_on: Sequence[str]
) -> tuple[Check, ...]:
    """Return what is known of the model's accuracy.

    Of held-out data by its description, and of the chosen volumes of both halves where they have
    labels and the model was not trained on their runs; where neither is known, one check says so.

    Parameters
    ----------
    prepared, measured
        Of the job.
    class_names
        In the order of the outputs.
    trained_on
        Which of the runs the model was trained on.
    """
    described = described_accuracy(prepared.model.description, len(class_names))
    found = [] if described is None else [described]
    picks, names = prepared.plan.picks, list(class_names)
    here = model_at_chance(
        list(decisions(measured.logits)),
        [names.index(pick.label) if pick.label in names else None for pick in picks],
        num_classes=len(names),
        units=[pick.unit for pick in picks],
    )
    if trained_on and not found:
        return (unknown_accuracy(len(names)),)
    if not found or not (trained_on or math.isnan(here.value)):
        found.append(here)
    return tuple(found)


def at_chance(checks: Sequence[Check]) -> str:
    """Return what to say where nothing shows that the model is better than chance; else ""."""
    known = [check for check in checks if not math.isnan(check.value)]
    return known[0].sentence if known and all(c.verdict == "fail" for c in known) else ""
