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

NIIVUE_VARIABLE = "G3DVIT_NIIVUE_JS"
NIIVUE_NOTICE = """\
NiiVue, https://github.com/niivue/niivue, BSD 2-Clause License
Copyright (c) 2021, Niivue. All rights reserved.
Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met:
1. Redistributions of source code must retain the above copyright notice, this list of conditions
   and the following disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of
   conditions and the following disclaimer in the documentation and/or other materials provided
   with the distribution.
THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""


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

    if scene.get("schema_version") != 1:
        raise InputError(
            f"this page shows scenes of schema version 1, was given "
            f"{scene.get('schema_version')!r}; make the page with the version that wrote it"
        )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    template = environment.from_string(_asset("page.html.jinja"))
    return template.render(
        scene=scene,
        data=Markup(json_for_script(scene["viewer"])),
        css=Markup(_asset("page.css")),
        scripts=[
            Markup(_script(text))
            for text in (niivue_source(), _asset("viewmath.js"), _asset("page.js"))
        ],
        niivue_notice=NIIVUE_NOTICE,
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
    """Return the viewer's library: from ``$G3DVIT_NIIVUE_JS``, or from nilearn's wheel.

    Raises
    ------
    OutputError
        If it is not where it should be.
    """
    given = os.environ.get(NIIVUE_VARIABLE)
    path = Path(given) if given else files("nilearn") / "_assets" / "js" / "niivue.umd.js"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"the 3D viewer's library was not found at {path}; install nilearn>=0.14,<0.15, or "
            f"name a niivue.umd.js in the environment variable {NIIVUE_VARIABLE}"
        ) from error


def _asset(name: str) -> str:
    return (files("g3dvit.report") / "assets" / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """Return a script that cannot end its own tag."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
