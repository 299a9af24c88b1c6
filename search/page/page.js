/* The page. Text of models is written by `textContent` and on canvases only, never as HTML. */
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

/* A tree with what is derived from it: `below[i]` the children of item i, the most visited first. */
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

class Pane {
  constructor(place) {
    this.place = place;
    this.root = element("article", "", { class: "pane" });
    this.bar = element("div", "", { class: "bar" });
    this.name = element("b");
    this.select = element("select", "", { "aria-label": place ? "Tree at the right" : "Tree" });
    this.facts = element("div", "", { class: "facts" });
    this.canvas = element("canvas", "", { tabindex: "0", role: "application" });
    this.bar.append(this.name);
    (panes[0] ?? this).name.after(this.select); // one chooses both trees at the left
    this.bar.append(element("span", "", { class: "grow" }));
    const buttons = [
      ["Fit", () => this.fit()], ["Fold", () => this.foldAll()], ["Unfold", () => this.unfold()],
    ];
    for (const [name, act] of buttons) {
      const button = element("button", name, { type: "button" });
      button.addEventListener("click", act);
      this.bar.append(button);
    }
    this.root.append(this.bar, this.facts, this.canvas);
    $("panes").append(this.root);
    this.context = this.canvas.getContext("2d");
    this.asked = false;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
  }

  show(id) {
    this.tree = id === null ? null : grown(id);
    this.root.hidden = this.tree === null;
    if (!this.tree) return;
    const tree = this.tree;
    this.name.textContent = tree.name;
    this.selected = tree.search.end;
    this.chains = ["search", "vote"].filter((name) => tree[name])
      .map((name) => [name, chainTo(tree, tree[name].end)]);
    this.folded = new Uint8Array(tree.size);
    if (tree.size > MANY) this.fold();
    this.arrange();
    this.tell();
  }

  // -- what is shown where

  fold() { // all but the chains that have a name
    const kept = new Set([0, ...this.chains.flatMap(([, items]) => items)]);
    this.folded = Uint8Array.from({ length: this.tree.size }, (_, i) => !kept.has(i));
  }
  foldAll() { this.fold(); this.arrange(); this.begin(); }
  unfold() { this.folded.fill(0); this.arrange(); this.fit(); }

  children(item) {
    return this.folded[item] ? [] : this.tree.below[item];
  }

  arrange() {
    const tree = this.tree;
    const visible = new Uint8Array(tree.size);
    const order = [];
    this.columns = [];
    visible[0] = 1;
    for (let i = 0; i < tree.size; i++) {
      if (i) visible[i] = visible[tree.parent[i]] && !this.folded[tree.parent[i]];
      if (visible[i]) order.push(i);
    }
    this.visible = visible;
    this.across = tidy(order, (i) => this.children(i), tree.parent, tree.size);
    let low = Infinity, high = -Infinity;
    for (const item of order) {
      (this.columns[tree.depth[item]] ??= []).push(item);
      low = Math.min(low, this.across[item]);
      high = Math.max(high, this.across[item]);
    }
    for (const column of this.columns) column.sort((a, b) => this.across[a] - this.across[b]);
    this.extent = { low: (low - 1) * ROW, high: (high + 1) * ROW };
    this.ask();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.max(1, Math.round(box.width * devicePixelRatio));
    this.canvas.height = Math.max(1, Math.round(box.height * devicePixelRatio));
    if (this.tree) this.draw();
  }

  begin() { // the whole tree if its text can be read then, else the search's chain
    this.fit();
    if (this.scale >= READABLE) return;
    this.scale = 0.8;
    const chain = this.chains[0][1];
    const middle = (this.across[chain[0] ?? 0] + this.across[chain.at(-1) ?? 0]) / 2;
    this.top = this.height / 2 - middle * ROW * this.scale;
    this.left = 20;
  }

