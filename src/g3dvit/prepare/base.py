"""What every preparation step is: a small frozen value with a stage, a grid rule and a sentence.

Terms. The *source grid* is that of the file, the *prepared grid* that of the model's input. The
*brain* of a step is the mask of the `Mask` step before it, on the grid of the volume at hand.
Steps hold no state of a run: a step that must see the whole run first is *fitted*, which gives
another callable that is used for that run and never recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import PreparationError
from g3dvit.grids import ImageGrid
from g3dvit.plain import to_plain
from g3dvit.volumes import Volume

Brain = NDArray[np.bool_] | None

# The order of the steps; equal stages keep the order in which they are written.
DROP, DENOISE, SMOOTH, MASK_SOURCE, GRID, MASK_PREPARED, SCALE, STANDARDISE = range(8)

FLAT = 1e-6
"""A spread smaller than this share of the level is float32 rounding, no signal."""


class Apply(Protocol):
    """What turns one volume into the next."""

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""


class Step:
    """Base of the steps; the defaults are those of a step on the values of single volumes."""

    __slots__ = ()
    name: ClassVar[str]

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        raise NotImplementedError

    @property
    def needs_run(self) -> bool:
        """Whether the step must see the whole run before it can treat one volume."""
        return False

    def grid_of(self, grid: ImageGrid) -> ImageGrid:
        """Return the grid after the step."""
        return grid

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        raise NotImplementedError

    def fit(self, volumes: Iterable[tuple[Volume, Brain]], time_points: Sequence[int]) -> Apply:
        """See all volumes of a run once and return what treats each of them."""
        return self

    def describe(self) -> str:
        """Return one sentence for people."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the step as plain values, its name under ``step``."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: to_plain(getattr(self, field.name)) for field in fields}
        return {"step": self.name, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Step:
        """Return the step that `to_dict` described.

        Raises
        ------
        PreparationError
            If a key is unknown, missing or has a value that the step refuses.
        """
        allowed = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        arguments = {key: value for key, value in values.items() if key != "step"}
        check_keys(arguments, allowed, f"the step {cls.name!r}")
        try:
            return cls(**arguments)
        except TypeError as error:
            raise PreparationError(
                f"the step {cls.name!r} cannot be made from {arguments}: {error}; it takes "
                f"{', '.join(allowed)}"
            ) from error


def check_keys(values: Mapping[str, Any], allowed: Iterable[str], what: str) -> None:
    """Raise `PreparationError` where a mapping has keys that nothing would read."""
    allowed = list(allowed)
    unknown = sorted(set(map(str, values)) - set(allowed))
    if unknown:
        raise PreparationError(
            f"{what} has no {', '.join(map(repr, unknown))}; allowed are "
            f"{', '.join(allowed) or 'no settings'}"
        )


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise `PreparationError` unless a setting has one of the allowed values."""
    choices = list(allowed)
    if value not in choices:
        raise PreparationError(
            f"`{name}` is one of {', '.join(map(repr, choices))}, was given {value!r}"
        )


def check_number(
    name: str, value: object, *, minimum: float = -np.inf, above: float = -np.inf
) -> float:
    """Return a setting as a finite float, or raise `PreparationError`."""
    number = isinstance(value, (int, float, np.integer, np.floating))
    result = float(value) if number and not isinstance(value, bool) else np.nan  # type: ignore[arg-type]
    if not np.isfinite(result):
        raise PreparationError(f"`{name}` is a finite number, was given {value!r}")
    if result < minimum or result <= above:
        limit = f"at least {minimum:g}" if result < minimum else f"more than {above:g}"
        raise PreparationError(f"`{name}` must be {limit}, was given {value!r}")
    return result


def check_whole(name: str, value: object, *, minimum: int = 0) -> int:
    """Return a setting as an int of at least `minimum`, or raise `PreparationError`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or int(value) < minimum:  # type: ignore[call-overload]
        raise PreparationError(f"`{name}` is an integer of at least {minimum}, was given {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]
