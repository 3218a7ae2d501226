"""Which volumes of a run are looked at, and what each of them is called.

The onset rule. A volume belongs to an event if its time minus the delay lies in
``[onset, onset + duration)``, where its time is the middle of its acquisition, or the time to
which slice timing correction moved it (`g3dvit.volumes`), and the delay stands for the
haemodynamic response. The rule, with its numbers, is recorded in `Selection.rule`.

``BASELINE`` are the volumes that no event of any type covers after the delay. The delay shifts
events as a whole, so that volumes before ``first onset + delay`` are baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from g3dvit.errors import SelectionError
from g3dvit.labels import Labels, read_labels
from g3dvit.volumes import Series, check_time_points

__all__ = [
    "BASELINE",
    "Labels",
    "Selection",
    "load_events",
    "parse_classes",
    "read_labels",
    "select_volumes",
]

BASELINE = "BASELINE"


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen volumes of one run.

    Parameters
    ----------
    time_points
        Ascending.
    labels
        Class name of each, or None.
    blocks
        Which event each came from: its place in the table by onset, from 0. None for volumes
        that came from no event.
    rule
        How they were chosen, in a sentence.
    """

    time_points: tuple[int, ...]
    labels: tuple[str | None, ...]
    blocks: tuple[int | None, ...]
    rule: str

    def __len__(self) -> int:
        return len(self.time_points)


def select_volumes(
    series: Series,
    *,
    volumes: str | slice | Sequence[int] | None = None,
    events: str | Path | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    label: str | None = None,
    delay_s: float = 5.0,
    n_dropped: int = 0,
) -> Selection:
    """Choose volumes of a run by number, by events, or all of them.

    Parameters
    ----------
    series
        The run.
    volumes
        Numbers: ``"0:100:2"``, ``"3"``, ``"0:10,20:30"``, ``"all"``, a slice or integers. With
        `events`, only these are looked at.
    events
        BIDS table of events: ``onset`` and ``duration`` in s, ``trial_type``.
    classes
        Class name to trial types; ``BASELINE`` stands for volumes outside all events. By
        default every trial type is a class of its own.
    label
        Class of the whole run, instead of events.
    delay_s
        Of the haemodynamic response, in s.
    n_dropped
        Volumes at the start of the run that a preparation leaves out: slices pass over them,
        naming one is an error.

    Raises
    ------
    SelectionError
        If nothing is chosen, a class stays empty, a volume belongs to two classes, the table
        is unusable, or the repetition time is unknown where it is needed.
    """
    if events is None and classes is not None:
        raise SelectionError("classes name trial types of an events table; give --events too")
    if events is not None and label is not None:
        raise SelectionError("a run has labels from events or one label for all of it, not both")
    if not 0 <= n_dropped < series.n_time_points:
        raise SelectionError(
            f"{n_dropped} of the {series.n_time_points} volumes of {series.path} are left out"
        )
    chosen, how = _by_number(series, volumes, n_dropped)
    if events is not None:
        return _by_events(series, chosen, Path(events), classes, float(delay_s), how)
    n = len(chosen)
    called = "" if label is None else f", all called {label!r} as the run is"
    return Selection(chosen, (label,) * n, (None,) * n, f"{how}{called}.")


def _by_number(
    series: Series, volumes: str | slice | Sequence[int] | None, n_dropped: int
) -> tuple[tuple[int, ...], str]:
    n = series.n_time_points
    left_out = f", without the first {n_dropped}" if n_dropped else ""
    name = str(series.path)
    if volumes is None or (isinstance(volumes, str) and volumes.strip().lower() == "all"):
        return tuple(range(n_dropped, n)), f"All volumes{left_out}"
    found: list[int] = []
    parts: Sequence[slice | int]
    if isinstance(volumes, str):
        parts = [_parse_part(part, volumes) for part in volumes.split(",")]
    else:
        parts = [volumes] if isinstance(volumes, slice) else volumes
    for part in parts:
        if isinstance(part, slice):
            found += [t for t in range(n)[part] if t >= n_dropped]
        else:
            t = int(check_time_points([part + n if part < 0 else part], n, name)[0])
            if t < n_dropped:
                raise SelectionError(
                    f"volume {t} of {name} is one of the first {n_dropped}, which the preparation "
                    "leaves out"
                )
            found.append(t)
    if not found:
        raise SelectionError(
            f"the volumes {_text(volumes)} are none of the {n} of {name}{left_out}"
        )
    return check_time_points(found, n, name), f"Volumes {_text(volumes)}{left_out}"


