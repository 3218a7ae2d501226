"""The Grad-CAM family against pytorch-grad-cam and torch-cam, on the same hooks.

Compared are the maps before the peers' ReLU and scaling, of class value 1 at the last pre-attention
normalisation, the class token taken out by the peers' own ``reshape_transform``. Looked at were
pytorch-grad-cam 1.5.7 and torch-cam 0.5.0; of the latter Grad-CAM++ is left out, because it divides
a copy of its weights in place, so that the division is lost.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from g3dvit.explain import Explainer
from gallery import SHAPE, TinyViT, seeded
from test_methods import drifted

LAYER = "blocks.1.norm1"
X = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(6))


def volumes(tokens):
    """The peers' ``reshape_transform``: (batch, 31, d) to (batch, d, 2, 3, 5)."""
    return tokens[:, 1:].reshape(len(tokens), 2, 3, 5, -1).permute(0, 4, 1, 2, 3)


def built():
    model = drifted(seeded(TinyViT)())
    with torch.no_grad():
        model.head.weight *= 100  # beside which the constants that peers add are nothing
    return model.requires_grad_(True)


def ours(name):
    model = built()
    result = Explainer(model, (1, *SHAPE)).explain(
        X, name, target=1, score="logit", target_layer=LAYER
    )
    return result.relevance


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("gradcam", "GradCAM"),
        ("hirescam", "HiResCAM"),
        ("layercam", "LayerCAM"),
        ("xgradcam", "XGradCAM"),
        ("gradcam_plus_plus", "GradCAMPlusPlus"),
        ("eigencam", "EigenCAM"),
    ],
)
def test_pytorch_grad_cam_gives_the_same(name, peer):
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    model = built()
    layer = model.get_submodule(LAYER)
    cam = getattr(pytorch_grad_cam, peer)(model, [layer], reshape_transform=volumes)
    cam.activations_and_grads(X)[:, 1].sum().backward()
    kept = cam.activations_and_grads
    activations, gradients = kept.activations[0].numpy(), kept.gradients[0].numpy()
    expected = cam.get_cam_image(X, layer, None, activations, gradients, False)
    found = ours(name)
    if name == "eigencam":  # a singular vector has no sign
        signs = np.sign((found.numpy() * expected).sum((1, 2, 3), keepdims=True))
        expected = signs * expected
    kept.release()
    scale = float(found.abs().max())
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(
    ("name", "peer"),
    [("gradcam", "GradCAM"), ("layercam", "LayerCAM"), ("xgradcam", "XGradCAM")],
)
def test_torch_cam_gives_the_same(name, peer):
    methods = pytest.importorskip("torchcam.methods")
    model = built()
    logging.disable(logging.WARNING)
    with getattr(methods, peer)(
        model, LAYER, input_shape=(1, *SHAPE), reshape_transform=volumes
    ) as extractor:
        extractor._relu = False
        (expected,) = extractor(1, model(X), normalized=False)
    logging.disable(logging.NOTSET)
    found = ours(name)
    scale = float(found.abs().max())
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-4 * scale)
