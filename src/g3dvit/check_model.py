"""Prove that a model is shown what it was trained on: the step before any map is believed.

Volumes go through the described preparation and the model. Their class values are compared with
those of the user's own pipeline, and the accuracy with the one that the user knows. Where the
class values differ, the volumes are shown to the model mirrored, permuted and standardised
otherwise, to name the likely cause. Nothing is explained here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from g3dvit.capture import first_output, guest
from g3dvit.compare_logits import CLOSE, Comparison, compare_logits, other_ways
from g3dvit.descriptions import ModelDescription
from g3dvit.errors import DescriptionError, G3DError, InputError
from g3dvit.prepare import Preparation
from g3dvit.run.accuracy import described_accuracy
from g3dvit.run.inputs import OpenRun, RunSource, open_runs
from g3dvit.run.setup import check_labels, check_runs, load_described
from g3dvit.volumes import Volume

_BATCH = 4
_PRINTED = 20
_KEPT = 6  # volumes that are kept to look for the cause of a difference

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class ModelCheck:
    """What the model said of some volumes, and what it saw.

    Parameters
    ----------
    logits : (volumes, outputs)
        Class values.
    rows
        (run, time point, label or None, predicted class) of each volume.
    class_names
        In the order of the outputs.
    shown
        One prepared volume, in the middle of the first run.
    comparison
        None where no class values were given to compare with.
    notes
        What a reader should know about the runs.
    steps
        The preparation in sentences, and how its axes reach the model.
    known_accuracy
        What the description says of held-out data; empty where it says nothing.
    """

    logits: NDArray[np.float32]
    rows: tuple[tuple[str, int, str | None, str], ...]
    class_names: tuple[str, ...]
    shown: Volume
    comparison: Comparison | None
    notes: tuple[str, ...]
    steps: tuple[str, ...]
    known_accuracy: str

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return, for each label among the volumes, how many were predicted so, and of how many."""
        labels = [name for name in self.class_names if any(row[2] == name for row in self.rows)]
        return {
            name: (
                sum(row[2] == name == row[3] for row in self.rows),
                sum(row[2] == name for row in self.rows),
            )
            for name in labels
        }

    def accuracy(self) -> tuple[float, float] | None:
        """Return accuracy and balanced accuracy of the labelled volumes; None where none is."""
        counts = self.counts()
        if not counts:
            return None
        correct, total = (sum(values) for values in zip(*counts.values(), strict=True))
        return correct / total, float(np.mean([c / n for c, n in counts.values()]))

    def lines(self) -> list[str]:
        """Return what ``g3dvit check`` prints."""
        classes = len(self.logits[0])
        head = "  ".join(f"{name:>10}" for name in self.class_names[-classes:])
        lines = [f"{'run':<40}  {'volume':>6}  {head}  {'predicted':<12}  label"]
        for (run, time_point, label, predicted), values in zip(
            self.rows[:_PRINTED], self.logits, strict=False
        ):
            numbers = "  ".join(f"{value:>10.4f}" for value in values)
            lines.append(
                f"{run[-40:]:<40}  {time_point:>6}  {numbers}  {predicted:<12}  {label or '-'}"
            )
        if len(self.rows) > _PRINTED:
            lines.append(f"... and {len(self.rows) - _PRINTED} more volumes")
        return [*lines, "", *self._accuracy_lines(), *self._comparison_lines()]

    def _accuracy_lines(self) -> list[str]:
        accuracy = self.accuracy()
        known = [f"the description says: {self.known_accuracy}"] if self.known_accuracy else []
        if accuracy is None:
            return ["accuracy: unknown, no volume has a label (--events or --labels)", *known]
        each = ", ".join(f"{name} {c} of {n}" for name, (c, n) in self.counts().items())
        return [
            f"accuracy: {accuracy[0]:.3f}, balanced {accuracy[1]:.3f} ({each}); compare with the "
            "one you know",
            *known,
        ]

    def _comparison_lines(self) -> list[str]:
        if self.comparison is None:
            return ["class values: not compared (--expect logits_of_your_pipeline.npy)"]
        return [
            f"class values: {self.comparison.verdict.upper()}, largest difference "
            f"{self.comparison.largest_difference:.3g}, correlation "
            f"{self.comparison.correlation:.6f}",
            *(f"  - {sentence}" for sentence in self.comparison.sentences),
        ]

    def title(self) -> str:
        """Return the line above the picture."""
        volume = self.shown
        label, predicted = next(
            (row[2], row[3]) for row in self.rows if row[1] == volume.time_point
        )
        called = "" if label is None else f", labelled {label}"
        return (
            f"What the model sees: {Path(volume.source).name}, volume {volume.time_point}"
            f"{called}, predicted {predicted}"
        )

    def captions(self) -> list[str]:
        """Return the sentences below the picture."""
        data, grid = self.shown.data, self.shown.grid
        size = " x ".join(f"{mm:.2f}" for mm in grid.voxel_sizes)
        facts = (
            f"{' x '.join(map(str, grid.shape))} voxels of {size} mm, stored {grid.axcodes}; mean "
            f"{data.mean():.3f}, standard deviation {data.std():.3f}, {data.min():.3g} to "
            f"{data.max():.3g}, {np.mean(data == 0):.0%} exactly zero"
        )
        return [facts, *self.steps]


