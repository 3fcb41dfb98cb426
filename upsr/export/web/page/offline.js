// Keeps the page in the browser: its files come from there from the second load on, with or without a network.

const PATIENCE = 3000; // milliseconds

/** Resolves when the page's files are kept and used. `progress` is called with the name of each file that was kept. */
export async function keepForOffline(progress) {
  const workers = navigator.serviceWorker;
  if (!workers) throw new Error("this browser keeps no pages");
  workers.addEventListener("message", ({ data }) => data.kept && progress(data.kept));
  const registration = await workers.register("service-worker.js");
  await settled(registration);
  if (workers.controller) return;
  // The service worker takes this page over at once, but for one that was loaded past it, with the shift key.
  const taken = new Promise((done) => workers.addEventListener("controllerchange", done, { once: true }));
  await Promise.race([taken, new Promise((done) => setTimeout(done, PATIENCE))]);
}

/** Resolves when the service worker is at work, or waits for the pages of an older one to be closed. */
function settled(registration) {
  const worker = registration.installing ?? registration.waiting ?? registration.active;
  return new Promise((kept, failed) => {
    const look = () => {
      if (worker.state === "activated" || (worker.state === "installed" && registration.active)) kept();
      if (worker.state === "redundant") failed(new Error("a file could not be loaded, or is not that of the manifest"));
    };
    worker.addEventListener("statechange", look);
    look();
  });
}
