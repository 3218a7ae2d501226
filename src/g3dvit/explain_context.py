"""One batch of volumes while it is explained: what every family of methods shares.

A family (`g3dvit.explain_batch`, `explain_layers`, `explain_input`, ...) runs its passes through
`g3dvit.capture`, hands what comes out to a pure function of `g3dvit.methods`, and stores the maps
here, on the patch grid of the input. No arithmetic of a method happens here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from g3dvit.capture import first_output
from g3dvit.checks import Check
from g3dvit.errors import MethodError
from g3dvit.explain_request import Request
from g3dvit.explanation import Maps
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS
from g3dvit.targets import Chosen, Scores, choose, score_batch

#: Constant volumes whose outputs differ by less than this share are the same to the model.
_UNSEEN = 1e-3
#: A patch of a reference is flat if it varies by less than this part of what volumes do,
#: and a reference is constant if more than this share of its patches is.
_FLAT, _FLAT_PATCHES = 1e-4, 0.9


@dataclass(slots=True)
class BatchResult:
    """Everything about one batch; tensors are on the CPU.

    Parameters
    ----------
    logits : (batch, outputs)
    scores : (batch, targets)
    chosen
        Per volume and target.
    maps
        Per method, tensors with every axis.
    checks
        Per method and volume.
    behind
        Per method that averages over shifts, the shares of the volumes as they are (or of the first
        shift, where these need no pass), which tell where its score comes from.
    beside : (batch,)
        What voxels bring to the score beside the tokens, as a share; None where no method told.
    alone
        True where the volumes had to be run one at a time.
    """

    logits: Tensor
    scores: Tensor
    chosen: tuple[tuple[Chosen, ...], ...]
    maps: dict[str, Maps] = field(default_factory=dict)
    checks: dict[str, list[tuple[Check, ...]]] = field(default_factory=dict)
    behind: dict[str, Maps] = field(default_factory=dict)
    beside: Tensor | None = None
    alone: bool = False


class Context:
    """One batch while it is explained.

    Parameters
    ----------
    network
        The module inside `g3dvit.capture.guest`.
    x : (batch, ...)
        Its input, detached.
    request, geometry
        What to explain, and how the model divides its input.
    labels
        Class of each volume, for the target ``"label"``.
    chosen
        The class or contrast of each volume and target, where it is known already.
    run
        What to call in place of `network`, for instance with other parameters.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        request: Request,
        geometry: Geometry,
        labels: Sequence[Any] | None,
        chosen: tuple[tuple[Chosen, ...], ...] | None,
        run: Callable[[Tensor], Any],
    ) -> None:
        self.network = network
        self.x = x
        self.request = request
        self.geometry = geometry
        self.labels = labels
        self.chosen = chosen
        self.run = run
        self.result: BatchResult | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """How many tokens a layer may hold, the likeliest first."""
        return (self.geometry.num_tokens, self.geometry.num_patches)

    @property
    def found(self) -> BatchResult:
        """What was found so far; there once `choose_scores` was called."""
        assert self.result is not None  # every family begins with `choose_scores`
        return self.result

    def _choose_targets(self, logits: Tensor) -> tuple[tuple[Chosen, ...], ...]:
        if not isinstance(self.request.score, str):
            return (("score",),) * len(logits)
        return choose(self.request.targets, logits, self.request.class_names, self.labels)

    def choose_scores(self, logits: Tensor) -> Scores:
        """Choose the targets of each volume, and note logits and scores once."""
        chosen = self.chosen or self._choose_targets(logits)
        self.chosen = chosen
        scores = score_batch(chosen, logits, self.request.score)
        if self.result is None:
            self.result = BatchResult(host(logits), host(scores.values), chosen)
        return scores

    def store(self, name: str, per_target: Sequence[Maps]) -> None:
        """Keep the maps of a method, given for one target after the other."""
        self.found.maps[name] = over_targets(per_target)

    def option(self, name: str, argument: str) -> Any:
        """Return an argument of a method, its own value unless told."""
        return self.request.options.used(METHODS[name])[argument]

    def references(self, name: str) -> Tensor:
        """Return the reference volumes for a method, refused where they cannot serve.

        Raises
        ------
        MethodError
            If there are none, or one is constant in nearly every patch and the model cannot see
            that.
        """
        given = self.request.options.references
        if given is None:
            raise MethodError(
                f"`{name}` compares with real volumes: give `references`, for instance the mean "
                "training volume or volumes of other subjects, prepared as the explained ones"
            )
        references = given.to(self.x.device, self.x.dtype)
        for number, reference in enumerate(references):
            if self._flat(reference) > _FLAT_PATCHES and self._unseen(reference):
                raise MethodError(
                    f"reference {number} of `{name}` is the same everywhere, or in nearly every "
                    "patch, and this model cannot see that: other levels give the same outputs, so "
                    "that every constant is one and the same, and the comparison explains nothing; "
                    "give a real volume"
                )
        return references

    def _flat(self, reference: Tensor) -> float:
        """Return in what share of the patches where volumes vary a reference does not."""
        own, its = (self._spread(volumes) for volumes in (self.x, reference[None]))
        varies = (own > 0).any(0)
        least = _FLAT * float(own.max())
        return float((its[0][varies] <= least).float().mean()) if bool(varies.any()) else 1.0

    def _spread(self, volumes: Tensor) -> Tensor:
        """Return the spread within each patch, (batch, patches)."""
        values = self.volume(volumes.double())
        sizes = zip(self.geometry.grid_shape, self.geometry.patch_size, strict=True)
        blocks = values.reshape(-1, *[n for pair in sizes for n in pair])
        return blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).std(4, correction=0).flatten(1)

    def _unseen(self, constant: Tensor) -> bool:
        """Tell whether volumes of another level give the same outputs."""
        step = self.x.std() + constant.abs().max()
        constants = torch.stack([constant + n * step for n in (0.0, 1.0, -2.0, 5.0)])
        with torch.no_grad():
            z = torch.cat([first_output(self.run(one[None])) for one in constants]).float()
            seen = first_output(self.run(self.x)).float()
        if not bool(torch.isfinite(z).all()):
            return True
        change = float((z - z[:1]).abs().max())
        return change <= _UNSEEN * float((seen - z[:1]).abs().max())

    def grid(self, values: Float[Tensor, "batch patches"]) -> Float[Tensor, "batch gi gj gk"]:
        """Put values in the order of the tokens onto the patch grid of the input."""
        order = torch.as_tensor(self.geometry.token_order, device=values.device)
        return values[:, order].reshape(-1, *self.geometry.grid_shape)

    def volume(self, voxels: Tensor) -> Float[Tensor, "batch i j k"]:
        """Bring values in the input's layout to (i, j, k), summed over channels."""
        axes = [axis + 1 for axis in self.geometry.spatial_axes]
        rest = [axis for axis in range(1, voxels.ndim) if axis not in axes]
        volume = voxels.permute(0, *axes, *rest)
        return volume.flatten(4).sum(4) if rest else volume

    def patch_sums(self, volume: Float[Tensor, "batch i j k"]) -> Float[Tensor, "batch gi gj gk"]:
        """Sum voxels over each patch, on the patch grid of the input."""
        sizes = zip(self.geometry.grid_shape, self.geometry.patch_size, strict=True)
        return volume.reshape(-1, *[n for pair in sizes for n in pair]).sum((2, 4, 6))

    def by_patch(self, volume: Float[Tensor, "batch i j k"]) -> Float[Tensor, "batch patches"]:
        """Sum voxels over each patch, in the order of the tokens."""
        patches = self.patch_sums(volume).flatten(1)
        order = torch.as_tensor(self.geometry.token_order, device=patches.device)
        return torch.empty_like(patches).index_copy_(1, order, patches)


def over_targets(per_target: Sequence[Maps]) -> Maps:
    """Return maps of one target after the other with an axis of targets behind the batch."""
    return {key: torch.stack([maps[key] for maps in per_target], dim=1) for key in per_target[0]}


def host(x: Tensor) -> Tensor:
    """Return a tensor on the CPU, in float32, or float64 where it is."""
    return x.detach().to("cpu", torch.float64 if x.dtype == torch.float64 else torch.float32)
