"""A checkpoint's tokenizer by the `tokenizers` package alone: importing transformers costs as much
as a short search.

`Fast` has what Copse uses of transformers' tokenizers, under their names. Only what needs none of
transformers' own code is read here: a `tokenizer.json` that is complete, and a config that changes
nothing of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from models.checkpoints.chat_template import render

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
# transformers' classes that take tokenizer.json as it is
CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: what else may stand in the config and changes no token of a text
IDLE = {
    "added_tokens_decoder",
    "additional_special_tokens",
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",
    "extra_special_tokens",
    "is_local",
    "local_files_only",
    "max_length",
    "model_input_names",
    "model_max_length",
    "padding_side",
    "tokenizer_class",
    "truncation_side",
}
LARGE = 100_000  # tokens from which transformers may correct a checkpoint's regular expression


class Fast:
    """A tokenizer of a checkpoint's folder.

    backend_tokenizer    that of the `tokenizers` package
    chat_template        Jinja text, None: the model is no chat model
    bos_token, bos_token_id, eos_token, ...   of `NAMED`, None where the checkpoint has none
    """

    def __init__(self, folder: Path, named: dict[str, str], chat_template: str | None):
        self.folder = folder
        self.chat_template = chat_template
        self.backend_tokenizer = Tokenizer.from_file(str(folder / FILE))
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self._named = named
        for name in NAMED:
            token = named.get(name)
            number = None
            if token is not None:
                number = self.backend_tokenizer.token_to_id(token)
            setattr(self, name, token)
            setattr(self, f"{name}_id", number)

    @classmethod
    def open(cls, folder: Path) -> Fast | None:
        """The tokenizer in a folder; None where transformers must read it. Raises ValueError for
        a broken file.
        """
        try:
            config = json.loads((folder / CONFIG).read_text())
            whole = json.loads((folder / FILE).read_text())
        except FileNotFoundError:
            return None
        if not _plain(config, whole):
            return None
        named = {name: _content(config[name]) for name in NAMED if config.get(name) is not None}
        added = {token["content"] for token in whole["added_tokens"]}
        extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
        if isinstance(extra, dict):
            extra = extra.values()
        stated = (config.get("added_tokens_decoder") or {}).values()
        if not added.issuperset([*named.values(), *map(_content, [*extra, *stated])]):
            return None  # transformers would add the others
        template = config.get("chat_template")
        if (folder / TEMPLATE).exists():
            template = (folder / TEMPLATE).read_text()
        return cls(folder, named, template)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def get_vocab(self) -> dict[str, int]:
        """Names of all tokens and their ids."""
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Tokens that are found in a text before all others, by id: control tokens among them."""
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    @property
    def all_special_tokens(self) -> list[str]:
        """Names of the control tokens that the config names."""
        return list(dict.fromkeys(self._named.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        ids = map(self.backend_tokenizer.token_to_id, self.all_special_tokens)
        return [number for number in ids if number is not None]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; add_special_tokens: with those that the tokenizer puts around
        every text.
        """
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(
        self, tokens: Sequence[int], skip_special_tokens: bool = False, **options: Any
    ) -> str:
        """The text of tokens, nothing cleaned up."""
        return str(
            self.backend_tokenizer.decode(
                [int(t) for t in tokens], skip_special_tokens=skip_special_tokens
            )
        )

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """The name of a token."""
        return self.backend_tokenizer.id_to_token(int(token))

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **options: Any,
    ) -> str:
        """The chat as text (`models.checkpoints.chat_template`). Raises ValueError where there is
        no template, and for one that does not end.
        """
        assert not tokenize, "text is wanted of chats, and encoded by `encode`"
        if self.chat_template is None:
            raise ValueError(f"{self.folder} has no chat template: give a prompt of your own")
        given = {**self._named, **options, "add_generation_prompt": add_generation_prompt}
        return render(self.chat_template, messages, **given)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy its files."""
        for name in (FILE, CONFIG, TEMPLATE):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, Path(folder) / name)


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _plain(config: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether nothing but what stands in tokenizer.json decides which tokens a text has."""
    given = {name for name, value in config.items() if value not in (None, False)}
    if config.get("tokenizer_class") not in CLASSES or whole.get("post_processor") is None:
        return False
    if given - IDLE - {*NAMED} or not isinstance(config.get("chat_template"), str | None):
        return False
    return len(whole["model"]["vocab"]) + len(whole["added_tokens"]) <= LARGE
