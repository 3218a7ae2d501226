"""From a source image to the model's grid, in recorded steps.

A model must be explained with what it was trained on: a `Preparation` is saved with the model.
Start with `Preparation.preset`; the steps are listed in `STEPS`, their order in
`g3dvit.prepare.preparation`.
"""

from __future__ import annotations

from g3dvit.prepare.denoise import Denoise, DropVolumes
from g3dvit.prepare.grid_steps import Crop, Pad, Reorient, Resample, UserFunction
from g3dvit.prepare.preparation import STEPS, Preparation, check_space
from g3dvit.prepare.presets import PRESETS
from g3dvit.prepare.spaces import infer_space
from g3dvit.prepare.value_steps import Mask, Scale, Smooth, Standardise

__all__ = [
    "PRESETS",
    "STEPS",
    "Crop",
    "Denoise",
    "DropVolumes",
    "Mask",
    "Pad",
    "Preparation",
    "Reorient",
    "Resample",
    "Scale",
    "Smooth",
    "Standardise",
    "UserFunction",
    "check_space",
    "infer_space",
]
