// Decoders side by side: grids of recombined scenes, sliders with instant redraw, latents with a lasso.
// Scenes under the sliders are painted here, from tables of block renders or by the blocks' networks; the server is not
// asked.

const SEEN = "#8a8a8a", UNSEEN = "#D55E00", DOT = "#0A84C6";
const GAP = 3;           // css pixels between cells
const NEAR = 14;         // css pixels within which a point is meant
const STRIP_AT_MOST = 40;
const ROOM = 0.07;       // of a cloud's side, around the points

/** Float16 bits to a number; a table of all 65,536 makes decoding a lookup. */
const HALVES = (() => {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 32768 ? -size : size;
  }
  return table;
})();

/** A blob is: length of the header (uint32), the header as JSON, then float16 values of all tables and layers. */
function unpack(blob) {
  const bytes = blob.slice();
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  header.halves = new Uint16Array(bytes.buffer, 4 + length);
  return header;
}

// ------------------------------------------------------------------ painting from tables
/** The corners around a point of a regular grid: [index, share] for each, the shares adding up to 1. */
function cornersOf(sizes, shares) {
  return sizes.reduce((all, n, k) => {
    const at = clamp(shares[k], 0, 1) * (n - 1), start = Math.min(Math.floor(at), n - 2);
    return all.flatMap(([index, share]) => [[index * n + start, share * (1 - at + start)], [index * n + start + 1, share * (at - start)]]);
  }, [[0, 1]]).filter(([, share]) => share > 0);
}

/** A net's separable profiles at latents z, 2 x rank x side values: looked up and interpolated, or computed. */
function profilesAt(net, halves, z) {
  if (net.layers) return runLayers(net, halves, net.latents.map((latent) => z[latent]));
  const size = 2 * net.rank * net.side, out = new Float32Array(size);
  const shares = net.latents.map((latent, k) => (z[latent] - net.low[k]) / (net.high[k] - net.low[k]));
  for (const [index, share] of cornersOf(net.sizes, shares)) {
    const start = net.offset + index * size;
    for (let i = 0; i < size; i++) out[i] += share * HALVES[halves[start + i]];
  }
  return out;
}

const silu = (v) => v / (1 + Math.exp(-v));

/** The network of a block: its layers' weights lie row by row, one row for each output. */
function runLayers(net, halves, values) {
  net.numbers ??= net.layers.map(({ shape: [rows, columns], weights, biases }) => ({
    weights: Float32Array.from({ length: rows * columns }, (_, i) => HALVES[halves[weights + i]]),
    biases: Float32Array.from({ length: rows }, (_, i) => HALVES[halves[biases + i]]),
  }));
  return net.numbers.reduce((input, { weights, biases }, k) => {
    const out = Float32Array.from(biases), n = input.length;
    const bend = k === net.layers.length - 1 ? null : k === 0 && net.first === "sine" ? Math.sin : silu;
    for (let row = 0; row < out.length; row++) {
      for (let column = 0; column < n; column++) out[row] += weights[row * n + column] * input[column];
      if (bend) out[row] = bend(out[row]);
    }
    return out;
  }, values);
}

/** image[c, y, x] = sum over r of colour[r, c] u_r(y) v_r(x); channels x side x side values. */
function paint(net, profiles) {
  const { rank, side, channels, colour } = net, out = new Float32Array(channels * side * side);
  for (let c = 0; c < channels; c++) for (let y = 0; y < side; y++) {
    const row = (c * side + y) * side;
    for (let r = 0; r < rank; r++) {
      const a = colour[r * channels + c] * profiles[r * side + y], v = (rank + r) * side;
      for (let x = 0; x < side; x++) out[row + x] += a * profiles[v + x];
    }
  }
  return out;
}

const LINKS = { identity: (v) => v, sigmoid: (v) => 1 / (1 + Math.exp(-v)), exp: Math.exp };

/** The decoder's image from the images of its nets, 3 x side x side in [0, 1]. */
function combine(tables, parts) {
  const link = LINKS[tables.link], pixels = tables.side ** 2, out = new Float32Array(3 * pixels);
  if (tables.kind !== "masked") {
    for (let i = 0; i < out.length; i++) out[i] = link(parts.reduce((sum, part) => sum + part[i], tables.white));
    return out;
  }
  for (let p = 0; p < pixels; p++) {
    const weights = parts.map((part) => Math.exp(part[3 * pixels + p]));
    const total = weights.reduce((a, b) => a + b, 1);  // the background's score is 0
    for (let c = 0; c < 3; c++) {
      const value = parts.reduce((sum, part, k) => sum + weights[k] * part[c * pixels + p], 0) / total;
      out[c * pixels + p] = link(tables.white + value);
    }
  }
  return out;
}

