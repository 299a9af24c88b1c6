"""The page of search trees: what it is told, and that no text becomes part of it."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from command_cases import run
from page_cases import HOSTILE, deep, planted, renamed, root_alone

import search
from search.methods.mcts import RULES
from search.page import data
from search.page.data import subject
from search.page.document import Page, page
from search.plain_text import harmless
from search.problem import TextProblem, TextStep
from search.scheduling.requests import Usage
from search.trace import Trace
from search.tree.tree import Tree

CHAIN = "mod 11: n=u-q U9 r=q+q l=n+n g=l-z j=r*q K0 Q2 v=k*u z=v*l; g?"
FOLDER = Path(data.__file__).parent


class Blocks(HTMLParser):
    """The elements of a page, and what stands in its scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        self._open = None
        if tag in ("script", "style"):
            self._open = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, text):
        if self._open is not None:
            self.scripts[self._open] = self.scripts.get(self._open, "") + text

    def read(self, name: str):
        return json.loads(self.scripts[name])


def is_seven(trace, answer):
    return answer == "7"


# -- what the page is told


def test_items_are_the_nodes_and_then_what_was_never_taken():
    told = data.tree(subject(planted()))
    assert told["nodes"] == 6
    assert told["parent"] == [-1, 0, 1, 0, 3, 1, 0]
    assert told["text"] == ["", "b\n", "#### 5\n", "a\n", "#### 7\n", "#### 5\n", "c\n"]
    assert told["visits"] == [9, 5, 3, 4, 2, 2, 0]
    assert told["value"] == [None, 0.6, 0.2, 0.85, 0.9, 0.3, 0.25]
    assert told["prior"] == [None, 0.3, 0.6, 0.5, 1.0, 0.4, 0.2]
    assert told["own"] == [None, None, None, None, None, None, 0.25]
    assert told["tokens"] == [0, 1, 6, 1, 6, 6, 1]
    assert told["finished"] == [2, 4, 5] and told["cut"] == []
    assert told["answers"] == {"2": "5", "4": "7", "5": "5"}
    assert told["u"][1] == round(2 * 10**0.5 * 0.3 / 6, 4), "the root has a visit of its own"
    assert told["name"] == "mcts c_puct=2.0, seed 7", "options that are not the usual ones"
    assert told["cost"] == "1,234 tokens, 9 simulations, 0.50 s"


def test_the_chain_of_the_search_and_that_of_the_majority():
    told = data.tree(subject(planted(), right=is_seven))
    assert told["search"] == {"end": 4, "answer": "7", "right": True, "below": None, "drop": None}
    assert told["vote"] == {"end": 2, "answer": "5", "right": False, "below": 2, "drop": 2}
    assert told["candidates"] == [["5", 0.7143, 0.3, False], ["7", 0.2857, 0.9, True]]
    unknown = data.tree(subject(planted()))
    assert unknown["search"]["right"] is None and unknown["vote"]["right"] is None


def test_the_value_turns_where_it_first_falls_below_a_half_and_where_it_falls_most():
    trace = deep(6)
    falling = np.array([0.8, 0.7, 0.45, 0.6, 0.3])
    told = data.tree(subject(planted(**{**vars(trace), "edge_sum": falling})))
    assert told["search"]["end"] == 5
    assert told["search"]["below"] == 3 and told["search"]["drop"] == 5
    rising = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    told = data.tree(subject(planted(**{**vars(trace), "edge_sum": rising})))
    assert told["search"]["below"] is None and told["search"]["drop"] is None


def test_rewards_decide_before_targets():
    reward = np.array([math.nan, math.nan, 1.0, math.nan, 0.0, math.nan])
    told = data.tree(subject(planted(node_reward=reward), right=is_seven))
    assert told["search"]["end"] == 2 and told["search"]["right"] is True
    assert told["value"][2] == 1.0 and told["value"][4] == 0.0


