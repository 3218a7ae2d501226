"""Run many parts of the benchmark at once, one process each.

Models of the benchmark are small: two processes with one thread each are quicker than one process
with two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from joblib import Parallel, delayed, parallel_config

from g3dvit.benchmark.cases import Case
from g3dvit.benchmark.run import Part, RunSettings, Talk, run_case
from g3dvit.errors import InputError


def run_cases(
    work: Sequence[tuple[Case, int]],
    settings: RunSettings,
    *,
    folder: Path,
    cache: Path | None = None,
    talk: Talk | None = None,
    jobs: int | None = None,
) -> list[Part]:
    """Run cases with training seeds, in the order in which they are given.

    Parameters
    ----------
    work
        Pairs of case and training seed.
    settings
        How models are measured.
    folder, cache, talk
        As for `run_case`; with several jobs `talk` is called in other processes.
    jobs
        Processes at once; as many as there are processors unless given.

    Returns
    -------
    list of Part
        In the order of `work`.

    Raises
    ------
    InputError
        If `jobs` is below 1.
    """
    processors = os.cpu_count() or 1
    wanted = min(processors, len(work)) if jobs is None else jobs
    if wanted < 1 and work:
        raise InputError(f"`jobs` is at least 1, was given {jobs}")
    if wanted <= 1:
        return [run_case(c, s, settings, folder=folder, cache=cache, talk=talk) for c, s in work]
    # Its processes end with this one, also when they are interrupted or one of them is killed.
    threads = max(1, processors // wanted)
    with parallel_config("loky", n_jobs=wanted, inner_max_num_threads=threads):
        found: list[Part] = Parallel()(
            delayed(run_case)(case, seed, settings, folder=folder, cache=cache, talk=talk)
            for case, seed in work
        )
    return found
