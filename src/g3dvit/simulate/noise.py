"""BOLD-like noise, one volume after the other, in units of its own standard deviation.

Five parts with a fixed share of the variance: thermal (white), neural (smooth in space,
autocorrelated in time), slow drift, physiological oscillation (aliased heart beat and
breathing), and jitter that follows the brain's edges as small head movements do. Each part has
about unit variance per voxel, so the sum has a standard deviation of about 1 and a
contrast-to-noise ratio is simply the amplitude of a response. Not modelled: spin history,
distortion, slice timing, spikes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from g3dvit.grids import ImageGrid
from g3dvit.simulate.anatomy import Anatomy


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """What the noise is made of.

    Parameters
    ----------
    thermal, neural, drift, physiological, motion
        Share of the variance of each part; they are divided by their sum.
    autocorrelation
        Correlation of the neural part between one volume and the next (AR(1)).
    fwhm_mm
        Spatial smoothness of the neural part, full width at half maximum in mm.
    """

    thermal: float = 0.50
    neural: float = 0.30
    drift: float = 0.08
    physiological: float = 0.06
    motion: float = 0.06
    autocorrelation: float = 0.5
    fwhm_mm: float = 8.0

    def amplitudes(self) -> dict[str, float]:
        """Return the standard deviation of each part; their squares sum to 1."""
        names = ("thermal", "neural", "drift", "physiological", "motion")
        shares = np.array([getattr(self, name) for name in names], dtype=np.float64)
        return dict(zip(names, np.sqrt(shares / shares.sum()).tolist(), strict=True))


class SmoothField:
    """Random fields of unit variance with a given smoothness, made on a coarser grid.

    Along every axis one matrix smooths and interpolates at once; its rows have unit length, so
    that independent unit variance on the coarse grid gives unit variance at every voxel.
    """

    def __init__(self, grid: ImageGrid, fwhm_mm: float) -> None:
        sigma = fwhm_mm / np.sqrt(8 * np.log(2))
        step = max(float(sigma), float(grid.voxel_sizes.min()))
        self._matrices = []
        for size, edge in zip(grid.shape, grid.voxel_sizes, strict=True):
            nodes = np.arange(-2 * step, size * edge + 2 * step, step)
            apart = np.arange(size)[:, None] * edge - nodes[None, :]
            # Kernels of width sigma / sqrt(2) give fields whose autocorrelation has width sigma.
            matrix = np.exp(-(apart**2) / sigma**2)
            matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
            self._matrices.append(matrix.astype(np.float32))
        self.coarse_shape = tuple(matrix.shape[1] for matrix in self._matrices)

    def innovation(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw independent values on the coarse grid."""
        return rng.standard_normal(self.coarse_shape, dtype=np.float32)

    def to_voxels(self, coarse: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn values on the coarse grid into a smooth field, (i, j, k)."""
        first, second, third = self._matrices
        field = np.tensordot(first, coarse, axes=(1, 0))
        field = np.einsum("jb,ibc->ijc", second, field, optimize=True)
        return np.asarray(field @ third.T, dtype=np.float32)


def bold_noise(
    anatomy: Anatomy,
    n_time_points: int,
    t_r: float,
    rng: np.random.Generator,
    model: NoiseModel | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the noise of one run, volume after volume.

    Parameters
    ----------
    anatomy
        The brain; its edges shape the motion part.
    n_time_points
        How many volumes.
    t_r
        Repetition time, in s.
    rng
        Source of randomness; nothing else is drawn from.
    model
        Shares and smoothness.

    Yields
    ------
    (voxels in the brain,) float32
        Noise of one volume in units of its standard deviation over time, about 1.
    """
    model = NoiseModel() if model is None else model
    sd = model.amplitudes()
    brain = anatomy.brain
    n_voxels = int(brain.sum())
    smooth = SmoothField(anatomy.grid, model.fwhm_mm)
    maps, traces = _slow_parts(anatomy, n_time_points, t_r, rng, sd)
    rho = model.autocorrelation
    state = smooth.innovation(rng)
    for time_point in range(n_time_points):
        if time_point:
            fresh = smooth.innovation(rng)
            state = np.float32(rho) * state + np.float32(np.sqrt(1 - rho**2)) * fresh
        noise = rng.standard_normal(n_voxels, dtype=np.float32) * np.float32(sd["thermal"])
        noise += np.float32(sd["neural"]) * smooth.to_voxels(state)[brain]
        noise += traces[time_point] @ maps
        yield noise


def _slow_parts(
    anatomy: Anatomy,
    n_time_points: int,
    t_r: float,
    rng: np.random.Generator,
    sd: dict[str, float],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return drift, physiological and motion parts as maps (parts, voxels) and traces."""
    brain = anatomy.brain
    wide = SmoothField(anatomy.grid, 40.0)
    seconds = np.arange(n_time_points) * t_r
    maps: list[NDArray[np.float32]] = []
    traces: list[NDArray[np.float64]] = []

    for order in (1, 2, 3):  # drift: the three slowest cosines
        trace = np.cos(np.pi * order * (np.arange(n_time_points) + 0.5) / n_time_points)
        maps.append(wide.to_voxels(wide.innovation(rng))[brain])
        traces.append(_unit(trace) * sd["drift"] / np.sqrt(3))

    patchy = SmoothField(anatomy.grid, 16.0)
    for lowest, highest in ((0.05, 0.12), (0.15, 0.24)):  # aliased breathing and heart beat, Hz
        frequency = rng.uniform(lowest, highest)
        wander = np.cumsum(rng.normal(0, 0.15, n_time_points))  # the rhythm is not a clock's
        phase = 2 * np.pi * (frequency * seconds + rng.uniform()) + wander
        for quarter in (0.0, np.pi / 2):
            maps.append(patchy.to_voxels(patchy.innovation(rng))[brain])
            traces.append(_unit(np.sin(phase + quarter)) * sd["physiological"] / 2)

    for axis in range(3):  # a displacement d changes the image by about d times its gradient
        steps = rng.normal(0, 1, n_time_points)
        steps[rng.random(n_time_points) < 0.03] *= 6
        trace = 0.3 * np.cumsum(steps) + steps
        values = np.asarray(np.gradient(anatomy.intensity, axis=axis))[brain]
        maps.append(np.clip(values / (values.std() + 1e-6), -3, 3).astype(np.float32))
        traces.append(_unit(trace) * sd["motion"] / np.sqrt(3))
    return np.stack(maps), np.stack(traces, axis=1).astype(np.float32)


def _unit(trace: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a trace with mean 0 and standard deviation 1."""
    centred = trace - trace.mean()
    return np.asarray(centred / max(float(centred.std()), 1e-9))
