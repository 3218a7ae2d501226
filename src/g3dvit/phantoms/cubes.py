"""A box in texture: the seed project's phantom, with its flaws removed or as it was.

The box adds a constant to its voxels. In the *position* task the constant is 1 and the class is
the octant of the volume in which the box lies; in the *content* task the box may lie anywhere,
and the constant is +1 or -1. As it was: background of one value, which a model that normalises
patches cannot tell from zero; and boxes aligned with the patches, which such a model cannot see.

References
----------
The seed project: https://github.com/gillet-thomas/G3D-ViT
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid, Shape3
from g3dvit.phantoms.recipes import Family, Split, check_count, generator
from g3dvit.phantoms.values import PhantomVolumes


@dataclass(frozen=True, slots=True)
class Cubes:
    """A box in texture.

    Parameters
    ----------
    task
        What tells the classes apart: ``"position"`` (8 octants) or ``"content"`` (+1 or -1).
    texture
        ``"random"``: the box is added to white noise; ``"constant"``: it replaces a constant.
    aligned
        True where boxes lie at multiples of their own size.
    size
        Edge of the box, in voxels.
    noise
        Standard deviation of the texture, or the constant.
    shape
        Of the volume.
    margin
        In the position task, how far the box's centre stays from the planes between octants, in
        voxels.
    family
        Development or sealed.

    Examples
    --------
    >>> drawn = Cubes(task="content").draw(4, "test")
    >>> drawn.volumes.shape, drawn.class_names, int(drawn.used[0].sum())
    ((4, 30, 30, 30), ('minus', 'plus'), 512)
    """

    task: Literal["position", "content"] = "position"
    texture: Literal["random", "constant"] = "random"
    aligned: bool = False
    size: int = 8
    noise: float = 0.5
    shape: Shape3 = (30, 30, 30)
    margin: float = 1.0
    family: Family = "development"

    def __post_init__(self) -> None:
        if self.task not in ("position", "content") or self.texture not in ("random", "constant"):
            raise InputError(
                f"`task` is position or content, `texture` random or constant; was given {self}"
            )
        if not 1 <= self.size <= min(self.shape) // 2 or self.noise < 0 or self.margin < 0:
            raise InputError(
                f"the box fits into an octant, noise and margin are at least 0; was given {self}"
            )

    @classmethod
    def as_it_was(cls, task: Literal["position", "content"] = "position") -> Cubes:
        """Return the seed project's phantom: aligned boxes of 10 voxels in a constant."""
        return cls(task=task, texture="constant", aligned=True, size=10, noise=0.0, margin=0.0)

    @property
    def name(self) -> str:
        """Short name for tables."""
        flaws = "" if self.texture == "random" and not self.aligned else " as it was"
        return f"cubes {self.task}{flaws}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Octants by low (L) or high (H) along i, j, k; or the sign."""
        if self.task == "content":
            return ("minus", "plus")
        return tuple(f"{a}{b}{c}" for a in "LH" for b in "LH" for c in "LH")

    def draw(self, n: int, split: Split = "train", seed: int = 0) -> PhantomVolumes:
        """Draw volumes, (n, i, j, k)."""
        check_count(n)
        rng = generator(self, split, seed)
        box = np.zeros((n, *self.shape), dtype=bool)
        labels = np.empty(n, dtype=np.intp)
        signs = np.ones(n, dtype=np.float32)
        for number in range(n):
            start = self._start(rng)
            i, j, k = (slice(s, s + self.size) for s in start)
            box[number, i, j, k] = True
            if self.task == "content":
                labels[number] = rng.integers(2)
                signs[number] = 2 * labels[number] - 1
            else:
                high = [s + (self.size - 1) / 2 > (m - 1) / 2 for s, m in self._along(start)]
                labels[number] = 4 * high[0] + 2 * high[1] + high[2]
        without, volumes = self._values(rng, box, signs)
        nothing = np.zeros_like(box)
        return PhantomVolumes(
            volumes=volumes,
            labels=labels,
            without=without,
            used=box,
            associated=box,
            distractor=nothing,
            ignored=nothing,
            mask=np.ones(self.shape, dtype=bool),
            grid=ImageGrid(self.shape, np.diag([2.0, 2.0, 2.0, 1.0])),
            class_names=self.class_names,
        )

    def _along(self, start: list[int]) -> list[tuple[int, int]]:
        return list(zip(start, self.shape, strict=True))

    def _start(self, rng: np.random.Generator) -> list[int]:
        """Draw the first voxel of a box."""
        starts = []
        for length in self.shape:
            allowed = np.arange(0, length - self.size + 1, self.size if self.aligned else 1)
            if self.task == "position":
                centre = allowed + (self.size - 1) / 2
                away = np.abs(centre - (length - 1) / 2)
                # A box whose centre is the plane itself belongs to no octant.
                allowed = allowed[(away >= self.margin) & (away > 0)]
            starts.append(int(rng.choice(allowed)))
        return starts

    def _values(
        self, rng: np.random.Generator, box: NDArray[np.bool_], signs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the volumes without and with their boxes."""
        signal = signs[:, None, None, None]
        if self.texture == "constant":
            without = np.full(box.shape, self.noise, dtype=np.float32)
            return without, np.where(box, signal, without).astype(np.float32)
        without = rng.standard_normal(box.shape, dtype=np.float32) * np.float32(self.noise)
        return without, (without + box * signal).astype(np.float32)
