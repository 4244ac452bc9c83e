// The attention view: every head of a model on one prompt, and one of them enlarged.
//
// In: an empty element and the JSON data of headscope.figures.attention.payload. Used by reports, by
// notebooks and by the explorer alike; needs no build step, no network and no library. Tokens are
// untrusted text: they reach the page as text nodes and canvas text only.

import { createAtlas } from "./attention_atlas.js";
import { decodePatterns, element, probabilityText, strongestKeys } from "./attention_data.js";
import { createMatrix, fittingCell } from "./attention_matrix.js";

const TICKS = [0, 0.01, 0.1, 0.25, 0.5, 1];
const HINT = "Point at a cell to read it; with the keyboard, press Enter on a head and use the arrow keys.";

/** Show `example` in `root`; resolves to `{ select(layer, index) }` when it is drawn. */
export async function mount(root, example) {
  root.classList.add("hs-attention");
  let patterns;
  try {
    patterns = await decodePatterns(example);
  } catch (problem) {
    root.append(element("p", "hs-problem", `The attention patterns could not be decoded: ${problem.message}`));
    throw problem;
  }
  return build(root, example, patterns);
}

function build(root, example, patterns) {
  const overview = element("div", "hs-overview");
  const detail = element("div", "hs-detail");
  const title = element("p", "hs-title");
  const reading = readingLine();
  const zoom = zoomControl();
  const table = keyTable(example, patterns);
  const matrix = createMatrix(example, patterns, {
    leave: () => atlas.root.querySelector('[tabindex="0"]').focus(),
    say: reading.say,
  });
  const atlas = createAtlas(example, patterns, {
    enter: () => matrix.field.focus(),
    select(layer, index) {
      title.replaceChildren(...titleParts(example, patterns, layer, index));
      matrix.show(layer, index);
      table.show(layer, index);
      named.mark(layer, index);
    },
  });
  const named = namedHeads(example, (layer, index) => atlas.show(layer, index, false));
  const bar = element("div", "hs-bar");
  bar.append(title, zoom.root);
  overview.append(element("p", "hs-axes", "rows: layers · columns: heads"), atlas.root, named.root);
  detail.append(bar, reading.root, reading.spoken, matrix.root, colourBar(example));
  root.append(overview, detail, table.root, footnotes(example, patterns));

  let chosen = null; // cell size that the reader set, else null: as large as fits
  function draw() {
    const fitting = fittingCell(detail.clientWidth - 8, example.tokens);
    const cell = chosen ?? fitting;
    zoom.set(cell, fitting);
    matrix.root.classList.toggle("hs-zoomed", cell > fitting);
    atlas.draw(overview.clientWidth);
    matrix.draw(cell);
  }
  zoom.onChange((cell) => {
    chosen = cell;
    draw();
  });
  const start = patterns.first;
  const labelled = Object.keys(example.labels)[0]?.split(".").map(Number);
  atlas.show(...(labelled && patterns.has(...labelled) ? labelled : start), false);
  redrawOn(root, draw);
  return { select: (layer, index) => atlas.show(layer, index, false) };
}

/** Draw now, when the width changes, and when the page turns dark or light (labels take its ink). */
function redrawOn(root, draw) {
  let width = 0;
  draw();
  new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    requestAnimationFrame(draw);
  }).observe(root);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

function titleParts(example, patterns, layer, index) {
  const parts = [element("strong", "", `Head ${layer}.${index}`)];
  const label = example.labels[`${layer}.${index}`];
  if (label) parts.push(" ", element("span", "hs-name", label));
  if (!patterns.has(layer, index)) parts.push(" ", element("span", "hs-name", "not embedded in this page"));
  return parts;
}

/** One line for the eye, and one that is spoken: only keys speak, a moving pointer would never stop. */
function readingLine() {
  const root = element("p", "hs-reading", HINT);
  const spoken = element("p", "hs-spoken");
  spoken.setAttribute("aria-live", "polite");
  function say(reading, aloud) {
    if (!reading) {
      root.textContent = HINT;
      return;
    }
    const { query, queryPosition, key, keyPosition, probability } = reading;
    root.replaceChildren(
      token(query), ` (${queryPosition}) → `, token(key), ` (${keyPosition}): `,
      element("strong", "", `p = ${probability}`.replace("= <", "<")),
    );
    if (aloud) spoken.textContent = `query ${query} at ${queryPosition}, key ${key} at ${keyPosition}: ${probability}`;
  }
  return { root, spoken, say };
}

