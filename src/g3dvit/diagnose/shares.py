"""Checks of shares: do they add up, and what do they come from.

The measuring functions take the shares of a batch and give one number per volume.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from g3dvit.checks import Check, judge, number
from g3dvit.diagnose.maps import share


def patch_share(
    relevance: Float[Tensor, "batch patches"],
    prefix: Float[Tensor, " batch"],
    bias: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return the share of patches in all that adds up to the score, per volume.

    ``sum_p |R_p| / (sum_p |R_p| + |prefix| + |bias|)``.
    """
    patches = relevance.double().abs().sum(1)
    return share(patches, patches + prefix.double().abs() + bias.double().abs())


def position_share(
    content: Float[Tensor, "batch patches"], position: Float[Tensor, "batch patches"]
) -> Float[Tensor, " batch"]:
    """Return the share of positions in the relevance of patches, per volume.

    ``sum_p |pos_p| / sum_p (|content_p| + |pos_p|)``: positions do not depend on what is shown.
    """
    of_position = position.double().abs().sum(1)
    return share(of_position, of_position + content.double().abs().sum(1))


def voxel_share(
    content: Float[Tensor, "batch patches"],
    embedding_bias: Float[Tensor, "batch patches"],
    position: Float[Tensor, "batch patches"],
) -> Float[Tensor, " batch"]:
    """Return the share of voxels in the relevance of patches, per volume.

    ``sum_p |vox_p| / sum_p (|vox_p| + |bias_p| + |pos_p|)``, ``vox = content - bias``: neither
    the biases of the patch embedding nor positions depend on what is shown.
    """
    content, bias = content.double(), embedding_bias.double()
    of_voxels = (content - bias).abs().sum(1)
    return share(of_voxels, of_voxels + bias.abs().sum(1) + position.double().abs().sum(1))


def voxel_disagreement(
    content: Float[Tensor, "batch patches"], voxels: Float[Tensor, "batch patches"]
) -> Float[Tensor, " batch"]:
    """Return how far a patch's voxels and bias, summed, miss its content, over the largest."""
    missed = (content.double() - voxels.double()).abs().amax(1)
    return share(missed, torch.maximum(missed, content.double().abs().amax(1)))


def check_patches(value: float) -> Check:
    """Judge `patch_share`."""
    return judge(
        "patch share",
        value,
        0.2,
        0.02,
        (
            "Much of the score comes from patches",
            "Most of the score comes from the class token and constants of the model, whatever "
            "the volume shows, and little from patches",
            "The score comes from the class token and constants of the model, whatever the volume "
            "shows, so that this map explains almost nothing of it",
        ),
    )


def check_position(value: float) -> Check:
    """Judge `position_share`."""
    return judge(
        "position share",
        value,
        0.9,
        0.99,
        (
            "What the volume shows has its part in this map; the rest is the position code, the "
            "same for every volume",
            "Most of this map is the position code, which is the same for every volume; look at "
            "the content alone",
            "This map is the position code, the same for every volume: it does not show what is in "
            "this one",
        ),
        low_is_bad=False,
    )


def check_voxels(value: float) -> Check:
    """Judge `voxel_share`."""
    return judge(
        "voxel share",
        value,
        0.03,
        0.01,
        (
            "What the volume shows has its part in this map",
            "Hardly any of this map comes from the voxels: most of it is the position code and "
            "biases, the same for every volume",
            "Next to nothing of this map comes from the voxels: it is the position code and "
            "biases, the same for every volume, and does not show what is in this one",
        ),
    )


def check_voxels_agree(value: float) -> Check:
    """Judge `voxel_disagreement`; a map of patches is no worse for it, so that it never fails."""
    name, limit = "voxels and patches", 0.05
    asked = f"({number(value)}; at most {limit:.3g} is asked for)"
    differ = value > limit
    sentence = (
        "Voxels and patches tell different stories: the model mixes the voxels of several patches "
        "before its first block (it standardises the volume itself, or its patches overlap), so "
        "that several patches share a voxel's relevance"
        if differ
        else "The voxels of each patch add up to what its token brings"
    )
    return Check(name, value, limit, None, "warn" if differ else "pass", f"{sentence} {asked}.")


def completeness_limits(*, half: bool = False) -> tuple[float, float]:
    """Return the completeness errors of frozen-gate maps above which they warn and fail.

    Rounding in float32 leaves 1e-6 and less, so that more is an operation that is not followed;
    half precision rounds to 1e-3 and more.
    """
    return (0.01, 0.05) if half else (1e-4, 0.01)


def check_completeness(
    error: float, module: str = "", *, of: str = "the score", half: bool = False
) -> Check:
    """Judge the completeness error of a frozen-gate map.

    Parameters
    ----------
    error
        As `g3dvit.methods.completeness_error` gives it.
    module
        Where it arises, if known.
    of
        What the shares should add up to.
    half
        Whether the model computes in half precision, somewhere.
    """
    where = f"; relevance is lost or gained in {module}" if module else ""
    return judge(
        "completeness",
        error,
        *completeness_limits(half=half),
        (
            f"All shares of this map add up to {of}",
            f"The shares of this map do not quite add up to {of}{where}",
            f"The shares of this map do not add up to {of}{where}",
        ),
        low_is_bad=False,
    )


def check_beside(value: float) -> Check:
    """Judge the share of the score that voxels bring beside the tokens of the first block.

    Parameters
    ----------
    value
        As `g3dvit.methods.beside_share` gives it.
    """
    return judge(
        "beside the tokens",
        value,
        0.01,
        0.2,
        (
            "What voxels bring to the score passes through the tokens of the patches",
            "A part of what voxels bring to the score reaches the head beside the tokens of the "
            "patches (a second model, a path around them), where this map cannot see it",
            "Much of what voxels bring to the score reaches the head beside the tokens of the "
            "patches (a second model, a path around them), where this map cannot see it",
        ),
        low_is_bad=False,
    )


def check_held(value: float, module: str = "", *, numbers_out: Iterable[str] = ()) -> Check:
    """Judge the share of the score that comes from values held constant.

    Parameters
    ----------
    value
        As `g3dvit.methods.held_share` gives it.
    module
        Where they are added, if known.
    numbers_out
        Functions by which the model takes numbers out of torch. What it makes of them looks like
        a constant, and is not part of `value`: such a map never passes.
    """
    where = f" in {module}" if module else ""
    check = judge(
        "held constants",
        value,
        0.02,
        0.2,
        (
            "What is computed from the volume has its share in this map",
            f"A part of the score is computed from the volume{where} in a way that this map holds "
            "constant: no place is credited with it",
            f"Much of the score is computed from the volume{where} in a way that this map holds "
            "constant: no place is credited with it, so that the map leaves it out",
        ),
        low_is_bad=False,
    )
    functions = ", ".join(sorted(numbers_out))
    if not functions or check.verdict != "pass":
        return check
    sentence = (
        f"The model takes numbers that it computed from the volume out of torch ({functions}), "
        "where they cannot be followed: should it add what it makes of them, that is a constant "
        f"to this map, and no place is credited with it (what can be followed: {number(value)})."
    )
    return replace(check, verdict="warn", sentence=sentence)


def check_path(error: float) -> Check:
    """Judge the completeness error of a path method."""
    return judge(
        "completeness",
        error,
        0.01,
        0.05,
        (
            "All shares of this map add up to the score less that of the references",
            "The shares of this map do not quite add up to the score less that of the references; "
            "more samples would help",
            "The shares of this map do not add up to the score less that of the references: too "
            "few samples, or references that the model cannot compare with",
        ),
        low_is_bad=False,
    )
