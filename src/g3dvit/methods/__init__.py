"""Methods: from what was captured in a pass to signed relevance per patch or voxel.

Each method is one pure tensor function and one row of `METHODS`: what it is called, its
equation, its paper, what it costs, and what it takes. Nothing here runs a model or knows a
grid; relevance is signed and in units of the score. F is one forward pass, B one backward pass
through the whole model, B_1 one through the layers behind the target layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from g3dvit.errors import MethodError
from g3dvit.methods.frozen_gates import FrozenGateMap, completeness_error, frozen_gate
from g3dvit.methods.tokens import WEIGHTINGS, TokenGradCAM, Weighting, hirescam, token_gradcam

__all__ = [
    "METHODS",
    "WEIGHTINGS",
    "FrozenGateMap",
    "Method",
    "TokenGradCAM",
    "Weighting",
    "completeness_error",
    "find_method",
    "frozen_gate",
    "hirescam",
    "token_gradcam",
]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to make a map.

    Parameters
    ----------
    name
        As in ``explain(x, method=name)``.
    title
        As in prose.
    function
        The pure function behind it.
    equation
        Relevance R of patch p (or voxel v), score y, features d.
    paper, url
        Where it comes from.
    cost
        In passes, for one score.
    source
        What it needs: the ``"layer"`` pass (graph from the target layer on) or the
        ``"frozen gates"`` pass.
    space
        The finest resolution it gives.
    signed
        True if evidence against the target is negative.
    class_specific
        True if another target gives another map.
    complete
        True if its shares add up to the score.
    arguments
        Arguments of ``explain`` that only some methods take, and this one does.
    """

    name: str
    title: str
    function: Callable[..., Any]
    equation: str
    paper: str
    url: str
    cost: str
    source: Literal["layer", "frozen gates"]
    space: Literal["token", "voxel"]
    signed: bool
    class_specific: bool
    complete: bool
    arguments: tuple[str, ...]


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="token_gradcam",
            title="token Grad-CAM",
            function=token_gradcam,
            equation="R_p = pool_d(dy/da_pd) * sum_d a_pd",
            paper="Selvaraju et al. 2017, Grad-CAM, with one weight per token and not per feature",
            url="https://doi.org/10.1109/ICCV.2017.74",
            cost="F + B_1",
            source="layer",
            space="token",
            signed=True,
            class_specific=True,
            complete=False,
            arguments=("weighting", "target_layer"),
        ),
        Method(
            name="hirescam",
            title="HiResCAM",
            function=hirescam,
            equation="R_p = sum_d dy/da_pd * a_pd",
            paper="Draelos and Carin 2020, Use HiResCAM instead of Grad-CAM",
            url="https://arxiv.org/abs/2011.08891",
            cost="F + B_1",
            source="layer",
            space="token",
            signed=True,
            class_specific=True,
            complete=False,
            arguments=("target_layer",),
        ),
        Method(
            name="frozen_gate",
            title="frozen-gate relevance",
            function=frozen_gate,
            equation="R_p = sum_d dy*/dh_pd * h_pd; R_v = dy*/dx_v * x_v (y* with gates frozen)",
            paper="Ali et al. 2022, XAI for Transformers (CP-LRP)",
            url="https://arxiv.org/abs/2202.07304",
            cost="F + B",
            source="frozen gates",
            space="voxel",
            signed=True,
            class_specific=True,
            complete=True,
            arguments=(),
        ),
    )
}


def find_method(name: str) -> Method:
    """Return the method of that name.

    Raises
    ------
    MethodError
        If there is none; the message lists what there is.
    """
    found = METHODS.get(name) if isinstance(name, str) else None
    if found is None:
        raise MethodError(
            f"there is no method {name!r}{did_you_mean(name, METHODS)}; "
            f"choose from {', '.join(METHODS)}"
        )
    return found


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """Return a hint such as " (did you mean 'mean'?)", or nothing."""
    close = get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
