"""Read the folder that ``g3dvit baseline`` wrote: its maps, its accuracies and its sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g3dvit.errors import InputError

FILE = "baseline.json"


@dataclass(frozen=True, slots=True)
class BaselineFolder:
    """What an evaluation takes from a baseline.

    Parameters
    ----------
    maps
        Name in the table to image.
    model_sha256
        Weights of the model on whose volumes it was made; empty where unknown.
    accuracy
        Rows of its table of accuracies, those of all folds.
    sentence
        Its sentence for a paper.
    """

    maps: Mapping[str, Path]
    model_sha256: str
    accuracy: tuple[Mapping[str, Any], ...] = field(repr=False)
    sentence: str

    def of_another_model(self, weights: str | None) -> bool:
        """Tell whether it was made on the volumes of a model with other weights."""
        return bool(self.model_sha256 and weights) and self.model_sha256 != weights


def read_baseline(folder: str | Path) -> BaselineFolder:
    """Read a folder that ``g3dvit baseline`` wrote.

    Raises
    ------
    InputError
        If it is none, or a map is missing.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        maps = {str(name): folder / str(path) for name, path in content["maps"].items()}
        whole = tuple(row for row in content["accuracy"] if row["fold"] == "all")
        found = BaselineFolder(
            maps, str(content.get("model_sha256") or ""), whole, str(content["sentence"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder} is no folder of g3dvit baseline (its {FILE} cannot be read: {error}); make "
            "one with `g3dvit baseline`, or give single maps with --compare NAME=IMAGE"
        ) from error
    missing = [path for path in maps.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing in the baseline; run `g3dvit baseline` again")
    return found
