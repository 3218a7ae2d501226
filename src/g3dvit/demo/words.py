"""What the demonstration says at its end, as lines of text."""

from __future__ import annotations

from pathlib import Path

from g3dvit.demo.development import DevelopmentReport
from g3dvit.demo.found import table_of
from g3dvit.demo.hands import HandsReport
from g3dvit.run_result import worst

RULE = "-" * 78


def hands_words(report: HandsReport) -> list[str]:
    """Return what the demonstration on semi-synthetic runs found."""
    explained = report.folder / "explained"
    n = len(report.result.predictions)
    short = report.short
    lines = [
        RULE,
        "Semi-synthetic: real MNI anatomy and real motor clusters, simulated responses and noise.",
        "Left-hand blocks activate the RIGHT motor cortex, right-hand blocks the LEFT; both",
        "activate visual cortex equally, which says nothing about the hand.",
        "",
        f"Held-out balanced accuracy, {n} volumes of fresh subjects:",
        f"  3D ViT {report.accuracy:.2f}    linear decoder {report.linear_accuracy:.2f}",
    ]
    if report.retrained is not None:
        lines.append(f"  trained again: {report.retrained.sentence()}")
    lines += [
        f"Short training here, {short.folds[0].n_train} volumes, too few to learn much:",
        f"  3D ViT {short.balanced_accuracy:.2f}    linear decoder "
        f"{short.linear_balanced_accuracy:.2f}    (held-out subject)",
        "",
        "What each map says about where the hand's activation is. It was planted, so the answer",
        "is known: AUC 1 is perfect and 0.5 chance; peak off is the distance from the map's peak",
        "to the cluster; mass/volume is 1 by chance; hemisphere is the one with more evidence.",
        "",
        table_of(report.found),
        "",
        "A silent motor cortex is evidence for the other hand. A shift-averaged map, which keeps",
        "what the position of a patch adds, may be strongest there: that is what this model uses.",
        "",
    ]
    for maps in report.result.maps:
        for check in maps.summary:
            if check.verdict != "pass":
                lines.append(f"{check.verdict.upper()}  {maps.label}: {check.sentence}")
    lines += [
        "",
        *_paths(explained),
        f"truth    {report.folder / 'truth'}",
        f"data     {report.folder / 'data'}",
    ]
    return lines


def development_words(report: DevelopmentReport) -> list[str]:
    """Return what the demonstration on real data found."""
    explained = report.folder / "explained"
    fold = report.training.folds[0]
    people = f"{report.n_people['child']} children, {report.n_people['adult']} adults"
    lines = [
        RULE,
        f"Real data, OpenNeuro ds000228 through nilearn: {people}.",
        f"Held-out balanced accuracy, {fold.n_test} volumes of {len(fold.held_out)} people:",
        f"  3D ViT {report.training.balanced_accuracy:.2f}    "
        f"linear decoder {report.training.linear_balanced_accuracy:.2f}",
        "There is no known answer here. Head size and coverage differ between the groups too.",
        "",
    ]
    lines += [f"{check.verdict.upper()}  {check.sentence}" for check in report.result.checks]
    for maps in report.result.maps:
        verdict = worst(maps.summary).upper()
        lines.append(f"{verdict}  {maps.label}")
        lines += [f"      {c.sentence}" for c in maps.summary if c.verdict != "pass"]
    return [*lines, "", *_paths(explained), f"model    {report.folder / 'model' / 'model.yaml'}"]


def _paths(explained: Path) -> list[str]:
    return [
        f"page     {explained / 'report.html'}",
        *[f"figure   {path}" for path in sorted((explained / "figures").glob("*.png"))],
        f"maps     {explained / 'class_means'}",
        f"         {explained / 'maps'}",
        f"read me  {explained / 'README.txt'}",
    ]
