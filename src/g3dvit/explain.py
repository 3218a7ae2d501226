"""The conductor: explain a model on volumes that are in the form it takes.

`Explainer` probes a model once and explains any number of volumes, in batches. It computes
nothing itself: targets are chosen in `g3dvit.targets`, a batch is explained in
`g3dvit.explain_batch`, and what comes out is an `Explanation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from g3dvit import diagnose
from g3dvit.capture import clean_input, guest, unwrap
from g3dvit.diagnose import Check
from g3dvit.errors import InputError, LayerError, MethodError
from g3dvit.explain_batch import BatchResult, Request, explain_batch
from g3dvit.explanation import Explanation, join
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS, WEIGHTINGS, Weighting, did_you_mean, find_method
from g3dvit.targets import Chosen, resolve_score, split_targets

__all__ = ["Explainer", "Explanation"]

Progress = Callable[[int, int], None]
CHECKS = ("float64",)


class Explainer:
    """Explains one model.

    Parameters
    ----------
    model
        Any module that takes (batch, *input_shape) and returns class values. It is a guest: it
        is explained in evaluation mode and left exactly as it was.
    input_shape
        What ``model(x)`` takes, without the batch: (channels, i, j, k) or (i, j, k). May be left
        out where ``model.description`` gives it.
    geometry
        How the model divides its input, where it has been probed already.
    device
        Where the model must be; None for where it is.
    class_names
        In the order of the outputs; from ``model.description`` if left out.

    Raises
    ------
    GeometryError
        If the patch grid cannot be found.
    InputError
        If the model is not on `device`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> class Tiny(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed = nn.Conv3d(1, 8, (2, 3, 4), (2, 3, 4))
    ...         self.norm = nn.LayerNorm(8)
    ...         self.head = nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         tokens = self.embed(x).flatten(2).transpose(1, 2)
    ...         return self.head(self.norm(tokens).square().mean(1))
    >>> explainer = Explainer(Tiny(), input_shape=(1, 4, 9, 8))
    >>> explainer.explain(torch.randn(5, 1, 4, 9, 8)).relevance.shape
    torch.Size([5, 2, 3, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[int] | None = None,
        *,
        geometry: Geometry | None = None,
        device: str | torch.device | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        description = getattr(model, "description", None)
        if class_names is None:
            class_names = getattr(description, "class_names", None) or ()
        self.class_names = tuple(class_names)
        self._check_device(device)
        if geometry is None:
            from g3dvit.probe import probe_geometry

            geometry = probe_geometry(model, input_shape)
        self.geometry: Geometry = geometry
        self._alone = False

    @overload
    def explain(self, x: Any, method: str = "token_gradcam", **options: Any) -> Explanation: ...

    @overload
    def explain(
        self, x: Any, method: Sequence[str], **options: Any
    ) -> Mapping[str, Explanation]: ...

    def explain(
        self,
        x: Any,
        method: str | Sequence[str] = "token_gradcam",
        *,
        weighting: str | Sequence[str] = "mean",
        target: Any = "predicted",
        score: str | None = None,
        target_layer: str | None = None,
        batch_size: int | None = None,
        labels: Sequence[Any] | None = None,
        check: str | Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Explanation | Mapping[str, Explanation]:
        """Explain volumes.

        Parameters
        ----------
        x : (volumes, *input_shape)
            Tensor or array, in the form that the model takes; more than one batch is fine.
        method
            A name gives one `Explanation`, a sequence of names a mapping.
        weighting
            Token Grad-CAM's ``"mean"``, ``"max"``, ``"abs"``, ``"relu"``, a sequence of them, or
            ``"all"``.
        target
            A class (index or name), ``"predicted"``, ``"label"``, a contrast (a, b), ``"all"``, or
            a list of these. All targets and weightings of a batch come from one forward pass.
        score
            ``"logit"`` or ``"log_odds"``; None is the logit for token Grad-CAM alone, log-odds as
            soon as another method is asked for.
        target_layer
            A layer by name; None is the last normalisation layer whose gradients tell patches
            apart, ``geometry.default_layer``.
        batch_size
            Volumes at a time; None chooses by the number of tokens.
        labels : (volumes,)
            Class index or name of each volume, for the target ``"label"``.
        check
            Further checks, run on the first batch: ``"float64"``.
        progress
            Called with the number of volumes done and of all.

        Returns
        -------
        Explanation, or mapping of method to Explanation

        Raises
        ------
        InputError
            If `x`, `labels` or `batch_size` cannot be used.
        MethodError, TargetError
            If there is no such method, weighting, target or score.
        LayerError
            If `target_layer` is named and absent, or its gradients say nothing about places.
        """
        # 1. what is asked for
        names = self._methods(method)
        targets, several_targets = split_targets(target, self.geometry.num_outputs)
        weightings, several_weightings = self._weightings(weighting, names)
        request = Request(
            methods=names,
            weightings=weightings,
            targets=targets,
            score=resolve_score(score, names),
            target_layer=self._layer(target_layer, names),
            class_names=self.class_names,
        )
        checks = self._checks(check)
        # 2. the volumes
        volumes = self._volumes(x)
        if labels is not None and len(labels) != len(volumes):
            raise InputError(f"{len(labels)} `labels` were given for {len(volumes)} volumes")
        size = self._batch_size(batch_size)
        # 3. batch after batch, the model as a guest
        batches: list[BatchResult] = []
        with guest(self.model) as network:
            for start in range(0, len(volumes), size):
                inputs = self._input(volumes, start, size, network)
                mine = None if labels is None else labels[start : start + size]
                result = explain_batch(
                    network,
                    inputs,
                    replace(request, alone=self._alone),
                    self.geometry,
                    labels=mine,
                )
                self._alone |= result.alone
                self._refuse_empty(result, target_layer)
                if start == 0 and "float64" in checks:
                    self._add_float64(network, inputs, request, result)
                batches.append(result)
                if progress is not None:
                    progress(min(start + size, len(volumes)), len(volumes))
        # 4. one value per method
        found = {
            name: self._explanation(
                name,
                request,
                batches,
                several_targets=several_targets,
                several_weightings=several_weightings,
            )
            for name in names
        }
        return found[names[0]] if isinstance(method, str) else found

    @overload
    def check_float64(self, x: Any, result: Explanation) -> tuple[Check, ...]: ...

    @overload
    def check_float64(
        self, x: Any, result: Mapping[str, Explanation]
    ) -> Mapping[str, tuple[Check, ...]]: ...

    def check_float64(
        self, x: Any, result: Explanation | Mapping[str, Explanation]
    ) -> tuple[Check, ...] | Mapping[str, tuple[Check, ...]]:
        """Tell whether maps are the same when computed in float64.

        The model's parameters are copied, never converted.

        Parameters
        ----------
        x : (volumes, *input_shape)
            The first volumes that were explained, or all.
        result
            What `explain` gave for them.

        Returns
        -------
        tuple of Check, or mapping of method to tuple of Check
            One per volume.
        """
        if isinstance(result, Mapping):
            return {name: self.check_float64(x, one) for name, one in result.items()}
        volumes = self._volumes(x)
        if len(volumes) > len(result):
            raise InputError(f"{len(volumes)} volumes were given, {len(result)} were explained")
        several = result.scores.ndim == 2
        chosen = tuple(t if several else (t,) for t in result.target[: len(volumes)])
        request = Request(
            methods=(result.method,),
            weightings=cast("tuple[Weighting, ...]", result.weightings),
            targets=result.targets,
            score=resolve_score(result.score, [result.method]),
            target_layer=result.target_layer or "",
        )
        size = self._batch_size(None)
        rows: list[Check] = []
        with guest(self.model) as network:
            for start in range(0, len(volumes), size):
                inputs = self._input(volumes, start, size, network)
                some = chosen[start : start + size]
                relevance = result.relevance[start : start + len(inputs)]
                maps = {result.method: relevance}
                rows += self._float64(network, inputs, request, some, maps)[result.method]
        return tuple(rows)

    # -- what is asked for -----------------------------------------------------------------
    def _methods(self, method: str | Sequence[str]) -> tuple[str, ...]:
        names = (method,) if isinstance(method, str) else tuple(method)
        if not names:
            raise MethodError(f"`method` is empty; choose from {', '.join(METHODS)}")
        return tuple(dict.fromkeys(find_method(name).name for name in names))

    def _weightings(
        self, weighting: str | Sequence[str], names: Sequence[str]
    ) -> tuple[tuple[Weighting, ...], bool]:
        several = not isinstance(weighting, str) or weighting == "all"
        asked = (weighting,) if isinstance(weighting, str) else tuple(weighting)
        if asked == ("all",):
            asked = WEIGHTINGS
        for one in asked or ("none",):
            if one not in WEIGHTINGS:
                raise MethodError(
                    f"there is no weighting {one!r}{did_you_mean(one, WEIGHTINGS)}; choose from "
                    f"{', '.join(WEIGHTINGS)}, or 'all'"
                )
        self._refuse_argument("weighting", weighting != "mean", names)
        return cast("tuple[Weighting, ...]", asked), several

    @staticmethod
    def _refuse_argument(argument: str, given: bool, names: Sequence[str]) -> None:  # noqa: FBT001
        if given and not any(argument in METHODS[name].arguments for name in names):
            able = ", ".join(name for name, m in METHODS.items() if argument in m.arguments)
            raise MethodError(
                f"`{argument}` means nothing to {', '.join(names)}; methods that take it: {able}"
            )

    def _layer(self, asked: str | None, names: Sequence[str]) -> str:
        """Return the layer to take; refuse a named one that is absent or says nothing."""
        self._refuse_argument("target_layer", asked is not None, names)
        geometry = self.geometry
        works = ", ".join(geometry.alive_layers) or "none"
        if asked is None:
            if not geometry.default_layer and any(METHODS[n].source == "layer" for n in names):
                raise LayerError(
                    "no normalisation layer of this model has gradients that tell patches apart; "
                    "use method='frozen_gate', or name another layer"
                )
            return geometry.default_layer
        name = asked
        while name.startswith(("module.", "_orig_mod.")) and geometry.layer(name) is None:
            name = name.partition(".")[2]
        layer = geometry.layer(name)
        if layer is None and name.partition("#")[0] not in dict(unwrap(self.model).named_modules()):
            known = [layer.name for layer in geometry.layers]
            raise LayerError(
                f"the model has no layer {asked!r}{did_you_mean(asked, known)}; normalisation "
                f"layers that work: {works}"
            )
        if layer is not None and layer.status != "alive":
            raise LayerError(_why_not(name, layer.status, works))
        return name

    def _refuse_empty(self, result: BatchResult, asked: str | None) -> None:
        """Refuse a named layer that is no normalisation and turns out to say nothing."""
        if asked is None or self.geometry.layer(asked) is not None:
            return
        for rows in result.checks.values():
            for name, status in (("dead gradient", "dead"), ("uniform gradient", "uniform")):
                verdicts = [c.verdict for row in rows for c in row if c.name == name]
                if verdicts and all(v == "fail" for v in verdicts):
                    works = ", ".join(self.geometry.alive_layers) or "none"
                    raise LayerError(_why_not(asked, status, works))

    @staticmethod
    def _checks(check: str | Sequence[str]) -> tuple[str, ...]:
        asked = (check,) if isinstance(check, str) else tuple(check)
        for name in asked:
            if name not in CHECKS:
                raise InputError(f"there is no check {name!r}; choose from {', '.join(CHECKS)}")
        return asked

    # -- the volumes -----------------------------------------------------------------------
    def _check_device(self, device: str | torch.device | None) -> None:
        if device is None:
            return
        wanted, actual = torch.device(device), self._device
        if wanted.type != actual.type or wanted.index not in (None, actual.index):
            raise InputError(
                f"the model is on {actual} and not on {wanted}; move it first: model.to({device!r})"
            )

    @property
    def _device(self) -> torch.device:
        parameter = next(self.model.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def _volumes(self, x: Any) -> Tensor | np.ndarray[Any, Any]:
        shape = self.geometry.input_shape
        values = x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x)
        expected = "(volumes, " + ", ".join(map(str, shape)) + ")"
        if tuple(values.shape[1:]) != shape or values.ndim != len(shape) + 1:
            hint = "; add the axis of volumes: x[None]" if tuple(values.shape) == shape else ""
            raise InputError(
                f"`x` must have the shape {expected}, was given {tuple(values.shape)}{hint}"
            )
        if not len(values):
            raise InputError(f"`x` holds no volume: its shape is {tuple(values.shape)}")
        for number in range(len(values)):
            finite = (
                torch.isfinite(values[number])
                if isinstance(values, Tensor)
                else np.isfinite(values[number])
            )
            if not bool(finite.all()):
                bad = int((~finite).sum())
                raise InputError(
                    f"volume {number} of `x` has {bad} values that are not finite; replace them "
                    "as in training (the preparations of g3dvit do so)"
                )
        return values

    def _batch_size(self, asked: int | None) -> int:
        if asked is None:
            # About as many tokens as make good use of a CPU; activations stay below a gigabyte.
            asked = max(1, min(32, 4096 // self.geometry.num_tokens))
        elif isinstance(asked, bool) or int(asked) != asked or asked < 1:
            raise InputError(f"`batch_size` takes a positive integer, was given {asked!r}")
        # As many volumes as tokens could not be told from tokens by their number.
        return (
            asked - 1 if asked in (self.geometry.num_tokens, self.geometry.num_patches) else asked
        )

    def _input(
        self, volumes: Tensor | np.ndarray[Any, Any], start: int, size: int, network: nn.Module
    ) -> Tensor:
        some = volumes[start : start + size]
        tensor = some if isinstance(some, Tensor) else torch.from_numpy(np.array(some))
        floating = (p for p in network.parameters() if p.is_floating_point())
        like = next(floating, torch.empty(0))
        return clean_input(tensor).to(like.device, like.dtype)

    # -- float64 ---------------------------------------------------------------------------
    def _add_float64(
        self, network: nn.Module, x: Tensor, request: Request, result: BatchResult
    ) -> None:
        maps = {name: result.maps[name]["relevance"] for name in request.methods}
        checks = self._float64(network, x, request, result.chosen, maps)
        for name in request.methods:
            result.checks[name] = [
                (*row, check) for row, check in zip(result.checks[name], checks[name], strict=True)
            ]

    def _float64(
        self,
        network: nn.Module,
        x: Tensor,
        request: Request,
        chosen: tuple[tuple[Chosen, ...], ...],
        maps: Mapping[str, Tensor],
    ) -> dict[str, list[Check]]:
        """Explain a batch with float64 copies of all parameters and compare the maps."""
        state = {
            name: t.detach().double() if t.is_floating_point() else t.detach()
            for name, t in (*network.named_parameters(), *network.named_buffers())
        }
        try:
            exact = explain_batch(
                network,
                x.double(),
                replace(request, alone=self._alone),
                self.geometry,
                chosen=chosen,
                run=lambda inputs: functional_call(network, state, (inputs,)),
            )
        except (RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return {name: [diagnose.no_float64(reason)] * len(x) for name in maps}
        return {
            name: [
                _agreement(values[n], exact.maps[name]["relevance"][n], self.geometry.num_patches)
                for n in range(len(x))
            ]
            for name, values in maps.items()
        }

    # -- the result ------------------------------------------------------------------------
    def _explanation(
        self,
        name: str,
        request: Request,
        batches: Sequence[BatchResult],
        *,
        several_targets: bool,
        several_weightings: bool,
    ) -> Explanation:
        method = METHODS[name]
        weighted = "weighting" in method.arguments
        tensors = join(
            [{"scores": batch.scores, **batch.maps[name]} for batch in batches],
            several_targets=several_targets,
            several_weightings=several_weightings or not weighted,
        )
        rows = [row for batch in batches for row in batch.chosen]
        return Explanation(
            method=name,
            logits=torch.cat([batch.logits for batch in batches]),
            target=tuple(row if several_targets else row[0] for row in rows),
            targets=request.targets,
            weightings=request.weightings if weighted else (),
            score=request.score,
            target_layer=request.target_layer if method.source == "layer" else None,
            units=request.score.replace("_", "-"),
            checks=tuple(row for batch in batches for row in batch.checks[name]),
            **tensors,
        )

    def __repr__(self) -> str:
        grid = " x ".join(map(str, self.geometry.grid_shape))
        return f"Explainer({type(unwrap(self.model)).__name__}, patch grid {grid})"


def _why_not(name: str, status: str, works: str) -> str:
    why = {
        "dead": "the class value's gradient does not reach its patch tokens, so its map is empty",
        "uniform": "the class value's gradient is the same for all its patch tokens, so its map "
        "says nothing about places",
    }[status]
    return f"layer {name!r} cannot be explained: {why}. Layers that work: {works}"


def _agreement(relevance: Tensor, exact: Tensor, num_patches: int) -> Check:
    """Return the worst agreement over the targets and weightings of one volume."""
    pairs: Iterator[tuple[Tensor, Tensor]] = zip(
        relevance.reshape(-1, num_patches), exact.reshape(-1, num_patches), strict=True
    )
    found = [diagnose.agreement_float64(a.numpy(), b.numpy()) for a, b in pairs]
    return min(found, key=lambda check: check.value)
