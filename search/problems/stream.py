"""Streams: chains of thought that may go back, check what they wrote and try again (Gandhi et al.
2024, "Stream of Search"; Ye et al. 2024, "Physics of Language Models: Part 2.2").

A stream is of another problem, whose lines it has, and of moves, which are lines of their own:

    8-7=1
    4+8=12
    Back to 1.              (what was written behind line 1 is withdrawn)
    4-1=3
    Check: right.           (of the last line that stands)
    8*3=24

Only the lines that stand are the chain of the problem: what follows must be legal behind them, and
reward and answer are theirs. A move that refers to what is not there is no legal step, so a stream
that makes one is a dead end. What a check says has no influence on what stands; whether it is true
is for reports (`guides.data.behaviour`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, reduce
from typing import Any, NamedTuple

from search.chain import GIVEN, token_count
from search.kinds import build, kind_of
from search.problem import IllegalStep, Problem, State, TextStep, check_members
from search.problems import parse

# kinds of moves
BACK = "back"
CHECK = "check"
AGAIN = "again"


@dataclass(frozen=True)
class Moves:
    """How moves are written: each is a whole line. None: the stream has no such move.

    back     withdraws what stands behind the line of the number {line}, of those that stand, from 1
             on, 0: everything; without {line} the last line that stands
    check    says the {verdict} of the last line that stands
    again    withdraws everything and begins another attempt
    right, wrong  the verdicts

    Raises ValueError for what cannot be told from the others.
    """

    back: str | None = "Back to {line}."
    check: str | None = "Check: {verdict}."
    again: str | None = "Try again."
    right: str = "right"
    wrong: str = "wrong"

    def __post_init__(self) -> None:
        if self.check is not None and self.check.count("{verdict}") != 1:
            raise ValueError(f"a check says a verdict: write {{verdict}} once, not {self.check!r}")
        lines: list[str] = []
        for kind in self.kinds:
            lines += _lines(self, kind)
        moves = list(map(self.read, lines))
        if len(set(moves)) < len(moves) or any("\n" in line or not line for line in lines):
            raise ValueError(
                f"each move is one line, and no two are written alike: correct {lines}"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that the stream has."""
        return tuple(kind for kind in (BACK, CHECK, AGAIN) if getattr(self, kind) is not None)

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        verdict = f"(?P<verdict>{re.escape(self.right)}|{re.escape(self.wrong)})"
        found = {}
        for kind in self.kinds:
            text = re.escape(getattr(self, kind).strip())
            text = text.replace(re.escape("{line}"), "(?P<line>0|[1-9][0-9]{0,3})")
            found[kind] = re.compile(text.replace(re.escape("{verdict}"), verdict))
        return found

    def read(self, text: str) -> Move | None:
        """The move that a line is; None: it is none."""
        for kind, pattern in self._patterns.items():
            if match := pattern.fullmatch(text.strip()):
                groups = match.groupdict()
                line = groups.get("line")
                verdict = groups.get("verdict")
                return Move(
                    kind,
                    None if line is None else int(line),
                    None if verdict is None else verdict == self.right,
                )
        return None

    def go_back(self, line: int) -> str:
        """The move back to a line."""
        return (self.back or "").replace("{line}", str(line))

    def say(self, right: bool) -> str:
        """The check with that verdict."""
        return (self.check or "").replace("{verdict}", self.right if right else self.wrong)


def _lines(moves: Moves, kind: str) -> list[str]:
    """The forms of a move."""
    if kind == CHECK:
        return [moves.say(True), moves.say(False)]
    return [moves.go_back(1) if kind == BACK else str(moves.again)]


class Move(NamedTuple):
    """A line that is a move. line: the number that it names;  right: its verdict; None: none."""

    kind: str
    line: int | None = None
    right: bool | None = None


class Made(NamedTuple):
    """A move in a stream.

    place  of its line in the stream
    about  place of the line that it checks, or goes back to; -1: the beginning
    """

    move: Move
    place: int
    about: int


