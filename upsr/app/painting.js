// A painting over a photo, see upsr/app/masks.py. Gradio runs this with `element`, `props` and `watch` in scope.
const [frame, photo, canvas, brush, empty, tools] = [".upsr-canvas", "img", "canvas", ".upsr-brush", ".upsr-empty", ".upsr-tools"]
  .map((selector) => element.querySelector(selector));
const [size, erase, clear] = ["size", "erase", "clear"].map((name) => tools.querySelector(`[name=${name}]`));
const STEP = 8; // pixels of a key
const pen = canvas.getContext("2d", { willReadFrequently: true });
let last = null; // where the stroke is; null between strokes
let key = { x: 0, y: 0 }; // where the keys' brush is

// Not through Gradio's template: it would make the canvas anew, and with it what is painted.
function show() {
  frame.hidden = !props.photo;
  empty.hidden = !!props.photo;
  if (props.photo) photo.src = props.photo;
}

photo.addEventListener("load", () => {
  canvas.width = photo.naturalWidth;
  canvas.height = photo.naturalHeight;
  key = { x: canvas.width / 2, y: canvas.height / 2 };
  if (!props.value) return;
  const before = new Image(); // painted before the page took this element out and put it back
  before.onload = () => pen.drawImage(before, 0, 0);
  before.src = props.value;
});

function line(from, to) {
  pen.globalCompositeOperation = erase.checked ? "destination-out" : "source-over";
  pen.strokeStyle = "#ffffff";
  pen.lineCap = "round";
  pen.lineWidth = Number(size.value);
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x + 0.01, to.y); // a line without length has no round ends either
  pen.stroke();
}

const save = () => { props.value = canvas.toDataURL("image/png"); };

function placed(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = placed(event);
  line(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = placed(event);
  line(last, next);
  last = next;
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => {
    if (last) save();
    last = null;
  });
}

function showBrush() {
  const scale = canvas.clientWidth / canvas.width;
  brush.style.width = brush.style.height = `${Number(size.value) * scale}px`;
  brush.style.left = `${key.x * scale}px`;
  brush.style.top = `${key.y * scale}px`;
}

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  const way = WAYS[event.key];
  if (!way && event.key !== " ") return;
  event.preventDefault(); // the page would scroll
  const before = key;
  if (way) {
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    key = { x: within(key.x + way[0] * STEP, canvas.width), y: within(key.y + way[1] * STEP, canvas.height) };
  } else {
    last = key;
  }
  if (last) {
    line(before, key);
    save();
  }
  showBrush();
});
canvas.addEventListener("keyup", (event) => {
  if (event.key === " ") last = null;
});
canvas.addEventListener("focus", () => {
  brush.hidden = !canvas.matches(":focus-visible");
  showBrush();
});
canvas.addEventListener("blur", () => {
  brush.hidden = true;
  last = null;
});
size.addEventListener("input", showBrush);
clear.addEventListener("click", () => {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  props.value = "";
});

watch("photo", show);
show();
