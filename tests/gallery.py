"""Odd models with known answers, for tests of probing, explaining and running.

Every one is small, non-cubic and asymmetric. `GALLERY` maps a name to a `Piece`: a builder (so
that no test shares weights with another), its input shape, and what probing must find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

GRID = (2, 3, 5)
PATCH = (4, 2, 3)
SHAPE = tuple(g * p for g, p in zip(GRID, PATCH, strict=True))  # (8, 6, 15)


@dataclass(frozen=True)
class Piece:
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    prefix: int
    suffix: int
    pooling: str
    default_layer: str
    layers: tuple[str, ...]
    outputs: int = 3
    grid: tuple[int, int, int] = GRID
    patch: tuple[int, int, int] = PATCH
    order: tuple[int, ...] | None = None  # None: as the input


class Patches(nn.Module):
    """(batch, c, i, j, k) to (batch, patches, voxels), by hand; `axes` is the order of the grid."""

    def __init__(self, patch=PATCH, axes=(0, 1, 2)):
        super().__init__()
        self.patch, self.axes = patch, axes

    def forward(self, x):
        b, c = x.shape[:2]
        (p, q, r), (i, j, k) = self.patch, x.shape[2:]
        x = x.reshape(b, c, i // p, p, j // q, q, k // r, r)
        grid = [2 + 2 * a for a in self.axes]
        return x.permute(0, *grid, 3, 5, 7, 1).reshape(b, -1, p * q * r * c)


class HandRMSNorm(nn.Module):
    """Written by hand, without any of torch's normalisation functions."""

    def __init__(self, dim):
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain


class HandLayerNorm(HandRMSNorm):
    """The centred kind."""

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return super().forward(x) + 0.1


class Attention(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.to_qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(out.transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, dim, norm=nn.LayerNorm, *, shared=None, post=False):
        super().__init__()
        self.norm1 = shared or norm(dim)
        self.attention = Attention(dim)
        self.norm2 = shared or norm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.post = post

    def forward(self, x):
        if self.post:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class FunctionalBlock(Block):
    """Normalises with function calls only."""

    def __init__(self, dim):
        super().__init__(dim, norm=nn.Identity)
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(dim))
        self.dim = dim

    def forward(self, x):
        x = x + self.attention(F.layer_norm(x, (self.dim,), self.gain))
        return x + self.mlp(F.rms_norm(x, (self.dim,), self.gain))


class TinyViT(nn.Module):
    """A ViT of which everything can be turned around."""

    def __init__(
        self,
        *,
        dim=12,
        depth=2,
        outputs=3,
        channels=1,
        patch=PATCH,
        shape=SHAPE,
        axes=(0, 1, 2),
        before=1,
        after=0,
        pool="first",
        norm=nn.LayerNorm,
        block=None,
        embed=None,
        shared=False,
        final_norm=True,
        wrap=None,
        shuffle=None,
        standardise=False,
    ):
        super().__init__()
        counts = [n // p for n, p in zip(shape, patch, strict=True)]
        patches = counts[0] * counts[1] * counts[2]
        voxels = channels * patch[0] * patch[1] * patch[2]
        self.embed = embed or nn.Sequential(Patches(patch, axes), nn.Linear(voxels, dim))
        self.before = nn.Parameter(torch.randn(1, before, dim))
        self.after = nn.Parameter(torch.randn(1, after, dim))
        self.position = nn.Parameter(0.5 * torch.randn(1, patches + before + after, dim))
        common = norm(dim) if shared else None
        make = block or (lambda d: Block(d, norm, shared=common))
        self.blocks = nn.ModuleList([make(dim) for _ in range(depth)])
        self.never_runs = nn.LayerNorm(dim)
        self.norm = (common or norm(dim)) if final_norm else nn.Identity()
        wide = dim * (patches + before + after) if pool == "flatten" else dim
        self.head = nn.Linear(wide, outputs)
        self.pool, self.wrap, self.shuffle = pool, wrap, shuffle
        self.slots, self.patches, self.standardise = before, patches, standardise

    def pooled(self, x):
        patches = x[:, self.slots : self.slots + self.patches]
        return {
            "first": lambda: x[:, 0],
            "last": lambda: x[:, -1],
            "patches": lambda: patches.mean(1),
            "all": lambda: x.mean(1),
            "max": lambda: patches.amax(1),
            "flatten": lambda: x.flatten(1),
            "both": lambda: x[:, 0] + patches.mean(1),
        }[self.pool]()

    def forward(self, x):
        if self.standardise:
            x = (x - x.mean()) / x.std()
        x = self.embed(x)
        if self.shuffle is not None:
            x = x[:, self.shuffle]
        b = len(x)
        x = torch.cat([self.before.expand(b, -1, -1), x, self.after.expand(b, -1, -1)], 1)
        x += self.position  # in place, as many models do
        for block in self.blocks:
            x = block(x)
        scores = self.head(self.pooled(self.norm(x)))
        return scores if self.wrap is None else self.wrap(scores)


class ConvPatches(nn.Module):
    def __init__(self, dim, channels=1, patch=PATCH, kernel=None, padding=0):
        super().__init__()
        self.conv = nn.Conv3d(channels, dim, kernel or patch, stride=patch, padding=padding)

    def forward(self, x):
        return self.conv(x).flatten(2).transpose(1, 2)


class Permuting(nn.Module):
    """Takes (batch, i, j, k), and shows (k, i, j) to the network inside."""

    def __init__(self, inner):
        super().__init__()
        self.volume_encoder = nn.ModuleDict({"vit3d": inner})

    def forward(self, volumes):
        return self.volume_encoder["vit3d"](volumes.permute(0, 3, 1, 2).unsqueeze(1))


class Mirroring(nn.Module):
    """Flips i and k before anything else."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.flip(2, 4))


class ChannelsLast(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, volumes):
        return self.inner(volumes.permute(0, 4, 1, 2, 3))


class PlainEncoder(nn.Module):
    """`nn.TransformerEncoder` as it comes: post-norm, with torch's fused layer in eval mode."""

    def __init__(self, *, batch_first=True, pool="first", norm_first=False, dim=12, outputs=3):
        super().__init__()
        self.embed = ConvPatches(dim)
        self.first = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, 31, dim))
        layer = nn.TransformerEncoderLayer(
            dim, 2, 20, batch_first=batch_first, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, outputs)
        self.batch_first, self.pool = batch_first, pool

    def forward(self, x):
        x = self.embed(x)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.position
        if not self.batch_first:
            x = x.transpose(0, 1)
        x = self.encoder(x)
        if not self.batch_first:
            x = x.transpose(0, 1)
        return self.head(x[:, 0] if self.pool == "first" else x.mean(1))


