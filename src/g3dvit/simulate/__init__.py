"""Semi-synthetic BOLD with a planted answer, for the demo, for tests and for benchmarks.

`load_anatomy` gives a brain with motor clusters and a visual area, `write_run` a run of
left-hand and right-hand blocks in it, `write_truth` the masks of what was planted.
"""

from __future__ import annotations

from g3dvit.simulate.anatomy import CONDITIONS, HANDS, Anatomy, demo_grid, load_anatomy
from g3dvit.simulate.noise import NoiseModel, bold_noise
from g3dvit.simulate.runs import (
    SEMI_SYNTHETIC,
    SPACE,
    Event,
    RunDesign,
    RunFiles,
    draw_events,
    responses,
    simulate_run,
    subject_name,
    subject_weights,
    write_run,
    write_truth,
)

__all__ = [
    "CONDITIONS",
    "HANDS",
    "SEMI_SYNTHETIC",
    "SPACE",
    "Anatomy",
    "Event",
    "NoiseModel",
    "RunDesign",
    "RunFiles",
    "bold_noise",
    "demo_grid",
    "draw_events",
    "load_anatomy",
    "responses",
    "simulate_run",
    "subject_name",
    "subject_weights",
    "write_run",
    "write_truth",
]
