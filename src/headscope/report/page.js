// What the page itself does beyond being read: show attention, copy the command.

for (const place of document.querySelectorAll("[data-attention]")) {
  mount(place, JSON.parse(document.getElementById(place.dataset.attention).textContent));
}

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
