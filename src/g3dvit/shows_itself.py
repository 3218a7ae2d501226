"""The one hook by which values show themselves in Jupyter.

Values lie in low layers, tables and figures in high ones. A value that inherits `ShowsItself`
therefore names no room: what to show is looked up when Jupyter asks (`g3dvit.notebook`), so a
script that never asks loads nothing (docs/adr/0010-values-show-themselves.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: The module that shows values, by `html_of` and `text_of`.
RENDERER = "g3dvit.notebook"


class ShowsItself:
    """A value that Jupyter shows as a table and a figure, and IPython in a terminal as lines."""

    __slots__ = ()

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        # IPython prefers the `__repr__` of a dataclass to what the dataclass inherits.
        cls._repr_pretty_ = ShowsItself._repr_pretty_  # type: ignore[method-assign]

    def _repr_html_(self) -> str:
        return str(import_module(RENDERER).html_of(self))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001 - IPython calls it
        printer.text("..." if cycle else str(import_module(RENDERER).text_of(self)))
