"""What the columns mean, and the sentence for a paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from g3dvit.evaluate.measure_curves import ORACLE, RANDOM
from g3dvit.evaluate.plan import count_units

#: Columns of the table of maps and what they mean; intervals are `_low` and `_high`, 95 %.
COLUMNS = {
    "map": "Method, baseline or the removal oracle.",
    "kind": "method, given (a map from elsewhere), baseline or oracle.",
    "recommended": "Whether this method was chosen on the selection half.",
    "srg": "Symmetric relevance gain in log-odds: mean score with the least relevant patches "
    "removed less that with the most relevant removed. 0 for random orders.",
    "relative_srg": "SRG on a scale from random orders (0) to the removal oracle (1).",
    "p_random": "Exact sign-flip p over units that SRG is that of random orders; from 6 units on.",
    "p_field": "The same against random fields as smooth as the smoothest map.",
    "p_intensity": "The same against the intensity of the input.",
    "above_all_random": "Share of volumes with an SRG above every random order.",
    "above_token_gradcam": "Share of volumes with an SRG above that of token Grad-CAM.",
    "saco": "SaCo, -1 to 1: do groups of patches that are called more important matter more.",
    "single": "Rank correlation of the map with the drops that single patches cause.",
    "deletion": "Area under the probability as the most relevant patches are replaced; lower is "
    "better.",
    "insertion": "Area under the probability as the least relevant patches are replaced; higher "
    "is better.",
    "n_units": "Units in the report half.",
    "unit": "What is independent: subject, run, block (a stretch of one label) or stretch of time.",
    "n_volumes": "Volumes in the report half.",
    "selection_srg": "SRG on the selection half, by which the method was chosen.",
    "checks_failed": "Share of volumes whose map failed a check.",
    "spread_mm": "Full width at half maximum of the change that a small local change makes, in mm; "
    "interval over places.",
    "spread_far": "Mean change far away over the largest change; near 0 the map is local.",
    "like_random": "Mean |rank correlation| with maps of models with shuffled weights.",
    "random_like_random": "The same among the random models.",
    "unlike_random": "pass where that is at most .1 or what unrelated maps as smooth have; warn "
    "where it is more, but less than among random models; fail otherwise.",
    "agree_neighbours": "Rank correlation with the next time point's map.",
    "like_permuted": "Mean |rank correlation| with maps of models trained on permuted labels "
    "(--null-model); compare with random_like_random.",
    "agree_noise": "Rank correlation with the map of the volume plus a thousandth of noise.",
    "agree_jitter": "Rank correlation with the map of the volume moved by a voxel on every axis.",
    "agree_classes": "Rank correlation with the map of the likeliest other class (3 or more).",
    "agree_inputs": "Mean rank correlation of maps of different units; near 1 is input-blind.",
    "agree_runs": "Mean rank correlation of runs' mean maps.",
    "icc_models": "ICC(2,1) over patches of the maps of all given models.",
    "agree_models": "Mean rank correlation between models.",
    "with_brain_coverage": "Rank correlation of |map| with the share of each patch that is brain.",
    "with_temporal_SNR": "Rank correlation of |map| with temporal SNR over patches.",
    "with_mean_image": "Rank correlation of |map| with the mean image.",
    "with_edges_of_the_mean_image": "Rank correlation of |map| with edges of the mean image.",
    "motion_and_size": "Rank correlation over volumes of framewise displacement and sum of |map|.",
    "motion_and_shape": "The same with how typical the map is.",
}


def columns_of(table: pd.DataFrame, given: Sequence[str]) -> dict[str, str]:
    """Return the meaning of the columns that a table has.

    Parameters
    ----------
    table
        Of maps.
    given
        Names of the maps from elsewhere.
    """
    known = COLUMNS | {
        f"with_{name.replace(' ', '_')}": f"Rank correlation of |map| with the map {name!r}, per "
        "patch in the brain."
        for name in given
    }
    return {name: meaning for name, meaning in known.items() if name in table.columns}


def sentence_of(
    recommended: str, table: pd.DataFrame, regions: pd.DataFrame, values: Mapping[str, Any]
) -> str:
    """Return the sentence for a paper: every number of the report half, with its n.

    Parameters
    ----------
    recommended
        Method.
    table, regions
        Of `g3dvit.evaluate.summary`.
    values
        Plain facts beside the table.
    """
    rows: dict[str, dict[str, Any]] = {str(r["map"]): r for r in table.to_dict("records")}  # type: ignore[misc]
    own = rows[recommended]
    unit, n = values["unit"], values["n_units"]
    parts = [
        f"Faithfulness of {recommended} maps (target: {values['target']}, score: log-odds) was "
        f"measured on {values['n_volumes']} volumes of {units_in_words(values)}",
        f", none of them among the {values['n_volumes_selection']} volumes of "
        f"{count_units(values['n_units_selection'], unit)} on which the method was chosen"
        if values["n_volumes_selection"]
        else "; the method was not chosen by these numbers",
        f". With {_how(values)}, the symmetric relevance gain was {_number(own, 'srg')} log-odds "
        f"(random orders {rows[RANDOM]['srg']:.2f}, removal oracle "
        f"{rows[ORACLE]['srg']:.2f}; relative {_number(own, 'relative_srg')}"
        f"{_p(own['p_random'], unit, n)})",
        f"; SaCo {_number(own, 'saco')}; rank correlation with single removal "
        f"{_number(own, 'single')}.",
    ]
    if _there(own, "spread_mm"):
        parts.append(f" The map's measured point spread was {_spread(own)}.")
    if _there(own, "like_random"):
        parts.append(
            f" Its mean |rank correlation| with maps of models with shuffled weights was "
            f"{own['like_random']:.2f} ({own['random_like_random']:.2f} among these)."
        )
    if _there(own, "icc_models"):
        parts.append(
            f" Over {1 + len(values['more_models'])} trained models ICC(2,1) was "
            f"{own['icc_models']:.2f} per patch."
        )
    mine = regions[regions["map"] == recommended]
    if len(mine):
        one = mine.iloc[len(mine) // 2]
        chance = regions[(regions["map"] == "random patches") & (regions["share"] == one["share"])]
        parts.append(
            f" {str(one['what']).capitalize()} was {one['whole']:.2f} with the whole brain, "
            f"{one['without']:.2f} without the top {one['share']:.0%} of its patches and "
            f"{one['alone']:.2f} with these alone (random patches {chance.iloc[0]['without']:.2f} "
            f"and {chance.iloc[0]['alone']:.2f})."
        )
    if values["trained_on_these"]:
        parts.append(
            " The model was trained on runs of these data, so accuracies are not held out."
        )
    if values["at_chance"]:
        parts.append(f" {values['at_chance']}")
    parts.append(" The map shows what this model uses, not where brains differ.")
    return "".join(parts)


def units_in_words(values: Mapping[str, Any]) -> str:
    """Return the units of the report half, and whose they are."""
    units = count_units(values["n_units"], values["unit"])
    if values["unit"] == "subject":
        return units
    whose = "of one subject" if values["n_subjects"] == 1 else "(whose subjects are not known)"
    return f"{units} {whose}"


def _how(values: Mapping[str, Any]) -> str:
    if values["removal"] == "tokens removed":
        return "tokens of brain patches removed"
    return "brain patches replaced by those of another volume"


def _number(row: Mapping[str, Any], key: str) -> str:
    value, low, high = (float(row[f"{key}{end}"]) for end in ("", "_low", "_high"))
    if not math.isfinite(value):
        return "not defined"
    inside = f", 95 % interval {low:.2f} to {high:.2f}" if math.isfinite(low) else ""
    return f"{value:.2f}{inside}"


def _p(value: float, unit: str, n: int) -> str:
    if not math.isfinite(value):
        return f"; no p-value with {count_units(n, unit)}"
    return f"; sign-flip p {p_in_words(value)} over {count_units(n, unit)}"


def p_in_words(value: float) -> str:
    """Return a p-value with its sign.

    Examples
    --------
    >>> p_in_words(0.0312), p_in_words(0.0005)
    ('= 0.031', '< 0.001')
    """
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def _spread(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["spread_mm"]):
        return "wider than could be measured"
    text = f"{row['spread_mm']:.0f} mm (FWHM"
    if math.isfinite(row["spread_mm_low"]) and math.isfinite(row["spread_mm_high"]):
        text += (
            f", 95 % interval over places {row['spread_mm_low']:.0f} to {row['spread_mm_high']:.0f}"
        )
    return f"{text})"


def _there(row: Mapping[str, Any], key: str) -> bool:
    return key in row and not math.isnan(float(row[key]))
