"""The demonstration's folder: a new one each time, removed if the demonstration fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from g3dvit.errors import OutputError

DEFAULT_NAME = "g3dvit-demo"


@contextmanager
def demo_folder(path: str | Path | None = None) -> Iterator[Path]:
    """Make a folder, and remove it with all that is in it where an exception leaves the block.

    Parameters
    ----------
    path
        The folder, which must not exist or be empty. None: ``g3dvit-demo`` in the current
        folder, or the first of ``g3dvit-demo-2``, ``-3`` ... that is free.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    OutputError
        If it is there and not empty, or cannot be made.
    """
    folder = _free() if path is None else Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} is there already and nothing is overwritten; name another folder with "
            f"-o, or delete it first"
        )
    was_there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror or error}") from error
    try:
        yield folder
    except BaseException:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not was_there:
            folder.rmdir()
        raise


def _free() -> Path:
    number = 1
    while True:
        folder = Path(DEFAULT_NAME if number == 1 else f"{DEFAULT_NAME}-{number}")
        if not folder.exists():
            return folder
        number += 1
