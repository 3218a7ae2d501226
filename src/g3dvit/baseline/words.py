"""What the columns mean, what the numbers cannot say, and the sentence for a paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from g3dvit.baseline.folds import Division
from g3dvit.baseline.found import MODEL, Found
from g3dvit.baseline.scores import OverUnits
from g3dvit.descriptions import ModelDescription
from g3dvit.train.samples import Samples

#: A difference in accuracy within which two approaches are said to do as well.
ALIKE = 0.05

COLUMNS = {
    "approach": "linear (decoder), glm (resemblance to the GLM's z map), searchlight (mean over "
    "spheres) or model.",
    "fold": "Number of the fold, or all.",
    "held_out": "How many units the fold holds out.",
    "balanced_accuracy": "Mean over classes of the share of held-out volumes decided rightly.",
    "mean_over_units": "The same with units averaged first; interval and p are of this.",
    "low": "Lower end of its 95 % interval, Student's t over units; from 3 units on.",
    "high": "Upper end.",
    "p": "Two-sided sign-flip p over units that it is chance; from 6 units on. Folds share "
    "training volumes, so units are not quite independent.",
    "chance": "One over the number of classes.",
    "n_units": "Held-out units.",
    "unit": "What is held out as a whole: subject, run or block.",
    "n_volumes": "Held-out volumes.",
    "C": "Inverse penalty of the linear decoder, chosen on folds within the training volumes.",
    "folds_agree": "Mean rank correlation of the folds' maps over voxels; folds share training "
    "volumes.",
}


def limits_of(
    samples: Samples, division: Division, found: Found, answered: Sequence[str]
) -> list[str]:
    """Return what the numbers cannot say.

    Parameters
    ----------
    samples, division, found
        Of the job.
    answered
        Approaches with a class for every held-out volume.
    """
    notes = []
    n_subjects = len(set(samples.subjects.tolist()))
    if n_subjects < 6:
        notes.append(
            f"{n_subjects} subject{'s' if n_subjects > 1 else ''}: nothing here is about people; "
            f"intervals and p-values are over {division.unit}s."
        )
    if "linear" in answered and not all(found.inner):
        notes.append(
            "Linear decoder: too few units to choose C within the training volumes of some folds; "
            "it was fixed there."
        )
    if found.glm_all is not None:
        notes.append(
            "The GLM's map is of all volumes; its accuracy is of z maps from training volumes only."
        )
    if found.spheres is not None:
        notes.append(
            "The searchlight's accuracy in the table is the mean over all spheres. Its best sphere "
            "was found on the test volumes and is no held-out number."
        )
    if MODEL not in answered:
        notes.append(
            "The model's held-out predictions of these volumes are not known: g3dvit train leaves "
            "them beside the model, and takes the same images, classes and preparation."
        )
    return notes


def sentence_of(
    samples: Samples,
    division: Division,
    overall: Mapping[str, OverUnits],
    difference: OverUnits | None,
    rows: Sequence[Mapping[str, Any]],
    description: ModelDescription,
) -> str:
    """Return the sentence for a paper, which says whether the linear decoder does as well.

    Parameters
    ----------
    samples, division
        Of the job.
    overall, difference
        Accuracy over units by approach, and linear decoder less model.
    rows
        Of the table.
    description
        Of the model.
    """
    whole = {str(row["approach"]): row for row in rows if row["fold"] == "all"}
    chance = 1 / len(samples.class_names)
    if "linear" not in overall:
        return "No linear decoder was asked for."
    one = overall["linear"]
    parts = [
        f"On {whole['linear']['n_volumes']} held-out volumes of {one.n_units} {division.unit}"
        f"{'s' if one.n_units > 1 else ''} ({len(division.folds)} fold"
        f"{'s' if len(division.folds) > 1 else ''} by {division.unit}), a linear decoder "
        f"(L2-penalised logistic regression, penalty chosen within the training volumes) reached "
        f"a balanced accuracy of {_number(one)} ({division.unit}s averaged; chance {chance:.2f}"
        f"{_p(one.p)})"
    ]
    if difference is None:
        known = (description.accuracy or {}).get("balanced_accuracy")
        parts.append(
            f"; the model's description says {float(known):.2f} of other volumes, which cannot be "
            "paired."
            if known is not None
            else "; how well the model does on them is not known."
        )
        return "".join(parts)
    parts.append(
        f", the model {_number(overall[MODEL])}; difference {_number(difference)}"
        f"{_p(difference.p)}. {verdict(difference)}"
    )
    return "".join(parts)


def verdict(difference: OverUnits) -> str:
    """Return whether the linear decoder does as well, from the difference linear less model.

    Examples
    --------
    >>> verdict(OverUnits(0.01, -0.03, 0.04, 0.6, 12))
    'The linear decoder does as well as the model, within .05.'
    """
    low, high = difference.low, difference.high
    if not math.isfinite(low):
        return "There are too few units to say whether the linear decoder does as well."
    if low >= -ALIKE and high <= ALIKE:
        return f"The linear decoder does as well as the model, within {f'{ALIKE:.2f}'[1:]}."
    if low > 0:
        return "The linear decoder does better than the model."
    if high < 0:
        return "The linear decoder does worse than the model."
    return "These data cannot tell which of the two does better."


def _number(value: OverUnits) -> str:
    inside = (
        f" (95 % interval {value.low:.2f} to {value.high:.2f})" if math.isfinite(value.low) else ""
    )
    return f"{value.mean:.2f}{inside}"


def _p(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return f", sign-flip p {f'= {value:.3f}' if value >= 0.001 else '< 0.001'}"
