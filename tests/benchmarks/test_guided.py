"""Searches against best-of-N at equal tokens: planted rungs, what the verifier read against a
count of our own, cold caches.
"""

from __future__ import annotations

import itertools
import logging
import random
import statistics

import numpy as np
import pytest
import tiny
from fakes import Characters, scripted_guide
from judge_cases import chat_tokenizer
from sweep_cases import QUESTIONS, SELF, ask, guesser, load

import guides
import search
from benchmarks.sweep import plan, rows, run
from benchmarks.verifiers import guided
from guides.engines import Loaded, unload
from guides.values.prm import PRM
from models import Scripted
from models.checkpoints.checkpoint import save_model
from search.guide import Guide
from search.scheduling.requests import Score
from search.solver import seed_of


def rung(tokens, right):
    """A rung whose problems are solved as `right` says, in order."""
    found = [
        dict.fromkeys(rows.COLUMNS, "0")
        | {"method": "m", "budget": "tokens=9", "generated": str(tokens)}
        for _ in right
    ]
    return guided.Rung(tokens, {f"p{i:03}": {"0": float(r)} for i, r in enumerate(right)}, found)


def mean(table):
    return statistics.fmean(statistics.fmean(by.values()) for by in table.values())


# -- between rungs


def test_between_two_rungs_is_what_a_tossed_coin_spends_and_solves():
    """A gambler who takes the larger search with the chance that makes him spend T on the mean,
    against `at`.
    """
    rng = random.Random(0)
    low, high = rung(100, [1, 0, 0, 1]), rung(300, [1, 1, 0, 0])
    for tokens in (100, 130, 220, 299):
        chance = (tokens - 100) / 200
        table = guided.at([low, high], tokens)
        tosses = [high if rng.random() < chance else low for _ in range(20_000)]
        assert statistics.fmean(toss.tokens for toss in tosses) == pytest.approx(tokens, abs=4)
        for problem, by in table.items():
            assert statistics.fmean(toss.right[problem]["0"] for toss in tosses) == pytest.approx(
                by["0"], abs=0.02
            )


def test_below_the_first_rung_nothing_is_known_and_beyond_the_last_it_stays():
    ladder = [rung(100, [0, 0]), rung(100, [0, 1]), rung(200, [1, 1])]
    assert guided.at(ladder, 99.9) is None
    assert mean(guided.at(ladder, 200)) == mean(guided.at(ladder, 10_000)) == 1.0
    assert mean(guided.at(ladder, 100)) == 0.5, "of two that cost the same the later one"


@pytest.mark.thorough
def test_planted_advantages_and_their_change():
    """A search that is 40 points better at few tokens and as good at many."""
    base = np.arange(200) % 10
    ladders = {
        "best_of_n chains={n}": [rung(1000, base < 5), rung(4000, base < 8)],
        "strong {n}": [rung(900, base < 9), rung(1100, base < 9), rung(4000, base < 8)],
        "late {n}": [rung(2000, base < 5), rung(3900, base < 8)],
    }
    told = guided.tables(ladders, ["best"], [4, 16])
    lines = {
        line.split(" | ")[0]: line.split(" | ")[1:] for line in told.splitlines() if " - " in line
    }
    strong, late = lines["| strong {n} - best"], lines["| late {n} - best"]
    assert [cell.split(" ")[0] for cell in strong] == ["+40.0", "+0.0", "+40.0"]
    low, high = (float(end.strip("[],| ")) for end in strong[2].split(" ")[1:3])
    assert 30 < low < 40 < high < 50, "the change has the paired interval of 40 % of 200 problems"
    assert late[0] == "-" and late[1].startswith("+0.0") and late[2].startswith("-"), (
        "what is not known is said so"
    )
    assert "N=4: 1,000 tokens | N=16: 4,000 tokens" in told


# -- measured


def two_models(seen=None):
    """`load` of a policy and a verifier in another backend; `seen` takes what the verifier is
    asked.
    """

    def watch(request):
        if seen is not None:
            seen.append(request)
        return guesser(request)

    verifier = PRM(
        Loaded(
            Scripted(watch),
            Characters(),
            {"delimiter": "\n", "prompt": "{problem}\n"},
            "other",
            True,
        )
    )

    def load(**policy):
        own = scripted_guide(guesser, **policy)
        return Guide(own.policy, verifier, own.budget)

    return load


SEARCHES = ("beam width={root} branch={root}", "mcts")


