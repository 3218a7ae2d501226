"""One forward pass of a model whose graph begins at one layer, for any number of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from g3dvit.capture.layers import watch_layer
from g3dvit.capture.outputs import as_tokens, first_output
from g3dvit.errors import LayerError

Run = Callable[[Tensor], Any]


class LayerPass:
    """A forward pass whose graph begins at one layer.

    Parameters
    ----------
    model
        The module inside `guest`.
    x : (batch, ...)
        Its input.
    layer
        Name of the layer, as `watch_layer` takes it.
    token_counts
        How many tokens the layer may hold, the likeliest first.
    run
        What to call in place of `model`, for instance with other parameters.
    features_first
        As for `token_axes`.

    Raises
    ------
    LayerError
        If the layer did not run, or does not hold the tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        layer: str,
        token_counts: tuple[int, ...],
        run: Run | None = None,
        *,
        features_first: bool = False,
    ) -> None:
        self.batch, self._first = int(x.shape[0]), features_first
        with watch_layer(model, layer) as record:
            self.logits = first_output((run or model)(x))
        if record.activations is None:
            raise LayerError(f"layer {layer!r} did not run in the forward pass")
        self._leaf = record.activations
        found = next(
            (t for n in token_counts if (t := self._tokens(self._leaf, n)) is not None), None
        )
        if found is None:
            raise LayerError(
                f"layer {layer!r} gives {tuple(self._leaf.shape)} for {self.batch} volumes, in "
                f"which there is no axis of {' or '.join(map(str, token_counts))} tokens"
            )
        self.activations: Float[Tensor, "batch tokens features"] = found.detach()

    def gradients(
        self, weights: Float[Tensor, "batch outputs"]
    ) -> Float[Tensor, "batch tokens features"]:
        """Return the gradient of ``(weights * logits).sum(1)`` with respect to the tokens."""
        gradient: Tensor | None = None
        if self.logits.requires_grad:
            (gradient,) = torch.autograd.grad(
                self.logits,
                self._leaf,
                weights.to(self.logits),
                retain_graph=True,
                allow_unused=True,
            )
        if gradient is None:
            return torch.zeros_like(self.activations)
        tokens = self._tokens(gradient, self.activations.shape[1])
        assert tokens is not None  # the same layout as the activations
        return tokens

    def _tokens(self, values: Tensor, count: int) -> Tensor | None:
        return as_tokens(values, self.batch, count, features_first=self._first)
