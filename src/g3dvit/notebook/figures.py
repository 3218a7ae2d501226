"""The figure of a notebook that no other room draws: slices of patches without an affine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from g3dvit.explanation import Explanation
from g3dvit.maps import RelevanceMap
from g3dvit.notebook.tables import checks_of_map
from g3dvit.report.drawing import FAILED, colours_of, draw_stamp, new_figure
from g3dvit.report.words import plain_text, stamp_of, wrapped
from g3dvit.run_result import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SLICES = 10


def stamped(value: RelevanceMap) -> RelevanceMap:
    """Return one volume of a map, with the stamp that its checks ask for in its metadata."""
    stamps = [stamp for checks in checks_of_map(value) if (stamp := stamp_of(checks))]
    stamp = value.metadata.get("stamp") or (stamps[0] if stamps else None)
    return replace(value.volume(0), metadata={**value.metadata, "stamp": stamp})


def stamp_run(figure: Figure, result: RunResult) -> None:
    """Stamp the foot of a run's figure where a check of the whole run failed; all maps share it."""
    failed = [check.name for check in result.checks if check.verdict == "fail"]
    if failed:
        draw_stamp(figure, plain_text(f"CHECK FAILED: {', '.join(failed)}"), (0.45, 0.14), size=14)


def patch_figure(value: Explanation) -> Figure:
    """Draw slices along k of the first volume's patches, of its first target and weighting.

    An explanation has no affine: axes are those of the array, and no side is named.
    """
    whole = value.relevance[0].numpy()
    patches = whole.reshape(-1, *whole.shape[-3:])[0]
    nk = patches.shape[2]
    slices = np.unique(np.linspace(0, nk - 1, min(nk, _MOST_SLICES)).round().astype(int))
    top = float(np.abs(patches).max(initial=0)) or 1.0
    signed = bool((patches < 0).any())
    figure = new_figure(9.0, 2.4)
    step = 0.88 / len(slices)
    for n, k in enumerate(slices):
        axes = figure.add_axes((0.03 + n * step, 0.2, step * 0.92, 0.5))
        drawn = axes.imshow(
            patches[:, :, k].T,
            origin="lower",
            cmap=colours_of(signed=signed),
            vmin=-top if signed else 0,
            vmax=top,
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"k = {k}", fontsize=8)
        if n == 0:
            axes.set_xlabel("i", fontsize=8, labelpad=1)
            axes.set_ylabel("j", fontsize=8, labelpad=1)
    bar = figure.colorbar(drawn, cax=figure.add_axes((0.925, 0.22, 0.012, 0.46)))
    bar.ax.tick_params(labelsize=7)
    bar.ax.set_title(value.units, fontsize=8)
    several = whole.ndim > 3 and whole.size > patches.size
    first = ", the first target and weighting" if several else ""
    words = f"{value.method}: volume 0 of {len(value)}{first}, patches; no affine, so no sides"
    figure.text(0.03, 0.93, plain_text(words), size=9, va="top")
    stamp = stamp_of(value.checks[0]) if value.checks else None
    if stamp:
        _stamp_below(figure, stamp)
    return figure


def _stamp_below(figure: Figure, stamp: str) -> None:
    """Write a failed check across the foot, short: the table above tells all of it."""
    head, _, reason = stamp.partition(": ")
    figure.text(
        0.03,
        0.03,
        wrapped(f"{head}: {reason}"[:200], 120),
        size=9,
        weight="bold",
        color="white",
        bbox={"facecolor": FAILED, "edgecolor": FAILED, "pad": 3},
    )
