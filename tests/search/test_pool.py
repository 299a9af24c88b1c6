"""Children that end in the order of their tokens, and what searches make of it: full passes, an
answer soon, budgets kept.
"""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
from fakes import Characters, generated
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from guides.engines import Loaded
from guides.policies.lm import LM
from search.guide import Guide
from search.scheduling.budget import Budget, Grant, Meter
from search.scheduling.driver import run
from search.scheduling.pool import Pool
from search.scheduling.requests import Cancelled, Generate, Reply, RequestFailed, Usage
from search.scheduling.scheduler import ask, metered


class Ticking:
    """A backend that generates a token a pass for each of its rows, as an engine does.

    write    function of a request: the whole text that it samples
    slots    rows of a pass;  shuffle: a seed, with which a pass now and then leaves a row out
    tells    whether it tells how far a request is
    """

    computes = True
    wake = None

    def __init__(self, write, slots=64, shuffle=None, tells=True):
        self.write, self.slots = write, slots
        self.lock = threading.Lock()
        self.rows = []
        self.passes = self.row_passes = 0
        self.rng = None if shuffle is None else random.Random(shuffle)
        self.left: dict[Generate, list] = {}
        self.gone: list[Generate] = []
        if tells:
            self.progress = lambda request: self.left[request][0] if request in self.left else 0

    def submit(self, request):
        self.left[request] = [0, self.write(request)]

    def cancel(self, request):
        if request in self.left:
            done, _ = self.left.pop(request)
            self.gone.append((request, done))

    def poll(self, seconds=0.0):
        replies = [
            Reply(r, error=Cancelled("cancelled"), usage=Usage(calls=1, generated=n))
            for r, n in self.gone
        ]
        self.gone = []
        waiting = list(self.left)
        if self.rng is not None:
            waiting = [request for request in waiting if self.rng.random() < 0.7]
        running = waiting[: self.slots]
        self.passes += bool(running)
        self.row_passes += len(running)
        for request in running:
            self.left[request][0] += 1
            done, result = self.left[request]
            if done == len(result.tokens):
                del self.left[request]
                replies.append(Reply(request, result, usage=Usage(calls=1, generated=done)))
        return replies

    def close(self):
        self.left.clear()


def writer(lines, mean, end="so \\boxed{%d}", varied=False):
    """A model whose chains have so many lines of about `mean` characters, and an answer at their
    end; varied: half to twice as many.
    """

    def write(request):
        prompt = "".join(map(chr, request.prompt))
        *_, begun = prompt.split("\n")  # a line that was cut off is written to its end
        rng = random.Random(f"{prompt}|{request.seed}")
        done = prompt.count("\n") - 1
        over = done >= lines // 2 and (done >= 2 * lines or rng.random() < 1.6 / lines)
        if over if varied else done >= lines:
            return generated(end % rng.randrange(4), log_prob=-0.7, limit=request.max_tokens)
        length = max(1, rng.randrange(mean // 2, mean * 3 // 2) - len(begun))
        text = "".join(rng.choice("abcdefgh ") for _ in range(length))
        return generated(text, log_prob=-1.0, limit=request.max_tokens)

    return write


def guide_of(backend, **lm):
    settings_ = {"delimiter": "\n", "step_tokens": 256, "max_steps": 40, "prompt": "{problem}\n"}
    return Guide(LM(Loaded(backend, Characters(), settings_, "fake", False), **lm))


@st.composite
def plans(draw):
    """Children: each a list of requests, as lengths; which are begun as others end."""
    count = draw(st.integers(2, 7))
    return [draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)) for _ in range(count)]


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 10**6), st.sampled_from([1, 2, 64]), st.booleans())
def test_children_end_in_the_order_of_their_clocks_whatever_arrives_when(
    plan, shuffle, slots, tells
):
    async def child(lengths):
        for length in lengths:
            await ask(Generate((1,), max_tokens=length))
        return sum(lengths)

    async def work(meter, order):
        pool, waiting = Pool(), list(enumerate(plan))
        for _ in range(2):
            number, lengths = waiting.pop(0)
            pool.start(child(lengths), Grant(meter, 1000, 1000), number)
        while len(pool):
            ended = await pool.next()
            order.append((ended.clock, ended.owner))
            assert ended.result == sum(plan[ended.owner])
            if waiting:
                number, lengths = waiting.pop(0)
                pool.start(child(lengths), Grant(meter, 1000, 1000), number)

    def write(request):
        return generated("x" * request.max_tokens, finish="end")

    def told(backend):
        order = []
        meter = Meter(Budget(tokens=10_000))
        run(metered(work(meter, order), meter), {"policy": backend})
        return order

    expected = []  # two lanes in lock step, from the lengths alone
    running = [(sum(lengths), number) for number, lengths in enumerate(plan[:2])]
    following = 2
    while running:
        running.sort()
        clock, number = running.pop(0)
        expected.append((clock, number))
        if following < len(plan):
            running.append((clock + sum(plan[following]), following))
            following += 1
    assert told(Ticking(write, slots, shuffle, tells)) == expected


