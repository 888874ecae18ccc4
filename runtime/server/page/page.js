// The page of the server: photographs are sent to /restore one by one, and shown before and after.

const SIDE_BY_SIDE = 2; // photographs sent at once; the server shares its batches among all clients
const FACE_MARGIN = 0.2; // around a face in its close-up, in widths of its crop
const LANDMARK_SIZE = 0.012; // radius, in widths of the face's crop

const page = (id) => document.getElementById(id);
const waiting = [];
let inProgress = 0;

// --- What the user gives -------------------------------------------------------------------------

page("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});
for (const name of ["dragover", "dragenter"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
});
page("landmarks").addEventListener("change", () => {
  for (const points of document.querySelectorAll("#results .points")) {
    points.toggleAttribute("hidden", !page("landmarks").checked);
  }
});
page("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!page("key").value) return;
  sessionStorage.setItem("key", page("key").value);
  page("access").hidden = true;
  start();
  for (const button of document.querySelectorAll(".again:not([hidden])")) button.click();
});

function add(files) {
  for (const file of files) {
    const item = page("result").content.firstElementChild.cloneNode(true);
    item.querySelector("h2").textContent = file.name;
    item.querySelector(".again").addEventListener("click", () => enqueue(file, item));
    page("results").prepend(item);
    enqueue(file, item);
  }
}

function enqueue(file, item) {
  item.classList.remove("wrong");
  item.querySelector(".again").hidden = true;
  report(item, "Waiting …");
  waiting.push([file, item]);
  next();
}

async function next() {
  if (inProgress >= SIDE_BY_SIDE || !waiting.length) return;
  inProgress += 1;
  const [file, item] = waiting.shift();
  report(item, "Restoring …");
  try {
    show(item, file, await restore(file));
  } catch (error) {
    item.classList.add("wrong");
    item.querySelector(".again").hidden = false;
    report(item, error.message, `${file.name}: ${error.message}`);
  }
  inProgress -= 1;
  next();
}

function report(item, text, announced = "") {
  item.querySelector(".report").textContent = text;
  if (announced) page("status").textContent = announced;
}

// --- The server ----------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { "X-API-Key": key } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (response.status === 401) page("access").hidden = false;
  if (!response.ok) {
    const known = await response.json().catch(() => ({}));
    const wait = response.headers.get("Retry-After");
    throw new Error((known.error ?? `status ${response.status}`) + (wait ? " Try again soon." : ""));
  }
  return response;
}

async function restore(file) {
  const picture = file.type === "image/jpeg" ? "jpeg" : "png"; // what people expect back
  const query = new URLSearchParams({ format: "json", picture });
  if (page("engine").value) query.set("engine", page("engine").value);
  const started = performance.now();
  const document = await (await ask(`restore?${query}`, { method: "POST", body: file })).json();
  const bytes = Uint8Array.from(atob(document.image), (character) => character.charCodeAt(0));
  const result = new Blob([bytes], { type: `image/${picture}` });
  return { ...document, result, seconds: (performance.now() - started) / 1e3 };
}

async function start() {
  page("notice").textContent = "";
  await loadEngines().catch((error) => { page("notice").textContent = error.message; });
}

async function loadEngines() {
  const index = await (await ask("v2/repository/index", { method: "POST" })).json();
  const names = [...new Set(index.map((model) => model.name))];
  page("engine").replaceChildren(...names.map((name) => new Option(name)));
  page("engines").hidden = names.length < 2;
}

// --- A result ------------------------------------------------------------------------------------

