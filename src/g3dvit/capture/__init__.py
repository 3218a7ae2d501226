"""The only place with hooks and function modes; the model is a guest here.

`guest` puts a model into the state in which it is explained and gives it back exactly as it
was, after an exception and Ctrl-C too. `watch_layer` cuts the graph at one layer, so that it
begins there; `frozen_gates` is the function mode under which a transformer becomes affine in its
input; `LayerPass` and `FrozenPass` run a model once under either, for any number of scores.
`KeptTokens` runs a model on some of its patches, the tokens of the others really gone.
`g3dvit.capture.tokens` watches every tensor, for probing.

Nothing here knows a class of a foreign model library, or does the arithmetic of a method.
"""

from __future__ import annotations

from g3dvit.capture.attention import AttentionCall, AttentionPass
from g3dvit.capture.gates import Constant, FrozenGates, PatchNorm, TokenPoint, frozen_gates
from g3dvit.capture.guest import clean_input, guest, substituted, unwrap, wider
from g3dvit.capture.input_pass import InputPass
from g3dvit.capture.kept_tokens import KeptTokens
from g3dvit.capture.layer_pass import LayerPass
from g3dvit.capture.layers import LayerRecord, watch_layer
from g3dvit.capture.layers_pass import LayersPass
from g3dvit.capture.outputs import as_tokens, first_output, token_axes
from g3dvit.capture.passes import FrozenPass, FrozenProducts

__all__ = [
    "AttentionCall",
    "AttentionPass",
    "Constant",
    "FrozenGates",
    "FrozenPass",
    "FrozenProducts",
    "InputPass",
    "KeptTokens",
    "LayerPass",
    "LayerRecord",
    "LayersPass",
    "PatchNorm",
    "TokenPoint",
    "as_tokens",
    "clean_input",
    "first_output",
    "frozen_gates",
    "guest",
    "substituted",
    "token_axes",
    "unwrap",
    "watch_layer",
    "wider",
]
