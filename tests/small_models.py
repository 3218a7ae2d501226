"""Very small transformers that really learn a task with a planted answer, in seconds each.

Volumes of smooth noise hold a blob. Classes are told apart by where it is (``"place"``), or by its
sign (``"sign"``), wherever it is; or a fine texture lies at one place, as it is or its negative
(``"texture"``). `RECIPES` trains a family of them that differs in everything
that checks of maps could depend on; thresholds were set on `DEVELOPMENT` and are judged on `TEST`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from gallery import Attention, Patches


@dataclass(frozen=True)
class Recipe:
    """A model and its task, all by a seed."""

    seed: int
    task: str = "place"
    classes: int = 2
    grid: tuple[int, int, int] = (3, 3, 3)
    edge: int = 4
    pool: str = "first"
    norm: type[nn.Module] = nn.LayerNorm
    patch_norm: bool = False
    dim: int = 32
    depth: int = 2
    fused: bool = True
    bias: float = 0.0
    shuffled: bool = False

    @property
    def shape(self):
        return tuple(n * self.edge for n in self.grid)

    @property
    def name(self):
        words = [self.task, str(self.classes), "x".join(map(str, self.grid)), self.pool]
        words += [self.norm.__name__] + ["patch-norm"] * self.patch_norm + [str(self.seed)]
        return " ".join(words)


class ExplicitAttention(Attention):
    """With its matrix, as `vit_3d` has it."""

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.to_qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).reshape(b, t, d))


class Layer(nn.Module):
    def __init__(self, recipe):
        super().__init__()
        dim = recipe.dim
        self.norm1, self.norm2 = recipe.norm(dim), recipe.norm(dim)
        self.attention = (Attention if recipe.fused else ExplicitAttention)(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    def __init__(self, recipe):
        super().__init__()
        n, dim = int(np.prod(recipe.grid)), recipe.dim
        voxels = recipe.edge**3
        norm = [nn.LayerNorm(voxels)] if recipe.patch_norm else []
        self.embed = nn.Sequential(Patches((recipe.edge,) * 3), *norm, nn.Linear(voxels, dim))
        self.before = nn.Parameter(0.02 * torch.randn(1, 1 if recipe.pool == "first" else 0, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, n + self.before.shape[1], dim))
        self.blocks = nn.ModuleList([Layer(recipe) for _ in range(recipe.depth)])
        self.norm = recipe.norm(dim)
        self.head = nn.Linear(dim, recipe.classes)
        self.pool = recipe.pool

    def forward(self, x):
        x = self.embed(x)
        x = torch.cat([self.before.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool == "first" else x.mean(1))


@dataclass(frozen=True)
class Volumes:
    """Volumes (n, 1, i, j, k), their classes, and the voxels where the answer is."""

    x: torch.Tensor
    labels: torch.Tensor
    answer: torch.Tensor


def draw(recipe, n, seed):
    """Draw volumes, each with a blob of which the class is told by place or sign."""
    rng = np.random.default_rng([recipe.seed, seed])
    shape, edge = recipe.shape, recipe.edge
    noise = rng.normal(size=(n, *shape)).astype(np.float32)
    noise = gaussian_filter(noise, (0, 1, 1, 1))
    noise /= noise.std()
    labels = rng.integers(recipe.classes, size=n)
    if recipe.task == "place":
        sites = np.random.default_rng(recipe.seed).permutation(int(np.prod(recipe.grid)))
        corner = np.stack(np.unravel_index(sites[labels], recipe.grid), 1)
        jitter = rng.uniform(-0.75, 0.75, size=(n, 3))
        signs = np.ones(n)
    elif recipe.task == "texture":
        corner = np.array(recipe.grid)[None] // 2 + np.zeros((n, 1), dtype=int)
        jitter = np.zeros((n, 3))
        signs = 2.0 * labels - 1
    else:
        corner = np.stack([rng.integers(g, size=n) for g in recipe.grid], 1)
        jitter = rng.uniform(-0.75, 0.75, size=(n, 3))
        signs = 2.0 * labels - 1 if recipe.classes == 2 else labels - 1.0
    centre = corner * edge + (edge - 1) / 2 + jitter
    places = np.indices(shape).astype(np.float32)
    away = ((places[None] - centre[:, :, None, None, None]) ** 2).sum(1)
    blob = np.exp(-away / (2 * (edge / 3) ** 2)).astype(np.float32)
    if recipe.task == "texture":
        fixed = np.random.default_rng(recipe.seed).normal(size=shape)
        blob = blob * (fixed - fixed.mean()).astype(np.float32) / 3
    x = noise + 6.0 * signs[:, None, None, None].astype(np.float32) * blob
    return Volumes(
        torch.from_numpy(x[:, None].astype(np.float32)),
        torch.from_numpy(labels),
        torch.from_numpy(blob > 0.5),
    )


def train(recipe, steps=200, batch=64):
    """Return a trained model and its accuracy on volumes that it has not seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = SmallViT(recipe)
    data = draw(recipe, 2048, 1)
    labels = data.labels
    if recipe.shuffled:
        labels = labels[torch.from_numpy(np.random.default_rng(recipe.seed).permutation(2048))]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    order = torch.Generator().manual_seed(recipe.seed)
    for _ in range(steps):
        some = torch.randint(2048, (batch,), generator=order)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.x[some]), labels[some]).backward()
        optimiser.step()
        schedule.step()
    model.eval()
    held_out = draw(recipe, 200, 2)
    with torch.no_grad():
        accuracy = (model(held_out.x).argmax(1) == held_out.labels).float().mean().item()
    return model, accuracy
