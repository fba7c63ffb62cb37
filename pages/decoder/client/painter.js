// A training support under the brush. What recombining its blocks can reach is drawn at once, in the browser.

const PAINTED = "#0A84C6", GAINED = "#D55E00";

class Painter {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.canvas = this.find(".canvas");
    this.cursor = null;
    this.bind();
    this.observer = new ResizeObserver(() => this.draw());
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributes: true, attributeFilter: ["style", "class"] });
  }

  receive(data, tell) {
    this.tell = tell;
    const is_first = !this.cells;
    this.data = data;
    this.n = data.cells;
    if (is_first) this.load(data.preset, data.mask);
    this.find(".axis").textContent = data.axes;
    this.buildPresets();
    this.observer.observe(this.canvas);
    this.draw();
  }

  load(preset, mask) {
    this.preset = preset;
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
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.last = at(event);
      this.cursor = null;
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
      if (way) this.cursor = this.cursor.map((v, k) => clamp(v + way[k], 0, this.n - 1));
      else if (event.key === " ") { this.stroke(this.cursor, this.cursor); this.send(); }
      else return;
      event.preventDefault();
      this.draw();
    });
    this.canvas.addEventListener("blur", () => { this.cursor = null; this.draw(); });
    this.find(".clear").addEventListener("click", () => {
      this.cells = this.cells.map((row) => row.map(() => false));
      this.preset = null;
      this.press();
      this.draw();
      this.send();
    });
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
    this.preset = null;
    this.press();
    this.draw();
  }

  send() { this.tell("support", { preset: this.preset, mask: this.cells.map((row) => row.map(Number).join("")) }); }

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
    if (this.cursor) {
      context.strokeStyle = style.getPropertyValue("--st-primary-color");
      context.lineWidth = 3;
      context.strokeRect(this.cursor[1] * w, (this.n - 1 - this.cursor[0]) * w, w, w);
    }
    const pieces = this.pieces(), total = this.n ** 2;
    const facts = !painted ? "Nothing painted: a decoder needs something to learn from."
      : `${Math.round((100 * painted) / total)}% painted, in ${pieces === 1 ? "one piece" : `${pieces} pieces`}. `
        + (gained ? `Recombining blocks reaches another ${Math.round((100 * gained) / total)}%.` : "Recombining blocks reaches nothing new.");
    if (this.find(".facts").textContent !== facts) this.find(".facts").textContent = facts;
    canvas.setAttribute("aria-label", `The training support. ${facts}`);
  }
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".painter");
  root.painter ??= new Painter(root);
  root.painter.receive(data, setStateValue);
  return () => root.painter.observer.disconnect();
}
