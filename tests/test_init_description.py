"""`g3dvit init` and `g3dvit inspect`, through the command line."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import save_file

from g3dvit.cli import main
from g3dvit.descriptions import load_description
from g3dvit.errors import InputError
from g3dvit.models import load_model
from g3dvit.parsing import parse_arguments, parse_shape


def _vit(**changes):
    vit_3d = pytest.importorskip("vit_pytorch.vit_3d")
    arguments = {
        "image_size": 8, "image_patch_size": 4, "frames": 8, "frame_patch_size": 4,
        "num_classes": 2, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 24, "channels": 1,
    }  # fmt: skip
    torch.manual_seed(1)
    return vit_3d.ViT(**arguments | changes).eval()


def test_vit_3d_is_described_from_its_tensors_alone(tmp_path, capsys):
    net = _vit()
    checkpoint = tmp_path / "brain.ckpt"
    state = {f"model.volume_encoder.vit3d.{k}": v for k, v in net.state_dict().items()}
    torch.save({"state_dict": state | {"model.loss.weight": torch.ones(2)}, "epoch": 1}, checkpoint)
    output = tmp_path / "model.yaml"
    words = ["init", str(checkpoint), "--factory", "vit_pytorch.vit_3d:ViT", "-o", str(output)]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(output)
    description = load_description(output)
    assert description.key_prefix == "model.volume_encoder.vit3d."
    assert description.input_shape == (1, 8, 8, 8)
    assert description.arguments["heads"] == 2 and description.arguments["depth"] == 2
    text = output.read_text()
    for word in ("pool: cls", "dim_head: 64", "class_names", "trained_on", "vit_pytorch", "check"):
        assert word in text.split("factory:")[0], word
    assert "TODO" not in text
    with pytest.warns(UserWarning, match=r"1\.16\.2|outside `key_prefix`"):
        model = load_model(output, device="cpu")
    x = torch.randn(2, 1, 8, 8, 8)
    assert torch.equal(model(x), net(x))

    assert main(words) == 1  # never over an existing file
    assert "exists" in capsys.readouterr().err
    more = ["--overwrite", "--vit-pytorch", "1.26.0", "--classes", "a", "b", "--preset"]
    assert main([*words, *more, "reference-crop"]) == 0
    values = yaml.safe_load(output.read_text())
    assert (values["class_names"], values["vit_pytorch"]) == (["a", "b"], "1.26.0")
    assert "`class_names`" not in output.read_text()
    capsys.readouterr()

    assert main(["inspect", str(output), "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "last normalisation layer  transformer.layers.1.0.norm" in table
    assert "2 x 2 x 2" in table


def test_weights_of_another_network_are_listed(tmp_path, capsys):
    checkpoint = tmp_path / "w.safetensors"
    save_file(_vit().state_dict(), checkpoint)
    words = ["init", str(checkpoint), "--factory", "vit_pytorch.vit_3d:ViT"]
    words += ["-o", str(tmp_path / "m.yaml")]
    assert main([*words, "--argument", "depth=3"]) == 1
    message = capsys.readouterr().err
    assert "transformer.layers.2.0.norm.weight" in message and "--argument name=value" in message
    assert not (tmp_path / "m.yaml").exists()
    assert main([*words, "--argument", "heads=4"]) == 0
    assert load_description(tmp_path / "m.yaml").arguments["dim_head"] == 32


def test_monai_needs_its_arguments(tmp_path, capsys):
    nets = pytest.importorskip("monai.networks.nets")
    arguments = {
        "in_channels": 1, "img_size": [8, 6, 10], "patch_size": [4, 3, 5], "hidden_size": 24,
        "mlp_dim": 32, "num_layers": 2, "num_heads": 2, "classification": True,
    }  # fmt: skip
    checkpoint = tmp_path / "w.safetensors"
    save_file(nets.ViT(**arguments).state_dict(), checkpoint)
    words = ["init", str(checkpoint), "--factory", "monai.networks.nets:ViT"]
    words += ["-o", str(tmp_path / "m.yaml")]
    assert main(words) == 1
    assert "cannot be called with ()" in capsys.readouterr().err
    for name, value in arguments.items():
        words += ["--argument", f"{name}={value}"]
    assert main(words) == 0
    assert load_description(tmp_path / "m.yaml").input_shape == (1, 8, 6, 10)


def test_inspect_takes_a_description_or_a_factory(capsys):
    assert main(["inspect"]) == 1
    assert "give a model description, or --factory" in capsys.readouterr().err
    words = ["inspect", "--factory", "torch.nn:Identity", "--input-shape", "4,4,4"]
    assert main([*words, "--device", "cpu"]) == 1
    assert "g3dvit inspect:" in capsys.readouterr().err


def test_words():
    assert parse_arguments(["a=[1, 2]", "b=", "c=x=y"]) == {"a": [1, 2], "b": None, "c": "x=y"}
    assert parse_shape("1,90,80,70") == (1, 90, 80, 70)
    assert parse_shape("9x8x7") == (9, 8, 7)
    for word in ("dim", "=3", "d-m=3"):
        with pytest.raises(InputError, match="takes name=value"):
            parse_arguments([word])
    with pytest.raises(InputError, match="twice"):
        parse_arguments(["a=1", "a=2"])
    for text in ("90", "1,2,0", "a,b,c"):
        with pytest.raises(InputError, match="three or four positive numbers"):
            parse_shape(text)
