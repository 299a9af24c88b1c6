"""Methods where something fails: dead ends, judges, backends, verifiers, repeated steps."""

from __future__ import annotations

import importlib
import math
from functools import partial

import numpy as np
import pytest
from fakes import generated, listed_player, random_player, scripted_guide
from method_cases import HOPELESS, METHODS, PUZZLE, Nim, method_of

import search
from guides.values.rollout import Rollout
from search.guide import Guide, Uniform
from search.problems.countdown import Countdown
from search.scheduling.driver import run
from search.scheduling.requests import RequestFailed


def test_unknown_methods_options_and_problems_are_refused_before_anything_runs():
    guide = scripted_guide(lambda request: pytest.fail("nothing may run"))
    for problem, method, options, word in (
        (PUZZLE, "mtcs", {}, "mcts"),
        (PUZZLE, "nowhere:method", {}, "module:function"),
        (PUZZLE, "mcts", {"branches": 3}, "branch"),
        (PUZZLE, "mcts", {"branch": 0}, "whole number"),
        (PUZZLE, "mcts", {"c_puct": math.nan}, "number"),
        (PUZZLE, "beam", {"width": 3, "subtrees": 2}, "multiple"),
        ("Use 4 and to make 24", "mcts", {}, "Use"),
        ("  ", "mcts", {}, "empty"),
        (42, "mcts", {}, "text"),
    ):
        with pytest.raises(ValueError, match=word):
            search.solve(problem, guide, method, "tokens=100", **options)
    with pytest.raises(ValueError, match="seconds"):
        search.solve(PUZZLE, guide, budget="hours=2")


def test_a_leaf_backs_up_its_own_value_mixed_with_its_best_step():
    """Values by depth: 0.5 for a first line, 0.9 for a second one; a third line is refuted."""

    def function(request):
        depth = request.prompt.count(10) - 1
        texts = (["1+1=2"], ["1+2=3"], ["1+3=4"])
        return generated(texts[depth][0], value=(0.5, 0.9, 0.7)[depth])

    for lookahead, first, second in ((0.0, 0.5, 0.9), (0.5, 0.7, 0.45), (1.0, 0.9, 0.0)):
        guide = scripted_guide(function, value=False)
        solution = search.solve(
            HOPELESS,
            guide,
            "mcts",
            "simulations=2",
            leaves=1,
            rollout=0.0,
            lookahead=lookahead,
            widen=0.0,
        )
        tree = solution.tree
        one = tree.child(tree.block(0)[0])
        two = tree.child(tree.block(one)[0])
        assert tree.visits(one) == 2 and tree.visits(two) == 1
        assert tree.mean(two) == pytest.approx(second, abs=1e-4)
        assert tree.mean(one) == pytest.approx((first + second) / 2, abs=1e-4)


def test_a_leaf_whose_steps_are_all_illegal_is_a_dead_end():
    def function(request):
        return generated("1+1=2" if request.prompt.count(10) == 1 else "nonsense", value=0.9)

    solution = search.solve(
        HOPELESS, scripted_guide(function, value=False), "mcts", "tokens=5000", widen=0.0
    )
    tree = solution.tree
    leaf = tree.child(tree.block(0)[0])
    assert not tree.is_open(tree.block(0)[0]) and tree.mean(leaf) == 0.0
    assert solution.stopped == "exhausted"


def test_steps_not_proposed_yet_are_taken_when_all_others_look_bad():
    """The first lines are worth nothing: the search asks for others instead of going on below
    them.
    """

    def function(request):
        good = request.seed % 10 == 0
        return generated("1*1=1" if good else "1+1=2", value=0.9 if good else 0.0)

    options = {"leaves": 1, "branch": 1, "c_puct": 0.5}
    wide = search.solve(
        HOPELESS, scripted_guide(function, value=False), "mcts", "tokens=150", **options
    )
    narrow = search.solve(
        HOPELESS, scripted_guide(function, value=False), "mcts", "tokens=150", widen=0.0, **options
    )
    assert len(wide.tree.block(0)) == 2 and len(narrow.tree.block(0)) == 1


def test_a_budget_that_is_never_spent_is_refused():
    with pytest.raises(ValueError, match="simulations or seconds"):
        search.solve(Nim(5), Guide(Uniform()), "mcts", "tokens=100")
    assert search.solve(Nim(5), Guide(Uniform()), "mcts", "simulations=20").usage.simulations == 20


