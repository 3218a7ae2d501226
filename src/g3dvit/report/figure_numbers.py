"""Figures of numbers: predictions over time, regions as bars, labels against predictions.

Colours are those of Okabe and Ito, told apart by colour-blind readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.accuracy import balanced_accuracy
from g3dvit.errors import InputError
from g3dvit.report.drawing import FAILED, new_figure
from g3dvit.report.time_course import time_courses
from g3dvit.report.words import NOT_BOLD, millimetres, plain_text, stamp_of, wrapped
from g3dvit.run_result import MapSet, RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#000000")
_GREY = "#767676"


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Relevance of one place over a run.

    Parameters
    ----------
    values : (volumes,)
        In the order of the run's explained volumes; in `units`.
    title
        Which place, with its size in mm.
    units
        Of the values.
    stamp
        What is said of a method whose check failed.
    """

    values: NDArray[np.float64]
    title: str
    units: str = ""
    stamp: str | None = None


def course_maps(result: RunResult) -> MapSet | None:
    """Return whose relevance is drawn over time: recommended, else without a failed check."""
    found = [maps for maps in result.maps if maps.volumes and maps.class_means]
    good = [maps for maps in found if stamp_of(maps.summary) is None] or found
    return next((maps for maps in good if maps.recommended), good[0] if good else None)


def peak_course(result: RunResult, maps: MapSet, *, run: int = 0) -> Course | None:
    """Return the relevance of the patch where the target's class mean is highest.

    Of frozen-gate relevance that is the content, as in every picture.

    Parameters
    ----------
    result
        What was explained.
    maps
        Which method.
    run
        Which of its runs, from 0.

    Returns
    -------
    Course or None
        None where the method has no maps of volumes, or no class mean.
    """
    if not maps.volumes or not maps.class_means or run >= len(maps.volumes):
        return None
    maps = maps.content
    means = [m for m in maps.class_means if m.key.which != "error"] or list(maps.class_means)
    mean = next((m for m in means if m.key.group == result.target), means[0])
    series = maps.volumes[run]
    if not mean.patch.grid.matches(series.grid):
        return None
    values = np.nan_to_num(np.asarray(mean.patch.data, dtype=np.float64))
    # Where the evidence for the target is; of a mean with none, the largest there is.
    at = np.unravel_index(int((values if values.max() > 0 else -values).argmax()), values.shape)
    x, y, z = (round(float(v)) for v in series.grid.vox2world(at))
    words = (
        f"{maps.label}, patch at ({x}, {y}, {z}) mm, the peak of the mean of “{mean.key.group}”, "
        f"{millimetres(series.resolution_mm)}"
    )
    own = np.asarray(series.data, dtype=np.float64).reshape(*series.grid.shape, -1)[at]
    return Course(own, words, maps.units, stamp_of(maps.summary))


