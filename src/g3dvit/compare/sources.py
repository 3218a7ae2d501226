"""What is compared: one map from a file, or every class mean of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from g3dvit.compare.job import CompareOptions, Comparison, compare_reference
from g3dvit.compare.places import Mask, open_reference
from g3dvit.errors import ImageError, InputError
from g3dvit.maps import RelevanceMap
from g3dvit.report.words import has_template_space, stamp_of
from g3dvit.saved_runs import load_run
from g3dvit.shown import Background, mni_template
from g3dvit.sidecars import stem

Progress = Callable[[int, int, str], None]


def compare_one(
    path: str | Path,
    references: Sequence[str | Path],
    *,
    mask: Mask | None = None,
    options: CompareOptions | None = None,
) -> list[Comparison]:
    """Compare a map from a file with each reference.

    Raises
    ------
    ImageError
        If a file cannot be read, or the sidecar of the map is not g3dvit's.
    """
    opened = [open_reference(reference) for reference in references]
    try:
        relevance = RelevanceMap.load(path)
    except ImageError:
        raise  # of the image, or of what is no JSON: it says so itself
    except (ValueError, TypeError, AttributeError) as error:
        raise ImageError(
            f"the JSON beside {path} is not what g3dvit writes ({error}); move it away, and the "
            "map is read without it"
        ) from error
    name = stem(Path(path))
    return [
        compare_reference(relevance, one, name=name, mask=mask, options=options) for one in opened
    ]


def compare_folder(
    folder: str | Path,
    references: Sequence[str | Path],
    *,
    methods: Sequence[str] = (),
    mask: Mask | None = None,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Compare every class mean of a run with each reference; of frozen gates the content.

    Parameters
    ----------
    folder
        What ``g3dvit explain -o`` wrote.
    references
        Files.
    methods
        Names; all of the run unless given.
    mask, options
        As in `g3dvit.compare.compare_maps`.
    progress
        Called with what is done, of how much, and what is going on.

    Raises
    ------
    InputError
        If the run has no maps of a method, or no class means.
    """
    # Before any work: a file that is none is told at once.
    opened = [open_reference(reference) for reference in references]
    result = load_run(folder)
    known = [maps.method for maps in result.maps]
    for name in methods:
        if name not in known:
            raise InputError(
                f"the run has no maps of {name!r}; it has {', '.join(dict.fromkeys(known))}"
            )
    means = [
        (maps, mean)
        for maps in (maps.content for maps in result.maps)
        for mean in maps.class_means
        if mean.key.which != "error" and (not methods or maps.method in methods)
    ]
    if not means:
        raise InputError(f"{folder} holds no class mean to compare")
    work = [(maps, mean, reference) for maps, mean in means for reference in opened]
    found = []
    for number, (maps, mean, reference) in enumerate(work):
        name = f"{maps.label}, {mean.key.group}"
        if progress is not None:
            progress(number, len(work), name)
        # The space of a run stands beside its means, not in each.
        stamp = stamp_of([*mean.checks, *result.checks])
        told = {**mean.patch.metadata, "stamp": stamp}
        one = replace(mean.patch, metadata={"space": result.space, **told})
        found.append(compare_reference(one, reference, name=name, mask=mask, options=options))
    return found


def background_of(source: str | Path, comparison: Comparison) -> Background:
    """Return a picture to draw maps on: the run's, a template, or the reference itself."""
    if Path(source).is_dir():
        return load_run(source).background
    space = str(comparison.relevance.metadata.get("space") or "")
    if has_template_space(space):
        return mni_template()
    values = np.nan_to_num(comparison.reference).astype(np.float32)
    return Background(np.abs(values), comparison.relevance.grid, "the reference itself")
