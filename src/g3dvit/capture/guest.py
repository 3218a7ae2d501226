"""Lend a model, and give it back exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, ``DataParallel`` and their kin."""
    while True:
        inner = model._modules.get("_orig_mod")
        if inner is None and isinstance(
            model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def clean_input(x: Tensor) -> Tensor:
    """Return `x` as autograd can use it: detached, and no inference tensor.

    Call it inside `guest`: within ``inference_mode`` itself a clone is an inference tensor too.
    """
    return x.detach().clone() if x.is_inference() else x.detach()


@contextmanager
def guest(model: nn.Module) -> Iterator[nn.Module]:
    """Lend a model in the state in which it is explained, and restore all of it.

    Inside: evaluation mode, no parameter requires gradients, gradients can be recorded whatever
    the caller's mode is, compiled models run eagerly, autocast (the model's own too), gradient
    checkpointing and the fused transformer layer (which hides its attention) are off, and
    convolutions on CUDA devices are not rounded to TF32. Afterwards,
    also after an exception or Ctrl-C, every submodule's training flag, ``requires_grad``,
    ``.grad``, buffer, attribute (such as attention that it keeps) and the states of the random
    generators (torch, numpy, python) are as before.

    Parameters
    ----------
    model
        Any module, also frozen, in bf16, compiled, or inside ``DataParallel``.

    Yields
    ------
    nn.Module
        The module to call: `model` without its wrappers, so that layer names are its own.
    """
    inner = unwrap(model)
    with ExitStack() as stack:
        stack.enter_context(_random_states(inner))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for device in {"cpu"} | {p.device.type for p in inner.parameters()}:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_autocast_stays_off())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, _fastpath())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(_all_digits())
        stack.enter_context(_without_checkpointing())
        stack.enter_context(_module_state(inner))
        yield inner


@contextmanager
def _all_digits() -> Iterator[None]:
    """Let convolutions on CUDA devices keep the digits of float32, which torch rounds to TF32.

    Shares that are to add up to 1e-4 of the score need them.
    """
    try:
        before = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the caller has set the precision of single operators: theirs to choose
        yield
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _fastpath() -> bool:
    return bool(torch.backends.mha.get_fastpath_enabled())


@contextmanager
def _autocast_stays_off() -> Iterator[None]:
    """Let a model that turns autocast on in its own forward run in the type of its parameters.

    Half precision in some of its parts would be rounding error in the map, and backward passes
    that are written here would meet two types at once.
    """
    enter: Callable[[Any], Any] = torch.autocast.__enter__

    def enter_disabled(self: Any) -> Any:
        enabled, self._enabled = self._enabled, False
        try:
            return enter(self)
        finally:
            self._enabled = enabled

    torch.autocast.__enter__ = enter_disabled  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]


@contextmanager
def _without_checkpointing() -> Iterator[None]:
    """Let checkpointed parts of a model keep their tensors.

    They would run a second time during the backward pass, where hooks and modes are gone.
    """

    class Direct:
        @staticmethod
        def apply(function: Callable[..., Any], _preserve: object, *args: Any) -> Any:
            return function(*args)

    def hook(_frame: object) -> nullcontext[None]:
        return nullcontext()

    with ExitStack() as stack:
        for name, instead in (("_checkpoint_hook", hook), ("CheckpointFunction", Direct)):
            if hasattr(checkpoint, name):
                stack.callback(setattr, checkpoint, name, getattr(checkpoint, name))
                setattr(checkpoint, name, instead)
        yield


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    cuda = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others' generator
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _module_state(model: nn.Module) -> Iterator[None]:
    """Freeze a module for the time being; what it was is put back in the opposite order."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(_set_training, module, module.training)
            stack.callback(_attribute_restorer(module))
        stack.callback(_buffer_restorer(model))
        for parameter in model.parameters():
            stack.callback(_parameter_restorer(parameter))
        _replace_inference_tensors(model, stack)
        for module in model.modules():
            module.training = False  # not .eval(): models override it to do more than this
        for parameter in model.parameters():
            parameter.requires_grad = False
        yield


def _set_training(module: nn.Module, training: bool) -> None:  # noqa: FBT001 - a callback
    module.training = training


def _attribute_restorer(module: nn.Module) -> Callable[[], None]:
    """Remember which objects a module's attributes are, and return what puts them back."""
    before = dict(vars(module))

    def restore() -> None:
        now = vars(module)
        for name in [name for name in now if name not in before]:
            del now[name]
        now.update(before)

    return restore


