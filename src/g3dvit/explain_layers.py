"""Methods of more than one layer, and of a linear head: HiResCAM over blocks, exact CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from g3dvit import diagnose
from g3dvit.capture import LayerPass, LayersPass
from g3dvit.capture.last_tokens import is_affine, last_tokens
from g3dvit.capture.layers import carries_all
from g3dvit.checks import Check
from g3dvit.errors import LayerError, MethodError
from g3dvit.explain_context import Context, host
from g3dvit.methods import cam, hirescam_blocks

_UNIFORM = 1e-4


def explain_blocks(batch: Context) -> None:
    """Explain a batch with HiResCAM over all blocks.

    Raises
    ------
    LayerError
        If it cannot be told what each attention over all tokens reads, so that a block would be
        left out or another layer take its place.
    """
    geometry = batch.geometry
    names = [layer.name for layer in geometry.layers if layer.num_prefix_tokens is None]
    layers_pass = LayersPass(
        batch.network,
        batch.x,
        names,
        geometry.num_tokens,
        run=batch.run,
        features_first=[layer.name for layer in geometry.layers if layer.features_first],
    )
    scores = batch.choose_scores(layers_pass.logits)
    layers = layers_pass.before_attention
    if why := _why_no_blocks(batch, layers_pass, layers):
        raise LayerError(
            "method='hirescam_blocks' adds up the layers that feed the attentions over all "
            f"{geometry.num_tokens} tokens, but {why}; use method='hirescam' or 'frozen_gate'"
        )
    start = geometry.num_prefix_tokens
    patches = slice(start, start + geometry.num_patches)
    activations = [_there(layers_pass.activations(name))[:, patches] for name in layers]
    maps, alive = [], []
    for number in range(scores.values.shape[1]):
        gradients = layers_pass.gradients(layers, scores.weights[:, number])
        relevance = hirescam_blocks(activations, [g[:, patches] for g in gradients])
        maps.append({"relevance": host(batch.grid(relevance))})
        # One block whose gradient reaches the patches is enough.
        each = torch.stack([diagnose.dead_gradient(g, patches) for g in gradients])
        alive.append(each.amax(0))
    batch.store("hirescam_blocks", maps)
    values = torch.stack(alive).amin(0).tolist()
    batch.found.checks["hirescam_blocks"] = [(diagnose.check_dead(v),) for v in values]


def _why_no_blocks(batch: Context, found: LayersPass, layers: Sequence[str]) -> str:
    """Say why it cannot be told what each block reads; empty where it can."""
    if found.partial_keys:
        sizes = ", ".join(map(str, found.partial_keys))
        return f"some attentions of this model are over {sizes} (windows, one axis, other tokens)"
    if not layers and not found.unfed:
        return "no attention is recognised in this model"
    if found.unfed or any(found.activations(name) is None for name in layers):
        return (
            "an attention of this model reads tokens that no normalisation layer gives (blocks "
            "that normalise behind their attention)"
        )
    if not batch.geometry.num_prefix_tokens:
        # Without further tokens a normalisation in the patch embedding looks like one of a block.
        # All goes through that one, and the positions join behind it.
        x = batch.x[:1]
        other = x.flip(tuple(range(2, x.ndim))) * 0.5
        if carries_all(batch.run, batch.network, layers[0], x, other):
            return (
                f"what feeds the first attention is {layers[0]!r}, which is not its own "
                "normalisation layer"
            )
    return ""


def explain_linear_head(batch: Context) -> None:
    """Explain a batch with exact CAM.

    Raises
    ------
    MethodError
        If the head is not linear on a mean of tokens.
    """
    geometry, counts = batch.geometry, batch.counts
    name = last_tokens(batch.network, batch.x[:1], counts, run=batch.run)
    if name is None:
        raise MethodError(_why_no_cam("no module of it gives tokens"))
    layer_pass = LayerPass(batch.network, batch.x, name, counts, run=batch.run)
    scores = batch.choose_scores(layer_pass.logits)
    tokens = layer_pass.activations
    start = geometry.num_prefix_tokens if tokens.shape[1] == geometry.num_tokens else 0
    patches = slice(start, start + geometry.num_patches)
    if not is_affine(batch.network, batch.x[:1], name, run=batch.run):
        raise MethodError(_why_no_cam(f"it is not linear in the tokens of {name!r}"))
    maps: list[dict[str, Tensor]] = []
    rows: list[list[Check]] = [[] for _ in batch.x]
    for number in range(scores.values.shape[1]):
        weights = scores.weights[:, number]
        gradients = layer_pass.gradients(weights)
        of_patches = gradients[:, patches]
        size = float(of_patches.abs().max())
        mean = of_patches.mean(1)
        if not size or float((of_patches - mean[:, None]).abs().max()) > _UNIFORM * size:
            raise MethodError(_why_no_cam(f"it does not take the mean of the tokens of {name!r}"))
        relevance = cam(tokens[:, patches], mean)
        others = (gradients * tokens).sum((1, 2)) - (of_patches * tokens[:, patches]).sum((1, 2))
        bias = _bias(layer_pass, weights, gradients, tokens) + scores.offsets[:, number]
        maps.append(
            {"relevance": host(batch.grid(relevance)), "prefix": host(others), "bias": host(bias)}
        )
        dead = diagnose.dead_gradient(gradients, patches).tolist()
        for row, value in zip(rows, dead, strict=True):
            row.append(diagnose.check_dead(value))
    batch.store("cam", maps)
    batch.found.checks["cam"] = [(min(row, key=lambda c: c.value),) for row in rows]


def _bias(layer_pass: LayerPass, weights: Tensor, gradients: Tensor, tokens: Tensor) -> Tensor:
    """Return what the score is without any token: the head is affine."""
    z = layer_pass.logits.detach()
    z = z if z.dtype == torch.float64 else z.float()
    return (weights.to(z) * z).sum(1) - (gradients * tokens).sum((1, 2)).to(z)


def _why_no_cam(reason: str) -> str:
    return (
        "exact CAM needs a head that is linear on the mean of the tokens, and this model's is "
        f"not: {reason}; use method='hirescam' or 'frozen_gate'"
    )


def _there(tokens: Tensor | None) -> Tensor:
    assert tokens is not None  # layers without tokens were left out
    return tokens
