"""The steps of one evaluation, each in parts that are kept: what is measured, not what it means.

`Job.run` gives everything that was measured as plain values, from which `g3dvit.evaluate.summary`
makes tables. Every part is a file, so that a job that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from g3dvit.capture import KeptTokens, guest
from g3dvit.errors import MethodError
from g3dvit.evaluate import job_sanity
from g3dvit.evaluate.explained import explain_volumes, method_behind
from g3dvit.evaluate.interventions import decisions
from g3dvit.evaluate.measure_choices import measure_choices, specifications
from g3dvit.evaluate.measure_curves import Question, ask, gains_of, measure_volume, opponents
from g3dvit.evaluate.measure_regions import decide_by_region, mean_size
from g3dvit.evaluate.measure_sanity import targets_of
from g3dvit.evaluate.measure_spread import measure_spread, spread_bins
from g3dvit.evaluate.measured import Measured
from g3dvit.evaluate.parts import Parts
from g3dvit.evaluate.prepared import Candidate, Prepared
from g3dvit.evaluate.settings import EvaluationSettings
from g3dvit.evaluate.units import unit_means
from g3dvit.evaluate.work import CHOICE_VOLUMES, PER_CHOICE, Work, passes_of
from g3dvit.run.targets import target_words

Progress = Callable[[int, int, str], None]
Array = NDArray[np.float64]
_AT_A_TIME = 4
_TIMED = 16


class Job:
    """One evaluation.

    Parameters
    ----------
    prepared
        Volumes, brain, runs, model.
    methods
        That work on this model.
    target
        Of the maps: ``"predicted"``, ``"label"``, a class or a contrast.
    settings
        How thoroughly.
    parts
        Where finished parts are.
    others, nulls
        Further models (seeds, folds), and models trained on permuted labels.
    say
        Takes sentences for the user.
    progress
        Called with (passes done, in all, what is going on).
    """

    def __init__(
        self,
        prepared: Prepared,
        methods: Sequence[str],
        target: Any,
        settings: EvaluationSettings,
        parts: Parts,
        *,
        others: Sequence[Candidate] = (),
        nulls: Sequence[Candidate] = (),
        say: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.prepared, self.methods, self.target = prepared, tuple(methods), target
        self.settings, self.parts = settings, parts
        self.others, self.nulls = tuple(others), tuple(nulls)
        self._say = say or (lambda _: None)
        self._progress, self._done, self._total = progress, 0, 1
        plan = prepared.plan
        self.measured = Measured(self.methods, plan.of("selection"), plan.of("report"))
        self.few = plan.some("report", settings.sanity_volumes)
        geometry = prepared.model.explainer.geometry
        names = prepared.model.explainer.class_names
        last = len(names) - 1 if names else max(2, geometry.num_outputs) - 1
        words = [target, *(word for word in ("predicted", last) if word != target)]
        known = names or tuple(map(str, range(max(2, geometry.num_outputs))))
        self._words: dict[str, Any] = {target_words(word, known): word for word in words}
        self._specs = specifications(geometry, self.methods, list(self._words))
        self.work = Work(
            settings,
            {name: passes_of(method_behind(name), geometry.num_patches) for name in self.methods},
            len(prepared.inside),
            len(self.measured.selection),
            len(self.measured.report),
            len(self.few),
            len(self._specs),
            len(self.others),
            len(self.nulls),
        )

    def run(self) -> Measured:
        """Do every step that is asked for, or read its parts."""
        found, does = self.measured, self.settings.does
        self._total = self.work.passes()
        self._explain()
        with guest(self.prepared.model.module) as network:
            kept = self._kept(network)
            self._say(self._duration(network, kept))
            self._curves(network, kept)
            found.recommended = self._recommend()
            if does("regions") and found.selection:
                self._regions(network, kept)
            if does("choices"):
                self._choices(network, kept)
        if does("spread"):
            self._spread()
        if does("randomisation"):
            job_sanity.randomisation(self)
        if does("stability"):
            job_sanity.stability(self)
        if does("context"):
            job_sanity.context(self)
        return found

    # -- steps ---------------------------------------------------------------------------------
    def _explain(self) -> None:
        found, prepared = self.measured, self.prepared
        n = len(prepared.plan.picks)
        rows = []
        for start in range(0, n, _AT_A_TIME):
            some = list(range(start, min(start + _AT_A_TIME, n)))
            rows.append(
                self.part(
                    f"maps-{start}", "explaining", len(some) * self.work.explain, self._maps, some
                )
            )
        found.logits = np.concatenate([np.array(row["logits"], float) for row in rows])
        found.chosen = [
            tuple(one) if isinstance(one, list) else one for row in rows for one in row["chosen"]
        ]
        for name in self.methods:
            maps = np.concatenate([np.array(row["maps"][name], float) for row in rows])
            if not np.isfinite(maps).all():
                found.notes.append(
                    f"Maps of {name} hold values that are not finite; they count as 0"
                )
            found.maps[name] = np.nan_to_num(maps, posinf=0, neginf=0)
            found.verdicts[name] = [v for row in rows for v in row["verdicts"][name]]

    def _maps(self, some: Sequence[int]) -> dict[str, Any]:
        prepared = self.prepared
        labels = [prepared.plan.picks[n].label for n in some]
        explained = explain_volumes(
            prepared.model.explainer,
            prepared.x[list(some)],
            self.methods,
            target=self.target,
            labels=labels if self.target == "label" else None,
        )
        return {
            "logits": explained.logits,
            "chosen": explained.chosen,
            "maps": explained.patches,
            "verdicts": explained.verdicts,
        }

    def _kept(self, network: nn.Module) -> KeptTokens | None:
        try:
            return KeptTokens(network, self.prepared.model.explainer.geometry)
        except MethodError as error:
            self.measured.removal = False
            self.measured.notes.append(
                f"Tokens cannot be taken out of this model, so patches were replaced by those of "
                f"another volume wherever removal is meant ({error})"
            )
            return None

    def _duration(self, network: nn.Module, kept: KeptTokens | None) -> str:
        """Return how long the job takes, from the time of some passes with half the patches."""
        patches = self.prepared.model.explainer.geometry.num_patches
        rng = np.random.default_rng(0)
        keep = np.argsort(rng.random((_TIMED, patches)), axis=1) < max(1, patches // 2)
        remove = self._question(network, kept, 0).remove
        remove(keep[:1])
        begun = time.perf_counter()
        remove(keep)
        return self.work.in_words((time.perf_counter() - begun) / _TIMED)

    def _question(self, network: nn.Module, kept: KeptTokens | None, n: int) -> Question:
        return ask(self.prepared, network, kept, n, self.partner(n), self.measured.chosen[n])

    def _curves(self, network: nn.Module, kept: KeptTokens | None) -> None:
        found = self.measured
        for n in found.selection:
            gains = self.part(
                f"selection-{n}",
                "choosing the method",
                self.work.gain,
                self._gains_of,
                network,
                kept,
                n,
            )
            for name in self.methods:
                found.gains.setdefault(name, []).append(_number(gains[name]))
        for n in found.report:
            found.curves.append(
                self.part(
                    f"curves-{n}",
                    "removing patches",
                    self.work.curve,
                    self._curves_of,
                    network,
                    kept,
                    n,
                )
            )

    def _gains_of(self, network: nn.Module, kept: KeptTokens | None, n: int) -> dict[str, float]:
        maps = {name: values[n] for name, values in self.measured.maps.items()}
        return gains_of(self._question(network, kept, n), maps, self.settings)

    def _curves_of(self, network: nn.Module, kept: KeptTokens | None, n: int) -> dict[str, Any]:
        maps = {name: values[n] for name, values in self.measured.maps.items()}
        inside = self.prepared.inside
        orders = {name: one[inside][None] for name, one in maps.items()}
        orders |= opponents(self.prepared, n, maps, self.settings)
        return measure_volume(self._question(network, kept, n), orders, self.settings)

    def _recommend(self) -> str:
        """Return the method of largest SRG on the selection half whose checks mostly passed."""
        found = self.measured
        if not found.selection:
            found.notes.append(
                f"There is one {self.prepared.plan.unit} only, so no method was chosen by its "
                "numbers; the first of the list is described"
            )
            return "frozen_gate" if "frozen_gate" in self.methods else self.methods[0]
        units = [self.prepared.plan.picks[n].unit for n in found.selection]

        def failed(name: str) -> bool:
            verdicts = [found.verdicts[name][n] for n in found.selection]
            return verdicts.count("fail") > len(verdicts) / 2

        def gain(name: str) -> float:
            means = unit_means(found.gains[name], units)
            return float(means.mean()) if len(means) else -np.inf

        sound = [name for name in self.methods if not failed(name)]
        if not sound:
            found.notes.append("The maps of every method fail their checks in most volumes")
        return max(sound or self.methods, key=gain)

    def _regions(self, network: nn.Module, kept: KeptTokens | None) -> None:
        found, prepared = self.measured, self.prepared
        means = {
            name: mean_size([values[n] for n in found.selection])
            for name, values in found.maps.items()
        }

        def decide(n: int) -> dict[str, Any]:
            return decide_by_region(
                self._question(network, kept, n).remove,
                means,
                prepared.inside,
                prepared.model.explainer.geometry.num_patches,
                self.settings.shares,
                seed=self.settings.seed,
            )

        for n in found.report:
            found.regions.append(
                self.part(f"regions-{n}", "taking out regions", self.work.region, decide, n)
            )

    def _choices(self, network: nn.Module, kept: KeptTokens | None) -> None:
        found, prepared = self.measured, self.prepared
        names = prepared.model.explainer.class_names

        def measure(n: int) -> list[dict[str, Any]]:
            label = prepared.plan.picks[n].label
            means = targets_of(list(self._words.values()), found.logits[n], names, label)
            return measure_choices(
                prepared,
                self._question(network, kept, n),
                n,
                self._specs,
                dict(zip(self._words, means, strict=True)),
                found.recommended,
                self.settings,
            )

        work = len(self._specs) * PER_CHOICE
        for n in self.few[:CHOICE_VOLUMES]:
            found.choices.append(
                self.part(f"choices-{n}", "trying other choices", work, measure, n)
            )

    def _spread(self) -> None:
        found, prepared = self.measured, self.prepared
        found.spread_edges = spread_bins(prepared)
        rows: dict[str, list[list[float]]] = {name: [] for name in self.methods}

        def measure(n: int) -> dict[str, list[list[float]]]:
            return measure_spread(
                prepared,
                n,
                self.partner(n),
                self.methods,
                found.chosen[n],
                self.settings.places,
                seed=self.settings.seed + n,
            )

        work = (1 + self.settings.places) * self.work.explain
        for n in self.few:
            part = self.part(f"spread-{n}", "measuring the point spread", work, measure, n)
            for name in self.methods:
                rows[name] += part[name]
        found.spread = {name: np.array(mine, float) for name, mine in rows.items()}

    # -- plumbing --------------------------------------------------------------------------------
    def partner(self, n: int) -> int:
        """Return the volume whose voxels stand in for those of `n`.

        The nearest in time of the same run that the model decides otherwise; where there is none
        the farthest of the run, and where the run has no other the next volume of all.
        """
        picks, decided = self.prepared.plan.picks, decisions(self.measured.logits)
        mine = [k for k, pick in enumerate(picks) if pick.run == picks[n].run and k != n]
        if not mine:
            return (n + 1) % len(picks)
        apart = {k: abs(picks[k].time_point - picks[n].time_point) for k in mine}
        other = [k for k in mine if decided[k] != decided[n]]
        return min(other, key=apart.__getitem__) if other else max(mine, key=apart.__getitem__)

    def part(
        self, name: str, doing: str, work: int, compute: Callable[..., Any], *given: Any
    ) -> Any:
        """Return a part of the work from its file, or do it: ``compute(*given)``."""
        if self._progress is not None:
            self._progress(self._done, self._total, doing)
        found = self.parts.get(name, partial(compute, *given))
        self._done = min(self._done + work, self._total)
        return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
