"""Values that were computed from the input and are constants of the frozen model.

A frozen gate holds softmax weights, standard deviations and the like constant, and a model may
itself detach what it computed. Such values are *held*. They carry a mark, and what is computed
from them alone carries it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from g3dvit.capture.frozen_functions import is_live
from g3dvit.capture.outputs import tensors_in

_MARK = "_g3dvit_held"
# Functions that take from other tensors no more than their form.
_FORM = ("to", "type_as", "expand_as", "view_as", "reshape_as")
_NOTHING = ("broadcast_tensors", "meshgrid")
# Functions whose result torch knows nothing of. Not `__bool__`: a branch is no number.
_OUT = frozenset(
    {
        *("item", "tolist", "numpy", "__array__", "__dlpack__"),
        *("__float__", "__int__", "__complex__", "__index__"),
    }
)


def is_held(value: object) -> bool:
    """Tell whether a value was computed from the input and is held constant."""
    return isinstance(value, Tensor) and hasattr(value, _MARK)


def marked_as(value: Tensor, like: object) -> Tensor:
    """Mark a value that a rule computed from another one as that one is marked."""
    if is_held(like):
        setattr(value, _MARK, True)
    return value


def takes_numbers_out(name: str, args: Sequence[Any]) -> bool:
    """Tell whether a function takes numbers that depend on the input out of torch.

    Parameters
    ----------
    name
        Of the function.
    args
        What it took. The answer to a comparison (a check for NaN) is no number.
    """
    if name not in _OUT or not args or not isinstance(args[0], Tensor):
        return False
    return args[0].dtype != torch.bool and (is_live(args[0]) or is_held(args[0]))


def note_held(name: str, out: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Mark what a function gave, where it was computed from the input and is not live.

    Parameters
    ----------
    name
        Of the function.
    out
        What it gave.
    args, kwargs
        What it took.
    """
    # Comparisons and indices too: what is looked up by them follows the input as well.
    constants = [t for t in tensors_in(out) if not is_live(t)]
    if not constants or name in _NOTHING or name.endswith("_like") or name.startswith("new_"):
        return
    taken = args[:1] if name in _FORM else (*args, *kwargs.values())
    if any(is_live(t) or is_held(t) for t in tensors_in(taken)):
        for tensor in constants:
            setattr(tensor, _MARK, True)
