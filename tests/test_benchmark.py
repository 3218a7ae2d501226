from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from g3dvit.benchmark import (
    ROWS,
    MapSettings,
    ModelRecipe,
    ModelSettings,
    Part,
    RunSettings,
    all_cases,
    default_cache,
    find_cases,
    run_case,
    run_cases,
    summarise,
    to_markdown,
    to_tsv,
    trained_model,
    volume_metrics,
)
from g3dvit.benchmark import models as models_module
from g3dvit.benchmark.cases import Case
from g3dvit.benchmark.maps import LATER_ROWS, SLOW_ROWS
from g3dvit.benchmark.metrics import average_precision, patch_metrics
from g3dvit.benchmark.model_maps import upsample
from g3dvit.benchmark.models import build_model
from g3dvit.benchmark.removal import log_odds, removal_gain, single_removal
from g3dvit.benchmark.run import finished_part, part_path
from g3dvit.benchmark.table import columns_of, nested_interval
from g3dvit.benchmark.vit3d import embed, logits_of
from g3dvit.cli import benchmark as command
from g3dvit.errors import InputError, MethodError
from g3dvit.grids import ImageGrid
from g3dvit.phantoms import Cubes, PhantomVolumes

pytest.importorskip("vit_pytorch")

CUBES = Cubes(task="content", size=4, shape=(8, 12, 12), noise=0.3)
TINY = ModelRecipe(
    CUBES,
    patch_size=4,
    dim=24,
    depth=2,
    heads=2,
    dim_head=8,
    mlp_dim=32,
    n_train=96,
    epochs=3,
    batch_size=16,
    learning_rate=2e-3,
)


# -- models ----------------------------------------------------------------------------------
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("patch_norm", [True, False])
def test_the_two_halves_are_the_model(pooling: str, patch_norm: bool) -> None:
    recipe = replace(TINY, pooling=pooling, patch_norm=patch_norm)  # type: ignore[arg-type]
    model = build_model(recipe)
    x = torch.from_numpy(CUBES.draw(3).volumes)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, embed(model, x)), model(x))
        changed = (model(2 * x + 1) - model(x)).abs().max()
    assert (changed < 1e-3) == patch_norm  # such a model cannot see a patch's amplitude


def test_a_trained_model_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained_model(TINY, tmp_path)
    assert first.training_accuracy > 0.4
    monkeypatch.setattr(models_module, "_train", lambda *_args: pytest.fail("trained again"))
    again = trained_model(TINY, tmp_path)
    assert again.training_accuracy == first.training_accuracy
    for one, two in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert replace(TINY, seed=1).hash != TINY.hash
    assert not list((tmp_path / "phantom-models").glob("*.partial"))


