"""What comes out of models and layers, read without knowing who wrote them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.errors import ModelError


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nested tuple, list or mapping, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def first_output(output: Any) -> Float[Tensor, "batch outputs"]:
    """Return the class values of a model that may return more than them.

    Parameters
    ----------
    output
        What the model returned: a tensor, a tuple or list whose first entry holds the class
        values (MONAI), or a mapping with ``"logits"`` (Transformers), with one tensor of two axes,
        or whose first entry holds them.

    Returns
    -------
    (batch, outputs)
        The class values; a (batch,) output becomes (batch, 1).

    Raises
    ------
    ModelError
        If there is no floating-point tensor of one or two axes, or a mapping has several of two
        axes and none is called ``"logits"``.
    """
    value = output
    while not isinstance(value, Tensor):
        named = value.get("logits") if isinstance(value, Mapping) else None
        if named is None:
            named = getattr(value, "logits", None)
        if named is None and isinstance(value, Mapping) and value:
            named = _only_matrix(value)
        if named is None and isinstance(value, Sequence) and not isinstance(value, str) and value:
            named = value[0]
        if named is None:
            raise ModelError(
                f"the model returned {type(output).__name__}, in which no class values were "
                "found; wrap it so that it returns a (batch, classes) tensor"
            )
        value = named
    if value.ndim == 1:
        value = value[:, None]
    if value.ndim != 2 or not value.is_floating_point():
        raise ModelError(
            f"the model returned {tuple(value.shape)} values of {value.dtype}; explained are "
            "models that return (batch, classes) floating-point class values, so wrap the model"
        )
    return value


def widths_beside(output: Any) -> tuple[int, ...]:
    """Return the sizes of further (batch, size) tensors in a tuple or list, behind the first."""
    if isinstance(output, Mapping) or not isinstance(output, (tuple, list)):
        return ()
    return tuple(int(value.shape[1]) for value in output[1:] if _is_matrix(value))


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()


def _only_matrix(output: Mapping[Any, Any]) -> Any:
    """Return the one (batch, size) tensor of a mapping, or its first entry where there is none."""
    found = {name: value for name, value in output.items() if _is_matrix(value)}
    if len(found) > 1:
        listed = ", ".join(f"{name!r} {tuple(value.shape)}" for name, value in found.items())
        raise ModelError(
            f"the model returned a mapping in which several entries could be class values: {listed}"
            "; call the right one 'logits', or wrap the model so that it returns that alone"
        )
    return next(iter((found or output).values()))


def token_axes(
    shape: Sequence[int],
    batch: int,
    tokens: int,
    *,
    any_grid: bool = False,
    features_first: bool = False,
) -> tuple[int, tuple[int, ...], int] | None:
    """Find the batch, token and feature axes of an activation.

    Parameters
    ----------
    shape
        Shape of the activation.
    batch, tokens
        Number of volumes, and of tokens looked for.
    any_grid
        Understand tokens on a grid of two axes as well, such as (batch, frames, places,
        features); other things than tokens may have that form.
    features_first
        Where there are as many features as tokens, the features come first, as behind batch, group
        and instance normalisations.

    Returns
    -------
    batch axis, token axes, feature axis, or None
        Understood are (batch, tokens, features), (tokens, batch, features), and the tokens
        still on their grid: (batch, a, b, c, features) and (batch, features, a, b, c).
    """
    shape = tuple(shape)
    behind = math.prod(shape[2:])
    if features_first and len(shape) in (3, 5) and shape[0] == batch and behind == tokens:
        return 0, tuple(range(2, len(shape))), 1
    if len(shape) == 3:
        if shape[:2] == (batch, tokens):
            return 0, (1,), 2
        if shape[:2] == (tokens, batch):
            return 1, (0,), 2
        if shape[0] == batch and shape[2] == tokens:
            return 0, (2,), 1
    if len(shape) == 5 and shape[0] == batch:
        if shape[1] * shape[2] * shape[3] == tokens:
            return 0, (1, 2, 3), 4
        if shape[2] * shape[3] * shape[4] == tokens:
            return 0, (2, 3, 4), 1
    if any_grid and len(shape) == 4 and shape[0] == batch:
        for grid, features in (((1, 2), 3), ((2, 3), 1)):
            if shape[grid[0]] * shape[grid[1]] == tokens and min(shape[n] for n in grid) > 1:
                return 0, grid, features
    return None


def as_tokens(
    activation: Tensor,
    batch: int,
    tokens: int,
    *,
    any_grid: bool = False,
    features_first: bool = False,
) -> Float[Tensor, "batch tokens features"] | None:
    """Return an activation as (batch, tokens, features), or None where it is none.

    Parameters
    ----------
    activation
        Output of a layer in any layout that `token_axes` understands.
    batch, tokens
        Number of volumes, and of tokens looked for.
    any_grid, features_first
        As for `token_axes`.
    """
    axes = token_axes(
        activation.shape, batch, tokens, any_grid=any_grid, features_first=features_first
    )
    if axes is None:
        return None
    batch_axis, spatial, features = axes
    ordered = activation.permute(batch_axis, *spatial, features)
    return torch.flatten(ordered, 1, len(spatial))