@pytest.mark.thorough
def test_what_the_verifier_read_is_counted(tmp_path):
    """Tokens of best-of-N are what its chains took, plus the prompts of each step, plus every
    chain that the verifier read.
    """
    seen = []
    found = guided.measure(QUESTIONS, SEARCHES, [2, 4], 1, tmp_path / "g.csv", two_models(seen))
    assert seen and all(isinstance(request, Score) for request in seen)
    own = guided.measure(QUESTIONS, SEARCHES, [2, 4], 1, tmp_path / "own.csv", ask)
    for at, chains in enumerate((2, 4)):
        read = []
        for name, problem in QUESTIONS.problems.items():
            asked = len(seen)
            search.solve(
                problem,
                two_models(seen)(),
                "sample",
                guided.ENOUGH.budget,
                seed_of(name, 0),
                chains=chains,
            )
            read.append(sum(len(request.tokens) for request in seen[asked:]))
        best, vote = (
            found["best_of_n chains={n}"][at],
            found["self_consistency chains={n} value=0.5"][at],
        )
        assert best.tokens - vote.tokens == pytest.approx(statistics.fmean(read)), (
            "the vote asks no verifier, and is the same chains"
        )
        assert vote.tokens == own["self_consistency chains={n} value=0.5"][at].tokens
        assert {row["answer"] for row in best.found} <= {str(i) for i in range(4)}
    beam = found["beam width={root} branch={root}"]
    assert [own.found[0]["method"] for own in beam] == [
        "beam width=1 branch=1",
        "beam width=2 branch=2",
    ], "equal sizes are one rung"
    generated = [
        statistics.fmean(float(row["generated"]) for row in one.found)
        for one in found["best_of_n chains={n}"]
    ]
    by = {one.found[0]["budget"]: one.tokens for one in found["mcts"]}
    aims = {
        round(amount): aim
        for amount, aim in zip(
            generated, (one.tokens for one in found["best_of_n chains={n}"]), strict=True
        )
    }
    assert f"tokens={round(generated[0] / 2)}" in by
    for amount, aim in aims.items():
        total = by[f"tokens={amount}"]
        assert f"tokens={round(amount / max(1, total / aim))}" in by, (
            "what reads more has fewer tokens to generate"
        )


@pytest.mark.thorough
def test_a_second_start_searches_nothing_and_tells_the_same(tmp_path, monkeypatch):
    out, sizes = tmp_path / "g.csv", [2, 4]
    first = guided.tables(
        guided.measure(QUESTIONS, SEARCHES, sizes, 2, out, ask), list(guided.CHOSEN), sizes
    )
    monkeypatch.setattr(search, "solve_many", None)
    assert (
        guided.tables(
            guided.measure(QUESTIONS, SEARCHES, sizes, 2, out, ask), list(guided.CHOSEN), sizes
        )
        == first
    )
    assert first.count("| mcts | tokens=") >= 3 and "| mcts - majority |" in first


@pytest.mark.thorough
def test_problems_that_verify_themselves_are_compared_with_their_samples(tmp_path):
    found = guided.measure(SELF, ["mcts leaves=1"], [1, 4], 1, tmp_path / "g.csv", load)
    assert (
        list(found) == ["sample chains={n}", "mcts leaves=1"]
        and guided.bases(SELF) == guided.VERIFIED
    )
    assert len(found["mcts leaves=1"]) >= 2 and "mcts leaves=1 - sample" in guided.tables(
        found, list(guided.VERIFIED), [1, 4]
    )


def test_ctrl_c_leaves_no_tables(tmp_path, monkeypatch):
    for whole in range(3):
        ended = itertools.chain([True] * whole, itertools.repeat(False))
        monkeypatch.setattr(
            run, "sweep", lambda *a, real=run.sweep, ended=ended, **k: next(ended) and real(*a, **k)
        )
        assert guided.measure(QUESTIONS, SEARCHES, [1, 2], 1, tmp_path / "g.csv", ask) is None
        monkeypatch.undo()


