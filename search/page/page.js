/* Time, problems, and the beginning. */
// -- time

function setTime(to) {
  time = Math.max(1, Math.min(end, Math.round(to)));
  $("time").value = time;
  const [now, all] = [time, end].map((nodes) => nodes.toLocaleString("en"));
  $("moment").textContent = time < end ? `node ${now} of ${all}` : `all ${count(end, "node")}`;
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
    pane.moved = false;
    pane.resize();
  }
  end = Math.max(...panes.filter((pane) => pane.tree).map((pane) => pane.tree.nodes));
  $("time").max = end;
  setTime(end);
  detail(panes[0]);
}

const word = (right) => (right === null ? "unknown" : right ? "right" : "wrong");
function passes(tree, filter) {
  const both = `${word(tree.search)} ${word(tree.vote)}`;
  return filter === "all" || filter === both || (filter === "unknown" && both.includes(filter));
}

function open(index, filter) {
  const { statement, trees, beside } = problems[index];
  $("statement").textContent = statement.trim();
  const first = Math.max(0, trees.findIndex((tree) => passes(tree, filter)));
  panes.forEach((pane, place) => {
    const before = place ? "beside: " : "";
    const options = trees.map((tree) => new Option(before + tree.name, tree.data));
    pane.select.replaceChildren(...options);
    if (place) pane.select.prepend(new Option("beside: no tree", ""));
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
    const told = `search ${verdict(tree.search)}, vote ${verdict(tree.vote)}`;
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
