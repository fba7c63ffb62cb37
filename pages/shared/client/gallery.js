// Pictures to choose from: one press chooses, arrow keys move.

export default function ({ data, parentElement, setTriggerValue }) {
  const home = parentElement.querySelector(".gallery");
  home.setAttribute("aria-label", data.label);
  const seen = JSON.stringify(data.pictures.map((picture) => picture.key));
  if (home.seen !== seen) {
    home.seen = seen;
    home.replaceChildren(...data.pictures.map((picture) => {
      const button = document.createElement("button"), image = document.createElement("img");
      button.type = "button";
      button.dataset.key = picture.key;
      button.title = picture.title;
      Object.assign(image, { src: picture.source, alt: picture.alt });
      image.onload = () => image.classList.toggle("coarse", image.naturalWidth < 48);
      button.append(image);
      return button;
    }));
  }
  const press = (key) => {
    for (const button of home.children) button.setAttribute("aria-pressed", String(button.dataset.key === key));
  };
  press(data.chosen);
  home.onclick = (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    press(button.dataset.key);  // at once; the server follows
    setTriggerValue("chosen", button.dataset.key);
  };
  home.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const now = event.target.closest("button");
    if (!step || !now) return;
    event.preventDefault();
    (step > 0 ? now.nextElementSibling : now.previousElementSibling)?.focus();
  };
}
