"""What a model reads before the first step: chat templates of every kind, control tokens in a
statement, beginnings of text.
"""

from __future__ import annotations

import re

import pytest
import tiny
from tokenizers import AddedToken, processors

from guides.policies.prompts import INSTRUCTION, Prompts, plain_tokens

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] | trim }}{% endif "
    "%}{% endfor %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def tokenizer(template=None, begin=False):
    """Bytes, with <|im_start|>, <|im_end|> and <s>, and <think>, which is an added token but no
    special one.
    """
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "bos_token": "<s>"})
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("  ", special=False)])
    if begin:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
        )
    made.chat_template = template
    return made


def text(made, tokens):
    return made.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("statement", ["How many?", "x = 1\n\ny  = 2", "{problem}", "Copse"])
def test_a_chat_is_what_the_template_renders(statement):
    made = tokenizer(CHAT)
    turn = [{"role": "user", "content": f"{statement}\n\n{INSTRUCTION}"}]
    assert Prompts(made)(statement) == tuple(
        made.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
    )
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": statement}]
    told = Prompts(made, instruction="", system="Be brief.")(statement)
    assert told == tuple(made.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])


@pytest.mark.parametrize("name", ["<|im_end|>", "<|im_start|>", "<s>", "<eos>", "<think>"])
@pytest.mark.parametrize(
    "template, prompt", [(CHAT, None), (None, None), (None, "<s>[Q] {problem} [A] {problem}")]
)
def test_control_tokens_in_a_statement_are_text(name, template, prompt):
    made = tokenizer(template)
    statement = f"What does {name}{name} mean?\n{name}"
    tokens, usual = Prompts(made, prompt)(statement), Prompts(made, prompt)("What?")
    assert statement in text(made, tokens), "it is there, letter for letter"
    mark = made.convert_tokens_to_ids(name)
    assert tokens.count(mark) == usual.count(mark), "and no token of it controls anything"
    assert made.convert_tokens_to_ids("  ") in plain_tokens(made, "a  b"), (
        "an added token that controls nothing is used"
    )


def test_one_beginning_of_text():
    for begin in (True, False):
        made = tokenizer(begin=begin)
        first = made.bos_token_id
        assert Prompts(made, "<s>[INST] {problem} [/INST]")("7?").count(first) == 1
        assert Prompts(made, "<s>[INST] {problem} [/INST]", "Be brief.")("7?")[0] == first
        assert Prompts(made, "\n <s>[INST] {problem}")("7?") == Prompts(
            made, "<s>[INST] {problem}"
        )("7?")
        assert Prompts(made, "[INST] {problem} [/INST]")("7?").count(first) == begin
        assert Prompts(made, "<s>{problem}")("<s>").count(first) == 1
        assert text(made, Prompts(made)("7?")) == ("<s>" if begin else "") + "7?\n\n"


def test_a_template_of_parts_gets_the_problem():
    made = tokenizer(PARTS)
    assert text(made, Prompts(made, instruction="Go.")("  7 + 8? ")).endswith(
        "user\n7 + 8?\n\nGo.<|im_end|>\n<|im_start|>assistant"
    )
    assert "Be brief." in text(made, Prompts(made, system="Be brief.")("7?"))


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_template_that_takes_one_role_as_text_and_the_other_as_parts(role):
    """Python's list of parts is no text for a model."""
    mixed = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == '"
        + role
        + "' %}{{ m['content'] }}"
        "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif "
        "%}<|im_end|>\n{% endfor %}"
    )
    made = tokenizer(mixed)
    told = text(made, Prompts(made, instruction="", system="Be brief.")("7 + 8?"))
    assert told == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n7 + 8?<|im_end|>\n"


@pytest.mark.parametrize(
    "template, options, words",
    [
        ("Hello<|im_start|>assistant\n", {}, "shows nothing of the problem: give prompt="),
        ("{{ raise_exception('no') }}", {}, "cannot be rendered .*: give prompt="),
        (
            "{{ messages[-1]['content'] }}",
            {"system": "Be brief."},
            "leaves the system turn out: say it by instruction=",
        ),
        (
            "{{ messages[0]['role'][99] }}{{ messages[9]['content'] }}",
            {"system": "Be brief."},
            "instruction=",
        ),
        (None, {"system": "Be brief."}, "write it into prompt= or instruction="),
        (
            CHAT,
            {"system": "Be brief.", "template": "{problem}"},
            "write it into prompt= or instruction=",
        ),
        (CHAT, {"template": "no place"}, "has no place for the problem"),
    ],
)
def test_templates_that_cannot_serve_say_what_to_do(template, options, words):
    with pytest.raises(ValueError, match=words):
        Prompts(tokenizer(template), **options)


@pytest.mark.parametrize(
    "end, opened",
    [
        ("<think>\n", True), ("[THINK]", True), ("<reasoning>", True),
        ("<|channel|>analysis<|message|>", True),
        ("<think>\n\n</think>\n\n", False), ("", False), ("<answer>", False),
    ],
)  # fmt: skip
def test_a_prompt_may_open_thoughts(end, opened):
    assert Prompts(tokenizer(CHAT + end)).thinking is opened
    assert Prompts(tokenizer(), "{problem}\n" + end).thinking is opened


ENDS = {
    "#### 18": "hash",
    "The answer is 18.": "is",
    "So the final answer is $x$": "is",
    "Answer: 18": "label",
    "Final answer: (B)": "label",
}
TALK = (
    "#### Step 1", "The answer is not obvious.", "Answer: let us see.",
    "If the answer is even, we stop.", "#### Find the total",
    "To find the answer: add the apples first.", "We do not know what the answer is yet.",
    "the answer is then doubled again",
)  # fmt: skip


@pytest.mark.parametrize(
    "template, instruction, kinds",
    [
        (CHAT, None, set()),
        (CHAT, "Think.", set()),
        (CHAT, "End with #### and the number.", {"hash"}),
        (CHAT, "Finish with: The answer is X.", {"is"}),
        (CHAT, "Give a last line 'Answer: X', where X is in \\boxed{}.", set()),
        (None, None, {"hash", "is", "label"}),
        (None, "Put it in \\boxed{}.", set()),
        (None, "Last line: 'Final answer: X'.", {"label"}),
    ],
)
def test_a_chain_ends_with_the_mark_that_was_asked_for(template, instruction, kinds):
    ends = Prompts(tokenizer(template), None, instruction).ends
    assert {
        kind for line, kind in ENDS.items() if ends and re.search(ends, f"We add.\n{line}\n")
    } == kinds
    assert not [
        line for line in TALK if ends and re.search(ends, f"We add.\n{line}\nThen more.")
    ], "talk of an answer is none"
