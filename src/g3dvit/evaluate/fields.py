"""Random maps that are as smooth as a given one: a fair opponent for smooth maps.

Smooth maps do better than rough ones at removal whatever they show, because neighbouring patches
carry the same signal. A random field of the same smoothness profits as much and knows nothing of
the model. Smoothness here is the correlation of face neighbours on the patch grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError
from g3dvit.grids import Shape3

_WIDEST = 6.0  # of a Gaussian, in patches; neighbours then correlate at .993
_REACH = 4.0  # of the filter, in its standard deviations


def matched_fields(
    correlation: float, shape: Shape3, count: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Return Gaussian random fields whose face neighbours correlate as given.

    Parameters
    ----------
    correlation
        Of face neighbours, below 1; at or below 0 gives white noise.
    shape : (3,)
        Patches per axis.
    count
        How many fields.
    seed
        Of the noise.

    Returns
    -------
    fields : (count, gi, gj, gk)
        Mean 0.
    """
    from scipy.ndimage import gaussian_filter

    if not correlation < 1:
        raise InputError(f"neighbours correlate below 1, was given {correlation}")
    sigma = width_for(correlation)
    pad = int(np.ceil(_REACH * sigma))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, *(n + 2 * pad for n in shape)))
    if sigma == 0:
        return noise
    smooth = np.stack([gaussian_filter(one, sigma, truncate=_REACH) for one in noise])
    inner = tuple(slice(pad, pad + n) for n in shape)
    return np.asarray(smooth[(slice(None), *inner)])


def width_for(correlation: float) -> float:
    """Return the Gaussian's standard deviation, in patches, that makes neighbours correlate so."""
    if correlation <= 0:
        return 0.0
    low, high = 0.0, _WIDEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _correlation(middle) < correlation else (low, middle)
    return high


def _correlation(sigma: float) -> float:
    """Return how neighbours correlate after a sampled Gaussian has run over white noise."""
    reach = int(_REACH * sigma + 0.5)
    if sigma == 0 or reach == 0:
        return 0.0
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return float((kernel[1:] * kernel[:-1]).sum() / (kernel**2).sum())
