// Arithmetic of the viewer, without the page: no DOM, no WebGL. Tested with node.
(function (root) {
  "use strict";

  // The absolute value below which `percentile` percent of the non-zero |steps| lie, in units.
  // `steps` is an int8 array; `slope` is the value of one step.
  function thresholdAt(steps, percentile, slope) {
    const counts = histogram(steps);
    const total = counts.reduce((sum, n) => sum + n, 0);
    if (total === 0) return 0;
    const wanted = (percentile / 100) * total;
    let seen = 0;
    for (let size = 1; size <= 128; size++) {
      seen += counts[size];
      if (seen >= wanted && counts[size] > 0) return size * slope;
    }
    return 128 * slope;
  }

  // The percentage of the non-zero |steps| that lie below `threshold` (in units).
  function percentileAt(steps, threshold, slope) {
    const counts = histogram(steps);
    let below = 0;
    let total = 0;
    for (let size = 1; size <= 128; size++) {
      if (size * slope < threshold * (1 - 1e-9)) below += counts[size];
      total += counts[size];
    }
    return total === 0 ? 0 : (100 * below) / total;
  }

  // The percentile to show a map at first: the one given, or a lower one where that would hide
  // all below more than half of the largest |step|, as in a map of a few patches.
  function startPercentile(steps, percentile) {
    const counts = histogram(steps);
    const half = counts.reduce((top, n, size) => (n > 0 ? size : top), 0) / 2;
    if (thresholdAt(steps, percentile, 1) <= half) return percentile;
    return Math.floor(percentileAt(steps, half, 1));
  }

  function histogram(steps) {
    const counts = new Array(129).fill(0);
    for (let n = 0; n < steps.length; n++) counts[Math.abs(steps[n])]++;
    counts[0] = 0;
    return counts;
  }

  // One frame of a stack of frames.
  function frameOf(steps, shape, frame) {
    const size = shape[0] * shape[1] * shape[2];
    return steps.subarray(frame * size, (frame + 1) * size);
  }

  // Voxel [i, j, k] that holds a point in mm; null outside the volume. Affines are 4 x 4 rows.
  function voxelAt(affine, shape, mm) {
    const at = solve3(affine, mm).map((v) => Math.floor(v + 0.5 + 1e-6));
    return at.every((v, axis) => v >= 0 && v < shape[axis]) ? at : null;
  }

  function worldAt(affine, voxel) {
    return [0, 1, 2].map(
      (row) =>
        affine[row][0] * voxel[0] + affine[row][1] * voxel[1] + affine[row][2] * voxel[2] +
        affine[row][3]
    );
  }

  function indexOf(shape, voxel) {
    return voxel[0] + shape[0] * (voxel[1] + shape[1] * voxel[2]);
  }

  // Solve affine * voxel = mm by Cramer's rule.
  function solve3(affine, mm) {
    const m = affine.slice(0, 3).map((row) => row.slice(0, 3));
    const b = [0, 1, 2].map((row) => mm[row] - affine[row][3]);
    const det = determinant(m);
    return [0, 1, 2].map((column) => {
      const replaced = m.map((row, r) => row.map((v, c) => (c === column ? b[r] : v)));
      return determinant(replaced) / det;
    });
  }

  function determinant(m) {
    return (
      m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
      m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
      m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    );
  }

  // Voxel of the largest |value|, or of the largest value where only evidence for counts.
  function peakOf(steps, shape, positiveOnly) {
    let best = 0;
    let top = -1;
    for (let n = 0; n < steps.length; n++) {
      const size = positiveOnly ? steps[n] : Math.abs(steps[n]);
      if (size > top) {
        top = size;
        best = n;
      }
    }
    const i = best % shape[0];
    const j = Math.floor(best / shape[0]) % shape[1];
    return [i, j, Math.floor(best / (shape[0] * shape[1]))];
  }

  // The grid of a volume whose voxels are cut into factor^3 smaller ones.
  function refinedGrid(shape, affine, factor) {
    const shift = (1 / factor - 1) / 2; // centre of the first small voxel, in large voxels
    return {
      shape: shape.map((n) => n * factor),
      affine: affine.map((row, r) =>
        r === 3 ? row.slice()
          : [...row.slice(0, 3).map((v) => v / factor),
            row[3] + shift * (row[0] + row[1] + row[2])]
      ),
    };
  }

  // Values on the refined grid: linear between the centres, constant beyond the outer ones.
  function refine(steps, shape, factor) {
    const axes = shape.map((n) => {
      const low = [], high = [], part = [];
      for (let u = 0; u < n * factor; u++) {
        const at = Math.min(n - 1, Math.max(0, (u + 0.5) / factor - 0.5));
        low.push(Math.floor(at));
        high.push(Math.min(n - 1, Math.floor(at) + 1));
        part.push(at - Math.floor(at));
      }
      return { low, high, part };
    });
    const [x, y, z] = axes;
    const [ni, nj] = shape;
    const out = new Int8Array(shape[0] * shape[1] * shape[2] * factor ** 3);
    const line = new Float64Array(ni); // one row of large voxels, between its four neighbours
    let n = 0;
    for (let w = 0; w < z.low.length; w++) {
      for (let v = 0; v < y.low.length; v++) {
        const p = y.part[v], q = z.part[w];
        const rows = [[y.low[v], z.low[w]], [y.high[v], z.low[w]], [y.low[v], z.high[w]],
          [y.high[v], z.high[w]]].map(([j, k]) => ni * (j + nj * k));
        for (let i = 0; i < ni; i++) {
          line[i] = (1 - q) * ((1 - p) * steps[rows[0] + i] + p * steps[rows[1] + i]) +
            q * ((1 - p) * steps[rows[2] + i] + p * steps[rows[3] + i]);
        }
        for (let u = 0; u < x.low.length; u++) {
          const r = x.part[u];
          out[n++] = Math.round((1 - r) * line[x.low[u]] + r * line[x.high[u]]);
        }
      }
    }
    return out;
  }

  // An empty int8 NIfTI-1 file on a grid.
  function nifti(shape, affine) {
    return niftiFile(shape, affine, 256, 1, "");
  }

  // A float32 NIfTI-1 file of steps times slope, 4D where there are several frames' worth of
  // steps; the description is cut to what the header holds. `seconds` between frames, 0: unknown.
  function niftiOfValues(shape, affine, steps, slope, description, seconds) {
    const frames = steps.length / (shape[0] * shape[1] * shape[2]);
    const bytes = niftiFile(shape, affine, 16, 4, description, frames, seconds || 0);
    const values = new DataView(bytes.buffer);
    steps.forEach((step, n) => values.setFloat32(352 + 4 * n, step * slope, true));
    return bytes;
  }

  function niftiFile(shape, affine, type, size, description, frames = 1, seconds = 0) {
    const bytes = new Uint8Array(352 + size * frames * shape[0] * shape[1] * shape[2]);
    const header = new DataView(bytes.buffer);
    header.setInt32(0, 348, true);
    [frames > 1 ? 4 : 3, ...shape, frames, 1, 1, 1].forEach((n, at) => header.setInt16(40 + 2 * at, n, true));
    header.setInt16(70, type, true); // 256 int8, 16 float32
    header.setInt16(72, 8 * size, true);
    header.setFloat32(76, 1, true);
    for (let axis = 0; axis < 3; axis++) {
      const edge = Math.hypot(affine[0][axis], affine[1][axis], affine[2][axis]);
      header.setFloat32(80 + 4 * axis, edge, true);
      affine[axis].forEach((v, c) => header.setFloat32(280 + 16 * axis + 4 * c, v, true));
    }
    header.setFloat32(108, 352, true);
    header.setFloat32(112, 1, true);
    header.setFloat32(92, seconds, true);
    header.setUint8(123, frames > 1 ? 2 + 8 : 2); // mm, and s
    const words = description.replace(/[^\x20-\x7e]/g, "?").slice(0, 79);
    for (let n = 0; n < words.length; n++) header.setUint8(148 + n, words.charCodeAt(n));
    header.setInt16(254, 1, true); // sform
    [0x6e, 0x2b, 0x31, 0].forEach((c, at) => header.setUint8(344 + at, c));
    return bytes;
  }

  // A number with its sign, short enough for a read-out: +0.0123, −4.5e-9, 0.
  function signed(value, digits) {
    if (value === 0 || !Number.isFinite(value)) return "0";
    return (value > 0 ? "+" : "−") + unsigned(Math.abs(value), digits || 3);
  }

  function unsigned(size, digits) {
    if (size === 0) return "0";
    const few = digits || 3;
    if (size >= 0.001 && size < 100000) return String(Number(size.toPrecision(few)));
    return size.toExponential(Math.max(0, few - 1)).replace("e+", "e");
  }

  // Colour of a value on a diverging scale of stops: [[share, [r, g, b]], ...], share from 0 to 1.
  function colourAt(stops, share) {
    const at = Math.min(1, Math.max(0, share));
    for (let n = 1; n < stops.length; n++) {
      if (at <= stops[n][0]) {
        const [low, from] = stops[n - 1];
        const [high, to] = stops[n];
        const part = high > low ? (at - low) / (high - low) : 0;
        return from.map((v, c) => Math.round(v + part * (to[c] - v)));
      }
    }
    return stops[stops.length - 1][1].slice();
  }

  // The value at a place in mm, NaN outside; `inverse` of `inverseOf`. Linear between the centres
  // and constant beyond the outer ones; with `blocks` that of the voxel.
  function valueAt(steps, shape, inverse, mm, blocks) {
    const low = [0, 0, 0], high = [0, 0, 0], part = [0, 0, 0];
    for (let c = 0; c < 3; c++) {
      const row = inverse[c];
      const at = row[0] * mm[0] + row[1] * mm[1] + row[2] * mm[2] + row[3];
      if (!(at >= -0.5 && at < shape[c] - 0.5)) return NaN;
      if (blocks) {
        low[c] = high[c] = Math.floor(at + 0.5);
        continue;
      }
      const inside = Math.min(shape[c] - 1, Math.max(0, at)); // constant beyond outer centres
      low[c] = Math.floor(inside);
      high[c] = Math.min(shape[c] - 1, low[c] + 1);
      part[c] = inside - low[c];
    }
    const [ni, nj] = shape;
    const get = (i, j, k) => steps[i + ni * (j + nj * k)];
    const along = (j, k) =>
      (1 - part[0]) * get(low[0], j, k) + part[0] * get(high[0], j, k);
    const plane = (k) => (1 - part[1]) * along(low[1], k) + part[1] * along(high[1], k);
    return (1 - part[2]) * plane(low[2]) + part[2] * plane(high[2]);
  }

  // Rows of the inverse of an affine, world to voxel.
  function inverseOf(affine) {
    const grid = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]].map((mm) => solve3(affine, mm));
    return [0, 1, 2].map((c) => [...[1, 2, 3].map((a) => grid[a][c] - grid[0][c]), grid[0][c]]);
  }

  // Colour [r, g, b] of a value, or null where nothing is shown. `look` as the viewer's: `low`
  // and `top` in units of the values, `positive` and `negative` stops or null, `fade`.
  function colourOf(value, look) {
    const stops = value < 0 ? look.negative : look.positive;
    const size = Math.abs(value);
    if (!stops || !(size > 0)) return null;
    const alpha = size >= look.low ? 1 : look.fade ? (size / look.low) ** 2 : 0;
    return alpha > 0
      ? { rgb: colourAt(stops, size / look.top), alpha: alpha * look.opacity } : null;
  }

  // The colour bar of a map: where zero lies (percent from the left) and stops as CSS.
  function gradient(pair, isSigned, sign) {
    const both = isSigned && sign !== "positive";
    const zero = both ? (sign === "negative" ? 100 : 50) : 0;
    const css = (stops, from, to) => stops.map(([at, c]) =>
      "rgb(" + c.join() + ") " + (from + at * (to - from)) + "%");
    const negative = (pair.negative || pair.positive).slice().reverse().map(([at, c]) => [1 - at, c]);
    return {
      zero,
      css: [...(zero > 0 ? css(negative, 0, zero) : []),
        ...(zero < 100 ? css(pair.positive, zero, 100) : [])],
    };
  }

  // ---- one slice of any grid, in the world: no voxel axis needs to lie along it

  // World axes of a plane: to the right, up, and through it.
  const PLANES = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] };

  // Lowest and highest mm of a grid, edges of the outer voxels included, for each axis.
  function boxOf(affine, shape) {
    return [0, 1, 2].map((row) => {
      let low = affine[row][3], high = affine[row][3];
      for (let c = 0; c < 3; c++) {
        const ends = [-0.5 * affine[row][c], (shape[c] - 0.5) * affine[row][c]];
        low += Math.min(...ends);
        high += Math.max(...ends);
      }
      return [low, high];
    });
  }

  // A frame of pixels around a box: `plane`, mm that it spans, size in pixels, and whether right
  // is drawn on the left. No pixel is finer than `step` mm.
  function frameOn(box, plane, step, mirrored) {
    const [u, v] = PLANES[plane];
    return {
      plane, u: box[u], v: box[v], mirrored: mirrored && u === 0,
      width: Math.max(1, Math.round((box[u][1] - box[u][0]) / step)),
      height: Math.max(1, Math.round((box[v][1] - box[v][0]) / step)),
    };
  }

  // The place that is drawn at a share (0 to 1, from the top left) of a frame; `place` gives the
  // coordinate through the plane.
  function placeIn(frame, share, place) {
    const [u, v] = PLANES[frame.plane];
    const across = frame.mirrored ? 1 - share[0] : share[0];
    const mm = place.slice();
    mm[u] = frame.u[0] + across * (frame.u[1] - frame.u[0]);
    mm[v] = frame.v[1] - share[1] * (frame.v[1] - frame.v[0]);
    return mm;
  }

  // Where in a frame a place is drawn, as shares.
  function shareIn(frame, place) {
    const [u, v] = PLANES[frame.plane];
    const across = (place[u] - frame.u[0]) / (frame.u[1] - frame.u[0]);
    return [frame.mirrored ? 1 - across : across,
      (frame.v[1] - place[v]) / (frame.v[1] - frame.v[0])];
  }

  // Values of a grid at the centres of a frame's pixels, row by row from the top; NaN outside.
  function sliceOf(values, shape, affine, frame, place, blocks) {
    const inverse = inverseOf(affine);
    const out = new Float32Array(frame.width * frame.height);
    let n = 0;
    for (let y = 0; y < frame.height; y++) {
      for (let x = 0; x < frame.width; x++) {
        const mm = placeIn(frame, [(x + 0.5) / frame.width, (y + 0.5) / frame.height], place);
        out[n++] = valueAt(values, shape, inverse, mm, blocks);
      }
    }
    return out;
  }

  const viewmath = {
    thresholdAt, percentileAt, startPercentile, frameOf, voxelAt, worldAt, indexOf, peakOf, solve3, signed, unsigned,
    colourAt, refinedGrid, refine, nifti,
    niftiOfValues, inverseOf, valueAt, colourOf, gradient, PLANES, boxOf, frameOn, placeIn, shareIn, sliceOf,
  };
  if (typeof module !== "undefined" && module.exports) module.exports = viewmath;
  else root.viewmath = viewmath;
})(typeof globalThis !== "undefined" ? globalThis : this);
