"""The interactive view of a notebook: NiiVue as a widget, through the extra ``notebook``.

Everything travels from the kernel to the browser as bytes; nothing is fetched from anywhere.
"""

from __future__ import annotations

import gzip
from html import escape
from typing import Any

import numpy as np

from g3dvit.errors import InputError
from g3dvit.grids import ImageGrid
from g3dvit.maps import RelevanceMap
from g3dvit.nifti import nifti_image
from g3dvit.notebook.tables import checks_of_map
from g3dvit.report.words import has_template_space, stamp_of
from g3dvit.run_result import MapSet, RunResult
from g3dvit.shown import Background, mni_template

_HIDDEN = 0.1  # of the colour range: weaker values would cover the anatomy
_HEIGHT = 420  # pixels
_LINE_MM = 1.0  # of the crosshair
_FINE_MM = 3.0  # voxels where there is no picture under the map


def niivue_widget(source: RelevanceMap | RunResult, method: str | None) -> Any:
    """Return the widget of `g3dvit.notebook.viewer`."""
    try:
        from ipyniivue import NiiVue, Volume
        from ipywidgets import HTML, IntSlider, VBox, jslink
    except ImportError as error:
        raise InputError(
            "the interactive view needs the extra `notebook`: pip install 'g3dvit[notebook]'; "
            "`show_page(folder)` shows the page without it"
        ) from error
    one, under, title, stamp = _chosen(source, method)
    view = NiiVue(
        height=_HEIGHT,
        show_3d_crosshair=True,
        is_colorbar=True,
        crosshair_width=_LINE_MM / float(min(under.grid.voxel_sizes)),
    )
    below = _layer(Volume, under.data, under.grid.affine, "background", colorbar_visible=False)
    view.scene.crosshair_pos = _strongest(one, under.grid)
    overlay = _layer(Volume, one.data, one.grid.affine, "relevance", **_colours(one))
    view.volumes = [below, overlay]
    head = f"<b>{escape(title)}</b>"
    head += f"<div>{escape(_legend(one, under))}</div>"
    if stamp:
        loud = "background:#b3261e;color:#fff;font-weight:bold;padding:4px;line-height:1.4"
        head += f"<div style='{loud}'>{escape(stamp)}</div>"
    parts: list[Any] = [HTML(head), view]
    if one.n_volumes > 1:
        slider = IntSlider(0, 0, one.n_volumes - 1, description="volume")
        jslink((slider, "value"), (overlay, "frame_4d"))
        parts.insert(1, slider)
    return VBox(parts)


def _chosen(
    source: RelevanceMap | RunResult, method: str | None
) -> tuple[RelevanceMap, Background, str, str | None]:
    """Return map, background, title and stamp."""
    if isinstance(source, RelevanceMap):
        if method is not None:
            raise InputError("a method chooses from a run; this is a single map")
        told = source.metadata
        words = [str(told[key]) for key in ("method", "target", "units") if told.get(key)]
        stamps = [stamp for checks in checks_of_map(source) if (stamp := stamp_of(checks))]
        stamp = told.get("stamp") or (stamps[0] if stamps else None)
        under = mni_template() if has_template_space(told.get("space")) else _empty(source.grid)
        return source, under, ", ".join(words) or "relevance", stamp
    maps = _maps_of(source, method).content  # as the page shows it
    one = maps.volumes[0] if maps.volumes else maps.class_means[0].patch
    about = source.volume_target if maps.volumes else maps.class_means[0].title
    title = f"{maps.label}: {about}, {maps.units}"
    return one, source.background or _empty(one.grid), title, stamp_of(maps.summary)


def _legend(one: RelevanceMap, under: Background) -> str:
    """Return what the colours mean, and what is under them."""
    colours = _colours(one)
    words = f"yellow: evidence for, up to {colours['cal_max']:.2g}"
    if float(np.nanmin(one.data, initial=0)) < 0:
        words += f"; green: against, down to {colours['cal_max_neg']:.2g}"
    words += f"; values within {_HIDDEN:.0%} of that are hidden; the cross is at the strongest"
    return f"{words}. Background: {under.title}."


def _empty(grid: ImageGrid) -> Background:
    """Return an empty picture of a grid in small voxels: crosshairs are as wide as voxels."""
    times = [max(1, round(size / _FINE_MM)) for size in grid.voxel_sizes]
    finer = np.diag([*(1 / n for n in times), 1.0])
    finer[:3, 3] = [(1 / n - 1) / 2 for n in times]  # the outer borders stay
    i, j, k = (length * n for length, n in zip(grid.shape, times, strict=True))
    fine = ImageGrid((i, j, k), grid.affine @ finer)
    return Background(np.zeros(fine.shape, np.float32), fine, "none")


def _strongest(one: RelevanceMap, grid: ImageGrid) -> list[float]:
    """Return where on a grid the (first) map is strongest: parts of its length from L, P and I."""
    data = np.abs(np.nan_to_num(one.data[..., 0] if one.data.ndim > 3 else one.data))
    place = np.unravel_index(int(data.argmax()), data.shape)
    voxel = grid.world2vox(one.grid.vox2world(np.array([place], dtype=float)))[0]
    parts = [0.5] * 3
    for code, at, length in zip(grid.axcodes, voxel, grid.shape, strict=True):
        part = float(np.clip((at + 0.5) / length, 0, 1))
        axis = next(n for n, codes in enumerate(("LR", "PA", "IS")) if code in codes)
        parts[axis] = part if code in "RAS" else 1 - part
    return parts


def _maps_of(result: RunResult, method: str | None) -> MapSet:
    found = [maps for maps in result.maps if maps.volumes or maps.class_means]
    if method is not None:
        found = [maps for maps in found if method in (maps.method, maps.label, maps.file_label)]
    if not found:
        known = ", ".join(dict.fromkeys(maps.method for maps in result.maps)) or "none"
        raise InputError(f"the run has no maps of {method!r}; it has {known}")
    return next((maps for maps in found if maps.recommended), found[0])


def _layer(kind: Any, values: Any, affine: Any, name: str, **shown: Any) -> Any:
    image = nifti_image(np.nan_to_num(np.asarray(values, np.float32)), affine)
    data = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    return kind(name=f"{name}.nii.gz", data=data, **{"colormap": "gray", **shown})


def _colours(one: RelevanceMap) -> dict[str, Any]:
    """Return warm colours for evidence, cold ones against it, on one scale around zero."""
    top = float(np.nanmax(np.abs(one.data), initial=0)) or 1.0
    return {
        "colormap": "warm",
        "colormap_negative": "winter",
        "cal_min": _HIDDEN * top,
        "cal_max": top,
        "cal_min_neg": -_HIDDEN * top,
        "cal_max_neg": -top,
        "opacity": 0.8,
    }
