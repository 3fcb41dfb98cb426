const FORMAT = "upsr votes 1";
const CHOICES = ["left", "equal", "right"];
const STORE = `upsr-vote/${data.page}/`;
const SIDES = ["left", "right"];
const PAN = 0.15;

let voter = "";
let state = { votes: [], revealed: false }; // votes: {pair, choice} in the order they were given
let shown = null; // the pair on the screen
let ready = false; // its pictures are decoded
let zoomed = false;
let centre = { x: 0.5, y: 0.5 }; // of the pictures, as a share of their size

const say = (text) => { byId("said").textContent = text; };

// Votes in this browser. All pages opened from disk share one store, so keys begin with the page's identity.

function stored(name) {
  try {
    return JSON.parse(localStorage.getItem(STORE + name)) ?? { votes: [], revealed: false };
  } catch {
    return { votes: [], revealed: false };
  }
}

function save() {
  try {
    localStorage.setItem(STORE + voter, JSON.stringify(state));
  } catch {
    say("This browser does not store the votes: export them before you close the page.");
  }
}

function listVoters() {
  let names = [];
  try {
    names = Object.keys(localStorage).filter((key) => key.startsWith(STORE)).map((key) => key.slice(STORE.length));
  } catch { /* nothing is stored */ }
  byId("voters").replaceChildren();
  for (const name of names.sort()) make("option", byId("voters")).value = name;
}

window.addEventListener("storage", (event) => { // another tab of the same voter
  if (!voter || event.key !== STORE + voter) return;
  state = stored(voter);
  go();
});

// Screens

function open(id, focus) {
  for (const section of ["start", "voting", "end"]) byId(section).hidden = section !== id;
  byId(focus).focus();
}

function begin(name) {
  voter = name;
  state = stored(voter);
  say("");
  go();
}

function next() {
  const voted = new Set(state.votes.map((vote) => vote.pair));
  return data.pairs.findIndex((_, pair) => !voted.has(pair));
}

function go() {
  if (state.revealed || next() < 0) showEnd();
  else showPair(next());
}

async function showPair(number) {
  const pair = data.pairs[number];
  if (byId("voting").hidden) open("voting", "place");
  byId("place").textContent = `${number + 1} of ${data.pairs.length}`;
  byId("progress").value = state.votes.length;
  byId("undo").disabled = !state.votes.length;
  shown = { number, ...pair };
  ready = false;
  showReference(null);
  for (const name of ["input", "truth"]) byId(name).hidden = !pair[name];
  for (const side of SIDES) {
    byId(side).style.setProperty("--ratio", `${pair.size[0]} / ${pair.size[1]}`);
    byId(side).classList.add("loading");
    byId(`${side}-image`).src = pair[side];
  }
  const current = shown;
  try {
    await Promise.all(SIDES.map((side) => byId(`${side}-image`).decode()));
  } catch {
    if (shown === current) say("The pictures of this pair cannot be read: the folder pictures/ must be beside this page.");
    return;
  }
  if (shown !== current) return;
  ready = true;
  zoom(false);
  for (const side of SIDES) byId(side).classList.remove("loading");
  const following = data.pairs[number + 1] ?? {};
  for (const name of [...SIDES, "input", "truth"]) { // so that neither waits
    for (const source of [pair[name], following[name]]) if (source) new Image().src = source;
  }
}

function vote(choice) {
  if (!ready) return;
  state.votes.push({ pair: shown.number, choice });
  save();
  go();
}

function undo() {
  if (!state.votes.length || state.revealed) return;
  const { pair } = state.votes.pop();
  save();
  showPair(pair);
}

function showEnd() {
  shown = null;
  ready = false;
  const [votes, pairs] = [state.votes.length, data.pairs.length];
  byId("count").textContent = `${voter}: ${votes} of ${pairs} pairs`;
  byId("back").hidden = state.revealed || votes === pairs;
  byId("undo-last").hidden = state.revealed || !votes;
  byId("export").hidden = byId("show").disabled = !votes;
  byId("hidden-scores").hidden = state.revealed;
  byId("scores").hidden = true;
  open("end", "count");
  if (state.revealed) loadKey();
}

// Zoom: both pictures are placed by the same numbers.

