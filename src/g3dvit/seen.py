"""What a model can see of a volume: its level and amplitude, and which of its patches.

Found by changing the volume and running the model, never by what its classes are called. Terms: a
model is *blind to amplitude* where 2 x + 1 gives the outputs of x; it *normalises its patches*
where every patch may get an amplitude and a level of its own. A constant patch is then
invisible, and so is one that varies less than the normalisation's guard against division by zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import first_output
from g3dvit.checks import Check, not_applicable
from g3dvit.geometry import Geometry

Run = Callable[[Tensor], Any]

#: Outputs that change by less than this share are the same.
_SAME = 1e-3
_NOTHING = 1e-6
#: A patch is constant if it varies by less than this share of its level and the volume's spread.
_CONSTANT = 1e-6
_STEPS = 6


def amplitude_check(run: Run, x: Tensor, geometry: Geometry) -> tuple[Check, bool]:
    """Judge whether a model sees how strong a signal is.

    Parameters
    ----------
    run
        The model inside `g3dvit.capture.guest`, or what calls it.
    x : (1, ...)
        One input.
    geometry
        How the model divides it.

    Returns
    -------
    check
        Blindness to the amplitude of the volume, or of each patch.
    normalised
        Whether each patch may get a level and an amplitude of its own.
    """
    axes = [axis + 1 for axis in geometry.spatial_axes]
    generator = torch.Generator().manual_seed(0)
    mean, spread, shape = _parts(_to_patches(x.detach().float().cpu(), geometry))
    # Patches of one amplitude, well above what a normalisation may guard against dividing by.
    typical = spread.amax()
    gain = torch.exp(torch.rand(mean.shape, generator=generator).sub(0.5) * 1.4)
    level = torch.randn(mean.shape, generator=generator) * typical
    alike = _to_volume(mean + typical * shape, x, geometry)
    own = _to_volume(mean + level + typical * gain * shape, x, geometry)
    several = (x, 2 * x + 1, x.flip(axes), alike, own)
    z, whole, mirrored, same, each = (_outputs(run, volume) for volume in several)
    size = float((mirrored - z).norm())
    if not size > _NOTHING * float(z.norm()):
        reason = "the model says the same of a volume and its mirror image"
        return not_applicable("amplitude blindness", reason), False
    by_patch = float((each - same).norm()) < _SAME * size
    return diagnose.check_amplitude(float((whole - z).norm()) / size, by_patch=by_patch), by_patch


def batch_check(run: Run, x: Tensor, geometry: Geometry) -> Check:
    """Judge whether what a model says of a volume depends on the volumes beside it.

    Parameters
    ----------
    run, geometry
        As for `amplitude_check`.
    x : (1, ...)
        One input. Its mirror image is put beside it, with twice the amplitude and another level:
        were they the same, statistics of the batch would be those of the input.

    Returns
    -------
    Check
        Change of the outputs, over what mirroring changes (at least 1 % of the outputs, so that
        rounding stays small); not applicable to a model that takes one volume at a time.
    """
    mirrored = x.flip([axis + 1 for axis in geometry.spatial_axes])
    alone, other = _outputs(run, x), _outputs(run, mirrored)
    try:
        beside = _outputs(run, torch.cat([x, 2 * mirrored + x.std()]))[: len(x)]
    except RuntimeError:
        return not_applicable("batch dependence", "the model takes one volume at a time")
    size = max(float((other - alone).norm()), 1e-2 * float(alone.norm()))
    if not size > 0:
        return not_applicable("batch dependence", "the model's outputs are all 0")
    return diagnose.check_batch(float((beside - alone).norm()) / size)


def invisible_checks(
    run: Run,
    x: Tensor,
    geometry: Geometry,
    inside: Bool[Tensor, " patches"] | None = None,
) -> list[Check]:
    """Judge how much of the brain a model that normalises its patches cannot see.

    Parameters
    ----------
    run, geometry
        As for `amplitude_check`.
    x : (batch, ...)
        Inputs of a model that normalises its patches.
    inside : (patches,)
        Patches with brain in them, C order of the grid; None takes those that are not all
        background, the commonest value of the volume. How many were left out so is said.
    """
    name = "invisible patches"
    patches = _to_patches(x.detach().float().cpu(), geometry)
    guard: float | None = None
    checks = []
    for n, voxels in enumerate(patches):
        own = inside
        if own is None:
            own = (voxels != voxels.flatten().mode().values).any(1)
        if not bool(own.any()):
            checks.append(not_applicable(name, "this volume has one value only"))
            continue
        spread = voxels.std(dim=1, unbiased=False)
        varies = spread > _CONSTANT * (voxels.mean(1).abs() + voxels.std())
        if guard is None and bool((own & varies & (spread < 0.1 * spread.max())).any()):
            guard = _guard(run, x[n : n + 1], geometry)
        unseen = ~varies if guard is None else ~varies | (spread < guard)
        background = 0 if inside is not None else int((~own).sum())
        share = float((unseen & own).sum() / own.sum())
        checks.append(diagnose.check_invisible(share, background, len(own)))
    return checks


def unseen_checks(x: Tensor, geometry: Geometry) -> list[Check]:
    """Judge the same without a further pass, of a model that begins by normalising its patches.

    Parameters
    ----------
    x : (batch, ...)
        Inputs.
    geometry
        Of the model, with a `patch_guard`.
    """
    assert geometry.patch_guard is not None  # asked for of models that have one
    blocks = _blocks(x.detach(), geometry)  # (batch, gi, p, gj, q, gk, r, channels), not copied
    unseen = blocks.var((2, 4, 6, 7), correction=0).flatten(1) < geometry.patch_guard**2
    checks = []
    for volume, hidden in zip(blocks, unseen.cpu(), strict=True):
        background = torch.zeros_like(hidden)
        if bool(hidden.any()):  # the commonest value of constant patches
            voxels = volume.permute(0, 2, 4, 1, 3, 5, 6).flatten(0, 2).flatten(1)[hidden].cpu()
            value = voxels[:, 0]
            constant = (voxels == value[:, None]).all(1)
            if bool(constant.any()):
                common = value[constant].mode().values
                background[hidden.nonzero()[:, 0]] = constant & (value == common)
        brain = int((~background).sum())
        if not brain:
            checks.append(not_applicable("invisible patches", "this volume has one value only"))
            continue
        share = float((hidden & ~background).sum()) / brain
        checks.append(diagnose.check_invisible(share, int(background.sum()), len(hidden)))
    return checks


def jittered(x: Tensor, geometry: Geometry, *, amount: float, seed: int = 0) -> Tensor:
    """Return volumes with noise of a share of each patch's own standard deviation.

    Constant patches stay constant: to a model that normalises its patches, the least noise in them
    is as large as any signal.
    """
    patches = _to_patches(x.detach().float().cpu(), geometry)
    noise = torch.randn(patches.shape, generator=torch.Generator().manual_seed(seed))
    spread = patches.std(dim=2, unbiased=False, keepdim=True)
    return _to_volume(patches + amount * spread * noise, x, geometry)


def patches_in(mask: Tensor, geometry: Geometry) -> Bool[Tensor, " patches"]:
    """Return the patches with any voxel of a mask, C order of the grid.

    Parameters
    ----------
    mask : (*input_shape)
        In the layout of the model's input.
    """
    return (_to_patches(mask[None].float(), geometry)[0] > 0).any(1)


def _guard(run: Run, x: Tensor, geometry: Geometry) -> float:
    """Return the standard deviation below which a patch is hardly seen, by halving."""
    mean, spread, shape = _parts(_to_patches(x.detach().float().cpu(), geometry))
    typical = float(spread.max())

    def outputs(sd: float) -> Tensor:
        return _outputs(run, _to_volume(mean + sd * shape, x, geometry))

    nothing, all_of_it = outputs(0.0), outputs(typical)
    size = float((all_of_it - nothing).norm())
    low, high = -6.0, 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        # With var = eps the normalisation gives 0.7 of what it gives for a large variance.
        seen = float((outputs(typical * 10**middle) - nothing).norm()) > 0.7 * size
        low, high = (low, middle) if seen else (middle, high)
    return typical * float(10 ** ((low + high) / 2))


def _parts(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and standard deviation of each patch, and what is left of unit variance."""
    mean = patches.mean(2, keepdim=True)
    spread = patches.std(dim=2, unbiased=False, keepdim=True)
    return mean, spread, (patches - mean) / torch.where(spread > 0, spread, 1.0)


def _outputs(run: Run, x: Tensor) -> Float[Tensor, "batch outputs"]:
    with torch.no_grad():
        return first_output(run(x)).double().cpu()


def _to_patches(x: Tensor, geometry: Geometry) -> Float[Tensor, "batch patches voxels"]:
    """Return the voxels of each patch, all channels; patches in C order of the grid."""
    split = _blocks(x, geometry)
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(len(x), geometry.num_patches, -1)


def _blocks(x: Tensor, geometry: Geometry) -> Float[Tensor, "batch gi p gj q gk r channels"]:
    axes = [axis + 1 for axis in geometry.spatial_axes]
    volume = x.movedim(axes, (1, 2, 3))
    sizes = zip(geometry.grid_shape, geometry.patch_size, strict=True)
    return volume.reshape(len(x), *(n for pair in sizes for n in pair), -1)


def _to_volume(patches: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    """Put patches back into the layout of the input."""
    axes = [axis + 1 for axis in geometry.spatial_axes]
    moved = like.movedim(axes, (1, 2, 3))
    split = patches.reshape(len(patches), *geometry.grid_shape, *geometry.patch_size, -1)
    volume = split.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(moved.shape)
    return volume.movedim((1, 2, 3), axes).to(like)
