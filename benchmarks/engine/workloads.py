"""What the benchmark of the engine runs: random models, a tokenizer without an end, prompts, and
three ways to continue them.

The small model is the Llama of 4.9 million parameters that decoding is compared on (width 256, 6
layers of 8 heads, vocabulary 256). Its matrices are drawn wider than usual, so that the likeliest
token is beyond doubt and all ways must give the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from benchmarks.processes.watch import Watch
from models import Engine
from search.scheduling.requests import Generate, Reply

VOCABULARY = 256
SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 688,
}
# tokens of a page of continuous batching; with its default of 256 a short text fills a page, which
# costs memory only
PAGE = 32
PASS_TOKENS = 1024  # of continuous batching
#: int64 [sequences, prompt] -> int64 [sequences, new]
Continue = Callable[[torch.Tensor], torch.Tensor]


def small_model(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A Llama with random weights, the same every time; `options` of its configuration go before
    `SMALL`.
    """
    settings = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings | ends | SMALL | options))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(0, 0.06)
    return model.to(dtype).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """The 256 bytes and nothing else: no token ends a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(kinds.BPE(dict(zip(letters, range(len(letters)), strict=True)), []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def prompts(count: int, length: int, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """int64 [count, length], random, without token 0, which pads."""
    return torch.randint(
        1, vocabulary, (count, length), generator=torch.Generator().manual_seed(count)
    )


def drained(engine: Engine, requests: Sequence[Any]) -> list[Reply]:
    """The replies to requests, in their order. Raises what a reply failed with."""
    for request in requests:
        engine.submit(request)
    found: dict[Any, Reply] = {}
    while len(found) < len(requests):
        for reply in engine.poll(0):
            if reply.error is not None:
                raise reply.error
            found[reply.request] = reply
    return list(map(found.__getitem__, requests))


def by_generate(model: Any, new: int) -> Continue:
    """`generate` of transformers with its default cache."""

    def run(ids: torch.Tensor) -> torch.Tensor:
        given = {
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": new,
            "min_new_tokens": new,
            "do_sample": False,
        }
        return model.generate(ids, **given)[:, ids.shape[1] :]

    return run


def by_continuous_batching(model: Any, new: int) -> Continue:
    """`generate_batch` of transformers, with a pool that holds the batch and not much more: its
    default fills gigabytes first.
    """
    options = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)

    def run(ids: torch.Tensor) -> torch.Tensor:
        blocks = len(ids) * -(-(ids.shape[1] + new) // PAGE) + 8
        sizes = ContinuousBatchingConfig(
            num_blocks=blocks, page_size=PAGE, max_batch_tokens=PASS_TOKENS
        )
        found = model.generate_batch(
            inputs=ids.tolist(), generation_config=options, continuous_batching_config=sizes,
            progress_bar=False
        )  # fmt: skip
        names = sorted(found, key=lambda name: int(name.rpartition("_")[2]))
        return torch.tensor([list(found[name].generated_tokens)[:new] for name in names])

    return run


class ByEngine:
    """Our engine, one slot a sequence. Before another call `forget`, else it finds all texts
    read.
    """

    def __init__(self, model: Any, new: int, slots: int):
        self.new = new
        self.engine = Engine(model, tokenizer(), slots=slots)
        self.replies: list[Reply] = []

    def forget(self) -> None:
        """Nothing that was read stays."""
        self.engine.clear()

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        requests = [
            Generate(tuple(prompt), max_tokens=self.new, temperature=0) for prompt in ids.tolist()
        ]
        self.replies = drained(self.engine, requests)
        return torch.tensor(list(map(attrgetter("result.tokens"), self.replies)))


def interleaved(
    runs: dict[str, Callable[[], Any]], rounds: int, before: dict[str, Callable[[], None]]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Each run once to warm up, then all of them in turn. before: what is done before a run of that
    name, untimed.

    Returns the medians of `seconds` and `cpu` by name, with all that was measured in `each`; and
    what the first calls returned.
    """
    first: dict[str, Any] = {}
    taken: dict[str, list[dict[str, float]]] = {}
    for name, run in runs.items():
        first[name] = run()
        taken[name] = []
    for _ in range(rounds):
        for name, run in runs.items():
            if name in before:
                before[name]()
            watch = Watch()
            run()
            taken[name].append(watch.read())
    medians: dict[str, dict[str, Any]] = {}
    for name, each in taken.items():
        medians[name] = {
            "seconds": statistics.median(map(itemgetter("seconds"), each)),
            "cpu": statistics.median(map(itemgetter("cpu"), each)),
            "each": each,
        }
    return medians, first


def agreement(tokens: torch.Tensor, others: torch.Tensor) -> float:
    """Share of equal tokens, in [0, 1]."""
    return float((tokens == others).float().mean())
