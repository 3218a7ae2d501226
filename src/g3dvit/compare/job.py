"""Maps against outside evidence: from files to numbers, and tables of where they differ.

The reference is averaged over the patches of the map: the coarser of the two decides, nothing is
interpolated up. Places are compared by the affines.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.compare.agreement import (
    SHARES,
    Agreement,
    Signs,
    agreement,
    highest,
    with_signs,
)
from g3dvit.errors import GridError, ImageError, InputError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.nifti import read_nifti
from g3dvit.regions import RegionWeights, coarse_blocks, region_weights
from g3dvit.resampling import average_array
from g3dvit.shown import Parcellation
from g3dvit.sidecars import space_entity, stem

#: A mirrored reference that agrees by this much more says that left and right may be swapped.
_SUSPICIOUS = 0.2
_MOST_PLACES = 10
#: What the columns of `disagreements` mean.
PLACE_COLUMNS = {
    "reference": "With what the map is compared",
    "where": "map only: among the highest of the map, not of the reference; and the other way",
    "x_mm": "World coordinate (RAS+) of the patch's centre",
    "y_mm": "World coordinate (RAS+) of the patch's centre",
    "z_mm": "World coordinate (RAS+) of the patch's centre",
    "map": "Value of the map, in its units",
    "reference_value": "Mean of the reference over the patch, in its units",
    "map_rank": "Place of the map's value among all compared patches; 1 is the highest",
    "reference_rank": "Place of the reference's value",
    "region": "Region that holds most of the patch",
}


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How maps are compared.

    Parameters
    ----------
    signs
        ``"signed"``, ``"positive"`` or ``"absolute"``, of both maps.
    shares
        Of places that count as high.
    n_surrogates, seed
        Random maps for p-values.
    """

    signs: Signs = "signed"
    shares: tuple[float, ...] = SHARES
    n_surrogates: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A map and a reference at the same places.

    Parameters
    ----------
    name, reference_name
        For tables.
    relevance
        The map, 3D, on the grid that was compared.
    reference : (i, j, k)
        Mean of the reference over each voxel of that grid; NaN where it has none.
    places : (i, j, k)
        Which voxels were compared.
    found
        The numbers.
    mirrored
        Spearman's correlation with the reference mirrored left to right.
    warnings
        Sentences that a reader must see.
    options
        How it was compared.
    """

    name: str
    reference_name: str
    relevance: RelevanceMap = field(repr=False)
    reference: NDArray[np.float64] = field(repr=False)
    places: NDArray[np.bool_] = field(repr=False)
    found: Agreement
    mirrored: float
    warnings: tuple[str, ...]
    options: CompareOptions

    @property
    def values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map and reference at the compared places, with the signs that were compared."""
        one = np.asarray(self.relevance.data, dtype=np.float64)[self.places]
        return (
            with_signs(one, self.options.signs),
            with_signs(self.reference[self.places], self.options.signs),
        )


def load_reference(path: str | Path) -> tuple[NDArray[np.float64], ImageGrid]:
    """Return a 3D image and where it lies; values that are no numbers become 0.

    Raises
    ------
    ImageError
        If it is no 3D image, or has the same value everywhere.
    """
    image = read_nifti(Path(path))
    values = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float64), posinf=0, neginf=0)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or np.ptp(values) == 0:
        raise ImageError(
            f"{path} is no reference: it is one 3D image with different values (a z map, a "
            f"meta-analysis, another map); this has shape {values.shape}"
        )
    i, j, k = values.shape
    return values, ImageGrid((i, j, k), image.affine)