def seeded(build):
    def make():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return build().eval()

    return make


def _names(pattern, depth=2, final=("norm",)):
    return tuple(p.format(n) for n in range(depth) for p in pattern) + final


_PRE = ("blocks.{}.norm1", "blocks.{}.norm2")
_CLS = {"prefix": 1, "suffix": 0, "pooling": "class token", "default_layer": "blocks.1.norm1"}
_SHUFFLE = torch.randperm(30, generator=torch.Generator().manual_seed(5))


def _permuted_order():
    # The network inside sees (k, i, j): its token p counts (gk, gi, gj) in C order.
    numbers = torch.arange(30).reshape(GRID[2], GRID[0], GRID[1])
    return tuple(numbers.permute(1, 2, 0).flatten().tolist())


def _transposed_order():
    numbers = torch.arange(30).reshape(GRID[1], GRID[2], GRID[0])  # (gj, gk, gi)
    return tuple(numbers.permute(2, 0, 1).flatten().tolist())


def _piece(build, input_shape=(1, *SHAPE), layers=None, **found):
    return Piece(seeded(build), input_shape, layers=layers or _names(_PRE), **found)


GALLERY = {
    "class token first": _piece(TinyViT, **_CLS),
    "class token at the end": _piece(
        lambda: TinyViT(before=0, after=1, pool="last"), **_CLS | {"prefix": 0, "suffix": 1}
    ),
    "registers before": _piece(lambda: TinyViT(before=4), **_CLS | {"prefix": 4}),
    "registers after": _piece(lambda: TinyViT(after=3), **_CLS | {"suffix": 3}),
    "registers on both sides, mean of patches": _piece(
        lambda: TinyViT(before=2, after=3, pool="patches"),
        prefix=2,
        suffix=3,
        pooling="mean of patches",
        default_layer="blocks.1.norm2",
    ),
    "mean of all tokens": _piece(
        lambda: TinyViT(pool="all", final_norm=False),
        layers=_names(_PRE, final=()),
        prefix=1,
        suffix=0,
        pooling="mean of all tokens",
        default_layer="blocks.1.norm2",
    ),
    "no prefix": _piece(
        lambda: TinyViT(before=0, pool="patches"),
        prefix=0,
        suffix=0,
        pooling="mean of patches",
        default_layer="blocks.1.norm2",
    ),
    "flattening head": _piece(
        lambda: TinyViT(pool="flatten"),
        prefix=1,
        suffix=0,
        pooling="other",
        default_layer="norm",
    ),
    "maximum over patches": _piece(
        lambda: TinyViT(pool="max"), prefix=1, suffix=0, pooling="other", default_layer="norm"
    ),
    "class token plus mean": _piece(
        # The gradient of the final norm is the same for all patches, though not for all tokens.
        lambda: TinyViT(pool="both"),
        prefix=1,
        suffix=0,
        pooling="other",
        default_layer="blocks.1.norm2",
    ),
    "three channels": _piece(lambda: TinyViT(channels=3), (3, *SHAPE), **_CLS),
    "channels last": _piece(
        lambda: ChannelsLast(TinyViT(channels=2)),
        (*SHAPE, 2),
        layers=tuple(f"inner.{n}" for n in _names(_PRE)),
        **_CLS | {"default_layer": "inner.blocks.1.norm1"},
    ),
    "mirrored inside": _piece(
        lambda: Mirroring(TinyViT()),
        layers=tuple(f"inner.{n}" for n in _names(_PRE)),
        order=tuple(torch.arange(30).reshape(GRID).flip(0, 2).flatten().tolist()),
        **_CLS | {"default_layer": "inner.blocks.1.norm1"},
    ),
    "no channel axis, permuted inside": _piece(
        lambda: Permuting(
            TinyViT(patch=(PATCH[2], PATCH[0], PATCH[1]), shape=(SHAPE[2], SHAPE[0], SHAPE[1]))
        ),
        SHAPE,
        layers=tuple(f"volume_encoder.vit3d.{n}" for n in _names(_PRE)),
        order=_permuted_order(),
        **_CLS | {"default_layer": "volume_encoder.vit3d.blocks.1.norm1"},
    ),
    "grid in another order": _piece(
        lambda: TinyViT(axes=(1, 2, 0)), order=_transposed_order(), **_CLS
    ),
    "shuffled tokens": _piece(
        lambda: TinyViT(shuffle=_SHUFFLE), order=tuple(_SHUFFLE.argsort().tolist()), **_CLS
    ),
    "shuffled tokens, no prefix": _piece(
        lambda: TinyViT(shuffle=_SHUFFLE, before=0, pool="patches"),
        order=tuple(_SHUFFLE.argsort().tolist()),
        prefix=0,
        suffix=0,
        pooling="mean of patches",
        default_layer="blocks.1.norm2",
    ),
    "convolutional embedding": _piece(lambda: TinyViT(embed=ConvPatches(12)), **_CLS),
    "one patch along j": _piece(
        lambda: TinyViT(patch=(4, 6, 3)), grid=(2, 1, 5), patch=(4, 6, 3), **_CLS
    ),
    "single voxels as patches along k": _piece(
        lambda: TinyViT(patch=(4, 3, 1)), grid=(2, 2, 15), patch=(4, 3, 1), **_CLS
    ),
    "standardises the volume itself": _piece(lambda: TinyViT(standardise=True), **_CLS),
    "handwritten RMSNorm": _piece(lambda: TinyViT(norm=HandRMSNorm), **_CLS),
    "handwritten LayerNorm": _piece(lambda: TinyViT(norm=HandLayerNorm), **_CLS),
    "functional norms": _piece(
        lambda: TinyViT(block=FunctionalBlock),
        layers=_names(("blocks.{}:layer_norm#1", "blocks.{}:rms_norm#1")),
        **_CLS | {"default_layer": "blocks.1:layer_norm#1"},
    ),
    "post-norm": _piece(
        lambda: TinyViT(block=lambda d: Block(d, post=True), final_norm=False),
        layers=_names(_PRE, final=()),
        **_CLS | {"default_layer": "blocks.0.norm2"},
    ),
    "one norm shared by all blocks": _piece(
        lambda: TinyViT(shared=True),
        layers=tuple(f"blocks.0.norm1#{n}" for n in range(1, 6)),
        **_CLS | {"default_layer": "blocks.0.norm1#3"},
    ),
    "tuple output": _piece(lambda: TinyViT(wrap=lambda z: (z, [z, z])), **_CLS),
    "dict output": _piece(lambda: TinyViT(wrap=lambda z: {"logits": z, "loss": None}), **_CLS),
    "one output": _piece(lambda: TinyViT(outputs=1), outputs=1, **_CLS),
    "one output without its axis": _piece(
        lambda: TinyViT(outputs=1, wrap=lambda z: z[:, 0]), outputs=1, **_CLS
    ),
    "plain encoder, post-norm": _piece(
        PlainEncoder,
        layers=_names(("encoder.layers.{}.norm1", "encoder.layers.{}.norm2"), final=()),
        **_CLS | {"default_layer": "encoder.layers.0.norm2"},
    ),
    "plain encoder, tokens first": _piece(
        lambda: PlainEncoder(batch_first=False),
        layers=_names(("encoder.layers.{}.norm1", "encoder.layers.{}.norm2"), final=()),
        **_CLS | {"default_layer": "encoder.layers.0.norm2"},
    ),
    "plain encoder, pre-norm, mean": _piece(
        lambda: PlainEncoder(norm_first=True, pool="mean"),
        layers=_names(("encoder.layers.{}.norm1", "encoder.layers.{}.norm2"), final=()),
        prefix=1,
        suffix=0,
        pooling="mean of all tokens",
        default_layer="encoder.layers.1.norm2",
    ),
}
