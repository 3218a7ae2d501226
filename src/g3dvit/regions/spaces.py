"""Whether an atlas names places of a map: the spaces of both, as far as anything tells them.

Names are those of BIDS (``space-`` of an image, ``tpl-`` of a template's atlas). Nothing is warped:
between two templates places are off by millimetres, which is said; between a person's own space
and a template they are off by centimetres, which is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from g3dvit.errors import SpaceError
from g3dvit.shown import Parcellation

#: Of the atlases that have a name; which of the MNI templates differs, or is not told.
_MNI = "MNI152"
_TEMPLATE_ATLASES = (
    *("aal", "aal3", "schaefer100", "schaefer200", "schaefer400"),
    *("harvard-oxford", "yeo7", "destrieux"),
)
_TEMPLATES = ("MNI", "ICBM", "TAL", "IXI", "OASIS", "NKI")


def check_space(space: str | None, atlas: Parcellation) -> str:
    """Refuse an atlas in another space than the maps; return what a reader must know.

    Parameters
    ----------
    space
        Of the maps; None where nothing tells it.
    atlas
        Its space is that of a known name, or the ``space-`` or ``tpl-`` of its file's name.

    Returns
    -------
    str
        A sentence, empty where both are in the same space.

    Raises
    ------
    SpaceError
        If one is in the space of a person and the other in that of a template.
    """
    other = _space_of_atlas(atlas)
    if space is None:
        where = "" if other is None else f", {other}"
        return (
            "Nothing tells in which space the maps are: names of regions are right only if it is "
            f"that of the atlas{where}."
        )
    if other is None:
        return (
            f"The maps are in the space {space}; nothing tells that of the atlas, which must be "
            "the same: nothing is warped."
        )
    if _is_template(space) != _is_template(other):
        raise SpaceError(
            f"the maps are in the space {space!r}, the atlas {atlas.name} in {other!r}: one is "
            "that of a person, the other that of a template, and nothing here warps one to the "
            "other. Give an atlas in the space of the maps"
        )
    if space.lower() == other.lower() or (other == _MNI and space.upper().startswith(_MNI)):
        return ""
    return (
        f"The maps are in the space {space}, the atlas in {other}: nothing is warped, places may "
        "be off by some millimetres."
    )


def space_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the space that a map's sidecar tells, or the names of its sources; else None."""
    source = metadata.get("source")
    found = metadata.get("space") or (source.get("space") if isinstance(source, dict) else None)
    if found:
        return str(found)
    files = [source] if isinstance(source, str) else source
    if not isinstance(files, list):
        return None
    named = {_entity(PurePath(str(file)).name, "space") for file in files}
    return named.pop() if len(named) == 1 else None


def _space_of_atlas(atlas: Parcellation) -> str | None:
    if atlas.name.lower() in _TEMPLATE_ATLASES:
        return _MNI
    found = _entity(atlas.name, "space") or _entity(atlas.name, "tpl")
    return found or (_MNI if "MNI" in atlas.name.upper() else None)


def _entity(name: str, key: str) -> str | None:
    found = re.search(rf"(?:^|_){key}-([A-Za-z0-9]+)", name)
    return found.group(1) if found else None


def _is_template(space: str) -> bool:
    return space.upper().startswith(_TEMPLATES)
