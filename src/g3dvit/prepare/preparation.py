"""`Preparation`: the recorded way from a file to what the model sees.

Order of the steps (stages; equal stages as written):

1. leave out dummy volumes
2. confounds and temporal filters, on the source grid, over the whole run
3. smoothing, on the source grid
4. brain mask on the source grid, if so described
5. reorient, crop, pad, resample, the user's own function: to the prepared grid
6. brain mask and background fill on the prepared grid
7. scale
8. standardise, on the prepared grid

Before all of them NaN and infinite voxels become 0; `Volume.n_not_finite` counts them. Steps
that must see a whole run (confounds, filters, global scaling, z-scores over time) take passes
of their own over the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import PreparationError
from g3dvit.grids import ImageGrid
from g3dvit.prepare import base, passes
from g3dvit.prepare.base import Step, check_keys
from g3dvit.prepare.denoise import Denoise, DropVolumes
from g3dvit.prepare.grid_steps import Crop, Pad, Reorient, Resample, UserFunction
from g3dvit.prepare.masks import BrainMasks
from g3dvit.prepare.presets import CHANGES, preset_steps
from g3dvit.prepare.spaces import judge_space, warn_all
from g3dvit.prepare.value_steps import Mask, Scale, Smooth, Standardise
from g3dvit.volumes import Series, Volume

STEPS: Mapping[str, type[Step]] = {
    kind.name: kind
    for kind in (
        DropVolumes, Denoise, Smooth, Mask, Reorient, Crop, Pad, Resample, UserFunction,
        Scale, Standardise,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Preparation:
    """The recorded steps from a source image to the model's grid; saved with the model.

    Parameters
    ----------
    steps
        In the order of the module's docstring.
    space
        BIDS name of the space in which the model was trained; None asks nothing of images.

    Raises
    ------
    PreparationError
        If steps are out of order, doubled, or lack a step that they need.

    Examples
    --------
    >>> preparation = Preparation.preset("MNI152NLin6Asym_2mm_90", standardise="time")
    >>> preparation.space, preparation.grid_of(ImageGrid((91, 109, 91), np.eye(4))).shape
    ('MNI152NLin6Asym', (90, 90, 90))
    >>> Preparation.from_dict(preparation.to_dict()) == preparation
    True
    """

    steps: tuple[Step, ...] = ()
    space: str | None = field(default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if self.space is not None and not (isinstance(self.space, str) and self.space):
            raise PreparationError(f"`space` is the name of a space, was given {self.space!r}")
        for step in self.steps:
            if not isinstance(step, Step):
                raise PreparationError(f"a preparation is made of steps, was given {step!r}")
        stages = [step.stage for step in self.steps]
        for before, after in itertools.pairwise(self.steps):
            if before.stage > after.stage:
                raise PreparationError(
                    f"the step {after.name!r} must come before {before.name!r}; the order is "
                    "drop_volumes, denoise, smooth, mask (source grid), reorient / crop / pad / "
                    "resample / user_function, mask (prepared grid), scale, standardise"
                )
            if before.stage == after.stage != base.GRID:
                raise PreparationError(f"the step {after.name!r} is there twice; once is allowed")
        masked = any(isinstance(s, Standardise) and s.kind == "masked" for s in self.steps)
        if masked and base.MASK_PREPARED not in stages:
            raise PreparationError(
                "a masked z-score needs the step 'mask' on the prepared grid before it"
            )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Preparation:
        """Return a named preparation with changes.

        Parameters
        ----------
        name
            ``"MNI152NLin6Asym_2mm_90"`` or ``"reference-crop"``.
        changes
            ``space`` and the parameters of `g3dvit.prepare.presets.build_steps`.

        Raises
        ------
        PreparationError
            If a name is unknown or a value not allowed.
        """
        space, steps = preset_steps(name, changes)
        return cls(steps, space)

    def to_dict(self) -> dict[str, Any]:
        """Return the preparation as plain values, fit for YAML and JSON."""
        return {"space": self.space, "steps": [step.to_dict() for step in self.steps]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """Return the preparation that `to_dict` or a person described.

        Parameters
        ----------
        values
            ``space`` and ``steps``; or the short form: ``preset`` (may be left out) and changes.

        Raises
        ------
        PreparationError
            If a key, a step or a value is not allowed.
        """
        if not isinstance(values, Mapping):
            raise PreparationError(f"a preparation is a mapping, was given {values!r}")
        if "steps" not in values:
            check_keys(values, ("preset", "space", "steps", *CHANGES), "a preparation")
            changes = {key: value for key, value in values.items() if key != "preset"}
            space, steps = preset_steps(values.get("preset"), changes)
            return cls(steps, space)
        check_keys(values, ("space", "steps"), "a preparation with steps")
        listed = values["steps"] or ()
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise PreparationError(f"`steps` is a list, was given {listed!r}")
        return cls(tuple(_step_from_dict(entry) for entry in listed), values.get("space"))

    def describe(self) -> list[str]:
        """Return one sentence per step, for pages and sidecars."""
        return [step.describe() for step in self.steps]

    @property
    def n_dropped(self) -> int:
        """How many volumes at the start of a run cannot be chosen."""
        return sum(step.n for step in self.steps if isinstance(step, DropVolumes))

    @property
    def needs_run(self) -> bool:
        """Whether some step must see the whole run."""
        return any(step.needs_run for step in self.steps)

    def grid_of(self, source: ImageGrid) -> ImageGrid:
        """Return the prepared grid of images on a source grid; exact, by affine."""
        for step in self.steps:
            source = step.grid_of(source)
        return source

    def time_points(self, series: Series) -> tuple[int, ...]:
        """Return the time points of a run that may be chosen."""
        if self.n_dropped >= series.n_time_points:
            raise PreparationError(
                f"the preparation leaves out the first {self.n_dropped} volumes, and "
                f"{series.path} has only {series.n_time_points}"
            )
        return tuple(range(self.n_dropped, series.n_time_points))

    def stream(
        self,
        series: Series,
        time_points: Sequence[int] | None = None,
        *,
        mask: str | Path | None = None,
        confounds: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Volume]:
        """Yield prepared volumes in ascending time, in as many passes as the steps need.

        Parameters
        ----------
        series
            The run.
        time_points
            Which volumes; by default all that are not left out.
        mask
            Brain mask file, instead of the one beside the run.
        confounds
            Table of confounds, instead of the one beside the run.
        progress
            Called with the number of volumes read so far and in all, over all passes.

        Raises
        ------
        SelectionError
            If a time point does not exist, is left out or named twice.
        SpaceError
            If the run is not in the model's space, see `check_space`.
        PreparationError
            If a step cannot be applied: no mask, no table, too short a run ...
        """
        chosen = passes.choose(series, time_points, self.time_points(series))
        check_space(self, series)
        masks = BrainMasks(series.path, None if mask is None else Path(mask))
        table = None if confounds is None else Path(confounds)
        return passes.stream_run(self.steps, series, chosen, masks, table, progress)

    def apply(self, volume: Volume, *, mask: str | Path | None = None) -> Volume:
        """Return one volume after the steps.

        Raises
        ------
        PreparationError
            If a step needs the whole run: use `stream`.
        """
        for step in self.steps:
            if step.needs_run:
                raise PreparationError(
                    f"the step {step.name!r} needs the whole run, not one volume; prepare the "
                    "run with `stream`"
                )
        masks = BrainMasks(Path(volume.source), None if mask is None else Path(mask))
        prepared, _ = passes.run_steps(self.steps, passes.without_gaps(volume), masks)
        return passes.contiguous(prepared)

    def brain_mask(
        self, series: Series, mask: str | Path | None = None
    ) -> NDArray[np.bool_] | None:
        """Return the brain mask on the prepared grid, or None where no step has one.

        A mask of voxels that are not 0 is that of the first volume that may be chosen.
        """
        steps = [step for step in self.steps if isinstance(step, Mask)]
        if not steps:
            return None
        masks = BrainMasks(series.path, None if mask is None else Path(mask))
        if steps[-1].source == "file":
            return masks.on_grid(self.grid_of(series.grid))
        first = next(series.stream(self.time_points(series)[:1]))
        grid_steps = [s for s in self.steps if s.stage in (base.SMOOTH, base.GRID)]
        prepared, _ = passes.run_steps(grid_steps, passes.without_gaps(first), masks)
        return masks.of(prepared, "nonzero")


def check_space(preparation: Preparation, series: Series) -> tuple[str, ...]:
    """Warn about, or refuse, a run that is not in the space of the model.

    Returns
    -------
    notes
        Sentences for the output: an inferred space, data coarser than the model's grid.

    Raises
    ------
    SpaceError
        If the run is in native space, or nothing tells which space it is in.

    Warns
    -----
    G3DWarning
        If the run is in another standard space.
    """
    warned, notes = judge_space(preparation.space, preparation.grid_of(series.grid), series)
    warn_all(warned)
    return notes


def _step_from_dict(values: Any) -> Step:
    if not isinstance(values, Mapping) or "step" not in values:
        raise PreparationError(
            f"a step is a mapping with its name under 'step', was given {values!r}; names are "
            f"{', '.join(STEPS)}"
        )
    base.check_choice("step", values["step"], STEPS)
    return STEPS[values["step"]].from_dict(values)
