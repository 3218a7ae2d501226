"""Maps of every method for the volumes of a phantom, all on the voxel grid and smoothed alike.

Maps of patches are interpolated linearly between the patches' centres. Nothing is rectified:
evidence against the class stays negative. Terms: a *row* of the table is one way to make a map,
a method of `g3dvit.methods` with a choice (which weighting, tokens or voxels), or a baseline that
knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from torch import Tensor

from g3dvit.errors import MethodError
from g3dvit.explain import Explainer, Explanation
from g3dvit.methods.shift_averaged import ShiftInputs, choose_shifts, shift_averaged
from g3dvit.phantoms import PhantomVolumes

#: Every row, in the order of the table.
ROWS: dict[str, str] = {
    "random": "random values",
    "smoothed_random": "random values, smoothed over half a patch",
    "input": "magnitude of the input",
    "edges": "gradient magnitude of the input",
    "token_gradcam": "token Grad-CAM, mean weights (the seed project's map)",
    "token_gradcam_max": "token Grad-CAM, max weights",
    "token_gradcam_abs": "token Grad-CAM, abs weights",
    "token_gradcam_relu": "token Grad-CAM, relu weights",
    "hirescam": "HiResCAM at the last normalisation",
    "gradcam": "Grad-CAM (weights per feature)",
    "layercam": "LayerCAM on tokens",
    "hirescam_blocks": "HiResCAM summed over blocks",
    "frozen_gate_content": "frozen gates, content per patch",
    "frozen_gate": "frozen gates, content and position per patch",
    "frozen_gate_voxels": "frozen gates, per voxel",
    "shift_averaged": "shift-averaged, 27 shifts",
}
BASELINES = ("random", "smoothed_random", "input", "edges")
SEED_ROW = "token_gradcam"


@dataclass(frozen=True, slots=True)
class MapSettings:
    """How maps are made for comparison.

    Parameters
    ----------
    rows
        Which.
    smoothing_vox
        Standard deviation of the Gaussian that every map gets, in voxels.
    shifts
        Number of shifts of the shift-averaged map.
    batch_size
        Volumes at a time.
    """

    rows: tuple[str, ...] = tuple(ROWS)
    smoothing_vox: float = 1.2
    shifts: int = 27
    batch_size: int = 20

    def __post_init__(self) -> None:
        for row in self.rows:
            if row not in ROWS:
                raise MethodError(f"there is no row {row!r}; choose from {', '.join(ROWS)}")


@dataclass(frozen=True, slots=True, eq=False)
class RowMaps:
    """The maps of one row.

    Parameters
    ----------
    maps : (n, i, j, k)
        Smoothed, signed, float32.
    seconds
        Per volume; methods that share passes each count them.
    kept
        Shifts that did not change the decision, mean over volumes; None for other rows.
    """

    maps: NDArray[np.float32] = field(repr=False)
    seconds: float
    kept: float | None = None


def make_maps(
    explainer: Explainer, drawn: PhantomVolumes, settings: MapSettings, *, seed: int = 0
) -> dict[str, RowMaps]:
    """Return the maps of every row for the true class of every volume.

    Parameters
    ----------
    explainer
        Of the model.
    drawn
        The volumes.
    settings
        Which rows and how.
    seed
        Of the random rows.
    """
    makers: dict[str, Callable[[], tuple[NDArray[np.float32], float | None]]] = {}
    rng = np.random.default_rng([seed, 7])
    edge = float(np.mean(explainer.geometry.patch_size))
    shape = drawn.volumes.shape
    random = rng.standard_normal(shape).astype(np.float32)
    makers["random"] = lambda: (random, None)
    makers["smoothed_random"] = lambda: (_smooth(random, edge / 2), None)
    makers["input"] = lambda: (np.abs(drawn.volumes), None)
    makers["edges"] = lambda: (
        np.stack([gaussian_gradient_magnitude(v, 1.0) for v in drawn.volumes]),
        None,
    )
    for row in ROWS:
        if row not in makers:
            makers[row] = lambda row=row: _of_model(row, explainer, drawn, settings)  # type: ignore[misc]
    found = {}
    for row in settings.rows:
        began = time.perf_counter()
        maps, kept = makers[row]()
        seconds = (time.perf_counter() - began) / len(drawn)
        found[row] = RowMaps(_smooth(maps, settings.smoothing_vox), seconds, kept)
    return found


def _of_model(
    row: str, explainer: Explainer, drawn: PhantomVolumes, settings: MapSettings
) -> tuple[NDArray[np.float32], float | None]:
    x = torch.from_numpy(drawn.volumes)[:, None]
    labels = drawn.labels.tolist()
    if row == "shift_averaged":
        parts = [
            _shifted(explainer, x[s], labels[s], settings.shifts)
            for s in _batches(len(x), settings.batch_size)
        ]
        return np.concatenate([maps for maps, _ in parts]), float(
            np.concatenate([kept for _, kept in parts]).mean()
        )
    method = row.removesuffix("_voxels").removesuffix("_content")
    weighting = "mean"
    if method.startswith("token_gradcam_"):
        method, weighting = "token_gradcam", method.removeprefix("token_gradcam_")
    result = explainer.explain(
        x,
        method,
        target="label",
        labels=labels,
        score="log_odds",
        weighting=weighting,
        batch_size=settings.batch_size,
    )
    if row == "frozen_gate_voxels":
        return _voxels(result), None
    tokens = result.content if row == "frozen_gate_content" else result.relevance
    assert tokens is not None  # frozen gates always give the content
    return upsample(tokens, drawn.mask.shape), None


def _voxels(result: Explanation) -> NDArray[np.float32]:
    assert result.voxel_relevance is not None  # frozen gates always give voxels
    return np.asarray(result.voxel_relevance.numpy(), dtype=np.float32)


def _shifted(
    explainer: Explainer, x: Tensor, labels: Sequence[int], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    def explain(moved: Tensor) -> ShiftInputs:
        result = explainer.explain(
            moved,
            "frozen_gate",
            target="label",
            labels=labels,
            score="log_odds",
            batch_size=len(moved),
        )
        assert result.voxel_relevance is not None  # frozen gates always give voxels
        return ShiftInputs(result.logits.argmax(1), result.relevance, result.voxel_relevance)

    geometry = explainer.geometry
    axes = [axis + 1 for axis in geometry.spatial_axes]
    found = shift_averaged(x, explain, choose_shifts(count, geometry.patch_size), axes)
    return np.asarray(found.voxels.numpy(), dtype=np.float32), found.kept.numpy()


def _batches(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def upsample(tokens: Tensor, shape: Sequence[int]) -> NDArray[np.float32]:
    """Interpolate values at patch centres linearly to voxels, (n, gi, gj, gk) to (n, i, j, k)."""
    fine = torch.nn.functional.interpolate(
        tokens[:, None].float(), size=tuple(shape), mode="trilinear", align_corners=False
    )
    return np.asarray(fine[:, 0].numpy(), dtype=np.float32)


def _smooth(maps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    if sigma == 0:
        return np.asarray(maps, dtype=np.float32)
    return np.stack([gaussian_filter(one, sigma, mode="constant") for one in maps]).astype(
        np.float32
    )
