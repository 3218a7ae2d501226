"""Frozen-gate relevance: shares of the score that add up to it.

With attention, standard deviations and activation ratios held constant at this input, the
score is exactly a sum over what enters additively. Terms: *content* is what comes from the
voxels of a patch and the biases of the patch embedding, *position* what the position code adds
at the patch's token, *prefix* what arrives at class and register tokens, *bias* every constant
behind the tokens' entry into the first block. Every share is value times its own gradient;
none is what the others leave over. Completeness is arithmetic: it says that nothing was lost,
not that the model would do the same without a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.methods.gradients import noisy_copies


class ConstantShare(Protocol):
    """Value times gradient of one constant that was added near the patch embedding."""

    @property
    def products(self) -> Tensor:
        """(batch, tokens), or (batch, 1) where the constant has no place."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens it was added to; 0 where it has no place."""

    @property
    def differs_by_token(self) -> bool:
        """True for a position, False for a bias."""

    @property
    def before_tokens(self) -> bool:
        """True where it was added before the tokens enter the first block."""

    @property
    def voxels(self) -> Tensor | None:
        """(batch, ...), in the layout of the input, where it was added to the bare voxels."""

    @property
    def held(self) -> bool:
        """True where it was computed from the input and is held constant."""


class Products(Protocol):
    """Value times gradient of everything that enters the frozen model additively."""

    @property
    def voxels(self) -> Tensor:
        """(batch, ...), for every number of the input."""

    @property
    def tokens(self) -> Tensor | None:
        """(batch, tokens), for the tokens that enter the first block."""

    @property
    def constants(self) -> Sequence[ConstantShare]:
        """The constants before and in the first block."""

    @property
    def later(self) -> Tensor:
        """(batch,), all later constants."""

    @property
    def held(self) -> Tensor:
        """(batch,), what was computed from the input later on and is held constant."""

    @property
    def held_size(self) -> Tensor:
        """(batch,), the sizes of its parts, token by token."""

    @property
    def beside(self) -> Tensor | None:
        """(batch,), sizes of what voxels bring beside the tokens; None where there is none."""

    @property
    def beside_constants(self) -> Tensor | None:
        """(batch,), what constants before the tokens bring beside them."""


@dataclass(frozen=True, slots=True, eq=False)
class FrozenGateMap:
    """Shares of one score, per volume; patches are in the order of the tokens.

    Parameters
    ----------
    relevance : (batch, patches)
        ``content + position``: everything that enters at a patch's token.
    content : (batch, patches)
        From the voxels of the patch, and the biases of the patch embedding.
    position : (batch, patches)
        From the position code; it does not depend on the volume.
    embedding_bias : (batch, patches)
        The part of the content that comes from biases of the patch embedding.
    prefix, bias : (batch,)
        From prefix and suffix tokens, and from all later constants, held values among them.
    held : (batch,)
        Size of what comes from values that the model computes from the input and adds, and that are
        held constant: the sum over tokens of its absolute value.
    voxels : (batch, ...)
        In the layout of the input; with the embedding bias they make up the content.
    total_from_voxels, total_from_tokens : (batch,)
        The sum of all shares, counted from the voxels and every constant, and from the tokens.
    beside : (batch,)
        Size of what voxels bring to the score beside the tokens; part of no share. No number where
        the tokens that enter the first block were not found.
    """

    relevance: Float[Tensor, "batch patches"] = field(repr=False)
    content: Float[Tensor, "batch patches"] = field(repr=False)
    position: Float[Tensor, "batch patches"] = field(repr=False)
    embedding_bias: Float[Tensor, "batch patches"] = field(repr=False)
    prefix: Float[Tensor, " batch"]
    bias: Float[Tensor, " batch"]
    held: Float[Tensor, " batch"]
    voxels: Float[Tensor, "batch ..."] = field(repr=False)
    total_from_voxels: Float[Tensor, " batch"] = field(repr=False)
    total_from_tokens: Float[Tensor, " batch"] = field(repr=False)
    beside: Float[Tensor, " batch"] = field(repr=False)

    @classmethod
    def joined(cls, parts: Sequence[FrozenGateMap]) -> FrozenGateMap:
        """Return the shares of several batches as those of one."""
        names = [part.name for part in fields(cls)]
        return cls(**{name: torch.cat([getattr(one, name) for one in parts]) for name in names})


