"""Probing finds the known answers of the gallery and of three public model libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from g3dvit.errors import GeometryError
from g3dvit.probe import probe_geometry
from gallery import GALLERY, GRID, PATCH, SHAPE, ConvPatches, Patches, TinyViT, seeded


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", GALLERY)
def test_gallery(name):
    piece = GALLERY[name]
    g = probe_geometry(piece.build(), piece.input_shape)
    assert (g.grid_shape, g.patch_size) == (piece.grid, piece.patch)
    assert (g.num_prefix_tokens, g.num_suffix_tokens) == (piece.prefix, piece.suffix)
    assert g.token_order == (piece.order or tuple(range(g.num_patches)))
    assert g.num_outputs == piece.outputs
    assert tuple(layer.name for layer in g.layers) == piece.layers
    assert [layer.order for layer in g.layers] == list(range(len(g.layers)))
    assert g.pooling == piece.pooling
    assert g.default_layer == piece.default_layer
    assert g.layer(g.default_layer).status == "alive"


def _tracked_by_hand(model, shape, geometry, patch):
    """Change one patch, slowly and independently, and return the patch token that it feeds."""
    generator = np.random.default_rng(4)
    x = generator.standard_normal((1, *shape)).astype(np.float32)
    y = x.copy()
    box = tuple(slice(g * p, (g + 1) * p) for g, p in zip(patch, geometry.patch_size, strict=True))
    region = [slice(None)] * y.ndim
    for axis, part in zip(geometry.spatial_axes, box, strict=True):
        region[axis + 1] = part
    y[tuple(region)] = generator.standard_normal(y[tuple(region)].shape)
    seen = []
    block = next(m for n, m in model.named_modules() if n.endswith("blocks.0"))
    handle = block.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    with torch.no_grad():
        model(torch.from_numpy(x)), model(torch.from_numpy(y))
    handle.remove()
    moved = (seen[1] - seen[0]).norm(dim=-1)[0].nonzero().flatten().tolist()
    assert len(moved) == 1
    return moved[0] - geometry.num_prefix_tokens


@pytest.mark.parametrize(
    "name",
    ["no channel axis, permuted inside", "mirrored inside", "grid in another order",
     "shuffled tokens", "channels last", "registers before"],
)  # fmt: skip
def test_token_order_against_one_patch_at_a_time(name):
    piece = GALLERY[name]
    model = piece.build()
    g = probe_geometry(model, piece.input_shape)
    for patch in [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 4), (1, 1, 3)]:
        number = int(np.ravel_multi_index(patch, g.grid_shape))
        assert g.token_order[number] == _tracked_by_hand(model, piece.input_shape, g, patch)


@pytest.mark.parametrize("seed", range(4))
def test_seed_of_the_textures_does_not_matter(seed):
    model = seeded(lambda: TinyViT(channels=3))()
    g = probe_geometry(model, (3, *SHAPE), seed=seed)
    assert (g.grid_shape, g.channels, g.default_layer) == (GRID, 3, "blocks.1.norm1")


def _vit_3d(**changes):
    vit_3d = pytest.importorskip("vit_pytorch.vit_3d")
    arguments = {
        "image_size": (12, 20), "image_patch_size": (6, 4), "frames": 8, "frame_patch_size": 4,
        "num_classes": 2, "dim": 16, "depth": 3, "heads": 2, "mlp_dim": 24, "channels": 1,
        "dim_head": 8,
    }  # fmt: skip
    return seeded(lambda: vit_3d.ViT(**arguments | changes))()


def test_vit_3d_with_class_token():
    g = probe_geometry(_vit_3d(), (1, 8, 12, 20))
    assert (g.grid_shape, g.patch_size) == ((2, 2, 5), (4, 6, 4))
    assert (g.num_prefix_tokens, g.num_suffix_tokens, g.num_tokens) == (1, 0, 21)
    assert g.pooling == "class token"
    assert g.default_layer == "transformer.layers.2.0.norm"
    last = g.layer("transformer.layers.2.1.net.0")
    assert (last.status, last.gradient_share) == ("dead", 0.0)
    assert g.alive_layers[-1] == g.default_layer


def test_norms_of_the_patch_embedding_are_listed_where_their_order_is_known():
    g = probe_geometry(_vit_3d(), (1, 8, 12, 20))
    first, second = g.layers[:2]
    assert (first.name, second.name) == ("to_patch_embedding.1", "to_patch_embedding.3")
    assert (first.num_prefix_tokens, first.status) == (0, "alive")
    assert g.patch_slice(first.name) == slice(0, 20)
    assert g.patch_slice(g.default_layer) == slice(1, 21)
    assert not g.notes

    class Embed(nn.Sequential):
        pass

    embed = lambda: Embed(Patches(), nn.LayerNorm(24), nn.Linear(24, 12))  # noqa: E731
    shuffled = seeded(lambda: TinyViT(embed=embed(), shuffle=torch.randperm(30)))()
    g = probe_geometry(shuffled, (1, *SHAPE))
    assert "embed.1" not in [layer.name for layer in g.layers]
    assert any("another number or order" in note for note in g.notes)
    straight = seeded(lambda: TinyViT(embed=embed()))()
    assert probe_geometry(straight, (1, *SHAPE)).layers[0].name == "embed.1"


def test_vit_3d_with_mean_pooling():
    g = probe_geometry(_vit_3d(pool="mean", channels=2), (2, 8, 12, 20))
    assert (g.pooling, g.channels) == ("mean of all tokens", 2)
    assert g.default_layer == "transformer.layers.2.1.net.0"


def test_simple_vit_3d():
    simple = pytest.importorskip("vit_pytorch.simple_vit_3d")
    model = simple.SimpleViT(
        image_size=(12, 20), image_patch_size=(6, 4), frames=8, frame_patch_size=4, num_classes=2,
        dim=18, depth=2, heads=2, mlp_dim=24, channels=1, dim_head=8,
    )  # fmt: skip
    g = probe_geometry(model, (1, 8, 12, 20))
    assert (g.num_prefix_tokens, g.grid_shape, g.pooling) == (0, (2, 2, 5), "mean of patches")
    assert g.default_layer == "transformer.layers.1.1.net.0"
    assert g.layer("transformer.norm").status == "uniform"


@pytest.mark.parametrize("projection", ["conv", "perceptron"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_monai(projection, dtype):
    nets = pytest.importorskip("monai.networks.nets")
    model = nets.ViT(
        1, (8, 12, 20), (4, 6, 4), hidden_size=24, mlp_dim=32, num_layers=2, num_heads=2,
        classification=True, proj_type=projection,
    ).to(dtype)  # fmt: skip
    g = probe_geometry(model, (1, 8, 12, 20))
    assert (g.grid_shape, g.num_prefix_tokens, g.pooling) == ((2, 2, 5), 1, "class token")
    assert g.default_layer == "blocks.1.norm1"
    # Blocks hold a norm for cross-attention that never runs; it is not listed.
    assert [layer.name for layer in g.layers] == [
        "blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm",
    ]  # fmt: skip
    assert any("tanh" in note for note in g.notes)


@pytest.mark.parametrize("wrap", ["torch.compile", ".compile()", "DataParallel", "frozen", "train"])
def test_guests_of_every_kind(wrap):
    inner = seeded(TinyViT)()
    model = inner
    if wrap == "torch.compile":
        model = torch.compile(inner)
    elif wrap == ".compile()":
        model.compile()
    elif wrap == "DataParallel":
        model = nn.DataParallel(inner)
    elif wrap == "frozen":
        model.requires_grad_(False)
    else:
        model.train()
        model.blocks[0].eval()
    before = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    state = {k: v.clone() for k, v in inner.state_dict().items()}
    random_state = torch.get_rng_state()
    g = probe_geometry(model, (1, *SHAPE))
    assert (g.default_layer, g.grid_shape) == ("blocks.1.norm1", GRID)
    assert [(m.training, len(m._forward_hooks)) for m in model.modules()] == before
    assert all(torch.equal(state[k], v) for k, v in inner.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(p.grad is None for p in inner.parameters())
    assert all(p.requires_grad == (wrap != "frozen") for p in inner.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_caller_without_gradients(mode):
    model = seeded(TinyViT)()
    with mode():
        assert probe_geometry(model, (1, *SHAPE)).default_layer == "blocks.1.norm1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_model_is_as_before_after_an_exception(error):
    model = seeded(TinyViT)().train()
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 2:  # in the second pass over the whole model
            raise error("no")

    whole = model.blocks[1].forward
    model.blocks[1].forward = lambda x: (fail(), whole(x))[1]
    with pytest.raises(error, match="no"):
        probe_geometry(model, (1, *SHAPE))
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dropout_is_off_while_probing():
    vit = _vit_3d(dropout=0.5, emb_dropout=0.5).train()
    assert probe_geometry(vit, (1, 8, 12, 20)).default_layer == "transformer.layers.2.0.norm"
    assert all(m.training for m in vit.modules())


class _NoisyEmbedding(ConvPatches):
    """Random in evaluation mode too, as Monte Carlo dropout is."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.3, training=True)


