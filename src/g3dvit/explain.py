"""The conductor: explain a model on volumes that are in the form it takes.

`Explainer` probes a model once and explains any number of volumes, in batches. It computes
nothing itself: targets are chosen in `g3dvit.targets`, a batch is explained in
`g3dvit.explain_batch`, and what comes out is an `Explanation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import nn

from g3dvit.capture import guest, unwrap
from g3dvit.diagnose import Check
from g3dvit.errors import InputError
from g3dvit.explain_batch import explain_batch
from g3dvit.explain_context import BatchResult
from g3dvit.explain_further import (
    CHECKS,
    add_further,
    add_input_blind,
    check_explanation,
    known_checks,
)
from g3dvit.explain_inputs import check_volumes, choose_batch_size, to_input
from g3dvit.explain_request import (
    Request,
    refuse_empty_layer,
    refuse_turned_tokens,
    resolve_layer,
    resolve_methods,
    resolve_options,
    resolve_weightings,
)
from g3dvit.explain_result import ByMethod, explanation_of
from g3dvit.explanation import Explanation
from g3dvit.geometry import Geometry
from g3dvit.seen import patches_in
from g3dvit.targets import (
    ScoreFunction,
    refuse_one_sigmoid,
    refuse_target_of_function,
    resolve_score,
    split_targets,
)

__all__ = ["CHECKS", "Explainer", "Explanation"]

Progress = Callable[[int, int], None]


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
    def explain(
        self,
        x: Any,
        method: str = ...,
        *,
        weighting: str | Sequence[str] = ...,
        target: Any = ...,
        score: str | ScoreFunction | None = ...,
        target_layer: str | None = ...,
        batch_size: int | None = ...,
        labels: Sequence[Any] | None = ...,
        references: Any = ...,
        samples: int | None = ...,
        noise: float = ...,
        seed: int = ...,
        gamma: float | None = ...,
        shifts: int = ...,
        check: str | Sequence[str] = ...,
        progress: Progress | None = ...,
    ) -> Explanation: ...

    @overload
    def explain(
        self,
        x: Any,
        method: Sequence[str],
        *,
        weighting: str | Sequence[str] = ...,
        target: Any = ...,
        score: str | ScoreFunction | None = ...,
        target_layer: str | None = ...,
        batch_size: int | None = ...,
        labels: Sequence[Any] | None = ...,
        references: Any = ...,
        samples: int | None = ...,
        noise: float = ...,
        seed: int = ...,
        gamma: float | None = ...,
        shifts: int = ...,
        check: str | Sequence[str] = ...,
        progress: Progress | None = ...,
    ) -> Mapping[str, Explanation]: ...

    def explain(
        self,
        x: Any,
        method: str | Sequence[str] = "token_gradcam",
        *,
        weighting: str | Sequence[str] = "mean",
        target: Any = "predicted",
        score: str | ScoreFunction | None = None,
        target_layer: str | None = None,
        batch_size: int | None = None,
        labels: Sequence[Any] | None = None,
        references: Any = None,
        samples: int | None = None,
        noise: float = 0.1,
        seed: int = 0,
        gamma: float | None = None,
        shifts: int = 8,
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
            ``"logit"``, ``"log_odds"``, ``"probability"``, or a function of the outputs (batch,
            outputs) that gives (batch,), which leaves `target` at its default; None is the logit
            for token Grad-CAM alone, log-odds as soon as another method is asked for.
        target_layer
            A layer by name; None is the last normalisation layer whose gradients tell patches
            apart, ``geometry.default_layer``, for token Grad-CAM, and for other methods of one
            layer ``geometry.attention_layer``.
        batch_size
            Volumes at a time; None chooses by the number of tokens.
        labels : (volumes,)
            Class index or name of each volume, for the target ``"label"``.
        references : (references, *input_shape)
            Real volumes to compare with, for the methods that take them.
        samples, noise, seed
            Passes, noise (in standard deviations of the voxels) and seed of the methods that
            average; `samples` None is the method's own number.
        gamma
            Of frozen gates with the gamma rule; None is the method's own number.
        shifts
            Shifts of the input that shift-averaged maps are averaged over.
        check
            Further checks of the first batch: names of `CHECKS` (of all volumes: input_blind).
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
        names = resolve_methods(method)
        refuse_turned_tokens(names, self.geometry)
        scored = resolve_score(score, names)
        refuse_one_sigmoid(scored, self.geometry.one_sigmoid)
        targets, several_targets = split_targets(target, self.geometry.num_outputs)
        refuse_target_of_function(scored, target)
        weightings, several_weightings = resolve_weightings(weighting, names)
        layer = resolve_layer(target_layer, names, self.geometry, self.model)
        request = Request(
            methods=names,
            weightings=weightings,
            targets=targets,
            score=scored,
            target_layer=layer,
            attention_layer=layer if target_layer else self.geometry.attention_layer or layer,
            class_names=self.class_names,
            options=resolve_options(
                {
                    "references": references,
                    "samples": samples,
                    "noise": noise,
                    "seed": seed,
                    "gamma": gamma,
                    "shifts": shifts,
                },
                names,
                self.geometry.input_shape,
            ),
        )
        checks = known_checks(check)
        # 2. the volumes
        volumes = check_volumes(x, self.geometry.input_shape)
        if labels is not None and len(labels) != len(volumes):
            raise InputError(f"{len(labels)} `labels` were given for {len(volumes)} volumes")
        size = choose_batch_size(batch_size, self.geometry, names)
        # 3. batch after batch, the model as a guest
        batches: list[BatchResult] = []
        with guest(self.model) as network:
            for start in range(0, len(volumes), size):
                inputs = to_input(volumes[start : start + size], network)
                mine = None if labels is None else labels[start : start + size]
                result = explain_batch(
                    network,
                    inputs,
                    replace(request, alone=self._alone),
                    self.geometry,
                    labels=mine,
                )
                self._alone |= result.alone
                if target_layer is not None and start == 0:
                    refuse_empty_layer(request.target_layer, result.checks.values(), self.geometry)
                if start == 0 and checks:
                    now = replace(request, alone=self._alone)
                    add_further(checks, network, inputs, now, self.geometry, result)
                batches.append(result)
                if progress is not None:
                    progress(min(start + size, len(volumes)), len(volumes))
        if "input_blind" in checks:
            add_input_blind(batches, names, self.geometry.num_patches)
        # 4. one value per method
        found = ByMethod()
        for name in names:
            found[name] = explanation_of(
                name,
                request,
                batches,
                several_targets=several_targets,
                several_weightings=several_weightings,
            )
        return found[names[0]] if isinstance(method, str) else found

    def check(
        self,
        x: Any,
        result: Explanation,
        checks: str | Sequence[str] = "all",
        *,
        brain: Any = None,
    ) -> tuple[tuple[Check, ...], ...]:
        """Make the checks of maps that need passes of their own, one row per volume.

        The model's parameters are copied for float64, never converted.

        Parameters
        ----------
        x : (volumes, *input_shape)
            The first volumes that were explained, or all.
        result
            What `explain` gave for them.
        checks
            Names of `CHECKS`, or ``"all"``.
        brain : (*input_shape)
            Where the brain is, in the layout of one volume; None takes what does not have the
            volume's commonest value.
        """
        volumes = check_volumes(x, self.geometry.input_shape)
        if len(volumes) > len(result):
            raise InputError(f"{len(volumes)} volumes were given, {len(result)} were explained")
        mask = None if brain is None else check_volumes(brain[None], self.geometry.input_shape)
        inside = None if mask is None else patches_in(torch.as_tensor(mask[0]), self.geometry)
        names, alone = known_checks(checks), self._alone
        with guest(self.model) as network:
            return check_explanation(
                names, network, volumes, result, self.geometry, alone=alone, inside=inside
            )

    @overload
    def check_float64(self, x: Any, result: Explanation) -> tuple[Check, ...]: ...

    @overload
    def check_float64(
        self, x: Any, result: Mapping[str, Explanation]
    ) -> Mapping[str, tuple[Check, ...]]: ...

    def check_float64(
        self, x: Any, result: Explanation | Mapping[str, Explanation]
    ) -> tuple[Check, ...] | Mapping[str, tuple[Check, ...]]:
        """Tell whether maps are the same when computed in float64, as `check` does."""
        if isinstance(result, Mapping):
            return {name: self.check_float64(x, one) for name, one in result.items()}
        return tuple(row[0] for row in self.check(x, result, "float64"))

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

    def __repr__(self) -> str:
        grid = " x ".join(map(str, self.geometry.grid_shape))
        return f"Explainer({type(unwrap(self.model)).__name__}, patch grid {grid})"
