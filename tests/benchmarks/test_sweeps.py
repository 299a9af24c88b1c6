"""Sweeps: which searches are made, which are left, and what a start again does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import generated, scripted_guide
from sweep_cases import QUESTIONS, SELF, ask, load, swept

import guides
import search
from benchmarks.sweep import plan, report, rows
from search.guide import Guide
from search.methods.presets import PRESETS
from search.problem import TextProblem
from search.scheduling.requests import RequestFailed
from search.solver import seed_of


def without_seconds(found):
    return sorted(
        (row | {"seconds": "", "rows": ""} for row in found),
        key=lambda row: [row[name] for name in rows.KEY],
    )


@pytest.mark.thorough
def test_a_cut_off_sweep_goes_on_without_repeating(tmp_path, monkeypatch):
    out, searched = tmp_path / "r.csv", []
    solve_many = search.solve_many
    monkeypatch.setattr(
        search,
        "solve_many",
        lambda problems, *a, **k: searched.extend(problems) or solve_many(problems, *a, **k),
    )
    methods = ["sample wave=4", "mcts branch=3 temperature=1.5"]
    assert swept(out, SELF, methods, "tokens=60,120", guide=load)
    whole, lines = rows.read(out), out.read_bytes().splitlines(keepends=True)
    assert len(whole) == 6 * 2 * 2 and {row["budget"] for row in whole} == {"tokens=120"}, (
        "one budget tells of the smaller ones"
    )
    searched.clear()
    out.write_bytes(b"".join(lines[:9]) + lines[9][:20])
    assert swept(out, SELF, methods, "tokens=60,120", guide=load)
    assert len(searched) == 24 - 8 and out.read_bytes().startswith(b"".join(lines[:9]))
    assert without_seconds(rows.read(out)) == without_seconds(whole)
    searched.clear()
    assert swept(out, SELF, methods, "tokens=60,120", guide=load) and not searched


@pytest.mark.thorough
def test_every_problem_has_random_numbers_of_its_own_and_methods_share_them(tmp_path, monkeypatch):
    seeds = []
    solve_many = search.solve_many

    def noted(problems, guide, method, budget, seed, **options):
        seeds.append(seed)
        return solve_many(problems, guide, method, budget, seed, **options)

    monkeypatch.setattr(search, "solve_many", noted)
    swept(tmp_path / "r.csv")
    assert len(seeds) == 8 and all(len(set(own)) == 8 for own in seeds)
    assert len(set(map(tuple, seeds))) == 2, (
        "methods and budgets of one seed are compared on the same random numbers"
    )


@pytest.mark.parametrize("left", range(0, 100, 9))
def test_half_a_header_is_begun_again(tmp_path, left):
    out = tmp_path / "r.csv"
    out.write_bytes(rows._line(rows.COLUMNS)[:left])
    rows.Results(out).close()
    assert rows.read(out) == []


@pytest.mark.thorough
def test_one_search_serves_all_choosers(tmp_path, monkeypatch):
    calls = []
    solve_many = search.solve_many
    monkeypatch.setattr(
        search,
        "solve_many",
        lambda problems, *a, **k: calls.append(len(problems)) or solve_many(problems, *a, **k),
    )
    methods = [
        "self_consistency",
        "best_of_n",
        "weighted_vote",
        "sample",
        "self_consistency temperature=2",
    ]
    swept(tmp_path / "r.csv", methods=methods, budgets="tokens=200", seeds=1)
    assert calls == [8, 8]
    found = {(row["method"], row["problem"]): row for row in rows.read(tmp_path / "r.csv")}
    for name, problem in QUESTIONS.problems.items():
        solution = search.solve(
            problem, ask(), "sample", search.Budget(tokens=200), seed_of(name, 0)
        )
        finishes = search.choose.finishes(solution.tree, problem)
        for method in ("self_consistency", "best_of_n", "weighted_vote"):
            chosen = getattr(search.choose, PRESETS[method].choose)(finishes)
            row = found[method, name]
            assert row["answer"] == chosen.answer and row["correct"] == str(
                int(chosen.answer == QUESTIONS.targets[name])
            )
            assert float(row["value"]) == pytest.approx(chosen.score, abs=1e-5) and row[
                "generated"
            ] == str(solution.usage.generated)
    assert len({row["answer"] for row in found.values()}) > 1


def test_answers_that_are_equal_vote_together(tmp_path):
    """As in `search.solve`: 4 and 4.0 are one answer, which has more votes than 5 though each
    writing has fewer.
    """

    def writes(request):
        text = np.random.default_rng(request.seed).choice(["4", "4.0", "5"], p=[0.3, 0.3, 0.4])
        return generated(f"#### {text}", limit=request.max_tokens)

    def unjudged(**policy):
        return replace(scripted_guide(writes, value=False, **policy), classes=guides.classes)

    task = plan.Task("equal", {"q": TextProblem("How many?")}, {"q": "4"})
    swept(tmp_path / "r.csv", task, ["self_consistency chains=100"], "tokens=5000", 1, unjudged)
    (row,) = rows.read(tmp_path / "r.csv")
    assert row["correct"] == "1"


@pytest.mark.thorough
def test_a_method_that_came_later_joins_without_repeating_rows(tmp_path):
    out = tmp_path / "r.csv"
    swept(out, methods=["self_consistency"], budgets="tokens=200")
    before = out.read_bytes()
    swept(out, methods=["self_consistency", "best_of_n"], budgets="tokens=200")
    assert out.read_bytes().startswith(before) and len(rows.read(out)) == 2 * 16


@pytest.mark.thorough
def test_greedy_has_one_seed_and_one_chain(tmp_path):
    swept(tmp_path / "r.csv", methods=["greedy", "self_consistency"], budgets="tokens=200", seeds=3)
    greedy = [row for row in rows.read(tmp_path / "r.csv") if row["method"] == "greedy"]
    assert len(greedy) == 8 and all(row["simulations"] == "1" for row in greedy)


def test_steps_right_is_what_the_task_says_of_the_chosen_chain(tmp_path):
    def judge(problem, steps):
        return steps[0].text == "line 3" if problem.statement != "Question 0" else None

    task = plan.Task("asked", QUESTIONS.problems, QUESTIONS.targets, judge)
    swept(tmp_path / "r.csv", task, ["best_of_n", "sample"], "tokens=100", 1)
    for row in rows.read(tmp_path / "r.csv"):
        if row["method"] == "sample":
            name = row["problem"]
            solution = search.solve(
                QUESTIONS.problems[name],
                ask(),
                "sample",
                search.Budget(tokens=100),
                seed_of(name, 0),
            )
            expected = "" if name == "q0" else str(int(solution.steps[0].text == "line 3"))
            assert row["steps_right"] == expected


def test_a_failed_search_counts_as_wrong_and_an_error_of_ours_ends_the_sweep(tmp_path):
    def failing(request):
        raise RequestFailed("no room")

    def broken(request):
        raise ZeroDivisionError

    swept(
        tmp_path / "a.csv",
        methods=["self_consistency", "mcts"],
        budgets="tokens=60",
        seeds=1,
        guide=lambda **p: scripted_guide(failing, **p),
    )
    found = rows.read(tmp_path / "a.csv")
    assert len(found) == 16 and all(
        (row["correct"], row["answer"], row["stopped"]) == ("0", "", "error") for row in found
    )
    assert "errors" in report.report(found)
    with pytest.raises(ZeroDivisionError):
        swept(tmp_path / "b.csv", guide=lambda **p: scripted_guide(broken, **p))


def test_texts_with_line_ends_stay_in_their_line(tmp_path):
    problem = TextProblem(
        "Question 1\ntwice", answer=lambda text: 'a,\n"b"\x00\ud800 c' if text else None
    )
    task = plan.Task("t", {plan.clean(problem.statement): problem}, {"Question 1 twice": "x"})
    swept(tmp_path / "r.csv", task, ["self_consistency"], "tokens=60", 1)
    assert [row["answer"] for row in rows.read(tmp_path / "r.csv")] == ['a, "b" \\ud800 c']
    assert (tmp_path / "r.csv").read_bytes().count(b"\n") == 2


def test_a_second_run_and_another_guide_are_kept_out(tmp_path):
    out = tmp_path / "r.csv"
    swept(out, budgets="tokens=60", seeds=1)
    held = rows.Results(out)
    with pytest.raises(ValueError, match="another run"):
        swept(out)
    held.close()
    with pytest.raises(ValueError, match="guide fake and this is uniform"):
        swept(out, guide=lambda **policy: Guide(search.Uniform()))
    (tmp_path / "other.csv").write_text("task,run\n")
    with pytest.raises(ValueError, match="no results file"):
        swept(tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_text() == "task,run\n"


REFUSED = (
    *(
        "",
        "nonsense",
        "no_such:method",
        "mcts leaves",
        "mcts leaves=0",
        "mcts leaves=1 leaves=2",
        "mcts colour=3",
        "beam temperature=-1",
    ),
    *(
        "mcts value=2",
        "mcts value=true",
        "mcts prior=0.5",
        "self_consistency value=shuffled",
        "mcts branch=1 value=shuffled",
        "sample prior=uniform",
    ),
)


@pytest.mark.parametrize("text", REFUSED)
def test_methods_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match=r"give|write|use|would|knows"):
        plan.read_runs([text], QUESTIONS)


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(ValueError, match="verify themselves: use sample"):
        plan.read_runs(["self_consistency"], SELF)
    with pytest.raises(ValueError, match="only once"):
        plan.read_runs(["mcts", "mcts"], SELF)
    for text in ("tokens", "tokens=1=2", "tokens=1,x", "words=3", "tokens=0", ""):
        with pytest.raises(ValueError, match=r"write|give"):
            plan.read_budgets(text)
    assert [str(limit) for limit in plan.read_budgets("tokens=2000, 500")] == [
        "tokens=500",
        "tokens=2000",
    ]
    with pytest.raises(ValueError, match="nobody can tell"):
        swept(tmp_path / "r.csv", plan.Task("asked", QUESTIONS.problems, {"q0": "0"}))


def test_methods_are_names_with_options():
    assert plan.read_method("beam  width=4 widen=0.5") == ("beam", {"width": 4, "widen": 0.5})
    assert plan.read_method("a:b x=true y=z") == ("a:b", {"x": True, "y": "z"})
    with pytest.raises(ValueError, match="write options once each"):
        plan.read_method("beam width")
