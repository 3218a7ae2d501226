"""What the benchmark runs: phantoms and models by name.

A *case* is a phantom with a kind of model; it is run with several training seeds. The *base*
cases are the claim; in each *factor* case one thing differs from a base case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from g3dvit.benchmark.models import ModelRecipe
from g3dvit.errors import InputError
from g3dvit.phantoms import Cubes, Family, RealNoise, ResidualNoise


@dataclass(frozen=True, slots=True)
class Case:
    """A phantom with a kind of model.

    Parameters
    ----------
    name
        For the command line and tables.
    recipe
        With seed 0.
    group
        ``"base"``, ``"factor"`` or ``"quick"``.
    """

    name: str
    recipe: ModelRecipe
    group: str

    def with_seed(self, seed: int) -> ModelRecipe:
        """Return the recipe with another training seed."""
        return replace(self.recipe, seed=seed)


def all_cases(
    family: Family = "development", residuals: ResidualNoise | None = None
) -> dict[str, Case]:
    """Return every case by its name.

    Parameters
    ----------
    family
        Methods are chosen on ``"development"``; ``"sealed"`` is run once they are.
    residuals
        A real run whose noise takes the place of simulated noise in one more case.
    """
    real = RealNoise(family=family)
    position, content = Cubes(family=family), Cubes(task="content", family=family)
    cls, mean = ModelRecipe(real), ModelRecipe(real, pooling="mean")
    # Boxes may be anywhere, which takes more volumes to learn than four places.
    longer = {"n_train": 6000, "epochs": 4, "learning_rate": 1e-3}
    base = {
        "realnoise-cls": cls,
        "realnoise-mean": mean,
        "cubes-position": ModelRecipe(position, **longer),  # type: ignore[arg-type]
        "cubes-content": ModelRecipe(content, **longer),  # type: ignore[arg-type]
    }
    weak = replace(real, amplitude=1.5)
    none = replace(real, amplitude=0.0)
    seed_position = replace(Cubes.as_it_was("position"), family=family)
    seed_content = replace(Cubes.as_it_was("content"), family=family)
    factors = {
        "realnoise-motor": replace(cls, phantom=replace(real, activation="motor")),
        "realnoise-pattern": replace(cls, phantom=replace(real, effect="pattern")),
        "realnoise-suppressor": replace(cls, phantom=replace(real, suppressor=True)),
        "realnoise-weak": replace(cls, phantom=weak),
        "realnoise-chance": replace(cls, phantom=none),
        "realnoise-patch6": replace(cls, phantom=replace(real, patch_size=6), patch_size=6),
        "realnoise-no-patch-norm": replace(cls, patch_norm=False),
        "realnoise-permuted": replace(cls, labels="permuted"),
        "realnoise-untrained": replace(cls, labels="untrained"),
        "realnoise-grid": replace(cls, phantom=replace(real, shape=(25, 35, 30))),
        "cubes-position-as-it-was": ModelRecipe(seed_position, **longer),  # type: ignore[arg-type]
        "cubes-content-as-it-was": ModelRecipe(seed_content, **longer),  # type: ignore[arg-type]
    }
    if residuals is not None:
        factors["realnoise-residuals"] = replace(cls, phantom=replace(real, residuals=residuals))
    return {
        name: Case(name, recipe, group)
        for group, recipes in (("base", base), ("factor", factors), ("quick", _quick(family)))
        for name, recipe in recipes.items()
    }


def _quick(family: Family) -> dict[str, ModelRecipe]:
    """Return small models of easy phantoms: they show that all runs, not which method is best."""
    cubes = Cubes(task="content", size=7, shape=(20, 20, 20), family=family)
    small = {"dim": 48, "depth": 2, "heads": 2, "dim_head": 16, "mlp_dim": 96}
    return {
        "quick-cubes": ModelRecipe(
            cubes,
            n_train=800,
            epochs=6,
            learning_rate=2e-3,
            **small,  # type: ignore[arg-type]
        ),
    }


def find_cases(
    names: Sequence[str],
    family: Family = "development",
    residuals: ResidualNoise | None = None,
) -> tuple[Case, ...]:
    """Return cases by name or by group; ``"all"`` is base and factor cases.

    Parameters
    ----------
    names
        Of cases or groups.
    family, residuals
        As for `all_cases`.

    Raises
    ------
    InputError
        If there is no such case.
    """
    known = all_cases(family, residuals)
    chosen: dict[str, Case] = {}
    for name in names:
        found = [
            case
            for case in known.values()
            if name in (case.name, case.group) or (name == "all" and case.group != "quick")
        ]
        if not found:
            raise InputError(
                f"there is no case {name!r}; choose from base, factor, quick, all, "
                f"{', '.join(known)}"
            )
        chosen.update({case.name: case for case in found})
    return tuple(chosen.values())
