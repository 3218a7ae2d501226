"""The command line as a whole: exit status, streams, errors without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from g3dvit.cli import COMMANDS, main


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "g3dvit", *words], capture_output=True, text=True, check=False
    )


def test_without_a_command_the_help_is_shown() -> None:
    done = run()
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"    {command}" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"g3dvit {command}" in text
    assert "\n\n" in text


def test_an_unknown_command_is_wrong_usage() -> None:
    done = run("explane")
    assert done.returncode == 2
    assert "invalid choice: 'explane'" in done.stderr


def test_an_error_is_one_line_without_a_traceback(tmp_path) -> None:
    missing = tmp_path / "no_such_model.yaml"
    done = run("explain", "bold.nii.gz", "--model", str(missing), "-o", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no_such_model.yaml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path) -> None:
    done = run(
        "--debug",
        "explain",
        "b.nii.gz",
        "--model",
        str(tmp_path / "m.yaml"),
        "-o",
        str(tmp_path / "o"),
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_stopped_while_it_starts_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("g3dvit.cli._parser", stop)
    assert main(["regions"]) == 130
    assert capsys.readouterr().err == "g3dvit: interrupted; nothing was written\n"