function place() {
  if (!shown) return;
  const [width, height] = shown.size;
  const pane = byId("left");
  const fit = Math.min(pane.clientWidth / width, pane.clientHeight / height, 1);
  const larger = fit < 1 ? 1 : 2;
  const scale = zoomed ? larger : fit;
  const offset = (axis, room, length) => {
    if (length <= room) return (room - length) / 2;
    centre[axis] = Math.min(Math.max(centre[axis], room / 2 / length), 1 - room / 2 / length);
    return room / 2 - centre[axis] * length;
  };
  const [x, y] = [offset("x", pane.clientWidth, width * scale), offset("y", pane.clientHeight, height * scale)];
  for (const image of document.querySelectorAll(".pane img")) {
    Object.assign(image.style, { width: `${width}px`, height: `${height}px`, transform: `translate(${x}px, ${y}px) scale(${scale})` });
  }
  byId("zoom").firstElementChild.textContent = `${larger}:1`;
  return { x, y, scale };
}

function zoom(on, at = { x: 0.5, y: 0.5 }) {
  zoomed = on;
  centre = { ...at };
  for (const side of SIDES) byId(side).classList.toggle("zoomed", on);
  byId("zoom").setAttribute("aria-pressed", String(on));
  place();
}

function pan(x, y) {
  if (!zoomed) return;
  centre = { x: centre.x + x, y: centre.y + y };
  place();
}

function showReference(name) {
  const source = name && shown[name];
  for (const side of SIDES) {
    const image = byId(side).querySelector(".reference");
    image.hidden = !source;
    if (source) image.src = source;
    byId(side).nextElementSibling.textContent = source ? { input: "input", truth: "ground truth" }[name] : side;
  }
  for (const id of ["input", "truth"]) byId(id).setAttribute("aria-pressed", String(Boolean(source) && id === name));
}

function toggleReference(name) {
  if (ready) showReference(byId(name).getAttribute("aria-pressed") === "true" ? null : name);
}

let drag = null; // where the pointer was, and whether it has moved since it went down
for (const side of SIDES) {
  const pane = byId(side);
  pane.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, moved: false };
    if (zoomed) pane.setPointerCapture(event.pointerId);
  });
  pane.addEventListener("pointermove", (event) => {
    if (!drag || !event.buttons || !zoomed) return;
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moved && Math.hypot(x, y) < 4) return;
    const { scale } = place();
    pan(-x / (shown.size[0] * scale), -y / (shown.size[1] * scale));
    drag = { x: event.clientX, y: event.clientY, moved: true };
  });
  pane.addEventListener("click", (event) => {
    if (!ready) return;
    if (!event.detail) { zoom(!zoomed); return; } // by the keyboard
    if (drag?.moved) return;
    const { x, y, scale } = place();
    const box = pane.getBoundingClientRect();
    zoom(!zoomed, {
      x: (event.clientX - box.left - x) / (shown.size[0] * scale),
      y: (event.clientY - box.top - y) / (shown.size[1] * scale),
    });
  });
}
window.addEventListener("resize", place);

// Keys and buttons

const KEYS = {
  arrowleft: () => vote("left"), arrowright: () => vote("right"), arrowdown: () => vote("equal"), " ": () => vote("equal"),
  z: undo, backspace: undo, x: () => ready && zoom(true, centre), i: () => toggleReference("input"), g: () => toggleReference("truth"),
};
const PANS = { w: [0, -PAN], a: [-PAN, 0], s: [0, PAN], d: [PAN, 0] };

document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if (byId("voting").hidden || event.ctrlKey || event.altKey || event.metaKey) return;
  if (key === " " && event.target.closest("button")) return; // presses the button that has the focus
  if (PANS[key]) pan(...PANS[key]);
  else if (KEYS[key]) {
    event.preventDefault();
    if (!event.repeat) KEYS[key]();
  }
});
document.addEventListener("keyup", (event) => {
  if (!byId("voting").hidden && event.key.toLowerCase() === "x" && ready) zoom(false);
});
document.addEventListener("mousedown", (event) => { // a click leaves the focus where it is, so that Space stays a vote
  if (event.target.closest("#voting button")) event.preventDefault();
});
document.querySelectorAll("[data-choice]").forEach((button) => {
  button.addEventListener("click", () => vote(button.dataset.choice));
});
const BUTTONS = {
  undo, "undo-last": undo, stop: showEnd, back: go, show: loadKey, export: exportVotes, zoom: () => ready && zoom(!zoomed),
  input: () => toggleReference("input"), truth: () => toggleReference("truth"),
  other: () => { voter = ""; byId("voter").value = ""; listVoters(); open("start", "voter"); },
};
for (const [id, action] of Object.entries(BUTTONS)) byId(id).addEventListener("click", action);
byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("voter").value.trim();
  if (name) begin(name);
});

// Files

