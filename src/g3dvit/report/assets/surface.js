// The cortical surface: projects the shown map and draws it, without WebGL. Knows no control.
(function (root) {
  "use strict";

  // Panels of a view, row by row: hemispheres, side they are seen from, words.
  const VIEWS = {
    four: [
      [["left"], "left", "left, lateral"], [["right"], "right", "right, lateral"],
      [["left"], "right", "left, medial"], [["right"], "left", "right, medial"],
    ],
    lateral: [[["left"], "left", "left, lateral"], [["right"], "right", "right, lateral"]],
    medial: [[["left"], "right", "left, medial"], [["right"], "left", "right, medial"]],
    top: [[["left", "right"], "top", "from above"]],
    bottom: [[["left", "right"], "bottom", "from below"]],
    front: [[["left", "right"], "front", "from the front"]],
    back: [[["left", "right"], "back", "from behind"]],
  };
  // Letters at the left and right edge of a panel.
  const EDGES = { left: ["A", "P"], right: ["P", "A"], top: ["L", "R"], bottom: ["R", "L"],
    front: ["R", "L"], back: ["L", "R"] };
  const NEAR_MM = 15; // farther from the cortex the crosshair is not marked on it

  function create(canvas, about, bytes, onPick) {
    const brain = surfacemath.unpack(bytes, about);
    const state = { view: "four", shape: "inflated", turn: 0, tip: 0, place: null };
    const shapes = new Map();
    let values = null; // {left, right}
    let look = null;
    let panels = [];
    let picture = null;
    let waiting = false;

    // Each hemisphere beside the midline, so that both can be seen at once.
    function coordinates(side) {
      const key = side + state.shape;
      if (!shapes.has(key)) {
        const mm = brain[side][state.shape].slice();
        let edge = -Infinity;
        const inwards = side === "left" ? 1 : -1;
        for (let n = 0; n < mm.length; n += 3) edge = Math.max(edge, inwards * mm[n]);
        for (let n = 0; n < mm.length; n += 3) mm[n] -= inwards * (edge + 4);
        shapes.set(key, mm);
      }
      return shapes.get(key);
    }

    // `map`: {steps, shape, affine, blocks}
    function setMap(map) {
      values = {};
      for (const side of ["left", "right"]) {
        values[side] = surfacemath.project(
          map.steps, map.shape, map.affine, brain[side], about.depths, map.blocks);
      }
    }

    const paint = (newLook) => { look = newLook; redraw(); };
    const setView = (view) => { Object.assign(state, { view, turn: 0, tip: 0 }); redraw(); };
    const setShape = (shape) => { state.shape = shape; redraw(); };
    const setPlace = (mm) => { state.place = mm; redraw(); };

    function redraw() {
      if (waiting || !look) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; draw(2); });
    }

    function coloursOf(side, facing) {
      const { folds } = brain[side];
      const rgb = new Float32Array(3 * folds.length);
      for (let v = 0; v < folds.length; v++) {
        const value = values[side][v];
        const outside = value !== value;
        const grey = (150 - 45 * Math.tanh(folds[v] / 18)) * (outside ? 0.45 : 1) *
          (0.35 + 0.65 * facing[v]);
        const colour = outside ? null : viewmath.colourOf(value, look);
        for (let c = 0; c < 3; c++) {
          rgb[3 * v + c] = colour
            ? grey + colour.alpha * (colour.rgb[c] * (0.6 + 0.4 * facing[v]) - grey) : grey;
        }
      }
      return rgb;
    }

    function draw(finer) {
      if (!look || !values || canvas.clientWidth === 0) return;
      const ratio = root.devicePixelRatio || 1;
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
      const width = canvas.width * finer, height = canvas.height * finer;
      picture = {
        width, height, finer, rgba: new Uint8ClampedArray(4 * width * height),
        depth: new Float32Array(width * height).fill(-Infinity),
        owner: new Int32Array(width * height).fill(-1),
      };
      const wanted = VIEWS[state.view];
      const columns = Math.min(2, wanted.length);
      const rows = Math.ceil(wanted.length / columns);
      const margin = 22 * ratio * finer;
      const cell = [width / columns, (height - 2.1 * margin) / rows];
      panels = wanted.map(([sides, from, words], n) => ({
        sides, from, words, left: (n % columns) * cell[0],
        top: Math.floor(n / columns) * cell[1], width: cell[0], height: cell[1],
      }));
      let scale = Infinity;
      for (const panel of panels) {
        panel.parts = panel.sides.map((side) => {
          const mm = coordinates(side);
          const plain = surfacemath.seenFrom(mm, panel.from, 0, 0);
          const seen =
            surfacemath.seenFrom(centred(mm, panel), panel.from, state.turn, state.tip);
          return { side, seen, size: extentOf(plain) };
        });
        const [w, h] = sizeOf(panel.parts.map((p) => p.size));
        scale = Math.min(scale, (cell[0] - 2 * margin) / w, (cell[1] - margin) / h);
      }
      for (const panel of panels) drawPanel(panel, scale);
      const full = document.createElement("canvas");
      full.width = width;
      full.height = height;
      full.getContext("2d").putImageData(new ImageData(picture.rgba, width, height), 0, 0);
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#000";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.imageSmoothingQuality = "high";
      pen.drawImage(full, 0, 0, canvas.width, canvas.height);
      for (const panel of panels) drawWords(pen, panel, ratio, finer);
      drawPlace(pen, ratio, finer);
    }

    // A hemisphere alone turns about its own centre, two about their common one.
    function centred(mm, panel) {
      const box = [0, 1, 2].map((c) => rangeOf(panel.sides.map(coordinates), c));
      const middle = box.map(([low, high]) => (low + high) / 2);
      return mm.map((v, n) => v - middle[n % 3]);
    }

    function drawPanel(panel, scale) {
      const { finer } = picture;
      const at = [panel.left + panel.width / 2, panel.top + panel.height / 2 + 10 * finer];
      panel.parts.forEach((part) => {
        const xy = new Float32Array(part.seen.length);
        for (let n = 0; n < xy.length; n += 3) {
          xy[n] = at[0] + scale * part.seen[n];
          xy[n + 1] = at[1] - scale * part.seen[n + 1];
          xy[n + 2] = part.seen[n + 2];
        }
        part.xy = xy;
        const rgb = coloursOf(part.side, surfacemath.facing(part.seen, brain.faces));
        surfacemath.drawTriangles(picture, xy, brain.faces, rgb, first(part.side));
      });
    }

    const first = (side) => (side === "left" ? 0 : about.n_vertices);

    function drawWords(pen, panel, ratio, finer) {
      const [left, top, width, height] = [panel.left, panel.top, panel.width, panel.height]
        .map((v) => v / finer);
      pen.fillStyle = "#d5dbe1";
      pen.font = 13 * ratio + "px system-ui, sans-serif";
      pen.textBaseline = "top";
      pen.textAlign = "left";
      pen.fillText(panel.words, left + 8 * ratio, top + 6 * ratio);
      if (state.turn || state.tip) return; // turned, the edges have no names
      pen.textBaseline = "middle";
      const [west, east] = EDGES[panel.from];
      pen.fillText(west, left + 6 * ratio, top + height / 2);
      pen.textAlign = "right";
      pen.fillText(east, left + width - 6 * ratio, top + height / 2);
    }

    function drawPlace(pen, ratio, finer) {
      const found = nearest();
      if (!found) return;
      for (const panel of panels) {
        const part = panel.parts.find((p) => p.side === found.side);
        if (!part) continue;
        const [x, y, z] = part.xy.subarray(3 * found.vertex, 3 * found.vertex + 3);
        const pixel = Math.round(y) * picture.width + Math.round(x);
        if (!(z > picture.depth[pixel] - 4)) continue; // on the far side
        pen.strokeStyle = "#f2d94d";
        pen.lineWidth = 2 * ratio;
        pen.beginPath();
        pen.arc(x / finer, y / finer, 6 * ratio, 0, 2 * Math.PI);
        pen.stroke();
      }
    }

    // The vertex at the crosshair, or null where it is far from the cortex.
    function nearest() {
      if (!state.place) return null;
      const [best] = ["left", "right"]
        .map((side) => ({ side, ...surfacemath.nearestVertex(brain[side], state.place) }))
        .sort((a, b) => a.mm - b.mm);
      return best.mm <= NEAR_MM ? best : null;
    }

    // The place in mm, halfway between pial and white surface, that is drawn at a pixel of the
    // canvas (in CSS pixels); null beside the brain.
    function placeAt(x, y) {
      const k = picture.width / canvas.clientWidth;
      const vertex = picture.owner[Math.round(y * k) * picture.width + Math.round(x * k)];
      if (!(vertex >= 0)) return null;
      const half = vertex < about.n_vertices ? brain.left : brain.right;
      const v = 3 * (vertex % about.n_vertices);
      return [0, 1, 2].map((c) => (half.pial[v + c] + half.white[v + c]) / 2);
    }

    let grip = null;
    canvas.addEventListener("pointerdown", (event) => {
      grip = { x: event.clientX, y: event.clientY, turn: state.turn, tip: state.tip, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!grip) return;
      const [dx, dy] = [event.clientX - grip.x, event.clientY - grip.y];
      if (!grip.moved && Math.hypot(dx, dy) < 4) return;
      grip.moved = true;
      state.turn = grip.turn + dx / 150;
      state.tip = Math.max(-1.5, Math.min(1.5, grip.tip + dy / 150));
      if (!waiting) {
        waiting = true;
        requestAnimationFrame(() => { waiting = false; draw(1); });
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      const held = grip;
      grip = null;
      if (!held) return;
      if (held.moved) {
        redraw();
        return;
      }
      const box = canvas.getBoundingClientRect();
      const mm = placeAt(event.clientX - box.left, event.clientY - box.top);
      if (mm) onPick(mm);
    });
    canvas.addEventListener("pointercancel", () => { grip = null; });

    const outside = () => !!values && [values.left, values.right].some((v) => v.some(Number.isNaN));

    return {
      state, setMap, paint, setView, setShape, setPlace, draw, placeAt, nearest, outside,
      values: () => values,
    };
  }

  const extentOf = (seen) => [0, 1].map((c) => rangeOf([seen], c));

  function rangeOf(lists, c) {
    let low = Infinity, high = -Infinity;
    for (const list of lists) {
      for (let n = c; n < list.length; n += 3) {
        low = Math.min(low, list[n]);
        high = Math.max(high, list[n]);
      }
    }
    return [low, high];
  }

  const sizeOf = (extents) => [0, 1].map((c) =>
    Math.max(...extents.map((e) => e[c][1])) - Math.min(...extents.map((e) => e[c][0])));

  root.surface = { create, VIEWS };
})(globalThis);
