"""A whole training: prepare, split, train every fold, test, write the model.

Composes `samples`, `split`, `fit` and `linear`; computes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from g3dvit import __version__
from g3dvit.descriptions import ModelDescription, save_description
from g3dvit.folders import check_output, output_folder
from g3dvit.input_axes import InputAxes
from g3dvit.models import build_model, resolve_device
from g3dvit.plain import to_json
from g3dvit.prepare import Preparation
from g3dvit.run.inputs import RunSource, open_runs
from g3dvit.train.fit import Fit, Fitting, fit_model, predict
from g3dvit.train.linear import LinearDecoder, fit_linear
from g3dvit.train.permute import permute_labels
from g3dvit.train.report import FoldReport, TrainingReport, balanced_accuracy
from g3dvit.train.samples import Samples, load_samples
from g3dvit.train.small import SMALL, arguments_of
from g3dvit.train.split import MINIMUM_GAP, Fold, Unit, choose_unit, make_folds

Progress = Callable[[int, int, str], None]

WEIGHTS = "model.safetensors"
MODEL = "model.yaml"
PREDICTIONS = "heldout_predictions.tsv"
LINEAR = "linear_decoder.safetensors"
RECIPE = "training.json"


def train_model(
    source: RunSource,
    output: str | Path,
    *,
    preparation: Preparation,
    factory: str = SMALL,
    arguments: Mapping[str, Any] | None = None,
    patch_size: int | None = None,
    class_names: Sequence[str] | None = None,
    input_axes: str = "b 1 i j k",
    split: Unit | None = None,
    n_folds: int = 1,
    test_share: float = 0.25,
    test: Sequence[str] = (),
    gap_volumes: int = MINIMUM_GAP,
    refit: bool = True,
    fitting: Fitting | None = None,
    linear: bool = True,
    permute: bool = False,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train a model on labelled volumes and write it with its held-out predictions.

    Parameters
    ----------
    source
        Images with events and classes, or with labels.
    output
        Folder to write: ``model.yaml``, ``model.safetensors``, ``heldout_predictions.tsv``,
        ``linear_decoder.safetensors``, ``training.json``; with several folds also every fold's
        model in ``fold-N``.
    preparation
        Saved with the model.
    factory, arguments
        What builds the model, ``package.module:Name``, and its keyword arguments. With the
        default factory, a small ViT with `patch_size` is built, and `arguments` change it; where
        they name all that it needs, they are all that counts.
    patch_size
        Voxels per patch edge of the small ViT; must divide the prepared grid.
    class_names
        Order of the outputs; alphabetical by default.
    input_axes
        The way from volumes (b, i, j, k) to the model's input.
    split
        Hold out whole subjects, runs or blocks; the widest that the data allow by default.
    n_folds, test_share, test, gap_volumes
        As in `g3dvit.train.split.make_folds`.
    refit
        With several folds: train the written model once more, on all volumes. Otherwise the
        folder has the models of the folds only.
    fitting
        Epochs, learning rate and so on.
    linear
        Train a linear decoder on the same volumes for comparison.
    permute
        Exchange labels between blocks or subjects first: a null model, which has nothing to
        learn. Its accuracy is about exchanged labels too.
    seed
        Of the split, the exchange, the weights and the order of the volumes.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` ...
    overwrite
        Replace an earlier output.
    progress
        Called with (volumes done, volumes in all, what is going on).

    Raises
    ------
    LeakageError
        If training data would be test data too.
    OutputError
        If the folder is there and `overwrite` is off.
    """
    fitting = Fitting() if fitting is None else fitting
    output = Path(output)
    check_output(output, overwrite=overwrite)
    torch_device = resolve_device(device)
    runs = open_runs(source, n_dropped=preparation.n_dropped)
    samples = load_samples(runs, preparation, class_names, _per_run(progress, len(runs)))
    if permute:
        samples = permute_labels(samples, seed=seed)
    unit = split or choose_unit(samples)
    folds = make_folds(
        samples,
        unit,
        n_folds=n_folds,
        test_share=test_share,
        test=test,
        gap_volumes=gap_volumes,
        seed=seed,
    )
    classes = len(samples.class_names)
    own = arguments_of(factory, arguments, samples.grid.shape, classes, patch_size)
    description = ModelDescription(
        factory=factory,
        arguments=own,
        preparation=preparation,
        class_names=samples.class_names,
        input_axes=input_axes,
        input_shape=_input_shape(input_axes, samples.grid.shape),
        vit_pytorch=_vit_pytorch_version(factory),
    )
    trainer = _Trainer(samples, description, fitting, seed, torch_device, linear, progress)
    told = (output, samples.class_names, unit)
    with output_folder(output, overwrite=overwrite) as folder:
        reports, tables = [], []
        for number, fold in enumerate(folds, start=1):
            name = f"fold {number} of {len(folds)}" if len(folds) > 1 else "training"
            model, decoder, report, table = trainer.run_fold(fold, name)
            table.insert(0, "fold", number)
            reports.append(report)
            tables.append(table)
            place = folder if len(folds) == 1 else folder / f"fold-{number}"
            alone = TrainingReport(*told, (report,), table, refitted=False, permuted=permute)
            trainer.save(place, model, decoder, fold.train, alone)
        whole = TrainingReport(
            *told,
            tuple(reports),
            pd.concat(tables, ignore_index=True),
            refitted=refit and len(folds) > 1,
            permuted=permute,
        )
        if whole.refitted:
            every = np.arange(len(samples))
            model, _ = trainer.fit(every, "all volumes")
            decoder = fit_linear(samples, every) if linear else None
            trainer.save(folder, model, decoder, every, whole)
        _save_report(folder, whole, samples, fitting, seed, gap_volumes, permute)
    return whole


