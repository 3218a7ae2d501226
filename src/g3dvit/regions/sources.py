"""Maps from files, for tables: refused where nothing tells what they are, or they are not alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from g3dvit.errors import GridError, ImageError, InputError
from g3dvit.maps import RelevanceMap, sidecar_of
from g3dvit.report.words import stamp_in


def load_map(path: Path) -> RelevanceMap:
    """Read a map and refuse what is none: without its JSON nothing tells how large patches are."""
    try:
        one = RelevanceMap.load(path)
        beside = sidecar_of(path)
        told = beside is not None and "effective_resolution_mm" in json.loads(
            beside.read_text(encoding="utf-8")
        ).get("image", {})
        columns = one.metadata.get("volumes")
        targets = columns.get("target", ()) if isinstance(columns, dict) else ()
    except ImageError:
        raise  # of the image, or of what is no JSON: it says so itself
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ImageError(f"the JSON beside {path} is not one that g3dvit wrote: {error}") from error
    if not told:
        raise InputError(
            f"{path} has no JSON of g3dvit beside it, which tells what it is a map of and how "
            "large its patches are; keep the two files together"
        )
    if not np.isfinite(one.data).all():
        raise ImageError(f"{path} holds values that are not finite; such a map has no mean")
    several = dict.fromkeys(map(str, targets))
    if one.n_volumes > 1 and len(several) > 1:
        raise InputError(
            f"the volumes of {path} explain {' and '.join(several)}, whose mean means nothing; "
            "name a class mean, or the folder of the run"
        )
    return one


def check_alike(maps: Sequence[RelevanceMap], names: Sequence[str]) -> None:
    """Refuse maps of different grids, methods, targets, scores or units."""
    first = maps[0]
    for one, name in zip(maps, names, strict=True):
        if not one.grid.matches(first.grid):
            raise GridError(f"{name} is on another grid than {names[0]}; subjects share one grid")
        for key in ("method", "weighting", "companion", "target", "score", "units"):
            if one.metadata.get(key) != first.metadata.get(key):
                raise InputError(
                    f"{name} has the {key} {one.metadata.get(key)!r}, {names[0]} "
                    f"{first.metadata.get(key)!r}; only maps of one method and ONE target are "
                    "averaged"
                )


def mean_over_time(one: RelevanceMap) -> RelevanceMap:
    """Return a 3D map."""
    if one.data.ndim == 3:
        return one
    return replace(one, data=one.data.mean(axis=3), companions={}, t_r=None)


def stamp_of_maps(maps: Sequence[RelevanceMap]) -> str | None:
    """Return what to stamp on numbers of these maps; None where no check of any failed."""
    found = [stamp for one in maps if (stamp := stamp_in(one.metadata))]
    if len(maps) == 1 or not found:
        return found[0] if found else None
    return f"CHECK FAILED in {len(found)} of {len(maps)} maps. {found[0]}"
