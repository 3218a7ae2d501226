"""Everything that is measured on, read once: volumes, brain, images of the run, models.

Terms: the *frame* is the input's own (i, j, k) order, in which maps come and patches are counted
(C order, k fastest); volumes and affines are in volume order. Only distances in mm need the
latter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from g3dvit.descriptions import ModelDescription
from g3dvit.errors import DescriptionError, G3DWarning, InputError, SelectionError
from g3dvit.evaluate.plan import Plan
from g3dvit.explain import Explainer
from g3dvit.explain_inputs import to_input
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.prepare import Preparation
from g3dvit.prepare.masks import BrainMasks
from g3dvit.prepare.resample import to_grid
from g3dvit.run.accuracy import is_null_model
from g3dvit.run.inputs import OpenRun
from g3dvit.run.record import weights_hash
from g3dvit.run.setup import load_described, patches_of, preparation_of
from g3dvit.volumes import Series, open_series

Progress = Callable[[int, int, str], None]
_LEAST_BRAIN = 0.02  # of the volume
FRAMEWISE = "framewise_displacement"


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One model.

    Parameters
    ----------
    name
        For tables.
    module, description, explainer
        The model, what is known of it, and what explains it.
    """

    name: str
    module: nn.Module = field(repr=False)
    description: ModelDescription = field(repr=False)
    explainer: Explainer = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class RunImages:
    """What a run looks like apart from any model, on the prepared grid.

    Parameters
    ----------
    mean, tsnr : (i, j, k)
        Mean over time, and that over the standard deviation around a straight line; NaN outside
        the images and where nothing varies.
    """

    mean: NDArray[np.float64] = field(repr=False)
    tsnr: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What is measured on.

    Parameters
    ----------
    model
        The model that is judged.
    plan
        The volumes, and which half each is in.
    x, neighbours : (volumes, *input_shape)
        Chosen volumes and their next time points (NaN where there is none), as the model takes
        them.
    brain : (patches,)
        Which patches hold brain.
    brain_source
        Where the mask is from.
    patches
        In volume order.
    images
        One per run; None for runs of which no volume was chosen.
    motion : (volumes,)
        Framewise displacement in mm, NaN where unknown.
    given
        Maps from elsewhere, name to (patches,): the mean size |value| in each patch.
    """

    model: Candidate
    plan: Plan
    x: Tensor = field(repr=False)
    neighbours: Tensor = field(repr=False)
    brain: NDArray[np.bool_] = field(repr=False)
    brain_voxels: NDArray[np.bool_] = field(repr=False)
    brain_source: str
    patches: PatchGrid
    images: tuple[RunImages | None, ...] = field(repr=False)
    motion: NDArray[np.float64] = field(repr=False)
    given: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    @property
    def inside(self) -> NDArray[np.intp]:
        """Which patches may be removed."""
        return np.flatnonzero(self.brain)

    def arrays(self) -> list[NDArray[Any]]:
        """Return all that was read: volumes, brain, pictures of the runs, motion."""
        read = [self.x.numpy(), self.neighbours.numpy(), self.brain_voxels, self.motion]
        return read + [one for run in self.images if run for one in (run.mean, run.tsnr)]

    def volume(self, n: int, network: nn.Module) -> Tensor:
        """Return one volume, (1, *input_shape), of the model's type and on its device."""
        return to_input(self.x[n : n + 1], network)

    def frame(self, n: int) -> NDArray[np.float64]:
        """Return one volume in the frame, (i, j, k), its first channel."""
        return first_channel(self.x[n].numpy(), self.model)


def load_candidate(
    model: str | Path | nn.Module, device: str, *, name: str | None = None
) -> Candidate:
    """Load a described model and probe it."""
    module, description = load_described(model, device)
    stem = description.path.stem if description.path else type(module).__name__
    return Candidate(name or stem, module, description, Explainer(module))


def check_alike(main: Candidate, other: Candidate) -> None:
    """Refuse a further model that does not see what the first one sees.

    Raises
    ------
    DescriptionError
        If its preparation, input or patches are others.
    """
    ours, theirs = main.explainer.geometry, other.explainer.geometry
    same = (
        preparation_of(main.description).to_dict() == preparation_of(other.description).to_dict(),
        main.description.input_axes == other.description.input_axes,
        (ours.input_shape, ours.patch_size) == (theirs.input_shape, theirs.patch_size),
        ours.num_outputs == theirs.num_outputs,
    )
    for fits, what in zip(same, ("preparation", "axes", "patches", "classes"), strict=True):
        if not fits:
            raise DescriptionError(
                f"the models {main.name} and {other.name} have different {what}; models that are "
                "compared with each other must see the same volumes in the same patches"
            )


