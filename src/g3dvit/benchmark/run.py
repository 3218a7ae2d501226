"""Run the benchmark: train or load each model, make every map, measure, and remember.

The result of one case and seed is a *part*, one JSON file; a part that is there already, from
the same recipe and settings, is not run again.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from g3dvit.benchmark.cases import Case
from g3dvit.benchmark.maps import (
    BASELINES,
    LATER_ROWS,
    REMOVAL_ROW,
    ROWS,
    SEED_ROW,
    MapSettings,
    RowMaps,
    make_maps,
)
from g3dvit.benchmark.metrics import patch_sums, volume_metrics
from g3dvit.benchmark.models import ModelRecipe, TrainedModel, trained_model
from g3dvit.benchmark.removal import removal_gain, single_removal
from g3dvit.benchmark.vit3d import embed
from g3dvit.diagnose import spearman
from g3dvit.explain import Explainer
from g3dvit.folders import write_whole
from g3dvit.phantoms import PhantomVolumes, correct_truth, recipe_hash
from g3dvit.plain import to_json

Talk = Callable[[str], None]

#: Training volumes for the maps that compare with some.
_REFERENCES = 64

#: Raised whenever the same maps get other numbers than before.
VERSION = 5


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a model is measured.

    Parameters
    ----------
    maps
        Which rows and how.
    n_test
        Held-out volumes. Removing tokens and explaining other classes takes the first
        ``maps.n_slow`` of these.
    """

    maps: MapSettings = MapSettings()  # noqa: RUF009 - a frozen value
    n_test: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The result of one case and seed.

    Parameters
    ----------
    case, phantom, family, seed, recipe
        Which.
    accuracy
        On the held-out volumes.
    chance
        Share of the truth in the mask, what average precision has by chance.
    values
        Row to metric to one number per volume.
    seconds, kept
        Row to seconds per volume, and to the mean number of kept shifts.
    """

    case: str
    phantom: str
    family: str
    seed: int
    recipe: str
    accuracy: float
    chance: float
    values: dict[str, dict[str, NDArray[np.float64]]]
    seconds: dict[str, float]
    kept: dict[str, float]


def part_path(case: Case, seed: int, settings: RunSettings, folder: Path) -> Path:
    """Return where the part of a case and seed with these rows is, or will be."""
    recipe = case.with_seed(seed)
    key = recipe_hash(recipe.phantom, recipe, settings, VERSION)
    return folder / "parts" / f"{case.name}_seed-{seed}_{key}.json.gz"


def run_case(
    case: Case,
    seed: int,
    settings: RunSettings,
    *,
    folder: Path,
    cache: Path | None = None,
    talk: Talk | None = None,
) -> Part:
    """Run one case with one training seed, or read its part.

    Parameters
    ----------
    case, seed, settings
        What to run and how to measure it.
    folder
        Where the parts are.
    cache
        Where trained models are kept.
    talk
        Called with one line about what is done.
    """
    groups = [(some, part_path(case, seed, some, folder)) for some in _apart(settings)]
    missing = [some for some, path in groups if not path.exists()]
    if missing:
        rows = tuple(row for some in missing for row in some.maps.rows)
        asked = replace(settings, maps=replace(settings.maps, rows=rows))
        part = _measured(case, seed, asked, cache=cache, talk=talk or (lambda _line: None))
        for some in missing:
            write_part(_only(part, some.maps.rows), part_path(case, seed, some, folder))
    return joined([read_part(path) for _, path in groups])


def finished_part(case: Case, seed: int, settings: RunSettings, folder: Path) -> Part | None:
    """Return what is there of a case and seed, or None where its first rows are not."""
    paths = [part_path(case, seed, some, folder) for some in _apart(settings)]
    if not paths[0].exists():
        return None
    return joined([read_part(path) for path in paths if path.exists()])


def _apart(settings: RunSettings) -> tuple[RunSettings, ...]:
    """Return settings for the rows that came first and for those that joined later."""
    rows = settings.maps.rows
    later = {row for group in LATER_ROWS for row in group}
    first = tuple(row for row in rows if row not in later)
    groups = (first, *(tuple(r for r in rows if r in group) for group in LATER_ROWS))
    return tuple(replace(settings, maps=replace(settings.maps, rows=g)) for g in groups if g)


def joined(parts: Sequence[Part]) -> Part:
    """Return one part with the rows of several of the same model and volumes."""
    values = {row: dict(columns) for part in parts for row, columns in part.values.items()}
    _compare_with_seed(values)
    return replace(
        parts[0],
        values=values,
        seconds={row: s for part in parts for row, s in part.seconds.items()},
        kept={row: k for part in parts for row, k in part.kept.items()},
    )


def _compare_with_seed(values: dict[str, dict[str, NDArray[np.float64]]]) -> None:
    """Add on which volumes a row is better than the seed project's map."""
    if SEED_ROW not in values:
        return
    for columns in values.values():
        for metric, key in (("auc", "beats_seed"), ("ap", "beats_seed_ap")):
            better = (columns[metric] > values[SEED_ROW][metric]).astype(np.float64)
            columns[key] = np.where(np.isnan(columns[metric]), np.nan, better)


