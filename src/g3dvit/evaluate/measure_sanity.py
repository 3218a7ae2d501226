"""Does a map depend on what the model has learned, and is it stable? Per method, on some volumes.

*Randomisation*: maps of copies with shuffled weights, against the null that random models give
among each other: a map that owes nothing to learning resembles random models' maps as much as
those resemble each other. A map of pure rounding noise passes this too (Binder et al. 2023,
https://arxiv.org/abs/2211.12486), so that the checks on the maps themselves come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from g3dvit.evaluate.agreement import icc_2_1, neighbour_correlation, spearman
from g3dvit.evaluate.explained import explain_volumes
from g3dvit.evaluate.fields import matched_fields
from g3dvit.evaluate.prepared import Prepared
from g3dvit.evaluate.randomise import shuffled_copy
from g3dvit.explain import Explainer
from g3dvit.targets import Chosen, choose

Array = NDArray[np.float64]
#: Standard deviation of the noise that is added, in those of the voxels that are not 0.
NOISE = 1e-3
#: Mean |rank correlation| with random models' maps up to which a map is unlike them.
SIMILAR = 0.1


def maps_of_model(
    prepared: Prepared,
    module: nn.Module,
    methods: Sequence[str],
    volumes: Sequence[int],
    chosen: Sequence[Chosen],
) -> dict[str, Array]:
    """Return maps of another model of the same layout, method to (volumes, patches)."""
    geometry = prepared.model.explainer.geometry
    explainer = Explainer(module, geometry=geometry, class_names=())
    found = explain_volumes(explainer, prepared.x[list(volumes)], methods, chosen=chosen)
    return dict(found.patches)


def maps_of_random_model(
    prepared: Prepared,
    methods: Sequence[str],
    volumes: Sequence[int],
    chosen: Sequence[Chosen],
    *,
    seed: int,
    parameters: Iterable[str] | None = None,
) -> dict[str, Array]:
    """Return maps of a copy with shuffled weights, method to (volumes, patches)."""
    module = shuffled_copy(prepared.model.module, seed=seed, parameters=parameters)
    return maps_of_model(prepared, module, methods, volumes, chosen)


def compare_with_random(
    trained: Array, random: Array, chance: Array
) -> dict[str, str | float | list[float]]:
    """Compare a model's maps with those of random models, and those with each other.

    Correlations are taken by size: a picture that comes back with the other sign is the same
    picture.

    Parameters
    ----------
    trained : (volumes, patches)
        Of the patches in the brain.
    random : (models, volumes, patches)
        Of as many random models as there are.
    chance : (fields, volumes, patches)
        Random fields as smooth as the trained model's maps: how much maps correlate that have
        nothing in common.

    Returns
    -------
    dict
        ``similarity``: mean |rank correlation| of the trained model's maps with random ones;
        ``null``: for each random model the same with the other random models; ``chance``: 95th
        percentile of the same with random fields; ``verdict``: ``"pass"`` where the similarity
        is at most .1 or chance, ``"warn"`` where it is above, but below that of every random
        model, else ``"fail"``: the map owes as much to the model's build as a random model's.
    """
    similarity = _mean([map_similarity(trained, one) for one in random])
    pairs = {
        (a, b): map_similarity(random[a], random[b]) for a, b in combinations(range(len(random)), 2)
    }
    null = [_mean([v for pair, v in pairs.items() if k in pair]) for k in range(len(random))]
    unrelated = [map_similarity(trained, one) for one in chance]
    limit = float(np.nanpercentile(unrelated, 95)) if np.isfinite(unrelated).any() else 0.0
    verdict = "pass"
    if not similarity <= max(SIMILAR, limit):
        known = [value for value in null if np.isfinite(value)]
        verdict = "warn" if known and similarity < min(known) else "fail"
    return {"similarity": similarity, "null": null, "chance": limit, "verdict": verdict}


def smooth_chance(trained: Array, prepared: Prepared, count: int = 20, *, seed: int = 0) -> Array:
    """Return random fields as smooth as each map, (count, volumes, inside).

    Parameters
    ----------
    trained : (volumes, patches)
        Of all patches.
    prepared
        Where the brain is.
    count, seed
        How many, and of their noise.
    """
    shape, mask = prepared.model.explainer.geometry.grid_shape, prepared.brain
    made = [
        matched_fields(
            min(0.99, neighbour_correlation(one.reshape(shape), mask.reshape(shape))),
            shape,
            count,
            seed=seed + n,
        ).reshape(count, -1)[:, prepared.inside]
        for n, one in enumerate(trained)
    ]
    return np.stack(made, axis=1)


def map_similarity(a: Array, b: Array) -> float:
    """Return the mean |rank correlation| of two sets of maps (volumes, patches)."""
    return _mean([abs(spearman(x, y)) for x, y in zip(a, b, strict=True)])


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


# -- stability ---------------------------------------------------------------------------------
def neighbour_agreement(
    prepared: Prepared,
    methods: Sequence[str],
    volumes: Sequence[int],
    chosen: Sequence[Chosen],
    maps: Mapping[str, Array],
) -> dict[str, list[float]]:
    """Return the correlation of each map with that of the next time point; NaN without one."""
    there = [k for k, n in enumerate(volumes) if bool(torch.isfinite(prepared.neighbours[n]).all())]
    x = prepared.neighbours[[volumes[k] for k in there]]
    return _agreement(prepared, methods, x, there, chosen, maps)


def noise_agreement(
    prepared: Prepared,
    methods: Sequence[str],
    volumes: Sequence[int],
    chosen: Sequence[Chosen],
    maps: Mapping[str, Array],
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return the correlation of each map with that of the volume plus a little noise."""
    generator = torch.Generator().manual_seed(seed)
    x = prepared.x[list(volumes)].clone()
    for one in x:
        sd = float(one[one != 0].std()) if bool((one != 0).any()) else 0.0
        one += NOISE * sd * torch.randn(one.shape, generator=generator) * (one != 0)
    return _agreement(prepared, methods, x, range(len(volumes)), chosen, maps)


