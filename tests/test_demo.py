"""The demonstration: its folder, what it says of maps, and the path through a public data set."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from g3dvit.cli import main
from g3dvit.demo import demo_folder, demonstrate_development
from g3dvit.demo.development import development_preparation
from g3dvit.demo.found import text_table
from g3dvit.demo.recipe import check_shipped, hands_preparation, load_recipe, shipped
from g3dvit.demo.words import development_words
from g3dvit.errors import InputError, OutputError, WeightsError
from g3dvit.grids import ImageGrid
from g3dvit.models import load_model
from g3dvit.simulate import HANDS, demo_grid
from g3dvit.train import Fitting, LinearDecoder

# Names that nilearn knows; it looks every one of them up in its own table of downloads.
ADULTS = [f"sub-pixar{n:03d}" for n in (123, 124, 125, 126)]
CHILDREN = [f"sub-pixar{n:03d}" for n in (1, 2, 3, 4, 5, 6)]
SHAPE = (18, 23, 20)


# -- the folder -------------------------------------------------------------------------------


def test_the_default_folder_is_numbered_and_an_own_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for expected in ("g3dvit-demo", "g3dvit-demo-2", "g3dvit-demo-3"):
        with demo_folder() as folder:
            assert str(folder) == expected
            (folder / "x").write_text("kept")
    with pytest.raises(OutputError, match="nothing is overwritten"), demo_folder("g3dvit-demo"):
        pass
    assert (tmp_path / "g3dvit-demo" / "x").read_text() == "kept"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_demonstration_leaves_nothing(tmp_path: Path, error: type) -> None:
    def fail(folder: Path) -> None:
        with demo_folder(folder) as place:
            (place / "data").mkdir()
            (place / "data" / "a").write_text("half")
            (place / "b").write_text("half")
            raise error

    with pytest.raises(error):
        fail(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error):
        fail(tmp_path / "empty")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
    assert not list((tmp_path / "empty").iterdir())


def test_tables_are_aligned() -> None:
    assert text_table([["a", "bb"], ["ccc", "d"]]) == "a    bb\n---  --\nccc  d"


# -- what is shipped --------------------------------------------------------------------------


def test_the_shipped_files_are_those_of_the_recipe() -> None:
    recipe = load_recipe()
    check_shipped(recipe)
    model = load_model(shipped("demo_model.yaml"), device="cpu")
    description = model.description
    assert description.class_names == HANDS
    assert description.preparation == hands_preparation()
    assert dict(description.arguments) == recipe.arguments
    assert description.preparation.grid_of(demo_grid()) == demo_grid()
    assert shipped("demo_model.safetensors").stat().st_size < 1_500_000
    n_train = (recipe.n_subjects - recipe.n_test) * recipe.runs_per_subject * 40
    assert n_train >= 1000
    decoder = LinearDecoder.load(shipped("demo_linear_decoder.safetensors"))
    assert decoder.shape == (90, 90, 90) and decoder.weights.shape[1] == 2


def test_damaged_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe_of_package = shipped("demo_recipe.yaml").read_text()
    monkeypatch.setattr("g3dvit.demo.recipe.shipped", lambda name: tmp_path / name)
    (tmp_path / "demo_recipe.yaml").write_text(recipe_of_package)
    for name in load_recipe().sha256:
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not the file of the recipe"):
        check_shipped(load_recipe())


# -- a public data set through nilearn's cache ------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out a cache as nilearn keeps it, with small images in which adults differ."""
    data_dir = tmp_path_factory.mktemp("nilearn_data")
    folder = data_dir / "development_fmri"
    folder.mkdir()
    rng = np.random.default_rng(0)
    affine = np.diag([-4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (36, -46, -40)
    rows = []
    for person in (*ADULTS, *CHILDREN):
        kind = "adult" if person in ADULTS else "child"
        rows.append(
            {
                "participant_id": person,
                "Age": 25 if kind == "adult" else 6,
                "AgeGroup": kind,
                "Child_Adult": kind,
                "Gender": "F",
                "Handedness": "R",
            }
        )
        data = rng.normal(100, 4, (*SHAPE, 6)).astype(np.float32)
        data[2:8, 12:20, 4:12] += rng.normal(0, 1) + (25 if kind == "adult" else 0)
        image = nib.Nifti1Image(data, affine)
        image.header.set_zooms((4, 4, 4, 2.0))
        name = f"{person}_task-pixar_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
        nib.save(image, folder / name)
        confounds = pd.DataFrame({"trans_x": np.zeros(6), "csf": np.zeros(6)})
        confounds.to_csv(
            folder / f"{person}_task-pixar_desc-confounds_regressors.tsv", sep="\t", index=False
        )
    pd.DataFrame(rows).to_csv(folder / "participants.tsv", sep="\t", index=False)
    return data_dir


def test_the_public_data_set_goes_through_the_whole_job(cache: Path, tmp_path: Path) -> None:
    before = sorted(cache.rglob("*"))
    with demo_folder(tmp_path / "out") as folder:
        report = demonstrate_development(
            folder,
            n_subjects=10,
            data_dir=cache,
            volumes="1:6:2",
            fitting=Fitting(epochs=8, batch_size=8, learning_rate=3e-3),
        )
    assert sorted(cache.rglob("*")) == before, "the cache was written to"
    assert report.n_people == {"adult": 4, "child": 6}
    fold = report.training.folds[0]
    assert fold.n_train + fold.n_test == 10 * 3 and fold.n_test == 3 * len(fold.held_out)
    trained = set(load_model(folder / "model" / "model.yaml").description.trained_on)
    assert not any(person in name for person in fold.held_out for name in trained)
    assert report.training.linear_balanced_accuracy > 0.9
    held_out = {run.name.split("_")[0] for run in report.result.inputs}
    assert held_out == set(fold.held_out)
    labels = report.result.predictions.groupby("run")["label"].first()
    assert set(labels) == {"adult", "child"}
    assert (folder / "explained" / "report.html").is_file()
    text = "\n".join(development_words(report))
    assert "6 children, 4 adults" in text and "linear decoder" in text
    maps = sorted((folder / "explained" / "maps").glob("*.nii.gz"))
    assert maps
    patch = ImageGrid(nib.load(maps[0]).shape[:3], nib.load(maps[0]).affine)
    assert patch.shape == (2, 3, 2) and patch.voxel_sizes == pytest.approx([40, 40, 40])


def test_the_preparation_pads_to_whole_patches_and_turns_to_ras(cache: Path) -> None:
    run = next((cache / "development_fmri").glob("*.nii.gz"))
    image = nib.load(run)
    source = ImageGrid(image.shape[:3], image.affine)
    grid = development_preparation(run).grid_of(source)
    assert grid.shape == (20, 30, 20) and grid.axcodes == "RAS"
    inside = source.vox2world([0, 0, 0])
    assert grid.world2vox(inside) == pytest.approx([18, 3, 0])


def test_without_network_and_cache_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from nilearn import datasets

    def unreachable(**_: object) -> None:
        raise ConnectionError("name or service not known")

    monkeypatch.setattr(datasets, "fetch_development_fmri", unreachable)
    monkeypatch.chdir(tmp_path)
    words = ["demo", "--dataset", "development_fmri", "--data-dir", str(tmp_path / "none")]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "could not be fetched" in told and "--data-dir" in told and str(tmp_path) in told
    assert not list(tmp_path.glob("g3dvit-demo*"))


def test_too_few_people_are_told(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2 of each"):
        demonstrate_development(tmp_path, n_subjects=2, data_dir=cache)
