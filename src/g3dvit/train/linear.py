"""A linear decoder on the same volumes: what a 3D ViT has to be compared with.

Ridge regression on the classes over the voxels of the brain. Where there are more than 50,000 of
them, cubes of voxels are averaged first, which a decoder of spatially smooth patterns gains from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import GridError
from g3dvit.train.samples import Samples

MOST_FEATURES = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class LinearDecoder:
    """A trained linear decoder.

    Parameters
    ----------
    shape : (i, j, k)
        Of the volumes that it takes.
    edge
        Edge of the averaged cubes, in voxels.
    cubes : (features,)
        Flat indices of the cubes that it uses.
    weights : (features, classes)
        One column per class.
    bias : (classes,)
        One value per class.
    """

    shape: tuple[int, int, int]
    edge: int
    cubes: NDArray[np.int32] = field(repr=False)
    weights: NDArray[np.float32] = field(repr=False)
    bias: NDArray[np.float32] = field(repr=False)

    def decide(self, volumes: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the class index of every volume, (n,), of volumes (n, i, j, k)."""
        if volumes.shape[1:] != self.shape:
            raise GridError(f"the decoder takes volumes {self.shape}, got {volumes.shape[1:]}")
        features = cube_means(volumes, self.edge)[:, self.cubes]
        return np.asarray((features @ self.weights + self.bias).argmax(axis=1))

    def predict(self, samples: Samples, which: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the class index of chosen samples."""
        parts = [self.decide(volumes) for volumes in _chunks(samples, which)]
        return np.concatenate(parts) if parts else np.zeros(0, np.intp)

    def save(self, path: Path) -> None:
        """Write the decoder as safetensors."""
        from safetensors.numpy import save_file

        arrays = {
            "cubes": self.cubes,
            "weights": self.weights,
            "bias": self.bias,
            "shape": np.array(self.shape, np.int32),
            "edge": np.array([self.edge], np.int32),
        }
        save_file(arrays, str(path))

    @classmethod
    def load(cls, path: Path) -> LinearDecoder:
        """Read a decoder that `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(str(path))
        i, j, k = (int(n) for n in arrays["shape"])
        return cls(
            (i, j, k), int(arrays["edge"][0]), arrays["cubes"], arrays["weights"], arrays["bias"]
        )


def fit_linear(samples: Samples, train: NDArray[np.intp], *, ridge: float = 1.0) -> LinearDecoder:
    """Train a linear decoder on chosen samples.

    Parameters
    ----------
    samples, train
        The volumes, and which of them to use.
    ridge
        Penalty per feature and per unit of mean variance; 1 shrinks as much as the data speak.

    Returns
    -------
    LinearDecoder
        Classes weigh the same, whatever their number of volumes.
    """
    from sklearn.linear_model import Ridge

    edge = 1
    while samples.brain.sum() / edge**3 > MOST_FEATURES:
        edge += 1
    inside = cube_means(samples.brain[None].astype(np.float32), edge)[0] > 0
    cubes = np.flatnonzero(inside).astype(np.int32)
    features = np.concatenate([cube_means(v, edge)[:, cubes] for v in _chunks(samples, train)])
    n_classes = len(samples.class_names)
    targets = 2.0 * np.eye(n_classes, dtype=np.float32)[samples.label[train]] - 1
    counts = np.bincount(samples.label[train], minlength=n_classes)
    weight = (len(train) / (n_classes * np.maximum(counts, 1)))[samples.label[train]]
    penalty = max(ridge * float(features.var()) * features.shape[1], 1e-6)
    model = Ridge(alpha=penalty).fit(features, targets, sample_weight=weight.astype(np.float32))
    return LinearDecoder(
        samples.grid.shape,
        edge,
        cubes,
        np.ascontiguousarray(model.coef_.T, dtype=np.float32),
        np.asarray(model.intercept_, dtype=np.float32),
    )


def _chunks(samples: Samples, which: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
    buffer = np.empty((min(32, max(1, len(which))), *samples.grid.shape), np.float32)
    for start in range(0, len(which), len(buffer)):
        yield samples.fill(which[start : start + len(buffer)], buffer)


def cube_means(volumes: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """Average cubes of voxels of volumes (n, i, j, k); what lies over the border counts as 0.

    Returns
    -------
    (n, cubes)
        In C order of the cubes, of which an axis of s voxels has ceil(s / edge).
    """
    if edge > 1:
        n, *shape = volumes.shape
        pad = [(0, 0), *((0, -size % edge) for size in shape)]
        padded = np.pad(volumes, pad)
        i, j, k = (size // edge for size in padded.shape[1:])
        volumes = padded.reshape(n, i, edge, j, edge, k, edge).mean(axis=(2, 4, 6))
    return volumes.reshape(len(volumes), -1)