def notes_on_nulls(main: Candidate, nulls: Sequence[Candidate]) -> list[str]:
    """Return what a reader must know of models that were said to have nothing to learn.

    Raises
    ------
    DescriptionError
        If one of them is the model itself.
    """
    own = weights_hash(main.description)
    for null in nulls:
        if own and weights_hash(null.description) == own:
            raise DescriptionError(
                f"the null model {null.name} has the weights of the model itself; train one on "
                "exchanged labels: g3dvit train --permute-labels, the same arguments otherwise"
            )
    notes = [
        f"The description of {null.name} does not say that it was trained on exchanged labels "
        "(g3dvit train --permute-labels writes that): if it was not, like_permuted means nothing."
        for null in nulls
        if not is_null_model(null.description)
    ]
    if is_null_model(main.description):
        notes.append("The model is a null model itself: it was trained on exchanged labels.")
    return notes


def prepare_volumes(
    candidate: Candidate,
    preparation: Preparation,
    runs: Sequence[OpenRun],
    grid: ImageGrid,
    plan: Plan,
    progress: Progress | None = None,
    given: Mapping[str, Path] | None = None,
) -> Prepared:
    """Read the chosen volumes, and the runs' mean and temporal SNR in a second pass.

    Parameters
    ----------
    candidate
        The model.
    preparation, runs, grid
        As checked by `g3dvit.run.setup`.
    plan
        Which volumes.
    progress
        Called with (volumes read, in all, what is going on).
    given
        Maps from elsewhere, name to file.
    """
    elsewhere = {name: load_given(path, grid, candidate) for name, path in (given or {}).items()}
    description = candidate.description
    shape = candidate.explainer.geometry.input_shape
    x = torch.zeros((len(plan.picks), *shape))
    after = torch.full_like(x, math.nan)
    images: list[RunImages | None] = [None] * len(runs)
    motion = np.full(len(plan.picks), np.nan)
    for number, run in enumerate(runs):
        mine = [n for n, pick in enumerate(plan.picks) if pick.run == number]
        if not mine:
            continue
        wanted = {plan.picks[n].time_point for n in mine}
        next_ones = {t for n in mine if (t := plan.picks[n].neighbour) is not None}
        report = None if progress is None else _reading(progress, run.name)
        for volume in preparation.stream(
            run.series,
            sorted(wanted | next_ones),
            mask=run.mask,
            confounds=run.confounds,
            progress=report,
        ):
            one = torch.from_numpy(np.array(description.to_input(volume.data[None])[0]))
            for n in mine:
                pick = plan.picks[n]
                if pick.time_point == volume.time_point:
                    x[n] = one
                if pick.neighbour == volume.time_point:
                    after[n] = one
        images[number] = run_images(run.series, grid, preparation.n_dropped)
        if run.confounds is not None:
            displacement = framewise_displacement(run.confounds, run.series)
            if displacement is None:
                warnings.warn(
                    f"{run.confounds} has no column {FRAMEWISE}: maps are not compared with motion",
                    G3DWarning,
                    stacklevel=2,
                )
            else:
                motion[mine] = [displacement[plan.picks[n].time_point] for n in mine]
    first = plan.picks[0].run
    seen = images[first]
    assert seen is not None  # a volume of it was chosen
    voxels, source = brain_of(preparation, runs[first], grid, seen.mean)
    patches = patches_of(description, candidate.explainer, grid)
    brain = patch_means(to_frame(voxels.astype(np.float32), candidate), candidate) > 0
    if brain.sum() < 2:
        raise InputError(
            f"the brain ({source}) covers {int(brain.sum())} patches of the model, too few to "
            "remove some; give a mask that fits (--mask)"
        )
    return Prepared(
        candidate, plan, x, after, brain, voxels, source, patches, tuple(images), motion, elsewhere
    )


