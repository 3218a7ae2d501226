"""Collect what batches give into per-volume maps, class means and predictions, as a stream.

Per-volume maps are kept on the patch grid, where they are small; voxel maps only enter running
means. Nothing is computed on relevance but means, and the axes' order is brought from the
model's input to the volume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.aggregate import GroupedMeans, GroupKey, group_of
from g3dvit.checks import Check, joined
from g3dvit.descriptions import ModelDescription
from g3dvit.explanation import Explanation
from g3dvit.grids import PatchGrid
from g3dvit.maps import RelevanceMap, patch_map
from g3dvit.methods import METHODS
from g3dvit.recommend import show_first
from g3dvit.run.checks import carry_over, input_blind_check, outside_checks
from g3dvit.run.inputs import OpenRun
from g3dvit.run.rows import prediction_rows
from g3dvit.run.shift_plan import ShiftPlan
from g3dvit.run.targets import TargetPlan
from g3dvit.run_result import ClassMean, MapSet, summarise_checks
from g3dvit.volumes import Volume

#: Companion maps by method: saved and shown beside the relevance.
COMPANIONS = {
    "token_gradcam": ("patch_weights", "token_sum"),
    "frozen_gate": ("content", "position"),
    "frozen_gate_noise": ("content", "position"),
    "frozen_gate_gamma": ("content", "position"),
}
#: In the sidecars of maps that are made to be looked at.
FOR_DISPLAY = "for display, not for statistics"
#: Those of which class means are taken too: linear in the map, so that their means belong to its.
MEAN_COMPANIONS = ("content", "position")


@dataclass(slots=True)
class _Tally:
    """What is known so far of one method and weighting."""

    method: str
    weighting: str | None
    maps: list[list[NDArray[np.float32]]] = field(default_factory=list)
    companions: list[dict[str, list[NDArray[np.float32]]]] = field(default_factory=list)
    checks: list[tuple[Check, ...]] = field(default_factory=list)
    groups: list[GroupKey] = field(default_factory=list)
    patch_means: GroupedMeans | None = None
    voxel_means: GroupedMeans | None = None
    companion_means: dict[str, GroupedMeans] = field(default_factory=dict)
    targets: list[Any] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    units: str = ""
    layer: str | None = None


class Collector:
    """Takes batches of one job, run after run.

    Parameters
    ----------
    description
        Brings arrays from the model's input order to the volume's.
    patches
        Patches of the prepared volume.
    class_names
        In the order of the model's outputs.
    plan
        Targets of volumes and means.
    brain : (i, j, k)
        Where the brain is in the prepared volume; None where unknown.
    shifts
        Which volumes get shift-averaged maps.
    references
        What reference volumes are called.
    """

    def __init__(
        self,
        description: ModelDescription,
        patches: PatchGrid,
        class_names: Sequence[str],
        plan: TargetPlan,
        brain: NDArray[np.bool_] | None = None,
        *,
        shifts: ShiftPlan | None = None,
        references: Sequence[str] = (),
    ) -> None:
        self._brain = brain
        self._description = description
        self._patches = patches
        self._class_names = tuple(class_names)
        self._plan = plan
        self._tallies: dict[tuple[str, str | None], _Tally] = {}
        self._shifts = shifts or ShiftPlan()
        self._references = tuple(references)
        self._groups: Counter[GroupKey] = Counter()
        self._rows: list[dict[str, Any]] = []
        self._runs: list[OpenRun] = []

    def start_run(self, run: OpenRun) -> None:
        """Begin a run: later batches belong to it."""
        self._runs.append(run)
        for tally in self._tallies.values():
            tally.maps.append([])
            tally.companions.append({})

    def add(
        self,
        volumes: Sequence[Volume],
        results: Mapping[str, Explanation],
        labels: Sequence[str | None],
        blocks: Sequence[int | None],
        extra_checks: Mapping[str, Sequence[tuple[Check, ...]]] | None = None,
    ) -> list[GroupKey]:
        """Take one batch, and return the group of each volume.

        Parameters
        ----------
        volumes
            The prepared volumes.
        results
            Method to explanation of these volumes, with a target axis (volume, mean).
        labels, blocks
            One per volume.
        extra_checks
            Method to further checks of each volume.
        """
        first = next(iter(results.values()))
        name = self._runs[-1].name
        rows = prediction_rows(name, volumes, first, labels, blocks, self._class_names)
        self._rows += rows
        groups = [group_of(row["label"], row["predicted"]) for row in rows]
        self._groups.update(groups)
        for method, result in results.items():
            checks = _with_extra(result, (extra_checks or {}).get(method, ()))
            if result.weightings:
                for number, weighting in enumerate(result.weightings):
                    self._add_maps(method, weighting, number, result, groups, checks)
            else:
                self._add_maps(method, None, None, result, groups, checks)
        return groups

    def add_shifted(
        self,
        results: Mapping[str, Explanation],
        groups: Sequence[GroupKey],
        extra_checks: Mapping[str, Sequence[tuple[Check, ...]]],
    ) -> None:
        """Take shift-averaged maps of some volumes, whose last target is each group's own class.

        Parameters
        ----------
        results, extra_checks
            As for `add`.
        groups
            Of these volumes.
        """
        for method, result in results.items():
            checks = _with_extra(result, extra_checks.get(method, ()))
            self._add_maps(method, None, None, result, groups, checks)

    def _add_maps(
        self,
        method: str,
        weighting: str | None,
        number: int | None,
        result: Explanation,
        groups: Sequence[GroupKey],
        checks: Sequence[tuple[Check, ...]],
    ) -> None:
        tally = self._tally(method, weighting)
        tally.units, tally.layer = result.units, result.target_layer
        tally.options = result.options.used(METHODS[method])
        tally.groups += groups
        tally.targets += [row[0] for row in result.target]

        def of(tensor: Tensor, target: int) -> NDArray[np.float32]:
            """Return one target (and weighting), in the volume's (i, j, k) order."""
            chosen = tensor[:, target] if number is None else tensor[:, target, number]
            return np.asarray(self._description.from_input(chosen.numpy()), dtype=np.float32)

        mean_target = -1  # the one of all class means, or each group's own class
        shown = list(of(result.relevance, 0))
        tally.maps[-1] += shown
        if self._brain is not None:
            outside = outside_checks(shown, self._brain, self._patches)
            checks = [(*own, one) for own, one in zip(checks, outside, strict=True)]
        tally.checks += checks
        for name in COMPANIONS.get(method, ()):
            values = getattr(result, name)
            if values is None:
                continue
            tally.companions[-1].setdefault(name, []).extend(of(values, 0))
            if name in MEAN_COMPANIONS:
                running = tally.companion_means.setdefault(name, GroupedMeans(self._patches.shape))
                for key, one in zip(groups, of(values, mean_target), strict=True):
                    running.add(key, one)
        means = of(result.relevance, mean_target)
        if tally.patch_means is None:
            tally.patch_means = GroupedMeans(means.shape[1:])
        for key, values in zip(groups, means, strict=True):
            tally.patch_means.add(key, values)
        if result.voxel_relevance is not None:
            voxels = of(result.voxel_relevance, mean_target)
            if tally.voxel_means is None:
                tally.voxel_means = GroupedMeans(voxels.shape[1:])
            for key, values in zip(groups, voxels, strict=True):
                tally.voxel_means.add(key, values)

    def _tally(self, method: str, weighting: str | None) -> _Tally:
        key = (method, weighting)
        if key not in self._tallies:
            runs = len(self._runs)
            self._tallies[key] = _Tally(
                method, weighting, [[] for _ in range(runs)], [{} for _ in range(runs)]
            )
        return self._tallies[key]

    def predictions(self) -> pd.DataFrame:
        """Return one row per volume."""
        return pd.DataFrame(self._rows).astype({"block": "Int64"})

    def map_sets(self, metadata: Mapping[str, Any], *, whole: bool = True) -> tuple[MapSet, ...]:
        """Return all maps, in the order to show them.

        Parameters
        ----------
        metadata
            What is the same for all maps: model, preparation, versions, score.
        whole
            This is the whole run, so that its volumes can be compared.
        """
        if whole:
            for tally in self._tallies.values():
                maps = [one for of_run in tally.maps for one in of_run]
                check = input_blind_check(maps, tally.targets)
                tally.checks = [(*own, check) for own in carry_over(tally.checks)]
        return show_first([self._map_set(tally, metadata) for tally in self._tallies.values()])

    def _map_set(self, tally: _Tally, common: Mapping[str, Any]) -> MapSet:
        row = METHODS[tally.method]
        metadata = {
            **common,
            "method": tally.method,
            "title": row.title,
            "equation": row.equation,
            "paper": f"{row.paper}, {row.url}",
            "weighting": tally.weighting,
            "layer": tally.layer,
            "units": tally.units,
            "options": self._options(tally),
            # A finer map does not tell where its patches lie.
            "patch_grid": self._patches.to_image_grid().to_dict(),
        }
        if row.display_only:
            metadata["use"] = FOR_DISPLAY
        own = self._own(tally)
        return MapSet(
            method=tally.method,
            title=row.title,
            units=tally.units,
            weighting=tally.weighting,
            layer=tally.layer,
            signed=row.signed,
            volumes=()
            if own and not self._shifts.per_volume
            else tuple(self._run_map(tally, number, metadata) for number in range(len(self._runs))),
            class_means=self._class_means(tally, metadata, own=own),
            checks=tuple(tally.checks),
            fine=tally.voxel_means is not None,
            display_only=row.display_only,
        )

    def _own(self, tally: _Tally) -> bool:
        """Tell whether the class means of a method explain each group's own class."""
        return tally.method in self._shifts.methods

    def _options(self, tally: _Tally) -> dict[str, Any]:
        """Return the method's own arguments, references by name."""
        if "references" not in tally.options:
            return tally.options
        return {**tally.options, "references": list(self._references)}

    def _run_map(self, tally: _Tally, number: int, metadata: Mapping[str, Any]) -> RelevanceMap:
        run = self._runs[number]
        series = run.series
        first = sum(len(maps) for maps in tally.maps[:number])
        rows = self._rows[first : first + len(tally.maps[number])]
        checks = tally.checks[first : first + len(rows)]
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "run"}
        return patch_map(
            np.stack(tally.maps[number], axis=-1),
            self._patches,
            metadata={
                **metadata,
                "source": str(series.path),
                "space": series.space,
                "selection": run.selection.rule,
                "target": self._plan.volume_words,
                "volumes": columns,
                "checks": [_check_dict(check) for check in summarise_checks(checks)],
            },
            companions={
                name: np.stack(values, axis=-1) for name, values in tally.companions[number].items()
            },
            t_r=_spacing_s(series.t_r, [row["time_point"] for row in rows]),
            sform_code=series.sform_code,
            qform_code=series.qform_code,
        )

    def _class_means(
        self, tally: _Tally, metadata: Mapping[str, Any], *, own: bool
    ) -> tuple[ClassMean, ...]:
        if tally.patch_means is None:
            return ()
        series = self._runs[0].series
        means = []
        for key, running in tally.patch_means:
            checks = summarise_checks(
                [c for c, group in zip(tally.checks, tally.groups, strict=True) if group == key]
            )
            described = {
                **metadata,
                "source": [str(run.series.path) for run in self._runs],
                "space": series.space,
                "target": key.group if own else self._plan.mean_words,
                "group": {"class": key.group, "volumes": key.which, "n": running.n},
                "checks": [_check_dict(check) for check in checks],
            }
            if own:
                described["sample"] = {"rule": self._shifts.rule, "of": self._groups[key]}
            patch = patch_map(
                running.mean,
                self._patches,
                metadata=described,
                companions={name: means[key].mean for name, means in tally.companion_means.items()},
                sform_code=series.sform_code,
                qform_code=series.qform_code,
            )
            if tally.voxel_means is None:
                voxel = patch.to_grid(self._patches.volume)
            else:
                voxel = RelevanceMap(
                    data=tally.voxel_means[key].mean.astype(np.float32),
                    grid=self._patches.volume,
                    metadata={**described, "units": f"{tally.units} per voxel"},
                    resolution_mm=patch.resolution_mm,
                    sform_code=series.sform_code,
                    qform_code=series.qform_code,
                )
            target = key.group if own else ""
            means.append(ClassMean(key, running.n, patch, voxel, checks, target))
        return tuple(means)


def _with_extra(result: Explanation, extra: Sequence[tuple[Check, ...]]) -> list[tuple[Check, ...]]:
    """Return the checks of each volume, with further ones of the first volumes."""
    return [joined(own, extra[n] if n < len(extra) else ()) for n, own in enumerate(result.checks)]


def _check_dict(check: Any) -> dict[str, Any]:
    names = ("name", "value", "verdict", "sentence", "threshold_warn", "threshold_fail")
    return {name: getattr(check, name) for name in names}


def _spacing_s(t_r: float | None, time_points: Sequence[int]) -> float | None:
    """Return the seconds between chosen volumes, or None where they are not evenly spaced."""
    steps = set(np.diff(time_points).tolist())
    if t_r is None or len(steps) > 1:
        return None
    return t_r * steps.pop() if steps else t_r
