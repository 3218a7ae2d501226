"""One figure of a comparison: both maps on the same cuts, values against values, overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from g3dvit.compare.agreement import highest
from g3dvit.compare.job import Comparison
from g3dvit.report.drawing import (
    FAILED,
    Shown,
    anatomy_of,
    draw_colour_bar,
    draw_slices,
    framed,
    new_figure,
)
from g3dvit.report.words import NOT_BOLD, plain_text, stamp_in, wrapped
from g3dvit.shown import Background

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers.
_MAP, _REFERENCE, _BOTH, _REST = "#D55E00", "#0072B2", "#F0E442", "#9a9a9a"
_CUTS = 6
_HIGH = 0.1  # share of places that count as high in the picture


def comparison_with_reference(comparison: Comparison, background: Background) -> Figure:
    """Draw map, reference, where each is high, scatter and overlap.

    Parameters
    ----------
    comparison
        What was compared.
    background
        Under both maps.
    """
    found = comparison.found
    figure = new_figure(11.0, 10.2)
    raw = np.asarray(comparison.relevance.data, dtype=np.float32)
    cuts = _cuts(comparison)
    rows: tuple[tuple[str, NDArray[np.floating], str], ...] = (
        (comparison.name, raw, comparison.relevance.units),
        (comparison.reference_name, np.nan_to_num(comparison.reference), "reference's units"),
    )
    for row, (name, values, units) in enumerate(rows):
        kept = np.where(comparison.places, values, 0).astype(np.float32)
        bottom = 0.775 - 0.185 * row
        shown = _shown(kept, comparison, background)
        figure.text(0.02, bottom + 0.152, plain_text(name), size=10, weight="bold", va="bottom")
        draw_slices(figure, background, shown, "z", cuts, (0.02, bottom, 0.87, 0.148))
        draw_colour_bar(figure, shown, units, (0.925, bottom + 0.015, 0.012, 0.105))
    _both(figure, comparison, background, cuts)
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
        f"places of {edges} mm: {comparison.rule}; {comparison.options.signs} values. Agreement "
        "does not make a map right, nor disagreement wrong: a model may use other places than "
        f"those that differ between conditions. {NOT_BOLD} "
        + " ".join(f"{warning[:1].upper()}{warning[1:]}." for warning in comparison.warnings)
    )
    figure.text(0.02, 0.015, wrapped(words, 165), size=8, color="#444", va="bottom")
    failed = bool(stamp_in(comparison.relevance.metadata))
    title = f"{comparison.name} and {comparison.reference_name}" + " (CHECK FAILED)" * failed
    colour = FAILED if failed else "black"
    figure.text(0.02, 0.975, plain_text(title), size=14, weight="bold", va="top", color=colour)
    return figure


def _both(figure: Figure, comparison: Comparison, background: Background, cuts: list[int]) -> None:
    """Draw where the highest tenth of each lies."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    from nilearn.plotting import plot_roi

    top, other = (highest(values, _HIGH) for values in comparison.values)
    kinds = np.zeros(comparison.places.shape, dtype=np.float32)
    kinds[comparison.places] = np.where(top & other, 3, np.where(other, 2, top))
    bottom = 0.405
    words = f"Where each is among its highest {100 * _HIGH:g} %"
    figure.text(0.02, bottom + 0.152, words, size=10, weight="bold", va="bottom")
    drawn = plot_roi(
        framed(kinds, comparison.relevance.grid.affine, background.grid),
        bg_img=anatomy_of(background),
        display_mode="z",
        cut_coords=cuts,
        figure=figure,
        axes=(0.02, bottom, 0.87, 0.148),
        cmap=ListedColormap([_MAP, _REFERENCE, _BOTH]),
        vmin=1,
        vmax=3,
        threshold=0.5,
        alpha=0.85,
        resampling_interpolation="nearest",
        colorbar=False,
        black_bg=False,
        dim=-0.3,
        annotate=False,
    )
    drawn.annotate(size=8)
    names = ("map only", "reference only", "both")
    figure.legend(
        handles=[
            Patch(facecolor=colour, edgecolor="black", linewidth=0.5, label=name)
            for colour, name in zip((_MAP, _REFERENCE, _BOTH), names, strict=True)
        ],
        loc="center left",
        bbox_to_anchor=(0.885, bottom + 0.075),
        fontsize=7,
        frameon=False,
    )


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
    axes = figure.add_axes((0.09, 0.115, 0.38, 0.235))
    values, others = comparison.values
    top, other = highest(values, _HIGH), highest(others, _HIGH)
    for chosen, colour, label in (
        (~top & ~other, _REST, "neither"),
        (top & ~other, _MAP, "map only"),
        (other & ~top, _REFERENCE, "reference only"),
        (top & other, _BOTH, "both"),
    ):
        edge = "black" if label == "both" else colour
        axes.scatter(
            others[chosen], values[chosen], s=16, c=colour, edgecolors=edge, lw=0.6, label=label
        )
    signs = "" if comparison.options.signs == "signed" else f", {comparison.options.signs}"
    axes.set_xlabel(plain_text(f"{comparison.reference_name}, mean over a patch{signs}"), size=8)
    axes.set_ylabel(plain_text(f"map ({comparison.relevance.units or 'its units'}){signs}"), size=8)
    axes.set_title(f"Spearman {comparison.found.spearman:.2f}", size=9, loc="left")
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4))
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.axvline(0, color="0.8", lw=0.8, zorder=0)
    axes.tick_params(labelsize=8)
    axes.legend(
        title=f"highest {100 * _HIGH:g} % of",
        fontsize=7,
        title_fontsize=7,
        loc="best",
        frameon=False,
    )


def _overlap(figure: Figure, comparison: Comparison) -> None:
    """Draw Dice against the share of places that count as high."""
    axes = figure.add_axes((0.58, 0.115, 0.38, 0.235))
    overlaps = sorted(comparison.found.overlaps, key=lambda one: one.share)
    at = [100 * one.share for one in overlaps]
    axes.plot(at, [o.dice for o in overlaps], "o-", color=_MAP, label="measured")
    expected = [o.expected for o in overlaps]
    if np.isfinite(expected).all():
        axes.plot(at, expected, "s--", color="0.35", label="maps as smooth, mean", ms=4)
    for place, one in zip(at, overlaps, strict=True):
        words = f"{one.dice:.2f}" + (f"\np = {one.p:.2g}" if np.isfinite(one.p) else "")
        top = np.nanmax([one.dice, one.expected])
        axes.annotate(words, (place, top), (0, 7), textcoords="offset points", ha="center", size=7)
    axes.set_xticks(at, [f"{x:g}" for x in at], size=8)
    axes.margins(x=0.15)
    axes.set_ylim(0, 1.25)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xlabel("highest % of patches taken of each", size=8)
    axes.set_ylabel("Dice", size=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
