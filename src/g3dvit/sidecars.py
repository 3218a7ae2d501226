"""What a BIDS file name and its JSON sidecar say about a run.

Only the file's own sidecar is read (same name, ``.json``), as fMRIPrep writes it; BIDS
inheritance from folders above is not followed.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g3dvit.errors import ImageError

_LONGEST_T_R_S = 100.0  # sparse sampling takes some 20 s; larger numbers are milliseconds
_COMPOUND = (".nii.gz", ".img.gz", ".hdr.gz", ".nii.bz2", ".nii.zst")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The entries of a JSON sidecar that matter here; None where absent.

    Parameters
    ----------
    t_r
        ``RepetitionTime`` in s.
    start_time
        ``StartTime`` in s: the time that slice timing correction gave the first volume.
    space
        Name of the space in ``SpatialReference``.
    """

    t_r: float | None = None
    start_time: float | None = None
    space: str | None = None


def stem(path: Path) -> str:
    """Return a file name without its extension, ``.nii.gz`` being one."""
    for suffix in _COMPOUND:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def entity(path: Path, key: str) -> str | None:
    """Return the value of a BIDS entity in a file name, such as ``space``."""
    found = re.search(rf"(?:^|_){re.escape(key)}-([A-Za-z0-9+]+)(?=_|$)", stem(path))
    return found.group(1) if found else None


def space_entity(path: Path) -> str | None:
    """Return the ``space-`` entity of a file name, if there is one."""
    return entity(path, "space")


def load_sidecar(path: Path) -> Sidecar:
    """Read the JSON file beside an image; an empty `Sidecar` where there is none.

    Raises
    ------
    ImageError
        If the sidecar is no JSON object or a time in it is no number.
    """
    file = path.with_name(stem(path) + ".json")
    if not file.is_file():
        return Sidecar()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImageError(f"the sidecar {file} is no readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise ImageError(f"the sidecar {file} holds a {type(values).__name__}, not an object")
    t_r = _seconds(file, values, "RepetitionTime")
    if t_r is not None and not 0 < t_r <= _LONGEST_T_R_S:
        raise ImageError(
            f"RepetitionTime in {file} is {t_r:g}; a positive number of seconds is needed, not of "
            "milliseconds"
        )
    return Sidecar(t_r, _seconds(file, values, "StartTime"), _space(values))


def _seconds(file: Path, values: dict[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ImageError(f"{key} in {file} is {value!r}; a number of seconds is needed")
    return float(value)


def _space(values: dict[str, Any]) -> str | None:
    """Return a space's name; references that only name a file name no space."""
    reference = values.get("SpatialReference")
    if not isinstance(reference, str):
        return None
    template = re.search(r"tpl-([A-Za-z0-9+]+)", reference)
    if template:
        return template.group(1)
    return reference if re.fullmatch(r"[A-Za-z0-9+]+", reference) else None
