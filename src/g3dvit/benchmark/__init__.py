"""The benchmark: every map on phantoms with known answers, from one resumable command.

`find_cases` says what is run, `trained_model` keeps the models, `run_case` makes and measures the
maps of one case and training seed, `summarise` and `write_report` turn them into tables.
"""

from __future__ import annotations

from g3dvit.benchmark.cases import Case, all_cases, find_cases
from g3dvit.benchmark.maps import ROWS, MapSettings, make_maps
from g3dvit.benchmark.metrics import METRICS, volume_metrics
from g3dvit.benchmark.model_maps import ModelSettings
from g3dvit.benchmark.models import ModelRecipe, TrainedModel, default_cache, trained_model
from g3dvit.benchmark.parallel import run_cases
from g3dvit.benchmark.report import write_report
from g3dvit.benchmark.run import Part, RunSettings, run_case
from g3dvit.benchmark.table import Line, summarise, to_markdown, to_tsv

__all__ = [
    "METRICS",
    "ROWS",
    "Case",
    "Line",
    "MapSettings",
    "ModelRecipe",
    "ModelSettings",
    "Part",
    "RunSettings",
    "TrainedModel",
    "all_cases",
    "default_cache",
    "find_cases",
    "make_maps",
    "run_case",
    "run_cases",
    "summarise",
    "to_markdown",
    "to_tsv",
    "trained_model",
    "volume_metrics",
    "write_report",
]
