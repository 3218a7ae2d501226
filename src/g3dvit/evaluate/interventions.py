"""A model asked about some of its patches: the others are removed, or replaced by real ones.

*Removal* takes the tokens of patches out of the sequence, so that nothing stands in their place.
*Replacement* puts the same patches of another volume there, which is how deletion and insertion
are measured elsewhere (with a grey or blurred picture there; with a model that normalises each
patch every constant fill is the same fill, so a real volume is used here). Both give a
`g3dvit.evaluate.curves.Respond` of the model's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from g3dvit.capture import KeptTokens, first_output
from g3dvit.evaluate.curves import Respond
from g3dvit.explain_inputs import choose_batch_size
from g3dvit.geometry import Geometry
from g3dvit.targets import Chosen, NamedScore, score_batch


def by_removal(kept: KeptTokens, x: Tensor) -> Respond:
    """Return the outputs for kept patches, the tokens of the others gone.

    Parameters
    ----------
    kept
        Of the model, inside its `g3dvit.capture.guest`.
    x : (1, *input_shape)
        One volume, as the model takes it.
    """

    def respond(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(kept(x, torch.from_numpy(keep)).double().cpu().numpy())

    return respond


def by_replacement(network: nn.Module, geometry: Geometry, x: Tensor, other: Tensor) -> Respond:
    """Return the outputs for kept patches, the others taken from another volume.

    Parameters
    ----------
    network
        Inside its `g3dvit.capture.guest`.
    geometry
        How it divides its input.
    x, other : (1, *input_shape)
        The volume, and where the other patches come from.
    """
    size = choose_batch_size(None, geometry)

    @torch.no_grad()
    def respond(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        found = []
        for some in torch.split(torch.from_numpy(keep), size):
            mask = patches_to_voxels(some, geometry).to(x.device)
            found.append(first_output(network(torch.where(mask, x, other))).double().cpu())
        return np.asarray(torch.cat(found).numpy())

    return respond


def patches_to_voxels(values: Tensor, geometry: Geometry) -> Tensor:
    """Give every voxel the value of its patch, in the layout of the model's input.

    Parameters
    ----------
    values : (n, patches)
        In C order of the input's patch grid.
    geometry
        How the model divides its input.

    Returns
    -------
    (n, *input_shape), with 1 for the axis of channels
    """
    grid = values.reshape(-1, *geometry.grid_shape)
    for axis, edge in enumerate(geometry.patch_size, start=1):
        grid = grid.repeat_interleave(edge, dim=axis)
    order = np.argsort(geometry.spatial_axes)
    grid = grid.permute(0, *(int(axis) + 1 for axis in order))
    for axis in range(len(geometry.input_shape)):
        if axis not in geometry.spatial_axes:
            grid = grid.unsqueeze(axis + 1)
    return grid


def scores_of(
    logits: NDArray[np.float64], chosen: Chosen, score: NamedScore = "log_odds"
) -> NDArray[np.float64]:
    """Return one score of one target for many outputs, (n,)."""
    rows: Sequence[Sequence[Chosen]] = [[chosen]] * len(logits)
    values = score_batch(rows, torch.from_numpy(np.asarray(logits)), score).values
    return np.asarray(values[:, 0].numpy())


def decisions(logits: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the class of the largest value of each row; with one output, 1 where it is > 0."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.intp)
    return np.asarray(logits.argmax(axis=1))
