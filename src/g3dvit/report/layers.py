"""The maps of the page: class means, differences and single volumes, encoded for the viewer.

Of frozen-gate relevance the *content* is shown as the brain map: what the volume itself
contributed. The position's share does not depend on the volume and stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np

from g3dvit.aggregate import GroupKey
from g3dvit.maps import RelevanceMap, content_of
from g3dvit.report.contrasts import contrasts_of, difference
from g3dvit.report.display import shown_mean
from g3dvit.report.encode import encode_relevance
from g3dvit.report.parts import Part, means_of_part
from g3dvit.report.words import stamp_of, units_on
from g3dvit.run_result import CheckLike, ClassMean, MapSet, RunResult


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a map is made of, for the planes beside the viewer."""

    title: str
    sentence: str
    names: tuple[tuple[str, str, str], ...]  # companion (or "" for the map), title, what it is
    signs: tuple[str, ...]


_PRODUCT = _Parts(
    "The two halves of this map",
    "Map = patch weight × token sum.",
    (
        ("", "Map", ""),
        ("patch_weights", "Patch weight", "how much each patch matters"),
        ("token_sum", "Token sum", "what was seen there: the sum over features"),
    ),
    ("=", "×"),
)
_SUM = _Parts(
    "Content and position",
    "The relevance of a patch = content + position. The viewer shows content. Position is what "
    "the patch's place contributes, whatever the volume shows there.",
    (
        ("total", "Relevance", "of the patch"),
        ("", "Content", "what the volume shows there"),
        ("position", "Position", "where the patch is"),
    ),
    ("=", "+"),
)


def layers_of(
    result: RunResult, stamps: list[str], budget: int, parts: Sequence[Part] = ()
) -> list[dict[str, Any]]:
    """Return every map of the page.

    Class means and differences of a method share one colour range; where some are on voxels and
    others on patches of a method that is finer than a patch, these have one each: their units
    are of a voxel and of a patch.

    Parameters
    ----------
    result
        What was explained.
    stamps
        Gets the words of failed checks; layers point into it.
    budget
        Characters for voxel maps of class means; past it patches are shown.
    parts
        Runs and subjects that get means of their own.
    """
    layers: list[dict[str, Any]] = []
    for number, maps in enumerate(result.maps):
        means = _mean_layers(result, number, maps, stamps, budget)
        budget -= sum(len(layer["nifti"]) for layer in means if layer["on"] == "voxels")
        layers += means
        layers += _part_layers(result, number, maps, stamps, parts)
        layers += _volume_layers(result, number, maps, stamps)
    return layers


def _mean_layers(
    result: RunResult, number: int, maps: MapSet, stamps: list[str], budget: int
) -> list[dict[str, Any]]:
    """Return class means, their differences, and last the means over errors."""
    drawn: dict[GroupKey, tuple[RelevanceMap, str]] = {}
    layers: dict[GroupKey, dict[str, Any]] = {}
    order = sorted(range(len(maps.class_means)), key=lambda n: _is_error(maps.class_means[n]))
    for at in order:
        mean = maps.class_means[at]
        shown, on = drawn[mean.key] = _class_mean_map(result, maps, mean, budget)
        layer = _mean_layer(shown, on, number, maps, mean.patch)
        layer |= {"kind": "class mean", "title": f"Mean: {mean.title}", "mean": at}
        layer |= {"group": None if _is_error(mean) else mean.key.group, "key": str(mean.key)}
        layer["target"] = mean.target or result.target
        layer["frame_stamps"] = [_stamp_index(mean.checks, stamps)]
        budget -= len(layer["nifti"]) if on == "voxels" else 0
        layers[mean.key] = layer
    contrasts = []
    for contrast in contrasts_of(result, maps):
        pair = [drawn[mean.key] for mean in (contrast.first, contrast.second)]
        if pair[0][1] != pair[1][1]:
            continue
        shown, on = difference(pair[0][0], pair[1][0]), pair[0][1]
        patch = difference(contrast.first.patch, contrast.second.patch)
        layer = _mean_layer(shown, on, number, maps, patch)
        layer |= {"kind": "contrast", "group": None, "target": result.target}
        layer["title"] = f"{contrast.title[0].upper()}{contrast.title[1:]}"
        layer["frame_stamps"] = [_stamp_index(contrast.checks, stamps)]
        contrasts.append(layer)
    right = [layer for key, layer in layers.items() if key.which != "error"]
    wrong = [layer for key, layer in layers.items() if key.which == "error"]
    for on in ("voxels", "patches"):
        same = [x for x in (*right, *contrasts, *wrong) if not maps.fine or x["on"] == on]
        setting = [x["range"] for x in same if not any(x is w for w in wrong)]
        for layer in same:  # errors are few: their noise would set the scale of everything
            layer["shared_range"] = max(setting or [x["range"] for x in same])
    for layer in (*right, *contrasts, *wrong):
        layer["range"] = layer.pop("shared_range")
    return [*right, *contrasts, *wrong]


def _is_error(mean: ClassMean) -> bool:
    return mean.key.which == "error"