@pytest.mark.thorough
def test_a_search_costs_the_same_whatever_ran_before_it(tmp_path):
    """Chains of the same seed are in the cache already: without emptying it the second search
    would read and compute nothing.
    """
    settings = {
        "format": 1,
        "prompt": "{problem}\n",
        "delimiter": "\n",
        "step_tokens": 6,
        "max_steps": 3,
        "value_head": True,
    }
    save_model(
        tmp_path / "m",
        tiny.model(max_position_embeddings=512),
        tiny.tokenizer(),
        tiny.head(),
        settings,
    )
    cost = {}
    for name, methods in {
        "alone": ["best_of_n chains=3"],
        "after": ["best_of_n chains=2", "self_consistency chains=3", "best_of_n chains=3"],
    }.items():
        unload(tmp_path / "m")
        runs = plan.read_runs(methods, QUESTIONS)
        run.sweep(
            QUESTIONS,
            runs,
            [guided.ENOUGH],
            1,
            tmp_path / f"{name}.csv",
            lambda **own: guides.load(tmp_path / "m", **own),
            progress=False,
        )
        found = [
            row
            for row in rows.read(tmp_path / f"{name}.csv")
            if row["method"] == "best_of_n chains=3"
        ]
        cost[name] = sorted(
            (row["problem"], row["generated"], row["prefilled"], row["reused"], row["flops"])
            for row in found
        )
    assert cost["alone"] == cost["after"] and all(int(row[2]) > 0 for row in cost["alone"])


# -- the command


@pytest.fixture
def command(monkeypatch):
    """`main` with flags, on the tests' scripted model; what was asked for."""
    asked = []
    monkeypatch.setattr(guided, "task_named", lambda name: QUESTIONS)
    monkeypatch.setattr(guided, "loader", lambda *given: asked.append(given) or ask)

    def call(*flags):
        monkeypatch.setattr("sys.argv", ["guided", *map(str, flags)])
        guided.main()
        return asked

    return call


def test_the_command_prints_tables_of_the_problems_asked_for(command, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    asked = command(
        "--problems",
        3,
        "--sizes",
        "1,2",
        "--search",
        "mcts",
        "--out",
        tmp_path / "g.csv",
        "--value",
        "dir",
        "--slots",
        8,
    )
    assert (
        asked == [("builtin", "dir", None, 0, 8)]
        and "chains, 3 problems" not in caplog.text
        and "asked, 3 problems" in caplog.text
    )
    assert "| points more | N=1: " in caplog.text


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--sizes", "4,2"], "ascending"),
        (["--sizes", "0,2"], "from 1 on"),
        (["--sizes", "two"], "two"),
        (["--search", "beam width={size}"], "root"),
        (["--search", "bream"], "no method"),
        (["--search", "mcts", "--search", "mcts"], "only once"),
        (["--value", "a", "--judge", "b"], "not allowed"),
    ],
)
def test_bad_input_is_refused_before_any_search(command, tmp_path, capsys, flags, word):
    with pytest.raises(SystemExit) as ended:
        command("--out", tmp_path / "g.csv", *flags)
    assert (
        ended.value.code == 2
        and word in capsys.readouterr().err
        and not (tmp_path / "g.csv").exists()
    )


@pytest.mark.thorough
def test_a_verifier_has_an_engine_of_its_own_even_of_the_same_checkpoint(tmp_path):
    settings = {
        "format": 1,
        "prompt": "{problem}\n",
        "delimiter": "\n",
        "step_tokens": 6,
        "max_steps": 3,
        "value_head": True,
    }
    save_model(
        tmp_path / "m",
        tiny.model(max_position_embeddings=512),
        tiny.tokenizer(),
        tiny.head(),
        settings,
    )
    alone = guided.loader(str(tmp_path / "m"), None, None, 0, 4)()
    both = guided.loader(str(tmp_path / "m"), str(tmp_path / "m"), None, 0, 4)(temperature=0.5)
    assert len(alone.backends) == 1 and len(both.backends) == 2
    problem = next(iter(QUESTIONS.problems.values()))
    sampled = [search.solve(problem, guide, "beam", "tokens=60", seed=2) for guide in (alone, both)]
    assert sampled[1].usage.prefilled > sampled[0].usage.prefilled


def test_a_generative_judge_can_be_the_verifier(tmp_path):
    tokenizer = chat_tokenizer()
    save_model(
        tmp_path / "m",
        tiny.model(vocab=len(tokenizer), max_position_embeddings=1024),
        tokenizer,
        None,
        {"format": 1},
    )
    guide = guided.loader(str(tmp_path / "m"), None, str(tmp_path / "m"), 2, 4)()
    assert (
        guide.value.version.startswith("judge2-")
        and guide.value.tokens > 0
        and len(guide.backends) == 2
    )
    with pytest.raises(ValueError, match="--critiques are those of a --judge"):
        guided.loader("builtin", None, None, 2, 4)
