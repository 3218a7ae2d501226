"""Let the blocks behind the first few add nothing, so that the head reads what those made.

The head of a model is applied to the tokens of an earlier block without knowing either: a sum of
tokens with what was computed from them (a residual sum) gives the tokens alone, once the attention
of a later block has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from g3dvit.capture.frozen_functions import is_live
from g3dvit.capture.graph_walks import joined_behind
from g3dvit.capture.outputs import token_axes

_ADDITIONS = frozenset({"add", "__add__", "__radd__", "__iadd__", "add_"})


class SkipLaterBlocks(TorchFunctionMode):
    """Leaves out what later blocks add.

    Parameters
    ----------
    batch, num_tokens
        Of the pass.
    is_later
        Tells whether the first blocks are done.
    """

    def __init__(self, batch: int, num_tokens: int, is_later: Callable[[], bool]) -> None:
        super().__init__()
        self.batch, self.num_tokens, self._is_later = batch, num_tokens, is_later
        self.skipped = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _ADDITIONS and len(args) == 2 and self._is_later():
            skip = self._skip_of(*args)
            if skip is not None:
                self.skipped += 1
                return skip
        return func(*args, **dict(kwargs or {}))

    def _skip_of(self, a: Any, b: Any) -> Tensor | None:
        """Return the tokens, where a sum is one of tokens and what was computed from them."""
        if not is_live(a) or not is_live(b) or a.shape != b.shape:
            return None
        if token_axes(a.shape, self.batch, self.num_tokens) is None:
            return None
        joined = joined_behind(a, b)
        return None if joined is None else joined[0]
