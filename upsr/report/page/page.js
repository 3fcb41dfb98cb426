function fillSelect(select, titles, chosen) {
  select.replaceChildren();
  titles.forEach((title, i) => { make("option", select, title).value = title; if (i === chosen) select.value = title; });
}

function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = (row) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null); // what was not measured stays last
    const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...rows);
}

document.addEventListener("click", (event) => {
  const head = event.target.closest("table.sortable th");
  if (head) sortBy(head.closest("table"), head.cellIndex);
});

const currentDataset = () => data.datasets.find((d) => d.name === byId("dataset").value);

function showImages() {
  const dataset = currentDataset();
  const measure = byId("measure").value;
  const methods = [...new Set(dataset.images.flatMap((image) => Object.keys(image.values)))];
  const head = byId("images").tHead;
  head.replaceChildren();
  const heads = make("tr", head);
  make("th", heads, "image");
  methods.forEach((method) => make("th", heads, method, "number"));
  const body = byId("images").tBodies[0];
  body.replaceChildren();
  for (const image of dataset.images) {
    const row = make("tr", body);
    make("td", row, image.key);
    for (const method of methods) {
      const value = image.values[method]?.[measure];
      const shown = value === undefined ? "-" : value.toFixed(data.measures[measure].digits);
      make("td", row, shown, "number").dataset.value = value ?? "";
    }
    row.addEventListener("click", () => choose(image, row));
  }
  const first = dataset.images.findIndex((image) => image.pictures);
  if (first >= 0) choose(dataset.images[first], body.rows[first]);
}

function choose(image, row) {
  byId("images").querySelectorAll(".chosen").forEach((other) => other.classList.remove("chosen"));
  row.classList.add("chosen");
  byId("viewer").hidden = !image.pictures;
  byId("no-pictures").hidden = Boolean(image.pictures);
  if (!image.pictures) return;
  byId("photo-name").textContent = image.key;
  const titles = Object.keys(image.pictures);
  const kept = ["left", "right"].map((side) => byId(side).value);
  // At first the two best methods; one alone beside the LR image, or whatever else there is.
  const best = currentDataset().best.filter((method) => titles.includes(method));
  const [right, left] = [...new Set([...best, ...titles])];
  const pair = [titles.includes(kept[0]) ? kept[0] : left ?? right, titles.includes(kept[1]) ? kept[1] : right];
  fillSelect(byId("left"), titles, titles.indexOf(pair[0]));
  fillSelect(byId("right"), titles, titles.indexOf(pair[1]));
  byId("viewer").image = image;
  showPair();
  byId("crops").replaceChildren();
  for (const crop of image.crops) {
    const place = make("div", byId("crops"), undefined, "crops");
    for (const [title, source] of Object.entries(crop)) {
      const figure = make("figure", place);
      Object.assign(make("img", figure), { src: source, alt: title, loading: "lazy" });
      make("figcaption", figure, title);
    }
  }
}

function showPair() {
  const image = byId("viewer").image;
  for (const side of ["left", "right"]) {
    const title = byId(side).value;
    Object.assign(byId(`${side}-image`), { src: image.pictures[title], alt: title });
    byId(`${side}-label`).textContent = title;
  }
  const zoom = byId("zoom").value;
  byId("stage").style.width = zoom === "fit" ? `min(100%, ${image.size[0] * 3}px)` : `${image.size[0] * zoom}px`;
}

byId("slider").addEventListener("input", () => byId("stage").style.setProperty("--cut", `${byId("slider").value}%`));
byId("frame").addEventListener("pointermove", (event) => {
  if (!event.buttons) return;
  const box = byId("stage").getBoundingClientRect();
  byId("slider").value = Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width));
  byId("slider").dispatchEvent(new Event("input"));
});
byId("frame").addEventListener("dragstart", (event) => event.preventDefault());
for (const id of ["left", "right", "zoom"]) byId(id).addEventListener("change", showPair);
for (const id of ["dataset", "measure"]) byId(id).addEventListener("change", showImages);

fillSelect(byId("dataset"), data.datasets.map((dataset) => dataset.name), 0);
byId("measure").replaceChildren();
for (const [name, measure] of Object.entries(data.measures)) make("option", byId("measure"), measure.title).value = name;
if (data.datasets.length) showImages();
