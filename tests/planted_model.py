"""A model that is known to look at one place, and a run with a known signal there."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

GRID = (2, 3, 4)
PATCH = (6, 5, 4)
SHAPE = (12, 15, 16)  # of the prepared volume: GRID * PATCH
SPOT = (1, 0, 2)  # the patch that decides
WORLD_ORIGIN = (-18.0, -20.0, -15.0)
VOXEL_MM = 3.0


class LooksAtOnePatch(nn.Module):
    """Reads ``permute`` of the volume; class 1 is a bright texture in the patch `SPOT`."""

    def __init__(self, permute: tuple[int, int, int] = (0, 1, 2), width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        patch = tuple(PATCH[axis] for axis in permute)
        grid = tuple(GRID[axis] for axis in permute)
        self.embed = nn.Conv3d(1, width, patch, patch, bias=False)
        self.embed.weight.data = 0.02 * torch.randn(self.embed.weight.shape, generator=generator)
        self.embed.weight.data[0] = 1 / self.embed.weight[0].numel()
        self.norm = nn.LayerNorm(width)
        self.norm.weight.data = 1 + 0.2 * torch.randn(width, generator=generator)
        self.norm.bias.data = 0.3 * torch.randn(width, generator=generator)
        look = torch.full(grid, 0.01)
        look[tuple(SPOT[axis] for axis in permute)] = 1.0
        self.register_buffer("look", look.flatten())
        self.head = nn.Linear(width, 2, bias=False)
        self.head.weight.data.zero_()
        self.head.weight.data[1, 0] = 1.0
        self.head.weight.data[0, 0] = -1.0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        pooled = (self.norm(tokens) * self.look[:, None]).sum(1)
        return self.head(pooled)


class Affine(nn.Module):
    """Gain and bias, and no normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class WithoutNorm(LooksAtOnePatch):
    """The same weights, and no layer that token Grad-CAM could use."""

    def __init__(self, permute: tuple[int, int, int] = (0, 1, 2), width: int = 8) -> None:
        super().__init__(permute, width)
        self.norm = Affine(width)


class WithSoftmax(LooksAtOnePatch):
    """Gives probabilities in the place of logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def affine_for(orientation: str) -> np.ndarray:
    """Return the affine of the stored source image on the prepared grid's voxels."""
    start = np.array(WORLD_ORIGIN)
    signs = np.array([-1 if letter in "LPI" else 1 for letter in orientation])
    far = start + VOXEL_MM * (np.array(SHAPE) - 1)
    return nib.affines.from_matvec(np.diag(VOXEL_MM * signs), np.where(signs > 0, start, far))


def spot_mm() -> np.ndarray:
    """Return the world coordinates of the centre of the patch that decides."""
    centre = np.array(SPOT) * PATCH + (np.array(PATCH) - 1) / 2
    return np.array(WORLD_ORIGIN) + VOXEL_MM * centre


def save_planted_run(folder: Path, orientation: str = "RAS", *, name: str = "sub-01") -> Path:
    """Write a run whose even volumes are bright in `SPOT` and whose odd ones are dark there."""
    rng = np.random.default_rng(3)
    data = rng.normal(0, 0.3, (*SHAPE, 8)).astype(np.float32)
    place = tuple(slice(s * p, (s + 1) * p) for s, p in zip(SPOT, PATCH, strict=True))
    data[place] += np.where(np.arange(8) % 2 == 0, 2.0, -2.0).astype(np.float32)
    flips = tuple(axis for axis, letter in enumerate(orientation) if letter in "LPI")
    image = nib.Nifti1Image(np.flip(data, flips), affine_for(orientation))
    image.set_sform(image.affine, 4)
    image.set_qform(image.affine, 4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    path = folder / f"{name}_task-spot_space-MNI152NLin6Asym_bold.nii.gz"
    nib.save(image, path)
    return path


def save_planted_model(folder: Path, *, axes: str = "b 1 i j k", **changes: object) -> Path:
    """Write weights and description; `axes` may permute, such as ``b 1 k i j``."""
    letters = [letter for letter in axes.split() if letter in "ijk"]
    permute = tuple("ijk".index(letter) for letter in letters)
    model = LooksAtOnePatch(permute)
    save_file(model.state_dict(), folder / "spot.safetensors")
    description = {
        "factory": "planted_model:LooksAtOnePatch",
        "arguments": {"permute": list(permute)},
        "weights": "spot.safetensors",
        "class_names": ["dark", "bright"],
        "input_axes": axes,
        "input_shape": [1, *(SHAPE[axis] for axis in permute)],
        "preparation": {
            "space": "MNI152NLin6Asym",
            "steps": [{"step": "reorient", "axcodes": "RAS"}],
        },
        **changes,
    }
    path = folder / "spot.yaml"
    path.write_text(yaml.safe_dump(description))
    return path
