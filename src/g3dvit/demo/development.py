"""The demonstration on real data: children against adults who watch the same film.

OpenNeuro ds000228 (Richardson et al. 2018), 155 people at 4 mm, through nilearn, which downloads
what its cache does not hold. Labels belong to people, so people are held out. There is no known
answer to compare the maps with.

References
----------
Richardson et al. 2018, https://doi.org/10.1038/s41467-018-03399-2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from g3dvit.demo.recipe import Progress
from g3dvit.errors import InputError
from g3dvit.outputs import output_folder, write_run
from g3dvit.prepare import Pad, Preparation, Reorient, Standardise
from g3dvit.run import RunSource, explain_run
from g3dvit.run_result import RunResult
from g3dvit.train import Fitting, TrainingReport, train_model
from g3dvit.volumes import open_series

CLASSES = ("adult", "child")
SPACE = "MNI152NLin2009cAsym"  # in the names of nilearn's files
PATCH = 10  # voxels of 4 mm


@dataclass(frozen=True, slots=True, eq=False)
class DevelopmentReport:
    """What the demonstration on real data found.

    Parameters
    ----------
    folder
        Where everything lies.
    n_people
        People per class.
    training
        Of the model, with its accuracy on held-out people and a linear decoder's.
    result
        Of explaining held-out people.
    """

    folder: Path
    n_people: dict[str, int]
    training: TrainingReport
    result: RunResult


def demonstrate_development(
    folder: Path,
    *,
    n_subjects: int = 24,
    data_dir: str | Path | None = None,
    seed: int = 0,
    volumes: str = "10::12",
    fitting: Fitting | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> DevelopmentReport:
    """Fetch, train, classify and explain.

    Parameters
    ----------
    folder
        Where to write; must exist and be empty.
    n_subjects
        People; nilearn keeps the data set's proportion of children (122) to adults (33).
    data_dir
        Where nilearn keeps its data; None for its own place.
    seed
        Of the split and the training.
    volumes
        Which volumes of every person.
    fitting
        How the model is trained.
    say
        Takes sentences for the user.
    progress
        Called with (done, in all, what is going on).

    Raises
    ------
    InputError
        If the data are neither in nilearn's cache nor can be downloaded, or there are too few
        people.
    """
    said = say or (lambda _: None)
    said("Fetching the data through nilearn (OpenNeuro ds000228); its cache is used where it is.")
    runs, labels = fetch_people(n_subjects, data_dir)
    n_people = {name: labels.count(name) for name in CLASSES}
    if min(n_people.values()) < 2:
        raise InputError(
            f"{n_subjects} people are {n_people['child']} children and {n_people['adult']} adults; "
            "at least 2 of each are needed, so ask for more (--subjects)"
        )
    table = folder / "labels.tsv"
    rows = [f"{_subject(path)}\t{label}" for path, label in zip(runs, labels, strict=True)]
    table.write_text("\n".join(["participant_id\tlabel", *rows]) + "\n", encoding="utf-8")
    preparation = development_preparation(runs[0])
    said("Training: people are held out whole.")
    training = train_model(
        RunSource(images=tuple(runs), volumes=volumes, labels=table, t_r=2.0),
        folder / "model",
        preparation=preparation,
        patch_size=PATCH,
        class_names=CLASSES,
        split="subject",
        fitting=fitting or Fitting(epochs=15, batch_size=16),
        seed=seed,
        progress=progress,
    )
    held_out = set(training.folds[0].held_out)
    tested = tuple(path for path in runs if _subject(path) in held_out)
    said("Explaining the held-out people.")
    result = explain_run(
        RunSource(images=tested, volumes=volumes, labels=table, t_r=2.0),
        folder / "model" / "model.yaml",
        mean_target="adult",
        title="Demonstration: adults against children watching a film (ds000228)",
        say=said,
        progress=progress,
    )
    with output_folder(folder / "explained") as place:
        write_run(result, place)
    return DevelopmentReport(folder, n_people, training, result)


def fetch_people(n_subjects: int, data_dir: str | Path | None) -> tuple[list[Path], list[str]]:
    """Return runs and class names of people, fetched by nilearn.

    Raises
    ------
    InputError
        If nilearn can neither find nor download them.
    """
    from nilearn import datasets

    try:
        data = datasets.fetch_development_fmri(
            n_subjects=n_subjects,
            reduce_confounds=False,  # they are not used; reducing would write to the cache
            data_dir=None if data_dir is None else str(data_dir),
            verbose=0,
        )
    except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
        places = ", ".join(str(place) for place in datasets.get_data_dirs(data_dir))
        raise InputError(
            f"the data set development_fmri could not be fetched "
            f"({type(error).__name__}: {error}). nilearn looks in {places} and downloads from "
            "osf.io what is not there: run it where "
            "the network reaches that, or copy the folder development_fmri from another machine's "
            "nilearn_data and name its parent with --data-dir. `g3dvit demo` needs no network"
        ) from error
    runs = [Path(path) for path in data.func]
    return runs, [str(label) for label in data.phenotypic["Child_Adult"]]


def development_preparation(example: Path) -> Preparation:
    """Return the preparation for runs like an example: padded to whole patches, z-scored.

    Volumes are z-scored one by one, as the reference does: a person's mean image is kept, which
    children and adults may differ in (head size, coverage) as much as in activity.
    """
    shape = np.asarray(open_series(example).grid.shape)
    missing = -shape % PATCH
    before = missing // 2
    pad = Pad(tuple(before.tolist()), tuple((missing - before).tolist()))
    return Preparation((Reorient("RAS"), pad, Standardise("volume")), SPACE)


def _subject(path: Path) -> str:
    return path.name.split("_")[0]
