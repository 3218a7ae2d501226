"""Which volumes train and which test, and the refusal of splits that leak.

A *group* is what is held out as a whole: a subject, a run, or a stretch of blocks of a run. The
haemodynamic response and autocorrelated noise tie neighbouring volumes together, so around test
blocks a gap of volumes is used for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError, LeakageError, SelectionError
from g3dvit.train.samples import Samples

Unit = Literal["subject", "run", "block"]
MINIMUM_GAP = 6  # volumes; 12 s at a repetition time of 2 s: most of a response has passed


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One division of the volumes.

    Parameters
    ----------
    train, test
        Indices of volumes, ascending.
    held_out
        Names of what is tested.
    n_gap
        Volumes used for neither, because they are too near to tested ones.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    held_out: tuple[str, ...]
    n_gap: int


def choose_unit(samples: Samples) -> Unit:
    """Return the widest unit of which there are at least two: subject, run or block."""
    if len({run.subject for run in samples.runs}) > 1:
        return "subject"
    return "run" if len(samples.runs) > 1 else "block"


def make_folds(
    samples: Samples,
    unit: Unit,
    *,
    n_folds: int = 1,
    test_share: float = 0.25,
    test: Sequence[str] = (),
    gap_volumes: int = MINIMUM_GAP,
    seed: int = 0,
) -> tuple[Fold, ...]:
    """Divide the volumes; every fold is checked with `check_fold`.

    Parameters
    ----------
    samples
        What is divided.
    unit
        What is held out as a whole.
    n_folds
        1 for one division with about `test_share` in the test; k for k divisions in which
        every group is tested once.
    test_share
        Share of the groups that is tested where there is one fold.
    test
        Names of the subjects or runs to be tested, instead of a share.
    gap_volumes
        Volumes between any training volume and any test volume of the same run.
    seed
        Of the order of subjects or runs, and of which stretch of blocks is tested.

    Raises
    ------
    SelectionError
        If there are too few groups, or a fold lacks a class.
    LeakageError
        If a fold leaks.
    """
    if unit not in get_args(Unit):
        raise InputError(f"a split is by {', '.join(get_args(Unit))}, was given {unit!r}")
    if n_folds < 1 or not 0 < test_share < 1:
        raise InputError(
            f"folds are at least 1 and the tested share lies between 0 and 1; was given "
            f"{n_folds} and {test_share}"
        )
    group, names = _groups(samples, unit)
    if test:
        parts = [_named(names, test, unit)]
    else:
        parts = _parts(samples, group, len(names), unit, n_folds, test_share, seed)
    folds = tuple(_fold(samples, unit, group, part, names, gap_volumes) for part in parts)
    for fold in folds:
        check_fold(samples, fold, unit, gap_volumes=gap_volumes)
        _check_classes(samples, fold)
    return folds


def check_fold(samples: Samples, fold: Fold, unit: Unit, *, gap_volumes: int = MINIMUM_GAP) -> None:
    """Refuse a division in which training data would also be test data.

    Raises
    ------
    LeakageError
        If a volume, a subject, a run or a block is on both sides of a split by it; if training
        and test volumes of a run lie closer than the gap; if the same data lie on both sides
        under two names; or if labels that belong to subjects are split within subjects.
    """
    if unit == "block" and gap_volumes < MINIMUM_GAP:
        raise LeakageError(
            f"a gap of {gap_volumes} volumes around test blocks leaks their response into the "
            f"training; at least {MINIMUM_GAP} are needed"
        )
    train, test = fold.train, fold.test
    if np.intersect1d(train, test).size:
        raise LeakageError("a volume is in training and test at once")
    subjects = samples.subjects
    both = sorted(set(subjects[train]) & set(subjects[test]))
    if both and unit == "subject":
        raise LeakageError(f"{both[0]} is in training and test of a split by subject")
    if both and samples.whole_run_labels:
        raise LeakageError(
            f"labels belong to whole runs and {both[0]} is in training and test: the model could "
            "recognise the person. Split by subject"
        )
    shared = sorted(set(samples.run[train]) & set(samples.run[test]))
    if shared and unit != "block":
        raise LeakageError(f"{samples.runs[shared[0]].name} is in training and test")
    for run in shared:
        _check_blocks(samples, run, train[samples.run[train] == run], test, gap_volumes)
    prints = {samples.runs[run].fingerprint: run for run in np.unique(samples.run[test])}
    for run in np.unique(samples.run[train]):
        twin = prints.get(samples.runs[run].fingerprint)
        if twin is not None and twin != run:
            raise LeakageError(
                f"{samples.runs[run].source} and {samples.runs[twin].source} hold the same data, "
                "one in training and one in test; give every run once"
            )


def _check_blocks(
    samples: Samples, run: int, train: NDArray[np.intp], test: NDArray[np.intp], gap: int
) -> None:
    test = test[samples.run[test] == run]
    blocks = set(samples.block[train]) & set(samples.block[test]) - {-1}
    if blocks:
        raise LeakageError(
            f"block {min(blocks)} of {samples.runs[run].name} is in training and test"
        )
    apart = np.abs(samples.time_point[train][:, None] - samples.time_point[test][None, :])
    if apart.size and apart.min() <= gap:
        raise LeakageError(
            f"training and test volumes of {samples.runs[run].name} are only "
            f"{int(apart.min()) - 1} volumes apart; the gap is {gap}"
        )


def _groups(samples: Samples, unit: Unit) -> tuple[NDArray[np.intp], list[str]]:
    """Return the group of every volume and the groups' names."""
    if unit == "block":
        pairs = list(zip(samples.run.tolist(), samples.unit.tolist(), strict=True))
        order = sorted(set(pairs))
        names = [f"{samples.runs[run].name} block {number + 1}" for run, number in order]
        return np.array([order.index(pair) for pair in pairs], dtype=np.intp), names
    of_run = [run.subject if unit == "subject" else run.name for run in samples.runs]
    names = list(dict.fromkeys(of_run))
    return np.array([names.index(name) for name in of_run], dtype=np.intp)[samples.run], names


