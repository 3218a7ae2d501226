"""Faithfulness on phantom models: what is left of a score when tokens are really removed.

The tokens of removed patches are taken out of the sequence after positions were added, so that
every other token keeps its place, and mean pooling averages over fewer. This works on the
benchmark's own models (``vit_pytorch.vit_3d``) because their parts are known. *MoRF* removes the
most relevant patch first, *LeRF* the least relevant; SRG is the mean score under LeRF less that
under MoRF.

References
----------
Bluecher et al. 2024, https://arxiv.org/abs/2401.06654
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from g3dvit.benchmark.vit3d import logits_of
from g3dvit.evaluate.curves import removal_counts

STEPS = 5  # parts of a curve, from none removed to all of the mask


def log_odds(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return the log-odds of one class each."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - torch.logsumexp(others, dim=1)


@torch.no_grad()
def single_removal(
    model: nn.Module, tokens: Float[Tensor, "tokens d"], label: int, patches: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return how much the log-odds fall when one patch is removed, (patches,)."""
    n = len(tokens)
    keep = torch.stack(
        [torch.tensor([t for t in range(n) if t != 1 + p]) for p in patches.tolist()]
    )
    labels = torch.full((len(keep),), label)
    full = log_odds(logits_of(model, tokens[None]), labels[:1])
    found = [log_odds(logits_of(model, tokens[k]), labels[: len(k)]) for k in torch.split(keep, 54)]
    return np.asarray((full - torch.cat(found)).numpy(), dtype=np.float64)


@torch.no_grad()
def removal_gain(
    model: nn.Module,
    tokens: Float[Tensor, "batch tokens d"],
    labels: NDArray[np.intp],
    patch_scores: NDArray[np.float64],
    patches: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return SRG of each volume, in log-odds.

    Parameters
    ----------
    model
        One of the benchmark's.
    tokens : (batch, tokens, d)
        From `g3dvit.benchmark.vit3d.embed`.
    labels : (batch,)
        Class whose log-odds are followed.
    patch_scores : (batch, patches)
        Relevance of the patches that may be removed.
    patches : (patches,)
        Which patches these are.
    """
    truth = torch.from_numpy(labels)
    order = np.argsort(-patch_scores, axis=1, kind="stable")
    counts = removal_counts(len(patches), STEPS)
    gain = np.zeros(len(tokens))
    # With none and with all removed, both orders leave the same.
    for count in counts[1:-1]:
        for sign, sequence in ((1, order[:, ::-1]), (-1, order)):
            keep = np.ones((len(tokens), tokens.shape[1]), dtype=bool)
            np.put_along_axis(keep, 1 + patches[sequence[:, :count]], values=False, axis=1)
            left = tokens[torch.from_numpy(keep)].reshape(len(tokens), -1, tokens.shape[2])
            gain += sign * log_odds(logits_of(model, left), truth).numpy() / len(counts)
    return gain
