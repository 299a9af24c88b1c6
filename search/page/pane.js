/* One tree: what of it is shown where, what the pointer and keys do, what is said above it. */
class Pane extends Picture {
  constructor(place) {
    super();
    this.place = place;
    this.root = element("article", "", { class: "pane" });
    this.bar = element("div", "", { class: "bar" });
    this.name = element("b");
    this.select = element("select", "", { "aria-label": place ? "Tree at the right" : "Tree" });
    this.facts = element("div", "", { class: "facts" });
    this.bar.append(this.name);
    (place ? panes[0].select : this.name).after(this.select); // both are chosen at the left
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
    if (!this.tree) return;
    if (!this.moved) this.begin();
    this.draw();
  }

  begin() { // the whole tree if its text can be read then, else the search's chain
    this.fit();
    this.moved = false; // by hand: till then it follows the size of the window
    if (this.scale >= READABLE) return;
    this.scale = 0.8;
    const chain = this.chains[0][1];
    const middle = (this.across[chain[0] ?? 0] + this.across[chain.at(-1) ?? 0]) / 2;
    this.top = this.height / 2 - middle * ROW * this.scale;
    this.left = 20;
  }

  fit() {
    this.moved = true;
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
  zoom(factor, px = this.width / 2, py = this.height / 2) {
    this.moved = true;
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
    this.moved = true;
    if (this.scale < READABLE) this.zoom(0.8 / this.scale);
    const x = this.x(item), y = this.y(item), box = BOX * this.scaleX;
    if (x < 8 || x + box > this.width - 8) this.left += (this.width - box) / 2 - x;
    if (y < 20 || y > this.height - 20) this.top += this.height / 2 - y;
    this.ask();
  }

  // -- choosing

  at(event) { // the item under the pointer, or -1
    const box = this.canvas.getBoundingClientRect();
    const px = event.clientX - box.left, py = event.clientY - box.top;
    const depth = Math.floor((px - this.left) / (COLUMN * this.scaleX));
    const column = this.columns[depth];
    if (!column || px - this.left - depth * COLUMN * this.scaleX > BOX * this.scaleX) return -1;
    const reach = Math.max(3, (TALL / 2) * this.scale);
    const row = (i) => this.y(i);
    const [from, to] = this.within(column, row, row, py - reach, py + reach);
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
      this.moved = true;
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
    const now = (items) => items.filter((item) => there(tree, item));
    const level = selected ? now(tree.below[tree.parent[selected]]) : [0];
    const sibling = (by) => level[level.indexOf(selected) + by];
    const acts = {
      ArrowLeft: () => this.choose(Math.max(0, tree.parent[selected])),
      ArrowRight: () => this.choose(now(tree.below[selected])[0] ?? selected),
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
    if (tree.error) facts.append(element("p", `failed: ${tree.error}`, { class: "wrong" }));
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
