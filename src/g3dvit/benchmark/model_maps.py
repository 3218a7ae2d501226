"""Maps that ask a model, each by the name of its row, before any smoothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g3dvit.benchmark.metrics import patch_sums
from g3dvit.benchmark.removal import single_removal
from g3dvit.benchmark.vit3d import embed
from g3dvit.explain import Explainer, Explanation
from g3dvit.methods import METHODS
from g3dvit.methods.shift_averaged import ShiftInputs, shift_averaged
from g3dvit.methods.shifting import choose_shifts
from g3dvit.methods.spreading import spread_signed
from g3dvit.phantoms import PhantomVolumes

#: Rows that are averages of the same passes over shifts.
_PLAIN = ("shift_averaged", "shift_weighted", "shift_weighted_signed")
_BY_GAMMA = ("shift_averaged_gamma", "shift_averaged_local", "shift_weighted_local")
_LITTLE_GAMMA = "shift_weighted_signed_gamma"
_FAMILY = {row: rows for rows in (_PLAIN, _BY_GAMMA, (_LITTLE_GAMMA,)) for row in rows}


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """The maps of one row.

    Parameters
    ----------
    voxels : (n, i, j, k)
        Maps of patches are interpolated linearly between the patches' centres.
    patches : (n, gi, gj, gk)
        One number per patch, as the method gives it; of voxel maps the mean.
    kept
        Mean number of shifts that were kept, where there were any.
    """

    voxels: NDArray[np.float32] = field(repr=False)
    patches: NDArray[np.float32] = field(repr=False)
    kept: float | None = None


@dataclass(slots=True, eq=False)
class _Shared:
    """What was computed once for several rows, and how long that took."""

    known: dict[Hashable, tuple[Any, float]] = field(default_factory=dict)
    saved: float = 0.0

    def get(self, key: Hashable, work: Callable[[], Any]) -> Any:
        """Return what is known, or compute it; time not spent again is counted in `saved`."""
        if key in self.known:
            value, seconds = self.known[key]
            self.saved += seconds
            return value
        began = time.perf_counter()
        value = work()
        self.known[key] = (value, time.perf_counter() - began)
        return value


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model is asked.

    Parameters
    ----------
    shifts
        Of the shift-averaged maps.
    samples
        Passes of SmoothGrad, of frozen gates over noise and of each path.
    gamma
        Of the gamma rule.
    batch_size
        Volumes at a time.
    """

    shifts: int = 8
    samples: int = 16
    gamma: float = 0.5
    batch_size: int = 20


