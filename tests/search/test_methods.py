"""The methods on a scripted model: budgets are promises, same seed same tree, first verified
solution ends it, nothing is an exception.
"""

from __future__ import annotations

import math
import random
from functools import partial

import numpy as np
import pytest
from fakes import Characters, generated, random_player, scripted_guide
from method_cases import HOPELESS, METHODS, PUZZLE, Nim, method_of

import search
from guides.engines import Loaded
from guides.policies.lm import LM
from guides.values.rollout import Mixture, Rollout
from models import Scripted
from search.checks import check_policy, check_value
from search.guide import Guide, Proposal, Uniform, multiplicity
from search.methods.expand import Child, Growth, similarity, write
from search.problem import TextStep
from search.problems.countdown import Countdown
from search.scheduling.budget import Budget
from search.scheduling.driver import run
from search.scheduling.requests import Avoided, RequestFailed
from search.solver import side_by_side
from search.tree.tree import Tree

OPEN = search.TextProblem("What is 6 times 7?")


SEEDS = {"gumbel": 3}  #: with which a random player finds a solution


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_finds_and_stops_at_the_first_verified_solution(name):
    options = (
        {"width": 32, "branch": 16, "subtrees": 2 if name == "dvts" else 1}
        if method_of(name) == "beam"
        else {}
    )
    solution = search.solve(
        PUZZLE,
        scripted_guide(),
        method_of(name),
        "tokens=60000",
        seed=SEEDS.get(name, 0),
        **options,
    )
    assert solution.verified is True and solution.stopped == "verified" and solution.value == 1.0
    assert PUZZLE.verify(solution.steps) == 1.0
    assert solution.usage.generated < 60_000
    assert solution.answer == PUZZLE.answer(solution.steps)


@pytest.mark.thorough
def test_side_by_side_are_as_many_searches_as_keep_the_backend_busy():
    """With more of them none ends before nearly all have, so that whoever is killed has nothing."""
    begun, ended = [], []
    problems = [Countdown((1, 2, 3, n), 99) for n in range(4, 44)]
    guide = scripted_guide(slots=8)

    class Noting(type(guide.policy)):
        def propose(self, problem, state, *rest, **options):
            begun.append((len(ended), problem.numbers))
            return super().propose(problem, state, *rest, **options)

        def complete(self, problem, state, *rest, **options):
            begun.append((len(ended), problem.numbers))
            return super().complete(problem, state, *rest, **options)

    guide.policy.__class__ = Noting
    search.solve_many(
        problems,
        guide,
        "sample",
        "tokens=200",
        wave=8,
        on_finish=lambda index, solution: ended.append(index),
    )
    firsts = {}
    for before, numbers in begun:
        firsts.setdefault(numbers, before)
    assert len(ended) == 40
    assert sorted(firsts.values())[:5] == [0, 0, 0, 0, 1], (
        "four searches of eight chains are four times the eight slots"
    )
    backends = guide.backends
    assert (
        side_by_side(backends, {"leaves": 1}) == 32
        and side_by_side(backends, {"width": 4, "branch": 4}) == 2
    )
    assert side_by_side(backends, {"wave": 8, "chains": 1}) == 32 and side_by_side({}, {}) == 256


