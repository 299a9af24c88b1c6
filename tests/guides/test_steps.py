"""What one step is: blocks go on behind blank lines, what only announces is no step, and no
token is counted or drawn twice.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import tiny
from fakes import Characters
from hypothesis import given
from hypothesis import strategies as st

import search
from guides.data.trace_tokens import TraceReader
from guides.engines import Loaded
from guides.policies.lm import LM
from guides.policies.steps import blank_line, goes_on
from models import Engine, Scripted
from models.checkpoints.checkpoint import save_model
from models.detokenizer import Tail, Texts
from models.scripted import scripted
from search.guide import Guide
from search.repetition import repeats, stutters
from search.scheduling.budget import Budget, Meter
from search.scheduling.driver import run
from search.scheduling.requests import Generate, Generated, NothingLeft
from search.scheduling.scheduler import granted

OPEN = [
    "```python\nx = 1", "Look:\n```\na", "~~~\n```\n~~~\n```sh", "1. So\n   ```\n   y",
    "- ```js\na",
    "\\[ x +", "We get $$ a", "$$ a $$ and $$ b", "\\begin{align}\n1 &= 1 \\\\",
    "\\begin{cases} \\begin{array}{l} \\end{array}", "\\[ a \\\\[2pt] b", "We have the following:",
    "**Step 2:**", "### Sum of both", "Done.\n---", "***", "Here is *how*:  ",
]  # fmt: skip
CLOSED = [
    "So x = 1.", "```python\nx = 1\n```", "```\n\\[\n```", "~~~\n```\n~~~", "\\[ x = 1 \\]",
    "$$ a $$",
    "I have \\$\\$ 5 and $5.", "a `code` b", "\\begin{align}\n1 &= 1 \\\\\n\\end{align}",
    "1. Add 3 and 4.", "- an item", "The ratio 3:4", "a \\\\[2pt] b", "#hash", "3 --- 4", "2*3*4",
    "",
]  # fmt: skip


@pytest.mark.parametrize("text", OPEN)
def test_open_blocks_and_announcements_go_on(text):
    assert goes_on(text)


@pytest.mark.parametrize("text", CLOSED)
def test_what_is_whole_is_a_step(text):
    assert not goes_on(text)


@given(
    st.lists(
        st.sampled_from(
            ["```\n", "~~~", "$$", "\\[", "\\]", "\\begin{a}", "\\end{a}", ":", "\n", "x ", "# "]
        ),
        max_size=30,
    )
)
def test_any_text_is_read(parts):
    assert goes_on("".join(parts)) in (True, False)


def test_only_blank_lines_can_stand_in_a_block():
    assert blank_line("\n\n") and blank_line("\n\n\n")
    assert not blank_line("\n") and not blank_line("Step") and not blank_line("\n\nStep")


CODE = (
    "We write:\n\n```\na = 1\n\n\nb = 2\n```\nThen we run it.\n\n\\[\nx\n\n= 3\n\\]\n\nSo it is "
    "\\boxed{3}."
)


def guide_of(function, **options):
    """A model that writes `function(what it has written so far)` and ends."""

    def answer(request):
        prompt = "".join(map(chr, request.prompt))
        return scripted(request, function(prompt[prompt.index("?\n\n") + 3 :]))

    return Guide(
        LM(Loaded(Scripted(answer), Characters(), {}, "fake", False), **options),
        budget=Budget(tokens=3000),
    )


@pytest.mark.parametrize("method", ["sample", "beam", "mcts"])
def test_a_block_is_one_step(method):
    guide = guide_of(lambda written: CODE[len(written) :])
    solution = search.solve(
        "What?", guide, method, "simulations=8", **({"chains": 1} if method == "sample" else {})
    )
    assert [step.text for step in solution.steps] == [
        "We write:\n\n```\na = 1\n\n\nb = 2\n```\nThen we run it.",
        "\\[\nx\n\n= 3\n\\]",
        "So it is \\boxed{3}.",
    ]
    assert (
        "".join(map(chr, (t for step in solution.steps for t in step.tokens if t > 3))) == CODE
    ), "every token once"
    assert solution.answer == "3"


def test_a_delimiter_of_ones_own_ends_a_step_anywhere():
    guide = guide_of(lambda written: "a:\nb:\nc"[len(written) :], delimiter="\n")
    assert [step.text for step in search.solve("What?", guide, "sample", chains=1).steps] == [
        "a:",
        "b:",
        "c",
    ]


def test_a_block_ends_with_the_tokens_of_a_step_and_goes_on_in_the_next():
    text = "```\none\n\ntwo\n\nthree\n```\n\nDone."
    for size in range(1, 30):
        guide = guide_of(lambda written: text[len(written) :], step_tokens=size, max_steps=60)
        steps = search.solve("What?", guide, "sample", "tokens=9000", chains=1).steps
        assert max(len(step.tokens) for step in steps) <= size
        joined = "".join(step.text + ("\n\n" if step.finish == "stop" else "") for step in steps)
        assert joined == text, (size, [step.text for step in steps])
        assert all(step.finish != "stop" or not goes_on(step.text) for step in steps[-1:])


def test_calls_are_never_more_than_granted():
    """A step of several requests is cut where the calls of its grant end."""
    guide = guide_of(lambda written: "```\na\n\nb\n\nc\n```"[len(written) :])
    meter = Meter(Budget(calls=2, tokens=100))
    policy = guide.policy
    asks = granted(
        policy.propose(search.TextProblem("What?"), (), 1, np.random.default_rng(0)),
        meter.grant(1, 50, 2)[0],
    )
    (proposal,) = run(asks, guide.backends)
    assert proposal.step.text == "```\na\n\nb\n\n" and proposal.step.finish == "length"
    solution = search.solve("What?", guide, "mcts", "calls=7,tokens=400")
    assert solution.usage.calls <= 7


def test_without_replacement_within_a_block():
    """Steps of several requests, drawn without those that came before: all come once, and
    log-probs are of the whole.
    """
    lines = {
        "```\na\n\nb\n```\n\n": 0.4,
        "```\na\n\nc\n```\n\n": 0.3,
        "```\na\n\n\nd\n```\n\n": 0.2,
        "e\n\n": 0.1,
    }

    def answer(request: Generate):
        prompt = "".join(map(chr, request.prompt))
        written = prompt[prompt.index("?\n\n") + 3 :]
        taken = {"".join(map(chr, avoided.tokens)) for avoided in request.avoid}
        shares = {
            line: p
            for line, p in lines.items()
            if line.startswith(written) and line[len(written) :] not in taken
        }
        if not shares:
            raise NothingLeft("all were given")
        line = random.Random(f"{written}|{request.seed}").choices(
            list(shares), list(shares.values())
        )[0]
        rest = line[len(written) :]
        mass = sum(p for other, p in lines.items() if other.startswith(written))
        said = rest[: rest.index("\n\n") + 2]
        after = sum(p for other, p in lines.items() if other.startswith(written + said))
        each = math.log(after / mass) / len(said)
        return scripted(request, rest, log_prob=each)

    policy = LM(Loaded(Scripted(answer), Characters(), {}, "fake", False))
    problem, rng, found, avoid = search.TextProblem("What?"), np.random.default_rng(0), {}, []
    while proposals := run(policy.propose(problem, (), 1, rng, avoid), policy.backends):
        (proposal,) = proposals
        assert proposal.step.text not in found
        found[proposal.step.text] = proposal.log_prob
        avoid += proposal.drawn
    assert len(found) == 4
    for text, log_prob in found.items():
        assert log_prob == pytest.approx(math.log(lines[f"{text}\n\n"]), abs=1e-4)


@pytest.mark.thorough
def test_text_of_the_engine_is_that_of_all_tokens_together():
    """Characters that `step_tokens` cuts, from a model that writes random bytes: the text of a
    chain is what its tokens decode to.
    """
    tokenizer = tiny.tokenizer()
    policy = LM(
        Loaded(Engine(tiny.model(seed=5), tokenizer, slots=4), tokenizer, {}, "tiny", False),
        step_tokens=3,
        max_steps=20,
    )
    broken = 0
    for seed in range(12):
        steps = run(
            policy.complete(search.TextProblem("say ü"), (), np.random.default_rng(seed)),
            policy.backends,
        )
        while steps and steps[-1].finish != "length":
            steps.pop()
        cut = [step for step in steps if step.finish == "length"]
        if len(cut) < len(steps) or not steps:
            continue
        whole = tokenizer.decode(
            [t for step in steps for t in step.tokens], clean_up_tokenization_spaces=False
        )
        joined = "".join(step.text for step in steps)
        assert whole.startswith(joined) and len(whole) - len(joined) <= 3
        alone = "".join(
            tokenizer.decode(list(step.tokens), clean_up_tokenization_spaces=False)
            for step in steps
        )
        broken += alone != whole
    assert broken, "none was cut within a character: this tests nothing"


@pytest.mark.parametrize(
    "steps, loop",
    [
        (["Now we add the two numbers once more."] * 2, False),
        (["Now we add the two numbers once more."] * 3, True),
        (["g"] * 12, False),
        (["g"] * 64, True),
        (
            ["The first is too small, so we double it.", "The second is too large, so we halve it."]
            * 3,
            True,
        ),
        (
            ["The first is too small, so we double it.", "The second is too large, so we halve it."]
            * 2,
            False,
        ),
        (["The start.", *[f"Part {i} of the cycle" for i in range(8)] * 3], True),
        ([f"Part {i} of the cycle" for i in range(9)] * 3, False),
        (
            [
                f"Case {i}.\nThis works for it." if i % 2 else "This does not work at all."
                for i in range(20)
            ],
            False,
        ),
        ([], False),
    ],
)
def test_loops_of_steps(steps, loop):
    assert repeats(steps) is loop


@pytest.mark.parametrize(
    "text, stuck",
    [
        ("and so on " * 20, True), ("The total is " + "5 apples and " * 12, True), ("0" * 64, True),
        ("x" * 20, False),
        ("We add 3 and 4, then 5 and 6, then 7 and 8, then 9 and 10, then 11 and 12, then 13 "
            "and 14.", False),
        ("A long beginning that says much. " * 1 + "ab" * 5, False), ("", False),
        ("word " * 13 + "w", True),
    ],
)  # fmt: skip
def test_a_step_that_stutters(text, stuck):
    assert stutters(text) is stuck


@given(st.text("ab", max_size=80))
def test_stutters_by_its_definition(text):
    def periodic(part):
        return any(part[size:] == part[:-size] for size in range(1, len(part) // 3 + 1))

    assert stutters(text * 3) == any(
        periodic((text * 3)[-length:])
        for length in range(max(64, (3 * len(text) + 1) // 2), 3 * len(text) + 1)
    )


@pytest.mark.parametrize("method", ["sample", "beam", "mcts"])
def test_a_chain_that_goes_round_ends(method):
    """A greedy model in a circle: the tokens of the budget are not spent on it."""
    lap = "We try the first number again and see.\n\nIt is not the one, so we try another.\n\n"
    guide = guide_of(lambda written: (lap * 40)[len(written) :], temperature=0)
    solution = search.solve(
        "What?", guide, method, "tokens=9000", **({"chains": 1} if method == "sample" else {})
    )
    assert solution.answer is None and solution.stopped != "tokens"
    assert solution.usage.generated < (4 * len(lap) if method == "sample" else 9000)
    depths = {solution.tree.depth(node) for node in range(len(solution.tree.nodes))}
    assert max(depths) == 5 and solution.tree.unusable >= 1


@pytest.mark.thorough
def test_a_trace_of_blocks_and_cut_characters_is_read_as_it_was_written(tmp_path):
    """`TraceReader` follows the tokens of every step: joined and cut ones are what the policy made
    of them, others are refused.
    """
    tokenizer = tiny.tokenizer((("Ċ", "Ċ"), ("ĊĊ", "Ġ"), ("ĊĊ", "Ċ")))
    save_model(tmp_path / "made", tiny.model(vocab=len(tokenizer)), tokenizer, None, {"format": 1})
    texts = Texts(tokenizer)
    ids = tokenizer.encode(
        "So:\n\n```\né\n\n  ñ = 1\n\n\n🙂\n```\n\nThen we add é and ñ.\n\nIt is \\boxed{1}"
    )

    def answer(request):
        start = len(tokenizer.encode("2?\n\n"))
        tail, finish, tokens = Tail(texts, request.stop, request.prompt), None, []
        for token in [*ids, tokenizer.eos_token_id][len(request.prompt) - start :][
            : request.max_tokens
        ]:
            tokens.append(token)
            finish = tail.add(token)
            if finish:
                break
        zeros = np.zeros(len(tokens), np.float32)
        return Generated(tuple(tokens), tail.text, zeros, zeros, 0.5, finish or "length")

    reader, joined = TraceReader(tmp_path / "made", {}), set()
    for size in (5, 6, 7, 64):
        policy = LM(
            Loaded(Scripted(answer), tokenizer, {}, "fake", False), step_tokens=size, max_steps=30
        )
        solution = search.solve("2?", Guide(policy, budget=Budget(tokens=400)), "sample", chains=1)
        reader.check(solution.trace)
        assert [t for step in solution.steps for t in step.tokens][: len(ids)] == ids
        assert "\ufffd" not in solution.text
        joined |= {step.text for step in solution.steps}
        for at, step in enumerate(solution.trace.steps):
            wrong = (
                replace(step, text=step.text + "x"),
                replace(step, finish="length" if step.finish != "length" else "stop"),
            )
            for other in wrong:
                steps = (*solution.trace.steps[:at], other, *solution.trace.steps[at + 1 :])
                with pytest.raises(ValueError, match="to this model, with the delimiter"):
                    TraceReader(tmp_path / "made", {}).check(replace(solution.trace, steps=steps))
    assert "So:\n\n```\né\n\n  ñ = 1\n\n\n🙂\n```" in joined
