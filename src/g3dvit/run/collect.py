"""Collect what batches give into per-volume maps, class means and predictions, as a stream.

Per-volume maps are kept on the patch grid, where they are small; voxel maps only enter running
means. Nothing is computed on relevance but means, and the axes' order is brought from the
model's input to the volume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.aggregate import GroupedMeans, GroupKey, group_of
from g3dvit.checks import Check
from g3dvit.descriptions import ModelDescription
from g3dvit.explanation import Explanation
from g3dvit.grids import PatchGrid
from g3dvit.maps import RelevanceMap, patch_map
from g3dvit.methods import METHODS
from g3dvit.recommend import show_first
from g3dvit.run.checks import carry_over, input_blind_check, outside_checks
from g3dvit.run.inputs import OpenRun
from g3dvit.run.targets import TargetPlan, target_words
from g3dvit.run_result import ClassMean, MapSet, summarise_checks
from g3dvit.volumes import Volume

#: Companion maps by method: saved and shown beside the relevance.
COMPANIONS = {
    "token_gradcam": ("patch_weights", "token_sum"),
    "frozen_gate": ("content", "position"),
    "frozen_gate_noise": ("content", "position"),
    "frozen_gate_gamma": ("content", "position"),
}
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
    """

    def __init__(
        self,
        description: ModelDescription,
        patches: PatchGrid,
        class_names: Sequence[str],
        plan: TargetPlan,
        brain: NDArray[np.bool_] | None = None,
    ) -> None:
        self._brain = brain
        self._description = description
        self._patches = patches
        self._class_names = tuple(class_names)
        self._plan = plan
        self._tallies: dict[tuple[str, str | None], _Tally] = {}
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
    ) -> None:
        """Take one batch.

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
        rows = self._add_rows(volumes, next(iter(results.values())), labels, blocks)
        groups = [group_of(row["label"], row["predicted"]) for row in rows]
        for method, result in results.items():
            extra = (extra_checks or {}).get(method, ())
            checks = [
                (*own, *(extra[n] if n < len(extra) else ())) for n, own in enumerate(result.checks)
            ]
            if result.weightings:
                for number, weighting in enumerate(result.weightings):
                    self._add_maps(method, weighting, number, result, groups, checks)
            else:
                self._add_maps(method, None, None, result, groups, checks)

    def _add_rows(
        self,
        volumes: Sequence[Volume],
        result: Explanation,
        labels: Sequence[str | None],
        blocks: Sequence[int | None],
    ) -> list[dict[str, Any]]:
        logits = result.logits.double()
        probabilities, predicted = class_probabilities(logits)
        rows = []
        for n, volume in enumerate(volumes):
            chosen = result.target[n][0]
            row: dict[str, Any] = {
                "run": self._runs[-1].name,
                "time_point": volume.time_point,
                "onset_s": volume.onset_s,
                "label": labels[n],
                "predicted": self._class_names[predicted[n]],
                "target": target_words(chosen, self._class_names),
                "score": float(result.scores[n, 0]),
            }
            for name, value in zip(self._class_names, probabilities[n].tolist(), strict=True):
                row[f"p_{name}"] = value
            shown = self._class_names if logits.shape[1] > 1 else self._class_names[1:]
            for name, value in zip(shown, logits[n].tolist(), strict=True):
                row[f"logit_{name}"] = value
            row["block"] = blocks[n]
            rows.append(row)
        self._rows += rows
        return rows

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
        tally.groups += groups

        def of(tensor: Tensor, target: int) -> NDArray[np.float32]:
            """Return one target (and weighting), in the volume's (i, j, k) order."""
            chosen = tensor[:, target] if number is None else tensor[:, target, number]
            return np.asarray(self._description.from_input(chosen.numpy()), dtype=np.float32)

        mean_target = len(self._plan.targets) - 1
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
                check = input_blind_check(maps, [row["target"] for row in self._rows])
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
        }
        return MapSet(
            method=tally.method,
            title=row.title,
            units=tally.units,
            weighting=tally.weighting,
            layer=tally.layer,
            signed=row.signed,
            volumes=tuple(
                self._run_map(tally, number, metadata) for number in range(len(self._runs))
            ),
            class_means=self._class_means(tally, metadata),
            checks=tuple(tally.checks),
            fine=tally.voxel_means is not None,
        )

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

    def _class_means(self, tally: _Tally, metadata: Mapping[str, Any]) -> tuple[ClassMean, ...]:
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
                "target": self._plan.mean_words,
                "group": {"class": key.group, "volumes": key.which, "n": running.n},
                "checks": [_check_dict(check) for check in checks],
            }
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
                    metadata=described,
                    resolution_mm=patch.resolution_mm,
                    sform_code=series.sform_code,
                    qform_code=series.qform_code,
                )
            means.append(ClassMean(key, running.n, patch, voxel, checks))
        return tuple(means)


def class_probabilities(logits: Tensor) -> tuple[Tensor, list[int]]:
    """Return probabilities (volumes, classes) and the predicted classes.

    One output z stands for two classes: class 1 has the value z, class 0 has -z.
    """
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits[:, 0])
        probabilities = torch.stack([1 - positive, positive], dim=1)
        return probabilities, [int(z > 0) for z in logits[:, 0].tolist()]
    return logits.softmax(1), [int(c) for c in logits.argmax(1).tolist()]


def _check_dict(check: Any) -> dict[str, Any]:
    return {name: getattr(check, name) for name in ("name", "value", "verdict", "sentence")}


def _spacing_s(t_r: float | None, time_points: Sequence[int]) -> float | None:
    """Return the seconds between chosen volumes, or None where they are not evenly spaced."""
    steps = set(np.diff(time_points).tolist())
    if t_r is None or len(steps) > 1:
        return None
    return t_r * steps.pop() if steps else t_r
