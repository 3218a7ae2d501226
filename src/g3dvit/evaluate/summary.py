"""From what was measured to the table, the choices and the numbers: means over units.

All numbers are of the report half. A p-value is that of an exact sign-flip test over units, and
given from 6 units on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g3dvit.evaluate.baselines import BaselineFolder
from g3dvit.evaluate.interventions import decisions
from g3dvit.evaluate.known_accuracy import at_chance, chance_checks
from g3dvit.evaluate.measure_choices import choices_table
from g3dvit.evaluate.measure_curves import BASELINES, FIELD, INTENSITY, ORACLE, RANDOM
from g3dvit.evaluate.measured import Measured
from g3dvit.evaluate.plan import count_units
from g3dvit.evaluate.prepared import Prepared
from g3dvit.evaluate.settings import EvaluationSettings
from g3dvit.evaluate.spread import mean_profile, width_interval
from g3dvit.evaluate.units import (
    FEWEST_UNITS,
    UnitMean,
    ratio_interval,
    sign_flip_p,
    summarise,
    unit_means,
)
from g3dvit.evaluate.words import sentence_of
from g3dvit.run.record import weights_hash

Array = NDArray[np.float64]
SCHEMA_VERSION = 1
SEED_METHOD = "token_gradcam"
_BOUNDS = {
    "saco": (-1.0, 1.0),
    "single": (-1.0, 1.0),
    "deletion": (0.0, 1.0),
    "insertion": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Parameters
    ----------
    recommended
        The method chosen on the selection half.
    table
        One row per map; columns in `g3dvit.evaluate.words.COLUMNS`.
    choices
        One row per specification: method, layer, score, target, agreement, srg.
    regions
        One row per method and share: accuracy without and with the region alone.
    values
        Everything else, plain: curves, spread, randomisation, provenance.
    sentence
        For a paper.
    notes
        What a reader should know.
    """

    recommended: str
    table: pd.DataFrame = field(repr=False)
    choices: pd.DataFrame = field(repr=False)
    regions: pd.DataFrame = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)
    sentence: str
    notes: tuple[str, ...]


def summarise_job(
    prepared: Prepared,
    measured: Measured,
    settings: EvaluationSettings,
    *,
    target: str,
    class_names: Sequence[str],
    others: Sequence[str],
    few: Sequence[int],
    trained_on: Sequence[str],
    notes: Sequence[str],
    baseline: BaselineFolder | None = None,
) -> Evaluation:
    """Return tables and sentence of a finished job.

    Parameters
    ----------
    prepared, measured, settings
        Of the job.
    target
        What the maps explain, in words.
    class_names
        In the order of the outputs.
    others
        Names of further models.
    few
        Volumes that were used for sanity and choices.
    trained_on
        Which of the runs the model was trained on.
    notes
        Said while opening.
    baseline
        Simpler methods on the same volumes.
    """
    units = [prepared.plan.picks[n].unit for n in measured.report]
    rows = [
        _row(name, prepared, measured, units, few)
        for name in (*measured.methods, *prepared.given, *BASELINES, ORACLE)
    ]
    table = pd.DataFrame(rows)
    regions = _regions(prepared, measured, settings, class_names, units)
    values = _values(prepared, measured, settings, units, target, class_names)
    known = chance_checks(prepared, measured, class_names, trained_on)
    values |= {"more_models": list(others), "trained_on_these": list(trained_on)}
    values |= {"given": list(prepared.given), "accuracy": known, "at_chance": at_chance(known)}
    values["baseline"] = baseline and {"accuracy": baseline.accuracy, "sentence": baseline.sentence}
    notes = [*notes, *([f"Baseline: {baseline.sentence}"] if baseline else [])]
    notes = [*(check.sentence for check in known if check.verdict != "pass"), *notes]
    every = [*notes, *measured.notes, *_limits(prepared, units, settings)]
    sentence = sentence_of(measured.recommended, table, regions, values)
    return Evaluation(
        measured.recommended,
        table,
        choices_table(measured.choices),
        regions,
        {**values, "sentence": sentence, "notes": every},
        sentence,
        tuple(every),
    )


