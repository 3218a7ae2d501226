"""What a baseline computes, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from g3dvit.errors import InputError
from g3dvit.train.split import Unit

APPROACHES = ("linear", "glm", "searchlight")


@dataclass(frozen=True, slots=True)
class BaselineSettings:
    """What is computed and how.

    Parameters
    ----------
    split, n_folds, gap_volumes
        New folds; all None takes those of the model's own test where it has one on these data.
    radius_mm
        Of the searchlight's spheres.
    searchlight_minutes
        How long the searchlight may take; cubes of voxels are averaged until it does.
    skip
        Of `APPROACHES`.
    seed
        Of new folds.
    """

    split: Unit | None = None
    n_folds: int | None = None
    gap_volumes: int | None = None
    radius_mm: float = 12.0
    searchlight_minutes: float = 10.0
    skip: tuple[str, ...] = field(default=())
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.skip if name not in APPROACHES]
        if unknown or len(set(self.skip)) == len(APPROACHES):
            raise InputError(
                f"some of {', '.join(APPROACHES)} may be left out, not all; was given "
                f"{', '.join(self.skip)}"
            )
        if not (self.radius_mm > 0 and self.searchlight_minutes > 0):
            raise InputError(
                f"a radius in mm and minutes are positive, were given {self.radius_mm} and "
                f"{self.searchlight_minutes}"
            )
