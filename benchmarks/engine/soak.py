"""Random requests of a real model that come, go and are cancelled: is every answer right, whoever
stands beside it?

    python -m benchmarks.engine.soak --model FOLDER --requests 2000 --seed 0 --out soak.json

Greedy and sampled texts of 5 to 40 tokens, with stop strings, truncation and continuations to
avoid, and readings, below prompts of up to 120 tokens that go on from earlier texts; in a pool so
small that texts are forgotten all the time. They are computed in float32 on a CPU, and looked at in
four ways:

    greedy   each text is the one that `generate` of transformers writes, in batches of its own.
             Where they part, the gap between the two tokens' logits is reported: a near-tie has one
             below `NEAR`
    alone    some others are asked again, with nobody beside them and nothing stored: the same
             tokens and log-probs to the last bit
    off      log-probs of these against one pass of transformers over the text: the largest
             difference
    books    the pool and the rows are counted every `EVERY` passes, and at the end nothing is held

Requests come in rounds of `--each`, every one with a seed of its own and kept in `--out` when it
has ended: a run that was stopped goes on with the next round. Exits 1 where anything is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from benchmarks.engine.rival_processes import ONE_THREAD
from benchmarks.engine.texts import ends_of, length, parting
from benchmarks.output import row as row_of
from benchmarks.output import table
from search.files.atomic import atomic
from search.scheduling.requests import (
    Avoided,
    Cancelled,
    Generate,
    NothingLeft,
    Reply,
    Request,
    Score,
)

if TYPE_CHECKING:
    from models.engine.engine import Engine

log = logging.getLogger(f"copse.{__name__}")

LONGEST = 120  #: tokens of a prompt
NEW = (5, 40)  #: tokens that a request may generate
STOPS: list[tuple[str, ...]] = [(), ("\n",), ("\n\n", ". "), (".",), (" the", ","), ("1", "2", "5")]
CUTS: tuple[dict[str, Any], ...] = ({}, {}, {}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05})
TEMPERATURES = (0.5, 0.8, 1.0, 1.0, 1.3)
BESIDE = 40  #: requests under way at once
CANCELS = 0.08  #: chance, at every poll, that one of them is given up
EVERY = 20  #: polls between two looks at the books
NEAR = 1e-3  #: gap of two logits below which rounding decides
BATCH = 16  #: texts that `generate` writes at once


@dataclass
class Round:
    """What came of one round. All lists are of what is wrong, but `ties`.

    kinds    answers by kind;  passes, rows, read, peak: of the engine
             (`models.engine.sequences.Counts`)
    looks    at the books;  compared, tokens: greedy texts;  alone: requests asked again
    ties     gaps in logits where a greedy text and that of `generate` part by rounding
    wrong    greedy texts that are others;  company: requests that are answered otherwise alone
    faults   broken promises: an error, a wrong count, a continuation that was to be avoided
    off      largest difference of a log-prob to transformers' own
    """

    seed: int
    kinds: dict[str, int] = field(default_factory=dict)
    passes: int = 0
    rows: int = 0
    read: int = 0
    peak: int = 0
    looks: int = 0
    compared: int = 0
    tokens: int = 0
    alone: int = 0
    off: float = 0.0
    cpu: float = 0.0
    ties: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    company: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.wrong or self.company or self.faults)


class Stream:
    """Random requests, below prompts that begin as earlier texts do.

    texts  that there were: stems, then each prompt with what was written below it
    """

    def __init__(self, seed: int, stems: Sequence[tuple[int, ...]]):
        self.rng = np.random.default_rng(seed)
        self.stems = list(stems)
        self.texts = list(stems)
        self._again: list[tuple[Generate, Any]] = []  # what can be asked again without its answer

    def next(self) -> Generate | Score:
        """The next request: in twenty two readings, eight greedy texts, one with something to
        avoid.
        """
        rng = self.rng
        kind = rng.random()
        if kind < 0.05 and self._again:
            request, result = self._again[rng.integers(len(self._again))]
            avoid = (*request.avoid, Avoided(result.tokens, tuple(result.log_probs.tolist())))
            return dataclasses.replace(request, avoid=avoid, seed=int(rng.integers(1 << 40)))
        prompt = self._prompt()
        if kind < 0.15:
            places = sorted({len(prompt) - 1, int(rng.integers(len(prompt)))})
            return Score(prompt, tuple(places), (prompt[0], prompt[-1]), to="policy")
        stop = STOPS[rng.integers(len(STOPS))]
        most = int(rng.integers(NEW[0], NEW[1] + 1))
        if kind < 0.55:
            return Generate(prompt, stop, most, temperature=0.0)
        temperature = TEMPERATURES[rng.integers(len(TEMPERATURES))]
        cut = CUTS[rng.integers(len(CUTS))]
        return Generate(prompt, stop, most, temperature, seed=int(rng.integers(1 << 40)), **cut)

    def took(self, request: Generate, result: Any) -> None:
        """Later requests may go on from an answered one, or ask for something else in its place."""
        self.texts.append(request.prompt + result.tokens)
        whole = (request.top_k, request.top_p, request.min_p) == (0, 1.0, 0.0)
        if request.temperature == 1 and whole and np.isfinite(result.log_probs).all():
            self._again.append((request, result))

    def _prompt(self) -> tuple[int, ...]:
        rng = self.rng
        text = self.texts[rng.integers(len(self.texts))]
        tokens = text[: int(rng.integers(min(10, len(text)), len(text) + 1))]
        if rng.random() < 0.3:
            other = self.stems[rng.integers(len(self.stems))]
            begin = int(rng.integers(len(other)))
            tokens += other[begin : begin + int(rng.integers(1, 8))]
        return tokens[:LONGEST]


def stems(tokenizer: Any, seed: int, count: int = 24) -> list[tuple[int, ...]]:
    """Beginnings of generated word problems, 10 to 100 tokens each."""
    from search.problems import words

    rng = np.random.default_rng(seed)
    found = []
    for problem in words.generate(2000 + seed, count, 3, 2, split="test"):
        tokens = tokenizer.encode(problem.prompt(problem.initial()))
        found.append(tuple(tokens[: int(rng.integers(10, 101))]))
    return found


def tokens_of(request: Generate | Score) -> tuple[int, ...]:
    return tuple(request.prompt if isinstance(request, Generate) else request.tokens)


# -- requests that come and go


def soak(engine: Engine, stream: Stream, count: int, found: Round) -> list[Reply]:
    """Send `count` requests at random times, give some up, and look at the books; the replies
    with a result.
    """
    rng = stream.rng
    running: dict[Request, bool] = {}  # request -> whether it was given up
    kept: list[Reply] = []
    kinds: Counter[str] = Counter()
    sent = polls = 0
    while sent < count or running:
        burst = int(rng.integers(16)) if rng.random() < 0.2 else 0
        while sent < count and burst and len(running) < BESIDE:
            request = stream.next()
            running[request] = False
            engine.submit(request)
            sent += 1
            burst -= 1
        if running and rng.random() < CANCELS:
            given_up = list(running)[rng.integers(len(running))]
            running[given_up] = True
            engine.cancel(given_up)
        for reply in engine.poll(0):
            cancelled = running.pop(reply.request, None)
            if cancelled is None:
                found.faults.append("a reply to nothing, or a second one")
                continue
            found.faults += faults(reply, cancelled)
            kinds[_kind(reply)] += 1
            if reply.error is None:
                kept.append(reply)
                if isinstance(reply.request, Generate):
                    stream.took(reply.request, reply.result)
        polls += 1
        if polls % EVERY == 0:
            engine.check()
            found.looks += 1
    engine.check()
    if engine.held or engine.poll(0):
        found.faults.append(f"{engine.held} slots are held, though nothing runs")
    found.looks += 1
    found.kinds = dict(kinds)
    counts = engine.counts
    found.passes = counts.passes
    found.rows = counts.rows
    found.read = counts.read
    found.peak = counts.peak
    return kept


def faults(reply: Reply, cancelled: bool) -> list[str]:
    """What is wrong with a reply by itself, whatever the model says."""
    request = reply.request
    result = reply.result
    usage = reply.usage
    if isinstance(reply.error, Cancelled):
        return [] if cancelled else ["a request was given up that nobody gave up"]
    if isinstance(reply.error, NothingLeft) and isinstance(request, Generate) and request.avoid:
        return []
    if reply.error is not None:
        return [f"{type(reply.error).__name__}: {reply.error}"]
    assert isinstance(request, (Generate, Score))
    wrong = []
    if usage.prefilled + usage.reused != len(tokens_of(request)):
        wrong.append(f"{usage.prefilled} + {usage.reused} tokens read of {len(tokens_of(request))}")
    if isinstance(request, Generate):
        if usage.generated != len(result.tokens) or len(result.tokens) > request.max_tokens:
            wrong.append(f"{len(result.tokens)} of {request.max_tokens}, {usage.generated} counted")
        if result.tokens in map(attrgetter("tokens"), request.avoid):
            wrong.append("a text came that was to be avoided")
    return wrong


def _kind(reply: Reply) -> str:
    request = reply.request
    if reply.error is not None:
        return "cancelled" if isinstance(reply.error, Cancelled) else type(reply.error).__name__
    if isinstance(request, Score):
        return "read"
    assert isinstance(request, Generate)
    if request.avoid:
        return "avoiding"
    return "sampled" if request.temperature else "greedy"


# -- against transformers


def check_greedy(reference: Any, tokenizer: Any, replies: Sequence[Reply], found: Round) -> None:
    """Compare all greedy texts with those of `generate`."""
    greedy = [reply for reply in replies if _kind(reply) == "greedy"]
    greedy.sort(key=lambda reply: (reply.request.max_tokens, len(reply.request.prompt)))  # type: ignore[attr-defined]
    for begin in range(0, len(greedy), BATCH):
        batch = greedy[begin : begin + BATCH]
        written = continued(reference, list(map(attrgetter("request"), batch)))
        for reply, tokens in zip(batch, written, strict=True):
            request = reply.request
            assert isinstance(request, Generate)
            wanted, text = until_stop(tokenizer, tokens[: request.max_tokens], request.stop)
            mine = reply.result.tokens
            found.compared += 1
            found.tokens += len(mine)
            if mine == wanted:
                whole = "\ufffd" not in text and reply.result.finish == "stop"
                if whole and reply.result.text != text:
                    found.wrong.append(f"{reply.result.text!r} for the tokens of {text!r}")
                continue
            gap, at = parted(reference, request.prompt, mine, wanted)
            if gap < NEAR:
                found.ties.append(gap)
            else:
                found.wrong.append(f"token {at} of {wanted}: {mine}, {gap:.4g} behind")


def continued(reference: Any, requests: Sequence[Generate]) -> list[tuple[int, ...]]:
    """What `generate` writes below each prompt, in one batch: up to the first end, which counts."""
    import torch

    longest = max(len(request.prompt) for request in requests)
    ids = torch.zeros(len(requests), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, longest - len(request.prompt) :] = torch.tensor(request.prompt)
        mask[row, longest - len(request.prompt) :] = 1
    most = max(request.max_tokens for request in requests)
    out = reference.generate(
        ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=0
    )
    ends = ends_of(reference)
    written = out[:, longest:].tolist()
    return [tuple(tokens[: length(tokens, ends)]) for tokens in written]


def until_stop(
    tokenizer: Any, tokens: tuple[int, ...], stop: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """The tokens up to the one in which a stop string completes, and the text before that
    string.
    """
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(list(tokens[:count]), clean_up_tokenization_spaces=False)
        places = [text.find(one) for one in stop if one in text]
        if places:
            return tokens[:count], text[: min(places)]
    return tokens, tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)


def parted(
    reference: Any, prompt: tuple[int, ...], mine: Sequence[int], wanted: Sequence[int]
) -> tuple[float, int]:
    """How far apart the logits of the first two tokens that differ are, and where; inf where one
    text only ends earlier.
    """
    import torch

    at = parting(mine, wanted)
    if at is None:
        return float("inf"), min(len(mine), len(wanted))
    with torch.inference_mode():
        logits = reference(torch.tensor([[*prompt, *wanted[:at]]])).logits[0, -1]
    return abs(float(logits[wanted[at]] - logits[mine[at]])), at


def off(reference: Any, reply: Reply) -> float:
    """Largest difference between a reply's log-probs and those of one pass of transformers over
    its text.
    """
    import torch

    request = reply.request
    assert isinstance(request, (Generate, Score))
    text = tokens_of(request)
    begin = 1
    if isinstance(request, Generate):
        begin = len(text)
        text += reply.result.tokens
    with torch.inference_mode():
        logits = reference(torch.tensor([text])).logits[0].float()
    wanted = torch.log_softmax(logits, -1).numpy()[
        np.arange(begin - 1, len(text) - 1), text[begin:]
    ]
    own = reply.result.log_probs[-len(wanted) :] if len(wanted) else wanted
    return float(np.abs(own - wanted).max(initial=0.0))


# -- without company


def check_alone(
    engine: Engine, reference: Any, replies: Sequence[Reply], count: int, found: Round
) -> None:
    """Ask some of what was not greedy again, each by itself in an empty pool."""
    others = [reply for reply in replies if _kind(reply) != "greedy"]
    rng = np.random.default_rng(found.seed)
    for place in sorted(rng.permutation(len(others))[:count].tolist()):
        reply = others[place]
        engine.clear()
        request = dataclasses.replace(reply.request)
        engine.submit(request)
        again: list[Reply] = []
        while not again:
            again = engine.poll(0)
        found.alone += 1
        found.off = max(found.off, off(reference, reply))
        if apart := others_of(reply.result, again[0].result):
            found.company.append(
                f"{_kind(reply)}: another {', '.join(apart)} than alone for {request}"
            )


def others_of(one: Any, other: Any) -> list[str]:
    """Names of the fields in which two results are not the same to the last bit; "kind" where
    one is none.
    """
    if type(one) is not type(other):
        return ["kind"]
    found = []
    for each in dataclasses.fields(one):
        a = getattr(one, each.name)
        b = getattr(other, each.name)
        if not np.array_equal(a, b, equal_nan=isinstance(a, (float, np.ndarray))):
            found.append(each.name)
    return found


# -- the command


def examined(engine: Engine, reference: Any, count: int, seed: int, alone: int) -> Round:
    """One round: `count` requests to an engine, whose counts begin anew, and what is wrong with
    them.

    reference  the same model as transformers computes it, in float32
    """
    start = time.process_time()
    engine.clear()
    engine.counts = type(engine.counts)()
    found = Round(seed)
    stream = Stream(seed, stems(engine.tokenizer, seed))
    replies = soak(engine, stream, count, found)
    check_greedy(reference, engine.tokenizer, replies, found)
    check_alone(engine, reference, replies, alone, found)
    found.cpu = time.process_time() - start
    return found


def lines(rounds: Sequence[Round]) -> list[str]:
    """A table's lines, a round each and then all."""
    kinds = ("greedy", "sampled", "avoiding", "read", "cancelled", "NothingLeft")
    rest = (
        "passes, rows a pass, peak of the pool, looks, greedy tokens, near-ties, wrong, "
        "asked alone, otherwise, largest difference, faults, CPU s"
    )
    rendered = [row_of(["seed", *kinds, *rest.split(", ")])]
    for one in rounds:
        rows = f"{one.rows / max(1, one.passes):.1f}"
        cells: list[Any] = [one.seed, *(one.kinds.get(kind, 0) for kind in kinds)]
        cells += [one.passes, rows, one.peak, one.looks]
        cells += [one.tokens, len(one.ties), len(one.wrong), one.alone]
        cells += [len(one.company), f"{one.off:.1e}", len(one.faults), f"{one.cpu:.0f}"]
        rendered.append(row_of(map(str, cells)))
    return rendered


