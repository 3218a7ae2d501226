"""Explain one batch: from the model's passes to the maps and checks of every method.

The passes are run by `g3dvit.capture`, the arithmetic is in `g3dvit.methods`, the judging in
`g3dvit.diagnose`; here they are put together, and tokens are put back onto the patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from g3dvit import diagnose
from g3dvit.capture import FrozenPass, LayerPass, wider
from g3dvit.capture.frozen_functions import HALF
from g3dvit.explain_attention import explain_attention
from g3dvit.explain_checks import add_map_checks
from g3dvit.explain_context import BatchResult, Context, host
from g3dvit.explain_gates import (
    Followed,
    explain_gates,
    patch_share,
    share_checks,
    share_maps,
    shares_of,
    shuffles,
)
from g3dvit.explain_input import explain_input
from g3dvit.explain_layers import explain_blocks, explain_linear_head
from g3dvit.explain_removal import explain_removal
from g3dvit.explain_request import Request
from g3dvit.explain_shifts import explain_shifts
from g3dvit.explanation import Maps
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS, beside_share, completeness_error, held_share, token_gradcam
from g3dvit.methods.frozen_gates import FrozenGateMap
from g3dvit.methods.table import Source
from g3dvit.targets import Chosen, Scores

#: Above this completeness error the volumes of a batch are run one at a time: a model may hold
#: its volumes on an axis where they cannot be told apart.
_RETRY = 1e-4
#: Above this, a model in half precision is run with float32 copies of its parameters.
_RETRY_HALF = 5e-3


def explain_batch(
    network: nn.Module,
    x: Tensor,
    request: Request,
    geometry: Geometry,
    *,
    labels: Sequence[Any] | None = None,
    chosen: tuple[tuple[Chosen, ...], ...] | None = None,
    run: Callable[[Tensor], Any] | None = None,
) -> BatchResult:
    """Explain one batch with every method asked for.

    Parameters
    ----------
    network
        The module inside `g3dvit.capture.guest`.
    x : (batch, ...)
        Its input, detached.
    request, geometry
        What to explain, and how the model divides its input.
    labels
        Class of each volume, for the target ``"label"``.
    chosen
        The class or contrast of each volume and target, where it is known already.
    run
        What to call in place of `network`, for instance with other parameters.
    """
    batch = _Batch(network, x, request, geometry, labels, chosen, run or network)
    _explain(batch)
    add_map_checks(batch)
    if request.score == "probability":
        _check_saturation(batch)
    return batch.found


def _explain(batch: _Batch) -> None:
    """Explain a batch with every family of methods that is asked for."""
    families: dict[Source, Callable[[], None]] = {
        "layer": batch.explain_layer,
        "frozen gates": batch.explain_frozen,
        "gate variants": lambda: explain_gates(batch),
        "shifts": lambda: explain_shifts(batch),
        "layers": lambda: explain_blocks(batch),
        "linear head": lambda: explain_linear_head(batch),
        "input": lambda: explain_input(batch),
        "attention": lambda: explain_attention(batch),
        "kept tokens": lambda: explain_removal(batch),
    }
    for source, explain in families.items():
        if any(METHODS[name].source == source for name in batch.request.methods):
            explain()


def _check_saturation(batch: Context) -> None:
    """Add to every map how far its probability is from where it cannot change."""
    found = batch.found
    for number, (scores, row) in enumerate(zip(found.scores.tolist(), found.chosen, strict=True)):
        distances = [
            1 - abs(score) if isinstance(target, tuple) else min(score, 1 - score)
            for score, target in zip(scores, row, strict=True)
        ]
        check = diagnose.check_saturated(min(distances))
        for name in batch.request.methods:
            found.checks[name][number] = (*found.checks[name][number], check)


class _Batch(Context):
    """One batch while it is explained, with the methods that were there first."""

    # -- methods of one layer --------------------------------------------------------------
    def explain_layer(self) -> None:
        layers: dict[str, list[str]] = {}
        for name in self.request.methods:
            layer = self.request.layer_of(name)
            if layer is not None:
                layers.setdefault(layer, []).append(name)
        for layer, names in layers.items():
            self._explain_at(layer, names)

    def _explain_at(self, layer: str, names: Sequence[str]) -> None:
        """Explain a batch with the methods of one layer."""
        geometry = self.geometry
        counts = (geometry.num_tokens, geometry.num_patches)
        known = geometry.layer(layer)
        first = known is not None and known.features_first
        layer_pass = LayerPass(
            self.network, self.x, layer, counts, run=self.run, features_first=first
        )
        scores = self.choose_scores(layer_pass.logits)
        start = 0
        if layer_pass.activations.shape[1] == geometry.num_tokens:
            start = geometry.num_prefix_tokens
        patches = slice(start, start + geometry.num_patches)
        activations = layer_pass.activations[:, patches]
        parts: dict[str, list[Maps]] = {name: [] for name in names}
        measured: list[dict[str, Tensor]] = []
        gain = self._gain(layer, activations.shape[2])
        for number in range(scores.values.shape[1]):
            gradients = layer_pass.gradients(scores.weights[:, number])
            of_patches = gradients[:, patches]
            for name in names:
                if name == "token_gradcam":
                    parts[name].append(self._token_gradcam(activations, of_patches))
                else:
                    relevance = METHODS[name].function(activations, of_patches)
                    parts[name].append({"relevance": host(self.grid(relevance))})
            measured.append(
                {
                    "dead": diagnose.dead_gradient(gradients, patches),
                    "uniform": diagnose.uniform_gradient(of_patches),
                    "discarded": diagnose.discarded_share(of_patches, gain),
                }
            )
        for name, maps in parts.items():
            self.store(name, maps)
        self._layer_checks(names, measured, activations)

    def _token_gradcam(self, activations: Tensor, gradients: Tensor) -> Maps:
        found = [token_gradcam(activations, gradients, w) for w in self.request.weightings]
        return {
            key: host(torch.stack([self.grid(getattr(one, key)) for one in found], dim=1))
            for key in ("relevance", "patch_weights", "token_sum")
        }

    def _gain(self, layer: str, features: int) -> Tensor | None:
        """Return the gain of a layer, where it is a normalisation with one."""
        modules = dict(self.network.named_modules())
        module = modules.get(layer.partition("#")[0])
        gain = getattr(module, "weight", None)
        return gain if isinstance(gain, Tensor) and gain.shape == (features,) else None

    def _layer_checks(
        self, names: Sequence[str], measured: list[dict[str, Tensor]], activations: Tensor
    ) -> None:
        assert self.result is not None  # `choose_scores` has made it
        # Of several targets, the worst counts: a low value is bad for both.
        dead = torch.stack([m["dead"] for m in measured]).amin(0).tolist()
        uniform = torch.stack([m["uniform"] for m in measured]).amin(0).tolist()
        discarded = torch.stack([m["discarded"] for m in measured]).amax(0).tolist()
        centred = diagnose.centring(activations).tolist()
        channels = activations.shape[2]
        for name in names:
            rows = []
            for volume in range(len(dead)):
                row = [diagnose.check_dead(dead[volume]), diagnose.check_uniform(uniform[volume])]
                if name == "token_gradcam":
                    row.append(diagnose.check_centring(centred[volume], activations.dtype))
                    row.append(diagnose.check_discarded(discarded[volume], channels))
                rows.append(tuple(row))
            self.result.checks[name] = rows

    # -- frozen gates ----------------------------------------------------------------------
    def explain_frozen(self) -> None:
        if self.request.alone and len(self.x) > 1:
            self._one_at_a_time()
            return
        shares, scores, followed = self._frozen_shares(self.run, self.x)
        errors = torch.stack([error for _, error in shares], dim=1)
        half = self.x.dtype in HALF
        if half and float(errors.max()) > _RETRY_HALF:
            wide = wider(self.network, torch.float32)
            shares, scores, followed = self._frozen_shares(wide, self.x.float())
            errors = torch.stack([error for _, error in shares], dim=1)
        if len(self.x) > 1 and float(errors.max()) > (_RETRY_HALF if half else _RETRY):
            self._one_at_a_time()
            return
        assert self.result is not None  # `choose_scores` has made it
        self.store("frozen_gate", [share_maps(self, s, e) for s, e in shares])
        self.result.maps["frozen_gate"]["scores"] = host(scores.values)
        pairs = list(zip(shares, scores.values.unbind(1), strict=True))
        held = torch.stack([held_share(s, y) for (s, _), y in pairs], dim=1)
        self.result.beside = host(torch.stack([beside_share(s, y) for (s, _), y in pairs]).amax(0))
        size = torch.stack([patch_share(s) for s, _ in shares], dim=1).amin(1).tolist()
        complete = share_checks(self, errors, held, followed)
        self.result.checks["frozen_gate"] = [
            (diagnose.check_empty(share), *checks)
            for share, checks in zip(size, complete, strict=True)
        ]

    def _frozen_shares(
        self, run: Callable[[Tensor], Any], x: Tensor
    ) -> tuple[list[tuple[FrozenGateMap, Tensor]], Scores, Followed]:
        frozen = FrozenPass(run, x, self.counts, trace=shuffles(self.geometry))
        scores = self.choose_scores(frozen.logits)
        found = shares_of(self, frozen, scores)
        values = scores.values.unbind(1)
        shares = [(s, completeness_error(s, y)) for s, y in zip(found, values, strict=True)]
        return shares, scores, Followed.of(frozen)

    def _one_at_a_time(self) -> None:
        request = replace(self.request, methods=("frozen_gate",), alone=False)
        if self.request.methods == ("frozen_gate",):
            self.result = None  # what the volumes give alone is what is explained
        single = []
        for n in range(len(self.x)):
            labels = None if self.labels is None else self.labels[n : n + 1]
            chosen = None if self.chosen is None else self.chosen[n : n + 1]
            one = _Batch(
                self.network, self.x[n : n + 1], request, self.geometry, labels, chosen, self.run
            )
            _explain(one)
            single.append(one.found)
        if self.result is None:
            self.result = BatchResult(
                torch.cat([one.logits for one in single]),
                torch.cat([one.scores for one in single]),
                tuple(row for one in single for row in one.chosen),
            )
        parts = [one.maps["frozen_gate"] for one in single]
        self.result.maps["frozen_gate"] = {
            key: torch.cat([maps[key] for maps in parts]) for key in parts[0]
        }
        self.result.checks["frozen_gate"] = [one.checks["frozen_gate"][0] for one in single]
        self.result.beside = torch.cat([one.beside for one in single if one.beside is not None])
        self.result.alone = (
            diagnose.worst(check for row in self.result.checks["frozen_gate"] for check in row)
            != "fail"
        )
