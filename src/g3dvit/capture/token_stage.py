"""Find where tokens can be taken out of a model: behind their positions, before they meet.

A *stage* is a tensor on the way through the model that holds its tokens. Taking rows out of it is
what removing a patch means only if four things hold, and each is tried on the model itself:

1. *Unmixed.* Changing one voxel moves one token there: no attention has run yet.
2. *A set.* Exchanging patch tokens there changes nothing behind it: their positions have been
   added, and no later step goes by a token's number.
3. *The only way.* With the tokens of one volume put in the place of another's, the model says what
   it says about the first: nothing passes the stage by.
4. *Read alike.* The head reads the same class and register tokens when patches are gone.

Where this fails before the blocks, because they go by the place of a token (rotary or relative
positions), tokens are hidden from every attention and taken out behind the last block. That this
leaves nothing of them is tried too, by exchanging the voxels of hidden patches.

Float64 copies of the parameters are used where the model allows it, so that "nothing" is far
below rounding. The model is run as it is; no class of a foreign library is known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from g3dvit.capture.guest import wider
from g3dvit.capture.masked_keys import MaskKeys
from g3dvit.capture.outputs import first_output, token_axes
from g3dvit.capture.tokens import Event, watch_tensors
from g3dvit.errors import MethodError
from g3dvit.geometry import Geometry

Run = Callable[[Tensor], Any]
Change = Callable[[Tensor], Tensor]

#: Largest movement of other tokens where they are unmixed; as `g3dvit.probe_stages` has it.
_UNMIXED = 1e-4
#: Below this share of the largest gradient, a token is not read.
_UNREAD = 1e-6


@dataclass(frozen=True, slots=True)
class TokenStage:
    """One tensor on the way through a model, found again in every pass.

    Parameters
    ----------
    owner, kind, is_module
        The module that was running, and what gave the tensor.
    run
        The how-manieth of these it is in a pass, from 1.
    batch_axis, token_axis
        Where volumes and tokens lie in it.
    num_tokens
        How many it has.
    """

    owner: str
    kind: str
    is_module: bool
    run: int
    batch_axis: int
    token_axis: int
    num_tokens: int

    def tokens(self, tensor: Tensor) -> Tensor:
        """Return the tensor as (batch, tokens, features)."""
        return tensor.movedim((self.batch_axis, self.token_axis), (0, 1))

    def restored(self, tokens: Tensor) -> Tensor:
        """Return (batch, tokens, features) in the layout of the model."""
        return tokens.movedim((0, 1), (self.batch_axis, self.token_axis)).contiguous()


def run_changed(
    network: nn.Module, run: Run, x: Tensor, changes: dict[TokenStage, Change]
) -> Tensor:
    """Run a model with the tokens of some stages changed on the way.

    Parameters
    ----------
    network
        The module inside `g3dvit.capture.guest`.
    run
        What to call: `network`, or a call of it with other parameters.
    x : (batch, ...)
        Its input.
    changes
        For each stage, from tokens (batch, tokens, features) to others.

    Raises
    ------
    MethodError
        If a stage does not come up in this pass.
    """
    counts: Counter[tuple[str, str, bool]] = Counter()
    wanted = {(s.owner, s.kind, s.is_module, s.run): s for s in changes}
    met: set[TokenStage] = set()

    def see(event: Event) -> Tensor | None:
        key = (event.owner, event.kind, event.is_module)
        counts[key] += 1
        stage = wanted.get((*key, counts[key]))
        if stage is None or event.tensor.ndim != 3:
            return None
        met.add(stage)
        return stage.restored(changes[stage](stage.tokens(event.tensor)))

    with watch_tensors(network, see, norms=False):
        out = first_output(run(x))
    if len(met) < len(changes):
        raise MethodError("the model takes another way with this input than when it was tried")
    return out


@dataclass(frozen=True, slots=True)
class WayOut:
    """How tokens are removed from a model.

    Parameters
    ----------
    stage
        Where they are taken out.
    hidden_before
        True where they must be hidden from every attention before it.
    """

    stage: TokenStage
    hidden_before: bool


def find_way_out(network: nn.Module, geometry: Geometry, *, seed: int = 0) -> WayOut:
    """Return how tokens can really be removed.

    Parameters
    ----------
    network
        The module inside `g3dvit.capture.guest`.
    geometry
        How it divides its input.
    seed
        Of the random textures that are shown to it.

    Raises
    ------
    MethodError
        If there is none.
    """
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        return _Search(network, geometry, wider(network, torch.float64), parameter, seed).found()
    except MethodError:
        raise
    except Exception:  # a model that makes float32 tensors of its own cannot run in float64
        return _Search(network, geometry, network, parameter, seed).found()


class _Search:
    """One search, in one floating-point type."""

    def __init__(
        self, network: nn.Module, geometry: Geometry, run: Run, like: Tensor, seed: int
    ) -> None:
        self.network, self.geometry, self.run = network, geometry, run
        self.generator = torch.Generator().manual_seed(seed)
        self.like = {
            "device": like.device,
            "dtype": like.dtype if run is network else torch.float64,
        }
        counts = (geometry.num_tokens, geometry.num_patches)
        self.batch = next(n for n in (3, 4, 5) if n not in counts)
        self.x, self.other = self._texture(), self._texture()

    def _texture(self) -> Tensor:
        values = torch.rand((1, *self.geometry.input_shape), generator=self.generator) * 1.5 + 0.5
        signs = torch.rand(values.shape, generator=self.generator) < 0.5
        return torch.where(signs, values, -values).to(**self.like)  # type: ignore[call-overload,no-any-return]

    def found(self) -> WayOut:
        """Return the last stage at which all four things hold, or one behind masked blocks."""
        candidates, all_tokens = self._candidates()
        last = next(((s, r) for s in reversed(all_tokens) if (r := self._reads(s, {})).any()), None)
        for stage in reversed(candidates):
            if self._holds(stage, last):
                return WayOut(stage, hidden_before=False)
        for stage in reversed(all_tokens):
            if self._holds(stage, last):
                if self._hides(stage):
                    return WayOut(stage, hidden_before=True)
                break
        raise MethodError(
            "the tokens of this model cannot be taken out: behind its patch embedding there is no "
            "place where the patches are a set that everything later takes as it comes, and hiding "
            "them from its attention leaves traces. Its head reads tokens by their number (a "
            "flattening head), or its blocks need the whole grid (windows, convolutions). Use "
            "method='occlusion' with reference volumes"
        )

    def _candidates(self) -> tuple[list[TokenStage], list[TokenStage]]:
        """Return unmixed stages in the order of execution, and all stages of all tokens."""
        geometry = self.geometry
        touched = self.x.clone()
        middle = [slice(None)] * touched.ndim
        for axis in geometry.spatial_axes:
            middle[axis + 1] = slice(touched.shape[axis + 1] // 2, touched.shape[axis + 1] // 2 + 1)
        touched[tuple(middle)] = -touched[tuple(middle)]
        x = torch.cat([self.x, touched, *[self.other] * (self.batch - 2)])
        counts: Counter[tuple[str, str, bool]] = Counter()
        seen: list[tuple[TokenStage, float]] = []
        whole: list[TokenStage] = []

        def see(event: Event) -> None:
            key = (event.owner, event.kind, event.is_module)
            counts[key] += 1
            tensor = event.tensor
            if tensor.ndim != 3 or not tensor.is_floating_point():
                return
            for number in dict.fromkeys((geometry.num_tokens, geometry.num_patches)):
                axes = token_axes(tensor.shape, self.batch, number)
                if axes is None:
                    continue
                stage = TokenStage(*key, counts[key], axes[0], axes[1][0], number)
                if number == geometry.num_tokens:
                    whole.append(stage)
                tokens = stage.tokens(tensor.detach())
                moved = (tokens[1] - tokens[0]).norm(dim=1)
                if float(moved.max()) > 0:
                    seen.append((stage, _others(moved)))
                return

        with torch.no_grad(), watch_tensors(self.network, see, norms=False):
            torch.manual_seed(0)
            z = first_output(self.run(x))
        self.change = float((z[0] - z[2]).abs().max())
        self.size = float(z.abs().max())
        if not seen:
            return [], whole
        limit = max(_UNMIXED, 3 * min(ratio for _, ratio in seen))
        begin = next(n for n, (_, ratio) in enumerate(seen) if ratio <= limit)
        return [stage for stage, _ in takewhile(lambda s: s[1] <= limit, seen[begin:])], whole

    def _holds(self, stage: TokenStage, last: tuple[TokenStage, Tensor] | None) -> bool:
        """Tell whether taking tokens out at a stage is what it should be.

        Parameters
        ----------
        stage
            Where.
        last
            The last stage of all tokens that the head reads, and which of them it reads.
        """
        kept, exchanged = self._kept(stage)

        def change(tokens: Tensor) -> Tensor:
            first = tokens[:1, kept]
            rows = [first, tokens[:1, exchanged], *[first] * (self.batch - 2)]
            return torch.cat(rows)

        x = torch.cat([self.x, self.x, *[self.other] * (self.batch - 2)])
        try:
            with torch.no_grad():
                torch.manual_seed(0)
                z = run_changed(self.network, self.run, x, {stage: change})
            if not self._same(z) or z.shape[0] != self.batch:
                return False
            return self._read_alike(stage, last, kept)
        except Exception:  # a step behind this place needs every token
            return False

    def _hides(self, stage: TokenStage) -> bool:
        """Tell whether nothing is left of patches that are hidden and taken out at a stage."""
        kept, _ = self._kept(stage)
        gone = torch.ones(stage.num_tokens, dtype=torch.bool, device=kept.device)
        gone[kept] = False
        first = self.geometry.num_prefix_tokens
        order = torch.as_tensor(self.geometry.token_order, device=gone.device)
        changed = self.x.clone()
        for patch in gone[first + order].nonzero().flatten().tolist():
            place = (slice(None), *self.geometry.patch_place(patch))
            changed[place] = self.other[place]
        x = torch.cat([self.x, changed, *[changed] * (self.batch - 2)])
        change: dict[TokenStage, Change] = {stage: lambda tokens: tokens[:, kept]}
        try:
            with torch.no_grad(), MaskKeys(gone.expand(self.batch, -1)):
                torch.manual_seed(0)
                return self._same(run_changed(self.network, self.run, x, change))
        except Exception:  # a step that does not bear the mask
            return False

    def _kept(self, stage: TokenStage) -> tuple[Tensor, Tensor]:
        """Return which tokens to keep in the trial, and the same with patches exchanged."""
        geometry = self.geometry
        patches = geometry.num_patches
        first = geometry.num_prefix_tokens if stage.num_tokens != patches else 0
        order = torch.randperm(patches, generator=self.generator)
        count = patches - max(1, patches // 3)
        if stage.num_tokens - patches + count == patches:
            count -= 1  # not to be taken for a stage of patches alone
        inside = order[: max(1, count)].sort().values
        before, after = torch.arange(first), torch.arange(first + patches, stage.num_tokens)
        mixed = inside[torch.randperm(len(inside), generator=self.generator)]
        kept, exchanged = (torch.cat([before, first + p, after]) for p in (inside, mixed))
        return kept.to(self.x.device), exchanged.to(self.x.device)

    def _same(self, z: Tensor) -> bool:
        """Tell whether all rows say the same, measured by what another input changes."""
        unit = float(torch.finfo(z.dtype).eps)
        share = min(max(1e-7, 1e3 * unit), 0.05)
        if not bool(torch.isfinite(z).all()):
            return False
        return float((z - z[:1]).abs().max()) <= share * self.change + 30 * unit * self.size

    def _read_alike(
        self, stage: TokenStage, last: tuple[TokenStage, Tensor] | None, kept: Tensor
    ) -> bool:
        """Tell whether the head reads the same extra tokens with and without the patches."""
        before = self.geometry.num_prefix_tokens
        after = self.geometry.num_tokens - self.geometry.num_patches - before
        if last is None or not before + after:
            return True
        fewer = self._reads(last[0], {stage: lambda tokens: tokens[:, kept]})
        ends = [torch.cat([r[:before], r[len(r) - after :]]) for r in (last[1], fewer)]
        return bool(torch.equal(*ends))

    def _reads(self, last: TokenStage, changes: dict[TokenStage, Change]) -> Tensor:
        """Return which tokens of a late stage have a gradient."""
        leaves: list[Tensor] = []
        earlier = changes.get(last)

        def begin(tokens: Tensor) -> Tensor:
            tokens = tokens if earlier is None else earlier(tokens)
            leaves.append(tokens.detach().requires_grad_())
            return leaves[0].clone()

        x = torch.cat([self.x, *[self.other] * (self.batch - 1)])
        with torch.enable_grad():
            torch.manual_seed(0)
            z = run_changed(self.network, self.run, x, changes | {last: begin})
            if not z.requires_grad:
                return torch.zeros(leaves[0].shape[1], dtype=torch.bool)
            weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
            (gradient,) = torch.autograd.grad((z * weights).sum(), leaves)
        size: Tensor = gradient.norm(dim=2).amax(0)
        read: Tensor = size > _UNREAD * size.max()
        return read.cpu()


def _others(moved: Tensor) -> float:
    """Movement of the tokens that one voxel should not move, relative to the one it should.

    Up to eight tokens may share a voxel where patches overlap, fewer where there are few.
    """
    ordered = moved.sort(descending=True).values
    return float(ordered[max(1, min(8, len(moved) // 4))] / ordered[0])
