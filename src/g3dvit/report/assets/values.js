// Values of the scene, unpacked when they are first needed: maps, backgrounds, the atlas.
(function (root) {
  "use strict";

  function gunzip(base64) {
    const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function unpack(base64) {
    const bytes = await gunzip(base64);
    return { bytes, offset: new DataView(bytes).getFloat32(108, true) }; // NIfTI: vox_offset
  }

  function create(scene) {
    const decoded = new Map(); // of layers, their parts, backgrounds and the atlas

    async function of(part) {
      if (!decoded.has(part)) {
        const { bytes, offset } = await unpack(part.nifti);
        decoded.set(part, { steps: new Int8Array(bytes, offset) });
      }
      return decoded.get(part);
    }

    async function background(number) {
      const picture = scene.backgrounds[number];
      if (!decoded.has(picture)) {
        const { bytes, offset } = await unpack(picture.nifti);
        const { shape, affine } = picture;
        decoded.set(picture, { values: new Uint8Array(bytes, offset), shape, affine });
      }
      return decoded.get(picture);
    }

    async function atlas() {
      if (!decoded.has(scene.atlas)) {
        const { bytes, offset } = await unpack(scene.atlas.nifti);
        decoded.set(scene.atlas, { labels: new Int32Array(bytes, offset) });
      }
      return decoded.get(scene.atlas);
    }

    return {
      of, background, atlas,
      has: (part) => decoded.has(part),
      // Of what was unpacked already: int8 steps, frame after frame.
      steps: (part) => decoded.get(part).steps,
    };
  }

  root.values = { create, gunzip };
})(globalThis);