def _text(volumes: str | slice | Sequence[int]) -> str:
    if isinstance(volumes, slice):
        ends = [volumes.start, volumes.stop, volumes.step]
        return ":".join("" if end is None else str(end) for end in ends)
    if isinstance(volumes, str):
        return volumes
    return ", ".join(map(str, volumes)) if len(volumes) <= 10 else f"by a list of {len(volumes)}"


def _parse_part(part: str, whole: str) -> slice | int:
    try:
        numbers = [int(text) if text.strip() else None for text in part.split(":")]
        if len(numbers) == 1 and numbers[0] is not None:
            return numbers[0]
        if 2 <= len(numbers) <= 3 and 0 not in numbers[2:]:
            return slice(*numbers)
    except ValueError:
        pass
    raise SelectionError(
        f"volumes are numbers or start:stop:step, separated by commas, such as 0:100:2 or 3,5,7; "
        f"was given {whole!r}"
    )


def load_events(path: Path) -> pd.DataFrame:
    """Read a BIDS table of events, ordered by onset.

    Raises
    ------
    SelectionError
        If the file or a column is missing, or an onset or duration is no number.
    """
    try:
        table = pd.read_csv(
            path, sep="\t", na_values=["n/a"], keep_default_na=False, dtype={"trial_type": str}
        )
    except (OSError, ValueError) as error:
        raise SelectionError(f"the events table {path} cannot be read: {error}") from error
    missing = [c for c in ("onset", "duration", "trial_type") if c not in table.columns]
    if missing:
        raise SelectionError(
            f"the events table {path} has no column {', '.join(missing)}; it has "
            f"{', '.join(map(str, table.columns))} (a BIDS table is separated by tabs)"
        )
    for column in ("onset", "duration"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=float)))
        if bad.size:
            raise SelectionError(
                f"row {bad[0] + 1} of {path} has no {column}: '{table[column].iloc[bad[0]]}'; "
                "a number of seconds is needed"
            )
        table[column] = numbers.astype(float)
    if (table["duration"] < 0).any():
        raise SelectionError(f"{path} has an event of negative duration")
    table["trial_type"] = table["trial_type"].map(lambda v: "n/a" if pd.isna(v) else str(v))
    return table.sort_values("onset", kind="stable").reset_index(drop=True)


