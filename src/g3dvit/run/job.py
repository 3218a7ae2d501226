"""The loop over runs and batches: prepared volumes in, explanations collected."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.aggregate import GroupKey
from g3dvit.checks import Check
from g3dvit.descriptions import ModelDescription
from g3dvit.explain import Explainer
from g3dvit.explain_further import BESIDE
from g3dvit.explain_request import given_to
from g3dvit.explanation import Explanation
from g3dvit.prepare import Preparation
from g3dvit.run.collect import Collector
from g3dvit.run.inputs import OpenRun
from g3dvit.run.shift_plan import ShiftPlan
from g3dvit.run.targets import TargetPlan
from g3dvit.volumes import Volume

#: Volumes that are read before they are explained; the explainer divides them further.
_VOLUMES_AT_A_TIME = 8
_FIRST_BATCH = 2
#: Made on the first batch. Whether maps differ between volumes is judged over the whole run.
FIRST_CHECKS = ("float64", "jitter", "class_blind", "steering")
#: Of the model and its volumes, whatever the method: made once.
VOLUME_CHECKS = ("amplitude", "invisible", "batch")

Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


class Job:
    """The loop over runs and batches; remembers what it said."""

    def __init__(
        self,
        explainer: Explainer,
        description: ModelDescription,
        preparation: Preparation,
        collector: Collector,
        plan: TargetPlan,
        say: Say | None,
        progress: Progress | None,
        brain: NDArray[np.bool_] | None = None,
        shifts: ShiftPlan | None = None,
    ) -> None:
        self.shifts = shifts or ShiftPlan()
        self.explainer = explainer
        self.description = description
        self.preparation = preparation
        self.collector = collector
        self.plan = plan
        self.say = say
        self.progress = progress
        self.brain = None
        if brain is not None:
            self.brain = description.to_input(brain[None].astype(np.float32))[0]
        self.score = ""
        self.done = 0
        self.model_checks: tuple[Check, ...] = ()

    def run(self, runs: Sequence[OpenRun], options: Mapping[str, Any]) -> None:
        """Explain every chosen volume of every run.

        Parameters
        ----------
        runs
            In the order of the predictions.
        options
            Arguments of `Explainer.explain` but volumes, target and labels.
        """
        total = sum(len(run.selection) for run in runs)
        first = True
        for number, run in enumerate(runs):
            self.collector.start_run(run)
            for volumes, labels, blocks in batches(self.preparation, run, self._reading(total)):
                x = self._input(volumes)
                seconds, groups = self.batch(x, volumes, labels, blocks, options, further=first)
                shifted = self._shift_averages(number, x, volumes, groups, options, further=first)
                self.done += len(volumes)
                if first and self.say is not None:
                    self.say(self._estimate(total, seconds / len(volumes), shifted))
                first = False
                if self.progress is not None:
                    self.progress(self.done, total, f"explaining {run.name}")

    def _input(self, volumes: Sequence[Volume]) -> Tensor:
        return torch.from_numpy(self.description.to_input(np.stack([v.data for v in volumes])))

    def _estimate(self, total: int, each: float, shifted: float) -> str:
        """Say how long it will take, from the seconds of a volume and of its shifts."""
        more = ""
        if self.shifts.count:
            more = f" and {shifted:.2g} s more for the shifts of {self.shifts.count} of them"
        return (
            f"{total} volumes, about {each:.2g} s each once read and prepared{more}: "
            f"{_duration(each * total + shifted * self.shifts.count)} in all"
        )

    def volumes(
        self,
        volumes: Sequence[Volume],
        labels: Sequence[str | None],
        blocks: Sequence[int | None],
        options: Mapping[str, Any],
    ) -> None:
        """Explain some volumes, without further checks."""
        self.batch(self._input(volumes), volumes, labels, blocks, options, further=False)

    def batch(
        self,
        x: Tensor,
        volumes: Sequence[Volume],
        labels: Sequence[str | None],
        blocks: Sequence[int | None],
        options: Mapping[str, Any],
        *,
        further: bool,
    ) -> tuple[float, list[GroupKey]]:
        """Explain some volumes; return the seconds that it took and their groups."""
        begun = time.perf_counter()
        given = given_to(options["method"], options)
        results = self.explainer.explain(x, target=self.plan.targets, labels=labels, **given)
        seconds = time.perf_counter() - begun
        self.score = next(iter(results.values())).score
        extra: dict[str, Sequence[tuple[Check, ...]]] = {}
        if further:
            extra = self._further(x, results)
        groups = self.collector.add(volumes, results, labels, blocks, extra)
        return seconds, groups

    def _shift_averages(
        self,
        run: int,
        x: Tensor,
        volumes: Sequence[Volume],
        groups: Sequence[GroupKey],
        options: Mapping[str, Any],
        *,
        further: bool,
    ) -> float:
        """Explain those volumes that get shift-averaged maps; return the seconds of each."""
        plan = self.shifts
        chosen = [
            n for n, v in enumerate(volumes) if plan.count and v.time_point in plan.time_points[run]
        ]
        if not chosen:
            return 0.0
        # each group's own class, and per volume what all volumes explain
        targets = list(dict.fromkeys([self.plan.volume, "label"])) if plan.per_volume else ["label"]
        own = [groups[n].group for n in chosen]
        given = given_to(plan.methods, {**options, "method": plan.methods})
        begun = time.perf_counter()
        results = self.explainer.explain(x[chosen], target=targets, labels=own, **given)
        seconds = time.perf_counter() - begun
        extra: dict[str, Sequence[tuple[Check, ...]]] = {}
        if further:  # of one volume: every one of these checks takes all shifts again
            extra = {
                name: self.explainer.check(x[chosen[:1]], one, FIRST_CHECKS)
                for name, one in results.items()
            }
        self.collector.add_shifted(results, [groups[n] for n in chosen], extra)
        return seconds / len(chosen)

    def _further(
        self, x: Tensor, results: Mapping[str, Explanation]
    ) -> dict[str, Sequence[tuple[Check, ...]]]:
        """Return further checks of the first volumes; what is the model's own is told once."""
        one = next(iter(results.values()))
        seen = self.explainer.check(x, one, VOLUME_CHECKS, brain=self.brain)
        amplitude, invisible, dependence = zip(*seen, strict=True)
        self.model_checks = (amplitude[0], dependence[0])
        return {
            name: [
                (*row, hidden)
                for row, hidden in zip(
                    self.explainer.check(x, result, _lacking(result)), invisible, strict=True
                )
            ]
            for name, result in results.items()
        }

    def _reading(self, total: int) -> Callable[[int, int], None] | None:
        progress, done = self.progress, self.done
        if progress is None:
            return None
        return lambda read, of: progress(max(done, self.done), total, f"read {read} of {of}")


def batches(
    preparation: Preparation, run: OpenRun, reading: Callable[[int, int], None] | None
) -> Iterator[tuple[list[Volume], list[str | None], list[int | None]]]:
    """Yield prepared volumes with their labels and blocks, a small batch first."""
    chosen = run.selection
    label = dict(zip(chosen.time_points, chosen.labels, strict=True))
    block = dict(zip(chosen.time_points, chosen.blocks, strict=True))
    stream = preparation.stream(
        run.series,
        chosen.time_points,
        mask=run.mask,
        confounds=run.confounds,
        progress=reading,
    )
    size = _FIRST_BATCH
    while volumes := list(islice(stream, size)):
        times = [volume.time_point for volume in volumes]
        yield volumes, [label[t] for t in times], [block[t] for t in times]
        size = _VOLUMES_AT_A_TIME


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min"


def _lacking(result: Explanation) -> tuple[str, ...]:
    """Return the checks of the first volumes, without what their maps say already."""
    told = any(check.name == BESIDE for check in result.checks[0])
    return FIRST_CHECKS if told else (*FIRST_CHECKS, "beside")
