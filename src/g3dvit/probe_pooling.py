"""How tokens reach the head: one token, a mean, or something else.

A mean is what treats all tokens alike *from the place on where they are tokens*: the last
normalisation, linear map or block. Behind it, a head that weighs its tokens (attention pooling,
fixed weights) or raises them to a power first ends in a plain sum as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from g3dvit.probe_layers import DEAD, UNIFORM, Pass, judge
from g3dvit.probe_tokens import TokenMap

Pooling = Literal["class token", "mean of patches", "mean of all tokens", "other"]


def find_pooling(passes: Sequence[Pass], tokens: TokenMap) -> Pooling:
    """Tell how tokens reach the head, by the gradient where they are last together.

    Parameters
    ----------
    passes
        Passes over different inputs; where they do not agree it is ``"other"``.
    tokens
        Where the patches are.
    """
    answers = {_pooling_of(p, tokens) for p in passes if p.has_gradient}
    return answers.pop() if len(answers) == 1 else "other"


def _pooling_of(one: Pass, tokens: TokenMap) -> Pooling:
    stages = [kept for (_, n), kept in one.last_gradients.items() if n == tokens.num_tokens]
    if not stages:
        return "other"
    last = _as_read(max(stages, key=lambda kept: kept[0])[1], tokens)
    for late in one.late.read_by_head(tokens.num_tokens):
        if late.gradient is None or _as_read(late.gradient, tokens) != last:
            return "other"
    return last


def _as_read(gradient: Tensor, tokens: TokenMap) -> Pooling:
    """Tell how tokens are read by a gradient (tokens, features) at them."""
    sizes = gradient.norm(dim=1)
    reached = sizes > DEAD * sizes.max()
    is_patch = torch.zeros(tokens.num_tokens, dtype=torch.bool)
    is_patch[tokens.num_prefix_tokens :][: tokens.num_patches] = True
    if int(reached.sum()) == 1:
        return "other" if bool(is_patch[reached].any()) else "class token"
    _, spread = judge(gradient, tokens.num_prefix_tokens, tokens.num_patches)
    if not bool(reached[is_patch].all()) or spread >= UNIFORM:
        return "other"
    others = gradient[~is_patch]
    if len(others) == 0 or not bool(reached[~is_patch].any()):
        return "mean of patches"
    apart = (others - gradient[is_patch].mean(0)).norm(dim=1)
    return "mean of all tokens" if float(apart.max()) < UNIFORM * float(sizes.max()) else "other"
