"""Everything that an evaluation measured, before it is summarised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.targets import Chosen

Array = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Measured:
    """Everything that was measured; lists over volumes are in the order of `report`.

    Parameters
    ----------
    methods
        In the order of the table.
    selection, report
        Places of the volumes of each half.
    recommended
        The method chosen on the selection half.
    removal
        False where tokens could not be taken out and patches were replaced instead.
    logits, chosen, maps, verdicts
        Of all volumes.
    gains
        Method to SRG per selection volume.
    curves, regions, choices
        Per report volume (of the first few for choices).
    spread
        Method to change by distance, (places, bins), and the bins' edges in mm.
    sanity
        What randomisation, stability and context gave.
    """

    methods: tuple[str, ...]
    selection: list[int]
    report: list[int]
    recommended: str = ""
    removal: bool = True
    logits: Array = field(default_factory=lambda: np.empty(0))
    chosen: list[Chosen] = field(default_factory=list)
    maps: dict[str, Array] = field(default_factory=dict)
    verdicts: dict[str, list[str]] = field(default_factory=dict)
    gains: dict[str, list[float]] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)
    choices: list[list[dict[str, Any]]] = field(default_factory=list)
    spread: dict[str, Array] = field(default_factory=dict)
    spread_edges: Array = field(default_factory=lambda: np.empty(0))
    sanity: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
