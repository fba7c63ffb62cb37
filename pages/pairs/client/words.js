// Words with a colour behind each, from values; rows can be chosen with the pointer or the keyboard. All text is
// set as text: whatever a report holds, it is shown, never run.

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** Relative luminance of a colour given as "rgb(...)", to tell a dark page from a light one. */
function luminance(colour) {
  const [red, green, blue] = (colour.match(/[\d.]+/g) ?? [255, 255, 255]).map(Number);
  return brightness(red, green, blue);
}

/** WCAG 2 relative luminance of sRGB levels 0..255. */
function brightness(...levels) {
  const [r, g, b] = levels.map((level) => {
    const share = level / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function groundOf(root) {
  for (let at = root; at; at = at.parentElement ?? at.getRootNode().host) {
    const colour = getComputedStyle(at).backgroundColor;
    if (colour && !/, 0\)|transparent/.test(colour)) return luminance(colour) > 0.4 ? "light" : "dark";
  }
  return "light";
}

class Words {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    root.addEventListener("pointerover", (event) => this.read(event.target));
    root.addEventListener("click", (event) => {
      const row = event.target.closest("button.row");
      if (row && !String(getSelection())) this.pick(row);
      this.read(event.target);
    });
    root.addEventListener("keydown", (event) => this.onKey(event));
  }

  receive(data, trigger) {
    this.trigger = trigger;
    const ground = groundOf(this.root), seen = JSON.stringify([data.groups, data.limit, data.floor, ground]);
    this.find(".groups").setAttribute("role", "group");
    this.find(".groups").setAttribute("aria-label", data.label);
    if (seen === this.seen) return;
    this.seen = seen;
    this.data = data;
    const tables = data.colours[ground];
    this.tables = { unsigned: bytesOf(tables.unsigned), signed: bytesOf(tables.signed) };
    const at = this.root.getRootNode().activeElement?.dataset?.key, home = this.find(".groups"), top = home.scrollTop;
    home.replaceChildren(...data.groups.flatMap((group) => this.group(group)));
    home.scrollTop = top;
    if (at !== undefined) this.rows().find((row) => row.dataset.key === at)?.focus({ preventScroll: true });
    this.legend();
  }

  group({ heading, rows }) {
    const made = rows.map((row) => this.row(row));
    if (!heading) return made;
    const title = document.createElement("h4");
    title.textContent = heading;
    return [title, ...made];
  }

  row(row) {
    const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });
    const line = make(this.data.pickable ? "button" : "div", "row");
    line.dataset.key = row.key;
    if (this.data.pickable) {
      line.type = "button";
      line.setAttribute("aria-pressed", String(row.is_chosen));
    }
    line.classList.toggle("busy", row.is_busy);
    line.classList.toggle("refused", row.is_refused);
    const text = make("span", "text");
    text.append(...row.spans.map((span) => this.span(span, row.is_signed)));
    line.append(make("span", "label", row.label), text);
    if (row.note) line.append(make("span", "note", row.note));
    return line;
  }

  span({ text, value, is_cut }, is_signed) {
    if (value === null) {
      if (!is_cut) return document.createTextNode(text);
      return Object.assign(document.createElement("span"), { className: "cut", textContent: text, title: "not read: the model's texts end here" });
    }
    const word = Object.assign(document.createElement("span"), { className: "word", textContent: text });
    const [red, green, blue] = this.colour(value, is_signed);
    word.style.background = `rgb(${red} ${green} ${blue})`;
    word.style.color = brightness(red, green, blue) > 0.18 ? "#000" : "#fff";
    word.title = `${formatValue(value)} ${this.data.unit}`;
    word.dataset.value = value;
    return word;
  }

  colour(value, is_signed) {
    const table = this.tables[is_signed ? "signed" : "unsigned"], last = table.length / 3 - 1;
    const { limit, floor } = this.data, range = limit - floor;
    const relative = range > 0 ? clamp((is_signed ? value : value - floor) / range, is_signed ? -1 : 0, 1) : 0;
    const at = 3 * Math.round((is_signed ? (relative + 1) / 2 : relative) * last);
    return [table[at], table[at + 1], table[at + 2]];
  }

  legend() {
    const has_signed = this.data.groups.some(({ rows }) => rows.some((row) => row.is_signed));
    const { limit, floor, unit } = this.data, ramp = this.find(".ramp");
    this.find(".legend").hidden = !limit;
    if (!limit) return;
    const table = this.tables[has_signed ? "signed" : "unsigned"], n = table.length / 3;
    ramp.width = n;
    ramp.height = 1;
    const context = ramp.getContext("2d"), pixels = context.createImageData(n, 1);
    for (let i = 0; i < n; i++) pixels.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
    context.putImageData(pixels, 0, 0);
    const plain = `${formatValue(floor)} to ${formatValue(limit)} ${unit}`;
    this.find(".scale").textContent = has_signed
      ? `${formatValue(floor - limit)} to ${formatValue(limit - floor)} ${unit}${floor ? `, rows above: ${plain}` : ""}`
      : plain;
  }

  read(target) {
    const word = target.closest?.(".word");
    if (!word) return;
    const label = word.closest(".row").querySelector(".label").textContent;
    this.find(".readout").textContent = `${label} “${word.textContent}” ${word.title}`;
  }

  rows() { return [...this.root.querySelectorAll(".row")]; }

  pick(row) {
    for (const other of this.rows()) other.setAttribute("aria-pressed", String(other === row));  // at once; the server follows
    this.trigger("picked", row.dataset.key);
  }

  onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], now = event.target.closest("button.row");
    if (!step || !now) return;
    event.preventDefault();
    const rows = this.rows();
    rows[rows.indexOf(now) + step]?.focus();
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".words");
  root.words ??= new Words(root);
  root.words.receive(data, setTriggerValue);
}
