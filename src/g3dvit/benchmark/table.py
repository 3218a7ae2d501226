"""From parts to one table: means over volumes and seeds, with intervals nested in seeds.

The bootstrap draws training seeds first and volumes within each drawn seed second, because
volumes that one model explained share that model. With one seed the interval says nothing about
other trainings, and the table says so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.benchmark.maps import ROWS
from g3dvit.benchmark.metrics import METRICS
from g3dvit.benchmark.run import Part


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean with its 95 % interval.

    Parameters
    ----------
    mean, low, high
        NaN where there is no number.
    n_volumes
        With a number, over all seeds.
    """

    mean: float
    low: float
    high: float
    n_volumes: int


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table.

    Parameters
    ----------
    case, phantom, family, row
        Which.
    seeds
        Number of training seeds.
    accuracy
        Mean over seeds.
    chance
        The truth's share of the mask.
    seconds
        Per volume.
    kept
        Mean number of kept shifts, or None.
    cells
        Metric to mean and interval.
    """

    case: str
    phantom: str
    family: str
    row: str
    seeds: int
    accuracy: float
    chance: float
    seconds: float
    kept: float | None
    cells: dict[str, Cell]


def summarise(parts: Sequence[Part], *, draws: int = 1000, seed: int = 0) -> list[Line]:
    """Return one line per case and row.

    Parameters
    ----------
    parts
        All seeds of all cases.
    draws, seed
        Of the bootstrap.
    """
    lines = []
    for case in dict.fromkeys(part.case for part in parts):
        mine = [part for part in parts if part.case == case]
        for row in ROWS:
            having = [part for part in mine if row in part.values]
            if not having:
                continue
            columns = [part.values[row] for part in having]
            shared = [m for m in METRICS if all(m in c for c in columns)]
            kept = [part.kept[row] for part in having if row in part.kept]
            lines.append(
                Line(
                    case=case,
                    phantom=mine[0].phantom,
                    family=mine[0].family,
                    row=row,
                    seeds=len(having),
                    accuracy=float(np.mean([part.accuracy for part in mine])),
                    chance=float(np.mean([part.chance for part in mine])),
                    seconds=float(np.mean([part.seconds[row] for part in having])),
                    kept=float(np.mean(kept)) if kept else None,
                    cells={
                        m: nested_interval([c[m] for c in columns], draws=draws, seed=seed)
                        for m in shared
                    },
                )
            )
    return lines


def nested_interval(
    by_seed: Sequence[NDArray[np.float64]],
    statistic: Callable[..., Any] = np.mean,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Cell:
    """Return mean and 95 % interval of numbers that come in groups, one group per seed.

    The mean is that of the groups' means, or of another statistic of each group, a function of an
    array and an axis; volumes without a number are left out.
    """
    groups = [values[~np.isnan(values)] for values in by_seed]
    groups = [values for values in groups if len(values)]
    if not groups:
        return Cell(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    # A resampled statistic of each group for each slot of each draw, then which group is in it.
    resampled = np.stack(
        [
            statistic(values[rng.integers(len(values), size=(draws, len(groups), len(values)))], -1)
            for values in groups
        ]
    )
    chosen = rng.integers(len(groups), size=(1, draws, len(groups)))
    means = np.take_along_axis(resampled, chosen, axis=0)[0].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    mean = float(np.mean([statistic(values) for values in groups]))
    return Cell(mean, float(low), float(high), sum(map(len, groups)))


def to_tsv(lines: Sequence[Line]) -> str:
    """Return the table, one line per case, row and metric."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    head = ["case", "family", "row", "seeds", "accuracy", "chance", "seconds_per_volume"]
    writer.writerow([*head, "metric", "mean", "low", "high", "n_volumes"])
    for line in lines:
        own = [line.case, line.family, line.row, line.seeds]
        numbers = [f"{v:.6g}" for v in (line.accuracy, line.chance, line.seconds)]
        for name, cell in line.cells.items():
            values = [_number(v, ".6g") for v in (cell.mean, cell.low, cell.high)]
            writer.writerow([*own, *numbers, name, *values, cell.n_volumes])
    return text.getvalue()


def _number(value: float, form: str) -> str:
    return "n/a" if np.isnan(value) else format(value, form)


_COLUMNS = (
    "auc",
    "ap",
    "pointing",
    "patch_auc",
    "patch_ap",
    "patch_pointing",
    "associated_auc",
    "mass",
    "distractor_auc",
    "distractor_mass",
    "peak_mm",
    "relative_srg",
    "beats_seed",
    "beats_seed_ap",
    "other_input",
    "other_class",
)
_FORMS = {"mass": ".1f", "distractor_mass": ".2f", "peak_mm": ".1f"}


def columns_of(lines: Sequence[Line]) -> list[str]:
    """Return the metrics that the tables of some lines show.

    "Associated" is shown where it is not the truth itself: where a suppressor is used as well.
    """

    def known(metric: str, line: Line) -> bool:
        return metric in line.cells and not np.isnan(line.cells[metric].mean)

    def differs(line: Line) -> bool:
        return line.cells["associated_auc"].mean != line.cells["auc"].mean

    return [
        m
        for m in _COLUMNS
        if any(known(m, one) and (m != "associated_auc" or differs(one)) for one in lines)
    ]


def to_markdown(lines: Sequence[Line]) -> str:
    """Return one table per case; a cell is the mean and, in brackets, its 95 % interval."""
    blocks = []
    for case in dict.fromkeys(line.case for line in lines):
        mine = [line for line in lines if line.case == case]
        first = mine[0]
        shown = columns_of(mine)
        seeds = f"{first.seeds} training seed" + ("s" if first.seeds > 1 else "")
        n = max(cell.n_volumes for line in mine for cell in line.cells.values())
        head = ["map", *(METRICS[m].title for m in shown), "s/volume"]
        rows = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for line in mine:
            cells = [_cell(line.cells.get(m), _FORMS.get(m, ".3f")) for m in shown]
            rows.append(f"| {ROWS[line.row]} | {' | '.join(cells)} | {line.seconds:.3f} |")
        blocks.append(
            f"### {case}\n\n{first.phantom}, {first.family} family; {seeds}, {n} held-out "
            f"volumes in all; accuracy {first.accuracy:.3f}; average precision by chance "
            f"{first.chance:.3f}.\n\n" + "\n".join(rows)
        )
    return "\n\n".join(blocks) + "\n"


def _cell(cell: Cell | None, form: str) -> str:
    if cell is None or np.isnan(cell.mean):
        return "n/a"
    return f"{cell.mean:{form}} [{cell.low:{form}}, {cell.high:{form}}]"