/** A token on its own ground, so that its edges show, and isolated from the direction of the rest. */
function token(text) {
  return element("bdi", "hs-token", text);
}

function zoomControl() {
  const root = element("label", "hs-zoom", "Zoom ");
  const slider = element("input");
  Object.assign(slider, { type: "range", min: "1", max: "26", step: "1" });
  root.append(slider);
  return {
    root,
    set(cell, fitting) {
      slider.min = String(Math.min(fitting, 4));
      slider.value = String(cell);
      slider.setAttribute("aria-valuetext", `${cell} pixels per token`);
    },
    onChange: (act) => slider.addEventListener("input", () => act(Number(slider.value))),
  };
}

function namedHeads(example, go) {
  const root = element("ul", "hs-named");
  root.setAttribute("aria-label", "Named heads");
  const buttons = new Map();
  for (const [name, label] of Object.entries(example.labels)) {
    const button = element("button", "", `${name} ${label}`);
    button.type = "button";
    button.addEventListener("click", () => go(...name.split(".").map(Number)));
    const item = element("li");
    item.append(button);
    root.append(item);
    buttons.set(name, button);
  }
  root.hidden = buttons.size === 0;
  function mark(layer, index) {
    for (const [name, button] of buttons) {
      button.setAttribute("aria-pressed", String(name === `${layer}.${index}`));
    }
  }
  return { root, mark };
}

function colourBar(example) {
  const root = element("div", "hs-legend");
  const strip = element("div", "hs-strip");
  strip.style.background = `linear-gradient(to right, ${example.ramp.join(", ")})`;
  const ticks = element("div", "hs-ticks");
  for (const probability of TICKS) {
    const tick = element("span", "", String(probability));
    tick.style.left = `${Math.sqrt(probability) * 100}%`;
    ticks.append(tick);
  }
  const scale = element("div", "hs-scale");
  scale.append(strip, ticks);
  root.append(element("span", "", "p, attention probability (√ scale)"), scale);
  return root;
}

function footnotes(example, patterns) {
  const sentences = [
    "A query (row) attends to itself and to earlier keys (columns).",
    `Patterns are stored as 8 bits of √p: what is shown here is within ${example.maxError} of the computed value; tables hold the values themselves.`,
    `In tokens: ${example.tokenLegend}.`,
  ];
  if (patterns.missing) {
    sentences.unshift(
      `${example.heads.length} of ${patterns.layers * patterns.heads} heads are embedded, named ones first; all of them would make this page too large.`,
    );
  }
  return element("p", "hs-notes", sentences.join(" "));
}

/** The same pattern as a table: the strongest keys of every query, made when it is opened. */
function keyTable(example, patterns) {
  const root = element("details", "hs-table");
  const summary = root.appendChild(element("summary"));
  const scroll = root.appendChild(element("div", "hs-table-scroll"));
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  const state = { layer: 0, index: 0 };

  function fill() {
    const made = element("table");
    const head = made.createTHead().insertRow();
    for (const name of ["query", "strongest key", "p", "second", "p", "third", "p"]) {
      const cell = element("th", "", name);
      cell.scope = "col";
      head.append(cell);
    }
    const body = made.createTBody();
    const triangle = patterns.triangleOf(state.layer, state.index);
    example.tokens.forEach((text, query) => {
      const line = body.insertRow();
      line.insertCell().append(token(text), ` ${query}`);
      for (const [key, level] of strongestKeys(triangle, query, 3)) {
        line.insertCell().append(token(example.tokens[key]), ` ${key}`);
        line.insertCell().textContent = probabilityText(level);
      }
      while (line.cells.length < 7) line.insertCell();
    });
    scroll.replaceChildren(made);
  }
  root.addEventListener("toggle", () => root.open && patterns.has(state.layer, state.index) && fill());
  return {
    root,
    show(layer, index) {
      Object.assign(state, { layer, index });
      const name = `Strongest keys of every query, head ${layer}.${index}`;
      summary.textContent = `${name} (as a table)`;
      scroll.setAttribute("aria-label", name);
      root.hidden = !patterns.has(layer, index);
      if (root.open && !root.hidden) fill();
    },
  };
}
