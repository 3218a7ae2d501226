"""Methods that take patches away and look at what the score does: causal references.

They run the model many times, through a callable: ``score`` takes sets of patches, (n, patches)
bool with True for what is kept, or whole volumes, (n, ...), and returns (targets, n). Patches
count the patch grid of the input in C order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ScoreOfKept = Callable[[Bool[Tensor, "n patches"]], Float[Tensor, "targets n"]]
ScoreOfSwapped = Callable[[int], Float[Tensor, "targets patches"]]


def token_removal(
    score: ScoreOfKept, whole: Float[Tensor, " targets"], num_patches: int
) -> Float[Tensor, "targets patches"]:
    """Return by how much the score falls when the token of one patch is really removed.

    Parameters
    ----------
    score
        From kept patches (n, patches) to scores (targets, n).
    whole : (targets,)
        The scores with all patches.
    num_patches
        How many there are.

    References
    ----------
    Jain et al. 2022, "Missingness Bias in Model Debugging", https://arxiv.org/abs/2204.08945
    """
    without_one = ~torch.eye(num_patches, dtype=torch.bool)
    return whole[:, None] - score(without_one)


def occlusion(
    score: ScoreOfSwapped, whole: Float[Tensor, " targets"], num_references: int
) -> Float[Tensor, "targets patches"]:
    """Return by how much the score falls when one patch is exchanged for that of real volumes.

    Parameters
    ----------
    score
        From the number of a reference volume to the scores (targets, patches) with each patch in
        turn taken from it.
    whole : (targets,)
        The scores of the volume as it is.
    num_references
        How many reference volumes there are; the mean over them counts.

    References
    ----------
    Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901 (with a grey fill)
    """
    total = torch.stack([score(number) for number in range(num_references)])
    return whole[:, None] - total.mean(0)


def rise(
    score: ScoreOfKept, num_patches: int, *, samples: int = 512, seed: int = 0
) -> tuple[Float[Tensor, "targets patches"], Float[Tensor, "targets patches"]]:
    """Return the mean score with a patch kept less the mean score, over random halves.

    Each random half of the patches is tried together with the other half, so that every patch is
    kept equally often.

    Parameters
    ----------
    score
        From kept patches (n, patches) to scores (targets, n).
    num_patches
        How many there are.
    samples
        Number of sets; an odd number is rounded up.
    seed
        Of the draws.

    Returns
    -------
    relevance, standard error : (targets, patches)
        The error is that of the draws.

    References
    ----------
    Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421 (with smooth masks on the pixels)
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = (samples + 1) // 2
    kept = torch.zeros(pairs, num_patches, dtype=torch.bool)
    for row in kept:
        row[torch.randperm(num_patches, generator=generator)[: num_patches // 2]] = True
    values = score(torch.cat([kept, ~kept]))
    first, second = values[:, :pairs], values[:, pairs:]
    # Of each pair, one half keeps the patch and the other does not.
    sign = torch.where(kept, 0.5, -0.5).to(values)
    drawn = (first - second)[:, :, None] * sign
    spread = drawn.std(1, correction=1) if pairs > 1 else torch.full_like(drawn[:, 0], torch.nan)
    return drawn.mean(1), spread / pairs**0.5
