"""Rows of the table of predictions, one per explained volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from g3dvit.explanation import Explanation
from g3dvit.run.targets import target_words
from g3dvit.volumes import Volume


def prediction_rows(
    run: str,
    volumes: Sequence[Volume],
    result: Explanation,
    labels: Sequence[str | None],
    blocks: Sequence[int | None],
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what the model says of some volumes.

    Parameters
    ----------
    run
        Name of their run.
    volumes, labels, blocks
        The prepared volumes, what they are called, and which event each belongs to.
    result
        Of explaining them, with a target axis.
    class_names
        In the order of the model's outputs.
    """
    logits = result.logits.double()
    probabilities, predicted = class_probabilities(logits)
    rows = []
    for n, volume in enumerate(volumes):
        row: dict[str, Any] = {
            "run": run,
            "time_point": volume.time_point,
            "onset_s": volume.onset_s,
            "label": labels[n],
            "predicted": class_names[predicted[n]],
            "target": target_words(result.target[n][0], class_names),
            "score": float(result.scores[n, 0]),
        }
        for name, value in zip(class_names, probabilities[n].tolist(), strict=True):
            row[f"p_{name}"] = value
        shown = class_names if logits.shape[1] > 1 else class_names[1:]
        for name, value in zip(shown, logits[n].tolist(), strict=True):
            row[f"logit_{name}"] = value
        row["block"] = blocks[n]
        rows.append(row)
    return rows


def class_probabilities(logits: Tensor) -> tuple[Tensor, list[int]]:
    """Return probabilities (volumes, classes) and the predicted classes.

    One output z stands for two classes: class 1 has the value z, class 0 has -z.
    """
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits[:, 0])
        probabilities = torch.stack([1 - positive, positive], dim=1)
        return probabilities, [int(z > 0) for z in logits[:, 0].tolist()]
    return logits.softmax(1), [int(c) for c in logits.argmax(1).tolist()]
