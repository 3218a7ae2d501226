"""Walks through autograd's graph: where a tensor comes from, and what two have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor

# Nodes of autograd's graph that only move values about.
_MOVES = (
    "View", "UnsafeView", "Reshape", "Permute", "Transpose", "T", "Clone", "Alias", "Squeeze",
    "Unsqueeze", "Slice", "Select", "Split", "Chunk", "Unbind", "Expand", "ToCopy", "Contiguous",
    "ScaledGradient",
)  # fmt: skip
_BY_CONSTANT = ("Mul", "Div", "Add", "Sub", "Neg", "Rsub")
_PIECEWISE = ("Relu", "LeakyRelu", "Threshold", "Prelu")


def _live_parents(node: Any) -> list[Any]:
    constant = ("AccumulateGrad", "LiveConstant", "HeldConstant")
    parents = [parent for parent, _ in node.next_functions if parent is not None]
    return [p for p in parents if not p.name().split("::")[-1].startswith(constant)]


def _chain(x: Tensor) -> Iterator[Any]:
    """Yield the nodes behind a tensor for as long as it was only moved, scaled or shifted."""
    node: Any = x.grad_fn
    while node is not None:
        yield node
        parents = [parent for parent in _live_parents(node) if not _is_constant(parent)]
        if not node.name().startswith((*_MOVES, *_BY_CONSTANT)) or len(parents) != 1:
            return
        node = parents[0]


def _is_constant(node: Any) -> bool:
    """Tell whether a node is the view of a noted constant."""
    return bool(node.name().startswith("View") and not _live_parents(node))


def is_gate(x: Tensor) -> bool:
    """Tell whether a live tensor is the output of an activation function."""
    return any(node.name().startswith(("FrozenActivation", *_PIECEWISE)) for node in _chain(x))


def comes_straight_from(x: Tensor, root: Any) -> bool:
    """Tell whether a tensor is what the node `root` gave, only moved, scaled or shifted."""
    return any(node is root for node in _chain(x))


def joined_behind(a: Tensor, b: Tensor) -> tuple[Tensor, Any] | None:
    """Return which of two tensors only carries on what the other was computed from, and its node.

    That is a residual sum: a branch joins what it came from, moved or scaled or not. A sum of two
    embeddings, of which neither comes from the other, is none.
    """
    found = [(skip, _carried(skip, branch)) for skip, branch in ((a, b), (b, a))]
    known = [pair for pair in found if pair[1] is not None]
    return max(known, key=lambda pair: pair[1]._sequence_nr(), default=None)


def _carried(skip: Tensor, branch: Tensor) -> Any:
    carried = list(_chain(skip))
    first = min(node._sequence_nr() for node in carried)
    waiting: list[Any] = [branch.grad_fn]
    seen = set(waiting)
    while waiting:
        for parent, _ in waiting.pop().next_functions:
            if parent is not None and parent not in seen and parent._sequence_nr() >= first:
                seen.add(parent)
                waiting.append(parent)
    return next((node for node in carried if node in seen), None)


def only_way(node: Any, a: Tensor, b: Tensor, starts: Collection[Any]) -> bool:
    """Tell whether all that reaches two tensors from the nodes `starts` passes through a node."""
    waiting: list[Any] = [a.grad_fn, b.grad_fn]
    seen = {node, *waiting}
    while waiting:
        here = waiting.pop()
        if here is node:
            continue
        if here in starts:
            return False
        for parent, _ in here.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return True
