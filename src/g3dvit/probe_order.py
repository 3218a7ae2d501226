"""Whether normalisations behind the embedding see the tokens in the order in which they began.

A model may turn, sort or fold its tokens between blocks. Tokens have mixed there, so that no
block of the input belongs to one of them; but where tokens are carried on from block to block,
the one whose patch was replaced still moves most. Where for several patches other tokens do, each
time another one, and clearly, the order has changed. Where nothing is clear nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from g3dvit.capture.tokens import Event, watch_tensors
from g3dvit.probe_stages import Stage, Textures, sketch
from g3dvit.probe_tokens import TokenMap

_PATCHES = 4
_ENOUGH = 3  # of them; one may lie where the order leaves it
#: How much further the token of a patch must move than all others to be clear.
_CLEAR = 2.0


def turned_norms(
    model: nn.Module,
    textures: Textures,
    tokens: TokenMap,
    norms: Sequence[Stage],
    before: Mapping[int, Tensor],
    *,
    seed: int = 0,
) -> frozenset[int]:
    """Return the index of normalisations that see the patches in another order than the stage.

    Parameters
    ----------
    model
        The module to call, inside `g3dvit.capture.guest`.
    textures
        Random inputs of its shape.
    tokens
        Where the patches are at its stage.
    norms
        The stages that its normalisations give.
    before
        Sketches of a pass over `textures.base`, by index.
    seed
        Of the patches that are replaced.
    """
    wanted = {
        n.index: n
        for n in norms
        if n.index > tokens.stage and n.num_tokens == tokens.num_tokens and n.index in before
    }
    count = tokens.num_patches
    if not wanted or count < 2 * _PATCHES:
        return frozenset()
    generator = torch.Generator().manual_seed(seed)
    tops: dict[int, set[int]] = {index: set() for index in wanted}
    patches_to_try = torch.randperm(count, generator=generator)[:_PATCHES].tolist()
    for left, patch in zip(range(_PATCHES, 0, -1), patches_to_try, strict=True):
        if max(map(len, tops.values())) + left < _ENOUGH:
            break  # no normalisation can be turned any more, as in nearly every model
        own = tokens.token_order[patch]
        x = textures.with_other_block(_block(tokens, patch))
        for index, moved in _moved(model, x, wanted, before).items():
            patches = moved[tokens.num_prefix_tokens :][:count]
            first, second = patches.topk(2).values.tolist()
            top = int(patches.argmax())
            if top != own and first > _CLEAR * second:
                tops[index].add(top)
    return frozenset(index for index, found in tops.items() if len(found) >= _ENOUGH)


def _moved(
    model: nn.Module, x: Tensor, wanted: Mapping[int, Stage], before: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    moved: dict[int, Tensor] = {}

    def see(event: Event) -> None:
        stage = wanted.get(event.index)
        if stage is not None:
            after = sketch(event.tensor, stage.token_axis)
            if after.shape == before[event.index].shape:
                moved[event.index] = (after - before[event.index]).norm(dim=1)

    with torch.no_grad(), watch_tensors(model, see, norms=False):
        torch.manual_seed(0)  # as in the pass that is compared with
        model(x)
    return moved


def _block(tokens: TokenMap, patch: int) -> dict[int, slice]:
    """Return the planes of a patch along each axis of the input."""
    _, nj, nk = tokens.grid_shape
    numbers = (patch // (nj * nk), patch // nk % nj, patch % nk)
    return {
        axis: slice(n * size, (n + 1) * size)
        for axis, n, size in zip(tokens.spatial_axes, numbers, tokens.patch_size, strict=True)
    }