# -- the table ---------------------------------------------------------------------------------
def _row(
    name: str,
    prepared: Prepared,
    measured: Measured,
    units: Sequence[str],
    few: Sequence[int],
) -> dict[str, Any]:
    curves = [one[name] for one in measured.curves]
    chance = [_mean(one[RANDOM]["srg"]) for one in measured.curves]
    oracle = [_mean(one[ORACLE]["srg"]) for one in measured.curves]
    own = [_mean(one["srg"]) for one in curves]
    is_method = name in measured.methods
    row: dict[str, Any] = {
        "map": name,
        "kind": _kind(name, prepared, measured),
        "recommended": name == measured.recommended,
    }
    gain = summarise(own, units)
    compared = name != RANDOM
    row |= _interval("srg", gain)
    above = unit_means(np.subtract(own, chance), units)
    span = unit_means(np.subtract(oracle, chance), units)
    for key, value in zip(("", "_low", "_high"), ratio_interval(above, span), strict=True):
        row[f"relative_srg{key}"] = value
    fields = [_mean(one[FIELD]["srg"]) for one in measured.curves]
    bright = [_mean(one[INTENSITY]["srg"]) for one in measured.curves]
    for against, values in (("random", chance), ("field", fields), ("intensity", bright)):
        apart = unit_means(np.subtract(own, values), units)
        row[f"p_{against}"] = sign_flip_p(apart) if compared else float("nan")
    best = [max(_floats(one[RANDOM]["srg"])) for one in measured.curves]
    row["above_all_random"] = _share(np.greater(own, best), units) if compared else float("nan")
    if SEED_METHOD in measured.methods:
        seed = [_mean(one[SEED_METHOD]["srg"]) for one in measured.curves]
        row["above_token_gradcam"] = _share(np.greater(own, seed), units)
    for key, bounds in _BOUNDS.items():
        row |= _interval(key, summarise([_float(one[key]) for one in curves], units, bounds))
    row |= {"n_units": gain.n_units, "unit": prepared.plan.unit, "n_volumes": gain.n_volumes}
    if is_method:
        row |= _sanity(name, prepared, measured, units, few)
    return row


def _kind(name: str, prepared: Prepared, measured: Measured) -> str:
    if name in measured.methods:
        return "method"
    if name in prepared.given:
        return "given"
    return "oracle" if name == ORACLE else "baseline"


def _sanity(
    name: str,
    prepared: Prepared,
    measured: Measured,
    units: Sequence[str],
    few: Sequence[int],
) -> dict[str, Any]:
    found = measured.sanity
    row: dict[str, Any] = {}
    if name in measured.gains:
        mine = [prepared.plan.picks[n].unit for n in measured.selection]
        row["selection_srg"] = summarise(measured.gains[name], mine).mean
    verdicts = [measured.verdicts[name][n] for n in measured.report]
    row["checks_failed"] = _share(np.equal(verdicts, "fail"), units)
    if name in measured.spread and measured.spread[name].size:
        profile = mean_profile(measured.spread[name], measured.spread_edges)
        low, high = width_interval(measured.spread[name], measured.spread_edges)
        row |= {"spread_mm": profile.width_mm, "spread_mm_low": low, "spread_mm_high": high}
        row["spread_far"] = profile.far_share
    random = found.get("randomisation", {}).get(name)
    if random:
        null = [value for value in random["null"] if np.isfinite(value)]
        row["like_random"] = random["similarity"]
        row["random_like_random"] = float(np.mean(null)) if null else float("nan")
        row["unlike_random"] = random["verdict"]
    mine = [prepared.plan.picks[n].unit for n in few]
    permuted = [one[name] for one in found.get("null models", {}).values() if name in one]
    if permuted:
        row["like_permuted"] = float(np.mean(permuted))
    for key in ("neighbours", "noise", "jitter", "classes"):
        if name in found.get(key, {}):
            row[f"agree_{key}"] = summarise(_floats(found[key][name]), mine).mean
    for key in ("inputs", "runs"):
        if key in found:
            row[f"agree_{key}"] = found[key][name]
    if "models" in found:
        row["icc_models"] = summarise(found["models"][name]["icc"], units).mean
        row["agree_models"] = summarise(found["models"][name]["rho"], units).mean
    for picture, values in found.get("images", {}).get(name, {}).items():
        row[f"with_{picture.replace(' ', '_')}"] = summarise(values, units).mean
    for what, value in found.get("motion", {}).get(name, {}).items():
        row[what.replace(" ", "_")] = value
    return row


def _interval(key: str, found: UnitMean) -> dict[str, float]:
    return {key: found.mean, f"{key}_low": found.low, f"{key}_high": found.high}


def _share(hits: NDArray[np.bool_], units: Sequence[str]) -> float:
    return summarise(np.asarray(hits, dtype=np.float64), units).mean


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _floats(values: Sequence[float | None]) -> list[float]:
    return [_float(value) for value in values]


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean(_floats(values)))