def jitter_agreement(
    prepared: Prepared,
    methods: Sequence[str],
    volumes: Sequence[int],
    chosen: Sequence[Chosen],
    maps: Mapping[str, Array],
) -> dict[str, list[float]]:
    """Return the correlation of each map with that of the volume moved by a voxel on every axis.

    What comes in from the border is 0. The map is not moved back: with patches of a few voxels
    only, agreement is bounded by that.
    """
    x = prepared.x[list(volumes)]
    for axis in prepared.model.explainer.geometry.spatial_axes:
        x = x.roll(1, axis + 1)
        x.select(axis + 1, 0).zero_()
    return _agreement(prepared, methods, x, range(len(volumes)), chosen, maps)


def class_agreement(
    prepared: Prepared,
    methods: Sequence[str],
    volumes: Sequence[int],
    logits: Array,
    chosen: Sequence[Chosen],
    maps: Mapping[str, Array],
) -> dict[str, list[float]]:
    """Return the correlation of each map with that of the likeliest other class.

    Empty with two classes, whose log-odds are exact opposites, and for contrasts.
    """
    if logits.shape[1] < 3 or any(not isinstance(one, int) for one in chosen):
        return {}
    other = logits.copy()
    other[np.arange(len(chosen)), [int(one) for one in chosen]] = -np.inf  # type: ignore[arg-type]
    second = [int(c) for c in other.argmax(axis=1)]
    x = prepared.x[list(volumes)]
    return _agreement(prepared, methods, x, range(len(volumes)), second, maps)


def _agreement(
    prepared: Prepared,
    methods: Sequence[str],
    x: Tensor,
    places: Iterable[int],
    chosen: Sequence[Chosen],
    maps: Mapping[str, Array],
) -> dict[str, list[float]]:
    """Explain other inputs (or targets) for some of the volumes and correlate map with map."""
    places = list(places)
    result = {name: [float("nan")] * len(chosen) for name in methods}
    if not places:
        return result
    targets = [chosen[k] for k in places]
    found = explain_volumes(prepared.model.explainer, x, methods, chosen=targets)
    inside = prepared.inside
    for name in methods:
        for row, k in enumerate(places):
            result[name][k] = spearman(found.patches[name][row][inside], maps[name][k][inside])
    return result


def input_agreement(
    maps: Array, chosen: Sequence[Chosen], units: Sequence[str], inside: NDArray[np.intp]
) -> float:
    """Return the mean correlation of maps of different units for the same target.

    Near 1 a map hardly depends on the input (a fixed picture of the model).
    """
    pairs = [
        spearman(maps[a][inside], maps[b][inside])
        for a, b in combinations(range(len(maps)), 2)
        if chosen[a] == chosen[b] and units[a] != units[b]
    ]
    return _mean(pairs)


def run_agreement(
    maps: Array, chosen: Sequence[Chosen], runs: Sequence[int], inside: NDArray[np.intp]
) -> float:
    """Return the mean correlation of the runs' mean maps for the same target; NaN for one run."""
    means: dict[Chosen, dict[int, Array]] = {}
    for target in dict.fromkeys(chosen):
        for run in dict.fromkeys(runs):
            mine = [maps[k] for k in range(len(maps)) if (chosen[k], runs[k]) == (target, run)]
            if mine:
                means.setdefault(target, {})[run] = np.mean(mine, axis=0)
    return _mean(
        [
            spearman(a[inside], b[inside])
            for per_run in means.values()
            for a, b in combinations(per_run.values(), 2)
        ]
    )


def model_agreement(
    maps: Sequence[Array], inside: NDArray[np.intp]
) -> tuple[list[float], list[float]]:
    """Return ICC(2,1) over patches and mean rank correlation of several models, per volume.

    Parameters
    ----------
    maps
        Per model, (volumes, patches). Each map is divided by its sum of |relevance|, because
        models trained apart differ in scale.
    inside
        Patches in the brain.
    """
    icc, rho = [], []
    for rows in zip(*maps, strict=True):
        scaled = [row[inside] / max(float(np.abs(row[inside]).sum()), 1e-30) for row in rows]
        icc.append(icc_2_1(np.stack(scaled, axis=1)))
        rho.append(_mean([spearman(a, b) for a, b in combinations(scaled, 2)]))
    return icc, rho


def targets_of(
    words: Sequence[object],
    logits: Array,
    class_names: Sequence[str],
    label: str | None,
) -> list[Chosen]:
    """Return the class or contrast that each target means for one volume."""
    z = torch.from_numpy(logits[None])
    return list(choose(list(words), z, class_names, [label])[0])
