// What can be saved: the picture on the canvas with its words, and maps as NIfTI.
(function (root) {
  "use strict";

  const $ = (id) => document.getElementById(id);

  // `state`: of the page, read when something is saved; `values`: of `values.create`.
  function create(scene, state, values) {
    // `frame`: of one volume of several; null for all of them.
    function fileName(layer, frame) {
      const plain = (text) => text.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60);
      const volume = layer.kind === "volumes" && frame !== null ? "_volume-" + frame : "";
      return plain(scene.file) + "_" + plain(scene.methods[layer.method].title) + "_" +
        plain(layer.title) + volume;
    }

    const failedNow = () => !$("stamp").hidden;

    // The canvas with scale, words and stamp: a picture must say what it is when it stands alone.
    function picture(shot, onSurface) {
      const layer = scene.layers[state.layer];
      const unit = Math.max(1, shot.width / 1000);
      const sheet = document.createElement("canvas");
      sheet.width = shot.width;
      sheet.height = shot.height + 118 * unit;
      const pen = sheet.getContext("2d");
      pen.fillStyle = "#000";
      pen.fillRect(0, 0, sheet.width, sheet.height);
      pen.drawImage(shot, 0, 0);
      pen.font = 14 * unit + "px system-ui, sans-serif";
      pen.textBaseline = "middle";
      const y = shot.height + 16 * unit;
      drawBar(pen, layer, 16 * unit, y - 6 * unit, 260 * unit, 12 * unit);
      pen.fillStyle = "#fff";
      pen.fillText($("bar-low").textContent + "  to  " + $("bar-high").textContent + "  " +
        $("bar-units").textContent, 290 * unit, y);
      const lines = [
        scene.methods[layer.method].title + " · " + layer.title +
          (layer.kind === "volumes" ? " · volume " + (state.frame + 1) : ""),
        $("readout").textContent.replace(/\s+/g, " ") + " · threshold " + $("threshold-text").textContent,
        onSurface ? $("surface-label").textContent + " · evidence of this model, not BOLD"
          : (state.radiological ? "Radiological: left is on the right" : "Neurological: left is left") +
            " · evidence of this model, not BOLD · " + $("background").selectedOptions[0].textContent,
      ];
      lines.forEach((line, n) => pen.fillText(line, 16 * unit, y + (28 + 24 * n) * unit,
        sheet.width - 32 * unit));
      if (failedNow()) stampPicture(pen, shot.width, shot.height, unit);
      sheet.toBlob((blob) => tables.save(fileName(layer, state.frame) + ".png", blob));
    }

    function drawBar(pen, layer, x, y, width, height) {
      const pair = viewer.COLOURS[state.colours];
      const both = layer.signed && state.sign !== "positive";
      const zero = both ? (state.sign === "negative" ? 1 : 0.5) : 0;
      for (let n = 0; n < width; n++) {
        const at = n / width;
        const share = at < zero ? 1 - at / zero : (at - zero) / (1 - zero || 1);
        const stops = at < zero ? pair.negative || pair.positive : pair.positive;
        pen.fillStyle = "rgb(" + viewmath.colourAt(stops, share).join() + ")";
        pen.fillRect(x + n, y, 1.5, height);
      }
    }

    function stampPicture(pen, width, height, unit) {
      pen.save();
      pen.translate(width / 2, height / 2);
      pen.rotate(-0.15);
      pen.font = "bold " + 56 * unit + "px system-ui, sans-serif";
      pen.textAlign = "center";
      const half = pen.measureText("CHECK FAILED").width / 2 + 24 * unit;
      pen.fillStyle = "rgba(0, 0, 0, 0.55)";
      pen.fillRect(-half, -40 * unit, 2 * half, 80 * unit);
      pen.strokeStyle = pen.fillStyle = "#ff6a5e";
      pen.lineWidth = 5 * unit;
      pen.strokeRect(-half, -40 * unit, 2 * half, 80 * unit);
      pen.fillText("CHECK FAILED", 0, 0);
      pen.restore();
      pen.fillStyle = "#8f1a13";
      pen.fillRect(0, height - 30 * unit, width, 30 * unit);
      pen.fillStyle = "#fff";
      pen.fillText($("stamp-reason").textContent, 16 * unit, height - 15 * unit, width - 32 * unit);
    }

    // A map in its units, as float32 NIfTI on its own grid.
    async function map(layer, frame) {
      const { steps: all } = await values.of(layer);
      const whole = frame === null || layer.frames === 1;
      const failed = scene.run_stamp || (whole ? layer.frame_stamps.some((s) => s >= 0)
        : layer.frame_stamps[frame] >= 0);
      const words = (failed ? "CHECK FAILED; " : "") + "G3D-ViT " +
        scene.methods[layer.method].title + (layer.what ? " " + layer.what : "") + ", 1/127 steps";
      const bytes = viewmath.niftiOfValues(layer.shape, layer.affine,
        whole ? all : viewmath.frameOf(all, layer.shape, frame), layer.slope, words, layer.t_r);
      tables.save(fileName(layer, frame) + ".nii",
        new Blob([bytes], { type: "application/octet-stream" }));
    }

    return { picture, map };
  }

  root.saving = { create };
})(globalThis);
