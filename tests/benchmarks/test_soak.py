"""The soak of `benchmarks.engine.soak` and the trees of `benchmarks.engine.slots`: nothing wrong
with the engine, and every cheat is found.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import fakes
import numpy as np
import pytest
import tiny

from benchmarks.engine import slots, soak
from models import Engine
from search.scheduling.requests import (
    Avoided,
    Cancelled,
    Generate,
    Generated,
    NothingLeft,
    Reply,
    RequestFailed,
    Score,
    Usage,
)

REAL = Path(os.environ.get("COPSE_TEST_MODELS") or "/nonexistent", "smollm2-135m")


def engine_of(kind=Engine, **options):
    return kind(tiny.model(), tiny.tokenizer(), **{"slots": 16, "pool_tokens": 900, **options})


def examined(engine, count=200, seed=0, alone=30):
    return soak.examined(engine, tiny.model(), count, seed, alone)


@pytest.mark.thorough
def test_random_requests_are_answered_right():
    found = examined(engine_of())
    assert not found.bad, found
    assert sum(found.kinds.values()) == 200 and found.alone == 30 and found.looks > 5
    assert (
        min(found.kinds[kind] for kind in ("greedy", "sampled", "avoiding", "read", "cancelled"))
        > 0
    )
    assert found.compared == found.kinds["greedy"] and found.tokens > found.compared
    assert found.off < 1e-4 and found.peak <= 900 and found.rows / found.passes > 4


class Muddled(Engine):
    """Gives every row the token of another, now and then."""

    def _pick(self, logits, rows):
        drawn = super()._pick(logits, rows)
        if self.counts.passes % 50 == 7:
            return dataclasses.replace(drawn, tokens=np.roll(drawn.tokens, 1))
        return drawn


class Sociable(Engine):
    """Its log-probs depend on how many rows there are."""

    def _pick(self, logits, rows):
        drawn = super()._pick(logits, rows)
        return dataclasses.replace(drawn, log_probs=drawn.log_probs - np.float32(1e-5 * len(rows)))


class Deaf(Engine):
    """Never gives up what is cancelled, and says so all the same."""

    def cancel(self, request):
        if request in self._rows.running:
            self._ready.append(Reply(request, error=Cancelled("cancelled")))


class Miser(Engine):
    """Loses a slot of the pool with every row that ends."""

    def _leave(self, row, result=None, error=None):
        self._store.tree.leave(self._store.table[row.slot, :1])
        super()._leave(row, result, error)


class Hoarder(Engine):
    """Counts what rows may still take, and does not give it back."""

    def _leave(self, row, result=None, error=None):
        super()._leave(row, result, error)
        self._reserved += 1


@pytest.mark.thorough
def test_what_other_rows_say_is_noticed():
    found = examined(engine_of(Muddled))
    assert found.wrong and found.company and found.bad


@pytest.mark.thorough
def test_log_probs_that_depend_on_company_are_noticed():
    found = examined(engine_of(Sociable))
    assert found.company and not found.wrong


@pytest.mark.thorough
def test_a_second_reply_is_noticed():
    assert "a reply to nothing, or a second one" in examined(engine_of(Deaf), alone=0).faults


@pytest.mark.parametrize(
    ("cheat", "says"),
    [(Miser, "counted wrongly|gone|lost"), (Hoarder, "may still take is counted wrongly")],
)
def test_lost_slots_are_noticed(cheat, says):
    with pytest.raises(AssertionError, match=says):
        examined(engine_of(cheat))


@pytest.mark.thorough
def test_another_model_is_noticed_and_a_near_tie_is_not():
    engine = engine_of()
    other = soak.examined(engine, tiny.model(seed=1), 60, 0, 5)
    assert other.wrong and other.off > 0.01 and not other.company
    near = tiny.model()
    near.lm_head.weight.data += 1e-6 * near.lm_head.weight.data.sign()
    assert not soak.examined(engine, near, 60, 0, 5).bad


def text_of(*tokens, prompt=(65, 66), **options):
    return Generate(prompt, max_tokens=4, **options), Generated(
        tokens, "", *(np.zeros(len(tokens), np.float32),) * 2, 0.5, "length"
    )


@pytest.mark.parametrize(
    ("error", "cancelled", "usage", "says"),
    [
        (RequestFailed("no"), False, {}, "RequestFailed: no"),
        (Cancelled("no"), False, {}, "nobody gave up"),
        (NothingLeft("no"), False, {}, "NothingLeft"),
        (None, False, {"prefilled": 3, "generated": 2}, "3 [+] 0 tokens read of 2"),
        (None, True, {"prefilled": 1, "reused": 1, "generated": 1}, "2 of 4, 1 counted"),
    ],
)
def test_faults_of_a_reply(error, cancelled, usage, says):
    request, result = text_of(1, 2)
    (told,) = soak.faults(
        Reply(request, None if error else result, error, Usage(**usage)), cancelled
    )
    assert says.replace("[+]", "+") in told


def test_what_is_no_fault():
    request, result = text_of(1, 2, avoid=(Avoided((1, 3), (-1.0, -1.0)),))
    read = Usage(prefilled=2, generated=2)
    assert not soak.faults(Reply(request, result, None, read), False)
    assert not soak.faults(Reply(request, None, NothingLeft("no")), False)
    assert not soak.faults(Reply(request, None, Cancelled("yes")), True)
    avoided = dataclasses.replace(request, avoid=(Avoided((1, 2), (-1.0, -1.0)),))
    assert soak.faults(Reply(avoided, result, None, read), False) == [
        "a text came that was to be avoided"
    ]


def test_results_are_the_same_to_the_last_bit_only():
    _, one = text_of(1, 2)
    assert soak.others_of(one, dataclasses.replace(one, value=0.5)) == [] and soak.others_of(
        one, None
    ) == ["kind"]
    for change in (
        {"value": np.nextafter(0.5, 1)},
        {"tokens": (1, 3)},
        {"log_probs": np.full(2, 1e-45, np.float32)},
    ):
        assert soak.others_of(one, dataclasses.replace(one, **change)) == list(change)


@pytest.mark.thorough
def test_the_command_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    tiny.model().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    out = tmp_path / "soak.json"
    options = {"each": 30, "alone": 3, "slots": 8, "pool": 600, "seed": 5, "out": out}
    soak.main(tmp_path / "model", requests=60, **options)
    first = json.loads(out.read_text())
    assert [row["seed"] for row in first] == [5, 6] and "| 6 |" in capsys.readouterr().out
    soak.main(tmp_path / "model", requests=75, **options)
    after = json.loads(out.read_text())
    assert after[:2] == first and sum(after[2]["kinds"].values()) == 15
    after[0]["wrong"] = ["planted"]
    out.write_text(json.dumps(after))
    with pytest.raises(soak.typer.Exit):
        soak.main(tmp_path / "model", requests=75, **options)
    assert "seed 5: planted" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_model():
    if not REAL.is_dir():
        pytest.skip("COPSE_TEST_MODELS names no folder that holds it")
    from transformers import AutoModelForCausalLM

    from guides.engines import load_engine, unload

    engine = load_engine(REAL, "cpu", "float32", 24, 1500).engine
    reference = AutoModelForCausalLM.from_pretrained(REAL, dtype="float32").eval()
    found = soak.examined(engine, reference, 80, 11, 8)
    unload(REAL)
    assert not found.bad, found
    assert found.compared > 20 and found.alone == 8 and found.off < 1e-3


# -- trees


def tree(steps, node=(0, 0, 1), log_prob=(-1.0, -2.0, float("nan"))):
    count = len(steps)
    numbers = dict.fromkeys(slots.NUMBERS, [0.0] * count)
    return {
        "steps": steps,
        "before": [0, 0, 2][:count],
        "node": list(node)[:count],
        **numbers,
        "edge_log_prob": list(log_prob)[:count],
    }


def test_where_trees_part():
    one = tree([[1, 2], [3], [4, 5]])
    assert slots.difference(one, tree([[1, 2], [3], [4, 5]])) is None
    assert slots.difference(one, tree([[1, 2], [3], [4, 6]])) == slots.Difference("tokens", 2, 3)
    assert slots.difference(one, tree([[1, 2], [3]])) == slots.Difference("tokens", 2, 2)
    assert slots.difference(one, tree([[1, 2], [3], [4, 5]], node=(0, 1, 1))) == slots.Difference(
        "tokens", 1, 1
    )
    apart = slots.difference(one, tree([[1, 2], [3], [4, 5]], log_prob=(-1.0, -2.5, float("nan"))))
    assert apart == slots.Difference("edge_log_prob", 1, 1, 0.5)


@pytest.mark.thorough
def test_trees_for_any_number_of_slots(tmp_path, capsys, monkeypatch):
    tiny.model(max_position_embeddings=1024).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    out = tmp_path / "trees.json"
    options = {
        "count": 3,
        "tokens": 90,
        "run": ["mcts", "beam width=2 branch=2", "sample wave=3"],
        "out": out,
    }
    slots.main(tmp_path / "model", slots="16,2", **options)
    told = capsys.readouterr().out
    assert "| float32 | mcts | 2 | 3 |" in told and len(json.loads(out.read_text())["trees"]) == 6
    monkeypatch.setattr(slots, "grown", None)  # all are there
    slots.main(tmp_path / "model", slots="16,2", **options)
    assert capsys.readouterr().out == told
    kept = json.loads(out.read_text())
    kept["trees"]["float32 | mcts | 2"][1]["steps"][0][0] += 1
    out.write_text(json.dumps(kept))
    with pytest.raises(slots.typer.Exit):
        slots.main(tmp_path / "model", slots="16,2", **options)
    assert "| 1 | 1 | tokens at edge 0, token 0 |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="give another file"):
        slots.main(tmp_path / "model", slots="16,2", **{**options, "tokens": 91})


def test_a_search_that_fails_is_an_error_not_a_tree():
    def broken(request):
        raise RequestFailed("the model is gone")

    with pytest.raises(RequestFailed, match="gone"):
        slots.grown(fakes.scripted_guide(broken), slots.questions(None, 2, 0), "mcts", 50, 0)


def test_a_reading_is_compared_with_a_pass():
    engine = engine_of()
    (reply,) = tiny.answers(engine, [Score((65, 66, 67, 68), (3,), (1,))])
    assert soak.off(tiny.model(), reply) < 1e-4 < soak.off(tiny.model(seed=3), reply)
