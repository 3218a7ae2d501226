"""The picture of ``g3dvit check``: what a model really sees, with left and right.

Three orthogonal cuts through one prepared volume, in world coordinates (mm), left on the left,
beside the distribution of its values. Drawn by the affine, so that a mirrored or rotated array
can be seen as such. The user's matplotlib backend and open figures are left alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import OutputError
from g3dvit.grids import ImageGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Per cut: the axis cut across, its letter, the axes drawn to the right and up, their four ends.
_CUTS = (
    (0, "x", (1, 2), "PAIS"),
    (1, "y", (0, 2), "LRIS"),
    (2, "z", (0, 1), "LRPA"),
)


def check_figure(
    data: NDArray[np.float32],
    grid: ImageGrid,
    *,
    title: str,
    sentences: Sequence[str] = (),
    cut_coords: Sequence[float] | None = None,
) -> Figure:
    """Draw a prepared volume as the model gets it.

    Parameters
    ----------
    data : (i, j, k)
        The values.
    grid
        Where they lie.
    title
        One line above.
    sentences
        What to say below.
    cut_coords : (3,)
        Where to cut, in mm; the middle of the grid if None. An oblique grid is cut along its own
        nearest axes.
    """
    from matplotlib.figure import Figure

    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(data, np.float32), grid.affine))
    canonical = ImageGrid(tuple(image.shape), image.affine)
    values = np.asarray(image.dataobj, np.float32)
    middle = (np.asarray(canonical.shape) - 1) / 2
    where = middle if cut_coords is None else canonical.world2vox(cut_coords)
    cut = np.clip(np.rint(where).astype(int), 0, np.asarray(canonical.shape) - 1)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.1])
    for axis, (across, letter, drawn, ends) in zip(axes, _CUTS, strict=False):
        plane = np.take(values, cut[across], axis=across)
        _draw_cut(axis, plane, canonical, cut, drawn, (float(low), float(high)))
        at = canonical.vox2world(cut)[across]
        axis.set_title(f"{letter} = {at:.0f} mm", fontsize=10)
        _mark_ends(axis, ends)
    axes[3].hist(finite, bins=80, color="0.35")
    axes[3].set_yscale("log")
    axes[3].set_title("values the model gets", fontsize=10)
    axes[3].set_xlabel("value")
    axes[3].set_ylabel("voxels")
    text = "\n".join(textwrap.fill(sentence, 165) for sentence in sentences)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5)
    return figure


def _draw_cut(
    axis: Axes,
    plane: NDArray[np.float32],
    grid: ImageGrid,
    cut: NDArray[np.int64],
    drawn: tuple[int, int],
    limits: tuple[float, float],
) -> None:
    """Draw one plane with mm along both axes; half a voxel lies around the outer centres."""
    extent = []
    for direction in drawn:
        first, last = cut.astype(float), cut.astype(float)
        first[direction], last[direction] = -0.5, grid.shape[direction] - 0.5
        extent += [grid.vox2world(first)[direction], grid.vox2world(last)[direction]]
    axis.imshow(
        plane.T,
        origin="lower",
        extent=(extent[0], extent[1], extent[2], extent[3]),
        cmap="gray",
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axis.tick_params(labelsize=7)


def _mark_ends(axis: Axes, ends: str) -> None:
    places = (
        (0.02, 0.5, "left"),
        (0.98, 0.5, "right"),
        (0.5, 0.02, "center"),
        (0.5, 0.98, "center"),
    )
    heights = ("center", "center", "bottom", "top")
    for (x, y, side), height, letter in zip(places, heights, ends, strict=True):
        axis.text(
            x, y, letter, transform=axis.transAxes, ha=side, va=height, fontsize=13,
            fontweight="bold", color="#d95f02",
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


def save_figure(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Write a figure; it appears whole or not at all.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; choose another name or pass --overwrite")
    partial = path.with_name(f".{path.stem}.part{path.suffix or '.png'}")
    try:
        figure.savefig(partial, dpi=130)
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
