"""`g3dvit evaluate`: what it measures on a model whose tokens can be dropped by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import spearmanr

from evaluated_model import N_PATCHES, save_model, save_run
from g3dvit.capture import KeptTokens, guest
from g3dvit.checks import Check
from g3dvit.cli import main
from g3dvit.errors import DescriptionError, InputError, MethodError
from g3dvit.evaluate import measure_curves as mc
from g3dvit.evaluate import measure_sanity as sanity
from g3dvit.evaluate.evaluation import evaluate_run
from g3dvit.evaluate.explained import explain_volumes
from g3dvit.evaluate.known_accuracy import at_chance
from g3dvit.evaluate.measure_context import image_agreement
from g3dvit.evaluate.measure_regions import decide_by_region
from g3dvit.evaluate.measure_spread import measure_spread, spread_bins
from g3dvit.evaluate.plan import plan_volumes
from g3dvit.evaluate.prepared import load_candidate, prepare_volumes
from g3dvit.evaluate.settings import EvaluationSettings
from g3dvit.evaluate.spread import mean_profile
from g3dvit.evaluate.words import units_in_words
from g3dvit.evaluate.write import write_evaluation
from g3dvit.run.inputs import RunSource, open_runs
from g3dvit.run.setup import one_grid, preparation_of
from oracles_evaluate import curve_by_definition, saco_by_definition
from planted_model import save_planted_model, save_planted_run

FAST = EvaluationSettings(
    n_volumes=8,
    random_orders=3,
    random_fields=2,
    steps=4,
    random_models=3,
    sanity_volumes=2,
    places=2,
)
METHODS = ["frozen_gate", "hirescam"]


def source_of(*images: Path, confounds: bool = False) -> RunSource:
    def beside(image: Path, ending: str) -> Path:
        return image.with_name(image.name.split("_")[0] + ending)

    return RunSource(
        images=images,
        events=tuple(beside(image, "_events.tsv") for image in images),
        classes={"rest": ("rest",), "task": ("task",)},
        delay_s=0.0,
        confounds=tuple(beside(image, "_confounds.tsv") for image in images) if confounds else (),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    return save_model(folder), save_run(folder)


def prepared_of(model, source, n_volumes=8):
    candidate = load_candidate(model, "cpu")
    preparation = preparation_of(candidate.description)
    runs = open_runs(source)
    plan = plan_volumes(runs, n_volumes)
    return prepare_volumes(candidate, preparation, runs, one_grid(preparation, runs), plan)


@pytest.fixture(scope="module")
def prepared(files):
    return prepared_of(files[0], source_of(files[1], confounds=True))


# -- against slow computations -----------------------------------------------------------------
def _log_odds(logits: torch.Tensor, chosen: int) -> float:
    rest = torch.cat([logits[:chosen], logits[chosen + 1 :]])
    return float(logits[chosen] - torch.logsumexp(rest, 0))


@pytest.mark.parametrize("classes", [2, 3])
def test_every_number_of_a_volume_equals_a_slow_computation(tmp_path, files, classes) -> None:
    model = save_model(tmp_path, classes=classes)
    ready = prepared_of(model, source_of(files[1]))
    module, inside, n, partner = ready.model.module, ready.inside, 1, 4
    assert 2 < len(inside) < N_PATCHES  # some patches lie outside the brain and always stay
    chosen = 1
    rng = np.random.default_rng(0)
    orders = {"a": rng.normal(size=(1, len(inside))), mc.RANDOM: rng.normal(size=(3, len(inside)))}
    with guest(module) as network:
        kept = KeptTokens(network, ready.model.explainer.geometry)
        question = mc.ask(ready, network, kept, n, partner, chosen)
        found = mc.measure_volume(question, orders, FAST)
        x, other = ready.volume(n, network), ready.volume(partner, network)

        def value(keep):
            with torch.no_grad():
                return _log_odds(network(x, keep=[int(p) for p in keep])[0], chosen)

        def replaced(keep):
            mixed = other.clone()
            for p in keep:
                # the model reads (k, i, j): its own patch grid and edges
                grid, edges = (4, 2, 3), (4, 3, 5)
                at = np.unravel_index(p, grid)
                box = tuple(slice(a * e, (a + 1) * e) for a, e in zip(at, edges, strict=True))
                mixed[(0, 0, *box)] = x[(0, 0, *box)]
            with torch.no_grad():
                return float(network(mixed)[0].softmax(0)[chosen])

        everything = list(range(N_PATCHES))
        full = value(everything)
        drops = np.array([full - value([q for q in everything if q != p]) for p in inside])
        counts = np.unique(np.round(np.linspace(0, len(inside), 5)).astype(int))
        for name, draws in (*orders.items(), (mc.ORACLE, drops[None])):
            gains, single, saco, deletion, insertion = [], [], [], [], []
            for one in draws:
                arguments = (one, inside, N_PATCHES, counts)
                lerf = curve_by_definition(*arguments, value, least_first=True)
                morf = curve_by_definition(*arguments, value, least_first=False)
                gains.append(np.mean(lerf - morf))
                single.append(spearmanr(one, drops).statistic)

                def drop(group):
                    places = {int(inside[p]) for p in group}
                    return full - value([q for q in everything if q not in places])

                saco.append(saco_by_definition(one, min(10, len(one)), drop))
                for side, least in ((deletion, False), (insertion, True)):
                    curve = curve_by_definition(*arguments, replaced, least_first=least)
                    side.append(np.trapezoid(curve) / (len(curve) - 1))
            np.testing.assert_allclose(found[name]["srg"], gains, atol=2e-5)
            assert found[name]["single"] == pytest.approx(np.mean(single), abs=1e-6)
            assert found[name]["saco"] == pytest.approx(np.mean(saco), abs=1e-4)
            assert found[name]["deletion"] == pytest.approx(np.mean(deletion), abs=1e-5)
            assert found[name]["insertion"] == pytest.approx(np.mean(insertion), abs=1e-5)
        np.testing.assert_allclose(found[mc.ORACLE]["drops"], drops, atol=2e-5)


def test_the_content_of_frozen_gates_is_measured_as_a_map_of_its_own(prepared) -> None:
    explainer, x = prepared.model.explainer, prepared.x[:2]
    names = ["frozen_gate_content", "hirescam", "frozen_gate"]
    found = explain_volumes(explainer, x, names)
    alone = explainer.explain(x, "frozen_gate", score="log_odds")
    assert list(found.patches) == names and len(found.verdicts["frozen_gate_content"]) == 2
    for name, part in (("frozen_gate_content", alone.content), ("frozen_gate", alone.relevance)):
        np.testing.assert_allclose(found.patches[name], part.flatten(1).numpy(), rtol=1e-5)
    assert np.abs(found.patches["frozen_gate"] - found.patches["frozen_gate_content"]).max() > 1e-3
    with pytest.raises(MethodError, match="frozen_gate_contents"):
        explain_volumes(explainer, x, ["frozen_gate_contents"])


def test_decisions_by_region_equal_dropping_by_hand(prepared) -> None:
    inside = prepared.inside
    rng = np.random.default_rng(1)
    region = {"a": rng.normal(size=N_PATCHES)}
    with guest(prepared.model.module) as network:
        kept = KeptTokens(network, prepared.model.explainer.geometry)
        respond = mc.ask(prepared, network, kept, 0, 1, 1).remove
        found = decide_by_region(respond, region, inside, N_PATCHES, (0.2,), seed=0)
        top = sorted(inside, key=lambda p: -region["a"][p])[: round(0.2 * len(inside))]
        x = prepared.volume(0, network)
        with torch.no_grad():
            alone = int(network(x, keep=[int(p) for p in top])[0].argmax())
            rest = [p for p in range(N_PATCHES) if p not in top]
            without = int(network(x, keep=rest)[0].argmax())
    assert found["a"] == {"without": [[without]], "alone": [[alone]]}
    assert len(found["random"]["alone"][0]) == 20


# -- what is prepared --------------------------------------------------------------------------
def test_images_of_the_run_are_those_of_numpy(prepared, files) -> None:
    import nibabel as nib

    data = np.asarray(nib.load(files[1]).dataobj, dtype=np.float64)
    images = prepared.images[0]
    np.testing.assert_allclose(images.mean, data.mean(-1), rtol=1e-5)
    place = (2, 3, 9)
    t = np.arange(data.shape[-1])
    fit = np.polyval(np.polyfit(t, data[place], 1), t)
    sd = np.sqrt(((data[place] - fit) ** 2).sum() / (len(t) - 2))
    assert images.tsnr[place] == pytest.approx(data[place].mean() / sd, rel=1e-4)
    assert (images.tsnr[:, 10:] == 0).all()


def test_the_brain_is_where_the_images_are_not_zero(prepared) -> None:
    grid = prepared.brain.reshape(4, 2, 3)  # in the model's (k, i, j)
    assert prepared.brain_source.startswith("voxels of the mean image")
    assert grid[..., :2].all() and not grid[..., 2].any()
    assert not prepared.brain_voxels[:, 10:].any()


def test_motion_is_read_from_the_confounds(prepared, files) -> None:
    table = pd.read_csv(files[1].with_name("sub-01_confounds.tsv"), sep="\t")
    wanted = [table.iloc[pick.time_point, 0] for pick in prepared.plan.picks]
    np.testing.assert_allclose(prepared.motion, wanted)


def test_neighbours_are_the_next_volumes(prepared, files) -> None:
    import nibabel as nib

    data = np.asarray(nib.load(files[1]).dataobj, dtype=np.float32)
    seen = 0
    for n, pick in enumerate(prepared.plan.picks):
        volume = np.moveaxis(prepared.x[n, 0].numpy(), (0, 1, 2), (2, 0, 1))
        np.testing.assert_array_equal(volume, data[..., pick.time_point])
        if pick.neighbour is not None:
            seen += 1
            after = np.moveaxis(prepared.neighbours[n, 0].numpy(), (0, 1, 2), (2, 0, 1))
            np.testing.assert_array_equal(after, data[..., pick.time_point + 1])
        else:
            assert torch.isnan(prepared.neighbours[n]).all()
    assert seen


# -- point spread ------------------------------------------------------------------------------
def test_an_additive_model_has_a_narrow_point_spread(tmp_path, files) -> None:
    ready = prepared_of(save_model(tmp_path, mixed=False), source_of(files[1]))
    rows = measure_spread(ready, 0, 3, ["frozen_gate"], 1, 6, seed=0)["frozen_gate"]
    profile = mean_profile(rows, spread_bins(ready))
    # voxels of 3 mm, cubes of 1 x 2 x 1 voxels: the map changes there and nowhere else
    assert profile.width_mm < 9
    assert profile.change[profile.distance_mm > 9] == pytest.approx(0, abs=1e-9)


# -- randomisation and stability -----------------------------------------------------------------
def test_a_map_that_knows_only_the_build_fails_and_an_own_map_passes() -> None:
    rng = np.random.default_rng(0)
    picture = rng.normal(size=(4, 60))
    noise = rng.normal(size=(5, 4, 60))
    chance = rng.normal(size=(20, 4, 60))
    build = sanity.compare_with_random(picture, picture + 0.3 * noise, chance)
    own = sanity.compare_with_random(rng.normal(size=(4, 60)), picture + 0.3 * noise, chance)
    flipped = sanity.compare_with_random(picture, -picture + 0.3 * noise, chance)
    part = sanity.compare_with_random(
        picture + 2 * rng.normal(size=(4, 60)), picture + 0.3 * noise, chance
    )
    assert [build["verdict"], own["verdict"], flipped["verdict"]] == ["fail", "pass", "fail"]
    assert part["verdict"] == "warn"
    assert build["similarity"] > 0.9 and min(build["null"]) > 0.8


def test_noise_and_inputs(prepared) -> None:
    volumes, chosen = [0, 1, 2], [1, 1, 0]
    found = explain_volumes(prepared.model.explainer, prepared.x[:3], METHODS, chosen=chosen)
    given = (prepared, METHODS, volumes, chosen, found.patches)
    noisy = sanity.noise_agreement(*given, 0)
    assert all(0.99 < value <= 1 for values in noisy.values() for value in values)
    after = sanity.neighbour_agreement(*given)
    for name in METHODS:
        for k, value in enumerate(after[name]):
            assert np.isnan(value) == (prepared.plan.picks[k].neighbour is None)
    same = np.stack([found.patches["frozen_gate"][0]] * 3)
    assert sanity.input_agreement(same, [1, 1, 1], ["a", "b", "c"], prepared.inside) == 1
    assert np.isnan(sanity.input_agreement(same, [1, 1, 1], ["a"] * 3, prepared.inside))


def test_jitter_is_the_map_of_the_volume_moved_by_a_voxel(prepared) -> None:
    volumes, chosen = [0, 3], [1, 0]
    x = prepared.x[volumes].numpy()
    moved = np.zeros_like(x)
    moved[:, :, 1:, 1:, 1:] = x[:, :, :-1, :-1, :-1]
    explain = prepared.model.explainer
    own = explain_volumes(explain, prepared.x[volumes], METHODS, chosen=chosen)
    other = explain_volumes(explain, torch.from_numpy(moved), METHODS, chosen=chosen)
    found = sanity.jitter_agreement(prepared, METHODS, volumes, chosen, own.patches)
    for name in METHODS:
        for row in range(2):
            pair = [one.patches[name][row][prepared.inside] for one in (own, other)]
            assert found[name][row] == pytest.approx(spearmanr(*pair).statistic)


def test_other_classes_are_those_of_a_slow_computation(tmp_path, files) -> None:
    ready = prepared_of(save_model(tmp_path, classes=3), source_of(files[1]))
    volumes = [0, 1]
    first = explain_volumes(ready.model.explainer, ready.x[:2], ["frozen_gate"])
    maps, chosen = first.patches, list(first.chosen)
    found = sanity.class_agreement(ready, ["frozen_gate"], volumes, first.logits, chosen, maps)
    for n in volumes:
        second = int(np.argsort(first.logits[n])[-2])
        other = ready.model.explainer.explain(
            ready.x[n : n + 1], "frozen_gate", target=second, score="log_odds"
        )
        a, b = maps["frozen_gate"][n][ready.inside], other.relevance.flatten().numpy()[ready.inside]
        assert found["frozen_gate"][n] == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)


def test_models_that_differ_in_scale_agree() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 30))
    icc, rho = sanity.model_agreement([maps, 3 * maps], np.arange(30))
    assert icc == pytest.approx([1, 1]) and rho == pytest.approx([1, 1])


# -- the whole ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    other = save_model(folder, name="other", seed=5)
    module = load_candidate(files[0], "cpu").module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = evaluate_run(
        source_of(files[1], confounds=True),
        module,
        more_models=[other],
        null_models=[other],
        methods=[*METHODS, "token_gradcam"],
        settings=FAST,
    )
    return found, module, before


def test_the_model_is_left_as_it_was(whole) -> None:
    _, module, before = whole
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_the_table_has_a_row_per_map_and_every_number(whole) -> None:
    found = whole[0]
    table = found.table.set_index("map")
    assert list(table.index) == [*METHODS, "token_gradcam", *mc.BASELINES, mc.ORACLE]
    assert table["recommended"].sum() == 1 and table.loc[found.recommended, "recommended"]
    assert table.loc[mc.ORACLE, "relative_srg"] == pytest.approx(1)
    assert table.loc[mc.RANDOM, "relative_srg"] == pytest.approx(0)
    assert table.loc[mc.ORACLE, "single"] == pytest.approx(1)
    methods = table.loc[METHODS]
    for column in ("srg", "saco", "single", "deletion", "insertion", "spread_mm", "like_random"):
        assert np.isfinite(methods[column].astype(float)).all(), column
    for column in ("agree_noise", "agree_neighbours", "icc_models", "with_temporal_SNR"):
        assert np.isfinite(methods[column].astype(float)).all(), column
    assert np.isfinite(methods["motion_and_size"]).all()
    assert list(found.values["null_models"]) == ["other"]
    for name in METHODS:
        assert table.loc[name, "like_permuted"] == found.values["null_models"]["other"][name]
        assert np.isfinite(table.loc[name, "agree_jitter"])
        assert np.isnan(table.loc[name, "with_brain_coverage"])  # every patch here is full


def test_every_column_is_explained(whole) -> None:
    from g3dvit.evaluate.words import COLUMNS

    bare = {c.removesuffix("_low").removesuffix("_high") for c in whole[0].table.columns}
    assert bare <= set(COLUMNS)


def test_relative_gain_is_that_of_the_means(whole) -> None:
    table = whole[0].table.set_index("map")["srg"]
    name = METHODS[0]
    wanted = (table[name] - table[mc.RANDOM]) / (table[mc.ORACLE] - table[mc.RANDOM])
    assert whole[0].table.set_index("map").loc[name, "relative_srg"] == pytest.approx(wanted)


def test_the_method_is_chosen_on_volumes_that_are_not_reported(whole) -> None:
    found = whole[0]
    methods = found.table[found.table["kind"] == "method"].set_index("map")
    assert found.recommended == methods["selection_srg"].idxmax()
    assert found.values["n_units"] + found.values["n_units_selection"] == 8
    assert "no block is in both" in found.values["volumes"]


def test_the_sentence_has_the_numbers_and_their_n(whole) -> None:
    found = whole[0]
    row = found.table.set_index("map").loc[found.recommended]
    for piece in (
        found.recommended,
        f"{row['srg']:.2f} ",
        "4 volumes of 4 blocks of one subject",
        "no p-value with 4 blocks",
        "not where brains differ",
    ):
        assert piece in found.sentence or piece.strip() + "," in found.sentence, piece
    assert any("One subject" in note for note in found.notes)
    assert any("0.250" in note for note in found.notes)  # 3 random orders: 1 / 4


def test_specifications_cover_layer_score_target_and_method(whole) -> None:
    table = whole[0].choices
    assert set(table["method"]) == {*METHODS, "token_gradcam"}
    assert set(table["score"]) == {"logit", "log_odds", "probability"}
    assert set(table["target"]) == {"predicted class", "task"}
    layered = table[table["method"] == "hirescam"]
    assert len(set(layered["layer"])) > 2
    own = table[
        (table["method"] == whole[0].recommended)
        & (table["score"] == "log_odds")
        & (table["target"] == "predicted class")
    ]
    assert own["agreement"].max() == pytest.approx(1)


def test_with_six_units_there_is_a_p_value(files, tmp_path) -> None:
    found = evaluate_run(
        source_of(files[1]),
        files[0],
        methods=["frozen_gate"],
        settings=replace(
            FAST,
            n_volumes=16,
            skip=("regions", "choices", "spread", "randomisation", "stability", "context"),
        ),
    )
    row = found.table.set_index("map").loc["frozen_gate"]
    assert found.values["n_units"] == 8
    assert 2 / 2**8 <= row["p_random"] <= 1
    assert not len(found.regions) and not len(found.choices)
    written = {path.name for path in write_evaluation(found, tmp_path)}
    assert "evaluation.png" in written and "specifications.png" not in written
    regions = pd.read_csv(tmp_path / "regions.tsv", sep="\t")
    assert list(regions.columns[:2]) == ["map", "share"] and not len(regions)


def test_subjects_are_the_units_where_there_are_several(tmp_path) -> None:
    images = [save_run(tmp_path, name=f"sub-{n:02d}", seed=n) for n in range(1, 4)]
    runs = open_runs(source_of(*images))
    plan = plan_volumes(runs, 12)
    assert (plan.unit, plan.n_subjects) == ("subject", 3)
    halves = {half: {plan.picks[n].unit for n in plan.of(half)} for half in ("selection", "report")}
    assert not halves["selection"] & halves["report"]
    for half in ("selection", "report"):
        labels = [plan.picks[n].label for n in plan.of(half)]
        assert labels.count("rest") == labels.count("task") == 3


def test_single_volumes_of_many_subjects(tmp_path, files) -> None:
    import nibabel as nib

    whole = nib.load(files[1])
    rows, images = ["participant_id\tdiagnosis"], []
    for n in range(10):
        path = tmp_path / f"sub-{n:02d}_space-MNI152NLin6Asym_T1w.nii.gz"
        nib.save(whole.slicer[..., 3 * n], path)
        images.append(path)
        rows.append(f"sub-{n:02d}\t{'task' if n % 2 else 'rest'}")
    (tmp_path / "participants.tsv").write_text("\n".join(rows) + "\n")
    source = RunSource(images=tuple(images), labels=tmp_path / "participants.tsv")
    found = evaluate_run(
        source, files[0], methods=["frozen_gate"], settings=replace(FAST, skip=("choices",))
    )
    assert (found.values["unit"], found.values["n_units"]) == ("subject", 4)
    assert found.values["n_subjects"] == 10
    with pytest.raises(InputError, match="1 volume was selected"):
        evaluate_run(RunSource(images=(images[0],)), files[0])


def test_a_map_from_elsewhere_is_a_row_of_the_table(tmp_path) -> None:
    import nibabel as nib

    model, image = save_planted_model(tmp_path), save_planted_run(tmp_path, "LPS")
    data = np.zeros((12, 15, 16), np.float32)
    data[6:12, 0:5, 8:12] = -3  # where the model looks; only the size counts
    affine = nib.affines.from_matvec(np.diag([3.0] * 3), [-18, -20, -15])
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "z.nii.gz")
    skip = ("regions", "choices", "spread", "randomisation", "stability", "context")
    given = {"glm": tmp_path / "z.nii.gz"}
    source = RunSource(images=(image,))
    found = evaluate_run(source, model, given=given, settings=replace(FAST, skip=skip))
    row = found.table.set_index("map").loc["glm"]
    assert row["kind"] == "given" and row["relative_srg"] > 0.9
    assert found.recommended != "glm"
    with pytest.raises(InputError, match="already"):
        evaluate_run(source, model, given={"frozen_gate": tmp_path / "z.nii.gz"})


def test_maps_agree_with_maps_from_elsewhere_per_patch_in_the_brain(prepared) -> None:
    rng = np.random.default_rng(1)
    elsewhere, maps = rng.random(N_PATCHES), rng.normal(size=(2, N_PATCHES))
    found = image_agreement(replace(prepared, given={"glm": elsewhere}), [0, 3], maps)
    for row in range(2):
        expected = spearmanr(np.abs(maps[row])[prepared.inside], elsewhere[prepared.inside])
        assert found["glm"][row] == pytest.approx(expected.statistic)
    assert len(prepared.inside) < N_PATCHES


def test_a_baseline_folder_is_in_the_table_and_maps_agree_with_it(tmp_path) -> None:
    import nibabel as nib

    model, image = save_planted_model(tmp_path), save_planted_run(tmp_path, "LPS")
    data = np.zeros((12, 15, 16), np.float32)
    data[6:12, 0:5, 8:12] = 3
    data += np.random.default_rng(0).random(data.shape).astype(np.float32)
    affine = nib.affines.from_matvec(np.diag([3.0] * 3), [-18, -20, -15])
    folder = tmp_path / "baseline"
    (folder / "maps").mkdir(parents=True)
    nib.save(nib.Nifti1Image(data, affine), folder / "maps" / "glm.nii.gz")
    content = {
        "maps": {"glm": "maps/glm.nii.gz"},
        "accuracy": [{"fold": "1"}, {"fold": "all", "approach": "linear"}],
        "sentence": "A linear decoder does as well.",
        "model_sha256": "another",
    }
    (folder / "baseline.json").write_text(json.dumps(content))
    skip = ("regions", "choices", "spread", "randomisation", "stability")
    source = RunSource(images=(image,))
    found = evaluate_run(source, model, baseline=folder, settings=replace(FAST, skip=skip))
    table = found.table.set_index("map")
    assert table.loc["glm", "kind"] == "given"
    assert found.values["baseline"]["accuracy"] == ({"fold": "all", "approach": "linear"},)
    assert any("linear decoder does as well" in note for note in found.notes)
    assert np.isfinite(table.loc["frozen_gate", "with_glm"])
    write_evaluation(found, tmp_path)
    columns = json.loads((tmp_path / "evaluation.json").read_text())["columns"]
    assert "with_glm" in columns
    with pytest.raises(InputError, match="called 'glm' too"):
        evaluate_run(source, model, baseline=folder, given={"glm": folder / "maps/glm.nii.gz"})
    with pytest.raises(InputError, match="no folder of g3dvit baseline"):
        evaluate_run(source, model, baseline=tmp_path / "maps")


def test_training_data_are_told_in_the_sentence(tmp_path, files) -> None:
    model = save_model(tmp_path, name="seen")
    text = model.read_text() + f"trained_on: [{files[1].name.removesuffix('_bold.nii.gz')}]\n"
    model.write_text(text)
    skip = ("regions", "choices", "spread", "randomisation", "stability", "context")
    settings = replace(FAST, skip=skip)
    found = evaluate_run(source_of(files[1]), model, methods=["frozen_gate"], settings=settings)
    assert "trained on runs of these data" in found.sentence
    assert any("training data say nothing" in note for note in found.notes)


def test_a_contrast_is_followed_as_a_contrast(files) -> None:
    found = evaluate_run(
        source_of(files[1]),
        files[0],
        methods=["frozen_gate"],
        target="task-rest",
        settings=replace(FAST, skip=("regions", "spread", "randomisation")),
    )
    assert found.values["target"] == "task - rest"
    assert "task - rest" in found.sentence


def test_some_volumes_are_of_every_class(prepared) -> None:
    few = prepared.plan.some("report", 2)
    assert {prepared.plan.picks[n].label for n in few} == {"rest", "task"}
    assert set(few) <= set(prepared.plan.of("report"))
    assert sorted(prepared.plan.some("report", 99)) == prepared.plan.of("report")


def test_two_runs_of_one_subject_are_runs(tmp_path) -> None:
    images = [save_run(tmp_path, name=f"sub-01_run-{n}", seed=n) for n in (1, 2)]
    events = tmp_path / "sub-01_run-1_events.tsv"
    runs = open_runs(replace(source_of(*images), events=(events, events)))
    assert plan_volumes(runs, 8).unit == "run"


# -- models that do not allow everything -----------------------------------------------------------
def test_where_tokens_cannot_be_taken_out_patches_are_replaced(tmp_path, files) -> None:
    found = evaluate_run(
        source_of(files[1]),
        save_model(tmp_path, flat=True),
        settings=replace(FAST, skip=("choices",)),
    )
    assert found.values["removal"] == "patches of another volume"
    assert any("cannot be taken out" in note for note in found.notes)
    assert "replaced by those of another volume" in found.sentence


def test_where_one_patch_decides_the_map_says_so(tmp_path) -> None:
    model, image = save_planted_model(tmp_path), save_planted_run(tmp_path)
    found = evaluate_run(
        RunSource(images=(image,)), model, settings=replace(FAST, skip=("choices",))
    )
    assert any("gradient_rollout is left out" in note for note in found.notes)
    row = found.table.set_index("map").loc["frozen_gate"]
    assert row["relative_srg"] > 0.9
    assert found.values["unit"] == "stretch of time"
    assert any("without labels" in note for note in found.notes)


def test_models_must_see_the_same_volumes(tmp_path, files) -> None:
    with pytest.raises(DescriptionError, match="different classes"):
        evaluate_run(
            source_of(files[1]),
            files[0],
            more_models=[save_model(tmp_path, classes=3)],
            settings=FAST,
        )


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="no step 'curves'"):
        EvaluationSettings(skip=("curves",))
    with pytest.raises(InputError, match="random_orders"):
        EvaluationSettings(random_orders=0)
    with pytest.raises(InputError, match="at least 3"):
        EvaluationSettings(random_models=2)


# -- the command -------------------------------------------------------------------------------
def _words(files, output, *more: str) -> list[str]:
    model, image = files
    return [
        "evaluate", str(image), "-m", str(model), "-o", str(output),
        "--events", str(image.with_name("sub-01_events.tsv")), "--delay", "0",
        "--classes", "rest=rest", "task=task", "--method", "frozen_gate", "hirescam",
        "--volumes-in-all", "8", "--random-orders", "3", "--random-models", "3", *more,
    ]  # fmt: skip


def test_the_command_stops_and_goes_on(files, tmp_path, monkeypatch, capsys) -> None:
    output, parts = tmp_path / "out", tmp_path / ".out.parts"
    real, calls = mc.measure_volume, []

    def interrupted(*given):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given)

    monkeypatch.setattr("g3dvit.evaluate.job.measure_volume", interrupted)
    assert main(_words(files, output)) == 130
    assert not output.exists()
    assert "goes on from there" in capsys.readouterr().err
    kept = sorted(parts.rglob("curves-*.json"))
    assert len(kept) == 2
    monkeypatch.setattr("g3dvit.evaluate.job.measure_volume", real)
    assert main(_words(files, output)) == 0
    assert not parts.exists()
    told = capsys.readouterr()
    assert "frozen_gate" in told.out and "passes of the model" in told.err
    for name in ("evaluation.tsv", "regions.tsv", "specifications.tsv", "sentence.txt"):
        assert (output / name).read_text().strip()
    values = json.loads((output / "evaluation.json").read_text())
    assert values["schema_version"] == 1 and values["sentence"]
    assert (output / "figures" / "evaluation.png").stat().st_size > 20_000
    table = pd.read_csv(output / "evaluation.tsv", sep="\t")
    assert len(table) == 2 + 4 + 1

    assert main(_words(files, output)) == 1  # not overwritten unasked
    assert "--overwrite" in capsys.readouterr().err


def test_parts_of_other_settings_are_not_taken(files, tmp_path) -> None:
    skip = ("regions", "choices", "spread", "randomisation", "stability", "context")
    settings = replace(FAST, skip=skip)
    given = (source_of(files[1]), files[0])
    evaluate_run(*given, methods=["frozen_gate"], settings=settings, parts=tmp_path)
    first = {path.name for path in tmp_path.iterdir()}
    evaluate_run(*given, methods=["frozen_gate"], settings=settings, parts=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == first
    evaluate_run(
        *given, methods=["frozen_gate"], settings=replace(settings, seed=1), parts=tmp_path
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_resumed_job_gives_the_same_numbers(files, tmp_path) -> None:
    skip = ("choices", "spread", "randomisation")
    settings = replace(FAST, skip=skip)
    given = (source_of(files[1]), files[0])
    fresh = evaluate_run(*given, methods=METHODS, settings=settings)
    evaluate_run(*given, methods=METHODS, settings=settings, parts=tmp_path)
    again = evaluate_run(*given, methods=METHODS, settings=settings, parts=tmp_path)
    pd.testing.assert_frame_equal(fresh.table, again.table)
    assert fresh.sentence == again.sentence


def test_parts_of_images_that_were_changed_are_not_taken(files, tmp_path) -> None:
    import nibabel as nib

    skip = ("regions", "choices", "spread", "randomisation", "stability", "context")
    settings = replace(FAST, skip=skip)
    image, parts = save_run(tmp_path), tmp_path / "parts"
    # not compressed, so that other values take as many bytes
    path = image.with_name("sub-01_task-x_space-MNI152NLin6Asym_desc-a_bold.nii")
    nib.save(nib.load(image), path)
    given = (replace(source_of(image), images=(path,)), files[0])
    first = evaluate_run(*given, methods=["frozen_gate"], settings=settings, parts=parts)
    whole = nib.load(path)
    changed = nib.Nifti1Image(np.asarray(whole.dataobj)[..., ::-1].copy(), None, whole.header)
    size = path.stat().st_size
    nib.save(changed, path)
    assert path.stat().st_size == size
    second = evaluate_run(*given, methods=["frozen_gate"], settings=settings, parts=parts)
    assert len(list(parts.iterdir())) == 2
    assert not first.table["srg"].equals(second.table["srg"])


def test_runs_whose_names_tell_no_subject_are_not_called_one_persons(tmp_path) -> None:
    images = [save_run(tmp_path, name=f"patient{n}", seed=n) for n in range(1, 4)]
    plan = plan_volumes(open_runs(source_of(*images)), 12)
    assert (plan.unit, plan.n_subjects) == ("run", None)
    values = {"n_units": 2, "unit": plan.unit, "n_subjects": plan.n_subjects}
    assert units_in_words(values) == "2 runs (whose subjects are not known)"
    assert units_in_words(values | {"n_subjects": 1}) == "2 runs of one subject"


def test_a_model_that_guesses_is_told_beside_its_faithful_maps(files, tmp_path) -> None:
    skip = ("regions", "choices", "spread", "randomisation", "stability", "context")
    settings = replace(FAST, skip=skip)
    known = {"n_correct": [5, 4], "n_total": [10, 10], "unit": "block"}
    guessing = tmp_path / "guessing.yaml"
    values = yaml.safe_load(files[0].read_text())
    values["weights"] = str(files[0].parent / values["weights"])
    guessing.write_text(yaml.safe_dump(values | {"accuracy": known}))
    source = replace(source_of(files[1]), events=(), classes={}, delay_s=5.0)
    found = evaluate_run(source, guessing, methods=["frozen_gate"], settings=settings)
    told = "This model cannot be told from chance, so its maps show nothing (balanced accuracy 0.45"
    assert told in found.sentence and found.notes[0].startswith(told)
    assert found.values["accuracy"][0].verdict == "fail"
    unlabelled = evaluate_run(source, files[0], methods=["frozen_gate"], settings=settings)
    assert "chance" not in unlabelled.sentence.replace("no method was chosen", "")
    assert unlabelled.notes[0].startswith("Accuracy unknown: no volume has a label")


@pytest.mark.parametrize(
    ("verdicts", "says"), [(("fail",), True), (("fail", "pass"), False), ((), False)]
)
def test_one_good_answer_is_enough_not_to_be_called_guessing(verdicts, says) -> None:
    checks = [Check("better than chance", 0.4, None, 0.5, v, f"It is {v}.") for v in verdicts]
    assert bool(at_chance(checks)) == says
