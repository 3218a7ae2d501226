"""What no place can be credited with: comparisons and indices of the input, masks in the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
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


def numpy_of(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.detach().numpy())).mean((1, 2, 3, 4))


class Adds(nn.Module):
    """Adds something of the volume to the class values, computed outside of torch or inside."""

    def __init__(self, what: Callable[[Tensor], Tensor | float]) -> None:
        super().__init__()
        self.model, self.what = Model(nn.GELU()), what

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        added = torch.as_tensor(self.what(x)).reshape(-1, 1)
        return out + 5 * added * torch.tensor([1.0, 0.0])


OUTSIDE: dict[str, Callable[[Tensor], Tensor | float]] = {
    "item": lambda x: x.abs().mean().item(),
    "__float__": lambda x: float(x.detach().abs().mean()),
    "__int__": lambda x: float(int(10 * x.detach().abs().mean())),
    "numpy": numpy_of,
    "tolist": lambda x: torch.tensor(x.abs().mean((1, 2, 3, 4)).tolist()),
    "__array__": lambda x: float(np.asarray(x.detach()).std()),
}


def held_checks(model: nn.Module, method: str) -> list[g3dvit.diagnose.Check]:
    x = torch.randn(2, 1, 9, 9, 9, generator=torch.Generator().manual_seed(2))
    more = {"shifts": 2} if method == "shift_averaged" else {}
    found = g3dvit.Explainer(model.eval(), (1, 9, 9, 9)).explain(x, method, target=0, **more)
    return [c for row in found.checks for c in row if c.name == "held constants"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_numbers_taken_out_of_torch_are_told(name: str) -> None:
    torch.manual_seed(0)
    checks = held_checks(Adds(OUTSIDE[name]), "frozen_gate")
    assert [c.verdict for c in checks] == ["warn"] * 2
    assert all(f"out of torch ({name})" in c.sentence for c in checks)


@pytest.mark.parametrize("method", ["frozen_gate_gamma", "frozen_gate_noise", "shift_averaged"])
def test_variants_tell_of_numbers_taken_out_of_torch(method: str) -> None:
    torch.manual_seed(0)
    assert [c.verdict for c in held_checks(Adds(OUTSIDE["item"]), method)] == ["warn"] * 2


def careful(x: Tensor) -> float:
    """Look at the volume and its form, as code does that checks what it gets."""
    if x.isnan().any() or torch.isinf(x).any().item() or bool((x.abs() > 1e6).all()):
        raise ValueError("not finite")
    assert float(torch.ones(3).sum()) == len(x.shape) - 2
    return 0.0 if x.abs().max() > 0 else 1.0


def test_branches_and_questions_take_no_numbers_out() -> None:
    torch.manual_seed(0)
    assert [c.verdict for c in held_checks(Adds(careful), "frozen_gate")] == ["pass"] * 2


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
