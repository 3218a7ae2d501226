// Arithmetic of charts, tables and outlines, without the page. Tested with node.
(function (root) {
  "use strict";

  // Round ticks that cover [low, high], at most `most` of them.
  function ticks(low, high, most) {
    if (!(high > low)) return [low];
    const rough = (high - low) / Math.max(1, most - 1);
    const power = Math.pow(10, Math.floor(Math.log10(rough)));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * (1 - 1e-9));
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) {
      found.push(Number((n * step).toPrecision(12)));
    }
    return found;
  }

  // Index of the time nearest to a wanted one; -1 where there are none.
  function nearest(times, wanted) {
    let best = -1;
    times.forEach((t, n) => {
      if (best < 0 || Math.abs(t - wanted) < Math.abs(times[best] - wanted)) best = n;
    });
    return best;
  }

  // Smallest step between times: volumes further apart than 1.5 of it are not joined by a line.
  function spacing(times) {
    let least = Infinity;
    for (let n = 1; n < times.length; n++) least = Math.min(least, times[n] - times[n - 1]);
    return Number.isFinite(least) && least > 0 ? least : 1;
  }

  // SVG path through points (x, y); null y and gaps begin a new line.
  function path(times, values, x, y) {
    const gap = 1.5 * spacing(times);
    let text = "";
    let open = false;
    times.forEach((t, n) => {
      if (values[n] === null || values[n] === undefined) { open = false; return; }
      const joined = open && n > 0 && t - times[n - 1] <= gap;
      text += (joined ? "L" : "M") + x(t).toFixed(1) + " " + y(values[n]).toFixed(1);
      open = true;
    });
    return text;
  }

  // Runs of equal class: [{from, to, value}], as times; a gap ends a run.
  function stretches(times, values) {
    const step = spacing(times);
    const found = [];
    times.forEach((t, n) => {
      const last = found[found.length - 1];
      if (last && last.value === values[n] && t - last.end <= 1.5 * step) last.end = t;
      else found.push({ start: t, end: t, value: values[n] });
    });
    return found.map((s) => ({ from: s.start - step / 2, to: s.end + step / 2, value: s.value }));
  }

  // Order of rows by one column: numbers by size, words by letters, "–" last either way.
  function order(rows, column, descending) {
    const sign = descending ? -1 : 1;
    return rows
      .map((row, n) => [row[column], n])
      .sort(([a, m], [b, n]) => {
        if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b) || m - n;
        const x = number(a), y = number(b);
        const by = x !== null && y !== null ? x - y
          : a.localeCompare(b, "en", { numeric: true });
        return sign * by || m - n;
      })
      .map(([, n]) => n);
  }

  const isEmpty = (cell) => cell === "–" || cell === "";

  function number(cell) {
    const plain = cell.replace(/−/g, "-").replace(/,/g, "");
    return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : null;
  }

  // A table as tab-separated text; tabs and line ends inside a cell become spaces.
  function tsv(columns, rows) {
    const clean = (cell) => (cell === "–" ? "n/a" : cell.replace(/[\t\r\n]+/g, " "));
    return [columns, ...rows].map((row) => row.map(clean).join("\t")).join("\n") + "\n";
  }

  // Corners, in order, of the cut through a voxel's box by the plane mm[axis] = at; [] for none.
  function cutOfBox(affine, voxel, axis, at) {
    const corner = (bits) => [0, 1, 2].map((row) =>
      [0, 1, 2].reduce((sum, c) => sum + affine[row][c] * (voxel[c] + ((bits >> c) & 1) - 0.5),
        affine[row][3]));
    const corners = [0, 1, 2, 3, 4, 5, 6, 7].map(corner);
    const points = [];
    for (let a = 0; a < 8; a++) {
      for (const c of [1, 2, 4]) {
        const b = a | c;
        if (b === a) continue;
        const low = corners[a][axis] - at, high = corners[b][axis] - at;
        if (low * high > 0 || low === high) continue;
        const part = low / (low - high);
        points.push(corners[a].map((v, n) => v + part * (corners[b][n] - v)));
      }
    }
    if (points.length < 3) return [];
    const [u, v] = [0, 1, 2].filter((n) => n !== axis);
    const middle = [u, v].map((n) => points.reduce((s, p) => s + p[n], 0) / points.length);
    const angle = (p) => Math.atan2(p[v] - middle[1], p[u] - middle[0]);
    return points.sort((p, q) => angle(p) - angle(q));
  }

  // Edges between voxels along one world axis, in mm; null where the grid is oblique.
  function edgesAlong(affine, shape, axis) {
    const turned = affine.slice(0, 3).every((row, r) =>
      row.slice(0, 3).every((v, c) => r === c || Math.abs(v) < 1e-3));
    if (!turned) return null;
    const step = affine[axis][axis];
    return Array.from({ length: shape[axis] + 1 }, (_, n) => affine[axis][3] + (n - 0.5) * step);
  }

  // Counts of labels (rows) against predictions over time courses; volumes without a label apart.
  function confusion(courses, classes) {
    const counts = Array.from({ length: classes }, () => new Array(classes).fill(0));
    for (const course of courses) {
      course.label.forEach((label, n) => {
        const predicted = course.predicted[n];
        if (label >= 0 && predicted >= 0) counts[label][predicted]++;
      });
    }
    return counts;
  }

  // Words in lines of at most `most` letters; a word is broken only where it is longer.
  function lines(text, most) {
    const size = Math.max(1, Math.floor(most));
    const made = [];
    for (const word of text.split(" ").flatMap((w) => w.match(new RegExp(".{1," + size + "}", "gsu")) || [])) {
      const last = made.length ? made[made.length - 1] + " " + word : "";
      if (last && last.length <= size) made[made.length - 1] = last;
      else made.push(word);
    }
    return made;
  }

  const chartmath = {
    lines, confusion, ticks, nearest, spacing, path, stretches, order, tsv, cutOfBox, edgesAlong, number,
  };
  if (typeof module !== "undefined" && module.exports) module.exports = chartmath;
  else root.chartmath = chartmath;
})(typeof globalThis !== "undefined" ? globalThis : this);
