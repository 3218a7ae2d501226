"""A small 3D ViT with a run of its own, whose tokens can be dropped by hand."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

GRID, PATCH, SHAPE = (2, 3, 4), (3, 5, 4), (6, 15, 16)
AXES = (2, 0, 1)  # the model reads (k, i, j), so that a forgotten permutation shows
N_PATCHES = 24
T_R = 2.0
N_BLOCKS, PER_BLOCK = 16, 3


class HandViT(nn.Module):
    """Class token, one attention block, head; `keep` drops patches by hand.

    Parameters
    ----------
    seed
        Of the weights.
    classes
        Number of outputs.
    mixed
        False leaves the attention out, so that every patch adds its own share (and the mean over
        tokens is the head's input).
    flat
        Let the head read tokens by their number, so that none can be taken out.
    """

    def __init__(
        self, seed: int = 0, classes: int = 2, *, mixed: bool = True, flat: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        patch = tuple(PATCH[axis] for axis in AXES)
        self.embed = nn.Conv3d(1, 16, patch, patch)
        self.first = nn.Parameter(0.3 * torch.randn(1, 1, 16))
        self.position = nn.Parameter(0.3 * torch.randn(1, 1 + N_PATCHES, 16))
        self.blocks = nn.ModuleList([HandBlock() for _ in range(2 if mixed else 0)])
        self.norm = nn.LayerNorm(16) if mixed else nn.Identity()
        self.head = nn.Linear(16 * (1 + N_PATCHES) if flat else 16, classes)
        self.mixed, self.flat = mixed, flat

    def forward(self, x: Tensor, keep: list[int] | None = None) -> Tensor:
        """`keep` counts patches as the model's input has them."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1) + self.position
        if keep is not None:
            tokens = tokens[:, [0, *(1 + p for p in keep)]]
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        if self.flat:
            return self.head(tokens.flatten(1))
        return self.head(tokens[:, 0] if self.mixed else tokens.mean(1))


class HandBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before(x)).chunk(3, dim=-1)
        x = x + self.out((q @ k.transpose(1, 2) / 4).softmax(-1) @ v)
        return x + self.mlp(self.after(x))


def save_model(folder: Path, *, name: str = "hand", seed: int = 0, **arguments: object) -> Path:
    """Write weights and description of a model that has not been trained."""
    module = HandViT(seed, **arguments)
    save_file(module.state_dict(), folder / f"{name}.safetensors")
    description = {
        "factory": "evaluated_model:HandViT",
        "arguments": arguments,
        "weights": f"{name}.safetensors",
        "class_names": ["rest", "task", "other"][: int(arguments.get("classes", 2))],
        "input_axes": "b 1 k i j",
        "input_shape": [1, *(SHAPE[axis] for axis in AXES)],
        "preparation": {
            "space": "MNI152NLin6Asym",
            "steps": [{"step": "reorient", "axcodes": "RAS"}],
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(description))
    return path


def save_run(folder: Path, *, name: str = "sub-01", seed: int = 3) -> Path:
    """Write a run of alternating blocks, its events and confounds; a box of 0 around the brain."""
    rng = np.random.default_rng(seed)
    n = N_BLOCKS * PER_BLOCK
    data = rng.normal(0, 1, (*SHAPE, n)).astype(np.float32) + 5
    task = (np.arange(n) // PER_BLOCK) % 2 == 1
    data[0:3, 0:5, 4:8] += np.where(task, 1.5, -1.5).astype(np.float32)
    data[:, 10:] = 0  # outside the brain: the last of three patches along j
    affine = nib.affines.from_matvec(np.diag([3.0, 3.0, 3.0]), [-9, -20, -15])
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, 4)
    image.set_qform(affine, 4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = T_R
    path = folder / f"{name}_task-x_space-MNI152NLin6Asym_bold.nii.gz"
    nib.save(image, path)
    rows = [
        f"{b * PER_BLOCK * T_R}\t{PER_BLOCK * T_R}\t{'task' if b % 2 else 'rest'}"
        for b in range(N_BLOCKS)
    ]
    events = "\n".join(["onset\tduration\ttrial_type", *rows])
    (folder / f"{name}_events.tsv").write_text(events + "\n")
    moved = np.abs(rng.normal(0.2, 0.1, n))
    table = ["framewise_displacement", "n/a", *(f"{value:.4f}" for value in moved[1:])]
    (folder / f"{name}_confounds.tsv").write_text("\n".join(table) + "\n")
    return path