def test_a_verified_chain_without_an_answer_is_the_search_s():
    reward = np.array([math.nan, math.nan, 1.0, math.nan, math.nan, math.nan])
    steps = [*planted().steps]
    steps[3] = TextStep("\n")
    told = data.tree(subject(planted(node_reward=reward, steps=tuple(steps))))
    assert told["search"]["end"] == 2 and told["search"]["answer"] is None


def test_equal_answers_vote_together():
    texts = ("a", "b", "c", "#### 0.5", "#### 1/3", "#### 1/2")
    trace = planted(steps=tuple(TextStep(f"{text}\n") for text in texts))
    apart = data.tree(subject(trace))
    halves = data.tree(subject(trace, classes=lambda answers: [a == "1/3" for a in answers]))
    assert [row[0] for row in apart["candidates"]] == ["0.5", "1/2", "1/3"]
    assert [row[:2] for row in halves["candidates"]] == [["0.5", 0.7143], ["1/3", 0.2857]]


def test_other_kinds_and_other_methods_have_less_to_tell():
    foreign = data.tree(subject(planted(kind="no.such.module:Problem")))
    assert foreign["vote"] is None and foreign["answers"] == {} and foreign["search"]["end"] == 4
    assert foreign["q"][6] == 0.25, "its own value, with no rule of the problem"
    game = planted(kind="search.problems.hex:Hex", arguments={"size": 3})
    assert data.tree(subject(game))["vote"] is None, "its steps are no text"
    for method, options in (
        ("search.methods.beam:beam", {}),
        ("my:method", {"c_puct": 1.0}),
        ("search.methods.mcts:mcts", {"rule": "none"}),
        ("search.methods.mcts:mcts", {"rule": ["puct"]}),
        ("search.methods.mcts:mcts", {"c_puct": "much"}),
        ("search.methods.mcts:mcts", {"c_puct": -1.0}),
    ):
        told = data.tree(subject(planted(method=method, options=options)))
        assert told["rule"] is None and set(told["u"]) == {None}
        assert told["q"][1] == 0.6 and told["q"][6] is None


def test_numbers_that_json_cannot_say_are_unknown():
    infinite = planted(edge_sum=np.full(6, np.inf), edge_log_prob=np.full(6, np.inf))
    told = data.tree(subject(infinite))
    json.dumps(told, allow_nan=False)
    assert told["value"][1] is None and told["q"][1] is None


def test_the_root_alone_and_a_tree_deeper_than_the_recursion_limit():
    told = data.tree(subject(root_alone()))
    assert told["parent"] == [-1] and told["search"]["end"] == 0 and told["vote"] is None
    assert data.tree(subject(deep(3000)))["search"]["end"] == 2999


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_terms_are_those_by_which_the_search_chooses(rule: str, seed: int):
    """The tree itself is asked where it would go next, and follows the highest Q + U."""
    rng = np.random.default_rng(seed)
    tree = Tree(TextProblem("?").initial())
    options = {"rule": rule, "c_puct": 0.7, "fpu_reduction": 0.1}
    chosen = RULES[rule](0.7, 0.1)

    def grow(node: int) -> None:
        count = int(rng.integers(2, 6))
        values = rng.random(count) if node == 0 or rng.random() < 0.3 else np.full(count, math.nan)
        steps = [TextStep(f"{node} {i}\n") for i in range(count)]
        states = [tree.states[node].then(step) for step in steps]
        tree.add(node, steps, states, rng.dirichlet(np.ones(count)), values.tolist())

    grow(0)
    tree.visit(0, 0.5)
    for _ in range(200):
        leaves = tree.select(1, chosen)
        tree.backup(leaves, [float(rng.random())])
        if not tree.block(int(leaves[0])):
            grow(int(leaves[0]))
    trace = Trace.of(tree, TextProblem("?"), "search.methods.mcts:mcts", options, 0, "v", Usage())
    told = data.tree(subject(trace))
    assert told["rule"]["name"] == rule and told["rule"]["c"] == 0.7
    below: dict[int, list[int]] = {}
    for item, parent in enumerate(told["parent"]):
        below.setdefault(parent, []).append(item)

    def score(item: int) -> float:
        if told["u"][item] is None:  # ucb1 takes steps that were never taken first
            return 1e6 + told["prior"][item]
        return told["q"][item] + told["u"][item]

    item = 0
    path = []
    while item in below:
        item = max(below[item], key=score)
        path.append(told["text"][item])
    (leaf,) = tree.select(1, chosen).tolist()
    assert [step.text for step in tree.chain(leaf)] == path
    assert len(path) > 1


