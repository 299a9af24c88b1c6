/* The panel at the right: the chosen step, and why it was taken. */
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
    const isNode = there(tree, one) && one < tree.nodes;
    cells.push(isNode ? (below[one] + 1).toLocaleString("en") : "–");
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
    text = `Rule ${name}: the step with the highest Q + U is taken next, unless all ` +
      `below it is settled. ${formula}, with N the ` +
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
    const votes = `${(100 * share).toFixed(0)} %`;
    const cells = [firstLine(answer), votes, shown(value), verdict(right)];
    row.append(...cells.map((cell) => element("td", cell)));
    made.append(row);
  }
  return made;
}
