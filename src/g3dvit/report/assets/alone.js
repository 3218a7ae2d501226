// One run or one subject alone: what of the page belongs to it. Tables, counts and notes follow.
(function (root) {
  "use strict";

  // `scene.parts`: {name, kind, runs, rows}; `onChange(part)` is called with -1 for all.
  function create(scene, onChange) {
    const choice = document.getElementById("focus");
    const note = document.getElementById("focus-note");
    const ofRegions = document.getElementById("regions-note");
    let part = -1;
    let rows = null; // of the predictions: a Set, or null for all

    if (choice) {
      const kinds = new Set(scene.parts.map((p) => p.kind));
      for (const kind of ["subject", "run"]) {
        if (!kinds.has(kind)) continue;
        const group = document.createElement("optgroup");
        group.label = kind === "subject" ? "one subject" : "one run";
        scene.parts.forEach((p, n) => { if (p.kind === kind) group.append(new Option(p.name, n)); });
        choice.append(group);
      }
      choice.onchange = () => set(Number(choice.value));
    }

    function set(number) {
      part = number;
      const own = scene.parts[part];
      rows = own ? new Set(own.rows) : null;
      document.querySelectorAll("#predictions tbody tr").forEach((row) => {
        row.hidden = !!rows && !rows.has(Number(row.querySelector("button").dataset.row));
      });
      count();
      note.hidden = !own;
      note.textContent = own ? "Shown alone: " + own.name + ", " + own.rows.length + " of " +
        scene.rows.length + " volumes, in the viewer, the time course, and the tables of labels and " +
        "of volumes. Class means side by side, checks, figures and other tables are of all runs." : "";
      tellRegions(own);
      onChange(part);
    }

    // Tables of regions do not follow: they say whose they are, and where those of a part are.
    function tellRegions(own) {
      ofRegions.hidden = !own || !document.querySelector("#regions table");
      if (ofRegions.hidden) return;
      const page = own.page && Object.assign(document.createElement("a"), { href: own.page });
      if (page) page.textContent = "the page of " + own.name;
      ofRegions.replaceChildren(
        "The tables below are of all runs together, not of " + own.name + " alone, which the viewer shows. ",
        ...(page ? ["Its own are on ", page, "."]
          : ["Its own are on a page of its own: g3dvit report FOLDER --each " + own.kind + "."]));
    }

    // Labels against predictions, of the chosen volumes.
    function count() {
      const table = document.querySelector("table.confusion");
      if (!table) return;
      const courses = scene.time_courses.filter((_, n) => holdsRun(n));
      const counts = chartmath.confusion(courses, scene.class_names.length);
      counts.forEach((line, r) => line.forEach((n, c) => {
        table.tBodies[0].rows[r].cells[c + 1].textContent = String(n);
      }));
    }

    const holdsRun = (run) => part < 0 || scene.parts[part].runs.includes(run);

    // Whether a layer belongs to what is chosen.
    function holds(layer) {
      if (part < 0) return true;
      if (layer.kind === "part mean") return layer.part === part;
      return layer.kind === "volumes" && holdsRun(layer.run);
    }

    return { set, holds, holdsRun, part: () => part };
  }

  root.alone = { create };
})(globalThis);
