"""See every attention of a model: queries, keys, values and output, fused or not.

`AttentionPass` runs a model under a function mode that recognises
``F.scaled_dot_product_attention``, ``F.multi_head_attention_forward``, and a softmax followed by
a product with the values. No attention matrix is made that the model does not make: weights are
computed again from queries and keys, a few rows at a time. Where a model adds something to its
products of queries and keys, such as a relative position, its own matrix is kept instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from g3dvit.capture.early_exit import SkipLaterBlocks
from g3dvit.capture.gate_blocks import MULTI_HEAD_NAMES, multi_head_parts
from g3dvit.capture.outputs import first_output
from g3dvit.errors import MethodError

_PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "einsum"})
#: What leaves weights as they are, in evaluation mode.
_SAME = frozenset({"dropout", "reshape", "view", "contiguous", "clone", "to", "type_as", "float"})


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """One attention over all tokens.

    Parameters
    ----------
    values : (batch, heads, tokens, d)
    output : (batch, heads, tokens, d)
        As the model goes on with it: part of the graph.
    queries, keys : (batch, heads, tokens, d)
        None where `matrix` is there.
    scale, mask
        ``softmax(scale * queries @ keys^T + mask)``.
    matrix : (batch, heads, tokens, tokens)
        The model's own weights, where they cannot be computed from queries and keys.
    """

    values: Tensor = field(repr=False)
    output: Tensor = field(repr=False)
    queries: Tensor | None = field(default=None, repr=False)
    keys: Tensor | None = field(default=None, repr=False)
    scale: float = 1.0
    mask: Tensor | None = field(default=None, repr=False)
    matrix: Tensor | None = field(default=None, repr=False)

    def weights(self, first: int, last: int) -> Float[Tensor, "batch heads rows tokens"]:
        """Return the attention weights of the tokens `first` to `last` (excluded), as rows."""
        if self.queries is None or self.keys is None:
            assert self.matrix is not None  # one of the two is there
            return _wide(self.matrix[:, :, first:last])
        return self.scores(first, last).softmax(dim=-1)

    def scores(self, first: int, last: int) -> Float[Tensor, "batch heads rows tokens"]:
        """Return what the softmax is taken of, for the tokens `first` to `last` (excluded).

        Raises
        ------
        MethodError
            If only the weights are known.
        """
        if self.queries is None or self.keys is None:
            raise MethodError(
                "this model adds something to its products of queries and keys, such as a relative "
                "position, so that only its attention weights are known; use gradient_rollout"
            )
        q, k = _wide(self.queries[:, :, first:last]), _wide(self.keys)
        scores = self.scale * q @ k.transpose(-1, -2)
        if self.mask is not None:
            rows = self.mask if self.mask.shape[-2] == 1 else self.mask[..., first:last, :]
            scores = scores.masked_fill(~rows, -math.inf) if rows.dtype == torch.bool else (
                scores + rows
            )  # fmt: skip
        return scores


class AttentionPass:
    """A forward pass that keeps its attentions; with gradients, the graph begins at the first.

    Parameters
    ----------
    run
        The model, or what calls it.
    x : (batch, ...)
        Its input.
    num_tokens
        How many tokens the model has.
    gradients
        Record what is needed for `gradients`.
    blocks
        How many blocks may add to the tokens, counted by their attentions; None for all.

    Raises
    ------
    MethodError
        If the model has no attention that is seen here, or one that is not over all its tokens, or
        later blocks are to add nothing and what they add is not seen.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Any],
        x: Tensor,
        num_tokens: int,
        *,
        gradients: bool = True,
        blocks: int | None = None,
    ) -> None:
        self._watch = watch = WatchAttention(int(x.shape[0]), num_tokens, gradients=gradients)
        limit = math.inf if blocks is None else blocks
        skip = SkipLaterBlocks(watch.batch, num_tokens, lambda: len(watch.calls) > limit)
        with torch.set_grad_enabled(gradients), watch, skip:
            self.logits = first_output(run(x))
        self.calls: tuple[AttentionCall, ...] = tuple(self._watch.calls)
        if len(self.calls) > limit and not skip.skipped:
            raise MethodError(
                "what the later blocks of this model add to its tokens is not seen here, so that "
                "its head cannot be applied to earlier ones; use gradient_rollout"
            )
        if self._watch.foreign or self._watch.waiting or not self.calls:
            why = self._watch.foreign or (
                "its attention weights are used in a way that is not understood here"
                if self._watch.waiting
                else "it computes none that is seen here"
            )
            raise MethodError(
                f"methods that follow attention need every attention of the model over all its "
                f"{num_tokens} tokens, but {why}; use frozen_gate, which needs no attention weights"
            )

    def gradients(self, weights: Float[Tensor, "batch outputs"]) -> tuple[Tensor, ...]:
        """Return the gradient of ``(weights * logits).sum(1)`` for every attention's output."""
        outputs = [call.output for call in self.calls]
        found: tuple[Tensor | None, ...] = (None,) * len(outputs)
        if self.logits.requires_grad:
            found = torch.autograd.grad(
                self.logits, outputs, weights.to(self.logits), retain_graph=True, allow_unused=True
            )
        pairs = zip(found, self.calls, strict=True)
        return tuple(torch.zeros_like(c.output) if g is None else g for g, c in pairs)