def check_model(
    source: RunSource,
    model: str | Path | nn.Module,
    *,
    expected: NDArray[Any] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> ModelCheck:
    """Show volumes to a model as its description says, and compare what comes out.

    Parameters
    ----------
    source
        Images, and which of their volumes.
    model
        A model description file, or a module that `g3dvit.load_model` gave.
    expected : (volumes, outputs)
        Class values that the user's own pipeline gave for the same volumes, in the same order.
    device
        As in `g3dvit.load_model`.
    progress
        Called with the number of volumes done, of all, and what is going on.

    Raises
    ------
    InputError
        If images, volumes or expected values do not fit the model.
    """
    network, description = load_described(model, device)
    preparation = description.preparation or Preparation()
    runs = open_runs(source)
    notes = check_runs(preparation, description, runs)
    if description.preparation is None:
        notes.append("the description has no `preparation`: volumes go in as they are stored")
    if description.class_names:
        check_labels(runs, description.class_names)
    total = sum(len(run.selection) for run in runs)
    if expected is not None:
        expected = _as_table(expected, total)
    logits: list[NDArray[np.float32]] = []
    origins: list[tuple[str, int, str | None]] = []
    kept: list[Volume] = []
    middle = max(0, len(runs[0].selection) // 2)
    shown: Volume | None = None
    with guest(network) as inner:
        for run in runs:
            for volumes in _batches(preparation, run):
                logits.append(_predict(inner, description, [v.data for v in volumes]))
                labels = dict(zip(run.selection.time_points, run.selection.labels, strict=True))
                for volume in volumes:
                    if shown is None and len(origins) == middle:
                        shown = volume
                    if len(kept) < _KEPT and expected is not None:
                        kept.append(volume)
                    origins.append((run.name, volume.time_point, labels[volume.time_point]))
                if progress is not None:
                    progress(len(origins), total, run.name)
        table = np.concatenate(logits)
        comparison = None
        if expected is not None:
            comparison = compare_logits(table, expected)
            if comparison.verdict == "different" and len(comparison.sentences) == 1:
                causes = _look_for_causes(inner, description, kept, expected[: len(kept)])
                comparison = Comparison(
                    comparison.largest_difference,
                    comparison.correlation,
                    comparison.verdict,
                    (*comparison.sentences, *causes),
                )
    names = _names(description, table.shape[1])
    predicted = _predicted(table)
    rows = tuple((*origin, names[p]) for origin, p in zip(origins, predicted, strict=True))
    assert shown is not None  # a selection is never empty
    known = described_accuracy(description, len(names))
    return ModelCheck(
        logits=table,
        rows=rows,
        class_names=names,
        shown=shown,
        comparison=comparison,
        notes=tuple(notes),
        steps=(*preparation.describe(), _way_in(description, shown)),
        known_accuracy="" if known is None else known.sentence,
    )


def read_expected(path: str | Path) -> NDArray[Any]:
    """Read class values from ``.npy``, or from a table of numbers (``.tsv``, ``.csv``, ``.txt``).

    Raises
    ------
    InputError
        If the file cannot be read as numbers.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            table: NDArray[Any] = np.load(path, allow_pickle=False)
            return table
        text = path.read_text(encoding="utf-8").replace(",", " ")
        rows = [line.split() for line in text.splitlines() if line.strip()]
        if rows and not _is_number(rows[0][0]):
            rows = rows[1:]  # a line of column names
        return np.asarray([[float(word) for word in row] for row in rows])
    except (OSError, ValueError) as error:
        raise InputError(
            f"the expected class values cannot be read from {path}: {error}; save them with "
            "numpy.save('logits.npy', logits), (volumes, outputs)"
        ) from error


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _names(description: ModelDescription, outputs: int) -> tuple[str, ...]:
    classes = max(2, outputs)
    names = description.class_names or tuple(f"class {n}" for n in range(classes))
    if len(names) != classes:
        raise DescriptionError(
            f"the description names {len(names)} classes ({', '.join(names)}), but the model gives "
            f"{outputs} values; give one name per class, in the order of the outputs"
        )
    return names


def _way_in(description: ModelDescription, volume: Volume) -> str:
    codes = dict(zip("ijk", volume.grid.axcodes, strict=True))
    ends = ", ".join(f"{letter} towards {codes[letter]}" for letter in description.axes.order)
    return f"The model gets the axes as '{description.input_axes}': {ends}."


def _batches(preparation: Preparation, run: OpenRun) -> Iterator[list[Volume]]:
    stream = preparation.stream(
        run.series, run.selection.time_points, mask=run.mask, confounds=run.confounds
    )
    while volumes := list(itertools.islice(stream, _BATCH)):
        yield volumes


def _predict(
    network: nn.Module, description: ModelDescription, volumes: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    like = next(network.parameters(), torch.empty(0))
    x = torch.from_numpy(description.to_input(np.stack(volumes))).to(like)
    with torch.no_grad():
        values: NDArray[np.float32] = first_output(network(x)).float().cpu().numpy()
    return values


def _predicted(logits: NDArray[np.float32]) -> list[int]:
    if logits.shape[1] == 1:
        return [int(value > 0) for value in logits[:, 0]]
    return [int(n) for n in logits.argmax(axis=1)]


def _as_table(expected: NDArray[Any], total: int) -> NDArray[np.float64]:
    table = np.asarray(expected)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or len(table) != total or not np.issubdtype(table.dtype, np.number):
        raise InputError(
            f"the expected class values are {np.shape(expected)} of {table.dtype}, but {total} "
            f"volumes were chosen; give numbers, ({total}, outputs), in the order of the volumes, "
            "and choose the same volumes (--volumes)"
        )
    return table.astype(np.float64)


def _look_for_causes(
    network: nn.Module,
    description: ModelDescription,
    volumes: Sequence[Volume],
    expected: NDArray[np.float64],
) -> list[str]:
    """Show the volumes to the model in other ways, and return which of them gives the values."""
    data = [volume.data for volume in volumes]
    spread = max(float(expected.std()), 1e-12)
    found = []
    for sentence, change in other_ways():
        try:
            own = _predict(network, description, [change(one) for one in data])
        except (G3DError, RuntimeError, ValueError):
            continue  # volumes of another shape, which this model does not take
        if own.shape == expected.shape and float(np.abs(own - expected).max()) <= CLOSE * spread:
            found.append(f"they agree if {sentence}")
    if not found:
        found.append(
            "mirroring, permuting or standardising the prepared volumes does not explain it; look "
            "at the picture, the preparation step by step, the crop, the voxel order inside "
            "patches (`vit_pytorch`), and whether your pipeline calls model.eval()"
        )
    return found
