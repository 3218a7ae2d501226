"""Methods that read the gradient at the input: times input, over noise, along paths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import InputPass, first_output
from g3dvit.checks import Check
from g3dvit.explain_context import Context, host
from g3dvit.explanation import Maps
from g3dvit.methods import (
    METHODS,
    expected_gradients,
    gradient_x_input,
    integrated_gradients,
    path_error,
    smoothgrad,
)
from g3dvit.targets import score_batch


def explain_input(batch: Context) -> None:
    """Explain a batch with every method asked for that reads gradients at the input."""
    first = InputPass(batch.run, batch.x, normalised=True)
    scores = batch.choose_scores(first.logits)
    options = batch.request.options
    for name in batch.request.methods:
        if METHODS[name].source != "input":
            continue
        errors = None
        if name == "gradient_x_input":
            count = scores.values.shape[1]
            gradients = [first.gradients(scores.weights[:, n]) for n in range(count)]
            voxels = gradient_x_input(first.values, torch.stack(gradients))
        elif name == "smoothgrad":
            voxels = smoothgrad(
                _gradient(batch, normalised=True),
                batch.x,
                samples=batch.option(name, "samples"),
                noise=options.noise,
                seed=options.seed,
            )
        else:
            references = batch.references(name)
            gradient = _gradient(batch, normalised=False)
            if name == "integrated_gradients":
                voxels = integrated_gradients(
                    gradient, batch.x, references, samples=batch.option(name, "samples")
                )
            else:
                voxels = expected_gradients(
                    gradient,
                    batch.x,
                    references,
                    samples=batch.option(name, "samples"),
                    seed=options.seed,
                )
            errors = _path_errors(batch, voxels, scores.values, references)
        _store(batch, name, voxels, errors)


def _gradient(batch: Context, *, normalised: bool) -> Callable[[Tensor], Tensor]:
    """Return what gives (targets, batch, ...) gradients of the chosen scores at any input."""

    def gradient(x: Tensor) -> Tensor:
        there = InputPass(batch.run, x, normalised=normalised)
        assert batch.chosen is not None  # by the first pass
        scores = score_batch(batch.chosen, there.logits, batch.request.score)
        count = scores.values.shape[1]
        return torch.stack([there.gradients(scores.weights[:, n]) for n in range(count)])

    return gradient


def _path_errors(batch: Context, voxels: Tensor, values: Tensor, references: Tensor) -> Tensor:
    """Return the completeness errors (batch, targets) of a path method."""
    assert batch.chosen is not None  # by the first pass
    total = torch.zeros_like(values)
    with torch.no_grad():
        for reference in references:
            logits = first_output(batch.run(reference[None])).expand(len(batch.x), -1)
            total = total + score_batch(batch.chosen, logits, batch.request.score).values
    difference = values - total / len(references)
    patches = [batch.patch_sums(batch.volume(one)).flatten(1) for one in voxels]
    errors = [path_error(p, difference[:, n].to(p)) for n, p in enumerate(patches)]
    return torch.stack(errors, dim=1)


def _store(batch: Context, name: str, voxels: Tensor, errors: Tensor | None) -> None:
    maps: list[Maps] = []
    shares = []
    for number, one in enumerate(voxels):
        volume = batch.volume(one)
        patches = batch.patch_sums(volume)
        found = {"relevance": host(patches), "voxel_relevance": host(volume)}
        if errors is not None:
            found["completeness_error"] = host(errors[:, number])
        maps.append(found)
        shares.append(diagnose.cancelling(patches, volume))
    batch.store(name, maps)
    cancelling = torch.stack(shares).amin(0).tolist()
    dtype = batch.x.dtype
    rows: list[tuple[Check, ...]] = [
        (diagnose.check_cancelling(value, dtype),) for value in cancelling
    ]
    if errors is not None:
        worst = errors.amax(1).tolist()
        rows = [(*row, diagnose.check_path(error)) for row, error in zip(rows, worst, strict=True)]
    batch.found.checks[name] = rows