def compare_maps(
    relevance: RelevanceMap,
    reference: NDArray[np.float64],
    grid: ImageGrid,
    *,
    names: tuple[str, str] = ("map", "reference"),
    mask: tuple[NDArray[np.bool_], ImageGrid] | None = None,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare a map with a reference, patch by patch.

    Parameters
    ----------
    relevance
        A 3D map; of a 4D map the mean over volumes.
    reference : (i, j, k)
        Any map in the same space.
    grid
        Where the reference lies.
    names
        Of map and reference, for tables.
    mask : (i, j, k) and its grid
        Where to compare; by default where both are not 0.
    options
        How.

    Returns
    -------
    Comparison

    Raises
    ------
    GridError
        If the two have no 20 places in common.
    InputError
        If one of them is the same everywhere.
    """
    options = options or CompareOptions()
    one = relevance
    if one.data.ndim == 4:
        one = replace(one, data=one.data.mean(axis=3), companions={}, t_r=None)
    one = _as_coarse_as_patches(one)
    brought = average_array(reference, grid, one.grid)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    swapped = average_array(reference, ImageGrid(grid.shape, mirror @ grid.affine), one.grid)
    places = np.isfinite(brought) & (one.data != 0)
    if mask is None:
        places &= brought != 0
    else:
        inside = average_array(mask[0].astype(np.float64), mask[1], one.grid)
        places &= np.nan_to_num(inside) >= 0.5
    if places.sum() < 20:
        raise GridError(
            f"{names[0]} and {names[1]} have {int(places.sum())} places in common, at least 20 are "
            "needed; are they in the same space?"
        )
    points = one.grid.vox2world(np.argwhere(places))
    values = with_signs(np.asarray(one.data, dtype=np.float64)[places], options.signs)
    others = with_signs(brought[places], options.signs)
    found = agreement(
        values,
        others,
        points,
        shares=options.shares,
        n_surrogates=options.n_surrogates,
        seed=options.seed,
    )
    mirrored = float("nan")
    both = places & np.isfinite(swapped)
    if both.sum() >= 20 and np.ptp(swapped[both]):
        mirrored = agreement(
            with_signs(np.asarray(one.data, dtype=np.float64)[both], options.signs),
            with_signs(swapped[both], options.signs),
            one.grid.vox2world(np.argwhere(both)),
            shares=options.shares,
            n_surrogates=0,
        ).spearman
    warnings = []
    if mirrored > found.spearman + _SUSPICIOUS:
        warnings.append(
            f"{names[1]} agrees better when mirrored ({mirrored:.2f}, as it is "
            f"{found.spearman:.2f}): left and right may be swapped in one of the two"
        )
    return Comparison(*names, one, brought, places, found, mirrored, tuple(warnings), options)


def compare_files(
    relevance: RelevanceMap,
    reference: str | Path,
    *,
    name: str,
    mask: tuple[NDArray[np.bool_], ImageGrid] | None = None,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare a map with a file; spaces that both name and that differ draw a warning."""
    path = Path(reference)
    values, grid = load_reference(path)
    compared = compare_maps(
        relevance, values, grid, names=(name, stem(path)), mask=mask, options=options
    )
    own, other = relevance.metadata.get("space"), space_entity(path)
    if not own or not other or own == other:
        return compared
    word = f"the map is in {own}, {path.name} in {other}: nothing is warped"
    return replace(compared, warnings=(*compared.warnings, word))


def disagreements(
    comparison: Comparison, *, atlas: Parcellation | None = None, share: float = 0.1
) -> pd.DataFrame:
    """Return the patches that are high in one of the two only, both ways.

    Parameters
    ----------
    comparison
        What was compared.
    atlas
        Names regions where given.
    share
        Of places that count as high.

    Returns
    -------
    DataFrame
        `PLACE_COLUMNS`; at most 10 patches each way, highest first.
    """
    if not 0 < share < 1:
        raise InputError(f"a share is above 0 and below 1, was given {share}")
    values, others = comparison.values
    top, other = highest(values, share), highest(others, share)
    ranks = [np.argsort(np.argsort(-v, kind="stable")) + 1 for v in (values, others)]
    at = np.argwhere(comparison.places)
    points = comparison.relevance.grid.vox2world(at)
    weights = None if atlas is None else region_weights(atlas, comparison.relevance.grid)
    raw = np.asarray(comparison.relevance.data, dtype=np.float64)[comparison.places]
    rows = []
    for where, chosen, by in (
        ("map only", top & ~other, values),
        ("reference only", other & ~top, others),
    ):
        order = np.flatnonzero(chosen)
        for n in order[np.argsort(-by[order], kind="stable")][:_MOST_PLACES]:
            place = dict(zip(("x_mm", "y_mm", "z_mm"), np.round(points[n], 1), strict=True))
            rows.append(
                {
                    "reference": comparison.reference_name,
                    "where": where,
                    **place,
                    "map": raw[n],
                    "reference_value": comparison.reference[tuple(at[n])],
                    "map_rank": int(ranks[0][n]),
                    "reference_rank": int(ranks[1][n]),
                    "region": _region(weights, comparison.relevance.grid, at[n]),
                }
            )
    return pd.DataFrame(rows, columns=list(PLACE_COLUMNS))


def _region(weights: RegionWeights | None, grid: ImageGrid, at: NDArray[np.intp]) -> str:
    if weights is None:
        return "n/a"
    voxel = int(np.ravel_multi_index((at[0], at[1], at[2]), grid.shape))
    held = np.asarray(weights.inside_mm3[:, voxel].todense()).ravel()
    return weights.names[int(held.argmax())] if held.any() else "outside the atlas"


def _as_coarse_as_patches(one: RelevanceMap) -> RelevanceMap:
    """Return a map on voxels as a map on blocks: of its patches, or few enough for surrogates."""
    sizes = np.asarray(one.resolution_mm) / one.grid.voxel_sizes
    edges = np.maximum(1, np.rint(sizes)).astype(int)
    blocks = coarse_blocks(one.grid, np.asarray(one.data) != 0)
    # The edge that brings the places below the limit of surrogates.
    edges = np.maximum(edges, blocks.edge)
    if (edges == 1).all():
        return one
    shape = tuple(int(np.ceil(n / e)) for n, e in zip(one.grid.shape, edges, strict=True))
    affine = one.grid.affine @ np.diag([*edges.astype(float), 1.0])
    affine[:3, 3] = one.grid.vox2world((edges - 1) / 2)
    coarse = ImageGrid((shape[0], shape[1], shape[2]), affine)
    values = np.nan_to_num(average_array(one.data, one.grid, coarse))
    return replace(one, data=values.astype(np.float32), grid=coarse, companions={})
