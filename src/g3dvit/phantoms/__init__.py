"""Phantoms: volumes of which it is known what tells their classes apart, and where that lies.

A *recipe* is a frozen value with every factor as a field; ``recipe.draw(n, split, seed)`` gives
volumes, labels and truths. `Cubes` is a box in texture, told by its place or its sign;
`RealNoise` are blobs or motor clusters in BOLD-like noise, with an equally strong activation
that says nothing about the class. `visible` corrects a truth for what a model can see.
"""

from __future__ import annotations

from g3dvit.phantoms.cubes import Cubes
from g3dvit.phantoms.matching import matched_auc, matched_pairs
from g3dvit.phantoms.realnoise import RealNoise
from g3dvit.phantoms.recipes import FAMILIES, SPLITS, Family, Recipe, Split, recipe_hash
from g3dvit.phantoms.residuals import ResidualNoise
from g3dvit.phantoms.sites import Sites, place_sites
from g3dvit.phantoms.values import PhantomVolumes
from g3dvit.phantoms.visible import correct_truth, visible_patches

__all__ = [
    "FAMILIES",
    "SPLITS",
    "Cubes",
    "Family",
    "PhantomVolumes",
    "RealNoise",
    "Recipe",
    "ResidualNoise",
    "Sites",
    "Split",
    "correct_truth",
    "matched_auc",
    "matched_pairs",
    "place_sites",
    "recipe_hash",
    "visible_patches",
]
