"""Rewards for training by others: 1 for the right answer, 0 for a wrong one, by one import each.

    from guides.rewards import trl_reward          # TRL: reward_funcs=trl_reward
    from guides.rewards import compute_score       # verl: custom_reward_function.path and .name
    from guides.rewards import correct, undecided  # verifiers: Rubric([correct, undecided], [1, 0])

What the checker cannot decide is told apart, each in the way of its trainer, and `counts()` says
how often that was in this process. A function of your own is an `AnswerReward` with other options.
All are safe in threads, forks and actors: proofs run in processes of their own, without signals.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from guides.answers.checker import Verdict, check, check_many
from guides.answers.styles import AnswerStyle, style_of

log = logging.getLogger(f"copse.{__name__}")

#: the columns that may hold targets, the first that is there
TARGETS = ("answer", "target", "solution", "ground_truth")
_SCORES = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0}
_counts: Counter[Verdict] = Counter()
_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it when the process was forked
    _counts.clear()


os.register_at_fork(after_in_child=_begin_anew)


def counts() -> dict[str, int]:
    """How many completions were "right", "wrong" and "undecided" in this process."""
    with _lock:
        return {verdict.value: _counts[verdict] for verdict in Verdict}


def reset_counts() -> None:
    """Begin to count again."""
    with _lock:
        _counts.clear()


class AnswerReward:
    """A reward function for TRL's trainers: `reward_funcs=AnswerReward(target="solution")`.

    target     the column of the dataset with the right answers; None: the first of `TARGETS` that
               is there
    undecided  the reward of what cannot be decided. None: no reward of this function, as TRL has
               it; where no other function gives one, TRL warns and takes 0
    style      as of `guides.check`;  seconds: that a process may compute for one completion
    """

    def __init__(
        self,
        target: str | None = None,
        undecided: float | None = None,
        style: str | AnswerStyle = "strict",
        seconds: float = 5.0,
    ):
        self.__name__ = "answer_reward"  # TRL logs it
        self.target = target
        self.undecided = undecided
        self.style = style_of(style)
        self.seconds = seconds

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        """The reward of each completion, a text or a conversation. Raises ValueError where there is
        no column of targets, or one of another length.
        """
        targets = self._targets(columns, len(completions))
        pairs = list(zip(map(text_of, completions), map(str, targets), strict=True))
        verdicts = check_many(pairs, seconds=self.seconds, style=self.style)
        _count(verdicts)
        open_ = verdicts.count(Verdict.UNDECIDED)
        if open_:
            log.info("%d of %d completions are undecided", open_, len(verdicts))
        return [_SCORES.get(verdict, self.undecided) for verdict in verdicts]

    def _targets(self, columns: Mapping[str, Any], count: int) -> Sequence[Any]:
        names = TARGETS if self.target is None else (self.target,)
        name = next((name for name in names if columns.get(name) is not None), None)
        if name is None:
            raise ValueError(
                f"the dataset has no column {' or '.join(names)}: name the one with the right "
                "answers, as AnswerReward(target=...)"
            )
        targets = columns[name]
        if isinstance(targets, str) or len(targets) != count:
            raise ValueError(f"the column {name} must have an answer for each of {count} texts")
        return list(targets)


#: the reward function for TRL with its defaults
trl_reward = AnswerReward()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, float]:
    """The reward function for verl: "score" is 1.0 or 0.0, and "undecided" is 1.0 where the 0.0
    says only that the answer is not known to be right; verl logs both.

    options  `style` and `seconds`, as of `guides.check`
    """
    verdict = _verdict(solution_str, str(ground_truth), **options)
    return {
        "score": _SCORES.get(verdict, 0.0),
        "undecided": float(verdict is Verdict.UNDECIDED),
    }


async def correct(completion: Any, answer: Any) -> float:
    """The reward function for a Rubric of verifiers: 1.0 where the completion has the answer. Where
    it is 0.0, `undecided` tells whether that is known.
    """
    verdict = await asyncio.to_thread(_verdict, text_of(completion), str(answer))
    return _SCORES.get(verdict, 0.0)


async def undecided(completion: Any, answer: Any) -> float:
    """Beside `correct`, with the weight 0: 1.0 where the answer cannot be decided."""
    pair = text_of(completion), str(answer)
    return float(await asyncio.to_thread(check, *pair) is Verdict.UNDECIDED)


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or what the last message of a conversation says. Raises
    ValueError for anything else.
    """
    if isinstance(completion, str):
        return completion
    message = completion[-1] if isinstance(completion, Sequence) and completion else completion
    content = message.get("content") if isinstance(message, Mapping) else None
    if content is None:
        content = getattr(message, "content", None)
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    raise ValueError(
        f"this is no completion: {str(completion)[:80]!r}: give a text, or messages with a content"
    )


def _verdict(text: str, target: str, **options: Any) -> Verdict:
    verdict = check(text, target, **options)
    _count([verdict])
    return verdict


def _count(verdicts: Sequence[Verdict]) -> None:
    with _lock:
        _counts.update(verdicts)
