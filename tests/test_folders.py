"""Outputs appear whole or not at all, and nobody's files are deleted."""

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from g3dvit.errors import OutputError
from g3dvit.folders import check_output, output_folder


def write(path, text="one", *, overwrite=False):
    with output_folder(path, overwrite=overwrite) as folder:
        (folder / "maps").mkdir()
        (folder / "maps" / "a.txt").write_text(text)


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))


def test_folder_appears_at_the_end_with_its_marker(tmp_path):
    out = tmp_path / "deep" / "out"
    with output_folder(out) as folder:
        (folder / "a.txt").write_text("x")
        assert not out.exists()
        assert folder.parent == out.parent  # same file system, so that a rename suffices
        assert folder.name.startswith(".")
    assert tree(tmp_path) == ["deep", "deep/out", "deep/out/a.txt", "deep/out/provenance.json"]
    marker = json.loads((out / "provenance.json").read_text())
    assert marker["generator"]["name"] == "g3dvit"
    assert marker["files"] == ["a.txt", "provenance.json"]
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((tmp_path / "deep").stat().st_mode)


def test_own_provenance_is_kept_and_completed(tmp_path):
    with output_folder(tmp_path / "out") as folder:
        (folder / "provenance.json").write_text('{"model": "m"}')
    marker = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert marker["model"] == "m"
    assert marker["generator"]["name"] == "g3dvit"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(2)])
def test_after_an_exception_nothing_remains_and_the_old_is_untouched(tmp_path, error):
    with pytest.raises(type(error)), output_folder(tmp_path / "deep" / "new") as folder:
        (folder / "half.txt").write_text("x")
        raise error
    assert tree(tmp_path) == []

    write(tmp_path / "out", "old")
    before = tree(tmp_path)
    with (
        pytest.raises(type(error)),
        output_folder(tmp_path / "out", overwrite=True) as folder,
    ):
        (folder / "half.txt").write_text("x")
        raise error
    assert tree(tmp_path) == before
    assert (tmp_path / "out" / "maps" / "a.txt").read_text() == "old"


def test_full_disk_is_said_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OutputError, match="is full; nothing was left there"),
        output_folder(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert tree(tmp_path) == []


def test_full_disk_is_said_whoever_noticed_it(tmp_path):
    """A map that could not be saved says so with an error of its own."""
    with (
        pytest.raises(OutputError, match="is full; nothing was left there"),
        output_folder(tmp_path / "out"),
    ):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise OutputError("a map could not be written") from error
    assert tree(tmp_path) == []


def test_disk_without_room_is_refused_before_the_work(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert check_output(tmp_path / "out", room_mb=int(free / 2e6)) == tmp_path / "out"
    with pytest.raises(OutputError, match="MB free"):
        check_output(tmp_path / "new" / "out", room_mb=int(free / 1e6) * 2)
    assert tree(tmp_path) == []


def test_failure_in_the_last_rename_brings_the_old_back(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    real, calls = os.rename, []

    def rename(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        real(source, target)

    monkeypatch.setattr("g3dvit.folders.os.rename", rename)
    with pytest.raises(OSError, match="broken"):
        write(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "maps" / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_existing_output_needs_overwrite(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="--overwrite"):
        write(tmp_path / "out", "new")
    assert (tmp_path / "out" / "maps" / "a.txt").read_text() == "old"
    write(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "maps" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("marker", [None, "{}", "no json", '{"generator": {"name": "fmriprep"}}'])
def test_a_foreign_folder_is_never_replaced(tmp_path, marker, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    if marker is not None:
        (tmp_path / "provenance.json").write_text(marker)
    with pytest.raises(OutputError, match="was not written by g3dvit"):
        check_output(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").exists()


def test_files_added_to_our_folder_are_not_lost(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out" / "maps" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"did not write, such as 'maps/notes\.txt'"):
        write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "maps" / "notes.txt").read_text() == "mine"


def test_an_empty_folder_may_be_filled_and_a_file_not(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty" / "maps" / "a.txt").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        write(tmp_path / "file", overwrite=True)


def test_a_link_is_followed_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "maps" / "a.txt").exists()


def test_another_process_that_was_quicker_wins(tmp_path):
    with pytest.raises(OutputError, match="--overwrite"), output_folder(tmp_path / "out"):
        write(tmp_path / "out", "quicker")
    assert (tmp_path / "out" / "maps" / "a.txt").read_text() == "quicker"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_below_a_file_is_refused_before_the_work(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"because .*file is a file; name another folder"):
        check_output(tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_refused_before_the_work(tmp_path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="is read-only for you"):
            check_output(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)
