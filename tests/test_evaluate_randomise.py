"""Shuffled copies of a model, and the order of its stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluated_model import HandViT
from g3dvit.errors import ModelError
from g3dvit.evaluate.randomise import find_stages, shuffled_copy
from gallery import SHAPE, TinyViT, seeded


def test_shuffling_keeps_values_and_leaves_the_model_alone() -> None:
    model = HandViT(0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    made = shuffled_copy(model, seed=1)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
    for name, p in made.named_parameters():
        assert torch.equal(p.flatten().sort().values, before[name].flatten().sort().values)
        if p.numel() > 20 and before[name].unique().numel() > 1:
            assert not torch.equal(p, before[name]), name
    x = torch.randn(1, 1, 16, 6, 15)
    assert not torch.allclose(model(x), made(x))


def test_a_seed_shuffles_a_parameter_alike_whatever_else_is_shuffled() -> None:
    model = HandViT(0)
    every = dict(shuffled_copy(model, seed=2).named_parameters())
    some = dict(shuffled_copy(model, seed=2, parameters=["head.weight"]).named_parameters())
    assert torch.equal(every["head.weight"], some["head.weight"])
    assert torch.equal(some["embed.weight"], model.embed.weight)
    other = dict(shuffled_copy(model, seed=3).named_parameters())
    assert not torch.equal(every["head.weight"], other["head.weight"])


def test_a_shared_parameter_stays_shared() -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    model["b"].weight = model["a"].weight
    made = shuffled_copy(model, seed=0)
    assert made["a"].weight is made["b"].weight


def test_stages_of_a_model_are_found_by_running_it() -> None:
    stages = find_stages(HandViT(0), torch.randn(1, 1, 16, 6, 15))
    assert [stage.name for stage in stages] == ["embedding", "block 0", "block 1", "head"]
    names = dict(zip((s.name for s in stages), (s.parameters for s in stages), strict=True))
    assert set(names["embedding"]) == {"embed.weight", "embed.bias", "first", "position"}
    assert set(names["head"]) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert all(one.startswith("blocks.1.") for one in names["block 1"])
    every = [one for stage in stages for one in stage.parameters]
    assert sorted(every) == sorted(dict(HandViT(0).named_parameters()))


def test_stages_of_other_builds() -> None:
    model = seeded(lambda: TinyViT(depth=3))()
    found = find_stages(model, torch.randn(1, 1, *SHAPE))
    assert [s.name for s in found][1:4] == ["block 0", "block 1", "block 2"]
    assert "head.weight" in found[-1].parameters
    pytest.importorskip("vit_pytorch")
    from vit_pytorch.vit_3d import ViT

    vit = ViT(
        image_size=16, image_patch_size=8, frames=8, frame_patch_size=4, channels=1, num_classes=2,
        dim=16, depth=2, heads=2, mlp_dim=16,
    )  # fmt: skip
    found = find_stages(vit, torch.randn(1, 1, 8, 16, 16))
    assert [s.name for s in found] == ["embedding", "block 0", "block 1", "head"]
    assert {"pos_embedding", "cls_token"} <= set(found[0].parameters)
    assert all(name.startswith("mlp_head.") for name in found[-1].parameters)


def test_a_model_without_blocks_goes_module_by_module() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 2))
    stages = find_stages(model, torch.randn(1, 2, 2, 2))
    assert [s.name for s in stages] == ["1", "3"]


def test_a_model_that_cannot_be_copied_is_told() -> None:
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    with pytest.raises(ModelError, match="--skip randomisation"):
        shuffled_copy(Stubborn(2, 2), seed=0)
