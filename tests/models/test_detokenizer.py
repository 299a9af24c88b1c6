"""Text grows with the tokens exactly as the tokenizer would decode them, whatever its kind."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from models.detokenizer import Tail, Texts, end_tokens


def pieces(strip: bool) -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece makes them: words with a leading mark, bytes for the rest."""
    names = [
        "<unk>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "a",
        "b",
        "é",
        "\n",
        "▁a",
        "▁b",
        "ab",
    ]
    raw = Tokenizer(
        kinds.BPE(
            {n: i for i, n in enumerate(names)},
            [("▁", "a"), ("▁", "b"), ("a", "b")],
            byte_fallback=True,
        )
    )
    raw.normalizer = normalizers.Replace(" ", "▁")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if strip else []))
    raw.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


def words() -> PreTrainedTokenizerFast:
    """Whole words and characters that are simply joined."""
    names = ["\ufffd", "Use", "and", *map(chr, range(32, 127)), "\n", *map(str, range(10, 40))]
    raw = Tokenizer(kinds.WordLevel({n: i for i, n in enumerate(names)}, unk_token="\ufffd"))
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="\ufffd")


KINDS = {
    "bytes": (tiny.tokenizer((("a", "b"), ("Ċ", "Ċ"))), True),
    "pieces": (pieces(False), True),
    "stripped pieces": (pieces(True), False),
    "words": (words(), True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_what_the_tokenizer_decodes(kind):
    tokenizer, independent = KINDS[kind]
    texts, rng = Texts(tokenizer), np.random.default_rng(0)
    assert texts.independent == independent
    plain = [
        i
        for i in range(len(tokenizer))
        if "\ufffd" not in tokenizer.decode([i]) and i not in texts.ends
    ]
    for _ in range(60):
        prompt, tokens = (tuple(rng.choice(plain, n).tolist()) for n in (6, 12))
        tail = Tail(texts, (), prompt)
        assert not any(tail.add(token) for token in tokens)
        before, whole = (
            tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            for ids in (prompt, prompt + tokens)
        )
        assert before + tail.text == whole


@pytest.mark.parametrize("kind", KINDS)
def test_stop_over_tokens_and_leading_spaces(kind):
    tokenizer, _ = KINDS[kind]
    texts = Texts(tokenizer)
    ids = [
        tokenizer.convert_tokens_to_ids(n)
        for n in {"bytes": "ĠaĊbab", "words": " a\nbab"}.get(kind, "▁a\nbab")
    ]
    tail = Tail(texts, ("\nba", "zz"), (ids[1],))
    found = next(i for i, token in enumerate(ids) if tail.add(token) == "stop")
    assert found == 4 and tail.text == " a"


def test_first_stop_wins_and_bytes_make_characters():
    tokenizer = tiny.tokenizer((("Ċ", "Ċ"),))
    texts = Texts(tokenizer)
    tail = Tail(texts, ("\n\n", "é\n"), ())
    ends = [tail.add(t) for t in tokenizer.encode("xé\n\n")]
    assert ends == [None, None, None, "stop"] and tail.text == "x"
    tail = Tail(texts, (), ())
    assert tail.add(tokenizer.encode("é")[0]) is None and tail.text == "", (
        "a character that is cut is left out"
    )
    assert tail.add(tokenizer.encode("é")[1]) is None and tail.text == "é"
    assert tail.add(tokenizer.eos_token_id) == "end" and tail.text == "é"


@pytest.mark.parametrize("kind", ["bytes", "pieces", "stripped pieces"])
def test_a_text_that_is_cut_anywhere_is_whole_when_joined(kind):
    tokenizer, _ = KINDS[kind]
    texts, whole = Texts(tokenizer), "añ→🙂 é𝄞🙂🙂b"
    prompt = tuple(tokenizer.encode("ab", add_special_tokens=False))
    tokens = tuple(tokenizer.encode(whole, add_special_tokens=False))
    assert len(tokens) > len(whole), "characters of several tokens"
    told = texts.decode((*prompt, *tokens))[len(texts.decode(prompt)) :]
    for size in (1, 2, 3, 5):
        text = ""
        for at in range(0, len(tokens), size):
            tail = Tail(texts, ("\n\n",), (*prompt, *tokens[:at]))
            assert not any(tail.add(token) for token in tokens[at : at + size])
            text += tail.text
        assert text == told and "\ufffd" not in text


def test_a_character_that_never_comes_is_told():
    """At the end of a text, and where the next token is none of its bytes."""
    tokenizer = tiny.tokenizer()
    texts, (first, second) = Texts(tokenizer), tokenizer.encode("é")
    tail = Tail(texts, (), ())
    assert (
        tail.add(first) is None
        and tail.add(tokenizer.eos_token_id) == "end"
        and tail.text == "\ufffd"
    )
    tail = Tail(texts, (), (first,))
    assert tail.add(tokenizer.encode("x")[0]) is None and tail.text == "\ufffdx"
    tail = Tail(texts, (), (first, second))
    assert tail.add(tokenizer.encode("x")[0]) is None and tail.text == "x"


def test_end_tokens_come_from_everywhere():
    model = tiny.model()
    model.generation_config.eos_token_id = [3, 4]
    model.config.eos_token_id = 5
    assert end_tokens(tiny.tokenizer(), model) == {256, 3, 4, 5}
