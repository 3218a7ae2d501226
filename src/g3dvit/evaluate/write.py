"""The output folder of an evaluation: tables, numbers, figures and the sentence.

Layout::

    README.txt               what is what
    sentence.txt             for a paper
    evaluation.tsv           one row per map
    regions.tsv              accuracy without and with the top region alone
    specifications.tsv       the same map under other choices
    evaluation.json          all of it, the meaning of every column, settings and curves
    figures/                 as PNG and SVG
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from g3dvit import __version__
from g3dvit.evaluate.figures import choices_figure, evaluation_figure
from g3dvit.evaluate.summary import Evaluation
from g3dvit.evaluate.words import columns_of
from g3dvit.plain import to_json

_README = """\
How far the maps of {model} can be believed, measured by g3dvit {version}.

{sentence}

Notes
{notes}

Files
  evaluation.tsv        one row per map: methods, baselines that know no model, the removal oracle
  regions.tsv           accuracy without the top region, and with it alone
  specifications.tsv    how much layer, target, score and method matter
  evaluation.json       everything, with the meaning of each column
  figures/              the same as pictures
"""


def write_evaluation(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Write everything into a folder that exists, and return the paths.

    Use it inside `g3dvit.folders.output_folder`, so that the folder appears whole or not at all.

    Parameters
    ----------
    evaluation
        What was found.
    folder
        Where to write.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    notes = "\n".join(f"  - {note}" for note in evaluation.notes)
    texts = {
        "README.txt": _README.format(
            model=evaluation.values["model"],
            version=__version__,
            sentence=evaluation.sentence,
            notes=notes,
        ),
        "sentence.txt": evaluation.sentence + "\n",
        "evaluation.tsv": _tsv(evaluation.table),
        "regions.tsv": _tsv(evaluation.regions),
        "specifications.tsv": _tsv(evaluation.choices),
        "evaluation.json": to_json(_everything(evaluation)) + "\n",
    }
    written = []
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    figures = {"evaluation": evaluation_figure(evaluation)}
    if len(evaluation.choices):
        figures["specifications"] = choices_figure(evaluation)
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            path = folder / "figures" / f"{name}.{kind}"
            figure.savefig(path, dpi=130)
            written.append(path)
    return written


def _everything(evaluation: Evaluation) -> dict[str, Any]:
    return {
        **evaluation.values,
        "generator": {"name": "g3dvit", "version": __version__},
        "columns": columns_of(evaluation.table, evaluation.values["given"]),
        "maps": evaluation.table.to_dict("records"),
        "regions": evaluation.regions.to_dict("records"),
        "specifications": evaluation.choices.to_dict("records"),
    }


def _tsv(table: pd.DataFrame) -> str:
    """Return a table as BIDS has them: tabs, and n/a where there is no value."""
    return str(table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g"))
