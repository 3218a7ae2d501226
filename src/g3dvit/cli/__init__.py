"""The command ``g3dvit``: parse, call one public function, print paths.

Each subcommand is a module of this package with `NAME`, `HELP`, `add_arguments` and `run`.
Data go to standard output, talk (progress, warnings, errors) to standard error. Exit status:
0 done, 1 an error that is explained, 2 wrong usage, 130 interrupted. Nothing is computed here.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import TextIO

from g3dvit import __version__
from g3dvit.errors import G3DError

#: Subcommands in the order in which a newcomer needs them; each is a module here.
COMMANDS = (
    "demo",
    "init",
    "inspect",
    "check",
    "explain",
    "report",
    "regions",
    "evaluate",
    "baseline",
    "compare",
    "train",
    "benchmark",
)

#: Warnings that were printed; the same sentence is told once.
_SHOWN: set[str] = set()

EPILOG = """\
first steps:
  g3dvit demo                                      simulated runs, known answer, about 3 minutes
  g3dvit init model.ckpt --factory pkg:Class       describe your own model
  g3dvit inspect model.yaml                        what its tokens and layers are
  g3dvit check bold.nii.gz --model model.yaml      does it see what it was trained on?
  g3dvit explain bold.nii.gz --model model.yaml -o maps
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        parser = _parser()
        arguments = parser.parse_args(argv)
    except KeyboardInterrupt:  # while the commands are being imported
        print("g3dvit: interrupted; nothing was written", file=sys.stderr)
        return 130
    if arguments.command is None:
        parser.print_help()
        return 0
    warnings.showwarning = _show_warning
    _SHOWN.clear()
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _interrupt) if in_main_thread else None
    try:
        return int(arguments.run(arguments))
    except G3DError as error:
        if arguments.debug:
            raise
        print(f"g3dvit {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"g3dvit {arguments.command}: interrupted; nothing was half-written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`g3dvit ... | head`); that is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if arguments.debug:
            raise
        print(f"g3dvit {arguments.command}: {_explain_os_error(error)}", file=sys.stderr)
        return 1
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="g3dvit",
        description="Where in the brain a 3D Vision Transformer looked, and whether to believe it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"g3dvit {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    parser.set_defaults(run=None, command=None)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in COMMANDS:
        module = import_module(f"{__name__}.{name}")
        sub = subparsers.add_parser(
            module.NAME,
            help=module.HELP,
            description=(module.__doc__ or module.HELP).split("\n\n")[0],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=getattr(module, "EPILOG", None),
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as one line; leave those of other libraries as they are."""
    if not category.__module__.startswith("g3dvit"):
        (file or sys.stderr).write(
            warnings.formatwarning(message, category, filename, lineno, line)
        )
    elif str(message) not in _SHOWN:
        _SHOWN.add(str(message))
        (file or sys.stderr).write(f"warning: {message}\n")


def _explain_os_error(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == 28:
        return (
            f"the disk is full{where}; nothing was half-written. Free some space and run it again"
        )
    if error.errno == 13:
        return f"no permission to read or write{where}"
    if error.errno == 2:
        return f"no such file{where}"
    return f"{error.strerror or error}{where}"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
