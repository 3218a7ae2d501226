"""Methods that read activations and gradients of the tokens at one layer.

``a_pd`` is feature d of token p at the target layer, ``g_pd`` the gradient of the score with
respect to it. Results are float32, or float64 where the activations are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.errors import MethodError

Weighting = Literal["mean", "max", "abs", "relu"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


@dataclass(frozen=True, slots=True, eq=False)
class TokenGradCAM:
    """A token Grad-CAM map and its two halves.

    Parameters
    ----------
    relevance : (batch, patches)
        ``patch_weights * token_sum``, signed.
    patch_weights : (batch, patches)
        How much each patch matters: the gradient pooled over features.
    token_sum : (batch, patches)
        What was seen there: the activations summed over features.
    """

    relevance: Float[Tensor, "batch patches"] = field(repr=False)
    patch_weights: Float[Tensor, "batch patches"] = field(repr=False)
    token_sum: Float[Tensor, "batch patches"] = field(repr=False)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def token_gradcam(
    activations: Float[Tensor, "batch patches channels"],
    gradients: Float[Tensor, "batch patches channels"],
    weighting: Weighting = "mean",
) -> TokenGradCAM:
    """Return token Grad-CAM: one weight per token times the sum of its features.

    Parameters
    ----------
    activations, gradients : (batch, patches, channels)
        At the target layer.
    weighting
        How the gradient is pooled over features: its ``"mean"``, its ``"max"``, the mean of its
        magnitude (``"abs"``) or of its positive part (``"relu"``). Only ``"mean"`` keeps the sign
        of the evidence.

    Raises
    ------
    MethodError
        If there is no such weighting.

    Notes
    -----
    At the output of a layer normalisation with unit weights and no bias the features of every
    token sum to zero, so that the map is rounding error; `g3dvit.diagnose` measures it.

    References
    ----------
    Selvaraju et al. 2017, https://doi.org/10.1109/ICCV.2017.74 (with one weight per feature).
    """
    gradients, activations = _wide(gradients), _wide(activations)
    if weighting == "mean":
        weights = gradients.mean(dim=2)
    elif weighting == "max":
        weights = gradients.amax(dim=2)
    elif weighting == "abs":
        weights = gradients.abs().mean(dim=2)
    elif weighting == "relu":
        weights = gradients.relu().mean(dim=2)
    else:
        raise MethodError(
            f"there is no weighting {weighting!r}; choose from {', '.join(WEIGHTINGS)}"
        )
    token_sum = activations.sum(dim=2)
    return TokenGradCAM(weights * token_sum, weights, token_sum)


def hirescam(
    activations: Float[Tensor, "batch patches channels"],
    gradients: Float[Tensor, "batch patches channels"],
) -> Float[Tensor, "batch patches"]:
    """Return HiResCAM: gradient times activation, summed over features.

    Where everything behind the layer is linear, this is what each patch adds to the score.

    Parameters
    ----------
    activations, gradients : (batch, patches, channels)
        At the target layer.

    References
    ----------
    Draelos and Carin 2020, https://arxiv.org/abs/2011.08891
    """
    return (_wide(gradients) * _wide(activations)).sum(dim=2)
