"""Two figures of an evaluation: what was measured, and how much depends on choices.

Colours are those of Okabe and Ito, told apart by colour-blind readers; the recommended method is
drawn strongest. Every function returns a figure that belongs to no window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from g3dvit.evaluate.measure_curves import BASELINES, FIELD, ORACLE, RANDOM
from g3dvit.evaluate.summary import Evaluation
from g3dvit.evaluate.words import units_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#000000")
_GREY = "#767676"


def evaluation_figure(evaluation: Evaluation) -> Figure:
    """Draw curves, gains, regions, point spread and randomisation of an evaluation."""
    from matplotlib.figure import Figure

    values = evaluation.values
    figure = Figure(figsize=(12.5, 8.4), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    colour = _colours(evaluation)
    _curves(panels[0], values, evaluation.recommended)
    _gains(panels[1], evaluation, colour)
    _second_opinions(panels[2], evaluation, colour)
    _regions(panels[3], evaluation, colour)
    _spread(panels[4], values, colour, evaluation.recommended)
    _cascade(panels[5], values, colour, evaluation.recommended)
    chosen = "chosen on other volumes" if values["n_volumes_selection"] else "first of the list"
    figure.suptitle(
        f"{values['model']}: maps for {values['target']}, {values['n_volumes']} volumes of "
        f"{units_in_words(values)}\n{chosen}: {_words(evaluation.recommended)}",
        fontsize=12,
    )
    return figure


def choices_figure(evaluation: Evaluation) -> Figure:
    """Draw the specification curve: SRG and agreement of every combination of choices."""
    from matplotlib.figure import Figure

    table = evaluation.choices
    figure = Figure(figsize=(12.5, 8.0), layout="constrained")
    top, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[2, 2, 4.2])
    place = np.arange(len(table))
    colour = _colours(evaluation)
    dots = [colour[name] for name in table["method"]]
    top.scatter(place, table["srg"], c=dots, s=16)
    top.axhline(0, color=_GREY, lw=0.8)
    top.set_ylabel("SRG (log-odds)")
    middle.scatter(place, table["agreement"], c=dots, s=16)
    middle.axhline(0, color=_GREY, lw=0.8)
    middle.set_ylabel(f"rank correlation with\n{_words(evaluation.recommended)}, default")
    middle.set_ylim(-1.05, 1.05)
    rows: list[tuple[str, str]] = []
    for column in ("method", "layer", "score", "target"):
        rows += [(column, value) for value in dict.fromkeys(table[column]) if value != ""]
    for row, (column, value) in enumerate(rows):
        there = (table[column] == value).to_numpy()
        own = [dot for dot, here in zip(dots, there, strict=True) if here]
        below.scatter(place[there], np.full(there.sum(), -row), c=own, s=11, marker="s")
    below.set_yticks(
        [-row for row in range(len(rows))],
        [f"{column}: {value}" for column, value in rows],
        fontsize=8,
    )
    below.grid(axis="y", color="0.92")
    below.set_axisbelow(True)
    below.set_xlabel("specifications, by SRG")
    top.set_title(
        f"{len(table)} specifications on {int(table['n_volumes'].iloc[0])} volumes: what changes "
        "when a choice is made otherwise",
        loc="left",
        fontsize=11,
    )
    return figure


def _curves(panel: Axes, values: Mapping[str, Any], recommended: str) -> None:
    curves = values["curves"]
    share = np.asarray(curves["share_removed"]) * 100
    for name, colour, width in (
        (recommended, _COLOURS[0], 2.2),
        (ORACLE, "black", 1.2),
        (RANDOM, _GREY, 1.2),
    ):
        panel.plot(share, curves[name]["lerf"], color=colour, lw=width, label=_words(name))
        panel.plot(share, curves[name]["morf"], color=colour, lw=width, ls="--")
    panel.set_xlabel("brain patches removed (%)")
    panel.set_ylabel("log-odds of the target")
    panel.legend(fontsize=8, frameon=False)
    panel.set_title("Removal: least (—) and most (- -) relevant first", fontsize=10, loc="left")


def _gains(panel: Axes, evaluation: Evaluation, colour: Mapping[str, str]) -> None:
    table = evaluation.table
    order = [*table[table["kind"].isin(["method", "given"])]["map"], *BASELINES, ORACLE]
    rows = table.set_index("map").loc[order]
    place = np.arange(len(order))[::-1]
    for y, (name, row) in zip(place, rows.iterrows(), strict=True):
        own = colour.get(str(name), _GREY)
        if np.isfinite(row["srg_low"]):
            panel.plot([row["srg_low"], row["srg_high"]], [y, y], color=own, lw=2)
        panel.plot(row["srg"], y, "o", color=own, ms=7 if row["recommended"] else 5)
    panel.axvline(float(rows["srg"][RANDOM]), color=_GREY, lw=0.8, ls=":")
    names = [_words(n) + (" (rec.)" if n == evaluation.recommended else "") for n in order]
    panel.set_yticks(place, names, fontsize=8)
    panel.set_xlabel("SRG (log-odds); 95 % interval from 3 units on")
    panel.set_title("Symmetric relevance gain", fontsize=10, loc="left")


def _second_opinions(panel: Axes, evaluation: Evaluation, colour: Mapping[str, str]) -> None:
    table = evaluation.table.set_index("map")
    shown = [*colour, RANDOM, FIELD]
    marks = {"saco": "o", "single": "s", "relative_srg": "D"}
    titles = {"saco": "SaCo", "single": "single removal", "relative_srg": "relative SRG"}
    place = np.arange(len(shown))[::-1]
    for key, mark in marks.items():
        for y, name in zip(place, shown, strict=True):
            panel.plot(float(table[key][name]), y, mark, color=colour.get(name, _GREY), ms=6)
        panel.plot([], [], mark, color="black", ms=6, label=titles[key])
    panel.axvline(0, color=_GREY, lw=0.8, ls=":")
    panel.set_yticks(place, [_words(name) for name in shown], fontsize=8)
    panel.legend(fontsize=8, frameon=False, loc="best")
    panel.set_title("Other measures (1 best, 0 chance)", fontsize=10, loc="left")


def _regions(panel: Axes, evaluation: Evaluation, colour: Mapping[str, str]) -> None:
    table = evaluation.regions
    if not len(table):
        _empty(panel, "Regions were not measured")
        return
    for name in (evaluation.recommended, "random patches"):
        mine = table[table["map"] == name]
        own = colour.get(name, _GREY)
        share = mine["share"] * 100
        panel.plot(share, mine["alone"], "o-", color=own, label=f"{_words(name)} alone")
        panel.plot(share, mine["without"], "s--", color=own, label=f"without {_words(name)}")
    panel.axhline(float(table["whole"].iloc[0]), color="black", lw=0.8, label="whole brain")
    panel.set_ylim(-0.03, 1.05)
    panel.set_xlabel("size of the region (% of brain patches)")
    panel.set_ylabel(str(table["what"].iloc[0]))
    panel.legend(fontsize=7, frameon=False)
    panel.set_title("Is the region needed? Is it enough?", fontsize=10, loc="left")


def _spread(
    panel: Axes, values: Mapping[str, Any], colour: Mapping[str, str], recommended: str
) -> None:
    if not values["spread"]:
        _empty(panel, "The point spread was not measured")
        return
    for name, profile in values["spread"].items():
        change = np.asarray(profile["change"], dtype=float)
        width = profile["width_mm"]
        label = f"{_words(name)}: {width:.0f} mm" if np.isfinite(width) else f"{_words(name)}: wide"
        panel.plot(
            profile["distance_mm"],
            change / np.nanmax(change),
            color=colour[name],
            lw=2.2 if name == recommended else 1.1,
            label=label,
        )
    panel.axhline(0.5, color=_GREY, lw=0.8, ls=":")
    edge = float(np.max(values["patch_mm"]))
    panel.axvline(edge / 2, color=_GREY, lw=0.8, ls="--")
    panel.text(edge / 2, 1.0, " half a patch", fontsize=7, color=_GREY, va="top")
    panel.set_xlabel("distance from the changed place (mm)")
    panel.set_ylabel("mean |change| of the map")
    panel.legend(fontsize=8, frameon=False)
    panel.set_title("Point spread (width at half maximum)", fontsize=10, loc="left")


def _cascade(
    panel: Axes, values: Mapping[str, Any], colour: Mapping[str, str], recommended: str
) -> None:
    cascade = values["cascade"]
    if not cascade:
        _empty(panel, "Randomisation was not measured")
        return
    stages = ["none", *cascade["stages"]]
    for name, similar in cascade["similarity"].items():
        panel.plot(
            [1.0, *similar],
            "o-",
            color=colour[name],
            lw=2.2 if name == recommended else 1.1,
            ms=4,
            label=_words(name),
        )
    found = values["randomisation"][next(iter(values["randomisation"]))]
    panel.axhline(max(0.1, found["chance"]), color=_GREY, lw=0.8, ls=":", label="chance")
    panel.set_xticks(range(len(stages)), stages, rotation=40, ha="right", fontsize=7)
    panel.set_xlabel("weights shuffled down to here")
    panel.set_ylim(-0.03, 1.05)
    panel.set_ylabel("|rank correlation| with the map")
    panel.legend(fontsize=8, frameon=False)
    panel.set_title("Weights shuffled from the head down", fontsize=10, loc="left")


def _empty(panel: Axes, sentence: str) -> None:
    panel.text(0.5, 0.5, sentence, ha="center", va="center", color=_GREY)
    panel.set_axis_off()


def _colours(evaluation: Evaluation) -> dict[str, str]:
    table = evaluation.table
    names = [str(name) for name in table[table["kind"] == "method"]["map"]]
    names.sort(key=lambda name: name != evaluation.recommended)
    return {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(names)}


def _words(name: str) -> str:
    return name.replace("_", " ")
