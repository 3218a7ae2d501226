"""Functions that write in place, choose between values or join several steps: more gate rules.

Rules for `g3dvit.capture.gate_rules`, which see there. A function that writes into its argument
follows the rule of the one that does not, and its result is then written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from torch import Tensor

from g3dvit.capture.frozen_functions import is_live

if TYPE_CHECKING:
    from g3dvit.capture.gates import FrozenGates

Keywords = dict[str, Any]
Handler = Callable[["FrozenGates", Any, Sequence[Any], Keywords], Any]


def _rule(name: str) -> Handler:
    from g3dvit.capture.gate_rules import HANDLERS

    return HANDLERS[name]


def _in_place(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    z, name = args[0], func.__name__.rstrip("_")
    if not is_live(z):
        return func(*args, **kwargs)
    plain = getattr(torch, name, None) or getattr(F, name)
    out = _rule(name)(gates, plain, args, kwargs)
    if not is_live(out):
        if z._is_view():
            return func(*args, **kwargs)
        z.detach_()
    return z.copy_(out)


def _masked_fill_in_place(
    gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords
) -> Any:
    if not is_live(args[0]):
        return func(*args, **kwargs)
    return args[0].copy_(_rule("masked_fill")(gates, torch.masked_fill, args, kwargs))


def _extreme(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    """Take the larger or smaller of a live tensor and a constant."""
    both = (*args, *([kwargs["other"]] if "other" in kwargs else []))
    if len(both) != 2 or not all(isinstance(t, Tensor) for t in both):
        return func(*args, **kwargs)
    live = [is_live(t) for t in both]
    if sum(live) != 1:
        return func(*args, **kwargs)
    a, b = both if live[0] else both[::-1]
    larger = func.__name__ in ("maximum", "max", "fmax")
    mine = a >= b if larger else a <= b
    return torch.where(mine, a, gates.constant(b, a, mine.shape))


def _pad(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
        out = func(input, pad, mode, None if mode != "constant" else 0.0)
        if mode != "constant" or not value or not is_live(input):
            return func(input, pad, mode, value)
        around = func(torch.zeros_like(input), pad, mode, value)
        return out + gates.constant(around, out, out.shape)

    return parts(*args, **kwargs)


def _lerp(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(input: Tensor, end: Tensor, weight: Any) -> Any:
        share = weight.detach() if isinstance(weight, Tensor) else weight
        with gates:
            return input * (1 - share) + end * share

    return parts(*args, **kwargs)


def _add_times(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    join = torch.mul if func.__name__ == "addcmul" else torch.div

    def parts(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Any:
        with gates:
            return torch.add(input, join(tensor1, tensor2), alpha=value)

    return parts(*args, **kwargs)


def _cosine(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
        def unit(x: Tensor) -> Tensor:
            size: Tensor = torch.linalg.vector_norm(x.detach(), 2, dim, keepdim=True)
            return x / size.clamp_min(eps)

        units = unit(x1), unit(x2)
        with gates:
            return (units[0] * units[1]).sum(dim)

    return parts(*args, **kwargs)


def _rows(handler: Handler, *names: str) -> dict[str, Handler]:
    return dict.fromkeys(names, handler)


HANDLERS: dict[str, Handler] = {
    **_rows(_in_place, "tanh_", "sigmoid_", "sin_", "cos_", "erf_", "expm1_", "log1p_", "atan_"),
    **_rows(_in_place, "clamp_", "clip_", "clamp_min_", "clamp_max_", "threshold_", "selu_"),
    **_rows(_in_place, "elu_", "celu_", "hardtanh_", "exp_", "exp2_", "log_", "log2_", "log10_"),
    **_rows(_in_place, "sqrt_", "rsqrt_", "reciprocal_", "square_", "pow_"),
    **_rows(_masked_fill_in_place, "masked_fill_"),
    **_rows(_extreme, "maximum", "minimum", "max", "min", "fmax", "fmin"),
    **_rows(_pad, "pad"),
    **_rows(_lerp, "lerp"),
    **_rows(_add_times, "addcmul", "addcdiv"),
    **_rows(_cosine, "cosine_similarity"),
}
