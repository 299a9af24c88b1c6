"""Fakes for the tests: a tokenizer of one token a character, and a scripted language model that
plays Countdown at random.
"""

from __future__ import annotations

import math
import random
import re
from fractions import Fraction

import numpy as np

from guides.engines import Loaded
from guides.policies.lm import LM
from guides.values.prm import PRM
from models import Scripted
from search.guide import Guide
from search.scheduling.budget import Budget
from search.scheduling.requests import Generate, Generated, NothingLeft, Scored


class Characters:
    """Token id = code point."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, tokens, **options) -> str:
        return "".join(map(chr, tokens))


def generated(
    text: str,
    finish: str = "stop",
    value: float = 0.5,
    log_prob: float = -0.5,
    limit: int | None = None,
    delimiter: str = "\n",
):
    """A `Generated` that says `text`, its delimiter included when it stops; cut after `limit`
    tokens.
    """
    tokens = tuple(map(ord, text + (delimiter if finish == "stop" else "")))
    if limit is not None and len(tokens) > limit:
        tokens, text, finish, value = (
            tokens[:limit],
            "".join(map(chr, tokens[:limit])),
            "length",
            float("nan"),
        )
    log_probs = np.full(len(tokens), log_prob, np.float32)
    return Generated(tokens, text, log_probs, log_probs, value, finish)


def left_numbers(prompt: str) -> list[Fraction]:
    """What is left after the lines of a Countdown chain, in the tests' own reading."""
    statement, *lines = prompt.split("\n")
    for place, line in enumerate(lines):  # another attempt begins
        if line in ("Try again.", "Wait"):
            return left_numbers("\n".join([statement, *lines[place + 1 :]]))
    left = [Fraction(n) for n in re.findall(r"\d+", statement)][:-1]
    for line in filter(None, lines):
        a, b, c = (Fraction(n) for n in re.fullmatch(r"(\d+)[-+*/](\d+)=(\d+)", line).groups())
        left.remove(a)
        left.remove(b)
        left.append(c)
    return left


def random_player(illegal: float = 0.1):
    """A model that writes a random legal line, now and then an illegal one; its value is a hash
    of the chain.
    """

    def answer(request):
        prompt = "".join(
            map(chr, request.prompt if isinstance(request, Generate) else request.tokens)
        )
        rng = random.Random(f"{prompt}|{getattr(request, 'seed', 0)}")
        value = random.Random(prompt).random()
        if not isinstance(request, Generate):
            n = len(request.positions)
            return Scored(
                np.zeros(len(request.tokens), np.float32),
                np.zeros((n, len(request.read)), np.float32),
                np.full(n, value, np.float32),
            )
        left = left_numbers(prompt)
        if rng.random() < illegal or len(left) < 2:
            return generated("1+1=3", limit=request.max_tokens)
        while True:
            a, b = rng.sample(left, 2)
            op = rng.choice("+-*/")
            if (op == "-" and a < b) or (op == "/" and (b == 0 or a % b)):
                continue
            c = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else 0}[op]
            return generated(
                f"{a}{op}{b}={c}",
                value=rng.random(),
                log_prob=-0.1 - rng.random(),
                limit=request.max_tokens,
            )

    return answer


def listed_player(lines):
    """A model that writes one of `lines(prompt)`, {line: probability}, drawn without those it is
    to avoid; its log-probs are exact.
    """

    def answer(request):
        taken = {avoided.tokens for avoided in request.avoid}
        prompt = "".join(map(chr, request.prompt))
        shares = {
            line: p for line, p in lines(prompt).items() if (*map(ord, line), 10) not in taken
        }
        if not shares:
            raise NothingLeft("all lines were given")
        line = random.Random(f"{prompt}|{request.seed}").choices(
            list(shares), list(shares.values())
        )[0]
        return generated(line, log_prob=math.log(lines(prompt)[line]) / (len(line) + 1))

    return answer


def scripted_guide(
    function=None, value: bool = True, slots: int = 64, shuffle: int | None = None, **lm
) -> Guide:
    """A guide on a scripted model: an `LM` policy and its own value head, steps end at a line's
    end.
    """
    engine = (
        Scripted(function or random_player(), slots=slots)
        if shuffle is None
        else Scripted(function or random_player(), slots=slots, shuffle=shuffle)
    )
    loaded = Loaded(
        engine,
        Characters(),
        {"delimiter": "\n", "step_tokens": 16, "max_steps": 8, "prompt": "{problem}\n"},
        "fake",
        True,
    )
    policy = LM(loaded, values=True, **lm)
    return (
        Guide(policy, PRM(loaded, policy=policy), budget=Budget(tokens=400))
        if value
        else Guide(policy, budget=Budget(tokens=400))
    )
