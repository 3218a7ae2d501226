"""Which volumes, and what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g3dvit.errors import SelectionError
from g3dvit.grids import ImageGrid
from g3dvit.selection import BASELINE, parse_classes, read_labels, select_volumes
from g3dvit.volumes import Series, open_series
from made_images import localizer_folder

GRID = ImageGrid((2, 3, 4), np.eye(4))


def run(n=20, t_r=2.0, start=None, path="sub-01_task-x_bold.nii.gz"):
    known = start is not None
    start = start if known else (t_r or 0) / 2
    return Series(Path(path), GRID, n, t_r, start, None, 1, 1, None, start_time_known=known)


def table(tmp_path, rows, header=("onset", "duration", "trial_type")):
    path = tmp_path / "events.tsv"
    lines = ["\t".join(header), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


# ----------------------------------------------------------------------------- by number


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [
        (None, range(20)),
        ("all", range(20)),
        ("0:20:5", [0, 5, 10, 15]),
        ("3", [3]),
        ("-1", [19]),
        ("18:", [18, 19]),
        ("7,2,5", [2, 5, 7]),
        ("0:2, 10:12", [0, 1, 10, 11]),
        (slice(15, 100), range(15, 20)),
        ([4, 1], [1, 4]),
        (np.array([4, 1]), [1, 4]),
    ],
)
def test_numbers(volumes, expected) -> None:
    selection = select_volumes(run(), volumes=volumes)
    assert selection.time_points == tuple(expected)
    assert selection.labels == selection.blocks == (None,) * len(selection)


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ("0:2:0", "start:stop:step"),
        ("a", "start:stop:step"),
        ("1:2:3:4", "start:stop:step"),
        ("", "start:stop:step"),
        ("20", "no volume 20; its 20"),
        ("30:40", "none of the 20"),
        ("3,3", "volume 3 .* twice"),
        ("0:5,4:6", "volume 4 .* twice"),
        ([], "none of the 20"),
    ],
)
def test_impossible_numbers(volumes, message) -> None:
    with pytest.raises(SelectionError, match=message):
        select_volumes(run(), volumes=volumes)


def test_dropped_volumes_are_passed_over_and_cannot_be_named() -> None:
    assert select_volumes(run(), volumes="0:10:2", n_dropped=3).time_points == (4, 6, 8)
    assert select_volumes(run(), n_dropped=18).time_points == (18, 19)
    with pytest.raises(SelectionError, match=r"volume 2 .* first 3"):
        select_volumes(run(), volumes="2,5", n_dropped=3)
    with pytest.raises(SelectionError, match="20 of the 20 volumes"):
        select_volumes(run(), n_dropped=20)


# ----------------------------------------------------------------------------- by events

BLOCKS = [(6, 6, "face"), (18, 6, "scene"), (30, 4, "face")]


def test_the_onset_rule_by_hand(tmp_path) -> None:
    # volume t is at 1 + 2t s; minus 5 s: t = 5, 6, 7 at 6, 8, 10 for the block [6, 12)
    selection = select_volumes(run(), events=table(tmp_path, BLOCKS), delay_s=5)
    assert selection.time_points == (5, 6, 7, 11, 12, 13, 17, 18)
    assert selection.labels == ("face",) * 3 + ("scene",) * 3 + ("face",) * 2
    assert selection.blocks == (0, 0, 0, 1, 1, 1, 2, 2)
    assert "delay of 5 s" in selection.rule
    assert "1 s (the middle of the first volume) + t x 2 s" in selection.rule


def test_start_time_moves_every_volume(tmp_path) -> None:
    # volume t is at 0.2 + 2t s; minus 5 s: t = 6, 7, 8 at 7.2, 9.2, 11.2
    selection = select_volumes(run(start=0.2), events=table(tmp_path, BLOCKS[:1]), delay_s=5)
    assert selection.time_points == (6, 7, 8)
    assert "0.2 s (the sidecar's StartTime)" in selection.rule


@settings(max_examples=60)
@given(
    onset=st.floats(0, 30),
    duration=st.floats(0, 20),
    delay=st.floats(-3, 8),
    t_r=st.sampled_from([0.72, 1.5, 2.0]),
)
def test_every_volume_is_in_the_event_or_in_the_baseline(
    tmp_path_factory, onset, duration, delay, t_r
) -> None:
    path = table(tmp_path_factory.mktemp("e"), [(f"{onset:.3f}", f"{duration:.3f}", "a")])
    series = run(n=25, t_r=t_r)
    onset, duration = round(onset, 3), round(duration, 3)
    times = np.array([(t + 0.5) * t_r - delay for t in range(25)])
    inside = (times >= onset) & (times < onset + duration)
    near = np.minimum(abs(times - onset), abs(times - onset - duration)) < 1e-4
    if inside.all() or not inside.any() or near.any():
        return
    selection = select_volumes(
        series, events=path, classes={"on": ["a"], "off": [BASELINE]}, delay_s=delay
    )
    assert [name == "on" for name in selection.labels] == inside.tolist()


def test_an_onset_on_the_grid_of_volumes_belongs_to_its_event(tmp_path) -> None:
    # 0.72 * 25.5 - 5 and 13.36 differ in the last bit
    path = table(tmp_path, [(13.36, 0.72, "a")])
    assert select_volumes(run(n=40, t_r=0.72), events=path).time_points == (25,)


def test_baseline_is_what_no_event_of_any_type_covers(tmp_path) -> None:
    selection = select_volumes(
        run(), events=table(tmp_path, BLOCKS), classes={"f": ["face"], "rest": [BASELINE]}
    )
    rest = [
        t for t, name in zip(selection.time_points, selection.labels, strict=True) if name == "rest"
    ]
    assert rest == [0, 1, 2, 3, 4, 8, 9, 10, 14, 15, 16, 19]
    assert 11 not in selection.time_points
    assert "3 volumes of trial types in no class are left out" in selection.rule


def test_several_types_in_one_class_keep_their_blocks(tmp_path) -> None:
    classes = {"stim": ("face", "scene")}
    selection = select_volumes(run(), events=table(tmp_path, BLOCKS), classes=classes)
    assert set(selection.labels) == {"stim"}
    assert selection.blocks == (0, 0, 0, 1, 1, 1, 2, 2)


def test_blocks_are_numbered_by_onset_not_by_row(tmp_path) -> None:
    selection = select_volumes(run(), events=table(tmp_path, BLOCKS[::-1]))
    assert selection.blocks == (0, 0, 0, 1, 1, 1, 2, 2)


def test_events_among_chosen_volumes(tmp_path) -> None:
    events = table(tmp_path, BLOCKS)
    selection = select_volumes(run(), events=events, volumes="0:20:2")
    assert selection.time_points == (6, 12, 18)
    with pytest.raises(SelectionError, match="belongs to the class 'scene'"):
        select_volumes(run(), events=events, volumes="0:10")


def test_overlapping_classes_are_an_error_that_names_both(tmp_path) -> None:
    path = table(tmp_path, [(6, 6, "a"), (8, 6, "b")])
    with pytest.raises(SelectionError, match=r"volume 6 .* two classes, 'x' and 'y'"):
        select_volumes(run(), events=path, classes={"x": ["a"], "y": ["b"]})
    both = select_volumes(run(), events=path, classes={"x": ["a", "b"]})
    assert both.time_points == (5, 6, 7, 8)


def test_an_event_without_duration_covers_nothing(tmp_path) -> None:
    path = table(tmp_path, [(6, 0, "a"), (18, 6, "b")])
    with pytest.raises(SelectionError, match=r"class 'a'.*without duration"):
        select_volumes(run(), events=path)
    path = table(tmp_path, [(6, 0, "a"), (14, 6, "a")])
    assert "1 of 2 events cover no chosen volume" in select_volumes(run(), events=path).rule


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([(1, 2)], ("onset", "duration"), "no column trial_type"),
        ([(1, "n/a", "a")], ("onset", "duration", "trial_type"), "row 1 .* no duration"),
        ([(1, 2, "a"), ("x", 2, "a")], ("onset", "duration", "trial_type"), "row 2 .* no onset"),
        ([(1, -2, "a")], ("onset", "duration", "trial_type"), "negative duration"),
    ],
)
def test_unusable_tables(tmp_path, rows, header, message) -> None:
    with pytest.raises(SelectionError, match=message):
        select_volumes(run(), events=table(tmp_path, rows, header))


def test_events_need_the_repetition_time(tmp_path) -> None:
    with pytest.raises(SelectionError, match=r"need the repetition time.*--t-r"):
        select_volumes(run(t_r=None), events=table(tmp_path, BLOCKS))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"x": ["dog"]}, "no trial type 'dog'.*face, scene"),
        ({"x": ["face"], "y": ["face"]}, "'face' is in two classes, 'x' and 'y'"),
    ],
)
def test_impossible_classes(tmp_path, classes, message) -> None:
    with pytest.raises(SelectionError, match=message):
        select_volumes(run(), events=table(tmp_path, BLOCKS), classes=classes)


def test_contradicting_sources_of_labels(tmp_path) -> None:
    with pytest.raises(SelectionError, match="give --events too"):
        select_volumes(run(), classes={"x": ["face"]})
    with pytest.raises(SelectionError, match="not both"):
        select_volumes(run(), events=table(tmp_path, BLOCKS), label="old")
    with pytest.raises(SelectionError, match="cannot be read"):
        select_volumes(run(), events=tmp_path / "none.tsv")


def test_classes_as_written() -> None:
    assert parse_classes(["stim=face, scene", "rest=BASELINE"]) == {
        "stim": ("face", "scene"),
        "rest": ("BASELINE",),
    }


@pytest.mark.parametrize("argument", ["stim", "=face", "stim=", "stim=face,,scene"])
def test_classes_written_wrongly(argument) -> None:
    with pytest.raises(SelectionError, match="written name=type,type"):
        parse_classes([argument])


def test_a_class_given_twice() -> None:
    with pytest.raises(SelectionError, match="'a' is given twice"):
        parse_classes(["a=x", "a=y"])


# ----------------------------------------------------------------------------- by label


def labels_table(tmp_path, text, name="participants.tsv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


PARTICIPANTS = "participant_id\tage\tgroup\nsub-01\t8\tchild\n02\t31\tadult\nsub-03\t5\tn/a\n"


def test_labels_of_subjects(tmp_path) -> None:
    labels = read_labels(labels_table(tmp_path, PARTICIPANTS), "group")
    assert labels.label_for(run(path="d/sub-01/func/sub-01_task-x_bold.nii.gz")) == "child"
    assert labels.label_for("d/sub-02/bold.nii.gz") == "adult"
    selection = select_volumes(run(n=3), label=labels.label_for(run()))
    assert selection.labels == ("child",) * 3


def test_ages_stay_as_written(tmp_path) -> None:
    labels = read_labels(labels_table(tmp_path, "participant_id,grade\n01,08\n", "t.csv"))
    assert labels.label_for("sub-01_bold.nii") == "08"


def test_labels_of_files(tmp_path) -> None:
    text = "file\tlabel\tnote\na/run.nii\tone\tx\nb/run.nii\ttwo\ty\nlone.nii\tthree\tz\n"
    labels = read_labels(labels_table(tmp_path, text))
    found = [labels.label_for(p) for p in ("/d/a/run.nii", "b/run.nii", "/x/y/lone.nii")]
    assert found == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sub-03_bold.nii", "no value of 'group' for sub-03"),
        ("sub-09_bold.nii", "no row for .* participant_id is sub-09"),
        ("run.nii", "names no subject"),
    ],
)
def test_runs_without_a_label(tmp_path, path, message) -> None:
    labels = read_labels(labels_table(tmp_path, PARTICIPANTS), "group")
    with pytest.raises(SelectionError, match=message):
        labels.label_for(path)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        (PARTICIPANTS, None, "name the column .* age, group"),
        (PARTICIPANTS, "sex", "it has age, group"),
        ("name\tgroup\nx\ty\n", None, "needs a column file or filename or participant_id"),
        ("participant_id\tg\nsub-1\ta\n1\tb\n", None, "gives sub-1 two labels"),
    ],
)
def test_unusable_label_tables(tmp_path, text, column, message) -> None:
    with pytest.raises(SelectionError, match=message):
        read_labels(labels_table(tmp_path, text), column)


@pytest.mark.real_data
def test_the_localizers_blocks() -> None:
    folder = localizer_folder()
    (path,) = folder.glob("*res-4mm*bold.nii.gz")
    series = open_series(path)
    selection = select_volumes(series, events=folder / "blocks.tsv", delay_s=5)
    sizes = np.bincount(selection.blocks)
    assert len(sizes) == 12
    assert sizes.min() == 8
    assert sizes.max() == 9
