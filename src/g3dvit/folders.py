"""Files and output folders that appear whole or not at all.

Everything is written to a hidden folder beside the target, which is renamed at the end. After an
exception, Ctrl-C or a full disk nothing is left, and an older output is as it was. A folder is
only ever replaced when ``provenance.json`` inside says that g3dvit wrote it, and when nothing
was added to it since. (A process that is killed with SIGKILL leaves its hidden ``.NAME.*.part``
folder behind; it can be deleted.)
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from g3dvit import __version__
from g3dvit.errors import OutputError
from g3dvit.plain import to_json

MARKER = "provenance.json"
GENERATOR = "g3dvit"


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that it is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def check_output(path: str | Path, *, overwrite: bool = False, room_mb: int = 0) -> Path:
    """Refuse an output folder that must not be written, before any work is done.

    Parameters
    ----------
    path
        The folder to be written.
    overwrite
        Allow an older output of g3dvit to be replaced.
    room_mb
        Megabytes that its files need at least; the disk must have them free.

    Returns
    -------
    Path
        The folder, absolute, links followed.

    Raises
    ------
    OutputError
        If something is there that may not be replaced, or the disk has no room.
    """
    path = Path(path).expanduser().resolve()
    there = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(
            f"{path} cannot be written, because {there} is "
            f"{'read-only for you' if there.is_dir() else 'a file'}; name another folder"
        )
    free_mb = shutil.disk_usage(there).free / 1e6
    if free_mb < room_mb:
        raise OutputError(
            f"the disk of {there} has {free_mb:.0f} MB free, and about {room_mb} MB are needed at "
            f"least; free some space or name a folder on another disk"
        )
    if not path.exists():
        return path
    if not path.is_dir():
        raise OutputError(f"{path} is a file; name a folder that does not exist yet")
    if path.is_mount():
        raise OutputError(
            f"{path} is where a disk is mounted and cannot be replaced as a whole; name a folder "
            f"inside it, such as {path / 'maps'}"
        )
    if not any(path.iterdir()):
        return path
    written = _written_files(path)
    if written is None:
        raise OutputError(
            f"{path} holds files and was not written by g3dvit (it has no {MARKER} of ours), so "
            f"it is not replaced, with --overwrite neither; name another folder"
        )
    if not overwrite:
        raise OutputError(
            f"{path} already holds an output of g3dvit; replace it with --overwrite "
            f"(overwrite=True), or name another folder"
        )
    foreign = sorted(_files_of(path) - written)
    if foreign:
        raise OutputError(
            f"{path} holds {len(foreign)} file(s) that g3dvit did not write, such as "
            f"{foreign[0]!r}, and would lose them; move them away, or name another folder"
        )
    return path


@contextmanager
def output_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder to write to, and turn it into `path` when all went well.

    Parameters
    ----------
    path
        The folder that shall appear. Parents are made.
    overwrite
        Replace an older output of g3dvit, at the very end.

    Yields
    ------
    Path
        Where to write. A ``provenance.json`` written there is completed with the generator and
        the list of files; without one, a short one is made.

    Raises
    ------
    OutputError
        As in `check_output`; also if the disk is full.
    """
    path = check_output(path, overwrite=overwrite)
    made = _make_parents(path.parent)
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        _remove_empty(made)
        raise OutputError(f"{path.parent} cannot be written: {error}") from error
    try:
        yield part
        _mark(part)
        os.chmod(part, 0o777 & ~_umask())
        _put_in_place(part, path, overwrite=overwrite)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        _remove_empty(made)
        if _disk_is_full(error):
            raise OutputError(
                f"the disk of {path.parent} is full; nothing was left there. Free some space or "
                f"name a folder on another disk"
            ) from error
        raise


@contextmanager
def added_files(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to write to, whose files then go into an output folder, all or none.

    Parameters
    ----------
    folder
        With a ``provenance.json`` of ours, which is told of the files. What has the same name is
        replaced.

    Yields
    ------
    Path
        Where to write, with the folders that the files are to lie in.

    Raises
    ------
    OutputError
        If the disk is full.
    """
    part = Path(tempfile.mkdtemp(prefix=".added.", dir=folder))
    try:
        yield part
        names = sorted(path.relative_to(part) for path in part.rglob("*") if path.is_file())
        # Noted first: were it stopped between two files, those that came may be replaced later.
        note_files(folder, [folder / name for name in names])
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(part / name, folder / name)
    except (OSError, OutputError) as error:
        if not _disk_is_full(error):
            raise
        raise OutputError(
            f"the disk of {folder} is full; nothing was added to it. Free some space and run it "
            "again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def note_files(folder: Path, files: Sequence[Path]) -> None:
    """Tell an output folder of g3dvit that g3dvit added files to it, so that they may be replaced.

    Parameters
    ----------
    folder
        With a ``provenance.json`` of ours.
    files
        Inside it.
    """
    marker = folder / MARKER
    content: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
    added = {path.relative_to(folder).as_posix() for path in files}
    content["files"] = sorted(added.union(content.get("files", ())))
    write_text(marker, to_json(content) + "\n")


def _disk_is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it was raised from, says that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _put_in_place(part: Path, path: Path, *, overwrite: bool) -> None:
    check_output(path, overwrite=overwrite)  # another process may have been quicker
    old = part.with_suffix(".old")
    if not path.exists():
        os.rename(part, path)
        return
    os.rename(path, old)
    try:
        os.rename(part, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _mark(folder: Path) -> None:
    marker = folder / MARKER
    content: dict[str, Any] = {}
    if marker.exists():
        content = json.loads(marker.read_text(encoding="utf-8"))
    content["generator"] = {"name": GENERATOR, "version": __version__}
    content["files"] = sorted(_files_of(folder) | {MARKER})
    marker.write_text(to_json(content) + "\n", encoding="utf-8")


def _written_files(folder: Path) -> set[str] | None:
    """Return what g3dvit wrote there; None where it is not ours."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if content["generator"]["name"] != GENERATOR:
            return None
        return {str(name) for name in content["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files_of(folder: Path) -> set[str]:
    files = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return {p.relative_to(folder).as_posix() for p in files}


def _make_parents(folder: Path) -> list[Path]:
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise OutputError(f"{folder} cannot be made: {error}") from error
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:  # innermost first; whatever holds something stays
        with contextlib.suppress(OSError):
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