@dataclass(frozen=True)
class Reading:
    """What a stream says.

    standing  place in the stream of each line that stands, and the problem's state behind it
    made      its moves in their order
    attempt   the number of the attempt, from 1 on
    asked     place in the stream of the line with which the search asked for the answer; -1: none
    before    the problem's state with the last answer of an earlier attempt; None: there was none
    """

    start: State
    standing: tuple[tuple[int, State], ...] = ()
    made: tuple[Made, ...] = ()
    attempt: int = 1
    asked: int = -1
    before: State | None = None

    @property
    def state(self) -> State:
        """The problem's state behind the lines that stand."""
        return self.standing[-1][1] if self.standing else self.start

    @property
    def last(self) -> int:
        """Place of the last line that stands, -1: none."""
        return self.standing[-1][0] if self.standing else -1


class Lines(tuple[TextStep, ...]):
    """The lines of a stream: a state, equal to a plain tuple of them. It keeps its reading."""

    reading: Reading


@dataclass(frozen=True)
class Stream:
    """A problem whose chains of thought may hold moves.

    problem   of one player, whose steps are `TextStep`s: a problem, text, or its JSON arguments
              beside `kind`
    kind      of JSON arguments, "module:Class"
    moves     how they are written: a `Moves`, or its fields
    attempts  how many there are at most; without `checked` exactly as many, and a stream ends with
              the answer of the last
    checked   a stream does not end before it has checked its answer and found it right
    insist    behind each answer but the last, and where a line is illegal, the search itself writes
              the move `again`, and no model has to; or the check that ends the stream, where the
              problem verifies the answer
    turns     what the search writes is a turn of its own to a chat model; else the model's own turn
              goes on behind it, what ended that turn is left out, and an answer counts until there
              is another
    min_tokens  an answer is the last, whatever attempts are left, from so many tokens on; 0: not
    max_tokens  where the chain has so many tokens and no answer, the search writes `final`, and the
              model's next line is its last; of several attempts no more begins. 0: no end
    final     the line that asks for the answer

    The last four, without turns, are budget forcing (s1; Muennighoff et al. 2025).

    A check that finds an answer right ends a stream in any case. An answer that stands is followed
    by a move alone. Raises ValueError for a problem of two players, for fewer than one attempt,
    numbers of tokens that are none, and moves that are missing.
    """

    problem: Problem
    kind: str | None = None
    moves: Moves = field(default_factory=Moves)
    attempts: int = 1
    checked: bool = False
    insist: bool = False
    turns: bool = True
    min_tokens: int = 0
    max_tokens: int = 0
    final: str = "The final answer, in a box, is:"

    players = 1
    inline = True  # of the problem, see below

    def __post_init__(self) -> None:
        problem: Any = self.problem
        if isinstance(problem, str):
            problem = parse(problem)
        elif isinstance(problem, Mapping):
            problem = build(self.kind or "", dict(problem))
        check_members(problem)
        moves = self.moves if isinstance(self.moves, Moves) else Moves(**self.moves)
        known = {"problem": problem, "moves": moves, "kind": kind_of(problem)}
        for name, value in {**known, "inline": problem.inline}.items():
            object.__setattr__(self, name, value)  # it is frozen
        if problem.players != 1 or isinstance(problem, Stream):
            raise ValueError(
                f"a {type(problem).__name__} has no stream: give a problem of one player whose "
                "steps are lines of text"
            )
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} is impossible: give 1 or more")
        if self.min_tokens < 0 or self.max_tokens < 0:
            raise ValueError(
                f"min_tokens={self.min_tokens} and max_tokens={self.max_tokens} are impossible: "
                "give 0 or more"
            )
        if 0 < self.max_tokens < self.min_tokens:
            raise ValueError(
                f"no stream has at least {self.min_tokens} and at most {self.max_tokens} tokens: "
                "give min_tokens below max_tokens"
            )
        if (self.attempts > 1 or self.insist) and AGAIN not in moves.kinds:
            raise ValueError("several attempts need the move `again`: say how it is written")
        if self.checked and CHECK not in moves.kinds:
            raise ValueError("a checked answer needs the move `check`: say how it is written")

    # -- the rules

    def initial(self) -> Lines:
        lines = Lines()
        lines.reading = Reading(self.problem.initial())
        return lines

    def actions(self, state: Sequence[TextStep]) -> None:
        return None

    def apply(self, state: Sequence[TextStep], step: TextStep) -> Lines:
        """`state` with `step` added. Raises IllegalStep for a move to or about what does not
        stand, for an attempt too many, for a line behind an answer, and for what the problem
        refuses.
        """
        reading = self._after(self.read(state), step, len(state))
        after = Lines((*state, step))
        after.reading = reading
        return after

    def is_terminal(self, state: Sequence[TextStep]) -> bool:
        reading = self.read(state)
        if reading.asked >= 0:
            return reading.asked < len(state) - 1 and state[-1].finish != "length"
        if not reading.standing or not self.problem.is_terminal(reading.state):
            return False
        made = reading.made[-1] if reading.made else None
        if made is not None and made.place == len(state) - 1 and made.move.right is True:
            return True
        return not self.checked and not self._goes_on(state, reading)

    def due(
        self, state: Sequence[TextStep], stuck: bool = False, enough: bool = False
    ) -> str | None:
        """The line that the search has to write behind `state`; None: the model goes on.

        stuck   the line that the model wrote there is none that the rules allow
        enough  the answer that stands is good enough to be the last
        """
        if not self.insist or self.is_terminal(state):
            return None
        reading = self.read(state)
        answered = bool(reading.standing) and self.problem.is_terminal(reading.state)
        if not answered and not stuck:
            spent = 0 < self.max_tokens <= token_count(state)
            return self.final if spent and reading.asked < 0 else None
        checks = answered and CHECK in self.moves.kinds
        if checks and (enough or (self.inline and self.problem.verify(reading.state) == 1.0)):
            return self.moves.say(True)
        if self._goes_on(state, reading):
            return self.moves.again
        return self.final if stuck and self.max_tokens and reading.asked < 0 else None

    def pauses(self, state: Sequence[TextStep]) -> bool:
        """Whether the search begins another attempt behind the answer that stands."""
        return self.due(state) == self.moves.again is not None

    def attempt(self, state: Sequence[TextStep]) -> Stream:
        """This stream with no attempt behind that of `state`."""
        return replace(self, attempts=self.read(state).attempt)

    def _goes_on(self, state: Sequence[TextStep], reading: Reading) -> bool:
        """Whether another attempt begins behind an answer."""
        limits = list(filter(None, (self.min_tokens, self.max_tokens)))
        enough = bool(limits) and token_count(state) >= min(limits)
        return reading.attempt < self.attempts and not enough

    def verify(self, state: Sequence[TextStep]) -> float | None:
        return self.problem.verify(self._counting(state))

    def answer(self, state: Sequence[TextStep]) -> str | None:
        return self.problem.answer(self._counting(state))

    def _counting(self, state: Sequence[TextStep]) -> State:
        """The problem's state whose answer counts."""
        reading = self.read(state)
        if self.turns or reading.before is None or self._answers(reading):
            return reading.state
        return reading.before

    def verdict(self, state: Sequence[TextStep]) -> bool | None:
        """What the model itself says of the lines that stand, by its last check of each: False
        where one is wrong, else True; None where it has checked none. What the search wrote does
        not count.
        """
        reading = self.read(state)
        standing = {place for place, _ in reading.standing}
        said = {}
        for made in reading.made:
            own = made.move.kind == CHECK and state[made.place].finish != GIVEN
            if own and made.about in standing:
                said[made.about] = made.move.right is True
        return all(said.values()) if said else None

    def _answers(self, reading: Reading) -> bool:
        """Whether an answer stands."""
        if not reading.standing or not self.problem.is_terminal(reading.state):
            return False
        return self.problem.answer(reading.state) is not None

    def prompt(self, state: Sequence[TextStep]) -> str:
        """The statement of the problem."""
        return self.problem.prompt(self.problem.initial())

    def key(self, state: Sequence[TextStep], step: TextStep) -> Hashable:
        """Of a move its text, else what the problem says. Raises IllegalStep."""
        self.apply(state, step)
        if self.moves.read(step.text) is not None:
            return ("move", step.text.strip())
        return self.problem.key(self.read(state).state, step)

    def read(self, state: Sequence[TextStep]) -> Reading:
        """What a stream says. Raises IllegalStep where it is none."""
        if isinstance(state, Lines):
            return state.reading
        return reduce(self.apply, state, self.initial()).reading

    def standing(self, state: Sequence[TextStep]) -> list[bool]:
        """Which lines of a stream stand, one a line; moves do not."""
        places = {place for place, _ in self.read(state).standing}
        return [place in places for place in range(len(state))]

    def _after(self, before: Reading, step: TextStep, place: int) -> Reading:
        """The reading with one more line, in that place of the stream. Raises IllegalStep."""
        move = self.moves.read(step.text)
        if move is not None:
            if step.finish == "length":
                raise IllegalStep(f"the move {step.text[:80]!r} was cut off; allow more tokens")
            return self._moved(before, move, place)
        if before.standing and self.problem.is_terminal(before.state):
            raise IllegalStep(f"{step.text[:80]!r} follows an answer, which a move alone may")
        state = self.problem.apply(before.state, step)
        asked = before.asked
        if step.finish == GIVEN and step.text == self.final:
            asked = place
        return replace(before, standing=(*before.standing, (place, state)), asked=asked)

    def _moved(self, before: Reading, move: Move, place: int) -> Reading:
        """The reading behind a move. Raises IllegalStep where it cannot be made."""
        standing = before.standing
        attempt = before.attempt
        about = before.last
        kept = before.before
        if move.kind == AGAIN:
            attempt += 1
            if attempt > self.attempts:
                raise IllegalStep(f"attempt {attempt} is one too many, there are {self.attempts}")
            if self._answers(before):
                kept = before.state
            standing = ()
            about = -1
        elif not standing:
            raise IllegalStep(f"no line stands that the move {move.kind!r} could be about")
        elif move.kind == BACK:
            line = len(standing) - 1 if move.line is None else move.line
            if line >= len(standing):
                raise IllegalStep(f"there are {len(standing)} lines, and none to go back to {line}")
            standing = standing[:line]
            about = standing[-1][0] if standing else -1
        made = (*before.made, Made(move, place, about))
        return replace(before, standing=standing, made=made, attempt=attempt, asked=-1, before=kept)

    def withdrawn(self, state: Sequence[TextStep]) -> list[bool]:
        """Which lines of a stream are lines of the problem that stand no more, one a line."""
        moves = {made.place for made in self.read(state).made}
        standing = self.standing(state)
        return [not standing[place] and place not in moves for place in range(len(state))]

    # -- what the problem is beside its rules

    @property
    def statement_kind(self) -> str:
        """The kind that a model must know to solve it."""
        return kind_of(self.problem)

    @property
    def open_answers(self) -> bool:
        return bool(getattr(self.problem, "open_answers", False))

    def asked(self, answer: str | None, ends: str | None) -> Stream:
        """This stream for a model that was asked to mark its answer so (`TextProblem.asked`)."""
        asked = getattr(self.problem, "asked", None)
        return self if asked is None else replace(self, problem=asked(answer, ends))

    @property
    def seconds(self) -> float:
        return float(getattr(self.problem, "seconds", 10.0))

    @property
    def verifies(self) -> bool:
        return bool(getattr(self.problem, "verifies", True))

    def to_json(self) -> dict[str, Any]:
        """The arguments that make this problem again: Stream(**problem.to_json())."""
        return {
            "problem": self.problem.to_json(),  # type: ignore[attr-defined]
            "kind": self.kind,
            "moves": asdict(self.moves),
            "attempts": self.attempts,
            "checked": self.checked,
            "insist": self.insist,
            "turns": self.turns,
            "min_tokens": self.min_tokens,
            "max_tokens": self.max_tokens,
            "final": self.final,
        }
