"""Labels of whole runs, such as age group or diagnosis, from a table.

Rows are found by ``participant_id`` (with or without ``sub-``) or by a column ``file`` with file
names or the ends of paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from g3dvit.errors import SelectionError
from g3dvit.volumes import Series

_KEYS = ("file", "filename", "participant_id")


def subject_of(path: Path) -> str | None:
    """Return the BIDS subject of a file, ``sub-01``, from its name or the folders above it."""
    for part in reversed(path.parts):
        found = re.match(r"sub-[A-Za-z0-9+]+", part)
        if found:
            return found.group(0)
    return None


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of runs or subjects.

    Parameters
    ----------
    table
        Where they come from.
    key
        The column by which rows are found.
    column
        The column that holds the labels.
    by_key
        Key to label; None where the table says n/a.
    """

    table: Path
    key: str
    column: str
    by_key: Mapping[str, str | None] = field(repr=False)

    def label_for(self, run: Series | str | Path) -> str:
        """Return the label of a run.

        Raises
        ------
        SelectionError
            If the table has no row, or no value, for it.
        """
        path = run.path if isinstance(run, Series) else Path(run)
        keys = self._keys_of(path)
        for key in keys:
            if key in self.by_key:
                label = self.by_key[key]
                if label is None:
                    raise SelectionError(
                        f"{self.table} has no value of {self.column!r} for {key}; leave {path} out"
                    )
                return label
        if not keys:
            raise SelectionError(
                f"{path} names no subject (sub-...); label it by a column 'file' in {self.table}"
            )
        raise SelectionError(
            f"{self.table} has no row for {path}: no {self.key} is {' or '.join(keys[:2])}"
        )

    def _keys_of(self, path: Path) -> list[str]:
        if self.key == "participant_id":
            subject = subject_of(path)
            return [] if subject is None else [subject]
        parts = PurePosixPath(path.as_posix()).parts
        return ["/".join(parts[first:]) for first in range(len(parts) - 1, -1, -1)] + [str(path)]


def read_labels(table: str | Path, column: str | None = None) -> Labels:
    """Read labels of whole runs.

    Parameters
    ----------
    table
        Tab-separated (or ``.csv``), with a column ``participant_id``, ``file`` or ``filename``.
    column
        The column that holds the labels; may be left out where it is called ``label`` or is the
        only other one.

    Raises
    ------
    SelectionError
        If the table, its key or its label column is missing, or a key has two labels.
    """
    path = Path(table)
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        rows = pd.read_csv(path, sep=separator, dtype=str, na_values=["n/a"], keep_default_na=False)
    except (OSError, ValueError) as error:
        raise SelectionError(f"the table of labels {path} cannot be read: {error}") from error
    columns = [str(c) for c in rows.columns]
    key = next((k for k in _KEYS if k in columns), None)
    if key is None:
        raise SelectionError(
            f"{path} needs a column {' or '.join(_KEYS)}; it has {', '.join(columns)}"
        )
    others = [c for c in columns if c not in _KEYS]
    if column is None:
        column = others[0] if len(others) == 1 else "label"
    if column not in others:
        raise SelectionError(
            f"name the column of {path} that holds the labels (--label-column NAME); it has "
            f"{', '.join(others) or 'none besides ' + key}"
        )
    by_key: dict[str, str | None] = {}
    for name, value in zip(rows[key], rows[column], strict=True):
        if pd.isna(name):
            continue
        subject = name.strip()
        if key == "participant_id" and not subject.startswith("sub-"):
            subject = f"sub-{subject}"
        label = None if pd.isna(value) or not value.strip() else value.strip()
        if by_key.setdefault(subject, label) != label:
            raise SelectionError(f"{path} gives {subject} two labels of {column!r}")
    return Labels(path, key, column, by_key)
