"""Methods that read the gradient of the score at the input, at one place or along a path.

Multi-pass methods take a callable ``gradient`` that runs the model: from inputs (batch, ...) to
gradients (targets, batch, ...). Randomness comes from a seed only, and is the same for every
volume of a batch, so that a batch gives what its volumes give alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def gradient_x_input(values: Tensor, gradients: Tensor) -> Tensor:
    """Return gradient times input, number by number.

    Parameters
    ----------
    values : (batch, ...)
        What the model sees: the voxels, or the output of a normalisation straight on them.
    gradients : (targets, batch, ...)
        Of the scores with respect to it.

    References
    ----------
    Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713
    """
    return _wide(values) * _wide(gradients)


def smoothgrad(
    gradient: Gradient, x: Tensor, *, samples: int = 32, noise: float = 0.1, seed: int = 0
) -> Tensor:
    """Return the signed mean of the gradient over noisy copies of the input.

    Parameters
    ----------
    gradient
        From inputs (batch, ...) to gradients (targets, batch, ...).
    x : (batch, ...)
        The volumes.
    samples
        Number of copies.
    noise
        Standard deviation of the noise, in standard deviations of the voxels that are not 0.
    seed
        Of the noise.

    References
    ----------
    Smilkov et al. 2017, https://arxiv.org/abs/1706.03825
    """
    total: Tensor | None = None
    for copy in noisy_copies(x, samples=samples, noise=noise, seed=seed):
        found = _wide(gradient(copy))
        total = found if total is None else total + found
    assert total is not None  # at least one sample
    return total / samples


def noisy_copies(x: Tensor, *, samples: int, noise: float, seed: int) -> Iterator[Tensor]:
    """Yield copies of volumes with Gaussian noise, the same for every volume of a batch.

    Parameters
    ----------
    x : (batch, ...)
        The volumes.
    samples
        Number of copies.
    noise
        Standard deviation of the noise, in standard deviations of the voxels that are not 0.
    seed
        Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = torch.stack([_spread(volume) for volume in x]).reshape(-1, *(1,) * (x.ndim - 1))
    for _ in range(samples):
        one = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64).to(x)
        yield x + noise * spread.to(x) * one


def _spread(volume: Tensor) -> Tensor:
    inside = _wide(volume[volume != 0])
    return inside.std(correction=0) if len(inside) else torch.ones((), device=volume.device)


def integrated_gradients(
    gradient: Gradient, x: Tensor, references: Tensor, *, samples: int = 32
) -> Tensor:
    """Return integrated gradients, the mean over all references.

    ``R_v = (x_v - r_v) * integral_0^1 dy/dx_v(r + t (x - r)) dt``, by Gauss-Legendre quadrature.
    All shares add up to ``y(x) - mean y(r)``.

    Parameters
    ----------
    gradient
        From inputs (batch, ...) to gradients (targets, batch, ...).
    x : (batch, ...)
        The volumes.
    references : (references, ...)
        Where the paths begin.
    samples
        Points of each path.

    References
    ----------
    Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365
    """
    nodes, weights = np.polynomial.legendre.leggauss(samples)
    total: Tensor | None = None
    for reference in references:
        way = x - reference
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            found = _wide(gradient(reference + float(node) * way))
            part = float(weight) * found * _wide(way)
            total = part if total is None else total + part
    assert total is not None  # at least one reference
    return total / len(references)


def expected_gradients(
    gradient: Gradient, x: Tensor, references: Tensor, *, samples: int = 64, seed: int = 0
) -> Tensor:
    """Return expected gradients: points drawn on the paths from all references.

    The t of ``r + t (x - r)`` are drawn one from each of `samples` equal parts of 0..1, and the
    references in turn, in random order, so that the sum is steadier than with free draws.

    Parameters
    ----------
    gradient
        From inputs (batch, ...) to gradients (targets, batch, ...).
    x : (batch, ...)
        The volumes.
    references : (references, ...)
        Where the paths begin.
    samples
        Points in all.
    seed
        Of the draws.

    References
    ----------
    Erion et al. 2021, https://doi.org/10.1038/s42256-021-00343-w
    """
    draws = np.random.default_rng(seed)
    places = (np.arange(samples) + draws.random(samples)) / samples
    order = draws.permutation(np.arange(samples) % len(references))
    total: Tensor | None = None
    for place, number in zip(places, order, strict=True):
        way = x - references[number]
        part = _wide(gradient(references[number] + float(place) * way)) * _wide(way)
        total = part if total is None else total + part
    assert total is not None  # at least one sample
    return total / samples


def path_error(relevance: Tensor, difference: Tensor) -> Tensor:
    """Return how far the shares of a path method miss the change of the score, relative.

    Parameters
    ----------
    relevance : (batch, patches)
        Summed over each patch.
    difference : (batch,)
        Score of the volume less the mean score of the references.
    """
    size = torch.maximum(difference.abs(), relevance.abs().sum(1))
    missed = (relevance.sum(1) - difference).abs()
    return torch.where(size > 0, missed / torch.where(size > 0, size, 1.0), 0.0)
