"""The last module that gives tokens, and whether what follows is affine in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from g3dvit.capture.outputs import as_tokens, first_output

Run = Callable[[Tensor], Any]


def last_tokens(
    model: nn.Module, x: Tensor, token_counts: tuple[int, ...], run: Run | None = None
) -> str | None:
    """Return the name of the last module whose output holds the tokens, as ``name#n``.

    Parameters
    ----------
    model
        The module inside `guest`.
    x : (batch, ...)
        Its input.
    token_counts
        How many tokens there may be.
    run
        What to call in place of `model`.
    """
    calls: Counter[str] = Counter()
    found: list[str] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            calls[name] += 1
            if isinstance(output, Tensor) and any(
                as_tokens(output, len(x), count) is not None for count in token_counts
            ):
                found.append(f"{name}#{calls[name]}")

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(note(name)).remove)
        with torch.no_grad():
            (run or model)(x)
    return found[-1] if found else None


def is_affine(
    model: nn.Module, x: Tensor, layer: str, run: Run | None = None, tolerance: float = 1e-3
) -> bool:
    """Tell whether the outputs are affine in a layer's output: none of it, all, less than none.

    Parameters
    ----------
    model
        The module inside `guest`.
    x : (batch, ...)
        Its input.
    layer
        ``name#n``: the n-th run of a module.
    run
        What to call in place of `model`.
    tolerance
        Largest deviation, relative to what the layer changes in the outputs.
    """
    name, _, number = layer.rpartition("#")
    zeros = _scaled(model, x, name, int(number), (0.0, 0.0), run)
    # Two halves of the features, one at a time: a norm sees that. Less than none: a ReLU sees it.
    once = _scaled(model, x, name, int(number), (1.0, 1.0), run)
    first = _scaled(model, x, name, int(number), (-2.0, 0.0), run)
    second = _scaled(model, x, name, int(number), (0.0, -2.0), run)
    change = max(float((z - zeros).abs().max()) for z in (once, first, second))
    missed = float((first + second - 2 * zeros + 2 * (once - zeros)).abs().max())
    return missed <= tolerance * change


def _scaled(
    model: nn.Module,
    x: Tensor,
    name: str,
    number: int,
    factors: tuple[float, float],
    run: Run | None,
) -> Tensor:
    calls = 0

    def scale(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls != number:
            return output
        half = output.shape[-1] // 2
        return torch.cat([output[..., :half] * factors[0], output[..., half:] * factors[1]], -1)

    handle = model.get_submodule(name).register_forward_hook(scale)
    try:
        with torch.no_grad():
            return first_output((run or model)(x)).double()
    finally:
        handle.remove()
