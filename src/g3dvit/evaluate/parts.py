"""Work that can be stopped: every part of a long job is a file, there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from g3dvit.folders import write_text
from g3dvit.plain import to_json


def parameters_hash(module: nn.Module) -> str:
    """Return a hash of all parameters and buffers, as they are in memory."""
    found = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        found.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return found.hexdigest()


def arrays_hash(arrays: Iterable[NDArray[Any]]) -> str:
    """Return a hash of the shapes and values of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class Parts:
    """The finished parts of one job.

    Parameters
    ----------
    folder
        Where they are kept; None keeps nothing.
    settings
        Everything that decides about the result. Parts of other settings are never taken.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self.key = hashlib.sha256(to_json(settings).encode()).hexdigest()[:12]
        self._folder = None if folder is None else folder / self.key

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a part from its file, or compute it and write that file.

        What comes back has gone through JSON either way: numbers that are not finite are None.
        """
        if self._folder is None:
            return json.loads(to_json(compute()))
        path = self._path(name)
        if not path.is_file():
            write_text(path, to_json(compute(), indent=None))
        return json.loads(path.read_text(encoding="utf-8"))

    def _path(self, name: str) -> Path:
        assert self._folder is not None  # callers have asked
        return self._folder / f"{name}.json"


def remove_parts(folder: Path) -> None:
    """Delete the parts of a job, once its result is written."""
    shutil.rmtree(folder, ignore_errors=True)
