"""One figure of a comparison: both maps on the same cuts, values against values, overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from g3dvit.compare.agreement import highest
from g3dvit.compare.job import Comparison
from g3dvit.report.drawing import Shown, draw_colour_bar, draw_slices, framed, new_figure
from g3dvit.report.words import NOT_BOLD, plain_text, wrapped
from g3dvit.shown import Background

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers.
_MAP, _REFERENCE, _BOTH, _REST = "#D55E00", "#0072B2", "#000000", "#9a9a9a"
_CUTS = 6


def comparison_with_reference(comparison: Comparison, background: Background) -> Figure:
    """Draw map, reference, scatter and overlap.

    Parameters
    ----------
    comparison
        What was compared.
    background
        Under both maps.
    """
    found = comparison.found
    figure = new_figure(11.0, 8.4)
    raw = np.asarray(comparison.relevance.data, dtype=np.float32)
    cuts = _cuts(comparison)
    rows: tuple[tuple[str, NDArray[np.floating], str], ...] = (
        (comparison.name, raw, comparison.relevance.units),
        (comparison.reference_name, np.nan_to_num(comparison.reference), "reference's units"),
    )
    for row, (name, values, units) in enumerate(rows):
        kept = np.where(comparison.places, values, 0).astype(np.float32)
        bottom = 0.715 - 0.225 * row
        shown = _shown(kept, comparison, background)
        figure.text(0.02, bottom + 0.185, plain_text(name), size=10, weight="bold", va="bottom")
        draw_slices(figure, background, shown, "z", cuts, (0.02, bottom, 0.87, 0.18))
        draw_colour_bar(figure, shown, units, (0.925, bottom + 0.02, 0.012, 0.13))
    _scatter(figure, comparison)
    _overlap(figure, comparison)
    edges = " x ".join(f"{v:g}" for v in comparison.relevance.resolution_mm)
    chance = ""
    if found.n_surrogates:
        chance = (
            f" (p = {found.p_spearman:.3g} and {found.p_pearson:.3g} against "
            f"{found.n_surrogates} maps as smooth)"
        )
    words = (
        f"Spearman {found.spearman:.2f}, Pearson {found.pearson:.2f}{chance}; {found.n_places} "
        f"places of {edges} mm; {comparison.options.signs} values. Agreement does not make a map "
        "right, nor disagreement wrong: a model may use other places than those that differ "
        f"between conditions. {NOT_BOLD} " + " ".join(comparison.warnings)
    )
    figure.text(0.02, 0.015, wrapped(words, 165), size=8, color="#444", va="bottom")
    title = f"{comparison.name} and {comparison.reference_name}"
    figure.text(0.02, 0.975, plain_text(title), size=14, weight="bold", va="top")
    return figure


def _shown(values: NDArray[np.float32], comparison: Comparison, background: Background) -> Shown:
    affine = comparison.relevance.grid.affine
    top = float(np.abs(values).max()) or 1.0
    opacity = np.clip(np.abs(values) / (0.35 * top), 0, 1)
    opacity[0, 0, 0], opacity[-1, -1, -1] = 0, 1  # else nilearn stretches it to its own range
    return Shown(
        image=framed(values, affine, background.grid),
        opacity=framed(opacity, affine, background.grid),
        vmax=top,
        signed=bool((values < 0).any()),
    )


def _cuts(comparison: Comparison) -> list[int]:
    """Return heights in mm, evenly through what was compared."""
    points = comparison.relevance.grid.vox2world(np.argwhere(comparison.places))
    low, high = np.percentile(points[:, 2], [3, 97])
    return [round(float(v)) for v in np.linspace(low, high, _CUTS)]


def _scatter(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_axes((0.07, 0.135, 0.4, 0.3))
    values, others = comparison.values
    share = 0.1
    top, other = highest(values, share), highest(others, share)
    for chosen, colour, label in (
        (~top & ~other, _REST, "neither"),
        (top & ~other, _MAP, "map only"),
        (other & ~top, _REFERENCE, "reference only"),
        (top & other, _BOTH, "both"),
    ):
        marker = "x" if label == "both" else "o"
        axes.scatter(others[chosen], values[chosen], s=14, c=colour, label=label, marker=marker)
    axes.set_xlabel(plain_text(f"{comparison.reference_name}, mean over a patch"), size=8)
    axes.set_ylabel(plain_text(f"{comparison.name}\n({comparison.relevance.units})"), size=8)
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)
    axes.tick_params(labelsize=8)
    axes.legend(title="highest 10 % of", fontsize=7, title_fontsize=7, loc="best", frameon=False)


def _overlap(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_axes((0.58, 0.135, 0.38, 0.3))
    overlaps = comparison.found.overlaps
    at = np.arange(len(overlaps))
    axes.bar(at - 0.18, [o.dice for o in overlaps], 0.34, color=_MAP, label="measured")
    expected = [o.expected for o in overlaps]
    if np.isfinite(expected).all():
        axes.bar(at + 0.18, expected, 0.34, color=_REST, label="maps as smooth, mean")
    for place, one in zip(at, overlaps, strict=True):
        words = f"{one.dice:.2f}" + (f"\np = {one.p:.2g}" if np.isfinite(one.p) else "")
        axes.text(place - 0.18, one.dice + 0.02, words, ha="center", va="bottom", size=7)
    axes.set_xticks(at, [f"highest {100 * o.share:g} %" for o in overlaps], size=8)
    axes.set_ylim(0, 1.15)
    axes.set_ylabel("Dice", size=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
