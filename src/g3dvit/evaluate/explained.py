"""Maps of some volumes as plain arrays, in the order in which patches are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.checks import worst
from g3dvit.explain import Explainer
from g3dvit.targets import Chosen


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """Maps of several methods.

    Parameters
    ----------
    logits : (volumes, outputs)
        The model's outputs.
    chosen
        What was explained, per volume.
    patches
        Method to (volumes, patches).
    voxels
        Method to (volumes, i, j, k) in the frame, for methods that have voxels.
    verdicts
        Method to the worst verdict per volume.
    """

    logits: NDArray[np.float64]
    chosen: tuple[Chosen, ...]
    patches: Mapping[str, NDArray[np.float64]] = field(repr=False)
    voxels: Mapping[str, NDArray[np.float64]] = field(repr=False)
    verdicts: Mapping[str, tuple[str, ...]] = field(repr=False)


def explain_volumes(
    explainer: Explainer,
    x: Tensor,
    methods: Sequence[str],
    *,
    target: Any = "predicted",
    chosen: Sequence[Chosen] | None = None,
    labels: Sequence[Any] | None = None,
    score: str = "log_odds",
    target_layer: str | None = None,
) -> Explained:
    """Explain volumes with several methods.

    Parameters
    ----------
    explainer
        Of the model.
    x : (volumes, *input_shape)
        The volumes.
    methods
        Names.
    target, labels
        As in `Explainer.explain`.
    chosen
        A class or contrast for each volume, instead of `target`.
    score
        What is explained.
    target_layer
        As in `Explainer.explain`.
    """
    if chosen is not None:
        contrasts = {one for one in chosen if isinstance(one, tuple)}
        target, labels = (next(iter(contrasts)), None) if contrasts else ("label", list(chosen))
    found = explainer.explain(
        x,
        list(methods),
        target=target,
        labels=labels,
        score=score,
        target_layer=target_layer,
    )
    first = next(iter(found.values()))
    return Explained(
        logits=np.asarray(first.logits.double().numpy()),
        chosen=first.target,
        patches={
            name: np.asarray(one.relevance.flatten(1).double().numpy())
            for name, one in found.items()
        },
        voxels={
            name: np.asarray(one.voxel_relevance.double().numpy())
            for name, one in found.items()
            if one.voxel_relevance is not None
        },
        verdicts={name: tuple(worst(row) for row in one.checks) for name, one in found.items()},
    )
