"""Frozen gates with the gamma rule: what goes along with a unit's sign counts more.

A linear map or convolution adds up contributions ``m_ij = x_i w_ij`` (and a bias) to ``z_j``. With
frozen gates input i gets the share ``m_ij / z_j`` of what unit j stands for; where large
contributions of both signs cancel, such shares are large, opposite and noisy. The gamma rule counts
those that have the sign of ``z_j`` ``1 + gamma`` times,

    ``R_i = sum_j m'_ij / z'_j R_j``,
    ``m'_ij = m_ij (1 + gamma [m_ij z_j > 0])``, ``z'_j = sum_i m'_ij``,

with the bias as one more input, so that all shares still add up to the score. ``z'_j`` has the sign
of ``z_j`` and is no smaller, so nothing is divided by a small number. It is linear in the score.

References
----------
Montavon et al. 2019, https://doi.org/10.1007/978-3-030-28954-6_10 (for inputs that are never
negative); Andeol et al. 2021, https://arxiv.org/abs/2106.04923 (for inputs of both signs);
Achtibat et al. 2024, https://arxiv.org/abs/2402.05602 (in Vision Transformers)
"""
# ruff: noqa: D102 - forward and backward are what torch says they are

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from g3dvit.capture.frozen_functions import is_live
from g3dvit.capture.gates import FrozenGates

#: From inputs and weights to outputs, linear in either.
Linear = Callable[[Tensor, Tensor], Tensor]

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_PRODUCTS = frozenset({"matmul", "__matmul__"})


class GammaGates(FrozenGates):
    """Runs a model with frozen gates and the gamma rule in its linear maps and convolutions.

    Parameters
    ----------
    x, token_counts
        As for `FrozenGates`.
    gamma
        How much more contributions of the unit's own sign count; 0 is plain frozen gates.
    """

    def __init__(self, x: Tensor, token_counts: tuple[int, ...], gamma: float) -> None:
        super().__init__(x, token_counts)
        self.gamma = gamma

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if torch.is_grad_enabled():
            if name == "linear" or name in _CONVOLUTIONS:
                found = self._with_weights(func, args, keywords)
            elif name in _PRODUCTS and len(args) == 2 and args[1].ndim == 2:
                found = self._ruled(
                    torch.matmul, args[0], args[1], None, back=lambda y, w: torch.matmul(y, w.mT)
                )
            else:
                found = None
            if found is not None:
                return found
        return super().__torch_function__(func, types, args, keywords)

    def _with_weights(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)

        def linear(values: Tensor, weights: Tensor) -> Tensor:
            out: Tensor = func(values, weights, None, *args[3:], **given)
            return out

        if func.__name__ == "linear" and weight.ndim == 2:
            return self._ruled(linear, x, weight, bias, back=torch.matmul)
        if bias is not None and func.__name__ in _CONVOLUTIONS:
            bias = bias.view(-1, *(1,) * (weight.ndim - 2))
        return self._ruled(linear, x, weight, bias, back=None)

    def _ruled(
        self, linear: Linear, x: Tensor, weight: Tensor, bias: Tensor | None, back: Linear | None
    ) -> Any:
        if not is_live(x) or is_live(weight) or is_live(bias):
            return None
        with torch.no_grad():
            out = linear(x, weight)
        noted = None if bias is None else self.constant(bias, out, out.shape)
        return GammaLinear.apply(x, noted, weight, out, linear, back, self.gamma)


class GammaLinear(Function):
    """A linear map whose backward pass follows the gamma rule.

    With M the sum of ``|m_ij|`` over i, the bias among them, contributions of the sign of z_j add
    up to ``(|z_j| + M_j) / 2`` in size, so that ``z'_j / z_j = D_j / |z_j|``,
    ``D = (1 + gamma / 2) |z| + gamma / 2 M``; with s the gradient that each unit gets, over D,
    inputs get

        ``(1 + gamma / 2) T + gamma / 2 sgn(x) U``,  ``T = W^T (s |z|)``,  ``U = |W|^T (s z)``:

    one pass of the map forward and two backward, not one for each pair of signs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        out: Tensor,
        linear: Linear,
        back: Linear | None,
        gamma: float,
    ) -> Tensor:
        # Copies: models write into what goes in and comes out.
        ctx.save_for_backward(x.clone(), bias, weight, out)
        ctx.linear, ctx.back, ctx.gamma = linear, back, gamma
        return out.clone() if bias is None else out + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, weight, out = ctx.saved_tensors
        linear, half = ctx.linear, ctx.gamma / 2
        back = ctx.back or (lambda values, weights: _back(linear, x, values, weights))
        sizes = weight.abs()
        below = linear(x.abs(), sizes)
        z = out if bias is None else out + bias
        if bias is not None:
            below = below + bias.abs()
        size = z.abs()
        # Where nothing goes in, nothing comes out: 0 / 0 counts as 0.
        below = below.mul_(half).add_(size, alpha=1 + half)
        below = below.masked_fill_(below == 0, 1)
        handed_on = gradient / below
        signed = handed_on * z
        plain = handed_on.mul_(size)
        grad_x = back(plain, weight).mul_(1 + half)
        grad_x = grad_x.add_(back(signed, sizes).mul_(x.sign()), alpha=half)
        grad_bias = None
        if bias is not None:
            grad_bias = plain.mul_(1 + half).add_(signed.mul_(bias.sign()), alpha=half)
        return grad_x, grad_bias, None, None, None, None, None


def _back(linear: Linear, x: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Take values of the outputs of a linear map back to its inputs."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        found: Tensor = torch.autograd.grad(linear(leaf, weights), leaf, values)[0]
    return found
