// The page: reads the scene, keeps viewer, chart, controls and read-out in step.
// Arithmetic lives in viewmath.js and chartmath.js; words and tables are already in the HTML.
(function () {
  "use strict";

  const began = performance.now();
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const $ = (id) => document.getElementById(id);
  const { COLOURS } = viewer;

  const state = {
    layer: 0, frame: 0, threshold: 0, opacity: 0.85, colours: "Red and blue", below: "fade",
    sign: scene.rectify ? "positive" : "both", radiological: false, view: "all", blocks: false,
    course: 0, ownPercentile: scene.percentile_asked,
  };
  const held = values.create(scene);
  const halved = halves.create(held);
  const saved = saving.create(scene, state, held);
  const images = new Map(); // what NiiVue shows of a layer, one frame
  const OWN_COLOURS = { signed: "Red and blue", positive: "Inferno (values of one sign)" };
  let stage = null; // the viewer; null without WebGL
  let cortex = null; // the surface; null until it is asked for
  let plot = null;
  let side = null; // maps side by side
  let only = null; // the chosen run or subject
  let timer = null;
  let pending = false;
  let wanted = 0;
  let shown = null; // the layer on the canvas
  let place = [0, 0, 0];

  start();

  async function start() {
    tables.start();
    only = alone.create(scene, focused);
    fillControls();
    let ready = "yes";
    try {
      stage = await viewer.create($("gl"), $("marks"), scene, moved);
      await stage.setBackground(0);
    } catch (error) {
      ready = "failed";
      stage = null;
      withoutViewer(error);
    }
    try {
      if (scene.time_courses.length) {
        chart.legend($("legend"), scene.class_names);
        plot = chart.create($("chart"), scene.time_courses, scene.class_names,
          (course, n) => showRow(scene.time_courses[course].first_row + n, false));
      }
      listen();
      if (scene.layers.some((l) => l.kind === "class mean")) {
        side = panes.create($("pane-sets"), scene, {
          decode: held.of, background: chosenBackground, goTo, unitsOf,
          stepsOf: held.steps, coloursOf,
          show: (layer) => {
            if (!only.holds(layer)) chooseFocus(-1);
            showLayer(scene.layers.indexOf(layer), 0);
            $("viewer").scrollIntoView({ block: "start" });
          },
        });
      }
      if (scene.layers.length) {
        await showLayer(firstLayer(), 0);
        goToPeak();
      } else {
        $("readout").textContent = "This run has no maps.";
      }
      if (stage) {
        stage.setView(state.view);
        stage.nv.setRenderAzimuthElevation(20, 30);
        if (scene.layers.length) paintNow();
        stage.goLive();
      }
    } catch (error) {
      ready = "failed";
      withoutViewer(error);
      console.error(error);
    }
    window.g3dvit = {
      nv: stage && stage.nv, stage, cortex: () => cortex, panes: () => side, state, goTo, showLayer,
      scene,
    };
    document.documentElement.dataset.scriptMs = String(Math.round(performance.now() - began));
    document.documentElement.dataset.ready = ready;
  }

  // Say what is missing and put a picture in its place.
  function withoutViewer(error) {
    $("trouble").hidden = false;
    $("trouble-words").textContent =
      "The 3D viewer could not start (" + error.message + "). It needs WebGL 2. The pictures and " +
      "tables of this page do not need it, and the maps are NIfTI files for any viewer.";
    const picture = document.querySelector(".pictures img");
    if (picture && !$("trouble").querySelector("img")) $("trouble").append(picture.cloneNode());
    $("screen").classList.add("still");
  }

  // The first map without a stamp, of the recommended method and of the target's own class if
  // there is one; the other methods come in the order of advice.
  function firstLayer() {
    const sound = (l) => l.frame_stamps.every((s) => s < 0);
    const advised = (l) => scene.methods[l.method].recommended;
    const tries = [
      (l) => sound(l) && advised(l) && l.group === scene.target,
      (l) => sound(l) && l.group === scene.target,
      sound,
    ].map((test) => scene.layers.findIndex(test));
    return Math.max(0, tries.find((n) => n >= 0) ?? 0);
  }

  function fillControls() {
    scene.methods.forEach((method, n) => {
      $("method").add(new Option(method.title, n));
      $("pane-method").add(new Option(method.title, n));
    });
    scene.backgrounds.forEach((picture, n) => $("background").add(new Option(picture.title, n)));
    Object.keys(COLOURS).forEach((name) => $("colours").add(new Option(name, name)));
    fillCourses();
    $("percentile").value = scene.percentile;
    $("sign").value = state.sign;
  }

  function fillCourses() {
    $("course").replaceChildren(...scene.time_courses.map((c, n) => [c, n])
      .filter(([, n]) => only.holdsRun(n)).map(([course, n]) => new Option(course.name, n)));
    $("course-choice").hidden = $("course").options.length < 2;
  }

  function chooseMethod(method) {
    const before = scene.layers[state.layer];
    const like = (l) => l.method === method && l.kind === before.kind && only.holds(l);
    const tries = [
      (l) => like(l) && l.title === before.title,
      (l) => like(l) && l.key && l.key === before.key,
      (l) => l.method === method && l.kind === "volumes" && before.kind === "volumes" &&
        l.run === before.run,
      (l) => l.method === method && only.holds(l) && l.group === scene.target,
      (l) => l.method === method && only.holds(l),
    ];
    const found = tries.map((test) => scene.layers.findIndex(test)).find((n) => n >= 0);
    if (found !== undefined) showLayer(found, state.frame);
  }

  // Another run or subject: the same method and class where it has them.
  function focused() {
    fillCourses();
    for (const [n, option] of [...$("method").options].entries()) {
      option.disabled = !scene.layers.some((l) => l.method === n && only.holds(l));
    }
    const before = scene.layers[state.layer];
    if (!before) return;
    const kind = only.part() < 0 ? "class mean" : "part mean";
    const key = before.key || (side && side.state.key);
    const tries = [
      (l) => l === before && l.kind !== "part mean",
      (l) => l.method === before.method && l.kind === kind && l.key === key,
      (l) => l.method === before.method && l.kind === kind,
      (l) => l.method === before.method,
      (l) => l.kind === kind && l.key === key,
      () => true,
    ].map((test) => (l) => only.holds(l) && test(l));
    const number = tries.map((test) => scene.layers.findIndex(test)).find((n) => n >= 0);
    if (number === undefined) return;
    const layer = scene.layers[number];
    if (layer.kind !== "volumes" && !only.holdsRun(state.course)) {
      state.course = scene.time_courses.findIndex((_, n) => only.holdsRun(n));
    }
    showLayer(number, layer === before ? state.frame : 0);
  }

  function chooseFocus(part) {
    $("focus").value = String(part);
    only.set(part);
  }

  function listen() {
    $("method").onchange = () => chooseMethod(Number($("method").value));
    $("pane-method").onchange = () => {
      if (only.part() >= 0) chooseFocus(-1);
      chooseMethod(Number($("pane-method").value));
    };
    $("plane").onchange = () => side && side.setPlane($("plane").value);
    $("layer").onchange = () => showLayer(Number($("layer").value), 0);
    $("background").onchange = async () => {
      if (stage) await stage.setBackground(Number($("background").value));
      drawSide();
    };
    $("view").onchange = () => {
      state.view = $("view").value;
      $("clip-choice").hidden = !["all", "render"].includes(state.view);
      if (scene.surface) showSurface(state.view === "surface");
      if (stage && state.view !== "surface") stage.setView(state.view);
    };
    if (scene.surface) {
      $("surface-view").onchange = () => cortex && cortex.setView($("surface-view").value);
      $("surface-shape").onchange = () => cortex && cortex.setShape($("surface-shape").value);
      $("cortex").addEventListener("keydown", keyed);
      new ResizeObserver(() => { if (onSurface()) cortex.draw(2); }).observe($("cortex"));
    }
    $("side").onclick = () => {
      state.radiological = !state.radiological;
      if (stage) stage.setSide(state.radiological);
      $("side").classList.toggle("turned", state.radiological);
      $("side").textContent = state.radiological
        ? "Radiological: left is on the right" : "Neurological: left is left";
      drawParts();
      drawSide();
    };
    $("clip").onchange = $("depth").oninput = () => {
      $("depth").disabled = $("clip").value === "none";
      if (stage) stage.setClip($("clip").value, Number($("depth").value) / 100);
    };
    $("outline").onchange = () => {
      if (stage) stage.setOutline($("outline").value);
      drawSide();
    };
    $("threshold").oninput = () => {
      const layer = scene.layers[state.layer];
      state.threshold = (Number($("threshold").value) / 127) * layer.range;
      $("percentile").value =
        Math.round(viewmath.percentileAt(steps(), state.threshold, layer.slope));
      state.ownPercentile = true;
      paint();
    };
    $("percentile").oninput = () => {
      state.ownPercentile = true;
      thresholdFromPercentile();
      paint();
    };
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
    $("course").onchange = () => showRow(scene.time_courses[Number($("course").value)].first_row, false);
    for (const axis of ["x", "y", "z"]) {
      $(axis).onchange = () => goTo(["x", "y", "z"].map((a) => Number($(a).value)));
    }
    $("peak").onclick = goToPeak;
    // The canvas with scale, words and stamp: a picture must say what it is when it stands alone.
    $("save-picture").onclick = () =>
      saved.picture(onSurface() ? $("cortex") : stage.snapshot(), onSurface());
    $("save-map").onclick = () => saved.map(scene.layers[state.layer], state.frame);
    $("downloads").addEventListener("click", (event) => {
      const button = event.target.closest("button[data-map]");
      if (button) saved.map(scene.layers[Number(button.dataset.map)], null);
    });
    $("gl").addEventListener("keydown", keyed, true);
    window.addEventListener("beforeprint", () => { // paper has nothing to unfold
      document.querySelectorAll("details.passed, details.figures").forEach((part) => { part.open = true; });
    });
    $("predictions").addEventListener("click", (event) => {
      const button = event.target.closest("button[data-row]");
      if (button) showRow(Number(button.dataset.row), true);
    });
  }

  // ---- layers and volumes

  async function showLayer(number, frame) {
    stop();
    const layer = scene.layers[number];
    const mine = ++wanted;
    for (const part of [layer, ...partsOf(layer)]) await held.of(part);
    const series = seriesFor(layer);
    if (series) await held.of(series);
    const image = stage ? await imageFor(layer) : null;
    if (mine !== wanted) return; // another map was chosen meanwhile
    state.layer = number;
    if (!shown || shown.signed !== layer.signed) { // two ends for values of one sign mislead
      state.colours = ownColours(layer);
      $("colours").value = state.colours;
    }
    shown = layer;
    if (layer.kind === "volumes") state.course = courseOf(layer.first_row);
    if (stage) stage.setMap(image);
    $("method").value = $("pane-method").value = String(layer.method);
    fillLayers(layer.method);
    $("layer").value = String(number);
    const single = layer.kind !== "volumes";
    $("frame").disabled = $("play").disabled = single;
    $("frame").max = layer.frames - 1;
    aboutMethod(layer);
    halved.show(layer);
    const first = Math.min(frame, layer.frames - 1);
    if (!state.ownPercentile) {
      const values = viewmath.frameOf(held.steps(layer), layer.shape, first);
      $("percentile").value = viewmath.startPercentile(values, scene.percentile);
    }
    showFrame(first);
  }

  const ownColours = (layer) => (layer.signed ? OWN_COLOURS.signed : OWN_COLOURS.positive);

  // Colours of any map: the chosen ones where it has as many signs as the shown map.
  const coloursOf = (layer) =>
    COLOURS[shown && shown.signed === layer.signed ? state.colours : ownColours(layer)];

  const GROUPS = [
    ["All runs together", (l) => l.kind === "class mean" || l.kind === "contrast"],
    ["One run or subject alone", (l) => l.kind === "part mean"],
    ["Volume by volume", (l) => l.kind === "volumes"],
  ];

  function fillLayers(method) {
    const own = scene.layers.map((l, n) => [l, n])
      .filter(([l]) => l.method === method && only.holds(l));
    $("layer").replaceChildren(...GROUPS.map(([label, test]) => {
      const group = document.createElement("optgroup");
      group.label = label;
      group.append(...own.filter(([l]) => test(l)).map(([l, n]) => new Option(
        l.title + (l.frame_stamps.some((s) => s >= 0) ? " (check failed)" : ""), n)));
      return group;
    }).filter((group) => group.children.length));
  }

  const isSeries = (l, method, course) =>
    l.kind === "volumes" && l.method === method &&
    scene.time_courses[course] && l.first_row === scene.time_courses[course].first_row;

  // Whose volumes are drawn over time: of the same method, else of the first that has any.
  const seriesFor = (layer) =>
    scene.layers.find((l) => isSeries(l, layer.method, state.course)) ||
    scene.layers.find((l) => isSeries(l, l.method, state.course));

  const courseOf = (row) => Math.max(0, scene.time_courses.findIndex(
    (c) => row >= c.first_row && row < c.first_row + c.n));

  const partsOf = (layer) => (layer.parts ? layer.parts.items.filter((p) => p.nifti) : []);

  function showFrame(frame) {
    const layer = scene.layers[state.layer];
    state.frame = layer.kind === "volumes" ? frame : 0;
    if (stage) {
      const factor = refinement(layer);
      images.get(keyOf(layer)).img.set(
        factor > 1 ? viewmath.refine(steps(), layer.shape, factor) : steps());
    }
    projectMap();
    $("frame").value = state.frame;
    thresholdFromPercentile();
    const stamp = layer.frame_stamps[Math.min(state.frame, layer.frame_stamps.length - 1)];
    stampWith([scene.run_stamp, scene.stamps[stamp]].filter(Boolean));
    const row = layer.kind === "volumes" ? layer.first_row + state.frame : -1;
    $("frame-text").textContent =
      row < 0
        ? "A mean has no time. Click into the time course below to step through the run."
        : "Volume " + (state.frame + 1) + " of " + layer.frames + " · " + scene.rows[row];
    $("frame").setAttribute("aria-valuetext", $("frame-text").textContent);
    document.querySelectorAll("#predictions tr.shown").forEach((tr) => tr.classList.remove("shown"));
    const button = document.querySelector('#predictions button[data-row="' + row + '"]');
    if (button) button.closest("tr").classList.add("shown");
    $("course").value = String(state.course);
    paint();
    moved(place);
  }

  // Across the map, and below it why; said once, not for every volume that is played.
  function stampWith(reasons) {
    const words = [...new Set(reasons)].join(" | ");
    $("stamp").hidden = reasons.length === 0;
    if ($("stamp-reason").textContent !== words) $("stamp-reason").textContent = words;
  }

  async function showRow(row, scroll) {
    const method = scene.layers[state.layer].method;
    const holds = (l) =>
      l.kind === "volumes" && row >= l.first_row && row < l.first_row + l.frames;
    const own = scene.layers.findIndex((l) => l.method === method && holds(l));
    const number = own >= 0 ? own : scene.layers.findIndex(holds); // some have class means only
    if (number < 0) return;
    const frame = row - scene.layers[number].first_row;
    if (number === state.layer) showFrame(frame);
    else await showLayer(number, frame);
    if (scroll) $("viewer").scrollIntoView({ block: "start" });
  }

  // What changes with every volume that is played is not read aloud.
  function readAloud(wanted) {
    for (const id of ["readout", "region", "frame-text"]) {
      $(id).setAttribute("aria-live", wanted ? "polite" : "off");
    }
  }

  function play() {
    readAloud(false);
    $("play").textContent = "Stop";
    timer = setInterval(() => {
      showFrame((state.frame + 1) % scene.layers[state.layer].frames);
    }, 400);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    readAloud(true);
    $("play").textContent = "Play";
  }

  // ---- the cortical surface, made when it is first asked for

  const onSurface = () => state.view === "surface" && cortex !== null;

  async function showSurface(wanted) {
    $("cortex").hidden = $("surface-label").hidden = !wanted;
    $("screen").classList.toggle("cortical", wanted);
    document.querySelectorAll(".of-surface").forEach((part) => { part.hidden = !wanted; });
    document.querySelectorAll(".of-slices").forEach((part) => { part.hidden = wanted; });
    if (!wanted) return;
    if (!cortex) {
      const bytes = await values.gunzip(scene.surface.data);
      cortex = cortex || surface.create($("cortex"), scene.surface, bytes, goTo);
    }
    projectMap();
    cortex.setPlace(place);
    paint();
  }

  function projectMap() {
    if (!onSurface() || !shown) return;
    cortex.setMap({
      steps: steps(), shape: shown.shape, affine: shown.affine, blocks: state.blocks,
    });
    $("surface-label").textContent =
      scene.surface.label + (cortex.outside() ? ". Dark: outside the model’s input" : "");
  }

  // ---- looks

  function thresholdFromPercentile() {
    const layer = scene.layers[state.layer];
    const percent = Math.min(100, Math.max(0, Number($("percentile").value) || 0));
    state.threshold = percent === 0 ? 0 : viewmath.thresholdAt(steps(), percent, layer.slope);
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
    if (stage) {
      stage.paint({
        low: low / layer.slope, top: top / layer.slope, signed: layer.signed, sign: state.sign,
        colours: state.colours, fade: state.below === "fade", opacity: state.opacity,
      });
    }
    if (onSurface()) {
      const pair = COLOURS[state.colours];
      cortex.paint({
        low: low / layer.slope, top: top / layer.slope, opacity: state.opacity,
        fade: state.below === "fade",
        positive: state.sign === "negative" ? null : pair.positive,
        negative: state.sign === "positive" || !layer.signed ? null : pair.negative || pair.positive,
      });
    }
    paintBar(COLOURS[state.colours], layer, top);
    $("threshold-text").textContent = viewmath.unsigned(state.threshold) + " " + unitsOf(layer);
    $("threshold").setAttribute("aria-valuetext", $("threshold-text").textContent);
    drawParts();
    drawSide();
  }

  function drawSide() {
    if (!side || !shown) return;
    side.update({
      layer: shown, place, threshold: state.threshold, opacity: state.opacity,
      percentile: Math.min(100, Math.max(0, Number($("percentile").value) || 0)),
      fade: state.below === "fade", sign: state.sign, blocks: state.blocks,
      radiological: state.radiological, outline: $("outline").value,
    });
  }

  // Of a voxel, or of a patch, where a method tells voxels apart.
  const unitsOf = (layer) => layer.units;

  function paintBar(pair, layer, top) {
    const { zero, css } = viewmath.gradient(pair, layer.signed, state.sign);
    $("bar-colours").style.background = "linear-gradient(to right, " + css.join(", ") + ")";
    const share = Math.min(1, state.threshold / top);
    const left = zero - share * zero;
    $("bar-hidden").style.left = left + "%";
    $("bar-hidden").style.width = zero + share * (100 - zero) - left + "%";
    $("bar-low").textContent = zero > 0 ? viewmath.signed(-top, 2) + " against" : "0";
    $("bar-high").textContent = zero < 100 ? viewmath.signed(top, 2) + " for" : "0";
    $("bar-units").textContent = barUnits(layer);
  }

  function barUnits(layer) {
    return "“" + layer.target + "” (" + unitsOf(layer) + (layer.what ? ", " + layer.what : "") + ")";
  }

  // ---- places

  function goTo(mm) {
    if (stage) stage.goTo(mm);
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
    const flip = state.radiological && !onSurface() ? -1 : 1;
    goTo([place[0] + flip * step[0], place[1] + step[1], place[2] + step[2]]);
  }

  function moved(mm) {
    place = [mm[0], mm[1], mm[2]];
    const layer = scene.layers[state.layer];
    if (!layer || !held.has(layer)) return;
    $("readout").textContent = readout(layer);
    if (scene.atlas) nameRegion();
    if (onSurface()) cortex.setPlace(place);
    ["x", "y", "z"].forEach((axis, n) => {
      if (document.activeElement !== $(axis)) $(axis).value = Math.round(place[n]);
    });
    if (stage && scene.patches) {
      stage.setPatch(place, viewmath.voxelAt(scene.patches.affine, scene.patches.shape, place));
    }
    drawParts();
    drawSide();
    drawChart();
  }

  function readout(layer) {
    const round = (v) => (Math.round(v) < 0 ? "−" : "") + Math.abs(Math.round(v));
    const voxel = viewmath.voxelAt(layer.affine, layer.shape, place);
    const value = voxel ? steps()[viewmath.indexOf(layer.shape, voxel)] * layer.slope : null;
    return scene.coordinates + "  x " + round(place[0]) + "  y " + round(place[1]) + "  z " +
      round(place[2]) + " mm   ·   " +
      (value === null ? "outside the map" : viewmath.signed(value) + " " + unitsOf(layer)) +
      "   ·   " + (layer.on === "patches" ? "patch of " : "effective resolution ") + scene.resolution;
  }

  // The region under the crosshair, from the atlas that came with the page.
  async function nameRegion() {
    const at = place;
    const { labels } = await held.atlas();
    if (at !== place) return;
    const voxel = viewmath.voxelAt(scene.atlas.affine, scene.atlas.shape, at);
    const index = voxel ? labels[viewmath.indexOf(scene.atlas.shape, voxel)] : 0;
    $("region").textContent = index
      ? (scene.atlas.names[index] || "region " + index) + " (" + scene.atlas.title + ")"
      : "no region here (" + scene.atlas.title + ")";
  }

  function drawChart() {
    if (!plot) return;
    const layer = scene.layers[state.layer];
    const series = seriesFor(layer);
    let values = null;
    let title = "";
    if (series && held.has(series)) {
      const voxel = viewmath.voxelAt(series.affine, series.shape, place);
      if (voxel) {
        const at = viewmath.indexOf(series.shape, voxel);
        const all = held.steps(series);
        const size = series.shape[0] * series.shape[1] * series.shape[2];
        values = Array.from({ length: series.frames }, (_, n) => all[n * size + at] * series.slope);
      }
      const other = series.method === layer.method ? ""
        : " (" + scene.methods[layer.method].title + " has no map of every volume)";
      title = scene.methods[series.method].title + (series.what ? ", " + series.what : "") + other +
        ", patch at the crosshair (" + series.units + " of “" + scene.volume_target + "”)";
    }
    plot.show(state.course, layer.kind === "volumes" ? state.frame : -1, values, title);
  }

  // ---- what the chosen method is, and what its map is made of

  function aboutMethod(layer) {
    const method = scene.methods[layer.method];
    $("about-title").textContent = method.title;
    $("about-sentence").textContent = method.sentence;
    $("about-shares").replaceChildren(...method.shares.map((share) => {
      const line = document.createElement("p");
      const name = document.createElement("b");
      name.textContent = share.name;
      line.append(name, ": " + share.sentence);
      return line;
    }));
    const list = document.createElement("ul");
    list.className = "checks";
    const words = { pass: "passed", warn: "warning", fail: "FAILED" };
    for (const check of method.checks.filter((c) => c.verdict !== "pass")) {
      list.append(checkLine(check.verdict, words[check.verdict], check.name, check.sentence));
    }
    const passed = method.checks.filter((c) => c.verdict === "pass").map((c) => c.name);
    if (passed.length) {
      list.append(checkLine("pass", passed.length + " passed", "", passed.join(", ")));
    }
    $("about-checks").replaceChildren(list);
  }

  function checkLine(verdict, word, name, text) {
    const item = document.createElement("li");
    const badge = document.createElement("span");
    badge.className = "badge " + verdict;
    badge.textContent = word;
    const title = document.createElement("b");
    title.textContent = name;
    item.append(badge, " ", title, " " + text);
    return item;
  }

  const drawParts = () => halved.draw(state.frame, place, state.radiological);

  // ---- values

  const chosenBackground = () => held.background(Number($("background").value));

  // NiiVue shows the nearest voxel of an overlay, so patches are refined here: their values
  // stand at the centres, linear in between.
  function refinement(layer) {
    if (state.blocks || layer.on !== "patches") return 1;
    const edge = Math.max(...[0, 1, 2].map((c) => Math.hypot(...layer.affine.slice(0, 3).map((r) => r[c]))));
    return Math.min(8, Math.max(1, Math.round(edge / 3)));
  }

  const keyOf = (layer) => scene.layers.indexOf(layer) + "/" + refinement(layer);

  async function imageFor(layer) {
    if (!images.has(keyOf(layer))) {
      const grid = viewmath.refinedGrid(layer.shape, layer.affine, refinement(layer));
      images.set(keyOf(layer), await viewer.emptyImage(grid.shape, grid.affine));
    }
    return images.get(keyOf(layer));
  }

  function steps() {
    const layer = scene.layers[state.layer];
    return viewmath.frameOf(held.steps(layer), layer.shape, state.frame);
  }
})();
