"""What is associated with a model's score, over volumes: the pattern beside the filter.

A model may need a place that by itself says nothing about the class, to take noise away from a
place that does (a suppressor); relevance marks both, and rightly, because both are used. The
*pattern* of Haufe et al. is the other question: where does the signal go up and down with the
score? For a model that is linear in its input, ``y = w . x``, it is ``Cov(x) w``.

It belongs to a set of volumes and not to one, so it is no method of `g3dvit.Explainer.explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.capture import first_output, guest
from g3dvit.errors import InputError, TargetError
from g3dvit.explain import Explainer
from g3dvit.explain_inputs import check_volumes, choose_batch_size, to_input
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.targets import (
    Chosen,
    ScoreFunction,
    choose,
    refuse_one_sigmoid,
    refuse_target_of_function,
    resolve_score,
    score_batch,
    score_name,
    split_targets,
)

Progress = Callable[[int], None]
_FEWEST = 3


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """Association of every voxel with one score, over volumes.

    A target axis is there only where several targets were asked for.

    Parameters
    ----------
    covariance : ([targets,] i, j, k)
        Of the voxel with the score over volumes (divided by n - 1), summed over channels, in units
        of the input times the score.
    correlation : ([targets,] i, j, k)
        The same without units, -1 to 1; 0 where a voxel does not vary.
    score_sd : ([targets])
        Standard deviation of the score over volumes. ``covariance / score_sd ** 2`` is the signal
        that comes with one unit of the score (equation 6 of the paper).
    num_volumes
        How many volumes; neighbouring time points are no independent evidence.
    target, score
        What was asked for.
    """

    covariance: Float[NDArray[np.float64], "... i j k"] = field(repr=False)
    correlation: Float[NDArray[np.float64], "... i j k"] = field(repr=False)
    score_sd: NDArray[np.float64]
    num_volumes: int
    target: Any
    score: str

    def to_map(self, grid: ImageGrid) -> RelevanceMap:
        """Return the covariance as an image, with the correlation beside it.

        Parameters
        ----------
        grid
            Of the prepared volumes.

        Raises
        ------
        InputError
            If there are several targets: an image holds one.
        """
        if self.covariance.ndim != 3:
            raise InputError("an image holds one pattern; ask for one target")
        return RelevanceMap(
            data=self.covariance.astype(np.float32),
            grid=grid,
            metadata={
                "method": "pattern",
                "title": "pattern: covariance of the input with the score",
                "paper": "Haufe et al. 2014, https://doi.org/10.1016/j.neuroimage.2013.10.067",
                "units": f"input times {self.score.replace('_', '-')}",
                "target": str(self.target),
                "score": self.score,
                "score_sd": float(self.score_sd),
                "num_volumes": self.num_volumes,
            },
            companions={"correlation": self.correlation.astype(np.float32)},
        )


def pattern(
    explainer: Explainer,
    x: Any,
    *,
    target: Any = None,
    score: str | ScoreFunction = "log_odds",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Pattern:
    """Return where the input goes up and down with a model's score.

    Parameters
    ----------
    explainer
        Of the model.
    x : (volumes, *input_shape), or an iterable of such
        Volumes of all classes, in the form that the model takes; parts of a long run may come one
        after the other.
    target
        ONE class or contrast (a, b) for all volumes, or a list of these; None is class 1.
        A target that differs between volumes ("predicted", "label") would mix opposite scores.
    score
        As for `Explainer.explain`.
    batch_size
        Volumes at a time.
    progress
        Called with the number of volumes done.

    Raises
    ------
    InputError
        If there are fewer than 3 volumes, or they do not fit the model.
    TargetError
        If the target is not the same for all volumes, or the score does not vary.

    References
    ----------
    Haufe et al. 2014, https://doi.org/10.1016/j.neuroimage.2013.10.067

    Examples
    --------
    >>> from g3dvit import Explainer, pattern
    >>> from torch import nn
    >>> class Linear(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.norm = nn.Conv3d(1, 8, 2, 2), nn.LayerNorm(8)
    ...         self.head = nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return self.head(self.norm(self.embed(x).flatten(2).transpose(1, 2)).mean(1))
    >>> found = pattern(Explainer(Linear(), (1, 4, 6, 8)), torch.randn(20, 1, 4, 6, 8), target=1)
    >>> found.covariance.shape
    (4, 6, 8)
    """
    geometry = explainer.geometry
    scored = resolve_score(score, ())
    refuse_one_sigmoid(scored, geometry.one_sigmoid)
    default = "predicted" if not isinstance(scored, str) else 1
    wanted = default if target is None else target
    refuse_target_of_function(scored, wanted)
    targets, several = split_targets(wanted, geometry.num_outputs)
    if isinstance(scored, str) and {"predicted", "label"} & {str(t) for t in targets}:
        raise TargetError(
            f"a pattern is over volumes and needs one target for all of them, was given {wanted!r};"
            " name a class or a contrast (a, b)"
        )
    parts = [x] if isinstance(x, (Tensor, np.ndarray)) else x
    running = _Running(len(targets))
    with guest(explainer.model) as network, torch.no_grad():
        for volumes in parts if isinstance(parts, Iterable) else [parts]:
            checked = check_volumes(volumes, geometry.input_shape)
            size = choose_batch_size(batch_size, geometry)
            for start in range(0, len(checked), size):
                inputs = to_input(checked[start : start + size], network)
                logits = first_output(network(inputs))
                chosen: tuple[tuple[Chosen, ...], ...] = (("score",),) * len(logits)
                if isinstance(scored, str):
                    chosen = choose(targets, logits, explainer.class_names)
                values = score_batch(chosen, logits, scored).values
                running.add(_voxels(inputs, geometry.spatial_axes), values.double().cpu().numpy())
                if progress is not None:
                    progress(running.n)
    return running.pattern(target=wanted, score=score_name(scored), several=several)


def _voxels(x: Tensor, spatial_axes: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return (batch, i, j, k), summed over channels."""
    axes = [axis + 1 for axis in spatial_axes]
    rest = tuple(axis for axis in range(1, x.ndim) if axis not in axes)
    ordered = x.double().permute(0, *axes, *rest)
    return np.asarray(ordered.flatten(4).sum(4).cpu().numpy() if rest else ordered.cpu().numpy())


class _Running:
    """Covariances of voxels with scores, batch after batch, without keeping a volume."""

    def __init__(self, targets: int) -> None:
        self.n, self.targets = 0, targets
        self.mean_x = self.square_x = self.product = np.zeros(())
        self.mean_y, self.square_y = np.zeros(targets), np.zeros(targets)

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """Take volumes (batch, i, j, k) with their scores (batch, targets) into account."""
        n, total = len(x), self.n + len(x)
        x_mean, y_mean = x.mean(0), y.mean(0)
        dx, dy = x - x_mean, y - y_mean
        between_x, between_y = x_mean - self.mean_x, y_mean - self.mean_y
        weight = self.n * n / total
        self.square_x = self.square_x + (dx**2).sum(0) + weight * between_x**2
        self.square_y = self.square_y + (dy**2).sum(0) + weight * between_y**2
        within = np.einsum("bijk,bt->tijk", dx, dy)
        self.product = self.product + within + weight * np.multiply.outer(between_y, between_x)
        self.mean_x = self.mean_x + between_x * n / total
        self.mean_y = self.mean_y + between_y * n / total
        self.n = total

    def pattern(self, *, target: Any, score: str, several: bool) -> Pattern:
        """Return what was found."""
        if self.n < _FEWEST:
            raise InputError(f"a pattern needs at least {_FEWEST} volumes, was given {self.n}")
        if not bool((self.square_y > 0).all()):
            raise TargetError(
                f"the {score} is the same for all {self.n} volumes; there is no pattern"
            )
        below = np.sqrt(np.multiply.outer(self.square_y, self.square_x))
        correlation = np.divide(self.product, below, out=np.zeros_like(below), where=below > 0)
        covariance = self.product / (self.n - 1)
        sd = np.sqrt(self.square_y / (self.n - 1))
        pick = slice(None) if several else 0
        return Pattern(covariance[pick], correlation[pick], sd[pick], self.n, target, score)
