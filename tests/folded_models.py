"""Small models whose tokens are folded, merged or turned on the way.

Their blocks look at one axis at a time, at pieces of patches, or at merged patches, as video
transformers and hierarchical models do. Every one is non-cubic, on the shape of the gallery.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from gallery import GRID, Attention, Block, ConvPatches, TinyViT

NI, NJ, NK = GRID


class DividedBlock(nn.Module):
    """Attention along k, then over (i, j), the tokens folded into the batch each time."""

    def __init__(self, dim):
        super().__init__()
        self.along, self.across = Block(dim), Block(dim)
        self.norm, self.mlp = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, _, d = x.shape
        x = self.along(x.reshape(b * NI * NJ, NK, d)).reshape(b, NI * NJ, NK, d)
        x = self.across(x.transpose(1, 2).reshape(b * NK, NI * NJ, d))
        x = x.reshape(b, NK, NI * NJ, d).transpose(1, 2).reshape(b, -1, d)
        return x + self.mlp(self.norm(x))


def divided(depth=2):
    return TinyViT(block=DividedBlock, depth=depth, before=0, pool="patches", final_norm=False)


class Merging(nn.Module):
    """Two blocks of patches, then neighbours along k are merged, then two more blocks."""

    def __init__(self, dim=12):
        super().__init__()
        self.embed = ConvPatches(dim, patch=(4, 2, 3))
        self.position = nn.Parameter(torch.randn(1, NI * NJ * 10, dim))
        self.early = nn.Sequential(Block(dim), Block(dim))
        self.merge = nn.Linear(2 * dim, dim)
        self.late = nn.Sequential(Block(dim), Block(dim))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 3)

    def forward(self, x):
        x = self.early(self.embed(x) + self.position)
        x = self.merge(x.reshape(len(x), x.shape[1] // 2, -1))
        return self.head(self.norm(self.late(x)).mean(1))


MERGING_SHAPE = (8, 6, 30)


class Nested(nn.Module):
    """Blocks within each slab of k, whose mean is a token of the blocks behind them."""

    def __init__(self, dim=12):
        super().__init__()
        self.embed = ConvPatches(dim)
        self.place = nn.Parameter(torch.randn(1, NI * NJ, dim))
        self.within = nn.Sequential(Block(dim), Block(dim))
        self.slab = nn.Parameter(torch.randn(1, NK, dim))
        self.between = nn.Sequential(Block(dim), Block(dim))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 3)

    def forward(self, x):
        b = len(x)
        x = self.embed(x).reshape(b, NI * NJ, NK, -1).transpose(1, 2).flatten(0, 1)
        x = self.within(x + self.place).mean(1).reshape(b, NK, -1)
        return self.head(self.norm(self.between(x + self.slab)).mean(1))


class FirstPatch(TinyViT):
    """Its head reads the first token, and that is a patch."""

    def __init__(self):
        super().__init__(before=0, pool="first")


class TurningBlock(Block):
    """Shows its tokens to itself in reverse."""

    def forward(self, x):
        return super().forward(x.flip(1)).flip(1)


def turning(*turned):
    """A block a value; those that are true see the tokens in reverse."""
    kinds = iter(turned)
    return TinyViT(
        block=lambda dim: (TurningBlock if next(kinds) else Block)(dim),
        depth=len(turned),
        before=0,
        pool="max",
    )


class QueryKeyNorms(Attention):
    """Normalises queries and keys over all heads at once, so that they look like tokens."""

    def __init__(self, dim, heads=2, *, fused=True):
        super().__init__(dim, heads)
        self.q_norm, self.k_norm, self.fused = nn.LayerNorm(dim), nn.LayerNorm(dim), fused

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        parts = (self.q_norm(q), self.k_norm(k), v)
        q, k, v = (y.reshape(b, t, self.heads, -1).transpose(1, 2) for y in parts)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.to_out(out.transpose(1, 2).reshape(b, t, d))


def query_key_norms(*, fused):
    def block(dim):
        one = Block(dim)
        one.attention = QueryKeyNorms(dim, fused=fused)
        return one

    return TinyViT(block=block)


class KernelWithoutBackward(nn.Module):
    """Refuses gradients, as kernels do on devices that have no backward pass for them."""

    def __init__(self):
        super().__init__()
        self.inner = TinyViT()

    def forward(self, x):
        if torch.is_grad_enabled():
            raise NotImplementedError("no backward on this device")
        return self.inner(x)
