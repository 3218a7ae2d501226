"""Checks of the maps of a batch that need no further pass; they are always made.

Of several targets and weightings of a volume the worst counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.checks import Check
from g3dvit.explain_context import Context
from g3dvit.methods import METHODS
from g3dvit.seen import unseen_checks

#: Methods that see the tokens alone: what passes by them is missing from their maps.
AT_TOKENS = ("layer", "layers", "linear head", "attention", "frozen gates")


def add_map_checks(batch: Context) -> None:
    """Add to every map what can be said of it alone: is it finite, empty, flat, about patches."""
    unseen: list[tuple[Check, ...]] = [()] * len(batch.x)
    if batch.geometry.patch_guard is not None:
        unseen = [(one,) for one in unseen_checks(batch.x, batch.geometry)]
    for name in batch.request.methods:
        rows = _checks(batch, name)
        batch.found.checks[name] = [
            (*own, *more, *of_volume)
            for own, more, of_volume in zip(batch.found.checks[name], rows, unseen, strict=True)
        ]
    batch.found.behind.clear()  # as large as the maps, and of no further use


def _checks(batch: Context, name: str) -> list[tuple[Check, ...]]:
    found, count = batch.found, batch.geometry.num_patches
    maps = found.maps[name]
    relevance = maps["relevance"]
    volumes, targets = relevance.shape[:2]
    weightings = relevance[0, 0].numel() // count

    def per_map(values: Tensor) -> Tensor:
        """Return one row of patches per volume, target and weighting."""
        return values.reshape(-1, count)

    def worst(values: Tensor, *, low: bool = True) -> list[float]:
        """Return the worst of a volume's maps: the lowest or highest, or one that is no number."""
        rows = values.reshape(volumes, -1)
        rows = torch.where(rows.isnan(), -torch.inf if low else torch.inf, rows)
        return (rows.amin(1) if low else rows.amax(1)).tolist()

    rows = per_map(relevance)
    broken = worst(diagnose.not_finite(rows), low=False)
    positive = diagnose.positive_share(rows).reshape(volumes, targets, weightings)
    flat = worst(diagnose.spread(rows))
    # A map may speak against a class as a whole; one of unknown sign need not speak for anything.
    against = (found.scores < 0).reshape(volumes, targets, 1).expand_as(positive)
    against = against & METHODS[name].signed
    lowest = positive.reshape(volumes, -1).argmin(1, keepdim=True)
    speaks = against.reshape(volumes, -1).gather(1, lowest)[:, 0].tolist()
    least = worst(positive)
    checks: list[tuple[Check, ...]] = [
        (
            diagnose.check_finite(broken[n]),
            diagnose.check_positive(least[n], against=speaks[n]),
            diagnose.check_flat(flat[n]),
        )
        for n in range(volumes)
    ]
    if _in_units_of_the_score(name) and not {"empty map", "removal"} & _made(batch, name):
        sizes = worst(diagnose.size_in_score(rows.reshape(volumes, targets, -1), found.scores))
        checks = [(*c, diagnose.check_empty(v)) for c, v in zip(checks, sizes, strict=True)]
    if (
        METHODS[name].source in AT_TOKENS
        and found.beside is not None
        and bool(found.beside.isfinite().all())
    ):
        beside = found.beside.tolist()
        checks = [(*c, diagnose.check_beside(v)) for c, v in zip(checks, beside, strict=True)]
    # Where the score comes from, a map over shifts is told by the frozen gates that it is made of.
    maps = found.behind.get(name, maps)
    if "prefix" in maps and "bias" in maps:
        prefix, bias = maps["prefix"].flatten(), maps["bias"].flatten()
        shares = worst(diagnose.patch_share(per_map(maps["relevance"]), prefix, bias))
        checks = [(*c, diagnose.check_patches(v)) for c, v in zip(checks, shares, strict=True)]
    if "position" in maps and "content" in maps:
        content, position = per_map(maps["content"]), per_map(maps["position"])
        shares = worst(diagnose.position_share(content, position), low=False)
        checks = [(*c, diagnose.check_position(v)) for c, v in zip(checks, shares, strict=True)]
        bias = per_map(maps["embedding_bias"])
        shares = worst(diagnose.voxel_share(content, bias, position))
        checks = [(*c, diagnose.check_voxels(v)) for c, v in zip(checks, shares, strict=True)]
        voxels = batch.patch_sums(maps["voxel_relevance"].flatten(0, 1))
        missed = diagnose.voxel_disagreement(content, per_map(voxels) + bias)
        apart = worst(missed, low=False)
        checks = [(*c, diagnose.check_voxels_agree(v)) for c, v in zip(checks, apart, strict=True)]
    return checks


def _in_units_of_the_score(name: str) -> bool:
    """Tell whether a patch's value can be compared with the score; token Grad-CAM's cannot."""
    return not METHODS[name].units and name != "token_gradcam"


def _made(batch: Context, name: str) -> set[str]:
    return {check.name for check in batch.found.checks[name][0]}
