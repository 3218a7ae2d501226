"""Methods that run the model on some of its patches, or with patches of other volumes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import KeptTokens, first_output
from g3dvit.checks import Check
from g3dvit.explain_context import Context, host
from g3dvit.methods import METHODS, occlusion, rise, token_removal
from g3dvit.targets import score_batch


def explain_removal(batch: Context) -> None:
    """Explain a batch with every method asked for that takes patches away.

    Raises
    ------
    MethodError
        If tokens cannot be taken out of this model, or references are missing or invisible to it.
    """
    with torch.no_grad():
        scores = batch.choose_scores(first_output(batch.run(batch.x)))
        names = [n for n in batch.request.methods if METHODS[n].source == "kept tokens"]
        kept: KeptTokens | None = None
        if set(names) - {"occlusion"}:
            kept = KeptTokens(batch.network, batch.geometry, run=batch.run)
        for name in names:
            references = batch.references(name) if name == "occlusion" else None
            maps, errors = [], []
            for volume, whole in enumerate(scores.values):
                error = torch.zeros(())
                if references is not None:
                    swapped = _score_of_swapped(batch, volume, references)
                    found = occlusion(swapped, whole, len(references))
                elif name == "rise":
                    assert kept is not None  # made above for every method but occlusion
                    found, error = _rise(batch, kept, volume)
                else:
                    assert kept is not None
                    score = _score_of_kept(batch, kept, volume)
                    found = token_removal(score, whole, batch.geometry.num_patches)
                maps.append(found)
                errors.append(error)
            _store(batch, name, torch.stack(maps), scores.values, errors)


def _scores(batch: Context, volume: int, logits: Tensor) -> Tensor:
    """Return the scores (targets, n) of a volume's targets for other outputs (n, outputs)."""
    assert batch.chosen is not None  # with the first pass
    chosen = (batch.chosen[volume],) * len(logits)
    return score_batch(chosen, logits, batch.request.score).values.T


def _score_of_kept(batch: Context, kept: KeptTokens, volume: int) -> Callable[[Tensor], Tensor]:
    x = batch.x[volume : volume + 1]
    return lambda keep: _scores(batch, volume, kept(x, keep))


def _rise(batch: Context, kept: KeptTokens, volume: int) -> tuple[Tensor, Tensor]:
    return rise(
        _score_of_kept(batch, kept, volume),
        batch.geometry.num_patches,
        samples=batch.option("rise", "samples"),
        seed=batch.option("rise", "seed"),
    )


def _score_of_swapped(batch: Context, volume: int, references: Tensor) -> Callable[[int], Tensor]:
    """Return what gives the scores with each patch in turn taken from one reference."""
    geometry = batch.geometry
    size = max(1, 4096 // geometry.num_tokens)
    size -= size > 1 and size in (geometry.num_tokens, geometry.num_patches)

    def score(number: int) -> Tensor:
        parts = []
        for start in range(0, geometry.num_patches, size):
            patches = range(start, min(start + size, geometry.num_patches))
            x = batch.x[volume].repeat(len(patches), *[1] * (batch.x.ndim - 1))
            for row, patch in zip(x, patches, strict=True):
                place = geometry.patch_place(patch)
                row[place] = references[number][place]
            parts.append(_scores(batch, volume, first_output(batch.run(x))))
        return torch.cat(parts, dim=1)

    return score


def _store(batch: Context, name: str, found: Tensor, values: Tensor, errors: list[Tensor]) -> None:
    """Keep maps (batch, targets, patches), and judge them."""
    grid = batch.geometry.grid_shape
    batch.store(name, [{"relevance": host(one.reshape(-1, *grid))} for one in found.unbind(1)])
    largest = found.abs().amax(2)
    size = torch.maximum(largest, values.abs()).clamp_min(torch.finfo(found.dtype).tiny)
    shares = (largest / size).amin(1).tolist()
    rows: list[tuple[Check, ...]] = [(diagnose.check_removal(share),) for share in shares]
    if name == "rise":
        noise = [
            float((e.square().mean(1).sqrt() / f.std(1, correction=0)).amax())
            for e, f in zip(errors, found, strict=True)
        ]
        rows = [(*row, diagnose.check_draws(n)) for row, n in zip(rows, noise, strict=True)]
    batch.found.checks[name] = rows
