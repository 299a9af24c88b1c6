"""Streams from traces: every one is legal in a `Stream` of its problem and ends with what is right
there, and what it holds is what the tree holds; small ones against what is written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product, starmap
from typing import Any

import numpy as np
import pytest

import search
from benchmarks.tasks import state_right
from guides.data.grading import Graded, Replay
from guides.data.labels import Labels
from guides.data.streams import CHECKS, KINDS, ORDERS, Line, Streaming, segments_of, streams_of
from search.problem import TextStep
from search.problems.countdown import Countdown, generate
from search.problems.stream import Moves, Stream

LAST = Moves(back="Back.")


def lines_of(problem: Any, state: Any) -> list[TextStep]:
    """All legal lines."""
    left = problem.left(state)
    found = []
    for i, a in enumerate(left):
        for j, b in enumerate(left):
            if i == j or a < b:
                continue
            results = {"+": a + b, "-": a - b, "*": a * b}
            if b and a % b == 0:
                results["/"] = a / b
            for sign, result in results.items():
                step = TextStep(f"{a}{sign}{b}={result}", (1, 2))
                if problem.key(state, step) not in [problem.key(state, one) for one in found]:
                    found.append(step)
    return found


def graded(problem: Countdown, seed: int, simulations: int = 60) -> Graded:
    """The trace of a search of the problem, with exact labels."""
    found = search.solve(
        problem, guide=search.Guide(lines_of), method="mcts", seed=seed,
        budget=f"simulations={simulations}",
    )  # fmt: skip
    assert found.trace is not None
    replay = Replay(found.trace)
    exact = replay.check(state_right)
    known = ~np.isnan(exact)
    labels = Labels(np.where(known, exact, 0.0), np.where(known, math.inf, 0.0))
    outcomes = np.where(found.trace.node_finished, found.trace.node_reward, math.nan)
    return Graded(replay, outcomes, outcomes, labels, (9,))


@pytest.fixture(scope="module")
def trees() -> list[Graded]:
    problems = generate(7, 12, size=3, targets=range(1, 60))
    return [graded(problem, seed) for seed, problem in enumerate(problems)]


def played(one: Graded, lines: list[Line], chosen: Streaming, **rules: Any) -> tuple[Any, Stream]:
    """The state behind the lines, each of which is legal."""
    stream = Stream(one.replay.problem, moves=chosen.moves, **rules)
    state = stream.initial()
    for line in lines:
        assert not stream.is_terminal(state), "nothing stands behind the end"
        state = stream.apply(state, TextStep(line.text))
    return state, stream


def walk(order: str, checks: str) -> Streaming:
    return Streaming("walk", rate=0.9, order=order, checks=checks)


def fresh() -> np.random.Generator:
    return np.random.default_rng(0)


VARIANTS = [
    Streaming("retry", rate=0.5),
    Streaming("retry", rate=0.5, source="early", moves=LAST),
    Streaming("retry", rate=0.7, checks="lines"),
    Streaming("retry", rate=0.3, checks="answers", masked=True),
    *starmap(walk, product(ORDERS, CHECKS)),
    Streaming("walk", rate=0.0, moves=LAST),
    Streaming("walk", rate=0.9, order="breadth", moves=LAST),
]


@pytest.mark.parametrize("chosen", VARIANTS, ids=str)
def test_a_stream_is_legal_and_ends_with_what_is_right(
    trees: list[Graded], chosen: Streaming
) -> None:
    moves = 0
    made = 0
    for one in trees:
        rng = np.random.default_rng(3)
        for lines in streams_of(one, chosen, rng):
            state, stream = played(one, lines, chosen, checked=chosen.checks != "none")
            assert stream.is_terminal(state) and stream.verify(state) == 1.0
            made += 1
            moves += len(stream.read(state).made)
            told = [mark.move for mark in stream.read(state).made]
            if chosen.checks == "lines":
                checks = [move for move in told if move.kind == "check"]
                assert len(checks) == sum(stream.moves.read(line.text) is None for line in lines)
    assert made >= 6
    assert moves > 0 or (chosen.kind == "walk" and chosen.rate == 0)


def test_checks_say_what_the_labels_say(trees: list[Graded]) -> None:
    chosen = Streaming("walk", rate=0.9, order="search", checks="lines")
    verdicts = set()
    for one in trees:
        for lines in streams_of(one, chosen, np.random.default_rng(0)):
            state, stream = played(one, lines, chosen, checked=True)
            for made in stream.read(state).made:
                if made.move.kind != "check":
                    continue
                before = stream.read(state[: made.about + 1]).state
                assert made.move.right == (state_right(one.replay.problem, before) == 1.0)
                verdicts.add(made.move.right)
    assert verdicts == {True, False}


def test_what_nobody_judged_is_in_no_walk_with_checks(trees: list[Graded]) -> None:
    [one, *_] = [tree for tree in trees if streams_of(tree, walk("search", "lines"), fresh())]
    known = one.labels.n.copy()
    right = np.zeros(len(known), bool)
    for end in np.flatnonzero(one.outcomes == 1.0).tolist():
        path = one.replay.trace.path(end)
        right[[0, *one.replay.trace.edge_child[path].tolist()]] = True
    unknown = replace(one, labels=Labels(one.labels.k, np.where(right, known, 0.0)))
    [lines] = streams_of(unknown, walk("search", "lines"), fresh())
    assert {line.text for line in lines[1::2]} == {"Check: right."}
    [more] = streams_of(unknown, walk("search", "none"), fresh())
    assert len(more) > len(lines) / 2, "without checks they are walked"


@pytest.mark.parametrize("masked", [False, True])
def test_wrong_lines_may_be_read_alone(trees: list[Graded], masked: bool) -> None:
    """The wrong ones are those that do not stand in the end; moves are imitated always."""
    chosen = Streaming("retry", rate=0.6, masked=masked)
    withdrawn = 0
    rng = fresh()
    for one in trees * 5:
        for lines in streams_of(one, chosen, rng):
            state, stream = played(one, lines, chosen)
            for line, gone in zip(lines, stream.withdrawn(state), strict=True):
                assert line.weight == (0.0 if gone and masked else 1.0)
                withdrawn += gone
    assert withdrawn > 5


def test_a_step_that_sometimes_came_out_right_is_not_wrong(trees: list[Graded]) -> None:
    """With counted labels: of the siblings of a right chain only those without any success."""
    chosen = Streaming("retry", rate=0.9)
    rng = fresh()
    for one in trees * 5:
        known = one.labels.n > 0
        half = Labels(np.where(known, 1.0, 0.0), np.where(known, 2.0, 0.0))
        for lines in streams_of(replace(one, labels=half), chosen, rng):
            assert not any(line.text.startswith("Back") for line in lines)
        never = Labels(np.zeros(len(known)), np.where(known, 2.0, 0.0))
        found = streams_of(replace(one, labels=never), chosen, fresh())
        assert len(found) == len(streams_of(one, chosen, fresh()))


def test_a_pair_reads_a_wrong_chain_and_learns_a_right_one(trees: list[Graded]) -> None:
    chosen = Streaming("pairs", rate=0.0)
    made = 0
    for one in trees:
        for lines in streams_of(one, chosen, np.random.default_rng(0)):
            state, stream = played(one, lines, chosen, attempts=2)
            assert stream.is_terminal(state) and stream.verify(state) == 1.0
            place = [line.text for line in lines].index("Try again.")
            first, _ = played(one, lines[:place], chosen, attempts=2)
            assert stream.verify(first) == 0.0
            own = len(lines) - place - 1
            assert [line.weight for line in lines] == [0.0] * (place + 1) + [1.0] * own
            assert [line.given for line in lines].index(True) == place
            made += 1
    assert made >= 3


def test_what_is_right_is_left_as_it_is(trees: list[Graded]) -> None:
    """Pairs of a right chain with itself, at their rate, also where nothing is wrong."""
    rng = fresh()
    same = pairs = 0
    for one in trees * 20:
        for lines in streams_of(one, Streaming("pairs", rate=0.25), rng):
            texts = [line.text for line in lines]
            place = texts.index("Try again.")
            pairs += 1
            if texts[:place] == texts[place + 1 :]:
                same += 1
                assert [line.weight for line in lines] == [float(not line.given) for line in lines]
    assert same / (pairs - same) == pytest.approx(0.25, rel=0.3)
    whole = replace(trees[0], outcomes=np.where(trees[0].trace.node_finished, 1.0, math.nan))
    found = streams_of(whole, Streaming("pairs", rate=0.9), rng)
    assert found and all(lines[0].weight == 1.0 for lines in found)


def test_a_sample_that_came_to_no_end_is_a_wrong_chain() -> None:
    """Of the samples of a problem one is right, two stop behind their first lines."""
    ways = [["8-7=1", "4-1=3", "8*3=24"], ["8+8=16"], ["8-4=4"]]
    begun: list[int] = []

    def policy(problem: Any, state: Any) -> list[TextStep]:
        if state:
            way = next(one for one in ways if one[0] == state[0].text)
        else:
            way = ways[len(begun) % len(ways)]
            begun.append(1)
        return [TextStep(way[len(state)])] if len(state) < len(way) else []

    found = search.solve(
        Countdown((4, 7, 8, 8), 24), search.Guide(policy), "sample", chains=9, wave=1, solutions=9
    )
    assert found.trace is not None
    replay = Replay(found.trace)
    outcomes = replay.grade(None)
    labels = Labels(*np.zeros((2, len(outcomes))))
    one = Graded(replay, outcomes, outcomes, labels, (9,))
    firsts = set()
    for seed in range(20):
        for lines in streams_of(one, Streaming("pairs", rate=0.0), np.random.default_rng(seed)):
            first, again, *right = [line.text for line in lines]
            assert again == "Try again." and right == ways[0]
            firsts.add(first)
    assert firsts == {"8+8=16", "8-4=4"}


def test_pairs_may_be_alike() -> None:
    """With a large weight on similarity the wrong chain with the most lines of the right one is
    taken.
    """
    one = graded(Countdown((2, 3, 5, 7), 31), 0, simulations=400)
    shares = []
    for alike in (0.0, 50.0):
        chosen = Streaming("pairs", rate=0.0, alike=alike)
        own = []
        for seed in range(20):
            for lines in streams_of(one, chosen, np.random.default_rng(seed)):
                texts = [line.text for line in lines]
                own.append(len(set(texts[:3]) & set(texts[4:])))
        shares.append(np.mean(own))
    assert shares[1] > shares[0]


def test_critiques_are_imitated_and_their_chains_read(trees: list[Graded]) -> None:
    chosen = Streaming("critiques", keep=50)
    verdicts = set()
    for one in trees:
        for lines in streams_of(one, chosen, np.random.default_rng(0)):
            assert [line.weight for line in lines] == [0.0, 1.0] * (len(lines) // 2)
            state: tuple[TextStep, ...] = ()
            for line, check in zip(lines[::2], lines[1::2], strict=True):
                state = (*state, TextStep(line.text))
                right = state_right(one.replay.problem, state) == 1.0
                assert check.text == f"Check: {'right' if right else 'wrong'}."
                verdicts.add(right)
    assert verdicts == {True, False}


def test_a_tree_without_a_solution_gives_no_stream() -> None:
    one = graded(Countdown((1, 1, 2), 59), 0)
    for kind in ("retry", "walk", "pairs"):
        assert streams_of(one, Streaming(kind), np.random.default_rng(0)) == []


def test_the_rate_is_the_share_of_wrong_lines(trees: list[Graded]) -> None:
    """Before a line that has wrong siblings, rate / (1 - rate) of them on average."""
    chosen = Streaming("retry", rate=0.4, moves=LAST, keep=1)
    backs = 0
    expected = 0.0
    for seed in range(200):
        one = trees[seed % len(trees)]
        for lines in streams_of(one, chosen, np.random.default_rng(seed)):
            texts = [line.text for line in lines]
            backs += texts.count("Back.")
            state, stream = played(one, lines, chosen)
            nodes = [0]
            for standing in np.flatnonzero(stream.standing(state)):
                trace = one.replay.trace
                edges = np.flatnonzero(trace.edge_node == nodes[-1]).tolist()
                children = [int(trace.edge_child[edge]) for edge in edges]
                bad = [c for c in children if c >= 0 and one.labels.soft[c] == 0]
                expected += (2 / 3) * any(not trace.node_finished[c] for c in bad)
                [edge] = [e for e in edges if trace.steps[e].text == texts[standing]]
                nodes.append(int(trace.edge_child[edge]))
    assert expected > 50
    assert backs == pytest.approx(expected, rel=0.25)


def test_lines_become_one_chain_of_segments() -> None:
    """Sampled tokens stay; moves are encoded, and so is a line that ended the text where it does
    not now.
    """
    lines = [
        Line("a", (1, 2), 0.0, (0.0, math.inf)),
        Line("b", (3, 99), 1.0, (2.0, 4.0), end=True),
        Line("Back."),
        Line("c", (5, 99), end=True),
    ]

    def encode(text: str) -> list[int]:
        return [ord(one) for one in text] + [10]

    def turn(text: str, before: Sequence[int]) -> list[int]:
        return [*before[-1:], len(text)]

    found = segments_of(lines, (7, 8), encode, turn)
    assert [segment.tokens for segment in found[:3]] == [(7, 8), (1, 2), (98, 10)]
    assert found[3].tokens == (66, 97, 99, 107, 46, 10) and found[4].tokens == (5, 99)
    assert [segment.parent for segment in found] == [-1, 0, 1, 2, 3]
    assert [segment.weight for segment in found] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert found[1].value == 0.0 and math.isinf(found[1].outcomes)
    assert found[2].value == 0.5 and math.isnan(found[3].value)
    asked = [lines[1], Line("Try again.", weight=0.0, given=True), lines[3]]
    found = segments_of(asked, (7, 8), encode, turn)
    assert [segment.tokens for segment in found[1:]] == [(3, 99), (99, 10), (5, 99)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "loop"}, "kind is one of retry, walk, pairs, critiques"),
        ({"order": "random"}, "order is one of depth, breadth, search"),
        ({"rate": 1.0}, r"rate is in \[0, 1\)"),
        ({"keep": 0}, "keep and longest"),
        ({"moves": Moves(back=None)}, "need the move back"),
        ({"kind": "pairs", "moves": {"again": None}}, "need the move again"),
        ({"checks": "lines", "moves": {"check": None}}, "need the move check"),
    ],
)
def test_impossible_streams_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Streaming(**fields)


def test_every_kind_is_tried() -> None:
    assert {variant.kind for variant in VARIANTS} | {"pairs", "critiques"} == set(KINDS)
