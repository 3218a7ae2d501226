"""Normalisations and attention with frozen gates: rules for `g3dvit.capture.gate_rules`.

A normalisation is ``y = weight * (x - mean(x)) / sd + bias`` with a constant ``sd``; the mean
stays a function of x. Attention is ``A v`` with constant weights A: queries and keys get no
gradient, no attention matrix is made, and fused kernels stay in use.

Where a normalisation stands straight on the rearranged voxels, a model does not see what is
added to a patch or multiplied with it (each patch is centred and scaled), and gradient times
input at the voxels themselves would depend on just that. Relevance then begins at the output:
``R_v = (dy/du_v) * u_v`` with ``u = weight * (x - mean) / sd``, one for one with the voxels and
the same for ``x -> 2x + 1``; the bias is a constant like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from torch import Tensor

from g3dvit.capture.frozen_functions import FrozenLayerNorm, is_live, wide

if TYPE_CHECKING:
    from g3dvit.capture.gates import FrozenGates

Keywords = dict[str, Any]
Handler = Callable[["FrozenGates", Any, Sequence[Any], Keywords], Any]

#: Arguments of ``F.multi_head_attention_forward`` in their order.
MULTI_HEAD_NAMES = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight",
    "in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight",
    "out_proj_bias", "training", "key_padding_mask", "need_weights", "attn_mask",
    "use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight",
    "static_k", "static_v", "average_attn_weights", "is_causal",
)  # fmt: skip


def _finish(gates: FrozenGates, source: Tensor, out: Tensor, bias: Tensor | None) -> Tensor:
    """Add the bias, and let relevance begin here where the source is the bare voxels."""
    from g3dvit.capture.gate_rules import add
    from g3dvit.capture.gates import PatchNorm

    if gates.is_voxels(source):
        leaf = out.detach().requires_grad_()
        gates.patch_norms.append(PatchNorm(leaf, source, out))
        out = leaf.clone()
        gates.starts.add(out.grad_fn)
    return out if bias is None else add(gates, out, bias)


def _layer_norm(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> Tensor:
        if not is_live(input):
            return F.layer_norm(input, list(normalized_shape), weight, bias, eps)
        late = gates.tokens is not None and bias is not None
        share = gates.share_now() if late else None
        out: Tensor = FrozenLayerNorm.apply(
            input, share, weight, bias if late else None, normalized_shape, eps
        )
        return out if late else _finish(gates, input, out, bias)

    return parts(*args, **kwargs)


def _rms_norm(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        fixed = wide(input.detach())
        axes = tuple(range(-len(normalized_shape), 0))
        small = torch.finfo(input.dtype).eps if eps is None else eps
        scale = (fixed.square().mean(axes, keepdim=True) + small).rsqrt()
        out = input * scale.to(input.dtype)
        return out if weight is None else out * weight

    return parts(*args, **kwargs)


def _normalize(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(
        input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
    ) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(input.detach(), p, dim, keepdim=True)
        return input / size.clamp_min(eps)

    return parts(*args, **kwargs)


def _centred(
    gates: FrozenGates,
    x: Tensor,
    axes: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Normalise over `axes` of x, grouped channels unfolded; weight and bias fit x."""
    variance = x.detach().var(tuple(axes), unbiased=False, keepdim=True)
    out = (x - x.mean(tuple(axes), keepdim=True)) * (variance + eps).rsqrt()
    return out if weight is None else out * weight


def _by_channel(x: Tensor, values: Tensor | None) -> Tensor | None:
    return None if values is None else values.view(1, -1, *(1,) * (x.ndim - 2))


