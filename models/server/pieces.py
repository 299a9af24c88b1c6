"""A stand-in for a tokenizer that nobody has: that of a hosted model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from models.server.conversation import TEMPLATE, render

_PIECE = re.compile(r" ?\w{1,6}|\s+|[^\w\s]")
SIZE = 2**31 - 1  # ids fit into 32 bits


class Pieces:
    """Speaks like a tokenizer of transformers, for chat servers alone: text goes there and comes
    back, and no ids do.

    Where the server tells the tokens of a text, one by one, each of them is a token here, too;
    other text is cut into words of up to six letters. An id is a hash of its piece, so that it
    depends on nothing else.
    """

    chat_template = TEMPLATE
    eos_token_id = 0
    all_special_ids = (0,)

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {0: b""}

    def __len__(self) -> int:
        return SIZE

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of the pieces of a text."""
        return self.ids(piece.encode("utf-8", "replace") for piece in _PIECE.findall(text))

    def ids(self, pieces: Iterable[bytes]) -> list[int]:
        """Ids of pieces as they are, parts of characters among them."""
        return [self._id(piece) for piece in pieces]

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text of ids that were given here."""
        return b"".join(self._pieces[int(i)] for i in ids).decode("utf-8", "replace")

    def apply_chat_template(
        self,
        messages: Any,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **other: Any,
    ) -> str:
        """A conversation as text, with the marks of `conversation`."""
        return render(messages, add_generation_prompt)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.decode([token])

    def _id(self, piece: bytes) -> int:
        number = 1 + int.from_bytes(hashlib.blake2b(piece, digest_size=8).digest()) % (SIZE - 1)
        while self._pieces.setdefault(number, piece) != piece:  # two pieces with one hash
            number = 1 + number % (SIZE - 1)
        return number