class WatchAttention(TorchFunctionMode):
    """The function mode behind `AttentionPass`.

    Parameters
    ----------
    batch, num_tokens
        Of the pass.
    gradients
        Begin a graph at the output of the first attention.
    """

    def __init__(self, batch: int, num_tokens: int, *, gradients: bool) -> None:
        super().__init__()
        self.batch, self.num_tokens, self._gradients = batch, num_tokens, gradients
        self.calls: list[AttentionCall] = []
        self.waiting: list[tuple[list[Tensor], Tensor | None, Tensor | None, float]] = []
        self.foreign = ""
        self._products: list[tuple[Tensor, Tensor, Tensor]] = []
        self._inside = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._fused(func, args, keywords)
        if name == "multi_head_attention_forward":
            call = dict(zip(MULTI_HEAD_NAMES, args, strict=False)) | keywords
            self._inside = True
            try:
                with self:
                    return multi_head_parts(call)
            finally:
                self._inside = False
        out = func(*args, **keywords)
        if name == "softmax" and not self._inside:
            self._softmax(args[0] if args else keywords["input"], out)
        elif name in _SAME and args and self._waits(args[0]):
            self.waiting[-1][0].append(out)
        elif name in _PRODUCTS:
            return self._product(name, args, out)
        return out

    def _fused(self, func: Any, args: Sequence[Any], keywords: dict[str, Any]) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        call = dict(zip(names, args, strict=False)) | keywords
        out: Tensor = func(*args, **keywords)
        q, k, v = (self._by_head(call[name]) for name in ("query", "key", "value"))
        if q is None or k is None or v is None:
            return self._refuse(out, call["query"])
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        mask = call.get("attn_mask")
        if call.get("is_causal"):
            mask = torch.ones(self.num_tokens, k.shape[2], dtype=torch.bool, device=q.device).tril()
        scale = call.get("scale") or 1 / math.sqrt(q.shape[-1])
        return self._keep(out, v, queries=q.detach(), keys=k.detach(), scale=scale, mask=mask)

    def _softmax(self, scores: Tensor, weights: Tensor) -> None:
        if weights.ndim < 3 or weights.shape[-2] == 1 or weights.shape[-1] == 1:
            return
        if tuple(weights.shape[-2:]) != (self.num_tokens, self.num_tokens):
            if weights.ndim == 4:
                self._refuse(weights, scores)
            return
        for product, q, k in reversed(self._products):
            # One row tells whether nothing was added to the products of queries and keys.
            row, own = scores[..., :1, :].detach(), product[..., :1, :].detach()
            if row.shape != own.shape:
                continue
            scale = float((row * own).sum() / own.square().sum().clamp_min(1e-30))
            if torch.allclose(row, scale * own, rtol=1e-4, atol=1e-5 * float(row.abs().max())):
                self.waiting.append(([weights], q, k, scale))
                break
        else:
            self.waiting.append(([weights], None, None, 1.0))
        self._products.clear()

    def _waits(self, x: Any) -> bool:
        """Tell whether a tensor is the weights that wait for their values."""
        return bool(self.waiting) and any(x is one for one in self.waiting[-1][0])

    def _product(self, name: str, args: Sequence[Any], out: Tensor) -> Tensor:
        left, right = args[1:3] if name == "einsum" and len(args) == 3 else (*args, None, None)[:2]
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return out
        if self._waits(left):
            if name == "einsum" and not _is_matrix_product(args[0]):
                return out
            weights, q, k, scale = self.waiting.pop()
            values = self._by_head(right)
            assert values is not None  # multiplied with weights over all tokens
            if q is None or k is None:
                return self._keep(out, values, matrix=self._by_head(weights[0].detach()))
            queries, keys = self._by_head(q), self._by_head(k)
            return self._keep(out, values, queries=queries, keys=keys, scale=scale)
        if out.ndim >= 3 and tuple(out.shape[-2:]) == (self.num_tokens, self.num_tokens):
            keys = right if name == "einsum" else right.transpose(-1, -2)
            if left.shape[-1] == keys.shape[-1]:
                # A product is looked at once more at the softmax: only its first row is kept.
                self._products = [(out.detach()[..., :1, :], left.detach(), keys.detach())]
        return out

    def _by_head(self, x: Tensor) -> Tensor | None:
        """Return (batch * heads, tokens, d) or (batch, heads, tokens, d) as the latter."""
        if x.ndim not in (3, 4) or x.shape[-2] != self.num_tokens or x.shape[0] % self.batch:
            return None
        return x if x.ndim == 4 else x.reshape(self.batch, -1, *x.shape[1:])

    def _keep(self, out: Tensor, values: Tensor, **found: Any) -> Tensor:
        start = out
        if self._gradients and not out.requires_grad:
            start = out.detach().requires_grad_()
        shaped = self._by_head(start)
        assert shaped is not None  # as the values
        self.calls.append(AttentionCall(values.detach(), shaped, **found))
        # What the model goes on with must be the very tensor whose gradient is asked for.
        return shaped.reshape(out.shape).clone()

    def _refuse(self, out: Tensor, seen: Tensor) -> Tensor:
        self.foreign = f"one of them is over {seen.shape[-2]} (shape {tuple(seen.shape)})"
        return out


def _is_matrix_product(equation: Any) -> bool:
    if not isinstance(equation, str):
        return False
    left, arrow, out = equation.replace(" ", "").partition("->")
    a, comma, b = left.replace("...", ".").partition(",")
    out = out.replace("...", ".")
    return bool(arrow and comma) and b[:-1] == a[:-2] + a[-1] and out == a[:-1] + b[-1]


def _wide(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.dtype == torch.float64 else x.float()
