"""Agreement beside faithfulness: what an evaluation found of the same maps, and how to read both.

The two can disagree: a map may look like a GLM and not be what the model uses, or be what the model
uses and look like no GLM.

References
----------
Thomas, Ré and Poldrack 2023, https://doi.org/10.1016/j.neuroimage.2023.120109
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g3dvit.compare.job import Comparison
from g3dvit.errors import OutputError
from g3dvit.folders import GENERATOR

COLUMNS = {
    "srg": "From g3dvit evaluate: score kept removing the lowest first, less the highest first",
    "relative_srg": "From g3dvit evaluate: SRG from random order (0) to removal oracle (1)",
    "relative_srg_low": "Lower end of its 95 % interval; above 0 counts as faithful here",
    "evaluated": "What these three are of: the compared map, or content and position of frozen "
    "gates together, where the content alone is compared and was not evaluated",
    "reading": "Both in words; agrees: Spearman above 0 with p below .05, uncorrected",
}
_NUMBERS = ("srg", "relative_srg", "relative_srg_low")
_SAME, _TOGETHER = "the compared map", "content and position together"


@dataclass(frozen=True, slots=True, eq=False)
class Faithfulness:
    """What an evaluation found.

    Parameters
    ----------
    by_method
        `_NUMBERS` of each map that was measured.
    model_sha256
        Of the model's weights; empty where there are none.
    """

    by_method: dict[str, dict[str, float]] = field(repr=False)
    model_sha256: str = ""


def load_faithfulness(folder: str | Path) -> Faithfulness:
    """Read the folder of ``g3dvit evaluate -o``.

    Raises
    ------
    OutputError
        If it holds no evaluation.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        if about["generator"]["name"] != GENERATOR:
            raise KeyError("generator")
        table = pd.read_csv(folder / "evaluation.tsv", sep="\t", na_values=["n/a"])
        nothing = pd.Series(np.nan, index=table.index)
        columns = {n: table.get(n, nothing).astype(float) for n in _NUMBERS}
        found = {
            str(name): {n: float(values[row]) for n, values in columns.items()}
            for row, name in zip(table.index, table["map"], strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{folder} is not what `g3dvit evaluate -o` wrote; name that folder"
        ) from error
    return Faithfulness(found, str(about.get("model_sha256") or ""))


def evaluation_beside(folder: str | Path, comparisons: Sequence[Comparison]) -> Path | None:
    """Return an evaluation of the same model that lies in or beside the folder of a run."""
    folder = Path(folder).resolve()
    hashes = {_model_hash(one) for one in comparisons}
    for path in (folder / "evaluation", folder.parent / "evaluation"):
        if not (path / "evaluation.json").is_file():
            continue
        try:
            found = load_faithfulness(path)
        except OutputError:
            continue
        if found.model_sha256 and hashes == {found.model_sha256}:
            return path
    return None


def check_model(comparisons: Sequence[Comparison], found: Faithfulness) -> bool:
    """Refuse an evaluation of another model; return whether all maps name their model.

    Raises
    ------
    OutputError
        If a map is of other weights than those evaluated.
    """
    for one in comparisons:
        own = _model_hash(one)
        if own and found.model_sha256 and own != found.model_sha256:
            raise OutputError(
                f"the evaluation measured another model ({found.model_sha256[:12]}) than the one "
                f"that {one.name} explains ({own[:12]}); name the evaluation of that model"
            )
    return bool(found.model_sha256) and all(_model_hash(one) for one in comparisons)


def with_faithfulness(
    frame: pd.DataFrame, comparisons: Sequence[Comparison], found: Faithfulness
) -> None:
    """Add `COLUMNS` to a table with one row per comparison, in place."""
    nothing = dict.fromkeys(_NUMBERS, float("nan"))
    methods = [_measured_as(one, found) for one in comparisons]
    rows = [found.by_method.get(method, nothing) for method in methods]
    for name in _NUMBERS:
        frame[name] = [row[name] for row in rows]
    apart = [
        _is_content(one) and method == method_of(one)
        for one, method in zip(comparisons, methods, strict=True)
    ]
    frame["evaluated"] = [
        "n/a" if method not in found.by_method else _TOGETHER if content else _SAME
        for method, content in zip(methods, apart, strict=True)
    ]
    frame["reading"] = [reading(row) for _, row in frame.iterrows()]


def reading(row: Any) -> str:
    """Return agreement and faithfulness of one map in words; ``n/a`` where one is not known."""
    if not (np.isfinite(row["p_spearman"]) and np.isfinite(row["relative_srg_low"])):
        return "n/a"
    agrees = row["spearman"] > 0 and row["p_spearman"] < 0.05
    faithful = row["relative_srg_low"] > 0
    if row.get("evaluated") == _TOGETHER:
        return "; ".join(
            (
                f"content {'agrees' if agrees else 'does not agree'}",
                f"{_TOGETHER} are faithful{'' if agrees else ': look where'}"
                if faithful
                else f"{_TOGETHER} were not shown to be faithful"
                + ": do not show it as what the model uses" * agrees,
            )
        )
    return {
        (True, True): "agrees, and is faithful",
        (True, False): "agrees, but was not shown to be faithful: do not show it as what the model "
        "uses",
        (False, True): "faithful, but does not agree: the model uses something else; look where",
        (False, False): "neither agrees nor was shown to be faithful",
    }[bool(agrees), bool(faithful)]


def disagreement(frame: pd.DataFrame, methods: Sequence[str]) -> str:
    """Return a sentence for each reference whose best match is not the most faithful map."""
    sentences = []
    table = frame.assign(method=list(methods))
    for reference, rows in table.groupby("reference", sort=False):
        known = rows.dropna(subset=["spearman", "relative_srg"])
        if known["method"].nunique() < 2:
            continue
        means = {
            str(method): (float(own["spearman"].mean()), float(own["relative_srg"].mean()))
            for method, own in known.groupby("method", sort=False)
        }
        alike = max(means, key=lambda method: means[method][0])
        faithful = max(means, key=lambda method: means[method][1])
        if alike == faithful:
            sentences.append(f"{alike} both agrees most with {reference} and is the most faithful.")
            continue
        sentences.append(
            f"{alike} agrees most with {reference} (mean Spearman {means[alike][0]:.2f}), but "
            f"{faithful} is more faithful to the model (relative SRG {means[faithful][1]:.2f}, "
            f"{alike} {means[alike][1]:.2f}): for what the model uses read {faithful}."
        )
    return " ".join(sentences)


def method_of(one: Comparison) -> str:
    """Return the method of a map, as an evaluation names it."""
    return str(one.relevance.metadata.get("method", ""))


def _is_content(one: Comparison) -> bool:
    """Tell whether the compared map is the content of frozen gates alone."""
    return bool(one.relevance.metadata.get("companion") == "content")


def _measured_as(one: Comparison, found: Faithfulness) -> str:
    """Return the row of an evaluation that is of a map: of its content, where that was measured."""
    method = method_of(one)
    content = f"{method}_content"
    return content if _is_content(one) and content in found.by_method else method


def _model_hash(one: Comparison) -> str:
    model = one.relevance.metadata.get("model")
    return str(model.get("weights_sha256") or "") if isinstance(model, dict) else ""