def _part_layers(
    result: RunResult, number: int, maps: MapSet, stamps: list[str], parts: Sequence[Part]
) -> list[dict[str, Any]]:
    """Return the means of single runs and subjects, on patches, with one colour range."""
    layers = []
    for at, part in enumerate(parts):
        for mean in means_of_part(result, maps, part):
            shown = content_of(mean.patch)
            layer = _mean_layer(shown, "patches", number, maps, mean.patch)
            layer |= {"kind": "part mean", "group": None, "key": str(mean.key), "part": at}
            layer |= {"title": f"{part.name}: {mean.title}", "parts": None}
            layer["target"] = mean.target or result.target
            layer["frame_stamps"] = [_stamp_index(mean.checks, stamps)]
            layers.append(layer)
    top = max((layer["range"] for layer in layers), default=0.0)
    return [layer | {"range": top} for layer in layers]


def patch_grid_of(result: RunResult) -> dict[str, Any] | None:
    """Return shape and affine of the patches in RAS order; None where there are no maps."""
    found = [v for maps in result.maps for v in maps.volumes]
    found += [mean.patch for maps in result.maps for mean in maps.class_means]
    series = next(iter(found), None)
    if series is None:
        return None
    empty = nib.Nifti1Image(np.zeros(series.grid.shape, np.int8), series.grid.affine)
    image = nib.as_closest_canonical(empty)
    return {"shape": [int(n) for n in image.shape], "affine": image.affine.tolist()}


def _volume_layers(
    result: RunResult, number: int, maps: MapSet, stamps: list[str]
) -> list[dict[str, Any]]:
    layers, first = [], 0
    runs = zip(result.inputs, maps.volumes, strict=bool(maps.volumes))
    for at, (run, volumes) in enumerate(runs):
        count = volumes.n_volumes
        own: Sequence[Sequence[CheckLike]] = maps.checks[first : first + count] or [()] * count
        shown = content_of(volumes)
        layers.append(
            {
                "method": number,
                "signed": maps.signed,
                **encode_relevance(shown.data, shown.grid),
                "kind": "volumes",
                "group": None,
                "target": result.volume_target,
                "on": "patches",
                "units": units_on(maps, "patches"),
                "what": "content" if "content" in volumes.companions else "",
                "title": f"Every volume: {run.name} ({count})",
                "range": _top(shown),
                "first_row": first,
                "run": at,
                "t_r": volumes.t_r,
                "frame_stamps": [_stamp_index(checks, stamps) for checks in own],
                "parts": _parts_of(volumes),
            }
        )
        first += count
    return layers


def _class_mean_map(
    result: RunResult, maps: MapSet, mean: ClassMean, budget: int
) -> tuple[RelevanceMap, str]:
    """Return the voxel map where it says more than the patch map, and there is room for it."""
    if maps.fine:
        if budget > 0:
            return replace(mean.voxel, data=shown_mean(maps, mean, result.display)), "voxels"
        return content_of(mean.patch), "patches"
    shown = content_of(mean.patch)
    if budget <= 0 or any(_is_resampled(mean.voxel, one) for one in (mean.patch, shown)):
        return shown, "patches"
    return mean.voxel, "voxels"


def _is_resampled(voxel: RelevanceMap, patch: RelevanceMap) -> bool:
    """Tell whether a map on voxels says no more than one on patches."""
    resampled = patch.to_grid(voxel.grid).data
    tolerance = 1e-3 * float(np.abs(resampled).max(initial=0.0))
    return np.allclose(resampled, voxel.data, atol=tolerance)


def _mean_layer(
    shown: RelevanceMap, on: str, number: int, maps: MapSet, patch: RelevanceMap
) -> dict[str, Any]:
    return {
        "method": number,
        "signed": maps.signed,
        **encode_relevance(shown.data, shown.grid),
        "on": on,
        "units": units_on(maps, on),
        "range": _top(shown),
        "what": "content" if "content" in patch.companions else "",
        "parts": _parts_of(patch, whole=True),
    }


def _parts_of(volumes: RelevanceMap, *, whole: bool = False) -> dict[str, Any] | None:
    """Return what a map is made of; None for methods that have one part only.

    Parameters
    ----------
    volumes
        The map per patch, with its companions.
    whole
        Hold what the viewer shows too: where it shows voxels, the parts are of patches.
    """
    there = set(volumes.companions)
    if {"patch_weights", "token_sum"} <= there:
        parts = _PRODUCT
    elif {"content", "position"} <= there:
        parts = _SUM
    else:
        return None
    values = {**volumes.companions, "total": volumes.data, "": content_of(volumes).data}
    items = [
        {"title": title, "sentence": sentence}
        | (encode_relevance(values[name], volumes.grid) if name or whole else {"nifti": None})
        for name, title, sentence in parts.names
    ]
    return {
        "title": parts.title,
        "sentence": parts.sentence,
        "signs": list(parts.signs),
        "items": items,
    }


def _top(shown: RelevanceMap) -> float:
    return float(np.abs(shown.data).max(initial=0.0))


def _stamp_index(checks: Sequence[CheckLike], stamps: list[str]) -> int:
    """Return the place of a stamp in the list, -1 for none; most volumes share their words."""
    stamp = stamp_of(checks)
    if stamp is None:
        return -1
    if stamp not in stamps:
        stamps.append(stamp)
    return stamps.index(stamp)
