"""Maps of some volumes as plain arrays, in the order in which patches are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.checks import worst
from g3dvit.explain import Explainer, Explanation
from g3dvit.methods import Method, find_method
from g3dvit.targets import Chosen

#: Parts of a method's maps that are measured like maps of their own: name to method and part. The
#: content of frozen gates is what figures, pages and region tables show.
PARTS = {"frozen_gate_content": ("frozen_gate", "content")}


def method_behind(name: str) -> Method:
    """Return the method that makes a map of the table, with or without its name of a part.

    Raises
    ------
    MethodError
        If there is none.

    Examples
    --------
    >>> method_behind("frozen_gate_content").name
    'frozen_gate'
    """
    return find_method(PARTS.get(name, (name, ""))[0])


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
        Names of methods, or of `PARTS` of their maps.
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
        list(dict.fromkeys(method_behind(name).name for name in methods)),
        target=target,
        labels=labels,
        score=score,
        target_layer=target_layer,
    )
    first = next(iter(found.values()))
    of_name = {name: found[method_behind(name).name] for name in methods}
    return Explained(
        logits=np.asarray(first.logits.double().numpy()),
        chosen=first.target,
        patches={
            name: np.asarray(_patches(name, one).flatten(1).double().numpy())
            for name, one in of_name.items()
        },
        voxels={
            name: np.asarray(one.voxel_relevance.double().numpy())
            for name, one in of_name.items()
            if one.voxel_relevance is not None
        },
        verdicts={name: tuple(worst(row) for row in one.checks) for name, one in of_name.items()},
    )


def _patches(name: str, found: Explanation) -> Tensor:
    """Return the map that a name stands for, one number per patch."""
    part = PARTS.get(name, ("", "relevance"))[1]
    values: Tensor = getattr(found, part)
    return values
