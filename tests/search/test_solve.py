"""`solve` and `solve_many` as people call them: choosers, text, threads, notebooks, Ctrl-C, open
text problems.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import numpy as np
import pytest
from fakes import Characters, generated, random_player, scripted_guide
from hypothesis import given
from hypothesis import strategies as st

import search
from guides.engines import Loaded
from guides.policies.lm import LM
from models import Scripted
from search import choose
from search.choose import Finish
from search.guide import Guide
from search.problem import chain_text, final_answer
from search.problems.countdown import Countdown
from search.scheduling.requests import Generate

PUZZLE = "Use 4, 7, 8 and 8 to make 24."


def found(*rows):
    return [Finish(i, *row) for i, row in enumerate(rows)]


def test_choosers():
    rows = found(
        ("a", None, 0.9, 1),
        ("b", None, 0.4, 2),
        ("b", None, 0.3, 1),
        ("c", None, 0.2, 3),
        ("a", None, 0.1, 1),
    )
    assert choose.majority(rows).answer == "b" and choose.majority(rows).value == 0.4, (
        "first of the tied, and its best state"
    )
    assert choose.weighted(rows).node == 1, "b: 2 x 0.4 + 0.3 = 1.1, a: 1.0, c: 0.6"
    split = found(("a", None, 0.9, 2), ("b", None, 0.1, 3), ("c", 0.0, 0.9, 9))
    assert choose.majority(split).answer == "c" and choose.weighted(split).answer == "a", (
        "a: 1.8, b: 0.3, c was refuted: 0"
    )
    assert choose.best(rows).node == 0
    assert choose.most_visited(rows).answer == "c"
    assert choose.candidates(rows)[0] == ("b", 3 / 8, 0.4)
    assert choose.best(found(("a", 0.2, 0.9, 5), ("b", None, math.nan, 1))).answer == "b", (
        "a reward counts before a value"
    )


def likely(*rows):
    return [
        Finish(i, answer, None, value, 1, math.log(p) if p else -2000.0)
        for i, (answer, value, p) in enumerate(rows)
    ]


def shares(rows):
    own = choose.counts(rows)
    return [count / sum(own) for count in own]


def test_chains_of_a_tree_count_by_their_probability():
    rows = likely(("a", 0.9, 0.95), *[("b", 0.9, 1e-6)] * 40)
    assert choose.majority(rows).answer == choose.weighted(rows).answer == "a", (
        "forty chains that nobody would sample are not forty votes"
    )
    assert shares(rows) == pytest.approx([0.95, *[0.05 / 40] * 40], rel=1e-3), (
        "what is left of the probability is theirs"
    )
    alike = likely(("a", 0.9, 0.0), ("b", 0.5, 1e-250), ("b", 0.5, 1e-30), ("c", 0.2, 1e-9))
    assert shares(alike) == pytest.approx([0.25] * 4), (
        "chains that are all unlikely count as samples do"
    )
    assert choose.majority(alike).answer == "b" and choose.weighted(alike).answer == "b"
    assert shares(likely(("a", 1, 0.75), ("b", 1, 0.25))) == pytest.approx([0.75, 0.25]), (
        "nothing is left"
    )
    chosen = choose.weighted(likely(("a", 0.99, 1e-7), ("a", 0.9, 0.8), ("b", 1.0, 1e-6)))
    assert (chosen.node, chosen.answer) == (1, "a"), "what is shown for an answer is no accident"
    unknown = [*rows[:3], Finish(9, "b", None, 0.9, 4)]
    assert shares(unknown) == pytest.approx([1 / 7, 1 / 7, 1 / 7, 4 / 7]), (
        "one without a probability: visits are samples"
    )
    samples = [replace(finish, independent=True) for finish in likely(("a", 1, 0.9), ("b", 1, 0.1))]
    samples[1] = replace(samples[1], visits=3)
    assert shares(samples) == pytest.approx([1 / 4, 3 / 4]), "so are those of independent chains"


@given(st.lists(st.floats(1e-300, 1.0), min_size=1, max_size=40))
def test_shares_are_shares(p):
    found = likely(*[("a", 1.0, share / max(1.0, sum(p))) for share in p])
    given = choose.counts(found)
    assert sum(given) == pytest.approx(1) and min(given) >= 0, "they sum to 1 by themselves"
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert all(given[i] <= given[j] * (1 + 1e-9) for i, j in itertools.pairwise(order)), (
        "what is likelier counts no less"
    )


@pytest.mark.thorough
@pytest.mark.parametrize("n", [3, 8, 20])
def test_shares_estimate_what_the_policy_answers(n):
    """Chains drawn without replacement, from a policy that is known: the mean of an answer's
    shares is its probability.
    """
    rng = np.random.default_rng(n)
    p = rng.dirichlet(np.full(60, 0.15))
    answers = rng.integers(3, size=60)
    truth = [p[answers == answer].sum() for answer in range(3)]
    sums = np.zeros(3)
    for _ in range(1500):
        # Gumbel-top-k: sampling without replacement
        drawn = np.argsort(np.log(p) + rng.gumbel(size=60))[-n:]
        for answer, share in zip(
            answers[drawn], shares(likely(*[("", 1.0, p[i]) for i in drawn])), strict=True
        ):
            sums[answer] += share / 1500
    assert sums == pytest.approx(truth, abs=0.03)
    alike = np.zeros(3)
    for _ in range(300):
        drawn = np.argsort(np.log(p) + rng.gumbel(size=60))[-n:]
        np.add.at(alike, answers[drawn], 1 / n / 300)
    assert np.abs(alike - truth).max() > 2 * np.abs(sums - truth).max(), (
        "which one vote a chain does not"
    )


@pytest.mark.thorough
def test_a_tree_tells_how_likely_its_chains_are():
    """Different chains, so their probabilities sum to no more than 1; independent samples have
    none, and their visits count them.
    """
    for method in ("mcts", "beam", "gumbel"):
        solution = search.solve(
            "Use 1, 1, 1 and 2 to make 90.", scripted_guide(), method=method, budget="tokens=3000"
        )
        found = choose.finishes(solution.tree, solution.problem)
        assert len(found) > 3 and all(finish.log_prob < 0 for finish in found)
        assert math.fsum(math.exp(finish.log_prob) for finish in found) <= 1 + 1e-9
    solution = search.solve(
        "Use 1, 1, 1 and 2 to make 90.", scripted_guide(), method="sample", budget="tokens=3000"
    )
    found = choose.finishes(solution.tree, solution.problem)
    assert found and all(math.isnan(finish.log_prob) for finish in found)


def test_a_puzzle_as_text():
    solution = search.solve(PUZZLE, scripted_guide(), budget="tokens=50000", seed=2)
    assert solution.problem == Countdown((4, 7, 8, 8), 24) and solution.verified
    assert "\n" not in repr(solution) and "verified" in repr(solution)
    assert str(solution).startswith(
        solution.text
    ) and f"answer: {solution.answer} (verified)" in str(solution)
    assert f"{solution.usage.generated:,} tokens" in str(solution)
    assert solution.text == chain_text(solution.steps)
    assert solution.tree.verified is not None
    assert 0 < solution.usage.mean_rows <= 64 and 0 < solution.usage.slot_use <= 1


def test_verdicts_and_labels_stay_apart():
    """A problem that cannot verify itself leaves `verified` None whatever the answer."""
    guide = scripted_guide(
        lambda r: generated("The answer is 7") if isinstance(r, Generate) else None, value=False
    )
    solution = search.solve("How many days has a week?", guide, "sample", "tokens=2000", chains=4)
    assert solution.answer == "7" and solution.verified is None
    assert solution.candidates == (("7", 1.0, 0.5),)


def test_own_verifier_and_answer():
    replies = ["x = 3", "x = 4", "x = 5"]
    guide = scripted_guide(lambda r: generated(replies[r.seed % 3]), value=False)
    problem = search.TextProblem(
        "Find x with x * x = 16.", verify=lambda text: "x = 4" in text, answer=r"x = (\d+)"
    )
    solution = search.solve(problem, guide, "sample", "tokens=5000")
    assert solution.answer == "4" and solution.verified is True and solution.stopped == "verified"


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"so \boxed{12}", "12"),
        (r"\boxed{\frac{1}{2}} and then \boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1", None),
        ("#### 18", "18"),
        ("The answer is 5.", "5"),
        ("Answer: $7$", "7"),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"<think>\boxed{1}", None),
        (r"<think>The answer is 3</think> well", None),
        ("nothing", None),
    ],
)
def test_final_answers(text, answer):
    assert final_answer(text) == answer


def text_guide(function, **lm):
    loaded = Loaded(Scripted(function), Characters(), {}, "fake", False)
    return Guide(LM(loaded, **lm), budget=search.Budget(tokens=5000))


def test_free_text_steps_end_at_a_blank_line_and_a_cut_step_never_finishes():
    def function(request):
        chain = "".join(map(chr, request.prompt)).split("\n\n", 1)[1]
        if not chain:
            return generated("first I think", delimiter="\n\n")
        if chain.endswith("\n\n"):
            return generated("the answer is 4" + " and more" * 9, limit=20)
        return generated(" done. \\boxed{5}", finish="end")

    solution = search.solve("2 + 3?", text_guide(function), "sample", chains=1)
    assert [step.finish for step in solution.steps] == ["stop", "length", "end"]
    assert solution.answer == "5", "what was cut off did not end the chain"
    assert solution.text == "first I think\nthe answer is 4 and  done. \\boxed{5}"


def test_a_finished_state_without_an_answer_gets_no_vote():
    def function(request):
        return (
            generated("hm", finish="end")
            if request.seed % 4
            else generated("\\boxed{1}", finish="end")
        )

    solution = search.solve("1?", text_guide(function), "sample", chains=20)
    assert (
        solution.answer == "1"
        and len(solution.candidates) == 1
        and solution.candidates[0][1] == 1.0
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method, options", [("sample", {"chains": 2}), ("beam", {}), ("mcts", {"widen": 0.0})]
)
def test_a_chain_has_at_most_max_steps(method, options):
    solution = search.solve(
        "go on",
        text_guide(lambda r: generated(f"on {r.seed}"), max_steps=3),
        method,
        "tokens=5000",
        **options,
    )
    assert (
        max(solution.tree.depth(n) for n in range(len(solution.tree.nodes))) == 3
        and solution.answer is None
    )


def test_a_seed_for_each_problem():
    guide = text_guide(lambda r: generated(f"\\boxed{{{r.seed}}}", finish="end"))
    problems = ["2 + 3?"] * 3
    answers = [
        s.answer for s in search.solve_many(problems, guide, "sample", seed=[4, 5, 4], chains=1)
    ]
    assert answers == [
        search.solve(problems[0], guide, "sample", seed=seed, chains=1).answer for seed in (4, 5, 4)
    ]
    assert answers[0] != answers[1]
    with pytest.raises(ValueError, match="2 seeds for 3 problems"):
        search.solve_many(problems, guide, "sample", seed=[4, 5])
    with pytest.raises(ValueError, match="seed=-1"):
        search.solve_many(problems, guide, "sample", seed=[4, 5, -1])


def test_own_method_and_own_value_function():
    async def one_step(run, *, tries: int = 3):
        problem, tree = run.problem, run.tree
        proposals = await run.guide.policy.propose(problem, problem.initial(), tries, run.rng)
        for p in proposals:
            state = problem.apply((), p.step)
            count = len(tree.block(0)) + 1
            edge = tree.add(0, [p.step], [state], [1 / count] * count)[0]
            if problem.is_terminal(state):
                tree.finished[tree.open(0, edge)] = problem.verify(state)

    guide = text_guide(lambda r: generated(f"\\boxed{{{r.seed % 3}}}"))
    problem = search.TextProblem("say 2", verify=lambda t: "2" in t)
    solution = search.solve(problem, guide, one_step, "tokens=1000", tries=12)
    assert solution.answer == "2" and solution.verified and solution.trace.options == {"tries": 12}

    class Long:
        backends, tokens, calls, version = {}, 0, 0, "long"

        async def evaluate(self, problem, states, known, rng):
            return [min(1.0, len(chain_text(s)) / 100) for s in states]

    guide = Guide(guide.policy, Long())
    solution = search.solve("q", guide, "mcts", "tokens=200")
    assert solution.trace.version != "fake" and solution.answer is not None


@pytest.mark.thorough
def test_eight_threads_share_one_engine():
    guide, results = scripted_guide(), {}
    alone = [search.solve(PUZZLE, guide, budget="tokens=400", seed=i) for i in range(8)]

    def work(i):
        results[i] = search.solve(PUZZLE, guide, budget="tokens=400", seed=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [results[i].tree.steps for i in range(8)] == [s.tree.steps for s in alone]


def test_inside_a_running_event_loop():
    async def cell():
        return search.solve(PUZZLE, scripted_guide(), budget="tokens=200")

    assert asyncio.run(cell()).error is None


def test_ctrl_c_gives_back_what_there_is():
    asked = []

    def player(request):
        asked.append(request)
        if len(asked) == 100:  # each of the three has a tree by then
            os.kill(os.getpid(), signal.SIGINT)
        return random_player()(request)

    before = signal.getsignal(signal.SIGINT)
    solutions = search.solve_many(
        [Countdown((1, 1, 1, 1), 99)] * 3, scripted_guide(player), budget="seconds=600"
    )
    assert all(s.stopped == "interrupted" and s.error is None for s in solutions)
    assert all(len(s.tree.nodes) > 1 for s in solutions)
    assert len(asked) < 300, "they end soon"
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_after_the_last_search_is_not_lost():
    """A caller with many calls to come hears of it; without `on_finish` the solutions are more
    than an exception.
    """
    problems = [Countdown((4, 7, 8, 8), 24)] * 2

    def finish(index, solution):
        if index == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        search.solve_many(
            problems, scripted_guide(), "sample", "tokens=60", on_finish=finish, limit=1
        )


@pytest.mark.thorough
def test_works_in_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys; sys.path[:0] = sys.argv[1:]
        from fakes import scripted_guide
        import search
        puzzle = "Use 4, 7, 8 and 8 to make 24."
        print(search.solve(puzzle, scripted_guide(), budget="tokens=300").stopped)
        """)
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    helpers = os.path.join(root, "tests", "helpers")
    done = subprocess.run(
        [sys.executable, script, helpers, root],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.strip() in ("tokens", "verified"), done.stderr


@pytest.mark.thorough
def test_sixty_four_problems_fill_the_slots():
    """A counting test: `solve_many` on 64 problems keeps at least 32 rows a pass with 64 slots."""
    guide = scripted_guide(slots=64)
    engine = next(iter(guide.backends.values()))
    problems = [Countdown((1, 1, n, 2), 99) for n in range(1, 65)]
    search.solve_many(problems, guide, budget="tokens=400")
    assert engine.total_rows / engine.total_passes >= 32


def test_a_guide_knows_what_it_was_trained_on(monkeypatch):
    import guides

    monkeypatch.setattr(
        guides,
        "settings",
        lambda path: {"kinds": ["search.problems.countdown:Countdown"]},
        raising=False,
    )
    monkeypatch.setattr(
        guides, "load", lambda path: pytest.fail("nothing may be loaded"), raising=False
    )
    with pytest.raises(ValueError, match=r"Countdown.*guides\.load"):
        search.solve("What is the capital of France?")
