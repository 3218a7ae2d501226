"""What goes into a run: which images, which of their volumes, and what those are called.

A value, `RunSource`, that the command line and Python callers fill in, and `open_runs`, which
turns it into opened runs with selected volumes. Nothing is prepared or explained here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from g3dvit.errors import SelectionError
from g3dvit.headers import Orientation
from g3dvit.selection import Selection, parse_classes, read_labels, select_volumes
from g3dvit.volumes import Series, open_series


@dataclass(frozen=True, slots=True)
class RunSource:
    """Images, and how they are read.

    Parameters
    ----------
    images
        One file per run.
    volumes
        Which time points of every run: a slice, ``"0:100:2"``, ``"3,5"`` or indices; None for all.
    events
        BIDS events files, one per run; empty for none.
    classes
        Class name to event types; every event type is a class of its own without.
    delay_s
        Haemodynamic delay between an event and the volumes that show it, in s.
    labels
        Table with one label per participant or file.
    label_column
        Its column that holds the labels, where it has several.
    mask, confounds
        Brain mask, and confounds files (one per run), for preparations that use them.
    reference, assume_orientation, space, t_r
        As in `g3dvit.volumes.open_series`.
    """

    images: tuple[Path, ...]
    volumes: str | slice | tuple[int, ...] | None = None
    events: tuple[Path, ...] = ()
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    delay_s: float = 5.0
    labels: Path | None = None
    label_column: str | None = None
    mask: Path | None = None
    confounds: tuple[Path, ...] = ()
    reference: Path | None = None
    assume_orientation: Orientation | None = None
    space: str | None = None
    t_r: float | None = None

    @classmethod
    def from_words(
        cls,
        images: Sequence[str],
        *,
        volumes: str | None = None,
        events: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        delay: float = 5.0,
        labels: str | None = None,
        label_column: str | None = None,
        mask: str | None = None,
        confounds: Sequence[str] | None = None,
        reference: str | None = None,
        assume_orientation: Orientation | None = None,
        space: str | None = None,
        t_r: float | None = None,
    ) -> RunSource:
        """Return the value for arguments as they stand on a command line."""
        return cls(
            images=tuple(Path(image) for image in images),
            volumes=volumes,
            events=tuple(Path(path) for path in events or ()),
            classes=parse_classes(classes) if classes else {},
            delay_s=delay,
            labels=_path(labels),
            label_column=label_column,
            mask=_path(mask),
            confounds=tuple(Path(path) for path in confounds or ()),
            reference=_path(reference),
            assume_orientation=assume_orientation,
            space=space,
            t_r=t_r,
        )


@dataclass(frozen=True, slots=True, eq=False)
class OpenRun:
    """One run with its chosen volumes.

    Parameters
    ----------
    series
        The opened image.
    selection
        Which volumes, and their labels.
    name
        What its output files begin with; unique among the runs of one call.
    mask, confounds
        Files that the preparation may use.
    """

    series: Series
    selection: Selection
    name: str
    mask: Path | None
    confounds: Path | None


def open_runs(source: RunSource, *, n_dropped: int = 0) -> tuple[OpenRun, ...]:
    """Open every image and choose its volumes, before anything is computed.

    Parameters
    ----------
    source
        Images and how their volumes are chosen.
    n_dropped
        Volumes at the start of each run that the preparation leaves out.

    Raises
    ------
    SelectionError
        If the number of events or confounds files is not the number of images, an image is given
        twice, or nothing is selected.
    ImageError
        If an image cannot be read.
    """
    if not source.images:
        raise SelectionError("no image was given; name at least one")
    doubled = [path for path in source.images if source.images.count(path) > 1]
    if doubled:
        raise SelectionError(f"{doubled[0]} is given twice; give every run once")
    _check_count("events", source.events, source.images)
    _check_count("confounds", source.confounds, source.images)
    if source.label_column and not source.labels:
        raise SelectionError("a label column is one of a table of labels; give --labels too")
    labels = read_labels(source.labels, source.label_column) if source.labels else None
    runs = []
    for index, (path, name) in enumerate(zip(source.images, _names(source.images), strict=True)):
        series = open_series(
            path,
            reference=source.reference,
            assume_orientation=source.assume_orientation,
            t_r=source.t_r,
            space=source.space,
        )
        selection = select_volumes(
            series,
            volumes=source.volumes,
            events=source.events[index] if source.events else None,
            classes=source.classes or None,
            label=labels.label_for(series) if labels else None,
            delay_s=source.delay_s,
            n_dropped=n_dropped,
        )
        confounds = source.confounds[index] if source.confounds else None
        runs.append(OpenRun(series, selection, name, source.mask, confounds))
    return tuple(runs)


def _names(images: Sequence[Path]) -> list[str]:
    """Return a name per run: the file's without suffix and extension, numbered where equal."""
    stems = []
    for path in images:
        stem = path.name
        for ending in (".gz", ".nii", ".img", ".hdr", ".mgz", ".mgh", ".npy", ".npz", ".pt"):
            stem = stem.removesuffix(ending)
        stems.append(stem.removesuffix("_bold"))
    return [
        stem if stems.count(stem) == 1 else f"{stem}_input-{index + 1}"
        for index, stem in enumerate(stems)
    ]


def _check_count(what: str, files: Sequence[Path], images: Sequence[Path]) -> None:
    if files and len(files) != len(images):
        raise SelectionError(
            f"{len(images)} images but {len(files)} {what} files; give one {what} file per image, "
            f"in the same order"
        )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
