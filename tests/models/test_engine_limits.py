"""Other architectures, memory that runs out, interrupted passes, draws without replacement."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
import tiny
import torch
from engine_cases import (
    answers,
    architecture,
    check_pool,
    engine,
    expected,
    forward,
    prompts,
    script,
)

from models.engine.engine import Engine
from models.engine.prefix_tree import PrefixTree
from search.scheduling.requests import (
    Avoided,
    Cancelled,
    Generate,
    NothingLeft,
    check_backend,
)

ARCHITECTURES = {
    "Qwen3": "lean",
    "Mistral": "lean",
    "Mixtral": "modules",
    "GPT2": "modules",
    "Gemma2": "modules",
    "Cohere": "plain",
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(name):
    made = architecture(name)
    backend = Engine(made, tiny.tokenizer(), slots=3)
    assert backend.path == ARCHITECTURES[name]
    for reply in answers(backend, [Generate(p, max_tokens=8, temperature=0) for p in prompts(5)]):
        assert reply.result.tokens == expected(made, reply.request.prompt, 8)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, options",
    [
        ("Mistral", {"sliding_window": 8}),
        ("Gemma2", {"sliding_window": 8, "attn_logit_softcapping": 2.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sliding_windows_and_soft_caps(name, options, dtype):
    made = architecture(name, **options).to(dtype)
    made.set_attn_implementation("eager")  # sdpa of transformers 5.17 leaves soft caps out
    backend = Engine(made, tiny.tokenizer(), slots=3)
    assert backend.path == ("lean" if name == "Mistral" and dtype == torch.float32 else "modules")
    for reply in answers(backend, [Generate(p, max_tokens=16, temperature=0) for p in prompts(9)]):
        assert reply.result.tokens == expected(made, reply.request.prompt, 16)


@pytest.mark.thorough
def test_bfloat16_is_near():
    model, exact = tiny.model().to(torch.bfloat16), tiny.model()
    backend = Engine(model, tiny.tokenizer(), tiny.head(), slots=4)
    assert backend.path == "lean"
    for reply in answers(
        backend, [Generate(p, max_tokens=10, seed=i, stop=("q",)) for i, p in enumerate(prompts(8))]
    ):
        prompt, got = reply.request.prompt, reply.result
        log_probs, _ = forward(exact, prompt + got.tokens)
        at = np.arange(len(prompt) - 1, len(prompt) + len(got.tokens) - 1)
        assert np.abs(got.log_probs - log_probs[at, got.tokens]).max() < 0.5


def test_out_of_memory_halves_the_slots_and_draws_the_same(monkeypatch):
    backend, requests = (
        engine(slots=8),
        [Generate(p, max_tokens=9, seed=i) for i, p in enumerate(prompts(12))],
    )
    forward, calls = backend._pass.forward, []

    def scarce(last, length, active, chunks):
        calls.append(len(backend._rows.running))
        if len(backend._rows.running) > 4 and len(calls) > 3 or backend.slots == 1:
            raise torch.OutOfMemoryError
        return forward(last, length, active, chunks)

    monkeypatch.setattr(backend._pass, "forward", scarce)
    for request in requests:
        backend.submit(request)
    replies = []
    while backend.slots == 8:
        replies += backend.poll(0)
    assert backend.slots == 4 and list(backend._queue) == [
        r for r in requests if all(r is not reply.request for reply in replies)
    ]
    replies = sorted(
        replies + tiny.drain(backend, 12 - len(replies)), key=lambda reply: reply.request.seed
    )
    for a, b in zip(
        replies, answers(engine(), [dataclasses.replace(r) for r in requests]), strict=True
    ):
        assert a.result.tokens == b.result.tokens
    backend.slots = 1
    backend.submit(Generate((1,)))
    with pytest.raises(MemoryError, match="pool"):
        backend.poll(0)


@pytest.mark.parametrize("kind", ["llama", "cohere"])
def test_the_pool_is_let_go_before_another_is_made_and_by_close(kind, monkeypatch):
    backend = engine(kind, slots=4)
    first, make = weakref.ref(backend._store.pool), type(backend._store)

    def made(*args):
        assert first() is None
        return make(*args)

    def full(*args):
        monkeypatch.undo()
        monkeypatch.setattr("models.engine.engine.Store", made)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(backend._pass, "forward", full)
    reply = answers(backend, [Generate((1, 2, 3), max_tokens=3)])[0]
    assert reply.error is None and backend.slots == 2
    second = weakref.ref(backend._store.pool)
    backend.submit(Generate((1, 2, 3), max_tokens=3))
    backend.poll(0)
    backend.close()
    assert second() is None and not backend.poll(0)
    with pytest.raises(RuntimeError, match="closed: make a new one"):
        backend.clear()


def test_nobody_finds_what_an_interrupted_pass_has_not_read(monkeypatch):
    backend, text = engine(), prompts(1)[0]
    whole = Generate(text, max_tokens=3, temperature=0)
    for passes in (0, 2):  # while the prompt is read; while a token is passed
        backend.submit(whole)
        for _ in range(passes):
            backend.poll(0)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(backend._pass, "forward", interrupted)
            backend.poll(0)
        backend.cancel(whole)
        assert isinstance(tiny.drain(backend, 1)[0].error, Cancelled)
        check_pool(backend)
        again = answers(backend, [Generate(text, max_tokens=5, temperature=0)])[0]
        assert again.result.tokens == expected(
            backend.model, text, 5
        ) and again.usage.prefilled == (0 if passes else len(text))
        backend.clear()


def interrupted(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{"slots": 0}, {"context": 0}, {"context": -3}])
def test_slots_and_contexts_that_are_impossible_are_refused(options):
    with pytest.raises(ValueError, match="impossible: give at least 1"):
        engine(**options)


def test_a_pool_beyond_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("models.engine.kv_pool.LARGE", 0)
    monkeypatch.setattr("models.engine.kv_pool.memory_left", lambda: 1000)
    with pytest.raises(ValueError, match="are left: give a smaller pool_tokens"):
        engine(pool_tokens=1000)
    with pytest.raises(ValueError, match="pool of 0 tokens"):
        engine(pool_tokens=0)


@pytest.mark.parametrize(
    "size", [{"pool_tokens": 10**8}, {"pool_tokens": 10**12}, {"slots": 10**9}], ids=str
)
def test_what_no_memory_holds_is_refused_before_anything_is_made(size):
    """A pool of 10^8 tokens of this tiny model takes 77 GB; no array of that size is asked for."""
    with pytest.raises(ValueError, match="give a smaller pool_tokens|too large: give at most"):
        engine(**size)


def test_new_weights_need_a_clear():
    backend = engine()
    request = Generate(prompts(1)[0], max_tokens=20, temperature=0)
    backend.submit(request)
    backend.poll(0)
    with pytest.raises(RuntimeError, match="still run"):
        backend.clear()
    tiny.drain(backend, 1)
    with torch.no_grad():
        for parameter in backend.model.parameters():
            parameter.mul_(1.1).add_(torch.randn_like(parameter) * 0.02)
    backend.clear()
    reply = answers(backend, [dataclasses.replace(request)])[0]
    assert reply.usage.reused == 0 and reply.result.tokens == expected(
        backend.model, request.prompt, 20
    )
    backend.close()
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(request)


def test_examiner_passes_the_engine_and_catches_a_cheat():
    check_backend(engine(), lambda i: Generate((i, 7), max_tokens=6, seed=i))
    check_backend(engine(), lambda i: Generate((i, 7), stop=("q",), max_tokens=30, seed=i, top_k=5))
    cheat = engine()
    join = cheat._rows.join

    def by_slot(row, texts):  # draws that depend on the slot
        join(row, texts)
        cheat._rows._seed[row.slot] = row.slot

    cheat._rows.join = by_slot
    with pytest.raises(AssertionError, match="another result alone"):
        check_backend(cheat, lambda i: Generate((i, 7), max_tokens=6, seed=i))


def test_an_engine_works_beside_the_models_own_generate():
    backend = engine()
    backend.submit(Generate((1, 2, 3), max_tokens=5, temperature=0))
    backend.poll(0)
    before = expected(backend.model, (1, 2, 3), 5)
    assert tiny.drain(backend, 1)[0].result.tokens == before


def test_the_tree_against_a_dictionary_of_prefixes():
    """Texts join, grow, end and are forgotten in a pool that is too small: a slot always holds
    the token of exactly one prefix.
    """
    rng, tree = np.random.default_rng(0), PrefixTree(64)
    owner, running = {}, []  # slot -> the prefix whose last token it holds

    def places(number):
        return running[number][1][: len(running[number][0])]

    for _ in range(4000):
        act = rng.integers(4)
        if act == 0:
            tokens, room = rng.integers(0, 3, rng.integers(1, 12)), np.full(40, -1, np.int32)
            known, fresh = tree.look(tokens)
            if tree.held + fresh <= tree.capacity - 10:
                tree.join(tokens, known, room[: len(tokens)])
                slots = room[: len(tokens)].tolist()
                assert [owner[slot] for slot in slots[:known]] == [
                    tuple(tokens[: i + 1].tolist()) for i in range(known)
                ]
                assert not tree.ready[slots[known:]].any() or known == len(tokens)
                owner |= {slot: tuple(tokens[: i + 1].tolist()) for i, slot in enumerate(slots)}
                tree.ready[slots] = 1
                running.append((tokens.tolist(), room))
        elif act == 1 and running and tree.held + len(running) <= tree.capacity:
            drawn = rng.integers(0, 3, len(running))
            new = tree.step(np.array([places(i)[-1] for i in range(len(running))], np.int64), drawn)
            for (tokens, room), token, slot in zip(
                running, drawn.tolist(), new.tolist(), strict=True
            ):
                if tree.ready[slot]:
                    assert owner[slot] == (*tokens, token), (
                        "what is ready was read below the very same prefix"
                    )
                owner[slot] = (*tokens, token)
                room[len(tokens)] = slot
                tokens.append(token)
            tree.ready[new] = 1
        elif running and (act == 2 or len(running) > 4):
            number = rng.integers(len(running))
            tree.leave(places(number))
            del running[number]
        running = [pair for pair in running if len(pair[0]) < 39] + [
            pair for pair in running if len(pair[0]) >= 39
        ]
        for tokens, room in running:
            assert [owner[slot] for slot in room[: len(tokens)].tolist()] == [
                tuple(tokens[: i + 1]) for i in range(len(tokens))
            ]
        if running and len(running[-1][0]) >= 39:
            tree.leave(places(-1))
            del running[-1]
        if rng.integers(20) == 0:
            tree.check([places(i) for i in range(len(running))])
    assert tree.ever > 2000
    with pytest.raises(MemoryError, match="held"):
        tree.join(np.arange(3, 70), 0, np.empty(67, np.int32))


def test_what_was_never_read_does_not_stay():
    tree, first, second = PrefixTree(10), np.empty(3, np.int32), np.empty(4, np.int32)
    tree.join(np.array([1, 2, 3]), 0, first)
    tree.ready[first[:2]] = 1
    tree.join(np.array([1, 2, 3, 4]), 3, second)
    tree.leave(first)
    assert tree.stored == 4 and tree.held == 4
    tree.leave(second)
    assert tree.stored == 2 and tree.held == 0 and tree.look(np.array([1, 2, 3]))[0] == 2


PROMPT = (0, 2, 1)


def few():
    """An engine that can say 40 things after `PROMPT` in at most three tokens, token 3 ends; and
    the log-probs of each one's tokens.
    """
    model = tiny.model(vocab=4, eos_token_id=3)
    table = {}
    for tokens in (
        [(3,)]
        + [(a, 3) for a in range(3)]
        + [(a, b, c) for a in range(3) for b in range(3) for c in range(4)]
    ):
        log_probs, _ = forward(model, PROMPT + tokens)
        table[tokens] = [float(log_probs[len(PROMPT) - 1 + i, t]) for i, t in enumerate(tokens)]
    assert abs(sum(np.exp(sum(each)) for each in table.values()) - 1) < 1e-5 and min(
        map(sum, table.values())
    ) > np.log(1e-5)
    return Engine(model, tiny.tokenizer()), table


def avoided(result):
    return Avoided(result.tokens, tuple(result.log_probs.tolist()))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 1},
        {"top_k": 2, "top_p": 0.6, "min_p": 0.1},
    ],
)
def test_draws_without_replacement_say_everything_once_and_then_report_the_end(options):
    backend, table = few()
    drawn = []
    for seed in range(len(table)):
        request = Generate(
            PROMPT, max_tokens=3, seed=seed, avoid=tuple(map(avoided, drawn)), **options
        )
        drawn.append(answers(backend, [request])[0].result)
        np.testing.assert_allclose(drawn[-1].log_probs, table[drawn[-1].tokens], atol=1e-5)
    assert {result.tokens for result in drawn} == set(table)
    end = answers(backend, [Generate(PROMPT, max_tokens=3, avoid=tuple(map(avoided, drawn)))])[0]
    assert isinstance(end.error, NothingLeft) and end.usage.generated == 0
    check_pool(backend)


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 12])
def test_what_is_drawn_beside_the_avoided_has_exactly_the_conditional_distribution(count):
    backend, table = few()
    likeliest = sorted(table, key=lambda tokens: -sum(table[tokens]))
    avoid = tuple(Avoided(tokens, tuple(table[tokens])) for tokens in likeliest[:count])
    n = 2000
    got = [
        r.result
        for r in answers(
            backend, [Generate(PROMPT, max_tokens=3, seed=seed, avoid=avoid) for seed in range(n)]
        )
    ]
    p = {tokens: np.exp(sum(table[tokens])) for tokens in likeliest[count:]}
    share = {tokens: p[tokens] / sum(p.values()) for tokens in p}
    seen = {tokens: sum(g.tokens == tokens for g in got) for tokens in p}
    assert sum(seen.values()) == n
    statistic = sum((seen[t] - n * share[t]) ** 2 / (n * share[t]) for t in p)
    assert (statistic - len(p) + 1) / np.sqrt(2 * (len(p) - 1)) < 4
    for result in got[:50]:
        assert result.sampled_log_probs.sum() == pytest.approx(
            np.log(share[result.tokens]), abs=1e-4
        )
        np.testing.assert_allclose(result.log_probs, table[result.tokens], atol=1e-5)


def test_what_one_row_avoids_is_nothing_to_its_neighbours():
    backend, table = few()
    order = sorted(table)

    def request(seed):
        taken = np.random.default_rng(seed).choice(len(order), size=(seed % 4) * 12, replace=False)
        return Generate(
            PROMPT,
            max_tokens=3,
            seed=seed,
            avoid=tuple(Avoided(order[i], tuple(table[order[i]])) for i in taken),
        )

    together = [r.result.tokens for r in answers(backend, [request(seed) for seed in range(64)])]
    for seed in range(64):
        assert answers(backend, [request(seed)])[0].result.tokens == together[seed]
        if seed % 4 == 0:
            assert (
                answers(backend, [Generate(PROMPT, max_tokens=3, seed=seed)])[0].result.tokens
                == together[seed]
            )


def test_a_token_that_must_follow_is_the_end_where_it_is_avoided():
    """Recorded log-probs a little off: the row walks into a branch of which nothing is left, and
    says so.
    """
    model = tiny.model()
    script(model, tiny.tokenizer().encode("abc"))
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    backend = Engine(model, tiny.tokenizer())
    first = answers(backend, [Generate((5,), max_tokens=3)])[0].result
    assert first.text == "abc" and not first.log_probs.any()
    off = Avoided(first.tokens, (-0.1, 0.0, 0.0))
    other, same = answers(
        backend, [Generate((5,), max_tokens=3, avoid=(off,)), Generate((5,), max_tokens=3)]
    )
    assert isinstance(other.error, NothingLeft) and same.result.tokens == first.tokens
    check_pool(backend)


@pytest.mark.parametrize(
    "bad", [Avoided((), ()), Avoided((1, 2), (-0.5,)), Avoided((1,), (float("nan"),))]
)
def test_what_to_avoid_needs_its_log_probs(bad):
    with pytest.raises(ValueError, match="log-prob of each"):
        engine().submit(Generate((5,), avoid=(bad,)))


def test_the_longest_unused_text_is_forgotten_first_from_its_end():
    """Whole ends of old texts go, not a token of each; what several texts share stays as long as
    the latest of them.
    """
    tree = PrefixTree(64)
    # 2 shared tokens, then 10 of its own each
    texts = [np.array([7, 8, *range(10 * i, 10 * i + 10)]) for i in (1, 2, 3)]
    for text in texts:
        places = np.empty(len(text), np.int32)
        tree.join(text, tree.look(text)[0], places)
        tree.ready[places] = 1
        tree.leave(places)
    assert tree.look(texts[0]) == (12, 12)  # all there, none held
    for left in ([12, 12, 12], [5, 12, 12], [2, 8, 12], [2, 2, 11], [2, 2, 4], [0, 0, 0]):
        assert [tree.look(text)[0] for text in texts] == left
        tree._make_room(tree.capacity - tree.stored + min(7, tree.stored))
    tree.check([])


def test_what_is_held_stays_when_all_that_follows_it_is_forgotten():
    tree, held, more = PrefixTree(32), np.empty(4, np.int32), np.empty(9, np.int32)
    tree.join(np.arange(4), 0, held)
    tree.join(np.arange(9), 4, more)  # uses what is held, too
    tree.ready[more] = 1
    tree.leave(more)
    assert tree.look(np.arange(9)) == (9, 5)  # five of nine would be held newly
    with pytest.raises(MemoryError, match="29 cells are wanted and 28 of 32 are free, 4 held"):
        tree._make_room(29)
    tree.check([held])
    assert tree.stored == 4 and tree.look(np.arange(9)) == (4, 5)
