"""Find out by probing how a model divides its input into tokens, and which layers can be used.

Everything is measured by running the model; no class name, no shape arithmetic on the number of
tokens, no position that is taken for granted. `g3dvit.probe_tokens` traces input blocks to
tokens, `g3dvit.probe_layers` judges layers, `g3dvit.probe_pooling` how the head reads tokens,
`g3dvit.probe_order` looks whether layers see the tokens in their order; this module puts them
together. The model is a guest: it is left as it was, also after an exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from g3dvit.capture import guest, substituted, unwrap
from g3dvit.capture.guest import clean_input
from g3dvit.capture.held_attention import HeldAttention
from g3dvit.capture.patch_guard import patch_guard
from g3dvit.errors import G3DError, GeometryError
from g3dvit.geometry import Geometry
from g3dvit.probe_attention import attention_layer
from g3dvit.probe_layers import Pass, layers_from, record_pass, steering_norms
from g3dvit.probe_notes import bounded_note, folded_notes, one_patch_note
from g3dvit.probe_order import turned_norms
from g3dvit.probe_pooling import find_pooling
from g3dvit.probe_stages import Sketches, Textures
from g3dvit.probe_tokens import TokenMap, find_tokens

#: Up to this many multiplications a pass (parameters times tokens), more random inputs are tried.
_CHEAP = 2e9
_INPUTS = 3


def probe_geometry(
    model: nn.Module, input_shape: Sequence[int] | None = None, *, seed: int = 0
) -> Geometry:
    """Find patch grid, tokens, normalisation layers and pooling of a model.

    Parameters
    ----------
    model
        Any module whose tokens are patches of a volume; may be in training mode, frozen, in
        bf16, compiled, or inside ``DataParallel``.
    input_shape
        Shape of one input without the batch: (channels, i, j, k) or (i, j, k). May be left out
        where ``model.description`` gives it.
    seed
        Of the random textures that are shown to the model.

    Returns
    -------
    Geometry
        Prints as a table.

    Raises
    ------
    GeometryError
        If the model cannot be run on such an input, or has no grid of equal patches.
    """
    shape = _input_shape(model, input_shape)
    if isinstance(model, torch.jit.ScriptModule):
        raise GeometryError(
            "a TorchScript model hides its tokens; give the torch.nn.Module that it was made from"
        )
    if any(".quantized." in type(module).__module__ for module in model.modules()):
        raise GeometryError(
            "a quantised model has no gradients inside; give the model that it was made from"
        )
    cautions: list[str] = []
    with guest(model) as network:
        textures = Textures(network, shape, seed)
        sketches = Sketches()
        first = _first_pass(network, textures, sketches, seed)
        # Of two readings of a normalisation, the likelier comes last.
        readings = [s for norm in first.norms for s in (norm.other, norm.stage) if s is not None]
        tokens = find_tokens(network, textures, shape, norms=readings, before=sketches)
        counts = (tokens.num_tokens, tokens.num_patches)
        first.settle(counts)
        norms = [norm.stage for norm in first.norms]
        before = sketches.at(norms)
        turned = turned_norms(network, textures, tokens, norms, before, seed=seed)
        call: Callable[[Tensor], Any] = network
        passes = [first]
        if not first.has_gradient:
            call = _without_zeros(network, seed)
            passes = [record_pass(network, textures.another(), seed=seed, call=call)]
            cautions.append(
                "no gradient of the class values reaches any layer, because some weights are all "
                "zero (an untrained head?); the layers were judged with small random numbers there"
                if passes[0].has_gradient
                else "no gradient of the class values reaches any layer, whatever the weights are"
            )
        if sum(p.numel() for p in network.parameters()) * tokens.num_tokens <= _CHEAP:
            passes += [
                record_pass(network, textures.another(), seed=seed + n, call=call)
                for n in range(1, _INPUTS)
            ]
        for one in passes:
            one.settle(counts)
        steering = _steering(network, textures.another(), passes[0], call, seed)
        layers = layers_from(passes, tokens, turned, steering)
        default = next((layer.name for layer in reversed(layers) if layer.status == "alive"), "")
        inputs = (textures.another(), textures.another())
        voxels = tokens.channels * math.prod(tokens.patch_size)
        guard = patch_guard(network, clean_input(inputs[0]), voxels)
        attending = attention_layer(network, layers, default, tokens.num_tokens, inputs, call)
    if not layers and not turned and (first.norms or first.elsewhere):
        raise GeometryError(
            f"no normalisation of this model sees the {tokens.num_tokens} tokens in which its "
            f"patches can be told apart, but {len(first.norms) + len(first.elsewhere)} see other "
            "tensors; windowed and hierarchical models (Swin and its kin), and models that look at "
            "slices or axes apart, have no single grid of patches, and are not supported"
        )
    cautions += _cautions(passes, tokens)
    cautions += folded_notes(passes[0], tokens, layers, default, steering)
    return Geometry(
        input_shape=shape,
        spatial_axes=tokens.spatial_axes,
        channels=tokens.channels,
        grid_shape=tokens.grid_shape,
        patch_size=tokens.patch_size,
        num_prefix_tokens=tokens.num_prefix_tokens,
        num_suffix_tokens=tokens.num_suffix_tokens,
        token_order=tokens.token_order,
        pooling=find_pooling(passes, tokens),
        num_outputs=first.num_outputs,
        layers=layers,
        default_layer=default,
        attention_layer=attending,
        patch_guard=guard,
        notes=(*cautions, *_notes(passes, tokens, default, len(layers), len(steering))),
        cautions=tuple(cautions),
        turned_layers=tuple(n.name for n in passes[0].norms if n.stage.index in turned),
        one_sigmoid=first.num_outputs == 1 and first.ending == "sigmoid",
    )


def _input_shape(model: nn.Module, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is None:
        given = getattr(getattr(unwrap(model), "description", None), "input_shape", None)
    if given is None:
        raise GeometryError(
            "the shape of the model's input is not known; give `input_shape`, what `model(x)` "
            "takes without the batch, such as (1, 90, 90, 90), or `input_shape:` in the "
            "description"
        )
    shape = tuple(int(size) for size in given)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise GeometryError(
            f"`input_shape` is what `model(x)` takes without the batch, (channels, i, j, k) or "
            f"(i, j, k); was given {shape}"
        )
    return shape


def _first_pass(network: nn.Module, textures: Textures, also: Sketches, seed: int) -> Pass:
    x = textures.input(textures.base)
    try:
        return record_pass(network, x, seed=seed, also=also)
    except G3DError:
        raise
    except Exception as error:
        if _runs_without_gradients(network, x):
            raise GeometryError(
                f"the model runs on {x.device}, but not with gradients, which every map needs: "
                f"{type(error).__name__}: {error}. Run it on another device, or let it use "
                "torch's scaled_dot_product_attention or its own softmax in place of a kernel "
                "that has no backward pass there"
            ) from error
        raise GeometryError(
            f"the model cannot be run on one input of shape {tuple(x.shape)} ({x.dtype}): "
            f"{type(error).__name__}: {error}. Check `input_shape` (what `model(x)` takes without "
            "the batch); models that need more than one argument take a small wrapper"
        ) from error


def _steering(
    network: nn.Module, x: Tensor, one: Pass, call: Callable[[Tensor], Any], seed: int
) -> frozenset[str]:
    """Return the normalisations that only steer attention, as far as that can be seen."""

    def held(values: Tensor) -> Any:
        with HeldAttention():
            return call(values)

    try:
        found = steering_norms(one, record_pass(network, x, seed=seed, call=held))
    except G3DError:  # nothing but attention weights leads to the score
        return frozenset()
    return found if len(found) < len(one.norms) else frozenset()


def _runs_without_gradients(network: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            network(x)
    except Exception:  # the caller says what is wrong with it
        return False
    return True


def _without_zeros(network: nn.Module, seed: int) -> Callable[[Tensor], Any]:
    """Return a call of the model in which parameters that are all zero are small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {p.data_ptr() for p in network.parameters() if p.is_floating_point()}

    def filled(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters or bool(tensor.any()):
            return tensor
        return (0.02 * torch.randn(tensor.shape, generator=generator)).to(tensor)

    return substituted(network, filled)


def _cautions(passes: Sequence[Pass], tokens: TokenMap) -> list[str]:
    notes = (bounded_note(passes), one_patch_note(passes, tokens))
    found = [note for note in notes if note is not None]
    if passes[0].cut:
        found.append(
            "a part of this model runs without autograd (torch.no_grad in its forward, or "
            "detached tokens), so that no gradient passes through it and no map reaches behind "
            "it; to freeze a part, use `requires_grad_(False)` in place of no_grad"
        )
    return found


def _notes(
    passes: Sequence[Pass], tokens: TokenMap, default: str, num_layers: int, num_steering: int
) -> list[str]:
    notes = []
    if tokens.overlapping:
        notes.append(
            "patches overlap: each place is shown at the patch that it moves most, so that the "
            "borders between patches are not sharp"
        )
    if passes[0].widths_beside:
        sizes = ", ".join(map(str, passes[0].widths_beside))
        notes.append(
            f"the model returns {passes[0].num_outputs} values and, beside them, {sizes}; the "
            "first are explained, so wrap the model if they are not its class values"
        )
    if num_steering:
        notes.append(
            f"{num_steering} normalisations of queries or keys only steer attention, and nothing "
            "of a patch goes on from there; they are not listed"
        )
    others = len(passes[0].norms) - num_layers - num_steering
    if others:
        notes.append(
            f"{others} more normalisations see tensors with another number or order of tokens; "
            "they are not listed"
        )
    if not default:
        notes.append(
            "no normalisation layer has patch gradients that differ between patches, so there is "
            "none that token Grad-CAM could use"
        )
    return notes
