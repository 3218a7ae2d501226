"""Layers and normalisations, watched while the model runs.

A normalisation is told by what it does, not by its class: a module without submodules that
calls one of torch's normalisation functions, or whose output does not change when its input is
scaled and whose parameters are vectors. A normalisation called as a function by a larger module
is named ``owner:function#n``, the n-th call of that function inside `owner`, from 1. A module
that runs more than once is listed as ``name#1``, ``name#2`` ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from g3dvit.capture.outputs import first_output, tensors_in
from g3dvit.errors import LayerError

NORM_FUNCTIONS = frozenset(
    {
        "layer_norm",
        "native_layer_norm",
        "rms_norm",
        "batch_norm",
        "group_norm",
        "native_group_norm",
        "instance_norm",
        "normalize",
    }
)
_OnFunction = Callable[[str, str, int, Any], Any]


@dataclass(slots=True)
class LayerRecord:
    """What one layer gave in one forward pass.

    Parameters
    ----------
    name
        The layer.
    activations
        Its output as a leaf of autograd: the graph begins here, so that
        ``torch.autograd.grad(score, record.activations)`` costs only what lies behind it.
    gradients
        A place for the gradient of the score with respect to `activations`; None until the
        caller has computed it.
    calls
        How often the layer ran; the last of them is kept.
    """

    name: str
    activations: Tensor | None = None
    gradients: Tensor | None = None
    calls: int = 0


@dataclass(frozen=True, slots=True)
class NormCall:
    """One normalisation that ran.

    Parameters
    ----------
    name
        Dotted module name, or ``owner:function#n``.
    kind
        Class of the module, or name of the function.
    order
        Position in the order of execution, from 0.
    output
        What it gave, attached to the graph.
    """

    name: str
    kind: str
    order: int
    output: Tensor = field(repr=False)


class _Running:
    """Which module is running now, and how often each function was called inside it."""

    def __init__(self, model: nn.Module) -> None:
        self.stack: list[str] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        self._model = model
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Running:
        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._push(name), prepend=True))
            self._handles.append(module.register_forward_hook(self._pop))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _push(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...]) -> None:
            self.stack.append(name)

        return hook

    def _pop(self, _module: nn.Module, _args: tuple[Any, ...], _output: object) -> None:
        self.stack.pop()

    @property
    def owner(self) -> str:
        return self.stack[-1] if self.stack else ""


class _NormFunctions(TorchFunctionMode):
    """Shows every call of a normalisation function to `on_call`, which may replace its result."""

    def __init__(self, running: _Running, on_call: _OnFunction) -> None:
        super().__init__()
        self._running = running
        self._on_call = on_call

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in NORM_FUNCTIONS:
            return result
        owner = self._running.owner
        self._running.calls[owner, name] += 1
        return self._on_call(owner, name, self._running.calls[owner, name], result)


def _vectors_only(module: nn.Module) -> bool:
    return all(sum(size > 1 for size in p.shape) <= 1 for p in module.parameters(recurse=False))


def _is_simple(module: nn.Module) -> bool:
    return next(module.children(), None) is None and _vectors_only(module)


@torch.no_grad()
def _ignores_scale(module: nn.Module, like: Tensor) -> bool:
    """Tell whether a module gives the same for an input and four times that input."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(like.shape, generator=generator).to(like)
    try:
        small, large = module(x), module(4 * x)
    except (RuntimeError, TypeError, ValueError):
        return False
    if not isinstance(small, Tensor) or small.shape != x.shape:
        return False
    change = (small.float() - large.float()).norm()
    spread = (small.float() - small.float().mean()).norm()
    return bool(spread > 0 and change < 0.02 * spread)


