"""What every phantom recipe has in common: a family, a hash, and generators of its own.

Terms: methods are chosen on recipes of the *development* family only; the *sealed* family has
other generators and other layouts, and is run once the choices are frozen. The *split* says what
volumes are for; volumes of different splits, seeds and families share no random number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal, Protocol, get_args

import numpy as np

from g3dvit.errors import InputError
from g3dvit.phantoms.values import PhantomVolumes
from g3dvit.plain import to_plain

Family = Literal["development", "sealed"]
Split = Literal["layout", "train", "test"]
FAMILIES: tuple[Family, ...] = get_args(Family)
SPLITS: tuple[Split, ...] = get_args(Split)

#: Raised whenever the same recipe gives other volumes than before.
VERSION = 1


class Recipe(Protocol):
    """A phantom with every factor chosen."""

    @property
    def name(self) -> str:
        """Short name for tables."""

    @property
    def family(self) -> Family:
        """Development or sealed."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""

    def draw(self, n: int, split: Split = "train", seed: int = 0) -> PhantomVolumes:
        """Draw volumes."""


def recipe_hash(*values: Any) -> str:
    """Return 16 hexadecimal digits that stand for everything in some frozen values.

    Examples
    --------
    >>> from g3dvit.phantoms import Cubes
    >>> recipe_hash(Cubes()) == recipe_hash(Cubes()), recipe_hash(Cubes(size=9)) == recipe_hash(Cubes())
    (True, False)
    """  # noqa: E501 - an example of one line
    parts = [
        {"type": type(v).__name__, "value": to_plain(v)} if dataclasses.is_dataclass(v) else v
        for v in values
    ]
    text = json.dumps([VERSION, to_plain(parts)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def generator(recipe: Any, split: Split, seed: int) -> np.random.Generator:
    """Return the source of randomness of one family, split and seed.

    Raises
    ------
    InputError
        If there is no such family or split, or the seed is negative.
    """
    if recipe.family not in FAMILIES:
        raise InputError(f"there is no family {recipe.family!r}; choose from {FAMILIES}")
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose from {SPLITS}")
    if seed < 0:
        raise InputError(f"`seed` is at least 0, was given {seed}")
    return np.random.default_rng([FAMILIES.index(recipe.family), SPLITS.index(split), seed])


def check_count(n: int) -> None:
    """Refuse to draw fewer than one volume."""
    if n < 1:
        raise InputError(f"`n` is the number of volumes, at least 1; was given {n}")
