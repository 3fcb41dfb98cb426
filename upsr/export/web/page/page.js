// The page: choosing a photo and settings, running the worker, showing the result.

import { keepForOffline } from "./offline.js";
import { pngOf, readPhoto, show, showEnlarged } from "./photo.js";

const $ = (id) => document.getElementById(id);
let record = null; // export.json
let photo = null;
let latest = null; // the file that was chosen last
let worker = null;
let busy = false;
let ready = false; // the files are here, or at least the page knows that they cannot be kept

main().catch(say);

async function main() {
  if (!crypto.subtle) throw new Error("open this page over https, or at http://localhost: elsewhere browsers withhold what it needs");
  record = await jsonOf("export.json");
  $("weights").textContent = `Weights: ${record.source}.`;
  for (const count of Object.keys(record.web.steps)) $("steps").add(new Option(count === "0" ? "0 (first estimate)" : count, count));
  $("steps").value = record.web.default_steps;
  if (await hasGraphicsCard()) $("device").add(new Option("graphics card", "gpu", true, true), 0);
  listen();
  await keep();
  ready = true;
  refresh();
}

async function jsonOf(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is not beside this page (${answer.status})`);
  return answer.json();
}

/** WebGPU, and not computed by the processor, which WebAssembly uses better. */
async function hasGraphicsCard() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
}

async function keep() {
  try {
    const { files } = await jsonOf("manifest.json");
    const total = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
    let here = 0;
    await keepForOffline((name) => {
      here += files[name].bytes;
      if (!busy) advance(here, total, `Loading the page's files, ${(total / 1e6).toFixed(1)} MB in all, once`);
    });
    $("kept").textContent = "It works without a network from now on.";
  } catch (error) {
    $("kept").textContent = `It needs the network each time: ${error.message}.`;
  }
  $("progress").hidden = true;
  tell("");
}

function listen() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  $("cancel").addEventListener("click", cancel);
  $("file").addEventListener("change", () => choose($("file").files[0]));
  $("split").addEventListener("input", () => $("before").style.setProperty("--split", `${$("split").value}%`));
  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") choose(event.dataTransfer.files[0]);
    });
}

async function choose(file) {
  if (!file || busy) return;
  photo = null; // until it is read: the button is disabled meanwhile
  latest = file;
  $("chosen").textContent = file.name;
  clear();
  refresh();
  try {
    const read = await readPhoto(file, record.web.max_pixels);
    if (latest !== file) return; // another was chosen meanwhile, and is read sooner
    photo = { ...read, name: file.name };
    $("chosen").textContent = `${file.name}, ${photo.width} x ${photo.height} pixels`;
    tell("");
  } catch (error) {
    if (latest === file) say(error);
  }
  refresh();
}

async function run() {
  const started = performance.now();
  clear();
  setBusy(true);
  const scale = record.restoring.scale;
  const [width, height] = [photo.width * scale, photo.height * scale];
  const seed = BigInt(Number($("seed").value)); // a field for numbers takes 1e3 as well
  const steps = $("steps").value;
  try {
    const { bytes, note } = await restored({ timesteps: record.web.steps[steps], seed, tile: record.web.tile });
    show($("after"), bytes, width, height);
    showEnlarged($("before"), photo.image, width, height);
    const stem = photo.name.replace(/\.[^.]*$/, "");
    Object.assign($("download"), { href: await pngOf($("after")), download: `${stem}_x${scale}_seed${seed}.png`, hidden: false });
    $("result").hidden = false;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    tell(`Done in ${seconds} s: ${width} x ${height} pixels.${note ? ` Computed on the processor; ${note}.` : ""}`);
  } catch (error) {
    stop(); // what failed may hold the memory that was short
    say(error);
  } finally {
    setBusy(false);
  }
}

/** {bytes, note} from the worker: the result, and why another device computed it. */
function restored(settings) {
  worker ??= startedWorker();
  let note = "";
  return new Promise((made, failed) => {
    worker.onmessage = ({ data }) => {
      if (data.total) advance(data.done, data.total, data.done ? `${data.done} of ${data.total} parts` : "Loading the networks");
      note = data.note ?? note;
      if (data.bytes) made({ bytes: data.bytes, note });
      if (data.error) failed(new Error(data.error));
    };
    worker.onerror = (event) => failed(new Error(event.message || "the worker could not be started"));
    const { width, height, pixels } = photo;
    worker.postMessage({ record, device: $("device").value, photo: { width, height, pixels }, settings });
  });
}

/** A worker that begins as a blob: only then is it under this page's Content-Security-Policy. */
function startedWorker() {
  const code = `import ${JSON.stringify(new URL("worker.js", document.baseURI).href)};`;
  return new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), { type: "module" });
}

function stop() {
  worker?.terminate();
  worker = null;
}

function cancel() {
  stop();
  setBusy(false);
  tell("Cancelled.");
}

function clear() {
  if ($("download").href) URL.revokeObjectURL($("download").href);
  $("download").removeAttribute("href");
  $("download").hidden = $("result").hidden = true;
}

function setBusy(now) {
  busy = now;
  $("cancel").hidden = $("progress").hidden = !now;
  refresh();
}

function refresh() {
  $("run").disabled = busy || !ready || !photo;
  $("file").disabled = busy;
}

function advance(done, total, text) {
  $("progress").hidden = false;
  $("progress").max = total;
  $("progress").value = done;
  tell(text);
}

function tell(text, kind = "") {
  $("status").textContent = text;
  $("status").className = kind;
}

function say(error) {
  tell(`Not done: ${error.message}.`, "error");
}
