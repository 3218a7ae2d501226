"""One forward pass with several layers watched, and the layers that feed the attentions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from g3dvit.capture.layers import watch_layer
from g3dvit.capture.outputs import as_tokens, first_output

_ATTENTIONS = frozenset({"scaled_dot_product_attention", "multi_head_attention_forward", "softmax"})


class LayersPass:
    """A forward pass whose graph begins at the first of several layers.

    Parameters
    ----------
    model
        The module inside `guest`.
    x : (batch, ...)
        Its input.
    layers
        Names as `watch_layer` takes them, in the order of execution.
    num_tokens
        How many tokens the model has.
    run
        What to call in place of `model`, for instance with other parameters.
    features_first
        Names of the layers whose features come first; as for `token_axes`.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        layers: Sequence[str],
        num_tokens: int,
        run: Callable[[Tensor], Any] | None = None,
        *,
        features_first: Collection[str] = (),
    ) -> None:
        self._features_first = features_first
        self._batch, self._count = int(x.shape[0]), num_tokens
        with ExitStack() as stack:
            records = [stack.enter_context(watch_layer(model, name, join=True)) for name in layers]

            def latest() -> int:
                ran = [n for n, record in enumerate(records) if record.activations is not None]
                return max(ran, default=-1)

            times = stack.enter_context(_AttentionTimes(num_tokens, latest))
            self.logits = first_output((run or model)(x))
        fed = [n for n in dict.fromkeys(times.feeding) if n >= 0]
        #: True where an attention over all tokens runs before any of the layers.
        self.unfed: bool = -1 in times.feeding
        #: How many keys the attentions have that are not over all tokens: windows, one axis.
        self.partial_keys: tuple[int, ...] = tuple(dict.fromkeys(times.partial_keys))
        #: Names of the layers that ran last before an attention: what the attention reads.
        self.before_attention: tuple[str, ...] = tuple(layers[n] for n in fed)
        self._leaves: dict[str, Tensor] = {
            name: record.activations
            for name, record in zip(layers, records, strict=True)
            if record.activations is not None
        }

    def activations(self, layer: str) -> Float[Tensor, "batch tokens features"] | None:
        """Return the tokens at a layer, or None where it holds none."""
        leaf = self._leaves.get(layer)
        return None if leaf is None else self._tokens(layer, leaf.detach())

    def _tokens(self, layer: str, values: Tensor) -> Tensor | None:
        first = layer in self._features_first
        return as_tokens(values, self._batch, self._count, features_first=first)

    def gradients(
        self, layers: Sequence[str], weights: Float[Tensor, "batch outputs"]
    ) -> tuple[Float[Tensor, "batch tokens features"], ...]:
        """Return the gradients of ``(weights * logits).sum(1)`` at layers that hold tokens."""
        leaves = [self._leaves[name] for name in layers]
        found: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if self.logits.requires_grad:
            found = torch.autograd.grad(
                self.logits, leaves, weights.to(self.logits), retain_graph=True, allow_unused=True
            )
        tokens = []
        for name, leaf, gradient in zip(layers, leaves, found, strict=True):
            value = torch.zeros_like(leaf) if gradient is None else gradient
            shaped = self._tokens(name, value)
            assert shaped is not None  # the same layout as the activations
            tokens.append(shaped)
        return tuple(tokens)


class _AttentionTimes(TorchFunctionMode):
    """Notes, at every attention over all tokens, what `latest` returns."""

    def __init__(self, num_tokens: int, latest: Callable[[], int]) -> None:
        super().__init__()
        self.feeding: list[int] = []
        self.partial_keys: list[int] = []
        self._num_tokens = num_tokens
        self._latest = latest

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _ATTENTIONS:
            keys = _number_of_keys(name, args, kwargs or {}, out)
            if keys == self._num_tokens:
                self.feeding.append(self._latest())
            elif keys is not None and keys > 1:
                self.partial_keys.append(keys)
        return out


def _number_of_keys(name: str, args: Any, kwargs: Mapping[str, Any], out: Any) -> int | None:
    """Return over how many tokens an attention goes; None where a softmax is none."""
    if name == "softmax":
        square = isinstance(out, Tensor) and out.ndim > 2 and out.shape[-1] == out.shape[-2]
        # Others are of class values, or of features.
        return int(out.shape[-1]) if square else None
    key = args[1] if len(args) > 1 else kwargs["key"]
    return int(key.shape[-2] if name == "scaled_dot_product_attention" else key.shape[0])
