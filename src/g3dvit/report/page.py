"""The scene as one HTML page that needs no network: template, styles, scripts and data in a file.

The template escapes every value; data travel as JSON inside a script tag, with every ``<``
escaped. A content security policy forbids the page to load anything from anywhere.
"""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from g3dvit.errors import InputError, OutputError
from g3dvit.report.scene import SCHEMA_VERSION

NIIVUE_VARIABLE = "G3DVIT_NIIVUE_JS"
#: Our own, in the order in which they need each other.
SCRIPTS = (
    *("viewmath.js", "chartmath.js", "surfacemath.js"),
    *("viewer.js", "surface.js", "chart.js", "tables.js", "values.js", "halves.js", "saving.js"),
    *("panes.js", "alone.js", "page.js"),
)
NIIVUE = "niivue/niivue.umd.js"  # version, source and hash: assets/niivue/niivue.json


def render_page(scene: dict[str, Any]) -> str:
    """Return the page of a scene.

    Parameters
    ----------
    scene
        What `g3dvit.report.scene.scene_of` gives.

    Raises
    ------
    InputError
        If the scene is of another schema version.
    OutputError
        If the viewer's library cannot be found.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    if scene.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"this page shows scenes of schema version {SCHEMA_VERSION}, was given "
            f"{scene.get('schema_version')!r}; make the page with the version that wrote it"
        )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    template = environment.from_string(_asset("page.html.jinja"))
    return template.render(
        scene=scene,
        data=Markup(json_for_script(scene["viewer"])),
        css=Markup(_asset("page.css")),
        scripts=[Markup(_script(text)) for text in (niivue_source(), *map(_asset, SCRIPTS))],
        niivue_notice=_asset("niivue/LICENSE"),
    )


def json_for_script(value: Any) -> str:
    r"""Return JSON that cannot end the script tag that it stands in.

    Examples
    --------
    >>> json_for_script({"name": "</script><b>"})
    '{"name":"\\u003c/script\\u003e\\u003cb\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def niivue_source() -> str:
    """Return the viewer's library: the one in this package, or that of ``$G3DVIT_NIIVUE_JS``.

    Raises
    ------
    OutputError
        If it is not where it should be.
    """
    given = os.environ.get(NIIVUE_VARIABLE)
    try:
        return Path(given).read_text(encoding="utf-8") if given else _asset(NIIVUE)
    except OSError as error:
        raise OutputError(
            f"the 3D viewer's library was not found at {given or NIIVUE}; install g3dvit again, or "
            f"name a niivue.umd.js in the environment variable {NIIVUE_VARIABLE}"
        ) from error


def _asset(name: str) -> str:
    return (files("g3dvit.report") / "assets" / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """Return a script that cannot end its own tag."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
