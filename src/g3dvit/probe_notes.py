"""What every reader of a model's maps should know about it, in sentences.

Found in the passes of `g3dvit.probe_layers`: scores that are bounded, a head that reads one patch,
and tokens that are not the only ones of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from g3dvit.geometry import NormLayer
from g3dvit.probe_layers import DEAD, Pass, reaches_one
from g3dvit.probe_tokens import TokenMap

_BOUNDING = {
    "tanh": "tanh: its scores lie between -1 and 1",
    "sigmoid": "a sigmoid: its scores lie between 0 and 1",
    "softmax": "a softmax: its scores are probabilities, not logits",
    "log_softmax": "log-softmax: its scores are log-probabilities, not logits",
}


def one_patch_note(passes: Sequence[Pass], tokens: TokenMap) -> str | None:
    """Return a sentence where the head reads the token of a single patch."""
    start, count = tokens.num_prefix_tokens, tokens.num_patches
    for one in passes:
        stages = [kept for (_, n), kept in one.last_gradients.items() if n == tokens.num_tokens]
        gradient = max(stages, key=lambda kept: kept[0])[1] if stages else None
        if gradient is None or not reaches_one(gradient, start, count):
            return None
        size = gradient.norm(dim=1)
        if float(size[start : start + count].max()) < DEAD * float(size.max()):
            return None  # rounding: it reads a class token
    return (
        "the head reads the token of one single patch, as if it were a class token; every other "
        "patch counts only by what attention brings there. See whether the model should have a "
        "class token, or average its tokens"
    )


def folded_notes(
    one: Pass,
    tokens: TokenMap,
    layers: Sequence[NormLayer],
    default: str,
    steering: frozenset[str],
) -> list[str]:
    """Return sentences where normalisations see pieces of patches, or merged or folded tokens.

    Parameters
    ----------
    one
        A pass.
    tokens
        Where the patches are.
    layers, default
        What is listed, and its last layer that is alive.
    steering
        Names of normalisations of queries and keys.
    """
    told = []
    finer = [index for index, shape in one.elsewhere if _rows(shape) >= 2 * tokens.num_tokens]
    if any(index < tokens.stage for index in finer):
        told.append(
            "the model looks at smaller pieces before it makes these "
            f"{tokens.num_patches} tokens (blocks within each patch, stages of a hierarchy, or a "
            "convolutional stem); maps of its tokens are as coarse as the patches all the same"
        )
    names = {layer.name for layer in layers} | steering
    start = next((n.stage.index for n in one.norms if n.name == default), None)
    if start is None:
        return told
    counts = (tokens.num_tokens, tokens.num_patches)
    others = tokens.num_tokens - tokens.num_patches
    behind = [
        n
        for n in one.norms
        if n.stage.index > start
        and n.name not in names
        and n.gradient is not None
        and n.stage.num_tokens > others
    ]
    folded = [
        shape
        for index, shape in one.elsewhere
        if index > start and _rows(shape) > 1 and not set(counts) & set(shape[:-1])
    ]
    if behind or folded:
        told.append(
            f"{default!r} is not the last normalisation of this model: {len(behind) + len(folded)} "
            "behind it see tokens that are merged, in windows, along one axis, in another order or "
            "with a class token that joins late, and no map can be made there; methods that end "
            "at the input, such as frozen_gate, reach through them"
        )
    return told


def _rows(shape: Sequence[int]) -> int:
    """Return how many vectors a tensor holds."""
    return math.prod(shape[:-1])


def bounded_note(passes: Sequence[Pass]) -> str | None:
    """Return a sentence where the model's last step bounds its scores."""
    ending = _BOUNDING.get(passes[0].ending)
    if ending is None:
        return None
    return (
        f"bounded score: the model ends in {ending}, and its gradients fade where they "
        "saturate; explain the values before that step if you can"
    )
