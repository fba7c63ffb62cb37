// A picture pasted anywhere on the page goes into an uploader, as if it had been chosen there.

export default function ({ data, parentElement }) {
  const onPaste = (event) => {
    const pasted = event.clipboardData;
    const picture = [...(pasted?.files ?? [])].find((file) => file.type.startsWith("image/"));
    const input = document.querySelector(`.st-key-${data.uploader} input[type=file]`);
    const isText = pasted?.getData("text/plain") && event.target.closest?.("input, textarea");  // a cell, a paragraph
    if (!picture || !input || isText) return;
    event.preventDefault();
    const files = new DataTransfer();
    files.items.add(picture);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("paste", onPaste);
  parentElement.querySelector("span").dataset.listens = data.uploader;  // mounted after the page is at rest: tests ask
  return () => document.removeEventListener("paste", onPaste);
}