def _measured(
    case: Case, seed: int, settings: RunSettings, *, cache: Path | None, talk: Talk
) -> Part:
    """Train a model, unless it is there, and measure rows; those of one pass share it."""

    def progress(epoch: int, epochs: int, accuracy: float) -> None:
        talk(f"{case.name} seed {seed}: epoch {epoch} of {epochs}, accuracy {accuracy:.3f}")

    trained = trained_model(case.with_seed(seed), cache, progress=progress)
    talk(f"{case.name} seed {seed}: maps of {settings.n_test} volumes")
    return measure(case.name, trained, settings)


def _only(part: Part, rows: Sequence[str]) -> Part:
    """Return the part with some of its rows."""
    return replace(
        part,
        values={row: part.values[row] for row in rows},
        seconds={row: part.seconds[row] for row in rows},
        kept={row: part.kept[row] for row in rows if row in part.kept},
    )


def measure(name: str, trained: TrainedModel, settings: RunSettings) -> Part:
    """Measure every row on held-out volumes of the model's phantom."""
    recipe = trained.recipe
    drawn = held_out(recipe, settings.n_test)
    explainer = Explainer(trained.model, (1, *drawn.mask.shape))
    references = recipe.phantom.draw(_REFERENCES, "train", recipe.seed).volumes
    maps = make_maps(explainer, drawn, settings.maps, references=references, seed=recipe.seed)
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for row, found in maps.items():
        both = zip(found.maps, found.patches, strict=True)
        numbers = [volume_metrics(one, patches, drawn, n) for n, (one, patches) in enumerate(both)]
        values[row] = {
            key: _padded([line[key] for line in numbers], len(drawn)) for key in numbers[0]
        }
        values[row]["other_input"] = _padded(_other_input(found.maps, drawn), len(drawn))
    _compare_with_seed(values)
    if settings.maps.n_slow:
        _removal(trained.model, recipe, drawn, maps, values, settings.maps.n_slow)
    if len(drawn.class_names) > 2:
        few = _first(drawn, settings.maps.n_slow)
        other = replace(few, labels=_runner_up(trained.model, few))
        own = tuple(row for row in maps if row not in BASELINES)
        again = make_maps(explainer, other, replace(settings.maps, rows=own), references=references)
        for row, found in again.items():
            pairs = zip(maps[row].maps, found.maps, strict=False)
            rho = [spearman(a[drawn.mask], b[drawn.mask]) for a, b in pairs]
            values[row]["other_class"] = _padded(rho, len(drawn))
    inside = drawn.mask[None] & ~drawn.ignored
    return Part(
        case=name,
        phantom=recipe.phantom.name,
        family=recipe.phantom.family,
        seed=recipe.seed,
        recipe=recipe.hash,
        accuracy=accuracy(trained.model, drawn),
        chance=float((drawn.used & inside).sum() / inside.sum()),
        values=values,
        seconds={row: found.seconds for row, found in maps.items()},
        kept={row: found.kept for row, found in maps.items() if found.kept is not None},
    )


def _other_input(maps: NDArray[np.float32], drawn: PhantomVolumes) -> list[float]:
    """Return the correlation of each map with that of the next volume of the same class."""
    labels = drawn.labels[: len(maps)]
    found = []
    for n, label in enumerate(labels):
        same = np.flatnonzero(labels == label)
        other = same[(np.searchsorted(same, n) + 1) % len(same)]
        same_volume = other == n  # the only one of its class
        rho = spearman(maps[n][drawn.mask], maps[other][drawn.mask])
        found.append(float("nan") if same_volume else rho)
    return found


