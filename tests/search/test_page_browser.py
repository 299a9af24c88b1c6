"""The page of search trees in a real browser, where Chromium is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from page_cases import HOSTILE, planted, renamed

from benchmarks.tree.browser import KEYS, Browser, browser, is_there
from benchmarks.tree.page import planted as large
from search.page.data import subject
from search.page.document import page
from search.plain_text import harmless
from search.problem import TextStep

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not is_there(), reason="needs apt-get install chromium chromium-driver"),
]

#: pixels of a canvas that are not the colour of its corner
INKED = """
const canvas = document.querySelectorAll("canvas")[arguments[0]];
const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const whole = new Uint32Array(data.buffer);
return whole.reduce((sum, pixel) => sum + (pixel !== whole[0]), 0);
"""
#: plays how the tree grew: [nodes that there are, at each frame]
PLAY = """
const seen = [], done = arguments[0];
document.getElementById("play").click();
const look = () => {
  seen.push(time);
  if (playing) requestAnimationFrame(look); else done(seen);
};
requestAnimationFrame(look);
"""
#: a tidy tree, laid out by the page: [place of each item]
TIDY = """
const parent = arguments[0], below = parent.map(() => []);
parent.forEach((above, i) => { if (above >= 0) below[above].push(i); });
const order = parent.map((_, i) => i);
return [...tidy(order, (i) => below[i], parent, parent.length)];
"""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture
def shown(window: Browser, tmp_path: Path):
    """Opens a page of subjects. At the end the console has said nothing and nothing was loaded."""

    def show(subjects, beside=()) -> Browser:
        window.open(page(subjects, beside).save(tmp_path / "page.html"))
        return window

    yield show
    assert window.complaints() == []
    assert window.run("return performance.getEntriesByType('resource').length") == 0


def drawn(window: Browser, place: int = 0) -> int:
    """Draws, and tells how many items."""
    script = "panes[arguments[0]].draw(); return panes[arguments[0]].canvas.dataset.drawn"
    return int(window.run(script, place))


def chosen(window: Browser) -> str:
    return window.text("#detail pre")


def is_seven(trace, answer):
    return answer == "7"


def test_the_tree_is_drawn_and_described(shown):
    window = shown([subject(planted(), right=is_seven)])
    assert drawn(window) == 7 and window.run(INKED, 0) > 2000
    assert window.text("h1") == "What is 3 + 4?"
    facts = window.text(".facts").replace("\n\n", "\n").splitlines()
    assert facts[0] == "1,234 tokens, 9 simulations, 0.50 s"
    assert facts[1].startswith("★ search: 7 (right)")
    assert facts[2].startswith("◆ majority: 5 (wrong)") and "largest drop, 0.40" in facts[2]
    assert chosen(window) == "#### 7\n"
    assert window.run("return document.getElementById('problem-list').hidden")


def test_why_a_step_was_taken(shown):
    window = shown([subject(planted())])
    window.run("panes[0].choose(1)")
    rows = window.run(
        "return [...document.querySelectorAll('#detail table')[0].rows]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    # start has 1 + 9 visits: U = 2 sqrt(10) P / (1 + n)
    assert rows == [
        ["step", "P", "visits", "Q", "U", "Q + U", "so far"],
        ["c", "0.20", "0", "0.25*", "1.26", "1.51", "–"],
        ["a", "0.50", "4", "0.85", "0.63", "1.48", "2"],
        ["b", "0.30", "5", "0.60", "0.32", "0.92", "3"],
    ]
    assert "U = c √N P / (1 + n)" in window.text("#detail .note")
    assert "c = 2" in window.text("#detail .note")


def test_the_scrubber_shows_the_tree_grow(shown):
    window = shown([subject(planted())])
    window.keys("#time", "\ue011")  # Home
    assert drawn(window) == 1 and window.text("#moment") == "node 1 of 6"
    for nodes in (2, 3, 4):
        window.keys("#time", KEYS["right"])
        assert drawn(window) == nodes
    window.run("panes[0].choose(1)")
    rows = window.run(
        "return [...document.querySelectorAll('#detail tr')].map((row) => row.textContent)"
    )
    assert [row[-1] for row in rows[1:4]] == ["–", "1", "2"]
    window.keys("#time", "\ue010")  # End
    assert drawn(window) == 7, "with the step that was never taken"
    assert window.text("#moment") == "all 6 nodes"
    seen = window.later(PLAY)
    assert seen == sorted(seen) and seen[0] < 6 and seen[-1] == 6


def test_keys_lead_through_the_tree(shown):
    window = shown([subject(planted())])
    for key, text in (
        (KEYS["left"], "a\n"),
        (KEYS["up"], "b\n"),
        (KEYS["right"], "#### 5\n"),
        (KEYS["down"], "#### 5\n"),
        ("s", "#### 7\n"),
        ("v", "#### 5\n"),
    ):
        window.keys("canvas", key)
        assert chosen(window) == text, repr(key)
    assert window.run("return document.getElementById('said').textContent") == (
        "#### 5: value 0.20, 3 visits"
    )
    window.keys("canvas", KEYS["left"] + KEYS["enter"])
    assert drawn(window) == 5, "two are folded away"
    window.keys("canvas", KEYS["enter"] + "[[")
    assert window.text("#moment") == "node 4 of 6" and drawn(window) == 4
    before = window.run("return panes[0].scale")
    window.keys("canvas", "--")
    assert window.run("return panes[0].scale") < before
    window.keys("canvas", "0")
    assert window.run("return panes[0].scale") == before


def test_the_pointer_tells_and_chooses(shown):
    window = shown([subject(planted())])
    at = """
    const pane = panes[0], box = pane.canvas.getBoundingClientRect();
    const clientX = box.left + pane.x(1) + 20, clientY = box.top + pane.y(1);
    const where = { clientX, clientY, pointerId: 1 };
    const tell = (type) => pane.canvas.dispatchEvent(new PointerEvent(type, where));
    pane.canvas.setPointerCapture = () => {};
    """
    window.run(at + "tell('pointermove')")
    assert window.text("#tip") == "b\nvalue 0.60  5 visits  prior 0.30"
    window.run(at + "tell('pointerdown'); tell('pointerup')")
    assert chosen(window) == "b\n"
    window.run(at + "pane.canvas.dispatchEvent(new MouseEvent('dblclick', where))")
    assert drawn(window) == 5


def test_problems_are_filtered_by_who_was_right(shown):
    reward = np.full(6, np.nan)
    verified = reward.copy()
    verified[[2, 5]] = 1.0
    window = shown(
        [
            subject(renamed("one"), right=is_seven),
            subject(renamed("two", node_reward=verified)),
            subject(renamed("three")),
        ]
    )
    for name, texts in (
        ("all", ["one", "two", "three"]),
        ("right wrong", ["one"]),
        ("right right", ["two"]),
        ("wrong right", []),
        ("unknown", ["three"]),
    ):
        window.run(
            "const filter = document.getElementById('filter'); filter.value = arguments[0];"
            "filter.dispatchEvent(new Event('change'))",
            name,
        )
        assert window.text("#count") == f"{len(texts)} of 3 problems"
        found = window.text("#list").splitlines()
        assert found[::2] == texts, name
        if texts:
            assert window.text("h1") == texts[0]
    assert found[1] == "search not known, vote not known"


def test_two_trees_stand_side_by_side(shown):
    beside = subject(planted(seed=8, method="my:method", options={}))
    window = shown([subject(planted())], [beside])
    assert drawn(window, 0) == drawn(window, 1) == 7
    assert window.text(".pane:nth-child(2) .bar b") == "method, seed 8"
    chosen_trees = "return [...document.querySelectorAll('.bar select')].map((one) => one.value)"
    assert window.run(chosen_trees) == ["tree0", "tree1"]
    window.run("panes[1].choose(1)")
    assert "no selection rule" in window.text("#detail .note")
    window.keys("#time", "\ue011")
    assert drawn(window, 0) == drawn(window, 1) == 1
    hide = "panes[1].select.value = ''; panes[1].select.dispatchEvent(new Event('change'))"
    window.run(hide)
    assert window.run("return panes[1].root.hidden && !panes[0].root.hidden")


def test_text_stays_text(shown):
    steps = tuple(TextStep(f"{HOSTILE}\n#### {HOSTILE}\n") for _ in range(6))
    trace = renamed(HOSTILE, steps=steps, options={HOSTILE: HOSTILE}, version=HOSTILE)
    window = shown([subject(trace)], [subject(trace)])
    window.run("panes[0].choose(1); panes[0].choose(0); panes[0].choose(4)")
    window.run("panes[0].hover({ clientX: 0, clientY: 0, ...panes[0].canvas })")
    assert window.run("return document.querySelectorAll('img').length") == 0
    assert window.run("return typeof window.hit") == "undefined"
    read = "return document.querySelector(arguments[0]).textContent"
    assert window.run(read, "#detail pre") == harmless(f"{HOSTILE}\n#### {HOSTILE}\n")
    assert window.run(read, "h1") == harmless(HOSTILE)


def test_a_notebook_s_frame_runs_the_page(window, tmp_path):
    (tmp_path / "notebook.html").write_text(page([subject(planted())])._repr_html_())
    window.open(tmp_path / "notebook.html")
    assert window.run("return document.querySelector('iframe').clientHeight") == 720
    window.enter("iframe")
    assert drawn(window) == 7 and chosen(window) == "#### 7\n"
    assert window.complaints() == []


def test_a_large_tree_begins_folded_and_opens(shown):
    window = shown([subject(large(5000))])
    assert drawn(window) < 200
    window.run("panes[0].unfold()")
    assert drawn(window) > 1000 and window.run(INKED, 0) > 20_000
    window.keys("canvas", "s")
    assert window.run("return panes[0].scale >= READABLE && panes[0].visible[panes[0].selected]")


@pytest.mark.parametrize("seed", range(5))
def test_the_layout_is_tidy(window, tmp_path, seed: int):
    """Parents stand in the middle of their children, neighbours at least 1 apart, in order."""
    rng = np.random.default_rng(seed)
    parent = [-1, *(int(rng.integers(max(0, i - 12), i + 1)) for i in range(300))]
    window.open(page([subject(planted())]).save(tmp_path / "page.html"))
    place = window.run(TIDY, parent)
    depth = [0] * len(parent)
    below: dict[int, list[int]] = {}
    for item, above in enumerate(parent):
        if item:
            depth[item] = depth[above] + 1
            below.setdefault(above, []).append(item)
    for above, items in below.items():
        assert place[above] == pytest.approx((place[items[0]] + place[items[-1]]) / 2)
        assert np.all(np.diff([place[item] for item in items]) >= 1 - 1e-9)
    level = [0]
    while level:
        assert np.all(np.diff([place[item] for item in level]) >= 1 - 1e-9)
        level = [child for item in level for child in below.get(item, [])]
    width = max(place) - min(place)
    assert width < len(parent) - len(below), "narrower than a row for each leaf"


def test_dark_and_light(shown, tmp_path):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = shown([subject(planted())]).run(background)
    with browser(dark=True) as window:
        window.open(page([subject(planted())]).save(tmp_path / "dark.html"))
        assert (light, window.run(background)) == ("rgb(247, 248, 250)", "rgb(18, 22, 29)")
        assert window.run(INKED, 0) > 2000 and window.complaints() == []
