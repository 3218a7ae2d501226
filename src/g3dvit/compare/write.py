"""Comparisons to files: a table of numbers, a table of places, a figure for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from g3dvit.compare import faithful
from g3dvit.compare.clusters import CLUSTER_COLUMNS, clusters_both_ways
from g3dvit.compare.figure import comparison_with_reference
from g3dvit.compare.job import PLACE_COLUMNS, Comparison, disagreements
from g3dvit.errors import OutputError
from g3dvit.folders import added_files, output_folder
from g3dvit.saved_runs import TABLES, save_table
from g3dvit.shown import Background, Parcellation, ResultTable

FIGURES = "figures"
COMPARE_TABLES = ("compare", "compare-places", "compare-clusters")
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
    "where": "How the compared patches were chosen",
    **faithful.COLUMNS,
    "warnings": "What a reader must see",
}
_NOTE = (
    "Agreement with outside evidence and faithfulness to the model are two things. A map that "
    "agrees with a GLM need not be what the model uses, and a faithful map may show that the model "
    "uses something else (Thomas, Ré and Poldrack 2023). p is about this pair of maps, not about "
    "people, and it is not corrected for the number of maps and references."
)
_CONTENT = (
    "Of frozen gates the content is compared, what the volumes contributed; position, the same "
    "whatever they show, is left out. An evaluation measures both together."
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
        If the folder holds no evaluation, or one of another model.
    """
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
            "where": one.rule,
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    if evaluation is not None:
        found_of = faithful.load_faithfulness(evaluation)
        faithful.check_model(comparisons, found_of)
        faithful.with_faithfulness(frame, comparisons, found_of)
    frame["warnings"] = ["; ".join(one.warnings) or "n/a" for one in comparisons]
    return frame


def tables_of(
    comparisons: Sequence[Comparison],
    *,
    atlas: Parcellation | None = None,
    evaluation: str | Path | None = None,
) -> list[ResultTable]:
    """Return the table of numbers, that of places where the two differ, and that of clusters."""
    numbers = agreement_table(comparisons, evaluation)
    places: list[pd.DataFrame] = []
    clusters: list[pd.DataFrame] = []
    for one in comparisons:
        for frame, into in (
            (disagreements(one, atlas=atlas), places),
            (clusters_both_ways(one, atlas=atlas), clusters),
        ):
            frame.insert(0, "of", one.name)
            into.append(frame)
    columns = {str(c): COLUMNS.get(str(c), _dice_words(str(c))) for c in numbers.columns}
    title = "Agreement with outside evidence"
    alone = any(one.relevance.metadata.get("companion") == "content" for one in comparisons)
    note = " ".join([*_words_of_p(comparisons), _NOTE, *([_CONTENT] if alone else [])])
    if evaluation is not None:
        note += f" {faithful.disagreement(numbers, _methods(comparisons))}".rstrip()
        if not faithful.check_model(comparisons, faithful.load_faithfulness(evaluation)):
            note += " Whether the evaluation measured the same model is not recorded."
    return [
        ResultTable("compare", title, "comparison", numbers, note, columns),
        ResultTable(
            "compare-places",
            "Where map and reference differ",
            "comparison",
            pd.concat(places, ignore_index=True),
            "Patches among the highest 10 % of one of the two, and not of the other.",
            {"of": "Map of the model", **PLACE_COLUMNS},
        ),
        ResultTable(
            "compare-clusters",
            "Clusters of map and reference, with what the other has there",
            "comparison",
            pd.concat(clusters, ignore_index=True),
            "Patches among the highest 10 % of one of the two that share faces; which those are is "
            "for display, and no test. Places are centres of patches.",
            {"of": "Map of the model", **CLUSTER_COLUMNS},
        ),
    ]


def summary(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a line for each comparison, and what its p is worth."""
    lines = [
        f"{one.name} and {one.reference_name}: Spearman {one.found.spearman:.2f}"
        + (f", p = {one.found.p_spearman:.3g}" if one.found.n_surrogates else "")
        + f"; {one.found.n_places} patches, {one.rule}; {one.options.signs} values"
        for one in comparisons
    ]
    return [*lines, *(f"{words} p is about this pair." for words in _words_of_p(comparisons))]


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
    check_run_folder(folder, overwrite=overwrite)
    with added_files(folder) as part:
        for table in tables_of(comparisons, atlas=atlas, evaluation=evaluation):
            save_table(table, part, TABLES)
        for number, one in enumerate(comparisons, 1):
            _draw(one, background, part, number)
        made = sorted(path.relative_to(part) for path in part.rglob("*") if path.is_file())
    for old in (folder / FIGURES).glob("compare-[0-9]*.*"):
        if old.relative_to(folder) not in made:
            old.unlink()  # of an older comparison with more maps
    return [folder / name for name in made if name.suffix != ".json"]


def check_run_folder(folder: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a run that holds a comparison already, before any work is done.

    Raises
    ------
    OutputError
        If a comparison is there and `overwrite` is False.
    """
    folder = Path(folder)
    there = [folder / TABLES / f"{name}.tsv" for name in COMPARE_TABLES]
    there += (folder / FIGURES).glob("compare-[0-9]*.*")
    found = next((path for path in there if path.exists()), None)
    if found is not None and not overwrite:
        raise OutputError(f"{found} exists; replace the comparison with --overwrite")


def _draw(one: Comparison, background: Background, folder: Path, number: int) -> None:
    figure = comparison_with_reference(one, background)
    (folder / FIGURES).mkdir(exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(folder / FIGURES / f"compare-{number}.{kind}", dpi=150)


def _methods(comparisons: Sequence[Comparison]) -> list[str]:
    return [faithful.method_of(one) for one in comparisons]


def _words_of_p(comparisons: Sequence[Comparison]) -> list[str]:
    """Return how many surrogates there were, and the smallest p that they can give."""
    counts = sorted({one.found.n_surrogates for one in comparisons if one.found.n_surrogates})
    return [f"{n} random maps: no p is below {1 / (1 + n):.2g}." for n in counts]


def _dice_words(name: str) -> str:
    share = name.split("_")[1] if name.startswith("dice_") else ""
    if name.endswith("_expected"):
        return f"Mean Dice of random maps as smooth, highest {share} %"
    if name.endswith("_p"):
        return f"One-sided p of that Dice against random maps as smooth, highest {share} %"
    return f"Dice of the highest {share} % of both, 0 to 1"