def test_models_that_are_random_in_evaluation_mode():
    model = seeded(lambda: TinyViT(embed=_NoisyEmbedding(12)))()
    before = torch.get_rng_state()
    assert probe_geometry(model, (1, *SHAPE)).default_layer == "blocks.1.norm1"
    assert torch.equal(before, torch.get_rng_state())


def test_zero_head_is_a_note_and_no_crash():
    model = seeded(TinyViT)()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    g = probe_geometry(model, (1, *SHAPE))
    assert g.default_layer == "blocks.1.norm1"
    assert any("all zero" in note for note in g.notes)
    assert not model.head.weight.any()


@pytest.mark.parametrize(("function", "word"), [(torch.sigmoid, "sigmoid"), (torch.tanh, "tanh")])
def test_bounded_scores_are_noted(function, word):
    g = probe_geometry(seeded(lambda: TinyViT(wrap=function))(), (1, *SHAPE))
    assert any(word in note and "bounded score" in note for note in g.notes)
    assert not probe_geometry(seeded(TinyViT)(), (1, *SHAPE)).notes


@pytest.mark.filterwarnings("ignore")  # torch asks to migrate to another package
def test_quantised_models_are_refused():
    model = torch.ao.quantization.quantize_dynamic(seeded(TinyViT)(), {nn.Linear}, torch.qint8)
    with pytest.raises(GeometryError, match="quantised"):
        probe_geometry(model, (1, *SHAPE))