  fit() {
    const tall = this.extent.high - this.extent.low;
    const wide = this.columns.length * COLUMN - COLUMN + BOX + 40;
    const whole = Math.min(1, this.height / tall, this.width / wide);
    this.least = Math.min(1, this.height / tall) / 2;
    this.scale = whole >= READABLE ? whole : Math.min(1, this.height / tall);
    this.narrow = Math.min(1, this.width / wide); // across, a tree never gets smaller than this
    this.left = 20 * this.scaleX;
    this.top = this.height / 2 - ((this.extent.high + this.extent.low) / 2) * this.scale;
    this.ask();
  }
  get scaleX() { return Math.max(this.scale, this.narrow); }
  x(item) { return this.left + this.tree.depth[item] * COLUMN * this.scaleX; }
  y(item) { return this.top + this.across[item] * ROW * this.scale; }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const x = (px - this.left) / this.scaleX, y = (py - this.top) / this.scale;
    this.scale = Math.min(2, Math.max(this.least, this.scale * factor));
    this.left = px - x * this.scaleX;
    this.top = py - y * this.scale;
    this.ask();
  }

  reveal(item) { // unfold what hides it, and move it into sight
    let hidden = false;
    for (let i = this.tree.parent[item]; i >= 0; i = this.tree.parent[i]) {
      hidden ||= this.folded[i] === 1;
      this.folded[i] = 0;
    }
    if (hidden) this.arrange();
    if (this.scale < READABLE) this.zoom(0.8 / this.scale);
    const x = this.x(item), y = this.y(item), box = BOX * this.scaleX;
    if (x < 8 || x + box > this.width - 8) this.left += (this.width - box) / 2 - x;
    if (y < 20 || y > this.height - 20) this.top += this.height / 2 - y;
    this.ask();
  }

  // -- drawing

  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.draw(); });
  }

  draw() {
    const { context, tree, columns } = this;
    if (!tree || !this.width) return;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.fillStyle = colours.paper;
    context.fillRect(0, 0, this.width, this.height);
    const readable = this.scale >= READABLE;
    const step = COLUMN * this.scaleX, box = BOX * this.scaleX;
    const first = Math.max(0, Math.floor((-this.left - box) / step));
    const last = Math.min(columns.length - 1, Math.ceil((this.width - this.left) / step));
    context.lineWidth = 1;
    context.strokeStyle = colours.edge;
    context.beginPath();
    for (let d = Math.max(1, first); d <= last; d++) this.edges(columns[d], readable);
    context.stroke();
    const chains = () => this.chains.forEach(([name, items]) => this.stroke(name, items, readable));
    let drawn = 0;
    if (readable) chains();
    for (let d = first; d <= last; d++) drawn += this.boxes(columns[d], readable);
    if (!readable) chains(); // over all those that share a row of pixels
    this.canvas.dataset.drawn = drawn;
  }

  // the items of a column that matter to the rows in sight: all of whom `of` gives a place there
  within(column, low, high) {
    const find = (test) => {
      let from = 0, to = column.length;
      while (from < to) {
        const middle = (from + to) >> 1;
        if (test(column[middle])) to = middle; else from = middle + 1;
      }
      return from;
    };
    return [find((i) => high(i) >= -TALL), find((i) => low(i) > this.height + TALL)];
  }

  edges(column, readable) {
    const { context, tree } = this;
    const above = (i) => this.y(tree.parent[i]);
    const [from, to] = this.within(
      column, (i) => Math.min(this.y(i), above(i)), (i) => Math.max(this.y(i), above(i)),
    );
    let before = -Infinity;
    for (let n = from; n < to; n++) {
      const item = column[n];
      if (!there(tree, item)) continue;
      const y = this.y(item);
      if (y - before < 0.4) continue; // several on one row of pixels
      before = y;
      this.line(item, y, readable);
    }
  }

  line(item, y, curved) {
    const above = this.tree.parent[item];
    const x = this.x(item), from = this.x(above) + BOX * this.scaleX, start = this.y(above);
    this.context.moveTo(from, start);
    if (curved) {
      const middle = (from + x) / 2;
      this.context.bezierCurveTo(middle, start, middle, y, x, y);
    } else {
      this.context.lineTo(x, y);
    }
  }

  stroke(name, items, readable) {
    const { context } = this;
    context.save();
    context.lineWidth = name === "search" ? 5 : 2.5;
    context.strokeStyle = colours[name];
    if (name === "vote") context.setLineDash([8, 6]);
    context.beginPath();
    for (const item of items) {
      if (!there(this.tree, item) || !this.visible[item]) continue;
      this.line(item, this.y(item), true);
      if (!readable) context.lineTo(this.x(item) + BOX * this.scaleX, this.y(item));
    }
    context.stroke();
    context.restore();
  }

  boxes(column, readable) {
    const { context, tree } = this;
    const [from, to] = this.within(column, (i) => this.y(i), (i) => this.y(i));
    const wide = BOX * this.scaleX;
    const tall = Math.max(1, TALL * this.scale);
    let before = -Infinity, drawn = 0;
    for (let n = from; n < to; n++) {
      const item = column[n];
      if (!there(tree, item)) continue;
      const y = this.y(item);
      if (!readable && y - before < 0.6 && item !== this.selected) continue;
      before = y;
      drawn++;
      if (readable) {
        this.card(item, y, wide, tall);
      } else {
        context.fillStyle = paint(tree.value[item]);
        context.fillRect(this.x(item), y - tall / 2, wide, tall);
      }
      if (item === this.selected && !readable) this.ring(item, y, wide, tall);
    }
    return drawn;
  }

  ring(item, y, wide, tall) {
    const { context } = this;
    context.strokeStyle = colours.accent;
    context.lineWidth = 2.5;
    context.beginPath();
    context.roundRect(this.x(item) - 3, y - tall / 2 - 3, wide + 6, tall + 6, 7);
    context.stroke();
  }

  card(item, y, wide, tall) {
    const { context, tree, scale } = this;
    const x = this.x(item), taken = item < tree.nodes, marks = this.marks(item);
    context.beginPath();
    context.roundRect(x, y - tall / 2, wide, tall, 5 * scale);
    context.fillStyle = colours.card;
    context.fill();
    context.save();
    context.clip();
    context.fillStyle = paint(tree.value[item]);
    context.fillRect(x, y - tall / 2, 7 * scale, tall);
    context.restore();
    const own = this.chains.find(([, items]) => items.includes(item));
    context.lineWidth = own ? 2 : 1;
    context.strokeStyle = own ? colours[own[0]] : colours.edge;
    if (!taken) context.setLineDash([3, 3]);
    context.stroke();
    context.setLineDash([]);
    const size = 12 * scale;
    context.font = `${size}px ui-monospace, "DejaVu Sans Mono", monospace`;
    context.textBaseline = "middle";
    const letter = size * 0.62;
    const visits = tree.visits[item] ? `${tree.visits[item]}× ` : "";
    const right = item ? `${marks}${visits}${shown(tree.value[item])}` : count(tree.visits[0], "visit");
    const room = Math.floor((wide - 22 * scale) / letter) - right.length - 1;
    let text = item ? firstLine(tree.text[item]) : "start";
    if (text.length > room) text = `${text.slice(0, Math.max(1, room - 1))}…`;
    context.fillStyle = taken ? colours.ink : colours.dim;
    context.textAlign = "left";
    context.fillText(text, x + 13 * scale, y, wide - 20 * scale - right.length * letter);
    context.fillStyle = colours.dim;
    context.textAlign = "right";
    context.fillText(right, x + wide - 7 * scale, y);
    if (this.folded[item] && tree.under[item]) {
      context.textAlign = "left";
      context.fillText(`+${tree.under[item].toLocaleString("en")}`, x + wide + 6 * scale, y);
    }
    if (item === this.selected) this.ring(item, y, wide, tall);
  }

  marks(item) {
    const { tree } = this;
    let marks = "";
    if (item && item === tree.search.end) marks += "★";
    if (item && item === tree.vote?.end) marks += "◆";
    if (item === tree.search.drop || item === tree.search.below) marks += "↘";
    if (tree.isFinished.has(item)) {
      const reward = tree.reward[item];
      marks += reward === null ? "■" : reward === 1 ? "✓" : "✗";
    }
    return marks && `${marks} `;
  }

  // -- choosing

  at(event) { // the item under the pointer, or -1
    const box = this.canvas.getBoundingClientRect();
    const px = event.clientX - box.left, py = event.clientY - box.top;
    const depth = Math.floor((px - this.left) / (COLUMN * this.scaleX));
    const column = this.columns[depth];
    if (!column || px - this.left - depth * COLUMN * this.scaleX > BOX * this.scaleX) return -1;
    const reach = Math.max(3, (TALL / 2) * this.scale);
    const [from, to] = this.within(
      column, (i) => this.y(i) - py + this.height + TALL - reach, (i) => this.y(i) - py - TALL + reach,
    );
    let best = -1;
    for (let n = from; n < to; n++) {
      const item = column[n];
      const nearer = best < 0 || Math.abs(this.y(item) - py) < Math.abs(this.y(best) - py);
      if (there(this.tree, item) && nearer) best = item;
    }
    return best;
  }

  choose(item, move = true) {
    this.selected = item;
    if (!there(this.tree, item)) setTime(item < this.tree.nodes ? item + 1 : this.tree.nodes);
    if (move) this.reveal(item);
    this.ask();
    detail(this);
    const text = item ? firstLine(this.tree.text[item]).slice(0, 200) : "start";
    $("said").textContent = `${text}: value ${shown(this.tree.value[item])}, ` +
      count(this.tree.visits[item], "visit");
  }

  toggle(item) {
    if (!this.tree.below[item].length) return;
    const y = this.y(item);
    this.folded[item] ^= 1;
    for (const child of this.tree.below[item]) {
      if (!this.folded[item] && this.tree.size > MANY) this.folded[child] = 1;
    }
    this.arrange();
    this.top += y - this.y(item);
  }

  listen() {
    const { canvas } = this;
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, y: event.clientY, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return this.hover(event);
      const dx = event.clientX - held.x, dy = event.clientY - held.y;
      if (!held.moved && Math.hypot(dx, dy) < 4) return;
      held = { x: event.clientX, y: event.clientY, moved: true };
      this.left += dx;
      this.top += dy;
      $("tip").hidden = true;
      this.ask();
    });
    canvas.addEventListener("pointerup", (event) => {
      const item = held && !held.moved ? this.at(event) : -1;
      held = null;
      if (item >= 0) this.choose(item, false);
    });
    canvas.addEventListener("pointerleave", () => { $("tip").hidden = true; });
    canvas.addEventListener("dblclick", (event) => {
      const item = this.at(event);
      if (item >= 0) this.toggle(item);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => { if (this.tree) detail(this); });
    this.select.addEventListener("change", () => {
      this.show(this.select.value || null);
      settle();
    });
  }

  hover(event) {
    const tip = $("tip"), item = this.at(event), { tree } = this;
    tip.hidden = item < 0;
    if (item < 0) return;
    const text = item ? tree.text[item].trim().slice(0, 600) || "(empty)" : "start";
    const numbers = `value ${shown(tree.value[item])}  ${count(tree.visits[item], "visit")}`;
    tip.textContent = `${text}\n${numbers}  prior ${shown(tree.prior[item])}`;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - 400))}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 16, innerHeight - 230))}px`;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { tree, selected } = this;
    const level = selected ? tree.below[tree.parent[selected]] : [0];
    const sibling = (by) => level[level.indexOf(selected) + by];
    const acts = {
      ArrowLeft: () => this.choose(Math.max(0, tree.parent[selected])),
      ArrowRight: () => this.choose(tree.below[selected][0] ?? selected),
      ArrowUp: () => this.choose(sibling(-1) ?? selected),
      ArrowDown: () => this.choose(sibling(1) ?? selected),
      Enter: () => this.toggle(selected), " ": () => this.toggle(selected),
      "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8),
      0: () => this.fit(),
      s: () => this.choose(tree.search.end),
      v: () => tree.vote && this.choose(tree.vote.end),
      "[": () => step(-1), "]": () => step(1),
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
  }

  // -- what is said above the tree

  tell() {
    const { tree, facts } = this;
    facts.replaceChildren(element("p", tree.cost));
    for (const [name, mark] of [["search", "★ search: "], ["vote", "◆ majority: "]]) {
      const chain = tree[name];
      const line = element("p", mark);
      if (!chain) {
        line.append("no finished chain with an answer that can be read here");
        facts.append(line);
        continue;
      }
      line.append(element("b", chain.answer === null ? "no answer" : firstLine(chain.answer)));
      const known = chain.right === null ? "" : verdict(chain.right);
      line.append(" (", element("span", verdict(chain.right), { class: known }), ") ");
      line.append(this.jump("end of the chain", chain.end));
      if (chain.below !== null) line.append(" ", this.jump("first value below 0.5", chain.below));
      if (chain.drop !== null) {
        const fall = tree.value[tree.parent[chain.drop]] - tree.value[chain.drop];
        line.append(" ", this.jump(`largest drop, ${shown(fall)}`, chain.drop));
      }
      facts.append(line);
    }
    this.canvas.setAttribute("aria-label", `Search tree of ${count(tree.nodes, "node")}. ` +
      "Arrow keys choose a step, which the panel beside it describes.");
  }

  jump(text, item) {
    const button = element("button", text, { type: "button" });
    button.addEventListener("click", () => {
      this.choose(item);
      this.canvas.focus({ preventScroll: true });
    });
    return button;
  }
}

// -- the chosen step

function detail(pane) {
  current = pane;
  const { tree, selected: item } = pane;
  const panel = $("detail");
  const text = item ? tree.text[item] || "(empty)" : $("statement").textContent;
  panel.replaceChildren(element("h2", item ? `Step ${tree.depth[item]}` : "Start"));
  panel.append(element("pre", text), numbers(pane, item));
  if (item) panel.append(element("h2", "Why this step"), siblings(pane, item), why(tree));
  if (!item) panel.append(element("h2", "Search"), element("p", tree.origin, { class: "note" }));
  const list = element("ol");
  for (const one of chainTo(tree, item)) {
    const row = element("li");
    const low = tree.value[one] !== null && tree.value[one] < 0.5;
    row.append(pane.jump(firstLine(tree.text[one]), one));
    row.append(element("span", `${low ? "↘ " : ""}${shown(tree.value[one])}`));
    list.append(row);
  }
  if (item) panel.append(element("h2", "Its chain, with values"), list);
  if (tree.candidates.length) panel.append(element("h2", "Answers"), answers(tree));
}

function numbers(pane, item) {
  const { tree } = pane;
  const list = element("dl");
  const add = (name, value) => list.append(element("dt", name), element("dd", value));
  add("value", shown(tree.value[item], 3));
  add("visits", tree.visits[item].toLocaleString("en"));
  if (item) {
    add("prior", shown(tree.prior[item], 3));
    if (tree.own[item] !== null) add("policy’s own value", shown(tree.own[item], 3));
    add("tokens", tree.tokens[item].toLocaleString("en"));
    add("made as", item < tree.nodes ? `node ${item + 1} of ${tree.nodes}` : "never taken");
  }
  if (tree.isFinished.has(item)) {
    add("finished", tree.reward[item] === null ? "no reward" : `reward ${tree.reward[item]}`);
  }
  if (tree.isCut.has(item)) add("cut off", "at the limit of tokens");
  if (tree.answers[item] !== undefined) add("answer", tree.answers[item]);
  return list;
}

function table(heads) {
  const made = element("table"), row = element("tr");
  for (const head of heads) row.append(element("th", head, { scope: "col" }));
  made.append(row);
  return made;
}

function siblings(pane, item) {
  const { tree } = pane;
  const sum = (one) => tree.q[one] + tree.u[one];
  const rule = tree.rule !== null;
  const level = [...tree.below[tree.parent[item]]];
  if (rule) level.sort((a, b) => sum(b) - sum(a));
  const made = table(["step", "P", "visits", "Q", ...(rule ? ["U", "Q + U"] : []), "so far"]);
  const below = madeBelow(tree);
  for (const one of level) {
    const row = element("tr");
    row.className = [one === item ? "chosen" : "", there(tree, one) ? "" : "later"].join(" ");
    const name = element("td");
    name.append(pane.jump(firstLine(tree.text[one]), one));
    const cells = [shown(tree.prior[one]), tree.visits[one].toLocaleString("en")];
    cells.push(shown(tree.q[one]) + (tree.visits[one] ? "" : "*"));
    if (rule) cells.push(shown(tree.u[one]), tree.u[one] === null ? "–" : shown(sum(one)));
    cells.push(there(tree, one) && one < tree.nodes ? (below[one] + 1).toLocaleString("en") : "–");
    row.append(name, ...cells.map((cell) => element("td", cell)));
    made.append(row);
  }
  return made;
}

function madeBelow(tree) { // nodes below each that are made by now
  const below = new Int32Array(tree.size);
  for (let i = Math.min(time, tree.nodes) - 1; i > 0; i--) below[tree.parent[i]] += below[i] + 1;
  return below;
}

function why(tree) {
  const { rule } = tree;
  let text = "This method has no selection rule that adds up terms: P and Q are what it kept.";
  if (rule) {
    const { name, formula, ...constants } = rule;
    const given = Object.entries(constants).map(([key, value]) => `${key} = ${value}`).join(", ");
    text = `Rule ${name}: the step with the highest Q + U is taken next. ${formula}, with N the ` +
      `visits of the node above, P the prior, n the visits${given && `; ${given}`}. ` +
      "* never taken: Q is what the search starts from.";
  }
  return element("p", `${text} Numbers are those of the end of the search; "so far" counts the ` +
    "nodes of each subtree at the chosen moment.", { class: "note" });
}

function answers(tree) {
  const made = table(["answer", "votes", "value", ""]);
  for (const [answer, share, value, right] of tree.candidates.slice(0, 12)) {
    const row = element("tr");
    const cells = [firstLine(answer), `${(100 * share).toFixed(0)} %`, shown(value), verdict(right)];
    row.append(...cells.map((cell) => element("td", cell)));
    made.append(row);
  }
  return made;
}

// -- time

function setTime(to) {
  time = Math.max(1, Math.min(end, Math.round(to)));
  $("time").value = time;
  $("moment").textContent = time >= end
    ? `all ${count(end, "node")}` : `node ${time.toLocaleString("en")} of ${end.toLocaleString("en")}`;
  for (const pane of panes) pane.ask();
}

function step(by) {
  setTime(time + by);
  detail(current);
}

function play() {
  if (playing) return stop();
  const from = time >= end ? 1 : time;
  const begun = performance.now(), lasts = still.matches ? 1 : Math.min(8000, 150 * end);
  $("play").textContent = "⏸";
  $("play").setAttribute("aria-label", "Pause");
  const go = (now) => {
    setTime(from + ((end - from) * Math.max(0, now - begun)) / lasts);
    playing = time < end ? requestAnimationFrame(go) : 0;
    if (!playing) stop();
  };
  playing = requestAnimationFrame(go);
}

function stop() {
  cancelAnimationFrame(playing);
  playing = 0;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play how the tree grew");
  detail(current);
}

// -- problems

function settle() { // after the trees have changed
  for (const pane of panes.filter((one) => one.tree)) {
    pane.resize();
    pane.begin();
  }
  end = Math.max(...panes.filter((pane) => pane.tree).map((pane) => pane.tree.nodes));
  $("time").max = end;
  setTime(end);
  detail(panes[0]);
}

const word = (right) => (right === null ? "unknown" : right ? "right" : "wrong");
function passes(tree, filter) {
  const both = `${word(tree.search_right)} ${word(tree.vote_right)}`;
  return filter === "all" || filter === both || (filter === "unknown" && both.includes(filter));
}

function open(index, filter) {
  const { statement, trees, beside } = problems[index];
  $("statement").textContent = statement.trim();
  const first = Math.max(0, trees.findIndex((tree) => passes(tree, filter)));
  panes.forEach((pane, place) => {
    pane.select.replaceChildren(...trees.map((tree) => new Option(tree.name, tree.data)));
    if (place) pane.select.prepend(new Option("beside it: no other tree", ""));
    pane.select.hidden = trees.length < 2;
    pane.name.hidden = !place && trees.length > 1; // its choice says it
    const at = place ? beside : first;
    pane.select.value = at === null ? "" : trees[at].data;
    pane.show(at === null ? null : trees[at].data);
  });
  settle();
  for (const button of $("list").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.dataset.index === String(index)));
  }
}

function list() {
  const filter = $("filter").value;
  const rows = [];
  problems.forEach(({ statement, trees }, index) => {
    const tree = trees.find((one) => passes(one, filter));
    if (!tree) return;
    const row = element("li");
    const name = firstLine(statement);
    const button = element("button", name.length > 70 ? `${name.slice(0, 69)}…` : name, {
      type: "button", "data-index": index,
    });
    const told = `search ${verdict(tree.search_right)}, vote ${verdict(tree.vote_right)}`;
    button.append(element("small", told));
    button.addEventListener("click", () => open(index, filter));
    row.append(button);
    rows.push([index, row]);
  });
  $("list").replaceChildren(...rows.map(([, row]) => row));
  $("count").textContent = `${rows.length} of ${count(problems.length, "problem")}`;
  if (rows.length) open(rows[0][0], filter);
}

readColours();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColours();
  for (const pane of panes) pane.ask();
});
panes.push(new Pane(0));
panes.push(new Pane(1));
$("time").addEventListener("input", (event) => {
  setTime(Number(event.target.value));
  detail(current);
});
$("play").addEventListener("click", play);
$("filter").addEventListener("change", list);
$("problem-list").hidden = problems.length < 2;
list();
performance.mark("drawn");
