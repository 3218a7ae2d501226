"""Labels exchanged between blocks or subjects: what a model learns that has nothing to learn.

Maps of such a model owe nothing to the labels (Adebayo et al. 2018, data randomisation); give it
to ``g3dvit evaluate --null-model``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import SelectionError
from g3dvit.train.samples import Samples


def permute_labels(samples: Samples, *, seed: int = 0) -> Samples:
    """Return the same volumes with labels exchanged between whole pieces.

    Volumes one after another are no independent evidence, so a piece keeps one label: a stretch of
    one label and event, exchanged within its run; or, where labels belong to whole runs, a subject
    (a run, where a subject's runs differ).

    Parameters
    ----------
    samples
        With their true labels.
    seed
        Of the exchange.

    Raises
    ------
    SelectionError
        If there is nothing to exchange.
    """
    piece, within = _pieces(samples)
    first = np.unique(piece, return_index=True)[1]
    labels, groups = samples.label[first], within[first]
    rng = np.random.default_rng(seed)
    for _ in range(100):
        mixed = labels.copy()
        for group in np.unique(groups):
            mine = np.flatnonzero(groups == group)
            mixed[mine] = labels[rng.permutation(mine)]
        if (mixed != labels).any():
            return replace(samples, label=mixed[piece])
    raise SelectionError(
        "labels cannot be exchanged: no run has two blocks of different classes, and subjects do "
        "not differ"
    )


def _pieces(samples: Samples) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the piece of every volume, and the group within which pieces exchange labels."""
    if samples.whole_run_labels:
        subjects = np.unique(samples.subjects, return_inverse=True)[1]
        alone = all(len(set(samples.label[subjects == s])) == 1 for s in np.unique(subjects))
        found = subjects if alone else samples.run
        return _counted(found), np.zeros(len(samples), np.intp)
    key = np.stack([samples.run, samples.block, samples.label])
    fresh = np.ones(len(samples), bool)
    fresh[1:] = (key[:, 1:] != key[:, :-1]).any(axis=0)
    return np.cumsum(fresh) - 1, samples.run


def _counted(found: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.asarray(np.unique(found, return_inverse=True)[1], dtype=np.intp)
