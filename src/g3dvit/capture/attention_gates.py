"""Gradients with attention weights that follow the input, and with weights that are held.

The difference is what acts by steering attention: frozen gates leave it out. Nothing else is
frozen here, so that the full gradient is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.capture.frozen_functions import wide
from g3dvit.capture.gate_rules import HANDLERS
from g3dvit.capture.gates import FrozenGates
from g3dvit.capture.outputs import first_output

#: Functions that make attention weights, or use them; the rules are those of the frozen gates.
_ATTENTION = {
    name: HANDLERS[name]
    for name in (
        "softmax", "_softmax", "_masked_softmax", "exp",
        "scaled_dot_product_attention", "multi_head_attention_forward",
    )
}  # fmt: skip


class _HeldAttention(FrozenGates):
    """Holds attention weights in the backward pass, and changes nothing else."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        handler = _ATTENTION.get(getattr(func, "__name__", ""))
        if handler is None or not torch.is_grad_enabled():
            return func(*args, **keywords)
        return handler(self, func, args, keywords)


def steering_gradients(
    run: Callable[[Tensor], Any], x: Tensor, weights: Float[Tensor, "batch outputs"]
) -> tuple[Tensor, Tensor]:
    """Return the gradient of a score at the input, as it is and with attention held.

    Parameters
    ----------
    run
        The model inside `guest`, or what calls it.
    x : (batch, ...)
        Its input.
    weights : (batch, outputs)
        Of the score ``(weights * logits).sum(1)``.

    Returns
    -------
    full, held : (batch, ...)
        Like `x`; zero where the score does not depend on it.
    """
    found = []
    for hold in (False, True):
        gates = _HeldAttention(x, ())
        if hold:
            with gates:
                logits = first_output(run(gates.input))
        else:
            logits = first_output(run(gates.input))
        gradient: Tensor | None = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(
                logits, gates.leaf, weights.to(logits), allow_unused=True
            )
        found.append(torch.zeros_like(wide(x)) if gradient is None else wide(gradient))
    return found[0], found[1]
