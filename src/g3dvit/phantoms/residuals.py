"""One person's noise: what a general linear model leaves of a real run, with random phases.

The run is sampled on the phantom's grid, task and drift are regressed out, and each half of the
run is turned into as many volumes as wanted: its Fourier phases over time are replaced by random
ones, the same for all voxels, which keeps every voxel's spectrum and all correlations between
voxels. The first half serves training, the second half testing. It is one person's noise: it
says nothing about how noise differs between people.

References
----------
Prichard and Theiler 1994, https://doi.org/10.1103/PhysRevLett.73.951
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid


@dataclass(frozen=True, slots=True)
class ResidualNoise:
    """Where a real run is.

    Parameters
    ----------
    image
        A 4D image in MNI space.
    events
        Its events, a table with onset, duration and trial_type.
    t_r
        Repetition time, in s.
    """

    image: str
    events: str
    t_r: float

    def draw(
        self,
        n: int,
        grid: ImageGrid,
        brain: NDArray[np.bool_],
        split: str,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Return noise of unit standard deviation, 0 outside the brain, (n, i, j, k)."""
        key = (self.image, self.events, self.t_r, grid.shape, grid.affine.tobytes())
        residuals = _residuals(*key, brain.tobytes())
        half = len(residuals) // 2
        part = residuals[:half] if split == "train" else residuals[half:]
        volumes = np.zeros((n, *grid.shape), dtype=np.float32)
        for start in range(0, n, len(part)):
            some = randomise_phases(part, rng)[: n - start]
            volumes[start : start + len(some), brain] = some
        return volumes


def randomise_phases(series: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a series with the same spectra and the same correlations between columns.

    Parameters
    ----------
    series : (time points, voxels)
        Its mean over time is dropped.
    rng
        Source of the phases.
    """
    n = len(series)
    spectrum = np.fft.rfft(series - series.mean(axis=0), axis=0)
    phases = rng.uniform(0, 2 * np.pi, size=len(spectrum))
    phases[0] = 0
    if n % 2 == 0:
        phases[-1] = np.pi * rng.integers(2)  # the highest frequency must stay real
    turned = spectrum * np.exp(1j * phases)[:, None]
    return np.asarray(np.fft.irfft(turned, n=n, axis=0), dtype=np.float32)


@lru_cache(maxsize=2)
def _residuals(
    image: str, events: str, t_r: float, shape: tuple[int, int, int], affine: bytes, brain: bytes
) -> NDArray[np.float32]:
    """Return what task and drift do not explain, (time points, voxels in the brain)."""
    import pandas as pd
    from nilearn import image as images
    from nilearn.glm.first_level import make_first_level_design_matrix

    inside = np.frombuffer(brain, dtype=bool).reshape(shape)
    matrix = np.frombuffer(affine, dtype=np.float64).reshape(4, 4)
    sampled = images.resample_img(
        image,
        target_affine=matrix,
        target_shape=shape,
        interpolation="linear",
        force_resample=True,
        copy_header=True,
    )
    series = np.asarray(sampled.get_fdata(dtype=np.float32))[inside].T
    table = pd.read_csv(events, sep="\t")
    if not {"onset", "duration", "trial_type"} <= set(table.columns):
        raise InputError(f"{events} needs the columns onset, duration and trial_type")
    times = t_r * (np.arange(len(series)) + 0.5)
    design = make_first_level_design_matrix(
        times, table[["onset", "duration", "trial_type"]], high_pass=0.01
    ).to_numpy()
    weights, *_ = np.linalg.lstsq(design, series.astype(np.float64), rcond=None)
    left = series - design @ weights
    spread = left.std(axis=0)
    # Voxels of the template's brain that the run does not cover stay silent.
    return np.asarray(left / np.where(spread > 1e-6 * spread.max(), spread, np.inf), np.float32)
