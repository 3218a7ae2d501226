"""Find the module in which relevance is not conserved.

With frozen gates every module hands on what it gets: the sum of value times gradient over what
goes in, plus that of its own constants, is the sum over what comes out. Where a module computes
something that `g3dvit.capture.gate_rules` does not know, these differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from g3dvit.capture.frozen_functions import HALF, is_live, wide
from g3dvit.capture.gates import FrozenGates
from g3dvit.capture.outputs import first_output

#: A module is innocent that gains less than this share of what the worst one does.
_TOLERANCE = 0.003
#: Or less than this share of the score, which is rounding.
_ROUNDING = 2e-5


class _Located(FrozenGates):
    """Frozen gates that note for each module what goes in, what comes out and what it adds."""

    def __init__(self, x: Tensor, token_counts: tuple[int, ...], model: nn.Module) -> None:
        super().__init__(x, token_counts)
        self.running: list[str] = [""]
        self.taken: dict[str, list[Tensor]] = {}
        self.given: dict[str, list[Tensor]] = {}
        self.shares: dict[str, Tensor] = {}
        self.early: list[tuple[str, Tensor]] = []
        self.cut: list[str] = []
        self.handles: list[RemovableHandle] = []
        for name, module in model.named_modules():
            enter, leave = self._enter(name), self._leave(name)
            self.handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self.handles.append(module.register_forward_hook(leave))

    def _enter(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            self.running.append(name)
            return self._views(args, self.taken, name), self._views(kwargs, self.taken, name)

        return hook

    def _leave(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            self.running.pop()
            return self._views(output, self.given, name)

        return hook

    def _views(self, value: Any, book: dict[str, list[Tensor]], name: str) -> Any:
        """Return a value with its live tensors behind views, whose gradients can be told apart."""
        if is_live(value):
            view: Tensor = value.view_as(value)
            book.setdefault(name, []).append(view)
            return view
        if type(value) in (tuple, list):
            return type(value)(self._views(item, book, name) for item in value)
        if type(value) is dict:
            return {key: self._views(item, book, name) for key, item in value.items()}
        return value

    def share_now(self) -> Tensor:
        owner = self.running[-1]
        if owner not in self.shares:
            self.shares[owner] = torch.ones_like(self.share).requires_grad_()
        return self.shares[owner]

    def constant(self, value: Tensor | float, like: Tensor, shape: torch.Size) -> Tensor:
        count = len(self.constants)
        live = super().constant(value, like, shape)
        # What is held counts as gained where it is added.
        if len(self.constants) > count and not self.constants[-1].held:
            self.early.append((self.running[-1], self.constants[-1].leaf))
        return live

    def is_voxels(self, x: Tensor) -> bool:
        found = super().is_voxels(x)
        if found:
            self.cut.append(self.running[-1])
        return found


def unconserved_module(
    model: nn.Module,
    x: Tensor,
    weights: Tensor,
    token_counts: tuple[int, ...],
    run: Callable[[Tensor], Any] | None = None,
) -> str:
    """Name the innermost module in which relevance is gained or lost.

    Parameters
    ----------
    model
        The module inside `guest`.
    x : (1, ...)
        One input.
    weights : (1, outputs)
        Of the score.
    token_counts
        As for `frozen_gates`.
    run
        What to call in place of `model`.

    Returns
    -------
    str
        Such as ``"the module 'blocks.0.gate' (SwiGLU)"``; empty where none was found.
    """
    gates = _Located(x, token_counts, model)
    try:
        with gates:
            logits = first_output((run or model)(gates.input))
    except RuntimeError:
        return ""  # a model that writes into its tensors in a way that views do not allow
    finally:
        for handle in gates.handles:
            handle.remove()
    if not logits.requires_grad:
        return (
            "the softmax at the end of the model: explain its logits instead (or in a part that "
            "runs under torch.no_grad)"
        )
    gained = _gains(gates, logits, weights)
    size = max((abs(gain) for gain in gained.values()), default=0.0)
    score = float((logits.detach() * weights).sum().abs())
    rounding = (_TOLERANCE if gates.half or x.dtype in HALF else _ROUNDING) * score
    least = max(_TOLERANCE * size, rounding)
    wrong = {name for name, gain in gained.items() if abs(gain) > least}
    inner = [n for n in wrong if not any(_inside(other, n) for other in wrong if other != n)]
    if not inner:
        return ""
    name = max(inner, key=lambda n: abs(gained[n]))
    kind = type(dict(model.named_modules())[name]).__name__
    return f"the module {name!r} ({kind})" if name else f"the model itself ({kind}.forward)"


def _gains(gates: _Located, logits: Tensor, weights: Tensor) -> dict[str, float]:
    """Return for each module what comes out minus what goes in and is added."""
    names = [n for n in gates.given if n in gates.taken]
    tensors = [t for n in names for t in (*gates.taken[n], *gates.given[n])]
    added = [*gates.shares.items(), *gates.early]
    every = [*tensors, *(tensor for _, tensor in added)]
    gradients = torch.autograd.grad(logits, every, weights.to(logits), allow_unused=True)
    products = [
        0.0 if g is None else float((wide(t.detach()) * wide(g)).sum().double())
        for t, g in zip(every, gradients, strict=True)
    ]
    own: dict[str, float] = {}
    for (name, _), product in zip(added, products[len(tensors) :], strict=True):
        own[name] = own.get(name, 0.0) + product
    gained: dict[str, float] = {}
    position = 0
    for name in names:
        taken, given = len(gates.taken[name]), len(gates.given[name])
        into = sum(products[position : position + taken])
        out = sum(products[position + taken : position + taken + given])
        position += taken + given
        if any(cut == name or _inside(cut, name) for cut in gates.cut):
            continue  # relevance begins inside it
        constants = sum(v for n, v in own.items() if n == name or _inside(n, name))
        gained[name] = out - into - constants
    return gained


def _inside(name: str, outer: str) -> bool:
    return name != outer and (outer == "" or name.startswith(outer + "."))
