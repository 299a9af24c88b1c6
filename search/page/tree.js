/* What all parts of the page use: elements, colours, a tree with what is derived from it. Text of
models is written by `textContent` and on canvases only, never as HTML. */
const COLUMN = 258; // of the world: from one depth to the next
const BOX = 216;
const ROW = 30;
const TALL = 24;
const MANY = 300; // items from which on a tree begins folded
const READABLE = 0.6; // the least scale at which text is drawn
const BUCKETS = 16; // of colours of values

const $ = (id) => document.getElementById(id);
const load = (id) => JSON.parse($(id).textContent);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const problems = load("problems");
const panes = [];
let time = 1; // nodes that the search has made
let end = 1;
let colours;
let current; // the pane whose step the panel describes
let playing = 0;

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
const shown = (number, digits = 2) =>
  number === null || number === undefined ? "–" : number.toFixed(digits);
const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const firstLine = (text) => text.trim().replace(/\s*\n\s*/g, " / ") || "(empty)";
const verdict = (right) => (right === null ? "not known" : right ? "right" : "wrong");

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = "paper card ink dim edge accent search vote none low mid high good bad";
  const found = {};
  for (const name of names.split(" ")) found[name] = style.getPropertyValue(`--${name}`).trim();
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [low, mid, high] = [found.low, found.mid, found.high].map(parts);
  found.values = Array.from({ length: BUCKETS }, (_, i) => {
    const at = (2 * i) / (BUCKETS - 1);
    const [from, to, share] = at < 1 ? [low, mid, at] : [mid, high, at - 1];
    return `rgb(${from.map((x, j) => Math.round(x + (to[j] - x) * share)).join(",")})`;
  });
  colours = found;
}
const bucket = (value) => Math.min(BUCKETS - 1, Math.floor(value * BUCKETS));
const paint = (value) => (value === null ? colours.none : colours.values[bucket(value)]);

/* A tree with what is derived from it: `below[i]`, the children of item i, most visited first. */
function grown(id) {
  const tree = load(id);
  const size = tree.parent.length;
  tree.size = size;
  tree.depth = new Int32Array(size);
  tree.below = Array.from({ length: size }, () => []);
  tree.under = new Int32Array(size); // items below
  for (let i = 1; i < size; i++) {
    tree.depth[i] = tree.depth[tree.parent[i]] + 1;
    tree.below[tree.parent[i]].push(i);
  }
  for (let i = size - 1; i > 0; i--) tree.under[tree.parent[i]] += tree.under[i] + 1;
  const order = (a, b) => tree.visits[b] - tree.visits[a] || tree.prior[b] - tree.prior[a] || a - b;
  for (const items of tree.below) items.sort(order);
  tree.isFinished = new Set(tree.finished);
  tree.isCut = new Set(tree.cut);
  return tree;
}
function chainTo(tree, item) {
  const items = [];
  for (let i = item; i > 0; i = tree.parent[i]) items.push(i);
  return items.reverse();
}
const there = (tree, item) => (item < tree.nodes ? item < time : time >= tree.nodes);
