"""Maps of every method for the volumes of a phantom, all on the voxel grid and smoothed alike.

Maps of patches are interpolated linearly between the patches' centres. Nothing is rectified:
evidence against the class stays negative. Terms: a *row* of the table is one way to make a map,
a method of `g3dvit.methods` with a choice (which weighting, tokens or voxels), or a baseline that
knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from g3dvit.benchmark.model_maps import ModelMaps, ModelSettings
from g3dvit.errors import MethodError
from g3dvit.explain import Explainer
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
    "hirescam": "HiResCAM at the last attention",
    "gradcam": "Grad-CAM (weights per feature)",
    "layercam": "LayerCAM on tokens",
    "xgradcam": "XGrad-CAM",
    "gradcam_plus_plus": "Grad-CAM++",
    "eigencam": "EigenCAM",
    "hirescam_blocks": "HiResCAM summed over blocks",
    "frozen_gate_content": "frozen gates, content per patch",
    "frozen_gate": "frozen gates, content and position per patch",
    "frozen_gate_voxels": "frozen gates, per voxel",
    "frozen_gate_noise": "frozen gates over noise, per voxel",
    "frozen_gate_gamma": "frozen gates with the gamma rule, per patch",
    "frozen_gate_gamma_voxels": "frozen gates with the gamma rule, per voxel",
    "frozen_gate_fine": "frozen gates, patches spread over their voxels",
    "shift_averaged": "shift-averaged, positive",
    "shift_averaged_signed": "shift-averaged, signed",
    "shift_averaged_gamma": "shift-averaged, signed, with the gamma rule",
    "shift_averaged_local": "shift-averaged, gamma rule, against the surroundings",
    "shift_weighted": "shift-averaged, positive, weighted by evidence",
    "shift_weighted_local": "shift-averaged, gamma rule, against the surroundings, by evidence",
    "shift_weighted_signed": "shift-averaged, for and (half) against, weighted by evidence",
    "shift_weighted_signed_gamma": "shift-averaged, for and (half) against, by evidence, gamma .1",
    "attention_rollout": "attention rollout",
    "gradient_rollout": "gradient rollout",
    "gradient_x_input": "gradient x input, per voxel",
    "smoothgrad": "SmoothGrad, per voxel",
    "integrated_gradients": "integrated gradients from the mean training volume",
    "expected_gradients": "expected gradients from training volumes",
    "token_removal": "removing single tokens (the causal reference)",
}
BASELINES = ("random", "smoothed_random", "input", "edges")
SEED_ROW = "token_gradcam"
REMOVAL_ROW = "token_removal"
#: Rows of many passes: made for the first volumes only.
SLOW_ROWS = (
    *("smoothgrad", "integrated_gradients", "expected_gradients", "frozen_gate_noise"),
    REMOVAL_ROW,
)
#: Rows that joined when many parts had been run: each group is a part of its own.
LATER_ROWS = (
    ("shift_averaged_local",),
    ("shift_weighted",),
    ("shift_weighted_local",),
    ("shift_weighted_signed",),
    ("shift_weighted_signed_gamma",),
)
#: The map to show, which ``g3dvit explain`` writes, chosen on development phantoms: 8 shifts
#: weighted by the evidence that they keep, if they show the same places; voxels told against their
#: surroundings; what speaks against the class spread like what speaks for it and counted half.
RECOMMENDED_ROW = "shift_weighted_signed"
#: The same with a little of the gamma rule, at twice its cost.
WITH_GAMMA_ROW = "shift_weighted_signed_gamma"
#: What was the map to show before: gamma .5, what speaks against the class spread evenly.
EARLIER_ROW = "shift_weighted_local"


@dataclass(frozen=True, slots=True)
class MapSettings:
    """How maps are made for comparison.

    Parameters
    ----------
    rows
        Which.
    smoothing_vox
        Standard deviation of the Gaussian that every map gets, in voxels.
    model
        How the model is asked.
    n_slow
        Volumes for the rows of many passes.
    """

    rows: tuple[str, ...] = tuple(ROWS)
    smoothing_vox: float = 1.2
    model: ModelSettings = ModelSettings()  # noqa: RUF009 - a frozen value
    n_slow: int = 25

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
        Smoothed, signed, float32; fewer than the volumes for slow rows.
    patches : (n, gi, gj, gk)
        One number per patch, not smoothed.
    seconds
        Per volume; methods that share passes each count them.
    kept
        Shifts that did not change the decision, mean over volumes; None for other rows.
    """

    maps: NDArray[np.float32] = field(repr=False)
    patches: NDArray[np.float32] = field(repr=False)
    seconds: float
    kept: float | None = None


def make_maps(
    explainer: Explainer,
    drawn: PhantomVolumes,
    settings: MapSettings,
    *,
    references: NDArray[np.float32],
    seed: int = 0,
) -> dict[str, RowMaps]:
    """Return the maps of every row for the class of every volume.

    Parameters
    ----------
    explainer
        Of the model.
    drawn
        The volumes, and in `labels` the class that is explained of each.
    settings
        Which rows and how.
    references : (n, i, j, k)
        Training volumes, for the rows that compare with them.
    seed
        Of the random rows.
    """
    model = ModelMaps(explainer, drawn, settings.model, references, settings.rows)
    edge = float(np.mean(explainer.geometry.patch_size))
    random = np.random.default_rng([seed, 7]).standard_normal(drawn.volumes.shape)
    without: dict[str, Callable[[], NDArray[np.float32]]] = {
        "random": lambda: random.astype(np.float32),
        "smoothed_random": lambda: _smooth(random, edge / 2),
        "input": lambda: np.abs(drawn.volumes),
        "edges": lambda: np.stack([gaussian_gradient_magnitude(v, 1.0) for v in drawn.volumes]),
    }
    found = {}
    for row in settings.rows:
        began, saved = time.perf_counter(), model.saved_seconds
        if row in without:
            made = model.of_voxels(torch.from_numpy(without[row]()))
        else:
            made = model.make(row, settings.n_slow if row in SLOW_ROWS else len(drawn))
        # Rows of one explanation each count its time.
        seconds = time.perf_counter() - began + model.saved_seconds - saved
        seconds /= max(len(made.voxels), 1)
        maps = _smooth(made.voxels, settings.smoothing_vox)
        found[row] = RowMaps(maps, made.patches, seconds, made.kept)
    return found


def _smooth(maps: NDArray[np.floating[Any]], sigma: float) -> NDArray[np.float32]:
    if sigma == 0:
        return np.asarray(maps, dtype=np.float32)
    return np.stack([gaussian_filter(one, sigma, mode="constant") for one in maps]).astype(
        np.float32
    )