function show(item, file, done) {
  const { width, height, faces, restored, left, seconds } = done;
  const plural = (count) => `${count} ${count === 1 ? "face" : "faces"}`;
  const known = [`${plural(restored)} restored`];
  if (!restored && !left) known[0] = "no face found";
  if (left) known.push(`${plural(left)} left as they are: already sharper than this can restore`);
  if (done.scale > 1) known.push(`enlarged ${done.scale} times`);
  known.push(`${seconds.toFixed(seconds < 10 ? 1 : 0)} s (${(done.ms / 1e3).toFixed(1)} s server)`);
  report(item, known.join(", "), `${file.name}: ${known.join(", ")}`);

  const compare = item.querySelector(".compare");
  const [before, after] = item.querySelectorAll("img");
  compare.style.aspectRatio = `${width} / ${height}`;
  compare.style.maxWidth = `calc(80vh * ${width / height})`;
  before.alt = `${file.name}, before`;
  after.alt = `${file.name}, after: ${known[0]}`;
  after.src = URL.createObjectURL(done.result);
  before.src = URL.createObjectURL(file);
  before.onerror = () => { // a format that the server reads and this browser does not
    before.src = after.src;
    item.querySelector(".tag.left").textContent = "this browser cannot show the original";
  };
  drawPoints(item.querySelector(".points"), done);
  followSlider(item, compare, after);
  addViews(item, compare, done);
  const link = item.querySelector(".download");
  const stem = file.name.replace(/\.[^.]*$/, "") || "photograph";
  link.href = after.src;
  link.download = `${stem}.restored.${done.format === "jpeg" ? "jpg" : done.format}`;
  item.querySelector(".restored").hidden = false;
}

function drawPoints(svg, { width, height, faces }) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...faces.flatMap((face) => (face.landmarks ?? []).map(([x, y]) => {
    const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    const radius = face.box[2] * LANDMARK_SIZE;
    const sizes = { cx: x + 0.5, cy: y + 0.5, r: radius, "stroke-width": radius / 3 };
    for (const [name, value] of Object.entries(sizes)) circle.setAttribute(name, value);
    return circle;
  })));
  svg.toggleAttribute("hidden", !page("landmarks").checked);
}

// The slider divides what is visible, not the whole picture, so that it works in close-ups too.
function followSlider(item, compare, after) {
  const slider = item.querySelector("input[type=range]");
  const update = () => {
    const share = slider.value / 100;
    const { scale, x } = view(compare);
    const position = share * compare.clientWidth; // in the visible area, pixels
    const inside = (position - x) / scale / compare.clientWidth; // as a share of the picture
    after.style.clipPath = `inset(0 0 0 ${100 * Math.min(1, Math.max(0, inside))}%)`;
    item.querySelector(".line").style.left = `${100 * share}%`;
    slider.setAttribute("aria-valuetext", `${Math.round(100 * share)} % before`);
  };
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const area = compare.getBoundingClientRect();
    slider.value = (100 * (event.clientX - area.left)) / area.width;
    update();
  };
  compare.addEventListener("pointerdown", drag);
  compare.addEventListener("pointermove", drag);
  compare.addEventListener("dragstart", (event) => event.preventDefault());
  slider.addEventListener("input", update);
  item.updateSlider = update;
  update();
}

const view = (compare) => compare.view ?? { scale: 1, x: 0, y: 0 };

// The whole picture, or a face in close-up.
function addViews(item, compare, { width, height, faces }) {
  const frame = item.querySelector(".frame");
  const select = item.querySelector(".view");
  const update = () => {
    compare.view = { scale: 1, x: 0, y: 0 };
    if (select.selectedIndex > 0) {
      const [x, y, w] = faces[select.selectedIndex - 1].box;
      const shown = w * (1 + 2 * FACE_MARGIN); // pixels of the photograph
      const unit = compare.clientWidth / width; // page pixels for a pixel of the photograph
      const scale = Math.max(1, Math.min(width, height) / shown);
      const offset = (from, size) => {
        const centred = (size / 2 - (from + w / 2) * scale) * unit;
        return Math.max(size * unit * (1 - scale), Math.min(0, centred));
      };
      compare.view = { scale, x: offset(x, width), y: offset(y, height) };
    }
    const { scale, x, y } = compare.view;
    frame.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    item.updateSlider();
  };
  const names = ["Whole picture", ...faces.map((_, index) => `Face ${index + 1}`)];
  select.replaceChildren(...names.map((name) => new Option(name)));
  select.selectedIndex = faces.length === 1 ? 1 : 0; // what one wants to see
  select.addEventListener("change", update);
  new ResizeObserver(update).observe(compare);
}

start();
