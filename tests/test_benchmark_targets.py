from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from g3dvit.benchmark import METRICS, Part, all_cases
from g3dvit.benchmark.maps import RECOMMENDED_ROW
from g3dvit.benchmark.run import read_part, write_part
from g3dvit.benchmark.targets import reached, targets_of, targets_to_markdown

CASES = all_cases("sealed")


def part(case: str, seed: int, **numbers: list[float]) -> Part:
    values = {RECOMMENDED_ROW: {key: np.array(v) for key, v in numbers.items()}}
    return Part(case, "x", "sealed", seed, "x", 0.9, 0.01, values, {RECOMMENDED_ROW: 1.0}, {})


def test_only_base_cases_have_targets_and_every_one_is_a_column() -> None:
    for case in CASES.values():
        found = targets_of(case)
        assert bool(found) == (case.group == "base")
        assert {t.metric for t in found} <= METRICS.keys()
    quarter = {t.case: t.high for c in CASES.values() for t in targets_of(c) if "peak" in t.metric}
    # A quarter of 5 voxels of 6 mm, and of 5 voxels of 2 mm.
    assert quarter["realnoise-cls"] == 7.5 and quarter["cubes-content"] == 2.5


def test_a_target_is_met_or_not_by_the_mean_over_seeds() -> None:
    case = CASES["realnoise-cls"]
    parts = [
        part(case.name, 0, auc=[0.99, 0.99], distractor_auc=[0.60], peak_mm=[0.0, 1.0, 90.0]),
        part(case.name, 1, auc=[0.97, 0.984], distractor_auc=[0.44], peak_mm=[5.0, 4.0, 6.0]),
        part("cubes-content", 0, auc=[0.5]),
    ]
    found = {one.target.metric: one for one in reached(parts, [case])}
    assert found.keys() == {"auc", "distractor_auc", "peak_mm"}
    assert found["auc"].cell.mean == pytest.approx(0.9835) and found["auc"].met
    assert found["auc"].seeds == 2
    assert found["distractor_auc"].cell.mean == pytest.approx(0.52)
    assert found["distractor_auc"].met
    assert found["peak_mm"].cell.mean == pytest.approx((1.0 + 5.0) / 2)  # medians, not means
    text = targets_to_markdown(list(found.values()))
    assert "| realnoise-cls | AUC | at least 0.98 | 0.98" in text
    assert "median over volumes | at most 7.5 mm | 3.000 mm" in text
    assert "**no**" not in text
    others = {"one": reached(parts[:1], [case]), "none": []}
    beside = targets_to_markdown(list(found.values()), others)
    assert "| met | one | none |" in beside
    assert "| 2 | yes | 0.990 |  |" in beside
    assert "| 2 | yes | 0.600 (**no**) |  |" in beside
    low = reached([part(case.name, 0, auc=[0.97])], [case])
    assert not low[0].met and "**no**" in targets_to_markdown(low)


def test_two_classes_are_not_asked_for_maps_of_other_classes() -> None:
    asked = {name: {t.metric for t in targets_of(case)} for name, case in CASES.items()}
    assert "other_class" in asked["cubes-position"]
    assert "other_class" not in asked["cubes-content"]
    assert "distractor_auc" not in asked["cubes-content"]


def test_a_part_comes_back_to_five_digits(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "a.json.gz"
    before = part("a", 3, auc=[0.123456789, float("nan"), -2e-9])
    write_part(before, path)
    first = path.read_bytes()
    after = read_part(path)
    np.testing.assert_allclose(
        after.values[RECOMMENDED_ROW]["auc"], [0.12346, np.nan, -2e-9], rtol=1e-12
    )
    assert (after.case, after.seed, after.accuracy) == ("a", 3, 0.9)
    write_part(before, path)
    assert path.read_bytes() == first  # nothing of the moment is in it