def main(
    model: Annotated[Path, typer.Option(help="Folder of a model.")],
    requests: Annotated[int, typer.Option(min=1, help="In all.")] = 2000,
    each: Annotated[int, typer.Option(min=1, help="Of a round.")] = 250,
    alone: Annotated[
        int, typer.Option(min=0, help="Asked again by themselves, of each round.")
    ] = 20,
    slots: Annotated[int, typer.Option(min=1, help="Rows of a pass at most.")] = 24,
    pool: Annotated[int, typer.Option(min=200, help="Tokens of the pool.")] = 3000,
    seed: Annotated[int, typer.Option(help="Of the first round; the next has the next.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="JSON of all rounds; a run goes on from it.")
    ] = None,
) -> None:
    """Soak an engine, compare, and print a table."""
    os.environ.update(ONE_THREAD)
    import torch
    from transformers import AutoModelForCausalLM

    from guides.engines import load_engine

    torch.set_num_threads(1)
    rounds: list[Round] = []
    if out is not None and out.exists():
        rounds = [Round(**one) for one in json.loads(out.read_text())]
    done = sum(sum(one.kinds.values()) for one in rounds)
    if done < requests:
        engine = load_engine(model, "cpu", "float32", slots, pool).engine
        reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    while done < requests:
        count = min(each, requests - done)
        rounds.append(examined(engine, reference, count, seed + len(rounds), alone))  # type: ignore[arg-type]
        done += count
        log.info(
            "%d of %d requests, %.0f s, bad: %s", done, requests, rounds[-1].cpu, rounds[-1].bad
        )
        if out is not None:
            with atomic(out) as part:
                part.write_text(json.dumps(list(map(asdict, rounds))))
    typer.echo(table(lines(rounds)))
    for one in rounds:
        for what in (*one.wrong, *one.company, *one.faults):
            typer.echo(f"seed {one.seed}: {what}")
    if any(map(attrgetter("bad"), rounds)):
        raise typer.Exit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    typer.run(main)
