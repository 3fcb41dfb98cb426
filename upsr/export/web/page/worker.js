// Restores photos beside the page, which stays usable; ending this worker is how the page cancels.

import { loadNetworks } from "./networks.js";
import { restore } from "./restore.js";

const loaded = new Map(); // by device

self.onmessage = async ({ data: { record, device, photo, settings } }) => {
  try {
    if (!loaded.has(device)) loaded.set(device, await loadNetworks(record, device));
    const progress = (done, total) => self.postMessage({ done, total });
    progress(0, 1);
    const bytes = await restore(photo, record.restoring, settings, loaded.get(device), progress);
    self.postMessage({ bytes }, [bytes.buffer]);
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error) });
  }
};
