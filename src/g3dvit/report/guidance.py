"""What a reader should take from a page: which map, how sure, what to report, what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from g3dvit import __version__
from g3dvit.maps import RelevanceMap
from g3dvit.recommend import recommend
from g3dvit.report.words import millimetres
from g3dvit.run_result import CheckLike, MapSet, RunResult

#: What every page says about every map, whatever the checks said.
HONEST = (
    "A map shows what this model uses to classify these volumes, not where brains differ.",
    "Red is evidence for the class and blue is evidence against it, not higher or lower BOLD.",
    "Complete means that the shares add up to the score. That is arithmetic, not proof that the "
    "model would decide otherwise without a region.",
    "A region may be marked rightly although it carries no information about the class: a model "
    "can use it to subtract noise (a suppressor).",
)

LIMITS = (
    "One model on these runs is not evidence about people: no test across subjects was made here.",
    "Nothing finer than one patch is known. Peaks are patch centres or interpolated between them.",
    "Regions that carry the same information share or hide each other's evidence; a dark region "
    "is not proof of absence.",
    "Motion, arousal, eye movements and pulse can separate classes too, and then a map shows them.",
    "Maps were resampled, not warped: names of places hold as far as the images were normalised.",
    "Voxels and time points are not independent; counts of voxels above a threshold are no "
    "statistics.",
    "Not a medical device.",
)

_MISSING = "not in the files: say it yourself"


def advice(result: RunResult) -> tuple[str, ...]:
    """Return which map to look at and why, in sentences."""
    judged = result.recommendation or recommend(result.maps, result.checks)
    return judged.sentences


def shares_of(maps: MapSet) -> list[dict[str, Any]]:
    """Return what to know beside a map: how much is position, how much attention steers.

    The position share is sum |position| / (sum |content| + sum |position|) over patches, the
    median over volumes. Shares that were measured as checks are repeated here.
    """
    shares: list[dict[str, Any]] = []
    measured = {check.name.replace("_", " "): check for check in maps.summary}
    values = [value for series in maps.volumes for value in _position_shares(series)]
    if "position share" in measured or values:
        found = measured.get("position share")
        middle = found.value if found else round(median(values), 4)
        here = "this map holds it" if maps.display_only else "the brain map leaves it out"
        sentence = (
            f"{middle:.0%} of the relevance of patches (median over volumes) is due to where a "
            f"patch is, whatever it shows; {here}."
        )
        shares.append({"name": "position share", "value": middle, "sentence": sentence})
    steering = measured.get("attention steering")
    if steering is not None:
        name, value = "attention steering", steering.value
        shares.append({"name": name, "value": value, "sentence": steering.sentence})
    return shares


def _position_shares(series: RelevanceMap) -> list[float]:
    if not {"content", "position"} <= set(series.companions):
        return []
    content, position = (
        np.abs(series.companions[name]).sum(axis=(0, 1, 2), dtype=float).reshape(-1)
        for name in ("content", "position")
    )
    total = content + position
    return [float(share) for share in position[total > 0] / total[total > 0]]


def reporting_list(result: RunResult) -> list[dict[str, str]]:
    """Return what a paper should say, item by item, filled in as far as the files tell.

    After the recommendations for reporting of the OHBM (COBIDAS, Nichols et al. 2017,
    doi:10.1038/nn.4500), for explanations of a classifier.
    """
    model, inputs = result.model, result.inputs
    first = result.maps[0] if result.maps else None
    t_rs = sorted({f"{run.t_r:g} s" for run in inputs if run.t_r is not None})
    rules = list(dict.fromkeys(run.selection for run in inputs if run.selection))
    means = _means_by_method(result.maps)
    versions = result.provenance.get("versions", {})
    items = {
        "Participants and ethics": _MISSING,
        "Task and design": _joined(rules) or _MISSING,
        "Acquisition": f"repetition time {', '.join(t_rs)}; the rest {_MISSING}"
        if t_rs
        else _MISSING,
        "Preprocessing before G3D-ViT": f"{_MISSING} (e.g. fMRIPrep's own methods text)",
        "Preparation for the model": " ".join(model.preparation) or _MISSING,
        "Space and grid": f"{result.space or 'space not declared'}; "
        f"{' × '.join(str(n) for n in result.prepared_grid.shape)} voxels of "
        f"{millimetres(result.prepared_grid.voxel_sizes.tolist())}",
        "Volumes": "; ".join(
            f"{run.name}: {len(run.time_points)} of {run.n_time_points}" for run in inputs
        ),
        "Model": f"{model.name}; classes {', '.join(model.class_names)}; weights SHA-256 "
        f"{model.sha256[:16] or 'unknown'}",
        "Training data, and that these volumes were not among them": _count(model.trained_on),
        "Accuracy, with interval and chance": model.accuracy,
        "What is explained": f"{result.score} of “{result.target}”, the same for all class means"
        + " unless said otherwise" * any(m.target for s in result.maps for m in s.class_means),
        "Methods": "; ".join(
            f"{maps.label}{f' at {maps.layer}' if maps.layer else ''}" for maps in result.maps
        ),
        "Averaging": means or _MISSING,
        "Effective resolution": f"{millimetres(first.resolution_mm)}, one patch"
        if first
        else _MISSING,
        "Thresholds, smoothing, colours": "as in the caption of each figure; maps are saved "
        "unthresholded, with the signs that the method gives",
        "Checks": "; ".join(
            f"{name}: {_verdict_words(checks)}"
            for name, checks in [
                *((maps.label, maps.summary) for maps in result.maps),
                ("of the whole run", result.checks),
            ]
            if checks
        )
        or _MISSING,
        "Inference across people": "none was made here",
        "Sharing": "unthresholded NIfTI maps with JSON sidecars, predictions and provenance are in "
        "the output folder (suited for NeuroVault or OSF)",
        "Software": ", ".join(
            [f"G3D-ViT {__version__}"]
            + [f"{name} {v}" for name, v in versions.items() if name != "g3dvit"]
        )
        if isinstance(versions, dict)
        else f"G3D-ViT {__version__}",
    }
    return [{"item": item, "value": value} for item, value in items.items()]


def citations(result: RunResult) -> list[str]:
    """Return what to cite for these maps."""
    papers = [
        str(one.metadata["paper"])
        for maps in result.maps
        for one in [*maps.volumes, *(mean.patch for mean in maps.class_means)][:1]
        if one.metadata.get("paper")
    ]
    own = f"G3D-ViT {__version__} (see CITATION.cff of the project)"
    cobidas = "Reporting: Nichols et al. 2017 (COBIDAS), doi:10.1038/nn.4500"
    viewer = "Viewer: NiiVue, https://github.com/niivue/niivue (BSD-2-Clause)"
    return [own, *dict.fromkeys(papers), cobidas, viewer]


def _means_by_method(every: Sequence[MapSet]) -> str:
    """Return which volumes were averaged; method by method where they differ in it."""
    by_words: dict[str, list[str]] = {}
    for maps in every:
        words = "; ".join(mean.title for mean in maps.class_means)
        if words:
            by_words.setdefault(words, []).append(maps.label)
    if len(by_words) < 2:
        return "".join(by_words)
    return ". ".join(f"{', '.join(labels)}: {words}" for words, labels in by_words.items())


def _verdict_words(checks: Sequence[CheckLike]) -> str:
    bad = [f"{c.name.replace('_', ' ')} {c.verdict}" for c in checks if c.verdict != "pass"]
    return ", ".join(bad) if bad else f"{len(checks)} passed"


def _joined(sentences: Sequence[str]) -> str:
    extra = f"; and {len(sentences) - 2} more rules" if len(sentences) > 2 else ""
    return "; ".join(sentences[:2]) + extra


def _count(names: Sequence[str]) -> str:
    """Return the first names and how many follow: lists of forty runs hide what matters."""
    if not names:
        return _MISSING
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
