// Predictions over time with the design underneath, and the relevance at the crosshair.
// Drawn as SVG, so that it prints; a click or an arrow key chooses a volume.
(function (root) {
  "use strict";

  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#332288", "#56b4e9",
    "#882255"]; // told apart with any colour vision; dashes tell them apart too
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2", "6 2 1 2"];
  const LEFT = 64, RIGHT = 14, PROBABILITY = 120, STRIP = 16, RELEVANCE = 92, HEAD = 30;
  const LINE = 14, LETTER = 7; // px of a title
  const SVG = "http://www.w3.org/2000/svg";

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // `courses` and `classNames` as in the scene; `onPick(course, n)` is called for a volume.
  function create(holder, courses, classNames, onPick) {
    const state = { course: 0, volume: -1, relevance: null, title: "", units: "" };
    let scale = null;
    let cursor = null;

    // The width of a letter of a text, in the font that it will have; fonts differ by machine.
    function letter(text) {
      const probe = element("svg", { width: 1, height: 1, style: "position: absolute; visibility: hidden" });
      const words = element("text", { class: "axis" }, text);
      probe.append(words);
      holder.append(probe);
      const width = words.getComputedTextLength();
      probe.remove();
      return Math.max(LETTER, 1.08 * width / Math.max(1, text.length));
    }

    function draw() {
      const course = courses[state.course];
      const width = Math.max(280, holder.clientWidth);
      const times = course.time;
      const step = chartmath.spacing(times);
      const low = times[0] - step / 2, high = times[times.length - 1] + step / 2;
      const x = (t) => LEFT + ((t - low) / (high - low)) * (width - LEFT - RIGHT);
      scale = (px) => low + ((px - LEFT) / (width - LEFT - RIGHT)) * (high - low);
      const shown = course.probability.slice(0, COLOURS.length);
      const strips = course.label.some((v) => v >= 0) ? ["label", "predicted"] : ["predicted"];
      const top = HEAD, stripTop = top + PROBABILITY + 14;
      const told = state.relevance ? state.title
        : "Relevance at the crosshair: this method has no map per volume";
      const title = chartmath.lines(told, (width - 8) / letter(told));
      const lower = stripTop + strips.length * (STRIP + 4) + HEAD + 8 + LINE * (title.length - 1);
      const height = lower + RELEVANCE + 40;
      const svg = element("svg", {
        width, height, viewBox: "0 0 " + width + " " + height, tabindex: 0, role: "slider",
        "aria-label": "Volume of " + course.name + ", with predictions over time",
        "aria-valuemin": 1, "aria-valuemax": course.n, "aria-valuenow": state.volume + 1,
        "aria-valuetext": state.volume < 0 ? "no volume chosen" : "volume " + (state.volume + 1),
      });
      const yp = (p) => top + (1 - p) * PROBABILITY;
      for (const p of [0, 0.5, 1]) grid(svg, width, yp(p), String(p));
      svg.append(element("text", { x: 4, y: top - 14, class: "axis" },
        "Probability by the model" + (courses.length > 1 ? ", " + course.name : "")));
      shown.forEach((values, n) => svg.append(element("path", {
        d: chartmath.path(times, values, x, yp), fill: "none", stroke: COLOURS[n],
        "stroke-width": 2, "stroke-dasharray": DASHES[n],
      })));
      shown.forEach((values, n) => { // single volumes between gaps are no line
        if (times.length < 2 || values.length > 400) return;
        times.forEach((t, m) => svg.append(element("circle", {
          cx: x(t), cy: yp(values[m]), r: 2, fill: COLOURS[n],
        })));
      });
      strips.forEach((name, row) => drawStrip(svg, course, name, x, stripTop + row * (STRIP + 4)));
      drawRelevance(svg, times, x, lower, width, title);
      for (const t of chartmath.ticks(low, high, Math.max(3, width / 110))) {
        if (t < low || t > high) continue;
        const px = x(t);
        svg.append(element("line", { x1: px, x2: px, y1: height - 32, y2: height - 27, class: "tick" }));
        svg.append(element("text", { x: px, y: height - 14, "text-anchor": "middle" }, String(t)));
      }
      const unit = course.unit === "s" ? "time in the run (s)" : "time point";
      svg.append(element("text", { x: width - RIGHT, y: height - 1, "text-anchor": "end", class: "axis" }, unit));
      cursor = element("line", { y1: top, y2: height - 32, class: "cursor" });
      svg.append(cursor);
      svg.addEventListener("click", (event) => {
        const px = event.clientX - svg.getBoundingClientRect().left;
        pick(chartmath.nearest(times, scale(px)));
      });
      svg.addEventListener("keydown", keyed);
      const focused = holder.contains(document.activeElement);
      holder.replaceChildren(svg);
      if (focused) svg.focus({ preventScroll: true });
      placeCursor(x);
    }

    function grid(svg, width, y, text) {
      svg.append(element("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: "grid" }));
      svg.append(element("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, text));
    }

    function drawStrip(svg, course, name, x, y) {
      svg.append(element("text", { x: LEFT - 8, y: y + 12, "text-anchor": "end" },
        name === "label" ? "label" : "model"));
      for (const part of chartmath.stretches(course.time, course[name])) {
        if (part.value < 0) continue;
        const box = element("rect", {
          x: x(part.from), y, width: Math.max(1, x(part.to) - x(part.from)), height: STRIP,
          fill: COLOURS[part.value % COLOURS.length], "fill-opacity": name === "label" ? 0.85 : 0.5,
        });
        box.append(element("title", {}, (name === "label" ? "label " : "model ") + classNames[part.value] +
          ", " + [part.from, part.to].map((t) => String(Math.round(10 * t) / 10)).join(" to ") +
          (course.unit === "s" ? " s" : "")));
        svg.append(box);
      }
      if (name !== "predicted") return;
      course.time.forEach((t, n) => {
        if (course.label[n] < 0 || course.label[n] === course.predicted[n]) return;
        svg.append(element("text", { x: x(t), y: y + 13, "text-anchor": "middle", class: "wrong" }, "×"));
      });
    }

    function drawRelevance(svg, times, x, y, width, title) {
      const values = state.relevance;
      const words = element("text", { class: "axis" });
      title.forEach((line, n) => words.append(element("tspan",
        { x: 4, y: y - 14 - LINE * (title.length - 1 - n) }, line + (n < title.length - 1 ? " " : ""))));
      svg.append(words);
      if (!values) return;
      const most = Math.max(...values.map(Math.abs), 1e-300);
      const signed = values.some((v) => v < 0);
      const yr = (v) => signed ? y + RELEVANCE / 2 - (v / most) * RELEVANCE / 2
        : y + RELEVANCE - (v / most) * RELEVANCE;
      for (const v of signed ? [-most, 0, most] : [0, most]) grid(svg, width, yr(v), viewmath.signed(v, 2));
      svg.append(element("path", {
        d: chartmath.path(times, values, x, yr), fill: "none", stroke: "#1a1f26", "stroke-width": 1.5,
      }));
      if (values.length > 400) return;
      times.forEach((t, n) => svg.append(element("circle", {
        cx: x(t), cy: yr(values[n]), r: 2.4, fill: values[n] < 0 ? "#2166ac" : "#b2182b",
      })));
    }

    function placeCursor(x) {
      const there = state.volume >= 0 && state.volume < courses[state.course].n;
      cursor.style.display = there ? "" : "none";
      if (!there) return;
      const px = x(courses[state.course].time[state.volume]);
      cursor.setAttribute("x1", px);
      cursor.setAttribute("x2", px);
    }

    function keyed(event) {
      const last = courses[state.course].n - 1;
      const from = state.volume < 0 ? -1 : state.volume;
      const wanted = { ArrowRight: from + 1, ArrowUp: from + 1, ArrowLeft: from - 1,
        ArrowDown: from - 1, Home: 0, End: last, PageUp: from + 10, PageDown: from - 10 }[event.key];
      if (wanted === undefined) return;
      event.preventDefault();
      pick(Math.max(0, Math.min(last, wanted)));
    }

    function pick(n) {
      if (n >= 0) onPick(state.course, n);
    }

    new ResizeObserver(() => draw()).observe(holder);
    return {
      state,
      show(course, volume, relevance, title) {
        Object.assign(state, { course, volume, relevance, title });
        draw();
      },
    };
  }

  // A line of names beside their colours.
  function legend(holder, classNames) {
    holder.replaceChildren(...classNames.slice(0, COLOURS.length).map((name, n) => {
      const item = document.createElement("li");
      const swatch = element("svg", { width: 34, height: 10, "aria-hidden": "true" });
      swatch.append(element("line", { x1: 0, x2: 34, y1: 5, y2: 5, stroke: COLOURS[n],
        "stroke-width": 4, "stroke-dasharray": DASHES[n] }));
      item.append(swatch, " " + name);
      return item;
    }));
  }

  root.chart = { create, legend };
})(globalThis);
