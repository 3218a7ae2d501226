"""Words of the command line as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from g3dvit.errors import InputError


def parse_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` words; values are YAML.

    Examples
    --------
    >>> parse_arguments(["dim=24", "pool=mean", "size=[3, 4]"])
    {'dim': 24, 'pool': 'mean', 'size': [3, 4]}

    Raises
    ------
    InputError
        If a word is not ``name=value``, or a name is there twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise InputError(f"--argument takes name=value, such as dim=1024, was given {word!r}")
        if name in values:
            raise InputError(f"--argument {name} is given twice")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(
                f"the value of --argument {word!r} cannot be read: {error}; put words with special "
                "signs in quotes"
            ) from error
    return values


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Read a shape such as ``1,90,90,90``; None stays None.

    Raises
    ------
    InputError
        If it is not three or four positive whole numbers.
    """
    if text is None:
        return None
    parts = [part for part in text.replace("x", ",").strip("()[] ").split(",") if part.strip()]
    if len(parts) in (3, 4) and all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        return tuple(int(part) for part in parts)
    raise InputError(
        "--input-shape takes three or four positive numbers, such as 1,90,90,90, was given "
        f"{text!r}"
    )
