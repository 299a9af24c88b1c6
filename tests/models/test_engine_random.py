"""Random trees of requests that come, go and are cancelled at random times: every answer is that
of the model's own forward pass.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import families
import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import Engine
from models.engine.sampling import noise
from search.scheduling.requests import Cancelled, Generate, RequestFailed, Score

CONTEXT = 60
SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
STOPS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
MODELS = {name: families.model(name) for name in ("llama", "mistral window", "gemma3")}
MODELS["gemma3 double"] = families.model("gemma3").double()  # attention by torch
SPELLED = [tiny.tokenizer().decode([token]) for token in range(families.VOCAB)]
HEADS = {
    name: tiny.head(made.config.hidden_size).requires_grad_(False) for name, made in MODELS.items()
}


@dataclass
class Asked:
    """One request of a random tree. parent: which earlier text it goes on from, of that `keep`
    tokens; own: tokens of its own.
    """

    parent: int
    keep: int
    own: list[int]
    most: int
    temperature: float
    seed: int
    stops: int
    score: bool


TOKENS = st.integers(0, 255)
ASKED = st.builds(
    Asked,
    parent=st.integers(0, 40),
    keep=st.integers(0, 60),
    own=st.lists(TOKENS, max_size=25),
    most=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 1.0, 1.0, 0.6]),
    seed=st.integers(0, 3),
    stops=st.integers(0, len(STOPS)),
    score=st.sampled_from([False, False, False, True]),
)
#: What happens, in order: a request comes; so many polls; an earlier request is cancelled.
EVENTS = st.lists(
    st.one_of(ASKED, ASKED, st.integers(1, 6), st.tuples(st.integers(0, 40))),
    min_size=5,
    max_size=40,
)


def made_request(asked: Asked, texts: list[tuple[int, ...]]) -> Any:
    """The request, below a text that is there already."""
    start = texts[asked.parent % len(texts)][: asked.keep] if texts else ()
    tokens = start + tuple(asked.own) or (7,)
    if asked.score:
        return Score(
            tokens, tuple(sorted({len(tokens) - 1, asked.seed % len(tokens)})), (1, asked.seed)
        )
    return Generate(tokens, STOPS[: asked.stops], asked.most, asked.temperature, seed=asked.seed)


def check_generated(made, head, request, result):
    """Against one pass over the text. A token may be another than the likeliest (of the race)
    only where the two run neck and neck.
    """
    count, start = len(result.tokens), len(request.prompt) - 1
    logits, hidden = families.forward(made, request.prompt + result.tokens)
    logits = logits[start : start + count]
    rows, tokens = np.arange(count), np.array(result.tokens)
    table = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
    score = table
    if request.temperature:
        race = noise(
            np.full(count, request.seed, np.uint64),
            rows,
            np.arange(table.shape[1], dtype=np.uint32)[None],
        )
        score = table / np.float32(request.temperature) - np.log(race)
    assert (score.max(1) - score[rows, tokens] < 1e-3).all()
    np.testing.assert_allclose(result.log_probs, table[rows, tokens], atol=2e-5)
    ends = [token == 256 or SPELLED[token] in request.stop for token in result.tokens]
    assert (
        ends == [False] * (count - 1) + [result.finish != "length"] and count <= request.max_tokens
    )
    assert result.finish != "length" or count == min(
        request.max_tokens, CONTEXT - len(request.prompt)
    )
    if result.finish == "length":
        assert np.isnan(result.value)
    else:
        assert abs(result.value - float(head(hidden[-1]))) < 2e-5


def check_scored(made, head, request, result):
    logits, hidden = families.forward(made, request.tokens)
    table, count = torch.log_softmax(torch.from_numpy(logits), -1).numpy(), len(request.tokens)
    at = list(request.positions)
    np.testing.assert_allclose(
        result.log_probs[1:], table[np.arange(count - 1), request.tokens[1:]], atol=2e-5
    )
    np.testing.assert_allclose(result.reads, table[at][:, list(request.read)], atol=2e-5)
    np.testing.assert_allclose(result.values, head(hidden[at]), atol=2e-5)


def check_reply(made, head, reply, cancelled):
    request, usage = reply.request, reply.usage
    tokens = request.prompt if isinstance(request, Generate) else request.tokens
    if isinstance(reply.error, Cancelled):
        assert request in cancelled and usage.prefilled + usage.reused <= len(tokens)
        assert (
            isinstance(request, Generate)
            and usage.generated <= request.max_tokens
            or usage.generated == 0
        )
        return
    if len(tokens) > CONTEXT - isinstance(request, Generate):
        assert isinstance(reply.error, RequestFailed) and usage.generated == usage.prefilled == 0
        return
    assert reply.error is None, reply.error
    assert usage.prefilled + usage.reused == len(tokens)
    if isinstance(request, Score):
        check_scored(made, head, request, reply.result)
    else:
        assert usage.generated == len(reply.result.tokens)
        check_generated(made, head, request, reply.result)


def check_answers(name, events, slots, pool, overlaps):
    """Every request is answered once, as by the model, whatever happens beside it."""
    made, head = MODELS[name], HEADS[name]
    backend = Engine(made, tiny.tokenizer(), head, slots=slots, pool_tokens=pool, context=CONTEXT)
    # the order of work on a GPU: rows are answered by the poll after their last pass
    backend._overlaps = overlaps
    requests, replies, texts, cancelled = [], [], [(1, 2, 3)], set()

    def poll():
        for reply in backend.poll(0):
            replies.append(reply)
            if isinstance(reply.request, Generate) and reply.error is None:
                texts.append(reply.request.prompt + reply.result.tokens)

    for event in events:
        if isinstance(event, Asked):
            requests.append(made_request(event, texts))
            texts.append(getattr(requests[-1], "prompt", ()) or requests[-1].tokens)
            backend.submit(requests[-1])
        elif isinstance(event, tuple):
            if requests:
                cancelled.add(requests[event[0] % len(requests)])
                backend.cancel(requests[event[0] % len(requests)])
        else:
            for _ in range(event):
                poll()
    for _ in range(3000):
        if len(replies) >= len(requests):
            break
        poll()
    assert Counter(reply.request for reply in replies) == Counter(requests) and not backend.poll(0)
    assert pool is None or backend.counts.peak <= pool
    for reply in replies:
        check_reply(made, head, reply, cancelled)
    backend.clear()
    for reply in replies[:1]:
        tokens = getattr(reply.request, "prompt", None) or reply.request.tokens
        again = tiny.answers(
            backend, [Generate(tokens[: CONTEXT - 1], max_tokens=3, temperature=0)]
        )[0]
        check_reply(made, head, again, set())
        assert again.usage.reused == 0


GIVEN = given(
    events=EVENTS,
    slots=st.integers(1, 20),
    pool=st.one_of(st.none(), st.integers(CONTEXT, 400)),
    overlaps=st.booleans(),
)


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODELS)
@settings(SETTINGS, max_examples=8)
@GIVEN
def test_random_trees_of_requests_are_answered_as_by_the_model_once_each(
    name, events, slots, pool, overlaps
):
    check_answers(name, events, slots, pool, overlaps)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@settings(SETTINGS, max_examples=1500)
@GIVEN
def test_very_many_random_trees_of_requests(name, events, slots, pool, overlaps):
    check_answers(name, events, slots, pool, overlaps)


@st.composite
def trees(draw):
    """Levels of a tree: each node its parent's place in the level above and tokens of its own
    (perhaps none below a root).
    """
    levels = []
    for depth in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 4))
        nodes = [
            (draw(st.integers(0, 30)), draw(st.lists(TOKENS, min_size=not depth, max_size=9)))
            for _ in range(count)
        ]
        levels.append(nodes)
    return levels


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODELS)
@settings(SETTINGS, max_examples=8)
@given(levels=trees(), slots=st.integers(1, 20), seeds=st.integers(1, 2))
def test_while_the_pool_suffices_nothing_is_read_twice(name, levels, slots, seeds):
    """Steps that end by a stop string, each below another's end or beside others that begin
    alike, whoever read or drew that before.
    """
    backend = Engine(MODELS[name], tiny.tokenizer(), slots=slots)
    if backend.path == "plain":
        pytest.skip("a plain forward stores nothing")
    above: list[tuple[int, ...]] = [()]
    known: set[tuple[int, ...]] = set()
    for level in levels:
        prompts = []
        for parent, own in level:
            start = above[parent % len(above)]
            if 0 < len(start) + len(own) < 100:
                prompts.append(start + tuple(own))
        above = []
        for reply in tiny.answers(
            backend,
            [
                Generate(prompt, STOPS, 150, 1.5, seed=seed)
                for prompt in prompts
                for seed in range(seeds)
            ],
        ):
            assert reply.result.finish != "length"
            above.append(reply.request.prompt + reply.result.tokens)
            known.update(above[-1][:end] for end in range(1, len(above[-1]) + 1))
        if not above:
            break
    assert backend.counts.read == backend.counts.stored == len(known)


@pytest.mark.thorough
def test_a_long_prompt_takes_several_passes_which_may_be_left_in_the_middle():
    made = tiny.model(max_position_embeddings=8192)
    head = tiny.head().requires_grad_(False)
    backend, text = (
        Engine(made, tiny.tokenizer(), head, slots=4),
        tuple(np.random.default_rng(0).integers(0, 256, 4_500).tolist()),
    )
    left = Generate(text[:4_300], max_tokens=5)
    backend.submit(left)
    backend.poll(0)
    backend.cancel(left)
    assert 0 < tiny.drain(backend, 1)[0].usage.prefilled < 4_300
    asked = [Generate(text[:n] + (7,), max_tokens=5, temperature=0) for n in (3, 2_500, 4_300)]
    replies = tiny.answers(backend, [*asked, Score(text, (0, 2_047, 2_048, 4_499), (1, 2))])
    logits, hidden = families.forward(made, text)
    table, at = torch.log_softmax(torch.from_numpy(logits), -1).numpy(), [0, 2_047, 2_048, 4_499]
    scored = replies.pop().result
    np.testing.assert_allclose(scored.log_probs[1:], table[np.arange(4_499), text[1:]], atol=5e-5)
    np.testing.assert_allclose(scored.reads, table[at][:, [1, 2]], atol=5e-5)
    np.testing.assert_allclose(scored.values, head(hidden[at]), atol=5e-5)
    for request, reply in zip(asked, replies, strict=True):
        logits, _ = families.forward(made, request.prompt + reply.result.tokens)
        assert tuple(logits[len(request.prompt) - 1 : -1].argmax(1).tolist()) == reply.result.tokens
    assert backend.counts.read < 4_500 + 100


@pytest.mark.thorough
@pytest.mark.parametrize("polls", [0, 3])
def test_after_a_pass_that_was_interrupted_nothing_half_read_is_taken_for_read(polls, monkeypatch):
    """Ctrl-C, or any error of the model, in the middle of a prompt (polls=0) or of a step; then
    the same request again.
    """
    made, head = MODELS["llama"], HEADS["llama"]
    backend, tokens = (
        Engine(made, tiny.tokenizer(), head, slots=4, context=CONTEXT),
        tuple(range(1, 9)),
    )

    def interrupted(*args):
        raise KeyboardInterrupt

    first = Generate(tokens, max_tokens=20, temperature=0)
    backend.submit(first)
    for _ in range(polls):
        assert not backend.poll(0)
    with monkeypatch.context() as patch:
        patch.setattr(backend._pass, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backend.poll(0)
    backend.cancel(first)
    assert isinstance(tiny.drain(backend, 1)[0].error, Cancelled)
    check_reply(
        made,
        head,
        tiny.answers(backend, [Generate(tokens, max_tokens=20, temperature=0)])[0],
        set(),
    )
