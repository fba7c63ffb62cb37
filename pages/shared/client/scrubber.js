// Frames and their curves, moved by one finger: frame, markers and label change in the browser only.

const FRAMES_PER_SECOND = 10;
const MARGIN = { left: 46, right: 12, top: 22, bottom: 36 };
const COLOURS = ["#D55E00", "#0A84C6", "#009E73", "#CC79A7"];
const LANE_COLOUR = "#009E73";
const THUMB_PX = 30;  // at least so wide in the strip
const LOOK_EVERY_MS = 60;  // for frames that are on their way

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

const extent = (values) => {
  const known = values.filter((value) => value !== null);
  const low = Math.min(...known), high = Math.max(...known), room = (high - low) * 0.06 || 1;
  return [low - room, high + room];
};

/** One curve over the path, of every track, with a marker that follows the frame. */
class Plot {
  constructor(scrubber, lane) {
    this.scrubber = scrubber;
    this.lane = lane;  // null: the curve itself; else the number of a lane beside it
    this.root = svg("svg", { class: lane === null ? "plot" : "plot lane", role: "img", preserveAspectRatio: "none" });
    const follow = (event) => {
      if (!event.buttons && event.type !== "pointerdown") return;
      const box = this.root.getBoundingClientRect();
      scrubber.goTo(this.xFrom(event.clientX - box.left));
    };
    this.root.addEventListener("pointerdown", (event) => { this.root.setPointerCapture(event.pointerId); follow(event); });
    this.root.addEventListener("pointermove", follow);
  }

  curve(track) { return this.lane === null ? track : track.lanes[this.lane]; }

  get title() { return this.lane === null ? this.scrubber.data.y_title : this.curve(this.scrubber.current).title; }

