"""Figures of the benchmark: one of numbers over all cases, one of maps for each case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g3dvit.benchmark.maps import ROWS, MapSettings, make_maps
from g3dvit.benchmark.metrics import METRICS
from g3dvit.benchmark.model_maps import ModelSettings
from g3dvit.benchmark.models import TrainedModel
from g3dvit.benchmark.run import held_out
from g3dvit.benchmark.table import Line
from g3dvit.explain import Explainer
from g3dvit.folders import write_whole

#: What the figure of maps shows.
SHOWN = (
    "token_gradcam",
    "hirescam",
    "frozen_gate_content",
    "frozen_gate_voxels",
    "frozen_gate_gamma_voxels",
    "shift_averaged",
    "shift_weighted_signed",
)
_NUMBERS = ("auc", "ap", "pointing")


def draw_numbers(lines: Sequence[Line], path: Path) -> None:
    """Draw mean and interval of AUC, average precision and pointing, a panel per case."""
    figure_class = _figure()
    cases = list(dict.fromkeys(line.case for line in lines))
    rows = [row for row in ROWS if any(line.row == row for line in lines)]
    figure = figure_class(
        figsize=(3.2 * len(_NUMBERS) + 2.6, (0.24 * len(rows) + 0.7) * len(cases)),
        layout="constrained",
    )
    axes = figure.subplots(len(cases), len(_NUMBERS), squeeze=False, sharey=True)
    places = np.arange(len(rows))[::-1]
    for panels, case in zip(axes, cases, strict=True):
        mine = {line.row: line for line in lines if line.case == case}
        for panel, metric in zip(panels, _NUMBERS, strict=True):
            for place, row in zip(places, rows, strict=True):
                if row not in mine or metric not in mine[row].cells:
                    continue
                cell = mine[row].cells[metric]
                panel.plot([cell.low, cell.high], [place, place], color="0.5", lw=2)
                panel.plot(cell.mean, place, "o", color="#b2182b", ms=4)
            panel.set_xlim(-0.02, 1.02)
            panel.grid(axis="x", color="0.9")
            panel.set_title(f"{case}: {METRICS[metric].title}", fontsize=8)
            panel.tick_params(labelsize=7)
            panel.set_yticks(places, [row.replace("_", " ") for row in rows])
    _save(figure, path)


def draw_maps(
    trained: TrainedModel, path: Path, settings: ModelSettings, *, volumes: int = 3
) -> None:
    """Draw what the model saw and the maps of some methods, for the first held-out volumes.

    Each slice goes through the middle of what differs between classes; the outline of all that is
    used is drawn, the distractor's is dotted. Colours go from minus to plus the largest magnitude
    in the mask.
    """
    drawn = held_out(trained.recipe, volumes)
    explainer = Explainer(trained.model, (1, *drawn.mask.shape))
    maps = make_maps(
        explainer, drawn, MapSettings(rows=SHOWN, model=settings), references=drawn.volumes
    )
    figure = _figure()(figsize=(1.7 * (len(SHOWN) + 1), 1.75 * volumes), layout="constrained")
    axes = figure.subplots(volumes, len(SHOWN) + 1, squeeze=False)
    for n, panels in enumerate(axes):
        truth = drawn.associated[n] if drawn.associated[n].any() else drawn.mask
        k = round(float(np.argwhere(truth)[:, 2].mean()))
        volume = np.where(drawn.mask, drawn.volumes[n], 0)[:, :, k]
        panels[0].imshow(volume.T, cmap="gray", origin="lower", vmin=-3, vmax=3)
        for panel, row in zip(panels[1:], SHOWN, strict=True):
            values = np.where(drawn.mask, maps[row].maps[n], 0)
            top = float(np.abs(values).max()) or 1.0
            panel.imshow(values[:, :, k].T, cmap="RdBu_r", origin="lower", vmin=-top, vmax=top)
        for panel in panels:
            panel.set_xticks([])
            panel.set_yticks([])
            for mask, style in ((drawn.used[n], "-"), (drawn.distractor[n], ":")):
                if mask[:, :, k].any():
                    panel.contour(
                        mask[:, :, k].T.astype(float),
                        [0.5],
                        colors="k",
                        linewidths=0.8,
                        linestyles=style,
                    )
        panels[0].set_ylabel(f"class {drawn.class_names[drawn.labels[n]]}", fontsize=8)
    for panel, title in zip(axes[0], ("volume", *SHOWN), strict=True):
        panel.set_title(title.replace("_", " "), fontsize=8)
    _save(figure, path)


def _figure() -> Any:
    from matplotlib.figure import Figure

    return Figure


def _save(figure: Any, path: Path) -> None:
    write_whole(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))
