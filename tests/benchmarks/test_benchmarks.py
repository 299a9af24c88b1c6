"""Tasks against independent counts; sweeps that were cut off, what they share and what they
refuse; reports with planted differences.
"""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fakes import generated, scripted_guide
from sweep_cases import ask, solved, written

import search
from benchmarks import tasks
from benchmarks.sweep import ablations, plan, report, tables
from benchmarks.sweep import run as sweep
from search.guide import Guide, Known, Proposal
from search.problem import TextProblem, TextStep
from search.problems.countdown import Countdown


def brute_force(numbers, target):
    """Whether `target` can be made: pairs are combined in every way, in exact arithmetic."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        if any(
            brute_force([*rest, c], target) for c in (a + b, a - b, a * b, *([a / b] if b else []))
        ):
            return True
    return False


# -- tasks


@pytest.mark.thorough
def test_the_game_of_24_has_its_known_size():
    assert len(tasks.game24()) == 1362 and len(tasks.game24(whole=True)) == 1346
    solvable = set(tasks.game24())
    for numbers in (
        (3, 3, 8, 8),
        (1, 1, 1, 1),
        (1, 5, 5, 5),
        (1, 1, 1, 8),
        (13, 13, 13, 13),
        (4, 7, 8, 8),
        (1, 6, 11, 13),
    ):
        assert (Countdown(numbers, 24) in solvable) == brute_force(
            [Fraction(n) for n in numbers], 24
        )


def test_validation_is_not_the_test():
    problems = tasks.countdown_validation()
    assert len(problems) == 400 and len({tasks.identity(p) for p in problems}) == 400
    assert all(p.target != 24 for p in problems) and {p.target for p in problems[200:]} == {36, 50}


def test_an_unknown_rank_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        tasks.ranked(tmp_path / "none.csv", 1, 2)


@pytest.mark.thorough
def test_hard_puzzles_have_few_solutions_and_unseen_targets():
    problems = tasks.countdown_hard()
    assert len(set(problems)) == 150 and {p.target for p in problems} == {36, 50}
    for problem in problems[:5]:
        assert brute_force([Fraction(n) for n in problem.numbers], problem.target)


def drive(asks):
    try:
        asks.send(None)
    except StopIteration as stop:
        return stop.value


class Fixed(search.Policy):
    """A policy of five steps with values of their own."""

    backends, step_tokens, chain_tokens, max_steps, version = {}, 0, 0, 10, "fixed"

    async def propose(self, problem, state, n, rng):
        draw = rng.random()
        return [Proposal(TextStep(f"{i} {draw}"), -float(i), 0.2, i / 5) for i in range(5)]


# -- ablations


def test_ablations_take_away_what_they_say_and_nothing_else():
    guide, problem = Guide(Fixed(), Known()), TextProblem("x")
    whole = drive(guide.policy.propose(problem, (), 5, np.random.default_rng(3)))
    dealt = [
        drive(
            ablations.shuffled_values(guide).policy.propose(
                problem, (), 5, np.random.default_rng(seed)
            )
        )
        for seed in range(200)
    ]
    assert all(
        sorted(p.value for p in d) == [p.value for p in whole] and [p.prior for p in d] == [0.2] * 5
        for d in dealt
    )
    means = np.mean([[p.value for p in d] for d in dealt], axis=0)
    assert np.abs(means - 0.4).max() < 0.07, "every value is as likely at every step"
    assert [p.step for p in dealt[3]] == [p.step for p in whole], "the policy's own draws stay"
    flat = drive(
        ablations.constant_value(guide, 0.5).policy.propose(
            problem, (), 5, np.random.default_rng(3)
        )
    )
    assert [(p.step, p.prior, p.value) for p in flat] == [(p.step, p.prior, 0.5) for p in whole]
    equal = drive(
        ablations.uniform_priors(guide).policy.propose(problem, (), 5, np.random.default_rng(3))
    )
    assert [(p.step, p.value) for p in equal] == [(p.step, p.value) for p in whole]
    assert all(p.prior == 0.2 and math.isnan(p.log_prob) for p in equal)


def test_attempts_are_no_other_choice_among_samples():
    """The search of `revise` is `sample`, of another problem."""
    run = plan.Run.parse("revise attempts=3")
    assert run.method == "revise" and run.options == {"chains": 1, "wave": 1, "attempts": 3}
    alike = plan.Run.parse("sample chains=1 wave=1")
    assert run.search != alike.search != plan.Run.parse("revise").search
    with pytest.raises(ValueError, match="attempts=0 is impossible"):
        plan.Run.parse("revise attempts=0")


def test_an_ablated_search_has_no_trace_of_the_part():
    problem = TextProblem("Question 1")
    run = plan.Run.parse("mcts branch=4 value=0.25 prior=uniform")
    tree = search.solve(
        problem, run.guide(ask), run.method, search.Budget(tokens=300), **run.options
    ).tree
    block = tree.edges[tree.block(0).start : tree.block(0).stop]
    assert len(block) > 2 and np.allclose(block["prior"], 1 / len(block))
    assert all(
        tree.value(node) == 0.25
        for node in range(1, len(tree.nodes))
        if not math.isnan(tree.value(node))
    )
    assert all(
        tree.mean(node) == pytest.approx(0.25)
        for node in range(len(tree.nodes))
        if tree.visits(node)
    )


def test_equal_priors_stay_equal_where_a_node_is_widened_and_steps_come_again():
    def digits(request):
        digit = request.seed % 7
        return generated(" " * (request.seed % 2) + str(digit), log_prob=-1.0 - digit)

    guide = ablations.uniform_priors(scripted_guide(digits, value=False, max_steps=2))
    tree = search.solve(
        TextProblem("Question 1"), guide, "mcts", search.Budget(simulations=60), branch=3, widen=2.0
    ).tree
    blocks = [
        tree.edges[b.start : b.stop] for node in range(len(tree.nodes)) if (b := tree.block(node))
    ]
    assert max(map(len, blocks)) > 3, "the steps not proposed yet kept their weight"
    assert all(np.allclose(block["prior"], 1 / len(block)) for block in blocks)


def test_values_of_another_model_are_not_shuffled():
    with pytest.raises(ValueError, match="one checkpoint"):
        ablations.shuffled_values(Guide(Fixed(), lambda text: 0.5))


# -- reports


def test_shares_are_counted_within_each_level(tmp_path):
    found = written(
        tmp_path / "r.csv",
        *(
            solved(p, "m", t, right)
            for p, t, right in (("a", 90, 1), ("b", 150, 1), ("c", 2000, 0), ("d", 2000, 1))
        ),
    )
    line = report.report(found).splitlines()[-1]
    assert [cell.split()[0] for cell in line.strip("| ").split(" | ")[2:7]] == [
        "25.0",
        "50.0",
        "50.0",
        "50.0",
        "75.0",
    ]
    assert " 1,060 " in line and "| 150 |" in line


def test_each_budget_stands_for_itself_where_only_targets_tell(tmp_path):
    cells = [
        (f"p{i}", "m", f"tokens={b}", 0, int(i < n), "", "a", b)
        for b, n in ((500, 3), (2000, 1))
        for i in range(4)
    ]
    text = report.report(written(tmp_path / "r.csv", *cells))
    assert (
        "| 500 tokens | 2,000 tokens |" in text
        and "75.0 [" in text
        and "25.0 [" in text
        and "100 tokens" not in text
    )


def test_a_budget_that_was_not_given_is_not_told_by_searches_without_an_answer(tmp_path):
    """Of the larger budget only failures could be read off: a rate of them alone would be 0."""
    cells = [(f"p{i}", "a", f"tokens={b}", 0, 1, "", "a", b) for b in (500, 2000) for i in range(4)]
    cells += [
        (f"p{i}", "b", "tokens=2000", 0, int(i > 0), "", "a" if i else "", 2000) for i in range(4)
    ]
    line = report.report(written(tmp_path / "r.csv", *cells)).splitlines()[-1]
    assert line.startswith("| b | 4 | - | 75.0 [")


@pytest.mark.thorough
def test_a_paired_comparison_finds_a_planted_difference(tmp_path):
    """ "a" solves 150 within 100 tokens, "b" the first 100 of them, the next 50 at 300."""
    cells = [
        solved(f"p{i}", run, t, int(i < 150))
        for i in range(200)
        for run, t in (("a", 90), ("b", 90 if i < 100 else 300))
    ]
    methods = report.by_method(written(tmp_path / "r.csv", *cells))["t"]
    lines = report.compare(methods["a"], methods["b"]).splitlines()
    assert lines[0].startswith("100 tokens: +25.0 [+1") and "200 problems" in lines[0]
    assert "400 tokens: +0.0 [+0.0, +0.0]" in lines[2]
    # a quarter of the problems, that much later
    lost = 25 * math.log(300 / 100) / math.log(2000 / 100)
    assert lines[-1].startswith(f"area over log tokens, 100 to 2,000: {lost:+.1f} [")
    assert (
        report.compare(methods["b"], methods["a"]).splitlines()[0].startswith("100 tokens: -25.0")
    )


def test_methods_with_nothing_in_common_are_reported_but_not_compared(tmp_path):
    cells = [
        (f"p{i}", run, f"tokens={most}", 0, i % 2, "", "a", most)
        for i in range(6)
        for run, most in (("a", 60), ("b", 120))
    ]
    found = written(tmp_path / "r.csv", *cells)
    assert "| a | 6 | 50.0" in report.report(found) and report.against_first(found) == ""
    both = written(
        tmp_path / "s.csv",
        *cells,
        *((f"p{i}", "c", "tokens=60", 0, 1, "", "a", 60) for i in range(6)),
    )
    assert "| c | +50.0" in report.against_first(both) and "| b |" not in report.against_first(both)


@pytest.mark.thorough
def test_seeds_are_averaged_within_a_problem_and_paired(tmp_path):
    cells = [
        solved(f"p{i}", run, 90, int(seed or run == "a"), seed)
        for i in range(50)
        for seed in (0, 1)
        for run in ("a", "b")
    ]
    cells += [solved(f"p{i}", "greedy", 18) for i in range(50)]
    methods = report.by_method(written(tmp_path / "r.csv", *cells))["t"]
    assert report.compare(methods["a"], methods["b"]).startswith(
        "100 tokens: +50.0 [+50.0, +50.0] points, 50 problems"
    )
    assert report.compare(methods["a"], methods["b"], two_level=True).startswith(
        "100 tokens: +50.0 [+0.0, +100.0] points, 50 problems"
    )
    assert report.compare(methods["greedy"], methods["b"], two_level=True).startswith(
        "100 tokens: +50.0 [+0.0, +100.0]"
    )
    with pytest.raises(ValueError, match="nothing|no problem and budget"):
        report.compare(methods["a"], [row | {"problem": "other"} for row in methods["b"]])


def test_the_command_reports_and_compares_files(tmp_path, monkeypatch, caplog, capsys):
    written(tmp_path / "a.csv", *(solved(f"p{i}", "mcts", 90) for i in range(10)))
    written(tmp_path / "b.csv", *(solved(f"p{i}", "sample", 300) for i in range(10)))
    caplog.set_level("INFO")
    flags = [
        "--report",
        str(tmp_path / "a.csv"),
        "--compare",
        "mcts",
        "sample",
        "--against",
        str(tmp_path / "b.csv"),
    ]
    monkeypatch.setattr("sys.argv", ["sweep", *flags])
    sweep.main()
    assert "100 tokens: +100.0" in caplog.text
    monkeypatch.setattr("sys.argv", ["sweep", *flags[:-2]])
    with pytest.raises(SystemExit):
        sweep.main()
    assert "there are mcts" in capsys.readouterr().err


def computed(path: Path, *cells):
    """As `written`, with FLOPs last in each of the cells."""
    found = written(path, *(one[:-1] for one in cells))
    return [row | {"flops": str(one[-1])} for row, one in zip(found, cells, strict=True)]


def levels_at(*tokens, flops=()):
    return report.Levels(tuple(plan.Limit("tokens", amount) for amount in tokens), flops)


def test_levels_and_equal_compute_are_read_off_what_a_search_had_spent(tmp_path):
    """ "a" solves two of four, for 1e8 and 5e8 FLOPs; "b" the same two, for 3e8 and 5e8."""
    spent = {"a": ((50, 1e8, 1), (70, 5e8, 1), (90, 2e8, 0), (90, 2e8, 0))}
    spent["b"] = ((90, 3e8, 1), *spent["a"][1:])
    cells = [
        (*solved(f"p{i}", run, tokens, right), flops)
        for run, searches in spent.items()
        for i, (tokens, flops, right) in enumerate(searches)
    ]
    found = computed(tmp_path / "r.csv", *cells)
    at = levels_at(60, 80, 5000, flops=(1e8, 4e8, 1e9))
    budgets, compute = report.report(found, at=at).split("\n\nt, per cent solved at equal compute")
    assert "| method | searches | 60 tokens | 80 tokens | 2,000 tokens |" in budgets
    assert "| a | 4 | 25.0 [" in budgets and "| b | 4 | 0.0 [" in budgets
    assert "| method | 1e8 FLOPs | 4e8 FLOPs | 1e9 FLOPs |" in compute
    rates = [[cell.split()[0] for cell in line.strip("| ").split(" | ")[1:]]
             for line in compute.splitlines()[-2:]]  # fmt: skip
    assert rates == [["25.0", "25.0", "50.0"], ["0.0", "25.0", "50.0"]]
    methods = report.by_method(found)["t"]
    lines = report.compare(methods["a"], methods["b"], at=at).splitlines()
    assert [line.split(":")[0] for line in lines[:6]] == [
        "60 tokens", "80 tokens", "2,000 tokens", "1e8 FLOPs", "4e8 FLOPs", "1e9 FLOPs",
    ]  # fmt: skip
    assert lines[0].startswith("60 tokens: +25.0 [") and "4 problems" in lines[0]
    assert lines[3].startswith("1e8 FLOPs: +25.0 [") and "+0.0 [+0.0, +0.0]" in lines[4]


def test_equal_compute_is_refused_where_nothing_is_verified(tmp_path, monkeypatch, capsys):
    cells = [(f"p{i}", "m", "tokens=500", 0, 1, "", "a", 500) for i in range(4)]
    found = written(tmp_path / "r.csv", *cells)
    assert "equal compute" not in report.report(found, at=report.Levels(flops=(1e9,)))
    for flags in (["--flops", "1e9"], ["--levels", "60,x"], ["--levels", "-1"]):
        monkeypatch.setattr("sys.argv", ["sweep", "--report", str(tmp_path / "r.csv"), *flags])
        with pytest.raises(SystemExit):
            sweep.main()
        assert re.search(r"leave it out|write numbers above 0", capsys.readouterr().err)


def test_a_table_of_a_page_is_replaced_by_that_of_a_file(tmp_path, monkeypatch):
    written(tmp_path / "r.csv", *(solved(f"p{i}", "mcts", 90, int(i < 3)) for i in range(4)))
    page = tmp_path / "page.md"
    around = (
        "# Page\n<!-- table: one -->\n{}<!-- end -->\ntext\n<!-- table: two -->\n<!-- end -->\n"
    )
    page.write_text(around.format("old\n"))

    def run(*flags):
        files = [str(tmp_path / "r.csv"), "--into", str(page)]
        monkeypatch.setattr("sys.argv", ["tables", *files, *flags])
        tables.main()

    with pytest.raises(SystemExit) as stop:
        run("--name", "one", "--levels", "60,100", "--check")
    assert stop.value.code == 1 and "old" in page.read_text()
    run("--name", "one", "--levels", "60,100")
    head = "|  | 60 | 100 | 2,000 | FLOPs |\n|---|---|---|---|---|"
    line = "| `mcts` | 0.0 | 75.0 | 75.0 | 0e0 |"
    assert page.read_text() == around.format(f"\n{head}\n{line}\n\n")
    run("--name", "one", "--levels", "60,100", "--check")
    with pytest.raises(SystemExit) as stop:
        run("--name", "three")
    assert stop.value.code == 2


def test_flops_are_written_shortly():
    numbers = (1e8, 4e8, 1.65e8, 1.654e8, 1e10, 0)
    assert list(map(report.scientific, numbers)) == [
        "1e8", "4e8", "1.65e8", "1.65e8", "1e10", "0e0",
    ]  # fmt: skip


def test_the_time_left_is_reckoned_by_budget():
    bar = sweep.Progress([("mcts", 500, 2), ("mcts", 2000, 2), ("greedy", 2000, 1)])
    assert bar.seconds_left(9.0) == 0.0
    # 80 % of its budget: 400 + 1,600 + 1,600 to come, and as much of the budget of an unseen kind
    bar.add("mcts", 500, 400)
    assert bar.seconds_left(10.0) == pytest.approx(10 * (400 + 3200 + 1600) / 400)
    bar.add("greedy", 2000, 20)
    assert bar.seconds_left(21.0) == pytest.approx(21 * (400 + 3200) / 420)
