"""What is to be explained: methods, weightings, targets and layer, checked against the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from g3dvit.capture import unwrap
from g3dvit.diagnose import Check
from g3dvit.errors import InputError, LayerError, MethodError
from g3dvit.explanation import Options
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS, WEIGHTINGS, Weighting, did_you_mean, find_method
from g3dvit.targets import Score


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be explained, with every choice made.

    Parameters
    ----------
    methods
        Their names.
    weightings
        Token Grad-CAM's weightings.
    targets
        As `g3dvit.targets.choose` takes them.
    score
        Which score of the target.
    target_layer
        Where token Grad-CAM takes the tokens.
    attention_layer
        Where all other methods of one layer take them.
    class_names
        In the order of the outputs.
    alone
        Run the volumes one at a time under frozen gates.
    options
        Arguments that only some methods take.
    """

    methods: tuple[str, ...]
    weightings: tuple[Weighting, ...]
    targets: tuple[Any, ...]
    score: Score
    target_layer: str
    attention_layer: str
    class_names: tuple[str, ...] = ()
    alone: bool = False
    options: Options = field(default_factory=Options)

    def layer_of(self, method: str) -> str | None:
        """Return where a method takes the tokens; None for methods that have no one layer."""
        if METHODS[method].source != "layer":
            return None
        return self.target_layer if method == "token_gradcam" else self.attention_layer


