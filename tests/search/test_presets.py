"""Methods by the names of the literature; names that are wrong, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import generated, scripted_guide

import search
from search import choose
from search.arguments import CHOOSERS, configured
from search.guide import Guide, Uniform
from search.methods.presets import FORMER, PRESETS, preset
from search.problems import parse
from search.problems.chains import Chains
from search.problems.countdown import Countdown

QUESTION = search.TextProblem("How many?")
PUZZLE = Countdown((4, 7, 8, 8), 24)


WORTH = {"1": 0.1, "2": 0.2, "3": 0.9}


def opinions(request):
    """A model that answers 1 to 3 by its seed, likes 3 best, and is sure of 2 at temperature 0."""
    if isinstance(request, search.Score):
        worth = WORTH["".join(map(chr, request.tokens)).strip()[-1]]
        zeros = np.zeros(len(request.tokens), np.float32)
        return search.Scored(
            zeros, np.zeros((1, 0), np.float32), np.full(len(request.positions), worth, np.float32)
        )
    if request.temperature == 0:
        return generated("#### 2")
    return generated(
        f"#### {np.random.default_rng(request.seed).choice([1, 2, 3], p=[0.2, 0.6, 0.2])}"
    )


def guide():
    return scripted_guide(opinions)


@pytest.mark.thorough
def test_a_name_is_its_search_with_its_choice():
    vote = search.solve(QUESTION, guide(), "self_consistency", chains=40)
    liked = search.solve(QUESTION, guide(), "best_of_n", chains=40)
    assert (vote.answer, liked.answer) == ("2", "3")
    for name, chooser in {
        "self_consistency": "majority",
        "best_of_n": "best",
        "weighted_vote": "weighted",
    }.items():
        named = search.solve(QUESTION, guide(), name, "tokens=400", seed=3)
        spelt = search.solve(
            QUESTION, guide(), "sample", "tokens=400", seed=3, choose=getattr(choose, chooser)
        )
        assert (named.answer, named.usage.generated, named.candidates) == (
            spelt.answer,
            spelt.usage.generated,
            spelt.candidates,
        )
        assert named.trace.method == "search.methods.sample:sample", (
            "a trace names the search, which imports"
        )


def test_greedy_is_one_chain_at_temperature_zero_and_leaves_the_guide_alone():
    model = guide()
    first = search.solve(QUESTION, model, "greedy", seed=1)
    assert first.answer == "2" and first.usage.simulations == 1
    assert search.solve(QUESTION, model, "cot", seed=2).text == first.text, "no seed changes it"
    assert (
        not model.policy.greedy
        and len(
            {search.solve(QUESTION, model, "sample", seed=s, chains=1).answer for s in range(9)}
        )
        > 1
    )


def test_a_policy_without_settings_cannot_be_greedy():
    listing = Guide(Uniform())
    with pytest.raises(
        ValueError, match=r"temperature=0, which Uniform does not take: give it a method sampled"
    ):
        search.solve(PUZZLE, listing, "greedy", "simulations=4")


@pytest.mark.thorough
def test_rejection_samples_one_chain_after_another():
    """Beside chains that run side by side it spends no token on chains that began before the
    solution was known.
    """
    few = [
        search.solve(PUZZLE, scripted_guide(), "rejection", "tokens=20000", seed=seed)
        for seed in range(6)
    ]
    many = [
        search.solve(PUZZLE, scripted_guide(), "sample", "tokens=20000", seed=seed)
        for seed in range(6)
    ]
    assert all(solution.verified for solution in few + many)
    assert sum(s.usage.generated for s in few) < sum(s.usage.generated for s in many)


def test_beams_by_name():
    dvts = configured("dvts", {}).options
    assert (dvts["width"], dvts["subtrees"], dvts["branch"]) == (4, 4, 4)
    assert configured("dvts", {"width": 8, "subtrees": 8}).options["width"] == 8, (
        "what the caller says goes first"
    )
    assert configured("rebase", {}).options["balance"] == 0.2
    named = search.solve(PUZZLE, scripted_guide(), "dvts", "tokens=500")
    spelt = search.solve(PUZZLE, scripted_guide(), "beam", "tokens=500", width=4, subtrees=4)
    assert named.tree.states == spelt.tree.states


@pytest.mark.parametrize("name", PRESETS)
def test_every_name_searches(name):
    solution = search.solve(PUZZLE, scripted_guide(), name, "tokens=300")
    assert solution.usage.simulations > 0 and solution.error is None
    assert PRESETS[name].source


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_choosers_by_name(chooser):
    named = search.solve(QUESTION, guide(), "sample", "tokens=300", choose=chooser)
    assert (
        named.answer
        == search.solve(
            QUESTION, guide(), "sample", "tokens=300", choose=getattr(choose, chooser)
        ).answer
    )


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"method": "best-of-n"}, "did you mean 'best_of_n'"),
        ({"method": "Self Consistency"}, "did you mean 'self_consistency'"),
        ({"method": "majority"}, "it is called 'self_consistency'"),
        ({"method": "astar"}, "use one of greedy, cot,"),
        ({"method": 7}, "method=7 is no method"),
        ({"method": "nowhere:walk"}, "cannot load the method 'nowhere:walk'"),
        (
            {"method": "best_of_n", "choose": "majority"},
            'best_of_n chooses by best already: leave choose out, or use method="sample"',
        ),
        (
            {"choose": "vote"},
            "choose='vote' is no chooser: give one of majority, weighted, best, most_visited",
        ),
        (
            {"temperature": 0.5},
            r"temperature is of the model: guides.load\(path, temperature=...\)",
        ),
        ({"timeout": 5}, 'limits are written in the budget: budget="seconds=10"'),
        ({"tokens": 500}, 'budget="tokens=2000"'),
        ({"model": "x"}, "the model is guide=guides.load"),
        ({"method": "beam", "beam_width": 3}, "the number of states kept is width="),
        ({"n": 8, "method": "sample"}, "the number of chains is chains="),
        ({"leafs": 3}, "did you mean leaves"),
        ({"budget": "2000"}, "cannot read budget part '2000': write tokens=2000"),
        ({"budget": 2000}, 'write it like budget="tokens=2000"'),
        ({"budget": "tokens=1e3"}, "'1e3' is not a whole number in digits: write tokens=1000"),
        ({"budget": "timeout=5"}, "did you mean seconds. write for example seconds=10"),
        ({"budget": "token=5"}, "did you mean tokens. write for example tokens=10"),
        ({"budget": "seconds=soon"}, "is not a number: write seconds=10"),
        ({"guide": "models/qwen"}, r"load it with guides.load\('models/qwen'\)"),
    ],
)
def test_wrong_names_are_told_where_they_belong(arguments, told):
    with pytest.raises(ValueError, match=told):
        search.solve(QUESTION, **{"guide": guide(), **arguments})


def test_former_names_lead_to_new_ones():
    for former, name in FORMER.items():
        assert name in PRESETS
        with pytest.raises(ValueError, match=f"it is called '{name}'"):
            preset(former)


@pytest.mark.parametrize(
    "text",
    [
        "Use 4, 7, 8 and 8 to make 24.",
        "use 4, 7, 8 and 8 to make 24",
        "USE 4 7 8 8 TO MAKE 24",
        "Use the numbers 4, 7, 8 & 8 to get 24!",
        "Make 24 from 4, 7, 8 and 8.",
        "reach 24 with the numbers 4 7 8 8",
        "Use 4,  7, 8\nand 8 to make 24.",
    ],
)
def test_a_puzzle_may_be_said_in_other_words(text):
    assert parse(text) == PUZZLE


@pytest.mark.parametrize("text", ["Use your head to make 24 cents.", "use 4 apples to make 2 pies"])
def test_what_is_nearly_a_puzzle_is_told_how_to_be_one(text):
    with pytest.raises(ValueError, match="write it like: Use 4, 7, 8 and 8 to make 24."):
        parse(text)


def test_other_text_stays_open_text():
    for text in (
        "Make 24 cookies from 3 cups of flour.",
        "He used 4 and 5 to make 9 of them.",
        "Get 10 of 12 apples.",
    ):
        assert type(parse(text)) is search.TextProblem
    assert isinstance(parse("Mod 11: i=c-a A3 B7 c=a*b; i?"), Chains)