def test_a_judge_that_always_fails_does_not_hold_the_search():
    class Failing:
        backends, tokens, calls, version = {}, 0, 0, "failing"

        async def evaluate(self, problem, states, known, rng):
            raise RequestFailed("down")

    guide = scripted_guide(lambda request: generated("The answer is 7"), value=False)
    for name in METHODS:
        solution = search.solve(
            "q", Guide(guide.policy, Failing()), method_of(name), "tokens=400", **METHODS[name]
        )
        assert solution.error is None and solution.answer == "7"


class Choice:
    """Two moves: after "bad" the opponent can only win, after "good" only lose."""

    players, inline = 2, True

    def initial(self):
        return ()

    def to_move(self, state):
        return len(state) % 2

    def actions(self, state):
        return ["bad", "good"] if not state else ["end"]

    def apply(self, state, step):
        return (*state, step)

    def is_terminal(self, state):
        return len(state) == 2

    def verify(self, state):
        return 1.0 if state[0] == "bad" else 0.0

    def answer(self, state):
        return state[0]

    def prompt(self, state):
        return "choose"

    def key(self, state, step):
        return step


def test_two_players_see_values_from_their_own_side():
    solution = search.solve(Choice(), Guide(Uniform()), "mcts", "simulations=2", leaves=1)
    values = {
        solution.tree.steps[e]: solution.tree.mean(solution.tree.child(e))
        for e in solution.tree.block(0)
    }
    assert values == {"bad": 0.25, "good": 0.75}
    solution = search.solve(Choice(), Guide(Uniform()), "mcts", "simulations=200")
    assert solution.answer == "good" and solution.verified is None, (
        "the opponent's win verifies nothing"
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_backend_that_dies_ends_the_search_with_what_there_is(name):
    left = [25]

    def function(request):
        left[0] -= 1
        if left[0] < 0:
            raise RequestFailed("the server is gone")
        return random_player(illegal=0)(request)

    solution = search.solve(
        HOPELESS,
        scripted_guide(function, value=False),
        method_of(name),
        "tokens=5000",
        **METHODS[name],
    )
    gone = solution.stopped == "error" and "the server is gone" in str(solution.error)
    assert gone == (left[0] < 0) and len(solution.tree.nodes) > 1


def test_a_beam_is_as_wide_as_the_budget_allows_though_its_worst_case_is_not():
    guide = scripted_guide(random_player(illegal=0), value=False)
    guide.policy.step_tokens = 500
    solution = search.solve(
        Countdown((2, 3, 5, 7, 11), 99_999), guide, "beam", "tokens=5000", width=8, branch=8
    )
    tree = solution.tree
    first = [node for node in range(len(tree.nodes)) if tree.depth(node) == 1]
    assert len(first) > 5 and all(tree.block(node) for node in first), (
        "what the first states did not use serves the next"
    )


def test_a_verified_chain_without_an_answer_is_the_solution():
    guide = scripted_guide(
        lambda r: generated("step 5" if r.seed % 2 == 0 else "step 1", finish="end"), value=False
    )
    problem = search.TextProblem("write a five", verify=lambda text: "5" in text)
    for name in METHODS:
        solution = search.solve(problem, guide, method_of(name), "tokens=3000", **METHODS[name])
        assert solution.verified is True and solution.text == "step 5" and solution.answer is None


def test_a_verifier_that_times_out_costs_one_rollout_not_all():
    calls = [0]

    class Flaky(Countdown):
        def verify(self, state):
            calls[0] += 1
            if calls[0] % 3 == 0:
                raise RequestFailed("time-out")
            return 1.0

    policy = scripted_guide(random_player(illegal=0)).policy
    rollout = Rollout(policy, 6)
    value = run(
        rollout.evaluate(
            Flaky((1, 2, 3), 6), [()], np.array([np.nan], np.float32), np.random.default_rng(0)
        ),
        policy.backends,
    )
    assert value[0] == 1.0


def test_arguments_of_no_use_are_refused_at_the_door():
    guide = scripted_guide(lambda request: pytest.fail("nothing may run"))
    for arguments, word in (
        ({"choose": "vote"}, "give one of majority"),
        ({"guide": "builtin"}, "guides.load"),
        ({"budget": 2000}, "tokens=2000"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"branch": 8.0}, "whole number"),
        ({"c_puct": -1.0}, "from 0 on"),
        ({"tau": 0.0}, "tau"),
        ({"lookahead": 2.0}, "lookahead"),
    ):
        with pytest.raises(ValueError, match=word):
            search.solve(PUZZLE, **({"guide": guide, "budget": "tokens=100"} | arguments))
    partial_method = partial(importlib.import_module("search.methods.mcts").mcts, branch=2)
    assert (
        search.solve(PUZZLE, scripted_guide(), partial_method, "tokens=100").trace.method
        == "search.methods.mcts:mcts"
    )