# -- regions -----------------------------------------------------------------------------------
def _regions(
    prepared: Prepared,
    measured: Measured,
    settings: EvaluationSettings,
    class_names: Sequence[str],
    units: Sequence[str],
) -> pd.DataFrame:
    """Return accuracy without and with each region alone; agreement where labels are unknown."""
    columns = ["map", "share", "n_patches", "what"]
    columns += [f"{k}{e}" for k in ("whole", "without", "alone") for e in ("", "_low", "_high")]
    if not measured.regions:
        return pd.DataFrame(columns=columns)
    whole = decisions(measured.logits)[measured.report].tolist()
    labels = [prepared.plan.picks[n].label for n in measured.report]
    known = all(label in class_names for label in labels)
    truth = [class_names.index(str(label)) for label in labels] if known else whole
    what = "accuracy" if known else "agreement with the whole volume"
    rows = []
    for name in measured.regions[0]:
        for s, share in enumerate(settings.shares):
            row: dict[str, Any] = {
                "map": "random patches" if name == "random" else name,
                "share": share,
                "n_patches": max(1, round(share * len(prepared.inside))),
                "what": what,
            }
            row |= _interval(
                "whole", summarise(np.equal(whole, truth).astype(float), units, (0, 1))
            )
            for side in ("without", "alone"):
                right = [
                    float(np.mean(np.equal(one[name][side][s], t)))
                    for one, t in zip(measured.regions, truth, strict=True)
                ]
                row |= _interval(side, summarise(right, units, (0, 1)))
            rows.append(row)
    return pd.DataFrame(rows, columns=columns)


# -- everything else -----------------------------------------------------------------------------
def _values(
    prepared: Prepared,
    measured: Measured,
    settings: EvaluationSettings,
    units: Sequence[str],
    target: str,
    class_names: Sequence[str],
) -> dict[str, Any]:
    geometry, plan = prepared.model.explainer.geometry, prepared.plan
    decided = decisions(measured.logits)
    labels = [plan.picks[n].label for n in measured.report]
    right = [
        class_names[decided[n]] == label for n, label in zip(measured.report, labels, strict=True)
    ]
    curves = {
        name: {
            side: np.mean([one[name][side] for one in measured.curves], axis=0).tolist()
            for side in ("morf", "lerf")
        }
        for name in measured.curves[0]
    }
    spread = {
        name: mean_profile(rows, measured.spread_edges)
        for name, rows in measured.spread.items()
        if rows.size
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "model": prepared.model.name,
        "model_sha256": weights_hash(prepared.model.description),
        "target": target,
        "score": "log_odds",
        "recommended": measured.recommended,
        "removal": "tokens removed" if measured.removal else "patches of another volume",
        "unit": plan.unit,
        "n_units": len(set(units)),
        "n_units_selection": len({plan.picks[n].unit for n in measured.selection}),
        "n_volumes": len(measured.report),
        "n_volumes_selection": len(measured.selection),
        "n_subjects": plan.n_subjects,
        "volumes": plan.sentence,
        "brain": prepared.brain_source,
        "patches_in_brain": len(prepared.inside),
        "patches": geometry.num_patches,
        "patch_mm": prepared.patches.patch_sizes_mm,
        "accuracy_report": float(np.mean(right)) if all(labels) else None,
        "settings": settings,
        "floor_of_random_orders": 1 / (1 + settings.random_orders),
        "curves": {
            "share_removed": np.divide(
                measured.curves[0][ORACLE]["removed"], len(prepared.inside)
            ).tolist(),
            **curves,
        },
        "spread": {
            name: {"distance_mm": one.distance_mm, "change": one.change, "width_mm": one.width_mm}
            for name, one in spread.items()
        },
        "randomisation": measured.sanity.get("randomisation", {}),
        "cascade": measured.sanity.get("cascade", {}),
        "null_models": measured.sanity.get("null models", {}),
    }


def _limits(prepared: Prepared, units: Sequence[str], settings: EvaluationSettings) -> list[str]:
    """Return what the numbers cannot say."""
    plan, n = prepared.plan, len(set(units))
    limits = []
    if plan.n_subjects == 1:
        limits.append(
            f"One subject: intervals and p-values are over {plan.unit}s of that subject and say "
            "nothing about people."
            if plan.unit != "stretch of time"
            else "One run without labels: intervals are over stretches of it and say nothing about "
            "other runs or people."
        )
    if plan.n_subjects is None:
        limits.append(
            f"The names of the images do not tell subjects apart (no sub-...), so the unit is the "
            f"{plan.unit}: if several are of one person, p-values and intervals say nothing about "
            "people."
        )
    if n < FEWEST_UNITS:
        limits.append(
            f"{count_units(n, plan.unit)} in the report half: no p-value; {FEWEST_UNITS} are "
            "needed."
        )
    floor = 1 / (1 + settings.random_orders)
    return [
        *limits,
        f"{settings.random_orders} random orders per volume cannot carry a p-value below "
        f"{floor:.3f} for one volume; they are the reference of `above_all_random` and of relative "
        "SRG, and no more.",
    ]
