/* The canvas of a tree. Who derives from it says which items stand in which `columns` (one a depth,
from the top down), how far `across` each stands, and `left`, `top`, `scale` and `narrow`: where the
root is, and how large a unit is down and, at least, across. */
class Picture {
  constructor() {
    this.canvas = element("canvas", "", { tabindex: "0", role: "application" });
    this.context = this.canvas.getContext("2d");
    this.asked = false;
  }

  get scaleX() { return Math.max(this.scale, this.narrow); }
  x(item) { return this.left + this.tree.depth[item] * COLUMN * this.scaleX; }
  y(item) { return this.top + this.across[item] * ROW * this.scale; }

  ask() { // to be drawn with the next frame
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

  // [from, to) of a column: the items of which the rows `low` to `high`, which grow along the
  // column, are between top and bottom, those of the canvas
  within(column, low, high, top = -TALL, bottom = this.height + TALL) {
    const find = (test) => {
      let from = 0, to = column.length;
      while (from < to) {
        const middle = (from + to) >> 1;
        if (test(column[middle])) to = middle; else from = middle + 1;
      }
      return from;
    };
    return [find((i) => high(i) >= top), find((i) => low(i) > bottom)];
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
    const row = (i) => this.y(i);
    const [from, to] = this.within(column, row, row);
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
    const numbers = `${marks}${visits}${shown(tree.value[item])}`;
    const right = item ? numbers : count(tree.visits[0], "visit");
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
}
