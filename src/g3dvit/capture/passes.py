"""One forward pass of a model, kept so that several scores can be explained from it.

A *pass* holds the class values and the graph behind them. Each score is a weighted sum of the
class values (`g3dvit.targets`); asking the pass for another score costs a backward pass only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.capture.frozen_functions import per_volume, wide, wide_dtype
from g3dvit.capture.gate_gamma import GammaGates
from g3dvit.capture.gates import Constant, FrozenGates
from g3dvit.capture.outputs import as_tokens, first_output, token_axes

Run = Callable[[Tensor], Any]


#: Where tokens miss more than this share of what enters, it is looked for beside them.
_ELSEWHERE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class ConstantProducts:
    """Value times gradient of one constant that was added before or in the first block.

    Parameters
    ----------
    products : (batch, tokens)
        Summed over features; (batch, 1) where the constant has no place on the tokens.
    num_tokens
        Number of tokens it was added to; 0 where it has no place.
    differs_by_token
        True for a position, False for a bias.
    before_tokens
        True where it was added before the tokens enter the first block.
    voxels : (batch, ...)
        The products in the input's own layout, for a constant that was added to the bare voxels.
    held
        Whether it was computed from the input and is held constant.
    """

    products: Tensor = field(repr=False)
    num_tokens: int
    differs_by_token: bool
    before_tokens: bool
    voxels: Tensor | None = field(default=None, repr=False)
    held: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FrozenProducts:
    """Value times gradient of everything that enters additively, with frozen gates.

    Parameters
    ----------
    voxels : (batch, ...)
        For every number of the input.
    tokens : (batch, tokens) or None
        For the tokens that enter the first block, summed over features; None where no residual
        sum of tokens was found.
    constants
        The constants that were added before it or in the first block.
    later : (batch,)
        All constants after it, summed.
    held : (batch,)
        What was computed from the input after it and is held constant; part of no other sum.
    held_size : (batch,)
        The sizes of its parts, a part being what one token has: parts may cancel in the sum.
    slopes : (batch, ...)
        Where voxels are normalised patch by patch: the gradient at the voxels themselves, with the
        scale of that normalisation frozen and its mean alive. None elsewhere.
    past_norms : (batch, ...)
        The part of `voxels` that does not go through such a normalisation.
    beside, beside_constants : (batch,)
        What reaches the score beside the tokens that enter the first block: the sum of the sizes of
        voxels' parts, and the part of the constants that were added before. Zero where all that
        enters is found again at the tokens.
    """

    voxels: Tensor = field(repr=False)
    tokens: Float[Tensor, "batch tokens"] | None = field(repr=False)
    constants: tuple[ConstantProducts, ...]
    later: Float[Tensor, " batch"]
    held: Float[Tensor, " batch"]
    held_size: Float[Tensor, " batch"]
    slopes: Tensor | None = field(default=None, repr=False)
    past_norms: Tensor | None = field(default=None, repr=False)
    beside: Float[Tensor, " batch"] | None = None
    beside_constants: Float[Tensor, " batch"] | None = None


class FrozenPass:
    """A forward pass with frozen gates.

    Parameters
    ----------
    run
        The model, or what calls it.
    x : (batch, ...)
        Its input.
    token_counts
        How many tokens the model may have, the likeliest first.
    trace
        Follow each constant to the tokens it reaches; needed where the model may shuffle its
        tokens after it has added positions.
    gamma
        Of the gamma rule in linear maps and convolutions; 0 is none (`g3dvit.capture.gate_gamma`).
    """

    def __init__(
        self,
        run: Run,
        x: Tensor,
        token_counts: tuple[int, ...],
        *,
        trace: bool = False,
        gamma: float = 0.0,
    ) -> None:
        plain = gamma == 0
        gates = FrozenGates(x, token_counts) if plain else GammaGates(x, token_counts, gamma)
        with gates:
            self.logits = first_output(run(gates.input))
        self.gates: FrozenGates = gates
        # A number of tokens between the known ones: others joined them later, somewhere.
        trace = trace or any(c.num_tokens not in (0, *gates.token_counts) for c in gates.constants)
        self._reached = self._trace() if trace and gates.tokens is not None else {}

    def _trace(self) -> dict[int, Tensor]:
        """Return, for each constant with a place, which token each of its places reaches.

        Before the first block every token goes its own way. So the gradient of a fixed mixture of
        features, times a digit of the token's number, comes back as that of the mixture times the
        digit.
        """
        gates = self.gates
        point = gates.tokens
        assert point is not None  # asked by the caller
        placed = [
            n for n, c in enumerate(gates.constants) if c.num_tokens and c.order <= point.order
        ]
        axes = token_axes(point.value.shape, gates.batch, point.num_tokens, any_grid=True)
        if not placed or axes is None:
            return {}
        generator = torch.Generator().manual_seed(0)
        mixture = torch.randn(point.value.shape[axes[2]], generator=generator)
        shape = [1] * point.value.ndim
        shape[axes[2]] = -1
        mixture = mixture.to(point.value).reshape(shape)
        grid = [point.value.shape[axis] for axis in axes[1]]
        numbers = torch.arange(point.num_tokens, device=point.value.device).reshape(grid)
        for axis in sorted({axes[0], axes[2]}):
            numbers = numbers.unsqueeze(axis)

        def back(factor: Tensor) -> list[Tensor]:
            gradients = torch.autograd.grad(
                [point.edge],
                [gates.constants[n].leaf for n in placed],
                [(mixture * factor).expand(point.value.shape).contiguous()],
                retain_graph=True,
                allow_unused=True,
            )
            zeros = (torch.zeros_like(gates.constants[n].leaf) for n in placed)
            found = [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]
            return [self._tokens(g, gates.constants[n].num_tokens)[0].double()
                    for g, n in zip(found, placed, strict=True)]  # fmt: skip

        plain = back(torch.ones_like(numbers).to(mixture))
        reached = [torch.zeros(len(u), dtype=torch.long, device=u.device) for u in plain]
        base, value = 16, 1
        while value < point.num_tokens:
            digits = back((numbers // value % base).to(mixture))
            for total, u, coded in zip(reached, plain, digits, strict=True):
                size = u.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
                total += value * ((u * coded).sum(1) / size).round().long()
            value *= base
        return {n: r.clamp(0, point.num_tokens - 1) for n, r in zip(placed, reached, strict=True)}

    def products(
        self, weights: Float[Tensor, "batch outputs"], *, slopes: bool = False
    ) -> FrozenProducts:
        """Return value times gradient for the score ``(weights * logits).sum(1)``.

        Parameters
        ----------
        weights : (batch, outputs)
            Of the score.
        slopes
            Give the gradient at the voxels too, where they are normalised patch by patch.
        """
        gates = self.gates
        edges = [] if gates.tokens is None else [gates.tokens.edge]
        norms = [norm.leaf for norm in gates.patch_norms]
        leaves = [constant.leaf for constant in gates.constants]
        inputs: list[Any] = [
            *(gates.leaf, gates.share, gates.held_share, gates.held_size),
            *(*norms, *leaves, *edges),
        ]
        gradients: tuple[Tensor | None, ...] = (None,) * len(inputs)
        if self.logits.requires_grad:
            gradients = torch.autograd.grad(
                self.logits,
                inputs,
                weights.to(self.logits),
                retain_graph=True,
                allow_unused=True,
            )
        of_voxels, of_share, of_held, of_size, *rest = gradients
        past = voxels = _product(gates.leaf, of_voxels)
        for norm, gradient in zip(gates.patch_norms, rest, strict=False):
            voxels = voxels + carry_back(_product(norm.leaf, gradient), norm.source, gates.leaf)
        at_norms, rest = rest[: len(norms)], rest[len(norms) :]
        constants = tuple(
            self._place(number, constant, gradient)
            for number, (constant, gradient) in enumerate(zip(gates.constants, rest, strict=False))
        )
        none = torch.zeros_like(gates.share)
        later = none if of_share is None else of_share.detach()
        held = none if of_held is None else of_held.detach()
        size = none if of_size is None else of_size.detach()
        tokens: Tensor | None = None
        beside: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
        if gates.tokens is not None:
            product = _product(gates.tokens.value, rest[-1])
            tokens = self._tokens(product, gates.tokens.num_tokens).sum(-1)
            before = sum((c.products.sum(1) for c in constants if c.before_tokens), none)
            missed = tokens.sum(1) - before - per_volume(voxels, gates.batch)
            if bool((missed.abs() > _ELSEWHERE * tokens.abs().sum(1)).any()):
                beside = self._beside(voxels, before, rest[-1])
        found = self._slopes(at_norms) if slopes and norms else None
        return FrozenProducts(voxels, tokens, constants, later, held, size, found, past, *beside)

    def _beside(
        self, voxels: Tensor, before: Tensor, at_tokens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return what of voxels and early constants does not come by the tokens, (batch,) each."""
        gates = self.gates
        assert gates.tokens is not None  # asked by the caller
        norms = [norm.leaf for norm in gates.patch_norms]
        early = [c.leaf for c in gates.constants if c.order <= gates.tokens.order]
        inputs = [gates.leaf, *norms, *early]
        found: tuple[Tensor | None, ...] = (None,) * len(inputs)
        if at_tokens is not None:
            found = torch.autograd.grad(
                [gates.tokens.edge], inputs, [at_tokens], retain_graph=True, allow_unused=True
            )
        through = _product(gates.leaf, found[0])
        for norm, gradient in zip(gates.patch_norms, found[1:], strict=False):
            through = through + carry_back(_product(norm.leaf, gradient), norm.source, gates.leaf)
        constants = torch.zeros_like(before)
        for leaf, gradient in zip(early, found[1 + len(norms) :], strict=True):
            constants = constants + per_volume(_product(leaf, gradient), gates.batch)
        return per_volume((voxels - through).abs(), gates.batch), before - constants

    def _slopes(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """Carry gradients behind normalisations of bare voxels to the voxels."""
        gates, total = self.gates, None
        for norm, gradient in zip(gates.patch_norms, gradients, strict=True):
            if norm.out is None or gradient is None:
                return None
            (slope,) = torch.autograd.grad(
                norm.out, gates.leaf, gradient.to(norm.out), retain_graph=True
            )
            total = wide(slope) if total is None else total + wide(slope)
        return total

    def _tokens(self, values: Tensor, count: int) -> Float[Tensor, "batch tokens features"]:
        tokens = as_tokens(values, self.gates.batch, count, any_grid=True)
        assert tokens is not None  # the layout in which they were found
        return tokens

    def _place(self, number: int, constant: Constant, gradient: Tensor | None) -> ConstantProducts:
        gates, count = self.gates, constant.num_tokens
        product = _product(constant.leaf, gradient)
        if count:
            values = self._tokens(product, count).sum(-1)
        else:
            values = per_volume(product, gates.batch)[:, None]
        if number in self._reached and gates.tokens is not None:
            count = gates.tokens.num_tokens
            values = values.new_zeros((gates.batch, count)).index_add_(
                1, self._reached[number], values
            )
        before = gates.tokens is None or constant.order <= gates.tokens.order
        voxels = None
        if before and constant.source is not None and gradient is not None:
            voxels = carry_back(product, constant.source, gates.leaf)
        return ConstantProducts(
            values, count, constant.differs_by_token, before, voxels, constant.held
        )


def carry_back(relevance: Tensor, source: Tensor, leaf: Tensor) -> Tensor:
    """Carry values on a rearranged input back to the input's own layout.

    Parameters
    ----------
    relevance : as `source`
        One value per number of `source`.
    source
        The input, only rearranged or rescaled; part of the graph.
    leaf
        The input.
    """

    def back(values: Tensor) -> Tensor:
        (out,) = torch.autograd.grad(source, leaf, values, retain_graph=True)
        return out.to(relevance.dtype)

    scale = back(torch.ones_like(source))
    total = torch.zeros_like(scale)
    for _ in range(1 if source.dtype == relevance.dtype else 3):
        # Half precision carries few digits at a time; what is left goes in the next turn.
        part = relevance.to(source.dtype)
        total = total + back(part)
        relevance = relevance - part.to(relevance.dtype)
    # Voxels that do not count at all (a mask inside of the model) have no relevance.
    return total / torch.where(scale == 0, 1.0, scale)


def _product(value: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros(value.shape, dtype=wide_dtype(value), device=value.device)
    return wide(value.detach()) * wide(gradient)
