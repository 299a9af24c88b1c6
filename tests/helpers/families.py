"""Tiny random checkpoints of the model families that the engine serves, and which forward pass it
should choose for each.

One table, `FAMILIES`: head sizes that are no power of two and 64, grouped queries, tied and untied
embeddings, windows below the text, partial rotary embeddings, biases. Weights are random from a
fixed seed, choices are pointed enough for greedy tokens to be beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

LAYERS, VOCAB, WINDOW, LONGEST = 3, 258, 13, 256
COMMON = {
    "vocab_size": VOCAB,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 48,
    "max_position_embeddings": LONGEST,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}
# four query heads share one of keys, of size 24
FOURS = {"hidden_size": 96, "num_attention_heads": 4, "num_key_value_heads": 1}
PAIRS = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """path: the forward that should serve it on a CPU in float32; maker: the prefix of its
    classes; options: of its configuration.
    """

    path: str
    maker: str
    options: dict[str, Any] = field(default_factory=dict)
    spread: float = 0.12


GEMMA = FOURS | {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}
ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 500.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 12,
    "long_factor": [3.0] * 12,
}
LONG |= {"original_max_position_embeddings": 20}
FAMILIES = {
    "llama": Family("lean", "Llama", FOURS),
    "llama tied": Family(
        "lean", "Llama", FOURS | {"head_dim": 64, "tie_word_embeddings": True}, 0.1
    ),
    "llama biased": Family("lean", "Llama", PAIRS | {"attention_bias": True, "mlp_bias": True}),
    "llama linear": Family(
        "lean",
        "Llama",
        PAIRS | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "llama yarn": Family("lean", "Llama", PAIRS | {"rope_parameters": YARN}),
    "qwen2": Family("lean", "Qwen2", FOURS),
    "qwen2 tied": Family("lean", "Qwen2", PAIRS | {"tie_word_embeddings": True}, 0.1),
    "qwen2 window": Family(
        "lean",
        "Qwen2",
        FOURS | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": Family("lean", "Qwen3", PAIRS | {"head_dim": 24}),
    "qwen3 tied": Family(
        "lean", "Qwen3", FOURS | {"head_dim": 64, "tie_word_embeddings": True}, 0.1
    ),
    "mistral": Family("lean", "Mistral", FOURS | {"sliding_window": None}),
    "mistral window": Family("lean", "Mistral", PAIRS | {"head_dim": 24, "sliding_window": WINDOW}),
    "gemma3": Family(
        "modules",
        "Gemma3",
        GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        0.1,
    ),
    "gemma3 ropes": Family(
        "modules",
        "Gemma3",
        PAIRS
        | {
            "head_dim": 64,
            "query_pre_attn_scalar": 50,
            "sliding_window": WINDOW,
            "rope_parameters": ROPES,
        }
        | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
        0.1,
    ),
    "phi3": Family("modules", "Phi3", FOURS | {"pad_token_id": 0}),
    "phi3 window": Family(
        "modules",
        "Phi3",
        PAIRS
        | {"pad_token_id": 0, "sliding_window": WINDOW}
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    "phi": Family(
        "modules",
        "Phi",
        FOURS
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    "phi norms": Family("modules", "Phi", PAIRS | {"qk_layernorm": True}),
    "gpt2": Family(
        "modules", "GPT2", {"n_embd": 96, "n_head": 4, "n_layer": LAYERS, "n_positions": LONGEST}
    ),
    # scales its logits, which the engine does not know
    "cohere": Family("plain", "Cohere", PAIRS | {"pad_token_id": 0}),
}
CLASSES = {
    "GPT2": ("GPT2Config", "GPT2LMHeadModel"),
    "Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
}


def model(name: str, **options: Any) -> Any:
    """The family's model; `options` go before the table's."""
    family = FAMILIES[name]
    config, maker = CLASSES.get(
        family.maker, (f"{family.maker}Config", f"{family.maker}ForCausalLM")
    )
    torch.manual_seed(0)
    made = getattr(transformers, config)(
        **COMMON | {"initializer_range": family.spread} | family.options | options
    )
    made = getattr(transformers, maker)(made).eval()
    with torch.no_grad():
        for key, weights in made.named_parameters():
            # norms and biases are made as ones and zeros, which would hide that they are left out
            if weights.dim() == 1:
                weights.add_(torch.randn_like(weights) * 0.1)
            assert weights.isfinite().all(), key
    made.generation_config.eos_token_id = made.config.eos_token_id
    return made


def forward(made: Any, tokens: tuple[int, ...]) -> tuple[Any, torch.Tensor]:
    """Of a whole text in one pass, without a cache: logits float32 [tokens, vocabulary] (numpy),
    last hidden states [tokens, hidden].
    """
    with torch.inference_mode():
        out = made(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    return out.logits[0].float().numpy(), out.hidden_states[-1][0]