/** One block alone on white: what it adds, less the constant image that blocks can trade among each other. */
function alone(tables, net, part) {
  const link = LINKS[tables.link], pixels = tables.side ** 2, out = new Float32Array(3 * pixels);
  if (tables.kind === "masked") {
    for (let p = 0; p < pixels; p++) {
      const mask = 1 / (1 + Math.exp(-part[3 * pixels + p]));
      for (let c = 0; c < 3; c++) out[c * pixels + p] = link(tables.white + mask * part[c * pixels + p]);
    }
    return out;
  }
  for (let i = 0; i < out.length; i++) out[i] = link(tables.white + part[i] - net.rest[i]);
  return out;
}

/** The .9 quantile of a block's images over training scenes: where the object is not. */
function restOf(net, codes, halves) {
  const picks = codes.map((z) => paint(net, profilesAt(net, halves, z)));
  const rest = new Float32Array(picks[0].length), column = new Float32Array(picks.length);
  for (let i = 0; i < rest.length; i++) {
    for (let k = 0; k < picks.length; k++) column[k] = picks[k][i];
    rest[i] = column.sort()[Math.floor(0.9 * (picks.length - 1))];
  }
  return rest;
}

function show(canvas, image, side) {
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const context = canvas.getContext("2d"), data = context.createImageData(side, side), pixels = side * side;
  for (let p = 0; p < pixels; p++) {
    for (let c = 0; c < 3; c++) data.data[4 * p + c] = 255 * image[c * pixels + p];  // clamped by the array itself
    data.data[4 * p + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

/** What a block's latents are where its object stands at `values`, by linear interpolation of its response. */
function follow({ axes, learned }, values) {
  const shares = axes.map((axis, k) => {
    let i = 0;
    while (i < axis.length - 2 && axis[i + 1] < values[k]) i++;
    return (i + clamp((values[k] - axis[i]) / (axis[i + 1] - axis[i] || 1), 0, 1)) / (axis.length - 1);
  });
  const corners = cornersOf(axes.map((axis) => axis.length), shares);
  return learned[0].map((_, j) => corners.reduce((sum, [index, share]) => sum + share * learned[index][j], 0));
}

function inside(polygon, x, y) {
  let is_in = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i], [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) is_in = !is_in;
  }
  return is_in;
}

const distance = (a, b) => Math.hypot(...a.map((v, k) => v - b[k]));

const nearest = (values, value) => values.reduce((best, v, i) => (distance(v, value) < distance(values[best], value) ? i : best), 0);

// ------------------------------------------------------------------ the widget
class Bench {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(root);
    this.marked = new Set();
    this.find(".picks").addEventListener("click", (event) => {
      const pick = event.target.dataset.pick;
      if (pick) this.mark(pick === "none" ? [] : this.points().filter((i) => this.data.scatter.seen[i] === (pick === "seen")));
    });
    new MutationObserver(() => this.redraw()).observe(document.documentElement, { attributes: true, attributeFilter: ["style", "class"] });
  }

  async receive(blob) {
    const data = unpack(blob);
    const is_same = this.data?.key === data.key;
    const sheets = [data.truth, ...data.panels.map((panel) => panel.sheet), data.scatter?.pictures].filter(Boolean);
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const images = await Promise.all(sheets.map(async (address) => [address, await decoded(address)]));
    if (turn !== this.turn) return;  // newer data came meanwhile
    this.sheets = new Map(images);
    this.data = data;
    for (const panel of data.panels) if (panel.tables) panel.tables.side = panel.tables.nets[0].side;
    if (!is_same) {
      this.goToCell(...data.start);
      this.marked = new Set();
      this.view = "latents";
    }
    this.build();
    this.redraw();
    this.showMarked();
  }

  // ---------------------------------------------------------------- building
  build() {
    const data = this.data, n = data.panels.length + 1;
    this.root.style.setProperty("--shape", `${data.columns} / ${data.rows}`);
    this.find(".axes").textContent = data.axes;
    this.grids = this.fill(".grids", [{ key: "truth", title: "Truth", note: data.truth_note, sheet: data.truth }, ...data.panels], (figure, panel) => {
      const canvas = this.canvas(figure, `${panel.title}: ${data.rows} by ${data.columns} scenes`);
      const note = figure.appendChild(document.createElement("p"));
      note.textContent = panel.note;
      this.bindGrid(canvas);
      return { canvas, sheet: panel.sheet };
    });
    this.find(".grids").style.setProperty("--columns", n);
    this.buildScenes();
    this.buildClouds(n);
  }

  fill(selector, panels, draw) {
    const home = this.find(selector);
    home.replaceChildren();
    return panels.map((panel) => {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      caption.textContent = caption.title = panel.title;
      figure.append(caption);
      figure.dataset.key = panel.key;
      home.append(figure);
      return { panel, ...draw(figure, panel) };
    });
  }

  canvas(parent, label, name = "") {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { className: name });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    parent.append(canvas);
    return canvas;
  }

  buildScenes() {
    const shown = this.data.panels.filter((panel) => panel.tables);
    this.find(".sliding").hidden = !shown.length;
    if (!shown.length) { this.scenes = []; return; }
    this.scenes = this.fill(".scenes", shown, (figure, panel) => {
      const stage = figure.appendChild(document.createElement("div"));
      stage.className = "stage";
      const whole = this.canvas(stage, `${panel.title}: the scene at the sliders`, "whole");
      const has_parts = panel.tables.nets.length > 1;
      const home = stage.appendChild(document.createElement("div"));
      home.className = "parts";
      const parts = has_parts ? panel.tables.nets.map((net, k) => this.canvas(home, `${panel.title}: block ${k + 1} alone`)) : [];
      const note = figure.appendChild(document.createElement("p"));
      note.textContent = has_parts ? "Right: each block alone." : "One network for all latents: it has no blocks to draw alone.";
      return { whole, parts };
    });
    this.find(".scenes").style.setProperty("--columns", Math.max(3, shown.length));
    this.find(".sliders").replaceChildren(...this.data.sliders.flatMap((names, k) => names.map((name, j) => this.slider(name, k, j))));
  }

  /** The slider of latent j of object k on the axes. */
  slider(name, k, j) {
    const label = document.createElement("label"), text = document.createElement("span");
    const input = document.createElement("input"), output = document.createElement("output");
    label.className = "slider";
    label.dataset.of = `${k},${j}`;
    text.textContent = name;
    const [low, high] = this.rangeOf(k, j);
    Object.assign(input, { type: "range", min: low, max: high, step: "any" });
    input.setAttribute("aria-label", name);
    const move = (value) => {
      const at = this.at.map((values) => [...values]);
      at[k][j] = clamp(value, low, high);
      this.goTo(at);
    };
    input.addEventListener("input", () => move(Number(input.value)));
    input.addEventListener("keydown", (event) => {  // with step "any" an arrow key would move a pixel's worth
      const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!way) return;
      event.preventDefault();
      move(this.at[k][j] + (way * (high - low)) / 64);
    });
    label.append(text, output, input);
    return label;
  }

  /** From where to where latent j of object k goes. */
  rangeOf(k, j) {
    const axis = this.scenes[0].panel.tables.responses[k].axes[j];
    return [axis[0], axis.at(-1)];
  }

  // ---------------------------------------------------------------- grids
  bindGrid(canvas) {
    canvas.tabIndex = 0;
    const move = (event) => {
      const { rows, columns } = this.data, box = canvas.getBoundingClientRect();
      const column = clamp(Math.floor(((event.clientX - box.left) / box.width) * columns), 0, columns - 1);
      const row = clamp(rows - 1 - Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
      this.goToCell(row, column);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerdown", move);
    canvas.addEventListener("keydown", (event) => {
      const way = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      const [row, column] = this.cell();
      this.goToCell(clamp(row + way[0], 0, this.data.rows - 1), clamp(column + way[1], 0, this.data.columns - 1));
    });
  }

  goToCell(row, column) { this.goTo([this.data.row_values[row], this.data.column_values[column]], [row, column]); }

  cell() { return this.exact ?? [nearest(this.data.row_values, this.at[0]), nearest(this.data.column_values, this.at[1])]; }

  isSeen([row, column]) { return this.data.seen[row * this.data.columns + column] === "1"; }

  /** Whether training showed a scene like the one under the sliders. */
  isSeenHere() {
    const { apart } = this.data;
    if (this.exact || !apart) return this.isSeen(this.cell());
    const places = [...this.at.map((values) => apart.place.map((j) => values[j])), ...apart.others];
    const touch = places.some((a, i) => places.slice(0, i).some((b) => distance(a, b) < apart.reach));
    if (touch || !apart.dependent) return !touch;
    const [first, second] = places, is_high = first[0] + first[1] >= 1;
    return is_high ? second[0] <= 0.5 && second[1] >= 0.5 : second[0] >= 0.5 && second[1] <= 0.5;
  }

  goTo(at, exact = null) {
    this.at = at;
    this.exact = exact;
    this.pending ??= requestAnimationFrame(() => { this.pending = null; this.redraw(); });
  }

  drawGrid({ canvas, sheet }) {
    const { rows, columns, side } = this.data, image = this.sheets.get(sheet);
    const context = this.fit(canvas), width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    const w = (width - GAP * (columns - 1)) / columns, h = (height - GAP * (rows - 1)) / rows;
    const place = (row, column) => [column * (w + GAP), (rows - 1 - row) * (h + GAP)];
    context.clearRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
      const [x, y] = place(row, column);
      context.drawImage(image, column * side, row * side, side, side, x, y, w, h);
      const seen = this.isSeen([row, column]);
      context.strokeStyle = seen ? SEEN : UNSEEN;
      context.lineWidth = seen ? 1 : 2;
      context.setLineDash(seen ? [] : [Math.min(6, w / 6), Math.min(4, w / 9)]);
      context.strokeRect(x + context.lineWidth / 2, y + context.lineWidth / 2, w - context.lineWidth, h - context.lineWidth);
    }
    const [x, y] = place(...this.cell());
    context.setLineDash([]);
    context.lineWidth = 3;
    context.strokeStyle = this.colour("--st-primary-color");
    context.strokeRect(x - 0.5, y - 0.5, w + 1, h + 1);
  }

  fit(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  }

  colour(name) { return getComputedStyle(this.root).getPropertyValue(name).trim() || "#555"; }

  // ---------------------------------------------------------------- scenes under the sliders
  /** A decoder's latents for the scene under the sliders: in a cell the grid's own, so that both pictures are one. */
  latentsAt(panel) {
    const z = [...panel.codes[this.exact?.[0] ?? 0][this.exact?.[1] ?? 0]];
    if (!this.exact)
      panel.tables.responses.forEach((response, k) => {
        const learned = follow(response, this.at[k]);
        response.latents.forEach((latent, j) => { z[latent] = learned[j]; });
      });
    return z;
  }

  drawScenes() {
    if (!this.scenes.length) return;
    const seen = this.isSeenHere();
    for (const { panel, whole, parts } of this.scenes) {
      const tables = panel.tables, z = this.latentsAt(panel);
      const images = tables.nets.map((net) => paint(net, profilesAt(net, this.data.halves, z)));
      show(whole, combine(tables, images), tables.side);
      whole.classList.toggle("unseen", !seen);
      parts.forEach((canvas, k) => {
        if (tables.kind !== "masked") tables.nets[k].rest ??= restOf(tables.nets[k], tables.codes, this.data.halves);
        show(canvas, alone(tables, tables.nets[k], images[k]), tables.side);
      });
    }
    this.root.querySelectorAll(".slider").forEach((label) => {
      const [k, j] = label.dataset.of.split(",");
      label.querySelector("input").value = this.at[k][j];
      label.querySelector("output").textContent = this.at[k][j].toFixed(2);
    });
    this.find(".here").textContent = seen ? "Seen together in training." : "Never seen together in training: extrapolated.";
  }

  // ---------------------------------------------------------------- latents
  points() { return this.data.scatter.true.map((_, i) => i); }

  buildClouds(n) {
    const scatter = this.data.scatter;
    this.find(".latents").hidden = !scatter;
    this.clouds = [];
    if (!scatter) return;
    const views = [["latents", "Latents"], ...this.data.objects.map((name, k) => [`response.${k}`, `Response to ${name.toLowerCase()}`])];
    const home = this.find(".views");
    home.querySelectorAll("label").forEach((label) => label.remove());
    const has_curves = this.data.sliders[0].length === 1 && this.data.panels.some((panel) => panel.tables);
    for (const [key, title] of has_curves ? views : views.slice(0, 1)) {
      const label = document.createElement("label"), input = document.createElement("input"), span = document.createElement("span");
      Object.assign(input, { type: "radio", name: "view", checked: key === this.view });
      input.addEventListener("change", () => { this.view = key; this.redraw(); });
      span.textContent = title;
      label.append(input, span);
      home.append(label);
    }
    this.clouds = this.fill(".clouds", [{ key: "truth", title: "True latents" }, ...this.data.panels], (figure, panel) => {
      const canvas = this.canvas(figure, `${panel.title}: latents of ${scatter.true.length} scenes`);
      this.bindCloud(canvas);
      return { canvas };
    });
    this.find(".clouds").style.setProperty("--columns", n);
  }

  /** The coordinates of every scene in a cloud, x then y, and what the axes are. */
  coordinates(cloud) {
    const { scatter, objects } = this.data, panel = cloud.panel, kind = this.view.split(".");
    if (panel.key === "truth") return { xs: scatter.true.map((z) => z[1]), ys: scatter.true.map((z) => z[0]), x: scatter.names[1], y: scatter.names[0] };
    const along = (k) => panel.learned.map((z) => panel.signs[k] * z[k]);
    const name = (k) => `${panel.signs[k] < 0 ? "−" : ""}latent ${panel.latents[k] + 1}`;
    if (kind[0] === "response") {
      const k = Number(kind[1]);
      return { xs: scatter.true.map((z) => z[k]), ys: along(k), x: objects[k].toLowerCase(), y: name(k), curve: panel.tables?.responses[k], sign: panel.signs[k] };
    }
    return { xs: along(1), ys: along(0), x: name(1), y: name(0) };
  }

  drawCloud(cloud) {
    const { canvas } = cloud, context = this.fit(canvas), side = canvas.clientWidth;
    if (!side) return;
    const { xs, ys, x, y, curve, sign } = this.coordinates(cloud), { seen } = this.data.scatter;
    const ends = (values) => [Math.min(...values), Math.max(...values)];
    const [x0, x1] = ends(xs), [y0, y1] = ends(ys), room = side * ROOM + 8;
    const X = (v) => room + ((v - x0) / (x1 - x0 || 1)) * (side - 2 * room);
    const Y = (v) => side - room - ((v - y0) / (y1 - y0 || 1)) * (side - 2 * room);
    cloud.places = xs.map((v, i) => [X(v), Y(ys[i])]);
    context.clearRect(0, 0, side, side);
    context.strokeStyle = this.colour("--st-border-color");
    context.lineWidth = 1;
    context.setLineDash([]);
    context.strokeRect(0.5, 0.5, side - 1, side - 1);
    context.fillStyle = this.colour("--st-text-color");
    context.font = `11px ${this.colour("--st-font")}`;
    context.textAlign = "right";
    context.fillText(`${x} →`, side - 5, side - 5);
    context.save();
    context.translate(12, 5);
    context.rotate(-Math.PI / 2);
    context.fillText(`${y} →`, 0, 0);
    context.restore();
    if (curve) {
      context.strokeStyle = this.colour("--st-text-color");
      context.beginPath();
      curve.axes[0].forEach((v, i) => context.lineTo(X(v), Y(sign * curve.learned[i][0])));
      context.stroke();
    }
    const radius = Math.max(1.6, side / 130);
    const dot = (i, size) => {
      const [px, py] = cloud.places[i];
      context.beginPath();
      if (seen[i]) context.arc(px, py, size, 0, 7);
      else context.rect(px - size, py - size, 2 * size, 2 * size);
      context.fill();
    };
    const has_marks = this.marked.size > 0;
    xs.forEach((_, i) => {
      context.globalAlpha = has_marks && !this.marked.has(i) ? 0.15 : 0.75;
      context.fillStyle = seen[i] ? DOT : UNSEEN;
      dot(i, this.marked.has(i) ? radius * 1.35 : radius);
    });
    context.globalAlpha = 1;
    this.drawCross(context, cloud, X, Y);
    if (cloud.loop?.length > 1) {
      context.strokeStyle = this.colour("--st-primary-color");
      context.lineWidth = 1.5;
      context.setLineDash([4, 3]);
      context.beginPath();
      cloud.loop.forEach(([px, py]) => context.lineTo(px, py));
      context.closePath();
      context.stroke();
    }
  }

  /** Where the chosen cell or slider position lies in this cloud. */
  drawCross(context, cloud, X, Y) {
    const panel = cloud.panel, kind = this.view.split(".");
    if (!this.scenes.length || (panel.key !== "truth" && !panel.tables)) return;
    const true_at = this.data.scatter.of.map(([k, j]) => this.at[k][j]);
    let at = [true_at[1], true_at[0]];
    if (panel.key !== "truth") {
      const z = this.latentsAt(panel), learned = panel.latents.map((latent, k) => panel.signs[k] * z[latent]);
      at = kind[0] === "response" ? [true_at[kind[1]], learned[kind[1]]] : [learned[1], learned[0]];
    }
    const [px, py] = [X(at[0]), Y(at[1])];
    context.setLineDash([]);
    context.lineWidth = 2.5;
    context.strokeStyle = this.colour("--st-primary-color");
    context.beginPath();
    context.arc(px, py, 7, 0, 7);
    context.stroke();
  }

  bindCloud(canvas) {
    const cloud = () => this.clouds.find((c) => c.canvas === canvas);
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      cloud().loop = [place(event)];
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = cloud(), [x, y] = place(event);
      if (here.loop) { here.loop.push([x, y]); this.drawCloud(here); return; }
      let best = -1, least = NEAR ** 2;
      here.places?.forEach(([px, py], i) => {
        const d = (px - x) ** 2 + (py - y) ** 2;
        if (d < least) { best = i; least = d; }
      });
      if (best < 0 || best === this.pointed) return;
      this.pointed = best;
      if (!this.marked.size) this.showStrip([best]);
      if (!this.scenes.length) return;
      const at = this.at.map((values) => [...values]);
      this.data.scatter.of.forEach(([k, j], i) => { at[k][j] = clamp(this.data.scatter.true[best][i], ...this.rangeOf(k, j)); });
      this.goTo(at);
    });
    const end = () => {
      const here = cloud(), loop = here.loop;
      here.loop = null;
      if (!loop) return;
      this.mark(loop.length > 4 ? this.points().filter((i) => inside(loop, ...here.places[i])) : []);
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
  }

  mark(points) {
    this.marked = new Set(points);
    this.showMarked();
    this.redraw();
  }

  showMarked() {
    if (!this.data.scatter) return;
    const points = [...this.marked], unseen = points.filter((i) => !this.data.scatter.seen[i]).length;
    this.find(".count").textContent = points.length ? `${points.length} scenes, ${unseen} of them never seen together in training${points.length > STRIP_AT_MOST ? `; ${STRIP_AT_MOST} are drawn` : ""}.` : "";
    this.showStrip(points);
  }

  showStrip(points) {
    const { picture_of, pictures, seen, tile, tiles_across } = this.data.scatter, image = this.sheets.get(pictures);
    const step = Math.max(1, points.length / STRIP_AT_MOST), shown = [];
    for (let k = 0; k < points.length && shown.length < STRIP_AT_MOST; k += step) shown.push(points[Math.floor(k)]);
    this.find(".strip").replaceChildren(...shown.filter((i) => picture_of[i] >= 0).map((i) => {
      const canvas = document.createElement("canvas"), at = picture_of[i];
      canvas.width = canvas.height = tile;
      canvas.getContext("2d").drawImage(image, (at % tiles_across) * tile, Math.floor(at / tiles_across) * tile, tile, tile, 0, 0, tile, tile);
      canvas.classList.toggle("unseen", !seen[i]);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `a scene ${seen[i] ? "seen" : "never seen"} in training`);
      return canvas;
    }));
  }

  redraw() {
    if (!this.data) return;
    this.grids.forEach((grid) => this.drawGrid(grid));
    this.drawScenes();
    this.clouds.forEach((cloud) => this.drawCloud(cloud));
  }
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".bench");
  root.bench ??= new Bench(root);  // survives reruns, and with it the position and what is marked
  root.bench.observer.observe(root);
  root.bench.receive(data);
  return () => root.bench.observer.disconnect();
}