def test_a_search_within_a_search_says_what_to_do():
    guide = scripted_guide()

    def nested(index, solution):
        search.solve(PUZZLE, guide, budget="tokens=50")

    with pytest.raises(RuntimeError, match="solve_many"):
        search.solve_many([PUZZLE], guide, budget="tokens=50", on_finish=nested)


# one of them is illegal
LINES = {"1+1=2": 0.4, "1*1=1": 0.3, "1+1=3": 0.2, "1-1=0": 0.06, "1/1=1": 0.04}


def first_lines(prompt):
    return LINES if prompt.count("\n") == 1 else {"so": 1.0}


@pytest.mark.parametrize("options", [{"branch": 1, "leaves": 1}, {"branch": 1}, {"branch": 3}])
def test_a_step_that_was_sampled_is_not_sampled_again_and_a_node_knows_when_all_were(options):
    asked = []

    def function(request):
        result = listed_player(first_lines)(request)
        asked.append((request, result))
        return result

    solution = search.solve(
        HOPELESS, scripted_guide(function, value=False), "mcts", "tokens=10000", **options
    )
    tree = solution.tree
    assert solution.stopped == "exhausted"
    assert {tree.steps[edge].text for edge in tree.block(0)} == set(LINES) - {"1+1=3"}
    assert {"".join(map(chr, tokens[:-1])) for tokens in tree.drawn[0]} == set(LINES)
    assert sum(a.probability for a in tree.drawn[0].values()) == pytest.approx(1, abs=1e-5)
    for request, result in asked:
        assert result.tokens not in {avoided.tokens for avoided in request.avoid}
    if options["branch"] == 1:
        texts = [(request.prompt, result.text) for request, result in asked]
        assert len(texts) == len(set(texts)), "every line of every state was written once"


def test_two_ways_to_write_one_step_are_both_avoided():
    def lines(prompt):
        return {"4+7=11": 0.6, "7+4=11": 0.4} if prompt.count("\n") == 1 else {"so": 1.0}

    solution = search.solve(
        PUZZLE,
        scripted_guide(listed_player(lines), value=False),
        "mcts",
        "tokens=10000",
        branch=1,
        leaves=1,
    )
    assert (
        solution.stopped == "exhausted"
        and len(solution.tree.block(0)) == 1
        and len(solution.tree.drawn[0]) == 2
    )


@pytest.mark.thorough
def test_a_policy_that_cannot_avoid_needs_no_such_argument():
    inner = scripted_guide(random_player(illegal=0), value=False).policy

    class Plain:
        backends, version = inner.backends, "plain"
        step_tokens, chain_tokens, max_steps = (
            inner.step_tokens,
            inner.chain_tokens,
            inner.max_steps,
        )
        complete = inner.complete

        async def propose(self, problem, state, n, rng):
            proposals = await inner.propose(problem, state, n, rng)
            return [search.Proposal(p.step, p.log_prob, p.prior, p.value) for p in proposals]

    for name in METHODS:
        solution = search.solve(
            HOPELESS, Guide(Plain()), method_of(name), "tokens=2000", **METHODS[name]
        )
        assert solution.stopped in ("tokens", "finished", "exhausted") and not solution.tree.drawn


@pytest.mark.parametrize("branch", [1, 2])
def test_a_node_knows_how_probable_the_steps_are_that_it_was_not_given(branch):
    guide = scripted_guide(listed_player(first_lines), value=False)
    for seed in range(6):
        tree = search.solve(
            HOPELESS, guide, "mcts", "calls=6", seed=seed, branch=branch, leaves=1
        ).tree
        there = {tree.steps[edge].text for edge in tree.block(0)}
        illegal = LINES["1+1=3"] * any(
            text == "1+1=3" for text in ("".join(map(chr, t[:-1])) for t in tree.drawn[0])
        )
        exact = 1 - sum(LINES[text] for text in there) / (1 - illegal)
        assert tree.unseen(0) == pytest.approx(exact, abs=3e-5)


def test_a_policy_that_lists_all_steps_is_never_asked_for_more():
    """And one that does not tell its log-probs always may be."""
    for policy, unseen in (
        (Uniform(), 0.0),
        (scripted_guide(lambda r: generated("1+1=2", log_prob=math.nan), value=False).policy, 1.0),
    ):
        problem = Nim(9) if unseen == 0 else HOPELESS
        tree = search.solve(problem, Guide(policy), "mcts", "simulations=1").tree
        assert tree.unseen(0) == unseen
