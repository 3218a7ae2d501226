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


def xgradcam(
    activations: Float[Tensor, "batch patches channels"],
    gradients: Float[Tensor, "batch patches channels"],
) -> Float[Tensor, "batch patches"]:
    """Return XGrad-CAM: weights per feature that make the map add up to gradient times activation.

    ``R_p = sum_d alpha_d a_pd`` with ``alpha_d = sum_q g_qd a_qd / sum_q a_qd``. The sum below was
    positive for the features it was made for; where those of tokens cancel to rounding, the feature
    is left out, and where they nearly do, it gets a huge weight.

    Parameters
    ----------
    activations, gradients : (batch, patches, channels)
        At the target layer.

    References
    ----------
    Fu et al. 2020, https://arxiv.org/abs/2008.02312
    """
    a, g = _wide(activations), _wide(gradients)
    below = a.sum(dim=1, keepdim=True)
    floor = 30 * torch.finfo(activations.dtype).eps * a.abs().sum(dim=1, keepdim=True)
    known = below.abs() > floor
    weights = torch.where(known, (g * a).sum(dim=1, keepdim=True) / below, 0.0)
    return (weights * a).sum(dim=2)


def gradcam_plus_plus(
    activations: Float[Tensor, "batch patches channels"],
    gradients: Float[Tensor, "batch patches channels"],
) -> Float[Tensor, "batch patches"]:
    """Return Grad-CAM++: weights per feature from the positive gradients, in its own proportions.

    ``R_p = sum_d w_d a_pd``, ``w_d = sum_q max(g_qd, 0) / (2 + g_qd sum_r a_rd)``. Derived for a
    score that is an exponential and for features that are never negative; with the others the sum
    below may come close to zero. It is not in units of the score: doubling the score does not
    double it.

    Parameters
    ----------
    activations, gradients : (batch, patches, channels)
        At the target layer.

    References
    ----------
    Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063, equations 5 and 19
    """
    a, g = _wide(activations), _wide(gradients)
    below = 2 + g * a.sum(dim=1, keepdim=True)
    known = below.abs() > 30 * torch.finfo(activations.dtype).eps
    weights = torch.where(known, g.relu() / below, 0.0).sum(dim=1, keepdim=True)
    return (weights * a).sum(dim=2)


def eigencam(
    activations: Float[Tensor, "batch patches channels"],
    gradients: Float[Tensor, "batch patches channels"] | None = None,
) -> Float[Tensor, "batch patches"]:
    """Return EigenCAM: the first principal component of the patches' features.

    ``R_p = (a_p - mean_q a_q) . v`` with v the first right singular vector. It knows no class and
    no gradient. A singular vector has no sign: here the side with the longer tail is positive (the
    third moment over patches).

    Parameters
    ----------
    activations : (batch, patches, channels)
        At the target layer.
    gradients
        Are not used.

    References
    ----------
    Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299
    """
    a = _wide(activations)
    centred = a - a.mean(dim=1, keepdim=True)
    _, _, right = torch.linalg.svd(centred.double(), full_matrices=False)
    found = torch.einsum("bpd,bd->bp", centred.double(), right[:, 0])
    sign = torch.where(found.pow(3).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    return (sign * found).to(a.dtype)


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
