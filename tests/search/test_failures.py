"""Failures are told in solutions, traces, result lines and benches; what failed is searched
again.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import worker_jobs
from fakes import generated, scripted_guide
from hypothesis import given
from hypothesis import strategies as st
from sweep_cases import guesser

import guides
import search
from benchmarks.sweep import report, rows
from search import Trace, view
from search.cli.main import main
from search.problems import parse
from search.scheduling.budget import Budget, Meter
from search.scheduling.failures import Failures
from search.scheduling.requests import (
    BudgetSpent,
    Call,
    Cancelled,
    Generate,
    NothingLeft,
    Reply,
    RequestFailed,
    Score,
    TooLong,
    Untold,
    failure,
)

METHODS = ("mcts", "gumbel", "beam", "sample")


def dies(after, answer=guesser, error="the server is away"):
    """A model that answers so many requests and then none."""
    seen = []

    def function(request):
        seen.append(request)
        if len(seen) > after:
            raise RequestFailed(error)
        return answer(request)

    return function


def flaky(every, answer=guesser):
    """A model that fails each request the first time, if it is one of so many."""
    seen = []

    def function(request):
        seen.append(request)
        if len(seen) % every == 0:
            raise RequestFailed("busy")
        return answer(request)

    return function


# -- the ledger


def test_what_counts_as_a_failure():
    failed = RequestFailed("away")
    cause = Cancelled("at the deadline")
    cause.__cause__ = failed
    assert failure(failed) is failed and failure(cause) is failed
    for error in (
        None,
        Cancelled("x"),
        BudgetSpent("x"),
        NothingLeft("x"),
        Untold("x"),
        ValueError("x"),
    ):
        assert failure(error) is None


def ask(ledger, prompt, error=None):
    request = Generate((prompt,))
    ledger.admit(request)
    return lambda: ledger.settle(Reply(request, error=error))


def test_a_later_request_of_the_same_text_makes_good_and_one_sent_before_does_not():
    ledger = Failures()
    bad, good = ask(ledger, 1, RequestFailed("away")), ask(ledger, 1)
    bad()
    good()  # was under way already: it asked for a second sample, and got it
    assert "1 request failed" in str(ledger.verdict(answered=True))
    other = ask(ledger, 2)
    other()
    assert ledger.verdict(answered=True) is not None
    again = ask(ledger, 1)
    again()
    assert ledger.verdict(answered=False) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_the_ledger_is_a_count_of_texts_asked_in_vain(events):
    """One after another: a text is lost while it failed more often than it was answered
    afterwards.
    """
    ledger, lost = Failures(), dict.fromkeys(range(4), 0)
    for prompt, fails in events:
        ask(ledger, prompt, RequestFailed("away") if fails else None)()
        lost[prompt] = lost[prompt] + 1 if fails else max(0, lost[prompt] - 1)
    verdict, count = ledger.verdict(answered=True), sum(lost.values())
    assert (verdict is None) == (count == 0)
    assert verdict is None or str(verdict).startswith(f"{count} request")


def test_a_function_fails_where_most_of_its_calls_never_came_back():
    ledger = Failures()
    crash = RequestFailed("is_right got no answer: its process ended with SIGSEGV")
    for error in (crash, crash):
        ledger.settle(Reply(Call(math.isnan), error=error))
    assert str(ledger.verdict(answered=True)).startswith(
        "all 2 calls of isnan failed, the last: is_right got no answer"
    )
    ledger.settle(Reply(Call(math.isnan), error=ValueError("an answer of the function")))
    assert str(ledger.verdict(answered=True)).startswith("2 of 3 calls of isnan failed")
    ledger.settle(Reply(Call(math.isnan), 0.0))
    assert ledger.verdict(answered=True) is None
    assert ledger.crashes() == [("isnan", 2, 4, crash)]


def test_a_text_beyond_the_context_is_a_failure_where_nothing_else_came():
    ledger = Failures()
    error = TooLong("402 tokens, but the context takes 256")
    ask(ledger, 1, error)()
    ledger.settle(Reply(Score((1,), (0,)), error=error))
    assert ledger.verdict(answered=True) is None and ledger.verdict(answered=False) is error


def test_grants_count_into_the_meter_of_their_search():
    from search.scheduling.driver import run
    from search.scheduling.scheduler import ask as asked
    from search.scheduling.scheduler import granted, metered

    guide = scripted_guide(dies(0))
    backend = next(iter(guide.backends))
    meter = Meter(Budget(tokens=100))

    async def child():
        try:
            await asked(Generate((1,), to=backend))
        except RequestFailed as error:
            return error

    async def method():
        (grant,) = meter.grant(1, 10, 1)
        return await granted(child(), grant)

    assert isinstance(run(metered(method(), meter), guide.backends), RequestFailed)
    assert meter.failures.verdict(answered=True) is not None


# -- searches


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after", [1, 5, 12])
def test_a_search_whose_model_dies_never_ends_as_if_all_were_well(method, after):
    guide = scripted_guide(dies(after))
    (solution,) = search.solve_many(["Question 1"], guide, method, "tokens=2000")
    assert solution.stopped == "error" and "the server is away" in str(solution.error)
    assert "the server is away" in str(solution) and "the server is away" in repr(solution)
    if solution.answer is not None:
        assert f"answer: {solution.answer}" in str(solution) and "answer=" in repr(solution)


@pytest.mark.parametrize("after", [9, 12])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_found_before_is_kept(method, after, tmp_path):
    solution = search.solve("Question 1", scripted_guide(dies(after)), method, "tokens=2000")
    assert solution.stopped == "error" and len(solution.tree.nodes) > 1
    Trace.save([solution.trace], tmp_path / "t.parquet")
    (trace,) = Trace.load(tmp_path)
    assert trace == solution.trace and trace.error == str(solution.error)
    assert view.origin(trace).endswith(f"failed: {trace.error}")


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["mcts", "sample"])
def test_what_a_repetition_makes_good_is_no_failure(method):
    """One request in a row fails, of a search that asks at the same places again and again."""
    guide = scripted_guide(
        flaky(40, lambda request: generated(f"on {request.seed % 10_000}")),
        value=False,
        max_steps=1,
    )
    options = {"mcts": {"leaves": 1}, "sample": {"wave": 1}}[method]
    solution = search.solve("Question 1", guide, method, "tokens=3000", **options)
    assert solution.stopped != "error" and solution.error is None and solution.usage.calls > 80


def test_a_verified_solution_stays_verified():
    def function(request):
        if request.seed % 2:
            raise RequestFailed("away")
        return generated("x = 4")

    problem = search.TextProblem(
        "Find x with x * x = 16.", verify=lambda text: "x = 4" in text, answer=r"x = (\d+)"
    )
    solution = search.solve(problem, scripted_guide(function, value=False), "sample", "tokens=500")
    assert solution.stopped == "verified" and solution.error is None and solution.trace.error == ""


@pytest.mark.parametrize("method", METHODS)
def test_a_chain_that_failed_is_sampled_again_and_a_dead_model_is_told_of_by_one_chain(method):
    with pytest.raises(RequestFailed, match="away"):
        search.solve(
            "Question 1",
            scripted_guide(dies(0)),
            method,
            "tokens=500",
            **({"chains": 1} if method == "sample" else {}),
        )
    if method == "sample":
        solution = search.solve(
            "Question 1", scripted_guide(flaky(3)), method, "tokens=5000", chains=5
        )
        assert solution.usage.simulations == 5


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_beyond_the_context_is_an_error_in_every_method(method):
    def function(request):
        raise TooLong("402 tokens, but the context takes 256: shorten the text")

    (solution,) = search.solve_many(["Question 1"], scripted_guide(function), method, "tokens=500")
    assert (
        solution.stopped == "error"
        and "402 tokens" in str(solution.error)
        and solution.answer is None
    )


def test_chains_that_reach_the_end_of_the_context_are_no_failure_beside_an_answer():
    def function(request):
        if isinstance(request, Generate) and len(request.prompt) > 12 and request.seed % share:
            raise TooLong("13 tokens, but the context takes 12")
        return guesser(request)

    share = 1000
    solution = search.solve("Question 1", scripted_guide(function), "sample", "tokens=500")
    assert (
        solution.answer is None
        and solution.stopped == "error"
        and "the context takes 12" in str(solution.error)
    )
    share = 2
    solution = search.solve("Question 1", scripted_guide(function), "sample", "tokens=500")
    assert solution.answer is not None and solution.error is None


@pytest.mark.thorough
def test_a_verifier_that_always_crashes_is_what_failed(caplog):
    problem = search.TextProblem("Question 1", verify=worker_jobs.crash, inline=False)
    solution = search.solve(problem, scripted_guide(guesser), "sample", "tokens=60")
    assert solution.stopped == "error" and solution.answer is None
    assert "calls of TextProblem.verify failed" in str(solution.error) and "exit code 7" in str(
        solution.error
    )
    assert "not understood" not in caplog.text
    caplog.clear()
    problem = search.TextProblem("Question 1", verify=worker_jobs.crash_when_even, inline=False)
    solution = search.solve(problem, scripted_guide(guesser), "sample", "tokens=100")
    assert (
        solution.error is None
        and "of TextProblem.verify failed, each of which cost its step" in caplog.text
    )


@pytest.mark.thorough
def test_a_step_whose_verifier_crashed_is_not_called_one_that_is_not_understood(caplog):
    """It was understood, and no prompt would mend it."""
    guide = scripted_guide(
        lambda request: generated(
            f"The answer is {9 if request.seed % 4 == 0 else 7}", finish="end"
        ),
        value=False,
    )
    problem = search.TextProblem("Question 1", verify=worker_jobs.crash_or_refute, inline=False)
    solution = search.solve(problem, guide, "sample", "tokens=100", seed=1)
    assert solution.stopped == "error" and solution.verified is False
    assert solution.tree.unusable * 2 > solution.tree.proposed, "most crashed"
    # others may come: kernels are compiled, where no test before this one did it
    remarks = "copse.search.remarks"
    (remark,) = (record.message for record in caplog.records if record.name == remarks)
    assert "5 of 6 calls of TextProblem.verify failed" in remark


def test_an_error_of_a_users_function_is_named_by_its_type():
    """The words of a KeyError are a key alone."""
    solution = replace(
        search.solve("Question 1", scripted_guide(guesser), "sample", "tokens=50"),
        error=KeyError("my bug"),
    )
    assert "error: KeyError: 'my bug'" in str(solution).splitlines()
    assert (
        "error: the server is away"
        in str(replace(solution, error=RequestFailed("the server is away"))).splitlines()
    )


# -- the warning on steps that nobody understands


def test_steps_that_were_cut_off_are_told_of_where_they_explain_something(caplog):
    def function(request):
        if request.seed % 8:
            return generated("and so on and on" * 9, limit=request.max_tokens)
        return generated("The answer is 7", finish="end")

    guide = scripted_guide(function, value=False)
    solution = search.solve("Question 1", guide, "sample", "tokens=3000")
    assert (
        solution.answer == "7"
        and solution.tree.unusable * 2 > solution.tree.proposed
        and caplog.text == ""
    )
    guide = scripted_guide(
        lambda request: generated("and so on" * 9, limit=request.max_tokens), value=False
    )
    assert search.solve("Question 1", guide, "sample", "tokens=500").answer is None
    assert (
        "--step-tokens" in caplog.text
        and "--delimiter" in caplog.text
        and "no answer was found" in caplog.text
    )
    caplog.clear()
    guide = scripted_guide(lambda request: generated("Let me think"))
    search.solve("Use 4, 7, 8 and 8 to make 24.", guide, "sample", "tokens=500")
    assert "does not know this kind of problem" in caplog.text and "'Let me think'" in caplog.text


def test_where_a_chain_was_refuted_its_steps_were_understood(caplog):
    """Once all good steps of a small puzzle are drawn, what is drawn next is none."""
    texts = ["The answer is 9", "Hm.", "Hm.", "Hm."]
    for refuted in (True, False):
        caplog.clear()
        ended = "end" if refuted else "length"
        guide = scripted_guide(
            lambda request: generated(
                texts[request.seed % 4], "length" if request.seed % 4 else ended
            ),
            value=False,
        )
        problem = search.TextProblem("Question 1", verify=lambda text: 0.0)
        solution = search.solve(problem, guide, "sample", "tokens=300")
        assert not solution.answered and solution.tree.unusable * 2 > solution.tree.proposed
        assert ("not understood" in caplog.text) is not refuted


# -- files of problems


@pytest.fixture
def served(monkeypatch):
    """Every checkpoint is a scripted model; `functions` are what the next ones answer by."""
    functions = []
    monkeypatch.setattr(guides, "settings", lambda path: {}, raising=False)

    def load(path, *, answer=None, device=None, dtype=None, slots=None, **policy):
        return scripted_guide(functions.pop(0) if len(functions) > 1 else functions[0], **policy)

    monkeypatch.setattr(guides, "load", load, raising=False)
    return functions


def problems(folder, count=6):
    path = folder / "p.jsonl"
    lines = [{"id": f"q{i}", "problem": f"Question {i}", "target": i % 3} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def copse(capsys, *args):
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.thorough
def test_failed_lines_are_searched_again(tmp_path, capsys, served):
    path, output = problems(tmp_path), tmp_path / "o"
    command = [
        "solve",
        "--input",
        path,
        "--output",
        output,
        "--guide",
        "any",
        "--method",
        "sample",
        "--budget",
        "tokens=200",
    ]
    served[:] = [dies(90)]
    code, _, err = copse(capsys, *command, "--traces", tmp_path / "t")
    first = [json.loads(line) for line in output.read_text().splitlines()]
    failed = {row["id"] for row in first if row["stopped"] == "error"}
    assert (
        code == 1
        and failed
        and all("the server is away" in row["error"] for row in first if row["id"] in failed)
    )
    assert (
        f"{len(failed)} failed, the last with RequestFailed: " in err
        and "to search them again" in err
    )
    served[:] = [guesser]
    code, _, err = copse(capsys, *command, "--traces", tmp_path / "t")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 0 and lines[: len(first)] == first, "nothing that is written is touched"
    assert {row["id"] for row in lines[len(first) :]} == failed and all(
        row["error"] is None for row in lines[len(first) :]
    )
    assert (
        "6 of 6 problems answered" in err
        and f"{6 - len(failed)} had been searched before" in err
        or len(failed) == 6
    )
    assert "failed" not in err
    whole = output.read_bytes()
    assert copse(capsys, *command)[0] == 0 and output.read_bytes() == whole
    assert len(Trace.load(tmp_path / "t")) == 6, "a search that was done again replaces its trace"


@pytest.mark.thorough
def test_a_bench_shows_failures_apart_and_does_them_again(tmp_path, capsys, served):
    command = ["bench", "--input", problems(tmp_path, 8), "--out", tmp_path / "o", "--guide", "any"]
    command += ["--methods", "self_consistency,mcts leaves=2", "--budgets", "tokens=60"]
    served[:] = [guesser, dies(30), guesser]
    code, out, err = copse(capsys, *command)
    found = rows.read(tmp_path / "o" / "results.csv")
    failed = [row for row in found if row["stopped"] == "error"]
    assert code == 1 and 0 < len(failed) < len(found) == 16
    assert f"{len(failed)} of 16 rows are of searches that failed" in err and "| errors |" in out
    for method in ("self_consistency", "mcts leaves=2"):
        sound = [row for row in found if row["method"] == method and row not in failed]
        scores = report.means(
            report.table(
                [row for row in found if row["method"] == method],
                report.within(report.limit_of(found[0])),
            )
        )
        assert sorted(scores) == sorted(float(row["correct"]) for row in sound), (
            "they are neither right nor wrong"
        )
    served[:] = [guesser]
    code, out, err = copse(capsys, *command)
    again = rows.read(tmp_path / "o" / "results.csv")
    assert code == 0 and len(again) == 16 and "errors" not in out and "failed" not in err
    assert [row for row in again if row in found] == [row for row in found if row not in failed]


def test_all_failed(tmp_path, capsys, served):
    served[:] = [dies(0)]
    command = [
        "bench",
        "--input",
        problems(tmp_path),
        "--out",
        tmp_path / "o",
        "--guide",
        "any",
        "--budgets",
        "tokens=60",
    ]
    code, out, err = copse(capsys, *command)
    assert (
        code == 1
        and "| errors |" in out
        and "Traceback" not in err
        and not (tmp_path / "o" / "figure.png").exists()
    )


def test_what_a_value_is_worth_is_told_once_and_where_it_matters(caplog):
    from search.guide import Guide, Known

    puzzle = parse("Use 4, 7, 8 and 8 to make 24.")
    note = "nobody trained a value, so that nothing judges its steps"
    noted, plain = (Guide(scripted_guide().policy, Known(note=text)) for text in (note, ""))
    for method in ("sample", "greedy", "self_consistency", "weighted_vote", "rejection"):
        search.solve(puzzle, noted, method, "tokens=60")
    search.solve(puzzle, plain, "beam", "tokens=60")
    assert note not in caplog.messages, "a vote of chains goes by no value"
    for method in ("best_of_n", "mcts", "beam", "best_of_n"):
        search.solve(puzzle, noted, method, "tokens=60")
    assert caplog.messages.count(note) == 1


def test_a_server_that_dies_in_mid_run_and_comes_back(tmp_path, capsys):
    """As a user would: a file of problems, the server goes, the same command again when it is
    back. Nothing is lost or done twice.
    """
    import tiny
    from fake_server import MODEL, FakeServer, echoes

    folder = tmp_path / "tokenizer"
    tiny.tokenizer().save_pretrained(folder)
    path, output = problems(tmp_path), tmp_path / "o"
    flags = [
        "--guide",
        MODEL,
        "--tokenizer",
        folder,
        "--delimiter",
        r"\n",
        "--prompt",
        r"{problem}\n",
        "--step-tokens",
        16,
    ]
    flags += [
        "--max-steps",
        2,
        "--slots",
        2,
        "--method",
        "sample",
        "--option",
        "chains=2",
        "--option",
        "wave=2",
        "--budget",
        "tokens=200",
    ]
    asked, lives = [], 5

    def fault(number, body):
        asked.extend([number] * (body["max_tokens"] == 16))  # not what is asked at connection
        return ("status", 400, "the model was unloaded") if len(asked) > lives else None

    def say(prompt, seed):
        asked_of = prompt.split("\n")[0].split()
        return (
            f"The answer is {asked_of[-1]}"
            if asked_of[:1] == ["Question"]
            else echoes(prompt, seed)
        )

    with FakeServer(say, fault=fault) as server:
        command = ["solve", "--input", path, "--server", server.url, *flags, "--output", output]
        code, _, err = copse(capsys, *command)
        first = [json.loads(line) for line in output.read_text().splitlines()]
        failed = {row["id"] for row in first if row["error"]}
        assert (
            code == 1
            and 0 < len(failed) < len(first) == 6
            and "the model was unloaded" in err
            and "to search them again" in err
        )
        lives = math.inf
        code, _, err = copse(capsys, *command)
        lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 0 and lines[:6] == first and {row["id"] for row in lines[6:]} == failed
    assert {row["id"]: row["answer"] for row in lines[6:]} == {name: name[1:] for name in failed}
    assert f"6 of 6 problems answered, 3 right, {6 - len(failed)} had been searched before" in err
