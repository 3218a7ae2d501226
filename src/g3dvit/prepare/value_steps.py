"""Steps that change values but not the grid: smooth, mask, scale, standardise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from g3dvit.errors import PreparationError
from g3dvit.prepare import base
from g3dvit.prepare.base import Apply, Brain, Step
from g3dvit.prepare.masks import MaskSource
from g3dvit.prepare.trend import fit_trend
from g3dvit.volumes import Volume

Standard = Literal["volume", "masked", "time", "none"]


@dataclass(frozen=True, slots=True)
class Smooth(Step):
    """Gaussian smoothing of every volume on the source grid, by nilearn.

    Parameters
    ----------
    fwhm_mm
        Full width at half maximum of the kernel, in mm.
    """

    fwhm_mm: float
    name: ClassVar[str] = "smooth"

    def __post_init__(self) -> None:
        object.__setattr__(self, "fwhm_mm", base.check_number("fwhm_mm", self.fwhm_mm, above=0))

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        return base.SMOOTH

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        from nilearn.image import smooth_img

        image = nib.Nifti1Image(np.asarray(volume.data), volume.grid.affine)
        smoothed = smooth_img(image, self.fwhm_mm).get_fdata(dtype=np.float32)
        return volume.with_data(smoothed)

    def describe(self) -> str:
        """Return one sentence for people."""
        return f"Volumes are smoothed with a Gaussian of {self.fwhm_mm:g} mm FWHM (nilearn)."


@dataclass(frozen=True, slots=True)
class Mask(Step):
    """Set everything outside the brain to one value.

    Parameters
    ----------
    source
        ``"file"``: the run's own ``desc-brain_mask``, or the file that the caller names.
        ``"nonzero"``: the voxels of each volume that are not 0.
    fill
        Value of the background; None leaves it as it is (the mask then only serves the
        steps after it). It is set again after a masked z-score.
    grid
        ``"prepared"``: after the volume was brought to the model's grid, so that the edge of
        the brain is sharp and mixes with nothing. ``"source"``: before, for models that were
        trained so.
    """

    source: MaskSource = "file"
    fill: float | None = 0.0
    grid: Literal["prepared", "source"] = "prepared"
    name: ClassVar[str] = "mask"

    def __post_init__(self) -> None:
        base.check_choice("source", self.source, ("file", "nonzero"))
        base.check_choice("grid", self.grid, ("prepared", "source"))
        if self.fill is not None:
            object.__setattr__(self, "fill", base.check_number("fill", self.fill))

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        return base.MASK_PREPARED if self.grid == "prepared" else base.MASK_SOURCE

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        if brain is None:
            raise PreparationError("the step 'mask' was given no brain mask")
        if self.fill is None:
            return volume
        return volume.with_data(np.where(brain, volume.data, np.float32(self.fill)))

    def describe(self) -> str:
        """Return one sentence for people."""
        whose = "the brain mask file" if self.source == "file" else "the voxels that are not 0"
        where = "the model's grid" if self.grid == "prepared" else "the source grid"
        what = "is kept" if self.fill is None else f"is set to {self.fill:g}"
        return f"The brain is {whose}, on {where} (nearest voxel); the background {what}."


@dataclass(frozen=True, slots=True)
class _Multiply:
    factor: float

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        return volume.with_data(volume.data * np.float32(self.factor))


@dataclass(frozen=True, slots=True)
class Scale(Step):
    """Bring values to a common range.

    Parameters
    ----------
    kind
        ``"minmax"``: each volume to 0 ... 1 (a constant volume to 0). ``"global"``: the whole
        run by one factor that brings its grand mean to `target`.
    target
        Grand mean after ``"global"``. The grand mean is that of the brain where a `Mask` step
        comes before, otherwise, as in SPM, the mean over time of each volume's mean over
        voxels above an eighth of its overall mean.
    """

    kind: Literal["minmax", "global"]
    target: float = 100.0
    name: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        base.check_choice("kind", self.kind, ("minmax", "global"))
        object.__setattr__(self, "target", base.check_number("target", self.target, above=0))

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        return base.SCALE

    @property
    def needs_run(self) -> bool:
        """Whether the step must see the whole run before it can treat one volume."""
        return self.kind == "global"

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        low, high = float(volume.data.min()), float(volume.data.max())
        if high <= low:
            return volume.with_data(np.zeros_like(volume.data))
        return volume.with_data((volume.data - np.float32(low)) / np.float32(high - low))

    def fit(self, volumes: Iterable[tuple[Volume, Brain]], time_points: Sequence[int]) -> Apply:
        """See all volumes of a run once and return what treats each of them."""
        if not self.needs_run:
            return self
        means = [global_mean(volume.data, brain) for volume, brain in volumes]
        grand = float(np.mean(means))
        if not grand > 0:
            raise PreparationError(
                f"the grand mean of the run is {grand:g}; global scaling needs a positive one "
                "(values around 0 were standardised or filtered before)"
            )
        return _Multiply(self.target / grand)

    def describe(self) -> str:
        """Return one sentence for people."""
        if self.kind == "minmax":
            return "Each volume is scaled to 0 ... 1."
        return f"The whole run is scaled to a grand mean of {self.target:g}."


def global_mean(data: NDArray[np.float32], brain: Brain) -> float:
    """Return the mean of the brain, or SPM's global where there is no mask."""
    if brain is not None:
        return float(data[brain].mean(dtype=np.float64))
    above = data[data > data.mean(dtype=np.float64) / 8]
    return float(above.mean(dtype=np.float64)) if above.size else 0.0


