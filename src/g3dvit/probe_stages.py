"""Where on its way through a model the input is still one token per block.

A *stage* is a tensor on the way that has the shape of tokens, (1, tokens, features) or
(tokens, 1, features). It is *unmixed* while changing one voxel moves one token; attention ends
that. The last unmixed stages hold the tokens as the transformer gets them, with class token and
registers.

Inputs are *random textures* from a private generator. A constant block, an added constant or a
doubled block are invisible to a model that normalises each patch first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from g3dvit.capture.tokens import Event, StopForward, watch_tensors
from g3dvit.errors import GeometryError

#: Largest movement of other tokens, relative to the one whose voxel changed, in unmixed stages.
#: Unmixed tokens repeat bit by bit on CPU; GPUs may round differently from run to run.
UNMIXED = 1e-4


def token_layout(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return (token axis, number of tokens) of a tensor of ONE volume, or None."""
    if len(shape) != 3 or shape[2] < 2:
        return None
    if shape[0] == 1 and shape[1] > 1:
        return 1, int(shape[1])
    if shape[1] == 1 and shape[0] > 1:
        return 0, int(shape[0])
    return None


def feature_layout(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return (2, number of tokens) of ONE volume with its features on axis 1, or None.

    Tokens are on one axis, (1, features, tokens), or on a grid, (1, features, a, b, c).
    """
    count = math.prod(shape[2:])
    return (2, count) if len(shape) in (3, 5) and shape[0] == 1 and count > 1 else None


def tokens_of(tensor: Tensor, token_axis: int) -> Tensor:
    """Return a stage of one volume as (tokens, features); axis 2 is all axes from there on."""
    ordered = tensor.detach().flatten(2) if token_axis == 2 else tensor.detach()
    return ordered.movedim(token_axis, 0).flatten(1)


class Textures:
    """Random inputs from a private generator, as the model takes them."""

    def __init__(self, model: nn.Module, input_shape: Sequence[int], seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        tensors = (*model.parameters(), *model.buffers())
        like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
        self._like = {"dtype": like.dtype, "device": like.device}
        self._shape = (1, *input_shape)
        self.base = self._draw()
        self._other = -self.base.sign() * self._draw().abs()

    def _draw(self) -> Tensor:
        # Bounded, so that a model that scales to its range is not moved as a whole, and away
        # from zero, so that every voxel moves clearly where its sign changes.
        values = torch.rand(self._shape, generator=self._generator) * 1.5 + 0.5
        signs = torch.rand(self._shape, generator=self._generator) < 0.5
        return torch.where(signs, values, -values)

    def input(self, values: Tensor) -> Tensor:
        """Return values as an input of the model."""
        return values.to(**self._like)  # type: ignore[call-overload,no-any-return]

    def another(self) -> Tensor:
        """Return a new random input."""
        return self.input(self._draw())

    def replaced(self, axis: int, planes: Sequence[int] | slice) -> Tensor:
        """Return the base input with planes of one axis (of the input, batch excluded) replaced."""
        values = self.base.clone().movedim(axis + 1, 0)
        values[planes] = self._other.movedim(axis + 1, 0)[planes]
        return self.input(values.movedim(0, axis + 1))

    def with_other_block(self, block: Mapping[int, slice]) -> Tensor:
        """Return the base input with a block replaced, given by its planes along axes."""
        axes = range(len(self._shape) - 1)
        place: tuple[int | slice, ...] = (0, *(block.get(a, slice(None)) for a in axes))
        values = self.base.clone()
        values[place] = self._other[place]
        return self.input(values)

    def with_other_middle(self, spatial_axes: Sequence[int]) -> Tensor:
        """Return the base input with another value in its middle voxel, in all channels."""
        sizes = enumerate(self._shape[1:])
        middle = (0, *(n // 2 if a in spatial_axes else slice(None) for a, n in sizes))
        values = self.base.clone()
        values[middle] = self._other[middle]
        return self.input(values)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its place in the order of execution, and its layout."""

    index: int
    token_axis: int
    num_tokens: int

    def has_form_of(self, other: Stage) -> bool:
        """Tell whether both have the same tokens axis, with the same number of tokens."""
        return (self.token_axis, self.num_tokens) == (other.token_axis, other.num_tokens)


class Sketches:
    """What each stage of one pass held, in short; call it with every event of that pass."""

    def __init__(self) -> None:
        self.of: dict[int, Tensor] = {}
        self._features_first: dict[int, Tensor] = {}

    def at(self, stages: Sequence[Stage]) -> dict[int, Tensor]:
        """Return the sketches of stages, each in its layout, by index."""
        chosen = ((s, self._features_first if s.token_axis == 2 else self.of) for s in stages)
        return {s.index: of[s.index] for s, of in chosen if s.index in of}

    def __call__(self, event: Event) -> None:
        """Remember a stage; other tensors pass by."""
        layout = token_layout(event.tensor.shape)
        if event.features_first and feature_layout(event.tensor.shape) is not None:
            self._features_first[event.index] = sketch(event.tensor, 2)
        if layout is not None and event.tensor.is_floating_point():
            self.of[event.index] = sketch(event.tensor, layout[0])


def last_unmixed_stage(
    model: nn.Module, x: Tensor, sketches: Mapping[int, Tensor], norm_tokens: set[int]
) -> Stage:
    """Return the last unmixed stage that has the token count of a normalisation."""
    ratios: list[tuple[Stage, float]] = []
    unmoved: list[int] = []

    def compare(event: Event) -> None:
        layout = token_layout(event.tensor.shape)
        before = sketches.get(event.index)
        if layout is None or before is None:
            return
        after = sketch(event.tensor, layout[0])
        if after.shape != before.shape:
            return
        moved = (after - before).norm(dim=1)
        if float(moved.max()) == 0:
            unmoved.append(event.index)
            return
        stage, ratio = Stage(event.index, *layout), _others(moved)
        ratios.append((stage, ratio))
        if ratio > 0.01 and any(
            r < UNMIXED and s.num_tokens == stage.num_tokens and s.num_tokens in norm_tokens
            for s, r in ratios
        ):
            raise StopForward  # the tokens have met; nothing behind this is of use

    with torch.no_grad(), watch_tensors(model, compare, norms=False):
        torch.manual_seed(0)  # as in the pass that is compared with
        model(x)
    if not ratios and unmoved and norm_tokens:
        raise GeometryError(
            "the tokens of this model do not change with its input: the weights of its patch "
            "embedding are all zero, or it does not use the volume"
        )
    if not ratios:
        raise GeometryError(
            "no tensor inside this model has the shape of tokens, (batch, tokens, features), and "
            "moves with the input; windowed, hierarchical and convolutional models, and models "
            "that look at slices or axes apart, have no single grid of patches, and are not "
            "supported"
        )
    floor = min(ratio for _, ratio in ratios)
    limit = max(UNMIXED, 3 * floor)
    unmixed = [stage for stage, ratio in ratios if ratio <= limit]
    if floor > 0.1 or not unmixed:
        raise GeometryError(
            "changing one voxel moves many tokens at every stage of this model, so that no token "
            "belongs to one block of the input; models with overlapping windows, hierarchies or "
            "a deep convolutional stem have no grid of patches, and are not supported"
        )
    of_norms = [stage for stage in unmixed if stage.num_tokens in norm_tokens]
    wanted = (of_norms or unmixed)[-1]
    # Much later stages may look unmixed again where the model itself standardises its input: the
    # last one before the tokens first meet counts.
    alike = [(stage, ratio) for stage, ratio in ratios if stage.has_form_of(wanted)]
    begin = next(n for n, (_, ratio) in enumerate(alike) if ratio <= limit)
    until_met = itertools.takewhile(lambda item: item[1] <= limit, alike[begin:])
    return list(until_met)[-1][0]


def sketch(tensor: Tensor, token_axis: int) -> Tensor:
    """Return enough of each token to see whether it moved: (tokens, at most 128 features)."""
    tokens = tokens_of(tensor, token_axis)
    step = -(-tokens.shape[1] // 128)
    return tokens[:, ::step].float().cpu().clone()


def _others(moved: Tensor) -> float:
    """Movement of the tokens that one voxel should not move, relative to the one it should.

    Up to eight tokens may share a voxel where patches overlap, fewer where there are few.
    """
    allowed = max(1, min(8, len(moved) // 4))
    ordered = moved.sort(descending=True).values
    return float(ordered[allowed] / ordered[0])