function exportVotes() {
  const content = { format: FORMAT, page: data.page, voter, votes: state.votes };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1) + "\n"], { type: "application/json" }));
  link.download = `votes-${voter.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function importVotes(text) {
  let content = null;
  try {
    content = JSON.parse(text);
  } catch { /* said below */ }
  const fits = (vote) => Number.isInteger(vote?.pair) && vote.pair in data.pairs && CHOICES.includes(vote.choice);
  if (content?.format !== FORMAT || typeof content.voter !== "string" || !content.voter.trim()) {
    return "not a file of votes that such a page exports";
  }
  if (content.page !== data.page) return "votes of another page";
  if (!Array.isArray(content.votes) || !content.votes.every(fits)) return "a damaged file of votes";
  voter = content.voter.trim();
  state = stored(voter);
  if (state.revealed) return `${voter} has seen the scores here and can give no more votes`;
  const before = state.votes.length;
  for (const { pair, choice } of content.votes) {
    if (!state.votes.some((vote) => vote.pair === pair)) state.votes.push({ pair, choice });
  }
  save();
  byId("voter").value = voter;
  listVoters();
  return `${state.votes.length - before} votes of ${voter} are added`;
}

byId("import").addEventListener("change", async () => {
  const [file] = byId("import").files;
  if (file) say(`${file.name}: ${importVotes(await file.text())}.`);
  byId("import").value = "";
});

// Scores, as upsr/evaluation/preferences.py has them

function loadKey() {
  const script = make("script", document.head);
  script.addEventListener("error", () => say("key.js, which says whose results they are, is not beside this page. Export the votes."));
  script.src = "key.js";
}

window.reveal = (key) => {
  if (key.pairs.length !== data.pairs.length) { say("key.js belongs to another page."); return; }
  state.revealed = true;
  save();
  const given = state.votes.map(({ pair, choice }) => {
    const points = { left: 1, equal: 0.5, right: 0 }[choice];
    return { [key.pairs[pair].left]: points, [key.pairs[pair].right]: 1 - points };
  });
  const results = scoresOf(key.methods.filter((method) => given.some((vote) => method in vote)), given);
  byId("scores").hidden = false;
  for (const id of ["back", "undo-last", "hidden-scores"]) byId(id).hidden = true;
  fillTable("ranking", ["method", "score", "points", "better", "equal", "worse", ""], results.map((own) => [
    own.method, own.score.toFixed(2), `${(100 * own.share).toFixed(0)} %`, ...tally(own.points),
    own.share === 1 ? "lost no vote" : own.share === 0 ? "won no vote" : "",
  ]));
  const methods = results.map((own) => own.method);
  fillTable("duels", ["", ...methods], methods.map((method) => [method, ...methods.map((other) => {
    const duel = given.filter((vote) => method in vote && other in vote);
    return method === other || !duel.length ? "" : tally(duel.map((vote) => vote[method])).join(" / ");
  })]));
};

// Points are 1 for the better one and half for equal ones; each method has one more equal vote, against a score of 0.
function scoresOf(methods, given) {
  const strength = Object.fromEntries(methods.map((method) => [method, 1]));
  const own = (method) => given.filter((vote) => method in vote);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  for (let step = 0, change = 1; step < 10000 && change > 1e-10; step++) { // minorisation, maximisation
    change = 0;
    for (const method of methods) {
      const won = 0.5 + sum(own(method).map((vote) => vote[method]));
      const met = sum(own(method).map((vote) => 1 / sum(Object.keys(vote).map((name) => strength[name]))));
      const updated = won / (met + 1 / (strength[method] + 1));
      change = Math.max(change, Math.abs(Math.log(updated / strength[method])));
      strength[method] = updated;
    }
  }
  const mean = sum(methods.map((method) => Math.log(strength[method]))) / methods.length;
  return methods.map((method) => {
    const points = own(method).map((vote) => vote[method]);
    return { method, points, score: Math.log(strength[method]) - mean, share: sum(points) / points.length };
  }).sort((a, b) => b.score - a.score);
}

function tally(points) {
  return [1, 0.5, 0].map((value) => points.filter((own) => own === value).length);
}

function fillTable(id, heads, rows) {
  const [head, body] = [byId(id).tHead, byId(id).tBodies[0]];
  head.replaceChildren();
  body.replaceChildren();
  const top = make("tr", head);
  heads.forEach((text, i) => { make("th", top, text, i ? "number" : "").scope = "col"; });
  for (const row of rows) {
    const line = make("tr", body);
    row.forEach((text, i) => make(i ? "td" : "th", line, text, i ? "number" : ""));
  }
}

listVoters();
byId("voter").focus();