def resolve_methods(method: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of known methods, each once.

    Raises
    ------
    MethodError
        If none is named, or one is not known.
    """
    listed = isinstance(method, Iterable) and not isinstance(method, str)
    names = tuple(method) if listed else (cast("str", method),)
    if not names:
        raise MethodError(f"`method` is empty; choose from {', '.join(METHODS)}")
    return tuple(dict.fromkeys(find_method(name).name for name in names))


def resolve_weightings(
    weighting: str | Sequence[str], methods: Sequence[str]
) -> tuple[tuple[Weighting, ...], bool]:
    """Return the weightings, and whether several were asked for.

    Raises
    ------
    MethodError
        If one is not known, or no method has weightings.
    """
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
    if weighting != "mean":
        _refuse_argument("weighting", methods)
    return cast("tuple[Weighting, ...]", asked), several


def resolve_options(
    given: Mapping[str, Any], methods: Sequence[str], input_shape: Sequence[int]
) -> Options:
    """Return the arguments that only some methods take, checked.

    Parameters
    ----------
    given
        Fields of `Options` by name.
    methods
        The methods asked for.
    input_shape
        What the model takes, without the batch.

    Raises
    ------
    MethodError
        If one is not at its default and no method takes it, or cannot be used.
    InputError
        If the references do not fit the model.
    """
    default = Options()
    for part in fields(Options):
        value = given[part.name]
        if value is not None and (
            part.name == "references" or value != getattr(default, part.name)
        ):
            _refuse_argument(part.name, methods)
    for name in ("samples", "shifts"):
        value = given[name]
        if not (value is None and name == "samples") and not _is_count(value, least=1):
            raise MethodError(f"`{name}` takes a positive integer, was given {value!r}")
    for name in ("noise", "gamma"):
        value = given[name]
        if not (value is None and name == "gamma") and not _is_size(value):
            raise MethodError(f"`{name}` takes a finite number from 0, was given {value!r}")
    if not _is_count(given["seed"], least=0):
        raise MethodError(f"`seed` takes an integer from 0, was given {given['seed']!r}")
    gamma = given["gamma"]
    return Options(
        references=_references(given["references"], tuple(input_shape)),
        samples=None if given["samples"] is None else int(given["samples"]),
        noise=float(given["noise"]),
        seed=int(given["seed"]),
        gamma=None if gamma is None else float(gamma),
        shifts=int(given["shifts"]),
    )


def _is_count(value: object, *, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_size(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


def given_to(methods: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of ``explain`` without those that only other methods take.

    Parameters
    ----------
    methods
        Their names.
    given
        Arguments by name.
    """
    special = {name for row in METHODS.values() for name in row.arguments}
    taken = {name for method in methods for name in METHODS[method].arguments}
    return {name: value for name, value in given.items() if name in taken or name not in special}


def _references(given: Any, input_shape: tuple[int, ...]) -> Tensor | None:
    if given is None:
        return None
    values = given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    values = values[None] if tuple(values.shape) == input_shape else values
    if tuple(values.shape[1:]) != input_shape or not len(values):
        expected = ", ".join(map(str, ("references", *input_shape)))
        raise InputError(
            f"`references` must have the shape ({expected}), was given {tuple(values.shape)}"
        )
    if not bool(torch.isfinite(values).all()):
        raise InputError("`references` hold values that are not finite")
    return values


def _refuse_argument(argument: str, methods: Sequence[str]) -> None:
    """Refuse an argument that is not at its default and that no method asked for takes."""
    if not any(argument in METHODS[name].arguments for name in methods):
        able = ", ".join(name for name, m in METHODS.items() if argument in m.arguments)
        raise MethodError(
            f"`{argument}` means nothing to {', '.join(methods)}; methods that take it: {able}"
        )


def resolve_layer(
    asked: str | None, methods: Sequence[str], geometry: Geometry, model: nn.Module
) -> str:
    """Return the layer to take; refuse a named one that is absent or says nothing about places.

    Raises
    ------
    LayerError
        If a named layer is absent, dead or uniform, or none is named and none works.
    MethodError
        If one is named and no method has a layer.
    """
    if asked is None:
        if not geometry.default_layer and any(METHODS[n].source == "layer" for n in methods):
            raise LayerError(
                "no normalisation layer of this model has gradients that tell patches apart; "
                "see the notes of `g3dvit inspect`, use method='frozen_gate', or name another layer"
            )
        return geometry.default_layer
    _refuse_argument("target_layer", methods)
    name = asked
    while name.startswith(("module.", "_orig_mod.")) and geometry.layer(name) is None:
        name = name.partition(".")[2]
    layer = geometry.layer(name)
    if layer is not None and layer.status != "alive":
        raise LayerError(_why_not(name, layer.status, geometry))
    if layer is None and name.partition("#")[0] not in dict(unwrap(model).named_modules()):
        known = [layer.name for layer in geometry.layers]
        raise LayerError(
            f"the model has no layer {asked!r}{did_you_mean(asked, known)}; normalisation layers "
            f"that work: {_working(geometry)}"
        )
    return name


#: Methods that take the tokens of several layers, or of the last one, for those of the first.
_ONE_ORDER = frozenset(
    {"hirescam_blocks", "cam", "attention_rollout", "gradient_rollout", "agcam", "legrad"}
)


def refuse_turned_tokens(names: Sequence[str], geometry: Geometry) -> None:
    """Refuse methods that need one order of the tokens where a model changes it.

    Raises
    ------
    MethodError
        If one of them was asked for.
    """
    asked = [name for name in names if name in _ONE_ORDER]
    if asked and geometry.turned_layers:
        raise MethodError(
            f"{', '.join(asked)} take the tokens to be in one order from the first block to the "
            "last, but this model turns or sorts them on the way: "
            f"{', '.join(geometry.turned_layers[:3])} see them in another order; use "
            "method='frozen_gate' or 'token_removal'"
        )


def refuse_empty_layer(
    name: str, checks: Iterable[Sequence[tuple[Check, ...]]], geometry: Geometry
) -> None:
    """Refuse a named layer that was not judged by probing and turns out to say nothing.

    Parameters
    ----------
    name
        A layer that the caller named.
    checks
        Of each method, per volume of the first batch.
    geometry
        How the model divides its input.

    Raises
    ------
    LayerError
        If its gradients are dead or uniform for every volume.
    """
    if geometry.layer(name) is not None:
        return
    for rows in checks:
        for check, status in (("dead gradient", "dead"), ("uniform gradient", "uniform")):
            verdicts = [c.verdict for row in rows for c in row if c.name == check]
            if verdicts and all(v == "fail" for v in verdicts):
                raise LayerError(_why_not(name, status, geometry))


def _working(geometry: Geometry) -> str:
    return ", ".join(geometry.alive_layers) or "none"


def _why_not(name: str, status: str, geometry: Geometry) -> str:
    why = {
        "dead": "the class value's gradient does not reach its patch tokens, so its map is empty",
        "uniform": "the class value's gradient is the same for all its patch tokens, so its map "
        "says nothing about places",
    }[status]
    return f"layer {name!r} cannot be explained: {why}. Layers that work: {_working(geometry)}"
