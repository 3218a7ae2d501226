"""Watch every tensor that a model makes on the way, in the order of execution.

Used for probing. An `Event` is one tensor that a torch function or a module returned. The watcher
tells which of them come from a normalisation: a call of a functional normalisation, or a module
without children that behaves like one (see `is_normalisation`), whatever its class is called.

Names of normalisations: a module has its dotted name, with ``#n`` for its n-th run where it runs
several times in a pass (decided by the caller, who sees the whole pass); a functional call that
is not all that its module does is ``owner:function#n``, the n-th call inside that owner, from 1.

This module decides nothing about tokens, patches or gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from g3dvit.capture.outputs import tensors_in

#: Normalisations that have their features on axis 1, (batch, features, tokens) or on a grid.
_CHANNEL_NORMS = frozenset({"batch_norm", "group_norm", "instance_norm"})
#: Functional normalisations, by the names that torch gives them. `normalize` can work along any
#: axis, so that its result is looked at.
NORM_FUNCTIONS = frozenset({"layer_norm", "native_layer_norm", "rms_norm", "normalize"}).union(
    _CHANNEL_NORMS
)


class StopForward(BaseException):
    """Ends a forward pass early; not an `Exception`, so that no model swallows it."""


_TRIED_TOKENS = 24


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One tensor made during a forward pass.

    Parameters
    ----------
    index
        Position in the order of execution, from 0; the same in every pass of the same shape.
    owner
        Dotted name of the innermost module that is running; empty for the model itself.
    kind
        Name of the function, or class of the module.
    tensor
        What it returned.
    norm
        Name of the normalisation that made it, or None.
    run
        Which run of that module or function in this pass, from 1.
    is_module
        True where a module returned it.
    features_first
        True where a batch, group or instance normalisation made it, whose features lie on axis 1.
    """

    index: int
    owner: str
    kind: str
    tensor: Tensor
    norm: str | None = None
    run: int = 1
    is_module: bool = False
    features_first: bool = False


See = Callable[[Event], Tensor | None]


@contextmanager
def watch_tensors(model: nn.Module, see: See, *, norms: bool = True) -> Iterator[None]:
    """Call `see` with every tensor that the model makes inside the ``with`` block.

    Parameters
    ----------
    model
        Is left without hooks afterwards, also after an exception.
    see
        Gets each `Event`. May return a tensor that takes the place of a normalisation's output,
        and may raise `StopForward`, which ends the block quietly.
    norms
        Whether modules are tried for being normalisations, which costs a little.
    """
    watcher = _Watcher(model, see, norms=norms)
    try:
        for name, module in model.named_modules():
            watcher.attach(name, module)
        with watcher:
            yield
    except StopForward:
        pass
    finally:
        watcher.detach()


def on_gradient(tensor: Tensor, see: Callable[[Tensor], None]) -> None:
    """Call `see` with the gradient at a tensor of the graph, once it has been computed.

    What the model does to the tensor in place afterwards makes no difference. The hook belongs
    to the graph, and goes with it. Where autograd has no gradient at all, as behind a rounding,
    nothing is seen.
    """

    def hook(gradient: Tensor | None) -> None:
        if gradient is not None:
            see(gradient)

    tensor.register_hook(hook)  # type: ignore[no-untyped-call]


