# ruff: noqa: D102 - forward and backward are what torch says they are
"""Autograd functions with torch's own forward pass and a backward pass with frozen gates.

In the backward pass a normalisation's standard deviation, an activation's ratio f(z)/z and an
attention matrix are constants. What is left is linear in its input, so that gradient times
input adds up. The shares of added constants (biases) are returned per volume as the gradient
of a `share` vector of ones that stands before each of them: the constant `c` is ``share * c``.

References
----------
Ali et al. 2022, "XAI for Transformers: Better Explanations through Conservative Propagation",
https://arxiv.org/abs/2202.07304
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from torch import Tensor
from torch.autograd import Function

#: Types whose rounding unit is 1e-3 and more.
HALF = (torch.bfloat16, torch.float16)


def is_live(value: object) -> bool:
    """Tell whether a value depends on the input or on a noted constant."""
    return isinstance(value, Tensor) and value.requires_grad


def order_of(x: Tensor) -> int:
    """Return when autograd made a tensor; leaves come first."""
    return -1 if x.grad_fn is None else int(x.grad_fn._sequence_nr())


def wide(x: Tensor) -> Tensor:
    """Return float32 for half precision, and float32 and float64 as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which sums over `x` are taken."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def per_volume(product: Tensor, batch: int) -> Tensor:
    """Sum per volume, where the batch is the first axis, the second, or folded into the first.

    Returns
    -------
    (batch,)
        The sums. Where no axis holds the volumes, each gets an equal part; the completeness of
        the single volumes then fails, and the caller runs them one at a time.
    """
    shape = product.shape
    if batch == 1:
        return product.sum().reshape(1)
    if shape and shape[0] == batch:
        return product.reshape(batch, -1).sum(1)
    if len(shape) > 1 and shape[1] == batch:
        return product.transpose(0, 1).reshape(batch, -1).sum(1)
    if shape and shape[0] % batch == 0:
        return product.reshape(batch, -1).sum(1)
    return (product.sum() / batch).expand(batch)


def per_volume_rows(gradient: Tensor, constant: Tensor, batch: int) -> Tensor:
    """Return `per_volume` of gradient times a constant over the last axis, without the product."""
    shape, last = gradient.shape, gradient.shape[-1]
    wanted = wide_dtype(gradient)
    if batch == 1:
        sums = gradient.reshape(1, -1, last).sum(1, dtype=wanted)
    elif shape[0] != batch and len(shape) > 2 and shape[1] == batch:
        sums = gradient.transpose(0, 1).reshape(batch, -1, last).sum(1, dtype=wanted)
    elif shape[0] % batch == 0:
        sums = gradient.reshape(batch, -1, last).sum(1, dtype=wanted)
    else:
        sums = gradient.reshape(1, -1, last).sum(1, dtype=wanted).expand(batch, last) / batch
    return sums @ constant.to(wanted)


def _no_view(x: Tensor) -> Tensor:
    """Return the same numbers as a tensor that models may write into.

    Autograd forbids that for views which a function of one's own returns. Nothing else holds the
    numbers: they were made just before, for this one use.
    """
    return x.data


class LiveConstant(Function):
    """A constant whose share in the score is the gradient of `share`, (batch,)."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, constant: Tensor) -> Tensor:
        ctx.save_for_backward(constant)
        ctx.batch = share.numel()
        return constant.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (constant,) = ctx.saved_tensors
        product = wide(gradient) * wide(constant)
        # An infinite constant is a mask; what it hides has no gradient, and no share.
        product = torch.where(constant.isfinite(), product, 0.0)
        return per_volume(product, ctx.batch), None


class HeldConstant(Function):
    """A constant that was computed from the input: its share, and what its parts are in size.

    Parts that cancel leave no share, and are as absent from the map as others: the gradient of
    `size` is the sum of their sizes, a part being what one token has over its features.
    """

    @staticmethod
    def forward(ctx: Any, share: Tensor, size: Tensor, constant: Tensor) -> Tensor:
        ctx.save_for_backward(constant)
        ctx.batch = share.numel()
        return constant.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (constant,) = ctx.saved_tensors
        product = wide(gradient) * wide(constant)
        product = torch.where(constant.isfinite(), product, 0.0)
        parts = product.sum(-1) if product.ndim > 1 else product
        return per_volume(product, ctx.batch), per_volume(parts.abs(), ctx.batch), None


class FrozenLinear(Function):
    """A linear map with a bias; the bias goes to `share`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight, bias)
        ctx.batch = share.numel()
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, bias = ctx.saved_tensors
        return gradient @ weight, per_volume_rows(gradient, bias, ctx.batch), None, None


class FrozenLayerNorm(Function):
    """Layer normalisation with a constant standard deviation; its mean stays a function of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        share: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: Sequence[int],
        eps: float,
    ) -> Tensor:
        out, _, rstd = torch.native_layer_norm(x, list(shape), weight, bias, eps)
        ctx.save_for_backward(rstd, weight, bias)
        ctx.axes = tuple(range(-len(shape), 0))
        ctx.batch = 1 if share is None else share.numel()
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rstd, weight, bias = ctx.saved_tensors
        inner = gradient if weight is None else gradient * weight
        grad_x = inner - inner.mean(ctx.axes, keepdim=True)
        grad_x = (grad_x * rstd).to(gradient.dtype)
        grad_share = None
        if bias is not None:
            flat = gradient.flatten(-len(ctx.axes))
            grad_share = per_volume_rows(flat, bias.flatten(), ctx.batch)
        return grad_x, grad_share, None, None, None, None


class FrozenActivation(Function):
    """An activation through the origin, with its ratio f(z)/z held constant."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, slope: float) -> Tensor:
        ratio = value / z
        ctx.save_for_backward(ratio.masked_fill_(z.abs() < 1e-6, slope))
        return value.clone() if value.data_ptr() == z.data_ptr() else _no_view(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (ratio,) = ctx.saved_tensors
        return gradient * ratio, None, None


class ScaledGradient(Function):
    """The identity, whose gradient is scaled: relevance of a product is shared by its factors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return _no_view(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None