@dataclass(frozen=True, slots=True, eq=False)
class ModelMaps:
    """Makes maps of one model.

    Parameters
    ----------
    explainer
        Of the model.
    drawn
        The volumes; their `labels` are what is explained.
    settings
        How the model is asked.
    references : (n, i, j, k)
        Training volumes.
    rows
        All that will be asked for: those that share passes are made together.
    """

    explainer: Explainer
    drawn: PhantomVolumes = field(repr=False)
    settings: ModelSettings
    references: NDArray[np.float32] = field(repr=False)
    rows: tuple[str, ...] = ()
    _shared: _Shared = field(default_factory=_Shared, repr=False)

    @property
    def saved_seconds(self) -> float:
        """Seconds that rows would have taken for what other rows had computed already."""
        return self._shared.saved

    def make(self, row: str, count: int) -> Made:
        """Return the maps of one row for the first volumes."""
        if row in _FAMILY:
            return self._averaged(row, count)
        special: dict[str, Callable[[int], Made]] = {
            "shift_averaged_signed": self._averaged_signed,
            "token_removal": self._token_removal,
        }
        if row in special:
            return special[row](count)
        weighting = "mean"
        method = row.removesuffix("_voxels").removesuffix("_content").removesuffix("_fine")
        if method.startswith("token_gradcam_"):
            method, weighting = "token_gradcam", method.removeprefix("token_gradcam_")
        result = self._once(method, slice(0, count), weighting)
        if row == "frozen_gate_fine":
            return self.of_voxels(spread_signed(result.relevance, _voxels(result)))
        if (
            row.endswith("_voxels")
            or row == "frozen_gate_noise"
            or METHODS[method].source == "input"
        ):
            return self.of_voxels(_voxels(result))
        tokens = result.content if row == "frozen_gate_content" else result.relevance
        assert tokens is not None  # frozen gates always give the content
        return self.of_patches(tokens)

    def of_voxels(self, voxels: Tensor, kept: float | None = None) -> Made:
        """Return voxel maps with the means of their patches."""
        edges = self.explainer.geometry.patch_size
        values = _array(voxels)
        i, j, k = edges
        means = (patch_sums(values, (i, j, k)) / (i * j * k)).astype(np.float32)
        return Made(values, means, kept)

    def of_patches(self, tokens: Tensor) -> Made:
        """Return maps of patches, interpolated to voxels."""
        return Made(upsample(tokens, self.drawn.mask.shape), _array(tokens))

    def _once(self, method: str, which: slice, weighting: str) -> Explanation:
        """Explain, or return what another row of the same method had explained."""
        if METHODS[method].source not in ("frozen gates", "gate variants"):
            return self._explain(method, which, weighting)
        found: Explanation = self._shared.get(
            (method, which.stop), lambda: self._explain(method, which, weighting)
        )
        return found

    def _explain(
        self, method: str, which: slice, weighting: str = "mean", x: Tensor | None = None
    ) -> Explanation:
        settings = self.settings
        known = {"gamma": settings.gamma, "shifts": settings.shifts, "samples": settings.samples}
        options: dict[str, Any] = {
            name: value for name, value in known.items() if name in METHODS[method].arguments
        }
        references = None
        if method == "integrated_gradients":
            references = self.references.mean(axis=0, keepdims=True)
        elif method == "expected_gradients":
            references = self.references[: self.settings.samples]
        result: Explanation = self.explainer.explain(
            self._inputs(which) if x is None else x,
            method,
            target="label",
            labels=self.drawn.labels[which].tolist(),
            score="log_odds",
            weighting=weighting,
            references=None if references is None else references[:, None],
            **options,
            batch_size=self.settings.batch_size,
        )
        return result

    def _inputs(self, which: slice) -> Tensor:
        return torch.from_numpy(self.drawn.volumes[which])[:, None]

    def _averaged_signed(self, count: int) -> Made:
        """Average signed maps of plain frozen gates: the one form that is not a method."""
        geometry, size = self.explainer.geometry, self.settings.batch_size
        shifts = choose_shifts(self.settings.shifts, geometry.patch_size)
        axes = [axis + 1 for axis in geometry.spatial_axes]
        maps, kept = [], []
        for start in range(0, count, size):
            which = slice(start, min(start + size, count))

            def explain(moved: Tensor, which: slice = which) -> ShiftInputs:
                result = self._explain("frozen_gate", which, x=moved)
                return ShiftInputs(result.logits.argmax(1), result.relevance, _voxels(result))

            x = self._inputs(which)
            with torch.no_grad():
                decision = self.explainer.model(x).argmax(1)
            found = shift_averaged(x, explain, shifts, axes, spreading="signed", decision=decision)
            maps.append(found.voxels)
            kept.append(found.kept.numpy())
        return self.of_voxels(torch.cat(maps), float(np.concatenate(kept).mean()))

    def _averaged(self, row: str, count: int) -> Made:
        """Return maps of a method that averages over shifts; all that share passes are made."""
        family = _FAMILY[row]
        rows = [name for name in family if name in self.rows] or [row]
        asked = [_method_of(name) for name in rows]
        gamma = {_LITTLE_GAMMA: 0.1, _BY_GAMMA[0]: self.settings.gamma}.get(family[0])

        def explain() -> Mapping[str, Explanation]:
            return self.explainer.explain(
                self._inputs(slice(0, count)),
                asked,
                target="label",
                labels=self.drawn.labels[:count].tolist(),
                score="log_odds",
                shifts=self.settings.shifts,
                gamma=gamma,
                batch_size=self.settings.batch_size,
            )

        found: Mapping[str, Explanation] = self._shared.get((family, count), explain)
        of_row = found[_method_of(row)]
        share = "moved share" if METHODS[_method_of(row)].by_evidence else "kept shifts"
        kept = [c.value for checks in of_row.checks for c in checks if c.name == share]
        return self.of_voxels(_voxels(of_row), self.settings.shifts * float(np.mean(kept)))

    def _token_removal(self, count: int) -> Made:
        model, geometry = self.explainer.model, self.explainer.geometry
        patches = np.arange(geometry.num_patches)
        with torch.no_grad():
            tokens = embed(model, self._inputs(slice(0, count)))
        scores = [
            single_removal(model, one, int(label), patches)
            for one, label in zip(tokens, self.drawn.labels[:count], strict=True)
        ]
        return self.of_patches(torch.from_numpy(np.stack(scores)).reshape(-1, *geometry.grid_shape))


def _method_of(row: str) -> str:
    """Return the method of a shift-averaged row."""
    return "shift_weighted_signed" if row == _LITTLE_GAMMA else row


def upsample(tokens: Tensor, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate values at patch centres linearly to voxels, (n, gi, gj, gk) to (n, i, j, k)."""
    fine = torch.nn.functional.interpolate(
        tokens[:, None].float(), size=shape, mode="trilinear", align_corners=False
    )
    return _array(fine[:, 0])


def _voxels(result: Explanation) -> Tensor:
    assert result.voxel_relevance is not None  # asked for of methods that have it
    return result.voxel_relevance


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.numpy(), dtype=np.float32)