def test_scores_without_a_gradient_are_noted():
    g = probe_geometry(seeded(lambda: TinyViT(wrap=torch.round))(), (1, *SHAPE))
    assert g.patch_size == PATCH
    assert any("no gradient of the class values reaches any layer" in note for note in g.notes)


def test_input_shape_may_come_from_the_description():
    model = seeded(TinyViT)()
    with pytest.raises(GeometryError, match="give `input_shape`"):
        probe_geometry(model)
    model.description = type("Description", (), {"input_shape": (1, *SHAPE)})()
    assert probe_geometry(model).patch_size == PATCH
    assert probe_geometry(nn.DataParallel(model)).patch_size == PATCH


class _Cropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = TinyViT()

    def forward(self, x):
        return self.inner(x[:, :, 1:])


class _NoGrad(_Cropping):
    @torch.no_grad()
    def forward(self, x):
        return self.inner(x)


def _conv_net():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv3d(4, 4, 3), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (TinyViT, (1, 8, 6, 16), r"cannot be run on one input of shape \(1, 1, 8, 6, 16\)"),
        (TinyViT, (1, 1, 8, 6, 15), r"\(channels, i, j, k\) or \(i, j, k\); was given"),
        (_Cropping, (1, 9, 6, 15), "the model crops its input"),
        (_NoGrad, (1, *SHAPE), "not connected to its tokens by autograd"),
        (_conv_net, (1, 8, 6, 15), "no tensor inside this model has the shape of tokens"),
        (
            lambda: TinyViT(embed=ConvPatches(12, kernel=(8, 4, 5), padding=(2, 1, 1))),
            (1, *SHAPE),
            "patches overlap|no whole number|many tokens at every stage",
        ),
    ],
)
def test_what_has_no_patch_grid_is_refused(build, shape, message):
    with pytest.raises(GeometryError, match=message):
        probe_geometry(seeded(build)(), shape)