def _first(drawn: PhantomVolumes, n: int) -> PhantomVolumes:
    """Return the first volumes of some."""
    names = ("volumes", "labels", "without", "used", "associated", "distractor", "ignored")
    return replace(drawn, **{name: getattr(drawn, name)[:n] for name in names})


def _runner_up(model: nn.Module, drawn: PhantomVolumes) -> NDArray[np.intp]:
    """Return the class, other than the true one, that the model finds most likely."""
    logits = _logits(model, drawn).copy()
    logits[np.arange(len(logits)), drawn.labels] = -np.inf
    return np.asarray(logits.argmax(axis=1), dtype=np.intp)


def _padded(numbers: Sequence[float], n: int) -> NDArray[np.float64]:
    """Return one number per volume, NaN for those that were left out."""
    return np.array([*numbers, *[float("nan")] * (n - len(numbers))], dtype=np.float64)


def held_out(recipe: ModelRecipe, n: int) -> PhantomVolumes:
    """Return test volumes, their truth corrected for what this kind of model can see."""
    drawn = recipe.phantom.draw(n, "test", recipe.seed)
    edges = (recipe.patch_size,) * 3
    return correct_truth(drawn, edges, patch_norm=recipe.patch_norm)


def accuracy(model: nn.Module, drawn: PhantomVolumes) -> float:
    """Return the share of volumes that the model classifies rightly."""
    return float((_logits(model, drawn).argmax(axis=1) == drawn.labels).mean())


@torch.no_grad()
def _logits(model: nn.Module, drawn: PhantomVolumes, batch_size: int = 20) -> NDArray[np.float32]:
    x = torch.from_numpy(drawn.volumes)[:, None]
    logits = torch.cat([model(some) for some in torch.split(x, batch_size)])
    return np.asarray(logits.numpy(), dtype=np.float32)


@torch.no_grad()
def _removal(
    model: nn.Module,
    recipe: ModelRecipe,
    drawn: PhantomVolumes,
    maps: dict[str, RowMaps],
    values: dict[str, dict[str, NDArray[np.float64]]],
    n: int,
) -> None:
    """Add SRG, and SRG relative to random orders and to single removal."""
    n = min(n, len(drawn))
    edges = (recipe.patch_size,) * 3
    inside = np.flatnonzero(patch_sums(drawn.mask.astype(np.float32), edges))
    tokens = torch.cat(
        [embed(model, x) for x in torch.split(torch.from_numpy(drawn.volumes[:n])[:, None], 20)]
    )
    labels = drawn.labels[:n]
    if REMOVAL_ROW in maps:
        oracle_scores = maps[REMOVAL_ROW].patches.reshape(n, -1)[:, inside].astype(np.float64)
    else:
        oracle_scores = np.stack(
            [single_removal(model, t, int(c), inside) for t, c in zip(tokens, labels, strict=True)]
        )
    oracle = removal_gain(model, tokens, labels, oracle_scores, inside).mean()
    rng = np.random.default_rng([recipe.seed, 8])
    orders = [rng.standard_normal(oracle_scores.shape) for _ in range(3)]
    chance = float(np.mean([removal_gain(model, tokens, labels, o, inside) for o in orders]))
    for row, found in maps.items():
        scores = found.patches[:n].reshape(n, -1)[:, inside].astype(np.float64)
        gain = removal_gain(model, tokens, labels, scores, inside)
        values[row]["srg"] = _padded(gain.tolist(), len(drawn))
        values[row]["relative_srg"] = _padded(
            ((gain - chance) / (oracle - chance)).tolist(), len(drawn)
        )


def write_part(part: Part, path: Path) -> None:
    """Write a part, whole or not at all; numbers are kept to five digits."""
    values = {
        row: {key: [float(f"{v:.5g}") for v in numbers] for key, numbers in columns.items()}
        for row, columns in part.values.items()
    }
    text = to_json(replace(part, values=values), indent=None)  # type: ignore[arg-type]
    # Without the time of writing, so that the same part is the same file.
    write_whole(path, lambda beside: beside.write_bytes(gzip.compress(text.encode(), mtime=0)))


def read_part(path: Path) -> Part:
    """Read a part that `write_part` wrote."""
    known: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    known["values"] = {
        row: {key: np.array(numbers, dtype=np.float64) for key, numbers in columns.items()}
        for row, columns in known["values"].items()
        if row in ROWS
    }
    return Part(**known)
