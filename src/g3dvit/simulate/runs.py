"""Semi-synthetic BOLD runs with a known answer, written as fMRIPrep writes its own.

Real: the anatomy and the shape of the motor clusters. Simulated: everything that changes over
time. A *subject* has its own cluster shapes (a small random deformation); a *run* has its own
block order, amplitudes and noise. The same seed gives the same files, whatever else was drawn.
Every file says that it is semi-synthetic. Not modelled: anything a study of people would need.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError, OutputError
from g3dvit.simulate.anatomy import HANDS, Anatomy, world_coordinates
from g3dvit.simulate.noise import NoiseModel, SmoothField, bold_noise

SPACE = "MNI152NLin6Asym"
SEMI_SYNTHETIC = (
    "Semi-synthetic BOLD made by g3dvit: real MNI anatomy and real motor cluster shapes, "
    "simulated responses and noise. It is not a measurement of anybody."
)
NOISE_PERCENT = 1.0  # one standard deviation of the noise, in percent of the mean signal
SLOPE = 0.05  # int16 steps, in signal units of 1000: 0.005 %, far below the noise


@dataclass(frozen=True, slots=True)
class RunDesign:
    """The task, the strength of the response and the noise.

    Parameters
    ----------
    blocks_per_hand
        Blocks of each hand in a run, in random order.
    block_s, rest_s, first_rest_s
        Duration of a block, of the rest after it (plus 0 to 4 s at random) and before the
        first, in s.
    t_r, start_time
        Repetition time and the time within it that a volume stands for, in s.
    contrast_to_noise
        Plateau of the response, averaged over a cluster, over the noise's standard deviation.
    amplitude_sd
        Standard deviation of a block's amplitude around its mean of 1.
    shift_sd_mm
        Standard deviation of how far a subject's clusters are shifted along each axis, and of
        the smooth deformation on top of it, in mm.
    noise
        What the noise is made of.
    """

    blocks_per_hand: int = 3
    block_s: float = 16.0
    rest_s: float = 8.0
    first_rest_s: float = 10.0
    t_r: float = 2.0
    start_time: float = 1.0
    contrast_to_noise: float = 1.0
    amplitude_sd: float = 0.3
    shift_sd_mm: float = 2.0
    noise: NoiseModel = field(default_factory=NoiseModel)

    def __post_init__(self) -> None:
        if self.blocks_per_hand < 1 or min(self.block_s, self.rest_s, self.t_r) <= 0:
            raise InputError(f"a run needs blocks, rest and a repetition time above 0: {self}")
        if self.contrast_to_noise < 0 or self.amplitude_sd < 0 or self.shift_sd_mm < 0:
            raise InputError(f"strengths and standard deviations are at least 0: {self}")

    @property
    def n_time_points(self) -> int:
        """Number of volumes, with 8 s after the last block for its response."""
        seconds = self.first_rest_s + 2 * self.blocks_per_hand * (self.block_s + self.rest_s + 2)
        return int(np.ceil((seconds + 8) / self.t_r))


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One block: when, how long (s), which hand, how strong each condition's response is."""

    onset_s: float
    duration_s: float
    hand: str
    amplitudes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one simulated run."""

    bold: Path
    events: Path
    brain_mask: Path
    subject: str
    run: int


def subject_name(subject: int) -> str:
    """Return the BIDS label of a subject, such as ``"sub-01"``."""
    return f"sub-{subject:02d}"


def subject_weights(
    anatomy: Anatomy, *, seed: int, subject: int, shift_sd_mm: float = 2.0
) -> dict[str, NDArray[np.float32]]:
    """Return a subject's own weights of every condition.

    Each cluster is shifted and smoothly deformed at random; its size changes a little by that.

    Parameters
    ----------
    anatomy
        Brain and weights that the subject's own are drawn around.
    seed, subject
        The same two numbers give the same subject.
    shift_sd_mm
        Standard deviation of the shift and of the deformation along each axis, in mm.

    Returns
    -------
    dict
        Condition to (i, j, k) weights, 0 outside the brain.
    """
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng([seed, subject, 0])
    grid = anatomy.grid
    smooth = SmoothField(grid, 40.0)
    bend = np.stack([smooth.to_voxels(smooth.innovation(rng)) for _ in range(3)], axis=-1)
    own = {}
    for condition, weights in anatomy.weights.items():
        shift = rng.normal(0, 1, 3)
        from_mm = world_coordinates(grid) + shift_sd_mm * (shift + 0.7 * bend)
        voxels = np.moveaxis(grid.world2vox(from_mm), -1, 0)
        values = map_coordinates(weights, voxels, order=1, cval=0.0)
        own[condition] = np.where(anatomy.brain & (values > 0.25), values, 0).astype(np.float32)
    return own


def draw_events(design: RunDesign, rng: np.random.Generator) -> tuple[Event, ...]:
    """Draw block order, rest and amplitudes of one run."""
    hands = rng.permutation(np.repeat(HANDS, design.blocks_per_hand))
    events = []
    onset = design.first_rest_s
    for hand in hands:
        motor, visual = np.maximum(rng.normal(1.0, design.amplitude_sd, 2), 0.2)
        amplitudes = {str(hand): float(motor), "visual": float(visual)}
        events.append(Event(round(onset, 3), design.block_s, str(hand), amplitudes))
        onset += design.block_s + design.rest_s + rng.uniform(0, 4)
    return tuple(events)


def responses(events: Sequence[Event], design: RunDesign) -> dict[str, NDArray[np.float64]]:
    """Return the haemodynamic response of each condition at every volume.

    Parameters
    ----------
    events
        The blocks; their amplitudes scale the response.
    design
        Repetition time and length of the run.

    Returns
    -------
    dict
        Condition to (time points,); a long block of amplitude 1 has a plateau of 1.
    """
    from nilearn.glm.first_level import glover_hrf

    steps = 20  # of a repetition time
    fine = design.t_r / steps
    hrf = np.asarray(glover_hrf(design.t_r, oversampling=steps, time_length=32.0))
    samples = np.round((np.arange(design.n_time_points) * design.t_r + design.start_time) / fine)
    courses = {}
    for condition in (*HANDS, "visual"):
        boxes = np.zeros(design.n_time_points * steps)
        for event in events:
            first = round(event.onset_s / fine)
            last = round((event.onset_s + event.duration_s) / fine)
            boxes[first:last] = event.amplitudes.get(condition, 0.0)
        courses[condition] = (np.convolve(boxes, hrf) / hrf.sum())[samples.astype(int)]
    return courses


def simulate_run(
    anatomy: Anatomy, *, seed: int, subject: int, run: int, design: RunDesign | None = None
) -> tuple[tuple[Event, ...], Iterator[NDArray[np.float32]]]:
    """Draw one run; its volumes are made one at a time.

    Parameters
    ----------
    anatomy
        The brain and its clusters.
    seed, subject, run
        The same three numbers give the same run.
    design
        Task, strength and noise.

    Returns
    -------
    events
        The blocks, in the order of time.
    volumes
        Iterator over (i, j, k) float32 volumes in signal units.
    """
    design = RunDesign() if design is None else design
    rng = np.random.default_rng([seed, subject, run])
    events = draw_events(design, rng)
    own = subject_weights(anatomy, seed=seed, subject=subject, shift_sd_mm=design.shift_sd_mm)
    return events, _volumes(anatomy, own, events, design, rng)


def _volumes(
    anatomy: Anatomy,
    own: Mapping[str, NDArray[np.float32]],
    events: Sequence[Event],
    design: RunDesign,
    rng: np.random.Generator,
) -> Iterator[NDArray[np.float32]]:
    brain = anatomy.brain
    courses = responses(events, design)
    maps = np.stack([own[condition][brain] for condition in courses])
    strength = design.contrast_to_noise * np.stack(list(courses.values()), axis=1)
    strength = strength.astype(np.float32)
    mean = anatomy.intensity[brain]
    noise = bold_noise(anatomy, design.n_time_points, design.t_r, rng, design.noise)
    for time_point, values in enumerate(noise):
        volume = np.zeros(anatomy.grid.shape, np.float32)
        change = values + strength[time_point] @ maps
        volume[brain] = mean * (1 + NOISE_PERCENT / 100 * change)
        yield volume


def write_run(
    folder: Path,
    anatomy: Anatomy,
    *,
    seed: int,
    subject: int,
    run: int,
    design: RunDesign | None = None,
    overwrite: bool = False,
) -> RunFiles:
    """Write one run as fMRIPrep would: BOLD, JSON, events and brain mask.

    Parameters
    ----------
    folder
        Where to; ``sub-XX/func`` is made inside it.
    anatomy, seed, subject, run, design
        As in `simulate_run`.
    overwrite
        Replace files that are there.

    Raises
    ------
    OutputError
        If a file is there and `overwrite` is off.
    """
    import nibabel as nib

    design = RunDesign() if design is None else design
    func = folder / subject_name(subject) / "func"
    stem = f"{subject_name(subject)}_task-hands_run-{run}"
    spaced = f"{stem}_space-{SPACE}"
    files = RunFiles(
        func / f"{spaced}_desc-preproc_bold.nii.gz",
        func / f"{stem}_events.tsv",
        func / f"{spaced}_desc-brain_mask.nii.gz",
        subject_name(subject),
        run,
    )
    if not overwrite and files.bold.exists():
        raise OutputError(f"{files.bold} is there already; choose another folder, or overwrite it")
    func.mkdir(parents=True, exist_ok=True)
    events, volumes = simulate_run(anatomy, seed=seed, subject=subject, run=run, design=design)
    shape = anatomy.grid.shape
    # Fortran order, because that is how the file holds it: no second copy is made on writing.
    data = np.zeros((*shape, design.n_time_points), np.int16, order="F")
    for time_point, volume in enumerate(volumes):
        np.rint(volume / SLOPE, out=volume)
        data[..., time_point] = volume
    image = nib.Nifti1Image(data, anatomy.grid.affine)
    image.header.set_slope_inter(SLOPE, 0)
    image.header.set_zooms((*anatomy.grid.voxel_sizes, design.t_r))
    _save_image(image, files.bold)
    _save_image(
        nib.Nifti1Image(anatomy.brain.astype(np.uint8), anatomy.grid.affine), files.brain_mask
    )
    sidecar = {
        "Description": SEMI_SYNTHETIC,
        "RepetitionTime": design.t_r,
        "StartTime": design.start_time,
        "SpatialReference": SPACE,
        "SkullStripped": True,
        "TaskName": "hands",
        "Seed": [seed, subject, run],
        "ContrastToNoise": design.contrast_to_noise,
    }
    _save_json(sidecar, files.bold.with_name(files.bold.name.replace(".nii.gz", ".json")))
    rows = [f"{e.onset_s:g}\t{e.duration_s:g}\t{e.hand}" for e in events]
    files.events.write_text("\n".join(["onset\tduration\ttrial_type", *rows]) + "\n", "utf-8")
    _save_json(
        {"Description": SEMI_SYNTHETIC, "trial_type": {"Levels": {h: f"{h} hand" for h in HANDS}}},
        files.events.with_suffix(".json"),
    )
    return files


def write_truth(folder: Path, anatomy: Anatomy) -> dict[str, Path]:
    """Write where each condition is planted, before the subjects' own deformations.

    Returns
    -------
    dict
        Condition to the path of its mask.
    """
    import nibabel as nib

    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for condition in anatomy.weights:
        path = folder / f"space-{SPACE}_label-{condition}_desc-truth_mask.nii.gz"
        mask = anatomy.truth(condition)
        _save_image(nib.Nifti1Image(mask.astype(np.uint8), anatomy.grid.affine), path)
        volume_ml = float(mask.sum() * anatomy.grid.voxel_volume_mm3 / 1000)
        _save_json(
            {"Description": SEMI_SYNTHETIC, "Condition": condition, "VolumeML": volume_ml},
            path.with_name(path.name.replace(".nii.gz", ".json")),
        )
        paths[condition] = path
    return paths


def _save_image(image: Any, path: Path) -> None:
    """Save an image in MNI space under its own name only once it is whole."""
    image.header["descrip"] = b"semi-synthetic (g3dvit)"
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(image.affine, 4)
    image.set_qform(image.affine, 4)
    part = path.with_name(f".part-{path.name}")
    try:
        image.to_filename(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _save_json(values: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