def _reading(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(done, total, f"reading {name}")


def load_given(path: Path, grid: ImageGrid, candidate: Candidate) -> NDArray[np.float64]:
    """Return the mean |value| of an image in each patch, (patches,).

    Raises
    ------
    InputError
        If the image holds several volumes, or nothing where the model looks.
    """
    series = open_series(path)
    if series.n_time_points != 1:
        raise InputError(f"{path} holds {series.n_time_points} volumes; a map is one")
    volume = next(series.stream())
    size = np.abs(np.nan_to_num(volume.data, posinf=0, neginf=0))
    found = to_grid(size, volume.grid, grid)
    if not found.any():
        raise InputError(
            f"{path} has no value where the model looks; it must lie in the same space"
        )
    return patch_means(to_frame(found, candidate), candidate)


# -- frames ------------------------------------------------------------------------------------
def first_channel(x: NDArray[np.float32], candidate: Candidate) -> NDArray[np.float64]:
    """Return one input (*input_shape) in the frame, its first channel."""
    axes = candidate.explainer.geometry.spatial_axes
    moved = np.moveaxis(x, axes, (0, 1, 2))
    return np.asarray(moved.reshape(*moved.shape[:3], -1)[..., 0], dtype=np.float64)


def to_frame(volume: NDArray[np.float32], candidate: Candidate) -> NDArray[np.float64]:
    """Bring an image (i, j, k) on the prepared grid into the frame."""
    return first_channel(candidate.description.to_input(volume[None])[0], candidate)


def patch_means(frame: NDArray[np.float64], candidate: Candidate) -> NDArray[np.float64]:
    """Return the mean over each patch, (patches,), leaving out what is not finite."""
    geometry = candidate.explainer.geometry
    sizes = [n for pair in zip(geometry.grid_shape, geometry.patch_size, strict=True) for n in pair]
    parts = frame.reshape(sizes).transpose(0, 2, 4, 1, 3, 5).reshape(geometry.num_patches, -1)
    known = np.isfinite(parts)
    total = np.where(known, parts, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


# -- the run itself ------------------------------------------------------------------------------
def run_images(series: Series, grid: ImageGrid, n_dropped: int = 0) -> RunImages:
    """Return mean and temporal SNR of a run, brought to the prepared grid; one pass.

    Temporal SNR is the mean over the standard deviation around a straight line in time, of the
    images as they are in the file.
    """
    times = np.arange(n_dropped, series.n_time_points)
    clock = (times - times.mean()) / max(1.0, float(times.std() * math.sqrt(len(times))))
    total = square = slope = np.zeros(series.grid.shape)
    first: NDArray[np.float64] | None = None
    for t, volume in zip(clock, series.stream(tuple(times.tolist())), strict=True):
        data = np.nan_to_num(volume.data.astype(np.float64), posinf=0, neginf=0)
        first = data if first is None else first
        away = data - first  # from the first volume, so that squares keep their digits
        total, square, slope = total + away, square + away**2, slope + t * away
    n = len(times)
    assert first is not None  # a run has a volume
    mean = first + total / n
    rest = np.maximum(square - total**2 / n - slope**2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(rest / max(1, n - 2))
        tsnr = np.where(sd > 1e-6 * np.abs(mean), mean / sd, 0)
    inside = to_grid(np.ones(mean.shape, np.float32), series.grid, grid, interpolation="nearest")
    found = [
        np.where(inside > 0, to_grid(one.astype(np.float32), series.grid, grid), np.nan)
        for one in (mean, tsnr)
    ]
    return RunImages(np.asarray(found[0], np.float64), np.asarray(found[1], np.float64))


def brain_of(
    preparation: Preparation, run: OpenRun, grid: ImageGrid, mean: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], str]:
    """Return the brain on the prepared grid, and where it is from.

    The preparation's own mask; else the file given; else voxels that are not 0, where the
    background of the mean image is 0; else the largest bright part of the mean image, or all of
    it where that is hardly anything.
    """
    own = preparation.brain_mask(run.series, run.mask)
    if own is not None:
        return own, "the preparation's brain mask"
    if run.mask is not None:
        return BrainMasks(run.series.path, run.mask).on_grid(grid), f"the mask {run.mask.name}"
    known = np.nan_to_num(mean)
    if (known == 0).mean() > 0.1:
        return known != 0, "voxels of the mean image that are not 0"
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    image = nib.Nifti1Image(known.astype(np.float32), grid.affine)
    found = np.asarray(compute_epi_mask(image).dataobj) > 0
    if found.mean() < _LEAST_BRAIN:
        return np.isfinite(mean), "the whole image, because no brain was found in it (give --mask)"
    return found, "bright voxels of the mean image (nilearn's compute_epi_mask)"


def framewise_displacement(path: Path, series: Series) -> NDArray[np.float64] | None:
    """Return framewise displacement of every time point in mm; None where the table has none.

    Raises
    ------
    SelectionError
        If the table cannot be read, or its length is not that of the run.
    """
    try:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"])
    except (OSError, ValueError) as error:
        raise SelectionError(f"the confounds {path} cannot be read: {error}") from error
    if FRAMEWISE not in table.columns:
        return None
    if len(table) != series.n_time_points:
        raise SelectionError(
            f"{path} has {len(table)} rows, but {series.path} has {series.n_time_points} volumes"
        )
    return np.asarray(pd.to_numeric(table[FRAMEWISE], errors="coerce"), dtype=np.float64)
