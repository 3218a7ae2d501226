"""One subject or run of a result: its numbers against slow loops, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest

import g3dvit
from fake_run import FakeCheck, named_runs
from g3dvit import figures
from g3dvit.accuracy import balanced_accuracy, model_at_chance
from g3dvit.checks import Check
from g3dvit.errors import InputError
from g3dvit.folders import output_folder
from g3dvit.outputs import write_run
from g3dvit.report.parts import page_files, runs_of, subjects_of
from g3dvit.report.scene import scene_of
from g3dvit.report.words import methods_text
from g3dvit.restricted import find_part, restrict
from g3dvit.saved_runs import load_run
from g3dvit.shown import ResultTable

NAMES = (
    "sub-01_task-x_run-1",
    "sub-02_task-x_run-1",
    "sub-01_task-x_run-2",
    "sub-03_task-x_run-1",
)


def several(names=NAMES, *, n_volumes=10, **changes):
    return named_runs(names, n_volumes=n_volumes, **changes)


@pytest.fixture(scope="module")
def result():
    return several()


def rows_of(result, subject):
    """Rows of a subject as (row of the predictions, run, volume), one by one."""
    found, row = [], 0
    for at, run in enumerate(result.inputs):
        for volume in range(len(run.time_points)):
            if run.name.startswith(f"{subject}_"):
                found.append((row, at, volume))
            row += 1
    return found


def loop_mean(result, maps, subject, group, *, companion=None):
    """The mean over correctly classified volumes of a class, added up volume by volume."""
    total, n = None, 0
    for row, run, volume in rows_of(result, subject):
        told = result.predictions.iloc[row]
        if told["label"] != group or told["predicted"] != group:
            continue
        series = maps.volumes[run]
        values = series.data if companion is None else series.companions[companion]
        one = values[..., volume].astype(np.float64)
        total = one if total is None else total + one
        n += 1
    return total / n, n


@pytest.mark.parametrize("subject", ["sub-01", "sub-02"])
def test_class_means_are_those_of_a_loop_over_its_volumes(result, subject):
    own = restrict(result, subject)
    assert [maps.method for maps in own.maps] == ["frozen_gate", "token_gradcam"]
    for whole, maps in zip(result.maps, own.maps, strict=True):
        assert {str(mean.key) for mean in maps.class_means} == {"correct/left", "correct/right"}
        for mean in maps.class_means:
            expected, n = loop_mean(result, whole, subject, mean.key.group)
            assert mean.n == n
            top = np.abs(expected).max()
            np.testing.assert_allclose(mean.patch.data, expected, atol=1e-6 * top)
            of_all = next(m for m in whole.class_means if m.key == mean.key).patch.data
            assert np.abs(of_all - expected).max() > 0.01 * top
    gate, whole = own.maps[0], result.maps[0]
    for mean in gate.class_means:
        for name in ("content", "position"):
            expected, _ = loop_mean(result, whole, subject, mean.key.group, companion=name)
            np.testing.assert_allclose(mean.patch.companions[name], expected, atol=1e-6)
        # on the model's grid the content, as of a whole run, at the same places
        assert mean.voxel.grid.matches(result.prepared_grid)
        content, _ = loop_mean(result, whole, subject, mean.key.group, companion="content")
        centre = mean.patch.grid.vox2world(np.argwhere(content == content.max())[0])
        at = np.rint(result.prepared_grid.world2vox(centre)).astype(int)
        assert mean.voxel.data[tuple(at)] == pytest.approx(content.max(), rel=0.2)


def test_predictions_volumes_and_checks_are_its_own(result):
    bad = (FakeCheck("D5", 0.1, 0.99, 0.95, "fail", "float32 disagrees"),)
    gate = result.maps[0]
    gate = replace(gate, checks=(*gate.checks[:10], *((bad,) * 10), *gate.checks[20:]))
    told = replace(result, maps=(gate, *result.maps[1:]))
    own = restrict(told, "sub-01")
    rows = [row for row, _, _ in rows_of(result, "sub-01")]
    assert own.predictions["score"].tolist() == [result.predictions["score"][r] for r in rows]
    assert list(own.predictions.index) == list(range(20))
    assert [run.name for run in own.inputs] == [NAMES[0], NAMES[2]]
    np.testing.assert_array_equal(own.maps[0].volumes[1].data, gate.volumes[2].data)
    assert {check.name for check in own.maps[0].summary} == {"completeness", "D1 dead gradient"}
    assert [check.name for check in restrict(told, "sub-02").maps[0].summary] == ["D5"]
    assert restrict(told, "sub-02").maps[0].recommended is False
    assert own.maps[0].recommended is True
    assert own.recommendation.label == "frozen gate"


def test_scene_of_a_part_counts_its_own(result):
    scene = scene_of(restrict(result, "sub-02"))
    table = [result.predictions.iloc[row] for row, _, _ in rows_of(result, "sub-02")]
    for row, label in enumerate(("left", "right")):
        for column, predicted in enumerate(("left", "right")):
            n = sum(one["label"] == label and one["predicted"] == predicted for one in table)
            assert scene["confusion"]["counts"][row][column] == n
    assert len(scene["predictions"]["rows"]) == 10
    (course,) = scene["viewer"]["time_courses"]
    assert course["time"] == [one["onset_s"] for one in table]
    assert scene["viewer"]["parts"] == []
    assert scene["viewer"]["surface"] is not None
    kinds = {(x["kind"], x["on"], x["what"]) for x in scene["viewer"]["layers"] if not x["method"]}
    assert kinds == {
        ("class mean", "patches", "content"),
        ("contrast", "patches", "content"),
        ("volumes", "patches", "content"),
    }
    assert {p["name"] for p in scene_of(restrict(result, "sub-01"))["viewer"]["parts"]} == {
        "run-1", "run-2",
    }  # fmt: skip


def test_words_say_which_part_and_that_it_is_descriptive(result):
    own = restrict(result, "sub-02")
    assert own.part == "sub-02, one subject of 3"
    assert own.title == f"sub-02, of “{result.title}”"
    assert own.notes[0].startswith(f"Descriptive: sub-02, one subject of 3, of “{result.title}”.")
    assert "means per patch over its own volumes, misclassified ones left out" in own.notes[0]
    assert own.notes[1:] == result.notes
    assert own.provenance["part"]["runs"] == [NAMES[1]]
    text = methods_text(own)
    assert "10 volumes of 1 run." in text
    assert "These volumes are of sub-02, one subject of 3" in text
    assert "averaged apart" not in text
    assert "averaged apart" in methods_text(result)
    assert result.part == ""
    run = restrict(result, "sub-01_task-x_run-2")
    assert run.part == "sub-01_run-2, one run of 4"
    again = restrict(restrict(result, "sub-01"), "run-2")
    assert again.part == "run-2, one run of 2, of sub-01, one subject of 3"
    np.testing.assert_array_equal(
        again.maps[0].class_means[0].patch.data, run.maps[0].class_means[0].patch.data
    )


def test_means_explain_what_the_maps_of_volumes_explain(result):
    own_class = result.predictions.assign(target=result.predictions["predicted"])
    own = restrict(replace(result, predictions=own_class, volume_target="predicted"), "sub-02")
    targets = {mean.key.group: mean.target for mean in own.maps[0].class_means}
    assert targets == {"left": "left", "right": ""}
    assert {m.key.group: m.patch.metadata["target"] for m in own.maps[0].class_means} == {
        "left": "left", "right": "right",
    }  # fmt: skip
    assert "Each explains the class of its own volumes" in own.notes[0]
    assert "contrast" not in {x["kind"] for x in scene_of(own)["viewer"]["layers"]}
    assert "evidence for “right”" in figures.mosaic(own).texts[0].get_text()


def with_accuracy(result, right):
    """A result whose volumes are right or wrong as told, with the check of its accuracy."""
    labels = result.predictions["label"]
    other = labels.map({"left": "right", "right": "left"})
    table = result.predictions.assign(predicted=labels.where(right, other))
    index = {"left": 0, "right": 1}
    units = [f"{run}/{block}" for run, block in zip(table["run"], table["block"], strict=True)]
    check = model_at_chance(
        [index[p] for p in table["predicted"]], [index[v] for v in labels], units=units
    )
    model = replace(result.model, accuracy=check.sentence)
    return replace(result, predictions=table, checks=(check,), model=model)


def test_accuracy_is_told_of_the_part_too():
    result = several(n_volumes=80)
    run = result.predictions["run"].to_numpy()
    time = result.predictions["time_point"].to_numpy()
    right = np.ones(len(run), bool)
    right[(run == NAMES[1]) & (time % 3 == 0)] = False  # two of three are right in sub-02
    right[run == NAMES[3]] = time[run == NAMES[3]] % 3 == 0  # one of three in sub-03
    told = with_accuracy(result, right)
    assert told.checks[0].verdict == "pass"

    def counted(subject):
        of_class = {"left": [0, 0], "right": [0, 0]}
        for row, _, _ in rows_of(told, subject):
            one = told.predictions.iloc[row]
            of_class[one["label"]][0] += one["label"] == one["predicted"]
            of_class[one["label"]][1] += 1
        blocks = 8 * (2 if subject == "sub-01" else 1)  # blocks of 5 volumes, alternating
        recalls = [hits / n for hits, n in of_class.values()]
        return balanced_accuracy([recall * blocks for recall in recalls], [blocks] * 2)

    verdicts = {}
    for subject in ("sub-01", "sub-02", "sub-03"):
        own = restrict(told, subject)
        here, whole = own.checks
        accuracy, low, high = counted(subject)
        assert f"accuracy {accuracy:.2f}, 95 % interval {low:.2f} to {high:.2f}" in here.sentence
        assert here.value == pytest.approx(low)
        assert here.name == f"better than chance in {subject}"
        assert whole.sentence == f"Of all runs together: {told.checks[0].sentence}"
        assert whole.verdict == "pass"
        assert f"of {subject} alone: balanced accuracy {accuracy:.2f}" in own.model.accuracy
        verdicts[subject] = here.verdict
    assert verdicts == {"sub-01": "pass", "sub-02": "warn", "sub-03": "fail"}
    assert restrict(told, "sub-03").recommendation.label is None
    run_stamp = scene_of(restrict(told, "sub-03"))["viewer"]["run_stamp"]
    assert "no better than chance" in run_stamp


def test_a_part_without_a_correct_volume_has_no_class_means(result):
    right = (result.predictions["run"] != NAMES[1]).to_numpy()
    own = restrict(with_accuracy(result, right), "sub-02")
    assert [maps.class_means for maps in own.maps] == [(), ()]
    assert "There are no class means" in own.notes[0]
    scene = scene_of(own)
    assert {layer["kind"] for layer in scene["viewer"]["layers"]} == {"volumes"}
    assert own.checks[0].verdict == "fail"


def test_volumes_without_labels_are_averaged_by_what_was_predicted():
    result = several(labelled=False)
    own = restrict(result, "sub-02")
    assert {str(mean.key) for mean in own.maps[0].class_means} == {"all/left", "all/right"}
    assert "misclassified" not in own.notes[0]
    assert scene_of(own)["confusion"] is None


def test_accuracy_of_other_data_is_not_counted_again(result):
    check = Check("better than chance", 0.7, None, 0.5, "pass", "Better, as its description says.")
    own = restrict(replace(result, checks=(check,)), "sub-02")
    assert [c.name for c in own.checks] == ["better than chance (all runs)"]
    assert own.checks[0].sentence == "Of all runs together: Better, as its description says."
    assert own.model.accuracy == f"of all runs: {result.model.accuracy}"


def test_what_is_of_the_whole_run_is_left_out_and_said(result):
    frame = result.predictions[["run"]].head(1)
    tables = (
        ResultTable("a", "A", "regions", frame),
        ResultTable("b", "B", "regions", frame),
        ResultTable("c", "C", "comparison", frame),
    )
    shifted = replace(
        result.maps[0], method="shift_averaged", title="shift-averaged", volumes=(), checks=()
    )
    own = restrict(replace(result, maps=(shifted, *result.maps), tables=tables), "sub-02")
    assert [maps.method for maps in own.maps] == ["frozen_gate", "token_gradcam"]
    assert own.tables == ()
    assert own.warnings[0].startswith("Left out: shift-averaged. No map of every volume was made")
    assert "(regions 2, comparison 1)" in own.warnings[1]
    with pytest.raises(InputError, match="no method of this run has a map of every volume"):
        restrict(replace(result, maps=(shifted,)), "sub-02")


def test_warnings_about_other_runs_are_not_of_this_one(result):
    told = (f"{NAMES[0]} moves.", f"{NAMES[1]}x is odd.", "The model is old.", f"{NAMES[1]} too.")
    own = restrict(replace(result, warnings=told), "sub-02")
    assert own.warnings == told[1:]


def test_parts_that_are_not_there_are_refused(result):
    with pytest.raises(InputError, match=r"no subject and no run called 'sub-9'; it has sub-01, "):
        restrict(result, "sub-9")
    with pytest.raises(InputError, match="several runs called 'a'"):
        find_part([replace(run, name="a") for run in result.inputs[:2]], "a")


def test_files_of_pages_are_safe_and_told_apart():
    names = ["sub-01_task-x", "sub-02_task-x_run-1", "sub-02_task-x_run-2", "../<b>sub-02"]
    inputs = several(names).inputs
    files = page_files(inputs)
    assert [part.name for part in subjects_of(inputs)] == ["sub-01", "sub-02"]
    assert [f for f, _ in files][:2] == ["report_sub-01.html", "report_sub-02.html"]
    assert len({f.lower() for f, _ in files}) == len(files) == 2 + 4
    assert all(set(f) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for f, _ in files)
    assert all(f.count(".") == 1 for f, _ in files)
    one_each = several(NAMES[1:2] + NAMES[3:]).inputs  # the run's page is that of the subject
    assert [f for f, _ in page_files(one_each)] == ["report_sub-02.html", "report_sub-03.html"]
    assert [part.name for part in runs_of(one_each)] == ["sub-02", "sub-03"]


def test_figures_take_a_part_and_say_so(result):
    own = g3dvit.restrict(result, "sub-02")
    texts = [t.get_text() for t in figures.mosaic(own, group="right").texts]
    assert any("sub-02, one subject of 3" in text for text in texts)
    texts = [t.get_text() for t in figures.method_comparison(own, group="right").texts]
    assert "sub-02, one subject of 3" in texts
    assert any("Descriptive: sub-02" in text for text in texts)
    assert figures.time_course(own).axes


def test_a_part_is_saved_and_comes_back(result, tmp_path):
    own = restrict(replace(result, maps=result.maps[:1], space=None), "sub-02")
    with output_folder(tmp_path / "own") as part:
        write_run(own, part)
    back = load_run(tmp_path / "own")
    assert (back.part, back.title) == (own.part, own.title)
    first, again = own.maps[0].class_means[0], back.maps[0].class_means[0]
    np.testing.assert_allclose(again.patch.data, first.patch.data)
    assert [c.sentence for c in back.checks] == [c.sentence for c in own.checks]
    page = (tmp_path / "own" / "report.html").read_text()
    assert "sub-02, one subject of 3" in page
    assert "The page of the whole run" not in page  # there is none
    assert "Every file of the output folder" in page
