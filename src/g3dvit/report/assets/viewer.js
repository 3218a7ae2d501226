// The brain: everything that NiiVue does, and the outlines drawn over it. Knows no control.
(function (root) {
  "use strict";

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
    "Inferno (values of one sign)": {
      positive: [[0, [40, 11, 84]], [0.3, [130, 30, 110]], [0.6, [220, 70, 60]],
        [0.8, [250, 150, 30]], [1, [252, 255, 164]]],
      negative: null,
    },
    "Viridis (size, either sign)": {
      positive: [[0, [68, 1, 84]], [0.25, [59, 82, 139]], [0.5, [33, 145, 140]],
        [0.75, [94, 201, 98]], [1, [253, 231, 37]]],
      negative: null,
    },
  };

  // Depth 2 means no plane. Azimuth and elevation say from where the head is cut.
  const CLIPS = { none: null, left: [270, 0], right: [90, 0], front: [180, 0], back: [0, 0], top: [0, 90] };

  function niivueColours(stops) {
    const channel = (c) => [stops[0][1][c], ...stops.map((stop) => stop[1][c])];
    return { // the entry for exactly zero is transparent
      R: channel(0), G: channel(1), B: channel(2), A: [0, ...stops.map(() => 255)],
      I: [0, ...stops.map((stop) => Math.max(1, Math.round(stop[0] * 255)))],
    };
  }

  async function create(canvas, marks, scene, onMove) {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL 2");
    const nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.95, 0.85, 0.3, 1],
      crosshairWidth: 1,
      crosshairWidthUnit: "mm",
      isColorbar: false,
      show3Dcrosshair: true,
      isOrientCube: true,
      clipPlaneColor: [0, 0, 0, 0], // the cut itself, without a coloured pane
      isSliceMM: true,
      isRadiologicalConvention: false,
      multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
      dragAndDropEnabled: false,
      loadingText: "",
      showAllOrientationMarkers: true,
      fontColor: [1, 1, 1, 1],
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
      multiplanarPadPixels: 4,
    });
    await nv.attachToCanvas(canvas);
    for (const [name, pair] of Object.entries(COLOURS)) {
      nv.addColormap("g3d+" + name, niivueColours(pair.positive));
      nv.addColormap("g3d-" + name, niivueColours(pair.negative || pair.positive));
    }
    nv.addColormap("g3d none", { R: [0, 0], G: [0, 0], B: [0, 0], A: [0, 0], I: [0, 255] });
    nv.onLocationChange = (at) => onMove([at.mm[0], at.mm[1], at.mm[2]]);
    const backgrounds = new Map();
    const state = { view: "all", outline: "patch", voxel: null, clip: "none" };
    let overlay = null;
    let place = [0, 0, 0];

    // NiiVue draws at many occasions; the outlines follow every one of them. Nothing is drawn
    // before everything is there: without a graphics card one rendering takes most of a second.
    let live = false;
    const draw = nv.drawScene.bind(nv);
    nv.drawScene = () => {
      if (!live) return undefined;
      const drawn = draw();
      drawMarks();
      return drawn;
    };

    async function setBackground(number) {
      if (!backgrounds.has(number)) {
        backgrounds.set(number, await niivue.NVImage.loadFromBase64({
          base64: scene.backgrounds[number].nifti, name: "background.nii.gz", colormap: "gray",
          cal_min: 0, cal_max: 255,
        }));
      }
      while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
      nv.addVolume(backgrounds.get(number));
      if (overlay) nv.addVolume(overlay);
      goTo(place);
    }

    function setMap(image) {
      if (overlay === image) return;
      if (overlay) nv.removeVolume(overlay);
      overlay = image;
      nv.addVolume(overlay);
    }

    // `look`: steps `low` and `top`, colours, sign, opacity, fade.
    function paint(look) {
      overlay.colormap = look.sign === "negative" ? "g3d none" : "g3d+" + look.colours;
      overlay.colormapNegative =
        look.sign === "positive" || !look.signed ? "" : "g3d-" + look.colours;
      // NiiVue's shader takes ranges below 1e-5 for empty, so it works in steps, not in units
      overlay.cal_min = look.low;
      overlay.cal_max = look.top;
      overlay.cal_minNeg = -look.low;
      overlay.cal_maxNeg = -look.top;
      // colours start at zero, so that a colour means the same at every threshold; of NiiVue's
      // two such types 1 fades values below the threshold, 2 hides them
      overlay.colormapType = look.fade ? 1 : 2;
      overlay.opacity = look.opacity;
      nv.updateGLVolume();
    }

    function setView(view) {
      state.view = view;
      const mosaic = { axial: ["A", "z"], coronal: ["C", "y"], sagittal: ["S", "x"] }[view];
      nv.opts.multiplanarShowRender =
        view === "all" ? niivue.SHOW_RENDER.ALWAYS : niivue.SHOW_RENDER.NEVER;
      if (mosaic) {
        const cuts = scene.cuts[mosaic[1]];
        const columns = columnsFor(cuts.length, view);
        const lines = [];
        for (let n = 0; n < cuts.length; n += columns) {
          lines.push(mosaic[0] + " " + cuts.slice(n, n + columns).join(" "));
        }
        nv.setSliceMosaicString(lines.join(" ; "));
      } else {
        nv.setSliceMosaicString("");
        nv.setSliceType(view === "render" ? 4 : 3);
      }
      nv.drawScene();
    }

    // As many columns as make the slices largest.
    function columnsFor(count, view) {
      const [u, v] = { axial: [0, 1], coronal: [0, 2], sagittal: [1, 2] }[view];
      const { size_mm: mm } = scene.backgrounds[0];
      const shape = mm[u] / mm[v];
      let best = 1, size = 0;
      for (let columns = 1; columns <= count; columns++) {
        const rows = Math.ceil(count / columns);
        const width = Math.min(canvas.clientWidth / columns, (shape * canvas.clientHeight) / rows);
        if (width > size) [best, size] = [columns, width];
      }
      return best;
    }

    function setSide(radiological) {
      nv.setRadiologicalConvention(radiological);
      nv.drawScene();
    }

    // `share`: how much of the head is cut away.
    function setClip(from, share) {
      const depth = 0.55 - 1.1 * share; // NiiVue counts from the centre, outwards positive
      state.clip = from;
      const angles = CLIPS[from];
      nv.setClipPlane(angles ? [depth, ...angles] : [2, 0, 0]);
    }

    function goLive() {
      live = true;
      nv.drawScene();
    }

    function goTo(mm) {
      place = mm;
      nv.scene.crosshairPos = nv.mm2frac(mm);
      nv.drawScene();
    }

    // ---- outlines, in the pixels of the canvas

    function setOutline(kind) {
      state.outline = kind;
      nv.drawScene();
    }

    // The patch under the crosshair, or null.
    function setPatch(mm, voxel) {
      place = mm;
      state.voxel = voxel;
      drawMarks();
    }

    function drawMarks() {
      if (marks.width !== canvas.width || marks.height !== canvas.height) {
        marks.width = canvas.width;
        marks.height = canvas.height;
      }
      // few lines, drawn often: faster, and read back reliably, without the graphics card
      const pen = marks.getContext("2d", { willReadFrequently: true });
      pen.clearRect(0, 0, marks.width, marks.height);
      for (const tile of nv.screenSlices) {
        if (tile.axCorSag > 2 || tile.fovMM.length < 2) continue;
        if (state.outline !== "none" && scene.patches) drawTile(pen, tile);
        if (inMosaic()) drawCoordinate(pen, tile);
      }
    }

    const inMosaic = () => ["axial", "coronal", "sagittal"].includes(state.view);

    function drawCoordinate(pen, tile) {
      const [left, top, width, height] = tile.leftTopWidthHeight;
      const at = Math.round(tile.AxyzMxy[2]);
      pen.fillStyle = "#d5dbe1";
      pen.font = 12 * devicePixelRatio + "px system-ui, sans-serif";
      pen.fillText("zyx"[tile.axCorSag] + " = " + String(at).replace("-", "−"),
        Math.min(left, left + width) + 4 * devicePixelRatio, top + height - 4 * devicePixelRatio);
    }

    function drawTile(pen, tile) {
      const across = [2, 1, 0][tile.axCorSag];
      const [u, v] = [[0, 1], [0, 2], [1, 2]][tile.axCorSag];
      const at = inMosaic() && tile.AxyzMxy.length > 2 ? tile.AxyzMxy[2] : place[across];
      let [left, top, width, height] = tile.leftTopWidthHeight;
      const mirrored = width < 0;
      if (mirrored) { left += width; width = -width; }
      const px = (mm) => {
        const share = (mm - tile.leftTopMM[0]) / tile.fovMM[0];
        return left + (mirrored ? 1 - share : share) * width;
      };
      const py = (mm) => top + (1 - (mm - tile.leftTopMM[1]) / tile.fovMM[1]) * height;
      const { affine, shape } = scene.patches;
      pen.save();
      pen.beginPath();
      pen.rect(left, top, width, height);
      pen.clip();
      if (state.outline === "all") {
        const [us, vs] = [chartmath.edgesAlong(affine, shape, u), chartmath.edgesAlong(affine, shape, v)];
        if (us && vs) {
          pen.strokeStyle = "rgba(242, 217, 77, 0.35)";
          pen.lineWidth = devicePixelRatio;
          pen.beginPath();
          for (const mm of us) { pen.moveTo(px(mm), py(vs[0])); pen.lineTo(px(mm), py(vs[vs.length - 1])); }
          for (const mm of vs) { pen.moveTo(px(us[0]), py(mm)); pen.lineTo(px(us[us.length - 1]), py(mm)); }
          pen.stroke();
        }
      }
      const corners = state.voxel ? chartmath.cutOfBox(affine, state.voxel, across, at) : [];
      if (corners.length) {
        pen.strokeStyle = "#f2d94d";
        pen.lineWidth = 1.5 * devicePixelRatio;
        pen.setLineDash([5 * devicePixelRatio, 3 * devicePixelRatio]);
        pen.beginPath();
        corners.forEach((p, n) => (n ? pen.lineTo(px(p[u]), py(p[v])) : pen.moveTo(px(p[u]), py(p[v]))));
        pen.closePath();
        pen.stroke();
      }
      pen.restore();
    }

    // A picture of the canvas with its outlines; WebGL must be read right after drawing.
    function snapshot() {
      const picture = document.createElement("canvas");
      picture.width = canvas.width;
      picture.height = canvas.height;
      const pen = picture.getContext("2d");
      nv.drawScene();
      pen.drawImage(canvas, 0, 0);
      pen.drawImage(marks, 0, 0);
      return picture;
    }

    return {
      nv, state, setBackground, setMap, paint, setView, setSide, setClip, goTo, goLive, setOutline,
      setPatch, snapshot,
    };
  }

  // An image for NiiVue on a grid, to be filled with steps.
  function emptyImage(shape, affine) {
    return niivue.NVImage.loadFromFile({
      file: new File([viewmath.nifti(shape, affine)], "map.nii"), name: "map.nii", colormap: "gray",
      cal_min: 1, cal_max: 127,
    });
  }

  root.viewer = { create, emptyImage, COLOURS };
})(globalThis);
