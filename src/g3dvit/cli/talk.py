"""What commands say to a person, on standard error: sentences and progress bars."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(sentence: str) -> None:
    """Print a sentence to standard error, without breaking a progress bar."""
    from tqdm import tqdm

    tqdm.write(sentence, file=sys.stderr)


def seed(text: str) -> int:
    """Return a seed from the command line: a whole number, 0 or above."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on, was given {text!r}")
    return int(text)


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar on standard error; yields a function of (done, in all, what is going on)."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(
        unit=f" {unit}",
        file=sys.stderr,
        leave=False,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 15,  # a log file gets a line now and then
        delay=0.5,  # what fails at once shows no bar
    ) as bar:

        def show(done: int, total: int, doing: str) -> None:
            bar.total = total
            bar.set_description_str(doing, refresh=False)
            bar.update(done - bar.n)
            if terminal:
                bar.refresh()

        yield show
