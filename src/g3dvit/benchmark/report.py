"""The benchmark as a document: what was measured, the tables, the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from g3dvit.benchmark.cases import Case, find_cases
from g3dvit.benchmark.figures import draw_maps, draw_numbers
from g3dvit.benchmark.maps import EARLIER_ROW, RECOMMENDED_ROW, ROWS, WITH_GAMMA_ROW
from g3dvit.benchmark.metrics import METRICS
from g3dvit.benchmark.models import ModelRecipe, is_trained, trained_model
from g3dvit.benchmark.run import RunSettings
from g3dvit.benchmark.table import Line, columns_of, to_markdown, to_tsv
from g3dvit.benchmark.targets import Reached, targets_to_markdown
from g3dvit.folders import write_text
from g3dvit.plain import to_json

_HEAD = """\
# Benchmark: maps of phantoms with known answers

This file is written by one command, which can be stopped and goes on where it stopped:

    {command}

Every map explains the log-odds of the volume's TRUE class, on held-out volumes, right and wrong
ones alike. All maps lie on the voxel grid (maps of patches are interpolated linearly), are signed,
and are smoothed alike with a Gaussian of {smoothing:g} voxels standard deviation; nothing is
rectified or thresholded. The truth is corrected for what a model can see: voxels in patches that
look the same with and without the signal, after the model's own patch normalisation, belong to
neither side, and neither do places where another class would have shown its signal (that it is
absent there is evidence too). Intervals are 95 % bootstrap intervals nested in training seeds;
with one seed they say nothing about other trainings.

The phantoms:

- `realnoise`: blobs of 3.2 voxels radius in BOLD-like noise (thermal, spatially smooth and
  autocorrelated, drift, physiological, motion) in the MNI brain, 30 x 30 x 30 voxels of 6 mm. Two
  classes differ in WHERE the blob is: two places each, jittered, never aligned with the patches. A
  blob of the same strength, the distractor, lies at one of two further places whatever the class,
  with at least two patch edges between its surface and that of every target. "distr. AUC"
  compares the distractor's voxels with empty voxels at the same distance from the target.
- `cubes`: the seed project's phantom without its flaws: a box of 8 voxels added to white noise, at
  any place. The class is the octant (position, 8 classes) or the sign (content). "As it was" is
  the original: constant background and boxes aligned with their own size.

SRG removes tokens after positions were added, a fifth of the patches in the mask at a time, on
{n_slow} volumes per seed, as many as the rows of many passes have; relative SRG is 0 for random
orders and 1 for the order that removing single tokens gives. "Patch" columns and SRG take one
number per patch as the method gives it, not smoothed. Seconds are those of one run on the machine
at hand.

Methods are chosen on the development family. The sealed family has other random numbers and other
places, and was explained only after the choices were frozen by a commit: {shifts} shifts, gamma
{gamma:g}, and "shift-averaged, signed, with the gamma rule" as the map to show. When that map had
missed targets on sealed phantoms, "{local}" was made and chosen on development phantoms
alone, committed, and then measured on the sealed ones once. When textures and larger patches had
shown where both fail, shifts were weighted by the evidence that they keep ("{earlier}",
"{positive}"). When these still let a distractor stand out, evidence against the class was spread
like evidence for it and counted half, without the gamma rule ("{recommended}", which
``g3dvit explain`` writes), and with a little of it where boxes had lost by that ("{gamma_row}").
When textures had shown these in the wrong colour, shifts whose maps show other places than the
volume as it is were left out of both. Each was chosen on development phantoms, committed, and then
measured; all are in the tables, but for the last two as they were before their last change. What
sealed phantoms prompted they no longer test untouched: textures and larger patches the weights,
the distractor the evidence against, textures the shifts that are left out.

The models are `vit_pytorch.vit_3d`:

{models}

What the columns mean:

{columns}
"""


def _describe(recipe: ModelRecipe) -> str:
    """Return what a model is, in one sentence."""
    pooling = {"cls": "class token", "mean": "mean of all tokens"}[recipe.pooling]
    norm = "patches normalised" if recipe.patch_norm else "patches not normalised"
    trained = {
        "true": f"trained on {recipe.n_train} volumes for {recipe.epochs} epochs",
        "permuted": f"trained on {recipe.n_train} volumes with permuted labels",
        "untrained": "not trained",
    }[recipe.labels]
    return (
        f"width {recipe.dim}, depth {recipe.depth}, {recipe.heads} heads, patches of "
        f"{recipe.patch_size} voxels, {pooling}, {norm}, {trained}."
    )


def _targets(targets: Sequence[Reached], beside: Mapping[str, Sequence[Reached]]) -> str:
    """Return the section on what was asked of the recommended map."""
    missed = sum(not one.met for one in targets)
    return (
        "## What was asked of the recommended map\n\n"
        f'Of "{ROWS[RECOMMENDED_ROW]}", the map that `g3dvit explain` writes and recommends. The '
        "last columns are those of other maps on the same trainings. The targets were set "
        f"before any sealed phantom was explained; {len(targets) - missed} of {len(targets)} are "
        "met by the mean (the interval is shown, it does not decide).\n\n"
        + targets_to_markdown(targets, beside)
    )


def write_report(
    lines: Sequence[Line],
    cases: Sequence[Case],
    settings: RunSettings,
    *,
    folder: Path,
    document: Path,
    command: str,
    cache: Path | None = None,
    targets: Sequence[Reached] = (),
    beside: Mapping[str, Sequence[Reached]] | None = None,
    notes: str = "",
) -> list[Path]:
    """Write tables, figures and the document.

    Parameters
    ----------
    lines
        Of the table.
    cases, settings
        What was run.
    folder
        Gets ``table.tsv`` and ``table.json``.
    document
        Markdown file; its figures go to ``images`` beside it.
    command
        As it was called.
    cache
        Where trained models are kept.
    targets
        What was asked of the recommended map, and what it reached.
    beside
        The same of other maps on the same trainings, by their titles.
    notes
        Markdown after the tables.

    Returns
    -------
    list of Path
        What was written.
    """
    tsv, data = folder / "table.tsv", folder / "table.json"
    write_text(tsv, to_tsv(lines))
    write_text(data, to_json({"settings": settings, "lines": list(lines)}) + "\n")
    images = document.parent / "images"
    numbers = images / "benchmark_numbers.png"
    base = {case.name for case in find_cases(["base"])}
    draw_numbers([line for line in lines if line.case in base] or lines, numbers)
    pictures = []
    for case in cases:
        path = images / f"benchmark_{case.name}.png"
        # Parts may have come from another machine: no model is trained again for a picture that
        # is there.
        if is_trained(case.recipe, cache) or not path.exists():
            draw_maps(trained_model(case.recipe, cache), path, settings.maps.model)
        pictures.append(path)
    shown = [
        f"![Maps of {case.name}: the volume, then the maps; truth outlined, distractor dotted]"
        f"(images/{path.name})"
        for case, path in zip(cases, pictures, strict=True)
    ]
    head = _HEAD.format(
        command=command,
        smoothing=settings.maps.smoothing_vox,
        n_slow=settings.maps.n_slow,
        shifts=settings.maps.model.shifts,
        gamma=settings.maps.model.gamma,
        gamma_row=ROWS[WITH_GAMMA_ROW],
        earlier=ROWS[EARLIER_ROW],
        recommended=ROWS[RECOMMENDED_ROW],
        local=ROWS["shift_averaged_local"],
        positive=ROWS["shift_weighted"],
        models="\n".join(f"- {case.name}: {_describe(case.recipe)}" for case in cases),
        columns="\n".join(
            f"- {METRICS[m].title}: {METRICS[m].meaning}." for m in columns_of(lines)
        ),
    )
    body = [
        head,
        *([_targets(targets, beside or {})] if targets else []),
        "## Results\n",
        f"![Mean and 95 % interval of each map](images/{numbers.name})\n",
        to_markdown(lines),
        "## Maps\n",
        "The first held-out volumes of each case, one slice through the truth.\n",
        "\n\n".join(shown) + "\n",
        *([notes.rstrip() + "\n"] if notes else []),
    ]
    write_text(document, "\n".join(body))
    return [tsv, data, document, numbers, *pictures]
