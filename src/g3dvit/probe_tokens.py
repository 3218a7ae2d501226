"""Which block of the input feeds which token, found by changing the input and looking.

A *stage* is a tensor on the way that has the shape of tokens, (1, tokens, features) or
(tokens, 1, features). It is *unmixed* while changing one voxel moves one token; attention ends
that. The last unmixed stages hold the tokens as the transformer gets them, with class token and
registers, and there every block of the input is traced to its token:

1. Replace everything: the tokens that stay are prefix and suffix tokens.
2. Replace the first plane of each axis: the share of tokens that move is one over the number of
   patches along that axis.
3. Replace slabs of patches in binary code: each token reads off its own coordinate.
4. Replace only the outer planes of every other slab: the borders are where they are believed.

Blocks are *replaced by another random texture* from a private generator. A constant block, an
added constant or a doubled block are invisible to a model that normalises each patch first.
Nothing is known here about classes of layers, and the number of tokens is never factored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from g3dvit.capture.tokens import Event, StopForward, watch_tensors
from g3dvit.errors import GeometryError
from g3dvit.grids import Shape3

#: Largest movement of other tokens, relative to the one whose voxel changed, in unmixed stages.
#: Unmixed tokens repeat bit by bit on CPU; GPUs may round differently from run to run.
UNMIXED = 1e-4


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

    @property
    def num_patches(self) -> int:
        """Number of patch tokens."""
        return len(self.token_order)

    @property
    def num_tokens(self) -> int:
        """Number of all tokens."""
        return self.num_prefix_tokens + self.num_patches + self.num_suffix_tokens


def token_layout(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return (token axis, number of tokens) of a tensor of ONE volume, or None."""
    if len(shape) != 3 or shape[2] < 2:
        return None
    if shape[0] == 1 and shape[1] > 1:
        return 1, int(shape[1])
    if shape[1] == 1 and shape[0] > 1:
        return 0, int(shape[0])
    return None


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

    def with_other_middle(self, spatial_axes: Sequence[int]) -> Tensor:
        """Return the base input with another value in its middle voxel, in all channels."""
        sizes = enumerate(self._shape[1:])
        middle = (0, *(n // 2 if a in spatial_axes else slice(None) for a, n in sizes))
        values = self.base.clone()
        values[middle] = self._other[middle]
        return self.input(values)


@dataclass(frozen=True, slots=True)
class _Stage:
    index: int
    token_axis: int
    num_tokens: int


class Sketches:
    """What each stage of one pass held, in short; call it with every event of that pass."""

    def __init__(self) -> None:
        self.of: dict[int, Tensor] = {}

    def __call__(self, event: Event) -> None:
        """Remember a stage; other tensors pass by."""
        layout = token_layout(event.tensor.shape)
        if layout is not None and event.tensor.is_floating_point():
            self.of[event.index] = _sketch(event.tensor, layout[0])


def find_tokens(
    model: nn.Module,
    textures: Textures,
    input_shape: Sequence[int],
    *,
    norm_tokens: set[int],
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
    norm_tokens
        Token counts that the model's normalisations see; tells the tokens of the transformer
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
            stage = _last_unmixed_stage(
                model, textures.with_other_middle(spatial), before.of, norm_tokens
            )
            tracer = _Tracer(model, textures, stage)
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


def _last_unmixed_stage(
    model: nn.Module, x: Tensor, sketches: Mapping[int, Tensor], norm_tokens: set[int]
) -> _Stage:
    """Return the first of the last unmixed stages that have the transformer's token count."""
    ratios: list[tuple[_Stage, float]] = []

    def compare(event: Event) -> None:
        layout = token_layout(event.tensor.shape)
        before = sketches.get(event.index)
        if layout is None or before is None:
            return
        after = _sketch(event.tensor, layout[0])
        if after.shape != before.shape:
            return
        moved = (after - before).norm(dim=1)
        if float(moved.max()) == 0:
            return
        stage, ratio = _Stage(event.index, *layout), _others(moved)
        ratios.append((stage, ratio))
        if ratio > 0.01 and any(
            r < UNMIXED and s.num_tokens == stage.num_tokens and s.num_tokens in norm_tokens
            for s, r in ratios
        ):
            raise StopForward  # the tokens have met; nothing behind this is of use

    with torch.no_grad(), watch_tensors(model, compare, norms=False):
        model(x)
    if not ratios:
        raise GeometryError(
            "no tensor inside this model has the shape of tokens, (batch, tokens, features), and "
            "moves with the input; windowed, hierarchical and convolutional models have no single "
            "grid of patches, and are not supported"
        )
    floor = min(ratio for _, ratio in ratios)
    unmixed = [stage for stage, ratio in ratios if ratio <= max(UNMIXED, 3 * floor)]
    if floor > 0.1 or not unmixed:
        raise GeometryError(
            "changing one voxel moves many tokens at every stage of this model, so that no token "
            "belongs to one block of the input; models with overlapping windows, hierarchies or "
            "a deep convolutional stem have no grid of patches, and are not supported"
        )
    of_norms = [stage for stage in unmixed if stage.num_tokens in norm_tokens]
    last = (of_norms or unmixed)[-1]
    return next(
        s for s in unmixed if (s.num_tokens, s.token_axis) == (last.num_tokens, last.token_axis)
    )


def _sketch(tensor: Tensor, token_axis: int) -> Tensor:
    """Return enough of each token to see whether it moved: (tokens, at most 128 features)."""
    tokens = tensor.detach().movedim(token_axis, 0).flatten(1)
    step = -(-tokens.shape[1] // 128)
    return tokens[:, ::step].float().cpu().clone()


def _others(moved: Tensor) -> float:
    """Movement of the tokens that one voxel should not move, relative to the one it should.

    Up to eight tokens may share a voxel where patches overlap, fewer where there are few.
    """
    allowed = max(1, min(8, len(moved) // 4))
    ordered = moved.sort(descending=True).values
    return float(ordered[allowed] / ordered[0])


class _Tracer:
    """Runs the model up to one stage and tells how far each token moved, relative to all."""

    def __init__(self, model: nn.Module, textures: Textures, stage: _Stage) -> None:
        self._model = model
        self._textures = textures
        self._stage = stage
        self._before = self._tokens(textures.input(textures.base))
        self._full = torch.ones(stage.num_tokens)
        full = self.moved(0, slice(None))
        #: Tokens that move with the input at all.
        self.answers = full > 0.02 * full.max()
        self._full = full.clamp_min(1e-30)

    def _tokens(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def see(event: Event) -> None:
            if event.index == self._stage.index:
                tokens = event.tensor.detach().movedim(self._stage.token_axis, 0)
                kept.append(tokens.flatten(1).float().clone())
                raise StopForward

        with torch.no_grad(), watch_tensors(self._model, see, norms=False):
            self._model(x)
        return kept[0]

    def moved(self, axis: int, planes: Sequence[int] | slice) -> Tensor:
        """Return how far each token moved, relative to its movement when all is replaced."""
        after = self._tokens(self._textures.replaced(axis, planes))
        distance: Tensor = (after - self._before).norm(dim=1).cpu() / self._full
        return distance

    def all_move_with_plane(self, axis: int) -> bool:
        """Tell whether the first plane of an axis feeds every token that anything feeds."""
        moved = self.moved(axis, [0])[self.answers]
        return bool((moved > 0.1 * moved.max()).all())


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
    grid = [
        _patches_along(tracer, axis, size, total) for axis, size in zip(spatial, sizes, strict=True)
    ]
    if grid[0] * grid[1] * grid[2] != total:
        raise GeometryError(
            f"{total} tokens move with the input, but its axes divide into "
            f"{' x '.join(map(str, grid))} patches; the tokens are no grid of equal patches"
        )
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
    )


def _patches_along(tracer: _Tracer, axis: int, size: int, total: int) -> int:
    """Return the number of patches along an axis, from the share of tokens its first plane moves.

    The share is cut where the gap between moved and unmoved tokens is widest, among the cuts that
    give whole patches.
    """
    moved = tracer.moved(axis, [0])[tracer.answers].sort(descending=True).values
    if float(moved[0]) < 1e-6:
        raise GeometryError(
            f"the first plane of axis {axis} feeds no token: the model crops its input; give it "
            "what it keeps, so that patches begin where the input begins"
        )
    moved = torch.cat([moved / moved[0], torch.zeros(1)]).clamp_min(0.02)
    counts = [n for n in range(1, size + 1) if size % n == 0 and total % n == 0]
    best = max(counts, key=lambda n: float(moved[total // n - 1] / moved[total // n]))
    if float(moved[total // best - 1] / moved[total // best]) < 2:
        feeds = int((moved[:-1] > 0.3).sum())
        raise GeometryError(
            f"the first plane of axis {axis} ({size} voxels) feeds about {feeds} of {total} tokens, "
            "which gives no whole number of equal patches along it; crop or pad the input to a "
            "multiple of the patch size, and use patches of one size"
        )
    return best


def _coordinates(tracer: _Tracer, axis: int, count: int, patch: int) -> tuple[Tensor, bool]:
    """Return each patch token's coordinate along one axis, and whether patches overlap."""
    code = torch.zeros(int(tracer.answers.sum()), dtype=torch.long)
    overlapping = False
    slabs = torch.arange(count * patch) // patch
    for bit in range((count - 1).bit_length()):
        inside = (slabs >> bit) & 1 == 1
        moved = tracer.moved(axis, inside.nonzero().flatten().tolist())[tracer.answers]
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
