"""How long the page of a search tree takes in Chromium: to open, to draw, to move.

    python -m benchmarks.tree.page --nodes 10000,50000 --out page.csv

Trees are drawn at random from a seed: each node hangs below an earlier one, of which every
`FANOUT`th has all the children, and a step has some sixty characters. In milliseconds: "write",
making the page; "open", from the navigation to the first picture, with the tree folded, as a page
begins; "unfold", laying all of it out. Then, with nothing folded, the median and the longest time
from frame to frame (16.7 where nothing is late) while all of the tree is moved, the scrubber goes
over it, it is zoomed in until its text can be read, and the part that then is in sight is moved.
Needs `chromium` and `chromedriver`.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.output import row, table, write_csv
from benchmarks.tree.browser import browser, is_there
from search.page.data import subject
from search.page.document import page
from search.problem import TextStep
from search.scheduling.requests import Usage
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

FANOUT = 7
FRAMES = 60
SKIPPED = 5

#: a script: [ms] of the parts, with the tree unfolded; frames after the first few, which draw what
#: came before
PARTS = """
const done = arguments[0], pane = panes[0];
const frames = (act) => new Promise((resolve) => {
  const gaps = [];
  let before = null, seen = 0;
  const frame = (now) => {
    if (seen++ > SKIPPED) gaps.push(now - before);
    before = now;
    if (gaps.length === FRAMES) return resolve(gaps.sort((a, b) => a - b));
    act(gaps.length);
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
});
const told = {};
const tell = async (name, act) => {
  const gaps = await frames(act);
  told[name] = gaps[FRAMES >> 1];
  told[`${name} most`] = gaps[FRAMES - 1];
};
(async () => {
  const from = performance.now();
  pane.unfold();
  pane.draw();
  told.unfold = performance.now() - from;
  await tell("whole", (n) => { pane.top += n % 2 ? 9 : -9; pane.ask(); });
  await tell("scrub", (n) => setTime((end * (n + 1)) / FRAMES));
  setTime(end);
  await tell("zoom", () => pane.zoom(1.09));
  pane.begin();
  await tell("readable", (n) => { pane.top += 5; pane.ask(); });
  done(told);
})();
""".replace("FRAMES", str(FRAMES)).replace("SKIPPED", str(SKIPPED))


def planted(nodes: int, seed: int = 0) -> Trace:
    """A trace of so many nodes, all edges taken."""
    rng = np.random.default_rng(seed)
    edges = nodes - 1
    parent = np.zeros(edges, np.int64)
    for edge in range(1, edges):
        earlier = int(rng.integers(edge + 1))
        parent[edge] = earlier - earlier % FANOUT
    order = np.argsort(parent, kind="stable")
    place = np.empty(edges, np.int32)
    place[order] = np.arange(edges, dtype=np.int32)
    visits = np.ones(nodes, np.int32)
    for node in range(nodes - 1, 0, -1):
        visits[parent[node - 1]] += visits[node]
    finished = np.ones(nodes, bool)
    finished[parent] = False
    steps = []
    for edge in order.tolist():
        text = f"so {int(rng.integers(10**9))} + {edge} is what the sum of all of these comes to\n"
        steps.append(TextStep(text, tuple(range(20))))
    taken = visits[1:][order]
    return Trace(
        id="t",
        kind="search.problem:TextProblem",
        arguments={"statement": "What is the sum?"},
        method="search.methods.mcts:mcts",
        options={},
        seed=seed,
        version="v",
        usage=Usage(),
        node_parent=np.concatenate([[-1], parent]).astype(np.int32),
        node_edge=np.concatenate([[-1], place]).astype(np.int32),
        node_finished=finished,
        node_reward=np.full(nodes, math.nan),
        edge_node=parent[order].astype(np.int32),
        edge_child=(order + 1).astype(np.int32),
        edge_visits=taken,
        edge_sum=taken * rng.random(edges),
        edge_prior=rng.random(edges).astype(np.float32),
        edge_value=np.full(edges, math.nan, np.float32),
        edge_log_prob=np.log(rng.random(edges)),
        steps=tuple(steps),
    )


def measured(nodes: int, folder: Path) -> dict[str, float]:
    """The parts of one tree, and the size of its page in MB."""
    trace = planted(nodes)
    trace.check()
    begun = time.perf_counter()
    path = page([subject(trace)]).save(folder / f"{nodes}.html")
    write = 1000 * (time.perf_counter() - begun)
    with browser() as window:
        window.open(path)
        opened = window.run("return performance.getEntriesByName('drawn')[0].startTime")
        parts = window.later(PARTS)
        complaints = window.complaints()
        assert not complaints, complaints
    told = {"MB": path.stat().st_size / 1e6, "write": write, "open": opened} | parts
    return {"nodes": nodes} | {name: round(number, 1) for name, number in told.items()}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="10000,50000", help="sizes of trees")
    parser.add_argument("--out", type=Path, help="a CSV file for the figures")
    arguments = parser.parse_args()
    if not is_there():
        parser.error("needs a browser: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(int(n), Path(folder)) for n in arguments.nodes.split(",")]
    names = list(rows[0])
    lines = [row(names)]
    for one in rows:
        lines.append(row(f"{one[name]:,.0f}" for name in names))
    log.info("\n%s", table(lines))
    if arguments.out is not None:
        write_csv(arguments.out, rows)


if __name__ == "__main__":
    main()
