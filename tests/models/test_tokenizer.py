"""Tokenizers without transformers: the same tokens and texts as theirs, and none where they
would make others.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tokenizer as tiny_tokenizer
from transformers import AutoTokenizer

from models.checkpoints.tokenizer import NAMED, Fast

BUILTIN = Path(__file__).resolve().parent.parent.parent / "models" / "builtin"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}{{ "
    "eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
PIECES = ["<|im_end|>", "<eos>", "\u2402", "8*3=24", "\n", " ", "12", "\u6f22", "\U0001f600"]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES)).map("".join)


def folders() -> list[Path]:
    """Checkpoints whose tokenizers are read here, real ones where there are some."""
    real = Path(os.environ["COPSE_TEST_MODELS"]) if os.environ.get("COPSE_TEST_MODELS") else None
    found = (
        []
        if real is None
        else [folder for folder in sorted(real.iterdir()) if (folder / "tokenizer.json").exists()]
    )
    return [BUILTIN, *found]


def pair(folder: Path):
    return Fast.open(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    """The folder of a tiny chat model's tokenizer."""
    folder, made = tmp_path_factory.mktemp("chat"), tiny_tokenizer()
    made.chat_template = CHAT
    made.save_pretrained(folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    return folder


def changed(folder: Path, to: Path, **config) -> Path:
    """A copy with another tokenizer_config.json."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    before = json.loads((folder / "tokenizer_config.json").read_text())
    (to / "tokenizer_config.json").write_text(json.dumps(before | config))
    return to


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_real_tokenizers_are_as_by_transformers(folder: Path) -> None:
    own, theirs = pair(folder)
    if own is None:
        pytest.skip("transformers reads this one")
    compare(own, theirs)


def test_a_chat_models_tokenizer_is_as_by_transformers(chat: Path) -> None:
    own, theirs = pair(chat)
    compare(own, theirs)
    talk = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi"}]
    for begin in (True, False):
        rendered = own.apply_chat_template(talk, add_generation_prompt=begin, tokenize=False)
        assert rendered == theirs.apply_chat_template(
            talk, add_generation_prompt=begin, tokenize=False
        )
    assert "<eos>" in rendered


def compare(own, theirs) -> None:
    for name in (
        *NAMED,
        *(f"{name}_id" for name in NAMED),
        "all_special_tokens",
        "all_special_ids",
        "chat_template",
    ):
        assert getattr(own, name) == getattr(theirs, name), name
    assert len(own) == len(theirs) and own.get_vocab() == theirs.get_vocab()
    added = [
        {i: (t.content, t.special) for i, t in one.added_tokens_decoder.items()}
        for one in (own, theirs)
    ]
    assert added[0] == added[1]
    assert all(
        own.convert_ids_to_tokens(i) == theirs.convert_ids_to_tokens(i)
        for i in range(0, len(own), max(1, len(own) // 500))
    )

    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    def same(text: str) -> None:
        for special in (True, False):
            assert own.encode(text, add_special_tokens=special) == theirs.encode(
                text, add_special_tokens=special
            )
        tokens = own.encode(text)
        for skip in (True, False):
            decoded = theirs.decode(
                tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            assert own.decode(tokens, skip_special_tokens=skip) == decoded

    same()


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"add_bos_token": True},
        {"add_prefix_space": True},
        {"bos_token": "<a token that is not there>"},
        {"extra_special_tokens": ["<another>"]},
        {"chat_template": [{"name": "default", "template": CHAT}]},
    ],
    ids=lambda config: next(iter(config)),
)
def test_what_changes_a_tokenizer_is_left_to_transformers(
    chat: Path, tmp_path: Path, config: dict
) -> None:
    assert Fast.open(chat) is not None and Fast.open(changed(chat, tmp_path, **config)) is None


def test_folders_without_its_files_are_left_to_transformers(chat: Path, tmp_path: Path) -> None:
    assert Fast.open(tmp_path) is None
    folder = changed(chat, tmp_path)
    (folder / "tokenizer_config.json").unlink()
    assert Fast.open(folder) is None


def test_a_copy_is_whole(chat: Path, tmp_path: Path) -> None:
    own = Fast.open(chat)
    own.save_pretrained(tmp_path)
    again = Fast.open(tmp_path)
    assert again.get_vocab() == own.get_vocab() and again.chat_template == own.chat_template == CHAT


def test_a_chat_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        Fast.open(BUILTIN).apply_chat_template([{"role": "user", "content": "Hi"}])
