"""Models that give no numbers, or no gradient, are refused with one error that says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from broken_models import BASE, MEAN, changed
from g3dvit.errors import GeometryError
from g3dvit.probe import probe_geometry
from gallery import SHAPE, ConvPatches, TinyViT


def filled(path, value):
    return lambda model: model.get_parameter(path).view(-1)[:1].fill_(value)


@pytest.mark.parametrize("recipe", [BASE, MEAN], ids=["cls", "mean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("path", ["blocks.1.mlp.0.weight", "head.weight"])
def test_weights_that_are_no_numbers_are_named(recipe, path, value):
    model = changed(recipe, filled(path, value))()
    with pytest.raises(GeometryError, match=rf"not finite: its weights {path} hold values"):
        probe_geometry(model, (1, *recipe.shape))


class HandRMS(nn.Module):
    """By hand: where squares overflow, what is divided by their root is 0."""

    def __init__(self, dim):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain


def test_values_that_overflow_are_told():
    recipe = replace(MEAN, norm=HandRMS)
    model = changed(recipe, lambda m: m.embed[-1].weight.mul_(1e20))()
    with torch.no_grad():
        assert model(torch.randn(1, 1, *recipe.shape)).isfinite().all()
    with pytest.raises(GeometryError, match="too large for their squares"):
        probe_geometry(model, (1, *recipe.shape))


class Inference(nn.Module):
    """Runs a model as one would for predictions alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @torch.inference_mode()
    def forward(self, x):
        return self.model(x)


def test_a_model_that_runs_itself_in_inference_mode_is_told_so():
    model = Inference(changed(BASE, lambda _: None)())
    with pytest.raises(GeometryError, match="runs under inference_mode"):
        probe_geometry(model, (1, *BASE.shape))


def test_an_embedding_of_zeros_is_told():
    model = TinyViT(embed=ConvPatches(12)).eval()
    with torch.no_grad():
        next(model.embed.parameters()).zero_()
    with pytest.raises(GeometryError, match="do not change with its input"):
        probe_geometry(model, (1, *SHAPE))
