"""Run a model with attention weights that are constant in the backward pass.

What has a gradient only through attention weights has none then: queries and keys, and
normalisations of them. The forward pass is as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from g3dvit.capture.gate_blocks import MULTI_HEAD_NAMES, multi_head_parts


class HeldAttention(TorchFunctionMode):
    """Detaches queries and keys of attentions that are fused, built in, or a softmax."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            given = [value.detach() if n < 2 else value for n, value in enumerate(args)]
            named = {k: v.detach() if k in ("query", "key") else v for k, v in keywords.items()}
            return func(*given, **named)
        if name == "multi_head_attention_forward":
            call = dict(zip(MULTI_HEAD_NAMES, args, strict=False)) | keywords
            with self:
                return multi_head_parts(call)
        out = func(*args, **keywords)
        # Of fewer axes are class values, and weights of whole tokens.
        if name in ("softmax", "_softmax") and isinstance(out, Tensor) and out.ndim > 2:
            return out.detach()
        return out