def _group_norm(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        grouped = input.reshape(input.shape[0], num_groups, -1)
        out = _centred(gates, grouped, (2,), None, None, eps).reshape(input.shape)
        gamma = _by_channel(input, weight)
        out = out if gamma is None else out * gamma
        return _finish(gates, input, out, _by_channel(input, bias))

    return parts(*args, **kwargs)


def _batch_norm(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,  # noqa: FBT001, FBT002 - torch's signature
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None:
            axes = [axis for axis in range(input.ndim) if axis != 1]
            gamma = _by_channel(input, weight)
            out = _centred(gates, input, axes, gamma, None, eps)
            return _finish(gates, input, out, _by_channel(input, bias))
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -running_mean * scale
        shift = shift if bias is None else shift + bias
        shape = (1, -1, *(1,) * (input.ndim - 2))
        out = input * scale.view(shape)
        return out + gates.constant(shift.view(shape), out, out.shape)

    return parts(*args, **kwargs)


def _instance_norm(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    def parts(
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,  # noqa: FBT001, FBT002 - torch's signature
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not use_input_stats:
            rest = {"eps": eps, "weight": weight, "bias": bias}
            return _batch_norm(gates, None, (input, running_mean, running_var), rest)  # type: ignore[no-any-return]
        out = _centred(gates, input, range(2, input.ndim), _by_channel(input, weight), None, eps)
        return _finish(gates, input, out, _by_channel(input, bias))

    return parts(*args, **kwargs)


def _if_live(handler: Handler) -> Handler:
    def rule(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
        x = args[0] if args else kwargs.get("input")
        return handler(gates, func, args, kwargs) if is_live(x) else func(*args, **kwargs)

    return rule


def _attention(gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords) -> Any:
    named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
    for name in ("query", "key", "attn_mask"):
        if isinstance(named.get(name), Tensor):
            named[name] = named[name].detach()
    rest = args[4:]
    if rest:
        names = ("dropout_p", "is_causal", "scale", "enable_gqa")
        named |= dict(zip(names, rest, strict=False))
    return func(**named)


def _multi_head_attention(
    gates: FrozenGates, func: Any, args: Sequence[Any], kwargs: Keywords
) -> Any:
    """Take ``F.multi_head_attention_forward`` apart, which arrives as one call."""
    call = dict(zip(MULTI_HEAD_NAMES, args, strict=False)) | kwargs
    if call.get("static_k") is not None or call.get("static_v") is not None:
        return func(*args, **kwargs)
    with gates:
        return multi_head_parts(call)


def multi_head_parts(call: Keywords) -> tuple[Tensor, Tensor | None]:
    """Compute a multi-head attention step by step, its attention in one fused call.

    Parameters
    ----------
    call
        The arguments of ``F.multi_head_attention_forward`` by name.

    Returns
    -------
    output, attention weights where they were asked for
    """
    query, key, value = call["query"], call["key"], call["value"]
    alone = query.ndim == 2
    if alone:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
    heads, batch = call["num_heads"], query.shape[1]
    q, k, v = _projections(call, query, key, value)
    if call.get("bias_k") is not None:
        k = torch.cat([k, call["bias_k"].expand(1, batch, -1)])
        v = torch.cat([v, call["bias_v"].expand(1, batch, -1)])

    def split(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], batch, heads, -1).permute(1, 2, 0, 3)

    q, k, v = split(q), split(k), split(v)
    if call.get("add_zero_attn"):
        k, v = (torch.cat([t, torch.zeros_like(t[:, :, :1])], dim=2) for t in (k, v))
    mask = _merged_mask(call, batch, heads, k.shape[2], q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = out.permute(2, 0, 1, 3).reshape(query.shape[0], batch, -1)
    out = F.linear(out, call["out_proj_weight"], call["out_proj_bias"])
    weights = None
    if call.get("need_weights", True):
        scores = q.detach() @ k.detach().transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = weights.mean(1) if call.get("average_attn_weights", True) else weights
    if alone:
        out = out.squeeze(1)
        weights = None if weights is None else weights.squeeze(0)
    return out, weights


def _projections(
    call: Keywords, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    bias = call["in_proj_bias"]
    if not call.get("use_separate_proj_weight") and query is key and key is value:
        q, k, v = F.linear(query, call["in_proj_weight"], bias).chunk(3, -1)
        return q, k, v
    if call.get("use_separate_proj_weight"):
        weights = [call["q_proj_weight"], call["k_proj_weight"], call["v_proj_weight"]]
    else:
        weights = list(call["in_proj_weight"].chunk(3))
    biases = [None] * 3 if bias is None else list(bias.chunk(3))
    inputs = (query, key, value)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))
    return q, k, v


def _merged_mask(
    call: Keywords, batch: int, heads: int, length: int, dtype: torch.dtype
) -> Tensor | None:
    """Return one additive mask from the attention mask and the key padding mask."""
    total: Tensor | None = None
    padding = call.get("key_padding_mask")
    for mask in (call.get("attn_mask"), None if padding is None else padding[:, None, None]):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
                mask, -math.inf
            )
        if mask.ndim == 3:
            mask = mask.reshape(batch, heads, *mask.shape[1:])
        mask = F.pad(mask.to(dtype), (0, length - mask.shape[-1]))
        total = mask if total is None else total + mask
    return total


HANDLERS: dict[str, Handler] = {
    "layer_norm": _layer_norm,
    "rms_norm": _if_live(_rms_norm),
    "normalize": _if_live(_normalize),
    "group_norm": _if_live(_group_norm),
    "batch_norm": _if_live(_batch_norm),
    "instance_norm": _if_live(_instance_norm),
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
}
