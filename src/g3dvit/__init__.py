"""Where in the brain a 3D Vision Transformer looked, and whether that picture can be believed.

The names below are imported when they are first used (PEP 562), so that ``import g3dvit`` and
``g3dvit --help`` are quick and import neither torch nor nilearn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from g3dvit.compare import compare_maps
    from g3dvit.errors import G3DError, G3DWarning
    from g3dvit.evaluate.evaluation import evaluate_run
    from g3dvit.explain import Explainer, Explanation
    from g3dvit.grids import ImageGrid, PatchGrid
    from g3dvit.maps import RelevanceMap
    from g3dvit.models import load_model
    from g3dvit.patterns import pattern
    from g3dvit.prepare import Preparation
    from g3dvit.restricted import restrict
    from g3dvit.run import explain_image
    from g3dvit.saved_runs import load_run
    from g3dvit.volumes import open_series

__version__ = "0.1.0"

_HOME = {
    "Explainer": "explain",
    "Explanation": "explain",
    "G3DError": "errors",
    "G3DWarning": "errors",
    "ImageGrid": "grids",
    "PatchGrid": "grids",
    "Preparation": "prepare",
    "RelevanceMap": "maps",
    "compare_maps": "compare",
    "evaluate_run": "evaluate.evaluation",
    "explain_image": "run",
    "load_model": "models",
    "load_run": "saved_runs",
    "open_series": "volumes",
    "pattern": "patterns",
    "restrict": "restricted",
}

#: Modules whose functions are called by their own name, such as ``g3dvit.figures.mosaic``.
_MODULES = ("figures", "notebook", "regions")

__all__ = [
    "Explainer",
    "Explanation",
    "G3DError",
    "G3DWarning",
    "ImageGrid",
    "PatchGrid",
    "Preparation",
    "RelevanceMap",
    "compare_maps",
    "evaluate_run",
    "explain_image",
    "load_model",
    "load_run",
    "open_series",
    "pattern",
    "restrict",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
