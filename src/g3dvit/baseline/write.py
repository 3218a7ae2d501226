"""The output folder of a baseline: table, maps and the sentence.

Layout::

    README.txt          what is what
    sentence.txt        for a paper
    accuracy.tsv        one row per approach and fold, and for all folds
    accuracy.json       what the columns mean
    predictions.tsv     one row per held-out volume
    baseline.json       all of it; ``g3dvit evaluate --baseline`` reads which maps there are
    maps/               as NIfTI, each with a JSON beside it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from g3dvit import __version__
from g3dvit.baseline.summary import Baseline
from g3dvit.baseline.words import COLUMNS
from g3dvit.plain import to_json

_README = """\
What simpler methods find on the volumes of {model}, by g3dvit {version}.

{sentence}

Notes
{notes}

Files
  accuracy.tsv      held-out accuracy per approach and fold; accuracy.json: what columns mean
  predictions.tsv   every held-out volume
  maps/             linear_pattern  where the signal goes with the linear decoder (Haufe): read this
                    linear_weights  what it multiplies with: do not read this as places
                    glm             z
                    searchlight     held-out balanced accuracy of spheres
                    searchlight_above_chance  the same less chance, for g3dvit evaluate
  baseline.json     everything; for  g3dvit evaluate --baseline
"""


def write_baseline(found: Baseline, folder: str | Path) -> list[Path]:
    """Write everything into a folder that exists, and return the paths.

    Use it inside `g3dvit.folders.output_folder`, so that the folder appears whole or not at all.

    Parameters
    ----------
    found
        What was found.
    folder
        Where to write.
    """
    folder = Path(folder)
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    written = [
        one.save(folder / "maps" / f"{name}.nii.gz") for name, one in sorted(found.maps.items())
    ]
    texts = {
        "README.txt": _README.format(
            model=found.values["model"],
            version=__version__,
            sentence=found.sentence,
            notes="\n".join(f"  - {note}" for note in found.notes),
        ),
        "sentence.txt": found.sentence + "\n",
        "accuracy.tsv": _tsv(found.table),
        "accuracy.json": to_json({n: {"Description": d} for n, d in COLUMNS.items()}) + "\n",
        "predictions.tsv": _tsv(found.predictions),
        "baseline.json": to_json(_everything(found)) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def _everything(found: Baseline) -> dict[str, Any]:
    return {
        **found.values,
        "generator": {"name": "g3dvit", "version": __version__},
        "columns": COLUMNS,
        "accuracy": found.table.to_dict("records"),
        "maps": {name: f"maps/{stem}.nii.gz" for name, stem in found.for_evaluation.items()},
    }


def _tsv(table: pd.DataFrame) -> str:
    """Return a table as BIDS has them: tabs, and n/a where there is no value."""
    return str(table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g"))