@pytest.mark.thorough
@pytest.mark.parametrize("searches", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_budget_is_exceeded_in_so_many_searches(searches):
    """Over searches of every method with random budgets none is exceeded by one token, call or
    simulation.
    """
    rng = random.Random(7)
    for trial in range(searches):
        name = rng.choice(list(METHODS))
        problem = (
            HOPELESS if trial % 2 else Countdown(tuple(rng.randint(1, 13) for _ in range(4)), 24)
        )
        limits = {}
        while not limits:
            limits = {
                n: rng.randint(1, top)
                for n, top in (("tokens", 300), ("calls", 40), ("simulations", 30))
                if rng.random() < 0.5
            }
        guide = scripted_guide(slots=rng.randint(1, 64), shuffle=trial)
        if rng.random() < 0.2:
            guide = Guide(
                guide.policy, Mixture(guide.value, Rollout(guide.policy, 2), 0.5), guide.budget
            )
        solution = search.solve(
            problem, guide, method_of(name), Budget(**limits), seed=trial, **METHODS[name]
        )
        for limit, spent in (
            ("tokens", "generated"),
            ("calls", "calls"),
            ("simulations", "simulations"),
        ):
            if limit in limits:
                assert getattr(solution.usage, spent) <= limits[limit], (
                    name,
                    limits,
                    solution.usage,
                )
        assert solution.stopped in ("verified", "finished", "exhausted", *limits)
        if solution.stopped in limits:
            spent = {"tokens": "generated"}.get(solution.stopped, solution.stopped)
            left = limits[solution.stopped] - getattr(solution.usage, spent)
            room = guide.policy.chain_tokens if solution.stopped == "tokens" else 0
            assert left <= room, "only what is too little for one more chain may be left"


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_tree_beside_any_neighbours(name):
    problems = [Countdown((4, 7, 8, 8), 24), *(Countdown((n, 7, 8, 3), 99) for n in range(2, 20))]
    alone = search.solve(
        problems[0],
        scripted_guide(slots=64),
        method_of(name),
        "tokens=200",
        seed=5,
        **METHODS[name],
    )
    for slots, shuffle in ((1, 0), (16, 1), (64, 2)):
        guide = scripted_guide(slots=slots, shuffle=shuffle)
        solutions = search.solve_many(
            problems, guide, method_of(name), "tokens=200", seed=5, **METHODS[name]
        )
        tree = solutions[0].tree
        assert np.array_equal(tree.nodes, alone.tree.nodes)
        assert tree.edges.tobytes() == alone.tree.edges.tobytes()
        assert tree.steps == alone.tree.steps
        assert solutions[0].usage.generated == alone.usage.generated
    other = search.solve(
        problems[0], scripted_guide(), method_of(name), "tokens=200", seed=6, **METHODS[name]
    )
    assert other.tree.steps != alone.tree.steps


def test_proposals_share_the_samples():
    lines = {0: ("8-7=1", -0.1), 1: ("8-7=1", -0.1), 2: ("4+8=12", -0.3), 3: ("8+4=12", -0.2)}

    def function(request):
        text, log_prob = lines[counter.pop()]
        return generated(text, value=0.25, log_prob=log_prob)

    counter = [3, 2, 1, 0]
    guide = scripted_guide(function)
    proposals = run(guide.policy.propose(PUZZLE, (), 4, np.random.default_rng(0)), guide.backends)
    assert [p.step.text for p in proposals] == ["8-7=1", "4+8=12"], (
        "equal steps once, the first tokens kept"
    )
    assert [p.prior for p in proposals] == pytest.approx([0.5, 0.5]), "two samples of four are each"
    assert all(p.value == 0.25 for p in proposals)


def test_unlikely_samples_count_alike_and_likely_ones_by_their_probability():
    """Chains of -5 nats and of -300: both are one draw. Nearly all of the policy found: its own
    probabilities.
    """
    assert multiplicity(np.array([-5.0, -60.0, -300.0])) == pytest.approx([1 / 3] * 3, abs=0.01)
    p = np.array([0.6, 0.3, 0.099])
    assert multiplicity(np.log(p)) == pytest.approx(p / p.sum(), abs=0.01)
    assert multiplicity(np.log(p / p.sum())) == pytest.approx(p / p.sum(), abs=1e-6)


def drawn_child(name, log_probs, length):
    """A child that was drawn once for each of these log-probs, each time in so many tokens."""
    drawn = []
    for index, log_prob in enumerate(log_probs):
        tokens = (ord(name), index, *[0] * (length - 2))
        drawn.append(Avoided(tokens, (log_prob, *[0.0] * (length - 1))))
    proposal = Proposal(TextStep(name), log_probs[0], 1.0, drawn=tuple(drawn))
    return Child(proposal, name, (TextStep(name),), False, None)


@pytest.mark.parametrize("length, tau", [(2, 1.0), (5, 1.0), (40, 1.0), (40, 2.0)])
def test_priors_of_a_block_are_of_all_that_was_drawn_and_long_steps_are_scaled(length, tau):
    """Written in two goes, the block has the priors of one; a step that was written in two ways has
    both draws.

    Of 40 tokens each, a step of -20 nats and one of -28 differ as steps of 5 tokens with -2.5 and
    -3.5 do.
    """
    log_probs = [-20.0, -28.0, -21.0, -33.0] if length > 5 else [-0.7, -2.5, -1.2, -3.0]
    scale = min(1.0, 5 / length) / tau
    weights = np.exp(np.array(log_probs) * scale)
    children = [
        drawn_child(name, [log_prob], length)
        for name, log_prob in zip("abcd", log_probs, strict=True)
    ]
    for cut in (0, 1, 2):
        tree = Tree(())
        for part in (children[:cut], children[cut:]):
            if part:
                write(tree, OPEN, 0, Growth(part, proposed=len(part)), tau)
        assert [tree.at(edge, "prior") for edge in tree.block(0)] == pytest.approx(
            weights / weights.sum(), abs=1e-4
        )
    write(tree, OPEN, 0, Growth([drawn_child("a", [log_probs[0], -4.0], length)], proposed=1), tau)
    weights[0] += np.exp(-4.0 * scale)
    assert [tree.at(edge, "prior") for edge in tree.block(0)] == pytest.approx(
        weights / weights.sum(), abs=1e-4
    )


def test_where_log_probs_are_unknown_priors_are_shares_of_the_samples():
    def child(name, share):
        return Child(
            Proposal(TextStep(name), math.nan, share), name, (TextStep(name),), False, None
        )

    def priors():
        return [tree.at(edge, "prior") for edge in tree.block(0)]

    tree = Tree(())
    write(tree, OPEN, 0, Growth([child("a", 0.75), child("b", 0.25)], proposed=2))
    assert priors() == pytest.approx([3 / 4, 1 / 4], abs=1e-4)
    write(tree, OPEN, 0, Growth([child("b", 0.5), child("c", 0.5)], proposed=2))
    assert priors() == pytest.approx([3 / 8, 3 / 8, 2 / 8], abs=1e-4), (
        "each call weighs as much as it brought steps"
    )


def test_steps_that_say_the_same_in_other_words_can_be_merged():
    first, second, third = "So 6 times 7 is 42.", "so, 6 times 7 is 42", "So 6 times 7 is 48."
    assert similarity(first, second) == 1.0 and similarity(first, third) == 0.0
    assert similarity("Let us begin", "let us all begin") == pytest.approx(3 / 4)
    children = []
    for text in (first, second, third):
        step = TextStep(text)
        proposal = Proposal(step, -20.0, 1 / 3, drawn=(Avoided(tuple(map(ord, text)), (-20.0,)),))
        children.append(Child(proposal, text, (step,), False, None))
    for merge, texts, priors in (
        (1.0, [first, second, third], [1 / 3] * 3),
        (0.9, [first, third], [2 / 3, 1 / 3]),
    ):
        tree = Tree(())
        write(tree, OPEN, 0, Growth(children[:1], proposed=1), merge=merge)
        write(tree, OPEN, 0, Growth(children[1:], proposed=2), merge=merge)
        assert [tree.steps[edge].text for edge in tree.block(0)] == texts
        assert [tree.at(edge, "prior") for edge in tree.block(0)] == pytest.approx(priors, abs=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_a_step_that_goes_on_is_not_merged_with_one_that_ends_the_chain(together):
    children = []
    for text, finish in (("So it is 42.", "end"), ("so it is 42", "stop")):
        step = TextStep(text, finish=finish)
        proposal = Proposal(step, -20.0, 1 / 2, drawn=(Avoided(tuple(map(ord, text)), (-20.0,)),))
        children.append(Child(proposal, (text, finish), (step,), finish == "end", None))
    tree = Tree(())
    for part in [children] if together else [children[:1], children[1:]]:
        write(tree, OPEN, 0, Growth(part, proposed=len(part)), merge=0.5)
    assert [tree.steps[edge].finish for edge in tree.block(0)] == ["end", "stop"]


def test_illegal_steps_are_counted_dead_ends_not_exceptions(caplog):
    guide = scripted_guide(random_player(illegal=1.0))
    for name in METHODS:
        solution = search.solve(
            PUZZLE, guide, method_of(name), "tokens=200,seconds=20", **METHODS[name]
        )
        assert solution.answer is None and solution.verified is None and solution.error is None
        assert solution.usage.generated > 0
    assert "1+1=3" in caplog.text and "does not know this kind of problem" in caplog.text


def test_a_search_with_nothing_left_to_explore_ends():
    def function(request):
        return generated(
            "1+1=2"
            if request.prompt.count(10) == 1
            else "1+2=3"
            if request.prompt.count(10) == 2
            else "1+3=4"
        )

    solution = search.solve(
        HOPELESS, scripted_guide(function, value=False), "mcts", "tokens=100000"
    )
    assert solution.stopped == "exhausted" and solution.usage.generated < 1000
    assert solution.verified is False and solution.candidates[0][1] == 1.0


@pytest.mark.thorough
def test_failed_requests_are_retried_and_never_fatal_below_the_root():
    def function(request, rate):
        if random.Random(request.seed).random() < rate:
            raise RequestFailed("time-out")
        return random_player()(request)

    for name in METHODS:
        guide = scripted_guide(partial(function, rate=0.5), value=False)
        solution = search.solve(PUZZLE, guide, method_of(name), "tokens=3000", **METHODS[name])
        assert len(solution.tree.nodes) > 3
        with pytest.raises(RequestFailed, match="time-out"):
            search.solve(
                PUZZLE,
                scripted_guide(partial(function, rate=1.1), value=False),
                method_of(name),
                "tokens=3000",
                **METHODS[name],
            )


def test_one_failing_search_among_many_becomes_a_solution_with_its_error():
    class Broken(Countdown):
        def is_terminal(self, state):
            if state:
                raise RuntimeError("boom")
            return False

    finished = {}
    solutions = search.solve_many(
        [PUZZLE, Broken((1, 2, 3), 6), PUZZLE],
        scripted_guide(),
        budget="tokens=200",
        on_finish=finished.__setitem__,
    )
    assert isinstance(solutions[1].error, RuntimeError) and solutions[1].stopped == "error"
    assert solutions[0].error is None and solutions[2].tree is not None
    assert finished == dict(enumerate(solutions))
    with pytest.raises(RuntimeError, match="boom"):
        search.solve(Broken((1, 2, 3), 6), scripted_guide())


def test_sample_stops_after_its_chains_and_counts_each():
    solution = search.solve(
        HOPELESS, scripted_guide(random_player(illegal=0)), "sample", "tokens=100000", chains=13
    )
    assert solution.stopped == "finished" and solution.usage.simulations == 13
    assert solution.tree.visits(0) == 14
    assert sum(share for _, share, _ in solution.candidates) == pytest.approx(1)


def test_a_beam_keeps_the_best_states_and_subtrees_do_not_compete():
    def function(request):
        """Ten first letters with values by letter; letters a..e win the later contests too."""
        text = chr(97 + request.seed % 10)
        return generated(text, finish="stop", value=(request.seed % 10) / 10)

    problem = search.TextProblem("say letters", answer=r"(never)")
    loaded = Loaded(
        Scripted(function),
        Characters(),
        {"delimiter": "\n", "step_tokens": 8, "max_steps": 3, "prompt": "{problem}\n"},
        "fake",
        True,
    )
    guide = Guide(LM(loaded, values=True))
    one = search.solve(problem, guide, "beam", "tokens=10000", width=2, branch=6)
    depth_two = [
        n for n in range(len(one.tree.nodes)) if one.tree.depth(n) == 1 and one.tree.block(n)
    ]
    values = sorted(
        float(one.tree.value(n)) for n in range(len(one.tree.nodes)) if one.tree.depth(n) == 1
    )
    assert sorted(one.tree.value(n) for n in depth_two) == values[-2:]
    many = search.solve(problem, guide, "beam", "tokens=10000", width=2, branch=6, subtrees=2)
    expanded = [
        n for n in range(len(many.tree.nodes)) if many.tree.depth(n) == 1 and many.tree.block(n)
    ]
    order = list(many.tree.block(0))
    assert {order.index(many.tree.edge_to(n)) % 2 for n in expanded} == {0, 1}


@pytest.mark.thorough
def test_rollouts_estimate_the_probability_of_success():
    """Value of a state = share of completions that succeed: compared with the exact probability
    of a two-step game.
    """

    def function(request):
        text = "a" if request.seed % 4 == 0 else "b"
        return generated(text)

    class Game(search.TextProblem):
        def is_terminal(self, state):
            return len(state) == 1

        def verify(self, state):
            return float(state[0].text == "a")

    loaded = Loaded(
        Scripted(function),
        Characters(),
        {"delimiter": "\n", "step_tokens": 4, "max_steps": 3},
        "fake",
        False,
    )
    policy = LM(loaded)
    game = Game("a or b")
    rollout = Rollout(policy, 2000)
    value = run(
        rollout.evaluate(game, [()], np.array([np.nan], np.float32), np.random.default_rng(0)),
        policy.backends,
    )[0]
    assert value == pytest.approx(0.25, abs=0.04)
    mixture = Mixture(search.Known(0.8), rollout, 0.25)
    value = run(
        mixture.evaluate(game, [()], np.array([np.nan], np.float32), np.random.default_rng(0)),
        policy.backends,
    )[0]
    assert value == pytest.approx(0.75 * 0.8 + 0.25 * 0.25, abs=0.02)


@pytest.mark.thorough
@pytest.mark.parametrize("sticks", [5, 6, 7, 9, 10])
def test_two_players_find_the_winning_move(sticks):
    policy = Uniform()
    guide = Guide(policy, Rollout(policy, 4), Budget(simulations=1500))
    search.check_problem(Nim(sticks))
    solution = search.solve(Nim(sticks), guide, "mcts", seed=1, leaves=1)
    tree = solution.tree
    best = max(tree.block(0), key=lambda edge: int(tree.edges[edge]["visits"]))
    assert tree.steps[best] == sticks % 4
    assert 0.0 <= tree.mean(0) <= 1.0 and solution.usage.simulations == 1500


def test_examiners_pass_on_ours_and_fail_on_a_cheat():
    guide = scripted_guide()

    check_policy(guide.policy, PUZZLE)
    check_value(guide.value, PUZZLE)

    class Loud(search.Value):
        async def evaluate(self, problem, states, known, rng):
            return np.full(len(states), 7.0)

    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        check_value(Loud(), PUZZLE)

    class Twice(Uniform):
        async def propose(self, problem, state, n, rng):
            found = await guide.policy.propose(problem, state, n, rng)
            return found + found

        backends = guide.policy.backends

    with pytest.raises(ValueError, match="priors that sum to 2"):
        check_policy(Twice(), PUZZLE)

    class Mutable(Nim):
        def apply(self, state, step):
            self.sticks -= 1
            return (self.sticks, 0)

    with pytest.raises(ValueError, match="apply of the problem Mutable"):
        search.check_problem(Mutable(5))
