"""Running a model on some of its patches: against dropping and masking by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.nets import ViT as MonaiViT
from torch import nn
from torch.nn import functional as F  # noqa: N812
from vit_pytorch.simple_vit_3d import SimpleViT
from vit_pytorch.vit_3d import ViT

from g3dvit.capture import KeptTokens, first_output, guest, wider
from g3dvit.errors import InputError, MethodError
from g3dvit.probe import probe_geometry
from gallery import GALLERY, PATCH, SHAPE, Block, TinyViT, seeded
from test_methods import drifted

GENERATOR = torch.Generator().manual_seed(2)
X = torch.randn(4, 1, *SHAPE, generator=GENERATOR)
KEEP = torch.rand(4, 30, generator=GENERATOR) > 0.4
VIT = dict(  # noqa: C408
    image_size=(6, 15), image_patch_size=(2, 3), frames=8, frame_patch_size=4, channels=1,
    num_classes=3, dim=24, depth=2, heads=2, dim_head=6, mlp_dim=20,
)  # fmt: skip


def run_kept(model, x, keep, shape=(1, *SHAPE), **options):
    geometry = probe_geometry(model, shape)
    with guest(model) as network:
        return KeptTokens(network, geometry, **options)(x, keep)


def vit_3d(pool):
    return drifted(seeded(lambda: ViT(**VIT, pool=pool))())


def tokens_of(model, x):
    patches = model.to_patch_embedding(x)
    first = model.cls_token.expand(len(x), -1, -1)
    return torch.cat([first, patches], 1) + model.pos_embedding


def head_of(model, tokens):
    pooled = tokens.mean(1) if model.pool == "mean" else tokens[:, 0]
    return model.mlp_head(pooled)


def with_first(keep):
    return torch.cat([torch.ones(1, dtype=torch.bool), keep])


@pytest.mark.parametrize("pool", ["cls", "mean"])
@torch.no_grad()
def test_vit_3d_equals_dropping_rows_by_hand(pool):
    model = vit_3d(pool)
    found = run_kept(model, X, KEEP)
    for n in range(4):
        left = tokens_of(model, X[n : n + 1])[:, with_first(KEEP[n])]
        expected = head_of(model, model.transformer(left))
        torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@torch.no_grad()
def test_it_equals_an_infinite_key_mask_in_every_layer_once_or_twice(pool):
    model = vit_3d(pool).double()
    x = X.double()
    found = run_kept(model, x, KEEP)
    for times in (1, 2):
        for n in range(4):
            alive = with_first(KEEP[n])
            handles = [
                attention.attend.register_forward_pre_hook(
                    lambda _m, args, a=alive, t=times: (args[0] + t * (~a).double() * -1e300,)
                )
                for attention, _ in model.transformer.layers
            ]
            tokens = model.transformer(tokens_of(model, x[n : n + 1]))
            for handle in handles:
                handle.remove()
            # A mask is not enough for a mean: the masked rows are still there.
            expected = head_of(model, tokens[:, alive])
            torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-9, atol=1e-12)
            with_rows = head_of(model, tokens)
            assert torch.allclose(with_rows, expected) == (pool == "cls")


@torch.no_grad()
def test_simple_vit_3d_equals_dropping_rows_by_hand():
    model = drifted(seeded(lambda: SimpleViT(**VIT))())
    found = run_kept(model, X, KEEP)
    position = {}
    handle = model.transformer.register_forward_pre_hook(lambda _m, a: position.update(t=a[0]))
    model(X)
    handle.remove()
    for n in range(4):
        left = position["t"][n : n + 1, KEEP[n]]
        expected = model.linear_head(model.transformer(left).mean(1))
        torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_monai_vit_equals_dropping_rows_by_hand():
    model = drifted(
        seeded(
            lambda: MonaiViT(
                1, SHAPE, PATCH, hidden_size=24, mlp_dim=20, num_layers=2, num_heads=2,
                classification=True, num_classes=3, post_activation="",
            )
        )()
    )  # fmt: skip
    found = run_kept(model, X, KEEP)
    for n in range(4):
        patches = model.patch_embedding(X[n : n + 1])[:, KEEP[n]]
        left = torch.cat([model.cls_token, patches], 1)
        for block in model.blocks:
            left = block(left)
        expected = model.classification_head(model.norm(left)[:, 0])
        torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-5, atol=1e-6)


REFUSED = {"flattening head", "registers on both sides, mean of patches"}


def with_other_patches(x, piece, where):
    """Replace the voxels of the patches `where`, (patches,), by others; channels as they are."""
    volume = {3: 0, 4: 1}[len(piece.input_shape)]
    last = len(piece.input_shape) == 4 and piece.input_shape[3] < 4  # channels last
    first = 1 if last or not volume else 2
    grid = where.reshape(piece.grid)
    for axis, size in enumerate(piece.patch):
        grid = grid.repeat_interleave(size, axis)
    shape = [1] * first + list(grid.shape) + [1] * (x.ndim - first - 3)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    return torch.where(grid.reshape(shape), other, x)


@pytest.mark.parametrize("name", sorted(set(GALLERY) - REFUSED))
def test_only_the_patches_that_are_kept_count(name):
    piece = GALLERY[name]
    model = drifted(piece.build())
    x = torch.randn(2, *piece.input_shape, generator=torch.Generator().manual_seed(4))
    patches = math.prod(piece.grid)
    keep = torch.rand(2, patches, generator=torch.Generator().manual_seed(5)) > 0.4
    whole = torch.ones(2, patches, dtype=torch.bool)
    geometry = probe_geometry(model, piece.input_shape)
    with guest(model) as network:
        kept = KeptTokens(network, geometry)
        found = kept(x, keep)
        torch.testing.assert_close(kept(x, whole), first_output(network(x)).detach())
        if name == "standardises the volume itself":
            return  # what is removed is part of the mean that is taken before
        for n in range(2):
            one, gone = x[n : n + 1], ~keep[n]
            same = kept(with_other_patches(one, piece, gone), keep[n : n + 1])
            torch.testing.assert_close(same, found[n : n + 1], rtol=1e-4, atol=1e-5)
            there = int(keep[n].nonzero()[0])
            touched = torch.zeros(patches, dtype=torch.bool)
            touched[there] = True
            other = kept(with_other_patches(one, piece, touched), keep[n : n + 1])
            assert (other - found[n : n + 1]).abs().max() > 1e-5


@torch.no_grad()
def test_any_number_of_patches_in_one_call_as_one_by_one():
    model = vit_3d("mean")
    geometry = probe_geometry(model, (1, *SHAPE))
    keep = torch.cat([KEEP, torch.zeros(1, 30, dtype=torch.bool), KEEP[:2]])
    with guest(model) as network:
        together = KeptTokens(network, geometry, batch_size=2)(X[:1], keep)
        kept = KeptTokens(network, geometry)
        alone = torch.cat([kept(X[:1], row[None]) for row in keep])
        on_grid = kept(X[:1], keep.reshape(-1, 2, 3, 5))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(on_grid, alone, rtol=1e-5, atol=1e-6)
    nothing = head_of(model, model.transformer(tokens_of(model, X[:1])[:, :1]))
    torch.testing.assert_close(alone[4:5], nothing)


class Rotary(Block):
    """Adds a position of its own, by the number of a token, in every block."""

    def __init__(self, dim):
        super().__init__(dim)
        self.own = nn.Parameter(torch.randn(40, dim))

    def forward(self, x):
        return super().forward(x + self.own[: x.shape[1]])


class ByPlace(nn.Module):
    """Attention that goes by the places of its tokens, in one of several ways of writing."""

    def __init__(self, way, dim=12):
        super().__init__()
        self.way, self.to_qkv, self.to_out = way, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.angles = nn.Parameter(torch.randn(31, 3))
        self.relative = nn.Parameter(torch.randn(31, 31))
        self.built_in = nn.MultiheadAttention(dim, 2, batch_first=True)

    def forward(self, x, places=None):
        places = torch.arange(31) if places is None else places
        if self.way == "built in":
            return self.built_in(x, x, x, attn_mask=self.relative[places][:, places])[0]
        b, t, d = x.shape
        q, k, v = self.to_qkv(x).reshape(b, t, 3, 2, -1).permute(2, 0, 3, 1, 4)
        if "rotary" in self.way:
            cos, sin = self.angles[places].cos(), self.angles[places].sin()
            q, k = (
                torch.cat(
                    [a[..., :3] * cos - a[..., 3:] * sin, a[..., :3] * sin + a[..., 3:] * cos], -1
                )
                for a in (q, k)
            )
        if self.way == "fused rotary":
            out = F.scaled_dot_product_attention(q, k, v)
        elif self.way == "fused with a bias":
            bias = self.relative[places][:, places]
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        elif self.way == "fused, who sees whom":
            seen = (self.relative > -0.7)[places][:, places] | torch.eye(t, dtype=torch.bool)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        elif self.way == "heads in the batch, rotary":
            q, k, v = (a.reshape(2 * b, t, -1) for a in (q, k, v))
            out = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).reshape(b, 2, t, -1)
        else:
            scores = torch.einsum("bhid,bhjd->bhij", q, k) + self.relative[places][:, places]
            out = torch.softmax(scores, dim=-1) @ v
        return self.to_out(out.transpose(1, 2).reshape(b, t, d))


@pytest.mark.parametrize("pool", ["first", "all"])
@pytest.mark.parametrize(
    "way",
    [
        "fused rotary",
        "fused with a bias",
        "fused, who sees whom",
        "heads in the batch, rotary",
        "built in",
        "einsum with a bias",
    ],
)
@torch.no_grad()
def test_where_blocks_go_by_places_tokens_are_masked_and_the_mean_is_over_fewer(way, pool):
    def block(dim):
        made = Block(dim)
        made.attention = ByPlace(way)
        return made

    model = drifted(seeded(lambda: TinyViT(block=block, pool=pool))())
    found = run_kept(model, X, KEEP)
    for n in range(4):
        places = with_first(KEEP[n]).nonzero().flatten()
        tokens = torch.cat([model.before, model.embed(X[n : n + 1])], 1) + model.position
        left = tokens[:, places]
        for b in model.blocks:
            left = left + b.attention(b.norm1(left), places)
            left = left + b.mlp(b.norm2(left))
        expected = model.head(model.pooled(model.norm(left)))
        torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-4, atol=1e-5)


class Neighbours(Block):
    """Mixes neighbouring tokens, which no mask of attention can undo."""

    def forward(self, x):
        x = super().forward(x)
        return x + 0.5 * x.roll(1, dims=1)


@pytest.mark.parametrize(
    "build",
    [
        GALLERY["flattening head"].build,
        GALLERY["registers on both sides, mean of patches"].build,
        seeded(lambda: TinyViT(block=Neighbours)),
    ],
)
def test_a_model_that_goes_by_the_number_of_a_token_is_refused(build):
    model = drifted(build())
    geometry = probe_geometry(model, (1, *SHAPE))
    with guest(model) as network, pytest.raises(MethodError, match="cannot be taken out"):
        KeptTokens(network, geometry)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["first", "patches"])
def test_positions_that_every_block_adds_stay_with_their_tokens(pool):
    model = drifted(seeded(lambda: TinyViT(block=Rotary, pool=pool))())
    found = run_kept(model, X, KEEP)
    for n in range(4):
        kept = with_first(KEEP[n])
        tokens = torch.cat([model.before, model.embed(X[n : n + 1])], 1) + model.position
        left = tokens[:, kept]
        for block in model.blocks:
            left = Block.forward(block, left + block.own[:31][kept])
        expected = model.head(model.pooled(model.norm(left)))
        torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_positions_that_a_first_block_adds_stay_with_their_tokens():
    model = drifted(seeded(lambda: TinyViT(block=Rotary, before=0, pool="patches", depth=1))())
    found = run_kept(model, X, KEEP)
    for n in range(4):
        left = (model.embed(X[n : n + 1]) + model.position + model.blocks[0].own[:30])[:, KEEP[n]]
        expected = model.head(model.norm(Block.forward(model.blocks[0], left)).mean(1))
        torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-5, atol=1e-6)


def test_nothing_to_average_and_wrong_shapes_are_told():
    model = GALLERY["no prefix"].build()
    with pytest.raises(MethodError, match="keep at least one"):
        run_kept(model, X[:1], torch.zeros(1, 30, dtype=torch.bool))
    with pytest.raises(InputError, match=r"shape \(n, 30\)"):
        run_kept(model, X[:1], torch.ones(1, 29, dtype=torch.bool))
    with pytest.raises(InputError, match="one volume or n"):
        run_kept(model, X[:2], torch.ones(3, 30, dtype=torch.bool))


def test_half_precision_is_tried_in_float64_and_run_as_it_is():
    model = vit_3d("cls").bfloat16()
    found = run_kept(model, X.bfloat16(), KEEP)
    exact = run_kept(model.float(), X.bfloat16().float(), KEEP)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.05)


def test_copies_in_float64_leave_shared_modules_as_they_were():
    model = GALLERY["one norm shared by all blocks"].build()
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
    with guest(model) as network, torch.no_grad():
        exact = wider(network, torch.float64)(X.double())
        plain = network(X)
    torch.testing.assert_close(exact.float(), plain)
    for name, p in model.named_parameters():
        assert p is before[name][0] and p.dtype == torch.float32
        assert torch.equal(p, before[name][1])
