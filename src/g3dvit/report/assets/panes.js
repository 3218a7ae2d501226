// Maps side by side: one slice of each at the crosshair, with the viewer's threshold and colours.
// Class means of the chosen method on one scale, methods with their checks, runs and subjects.
// Drawn on 2D canvases, so that it needs no WebGL and prints. Knows no control but the plane.
(function (root) {
  "use strict";

  const STEP_MM = 1.5; // of what is sampled; canvases are finer
  const MOST_PARTS = 24; // runs that are drawn; all are in the viewer
  const WORDS = { pass: "passed", warn: "warning", fail: "failed" };
  // Letters at the left and right edge, and the axis through the plane.
  const EDGES = { axial: ["L", "R", "z"], coronal: ["L", "R", "y"], sagittal: ["P", "A", "x"] };

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // `tools`: decode(layer) and background() give promises of {steps} and {values, shape, affine};
  // stepsOf(layer) is what decode gave; coloursOf(layer), unitsOf(layer); goTo(mm), show(layer).
  function create(holder, scene, tools) {
    const state = { plane: "axial", key: null };
    let look = null; // what the viewer shows: see `update`
    let sets = [];
    let built = "";
    let under = null; // the background, decoded
    let waiting = false;
    let visible = false;

    // `look`: layer, place, threshold, percentile, opacity, fade, sign, blocks, radiological,
    // outline, part (of the chosen run or subject, -1 for all).
    function update(newLook) {
      look = newLook;
      if (look.layer.key) state.key = look.layer.key;
      if (visible) schedule();
    }

    function setPlane(plane) {
      state.plane = plane;
      schedule();
    }

    function schedule() {
      if (waiting || !look) return;
      waiting = true;
      requestAnimationFrame(refresh);
    }

    async function refresh() {
      const wanted = wantedSets();
      const name = JSON.stringify(wanted.map((set) => [set.title, set.layers.map(numberOf)]));
      const fresh = name !== built;
      for (const set of wanted) for (const layer of set.layers) await tools.decode(layer);
      under = await tools.background();
      waiting = false;
      if (fresh && name !== JSON.stringify(wantedSets().map(
        (set) => [set.title, set.layers.map(numberOf)]))) return schedule(); // chosen meanwhile
      if (fresh) {
        built = name;
        build(wanted);
      }
      return drawAll();
    }

    const numberOf = (layer) => scene.layers.indexOf(layer);
    const isMean = (l) => l.kind === "class mean";

    function wantedSets() {
      const { method } = look.layer;
      const title = scene.methods[method].title;
      const means = scene.layers.filter(
        (l) => l.method === method && (isMean(l) || l.kind === "contrast"));
      const key = state.key || keyOfTarget();
      const methods = scene.methods.map((_, n) =>
        scene.layers.find((l) => isMean(l) && l.method === n && l.key === key)).filter(Boolean);
      const parts = scene.layers.filter(
        (l) => l.kind === "part mean" && l.method === method && l.key === key);
      const named = (l) => l.title.replace(/^Mean: /, "").replace(/, n = \d+$/, "");
      const found = [
        { kind: "means", title: "Class means and differences: " + title, layers: means },
        { kind: "methods", title: "Methods: mean of " + (methods[0] ? named(methods[0]) : ""),
          layers: methods },
      ];
      if (parts.length) {
        const more = parts.length > MOST_PARTS
          ? " (the first " + MOST_PARTS + " of " + parts.length + ")" : "";
        found.push({ kind: "parts", layers: parts.slice(0, MOST_PARTS),
          title: "Runs and subjects" + more + ": " + title });
      }
      return found.filter((set) => set.layers.length);
    }

    function keyOfTarget() {
      const own = scene.layers.find((l) => isMean(l) && l.group === scene.target) ||
        scene.layers.find(isMean);
      return own ? own.key : null;
    }

    // ---- elements

    function build(wanted) {
      sets = wanted.map((set, n) => {
        const part = element("div", "set");
        part.dataset.kind = set.kind;
        const title = element("h4", "", set.title);
        title.id = "panes-title-" + n;
        const note = element("p", "small");
        const bar = set.kind === "methods" ? null : barElement();
        const row = element("div", "panes");
        row.tabIndex = 0;
        row.setAttribute("role", "group");
        row.setAttribute("aria-labelledby", title.id);
        row.setAttribute("aria-describedby", "panes-hint");
        row.addEventListener("keydown", keyed);
        const panes = set.layers.map((layer) => buildPane(set, layer));
        row.append(...panes.map((pane) => pane.figure));
        part.append(title, note, ...(bar ? [bar.holder] : []), row);
        return { ...set, part, note, bar, panes };
      });
      holder.replaceChildren(...sets.map((set) => set.part));
      const having = scene.methods.filter((_, n) =>
        scene.layers.some((l) => l.kind === "part mean" && l.method === n));
      if (having.length && !sets.some((set) => set.kind === "parts")) {
        holder.append(element("p", "small", "Runs and subjects side by side: choose a method that " +
          "has a map for every volume (" + having.map((m) => m.title).join(", ") + ")."));
      }
    }

    function buildPane(set, layer) {
      const figure = element("figure", "pane");
      const screen = element("div", "pane-screen");
      const canvas = element("canvas");
      canvas.setAttribute("role", "img");
      const reasons = [scene.run_stamp, scene.stamps[layer.frame_stamps[0]]].filter(Boolean);
      screen.append(canvas);
      if (reasons.length) screen.append(element("b", "pane-stamp", "CHECK FAILED"));
      const caption = element("figcaption");
      const title = set.kind === "methods" ? scene.methods[layer.method].title + ", " +
        layer.title.replace(/^.*, (n = \d+)$/, "$1") : layer.title.replace(/^Mean: /, "");
      const shownTitle = title.replace(/n = /g, "n\u00a0=\u00a0"); // not broken there
      const value = element("span", "value");
      const own = element("span", "small");
      const bar = set.kind === "methods" ? barElement() : null;
      const shows = element("button", "", "Show in the viewer");
      shows.type = "button";
      shows.setAttribute("aria-label", "Show in the viewer: " + title);
      shows.onclick = () => tools.show(layer);
      caption.append(element("b", "", shownTitle), value, ...(bar ? [bar.holder] : []), own);
      if (set.kind === "methods") caption.append(...verdicts(layer));
      for (const reason of reasons) caption.append(element("span", "reason", reason));
      caption.append(shows);
      figure.append(screen, caption);
      const pane = { layer, figure, canvas, value, own, bar, title, reasons, frame: null };
      canvas.addEventListener("click", (event) => {
        const box = canvas.getBoundingClientRect();
        const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
        tools.goTo(viewmath.placeIn(pane.frame, share, look.place));
      });
      return pane;
    }

    // What the checks said of this class mean, the worst first.
    function verdicts(layer) {
      const mean = scene.methods[layer.method].class_means[layer.mean];
      if (!mean) return [];
      const line = (verdict, words) => {
        const made = element("span", "verdict");
        made.append(element("span", "badge " + verdict, words[0]), " " + words[1]);
        return made;
      };
      const made = [];
      for (const verdict of ["fail", "warn"]) {
        const names = mean.checks.filter((c) => c.verdict === verdict).map((c) => c.name);
        if (names.length) made.push(line(verdict, [WORDS[verdict], names.join(", ")]));
      }
      const passed = mean.checks.filter((c) => c.verdict === "pass").length;
      if (passed) made.push(line("pass", [passed + " passed", ""]));
      return made.length ? made : [element("span", "verdict", "no check was made")];
    }

    function barElement() {
      const made = element("div", "pane-bar");
      const low = element("span"), colours = element("i"), high = element("span");
      const units = element("span");
      made.append(low, colours, high, units);
      return { holder: made, low, colours, high, units };
    }

    // ---- drawing

    // The threshold of a map, in its units: the viewer's where it is on the same scale, else the
    // viewer's percentile, of the map `of` that stands for all on its scale.
    function thresholdFor(layer, of, same) {
      if (same(look.layer)) return look.threshold;
      return look.percentile === 0 ? 0
        : viewmath.thresholdAt(tools.stepsOf(of), look.percentile, of.slope);
    }

    function drawAll() {
      if (!under || !look) return;
      const box = viewmath.boxOf(under.affine, under.shape);
      const frame = viewmath.frameOn(box, state.plane, STEP_MM, look.radiological);
      const grey = viewmath.sliceOf(under.values, under.shape, under.affine, frame, look.place, false);
      for (const set of sets) drawSet(set, frame, grey);
    }

    function drawSet(set, frame, grey) {
      const first = set.layers[0];
      const scaleOf = (l) => (set.kind === "methods" ? l : set.layers.find((x) => x.on === l.on));
      for (const pane of set.panes) {
        const { layer } = pane;
        const of = scaleOf(layer);
        const same = set.kind === "methods" ? (l) => l === layer
          : (l) => set.layers.some((x) => x === l && x.on === layer.on);
        const threshold = thresholdFor(layer, of, same);
        pane.frame = frame;
        drawPane(pane, grey, threshold);
        if (pane.bar) drawBar(pane.bar, layer, "");
        pane.own.textContent = [
          set.layers.some((l) => l.target !== first.target) || set.kind === "methods"
            ? "evidence for “" + layer.target + "”" : "",
          set.kind !== "methods" && layer.on !== first.on ? "per patch, on a scale of its own" : "",
        ].filter(Boolean).join("; ");
        if (pane.layer === first && set.bar) drawBar(set.bar, layer, whatFor(set));
        if (pane.layer === first) set.note.textContent = noteOf(set, threshold);
      }
    }

    const whatFor = (set) => (set.layers.every((l) => l.target === set.layers[0].target)
      ? "“" + set.layers[0].target + "”" : "its own class");

    function noteOf(set, threshold) {
      const first = set.layers[0];
      if (set.kind === "methods") {
        return "Every method has its own colour scale and units; the threshold is the viewer’s " +
          "percentile of each. Patches of " + scene.resolution + ".";
      }
      const targets = new Set(set.layers.map((l) => l.target));
      const what = targets.size > 1 ? "Each explains its own class, so that they cannot be subtracted. "
        : "All explain “" + first.target + "”. ";
      const descriptive = set.kind === "parts" ? "Means per patch, descriptive: no test was made. " : "";
      return what + descriptive + "One colour scale; threshold " + viewmath.unsigned(threshold) + " " +
        tools.unitsOf(first) + ". Patches of " + scene.resolution + ".";
    }

    // `what`: what the values speak for or against; empty where it stands elsewhere.
    function drawBar(bar, layer, what) {
      const top = layer.range > 0 ? layer.range : 1;
      const { zero, css } = viewmath.gradient(tools.coloursOf(layer), layer.signed, look.sign);
      bar.colours.style.background = "linear-gradient(to right, " + css.join(", ") + ")";
      bar.low.textContent = zero > 0 ? viewmath.signed(-top, 2) + (what && " against") : "0";
      bar.high.textContent = zero < 100 ? viewmath.signed(top, 2) + (what && " for") : "0";
      const units = tools.unitsOf(layer) + (layer.what ? ", " + layer.what : "");
      bar.units.textContent = what ? what + " (" + units + ")" : units;
    }

    function drawPane(pane, grey, threshold) {
      const { layer, canvas, frame } = pane;
      const values = viewmath.sliceOf(
        tools.stepsOf(layer), layer.shape, layer.affine, frame, look.place, look.blocks);
      const picture = new ImageData(frame.width, frame.height);
      const paint = paintLook(layer, threshold);
      for (let n = 0; n < values.length; n++) {
        const base = grey[n] === grey[n] ? grey[n] : 0;
        const colour = viewmath.colourOf(values[n], paint);
        for (let c = 0; c < 3; c++) {
          picture.data[4 * n + c] = colour ? base + colour.alpha * (colour.rgb[c] - base) : base;
        }
        picture.data[4 * n + 3] = 255;
      }
      const scratch = element("canvas");
      scratch.width = frame.width;
      scratch.height = frame.height;
      scratch.getContext("2d").putImageData(picture, 0, 0);
      canvas.style.aspectRatio = frame.width + " / " + frame.height;
      const wide = Math.round((canvas.clientWidth || 220) * Math.max(1, devicePixelRatio));
      canvas.width = wide;
      canvas.height = Math.round((wide * frame.height) / frame.width);
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = !look.blocks;
      pen.drawImage(scratch, 0, 0, canvas.width, canvas.height);
      drawMarks(pen, canvas, frame);
      describe(pane);
    }

    function paintLook(layer, threshold) {
      const top = layer.range > 0 ? layer.range : 1;
      const pair = tools.coloursOf(layer);
      const low = Math.min(threshold > 0 ? threshold * 0.999 : 1e-4 * top, top * 0.999);
      return {
        low: low / layer.slope, top: top / layer.slope, fade: look.fade, opacity: look.opacity,
        positive: look.sign === "negative" ? null : pair.positive,
        negative: look.sign === "positive" || !layer.signed ? null : pair.negative || pair.positive,
      };
    }

    // Crosshair, patch, sides and where the slice lies.
    function drawMarks(pen, canvas, frame) {
      const unit = Math.max(1, devicePixelRatio);
      const [x, y] = viewmath.shareIn(frame, look.place);
      pen.strokeStyle = "rgba(242, 217, 77, 0.7)";
      pen.lineWidth = unit;
      pen.beginPath();
      pen.moveTo(x * canvas.width, 0);
      pen.lineTo(x * canvas.width, canvas.height);
      pen.moveTo(0, y * canvas.height);
      pen.lineTo(canvas.width, y * canvas.height);
      pen.stroke();
      const [, , across] = viewmath.PLANES[frame.plane];
      const patch = look.outline !== "none" && scene.patches &&
        viewmath.voxelAt(scene.patches.affine, scene.patches.shape, look.place);
      if (patch) {
        pen.setLineDash([4 * unit, 3 * unit]);
        pen.strokeStyle = "#f2d94d";
        pen.beginPath();
        chartmath.cutOfBox(scene.patches.affine, patch, across, look.place[across])
          .map((mm) => viewmath.shareIn(frame, mm))
          .forEach(([u, v], n) =>
            pen[n ? "lineTo" : "moveTo"](u * canvas.width, v * canvas.height));
        pen.closePath();
        pen.stroke();
        pen.setLineDash([]);
      }
      const [left, right, axis] = EDGES[frame.plane];
      pen.font = "bold " + 13 * unit + "px system-ui, sans-serif";
      pen.fillStyle = "#fff";
      pen.textBaseline = "top";
      pen.fillText(frame.mirrored ? right : left, 5 * unit, 5 * unit);
      pen.textAlign = "right";
      pen.fillText(frame.mirrored ? left : right, canvas.width - 5 * unit, 5 * unit);
      pen.textAlign = "left";
      pen.textBaseline = "bottom";
      pen.fillText(axis + " = " + plain(look.place[across]), 5 * unit, canvas.height - 4 * unit);
    }

    const plain = (mm) => String(Math.round(mm) || 0).replace("-", "−");

    function describe(pane) {
      const { layer, canvas } = pane;
      const voxel = viewmath.voxelAt(layer.affine, layer.shape, look.place);
      const step = voxel && tools.stepsOf(layer)[viewmath.indexOf(layer.shape, voxel)];
      const value = voxel ? viewmath.signed(step * layer.slope) + " " + tools.unitsOf(layer)
        : "outside the map";
      pane.value.textContent = value;
      const [, , axis] = EDGES[state.plane];
      const at = look.place[viewmath.PLANES[state.plane][2]];
      const side = state.plane === "sagittal" ? "front is on the right"
        : look.radiological ? "left is on the right" : "left is left";
      canvas.setAttribute("aria-label", (pane.reasons.length ? "CHECK FAILED. " : "") + pane.title +
        ": " + state.plane + " slice at " + axis + " " + plain(at) + " mm, " + side +
        "; at the crosshair " + value);
    }

    // Arrows move within the plane, page up and down through it.
    function keyed(event) {
      if (event.target.tagName === "BUTTON") return;
      const [u, v, across] = viewmath.PLANES[state.plane];
      const right = look.radiological && u === 0 ? -2 : 2;
      const [axis, step] = { ArrowLeft: [u, -right], ArrowRight: [u, right], ArrowUp: [v, 2],
        ArrowDown: [v, -2], PageUp: [across, 2], PageDown: [across, -2] }[event.key] || [];
      if (axis === undefined) return;
      event.preventDefault();
      const mm = look.place.slice();
      mm[axis] += step;
      tools.goTo(mm);
    }

    new IntersectionObserver((entries) => {
      visible = entries.some((entry) => entry.isIntersecting);
      if (visible) schedule();
    }, { rootMargin: "400px" }).observe(holder);
    let width = 0;
    new ResizeObserver(() => {
      if (holder.clientWidth === width) return;
      width = holder.clientWidth;
      if (built) schedule();
    }).observe(holder);
    window.addEventListener("beforeprint", drawAll);

    return { state, update, setPlane, schedule, drawAll, sets: () => sets };
  }

  root.panes = { create };
})(globalThis);
