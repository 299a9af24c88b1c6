"""Chat templates: the text is transformers', and no template keeps a search from ending."""

from __future__ import annotations

import pytest
import tiny

from guides.policies.prompts import Prompts
from models.checkpoints import chat_template
from models.checkpoints.chat_template import render, rendered

TURNS = [
    {"role": "system", "content": "Be brief. \U0001f600"},
    {"role": "user", "content": "What is\n 1 + 1?  "},
    {"role": "assistant", "content": "2"},
]
TEMPLATES = [
    "{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "{{ bos_token }}{%- for m in messages -%}{% generation %}{{ m.content }}{% endgeneration %}"
    "{%- endfor -%}{{ messages | tojson }}{{ eos_token }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% if ns.n > 2 %}{% break %}{% endif %}{{ ns.n }}{{ m.content }}{% endfor %}",
    "{% if enable_thinking is defined and not enable_thinking %}no thoughts{% endif %}",
]
ENDLESS = {
    "a loop": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "a doubling": "{% set ns = namespace(x='x') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a long text": "{{ 'x'.center(10 ** 11) }}",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_text_is_that_of_transformers(template):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.chat_template = template
    for given in ({"add_generation_prompt": True}, {"enable_thinking": False}, {}):
        theirs = tokenizer.apply_chat_template(TURNS, tokenize=False, **given)
        assert rendered(tokenizer, TURNS, **given) == theirs


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a loop", marks=pytest.mark.slow),
        pytest.param("a power", marks=pytest.mark.slow),
        pytest.param("a doubling", marks=pytest.mark.thorough),
        pytest.param("a long text", marks=pytest.mark.thorough),
    ],
)
def test_a_template_that_does_not_end_is_refused(monkeypatch, name):
    monkeypatch.setattr(chat_template, "LIMITS", (1, 1 << 28))
    chat_template._process.end()
    with pytest.raises(ValueError, match="the chat template takes more than 1 s or 0.25 GiB"):
        render(ENDLESS[name], TURNS)
    assert render("{{ messages[1].role }}", TURNS) == "user", "the next one is rendered"
    chat_template._process.end()


def test_what_a_template_says_is_wrong():
    with pytest.raises(ValueError, match="no system turns here"):
        render("{{ raise_exception('no system turns here') }}", TURNS)
    with pytest.raises(ValueError, match=r".+"):
        render("{% for %}", TURNS)


def test_a_template_reaches_no_file_and_no_python():
    for template in (
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ lipsum.__globals__['os'].getpid() }}",
    ):
        with pytest.raises(ValueError, match=r".+"):
            render(template, TURNS)


@pytest.mark.thorough
def test_a_prompt_with_an_endless_template_is_a_sentence(monkeypatch):
    monkeypatch.setattr(chat_template, "LIMITS", (1, 1 << 28))
    chat_template._process.end()
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = ENDLESS["a doubling"]
    with pytest.raises(ValueError, match=r"chat template takes more than .* give prompt="):
        Prompts(tokenizer)
    chat_template._process.end()
