"""What `g3dvit evaluate` measures, how thoroughly, and which steps there are."""

from __future__ import annotations

from dataclasses import dataclass, fields

from g3dvit.errors import InputError

#: Steps in their order. Maps and curves are always made; the others can be left out.
STEPS = {
    "curves": "faithfulness: removal curves, SaCo, single removal, deletion and insertion",
    "regions": "accuracy without the top region, and with it alone",
    "choices": "the same map under other layers, targets, scores and methods",
    "spread": "the point spread in mm",
    "randomisation": "maps of models whose weights are shuffled",
    "stability": "neighbouring time points, noise, jitter, classes, other models",
    "context": "correlation with temporal SNR, mean image, edges and motion",
}
OPTIONAL = tuple(name for name in STEPS if name != "curves")
#: Methods of the table unless others are asked for; those that are absent are passed over.
DEFAULT_METHODS = (
    "token_gradcam",
    "frozen_gate",
    "frozen_gate_content",
    "hirescam",
    "shift_averaged",
    "shift_weighted",
    "shift_weighted_signed",
    "gradient_rollout",
)


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How thoroughly a model's maps are measured.

    Parameters
    ----------
    n_volumes
        Volumes in all, half of them to choose the method, half for the reported numbers.
    random_orders
        Per volume.
    random_fields
        Per volume, as smooth as the smoothest map.
    steps
        Points of a removal curve after the first.
    random_models
        With shuffled weights.
    sanity_volumes
        Report volumes that are explained for random models and under other choices.
    shares
        Of the patches in the brain, for regions.
    places
        Per volume, where the volume is changed to see the point spread.
    skip
        Steps to leave out, of `STEPS`.
    seed
        Of everything that is drawn.
    """

    n_volumes: int = 24
    random_orders: int = 20
    random_fields: int = 5
    steps: int = 10
    random_models: int = 10
    sanity_volumes: int = 6
    shares: tuple[float, ...] = (0.05, 0.1, 0.2)
    places: int = 4
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int) and one.name != "seed" and value < 1:
                raise InputError(f"`{one.name}` takes a positive number, was given {value}")
        if self.random_models < 3:
            raise InputError("random models are compared with each other; at least 3 are needed")
        for step in self.skip:
            if step not in OPTIONAL:
                raise InputError(
                    f"there is no step {step!r} to leave out; choose from {', '.join(OPTIONAL)}"
                )
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise InputError(f"shares lie between 0 and 1, were given {self.shares}")

    def does(self, step: str) -> bool:
        """Tell whether a step is asked for."""
        return step not in self.skip

    @classmethod
    def quick(cls) -> EvaluationSettings:
        """Return the settings of a first look."""
        return cls(n_volumes=12, random_fields=3, random_models=4, sanity_volumes=3, places=3)
