"""Weights of vit-pytorch's 3D models from before 1.16.2, which read patches in another order.

Until 1.16.1 the voxels of a patch were unrolled as ``(p1 p2 pf c)``, since 1.16.2 as
``(pf p1 p2 c)`` (vit-pytorch issue 352). Nothing in a checkpoint tells which, and one of the other
kind loads without an error and computes something else. The order of the network at hand is read
from it; that of the weights has to be declared.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from g3dvit.errors import G3DWarning, WeightsError

#: The first version with the new order.
CHANGED_IN = (1, 16, 2)


@dataclass(frozen=True, slots=True)
class PatchEmbedding:
    """One patch embedding of the family in a network.

    Parameters
    ----------
    name
        Dotted name of the embedding.
    is_new
        Whether the network unrolls as since 1.16.2.
    sizes
        ``(p1, p2, pf, c)``.
    """

    name: str
    is_new: bool
    sizes: tuple[int, int, int, int]

    @property
    def matters(self) -> bool:
        """Whether the two orders differ for these sizes."""
        p1, p2, pf, _ = self.sizes
        return pf > 1 and p1 * p2 > 1

    def old_of_new(self) -> Tensor:
        """Return, for each voxel in the new order, its place in the old one: (voxels,)."""
        p1, p2, pf, c = self.sizes
        return torch.arange(p1 * p2 * pf * c).reshape(p1, p2, pf, c).permute(2, 0, 1, 3).flatten()


def find_embeddings(model: nn.Module) -> Iterator[PatchEmbedding]:
    """Yield the patch embeddings of vit-pytorch whose order has changed."""
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("vit_pytorch."):
            continue
        embedding = getattr(module, "to_patch_embedding", None)
        if not isinstance(embedding, nn.Sequential) or len(embedding) < 3:
            continue
        pattern = str(getattr(embedding[0], "pattern", "")).replace(" ", "")
        found = re.search(r"\((pfp1p2c|p1p2pfc)\)$", pattern)
        lengths = dict(getattr(embedding[0], "axes_lengths", {}))
        norm = getattr(embedding[1], "weight", None)
        if found is None or not {"p1", "p2", "pf"} <= set(lengths) or norm is None:
            continue
        p1, p2, pf = (int(lengths[key]) for key in ("p1", "p2", "pf"))
        prefix = f"{name}." if name else ""
        yield PatchEmbedding(
            f"{prefix}to_patch_embedding",
            found[1] == "pfp1p2c",
            (p1, p2, pf, len(norm) // (p1 * p2 * pf)),
        )


def convert_patch_order(
    model: nn.Module, state: Mapping[str, Tensor], trained_with: str | None
) -> dict[str, Tensor]:
    """Return weights in the order in which the network unrolls its patches.

    Parameters
    ----------
    model
        The network, with the order of the installed vit-pytorch.
    state
        Its weights, keys as in the network.
    trained_with
        Version of vit-pytorch that they were trained with; None if nobody said, which warns where
        it makes a difference.
    """
    converted = dict(state)
    for embedding in find_embeddings(model):
        if not embedding.matters:
            continue
        if trained_with is None:
            _warn(embedding)
            continue
        was_new = tuple(map(int, re.findall(r"\d+", trained_with)[:3])) >= CHANGED_IN
        if was_new == embedding.is_new:
            continue
        order = embedding.old_of_new()
        if not embedding.is_new:
            order = order.argsort()
        for key in (f"{embedding.name}.1.weight", f"{embedding.name}.1.bias"):
            if key in converted:
                converted[key] = _reordered(converted[key], order, key)
        key = f"{embedding.name}.2.weight"
        if key in converted:
            converted[key] = _reordered(converted[key], order, key)
    return converted


def _reordered(tensor: Tensor, order: Tensor, key: str) -> Tensor:
    if tensor.shape[-1] != len(order):
        raise WeightsError(
            f"{key} has {tensor.shape[-1]} values per patch, the network {len(order)}; check "
            "`arguments`"
        )
    return tensor[..., order.to(tensor.device)].contiguous()


def _warn(embedding: PatchEmbedding) -> None:
    warnings.warn(
        "these weights may read the voxels of a patch in another order than this network: "
        "vit-pytorch changed it in 1.16.2, and a checkpoint does not tell. Say in the model "
        "description which version they were trained with, such as `vit_pytorch: '1.10.1'` "
        "(converted exactly) or `vit_pytorch: '1.16.2'` (used as they are). If you do not know, "
        "compare `g3dvit check IMAGE --model M --expect logits.npy` for both: with the wrong order "
        "the logits differ and the accuracy is at chance",
        G3DWarning,
        stacklevel=4,
    )
