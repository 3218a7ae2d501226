"""Which normalisations see tokens, and what the class value's gradient carries there.

One forward pass with a graph and one backward pass. The explained value is a random mixture of
the outputs, so that no symmetry between classes cancels.

A layer's gradient is *dead* where it does not reach the patch tokens (after the last attention of
a model that reads only its class token), *uniform* where it is the same for all of them (after
the last mixing of a model that averages its tokens), otherwise *alive*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from g3dvit.capture import first_output
from g3dvit.capture.outputs import widths_beside
from g3dvit.capture.tokens import Event, on_gradient, watch_tensors
from g3dvit.errors import GeometryError
from g3dvit.geometry import GradientStatus, NormLayer
from g3dvit.probe_late import LateStages
from g3dvit.probe_stages import Stage, feature_layout, token_layout, tokens_of
from g3dvit.probe_tokens import TokenMap

#: Below this share of the largest token gradient, patch gradients count as zero.
DEAD = 1e-6
#: Below this relative spread, patch gradients count as all equal.
UNIFORM = 1e-4


@dataclass(slots=True)
class _Norm:
    name: str
    owner: str
    kind: str
    run: int
    is_module: bool
    stage: Stage
    gradient: Tensor | None = None
    other: Stage | None = None  # another reading of its axes

    def settle(self, counts: Sequence[int]) -> bool:
        """Choose the reading that has one of these numbers of tokens; tell whether one has."""
        if self.stage.num_tokens in counts:
            self.other = None
            return True
        if self.other is None or self.other.num_tokens not in counts:
            return False
        self.stage, self.other = self.other, None
        self.gradient = None if self.gradient is None else self.gradient.T
        return True


@dataclass(slots=True)
class Pass:
    """What one forward and one backward pass showed.

    Parameters
    ----------
    norms
        Every normalisation with an output of the form of tokens, in the order of execution.
    last_gradients
        Per (token axis, token count): index of the last stage of that form that the gradient
        reaches, and the gradient there, (tokens, features).
    late
        The last stages, and what made them.
    num_outputs
        Number of class values.
    widths_beside
        Sizes of what the model returns beside its class values, as (batch, size).
    ending
        Name of the function that made the output, where one did.
    has_gradient
        False where no gradient reached any stage.
    elsewhere
        Normalisations of volumes, windows or other tensors of three axes and more: their index,
        and the shape of what they give.
    cut
        True where normalisations stand in a part that the model runs without autograd.
    """

    norms: list[_Norm] = field(default_factory=list)
    last_gradients: dict[tuple[int, int], tuple[int, Tensor]] = field(default_factory=dict)
    late: LateStages = field(default_factory=LateStages)
    num_outputs: int = 0
    widths_beside: tuple[int, ...] = ()
    ending: str = ""
    has_gradient: bool = False
    elsewhere: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    cut: bool = False

    def settle(self, counts: Sequence[int]) -> None:
        """Keep batch, group and instance normalisations that hold one of these counts of tokens.

        Until the tokens are known, a tensor (1, a, b) may hold b tokens, or a.
        """
        self.norms = [
            norm
            for norm in self.norms
            if (norm.stage.token_axis != 2 and norm.other is None) or norm.settle(counts)
        ]


_NOT_CONNECTED = (
    "the model's output is not connected to its tokens by autograd ({why}); a gradient is needed "
    "for every map. To freeze a part of a model, use `requires_grad_(False)` in place of no_grad"
)


def record_pass(
    model: nn.Module,
    x: Tensor,
    *,
    seed: int,
    call: Callable[[Tensor], Any] | None = None,
    also: Callable[[Event], None] | None = None,
) -> Pass:
    """Run the model on one input, forward and backward.

    Parameters
    ----------
    model
        The module to call, inside `g3dvit.capture.guest`.
    x : (1, ...)
        One input.
    seed
        Of the mixture of outputs.
    call
        How to run the model; calls it if None.
    also
        Is shown every event too.

    Raises
    ------
    GeometryError
        If the model computes its output outside autograd, or it is no finite number.
    """
    result = Pass()
    runs: Counter[str] = Counter()
    made_by: dict[int, str] = {}
    kept: dict[tuple[int, int], Tensor] = {}  # kept, so that no other takes its number
    leaves = [x.detach().clone().requires_grad_()]

    def see(event: Event) -> Tensor | None:
        tensor = event.tensor
        if also is not None:
            also(event)
        if not event.is_module and tensor.dim() <= 2:
            made_by[id(tensor)] = event.kind
        if event.is_module and event.norm is not None:
            # What was called inside it as a function is this module, not a layer of its own.
            result.norms[:] = [n for n in result.norms if n.is_module or n.owner != event.owner]
            runs[event.norm] += 1
        layout = token_layout(tensor.shape)
        other = layout
        if event.features_first:
            layout = feature_layout(tensor.shape) or layout
        elif layout is None and event.norm is not None and tensor.dim() > 2:
            result.elsewhere.append((event.index, tuple(tensor.shape)))
        if layout is None or not tensor.is_floating_point():
            return None
        if tensor.is_inference():
            raise GeometryError(_NOT_CONNECTED.format(why="it runs under inference_mode"))
        replacement = None
        if event.norm is not None:
            stage = Stage(event.index, *layout)
            norm = _Norm(event.norm, event.owner, event.kind, event.run, event.is_module, stage)
            if other is not None and other != layout:
                norm.other = Stage(event.index, *other)
            result.norms.append(norm)
            if not tensor.requires_grad:
                # A frozen part before this layer that ran without a graph: begin it here.
                result.cut = True
                leaves.append(tensor.detach().requires_grad_())
                with torch.enable_grad():
                    replacement = tensor = leaves[-1].clone()
            on_gradient(tensor, _keep_gradient(norm))
        # A module may return what another made long before, such as tokens beside the class values.
        version = (id(tensor), tensor._version)
        if tensor.requires_grad and version not in kept:
            kept[version] = tensor
            if other is not None:
                on_gradient(tensor, _keep_last(result, event.index, other))
                if other != layout:
                    result.late.add(event, tensor, Stage(event.index, *other), version)
            result.late.add(event, tensor, Stage(event.index, *layout), version)
        elif event.is_module:
            result.late.returned(event, version)
        return replacement

    with torch.enable_grad():
        given = leaves[0].clone()  # models add to their input in place; a leaf forbids that
        torch.manual_seed(0)  # some models are random in evaluation mode; `guest` restores this
        with watch_tensors(model, see):
            raw = (call or model)(given)
        scores = first_output(raw)
        result.ending = made_by.get(id(_same_object(raw, scores)), "")
        result.num_outputs = int(scores.shape[1])
        result.widths_beside = widths_beside(raw)
        if not scores.requires_grad:
            raise GeometryError(
                _NOT_CONNECTED.format(why="it runs under no_grad, or detaches its output")
            )
        if not bool(scores.isfinite().all()):
            raise GeometryError(_not_finite(model))
        generator = torch.Generator().manual_seed(seed)
        mixture = torch.randn(scores.shape, generator=generator).to(scores)
        torch.autograd.grad((scores * mixture).sum(), leaves, allow_unused=True)
    for norm in result.norms:
        if norm.is_module and runs[norm.name] > 1:
            norm.name = f"{norm.name}#{norm.run}"
    return result


def _not_finite(model: nn.Module) -> str:
    """Say that a model's outputs are no numbers, and which of its weights are none."""
    broken = [
        name
        for name, tensor in model.named_parameters()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    why = (
        f"its weights {', '.join(broken[:3])}{more} hold values that are not finite, as after a "
        "training that diverged or from a damaged file; load other weights"
        if broken
        else "something in it overflows or divides by zero on random numbers between -2 "
        "and 2; check its weights and its type"
    )
    return f"the model's class values are not finite: {why}"


def _same_object(raw: object, scores: Tensor) -> object:
    return raw if isinstance(raw, Tensor) else scores


def _keep_gradient(norm: _Norm) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        tokens = tokens_of(gradient, norm.stage.token_axis).float().cpu()
        norm.gradient = tokens if norm.gradient is None else norm.gradient + tokens

    return hook


def _keep_last(result: Pass, index: int, layout: tuple[int, int]) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        known = result.last_gradients.get(layout)
        if known is not None and known[0] > index:
            return
        tokens = gradient.detach().movedim(layout[0], 0).flatten(1).float().cpu()
        if float(tokens.abs().max()) > 0:
            result.last_gradients[layout] = (index, tokens)
            result.has_gradient = True

    return hook


def layers_from(
    passes: Sequence[Pass],
    tokens: TokenMap,
    turned: frozenset[int] = frozenset(),
    steering: frozenset[str] = frozenset(),
) -> tuple[NormLayer, ...]:
    """Judge every normalisation that sees the tokens.

    Parameters
    ----------
    passes
        Passes over different inputs; the clearest of them counts.
    tokens
        Where the patches are.
    turned
        Index of the normalisations that see them in another order (`g3dvit.probe_order`).
    steering
        Names of normalisations of queries and keys alone.
    """
    layers: list[NormLayer] = []
    for norms in zip(*(p.norms for p in passes), strict=True):
        norm = norms[0]
        if norm.stage.index < tokens.stage and norm.stage.index not in tokens.same_order:
            continue
        if norm.stage.index in turned or norm.name in steering:
            continue
        # Inside the patch embedding; without further tokens a block's own look the same.
        before = norm.stage.index < tokens.stage and tokens.num_patches != tokens.num_tokens
        patches_only = before and norm.stage.num_tokens == tokens.num_patches
        if norm.stage.num_tokens != tokens.num_tokens and not patches_only:
            continue
        start = 0 if patches_only else tokens.num_prefix_tokens
        judged = [judge(n.gradient, start, tokens.num_patches) for n in norms]
        share = max(s for s, _ in judged)
        spread = max(s for _, s in judged)
        one = all(reaches_one(n.gradient, start, tokens.num_patches) for n in norms)
        layers.append(
            NormLayer(
                name=norm.name,
                kind=norm.kind,
                order=len(layers),
                status="dead" if one else _status(share, spread),
                gradient_share=share,
                gradient_spread=spread,
                token_axis=norm.stage.token_axis,
                num_prefix_tokens=0 if patches_only else None,
            )
        )
    return tuple(layers)


def steering_norms(one: Pass, held: Pass) -> frozenset[str]:
    """Return the names of normalisations that the score depends on only by steering attention.

    Parameters
    ----------
    one
        A pass.
    held
        The same with constant attention weights (`g3dvit.capture.held_attention`).
    """
    left = {n.name for n in held.norms if n.gradient is not None and bool(n.gradient.any())}
    return frozenset(
        n.name
        for n in one.norms
        if n.gradient is not None and bool(n.gradient.any()) and n.name not in left
    )


def judge(gradient: Tensor | None, start: int, num_patches: int) -> tuple[float, float]:
    """Return the patches' share of a gradient, and its spread over them.

    Parameters
    ----------
    gradient : (tokens, features)
        Gradient at one layer; None where none arrived.
    start, num_patches
        Where the patch tokens are.
    """
    if gradient is None or not torch.isfinite(gradient).all():
        return 0.0, 0.0
    gradient = gradient / gradient.abs().max().clamp_min(1e-30)
    largest = float(gradient.norm(dim=1).max())
    patches = gradient[start : start + num_patches]
    size = float(patches.norm())
    if largest == 0 or size == 0:
        return 0.0, 0.0
    share = float(patches.norm(dim=1).max()) / largest
    return share, float((patches - patches.mean(0)).norm()) / size


def reaches_one(gradient: Tensor | None, start: int, num_patches: int) -> bool:
    """Tell whether a gradient (tokens, features) reaches one patch of many, and no other."""
    if gradient is None or num_patches < 3:
        return False
    sizes = gradient[start : start + num_patches].norm(dim=1)
    return int((sizes > DEAD * sizes.max()).sum()) == 1


def _status(share: float, spread: float) -> GradientStatus:
    if share < DEAD:
        return "dead"
    return "uniform" if spread < UNIFORM else "alive"
