"""How well a map answers a question whose answer is known."""

from __future__ import annotations

from g3dvit.evaluate.localisation import (
    Localisation,
    localise,
    mass_over_volume,
    peak_distance_mm,
    roc_auc,
    side_shares,
)
from g3dvit.evaluate.pair_swaps import PairSwaps, pair_swaps

__all__ = [
    "Localisation",
    "PairSwaps",
    "localise",
    "mass_over_volume",
    "pair_swaps",
    "peak_distance_mm",
    "roc_auc",
    "side_shares",
]
