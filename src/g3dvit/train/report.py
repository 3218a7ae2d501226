"""What a training reports: accuracy on held-out volumes, per fold and in all. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from g3dvit.accuracy import independent_units


@dataclass(frozen=True, slots=True)
class FoldReport:
    """One fold in numbers.

    Parameters
    ----------
    held_out
        What was tested.
    n_train, n_test, n_gap
        Volumes trained on, tested, and left out because they are too near to tested ones.
    train_accuracy
        On the training volumes, in the last epoch.
    balanced_accuracy, linear_balanced_accuracy
        Of the model and of the linear decoder on the tested volumes; NaN where not computed.
    """

    held_out: tuple[str, ...]
    n_train: int
    n_test: int
    n_gap: int
    train_accuracy: float
    balanced_accuracy: float
    linear_balanced_accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainingReport:
    """What `g3dvit.train.train_model` did.

    Parameters
    ----------
    folder
        Where it was written.
    class_names
        In the order of the outputs.
    unit
        What was held out as a whole: subject, run or block.
    folds
        One report per fold.
    predictions
        One row per held-out volume: fold, run, subject, time_point, onset_s, block, label,
        predicted, linear_predicted, p_<class>.
    refitted
        Whether the written model was trained once more, on all volumes.
    permuted
        Whether labels had been exchanged: a null model, whose accuracy is about such labels too.
    """

    folder: Path
    class_names: tuple[str, ...]
    unit: str
    folds: tuple[FoldReport, ...]
    predictions: pd.DataFrame = field(repr=False)
    refitted: bool
    permuted: bool = False

    @property
    def n_correct(self) -> int:
        """Held-out volumes classified correctly."""
        return int((self.predictions["label"] == self.predictions["predicted"]).sum())

    @property
    def n_total(self) -> int:
        """Held-out volumes."""
        return len(self.predictions)

    @property
    def balanced_accuracy(self) -> float:
        """Mean over classes of the share classified correctly, over all held-out volumes."""
        return balanced_accuracy(self.predictions["label"], self.predictions["predicted"])

    @property
    def linear_balanced_accuracy(self) -> float:
        """The same of the linear decoder; NaN where it was not trained."""
        if self.predictions["linear_predicted"].isna().any():
            return float("nan")
        return balanced_accuracy(self.predictions["label"], self.predictions["linear_predicted"])

    def accuracy(self) -> Mapping[str, Any]:
        """Return what a model description says about held-out accuracy.

        Counted are independent units, blocks or whole runs, of each class in the order of
        `class_names`: a unit counts as the share of its class's volumes classified correctly.
        """
        units = pd.Series(independent_units(self.predictions), index=self.predictions.index)
        n_correct, n_total = [], []
        for name in self.class_names:
            mine = self.predictions["label"] == name
            n_units = units[mine].nunique()
            recall = float((self.predictions.loc[mine, "predicted"] == name).mean())
            n_correct.append(round(recall * n_units, 2))
            n_total.append(n_units)
        whole_runs = self.predictions.groupby("run")["label"].nunique().max() == 1
        return {
            "n_correct": n_correct,
            "n_total": n_total,
            "unit": "run" if whole_runs else "block",
            "balanced_accuracy": round(self.balanced_accuracy, 4),
            "held_out": self.unit,
            **({"permuted_labels": True} if self.permuted else {}),
        }

    def sentence(self) -> str:
        """Return the accuracy in one sentence."""
        text = (
            f"held-out balanced accuracy {self.balanced_accuracy:.2f} "
            f"({self.n_correct} of {self.n_total} volumes, split by {self.unit}"
            f", {len(self.folds)} fold{'s' if len(self.folds) > 1 else ''})"
        )
        if not np.isnan(self.linear_balanced_accuracy):
            text += f"; linear decoder {self.linear_balanced_accuracy:.2f}"
        if self.permuted:
            text += (
                ". A null model: its labels were exchanged, and these numbers are about them. For "
                "g3dvit evaluate --null-model; its maps show nothing"
            )
        return text


def balanced_accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Return the mean over classes of the share classified correctly.

    Parameters
    ----------
    labels, predicted : (n,)
        Names or numbers of classes; classes without a volume do not count.

    Examples
    --------
    >>> balanced_accuracy(["a", "a", "a", "b"], ["a", "a", "b", "b"])
    0.8333333333333333
    """
    truth, answer = np.asarray(labels), np.asarray(predicted)
    shares = [float(np.mean(answer[truth == name] == name)) for name in np.unique(truth)]
    return float(np.mean(shares)) if shares else float("nan")
