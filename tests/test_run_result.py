"""How checks of many volumes become one verdict."""

import math
from dataclasses import dataclass

import pytest

from g3dvit import diagnose
from g3dvit.run_result import summarise_checks, worst


@dataclass(frozen=True)
class FakeCheck:
    name: str
    value: float
    verdict: str
    sentence: str


def checks(*verdicts):
    return [
        [FakeCheck("D1", i, verdict, f"it is a {verdict}")] for i, verdict in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass"] * 4, "pass"),
        (["fail", "pass", "pass", "pass"], "warn"),
        (["fail", "fail", "pass", "pass"], "fail"),
        (["warn", "pass", "pass", "pass"], "pass"),
        (["warn", "warn", "pass", "pass"], "warn"),
        (["fail"], "fail"),
    ],
)
def test_verdict_of_many_volumes(verdicts, expected):
    (summary,) = summarise_checks(checks(*verdicts))
    assert summary.verdict == expected
    assert (summary.n_pass, summary.n_warn, summary.n_fail) == tuple(
        verdicts.count(v) for v in ("pass", "warn", "fail")
    )


def test_summary_tells_the_sentence_of_its_verdict_and_counts():
    (summary,) = summarise_checks(checks("pass", "fail", "fail", "warn"))
    assert summary.sentence == "it is a fail (of 4 volumes 2 failed, 1 warned, median 1.5)"
    assert summary.value == 1.5
    (summary,) = summarise_checks(checks("pass", "pass", "pass"))
    assert summary.sentence == "it is a pass"


def test_summary_speaks_of_the_volume_nearest_the_median():
    def found(*values):
        return [[diagnose.check_patches(value)] for value in values]

    (summary,) = summarise_checks(found(0.9, 0.31, 0.5, 0.4, 0.7))
    assert summary.value == 0.5
    assert (
        summary.sentence == "Much of the score comes from patches (0.5; at least 0.2 is asked for)."
    )
    assert (summary.threshold_warn, summary.threshold_fail) == (0.2, 0.02)
    (summary,) = summarise_checks(found(0.9, 0.5, 0.005, 0.015, 0.7))
    assert summary.value == 0.5 and summary.verdict == "warn"
    assert "(0.015; at least 0.02 is asked for)" in summary.sentence
    assert summary.sentence.endswith(" (of 5 volumes 2 failed, median 0.5)")


def test_values_that_are_no_numbers_are_left_out_of_the_median():
    nothing = [[FakeCheck("D1", math.nan, "pass", "does not apply")]]
    (summary,) = summarise_checks([*checks("pass", "pass", "pass"), *nothing])
    assert summary.value == 1
    (summary,) = summarise_checks(nothing)
    assert math.isnan(summary.value) and summary.sentence == "does not apply"


def test_each_check_is_summarised_on_its_own():
    volumes = [
        [FakeCheck("D1", 0, "pass", "a"), FakeCheck("D3", 0, "fail", "b")],
        [FakeCheck("D1", 0, "pass", "a")],
    ]
    assert [(s.name, s.verdict) for s in summarise_checks(volumes)] == [
        ("D1", "pass"),
        ("D3", "fail"),
    ]
    assert worst(summarise_checks(volumes)) == "fail"


def test_no_checks_is_no_failure():
    assert summarise_checks([]) == ()
    assert worst([]) == "pass"
