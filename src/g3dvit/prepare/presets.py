"""Named grids, and the short form in which people write a preparation.

The short form has a preset and changes to it::

    preparation:
      preset: MNI152NLin6Asym_2mm_90
      standardise: time
      trend_degree: 1

Its keys are the parameters of `build_steps`. It is turned into steps when it is read; a saved
preparation lists all its steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from g3dvit.errors import PreparationError
from g3dvit.prepare.base import Step, check_choice, check_keys
from g3dvit.prepare.denoise import Denoise, DropVolumes
from g3dvit.prepare.grid_steps import Crop, Reorient, Resample, UserFunction
from g3dvit.prepare.value_steps import Mask, Scale, Smooth, Standardise

_MNI_2MM_90 = (
    (2.0, 0.0, 0.0, -90.0),
    (0.0, 2.0, 0.0, -106.0),
    (0.0, 0.0, 2.0, -72.0),
    (0, 0, 0, 1),
)
_FSL = "MNI152NLin6Asym"

# name: space, grid steps, standardisation unless changed
PRESETS: Mapping[str, tuple[str, tuple[Step, ...], str]] = {
    # Holds the brain of the 2 mm FSL template but for its outermost rim (99.99 % of its mask).
    "MNI152NLin6Asym_2mm_90": (
        _FSL,
        (Reorient("RAS"), Resample((90, 90, 90), _MNI_2MM_90)),
        "volume",
    ),
    # data[1:, 10:-9, 1:] of 91x109x91 volumes as stored: left and right stay as in the file.
    "reference-crop": (_FSL, (Crop((1, 10, 1), (None, -9, None)),), "volume"),
}


def build_steps(
    grid_steps: Sequence[Step],
    *,
    standardise: str = "none",
    trend_degree: int = 1,
    ddof: int = 1,
    drop_volumes: int = 0,
    confounds: Sequence[str] | str = (),
    confounds_strategy: Sequence[str] | str = (),
    high_pass_hz: float | None = None,
    low_pass_hz: float | None = None,
    filter: str = "butterworth",
    keep_mean: bool = False,
    smoothing_mm: float | None = None,
    mask: str | None = None,
    fill: float | None = 0.0,
    mask_grid: str = "prepared",
    interpolation: str | None = None,
    prepare: str | None = None,
    scale: str | None = None,
    scale_target: float = 100.0,
) -> tuple[Step, ...]:
    """Return the steps of a preparation in their order.

    Parameters
    ----------
    grid_steps
        Of the preset.
    standardise
        ``"volume"``, ``"masked"`` (a mask from file unless `mask` says otherwise), ``"time"``
        or ``"none"``.
    trend_degree, ddof
        See `Standardise`.
    drop_volumes
        How many volumes at the start of a run are left out.
    confounds, confounds_strategy, high_pass_hz, low_pass_hz, filter, keep_mean
        See `Denoise`.
    smoothing_mm
        Full width at half maximum.
    mask, fill, mask_grid
        ``"file"`` or ``"nonzero"``; see `Mask`.
    interpolation
        Of the preset's resampling.
    prepare
        The user's own function, ``"package.module:function"``, after the preset's grid steps.
    scale, scale_target
        ``"minmax"`` or ``"global"``; see `Scale`.
    """
    steps: list[Step] = []
    if drop_volumes:
        steps.append(DropVolumes(drop_volumes))
    if confounds or confounds_strategy or high_pass_hz is not None or low_pass_hz is not None:
        denoise: dict[str, Any] = {
            "columns": confounds,
            "strategy": confounds_strategy,
            "high_pass_hz": high_pass_hz,
            "low_pass_hz": low_pass_hz,
            "filter": filter,
            "keep_mean": keep_mean,
        }
        steps.append(Denoise(**denoise))
    if smoothing_mm is not None:
        steps.append(Smooth(smoothing_mm))
    if standardise == "masked" and mask is None:
        mask = "file"
    brain = [] if mask is None else [_make(Mask, source=mask, fill=fill, grid=mask_grid)]
    if mask_grid == "source":
        steps += brain
    for step in grid_steps:
        if interpolation is not None and isinstance(step, Resample):
            step = _make(
                Resample, shape=step.shape, affine=step.affine, interpolation=interpolation
            )
        steps.append(step)
    if prepare is not None:
        steps.append(UserFunction(prepare))
    if mask_grid != "source":
        steps += brain
    if scale is not None:
        steps.append(_make(Scale, kind=scale, target=scale_target))
    steps.append(_make(Standardise, kind=standardise, trend_degree=trend_degree, ddof=ddof))
    return tuple(steps)


def _make(step: type[Step], /, **arguments: Any) -> Step:
    return step(**arguments)


CHANGES = tuple(list(inspect.signature(build_steps).parameters)[1:])


def preset_steps(
    name: str | None, changes: Mapping[str, Any]
) -> tuple[str | None, tuple[Step, ...]]:
    """Return the space and the steps of a preset with changes.

    Parameters
    ----------
    name
        A name of `PRESETS`; None for no grid steps, no space and no standardisation.
    changes
        Parameters of `build_steps`, and ``space``.

    Raises
    ------
    PreparationError
        If the preset or a change is unknown, or a value is not allowed.
    """
    check_keys(changes, ("space", *CHANGES), "a preparation")
    arguments = dict(changes)
    space: str | None = None
    grid_steps: tuple[Step, ...] = ()
    if name is not None:
        check_choice("preset", name, PRESETS)
        space, grid_steps, standardise = PRESETS[name]
        arguments.setdefault("standardise", standardise)
    space = arguments.pop("space", space)
    try:
        return space, build_steps(grid_steps, **arguments)
    except TypeError as error:
        raise PreparationError(
            f"the preparation {dict(changes)} cannot be made: {error}"
        ) from error
