// What the page itself does beyond being read: show attention, say what scrolls, copy the command.

for (const place of document.querySelectorAll("[data-attention]")) {
  mount(place, JSON.parse(document.getElementById(place.dataset.attention).textContent));
}

const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth + 1;
  }
});
for (const box of document.querySelectorAll(".scroll")) widths.observe(box);

for (const button of document.querySelectorAll("button[data-copies]")) {
  const source = document.getElementById(button.dataset.copies);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Without the right to write to the clipboard, the text is at least selected for the reader's own keys.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
  });
}
