"""Broken maps are caught by the check that names what is wrong; healthy ones are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from broken_models import BASE, CASES, POOLS, drifted, fresh, volumes
from g3dvit.diagnose import model_at_chance
from g3dvit.errors import GeometryError, LayerError
from g3dvit.explain import Explainer
from g3dvit.grids import ImageGrid, PatchGrid
from g3dvit.run.checks import outside_checks
from small_models import Recipe, draw, train

ORDER = {"pass": 0, "warn": 1, "fail": 2}


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_is_caught_by_the_right_check(name):
    case = CASES[name]
    x = volumes(case.recipe) if case.volumes is None else case.volumes()
    explainer = Explainer(case.model(), (1, *case.recipe.shape))
    result = explainer.explain(x, case.method, check="all", **case.options)
    for row in result.checks:
        found = {check.name: check for check in row}
        assert ORDER[found[case.caught].verdict] >= ORDER[case.verdict], (
            case.caught,
            {name: (check.value, check.verdict) for name, check in found.items()},
        )
        assert case.says in found[case.caught].sentence


def test_there_are_enough_cases_of_every_kind():
    assert len(CASES) >= 40
    assert {case.recipe.pool for case in CASES.values()} == {"first", "mean"}
    assert {case.recipe.patch_norm for case in CASES.values()} == {True, False}


@pytest.mark.parametrize("patch_norm", [False, True])
@pytest.mark.parametrize(
    ("pool", "layer", "why"),
    [
        ("first", "blocks.1.norm2", "does not reach"),
        ("first", "norm", "does not reach"),
        ("first", "blocks.1.mlp.0", "does not reach"),
        ("mean", "norm", "is the same for all"),
    ],
)
def test_layers_behind_the_last_attention_are_refused_by_name(pool, layer, why, patch_norm):
    recipe = replace(POOLS["mean" if pool == "mean" else "cls"], patch_norm=patch_norm)
    explainer = Explainer(drifted(recipe), (1, *recipe.shape))
    with pytest.raises(LayerError, match=why):
        explainer.explain(volumes(recipe), "hirescam", target_layer=layer)


def test_a_model_that_sees_nothing_is_refused():
    with torch.no_grad():
        model = drifted(BASE)
        model.embed[1].weight.zero_()
    with pytest.raises(GeometryError):
        Explainer(model, (1, *BASE.shape))


@pytest.mark.parametrize("pool", POOLS)
def test_models_that_guess_are_caught_by_their_accuracy(pool):
    learnt_nothing = train(replace(POOLS[pool], classes=2, seed=31, shuffled=True), steps=60)[0]
    never_trained = fresh(replace(POOLS[pool], classes=2))
    for model, recipe in ((learnt_nothing, Recipe(31)), (never_trained, Recipe(0))):
        held_out = draw(recipe, 200, 2)
        with torch.no_grad():
            predicted = model(held_out.x).argmax(1).tolist()
        assert model_at_chance(predicted, held_out.labels.tolist()).verdict == "fail"


@pytest.mark.parametrize("pool", POOLS)
def test_relevance_in_the_background_is_caught(pool):
    recipe = POOLS[pool]
    outside = np.arange(27) >= 13
    model = drifted(recipe)
    brain = np.repeat(np.repeat(np.repeat(~outside.reshape(3, 3, 3), 4, 0), 4, 1), 4, 2)
    x = volumes(recipe) * torch.from_numpy(~brain)  # all that is left to see is background
    with torch.no_grad():
        model.embed[1].bias.zero_()
        model.position[:, 1 if pool == "cls" else 0 :][:, ~outside] = 0
    shown = Explainer(model, (1, *recipe.shape)).explain(x, "frozen_gate")
    patches = PatchGrid(ImageGrid(recipe.shape, np.eye(4)), (4, 4, 4))
    checks = outside_checks(list(shown.relevance.numpy()), brain, patches)
    assert {check.verdict for check in checks} == {"fail"}
    assert {c.verdict for c in outside_checks([np.ones((3, 3, 3))], ~brain | brain, patches)} == {
        "pass"
    }
