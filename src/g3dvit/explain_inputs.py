"""Volumes on their way into a model: shape, values, batches, type."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from g3dvit.capture import clean_input
from g3dvit.errors import InputError
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS

Volumes = Tensor | NDArray[Any]


def check_volumes(x: Any, input_shape: tuple[int, ...]) -> Volumes:
    """Return volumes as a tensor or array of the shape that the model takes, all finite.

    Parameters
    ----------
    x : (volumes, *input_shape)
        Tensor, array, or what numpy can make one of.
    input_shape
        What the model takes, without the batch.

    Raises
    ------
    InputError
        If the shape is another, there is no volume, or a value is not finite.
    """
    values = x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x)
    shape = tuple(values.shape)
    if shape[1:] != input_shape or len(shape) != len(input_shape) + 1:
        expected = ", ".join(map(str, ("volumes", *input_shape)))
        hint = "; add the axis of volumes: x[None]" if shape == input_shape else ""
        raise InputError(f"`x` must have the shape ({expected}), was given {shape}{hint}")
    if not len(values):
        raise InputError(f"`x` holds no volume: its shape is {shape}")
    for number in range(len(values)):
        one = values[number]
        finite = torch.isfinite(one) if isinstance(one, Tensor) else np.isfinite(one)
        if not bool(finite.all()):
            raise InputError(
                f"volume {number} of `x` has {int((~finite).sum())} values that are not finite; "
                "replace them as in training (the preparations of g3dvit do so)"
            )
    return values


def choose_batch_size(asked: int | None, geometry: Geometry, methods: Sequence[str] = ()) -> int:
    """Return how many volumes are run at a time.

    Parameters
    ----------
    asked
        By the caller; None chooses by the number of tokens.
    geometry
        How the model divides its input.
    methods
        What is asked of the model: where that is many passes for each volume, they are taken one
        after the other, so that progress is seen.

    Raises
    ------
    InputError
        If it is no positive integer.
    """
    if asked is None and any(METHODS[name].source == "kept tokens" for name in methods):
        asked = 1
    elif asked is None:
        # About as many tokens as make good use of a processor; activations stay small.
        asked = max(1, min(32, 4096 // geometry.num_tokens))
    elif isinstance(asked, bool) or not isinstance(asked, Real) or asked % 1 or asked < 1:
        raise InputError(f"`batch_size` takes a positive integer, was given {asked!r}")
    # As many volumes as tokens could not be told from tokens by their number.
    same = asked > 1 and asked in (geometry.num_tokens, geometry.num_patches)
    return int(asked) - same


def to_input(some: Volumes, network: nn.Module) -> Tensor:
    """Return a batch on the device and of the type of the model's parameters, detached."""
    tensor = some if isinstance(some, Tensor) else torch.from_numpy(_native(some))
    floating = (p for p in network.parameters() if p.is_floating_point())
    like = next(floating, torch.empty(0))
    return clean_input(tensor).to(like.device, like.dtype)


def _native(some: NDArray[Any]) -> NDArray[Any]:
    """Return a copy in this machine's byte order, which torch needs."""
    return np.array(some, dtype=some.dtype.newbyteorder("="))
