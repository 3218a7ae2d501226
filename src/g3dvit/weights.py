"""Read checkpoints safely, and put them into a network strictly.

Read are safetensors, Lightning's ``.ckpt`` and what ``torch.load(weights_only=True)`` accepts;
nothing that could run code from the file. Keys that do not fit are listed, never skipped.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from g3dvit.errors import G3DWarning, WeightsError

#: Where training programs put the weights of the network in a checkpoint, likeliest first.
_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
)
#: How many keys of a kind a message lists.
_LISTED = 100

_CONVERSION = """\
{path} holds more than tensors ({reason}), and loading it could run code from the file.
If you trust it, convert it once, in the environment that made it:

python - <<'END'
import torch
from safetensors.torch import save_file
checkpoint = torch.load({name!r}, map_location="cpu", weights_only=False)
if isinstance(checkpoint, torch.nn.Module):
    checkpoint = checkpoint.state_dict()
state = checkpoint.get("state_dict", checkpoint.get("model_state_dict", checkpoint))
save_file({{k: v.clone().contiguous() for k, v in state.items() if isinstance(v, torch.Tensor)}},
          {target!r})
END

and name {target} as the weights."""


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU.

    Parameters
    ----------
    path
        ``.safetensors``, Lightning's ``.ckpt``, or a file of ``torch.save`` with tensors only.

    Returns
    -------
    dict
        Key to tensor, with ``_orig_mod.`` (`torch.compile`) taken out of the keys and
        ``module.`` (`DataParallel`) from their beginning.

    Raises
    ------
    WeightsError
        If the file is missing, broken, or would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; mend `weights` in the model description")
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise WeightsError(
                f"{path} is only a Git-LFS pointer to the weights; run `git lfs pull` where it lies"
            )
    if path.suffix == ".safetensors":
        return _clean(_read_safetensors(path))
    return _clean(_tensors_of(_read_torch(path), path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path, device="cpu")
    except SafetensorError as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    return tensors


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _is_pickled(path) and ("weights_only" in str(error) or "Unsupported" in str(error)):
            named = re.search(r"GLOBAL (\S+)", str(error))
            reason = named[1] if named else reason
            message = _CONVERSION.format(
                path=path,
                reason=reason,
                name=path.name,
                target=path.with_suffix(".safetensors").name,
            )
            raise WeightsError(message) from error
        raise WeightsError(f"{path} cannot be read as a checkpoint: {reason}") from error


def _is_pickled(path: Path) -> bool:
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == b"\x80"


def _tensors_of(loaded: Any, path: Path) -> dict[str, Any]:
    if isinstance(loaded, Mapping):
        if any(isinstance(value, Tensor) for value in loaded.values()):
            return dict(loaded)
        for name in _CONTAINERS:
            inner = loaded.get(name)
            if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
                return dict(inner)
    what = (
        f"the entries {', '.join(map(str, list(loaded)[:_LISTED]))}"
        if isinstance(loaded, Mapping)
        else type(loaded).__name__
    )
    raise WeightsError(
        f"{path} holds {what}, and no weights by name; save `model.state_dict()` alone, or under "
        f"one of {', '.join(_CONTAINERS)}"
    )


def _clean(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    clean = {str(k).replace("_orig_mod.", ""): v for k, v in tensors.items()}
    while clean and all(key.startswith("module.") for key in clean):
        clean = {key.removeprefix("module."): v for key, v in clean.items()}
    return clean


def take_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return what lies below a prefix, and warn, with their names, of keys that lie elsewhere.

    Raises
    ------
    WeightsError
        If nothing lies below it.
    """
    if not prefix:
        return dict(state)
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not inside:
        beginnings = Counter(".".join(key.split(".")[:2]) + "." for key in state)
        raise WeightsError(
            f"no key of the checkpoint begins with `key_prefix` {prefix!r}; its keys begin with "
            + _some(beginnings)
        )
    outside = [key for key in state if not key.startswith(prefix)]
    if outside:
        warnings.warn(
            f"{len(outside)} keys of the checkpoint lie outside `key_prefix` {prefix!r} and are "
            f"no part of this network: {_some(outside)}",
            G3DWarning,
            stacklevel=2,
        )
    return inside


def guess_prefix(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Return the prefix under which all keys of a network are in a checkpoint, or None.

    Parameters
    ----------
    model
        The network.
    state
        What `read_weights` gave.

    Returns
    -------
    str or None
        ``""`` where the keys fit as they are. Of several, the one under which most shapes fit.
    """
    own = _own_shapes(model)
    first = min(own, key=lambda key: sum(known.endswith(key) for known in state), default=None)
    if first is None:
        return None
    candidates = {key[: len(key) - len(first)] for key in state if key.endswith(first)}
    candidates = {p for p in candidates if (not p or p.endswith(".")) and _covers(p, own, state)}
    if not candidates:
        return None
    return max(
        sorted(candidates, key=len),
        key=lambda p: sum(tuple(state[p + key].shape) == shape for key, shape in own.items()),
    )


def _own_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's own keys; of tied tensors only the first."""
    shapes, seen = {}, set()
    for key, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            shapes[key] = tuple(value.shape)
    return shapes


def _covers(prefix: str, own: Iterable[str], state: Mapping[str, Tensor]) -> bool:
    return all(prefix + key in state for key in own)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put weights into a network.

    Parameters
    ----------
    model
        Is changed.
    state
        Must have exactly the network's keys and shapes; of tied tensors one is enough.

    Raises
    ------
    WeightsError
        If a key is missing, unknown or of another shape; all of them are named.
    """
    own = model.state_dict(keep_vars=True)
    given = dict(state)
    by_identity = {id(own[key]): key for key in given if key in own}
    for key, value in own.items():
        if key not in given and id(value) in by_identity:
            given[key] = given[by_identity[id(value)]]
    missing = [key for key in own if key not in given]
    unexpected = [key for key in given if key not in own]
    shapes = [
        f"{key}: {tuple(given[key].shape)} in the checkpoint, {tuple(value.shape)} in the network"
        for key, value in own.items()
        if isinstance(value, Tensor)
        and isinstance(given.get(key), Tensor)
        and given[key].shape != value.shape
    ]
    if missing or unexpected or shapes:
        lines = [
            f"{title} ({len(keys)}):\n    " + _some(keys, "\n    ")
            for title, keys in (
                ("missing in the checkpoint", missing),
                ("unknown to the network", unexpected),
                ("of another shape", shapes),
            )
            if keys
        ]
        hint = _prefix_hint(model, state) if missing else "check `factory` and `arguments`"
        raise WeightsError(
            "the weights do not fit the network; nothing was loaded.\n  "
            + "\n  ".join(lines)
            + f"\n  What to do: {hint}"
        )
    model.load_state_dict(given, strict=True)
    broken = [
        key
        for key, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        warnings.warn(
            f"weights with NaN or infinite values: {_some(broken)}; the network will give NaN",
            G3DWarning,
            stacklevel=2,
        )


def _prefix_hint(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    prefix = guess_prefix(model, state)
    if prefix:
        return f"with `key_prefix: {prefix}` all keys of the network are found"
    return "check `factory`, `arguments` and `key_prefix`; `g3dvit init` guesses the prefix"


def _some(items: Iterable[str], separator: str = ", ") -> str:
    listed = list(items)
    more = f"{separator}... and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return separator.join(listed[:_LISTED]) + more
