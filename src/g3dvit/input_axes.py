"""The way from a volume (i, j, k) to a model's input axes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import DescriptionError
from g3dvit.grids import Shape3


@dataclass(frozen=True, slots=True)
class InputAxes:
    """Where a model's input has the volume's axes.

    Parameters
    ----------
    order
        The spatial axes in the order the model takes them, such as ``"kij"``.
    channels
        Size of the channel axis; None where there is none.
    channel_axis
        Its position in one input, without the batch; None where there is none.
    """

    order: str
    channels: int | None = None
    channel_axis: int | None = None

    @classmethod
    def parse(cls, text: str) -> InputAxes:
        """Read a pattern such as ``"b 1 k i j"``.

        Raises
        ------
        DescriptionError
            If it is not ``b`` followed by ``i``, ``j``, ``k`` and at most one number.
        """
        words = text.split() if isinstance(text, str) else []
        spatial = [word for word in words[1:] if word in ("i", "j", "k")]
        numbers = [word for word in words[1:] if word.isdecimal() and int(word) > 0]
        fits = words[:1] == ["b"] and sorted(spatial) == ["i", "j", "k"] and len(numbers) <= 1
        if not fits or len(words) != 1 + len(spatial) + len(numbers):
            raise DescriptionError(
                "`input_axes` says how volumes become the input: 'b' first, then 'i', 'j' and 'k' "
                "in the order the model takes them, and a number where it has a channel axis, "
                f"such as 'b 1 i j k', 'b i j k' or 'b 1 k i j'; was given {text!r}"
            )
        if not numbers:
            return cls("".join(spatial))
        return cls("".join(spatial), int(numbers[0]), words.index(numbers[0]) - 1)

    def check(self, input_shape: Sequence[int]) -> None:
        """Raise `DescriptionError` if a model with these axes cannot take such an input."""
        sizes = list(input_shape)
        if len(sizes) != 3 + (self.channels is not None):
            raise DescriptionError(
                f"`input_shape` {sizes} has {len(sizes)} axes without the batch, but `input_axes` "
                f"has {3 + (self.channels is not None)}"
            )
        if self.channel_axis is not None and sizes[self.channel_axis] != self.channels:
            raise DescriptionError(
                f"`input_shape` {sizes} has {sizes[self.channel_axis]} channels, but `input_axes` "
                f"{self.channels}"
            )

    def volume_shape(self, input_shape: Sequence[int]) -> Shape3:
        """Return the shape (i, j, k) of the volumes that make an input of that shape."""
        sizes = [n for axis, n in enumerate(input_shape) if axis != self.channel_axis]
        i, j, k = (sizes[self.order.index(letter)] for letter in "ijk")
        return (i, j, k)

    def input_shape(self, volume_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the input, without the batch, that such volumes make."""
        sizes = [volume_shape["ijk".index(letter)] for letter in self.order]
        if self.channel_axis is not None and self.channels is not None:
            sizes.insert(self.channel_axis, self.channels)
        return tuple(sizes)

    def to_input(self, volumes: NDArray[Any]) -> NDArray[Any]:
        """Turn volumes (batch, i, j, k) into an input; channels repeat the volume."""
        inputs = volumes.transpose(0, *(1 + "ijk".index(letter) for letter in self.order))
        if self.channel_axis is not None and self.channels is not None:
            inputs = np.expand_dims(inputs, 1 + self.channel_axis)
            inputs = np.repeat(inputs, self.channels, axis=1 + self.channel_axis)
        return np.ascontiguousarray(inputs)

    def from_input(self, values: NDArray[Any]) -> NDArray[Any]:
        """Turn an array (..., a, b, c) on the input's spatial axes into (..., i, j, k)."""
        before = values.ndim - 3
        axes = [before + self.order.index(letter) for letter in "ijk"]
        return values.transpose(*range(before), *axes)
