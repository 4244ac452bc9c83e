// What the attention view knows: decoded patterns, colours, and how a probability is written.
//
// In: the JSON data of headscope.figures.attention.payload. Nothing here touches the page.

/** Decode the embedded patterns; resolves to an object that answers for one head at a time. */
export async function decodePatterns(example) {
  const bytes = Uint8Array.from(atob(example.data), (character) => character.charCodeAt(0));
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new Uint8Array(await new Response(inflated).arrayBuffer());
  const [layers, heads, length] = example.shape;
  const triangle = (length * (length + 1)) / 2;
  if (values.length !== triangle * example.heads.length) {
    throw new Error(`expected ${triangle * example.heads.length} attention values, got ${values.length}`);
  }
  const slots = new Map(example.heads.map(([layer, index], slot) => [`${layer}.${index}`, slot]));
  return {
    layers,
    heads,
    length,
    missing: layers * heads - example.heads.length,
    first: example.heads[0],
    has: (layer, index) => slots.has(`${layer}.${index}`),
    /** sqrt(p) in 255ths, row by row of the lower triangle. */
    triangleOf(layer, index) {
      const start = slots.get(`${layer}.${index}`) * triangle;
      return values.subarray(start, start + triangle);
    },
  };
}

/** Where (query, key) stands in a lower triangle that is written row by row. */
export function placeOf(query, key) {
  return (query * (query + 1)) / 2 + key;
}

/** 256 colours as [red, green, blue], straight between those of the ramp. */
export function colourTable(ramp) {
  const anchors = ramp.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (anchors.length - 1);
    const index = Math.min(Math.floor(place), anchors.length - 2);
    return anchors[index].map((from, channel) =>
      Math.round(from + (anchors[index + 1][channel] - from) * (place - index)),
    );
  });
}

/** A probability as far as 8 bits of sqrt(p) know it. */
export function probabilityText(level) {
  if (level === 0) return "< 0.00001";
  const probability = (level / 255) ** 2;
  if (probability >= 0.095) return probability.toFixed(2);
  return probability >= 0.001 ? probability.toPrecision(2) : probability.toFixed(5);
}

/** The strongest keys of one query: [key, level], strongest first; ties by position. */
export function strongestKeys(triangle, query, count) {
  const start = placeOf(query, 0);
  const keys = Array.from({ length: query + 1 }, (_, key) => [key, triangle[start + key]]);
  return keys.sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, count);
}

/** A new element with text; text is set as text and never parsed as markup. */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
}