def test_a_child_that_breaks_leaves_nothing_behind():
    async def child(wrong):
        await ask(Generate((1,), max_tokens=5))
        if wrong:
            raise ZeroDivisionError
        await ask(Generate((1,), max_tokens=500))

    async def work(meter):
        pool = Pool()
        for number in range(3):
            pool.start(child(number == 1), Grant(meter, 1000, 1000), number)
        await pool.next()

    backend = Ticking(lambda request: generated("x" * request.max_tokens, finish="end"))
    meter = Meter(Budget(tokens=10_000))
    with pytest.raises(ZeroDivisionError):
        run(metered(work(meter), meter), {"policy": backend})
    assert not backend.left and not backend.poll()
    assert meter.usage.generated > 10, "what the others had generated is counted"


QUESTION = search.TextProblem("What?")
METHODS = [
    ("sample", {}),
    ("sample", {"wave": 3}),
    ("mcts", {}),
    ("mcts", {"leaves": 3, "branch": 2}),
    ("beam", {"width": 4, "branch": 3}),
]


@pytest.mark.thorough
@pytest.mark.parametrize("method, options", METHODS)
def test_the_same_seed_gives_the_same_tree_and_no_budget_is_exceeded(method, options):
    def solved(budget, **backend):
        solution = search.solve(
            QUESTION,
            guide_of(Ticking(writer(4, 20), **backend)),
            method,
            f"tokens={budget}",
            seed=5,
            **options,
        )
        tree = solution.tree
        edges = [
            [(tree.steps[e].text, tree.at(e, "visits"), tree.at(e, "prior")) for e in tree.block(n)]
            for n in range(len(tree.nodes))
        ]
        assert solution.usage.generated <= budget
        return edges, solution.usage.generated

    for budget in (7, 60, 150, 400, 1000):
        alone = solved(budget)
        for backend in (
            {"slots": 1},
            {"shuffle": 1},
            {"shuffle": 2, "slots": 3},
            {"tells": False, "shuffle": 3},
        ):
            assert solved(budget, **backend) == alone, (budget, backend)


def tokens_to(tree, node):
    """Tokens of the longest chain that ends with a step from `node`."""
    steps = [len(tree.steps[edge].tokens) for edge in tree.block(node)]
    return sum(len(step.tokens) for step in tree.chain(node)) + max(steps, default=0)


