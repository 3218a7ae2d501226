"""The steps of an evaluation that ask what a map owes to the model, and how stable it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from g3dvit.evaluate import measure_sanity as sanity
from g3dvit.evaluate.measure_context import image_agreement, motion_agreement
from g3dvit.evaluate.randomise import find_stages
from g3dvit.evaluate.work import MANY_PASSES
from g3dvit.targets import Chosen

if TYPE_CHECKING:
    from g3dvit.evaluate.job import Job

Array = NDArray[np.float64]
_CASCADE_SEEDS = 3


def randomisation(job: Job) -> None:
    """Explain random models, models shuffled from the head down, and null models."""
    prepared, few = job.prepared, job.few
    methods = [name for name in job.methods if job.work.costs[name] < MANY_PASSES]
    if not methods:
        return
    chosen = [job.measured.chosen[n] for n in few]
    inside = prepared.inside

    def explain(seed: int, parameters: Sequence[str] | None) -> dict[str, Array]:
        return sanity.maps_of_random_model(
            prepared, methods, few, chosen, seed=seed, parameters=parameters
        )

    def maps(name: str, seed: int, parameters: Sequence[str] | None) -> dict[str, Array]:
        work = len(few) * job.work.explain
        part = job.part(name, "shuffling weights", work, explain, seed, parameters)
        return {key: np.array(values, float)[:, inside] for key, values in part.items()}

    random = [maps(f"random-{seed}", seed, None) for seed in range(job.settings.random_models)]
    trained = {name: job.measured.maps[name][few][:, inside] for name in methods}
    job.measured.sanity["randomisation"] = {
        name: sanity.compare_with_random(
            trained[name],
            np.stack([one[name] for one in random]),
            sanity.smooth_chance(job.measured.maps[name][few], prepared, seed=job.settings.seed),
        )
        for name in methods
    }
    stages = find_stages(prepared.model.module, prepared.x[:1])
    cascade: dict[str, list[float]] = {name: [] for name in methods}
    names: list[str] = []
    shuffled: list[str] = []
    for stage in reversed(stages):  # from the head down
        shuffled += stage.parameters
        names.append(stage.name)
        label = f"cascade-{len(names)}"
        runs = [maps(f"{label}-{seed}", seed, shuffled) for seed in range(_CASCADE_SEEDS)]
        for name in methods:
            values = [sanity.map_similarity(trained[name], one[name]) for one in runs]
            cascade[name].append(float(np.nanmean(values)) if values else float("nan"))
    job.measured.sanity["cascade"] = {"stages": names, "similarity": cascade}
    for number, null in enumerate(job.nulls):
        part = job.part(
            f"null-{number}",
            "explaining the null model",
            len(few) * job.work.explain,
            sanity.maps_of_model,
            prepared,
            null.module,
            methods,
            few,
            chosen,
        )
        known = job.measured.sanity.setdefault("null models", {})
        # Null models of several seeds are often all called model.yaml.
        known[null.name if null.name not in known else f"{null.name} {number + 1}"] = {
            name: sanity.map_similarity(trained[name], np.array(part[name], float)[:, inside])
            for name in methods
        }


def stability(job: Job) -> None:
    """Explain next time points, noisy volumes, other classes and other models."""
    found, prepared, few = job.measured, job.prepared, job.few
    chosen = [found.chosen[n] for n in few]
    maps = {name: values[few] for name, values in found.maps.items()}
    given = (prepared, job.methods, few, chosen, maps)
    keep = found.sanity
    work = len(few) * job.work.explain
    keep["neighbours"] = job.part(
        "neighbours", "next time points", work, sanity.neighbour_agreement, *given
    )
    seed = job.settings.seed
    keep["noise"] = job.part("noise", "adding noise", work, sanity.noise_agreement, *given, seed)
    keep["jitter"] = job.part("jitter", "moving by a voxel", work, sanity.jitter_agreement, *given)
    keep["classes"] = job.part(
        "classes",
        "explaining other classes",
        work,
        sanity.class_agreement,
        prepared,
        job.methods,
        few,
        found.logits[few],
        chosen,
        maps,
    )
    report, picks = found.report, prepared.plan.picks
    targets = [found.chosen[n] for n in report]
    for name in job.methods:
        values = found.maps[name][report]
        keep.setdefault("inputs", {})[name] = sanity.input_agreement(
            values, targets, [picks[n].unit for n in report], prepared.inside
        )
        keep.setdefault("runs", {})[name] = sanity.run_agreement(
            values, targets, [picks[n].run for n in report], prepared.inside
        )
    if job.others:
        _models(job, report, targets)


def _models(job: Job, report: Sequence[int], targets: Sequence[Chosen]) -> None:
    found = job.measured
    parts = [
        job.part(
            f"model-{number}",
            f"explaining {other.name}",
            len(report) * job.work.explain,
            sanity.maps_of_model,
            job.prepared,
            other.module,
            job.methods,
            report,
            targets,
        )
        for number, other in enumerate(job.others)
    ]
    for name in job.methods:
        maps = [found.maps[name][list(report)]]
        maps += [np.array(part[name], float) for part in parts]
        icc, rho = sanity.model_agreement(maps, job.prepared.inside)
        found.sanity.setdefault("models", {})[name] = {"icc": icc, "rho": rho}


def context(job: Job) -> None:
    """Correlate maps with pictures of the run and with motion."""
    found, report = job.measured, job.measured.report
    for name in job.methods:
        maps = found.maps[name][report]
        found.sanity.setdefault("images", {})[name] = image_agreement(job.prepared, report, maps)
        found.sanity.setdefault("motion", {})[name] = motion_agreement(job.prepared, report, maps)
