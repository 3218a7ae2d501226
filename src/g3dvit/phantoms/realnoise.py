"""Activation in BOLD-like noise, with an equally strong activation that means nothing.

In the plain phantom the class is where a blob lies: each class has some places, one of which is
active. A *distractor* of the same size and strength lies at one of its own places, at least two
patches away from every target, whatever the class. Variants, one field each: clusters of the real
motor map in place of blobs; a *pattern* effect, where one place shows a texture or its negative;
a *suppressor*, a place without signal that shares the noise of the target; another strength.

The noise is simulated (`g3dvit.simulate`), or one person's residuals with random phases
(`g3dvit.phantoms.ResidualNoise`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid, Shape3
from g3dvit.phantoms.recipes import Family, Split, check_count, generator
from g3dvit.phantoms.residuals import ResidualNoise
from g3dvit.phantoms.sites import Point, Sites, blob, place_sites
from g3dvit.phantoms.values import PhantomVolumes
from g3dvit.simulate import Anatomy, NoiseModel, bold_noise, load_anatomy

_RUN = 100  # volumes of one simulated run
_NOISE = NoiseModel(fwhm_mm=14.0)
_CLASSES = ("a", "b")
#: Real clusters: what moves for each class, and what both classes share.
_MOTOR = ("left", "right")


@dataclass(frozen=True, slots=True)
class RealNoise:
    """Activation in BOLD-like noise.

    Parameters
    ----------
    effect
        ``"amplitude"``: the class is where the signal is higher; ``"pattern"``: the same place
        shows a zero-mean texture or its negative.
    activation
        ``"blob"``, or ``"motor"`` for clusters of the motor map that nilearn brings along, with
        the visual area as the distractor.
    suppressor
        True where a second place without signal shares the noise of the target.
    amplitude
        Height of a blob at its middle, in standard deviations of the noise.
    radius, jitter
        Of a blob, and how far it moves from volume to volume, in voxels.
    per_class, n_distractors
        Places of each class, and of the distractor; one of them is active.
    patch_size
        Of the model that the phantom is for: the distractor keeps two patches away.
    suppressor_noise
        Standard deviation of the shared noise, in those of the noise.
    noise
        Make-up of the simulated noise.
    residuals
        One person's noise in place of simulated noise.
    voxel_mm, shape
        The grid, centred on the MNI brain.
    family
        Development or sealed.

    Examples
    --------
    >>> drawn = RealNoise().draw(3, "test")
    >>> drawn.volumes.shape, drawn.class_names
    ((3, 30, 30, 30), ('a', 'b'))
    """

    effect: Literal["amplitude", "pattern"] = "amplitude"
    activation: Literal["blob", "motor"] = "blob"
    suppressor: bool = False
    amplitude: float = 2.5
    radius: float = 3.2
    jitter: float = 1.0
    per_class: int = 2
    n_distractors: int = 2
    patch_size: int = 5
    suppressor_noise: float = 1.5
    noise: NoiseModel = _NOISE
    residuals: ResidualNoise | None = None
    voxel_mm: float = 6.0
    shape: Shape3 = (30, 30, 30)
    family: Family = "development"

    def __post_init__(self) -> None:
        if self.effect not in ("amplitude", "pattern"):
            raise InputError(f"`effect` is amplitude or pattern, was given {self.effect!r}")
        if self.activation not in ("blob", "motor"):
            raise InputError(f"`activation` is blob or motor, was given {self.activation!r}")
        if self.activation == "motor" and (self.suppressor or self.effect == "pattern"):
            raise InputError(
                "motor clusters come with the amplitude effect and without a suppressor"
            )
        if self.amplitude < 0 or self.radius <= 0 or self.jitter < 0:
            raise InputError(f"amplitude and jitter are at least 0, the radius above 0: {self}")

    @property
    def name(self) -> str:
        """Short name for tables."""
        parts = ["realnoise"]
        parts += ["motor"] if self.activation == "motor" else []
        parts += ["pattern"] if self.effect == "pattern" else []
        parts += ["suppressor"] if self.suppressor else []
        parts += [f"amplitude {self.amplitude:g}"] if self.amplitude != 2.5 else []
        parts += ["residuals"] if self.residuals is not None else []
        return " ".join(parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return _MOTOR if self.activation == "motor" else _CLASSES

    @property
    def grid(self) -> ImageGrid:
        """Where the voxels are: the shape centred on the brain."""
        affine = np.diag([self.voxel_mm] * 3 + [1.0])
        middle = np.array([0.0, -18.0, 16.0])  # of the MNI brain, in mm
        affine[:3, 3] = middle - self.voxel_mm * (np.array(self.shape) - 1) / 2
        return ImageGrid(self.shape, affine)

    def anatomy(self) -> Anatomy:
        """Return the brain on the grid."""
        return _anatomy(self.shape, self.voxel_mm)

    def sites(self) -> Sites:
        """Return where the blobs lie; another layout for each family."""
        pattern = self.effect == "pattern"
        return place_sites(
            self.anatomy().brain,
            n_classes=1 if pattern else 2,
            per_class=1 if self.suppressor else self.per_class,
            n_distractors=self.n_distractors,
            n_suppressors=0 if not self.suppressor else (1 if pattern else 2),
            radius=self.radius,
            jitter=self.jitter,
            gap=2 * self.patch_size,
            rng=generator(self, "layout", 0),
        )

    def draw(self, n: int, split: Split = "train", seed: int = 0) -> PhantomVolumes:
        """Draw volumes, (n, i, j, k)."""
        check_count(n)
        rng = generator(self, split, seed)
        brain = self.anatomy().brain
        without = self._noise(n, split, rng)
        labels = rng.integers(2, size=n).astype(np.intp)
        plant = _Motor(self) if self.activation == "motor" else _Blobs(self)
        volumes = np.empty_like(without)
        masks = {
            name: np.zeros(without.shape, dtype=bool)
            for name in ("used", "associated", "distractor", "ignored")
        }
        for number in range(n):
            planted = plant(int(labels[number]), rng)
            without[number] += np.where(brain, planted.nuisance, 0)
            volumes[number] = without[number] + np.where(brain, planted.signal, 0)
            target = (planted.signal != 0) & brain
            masks["associated"][number] = target
            masks["used"][number] = target | (planted.suppressor & brain)
            masks["distractor"][number] = planted.distractor & brain
            masks["ignored"][number] = planted.empty & brain & ~masks["used"][number]
        return PhantomVolumes(
            volumes=volumes,
            labels=labels,
            without=without,
            mask=brain,
            grid=self.grid,
            class_names=self.class_names,
            **masks,
        )

    def _noise(self, n: int, split: Split, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return noise of unit standard deviation in the brain and 0 outside, (n, i, j, k)."""
        if self.residuals is not None:
            return self.residuals.draw(n, self.grid, self.anatomy().brain, split, rng)
        anatomy = self.anatomy()
        volumes = np.zeros((n, *self.shape), dtype=np.float32)
        for start in range(0, n, _RUN):
            run = bold_noise(anatomy, _RUN, 2.0, rng, self.noise)
            for number, values in zip(range(start, min(start + _RUN, n)), run, strict=False):
                volumes[number][anatomy.brain] = values
        return volumes


