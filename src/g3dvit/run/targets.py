"""What a run explains, in words and as `Explainer` takes it.

Per-volume maps may explain the predicted class or the label of each volume; class means explain
ONE named target, so that they can be compared. Terms as in `g3dvit.targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from g3dvit.errors import TargetError

RELATIVE = ("predicted", "label")


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """The target of every volume's map, and the one target of all class means.

    Parameters
    ----------
    volume, mean
        As `Explainer.explain` takes them.
    volume_words, mean_words
        As a reader takes them.
    """

    volume: Any
    mean: Any
    volume_words: str
    mean_words: str

    @property
    def targets(self) -> list[Any]:
        """Both, or one where they are the same."""
        return [self.volume] if self.volume == self.mean else [self.volume, self.mean]


def plan_targets(target: Any, mean_target: Any, class_names: Sequence[str]) -> TargetPlan:
    """Return what volumes and class means explain.

    Parameters
    ----------
    target
        ``"predicted"``, ``"label"``, a class (name or number), or a contrast: ``"A-B"``, (a, b).
    mean_target
        A class or a contrast; None is `target` where that is one, otherwise the last class.
    class_names
        In the order of the model's outputs.

    Raises
    ------
    TargetError
        If there is no such class, or `mean_target` is not one and the same for all volumes.

    Examples
    --------
    >>> plan_targets("predicted", None, ["left", "right"]).mean_words
    'right'
    >>> plan_targets("right-left", None, ["left", "right"]).targets
    [(1, 0)]
    """
    volume = parse_target(target, class_names)
    if mean_target is not None:
        mean = parse_target(mean_target, class_names)
    elif volume in RELATIVE:
        mean = len(class_names) - 1
    else:
        mean = volume
    if mean in RELATIVE:
        raise TargetError(
            f"class means explain one class for all groups, so `mean_target` cannot be {mean!r}; "
            f"name one of {', '.join(class_names)}"
        )
    return TargetPlan(
        volume, mean, target_words(volume, class_names), target_words(mean, class_names)
    )


def parse_target(target: Any, class_names: Sequence[str]) -> Any:
    """Return a target as a class index, a contrast of two, ``"predicted"`` or ``"label"``.

    Raises
    ------
    TargetError
        If there is no such class.
    """
    if isinstance(target, tuple) and len(target) == 2:
        return (parse_target(target[0], class_names), parse_target(target[1], class_names))
    index = _class_index(target, class_names)
    if index is not None:
        return index
    if target in RELATIVE:
        return target
    if isinstance(target, str):
        for place, letter in enumerate(target):
            if letter == "-":
                a = _class_index(target[:place].strip(), class_names)
                b = _class_index(target[place + 1 :].strip(), class_names)
                if a is not None and b is not None and a != b:
                    return (a, b)
    raise TargetError(
        f"there is no class {target!r}; this model has {', '.join(class_names)} (numbers 0 to "
        f"{len(class_names) - 1}). Also allowed: predicted, label, or a contrast such as "
        f"{class_names[-1]}-{class_names[0]}"
    )


def _class_index(target: Any, class_names: Sequence[str]) -> int | None:
    if isinstance(target, str) and target in class_names:
        return list(class_names).index(target)
    if isinstance(target, bool):
        return None
    try:
        index = int(target) if isinstance(target, (str, int)) else None
    except ValueError:
        return None
    return index if index is not None and 0 <= index < len(class_names) else None


def target_words(target: Any, class_names: Sequence[str]) -> str:
    """Return a target in words."""
    if target == "predicted":
        return "predicted class"
    if target == "label":
        return "labelled class"
    if isinstance(target, tuple):
        return f"{class_names[target[0]]} - {class_names[target[1]]}"
    return str(class_names[target])
