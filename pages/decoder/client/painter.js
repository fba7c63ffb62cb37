// A training support under the brush. What recombining its blocks can reach is drawn at once, in the browser.

const PAINTED = "#0A84C6", GAINED = "#D55E00";
const FIRST_CORNER_PX = 14;  // how near a click must be to the first corner to close the line
const MOST_CORNERS = 100;
const CROSSING = "The line would cross itself there; draw it without crossings.";

/** Whether two segments cut each other; sharing an end does not count. */
function cross([a, b], [c, d]) {
  const side = (p, q, r) => Math.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]));
  return side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0;
}

/** Whether a point lies inside a closed line: how often a ray to the right meets it. */
function encloses(corners, [x, y]) {
  let is_in = false;
  corners.forEach(([x1, y1], i) => {
    const [x0, y0] = corners.at(i - 1);
    if (y0 > y !== y1 > y && x < ((x1 - x0) * (y - y0)) / (y1 - y0) + x0) is_in = !is_in;
  });
  return is_in;
}

class Painter {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.canvas = this.find(".canvas");
    this.cursor = null;
    this.corners = [];  // of the line that is being drawn, right and up in 0..1 of the canvas
    this.outline = null;  // the closed line that the cells were filled from
    this.bind();
    this.observer = new ResizeObserver(() => this.draw());
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributes: true, attributeFilter: ["style", "class"] });
  }

  receive(data, tell) {
    this.tell = tell;
    const is_first = !this.cells;
    this.data = data;
    this.n = data.cells;
    if (is_first) {
      this.load(data.preset, data.mask);
      if (data.outline) this.outline = data.outline;
    }
    this.find(".axis").textContent = data.axes;
    this.buildPresets();
    this.observer.observe(this.canvas);
    this.draw();
  }

  load(preset, mask) {
    this.preset = preset;
    this.outline = null;
    this.dropCorners();
    this.cells = mask.map((row) => [...row].map((cell) => cell === "1"));
  }

  buildPresets() {
    this.find(".presets").replaceChildren(...this.data.presets.map((preset) => {
      const button = document.createElement("button"), picture = document.createElement("canvas"), name = document.createElement("span");
      button.type = "button";
      button.dataset.key = preset.key;
      button.setAttribute("aria-pressed", String(this.preset === preset.key));
      name.textContent = preset.title;
      picture.width = picture.height = this.n;
      const context = picture.getContext("2d");
      context.fillStyle = PAINTED;
      preset.mask.forEach((row, r) => [...row].forEach((cell, c) => { if (cell === "1") context.fillRect(c, this.n - 1 - r, 1, 1); }));
      button.append(picture, name);
      button.addEventListener("click", () => {
        this.load(preset.key, preset.mask);
        this.press();
        this.draw();
        this.send();
      });
      return button;
    }));
  }

  press() {
    for (const button of this.find(".presets").children) button.setAttribute("aria-pressed", String(button.dataset.key === this.preset));
  }

  chosen(name) { return this.root.querySelector(`input[name=${name}]:checked`).value; }

  // ---------------------------------------------------------------- painting
  bind() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [
        this.n - 1 - clamp(Math.floor(((event.clientY - box.top) / box.height) * this.n), 0, this.n - 1),
        clamp(Math.floor(((event.clientX - box.left) / box.width) * this.n), 0, this.n - 1),
      ];
    };
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [clamp((event.clientX - box.left) / box.width, 0, 1), clamp(1 - (event.clientY - box.top) / box.height, 0, 1)];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.cursor = null;
      if (this.chosen("tool") === "corners") { this.addCorner(place(event)); return; }
      this.canvas.setPointerCapture(event.pointerId);
      this.last = at(event);
      this.stroke(this.last, this.last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.last) return;
      const here = at(event);
      this.stroke(this.last, here);
      this.last = here;
    });
    const end = () => { if (this.last) { this.last = null; this.send(); } };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
    this.canvas.addEventListener("keydown", (event) => {
      const way = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      this.cursor ??= [Math.floor(this.n / 2), Math.floor(this.n / 2)];
      const has_corners = this.chosen("tool") === "corners";
      if (way) this.cursor = this.cursor.map((v, k) => clamp(v + way[k], 0, this.n - 1));
      else if (event.key === " " && has_corners) this.addCorner([(this.cursor[1] + 0.5) / this.n, (this.cursor[0] + 0.5) / this.n]);
      else if (event.key === " ") { this.stroke(this.cursor, this.cursor); this.send(); }
      else if (event.key === "Enter" && has_corners) this.closeLine();
      else if (event.key === "Backspace" && this.corners.length) this.corners.pop();
      else return;
      event.preventDefault();
      this.draw();
    });
    this.canvas.addEventListener("blur", () => { this.cursor = null; this.draw(); });
    this.root.querySelectorAll("input[name=tool]").forEach((tool) => tool.addEventListener("change", () => { this.dropCorners(); this.draw(); }));
    this.find(".close").addEventListener("click", () => this.closeLine());
    this.find(".clear").addEventListener("click", () => {
      this.cells = this.cells.map((row) => row.map(() => false));
      this.preset = this.outline = null;
      this.dropCorners();
      this.press();
      this.draw();
      this.send();
    });
  }

  // ---------------------------------------------------------------- a line through corners
  dropCorners() {
    this.corners = [];
    this.refuse("");
  }

  refuse(sentence) { this.find(".refusal").textContent = sentence; }

  /** Whether a new edge cuts the line; its neighbours only touch it. */
  cuts(from, to) { return this.corners.some((corner, i) => i > 0 && cross([this.corners[i - 1], corner], [from, to])); }

  addCorner(corner) {
    const side = this.canvas.clientWidth, [first] = this.corners;
    this.refuse("");
    if (this.corners.length > 2 && Math.hypot(corner[0] - first[0], corner[1] - first[1]) * side < FIRST_CORNER_PX) { this.closeLine(); return; }
    if (this.corners.length && this.cuts(this.corners.at(-1), corner)) this.refuse(CROSSING);
    else if (this.corners.length >= MOST_CORNERS) this.refuse(`At most ${MOST_CORNERS} corners; close the line.`);
    else this.corners.push(corner);
    this.draw();
  }

  /** The inside of the line becomes the support; the cells show it, the server gets the corners themselves. */
  closeLine() {
    if (this.corners.length < 3) { this.refuse("A line needs at least three corners."); return; }
    if (this.cuts(this.corners.at(-1), this.corners[0])) { this.refuse(CROSSING); return; }
    const corners = this.corners;
    this.load(null, this.cells.map((row, r) => row.map((_, c) => (encloses(corners, [(c + 0.5) / this.n, (r + 0.5) / this.n]) ? "1" : "0")).join("")));
    this.outline = corners;
    this.press();
    this.draw();
    this.send();
  }

  /** Paint or erase along a straight line between two cells, so that a fast finger leaves no gaps. */
  stroke([r0, c0], [r1, c1]) {
    const size = Number(this.chosen("brush")), value = this.chosen("tool") === "paint";
    const steps = Math.max(Math.abs(r1 - r0), Math.abs(c1 - c0), 1), back = Math.floor((size - 1) / 2);
    for (let s = 0; s <= steps; s++) {
      const row = Math.round(r0 + ((r1 - r0) * s) / steps) - back, column = Math.round(c0 + ((c1 - c0) * s) / steps) - back;
      for (let r = row; r < row + size; r++) for (let c = column; c < column + size; c++)
        if (r >= 0 && c >= 0 && r < this.n && c < this.n) this.cells[r][c] = value;
    }
    this.preset = this.outline = null;
    this.press();
    this.draw();
  }

  send() { this.tell("support", { preset: this.preset, mask: this.cells.map((row) => row.map(Number).join("")), outline: this.outline }); }

  // ---------------------------------------------------------------- drawing
  /** Whether each row, and each column, is met anywhere: the shadows of the support on its two blocks. */
  shadows() {
    return [this.cells.map((row) => row.some(Boolean)), this.cells[0].map((_, c) => this.cells.some((row) => row[c]))];
  }

  pieces() {
    const left = new Set();
    this.cells.forEach((row, r) => row.forEach((cell, c) => { if (cell) left.add(r * this.n + c); }));
    let count = 0;
    while (left.size) {
      count++;
      const open = [left.values().next().value];
      left.delete(open[0]);
      while (open.length) {
        const at = open.pop(), column = at % this.n;
        for (const next of [at - this.n, at + this.n, column > 0 ? at - 1 : -1, column < this.n - 1 ? at + 1 : -1])
          if (left.delete(next)) open.push(next);
      }
    }
    return count;
  }

  draw() {
    if (!this.cells) return;
    const canvas = this.canvas, ratio = window.devicePixelRatio || 1, side = canvas.clientWidth;
    if (!side) return;
    if (canvas.width !== Math.round(side * ratio)) canvas.width = canvas.height = Math.round(side * ratio);
    const context = canvas.getContext("2d"), style = getComputedStyle(this.root), w = side / this.n;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, side, side);
    const [rows, columns] = this.shadows();
    let painted = 0, gained = 0;
    this.cells.forEach((row, r) => row.forEach((cell, c) => {
      const x = c * w, y = (this.n - 1 - r) * w;
      if (cell) {
        painted++;
        context.fillStyle = PAINTED;
        context.fillRect(x, y, w + 0.5, w + 0.5);
      } else if (rows[r] && columns[c]) {
        gained++;
        context.strokeStyle = GAINED;
        context.lineWidth = 1.2;
        context.beginPath();
        context.moveTo(x, y + w);
        context.lineTo(x + w, y);
        context.stroke();
      }
      context.strokeStyle = style.getPropertyValue("--st-border-color");
      context.lineWidth = 0.5;
      context.strokeRect(x, y, w, w);
    }));
    this.drawLine(context, side, style);
    this.find(".close").hidden = this.corners.length < 3;
    if (this.cursor) {
      context.strokeStyle = style.getPropertyValue("--st-primary-color");
      context.lineWidth = 3;
      context.strokeRect(this.cursor[1] * w, (this.n - 1 - this.cursor[0]) * w, w, w);
    }
    const pieces = this.pieces(), total = this.n ** 2;
    const facts = !painted && this.outline ? "A shape thinner than a cell."
      : !painted ? "Nothing painted: a decoder needs something to learn from."
      : `${Math.round((100 * painted) / total)}% painted, in ${pieces === 1 ? "one piece" : `${pieces} pieces`}. `
        + (gained ? `Recombining blocks reaches another ${Math.round((100 * gained) / total)}%.` : "Recombining blocks reaches nothing new.");
    if (this.find(".facts").textContent !== facts) this.find(".facts").textContent = facts;
    canvas.setAttribute("aria-label", `The training support. ${facts}`);
  }

  /** The line that is being drawn, or the closed one. */
  drawLine(context, side, style) {
    const corners = this.corners.length ? this.corners : this.outline;
    if (!corners) return;
    context.strokeStyle = context.fillStyle = style.getPropertyValue("--st-text-color");
    context.lineWidth = 2;
    context.beginPath();
    corners.forEach(([x, y]) => context.lineTo(x * side, (1 - y) * side));
    if (!this.corners.length) context.closePath();
    context.stroke();
    this.corners.forEach(([x, y], k) => {
      context.beginPath();
      context.arc(x * side, (1 - y) * side, k ? 3.5 : 6, 0, 7);
      context.fill();
    });
  }
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".painter");
  root.painter ??= new Painter(root);
  root.painter.receive(data, setStateValue);
  return () => root.painter.observer.disconnect();
}
