// Every head at a glance: one canvas of lower triangles, rows are layers, columns are heads.
//
// Over the canvas lies an ARIA grid with one cell for each head and a roving tabindex, so that the whole
// atlas is one stop of the Tab key and the arrows move inside it.

import { colourTable, element, placeOf } from "./attention_data.js";

const GAP = 2; // pixels between heads
const SMALLEST = 8;
const LARGEST = 88;

/** Build the atlas; `select(layer, index)` is called when a head is chosen, `enter()` on Enter. */
export function createAtlas(example, patterns, { select, enter }) {
  const root = element("div", "hs-atlas");
  root.setAttribute("role", "grid");
  const extent = `${patterns.layers} layers, ${patterns.heads} heads each`;
  root.setAttribute("aria-label", `Heads of ${example.title}: ${extent}`);
  const canvas = element("canvas", "hs-atlas-canvas");
  canvas.setAttribute("aria-hidden", "true");
  root.append(canvas);
  const cells = gridCells(root, example, patterns);
  const colours = colourTable(example.ramp);
  let current = null;

  function show(layer, index, focus) {
    if (current) {
      current.tabIndex = -1;
      current.setAttribute("aria-selected", "false");
    }
    current = cells[layer][index];
    current.tabIndex = 0;
    current.setAttribute("aria-selected", "true");
    if (focus) current.focus({ preventScroll: false });
    select(layer, index);
  }

  root.addEventListener("click", (event) => {
    const cell = event.target.closest(".hs-cell");
    if (cell) show(Number(cell.dataset.layer), Number(cell.dataset.index), true);
  });
  root.addEventListener("keydown", (event) => {
    if (!current || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      enter();
      return;
    }
    const target = movedHead(event, Number(current.dataset.layer), Number(current.dataset.index), patterns);
    if (!target) return;
    event.preventDefault();
    show(target[0], target[1], true);
  });

  function draw(available) {
    const room = available - 30;
    const size = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(room / patterns.heads)));
    root.style.setProperty("--cell", `${size}px`);
    root.style.gridTemplateColumns = `max-content repeat(${patterns.heads}, ${size}px)`;
    // Rows must be explicit: the canvas spans "to the last line", which implicit rows do not have.
    root.style.gridTemplateRows = `max-content repeat(${patterns.layers}, ${size}px)`;
    root.classList.toggle("hs-tight", size < 40);
    thinHeaders(root, size);
    paint(canvas, patterns, colours, size);
  }
  return { root, show, draw };
}

function movedHead(event, layer, index, { layers, heads }) {
  const ends = event.ctrlKey
    ? { Home: [0, 0], End: [layers - 1, heads - 1] }
    : { Home: [layer, 0], End: [layer, heads - 1] };
  const steps = {
    ArrowUp: [layer - 1, index],
    ArrowDown: [layer + 1, index],
    ArrowLeft: [layer, index - 1],
    ArrowRight: [layer, index + 1],
    ...ends,
  };
  const target = steps[event.key];
  if (!target) return null;
  // At an edge the arrow stays where it is: wrapping would jump to another layer unnoticed.
  return [Math.min(Math.max(target[0], 0), layers - 1), Math.min(Math.max(target[1], 0), heads - 1)];
}

function gridCells(root, example, patterns) {
  const header = row(root);
  place(header, element("span", "hs-corner"), 1, 1).setAttribute("role", "presentation");
  for (let index = 0; index < patterns.heads; index++) {
    const name = place(header, element("span", "hs-column", String(index)), 1, index + 2);
    name.setAttribute("role", "columnheader");
  }
  return Array.from({ length: patterns.layers }, (_, layer) => {
    const line = row(root);
    place(line, element("span", "hs-row", String(layer)), layer + 2, 1).setAttribute("role", "rowheader");
    return Array.from({ length: patterns.heads }, (_, index) => {
      const cell = headCell(layer, index, example.labels[`${layer}.${index}`], patterns.has(layer, index));
      return place(line, cell, layer + 2, index + 2);
    });
  });
}

function headCell(layer, index, label, embedded) {
  const cell = element("span", embedded ? "hs-cell" : "hs-cell hs-absent");
  cell.setAttribute("role", "gridcell");
  cell.setAttribute("aria-selected", "false");
  cell.dataset.layer = layer;
  cell.dataset.index = index;
  cell.tabIndex = -1;
  const words = [`head ${layer}.${index}`];
  if (label) {
    words.push(label);
    cell.classList.add("hs-labelled");
    cell.append(element("span", "hs-tag", label));
  }
  if (!embedded) words.push("not embedded in this page");
  cell.setAttribute("aria-label", words.join(", "));
  cell.title = words.join(", ");
  return cell;
}

function row(root) {
  const line = element("div", "hs-line");
  line.setAttribute("role", "row");
  root.append(line);
  return line;
}

function place(parent, child, gridRow, gridColumn) {
  child.style.gridRow = gridRow;
  child.style.gridColumn = gridColumn;
  parent.append(child);
  return child;
}

/** Numbers of rows and columns only as often as they fit; the cells themselves carry their names. */
function thinHeaders(root, size) {
  const step = size >= 15 ? 1 : size >= 10 ? 2 : 4;
  for (const name of root.querySelectorAll(".hs-column, .hs-row")) {
    name.classList.toggle("hs-unlabelled", Number(name.textContent) % step !== 0);
  }
}

function paint(canvas, patterns, colours, size) {
  const density = window.devicePixelRatio || 1;
  canvas.style.width = `${patterns.heads * size}px`;
  canvas.style.height = `${patterns.layers * size}px`;
  canvas.width = Math.round(patterns.heads * size * density);
  canvas.height = Math.round(patterns.layers * size * density);
  const context = canvas.getContext("2d");
  const inner = Math.max(1, Math.round((size - GAP) * density));
  for (let layer = 0; layer < patterns.layers; layer++) {
    for (let index = 0; index < patterns.heads; index++) {
      if (!patterns.has(layer, index)) continue;
      const left = Math.round((index * size + GAP / 2) * density);
      const top = Math.round((layer * size + GAP / 2) * density);
      const image = thumbnail(patterns.triangleOf(layer, index), patterns.length, inner, colours);
      context.putImageData(image, left, top);
    }
  }
}

/** One head on `size` x `size` pixels; where several values share a pixel, the largest is shown. */
function thumbnail(triangle, length, size, colours) {
  const levels = new Int16Array(size * size).fill(-1);
  const span = (position) => [
    Math.floor((position * size) / length),
    Math.max(Math.floor((position * size) / length) + 1, Math.floor(((position + 1) * size) / length)),
  ];
  for (let query = 0; query < length; query++) {
    const [top, bottom] = span(query);
    for (let key = 0; key <= query; key++) {
      const level = triangle[placeOf(query, key)];
      const [left, right] = span(key);
      for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++) levels[y * size + x] = Math.max(levels[y * size + x], level);
      }
    }
  }
  const image = new ImageData(size, size);
  levels.forEach((level, at) => {
    if (level >= 0) image.data.set([...colours[level], 255], at * 4);
  });
  return image;
}
