// What each column does, side by side: curves with bands or bars, the data's density below, values under the pointer.

const MARGIN = { left: 40, right: 8, top: 8, bottom: 46 };
const DENSITY_PX = 22;
const LETTER_PX = 5.6, LINE_PX = 12; // of a category's name

/** A name in at most two lines of so many letters, cut only where that is too little. */
function inLines(name, letters) {
  const lines = [""];
  for (const word of name.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length <= letters || !lines.at(-1) || lines.length === 2) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.map((line) => (line.length > letters ? (letters > 2 ? `${line.slice(0, letters - 1)}…` : "") : line));
}

/** About n round numbers inside [low, high]. */
function niceTicks(low, high, n) {
  const raw = (high - low) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((s) => s * power >= raw));
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

const tickText = (tick) => (Math.abs(tick) >= 1e5 ? tick.toExponential(0).replace("e+", "e") : String(tick)).replace("-", "−");

const svg = (tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

const signed = (value) => (value > 0 ? "+" : "") + formatValue(value);

const ends = (panel) => [...panel.low, ...panel.high, ...(panel.truth ?? [])];

class Panel {
  constructor(home, shapes) {
    this.shapes = shapes;
    this.figure = document.createElement("figure");
    this.figure.innerHTML = "<div class='head'><b></b><span></span></div><svg tabindex='0' role='img'></svg><p class='said' aria-live='polite'></p>";
    this.find = (selector) => this.figure.querySelector(selector);
    this.plot = this.find("svg");
    home.append(this.figure);
    this.plot.addEventListener("pointermove", (event) => this.point(event.clientX - this.plot.getBoundingClientRect().left));
    this.plot.addEventListener("pointerdown", (event) => this.point(event.clientX - this.plot.getBoundingClientRect().left));
    this.plot.addEventListener("pointerleave", () => this.say(null));
    this.plot.addEventListener("blur", () => this.say(null));
    this.plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !this.data) return;
      event.preventDefault();
      const n = this.data.y.length, stride = this.data.kind === "numeric" ? Math.max(1, Math.round(n / 40)) : 1;
      this.say(clamp((this.index ?? (step > 0 ? -stride : n - 1 + stride)) + step * stride, 0, n - 1));
    });
  }

  receive(data) {
    this.data = data;
    this.index = null;
    this.find("b").textContent = data.title;
    this.find("span").textContent = data.importance === null ? "" : `moves ${formatValue(data.importance)} on average`;
    this.draw();
  }

  draw() {
    const { data, plot } = this, width = plot.clientWidth, height = plot.clientHeight;
    if (!data || !width) return;
    const [y0, y1] = this.shapes.rangeOf(data);
    const bottom = height - MARGIN.bottom - DENSITY_PX, inner = width - MARGIN.left - MARGIN.right;
    const Y = (y) => MARGIN.top + ((y1 - y) / (y1 - y0)) * (bottom - MARGIN.top);
    const parts = [];
    for (const tick of niceTicks(y0, y1, 4)) {
      parts.push(svg("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(tick), y2: Y(tick) }));
      parts.push(svg("text", { x: MARGIN.left - 5, y: Y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    }
    if (y0 < 0 && y1 > 0) parts.push(svg("line", { class: "zero", x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(0), y2: Y(0) }));
    this.Y = Y;
    parts.push(...(data.kind === "numeric" ? this.drawCurve(inner, bottom, Y) : this.drawBars(inner, bottom, Y)));
    if (data.record !== null) {
      const at = data.kind === "numeric" ? this.nearest(data.record) : data.record;
      parts.push(svg("circle", { class: "record", cx: this.X(at), cy: Y(data.y[at]), r: 5 }));
    }
    const below = Math.max(1, ...parts.map((part) => part.querySelectorAll("tspan").length)); // lines of names
    const axisY = height - 3 - LINE_PX * (2 - below);
    parts.push(svg("text", { x: MARGIN.left + inner / 2, y: axisY, "text-anchor": "middle" }, data.axis));
    this.cross = svg("line", { class: "cross", y1: MARGIN.top, y2: bottom + DENSITY_PX, visibility: "hidden" });
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.setAttribute("aria-label", data.alt);
    plot.replaceChildren(...parts, this.cross);
    this.say(this.index);
  }

  drawCurve(inner, bottom, Y) {
    const { data } = this, low = data.x[0], high = data.x.at(-1);
    const at = (x) => MARGIN.left + ((x - low) / (high - low || 1)) * inner;
    const line = (xs, ys) => xs.map((x, i) => `${at(x).toFixed(1)},${Y(ys[i]).toFixed(1)}`).join(" ");
    this.X = (index) => at(data.x[index]);
    this.from = (px) => this.nearest(low + ((px - MARGIN.left) / inner) * (high - low));
    const parts = [svg("polygon", { class: "band", points: `${line(data.x, data.high)} ${line([...data.x].reverse(), [...data.low].reverse())}` })];
    if (data.truth) parts.push(svg("polyline", { class: "truth", points: line(data.x, data.truth) }));
    parts.push(svg("polyline", { class: "line", points: line(data.x, data.y) }));
    // Between whole numbers there are no rows: what was asked are the dots, the line only joins them.
    if (data.is_dotted)
      data.x.forEach((x, i) => parts.push(svg("circle", { class: "dot", cx: at(x), cy: Y(data.y[i]), r: 2.5 })));
    const most = Math.max(...data.counts, 1), share = inner / data.counts.length, floor = bottom + DENSITY_PX;
    data.counts.forEach((count, i) => {
      const tall = (count / most) * (DENSITY_PX - 3);
      parts.push(svg("rect", { class: "density", x: MARGIN.left + i * share, y: floor - tall, width: Math.max(share - 0.5, 0.5), height: tall }));
    });
    parts.push(svg("line", { class: "axis", x1: MARGIN.left, x2: MARGIN.left + inner, y1: floor, y2: floor }));
    for (const tick of niceTicks(low, high, Math.max(4, Math.floor(inner / 50))))
      parts.push(svg("text", { x: at(tick), y: floor + 12, "text-anchor": "middle" }, tickText(tick)));
    return parts;
  }

  drawBars(inner, bottom, Y) {
    const { data } = this, share = inner / data.names.length, wide = Math.min(share * 0.7, 46), floor = bottom + DENSITY_PX;
    this.X = (index) => MARGIN.left + (index + 0.5) * share;
    this.from = (px) => clamp(Math.floor((px - MARGIN.left) / share), 0, data.names.length - 1);
    const most = Math.max(...data.counts, 1), parts = [];
    const letters = Math.max(1, Math.floor(share / LETTER_PX));
    data.names.forEach((name, i) => {
      const x = this.X(i), tall = (data.counts[i] / most) * (DENSITY_PX - 3);
      parts.push(svg("rect", { class: "bar", x: x - wide / 2, width: wide, y: Math.min(Y(0), Y(data.y[i])), height: Math.max(Math.abs(Y(data.y[i]) - Y(0)), 0.5) }));
      parts.push(svg("line", { class: "reach", x1: x, x2: x, y1: Y(data.low[i]), y2: Y(data.high[i]) }));
      if (data.truth) parts.push(svg("line", { class: "truth", x1: x - wide / 2 - 3, x2: x + wide / 2 + 3, y1: Y(data.truth[i]), y2: Y(data.truth[i]) }));
      parts.push(svg("rect", { class: "density", x: x - wide / 2, width: wide, y: floor - tall, height: tall }));
      const label = svg("text", { "text-anchor": "middle" });
      inLines(name, letters).forEach((line, k) => label.append(svg("tspan", { x, y: floor + LINE_PX * (k + 1) }, line)));
      label.append(svg("title", {}, name));
      parts.push(label);
    });
    return parts;
  }

  nearest(x) {
    const { data } = this, step = (data.x.at(-1) - data.x[0]) / (data.x.length - 1) || 1;
    return clamp(Math.round((x - data.x[0]) / step), 0, data.x.length - 1);
  }

  point(px) { if (this.from) this.say(this.from(px)); }

  /** Say the value at an index, or what can be said without one. */
  say(index) {
    this.index = index;
    const { data } = this, said = this.find(".said");
    this.cross?.setAttribute("visibility", index === null ? "hidden" : "visible");
    if (index === null) { said.textContent = data?.note ?? ""; return; }
    const x = this.X(index);
    this.cross.setAttribute("x1", x);
    this.cross.setAttribute("x2", x);
    const at = data.kind === "numeric" ? `${formatValue(data.x[index])}${data.unit ? ` ${data.unit}` : ""}` : data.names[index];
    const truth = data.truth ? `, truth ${signed(data.truth[index])}` : "";
    said.textContent = `${at}: ${signed(data.y[index])} (${signed(data.low[index])} to ${signed(data.high[index])})${truth}`;
  }
}

class Shapes {
  constructor(root) {
    this.root = root;
    this.panels = [];
    this.own = root.querySelector(".own input");
    this.own.addEventListener("change", () => this.panels.forEach((panel) => panel.draw()));
    this.observer = new ResizeObserver(() => this.panels.forEach((panel) => panel.draw()));
  }

  receive(data) {
    this.observer.observe(this.root);
    const text = JSON.stringify(data);
    if (text === this.seen) return;
    this.seen = text;
    this.data = data;
    const home = this.root.querySelector(".panels");
    while (this.panels.length > data.panels.length) this.panels.pop().figure.remove();
    while (this.panels.length < data.panels.length) this.panels.push(new Panel(home, this));
    const keys = [["line", data.effect], ["band", data.band], ["data", "rows of the data"]];
    if (data.panels.some((panel) => panel.truth)) keys.push(["truth", "truth"]);
    if (data.panels.some((panel) => panel.record !== null)) keys.push(["record", data.record]);
    this.root.querySelector(".keys").replaceChildren(...keys.map(([name, words]) => {
      const span = document.createElement("span");
      span.className = `of-${name}`;
      span.textContent = words;
      return span;
    }));
    this.panels.forEach((panel, i) => panel.receive(data.panels[i]));
  }

  /** The vertical range of a panel: one for all, or its own. */
  rangeOf(panel) {
    const values = (this.own.checked ? [panel] : this.data.panels).flatMap(ends).concat(0);
    const low = Math.min(...values), high = Math.max(...values), room = (high - low) * 0.06 || 1;
    return [low - room, high + room];
  }

  rest() { this.observer.disconnect(); }
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".shapes");
  root.shapes ??= new Shapes(root);
  root.shapes.receive(data);
  return () => root.shapes.rest();
}
