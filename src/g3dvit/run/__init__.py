"""A whole job: what ``g3dvit explain`` and ``g3dvit.explain_image`` do."""

from __future__ import annotations

from g3dvit.run.inputs import RunSource
from g3dvit.run.whole import DEFAULT_METHODS, explain_image, explain_run

__all__ = ["DEFAULT_METHODS", "RunSource", "explain_image", "explain_run"]