def frozen_gate(
    products: Products,
    num_patches: int,
    num_prefix_tokens: int,
    by_patch: Callable[[Tensor], Float[Tensor, "batch patches"]],
    offset: Float[Tensor, " batch"],
) -> FrozenGateMap:
    """Sort value-times-gradient products into content, position, prefix and bias.

    Parameters
    ----------
    products
        What a pass with frozen gates gave for one score.
    num_patches, num_prefix_tokens
        How the tokens are laid out.
    by_patch
        Sums values in the layout of the input over each patch, in the order of the tokens.
    offset : (batch,)
        Constant part of the score itself; counted as bias.

    References
    ----------
    Ali et al. 2022, https://arxiv.org/abs/2202.07304; positions: Bakish et al. 2025,
    https://arxiv.org/abs/2506.02138
    """
    batch = len(offset)
    # Where the model has no residual sum of tokens, only voxels and constants can be told.
    voxels_by_patch = by_patch(products.voxels)
    zeros = torch.zeros_like(voxels_by_patch)

    def at_patches(values: Tensor) -> Tensor:
        start = 0 if values.shape[1] == num_patches else num_prefix_tokens
        return values[:, start : start + num_patches]

    position, embedding_bias = zeros, zeros
    held = products.held_size
    before, behind = torch.zeros_like(offset), products.later + products.held + offset
    for constant in products.constants:
        total = constant.products.sum(1)
        if constant.held:
            held = held + constant.products.abs().sum(1)
        if not constant.before_tokens:
            behind = behind + total
            continue
        before = before + total
        if constant.num_tokens and constant.differs_by_token:
            position = position + at_patches(constant.products)
        elif constant.num_tokens:
            embedding_bias = embedding_bias + at_patches(constant.products)
        elif constant.voxels is not None:
            embedding_bias = embedding_bias + by_patch(constant.voxels)

    from_voxels = products.voxels.reshape(batch, -1).sum(1, dtype=torch.float64) + before + behind
    if products.tokens is None:
        relevance = voxels_by_patch + embedding_bias + position
        prefix = before - (embedding_bias + position).sum(1)
    else:
        relevance = at_patches(products.tokens)
        prefix = products.tokens.sum(1) - relevance.sum(1)
        if products.beside_constants is not None:  # a class token that joins behind this place
            prefix = prefix + products.beside_constants
    return FrozenGateMap(
        relevance=relevance,
        content=relevance - position,
        position=position,
        embedding_bias=embedding_bias,
        prefix=prefix,
        bias=behind,
        held=held,
        voxels=products.voxels,
        total_from_voxels=from_voxels,
        total_from_tokens=relevance.sum(1) + prefix + behind,
        beside=_beside(products, prefix),
    )


def _beside(products: Products, like: Tensor) -> Tensor:
    if products.beside is not None:
        return products.beside
    return torch.full_like(like, 0.0 if products.tokens is not None else float("nan"))


def frozen_gate_noise(
    shares: Callable[[Tensor], Sequence[FrozenGateMap]],
    x: Float[Tensor, "batch ..."],
    *,
    samples: int = 16,
    noise: float = 0.1,
    seed: int = 0,
) -> list[FrozenGateMap]:
    """Return the mean of frozen-gate shares over noisy copies of the input, for each score.

    Every copy's shares add up to its score, so their means add up to the mean score of the copies,
    which is not that of the volume itself.

    Parameters
    ----------
    shares
        From volumes (batch, ...) to their shares, one per score.
    x : (batch, ...)
        The volumes.
    samples, noise, seed
        As for `g3dvit.methods.smoothgrad`.

    References
    ----------
    Smilkov et al. 2017, https://arxiv.org/abs/1706.03825, applied to the shares of `frozen_gate`
    """
    names = [part.name for part in fields(FrozenGateMap)]
    totals: list[dict[str, Tensor]] = []
    for copy in noisy_copies(x, samples=samples, noise=noise, seed=seed):
        found = shares(copy)
        totals = totals or [{} for _ in found]
        for total, one in zip(totals, found, strict=True):
            for name in names:
                part = getattr(one, name) / samples
                total[name] = total[name] + part if name in total else part
    return [FrozenGateMap(**total) for total in totals]


def held_share(shares: FrozenGateMap, score: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the size of what comes from values held constant, relative to that of the score."""
    return shares.held.double().abs() / _size(shares, score)


def _size(shares: FrozenGateMap, score: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the size of a score and its shares, whichever is larger."""
    size = shares.relevance.double().abs().sum(1) + shares.prefix.abs() + shares.bias.abs()
    return torch.maximum(score.double().abs(), size).clamp_min(torch.finfo(torch.float64).tiny)


def beside_share(shares: FrozenGateMap, score: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return how much voxels bring to the score beside the tokens, relative to its size."""
    return shares.beside.double() / _size(shares, score)


def completeness_error(
    shares: FrozenGateMap, score: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return how far all shares together miss the score, relative to their size.

    ``|sum of shares - score| / max(|score|, sum |R|)``, the larger of the two ways to count:
    from voxels and constants, and from the tokens that enter the first block. Sums are in
    float64.
    """
    score = score.double()
    missed = torch.maximum(
        (shares.total_from_voxels.double() - score).abs(),
        (shares.total_from_tokens.double() - score).abs(),
    )
    return missed / _size(shares, score)
