"""What simpler methods find on the same volumes: linear decoder, GLM, searchlight.

Same images, preparation, labels and folds as the model's, so that accuracies and maps can be
compared. Terms: a *unit* is what folds hold out as a whole (subject, run or block of a run); an
*approach* is one of the three, or the model. Nothing here looks inside a model.
"""

from __future__ import annotations

from g3dvit.baseline.job import run_baseline
from g3dvit.baseline.settings import BaselineSettings
from g3dvit.baseline.summary import Baseline
from g3dvit.baseline.write import write_baseline

__all__ = ["Baseline", "BaselineSettings", "run_baseline", "write_baseline"]
