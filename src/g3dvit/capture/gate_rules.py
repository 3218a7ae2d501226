"""What each of torch's functions does while the gates are frozen.

`HANDLERS` maps a function's name to its rule; a new rule is one function and one row. A rule
gets the mode (`gates`), the function, and its arguments, and runs with the mode switched off.
Linear functions of one live tensor need no rule: their own gradient is right. Rules for
normalisations and attention are in `g3dvit.capture.gate_blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from torch import Tensor

from g3dvit.capture import gate_blocks, gate_writes
from g3dvit.capture.frozen_functions import (
    FrozenActivation,
    FrozenLinear,
    ScaledGradient,
    is_live,
)
from g3dvit.capture.graph_walks import is_gate
from g3dvit.capture.held_values import marked_as
from g3dvit.capture.outputs import tensors_in

if TYPE_CHECKING:
    from g3dvit.capture.gates import FrozenGates

Keywords = dict[str, Any]
Handler = Callable[["FrozenGates", Any, Sequence[Any], Keywords], Any]


def _detached(value: Any, only: Tensor | None = None) -> Any:
    """Return arguments with every tensor held constant, or one of them."""
    if isinstance(value, Tensor):
        return value.detach() if only is None or value is only else value
    if isinstance(value, (list, tuple)):
        return type(value)(_detached(item, only) for item in value)
    return value


def _at(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    """Return an argument that may be given by place or by name."""
    return args[place] if len(args) > place else kwargs.get(name)


def _broadcast(*shapes: Sequence[int]) -> torch.Size:
    return torch.Size(np.broadcast_shapes(*map(tuple, shapes)))


def _any_live(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return any(is_live(t) for t in tensors_in((*args, *kwargs.values())))


def _gate(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    """Hold the result constant: attention weights, standard deviations."""
    if "dropout_p" in kwargs or not _any_live(args, kwargs):
        return func(*args, **kwargs)
    return func(*_detached(tuple(args)), **{k: _detached(v) for k, v in kwargs.items()})


def _variance_and_mean(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    spread, mean = func(*args, **kwargs)
    return spread.detach(), mean


def _activation(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    z = _at(args, kwargs, 0, "input")
    if not is_live(z):
        return func(*args, **kwargs)
    kwargs.pop("inplace", None)
    rest = {k: v for k, v in kwargs.items() if k != "input"}

    def plain(values: Tensor) -> Any:
        return func(values, *args[1:], **rest)

    if any(t.numel() > 1 for t in tensors_in((*args[1:], *rest.values()))):
        return func(*args, **kwargs)  # bounds of their own for each value
    probe = plain(torch.tensor([0.0, 1e-4, -1e-4], dtype=torch.float64))
    at_zero, slope = float(probe[0]), float(probe[1] - probe[2]) / 2e-4
    if not math.isfinite(at_zero):
        return plain(z)
    value = plain(z.detach())
    out = FrozenActivation.apply(z, value - at_zero if at_zero else value, slope)
    return out + gates.constant(at_zero, out, out.shape) if at_zero else out


def _glu(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def glu(x: Tensor, dim: int = -1) -> Tensor:
        value, gate = x.chunk(2, dim)
        return value * gate.detach().sigmoid()

    return glu(*args, **kwargs)


def _power(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    base = args[0]
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent", 2)
    if not is_live(base) or exponent == 1:
        return func(*args, **kwargs)
    if isinstance(exponent, (int, float)) and exponent > 0:
        ratio = base.detach() ** (exponent - 1)
        return base * (ratio if exponent > 1 else torch.where(base.detach() == 0, 0.0, ratio))
    return _gate(gates, func, args, kwargs)


def _log_softmax(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    z = args[0] if args else kwargs["input"]
    out = _gate(gates, func, args, kwargs)
    if not is_live(z):
        return out
    return z + gates.constant(out - z.detach(), z, z.shape)


def _logsumexp(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def weighted(x: Tensor, dim: Any, keepdim: Any = False) -> Tensor:  # noqa: FBT002 - torch's
        dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
        value = x.detach().logsumexp(dims, keepdim=True)
        mean = ((x.detach() - value).exp() * x).sum(dims, keepdim=True)
        out = mean + gates.constant(value - mean.detach(), x, mean.shape)
        return out if keepdim else out.squeeze(dims)

    x = _at(args, kwargs, 0, "input")
    return weighted(*args, **kwargs) if is_live(x) else func(*args, **kwargs)


def _multiply(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    a, b = args[0], _at(args, kwargs, 1, "other")
    if not (is_live(a) and is_live(b)):
        return func(*args, **kwargs)
    if func.__name__.endswith("_"):
        return func(a, b.detach())
    if a is not b and is_gate(a) != is_gate(b):
        return func(a.detach(), b) if is_gate(a) else func(a, b.detach())
    return ScaledGradient.apply(func(a, b), 0.5)


def _divide(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    below = _at(args, kwargs, 1, "other")
    if is_live(below):
        return func(args[0], below.detach(), **{k: v for k, v in kwargs.items() if k != "other"})
    return func(*args, **kwargs)


def _contraction(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    """Share the relevance of a product of several live tensors equally between them.

    Of two of which one is the output of an activation function that one is a gate: the weights of
    attention without softmax.
    """
    live = [t for t in tensors_in((*args, *kwargs.values())) if is_live(t)]
    if len(live) == 2 and is_gate(live[0]) != is_gate(live[1]):
        gate = live[0] if is_gate(live[0]) else live[1]
        rest = {k: _detached(v, gate) for k, v in kwargs.items()}
        return func(*_detached(tuple(args), gate), **rest)
    out = func(*args, **kwargs)
    return ScaledGradient.apply(out, 1 / len(live)) if len(live) > 1 else out


def _add_product(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    """Take ``addmm`` and its kin apart: beta * input + alpha * (a @ b)."""
    if len(args) < 3 or not _any_live(args, kwargs):
        return func(*args, **kwargs)
    alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
    product = _contraction(gates, torch.matmul, args[1:3], {})
    return add(gates, product * alpha if alpha != 1 else product, beta * args[0])


def add(gates: FrozenGates, a: Any, b: Any) -> Any:
    """Add two values of which at least one may be live."""
    if is_live(a) and is_live(b):
        gates.residual_sum(a, b)
        return a + b
    if not is_live(a) and not is_live(b):
        return a + b
    live, other = (a, b) if is_live(a) else (b, a)
    if _adds_nothing(other):
        return live + other
    shape = _broadcast(live.shape, other.shape if isinstance(other, Tensor) else ())
    return live + gates.constant(other, live, shape)


def _adds_nothing(value: Any) -> bool:
    """Tell whether a constant is zero, or a mask of infinities that hides what it meets."""
    if isinstance(value, Tensor):
        return bool(value.is_floating_point() and value.isinf().any())
    return value == 0 or not math.isfinite(value)


def _add(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    a, b = args[0], _at(args, kwargs, 1, "other")
    if not (is_live(a) or is_live(b)):
        return func(*args, **kwargs)
    alpha = kwargs.get("alpha", 1)
    name = func.__name__.strip("_")
    if alpha != 1:
        b = marked_as(alpha * b, b)
    if name in ("sub", "subtract", "isub"):
        b = marked_as(-b, b)
    elif name in ("rsub",):
        a, b = -a, b
    return add(gates, a, b)


def _add_in_place(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    a, b = args[0], _at(args, kwargs, 1, "other")
    if is_live(a) and is_live(b):
        gates.residual_sum(a, b)
    elif is_live(a) and not _adds_nothing(b):
        b = gates.constant(b, a, a.shape)
    elif is_live(b):
        _enliven(gates, a)
    return func(a, b, **{k: v for k, v in kwargs.items() if k != "other"})


def _enliven(gates: FrozenGates, target: Tensor) -> None:
    """Note what a constant tensor holds, before something live is written into it."""
    target.copy_(gates.constant(target.detach().clone(), target, target.shape))


def _set_item(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    target, index, value = args
    if is_live(value) and not is_live(target):
        _enliven(gates, target)
    elif is_live(target) and not is_live(value) and not _adds_nothing(value):
        value = gates.constant(value, target, target[index].shape)
    return func(target, index, value)


def _copy(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    target, value = args[0], args[1]
    if is_live(target) and isinstance(value, Tensor) and not is_live(value):
        value = gates.constant(value, target, target.shape)
    return func(target, value, *args[2:], **kwargs)


def _join(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    parts = args[0] if args else kwargs["tensors"]
    live = next((part for part in parts if is_live(part)), None)
    if live is None:
        return func(*args, **kwargs)
    if func.__name__ == "stack" and len(parts) == 2 and all(map(is_live, parts)):
        gates.residual_sum(*parts)
    noted = [part if is_live(part) else gates.constant(part, live, part.shape) for part in parts]
    rest = {k: v for k, v in kwargs.items() if k != "tensors"}
    return func(noted, *args[1:], **rest)


def _where(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    if len(args) != 3 or is_live(args[1]) == is_live(args[2]):
        return func(*args, **kwargs)
    mask, a, b = args if isinstance(args[0], Tensor) and args[0].dtype == torch.bool else (
        args[1], args[0], args[2]
    )  # fmt: skip
    shapes = [t.shape for t in (mask, a, b) if isinstance(t, Tensor)]
    live, shape = (a if is_live(a) else b), _broadcast(*shapes)
    noted = [
        x if is_live(x) or _adds_nothing(x) else gates.constant(x, live, shape) for x in (a, b)
    ]
    return torch.where(mask, *noted)


def _masked_fill(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    value = _at(args, kwargs, 2, "value")
    if not is_live(args[0]) or is_live(value) or _adds_nothing(value):
        return func(*args, **kwargs)
    mask = args[1] if len(args) > 1 else kwargs["mask"]
    return torch.where(mask, gates.constant(value, args[0], args[0].shape), args[0])


def _linear(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    return _linear_parts(gates, *args, **kwargs)


def _linear_parts(
    gates: FrozenGates,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Any:
    if is_live(weight) or not is_live(input) or bias is None:
        out = _contraction(gates, F.linear, (input, weight), {})
        return out if bias is None else add(gates, out, bias)
    if gates.tokens is None:
        return add(gates, F.linear(input, weight), bias)
    return FrozenLinear.apply(input, gates.share_now(), weight, bias)


def _convolution(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    bias = _at(args, kwargs, 2, "bias")
    if bias is None or not _any_live(args, kwargs):
        return func(*args, **kwargs)
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    rest = {k: v for k, v in kwargs.items() if k not in ("bias", "weight")}
    out = func(args[0], weight, None, *args[3:], **rest)
    return add(gates, out, bias.view(-1, *(1,) * (weight.ndim - 2)))


def _rows(handler: Handler, *names: str) -> dict[str, Handler]:
    return dict.fromkeys(names, handler)


HANDLERS: dict[str, Handler] = {
    **_rows(_gate, "softmax", "_softmax", "_masked_softmax", "softmin", "gumbel_softmax"),
    **_rows(_gate, "rsqrt", "sqrt", "reciprocal", "__rdiv__", "__rtruediv__", "var", "std"),
    **_rows(_gate, "norm", "vector_norm", "linalg_norm", "linalg_vector_norm", "matrix_norm"),
    **_rows(_gate, "exp", "exp2", "log", "log2", "log10"),
    **_rows(_variance_and_mean, "var_mean", "std_mean"),
    **_rows(_activation, "gelu", "silu", "sigmoid", "tanh", "elu", "selu", "celu", "mish"),
    **_rows(
        _activation, "softplus", "softsign", "log_sigmoid", "logsigmoid", "hardswish", "hardsigmoid"
    ),
    **_rows(_activation, "hardtanh", "relu6", "tanhshrink", "softshrink", "hardshrink"),
    **_rows(_activation, "erf", "sin", "cos", "log1p", "expm1", "special_erf", "atan"),
    **_rows(_activation, "clamp", "clip", "clamp_min", "clamp_max", "_threshold", "special_expit"),
    **_rows(_glu, "glu"),
    **_rows(_power, "pow", "__pow__", "square"),
    **_rows(_log_softmax, "log_softmax"),
    **_rows(_logsumexp, "logsumexp"),
    **_rows(_multiply, "mul", "__mul__", "__rmul__", "multiply", "mul_", "__imul__"),
    **_rows(_divide, "div", "__truediv__", "divide", "true_divide", "div_", "__itruediv__"),
    **_rows(_contraction, "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "mv", "dot"),
    **_rows(_contraction, "einsum", "tensordot", "inner", "outer", "bilinear"),
    **_rows(_add_product, "addmm", "baddbmm", "addmv"),
    **_rows(_add, "add", "__add__", "__radd__", "sub", "__sub__", "subtract", "rsub", "__rsub__"),
    **_rows(_add_in_place, "add_", "sub_", "__iadd__", "__isub__"),
    **_rows(_set_item, "__setitem__"),
    **_rows(_copy, "copy_"),
    **_rows(_join, "cat", "concat", "concatenate", "stack", "hstack", "vstack"),
    **_rows(_where, "where"),
    **_rows(_masked_fill, "masked_fill"),
    **_rows(_linear, "linear"),
    **_rows(_convolution, "conv1d", "conv2d", "conv3d"),
    **_rows(_convolution, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    **gate_blocks.HANDLERS,
    **gate_writes.HANDLERS,
}