def test_an_interrupted_training_goes_on_and_is_the_same_training(tmp_path: Path) -> None:
    whole = trained_model(TINY, tmp_path / "whole")

    def interrupt(epoch: int, _epochs: int, _accuracy: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained_model(TINY, tmp_path / "cut", progress=interrupt)
    epochs = []
    resumed = trained_model(
        TINY, tmp_path / "cut", progress=lambda epoch, _all, _acc: epochs.append(epoch)
    )
    assert epochs == [3]
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_permuted_and_untrained_models_are_other_models(tmp_path: Path) -> None:
    untrained = trained_model(replace(TINY, labels="untrained"), tmp_path)
    assert np.isnan(untrained.training_accuracy)
    assert not list(tmp_path.iterdir())
    assert replace(TINY, labels="permuted").hash != TINY.hash
    with pytest.raises(InputError, match="`labels` is true, permuted or untrained"):
        replace(TINY, labels="shuffled")  # type: ignore[arg-type]


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    trained_model(replace(TINY, epochs=1), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G3DVIT_CACHE", "/somewhere/else")
    assert default_cache() == Path("/somewhere/else")
    monkeypatch.delenv("G3DVIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_cache() == Path("/cache/g3dvit")


# -- cases -----------------------------------------------------------------------------------
def test_cases_by_group_and_name() -> None:
    base = [case.name for case in find_cases(["base"])]
    assert base == ["realnoise-cls", "realnoise-mean", "cubes-position", "cubes-content"]
    assert [c.name for c in find_cases(["realnoise-weak", "base"])] == ["realnoise-weak", *base]
    assert "quick-cubes" not in [case.name for case in find_cases(["all"])]
    with pytest.raises(InputError, match="there is no case 'spheres'"):
        find_cases(["spheres"])


def test_sealed_cases_are_other_cases_with_the_same_names() -> None:
    development, sealed = all_cases("development"), all_cases("sealed")
    assert development.keys() == sealed.keys()
    for name in development:
        assert development[name].recipe.hash != sealed[name].recipe.hash
        assert sealed[name].recipe.phantom.family == "sealed"


def test_a_real_run_brings_one_more_case(tmp_path: Path) -> None:
    for name in ("bold.nii.gz", "events.tsv"):
        (tmp_path / name).write_text("x")
    given = [str(tmp_path / "bold.nii.gz"), str(tmp_path / "events.tsv"), "2.0"]
    (case,) = find_cases(["realnoise-residuals"], "sealed", command._residuals(given))
    assert case.recipe.phantom.residuals.t_r == 2.0
    with pytest.raises(InputError, match="there is no case 'realnoise-residuals'"):
        find_cases(["realnoise-residuals"])
    with pytest.raises(InputError, match="repetition time in seconds, was given 'two'"):
        command._residuals([*given[:2], "two"])
    with pytest.raises(InputError, match="there is no file"):
        command._residuals([given[0], "nowhere.tsv", "2"])


# -- numbers ---------------------------------------------------------------------------------
def test_average_precision_equals_a_slow_sum_and_counts_ties_together() -> None:
    rng = np.random.default_rng(0)
    values, truth = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.3
    expected, before = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        above = values >= threshold
        recall = (above & truth).sum() / truth.sum()
        expected += (recall - before) * (above & truth).sum() / above.sum()
        before = recall
    assert average_precision(values, truth) == pytest.approx(expected, rel=1e-12)


def planted(distractor: bool = True) -> PhantomVolumes:
    shape = (12, 16, 20)
    masks = [np.zeros((1, *shape), bool) for _ in range(3)]
    used, other, ignored = masks
    used[0, 2:5, 3:6, 4:7] = True
    if distractor:
        other[0, 8:11, 10:13, 12:15] = True
    ignored[0, 9:, :3, :3] = True
    empty = np.zeros((1, *shape), np.float32)
    return PhantomVolumes(
        empty, np.zeros(1, np.intp), empty, used, used, other, ignored,
        np.ones(shape, bool), ImageGrid(shape, np.diag([2.0, 3.0, 4.0, 1.0])), ("a", "b"),
    )  # fmt: skip


def numbers_of(relevance: np.ndarray, drawn: PhantomVolumes) -> dict[str, float]:
    patches = relevance.reshape(3, 4, 4, 4, 4, 5).mean(axis=(1, 3, 5))
    return volume_metrics(relevance, patches, drawn, 0)


def test_a_perfect_map_and_its_opposite() -> None:
    drawn = planted()
    rng = np.random.default_rng(0)
    good = (drawn.used[0] + 0.01 * rng.random(drawn.mask.shape)).astype(np.float32)
    numbers = numbers_of(good, drawn)
    assert numbers["auc"] == numbers["ap"] == numbers["pointing"] == numbers["patch_auc"] == 1
    assert numbers["peak_mm"] == 0
    assert 0.3 < numbers["distractor_auc"] < 0.7
    inside = drawn.mask & ~drawn.ignored[0]
    assert 50 < numbers["mass"] <= inside.sum() / 27
    bad = numbers_of(-good, drawn)
    assert bad["auc"] == 0 and bad["pointing"] == 0 and bad["peak_mm"] > 0
    assert bad["associated_auc"] == 0


def test_a_map_of_the_distractor_is_told_as_such() -> None:
    drawn = planted()
    numbers = numbers_of(drawn.distractor[0].astype(np.float32), drawn)
    assert numbers["distractor_auc"] == 1
    assert numbers["distractor_mass"] > 50
    # Nearest voxels (8, 10, 12) and (4, 5, 6) seen from the middle of the distractor, (9, 11, 13).
    assert numbers["peak_mm"] == pytest.approx(np.linalg.norm([5 * 2, 6 * 3, 7 * 4]))
    assert np.isnan(numbers_of(numbers_map(), planted(distractor=False))["distractor_auc"])


def numbers_map() -> np.ndarray:
    return np.random.default_rng(0).random((12, 16, 20)).astype(np.float32)


def test_what_is_ignored_does_not_count() -> None:
    drawn = planted()
    values = numbers_map()
    loud = np.where(drawn.ignored[0], 100, values).astype(np.float32)
    assert numbers_of(loud, drawn) == numbers_of(values, drawn)


def test_a_volume_without_truth_has_no_numbers() -> None:
    drawn = planted()
    drawn.used[0] = False
    assert all(np.isnan(v) for v in numbers_of(numbers_map(), drawn).values())


def test_patch_metrics_equal_a_slow_loop() -> None:
    drawn, patches = planted(), np.random.default_rng(3).random((3, 4, 4))
    inside = drawn.mask & ~drawn.ignored[0]
    inside[:4, 4:8, 10:15] = False  # a patch that does not count
    means, present = [], []
    for i, j, k in np.ndindex(3, 4, 4):
        box = (slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4), slice(5 * k, 5 * k + 5))
        if inside[box].any():
            means.append(patches[i, j, k])
            present.append(drawn.used[0][box].any())
    assert len(means) == 47
    pairs = [
        (a > b)
        for a, p in zip(means, present, strict=True)
        if p
        for b, q in zip(means, present, strict=True)
        if not q
    ]
    found = patch_metrics(patches, drawn.used[0] & inside, inside)
    assert found["patch_auc"] == pytest.approx(np.mean(pairs))
    assert found["patch_pointing"] == present[int(np.argmax(means))]
    order = np.argsort(means)[::-1]
    hits = np.array(present)[order]
    precision = [hits[: n + 1].mean() for n in range(len(hits)) if hits[n]]
    assert found["patch_ap"] == pytest.approx(np.mean(precision))


def test_upsampled_patches_keep_their_values_at_their_centres() -> None:
    tokens = torch.randn(2, 2, 3, 4)
    fine = upsample(tokens, (6, 9, 12))
    np.testing.assert_allclose(fine[:, 1::3, 1::3, 1::3], tokens.numpy(), atol=1e-6)


# -- token removal ---------------------------------------------------------------------------
def test_single_removal_and_curves_equal_slow_loops() -> None:
    model = build_model(TINY)
    drawn = CUBES.draw(2, "test", 1)
    with torch.no_grad():
        tokens = embed(model, torch.from_numpy(drawn.volumes)[:, None])
    patches = np.array([0, 2, 3, 5, 8, 11, 12, 14, 16, 17])
    truth = torch.from_numpy(drawn.labels)

    def score(n: int, removed: list[int]) -> float:
        keep = [t for t in range(tokens.shape[1]) if t - 1 not in removed]
        with torch.no_grad():
            return float(log_odds(logits_of(model, tokens[n : n + 1, keep]), truth[n : n + 1]))

    drops = np.stack([single_removal(model, tokens[n], int(truth[n]), patches) for n in range(2)])
    for n in range(2):
        expected = [score(n, []) - score(n, [p]) for p in patches]
        np.testing.assert_allclose(drops[n], expected, atol=1e-5)
    gain = removal_gain(model, tokens, drawn.labels, drops, patches)
    for n in range(2):
        best = [int(p) for p in patches[np.argsort(-drops[n])]]
        curve = [score(n, best[::-1][:c]) - score(n, best[:c]) for c in range(0, 11, 2)]
        assert gain[n] == pytest.approx(np.mean(curve), abs=1e-5)


def test_log_odds_of_three_classes() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    expected = 2.0 - np.log(np.exp(1.0) + np.exp(0.5))
    assert float(log_odds(logits, torch.tensor([1]))) == pytest.approx(expected)


# -- tables ----------------------------------------------------------------------------------
def part(seed: int, auc: list[float]) -> Part:
    values = {"frozen_gate": {"auc": np.array(auc), "srg": np.full(len(auc), np.nan)}}
    seconds = {"frozen_gate": 0.5}
    return Part("a-case", "cubes", "development", seed, "x", 0.9, 0.01, values, seconds, {})


def test_the_interval_is_nested_in_seeds() -> None:
    rng = np.random.default_rng(0)
    apart = [0.5 + 0.01 * rng.standard_normal(200), 0.9 + 0.01 * rng.standard_normal(200)]
    cell = nested_interval(apart)
    assert cell.mean == pytest.approx(0.7, abs=0.01)
    assert cell.low < 0.51 and cell.high > 0.89  # 400 volumes, but only two trainings
    together = nested_interval([np.concatenate(apart)])
    assert together.high - together.low < 0.06
    assert np.isnan(nested_interval([np.array([np.nan])]).mean)
    assert nested_interval([np.array([1.0, np.nan, 3.0])]).n_volumes == 2


def test_the_table_says_what_was_run() -> None:
    lines = summarise([part(0, [0.5, 0.7]), part(1, [0.9, 0.9])], draws=50)
    assert lines[0].cells["auc"].mean == pytest.approx(0.75)
    text = to_markdown(lines)
    assert "2 training seeds, 4 held-out volumes" in text
    assert "development family" in text and "| frozen gates, content and position" in text
    rows = list(csv.DictReader(to_tsv(lines).splitlines(), delimiter="\t"))
    found = {row["metric"]: row["mean"] for row in rows}
    assert float(found["auc"]) == pytest.approx(0.75)
    assert found["srg"] == "n/a"


@pytest.mark.parametrize("associated", [0.5, 0.75])
def test_what_is_associated_has_a_column_where_it_is_not_all_that_is_used(associated) -> None:
    plain = part(0, [0.4, 0.6])
    plain.values["frozen_gate"]["associated_auc"] = np.full(2, associated)
    lines = summarise([plain], draws=50)
    differs = associated != 0.5
    assert ("associated_auc" in columns_of(lines)) == differs
    assert ("AUC assoc." in to_markdown(lines)) == differs


# -- the whole -------------------------------------------------------------------------------
def test_a_case_is_run_once_and_every_row_has_numbers(tmp_path: Path) -> None:
    case = Case("tiny", TINY, "quick")
    settings = RunSettings(MapSettings(model=ModelSettings(8, samples=2), n_slow=3), n_test=6)
    talk: list[str] = []
    first = run_case(case, 0, settings, folder=tmp_path, cache=tmp_path, talk=talk.append)
    assert len(talk) == TINY.epochs + 1  # six parts, measured at once
    assert set(first.values) == set(ROWS)
    for row in ROWS:
        asked = 3 if row in SLOW_ROWS else 6
        assert np.isfinite(first.values[row]["auc"]).sum() >= asked - 1
        assert np.isfinite(first.values[row]["relative_srg"]).sum() == 3
    assert 0 <= first.kept["shift_averaged"] <= 8
    again = run_case(case, 0, settings, folder=tmp_path, cache=tmp_path, talk=talk.append)
    assert len(talk) == TINY.epochs + 1  # nothing was done
    for row in ROWS:
        np.testing.assert_array_equal(first.values[row]["auc"], again.values[row]["auc"])
    other = replace(settings, n_test=5)
    run_case(case, 0, other, folder=tmp_path, cache=tmp_path)
    assert len(list((tmp_path / "parts").iterdir())) == 12


def test_rows_that_joined_later_are_measured_like_the_others(tmp_path: Path) -> None:
    case = Case("tiny", TINY, "quick")
    rows = ("token_gradcam", "frozen_gate", "shift_averaged_local")
    settings = RunSettings(MapSettings(rows=rows, n_slow=2), n_test=4)
    part = run_case(case, 0, settings, folder=tmp_path, cache=tmp_path)
    assert tuple(part.values) == rows
    late = part.values["shift_averaged_local"]
    better = late["auc"] > part.values["token_gradcam"]["auc"]
    np.testing.assert_array_equal(
        late["beats_seed"], np.where(np.isnan(late["auc"]), np.nan, better)
    )
    (measured,) = (
        line for line in summarise([part, replace(part, values={rows[0]: part.values[rows[0]]})])
        if line.row == "shift_averaged_local"
    )  # fmt: skip
    assert measured.seeds == 1
    # Without the later part what came first is still there.
    late_file = part_path(
        case, 0, replace(settings, maps=replace(settings.maps, rows=rows[2:])), tmp_path
    )
    late_file.unlink()
    known = finished_part(case, 0, settings, tmp_path)
    assert known is not None and tuple(known.values) == rows[:2]
    assert finished_part(case, 1, settings, tmp_path) is None


def test_the_parts_that_are_kept_with_the_project_are_those_of_its_settings() -> None:
    """A change of the settings, recipes or phantoms that makes them void must be seen."""
    folder = Path(__file__).parents[1] / "benchmarks" / "phantoms"
    settings = RunSettings(MapSettings(rows=tuple(ROWS)))
    names = {path.name for path in (folder / "parts").iterdir()}
    known = set()
    for case in find_cases(["all"], "sealed"):
        for seed in range(5):
            part = finished_part(case, seed, settings, folder)
            if part is not None:
                assert part.family == "sealed" and part.seed == seed
                # Nothing was planted, or nothing that a model with normalised patches can see.
                no_truth = case.name == "realnoise-chance" or case.name.endswith("as-it-was")
                assert np.isfinite(part.values["frozen_gate"]["auc"]).any() != no_truth
                later = {row for group in LATER_ROWS for row in group}
                for rows in (tuple(r for r in ROWS if r not in later), *LATER_ROWS):
                    some = replace(settings, maps=replace(settings.maps, rows=rows))
                    known.add(part_path(case, seed, some, folder).name)
    assert names <= known and names


def test_parts_of_several_processes_are_those_of_one(tmp_path: Path) -> None:
    work = [(Case("tiny", TINY, "quick"), 0), (Case("tiny", TINY, "quick"), 1)]
    maps = MapSettings(rows=("input", "frozen_gate"), n_slow=2)
    settings = RunSettings(maps, n_test=4)
    one = run_cases(work, settings, folder=tmp_path / "one", cache=tmp_path / "one", jobs=1)
    two = run_cases(work, settings, folder=tmp_path / "two", cache=tmp_path / "two", jobs=2)
    assert [part.seed for part in two] == [0, 1]
    for a, b in zip(one, two, strict=True):
        for row in maps.rows:
            np.testing.assert_allclose(a.values[row]["auc"], b.values[row]["auc"], rtol=1e-3)
    with pytest.raises(InputError, match="`jobs` is at least 1"):
        run_cases(work, settings, folder=tmp_path, jobs=0)


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(MethodError, match="there is no row 'grad'"):
        MapSettings(rows=("grad",))


def test_the_command_writes_tables_figures_and_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "g3dvit.benchmark.find_cases", lambda *_args: (Case("tiny", TINY, "quick"),)
    )
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["--quick", "--volumes", "4", "--shifts", "1", "-o", str(tmp_path / "out")]
    assert command.run(parser.parse_args([*given, "--cache", str(tmp_path)])) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.stat().st_size > 100 for path in written)
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "g3dvit benchmark --volumes 4 --shifts 1 --quick -o benchmark" in text
    assert str(tmp_path) not in text
    assert "### tiny" in text and "1 training seed," in text
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {line["row"] for line in table["lines"]} == set(ROWS)
    assert isinstance(build_model(TINY), nn.Module)
    # From what is there, with a text below; what is missing is told.
    (tmp_path / "notes.md").write_text("What it means.")
    given += ["--cache", str(tmp_path), "--finished", "--seeds", "2"]
    arguments = parser.parse_args([*given, "--notes", str(tmp_path / "notes.md")])
    assert command.run(arguments) == 0
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "tiny (seeds 1)." in text and "What it means." in text
    with pytest.raises(InputError, match="nothing is finished"):
        command.run(parser.parse_args([*given, "--volumes", "3"]))