def norm_calls(model: nn.Module, x: Tensor) -> tuple[Tensor, list[NormCall]]:
    """Run a model once and list every normalisation in the order of execution.

    Call it inside `guest`. Whether an output holds the tokens is told by its shape
    (`as_tokens`); modules that never run are not listed.

    Parameters
    ----------
    model
        The module to run.
    x : (batch, ...)
        Its input. The whole graph is recorded, so keep the batch small.

    Returns
    -------
    (batch, outputs)
        The class values, attached to the graph.
    list of NormCall
        The normalisations; gradients with respect to their outputs can be taken.
    """
    found: list[tuple[str, str, Tensor]] = []
    by_function: set[str] = set()
    modules = dict(model.named_modules())
    candidates: dict[str, Tensor] = {}

    def on_call(owner: str, function: str, number: int, result: Any) -> Any:
        if _is_simple(modules[owner]):
            by_function.add(owner)
        else:
            tensor = next(tensors_in(result), None)
            if tensor is not None:
                found.append((f"{owner}:{function}#{number}", function, tensor))
        return result

    def on_module(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            if (
                len(args) == 1
                and isinstance(args[0], Tensor)
                and isinstance(output, Tensor)
                and output is not args[0]
                and output.shape == args[0].shape
            ):
                candidates.setdefault(name, args[0].detach())
                found.append((name, type(module).__name__, output))

        return hook

    with _Running(model) as running:
        handles = [
            module.register_forward_hook(on_module(name))
            for name, module in modules.items()
            if _is_simple(module)
        ]
        try:
            leaf = x.detach().clone().requires_grad_()
            with _NormFunctions(running, on_call):
                output = first_output(model(leaf))
        finally:
            for handle in handles:
                handle.remove()
    norms = {
        name
        for name, like in candidates.items()
        if name in by_function or _ignores_scale(modules[name], like)
    }
    kept = [(n, kind, out) for n, kind, out in found if ":" in n or n in norms]
    totals, seen = Counter(name for name, _, _ in kept), Counter[str]()
    calls = []
    for order, (name, kind, out) in enumerate(kept):
        seen[name] += 1
        unique = f"{name}#{seen[name]}" if totals[name] > 1 else name
        calls.append(NormCall(unique, kind, order, out))
    return output, calls


@contextmanager
def watch_layer(model: nn.Module, name: str) -> Iterator[LayerRecord]:
    """Begin the graph at one layer.

    Call it inside `guest`, run the model once, and take gradients with respect to
    ``record.activations``. What comes before the layer records nothing, because neither the
    input nor a parameter requires gradients.

    Parameters
    ----------
    model
        The module that will be run.
    name
        A module's dotted name, ``name#n`` for the n-th time it runs, or ``owner:function#n`` for
        a normalisation called as a function.

    Raises
    ------
    LayerError
        If the model has no such module, or its output is no tensor.
    """
    record = LayerRecord(name)
    path, wanted = _split(name)
    owner, _, function = path.partition(":")
    modules = dict(model.named_modules())
    if owner not in modules:
        raise LayerError(f"the model has no layer {owner!r}")

    def begin_graph(output: Any) -> Any:
        record.calls += 1
        if wanted is not None and record.calls != wanted:
            return output
        if not isinstance(output, Tensor):
            raise LayerError(
                f"layer {name!r} gives {type(output).__name__} and not one tensor; name a layer "
                "inside it"
            )
        record.activations = output.detach().requires_grad_()
        # A clone, because models add to what they get in place, which a leaf does not allow.
        return record.activations.clone()

    if function:

        def on_call(where: str, what: str, _number: int, result: Any) -> Any:
            return begin_graph(result) if (where, what) == (owner, function) else result

        with _Running(model) as running, _NormFunctions(running, on_call):
            yield record
        return

    handle = modules[owner].register_forward_hook(lambda _m, _a, output: begin_graph(output))
    try:
        yield record
    finally:
        handle.remove()


def _split(name: str) -> tuple[str, int | None]:
    path, mark, number = name.rpartition("#")
    return (path, int(number)) if mark and number.isdigit() else (name, None)