  draw() {
    const { data, current, track: chosen } = this.scrubber;
    const width = this.root.clientWidth, height = this.root.clientHeight;
    if (!width) return;
    const tracks = data.tracks, xs = tracks.flatMap((track) => track.x);
    const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
    const curves = tracks.map((track) => this.curve(track));
    const [y0, y1] = extent(curves.flatMap((c) => [...c.y, ...(c.low ?? []), ...(c.high ?? []), ...(c.reference ?? [])]));
    const inner_width = width - MARGIN.left - MARGIN.right, inner_height = height - MARGIN.top - MARGIN.bottom;
    const X = (x) => MARGIN.left + ((x - x0) / (x1 - x0 || 1)) * inner_width;
    const Y = (y) => MARGIN.top + ((y1 - y) / (y1 - y0)) * inner_height;
    const line = (x, y) => x.map((at, i) => (y[i] === null ? null : `${X(at)},${Y(y[i])}`)).filter(Boolean).join(" ");
    this.place = (index) => { const y = this.curve(this.scrubber.current).y[index]; return y === null ? null : [X(this.scrubber.current.x[index]), Y(y)]; };
    this.xFrom = (px) => x0 + ((px - MARGIN.left) / inner_width) * (x1 - x0);

    const parts = [];
    for (const tick of niceTicks(y0, y1, inner_height > 120 ? 4 : 3)) {
      parts.push(svg("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(tick), y2: Y(tick) }));
      parts.push(svg("text", { x: MARGIN.left - 6, y: Y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    }
    for (const tick of niceTicks(x0, x1, 4))
      parts.push(svg("text", { x: X(tick), y: height - MARGIN.bottom + 15, "text-anchor": "middle" }, tickText(tick)));
    parts.push(svg("text", { x: MARGIN.left + inner_width / 2, y: height - 3, "text-anchor": "middle" }, data.x_title));
    parts.push(svg("text", { x: 4, y: MARGIN.top - 11 }, this.title));
    if (y0 < 0 && y1 > 0) parts.push(svg("line", { class: "zero", x1: MARGIN.left, x2: width - MARGIN.right, y1: Y(0), y2: Y(0) }));
    if (current.inner) parts.push(...this.drawOutside(current, X, x0, x1, height));
    curves.forEach((curve, index) => {
      const x = tracks[index].x, colour = this.lane === null ? COLOURS[index % COLOURS.length] : LANE_COLOUR;
      if (index === chosen && curve.low)
        parts.push(svg("polygon", { class: "band", fill: colour, points: `${line(x, curve.high)} ${line([...x].reverse(), [...curve.low].reverse())}` }));
      if (index === chosen && curve.reference)
        parts.push(svg("polyline", { class: "reference", points: line(x, curve.reference) }));
      parts.push(svg("polyline", { class: index === chosen ? "line" : "line other", stroke: colour, points: line(x, curve.y) }));
    });
    this.marker = svg("circle", { class: "marker", r: 7, fill: this.lane === null ? COLOURS[chosen % COLOURS.length] : LANE_COLOUR });
    this.root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.root.setAttribute("aria-label", `${this.title} over ${data.x_title}: ` + tracks.map((track, index) => {
      const known = curves[index].y.filter((value) => value !== null);
      return `${track.title} from ${formatValue(known[0] ?? NaN)} to ${formatValue(known.at(-1) ?? NaN)}`;
    }).join("; "));
    this.root.replaceChildren(...parts, this.marker);
    this.show();
  }

  /** What lies beyond both ends is shaded and said. */
  drawOutside(track, X, x0, x1, height) {
    const [low, high] = track.inner, bottom = height - MARGIN.bottom, parts = [];
    for (const [from, to] of [[x0, low], [high, x1]])
      if (to > from) parts.push(svg("rect", { class: "outside", x: X(from), y: MARGIN.top, width: X(to) - X(from), height: bottom - MARGIN.top }));
    for (const x of track.inner) parts.push(svg("line", { class: "end-line", x1: X(x), x2: X(x), y1: MARGIN.top, y2: bottom }));
    return parts;
  }

  show() {
    const place = this.place?.(this.scrubber.index);
    this.marker?.setAttribute("visibility", place ? "visible" : "hidden");
    if (!place) return;
    this.marker.setAttribute("cx", place[0]);
    this.marker.setAttribute("cy", place[1]);
  }
}

class Scrubber {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.track = 0;
    this.plots = [];
    this.range = this.find(".at");
    this.range.addEventListener("input", () => { this.pause(); this.show(); });
    this.find(".play").addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    this.observer = new ResizeObserver(() => { this.drawStrip(); this.plots.forEach((plot) => plot.draw()); this.show(); });
    const strip = this.find(".strip");
    const follow = (event) => {
      if (!event.buttons && event.type !== "pointerdown") return;
      const box = strip.getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
      this.goToFrame(Math.floor(clamp(share, 0, 0.9999) * this.current.frames.length));
    };
    strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); follow(event); });
    strip.addEventListener("pointermove", follow);
  }

  receive(data) {
    this.observer.observe(this.root);
    const text = JSON.stringify([data.ticket, data.ends?.map((end) => end.source), data.tracks.map((track) =>
      [track.title, track.x, track.y, track.lanes, track.labels, track.frames.map((frame) => frame?.length), track.frames[0]])]);
    if (text === this.seen) { this.watch(); return; }
    const is_same_path = this.data && this.data.ticket === data.ticket;
    this.seen = text;
    const before = this.data, at = this.range.value;
    this.data = data;
    if (is_same_path && data.ticket) this.keepFrames(before);
    this.track = Math.min(this.track, data.tracks.length - 1);
    this.drawTracks();
    this.range.max = this.current.frames.length - 1;
    this.range.value = is_same_path && before.tracks[0].x.length === data.tracks[0].x.length ? at : data.start ?? 0;
    this.range.setAttribute("aria-label", data.x_title);
    this.find(".stage").classList.toggle("framed", Boolean(data.ends));
    this.root.classList.toggle("coarse", data.coarse);
    this.root.style.setProperty("--ratio", data.ratio);
    this.drawEnds();
    this.drawPlots();
    this.warm();
    this.drawStrip();
    this.show();
    this.watch();
  }

  get current() { return this.data.tracks[this.track]; }

  get index() { return Number(this.range.value); }

  /** Frames of the same path that are here already stay where the newer data has none yet. */
  keepFrames(before) {
    this.data.tracks.forEach((track, t) => track.frames.forEach((frame, i) => {
      if (frame === null) track.frames[i] = before.tracks[t]?.frames[i] ?? null;
    }));
  }

  /** A decoded picture is shown at once when its address is: nothing flickers under the finger. */
  warm() {
    this.warmed = this.data.tracks.flatMap((track) => track.frames).filter(Boolean).map((source) => Object.assign(new Image(), { src: source }));
    this.warmed.forEach((image) => image.decode().catch(() => {}));
  }

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
        this.drawStrip();
        this.plots.forEach((plot) => plot.draw());
        this.show();
      });
      span.textContent = track.title;
      label.append(input, span);
      home.append(label);
    });
  }

  drawEnds() {
    this.root.querySelectorAll(".end").forEach((figure, i) => {
      const end = this.data.ends?.[i];
      figure.hidden = !end;
      if (!end) return;
      Object.assign(figure.querySelector("img"), { src: end.source, alt: end.alt });
      figure.querySelector("figcaption").textContent = end.title;
    });
  }

  drawPlots() {
    const wanted = 1 + this.current.lanes.length, home = this.find(".plots");
    if (this.plots.length !== wanted) {
      this.plots = Array.from({ length: wanted }, (_, i) => new Plot(this, i ? i - 1 : null));
      home.replaceChildren(...this.plots.map((plot) => plot.root));
    }
    home.classList.toggle("several", wanted > 1);
    this.plots.forEach((plot) => plot.draw());
  }

  // ------------------------------------------------------------------ the strip
  drawStrip() {
    const strip = this.find(".strip");
    strip.hidden = !this.data?.strip;
    if (strip.hidden) return;
    const n = this.current.frames.length, shown = Math.min(n, Math.max(5, Math.floor(strip.clientWidth / THUMB_PX)));
    this.shown = Array.from({ length: shown }, (_, k) => Math.round((k * (n - 1)) / (shown - 1)));
    strip.replaceChildren(...this.shown.map((index) => {
      const cell = document.createElement("div"), source = this.current.frames[index];
      cell.className = this.isBeyond(index) ? "beyond" : "inside";
      if (source) cell.append(Object.assign(new Image(), { src: source, alt: "", draggable: false }));
      return cell;
    }));
  }

  isBeyond(index) {
    const { inner, x } = this.current;
    return Boolean(inner) && (x[index] < inner[0] - 1e-9 || x[index] > inner[1] + 1e-9);
  }

  // ------------------------------------------------------------------ frames on their way
  /** Frames that arrive while the server works travel in an element that nobody sees. */
  watch() {
    clearInterval(this.looking);
    if (!this.data.ticket || this.current.frames.every(Boolean)) return;
    this.looking = setInterval(() => {
      const home = document.querySelector("[data-prism-frames]");
      if (!home || home.dataset.prismFrames === this.arrived) return;
      this.arrived = home.dataset.prismFrames;
      const sent = JSON.parse(this.arrived);
      if (sent.ticket !== this.data.ticket) return;
      Object.entries(sent.frames).forEach(([index, source]) => { this.current.frames[index] ??= source; });
      this.warm();
      this.drawStrip();
      this.show();
      if (this.current.frames.every(Boolean)) clearInterval(this.looking);
    }, LOOK_EVERY_MS);
  }

  // ------------------------------------------------------------------ under the finger
  show() {
    if (!this.data) return;
    const index = this.index, label = this.current.labels[index], source = this.current.frames[index];
    const frame = this.find(".frame");
    const drawn = source ?? this.nearest(index);
    if (drawn && frame.getAttribute("src") !== drawn) frame.src = drawn;
    if (!drawn) frame.removeAttribute("src");
    frame.alt = drawn ? `${this.current.title}: ${label}` : "";
    this.find(".wait").hidden = Boolean(source);
    this.find(".now").classList.toggle("beyond", this.isBeyond(index));
    this.plots.forEach((plot) => plot.show());
    if (this.shown) {
      const n = this.current.frames.length, here = Math.round((index * (this.shown.length - 1)) / (n - 1));
      Array.from(this.find(".strip").children).forEach((cell, k) => cell.classList.toggle("current", k === here));
    }
    this.find(".label").textContent = label;
    this.range.setAttribute("aria-valuetext", label);
  }

  /** The closest frame that is here already. */
  nearest(index) {
    const { frames } = this.current;
    for (let away = 1; away < frames.length; away++) {
      const found = frames[index - away] ?? frames[index + away];
      if (found) return found;
    }
    return null;
  }

  goTo(x) {
    const distances = this.current.x.map((at) => Math.abs(at - x));
    this.goToFrame(distances.indexOf(Math.min(...distances)));
  }

  /** Many pointer events fall into one picture of the screen: only the last is drawn. */
  goToFrame(index) {
    this.pause();
    this.range.value = index;
    this.drawing ??= requestAnimationFrame(() => { this.drawing = undefined; this.show(); });
  }

  // ------------------------------------------------------------------ playing
  play() {
    if (this.index >= Number(this.range.max)) this.range.value = 0;
    this.timer = setInterval(() => {
      this.range.value = this.index + 1;
      this.show();
      if (this.index >= Number(this.range.max)) this.pause();
    }, 1000 / FRAMES_PER_SECOND);
    this.showButton("❚❚", "Pause");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = 0;
    this.showButton("▶", "Play");
  }

  showButton(sign, name) {
    const button = this.find(".play");
    if (button.textContent === sign) return;
    button.textContent = sign;
    button.setAttribute("aria-label", name);
  }

  rest() {
    this.observer.disconnect();
    clearInterval(this.looking);
    this.pause();
  }
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".scrubber");
  root.scrubber ??= new Scrubber(root);  // survives reruns: the frame stays where the finger left it
  root.scrubber.receive(data);
  return () => root.scrubber.rest();
}
