"""A searchlight through nilearn on the folds, in pieces that are kept, on a grid that is payable.

Every sphere gets a linear discriminant with shrinkage (Ledoit and Wolf) on standardised voxels and
is tested on what the fold holds out. Cubes of voxels are averaged first where the time, measured
on some spheres, would be longer than asked: a sphere of 12 mm holds 900 voxels of 2 mm.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.grids import ImageGrid
from g3dvit.train.linear import cube_means
from g3dvit.train.samples import Samples
from g3dvit.train.split import Fold

#: Most values of all volumes at once.
_MOST_VALUES = 2.5e8
_TRIED = 16
PIECE = 400


@dataclass(frozen=True, slots=True, eq=False)
class Spheres:
    """Volumes on the grid of cubes, and where spheres are put.

    Parameters
    ----------
    values : (n, ci, cj, ck)
        Mean of each cube in each volume.
    labels : (n,)
        Class of each.
    grid
        Of the cubes.
    inside : (ci, cj, ck)
        Cubes that hold brain in half of their voxels or more.
    edge
        Of a cube, in voxels.
    radius_mm
        Of a sphere.
    """

    values: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.intp] = field(repr=False)
    grid: ImageGrid
    inside: NDArray[np.bool_] = field(repr=False)
    edge: int
    radius_mm: float

    @property
    def centres(self) -> NDArray[np.intp]:
        """Flat indices of the cubes around which spheres are put."""
        return np.flatnonzero(self.inside)


def cube_grid(grid: ImageGrid, edge: int) -> ImageGrid:
    """Return the grid of cubes of voxels; the last ones may reach over the border."""
    i, j, k = (-(-n // edge) for n in grid.shape)
    step = np.diag([edge, edge, edge, 1.0])
    step[:3, 3] = (edge - 1) / 2
    return ImageGrid((i, j, k), grid.affine @ step)


def make_spheres(samples: Samples, edge: int, radius_mm: float) -> Spheres:
    """Average cubes of all volumes.

    Parameters
    ----------
    samples
        The volumes.
    edge
        Voxels per cube edge.
    radius_mm
        Of the spheres.
    """
    grid = cube_grid(samples.grid, edge)
    share = cube_means(samples.brain[None].astype(np.float32), edge)[0].reshape(grid.shape)
    values = np.empty((len(samples), *grid.shape), np.float32)
    buffer = np.empty((16, *samples.grid.shape), np.float32)
    for start in range(0, len(samples), 16):
        which = np.arange(start, min(start + 16, len(samples)))
        part = cube_means(samples.fill(which, buffer), edge)
        values[which] = part.reshape(len(which), *grid.shape)
    return Spheres(values, samples.label, grid, share >= 0.5, edge, radius_mm)


def choose_edge(
    samples: Samples,
    folds: Sequence[Fold],
    radius_mm: float,
    minutes: float,
    measure: Callable[[Spheres, Fold, NDArray[np.intp]], NDArray[np.float64]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, float]:
    """Return the smallest cube edge with which the searchlight is payable.

    Parameters
    ----------
    samples, folds
        What is computed.
    radius_mm
        Of the spheres; cubes are at most two thirds of it, so that a sphere holds 19.
    minutes
        How long all of it may take.
    measure, clock
        What computes spheres and what tells the time in s; for tests.

    Returns
    -------
    edge, minutes
        In voxels, and the estimate from some spheres of the first fold.
    """
    run = measure or sphere_accuracies
    largest = max(1, int(radius_mm / (1.5 * max(samples.grid.voxel_sizes))))
    chosen = (1, float("nan"))
    for edge in range(1, largest + 1):
        cubes = np.prod([-(-n // edge) for n in samples.grid.shape])
        if len(samples) * cubes > _MOST_VALUES and edge < largest:
            continue
        spheres = make_spheres(samples, edge, radius_mm)
        centres = spheres.centres
        if not len(centres):
            continue
        tried = np.sort(
            np.random.default_rng(0).choice(centres, min(_TRIED, len(centres)), replace=False)
        )
        run(spheres, folds[0], tried[:1])  # what is slow only once
        before = clock()
        run(spheres, folds[0], tried[:1])
        once = clock() - before
        before = clock()
        run(spheres, folds[0], tried)
        each = max(0.0, clock() - before - once) / max(1, len(tried) - 1)
        pieces = -(-len(centres) // PIECE)
        chosen = (edge, len(folds) * (pieces * once + len(centres) * each) / 60)
        if chosen[1] <= minutes:
            break
    return chosen


def sphere_accuracies(
    spheres: Spheres, fold: Fold, centres: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return balanced accuracy on a fold's test of spheres around some cubes, (centres,).

    Parameters
    ----------
    spheres
        The volumes.
    fold
        Which train and which test.
    centres
        Flat indices of cubes, ascending.
    """
    import nibabel as nib
    from nilearn.decoding import SearchLight

    here = np.zeros(spheres.grid.shape, np.uint8)
    here.reshape(-1)[centres] = 1
    affine = spheres.grid.affine
    used = np.concatenate([fold.train, fold.test])
    # Only the fold's volumes are handed over, so that nothing of the gap can get in.
    image = nib.Nifti1Image(np.moveaxis(spheres.values[used], 0, -1), affine)
    rows = np.arange(len(used))
    light = SearchLight(
        nib.Nifti1Image(spheres.inside.astype(np.uint8), affine),
        process_mask_img=nib.Nifti1Image(here, affine),
        radius=spheres.radius_mm,
        estimator=estimator(len(np.unique(spheres.labels))),
        scoring="balanced_accuracy",
        cv=[(rows[: len(fold.train)], rows[len(fold.train) :])],
        n_jobs=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of types and single precision
        light.fit(image, spheres.labels[used])
    return np.asarray(light.scores_.reshape(-1)[centres], dtype=np.float64)


def estimator(n_classes: int) -> Any:
    """Return the classifier of a sphere; classes count alike."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(),
        LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto", priors=[1 / n_classes] * n_classes
        ),
    )
