"""What is known about the model's accuracy: on these volumes, or from its description."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from g3dvit.accuracy import at_chance_words, balanced_accuracy, independent_units, model_at_chance
from g3dvit.checks import Check
from g3dvit.descriptions import ModelDescription


def accuracy_check(
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    description: ModelDescription,
    *,
    trained: Sequence[str] = (),
) -> Check:
    """Judge whether the model is better than chance.

    The explained volumes decide where they have labels of at least two classes and the model was
    not trained on them; otherwise what the description says of its held-out data.

    Parameters
    ----------
    predictions
        One row per volume: run, time_point, label, predicted.
    class_names
        In the order of the outputs.
    description
        Of the model; its `accuracy` has counts on held-out data.
    trained
        Which of the explained runs the model was trained on.
    """
    if is_null_model(description):
        return Check(
            "better than chance",
            math.nan,
            None,
            1 / len(class_names),
            "fail",
            "This is a null model: it was trained on exchanged labels, so its maps show nothing.",
        )
    labels = [
        class_names.index(label) if label in class_names else None
        for label in predictions["label"].tolist()
    ]
    predicted = [class_names.index(name) for name in predictions["predicted"].tolist()]
    here = model_at_chance(
        predicted, labels, num_classes=len(class_names), units=independent_units(predictions)
    )
    if not trained and not math.isnan(here.value):
        return here
    described = described_accuracy(description, len(class_names))
    if described is None and trained:
        return unknown_accuracy(len(class_names))
    return described or here


def is_null_model(description: ModelDescription) -> bool:
    """Return whether the description says that the labels of the training were exchanged."""
    return bool((description.accuracy or {}).get("permuted_labels"))


def unknown_accuracy(num_classes: int) -> Check:
    """Return the check of a model that was trained on these volumes and tells no accuracy."""
    return Check(
        "better than chance",
        math.nan,
        None,
        1 / num_classes,
        "warn",
        "Accuracy unknown: these volumes were used in training, and the description of the "
        "model gives no held-out accuracy. A map of a model that guesses shows nothing.",
    )


def described_accuracy(description: ModelDescription, num_classes: int) -> Check | None:
    """Return what the description says of held-out data, or None where it says nothing."""
    known = description.accuracy or {}
    if "n_correct" not in known or "n_total" not in known:
        return None
    chance = 1 / num_classes
    accuracy, low, high = balanced_accuracy(known["n_correct"], known["n_total"])
    facts = (
        f"balanced accuracy {accuracy:.2f}, 95 % interval {low:.2f} to {high:.2f} over "
        f"{sum(known['n_total']):.0f} held-out {known.get('unit', 'unit')}s, as its description "
        f"says; chance {chance:.2f}"
    )
    if low <= chance:
        sentence = at_chance_words(accuracy, chance, facts)
        return Check("better than chance", low, None, chance, "fail", sentence)
    return Check(
        "better than chance",
        low,
        None,
        chance,
        "pass",
        f"This model is better than chance ({facts}).",
    )