def _named(names: list[str], test: Sequence[str], unit: Unit) -> NDArray[np.intp]:
    if unit == "block":
        raise SelectionError("blocks have no names; hold out a share, or use several folds")
    unknown = [name for name in test if name not in names]
    if unknown:
        raise SelectionError(f"there is no {unit} {unknown[0]!r}; there are {', '.join(names)}")
    return np.array(sorted({names.index(name) for name in test}), dtype=np.intp)


def _parts(
    samples: Samples,
    group: NDArray[np.intp],
    n_groups: int,
    unit: Unit,
    n_folds: int,
    test_share: float,
    seed: int,
) -> list[NDArray[np.intp]]:
    """Return which groups each fold tests."""
    n_parts = n_folds if n_folds > 1 else max(2, round(1 / test_share))
    n_parts = min(n_parts, n_groups) if n_folds == 1 else n_parts
    if n_groups < max(2, n_parts):
        raise SelectionError(
            f"a split by {unit} into {n_parts} needs as many of them; there are {n_groups}. "
            f"Use fewer folds, more data or a split by "
            f"{'block' if unit == 'run' else 'run or block'}"
        )
    rng = np.random.default_rng(seed)
    if unit == "block":  # neighbouring blocks together, so that few volumes are lost to gaps
        run_of = np.array([samples.run[group == g][0] for g in range(n_groups)])
        stretches = [
            np.array_split(np.flatnonzero(run_of == run), n_parts) for run in np.unique(run_of)
        ]
        parts = [
            np.concatenate([stretch[part] for stretch in stretches]) for part in range(n_parts)
        ]
        return parts if n_folds > 1 else [parts[rng.integers(n_parts)]]
    # Dealt out like cards, class after class, so that whole-run labels are spread evenly.
    first = np.array([samples.label[group == g][0] for g in range(n_groups)])
    shuffled = rng.permutation(n_groups)
    if samples.whole_run_labels:
        shuffled = shuffled[np.argsort(first[shuffled], kind="stable")]
    parts = [np.sort(shuffled[part::n_parts]) for part in range(n_parts)]
    return parts if n_folds > 1 else parts[:1]


def _fold(
    samples: Samples,
    unit: Unit,
    group: NDArray[np.intp],
    part: NDArray[np.intp],
    names: list[str],
    gap: int,
) -> Fold:
    tested = np.isin(group, part)
    train = ~tested
    if unit == "block":
        for run in np.unique(samples.run[tested]):
            here = samples.run == run
            near = samples.time_point[here & tested]
            apart = np.abs(samples.time_point[here][:, None] - near[None, :]).min(axis=1)
            train[np.flatnonzero(here)[apart <= gap]] = False
    n_gap = int((~tested).sum() - train.sum())
    held_out = tuple(names[g] for g in part)
    return Fold(np.flatnonzero(train), np.flatnonzero(tested), held_out, n_gap)


def _check_classes(samples: Samples, fold: Fold) -> None:
    for side, chosen in (("training", fold.train), ("test", fold.test)):
        present = set(samples.label[chosen].tolist())
        missing = [n for c, n in enumerate(samples.class_names) if c not in present]
        if missing:
            raise SelectionError(
                f"the {side} with {', '.join(fold.held_out)} held out has no volume of class "
                f"{missing[0]!r}; use another seed, fewer folds or another unit of the split"
            )