@lru_cache(maxsize=4)
def _anatomy(shape: Shape3, voxel_mm: float) -> Anatomy:
    return load_anatomy(RealNoise(shape=shape, voxel_mm=voxel_mm).grid, cluster_ml=30.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Planted:
    """What one volume gets; every field is (i, j, k)."""

    signal: NDArray[np.float32]
    nuisance: NDArray[np.float32]
    suppressor: NDArray[np.bool_]
    distractor: NDArray[np.bool_]
    empty: NDArray[np.bool_]


class _Blobs:
    """Plants blobs at the sites of a recipe."""

    def __init__(self, recipe: RealNoise) -> None:
        self.recipe = recipe
        self.sites = recipe.sites()
        every = [p for places in self.sites.targets for p in places]
        reach = recipe.radius + recipe.jitter
        self.places = np.zeros(recipe.shape, dtype=bool)
        for place in every:
            self.places |= blob(recipe.shape, place, reach) > 0
        rng = generator(recipe, "layout", 1)
        texture = rng.standard_normal(recipe.shape).astype(np.float32)
        self.texture = (texture - texture.mean()) / texture.std()

    def __call__(self, label: int, rng: np.random.Generator) -> _Planted:
        recipe, sites = self.recipe, self.sites
        pattern = recipe.effect == "pattern"
        places = sites.targets[0 if pattern else label]
        target = self._blob(places[rng.integers(len(places))], rng)
        signal = np.float32(recipe.amplitude) * target
        if pattern:
            signal = signal * self.texture * np.float32(2 * label - 1)
        distractor = self._blob(sites.distractors[rng.integers(len(sites.distractors))], rng)
        strength = self.texture if pattern else np.float32(1)
        sign = np.float32(rng.choice([-1, 1]) if pattern else 1)
        nuisance = np.float32(recipe.amplitude) * sign * distractor * strength
        suppressor = np.zeros(recipe.shape, dtype=bool)
        for number, place in enumerate(sites.suppressors):
            shared = np.float32(rng.normal(0, recipe.suppressor_noise))
            source = self._blob(place, rng)
            nuisance = nuisance + shared * source
            # The target's place carries the same noise, whether it is active or not.
            here = (
                target if pattern or number == label else self._blob(sites.targets[number][0], rng)
            )
            nuisance = nuisance + shared * here
            suppressor |= source > 0
        return _Planted(
            signal=np.asarray(signal, dtype=np.float32),
            nuisance=np.asarray(nuisance, dtype=np.float32),
            suppressor=suppressor,
            distractor=distractor > 0,
            empty=np.zeros_like(suppressor) if pattern else self.places & (target == 0),
        )

    def _blob(self, place: Point, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return a blob that has moved a little from its site."""
        direction = rng.standard_normal(3)
        direction *= self.recipe.jitter * rng.uniform() ** (1 / 3) / np.linalg.norm(direction)
        moved = np.asarray(place) + direction
        centre = (float(moved[0]), float(moved[1]), float(moved[2]))
        return blob(self.recipe.shape, centre, self.recipe.radius)


class _Motor:
    """Plants the clusters of the real motor map; the visual area is the distractor."""

    def __init__(self, recipe: RealNoise) -> None:
        self.recipe = recipe
        self.weights = recipe.anatomy().weights

    def __call__(self, label: int, rng: np.random.Generator) -> _Planted:
        own, other = _MOTOR[label], _MOTOR[1 - label]
        amplitude = np.float32(self.recipe.amplitude * rng.uniform(0.75, 1.25) / 2)
        signal = self._moved(own, rng) * amplitude
        visual = self._moved("visual", rng)
        return _Planted(
            signal=signal,
            nuisance=visual * amplitude,
            suppressor=np.zeros(visual.shape, dtype=bool),
            distractor=visual > 0,
            empty=(self.weights[other] > 0) & (signal == 0),
        )

    def _moved(self, condition: str, rng: np.random.Generator) -> NDArray[np.float32]:
        reach = int(self.recipe.jitter)
        moves = rng.integers(-reach, reach + 1, size=3)
        padded = np.pad(self.weights[condition], reach)
        i, j, k = (
            slice(reach + m, reach + m + n)
            for m, n in zip(moves.tolist(), self.recipe.shape, strict=True)
        )
        return np.asarray(padded[i, j, k], dtype=np.float32)
