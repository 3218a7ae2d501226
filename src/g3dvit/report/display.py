"""What is done to values before they are shown; nothing of it reaches a saved map.

Applied after resampling, in this order: smooth, rectify, percentile, min-max. Whatever was done
is said in the caption.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import InputError
from g3dvit.maps import content_of
from g3dvit.run_result import ClassMean, Display, MapSet

_SD_OF_FWHM = 1 / np.sqrt(8 * np.log(2))


def shown_mean(maps: MapSet, mean: ClassMean, display: Display) -> NDArray[np.float32]:
    """Return a class mean on the prepared grid, smoothed if it was computed voxel by voxel.

    Parameters
    ----------
    maps, mean
        Which method, which group of volumes.
    display
        The options; only `Display.smooth_mm` is applied here.
    """
    values = mean.voxel.data if maps.fine else content_of(mean.voxel).data
    if not maps.fine or display.smooth_mm == 0:
        return values
    from scipy.ndimage import gaussian_filter

    sd_vox = display.smooth_mm * _SD_OF_FWHM / mean.voxel.grid.voxel_sizes
    finite = np.nan_to_num(values, posinf=0, neginf=0)
    return np.asarray(gaussian_filter(finite, sd_vox, mode="constant"), dtype=np.float32)


def apply_display(values: NDArray[np.float32], display: Display) -> NDArray[np.float32]:
    """Return values as they are shown.

    Parameters
    ----------
    values
        Already on the grid on which they are shown.
    display
        The options.

    Raises
    ------
    InputError
        If the percentile is not between 0 and 100.
    """
    shown = np.array(values, dtype=np.float32)
    if display.rectify:
        shown = np.maximum(shown, 0)
    if display.percentile is not None:
        shown[np.abs(shown) < threshold_of(shown, display.percentile)] = 0
    if display.min_max and np.abs(shown).max(initial=0) > 0:
        shown /= np.abs(shown).max()
    return shown


def threshold_of(values: NDArray[np.float32], percentile: float) -> float:
    """Return the percentile of the absolute values that are not zero; 0 where all are.

    Raises
    ------
    InputError
        If the percentile is not between 0 and 100.
    """
    if not 0 <= percentile <= 100:
        raise InputError(f"a display percentile lies between 0 and 100, was given {percentile}")
    size = np.abs(values[values != 0])
    return float(np.percentile(size, percentile)) if size.size else 0.0


def display_units(units: str, display: Display) -> str:
    """Return the units of shown values, for a colour bar."""
    if not display.min_max:
        return units
    return "share of the largest value"


def caption_of(display: Display, maps: Sequence[MapSet] = ()) -> str:
    """Return what was done, as a sentence; empty where nothing was.

    Parameters
    ----------
    display
        The options.
    maps
        What is shown: smoothing only concerns maps that were computed voxel by voxel.

    Examples
    --------
    >>> caption_of(Display(rectify=True, percentile=95))
    'Display only: negative values hidden; values below the 95th percentile hidden.'
    """
    done = []
    fine = list(dict.fromkeys(m.label for m in maps if m.fine))
    if fine and display.smooth_mm:
        done.append(
            f"class means of {' and '.join(fine)} smoothed by {display.smooth_mm:g} mm FWHM "
            "(the NIfTI files are not)"
        )
    if display.rectify:
        done.append("negative values hidden")
    if display.percentile is not None:
        done.append(f"values below the {_ordinal(display.percentile)} percentile hidden")
    if display.min_max:
        done.append("scaled by the largest value, zero stays zero")
    return f"Display only: {'; '.join(done)}." if done else ""


def _ordinal(number: float) -> str:
    if number != int(number):
        return f"{number:g}th"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(int(number) % 10, "th")
    return f"{int(number)}{'th' if 10 < number % 100 < 14 else ending}"
