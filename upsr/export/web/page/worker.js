// Restores photos beside the page, which stays usable; ending this worker is how the page cancels.

import { loadNetworks } from "./networks.js";
import { restore } from "./restore.js";

const loaded = new Map(); // by device

self.onmessage = async ({ data: { record, device, photo, settings } }) => {
  const progress = (done, total) => self.postMessage({ done, total });
  const restoredOn = async (own) => {
    progress(0, 1);
    if (!loaded.has(own)) loaded.set(own, await loadNetworks(record, own));
    return restore(photo, record.restoring, settings, loaded.get(own), progress);
  };
  try {
    let bytes;
    try {
      bytes = await restoredOn(device);
    } catch (error) {
      if (device === "cpu") throw error;
      // Drivers differ, and ONNX Runtime's WebGPU kernels refuse empty tensors, as UPSR-tiny has for a tile of 32 x 32.
      self.postMessage({ note: `the graphics card could not: ${said(error)}` });
      bytes = await restoredOn("cpu");
    }
    self.postMessage({ bytes }, [bytes.buffer]);
  } catch (error) {
    self.postMessage({ error: said(error) });
  }
};

function said(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 200);
}
