"""The cortex for the page: where its vertices lie, so that the page can project any map onto it.

The page projects (``surfacemath.js``), not this module: every map of the page, each single volume
too, is on the surface then, with the values that its slices show. What travels is the fsaverage5
template that nilearn ships: pial and white surface, between which values are read, and the
inflated one. It is in MNI305 space; its difference from MNI152, a few mm, is far below a patch.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from g3dvit.report.words import has_template_space, millimetres
from g3dvit.run_result import RunResult

#: From the pial (0) to the white surface (1); a vertex shows the mean of these places.
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_HEMISPHERES = ("left", "right")
_SHAPES = ("pial", "white", "inflated")
_STEP_MM = 0.01  # int16 steps reach 327 mm


def surface_of(result: RunResult, resolution: Sequence[float]) -> dict[str, Any] | None:
    """Return the cortex of a run in a template's space; None in any other space.

    Parameters
    ----------
    result
        What was explained.
    resolution
        Edges of a patch in mm.

    Returns
    -------
    dict or None
        ``data`` (base64 of gzipped numbers: triangles as uint16, alike on both sides; then for
        each hemisphere pial, white and inflated coordinates as int16 in steps of ``step_mm``, and
        the depth of folds as int8), ``n_vertices``, ``n_faces``, ``step_mm``, ``depths`` and the
        ``label`` that stands under the picture.
    """
    if not has_template_space(result.space) or not result.maps:
        return None
    return {
        **_template(),
        "label": f"{millimetres(resolution)} patches projected onto fsaverage5; the folds "
        "are the template's",
    }


@lru_cache(maxsize=1)
def _template() -> dict[str, Any]:
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import load_surf_data, load_surf_mesh

    files = fetch_surf_fsaverage("fsaverage5")  # comes with nilearn, nothing is downloaded
    meshes = {
        (side, shape): load_surf_mesh(files[f"{shape.replace('inflated', 'infl')}_{side}"])
        for side in _HEMISPHERES
        for shape in _SHAPES
    }
    faces = meshes["left", "pial"].faces
    parts = [faces.astype("<u2").tobytes()]
    for side in _HEMISPHERES:
        for shape in _SHAPES:
            steps = np.round(meshes[side, shape].coordinates / _STEP_MM)
            parts.append(steps.astype("<i2").tobytes())
        folds = load_surf_data(files[f"sulc_{side}"])
        parts.append(np.clip(np.round(folds * 64), -127, 127).astype(np.int8).tobytes())
    packed = gzip.compress(b"".join(parts), 9, mtime=0)
    return {
        "data": base64.b64encode(packed).decode("ascii"),
        "n_vertices": len(meshes["left", "pial"].coordinates),
        "n_faces": len(faces),
        "step_mm": _STEP_MM,
        "depths": list(DEPTHS),
    }
