"""From a graded trace to training examples: pure functions, no model.

An example is the tree again, as segments of tokens (`guides.data.examples`): first the prompt, then
the sampled tokens of each step that is kept. Nothing is added to what was sampled: where a problem
is finished by its last step, no end of text is taught, because none was sampled; a chat model that
ends its turn has the end token among the tokens of its last step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guides.data.examples import Segment
from guides.data.labels import Labels
from search.chain import GIVEN
from search.trace import Trace

POLICIES = ("solutions", "best", "visits", "all", "none")


def distill(
    trace: Trace,
    outcomes: np.ndarray,
    prompt: Sequence[int],
    *,
    policy: str = "solutions",
    keep: int = 10,
    rng: np.random.Generator,
    labels: Labels | None = None,
    every_token: bool = False,
    pairs: Sequence[tuple[int, int]] = (),
) -> list[Segment]:
    """One example of one trace; [] where there is nothing to learn from it.

    outcomes  float64 [nodes], in [0, 1], nan: not graded (`guides.data.grading`)
    prompt    the tokens that the policy read before the first step
    labels    of the nodes, k of n; None: `counts`
    every_token  a step's label stands at each of its tokens, not only at its end; the prompt's at
                 its end
    pairs     nodes and others that they are preferred to (`guides.data.preferences`)
    policy    what is imitated, the weights:
        "solutions"  up to `keep` different right chains (outcome 1), drawn by `rng`; the weight of
                     a step is the share of them that go through it, so every solved problem weighs
                     the same (ReST-EM, Singh et al. 2023, keeps 10 a problem)
        "best"       up to `keep` different chains with the highest outcomes above 0, weighed in the
                     same way; equal ones are drawn (best-of-N: WebGPT, Nakano et al. 2021)
        "visits"     the share of its node's visits that each step got, at nodes with two or more
                     (AlphaZero, Silver et al. 2017)
        "all"        as "solutions", of all finished chains: self-training without a filter, the
                     control of the first
        "none"       nothing: only the value labels are learnt

    What is neither imitated, labelled nor in a pair, nor followed by what is, is left out.
    """
    check(policy, keep)
    k, n = labels or counts(trace, outcomes)
    if policy == "none":
        weights = np.zeros(len(trace.steps))
    elif policy == "visits":
        weights = _visit_shares(trace)
    else:
        weights = _chain_shares(trace, outcomes, policy, keep, rng)
    return segments_of(trace, prompt, Labels(k, n), {"weight": weights}, every_token, pairs)


def segments_of(
    trace: Trace,
    prompt: Sequence[int],
    labels: Labels,
    columns: Mapping[str, np.ndarray],
    every_token: bool = False,
    pairs: Sequence[tuple[int, int]] = (),
) -> list[Segment]:
    """A trace as segments: the prompt, then the steps that have a label or an entry in `columns`
    that is not 0, or lead to one that has; [] where there is none.

    columns  fields of `Segment`, float64 [edges] each: of the segment of each edge
    pairs    nodes and others that they are preferred to (`guides.data.preferences`), which are kept
    """
    k, n = labels
    kept = n > 0
    for column in columns.values():
        kept[1:] |= column[trace.node_edge[1:]] != 0
    kept[[node for pair in pairs for node in pair]] = True
    for node in range(len(kept) - 1, 0, -1):  # a child stands behind its parent
        kept[trace.node_parent[node]] |= kept[node]
    place = {0: 0}  # node -> the segment that ends there
    segments = [Segment(tuple(prompt), 0.0, *_label(k[0], n[0], parent=-1))]
    for node in range(1, len(trace.node_parent)):
        if not kept[node]:
            continue
        edge = int(trace.node_edge[node])
        label = _label(k[node], n[node], place[int(trace.node_parent[node])])
        place[node] = len(segments)
        step = trace.steps[edge]
        segment = Segment(step.tokens, 0.0, *label, every_token, log_probs=step.log_probs)
        own: dict[str, Any] = {name: float(column[edge]) for name, column in columns.items()}
        if step.finish != GIVEN:  # which no policy learns
            segment = segment._replace(**own)
        segments.append(segment)
    if len(segments) == 1:  # the prompt alone
        return []
    for better, worse in pairs:
        segment = segments[place[better]]
        segments[place[better]] = segment._replace(over=(*segment.over, place[worse]))
    return segments


def check(policy: str, keep: int) -> None:
    """Raises ValueError for what `distill` does not know."""
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}: choose one of {', '.join(POLICIES)}")
    if keep < 1:
        raise ValueError(f"keep={keep} leaves no solution to learn from: give at least 1")


def _label(k: float, n: float, parent: int) -> tuple[float, int, float]:
    """Value, parent and number of outcomes of a segment. n = inf: k is an exact label."""
    if not n:
        return math.nan, parent, 0.0
    share = k if math.isinf(n) else k / n
    return float(share), parent, float(n)


def counts(trace: Trace, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [nodes] each: the sum of the outcomes of the graded finished nodes at or below each
    node, and how many they are.

    A node that independent samples reached several times counts as often, because those were as
    many chains, and a chain of it that ended unfinished (by an illegal step, too many of them, or
    the budget's end) is a failure, unless one that finished could not be graded, beside which
    failures alone would say too much; a tree search comes back to what it likes, so there a
    finished node counts once.
    """
    graded = ~np.isnan(outcomes)
    n = graded.astype(np.float64)
    if trace.independent:
        counted = graded
        if not (trace.node_finished & ~graded).any():
            counted = graded | ~trace.node_finished
        n = np.where(counted, ended(trace), 0.0)
    k = np.where(graded, outcomes, 0.0) * n
    for node in range(len(n) - 1, 0, -1):  # a child stands behind its parent
        parent = trace.node_parent[node]
        k[parent] += k[node]
        n[parent] += n[node]
    return k, n


