"""From a model description to a network with its weights.

The factory that a description names is imported and called: that runs the user's own code. The
weights are read without running any. What the network says about its tokens is found by
`g3dvit.probe`, not here.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from g3dvit.descriptions import ModelDescription, load_description
from g3dvit.errors import DescriptionError, G3DWarning, ModelError, WeightsError
from g3dvit.patch_order import convert_patch_order
from g3dvit.weights import load_strictly, read_weights, take_prefix


def load_model(
    path: str | os.PathLike[str] | ModelDescription, *, device: str | torch.device = "auto"
) -> nn.Module:
    """Build the network that a description names and load its weights.

    Parameters
    ----------
    path
        A model description file, or a description.
    device
        ``"auto"`` (the first GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...

    Returns
    -------
    nn.Module
        In evaluation mode, with the description as its attribute `description`.

    Raises
    ------
    DescriptionError
        If the description or the factory cannot be used.
    WeightsError
        If the weights cannot be read, or do not fit.
    """
    description = path if isinstance(path, ModelDescription) else load_description(path)
    where = resolve_device(device)
    folder = None if description.path is None else description.path.parent
    model = build_model(description.factory, description.arguments, folder=folder)
    if description.weights is None:
        warnings.warn(
            "the model description names no weights: the network's are random",
            G3DWarning,
            stacklevel=2,
        )
    else:
        state = take_prefix(read_weights(description.weights), description.key_prefix)
        state = convert_patch_order(model, state, description.vit_pytorch)
        try:
            load_strictly(model, state)
        except WeightsError as error:
            raise WeightsError(f"{description.weights}: {error}") from error
    model = model.eval().to(where)
    model.description = description  # type: ignore[assignment]
    return model


def build_model(
    factory: str, arguments: Mapping[str, Any], *, folder: Path | None = None
) -> nn.Module:
    """Import a factory and call it.

    Parameters
    ----------
    factory
        ``package.module:Class`` or a function; looked for where Python looks, in the current
        folder, and in `folder`.
    arguments
        Keyword arguments.
    folder
        That of the description file.

    Raises
    ------
    DescriptionError
        If it cannot be imported, or gives no ``torch.nn.Module``.
    """
    make = import_factory(factory, folder=folder)
    try:
        model = make(**{key: _tuples(value) for key, value in arguments.items()})
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise DescriptionError(
            f"the factory {factory} cannot be called with ({given}): "
            f"{type(error).__name__}: {error}. Mend `arguments`"
        ) from error
    if not isinstance(model, nn.Module):
        raise DescriptionError(
            f"the factory {factory} gives {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def _tuples(value: Any) -> Any:
    """Return lists as tuples: YAML has no tuples, and many models take sizes as those only."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def import_factory(factory: str, *, folder: Path | None = None) -> Any:
    """Import what ``package.module:Name`` names.

    Raises
    ------
    DescriptionError
        If there is no such thing, or its module fails.
    """
    module_name, _, attribute = factory.partition(":")
    with _importable_from(folder):
        try:
            found: Any = import_module(module_name)
        except Exception as error:
            raise DescriptionError(
                f"the module {module_name!r} of the factory {factory} cannot be imported: "
                f"{type(error).__name__}: {error}. Install its package here (`pip install -e .` in "
                "its folder), or run in the folder where it lies"
            ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise DescriptionError(
                f"the module {module_name!r} of the factory {factory} has no {attribute!r}"
            ) from None
    if not callable(found):
        raise DescriptionError(f"the factory {factory} is {type(found).__name__}, nothing to call")
    return found


@contextmanager
def _importable_from(folder: Path | None) -> Iterator[None]:
    """Look for modules in the current folder and in `folder` too, behind all other places."""
    before = list(sys.path)
    sys.path += [str(Path.cwd())] + ([] if folder is None else [str(folder.resolve())])
    try:
        yield
    finally:
        sys.path[:] = before


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that a word names.

    Raises
    ------
    ModelError
        If it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the device {str(device)!r} cannot be used here ({reason}); choose auto, cpu, cuda or "
            "cuda:N"
        ) from error
    return found