# -- no text becomes part of the page


def hostile() -> Trace:
    steps = tuple(TextStep(f"{HOSTILE}\n#### {HOSTILE}\n") for _ in range(6))
    return renamed(HOSTILE, steps=steps, options={HOSTILE: HOSTILE}, version=HOSTILE, error=HOSTILE)


def test_what_others_wrote_stays_data():
    made = page([subject(hostile())], [subject(hostile())]).html
    blocks = Blocks(made)
    assert list(blocks.scripts) == ["style", "problems", "tree0", "tree1", "script"]
    assert blocks.names.count("script") == 4
    assert not {"img", "iframe", "link", "object", "embed", "base"} & set(blocks.names)
    for name in ("problems", "tree0", "tree1"):
        assert "<" not in blocks.scripts[name] and blocks.scripts[name].isascii()
    assert blocks.read("tree0")["text"][1] == harmless(f"{HOSTILE}\n#### {HOSTILE}\n")
    assert blocks.read("problems")[0]["statement"] == harmless(HOSTILE)
    assert harmless(HOSTILE).count("\N{REPLACEMENT CHARACTER}") == 4
    assert html.escape(harmless(HOSTILE)) in made.partition("<style>")[0], "the title"


def test_a_page_loads_nothing_and_lets_nothing_else_run():
    made = page([subject(hostile())]).html
    blocks = Blocks(made)
    names = {name for name, _ in blocks.attributes}
    assert not {"src", "href", "srcset", "action", "style"} & names
    assert not [name for name in names if name.startswith("on")]
    (policy,) = [v for _, v in blocks.attributes if v and v.startswith("default-src")]
    script, style = (
        base64.b64encode(hashlib.sha256(blocks.scripts[name].encode()).digest()).decode()
        for name in ("script", "style")
    )
    assert policy == f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'"
    assert "://" not in made


def test_the_script_writes_text_only():
    script = "".join(path.read_text() for path in FOLDER.glob("*.js"))
    writers = (
        "innerHTML|outerHTML|insertAdjacentHTML|document\\.write|DOMParser|eval\\(|Function\\("
    )
    assert not re.search(writers, script)


def test_a_notebook_shows_the_page_in_a_frame():
    made = page([subject(hostile())])
    frame = made._repr_html_()
    blocks = Blocks(frame)
    assert blocks.names == ["iframe"]
    attributes = dict(blocks.attributes)
    assert attributes["srcdoc"] == made.html and attributes["sandbox"] == "allow-scripts"
    assert repr(made).startswith("Page(") and len(repr(made)) < 80


def test_trees_of_one_problem_stand_together(tmp_path):
    first = [subject(renamed("one")), subject(renamed("two"))]
    beside = [subject(renamed("two", seed=8)), subject(renamed("three"))]
    path = page(first, beside).save(tmp_path / "new" / "page.html")
    rows = Blocks(path.read_text()).read("problems")
    assert [row["statement"] for row in rows] == ["one", "two"]
    assert [[tree["data"] for tree in row["trees"]] for row in rows] == [
        ["tree0"],
        ["tree1", "tree2"],
    ]
    assert [row["beside"] for row in rows] == [None, 1]
    assert rows[1]["trees"][1]["name"] == "mcts c_puct=2.0, seed 8"


def test_what_cannot_be_shown_is_said():
    with pytest.raises(ValueError, match="no tree to show: give"):
        page([])
    with pytest.raises(ValueError, match="same problem: give"):
        page([subject(renamed("one"))], [subject(renamed("two"))])
    with pytest.raises(ValueError, match="no tree to show: print"):
        search.Solution(TextProblem("?")).show()


