"""What a solution says of itself: as text, as JSON, in a notebook."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from fakes import generated, scripted_guide

import search
from search import choose
from search.choose import Finish
from search.files.problems_file import Results
from search.problems.countdown import Countdown
from search.scheduling.requests import Usage
from search.solution import STOPPED

PUZZLE = Countdown((4, 7, 8, 8), 24)
SCHEMA = json.loads(files("search").joinpath("solution.schema.json").read_text())
SCRIPT = "<script>alert('x')</script>"


def answers(request):
    """A model that answers 1 to 3 by its seed, mostly 2."""
    rng = np.random.default_rng(request.seed)
    return generated(f"{SCRIPT}\n#### {rng.choice([1, 2, 3], p=[0.2, 0.6, 0.2])}")


def voted(chains=8, method="self_consistency", **options):
    guide = scripted_guide(answers, value=False, delimiter="\n\n")
    problem = search.TextProblem(f"How many {SCRIPT}?")
    return search.solve(problem, guide, method, "tokens=20000", chains=chains, **options)


def read(solution):
    """Its JSON, written and read again; nan and infinity fail."""
    whole = json.loads(
        json.dumps(solution.to_json(), allow_nan=False),
        parse_constant=lambda name: pytest.fail(name),
    )
    jsonschema.validate(whole, SCHEMA)
    return whole


def test_a_vote_of_chains_is_told_everywhere(tmp_path):
    solution = voted()
    count = round(8 * solution.candidates[0][1])
    assert solution.verified is None and solution.votes == (count, 8) and 1 < count < 8
    assert f"answer: {solution.answer} (not verified; {count} of 8 chains)" in str(solution)
    assert f"(not verified; {count} of 8 chains)" in solution._repr_html_()
    whole = read(solution)
    assert whole == solution.to_json() and (whole["votes"], whole["chains"]) == (count, 8)
    results = Results(tmp_path / "out.jsonl")
    results.write("a", solution)
    results.close()
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line.pop("id") == "a" and line.pop("crc32")
    assert line == {name: whole[name] for name in line}


def test_a_chain_without_an_answer_is_not_shown_as_a_solution():
    guide = scripted_guide(lambda request: generated("Let me think."), value=False)
    solution = search.solve("How many?", guide, "mcts", "tokens=100", rollout=0)
    assert solution.text and solution.answer is None
    assert "no answer: the chain above is the most promising one and has none" in str(solution)
    assert "no answer" in str(replace(solution, text="")).splitlines()


def test_a_verified_chain_without_an_answer_is_none_the_less_verified():
    problem = search.TextProblem("Say yes.", verify=lambda text: 1.0)
    guide = scripted_guide(lambda request: generated("Yes.", "end"), value=False)
    solution = search.solve(problem, guide, "sample", "tokens=100")
    assert solution.verified is True and solution.answer is None
    assert "verified, with no answer to name" in str(solution).splitlines()


def test_no_vote_is_told_where_none_was_held():
    assert voted(chains=1).votes is None
    assert "(not verified)" in str(voted(chains=1))
    assert voted(method="best_of_n").votes is None
    solution = search.solve(PUZZLE, scripted_guide(), budget="tokens=20000")
    assert solution.verified and solution.votes is None and "(verified)" in str(solution)


def test_chains_of_a_vote_are_counted_as_they_were_sampled():
    def finish(answer, visits, log_prob=math.nan):
        return Finish(0, answer, None, 0.5, visits, log_prob)

    sampled = [finish("1", 3), finish("2", 1), finish("1", 2)]
    assert choose.votes(sampled, sampled[0], choose.majority) == (5, 6)
    assert choose.votes(sampled, sampled[1], None) == (1, 6)
    assert choose.votes(sampled, sampled[0], choose.most_visited) is None
    # a tree has each chain once, however often it was visited
    tree = [finish("1", 9, -1.0), finish("2", 4, -2.0)]
    assert choose.votes(tree, tree[0], choose.weighted) == (1, 2)
    assert choose.votes(tree[:1], tree[0], None) is None


@pytest.mark.thorough
def test_json_of_a_verified_solution_has_its_steps_and_how_it_was_found():
    solution = search.solve(PUZZLE, scripted_guide(), "mcts", "tokens=20000", seed=3, leaves=2)
    whole = read(solution)
    assert whole["problem"] == PUZZLE.prompt(()) and whole["verified"] is True
    assert whole["steps"] == whole["text"].splitlines() and len(whole["steps"]) == 3
    assert whole["budget"] == {"simulations": None, "calls": None, "tokens": 20000, "seconds": None}
    assert whole["method"].endswith(":mcts") and whole["options"]["leaves"] == 2
    assert whole["seed"] == 3 and whole["error"] is None and whole["value"] == 1.0
    assert whole["usage"]["generated"] == solution.usage.generated


def test_json_of_an_error_and_of_what_was_not_solved():
    failed = search.Solution(PUZZLE, error=search.RequestFailed("the server is away"))
    whole = read(failed)
    assert whole["error"] == "RequestFailed: the server is away" and whole["value"] is None
    assert whole["answer"] is None and whole["steps"] == [] and whole["votes"] is None
    assert "error: the server is away" in failed._repr_html_()
    empty = search.solve(PUZZLE, scripted_guide(), budget="tokens=1")
    assert read(empty)["answer"] is None and "<b>no answer</b>" in empty._repr_html_()


def test_a_notebook_shows_text_of_a_model_as_text():
    solution = voted()
    shown = solution._repr_html_()
    assert "<script" not in shown and "&lt;script&gt;" in shown
    assert shown.count("<tr>") == 1 + len(solution.candidates) and "share of votes" in shown
    assert "cost: " in shown
    evil = search.Solution(search.TextProblem("x"), answer=SCRIPT, error=ValueError(SCRIPT))
    assert "<script" not in evil._repr_html_() and "&#x27;x&#x27;" in evil._repr_html_()


def test_the_schema_describes_all_that_there_is():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]["stopped"]["enum"]) == set(STOPPED)
    usage = SCHEMA["properties"]["usage"]["properties"]
    assert set(usage) == {field.name for field in fields(Usage)} | {"mean_rows", "slot_use"}
    failed = read(search.Solution(PUZZLE, error=OSError("gone")))
    assert failed["error"] == "OSError: gone" and "method" not in failed
    found = read(search.solve(PUZZLE, budget="tokens=300"))
    assert found["verified"] is True and set(found) == set(SCHEMA["properties"])
    for wrong in ({**found, "value": 2}, {**found, "more": 1}, {"answer": "1"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)
