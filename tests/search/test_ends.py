"""Where a chain of thought ends, and what of it is an answer: boxes, weak marks, thoughts, cut
steps, rewards and values that are none.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import tiny
import torch
from fakes import Characters, scripted_guide

import guides
import search
from guides.engines import Loaded
from guides.policies.lm import LM
from models import Engine, Scripted
from models.checkpoints.checkpoint import save_model
from models.engine.sequences import check_request
from models.scripted import END, scripted
from search.guide import Guide
from search.problem import TextProblem, TextStep
from search.scheduling.budget import Budget
from search.scheduling.requests import Generate, Generated
from search.trace import Trace

METHODS = {"sample": {"chains": 1}, "beam": {"width": 1, "branch": 1}, "mcts": {"leaves": 1}}
WEAK = [
    "#### Step 1: the apples", "The answer is not obvious.", "Answer: let us see.",
    "If the answer is even, we stop.",
    "To find the answer: add the apples first.", "The answer is 3 more than that, we will see.",
    "A: 9",
    "#### 1. Add the apples", "#### **2.** Count again", "#### 3: Eat them", "#### (4) Rest",
    "#### 5 - Write",
    "So the answer is 7?", "The answer is 7, is it?", "#### 7?", "Answer: 7?",
]  # fmt: skip


class Chat(Characters):
    """A chat whose template opens the reply with `opening`."""

    chat_template = "there is one"

    def __init__(self, opening: str = ""):
        self.opening = opening

    def apply_chat_template(self, messages, **options):
        return f"<u>{messages[-1]['content']}<a>{self.opening}"


def chat_guide(written, opening="", limit=None, **options):
    """A chat model that writes this text and ends; `limit`: the most tokens of a step."""

    def answer(request):
        prompt = "".join(map(chr, request.prompt))
        return scripted(request, written[len(prompt.rpartition("<a>" + opening)[2]) :])

    policy = LM(
        Loaded(Scripted(answer), Chat(opening), {}, "chat", False), step_tokens=limit, **options
    )
    return Guide(policy, budget=Budget(tokens=4000))


def solved(written, method="sample", problem="How many?", **options):
    return search.solve(
        problem, chat_guide(written, **options), method, "tokens=3000", **METHODS[method]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", WEAK)
def test_weak_marks_end_no_chain_where_a_box_was_asked_for(first, method):
    solution = solved(f"{first}\n\nThere are 4 and 7.\n\nSo \\boxed{{11}}.\n\nAnd 5 more.", method)
    assert solution.answer == "11" and solution.steps[-1].text == "So \\boxed{11}.", (
        "the first box ends it"
    )


@pytest.mark.parametrize(
    "written, answer, steps",
    [
        ("We add.\n\nThe answer is 11.", "11", 2),
        ("To find the answer: add.\n\nWe get 11.\n\n#### 11", "11", 3),
        ("The answer is 4.\n\nNo.\n\nFinal answer: 11", "11", 3),
        ("We add.\n\nWe get 11.", None, 2),
        ("\\boxed{}\n\nThe box is for later.\n\n\\boxed{11}", "11", 3),
        ("It goes into \\boxed{\n\n11\n\n}.\n\nMore.", "11", 3),
    ],
)
def test_weak_marks_are_read_once_a_text_has_ended(written, answer, steps):
    solution = solved(written)
    assert (solution.answer, len(solution.steps)) == (answer, steps)


def test_weak_marks_are_read_at_the_last_step_that_is_allowed():
    rows = "\n\n".join(f"Row {i} is done." for i in range(9))
    solution = solved(f"The answer is 30.\n\n{rows}", max_steps=4)
    assert solution.answer == "30" and [step.finish for step in solution.steps] == [
        "stop",
        "stop",
        "stop",
        "last",
    ]
    assert solved(rows, max_steps=4).answer is None, "without one it is no finished chain"
    assert TextProblem("?").is_terminal((TextStep("The answer is 1", finish="length"),)) is False


def test_a_guide_ends_chains_as_it_asked():
    written = "The answer is 4.\n\n#### 12\n\n\\boxed{5}"
    assert solved(written, instruction="End with a line #### and the number.").answer == "12"
    assert solved(written, instruction="Finish with 'The answer is X'.").answer == "4"
    assert solved(written, instruction="Think.").answer == "5"
    guide = chat_guide("<r>4</r>\n\n\\boxed{5}")
    # text and a problem that does not say itself where its answer is
    for problem in ("How many?", TextProblem("How many?")):
        marked = Guide(guide.policy, budget=guide.budget, answer=r"<r>(.*?)</r>")
        assert search.solve(problem, marked, "sample", chains=1).answer == "4"
    own = TextProblem("How many?", answer=r"boxed\{(\d)")
    assert (
        search.solve(own, marked, "sample", chains=1).answer == "5"
        and own.asked("(a)", None) is own
    )


@pytest.mark.parametrize("method", ["sample", "beam", "mcts"])
def test_a_text_that_ends_and_one_that_goes_on_are_two_steps(method):
    """They say the same up to there: whichever came first, each keeps its own answer."""
    written = ["The answer is 7.", "The answer is 7.\n\nNo, wait.\n\nThe answer is 8."]

    def answer(request):
        prompt = "".join(map(chr, request.prompt)).rpartition("<a>")[2]
        text = written[random.Random(request.seed).randrange(2)] if not prompt else written[1]
        return scripted(request, text[len(prompt) :])

    policy = LM(Loaded(Scripted(answer), Chat(), {}, "chat", False))
    options = {"sample": {"chains": 16}, "beam": {"width": 4, "branch": 4}, "mcts": {"leaves": 4}}
    guide = Guide(policy, budget=Budget(tokens=3000))
    problem = TextProblem("How many?")
    solution = search.solve(problem, guide, method, seed=3, **options[method])
    tree = solution.tree
    answers = {problem.answer(tree.states[node]) for node in tree.finished}
    assert {tree.steps[edge].finish for edge in tree.block(0)} == {"end", "stop"}
    assert answers == {"7", "8"} or method == "beam", "whose width may be full of ended chains"
    assert not any(len(tree.block(node)) for node in tree.finished)
    for node in tree.finished:
        ended = problem.answer(tree.states[node]) == "7"
        assert len(tree.chain(node)) == (1 if ended else 3)
    if method == "sample":
        assert sum(tree.visits(node) for node in tree.finished) == 16


def test_samples_keep_the_tokens_that_were_drawn():
    """One text in two spellings, of which each has its own log-probs."""
    one = TextStep("23", (23,), log_probs=(-1.0,))
    two = TextStep("23", (2, 3), log_probs=(-1.0, -2.0))

    def answer(request):
        tokens = (50, 51, END) if request.seed % 2 else (5051, END)
        logs = np.full(len(tokens), -0.5, np.float32)
        return Generated(tokens, "23", logs, logs.copy(), float("nan"), "end")

    assert TextProblem("?").key((), one) == TextProblem("?").key((), two)
    policy = LM(Loaded(Scripted(answer), Chat(), {}, "chat", False))
    guide = Guide(policy, budget=Budget(tokens=3000))
    tree = search.solve("How many?", guide, "sample", seed=1, chains=12).tree
    assert {len(tree.chain(node)[-1].tokens) for node in tree.finished} == {2, 3}


THOUGHTS = ["<think>\n", "[THINK]", "<reasoning>\n", "<thought>", "<|channel|>analysis<|message|>"]
CLOSED = [
    "</think>",
    "[/THINK]",
    "</reasoning>",
    "</thought>",
    "<|end|><|channel|>final<|message|>",
]


@pytest.mark.parametrize("opening, closing", list(zip(THOUGHTS, CLOSED, strict=True)))
@pytest.mark.parametrize("method", METHODS)
def test_thoughts_that_the_prompt_opened_are_no_answer(opening, closing, method):
    written = (
        f"Maybe \\boxed{{7}}, let me check.\n\nThe answer is 8.\n\nNo.{closing}\n\nSo it is "
        f"\\boxed{{12}}.\n\nMore."
    )
    solution = solved(written, method, opening=opening)
    assert solution.answer == "12" and [step.thought for step in solution.steps] == [
        True,
        True,
        False,
        False,
    ]
    (trace,) = [solution.trace]
    assert solution.problem.answer(trace.states(solution.problem)[-1]) == "12"


def test_thoughts_that_the_model_opens_itself_and_never_closes():
    assert solved("<think>\n\n\\boxed{1}\n\n</think>\\boxed{2}").answer == "2"
    assert solved("\\boxed{1} <think> or\n\n\\boxed{2}").answer is None, "it thinks again"
    assert solved("\\boxed{1}", opening="<think>").answer is None
    cut = solved("I guess \\boxed{3}</think>\n\nIt is \\boxed{4}", opening="<think>", limit=20)
    assert cut.answer == "4", "a tag that is cut in two is one"
    pattern = TextProblem("?", answer=r"= (\d+)")
    assert solved("x = 3\n\n</think>x = 5", problem=pattern, opening="<think>").answer == "5"


def test_traces_keep_what_is_a_thought(tmp_path):
    solution = solved("So \\boxed{3}\n\nHm.", opening="<think>")
    Trace.save([solution.trace], tmp_path / "a.parquet")
    (read,) = Trace.load(tmp_path)
    assert read == solution.trace and read.steps[0].thought


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
def test_a_box_at_the_last_token_counts(method):
    """Of a step that is cut by its tokens, and by those of the budget."""
    written = "So there are \\boxed{11} apples in the basket of the farmer"
    for size in range(len("So there are \\boxed{11}"), 40):
        solution = solved(written, method, limit=size)
        assert (
            solution.answer == "11"
            and solution.steps[-1].finish == "length"
            and not solution.tree.unusable
        )
    if method != "beam":  # which begins nothing that it could not carry on
        solution = search.solve(
            "How many?", chat_guide(written), method, "tokens=25", **METHODS[method]
        )
        assert solution.answer == "11" and 23 <= solution.usage.generated <= 25
    guide = chat_guide("```\n\\boxed{2}\n\nand so on\n```")
    assert (
        search.solve("2?", guide, method, "tokens=99", **METHODS[method]).steps[0].text
        == "```\n\\boxed{2}"
    )
    assert solved(written[:22], limit=21).steps[0].finish == "length", (
        "it goes on where the box is open"
    )


@pytest.mark.parametrize(
    "answer, text, finished",
    [
        (None, "\\boxed{5}", True), (None, "\\boxed{5", False), (None, "#### 5", False),
        ("<r>(.*?)</r>", "<r>5</r>", True),
        (r"x = (\d+)", "x = 1", False), (r"x = (\d+)", "x = 1 a", True),
        (lambda text: text, "x", False),
    ],
)  # fmt: skip
def test_of_a_cut_step_only_what_is_whole_counts(answer, text, finished):
    assert (
        TextProblem("?", answer=answer).is_terminal((TextStep(text, finish="length"),)) is finished
    )


# -- rewards and values


@pytest.mark.parametrize(
    "reward",
    [math.inf, -math.inf, math.nan, 2, -0.1, "1", "yes", [1], np.array([0.0, 1.0]), 1j, object()],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_reward_that_is_none_says_so(reward, method):
    problem = TextProblem("How many?", verify=lambda text: reward)
    with pytest.raises(
        ValueError, match="the function verify of a TextProblem returned .*: give a number in"
    ):
        solved("\\boxed{5}", method, problem=problem)


@pytest.mark.parametrize("reward", [True, 0, np.float32(1), np.True_, torch.tensor(0.0)])
def test_rewards_of_every_kind_of_number(reward):
    verified = bool(reward)
    assert (
        solved("\\boxed{5}", problem=TextProblem("How many?", verify=lambda text: reward)).verified
        is verified
    )
    assert TextProblem("?", verify=lambda text: Fraction(1, 4)).verify((TextStep("x"),)) == 0.25


class Odd:
    """A value function that returns something."""

    backends, tokens, calls, version = {}, 0, 0, "odd"

    def __init__(self, told):
        self.told = told

    async def evaluate(self, problem, states, known, rng):
        return self.told


class Plain(Odd):
    def evaluate(self, problem, states, known, rng):
        return self.told


@pytest.mark.parametrize(
    "told",
    [[2.0], [-1], [math.inf], [0.5, 0.5], 0.5, None, [None, 1], "x", [], [[0.5]], {"a": 1}, [1.01]],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_value_that_is_none_names_its_part(told, method):
    guide = Guide(chat_guide("We add.\n\n\\boxed{5}").policy, Odd(told))
    with pytest.raises(ValueError, match=r"^Odd.evaluate returned .*: "):
        search.solve("How many?", guide, method, "tokens=300", **METHODS[method])


@pytest.mark.parametrize("told", [np.array([0.5]), None, 0.5])
def test_a_value_function_that_is_no_coroutine(told):
    with pytest.raises(ValueError, match="Plain.evaluate is no coroutine: write `async def`"):
        search.solve(
            "How many?",
            Guide(chat_guide("We add.\n\n\\boxed{5}").policy, Plain(told)),
            budget="tokens=300",
        )


def test_good_values_are_taken():
    for told in ([1], [True], (0.25,), np.float32([1 + 1e-7]), [math.nan], [np.nextafter(1, 2)]):
        solution = search.solve(
            "How many?",
            Guide(chat_guide("We add.\n\n\\boxed{5}").policy, Odd(told)),
            budget="tokens=300",
        )
        assert solution.answer == "5"


# -- what is refused at the door


@pytest.mark.parametrize(
    "option, value",
    [
        ("top_p", -1), ("top_p", 0), ("top_p", 1.5), ("top_p", math.nan), ("min_p", 2),
        ("min_p", -0.1), ("top_k", -1), ("top_k", 1.5),
        ("top_k", True), ("temperature", -0.1), ("temperature", math.inf),
    ],
)  # fmt: skip
def test_ranges_of_sampling(option, value):
    with pytest.raises(ValueError, match=f"{option}={value} is impossible: give "):
        scripted_guide(**{option: value})
    with pytest.raises(ValueError, match=f"{option}={value} is impossible: give "):
        check_request(Generate((1,), **{option: value}), 10)


def test_ends_of_the_ranges_are_in_them():
    for option in (
        {"top_p": 1},
        {"top_p": 1e-9},
        {"min_p": 0},
        {"min_p": 1},
        {"top_k": 0},
        {"top_k": np.int64(3)},
    ):
        check_request(Generate((1,), **option), 10)
        scripted_guide(**option)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method, options",
    [("sample", {"chains": n}) for n in (1, 8, 20)] + [("mcts", {}), ("beam", {}), ("gumbel", {})],
)
def test_a_prompt_beyond_the_context_is_an_error_in_every_method(method, options):
    tokenizer = tiny.tokenizer()
    engine = Engine(tiny.model(), tokenizer, slots=4, context=40)
    guide = Guide(LM(Loaded(engine, tokenizer, {}, "tiny", False)), budget=Budget(tokens=100))
    with pytest.raises(
        ValueError, match="the prompt has 42 tokens, and the context takes 40: shorten the problem"
    ):
        search.solve("x" * 40, guide, method, **options)
    long, short = search.solve_many(["x" * 40, "x" * 30], guide, method, **options)
    assert isinstance(long.error, ValueError) and long.stopped == "error"
    assert short.error is None and short.stopped != "error", (
        "a chain that fills the context ends there"
    )


# -- settings


def test_settings_of_a_checkpoint_say_what_it_is_told(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
    )
    settings = {"format": 1, "instruction": "End with ####.", "system": "Be kind."}
    save_model(tmp_path / "kind", tiny.model(), tokenizer, None, settings)
    policy = guides.LM(tmp_path / "kind")
    said = tokenizer.decode(policy.tokens(TextProblem("2?"), ()))
    assert (
        said == "[system]Be kind.[user]2?\n\nEnd with ####.[assistant]" and policy.ends is not None
    )
    said = tokenizer.decode(
        guides.LM(tmp_path / "kind", instruction="", system="Go.").tokens(TextProblem("2?"), ())
    )
    assert said == "[system]Go.[user]2?[assistant]"
    assert (
        tokenizer.decode(
            guides.LM(tmp_path / "kind", prompt="{problem}!").tokens(TextProblem("2?"), ())
        )
        == "End with ####.\n\n2?!"
    )
    with pytest.raises(ValueError, match="system"):
        save_model(tmp_path / "bad", tiny.model(), tokenizer, None, settings | {"system": 3})
