"""What a row of the table of methods says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from g3dvit.methods.spreading import Spreading

Source = Literal[
    "layer",
    "layers",
    "linear head",
    "frozen gates",
    "gate variants",
    "shifts",
    "input",
    "attention",
    "kept tokens",
]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to make a map.

    Parameters
    ----------
    name
        As in ``explain(x, method=name)``.
    title
        As in prose.
    function
        The pure function behind it.
    equation
        Relevance R of patch p (or voxel v), score y, features d.
    paper, url
        Where it comes from.
    cost
        In passes, for one score.
    source
        What it needs: one ``"layer"`` (graph from there on), all ``"layers"`` that feed an
        attention, a ``"linear head"``, a pass with ``"frozen gates"`` or its ``"gate variants"``,
        such passes over ``"shifts"`` of the input, gradients at the ``"input"``, every
        ``"attention"``, or the model run on ``"kept tokens"``.
    space
        The finest resolution it gives.
    signed
        True if evidence against the target is negative.
    class_specific
        True if another target gives another map.
    linear
        True if it is linear in the score (with default arguments): contrasts are differences of
        classes, and the log-odds maps of two classes are opposite.
    complete
        True if its shares add up to the score.
    arguments
        Arguments of ``explain`` that only some methods take, and this one does.
    units
        Of its maps, where they are not those of the score.
    defaults
        Its own values of `arguments` that are None unless told.
    display_only
        True if its maps are made to be looked at: statistics on them find what is not there.
    against_surroundings
        True if voxels are told against the level around their patch, not against its mean.
    by_evidence
        True if shifts of the input count by the evidence that they keep.
    spreading
        How maps that are averaged over shifts spread a patch over its voxels
        (`g3dvit.methods.spreading`).
    """

    name: str
    title: str
    function: Callable[..., Any]
    equation: str
    paper: str
    url: str
    cost: str
    source: Source
    space: Literal["token", "voxel"]
    signed: bool
    class_specific: bool
    linear: bool
    complete: bool
    arguments: tuple[str, ...]
    units: str = ""
    defaults: Mapping[str, float] = field(default_factory=dict)
    display_only: bool = False
    against_surroundings: bool = False
    by_evidence: bool = False
    spreading: Spreading = "positive"
