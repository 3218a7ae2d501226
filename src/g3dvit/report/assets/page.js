// The page: reads the scene, drives NiiVue, keeps the controls and the read-out in step.
// Arithmetic lives in viewmath.js; words and tables are already in the HTML.
(function () {
  "use strict";

  const scene = JSON.parse(document.getElementById("scene").textContent);
  const $ = (id) => document.getElementById(id);

  // Stops from weak to strong, for evidence for and against; dark viewer, colour-blind safe.
  const COLOURS = {
    "Red and blue": {
      positive: [[0, [110, 16, 24]], [0.5, [228, 66, 48]], [1, [255, 205, 160]]],
      negative: [[0, [18, 42, 128]], [0.5, [52, 126, 232]], [1, [176, 222, 255]]],
    },
    "Hot and cold": {
      positive: [[0, [128, 0, 0]], [0.5, [255, 96, 0]], [1, [255, 236, 96]]],
      negative: [[0, [0, 32, 128]], [0.5, [0, 136, 255]], [1, [150, 255, 255]]],
    },
    "Orange and violet": {
      positive: [[0, [120, 60, 0]], [0.5, [230, 130, 20]], [1, [255, 224, 170]]],
      negative: [[0, [60, 20, 110]], [0.5, [130, 90, 210]], [1, [216, 200, 255]]],
    },
    "Viridis (size)": {
      positive: [[0, [68, 1, 84]], [0.25, [59, 82, 139]], [0.5, [33, 145, 140]],
        [0.75, [94, 201, 98]], [1, [253, 231, 37]]],
      negative: null,
    },
  };

  const state = {
    layer: 0, frame: 0, threshold: 0, opacity: 0.85, colours: "Red and blue", below: "fade",
    sign: scene.rectify ? "positive" : "both", radiological: false, view: "all", blocks: false,
  };
  const decoded = new Map(); // of layers and their halves: {steps}
  const images = new Map(); // what NiiVue shows of a layer, one frame
  let nv = null;
  let overlay = null;
  let timer = null;
  let pending = false;
  let wanted = 0;
  let halves = []; // of the layer: {part, figure, title}

  start().catch((error) => {
    $("trouble").hidden = false;
    $("trouble").textContent =
      "The 3D viewer could not start (" + error.message + "). It needs WebGL 2. The figures and " +
      "tables below do not need it, and the maps are NIfTI files for any viewer.";
    document.documentElement.dataset.ready = "failed";
  });

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL 2");
    nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.95, 0.85, 0.3, 1],
      crosshairWidth: 0.7,
      isColorbar: false,
      show3Dcrosshair: true,
      isRadiologicalConvention: false,
      multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
      dragAndDropEnabled: false,
      loadingText: "",
      showAllOrientationMarkers: true,
      fontColor: [1, 1, 1, 1],
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
      multiplanarPadPixels: 4,
    });
    await nv.attachToCanvas($("gl"));
    for (const [name, pair] of Object.entries(COLOURS)) {
      nv.addColormap("g3d+" + name, niivueColours(pair.positive));
      nv.addColormap("g3d-" + name, niivueColours(pair.negative || pair.positive));
    }
    nv.addColormap("g3d none", { R: [0, 0], G: [0, 0], B: [0, 0], A: [0, 0], I: [0, 255] });
    nv.onLocationChange = (place) => moved(place.mm);
    nv.addVolume(
      await niivue.NVImage.loadFromBase64({
        base64: scene.background.nifti, name: "background.nii.gz", colormap: "gray",
        cal_min: 0, cal_max: 255,
      })
    );
    fillControls();
    listen();
    await showLayer(firstLayer(), 0);
    setView();
    nv.setRenderAzimuthElevation(20, 30);
    goToPeak();
    window.g3dvit = { nv, state, goTo, showLayer, scene };
    document.documentElement.dataset.ready = "yes";
  }

  // The first map without a stamp, of the target's own class if there is one; methods come in
  // the order of advice.
  function firstLayer() {
    const sound = (l) => l.frame_stamps.every((s) => s < 0);
    const own = scene.layers.findIndex((l) => sound(l) && l.group === scene.target);
    return own >= 0 ? own : Math.max(0, scene.layers.findIndex(sound));
  }

  function fillControls() {
    scene.methods.forEach((method, n) => $("method").add(new Option(method.title, n)));
    Object.keys(COLOURS).forEach((name) => $("colours").add(new Option(name, name)));
    $("percentile").value = scene.percentile;
    $("sign").value = state.sign;
  }

  function listen() {
    $("method").onchange = () => {
      const group = scene.layers[state.layer].title;
      const method = Number($("method").value);
      const own = scene.layers.findIndex((l) => l.method === method);
      const same = scene.layers.findIndex((l) => l.method === method && l.title === group);
      showLayer(same >= 0 ? same : own, state.frame);
    };
    $("layer").onchange = () => showLayer(Number($("layer").value), 0);
    $("view").onchange = () => { state.view = $("view").value; setView(); };
    $("side").onclick = () => {
      state.radiological = !state.radiological;
      nv.setRadiologicalConvention(state.radiological);
      $("side").setAttribute("aria-pressed", String(state.radiological));
      $("side").textContent = state.radiological
        ? "Radiological: left is on the right" : "Neurological: left is left";
      drawHalves();
    };
    $("threshold").oninput = () => {
      const layer = scene.layers[state.layer];
      state.threshold = (Number($("threshold").value) / 127) * layer.range;
      $("percentile").value =
        Math.round(viewmath.percentileAt(steps(), state.threshold, layer.slope));
      paint();
    };
    $("percentile").oninput = () => { thresholdFromPercentile(); paint(); };
    $("below").onchange = () => { state.below = $("below").value; paint(); };
    $("opacity").oninput = () => { state.opacity = Number($("opacity").value) / 100; paint(); };
    $("sign").onchange = () => { state.sign = $("sign").value; paint(); };
    $("colours").onchange = () => { state.colours = $("colours").value; paint(); };
    $("patches").onchange = () => {
      state.blocks = $("patches").value === "blocks";
      showLayer(state.layer, state.frame);
    };
    $("frame").oninput = () => showFrame(Number($("frame").value));
    $("play").onclick = () => (timer ? stop() : play());
    for (const axis of ["x", "y", "z"]) {
      $(axis).onchange = () => goTo(["x", "y", "z"].map((a) => Number($(a).value)));
    }
    $("peak").onclick = goToPeak;
    $("gl").addEventListener("keydown", keyed, true);
    $("predictions").addEventListener("click", (event) => {
      const button = event.target.closest("button[data-row]");
      if (button) showRow(Number(button.dataset.row));
    });
  }

  function niivueColours(stops) {
    const channel = (c) => [stops[0][1][c], ...stops.map((stop) => stop[1][c])];
    return { // the entry for exactly zero is transparent
      R: channel(0), G: channel(1), B: channel(2), A: [0, ...stops.map(() => 255)],
      I: [0, ...stops.map((stop) => Math.max(1, Math.round(stop[0] * 255)))],
    };
  }

  // ---- layers and volumes

  async function showLayer(number, frame) {
    stop();
    const layer = scene.layers[number];
    const mine = ++wanted;
    for (const part of [layer, ...layer.companions]) await decode(part);
    const image = await imageFor(layer);
    if (mine !== wanted) return; // another map was chosen meanwhile
    state.layer = number;
    if (overlay) nv.removeVolume(overlay);
    overlay = image;
    nv.addVolume(overlay);
    $("method").value = String(layer.method);
    $("layer").replaceChildren(
      ...scene.layers
        .map((l, n) => [l, n])
        .filter(([l]) => l.method === layer.method)
        .map(([l, n]) => new Option(l.title + (l.frame_stamps.some((s) => s >= 0) ? " (check failed)" : ""), n))
    );
    $("layer").value = String(number);
    const single = layer.kind !== "volumes";
    $("frame").disabled = $("play").disabled = single;
    $("frame").max = layer.frames - 1;
    $("time").classList.toggle("idle", single);
    aboutMethod(layer);
    buildHalves(layer);
    showFrame(Math.min(frame, layer.frames - 1));
  }

  function showFrame(frame) {
    const layer = scene.layers[state.layer];
    state.frame = layer.kind === "volumes" ? frame : 0;
    const factor = refinement(layer);
    overlay.img.set(factor > 1 ? viewmath.refine(steps(), layer.shape, factor) : steps());
    $("frame").value = state.frame;
    thresholdFromPercentile();
    const stamp = layer.frame_stamps[Math.min(state.frame, layer.frame_stamps.length - 1)];
    $("stamp").hidden = !(stamp >= 0);
    $("stamp-reason").textContent =
      stamp >= 0 ? scene.stamps[stamp].replace(/^CHECK FAILED: /, "") : "";
    const row = layer.kind === "volumes" ? layer.first_row + state.frame : -1;
    $("frame-text").textContent =
      row < 0
        ? "A mean has no time. Choose “Every volume” above to step through the run."
        : "Volume " + (state.frame + 1) + " of " + layer.frames + " · " + scene.rows[row];
    document.querySelectorAll("#predictions tr.shown").forEach((tr) => tr.classList.remove("shown"));
    const button = document.querySelector('#predictions button[data-row="' + row + '"]');
    if (button) button.closest("tr").classList.add("shown");
    paint();
    moved(nv.frac2mm(nv.scene.crosshairPos));
  }

  function showRow(row) {
    const method = scene.layers[state.layer].method;
    const number = scene.layers.findIndex(
      (l) =>
        l.kind === "volumes" && l.method === method &&
        row >= l.first_row && row < l.first_row + l.frames
    );
    if (number < 0) return;
    const frame = row - scene.layers[number].first_row;
    if (number === state.layer) showFrame(frame);
    else showLayer(number, frame);
    $("viewer").scrollIntoView({ block: "start" });
  }

  function play() {
    $("play").textContent = "Stop";
    timer = setInterval(() => {
      showFrame((state.frame + 1) % scene.layers[state.layer].frames);
    }, 400);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
  }

  // ---- looks

  function thresholdFromPercentile() {
    const layer = scene.layers[state.layer];
    const wanted = Math.min(100, Math.max(0, Number($("percentile").value) || 0));
    state.threshold = wanted === 0 ? 0 : viewmath.thresholdAt(steps(), wanted, layer.slope);
    $("threshold").value = Math.round((127 * state.threshold) / (layer.range || 1));
  }

  function paint() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      paintNow();
    });
  }

  function paintNow() {
    const layer = scene.layers[state.layer];
    const top = layer.range > 0 ? layer.range : 1;
    const low = Math.min(state.threshold > 0 ? state.threshold * 0.999 : 1e-4 * top, top * 0.999);
    const pair = COLOURS[state.colours];
    overlay.colormap = state.sign === "negative" ? "g3d none" : "g3d+" + state.colours;
    overlay.colormapNegative =
      state.sign === "positive" || !layer.signed ? "" : "g3d-" + state.colours;
    // NiiVue's shader takes ranges below 1e-5 for empty, so it works in steps, not in units
    overlay.cal_min = low / layer.slope;
    overlay.cal_max = top / layer.slope;
    overlay.cal_minNeg = -low / layer.slope;
    overlay.cal_maxNeg = -top / layer.slope;
    // colours start at zero, so that a colour means the same at every threshold; of NiiVue's
    // two such types 1 fades values below the threshold, 2 hides them
    overlay.colormapType = state.below === "fade" ? 1 : 2;
    overlay.opacity = state.opacity;
    nv.updateGLVolume();
    paintBar(pair, layer, top);
    $("threshold-text").textContent =
      viewmath.unsigned(state.threshold) + " " + scene.methods[layer.method].units;
    drawHalves();
  }

  function paintBar(pair, layer, top) {
    const css = (stops, from, to) =>
      stops.map(([at, c]) => "rgb(" + c.join() + ") " + (from + at * (to - from)) + "%");
    const both = layer.signed && state.sign !== "positive";
    const zero = both ? (state.sign === "negative" ? 100 : 50) : 0;
    const negative = (pair.negative || pair.positive).slice().reverse().map(([at, c]) => [1 - at, c]);
    const parts = [];
    if (zero > 0) parts.push(...css(negative, 0, zero));
    if (zero < 100) parts.push(...css(pair.positive, zero, 100));
    $("bar-colours").style.background = "linear-gradient(to right, " + parts.join(", ") + ")";
    const share = Math.min(1, state.threshold / top);
    const left = zero - share * zero;
    $("bar-hidden").style.left = left + "%";
    $("bar-hidden").style.width = zero + share * (100 - zero) - left + "%";
    $("bar-low").textContent = zero > 0 ? viewmath.signed(-top, 2) + " against" : "0";
    $("bar-high").textContent = zero < 100 ? viewmath.signed(top, 2) + " for" : "0";
    $("bar-units").textContent =
      "“" + scene.target + "” (" + scene.methods[layer.method].units + ")";
  }

  function setView() {
    const types = { all: 3, slices: 3, axial: 0, render: 4 };
    nv.opts.multiplanarShowRender =
      state.view === "all" ? niivue.SHOW_RENDER.ALWAYS : niivue.SHOW_RENDER.NEVER;
    if (state.view === "axial") {
      const cuts = [-40, -24, -8, 8, 24, 40, 56, 70];
      nv.setSliceMosaicString("A " + cuts.slice(0, 4).join(" ") + " ; A " + cuts.slice(4).join(" "));
    } else {
      nv.setSliceMosaicString("");
      nv.setSliceType(types[state.view]);
    }
    nv.drawScene();
  }

  // ---- places

  function goTo(mm) {
    nv.scene.crosshairPos = nv.mm2frac(mm);
    nv.drawScene();
    moved(mm);
  }

  function goToPeak() {
    const layer = scene.layers[state.layer];
    const voxel = viewmath.peakOf(steps(), layer.shape, state.sign === "positive");
    goTo(viewmath.worldAt(layer.affine, voxel));
  }

  function keyed(event) {
    const step = { ArrowLeft: [-2, 0, 0], ArrowRight: [2, 0, 0], ArrowUp: [0, 2, 0],
      ArrowDown: [0, -2, 0], PageUp: [0, 0, 2], PageDown: [0, 0, -2] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const mm = nv.frac2mm(nv.scene.crosshairPos);
    const flip = state.radiological ? -1 : 1;
    goTo([mm[0] + flip * step[0], mm[1] + step[1], mm[2] + step[2]]);
  }

  let place = [0, 0, 0];
  function moved(mm) {
    place = [mm[0], mm[1], mm[2]];
    const layer = scene.layers[state.layer];
    const round = (v) => (Math.round(v) < 0 ? "−" : "") + Math.abs(Math.round(v));
    const voxel = viewmath.voxelAt(layer.affine, layer.shape, place);
    const value = voxel ? steps()[viewmath.indexOf(layer.shape, voxel)] * layer.slope : null;
    $("readout").textContent =
      scene.coordinates + "  x " + round(place[0]) + "  y " + round(place[1]) + "  z " +
      round(place[2]) + " mm   ·   " +
      (value === null ? "outside the map"
        : viewmath.signed(value) + " " + scene.methods[layer.method].units) +
      "   ·   " + (layer.on === "patches" ? "patch of " : "effective resolution ") + scene.resolution;
    ["x", "y", "z"].forEach((axis, n) => {
      if (document.activeElement !== $(axis)) $(axis).value = Math.round(place[n]);
    });
    drawHalves();
  }

  // ---- what the chosen method is, and the halves of token Grad-CAM

  function aboutMethod(layer) {
    $("about-title").textContent = scene.methods[layer.method].title;
    $("about-sentence").textContent = scene.methods[layer.method].sentence;
    const list = document.createElement("ul");
    list.className = "checks";
    for (const check of scene.methods[layer.method].checks) {
      const item = document.createElement("li");
      const badge = document.createElement("span");
      badge.className = "badge " + check.verdict;
      badge.textContent = { pass: "passed", warn: "warning", fail: "FAILED" }[check.verdict];
      item.append(badge, " " + check.name);
      list.append(item);
    }
    $("about-checks").replaceChildren(list);
  }

  function buildHalves(layer) {
    $("halves").hidden = layer.companions.length === 0;
    const parts = layer.companions.length ? [layer, ...layer.companions] : [];
    halves = parts.map((part, n) => {
      const title = n === 0 ? "Map" : part.title;
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 380;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", title + ", patch plane through the crosshair");
      const caption = document.createElement("figcaption");
      figure.append(canvas, caption);
      return { part, figure, canvas, caption, title };
    });
    const shown = [];
    halves.forEach((half, n) => {
      if (n > 0) {
        const sign = document.createElement("span");
        sign.className = "sign";
        sign.textContent = n === 1 ? "=" : "×";
        shown.push(sign);
      }
      shown.push(half.figure);
    });
    $("halves-list").replaceChildren(...shown);
  }

  function drawHalves() {
    for (const { part, canvas, caption, title } of halves) {
      const frame = Math.min(state.frame, part.frames - 1);
      const values = viewmath.frameOf(decoded.get(part).steps, part.shape, frame);
      const voxel = viewmath.voxelAt(part.affine, part.shape, place);
      drawPlane(canvas, values, part.shape, voxel);
      const value = voxel ? values[viewmath.indexOf(part.shape, voxel)] * part.slope : 0;
      const what = part.sentence ? title + " (" + part.sentence + ")" : title;
      caption.textContent = what + ": " + (voxel ? viewmath.signed(value) : "outside");
    }
  }

  function drawPlane(canvas, values, shape, voxel) {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (!voxel) return;
    let top = 1;
    for (const v of values) top = Math.max(top, Math.abs(v));
    const edge = Math.floor(Math.min(canvas.width / shape[0], canvas.height / shape[1]));
    const x0 = (canvas.width - edge * shape[0]) / 2;
    const y0 = (canvas.height - edge * shape[1]) / 2;
    const column = (i) => (state.radiological ? shape[0] - 1 - i : i);
    for (let j = 0; j < shape[1]; j++) {
      for (let i = 0; i < shape[0]; i++) {
        const v = values[viewmath.indexOf(shape, [i, j, voxel[2]])] / top;
        const pair = COLOURS["Red and blue"];
        const c = viewmath.colourAt(v < 0 ? pair.negative : pair.positive, Math.abs(v));
        pen.fillStyle = "rgba(" + c.join() + "," + Math.min(1, Math.abs(v) * 2) + ")";
        pen.fillRect(x0 + column(i) * edge, y0 + (shape[1] - 1 - j) * edge, edge, edge);
      }
    }
    pen.strokeStyle = "#f2d94d";
    pen.lineWidth = 3;
    pen.strokeRect(x0 + column(voxel[0]) * edge, y0 + (shape[1] - 1 - voxel[1]) * edge, edge, edge);
    pen.fillStyle = "#fff";
    pen.font = "24px system-ui, sans-serif";
    pen.textBaseline = "top";
    pen.fillText(state.radiological ? "R" : "L", 6, 6);
    pen.fillText(state.radiological ? "L" : "R", canvas.width - 22, 6);
  }

  // NiiVue shows the nearest voxel of an overlay, so patches are refined here: their values
  // stand at the centres, linear in between.
  function refinement(layer) {
    if (state.blocks || layer.on !== "patches") return 1;
    const edge = Math.max(...[0, 1, 2].map((c) => Math.hypot(...layer.affine.slice(0, 3).map((r) => r[c]))));
    return Math.min(8, Math.max(1, Math.round(edge / 3)));
  }

  async function imageFor(layer) {
    const factor = refinement(layer);
    const key = scene.layers.indexOf(layer) + "/" + factor;
    if (!images.has(key)) {
      const { shape, affine } = viewmath.refinedGrid(layer.shape, layer.affine, factor);
      const bytes = viewmath.nifti(shape, affine);
      const image = await niivue.NVImage.loadFromFile({
        file: new File([bytes], "map.nii"), name: "map.nii", colormap: "gray",
        cal_min: 1, cal_max: 127,
      });
      images.set(key, image);
    }
    return images.get(key);
  }

  async function decode(part) {
    if (!decoded.has(part)) {
      const packed = Uint8Array.from(atob(part.nifti), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      const bytes = await new Response(stream).arrayBuffer();
      const offset = new DataView(bytes).getFloat32(108, true); // NIfTI: vox_offset
      decoded.set(part, { steps: new Int8Array(bytes, offset) });
    }
    return decoded.get(part);
  }

  function steps() {
    const layer = scene.layers[state.layer];
    return viewmath.frameOf(decoded.get(layer).steps, layer.shape, state.frame);
  }
})();
