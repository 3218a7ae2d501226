// What the shown map is made of, such as content and position: one patch plane of each.
(function (root) {
  "use strict";

  const $ = (id) => document.getElementById(id);

  // `values`: of `values.create`.
  function create(values) {
    let parts = []; // of the shown layer: {part, figure, canvas, caption, title}

    function show(layer) {
      $("halves").hidden = !layer.parts;
      $("halves-title").textContent = layer.parts ? layer.parts.title : "";
      $("halves-sentence").textContent = layer.parts ? layer.parts.sentence : "";
      parts = (layer.parts ? layer.parts.items : []).map((item) => {
        const part = item.nifti ? item : layer;
        const figure = document.createElement("figure");
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 380;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", item.title + ", patch plane through the crosshair");
        const caption = document.createElement("figcaption");
        figure.append(canvas, caption);
        const title = item.sentence ? item.title + " (" + item.sentence + ")" : item.title;
        return { part, figure, canvas, caption, title };
      });
      const row = [];
      parts.forEach((part, n) => {
        if (n > 0) {
          const sign = document.createElement("span");
          sign.className = "sign";
          sign.textContent = layer.parts.signs[n - 1];
          row.push(sign);
        }
        row.push(part.figure);
      });
      $("halves-list").replaceChildren(...row);
    }

    function draw(number, place, radiological) {
      for (const { part, canvas, caption, title } of parts) {
        const frame = Math.min(number, part.frames - 1);
        const now = viewmath.frameOf(values.steps(part), part.shape, frame);
        const voxel = viewmath.voxelAt(part.affine, part.shape, place);
        drawPlane(canvas, now, part.shape, voxel, radiological);
        const value = voxel ? now[viewmath.indexOf(part.shape, voxel)] * part.slope : 0;
        caption.textContent = title + ": " + (voxel ? viewmath.signed(value) : "outside");
      }
    }

    function drawPlane(canvas, values, shape, voxel, radiological) {
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, canvas.width, canvas.height);
      if (!voxel) return;
      let top = 1;
      for (const v of values) top = Math.max(top, Math.abs(v));
      const edge = Math.floor(Math.min(canvas.width / shape[0], canvas.height / shape[1]));
      const x0 = (canvas.width - edge * shape[0]) / 2;
      const y0 = (canvas.height - edge * shape[1]) / 2;
      const column = (i) => (radiological ? shape[0] - 1 - i : i);
      for (let j = 0; j < shape[1]; j++) {
        for (let i = 0; i < shape[0]; i++) {
          const v = values[viewmath.indexOf(shape, [i, j, voxel[2]])] / top;
          const pair = viewer.COLOURS["Red and blue"];
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
      pen.fillText(radiological ? "R" : "L", 6, 6);
      pen.fillText(radiological ? "L" : "R", canvas.width - 22, 6);
    }

    return { show, draw };
  }

  root.halves = { create };
})(globalThis);
