"""Checks of activations and gradients: whether a map can carry anything at all."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.checks import Check, judge


def rounding_unit(dtype: torch.dtype) -> float:
    """Return the unit roundoff u of a floating-point type."""
    return float(torch.finfo(dtype).eps) / 2


def dead_gradient(
    gradients: Float[Tensor, "batch tokens channels"], patches: slice
) -> Float[Tensor, " batch"]:
    """Return the largest patch gradient over the largest gradient of any token, per volume."""
    size = _unit_scaled(gradients).norm(dim=2)
    return _ratio(size[:, patches].amax(1), size.amax(1))


def uniform_gradient(
    gradients: Float[Tensor, "batch patches channels"],
) -> Float[Tensor, " batch"]:
    """Return the norm of the patch gradients around their mean over their norm, per volume."""
    g = _unit_scaled(gradients)
    return _ratio((g - g.mean(1, keepdim=True)).flatten(1).norm(dim=1), g.flatten(1).norm(dim=1))


def centring(activations: Float[Tensor, "batch patches channels"]) -> Float[Tensor, " batch"]:
    """Return how far the features of the median patch are from adding up to zero, per volume."""
    a = activations.double()
    share = _ratio(a.sum(2).abs(), a.abs().sum(2))
    return math.sqrt(a.shape[2]) * share.median(dim=1).values


def discarded_share(
    gradients: Float[Tensor, "batch patches channels"],
    gain: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, " batch"]:
    """Return the share of the gradient that a layer normalisation throws away, per volume."""
    g = _unit_scaled(gradients)
    g = g if gain is None else g * gain.to(g)
    share = _ratio(g.sum(2).square(), g.shape[2] * g.square().sum(2))
    return share.median(dim=1).values


def cancelling(
    patches: Float[Tensor, "batch gi gj gk"], voxels: Float[Tensor, "batch i j k"]
) -> Float[Tensor, " batch"]:
    """Return how much of the voxels' relevance is left when summed over patches, per volume."""
    return _ratio(patches.abs().flatten(1).sum(1), voxels.abs().flatten(1).sum(1))


def _unit_scaled(x: Tensor) -> Tensor:
    """Return values divided by the largest of each volume, so that squares stay finite."""
    wide = x if x.dtype == torch.float64 else x.float()
    largest = wide.abs().flatten(1).amax(1).reshape(-1, *(1,) * (x.ndim - 1))
    return wide / torch.where(largest > 0, largest, 1.0)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)


def check_dead(value: float) -> Check:
    """Judge `dead_gradient`."""
    return judge(
        "dead gradient",
        value,
        1e-3,
        1e-6,
        (
            "The score depends on the patches at this layer",
            "The score hardly depends on the patches at this layer",
            "The score does not depend on the patches at this layer, so this map is empty",
        ),
    )


def check_uniform(value: float) -> Check:
    """Judge `uniform_gradient`."""
    return judge(
        "uniform gradient",
        value,
        1e-2,
        1e-4,
        (
            "The patches matter differently at this layer",
            "All patches matter almost equally at this layer",
            "All patches matter equally at this layer, so this map says nothing about places",
        ),
    )


def check_centring(value: float, dtype: torch.dtype) -> Check:
    """Judge `centring` for activations of the given type."""
    return judge(
        "centring",
        value,
        0.1,
        100 * rounding_unit(dtype),
        (
            "The features of a patch add up to a number that can be trusted",
            "The features of a patch almost cancel when added up, as after a normalisation, so "
            "that small offsets of the model decide the sign of this map",
            "The features of a patch cancel when added up, as they must after a normalisation, so "
            "this map is rounding error",
        ),
    )


def check_discarded(value: float, channels: int) -> Check:
    """Report `discarded_share` beside its chance level; it has no threshold."""
    sentence = (
        f"A share of {value:.1e} of the gradient lies in the direction that a layer normalisation "
        f"cannot take and mean weights alone keep ({1 / channels:.1e} by chance)."
    )
    return Check("discarded share", value, None, None, "pass", sentence)


def check_cancelling(value: float, dtype: torch.dtype) -> Check:
    """Judge `cancelling` for a model that computes in the given type."""
    return judge(
        "cancelling voxels",
        value,
        1e-3,
        100 * rounding_unit(dtype),
        (
            "The voxels of a patch add up to a number that can be trusted",
            "The voxels of a patch almost cancel when added up, so that this patch map is a small "
            "difference of large numbers",
            "The voxels of a patch cancel when added up, or there are none that matter, so this "
            "patch map is rounding error",
        ),
    )
