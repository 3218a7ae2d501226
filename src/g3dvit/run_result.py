"""What explaining one or more runs gives: the values that outputs, figures and page are made of.

`g3dvit.run` fills these in; `g3dvit.outputs` and `g3dvit.report` read them. Values only: nothing
is computed here but the summary of checks. ONE named target is explained in all class means, so
that they can be compared; per-volume maps may explain the predicted class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.aggregate import GroupKey
from g3dvit.check_summary import CheckLike, CheckSummary, Verdict, summarise_checks, worst
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap, content_of
from g3dvit.shown import Background, Display, Parcellation, ResultTable
from g3dvit.shows_itself import ShowsItself

__all__ = [
    "Background",
    "CheckLike",
    "CheckSummary",
    "ClassMean",
    "Display",
    "MapSet",
    "ModelSummary",
    "Parcellation",
    "Recommendation",
    "ResultTable",
    "RunInput",
    "RunResult",
    "Verdict",
    "summarise_checks",
    "worst",
]


@dataclass(frozen=True, slots=True)
class RunInput:
    """One run that went in.

    Parameters
    ----------
    name
        What its output files begin with: the source's name without suffix and extension, such
        as ``sub-01_task-motor_run-1``.
    source
        Path as given.
    grid
        The source image's own grid.
    space
        Name of the space, such as ``MNI152NLin6Asym``; None where unknown.
    n_time_points
        Volumes in the file.
    time_points
        Those that were explained, ascending.
    t_r
        Repetition time in s; None where unknown.
    selection
        One sentence: how the volumes were chosen.
    """

    name: str
    source: str
    grid: ImageGrid
    space: str | None
    n_time_points: int
    time_points: tuple[int, ...]
    t_r: float | None
    selection: str = ""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What a reader needs to know about the model.

    Parameters
    ----------
    name
        File or factory.
    sha256
        Hash of the weights; empty where unknown.
    class_names
        One per output.
    preparation
        One sentence per step.
    geometry
        The probed geometry as a table in plain text.
    accuracy
        What is known about accuracy on held-out data, in one sentence.
    trained_on
        Subjects or runs of the training.
    """

    name: str
    sha256: str
    class_names: tuple[str, ...]
    preparation: tuple[str, ...]
    geometry: str
    accuracy: str = "accuracy unknown"
    trained_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ClassMean:
    """The mean map of one group of volumes.

    Parameters
    ----------
    key
        Which volumes.
    n
        How many.
    patch
        Mean on the patch grid, 3D.
    voxel
        Mean on the prepared grid, 3D: of voxel relevance where the method has it, else `patch`
        resampled.
    checks
        What the checks said over these volumes (`summarise_checks`).
    target
        What it explains, in words, where that is not the run's one target but the group's own
        class; such means are for display, and not compared with each other.
    """

    key: GroupKey
    n: int
    patch: RelevanceMap
    voxel: RelevanceMap
    checks: tuple[CheckLike, ...] = ()
    target: str = ""

    @property
    def title(self) -> str:
        """Which volumes and how many, in words."""
        if self.key.which == "all":
            return f"volumes predicted “{self.key.group}” (no labels), n = {self.n}"
        words = {"correct": "classified correctly", "error": "misclassified"}
        return f"“{self.key.group}” volumes, {words[self.key.which]}, n = {self.n}"


