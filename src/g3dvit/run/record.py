"""What is recorded about a job: model, inputs, versions, command."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from g3dvit import __version__
from g3dvit.checks import Check
from g3dvit.descriptions import ModelDescription
from g3dvit.explain import Explainer
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import OpenRun
from g3dvit.run_result import ModelSummary, RunInput
from g3dvit.weights import hash_file


def common_metadata(
    description: ModelDescription, preparation: Preparation, score: str
) -> dict[str, Any]:
    """Return what is the same for all maps of a job."""
    return {
        "score": score,
        "model": {
            "name": model_name(description),
            "factory": description.factory,
            "weights_sha256": weights_hash(description),
        },
        "preparation": preparation.to_dict(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"g3dvit": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "nibabel", "nilearn", "vit-pytorch", "monai"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def model_name(description: ModelDescription) -> str:
    """Return what a model is called: its description file, or what builds it."""
    return description.path.stem if description.path else description.factory


def weights_hash(description: ModelDescription) -> str:
    """Return the SHA-256 of the weights file; empty where there is none."""
    if description.weights is None:
        return ""
    return _hash_once(description.weights, description.weights.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _hash_once(path: Path, _changed_ns: int) -> str:
    """Hash a file once, and again only after it has changed."""
    return hash_file(path)


def model_summary(
    description: ModelDescription,
    preparation: Preparation,
    explainer: Explainer,
    accuracy: Check,
    class_names: tuple[str, ...],
) -> ModelSummary:
    """Return what a reader needs to know about the model."""
    return ModelSummary(
        name=model_name(description),
        sha256=weights_hash(description),
        class_names=class_names,
        preparation=tuple(preparation.describe()),
        geometry=str(explainer.geometry),
        accuracy=accuracy.sentence,
        trained_on=description.trained_on,
    )


def input_of(run: OpenRun) -> RunInput:
    """Return what a reader needs to know about a run."""
    series = run.series
    return RunInput(
        name=run.name,
        source=str(series.path),
        grid=series.grid,
        space=series.space,
        n_time_points=series.n_time_points,
        time_points=run.selection.time_points,
        t_r=series.t_r,
        selection=run.selection.rule,
    )


def title_of(runs: Sequence[OpenRun]) -> str:
    """Return a heading for a job."""
    return runs[0].name if len(runs) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def provenance_of(
    description: ModelDescription, runs: Sequence[OpenRun], started: float
) -> dict[str, Any]:
    """Return command, time, versions and selection, for ``provenance.json``."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "versions": _versions(),
        "model": description.to_dict(),
        "runs": {run.name: run.selection.rule for run in runs},
    }