def _parameter_restorer(parameter: nn.Parameter) -> Callable[[], None]:
    requires_grad, grad = parameter.requires_grad, parameter.grad

    def restore() -> None:
        if parameter.requires_grad != requires_grad:
            with torch.inference_mode(parameter.is_inference()):
                parameter.requires_grad_(requires_grad)
        if parameter.grad is not grad:
            parameter.grad = grad

    return restore


def _buffer_restorer(model: nn.Module) -> Callable[[], None]:
    """Remember every buffer, object and values, and return what puts them back."""
    saved: list[tuple[nn.Module, dict[str, Tensor | None], dict[str, Tensor]]] = []
    for module in model.modules():
        values = {k: b.detach().clone() for k, b in module._buffers.items() if b is not None}
        saved.append((module, dict(module._buffers), values))

    def restore() -> None:
        for module, buffers, values in saved:
            for name, value in values.items():
                buffer = buffers[name]
                if buffer is not None and not _same(buffer, value):
                    with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                        buffer.copy_(value)
            if any(module._buffers.get(k) is not b for k, b in buffers.items()) or (
                module._buffers.keys() != buffers.keys()
            ):
                module._buffers.clear()
                module._buffers.update(buffers)

    return restore


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return bool(torch.equal(a, b)) or bool(
        a.is_floating_point() and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    )


def _replace_inference_tensors(model: nn.Module, stack: ExitStack) -> None:
    """Stand in for parameters, buffers and attributes that were made inside ``inference_mode``.

    Autograd cannot save such tensors for a backward pass; copies of them it can.
    """
    copies: dict[int, Any] = {}
    for module in model.modules():
        tables: tuple[tuple[dict[str, Any], Callable[[Tensor], Tensor]], ...] = (
            (module._parameters, _as_parameter),
            (module._buffers, Tensor.clone),
            (vars(module), Tensor.clone),
        )
        for table, copy in tables:
            for name, tensor in list(table.items()):
                if not isinstance(tensor, Tensor) or not tensor.is_inference():
                    continue
                if id(tensor) not in copies:
                    copies[id(tensor)] = copy(tensor)
                stack.callback(table.__setitem__, name, tensor)
                table[name] = copies[id(tensor)]


def _as_parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)


def wider(model: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Any]:
    """Return a call of a model with copies of its parameters and buffers in another type.

    Parameters
    ----------
    model
        Is not converted.
    dtype
        Of the copies of floating-point tensors.
    """
    return substituted(model, lambda t: t.to(dtype) if t.is_floating_point() else t)


def substituted(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    """Return a call of a model with other parameters and buffers in place of its own.

    Parameters
    ----------
    model
        Is left as it is.
    change
        From a parameter or buffer, detached, to what takes its place.
    """
    state: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    # One entry for each slot of each module object. Left to itself, `functional_call` fills a
    # slot once for every name that leads to it, and then does not put back what was there.
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                if id(tensor) not in made:
                    made[id(tensor)] = change(tensor.detach())
                state[f"{path}.{name}".lstrip(".")] = made[id(tensor)]

    def run(x: Tensor) -> Any:
        with _MasksInType():
            return functional_call(model, state, (x,), tie_weights=False)

    return run


class _MasksInType(TorchFunctionMode):
    """Gives attention masks the type of the queries.

    A mask that a model makes in its forward is float32 whatever the type of the parameters, and
    torch's fused attention reads the numbers of a mask of another type wrongly, without a word.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        if getattr(func, "__name__", "") in _ATTENTION:
            query = args[0] if args else keywords["query"]

            def in_type(value: Any) -> Any:
                floats = isinstance(value, Tensor) and value.is_floating_point()
                return value.to(query.dtype) if floats else value

            args = tuple(map(in_type, args))
            keywords = {name: in_type(value) for name, value in keywords.items()}
        return func(*args, **keywords)
