"""Policies, methods and problems of one's own, and one sentence for each mistake."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from fakes import generated
from own_parts import (
    TARGET,
    Board,
    Minimal,
    Sums,
    helper,
    keyed,
    progress,
    scaled,
    solve,
    steps,
    total,
)

import search
import search.problems
import search.problems.stream
from guides.values.rollout import Mixture, Rollout
from models import Scripted
from search.functions import FunctionPolicy, FunctionValue
from search.guide import Known, Uniform
from search.parts import version_of
from search.scheduling.requests import RequestFailed


async def steps_later(text):
    return steps(text)


GOOD_POLICIES = {
    "text": steps,
    "async": steps_later,
    "two": lambda problem, state: [
        search.TextStep("1"),
        search.TextStep("2"),
        search.TextStep("3"),
    ],
    "text of two": lambda problem, state: ["1", "2", "3"],
    "twice": lambda text: ["1", "2", " 1", "3", "2"],
    "tuple": lambda text: ("1", "2", "3"),
}


# -- policies


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "mcts") for name in GOOD_POLICIES),
        ("text", "beam"),
        ("async", "sample"),
        ("two", "gumbel"),
    ],
)
def test_functions_propose(name, method):
    one, two = solve(GOOD_POLICIES[name], method=method), solve(method=method)
    assert total(one.steps) == TARGET and one.tree.steps == two.tree.steps
    search.check_policy(GOOD_POLICIES[name], Sums())


def test_a_function_of_any_problem_proposes_its_steps():
    solution = solve(
        lambda problem, state: problem.actions(state),
        lambda problem, states: [state / 6 for state in states],
        Board(),
    )
    assert solution.verified and sum(solution.steps) == TARGET
    assert solve(lambda text: [], Known()).stopped == "exhausted"


def test_an_illegal_line_of_a_stream_is_one_more_step_that_cannot_be_taken():
    """The key of a step in a stream is known of legal ones alone."""

    def speaks(text):
        return ["9*9=81", "8-7=1", "nonsense"] if "8-7" not in text else ["4-1=3", "8*3=24"]

    puzzle = search.problems.parse("Use 4, 7, 8 and 8 to make 24.")
    stream = search.problems.stream.Stream(puzzle)
    solution = search.solve(stream, search.Guide(speaks), "mcts", "simulations=30", branch=3)
    assert solution.error is None and solution.verified
    assert solution.tree.unusable > 0


def test_open_text_ends_where_the_function_says_so():
    def speaks(text):
        return (
            ["Two and two."]
            if "Two" not in text
            else [search.TextStep("The answer is 4", finish="end")]
        )

    solution = search.solve("What is 2 + 2?", search.Guide(speaks), "sample", "simulations=3")
    assert solution.answer == "4" and solution.text == "Two and two.\nThe answer is 4"


class Handed(search.Policy):
    """One that derives and leaves the rest to the defaults."""

    def __init__(self, given):
        self.given = given

    async def propose(self, problem, state, n, rng, avoid=()):
        return self.given


ONE = search.Proposal(search.TextStep("1"), math.nan, 1.0)


BROKEN_POLICIES = {
    "one text": (lambda text: "1", "returned '1': return a list of steps"),
    "nothing": (lambda text: None, "returned None: return a list of steps, .. where there is none"),
    "numbers": (lambda text: [1, 2], "returned .1, 2.: return the next steps as text"),
    "a generator": (lambda text: (step for step in "123"), "is a generator"),
    "what was not awaited": (lambda text: [helper], "return the next steps as text"),
    "steps for proposals": (
        Handed(["1"]),
        r"Handed.propose returned \['1'\]: return a list of search.Proposal",
    ),
    "no list": (Handed(None), "Handed.propose returned None: return a list of search.Proposal"),
    "a prior that is none": (
        Handed([search.Proposal(ONE.step, math.nan, -1.0)]),
        "a prior is a share in .0, 1.",
    ),
    "a value that is none": (
        Handed([search.Proposal(ONE.step, math.nan, 1.0, 7.0)]),
        "a value is in .0, 1. or nan",
    ),
}


@pytest.mark.parametrize("name", BROKEN_POLICIES)
def test_a_broken_policy_is_told(name):
    given, sentence = BROKEN_POLICIES[name]
    with pytest.raises(ValueError, match=sentence):
        solve(given)
    with pytest.raises(ValueError, match=sentence):
        search.check_policy(given, Sums())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("builtin", r"policy='builtin' is no policy: give a policy, for example guides.LM\(path\)"),
        (search.Guide(steps), "policy= was given a whole guide: give its policy, guide.policy"),
        (Known(), "Known judges states and proposes none: give it as value="),
        (Handed, r"policy=Handed is a class: give Handed\(...\)"),
        (lambda state: [], "write .problem, state., both without a default, to get the state"),
        (Minimal(), "Minimal judges states and proposes none"),
        (None, "policy=None is no policy"),
    ],
)
def test_what_is_no_policy_is_told_before_anything_runs(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        search.Guide(given)


def test_the_examiner_of_policies_finds_what_is_not_repeatable_or_not_distinct():
    rng = np.random.default_rng()
    with pytest.raises(ValueError, match="other steps at the same place"):
        search.check_policy(lambda text: [str(rng.integers(10**9))], Sums())
    with pytest.raises(ValueError, match="priors that sum to 2"):
        search.check_policy(
            Handed([ONE, search.Proposal(search.TextStep("2"), math.nan, 1.0)]), Sums()
        )
    half = search.Proposal(search.TextStep("1"), math.nan, 0.5)
    with pytest.raises(ValueError, match="the same step twice"):
        search.check_policy(Handed([half, half]), Sums())
    with pytest.raises(ValueError, match="for the same: draw random numbers from `rng` alone"):
        search.check_value(lambda text: float(rng.random()), Sums())


def test_a_policy_completes_step_by_step_and_gives_up_where_it_must():
    class Fails(search.Policy):
        async def propose(self, problem, state, n, rng):
            if len(state) >= 2:
                raise RequestFailed("gone")
            return [ONE]

    backend = {"policy": Scripted(lambda request: generated("x"))}
    assert [
        step.text
        for step in search.run(Fails().complete(Sums(), (), np.random.default_rng(0)), backend)
    ] == ["1", "1"]
    with pytest.raises(RequestFailed):
        search.run(
            Fails().complete(Sums(), (ONE.step, ONE.step), np.random.default_rng(0)), backend
        )


def test_roll_outs_and_mixtures_take_functions():
    value = Mixture(progress, Rollout(steps, 2, judge=lambda text: 1.0))
    search.check_value(value, Sums())
    assert solve(value=value).answer is not None


# -- versions


def test_a_version_names_the_function_and_its_source():
    assert (
        search.Guide(steps, progress)
        .value.version.rpartition(".")[2]
        .startswith("own_parts:progress-")
    )
    assert version_of(progress) != version_of(scaled) and version_of(progress) == version_of(
        progress
    )
    assert version_of(functools.partial(keyed, scale=1.0)) != version_of(
        functools.partial(keyed, scale=2.0)
    )
    spaces = [{"__name__": "typed"}, {"__name__": "typed"}]
    for number, space in enumerate(spaces):
        exec(f"def value(text):\n    return {number}", space)
    assert version_of(spaces[0]["value"]) == "typed:value", "there is no source to make a digest of"
    assert Handed([1]).version.rpartition(".")[2].startswith("test_parts_methods:Handed-")
    assert solve().trace.judge == version_of(progress)


async def best_first(run, *, branch=4):
    frontier = [0]
    while frontier and not run.over:
        node = frontier.pop(
            max(range(len(frontier)), key=lambda place: run.tree.mean(frontier[place]))
        )
        frontier += [
            new for new in await run.expand([node], branch) if new not in run.tree.finished
        ]


class Greedy:
    async def __call__(self, run, *, branch=3):
        await best_first(run, branch=branch)


# -- methods


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method",
    [
        best_first,
        Greedy(),
        functools.partial(best_first, branch=2),
        lambda run: best_first(run),
        "test_parts_methods:best_first",
    ],
)
def test_methods_of_ones_own(method):
    solution = solve(method=method)
    assert total(solution.steps) == TARGET and solution.usage.simulations <= 20
    search.check_method(method)


async def four(problem, guide, meter, rng, *, branch=4):
    raise AssertionError


def plain(run):
    run.over  # noqa: B018


def old(run):
    yield from ()


async def listed(run):
    await run.expand([0], 3)
    return [0]


async def other_tree(run):
    return search.Tree(())


async def forgets(run):
    while not run.over:
        run.expand([0], 3)


async def forgets_at_the_end(run):
    await run.expand([0], 3)
    run.judge([1])


async def all_at_once(run):
    await search.parallel([run.expand([0], 1), run.expand([0], 2)])


async def endless(run):
    while True:
        await run.expand([0], 3)


async def expands_what_is_finished(run):
    nodes = [0]
    while not run.over:
        nodes = await run.expand(nodes, 3)


def called_with(*arguments, **options):
    async def method(run):
        await run.expand(*arguments, **options)

    return method


BROKEN_METHODS = {
    "four parameters": (
        four,
        r"takes \(problem, guide, meter, rng\): write `async def name\(search, \*, options\)`; "
        r"search.problem",
    ),
    "no coroutine": (plain, "the method plain is no coroutine: write `async def`"),
    "a generator": (old, "the method old is a generator: write `async def name"),
    "a lambda": (lambda run: None, "is no coroutine: write `async def`"),
    "a class": (Greedy, "method=Greedy is a class: give a function"),
    "no parameter": ((lambda: None), "takes no search"),
    "options by place": (
        (lambda run, branch=4: None),
        r"takes \(run, branch\), and is given the search alone: write a `\*` before its options",
    ),
    "options without a default": (
        (lambda run, *, branch: None),
        "has options without a default, branch",
    ),
    "a number": (5, "method=5 is no method: give one of greedy, .*, mcts, gumbel, or a function"),
    "what it returns": (
        listed,
        r"the method listed returned \[0\]: return nothing, what it found is in search.tree",
    ),
    "another tree": (other_tree, "the method other_tree returned .*: return nothing"),
    "no await": (forgets, r"search.expand\(...\) was called without `await`"),
    "no await at the end": (forgets_at_the_end, r"search.judge\(...\) was called without `await`"),
    "two calls at once": (all_at_once, "or twice at once: .* with all nodes in one call"),
    "no end": (endless, "asked 1000 times in a row in vain: end it when `search.over` is True"),
    "a finished node": (
        expands_what_is_finished,
        "is finished, nothing follows it: expand nodes that are not in search.tree.finished",
    ),
    "one node": (
        called_with(0),
        r"takes a list of nodes and was given 0: write search.expand\(\[node\]\)",
    ),
    "a state": (called_with([()]), r"\(\) is no node: give numbers of nodes"),
    "an edge": (called_with([99]), "there is no node 99, the tree has 1"),
    "below 0": (called_with([-1]), "there is no node -1"),
    "no steps": (called_with([0], 0), "cannot ask for n=0 steps: give a whole number from 1 on"),
    "half a step": (called_with([0], 1.5), "n=1.5"),
}


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("name", BROKEN_METHODS)
def test_a_broken_method_is_told(name):
    given, sentence = BROKEN_METHODS[name]
    with pytest.raises(ValueError, match=sentence):
        search.solve(Sums(), search.Guide(steps, progress), given, "simulations=5000")
    with pytest.raises(ValueError, match=sentence):
        search.check_method(given)


def test_the_examiner_of_methods_finds_what_is_not_repeatable_and_what_does_nothing():
    rng = np.random.default_rng()

    async def random(run):
        while not run.over:
            open_ = [node for node in range(len(run.tree.states)) if node not in run.tree.finished]
            await run.expand([int(rng.choice(open_))], 3)

    async def nothing(run):
        pass

    async def unmetered(run):
        await run.expand([0], 3)
        run.meter.finish(500, 0)

    with pytest.raises(ValueError, match="two trees from one seed"):
        search.check_method(random)
    with pytest.raises(
        ValueError, match=r"ended without a step: await search.expand\(\[0\], n\) first"
    ):
        search.check_method(nothing)
    with pytest.raises(ValueError, match="spent 501 of 1 simulations"):
        search.check_method(unmetered)


def test_an_expansion_judges_opens_and_counts():
    seen = {}

    async def looks(run):
        first = await run.expand([0], 3)
        seen["means"] = [run.tree.mean(node) for node in first]
        silent = await run.expand(first[:1], 3, judge=False)
        seen["silent"] = [run.tree.visits(node) for node in silent]
        seen["judged"] = await run.judge(silent)
        seen["again"] = await run.expand([0], 3)
        seen["budget"] = run.budget
        return run.tree

    solution = solve(method=looks)
    assert seen["means"] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=1e-4)
    assert seen["silent"] == [0, 0, 0] and seen["judged"] == pytest.approx(
        [2 / 6, 3 / 6, 4 / 6], abs=1e-4
    )
    assert seen["again"] == [] and solution.usage.simulations == 3
    assert seen["budget"] == search.Budget(simulations=20)
    assert solution.tree.visits(0) == 1 + 3 + 3


def test_an_expansion_keeps_the_budget_and_says_when_it_is_over():
    async def wide(run):
        nodes = [0]
        while not run.over:
            nodes = [node for node in await run.expand(nodes, 3) if node not in run.tree.finished]

    for limit in (1, 2, 3, 5, 8):
        assert solve(method=wide, budget=f"simulations={limit}").usage.simulations <= limit
    assert (
        solve(lambda text: ["1"], method=wide, budget="simulations=100000").stopped == "exhausted"
    )


def test_a_root_that_cannot_be_expanded_raises_the_error_of_the_backend():
    class Gone(search.Policy):
        backends = {"policy": Scripted(lambda request: generated("x"))}
        step_tokens = 4

        async def propose(self, problem, state, n, rng):
            raise RequestFailed("gone")

    with pytest.raises(RequestFailed, match="gone"):
        solve(Gone(), method=best_first, budget="tokens=100")


def test_a_finished_state_is_worth_its_reward():
    async def all_of(run):
        nodes = [0]
        while not run.over and nodes:
            nodes = [
                node
                for node in await run.expand(nodes, 3, judge=False)
                if node not in run.tree.finished
            ]
        finished = list(run.tree.finished)
        assert [run.tree.mean(node) for node in finished] == [1.0] * len(finished)

    assert solve(Uniform(), None, Board(), all_of, "simulations=500").verified


class Unfinished(search.Problem):
    def initial(self):
        return 0

    def apply(self, state, step):
        return state + step

    def prompt(self, state):
        return "Count."


class Forgetful(Board):
    def apply(self, state, step):
        state + step


class Structural:
    """Derives from nothing, and lacks what search.Problem would have given."""

    initial = apply = is_terminal = prompt = lambda self, *arguments: 0


BROKEN_PROBLEMS = {
    "a class": (Board, r"Board is a class: give a problem, Board\(...\)"),
    "a member of its own": (
        Unfinished(),
        "the problem Unfinished has no is_terminal of its own: write it",
    ),
    "members": (
        Structural(),
        "the problem Structural has no players and no inline .*: derive it from search.Problem",
    ),
    "nothing behind a step": (
        Forgetful(),
        "Forgetful.* returned None: return the new state, or raise search.IllegalStep",
    ),
    "no first state": (
        type("Nowhere", (Board,), {"initial": lambda self: None})(),
        "initial of the problem Nowhere returned None",
    ),
    "another first state": (
        type("Moody", (Board,), {"initial": lambda self: object()})(),
        "gives another state each time",
    ),
    "no statement": (
        type("Silent", (Board,), {"prompt": lambda self, state: None})(),
        "prompt of the problem Silent returned None",
    ),
    "three players": (type("Crowd", (Board,), {"players": 3})(), "has players=3: give 1 or 2"),
    "two players": (
        type("Pair", (Board,), {"players": 2})(),
        r"is for two players: write to_move\(state\)",
    ),
    "no bool": (
        type("Endless", (Board,), {"is_terminal": lambda self, state: None})(),
        "is_terminal of the problem Endless returned None",
    ),
    "inline": (
        type("Inlined", (Board,), {"inline": "no"})(),
        "has inline='no': give True or False",
    ),
    "a reward": (
        type("Proud", (Board,), {"verify": lambda self, state: "good"})(),
        "returned 'good': give a number in .0, 1.",
    ),
}


# -- problems


@pytest.mark.parametrize("name", BROKEN_PROBLEMS)
def test_a_broken_problem_is_told(name):
    given, sentence = BROKEN_PROBLEMS[name]
    with pytest.raises(ValueError, match=sentence):
        search.solve(given, search.Guide(Uniform()), "mcts", "simulations=50")
    with pytest.raises(ValueError, match=sentence):
        search.check_problem(given)


def test_the_functions_of_a_text_problem_are_examined():
    for options, sentence in (
        ({"verify": "24"}, "verify='24' is no function"),
        ({"answer": 5}, "answer=5 is no function"),
        (
            {"verify": lambda problem, text: True},
            r"takes \(problem, text\): it is called with the chain's text alone",
        ),
        ({"answer": helper}, "write a plain `def`"),
    ):
        with pytest.raises(ValueError, match=sentence):
            search.TextProblem("Why?", **options)
    with pytest.raises(ValueError, match="statement is text, and this is 24"):
        search.TextProblem(24)
    search.TextProblem("Why?", verify=bool, answer=functools.partial(lambda mark, text: None, "x"))


# -- names


def test_an_old_name_says_the_new_one():
    with pytest.raises(AttributeError, match="search.ValueFunction is now called search.Value"):
        search.ValueFunction  # noqa: B018


@pytest.mark.parametrize("package", ["search", "guides"])
def test_what_is_exported_is_what_loads(package):
    import importlib

    module = importlib.import_module(package)
    assert set(module.__all__) == set(module._MODULE) | set(getattr(module, "_WHOLE", ()))
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_parts_are_made_once():
    assert isinstance(search.Guide(steps, progress).policy, FunctionPolicy)
    value = search.Guide(steps, progress).value
    assert isinstance(value, FunctionValue) and search.Guide(steps, value).value is value


def test_steps_of_a_text_problem_and_functions_as_a_guide_get_a_sentence():
    """As a reader of the README came upon them."""
    problem = search.TextProblem("Write yes.", verify=lambda text: float(text == "yes"))
    search.check_problem(problem, [search.TextStep("yes")])
    with pytest.raises(ValueError, match=r"write search\.TextStep\(text\)"):
        search.check_problem(problem, ["yes"])
    with pytest.raises(ValueError, match=r"give search\.Guide\(policy, value\)"):
        search.solve(problem, lambda text: ["yes"])
