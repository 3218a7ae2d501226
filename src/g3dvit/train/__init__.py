"""The small reference trainer: from runs and labels to a model that can be explained.

It exists so that the demonstration and own first models need no other tool; it is plain PyTorch
and scikit-learn, and no substitute for a training framework. `train_model` is the whole job.
"""

from __future__ import annotations

from g3dvit.train.fit import Fitting
from g3dvit.train.job import train_model
from g3dvit.train.linear import LinearDecoder
from g3dvit.train.report import FoldReport, TrainingReport
from g3dvit.train.samples import Samples, load_samples
from g3dvit.train.split import Fold, check_fold, make_folds

__all__ = [
    "Fitting",
    "Fold",
    "FoldReport",
    "LinearDecoder",
    "Samples",
    "TrainingReport",
    "check_fold",
    "load_samples",
    "make_folds",
    "train_model",
]
