"""Which map is recommended, and that its reasons are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fake_run import FakeCheck, small_run
from g3dvit.check_summary import CheckSummary
from g3dvit.recommend import mark, recommend, show_first
from g3dvit.report.guidance import shares_of


def check(name, verdict="pass", value=0.5, sentence="It says so."):
    return FakeCheck(name, value, None, None, verdict, sentence)


@pytest.fixture(scope="module")
def template():
    return small_run().maps[0]


@pytest.fixture
def maps(template):
    def make(method, *checks):
        return replace(
            template, method=method, title=method.replace("_", " "), checks=(checks,) * 4
        )

    return make


GOOD = check("completeness")


def test_the_finest_sound_map_is_recommended_and_says_why(maps):
    sets = [
        maps("token_gradcam", check("centring", "fail"), check("float64 agreement", "fail")),
        maps("hirescam", GOOD),
        maps("frozen_gate", GOOD, check("position share", value=0.43),
             check("attention steering", value=0.6)),
    ]  # fmt: skip
    advice = recommend(sets)
    assert advice.label == "frozen gate"
    first, second = advice.sentences
    assert first.startswith("Frozen gate is recommended for this model: it passed every check")
    assert "Token gradcam failed centring, float64 agreement" in second
    assert "43% of its patches' relevance is the position code" in second
    assert "steering" not in second  # not large
    assert advice.passed == ("hirescam", "frozen gate")
    assert advice.failed == {"token gradcam": ("centring", "float64 agreement")}
    assert [one.recommended for one in mark(sets, advice)] == [False, False, True]
    shown = [one.method for one in show_first(sets)]
    assert shown == ["frozen_gate", "hirescam", "token_gradcam"]


def test_a_failed_favourite_is_passed_over(maps):
    sets = [maps("frozen_gate", check("completeness", "fail")), maps("hirescam", GOOD)]
    advice = recommend(sets)
    assert advice.label == "hirescam"
    assert advice.sentences[1] == "Frozen gate failed completeness."


@pytest.mark.parametrize("name", ["voxel share", "position share", "patch share"])
def test_where_the_score_comes_from_no_voxels_nothing_is_recommended(maps, name):
    sets = [maps("frozen_gate", check(name, "fail")), maps("token_gradcam", GOOD)]
    advice = recommend(sets)
    assert advice.label is None
    assert advice.sentences == (
        "No map is recommended for this model: what it says of these volumes hardly comes from "
        f"their voxels (frozen gate failed {name}).",
    )


def test_shift_averaged_comes_first_and_large_steering_is_told(maps):
    steering = check("attention steering", value=1.4)
    advice = recommend([maps("frozen_gate", GOOD), maps("shift_averaged", GOOD, steering)])
    assert advice.label == "shift averaged"
    assert "ttention steering is large (1.4)" in advice.sentences[1]


def test_a_map_for_display_is_not_said_to_leave_the_position_out(maps):
    share = check("position share", value=0.43)
    shown = replace(maps("shift_weighted_signed", GOOD, share), display_only=True)
    assert recommend([shown]).sentences[1].endswith("relevance is the position code.")
    (told,) = shares_of(shown)
    assert told["sentence"].endswith("whatever it shows; this map holds it.")


def test_a_map_for_display_names_the_one_for_statistics(maps):
    shown = replace(maps("shift_averaged_gamma", GOOD), display_only=True)
    share = check("position share", value=0.43)
    advice = recommend([maps("hirescam", GOOD), maps("frozen_gate", GOOD, share), shown])
    assert advice.label == "shift averaged gamma"
    assert "for statistics take the content of frozen gate, with one class" in advice.sentences[1]
    assert "where the two show different places, believe frozen gate" in advice.sentences[1]
    assert "43% of its patches' relevance is the position code" in advice.sentences[1]
    broken = maps("frozen_gate", check("completeness", "fail"))
    advice = recommend([broken, maps("hirescam", GOOD), shown])
    assert "for statistics take hirescam, with one class" in advice.sentences[1]
    advice = recommend([broken, shown])
    assert "no map of this run is sound for statistics" in advice.sentences[1]


def test_what_holds_for_both_maps_is_told_once(maps):
    steers = (check("attention steering", value=1.01), check("attention steering", value=1.04))
    shown = replace(maps("shift_averaged", GOOD, steers[1]), display_only=True)
    told = recommend([maps("frozen_gate", GOOD, steers[0]), shown]).sentences[1]
    assert told.count("attention steering") == 1
    assert "attention steering of either is large (1.04), so compare it with token removal" in told
    told = recommend([maps("frozen_gate", GOOD, steers[0]), replace(shown, checks=())]).sentences[1]
    assert "attention steering of frozen gate is large (1.01)" in told


@pytest.mark.parametrize(("n_failed", "recommended"), [(1, "frozen gate"), (0, "shift averaged")])
def test_a_map_that_a_quarter_of_the_volumes_failed_is_the_last_choice(maps, n_failed, recommended):
    verdicts = ["fail"] * n_failed + ["pass"] * (4 - n_failed)
    rows = tuple((GOOD, check("evidence at shifts", verdict)) for verdict in verdicts)
    shifts = replace(maps("shift_averaged"), checks=rows)
    frozen = maps("frozen_gate", GOOD)
    advice = recommend([shifts, frozen])
    assert advice.label == recommended
    told = "shift averaged failed evidence at shifts for 1 of 4 volumes"
    assert (told in advice.sentences[-1].lower()) == bool(n_failed)
    assert recommend([shifts]).label == "shift averaged"


def test_the_volumes_of_one_class_are_enough(maps):
    def summary(n_fail, n):
        return CheckSummary("evidence at shifts", 0.3, "warn", "It says so.", n - n_fail, 0, n_fail)

    def run(n_fail, n):
        rows = ((check("evidence at shifts"),),) * 20
        shifts = replace(maps("shift_averaged"), checks=rows)
        means = [replace(m, n=n, checks=(summary(n_fail, n),)) for m in shifts.class_means]
        return recommend([replace(shifts, class_means=tuple(means)), maps("frozen_gate", GOOD)])

    advice = run(7, 18)
    assert advice.label == "frozen gate"
    assert "failed evidence at shifts for 7 of 18 volumes of '" in advice.sentences[1]
    assert run(4, 18).label == "shift averaged"
    assert run(1, 3).label == "shift averaged"  # too few to tell


@pytest.mark.parametrize(("n_pass", "recommended"), [(2, "frozen gate"), (3, "shift averaged")])
def test_half_of_the_volumes_must_keep_their_evidence_at_shifts(maps, n_pass, recommended):
    verdicts = ["pass"] * n_pass + ["warn"] * (4 - n_pass)
    rows = tuple((check("evidence at shifts", verdict),) for verdict in verdicts)
    advice = recommend([replace(maps("shift_averaged"), checks=rows), maps("frozen_gate", GOOD)])
    assert advice.label == recommended
    told = "hift averaged did not pass evidence at shifts for 2 of 4 volumes"
    assert (told in " ".join(advice.sentences)) == (n_pass == 2)


def test_warnings_do_not_disqualify_but_are_told(maps):
    advice = recommend([maps("token_gradcam", check("centring", "warn"))])
    assert advice.label == "token gradcam"
    assert "it failed no check (warned: centring)" in advice.sentences[0]
    assert advice.warned == {"token gradcam": ("centring",)}
    assert len(advice.sentences) == 1


def test_nothing_is_recommended_where_nothing_is_sound(maps):
    advice = recommend([maps("hirescam", check("dead gradient", "fail"))])
    assert advice.label is None
    assert "No map is recommended" in advice.sentences[0]
    assert "hirescam failed dead gradient" in advice.sentences[0]
    assert recommend([]).label is None


def test_a_model_that_guesses_gets_no_recommendation(maps):
    guess = check("better than chance", "fail", sentence="This model cannot be told from chance.")
    advice = recommend([maps("frozen_gate", GOOD)], [guess])
    assert advice.label is None
    assert advice.sentences[0].endswith("This model cannot be told from chance.")
    assert advice.passed == ("frozen gate",)


def test_methods_without_a_rank_come_before_token_gradcam_alone(maps):
    sets = [maps("token_gradcam", GOOD), maps("layercam", GOOD)]
    assert recommend(sets).label == "layercam"


def test_the_recommended_map_is_shown_first_where_a_finer_one_was_passed_over(maps):
    def of_volumes(method, *verdicts):
        one = maps(method, GOOD)
        return replace(one, checks=tuple((check("evidence at shifts", v),) for v in verdicts))

    sets = [of_volumes("shift_averaged", *3 * ("warn",), "pass"), maps("frozen_gate", GOOD)]
    advice = recommend(sets)
    assert advice.label == "frozen gate"
    assert [one.method for one in show_first(sets)] == ["frozen_gate", "shift_averaged"]
