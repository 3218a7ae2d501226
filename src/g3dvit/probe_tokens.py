"""Which block of the input feeds which token, found by changing the input and looking.

At a stage where the tokens are still unmixed (`g3dvit.probe_stages`), every block of the input is
traced to its token:

1. Replace everything: the tokens that stay are prefix and suffix tokens.
2. Replace the first plane of each axis: the share of tokens that move is one over the number of
   patches along that axis.
3. Replace slabs of patches in binary code: each token reads off its own coordinate.
4. Replace only the outer planes of every other slab: the borders are where they are believed.

Nothing is known here about classes of layers, and the number of tokens is never factored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from g3dvit.capture.tokens import Event, StopForward, watch_tensors
from g3dvit.errors import GeometryError
from g3dvit.grids import Shape3
from g3dvit.probe_stages import Sketches, Stage, Textures, last_unmixed_stage, tokens_of

#: Below this share of what a plane moves most, rounding moves it.
_AT_ALL = 1e-4


@dataclass(frozen=True, slots=True)
class TokenMap:
    """Where the patches of the input are among the tokens; see `g3dvit.geometry.Geometry`."""

    spatial_axes: Shape3
    channels: int
    grid_shape: Shape3
    patch_size: Shape3
    num_prefix_tokens: int
    num_suffix_tokens: int
    token_order: tuple[int, ...]
    overlapping: bool
    stage: int
    same_order: frozenset[int]  # earlier stages, by index, that hold the patches in this order

    @property
    def num_patches(self) -> int:
        """Number of patch tokens."""
        return len(self.token_order)

    @property
    def num_tokens(self) -> int:
        """Number of all tokens."""
        return self.num_prefix_tokens + self.num_patches + self.num_suffix_tokens


def find_tokens(
    model: nn.Module,
    textures: Textures,
    input_shape: Sequence[int],
    *,
    norms: Sequence[Stage],
    before: Sketches,
) -> TokenMap:
    """Trace every block of the input to its token.

    Parameters
    ----------
    model
        The module to call, inside `g3dvit.capture.guest`.
    textures
        Random inputs of that shape.
    input_shape
        Shape of one input without the batch axis: (i, j, k), or with channels before or after.
    norms
        The stages that the model's normalisations give; they tell the tokens of the transformer
        from other tensors of the same form.
    before
        The stages of a pass over `textures.base`.

    Raises
    ------
    GeometryError
        If no stage has one token per block, or the blocks do not form a grid of equal patches.
    """
    channel_axes = [None] if len(input_shape) == 3 else [0, 3]
    if len(input_shape) == 4 and input_shape[0] != 1 and input_shape[3] == 1:
        channel_axes.reverse()
    problem: GeometryError | None = None
    for channel_axis in channel_axes:
        spatial = tuple(a for a in range(len(input_shape)) if a != channel_axis)
        try:
            other = textures.with_other_middle(spatial)
            stage = last_unmixed_stage(model, other, before.of, {n.num_tokens for n in norms})
            tracer = _Tracer(model, textures, stage, norms)
            if channel_axis is not None and not tracer.all_move_with_plane(channel_axis):
                raise GeometryError(
                    f"axis {channel_axis} of an input of shape {tuple(input_shape)} is no channel "
                    "axis: its first plane moves some tokens only. A model takes (channels, i, j, "
                    "k) or (i, j, k)"
                )
            return _trace(tracer, input_shape, spatial, channel_axis)
        except GeometryError as error:
            problem = problem or error
    raise problem or GeometryError(f"no channel axis in {tuple(input_shape)}")


class _Tracer:
    """Runs the model up to one stage and tells how far each token moved, relative to all."""

    def __init__(
        self, model: nn.Module, textures: Textures, stage: Stage, norms: Sequence[Stage]
    ) -> None:
        self._model = model
        self._textures = textures
        self.stage = stage
        self._early = {n.index: n for n in norms if n.index < stage.index}
        self._before = self._tokens(textures.input(textures.base))
        after = self._tokens(textures.replaced(0, slice(None)))
        self._full = {n: _distance(after[n], self._before[n]).clamp_min(1e-30) for n in after}
        full = self._full[stage.index]
        if not bool(full.isfinite().all()):
            raise GeometryError(
                "the tokens of this model are too large for their squares to be computed, or no "
                "numbers, on random numbers between -2 and 2; its weights are broken or of another "
                "scale than its input"
            )
        #: Tokens that move with the input at all: (tokens,) bool.
        self.answers = full > 1e-3 * full.max()  # a model may weigh its tokens unequally

    def _tokens(self, x: Tensor) -> dict[int, Tensor]:
        """Return the tokens of the stage, and of earlier normalisations, by index."""
        kept: dict[int, Tensor] = {}

        def see(event: Event) -> None:
            last = event.index == self.stage.index
            stage = self.stage if last else self._early.get(event.index)
            if stage is not None:
                kept[event.index] = tokens_of(event.tensor, stage.token_axis).float().clone()
            if last:
                raise StopForward

        with torch.no_grad(), watch_tensors(self._model, see, norms=False):
            torch.manual_seed(0)  # the same randomness in every pass, where a model has any
            self._model(x)
        return kept

    def moved(
        self, axis: int, planes: Sequence[int] | slice, *, whole_slabs: bool = False
    ) -> Tensor:
        """Return how far each token moved, relative to its movement when all is replaced.

        Parameters
        ----------
        axis, planes
            What is replaced.
        whole_slabs
            Whether these are whole slabs of patches, so that each token moves fully or not at
            all. Earlier normalisations in which other tokens move then have another order.
        """
        after = self._tokens(self._textures.replaced(axis, planes))
        moved = {n: _distance(after[n], self._before[n]) / self._full[n] for n in after}
        main = moved.pop(self.stage.index)
        if whole_slabs:
            here = (main > 0.5, main[self.answers] > 0.5)  # all tokens, or the patches only
            for n, early in moved.items():
                if not any(torch.equal(early > 0.5, tokens) for tokens in here):
                    del self._early[n]
        return main

    @property
    def same_order(self) -> frozenset[int]:
        """Earlier normalisations that hold the patches in the same order, as far as was seen."""
        return frozenset(self._early)

    def all_move_with_plane(self, axis: int) -> bool:
        """Tell whether the first plane of an axis feeds every token that anything feeds."""
        moved = self.moved(axis, [0])[self.answers]
        return bool((moved > 0.1 * moved.max()).all())


def _distance(after: Tensor, before: Tensor) -> Tensor:
    distance: Tensor = (after - before).norm(dim=1)
    return distance.cpu()


def _trace(
    tracer: _Tracer, input_shape: Sequence[int], spatial: Sequence[int], channel_axis: int | None
) -> TokenMap:
    answers = tracer.answers
    positions = answers.nonzero().flatten()
    total = len(positions)
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 != total:
        raise GeometryError(
            f"{total} tokens move with the input, but other tokens stand between them; patch "
            "tokens that are not in one piece are not supported"
        )
    sizes = [input_shape[a] for a in spatial]
    grid = _grid(tracer, spatial, sizes, total)
    patch = [size // count for size, count in zip(sizes, grid, strict=True)]
    overlapping = False
    coordinates = torch.zeros((total, 3), dtype=torch.long)
    for column, axis in enumerate(spatial):
        code, soft = _coordinates(tracer, axis, grid[column], patch[column])
        coordinates[:, column] = code
        overlapping |= soft
        if not overlapping:
            _check_borders(tracer, axis, grid[column], patch[column], code)
    flat = (coordinates[:, 0] * grid[1] + coordinates[:, 1]) * grid[2] + coordinates[:, 2]
    if not torch.equal(flat.sort().values, torch.arange(total)):
        raise GeometryError(
            "several tokens answer to the same block of the input; the tokens are no grid of "
            f"{' x '.join(map(str, grid))} equal patches"
        )
    i, j, k = spatial
    return TokenMap(
        spatial_axes=(i, j, k),
        channels=1 if channel_axis is None else int(input_shape[channel_axis]),
        grid_shape=(grid[0], grid[1], grid[2]),
        patch_size=(patch[0], patch[1], patch[2]),
        num_prefix_tokens=first,
        num_suffix_tokens=len(answers) - 1 - last,
        token_order=tuple(flat.argsort().tolist()),
        overlapping=overlapping,
        stage=tracer.stage.index,
        same_order=tracer.same_order,
    )


def _grid(
    tracer: _Tracer, spatial: Sequence[int], sizes: Sequence[int], total: int
) -> tuple[int, int, int]:
    """Return the number of patches along each axis, from what its first plane moves."""
    first = []
    for axis in spatial:
        moved = tracer.moved(axis, [0])[tracer.answers].sort(descending=True).values
        if float(moved[0]) < 1e-6:
            raise GeometryError(
                f"the first plane of axis {axis} feeds no token: the model crops its input, or "
                "sets its outermost planes to one value; give it what it keeps, so that patches "
                "begin where the input begins, and mask volumes before they reach the model"
            )
        first.append(moved)
    # A plane may move some of its tokens much more than others. Where tokens of other planes do
    # not move at all, counting those that do needs no threshold.
    i, j, k = (total / int((moved > _AT_ALL * moved[0]).sum()) for moved in first)
    if i * j * k == total and all(n % g == 0 for n, g in zip(sizes, (i, j, k), strict=True)):
        return int(i), int(j), int(k)
    i, j, k = (
        _patches_along(moved, axis, size, total)
        for moved, axis, size in zip(first, spatial, sizes, strict=True)
    )
    if i * j * k != total:
        raise GeometryError(
            f"{total} tokens move with the input, but its axes divide into {i} x {j} x {k} "
            "patches; the tokens are no grid of equal patches"
        )
    return i, j, k


def _patches_along(moved: Tensor, axis: int, size: int, total: int) -> int:
    """Return the number of patches along an axis, from the share of tokens its first plane moves.

    The share is cut where the gap between moved and unmoved tokens is widest, among the cuts that
    give whole patches.
    """
    moved = torch.cat([moved / moved[0], torch.zeros(1)]).clamp_min(0.02)
    counts = [n for n in range(1, size + 1) if size % n == 0 and total % n == 0]
    best = max(counts, key=lambda n: float(moved[total // n - 1] / moved[total // n]))
    if float(moved[total // best - 1] / moved[total // best]) < 2:
        feeds = int((moved[:-1] > 0.3).sum())
        raise GeometryError(
            f"the first plane of axis {axis} ({size} voxels) feeds about {feeds} of {total} "
            "tokens, which gives no whole number of equal patches along it; crop or pad the input "
            "to a multiple of the patch size, and use patches of one size"
        )
    return best


def _coordinates(tracer: _Tracer, axis: int, count: int, patch: int) -> tuple[Tensor, bool]:
    """Return each patch token's coordinate along one axis, and whether patches overlap."""
    code = torch.zeros(int(tracer.answers.sum()), dtype=torch.long)
    overlapping = False
    slabs = torch.arange(count * patch) // patch
    for bit in range((count - 1).bit_length()):
        inside = (slabs >> bit) & 1 == 1
        planes = inside.nonzero().flatten().tolist()
        moved = tracer.moved(axis, planes, whole_slabs=True)[tracer.answers]
        undecided = (moved > 0.1) & (moved < 0.8)
        if bool(undecided.any()):
            # The block that moves a token clearly more than all others is its own.
            rest = tracer.moved(axis, (~inside).nonzero().flatten().tolist())[tracer.answers]
            overlapping |= bool((torch.minimum(moved, rest) > 1e-3).any())
            if bool(((moved < 1.5 * rest) & (rest < 1.5 * moved)).any()):
                raise GeometryError(
                    f"tokens answer to more than one block along axis {axis}: patches overlap, or "
                    "are not where a regular grid has them; such models are not supported"
                )
            moved = moved / (moved + rest)
        code += (moved > 0.5).long() << bit
    return code, overlapping


def _check_borders(tracer: _Tracer, axis: int, count: int, patch: int, code: Tensor) -> None:
    """Replace only the outer planes of every other slab: no token of another slab may move."""
    if count == 1:
        return
    planes = sorted({p for g in range(0, count, 2) for p in (g * patch, (g + 1) * patch - 1)})
    moved = tracer.moved(axis, planes)[tracer.answers]
    own, other = moved[code % 2 == 0], moved[code % 2 == 1]
    if float(other.max()) > 0.2 * float(own.median()):
        raise GeometryError(
            f"the borders between patches along axis {axis} are not at multiples of {patch} "
            "voxels; the tokens are no grid of equal patches that fills the input"
        )
