"""Check that model, preparation and runs fit together, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from g3dvit.descriptions import ModelDescription, overlaps_training
from g3dvit.errors import DescriptionError, GridError, InputError, SelectionError
from g3dvit.explain import Explainer
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.models import load_model
from g3dvit.prepare import Preparation, check_space
from g3dvit.run.inputs import OpenRun


def load_described(
    model: str | Path | nn.Module, device: str
) -> tuple[nn.Module, ModelDescription]:
    """Return the model and its description.

    Raises
    ------
    DescriptionError
        If a module was given that has none.
    """
    network = model if isinstance(model, nn.Module) else load_model(model, device=device)
    description = getattr(network, "description", None)
    if not isinstance(description, ModelDescription):
        raise DescriptionError(
            "this module has no description, so nobody knows how its volumes are prepared; load it "
            "with g3dvit.load_model('model.yaml') (`g3dvit init` writes the file), or give "
            "prepared volumes to g3dvit.Explainer(model)"
        )
    return network, description


def preparation_of(description: ModelDescription) -> Preparation:
    """Return the preparation that the description names.

    Raises
    ------
    DescriptionError
        If it names none.
    """
    if description.preparation is None:
        raise DescriptionError(
            f"{description.path or 'the model description'} has no `preparation:`; write down how "
            "the volumes were prepared that the model was trained on (see `g3dvit check`)"
        )
    return description.preparation


def class_names_of(explainer: Explainer) -> tuple[str, ...]:
    """Return the names of the classes, ``class 0`` ... where none are given.

    Raises
    ------
    DescriptionError
        If there are more or fewer names than classes.
    """
    classes = max(2, explainer.geometry.num_outputs)
    names = explainer.class_names or tuple(f"class {c}" for c in range(classes))
    if len(names) != classes:
        raise DescriptionError(
            f"the description names {len(names)} classes ({', '.join(names)}), but the model tells "
            f"{classes} apart; give one name per class, in the order of the outputs"
        )
    return names


def patches_of(description: ModelDescription, explainer: Explainer, grid: ImageGrid) -> PatchGrid:
    """Return the patches of the prepared volume, in the volume's (i, j, k) order.

    Raises
    ------
    InputError
        If the model takes volumes of another shape than the preparation makes.
    """
    geometry = explainer.geometry
    prepared = np.broadcast_to(np.float32(0), (1, *grid.shape))
    shape = description.to_input(prepared).shape[1:]
    if tuple(shape) != tuple(geometry.input_shape):
        raise InputError(
            f"the preparation makes volumes of {grid.shape} voxels, which reach the model as "
            f"{tuple(shape)}, but the model takes {geometry.input_shape}; mend `preparation:` or "
            f"`input_axes:` of the description"
        )
    counts = description.from_input(np.empty((1, *geometry.grid_shape), np.float32)).shape[1:]
    sizes = tuple(n // g for n, g in zip(grid.shape, counts, strict=True))
    return PatchGrid(grid, (sizes[0], sizes[1], sizes[2]))


def one_grid(preparation: Preparation, runs: Sequence[OpenRun]) -> ImageGrid:
    """Return the grid on which all runs come to lie.

    Raises
    ------
    GridError
        If they come to lie on different grids.
    """
    grids = [preparation.grid_of(run.series.grid) for run in runs]
    for run, grid in zip(runs, grids, strict=True):
        if not grid.matches(grids[0], tolerance_mm=0.1):
            raise GridError(
                f"{run.series.path} comes to lie on another grid than {runs[0].series.path} after "
                f"preparation, so their maps cannot be averaged; explain them one at a time, or "
                f"use a preparation that resamples"
            )
    return grids[0]


def check_runs(
    preparation: Preparation, description: ModelDescription, runs: Sequence[OpenRun]
) -> list[str]:
    """Return what a reader should know about the runs; raise where they cannot be used."""
    sentences: list[str] = []
    for run in runs:
        sentences += check_space(preparation, run.series)
    overlap = trained_among(description, runs)
    if overlap:
        sentences.append(
            f"the model was trained on {', '.join(overlap)}: accuracy and maps of training "
            f"data say nothing about new data"
        )
    return sentences


def trained_among(description: ModelDescription, runs: Sequence[OpenRun]) -> list[str]:
    """Return which of the runs the model was trained on, in words."""
    return overlaps_training(description, [str(run.series.path) for run in runs])


def check_labels(runs: Sequence[OpenRun], class_names: Sequence[str]) -> None:
    """Refuse labels that are no classes of the model: every volume would count as an error.

    Raises
    ------
    SelectionError
        If a volume is called what the model has no class for.
    """
    given = {label for run in runs for label in run.selection.labels if label is not None}
    unknown = sorted(given - set(class_names))
    if unknown:
        raise SelectionError(
            f"volumes are called {', '.join(unknown)}, but the classes of this model are "
            f"{', '.join(class_names)}; use these names, such as --classes "
            f"{class_names[0]}=TRIAL_TYPE {class_names[-1]}=TRIAL_TYPE, or mend `class_names` of "
            f"the description"
        )
