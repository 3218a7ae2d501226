"""Methods that read activations and gradients of the tokens at one layer.

``a_pd`` is feature d of token p at the target layer, ``g_pd`` the gradient of the score with
respect to it. Results are float32, or float64 where the activations are.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def gradcam(
    activations: Float[Tensor, "batch patches channels"],
    gradients: Float[Tensor, "batch patches channels"],
) -> Float[Tensor, "batch patches"]:
    """Return Grad-CAM: one weight per feature, the mean gradient over patches.

    ``R_p = sum_d (mean_q g_qd) a_pd``, signed; the original's ReLU is left to display. One
    direction in feature space serves all places, so evidence that looks different in different
    places cannot be shown.

    Parameters
    ----------
    activations, gradients : (batch, patches, channels)
        At the target layer.

    References
    ----------
    Selvaraju et al. 2017, https://doi.org/10.1109/ICCV.2017.74
    """
    weights = _wide(gradients).mean(dim=1, keepdim=True)
    return (weights * _wide(activations)).sum(dim=2)


def layercam(
    activations: Float[Tensor, "batch patches channels"],
    gradients: Float[Tensor, "batch patches channels"],
) -> Float[Tensor, "batch patches"]:
    """Return LayerCAM: the positive part of each gradient times its activation.

    ``R_p = sum_d max(g_pd, 0) a_pd``, signed because token features are; the original's last ReLU
    is left to display. It was made for features that are never negative: after a normalisation
    half of them are, and what speaks against the class is dropped or counted by accident.

    Parameters
    ----------
    activations, gradients : (batch, patches, channels)
        At the target layer.

    References
    ----------
    Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943
    """
    return (_wide(gradients).relu() * _wide(activations)).sum(dim=2)


def hirescam_blocks(
    activations: Sequence[Float[Tensor, "batch patches channels"]],
    gradients: Sequence[Float[Tensor, "batch patches channels"]],
) -> Float[Tensor, "batch patches"]:
    """Return HiResCAM summed over the blocks.

    Parameters
    ----------
    activations, gradients : sequence of (batch, patches, channels)
        What enters the attention of each block, and the score's gradient with respect to it.

    References
    ----------
    Draelos and Carin 2020, https://arxiv.org/abs/2011.08891
    """
    maps = [hirescam(a, g) for a, g in zip(activations, gradients, strict=True)]
    return torch.stack(maps).sum(dim=0)


def cam(
    activations: Float[Tensor, "batch patches channels"],
    weights: Float[Tensor, "batch channels"],
) -> Float[Tensor, "batch patches"]:
    """Return the exact class activation map of a linear head on a mean of tokens.

    Parameters
    ----------
    activations : (batch, patches, channels)
        The tokens that are averaged.
    weights : (batch, channels)
        What the score gains per unit of each feature of one token: the head's row over the number
        of tokens in the mean.

    References
    ----------
    Zhou et al. 2016, https://doi.org/10.1109/CVPR.2016.319
    """
    return torch.einsum("bpd,bd->bp", _wide(activations), _wide(weights))
