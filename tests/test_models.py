"""Loading is strict and safe; old vit-pytorch weights are converted exactly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from g3dvit.descriptions import ModelDescription, save_description
from g3dvit.errors import DescriptionError, G3DWarning, ModelError, WeightsError
from g3dvit.models import build_model, load_model, resolve_device
from g3dvit.patch_order import convert_patch_order, find_embeddings
from g3dvit.weights import guess_prefix, hash_file, load_strictly, read_weights, take_prefix


def _net():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "kind", ["safetensors", "plain", "lightning", "named", "compiled", "parallel", "both"]
)
def test_every_kind_of_checkpoint(tmp_path, kind):
    state = _net().state_dict()
    path = tmp_path / "model.ckpt"
    saved = dict(state)
    if kind in ("compiled", "both"):
        saved = {f"_orig_mod.{k}": v for k, v in saved.items()}
    if kind in ("parallel", "both"):
        saved = {f"module.{k}": v for k, v in saved.items()}
    if kind == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file(saved, path)
    elif kind == "lightning":
        torch.save({"epoch": 3, "state_dict": saved, "pytorch-lightning_version": "2.5"}, path)
    elif kind == "named":
        torch.save({"step": 1, "model_state_dict": saved}, path)
    else:
        torch.save(saved, path)
    assert _same(read_weights(path), state)


def test_a_file_that_could_run_code_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "whole model.pt"
    torch.save(_net(), path)
    with pytest.raises(WeightsError, match="could run code") as caught:
        read_weights(path)
    message = str(caught.value)
    code = message.split("<<'END'\n")[1].split("\nEND")[0]
    # What the message tells the user to do works as it stands, where the file lies.
    import os

    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        exec(compile(code, "conversion", "exec"), {})
    finally:
        os.chdir(here)
    converted = read_weights(tmp_path / "whole model.safetensors")
    assert set(converted) == set(_net().state_dict())


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", ".pt", "git lfs pull"),
        (b"no checkpoint", ".pt", "cannot be read as a checkpoint"),
        (b"no checkpoint", ".safetensors", "cannot be read as safetensors"),
    ],
)
def test_broken_files(tmp_path, content, suffix, message):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_weights(path)
    with pytest.raises(WeightsError, match="no weights at"):
        read_weights(tmp_path / "absent.pt")


def test_a_checkpoint_without_weights(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="epoch, optimizer"):
        read_weights(tmp_path / "a.pt")


def test_all_mismatched_keys_are_named_and_nothing_is_loaded():
    net = _net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = {
        "0.weight": torch.ones(4, 5), "0.bias": torch.ones(4), "1.weight": torch.ones(4),
        "2.bias": torch.ones(1), "head.weight": torch.ones(1),
    }  # fmt: skip
    with pytest.raises(WeightsError, match="nothing was loaded") as caught:
        load_strictly(net, state)
    message = str(caught.value)
    assert "missing in the checkpoint (1):\n    1.bias" in message
    assert "unknown to the network (2):\n    2.bias\n    head.weight" in message
    assert "0.weight: (4, 5) in the checkpoint, (4, 3) in the network" in message
    assert _same(net.state_dict(), before)


def test_prefix_is_guessed_told_and_taken():
    net = _net()
    state = {f"volume_encoder.vit3d.{k}": v for k, v in net.state_dict().items()}
    state |= {"other.0.weight": torch.zeros(2), "criterion.weight": torch.zeros(2)}
    assert guess_prefix(net, state) == "volume_encoder.vit3d."
    assert guess_prefix(net, net.state_dict()) == ""
    assert guess_prefix(net, {"a": torch.zeros(1)}) is None
    with pytest.raises(WeightsError, match=r"`key_prefix: volume_encoder\.vit3d\.` all keys"):
        load_strictly(net, state)
    with pytest.warns(G3DWarning, match=r"2 keys .* no part of this network: other\.0\.weight"):
        inside = take_prefix(state, "volume_encoder.vit3d.")
    assert _same(inside, net.state_dict())
    with pytest.raises(WeightsError, match=r"its keys begin with volume_encoder\.vit3d\."):
        take_prefix(state, "encoder.")


def test_prefix_of_the_shapes_that_fit_wins():
    net = _net()
    student = {f"student.{k}": torch.zeros(7) for k in net.state_dict()}
    teacher = {f"momentum.teacher.{k}": v for k, v in net.state_dict().items()}
    assert guess_prefix(net, student | teacher) == "momentum.teacher."


def test_tied_weights_are_enough_once():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    load_strictly(net, {"1.weight": torch.full((3, 3), 2.0)})
    assert net[0].weight.sum().item() == 18


def test_broken_numbers_warn():
    net = _net()
    state = net.state_dict()
    state["0.bias"] = torch.tensor([0.0, float("nan"), 0, 0])
    with pytest.warns(G3DWarning, match=r"NaN or infinite values: 0\.bias"):
        load_strictly(net, state)


def test_load_model_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "my_brain_models.py").write_text(
        "from torch import nn\n"
        "class Brain(nn.Module):\n"
        "    def __init__(self, dim):\n"
        "        super().__init__()\n"
        "        self.net = nn.Linear(dim, 2)\n"
        "    def forward(self, x):\n"
        "        return self.net(x)\n"
        "def wrong():\n"
        "    return 3\n"
    )
    weights = tmp_path / "w.safetensors"
    save_file({"encoder.net.weight": torch.ones(2, 3), "encoder.net.bias": torch.zeros(2)}, weights)
    path = save_description(
        ModelDescription(
            "my_brain_models:Brain", {"dim": 3}, weights=weights, key_prefix="encoder."
        ),
        tmp_path / "model.yaml",
    )
    monkeypatch.chdir(tmp_path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(path, device="cpu")
    assert not model.training
    assert model.description.path == path
    assert model.description.factory == "my_brain_models:Brain"
    assert model(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
    assert "description" not in model.state_dict()
    with pytest.warns(G3DWarning, match="are random"):
        load_model(ModelDescription("my_brain_models:Brain", {"dim": 3}), device="cpu")
    for factory, arguments, message in [
        ("my_brain_models:Brian", {}, "has no 'Brian'"),
        ("my_brain_models:Brain", {"size": 3}, r"cannot be called with \(size=3\)"),
        ("my_brain_models:wrong", {}, "gives int, not a torch.nn.Module"),
        ("no_such_module_anywhere:Brain", {}, "cannot be imported"),
    ]:
        with pytest.raises(DescriptionError, match=message):
            build_model(factory, arguments, folder=tmp_path)
    save_file({"encoder.net.weight": torch.ones(2, 4)}, weights)
    with pytest.raises(WeightsError, match=r"w\.safetensors: the weights do not fit"):
        load_model(path, device="cpu")


def test_hash_and_devices(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert hash_file(path).startswith("ba7816bf8f01cfea")  # FIPS 180-2, example B.1
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ModelError, match="choose auto, cpu, cuda"):
        resolve_device("brain")


# -- the order of voxels in a patch -----------------------------------------------------------
def _vit(module, **changes):
    family = pytest.importorskip(f"vit_pytorch.{module}")
    arguments = {
        "image_size": (12, 10), "image_patch_size": (6, 5), "frames": 8, "frame_patch_size": 4,
        "num_classes": 2, "dim": 18, "depth": 1, "heads": 2, "mlp_dim": 24, "channels": 2,
        "dim_head": 8,
    } | changes  # fmt: skip
    torch.manual_seed(2)
    net = (family.ViT if module == "vit_3d" else family.SimpleViT)(**arguments).eval()
    with torch.no_grad():  # trained norms have gains and biases of their own
        for parameter in net.to_patch_embedding.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return net


class _OldOrder(nn.Module):
    """The unrolling of vit-pytorch 1.10.1, voxel by voxel: (p1 p2 pf c)."""

    def __init__(self, p1, p2, pf, *, flat):
        super().__init__()
        self.sizes, self.flat = (p1, p2, pf), flat

    def forward(self, x):
        p1, p2, pf = self.sizes
        b, c, f, h, w = x.shape
        out = torch.zeros(b, f // pf, h // p1, w // p2, p1 * p2 * pf * c)
        for tf, th, tw in np.ndindex(*out.shape[1:4]):
            for place, (a, d, e, ch) in enumerate(np.ndindex(p1, p2, pf, c)):
                out[:, tf, th, tw, place] = x[:, ch, tf * pf + e, th * p1 + a, tw * p2 + d]
        return out.flatten(1, 3) if self.flat else out


@pytest.mark.parametrize("module", ["vit_3d", "simple_vit_3d", "simple_flash_attn_vit_3d"])
def test_old_weights_give_the_old_logits(module):
    extra = {"use_flash_attn": True} if "flash" in module else {}
    old = _vit(module, **extra)
    weights = {k: v.clone() for k, v in old.state_dict().items()}
    old.to_patch_embedding[0] = _OldOrder(6, 5, 4, flat=module == "vit_3d")
    new = _vit(module, **extra)
    x = torch.randn(2, 2, 8, 12, 10)
    with torch.no_grad():
        truth = old(x)
        load_strictly(new, weights)
        assert (new(x) - truth).abs().max() > 1e-2  # what loading without a word does
        load_strictly(new, convert_patch_order(new, weights, "1.10.1"))
        assert torch.allclose(new(x), truth, atol=1e-5)
    assert _same(convert_patch_order(new, weights, "1.16.2"), weights)
    assert _same(convert_patch_order(new, weights, "1.26.11"), weights)


def test_conversion_reaches_a_network_inside_a_wrapper():
    net = nn.ModuleDict({"volume_encoder": nn.ModuleDict({"vit3d": _vit("vit_3d")})})
    (embedding,) = find_embeddings(net)
    assert embedding.name == "volume_encoder.vit3d.to_patch_embedding"
    assert (embedding.sizes, embedding.is_new) == ((6, 5, 4, 2), True)
    state = net.state_dict()
    converted = convert_patch_order(net, state, "1.16.1")
    changed = {k for k in state if not torch.equal(state[k], converted[k])}
    assert changed == {f"{embedding.name}.{k}" for k in ("1.weight", "1.bias", "2.weight")}


def test_undeclared_version_warns_only_where_it_matters():
    net = _vit("vit_3d")
    with pytest.warns(G3DWarning, match=r"`vit_pytorch: '1\.10\.1'`"):
        same = convert_patch_order(net, net.state_dict(), None)
    assert _same(same, net.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_patch_order(net, net.state_dict(), "1.26.11")
        flat = _vit("vit_3d", frames=1, frame_patch_size=1)  # both orders coincide
        convert_patch_order(flat, flat.state_dict(), None)
        convert_patch_order(_net(), _net().state_dict(), None)
