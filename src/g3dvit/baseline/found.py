"""What the approaches leave behind, fold by fold, before it is summarised."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from g3dvit.baseline.searchlight import Spheres

Array = NDArray[np.float64]
MODEL = "model"
_NO = float("nan")


@dataclass(slots=True)
class Found:
    """What the approaches found, filled as they are done.

    Parameters
    ----------
    answers
        Approach to the class indices of each fold's test.
    maps
        Name to (maps, voxels) of each fold.
    strengths, inner
        C and number of inner folds, per fold.
    glm_all, glm_words
        z of all volumes, (contrasts, voxels), and how.
    spheres, radius_mm
        Of the searchlight.
    notes
        What a reader should know.
    """

    answers: dict[str, list[NDArray[np.intp]]] = field(default_factory=dict)
    maps: dict[str, list[Array]] = field(default_factory=dict)
    strengths: list[float] = field(default_factory=list)
    inner: list[int] = field(default_factory=list)
    glm_all: Array | None = None
    glm_words: str = ""
    spheres: Spheres | None = None
    radius_mm: float = _NO
    notes: list[str] = field(default_factory=list)
