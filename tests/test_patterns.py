"""What goes with the score: against numpy, linear models, a suppressor, and long runs in parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from g3dvit import Explainer, ImageGrid, RelevanceMap, pattern
from g3dvit.errors import InputError, TargetError
from gallery import GALLERY, SHAPE, Patches, TinyViT, seeded
from test_methods import drifted

X = torch.randn(23, 1, *SHAPE, generator=torch.Generator().manual_seed(12))


class Linear(nn.Module):
    """Linear in every voxel."""

    def __init__(self):
        super().__init__()
        self.patches, self.head = Patches(), nn.Linear(24, 3)
        self.place, self.norm = nn.Parameter(torch.randn(1, 30, 1)), nn.Identity()

    def forward(self, x):
        return self.head(self.norm(self.patches(x) * self.place).sum(1))


def weights(model, c):
    leaf = torch.zeros(1, 1, *SHAPE, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(model(leaf)[0, c], leaf)[0].flatten().numpy()


def test_of_a_linear_model_it_is_the_covariance_times_the_weights():
    model = seeded(Linear)().double()
    mixing = torch.randn(720, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    noise = 0.1 * torch.randn(40, 720, dtype=torch.float64)
    sources = torch.randn(40, 5, dtype=torch.float64)
    flat = sources @ mixing.T + noise
    found = pattern(
        Explainer(model, (1, *SHAPE)), flat.reshape(40, 1, *SHAPE), target=2, score="logit"
    )
    expected = np.cov(flat.numpy().T) @ weights(model, 2)
    np.testing.assert_allclose(found.covariance.ravel(), expected, rtol=1e-8, atol=1e-8)
    sd = np.sqrt(weights(model, 2) @ expected)
    assert float(found.score_sd) == pytest.approx(sd)
    voxel_sd = flat.numpy().std(0, ddof=1)
    np.testing.assert_allclose(found.correlation.ravel(), expected / voxel_sd / sd, rtol=1e-8)
    assert found.num_volumes == 40 and found.score == "logit" and found.target == 2


def test_a_suppressor_has_weight_but_no_pattern():
    """Voxel a holds signal and noise, voxel b the noise alone; the model takes b from a."""
    n = 400
    generator = torch.Generator().manual_seed(3)
    signal, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
    noise = noise - signal * (noise * signal).sum() / signal.square().sum()
    noise, signal = noise - noise.mean(), signal - signal.mean()
    x = torch.zeros(n, 1, *SHAPE, dtype=torch.float64)
    x[:, 0, 1, 2, 3], x[:, 0, 5, 2, 3] = signal + noise, noise

    class TakesAway(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.norm = Patches(), nn.Identity()
            weight = torch.randn(1, 1, *SHAPE)  # of voxels that are never anything but zero
            weight[0, 0, 1, 2, 3], weight[0, 0, 5, 2, 3] = 1.0, -1.0
            self.weight = nn.Parameter(self.patches(weight))

        def forward(self, x):
            y = (self.norm(self.patches(x)) * self.weight).sum((1, 2))
            return torch.stack([-y, y], 1)

    explainer = Explainer(TakesAway().double(), (1, *SHAPE))
    result = explainer.explain(x[:5], "gradient_x_input", target=1, score="logit")
    assert float(result.voxel_relevance[:, 5, 2, 3].abs().min()) > 1e-3
    found = pattern(explainer, x, target=1, score="logit")
    assert found.correlation[1, 2, 3] > 0.5
    assert abs(found.correlation[5, 2, 3]) < 0.05


@pytest.mark.parametrize("name", ["class token first", "no channel axis, permuted inside"])
def test_it_equals_numpy_over_any_batches_and_parts(name):
    piece = GALLERY[name]
    model = drifted(piece.build())
    x = X.reshape(-1, *piece.input_shape)
    explainer = Explainer(model, piece.input_shape, class_names=["a", "b", "c"])
    with torch.no_grad():
        z = model(x).double().numpy()
    y = z[:, 1] - np.log(np.exp(z[:, [0, 2]]).sum(1))
    dx, dy = x.reshape(23, *SHAPE).double().numpy(), y - y.mean()
    expected = (dx * dy[:, None, None, None]).sum(0) / 22
    done = []
    for found in (
        pattern(explainer, x, target="b", batch_size=4, progress=done.append),
        pattern(explainer, x.numpy()),
        pattern(explainer, (part for part in x.split(7)), target=1),
    ):
        np.testing.assert_allclose(found.covariance, expected, rtol=1e-3, atol=1e-5)
    assert done == [4, 8, 12, 16, 20, 23]
    both = pattern(explainer, x, target=[1, (1, 2)])
    assert both.covariance.shape == (2, *SHAPE) and both.score_sd.shape == (2,)
    np.testing.assert_allclose(both.covariance[0], expected, rtol=1e-3, atol=1e-5)


def test_the_two_classes_of_a_binary_model_have_opposite_patterns_and_scores_may_be_functions():
    explainer = Explainer(drifted(seeded(lambda: TinyViT(outputs=2))()), (1, *SHAPE))
    found = pattern(explainer, X, target="all")
    np.testing.assert_allclose(found.covariance[0], -found.covariance[1], rtol=1e-6, atol=1e-8)
    own = pattern(explainer, X, score=lambda z: z[:, 1] - z[:, 0])
    np.testing.assert_allclose(own.covariance, found.covariance[1], rtol=1e-5, atol=1e-7)


def test_it_is_saved_as_an_image_with_the_correlation_beside_it(tmp_path):
    explainer = Explainer(seeded(TinyViT)(), (1, *SHAPE))
    found = pattern(explainer, X, target=(1, 0))
    affine = np.diag([3.0, 2.0, 2.5, 1.0])
    grid = ImageGrid(SHAPE, affine)
    path = found.to_map(grid).save(tmp_path / "pattern.nii.gz")
    read = RelevanceMap.load(path)
    np.testing.assert_allclose(read.data, found.covariance, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(read.companions["correlation"], found.correlation, atol=1e-6)
    np.testing.assert_allclose(read.grid.affine, affine)
    assert read.units == "input times log-odds"
    assert read.metadata["num_volumes"] == 23 and read.metadata["target"] == "(1, 0)"
    with pytest.raises(InputError, match="one target"):
        pattern(explainer, X, target="all").to_map(grid)


def test_what_cannot_have_a_pattern_is_told():
    explainer = Explainer(seeded(TinyViT)(), (1, *SHAPE))
    for target in ("predicted", "label", [0, "predicted"]):
        with pytest.raises(TargetError, match="one target for all"):
            pattern(explainer, X, target=target)
    with pytest.raises(InputError, match="at least 3 volumes, was given 2"):
        pattern(explainer, X[:2])
    with pytest.raises(TargetError, match="is the same for all 4 volumes"):
        pattern(explainer, X[:1].expand(4, -1, -1, -1, -1))
