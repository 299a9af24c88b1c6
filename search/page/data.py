"""What a page is told of a search tree: plain JSON, with the answers and the terms of the search.

A tree has an *item* for each step: item i is node i of the trace, so items stand in the order in
which the search made them, and behind the nodes stand the steps that were never taken. Numbers are
those of the end of the search, since a trace keeps no earlier ones.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from search import choose as choosers
from search import view
from search.choose import Classes, Finish
from search.plain_text import harmless
from search.problem import Problem
from search.trace import Trace
from search.tree.descent_kernels import BASE, REDUCTION, C
from search.tree.selection import Rule

#: whether an answer to the problem of a trace is right; None: nobody can tell
Right = Callable[[Trace, str], bool | None]

#: where methods stand whose defaults are known
_METHODS = frozenset(f"search.methods.{name}" for name in ("mcts", "gumbel", "beam", "sample"))
_MCTS = "search.methods.mcts:mcts"
_GROWING = "c + ln((1 + N + base) / base)"
#: by rule, how U is computed: N visits of the node above, P the prior, n visits of the step
FORMULAS = {
    "puct": "U = c √N P / (1 + n)",
    "alphazero": f"U = ({_GROWING}) √N P / (1 + n)",
    "normalised": f"U = ({_GROWING}) √N P / (1 + n), Q scaled between siblings",
    "ucb1": "U = c √(ln N / n), untaken steps first",
}


@dataclass(frozen=True)
class Subject:
    """A tree to be shown.

    found   its finished chains with their answers, equal answers written alike; empty where there
            are none, or where the problem's class is not at hand
    winner  the node at the end of the chain that the search gives
    alone   whether it is the problem of one player, so that a step that was never taken starts with
            the mean of the node above; False also where nobody knows
    right   see `Right`; None: only rewards tell
    """

    trace: Trace
    found: Sequence[Finish]
    winner: int
    alone: bool
    right: Right | None = None

    @cached_property
    def answers(self) -> dict[int, str]:
        """The answers of nodes that have one."""
        return {one.node: one.answer for one in self.found}

    @cached_property
    def _verdicts(self) -> dict[str, bool | None]:
        """What `right` says of each answer."""
        if self.right is None:
            return {}
        return {answer: self.right(self.trace, answer) for answer in set(self.answers.values())}

    def is_right(self, node: int) -> bool | None:
        """Whether the answer of a node is right; None: nobody can tell, or it has none."""
        reward = self.trace.node_reward[node]
        if not math.isnan(reward):
            return bool(reward == 1)
        return self._verdicts.get(self.answers.get(node, ""))


def subject(trace: Trace, classes: Classes | None = None, right: Right | None = None) -> Subject:
    """The subject of a stored trace. Its winner is what a search gives by default: a verified
    chain, else that of the weighted vote, else `search.view.best`.

    classes  which answers of open text are equal (`search.Guide.classes`)
    """
    best = view.best(trace)
    try:
        problem = _as_asked(trace)
        found = _finishes(trace, problem)
    # of a module that is not loaded, or of another version; steps that are no text stand as JSON,
    # and the rules of a problem may raise anything for them
    except Exception:
        return Subject(trace, (), best, False, right)
    if classes is not None and getattr(problem, "open_answers", False) and len(found) > 1:
        found = choosers.merge_equal(found, classes)
    alone = problem.players == 1
    chosen = choosers.pick(found, problem, None)
    unnamed = alone and trace.node_reward[best] == 1  # verified, perhaps without an answer
    if chosen is not None and not (unnamed and chosen.reward != 1):
        best = chosen.node
    return Subject(trace, found, best, alone, right)


def _as_asked(trace: Trace) -> Problem:
    """The problem of a trace, which marks its answer as its model was told to."""
    problem = trace.problem()
    asked = getattr(problem, "asked", None)
    pattern = trace.language.get("answer")
    if asked is None or not isinstance(pattern, str):
        return problem
    marked: Problem = asked(pattern, None)
    return marked


def _finishes(trace: Trace, problem: Problem) -> list[Finish]:
    """As `search.choose.finishes`, from a trace. Raises ValueError where the rules of the problem
    are others than those of the search.
    """
    states = trace.states(problem)
    leading = trace.node_edge[1:]
    means = _means(trace)
    values = [math.nan, *np.where(np.isnan(means), trace.edge_value, means)[leading].tolist()]
    visits = [0, *trace.edge_visits[leading].tolist()]
    log_probs = [0.0]
    for parent, edge in zip(trace.node_parent[1:], leading, strict=True):
        log_probs.append(log_probs[parent] + float(trace.edge_log_prob[edge]))
    found = []
    for node in np.flatnonzero(trace.node_finished).tolist():
        answer = problem.answer(states[node])
        if answer is None:
            continue
        reward = float(trace.node_reward[node])
        found.append(
            Finish(
                node,
                answer,
                None if math.isnan(reward) else reward,
                values[node],
                visits[node],
                log_probs[node],
                trace.independent,
            )
        )
    return found


def tree(shown: Subject) -> dict[str, Any]:
    """What the page is told of one tree. Lists are of its items, None where a number is unknown.

    parent   the item above, -1 at the root
    text     of the step, harmless;  tokens: how many it has
    value    in [0, 1]: its reward, else the mean of its values, else the policy's own value
    visits, prior, own (the policy's own value), reward
    q, u     what the selection rule adds up: the mean of its values, and the term of its prior; of
             a step that was never taken, q is what the search starts from
    finished, cut   items that are finished, and those whose text was cut off
    answers  item -> answer;  candidates: rows of an answer, its share of the votes, its best value,
             and whether it is right (None: nobody can tell)
    search, vote    the chain that the search gives, and that of the majority: see `_chain`
    rule     name, formula and numbers of the selection rule, None for methods without one
    """
    trace = shown.trace
    taken = trace.edge_child >= 0
    edges = np.concatenate([trace.node_edge[1:], np.flatnonzero(~taken)]).astype(np.int64)
    own = trace.edge_value[edges]
    visits = trace.edge_visits[edges]
    reward = np.concatenate([trace.node_reward, np.full(np.count_nonzero(~taken), math.nan)])
    finished = np.flatnonzero(trace.node_finished)
    rule = _rule(trace)
    q, u = _terms(trace, rule, shown.alone)
    mean = _means(trace)[edges]
    value = np.where(np.isnan(mean), own, mean)
    value = np.concatenate([[math.nan], value])
    value = np.where(np.isnan(reward), value, reward)
    steps = [trace.steps[edge] for edge in edges]
    parent = [-1, *trace.edge_node[edges].tolist()]
    root_visits = int(trace.edge_visits[trace.edge_node == 0].sum())
    chains: dict[str, Any] = {"search": _chain(shown, shown.winner, value, parent), "vote": None}
    if shown.found:
        chains["vote"] = _chain(shown, choosers.majority(shown.found).node, value, parent)
    return {
        "name": _name(trace),
        "error": harmless(trace.error),
        "origin": harmless(view.origin(trace)),
        "cost": view.cost(trace),
        "nodes": len(trace.node_parent),
        "parent": parent,
        "text": ["", *(harmless(step.text) for step in steps)],
        "tokens": [0, *(len(step.tokens) for step in steps)],
        "visits": [root_visits, *visits.tolist()],
        "value": _numbers(value),
        "prior": [None, *_numbers(trace.edge_prior[edges])],
        "own": [None, *_numbers(own)],
        "reward": _numbers(reward),
        "q": [None, *_numbers(q[edges])],
        "u": [None, *_numbers(u[edges])],
        "finished": finished.tolist(),
        "cut": [item for item, step in enumerate(steps, 1) if step.finish == "length"],
        "answers": {str(node): harmless(answer) for node, answer in shown.answers.items()},
        "candidates": _candidates(shown),
        **chains,
        "rule": rule and {"name": rule.name, "formula": FORMULAS[rule.name], **_constants(rule)},
    }


def _name(trace: Trace) -> str:
    """Its method, the options that are not the usual ones, and its seed."""
    usual = _defaults(trace.method)
    options = ""
    for name, setting in trace.options.items():
        if name not in usual or setting != usual[name]:
            options += f" {name}={setting}"
    method = trace.method.rpartition(":")[2]
    return harmless(f"{method}{options}, seed {trace.seed}")


def _chain(shown: Subject, node: int, value: np.ndarray, parent: Sequence[int]) -> dict[str, Any]:
    """A chain by the item at its end, with its answer and whether that is right.

    below  the first item of the chain with a value below 0.5;  drop: the item with the largest fall
           of the value from the item before it; None where there is no such
    """
    items = []
    item = node
    while item > 0:
        items.append(item)
        item = parent[item]
    items.reverse()
    low = (item for item in items if value[item] < 0.5)
    falls = {
        item: before - value[item]
        for item, before in zip(items[1:], value[items[:-1]], strict=True)
        if value[item] < before
    }
    answer = shown.answers.get(node)
    return {
        "end": node,
        "answer": answer and harmless(answer),
        "right": shown.is_right(node),
        "below": next(low, None),
        "drop": max(falls, key=falls.__getitem__, default=None),
    }


def _candidates(shown: Subject) -> list[list[Any]]:
    if not shown.found:
        return []
    nodes = {one.answer: one.node for one in shown.found}
    rows: list[list[Any]] = []
    for answer, share, value in choosers.candidates(shown.found):
        verdict = shown.is_right(nodes[answer])
        rows.append([harmless(answer), _known(share), _known(value), verdict])
    return rows


def _rule(trace: Trace) -> Rule | None:
    """The selection rule that grew a trace; None for methods that have none, or one of their own
    (`gumbel`), and for numbers that are none.
    """
    if trace.method != _MCTS:
        return None
    from search.methods.mcts import RULES

    options = _defaults(trace.method) | trace.options
    try:
        return RULES[options["rule"]](options["c_puct"], options["fpu_reduction"])
    except (KeyError, TypeError, ValueError):  # written by others
        return None


def _defaults(method: str) -> dict[str, Any]:
    """The options of a method of ours and their defaults; of others none are known."""
    module, _, name = method.partition(":")
    if module not in _METHODS or not name.isidentifier():
        return {}
    function = getattr(importlib.import_module(module), name, None)
    if not inspect.iscoroutinefunction(function):
        return {}
    parameters = inspect.signature(function).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _constants(rule: Rule) -> dict[str, float]:
    numbers = {"c": rule.number(C), "base": rule.number(BASE), "reduction": rule.number(REDUCTION)}
    return {name: number for name, number in numbers.items() if number}


def _means(trace: Trace) -> np.ndarray:
    """float64 [edges]: mean of the values of each, nan without visits."""
    visits = trace.edge_visits
    means = np.full(len(visits), math.nan)
    np.divide(trace.edge_sum, visits, out=means, where=visits > 0)
    return means


def _terms(trace: Trace, rule: Rule | None, alone: bool) -> tuple[np.ndarray, np.ndarray]:
    """(Q, U), float64 [edges]: their sum is what the rule compares at the end of the search; nan
    unknown.

    The visits and the mean of the root are no edge's, so those of its steps stand for them, and one
    visit for the root's own. Without a rule Q is the mean, and U unknown.
    """
    means = _means(trace)
    if rule is None:
        return means, np.full(len(means), math.nan)
    owner = trace.edge_node
    leading = trace.node_edge[1:]
    of_root = owner == 0
    visits = np.concatenate([[1 + trace.edge_visits[of_root].sum()], trace.edge_visits[leading]])
    sums = np.concatenate([[trace.edge_sum[of_root].sum()], trace.edge_sum[leading]])
    counted = np.maximum(visits - (np.arange(len(visits)) == 0), 1)
    above = np.maximum(visits[owner], 1).astype(np.float64)
    c = rule.number(C)
    start = (sums / counted)[owner] - rule.number(REDUCTION)
    if not alone:
        start[:] = math.nan
    q = np.where(np.isnan(means), trace.edge_value, means)
    q = np.where(np.isnan(q), start, q)
    if rule.name == "ucb1":
        taken = np.maximum(trace.edge_visits, 1)
        u = np.where(trace.edge_visits > 0, c * np.sqrt(np.log(above) / taken), math.nan)
        return q, u
    if rule.name != "puct":
        base = rule.number(BASE)
        c = c + np.log((1 + above + base) / base)
    if rule.name == "normalised":
        q = _between_siblings(means, owner, sums / counted)
    return q, c * np.sqrt(above) * trace.edge_prior / (1 + trace.edge_visits)


def _between_siblings(means: np.ndarray, owner: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Means scaled to [0, 1] between the lowest and the highest of a node's mean and its edges';
    0 where there is none.
    """
    low = own.astype(np.float64)
    high = low.copy()
    taken = ~np.isnan(means)
    np.minimum.at(low, owner[taken], means[taken])
    np.maximum.at(high, owner[taken], means[taken])
    scaled = (means - low[owner]) / np.maximum(high - low, 1e-8)[owner]
    return np.where(taken, scaled, 0.0)


def _numbers(values: np.ndarray) -> list[float | None]:
    """Each as `_known`."""
    return list(map(_known, values.tolist()))


def _known(value: float) -> float | None:
    """A number with four decimals, None for nan, and for what JSON cannot say."""
    return round(float(value), 4) if math.isfinite(value) else None


def key(trace: Trace) -> str:
    """Equal for traces of one problem."""
    return f"{trace.kind} {json.dumps(trace.arguments, sort_keys=True)}"
