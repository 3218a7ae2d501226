"""Methods: from what was captured in a pass to signed relevance per patch or voxel.

Each method is one pure tensor function and one row of `METHODS`: what it is called, its
equation, its paper, what it costs, and what it takes. Nothing here runs a model or knows a
grid; relevance is signed and in units of the score. F is one forward pass, B one backward pass
through the whole model, B_1 one through the layers behind the target layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from g3dvit.errors import MethodError
from g3dvit.methods.attention import agcam, attention_rollout, gradient_rollout, legrad
from g3dvit.methods.frozen_gates import (
    FrozenGateMap,
    beside_share,
    completeness_error,
    frozen_gate,
    frozen_gate_noise,
    held_share,
)
from g3dvit.methods.gradients import (
    expected_gradients,
    gradient_x_input,
    integrated_gradients,
    path_error,
    smoothgrad,
)
from g3dvit.methods.removal import occlusion, rise, token_removal
from g3dvit.methods.shift_averaged import shift_averaged, shift_weighted
from g3dvit.methods.table import METHODS, Method
from g3dvit.methods.tokens import (
    WEIGHTINGS,
    TokenGradCAM,
    Weighting,
    cam,
    eigencam,
    gradcam,
    gradcam_plus_plus,
    hirescam,
    hirescam_blocks,
    layercam,
    token_gradcam,
    xgradcam,
)

__all__ = [
    "ALIASES",
    "METHODS",
    "WEIGHTINGS",
    "FrozenGateMap",
    "Method",
    "TokenGradCAM",
    "Weighting",
    "agcam",
    "attention_rollout",
    "beside_share",
    "cam",
    "completeness_error",
    "eigencam",
    "expected_gradients",
    "find_method",
    "frozen_gate",
    "frozen_gate_noise",
    "gradcam",
    "gradcam_plus_plus",
    "gradient_rollout",
    "gradient_x_input",
    "held_share",
    "hirescam",
    "hirescam_blocks",
    "integrated_gradients",
    "layercam",
    "legrad",
    "occlusion",
    "path_error",
    "rise",
    "shift_averaged",
    "shift_weighted",
    "smoothgrad",
    "token_gradcam",
    "token_removal",
    "xgradcam",
]


#: Other names of methods: as their papers write them.
ALIASES = {"gradcam++": "gradcam_plus_plus"}


def find_method(name: str) -> Method:
    """Return the method of that name, or of that other name (`ALIASES`).

    Raises
    ------
    MethodError
        If there is none; the message lists what there is.
    """
    found = METHODS.get(ALIASES.get(name, name)) if isinstance(name, str) else None
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
