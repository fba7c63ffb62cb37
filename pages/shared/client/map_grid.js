// Canvases of one image with a map over each, drawn from raw values: every display choice is answered here.
// The formulas (percentile, limits, colours, overlay strength) are those of pages/shared/figures.py.

const MAX_ZOOM = 32;
const ZOOM_STEP = 1.4;
const LOOK_EVERY_MS = 150;  // for a map on its way
const KNOWN_BOX = "#4ade80", OWN_BOX = "#38bdf8";
const LEAST_SIDE = 0.01;  // of a box, in shares of the picture: less is a click

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

/** A blob is: length of the header (uint32), the header as JSON, then float16 values of all maps. */
function unpack(blob) {
  const bytes = blob.slice();  // an aligned copy of its own
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const halves = new Uint16Array(bytes.buffer, 4 + length);
  for (const panel of header.panels) {
    if (panel.offset === null) { panel.values = null; continue; }
    const values = new Float32Array(panel.height * panel.width);
    for (let i = 0; i < values.length; i++) values[i] = HALVES[halves[panel.offset + i]] * panel.factor + panel.base;
    panel.values = values;
  }
  return header;
}

const signOf = (value, signed) => (signed && value > 0 ? "+" : "") + formatValue(value);

/** Linear interpolation between order statistics, as numpy's default. */
function percentile(sorted, percent) {
  const at = ((sorted.length - 1) * percent) / 100, below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** How far up a spectrogram a frequency lies, in shares of its height; null: not on it. */
function shareOfHertz(hertz, edges) {
  const above = edges.findIndex((edge) => edge >= hertz);
  if (above < 1) return null;
  return (above - 1 + (hertz - edges[above - 1]) / (edges[above] - edges[above - 1])) / (edges.length - 1);
}

class MapGrid {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.window = { x: 0, y: 0, zoom: 1 };  // left, top (shares of the picture) and magnification
    this.cross = null;                      // {u, v}: shares of width and height
    this.cards = new Map();
    this.pointers = new Map();
    this.box = null;                        // the person's own, in shares of the picture
    this.corner = null;                     // where a box that is being drawn began
    this.isDrawing = false;                 // whether pointer and Enter draw a box
    this.observer = new ResizeObserver(() => this.redraw());
    this.bindTools();
  }

  // ------------------------------------------------------------------ data
  receive(blob, tell, trigger) {
    this.tell = tell;
    this.trigger = trigger;
    const header = unpack(blob), { arrangement } = header;
    this.header = header;
    if (!this.display || !arrangement.with_tools) this.display = header.display;
    if (!this.wasDrawn) this.box = arrangement.drawn;
    this.gamma = header.overlay_gamma;
    this.root.classList.toggle("large", arrangement.layout === "large");
    this.find(".tools").hidden = this.find(".hint").hidden = !arrangement.with_tools;
    this.find('[data-name="picture"]').hidden = !header.coloured;
    this.find('[value="image"] + span').textContent = arrangement.axes ? "Sound" : "Image";
    this.find('[data-name="values"]').hidden = !header.panels.some((panel) => panel.values && panel.signed);
    this.find(".drawing").hidden = !arrangement.may_draw;
    this.find(".outline").hidden = !header.mask;
    this.outline = header.mask && outlinePath(header.mask);
    this.showTools();
    this.loadImage(header.image).then(() => { this.rebuild(); this.awaitRunning(); });
  }

  /** While a panel waits, look for its map on its way: an element that the server draws anew with each estimate. */
  awaitRunning() {
    this.rest();
    if (!this.header.panels.some((panel) => panel.busy && panel.ticket)) return;
    this.looking = setInterval(() => {
      const text = document.querySelector("[data-prism-running]")?.dataset.prismRunning;
      if (!text || text === this.running) return;
      this.running = text;
      const [panel] = unpack(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))).panels;
      const at = this.header.panels.findIndex(({ busy, ticket }) => busy && ticket === panel.ticket);
      if (at < 0) return;
      this.header.panels[at] = panel;  // still busy: the next estimate takes its place
      this.rebuild();
    }, LOOK_EVERY_MS);
  }

  rest() { clearInterval(this.looking); }

  async loadImage(address) {
    if (this.imageAddress === address) return;
    const picture = await decoded(address);
    const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight);
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    this.image = canvas;
    this.under = { grey: this.muted(canvas, 0), colour: this.muted(canvas, this.header.coloured?.colour ?? 0) };
    if (this.imageAddress) { this.window = { x: 0, y: 0, zoom: 1 }; this.cross = null; }
    this.imageAddress = address;
  }

  /** A copy of a picture that keeps so much of its colours. */
  muted(canvas, kept) {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), { data } = pixels;
    for (let i = 0; i < data.length; i += 4) {
      const grey = 0.2126 * data[i] + 0.7152 * data[i + 1] + 0.0722 * data[i + 2];
      for (let c = i; c < i + 3; c++) data[c] = grey + kept * (data[c] - grey);
    }
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    copy.getContext("2d").putImageData(pixels, 0, 0);
    return copy;
  }

  // ------------------------------------------------------------------ building
  rebuild() {
    const wanted = new Set(this.header.panels.map((panel) => panel.key));
    for (const [key, card] of this.cards) if (!wanted.has(key)) { card.figure.remove(); this.cards.delete(key); }
    const home = this.find(".panels"), { arrangement } = this.header;
    this.observer.disconnect();
    for (const panel of this.header.panels) {
      let card = this.cards.get(panel.key);
      if (!card) this.cards.set(panel.key, (card = this.makeCard()));
      card.panel = panel;
      card.sorted = {};
      card.title.textContent = card.title.title = panel.title;
      card.caption.textContent = panel.caption;
      const has_picture = panel.key === "image" || panel.values;
      card.canvas.hidden = !has_picture;
      card.canvas.style.display = has_picture ? "" : "none";
      card.message.hidden = has_picture;
      card.message.style.display = has_picture ? "none" : "";
      card.message.textContent = panel.message;
      card.message.classList.toggle("busy", panel.busy);
      if (arrangement.is_pickable) card.title.setAttribute("aria-pressed", String(panel.key === arrangement.picked));
      const ratio = `${this.image.width} / ${this.image.height}`;
      card.canvas.style.aspectRatio = card.message.style.aspectRatio = ratio;
      home.append(card.figure);
      this.observer.observe(card.canvas);
    }
    this.recolour();
  }

  makeCard() {
    const make = (tag, name, parent) => {
      const element = document.createElement(tag);
      element.className = name;
      parent?.append(element);
      return element;
    };
    const figure = make("figure", "panel");
    const caption_line = make("figcaption", "", figure);
    const card = {
      figure,
      title: make(this.header.arrangement.is_pickable ? "button" : "span", "title", caption_line),
      value: make("span", "value", caption_line),
      canvas: make("canvas", "picture", figure),
      message: make("div", "message", figure),
      colours: make("canvas", "colours", figure),
      ticks: make("div", "ticks", figure),
      unit: make("div", "unit", figure),
      caption: make("p", "caption", figure),
    };
    card.canvas.tabIndex = 0;
    card.canvas.setAttribute("role", "img");
    if (card.title.tagName === "BUTTON") card.title.onclick = () => this.trigger("picked", card.panel.key);
    this.bindPicture(card.canvas);
    return card;
  }

  // ------------------------------------------------------------------ values to colours
  limitOf(card) {
    const { base, origin } = card.panel;
    const kind = origin === "lowest" ? "above" : this.display.values === "positive" ? "positive" : "absolute";
    const size = { above: (v) => v - base, positive: (v) => Math.max(v, 0), absolute: Math.abs }[kind];
    card.sorted[kind] ??= Float32Array.from(card.panel.values, size).sort();
    const sorted = card.sorted[kind];
    return percentile(sorted, this.display.clip) || sorted[sorted.length - 1];
  }

  recolour() {
    const drawn = [...this.cards.values()].filter((card) => card.panel.values);
    const shared = {};
    for (const card of drawn) {
      card.limit = this.limitOf(card);
      shared[card.panel.unit] = Math.max(shared[card.panel.unit] ?? 0, card.limit);
    }
    for (const card of drawn) {
      if (this.display.scale === "shared") card.limit = shared[card.panel.unit];
      card.limit = this.header.arrangement.limit ?? card.limit;
      card.diverging = card.panel.signed && this.display.values === "signed";
      this.paint(card);
      this.paintBar(card);
      card.canvas.setAttribute("aria-label", this.describe(card));
    }
    const image = this.cards.get("image");
    image?.canvas.setAttribute("aria-label", this.header.description);
    this.find(".scale-note").textContent = drawn.length > 1 ? this.scaleSentence(drawn) : "";
    this.redraw();
  }

  scaleSentence(drawn) {
    const units = [...new Set(drawn.map((card) => card.panel.unit))];
    if (!drawn.length) return "";
    const scale = this.display.scale === "own" ? "Each map on its own scale: compare places, not strengths."
      : units.length === 1 ? `One scale for all maps in ${units[0]}.` : `One scale for all maps of a unit: ${units.join(", ")}.`;
    const is_shifted = drawn.some((card) => card.panel.origin === "lowest");
    return scale + (is_shifted ? " Black is zero, or a map's lowest value where its colour bar says so." : "");
  }

  describe(card) {
    const { panel } = card;
    let best = 0;
    for (let i = 1; i < panel.values.length; i++) if (panel.values[i] > panel.values[best]) best = i;
    const kind = !panel.signed ? "unsigned" : card.diverging ? "signed" : this.display.values;
    return `${panel.title} map, ${kind} values in ${panel.unit}, `
      + `colours end at ${formatValue(card.limit)}${panel.origin === "zero" ? "" : ` above ${formatValue(panel.base)}`}; largest value ${formatValue(panel.values[best])} `
      + `at row ${Math.floor(best / panel.width)}, column ${best % panel.width}. ${panel.caption}`;
  }

  paint(card) {
    const { values, width, height, base, origin } = card.panel;
    const table = this.table(card.diverging), last = table.length / 3 - 1;
    const pixels = new ImageData(width, height), data = pixels.data;
    const kind = this.display.values, is_map = this.display.view === "map", limit = card.limit || 1;
    for (let i = 0; i < values.length; i++) {
      let value = values[i];
      if (origin === "lowest") value -= base;
      else if (kind === "absolute") value = Math.abs(value);
      else if (kind === "positive") value = Math.max(value, 0);
      const relative = clamp(value / limit, -1, 1);
      const row = 3 * Math.round((card.diverging ? (relative + 1) / 2 : Math.max(relative, 0)) * last);
      data[4 * i] = table[row];
      data[4 * i + 1] = table[row + 1];
      data[4 * i + 2] = table[row + 2];
      data[4 * i + 3] = is_map ? 255 : 255 * Math.abs(relative) ** this.gamma;
    }
    card.map = new OffscreenCanvas(width, height);
    card.map.getContext("2d").putImageData(pixels, 0, 0);
  }

  table(diverging) {
    const name = diverging ? "signed" : "unsigned";
    this.tables ??= {};
    this.tables[name] ??= Uint8Array.from(atob(this.header.colours[name]), (c) => c.charCodeAt(0));
    return this.tables[name];
  }

  paintBar(card) {
    const table = this.table(card.diverging), n = table.length / 3;
    card.colours.width = n;
    card.colours.height = 1;
    const context = card.colours.getContext("2d"), row = context.createImageData(n, 1);
    for (let i = 0; i < n; i++) row.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
    context.putImageData(row, 0, 0);
    card.colours.setAttribute("aria-hidden", "true");
    const ends = card.diverging ? [-card.limit, 0, card.limit] : [0, card.limit];
    card.ticks.replaceChildren(...ends.map((end) => {
      const tick = document.createElement("span");
      const { origin, base } = card.panel;
      tick.textContent = origin === "zero" ? formatValue(end) : formatValue(base) + (end ? ` + ${formatValue(end)}` : "");
      return tick;
    }));
    card.unit.textContent = card.panel.said_unit;
  }

  // ------------------------------------------------------------------ drawing
  redraw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      for (const card of this.cards.values()) this.draw(card);
      this.showValues();
    });
  }

  draw(card) {
    const { canvas, panel } = card;
    if (!this.image || canvas.hidden || !canvas.clientWidth) return;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.classList.toggle("zoomed", this.window.zoom > 1);
    const context = canvas.getContext("2d");
    const size = 1 / this.window.zoom;
    const place = (source, alpha) => {
      context.globalAlpha = alpha;
      context.imageSmoothingEnabled = source.width > width;  // cells stay cells when enlarged
      context.drawImage(source, this.window.x * source.width, this.window.y * source.height,
        size * source.width, size * source.height, 0, 0, width, height);
    };
    context.clearRect(0, 0, width, height);
    const only_image = panel.key === "image" || this.display.view === "image" || !card.map;
    if (only_image) place(this.image, 1);
    else if (this.display.view === "map") place(card.map, 1);
    else {
      const { picture, opacity } = this.display, kept = picture === "colour" ? this.header.coloured?.opacity ?? 1 : 1;
      place(this.under[picture], 1);
      place(card.map, opacity * kept);
    }
    context.globalAlpha = 1;
    this.drawOutline(context, width, height);
    this.drawBoxes(context, width, height, ratio);
    if (this.header.arrangement.axes) this.drawAxes(context, width, height, ratio);
    this.drawCross(context, width, height, ratio);
  }

  drawOutline(context, width, height) {
    if (!this.outline || !this.display.outline) return;
    const { zoom, x, y } = this.window;
    const path = new Path2D();
    path.addPath(this.outline, new DOMMatrix([width * zoom, 0, 0, height * zoom, -x * width * zoom, -y * height * zoom]));
    for (const [colour, line] of [["rgba(0,0,0,.75)", 3], ["#4ade80", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.stroke(path);
    }
  }

  drawBoxes(context, width, height, ratio) {
    const { boxes } = this.header.arrangement, { zoom, x, y } = this.window;
    const own = this.corner ? this.boxBetween(this.corner, this.cross ?? this.corner) : this.box;
    for (const box of own ? [...boxes, { ...own, is_own: true }] : boxes) {
      const left = (box.left - x) * zoom * width, top = (box.top - y) * zoom * height;
      const across = (box.right - box.left) * zoom * width, down = (box.bottom - box.top) * zoom * height;
      context.setLineDash(box.is_own ? [] : [6 * ratio, 4 * ratio]);
      for (const [colour, line] of [["rgba(0,0,0,.8)", 3.5], [box.is_own ? OWN_BOX : KNOWN_BOX, 1.75]]) {
        context.strokeStyle = colour;
        context.lineWidth = line * ratio;
        context.strokeRect(left, top, across, down);
      }
      context.setLineDash([]);
    }
  }

  /** Seconds along the lower side and hertz along the left one, inside the picture. */
  drawAxes(context, width, height, ratio) {
    const { start_s, end_s, edges_hz } = this.header.arrangement.axes, { zoom, x, y } = this.window;
    const steps = [0.05, 0.1, 0.25, 0.5, 1, 2, 5], step = steps.find((s) => (end_s - start_s) / zoom / s <= width / ratio / 56) ?? 10;
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    context.fillStyle = "#fff";
    context.strokeStyle = "rgba(0,0,0,.85)";
    context.lineWidth = 3 * ratio;
    context.lineJoin = "round";
    const write = (text, left, top, line) => {
      context.strokeText(text, left, top);
      context.fillText(text, left, top);
      context.fillRect(...line);
    };
    context.textAlign = "center";
    for (let second = Math.ceil(start_s / step) * step; second <= end_s; second += step) {
      const left = ((second - start_s) / (end_s - start_s) - x) * zoom * width;
      if (left < 34 * ratio || left > width - 12 * ratio) continue;
      write(`${Number(second.toFixed(2))} s`, left, height - 6 * ratio, [left - ratio / 2, height - 4 * ratio, ratio, 4 * ratio]);
    }
    context.textAlign = "left";
    let last = Infinity;
    for (const hertz of [125, 250, 500, 1000, 2000, 4000, 8000]) {
      const share = shareOfHertz(hertz, edges_hz);
      const top = share === null ? -1 : (1 - share - y) * zoom * height;
      if (top < 9 * ratio || top > height - 18 * ratio || last - top < 14 * ratio) continue;
      last = top;
      write(hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`, 6 * ratio, top + 4 * ratio, [0, top - ratio / 2, 4 * ratio, ratio]);
    }
  }

  /** Where the cross-hair is, in words of the axes. */
  placeOf({ u, v }) {
    const { start_s, end_s, edges_hz } = this.header.arrangement.axes;
    const band = (1 - v) * (edges_hz.length - 1), below = Math.min(Math.floor(band), edges_hz.length - 2);
    const hertz = edges_hz[below] + (band - below) * (edges_hz[below + 1] - edges_hz[below]);
    return `${(start_s + u * (end_s - start_s)).toFixed(2)} s, ${Math.round(hertz)} Hz`;
  }

  drawCross(context, width, height, ratio) {
    if (!this.cross) return;
    const left = (this.cross.u - this.window.x) * this.window.zoom * width;
    const top = (this.cross.v - this.window.y) * this.window.zoom * height;
    for (const [colour, line] of [["rgba(0,0,0,.8)", 3], ["#fff", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = line * ratio;
      context.beginPath();
      const gap = 7 * ratio;
      context.moveTo(0, top); context.lineTo(left - gap, top); context.moveTo(left + gap, top); context.lineTo(width, top);
      context.moveTo(left, 0); context.lineTo(left, top - gap); context.moveTo(left, top + gap); context.lineTo(left, height);
      context.stroke();
    }
  }

  showValues() {
    for (const card of this.cards.values()) {
      const { panel } = card;
      if (!this.cross) { card.value.textContent = ""; continue; }
      const column = this.pixelOf(this.cross.u, panel.width || this.image.width);
      const row = this.pixelOf(this.cross.v, panel.height || this.image.height);
      card.value.textContent = panel.values ? signOf(panel.values[row * panel.width + column], panel.signed)
        : panel.key === "image" ? `row ${row}, col ${column}` : "";
      if (panel.values && this.header.arrangement.axes) card.value.textContent += ` at ${this.placeOf(this.cross)}`;
    }
  }

  pixelOf(share, n) { return clamp(Math.floor(share * n), 0, n - 1); }

  speak() {
    const parts = [...this.cards.values()].filter((card) => card.value.textContent)
      .map((card) => `${card.panel.title} ${card.value.textContent}`);
    this.find(".spoken").textContent = parts.join("; ");
  }

  // ------------------------------------------------------------------ tools
  bindTools() {
    this.root.addEventListener("input", (event) => {
      const { name, type, value, checked } = event.target;
      if (!(name in this.display)) return;
      this.display = { ...this.display, [name]: type === "checkbox" ? checked : type === "range" ? Number(value) : value };
      this.showTools();
      if (["opacity", "outline", "picture"].includes(name)) this.redraw();
      else this.recolour();
    });
    // Only a finished choice goes to the server, and only so that links and files know it.
    this.root.addEventListener("change", (event) => {
      if (event.target.name in this.display) this.tell("display", { ...this.display });
    });
    this.root.addEventListener("click", (event) => {
      const direction = event.target.closest("[data-zoom]")?.dataset.zoom;
      if (direction === "reset") this.zoomTo(1, 0.5, 0.5);
      else if (direction) this.zoomTo(this.window.zoom * (direction === "in" ? ZOOM_STEP : 1 / ZOOM_STEP), 0.5, 0.5);
      const drawing = event.target.closest("[data-draw]")?.dataset.draw;
      if (drawing === "box") this.draws(!this.isDrawing);
      else if (drawing === "clear") this.keepBox(null);
    });
  }

  // ------------------------------------------------------------------ a box of the person's own
  boxBetween(a, b) {
    return { left: Math.min(a.u, b.u), top: Math.min(a.v, b.v), right: Math.max(a.u, b.u), bottom: Math.max(a.v, b.v) };
  }

  draws(is_on) {
    this.isDrawing = is_on;
    this.corner = null;
    this.find('[data-draw="box"]').setAttribute("aria-pressed", String(is_on));
    this.root.classList.toggle("draws", is_on);
    this.redraw();
  }

  finishBox(end) {
    const box = this.boxBetween(this.corner, end);
    this.corner = null;
    if (Math.min(box.right - box.left, box.bottom - box.top) >= LEAST_SIDE) this.keepBox(box);
    this.redraw();
  }

  keepBox(box) {
    this.box = box;
    this.wasDrawn = true;
    this.tell("box", box ?? {});
    const say = (share, side) => Math.round(share * side), { width, height } = this.image;
    this.find(".spoken").textContent = box
      ? `Box from column ${say(box.left, width)}, row ${say(box.top, height)} to column ${say(box.right, width)}, row ${say(box.bottom, height)}`
      : "Box removed";
    this.redraw();
  }

  showTools() {
    for (const input of this.root.querySelectorAll("input")) {
      const value = this.display[input.name];
      if (input.type === "radio") input.checked = input.value === value;
      else if (input.type === "checkbox") input.checked = value;
      else input.value = value;
    }
    this.find('[data-for="opacity"]').textContent = `${Math.round(this.display.opacity * 100)}%`;
    this.find('[data-for="clip"]').textContent = `${this.display.clip}%`;
  }

  // ------------------------------------------------------------------ zoom, pan, cross-hair
  /** Magnify about a point given in shares of the canvas; that point stays where it is. */
  zoomTo(zoom, px, py) {
    const before = this.window.zoom, after = clamp(zoom, 1, MAX_ZOOM);
    const x = this.window.x + px / before - px / after, y = this.window.y + py / before - py / after;
    this.window = { zoom: after, x: clamp(x, 0, 1 - 1 / after), y: clamp(y, 0, 1 - 1 / after) };
    this.find('[data-for="zoom"]').textContent = `${Number(after.toFixed(1))}×`;
    this.redraw();
  }

  panBy(du, dv) {
    const most = 1 - 1 / this.window.zoom;
    this.window.x = clamp(this.window.x + du, 0, most);
    this.window.y = clamp(this.window.y + dv, 0, most);
    this.redraw();
  }

  bindPicture(canvas) {
    const shareOf = (event) => {
      const box = canvas.getBoundingClientRect();
      return { px: (event.clientX - box.left) / box.width, py: (event.clientY - box.top) / box.height };
    };
    const point = (event) => {
      const { px, py } = shareOf(event);
      this.setCross(this.window.x + px / this.window.zoom, this.window.y + py / this.window.zoom);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      if (this.isDrawing) {
        point(event);
        this.corner = this.cross;
        return;
      }
      this.pointers.set(event.pointerId, shareOf(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (before && this.pointers.size === 2) this.pinch(event.pointerId, shareOf(event));
      else if (before && this.window.zoom > 1) {
        const now = shareOf(event);
        this.panBy((before.px - now.px) / this.window.zoom, (before.py - now.py) / this.window.zoom);
        this.pointers.set(event.pointerId, now);
      } else point(event);
    });
    const release = (event) => this.pointers.delete(event.pointerId);
    canvas.addEventListener("pointerup", (event) => {
      release(event);
      point(event);
      if (this.isDrawing && this.corner) this.finishBox(this.cross ?? this.corner);
    });
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", (event) => {
      release(event);
      if (event.pointerType === "mouse" && this.root.getRootNode().activeElement !== canvas) this.setCross(null);
    });
    canvas.addEventListener("wheel", (event) => {
      const wanted = event.ctrlKey || event.metaKey || this.root.getRootNode().activeElement === canvas;
      const zoom = this.window.zoom * Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002));
      if (!wanted || (this.window.zoom === 1 && zoom < 1)) return;  // the page scrolls as usual
      event.preventDefault();
      const { px, py } = shareOf(event);
      this.zoomTo(zoom, px, py);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("blur", () => this.setCross(null));
  }

  pinch(id, now) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, share]) => share);
    const before = this.pointers.get(id);
    const gap = (a, b) => Math.hypot(a.px - b.px, a.py - b.py) || 1e-6;
    this.zoomTo((this.window.zoom * gap(now, other)) / gap(before, other), (now.px + other.px) / 2, (now.py + other.py) / 2);
    this.pointers.set(id, now);
  }

  setCross(u, v) {
    if (this.corner && u !== null) [u, v] = [clamp(u, 0, 1), clamp(v, 0, 1)];  // a box ends at the picture's edge
    if (u === null || u < 0 || u > 1 || v < 0 || v > 1) this.cross = null;
    else {
      const { width, height } = this.image;  // the middle of a pixel
      this.cross = { u: (this.pixelOf(u, width) + 0.5) / width, v: (this.pixelOf(v, height) + 0.5) / height };
    }
    this.redraw();
  }

  onKey(event) {
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const { u, v } = this.cross ?? { u: 0.5, v: 0.5 };
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      this.setCross(clamp(u + dx / this.image.width, 0, 1 - 1e-9), clamp(v + dy / this.image.height, 0, 1 - 1e-9));
      this.showValues();
      this.speak();
    } else if (event.key === "Enter" && this.header.arrangement.may_draw) this.pinCorner();
    else if (event.key === "Escape" && this.corner) { this.corner = null; this.redraw(); }
    else if (event.key === "+" || event.key === "=") this.zoomTo(this.window.zoom * ZOOM_STEP, ...this.crossShare());
    else if (event.key === "-") this.zoomTo(this.window.zoom / ZOOM_STEP, ...this.crossShare());
    else if (event.key === "0") this.zoomTo(1, 0.5, 0.5);
    else if (event.key === "Escape") this.setCross(null);
    else return;
    event.preventDefault();
  }

  /** Enter sets the first corner where the cross-hair stands, and Enter again the other one. */
  pinCorner() {
    const here = this.cross ?? { u: 0.5, v: 0.5 };
    if (this.corner) return this.finishBox(here);
    this.setCross(here.u, here.v);
    this.corner = this.cross;
    this.find(".spoken").textContent = "First corner set; move with the arrow keys and press Enter again";
  }

  crossShare() {
    if (!this.cross) return [0.5, 0.5];
    return [(this.cross.u - this.window.x) * this.window.zoom, (this.cross.v - this.window.y) * this.window.zoom];
  }
}

/** The border between mask and no mask as a path in shares of width and height. */
function outlinePath({ rows, columns, bits }) {
  const inside = (row, column) => row >= 0 && column >= 0 && row < rows && column < columns && bits[row * columns + column] === "1";
  const path = new Path2D();
  for (let row = 0; row <= rows; row++) for (let column = 0; column <= columns; column++) {
    const here = inside(row, column);
    if (here !== inside(row - 1, column)) { path.moveTo(column / columns, row / rows); path.lineTo((column + 1) / columns, row / rows); }
    if (here !== inside(row, column - 1)) { path.moveTo(column / columns, row / rows); path.lineTo(column / columns, (row + 1) / rows); }
  }
  return path;
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".map-grid");
  root.grid ??= new MapGrid(root);  // survives reruns, and with it zoom and choices
  root.grid.receive(data, setStateValue, setTriggerValue);
  return () => { root.grid.observer.disconnect(); root.grid.rest(); };
}
