"""What no place can be credited with: comparisons and indices of the input, masks in the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import g3dvit

DIM, EDGE = 16, 3


class Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)


class Rounded(nn.Module):
    """Rounds, and passes the gradient straight through: what is held is as often up as down."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()


class Model(nn.Module):
    """Two residual MLPs; `mask` hides voxels in front of normalised patches."""

    def __init__(self, activation: nn.Module, mask: Tensor | None = None) -> None:
        super().__init__()
        self.mask = mask
        self.first = nn.Identity() if mask is None else nn.LayerNorm(EDGE**3)
        self.embed = nn.Linear(EDGE**3, DIM)
        self.position = nn.Parameter(0.1 * torch.randn(1, 27, DIM))
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, 64), activation, nn.Linear(64, DIM))
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.mask is None else x * self.mask
        cubes = x.unfold(2, EDGE, EDGE).unfold(3, EDGE, EDGE).unfold(4, EDGE, EDGE)
        tokens = self.embed(self.first(cubes.reshape(len(x), 27, -1))) + self.position
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        for mlp in self.mlps:
            tokens = tokens + mlp(tokens)
        out: Tensor = self.head(self.norm(tokens).mean(1))
        return out


def held(activation: nn.Module) -> list[str]:
    torch.manual_seed(0)
    model, x = Model(activation).eval(), torch.randn(3, 1, 9, 9, 9)
    found = g3dvit.Explainer(model, (1, 9, 9, 9)).explain(x, "frozen_gate")
    return [c.verdict for row in found.checks for c in row if c.name == "held constants"]


def test_what_a_comparison_passes_on_is_held() -> None:
    assert held(Step()) == ["fail"] * 3
    assert held(nn.GELU()) == ["pass"] * 3


def test_held_parts_that_cancel_are_held_all_the_same() -> None:
    assert held(Rounded()) == ["fail"] * 3


def test_voxels_that_a_mask_in_the_model_hides_have_no_relevance() -> None:
    torch.manual_seed(0)
    mask = torch.ones(9, 9, 9)
    mask[2:4, 2:7, 3:5] = 0
    model, x = Model(nn.GELU(), mask).eval(), torch.randn(2, 1, 9, 9, 9)
    explainer = g3dvit.Explainer(model, (1, 9, 9, 9))
    found = explainer.explain(x, ["frozen_gate", "shift_weighted_signed"], shifts=2)
    voxels = found["frozen_gate"].voxel_relevance
    assert (voxels[:, mask == 0] == 0).all() and voxels.isfinite().all()
    assert float(found["frozen_gate"].completeness_error.max()) < 1e-5
    assert found["shift_weighted_signed"].voxel_relevance.isfinite().all()
