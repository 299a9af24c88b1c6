"""Tiny random language models and a byte-level tokenizer, made in memory: what the tests of
`models` run on.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from models.checkpoints.heads import ValueHead

torch.set_num_threads(1)
SPECIAL = ["<eos>", "<|im_end|>"]


def tokenizer(
    merges: tuple[tuple[str, str], ...] = (), within_words: bool = True
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: 256 bytes, a token a merge (only within the words of GPT-2, or anywhere),
    two special tokens.
    """
    names = sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in merges]
    raw = Tokenizer(kinds.BPE({name: i for i, name in enumerate(names)}, list(merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=within_words)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=SPECIAL[0], pad_token=SPECIAL[0])


def model(kind: str = "llama", vocab: int = 258, seed: int = 0, spread: float = 0.2, **options):
    """A random model of 2 layers, 4 heads over 2 key heads, hidden size 32; `spread` of the
    weights makes its choices pointed.
    """
    settings = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": None,
        "initializer_range": spread,
    }
    classes = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        # scales its logits, which the engine does not know
        "cohere": (CohereConfig, CohereForCausalLM),
    }
    config, maker = classes[kind]
    torch.manual_seed(seed)
    made = maker(config(**(settings | options))).eval()
    made.generation_config.eos_token_id = made.config.eos_token_id
    return made


def head(hidden: int = 32, seed: int = 1) -> ValueHead:
    """A head with random weights."""
    made = ValueHead(hidden)
    torch.manual_seed(seed)
    torch.nn.init.normal_(made.weight, std=0.5)
    return made


def drain(engine, count: int, polls: int = 5000) -> list:
    """Poll until `count` replies are there."""
    replies = []
    for _ in range(polls):
        replies += engine.poll(0)
        if len(replies) >= count:
            return replies
    raise AssertionError(f"{len(replies)} of {count} replies after {polls} polls")


def answers(engine, requests) -> list:
    """The replies to requests, in their order."""
    for request in requests:
        engine.submit(request)
    by = {reply.request: reply for reply in drain(engine, len(requests))}
    return [by[request] for request in requests]
