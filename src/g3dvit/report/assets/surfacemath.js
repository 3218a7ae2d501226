// Arithmetic of the cortical surface, without the page: no DOM. Tested with node.
(function (root) {
  "use strict";
  const viewmath = root.viewmath || require("./viewmath.js");

  // From the bytes that travel to numbers: triangles and, per hemisphere, coordinates in mm.
  function unpack(buffer, about) {
    const { n_vertices: n, n_faces, step_mm } = about;
    let at = 0;
    const take = (Kind, count) => {
      const values = new Kind(buffer.slice(at, at + count * Kind.BYTES_PER_ELEMENT));
      at += count * Kind.BYTES_PER_ELEMENT;
      return values;
    };
    const faces = take(Uint16Array, 3 * n_faces);
    const mm = () => Float32Array.from(take(Int16Array, 3 * n), (v) => v * step_mm);
    const half = () => ({ pial: mm(), white: mm(), inflated: mm(), folds: take(Int8Array, n) });
    return { faces, left: half(), right: half() };
  }

  // The value of a map at every vertex: the mean over places between pial and white surface, NaN
  // where all of them lie outside the map. `blocks`: the value of the voxel, not interpolated.
  function project(steps, shape, affine, half, depths, blocks) {
    const inverse = viewmath.inverseOf(affine);
    const n = half.pial.length / 3;
    const out = new Float32Array(n);
    for (let v = 0; v < n; v++) {
      let sum = 0, count = 0;
      for (const depth of depths) {
        const mm = [0, 1, 2].map((c) => half.pial[3 * v + c] +
          depth * (half.white[3 * v + c] - half.pial[3 * v + c]));
        const value = viewmath.valueAt(steps, shape, inverse, mm, blocks);
        if (value === value) { sum += value; count++; }
      }
      out[v] = count ? sum / count : NaN;
    }
    return out;
  }

  // What is to the right, up and towards the eye on the picture, as [axis, sign] of RAS.
  const SIDES = {
    left: [[1, -1], [2, 1], [0, -1]], // seen from the left: front is on the left
    right: [[1, 1], [2, 1], [0, 1]],
    top: [[0, 1], [1, 1], [2, 1]],
    bottom: [[0, -1], [1, 1], [2, -1]],
    front: [[0, -1], [2, 1], [1, 1]],
    back: [[0, 1], [2, 1], [1, -1]],
  };

  // Coordinates seen from a side: right, up, towards the eye; turned about the vertical first and
  // then tipped (radians).
  function seenFrom(mm, side, turn, tip) {
    const [r, u, e] = SIDES[side];
    const out = new Float32Array(mm.length);
    const [ct, st, cp, sp] = [Math.cos(turn), Math.sin(turn), Math.cos(tip), Math.sin(tip)];
    for (let n = 0; n < mm.length; n += 3) {
      const x = r[1] * mm[n + r[0]], y = u[1] * mm[n + u[0]], z = e[1] * mm[n + e[0]];
      const x1 = ct * x + st * z, z1 = ct * z - st * x;
      out[n] = x1;
      out[n + 1] = cp * y - sp * z1;
      out[n + 2] = cp * z1 + sp * y;
    }
    return out;
  }

  // How much each vertex faces the eye, 0 to 1.
  function facing(seen, faces) {
    const normals = new Float32Array(seen.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const ux = seen[b] - seen[a], uy = seen[b + 1] - seen[a + 1], uz = seen[b + 2] - seen[a + 2];
      const vx = seen[c] - seen[a], vy = seen[c + 1] - seen[a + 1], vz = seen[c + 2] - seen[a + 2];
      const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
      for (const p of [a, b, c]) { normals[p] += nx; normals[p + 1] += ny; normals[p + 2] += nz; }
    }
    return Float32Array.from({ length: seen.length / 3 }, (_, n) => {
      const [x, y, z] = [normals[3 * n], normals[3 * n + 1], normals[3 * n + 2]];
      return Math.max(0, z / (Math.hypot(x, y, z) || 1));
    });
  }

  // Draw triangles into pixels, the nearest to the eye in front. `picture`: {width, height, rgba,
  // depth, owner}; `xy` holds pixels and depth of every vertex, `rgb` its colour; `owner` gets
  // `first` + the number of the vertex that is nearest in each pixel.
  function drawTriangles(picture, xy, faces, rgb, first) {
    const { width, height, rgba, depth, owner } = picture;
    for (let f = 0; f < faces.length; f += 3) {
      const a = faces[f], b = faces[f + 1], c = faces[f + 2];
      const ax = xy[3 * a], ay = xy[3 * a + 1], bx = xy[3 * b], by = xy[3 * b + 1];
      const cx = xy[3 * c], cy = xy[3 * c + 1];
      const area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
      if (area === 0) continue;
      const x0 = Math.max(0, Math.ceil(Math.min(ax, bx, cx)));
      const x1 = Math.min(width - 1, Math.floor(Math.max(ax, bx, cx)));
      const y0 = Math.max(0, Math.ceil(Math.min(ay, by, cy)));
      const y1 = Math.min(height - 1, Math.floor(Math.max(ay, by, cy)));
      for (let y = y0; y <= y1; y++) {
        for (let x = x0; x <= x1; x++) {
          const v = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area;
          const w = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area;
          const u = 1 - v - w;
          if (u < 0 || v < 0 || w < 0) continue;
          const z = u * xy[3 * a + 2] + v * xy[3 * b + 2] + w * xy[3 * c + 2];
          const at = y * width + x;
          if (z <= depth[at]) continue;
          depth[at] = z;
          owner[at] = first + (u >= v && u >= w ? a : v >= w ? b : c);
          for (let n = 0; n < 3; n++) {
            rgba[4 * at + n] = u * rgb[3 * a + n] + v * rgb[3 * b + n] + w * rgb[3 * c + n];
          }
          rgba[4 * at + 3] = 255;
        }
      }
    }
  }

  // The vertex nearest to a place, with its distance in mm.
  function nearestVertex(half, mm) {
    let best = -1, least = Infinity;
    for (let v = 0; v < half.pial.length; v += 3) {
      let d = 0;
      for (let c = 0; c < 3; c++) d += ((half.pial[v + c] + half.white[v + c]) / 2 - mm[c]) ** 2;
      if (d < least) { least = d; best = v / 3; }
    }
    return { vertex: best, mm: Math.sqrt(least) };
  }

  const surfacemath = {
    unpack, project, seenFrom, facing, drawTriangles, nearestVertex, SIDES,
  };
  if (typeof module !== "undefined" && module.exports) module.exports = surfacemath;
  else root.surfacemath = surfacemath;
})(typeof globalThis !== "undefined" ? globalThis : this);