class _Trainer:
    """What all folds have in common."""

    def __init__(
        self,
        samples: Samples,
        description: ModelDescription,
        fitting: Fitting,
        seed: int,
        device: torch.device,
        linear: bool,  # noqa: FBT001
        progress: Progress | None,
    ) -> None:
        self.samples = samples
        self.description = description
        self.fitting = fitting
        self.seed = seed
        self.device = device
        self.linear = linear
        self.progress = progress

    def fit(self, train: NDArray[np.intp], name: str) -> tuple[nn.Module, Fit]:
        """Build and train a model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = build_model(self.description.factory, self.description.arguments)
        total = self.fitting.epochs * len(train)

        def step(done: int, loss: float) -> None:
            if self.progress is not None:
                self.progress(done, total, f"{name}, loss {loss:.2f}")

        report = fit_model(
            model,
            self.samples,
            train,
            self.description.to_input,
            self.fitting,
            seed=self.seed,
            device=self.device,
            progress=step,
        )
        return model, report

    def run_fold(
        self, fold: Fold, name: str
    ) -> tuple[nn.Module, LinearDecoder | None, FoldReport, pd.DataFrame]:
        """Train on a fold and test what it holds out."""
        samples = self.samples
        model, fit = self.fit(fold.train, name)
        logits = predict(
            model, samples, fold.test, self.description.to_input, device=self.device
        ).astype(np.float64)
        decoder = fit_linear(samples, fold.train) if self.linear else None
        names = np.array(samples.class_names, dtype=object)
        labels = names[samples.label[fold.test]]
        predicted = names[logits.argmax(axis=1)]
        linear = (
            names[decoder.predict(samples, fold.test)]
            if decoder is not None
            else np.full(len(fold.test), np.nan, dtype=object)
        )
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        table = pd.DataFrame(
            {
                "run": [samples.runs[r].name for r in samples.run[fold.test]],
                "subject": samples.subjects[fold.test],
                "time_point": samples.time_point[fold.test],
                "onset_s": samples.onset_s[fold.test],
                "block": [None if b < 0 else int(b) for b in samples.block[fold.test]],
                "label": labels,
                "predicted": predicted,
                "linear_predicted": linear,
                **{f"p_{name}": shares[:, c] for c, name in enumerate(samples.class_names)},
            }
        )
        table["block"] = table["block"].astype("Int64")
        report = FoldReport(
            held_out=fold.held_out,
            n_train=len(fold.train),
            n_test=len(fold.test),
            n_gap=fold.n_gap,
            train_accuracy=fit.accuracy[-1],
            balanced_accuracy=balanced_accuracy(labels, predicted),
            linear_balanced_accuracy=(
                float("nan") if decoder is None else balanced_accuracy(labels, linear)
            ),
        )
        return model, decoder, report, table

    def save(
        self,
        folder: Path,
        model: nn.Module,
        decoder: LinearDecoder | None,
        train: NDArray[np.intp],
        report: TrainingReport,
    ) -> None:
        """Write one model with its weights and its linear decoder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(state, str(folder / WEIGHTS))
        trained_on = tuple(self.samples.runs[r].name for r in np.unique(self.samples.run[train]))
        described = replace(
            self.description,
            weights=folder / WEIGHTS,
            trained_on=trained_on,
            accuracy=report.accuracy(),
        )
        save_description(described, folder / MODEL)
        if decoder is not None:
            decoder.save(folder / LINEAR)


def _save_report(
    folder: Path,
    report: TrainingReport,
    samples: Samples,
    fitting: Fitting,
    seed: int,
    gap_volumes: int,
    permuted: bool,  # noqa: FBT001
) -> None:
    report.predictions.to_csv(
        folder / PREDICTIONS, sep="\t", index=False, na_rep="n/a", float_format="%.6g"
    )
    recipe = {
        "seed": seed,
        "fitting": asdict(fitting),
        "split": report.unit,
        "gap_volumes": gap_volumes,
        "permuted_labels": permuted,
        "refitted": report.refitted,
        "classes": report.class_names,
        "folds": [asdict(fold) for fold in report.folds],
        "balanced_accuracy": report.balanced_accuracy,
        "linear_balanced_accuracy": report.linear_balanced_accuracy,
        "runs": [{"source": run.source, "sha256": run.fingerprint} for run in samples.runs],
        "versions": {"g3dvit": __version__, "torch": torch.__version__},
    }
    (folder / RECIPE).write_text(to_json(recipe) + "\n", encoding="utf-8")


def _input_shape(input_axes: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return what the model takes, without the batch."""
    example = InputAxes.parse(input_axes).to_input(np.empty((1, *shape), np.float32))
    return tuple(int(n) for n in example.shape[1:])


def _vit_pytorch_version(factory: str) -> str | None:
    if not factory.startswith("vit_pytorch"):
        return None
    from importlib.metadata import version

    return version("vit-pytorch")


def _per_run(progress: Progress | None, n_runs: int) -> Callable[[str, int, int], None] | None:
    """Turn counts within runs into counts over all runs, taking them for equally long."""
    if progress is None:
        return None
    started: list[str] = []

    def step(name: str, done: int, total: int) -> None:
        if name not in started:
            started.append(name)
        progress((len(started) - 1) * total + done, n_runs * total, "preparing")

    return step
