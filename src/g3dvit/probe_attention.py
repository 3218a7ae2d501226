"""The layer where methods of one layer are at home: the last one in front of an attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from g3dvit.capture.layers import carries_all
from g3dvit.capture.layers_pass import LayersPass
from g3dvit.errors import G3DError
from g3dvit.geometry import NormLayer


def attention_layer(
    network: nn.Module,
    layers: Sequence[NormLayer],
    default: str,
    num_tokens: int,
    inputs: tuple[Tensor, Tensor],
    call: Callable[[Tensor], Any],
) -> str:
    """Return the last layer in front of an attention, or the last of all if it carries all.

    The last normalisation whose gradients are alive can be that of a feed-forward branch, as with
    mean pooling and no final normalisation. What attention brought to a patch goes around that
    branch, and a map made there does not have it.

    Parameters
    ----------
    network
        The module inside `guest`.
    layers
        What was found of them.
    default
        Name of the last one that is alive; empty where none is.
    num_tokens
        Of the model.
    inputs : each (1, ...)
        Two different ones.
    call
        Runs the model.
    """
    alive = {layer.name for layer in layers if layer.status == "alive"}
    names = [layer.name for layer in layers if layer.num_prefix_tokens is None]
    x, other = inputs
    try:
        fed = LayersPass(network, x, names, num_tokens, run=call).before_attention
        feeding = [name for name in fed if name in alive]
        if not feeding or feeding[-1] == default:
            return default
        return default if carries_all(call, network, default, x, other) else feeding[-1]
    except (G3DError, RuntimeError):  # watching several layers is more than watching one
        return default