class _Watcher(TorchFunctionMode):
    def __init__(self, model: nn.Module, see: See, *, norms: bool) -> None:
        super().__init__()
        self._model = model
        self._see = see
        self._norms = norms
        self._running: list[str] = []
        self._handles: list[Any] = []
        self._index = 0
        self._runs: Counter[str] = Counter()
        self._pause = False
        self._behaves: dict[int, bool] = {}
        self._last_norm: tuple[str, Tensor, bool] | None = None

    # -- modules ---------------------------------------------------------------------------
    def attach(self, name: str, module: nn.Module) -> None:
        def enter(_module: nn.Module, _args: Any) -> None:
            if not self._pause:
                self._running.append(name)

        def leave(_module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if self._pause:
                return None
            if self._running and self._running[-1] == name:
                self._running.pop()
            return self._module_returned(name, module, args, output)

        self._handles.append(module.register_forward_pre_hook(enter))
        self._handles.append(module.register_forward_hook(leave))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _module_returned(
        self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any
    ) -> Any:
        self._runs[name] += 1
        run = self._runs[name]
        self._pause = True
        try:
            last = self._last_norm
            norm = name if self._is_norm_module(name, module, args, output) else None
            features_first = norm is not None and last is not None and last[1] is output and last[2]
            tensors = list(tensors_in(output))
            for tensor in tensors:
                replacement = self._emit(
                    name,
                    type(module).__name__,
                    tensor,
                    norm=norm,
                    run=run,
                    is_module=True,
                    features_first=features_first,
                )
                if replacement is not None and tensor is output:
                    return replacement
        finally:
            self._pause = False
        return None

    def _is_norm_module(
        self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any
    ) -> bool:
        if not self._norms:
            return False
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if given is None or not isinstance(output, Tensor) or output.shape != given.shape:
            return False
        if given.dim() < 2 or not given.is_floating_point() or output is given:
            return False
        if next(module.children(), None) is not None:
            return False
        if self._last_norm is not None and self._last_norm[0] == name:
            made = self._last_norm[1]
            self._last_norm = None
            if made is output:
                return True
        key = id(module)
        if key not in self._behaves:
            self._behaves[key] = is_normalisation(module, given)
        return self._behaves[key]

    # -- functions -------------------------------------------------------------------------
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._pause or not isinstance(output, Tensor | tuple | list):
            return output
        self._pause = True
        try:
            return self._function_returned(func, output)
        finally:
            self._pause = False

    def _function_returned(self, func: Callable[..., Any], output: Any) -> Any:
        name = getattr(func, "__name__", "")
        owner = self._running[-1] if self._running else ""
        norm, run = None, 1
        if name in NORM_FUNCTIONS:
            key = f"{owner}:{name}"
            self._runs[key] += 1
            run = self._runs[key]
            if name != "normalize" or _has_unit_tokens(output):
                norm = f"{key}#{run}"
        first = name in _CHANNEL_NORMS
        for tensor in tensors_in(output):
            replacement = self._emit(
                owner, name, tensor, norm=norm, run=run, features_first=first and norm is not None
            )
            if norm is not None:
                made = tensor if replacement is None else replacement
                self._last_norm = (owner, made, first)
            if replacement is not None and tensor is output:
                return replacement
            norm = None  # of several results, only the first is the normalised tensor
        return output

    def _emit(self, owner: str, kind: str, tensor: Tensor, **more: Any) -> Tensor | None:
        event = Event(self._index, owner, kind, tensor, **more)
        self._index += 1
        return self._see(event)


def _has_unit_tokens(output: Any) -> bool:
    """Tell whether a result has length 1 along its last axis, everywhere."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    lengths = output.detach().float().norm(dim=-1)
    return bool(((lengths - 1).abs() < 0.02).all())


def is_normalisation(module: nn.Module, like: Tensor) -> bool:
    """Tell by its behaviour whether a module normalises each token over its features.

    Random tokens of very different means and scales go in. The module normalises where every
    output feature is an affine function (gain and bias) of the same feature of the standardised
    token, with or without centring; that no other operation does.

    Parameters
    ----------
    module
        Is called through its `forward`, so that no hook of the user fires.
    like : (..., features)
        A tensor that the module was given: size of the last axis, type and device.
    """
    features = like.shape[-1]
    if features < 2:
        return False
    generator = np.random.default_rng(features)
    scales = np.logspace(-0.5, 1.0, _TRIED_TOKENS)[:, None]
    shifts = generator.standard_normal((_TRIED_TOKENS, 1))
    values = (generator.standard_normal((_TRIED_TOKENS, features)) + shifts) * scales
    # Any number of tokens will do for a normalisation; few cost little.
    x = torch.from_numpy(values).to(like).reshape(*(1,) * (like.dim() - 2), *values.shape)
    try:
        with torch.no_grad():
            output = module.forward(x)
    except Exception:  # a module that cannot be called alone is no plain normalisation
        return False
    if not isinstance(output, Tensor) or output.shape != x.shape:
        return False
    # numpy: these are small sums, for which starting torch's threads costs more than the work
    result = output.double().cpu().numpy().reshape(values.shape)
    given = x.double().cpu().numpy().reshape(values.shape)
    if not np.isfinite(result).all() or result.std() == 0:
        return False
    tolerance = 1e-3 if like.dtype in (torch.float32, torch.float64) else 3e-2
    centred = given - given.mean(-1, keepdims=True)
    return any(
        _residual_per_feature(result, v / np.sqrt((v**2).mean(-1, keepdims=True))) < tolerance
        for v in (centred, given)
    )


def _residual_per_feature(result: NDArray[np.float64], standardised: NDArray[np.float64]) -> float:
    """Return the largest relative residual of `result` regressed on `standardised`, per feature."""
    y = result - result.mean(0)
    x = standardised - standardised.mean(0)
    slope = (x * y).sum(0) / np.maximum((x**2).sum(0), 1e-12)
    residual = np.sqrt(((y - slope * x) ** 2).mean(0))
    # Relative to all features: a gain of zero makes one feature constant, and that is allowed.
    return float((residual / max(np.sqrt((y**2).mean()), 1e-30)).max())