def test_windowed_models_are_refused():
    swin = pytest.importorskip("monai.networks.nets.swin_unetr")

    class Swin(nn.Module):
        def __init__(self):
            super().__init__()
            two = (2, 2, 2, 2)
            self.net = swin.SwinTransformer(1, 12, (4, 4, 4), (2, 2, 2), two, two, spatial_dims=3)
            self.head = nn.Linear(192, 2)

        def forward(self, x):
            return self.head(self.net(x)[-1].mean((2, 3, 4)))

    with pytest.raises(GeometryError, match="windowed and hierarchical models"):
        probe_geometry(seeded(Swin)(), (1, 32, 32, 64))


def test_torchscript_is_refused():
    traced = torch.jit.trace(nn.Linear(3, 3), torch.zeros(1, 3))
    with pytest.raises(GeometryError, match="TorchScript model hides its tokens"):
        probe_geometry(traced, (1, *SHAPE))


def test_the_table_names_the_layer():
    text = str(probe_geometry(_vit_3d(), (1, 8, 12, 20)))
    assert "last normalisation layer  transformer.layers.2.0.norm" in text
    assert "-> transformer.layers.2.0.norm" in text
    assert "2 x 2 x 5" in text and "4 x 6 x 4 voxels" in text
    assert "21 = 1 before + 20 patches + 0 after" in text


@pytest.mark.slow  # the reference model of a thousand tokens; some seconds on one thread
def test_reference_model_keeps_grid_and_layer():
    model = _vit_3d(
        image_size=90, image_patch_size=9, frames=90, frame_patch_size=9, dim=96, dim_head=32
    )
    g = probe_geometry(model, (1, 90, 90, 90))
    assert (g.grid_shape, g.num_tokens) == ((10, 10, 10), 1001)
    assert g.default_layer == "transformer.layers.2.0.norm"


class Uneven(nn.Module):
    """An embedding that some changes of a patch move a thousand times as far as others."""

    def __init__(self):
        super().__init__()
        self.patches, self.linear = Patches(), nn.Linear(24, 12)

    def forward(self, x):
        x = self.linear(self.patches(x))
        return x * (6 * x[..., :1]).exp()


@pytest.mark.parametrize("seed", range(4))
def test_a_plane_may_move_its_tokens_very_unequally(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyViT(embed=Uneven()).eval()
    geometry = probe_geometry(model, (1, *SHAPE))
    assert geometry.patch_size == PATCH and geometry.token_order == tuple(range(30))


class WithFeatures(nn.Module):
    """Returns the tokens before the last norm beside the class values, as many models do."""

    def __init__(self, model):
        super().__init__()
        self.model, self.kept = model, None
        model.norm.register_forward_pre_hook(self.keep)

    def keep(self, _module, args):
        self.kept = args[0]

    def forward(self, x):
        return {"logits": self.model(x), "tokens": self.kept}


@pytest.mark.parametrize("pool", ["patches", "all", "first"])
def test_tokens_that_are_returned_beside_the_class_values_change_nothing(pool):
    build = seeded(lambda: TinyViT(pool=pool))
    plain = probe_geometry(build(), (1, *SHAPE))
    assert probe_geometry(WithFeatures(build()), (1, *SHAPE)).pooling == plain.pooling != "other"
