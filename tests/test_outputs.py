"""The output folder of a run: what is in it, that it can be read, that nothing is half there."""

import base64
import gzip
import json
import re
from dataclasses import replace
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fake_run import small_run
from g3dvit.maps import RelevanceMap
from g3dvit.outputs import _readme, output_folder, write_run
from g3dvit.report.downloads import Folder
from g3dvit.report.scene import scene_of
from g3dvit.saved_runs import described_methods

HOSTILE = "a b/../<script>"


@pytest.fixture(scope="module")
def result():
    return small_run(space=None)  # no glass brains: they take most of the time


@pytest.fixture(scope="module")
def out(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "out"
    with output_folder(folder) as part:
        write_run(result, part)
    return folder


def test_every_volume_is_saved_on_the_patch_grid(out, result):
    path = out / "maps" / "sub-01_task-motor_run-1_desc-frozengate_relevance.nii.gz"
    image = nib.load(path)
    assert image.shape == (8, 8, 9, 12)
    assert image.header.get_zooms()[3] == 2.0
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4
    np.testing.assert_array_equal(RelevanceMap.load(path).data, result.maps[0].volumes[0].data)


def test_halves_are_saved_and_their_product_is_the_map(out):
    stem = "sub-01_task-motor_run-1_desc-tokengradcammean"
    loaded = RelevanceMap.load(out / "maps" / f"{stem}_relevance.nii.gz")
    product = loaded.companions["patch_weights"] * loaded.companions["token_sum"]
    np.testing.assert_allclose(product, loaded.data, rtol=1e-5)
    assert (out / "maps" / f"{stem}_patchweights.nii.gz").exists()
    assert (out / "maps" / f"{stem}_tokensum.nii.gz").exists()


def test_class_means_are_saved_on_both_grids_with_their_group(out, result):
    stem = "class-right_volumes-correct_res-{}_desc-frozengate_relevance.nii.gz"
    patch = RelevanceMap.load(out / "class_means" / stem.format("patch"))
    voxel = RelevanceMap.load(out / "class_means" / stem.format("voxel"))
    assert patch.data.shape == (8, 8, 9)
    assert voxel.grid.matches(result.prepared_grid)
    mean = next(m for m in result.maps[0].class_means if str(m.key) == "correct/right")
    np.testing.assert_array_equal(voxel.data, mean.voxel.data)
    for loaded in (patch, voxel):
        assert (loaded.metadata["group"], loaded.metadata["n"]) == ("right", mean.n)
        assert loaded.metadata["target"] == "right"
        assert loaded.metadata["stamp"] is None
        assert loaded.resolution_mm == (20.0, 24.0, 16.0)


def test_failed_checks_are_in_every_sidecar_of_the_map(out):
    for path in [
        *out.glob("class_means/*tokengradcam*.json"),
        *out.glob("maps/*tokengradcam*.json"),
    ]:
        sidecar = json.loads(path.read_text())
        stamps = sidecar.get("stamps", [sidecar.get("stamp")])
        assert all(stamp.startswith("CHECK FAILED: D3 centring") for stamp in stamps)
        assert len(stamps) in (1, 12)


def test_predictions_and_what_their_columns_mean(out, result):
    table = pd.read_csv(out / "predictions.tsv", sep="\t")
    pd.testing.assert_frame_equal(table, result.predictions)
    columns = json.loads((out / "predictions.json").read_text())
    assert set(columns) == set(table.columns)
    assert columns["score"]["Units"] == "log-odds"
    assert columns["p_left"]["Description"] == "Probability of the class 'left' by the model."


def test_missing_labels_are_n_a(tmp_path):
    run = small_run(labelled=False)
    write_run(replace(run, maps=()), tmp_path)
    table = (tmp_path / "predictions.tsv").read_text().splitlines()
    at = table[0].split("\t").index("label")
    assert {line.split("\t")[at] for line in table[1:]} == {"n/a"}


def test_provenance_names_generator_files_and_checks(out):
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["generator"]["name"] == "g3dvit"
    assert provenance["command"] == "g3dvit demo"
    assert provenance["model"]["sha256"] == "ab" * 32
    assert provenance["target"] == "right"
    here = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert provenance["files"] == here


def test_readme_names_every_viewer_and_every_map(out):
    readme = (out / "README.txt").read_text()
    for viewer in ("FSLeyes", "MRIcroGL", "freeview", "nilearn", "NiiVue", "report.html"):
        assert viewer in readme
    for path in out.rglob("*_relevance.nii.gz"):
        assert path.relative_to(out).as_posix() in readme
    example = next(line for line in readme.splitlines() if line.startswith("FSLeyes"))
    assert "frozengate" in example  # never the map that failed a check
    assert "token Grad-CAM (mean): CHECK FAILED" in readme


@pytest.mark.parametrize("method", ["frozen_gate", "token_gradcam"])
def test_readme_opens_the_recommended_map(result, method):
    marked = tuple(replace(maps, recommended=maps.method == method) for maps in result.maps)
    files = [
        (f"class_means/class-right_res-voxel_desc-{maps.file_label}_relevance.nii.gz", "")
        for maps in marked
    ]
    readme = _readme(replace(result, maps=marked), files)
    example = next(line for line in readme.splitlines() if line.startswith("FSLeyes"))
    assert method.replace("_", "") in example


def test_readme_names_the_surface_where_there_is_one(result):
    assert "surface" not in _readme(result, [])
    readme = _readme(small_run(), [])
    assert "slices, 3D, cortical surface, every volume" in readme
    assert "_surface (cortex of a template" in readme


def test_figures_and_page_are_written(out, result):
    pictures = {p.name for p in (out / "figures").glob("*.png")}
    # means over misclassified volumes are in the page and in class_means/, but not drawn
    means = sum(mean.key.which != "error" for maps in result.maps for mean in maps.class_means)
    assert len([p for p in pictures if p.endswith("_mosaic.png")]) == means
    assert "class-right_volumes-correct_comparison.png" in pictures
    page = (out / "report.html").read_text()
    assert {"desc-frozengate_means.png", "desc-tokengradcammean_means.png"} <= pictures
    assert page.count('<img src="data:image/png;base64,') == 4  # means and methods side by side
    assert len(page) < 15_000_000


def test_page_links_to_the_exact_file_of_every_map(out, result):
    page = (out / "report.html").read_text()
    links = re.findall(r'href="(\./[^"]*)"', page)
    assert len(links) > 40
    assert [link for link in links if not (out / unquote(link)).is_file()] == []
    beside = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {unquote(link)[2:] for link in links} == beside - {"report.html"}
    folder = Folder.of(out, described_methods(out))
    scene = scene_of(result, folder=folder)
    for entry, layer in zip(scene["downloads"]["maps"], scene["viewer"]["layers"], strict=True):
        if layer["kind"] == "contrast":
            assert entry["file"] is None
            continue
        exact = nib.load(out / entry["file"]["name"])
        if layer["on"] == "voxels":  # smoothed for display
            assert exact.shape == tuple(layer["shape"])
            continue
        shown = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer["nifti"])))
        values = np.asarray(shown.dataobj) * layer["slope"]
        np.testing.assert_allclose(values, exact.get_fdata(), atol=0.51 * layer["slope"])
    assert scene["downloads"]["provenance"] == {
        "href": "./provenance.json", "name": "provenance.json", "size": "",
    }  # fmt: skip


def test_hostile_names_make_harmless_files(tmp_path):
    names = (HOSTILE, f"{HOSTILE}!")
    run = small_run(class_names=names, run_name="../x y<b>", n_volumes=10, space=None)
    run = replace(run, maps=(replace(run.maps[0], class_means=run.maps[0].class_means),))
    folder = tmp_path / "out"
    with output_folder(folder) as part:
        write_run(run, part)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert not any(set(name) & set("<>! ") or ".." in name for name in files)
    means = [name for name in files if "res-patch" in name and name.endswith("relevance.nii.gz")]
    assert len(means) == len(run.maps[0].class_means)
    groups = {
        json.loads((folder / m.replace(".nii.gz", ".json")).read_text())["group"] for m in means
    }
    assert groups == set(names)


def test_ctrl_c_while_writing_leaves_nothing(tmp_path, result, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("g3dvit.outputs.render_page", interrupt)
    quick = replace(result, maps=())
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out") as part:
        write_run(quick, part)
    assert list(tmp_path.iterdir()) == []