@dataclass(frozen=True, slots=True)
class Standardise(Step):
    """Z-scores on the prepared grid.

    Parameters
    ----------
    kind
        ``"volume"``: each volume by its own mean and standard deviation over all voxels, with
        the arithmetic of ``(v - v.mean()) / v.std()`` in float32. ``"masked"``: the same over
        the brain, which needs a `Mask` step. ``"time"``: each voxel over the whole run, after a
        polynomial trend is removed. ``"none"``. What does not vary becomes 0.
    trend_degree
        For ``"time"``: degree of the trend; 0 removes the mean alone.
    ddof
        For ``"time"``: the variance is the sum of squares over (T - ddof); 1 as in nilearn.
    """

    kind: Standard = "volume"
    trend_degree: int = 1
    ddof: int = 1
    name: ClassVar[str] = "standardise"

    def __post_init__(self) -> None:
        base.check_choice("kind", self.kind, ("volume", "masked", "time", "none"))
        degree = base.check_whole("trend_degree", self.trend_degree)
        if degree > 10:
            raise PreparationError(f"`trend_degree` is at most 10, was given {degree}")
        base.check_choice("ddof", self.ddof, (0, 1))

    @property
    def stage(self) -> int:
        """Place of the step in the order of a preparation."""
        return base.STANDARDISE

    @property
    def needs_run(self) -> bool:
        """Whether the step must see the whole run before it can treat one volume."""
        return self.kind == "time"

    def __call__(self, volume: Volume, brain: Brain = None) -> Volume:
        """Return the volume after the step."""
        v = volume.data
        if self.kind == "none":
            return volume
        if self.kind == "masked":
            if brain is None:
                raise PreparationError("a masked z-score needs a step 'mask' before it")
            inside = v[brain].astype(np.float64)
            mean, deviation = inside.mean(), inside.std()
            if not deviation > base.FLAT * abs(mean):
                return volume.with_data(np.zeros_like(v))
            return volume.with_data(((v - mean) / deviation).astype(np.float32))
        # The reference's own expression, so that the bits agree.
        spread = v.std()
        if not spread > base.FLAT * abs(v.mean()):
            return volume.with_data(np.zeros_like(v))
        return volume.with_data((v - v.mean()) / spread)

    def fit(self, volumes: Iterable[tuple[Volume, Brain]], time_points: Sequence[int]) -> Apply:
        """See all volumes of a run once and return what treats each of them."""
        if not self.needs_run:
            return self
        return fit_trend(volumes, time_points, self.trend_degree, self.ddof)

    def describe(self) -> str:
        """Return one sentence for people."""
        if self.kind == "time":
            return (
                "Each voxel is z-scored over the whole run, after a polynomial trend of degree "
                f"{self.trend_degree} is removed."
            )
        return {
            "volume": "Each volume is z-scored over all its voxels.",
            "masked": "Each volume is z-scored over the brain.",
            "none": "Values are not standardised.",
        }[self.kind]
