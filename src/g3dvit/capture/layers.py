"""Begin the graph of a forward pass at one layer.

A layer is a module, by its dotted name; ``name#n`` is its n-th run where it runs several times. A
normalisation that a larger module calls as a function is named ``owner:function#n``, the n-th
call of that function inside `owner`, from 1. `g3dvit.capture.tokens` finds these names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from g3dvit.capture.outputs import first_output
from g3dvit.capture.tokens import NORM_FUNCTIONS
from g3dvit.errors import LayerError

#: Outputs that differ by less than this part of what another input changes are the same.
_SAME = 1e-3

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


@contextmanager
def watch_layer(
    model: nn.Module, name: str, *, join: bool = False, put: Tensor | None = None
) -> Iterator[LayerRecord]:
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
    join
        Keep a graph that another layer has begun, so that several layers can be watched at once.
    put
        What the layer gives in place of its own output.

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
        output = output if put is None else put
        begun = join and output.requires_grad
        record.activations = output if begun else output.detach().requires_grad_()
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


def carries_all(
    run: Callable[[Tensor], Any], model: nn.Module, name: str, x: Tensor, other: Tensor
) -> bool:
    """Tell whether all that a model makes of its input goes through one layer.

    With that layer's output for another input put in place, the model then says what it says of the
    other input. It does not where something goes around the layer, as it does around the
    normalisation at the beginning of a residual branch.

    Parameters
    ----------
    run
        Runs the model.
    model
        The module inside `guest` that has the layer.
    name
        Of the layer, as `watch_layer` takes it.
    x, other : (1, ...)
        Two inputs.
    """
    with torch.no_grad():
        with watch_layer(model, name) as record:
            told = first_output(run(other))
        if record.activations is None:
            return False
        own = first_output(run(x))
        with watch_layer(model, name, put=record.activations.detach()):
            again = first_output(run(x))
    size = float((own - told).abs().max())
    return size > 0 and float((again - told).abs().max()) <= _SAME * size


def _split(name: str) -> tuple[str, int | None]:
    path, mark, number = name.rpartition("#")
    return (path, int(number)) if mark and number.isdigit() else (name, None)
