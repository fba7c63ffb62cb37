// Frames and their curve, moved by one finger: frame, marker and label change in the browser only.

const FRAMES_PER_SECOND = 10;
const MARGIN = { left: 46, right: 12, top: 12, bottom: 36 };
const COLOURS = ["#D55E00", "#0A84C6", "#009E73", "#CC79A7"];

/** About n round numbers inside [low, high]. */
function niceTicks(low, high, n) {
  const raw = (high - low) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((s) => s * power >= raw));
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

const tickText = (tick) => String(tick).replace("-", "−");

const svg = (tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

class Scrubber {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.track = 0;
    this.range = this.find(".at");
    this.range.addEventListener("input", () => { this.pause(); this.show(); });
    this.find(".play").addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    this.observer = new ResizeObserver(() => this.drawPlot());
    const follow = (event) => {
      if (!event.buttons && event.type !== "pointerdown") return;
      this.pause();
      const box = this.find(".plot").getBoundingClientRect();
      this.goTo(this.xFrom(event.clientX - box.left));
    };
    this.find(".plot").addEventListener("pointerdown", follow);
    this.find(".plot").addEventListener("pointermove", follow);
  }

  receive(data) {
    const text = JSON.stringify(data.tracks.map((track) => [track.title, track.x, track.y, track.frames[0]]));
    if (text === this.seen) { this.observer.observe(this.find(".plot")); return; }
    this.seen = text;
    this.data = data;
    this.track = Math.min(this.track, data.tracks.length - 1);
    this.drawTracks();
    this.range.max = this.current.frames.length - 1;
    this.range.value = data.start ?? 0;
    this.range.setAttribute("aria-label", data.x_title);
    this.find(".frame").classList.toggle("coarse", data.coarse);
    this.observer.observe(this.find(".plot"));
    this.drawPlot();
  }

  get current() { return this.data.tracks[this.track]; }

  drawTracks() {
    const home = this.find(".tracks");
    home.hidden = this.data.tracks.length < 2;
    home.querySelectorAll("label").forEach((label) => label.remove());
    this.data.tracks.forEach((track, index) => {
      const label = document.createElement("label"), input = document.createElement("input"), span = document.createElement("span");
      Object.assign(input, { type: "radio", name: "track", checked: index === this.track });
      input.addEventListener("change", () => {
        this.track = index;
        this.range.max = this.current.frames.length - 1;
        this.drawPlot();
      });
      span.textContent = track.title;
      label.append(input, span);
      home.append(label);
    });
  }

  // ------------------------------------------------------------------ curve
  drawPlot() {
    const plot = this.find(".plot"), width = plot.clientWidth, height = plot.clientHeight;
    if (!this.data || !width) return;
    const all_x = this.data.tracks.flatMap((track) => track.x), all_y = this.data.tracks.flatMap((track) => track.y);
    const ends = (values) => {
      const low = Math.min(...values), high = Math.max(...values), room = (high - low) * 0.06 || 1;
      return [low - room, high + room];
    };
    const [x0, x1] = [Math.min(...all_x), Math.max(...all_x)], [y0, y1] = ends(all_y);
    const inner_width = width - MARGIN.left - MARGIN.right, inner_height = height - MARGIN.top - MARGIN.bottom;
    const X = (x) => MARGIN.left + ((x - x0) / (x1 - x0 || 1)) * inner_width;
    const Y = (y) => MARGIN.top + ((y1 - y) / (y1 - y0)) * inner_height;
    this.place = (index) => [X(this.current.x[index]), Y(this.current.y[index])];
    this.xFrom = (px) => x0 + ((px - MARGIN.left) / inner_width) * (x1 - x0);

    const parts = [];
    for (const tick of niceTicks(y0, y1, 4)) {
      parts.push(svg("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(tick), y2: Y(tick) }));
      parts.push(svg("text", { x: MARGIN.left - 6, y: Y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    }
    for (const tick of niceTicks(x0, x1, 4))
      parts.push(svg("text", { x: X(tick), y: height - MARGIN.bottom + 15, "text-anchor": "middle" }, tickText(tick)));
    parts.push(svg("text", { x: MARGIN.left + inner_width / 2, y: height - 3, "text-anchor": "middle" }, this.data.x_title));
    parts.push(svg("text", { x: 4, y: MARGIN.top - 2 }, this.data.y_title));
    if (y0 < 0 && y1 > 0) parts.push(svg("line", { class: "zero", x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(0), y2: Y(0) }));
    this.data.tracks.forEach((track, index) => parts.push(svg("polyline", {
      class: index === this.track ? "line" : "line other", stroke: COLOURS[index % COLOURS.length],
      points: track.x.map((x, i) => `${X(x)},${Y(track.y[i])}`).join(" "),
    })));
    this.marker = svg("circle", { class: "marker", r: 7, fill: COLOURS[this.track % COLOURS.length] });
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.setAttribute("aria-label", `${this.data.y_title} over ${this.data.x_title}: `
      + this.data.tracks.map((t) => `${t.title} from ${formatValue(t.y[0])} to ${formatValue(t.y.at(-1))}`).join("; "));
    plot.replaceChildren(...parts, this.marker);
    this.show();
  }

  show() {
    const index = Number(this.range.value), label = this.current.labels[index];
    const frame = this.find(".frame");
    frame.src = this.current.frames[index];
    frame.alt = `${this.current.title}: ${label}`;
    const [x, y] = this.place(index);
    this.marker.setAttribute("cx", x);
    this.marker.setAttribute("cy", y);
    this.find(".label").textContent = label;
    this.range.setAttribute("aria-valuetext", label);
  }

  goTo(x) {
    const distances = this.current.x.map((at) => Math.abs(at - x));
    this.range.value = distances.indexOf(Math.min(...distances));
    this.show();
  }

  // ------------------------------------------------------------------ playing
  play() {
    if (Number(this.range.value) >= Number(this.range.max)) this.range.value = 0;
    this.timer = setInterval(() => {
      this.range.value = Number(this.range.value) + 1;
      this.show();
      if (Number(this.range.value) >= Number(this.range.max)) this.pause();
    }, 1000 / FRAMES_PER_SECOND);
    this.showButton("❚❚", "Pause");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = 0;
    this.showButton("▶", "Play");
  }

  showButton(sign, name) {
    this.find(".play").textContent = sign;
    this.find(".play").setAttribute("aria-label", name);
  }

  rest() {
    this.observer.disconnect();
    this.pause();
  }
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".scrubber");
  root.scrubber ??= new Scrubber(root);  // survives reruns: the frame stays where the finger left it
  root.scrubber.receive(data);
  return () => root.scrubber.rest();
}
