"""Truth tests: a planted block is found at the right millimetre, and files hold what was given."""

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest

from g3dvit.errors import GridError, ImageError, InputError, OutputError
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.maps import RelevanceMap, content_of, patch_map, sidecar_of, stack_volumes


def rotation(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [a for a in range(3) if a != axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def affine_of(matrix, origin):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, origin
    return affine


OBLIQUE = rotation(20, 2) @ rotation(-11, 0) @ np.diag([2.0, 2.5, 3.0])
SOURCES = {
    "RAS": ImageGrid((45, 54, 40), affine_of(np.diag([4.0, 4, 4]), [-90, -126, -72])),
    "LAS": ImageGrid((46, 55, 41), affine_of(np.diag([-4.0, 4, 4]), [90, -126, -72])),
    "oblique": ImageGrid((80, 70, 52), affine_of(OBLIQUE, [-60, -95, -70])),
    "anisotropic": ImageGrid((63, 41, 30), affine_of(np.diag([3.0, 4.5, 5.5]), [-92, -100, -75])),
    "LPI": ImageGrid((50, 60, 44), affine_of(-np.diag([3.5, 3.5, 3.5]), [88, 100, 80])),
}


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]


def prepared(patch=(6, 5, 4), shape=(30, 35, 28)):
    """A non-cubic prepared grid of 4 mm in RAS, with patches that are no cubes either."""
    volume = ImageGrid(shape, affine_of(np.diag([4.0, 4, 4]), [-60.7, -70.4, -50.9]))
    return PatchGrid(volume, patch)


def centre_of_mass_mm(relevance):
    data = relevance.data
    ijk = np.indices(data.shape).reshape(3, -1) @ data.reshape(-1) / data.sum()
    return relevance.grid.vox2world(ijk)


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_planted_patch_lies_at_its_millimetre_on_every_source(source, interpolation):
    patches = prepared()
    values = np.zeros(patches.shape)
    values[1, 4, 4] = 2.0
    planted_mm = patches.volume.vox2world([6 + 2.5, 20 + 2, 16 + 1.5])  # centre of that block
    on_source = patch_map(values, patches).to_grid(source, interpolation=interpolation)
    assert on_source.grid.matches(source)
    assert on_source.data.dtype == np.float32
    # the source's sampling of an 24 x 20 x 16 mm block is symmetric to within half a voxel
    assert np.abs(centre_of_mass_mm(on_source) - planted_mm).max() < source.voxel_sizes.max() / 2
    nearest = np.rint(source.world2vox(planted_mm)).astype(int)
    assert on_source.data[tuple(nearest)] > 1.2


def test_left_stays_left_on_every_source(source):
    patches = prepared()
    values = np.zeros(patches.shape)
    values[0] = 1.0  # the prepared grid is RAS: its first patches are left
    on_source = patch_map(values, patches).to_grid(source)
    world = source.vox2world(np.argwhere(on_source.data > 0.9))
    assert len(world) > 100
    assert world[:, 0].max() < -30
    assert world[:, 0].mean() < -40


def test_nearest_gives_each_voxel_the_patch_that_holds_it(source):
    patches = prepared()
    rng = np.random.default_rng(0)
    values = rng.normal(size=patches.shape).astype(np.float32)
    got = patch_map(values, patches).to_grid(source, interpolation="nearest").data
    for ijk in rng.integers(0, source.shape, size=(300, 3)):
        voxel = patches.volume.world2vox(source.vox2world(ijk))  # slow oracle: look it up
        patch = np.floor((voxel + 0.5) / patches.patch_size).astype(int)
        inside = ((patch >= 0) & (patch < patches.shape)).all()
        expected = values[tuple(patch)] if inside else 0.0
        assert got[tuple(ijk)] == np.float32(expected)


def test_linear_on_the_prepared_grid_is_the_loop_over_neighbouring_patches():
    patches = prepared()
    values = np.random.default_rng(1).normal(size=patches.shape)
    got = patch_map(values, patches).to_grid(patches.volume).data
    for v in [(0, 0, 0), (7, 13, 21), (29, 34, 27), (14, 2, 9)]:
        total = 0.0
        at = [(n - (p - 1) / 2) / p for n, p in zip(v, patches.patch_size, strict=True)]
        at = np.clip(at, 0, np.asarray(patches.shape) - 1)
        for corner in np.ndindex(2, 2, 2):
            index = np.minimum(np.floor(at).astype(int) + corner, np.asarray(patches.shape) - 1)
            weight = np.prod(
                [1 - abs(a - (np.floor(a) + c)) for a, c in zip(at, corner, strict=True)]
            )
            total += weight * values[tuple(index)]
        assert got[v] == pytest.approx(total, abs=1e-6)


def test_constant_in_is_constant_out_inside_and_zero_outside(source):
    patches = prepared()
    on_source = patch_map(np.full(patches.shape, -1.75), patches).to_grid(source).data
    voxel = patches.volume.world2vox(source.vox2world(np.indices(source.shape).T)).T
    last = np.asarray(patches.volume.shape).reshape(3, 1, 1, 1) - 0.5
    clearly_in = ((voxel > -0.499) & (voxel < last - 0.001)).all(axis=0)
    clearly_out = ((voxel < -0.501) | (voxel > last + 0.001)).any(axis=0)
    assert clearly_in.sum() > 500
    np.testing.assert_allclose(on_source[clearly_in], -1.75, rtol=1e-6)
    np.testing.assert_array_equal(on_source[clearly_out], 0)


def test_peak_is_kept_and_the_edge_is_not_shrunk():
    patches = prepared()
    values = np.zeros(patches.shape)
    values[0, 0, 0] = 1.0
    on_prepared = patch_map(values, patches).to_grid(patches.volume).data
    np.testing.assert_allclose(on_prepared[:3, :3, :2], 1.0, atol=1e-6)  # outer half of the patch
    assert on_prepared[6:].max() < 0.5


def test_signs_units_and_resolution_survive_resampling():
    patches = prepared()
    values = np.linspace(-3, 2, np.prod(patches.shape)).reshape(patches.shape)
    source = patch_map(values, patches, metadata={"units": "logit"})
    moved = source.to_grid(SOURCES["LAS"])
    assert moved.units == "logit"
    assert moved.resolution_mm == (24.0, 20.0, 16.0)
    assert moved.data.min() == pytest.approx(-3, abs=0.1)


def test_4d_resampling_equals_volume_by_volume_also_in_companions():
    patches = prepared()
    values = np.random.default_rng(2).normal(size=(*patches.shape, 3))
    run = patch_map(values, patches, t_r=2.0, companions={"token_sum": -values})
    moved = run.to_grid(SOURCES["anisotropic"])
    assert moved.t_r == 2.0
    for t in range(3):
        alone = run.volume(t).to_grid(SOURCES["anisotropic"])
        np.testing.assert_array_equal(moved.data[..., t], alone.data)
        np.testing.assert_allclose(moved.companions["token_sum"][..., t], -alone.data, atol=1e-6)


def test_slabs_do_not_show(monkeypatch):
    patches = prepared()
    relevance = patch_map(np.random.default_rng(3).normal(size=patches.shape), patches)
    whole = relevance.to_grid(SOURCES["LAS"]).data
    monkeypatch.setattr("g3dvit.resampling._SLAB", 55 * 41 * 7)
    np.testing.assert_array_equal(relevance.to_grid(SOURCES["LAS"]).data, whole)


@pytest.mark.parametrize("codes", [(4, 4), (4, 0), (0, 1), (2, 1), (0, 0)])
def test_save_and_load_round_trip(tmp_path, codes):
    patches = PatchGrid(ImageGrid((40, 42, 48), affine_of(OBLIQUE, [-60, -95, -70])), (8, 7, 6))
    values = np.random.default_rng(4).normal(size=(*patches.shape, 4)).astype(np.float32)
    metadata = {
        "method": "token_gradcam",
        "units": "logit",
        "score": np.float32(1.5),
        "probabilities": [0.25, float("nan")],
        "name": "<script>é",
    }
    saved = patch_map(
        values,
        patches,
        metadata=metadata,
        companions={"patch_weights": values * 2, "token_sum": values / 2},
        t_r=1.6,
        sform_code=codes[0],
        qform_code=codes[1],
    )
    path = saved.save(tmp_path / "sub-01_desc-tokengradcam_relevance.nii.gz")
    assert sorted(os.listdir(tmp_path)) == [
        "sub-01_desc-tokengradcam_patchweights.nii.gz",
        "sub-01_desc-tokengradcam_relevance.json",
        "sub-01_desc-tokengradcam_relevance.nii.gz",
        "sub-01_desc-tokengradcam_tokensum.nii.gz",
    ]
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.header.get_zooms()[3] == pytest.approx(1.6)
    assert int(image.header["qform_code"]) == codes[1]
    assert int(image.header["sform_code"]) == (codes[0] if any(codes) else 2)
    np.testing.assert_allclose(image.affine, saved.grid.affine, atol=1e-4)

    loaded = RelevanceMap.load(path)
    np.testing.assert_array_equal(loaded.data, values)
    np.testing.assert_array_equal(loaded.companions["token_sum"], values / 2)
    np.testing.assert_array_equal(loaded.companions["patch_weights"], values * 2)
    assert loaded.grid.matches(saved.grid)
    assert loaded.t_r == 1.6
    assert loaded.resolution_mm == pytest.approx(saved.resolution_mm)
    assert loaded.metadata["probabilities"] == [0.25, None]
    assert loaded.metadata["name"] == "<script>é"
    assert loaded.metadata["score"] == 1.5

    text = (tmp_path / "sub-01_desc-tokengradcam_relevance.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_same_map_gives_the_same_bytes(tmp_path):
    relevance = patch_map(np.ones(prepared().shape), prepared())
    one = relevance.save(tmp_path / "a.nii.gz").read_bytes()
    two = relevance.save(tmp_path / "b.nii.gz").read_bytes()
    assert one == two
    assert gzip.decompress(one) == relevance.save(tmp_path / "c.nii").read_bytes()


def test_a_3d_map_has_no_time(tmp_path):
    path = patch_map(np.ones(prepared().shape), prepared()).save(tmp_path / "a.nii.gz")
    header = nib.load(path).header
    assert header.get_xyzt_units() == ("mm", "unknown")
    assert len(header.get_zooms()) == 3


def test_nothing_is_overwritten_unless_asked(tmp_path):
    first = patch_map(np.ones(prepared().shape), prepared())
    path = first.save(tmp_path / "a.nii.gz")
    second = patch_map(np.zeros(prepared().shape), prepared())
    with pytest.raises(OutputError, match=r"already exists; .*--overwrite"):
        second.save(path)
    assert RelevanceMap.load(path).data.min() == 1
    second.save(path, overwrite=True)
    assert RelevanceMap.load(path).data.max() == 0


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("g3dvit.nifti.os.replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        patch_map(np.ones(prepared().shape), prepared()).save(tmp_path / "a.nii.gz")
    assert os.listdir(tmp_path) == []


def test_data_cannot_be_changed_by_accident():
    values = np.ones(prepared().shape, dtype=np.float32)
    relevance = patch_map(values, prepared())
    with pytest.raises(ValueError, match="read-only"):
        relevance.data[0, 0, 0] = 5
    values[0, 0, 0] = 7  # the caller's own array stays writable
    assert values.flags.writeable


def test_stack_volumes_keeps_order_and_companions():
    one = patch_map(
        np.full(prepared().shape, 1.0), prepared(), companions={"c": np.zeros((5, 7, 7))}
    )
    two = patch_map(
        np.full(prepared().shape, 2.0), prepared(), companions={"c": np.ones((5, 7, 7))}
    )
    run = stack_volumes([one, two], t_r=3.0)
    assert run.data.shape == (5, 7, 7, 2)
    assert run.data[0, 0, 0].tolist() == [1.0, 2.0]
    assert run.companions["c"][0, 0, 0].tolist() == [0.0, 1.0]
    assert run.volume(-1).data[0, 0, 0] == 2.0


def test_wrong_input_is_refused_with_words(tmp_path):
    with pytest.raises(GridError, match=r"\(3, 3, 3\) does not fit a grid of \(5, 7, 7\)"):
        patch_map(np.zeros((3, 3, 3)), prepared())
    with pytest.raises(GridError, match="companion 'w' of shape"):
        patch_map(np.zeros((5, 7, 7)), prepared(), companions={"w": np.zeros((5, 7))})
    good = patch_map(np.zeros((5, 7, 7)), prepared())
    with pytest.raises(InputError, match="'linear' or 'nearest', was given 'cubic'"):
        good.to_grid(SOURCES["RAS"], interpolation="cubic")
    with pytest.raises(InputError, match="volume 3 of a map with 1"):
        good.volume(3)
    with pytest.raises(OutputError, match=r"\.nii\.gz or \.nii, was given 'a\.mgz'"):
        good.save(tmp_path / "a.mgz")
    with pytest.raises(GridError, match="at least one 3D map"):
        stack_volumes([])
    with pytest.raises(ImageError, match="cannot be read as an image"):
        RelevanceMap.load(tmp_path / "absent.nii.gz")


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"image": 3}', "\xff"])
def test_a_sidecar_that_is_none_is_one_clear_error(tmp_path, text):
    path = RelevanceMap(np.zeros((2, 3, 4)), ImageGrid((2, 3, 4), np.eye(4))).save(
        tmp_path / "a_relevance.nii.gz"
    )
    (tmp_path / "a_relevance.json").write_text(text, encoding="latin-1")
    with pytest.raises(ImageError, match="the sidecar"):
        RelevanceMap.load(path)


def test_a_companion_is_read_with_the_sidecar_of_its_map(tmp_path):
    grid = ImageGrid((2, 3, 4), np.diag([9.0, 9.0, 9.0, 1.0]))
    content, weights = np.full((2, 3, 4), 2.0), np.full((2, 3, 4), 7.0)
    told = {"method": "frozen_gate", "units": "log-odds", "stamp": "CHECK FAILED: x"}
    parts = {"content": content, "patch_weights": weights}
    one = RelevanceMap(np.ones((2, 3, 4)), grid, told, (18.0, 18.0, 18.0), companions=parts)
    for name, base in (("a_relevance.nii.gz", "a"), ("b.nii.gz", "b")):
        one.save(tmp_path / name)
        alone = RelevanceMap.load(tmp_path / f"{base}_content.nii.gz")
        assert alone.metadata == {**told, "companion": "content"} and not alone.companions
        assert alone.resolution_mm == (18.0, 18.0, 18.0) and (alone.data == 2).all()
        other = RelevanceMap.load(tmp_path / f"{base}_patchweights.nii.gz")
        assert other.metadata["companion"] == "patch_weights"
        assert other.units == ""  # those of the map are of the product
        assert np.array_equal(content_of(one).data, content) and content_of(alone) is alone
    # A file that only looks like one has no sidecar; nor is any other JSON taken for it.
    one.to_image().to_filename(tmp_path / "a_other.nii.gz")
    one.to_image().to_filename(tmp_path / "c_content.nii.gz")
    (tmp_path / "c.json").write_text("[1]")
    for name in ("a_other.nii.gz", "c_content.nii.gz"):
        assert RelevanceMap.load(tmp_path / name).metadata == {}
        assert sidecar_of(tmp_path / name) is None
