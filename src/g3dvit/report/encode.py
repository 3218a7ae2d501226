"""Maps as text for the page: int8 NIfTI beside a scale, gzip, base64.

127 steps on either side of zero suffice for looking; the page says so, and the files beside it
hold the exact values. Every image is brought to the nearest RAS order first (axes swapped and
flipped, nothing resampled), so that the page's own code can take i for right, j for front, k
for up.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from g3dvit.grids import ImageGrid

_MOST_BACKGROUND_VOXELS = 2_500_000


def encode_relevance(values: NDArray[np.float32], grid: ImageGrid) -> dict[str, Any]:
    """Return signed values as int8 with a scale.

    Parameters
    ----------
    values : (i, j, k) or (i, j, k, t)
        Relevance; what is not finite becomes 0.
    grid
        Where the values lie.

    Returns
    -------
    dict
        ``nifti`` (base64 of a gzipped NIfTI in steps), ``slope`` (value of one step), ``shape``,
        ``affine`` (of the RAS-ordered image), ``frames``.
    """
    finite = np.nan_to_num(np.asarray(values, dtype=np.float32), posinf=0, neginf=0)
    top = float(np.abs(finite).max(initial=0.0))
    slope = top / 127 if top > 0 else 1.0
    steps = np.round(finite / slope).astype(np.int8)
    image = nib.as_closest_canonical(nib.Nifti1Image(steps, grid.affine))
    image.header.set_slope_inter(1, 0)  # the viewer works in steps: its shader drops 1e-8
    image.header.set_xyzt_units("mm")
    return {
        "nifti": _packed(image),
        "slope": slope,
        "shape": [int(n) for n in image.shape[:3]],
        "affine": image.affine.tolist(),
        "frames": 1 if values.ndim == 3 else int(values.shape[3]),
    }


def encode_background(values: NDArray[np.float32], grid: ImageGrid) -> dict[str, Any]:
    """Return an anatomy as uint8, black to white over its 0.5 to 99.5 percentiles.

    Very fine images are thinned by whole steps, to keep the page small.
    """
    data, affine = np.asarray(values, dtype=np.float32), grid.affine
    step = 1
    while data[::step, ::step, ::step].size > _MOST_BACKGROUND_VOXELS:
        step += 1
    data = np.nan_to_num(data[::step, ::step, ::step])
    filled = data[data != 0]
    low, high = np.percentile(filled, [0.5, 99.5]) if filled.size else (0.0, 1.0)
    low = min(low, 0.3 * high) if low > 0 else low  # dark tissue is not the empty background
    shades = np.clip((data - low) / max(high - low, 1e-12), 0, 1) * 254 + 1
    grey = np.where(data == 0, 0, shades).astype(np.uint8)
    thinned = affine @ np.diag([step, step, step, 1.0])
    image = nib.as_closest_canonical(nib.Nifti1Image(grey, thinned))
    image.header.set_xyzt_units("mm")
    shape = [int(n) for n in image.shape[:3]]
    size_mm = [n * float(edge) for n, edge in zip(shape, image.header.get_zooms(), strict=True)]
    about = {"shape": shape, "size_mm": size_mm, "affine": image.affine.tolist()}
    return {"nifti": _packed(image), **about}


def encode_labels(labels: NDArray[np.integer[Any]], grid: ImageGrid) -> dict[str, Any]:
    """Return region indices as a gzipped NIfTI of int32, with its RAS-ordered grid."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(labels, np.int32), grid.affine))
    return {
        "nifti": _packed(image),
        "shape": [int(n) for n in image.shape[:3]],
        "affine": image.affine.tolist(),
    }


def _packed(image: nib.Nifti1Image) -> str:
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode("ascii")