def _by_events(
    series: Series,
    chosen: Sequence[int],
    path: Path,
    classes: Mapping[str, Sequence[str]] | None,
    delay_s: float,
    how: str,
) -> Selection:
    if not np.isfinite(delay_s):
        raise SelectionError(f"the delay is a finite number of seconds, was given {delay_s}")
    if series.t_r is None:
        raise SelectionError(
            f"events need the repetition time, which {series.path} does not state; give it "
            "(--t-r SECONDS, `t_r=` in Python)"
        )
    table = load_events(path)
    types = list(dict.fromkeys(table["trial_type"]))
    class_of = _class_of_type(types, classes, path)
    onsets, ends = table["onset"].to_numpy(), (table["onset"] + table["duration"]).to_numpy()
    kept: list[tuple[int, str, int | None]] = []
    n_other = 0
    used: set[int] = set()
    for t in chosen:
        time = (series.onset_s(t) or 0.0) - delay_s
        # A hundredth of a millisecond: times are sums of decimals that floats only approximate.
        inside = np.flatnonzero((time >= onsets - 1e-5) & (time < ends - 1e-5))
        used.update(inside.tolist())
        if not inside.size:
            if BASELINE in class_of:
                kept.append((t, class_of[BASELINE], None))
            continue
        named = [(class_of[k], int(e)) for e in inside if (k := table["trial_type"][e]) in class_of]
        names = sorted({name for name, _ in named})
        if len(names) > 1:
            raise SelectionError(
                f"volume {t} of {series.path} belongs to events of two classes, "
                f"{names[0]!r} and {names[1]!r}; events of different classes may not overlap"
            )
        if named:
            kept.append((t, *named[0]))
        else:
            n_other += 1
    _check_classes_filled(kept, class_of, path, series)
    if not kept:
        raise SelectionError(f"{path} names no event with a trial type, so no volume is chosen")
    origin = (
        "the sidecar's StartTime" if series.start_time_known else "the middle of the first volume"
    )
    rule = (
        f"{how} whose time minus a delay of {delay_s:g} s lies in [onset, onset + duration) of an "
        f"event in {path.name}; volume t is at {series.start_time:g} s ({origin}) + t x "
        f"{series.t_r:g} s"
    )
    if n_other:
        rule += f"; {n_other} volumes of trial types in no class are left out"
    if len(table) > len(used):
        rule += f"; {len(table) - len(used)} of {len(table)} events cover no chosen volume"
    return Selection(
        tuple(t for t, _, _ in kept),
        tuple(name for _, name, _ in kept),
        tuple(block for _, _, block in kept),
        f"{rule}.",
    )


def _class_of_type(
    types: Sequence[str], classes: Mapping[str, Sequence[str]] | None, path: Path
) -> dict[str, str]:
    """Return the class of every trial type that has one."""
    if classes is None:
        return {kind: kind for kind in types if kind != "n/a"}
    class_of: dict[str, str] = {}
    for name, kinds in classes.items():
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            if kind != BASELINE and kind not in types:
                raise SelectionError(
                    f"{path} has no trial type {kind!r} (class {name!r}); it has "
                    f"{', '.join(types)}, and {BASELINE} stands for volumes outside all events"
                )
            if class_of.setdefault(kind, name) != name:
                raise SelectionError(
                    f"the trial type {kind!r} is in two classes, {class_of[kind]!r} and {name!r}"
                )
    return class_of


def _check_classes_filled(
    kept: Sequence[tuple[int, str, int | None]],
    class_of: Mapping[str, str],
    path: Path,
    series: Series,
) -> None:
    filled = {name for _, name, _ in kept}
    empty = [name for name in dict.fromkeys(class_of.values()) if name not in filled]
    if empty:
        raise SelectionError(
            f"no chosen volume of {series.path} belongs to the class {empty[0]!r} by the events in "
            f"{path}; an event must last until a volume's time (t_r {series.t_r:g} s), so give "
            "events without duration one, and check onsets, delay and repetition time"
        )


def parse_classes(arguments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read classes as they are written on the command line.

    Raises
    ------
    SelectionError
        If an entry is not ``name=type[,type...]`` or a name comes twice.

    Examples
    --------
    >>> parse_classes(["stim=face,scene", "rest=BASELINE"])
    {'stim': ('face', 'scene'), 'rest': ('BASELINE',)}
    """
    classes: dict[str, tuple[str, ...]] = {}
    for argument in arguments:
        name, equals, listed = argument.partition("=")
        types = tuple(part.strip() for part in listed.split(","))
        if not equals or not name.strip() or not all(types):
            raise SelectionError(
                f"a class is written name=type,type (such as stim=face,scene or rest={BASELINE}), "
                f"was given {argument!r}"
            )
        if name.strip() in classes:
            raise SelectionError(f"the class {name.strip()!r} is given twice; list its types once")
        classes[name.strip()] = types
    return classes
