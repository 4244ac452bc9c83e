// One head, enlarged: a query per row, a key per column, every token by its own label.
//
// The canvas holds one pixel per value and is scaled by whole numbers of CSS pixels, so that a cell is
// exactly one value at every zoom and memory does not grow with it. Labels stay in view while the matrix
// scrolls. A cursor, moved by the pointer or by the arrow keys, reads out one value.

import { colourTable, element, placeOf, probabilityText } from "./attention_data.js";

const LARGEST_CELL = 26;
const LABEL_SPACE = 9; // pixels that one line of label needs
const LONGEST_LABEL = 13; // characters; the read-out has the whole token
const MOST_PIXELS = 16000; // of a canvas side, in the strictest browser

/** Build the enlarged view; `leave()` is called on Escape, `say(text, spoken)` with every read-out. */
export function createMatrix(example, patterns, { leave, say }) {
  const root = element("div", "hs-matrix");
  const queryLabels = root.appendChild(element("canvas", "hs-queries"));
  const field = root.appendChild(element("div", "hs-field"));
  root.appendChild(element("div", "hs-under"));
  const keyLabels = root.appendChild(element("canvas", "hs-keys"));
  queryLabels.setAttribute("aria-hidden", "true");
  keyLabels.setAttribute("aria-hidden", "true");
  field.tabIndex = 0;
  field.setAttribute("role", "application");
  field.setAttribute("aria-roledescription", "attention pattern");
  const canvas = field.appendChild(element("canvas", "hs-values"));
  const bands = ["hs-band-query", "hs-band-key"].map((name) => field.appendChild(element("div", `hs-band ${name}`)));
  const colours = colourTable(example.ramp);
  const state = { layer: 0, index: 0, cell: 0, cursor: null };

  function moveTo(query, key, spoken) {
    state.cursor = { query, key };
    placeBands(bands, state);
    drawLabels();
    say(readout(example, patterns, state), spoken);
  }

  function clear() {
    if (!state.cursor) return;
    state.cursor = null;
    placeBands(bands, state);
    drawLabels();
    say(null, false);
  }

  function drawLabels() {
    paintLabels(queryLabels, example.tokens, state, false);
    paintLabels(keyLabels, example.tokens, state, true);
  }

  function show(layer, index) {
    Object.assign(state, { layer, index });
    const known = patterns.has(layer, index);
    root.classList.toggle("hs-none", !known);
    field.setAttribute("aria-label", fieldLabel(example, patterns, layer, index));
    paintValues(canvas, known ? patterns.triangleOf(layer, index) : null, patterns.length, colours);
    if (state.cursor) say(readout(example, patterns, state), false);
  }

  function draw(cell) {
    state.cell = cell;
    const side = `${patterns.length * cell}px`;
    for (const sized of [canvas, field]) Object.assign(sized.style, { width: side, height: side });
    drawLabels();
    placeBands(bands, state);
  }

  field.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const query = Math.floor((event.clientY - box.top) / state.cell);
    const key = Math.floor((event.clientX - box.left) / state.cell);
    const inside = query >= 0 && query < patterns.length && key >= 0 && key <= query;
    if (!inside) clear();
    else if (state.cursor?.query !== query || state.cursor?.key !== key) moveTo(query, key, false);
  });
  field.addEventListener("pointerleave", clear);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      clear();
      leave();
      return;
    }
    const target = movedCursor(event, state.cursor, patterns.length);
    if (!target) return;
    event.preventDefault();
    moveTo(target.query, target.key, true);
    reveal(root, field, state, queryLabels, keyLabels);
  });
  return { root, field, show, draw };
}

/** The largest cell at which all tokens and their labels fit into `room` pixels. */
export function fittingCell(room, tokens) {
  let cell = LARGEST_CELL;
  while (cell > 1 && cell * tokens.length + labelWidth(tokens, cell) > room) cell -= 1;
  return cell;
}

function readout(example, patterns, { layer, index, cursor }) {
  if (!patterns.has(layer, index)) return null;
  const level = patterns.triangleOf(layer, index)[placeOf(cursor.query, cursor.key)];
  return {
    query: example.tokens[cursor.query],
    queryPosition: cursor.query,
    key: example.tokens[cursor.key],
    keyPosition: cursor.key,
    probability: probabilityText(level),
  };
}

function fieldLabel(example, patterns, layer, index) {
  const label = example.labels[`${layer}.${index}`];
  const name = `Attention of head ${layer}.${index}${label ? `, ${label}` : ""}`;
  if (!patterns.has(layer, index)) return `${name}: not embedded in this page`;
  const keys = "Arrow keys move between query and key tokens, Escape returns to the heads.";
  return `${name}, ${patterns.length} tokens. ${keys}`;
}

