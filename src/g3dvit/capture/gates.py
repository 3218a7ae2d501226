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
and the completeness of the map shows it. A value that was computed from the input and is *held*
constant (a softmax, a standard deviation, what the model itself detaches) may weigh or divide
what is live. Where it is added instead, it is a part of the score that no place gets: its total
is kept apart, so that the map can say so. Numbers that a model takes out of torch (``.item()``,
``.numpy()``) cannot be followed; that it does so is noted.
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

from g3dvit.capture.frozen_functions import (
    HALF,
    HeldConstant,
    LiveConstant,
    is_live,
    order_of,
    wide_dtype,
)
from g3dvit.capture.gate_rules import HANDLERS
from g3dvit.capture.graph_walks import comes_straight_from, joined_behind, only_way
from g3dvit.capture.held_values import is_held, note_held, takes_numbers_out
from g3dvit.capture.outputs import token_axes


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
    source
        The voxels it was added to, where it was added to the bare voxels; part of the graph.
    held
        Whether it was computed from the input and is held constant.
    """

    leaf: Tensor = field(repr=False)
    order: int
    num_tokens: int
    differs_by_token: bool
    source: Tensor | None = field(default=None, repr=False)
    held: bool = False


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
    out
        The output that `leaf` is a copy of; leads back through the normalisation, its scale frozen.
    """

    leaf: Tensor = field(repr=False)
    source: Tensor = field(repr=False)
    out: Tensor | None = field(default=None, repr=False)


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
        self.held_share = torch.ones_like(self.share).requires_grad_()
        self.held_size = torch.ones_like(self.share).requires_grad_()
        self.token_counts = tuple(dict.fromkeys(token_counts))
        self.constants: list[Constant] = []
        self.patch_norms: list[PatchNorm] = []
        self.tokens: TokenPoint | None = None
        self.seen: dict[Any, Tensor] = {}  # what looks like tokens, until they are found
        self.half = False  # whether anything live was computed in half precision
        self.numbers_out: set[str] = set()  # functions that took numbers out of torch
        self.root = self.input.grad_fn
        self.starts = {self.root}  # where relevance begins: the voxels, or their patches normalised

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        handler = HANDLERS.get(name)
        if handler is None or not torch.is_grad_enabled():
            out = func(*args, **keywords)
        else:
            out = handler(self, func, args, keywords)
        if takes_numbers_out(name, args):
            self.numbers_out.add(name)
        if is_live(out):
            self.half |= out.dtype in HALF
            self._remember(out)
        else:
            note_held(name, out, args, keywords)
        return out

    def _remember(self, out: Tensor) -> None:
        """Keep what looks like tokens until the first residual sum tells which of them are."""
        if self.tokens is not None or out.grad_fn is None:
            return
        if any(self._axes(out.shape, count) for count in self.token_counts):
            self.seen[out.grad_fn] = out

    def share_now(self) -> Tensor:
        """Return the vector of ones whose gradient collects the constant noted next."""
        return self.share

    def constant(self, value: Tensor | float, like: Tensor, shape: torch.Size) -> Tensor:
        """Note a constant and return it as a live tensor of the given shape."""
        tensor = torch.as_tensor(value, device=like.device)
        held = is_held(value)
        if not tensor.is_floating_point():
            tensor = tensor.to(like.dtype)
        if not isinstance(value, Tensor):
            tensor = tensor.to(like.dtype)
        full = tensor.detach().expand(shape)
        if self.tokens is not None:
            noted: Tensor
            if held:
                noted = HeldConstant.apply(self.held_share, self.held_size, full)
            else:
                noted = LiveConstant.apply(self.share_now(), full)
            return noted
        leaf = full.clone().requires_grad_()
        count, differs = self._place(tensor, shape)
        live = leaf.view_as(leaf)
        bare = not count and shape == like.shape and FrozenGates.is_voxels(self, like)
        source = like if bare else None
        self.constants.append(Constant(leaf, order_of(live), count, differs, source, held))
        return live

    def _place(self, value: Tensor, shape: torch.Size) -> tuple[int, bool]:
        fewest, most = min(self.token_counts), max(self.token_counts)
        # Register tokens may join later: positions were then added to fewer tokens.
        between = [n for n in range(fewest + 1, most) if len(shape) == 3 and n in shape[:2]]
        for count in (*self.token_counts, *between):
            axes = self._axes(shape, count)
            if axes is not None:
                own = (1,) * (len(shape) - value.ndim) + tuple(value.shape)
                return count, any(own[axis] > 1 for axis in axes[1])
        return 0, False

    def _axes(self, shape: torch.Size, count: int) -> tuple[int, tuple[int, ...], int] | None:
        return token_axes(shape, self.batch, count, any_grid=True)

    def is_voxels(self, x: Tensor) -> bool:
        """Tell whether a tensor holds the voxels one for one, only rearranged or rescaled."""
        return x.numel() == self.leaf.numel() and comes_straight_from(x, self.root)

    def residual_sum(self, a: Tensor, b: Tensor) -> None:
        """Look whether a sum of two live tensors is the first residual sum of the tokens."""
        if self.tokens is not None or a.shape != b.shape:
            return
        for count in self.token_counts:
            if self._axes(a.shape, count) is None:
                continue
            joined = joined_behind(a, b)
            if joined is None or not only_way(joined[1], a, b, self.starts):
                return
            skip, node = joined
            skip = skip if skip.grad_fn is node else self.seen.get(node, skip)
            # A tensor that was written into since is no longer what the branch came from.
            if skip.grad_fn is node and self._axes(skip.shape, count) is not None:
                value = skip.detach().clone()
                edge = get_gradient_edge(skip)
                self.tokens = TokenPoint(value, edge, order_of(skip), count)
                self.seen.clear()
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
