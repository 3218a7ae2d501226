"""Regions smaller than a patch, merged with others of their family into regions that are not.

A map cannot tell a region that is smaller than a patch from its neighbours. Several such regions of
one *family* (the nuclei of a thalamus) may together be as large as a patch, and then have a value
that the map can tell. Only small regions are merged, only where they touch, and never left with
right. Families are what the table's column ``parent`` says, else what names say that go from the
general to the special in parts (``Thal_AV_L``, ``Thal_LP_L``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from g3dvit.shown import Parcellation

#: Columns that a table of regions has besides, after ``name``, where regions were merged.
MERGED_COLUMNS = {
    "n_parts": "Regions of the atlas in this row; above 1 where small ones were merged",
    "parts": "Their names, where there is more than one",
}
_SIDES = {"l": "left", "left": "left", "lh": "left", "r": "right", "right": "right", "rh": "right"}
#: What holds for more of a side's regions than this is no family (``ctx-lh-...`` for all).
_LARGEST_FAMILY = 1 / 3
_ONE_SIDED = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """An atlas in which small regions were merged.

    Parameters
    ----------
    atlas
        A merged region has the lowest number of its parts.
    parts
        Of every region of it, the numbers of its parts in the atlas before.
    names
        Of every region of the atlas before.
    """

    atlas: Parcellation
    parts: dict[int, tuple[int, ...]]
    names: dict[int, str]

    def words(self) -> str:
        """Return how many were merged into how many, as a sentence; empty where none was."""
        made = [parts for parts in self.parts.values() if len(parts) > 1]
        if not made:
            return "No regions smaller than a patch make one of a patch together with their family."
        return (
            f"{sum(map(len, made))} regions smaller than a patch were merged with those of their "
            f"family that they touch, into {len(made)}; left and right apart."
        )

    def with_parts(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a table of regions with `MERGED_COLUMNS` after the name."""
        frame = frame.copy()
        parts = [self.parts[int(number)] for number in frame["index"]]
        at = list(frame.columns).index("name") + 1
        frame.insert(at, "n_parts", [len(one) for one in parts])
        named = ["; ".join(self.names[n] for n in one) if len(one) > 1 else "" for one in parts]
        frame.insert(at + 1, "parts", [words or "n/a" for words in named])
        return frame


def merge_small(atlas: Parcellation, patch_mm3: float) -> Merged:
    """Merge regions smaller than a patch with those of their family, where that makes one patch.

    Families go from the most special to the most general: by names without their last part, without
    their last two, and so on. At each step small regions that touch (share faces of voxels)
    become one if together they are at least a patch; what never is stays as it was. Names
    with blanks are phrases, and tell no family; nor does what more than a third of one side's
    names begin with.

    Parameters
    ----------
    atlas
        Regions with names; with `Parcellation.parents` these alone are the families.
    patch_mm3
        Volume of a patch.

    Returns
    -------
    Merged
    """
    numbers = sorted(n for n in atlas.names if n > 0)
    volumes = _volumes(atlas, numbers)
    touching = _touching(atlas.labels, numbers)
    sides = {n: _side(atlas, n) for n in numbers}
    families = _families(atlas, numbers, sides)
    left = {n for n in numbers if 0 < volumes[n] < patch_mm3 * (1 - 1e-9)}
    parts: dict[int, tuple[int, ...]] = {}
    names = dict(atlas.names)
    levels = sorted({len(f) for of_one in families.values() for f in of_one}, reverse=True)
    for level in levels:
        groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for number in sorted(left):
            for family in families[number]:
                if len(family) == level:
                    groups.setdefault((sides[number], family), []).append(number)
        for (side, family), members in groups.items():
            for piece in _pieces(members, touching):
                if len(piece) > 1 and sum(volumes[n] for n in piece) >= patch_mm3 * (1 - 1e-9):
                    parts[piece[0]] = piece
                    names[piece[0]] = _name(family, side, set(names.values()))
                    left -= set(piece)
    gone = {n: piece[0] for piece in parts.values() for n in piece[1:]}
    labels = atlas.labels.copy()
    for number, kept in gone.items():
        labels[atlas.labels == number] = kept
    kept_names = {n: name for n, name in names.items() if n not in gone}
    return Merged(
        Parcellation(atlas.name, labels, atlas.grid, kept_names),
        {n: parts.get(n, (n,)) for n in numbers if n not in gone},
        dict(atlas.names),
    )


