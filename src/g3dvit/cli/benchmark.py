"""Measure every map on phantoms with known answers.

Trains small models once (they are kept), makes every map of held-out volumes, compares it with
what was planted, and writes tables, figures and a document. Can be stopped at any time: the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from g3dvit.benchmark import Case
    from g3dvit.phantoms import ResidualNoise

NAME = "benchmark"
HELP = "measure every map on phantoms with known answers"
EPILOG = """\
examples:
  g3dvit benchmark --quick -o benchmark              small models, under 3 minutes
  g3dvit benchmark -o benchmark                      the base cases, hours
  g3dvit benchmark --phantoms realnoise-cls --seeds 2 -o benchmark
"""

_SEEDS = {"base": 5, "factor": 2, "quick": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``g3dvit benchmark``."""
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--phantoms",
        nargs="+",
        metavar="CASE",
        help="base (default), factor, all, or cases by name such as realnoise-cls",
    )
    parser.add_argument("--methods", nargs="+", metavar="ROW", help="rows of the table")
    parser.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="training seeds of each case (default 5, of factor cases 2, with --quick 1)",
    )
    parser.add_argument(
        "--volumes", type=_positive, metavar="N", help="held-out volumes per seed (default 100)"
    )
    parser.add_argument(
        "--shifts", type=_positive, default=8, metavar="N", help="shifts of the input (default 8)"
    )
    parser.add_argument(
        "--family",
        choices=["development", "sealed"],
        default="development",
        help="methods are chosen on development phantoms; sealed ones are run once they are",
    )
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="models at once (default: one per processor)"
    )
    parser.add_argument(
        "--residuals",
        nargs=3,
        metavar=("BOLD", "EVENTS", "T_R"),
        help="a real run in MNI space, its events and repetition time in s: what a GLM leaves of "
        "it is the noise of one more case, realnoise-residuals",
    )
    parser.add_argument(
        "--finished", action="store_true", help="write the document from what is there; run nothing"
    )
    parser.add_argument(
        "--notes", metavar="MD", help="text that goes below the tables of the document"
    )
    parser.add_argument("--quick", action="store_true", help="small models of easy phantoms")
    parser.add_argument(
        "--cache", metavar="DIR", help="trained models (default G3DVIT_CACHE or ~/.cache/g3dvit)"
    )
    parser.add_argument(
        "--document", metavar="MD", help="where the document goes (default DIR/benchmark.md)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and print the paths of what was written."""
    from g3dvit.benchmark import (
        MapSettings,
        ModelSettings,
        RunSettings,
        find_cases,
        run_cases,
        summarise,
    )
    from g3dvit.benchmark.maps import EARLIER_ROW, RECOMMENDED_ROW, ROWS, WITH_GAMMA_ROW
    from g3dvit.benchmark.report import write_report
    from g3dvit.benchmark.run import finished_part
    from g3dvit.benchmark.targets import reached
    from g3dvit.errors import InputError

    quick = arguments.quick
    default = "quick" if quick else "base"
    residuals = _residuals(arguments.residuals)
    cases = find_cases(arguments.phantoms or [default], arguments.family, residuals)
    settings = RunSettings(
        maps=MapSettings(
            rows=tuple(arguments.methods or ROWS),
            model=ModelSettings(shifts=arguments.shifts),
            n_slow=10 if quick else 25,
        ),
        n_test=arguments.volumes or (40 if quick else 100),
    )
    folder = Path(arguments.output)
    cache = Path(arguments.cache) if arguments.cache else None
    seeds = {case.name: arguments.seeds or _SEEDS[case.group] for case in cases}
    # Every case once before any a second time.
    work = [(c, n) for n in range(max(seeds.values())) for c in cases if n < seeds[c.name]]
    left = []
    if arguments.finished:
        known = [(pair, finished_part(*pair, settings, folder)) for pair in work]
        left = [pair for pair, part in known if part is None]
        parts = [part for _, part in known if part is not None]
        cases = tuple(c for c in cases if any((c, n) not in left for k, n in work if k is c))
        if not parts:
            raise InputError(f"nothing is finished in {folder}; leave out --finished to run it")
    else:
        jobs = 1 if quick else arguments.jobs
        parts = run_cases(work, settings, folder=folder, cache=cache, talk=_say, jobs=jobs)
    same = [part for part in parts if RECOMMENDED_ROW in part.values]
    of_others = [reached(same, cases, row) for row in (WITH_GAMMA_ROW, EARLIER_ROW)]
    document = Path(arguments.document) if arguments.document else folder / "benchmark.md"
    written = write_report(
        summarise(parts),
        cases,
        settings,
        folder=folder,
        document=document,
        command=_command(arguments),
        cache=cache,
        targets=reached(parts, cases),
        beside={"with gamma .1": of_others[0], "map before": of_others[1]},
        notes=_notes(arguments.notes, left),
    )
    for path in written:
        print(path)
    return 0


def _residuals(given: Sequence[str] | None) -> ResidualNoise | None:
    """Return where a real run is, or None."""
    from g3dvit.errors import InputError
    from g3dvit.phantoms import ResidualNoise

    if given is None:
        return None
    image, events, t_r = given
    for path in (image, events):
        if not Path(path).is_file():
            raise InputError(f"--residuals: there is no file {path}")
    try:
        seconds = float(t_r)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < 60:
        raise InputError(f"--residuals takes a repetition time in seconds, was given {t_r!r}")
    return ResidualNoise(str(Path(image).resolve()), str(Path(events).resolve()), seconds)


def _notes(path: str | None, left: Sequence[tuple[Case, int]]) -> str:
    """Return what stands below the tables: what has not been run, and a text of one's own."""
    missing: dict[str, list[str]] = {}
    for case, seed in left:
        missing.setdefault(case.name, []).append(str(seed))
    told = "; ".join(f"{name} (seeds {', '.join(seeds)})" for name, seeds in missing.items())
    parts = [f"## Not run yet\n\n{told}."] if told else []
    if path is not None:
        parts.append(Path(path).read_text(encoding="utf-8").strip())
    return "\n\n".join(parts)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _command(arguments: argparse.Namespace) -> str:
    """Return the command without what differs from machine to machine."""
    parts = ["g3dvit benchmark"]
    for name in ("phantoms", "methods"):
        if getattr(arguments, name):
            parts.append(f"--{name} {' '.join(getattr(arguments, name))}")
    for name, value in (
        ("seeds", None),
        ("volumes", 100),
        ("shifts", 8),
        ("family", "development"),
    ):
        given = getattr(arguments, name)
        if given not in (None, value):
            parts.append(f"--{name} {given}")
    parts += ["--residuals BOLD EVENTS T_R"] if arguments.residuals else []
    parts += ["--finished"] if arguments.finished else []
    parts += ["--quick"] if arguments.quick else []
    return " ".join([*parts, "-o benchmark"])


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"takes a positive number, was given {text}")
    return value
