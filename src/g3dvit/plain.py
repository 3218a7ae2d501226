"""Values as plain JSON types: what sidecars, provenance and the page's scene are made of.

`to_plain` turns arrays, paths, dataclasses and mappings into dict, list, str, int, float, bool
and None. JSON has no NaN and no infinity; both become null. This module reads no file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """Turn a value into plain JSON types.

    Parameters
    ----------
    value
        Mapping, sequence, set, array, dataclass, path or scalar. Numbers that are not finite
        become None; a value of any other type becomes its ``str``.

    Examples
    --------
    >>> to_plain({"p": np.float32(0.5), "sd": float("nan"), 1: ("a", None)})
    {'p': 0.5, 'sd': None, '1': ['a', None]}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating, np.ndarray)):
        return to_plain(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, Set):
        return sorted(to_plain(entry) for entry in value)
    if isinstance(value, (list, tuple)):
        return [to_plain(entry) for entry in value]
    return str(value)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON text, after `to_plain`."""
    return json.dumps(to_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def unique_names(names: Sequence[str], *, kept: str = "") -> list[str]:
    """Return names as parts of file names: letters and digits only, no two alike.

    Names that differ in nothing but upper and lower case count as alike: some disks do so too.
    """
    found: list[str] = []
    taken: set[str] = set()
    for number, name in enumerate(names, 1):
        plain = re.sub(rf"[^A-Za-z0-9{re.escape(kept)}]+", "", name).lstrip(".")[:80]
        unique = plain = plain or f"n{number}"
        while unique.lower() in taken:
            unique = f"{unique}n{number}"
        taken.add(unique.lower())
        found.append(unique)
    return found