def time_course_figure(
    result: RunResult, *, run: int = 0, relevance: Course | None = None
) -> Figure:
    """Draw the probability of every class over one run, with the design underneath.

    Volumes that do not follow each other are not joined.

    Parameters
    ----------
    result
        What was explained.
    run
        Which of its runs, from 0.
    relevance
        Drawn below the probabilities, on the same axis of time.

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
    time = np.asarray(course["time"], dtype=float)
    if relevance is not None and len(relevance.values) != len(time):
        raise InputError(f"{len(relevance.values)} values do not fit {len(time)} volumes")
    height, base = (3.6, 0.98) if relevance is None else (5.5, 1.38)
    figure = new_figure(11.0, height)
    axes = figure.add_axes((0.07, 1 - 2.62 / height, 0.76, 1.98 / height))
    design = figure.add_axes((0.07, (base - 0.36) / height, 0.76, 0.22 / height), sharex=axes)
    step = _step(course, result, run, time)
    for number, (name, values) in enumerate(zip(names, course["probability"], strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        _joined(axes, time, values, step, color=colour, lw=1.4, label=short_name(name, 18))
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
    words = "The dotted line is chance. A volume follows its stimulus by some seconds."
    if _gaps(time, step).any():
        words += " Lines are broken where volumes do not follow each other."
    if relevance is not None:
        below = figure.add_axes((0.07, (base + 0.14) / height, 0.76, 1.1 / height), sharex=axes)
        _joined(below, time, relevance.values, step, color="k", lw=1.2, label="relevance")
        below.axhline(0, color=_GREY, lw=0.8)
        below.tick_params(labelbottom=False)
        below.set_ylabel(
            f"relevance\n({plain_text(relevance.units)})" if relevance.units else "relevance"
        )
        target = result.volume_target
        of = f"the {target}" if target == "predicted class" else f"“{target}”"
        words += (
            f" Relevance: {relevance.title}; above 0 is evidence for {of}, below 0 against it, not "
            "higher or lower BOLD."
        )
        if relevance.stamp:
            below.set_title(wrapped(relevance.stamp, 110), size=9, color=FAILED, loc="left", pad=3)
        figure.align_ylabels([axes, below])
    design.set_yticks([0.5], ["design"], size=8)
    design.set_ylim(0, 1)
    design.set_xlabel("time (s)" if course["unit"] == "s" else "time point")
    figure.text(
        0.02, 1 - 0.18 / height, plain_text(course["name"]), size=13, weight="bold", va="top"
    )
    figure.text(0.02, 0.07 / height, wrapped(words, 170), size=8, color="#444", va="bottom")
    return figure


def _step(course: dict[str, Any], result: RunResult, run: int, time: NDArray[np.float64]) -> float:
    """Return the time between volumes that follow each other."""
    told = result.inputs[run].t_r if course["unit"] == "s" else 1.0
    if told:
        return float(told)
    return float(np.median(np.diff(time))) if len(time) > 1 else 1.0


def _gaps(time: NDArray[np.float64], step: float) -> NDArray[np.bool_]:
    """Return where the next volume does not follow, (volumes - 1,)."""
    return np.asarray(np.diff(time) > 1.5 * step)


def _joined(axes: Any, time: NDArray[np.float64], values: Any, step: float, **style: Any) -> None:
    """Draw a line that is broken at gaps; volumes without a neighbour are points."""
    drawn = np.asarray(values, dtype=float)
    gaps = _gaps(time, step)
    after = np.flatnonzero(gaps) + 1
    axes.plot(np.insert(time, after, np.nan), np.insert(drawn, after, np.nan), **style)
    alone = np.concatenate([[True], gaps]) & np.concatenate([gaps, [True]])
    if alone.any():
        axes.plot(time[alone], drawn[alone], ".", color=style["color"], ms=5)


def region_bars_figure(
    table: pd.DataFrame, *, units: str = "", most: int = 20, small: int = 5, title: str = ""
) -> Figure:
    """Draw the ranked regions of a table as bars with their intervals.

    Beside them stand the share of all |relevance| and its density (share over the region's share
    of the volume); below them, hatched and flagged, regions that are smaller than a patch.

    Parameters
    ----------
    table
        From `g3dvit.regions.region_table`, or its TSV.
    units
        Of the mean.
    most
        Regions to draw, the first in rank.
    small
        Of the regions smaller than a patch, how many are drawn: those of the largest |mean|.
    title
        Above it.

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
    flagged = table[table["mean"].notna() & (table.get("smaller_than_patch", "no") == "yes")]
    flagged = flagged.iloc[np.argsort(-flagged["mean"].abs().to_numpy(float), kind="stable")]
    rows = pd.concat([ranked, flagged.head(small)])
    is_small = np.arange(len(rows)) >= len(ranked)
    heading = wrapped(short_name(title, 180), 92) if title else "Regions"
    further = 0.2 * heading.count("\n")  # inches of a second line
    figure = new_figure(9.6, 2.1 + further + 0.27 * len(rows) + (0.15 if is_small.any() else 0))
    height = figure.get_figheight()
    axes = figure.add_axes((0.32, 1.1 / height, 0.5, 1 - (1.9 + further) / height))
    # A gap between what is ranked and what is not.
    place = -(np.arange(len(rows)) + 0.6 * is_small)
    mean = rows["mean"].to_numpy(dtype=float)
    bars = axes.barh(place, mean, color=np.where(mean >= 0, "#b2182b", "#2166ac"), height=0.7)
    for bar, weak in zip(bars, is_small, strict=True):
        if weak:
            bar.set(facecolor="white", edgecolor=bar.get_facecolor(), hatch="////", linewidth=0.8)
    if {"mean_low", "mean_high"} <= set(rows.columns) and rows["mean_low"].notna().any():
        low, high = (rows[c].to_numpy(dtype=float) for c in ("mean_low", "mean_high"))
        axes.hlines(place, low, high, color="k", lw=1.2)
    corrected = rows["p_corrected"].to_numpy(float) if "p_corrected" in rows else np.array([])
    names = [
        short_name(str(name), 34)
        + (" *" if len(corrected) and corrected[n] < 0.05 else "")
        + (" †" if is_small[n] else "")
        for n, name in enumerate(rows["name"])
    ]
    axes.set_yticks(place, names, size=8)
    axes.axvline(0, color="k", lw=0.8)
    axes.set_xlabel(f"mean relevance ({plain_text(units)})" if units else "mean relevance")
    axes.margins(y=0.01)
    _beside(axes, rows, place)
    edges = list(table["resolution_mm"].dropna().unique()) if "resolution_mm" in table else []
    told = f"{str(edges[0]).replace(' x ', ' × ')} mm" if len(edges) == 1 else "not told"
    left_out = int(table["rank"].isna().sum())
    words = (
        f"{left_out} of {len(table)} regions are not ranked: smaller than a patch, or mostly "
        "outside the map. "
    )
    if is_small.any():
        words += (
            f"† hatched: smaller than a patch, which the map cannot tell from its neighbours; "
            f"{int(is_small.sum())} of {len(flagged)}, those of the largest |mean|. "
        )
    words += (
        "Lines: 95 % interval over units, where there are any. *: p < .05 against maps as smooth, "
        "corrected. Share: of all |relevance| in the mask; density: share over the region's share "
        f"of the volume, 1 is what size alone gives. {NOT_BOLD}"
    )
    figure.text(0.02, 0.06 / height, wrapped(words, 150), size=7.5, color="#444", va="bottom")
    figure.text(0.02, 1 - 0.14 / height, heading, size=12, weight="bold", va="top")
    subtitle = f"effective resolution {told}"
    figure.text(0.02, 1 - (0.42 + further) / height, subtitle, size=9.5, color="#444", va="top")
    return figure


def _beside(axes: Any, rows: pd.DataFrame, place: NDArray[np.float64]) -> None:
    """Write share and density of every bar to its right."""
    columns = [("share", "share", 1.02), ("density", "density", 1.16)]
    style = {"transform": axes.get_yaxis_transform(), "size": 8, "va": "center"}
    for name, head, x in columns:
        if name not in rows:
            continue
        axes.text(x, place.max() + 1.0, head, **style, weight="bold")
        for y, value in zip(place, rows[name].to_numpy(dtype=float), strict=True):
            words = "n/a"
            if np.isfinite(value):
                words = f"{100 * value:.1f} %" if name == "share" else f"{value:.2g}"
            axes.text(x, y, words, **style)


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
