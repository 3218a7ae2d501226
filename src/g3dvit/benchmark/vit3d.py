"""The forward pass of the benchmark's own models in two halves, with fused attention.

It is the arithmetic of ``vit_pytorch.vit_3d``, whose parts are known here: no matrix of all pairs
of tokens is made, which is quicker in training, and tokens can be taken out between the halves.
Explanations never use this; they run the model itself.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def embed(model: nn.Module, x: Float[Tensor, "batch 1 i j k"]) -> Float[Tensor, "batch tokens d"]:
    """Return class token and patch tokens with their positions."""
    parts: Any = model
    patches = parts.to_patch_embedding(x)
    first = parts.cls_token.expand(len(x), -1, -1)
    tokens: Tensor = torch.cat([first, patches], dim=1) + parts.pos_embedding
    return tokens


def logits_of(
    model: nn.Module, tokens: Float[Tensor, "batch tokens d"]
) -> Float[Tensor, "batch classes"]:
    """Return what the model says about some tokens, the class token being the first."""
    parts: Any = model
    for attention, feed_forward in parts.transformer.layers:
        tokens = _attend(attention, tokens) + tokens
        tokens = feed_forward(tokens) + tokens
    pooled = tokens.mean(dim=1) if parts.pool == "mean" else tokens[:, 0]
    found: Tensor = parts.mlp_head(parts.to_latent(pooled))
    return found


def _attend(
    attention: Any, tokens: Float[Tensor, "batch tokens d"]
) -> Float[Tensor, "batch tokens d"]:
    """Return what one attention layer adds to its tokens."""
    both = attention.to_qkv(attention.norm(tokens)).unflatten(-1, (3, attention.heads, -1))
    q, k, v = both.permute(2, 0, 3, 1, 4)
    out = nn.functional.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    found: Tensor = attention.to_out(out.transpose(1, 2).flatten(2))
    return found
