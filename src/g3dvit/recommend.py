"""Which map to look at first for this model, and why: one pure function.

Only maps without a failed check are recommended, and those of which a quarter of the volumes, or
of the volumes of one class, failed one only where there is no other. Among them the finest comes
first that has found planted answers best (``docs/benchmark.md``); what else a reader of it should
know about this model is said in a second sentence. Of the evidence that moved volumes keep, half
of the volumes must pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from g3dvit.check_summary import CheckSummary
from g3dvit.checks import number
from g3dvit.run_result import CheckLike, MapSet, Recommendation, worst

#: Best first; methods that are not named here follow, in the order in which they were asked for.
PREFERENCE = (
    "shift_weighted_signed",
    "shift_weighted_local",
    "shift_averaged_local",
    "shift_averaged_gamma",
    "shift_weighted",
    "shift_averaged",
    "frozen_gate",
    "frozen_gate_gamma",
    "frozen_gate_noise",
    "hirescam_blocks",
    "gradient_rollout",
    "token_removal",
    "occlusion",
    "cam",
    "hirescam",
)
_LAST = ("token_gradcam",)
_STEADY = "evidence at shifts"
#: Of frozen gates; where one fails no map is right, whatever its method can tell.
_NOT_FROM_VOXELS = ("voxel share", "position share", "patch share")
_FEWEST = 4  # volumes of a class of which a quarter can be told
_WHY = {
    **{
        name: "it shows places finer than a patch, and found planted places best"
        for name in PREFERENCE
        if name.startswith("shift_")
    },
    "frozen_gate": "its shares add up to the score, and among maps of one pass it found planted "
    "places best",
    "frozen_gate_gamma": "its shares add up to the score",
    "frozen_gate_noise": "its shares add up to the mean score of noisy copies",
    "hirescam_blocks": "it follows the score through all blocks",
    "gradient_rollout": "it follows the attention that matters to the score through all blocks",
    "token_removal": "it tells what happens to the score when a place is really gone",
    "occlusion": "it tells what happens to the score when a place is exchanged",
    "cam": "its shares add up to the score",
    "hirescam": "the centring of a normalisation does not cancel it",
}


def recommend(maps: Sequence[MapSet], run_checks: Sequence[CheckLike] = ()) -> Recommendation:
    """Recommend one of the maps of a run, or none.

    Parameters
    ----------
    maps
        One set per method and weighting.
    run_checks
        Of the model, such as whether it is better than chance.
    """
    failed = {one.label: _names(one, "fail") for one in maps if worst(one.summary) == "fail"}
    warned = {one.label: _names(one, "warn") for one in maps if worst(one.summary) == "warn"}
    passed = tuple(one.label for one in maps if one.label not in {*failed, *warned})
    because = "; ".join(f"{label} failed {', '.join(names)}" for label, names in failed.items())
    at_fault = [check for check in run_checks if check.verdict == "fail"]
    sound = [one for one in maps if one.label not in failed]
    elsewhere = any(name in _NOT_FROM_VOXELS for names in failed.values() for name in names)
    best = None
    if at_fault:
        sentences = [f"No map is recommended, whatever its checks say: {at_fault[0].sentence}"]
    elif elsewhere:
        sentences = [
            "No map is recommended for this model: what it says of these volumes hardly comes from "
            f"their voxels ({because})."
        ]
    elif not sound:
        sentences = [f"No map is recommended for this model: {because or 'there is none'}."]
    else:
        best = min(sound, key=lambda one: (bool(_doubts(one)), _rank(one)))
        sentences = [f"{_first(best.label)} is recommended for this model: {_why(best)}."]
        passed_over = [_passed_over(one) for one in sound if _rank(one) < _rank(best)]
        second = "; ".join(filter(None, [because, *passed_over, *_beside(best, sound)]))
        sentences += [f"{_first(second)}."] if second else []
    return Recommendation(
        label=None if best is None else best.label,
        sentences=tuple(sentences),
        passed=passed,
        warned=warned,
        failed=failed,
    )


def show_first(maps: Sequence[MapSet]) -> tuple[MapSet, ...]:
    """Return maps in the order to show them, as `recommend` has it: the recommended one first."""

    def place(one: MapSet) -> tuple[bool, bool, int]:
        return worst(one.summary) == "fail", bool(_doubts(one)), _rank(one)

    return tuple(sorted(maps, key=place))


def mark(maps: Sequence[MapSet], recommendation: Recommendation) -> tuple[MapSet, ...]:
    """Return maps, the recommended one marked."""
    return tuple(replace(one, recommended=one.label == recommendation.label) for one in maps)


def _doubts(maps: MapSet) -> dict[str, str]:
    """Return the checks that too many volumes did not pass, each with how many.

    Too many is a quarter of the volumes, or of those of one class, that failed: where a model takes
    one class unless it finds another, only volumes of the others show what is wrong. Of the
    evidence that moved volumes keep, half of all must pass.
    """
    found: dict[str, str] = {}
    groups = [("", maps.summary)] + [
        (f" of {mean.key.group!r}", mean.checks)
        for mean in maps.class_means
        if mean.key.which != "error" and mean.n >= _FEWEST
    ]
    for name, checks in groups:
        for c in checks:
            if not isinstance(c, CheckSummary):
                continue
            n = c.n_pass + c.n_warn + c.n_fail
            if c.n_fail and 4 * c.n_fail >= n:
                told = f"failed {c.name} for {c.n_fail} of {n} volumes{name}"
            elif c.name == _STEADY and not name and 2 * c.n_pass <= n:
                told = f"did not pass {c.name} for {n - c.n_pass} of {n} volumes"
            else:
                continue
            found.setdefault(c.name, told)
    return found


def _passed_over(maps: MapSet) -> str:
    return f"{maps.label} {', '.join(_doubts(maps).values())}"


def _rank(maps: MapSet) -> int:
    if maps.method in PREFERENCE:
        return PREFERENCE.index(maps.method)
    return len(PREFERENCE) + (maps.method in _LAST)


def _why(maps: MapSet) -> str:
    own = "it passed every check"
    if worst(maps.summary) == "warn":
        own = f"it failed no check (warned: {', '.join(_names(maps, 'warn'))})"
    return ", and ".join(filter(None, [own, _WHY.get(maps.method, "")]))


def _beside(best: MapSet, sound: Sequence[MapSet]) -> list[str]:
    """Return what to know beside the recommendation: the map for statistics, and cautions."""
    base = best
    told = []
    if best.display_only:
        others = [one for one in sound if not one.display_only]
        if not others:
            told = ["it is made to be shown, and no map of this run is sound for statistics"]
        else:
            base = min(others, key=_rank)
            frozen = base.method.startswith("frozen_gate")
            part = "the content of " * frozen
            told = [
                f"it is made to be shown; for statistics take {part}{base.label}, with one class "
                "for all volumes"
            ]
            if frozen:  # a texture: docs/benchmark.md, realnoise-pattern, and `evidence_left`
                told.append(f"where the two show different places, believe {base.label}")
    return told + _cautions(base, best)


def _cautions(base: MapSet, best: MapSet) -> list[str]:
    """Return what to bear in mind about two maps, which may be one; each thing once."""
    values = {check.name: check.value for check in base.summary}
    parts = []
    if "position share" in values:
        share = f"{values['position share']:.0%} of its patches' relevance"
        shown = "" if base.display_only else ", so that its content is shown as the map"
        parts.append(f"{share} is the position code{shown}")
    steering = {
        one.label: check.value
        for one in (base, best)
        for check in one.summary
        if check.name == "attention steering" and check.value > 1.0
    }
    if steering:
        values_told = number(max(steering.values()))
        both = "either" if len(steering) > 1 else next(iter(steering))
        which = "" if base.label == best.label else f" of {both}"
        parts.append(
            f"attention steering{which} is large ({values_told}), so compare it with token "
            "removal too"
        )
    return parts


def _names(maps: MapSet, verdict: str) -> tuple[str, ...]:
    return tuple(check.name for check in maps.summary if check.verdict == verdict)


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]
