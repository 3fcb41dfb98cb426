// Keeps the page in the browser: its files come from there from the second load on, with or without a network.

/** Resolves when the page's files are kept and used. `progress` is called with the name of each file that was kept. */
export async function keepForOffline(progress) {
  const workers = navigator.serviceWorker;
  if (!workers) throw new Error("this browser keeps no pages");
  workers.addEventListener("message", ({ data }) => data.kept && progress(data.kept));
  const registration = await workers.register("service-worker.js");
  await settled(registration.installing ?? registration.waiting ?? registration.active);
  if (!workers.controller) await new Promise((taken) => workers.addEventListener("controllerchange", taken, { once: true }));
}

/** Resolves when a service worker is at work, or waits for the pages of an older one to be closed. */
function settled(worker) {
  return new Promise((kept, failed) => {
    const look = () => {
      if (worker.state === "activated" || (worker.state === "installed" && navigator.serviceWorker.controller)) kept();
      if (worker.state === "redundant") failed(new Error("a file could not be loaded, or is not that of the manifest"));
    };
    worker.addEventListener("statechange", look);
    look();
  });
}
