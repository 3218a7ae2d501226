"""A run comes back from its folder as it was, and its page can be made again without the model."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fake_run import SMALL, FakeCheck, small_run
from g3dvit.cli import main
from g3dvit.errors import G3DError, OutputError, SpaceError
from g3dvit.folders import output_folder
from g3dvit.outputs import write_run
from g3dvit.remake import remake_page
from g3dvit.report.scene import scene_of
from g3dvit.run_result import Display, Recommendation
from g3dvit.saved_runs import load_run, save_table
from g3dvit.shown import Background, Parcellation, ResultTable

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def result():
    labels = np.zeros(SMALL.volume.shape, np.int16)
    labels[3:9, 4:12, 5:8] = 12
    table = ResultTable(
        "aal", "By region", "regions", pd.DataFrame({"region": ["a"], "share": [0.5]}), "Note.", {}
    )
    nan = FakeCheck("odd", float("nan"), None, None, "warn", "Nothing was measured.")
    run = small_run(n_runs=2, n_volumes=6, class_names=("1", "n/a yes"))
    own = Background(np.ones((4, 5, 6), np.float32), SMALL.volume.box((0, 0, 0), (4, 5, 6)), "own")
    return replace(
        run,
        checks=(*run.checks, nan),
        tables=(table,),
        parcellation=Parcellation("AAL", labels, SMALL.volume, {12: "Precentral_L"}),
        further_backgrounds=(own,),
        display=Display(percentile=80, smooth_mm=4),
        warnings=("careful",),
        recommendation=Recommendation("frozen gate", ("Look.",), failed={"cam": ("D3",)}),
    )


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "out"
    with output_folder(folder) as part:
        write_run(result, part)
    return folder


@pytest.fixture
def out(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "out")


def without_pictures(scene):
    viewer = {
        **scene["viewer"],
        "backgrounds": [b["title"] for b in scene["viewer"]["backgrounds"]],
    }
    return {**scene, "viewer": viewer}


def test_scene_of_a_loaded_run_is_the_same(result, saved):
    before, after = (without_pictures(scene_of(run)) for run in (result, load_run(saved)))
    assert after == before


def test_backgrounds_truth_and_predictions_come_back(result, saved):
    loaded = load_run(saved)
    scale = np.abs(result.background.data).max()
    np.testing.assert_allclose(loaded.background.data, result.background.data, atol=scale / 30000)
    assert loaded.background.grid.matches(result.background.grid)
    assert loaded.truth.keys() == result.truth.keys()
    for name, values in result.truth.items():
        np.testing.assert_array_equal(loaded.truth[name], values)
    pd.testing.assert_frame_equal(loaded.predictions, result.predictions, check_dtype=False)
    assert np.isnan(loaded.checks[-1].value)


def test_page_is_made_again_with_tables_that_came_later(out, capsys):
    later = pd.DataFrame({"curve": ["MoRF"], "area": [0.25]})
    save_table(ResultTable("curves", "Removal curves", "evidence", later), out)
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    page = (out / "report.html").read_text()
    assert "Removal curves" in page
    assert "By region" in page


def test_hostile_tables_stay_text(out):
    frame = pd.DataFrame({HOSTILE: [HOSTILE]})
    save_table(ResultTable("bad", HOSTILE, "comparison", frame, HOSTILE, {HOSTILE: HOSTILE}), out)
    table = (out / "predictions.tsv").read_text().splitlines()
    table[1] = table[1].replace(table[1].split("\t")[0], HOSTILE, 1)
    (out / "predictions.tsv").write_text("\n".join(table) + "\n")
    page = remake_page(out).read_text()
    assert "<script>window.hacked" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;window.hacked") >= 4


def test_page_elsewhere_is_not_overwritten_unasked(out, tmp_path):
    target = tmp_path / "talk.html"
    assert remake_page(out, output=target) == target
    with pytest.raises(OutputError, match="already exists"):
        remake_page(out, output=target)
    remake_page(out, output=target, overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        remake_page(out, output=tmp_path)


def test_own_background_comes_first(out, tmp_path):
    image = nib.Nifti1Image(np.ones((5, 6, 7), np.float32), np.diag([3.0, 3, 3, 1]))
    nib.save(image, tmp_path / "t1.nii.gz")
    page = remake_page(out, background=tmp_path / "t1.nii.gz").read_text()
    assert '"backgrounds":[{"title":"t1.nii.gz"' in page
    nib.save(nib.Nifti1Image(np.ones((5, 6, 7, 2), np.float32), np.eye(4)), tmp_path / "4d.nii.gz")
    with pytest.raises(OutputError, match="one 3D image"):
        remake_page(out, background=tmp_path / "4d.nii.gz")


def test_evaluation_is_shown_as_evidence(out, tmp_path):
    folder = tmp_path / "evaluated"
    (folder / "figures").mkdir(parents=True)
    (folder / "evaluation.tsv").write_text("map\tsrg\nfrozen_gate\t0.61\n" + HOSTILE + "\tn/a\n")
    (folder / "regions.tsv").write_text("map\taccuracy\n")
    (folder / "sentence.txt").write_text("Removing what the map names first lowers the score.\n")
    about = {"generator": {"name": "g3dvit"}, "columns": {"srg": "Symmetric relevance gain."}}
    about |= {"model": "hands", "model_sha256": "ab" * 32}
    (folder / "evaluation.json").write_text(json.dumps(about))
    (folder / "figures" / "evaluation.png").write_bytes(b"a picture")
    page = remake_page(out, evaluation=folder).read_text()
    for words in ("lowers the score.", "0.61", "Symmetric relevance gain.", "in curves"):
        assert words in page
    assert "<script>window.hacked" not in page
    assert "with it alone" not in page  # an empty table says nothing
    about["model_sha256"] = "cd" * 32
    (folder / "evaluation.json").write_text(json.dumps(about))
    with pytest.raises(OutputError, match="evaluates the model 'hands'"):
        remake_page(out, evaluation=folder)
    (folder / "evaluation.tsv").unlink()
    with pytest.raises(OutputError, match="not what `g3dvit evaluate -o` wrote"):
        remake_page(out, evaluation=folder)


@pytest.mark.parametrize("lost", ["predictions.tsv", "shown/background-1.nii.gz"])
def test_a_lost_file_is_named(out, lost):
    (out / lost).unlink()
    with pytest.raises(G3DError, match=lost.split("/")[-1].split(".")[0]):
        load_run(out)


def test_folders_of_others_and_of_older_versions_are_refused(out, tmp_path):
    with pytest.raises(OutputError, match="no output folder of g3dvit"):
        load_run(tmp_path)
    marker = json.loads((out / "provenance.json").read_text())
    del marker["report"]
    (out / "provenance.json").write_text(json.dumps(marker))
    with pytest.raises(OutputError, match="run `g3dvit explain` once more"):
        load_run(out)


def test_table_names_are_file_names():
    with pytest.raises(G3DError, match="made of letters"):
        ResultTable("../x", "t", "regions", pd.DataFrame())


def test_the_page_is_made_with_an_atlas_from_a_file(out, tmp_path):
    labels = np.zeros(SMALL.volume.shape, np.int16)
    labels[2:5] = 7
    path = tmp_path / "own_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels, SMALL.volume.affine), path)
    path.with_name("own_dseg.tsv").write_text("index\tname\n7\tPole <script>\n", encoding="utf-8")
    page = tmp_path / "named.html"
    assert main(["report", str(out), "--atlas", str(path), "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert '"names":{"7":"Pole \\u003cscript\\u003e"}' in text
    assert "Pole \\u003cscript" not in (out / "report.html").read_text(encoding="utf-8")


def test_a_templates_atlas_is_refused_in_another_space(out, result, monkeypatch):
    atlas = Parcellation("AAL3", np.zeros(SMALL.volume.shape, np.int16), SMALL.volume, {1: "a"})
    monkeypatch.setattr("g3dvit.remake.load_run", lambda _: replace(result, space="T1w"))
    before = (out / "report.html").read_bytes()
    with pytest.raises(SpaceError, match="T1w"):
        remake_page(out, atlas=atlas)
    assert (out / "report.html").read_bytes() == before
