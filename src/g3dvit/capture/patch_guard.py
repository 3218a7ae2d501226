"""Whether a model begins with a normalisation of each patch, and what that does not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from g3dvit.capture.gates import FrozenGates


class _Found(Exception):  # noqa: N818 - it ends a pass, and is no error
    """The first layer normalisation was there: the rest of the pass is not needed."""


class _FirstNorm(FrozenGates):
    """Stops at the first layer normalisation; computes as the model does until there."""

    guard: float | None = None
    length = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        if getattr(func, "__name__", "") != "layer_norm":
            return func(*args, **keywords)
        names = ("input", "normalized_shape", "weight", "bias", "eps")
        call = dict(zip(names, args, strict=False)) | keywords
        voxels = call["input"]
        if self.is_voxels(voxels):
            self.length = math.prod(call["normalized_shape"])
            # A model may scale its input before: the guard is told in units of the input.
            scale = float(self.leaf.detach().std() / voxels.detach().std())
            self.guard = math.sqrt(call.get("eps", 1e-5)) * scale
        raise _Found


def patch_guard(run: Callable[[Tensor], Any], x: Tensor, num_voxels: int) -> float | None:
    """Return the standard deviation at which a patch's normalisation halves what is left of it.

    ``sqrt(eps)`` of a layer normalisation of the voxels of each patch, if the model begins with
    one: ``var / (var + eps)`` is one half there.

    Parameters
    ----------
    run
        The model inside `guest`, or what calls it.
    x : (1, ...)
        An input.
    num_voxels
        Of one patch, all channels.

    Returns
    -------
    float or None
        In units of the input; None where the model does not begin so.
    """
    found = _FirstNorm(x, ())
    try:
        with found:
            run(found.input)
    except _Found:
        pass
    return found.guard if found.length == num_voxels else None
