"""A function mode under which a transformer becomes affine in its input.

While `FrozenGates` is active, every function that is not linear is replaced, in the backward
pass only, by the linear map with the same value at this input: normalisations keep their
standard deviation, softmax and attention their weights, activations their ratio f(z)/z (see
`g3dvit.capture.frozen_functions`). No module is swapped, patched or copied, and fused attention
stays fused.

The score is then a sum over what enters additively: voxels, and constants (biases, positions,
class and register tokens, computed position codes). The mode notes each constant where it
meets a tensor that depends on the input. Terms: a tensor is *live* if it depends on the input
or on a noted constant; constants that come before the first residual sum are noted *early*,
with their place on the tokens, later ones only with their total per volume; *tokens* is the
skip operand of that first residual sum, the token sequence that enters the first block.

A function that is not known here keeps its own gradient; its relevance then does not add up,
and the completeness of the map shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from g3dvit.capture.frozen_functions import LiveConstant, order_of, wide_dtype
from g3dvit.capture.gate_rules import HANDLERS, comes_from, comes_straight_from
from g3dvit.capture.outputs import as_tokens, token_axes


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant that was added before the first residual sum.

    Parameters
    ----------
    leaf
        Its values, as they were added; a leaf of autograd.
    order
        When it was added, in autograd's own count.
    num_tokens
        Number of tokens it was added to; 0 where it has no tokens.
    differs_by_token
        True where its values depend on the token: a position, not a bias.
    """

    leaf: Tensor = field(repr=False)
    order: int
    num_tokens: int
    differs_by_token: bool


@dataclass(frozen=True, slots=True, eq=False)
class TokenPoint:
    """The tokens as they enter the first block.

    Parameters
    ----------
    value
        In the layout of the model.
    edge
        Where their gradient is found.
    order
        When they were made, in autograd's own count.
    num_tokens
        How many there are.
    """

    value: Tensor = field(repr=False)
    edge: GradientEdge = field(repr=False)
    order: int
    num_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class PatchNorm:
    """A normalisation straight over the voxels; relevance begins at its output.

    Parameters
    ----------
    leaf
        Its output without its bias; a leaf of autograd.
    source
        Its input: the voxels, only rearranged, so that it leads back to them.
    """

    leaf: Tensor = field(repr=False)
    source: Tensor = field(repr=False)


class FrozenGates(TorchFunctionMode):
    """Runs a model with frozen gates and notes every constant. Use it through `frozen_gates`.

    Parameters
    ----------
    x : (batch, ...)
        The model's input, detached.
    token_counts
        How many tokens the model may have, the likeliest first: with and without prefix tokens.
    """

    def __init__(self, x: Tensor, token_counts: tuple[int, ...]) -> None:
        super().__init__()
        self.batch = int(x.shape[0])
        self.leaf = x.detach().requires_grad_()
        self.input = self.leaf.clone()  # what the model gets; it may change it in place
        self.share = torch.ones(self.batch, dtype=wide_dtype(x), device=x.device)
        self.share.requires_grad_()
        self.token_counts = tuple(dict.fromkeys(token_counts))
        self.constants: list[Constant] = []
        self.patch_norms: list[PatchNorm] = []
        self.tokens: TokenPoint | None = None
        self.root = self.input.grad_fn

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        handler = HANDLERS.get(getattr(func, "__name__", ""))
        if handler is None or not torch.is_grad_enabled():
            return func(*args, **keywords)
        return handler(self, func, args, keywords)

    def share_now(self) -> Tensor:
        """Return the vector of ones whose gradient collects the constant noted next."""
        return self.share

    def constant(self, value: Tensor | float, like: Tensor, shape: torch.Size) -> Tensor:
        """Note a constant and return it as a live tensor of the given shape."""
        tensor = torch.as_tensor(value, device=like.device)
        if not tensor.is_floating_point():
            tensor = tensor.to(like.dtype)
        if not isinstance(value, Tensor):
            tensor = tensor.to(like.dtype)
        full = tensor.detach().expand(shape)
        if self.tokens is not None:
            noted: Tensor = LiveConstant.apply(self.share_now(), full)
            return noted
        leaf = full.clone().requires_grad_()
        count, differs = self._place(tensor, shape)
        live = leaf.view_as(leaf)
        self.constants.append(Constant(leaf, order_of(live), count, differs))
        return live

    def _place(self, value: Tensor, shape: torch.Size) -> tuple[int, bool]:
        for count in self.token_counts:
            axes = token_axes(shape, self.batch, count)
            if axes is not None:
                own = (1,) * (len(shape) - value.ndim) + tuple(value.shape)
                return count, any(own[axis] > 1 for axis in axes[1])
        return 0, False

    def is_voxels(self, x: Tensor) -> bool:
        """Tell whether a tensor holds the voxels one for one, only rearranged or rescaled."""
        return x.numel() == self.leaf.numel() and comes_straight_from(x, self.root)

    def residual_sum(self, a: Tensor, b: Tensor) -> None:
        """Look whether a sum of two live tensors is the first residual sum of the tokens."""
        if self.tokens is not None or a.shape != b.shape:
            return
        skip, branch = sorted((a, b), key=order_of)
        for count in self.token_counts:
            if as_tokens(a, self.batch, count) is not None and comes_from(branch, skip):
                edge = get_gradient_edge(skip)
                value = skip.detach().clone()
                self.tokens = TokenPoint(value, edge, order_of(skip), count)
                return


@contextmanager
def frozen_gates(x: Tensor, token_counts: tuple[int, ...]) -> Iterator[FrozenGates]:
    """Run a model with frozen gates.

    Call it inside `guest`, run the model on ``gates.input``, and take gradients after the
    ``with`` block.

    Parameters
    ----------
    x : (batch, ...)
        The model's input.
    token_counts
        How many tokens the model may have, the likeliest first.

    Examples
    --------
    >>> x = torch.randn(1, 3, 4)
    >>> with frozen_gates(x, (3,)) as gates:
    ...     y = torch.nn.functional.gelu(gates.input).sum() + 2.0
    >>> (grad,) = torch.autograd.grad(y, gates.leaf)
    >>> bool(torch.isclose((grad * x).sum() + 2.0, y))
    True
    """
    gates = FrozenGates(x, token_counts)
    with gates:
        yield gates