@pytest.mark.thorough
@pytest.mark.parametrize("method, first", [("sample", 1 / 2), ("mcts", 2 / 3)])
@pytest.mark.parametrize("lines, mean", [(3, 30), (8, 40), (1, 200)])
def test_whoever_pays_for_one_and_a_half_chains_gets_an_answer(method, first, lines, mean):
    """Without an answer, the first chain alone has had its share of the budget; that of sampling
    is two chains for one answer.
    """
    answered = 0
    for seed in range(4):
        for budget in range(mean, mean * (lines + 1) * 3, mean * (lines + 1) // 3):
            solution = search.solve(
                QUESTION,
                guide_of(Ticking(writer(lines, mean))),
                method,
                f"tokens={budget}",
                seed=seed,
            )
            tree = solution.tree
            longest = max(map(tokens_to, [tree] * len(tree.nodes), range(len(tree.nodes))))
            answered += solution.answer is not None
            assert solution.answer is not None or longest >= first * budget - 1, (seed, budget)
    assert answered > 8


@pytest.mark.thorough
def test_a_small_budget_is_spent():
    """Chains are shorter than was guessed: a second one begins where it is likely to fit, and a
    tree whose steps are judged goes on step by step.
    """
    length = (30 + 1) * 3 + len("so \\boxed{0}") + 1
    budget = int(2.3 * length)
    for seed in range(6):
        guide = guide_of(Ticking(writer(3, 30)))
        solution = search.solve(QUESTION, guide, "sample", f"tokens={budget}", seed=seed)
        used = solution.usage.generated
        assert budget - used < used / solution.usage.simulations, (
            seed,
            "one more would have fitted",
        )
        judged = Guide(guide.policy, lambda text: 0.5)
        for leaves in (1, 4):
            solution = search.solve(
                QUESTION, judged, "mcts", f"tokens={budget}", seed=seed, leaves=leaves
            )
            assert budget - 16 <= solution.usage.generated <= budget, (seed, leaves)


@pytest.mark.thorough
@pytest.mark.parametrize("lines, mean", [(3, 30), (8, 40), (12, 30)])
def test_a_beam_narrows_to_what_its_budget_can_finish(lines, mean):
    """About one and a half chains pay for an answer, and a third as many chains are finished as
    by sampling.
    """
    length = (mean + 1) * lines + len("so \\boxed{0}") + 1
    for times in (1.5, 2, 4, 8, 12):
        finished, sampled = [], []
        for seed in range(3):
            budget = f"tokens={int(times * length)}"
            solution = search.solve(
                QUESTION, guide_of(Ticking(writer(lines, mean))), "beam", budget, seed=seed
            )
            tree = solution.tree
            longest = max(map(tokens_to, [tree] * len(tree.nodes), range(len(tree.nodes))))
            assert solution.answer is not None or longest >= times * length / 1.6, (times, seed)
            finished.append(len(tree.finished))
            sampled.append(
                len(
                    search.solve(
                        QUESTION,
                        guide_of(Ticking(writer(lines, mean))),
                        "sample",
                        budget,
                        seed=seed,
                    ).tree.finished
                )
            )
        assert sum(finished) >= sum(sampled) / 3, times


def test_a_beam_that_the_budget_can_pay_for_is_not_narrowed():
    """What is not narrowed ends with its chains, whatever the budget, and has expanded 4 states
    of each depth by 4 steps.
    """
    trees = []
    for tokens in (6000, 60_000):
        solution = search.solve(
            QUESTION, guide_of(Ticking(writer(3, 30))), "beam", f"tokens={tokens}", seed=1
        )
        assert solution.stopped == "finished"
        trees.append(
            [
                [solution.tree.steps[edge].text for edge in solution.tree.block(node)]
                for node in range(len(solution.tree.nodes))
            ]
        )
    assert trees[0] == trees[1]
    assert (
        sorted(len(block) for block in trees[0] if block)[-1] == 4 and sum(map(len, trees[0])) > 30
    )


@pytest.mark.thorough
@pytest.mark.parametrize("rollout, share", [(1 / 3, 1 / 3), (1.0, 0.9)])
def test_a_tree_finishes_its_share_of_the_chains_that_sampling_does(rollout, share):
    for budget in (400, 1000, 3000):
        sampled = search.solve(
            QUESTION, guide_of(Ticking(writer(5, 30))), "sample", f"tokens={budget}"
        )
        searched = search.solve(
            QUESTION, guide_of(Ticking(writer(5, 30))), "mcts", f"tokens={budget}", rollout=rollout
        )
        assert len(searched.tree.finished) >= int(share * len(sampled.tree.finished))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method, options, least",
    [("sample", {}, 6.4), ("mcts", {}, 6.0), ("beam", {"width": 4, "branch": 4}, 8.0)],
)
def test_passes_are_full_though_chains_are_long_and_differ(method, options, least):
    rows = []
    for seed in range(4):
        backend = Ticking(writer(6, 36, varied=True))
        search.solve(QUESTION, guide_of(backend), method, "tokens=4000", seed=seed, **options)
        rows.append(backend.row_passes / backend.passes)
    assert np.mean(rows) >= least


@pytest.mark.parametrize(
    "method, options",
    [
        ("beam", {"width": 1, "branch": 1}),
        ("beam", {"width": 4, "branch": 4}),
        ("sample", {}),
        ("mcts", {"branch": 1}),
    ],
)
@pytest.mark.parametrize("tokens", [1, 25, 63])
def test_who_is_alone_has_all_the_tokens_though_a_step_may_take_more(method, options, tokens):
    """Fewer tokens than a typical step takes are spent on one step, and not kept for ever."""
    guide = guide_of(Ticking(writer(3, 400)))
    solution = search.solve(QUESTION, guide, method, f"tokens={tokens}", **options)
    assert solution.usage.generated == tokens and solution.stopped == "tokens"
    assert max(len(step.tokens) for step in solution.tree.steps if step is not None) == tokens


def test_requests_of_one_turn_share_what_is_left():
    meter = Meter(Budget(tokens=100))
    (grant,) = meter.grant(1, 400, 4, requests=4)
    requests = [Generate((1,), max_tokens=100) for _ in range(4)]
    share = grant.share(requests)
    assert share == 25
    assert [grant.admit(request, share).max_tokens for request in requests] == [25] * 4


def test_chains_that_fail_are_sampled_again():
    tries = []

    def write(request):
        tries.append(request)
        if len(tries) % 3 == 0:
            raise RequestFailed("time-out")
        return writer(2, 20)(request)

    class Failing(Ticking):
        def submit(self, request):
            try:
                super().submit(request)
            except RequestFailed as error:
                self.failed = [*getattr(self, "failed", []), (request, error)]

        def poll(self, seconds=0.0):
            failed, self.failed = getattr(self, "failed", []), []
            return [
                *super().poll(seconds),
                *(Reply(request, error=error, usage=Usage(calls=1)) for request, error in failed),
            ]

    solution = search.solve(QUESTION, guide_of(Failing(write)), "sample", "tokens=2000", chains=4)
    assert solution.tree.visits(0) > 1 and solution.answer is not None