function movedCursor(event, cursor, length) {
  const last = length - 1;
  // The first key press sets the cursor on the last query, which has seen the whole prompt.
  const from = cursor ?? { query: last, key: last };
  const steps = {
    ArrowUp: [from.query - 1, from.key],
    ArrowDown: [from.query + 1, from.key],
    ArrowLeft: [from.query, from.key - 1],
    ArrowRight: [from.query, from.key + 1],
    Home: [from.query, 0],
    End: [from.query, from.query],
  };
  const step = steps[event.key];
  if (!step) return null;
  if (!cursor) return from;
  const query = Math.min(Math.max(step[0], 0), last);
  return { query, key: Math.min(Math.max(step[1], 0), query) };
}

function reveal(root, field, { cell, cursor }, queryLabels, keyLabels) {
  const left = cursor.key * cell;
  const top = cursor.query * cell;
  const wide = root.clientWidth - queryLabels.offsetWidth - cell;
  const high = root.clientHeight - keyLabels.offsetHeight - cell;
  root.scrollLeft = Math.min(left, Math.max(root.scrollLeft, left - wide));
  root.scrollTop = Math.min(top, Math.max(root.scrollTop, top - high));
}

function placeBands(bands, { cell, cursor }) {
  for (const band of bands) band.hidden = !cursor;
  if (!cursor) return;
  const [row, column] = bands;
  const pixels = (count) => `${count * cell}px`;
  Object.assign(row.style, { top: pixels(cursor.query), height: pixels(1), width: pixels(cursor.query + 1) });
  Object.assign(column.style, { left: pixels(cursor.key), width: pixels(1), top: pixels(cursor.key) });
}

function paintValues(canvas, triangle, length, colours) {
  canvas.width = length;
  canvas.height = length;
  if (!triangle) return;
  const image = new ImageData(length, length);
  for (let query = 0; query < length; query++) {
    for (let key = 0; key <= query; key++) {
      image.data.set([...colours[triangle[placeOf(query, key)]], 255], (query * length + key) * 4);
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function shortened(token) {
  const characters = Array.from(token);
  return characters.length > LONGEST_LABEL ? `${characters.slice(0, LONGEST_LABEL - 1).join("")}…` : token;
}

function fontOf(cell, strong = false) {
  const size = Math.max(9, Math.min(12, cell - 1));
  return `${strong ? "bold " : ""}${size}px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace`;
}

function labelWidth(tokens, cell) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = fontOf(cell, true);
  const widths = tokens.map((token, position) => context.measureText(`${shortened(token)} ${position}`).width);
  return Math.ceil(Math.max(...widths)) + 10;
}

function paintLabels(canvas, tokens, { cell, cursor }, upright) {
  const extent = labelWidth(tokens, cell);
  const side = tokens.length * cell;
  const context = sizedContext(canvas, side, extent, upright);
  const style = getComputedStyle(canvas);
  const inks = [style.color, style.getPropertyValue("--hs-muted-ink").trim() || style.color];
  const marked = cursor ? (upright ? cursor.key : cursor.query) : -1;
  const step = [1, 2, 5, 10, 20, 50, 100, 200].find((every) => every * cell >= LABEL_SPACE) ?? 500;
  tokens.forEach((token, position) => {
    const strong = position === marked;
    const crowded = marked >= 0 && !strong && Math.abs(position - marked) * cell < LABEL_SPACE;
    if (!strong && (position % step !== 0 || crowded)) return;
    context.save();
    // Where cells are smaller than labels, the outermost labels would stick out of the canvas.
    const middle = Math.min(Math.max((position + 0.5) * cell, LABEL_SPACE / 2), side - LABEL_SPACE / 2);
    if (upright) context.translate(middle, 6);
    else context.translate(extent - 6, middle);
    if (upright) context.rotate(-Math.PI / 2);
    context.font = fontOf(cell, strong);
    paintLabel(context, shortened(token), position, inks, strong);
    context.restore();
  });
}

function paintLabel(context, text, position, [ink, muted], strong) {
  const number = ` ${position}`;
  context.fillStyle = strong ? ink : muted;
  context.fillText(number, 0, 0);
  context.fillStyle = ink;
  context.fillText(text, -context.measureText(number).width, 0);
}

/** A context for labels along `side` pixels that are `extent` pixels long, as sharp as the screen. */
function sizedContext(canvas, side, extent, upright) {
  const density = Math.min(window.devicePixelRatio || 1, MOST_PIXELS / side);
  const [width, height] = upright ? [side, extent] : [extent, side];
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.scale(density, density);
  context.textBaseline = "middle";
  context.textAlign = "right";
  return context;
}
