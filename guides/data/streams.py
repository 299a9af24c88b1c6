"""From graded traces to streams: text in which a model errs, goes back, checks and tries again,
made of what its own search tried. Pure functions, no model.

The lines of the problem are steps of the trace; between them stand the moves of
`search.problems.stream`, written as its `Moves` say. What the makers write is legal in a `Stream`
of the problem with the same moves.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from guides.data.distill import ended
from guides.data.examples import Segment
from guides.data.grading import Graded
from search.problem import IllegalStep, TextStep
from search.problems.stream import AGAIN, BACK, CHECK, Moves
from search.trace import Trace

KINDS = ("retry", "walk", "pairs", "critiques")
SOURCES = ("tree", "early")
ORDERS = ("depth", "breadth", "search")
CHECKS = ("none", "answers", "lines")


@dataclass(frozen=True)
class Streaming:
    """Which streams are made of a trace.

    kind     "retry"     a right chain, with a wrong line and the move back before some of its lines
                         (Ye et al. 2024, "Physics of Language Models: Part 2.2", section 3)
             "walk"      the tree as it is walked to its solution, with the moves back out of what
                         led nowhere (Gandhi et al. 2024, "Stream of Search"); without checks wrong
                         answers are left out, because a stream would end there
             "pairs"     a wrong chain, or a sample that came to no end, the move "again", a right
                         chain, which alone is imitated (Welleck et al. 2022, "Generating Sequences
                         by Learning to Self-Correct"); in a search the move is then the search's
             "critiques" a chain, right or wrong, with a check behind each line; the checks alone
                         are imitated (Zhang et al. 2024, "Generative Verifiers")
    rate     in [0, 1): of "retry", the chance of a wrong line before each right one, and of another
             behind it; of "walk", the share of the subtrees without a solution that are walked; of
             "pairs", the chance of another pair, of the right chain and itself, both imitated, so
             that the model learns to leave what is right
    source   of the wrong lines of "retry": "tree", a step of the same node that led to nothing
             right; "early", a later line of the chain, copied too early
    order    of "walk": "depth" or "breadth" first, or as the "search" made the nodes
    checks   where a check stands: "none", behind "answers", or behind all "lines"; what a check
             found wrong is gone back from
    masked   wrong lines are read and not imitated
    alike    of "pairs": a wrong chain is drawn with a probability in proportion to exp(alike *
             similarity), the similarity the share of lines that both have, in [0, 1]
    keep     most streams of a trace
    longest  tokens of a stream, at most: longer ones are left out
    moves    how they are written: a `Moves`, or its fields

    Raises ValueError for values that are none of these, and for moves that the kind needs and that
    are missing.
    """

    kind: str = "retry"
    rate: float = 0.3
    source: str = "tree"
    order: str = "depth"
    checks: str = "none"
    masked: bool = False
    alike: float = 0.0
    keep: int = 10
    longest: int = 4096
    moves: Moves = field(default_factory=Moves)

    def __post_init__(self) -> None:
        if isinstance(self.moves, dict):  # from a file
            object.__setattr__(self, "moves", Moves(**self.moves))
        choices = {"kind": KINDS, "source": SOURCES, "order": ORDERS, "checks": CHECKS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"of streams, {name} is one of {', '.join(allowed)}, not "
                    f"{getattr(self, name)!r}: choose one"
                )
        if not 0 <= self.rate < 1 or min(self.keep, self.longest) < 1 or self.alike < 0:
            raise ValueError(
                "of streams, rate is in [0, 1), keep and longest are at least 1, alike at least "
                "0: correct them"
            )
        needed = {"retry": BACK, "walk": BACK, "pairs": AGAIN, "critiques": CHECK}
        missing = {needed[self.kind]} - set(self.moves.kinds)
        if self.checks != "none" and CHECK not in self.moves.kinds:
            missing.add(CHECK)
        if missing:
            raise ValueError(
                f"streams of the kind {self.kind!r} need the move {', '.join(sorted(missing))}: "
                "say how it is written"
            )

    @property
    def rules(self) -> dict[str, Any] | None:
        """Of the `Stream` that a model writes which has learnt these; None: it judges instead."""
        if self.kind == "critiques":
            return None
        pairs = self.kind == "pairs"
        return {
            "moves": asdict(self.moves),
            "attempts": 2 if pairs else 1,
            "checked": self.checks != "none" and not pairs,
            "insist": pairs,
        }


class Line(NamedTuple):
    """A line of a stream.

    text    without delimiter;  tokens: as they were sampled, (): to be encoded
    weight  of imitating it;  label: of the value behind it, the sum of n outcomes, and n
    end     the tokens end the text or turn, so that nothing of the model's may follow
    given   the search writes it, to a chat model as a user's turn
    """

    text: str
    tokens: tuple[int, ...] = ()
    weight: float = 1.0
    label: tuple[float, float] = (math.nan, 0.0)
    end: bool = False
    given: bool = False


def streams_of(one: Graded, chosen: Streaming, rng: np.random.Generator) -> list[list[Line]]:
    """The streams of a graded trace, [] where it has no right chain (for "critiques": no chain that
    is graded).
    """
    return list(_MAKERS[chosen.kind](_Tree(one), chosen, rng))[: chosen.keep]


def segments_of(
    lines: Sequence[Line],
    prompt: Sequence[int],
    encode: Callable[[str], Sequence[int]],
    turn: Callable[[str, Sequence[int]], Sequence[int]],
) -> list[Segment]:
    """A stream as an example: one chain of segments, the prompt first.

    encode  the tokens of a line with its delimiter;  turn: of one that the search writes, behind
            the tokens before it
    """
    segments = [Segment(tuple(prompt), 0.0, math.nan, -1, 0.0)]
    for place, line in enumerate(lines):
        k, n = line.label
        value = math.nan
        if n:
            value = k if math.isinf(n) else k / n
        tokens = line.tokens
        followed = place + 1 < len(lines) and not lines[place + 1].given
        if line.given:
            tokens = tuple(turn(line.text, segments[-1].tokens))
        elif not tokens or (line.end and followed):
            tokens = tuple(encode(line.text))
        segments.append(Segment(tokens, line.weight, value, len(segments) - 1, n))
    return segments


class _Tree:
    """A graded trace as the makers look at it.

    children  of each node, in the order of their priors
    right     bool [nodes]: it is finished and right, or what is below it is
    wrong     bool [nodes]: nothing at or below it was found right, and something was graded
    """

    def __init__(self, one: Graded):
        self.one = one
        self.trace: Trace = one.replay.trace
        trace = self.trace
        self.ends = np.flatnonzero(trace.node_finished & (one.outcomes == 1.0)).tolist()
        self.right = np.zeros(len(one.outcomes), bool)
        for end in self.ends:
            self.right[[0, *self.nodes(end)]] = True
        self.wrong = (one.labels.n > 0) & (one.labels.soft == 0.0)
        self.children: list[list[int]] = [[] for _ in one.outcomes]
        order = np.argsort(-trace.edge_prior, kind="stable")
        for edge in order.tolist():
            child = int(trace.edge_child[edge])
            if child >= 0:
                self.children[int(trace.edge_node[edge])].append(child)

    def nodes(self, end: int) -> list[int]:
        """The nodes of the chain to `end`, without the root."""
        found: list[int] = self.trace.edge_child[self.trace.path(end)].tolist()
        return found

    def step(self, node: int) -> TextStep:
        step: TextStep = self.trace.steps[int(self.trace.node_edge[node])]
        return step

    def text(self, node: int) -> str:
        return self.step(node).text

    def line(self, node: int, weight: float = 1.0) -> Line:
        step = self.step(node)
        k, n = self.one.labels
        label = (float(k[node]), float(n[node]))
        return Line(step.text, step.tokens, weight, label, step.finish == "end")

    def finished(self, node: int) -> bool:
        return bool(self.trace.node_finished[node])


class _Script:
    """A stream as it is written. standing: how many lines stand."""

    def __init__(self, tree: _Tree, chosen: Streaming):
        self.tree = tree
        self.chosen = chosen
        self.moves = chosen.moves
        self.lines: list[Line] = []
        self.standing = 0

    def say(self, node: int, *, wrong: bool = False) -> None:
        """A line of the trace, and its check."""
        self.write(self.tree.line(node), wrong=wrong, answer=self.tree.finished(node))

    def write(self, line: Line, *, wrong: bool, answer: bool = False) -> None:
        weight = 0.0 if wrong and self.chosen.masked else 1.0
        self.lines.append(line._replace(weight=weight))
        self.standing += 1
        if self.chosen.checks == "lines" or (self.chosen.checks == "answers" and answer):
            self.lines.append(Line(self.moves.say(not wrong)))

    def back(self, to: int) -> None:
        """The moves after which the first `to` lines stand."""
        if "{line}" in (self.moves.back or ""):
            if self.standing > to:
                self.lines.append(Line(self.moves.go_back(to)))
        else:
            self.lines += [Line(self.moves.go_back(0))] * (self.standing - to)
        self.standing = to


def _retries(tree: _Tree, chosen: Streaming, rng: np.random.Generator) -> Iterator[list[Line]]:
    for end in rng.permutation(tree.ends).tolist():
        nodes = tree.nodes(end)
        script = _Script(tree, chosen)
        for place, node in enumerate(nodes):
            others = _mistakes(tree, nodes, place, chosen.source)
            while len(others) and rng.random() < chosen.rate:
                line = others[int(rng.integers(len(others)))]
                script.write(line, wrong=True)
                script.back(place)
            script.say(node)
        yield script.lines


def _mistakes(tree: _Tree, nodes: Sequence[int], place: int, source: str) -> list[Line]:
    """Lines that are wrong in place of the node at `place` of a chain, and end nothing."""
    node = nodes[place]
    parent = int(tree.trace.node_parent[node])
    if source == "tree":
        siblings = tree.children[parent]
        return [tree.line(one) for one in siblings if tree.wrong[one] and not tree.finished(one)]
    found = []
    replay = tree.one.replay
    for later in nodes[place + 1 :]:
        try:
            after = replay.problem.apply(replay.states[parent], tree.step(later))
        except IllegalStep:
            continue
        if tree.step(later).text != tree.step(node).text and not replay.problem.is_terminal(after):
            found.append(tree.line(later)._replace(label=(math.nan, 0.0)))
    return found


def _walks(tree: _Tree, chosen: Streaming, rng: np.random.Generator) -> Iterator[list[Line]]:
    if not tree.ends:
        return
    walked = _walked(tree, chosen.rate, rng)
    if chosen.checks == "none":  # a stream without checks ends at its first answer
        walked &= tree.right | ~tree.trace.node_finished
    if chosen.checks == "lines":  # nobody knows what a check would have to say
        walked &= tree.one.labels.n > 0
    script = _Script(tree, chosen)
    path: list[int] = []  # the nodes whose lines stand
    for node in _ordered(tree, chosen.order, walked):
        before = tree.nodes(node)[:-1]
        common = 0
        while common < min(len(path), len(before)) and path[common] == before[common]:
            common += 1
        script.back(common)
        path = path[:common]
        for one in [*before[common:], node]:  # lines that were withdrawn are written again
            script.say(one, wrong=not tree.right[one] and bool(tree.wrong[one]))
            path.append(one)
        if node in tree.ends:
            yield script.lines
            return


def _walked(tree: _Tree, rate: float, rng: np.random.Generator) -> np.ndarray:
    """bool [nodes]: those on the way to something right, and that share of the other subtrees."""
    walked = tree.right.copy()
    for node in range(1, len(walked)):  # a child stands behind its parent
        parent = int(tree.trace.node_parent[node])
        if walked[parent] and not walked[node]:
            walked[node] = not tree.right[parent] or rng.random() < rate
    return walked


def _ordered(tree: _Tree, order: str, walked: np.ndarray) -> list[int]:
    """The nodes that are walked, without the root, in that order."""
    found: list[int] = []
    if order == "search":
        found = list(range(1, len(walked)))
    elif order == "breadth":
        waiting = [0]
        for node in waiting:
            waiting += tree.children[node]
        found = waiting[1:]
    else:
        stack = [0]
        while stack:
            node = stack.pop()
            found.append(node)
            stack += reversed(tree.children[node])
        found = found[1:]
    return list(itertools.compress(found, walked[found]))


def _pairs(tree: _Tree, chosen: Streaming, rng: np.random.Generator) -> Iterator[list[Line]]:
    broken = np.zeros(len(tree.right), bool)
    if tree.trace.independent:
        broken[1:] = ((ended(tree.trace) > 0) & ~tree.trace.node_finished)[1:]
    wrong = np.flatnonzero(broken | (tree.one.outcomes == 0.0)).tolist()
    again = Line(chosen.moves.again or "", weight=0.0, given=True)
    for end in rng.permutation(tree.ends).tolist():
        right = tree.nodes(end)
        if rng.random() < chosen.rate:
            yield [*map(tree.line, right), again, *map(tree.line, right)]
        if not wrong:
            continue
        weights = np.exp([chosen.alike * _similarity(tree, right, other) for other in wrong])
        first = wrong[int(rng.choice(len(wrong), p=weights / weights.sum()))]
        lines = [tree.line(node, 0.0) for node in tree.nodes(first)]
        yield [*lines, again, *map(tree.line, right)]


def _similarity(tree: _Tree, right: Sequence[int], other: int) -> float:
    """Share of the lines that two chains have in common, in [0, 1] (the ratio of difflib)."""
    first = list(map(tree.text, right))
    second = list(map(tree.text, tree.nodes(other)))
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def _critiques(tree: _Tree, chosen: Streaming, rng: np.random.Generator) -> Iterator[list[Line]]:
    graded = np.flatnonzero(tree.trace.node_finished & ~np.isnan(tree.one.outcomes))
    for end in rng.permutation(graded).tolist():
        lines = []
        for node in tree.nodes(end):
            lines += [tree.line(node, 0.0), Line(chosen.moves.say(not tree.wrong[node]))]
        yield lines


_MAKERS = {"retry": _retries, "walk": _walks, "pairs": _pairs, "critiques": _critiques}
