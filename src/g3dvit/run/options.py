"""Arguments of `Explainer.explain` that are the same for all volumes of a job, checked at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from g3dvit.explain_request import resolve_options
from g3dvit.explanation import Options
from g3dvit.geometry import Geometry
from g3dvit.methods import METHODS
from g3dvit.targets import refuse_one_sigmoid, resolve_score


def explain_options(
    methods: Sequence[str], given: Mapping[str, Any], geometry: Geometry
) -> dict[str, Any]:
    """Return the arguments, checked against every method of the job.

    Parameters
    ----------
    methods
        All of them, also those that are not asked of every volume.
    given
        Fields of `Options` by name, score, weighting, target_layer and batch_size.
    geometry
        How the model divides its input.

    Raises
    ------
    MethodError
        If one cannot be used, or no method takes it.
    """
    options = dict(given)
    default = Options().shifts
    if options["shifts"] in (0, default):  # a small patch has no more shifts than voxels
        options["shifts"] = min(default, prod(geometry.patch_size))
    asked = {**options, "shifts": default} if given["shifts"] in (0, default) else options
    resolve_options(asked, methods, geometry.input_shape)
    options["score"] = resolve_score(options["score"], methods)
    refuse_one_sigmoid(options["score"], geometry.one_sigmoid)
    weighting = options["weighting"]
    if isinstance(weighting, str) and weighting != "all" and "token_gradcam" in methods:
        options["weighting"] = [weighting]  # so that results have that axis
    return options


def default_methods(
    names: Sequence[str], geometry: Geometry, target_layer: str | None
) -> tuple[tuple[str, ...], list[str]]:
    """Return those of the default methods that a model allows, and what to say of the others.

    Parameters
    ----------
    names
        All of them.
    geometry
        How the model divides its input.
    target_layer
        A layer that was named, or None.
    """
    if geometry.default_layer or target_layer is not None:
        return tuple(names), []
    usable = tuple(name for name in names if METHODS[name].source != "layer")
    gone = ", ".join(name for name in names if name not in usable)
    return usable, [
        f"{gone} is left out: no normalisation layer of this model has gradients that tell patches "
        "apart"
    ]