# -- colours


def themes() -> list[dict[str, str]]:
    """The colours by name, light and dark."""
    style = (FOLDER / "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#\w{6});", text)) for text in (light, dark)]


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    bright, dim = sorted([luminance(one), luminance(other)], reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_text_and_marks_can_be_told_from_what_is_behind_them():
    assert [len(theme) for theme in themes()] == [15, 15]
    for theme in themes():
        for text, behind in itertools.product(
            ("ink", "dim", "accent", "good", "bad"), ("paper", "card")
        ):
            assert contrast(theme[text], theme[behind]) >= 4.5, (text, behind)
        for mark in ("search", "vote", "accent"):
            assert contrast(theme[mark], theme["paper"]) >= 3, mark
        assert contrast(theme["ink"], theme["none"]) >= 4.5


# -- the command


def test_the_command_writes_a_page(capsys, tmp_path):
    Trace.save([renamed("What is 3 + 4?"), renamed("two", id="t")], tmp_path / "a.parquet")
    Trace.save([planted(id="u", seed=8)], tmp_path / "b.parquet")
    targets = tmp_path / "targets.jsonl"
    targets.write_text(json.dumps({"problem": "What is 3 + 4?", "target": "7"}) + "\n")
    out = tmp_path / "page.html"
    view = ["view", tmp_path / "a.parquet", "--html", out]
    code, told, err = run(capsys, *view, "--beside", tmp_path / "b.parquet", "--targets", targets)
    assert (code, err) == (0, "") and str(out) in told
    rows = Blocks(out.read_text()).read("problems")
    first, second = (row["trees"][0] for row in rows)
    assert [first["search"], first["vote"]] == [True, False]
    assert [second["search"], second["vote"]] == [None, None]
    assert [len(row["trees"]) for row in rows] == [2, 1]
    assert run(capsys, *view, "--problem", 2)[0] == 0
    assert [row["statement"] for row in Blocks(out.read_text()).read("problems")] == ["two"]


def test_bad_use_of_the_command_gets_one_sentence(capsys, tmp_path):
    Trace.save([planted()], tmp_path / "a.parquet")
    Trace.save([renamed("two")], tmp_path / "b.parquet")
    trace = tmp_path / "a.parquet"
    out = tmp_path / "page.html"
    (tmp_path / "file").write_text("")
    for args in (
        [trace, "--html", tmp_path],
        [trace, "--html", tmp_path / "file" / "page.html"],
        [trace, "--html", out, "--beside", tmp_path / "b.parquet"],
        [trace, "--html", out, "--beside", tmp_path / "none"],
        [trace, "--html", out, "--targets", tmp_path / "none"],
        [trace, "--html", out, "--depth", 3],
        [trace, "--html", out, "--problem", 9],
        [trace, "--html", out, "--allow", "no.such.module"],
        [trace, "--beside", trace],
        [trace, "--targets", trace],
        [tmp_path / "none", "--html", out],
    ):
        code, told, err = run(capsys, "view", *args)
        assert code == 2 and told == "" and err.count("\n") == 1, (args, err)
        assert err.startswith("copse: ") and ":" in err.removeprefix("copse: "), err
    assert not out.exists()


# -- searches


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["mcts", "gumbel", "beam", "sample"])
def test_a_stored_trace_tells_what_its_solution_said(method: str):
    problems = ["Use 4, 7, 8 and 8 to make 24.", CHAIN]
    for solution in search.solve_many(problems, method=method, budget="tokens=300"):
        own = Blocks(solution.show().html).read("tree0")
        stored = data.tree(subject(solution.trace))
        assert own["search"]["end"] == stored["search"]["end"]
        assert own["search"]["answer"] == solution.answer
        assert own["vote"] == stored["vote"] and own["candidates"] == stored["candidates"]
        assert [row[0] for row in own["candidates"]] == [row[0] for row in solution.candidates]
        assert isinstance(solution.show(), Page)
