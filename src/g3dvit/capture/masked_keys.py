"""Hide tokens from every attention of a model, by an infinite negative mask on their keys.

For models whose blocks go by the place of a token (rotary or relative positions), so that no token
can be taken out before them. A hidden token is still there as a query: where a head averages
tokens, its row must be taken out behind the last block besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.overrides import TorchFunctionMode

from g3dvit.capture.gate_blocks import MULTI_HEAD_NAMES, multi_head_parts


class MaskKeys(TorchFunctionMode):
    """Hides tokens in attentions that are fused, built in, or a softmax over the tokens.

    Parameters
    ----------
    hidden : (batch, tokens)
        True for the tokens that nothing may attend to.
    """

    def __init__(self, hidden: Bool[Tensor, "batch tokens"]) -> None:
        super().__init__()
        self.hidden = hidden

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._fused(func, args, keywords)
        if name == "multi_head_attention_forward":
            call = dict(zip(MULTI_HEAD_NAMES, args, strict=False)) | keywords
            with self:
                return multi_head_parts(call)
        if name in ("softmax", "_softmax"):
            scores, *rest = args or (keywords.pop("input"),)
            return func(self._masked(scores), *rest, **keywords)
        return func(*args, **keywords)

    def _fused(self, func: Any, args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        call = dict(zip(names, args, strict=False)) | keywords
        query, key, mask = call["query"], call["key"], call.get("attn_mask")
        shape = torch.Size([*query.shape[:-1], key.shape[-2]])
        if not self._is_over_tokens(shape):
            return func(*args, **keywords)
        if mask is None:
            mask = torch.zeros((), dtype=query.dtype, device=query.device)
        elif mask.dtype == torch.bool:
            none = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
            mask = none.masked_fill(~mask, -math.inf)
        if call.pop("is_causal", False):
            later = torch.ones(shape[-2:], dtype=torch.bool, device=query.device).triu(1)
            mask = mask.expand(shape).masked_fill(later, -math.inf)
        return func(**call | {"attn_mask": self._masked(mask.expand(shape))})

    def _is_over_tokens(self, shape: Sequence[int]) -> bool:
        batch, tokens = self.hidden.shape
        return len(shape) >= 3 and shape[-1] == tokens and shape[0] % batch == 0

    def _masked(self, scores: Tensor) -> Tensor:
        """Return scores (batch, ..., rows, tokens), or heads folded into the batch, masked."""
        if not self._is_over_tokens(scores.shape):
            return scores
        hidden = self.hidden.repeat_interleave(scores.shape[0] // len(self.hidden), dim=0)
        return scores.masked_fill(
            hidden.reshape(len(hidden), *(1,) * (scores.ndim - 2), -1), -math.inf
        )