def ended(trace: Trace) -> np.ndarray:
    """float64 [nodes], at least 0: how many chains of a trace of independent samples ended at each
    node, finished or not.
    """
    visits = trace.edge_visits[trace.node_edge[1:]]
    reached = np.array([trace.usage.simulations, *visits], np.float64)
    went_on = np.bincount(trace.edge_node, trace.edge_visits, len(reached))
    return np.maximum(reached - went_on, 0.0)


def _chain_shares(
    trace: Trace, outcomes: np.ndarray, policy: str, keep: int, rng: np.random.Generator
) -> np.ndarray:
    """float64 [edges], in [0, 1]: the share of the chains drawn that go through each edge."""
    ends = np.flatnonzero(may_be_imitated(trace, outcomes, policy, least(policy)))
    ends = ends[drawn(outcomes[ends], policy, keep, rng)]
    shares = np.zeros(len(trace.steps))
    for end in ends:
        shares[trace.path(int(end))] += 1 / len(ends)
    return shares


def least(policy: str) -> float:
    """The outcome from which on a chain is imitated, where no threshold is given: that of a right
    one, and for "best" whatever is above 0.
    """
    return 0.0 if policy == "best" else 1.0


def may_be_imitated(
    trace: Trace, outcomes: np.ndarray, policy: str, threshold: float
) -> np.ndarray:
    """bool [nodes]: the ends of the chains among which those to imitate are drawn: outcomes from
    the threshold on, in [0, 1]. For "best" never 0, for "all" whatever is finished.
    """
    if policy == "all":
        return trace.node_finished
    enough: np.ndarray = outcomes >= threshold
    return enough & (outcomes > 0.0) if policy == "best" else enough


def drawn(outcomes: np.ndarray, policy: str, keep: int, rng: np.random.Generator) -> np.ndarray:
    """int64, the places of at most `keep` chains of a problem that are imitated, among those that
    may be. outcomes: float64 [chains]
    """
    if policy == "best":
        order = rng.permutation(len(outcomes))
        best: np.ndarray = order[np.argsort(-outcomes[order], kind="stable")][:keep]
        return best
    if len(outcomes) > keep:
        return rng.choice(len(outcomes), keep, replace=False)
    return np.arange(len(outcomes))


def _visit_shares(trace: Trace) -> np.ndarray:
    """float64 [edges], in [0, 1]: each edge's share of the visits of its node's edges; 0 at
    nodes with fewer than two.
    """
    of_nodes = np.bincount(trace.edge_node, trace.edge_visits, len(trace.node_parent))
    totals = of_nodes[trace.edge_node]
    return np.where(totals >= 2, trace.edge_visits / np.maximum(totals, 1), 0.0)


def split(example: Sequence[Segment], longest: int) -> list[list[Segment]]:
    """Parts of an example with at most `longest` tokens each, so that a batch fits into memory; a
    longer single chain, or pair of them, stays whole.

    A part is a few chains from the prompt on. What several parts share stands in each, but has its
    weight, label and pairs in the first only that can have them: trained together, they are the
    example.
    """
    if sum(len(segment.tokens) for segment in example) <= longest:
        return [list(example)]
    parts: list[set[int]] = []
    size = 0
    for unit in _units(example):
        if any(unit <= part for part in parts):
            continue
        fresh = unit - parts[-1] if parts else unit
        if parts and size + _length(example, fresh) <= longest:
            parts[-1] |= fresh
        else:
            fresh = set(unit)
            parts.append(fresh)
            size = 0
        size += _length(example, fresh)
    seen: set[int] = set()  # segments that stand in an earlier part
    paired: set[tuple[int, int]] = set()
    examples = []
    for part in map(sorted, parts):
        place = {-1: -1} | {i: at for at, i in enumerate(part)}
        moved = []
        for i in part:
            pairs = {(i, other) for other in example[i].over if other in place} - paired
            paired |= pairs
            segment = example[i]._replace(
                parent=place[example[i].parent], over=sorted(place[other] for _, other in pairs)
            )
            if i in seen:
                segment = segment._replace(
                    weight=0.0, value=math.nan, outcomes=0.0, samples=0.0, positive=0.0,
                    negative=0.0,
                )  # fmt: skip
            moved.append(segment)
        examples.append(moved)
        seen.update(part)
    return examples


def _units(example: Sequence[Segment]) -> list[set[int]]:
    """What stays together, as segments: chains from the prompt on, and two where they are a pair.
    Those that share much stand side by side.
    """
    paths = [[0]]
    parents: set[int] = set()
    for i, segment in enumerate(example[1:], 1):
        paths.append([*paths[segment.parent], i])
        parents.add(segment.parent)
    units = [(path, set(path)) for i, path in enumerate(paths) if i not in parents]
    for i, segment in enumerate(example):
        units += [(paths[i], {*paths[i], *paths[other]}) for other in segment.over]
    # a pair stands before the chains that it begins
    return [unit for _, unit in sorted(units, key=lambda one: (one[0], -len(one[1])))]


def _length(example: Sequence[Segment], places: set[int]) -> int:
    """Tokens of some segments."""
    return sum(len(example[i].tokens) for i in places)
