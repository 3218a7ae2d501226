"""Figures of numbers: predictions over time, regions as bars, labels against predictions.

Colours are those of Okabe and Ito, told apart by colour-blind readers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from g3dvit.accuracy import balanced_accuracy
from g3dvit.errors import InputError
from g3dvit.report.drawing import new_figure
from g3dvit.report.time_course import time_courses
from g3dvit.report.words import plain_text, wrapped
from g3dvit.run_result import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#000000")
_GREY = "#767676"


def time_course_figure(result: RunResult, *, run: int = 0) -> Figure:
    """Draw the probability of every class over one run, with the design underneath.

    Parameters
    ----------
    result
        What was explained.
    run
        Which of its runs, from 0.

    Raises
    ------
    InputError
        If there is no such run, or the model has no classes.
    """
    courses = time_courses(result)
    if not 0 <= run < len(courses):
        raise InputError(f"run {run} of {len(courses)}; runs are counted from 0")
    course, names = courses[run], result.model.class_names
    if len(course["probability"]) != len(names):
        raise InputError("the model has no class probabilities to draw over time")
    figure = new_figure(11.0, 3.6)
    axes = figure.add_axes((0.07, 0.27, 0.76, 0.55))
    design = figure.add_axes((0.07, 0.17, 0.76, 0.06), sharex=axes)
    time = np.asarray(course["time"], dtype=float)
    step = float(np.median(np.diff(time))) if len(time) > 1 else 1.0
    for number, (name, values) in enumerate(zip(names, course["probability"], strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(time, values, color=colour, lw=1.4, label=short_name(name, 18))
        labelled = time[np.asarray(course["label"]) == number]
        design.bar(labelled, 1, width=step, color=colour)
    wrong = [
        n
        for n, (label, predicted) in enumerate(
            zip(course["label"], course["predicted"], strict=True)
        )
        if label >= 0 and predicted >= 0 and label != predicted
    ]
    if wrong:
        axes.plot(time[wrong], np.full(len(wrong), 1.04), "x", color="k", ms=5, label="error")
    axes.axhline(1 / len(names), color=_GREY, lw=0.8, ls=":")
    axes.set(ylim=(-0.03, 1.09), ylabel="probability")
    axes.tick_params(labelbottom=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    design.set_yticks([0.5], ["design"], size=8)
    design.set_ylim(0, 1)
    design.set_xlabel("time (s)" if course["unit"] == "s" else "time point")
    figure.text(0.02, 0.95, plain_text(course["name"]), size=13, weight="bold", va="top")
    words = "The dotted line is chance. A volume follows its stimulus by some seconds."
    figure.text(0.02, 0.02, words, size=8, color="#444", va="bottom")
    return figure


def region_bars_figure(table: pd.DataFrame, *, units: str = "", most: int = 20) -> Figure:
    """Draw the ranked regions of a table as bars with their intervals.

    Parameters
    ----------
    table
        From `g3dvit.regions.region_table`, or its TSV.
    units
        Of the mean.
    most
        Regions to draw, the first in rank.

    Raises
    ------
    InputError
        If the table lacks a column, or ranks no region.
    """
    missing = {"name", "rank", "mean"} - set(table.columns)
    if missing:
        raise InputError(
            f"a table of regions has the columns name, rank and mean; {sorted(missing)} is absent"
        )
    ranked = table[table["rank"].notna()].sort_values("rank").head(most)
    if ranked.empty:
        raise InputError(
            "no region is ranked: all are smaller than a patch or outside the map, or the map has "
            "the same value everywhere"
        )
    figure = new_figure(8.5, 1.5 + 0.27 * len(ranked))
    height = figure.get_figheight()
    axes = figure.add_axes((0.36, 0.75 / height, 0.6, 1 - 1.35 / height))
    place = np.arange(len(ranked))[::-1]
    mean = ranked["mean"].to_numpy(dtype=float)
    axes.barh(place, mean, color=np.where(mean >= 0, "#b2182b", "#2166ac"), height=0.7)
    if {"mean_low", "mean_high"} <= set(ranked.columns) and ranked["mean_low"].notna().any():
        low, high = (ranked[c].to_numpy(dtype=float) for c in ("mean_low", "mean_high"))
        axes.hlines(place, low, high, color="k", lw=1.2)
    corrected = ranked["p_corrected"].to_numpy(float) if "p_corrected" in ranked else np.array([])
    names = [
        short_name(str(name), 34) + (" *" if len(corrected) and corrected[n] < 0.05 else "")
        for n, name in enumerate(ranked["name"])
    ]
    axes.set_yticks(place, names, size=8)
    axes.axvline(0, color="k", lw=0.8)
    axes.set_xlabel(f"mean relevance ({units})" if units else "mean relevance")
    axes.margins(y=0.01)
    left_out = int(table["rank"].isna().sum())
    words = (
        f"{left_out} of {len(table)} regions are not ranked: smaller than a patch, or mostly "
        "outside the map. Lines: 95 % interval over units, where there are any. *: p < .05 against "
        "maps as smooth, corrected."
    )
    figure.text(0.02, 0.05 / height, wrapped(words, 130), size=7.5, color="#444", va="bottom")
    figure.text(0.02, 1 - 0.15 / height, "Regions", size=13, weight="bold", va="top")
    return figure


def confusion_figure(result: RunResult) -> Figure:
    """Draw labels against predictions: counts and shares of each label, with balanced accuracy.

    Raises
    ------
    InputError
        If no volume has a label.
    """
    counts = confusion_counts(result)
    names = [short_name(n, 20) for n in counts.index]
    number = counts.to_numpy(dtype=float)
    share_of = number / np.maximum(number.sum(axis=1, keepdims=True), 1)
    size = 2.9 + 0.75 * len(names)
    figure = new_figure(size + 0.6, size)
    axes = figure.add_axes((0.3, 0.4, 0.48, 0.48))
    axes.imshow(share_of, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        share = share_of[row, column]
        text = f"{number[row, column]:.0f}\n{100 * share:.0f} %"
        colour = "white" if share > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", size=9, color=colour)
    long = len(names) > 3 or max(map(len, names)) > 10
    axes.set_xticks(range(len(names)), names, size=8)
    if long:
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_yticks(range(len(names)), names, size=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    totals = number.sum(axis=1)
    right = np.diag(number)[totals > 0]
    accuracy, low, high = balanced_accuracy(right.tolist(), totals[totals > 0].tolist())
    chance = 1 / len(result.model.class_names)
    words = (
        f"Balanced accuracy {accuracy:.2f}; chance {chance:.2f}. 95 % interval {low:.2f} "
        f"to {high:.2f} if volumes were independent, which neighbours in time are not."
    )
    figure.text(0.02, 0.02, wrapped(words, round(13 * size)), size=8, color="#444", va="bottom")
    figure.text(0.02, 0.97, "Labels and predictions", size=12, weight="bold", va="top")
    return figure


def short_name(name: str, most: int) -> str:
    """Return a name that fits, with dots where it was cut, and no letter that means something."""
    return plain_text(name if len(name) <= most else f"{name[: most - 1]}…")


def confusion_counts(result: RunResult) -> pd.DataFrame:
    """Return counts of volumes, labels by predictions, in the order of the classes."""
    table: Any = result.predictions
    if not {"label", "predicted"} <= set(table.columns) or not table["label"].notna().any():
        raise InputError("no volume has a label, so there is nothing to count")
    labelled = table[table["label"].notna()]
    counts = pd.crosstab(labelled["label"], labelled["predicted"])
    # Labels that are no class of the model have a row of their own: no volume is dropped.
    found = [str(name) for name in (*counts.index, *counts.columns)]
    names = list(dict.fromkeys([*result.model.class_names, *found]))
    return counts.reindex(index=names, columns=names, fill_value=0)
