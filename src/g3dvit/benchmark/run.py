"""Run the benchmark: train or load each model, make every map, measure, and remember.

The result of one case and seed is a *part*, one JSON file; a part that is there already, from
the same recipe and settings, is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from g3dvit.benchmark.cases import Case
from g3dvit.benchmark.files import write_text
from g3dvit.benchmark.maps import ROWS, SEED_ROW, MapSettings, RowMaps, make_maps
from g3dvit.benchmark.metrics import patch_sums, volume_metrics
from g3dvit.benchmark.models import ModelRecipe, TrainedModel, trained_model
from g3dvit.benchmark.removal import removal_gain, single_removal
from g3dvit.benchmark.vit3d import embed
from g3dvit.explain import Explainer
from g3dvit.grids import Shape3
from g3dvit.phantoms import PhantomVolumes, correct_truth, recipe_hash
from g3dvit.plain import to_json

Talk = Callable[[str], None]

#: Raised whenever the same maps get other numbers than before.
VERSION = 2


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a model is measured.

    Parameters
    ----------
    maps
        Which rows and how.
    n_test
        Held-out volumes.
    n_slow
        Volumes of these for token removal.
    """

    maps: MapSettings = MapSettings()  # noqa: RUF009 - a frozen value
    n_test: int = 200
    n_slow: int = 50


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
    recipe = case.with_seed(seed)
    key = recipe_hash(recipe.phantom, recipe, settings, VERSION)
    path = folder / "parts" / f"{case.name}_seed-{seed}_{key}.json"
    if path.exists():
        return read_part(path)
    say = talk or (lambda _line: None)

    def progress(epoch: int, epochs: int, accuracy: float) -> None:
        say(f"{case.name} seed {seed}: epoch {epoch} of {epochs}, accuracy {accuracy:.3f}")

    trained = trained_model(recipe, cache, progress=progress)
    say(f"{case.name} seed {seed}: maps of {settings.n_test} volumes")
    part = measure(case.name, trained, settings)
    write_text(path, to_json(part, indent=None))
    return part


def measure(name: str, trained: TrainedModel, settings: RunSettings) -> Part:
    """Measure every row on held-out volumes of the model's phantom."""
    recipe = trained.recipe
    drawn = held_out(recipe, settings.n_test)
    explainer = Explainer(trained.model, (1, *drawn.mask.shape))
    maps = make_maps(explainer, drawn, settings.maps, seed=recipe.seed)
    edges = (recipe.patch_size,) * 3
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for row, found in maps.items():
        numbers = [volume_metrics(one, drawn, n, edges) for n, one in enumerate(found.maps)]
        values[row] = {key: np.array([line[key] for line in numbers]) for key in numbers[0]}
    if SEED_ROW in values:
        for columns in values.values():
            better = (columns["auc"] > values[SEED_ROW]["auc"]).astype(np.float64)
            columns["beats_seed"] = np.where(np.isnan(columns["auc"]), np.nan, better)
    if settings.n_slow:
        _removal(trained.model, recipe, drawn, maps, values, settings.n_slow)
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


def held_out(recipe: ModelRecipe, n: int) -> PhantomVolumes:
    """Return test volumes, their truth corrected for what this kind of model can see."""
    drawn = recipe.phantom.draw(n, "test", recipe.seed)
    edges = (recipe.patch_size,) * 3
    return correct_truth(drawn, edges, patch_norm=recipe.patch_norm)


@torch.no_grad()
def accuracy(model: nn.Module, drawn: PhantomVolumes, batch_size: int = 20) -> float:
    """Return the share of volumes that the model classifies rightly."""
    x = torch.from_numpy(drawn.volumes)[:, None]
    logits = torch.cat([model(some) for some in torch.split(x, batch_size)])
    return float((logits.argmax(dim=1).numpy() == drawn.labels).mean())


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
    inside = np.flatnonzero(_patch_means(drawn.mask[None].astype(np.float32), edges)[0] > 0)
    tokens = torch.cat(
        [embed(model, x) for x in torch.split(torch.from_numpy(drawn.volumes[:n])[:, None], 20)]
    )
    labels = drawn.labels[:n]
    oracle_scores = np.stack(
        [single_removal(model, t, int(c), inside) for t, c in zip(tokens, labels, strict=True)]
    )
    oracle = removal_gain(model, tokens, labels, oracle_scores, inside).mean()
    rng = np.random.default_rng([recipe.seed, 8])
    orders = [rng.standard_normal(oracle_scores.shape) for _ in range(3)]
    chance = float(np.mean([removal_gain(model, tokens, labels, o, inside) for o in orders]))
    for row, found in maps.items():
        scores = _patch_means(found.maps[:n], edges)[:, inside]
        gain = removal_gain(model, tokens, labels, scores, inside)
        blank = np.full(len(drawn), np.nan)
        values[row]["srg"], values[row]["relative_srg"] = blank, blank.copy()
        values[row]["srg"][:n] = gain
        values[row]["relative_srg"][:n] = (gain - chance) / (oracle - chance)


def _patch_means(maps: NDArray[np.float32], edges: Shape3) -> NDArray[np.float64]:
    """Return the mean over each patch, (n, patches), in the order of the tokens."""
    sums = patch_sums(maps.astype(np.float64), edges)
    return sums.reshape(len(maps), -1) / np.prod(edges)


def read_part(path: Path) -> Part:
    """Read a part that `run_case` wrote."""
    known: dict[str, Any] = json.loads(path.read_text())
    known["values"] = {
        row: {key: np.array(numbers, dtype=np.float64) for key, numbers in columns.items()}
        for row, columns in known["values"].items()
        if row in ROWS
    }
    return Part(**known)
