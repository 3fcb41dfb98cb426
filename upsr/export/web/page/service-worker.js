// Keeps this folder's files in the browser, so that the page needs no network after the first load.

const VERSION = "__VERSION__"; // sha256 of manifest.json, written by the export: another export is another service worker
const CACHE = `upsr-${new URL(self.registration.scope).pathname}-`;

self.addEventListener("install", (event) => event.waitUntil(keepAll()));

self.addEventListener("activate", (event) => event.waitUntil(removeOthers().then(() => self.clients.claim())));

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

/** Every file of the manifest, checked; none is kept if one is another. */
async function keepAll() {
  const cache = await caches.open(CACHE + VERSION);
  const manifest = await fetch("manifest.json", { cache: "no-cache" });
  const { files } = await manifest.clone().json();
  for (const [name, { sha256 }] of Object.entries(files)) {
    const file = await fetch(name, { cache: "no-cache" });
    const bytes = await file.arrayBuffer();
    if (!file.ok || (await digestOf(bytes)) !== sha256) throw new Error(`${name} is not the file of the manifest`);
    // Made anew: a browser takes no answer for a page that was redirected, as some servers do with index.html.
    const kept = new Response(bytes, { headers: { "Content-Type": file.headers.get("Content-Type") ?? "" } });
    if (name === "index.html") await cache.put("./", kept.clone());
    await cache.put(name, kept);
    await tell(name);
  }
  await cache.put("manifest.json", manifest);
}

async function tell(name) {
  for (const page of await self.clients.matchAll({ includeUncontrolled: true })) page.postMessage({ kept: name });
}

async function digestOf(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function removeOthers() {
  const old = (await caches.keys()).filter((name) => name.startsWith(CACHE) && name !== CACHE + VERSION);
  await Promise.all(old.map((name) => caches.delete(name)));
}

async function answer(request) {
  const cache = await caches.open(CACHE + VERSION);
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}
