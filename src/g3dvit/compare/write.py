"""Comparisons to files: a table of numbers, a table of places, a figure for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from g3dvit.compare.figure import comparison_with_reference
from g3dvit.compare.job import PLACE_COLUMNS, Comparison, disagreements
from g3dvit.errors import OutputError
from g3dvit.folders import note_files, output_folder, write_whole
from g3dvit.saved_runs import TABLES, save_table
from g3dvit.shown import Background, Parcellation, ResultTable

FIGURES = "figures"
#: What the columns of `agreement_table` mean; Dice columns are added by share.
COLUMNS = {
    "map": "Map of the model",
    "reference": "With what it is compared",
    "spearman": "Rank correlation over patches, -1 to 1",
    "p_spearman": "Two-sided, against random maps as smooth as the map",
    "pearson": "Correlation over patches, -1 to 1",
    "p_pearson": "Two-sided, against random maps as smooth as the map",
    "mirrored": "Rank correlation with the reference mirrored left to right",
    "n_places": "Patches that were compared",
    "n_surrogates": "Random maps; no p is below 1 / (1 + this)",
    "signs": "What was compared: signed values, their positive part, or their size",
    "srg": "From g3dvit evaluate: score kept removing the lowest first, less the highest first",
    "relative_srg": "From g3dvit evaluate: SRG from random order (0) to removal oracle (1)",
    "warnings": "What a reader must see",
}
_NOTE = (
    "Agreement with outside evidence and faithfulness to the model are two things. A map that "
    "agrees with a GLM need not be what the model uses, and a faithful map may show that the model "
    "uses something else (Thomas, Ré and Poldrack 2023). p is about this pair of maps, not about "
    "people."
)


def agreement_table(
    comparisons: Sequence[Comparison], evaluation: str | Path | None = None
) -> pd.DataFrame:
    """Return one row per comparison; with what `g3dvit evaluate` found of the same method.

    Parameters
    ----------
    comparisons
        What was compared.
    evaluation
        Folder of ``g3dvit evaluate -o``.

    Raises
    ------
    OutputError
        If the folder holds no evaluation.
    """
    faithful = _faithfulness(evaluation)
    rows = []
    for one in comparisons:
        found = one.found
        row: dict[str, object] = {
            "map": one.name,
            "reference": one.reference_name,
            "spearman": found.spearman,
            "p_spearman": found.p_spearman,
            "pearson": found.pearson,
            "p_pearson": found.p_pearson,
        }
        for overlap in found.overlaps:
            name = f"dice_{100 * overlap.share:g}"
            row |= {name: overlap.dice, f"{name}_expected": overlap.expected}
            row[f"{name}_p"] = overlap.p
        row |= {
            "mirrored": one.mirrored,
            "n_places": found.n_places,
            "n_surrogates": found.n_surrogates,
            "signs": one.options.signs,
        }
        if evaluation is not None:
            method = str(one.relevance.metadata.get("method", ""))
            row |= faithful.get(method, {"srg": np.nan, "relative_srg": np.nan})
        row["warnings"] = "; ".join(one.warnings) or "n/a"
        rows.append(row)
    return pd.DataFrame(rows)


def tables_of(
    comparisons: Sequence[Comparison],
    *,
    atlas: Parcellation | None = None,
    evaluation: str | Path | None = None,
) -> list[ResultTable]:
    """Return the table of numbers and that of places where the two differ."""
    numbers = agreement_table(comparisons, evaluation)
    places = []
    for one in comparisons:
        frame = disagreements(one, atlas=atlas)
        frame.insert(0, "of", one.name)
        places.append(frame)
    columns = {str(c): COLUMNS.get(str(c), _dice_words(str(c))) for c in numbers.columns}
    title = "Agreement with outside evidence"
    return [
        ResultTable("compare", title, "comparison", numbers, _NOTE, columns),
        ResultTable(
            "compare-places",
            "Where map and reference differ",
            "comparison",
            pd.concat(places, ignore_index=True),
            "Patches among the highest 10 % of one of the two, and not of the other.",
            {"of": "Map of the model", **PLACE_COLUMNS},
        ),
    ]


def write_comparison(
    comparisons: Sequence[Comparison],
    folder: str | Path,
    background: Background,
    *,
    atlas: Parcellation | None = None,
    evaluation: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write tables and figures to a folder of their own."""
    with output_folder(folder, overwrite=overwrite) as part:
        for table in tables_of(comparisons, atlas=atlas, evaluation=evaluation):
            save_table(table, part, TABLES)
        for number, one in enumerate(comparisons, 1):
            _draw(one, background, part, number)
    return Path(folder)


def add_to_run(
    comparisons: Sequence[Comparison],
    folder: str | Path,
    background: Background,
    *,
    atlas: Parcellation | None = None,
    evaluation: str | Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write tables and figures into the folder of a run; `g3dvit report` shows the tables.

    Raises
    ------
    OutputError
        If a comparison is there and `overwrite` is False.
    """
    folder = Path(folder)
    tables = tables_of(comparisons, atlas=atlas, evaluation=evaluation)
    there = [folder / TABLES / f"{t.name}.tsv" for t in tables if t.name == "compare"]
    if any(path.exists() for path in there) and not overwrite:
        raise OutputError(f"{there[0]} exists; replace the comparison with --overwrite")
    written = [save_table(table, folder, TABLES) for table in tables]
    beside = [path.with_suffix(".json") for path in written]
    for number, one in enumerate(comparisons, 1):
        written += _draw(one, background, folder, number)
    note_files(folder, [*written, *beside])
    return written


def _draw(one: Comparison, background: Background, folder: Path, number: int) -> list[Path]:
    figure = comparison_with_reference(one, background)
    paths = [folder / FIGURES / f"compare-{number}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        kind = path.suffix[1:]
        write_whole(path, lambda part, kind=kind: figure.savefig(part, format=kind, dpi=150))  # type: ignore[misc]
    return paths


def _faithfulness(evaluation: str | Path | None) -> dict[str, dict[str, float]]:
    """Return SRG of each method that an evaluation measured."""
    if evaluation is None:
        return {}
    folder = Path(evaluation)
    try:
        json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["generator"]
        table = pd.read_csv(folder / "evaluation.tsv", sep="\t", na_values=["n/a"])
        names = table["map"] if "map" in table else table[table.columns[0]]
        return {
            str(name): {"srg": float(row["srg"]), "relative_srg": float(row["relative_srg"])}
            for name, (_, row) in zip(names, table.iterrows(), strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{folder} is not what `g3dvit evaluate -o` wrote; name that folder"
        ) from error


def _dice_words(name: str) -> str:
    share = name.split("_")[1] if name.startswith("dice_") else ""
    if name.endswith("_expected"):
        return f"Mean Dice of random maps as smooth, highest {share} %"
    if name.endswith("_p"):
        return f"One-sided p of that Dice against random maps as smooth, highest {share} %"
    return f"Dice of the highest {share} % of both, 0 to 1"
