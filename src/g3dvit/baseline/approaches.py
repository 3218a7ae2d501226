"""The three approaches on all folds, each in parts that are kept."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.baseline import glm
from g3dvit.baseline.decoder import (
    Linear,
    PatternSum,
    choose_strength,
    classes_of,
    fit_decoder,
)
from g3dvit.baseline.folds import Division, inner_folds, units_of, usable_rows
from g3dvit.baseline.found import Found
from g3dvit.baseline.searchlight import PIECE, Spheres, choose_edge, make_spheres, sphere_accuracies
from g3dvit.baseline.settings import BaselineSettings
from g3dvit.evaluate.parts import Parts
from g3dvit.evaluate.units import FEWEST_UNITS
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import OpenRun, RunSource
from g3dvit.selection import select_volumes
from g3dvit.train.linear import MOST_FEATURES, cube_means
from g3dvit.train.samples import Samples
from g3dvit.train.split import Fold, Unit

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]
_CHUNK = 32


class Approaches:
    """What the approaches have in common."""

    def __init__(
        self,
        samples: Samples,
        division: Division,
        settings: BaselineSettings,
        parts: Parts,
        say: Say,
        progress: Progress | None,
    ) -> None:
        self.samples, self.division, self.settings = samples, division, settings
        self.parts, self.say, self.progress = parts, say, progress
        self.voxels = np.flatnonzero(samples.brain)
        n_classes = len(samples.class_names)
        self.contrasts = [1] if n_classes == 2 else list(range(n_classes))
        self.edge = 1
        while samples.brain.sum() / self.edge**3 > MOST_FEATURES:
            self.edge += 1
        brain = samples.brain[None].astype(np.float32)
        self.cubes = np.flatnonzero(cube_means(brain, self.edge)[0] > 0)
        self._x: NDArray[np.float32] | None = None

    @property
    def x(self) -> NDArray[np.float32]:
        """Features (n, cubes) of all volumes; read once."""
        if self._x is None:
            every = np.arange(len(self.samples))
            self._x = np.concatenate(
                [cube_means(part, self.edge)[:, self.cubes] for part in self._chunks(every)]
            )
        return self._x

    def _chunks(self, which: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
        buffer = np.empty((_CHUNK, *self.samples.grid.shape), np.float32)
        for start in range(0, len(which), _CHUNK):
            yield self.samples.fill(which[start : start + _CHUNK], buffer)

    def _told(self, doing: str, done: int, total: int) -> None:
        self._tell(done, total, doing)

    def _tell(self, done: int, total: int, doing: str) -> None:
        if self.progress is not None:
            self.progress(done, total, doing)

    # -- linear decoder ------------------------------------------------------------------------
    def linear(self, found: Found) -> None:
        """Fit the decoder on every fold."""
        for number, fold in enumerate(self.division.folds):
            self._tell(number, len(self.division.folds), "linear decoder")
            part = self.parts.get(f"linear-{number}", partial(self._linear, fold))
            found.answers.setdefault("linear", []).append(np.array(part["answer"], np.intp))
            found.strengths.append(part["strength"] / self.x.shape[1])
            found.inner.append(part["inner"])
            for name in ("pattern", "weights"):
                found.maps.setdefault(f"linear_{name}", []).append(_unpack(part[name]))

    def _linear(self, fold: Fold) -> dict[str, Any]:
        labels = self.samples.label[fold.train]
        x = self.x[fold.train]
        inner = inner_folds(self.samples, fold.train, self.division.unit, self.division.gap_volumes)
        model = fit_decoder(x, labels, choose_strength(x, labels, inner))
        total = PatternSum(model.decide(x))
        for part in self._chunks(fold.train):
            total.add(part.reshape(len(part), -1)[:, self.voxels])
        return {
            "answer": classes_of(model.decide(self.x[fold.test])).tolist(),
            "strength": model.strength,
            "inner": len(inner),
            "pattern": _pack(total.pattern()),
            "weights": _pack(self._to_voxels(model)),
        }

    def _to_voxels(self, model: Linear) -> NDArray[np.float64]:
        """Return weights per voxel and unit of its value, (decisions, voxels)."""
        each = (model.weights / model.scale[:, None]).T / self.edge**3
        shape = [-(-n // self.edge) for n in self.samples.grid.shape]
        whole = np.zeros((len(each), int(np.prod(shape))))
        whole[:, self.cubes] = each
        finer = whole.reshape(len(each), *shape)
        for axis in (1, 2, 3):
            finer = finer.repeat(self.edge, axis=axis)
        i, j, k = self.samples.grid.shape
        return np.asarray(finer[:, :i, :j, :k].reshape(len(each), -1)[:, self.voxels])

    # -- general linear model -----------------------------------------------------------------
    def glm(
        self,
        found: Found,
        source: RunSource,
        runs: Sequence[OpenRun],
        preparation: Preparation,
    ) -> None:
        """Fit the GLM on the training volumes of every fold, and on all."""
        if source.events:
            part = self.parts.get("glm", lambda: self._glm_events(source, runs, preparation))
        else:
            part = self.parts.get("glm", self._glm_units)
        maps = [None if one is None else _unpack(one) for one in part["maps"]]
        found.glm_words = part["words"]
        if maps[-1] is None:
            found.notes.append(
                "GLM: left out, because no run (or too few labelled units) can tell its contrast."
            )
            return
        found.glm_all = maps[-1]
        if any(one is None for one in maps[:-1]):
            found.notes.append("GLM: some folds cannot tell its contrast; it has no accuracy.")
            return
        for fold, z in zip(self.division.folds, maps[:-1], strict=True):
            assert z is not None  # looked at above
            found.maps.setdefault("glm", []).append(z)
            labels = self.samples.label[fold.train]
            template = glm.fit_template(
                self.x[fold.train], labels, self._to_cubes(z), len(self.samples.class_names)
            )
            found.answers.setdefault("glm", []).append(template.decide(self.x[fold.test]))

    def _to_cubes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        volumes = np.zeros((len(values), int(np.prod(self.samples.grid.shape))), np.float32)
        volumes[:, self.voxels] = values
        whole = volumes.reshape(len(values), *self.samples.grid.shape)
        return np.asarray(cube_means(whole, self.edge)[:, self.cubes], dtype=np.float64)

    def _glm_events(
        self, source: RunSource, runs: Sequence[OpenRun], preparation: Preparation
    ) -> dict[str, Any]:
        samples, division = self.samples, self.division
        names = samples.class_names
        sums = [glm.FixedEffects() for _ in range(len(division.folds) + 1)]
        for number, (run, path) in enumerate(zip(runs, source.events, strict=True)):
            doing = f"GLM of {run.name}"
            wanted = select_volumes(
                run.series, volumes=source.volumes, n_dropped=preparation.n_dropped
            ).time_points
            data = glm.read_run(
                run,
                preparation,
                samples,
                wanted,
                glm.class_events(path, source.classes),
                partial(self._told, doing),
            )
            known: dict[bytes, Any] = {}
            for place, effects in enumerate(sums):
                rows = np.ones(len(wanted), dtype=bool)
                if place < len(division.folds):
                    fold = division.folds[place]
                    rows = usable_rows(
                        samples, fold, division.unit, division.gap_volumes, number, data.time_points
                    )
                key = rows.tobytes()
                if key not in known:
                    known[key] = glm.run_contrasts(data, rows, self.contrasts, names)
                effects.add(known[key], samples.runs[number].subject)
                self._tell(place + 1, len(sums), doing)
        n = sums[-1].n_subjects
        how = (
            f"t-test over {n} subjects"
            if n >= FEWEST_UNITS
            else "fixed effects over runs, about these subjects alone"
        )
        words = f"GLM: Glover response, cosine drifts (1/128 Hz), AR(1) noise; {how}"
        return {"maps": [_pack(effects.z()) for effects in sums], "words": words}

    def _glm_units(self) -> dict[str, Any]:
        """Return z maps of a t-test between classes over subjects (or runs)."""
        samples, division = self.samples, self.division
        unit: Unit = "run" if division.unit == "block" else division.unit
        names = units_of(samples, unit)
        maps = []
        whole = [fold.train for fold in division.folds] + [np.arange(len(samples))]
        for place, which in enumerate(whole):
            self._tell(place, len(whole), "t-test between classes")
            pairs = list(
                dict.fromkeys(
                    zip(names[which].tolist(), samples.label[which].tolist(), strict=True)
                )
            )
            means = np.zeros((len(pairs), len(self.voxels)))
            for row, (name, label) in enumerate(pairs):
                mine = which[(names[which] == name) & (samples.label[which] == label)]
                for part in self._chunks(mine):
                    flat = part.reshape(len(part), -1)[:, self.voxels]
                    means[row] += flat.sum(axis=0, dtype=np.float64) / len(mine)
            labels = np.array([label for _, label in pairs])
            maps.append(_pack(glm.two_sample_z(means, labels, self.contrasts)))
        words = f"t-test between classes over {unit}s, each averaged over its volumes first"
        return {"maps": maps, "words": words}

    # -- searchlight -----------------------------------------------------------------------------
    def searchlight(self, found: Found) -> None:
        """Run spheres fold by fold, piece by piece."""
        samples, folds, settings = self.samples, self.division.folds, self.settings
        radius = max(settings.radius_mm, 1.5 * max(samples.grid.voxel_sizes))
        if radius > settings.radius_mm:
            found.notes.append(f"Searchlight: the radius was raised to {radius:g} mm, 1.5 voxels.")
        plan = self.parts.get(
            "searchlight-plan",
            lambda: choose_edge(samples, folds, radius, settings.searchlight_minutes),
        )
        edge, minutes = int(plan[0]), plan[1]
        spheres = make_spheres(samples, edge, radius)
        centres = spheres.centres
        size = max(samples.grid.voxel_sizes) * edge
        self.say(
            f"searchlight: {len(centres):,} spheres of {radius:g} mm on cubes of {edge} voxel"
            f"{'s' if edge > 1 else ''} ({size:g} mm), {len(folds)} folds: about {minutes:.1f} min"
            + (
                f", more than the {settings.searchlight_minutes:g} asked for: larger cubes would "
                "not fit the sphere"
                if minutes > settings.searchlight_minutes
                else ""
            )
        )
        total = len(folds) * len(centres)
        for number, fold in enumerate(folds):
            values = np.zeros(len(centres))
            for start in range(0, len(centres), PIECE):
                self._tell(number * len(centres) + start, total, "searchlight")
                piece = centres[start : start + PIECE]
                values[start : start + PIECE] = self._piece(spheres, fold, number, start, piece)
            found.maps.setdefault("searchlight", []).append(values[None])
        self._tell(total, total, "searchlight")
        found.spheres, found.radius_mm = spheres, radius

    def _piece(
        self, spheres: Spheres, fold: Fold, number: int, start: int, piece: NDArray[np.intp]
    ) -> list[float]:
        found: list[float] = self.parts.get(
            f"searchlight-{number}-{start}",
            lambda: sphere_accuracies(spheres, fold, piece).tolist(),
        )
        return found


def _pack(values: NDArray[np.float64] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    single = np.ascontiguousarray(values, dtype=np.float32)
    return {"shape": single.shape, "data": base64.b64encode(single.tobytes()).decode()}


def _unpack(part: dict[str, Any]) -> NDArray[np.float64]:
    flat = np.frombuffer(base64.b64decode(part["data"]), dtype=np.float32)
    return flat.reshape(part["shape"]).astype(np.float64)