@dataclass(frozen=True, slots=True, eq=False)
class MapSet:
    """All maps of one method.

    Parameters
    ----------
    method
        Name in code, such as ``token_gradcam``.
    title
        Name in prose, such as ``token Grad-CAM``.
    units
        Units of the relevance.
    weighting
        Of token Grad-CAM; None for other methods.
    layer
        Layer that was explained; None where the method has none.
    signed
        False where the values cannot be negative.
    volumes
        One 4D map on the patch grid per run, as many volumes as the run's `time_points`; none where
        a method was asked for class means only.
    class_means
        In the order to show them.
    checks
        Per volume, over all runs in the order of `predictions`.
    recommended
        Shown first.
    fine
        Whether class means on the prepared grid were computed voxel by voxel, not from patches.
    display_only
        Made to be looked at: statistics on it find what is not there.
    """

    method: str
    title: str
    units: str
    weighting: str | None
    layer: str | None
    signed: bool
    volumes: tuple[RelevanceMap, ...]
    class_means: tuple[ClassMean, ...]
    checks: tuple[tuple[CheckLike, ...], ...] = ()
    recommended: bool = False
    fine: bool = False
    display_only: bool = False

    @property
    def summary(self) -> tuple[CheckSummary, ...]:
        """Every check over all volumes."""
        return summarise_checks(self.checks)

    @property
    def resolution_mm(self) -> tuple[float, float, float]:
        """Effective resolution in mm; zeros where there is no map."""
        maps = [*self.volumes, *(mean.patch for mean in self.class_means)]
        return maps[0].resolution_mm if maps else (0.0, 0.0, 0.0)

    @property
    def label(self) -> str:
        """Title with the weighting, in words."""
        return f"{self.title} ({self.weighting})" if self.weighting else self.title

    @property
    def content(self) -> MapSet:
        """The same maps with what volumes contributed alone, where all have the position apart.

        Numbers of places are taken of it, as the page shows it. Class means on the prepared grid
        stay as they are.
        """
        patches = [*self.volumes, *(mean.patch for mean in self.class_means)]
        if not all("content" in one.companions for one in patches):
            return self
        means = (replace(mean, patch=content_of(mean.patch)) for mean in self.class_means)
        return replace(
            self,
            title=f"content of {self.title}",
            volumes=tuple(map(content_of, self.volumes)),
            class_means=tuple(means),
        )

    @property
    def file_label(self) -> str:
        """Method and weighting as an alphanumeric BIDS label."""
        return "".join(c for c in f"{self.method}{self.weighting or ''}" if c.isalnum())


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Which map to look at first, and why.

    Parameters
    ----------
    label
        Of the recommended maps (`MapSet.label`); None where none is.
    sentences
        One or two, for a reader.
    passed
        Labels of maps that passed every check.
    warned, failed
        Labels of the others, with the names of the checks.
    """

    label: str | None
    sentences: tuple[str, ...]
    passed: tuple[str, ...] = ()
    warned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RunResult(ShowsItself):
    """Everything that one call explained.

    Parameters
    ----------
    title
        Heading of the page.
    model, inputs
        What went in.
    target
        The ONE target of the class means, in words, such as ``"right"`` or ``"right - left"``.
    volume_target
        The target of the per-volume maps, in words; `target` or ``"predicted class"``.
    score
        ``"logit"`` or ``"log-odds"``.
    predictions
        One row per explained volume: run, time_point, onset_s, label, predicted, target, score,
        p_<class>, logit_<class>, block.
    maps
        One set per method and weighting.
    background
        Under the maps.
    prepared_grid
        The grid that the model sees.
    space
        Name of the maps' space; None where unknown.
    checks
        Of the whole run, such as whether the model is at chance.
    warnings
        Sentences that a reader should see.
    notes
        What kind of data this is, such as that they are simulated.
    provenance
        Versions, command, times, hashes; saved as ``provenance.json``.
    truth
        Where the answer is planted: class name to array on the prepared grid, positive there;
        outlined in the figures of that class. None where unknown.
    display
        Display options.
    recommendation
        Which map to look at first, and why; None where nobody judged.
    further_backgrounds
        Other pictures that a reader of the page can put under the maps.
    tables
        Further tables for the page, such as regions or evidence.
    parcellation
        Names the region at the page's crosshair; None where there is none.
    part
        Which part of a run this is, such as ``"sub-01, one subject of 3"``; empty for a whole run
        (`g3dvit.restricted.restrict`).
    """

    title: str
    model: ModelSummary
    inputs: tuple[RunInput, ...]
    target: str
    volume_target: str
    score: str
    predictions: pd.DataFrame
    maps: tuple[MapSet, ...]
    background: Background
    prepared_grid: ImageGrid
    space: str | None = None
    checks: tuple[CheckLike, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, NDArray[np.float32]] | None = None
    display: Display = field(default_factory=Display)
    recommendation: Recommendation | None = None
    further_backgrounds: tuple[Background, ...] = ()
    tables: tuple[ResultTable, ...] = ()
    parcellation: Parcellation | None = None
    part: str = ""

    @property
    def groups(self) -> tuple[GroupKey, ...]:
        """Groups of volumes with a class mean, by class name; correct before error."""
        return tuple(sorted({mean.key for maps in self.maps for mean in maps.class_means}))