def _name(family: Sequence[str], side: str, taken: Iterable[str]) -> str:
    """Return such as ``Thal_*_left``; numbered where the family falls into several pieces."""
    base = "_".join((*family, "*", *([side] if side else [])))
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base} {number}"
    return name


def _families(
    atlas: Parcellation, numbers: Sequence[int], sides: dict[int, str]
) -> dict[int, set[tuple[str, ...]]]:
    """Return the families of every region: beginnings of its name, without side and last part."""
    if atlas.parents:
        return {n: {(atlas.parents[n],)} if atlas.parents.get(n) else set() for n in numbers}
    paths = {n: _path(atlas.names[n]) for n in numbers}
    members: dict[tuple[str, tuple[str, ...]], int] = {}
    for number, path in paths.items():
        for level in range(1, len(path) + 1):
            key = (sides[number], path[:level])
            members[key] = members.get(key, 0) + 1
    on_side = {side: list(sides.values()).count(side) for side in set(sides.values())}
    # The midline has few regions, all of one family at times (the vermis): no share counts.
    most = {side: _LARGEST_FAMILY * n if side else np.inf for side, n in on_side.items()}
    return {
        number: {
            path[:level]
            for level in range(1, len(path))
            if members[sides[number], path[:level]] <= most[sides[number]]
        }
        for number, path in paths.items()
    }


def _path(name: str) -> tuple[str, ...]:
    """Return the parts of a name without that of its side; one part where it is a phrase."""
    if re.search(r"\s", name):
        return (name,)
    parts = [part for part in re.split(r"[_.\-]+", name) if part]
    return tuple(p for p in parts if p.lower() not in _SIDES) or (name,)


def _side(atlas: Parcellation, number: int) -> str:
    """Return left or right, by the name, else by the place; empty for what crosses the middle."""
    for part in re.split(r"[\s_.\-]+", atlas.names[number]):
        if part.lower() in _SIDES:
            return _SIDES[part.lower()]
    at = np.argwhere(atlas.labels == number)
    if not len(at):
        return ""
    right = float((atlas.grid.vox2world(at)[:, 0] > 0).mean())
    return "right" if right >= _ONE_SIDED else "left" if right <= 1 - _ONE_SIDED else ""


def _volumes(atlas: Parcellation, numbers: Sequence[int]) -> dict[int, float]:
    found, counts = np.unique(atlas.labels, return_counts=True)
    of = dict(zip(found.tolist(), counts.tolist(), strict=True))
    return {n: of.get(n, 0) * atlas.grid.voxel_volume_mm3 for n in numbers}


def _touching(labels: NDArray[np.integer], numbers: Sequence[int]) -> set[tuple[int, int]]:
    """Return pairs of regions that share a face of a voxel, lower number first."""
    known = np.array(numbers)
    pairs: set[tuple[int, int]] = set()
    for axis in range(3):
        size = labels.shape[axis]
        a = labels.take(range(size - 1), axis=axis).ravel()
        b = labels.take(range(1, size), axis=axis).ravel()
        differ = (a != b) & np.isin(a, known) & np.isin(b, known)
        both = np.sort(np.stack([a[differ], b[differ]], axis=1), axis=1)
        pairs |= {(int(x), int(y)) for x, y in np.unique(both, axis=0)}
    return pairs


def _pieces(members: Sequence[int], touching: set[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return groups of regions that hang together, numbers ascending."""
    edges = [(i, j) for i, j in combinations(range(len(members)), 2)
             if (members[i], members[j]) in touching]  # fmt: skip
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = sparse.coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(members),) * 2)
    count, piece = connected_components(graph, directed=False)
    return [tuple(m for m, p in zip(members, piece, strict=True) if p == n) for n in range(count)]
